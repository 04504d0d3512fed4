//! Requests without a response.

use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;
use serde_json::Value;

use crate::id::{ClientId, RequestId, ThreadId, UpstreamId};
use crate::routes::{Request, Resource};
use crate::time::Time;

/// The sender of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::router) enum Origin {
    /// A client. It gets the response, with its own id.
    Client { client: ClientId, id: RequestId },
    /// A client that has disconnected. The response is discarded, and its effect undone.
    Orphan { client: ClientId },
    /// codexd itself.
    Codexd,
}

impl Origin {
    /// Returns the client that sent the request, connected or not.
    pub(in crate::router) fn client(&self) -> Option<ClientId> {
        match self {
            Origin::Client { client, .. } | Origin::Orphan { client } => Some(*client),
            Origin::Codexd => None,
        }
    }

    /// Returns the client that the response goes to.
    pub(in crate::router) fn connected(&self) -> Option<ClientId> {
        match self {
            Origin::Client { client, .. } => Some(*client),
            Origin::Orphan { .. } | Origin::Codexd => None,
        }
    }
}

/// What a response changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::router) enum PendingKind {
    /// Nothing that codexd keeps track of.
    Plain,
    /// The one handshake with the upstream.
    Initialize,
    /// A health check. That there is a response is all that matters.
    Ping,
    /// A barrier. Its response proves that everything before it was consumed.
    Barrier,
    /// A request that the upstream rejects with the names of all methods.
    ListMethods,
    /// Interrupts the turn of a thread, and how often that was refused before. On behalf of an operator, it
    /// bypasses the in-flight window (`overtakes`).
    Interrupt { thread: ThreadId, refused: u32, overtakes: bool },
    /// Creates a thread.
    Start,
    /// Creates a thread from another one.
    Fork { replays: bool },
    /// Subscribes to an existing thread. Its id is not known beforehand with `history`, and with a `path` it is only what the
    /// file's name says.
    /// Those have `unnamed`. `gives`: its client gives permissions itself.
    Resume { target: Option<ThreadId>, replays: bool, unnamed: Option<Box<Unnamed>>, gives: bool },
    /// Subscribes to a loaded thread, even if it fails. `reloads`: it unloads the thread and loads it again.
    Subscribe { thread: ThreadId, reloads: bool },
    /// Archives or deletes a thread.
    DropSubscriptions { thread: ThreadId },
    /// Unsubscribes the last subscriber.
    Unsubscribe { thread: ThreadId },
    /// Starts a turn or a review, or adds input to a turn. `gives`: as [`GivePermissions`](Self::GivePermissions).
    StartTurn { thread: ThreadId, review: bool, gives: bool },
    /// Restores the permissions of a thread that was resumed with the sandbox policy `actual`.
    Restore { thread: ThreadId, actual: Box<Value> },
    /// Gives permissions to a thread whose own could not be restored.
    GivePermissions { thread: ThreadId },
    /// Makes the upstream write the history of a thread without a turn.
    KeepThread,
    /// Reads a whole thread.
    ReadTurns,
    /// Starts a job whose end is reported by a notification without an id.
    WindowsSetup,
    /// Names a connection-scoped resource.
    Resource { resource: Resource, id: Box<[u8]>, part: Part },
}

/// A resume whose thread only the response says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::router) struct Unnamed {
    /// Whether its thread may be one of an earlier codex: then requests about all of those wait.
    pub(in crate::router) holds: bool,
    /// The thread whose `sandbox` it was given.
    pub(in crate::router) sandbox_of: Option<ThreadId>,
}

impl PendingKind {
    /// Whether it bypasses the in-flight window. At most one of each kind is unanswered; interrupts are limited by
    /// the slots of the control socket.
    pub(super) fn is_urgent(&self) -> bool {
        matches!(
            self,
            PendingKind::Initialize
                | PendingKind::Ping
                | PendingKind::Barrier
                | PendingKind::Interrupt { overtakes: true, .. }
        )
    }

