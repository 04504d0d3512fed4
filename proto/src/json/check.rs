//! Checking a line from a client: is it what the upstream's parser would take?
//!
//! The upstream drops what its parser refuses without any answer (`docs/protocol.md`, bad input),
//! and a client that waits for an answer would hang. So the same rules are applied here, where an
//! answer can be given: RFC 8259, nesting below 128 levels, no lone surrogate escapes, no number
//! beyond the range of a double, one value and nothing behind it.

use super::Span;
use super::scan::{skip_space, string_stop};

/// Levels of nesting at which the upstream's parser gives up (`serde_json`, recursion limit).
const DEPTH_LIMIT: u32 = 128;

/// Why a line is not one JSON value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong, as a phrase for an error message.
    pub what: &'static str,
    /// Byte offset in the line.
    pub at: usize,
}

/// Checks that `line` is one JSON value with nothing but white space around it; returns its span.
///
/// # Errors
/// The first fault found. Invalid UTF-8 is one.
pub fn value(line: &[u8]) -> Result<Span, Fault> {
    if let Err(error) = core::str::from_utf8(line) {
        return Err(Fault { what: "invalid UTF-8", at: error.valid_up_to() });
    }
    let start = skip_space(line, 0);
    let end = Checker { line }.value(start)?;
    let rest = skip_space(line, end);
    if rest != line.len() {
        return Err(Fault { what: "something follows the value", at: rest });
    }
    Ok(Span { start, end })
}

struct Checker<'a> {
    line: &'a [u8],
}

