//! The in-flight window: how many messages can be in the upstream's queue.
//!
//! The upstream's queue holds 128 messages. It rejects further ones, or loses them without a response if its output is
//! congested too (measured). So codexd sends only some at a time and takes the next ones from all waiting clients in
//! turn. A notification occupies a slot like a request. Answers to server requests have slots of their own
//! ([`ANSWERS`]), so that they never wait for a request.
//!
//! # What releases a slot
//! A response does. A slow request leaves the upstream's queue long before its response, and a notification has no
//! response: their slots are released when the upstream is known to have consumed them. It consumes messages in
//! order, so a response proves that everything sent before it was consumed. If there is no response while messages
//! wait, codexd sends a barrier, a request that is answered at once. A short request without an answer counts as
//! slow after some time. A message that is not known to be consumed keeps its slot without a time limit, so that a
//! stalled upstream is not flooded.

use std::collections::VecDeque;

use crate::id::{ClientId, UpstreamId};
use crate::time::Time;

/// Answers to server requests that can be in the upstream's queue. Further ones wait.
const ANSWERS: usize = 24;

/// Milliseconds that a message can be in the upstream's queue before a barrier is sent.
const BARRIER_MS: u64 = 10;

/// A sender that waits for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiter {
    /// codexd itself.
    Codexd,
    /// A client.
    Client(ClientId),
}

/// A request that was sent. It can have been answered since.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) id: UpstreamId,
    /// Offset of its line in the stream to the upstream.
    pub(super) offset: u64,
    at: Time,
}

/// A message that can still be in the upstream's queue and releases its slot when it is consumed.
#[derive(Debug)]
enum Unconsumed {
    Long(Sent),
    Notification,
    Answer,
}

/// The window, and the order in which waiters get slots.
#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    open: usize,
    /// The waiters. One that got a slot goes to the end.
    ring: VecDeque<Waiter>,
    /// Short requests in the order in which they were sent.
    sent: VecDeque<Sent>,
    /// Messages that are not known to be consumed, each with its offset and the time at which it was sent.
    unconsumed: VecDeque<(Unconsumed, u64, Time)>,
    /// Everything before this offset was consumed.
    consumed: u64,
    answers: usize,
    waiting_answers: VecDeque<Vec<u8>>,
    barrier_in_flight: bool,
    /// When the next barrier can be sent.
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

    /// Changes the number of slots. Occupied slots above the new number stay occupied.
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

    /// Returns how many waiters there are.
    pub(super) fn waiting(&self) -> usize {
        self.ring.len()
    }

    /// Returns how many answers can be in the upstream's queue now.
    pub(super) fn answers(&self) -> usize {
        self.answers
    }

    /// Returns how many answers wait.
    pub(super) fn waiting_answers(&self) -> usize {
        self.waiting_answers.len()
    }

    /// Records that a request was sent, with the offset of its line in the stream to the upstream.
    pub(super) fn opened(&mut self, id: UpstreamId, offset: u64, long: bool, now: Time) {
        self.open += 1;
        let sent = Sent { id, offset, at: now };
        if long {
            self.unconsumed.push_back((Unconsumed::Long(sent), offset, now));
        } else {
            self.sent.push_back(sent);
        }
    }

    /// Records that a notification was sent.
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

    /// Returns whether an answer can be sent now.
    pub(super) fn has_room_for_answer(&self) -> bool {
        self.answers < ANSWERS && self.waiting_answers.is_empty()
    }

    /// Records that an answer was sent.
    pub(super) fn answered(&mut self, offset: u64, now: Time) {
        self.answers += 1;
        self.unconsumed.push_back((Unconsumed::Answer, offset, now));
    }

    pub(super) fn keep_answer(&mut self, line: &[u8]) {
        self.waiting_answers.push_back(line.to_vec());
    }

    /// Removes the next answer, if it can be sent now.
    pub(super) fn next_answer(&mut self) -> Option<Vec<u8>> {
        if self.answers < ANSWERS { self.waiting_answers.pop_front() } else { None }
    }

    // ---- what the upstream has consumed --------------------------------------------------------

    /// Records that the upstream has consumed the line at `offset` and everything before it.
    #[inline]
    pub(super) fn consumed(&mut self, offset: u64) {
        self.consumed = self.consumed.max(offset + 1);
    }

    /// Releases the slots of what was consumed. Returns the next slow request among it.
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

    /// Returns when a barrier is to be sent; `None` if one is unanswered or nothing waits.
    pub(super) fn barrier_due(&self, release_ms: u64) -> Option<Time> {
        let nobody = self.ring.is_empty() || self.has_room();
        if self.barrier_in_flight || (nobody && self.waiting_answers.is_empty()) {
            return None;
        }
        let long = self.unconsumed.front().map(|(_, _, at)| *at + BARRIER_MS);
        let short = self.sent.front().filter(|s| s.offset >= self.consumed).map(|s| s.at + release_ms);
        [long, short].into_iter().flatten().min().map(|at| at.max(self.barrier_after))
    }

    /// Records that a barrier was sent or answered.
    pub(super) fn set_barrier(&mut self, in_flight: bool, now: Time) {
        self.barrier_in_flight = in_flight;
        self.barrier_after = now + BARRIER_MS;
    }

    /// Removes the oldest short request, if it was sent at or before `before` and was consumed.
    pub(super) fn take_older(&mut self, before: Time) -> Option<Sent> {
        match self.sent.front() {
            Some(sent) if sent.at <= before && sent.offset < self.consumed => self.sent.pop_front(),
            _ => None,
        }
    }

    /// Returns when the oldest short request that was consumed and may still occupy a slot was sent.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.sent.front().filter(|sent| sent.offset < self.consumed).map(|sent| sent.at)
    }

    // ---- waiters -------------------------------------------------------------------------------

    /// Appends a waiter.
    pub(super) fn wait(&mut self, waiter: Waiter) {
        self.ring.push_back(waiter);
    }

    /// Removes the next waiter.
    pub(super) fn next(&mut self) -> Option<Waiter> {
        self.ring.pop_front()
    }

    /// Removes a waiter, wherever it is.
    pub(super) fn forget(&mut self, waiter: Waiter) {
        self.ring.retain(|w| *w != waiter);
    }
}
