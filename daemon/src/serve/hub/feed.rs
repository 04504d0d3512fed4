//! What happens, for those who have subscribed to the daemon's events.

use codexd_proto::feed::FeedEvent;
use codexd_proto::id::{ClientId, ThreadId};
use codexd_proto::lifecycle::State;
use codexd_proto::listing::ClientName;
use codexd_proto::router::Activity;
use codexd_proto::status::DaemonState;

use super::Hub;
use crate::os::unix_time::unix_ms;

fn named((id, name): (ClientId, Option<String>)) -> ClientName {
    ClientName { id: u64::from(id.0), name }
}

fn event(kind: &str) -> FeedEvent {
    FeedEvent { at_unix_ms: unix_ms(), kind: kind.to_owned(), ..FeedEvent::default() }
}

fn of_thread(kind: &str, thread: &ThreadId) -> FeedEvent {
    FeedEvent { thread_id: Some(thread.to_string()), ..event(kind) }
}

impl Hub {
    /// Reports a new state of the daemon.
    pub(super) fn feed_state(&self, to: State) {
        if self.publisher.has_subscribers() {
            let state = DaemonState::from(to).word().to_owned();
            self.publisher.feed(FeedEvent { state: Some(state), ..event("stateChanged") });
        }
    }

    /// Reports a step of an upgrade.
    pub(super) fn feed_upgrade(&self, kind: &str, message: Option<String>) {
        if self.publisher.has_subscribers() {
            self.publisher.feed(FeedEvent { message, ..event(kind) });
        }
    }

    /// Reports what happened to clients, turns and approvals.
    pub(super) fn feed_activity(&self, activity: &Activity) {
        if self.publisher.has_subscribers()
            && let Some(event) = self.describe(activity)
        {
            self.publisher.feed(event);
        }
    }

    fn describe(&self, activity: &Activity) -> Option<FeedEvent> {
        let pid = |client: &ClientId| self.peer(u64::from(client.0)).and_then(|peer| peer.pid);
        Some(match activity {
            Activity::ClientConnected { client, name, .. } => FeedEvent {
                client: Some(named((*client, Some(name.clone())))),
                pid: pid(client),
                ..event("clientConnected")
            },
            Activity::ClientLeft { client, name, connected_ms } => FeedEvent {
                client: Some(named((*client, Some(name.clone())))),
                pid: pid(client),
                duration_ms: Some(*connected_ms),
                ..event("clientLeft")
            },
            Activity::TurnStarted { thread, turn, client, .. } => FeedEvent {
                turn_id: Some(turn.clone()),
                client: client.clone().map(named),
                ..of_thread("turnStarted", thread)
            },
            Activity::TurnEnded { thread, turn, client, outcome, duration_ms, .. } => FeedEvent {
                turn_id: Some(turn.clone()),
                client: client.clone().map(named),
                outcome: Some(outcome.word().to_owned()),
                duration_ms: Some(*duration_ms),
                ..of_thread("turnEnded", thread)
            },
            Activity::ApprovalRequested { id, thread, turn, method, seen_by } => FeedEvent {
                request_id: Some(format!("s{}", id.0)),
                thread_id: thread.as_ref().map(ToString::to_string),
                turn_id: turn.as_ref().map(ToString::to_string),
                method: method.map(str::to_owned),
                seen_by: seen_by.iter().cloned().map(named).collect(),
                ..event("approvalRequested")
            },
            Activity::ApprovalEnded { id, thread, turn, method, by, waited_ms } => FeedEvent {
                request_id: Some(format!("s{}", id.0)),
                thread_id: thread.as_ref().map(ToString::to_string),
                turn_id: turn.as_ref().map(ToString::to_string),
                method: method.map(str::to_owned),
                client: by.clone().map(named),
                duration_ms: Some(*waited_ms),
                ..event(if by.is_some() { "approvalAnswered" } else { "approvalWithdrawn" })
            },
            Activity::TurnSilent { thread, turn, silent_ms, interrupted } => FeedEvent {
                turn_id: Some(turn.clone()),
                duration_ms: Some(*silent_ms),
                ..of_thread(if *interrupted { "silentTurnInterrupted" } else { "turnSilent" }, thread)
            },
            Activity::InterruptRefused { thread, message } => {
                FeedEvent { message: Some(message.clone()), ..of_thread("interruptRefused", thread) }
            }
            // The first stays, as a warning of the status, which subscribers get; the other has many for each turn.
            Activity::ConfigWarning { .. } | Activity::TurnProgress { .. } => return None,
        })
    }
}
