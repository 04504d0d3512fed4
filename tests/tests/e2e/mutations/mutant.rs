//! Messages, mostly requests, in which something is changed at random.

use std::fmt::Write as _;

/// Random choices that a seed determines.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n as u64).expect("it is below a usize")
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// A message while it is changed: the JSON text of each member's name and value.
struct Draft {
    members: Vec<(String, String)>,
}

/// Methods with parameters that change nothing and are answered soon, whatever is changed in them.
const REQUESTS: &[(&str, &str)] = &[
    ("thread/loaded/list", "{}"),
    ("thread/loaded/list", r#"{"limit":5,"cursor":null}"#),
    ("model/list", "{}"),
    ("account/read", r#"{"refreshToken":false}"#),
    ("thread/read", r#"{"threadId":"01a1fb58-afe1-7e63-a5da-f77a0cf2dc6f","includeTurns":false}"#),
    ("turn/start", r#"{"threadId":"01a1fb58-afe1-7e63-a5da-f77a0cf2dc6f","input":[]}"#),
    ("turn/interrupt", r#"{"threadId":"x","turnId":"y"}"#),
    ("thread/unsubscribe", r#"{"threadId":"01a1fb58-afe1-7e63-a5da-f77a0cf2dc6f"}"#),
    ("thread/resume", r#"{"threadId":"not a thread","excludeTurns":true}"#),
    ("thread/name/set", r#"{"threadId":"x","name":"\u00e9 \ud83d\ude00"}"#),
    ("command/exec/terminate", r#"{"processId":"p"}"#),
    ("command/exec/write", r#"{"processId":"p","deltaBase64":"eA=="}"#),
    ("process/kill", r#"{"processHandle":"p"}"#),
    ("fs/unwatch", r#"{"watchId":"w"}"#),
    ("thread/sample/cancel", r#"{"requestId":5}"#),
    ("server/diagnostics", "{}"),
    ("no/such", r#"{"a":[1,2.5,null,{"b":"c"}]}"#),
];

/// Values of every type, and those that are at an edge.
const VALUES: &[&str] = &[
    "null",
    "true",
    "false",
    "0",
    "-0",
    "7",
    "-1",
    "1.0",
    "-2.5e-3",
    "1e2",
    "1e999",
    "-1E+9999999999999999999",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "-9223372036854775809",
    "18446744073709551616",
    "123456789012345678901234567890.5",
    r#""""#,
    r#""text""#,
    r#""5""#,
    r#""\u0000\u001f""#,
    r#""\ud83d\ude00\/\b\f\n\r\t\"\\""#,
    r#""é漢😀""#,
    "[]",
    "[null]",
    "[1,\"a\",{}]",
    "{}",
    r#"{"a":1}"#,
    r#"{"a":1,"a":2}"#,
    r#"{"threadId":"x","threadId":null}"#,
    r#"{"traceparent":"00-a-b-01"}"#,
    r#"{"code":-1,"message":"m"}"#,
    r#"{"$serde_json::private::RawValue":"{}"}"#,
    r#"{"$serde_json::private::RawValue":"{"}"#,
    r#"{"$serde_json::private::Number":"5"}"#,
    r#"{"$serde_json::private::Number":"x"}"#,
    r#"{"a":1,"$serde_json::private::RawValue":"{"}"#,
    r#"[{"\u0024serde_json::private::Number":"1"}]"#,
    r#"{"a":[{"b":{"$serde_json::private::RawValue":"[1,2]"}}]}"#,
];

/// Values of `trace`, good and bad.
const TRACES: &[&str] = &[
    "null",
    "{}",
    "[]",
    r#"{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}"#,
    r#"{"traceparent":"x","tracestate":"y"}"#,
    r#"{"traceparent":null,"tracestate":null,"more":[1]}"#,
    r#"{"traceparent":5}"#,
    r#"{"traceparent":{}}"#,
    r#"{"tracestate":["a"]}"#,
    r#"{"tracestate":true,"traceparent":"x"}"#,
    r#"{"traceparent":"a","traceparent":"a"}"#,
    r#"{"traceparent":"a","trace\u0070arent":null}"#,
    r#"{"trace\u0073tate":5}"#,
    r#"{"x":1,"x":2}"#,
    r#"["a"]"#,
    r#"["a","b"]"#,
    r#"[null,"b"]"#,
    r#"["a","b","c"]"#,
    r#"["a",5]"#,
    r#"[["a"]]"#,
    "7",
    r#""trace""#,
    "false",
];

/// Ids that are none.
const NO_IDS: &[&str] =
    &["null", "true", "1.0", "5e0", "9223372036854775808", "-9223372036854775809", "[1]", "{}"];

/// Makes the `number`th message: one line.
///
/// Where it has a legal id, hardly any other message has the same.
pub(crate) fn mutant(random: &mut Random, number: usize) -> Vec<u8> {
    let (method, params) = random.pick(REQUESTS);
    let mut draft = Draft { members: Vec::new() };
    match random.below(40) {
        0 => draft.set("method", "\"newer/notification\""),
        1 => {
            draft.set("id", &id(random, number));
            let (name, value) = random.pick(&[("result", "{}"), ("error", r#"{"code":-1,"message":"m"}"#)]);
            draft.set(name, value);
        }
        _ => {
            draft.set("id", &id(random, number));
            draft.set("method", &format!("\"{method}\""));
            draft.set("params", params);
        }
    }
    for _ in 0..random.below(4) {
        draft.change(random, number);
    }
    let text = draft.write(random);
    damaged(random, text)
}

/// An id that no other message has: a number or a string, in some spelling.
fn id(random: &mut Random, number: usize) -> String {
    let rest = random.pick(&["", "a", "é", r"\u00e9\/", r#"\""#, r"\ud83d\ude00", " ", r"\\"]);
    match random.below(20) {
        0..10 => number.to_string(),
        10..12 => format!("-{}", number + 1),
        // At both ends of the range.
        12 => (i64::MAX - i64::try_from(number).unwrap_or(0)).to_string(),
        13 => (i64::MIN + i64::try_from(number).unwrap_or(0)).to_string(),
        // The longest one that there may be, and one more.
        14 if random.one_in(40) => {
            let length = (64 << 10) - 2 + random.below(2);
            format!("\"{:x<length$}\"", format!("{number}:"))
        }
        _ => format!("\"{number}:{rest}\""),
    }
}

impl Draft {
    fn change(&mut self, random: &mut Random, number: usize) {
        match random.below(14) {
            // Another type.
            0 | 1 => {
                let value = value(random);
                if let Some((name, old)) = self.some_member(random) {
                    *old = if is_id(name) { random.pick(NO_IDS).to_owned() } else { value };
                }
            }
            2 => self.set("id", random.pick(NO_IDS)),
            3 => {
                let id = id(random, number);
                self.set("id", &id);
            }
            // Given twice.
            4 | 5 => {
                let value = value(random);
                if let Some((name, old)) = self.some_member(random).cloned() {
                    let value = match random.below(3) {
                        0 => old,
                        _ if is_id(&name) => id(random, number),
                        _ => value,
                    };
                    let at = random.below(self.members.len() + 1);
                    self.members.insert(at, (name, value));
                }
            }
            // Left out.
            6 if random.one_in(2) && !self.members.is_empty() => {
                let at = random.below(self.members.len());
                self.members.remove(at);
            }
            // More members.
            6..=8 => self.members.push((r#""trace""#.to_owned(), random.pick(TRACES).to_owned())),
            9 => {
                let name = random.pick(&[
                    "result",
                    "error",
                    "jsonrpc",
                    "ID",
                    "Params",
                    "methods",
                    "",
                    "$serde_json::private::Number",
                ]);
                let value = value(random);
                let at = random.below(self.members.len() + 1);
                self.members.insert(at, (format!("\"{name}\""), value));
            }
            // Parameters of another shape.
            10 => {
                let positions = random.pick(&["[]", "[null]", r#"["x"]"#, r#"["x","y"]"#, "[[],{}]"]);
                self.set("params", positions);
            }
            11 => {
                let inside = value(random);
                let name =
                    random.pick(&["threadId", "processId", "limit", "requestId", "permissions", "path", "x"]);
                self.set("params", &format!("{{\"{name}\":{inside},\"{name}\":{}}}", value(random)));
            }
            12 => self.set("params", &nested(random)),
            // Escapes.
            _ => {
                if let Some((name, value)) = self.some_member(random) {
                    *name = respelled(random, name);
                    *value = respelled(random, value);
                }
            }
        }
    }

    fn some_member(&mut self, random: &mut Random) -> Option<&mut (String, String)> {
        let at = random.below(self.members.len().max(1));
        self.members.get_mut(at)
    }

    fn set(&mut self, name: &str, value: &str) {
        let quoted = format!("\"{name}\"");
        match self.members.iter_mut().find(|(other, _)| *other == quoted) {
            Some((_, old)) => value.clone_into(old),
            None => self.members.push((quoted, value.to_owned())),
        }
    }

    fn write(mut self, random: &mut Random) -> String {
        for at in (1..self.members.len()).rev() {
            if random.one_in(4) {
                self.members.swap(at, random.below(at + 1));
            }
        }
        let space = if random.one_in(5) { " \t" } else { "" };
        // By position, as codex takes it too; and as a batch.
        let shape = random.below(60);
        let mut text = String::new();
        text.push_str(space);
        text.push(if shape == 0 { '[' } else { '{' });
        for (at, (name, value)) in self.members.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let name = if shape == 0 { String::new() } else { format!("{name}{space}:") };
            let _ = write!(text, "{comma}{space}{name}{space}{value}{space}");
        }
        text.push(if shape == 0 { ']' } else { '}' });
        text.push_str(space);
        if shape == 1 { format!("[{text}]") } else { text }
    }
}

/// Whether a name, with its quotes, is that of the id, in any spelling.
fn is_id(name: &str) -> bool {
    serde_json::from_str::<String>(name).is_ok_and(|name| name == "id")
}

fn value(random: &mut Random) -> String {
    match random.below(12) {
        0 => nested(random),
        1 => {
            let value = random.pick(VALUES);
            respelled(random, value)
        }
        2 => "9".repeat(1 + random.below(400)),
        _ => random.pick(VALUES).to_owned(),
    }
}

/// A value so deep that the message is about as deep as a message may be.
fn nested(random: &mut Random) -> String {
    let depth = 120 + random.below(12);
    let inside = random.pick(&["", "1.5", r#""a""#, r#"{"a":1}"#]);
    if random.one_in(2) {
        format!("{}{inside}{}", "[".repeat(depth), "]".repeat(depth))
    } else {
        let inside = if inside.is_empty() { "0" } else { inside };
        format!("{}{inside}{}", "{\"a\":".repeat(depth), "}".repeat(depth))
    }
}

/// Writes some characters between the quotes of a JSON text as escapes; those of an escape stay.
fn respelled(random: &mut Random, json: &str) -> String {
    let (mut out, mut inside, mut escaped) = (String::new(), false, 0_usize);
    for c in json.chars() {
        match c {
            '"' if escaped == 0 => inside = !inside,
            '\\' if inside && escaped == 0 => escaped = 2,
            'u' if escaped == 1 => escaped = 5,
            _ if inside && escaped == 0 && random.one_in(3) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
                continue;
            }
            _ => {}
        }
        escaped = escaped.saturating_sub(1);
        out.push(c);
    }
    out
}

/// Changes some bytes, now and then.
fn damaged(random: &mut Random, text: String) -> Vec<u8> {
    let mut line = text.into_bytes();
    let at = random.below(line.len().max(1));
    match random.below(100) {
        0 => line.truncate(at),
        1 => line.insert(at, random.pick(b"{}[]\",:\\u0e-.tn \x01")),
        2 if at < line.len() => drop(line.remove(at)),
        3 => line.insert(at, random.pick(b"\xff\xc3\xed\xf0")),
        4 => drop(line.splice(0..0, *b"\xef\xbb\xbf")),
        5 => line.extend_from_slice(b" {}"),
        6 => drop(line.splice(at..at, *br"\ud800")),
        _ => {}
    }
    line
}
