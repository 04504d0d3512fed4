//! The experimental gate: what a client can use without the capability `experimentalApi`.
//!
//! The upstream decides by codexd's own `initialize`, which has the capability. So codexd applies the gate to each
//! client, with the upstream's error messages.

use super::params::Params;
use crate::id::parse_i64;
use crate::json::scan::first_name;
use crate::json::text::spells;
use crate::routes::{GatedValue, Request};

/// Bytes of the longest spelling of `granular`.
const LONGEST_GRANULAR: usize = 6 * "granular".len();

/// Returns what needs the capability, by the upstream's name for it; `None` if nothing does.
pub(super) fn gated(request: &Request, line: &[u8], params: Option<Params<'_>>) -> Option<String> {
    if request.experimental {
        return Some(request.method.to_owned());
    }
    let params = params?;
    // The upstream checks in the order of its own members, not in that of the line.
    let given = |field: &&&str| params.json(field).is_some_and(|value| counts(request, field, value));
    if let Some(field) = request.fields.iter().find(given) {
        return Some(format!("{}.{field}", request.method));
    }
    match request.value? {
        GatedValue::GranularApproval => {
            // The upstream refuses an object with other members (measured).
            let policy = params.get("approvalPolicy").filter(|policy| line[policy.start] == b'{')?;
            let name = first_name(line, policy.start, LONGEST_GRANULAR)?;
            spells(name, b"granular").then(|| "askForApproval.granular".to_owned())
        }
        GatedValue::ChatgptAuthTokens => {
            // The upstream accepts the number of a variant in place of its name (measured), and the numbers can change.
            let by_number = parse_i64(params.json("type")?).is_some();
            (by_number || params.is_text("type", b"chatgptAuthTokens"))
                .then(|| "account/login/start.chatgptAuthTokens".to_owned())
        }
    }
}

/// Returns whether the value of a gated member counts as given (measured). Null does not, unless it has a meaning
/// of its own. A boolean does only if it is true, unless it can be absent. An empty `path` does not.
fn counts(request: &Request, field: &str, value: &[u8]) -> bool {
    match value {
        b"null" => (request.method, field) == ("thread/list", "projectId"),
        b"false" => field == "daybreakEnabled",
        b"\"\"" => field != "path",
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{ClientMessage, Reader};
    use crate::routes::REQUESTS;

    fn verdict(method: &str, params: &str) -> Option<String> {
        let request = REQUESTS.iter().find(|r| r.method == method).unwrap();
        let line = format!(r#"{{"id":1,"method":"{method}","params":{params}}}"#);
        let mut reader = Reader::default();
        let Ok(Some(ClientMessage::Request { params, .. })) = reader.read(line.as_bytes()) else {
            panic!("{line}")
        };
        let line = line.as_bytes();
        gated(request, line, params.as_ref().and_then(|given| Params::new(line, given, request)))
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
        assert_eq!(verdict("thread/metadata/update", "{\"projectId\":null,\"daybreakEnabled\":null}"), None);
        assert_eq!(
            verdict("thread/metadata/update", "{\"daybreakEnabled\":false}").as_deref(),
            Some("thread/metadata/update.daybreakEnabled")
        );
        assert_eq!(verdict("thread/list", "{\"projectId\":null}").as_deref(), Some("thread/list.projectId"));
        assert_eq!(verdict("thread/list", "{\"includeAttachedThreads\":false}"), None);
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
        for kind in ["\"chatgpt\"", "null", "3.0", "3e0", "[3]", "{\"chatgptAuthTokens\":1}"] {
            let params = format!("{{\"type\":{kind}}}");
            assert_eq!(verdict("account/login/start", &params), None, "{params}");
        }
        assert_eq!(
            verdict("account/login/start", "{\"type\":\"chatgptAuthTokens\"}").as_deref(),
            Some("account/login/start.chatgptAuthTokens")
        );
        assert_eq!(
            verdict("account/login/start", "{\"type\":\"chatgpt\\u0041uthTokens\"}").as_deref(),
            Some("account/login/start.chatgptAuthTokens")
        );
    }

    #[test]
    fn what_is_given_by_position_is_gated_too() {
        let resume = |second: &str| verdict("thread/resume", &format!("[\"t\",{second},null]"));
        assert_eq!(resume("[]").as_deref(), Some("thread/resume.history"));
        assert_eq!(resume("null"), None);
        let policy = format!("[\"t\"{},{{\"granular\":{{}}}}]", ",null".repeat(13));
        assert_eq!(verdict("turn/start", &policy).as_deref(), Some("askForApproval.granular"));
        assert_eq!(
            verdict("account/login/start", "[\"chatgptAuthTokens\",\"x\"]").as_deref(),
            Some("account/login/start.chatgptAuthTokens")
        );
        assert!(verdict("account/login/start", "[3,\"x\"]").is_some());
    }
}
