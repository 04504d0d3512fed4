//! The subscription to a view: what `codexd ctl ... --watch` shows.

use std::time::Duration;

use codexd_proto::control::View;
use jsonrpsee::server::{SubscriptionMessage, SubscriptionSink};

use super::server::Service;

/// The shortest time between two views in milliseconds, so that no client keeps the core busy with them.
const MIN_EVERY_MS: u64 = 100;

/// Sends a view until the subscriber or the daemon is gone: at once, every `every_ms` milliseconds, and when the
/// state of the daemon changes. A subscriber that reads slowly gets fewer.
pub(super) async fn send(service: &Service, view: View, every_ms: u64, sink: &SubscriptionSink) {
    let every = Duration::from_millis(every_ms.max(MIN_EVERY_MS));
    loop {
        let changed = service.handle.shown.changed.notified();
        if let Some(text) = service.view(view).await
            && sink.send(SubscriptionMessage::from(text)).await.is_err()
        {
            return;
        }
        tokio::select! {
            () = sink.closed() => return,
            () = service.stop.cancelled() => return,
            () = changed => {}
            () = tokio::time::sleep(every) => {}
            () = service.handle.commands.closed() => return,
        }
    }
}
