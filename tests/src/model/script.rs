//! From a request to what the model shall do: the markers of the prompt, read once and checked.

use std::time::Duration;

use serde_json::{Value, json};

use super::Shared;
use crate::marker::{Marker, markers, without_markers};

/// The markers that are calls of tools.
const TOOLS: [&str; 7] = ["shell", "write", "plan", "ask", "spawn", "call", "custom"];

/// What the model does with one request.
#[derive(Debug)]
pub(super) struct Script {
    /// Answer with this HTTP status and nothing else.
    pub(super) http_error: Option<u16>,
    /// Say nothing after `response.created`.
    pub(super) hang: bool,
    /// Output items that call tools; when there are some, they are the whole answer.
    pub(super) calls: Vec<Value>,
    /// Wait before the answer.
    pub(super) stall: Duration,
    /// Wait before the answer until so many requests have come to the meeting of this name.
    pub(super) meet: Option<(String, usize)>,
    /// The gate before the end of the final answer.
    pub(super) gate: Option<String>,
    /// Code of `response.failed`.
    pub(super) fail: Option<String>,
    /// Number of deltas of a reasoning summary, and the time between two.
    pub(super) reasoning: Option<(usize, Duration)>,
    /// Text of a message before the final one.
    pub(super) commentary: Option<String>,
    /// Deltas of the final answer.
    pub(super) deltas: Vec<String>,
    /// Time between two deltas.
    pub(super) pause: Duration,
    /// Cut the connection after this many deltas.
    pub(super) drop_after: Option<usize>,
    /// Reason of `response.incomplete`.
    pub(super) incomplete: Option<String>,
    /// Tokens to report in total.
    pub(super) usage: u64,
}

impl Script {
    /// Reads the script of a request.
    ///
    /// # Errors
    ///
    /// A sentence about the marker that cannot be read.
    pub(super) fn of(request: &Value, shared: &Shared) -> Result<Script, String> {
        let (prompt, step) = last_prompt(request);
        let marks = markers(&prompt);
        let first = |kind: &str| marks.iter().find(|mark| mark.kind == kind);
        let argument = |kind: &str| first(kind).map(|mark| mark.argument.clone());
        let tools: Vec<&Marker> = marks.iter().filter(|mark| TOOLS.contains(&mark.kind.as_str())).collect();

        let attempt = shared.attempt(&prompt, request["input"].as_array().map_or(0, Vec::len));
        // A failure belongs to the final answer and, when a number of times is given, to so many attempts.
        let failing = |kind: &str| -> Result<Option<&Marker>, String> {
            let Some(mark) = first(kind) else { return Ok(None) };
            let times = mark.number(1, u32::MAX)?;
            Ok((step >= tools.len() && attempt <= times).then_some(mark))
        };

        let end = if first("parallel").is_some() { tools.len() } else { (step + 1).min(tools.len()) };
        let calls = tools
            .get(step..end)
            .unwrap_or_default()
            .iter()
            .map(|mark| tool_call(&mark.kind, &mark.argument, shared))
            .collect::<Result<_, _>>()?;

        let pair = |mark: &Marker, count: usize| -> Result<(usize, Duration), String> {
            Ok((mark.number(0, count)?, Duration::from_millis(mark.number(1, 0)?)))
        };
        let (deltas, pause) = match (first("say"), first("deltas")) {
            (Some(mark), _) => {
                let (_, text) = mark.argument.split_once(':').unwrap_or_default();
                (words(text), Duration::from_millis(mark.number(0, 0)?))
            }
            (None, mark) => {
                let (count, pause) = mark.map_or(Ok((3, Duration::ZERO)), |mark| pair(mark, 3))?;
                let mut tail = format!("| echo: {}", last_chars(&without_markers(&prompt), 80));
                if let Some(mark) = first("bytes") {
                    tail.push_str(&"x".repeat(mark.number(0, 0)?));
                }
                ((0..count).map(|index| format!("tok{index} ")).chain([tail]).collect(), pause)
            }
        };
        Ok(Script {
            http_error: match failing("http")? {
                Some(mark) => Some(mark.number(0, 500)?),
                None => None,
            },
            hang: first("hang").is_some(),
            calls,
            stall: match first("stall") {
                Some(mark) => seconds(&mark.argument)?,
                None => Duration::ZERO,
            },
            meet: first("meet").map(|mark| meeting(mark, shared)).transpose()?,
            gate: argument("gate").or_else(|| {
                let held = shared.held.lock();
                held.iter().find(|text| prompt.contains(text.as_str())).cloned()
            }),
            fail: failing("fail")?.and_then(|mark| mark.part(0)).map(str::to_owned),
            reasoning: first("reasoning").map(|mark| pair(mark, 1)).transpose()?,
            commentary: argument("commentary"),
            deltas,
            pause,
            drop_after: failing("drop")?.map(|mark| mark.number(0, 0)).transpose()?,
            incomplete: argument("incomplete"),
            usage: match first("usage") {
                Some(mark) => mark.number(0, 15)?,
                None => 15,
            },
        })
    }
}

