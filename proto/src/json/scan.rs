//! Finding members without building a tree.
//!
//! The input must be JSON. On other bytes, no function panics, but the results are meaningless. Names are compared by
//! their [text](mod@super::text), not by their spelling.

use super::Span;
use super::text::spells;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Bytes per step when many are skipped. The compiler vectorises such a step.
const CHUNK: usize = 32;

/// Words that are tested one by one before the chunks: most strings are short.
const WORDS: usize = 3;

/// Sets the high bit of each byte of `word` that is zero. Bytes above the first zero byte can be marked wrongly.
const fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGHS
}

/// Returns the eight bytes at `at`, the first one in the lowest position.
#[inline]
fn word(line: &[u8], at: usize) -> Option<u64> {
    line.get(at..)?.first_chunk().map(|eight| u64::from_le_bytes(*eight))
}

/// Returns the offset of the first marked byte of a word.
#[inline]
const fn first_mark(marks: u64) -> usize {
    (marks.trailing_zeros() / 8) as usize
}

/// Moves `at` past whole chunks that contain no byte for which `stops` is true.
#[inline]
fn skip_chunks(line: &[u8], mut at: usize, stops: impl Fn(u8) -> bool) -> usize {
    while let Some(chunk) = line.get(at..).and_then(|rest| rest.first_chunk::<CHUNK>()) {
        if chunk.iter().fold(false, |any, byte| any | stops(*byte)) {
            break;
        }
        at += CHUNK;
    }
    at
}

/// Marks quotes, backslashes and control characters. Bytes above the first mark can be marked wrongly.
#[inline]
const fn string_stops(word: u64) -> u64 {
    let quote = (word ^ (ONES * b'"' as u64)).wrapping_sub(ONES);
    let escape = (word ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
    let control = word.wrapping_sub(ONES * 0x20);
    // Bytes below 0x20 have no high bit of their own and get one from the subtraction.
    (quote | escape | control) & !word & HIGHS
}

/// Returns the offset at or after `at` of the first quote, backslash or control character.
#[inline]
pub(crate) fn string_stop(line: &[u8], at: usize) -> Option<usize> {
    // Most strings are short.
    match word(line, at).map(string_stops) {
        Some(stops) if stops != 0 => Some(at + first_mark(stops)),
        Some(_) => far_string_stop(line, at + 8),
        None => far_string_stop(line, at),
    }
}

/// Returns the 36 bytes of a string that begins at `at`, with its quote, if it has so many and none has to be decoded:
/// the usual form of a thread's id.
#[inline]
pub fn uuid_string(line: &[u8], at: usize) -> Option<&[u8]> {
    let string: &[u8; 38] = line.get(at..)?.first_chunk()?;
    // The last word overlaps the one before.
    let stops = [1, 9, 17, 25, 29].into_iter().fold(0, |stops, at| {
        let word = string[at..at + 8].first_chunk().map_or(0, |eight| u64::from_le_bytes(*eight));
        stops | string_stops(word)
    });
    (string[0] == b'"' && stops == 0 && string[37] == b'"').then_some(&string[1..37])
}

fn far_string_stop(line: &[u8], mut at: usize) -> Option<usize> {
    // Two words in one step, as often as it takes for an id.
    for _ in 0..2 {
        let Some(sixteen) = line.get(at..).and_then(|rest| rest.first_chunk::<16>()) else { break };
        let pair = u128::from_le_bytes(*sixteen);
        let (first, second) = (string_stops(pair as u64), string_stops((pair >> 64) as u64));
        if first | second != 0 {
            return Some(if first != 0 { at + first_mark(first) } else { at + 8 + first_mark(second) });
        }
        at += 16;
    }
    // Four words in one step. A loop over bytes is as fast only where the compiler makes vector instructions of it, which it
    // does not do in the program as a whole.
    while let Some(chunk) = line.get(at..).and_then(|rest| rest.first_chunk::<CHUNK>()) {
        let (words, _) = chunk.as_chunks();
        if words.iter().fold(0, |stops, eight| stops | string_stops(u64::from_le_bytes(*eight))) != 0 {
            break;
        }
        at += CHUNK;
    }
    while let Some(word) = word(line, at) {
        let stops = string_stops(word);
        if stops != 0 {
            return Some(at + first_mark(stops));
        }
        at += 8;
    }
    line.get(at..)?.iter().position(|&b| b == b'"' || b == b'\\' || b < 0x20).map(|offset| at + offset)
}

/// Returns the offset at or after `at` of the first byte that is not white space.
#[inline]
pub fn skip_space(line: &[u8], at: usize) -> usize {
    // Usually there is none, or one space.
    match byte_at(line, at) {
        b' ' if byte_at(line, at + 1) > b' ' => at + 1,
        byte if byte > b' ' => at,
        _ => skip_more_space(line, at),
    }
}

/// Returns the byte at `at`; 0, which begins no token, at the end of the line.
#[inline]
pub(super) fn byte_at(line: &[u8], at: usize) -> u8 {
    line.get(at).copied().unwrap_or(0)
}

/// Returns the offset at or after `at` of the first byte that is not a digit.
#[inline]
pub(crate) fn skip_digits(line: &[u8], mut at: usize) -> usize {
    // Most numbers are short.
    for _ in 0..4 {
        if !byte_at(line, at).is_ascii_digit() {
            return at;
        }
        at += 1;
    }
    skip_more_digits(line, at)
}

fn skip_more_digits(line: &[u8], mut at: usize) -> usize {
    let mut words = 0;
    while let Some(word) = word(line, at) {
        // The exclusive-or maps digits to 0..=9. Other bytes have the high bit set, or get it from the addition.
        let values = word ^ (ONES * b'0' as u64);
        let others = (((values & !HIGHS) + ONES * (0x80 - 10)) | values) & HIGHS;
        if others != 0 {
            return at + first_mark(others);
        }
        at += 8;
        words += 1;
        if words == WORDS {
            at = skip_chunks(line, at, |b| !b.is_ascii_digit());
        }
    }
    while byte_at(line, at).is_ascii_digit() {
        at += 1;
    }
    at
}

fn skip_more_space(line: &[u8], mut at: usize) -> usize {
    let is_space = |b: u8| (b == b' ') | (b == b'\n') | (b == b'\r') | (b == b'\t');
    let near = at + 8;
    while is_space(byte_at(line, at)) {
        at += 1;
        if at == near {
            at = skip_chunks(line, at, |b| !is_space(b));
        }
    }
    at
}

/// Returns the offset after the string whose opening quote is at `at`.
#[inline]
pub fn skip_string(line: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at = string_stop(line, at)?;
        match line[at] {
            b'"' => return Some(at + 1),
            b'\\' => {
                at += 2;
                // Escapes often follow each other.
                while line.get(at) == Some(&b'\\') {
                    at += 2;
                }
            }
            _ => at += 1,
        }
    }
}

