//! Messages as the real server reads them, and its error messages for the ones it rejects.

use serde_json::{Value, json};

/// A line that is a message.
#[derive(Clone, Debug)]
pub(crate) enum Incoming {
    Request { id: Value, method: String, params: Value },
    Notification { method: String },
    Answer { id: Value, result: Result<Value, Value> },
}

/// A refusal.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) code: i64,
    pub(crate) message: String,
}

/// Reads a line.
///
/// # Errors
///
/// Why the line is dropped: the real server gives no answer to such a line.
pub(crate) fn read(line: &[u8]) -> Result<Incoming, String> {
    let message: Value = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    if !message.is_object() {
        return Err("not an object".to_owned());
    }
    let id = message["id"].clone();
    let legal = id.is_string() || id.is_i64();
    let present = message.get("id").is_some();
    if present && !legal {
        return Err(format!("`{id}` is not an id"));
    }
    match (message["method"].as_str(), present) {
        (Some(method), true) => {
            Ok(Incoming::Request { id, method: method.to_owned(), params: message["params"].clone() })
        }
        (Some(method), false) => Ok(Incoming::Notification { method: method.to_owned() }),
        (None, true) => {
            let result = match message.get("error") {
                Some(error) => Err(error.clone()),
                None => Ok(message["result"].clone()),
            };
            Ok(Incoming::Answer { id, result })
        }
        (None, false) => Err("neither a method nor an id".to_owned()),
    }
}

impl Refusal {
    pub(crate) fn new(message: impl Into<String>) -> Refusal {
        Refusal { code: INVALID, message: message.into() }
    }

    pub(crate) fn overloaded() -> Refusal {
        Refusal { code: -32001, message: "Server overloaded; retry later.".to_owned() }
    }

    pub(crate) fn unknown_method(method: &str, known: &[&str]) -> Refusal {
        let list: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
        Refusal::new(format!(
            "Invalid request: unknown variant `{method}`, expected one of {}",
            list.join(", ")
        ))
    }
}

/// Returns a parameter that has to be a text.
pub(crate) fn text<'a>(params: &'a Value, name: &str) -> Result<&'a str, Refusal> {
    if params.is_null() {
        return Err(Refusal::new("Invalid request: missing field `params`"));
    }
    match &params[name] {
        Value::Null => Err(Refusal::new(format!("Invalid request: missing field `{name}`"))),
        Value::String(text) => Ok(text),
        other => Err(Refusal::new(format!("Invalid request: invalid type: `{other}`, expected a string"))),
    }
}

/// Returns the text parts of the input of a turn.
pub(crate) fn prompt(params: &Value) -> Result<String, Refusal> {
    let parts = params["input"].as_array();
    let parts = parts.ok_or_else(|| Refusal::new("Invalid request: missing field `input`"))?;
    Ok(parts.iter().filter_map(|part| part["text"].as_str()).collect())
}

/// An empty result.
pub(crate) fn nothing() -> Value {
    json!({})
}

/// The code of nearly every refusal of the real server.
const INVALID: i64 = -32600;
