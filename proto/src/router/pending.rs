//! Requests that wait for the upstream's answer.

use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;

use crate::id::{ClientId, RequestId, ThreadId, UpstreamId};
use crate::routes::{Request, Resource};
use crate::time::Time;

/// Whose request it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A client's: the answer goes to it, with the id it gave.
    Client { client: ClientId, id: RequestId },
    /// A client's that has gone: the answer goes nowhere, its effect is undone.
    Orphan { client: ClientId },
    /// codexd's own.
    Codexd,
}

impl Origin {
    /// Returns the client whose request it is or was.
    pub(super) fn client(&self) -> Option<ClientId> {
        match self {
            Origin::Client { client, .. } | Origin::Orphan { client } => Some(*client),
            Origin::Codexd => None,
        }
    }
}

/// What the answer changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing that codexd keeps.
    Plain,
    /// The one handshake with the upstream.
    Initialize,
    /// A question whose only purpose is the answer.
    Probe,
    /// A question whose answer tells that what was sent before it was taken.
    Marker,
    /// A question that is refused with the names of all methods.
    Catalog,
    /// Makes a thread.
    Start,
    /// Makes a thread out of another one.
    Fork { replays: bool },
    /// Subscribes to a thread that exists; the id is not known beforehand with `path` or `history`.
    Resume { target: Option<ThreadId>, replays: bool },
    /// Archives or deletes a thread.
    DropSubscriptions { thread: ThreadId },
    /// The last subscriber leaves.
    Unsubscribe { thread: ThreadId },
    /// Starts or joins a turn.
    StartTurn { thread: ThreadId },
    /// Reads a whole thread.
    Hydrate,
    /// Starts a job whose end is told by a notification without an id.
    WindowsSetup,
    /// Names a connection-scoped resource.
    Resource { resource: Resource, id: Box<[u8]>, part: Part },
}

/// What a request does with the resource it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Makes it.
    Opens,
    /// Ends it.
    Closes,
    /// Works with it.
    Uses,
}

/// One request without an answer.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) origin: Origin,
    pub(super) kind: Kind,
    pub(super) since: Time,
    /// Offset of its line in the stream to the upstream; `None` while the window holds it back.
    pub(super) offset: Option<u64>,
    /// Whether it takes a place in the window.
    pub(super) counted: bool,
    /// What the table knows of it.
    pub(super) known: Option<&'static Request>,
    /// Its line, as long as the upstream may refuse it, unless that is too long.
    pub(super) line: Option<Vec<u8>>,
    /// How often it was sent again.
    pub(super) tries: u32,
}

impl Pending {
    pub(super) fn new(origin: Origin, kind: Kind, known: Option<&'static Request>, since: Time) -> Pending {
        Pending { origin, kind, since, offset: None, counted: false, known, line: None, tries: 0 }
    }

    /// Tells whether it may take long for good reasons.
    pub(super) fn is_long(&self) -> bool {
        self.known.is_some_and(|known| known.long)
    }
}

/// All requests without an answer, by the id the upstream knows them by.
#[derive(Debug, Default)]
pub(super) struct PendingTable {
    next: u64,
    table: FxHashMap<UpstreamId, Pending>,
}

impl PendingTable {
    /// Adds a request and returns its id for the upstream.
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

    /// Takes out a request that was sent. One that still waits cannot have been answered.
    #[inline]
    pub(super) fn remove_sent(&mut self, id: UpstreamId) -> Option<Pending> {
        match self.table.entry(id) {
            Entry::Occupied(entry) if entry.get().offset.is_some() => Some(entry.remove()),
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

    /// Goes over the requests that are older than `id`.
    pub(super) fn before(&self, id: UpstreamId) -> impl Iterator<Item = &Pending> {
        self.table.iter().filter(move |(other, _)| **other < id).map(|(_, pending)| pending)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Pending> {
        self.table.values()
    }

    /// Returns the id under which the upstream knows a client's request.
    pub(super) fn find(&self, client: ClientId, id: &RequestId) -> Option<UpstreamId> {
        self.table
            .iter()
            .find(
                |(_, p)| matches!(&p.origin, Origin::Client { client: c, id: i } if *c == client && i == id),
            )
            .map(|(upstream, _)| *upstream)
    }

    /// Makes orphans of a client's requests and returns them with the lines that were kept of them,
    /// oldest first.
    pub(super) fn orphan(&mut self, client: ClientId) -> Vec<(UpstreamId, Kind, Option<Vec<u8>>)> {
        let mut orphans: Vec<_> = self
            .table
            .iter_mut()
            .filter(|(_, p)| matches!(p.origin, Origin::Client { client: c, .. } if c == client))
            .map(|(id, p)| {
                p.origin = Origin::Orphan { client };
                (*id, p.kind.clone(), p.line.take())
            })
            .collect();
        orphans.sort_unstable_by_key(|(id, ..)| *id);
        orphans
    }

    /// Removes all requests and returns them in the order in which they came.
    pub(super) fn drain(&mut self) -> Vec<Pending> {
        let mut all: Vec<_> = self.table.drain().collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all.into_iter().map(|(_, pending)| pending).collect()
    }
}
