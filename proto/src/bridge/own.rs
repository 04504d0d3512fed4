//! Requests of the bridge's own, whose answers are not for the client.

use std::collections::BTreeMap;

use crate::id::ThreadId;
use crate::json::edit::{write_string, write_text};

/// What a request of the bridge is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Own {
    /// Subscribes to a thread again.
    Resume(ThreadId),
    /// Reads the latest turns of a thread, to decide the request at this place.
    Decide(u64, ThreadId),
    /// Sets up a watch again.
    Watch(Box<[u8]>),
    /// Starts what waits in the queue of a thread, if anything does.
    StartQueue,
}

/// Turns that are looked at to decide a request: it was among the last that this client sent.
const TURNS: u32 = 8;

/// See the [module's documentation](self).
#[derive(Debug, Default)]
pub(super) struct OwnRequests {
    pending: BTreeMap<Vec<u8>, Own>,
    next: u64,
}

impl OwnRequests {
    /// Registers a request; returns the JSON text of its id, which none of the client's requests has.
    pub(super) fn register(&mut self, own: Own, taken: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        loop {
            self.next += 1;
            let id = format!("\"codexd-connect-{}\"", self.next).into_bytes();
            if !taken(&id) {
                self.pending.insert(id.clone(), own);
                return id;
            }
        }
    }

    /// Returns what a response was to, given the JSON text of its id.
    pub(super) fn answered(&mut self, spelled: &[u8]) -> Option<Own> {
        self.pending.remove(spelled)
    }

    /// Forgets all: their daemon is gone.
    pub(super) fn clear(&mut self) {
        self.pending.clear();
    }
}

/// Writes the request that subscribes to a thread again, with the line feed; `config` is JSON text.
pub(super) fn resume(id: &[u8], thread: &ThreadId, config: Option<&[u8]>) -> Vec<u8> {
    let mut line = begin(id, "thread/resume", thread);
    if let Some(config) = config {
        line.extend_from_slice(b",\"config\":");
        line.extend_from_slice(config);
    }
    line.extend_from_slice(b",\"excludeTurns\":true}}\n");
    line
}

/// Writes the request that starts what waits in the queue of a thread, with the line feed.
pub(super) fn start_queue(id: &[u8], thread: &ThreadId) -> Vec<u8> {
    let mut line = begin(id, "thread/queue/start", thread);
    line.extend_from_slice(b"}}\n");
    line
}

/// Writes the request that reads the latest turns of a thread, with the line feed.
pub(super) fn latest_turns(id: &[u8], thread: &ThreadId) -> Vec<u8> {
    let mut line = begin(id, "thread/turns/list", thread);
    line.extend_from_slice(format!(",\"limit\":{TURNS},\"itemsView\":\"full\"}}}}\n").as_bytes());
    line
}

fn begin(id: &[u8], method: &str, thread: &ThreadId) -> Vec<u8> {
    let mut line = b"{\"id\":".to_vec();
    line.extend_from_slice(id);
    line.extend_from_slice(b",\"method\":");
    write_string(&mut line, method);
    line.extend_from_slice(b",\"params\":{\"threadId\":");
    write_text(&mut line, thread.as_bytes());
    line
}
