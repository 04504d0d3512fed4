//! Checking that a line from a client is what the upstream's parser accepts.
//!
//! The upstream drops what its parser rejects without an answer (`docs/protocol.md`, "Messages that codex loses"), and
//! the client would wait forever. So codexd applies the same rules and can answer: RFC 8259, nesting below 128 levels,
//! no lone surrogate escapes, one value with nothing after it. A number can have any size: the upstream keeps its
//! digits (measured).
//!
//! The check is one pass over the line, after one for UTF-8. Its speed must not depend much on the form of the line,
//! since all other clients wait while a slice of a message is checked (`benches/forms.rs`).

use super::Span;
use super::scan::{byte_at, first_name, skip_digits, skip_space, string_stop};
use super::text::{HEX, LONGEST_ESCAPE, spells};

/// Nesting levels at which the upstream's parser gives up (`serde_json`, recursion limit).
const DEPTH_LIMIT: usize = 128;

/// Nesting levels whose members a [`Visitor`] gets.
const VISITED: usize = 2;

/// Member names that `serde_json` reserves for its features `raw_value` and `arbitrary_precision`. The upstream has
/// both.
///
/// `serde_json` replaces an object whose first member has such a name by the JSON in the string that follows. A member
/// in that string would reach the upstream without a check.
const RESERVED: [&[u8]; 2] = [b"$serde_json::private::RawValue", b"$serde_json::private::Number"];

/// Bytes of the longest of these names.
const LONGEST_RESERVED: usize = 30;

/// Why a line is not one JSON value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong, as a phrase for an error message.
    pub what: &'static str,
    /// Byte offset in the line.
    pub at: usize,
}

/// A line that is one JSON value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The value, without the white space around it.
    pub value: Span,
    /// Offset of the last object whose first member has a reserved name.
    pub reserved: Option<usize>,
}

/// A member's name while the member is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Name {
    /// The name between its quotes.
    pub span: Span,
    /// Whether it contains escapes.
    pub escaped: bool,
}

/// Gets the members near the top of a value during the check, so that no second pass has to find them.
pub trait Visitor {
    /// Called when the value of a member of the outermost object begins.
    fn enter(&mut self, line: &[u8], name: Name);

    /// Called when a member is complete, of the outermost object (`depth` 1) or of an object that is the value of one of
    /// its members (`depth` 2).
    fn member(&mut self, line: &[u8], depth: usize, name: Name, value: Span);

    /// Called when an element is complete, of an array that is the value of a member of the outermost object or an
    /// element of the outermost array.
    fn element(&mut self, value: Span);
}

/// Ignores everything.
impl Visitor for () {
    fn enter(&mut self, _: &[u8], _: Name) {}

    fn member(&mut self, _: &[u8], _: usize, _: Name, _: Span) {}

    fn element(&mut self, _: Span) {}
}

/// Checks that `line` is one JSON value, with nothing but white space around it. Returns the span of the value.
///
/// # Errors
/// The first fault. Invalid UTF-8 is one.
pub fn value(line: &[u8]) -> Result<Span, Fault> {
    visit(line, &mut ()).map(|checked| checked.value)
}

/// Checks as [`value`] does, and calls the visitor. Before a fault is returned, the visitor gets what precedes it.
///
/// # Errors
/// The first fault. Invalid UTF-8 is one.
pub fn visit(line: &[u8], visitor: &mut impl Visitor) -> Result<Checked, Fault> {
    let mut check = Check::default();
    while !check.advance(line, line.len(), visitor) {}
    check.result()
}

/// Bytes that are checked for UTF-8 and then for JSON, so that the second pass finds them in the processor's cache.
const WINDOW: usize = 128 << 10;

/// A member whose value is being checked: its name, and the offset of the value.
type OpenMember = (Name, usize);

/// The check of one line in slices, so that other clients can be served between the slices.
///
/// The result does not depend on the size of the slices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// Bytes in the windows so far. A token can extend past them.
    seen: usize,
    /// Bytes that are known to be UTF-8.
    text: usize,
    /// Offset of the value.
    start: usize,
    reserved: Option<usize>,
    /// The member, or the element of an array in the outermost value, that is being checked on each visited level.
    open: [OpenMember; VISITED],
    pause: Pause,
    outcome: Option<Result<Checked, Fault>>,
}

