//! The subscriptions to events and frames: what `codexd ctl events` and `codexd ctl monitor` show.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use codexd_proto::feed::FeedEvent;
use codexd_proto::status::Warning;
use jsonrpsee::server::{SubscriptionMessage, SubscriptionSink};
use serde::Serialize;
use serde_json::value::to_raw_value;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::monitor::Written;
use super::server::Service;
use crate::os::unix_time::unix_ms;

/// Time between checks for new warnings, while a client is subscribed.
const WARNINGS_EVERY: Duration = Duration::from_secs(1);

/// Sends events until the subscriber or the daemon is gone. The current state and warnings come first.
///
/// A subscriber that reads slowly misses events, and gets the number of those it missed.
pub(super) async fn send(service: &Service, sink: &SubscriptionSink) {
    let mut events = service.handle.shown.feed.subscribe();
    let state = service.handle.shown.snapshot.read().report.state;
    let first = FeedEvent {
        at_unix_ms: unix_ms(),
        kind: "stateChanged".to_owned(),
        state: Some(state.word().to_owned()),
        ..FeedEvent::default()
    };
    if !item(sink, &first).await {
        return;
    }
    let mut known: BTreeMap<(String, String), Warning> = BTreeMap::new();
    let mut look = tokio::time::interval(WARNINGS_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let batch = tokio::select! {
            biased;
            () = sink.closed() => return,
            event = events.recv() => match event {
                Ok(event) => vec![Arc::unwrap_or_clone(event)],
                Err(RecvError::Lagged(missed)) => {
                    let missed = Some(missed);
                    vec![FeedEvent { at_unix_ms: unix_ms(), kind: "missed".to_owned(), missed, ..FeedEvent::default() }]
                }
                Err(RecvError::Closed) => return,
            },
            () = service.stop.cancelled() => {
                // What was reported before the end is sent before the end.
                return drain(&mut events, sink).await;
            }
            _ = look.tick() => changes(&mut known, service.report().await.warnings),
        };
        for event in batch {
            if !item(sink, &event).await {
                return;
            }
        }
    }
}

async fn drain(events: &mut broadcast::Receiver<Arc<FeedEvent>>, sink: &SubscriptionSink) {
    while let Ok(event) = events.try_recv() {
        if !item(sink, &*event).await {
            return;
        }
    }
}

/// Returns an event for each warning that is new and each that is gone. A warning with other numbers is the same one.
fn changes(known: &mut BTreeMap<(String, String), Warning>, now: Vec<Warning>) -> Vec<FeedEvent> {
    let key = |warning: &Warning| {
        let text = warning.message.chars().filter(|c| !c.is_ascii_digit()).collect();
        (warning.code.clone(), text)
    };
    let now: BTreeMap<_, _> = now.into_iter().map(|warning| (key(&warning), warning)).collect();
    let event = |kind: &str, warning: &Warning| FeedEvent {
        at_unix_ms: unix_ms(),
        kind: kind.to_owned(),
        warning: Some(warning.clone()),
        ..FeedEvent::default()
    };
    let raised = now.iter().filter(|(key, _)| !known.contains_key(*key));
    let mut events: Vec<_> = raised.map(|(_, warning)| event("warningRaised", warning)).collect();
    let cleared = known.iter().filter(|(key, _)| !now.contains_key(*key));
    events.extend(cleared.map(|(_, warning)| event("warningCleared", warning)));
    *known = now;
    events
}

/// Sends frames until the subscriber, the daemon or the monitor is gone.
pub(super) async fn monitor(service: &Service, mut written: Written, sink: &SubscriptionSink) {
    loop {
        let frames = tokio::select! {
            () = sink.closed() => return,
            () = service.stop.cancelled() => return,
            frames = written.next() => frames,
        };
        let Some(frames) = frames else { return };
        if sink.send(SubscriptionMessage::from(frames)).await.is_err() {
            return;
        }
    }
}

/// Sends one item. Returns whether there is still a subscriber.
pub(super) async fn item(sink: &SubscriptionSink, item: &impl Serialize) -> bool {
    let Ok(text) = to_raw_value(item) else { return true };
    sink.send(SubscriptionMessage::from(text)).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_an_event_when_it_comes_and_when_it_goes() {
        let warning = |code: &str, message: &str| Warning {
            code: code.to_owned(),
            message: message.to_owned(),
            hint: String::new(),
        };
        let mut known = BTreeMap::new();
        let mut kinds = |now: Vec<Warning>| -> Vec<(String, String)> {
            let events = changes(&mut known, now).into_iter();
            events.map(|event| (event.kind, event.warning.unwrap().code)).collect()
        };
        let raised = |code: &str| ("warningRaised".to_owned(), code.to_owned());
        assert_eq!(kinds(vec![warning("a", "for 1 s"), warning("b", "x")]), [raised("a"), raised("b")]);
        assert_eq!(kinds(vec![warning("a", "for 25 s"), warning("b", "x")]), []);
        assert_eq!(kinds(vec![warning("b", "x")]), [("warningCleared".to_owned(), "a".to_owned())]);
        assert_eq!(kinds(vec![warning("b", "x"), warning("b", "y")]), [raised("b")]);
    }
}
