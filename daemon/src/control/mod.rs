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

use codexd_proto::status::{ClientStatus, StatusReport};
use parking_lot::RwLock;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::ledger::Ledger;
use crate::logging::filter::LogFilter;
use crate::turn::TurnRequest;

pub(crate) mod api;
pub(crate) mod client;
mod gate;
pub(crate) mod server;
pub(crate) mod slots;
pub(crate) mod states;

pub(crate) use codexd_proto::control::{ReloadReceipt, StopMode, StopReceipt};

pub(crate) use server::ControlServer;

/// What the control plane asks of the core.
///
/// A dropped reply counts as no answer.
#[derive(Debug)]
pub(crate) enum Command {
    /// The state at this moment.
    Status(oneshot::Sender<StatusReport>),
    /// The connected clients.
    Clients(oneshot::Sender<Vec<ClientStatus>>),
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

/// What the control plane asks of the jobs.
#[derive(Debug)]
pub(crate) enum JobCommand {
    /// A job is to be run.
    Start {
        /// What it is to do.
        request: Box<TurnRequest>,
        /// How long its turn may take, in milliseconds.
        timeout_ms: Option<u64>,
        /// Gets its id, or why there is none.
        reply: oneshot::Sender<Result<String, String>>,
    },
    /// A job is to be cancelled.
    Cancel {
        /// Its id.
        id: String,
        /// Gets whether it was told: not if it is over.
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
    let shown = Arc::new(Shown { snapshot, changed: Notify::new() });
    let (jobs, _) = mpsc::unbounded_channel();
    let handle = Handle { commands, jobs, ledger: Ledger::off(), shown: Arc::clone(&shown) };
    (Publisher { shown }, received, handle)
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

impl Handle {
    /// Connects it with the jobs and the ledger that keeps them, too.
    #[must_use]
    pub(crate) fn with_jobs(self, jobs: mpsc::UnboundedSender<JobCommand>, ledger: Ledger) -> Handle {
        Handle { jobs, ledger, ..self }
    }

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
