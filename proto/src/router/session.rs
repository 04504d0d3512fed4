//! One client connection.

use std::collections::VecDeque;

use rustc_hash::FxHashSet;

use super::limit::Limits;
use super::outbox::Outbox;
use super::pending::Queued;
use crate::id::ThreadId;
use crate::routes::{NotificationSet, Resource};
use crate::time::Time;

/// How far a client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// Connected; only `initialize` is possible.
    AwaitingInitialize,
    /// Initialized: it takes part.
    Active,
    /// What it is owed is being written; nothing new reaches it.
    Closing,
}

/// A connection-scoped resource that ends with its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OpenResource {
    pub(super) resource: Resource,
    /// The client's id between its quotes.
    pub(super) id: Box<[u8]>,
}

/// What codexd keeps of one client.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) state: SessionState,
    /// Place in the order of initialization; meaningful once active.
    pub(super) joined: u64,
    pub(super) name: Option<String>,
    pub(super) version: Option<String>,
    pub(super) experimental: bool,
    pub(super) attestation: bool,
    /// Known notifications that it does not get: opted out of, or experimental.
    pub(super) muted: NotificationSet,
    /// Opt-outs of methods that the table does not know.
    pub(super) muted_unknown: FxHashSet<Box<[u8]>>,
    pub(super) subscriptions: FxHashSet<ThreadId>,
    pub(super) resources: Vec<OpenResource>,
    pub(super) outbox: Outbox,
    /// Whether it stands in the router's list of outboxes to write.
    pub(super) dirty: bool,
    /// When it took something the last time.
    pub(super) took: Time,
    /// Since when its outbox is above the soft limit.
    pub(super) over_soft_since: Option<Time>,
    /// Requests that wait for the pacing window.
    pub(super) queue: VecDeque<Queued>,
    /// Requests without an answer yet, those in `queue` included.
    pub(super) in_flight: usize,
    /// Lines that came while the upstream was still starting.
    pub(super) early: Vec<Box<[u8]>>,
    pub(super) connected: Time,
}

impl Session {
    pub(super) fn new(now: Time) -> Session {
        Session {
            state: SessionState::AwaitingInitialize,
            joined: 0,
            name: None,
            version: None,
            experimental: false,
            attestation: false,
            muted: 0,
            muted_unknown: FxHashSet::default(),
            subscriptions: FxHashSet::default(),
            resources: Vec::new(),
            outbox: Outbox::default(),
            dirty: false,
            took: now,
            over_soft_since: None,
            queue: VecDeque::new(),
            in_flight: 0,
            early: Vec::new(),
            connected: now,
        }
    }

    /// Tells whether one more request of this length must not wait. A first one may be of any length.
    pub(super) fn queue_is_full(&self, limits: &Limits, bytes: usize) -> bool {
        let waiting: usize = self.queue.iter().map(|queued| queued.line.len()).sum();
        self.queue.len() >= limits.queued_requests_per_client
            || (waiting > 0 && waiting + bytes > limits.queued_request_bytes_per_client)
    }

    pub(super) fn is_active(&self) -> bool {
        self.state == SessionState::Active
    }

    /// Tells whether a notification of the table reaches this client.
    #[inline]
    pub(super) fn hears(&self, bit: NotificationSet) -> bool {
        self.is_active() && self.muted & bit == 0
    }

    /// Tells whether a notification that the table does not know reaches this client.
    pub(super) fn hears_unknown(&self, method: &[u8]) -> bool {
        self.is_active() && (self.muted_unknown.is_empty() || !self.muted_unknown.contains(method))
    }
}
