//! What one client has waiting for the pacing window, or codexd itself.

use std::collections::VecDeque;

use super::Limits;
use crate::id::UpstreamId;
use crate::time::Time;

/// A line that waits for the pacing window.
#[derive(Debug)]
pub(super) struct Queued {
    /// `None` for a notification.
    pub(super) id: Option<UpstreamId>,
    pub(super) line: Vec<u8>,
    pub(super) long: bool,
}

/// Lines in the order in which they are to be sent.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Queued>,
    bytes: usize,
    notifications: usize,
    /// Until when nothing of it is sent, because the upstream had no room for something of it. Only
    /// a queue in which something waits is paused.
    pub(super) paused: Option<Time>,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns how many bytes wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Tells whether a line of `bytes` is one too many. One of any length may wait alone.
    pub(super) fn is_full_for(&self, bytes: usize, limits: &Limits) -> bool {
        self.len() >= limits.queued_requests_per_client
            || (!self.is_empty() && self.bytes + bytes > limits.queued_request_bytes_per_client)
    }

    /// Tells whether so much waits that cannot be refused that nothing more is to be read.
    pub(super) fn is_behind(&self, limits: &Limits) -> bool {
        self.notifications > 0
            && (self.notifications >= limits.queued_requests_per_client
                || self.bytes > limits.queued_request_bytes_per_client)
    }

    pub(super) fn push(&mut self, queued: Queued) {
        self.notifications += usize::from(queued.id.is_none());
        self.bytes += queued.line.len();
        self.waiting.push_back(queued);
    }

    /// Puts a request that had been sent before all that waits: behind those of its kind that are
    /// older.
    pub(super) fn put_back(&mut self, id: UpstreamId, line: Vec<u8>, long: bool) {
        let at = self.waiting.iter().take_while(|q| q.id.is_some_and(|other| other < id)).count();
        self.bytes += line.len();
        self.waiting.insert(at, Queued { id: Some(id), line, long });
    }

    pub(super) fn pop(&mut self) -> Option<Queued> {
        let queued = self.waiting.pop_front()?;
        self.bytes -= queued.line.len();
        self.notifications -= usize::from(queued.id.is_none());
        Some(queued)
    }

    /// Takes everything out; it is not paused any more.
    pub(super) fn take(&mut self) -> VecDeque<Queued> {
        std::mem::take(self).waiting
    }
}
