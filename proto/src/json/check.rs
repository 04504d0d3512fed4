//! Checking a line from a client: is it what the upstream's parser would take?
//!
//! The upstream drops what its parser refuses without any answer (`docs/protocol.md`, bad input),
//! and a client that waits for an answer would hang. So the same rules are applied here, where an
//! answer can be given: RFC 8259, nesting below 128 levels, no lone surrogate escapes, one value and
//! nothing after it. A number may have any size: the upstream keeps its digits (measured).
//!
//! One pass over the line, beside that for UTF-8, at about the speed of memory whatever the form of the line:
//! while a client's message is checked, all others wait (`benches/forms.rs`).

use super::Span;
use super::scan::{byte_at, skip_digits, skip_space, skip_string, string_stop};
use super::text::{HEX, spells};

/// Levels of nesting at which the upstream's parser gives up (`serde_json`, recursion limit).
const DEPTH_LIMIT: usize = 128;

/// Levels of which a [`Visitor`] gets the members.
const VISITED: usize = 2;

/// Names that `serde_json` reserves (its features `raw_value` and `arbitrary_precision`; the upstream has both).
///
/// It reads an object that begins with one as something else: what the string after it spells, as JSON of its
/// own. So a member in such a string would be seen by the upstream and by nothing here.
const RESERVED: [&[u8]; 2] = [b"$serde_json::private::RawValue", b"$serde_json::private::Number"];

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
    /// Offset of the last object that the upstream reads as something else: its first member has a
    /// reserved name.
    pub reserved: Option<usize>,
}

/// The name of a member while it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// Where it stands, between its quotes.
    pub span: Span,
    /// Whether there are escapes in it.
    pub escaped: bool,
}

/// Gets the members near the top of a value while that is checked, so that nobody has to look for them again.
pub trait Visitor {
    /// The value of a member of the outermost object begins.
    fn enter(&mut self, line: &[u8], name: Name);

    /// A member is complete: of the outermost object (`depth` 1), or of an object right in it (`depth` 2).
    fn member(&mut self, line: &[u8], depth: usize, name: Name, value: Span);

    /// An element is complete of an array that is right in the outermost value.
    fn element(&mut self, value: Span);
}

/// Looks at nothing.
impl Visitor for () {
    fn enter(&mut self, _: &[u8], _: Name) {}

    fn member(&mut self, _: &[u8], _: usize, _: Name, _: Span) {}

    fn element(&mut self, _: Span) {}
}

/// Checks that `line` is one JSON value with nothing but white space around it; returns its span.
///
/// # Errors
/// The first fault found. Invalid UTF-8 is one.
pub fn value(line: &[u8]) -> Result<Span, Fault> {
    visit(line, &mut ()).map(|checked| checked.value)
}

/// As [`value`], with a visitor. When there is a fault, the visitor got what stands before it.
///
/// # Errors
/// The first fault found. Invalid UTF-8 is one.
pub fn visit(line: &[u8], visitor: &mut impl Visitor) -> Result<Checked, Fault> {
    if simdutf8::basic::from_utf8(line).is_err() {
        let at = core::str::from_utf8(line).map_or_else(|error| error.valid_up_to(), |_| line.len());
        return Err(Fault { what: "invalid UTF-8", at });
    }
    let start = skip_space(line, 0);
    let mut checker = Checker { line, fault: None, reserved: None, open: [NOTHING; VISITED] };
    let end = checker.value(start, visitor).and_then(|end| match skip_space(line, end) {
        rest if rest == line.len() => Some(end),
        rest => checker.fault("something follows the value", rest),
    });
    match (end, checker.fault) {
        (Some(end), _) => Ok(Checked { value: Span { start, end }, reserved: checker.reserved }),
        (None, fault) => Err(fault.unwrap_or(Fault { what: "no value", at: start })),
    }
}

/// A member whose value is being checked: its name, and where the value starts.
type OpenMember = (Name, usize);

const NOTHING: OpenMember = (Name { span: Span { start: 0, end: 0 }, escaped: false }, 0);

/// What goes over a part of the line returns the offset after it, or records a fault and returns `None`: so that
/// what is returned fits into registers.
struct Checker<'a> {
    line: &'a [u8],
    fault: Option<Fault>,
    reserved: Option<usize>,
    /// The member that is being checked on each visited level.
    open: [OpenMember; VISITED],
}

