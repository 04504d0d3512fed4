//! The messages of one client, or of codexd itself, that wait for a slot of the in-flight window.

use std::collections::VecDeque;

use crate::id::UpstreamId;
use crate::router::Limits;
use crate::time::Time;

/// Urgent requests that can wait in a queue that is full for others.
const URGENT_ROOM: usize = 64;

/// A line that waits for a slot.
#[derive(Debug)]
pub(super) struct Queued {
    /// The upstream id of a request; `None` for a notification.
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
    /// Until when the queue is paused, because the upstream rejected one of its requests. An empty queue is never
    /// paused.
    paused_until: Option<Time>,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns how many bytes are queued.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns whether another request of `bytes` bytes exceeds the limits. The only request in a queue can have
    /// any length.
    pub(super) fn is_full_for(&self, bytes: usize, limits: &Limits) -> bool {
        self.len() >= limits.queued_requests_per_client
            || (!self.is_empty() && self.bytes + bytes > limits.queued_request_bytes_per_client)
    }

    /// Returns whether another urgent request exceeds the limits. There is some room for urgent requests in a queue that
    /// is full for others.
    pub(super) fn is_full_for_urgent(&self, limits: &Limits) -> bool {
        self.len() >= limits.queued_requests_per_client + URGENT_ROOM
    }

    /// Returns whether its client must not be read: too much is queued that cannot be refused.
    pub(super) fn blocks_reading(&self, limits: &Limits) -> bool {
        self.notifications > 0
            && (self.notifications >= limits.queued_requests_per_client
                || self.bytes > limits.queued_request_bytes_per_client)
    }

    pub(super) fn push(&mut self, queued: Queued) {
        self.notifications += usize::from(queued.id.is_none());
        self.bytes += queued.line.len();
        self.waiting.push_back(queued);
    }

    /// Inserts a request before everything in the queue.
    pub(super) fn push_first(&mut self, queued: Queued) {
        self.notifications += usize::from(queued.id.is_none());
        self.bytes += queued.line.len();
        self.waiting.push_front(queued);
    }

    /// Inserts a request that was already sent before everything in the queue, except for older requests of that kind.
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

    /// Removes everything, and ends the pause.
    pub(super) fn take(&mut self) -> VecDeque<Queued> {
        std::mem::take(self).waiting
    }

    /// Returns until when the queue is paused.
    pub(super) fn paused_until(&self) -> Option<Time> {
        self.paused_until
    }

    /// Pauses the queue or extends the pause. Returns whether it was not paused before.
    pub(super) fn pause(&mut self, until: Time) -> bool {
        let before = self.paused_until;
        self.paused_until = Some(before.map_or(until, |at| at.max(until)));
        before.is_none()
    }

    /// Ends the pause if it is due. Returns whether it was.
    pub(super) fn end_pause(&mut self, now: Time) -> bool {
        let over = self.paused_until.is_some_and(|until| until <= now);
        if over {
            self.paused_until = None;
        }
        over
    }
}
