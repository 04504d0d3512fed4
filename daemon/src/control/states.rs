//! The subscription to the daemon's states.

use codexd_proto::control::StateChange;
use codexd_proto::status::StatusReport;
use jsonrpsee::server::{SubscriptionMessage, SubscriptionSink};
use tokio_util::sync::CancellationToken;

use super::Handle;

fn of(report: &StatusReport) -> StateChange {
    StateChange { state: report.state, ready: report.ready, generation: report.generation, pid: report.pid }
}

/// Sends the current state and each later one, until the subscriber or the daemon is gone.
///
/// A subscriber that reads slowly misses states that have ended.
pub(super) async fn send(handle: &Handle, sink: &SubscriptionSink, stop: &CancellationToken) {
    let mut sent = None;
    loop {
        // From here on, no change is missed, even if it happens before it is awaited.
        let changed = handle.shown.changed.notified();
        let now = of(&handle.shown.snapshot.read().report);
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
            () = changed => {}
            // The core has ended, and the process will. The end of the connection reports that.
            () = handle.commands.closed() => return,
        }
    }
}
