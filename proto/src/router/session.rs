//! The handshake state of each client, and what the client declared in its `initialize`.

use rustc_hash::FxHashMap;

use super::config::OrphanedTurns;
use super::limits::Limits;
use crate::id::ClientId;
use crate::json::scan::skip_space;
use crate::time::Time;

/// Bytes that each kept line counts in addition to its own, so that the number of short lines is bounded too.
const LINE_OVERHEAD: usize = 32;

/// The state of a client's handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// Connected. Only `initialize` is accepted.
    AwaitingInitialize,
    /// Initialized.
    Active,
    /// Being closed. What is queued for it is written, and nothing is added.
    Closing,
}

/// What a client declared in its `initialize`.
#[derive(Clone, Debug, Default)]
pub(super) struct Declared {
    pub(super) name: String,
    pub(super) version: String,
    /// Whether it can use the experimental interface.
    pub(super) experimental: bool,
    /// Whether it can attest.
    pub(super) attestation: bool,
    /// What happens to its turns when it disconnects.
    pub(super) orphaned_turns: Option<OrphanedTurns>,
    /// Whether it ends when the daemon does, so that it has no use for the next one.
    pub(super) ends_with_daemon: bool,
}

/// What codexd keeps about one client.
#[derive(Debug)]
pub(super) struct Session {
    state: SessionState,
    /// Its position in the order of initialization; meaningless before it has initialized.
    joined: u64,
    declared: Option<Declared>,
    early: EarlyLines,
    connected: Time,
    received: Received,
}

/// What a client has sent so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Received {
    /// Messages.
    pub(super) messages: u64,
    /// Bytes of these messages, without what framing adds.
    pub(super) bytes: u64,
    /// When the last one came; at first, when the client connected.
    pub(super) last: Time,
}

/// Lines that came before the upstream was ready.
#[derive(Debug, Default)]
struct EarlyLines {
    lines: Vec<Box<[u8]>>,
    bytes: usize,
}

impl Session {
    pub(super) fn state(&self) -> SessionState {
        self.state
    }

    pub(super) fn is_active(&self) -> bool {
        self.state == SessionState::Active
    }

    /// Returns its position in the order of initialization.
    pub(super) fn joined(&self) -> u64 {
        self.joined
    }

    pub(super) fn declared(&self) -> Option<&Declared> {
        self.declared.as_ref()
    }

    /// Returns whether it can use the experimental interface.
    pub(super) fn is_experimental(&self) -> bool {
        self.declared.as_ref().is_some_and(|d| d.experimental)
    }

    /// Returns what it has sent so far.
    pub(super) fn received(&self) -> Received {
        self.received
    }

    /// Returns when it connected.
    pub(super) fn connected(&self) -> Time {
        self.connected
    }
}

/// The sessions of all connected clients.
#[derive(Debug)]
pub(super) struct Sessions {
    sessions: FxHashMap<ClientId, Session>,
    next_client: u32,
    /// How many clients have initialized so far.
    joined: u64,
}

impl Default for Sessions {
    fn default() -> Sessions {
        Sessions { sessions: FxHashMap::default(), next_client: 1, joined: 0 }
    }
}

impl Sessions {
    pub(super) fn connect(&mut self, now: Time) -> ClientId {
        let client = ClientId(self.next_client);
        self.next_client += 1;
        let session = Session {
            state: SessionState::AwaitingInitialize,
            joined: 0,
            declared: None,
            early: EarlyLines::default(),
            connected: now,
            received: Received { last: now, ..Received::default() },
        };
        self.sessions.insert(client, session);
        client
    }

    pub(super) fn disconnect(&mut self, client: ClientId) {
        self.sessions.remove(&client);
    }

    pub(super) fn get(&self, client: ClientId) -> Option<&Session> {
        self.sessions.get(&client)
    }

    /// Records that a client has sent a message. Returns its session.
    pub(super) fn received(&mut self, now: Time, client: ClientId, bytes: usize) -> Option<&Session> {
        let session = self.sessions.get_mut(&client)?;
        session.received.messages += 1;
        session.received.bytes += bytes as u64;
        session.received.last = now;
        Some(session)
    }

    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ClientId, &Session)> {
        self.sessions.iter().map(|(client, session)| (*client, session))
    }

    /// Returns the clients that have initialized, in the order in which they did.
    pub(super) fn active(&self) -> Vec<ClientId> {
        self.active_before(self.joined)
    }

    /// Returns the clients whose position in the order of initialization is below `joined`.
    pub(super) fn active_before(&self, joined: u64) -> Vec<ClientId> {
        let active = self.iter().filter(|(_, s)| s.is_active() && s.joined < joined);
        let mut active: Vec<(u64, ClientId)> = active.map(|(client, s)| (s.joined, client)).collect();
        active.sort_unstable();
        active.into_iter().map(|(_, client)| client).collect()
    }

    /// Returns how many clients have initialized so far.
    pub(super) fn joined(&self) -> u64 {
        self.joined
    }

    /// Returns whether a client has initialized and is not being closed.
    pub(super) fn is_active(&self, client: ClientId) -> bool {
        self.get(client).is_some_and(Session::is_active)
    }

    /// Records that a client has initialized.
    pub(super) fn initialized(&mut self, client: ClientId, declared: Declared) {
        if let Some(session) = self.sessions.get_mut(&client) {
            session.state = SessionState::Active;
            session.joined = self.joined;
            session.declared = Some(declared);
            self.joined += 1;
        }
    }

    /// Marks a client as being closed. Returns whether it was not before.
    pub(super) fn close(&mut self, client: ClientId) -> bool {
        let Some(session) = self.sessions.get_mut(&client) else { return false };
        session.early = EarlyLines::default();
        let first = session.state != SessionState::Closing;
        session.state = SessionState::Closing;
        first
    }

    // ---- before the upstream is ready ----------------------------------------------------------

    /// Keeps a line until the upstream is ready. Returns false if it would exceed the limit. The first line can
    /// have any length. Blank lines are not kept.
    pub(super) fn keep_early(&mut self, client: ClientId, line: &[u8], limits: &Limits) -> bool {
        let Some(session) = self.sessions.get_mut(&client) else { return true };
        if skip_space(line, 0) == line.len() {
            return true;
        }
        let early = &mut session.early;
        if !early.lines.is_empty() && early.bytes + line.len() > limits.early_bytes {
            return false;
        }
        early.bytes += line.len() + LINE_OVERHEAD;
        early.lines.push(line.into());
        true
    }

    /// Returns whether lines of a client are kept until the upstream is ready.
    pub(super) fn has_early(&self, client: ClientId) -> bool {
        self.get(client).is_some_and(|s| !s.early.lines.is_empty())
    }

    /// Removes the kept lines of one client.
    pub(super) fn take_early_of(&mut self, client: ClientId) -> Vec<Box<[u8]>> {
        self.sessions.get_mut(&client).map(|s| std::mem::take(&mut s.early).lines).unwrap_or_default()
    }

    /// Removes all kept lines, in the order in which their clients connected.
    pub(super) fn take_early(&mut self) -> Vec<(ClientId, Vec<Box<[u8]>>)> {
        let mut early: Vec<_> = self
            .sessions
            .iter_mut()
            .filter(|(_, s)| !s.early.lines.is_empty())
            .map(|(client, s)| (*client, std::mem::take(&mut s.early).lines))
            .collect();
        early.sort_unstable_by_key(|(client, _)| *client);
        early
    }
}
