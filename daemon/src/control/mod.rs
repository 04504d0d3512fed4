//! The control plane: the requests of `codexd ctl` to the daemon.
//!
//! # Theory of operation
//!
//! The control socket is served by a thread of its own, so that a busy core never looks dead. That thread shares
//! two things with the core: the snapshot that the core publishes after every transition, and a queue of commands.
//! An answer of the core is exact. If it does not come in time, the snapshot is shown, with its age and a warning.
//! A client that waits for a state subscribes to the states ([`states`]), and occupies no slot of the clients that
//! send requests ([`slots`]).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use codexd_proto::control::{InterruptReceipt, KillReceipt};
use codexd_proto::core::{CannotUpgrade, UpgradeOutcome};
use codexd_proto::feed::FeedEvent;
use codexd_proto::listing::{RequestStatus, ThreadStatus, TurnStatus};
use codexd_proto::status::{ClientStatus, StatusReport};
use parking_lot::RwLock;
use tokio::sync::{Notify, broadcast, mpsc, oneshot};

use crate::ledger::Ledger;
use crate::logging::filter::LogFilter;
use crate::turn::TurnRequest;

pub(crate) mod api;
pub(crate) mod candidate;
pub(crate) mod client;
mod events;
mod frames;
mod gate;
pub(crate) mod monitor;
pub(crate) mod server;
pub(crate) mod slots;
pub(crate) mod states;
pub(crate) mod surroundings;
mod transport;
mod upgrade;
mod views;

pub(crate) use codexd_proto::control::{ReloadReceipt, StopMode, StopReceipt};

pub(crate) use server::ControlServer;

/// Events that are kept for a subscriber that has not read them yet. Above that, it misses the oldest.
const FEED_EVENTS: usize = 1024;

/// A request of the control plane to the core.
///
/// A dropped reply means that there is no answer.
#[derive(Debug)]
pub(crate) enum Command {
    /// Return the status.
    Status(oneshot::Sender<StatusReport>),
    /// Return the connected clients.
    Clients(oneshot::Sender<Vec<ClientStatus>>),
    /// Return the threads in use.
    Threads(oneshot::Sender<Vec<ThreadStatus>>),
    /// Return the running turns.
    Turns(oneshot::Sender<Vec<TurnStatus>>),
    /// Return the requests without an answer.
    Requests(oneshot::Sender<Vec<RequestStatus>>),
    /// Disconnect a client.
    Kill {
        /// The number of its connection.
        client: u64,
        /// Whether there was such a client.
        reply: oneshot::Sender<KillReceipt>,
    },
    /// Interrupt a turn.
    Interrupt {
        /// The id of the turn or its thread, or a part of it.
        target: String,
        /// Which turn is being interrupted, or why none is.
        begun: oneshot::Sender<Result<InterruptReceipt, String>>,
        /// How the turn ended, or why it did not.
        ended: oneshot::Sender<InterruptReceipt>,
    },
    /// Send frames to a monitor.
    Monitor(monitor::Monitor),
    /// Read the settings again.
    Reload(oneshot::Sender<ReloadReceipt>),
    /// Change what is logged, until the settings are read again.
    LogLevel {
        /// What to log.
        filter: LogFilter,
        /// The change is made.
        reply: oneshot::Sender<()>,
    },
    /// Return whether the daemon can be upgraded now.
    CanUpgrade(oneshot::Sender<Result<(), CannotUpgrade>>),
    /// Wait until nothing runs, and end for the next daemon.
    Upgrade {
        /// Milliseconds for that; `None`: no limit.
        within_ms: Option<u64>,
        /// The codexd of the next daemon, where this one starts it.
        program: Option<PathBuf>,
        /// The number of this upgrade, or why it cannot begin.
        reply: oneshot::Sender<Result<u64, CannotUpgrade>>,
        /// How the wait ended.
        ended: oneshot::Sender<UpgradeOutcome>,
    },
    /// Go on as before if this upgrade still waits.
    CallOffUpgrade {
        /// Its number.
        number: u64,
    },
    /// Stop, as an operator intends. A second request skips to the next step.
    Stop {
        /// What happens to running turns.
        mode: StopMode,
        /// The stop has begun. It is not complete.
        reply: oneshot::Sender<StopReceipt>,
    },
}

/// A request of the control plane to the jobs.
#[derive(Debug)]
pub(crate) enum JobCommand {
    /// Start a job.
    Start {
        /// The turn to run.
        request: Box<TurnRequest>,
        /// Milliseconds for its turn; `None`: no limit.
        timeout_ms: Option<u64>,
        /// Its id, or why it was refused.
        reply: oneshot::Sender<Result<String, String>>,
    },
    /// Cancel a job.
    Cancel {
        /// Its id.
        id: String,
        /// Whether it was running.
        reply: oneshot::Sender<bool>,
    },
}

/// The control plane's end of the connection to the core.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    jobs: mpsc::UnboundedSender<JobCommand>,
    ledger: Ledger,
    shown: Arc<Shown>,
}

/// The core's end of that connection.
#[derive(Debug)]
pub(crate) struct Publisher {
    shown: Arc<Shown>,
}

/// The state that the core published last.
#[derive(Debug)]
struct Shown {
    snapshot: RwLock<Snapshot>,
    /// Wakes the tasks that wait for another state.
    changed: Notify,
    /// Events, for the clients that have subscribed to them.
    /// Boxed, so that the room for events that nobody has sent is small.
    feed: broadcast::Sender<Arc<FeedEvent>>,
}

#[derive(Debug)]
struct Snapshot {
    report: StatusReport,
    at: Instant,
}

/// Connects the core and the control plane; `first` is the snapshot until the core publishes one.
pub(crate) fn channel(first: StatusReport) -> (Publisher, mpsc::UnboundedReceiver<Command>, Handle) {
    let (commands, received) = mpsc::unbounded_channel();
    let snapshot = RwLock::new(Snapshot { report: first, at: Instant::now() });
    let shown =
        Arc::new(Shown { snapshot, changed: Notify::new(), feed: broadcast::Sender::new(FEED_EVENTS) });
    let (jobs, _) = mpsc::unbounded_channel();
    let handle = Handle { commands, jobs, ledger: Ledger::off(), shown: Arc::clone(&shown) };
    (Publisher { shown }, received, handle)
}

impl Publisher {
    /// Makes `report` the snapshot, and wakes the tasks that wait for a state.
    ///
    /// Call it after every transition of the lifecycle.
    pub(crate) fn publish(&self, report: StatusReport) {
        *self.shown.snapshot.write() = Snapshot { report, at: Instant::now() };
        self.shown.changed.notify_waiters();
    }
}

impl Publisher {
    /// Returns whether a client has subscribed to events.
    pub(crate) fn has_subscribers(&self) -> bool {
        self.shown.feed.receiver_count() > 0
    }

    /// Sends an event to the clients that have subscribed to events.
    pub(crate) fn feed(&self, event: FeedEvent) {
        // All of them may have disconnected since.
        let _ = self.shown.feed.send(Arc::new(event));
    }
}

impl Handle {
    /// Also connects the jobs and the ledger in which they are recorded.
    #[must_use]
    pub(crate) fn with_jobs(self, jobs: mpsc::UnboundedSender<JobCommand>, ledger: Ledger) -> Handle {
        Handle { jobs, ledger, ..self }
    }

    /// Returns the snapshot with its durations brought up to date, and its age.
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
