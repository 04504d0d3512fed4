//! The loss of the upstream: every pending request and open turn is resolved.

use super::answer::{Delivered, ErrorAnswer, UPSTREAM_LOST};
use super::delivery::Topic;
use super::never_ran::NeverRan;
use super::next_turn::NextTurn;
use super::pacing::Unanswerable;
use super::subscriptions::Running;
use super::thread::KnownTo;
use super::turn_end::TurnEnd;
use super::{Phase, Router, ShutdownNotice};
use crate::id::ThreadId;
use crate::time::Time;

/// Why the upstream was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// A stable word for programs: `upstreamLost`, `upstreamUnresponsive`, `stopped`, ...
    pub reason: &'static str,
    /// A text for people, for instance ``codex app-server was killed by signal 9 (SIGKILL)``.
    pub message: String,
}

impl Loss {
    /// Returns the error response of a request that the upstream will not answer.
    pub(super) fn error(&self, code: i64, delivered: Delivered) -> ErrorAnswer<'_> {
        ErrorAnswer {
            code,
            message: &self.message,
            reason: self.reason,
            delivered,
            // A client must not repeat blindly what may have been carried out.
            retryable: delivered == Delivered::No,
        }
    }
}

impl Router {
    /// Resolves everything that is open after the loss of the upstream. Each request without a response gets an
    /// error, each open turn one terminal event, each server request its resolution, and each client the shutdown
    /// notice. Later requests get the same error.
    ///
    /// Does nothing when called again.
    pub fn upstream_lost(&mut self, now: Time, loss: Loss, notice: &ShutdownNotice<'_>) {
        self.delivery.at(now);
        if self.is_lost() {
            return;
        }
        self.phase = Phase::Lost(loss.clone());
        self.replay_early();
        let (unsubscribes, deferred) = self.attribution.fail_all();
        self.release_broadcasts(deferred);
        for Unanswerable { client, id, delivered } in self.pacing.fail_all(self.config.limits.window) {
            self.refuse(client, Some(&id), &loss.error(UPSTREAM_LOST, delivered));
        }
        for waiting in unsubscribes {
            self.refuse(waiting.client, Some(&waiting.id), &loss.error(UPSTREAM_LOST, Delivered::No));
        }
        let waiting = self.restoration.take_waiting();
        self.handle_waiting(waiting);
        self.orphans.clear();
        self.never_ran = NeverRan::default();
        self.next_turn = NextTurn::default();
        self.end_turns(&loss);
        self.resolve_server_requests();
        self.send_shutdown_notice(notice);
        self.close_overflowed();
    }

    /// Ends every open turn as the upstream does, in its order (measured): the status of the thread, the error if
    /// the turn failed, the turn. A turn counts as completed under the condition of [`capture`](crate::capture). Every
    /// other turn has failed.
    ///
    /// An active thread gets only the status if no client was notified of a turn.
    fn end_turns(&mut self, loss: &Loss) {
        let ended = self.subscriptions.end_all();
        for (thread, complete) in self.subscriptions.threads_with_turns(&ended) {
            self.all_turns_lost(&thread, complete);
        }
        let status = self.topic(b"thread/status/changed");
        let (error, completed) = (self.topic(b"error"), self.topic(b"turn/completed"));
        for Running { thread, active, turn, complete } in ended {
            let error_sent = turn.as_ref().and_then(|turn| turn.error.as_deref());
            let answer = turn.as_ref().and_then(|turn| turn.progress.answer());
            let answer = answer.filter(|_| complete);
            let generation = self.config.identity.generation;
            let end = TurnEnd { thread: &thread, answer, error_sent, loss, generation };
            // The upstream reports the status of the thread before the end of the turn.
            if active || (answer.is_none() && error_sent.is_none()) {
                self.delivery.notify_all(status, &end.status());
            }
            let Some(turn) = &turn else { continue };
            if answer.is_none() && error_sent.is_none() {
                self.notify_of_end(&thread, &turn.known_to, error, &end.error(turn.ends_as()));
            }
            self.notify_of_end(&thread, &turn.known_to, completed, &end.turn(turn.ends_as(), &turn.object));
        }
    }

    /// Notifies the clients that know that a turn of this thread is open.
    fn notify_of_end(&mut self, thread: &ThreadId, known_to: &KnownTo, topic: Topic<'_>, line: &[u8]) {
        match known_to {
            KnownTo::Subscribers => {
                self.delivery.notify_each(self.subscriptions.of_thread(thread.as_bytes()), topic, line);
            }
            // The other subscribers were never notified of it.
            KnownTo::Requesters(clients) => {
                let mut clients = clients.clone();
                clients.retain(|client| self.subscriptions.is_subscribed(*client, thread));
                self.delivery.notify_each(&clients, topic, line);
            }
        }
    }
}