/// Where the next slice continues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pause {
    place: Place,
    at: usize,
    /// The open levels, the innermost in the lowest bit: 1 for an object, 0 for an array.
    kinds: u128,
    depth: usize,
    /// In a string or a name: the offset up to which it is checked.
    inside: usize,
    /// In a name: whether the part that is checked contains an escape.
    escaped: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Before the first value.
    #[default]
    Start,
    /// At the beginning of a value or member.
    Value,
    /// In the member name that begins at `at`.
    Name,
    /// In the string that begins at `at`.
    String,
}

impl Check {
    /// Begins in the object at the beginning of the line, at the member at `at`: what precedes it is known to be correct
    /// except for its text, and the visitor gets nothing of it. The check must be new.
    pub fn begin_at(&mut self, at: usize) {
        self.pause = Pause { place: Place::Value, at, kinds: 1, depth: 1, ..self.pause };
    }

    /// Returns whether nothing was checked yet.
    #[inline]
    pub fn is_new(&self) -> bool {
        self.seen == 0
    }

    /// Checks about `bytes` more bytes, at least one. Returns whether the check is complete.
    ///
    /// `line` must be the same in each call.
    pub fn advance(&mut self, line: &[u8], bytes: usize, visitor: &mut impl Visitor) -> bool {
        let target = self.seen.saturating_add(bytes.max(1)).min(line.len());
        while self.outcome.is_none() {
            self.seen = (self.seen + WINDOW).min(target);
            self.outcome = self.check_window(line, visitor);
            if self.seen == target {
                break;
            }
        }
        self.outcome.is_some()
    }

    /// Returns the result.
    ///
    /// # Errors
    /// The first fault, or that the check is not complete.
    pub fn result(&self) -> Result<Checked, Fault> {
        self.outcome.unwrap_or(Err(Fault { what: "not checked to its end", at: self.seen }))
    }

    /// Checks what is new up to `seen`.
    fn check_window(&mut self, line: &[u8], visitor: &mut impl Visitor) -> Option<Result<Checked, Fault>> {
        let window = &line[..self.seen];
        // The next window checks a character that extends past this one.
        let cut = window.iter().rev().take(3).take_while(|byte| **byte & 0xc0 == 0x80).count();
        let whole = match self.seen - cut {
            end if end == 0 || self.seen == line.len() => self.seen,
            end => end - usize::from(line[end - 1] >= 0xc0),
        };
        match utf8_until(line, self.text, whole) {
            Ok(end) => self.text = end,
            // What precedes it can have a fault of its own, and that is the first one.
            Err(at) => return Some(Err(self.fault_before(line, at, visitor))),
        }
        let mut checker = Checker { line, window, fault: None, check: self };
        let found = checker.value_alone(visitor);
        let fault = checker.fault;
        match (found, fault) {
            (Some(end), _) => {
                Some(Ok(Checked { value: Span { start: self.start, end }, reserved: self.reserved }))
            }
            (None, Some(fault)) => {
                // A token that extends past the window may not be UTF-8.
                match utf8_until(line, self.text, fault.at + LONGEST_CHARACTER) {
                    Err(at) if at <= fault.at => Some(Err(not_text(at))),
                    _ => Some(Err(fault)),
                }
            }
            (None, None) => None,
        }
    }

    /// Returns the first fault of a line of which `text` bytes are UTF-8 and the next one is not.
    #[cold]
    fn fault_before(&mut self, line: &[u8], text: usize, visitor: &mut impl Visitor) -> Fault {
        let line = &line[..text];
        let mut checker = Checker { line, window: line, fault: None, check: self };
        checker.value_alone(visitor);
        match checker.fault {
            Some(fault) if fault.at < text => fault,
            _ => not_text(text),
        }
    }
}

fn not_text(at: usize) -> Fault {
    Fault { what: "invalid UTF-8", at }
}

/// Bytes of the longest character.
const LONGEST_CHARACTER: usize = 4;

/// Checks that the bytes from `start` to `end` are UTF-8. Returns the offset up to which they are, which is less than
/// `end` only if a character extends past it.
///
/// # Errors
/// The offset of the first byte that is not UTF-8.
fn utf8_until(line: &[u8], start: usize, end: usize) -> Result<usize, usize> {
    let end = end.min(line.len());
    let Some(bytes) = line.get(start..end) else { return Ok(start) };
    if simdutf8::basic::from_utf8(bytes).is_ok() {
        return Ok(end);
    }
    match core::str::from_utf8(bytes) {
        Ok(_) => Ok(end),
        Err(error) if error.error_len().is_none() && end < line.len() => Ok(start + error.valid_up_to()),
        Err(error) => Err(start + error.valid_up_to()),
    }
}

