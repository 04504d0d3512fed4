//! Notifications as text for people.

use serde_json::Value;

/// Characters of a line that are shown.
const LINE_CHARS: usize = 200;

/// The text for a notification.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Words {
    /// What the turn is doing.
    pub(crate) phase: Option<String>,
    /// Lines to print.
    pub(crate) lines: Vec<String>,
}

impl Words {
    fn phase(text: impl Into<String>) -> Words {
        Words { phase: Some(text.into()), lines: Vec::new() }
    }

    fn line(text: impl Into<String>) -> Words {
        Words { phase: Some("working".to_owned()), lines: vec![text.into()] }
    }
}

/// Returns the text for a notification.
pub(crate) fn of(method: &str, params: &Value) -> Words {
    let text = |value: &Value| plain(value.as_str().unwrap_or_default());
    match method {
        "turn/started" => Words::phase("thinking"),
        "item/started" => started(&params["item"]),
        "item/completed" => completed(&params["item"]),
        "error" => {
            let message = text(&params["error"]["message"]);
            if params["willRetry"] == true {
                Words::line(format!("error, trying again: {message}"))
            } else {
                // The end of the turn reports it.
                Words::phase("failing")
            }
        }
        "warning" | "guardianWarning" => Words::line(format!("warning: {}", text(&params["message"]))),
        "model/rerouted" => Words::line(format!("model: {}", text(&params["toModel"]))),
        "turn/plan/updated" => {
            let steps = params["plan"].as_array().into_iter().flatten();
            let lines = steps.map(|step| {
                let mark = match step["status"].as_str() {
                    Some("completed") => "x",
                    Some("inProgress") => ">",
                    _ => " ",
                };
                format!("plan: [{mark}] {}", text(&step["step"]))
            });
            Words { phase: None, lines: lines.collect() }
        }
        _ => Words::default(),
    }
}

fn started(item: &Value) -> Words {
    let text = |name: &str| plain(item[name].as_str().unwrap_or_default());
    match item["type"].as_str().unwrap_or_default() {
        "reasoning" => Words::phase("thinking"),
        "agentMessage" => Words::phase("writing"),
        "commandExecution" => Words::phase(format!("running {}", command(item))),
        "fileChange" => Words::phase("changing files"),
        "mcpToolCall" => Words::phase(format!("calling {}.{}", text("server"), text("tool"))),
        "webSearch" => Words::phase("searching the web"),
        "collabAgentToolCall" | "subAgentActivity" => Words::phase("waiting for a sub-agent"),
        "contextCompaction" => Words::phase("compacting the context"),
        "enteredReviewMode" => Words::phase("reviewing"),
        _ => Words::default(),
    }
}

fn completed(item: &Value) -> Words {
    let text = |name: &str| plain(item[name].as_str().unwrap_or_default());
    match item["type"].as_str().unwrap_or_default() {
        "commandExecution" => {
            let end = match (item["exitCode"].as_i64(), item["status"].as_str()) {
                (Some(0), _) => String::new(),
                (Some(code), _) => format!(" (exit {code})"),
                (None, Some(status)) => format!(" ({status})"),
                (None, None) => String::new(),
            };
            Words::line(format!("$ {}{end}", command(item)))
        }
        "fileChange" => {
            let refused = match item["status"].as_str() {
                Some(status @ ("failed" | "declined")) => format!(" ({status})"),
                _ => String::new(),
            };
            let changes = item["changes"].as_array().into_iter().flatten();
            let lines = changes.map(|change| {
                let verb = match change["kind"]["type"].as_str() {
                    Some("add") => "added",
                    Some("delete") => "deleted",
                    _ => "changed",
                };
                format!("{verb} {}{refused}", plain(change["path"].as_str().unwrap_or_default()))
            });
            Words { phase: Some("working".to_owned()), lines: lines.collect() }
        }
        // The final answer goes to stdout.
        "agentMessage" if item["phase"] == "commentary" => Words::line(text("text")),
        "mcpToolCall" => Words::line(format!("{}.{} ({})", text("server"), text("tool"), text("status"))),
        "webSearch" => Words::line(format!("searched the web: {}", text("query"))),
        "plan" => Words::line(format!("plan: {}", text("text"))),
        "collabAgentToolCall" => Words::line(format!("sub-agent: {} ({})", text("tool"), text("status"))),
        "contextCompaction" => Words::line("compacted the context"),
        _ => Words::default(),
    }
}

/// Returns the command without the login shell in which codex runs it.
fn command(item: &Value) -> String {
    let command = item["command"].as_str().unwrap_or_default();
    let inner = ["/bin/bash -lc ", "/bin/zsh -lc ", "bash -lc ", "/bin/sh -c "]
        .iter()
        .find_map(|shell| command.strip_prefix(shell))
        .map(|inner| inner.strip_prefix('\'').and_then(|it| it.strip_suffix('\'')).unwrap_or(inner));
    plain(inner.unwrap_or(command))
}

/// Returns a text as one line without control characters, shortened.
pub(crate) fn plain(text: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    words.extend(text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()));
    let line = words.join(" ");
    match line.char_indices().nth(LINE_CHARS) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_but_text() {
        assert_eq!(plain("a\u{1b}[31m\nb\t\u{7}c\u{9b}d"), "a [31m b c d");
        assert_eq!(plain(&"é".repeat(300)).chars().count(), LINE_CHARS + 3);
        assert_eq!(plain(" \n "), "");
    }

    #[test]
    fn a_command_is_shown_with_its_end() {
        let item = |code: Value, status: &str| {
            let command = "/bin/bash -lc 'echo a'";
            let item =
                json!({"type": "commandExecution", "command": command, "exitCode": code, "status": status});
            of("item/completed", &json!({"item": item})).lines
        };
        assert_eq!(item(json!(0), "completed"), ["$ echo a"]);
        assert_eq!(item(json!(3), "failed"), ["$ echo a (exit 3)"]);
        assert_eq!(item(json!(null), "declined"), ["$ echo a (declined)"]);
    }

    #[test]
    fn changes_of_files_have_a_line_each() {
        let changes =
            json!([{"path": "/a", "kind": {"type": "add"}}, {"path": "/b", "kind": {"type": "update"}}]);
        let item = json!({"type": "fileChange", "changes": changes, "status": "completed"});
        assert_eq!(of("item/completed", &json!({"item": item})).lines, ["added /a", "changed /b"]);
    }

    #[test]
    fn only_remarks_are_shown_of_messages() {
        let item = |phase: &str| {
            let item = json!({"type": "agentMessage", "phase": phase, "text": "so far"});
            of("item/completed", &json!({"item": item})).lines
        };
        assert_eq!(item("commentary"), ["so far"]);
        assert_eq!(item("final_answer"), [""; 0]);
    }
}
