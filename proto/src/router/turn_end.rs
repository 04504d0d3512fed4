//! The end of what ran on a thread when the upstream was lost, as the upstream writes the end of a failed turn.

use super::Loss;
use crate::id::{ThreadId, write_u64};
use crate::json::Span;
use crate::json::edit::{Edits, write_string, write_text};
use crate::json::scan::{has_members, member, skip_space};

/// The end of what ran on a thread when the upstream was lost.
pub(crate) struct TurnEnd<'a> {
    pub(crate) thread: &'a ThreadId,
    /// The item of the final answer, if that was seen: then the turn counts as completed.
    pub(crate) answer: Option<&'a [u8]>,
    /// The error by which the upstream itself had failed the turn.
    pub(crate) error_sent: Option<&'a [u8]>,
    pub(crate) loss: &'a Loss,
    pub(crate) generation: u64,
}

impl TurnEnd<'_> {
    /// Writes the status that the upstream gives a thread whose turn has ended so.
    pub(crate) fn status(&self) -> Vec<u8> {
        let mut line = self.begin("thread/status/changed");
        line.extend_from_slice(b",\"status\":{\"type\":");
        line.extend_from_slice(if self.answer.is_some() { b"\"idle\"" } else { b"\"systemError\"" });
        line.push(b'}');
        self.finish(line)
    }

    /// Writes the `error` by which clients learn the reason.
    pub(crate) fn error(&self, turn: &[u8]) -> Vec<u8> {
        let mut line = self.begin("error");
        line.extend_from_slice(b",\"error\":");
        line.extend_from_slice(&self.reason());
        line.extend_from_slice(b",\"willRetry\":false,\"turnId\":");
        write_text(&mut line, turn);
        self.finish(line)
    }

    /// Writes a `turn/completed` from the turn object that the upstream gave when the turn began, so
    /// that clients see the members they know.
    pub(crate) fn turn(&self, id: &[u8], turn: &[u8]) -> Vec<u8> {
        let mut own = Vec::new();
        write_text(&mut own, id);
        let mut fields: Vec<(&str, Vec<u8>)> = vec![("id", own)];
        match self.answer {
            Some(item) => {
                fields.push(("status", b"\"completed\"".to_vec()));
                fields.push(("items", [b"[", item, b"]"].concat()));
                fields.push(("itemsView", b"\"summary\"".to_vec()));
            }
            None => {
                fields.push(("status", b"\"failed\"".to_vec()));
                fields.push(("error", self.reason()));
            }
        }
        let mut edits = Edits::new();
        let mut added = self.mark();
        for (name, value) in fields {
            match member(turn, 0, name.as_bytes()) {
                Some(span) => edits.replace_owned(span, value),
                None => {
                    added.push(b',');
                    write_string(&mut added, name);
                    added.push(b':');
                    added.extend_from_slice(&value);
                }
            }
        }
        if has_members(turn, 0) {
            added.push(b',');
        }
        let open = skip_space(turn, 0) + 1;
        edits.replace_owned(Span { start: open, end: open }, added);

        let mut line = self.begin("turn/completed");
        line.extend_from_slice(b",\"turn\":");
        edits.write(turn, &mut line);
        self.finish(line)
    }

    /// Begins a notification about the thread.
    fn begin(&self, method: &str) -> Vec<u8> {
        let mut line = b"{\"method\":".to_vec();
        write_string(&mut line, method);
        line.extend_from_slice(b",\"params\":{\"threadId\":");
        write_text(&mut line, self.thread.as_bytes());
        line
    }

    /// Ends it with the mark.
    fn finish(&self, mut line: Vec<u8>) -> Vec<u8> {
        line.push(b',');
        line.extend_from_slice(&self.mark());
        line.extend_from_slice(b"}}");
        line
    }

    /// Returns the member that says that codexd wrote this.
    fn mark(&self) -> Vec<u8> {
        let mut mark = b"\"codexd\":{\"synthetic\":true,\"inferred\":".to_vec();
        mark.extend_from_slice(if self.answer.is_some() { b"true" } else { b"false" });
        mark.extend_from_slice(b",\"reason\":");
        write_string(&mut mark, self.loss.reason);
        mark.extend_from_slice(b",\"generation\":");
        write_u64(&mut mark, self.generation);
        mark.push(b'}');
        mark
    }

    /// Returns the error object, which the `error` and the failed turn share.
    fn reason(&self) -> Vec<u8> {
        if let Some(error) = self.error_sent {
            return error.to_vec();
        }
        let mut error = b"{\"message\":".to_vec();
        write_string(&mut error, &self.loss.message);
        error.extend_from_slice(
            b",\"codexErrorInfo\":\"other\",\"additionalDetails\":null,\"misalignment\":null}",
        );
        error
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The status, the error and the turn of an end.
    fn frames(answer: Option<&str>) -> [Value; 3] {
        let turn = br#"{"id":"u","items":[],"itemsView":"notLoaded","status":"inProgress","error":null}"#;
        let loss = Loss { reason: "upstreamLost", message: "gone \"away\"".to_owned() };
        let thread = ThreadId::new(b"t");
        let answer = answer.map(str::as_bytes);
        let end = TurnEnd { thread: &thread, answer, error_sent: None, loss: &loss, generation: 3 };
        [end.status(), end.error(b"u"), end.turn(b"u", turn)]
            .map(|line| serde_json::from_slice(&line).unwrap())
    }

    #[test]
    fn a_turn_without_its_answer_fails() {
        let mark = json!({"synthetic": true, "inferred": false, "reason": "upstreamLost", "generation": 3});
        let why = json!({"message": "gone \"away\"", "codexErrorInfo": "other", "additionalDetails": null,
                         "misalignment": null});
        let [status, error, turn] = frames(None);
        let params = json!({"threadId": "t", "status": {"type": "systemError"}, "codexd": mark});
        assert_eq!(status, json!({"method": "thread/status/changed", "params": params}));
        let params =
            json!({"threadId": "t", "turnId": "u", "error": why, "willRetry": false, "codexd": mark});
        assert_eq!(error, json!({"method": "error", "params": params}));
        let object = json!({"id": "u", "items": [], "itemsView": "notLoaded", "status": "failed", "error": why,
                            "codexd": mark});
        let params = json!({"threadId": "t", "turn": object, "codexd": mark});
        assert_eq!(turn, json!({"method": "turn/completed", "params": params}));
    }

    #[test]
    fn a_turn_whose_answer_was_seen_is_inferred_to_be_complete() {
        let [status, _, event] = frames(Some(r#"{"type":"agentMessage","text":"42"}"#));
        assert_eq!(status["params"]["status"], json!({"type": "idle"}));
        assert_eq!(status["params"]["codexd"], event["params"]["codexd"]);
        assert_eq!(event["params"]["turn"]["status"], "completed");
        assert_eq!(event["params"]["turn"]["items"][0]["text"], "42");
        assert_eq!(event["params"]["turn"]["error"], Value::Null);
        assert_eq!(event["params"]["codexd"]["inferred"], true);
    }
}