/// Returns the offset after the value that starts at `at`.
#[inline]
pub fn skip_value(line: &[u8], mut at: usize) -> Option<usize> {
    match *line.get(at)? {
        b'"' => skip_string(line, at),
        b'{' | b'[' => skip_nested(line, at),
        _ => {
            while let Some(byte) = line.get(at) {
                if matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n') {
                    break;
                }
                at += 1;
            }
            Some(at)
        }
    }
}

/// Returns the offset after the object or array that starts at `at`.
fn skip_nested(line: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0usize;
    loop {
        match *line.get(at)? {
            b'"' => {
                at = skip_string(line, at)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {
                at = nesting_stop(line, at + 1)?;
                continue;
            }
        }
        at += 1;
    }
}

/// Returns the offset at or after `at` of the first quote, bracket or brace, or of another byte that the mask cannot
/// tell from a bracket.
#[inline]
fn nesting_stop(line: &[u8], mut at: usize) -> Option<usize> {
    // Brackets and braces differ from 0x59 in these bits only. So do `Y`, `_`, `y` and 0x7f.
    const SAME: u64 = 0x26;
    while let Some(word) = word(line, at) {
        let quote = zero_bytes(word ^ (ONES * b'"' as u64));
        let nesting = zero_bytes((word | (ONES * SAME)) ^ (ONES * (b'[' as u64 | SAME)));
        let found = quote | nesting;
        if found != 0 {
            return Some(at + first_mark(found));
        }
        at += 8;
    }
    line.get(at..)?
        .iter()
        .position(|b| matches!(b, b'"' | b'{' | b'}' | b'[' | b']'))
        .map(|offset| at + offset)
}

/// One member of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The name between its quotes.
    pub key: Span,
    /// The value.
    pub value: Span,
}

impl Member {
    /// Returns whether `name` is the text of its name.
    #[inline]
    pub fn is(&self, line: &[u8], name: &[u8]) -> bool {
        spells(self.key.of(line), name)
    }
}

/// Iterates over the members of an object.
#[derive(Clone, Debug)]
pub struct Members<'a> {
    line: &'a [u8],
    at: usize,
    state: Walk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Walk {
    Open,
    Closed,
    Broken,
}