impl Checker<'_> {
    fn fault<T>(&self, what: &'static str, at: usize) -> Result<T, Fault> {
        Err(if at >= self.line.len() {
            Fault { what: "unexpected end of the line", at: self.line.len() }
        } else {
            Fault { what, at }
        })
    }

    /// Goes over the value at `at` without recursion; `kinds` remembers per level whether it is an
    /// object (bit set) or an array.
    fn value(&self, mut at: usize) -> Result<usize, Fault> {
        let line = self.line;
        let mut kinds = 0u128;
        let mut depth = 0u32;
        loop {
            // A value begins at `at`.
            match line.get(at) {
                Some(open @ (b'{' | b'[')) => {
                    depth += 1;
                    if depth >= DEPTH_LIMIT {
                        return self.fault("nesting too deep", at);
                    }
                    let object = *open == b'{';
                    kinds = (kinds << 1) | u128::from(object);
                    let close = if object { b'}' } else { b']' };
                    at = skip_space(line, at + 1);
                    if line.get(at) == Some(&close) {
                        at += 1;
                        depth -= 1;
                        kinds >>= 1;
                    } else {
                        if object {
                            at = self.key(at)?;
                        }
                        continue;
                    }
                }
                Some(b'"') => at = self.string(at)?,
                Some(b'-' | b'0'..=b'9') => at = self.number(at)?,
                Some(b't') => at = self.word(at, b"true")?,
                Some(b'f') => at = self.word(at, b"false")?,
                Some(b'n') => at = self.word(at, b"null")?,
                _ => return self.fault("expected a value", at),
            }
            // A value ended before `at`: close what closes, or go on to the next one.
            loop {
                if depth == 0 {
                    return Ok(at);
                }
                let object = kinds & 1 == 1;
                at = skip_space(line, at);
                match line.get(at) {
                    Some(b',') => {
                        at = skip_space(line, at + 1);
                        if object {
                            at = self.key(at)?;
                        }
                        break;
                    }
                    Some(b'}') if object => {}
                    Some(b']') if !object => {}
                    _ => return self.fault("expected a comma or the end of the object or array", at),
                }
                at += 1;
                depth -= 1;
                kinds >>= 1;
            }
        }
    }

    /// Goes over a key and its colon; returns the offset of the value.
    fn key(&self, at: usize) -> Result<usize, Fault> {
        if self.line.get(at) != Some(&b'"') {
            return self.fault("expected a member name", at);
        }
        let colon = skip_space(self.line, self.string(at)?);
        if self.line.get(colon) != Some(&b':') {
            return self.fault("expected a colon", colon);
        }
        Ok(skip_space(self.line, colon + 1))
    }

    fn string(&self, at: usize) -> Result<usize, Fault> {
        let mut at = at + 1;
        loop {
            let Some(stop) = string_stop(self.line, at) else {
                return self.fault("", self.line.len());
            };
            match self.line[stop] {
                b'"' => return Ok(stop + 1),
                b'\\' => at = self.escape(stop)?,
                _ => return self.fault("control character in a string", stop),
            }
        }
    }

    fn escape(&self, at: usize) -> Result<usize, Fault> {
        match self.line.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
            Some(b'u') => match self.hex4(at + 2)? {
                0xdc00..=0xdfff => self.fault("lone surrogate in a string", at),
                0xd800..=0xdbff => {
                    if self.line.get(at + 6..at + 8) != Some(b"\\u")
                        || !(0xdc00..=0xdfff).contains(&self.hex4(at + 8)?)
                    {
                        return self.fault("lone surrogate in a string", at);
                    }
                    Ok(at + 12)
                }
                _ => Ok(at + 6),
            },
            _ => self.fault("unknown escape in a string", at + 1),
        }
    }

    fn hex4(&self, at: usize) -> Result<u32, Fault> {
        let mut code = 0;
        for offset in at..at + 4 {
            let Some(digit) = self.line.get(offset).and_then(|b| (*b as char).to_digit(16)) else {
                return self.fault("expected four hexadecimal digits", offset);
            };
            code = code * 16 + digit;
        }
        Ok(code)
    }

    fn number(&self, start: usize) -> Result<usize, Fault> {
        let line = self.line;
        let digits = |mut at: usize| {
            while line.get(at).is_some_and(u8::is_ascii_digit) {
                at += 1;
            }
            at
        };
        let mut at = start + usize::from(line[start] == b'-');
        at = match line.get(at) {
            Some(b'0') => at + 1,
            Some(b'1'..=b'9') => digits(at),
            _ => return self.fault("expected a digit", at),
        };
        let integer = at;
        if line.get(at) == Some(&b'.') {
            let end = digits(at + 1);
            if end == at + 1 {
                return self.fault("expected a digit", end);
            }
            at = end;
        }
        if matches!(line.get(at), Some(b'e' | b'E')) {
            let sign = at + 1;
            let first = sign + usize::from(matches!(line.get(sign), Some(b'+' | b'-')));
            let end = digits(first);
            if end == first {
                return self.fault("expected a digit", end);
            }
            at = end;
        }
        // Below 300 digits and without an exponent it cannot be beyond the range of a double.
        if at > integer || at - start > 300 {
            let finite = core::str::from_utf8(&line[start..at])
                .ok()
                .and_then(|text| text.parse::<f64>().ok())
                .is_some_and(f64::is_finite);
            if !finite {
                return self.fault("number out of range", start);
            }
        }
        Ok(at)
    }

    fn word(&self, at: usize, word: &[u8]) -> Result<usize, Fault> {
        if self.line[at..].starts_with(word) { Ok(at + word.len()) } else { self.fault("unknown word", at) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same judgement by the parser the upstream uses.
    fn serde_takes(line: &[u8]) -> bool {
        serde_json::from_slice::<serde_json::Value>(line).is_ok()
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
            "1e999",
            "-1e999",
            "1e-999",
            "\"a",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u0041\"",
            "\"\\ud800\"",
            "\"\\udc00\"",
            "\"\\ud83d\\ude00\"",
            "\"\\ud83d\\u0041\"",
            "\"\\ud83dx\"",
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
        }
        lines.push("9".repeat(400).into_bytes());
        for line in &lines {
            assert_eq!(value(line).is_ok(), serde_takes(line), "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn agrees_with_serde_json_on_mutated_lines() {
        let seed_line =
            br#"{"id":"a\u00e9\n","method":"turn/start","params":{"n":[-1.5e3,0,true,null,{"k":""}]}}"#;
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = move |n: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % n as u64) as usize
        };
        let alphabet = b"{}[]\",:\\u0123eE+-.tfn \x00\xc3\xa9d8";
        for _ in 0..200_000 {
            let mut line = seed_line.to_vec();
            for _ in 0..=random(3) {
                let at = random(line.len());
                match random(3) {
                    0 => line[at] = alphabet[random(alphabet.len())],
                    1 => line.insert(at, alphabet[random(alphabet.len())]),
                    _ => drop(line.remove(at)),
                }
            }
            assert_eq!(value(&line).is_ok(), serde_takes(&line), "{}", String::from_utf8_lossy(&line));
        }
    }
}
