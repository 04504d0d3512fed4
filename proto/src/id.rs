//! Identifiers: one type per kind, so that one cannot be used as another.

use core::borrow::Borrow;
use core::fmt;
use std::sync::Arc;

use uuid::Uuid;

use crate::json::text::same_text;

/// A client connection. Never used again within one life of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u32);

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of a request that codexd sends upstream, on behalf of a client or its own.
///
/// An integer on the wire, counted from 0, never used again within one life of the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpstreamId(pub u64);

/// The id of a request that the upstream sends: passed to clients as it is.
///
/// An integer on the wire, counted from 0 per process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerRequestId(pub i64);

/// A client's request id, kept so that it can be echoed.
///
/// Legal are strings and integers in the signed 64-bit range; both come back byte for byte. Two strings are
/// equal if their texts are, however they are spelled: to the upstream they are one id.
#[derive(Clone, Debug)]
pub enum RequestId {
    /// An integer. Its JSON form is unique, so the number is enough to echo it.
    Number(i64),
    /// A string: the JSON text with its quotes and escapes.
    Text(Box<[u8]>),
}

impl RequestId {
    /// Bytes that the JSON text of an id may have: one is kept as long as its request is not answered.
    pub const MAX_BYTES: usize = 64 << 10;

    /// Reads the JSON text of an id; `None` if it is not a legal one.
    ///
    /// `text` must be one valid JSON value without white space around it. Null, booleans, fractions, exponents and
    /// integers of more than 64 bits are not legal: the upstream drops such messages without an answer. To codexd, an
    /// id of more than [`RequestId::MAX_BYTES`] is not legal either.
    pub fn from_json(text: &[u8]) -> Option<RequestId> {
        match *text.first()? {
            b'"' if text.len() <= RequestId::MAX_BYTES => Some(RequestId::Text(text.into())),
            b'-' | b'0'..=b'9' => parse_i64(text).map(RequestId::Number),
            _ => None,
        }
    }

    /// Returns how many bytes it keeps beside its own size.
    pub(crate) fn kept_bytes(&self) -> usize {
        match self {
            RequestId::Number(_) => 0,
            RequestId::Text(text) => text.len(),
        }
    }

    /// Appends the JSON text to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            RequestId::Number(n) => write_i64(out, *n),
            RequestId::Text(t) => out.extend_from_slice(t),
        }
    }
}

impl PartialEq for RequestId {
    fn eq(&self, other: &RequestId) -> bool {
        match (self, other) {
            (RequestId::Number(a), RequestId::Number(b)) => a == b,
            // Between their quotes.
            (RequestId::Text(a), RequestId::Text(b)) => same_text(&a[1..a.len() - 1], &b[1..b.len() - 1]),
            _ => false,
        }
    }
}

impl Eq for RequestId {}

/// The id of a thread: the text of its JSON string. Copies share it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThreadId(Arc<[u8]>);

impl ThreadId {
    /// Makes an id of its text.
    pub fn new(text: &[u8]) -> ThreadId {
        ThreadId(text.into())
    }

    /// Reads a text as the upstream reads thread ids: a UUID in any of its forms. `None` for what it
    /// would refuse.
    pub fn from_text(text: &[u8]) -> Option<ThreadId> {
        // Newer releases of the crate take this prefix in capitals, too; the one in codex 0.169 (1.20) does not.
        let right_case = text.len() != 45 || text.starts_with(b"urn:uuid:");
        let id = Uuid::try_parse_ascii(text).ok().filter(|_| right_case)?;
        let mut buffer = Uuid::encode_buffer();
        Some(ThreadId(id.hyphenated().encode_lower(&mut buffer).as_bytes().into()))
    }

    /// Returns its text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for ThreadId {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for ThreadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// Digits of a number that fits into 63 bits, whatever they are.
const SURE_DIGITS: usize = 18;

/// Reads a decimal integer; `None` on anything else or above 64 bits.
#[inline]
pub(crate) fn parse_i64(text: &[u8]) -> Option<i64> {
    match parse_short(text) {
        Some(number) => Some(number as i64),
        None => core::str::from_utf8(text).ok()?.parse().ok(),
    }
}

/// Reads a decimal integer without a minus sign; `None` on anything else or above 64 bits.
#[inline]
pub(crate) fn parse_u64(text: &[u8]) -> Option<u64> {
    parse_short(text).or_else(|| core::str::from_utf8(text).ok()?.parse().ok())
}

/// Reads an integer of few digits, the usual case.
#[inline]
fn parse_short(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > SURE_DIGITS {
        return None;
    }
    text.iter().try_fold(0, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit < 10).then(|| number * 10 + u64::from(digit))
    })
}

