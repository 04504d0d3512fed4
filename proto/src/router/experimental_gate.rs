//! The experimental gate: what a client may use without the capability `experimentalApi`.
//!
//! The upstream gates by its one initialize, which is codexd's and has the capability; so codexd
//! repeats the gate for each client, in the upstream's words.

use super::params::Params;
use crate::json::edit::last_member;
use crate::routes::{GatedValue, Request};

/// Returns what needs the capability, as the upstream names it; `None` when nothing does.
pub(super) fn gated(request: &Request, line: &[u8], params: Option<Params<'_>>) -> Option<String> {
    if request.experimental {
        return Some(request.method.to_owned());
    }
    let params = params?;
    if !request.fields.is_empty() {
        let first = params
            .named()
            .filter_map(|(name, value)| {
                let at = request.fields.iter().position(|f| f.as_bytes() == &*name)?;
                counts(request, request.fields[at], value).then_some(at)
            })
            .min();
        if let Some(at) = first {
            return Some(format!("{}.{}", request.method, request.fields[at]));
        }
    }
    match request.value? {
        GatedValue::GranularApproval => {
            last_member(line, params.get("approvalPolicy")?, "granular")?;
            Some("askForApproval.granular".to_owned())
        }
        GatedValue::ChatgptAuthTokens => {
            let kind = params.text("type")?;
            (kind == "chatgptAuthTokens").then(|| "account/login/start.chatgptAuthTokens".to_owned())
        }
    }
}

/// Returns whether a gated member counts as given (measured): not null, unless that has a meaning of its own; a
/// boolean only when true, unless it can be absent; an empty `path` not.
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
    use crate::json::Span;
    use crate::routes::REQUESTS;

    fn verdict(method: &str, params: &str) -> Option<String> {
        let request = REQUESTS.iter().find(|r| r.method == method).unwrap();
        let span = Span { start: 0, end: params.len() };
        gated(request, params.as_bytes(), Params::new(params.as_bytes(), Some(span), request))
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
            verdict("turn/start", "{\"approval\\u0050olicy\":{\"gr\\u0061nular\":{}}}").as_deref(),
            Some("askForApproval.granular")
        );
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
    }
}