/// Returns the text of the last user message and the number of tool outputs after it.
///
/// A sub-agent's task may come as a message of another agent; it counts when it carries markers.
pub(super) fn last_prompt(request: &Value) -> (String, usize) {
    let (mut prompt, mut outputs) = (String::new(), 0);
    for item in request["input"].as_array().map(Vec::as_slice).unwrap_or_default() {
        match (item["type"].as_str().unwrap_or_default(), item["role"].as_str().unwrap_or_default()) {
            ("message", "user") => (prompt, outputs) = (text_of(item), 0),
            ("function_call_output" | "custom_tool_call_output", _) => outputs += 1,
            (kind @ ("agent_message" | "message"), role)
                if kind == "agent_message" || (role == "assistant" && !item["author"].is_null()) =>
            {
                let text = text_of(item);
                if text.contains("[[") || text.contains("{{") {
                    (prompt, outputs) = (text, 0);
                }
            }
            _ => {}
        }
    }
    (prompt, outputs)
}

fn text_of(item: &Value) -> String {
    match &item["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    }
}

/// Makes the output item that calls a tool.
fn tool_call(kind: &str, argument: &str, shared: &Shared) -> Result<Value, String> {
    let call_id = shared.unique("call");
    let function = |name: &str, arguments: String| {
        let mut item = json!({"type": "function_call", "id": shared.unique("fc"), "call_id": call_id,
                              "name": name, "arguments": arguments});
        if let Some((namespace, name)) = name.split_once('.') {
            item["namespace"] = json!(namespace);
            item["name"] = json!(name);
        }
        item
    };
    let custom = |name: &str, input: &str| {
        json!({"type": "custom_tool_call", "id": shared.unique("ctc"), "call_id": call_id,
               "status": "completed", "name": name, "input": input})
    };
    let (head, rest) = argument.split_once(':').unwrap_or((argument, ""));
    Ok(match kind {
        "shell" => {
            let mut parts = argument.split(";;");
            let mut arguments = json!({"cmd": parts.next().unwrap_or_default()});
            for pair in parts {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                arguments[key.trim()] = serde_json::from_str(value)
                    .map_err(|error| format!("`{value}` in the marker `[[shell:{argument}]]`: {error}"))?;
            }
            function("exec_command", arguments.to_string())
        }
        "write" => {
            let lines: String = rest.split('\n').map(|line| format!("+{line}\n")).collect();
            custom("apply_patch", &format!("*** Begin Patch\n*** Add File: {head}\n{lines}*** End Patch\n"))
        }
        "plan" => {
            let steps: Vec<Value> = argument
                .split('|')
                .enumerate()
                .map(|(index, step)| {
                    json!({"step": step, "status": if index == 0 { "in_progress" } else { "pending" }})
                })
                .collect();
            function("update_plan", json!({"plan": steps}).to_string())
        }
        "ask" => {
            let question = if argument.is_empty() { "Which one?" } else { argument };
            let options =
                json!([{"label": "Yes", "description": "first"}, {"label": "No", "description": "second"}]);
            let asked = json!({"id": "q1", "header": "Question", "question": question, "options": options});
            function("request_user_input", json!({"questions": [asked]}).to_string())
        }
        "spawn" => {
            let prompt = argument.replace("{{", "[[").replace("}}", "]]");
            function("multi_agent_v1.spawn_agent", json!({"message": prompt}).to_string())
        }
        "call" => function(head, if rest.is_empty() { "{}".to_owned() } else { rest.to_owned() }),
        _ => custom(head, rest),
    })
}

/// Notes that a request has come to a meeting, and returns which one and how many are to come.
fn meeting(mark: &Marker, shared: &Shared) -> Result<(String, usize), String> {
    let name = mark.part(0).ok_or("the marker `meet` needs a name")?.to_owned();
    let size = mark.number(1, 2)?;
    shared.meetings.send_modify(|meetings| *meetings.entry(name.clone()).or_default() += 1);
    Ok((name, size))
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| format!("`{text}` in the marker `[[stall:{text}]]` is not a number of seconds"))
}

