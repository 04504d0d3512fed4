//! Turns that codex starts by itself because the one before has ended.
//!
//! A prompt in the queue of a thread (`thread/queue/add`) is run when the turn before it has ended. Codex takes it out of its
//! database at once and starts the turn some milliseconds later (measured with 0.169: 2 and 15 ms after `turn/completed`).
//! A daemon that ends in between, because nothing runs, interrupts a turn of which nobody has heard, and the prompt is
//! lost: it is neither in the queue nor answered. So a thread whose queue was used counts as busy for a moment after each
//! of its turns.
//!
//! A goal is not waited for: codex starts turns for it without end, and goes on with it in the next process.

use crate::id::ThreadId;
use crate::time::Time;

/// Milliseconds for which a thread counts as busy after a turn.
const WITHIN_MS: u64 = 1_000;

/// Threads whose turn has ended and on which the next one may start.
#[derive(Debug, Default)]
pub(super) struct NextTurn {
    /// Until when, the first one first.
    expected: Vec<(Time, ThreadId)>,
}

impl NextTurn {
    /// Records that a turn has ended on a thread whose queue was used.
    pub(super) fn expect(&mut self, now: Time, thread: &ThreadId) {
        self.started(thread);
        self.expected.push((now + WITHIN_MS, thread.clone()));
    }

    /// Records that a turn has started.
    pub(super) fn started(&mut self, thread: &ThreadId) {
        self.expected.retain(|(_, other)| other != thread);
    }

    /// Returns until when the first of them counts as busy.
    pub(super) fn due(&self) -> Option<Time> {
        self.expected.first().map(|(until, _)| *until)
    }

    /// Forgets those on which no turn has started in time.
    pub(super) fn give_up(&mut self, now: Time) {
        self.expected.retain(|(until, _)| *until > now);
    }

    /// Returns whether none is expected.
    pub(super) fn is_quiet(&self) -> bool {
        self.expected.is_empty()
    }
}
