//! What the core reports about itself.

use super::Core;
use crate::id::ClientId;
use crate::lifecycle::State;
use crate::listing::{ClientName, RequestStatus, ThreadStatus, TurnStatus};
use crate::router::CONFIG_WARNING;
use crate::statistics::Statistics;
use crate::status::{ClientStatus, DaemonState, StatusReport, Warning};
use crate::time::Time;

/// Milliseconds without an answer to a health check after which there is a warning. Normally, it takes a few
/// milliseconds (measured).
const SILENT_MS: u64 = 1_000;

/// Clients that the status names at the most.
const NAMED_CLIENTS: usize = 8;

impl From<State> for DaemonState {
    fn from(state: State) -> DaemonState {
        match state {
            State::Starting => DaemonState::Starting,
            State::Handshaking => DaemonState::Handshaking,
            State::Serving => DaemonState::Serving,
            State::Upgrading | State::Draining | State::Interrupting => DaemonState::Draining,
            State::Reaping | State::ClosingInput | State::Terminating | State::Killing | State::Flushing => {
                DaemonState::Stopping
            }
            State::Exited => DaemonState::Exited,
        }
    }
}

impl Core {
    /// Fills in what the core knows. Removes the upstream's process id once the upstream has ended.
    pub fn fill_status(&self, now: Time, report: &mut StatusReport) {
        self.router.fill_status(now, report);
        for warning in report.warnings.iter_mut().filter(|warning| warning.code == CONFIG_WARNING) {
            warning.message = self.diagnosis.mask(&warning.message);
        }
        report.state = self.lifecycle.state().into();
        report.state_since_ms = now.since(self.lifecycle.since());
        report.ready = self.lifecycle.state() == State::Serving;
        report.upgrade = self.upgrade_status(now);
        report.uptime_ms = now.as_millis();
        report.upstream.uptime_ms = self.lifecycle.child().is_none().then_some(now.as_millis());
        if self.lifecycle.child().is_some() {
            report.upstream.pid = None;
        }
        report.upstream.ended.clone_from(&self.ended);
        if self.ended.is_some() {
            report.upstream.stderr = self.upstream_lines();
        }
        report.upstream.unanswered_probe_ms = self.health.waited_ms(now).filter(|_| self.checks_health());
        report.warnings.extend(report.upstream.unanswered_probe_ms.and_then(silence));
        report.max_clients = self.max_clients();
        let oldest = self.connections.oldest(NAMED_CLIENTS).into_iter();
        report.oldest_clients =
            oldest.map(|id| ClientName { id: u64::from(id.0), name: self.router.name_of(id) }).collect();
        report.warnings.extend(self.full_warning(report));
    }

    /// Describes every connected client, in the order of their connection.
    pub fn client_statuses(&self, now: Time) -> Vec<ClientStatus> {
        let mut clients = self.router.client_statuses(now);
        for client in &mut clients {
            let framing = u32::try_from(client.id).ok().and_then(|id| self.connections.framing(ClientId(id)));
            client.framing = framing.map(|framing| framing.word().to_owned());
        }
        clients
    }

    /// Returns counts and times since the start.
    pub fn statistics(&self) -> &Statistics {
        self.router.statistics()
    }

    /// Describes the threads in use, see [`Router::thread_statuses`](crate::router::Router::thread_statuses).
    pub fn thread_statuses(&self, now: Time) -> Vec<ThreadStatus> {
        self.router.thread_statuses(now)
    }

    /// Describes the running turns, the oldest first.
    pub fn turn_statuses(&self, now: Time) -> Vec<TurnStatus> {
        self.router.turn_statuses(now)
    }

    /// Describes the requests without an answer, the oldest first.
    pub fn request_statuses(&self, now: Time) -> Vec<RequestStatus> {
        self.router.request_statuses(now)
    }

    /// Returns the status line for the supervisor. `upstream_pid` is set while the upstream runs.
    pub fn status_line(&self, upstream_pid: Option<u32>) -> String {
        match self.lifecycle.state() {
            State::Serving => match upstream_pid {
                Some(pid) => format!("serving, codex app-server is process {pid}"),
                None => "serving".to_owned(),
            },
            State::Starting | State::Handshaking => "waiting for codex app-server".to_owned(),
            State::Upgrading => "waiting until nothing runs, to be upgraded then".to_owned(),
            _ => self.reason(),
        }
    }
}

/// Warns of an upstream that does not answer a health check.
fn silence(waited_ms: u64) -> Option<Warning> {
    (waited_ms >= SILENT_MS).then(|| Warning {
        code: "upstreamSilent".to_owned(),
        message: format!("codex app-server has not answered a health check for {waited_ms} ms"),
        hint: "wait: codexd ends it after `probe_timeout`, unless it writes something before".to_owned(),
    })
}