impl Checker<'_> {
    #[cold]
    fn fault(&mut self, what: &'static str, at: usize) -> Option<usize> {
        self.fault = Some(if at >= self.line.len() {
            Fault { what: "unexpected end of the line", at: self.line.len() }
        } else {
            Fault { what, at }
        });
        None
    }

    /// Goes over the value at `at` without recursion; `kinds` remembers per level whether it is an
    /// object (bit set) or an array.
    fn value(&mut self, mut at: usize, visitor: &mut impl Visitor) -> Option<usize> {
        let line = self.line;
        let mut kinds = 0u128;
        let mut depth = 0;
        // Of the innermost level that is open.
        let mut object = false;
        loop {
            // A value begins at `at`, or a member.
            if object {
                at = self.key(at, depth, visitor)?;
            } else if depth == VISITED {
                self.open[depth - 1].1 = at;
            }
            match byte_at(line, at) {
                b'"' => at = self.string(at)?,
                open @ (b'{' | b'[') => {
                    if depth + 1 >= DEPTH_LIMIT {
                        return self.fault("nesting too deep", at);
                    }
                    // In ASCII, what closes comes two after what opens.
                    let inside = skip_space(line, at + 1);
                    if byte_at(line, inside) == open + 2 {
                        at = inside + 1;
                    } else {
                        object = open == b'{';
                        if object && matches!(byte_at(line, inside + 1), b'$' | b'\\') {
                            self.look_at_first_name(at, inside);
                        }
                        depth += 1;
                        kinds = (kinds << 1) | u128::from(object);
                        at = inside;
                        continue;
                    }
                }
                // A single digit is what most numbers of a long list are.
                b'0'..=b'9' if matches!(byte_at(line, at + 1), b',' | b']' | b'}') => at += 1,
                b'-' | b'0'..=b'9' => at = self.number(at)?,
                b't' => at = self.word(at, b"true")?,
                b'f' => at = self.word(at, b"false")?,
                b'n' => at = self.word(at, b"null")?,
                _ => return self.fault("expected a value", at),
            }
            // A value ended before `at`: close what closes, or go on to the next one.
            loop {
                if depth <= VISITED {
                    if depth == 0 {
                        return Some(at);
                    }
                    let (name, start) = self.open[depth - 1];
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

    /// Goes over a key and its colon, up to the value.
    #[inline]
    fn key(&mut self, at: usize, depth: usize, visitor: &mut impl Visitor) -> Option<usize> {
        if byte_at(self.line, at) != b'"' {
            return self.fault("expected a member name", at);
        }
        let Some(stop) = string_stop(self.line, at + 1) else {
            return self.fault("", self.line.len());
        };
        let escaped = self.line[stop] != b'"';
        let end = if escaped { self.rest_of_string(stop)? } else { stop + 1 };
        let colon = skip_space(self.line, end);
        if byte_at(self.line, colon) != b':' {
            return self.fault("expected a colon", colon);
        }
        let start = skip_space(self.line, colon + 1);
        if depth <= VISITED {
            let name = Name { span: Span { start: at + 1, end: end - 1 }, escaped };
            self.open[depth - 1] = (name, start);
            if depth == 1 {
                visitor.enter(self.line, name);
            }
        }
        Some(start)
    }

    /// Records an object whose first member, at `at`, has a reserved name.
    #[cold]
    fn look_at_first_name(&mut self, object: usize, at: usize) {
        let Some(end) = skip_string(self.line, at) else { return };
        let name = &self.line[at + 1..end - 1];
        if RESERVED.iter().any(|reserved| spells(name, reserved)) {
            self.reserved = Some(object);
        }
    }

    #[inline]
    fn string(&mut self, at: usize) -> Option<usize> {
        self.rest_of_string(at + 1)
    }

    /// Goes over what is left of a string at any place in it.
    #[inline]
    fn rest_of_string(&mut self, mut at: usize) -> Option<usize> {
        loop {
            let Some(stop) = string_stop(self.line, at) else {
                return self.fault("", self.line.len());
            };
            match self.line[stop] {
                b'"' => return Some(stop + 1),
                b'\\' => at = self.escapes(stop)?,
                _ => return self.fault("control character in a string", stop),
            }
        }
    }

    /// Goes over the escape at `at` and those right after it.
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
            if byte_at(line, at) != b'\\' {
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
        // No digit, or more of them after a zero.
        if end == first || (line[first] == b'0' && end != first + 1) {
            return self.fault("expected a number", end.min(first + 1));
        }
        if matches!(byte_at(line, end), b'.' | b'e' | b'E') { self.fraction(end) } else { Some(end) }
    }

    /// Goes over what follows the integer part of a number.
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

    /// Goes over at least one digit.
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

/// Returns the value of the four hexadecimal digits at `at`; `None` if one of them is none.
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
