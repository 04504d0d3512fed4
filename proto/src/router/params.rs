//! The parameters of a client's request, as the router uses them.

use std::borrow::Cow;

use crate::id::{RequestId, ThreadId};
use crate::json::{Span, is_text, text};
use crate::message;
use crate::routes::Request;

/// The parameters of one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Params<'a> {
    line: &'a [u8],
    given: &'a message::Params,
    /// Names of the parameters by position.
    order: &'static [&'static str],
}

impl<'a> Params<'a> {
    /// Returns the parameters of a request; `None` if they are neither an object nor an array.
    pub(super) fn new(line: &'a [u8], given: &'a message::Params, known: &Request) -> Option<Params<'a>> {
        matches!(line[given.span.start], b'{' | b'[').then_some(Params { line, given, order: known.order })
    }

    /// Returns whether they are given by position.
    pub(super) fn by_position(self) -> bool {
        self.line[self.given.span.start] == b'['
    }

    /// Returns the span of all parameters.
    pub(super) fn span(self) -> Span {
        self.given.span
    }

    /// Returns the value of a parameter.
    pub(super) fn get(self, name: &str) -> Option<Span> {
        self.given.get(name, self.order)
    }

    /// Returns the JSON text of a parameter.
    pub(super) fn json(self, name: &str) -> Option<&'a [u8]> {
        self.get(name).map(|value| value.of(self.line))
    }

    /// Returns whether a parameter is `true`.
    pub(super) fn is_true(self, name: &str) -> bool {
        self.json(name) == Some(b"true")
    }

    /// Returns whether a parameter is a string with this text.
    pub(super) fn is_text(self, name: &str, text: &[u8]) -> bool {
        self.get(name).is_some_and(|value| is_text(self.line, value, text))
    }

    /// Returns the text of a parameter; `None` also if it is too long to name anything.
    pub(super) fn text(self, name: &str) -> Option<Cow<'a, [u8]>> {
        let value = self.get(name).filter(|value| value.end - value.start <= RequestId::MAX_BYTES)?;
        text(self.line, value)
    }

    /// Returns the thread that they name.
    pub(super) fn thread(self, known: &Request) -> Option<ThreadId> {
        let text = self.text(known.thread?)?;
        Some(ThreadId::from_text(&text).unwrap_or_else(|| ThreadId::new(&text)))
    }

    /// Returns whether there are more than the upstream accepts.
    pub(super) fn are_too_many(self) -> bool {
        self.given.are_more_than(self.order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{ClientMessage, Reader};
    use crate::routes::REQUESTS;

    /// Hands the parameters of a request to `look`.
    fn with<T>(method: &str, params: &str, look: impl Fn(Params<'_>) -> T) -> T {
        let known = REQUESTS.iter().find(|r| r.method == method).unwrap();
        let line = format!(r#"{{"id":1,"method":"{method}","params":{params}}}"#);
        let mut reader = Reader::default();
        let Ok(Some(ClientMessage::Request { params, .. })) = reader.read(line.as_bytes()) else {
            panic!("{line}")
        };
        look(Params::new(line.as_bytes(), params.unwrap(), known).unwrap())
    }

    #[test]
    fn a_parameter_is_found_by_its_name_and_by_its_position() {
        for text in [
            r#"{"processHandle":"x","processH\u0061ndle":"h","cwd":"/"}"#,
            r#"[ ["a","b"] , "h", "/"]"#,
            r#"[{"a":["]"]},"\u0068"]"#,
        ] {
            with("process/spawn", text, |params| {
                assert_eq!(params.text("processHandle").as_deref(), Some(&b"h"[..]), "{text}");
                assert!(params.is_text("processHandle", b"h"), "{text}");
                assert_eq!(params.get("tty"), None, "{text}");
                // Of another method.
                assert_eq!(params.get("threadId"), None, "{text}");
            });
        }
        for text in ["[]", "[[]]", "{}", "{\"x\":[\"a\",\"b\"]}"] {
            assert_eq!(with("process/spawn", text, |params| params.get("processHandle")), None, "{text}");
        }
    }

    #[test]
    fn a_thread_has_one_id_in_all_its_forms() {
        let known = REQUESTS.iter().find(|r| r.method == "thread/read").unwrap();
        let id = "01a1fb58-afe1-7e63-a5da-f77a0cf2dc6f";
        for text in [
            format!(r#"{{"threadId":"{id}"}}"#),
            format!(r#"["{}",true]"#, id.to_uppercase()),
            format!(r#"{{"thread\u0049d":"\u007b{id}}}"}}"#),
        ] {
            let thread = with("thread/read", &text, |params| params.thread(known));
            assert_eq!(thread, Some(ThreadId::new(id.as_bytes())), "{text}");
        }
    }

    #[test]
    fn parameters_are_counted() {
        let too_many = |method, text: &str| with(method, text, |params| params.are_too_many());
        assert!(!too_many("fs/unwatch", r#"["w"]"#));
        assert!(too_many("fs/unwatch", r#"["w",1]"#));
        assert!(too_many("turn/start", &format!("[{}]", vec!["1"; 100].join(","))));
        assert!(!too_many("fs/unwatch", r#"{"watchId":"w","more":1}"#));
    }
}
