//! The text of a JSON string, independent of its spelling.
//!
//! `"thread/start"`, `"thread\/start"` and `"\u0074hread/start"` are the same string to every JSON parser. So every
//! decision that depends on a string uses its text; the spelling matters only where a string is passed on. A string
//! without a backslash is its own text and is not copied.
//!
//! The strings must be checked. On others, no function panics, but the results are meaningless.

use std::borrow::Cow;

use memchr::memchr;

use super::Span;
use super::scan::string_inner;

/// Bytes of the longest spelling of one byte of text: `\u0061`.
pub(super) const LONGEST_ESCAPE: usize = 6;

/// Returns the text of a string, in UTF-8; `None` if `value` is not a string.
#[inline]
pub fn text(line: &[u8], value: Span) -> Option<Cow<'_, [u8]>> {
    string_inner(line, value).map(|inner| decoded(inner.of(line)))
}

/// Returns whether `value` is a string with this text.
#[inline]
pub fn is_text(line: &[u8], value: Span, text: &[u8]) -> bool {
    string_inner(line, value).is_some_and(|inner| spells(inner.of(line), text))
}

/// Returns the text of a string; `inner` is what is between its quotes.
#[inline]
pub fn decoded(inner: &[u8]) -> Cow<'_, [u8]> {
    match memchr(b'\\', inner) {
        None => Cow::Borrowed(inner),
        Some(_) => Cow::Owned(decode(inner)),
    }
}

#[cold]
fn decode(inner: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(inner.len());
    for piece in (Pieces { rest: inner }) {
        match piece {
            Piece::Plain(bytes) => out.extend_from_slice(bytes),
            Piece::Escape(c) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out
}

/// Returns whether the string with `inner` between its quotes has this text. Does not allocate.
#[inline]
pub fn spells(inner: &[u8], text: &[u8]) -> bool {
    if inner.len() > text.len() {
        return spells_with_escapes(inner, text);
    }
    // An escape is longer than the text it represents.
    inner == text && memchr(b'\\', inner).is_none()
}

fn spells_with_escapes(inner: &[u8], mut text: &[u8]) -> bool {
    if inner.len() / LONGEST_ESCAPE > text.len() {
        return false;
    }
    for piece in (Pieces { rest: inner }) {
        let rest = match piece {
            Piece::Plain(bytes) => text.strip_prefix(bytes),
            Piece::Escape(c) => text.strip_prefix(c.encode_utf8(&mut [0; 4]).as_bytes()),
        };
        match rest {
            Some(rest) => text = rest,
            None => return false,
        }
    }
    text.is_empty()
}

/// Returns whether two strings, given without their quotes, have the same text.
pub fn same_text(a: &[u8], b: &[u8]) -> bool {
    a == b
        || ((memchr(b'\\', a).is_some() || memchr(b'\\', b).is_some())
            && decoded(a).as_ref() == decoded(b).as_ref())
}

/// Decodes the string with `inner` between its quotes into `buffer`. Returns the text; `None` if `buffer` is too short.
pub(crate) fn decode_into<'b>(inner: &[u8], buffer: &'b mut [u8]) -> Option<&'b [u8]> {
    if inner.len() / LONGEST_ESCAPE > buffer.len() {
        return None;
    }
    let mut length = 0;
    let mut pieces = Pieces { rest: inner };
    loop {
        // Byte by byte: for short strings that is faster than searching the next escape.
        match pieces.rest {
            [] => return Some(&buffer[..length]),
            [byte, rest @ ..] if *byte != b'\\' => {
                *buffer.get_mut(length)? = *byte;
                length += 1;
                pieces.rest = rest;
            }
            _ => {
                let Some(Piece::Escape(c)) = pieces.next() else { return None };
                let free = buffer.get_mut(length..).filter(|free| free.len() >= c.len_utf8())?;
                length += c.encode_utf8(free).len();
            }
        }
    }
}

/// The value of each hexadecimal digit; 16 for all other bytes.
pub(super) static HEX: [u8; 256] = {
    let mut table = [16; 256];
    let mut digit = 0;
    while digit < 16 {
        let lower = b"0123456789abcdef"[digit];
        table[lower as usize] = digit as u8;
        table[lower.to_ascii_uppercase() as usize] = digit as u8;
        digit += 1;
    }
    table
};

/// A part of a string.
enum Piece<'a> {
    /// Bytes without an escape.
    Plain(&'a [u8]),
    /// An escape, or the two of a surrogate pair.
    Escape(char),
}