/// Appends an integer in decimal.
pub(crate) fn write_i64(out: &mut Vec<u8>, n: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

/// Appends an integer in decimal.
pub(crate) fn write_u64(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_one_id_in_all_its_forms() {
        let id = "01a1fb58-afe1-7e63-a5da-f77a0cf2dc6f";
        let forms = [
            id.to_owned(),
            id.to_uppercase(),
            id.replace('-', ""),
            format!("urn:uuid:{id}"),
            format!("{{{id}}}"),
        ];
        for form in forms {
            assert_eq!(ThreadId::from_text(form.as_bytes()), Some(ThreadId::new(id.as_bytes())), "{form}");
        }
        for wrong in [
            "",
            "x",
            &id[1..],
            &format!("{id}0"),
            &id.replace('-', "0"),
            &id.replacen('-', "", 1),
            &format!("<{id}>"),
            &format!("{{{id}"),
            &format!("{{{}}}", id.replace('-', "")),
            &format!("URN:UUID:{id}"),
            &format!("urn:uuid:{}", id.replace('-', "")),
            &format!(" {id}"),
            &id.replacen('0', "\u{660}", 1),
            &id.replacen('0', "g", 1),
        ] {
            assert_eq!(ThreadId::from_text(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn numbers_are_read_as_the_standard_library_reads_them() {
        for text in [
            "0",
            "7",
            "00",
            "123456789012345678",
            "999999999999999999",
            "1234567890123456789",
            "9223372036854775807",
            "9223372036854775808",
            "18446744073709551615",
            "18446744073709551616",
            "-1",
            "-0",
            "+1",
            "-",
            "",
            "1.0",
            " 1",
            "1a",
            "\u{660}",
            ":",
        ] {
            assert_eq!(parse_u64(text.as_bytes()), text.parse().ok(), "{text}");
            assert_eq!(parse_i64(text.as_bytes()), text.parse().ok(), "{text}");
        }
    }

    #[test]
    fn legal_ids_come_back_byte_for_byte() {
        for text in
            ["0", "7", "-1", "9223372036854775807", "-9223372036854775808", "\"\"", "\"a\\u0041\\\"\""]
        {
            let id = RequestId::from_json(text.as_bytes()).unwrap();
            let mut out = vec![];
            id.write(&mut out);
            assert_eq!(out, text.as_bytes());
        }
    }

    #[test]
    fn illegal_ids_are_told_apart() {
        for text in ["null", "true", "1.0", "5.5", "1e3", "9223372036854775808", "[1]", "{}"] {
            assert_eq!(RequestId::from_json(text.as_bytes()), None, "{text}");
        }
        let of_length = |n: usize| format!("\"{}\"", "a".repeat(n - 2));
        assert!(RequestId::from_json(of_length(RequestId::MAX_BYTES).as_bytes()).is_some());
        assert_eq!(RequestId::from_json(of_length(RequestId::MAX_BYTES + 1).as_bytes()), None);
    }

    #[test]
    fn ids_are_equal_exactly_if_the_upstream_takes_them_for_one() {
        let id = |text: &str| RequestId::from_json(text.as_bytes()).unwrap();
        for (a, b) in [
            (r#""a""#, r#""\u0061""#),
            (r#""/\"\\""#, r#""\/\u0022\u005c""#),
            (r#""é""#, r#""\u00E9""#),
            (r#""\ud83d\ude00""#, r#""😀""#),
            ("0", "-0"),
        ] {
            assert_eq!(id(a), id(b), "{a} {b}");
        }
        for (a, b) in [("1", "2"), ("1", r#""1""#), (r#""a""#, r#""A""#), (r#""\u0061""#, r#""\\u0061""#)] {
            assert_ne!(id(a), id(b), "{a} {b}");
        }
    }
}
