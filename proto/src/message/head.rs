//! The beginning of a request as nearly all clients write it: `id` and `method`, in either order, perhaps after `jsonrpc`,
//! without white space or escapes.
//!
//! The check of a line would find the same with about four times as many instructions.

use crate::json::Span;
use crate::json::scan::{skip_digits, string_stop};

/// Bytes in which the beginning has to end. A longer one is left to the check, which can be interrupted.
const NEAR: usize = 256;

/// Digits of an id that is a number.
const DIGITS: usize = 18;

/// The beginning of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) id: Span,
    pub(super) method: Span,
    /// Offset of the next member.
    pub(super) end: usize,
}

/// Reads the beginning of a line; `None` if it has another form, which may be correct all the same. Of the text of its
/// strings, only that it contains no escapes and control characters is known.
#[inline]
pub(super) fn read(line: &[u8]) -> Option<Head> {
    let near = &line[..line.len().min(NEAR)];
    let at = if near.starts_with(b"{\"jsonrpc\":\"2.0\",") { 17 } else { 1 };
    let (id, method, end) = if let Some(at) = after(near, at, b"\"id\":") {
        let id = id(near, at)?;
        let method = string(near, after(near, id.end, b",\"method\":")?)?;
        (id, method, method.end)
    } else {
        let method = string(near, after(near, at, b"\"method\":")?)?;
        let id = id(near, after(near, method.end, b",\"id\":")?)?;
        (id, method, id.end)
    };
    (line[0] == b'{' && near[end..].starts_with(b",\"")).then_some(Head { id, method, end: end + 1 })
}

/// Returns the offset after `token`, if that is at `at`.
#[inline]
fn after(line: &[u8], at: usize, token: &[u8]) -> Option<usize> {
    line.get(at..)?.starts_with(token).then_some(at + token.len())
}

#[inline]
fn string(line: &[u8], at: usize) -> Option<Span> {
    let stop = string_stop(line, at + 1)?;
    (line[at] == b'"' && line[stop] == b'"').then_some(Span { start: at, end: stop + 1 })
}

#[inline]
fn id(line: &[u8], at: usize) -> Option<Span> {
    match line.get(at)? {
        b'"' => string(line, at),
        b'0'..=b'9' => {
            let end = skip_digits(line, at);
            let is_number = end - at == 1 || (line[at] != b'0' && end - at <= DIGITS);
            (is_number && line.get(end) == Some(&b',')).then_some(Span { start: at, end })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Reader;

    /// Reads a line without regard to its usual beginning.
    fn by_the_check_alone(line: &[u8]) -> Reader {
        let mut reader = Reader::default();
        while !reader.check.advance(line, line.len(), &mut reader.parts) {}
        reader
    }

    const USUAL: [&str; 6] = [
        r#"{"id":7,"method":"thread/read","params":{"threadId":"x"}}"#,
        r#"{"id":"a-b","method":"thread/read","params":[1]}"#,
        r#"{"method":"thread/read","id":0,"params":{}}"#,
        r#"{"method":"thread/read","id":"é","trace":null}"#,
        r#"{"jsonrpc":"2.0","id":123456789012345678,"method":"m","params":{}}"#,
        r#"{"jsonrpc":"2.0","method":"m","id":"","params":null}"#,
    ];

    #[test]
    fn the_usual_beginnings_are_recognised() {
        for line in USUAL {
            let head = read(line.as_bytes()).unwrap();
            assert_eq!(line.as_bytes()[head.end - 1..][..2], *b",\"", "{line}");
        }
        let long = format!(r#"{{"id":"{}","method":"m","params":{{}}}}"#, "x".repeat(NEAR));
        for line in [
            "",
            "{",
            "{\"id\":",
            "{\"id\":7",
            "[\"id\":7,\"method\":\"m\",\"params\":{}}",
            "{\"jsonrpc\":\"2.0\",",
            &long,
            r#"{"id":7,"method":"m"}"#,
            r#"{"id":07,"method":"m","params":{}}"#,
            r#"{"id":-7,"method":"m","params":{}}"#,
            r#"{"id":7.5,"method":"m","params":{}}"#,
            r#"{"id":7 ,"method":"m","params":{}}"#,
            r#"{"id":1234567890123456789,"method":"m","params":{}}"#,
            r#"{"id":null,"method":"m","params":{}}"#,
            r#"{"id":7,"method":"\u006d","params":{}}"#,
            r#"{"id":7,"method":m","params":{}}"#,
            r#"{"id":7,"method":"m",}"#,
            r#"{"id":7,"method":"m","#,
        ] {
            assert_eq!(read(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn what_is_read_is_what_the_check_alone_reads() {
        let end = [
            r#","id":8}"#,
            r#","method":"n"}"#,
            r#","id":null}"#,
            "",
            "}",
            " }",
            r#","$serde_json::private::Number":1}"#,
        ];
        for usual in USUAL {
            for end in end {
                let whole = [&usual[..usual.len() - 1], end].concat();
                for at in 0..whole.len() {
                    for byte in [b'"', b'\\', b'{', b'}', b',', b':', b'0', b'-', b' ', b'\n', 0, 0xff, 0xc3]
                    {
                        let mut line = whole.as_bytes().to_vec();
                        line[at] = byte;
                        for line in [&line[..], &line[..at]] {
                            let mut alone = by_the_check_alone(line);
                            let mut reader = Reader::default();
                            let text = String::from_utf8_lossy(line);
                            assert_eq!(reader.read(line), alone.finish(line), "{text}");
                            let mut sliced = Reader::default();
                            while !sliced.advance(line, 3) {}
                            assert_eq!(sliced.finish(line), alone.finish(line), "{text}");
                        }
                    }
                }
            }
        }
    }
}
