//! Identifiers: one type per kind, so that one cannot be used as another.

use core::borrow::Borrow;
use core::fmt;

use uuid::Uuid;

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
/// Legal are strings and integers in the signed 64-bit range; both come back byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestId {
    /// An integer. Its JSON form is unique, so the number is enough to echo it.
    Number(i64),
    /// A string: the JSON text with its quotes and escapes.
    Text(Box<[u8]>),
}

impl RequestId {
    /// Reads the JSON text of an id; `None` if it is not a legal one.
    ///
    /// `text` must be one valid JSON value without white space around it. Null, booleans, fractions, exponents, `-0`
    /// and integers of more than 64 bits are not legal: the upstream drops such messages without an answer.
    pub fn from_json(text: &[u8]) -> Option<RequestId> {
        match *text.first()? {
            b'"' => Some(RequestId::Text(text.into())),
            b'-' | b'0'..=b'9' if text != b"-0" => parse_i64(text).map(RequestId::Number),
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

/// The id of a thread: what stands between the quotes of its JSON string.
///
/// Compared byte for byte. The upstream writes ids without escapes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThreadId(Box<[u8]>);

impl ThreadId {
    /// Takes over the bytes between the quotes.
    pub fn new(inner: &[u8]) -> ThreadId {
        ThreadId(inner.into())
    }

    /// Reads a text as the upstream reads thread ids: a UUID in any of its forms. `None` for what it
    /// would refuse.
    pub fn from_text(text: &str) -> Option<ThreadId> {
        // Newer releases of the crate take this prefix in capitals, too; the one in codex 0.169 (1.20) does not.
        let right_case = text.len() != 45 || text.starts_with("urn:uuid:");
        let id = Uuid::try_parse(text).ok().filter(|_| right_case)?;
        let mut buffer = Uuid::encode_buffer();
        Some(ThreadId(id.hyphenated().encode_lower(&mut buffer).as_bytes().into()))
    }

    /// Returns the bytes between the quotes.
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

/// Reads a decimal integer; `None` on anything else or above 64 bits.
pub(crate) fn parse_i64(text: &[u8]) -> Option<i64> {
    core::str::from_utf8(text).ok()?.parse().ok()
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
            assert_eq!(ThreadId::from_text(&form), Some(ThreadId::new(id.as_bytes())), "{form}");
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
            assert_eq!(ThreadId::from_text(wrong), None, "{wrong}");
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
        for text in ["null", "true", "1.0", "5.5", "1e3", "-0", "9223372036854775808", "[1]", "{}"] {
            assert_eq!(RequestId::from_json(text.as_bytes()), None, "{text}");
        }
    }
}
