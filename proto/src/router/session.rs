//! One client connection.

use rustc_hash::FxHashSet;

use super::outbox::Outbox;
use super::queue::Queue;
use crate::id::{ThreadId, UpstreamId};
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
    pub(super) queue: Queue,
    /// The newest request that was sent; higher when something went after it that has no id.
    pub(super) newest_sent: Option<UpstreamId>,
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
            queue: Queue::default(),
            newest_sent: None,
            in_flight: 0,
            early: Vec::new(),
            connected: now,
        }
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
