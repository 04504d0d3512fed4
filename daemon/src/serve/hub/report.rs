//! What the core tells of itself.

use codexd_proto::lifecycle::State;
use codexd_proto::status::{ClientStatus, DaemonState, StatusReport, Warning};

use super::Hub;

impl Hub {
    /// Describes everything at this moment.
    pub(super) fn report(&self) -> StatusReport {
        let now = self.now();
        let mut report = self.identity.clone();
        report.counters.clients_refused = self.refused;
        self.router.fill_status(now, &mut report);
        report.state = daemon_state(self.lifecycle.state());
        report.state_since_ms = now.since(self.lifecycle.since());
        report.ready = self.lifecycle.state() == State::Serving;
        report.uptime_ms = now.as_millis();
        report.upstream.executable = self.identity.upstream.executable.clone();
        report.upstream.requested = self.identity.upstream.requested.clone();
        if self.lifecycle.child().is_none() {
            report.upstream.pid = self.identity.upstream.pid;
            report.upstream.uptime_ms = Some(now.as_millis());
        } else {
            report.upstream.pid = None;
        }
        report.upstream.ended = self.ended.clone();
        report.upstream.unanswered_probe_ms = self.health.waited_ms(now).filter(|_| self.watches_health());
        report.warnings.extend(report.upstream.unanswered_probe_ms.and_then(silence));
        report.warnings.extend(self.reloader.warnings());
        if self.socket_file.as_ref().is_some_and(|file| !file.still_ours()) {
            report.warnings.push(Warning {
                code: "socketReplaced".to_owned(),
                message: format!("`{}` was removed or replaced: new clients cannot connect", report.socket),
                hint: if self.inherited {
                    "start the socket again: `systemctl --user restart codexd.socket`".to_owned()
                } else {
                    "stop this daemon with `codexd ctl stop` and start it again".to_owned()
                },
            });
        }
        if let Some(why) = &self.cannot_accept {
            report.warnings.push(Warning {
                code: "cannotAccept".to_owned(),
                message: format!(
                    "clients that connect have to wait, {} are connected ({why}; the limit on open files is {})",
                    report.clients, report.open_files_limit
                ),
                hint: "raise the hard limit (`LimitNOFILE=` of the unit, or `ulimit -Hn`), or set \
                       `limits.max_clients` to less"
                    .to_owned(),
            });
        }
        report
    }

    /// Describes every client.
    pub(super) fn client_reports(&self) -> Vec<ClientStatus> {
        let mut clients = self.router.client_statuses(self.now());
        for client in &mut clients {
            let Some((peer, framing)) = self.peer(client.id) else { continue };
            client.pid = peer.pid;
            client.framing = framing.map(str::to_owned);
        }
        clients
    }

    /// Shows the state to whoever asks while the core is busy.
    pub(super) fn publish(&self) {
        self.publisher.publish(self.report());
    }

    /// Returns the line that the service manager shows.
    pub(super) fn status_line(&self) -> String {
        match self.lifecycle.state() {
            State::Serving => match self.identity.upstream.pid {
                Some(pid) => format!("serving, codex app-server is process {pid}"),
                None => "serving".to_owned(),
            },
            State::Starting | State::Handshaking => "waiting for codex app-server".to_owned(),
            _ => self.reason(),
        }
    }
}

/// Milliseconds without an answer from which on it is worth a word: it comes within a few (measured).
const SILENT_MS: u64 = 1_000;

/// Warns of an upstream that does not say whether it lives.
fn silence(waited_ms: u64) -> Option<Warning> {
    (waited_ms >= SILENT_MS).then(|| Warning {
        code: "upstreamSilent".to_owned(),
        message: format!(
            "codex app-server was asked whether it lives and has not answered for {waited_ms} ms"
        ),
        hint: "wait: it is ended after `probe_timeout`, unless it says something before".to_owned(),
    })
}

fn daemon_state(state: State) -> DaemonState {
    match state {
        State::Starting => DaemonState::Starting,
        State::Handshaking => DaemonState::Handshaking,
        State::Serving => DaemonState::Serving,
        State::Draining | State::Interrupting => DaemonState::Draining,
        State::Reaping | State::ClosingInput | State::Terminating | State::Killing | State::Flushing => {
            DaemonState::Stopping
        }
        State::Exited => DaemonState::Exited,
    }
}