    /// Returns the thread that it concerns, if that is recorded.
    pub(in crate::router) fn thread(&self) -> Option<&ThreadId> {
        match self {
            PendingKind::Resume { target: Some(thread), .. }
            | PendingKind::Interrupt { thread, .. }
            | PendingKind::Subscribe { thread, .. }
            | PendingKind::DropSubscriptions { thread }
            | PendingKind::Unsubscribe { thread }
            | PendingKind::StartTurn { thread, .. } => Some(thread),
            _ => None,
        }
    }

    /// Returns whether its success repeats the turns of a thread, which can cause a `deprecationNotice`.
    pub(in crate::router) fn reads_turns(&self) -> bool {
        matches!(
            self,
            PendingKind::ReadTurns
                | PendingKind::Fork { replays: true }
                | PendingKind::Resume { replays: true, .. }
        )
    }

    /// Returns whether it can cause a `configWarning`.
    pub(in crate::router) fn reads_configuration(&self) -> bool {
        matches!(self, PendingKind::Start | PendingKind::Fork { .. } | PendingKind::Resume { .. })
    }

    /// Returns the thread that its client is subscribed to after a successful response, if that is known beforehand.
    pub(in crate::router) fn subscribes_to(&self) -> Option<&ThreadId> {
        match self {
            PendingKind::Resume { target: Some(thread), .. } | PendingKind::Subscribe { thread, .. } => {
                Some(thread)
            }
            _ => None,
        }
    }

    /// Returns whether messages can have to be attributed to it while it is in flight.
    pub(in crate::router) fn is_attributed(&self) -> bool {
        matches!(
            self,
            PendingKind::Start
                | PendingKind::Fork { .. }
                | PendingKind::Resume { .. }
                | PendingKind::Subscribe { .. }
                | PendingKind::WindowsSetup
        ) || self.reads_turns()
    }

    /// Returns how many bytes of the client's text it contains.
    fn text_bytes(&self) -> usize {
        match self {
            PendingKind::Resource { id, .. } => id.len(),
            kind => kind.thread().map_or(0, |thread| thread.as_bytes().len()),
        }
    }
}

/// What a request does with the resource that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::router) enum Part {
    /// Opens it.
    Opens,
    /// Closes it.
    Closes,
    /// Uses it.
    Uses,
}

/// The progress of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It is queued. The upstream has not seen it.
    Queued,
    /// It was sent and occupies a slot of the in-flight window.
    InFlight {
        /// Offset of its line in the stream to the upstream.
        offset: u64,
        /// A copy of its line to send it again; absent if it was too long to be kept.
        line: Option<Vec<u8>>,
    },
    /// It was sent and occupies no slot: it is urgent, or slow and known to be consumed.
    Unmetered {
        /// Offset of its line in the stream to the upstream.
        offset: u64,
    },
}

/// One request without a response.
#[derive(Clone, Debug)]
pub(in crate::router) struct Pending {
    pub(in crate::router) origin: Origin,
    pub(in crate::router) kind: PendingKind,
    pub(in crate::router) since: Time,
    /// Its row in the routing table.
    pub(in crate::router) known: Option<&'static Request>,
    pub(super) progress: Progress,
    /// How often it was sent again.
    pub(super) retries: u32,
}

impl Pending {
    pub(in crate::router) fn new(
        origin: Origin,
        kind: PendingKind,
        known: Option<&'static Request>,
        since: Time,
    ) -> Pending {
        Pending { origin, kind, since, known, progress: Progress::Queued, retries: 0 }
    }

    /// Returns whether it can be slow for a good reason.
    pub(super) fn is_long(&self) -> bool {
        self.known.is_some_and(|known| known.long)
    }

    /// Returns whether it is sent before the queued messages of its client.
    pub(super) fn is_urgent(&self) -> bool {
        self.known.is_some_and(|known| known.urgent)
    }

    /// Returns the offset of its line in the stream to the upstream; `None` before it was sent.
    pub(in crate::router) fn offset(&self) -> Option<u64> {
        match self.progress {
            Progress::Queued => None,
            Progress::InFlight { offset, .. } | Progress::Unmetered { offset } => Some(offset),
        }
    }

    /// Removes the copy of its line.
    pub(super) fn take_line(&mut self) -> Option<Vec<u8>> {
        match &mut self.progress {
            Progress::InFlight { line, .. } => line.take(),
            Progress::Queued | Progress::Unmetered { .. } => None,
        }
    }

