//! The log of clients and turns: one line when each comes and goes.

use codexd_proto::id::ClientId;
use codexd_proto::router::Activity;

use super::Hub;
use crate::ledger::Update;
use crate::os::unix_time::unix_ms;

impl Hub {
    /// Logs what happened to clients and turns since the last time.
    pub(super) fn log_activity(&mut self) {
        while let Some(activity) = self.core.poll_activity() {
            self.record_one(&activity);
            self.report_interrupted(&activity);
            self.feed_activity(&activity);
            if matches!(activity, Activity::ClientLeft { .. } | Activity::TurnEnded { .. }) {
                self.check_memory = true;
            }
            self.log_one(activity);
        }
    }

    /// Records what happened to a turn in the ledger, without waiting.
    fn record_one(&self, activity: &Activity) {
        let at = unix_ms();
        let update = match activity {
            Activity::TurnStarted { thread, turn, client, cwd, sub_agent } => {
                let peer = client.as_ref().and_then(|(client, _)| self.peer(u64::from(client.0)));
                Update::Started {
                    thread: thread.to_string(),
                    turn: turn.clone(),
                    client: client.as_ref().and_then(|(_, name)| name.clone()),
                    client_pid: peer.and_then(|peer| peer.pid),
                    cwd: cwd.clone(),
                    sub_agent: *sub_agent,
                    at,
                }
            }
            Activity::TurnProgress { thread, turn, phase, tokens } => Update::Progress {
                thread: thread.to_string(),
                turn: turn.clone(),
                phase: phase.clone(),
                tokens: *tokens,
                at,
            },
            Activity::TurnSilent { thread, turn, silent_ms, interrupted: true } => Update::Interrupted {
                thread: thread.to_string(),
                turn: turn.clone(),
                cause: format!(
                    "interrupted because codex sent nothing about it for {} s (`silent_turn_interrupt`)",
                    silent_ms / 1_000
                ),
            },
            Activity::TurnEnded { thread, turn, outcome, known_by, tokens, duration_ms, .. } => {
                Update::Ended {
                    thread: thread.to_string(),
                    turn: turn.clone(),
                    outcome: *outcome,
                    known_by: *known_by,
                    tokens: *tokens,
                    began: at.saturating_sub(*duration_ms),
                    at,
                }
            }
            Activity::ClientConnected { .. }
            | Activity::ClientLeft { .. }
            | Activity::ApprovalRequested { .. }
            | Activity::ApprovalEnded { .. }
            | Activity::InterruptRefused { .. }
            | Activity::TurnSilent { interrupted: false, .. }
            | Activity::ConfigWarning { .. } => return,
        };
        self.ledger.record(update);
    }

    fn log_one(&self, activity: Activity) {
        let pid = |client: ClientId| self.peer(u64::from(client.0)).and_then(|peer| peer.pid);
        match activity {
            Activity::ClientConnected { client, name, version } => tracing::info!(
                client.id = client.0,
                client.name = name,
                client.version = version,
                client.pid = pid(client),
                "client connected"
            ),
            Activity::ClientLeft { client, name, connected_ms } => tracing::info!(
                client.id = client.0,
                client.name = name,
                client.pid = pid(client),
                duration_ms = connected_ms,
                "client left"
            ),
            Activity::TurnStarted { thread, turn, client, .. } => {
                let (client, name) = client.unzip();
                tracing::info!(
                    thread.id = %thread,
                    turn.id = turn,
                    client.id = client.map(|client| client.0),
                    client.name = name.flatten(),
                    "turn started"
                );
            }
            Activity::TurnEnded { thread, turn, client, outcome, duration_ms, .. } => {
                let (client, name) = client.unzip();
                tracing::info!(
                    thread.id = %thread,
                    turn.id = turn,
                    client.id = client.map(|client| client.0),
                    client.name = name.flatten(),
                    outcome = outcome.word(),
                    duration_ms,
                    "turn ended"
                );
            }
            // Too many for a log; the ledger has them.
            Activity::TurnProgress { .. } => {}
            Activity::ApprovalRequested { id, thread, method, .. } => tracing::debug!(
                thread.id = thread.map(tracing::field::display),
                rpc.method = method,
                request.id = id.0,
                "codex asks its clients"
            ),
            Activity::ApprovalEnded { id, thread, method, by, waited_ms } => {
                let (client, name) = by.unzip();
                tracing::debug!(
                    thread.id = thread.map(tracing::field::display),
                    rpc.method = method,
                    request.id = id.0,
                    client.id = client.map(|client| client.0),
                    client.name = name.flatten(),
                    duration_ms = waited_ms,
                    "codex asks its clients no longer"
                );
            }
            Activity::TurnSilent { thread, turn, silent_ms, interrupted } => tracing::warn!(
                thread.id = %thread,
                turn.id = turn,
                duration_ms = silent_ms,
                interrupted,
                "codex sends nothing about a turn"
            ),
            Activity::InterruptRefused { thread, message } => {
                tracing::warn!(thread.id = %thread, error = %message, "codex refuses to interrupt a turn");
            }
            Activity::ConfigWarning { text } => {
                tracing::warn!(warning = %text, "codex warns of its configuration");
            }
        }
    }
}
