//! Finding members without building a tree.
//!
//! The input is trusted to be JSON: the functions never panic on other bytes, but what they find
//! there means nothing. Keys are compared as they stand, escapes in keys are not decoded.

use super::Span;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Marks (in the high bit) each byte of `word` that is zero; bits above the first mark may be wrong.
const fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word & HIGHS
}

/// Returns the offset at or after `at` of the first quote, backslash or control character.
///
/// Looks at eight bytes at a time: strings are most of what passes through.
#[inline]
pub(super) fn string_stop(line: &[u8], mut at: usize) -> Option<usize> {
    while let Some(eight) = line.get(at..at + 8) {
        // INVARIANT: the slice has eight bytes.
        let word = u64::from_le_bytes([
            eight[0], eight[1], eight[2], eight[3], eight[4], eight[5], eight[6], eight[7],
        ]);
        let quote = zero_bytes(word ^ (ONES * b'"' as u64));
        let escape = zero_bytes(word ^ (ONES * b'\\' as u64));
        // A byte below 0x20: no high bit of its own, and subtracting 0x20 borrows.
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
        let found = quote | escape | control;
        if found != 0 {
            return Some(at + (found.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    while let Some(&byte) = line.get(at) {
        if byte == b'"' || byte == b'\\' || byte < 0x20 {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// Returns the offset at or after `at` that is not white space.
#[inline]
pub fn skip_space(line: &[u8], mut at: usize) -> usize {
    while matches!(line.get(at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
        at += 1;
    }
    at
}

/// Returns the offset behind the string whose opening quote is at `at`.
#[inline]
pub fn skip_string(line: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at = string_stop(line, at)?;
        match line[at] {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Returns the offset behind the value that starts at `at`.
#[inline]
pub fn skip_value(line: &[u8], mut at: usize) -> Option<usize> {
    match *line.get(at)? {
        b'"' => skip_string(line, at),
        b'{' | b'[' => {
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
                    _ => {}
                }
                at += 1;
            }
        }
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

/// One member of an object: offsets of key (without quotes) and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The key between its quotes.
    pub key: Span,
    /// The value.
    pub value: Span,
}

/// Walks over the members of an object.
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
    /// Starts at the object that begins at offset `at` of `line` (white space allowed before it).
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

    /// Returns the offset behind the object, once all members were seen and it was well formed.
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

/// Returns the value of the first member called `key` of the object that starts at `at`.
#[inline]
pub fn member(line: &[u8], at: usize, key: &[u8]) -> Option<Span> {
    Members::new(line, at).find(|m| m.key.of(line) == key).map(|m| m.value)
}

/// Follows `path` of member names, from the object that starts at `at`.
#[inline]
pub fn member_at(line: &[u8], at: usize, path: &[&str]) -> Option<Span> {
    let mut value = Span { start: at, end: line.len() };
    for key in path {
        value = member(line, value.start, key.as_bytes())?;
    }
    Some(value)
}

/// Returns what stands between the quotes if `value` is a string.
#[inline]
pub fn string_inner(line: &[u8], value: Span) -> Option<Span> {
    (line.get(value.start) == Some(&b'"')).then(|| value.inner())
}

#[cfg(test)]
mod tests {
    use super::*;

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
            for at in 0..24 {
                for stop in [b'"', b'\\', 0, 0x1f, b'\n'] {
                    let mut line = [fill; 24];
                    line[at] = stop;
                    assert_eq!(string_stop(&line, 0), Some(at), "{fill:x} {at} {stop:x}");
                }
            }
            assert_eq!(string_stop(&[fill; 24], 0), None);
        }
    }
}
