//! What an open turn has shown of its end.

use std::borrow::Cow;

use super::text::{is, text_of};
use crate::json::Span;

/// Whether the final answer of an open turn was seen, and which of its calls to sub-agents have no result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The item of the final answer, as long as nothing follows it.
    answer: Option<Box<[u8]>>,
    /// The ids of collaborations that have started and not completed.
    collaborations: Vec<Box<[u8]>>,
}

impl Progress {
    /// Records that an item of the turn has started. A final answer before it was not the end.
    pub fn item_started(&mut self, line: &[u8], item: Span) {
        self.answer = None;
        if is_collaboration(line, item)
            && let Some(id) = id(line, item)
            && !self.collaborations.iter().any(|open| **open == *id)
        {
            self.collaborations.push(id.into_owned().into());
        }
    }

    /// Records that an item of the turn is complete.
    pub fn item_completed(&mut self, line: &[u8], item: Span) {
        if is_collaboration(line, item) {
            let id = id(line, item);
            self.collaborations.retain(|open| Some(&**open) != id.as_deref());
        } else if is_final_answer(line, item) {
            self.answer = Some(item.of(line).into());
        }
    }

    /// Records that the turn has reported an error. It tries again, so that the message is sent again as another item
    /// (measured), or fails.
    pub fn error_reported(&mut self) {
        self.answer = None;
    }

    /// Returns the item of the final answer, if it was seen, nothing followed it and no collaboration is open.
    pub fn answer(&self) -> Option<&[u8]> {
        self.answer.as_deref().filter(|_| self.collaborations.is_empty())
    }
}

fn id(line: &[u8], item: Span) -> Option<Cow<'_, [u8]>> {
    text_of(line, item.start, b"id")
}

fn is_final_answer(line: &[u8], item: Span) -> bool {
    is(line, item.start, b"type", b"agentMessage") && is(line, item.start, b"phase", b"final_answer")
}

/// Returns whether an item is a call to a sub-agent. Newer tools use the second name.
fn is_collaboration(line: &[u8], item: Span) -> bool {
    is(line, item.start, b"type", b"collabAgentToolCall")
        || is(line, item.start, b"type", b"subAgentActivity")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(text: &str) -> (&[u8], Span) {
        (text.as_bytes(), Span { start: 0, end: text.len() })
    }

    fn after(events: &[(bool, &str)]) -> bool {
        let mut progress = Progress::default();
        for (started, text) in events {
            let (line, span) = item(text);
            if *started { progress.item_started(line, span) } else { progress.item_completed(line, span) }
        }
        progress.answer().is_some()
    }

    const FINAL: &str = r#"{"type":"agentMessage","id":"m","text":"42","phase":"final_answer"}"#;

    #[test]
    fn only_a_final_answer_is_one() {
        assert!(after(&[(true, FINAL), (false, FINAL)]));
        for other in [
            r#"{"type":"agentMessage","id":"m","text":"42","phase":"commentary"}"#,
            r#"{"type":"agentMessage","id":"m","text":"42","phase":null}"#,
            r#"{"type":"agentMessage","id":"m","text":"42"}"#,
            r#"{"type":"plan","id":"m","text":"42","phase":"final_answer"}"#,
            r#"{"type":"reasoning","id":"m","phase":"final_answer"}"#,
            r#"{"type":"userMessage","id":"m","phase":"final_answer"}"#,
        ] {
            assert!(!after(&[(false, other)]), "{other}");
            assert!(after(&[(false, other), (false, FINAL)]), "{other}");
        }
        assert!(!after(&[(true, FINAL)]), "it has only begun");
    }

    #[test]
    fn what_comes_after_an_answer_withdraws_it() {
        assert!(!after(&[(false, FINAL), (true, r#"{"type":"commandExecution","id":"c"}"#)]));
        let mut progress = Progress::default();
        let (line, span) = item(FINAL);
        progress.item_completed(line, span);
        progress.error_reported();
        assert_eq!(progress.answer(), None);
    }

    #[test]
    fn an_open_collaboration_holds_the_answer_back() {
        for kind in ["collabAgentToolCall", "subAgentActivity"] {
            let call = |id: &str| format!(r#"{{"type":"{kind}","id":"{id}"}}"#);
            assert!(!after(&[(true, &call("a")), (false, FINAL)]));
            assert!(!after(&[(true, &call("a")), (true, &call("b")), (false, &call("a")), (false, FINAL)]));
            assert!(after(&[(true, &call("a")), (true, &call("a")), (false, &call("a")), (false, FINAL)]));
            assert!(after(&[(true, &call("a")), (false, FINAL), (false, &call("a"))]));
        }
    }
}
