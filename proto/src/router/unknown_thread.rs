//! Threads that nobody knows yet.
//!
//! A message of one is deferred if a request in flight may say whose the thread is. Otherwise the thread
//! is a sub-agent's, and every client initialized by then is its subscriber (measured).

use super::Router;
use super::attribution::Deferred;
use crate::id::{ThreadId, UpstreamId};

impl Router {
    /// Defers a message if a request in flight may say whose its thread is; returns whether it did.
    pub(super) fn defer_if_unknown(&mut self, thread: &ThreadId, line: &[u8]) -> bool {
        let state = self.subscriptions.get(thread.as_bytes());
        let unknown = state.is_none();
        let defers = self.attribution.defers(thread, state);
        if defers {
            self.defer(thread.clone(), line, false);
        } else if unknown {
            self.adopt(thread);
        }
        defers
    }

    pub(super) fn defer(&mut self, thread: ThreadId, line: &[u8], unloads: bool) {
        self.attribution.defer(Deferred {
            thread,
            line: line.into(),
            unloads,
            joined_before: self.sessions.joined(),
            requested_before: self.pacing.next_id(),
            deadline: self.delivery.now() + self.config.limits.deferral_ms,
        });
    }

    /// Subscribes every client that had initialized when a thread was first seen to it.
    pub(super) fn adopt(&mut self, thread: &ThreadId) {
        let first = self.attribution.first_of(thread);
        let joined_before = first.map_or(self.sessions.joined(), |d| d.joined_before);
        let new = self.subscriptions.get(thread.as_bytes()).is_none();
        if new {
            let state = self.subscriptions.remember(thread, self.config.limits.remembered_threads);
            state.sub_agent = true;
            state.loaded = true;
            for client in self.sessions.active_before(joined_before) {
                self.subscriptions.subscribe(client, thread);
            }
        }
        self.release_deferred(thread);
        if new {
            // Unless nobody is left of those.
            self.release_thread(thread);
        }
    }

    /// Before the response to a resume says whose an unknown thread is: a thread that was reported before
    /// that resume was requested is a sub-agent's, deferred only because of other requests in flight.
    pub(super) fn adopt_if_older(&mut self, thread: &ThreadId, resume: UpstreamId) {
        let first = self.attribution.first_of(thread);
        if self.subscriptions.get(thread.as_bytes()).is_none()
            && first.is_some_and(|d| d.requested_before <= resume)
        {
            self.adopt(thread);
        }
    }

    /// Once nothing in flight can explain them any more, the threads still unknown are sub-agents'.
    pub(super) fn adopt_unexplained(&mut self) {
        while let Some(thread) = self.attribution.unexplained() {
            self.adopt(&thread);
        }
    }

    /// Handles what was deferred for a thread that is known now.
    pub(super) fn release_deferred(&mut self, thread: &ThreadId) {
        for deferred in self.attribution.take_of(thread) {
            self.route_known(&deferred.line);
        }
    }

    /// Handles what was deferred for a thread that was loaded while nobody was subscribed to it: it is
    /// left over from an earlier subscription, and not for the next subscriber. What comes after the
    /// thread was unloaded is part of loading it again, and stays for that one.
    pub(super) fn release_leftovers(&mut self, thread: &ThreadId) {
        let Some(state) = self.subscriptions.get(thread.as_bytes()) else { return };
        if !state.subscribers.is_empty() {
            return;
        }
        for deferred in self.attribution.take_leftovers(thread, state.loaded) {
            self.route_known(&deferred.line);
        }
    }

    /// Handles a line of a thread that is known, though a resume of it may still be in flight.
    fn route_known(&mut self, line: &[u8]) {
        self.attribution.set_releasing(true);
        self.route(line);
        self.attribution.set_releasing(false);
    }
}
