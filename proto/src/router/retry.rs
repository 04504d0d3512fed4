//! Sending again what the upstream had no room for.
//!
//! When its queue is full, the upstream refuses a request with -32001 before it has looked at it
//! (measured), so that it can be sent again whatever it asks for. That is done here, and not by the
//! client, as long as it keeps what a client relies on: its requests are carried out in the order in
//! which it sent them. So a request that changes something is sent again only if nothing of its
//! client went up after it; what comes then waits behind it. Otherwise, after [`TRIES`], or when its
//! line was too long to be kept, the client gets the upstream's error. codexd's own requests end what
//! nobody uses any more; nobody else would, so they are sent until they are taken.

use super::pending::{Kind, Origin, Pending};
use super::window::Waiter;
use super::{OVERLOADED, Router};
use crate::id::{ThreadId, UpstreamId};
use crate::json::Span;
use crate::json::scan::member;

/// How often a client's request is sent again.
const TRIES: u32 = 5;

/// Milliseconds before it is sent again the first time; each time twice as many.
const BACK_OFF_MS: u64 = 25;

/// Milliseconds from a request's arrival after which it is not sent again.
const WITHIN_MS: u64 = 10_000;

/// Bytes of the longest line that is kept.
const LINE_BYTES: usize = 64 << 10;

/// Bytes of all lines that are kept.
const ALL_BYTES: usize = 1 << 20;

/// Buffers that are used again, and the capacity in bytes above which one is not.
const SPARE: usize = 64;
const SPARE_BYTES: usize = 4 << 10;

/// The lines of requests that the upstream may still refuse.
#[derive(Debug, Default)]
pub(super) struct Kept {
    bytes: usize,
    spare: Vec<Vec<u8>>,
}

impl Kept {
    /// Returns how many bytes are kept.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn has_room(&self, bytes: usize) -> bool {
        bytes <= LINE_BYTES && self.bytes + bytes <= ALL_BYTES
    }

    /// Keeps a line of codexd's own: those are short and few.
    pub(super) fn keep_own(&mut self, line: Vec<u8>) -> Option<Vec<u8>> {
        self.bytes += line.len();
        Some(line)
    }

    /// Keeps a copy of a line, if it is short enough.
    #[inline]
    pub(super) fn copy(&mut self, line: &[u8]) -> Option<Vec<u8>> {
        if !self.has_room(line.len()) {
            return None;
        }
        self.bytes += line.len();
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.extend_from_slice(line);
        Some(copy)
    }

    /// Keeps a line, if it is short enough.
    pub(super) fn keep(&mut self, line: Vec<u8>) -> Option<Vec<u8>> {
        if !self.has_room(line.len()) {
            return None;
        }
        self.bytes += line.len();
        Some(line)
    }

    /// Takes a line out of what is kept.
    fn take(&mut self, line: Option<Vec<u8>>) -> Option<Vec<u8>> {
        let line = line?;
        self.bytes -= line.len();
        Some(line)
    }

    /// Forgets a line.
    #[inline]
    pub(super) fn forget(&mut self, line: Option<Vec<u8>>) {
        if let Some(mut line) = self.take(line)
            && self.spare.len() < SPARE
            && line.capacity() <= SPARE_BYTES
        {
            line.clear();
            self.spare.push(line);
        }
    }
}

/// Tells whether an error says that the upstream's queue is full.
pub(super) fn is_refusal(line: &[u8], failed: bool, body: Span) -> bool {
    failed
        && member(line, body.start, b"code")
            .is_some_and(|code| crate::id::parse_i64(code.of(line)) == Some(OVERLOADED))
}

impl Router {
    /// Takes a request that the upstream refused back into its queue. Gives it back if its error is
    /// the client's.
    pub(super) fn take_back(&mut self, id: UpstreamId, mut pending: Pending) -> Result<(), Pending> {
        let waiter = match &pending.origin {
            Origin::Client { client, .. } => Waiter::Client(*client),
            Origin::Codexd => Waiter::Codexd,
            Origin::Orphan { .. } => return Err(pending),
        };
        let now = self.delivery.now;
        let given_up = pending.tries >= TRIES || now.since(pending.since) > WITHIN_MS;
        if matches!(pending.kind, Kind::Initialize | Kind::Probe | Kind::Marker)
            || (given_up && waiter != Waiter::Codexd)
            || self.is_overtaking(waiter, id, &pending)
        {
            return Err(pending);
        }
        let Some(line) = self.kept.take(pending.line.take()) else { return Err(pending) };
        let until = now + (BACK_OFF_MS << pending.tries.min(TRIES));
        let long = pending.is_long();
        pending.tries += 1;
        pending.offset = None;
        pending.counted = false;
        let queue = match waiter {
            Waiter::Codexd => &mut self.own_queue,
            Waiter::Client(client) => match self.sessions.get_mut(&client) {
                Some(session) => &mut session.queue,
                // INVARIANT: a client's request is an orphan's once the client has gone.
                None => return Err(pending),
            },
        };
        match queue.paused {
            Some(before) => queue.paused = Some(before.max(until)),
            None => {
                queue.paused = Some(until);
                self.paused += 1;
                if !queue.is_empty() {
                    self.window.forget(waiter);
                }
            }
        }
        queue.put_back(id, line, long);
        self.pending.put_back(id, pending);
        self.counters.retried_requests += 1;
        Ok(())
    }

    /// Sees to it that a goodbye is said which the upstream refuses for too long, or whose client has
    /// gone. To codexd, the client has left the thread already, and so it is told.
    pub(super) fn take_over_goodbye(&mut self, thread: &ThreadId, origin: &Origin) {
        if let Origin::Client { client, id } = origin {
            if let Some(session) = self.sessions.get_mut(client) {
                session.in_flight = session.in_flight.saturating_sub(1);
            }
            self.unsubscribe_answer(*client, id, "unsubscribed");
        }
        self.release_if_loaded(thread);
        self.pump();
    }

    /// Tells whether a request would be carried out after one that its client sent later. codexd's own
    /// do not depend on each other, what only reads changes nothing for those that went before it, and
    /// a goodbye is not sent any more once its thread is wanted again.
    fn is_overtaking(&self, waiter: Waiter, id: UpstreamId, pending: &Pending) -> bool {
        let Waiter::Client(client) = waiter else { return false };
        !matches!(pending.kind, Kind::Unsubscribe { .. })
            && !pending.known.is_some_and(|known| known.only_reads())
            && self.sessions.get(&client).is_none_or(|s| s.newest_sent.is_some_and(|newest| newest > id))
    }

    /// Lets the queues go on whose pause is over.
    pub(super) fn end_pauses(&mut self) {
        if self.paused == 0 {
            return;
        }
        let now = self.delivery.now;
        if self.own_queue.paused.is_some_and(|until| until <= now) {
            self.own_queue.paused = None;
            self.paused -= 1;
            self.window.wait(Waiter::Codexd);
        }
        let mut ended = Vec::new();
        for (client, session) in &mut self.sessions {
            if session.queue.paused.is_some_and(|until| until <= now) {
                session.queue.paused = None;
                ended.push(*client);
            }
        }
        ended.sort_unstable();
        self.paused -= ended.len();
        for client in ended {
            self.window.wait(Waiter::Client(client));
        }
        self.pump();
    }
}
