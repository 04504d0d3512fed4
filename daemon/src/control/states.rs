//! The subscription to the daemon's states.
#![allow(
    unreachable_pub,
    reason = "the generated traits name it in public places, which compilers from 1.96 on refuse for crate-private types"
)]

use codexd_proto::status::{DaemonState, StatusReport};
use jsonrpsee::server::{SubscriptionMessage, SubscriptionSink};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::Handle;

/// A state of the daemon, sent when it is entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StateChange {
    /// The state.
    pub(crate) state: DaemonState,
    /// Whether a client that connects now is served.
    pub(crate) ready: bool,
    /// Names the life of the daemon.
    pub(crate) generation: u64,
    /// Its process, for people.
    pub(crate) pid: u32,
}

impl StateChange {
    fn of(report: &StatusReport) -> StateChange {
        StateChange {
            state: report.state,
            ready: report.ready,
            generation: report.generation,
            pid: report.pid,
        }
    }
}

/// Sends the current state and each later one until the subscriber or the daemon is gone.
///
/// A subscriber that reads slowly misses states that are over already.
pub(super) async fn send(handle: &Handle, sink: &SubscriptionSink, stop: &CancellationToken) {
    let mut changed = handle.changed.clone();
    let mut sent = None;
    loop {
        changed.mark_unchanged();
        let now = StateChange::of(&handle.snapshot.read().report);
        if sent != Some(now) {
            let Ok(message) = serde_json::value::to_raw_value(&now) else { return };
            if sink.send(SubscriptionMessage::from(message)).await.is_err() {
                return;
            }
            sent = Some(now);
        }
        tokio::select! {
            () = sink.closed() => return,
            () = stop.cancelled() => return,
            changed = changed.changed() => if changed.is_err() {
                // The core is gone and the process follows; the end of the connection reports that.
                return;
            },
        }
    }
}
