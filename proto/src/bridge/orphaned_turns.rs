//! What becomes of turns when the client has left: a program that spawns `codex app-server` expects its turns to end
//! with it.

use crate::message::Params;
use crate::router::OrphanedTurns;

use super::member::put_if_absent;

/// Returns the line of an `initialize` with the declaration `codexd.orphanedTurns` put into its parameters; `None`
/// where the client has set codexd's own member already, or where there is no place for it.
pub(super) fn declare(line: &[u8], params: Option<&Params>, policy: OrphanedTurns) -> Option<Vec<u8>> {
    let declaration = format!("{{\"orphanedTurns\":\"{}\"}}", policy.word());
    put_if_absent(line, params?, "codexd", &[], declaration.into_bytes())
}

#[cfg(test)]
mod tests {
    use crate::message::{ClientMessage, Reader};

    use super::*;

    fn with(line: &str) -> Option<String> {
        let mut reader = Reader::default();
        let Ok(Some(ClientMessage::Request { params, .. })) = reader.read(line.as_bytes()) else {
            panic!("{line}")
        };
        let out = declare(line.as_bytes(), params, OrphanedTurns::Interrupt)?;
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn only_a_client_that_declares_nothing_is_spoken_for() {
        let declared = r#"{"id":1,"method":"initialize","params":{"codexd":{"orphanedTurns":"interrupt"},"clientInfo":{}}}"#;
        for (line, expected) in [
            (r#"{"id":1,"method":"initialize","params":{"clientInfo":{}}}"#, Some(declared)),
            (r#"{"id":1,"method":"initialize","params":{"codexd":null,"clientInfo":{}}}"#, Some(declared)),
            (
                r#"{"id":1,"method":"initialize","params":{"clientInfo":{},"codexd":{"orphanedTurns":"keep"}}}"#,
                None,
            ),
            (r#"{"id":1,"method":"initialize","params":{"clientInfo":{},"codexd":{}}}"#, None),
            (r#"{"id":1,"method":"initialize","params":{"codexd":null,"\u0063odexd":{}}}"#, None),
            (r#"{"id":1,"method":"initialize"}"#, None),
            (r#"{"id":1,"method":"initialize","params":[]}"#, None),
        ] {
            assert_eq!(with(line).as_deref(), expected, "{line}");
        }
    }
}
