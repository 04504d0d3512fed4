//! Writing a JSON value in another way that everybody reads as the same.

use serde_json::Value;

/// Random choices that a number determines.
pub(crate) struct Spelling {
    state: u64,
    /// Whether members may be given twice.
    doubles: bool,
}

/// Names of members whose value is the message's or the upstream's business: given twice, they mean something else.
const ONCE: [&str; 6] = ["id", "method", "params", "result", "error", "trace"];

impl Spelling {
    /// The spelling number `seed` of a client's message: `params` may have members twice, of which the upstream
    /// takes the last. Number 0 is the plain one.
    pub(crate) fn of_client(seed: u64) -> Spelling {
        Spelling { state: seed, doubles: true }
    }

    /// The spelling number `seed` of the upstream's message, which has no member twice.
    pub(crate) fn of_upstream(seed: u64) -> Spelling {
        Spelling { state: seed, doubles: false }
    }

    /// Returns a number below `n`; always 0 for the plain spelling.
    fn below(&mut self, n: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as usize % n
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.state != 0 && self.below(n) == 0
    }

    /// Writes a message.
    pub(crate) fn message(&mut self, message: &Value) -> String {
        let mut out = String::new();
        self.space(&mut out);
        self.value(message, 0, &mut out);
        self.space(&mut out);
        out
    }

    fn value(&mut self, value: &Value, depth: usize, out: &mut String) {
        match value {
            Value::Null => out.push_str("null"),
            Value::Bool(bool) => out.push_str(if *bool { "true" } else { "false" }),
            Value::Number(number) => out.push_str(&number.to_string()),
            Value::String(text) => self.string(text, out),
            Value::Array(elements) => self.list(['[', ']'], elements, out, |this, element, out| {
                this.value(element, depth + 1, out);
            }),
            Value::Object(members) => {
                let mut members: Vec<(&str, Value)> =
                    members.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
                // In another order, and what does not count before what does.
                for at in (1..members.len()).rev() {
                    if self.state != 0 {
                        members.swap(at, self.below(at + 1));
                    }
                }
                let mut at = 0;
                while self.doubles && at < members.len() {
                    let (name, _) = members[at];
                    if (depth > 0 || !ONCE.contains(&name)) && self.one_in(6) {
                        let decoy = self.decoy();
                        let before = self.below(at + 1);
                        members.insert(before, (name, decoy));
                        at += 1;
                    }
                    at += 1;
                }
                self.list(['{', '}'], &members, out, |this, (name, value), out| {
                    this.string(name, out);
                    this.space(out);
                    out.push(':');
                    this.space(out);
                    this.value(value, depth + 1, out);
                });
            }
        }
    }

    fn list<T>(
        &mut self,
        [open, close]: [char; 2],
        items: &[T],
        out: &mut String,
        write: impl Fn(&mut Spelling, &T, &mut String),
    ) {
        out.push(open);
        self.space(out);
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                out.push(',');
                self.space(out);
            }
            write(self, item, out);
            self.space(out);
        }
        out.push(close);
    }

    /// A value that would change everything if it counted.
    fn decoy(&mut self) -> Value {
        let decoys = ["another", "00000000-0000-7000-8000-000000000009", "chatgptAuthTokens", "inProgress"];
        match self.below(8) {
            0 => Value::Null,
            1 => true.into(),
            2 => 17.into(),
            3 => serde_json::json!({"granular": {}}),
            n => decoys[n - 4].into(),
        }
    }

    fn space(&mut self, out: &mut String) {
        while self.one_in(4) {
            out.push([' ', '\t', '\r'][self.below(3)]);
        }
    }

    fn string(&mut self, text: &str, out: &mut String) {
        // Some strings as they are: then only others differ.
        let spelled = !self.one_in(3) && self.state != 0;
        out.push('"');
        for c in text.chars() {
            let short = match c {
                '"' => Some('"'),
                '\\' => Some('\\'),
                '/' => Some('/'),
                '\u{8}' => Some('b'),
                '\u{c}' => Some('f'),
                '\n' => Some('n'),
                '\r' => Some('r'),
                '\t' => Some('t'),
                _ => None,
            };
            let must = c < ' ' || matches!(c, '"' | '\\');
            match short {
                Some(short) if must || (spelled && self.one_in(2)) => {
                    if spelled && self.one_in(2) {
                        self.unicode(c, out);
                    } else {
                        out.extend(['\\', short]);
                    }
                }
                _ if must || (spelled && self.one_in(3)) => self.unicode(c, out),
                _ => out.push(c),
            }
        }
        out.push('"');
    }

    fn unicode(&mut self, c: char, out: &mut String) {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let digits = format!("{unit:04x}");
            out.push_str("\\u");
            out.push_str(&if self.one_in(2) { digits.to_uppercase() } else { digits });
        }
    }
}

#[test]
fn a_spelling_is_read_as_the_same() {
    let value = serde_json::json!({
        "id": "é/\"\\\n😀\u{1}", "method": "thread/start", "params": {"a": [1, -2.5, {"b": {"c": null}}], "": true}
    });
    assert_eq!(Spelling::of_client(0).message(&value), value.to_string());
    let mut seen = std::collections::BTreeSet::new();
    for seed in 1..500 {
        for mut spelling in [Spelling::of_client(seed), Spelling::of_upstream(seed)] {
            let line = spelling.message(&value);
            assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value, "{line}");
            seen.insert(line);
        }
    }
    assert!(seen.len() > 990, "{}", seen.len());
}
