//! The table for people: what `docs/protocol.md` shows.

use std::fmt::Write as _;

use super::{
    Audience, GatedValue, NOTIFICATIONS, Notification, REQUESTS, Request, RequestEffect, Route,
    SERVER_REQUESTS, ServerRequest, ServerRequestAudience,
};

/// Writes the routing table as Markdown: every method that codexd does not only forward has a row, the others are
/// listed by name.
pub fn describe() -> String {
    let mut out = String::from("### Requests of clients\n\n");
    let plain = table(&mut out, &["method", "what codexd does"], REQUESTS.iter().map(request));
    let _ = writeln!(out, "\nPassed on with another id, and nothing else: {plain}.\n");
    out.push_str("### Notifications\n\n");
    let plain = table(&mut out, &["method", "who gets it"], NOTIFICATIONS.iter().map(notification));
    let _ = writeln!(out, "\nTo the subscribers of `params.threadId`, and nothing else: {plain}.\n");
    out.push_str("### Server requests\n\n");
    table(&mut out, &["method", "who is asked"], SERVER_REQUESTS.iter().map(server_request));
    out
}

/// Writes the rows of methods that are not only forwarded; returns the names of the others.
fn table(
    out: &mut String,
    head: &[&str; 2],
    rows: impl Iterator<Item = (&'static str, Vec<String>)>,
) -> String {
    let _ = writeln!(out, "| {} | {} |\n| --- | --- |", head[0], head[1]);
    let mut plain = Vec::new();
    for (method, notes) in rows {
        if notes.is_empty() {
            plain.push(format!("`{method}`"));
        } else {
            let _ = writeln!(out, "| `{method}` | {} |", notes.join("; "));
        }
    }
    plain.join(", ")
}

fn request(request: &Request) -> (&'static str, Vec<String>) {
    let mut notes = Vec::new();
    match request.route {
        Route::Forward => {}
        Route::Local => notes.push("answered by codexd".to_owned()),
        Route::Unsubscribe => notes.push(
            "answered by codexd while another client is subscribed, passed on for the last one".to_owned(),
        ),
        Route::Namespace { id, opens, .. } => {
            notes.push(format!("`{id}` is the client's own"));
            if opens {
                notes.push("what it starts ends with its client".to_owned());
            }
        }
        Route::TranslateRequestId(param) => {
            notes.push(format!("`{param}` names another request of this client"));
        }
    }
    match request.effect {
        RequestEffect::None | RequestEffect::WindowsSetup | RequestEffect::Read => {}
        RequestEffect::Start => notes.push("subscribes to the new thread".to_owned()),
        RequestEffect::Resume => {
            notes.push("subscribes; always passed on, also for a loaded thread".to_owned())
        }
        RequestEffect::Fork => notes.push("subscribes to the new thread, not to its source".to_owned()),
        RequestEffect::Subscribe => notes.push("subscribes, also when it fails".to_owned()),
        RequestEffect::Revert => notes.push(
            "subscribes, also when it fails; other subscriptions survive that the thread is loaded again"
                .to_owned(),
        ),
        RequestEffect::DropSubscriptions => notes.push("ends all subscriptions".to_owned()),
        RequestEffect::StartTurn | RequestEffect::StartReview => notes.push("opens a turn".to_owned()),
    }
    if request.experimental {
        notes.push("needs `experimentalApi`".to_owned());
    }
    let mut gated: Vec<String> = request.fields.iter().map(|f| format!("`{f}`")).collect();
    match request.value {
        Some(GatedValue::GranularApproval) => gated.push("a granular `approvalPolicy`".to_owned()),
        Some(GatedValue::ChatgptAuthTokens) => gated.push("`type` `chatgptAuthTokens`".to_owned()),
        None => {}
    }
    if !gated.is_empty() {
        notes.push(format!("`experimentalApi` for {}", gated.join(", ")));
    }
    if request.work {
        notes.push("refused while draining".to_owned());
    }
    if request.long {
        notes.push("not counted in the in-flight window once consumed".to_owned());
    }
    if request.urgent {
        notes.push("overtakes what waits of its client".to_owned());
    }
    (request.method, notes)
}

fn notification(notification: &Notification) -> (&'static str, Vec<String>) {
    let mut notes = match notification.audience {
        Audience::Thread => Vec::new(),
        Audience::Broadcast(_) => vec!["every initialized client".to_owned()],
        Audience::MeteredThread => vec!["subscribers of the thread whose `thread/tokenUsage/updated` came right before; without one, of every thread with an open turn".to_owned()],
        Audience::Owner(id) => vec![format!("the client whose `{id}` it is")],
        Audience::Requester => vec!["the client whose request caused it".to_owned()],
        Audience::Sticky => vec!["every client, and each later one after its initialize".to_owned()],
        Audience::StickyAtStart => vec![
            "from the start of the upstream: every client, after its initialize; later: the client whose start, \
             resume or fork caused it, right before the response"
                .to_owned(),
        ],
    };
    if notification.experimental {
        if notes.is_empty() {
            notes.push("subscribers".to_owned());
        }
        notes.push("needs `experimentalApi`".to_owned());
    }
    (notification.method, notes)
}

fn server_request(request: &ServerRequest) -> (&'static str, Vec<String>) {
    let mut notes = vec![match request.audience {
        ServerRequestAudience::Thread => {
            format!("subscribers of `params.{}`; unassigned while there is none", request.thread)
        }
        ServerRequestAudience::Broadcast => "every initialized client".to_owned(),
        ServerRequestAudience::OnlySubscriber => {
            "the only subscriber; an error when there is not exactly one".to_owned()
        }
        ServerRequestAudience::Attestation => {
            "the oldest client that declared `requestAttestation`".to_owned()
        }
    }];
    if request.resolved {
        notes.push("`serverRequest/resolved` follows the answer".to_owned());
    }
    if let Some(ms) = request.within_ms {
        notes.push(format!("an error after {ms} ms without an answer"));
    }
    if let Some(param) = request.strip {
        notes.push(format!("`{param}` only with `experimentalApi`"));
    }
    (request.method, notes)
}