/// Checks one window.
///
/// Each method that checks a part of the line returns the offset after that part. On a fault, and at the end of the
/// window inside a string, it records that in a field and returns `None`: an `Option<usize>` fits into registers.
struct Checker<'a, 'c> {
    line: &'a [u8],
    /// The line up to the end of the window. Tokens that are short or quickly skipped can extend past it.
    window: &'a [u8],
    fault: Option<Fault>,
    check: &'c mut Check,
}

impl Checker<'_, '_> {
    #[cold]
    fn fault(&mut self, what: &'static str, at: usize) -> Option<usize> {
        self.fault = Some(if at >= self.line.len() {
            Fault { what: "unexpected end of the line", at: self.line.len() }
        } else {
            Fault { what, at }
        });
        None
    }

    /// Records where to continue, unless there is a fault.
    #[cold]
    fn pause(&mut self, place: Place, at: usize, kinds: u128, depth: usize) -> Option<usize> {
        let Pause { inside, escaped, .. } = self.check.pause;
        self.check.pause = Pause { place, at, kinds, depth, inside, escaped };
        None
    }

    /// Records up to where a string is checked.
    #[cold]
    fn pause_inside(&mut self, at: usize) -> Option<usize> {
        if self.window.len() == self.line.len() {
            return self.fault("", self.line.len());
        }
        self.check.pause.inside = at.max(self.window.len());
        None
    }

    /// Checks the value and the white space after it.
    fn value_alone(&mut self, visitor: &mut impl Visitor) -> Option<usize> {
        let end = self.value(visitor)?;
        match skip_space(self.line, end) {
            rest if rest == self.line.len() => Some(end),
            rest => self.fault("something follows the value", rest),
        }
    }

    /// Checks the value from where the last window ended. Not recursive.
    fn value(&mut self, visitor: &mut impl Visitor) -> Option<usize> {
        let line = self.line;
        let Pause { mut place, mut at, mut kinds, mut depth, .. } = self.check.pause;
        if place == Place::Start {
            at = skip_space(line, 0);
            self.check.start = at;
            place = Place::Value;
        }
        // Whether the innermost open level is an object.
        let mut object = kinds & 1 == 1;
        loop {
            match place {
                // A value or a member begins at `at`.
                Place::Value | Place::Start => {
                    if at >= self.window.len() && at < line.len() {
                        return self.pause(Place::Value, at, kinds, depth);
                    }
                    if object {
                        match self.key(at, depth, visitor) {
                            Some(value) => at = value,
                            None => return self.pause(Place::Name, at, kinds, depth),
                        }
                    } else if depth == VISITED {
                        self.check.open[depth - 1].1 = at;
                    }
                }
                Place::Name => match self.rest_of_key(at, depth, visitor) {
                    Some(value) => at = value,
                    None => return self.pause(Place::Name, at, kinds, depth),
                },
                Place::String => {}
            }
            match byte_at(line, at) {
                b'"' => {
                    let from = if place == Place::String { self.check.pause.inside } else { at + 1 };
                    match self.rest_of_string(from) {
                        Some(end) => at = end,
                        None => return self.pause(Place::String, at, kinds, depth),
                    }
                }
                open @ (b'{' | b'[') => {
                    if depth + 1 >= DEPTH_LIMIT {
                        return self.fault("nesting too deep", at);
                    }
                    // In ASCII, the closing character is the opening one plus two.
                    let inside = skip_space(line, at + 1);
                    if byte_at(line, inside) == open + 2 {
                        at = inside + 1;
                    } else {
                        object = open == b'{';
                        if object && matches!(byte_at(line, inside + 1), b'$' | b'\\') {
                            self.check_first_name(at);
                        }
                        depth += 1;
                        kinds = (kinds << 1) | u128::from(object);
                        at = inside;
                        place = Place::Value;
                        continue;
                    }
                }
                // Most numbers in long lists are single digits.
                b'0'..=b'9' if matches!(byte_at(line, at + 1), b',' | b']' | b'}') => at += 1,
                b'-' | b'0'..=b'9' => at = self.number(at)?,
                b't' => at = self.word(at, b"true")?,
                b'f' => at = self.word(at, b"false")?,
                b'n' => at = self.word(at, b"null")?,
                _ => return self.fault("expected a value", at),
            }
            place = Place::Value;
            // A value ended before `at`: close the levels that end here, or continue with the next value.
            loop {
                if depth <= VISITED {
                    if depth == 0 {
                        return Some(at);
                    }
                    let (name, start) = self.check.open[depth - 1];
                    if object {
                        visitor.member(line, depth, name, Span { start, end: at });
                    } else if depth == VISITED {
                        visitor.element(Span { start, end: at });
                    }
                }
                at = skip_space(line, at);
                let byte = byte_at(line, at);
                if byte == b',' {
                    at = skip_space(line, at + 1);
                    break;
                }
                if byte != if object { b'}' } else { b']' } {
                    return self.fault("expected a comma or the end of the object or array", at);
                }
                at += 1;
                depth -= 1;
                kinds >>= 1;
                object = kinds & 1 == 1;
            }
        }
    }