    /// Returns how many bytes codexd keeps until its response, besides its line.
    pub(super) fn kept_bytes(&self) -> usize {
        let id = match &self.origin {
            Origin::Client { id, .. } => id.kept_bytes(),
            Origin::Orphan { .. } | Origin::Codexd => 0,
        };
        id + self.kind.text_bytes() + size_of::<Pending>()
    }
}

/// All requests without a response, by upstream id.
#[derive(Debug, Default)]
pub(super) struct PendingTable {
    next: u64,
    table: FxHashMap<UpstreamId, Pending>,
}

impl PendingTable {
    /// Adds a request. Returns its upstream id.
    pub(super) fn insert(&mut self, pending: Pending) -> UpstreamId {
        let id = UpstreamId(self.next);
        self.next += 1;
        self.table.insert(id, pending);
        id
    }

    /// Puts a request back that was removed.
    pub(super) fn put_back(&mut self, id: UpstreamId, pending: Pending) {
        self.table.insert(id, pending);
    }

    pub(super) fn remove(&mut self, id: UpstreamId) -> Option<Pending> {
        self.table.remove(&id)
    }

    /// Removes a request that was sent. A queued one cannot have a response.
    #[inline]
    pub(super) fn remove_sent(&mut self, id: UpstreamId) -> Option<Pending> {
        match self.table.entry(id) {
            Entry::Occupied(entry) if entry.get().progress != Progress::Queued => Some(entry.remove()),
            _ => None,
        }
    }

    pub(super) fn get(&self, id: UpstreamId) -> Option<&Pending> {
        self.table.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: UpstreamId) -> Option<&mut Pending> {
        self.table.get_mut(&id)
    }

    /// Returns the id that the next request gets.
    pub(super) fn next_id(&self) -> UpstreamId {
        UpstreamId(self.next)
    }

    /// Iterates over the requests that are older than `id`.
    pub(super) fn before(&self, id: UpstreamId) -> impl Iterator<Item = &Pending> {
        self.table.iter().filter(move |(other, _)| **other < id).map(|(_, pending)| pending)
    }

    /// Returns the oldest request that was sent and fulfils `is_it`.
    pub(super) fn oldest_sent(&self, is_it: impl Fn(&Pending) -> bool) -> Option<&Pending> {
        let sent = self.table.iter().filter(|(_, p)| p.progress != Progress::Queued && is_it(p));
        sent.min_by_key(|(id, _)| **id).map(|(_, pending)| pending)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Pending> {
        self.table.values()
    }

    /// Iterates over all requests with their ids, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (UpstreamId, &Pending)> {
        self.table.iter().map(|(id, pending)| (*id, pending))
    }

    /// Returns the upstream id of a client's request.
    pub(super) fn find(&self, client: ClientId, id: &RequestId) -> Option<UpstreamId> {
        self.table
            .iter()
            .find(
                |(_, p)| matches!(&p.origin, Origin::Client { client: c, id: i } if *c == client && i == id),
            )
            .map(|(upstream, _)| *upstream)
    }

    /// Makes a client's requests orphans. Returns the effect of each and the copy of its line, oldest first.
    pub(super) fn orphan(&mut self, client: ClientId) -> Vec<(PendingKind, Option<Vec<u8>>)> {
        let mut orphans: Vec<_> = self
            .table
            .iter_mut()
            .filter(|(_, p)| matches!(p.origin, Origin::Client { client: c, .. } if c == client))
            .map(|(id, p)| {
                p.origin = Origin::Orphan { client };
                (*id, p.kind.clone(), p.take_line())
            })
            .collect();
        orphans.sort_unstable_by_key(|(id, ..)| *id);
        orphans.into_iter().map(|(_, kind, line)| (kind, line)).collect()
    }

    /// Removes all requests. Returns them in the order in which they came.
    pub(super) fn drain(&mut self) -> Vec<Pending> {
        let mut all: Vec<_> = self.table.drain().collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all.into_iter().map(|(_, pending)| pending).collect()
    }
}
