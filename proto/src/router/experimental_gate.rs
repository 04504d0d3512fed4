//! The experimental gate: what a client may use without the capability `experimentalApi`.
//!
//! The upstream gates by its one initialize, which is codexd's and has the capability; so codexd
//! repeats the gate for each client, in the upstream's words.

use crate::json::is_text;
use crate::json::scan::member;
use crate::message::Params;
use crate::routes::{GatedValue, Request};

/// Returns what needs the capability, as the upstream names it; `None` when nothing does.
pub(super) fn gated(request: &Request, line: &[u8], params: Option<&Params>) -> Option<String> {
    if request.experimental {
        return Some(request.method.to_owned());
    }
    let params = params?;
    // The upstream looks in the order of its own members, whatever the order of the line.
    let given = |field: &&&str| params.get(field).is_some_and(|value| counts(field, value.of(line)));
    if let Some(field) = request.fields.iter().find(given) {
        return Some(format!("{}.{field}", request.method));
    }
    match request.value? {
        GatedValue::GranularApproval => {
            let policy = params.get("approvalPolicy")?;
            member(line, policy.start, b"granular")?;
            Some("askForApproval.granular".to_owned())
        }
        GatedValue::ChatgptAuthTokens => {
            let kind = params.get("type")?;
            // The upstream takes the number of a kind for its name (measured); which is which may change.
            let by_number = matches!(line[kind.start], b'-' | b'0'..=b'9');
            (by_number || is_text(line, kind, b"chatgptAuthTokens"))
                .then(|| "account/login/start.chatgptAuthTokens".to_owned())
        }
    }
}

/// Tells whether a gated member counts as given: not null, a boolean only when true, an empty
/// `path` not (measured).
fn counts(field: &str, value: &[u8]) -> bool {
    !(value == b"null" || value == b"false" || (field == "path" && value == b"\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::ClientMessage;
    use crate::routes::REQUESTS;

    fn verdict(method: &str, params: &str) -> Option<String> {
        let request = REQUESTS.iter().find(|r| r.method == method).unwrap();
        let line = format!(r#"{{"id":1,"method":"{method}","params":{params}}}"#);
        let Ok(Some(ClientMessage::Request { params, .. })) = ClientMessage::read(line.as_bytes()) else {
            panic!("{line}")
        };
        gated(request, line.as_bytes(), params.as_ref())
    }

    #[test]
    fn methods_fields_and_values_are_gated_in_the_upstreams_words() {
        assert_eq!(verdict("server/diagnostics", "{}").as_deref(), Some("server/diagnostics"));
        assert_eq!(verdict("thread/start", "{\"cwd\":\"/\"}"), None);
        assert_eq!(
            verdict("thread/start", "{\"dynamicTools\":[]}").as_deref(),
            Some("thread/start.dynamicTools")
        );
        assert_eq!(
            verdict("thread/start", "{\"dynamic\\u0054ools\":[]}").as_deref(),
            Some("thread/start.dynamicTools")
        );
        assert_eq!(
            verdict("thread/start", "{\"dynamicTools\":[],\"environments\":[]}").as_deref(),
            Some("thread/start.environments")
        );
        assert_eq!(verdict("thread/start", "{\"experimentalRawEvents\":false}"), None);
        assert_eq!(verdict("thread/start", "{\"permissions\":null}"), None);
        assert_eq!(verdict("thread/resume", "{\"path\":\"\"}"), None);
        assert_eq!(
            verdict("turn/start", "{\"approvalPolicy\":{\"granular\":{}}}").as_deref(),
            Some("askForApproval.granular")
        );
        assert_eq!(verdict("turn/start", "{\"approvalPolicy\":\"never\"}"), None);
        assert_eq!(
            verdict("turn/start", r#"{"approvalP\u006flicy":{"gr\u0061nular":{}}}"#).as_deref(),
            Some("askForApproval.granular")
        );
        // Of members given twice, the upstream takes the last one.
        assert_eq!(verdict("thread/start", r#"{"permissions":"x","permissions":null}"#), None);
        assert!(verdict("thread/start", r#"{"permissions":null,"permission\u0073":"x"}"#).is_some());
        for kind in ["\"chatgpt\\u0041uthTokens\"", "3", "-0"] {
            let params = format!("{{\"type\":{kind}}}");
            assert!(verdict("account/login/start", &params).is_some(), "{params}");
        }
        for kind in ["\"chatgpt\"", "null", "[3]", "{\"chatgptAuthTokens\":1}"] {
            let params = format!("{{\"type\":{kind}}}");
            assert_eq!(verdict("account/login/start", &params), None, "{params}");
        }
        assert_eq!(
            verdict("account/login/start", "{\"type\":\"chatgptAuthTokens\"}").as_deref(),
            Some("account/login/start.chatgptAuthTokens")
        );
    }
}
