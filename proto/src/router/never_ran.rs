//! Threads that have never run a turn.
//!
//! Codex writes the history of a thread when its first turn starts; until then the thread ends with the process, and an
//! open terminal interface that nobody has typed in yet is dead after a restart. `thread/read` with `includeTurns`, which
//! codex answers with an error for such a thread, makes it write the history all the same (measured with 0.169: 19 ms,
//! 22 KB, not in `thread/list`). codexd sends that some time after the start, and at once when the daemon is about to
//! stop. Where a version does not write the history for it, nothing is different.

use std::collections::VecDeque;

use super::Router;
use super::pacing::PendingKind;
use crate::id::ThreadId;
use crate::json::edit::write_text;
use crate::time::Time;

/// Milliseconds after its start at which a thread counts as left open: most run their first turn before.
const OPEN_FOR_MS: u64 = 2_000;

/// Threads that were started and may not have run.
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

    /// A turn has started on a thread.
    pub(super) fn forget(&mut self, thread: &ThreadId) {
        self.started.retain(|(_, other)| other != thread);
    }

    /// Whether a request is not answered yet.
    pub(super) fn is_quiet(&self) -> bool {
        self.in_flight == 0
    }

    /// A request was answered.
    pub(super) fn answered(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Returns how many threads are waited for.
    pub(super) fn len(&self) -> usize {
        self.started.len()
    }
}

impl Router {
    /// A thread was started that is not ephemeral.
    pub(super) fn may_never_run(&mut self, thread: &ThreadId) {
        let at = self.now() + OPEN_FOR_MS;
        self.never_ran.started.push_back((at, thread.clone()));
    }

    /// Makes codex keep the threads that were started before `until`, are open and have not run.
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

    /// Does so for all, before the daemon stops.
    pub(super) fn keep_all_that_never_ran(&mut self) {
        self.keep_never_ran(self.now() + OPEN_FOR_MS);
    }
}
