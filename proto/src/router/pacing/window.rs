//! The in-flight window: how many messages may be in the upstream's queue.
//!
//! The upstream's queue holds 128 messages; further ones are rejected, or lost without a response
//! when its output is congested too (measured). So codexd lets only some requests through at a time
//! and takes the next ones from all waiting clients in turn. A notification occupies a slot like a
//! request. Answers to server requests have slots of their own ([`ANSWERS`]), so that none waits for
//! a request.
//!
//! # What releases a slot
//! A response does. A slow request leaves the upstream's queue long before its response, and a
//! notification has none; for those it is enough to know that the upstream has consumed them. It
//! consumes its messages in order, so a response proves that everything sent before was consumed.
//! When nothing is answered and somebody waits, codexd sends a request of its own that is answered at
//! once: the barrier. A short request that stays unanswered counts as slow after a while. What is not
//! known to be consumed keeps its slot however long it takes, so that a stalled upstream is not
//! flooded.

use std::collections::VecDeque;

use crate::id::{ClientId, UpstreamId};
use crate::time::Time;

/// Answers to server requests that may be in the upstream's queue; further ones wait.
const ANSWERS: usize = 24;

/// Milliseconds for which something may be in the queue before a barrier is sent after it.
const BARRIER_MS: u64 = 10;

/// Who waits for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiter {
    /// codexd itself.
    Codexd,
    /// A client.
    Client(ClientId),
}

/// A request in the order in which it was sent; it may be answered already.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) id: UpstreamId,
    /// Where its line begins in the stream to the upstream.
    pub(super) offset: u64,
    at: Time,
}

/// What may still be in the upstream's queue, and releases its slot when it is not.
#[derive(Debug)]
enum Unconsumed {
    Long(Sent),
    Notification,
    Answer,
}

/// The window and the order in which waiters are served.
#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    open: usize,
    /// Each waiter stands here once, and again at the end after it was served.
    ring: VecDeque<Waiter>,
    /// Short requests.
    sent: VecDeque<Sent>,
    /// With the offset and the time of each.
    unconsumed: VecDeque<(Unconsumed, u64, Time)>,
    /// The upstream has consumed what was sent before this offset.
    consumed: u64,
    answers: usize,
    waiting_answers: VecDeque<Vec<u8>>,
    barrier_in_flight: bool,
    /// When the next barrier may be sent.
    barrier_after: Time,
}

impl Window {
    pub(super) fn new(size: usize) -> Window {
        Window {
            size: size.max(1),
            open: 0,
            ring: VecDeque::new(),
            sent: VecDeque::new(),
            unconsumed: VecDeque::new(),
            consumed: 0,
            answers: 0,
            waiting_answers: VecDeque::new(),
            barrier_in_flight: false,
            barrier_after: Time::ZERO,
        }
    }

    /// Changes how many slots there are; those that exceed the new size stay occupied.
    pub(super) fn resize(&mut self, size: usize) {
        self.size = size.max(1);
    }

    pub(super) fn has_room(&self) -> bool {
        self.open < self.size
    }

    /// Returns how many slots are occupied.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// Returns how many wait for a slot.
    pub(super) fn waiting(&self) -> usize {
        self.ring.len()
    }

    /// Returns how many answers may be in the upstream's queue.
    pub(super) fn answers(&self) -> usize {
        self.answers
    }

    /// Returns how many answers wait.
    pub(super) fn waiting_answers(&self) -> usize {
        self.waiting_answers.len()
    }

    /// Counts a request that is sent now at `offset` in the stream to the upstream.
    pub(super) fn opened(&mut self, id: UpstreamId, offset: u64, long: bool, now: Time) {
        self.open += 1;
        let sent = Sent { id, offset, at: now };
        if long {
            self.unconsumed.push_back((Unconsumed::Long(sent), offset, now));
        } else {
            self.sent.push_back(sent);
        }
    }