    /// Checks a member name and its colon. Returns the offset of the member's value.
    #[inline]
    fn key(&mut self, at: usize, depth: usize, visitor: &mut impl Visitor) -> Option<usize> {
        if byte_at(self.line, at) != b'"' {
            return self.fault("expected a member name", at);
        }
        let Some(stop) = string_stop(self.window, at + 1) else {
            self.check.pause.escaped = false;
            return self.pause_inside(at + 1);
        };
        let escaped = self.line[stop] != b'"';
        let end = if escaped {
            self.check.pause.escaped = true;
            self.rest_of_string(stop)?
        } else {
            stop + 1
        };
        self.key_ended(at, end, escaped, depth, visitor)
    }

    /// Checks the rest of the member name that begins at `at`.
    #[cold]
    fn rest_of_key(&mut self, at: usize, depth: usize, visitor: &mut impl Visitor) -> Option<usize> {
        let inside = self.check.pause.inside;
        // A stop that is not a quote is an escape or a fault.
        self.check.pause.escaped |=
            string_stop(self.window, inside).is_some_and(|stop| self.line[stop] != b'"');
        let escaped = self.check.pause.escaped;
        let end = self.rest_of_string(inside)?;
        self.key_ended(at, end, escaped, depth, visitor)
    }

    #[inline]
    fn key_ended(
        &mut self,
        at: usize,
        end: usize,
        escaped: bool,
        depth: usize,
        visitor: &mut impl Visitor,
    ) -> Option<usize> {
        let colon = skip_space(self.line, end);
        if byte_at(self.line, colon) != b':' {
            return self.fault("expected a colon", colon);
        }
        let start = skip_space(self.line, colon + 1);
        if depth <= VISITED {
            let name = Name { span: Span { start: at + 1, end: end - 1 }, escaped };
            self.check.open[depth - 1] = (name, start);
            if depth == 1 {
                visitor.enter(self.line, name);
            }
        }
        Some(start)
    }

    /// Records an object whose first member has a reserved name.
    #[cold]
    fn check_first_name(&mut self, object: usize) {
        // A longer name is not reserved.
        let name = first_name(self.line, object, LONGEST_ESCAPE * LONGEST_RESERVED);
        if name.is_some_and(|name| RESERVED.iter().any(|reserved| spells(name, reserved))) {
            self.check.reserved = Some(object);
        }
    }

    /// Checks the rest of a string.
    #[inline]
    fn rest_of_string(&mut self, mut at: usize) -> Option<usize> {
        loop {
            let Some(stop) = string_stop(self.window, at) else { return self.pause_inside(at) };
            match self.line[stop] {
                b'"' => return Some(stop + 1),
                b'\\' => at = self.escapes(stop)?,
                _ => return self.fault("control character in a string", stop),
            }
        }
    }

