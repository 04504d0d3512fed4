//! The pacing window: how many requests the upstream may have unanswered.
//!
//! The upstream's queue holds 128 messages; what comes on top is refused, or lost without an answer
//! when its output is behind too (measured). So codexd lets only some requests through at a time
//! and takes the next ones from all waiting clients in turn. Requests that take long for good
//! reasons are not counted: they have left the upstream's queue.

use std::collections::VecDeque;

use crate::id::{ClientId, UpstreamId};
use crate::time::Time;

/// Who waits for a place in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiter {
    /// codexd itself.
    Codexd,
    /// A client.
    Client(ClientId),
}

/// The window and the order in which those who wait are served.
#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    open: usize,
    /// Each waiter stands here once, and again at the end after it was served.
    ring: VecDeque<Waiter>,
    /// Counted requests in the order in which they were sent; some may be answered already.
    sent: VecDeque<(UpstreamId, Time)>,
}

impl Window {
    pub(super) fn new(size: usize) -> Window {
        Window { size: size.max(1), open: 0, ring: VecDeque::new(), sent: VecDeque::new() }
    }

    /// Changes how many may be open; those beyond it stay open.
    pub(super) fn resize(&mut self, size: usize) {
        self.size = size.max(1);
    }

    pub(super) fn has_room(&self) -> bool {
        self.open < self.size
    }

    /// Returns how many places are taken.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// Returns how many wait for a place.
    pub(super) fn waiting(&self) -> usize {
        self.ring.len()
    }

    /// Counts a request that is sent now.
    pub(super) fn opened(&mut self, id: UpstreamId, now: Time) {
        self.open += 1;
        self.sent.push_back((id, now));
    }

    /// Gives back the place of a request that was answered or takes long.
    pub(super) fn closed(&mut self) {
        self.open -= 1;
        if self.open == 0 {
            self.sent.clear();
        }
    }

    /// Puts a waiter at the end of the ring.
    pub(super) fn wait(&mut self, waiter: Waiter) {
        self.ring.push_back(waiter);
    }

    /// Takes the waiter whose turn it is.
    pub(super) fn next(&mut self) -> Option<Waiter> {
        self.ring.pop_front()
    }

    /// Removes a waiter that has gone.
    pub(super) fn forget(&mut self, waiter: Waiter) {
        self.ring.retain(|w| *w != waiter);
    }

    /// Takes the oldest counted request if it was sent at or before `before`.
    pub(super) fn take_older(&mut self, before: Time) -> Option<UpstreamId> {
        match self.sent.front() {
            Some((_, at)) if *at <= before => self.sent.pop_front().map(|(id, _)| id),
            _ => None,
        }
    }

    /// Returns when the oldest request was sent that may still be counted.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.sent.front().map(|(_, at)| *at)
    }
}