    /// Counts a notification that is sent now.
    pub(super) fn notified(&mut self, offset: u64, now: Time) {
        self.open += 1;
        self.unconsumed.push_back((Unconsumed::Notification, offset, now));
    }

    /// Releases the slot of a request that was answered or is slow.
    pub(super) fn closed(&mut self) {
        self.open -= 1;
        if self.open == 0 {
            self.sent.clear();
        }
    }

    // ---- answers -------------------------------------------------------------------------------

    /// Whether an answer may be sent now.
    pub(super) fn has_room_for_answer(&self) -> bool {
        self.answers < ANSWERS && self.waiting_answers.is_empty()
    }

    /// Counts an answer that is sent now.
    pub(super) fn answered(&mut self, offset: u64, now: Time) {
        self.answers += 1;
        self.unconsumed.push_back((Unconsumed::Answer, offset, now));
    }

    pub(super) fn keep_answer(&mut self, line: &[u8]) {
        self.waiting_answers.push_back(line.to_vec());
    }

    /// Removes the next answer that may be sent now.
    pub(super) fn next_answer(&mut self) -> Option<Vec<u8>> {
        if self.answers < ANSWERS { self.waiting_answers.pop_front() } else { None }
    }

    // ---- what the upstream has consumed --------------------------------------------------------

    /// Records that the upstream has consumed the line at `offset`, and all before it.
    #[inline]
    pub(super) fn consumed(&mut self, offset: u64) {
        self.consumed = self.consumed.max(offset + 1);
    }

    /// Releases the slots of what was consumed; returns the next slow request that was.
    #[inline]
    pub(super) fn next_consumed(&mut self) -> Option<Sent> {
        while let Some((_, offset, _)) = self.unconsumed.front()
            && *offset < self.consumed
        {
            match self.unconsumed.pop_front() {
                Some((Unconsumed::Long(sent), ..)) => return Some(sent),
                Some((Unconsumed::Notification, ..)) => self.closed(),
                Some((Unconsumed::Answer, ..)) => self.answers -= 1,
                None => {}
            }
        }
        None
    }

    /// Returns when a barrier is to be sent; `None` while one is unanswered, or nobody needs it.
    pub(super) fn barrier_due(&self, release_ms: u64) -> Option<Time> {
        let nobody = self.ring.is_empty() || self.has_room();
        if self.barrier_in_flight || (nobody && self.waiting_answers.is_empty()) {
            return None;
        }
        let long = self.unconsumed.front().map(|(_, _, at)| *at + BARRIER_MS);
        let short = self.sent.front().filter(|s| s.offset >= self.consumed).map(|s| s.at + release_ms);
        [long, short].into_iter().flatten().min().map(|at| at.max(self.barrier_after))
    }

    /// Records that a barrier was sent, or that it was answered.
    pub(super) fn set_barrier(&mut self, in_flight: bool, now: Time) {
        self.barrier_in_flight = in_flight;
        self.barrier_after = now + BARRIER_MS;
    }

    /// Removes the oldest short request if it was sent at or before `before` and is known to be
    /// consumed.
    pub(super) fn take_older(&mut self, before: Time) -> Option<Sent> {
        match self.sent.front() {
            Some(sent) if sent.at <= before && sent.offset < self.consumed => self.sent.pop_front(),
            _ => None,
        }
    }

    /// Returns when the oldest short request was sent that may still occupy a slot and is known to be
    /// consumed.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.sent.front().filter(|sent| sent.offset < self.consumed).map(|sent| sent.at)
    }

    // ---- waiters -------------------------------------------------------------------------------

    /// Appends a waiter to the ring.
    pub(super) fn wait(&mut self, waiter: Waiter) {
        self.ring.push_back(waiter);
    }

    /// Removes the waiter that is next.
    pub(super) fn next(&mut self) -> Option<Waiter> {
        self.ring.pop_front()
    }

    /// Removes a waiter, wherever it stands.
    pub(super) fn forget(&mut self, waiter: Waiter) {
        self.ring.retain(|w| *w != waiter);
    }
}
