//! What a log shows of clients and turns: who, which and how long, and never what was said.

use super::Router;
use super::thread::RunningTurn;
use crate::capture::Outcome;
use crate::id::{ClientId, ThreadId};
use crate::time::Time;

/// Characters of a client's name that are shown.
const NAME_CHARS: usize = 64;

/// Something that happened to a client or a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Activity {
    /// A client has introduced itself with `initialize`.
    ClientConnected {
        /// The client.
        client: ClientId,
        /// `clientInfo.name`, shortened.
        name: String,
        /// `clientInfo.version`, shortened.
        version: String,
    },
    /// A client that had introduced itself has left, or was closed.
    ClientLeft {
        /// The client.
        client: ClientId,
        /// `clientInfo.name`, shortened.
        name: String,
        /// For how long it was connected.
        connected_ms: u64,
    },
    /// A turn is known to run.
    TurnStarted {
        /// The thread.
        thread: ThreadId,
        /// The turn.
        turn: String,
        /// The client that started it, where that is known by now, and its name while it is connected.
        client: Option<(ClientId, Option<String>)>,
    },
    /// A turn has ended.
    TurnEnded {
        /// The thread.
        thread: ThreadId,
        /// The turn.
        turn: String,
        /// The client that started it, where that is known, and its name while it is connected.
        client: Option<(ClientId, Option<String>)>,
        /// How.
        outcome: Outcome,
        /// For how long it was known to run.
        duration_ms: u64,
    },
    /// The upstream warns of its own configuration: it may run with defaults in place of it.
    ConfigWarning {
        /// In its words.
        text: String,
    },
}

impl Router {
    /// Removes the next thing that happened. To be polled as the actions are: they add up otherwise.
    pub fn poll_activity(&mut self) -> Option<Activity> {
        self.activities.pop_front()
    }

    /// A client has introduced itself.
    pub(super) fn note_connected(&mut self, client: ClientId) {
        let Some(declared) = self.sessions.get(client).and_then(|session| session.declared()) else { return };
        self.activities.push_back(Activity::ClientConnected {
            client,
            name: shortened(&declared.name),
            version: shortened(&declared.version),
        });
    }

    /// A client is about to be forgotten.
    pub(super) fn note_left(&mut self, now: Time, client: ClientId) {
        let Some(name) = self.name_of(client) else { return };
        let Some(session) = self.sessions.get(client) else { return };
        let connected_ms = now.since(session.connected());
        self.activities.push_back(Activity::ClientLeft { client, name, connected_ms });
    }

    /// A turn runs; `by` has started it, if that is known.
    pub(super) fn turn_runs(&mut self, thread: &ThreadId, turn: &[u8], by: Option<ClientId>) {
        let now = self.delivery.now();
        if self.subscriptions.get_mut(thread).is_some_and(|state| state.runs(now, turn, by)) {
            let client = self.starter(by);
            let thread = thread.clone();
            self.activities.push_back(Activity::TurnStarted { thread, turn: text(turn), client });
        }
    }

    /// Counts a turn that has ended, and remembers how for the log.
    pub(super) fn turn_ended(&mut self, thread: &ThreadId, turn: &RunningTurn, outcome: Outcome) {
        self.counters.turns_completed += 1;
        self.activities.push_back(Activity::TurnEnded {
            thread: thread.clone(),
            turn: text(&turn.id),
            client: self.starter(turn.by),
            outcome,
            duration_ms: self.delivery.now().since(turn.since),
        });
    }

    /// Nothing runs on a thread any more.
    pub(super) fn all_turns_ended(&mut self, thread: &ThreadId, outcome: Outcome) {
        let running = self.subscriptions.get_mut(thread).map(|state| std::mem::take(&mut state.running));
        for turn in running.unwrap_or_default() {
            self.turn_ended(thread, &turn, outcome);
        }
    }

    fn starter(&self, by: Option<ClientId>) -> Option<(ClientId, Option<String>)> {
        by.map(|client| (client, self.name_of(client)))
    }

    fn name_of(&self, client: ClientId) -> Option<String> {
        self.sessions.get(client)?.declared().map(|declared| shortened(&declared.name))
    }
}

fn text(id: &[u8]) -> String {
    String::from_utf8_lossy(id).into_owned()
}

fn shortened(name: &str) -> String {
    name.chars().take(NAME_CHARS).collect()
}
