//! The parameters of a client's request, by name or by position.
//!
//! The upstream takes both (measured): the values of an array stand in the order of its schema.

use std::borrow::Cow;

use crate::id::ThreadId;
use crate::json::Span;
use crate::json::edit::{last_member, member_name, read_string};
use crate::json::scan::{Members, skip_space, skip_value};
use crate::routes::Request;

/// The parameters of one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Params<'a> {
    line: &'a [u8],
    span: Span,
    /// Names of the parameters by their position.
    order: &'static [&'static str],
}

impl<'a> Params<'a> {
    /// Returns the parameters at `span` of a line; `None` when they are neither an object nor an array.
    pub(super) fn new(line: &'a [u8], span: Option<Span>, known: &Request) -> Option<Params<'a>> {
        let span = span.filter(|span| matches!(line[span.start], b'{' | b'['))?;
        Some(Params { line, span, order: known.order })
    }

    /// Whether they are an array.
    pub(super) fn by_position(self) -> bool {
        self.line[self.span.start] == b'['
    }

    /// Where they stand.
    pub(super) fn span(self) -> Span {
        self.span
    }

    /// Returns the value of a parameter.
    pub(super) fn get(self, name: &str) -> Option<Span> {
        if self.by_position() {
            let index = self.order.iter().position(|other| *other == name)?;
            self.elements().nth(index)
        } else {
            last_member(self.line, self.span, name)
        }
    }

    /// Whether a parameter has exactly this value.
    pub(super) fn is(self, name: &str, value: &[u8]) -> bool {
        self.get(name).is_some_and(|span| span.of(self.line) == value)
    }

    /// Returns the text of a parameter.
    pub(super) fn text(self, name: &str) -> Option<String> {
        read_string(self.get(name)?.of(self.line))
    }

    /// Returns the thread that they name.
    pub(super) fn thread(self, known: &Request) -> Option<ThreadId> {
        let text = self.text(known.thread?)?;
        Some(ThreadId::from_text(&text).unwrap_or_else(|| ThreadId::new(text.as_bytes())))
    }

    /// Whether there are more than the upstream takes, so that it refuses them.
    pub(super) fn are_too_many(self) -> bool {
        self.by_position() && self.elements().nth(self.order.len()).is_some()
    }

    /// Iterates over the parameters that have a name.
    pub(super) fn named(self) -> impl Iterator<Item = (Cow<'a, [u8]>, &'a [u8])> {
        let line = self.line;
        let members = Members::new(line, self.span.start);
        let members = members.map(move |m| (member_name(m.key.of(line)), m.value.of(line)));
        let elements = self.elements().zip(self.order);
        members.chain(elements.map(move |(value, name)| (name.as_bytes().into(), value.of(line))))
    }

    /// Iterates over the values of an array.
    fn elements(self) -> impl Iterator<Item = Span> + use<'a> {
        let line = self.line;
        let mut at = if self.by_position() { self.span.start + 1 } else { self.span.end };
        std::iter::from_fn(move || {
            let start = skip_space(line, at);
            let end = skip_value(line, start).filter(|end| *end > start)?;
            // Behind the comma, or at the bracket, where no value is.
            let behind = skip_space(line, end);
            at = if line.get(behind) == Some(&b',') { behind + 1 } else { line.len() };
            Some(Span { start, end })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::REQUESTS;

    fn params<'a>(method: &str, text: &'a str) -> Params<'a> {
        let known = REQUESTS.iter().find(|r| r.method == method).unwrap();
        Params::new(text.as_bytes(), Some(Span { start: 0, end: text.len() }), known).unwrap()
    }

    #[test]
    fn a_parameter_is_found_by_its_name_and_by_its_position() {
        for text in [
            r#"{"processHandle":"x","processH\u0061ndle":"h","cwd":"/"}"#,
            r#"[ ["a","b"] , "h", "/"]"#,
            r#"[{"a":["]"]},"h"]"#,
        ] {
            let params = params("process/spawn", text);
            assert_eq!(params.text("processHandle").as_deref(), Some("h"), "{text}");
            assert_eq!(params.get("tty"), None, "{text}");
            assert_eq!(params.get("no such name"), None, "{text}");
        }
        assert_eq!(params("process/spawn", "[]").get("command"), None);
        assert_eq!(params("process/spawn", "[[]]").get("processHandle"), None);
    }

    #[test]
    fn parameters_by_position_have_names() {
        let named = |text| -> Vec<(String, String)> {
            let own = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            params("fs/watch", text).named().map(|(name, value)| (own(&name), own(value))).collect()
        };
        let expected = [("watchId", "1"), ("path", "[2]")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(named(r#"{"watch\u0049d":1,"path":[2]}"#), expected);
        assert_eq!(named("[1, [2] ,3]"), expected);
    }

    #[test]
    fn parameters_are_counted() {
        assert!(!params("fs/unwatch", r#"["w"]"#).are_too_many());
        assert!(params("fs/unwatch", r#"["w",1]"#).are_too_many());
        assert!(!params("fs/unwatch", r#"{"watchId":"w","more":1}"#).are_too_many());
    }
}