    /// Checks the escape at `at` and those right after it.
    fn escapes(&mut self, mut at: usize) -> Option<usize> {
        let line = self.line;
        loop {
            at = match byte_at(line, at + 1) {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => at + 2,
                b'u' => {
                    let Some(unit) = hex4(line, at + 2) else { return self.bad_digits(at + 2) };
                    match unit {
                        0xdc00..=0xdfff => return self.fault("lone surrogate in a string", at),
                        0xd800..=0xdbff if line.get(at + 6..at + 8) == Some(b"\\u") => {
                            match hex4(line, at + 8) {
                                Some(0xdc00..=0xdfff) => at + 12,
                                Some(_) => return self.fault("lone surrogate in a string", at),
                                None => return self.bad_digits(at + 8),
                            }
                        }
                        0xd800..=0xdbff => return self.fault("lone surrogate in a string", at),
                        _ => at + 6,
                    }
                }
                _ => return self.fault("unknown escape in a string", at + 1),
            };
            if at >= self.window.len() || line[at] != b'\\' {
                return Some(at);
            }
        }
    }

    #[cold]
    fn bad_digits(&mut self, at: usize) -> Option<usize> {
        let digits = self.line.iter().skip(at).take_while(|b| b.is_ascii_hexdigit()).count();
        self.fault("expected four hexadecimal digits", at + digits)
    }

    #[inline]
    fn number(&mut self, at: usize) -> Option<usize> {
        let line = self.line;
        let first = at + usize::from(line[at] == b'-');
        let end = skip_digits(line, first);
        // No digit, or a digit after a leading zero.
        if end == first || (line[first] == b'0' && end != first + 1) {
            return self.fault("expected a number", end.min(first + 1));
        }
        if matches!(byte_at(line, end), b'.' | b'e' | b'E') { self.fraction(end) } else { Some(end) }
    }

    /// Checks what follows the integer part of a number.
    fn fraction(&mut self, mut at: usize) -> Option<usize> {
        if byte_at(self.line, at) == b'.' {
            at = self.digits(at + 1)?;
        }
        if matches!(byte_at(self.line, at), b'e' | b'E') {
            let sign = at + 1;
            at = self.digits(sign + usize::from(matches!(byte_at(self.line, sign), b'+' | b'-')))?;
        }
        Some(at)
    }

    /// Checks one or more digits.
    #[inline]
    fn digits(&mut self, at: usize) -> Option<usize> {
        let end = skip_digits(self.line, at);
        if end == at { self.fault("expected a digit", at) } else { Some(end) }
    }

    #[inline]
    fn word(&mut self, at: usize, word: &[u8]) -> Option<usize> {
        if self.line[at..].starts_with(word) { Some(at + word.len()) } else { self.fault("unknown word", at) }
    }
}

