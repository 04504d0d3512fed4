//! What the clients of a run and its director share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use serde_json::Value;

/// The board that all look at.
#[derive(Debug)]
pub(crate) struct Shared {
    /// What has not come to its end by then hangs.
    pub(crate) deadline: Instant,
    pub(crate) real: bool,
    pub(crate) project: PathBuf,
    stop: AtomicBool,
    gone: AtomicBool,
    flooded: AtomicBool,
    clients: Vec<Place>,
    /// Threads that have run, with the sandbox policies that they have.
    policies: Mutex<BTreeMap<String, Value>>,
}

#[derive(Debug, Default)]
struct Place {
    ready: AtomicBool,
    left: AtomicBool,
    tasks: AtomicU64,
    hit: Mutex<Option<Hit>>,
    thread: Mutex<Option<String>>,
}

/// What a client does to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hit {
    Gone,
    HalfClose,
    Kill,
}

impl Shared {
    pub(crate) fn new(clients: usize, deadline: Instant, real: bool, project: PathBuf) -> Shared {
        Shared {
            deadline,
            real,
            project,
            stop: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            flooded: AtomicBool::new(false),
            clients: (0..clients).map(|_| Place::default()).collect(),
            policies: Mutex::default(),
        }
    }

    /// Asks all clients to finish what they have begun and to leave.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Says that the process of the daemon has ended.
    pub(crate) fn set_gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Says that a flood of requests was sent.
    pub(crate) fn set_flooded(&self) {
        self.flooded.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_flooded(&self) -> bool {
        self.flooded.load(Ordering::Relaxed)
    }

    pub(crate) fn set_ready(&self, client: usize) {
        self.clients[client].ready.store(true, Ordering::Relaxed);
    }

    /// Returns whether each client works or has left.
    pub(crate) fn all_ready(&self) -> bool {
        let there = |place: &Place| place.ready.load(Ordering::Relaxed) || place.left.load(Ordering::Relaxed);
        self.clients.iter().all(there)
    }

    pub(crate) fn set_left(&self, client: usize) {
        self.clients[client].left.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_left(&self, client: usize) -> bool {
        self.clients[client].left.load(Ordering::Relaxed)
    }

    /// Counts one more piece of work that a client has finished.
    pub(crate) fn finished(&self, client: usize) {
        self.clients[client].tasks.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn tasks(&self, client: usize) -> u64 {
        self.clients[client].tasks.load(Ordering::Relaxed)
    }

    pub(crate) fn hit(&self, client: usize, hit: Hit) {
        *self.clients[client].hit.lock() = Some(hit);
    }

    pub(crate) fn is_hit(&self, client: usize) -> Option<Hit> {
        *self.clients[client].hit.lock()
    }

    /// Says which sandbox policy a thread has that can be resumed.
    pub(crate) fn show_policy(&self, thread: &str, policy: &Value) {
        self.policies.lock().insert(thread.to_owned(), policy.clone());
    }

    /// Returns the threads that can be resumed, with their sandbox policies.
    pub(crate) fn policies(&self) -> BTreeMap<String, Value> {
        self.policies.lock().clone()
    }

    /// Shows others a thread that can be resumed.
    pub(crate) fn show_thread(&self, client: usize, thread: &str) {
        *self.clients[client].thread.lock() = Some(thread.to_owned());
    }

    pub(crate) fn thread_of(&self, client: usize) -> Option<String> {
        self.clients[client].thread.lock().clone()
    }
}
