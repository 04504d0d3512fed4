//! The client's directory, for requests that name none: the daemon's own means nothing to the client.

use crate::json::edit::write_string;
use crate::message::Params;
use crate::routes::REQUESTS;

use super::member::put_if_absent;

/// Returns the line with `cwd` put into `params` where it is absent or null; `None` where there is nothing
/// to do.
///
/// Of `thread/start` and `command/exec` only: other methods take it from a thread or ask for it. Nothing is put
/// into parameters by position that end before it: codex refuses so few.
pub(super) fn insert(line: &[u8], method: &[u8], params: Option<&Params>, cwd: &str) -> Option<Vec<u8>> {
    if !matches!(method, b"thread/start" | b"command/exec") {
        return None;
    }
    let order = REQUESTS.iter().find(|known| known.method.as_bytes() == method)?.order;
    let mut value = Vec::new();
    write_string(&mut value, cwd);
    put_if_absent(line, params?, "cwd", order, value)
}

#[cfg(test)]
mod tests {
    use crate::message::{ClientMessage, Reader};

    use super::*;

    fn with(line: &str) -> Option<String> {
        let mut reader = Reader::default();
        let Ok(Some(ClientMessage::Request { method, params, .. })) = reader.read(line.as_bytes()) else {
            panic!("{line}")
        };
        let out = insert(line.as_bytes(), &method, params, "/a \"b\"")?;
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn only_what_is_missing_is_put_in() {
        for (line, expected) in [
            (
                r#"{"id":1,"method":"thread/start","params":{}}"#,
                Some(r#"{"id":1,"method":"thread/start","params":{"cwd":"/a \"b\""}}"#),
            ),
            (
                r#"{"params":{ "x":1.0 },"id":1,"method":"command/exec"}"#,
                Some(r#"{"params":{"cwd":"/a \"b\"", "x":1.0 },"id":1,"method":"command/exec"}"#),
            ),
            (
                r#"{"id":1,"method":"thread/start","params":{"cwd":null,"y":{}}}"#,
                Some(r#"{"id":1,"method":"thread/start","params":{"cwd":"/a \"b\"","y":{}}}"#),
            ),
            (
                r#"{"id":1,"method":"thread\/start","params":{"\u0063wd":null}}"#,
                Some(r#"{"id":1,"method":"thread\/start","params":{"\u0063wd":"/a \"b\""}}"#),
            ),
            // codex takes the last one.
            (
                r#"{"id":1,"method":"thread/start","params":{"cwd":"/x","cwd":null}}"#,
                Some(r#"{"id":1,"method":"thread/start","params":{"cwd":"/x","cwd":"/a \"b\""}}"#),
            ),
            (r#"{"id":1,"method":"thread/start","params":{"cwd":null,"cw\u0064":"/x"}}"#, None),
            (
                r#"{"id":1,"method":"thread/start","params":["m",null,false,null,null,[]]}"#,
                Some(r#"{"id":1,"method":"thread/start","params":["m",null,false,null,"/a \"b\"",[]]}"#),
            ),
            (r#"{"id":1,"method":"thread/start","params":[null,null,false,null,"/x"]}"#, None),
            (r#"{"id":1,"method":"thread/start","params":[null]}"#, None),
            (r#"{"id":1,"method":"thread/start","params":5}"#, None),
            (r#"{"id":1,"method":"thread/start","params":{"cwd":"/x"}}"#, None),
            (r#"{"id":1,"method":"thread/start"}"#, None),
            (r#"{"id":1,"method":"thread/resume","params":{}}"#, None),
        ] {
            assert_eq!(with(line).as_deref(), expected, "{line}");
        }
    }
}
