//! The deadlines of the router.

use super::Router;
use crate::time::Time;

/// The deadlines of the router, in the order in which they are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouterTimer {
    /// Messages stop being deferred: their thread is a sub-agent's.
    Deferred,
    /// A short request counts as slow: it releases its slot of the in-flight window.
    SlowRequest,
    /// A queue is no longer paused after a refusal by the upstream.
    Retry,
    /// A server request was not answered in time.
    ServerRequest,
    /// A turn has had no subscriber for too long.
    OrphanedTurn,
    /// A refused interrupt is sent again.
    Interrupt,
    /// A running turn may have been silent for too long.
    SilentTurn,
    /// An open thread without a turn is kept.
    NeverRan,
    /// No turn has started after the last one of a thread whose queue was used.
    NextTurn,
    /// A client has been above the soft limit for too long.
    SlowClient,
    /// A barrier is sent.
    Barrier,
}

impl RouterTimer {
    /// All timers.
    pub const ALL: [RouterTimer; 11] = [
        RouterTimer::Deferred,
        RouterTimer::SlowRequest,
        RouterTimer::Retry,
        RouterTimer::ServerRequest,
        RouterTimer::OrphanedTurn,
        RouterTimer::Interrupt,
        RouterTimer::SilentTurn,
        RouterTimer::NeverRan,
        RouterTimer::NextTurn,
        RouterTimer::SlowClient,
        // This one is last, since the others can leave something that waits.
        RouterTimer::Barrier,
    ];
}

impl Router {
    /// Returns when a timer is due; `None` if it is not set.
    pub fn due(&self, timer: RouterTimer) -> Option<Time> {
        match timer {
            RouterTimer::Deferred => self.attribution.defer_ends(),
            RouterTimer::SlowRequest => self.pacing.release_due(&self.config.limits),
            RouterTimer::Retry => self.pacing.pause_ends(),
            RouterTimer::ServerRequest => self.server_requests.deadline(),
            RouterTimer::OrphanedTurn => self.orphan_due(),
            RouterTimer::Interrupt => self.interrupt_due(),
            RouterTimer::SilentTurn => self.silent_turns_due,
            RouterTimer::NeverRan => self.never_ran.due(),
            RouterTimer::NextTurn => self.next_turn.due(),
            RouterTimer::SlowClient => self.delivery.slow_due(),
            RouterTimer::Barrier => self.pacing.barrier_due(&self.config.limits),
        }
    }

    /// Returns when [`Router::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Time> {
        RouterTimer::ALL.into_iter().filter_map(|timer| self.due(timer)).min()
    }

    /// Handles every timer that is due.
    pub fn handle_timeout(&mut self, now: Time) {
        self.delivery.at(now);
        for timer in RouterTimer::ALL {
            if self.due(timer).is_some_and(|at| at <= now) {
                self.fire(timer, now);
            }
        }
    }

    fn fire(&mut self, timer: RouterTimer, now: Time) {
        match timer {
            RouterTimer::Deferred => {
                while let Some(thread) = self.attribution.overdue(now) {
                    self.adopt(&thread);
                }
            }
            RouterTimer::SlowRequest => {
                self.pacing.release_slow(now, &self.config.limits);
                self.pump();
            }
            RouterTimer::Retry => {
                self.pacing.end_pauses(now);
                self.pump();
            }
            RouterTimer::ServerRequest => {
                for id in self.server_requests.take_overdue(now) {
                    self.fail_server_request(id, "no client answered in time");
                }
            }
            RouterTimer::OrphanedTurn => self.interrupt_orphans(now),
            RouterTimer::Interrupt => self.retry_interrupts(now),
            RouterTimer::SilentTurn => self.check_silent_turns(now),
            RouterTimer::NeverRan => self.keep_never_ran(now),
            RouterTimer::NextTurn => self.next_turn.give_up(now),
            RouterTimer::SlowClient => {
                self.delivery.judge_slow();
                self.close_overflowed();
            }
            RouterTimer::Barrier => self.pacing.send_barrier(now),
        }
    }
}