impl<'a> Members<'a> {
    /// Starts at the object that begins at offset `at` of `line`. White space before it is allowed.
    pub fn new(line: &'a [u8], at: usize) -> Members<'a> {
        let at = skip_space(line, at);
        if line.get(at) != Some(&b'{') {
            return Members { line, at, state: Walk::Broken };
        }
        let at = skip_space(line, at + 1);
        if line.get(at) == Some(&b'}') {
            return Members { line, at: at + 1, state: Walk::Closed };
        }
        Members { line, at, state: Walk::Open }
    }

    /// Returns the offset after the object; `None` before the last member was returned, and if the object is malformed.
    pub fn end(&self) -> Option<usize> {
        (self.state == Walk::Closed).then_some(self.at)
    }

    #[inline]
    fn step(&mut self) -> Option<Member> {
        let line = self.line;
        if line.get(self.at) != Some(&b'"') {
            return None;
        }
        let key_end = skip_string(line, self.at)?;
        let key = Span { start: self.at + 1, end: key_end - 1 };
        let colon = skip_space(line, key_end);
        if line.get(colon) != Some(&b':') {
            return None;
        }
        let start = skip_space(line, colon + 1);
        let end = skip_value(line, start)?;
        if end == start {
            return None;
        }
        let next = skip_space(line, end);
        match line.get(next)? {
            b',' => self.at = skip_space(line, next + 1),
            b'}' => {
                self.at = next + 1;
                self.state = Walk::Closed;
            }
            _ => return None,
        }
        Some(Member { key, value: Span { start, end } })
    }
}

impl Iterator for Members<'_> {
    type Item = Member;

    #[inline]
    fn next(&mut self) -> Option<Member> {
        if self.state != Walk::Open {
            return None;
        }
        let member = self.step();
        if member.is_none() {
            self.state = Walk::Broken;
        }
        member
    }
}

/// Returns whether the object that starts at `at` has members.
pub fn has_members(line: &[u8], at: usize) -> bool {
    byte_at(line, skip_space(line, at + 1)) != b'}'
}

/// Returns the name, between its quotes, of the first member of the object that starts at `at`; `None` if it is longer
/// than `most` bytes. A longer name is not read to its end.
pub fn first_name(line: &[u8], at: usize, most: usize) -> Option<&[u8]> {
    let start = skip_space(line, at + 1);
    let rest = line.get(start..)?;
    let head = &rest[..rest.len().min(most + 2)];
    let end = skip_string(head, 0).filter(|end| *end <= head.len() && head[0] == b'"')?;
    Some(&head[1..end - 1])
}

/// Returns the value of the first member `name` of the object that starts at `at`.
///
/// For lines of the upstream, which gives no member twice. For a client's line, where the upstream would use the last
/// value, see [`message::Params`](crate::message::Params).
#[inline]
pub fn member(line: &[u8], at: usize, name: &[u8]) -> Option<Span> {
    Members::new(line, at).find(|m| m.is(line, name)).map(|m| m.value)
}

/// Follows a path of member names from the object that starts at `at`.
#[inline]
pub fn member_at(line: &[u8], at: usize, path: &[&str]) -> Option<Span> {
    let mut value = Span { start: at, end: line.len() };
    for key in path {
        value = member(line, value.start, key.as_bytes())?;
    }
    Some(value)
}

