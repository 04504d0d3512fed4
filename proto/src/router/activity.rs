//! What a log shows of clients and turns: names, ids and durations, and no content.

use std::sync::Arc;

use super::Router;
use super::thread::{OpenTurn, RunningTurn};
use crate::capture::{KnownBy, Outcome, Tokens};
use crate::id::{ClientId, ServerRequestId, ThreadId};
use crate::time::Time;

/// Characters of a client's name that are shown.
const NAME_CHARS: usize = 64;
/// Bytes of an item's type that are shown.
const PHASE_BYTES: usize = 40;

/// Something that happened to a client or a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Activity {
    /// A client has sent `initialize`.
    ClientConnected {
        /// The client.
        client: ClientId,
        /// `clientInfo.name`, shortened.
        name: String,
        /// `clientInfo.version`, shortened.
        version: String,
    },
    /// A client that had sent `initialize` has disconnected or was closed.
    ClientLeft {
        /// The client.
        client: ClientId,
        /// `clientInfo.name`, shortened.
        name: String,
        /// Milliseconds for which it was connected.
        connected_ms: u64,
    },
    /// A turn has started.
    TurnStarted {
        /// The thread.
        thread: ThreadId,
        /// The turn.
        turn: String,
        /// The client that started it, if known, and that client's name while it is connected.
        client: Option<(ClientId, Option<String>)>,
        /// The directory of the thread, if a response reported it.
        cwd: Option<String>,
        /// Whether its thread is a sub-agent's.
        sub_agent: bool,
    },
    /// A turn has made progress.
    TurnProgress {
        /// The thread.
        thread: ThreadId,
        /// The turn.
        turn: String,
        /// The type of the item that has started, if one has: `reasoning`, `commandExecution`.
        phase: Option<String>,
        /// What the turn has used so far, if that is new.
        tokens: Option<Tokens>,
    },
    /// Codex has sent nothing about a turn for the time that the limits name. Once for each limit until there is an
    /// event again.
    TurnSilent {
        /// The thread.
        thread: ThreadId,
        /// The turn.
        turn: String,
        /// Milliseconds since its last event.
        silent_ms: u64,
        /// Whether it is interrupted for that.
        interrupted: bool,
    },
    /// A turn has ended.
    TurnEnded {
        /// The thread.
        thread: ThreadId,
        /// The turn.
        turn: String,
        /// The client that started it, if known, and that client's name while it is connected.
        client: Option<(ClientId, Option<String>)>,
        /// How.
        outcome: Outcome,
        /// What shows the outcome.
        known_by: KnownBy,
        /// What it used, if that was reported.
        tokens: Option<Tokens>,
        /// Milliseconds since its start.
        duration_ms: u64,
    },
    /// The upstream has sent a server request: an approval, a request for input, a dynamic tool call.
    ApprovalRequested {
        /// The server request.
        id: ServerRequestId,
        /// Its thread.
        thread: Option<ThreadId>,
        /// Its turn, if it belongs to one.
        turn: Option<Arc<str>>,
        /// Its method, if the routing table knows it.
        method: Option<&'static str>,
        /// The clients that can answer it, with their names.
        seen_by: Vec<(ClientId, Option<String>)>,
    },
    /// A server request was answered or given up.
    ApprovalEnded {
        /// The server request.
        id: ServerRequestId,
        /// Its thread.
        thread: Option<ThreadId>,
        /// Its turn, if it belongs to one.
        turn: Option<Arc<str>>,
        /// Its method, if the routing table knows it.
        method: Option<&'static str>,
        /// The client that answered; absent if the upstream has given it up.
        by: Option<(ClientId, Option<String>)>,
        /// Milliseconds for which it had no answer.
        waited_ms: u64,
    },
    /// The upstream refuses to interrupt a turn that an operator wants to interrupt.
    InterruptRefused {
        /// The thread.
        thread: ThreadId,
        /// The upstream's error message.
        message: String,
    },
    /// The upstream warns of its own configuration. It may run with defaults instead.
    ConfigWarning {
        /// The upstream's warning.
        text: String,
    },
}

impl Router {
    /// Removes the next activity. It must be polled as actions are, since activities are kept until then.
    pub fn poll_activity(&mut self) -> Option<Activity> {
        self.activities.pop_front()
    }

    /// Records that a client has sent `initialize`.
    pub(super) fn note_connected(&mut self, client: ClientId) {
        let Some(declared) = self.sessions.get(client).and_then(|session| session.declared()) else { return };
        self.activities.push_back(Activity::ClientConnected {
            client,
            name: shortened(&declared.name),
            version: shortened(&declared.version),
        });
    }

    /// Records that a client is about to be removed.
    pub(super) fn note_left(&mut self, now: Time, client: ClientId) {
        let Some(name) = self.name_of(client) else { return };
        let Some(session) = self.sessions.get(client) else { return };
        let connected_ms = now.since(session.connected());
        self.activities.push_back(Activity::ClientLeft { client, name, connected_ms });
    }

