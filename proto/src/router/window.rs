//! The pacing window: how many messages the upstream may have in its queue.
//!
//! The upstream's queue holds 128 messages; what comes on top is refused, or lost without an answer
//! when its output is behind too (measured). So codexd lets only some requests through at a time
//! and takes the next ones from all waiting clients in turn. A notification takes a place like a
//! request. Answers to the upstream's questions have places of their own ([`ANSWERS`]), so that none
//! waits for a request.
//!
//! # What gives a place back
//! An answer does. A request that takes long for good reasons has left the queue long before its
//! answer, and a notification has none; for those it is enough to know that the upstream has taken
//! them. It takes its messages in order, so that the answer to anything tells that of everything
//! sent before. When nothing is answered and somebody waits, codexd asks something itself that is
//! answered at once: the marker. A short request that stays unanswered counts as long after a while.
//! What is not known to be taken keeps its place however long it takes, so that an upstream that
//! stands still is not filled up.

use std::collections::VecDeque;

use crate::id::{ClientId, UpstreamId};
use crate::time::Time;

/// Answers to questions of the upstream that may be in its queue; further ones wait.
const ANSWERS: usize = 24;

/// Milliseconds for which something may be in the queue before the marker is sent behind it.
const MARKER_MS: u64 = 10;

/// Who waits for a place in the window.
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

/// What may still be in the upstream's queue, and gives back its place when it is not.
#[derive(Debug)]
enum Untaken {
    Long(Sent),
    Notification,
    Answer,
}

/// The window and the order in which those who wait are served.
#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    open: usize,
    /// Each waiter stands here once, and again at the end after it was served.
    ring: VecDeque<Waiter>,
    /// Short requests.
    sent: VecDeque<Sent>,
    /// With the offset and the time of each.
    untaken: VecDeque<(Untaken, u64, Time)>,
    /// The upstream has taken what was sent before this offset.
    taken: u64,
    answers: usize,
    waiting_answers: VecDeque<Vec<u8>>,
    marked: bool,
    /// When the marker may be sent again.
    marker_after: Time,
}

impl Window {
    pub(super) fn new(size: usize) -> Window {
        Window {
            size: size.max(1),
            open: 0,
            ring: VecDeque::new(),
            sent: VecDeque::new(),
            untaken: VecDeque::new(),
            taken: 0,
            answers: 0,
            waiting_answers: VecDeque::new(),
            marked: false,
            marker_after: Time::ZERO,
        }
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
            self.untaken.push_back((Untaken::Long(sent), offset, now));
        } else {
            self.sent.push_back(sent);
        }
    }

    /// Counts a notification that is sent now.
    pub(super) fn notified(&mut self, offset: u64, now: Time) {
        self.open += 1;
        self.untaken.push_back((Untaken::Notification, offset, now));
    }

    /// Gives back the place of a request that was answered or takes long.
    pub(super) fn closed(&mut self) {
        self.open -= 1;
        if self.open == 0 {
            self.sent.clear();
        }
    }

    // ---- answers -------------------------------------------------------------------------------

    /// Tells whether an answer may be sent now.
    pub(super) fn has_room_for_answer(&self) -> bool {
        self.answers < ANSWERS && self.waiting_answers.is_empty()
    }

    /// Counts an answer that is sent now.
    pub(super) fn answered(&mut self, offset: u64, now: Time) {
        self.answers += 1;
        self.untaken.push_back((Untaken::Answer, offset, now));
    }

    pub(super) fn keep_answer(&mut self, line: &[u8]) {
        self.waiting_answers.push_back(line.to_vec());
    }

    /// Takes the next answer that may be sent now.
    pub(super) fn next_answer(&mut self) -> Option<Vec<u8>> {
        if self.answers < ANSWERS { self.waiting_answers.pop_front() } else { None }
    }

    // ---- what the upstream has taken -----------------------------------------------------------

    /// Takes note that the upstream has taken the line at `offset`, and all before it.
    #[inline]
    pub(super) fn took(&mut self, offset: u64) {
        self.taken = self.taken.max(offset + 1);
    }

    /// Gives back the places of what was taken; returns the next long request that was.
    #[inline]
    pub(super) fn next_taken(&mut self) -> Option<Sent> {
        while let Some((_, offset, _)) = self.untaken.front()
            && *offset < self.taken
        {
            match self.untaken.pop_front() {
                Some((Untaken::Long(sent), ..)) => return Some(sent),
                Some((Untaken::Notification, ..)) => self.closed(),
                Some((Untaken::Answer, ..)) => self.answers -= 1,
                None => {}
            }
        }
        None
    }

    /// Returns when the marker is to be sent; `None` while it is under way, or for nobody.
    pub(super) fn marker_due(&self, release_ms: u64) -> Option<Time> {
        let nobody = self.ring.is_empty() || self.has_room();
        if self.marked || (nobody && self.waiting_answers.is_empty()) {
            return None;
        }
        let long = self.untaken.front().map(|(_, _, at)| *at + MARKER_MS);
        let short = self.sent.front().filter(|s| s.offset >= self.taken).map(|s| s.at + release_ms);
        [long, short].into_iter().flatten().min().map(|at| at.max(self.marker_after))
    }

    /// Takes note that the marker is under way, or that it is not any more.
    pub(super) fn mark(&mut self, under_way: bool, now: Time) {
        self.marked = under_way;
        self.marker_after = now + MARKER_MS;
    }

    /// Takes the oldest short request if it was sent at or before `before` and is known to be taken.
    pub(super) fn take_older(&mut self, before: Time) -> Option<Sent> {
        match self.sent.front() {
            Some(sent) if sent.at <= before && sent.offset < self.taken => self.sent.pop_front(),
            _ => None,
        }
    }

    /// Returns when the oldest short request was sent that may still be counted and is known to be
    /// taken.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.sent.front().filter(|sent| sent.offset < self.taken).map(|sent| sent.at)
    }

    // ---- turns ---------------------------------------------------------------------------------

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
}