/// Splits the inside of a string into pieces.
struct Pieces<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        match self.rest {
            [] => None,
            [b'\\', kind, rest @ ..] => {
                self.rest = rest;
                Some(Piece::Escape(match kind {
                    b'b' => '\u{8}',
                    b'f' => '\u{c}',
                    b'n' => '\n',
                    b'r' => '\r',
                    b't' => '\t',
                    b'u' => self.code_point(),
                    other => char::from(*other),
                }))
            }
            rest => {
                // A checked string has no lone backslash at its end.
                let end = memchr(b'\\', &rest[1..]).map_or(rest.len(), |at| at + 1);
                let (plain, rest) = rest.split_at(end);
                self.rest = rest;
                Some(Piece::Plain(plain))
            }
        }
    }
}

impl Pieces<'_> {
    /// Reads the four digits after `\u`, and for a surrogate also its other half.
    fn code_point(&mut self) -> char {
        let high = self.unit();
        if (0xd800..0xdc00).contains(&high)
            && let Some(rest) = self.rest.strip_prefix(b"\\u")
        {
            let mut low = Pieces { rest };
            let low_unit = low.unit();
            if (0xdc00..0xe000).contains(&low_unit) {
                self.rest = low.rest;
                let code = 0x1_0000 + ((high - 0xd800) << 10) + (low_unit - 0xdc00);
                return char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
            }
        }
        char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER)
    }

    fn unit(&mut self) -> u32 {
        let Some((digits, rest)) = self.rest.split_first_chunk::<4>() else {
            self.rest = &[];
            return 0xfffd;
        };
        self.rest = rest;
        // Bytes that are not digits can occur only in unchecked strings.
        digits.iter().fold(0, |code, digit| code << 4 | u32::from(HEX[usize::from(*digit)] & 15))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Strings with escapes of every kind, between their quotes.
    const SPELLINGS: [&str; 13] = [
        "",
        "plain",
        r"thread\/start",
        r"\u0074hread/start",
        r#"\"\\\/\b\f\n\r\t"#,
        r"\u0000\u001F\u007f\u00e9\u6F22",
        r"\ud83d\ude00",
        r"a\uD83D\uDE00b",
        "é漢😀",
        r"é\u00e9é",
        r"\\u0061",
        r"\u0061",
        r"\\\u0061\\",
    ];

    #[test]
    fn the_text_is_what_serde_json_reads() {
        for inner in SPELLINGS {
            let expected: String = serde_json::from_str(&format!("\"{inner}\"")).unwrap();
            let line = format!("  \"{inner}\" ");
            let span = Span { start: 2, end: line.len() - 1 };
            assert_eq!(text(line.as_bytes(), span).unwrap(), expected.as_bytes(), "{inner}");
            assert!(is_text(line.as_bytes(), span, expected.as_bytes()), "{inner}");
            assert!(!is_text(line.as_bytes(), span, format!("{expected}x").as_bytes()), "{inner}");
            let mut buffer = [0; 32];
            assert_eq!(decode_into(inner.as_bytes(), &mut buffer), Some(expected.as_bytes()), "{inner}");
            assert_eq!(
                decode_into(inner.as_bytes(), &mut buffer[..expected.len().saturating_sub(1)]).is_none(),
                !expected.is_empty(),
                "{inner}"
            );
        }
        assert_eq!(text(b"5", Span { start: 0, end: 1 }), None);
    }

    #[test]
    fn only_a_string_with_an_escape_is_copied() {
        assert!(matches!(decoded(b"thread/start"), Cow::Borrowed(_)));
        assert!(matches!(decoded(b"thread\\/start"), Cow::Owned(_)));
    }

    #[test]
    fn spellings_are_equal_exactly_if_their_texts_are() {
        let read = |inner: &str| serde_json::from_str::<String>(&format!("\"{inner}\"")).unwrap();
        for a in SPELLINGS {
            for b in SPELLINGS {
                assert_eq!(same_text(a.as_bytes(), b.as_bytes()), read(a) == read(b), "{a} {b}");
                assert_eq!(spells(a.as_bytes(), read(b).as_bytes()), read(a) == read(b), "{a} {b}");
            }
        }
    }

    #[test]
    fn what_is_no_string_does_not_panic() {
        for inner in [r"\", r"\u", r"\u12", r"\ud800", r"\ud800\", r"\ud800\u", r"\ud800\u0041", r"\x", "a\\"]
        {
            decoded(inner.as_bytes());
            assert!(!spells(inner.as_bytes(), b"text that is not there"));
        }
    }
}
