//! The control plane: what `codexd ctl` asks and tells the daemon.
//!
//! # Theory of operation
//!
//! The control socket is served by a thread of its own, so that a busy core never looks dead. That thread
//! shares two things with the core: the snapshot that the core publishes after every transition, and a
//! queue of commands. What the core answers in time is exact; otherwise the snapshot is shown, with its
//! age and a warning. A client that waits for a state subscribes to the states ([`states`]), and takes no slot from
//! clients that send requests ([`slots`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use codexd_proto::control::{InterruptReceipt, KillReceipt};
use codexd_proto::feed::FeedEvent;
use codexd_proto::listing::{RequestStatus, ThreadStatus, TurnStatus};
use codexd_proto::status::{ClientStatus, StatusReport};
use parking_lot::RwLock;
use tokio::sync::{Notify, broadcast, mpsc, oneshot};

use crate::logging::filter::LogFilter;

pub(crate) mod api;
pub(crate) mod client;
mod events;
mod frames;
mod gate;
pub(crate) mod monitor;
pub(crate) mod server;
pub(crate) mod slots;
pub(crate) mod states;
pub(crate) mod surroundings;
mod views;

pub(crate) use codexd_proto::control::{ReloadReceipt, StopMode, StopReceipt};

pub(crate) use server::ControlServer;

/// Events that are kept for a subscriber that has not read them yet; of more, it misses the oldest.
const FEED_EVENTS: usize = 1024;

/// What the control plane asks of the core.
///
/// A dropped reply counts as no answer.
#[derive(Debug)]
pub(crate) enum Command {
    /// The state at this moment.
    Status(oneshot::Sender<StatusReport>),
    /// The connected clients.
    Clients(oneshot::Sender<Vec<ClientStatus>>),
    /// The threads in use.
    Threads(oneshot::Sender<Vec<ThreadStatus>>),
    /// The turns that run.
    Turns(oneshot::Sender<Vec<TurnStatus>>),
    /// The requests without an answer.
    Requests(oneshot::Sender<Vec<RequestStatus>>),
    /// A client is to be disconnected.
    Kill {
        /// The number of its connection.
        client: u64,
        /// Says whether there was one.
        reply: oneshot::Sender<KillReceipt>,
    },
    /// A turn is to be interrupted.
    Interrupt {
        /// The id of a turn or thread, or a part of it.
        target: String,
        /// Says which turn is being interrupted, or why none is.
        begun: oneshot::Sender<Result<InterruptReceipt, String>>,
        /// Says how it has ended, or why it has not.
        ended: oneshot::Sender<InterruptReceipt>,
    },
    /// Frames are to be shown to a monitor.
    Monitor(monitor::Monitor),
    /// The settings are to be read again.
    Reload(oneshot::Sender<ReloadReceipt>),
    /// What is logged is to change, until the settings are read again.
    LogLevel {
        /// What is to be logged.
        filter: LogFilter,
        /// Says that it is done.
        reply: oneshot::Sender<()>,
    },
    /// An intended stop; a second one is a step further.
    Stop {
        /// What becomes of running turns.
        mode: StopMode,
        /// Says that the stop has begun, not that it is done.
        reply: oneshot::Sender<StopReceipt>,
    },
}

/// The control plane's end of the connection to the core.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    shown: Arc<Shown>,
}

/// The core's way to show its state.
#[derive(Debug)]
pub(crate) struct Publisher {
    shown: Arc<Shown>,
}

/// What the core publishes.
#[derive(Debug)]
struct Shown {
    snapshot: RwLock<Snapshot>,
    /// Wakes those who wait for another one.
    changed: Notify,
    /// What happens, for those who have subscribed to it.
    feed: broadcast::Sender<FeedEvent>,
}

#[derive(Debug)]
struct Snapshot {
    report: StatusReport,
    at: Instant,
}

/// Connects the core with the control plane; `first` is shown until the core publishes.
pub(crate) fn channel(first: StatusReport) -> (Publisher, mpsc::UnboundedReceiver<Command>, Handle) {
    let (commands, received) = mpsc::unbounded_channel();
    let snapshot = RwLock::new(Snapshot { report: first, at: Instant::now() });
    let shown =
        Arc::new(Shown { snapshot, changed: Notify::new(), feed: broadcast::Sender::new(FEED_EVENTS) });
    (Publisher { shown: Arc::clone(&shown) }, received, Handle { commands, shown })
}

impl Publisher {
    /// Makes `report` the snapshot, and wakes whoever waits for a state.
    ///
    /// To be called after every transition of the lifecycle.
    pub(crate) fn publish(&self, report: StatusReport) {
        *self.shown.snapshot.write() = Snapshot { report, at: Instant::now() };
        self.shown.changed.notify_waiters();
    }
}

impl Publisher {
    /// Whether somebody has subscribed to events.
    pub(crate) fn has_subscribers(&self) -> bool {
        self.shown.feed.receiver_count() > 0
    }

    /// Reports something to those who have subscribed to events.
    pub(crate) fn feed(&self, event: FeedEvent) {
        // Nobody may be there any more.
        let _ = self.shown.feed.send(event);
    }
}

impl Handle {
    /// Returns the snapshot, its durations counted on, and its age.
    fn snapshot(&self) -> (StatusReport, Duration) {
        let snapshot = self.shown.snapshot.read();
        let age = snapshot.at.elapsed();
        let mut report = snapshot.report.clone();
        drop(snapshot);
        let ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        for duration in [&mut report.uptime_ms, &mut report.state_since_ms] {
            *duration = duration.saturating_add(ms);
        }
        for duration in [
            &mut report.upstream.uptime_ms,
            &mut report.upstream.last_message_ms,
            &mut report.oldest_request_ms,
        ] {
            *duration = duration.map(|duration| duration.saturating_add(ms));
        }
        (report, age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_grows_older() {
        let (publisher, _commands, handle) = channel(StatusReport::default());
        publisher.publish(StatusReport { ready: true, uptime_ms: 5, ..StatusReport::default() });
        let (report, _) = handle.snapshot();
        assert!(report.ready);
        assert!(report.uptime_ms >= 5);
        assert_eq!(report.oldest_request_ms, None);
    }
}