/// Cuts a text after each space.
fn words(text: &str) -> Vec<String> {
    text.split_inclusive(' ').map(str::to_owned).collect()
}

fn last_chars(text: &str, count: usize) -> &str {
    match text.char_indices().rev().nth(count.saturating_sub(1)) {
        Some((start, _)) => &text[start..],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(items: Value) -> Value {
        json!({"input": items})
    }

    fn user(text: &str) -> Value {
        json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]})
    }

    fn output() -> Value {
        json!({"type": "function_call_output", "call_id": "c", "output": ""})
    }

    fn script(request: &Value) -> Script {
        Script::of(request, &Shared::default()).unwrap()
    }

    #[test]
    fn the_last_user_message_counts_and_the_tool_outputs_behind_it() {
        let items = json!([user("[[hang]]"), output(), user("two"), output(), output()]);
        assert_eq!(last_prompt(&request(items)), ("two".to_owned(), 2));
    }

    #[test]
    fn tools_are_called_one_by_one_and_then_the_answer_comes() {
        let prompt = "[[shell:echo a]] [[plan:x|y]] bye";
        let names = |outputs: usize| -> Vec<String> {
            let mut items = vec![user(prompt)];
            items.extend((0..outputs).map(|_| output()));
            let calls = script(&request(json!(items))).calls;
            calls.iter().map(|call| call["name"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names(0), ["exec_command"]);
        assert_eq!(names(1), ["update_plan"]);
        assert_eq!(names(2), Vec::<String>::new());
        let both = script(&request(json!([user(&format!("[[parallel]]{prompt}"))]))).calls;
        assert_eq!(both.len(), 2);
    }

    #[test]
    fn a_failure_waits_for_the_tools_and_ends_after_its_times() {
        let shared = Shared::default();
        let before = request(json!([user("[[http:500:1]][[shell:true]]")]));
        let after = request(json!([user("[[http:500:1]][[shell:true]]"), output()]));
        assert_eq!(Script::of(&before, &shared).unwrap().http_error, None);
        assert_eq!(Script::of(&after, &shared).unwrap().http_error, Some(500));
        assert_eq!(Script::of(&after, &shared).unwrap().http_error, None);
    }

    #[test]
    fn arguments_of_calls() {
        let call = |prompt: &str| script(&request(json!([user(prompt)]))).calls.remove(0);
        let shell = call("[[shell:sleep 9;;yield_time_ms=500]]");
        assert_eq!(shell["arguments"], r#"{"cmd":"sleep 9","yield_time_ms":500}"#);
        let spawn = call("[[spawn:do {{hang}}]]");
        assert_eq!((&spawn["namespace"], &spawn["name"]), (&json!("multi_agent_v1"), &json!("spawn_agent")));
        assert_eq!(spawn["arguments"], r#"{"message":"do [[hang]]"}"#);
        let write = call("[[write:a.txt:one\ntwo]]");
        assert_eq!(write["input"], "*** Begin Patch\n*** Add File: a.txt\n+one\n+two\n*** End Patch\n");
        assert_eq!(call("[[call:mcp__x.y:{\"a\":1}]]")["arguments"], "{\"a\":1}");
        assert_eq!(call("[[custom:name:te:xt]]")["input"], "te:xt");
    }

    #[test]
    fn a_marker_that_cannot_be_read_is_an_error() {
        for prompt in ["[[meet]]", "[[deltas:many]]", "[[stall:-1]]", "[[shell:x;;y=z]]", "[[http:x]]"] {
            let request = request(json!([user(prompt)]));
            assert!(Script::of(&request, &Shared::default()).is_err(), "{prompt}");
        }
    }

    #[test]
    fn the_answer_echoes_the_end_of_the_prompt() {
        assert_eq!(script(&request(json!([user("[[deltas:1]]hello")]))).deltas, ["tok0 ", "| echo: hello"]);
        let long = "é".repeat(100);
        let echo = script(&request(json!([user(&long)]))).deltas.pop().unwrap();
        assert_eq!(echo, format!("| echo: {}", "é".repeat(80)));
        let said = script(&request(json!([user("[[say:0:two: words]]")]))).deltas;
        assert_eq!(said, ["two: ", "words"]);
    }
}
