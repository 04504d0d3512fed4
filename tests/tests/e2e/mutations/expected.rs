//! What a line must be answered with: found with a reader of its own, not with that of codexd.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// How many answers there are to be to a line, and with which id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Expected {
    /// One with this id, as JSON text in one spelling.
    Answer(String),
    /// One with a null id: its own is not known, or cannot be used.
    Nameless,
    /// None: it is blank, a notification or an answer.
    Nothing,
}

/// Bytes that the JSON text of an id may have.
const LONGEST_ID: usize = 64 << 10;

/// Names that make another thing of the object that begins with one.
const RESERVED: [&str; 2] = ["$serde_json::private::RawValue", "$serde_json::private::Number"];

/// Says what is to be answered to a line.
pub(crate) fn expected(line: &[u8]) -> Expected {
    if line.trim_ascii().is_empty() {
        return Expected::Nothing;
    }
    let Some((Any { reserved }, Members(members))) = std::str::from_utf8(line).ok().and_then(|text| {
        let text_of_numbers = with_small_numbers(text);
        Some((serde_json::from_str(&text_of_numbers).ok()?, serde_json::from_str(text).ok()?))
    }) else {
        return Expected::Nameless;
    };
    let all = |name: &str| -> Vec<&str> {
        members.iter().filter(|(other, _)| other == name).map(|(_, value)| value.get()).collect()
    };
    match (all("method").as_slice(), all("id").as_slice()) {
        ([], _) if !all("result").is_empty() || !all("error").is_empty() => Expected::Nothing,
        ([method], []) if method.starts_with('"') && all("params").len() < 2 && !reserved => {
            Expected::Nothing
        }
        (_, [id]) => legal(id).map_or(Expected::Nameless, Expected::Answer),
        _ => Expected::Nameless,
    }
}

/// Whether some object of a line begins with a reserved name.
pub(crate) fn has_reserved(line: &[u8]) -> bool {
    let text = String::from_utf8_lossy(line);
    serde_json::from_str(&with_small_numbers(&text)).is_ok_and(|Any { reserved }| reserved)
}

/// Returns the one spelling of an id; `None` if it is not a legal one.
pub(crate) fn legal(id: &str) -> Option<String> {
    if id.len() > LONGEST_ID {
        return None;
    }
    match serde_json::from_str(id) {
        Ok(Value::String(text)) => Some(Value::from(text).to_string()),
        // `-0` is a float to serde_json and an integer to codex.
        _ => id.parse::<i64>().ok().map(|n| n.to_string()),
    }
}

/// Cuts numbers short: serde_json refuses large ones, codex does not.
fn with_small_numbers(text: &str) -> String {
    let (mut out, mut inside, mut escaped, mut digits) = (String::new(), false, false, 0);
    for c in text.chars() {
        if inside {
            inside = c != '"' || escaped;
            escaped = c == '\\' && !escaped;
        } else {
            inside = c == '"';
            digits = if c.is_ascii_digit() { digits + 1 } else { 0 };
            if digits > 2 {
                continue;
            }
        }
        out.push(c);
    }
    out
}

/// Any JSON value, read to its end; and whether an object in it begins with a reserved name.
struct Any {
    reserved: bool,
}

impl<'de> Deserialize<'de> for Any {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Any, D::Error> {
        deserializer.deserialize_any(AnyVisitor)
    }
}

struct AnyVisitor;

impl<'de> Visitor<'de> for AnyVisitor {
    type Value = Any;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Any, E> {
        Ok(Any { reserved: false })
    }

    fn visit_i64<E>(self, _: i64) -> Result<Any, E> {
        Ok(Any { reserved: false })
    }

    fn visit_u64<E>(self, _: u64) -> Result<Any, E> {
        Ok(Any { reserved: false })
    }

    fn visit_f64<E>(self, _: f64) -> Result<Any, E> {
        Ok(Any { reserved: false })
    }

    fn visit_str<E>(self, _: &str) -> Result<Any, E> {
        Ok(Any { reserved: false })
    }

    fn visit_unit<E>(self) -> Result<Any, E> {
        Ok(Any { reserved: false })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Any, A::Error> {
        let mut reserved = false;
        while let Some(element) = seq.next_element::<Any>()? {
            reserved |= element.reserved;
        }
        Ok(Any { reserved })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Any, A::Error> {
        let (mut reserved, mut first) = (false, true);
        while let Some((name, value)) = map.next_entry::<String, Any>()? {
            reserved |= value.reserved || (first && RESERVED.contains(&name.as_str()));
            first = false;
        }
        Ok(Any { reserved })
    }
}

/// The members of an object, also those that are given twice.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members<'a>, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}