    /// Records that a turn runs, and that the client `by` started it, if known.
    pub(super) fn turn_runs(&mut self, thread: &ThreadId, turn: &[u8], by: Option<ClientId>) {
        let now = self.delivery.now();
        let Some(state) = self.subscriptions.get_mut(thread) else { return };
        if state.runs(now, turn, by) {
            let (cwd, sub_agent) = (state.cwd.as_deref().map(str::to_owned), state.sub_agent);
            self.never_ran.forget(thread);
            self.next_turn.started(thread);
            let client = self.starter(by);
            let thread = thread.clone();
            self.activities.push_back(Activity::TurnStarted {
                thread,
                turn: text(turn),
                client,
                cwd,
                sub_agent,
            });
            self.watch_silent_turns();
        }
    }

    /// Records that an item of a turn has started; `kind` is its type.
    pub(super) fn turn_enters(&mut self, thread: &ThreadId, turn: &[u8], kind: &[u8]) {
        let phase = Some(String::from_utf8_lossy(&kind[..kind.len().min(PHASE_BYTES)]).into_owned());
        let thread = thread.clone();
        self.activities.push_back(Activity::TurnProgress { thread, turn: text(turn), phase, tokens: None });
    }

    /// Records that a turn has reported its token usage.
    pub(super) fn turn_used(&mut self, thread: &ThreadId, turn: &[u8], tokens: Option<Tokens>) {
        let thread = thread.clone();
        self.activities.push_back(Activity::TurnProgress { thread, turn: text(turn), phase: None, tokens });
    }

    /// Counts a turn that has ended, and records its outcome for the log.
    pub(super) fn turn_ended(
        &mut self,
        thread: &ThreadId,
        turn: &RunningTurn,
        (outcome, known_by): (Outcome, KnownBy),
    ) {
        self.counters.turns_completed += 1;
        self.statistics.turn_ended(outcome.word(), self.delivery.now().since(turn.since));
        self.activities.push_back(Activity::TurnEnded {
            thread: thread.clone(),
            turn: text(&turn.id),
            client: self.starter(turn.by),
            outcome,
            known_by,
            tokens: turn.meter.tokens(),
            duration_ms: self.delivery.now().since(turn.since),
        });
    }

    /// Records that a server request was passed to some clients.
    pub(super) fn note_requested(&mut self, id: ServerRequestId) {
        let Some(open) = self.server_requests.get(id) else { return };
        let seen_by = open.seen_by.iter().map(|client| (*client, self.name_of(*client))).collect();
        let (thread, turn, method) = (open.thread.clone(), open.turn.clone(), open.method);
        self.activities.push_back(Activity::ApprovalRequested { id, thread, turn, method, seen_by });
    }

    /// Records that a server request was answered by the client `by`; `None` if it was given up.
    pub(super) fn note_request_ended(&mut self, id: ServerRequestId, by: Option<ClientId>) {
        let Some(open) = self.server_requests.get(id).filter(|open| !open.answered) else { return };
        let waited_ms = self.delivery.now().since(open.since);
        let (thread, turn, method) = (open.thread.clone(), open.turn.clone(), open.method);
        self.statistics.approval_ended(by.is_some(), waited_ms);
        let by = self.starter(by);
        self.activities.push_back(Activity::ApprovalEnded { id, thread, turn, method, by, waited_ms });
    }

    /// Records that nothing runs on a thread any more, when the upstream does not report how it ended.
    pub(super) fn all_turns_ended(&mut self, thread: &ThreadId) {
        for turn in self.take_running(thread) {
            self.turn_ended(thread, &turn, (Outcome::Unknown, KnownBy::ThreadEnded));
        }
    }

    /// The upstream is lost; `complete` is the turn of the thread that counts as complete, if it does.
    pub(super) fn all_turns_lost(&mut self, thread: &ThreadId, complete: Option<&OpenTurn>) {
        for turn in self.take_running(thread) {
            let end = match complete {
                Some(open) if open.is_called(&turn.id) => (Outcome::Completed, KnownBy::Inferred),
                _ => (Outcome::Lost, KnownBy::UpstreamLost),
            };
            self.turn_ended(thread, &turn, end);
        }
    }

    fn take_running(&mut self, thread: &ThreadId) -> Vec<RunningTurn> {
        let running = self.subscriptions.get_mut(thread).map(|state| std::mem::take(&mut state.running));
        running.unwrap_or_default()
    }

    fn starter(&self, by: Option<ClientId>) -> Option<(ClientId, Option<String>)> {
        by.map(|client| (client, self.name_of(client)))
    }

    pub(crate) fn name_of(&self, client: ClientId) -> Option<String> {
        self.sessions.get(client)?.declared().map(|declared| shortened(&declared.name))
    }
}

fn text(id: &[u8]) -> String {
    String::from_utf8_lossy(id).into_owned()
}

fn shortened(name: &str) -> String {
    name.chars().take(NAME_CHARS).collect()
}