/// Returns the inside of a string without its quotes; `None` if `value` is not a string.
#[inline]
pub fn string_inner(line: &[u8], value: Span) -> Option<Span> {
    (line.get(value.start) == Some(&b'"')).then(|| value.inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_string_of_36_bytes_is_a_usual_id() {
        let id = "0199a213-81c0-7800-8aa1-bbab2a035a53";
        let line = format!(r#"x"{id}","#);
        assert_eq!(uuid_string(line.as_bytes(), 1), Some(id.as_bytes()));
        assert_eq!(uuid_string(line.as_bytes(), 0), None);
        for end in 0..line.len() - 1 {
            assert_eq!(uuid_string(&line.as_bytes()[..end], 1), None, "{end}");
        }
        for at in 1..39 {
            for byte in [b'"', b'\\', b'\n'] {
                let mut line = line.clone().into_bytes();
                if line[at] != byte {
                    line[at] = byte;
                    assert_eq!(uuid_string(&line, 1), None, "{at}");
                }
            }
        }
    }

    fn find<'a>(line: &'a str, path: &[&str]) -> Option<&'a str> {
        member_at(line.as_bytes(), 0, path).map(|s| &line[s.start..s.end])
    }

    #[test]
    fn members_are_found_past_nested_values_and_escapes() {
        let line = r#" {"a" : [1,{"b":"}"}] ,"s":"q\"\\","n":-1.5e3,"o":{"id":"x","deep":{"k":null}}} "#;
        assert_eq!(find(line, &["a"]), Some(r#"[1,{"b":"}"}]"#));
        assert_eq!(find(line, &["s"]), Some(r#""q\"\\""#));
        assert_eq!(find(line, &["n"]), Some("-1.5e3"));
        assert_eq!(find(line, &["o", "deep", "k"]), Some("null"));
        assert_eq!(find(line, &["o", "none"]), None);
    }

    #[test]
    fn members_are_found_by_the_text_of_their_name() {
        let line = r#"{"thread":1,"threadI":2,"thre\u0061dId":{"\u0069d":3},"threadIdx":4,"\"":5}"#;
        assert_eq!(find(line, &["threadId", "id"]), Some("3"));
        assert_eq!(find(line, &["\""]), Some("5"));
        assert_eq!(find(line, &["thre\\u0061dId"]), None);
    }

    #[test]
    fn of_members_given_twice_the_first_is_found() {
        let line = br#"{"a":1,"b":2,"\u0061":3}"#;
        assert_eq!(member(line, 0, b"a").unwrap().of(line), b"1");
        assert_eq!(member(line, 0, b"c"), None);
    }

    #[test]
    fn the_first_name_is_found_unless_it_is_long() {
        let first = |line: &'static str| first_name(line.as_bytes(), 0, 5);
        assert_eq!(first(r#"{ "five!":1}"#), Some(&b"five!"[..]));
        assert_eq!(first(r#"{"":1}"#), Some(&b""[..]));
        assert_eq!(first(r#"{"a\"b":1}"#), Some(&br#"a\"b"#[..]));
        for line in [r#"{"sixsix":1}"#, r#"{"fivef\"":1}"#, "{}", "{", "", "{\"a", "[\"", "{\"abcd\\"] {
            assert_eq!(first(line), None, "{line}");
        }
        for (line, has) in [("{}", false), ("{ \t}", false), ("{\"a\":1}", true)] {
            assert_eq!(has_members(line.as_bytes(), 0), has, "{line}");
        }
    }

    #[test]
    fn values_are_skipped_whatever_is_in_them() {
        // Every byte that could stop at every offset of a word and of a chunk, with and without a string around.
        for filler in ["1", "Y", "_", "y", "\u{7f}", "é", " "] {
            for length in 0..80 {
                let many = filler.repeat(length);
                for value in [
                    format!("[{many}]"),
                    format!("{{\"{many}\":[{many}{{}}{many}]}}"),
                    format!("[\"{many}]}}\\\"\",{many}[[]]{many}]"),
                    format!("\"{many}\\\\{many}\""),
                ] {
                    let line = format!("{value},{many}]");
                    assert_eq!(skip_value(line.as_bytes(), 0), Some(value.len()), "{line}");
                    assert_eq!(skip_value(&line.as_bytes()[..value.len() - 1], 0), None, "{line}");
                }
            }
        }
    }

    #[test]
    fn digits_are_skipped_however_many_there_are() {
        let skip = |text: &[u8]| skip_digits(text, 0);
        for length in 0..100 {
            let digits: Vec<u8> = (b'0'..=b'9').cycle().take(length).collect();
            assert_eq!(skip(&digits), length);
            for other in (0..=255u8).filter(|b| !b.is_ascii_digit()) {
                let line = [&digits[..], &[other; 1], b"0123456789"].concat();
                assert_eq!(skip(&line), length, "{other}");
            }
        }
    }

    #[test]
    fn white_space_is_skipped_however_much_there_is() {
        for length in 0..100 {
            for end in ["x", "\u{b}", ""] {
                let space: String = " \t\r\n".chars().cycle().take(length).collect();
                assert_eq!(
                    skip_space(format!("{space}{end} ").as_bytes(), 0),
                    length + usize::from(end.is_empty())
                );
            }
        }
    }

    #[test]
    fn a_broken_object_has_no_end() {
        for line in ["", "{", "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\":1,", "{\"a\":1]", "[1]", "{\"a\":\"x"]
        {
            let mut members = Members::new(line.as_bytes(), 0);
            members.by_ref().for_each(drop);
            assert_eq!(members.end(), None, "{line}");
        }
        let mut members = Members::new(b"{\"a\":1}", 0);
        members.by_ref().for_each(drop);
        assert_eq!(members.end(), Some(7));
    }

    #[test]
    fn the_word_wise_search_agrees_with_the_byte_wise() {
        // Every stop byte at every offset of a word, with neighbours that could borrow.
        for fill in [b'a', 0x20, 0x21, 0x7f, 0x80, 0xff] {
            for at in 0..120 {
                for stop in [b'"', b'\\', 0, 0x1f, b'\n'] {
                    let mut line = [fill; 120];
                    line[at] = stop;
                    assert_eq!(string_stop(&line, 0), Some(at), "{fill:x} {at} {stop:x}");
                }
            }
            assert_eq!(string_stop(&[fill; 120], 0), None);
        }
    }
}
