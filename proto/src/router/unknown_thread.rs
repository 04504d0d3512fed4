//! Unknown threads.
//!
//! A message of an unknown thread is deferred if a request in flight can explain the thread. Otherwise the thread is a
//! sub-agent's, and every client that had initialized by then is subscribed to it (measured).

use super::Router;
use super::attribution::Deferred;
use crate::id::{ThreadId, UpstreamId};

impl Router {
    /// Defers a message if a request in flight can explain its thread. Returns whether it did.
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
        if let Some(state) = self.subscriptions.get_mut(&thread) {
            state.has_deferred = true;
        }
        self.attribution.defer(Deferred {
            thread,
            line: line.into(),
            unloads,
            joined_before: self.sessions.joined(),
            requested_before: self.pacing.next_id(),
            deadline: self.delivery.now() + self.config.limits.deferral_ms,
        });
    }

    /// Subscribes every client that had initialized when a thread first appeared.
    pub(super) fn adopt(&mut self, thread: &ThreadId) {
        let first = self.attribution.first_of(thread);
        let joined_before = first.map_or(self.sessions.joined(), |d| d.joined_before);
        let new = self.subscriptions.get(thread.as_bytes()).is_none();
        if new {
            let state = self.subscriptions.remember(thread, self.config.limits.remembered_threads);
            state.sub_agent = true;
            state.loaded = true;
            state.is_sent = true;
            for client in self.sessions.active_before(joined_before) {
                self.subscriptions.subscribe(client, thread);
            }
        }
        self.release_deferred(thread);
        if new {
            // None of them may be connected any more.
            self.release_thread(thread);
        }
    }

    /// Handles a deferred thread before the response to a resume of it: a thread that was reported before that
    /// resume was requested is a sub-agent's, and was deferred only because of other requests in flight.
    pub(super) fn adopt_if_older(&mut self, thread: &ThreadId, resume: UpstreamId) {
        let first = self.attribution.first_of(thread);
        if self.subscriptions.get(thread.as_bytes()).is_none()
            && first.is_some_and(|d| d.requested_before <= resume)
        {
            self.adopt(thread);
        }
    }

    /// Handles the threads that no request in flight can explain any more: they are sub-agents'.
    pub(super) fn adopt_unexplained(&mut self) {
        while let Some(thread) = self.attribution.unexplained() {
            self.adopt(&thread);
        }
    }

    /// Handles the deferred messages of a thread that is known now.
    pub(super) fn release_deferred(&mut self, thread: &ThreadId) {
        let deferred = self.attribution.take_of(thread);
        if let Some(state) = self.subscriptions.get_mut(thread) {
            state.has_deferred = false;
        }
        for deferred in deferred {
            self.route_known(&deferred.line);
        }
    }

    /// Handles the deferred messages of a thread that was loaded without subscribers. They belong to an earlier
    /// subscription, and the next subscriber does not get them. Messages after the thread was unloaded belong to
    /// its next loading, and the next subscriber gets those.
    pub(super) fn release_leftovers(&mut self, thread: &ThreadId) {
        let Some(state) = self.subscriptions.get(thread.as_bytes()) else { return };
        if !state.subscribers.is_empty() {
            return;
        }
        let leftovers = self.attribution.take_leftovers(thread, state.loaded);
        let more = self.attribution.first_of(thread).is_some();
        if let Some(state) = self.subscriptions.get_mut(thread) {
            state.has_deferred = more;
            // A client is about to subscribe, or the upstream's subscription has ended: the end of a turn among the
            // leftovers is no reason to end it.
            state.kept = false;
        }
        for deferred in leftovers {
            self.route_known(&deferred.line);
        }
    }

    /// Handles the deferred notifications about known threads that all clients get, after the loss of the upstream: a
    /// client that knows a thread as active has to learn that it is not. Other deferred messages are dropped, since
    /// the response that would show whose they are does not come; of an unknown thread, no client knows anything.
    pub(super) fn release_broadcasts(&mut self, deferred: impl IntoIterator<Item = Deferred>) {
        for Deferred { thread, line, .. } in deferred {
            if self.subscriptions.get(thread.as_bytes()).is_some() && self.is_broadcast(&line) {
                self.route_known(&line);
            }
        }
    }

    /// Handles a line of a known thread, even while a resume of it is in flight.
    fn route_known(&mut self, line: &[u8]) {
        self.attribution.set_releasing(true);
        self.route(line);
        self.attribution.set_releasing(false);
    }
}
