//! Normalisation: what differs from run to run gets a name, and nothing else changes.
//!
//! Ids are named in the order of their first appearance, so that the same id has the same name for every
//! client; times become `<time>`, the temporary world `<home>`, and the like.

use std::collections::HashMap;

use serde_json::{Value, json};

/// Texts of more bytes are compared as they are: they contain no names, and would take long.
const LONG: usize = 16 << 10;

/// The names given so far.
#[derive(Debug)]
pub(crate) struct Names {
    home: String,
    model: String,
    ids: HashMap<String, String>,
}

impl Names {
    pub(crate) fn new(home: &str, model: &str, threads: &[String]) -> Names {
        let mut names = Names { home: home.to_owned(), model: model.to_owned(), ids: HashMap::new() };
        for thread in threads {
            names.thread(thread);
        }
        names
    }

    /// Names a thread.
    pub(crate) fn thread(&mut self, id: &str) -> String {
        let next = 1 + self.ids.values().filter(|name| name.starts_with("<thread")).count();
        self.ids.entry(id.to_owned()).or_insert_with(|| format!("<thread {next}>")).clone()
    }

    fn id(&mut self, id: &str) -> String {
        let next = 1 + self.ids.values().filter(|name| name.starts_with("<id")).count();
        self.ids.entry(id.to_owned()).or_insert_with(|| format!("<id {next}>")).clone()
    }

    /// Returns a value with names in it.
    pub(crate) fn value(&mut self, value: &Value) -> Value {
        match value {
            Value::String(text) => json!(self.text(text)),
            Value::Array(values) => values.iter().map(|value| self.value(value)).collect(),
            Value::Object(members) => {
                let mut named = serde_json::Map::new();
                for (key, value) in members {
                    named.insert(self.text(key), self.member(key, value));
                }
                Value::Object(named)
            }
            other => other.clone(),
        }
    }

    fn member(&mut self, key: &str, value: &Value) -> Value {
        let is_time = ["At", "AtMs", "durationMs", "create_time"].iter().any(|end| key.ends_with(end));
        match value {
            Value::Number(_) if is_time => json!("<time>"),
            // The system's number of a process; an id that a client has chosen is none.
            Value::String(text) if key == "processId" && is_digits(text) => json!("<pid>"),
            // Drawn from a list.
            Value::String(_) if key == "agentNickname" || key == "agent_nickname" => json!("<nickname>"),
            _ => self.value(value),
        }
    }

    /// Returns a text with names in it.
    pub(crate) fn text(&mut self, text: &str) -> String {
        if text.len() > LONG {
            return text.to_owned();
        }
        let text = text.replace(&self.home, "<home>").replace(&self.model, "<model>");
        let text = blank(&blank(&text, "Chunk ID: ", u8::is_ascii_hexdigit), "Wall time: ", is_decimal);
        let mut named = String::with_capacity(text.len());
        let mut rest = text.as_str();
        let mut in_word = false;
        while let Some(next) = rest.chars().next() {
            let found = if in_word { None } else { length_of_id(rest).map(|length| (length, true)) };
            let found = found.or_else(|| length_of_date(rest).map(|length| (length, false)));
            match found {
                Some((length, is_id)) => {
                    let name = if is_id { self.id(&rest[..length]) } else { "<date>".to_owned() };
                    named.push_str(&name);
                    rest = &rest[length..];
                }
                None => {
                    named.push(next);
                    rest = &rest[next.len_utf8()..];
                }
            }
            in_word = next.is_ascii_alphanumeric();
        }
        named
    }
}

/// Replaces what stands after each `label`: a result of a command quotes it to the model.
fn blank(text: &str, label: &str, is_part: fn(&u8) -> bool) -> String {
    let mut parts = text.split(label);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let length = part.bytes().take_while(is_part).count();
        out.push_str(label);
        out.push_str("<any>");
        out.push_str(&part[length..]);
    }
    out
}

fn is_decimal(byte: &u8) -> bool {
    byte.is_ascii_digit() || *byte == b'.'
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns the length of the id that a text begins with: a UUID, an id of the scripted model, a hash.
fn length_of_id(text: &str) -> Option<usize> {
    if is_uuid(text) {
        return Some(36);
    }
    let hexadecimal = text.bytes().take_while(u8::is_ascii_hexdigit).count();
    if hexadecimal == 64 {
        return Some(64);
    }
    let prefix = PREFIXES.into_iter().find(|prefix| text.starts_with(prefix))?;
    let rest = &text[prefix.len()..];
    if is_uuid(rest) {
        return Some(prefix.len() + 36);
    }
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    (digits > 0).then_some(prefix.len() + digits)
}

const PREFIXES: [&str; 7] = ["msg_", "call_", "resp_", "fc_", "fco_", "ctc_", "rs_"];

fn is_uuid(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 36
        && bytes[..36].iter().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Returns the length of the date that a text begins with, with the time of day after it if there is one.
fn length_of_date(text: &str) -> Option<usize> {
    let matches = |pattern: &str, text: &[u8]| {
        text.len() >= pattern.len()
            && pattern.bytes().zip(text).all(|(wanted, byte)| match wanted {
                b'0' => byte.is_ascii_digit(),
                b'-' => b"-/:".contains(byte),
                other => other == *byte,
            })
    };
    let bytes = text.as_bytes();
    if !matches("0000-00-00", bytes) {
        return None;
    }
    let mut length = 10;
    if matches("T00-00-00", &bytes[length..]) {
        length += 9;
        if bytes.get(length) == Some(&b'.') {
            length += 1 + bytes[length + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        }
        length += usize::from(bytes.get(length) == Some(&b'Z'));
    }
    Some(length)
}

#[test]
fn names_are_given_to_what_differs_from_run_to_run_only() {
    let a = "01a1fb58-afe1-7e63-a5da-f77a0cf2dc6f";
    let b = "01a1fb58-b0d8-7dd0-b0d8-80177adfe930";
    let mut names = Names::new("/tmp/x", "http://m/v1", &[a.to_owned()]);
    let given = json!({
        "id": 1, "threadId": a, "turn": {"id": b, "startedAt": 5, "completedAt": null},
        "path": format!("/tmp/x/codex/sessions/2026/11/21/rollout-2026-11-21T01-34-46-{a}.jsonl"),
        "itemId": "msg_4", "text": "call_ of recall_1", "processId": "123", "again": b, "u": "http://m/v1/r",
    });
    let expected = json!({
        "id": 1, "threadId": "<thread 1>", "turn": {"id": "<id 1>", "startedAt": "<time>", "completedAt": null},
        "path": "<home>/codex/sessions/<date>/rollout-<date>-<thread 1>.jsonl",
        "itemId": "<id 2>", "text": "call_ of recall_1", "processId": "<pid>", "again": "<id 1>", "u": "<model>/r",
    });
    let seen = names.value(&given);
    assert_eq!(seen["threadId"], expected["threadId"]);
    assert_eq!(seen["path"], expected["path"]);
    assert_eq!(seen["text"], expected["text"]);
    assert_eq!(seen["turn"]["id"], seen["again"]);
    assert_eq!(seen["turn"]["startedAt"], "<time>");
    assert_eq!(seen["turn"]["completedAt"], Value::Null);
    assert_eq!(seen["processId"], "<pid>");
    assert_eq!(seen["u"], "<model>/r");
}
