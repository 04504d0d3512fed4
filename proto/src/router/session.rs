//! The handshake state of each client connection, and what it declared in its `initialize`.

use rustc_hash::FxHashMap;

use super::config::OrphanedTurns;
use super::limits::Limits;
use crate::id::ClientId;
use crate::json::scan::skip_space;
use crate::time::Time;

/// Bytes that each kept line counts for beside its own, so that short lines are bounded too.
const LINE_OVERHEAD: usize = 32;

/// How far a client's handshake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// Connected; only `initialize` is possible.
    AwaitingInitialize,
    /// Initialized.
    Active,
    /// What waits for it is being written; nothing is added.
    Closing,
}

/// What a client declared in its `initialize`.
#[derive(Clone, Debug, Default)]
pub(super) struct Declared {
    pub(super) name: String,
    pub(super) version: String,
    /// It may use the experimental interface.
    pub(super) experimental: bool,
    /// It can attest.
    pub(super) attestation: bool,
    /// What becomes of its turns when it disconnects.
    pub(super) orphaned_turns: Option<OrphanedTurns>,
}

/// What codexd keeps of one client's handshake.
#[derive(Debug)]
pub(super) struct Session {
    state: SessionState,
    /// Place in the order of initialization; meaningful once active.
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
    /// Their bytes, without what framing adds.
    pub(super) bytes: u64,
    /// When the last one came, or the client connected.
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

    /// Returns its place in the order of initialization.
    pub(super) fn joined(&self) -> u64 {
        self.joined
    }

    pub(super) fn declared(&self) -> Option<&Declared> {
        self.declared.as_ref()
    }

    /// Whether it may use the experimental interface.
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
    /// Clients that have initialized so far.
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

    /// Records that a client has sent a message, and returns its session.
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

    /// Returns the clients that have initialized, in that order.
    pub(super) fn active(&self) -> Vec<ClientId> {
        self.active_before(self.joined)
    }

    /// Returns the clients whose place in the order of initialization is below `joined`.
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

    /// Whether a client has initialized and is not closing.
    pub(super) fn is_active(&self, client: ClientId) -> bool {
        self.get(client).is_some_and(Session::is_active)
    }

    /// A client has initialized.
    pub(super) fn initialized(&mut self, client: ClientId, declared: Declared) {
        if let Some(session) = self.sessions.get_mut(&client) {
            session.state = SessionState::Active;
            session.joined = self.joined;
            session.declared = Some(declared);
            self.joined += 1;
        }
    }

    /// A client is closing; returns whether it was not before.
    pub(super) fn close(&mut self, client: ClientId) -> bool {
        let Some(session) = self.sessions.get_mut(&client) else { return false };
        session.early = EarlyLines::default();
        let first = session.state != SessionState::Closing;
        session.state = SessionState::Closing;
        first
    }

    // ---- before the upstream is ready ----------------------------------------------------------

    /// Keeps a line until the upstream is ready. Returns false when it would exceed the limit; the
    /// first line may have any length. Blank lines are not kept: they mean nothing.
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

    /// Whether lines of a client are kept until the upstream is ready.
    pub(super) fn has_early(&self, client: ClientId) -> bool {
        self.get(client).is_some_and(|s| !s.early.lines.is_empty())
    }

    /// Removes the lines that were kept of one client.
    pub(super) fn take_early_of(&mut self, client: ClientId) -> Vec<Box<[u8]>> {
        self.sessions.get_mut(&client).map(|s| std::mem::take(&mut s.early).lines).unwrap_or_default()
    }

    /// Removes the lines that were kept, in the order in which their clients connected.
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