/// Returns the value of the four hexadecimal digits at `at`; `None` if one of them is not a digit.
#[inline]
fn hex4(line: &[u8], at: usize) -> Option<u32> {
    let digits = line.get(at..)?.first_chunk::<4>()?;
    let [a, b, c, d] = digits.map(|digit| u32::from(HEX[usize::from(digit)]));
    (a | b | c | d < 16).then_some(a << 12 | b << 8 | c << 4 | d)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same judgement by the parser the upstream uses; `None` where its features make it differ: the
    /// upstream's reads numbers of any size.
    fn serde_takes(line: &[u8]) -> Option<bool> {
        match serde_json::from_slice::<serde_json::Value>(line) {
            Ok(_) => Some(true),
            Err(error) if error.to_string().starts_with("number out of range") => None,
            Err(_) => Some(false),
        }
    }

    #[test]
    fn agrees_with_serde_json_on_hand_picked_lines() {
        let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
        let mut lines: Vec<Vec<u8>> = [
            "{}",
            "[]",
            " [ ] ",
            "{\"a\":1}",
            "{\"a\":1,}",
            "{,}",
            "[1,]",
            "[,1]",
            "{\"a\" 1}",
            "{\"a\":}",
            "{a:1}",
            "{\"a\"}",
            "{\"a\\u0062\":1}",
            "{\"\\u00\":1}",
            "{\"\\ud800\":1}",
            "{\"\\x\":1}",
            "{\"\\",
            "{\"$serde_json::private::Raw\":1}",
            "{\"a\":1,\"$serde_json::private::RawValue\":1}",
            "nul",
            "null",
            "true ",
            "falsey",
            "-",
            "-0",
            "01",
            "1.",
            ".5",
            "1e",
            "1e+",
            "1e5",
            "1E-5",
            "1e-999",
            "0e999",
            "1.5.5",
            "1e5e5",
            "123456789012345678901234567890",
            "-123456789.0123456789e-17",
            "12345678a",
            "1234567-",
            "\"a",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u12g4\"",
            "\"\\u",
            "\"\\u00e",
            "\"\\uABCD\\uabcd\\/\\b\\f\\n\\r\\t\\\\\\\"\"",
            "\"\\u0041\"",
            "\"\\ud800\"",
            "\"\\udc00\"",
            "\"\\ud83d\\ude00\"",
            "\"\\ud83d\\ude00\\ud83d\"",
            "\"\\ud83d\\u0041\"",
            "\"\\ud83dx\"",
            "\"\\ud83d\\",
            "\"tab\there\"",
            "{} {}",
            "{}x",
            "\u{feff}{}",
            "",
            "   ",
            "{\"a\":[{\"b\":[[],{}]}]}",
            "[}",
            "{]",
            "[[]",
            "{\"a\":{}",
        ]
        .iter()
        .map(|s| s.as_bytes().to_vec())
        .collect();
        lines.push(b"\"\xff\"".to_vec());
        lines.push(b"\"\xed\xa0\x80\"".to_vec());
        for n in [126, 127, 128, 129] {
            lines.push(nested(n).into_bytes());
            lines.push(nested(n).replace("[]", "{}").into_bytes());
            lines.push(("{\"a\":".repeat(n) + "1" + &"}".repeat(n)).into_bytes());
        }
        for line in &lines {
            assert_eq!(Some(value(line).is_ok()), serde_takes(line), "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn a_number_may_have_any_size() {
        for number in
            ["1e999", "-1E+999", "1e99999999999999999999", "1.7976931348623159e308", &"9".repeat(400)]
        {
            assert!(value(format!("[{number}]").as_bytes()).is_ok(), "{number}");
            assert!(value(format!("[{number}.]").as_bytes()).is_err(), "{number}");
        }
    }

    /// Random numbers that are the same at every run (xorshift).
    fn random() -> impl FnMut(usize) -> usize {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        move |n: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % n as u64) as usize
        }
    }

    #[test]
    fn agrees_with_serde_json_on_mutated_lines() {
        let long = format!(
            r#"{{"{0}\u0061":"{0}é漢😀\ud83d\ude00{0}","n":[{1},{1}.{1}e-{1},  {2}  1],"s":"\n\r\"\\\u00e9\u6F22"}}"#,
            "name ".repeat(10),
            "1234567890".repeat(5),
            " ".repeat(70)
        );
        let seeds: [&[u8]; 5] = [
            br#"{"id":"a\u00e9\n","method":"turn/start","params":{"n":[-1.5e3,0,true,null,{"k":""}]}}"#,
            br#"{"\u0069d":1,"m\u0065thod":"a\/b","param\u0073":{"thre\u0061dId":"\ud83d\ude00"}}"#,
            br#"{"":{"":[[[{"":{}}]],{"a":[],"b":{},"c":[{},{}]}]},"x":{"y":{"z":[1,[2,[3]]]}}}"#,
            "{\"Ærø\":\"漢字仮名\",\"e\":\"😀😀\",\"l\":\"ñandú\"}".as_bytes(),
            long.as_bytes(),
        ];
        let mut random = random();
        let alphabet = b"{}[]\",:\\u0123eE+-.tfn \x00\xc3\xa9\xe6\xf0\x9f\xedd8$";
        let mut compared = 0;
        for round in 0..300_000 {
            let mut line = seeds[round % seeds.len()].to_vec();
            for _ in 0..random(4) {
                let at = random(line.len());
                match random(4) {
                    0 => line[at] = alphabet[random(alphabet.len())],
                    1 => line.insert(at, alphabet[random(alphabet.len())]),
                    2 => {
                        let piece = line[at..(at + random(8)).min(line.len())].to_vec();
                        let to = random(line.len());
                        line.splice(to..to, piece);
                    }
                    _ => drop(line.remove(at)),
                }
            }
            if let Some(takes) = serde_takes(&line) {
                compared += 1;
                assert_eq!(value(&line).is_ok(), takes, "{}", String::from_utf8_lossy(&line));
            }
        }
        assert!(compared > 290_000, "{compared}");
    }

    /// What a visitor got, and what was found.
    #[derive(Debug, Default, PartialEq)]
    struct Record {
        seen: Vec<(usize, Name, Span)>,
        outcome: Option<Result<Checked, Fault>>,
    }

    impl Visitor for Record {
        fn enter(&mut self, _: &[u8], name: Name) {
            self.seen.push((0, name, Span::default()));
        }

        fn member(&mut self, _: &[u8], depth: usize, name: Name, value: Span) {
            self.seen.push((depth, name, value));
        }

        fn element(&mut self, value: Span) {
            self.seen.push((3, Name::default(), value));
        }
    }

    /// Checks a line in slices of lengths that `next` gives.
    fn in_slices(line: &[u8], mut next: impl FnMut() -> usize) -> Record {
        let mut record = Record::default();
        let mut check = Check::default();
        assert!(check.result().is_err());
        while !check.advance(line, next(), &mut record) {}
        assert!(check.advance(line, 1, &mut record), "it stays complete");
        Record { outcome: Some(check.result()), ..record }
    }

    #[test]
    fn where_a_line_is_cut_does_not_matter() {
        let whole = |line: &[u8]| in_slices(line, || usize::MAX);
        let seeds: [&[u8]; 7] = [
            br#" {"id":"a\u00e9\n\ud83d\ude00","method":"turn/start","params":{"n":[-1.5e3,0,true,null,{"k":""}]}} "#,
            br#"{"\u0069d":1,"m\u0065thod":"a\/b","param\u0073":[{"thre\u0061dId":"\ud83d\ude00"},["x"],5]}"#,
            br#"{"\u0024serde_json::private::Number":"1","a":{"$serde_json::private::RawValue":"2"},"b":[{}]}"#,
            "{\"Ærø\":\"漢字仮名\",\"e\":\"😀😀\",\"l\":[\"ñandú\"]}".as_bytes(),
            b"\"\xf0\x9f\x98\x80\x80\x80\x80\xc3\xa9\xe6\xbc\"",
            br#"[[1 , 2222222222222222222222 ,"3"],  [[]] ,"\\\"\\"]"#,
            br#""just a string with an \u0065scape""#,
        ];
        let mut random = random();
        let alphabet = b"{}[]\",:\\u0123eE+-.tfn \x00\xc3\xa9\xe6\xf0\x9f\xedd8$";
        for round in 0..40_000 {
            let mut line = seeds[round % seeds.len()].to_vec();
            for _ in 0..random(3) {
                let at = random(line.len());
                match random(3) {
                    0 => line[at] = alphabet[random(alphabet.len())],
                    1 => line.insert(at, alphabet[random(alphabet.len())]),
                    _ => drop(line.remove(at)),
                }
            }
            let expected = whole(&line);
            let longest = 1 + random(12);
            let cut = in_slices(&line, || random(longest) + 1);
            assert_eq!(cut, expected, "{}", String::from_utf8_lossy(&line));
        }
        // Windows end in it, too.
        for filler in ["x", "\\n", "\\ud83d\\ude00", "漢", "1,", "[],", "{\"\\u0061\":0},", "         "] {
            let many = filler.repeat(3 * WINDOW / filler.len());
            for line in [
                format!("{{\"{many}\":[\"{many}\"],\"params\":{{\"{many}a\\u0061\":1}}}}"),
                format!("[[{many}0],{many}0]"),
                format!("[[{many}0],{many}0"),
            ] {
                let cut = in_slices(line.as_bytes(), || random(WINDOW) + 1);
                assert_eq!(cut, whole(line.as_bytes()), "{filler}");
                let valid = serde_takes(line.as_bytes()).expect("the numbers are small");
                assert_eq!(cut.outcome.is_some_and(|outcome| outcome.is_ok()), valid, "{filler}");
            }
        }
    }

    #[test]
    fn the_fast_check_for_utf8_agrees_with_that_of_the_language() {
        let mut random = random();
        let text = "plain text, Ærøskøbing, 漢字仮名交じり文, 😀🎉, and plain text again, long enough for wide registers";
        for _ in 0..200_000 {
            let mut bytes = text.as_bytes()[..random(text.len() + 1)].to_vec();
            for _ in 0..random(3) {
                if !bytes.is_empty() {
                    let at = random(bytes.len());
                    bytes[at] = random(256) as u8;
                }
            }
            assert_eq!(
                simdutf8::basic::from_utf8(&bytes).is_ok(),
                core::str::from_utf8(&bytes).is_ok(),
                "{bytes:?}"
            );
        }
        for scalar in 0..=0x11_0000u32 {
            // As a char would be encoded, also what is none.
            let tail = |shift: u32| 0x80 | (scalar >> shift & 0x3f) as u8;
            let bytes = match scalar {
                0..0x80 => vec![scalar as u8],
                0x80..0x800 => vec![0xc0 | (scalar >> 6) as u8, tail(0)],
                0x800..0x1_0000 => vec![0xe0 | (scalar >> 12) as u8, tail(6), tail(0)],
                _ => vec![0xf0 | (scalar >> 18) as u8, tail(12), tail(6), tail(0)],
            };
            assert_eq!(
                simdutf8::basic::from_utf8(&bytes).is_ok(),
                core::str::from_utf8(&bytes).is_ok(),
                "{bytes:?}"
            );
        }
        assert_eq!(value(b"[\"\xc3\xa9\xff\"]"), Err(Fault { what: "invalid UTF-8", at: 4 }));
        assert_eq!(value(b"[\"\xc3"), Err(Fault { what: "invalid UTF-8", at: 2 }));
    }

    #[test]
    fn objects_that_begin_with_a_reserved_name_are_seen() {
        let reserved = |line: &str| visit(line.as_bytes(), &mut ()).unwrap().reserved;
        for name in [
            "$serde_json::private::RawValue",
            "$serde_json::private::Number",
            r"\u0024serde_json::private::RawValue",
            r"$serde\u005fjson::private::Number",
        ] {
            assert_eq!(reserved(&format!(r#"{{"{name}":"1"}}"#)), Some(0), "{name}");
            assert_eq!(reserved(&format!(r#"{{"a":[1,{{ "{name}":"1"}}]}}"#)), Some(8), "{name}");
            assert_eq!(reserved(&format!(r#"{{"a":1,"{name}":"1"}}"#)), None, "{name}");
            assert_eq!(reserved(&format!(r#"{{"a":"{name}"}}"#)), None, "{name}");
            assert_eq!(reserved(&format!(r#"{{"{name}x":"1"}}"#)), None, "{name}");
        }
    }

    #[test]
    fn a_visitor_gets_the_members_of_two_levels() {
        #[derive(Default)]
        struct Seen(Vec<String>);
        impl Visitor for Seen {
            fn enter(&mut self, line: &[u8], name: Name) {
                self.0.push(format!("> {}", String::from_utf8_lossy(name.span.of(line))));
            }

            fn member(&mut self, line: &[u8], depth: usize, name: Name, value: Span) {
                assert_eq!(name.escaped, name.span.of(line).contains(&b'\\'));
                let [name, value] =
                    [name.span, value].map(|span| String::from_utf8_lossy(span.of(line)).into_owned());
                self.0.push(format!("{depth} {name} {value}"));
            }

            fn element(&mut self, value: Span) {
                self.0.push(format!("{}..{}", value.start, value.end));
            }
        }
        let seen = |line: &str| {
            let mut seen = Seen::default();
            visit(line.as_bytes(), &mut seen).unwrap();
            seen.0
        };
        assert_eq!(
            seen(r#" { "a" : {"b":[{"c":1}], "\u0064":"x" } ,"e":[{"f":0}],"g":{},"h": {"i":{"j":{}}} }"#),
            [
                "> a",
                r#"2 b [{"c":1}]"#,
                r#"2 \u0064 "x""#,
                r#"1 a {"b":[{"c":1}], "\u0064":"x" }"#,
                "> e",
                "46..53",
                r#"1 e [{"f":0}]"#,
                "> g",
                "1 g {}",
                "> h",
                r#"2 i {"j":{}}"#,
                r#"1 h {"i":{"j":{}}}"#,
            ]
        );
        // The outermost value is no object: only what is right in it is seen.
        assert_eq!(seen(r#"[{"a":{"b":1}}]"#), [r#"2 a {"b":1}"#]);
        assert_eq!(seen("[[5 ,\"]\"],6]"), ["2..3", "5..8"]);
        assert_eq!(seen("{\"a\":[ [1],{\"b\":2} ]}"), ["> a", "7..10", "11..18", "1 a [ [1],{\"b\":2} ]"]);
        assert_eq!(seen("5"), [] as [&str; 0]);
    }
}
