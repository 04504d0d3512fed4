//! Threads that have never run a turn.
//!
//! Codex writes the history of a thread when its first turn starts. Until then, the thread ends with the process:
//! an open terminal interface without a first prompt has no thread any more after a restart. A `thread/read` with
//! `includeTurns` makes codex write the history; its response is an error (measured with 0.169: 19 ms, 22 KB, not
//! in `thread/list`). codexd sends it some time after the start of the thread, and at once when the daemon is about
//! to stop. A version of codex that does not write the history then behaves as without codexd.

use std::collections::VecDeque;

use super::Router;
use super::pacing::PendingKind;
use crate::id::ThreadId;
use crate::json::edit::write_text;
use crate::time::Time;

/// Milliseconds after its start at which a thread without a turn is kept. Most threads run their first turn earlier.
const OPEN_FOR_MS: u64 = 2_000;

/// Threads that were started and have perhaps not run a turn.
#[derive(Debug, Default)]
pub(super) struct NeverRan {
    /// In the order of their start, with the time at which they are to be kept.
    started: VecDeque<(Time, ThreadId)>,
    /// Requests without a response.
    in_flight: usize,
}

impl NeverRan {
    /// Returns when the next thread is to be kept.
    pub(super) fn due(&self) -> Option<Time> {
        self.started.front().map(|(at, _)| *at)
    }

    /// Records that a turn has started on a thread.
    pub(super) fn forget(&mut self, thread: &ThreadId) {
        self.started.retain(|(_, other)| other != thread);
    }

    /// Returns whether no request is unanswered.
    pub(super) fn is_quiet(&self) -> bool {
        self.in_flight == 0
    }

    /// Records that a request was answered.
    pub(super) fn answered(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Returns how many threads may have to be kept.
    pub(super) fn len(&self) -> usize {
        self.started.len()
    }
}

impl Router {
    /// Records that a thread was started that is not ephemeral.
    pub(super) fn may_never_run(&mut self, thread: &ThreadId) {
        let at = self.now() + OPEN_FOR_MS;
        self.never_ran.started.push_back((at, thread.clone()));
    }

    /// Makes codex keep the threads that were started before `until`, are open and have not run a turn.
    pub(super) fn keep_never_ran(&mut self, until: Time) {
        while let Some((_, thread)) = self.never_ran.started.pop_front_if(|(at, _)| *at <= until) {
            let is_open = self.subscriptions.get(thread.as_bytes()).is_some_and(|state| {
                !state.subscribers.is_empty() && !state.is_busy() && state.last_turn.is_none()
            });
            if is_open && !self.is_lost() {
                self.never_ran.in_flight += 1;
                self.send_own("thread/read", PendingKind::KeepThread, |out| {
                    out.extend_from_slice(b"{\"threadId\":");
                    write_text(out, thread.as_bytes());
                    out.extend_from_slice(b",\"includeTurns\":true}");
                });
            }
        }
    }

    /// Makes codex keep all such threads, before the daemon stops.
    pub(super) fn keep_all_that_never_ran(&mut self) {
        self.keep_never_ran(self.now() + OPEN_FOR_MS);
    }
}
