//! `ctl events`: what happens, one line each.

use codexd_proto::feed::FeedEvent;
use serde_json::json;

use super::{Context, NOT_RUNNING, print, render};
use crate::control::client::Unreachable;
use crate::error::Error;
use crate::terminal::note;

/// Shows events until the daemon ends.
pub(super) async fn run(context: &Context) -> Result<u8, Error> {
    let subscribed = async {
        let connection = context.connect().await?;
        let events = connection.events().await?;
        Ok::<_, Unreachable>((connection, events))
    };
    let (_connection, mut events) = match subscribed.await {
        Ok(subscribed) => subscribed,
        Err(unreachable) => return context.no_answer(&unreachable, json!({})),
    };
    while let Some(event) = events.next().await {
        // A newer daemon can send an event that this version cannot read.
        let Ok(event) = event else { continue };
        if context.json {
            print(&format!("{}\n", json!(event)))?;
        } else {
            print(&line(&event))?;
        }
    }
    note("the daemon has ended");
    Ok(NOT_RUNNING)
}

/// Renders an event as a line that begins with the time of day (UTC).
fn line(event: &FeedEvent) -> String {
    let client = event.client.as_ref().map(render::client).unwrap_or_default();
    let turn = event.turn_id.as_deref().map(render::id).unwrap_or_default();
    let thread = event.thread_id.as_deref().map(render::id).unwrap_or_default();
    let method = event.method.as_deref().unwrap_or("a server request");
    let lasted = event.duration_ms.map(render::duration).unwrap_or_default();
    let by = if client.is_empty() { String::new() } else { format!(", by {client}") };
    let warning = |event: &FeedEvent| {
        let warning = event.warning.clone().unwrap_or_default();
        format!("{} [{}] -> {}", warning.message, warning.code, warning.hint)
    };
    let text = match event.kind.as_str() {
        "stateChanged" => format!("daemon is {}", event.state.as_deref().unwrap_or("in another state")),
        "clientConnected" => match event.pid {
            Some(pid) => format!("client {client} connected, pid {pid}"),
            None => format!("client {client} connected"),
        },
        "clientLeft" => format!("client {client} left after {lasted}"),
        "turnStarted" => format!("turn {turn} started on thread {thread}{by}"),
        "turnEnded" => {
            let outcome = event.outcome.as_deref().unwrap_or("unknown");
            format!("turn {turn} {outcome} after {lasted} on thread {thread}{by}")
        }
        "turnSilent" => format!("turn {turn} on thread {thread} has sent nothing for {lasted}"),
        "silentTurnInterrupted" => {
            format!("turn {turn} on thread {thread} is interrupted: it has sent nothing for {lasted}")
        }
        "approvalRequested" => {
            format!("approval {method} on thread {thread} waits for {}", render::clients(&event.seen_by))
        }
        "approvalAnswered" => format!("approval {method} on thread {thread} answered after {lasted}{by}"),
        "approvalWithdrawn" => format!("approval {method} on thread {thread} withdrawn after {lasted}"),
        "interruptRefused" => {
            let why = event.message.as_deref().unwrap_or_default();
            format!("codex refuses to interrupt the turn on thread {thread}: {why}")
        }
        "warningRaised" => format!("warning: {}", warning(event)),
        "warningCleared" => format!("warning is over: {}", warning(event)),
        "upgradeWaiting" => "an upgrade waits until nothing runs; new work is refused".to_owned(),
        "upgradeCalledOff" => {
            format!("the upgrade is called off: {}", event.message.as_deref().unwrap_or("no reason is known"))
        }
        "upgradeRefused" => {
            let why = event.message.as_deref().unwrap_or("no reason is known");
            format!("the upgrade is refused, because what is on disk does not run: {why}")
        }
        "upgrading" => "the daemon ends, and the next one takes its place".to_owned(),
        "missed" => format!("{} events were not read in time", event.missed.unwrap_or_default()),
        other => other.to_owned(),
    };
    format!("{} {}\n", render::time_of_day(event.at_unix_ms), render::plain(&text))
}

#[cfg(test)]
mod tests {
    use codexd_proto::listing::ClientName;

    use super::*;

    #[test]
    fn an_event_is_one_line_with_its_time() {
        let event = FeedEvent {
            at_unix_ms: 3_661_007,
            kind: "turnEnded".to_owned(),
            turn_id: Some("u".to_owned()),
            thread_id: Some("01a1fb58-0590-7e12-b5d9-d5cdf01b4b72".to_owned()),
            outcome: Some("completed".to_owned()),
            duration_ms: Some(1_500),
            client: Some(ClientName { id: 3, name: Some("a\nb".to_owned()) }),
            ..FeedEvent::default()
        };
        assert_eq!(
            line(&event),
            "01:01:01.007Z turn u completed after 1.5s on thread d5cdf01b4b72, by a b (3)\n"
        );
    }
}
