//! The log of clients and turns: one line when each comes and goes.

use codexd_proto::id::{ClientId, ThreadId};
use codexd_proto::router::Activity;

use super::Hub;
use crate::ledger::Update;
use crate::logging::roles::{self, log_client, log_turn, log_upstream};
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
            if let Activity::ClientConnected { client, name, .. } = &activity
                && let Some(io) = self.clients.get_mut(client)
            {
                io.name = Some(name.clone());
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
        let client = |id: ClientId, name: Option<String>| roles::Client { name, ..self.client(id) };
        let of = |client_and_name: Option<(ClientId, Option<String>)>| {
            client_and_name.map(|(id, name)| client(id, name))
        };
        match activity {
            Activity::ClientConnected { client: id, name, version } => {
                log_client!(info, client(id, Some(name)), client.version = version, "client connected");
            }
            Activity::ClientLeft { client: id, name, connected_ms } => {
                log_client!(info, client(id, Some(name)), duration_ms = connected_ms, "client left");
            }
            Activity::TurnStarted { thread, turn, client, .. } => {
                let thread = thread.to_string();
                let role = roles::Turn { thread: Some(&thread), turn: Some(&turn), client: of(client) };
                log_turn!(info, role, "turn started");
            }
            Activity::TurnEnded { thread, turn, client, outcome, duration_ms, .. } => {
                let thread = thread.to_string();
                let role = roles::Turn { thread: Some(&thread), turn: Some(&turn), client: of(client) };
                log_turn!(info, role, outcome = outcome.word(), duration_ms, "turn ended");
            }
            // Too many for a log; the ledger has them.
            Activity::TurnProgress { .. } => {}
            Activity::ApprovalRequested { id, thread, turn, method, .. } => {
                let thread = thread.map(|thread| thread.to_string());
                let role = roles::Turn { thread: thread.as_deref(), turn: turn.as_deref(), client: None };
                log_turn!(debug, role, rpc.method = method, request.id = id.0, "codex asks its clients");
            }
            Activity::ApprovalEnded { id, thread, turn, method, by, waited_ms } => {
                let thread = thread.map(|thread| thread.to_string());
                let role = roles::Turn { thread: thread.as_deref(), turn: turn.as_deref(), client: of(by) };
                log_turn!(
                    debug,
                    role,
                    rpc.method = method,
                    request.id = id.0,
                    duration_ms = waited_ms,
                    "codex asks its clients no longer"
                );
            }
            Activity::TurnSilent { thread, turn, silent_ms, interrupted } => {
                let thread = thread.to_string();
                let role = roles::Turn { thread: Some(&thread), turn: Some(&turn), client: None };
                let duration_ms = silent_ms;
                log_turn!(warn, role, duration_ms, interrupted, "codex sends nothing about a turn");
            }
            Activity::InterruptRefused { thread, message } => {
                let turn = self.running_turn(Some(&thread));
                let thread = thread.to_string();
                let role = roles::Turn { thread: Some(&thread), turn: turn.as_deref(), client: None };
                log_turn!(warn, role, error = %message, "codex refuses to interrupt a turn");
            }
            Activity::ConfigWarning { text } => {
                let pid = self.base_status.upstream.pid;
                log_upstream!(warn, pid, warning = %text, "codex warns of its configuration");
            }
        }
    }

    /// Returns the turn that runs on a thread. It looks through all turns, so it is for what is rare.
    pub(super) fn running_turn(&self, thread: Option<&ThreadId>) -> Option<String> {
        let thread = thread?.to_string();
        self.core.turn_statuses(self.now()).into_iter().find(|turn| turn.thread_id == thread)?.id
    }
}
