//! The experimental gate: what a client may use without the capability `experimentalApi`.
//!
//! The upstream gates by its one initialize, which is codexd's and has the capability; so codexd
//! repeats the gate for each client, in the upstream's words.

use crate::json::Span;
use crate::json::edit::member_name;
use crate::json::scan::{Members, member};
use crate::routes::{GatedValue, Request};

/// Returns what needs the capability, as the upstream names it; `None` when nothing does.
pub(super) fn gated(request: &Request, line: &[u8], params: Option<Span>) -> Option<String> {
    if request.experimental {
        return Some(request.method.to_owned());
    }
    let params = params?;
    if !request.fields.is_empty() {
        let first = Members::new(line, params.start)
            .filter_map(|m| {
                let key = member_name(m.key.of(line));
                let at = request.fields.iter().position(|f| f.as_bytes() == &*key)?;
                counts(request.fields[at], m.value.of(line)).then_some(at)
            })
            .min();
        if let Some(at) = first {
            return Some(format!("{}.{}", request.method, request.fields[at]));
        }
    }
    match request.value? {
        GatedValue::GranularApproval => {
            let policy = member(line, params.start, b"approvalPolicy")?;
            member(line, policy.start, b"granular")?;
            Some("askForApproval.granular".to_owned())
        }
        GatedValue::ChatgptAuthTokens => {
            let kind = member(line, params.start, b"type")?;
            (kind.of(line) == b"\"chatgptAuthTokens\"")
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
    use crate::routes::REQUESTS;

    fn verdict(method: &str, params: &str) -> Option<String> {
        let request = REQUESTS.iter().find(|r| r.method == method).unwrap();
        gated(request, params.as_bytes(), Some(Span { start: 0, end: params.len() }))
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
        // The upstream looks in the order of its own members, whatever the order of the line.
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
            verdict("account/login/start", "{\"type\":\"chatgptAuthTokens\"}").as_deref(),
            Some("account/login/start.chatgptAuthTokens")
        );
    }
}
