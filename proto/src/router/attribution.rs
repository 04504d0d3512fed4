//! Attribution: finding the thread or the client of a message that does not name it.
//!
//! While a start, resume or fork is in flight, messages of unknown threads are deferred until its response shows
//! whose they are. A thread that no response explains is a sub-agent's. Some notifications carry no id at all and
//! belong to the client whose request caused them.
//!
//! # Invariants
//! `opening` and `resuming` count exactly the requests in flight whose response can make threads known.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use super::pacing::PendingKind;
use super::thread::Thread;
use crate::id::{ClientId, RequestId, ThreadId, UpstreamId};
use crate::json::Span;
use crate::time::Time;

/// A line that waits for the response that shows whose it is.
#[derive(Debug)]
pub(super) struct Deferred {
    pub(super) thread: ThreadId,
    pub(super) line: Box<[u8]>,
    /// Whether it reports that the thread was unloaded.
    pub(super) unloads: bool,
    /// Clients that had initialized when it came, as a position in the order of initialization.
    pub(super) joined_before: u64,
    /// The id of the next request at that time. That request and later ones cannot have caused the line.
    pub(super) requested_before: UpstreamId,
    /// When it stops being deferred.
    pub(super) deadline: Time,
}

/// An unsubscribe that waits for the response to an earlier resume of the same client. Otherwise, that response would
/// subscribe the client again.
#[derive(Debug)]
pub(super) struct DeferredUnsubscribe {
    pub(super) client: ClientId,
    pub(super) id: RequestId,
    pub(super) id_span: Span,
    pub(super) thread: ThreadId,
    pub(super) line: Box<[u8]>,
    /// It waits for resumes with a smaller id.
    pub(super) before: UpstreamId,
}

/// See the [module's documentation](self).
#[derive(Debug, Default)]
pub(super) struct Attribution {
    /// Requests in flight that can make any thread known.
    opening: usize,
    /// Requests in flight that will make this thread known or subscribe to it.
    resuming: FxHashMap<ThreadId, usize>,
    deferred: VecDeque<Deferred>,
    /// Whether the lines of a known thread are being handled after their deferral. They are not deferred again.
    releasing: bool,
    unsubscribes: Vec<DeferredUnsubscribe>,
    /// Configuration warnings that wait for the response of the request that caused them.
    warnings: Vec<Box<[u8]>>,
    /// Requests in flight that can cause a configuration warning.
    configuring: usize,
    /// Client of the last `windowsSandbox/setupStart`.
    windows_setup: Option<ClientId>,
    /// Clients of the requests in flight that can cause a `deprecationNotice`, oldest first.
    reading_turns: VecDeque<(UpstreamId, ClientId)>,
    /// Threads whose token usage was reported without their rate limits yet, the newest last.
    metered: Vec<ThreadId>,
}

impl Attribution {
    // ---- requests in flight --------------------------------------------------------------------

    /// Records that a client's request is in flight.
    pub(super) fn sent(&mut self, id: UpstreamId, client: ClientId, kind: &PendingKind) {
        self.count(kind, 1);
        if kind.reads_turns() {
            self.reading_turns.push_back((id, client));
        }
        if *kind == PendingKind::WindowsSetup {
            self.windows_setup = Some(client);
        }
    }

    /// Records that a request was answered, or will never be sent.
    pub(super) fn done(&mut self, id: UpstreamId, kind: &PendingKind) {
        self.count(kind, -1);
        if !self.reading_turns.is_empty() {
            self.reading_turns.retain(|(other, _)| *other != id);
        }
    }

    fn count(&mut self, kind: &PendingKind, change: isize) {
        if kind.reads_configuration() {
            self.configuring = self.configuring.saturating_add_signed(change);
        }
        match kind {
            PendingKind::Start | PendingKind::Fork { .. } | PendingKind::Resume { target: None, .. } => {
                self.opening = self.opening.saturating_add_signed(change);
            }
            PendingKind::Resume { target: Some(thread), .. } | PendingKind::Subscribe { thread, .. } => {
                let count = self.resuming.entry(thread.clone()).or_default();
                *count = count.saturating_add_signed(change);
                if *count == 0 {
                    self.resuming.remove(thread);
                }
            }
            _ => {}
        }
    }

    /// Returns whether a resume of a thread is in flight.
    pub(super) fn is_resuming(&self, thread: &ThreadId) -> bool {
        self.resuming.contains_key(thread)
    }

    // ---- deferred messages ---------------------------------------------------------------------

    /// Returns whether a message of a thread is to be deferred. `state` is the thread's, if it is known.
    pub(super) fn defers(&self, thread: &ThreadId, state: Option<&Thread>) -> bool {
        let resumed = !self.releasing && self.is_resuming(thread);
        match state {
            Some(state) => resumed && state.subscribers.is_empty(),
            None => resumed || self.opening > 0,
        }
    }

    pub(super) fn defer(&mut self, deferred: Deferred) {
        self.deferred.push_back(deferred);
    }

    /// Returns whether a message for all clients has to wait for deferred messages of its thread.
    pub(super) fn defers_broadcast(&self, thread: &ThreadId) -> bool {
        !self.releasing && self.first_of(thread).is_some()
    }

    /// Returns the oldest deferred message of a thread.
    pub(super) fn first_of(&self, thread: &ThreadId) -> Option<&Deferred> {
        self.deferred.iter().find(|d| d.thread == *thread)
    }

    /// Removes all deferred messages of a thread.
    pub(super) fn take_of(&mut self, thread: &ThreadId) -> Vec<Deferred> {
        if self.deferred.is_empty() {
            return Vec::new();
        }
        let (ready, rest): (Vec<Deferred>, Vec<Deferred>) =
            std::mem::take(&mut self.deferred).into_iter().partition(|d| d.thread == *thread);
        self.deferred = rest.into();
        ready
    }

    /// Removes the deferred messages of a thread that belong to an earlier subscription: all of them if it is `loaded`,
    /// else those up to the last one that unloads it.
    pub(super) fn take_leftovers(&mut self, thread: &ThreadId, loaded: bool) -> Vec<Deferred> {
        let of_thread = |d: &Deferred| d.thread == *thread;
        let end = match self.deferred.iter().rposition(|d| of_thread(d) && d.unloads) {
            Some(last) => last + 1,
            None if loaded => self.deferred.len(),
            None => return Vec::new(),
        };
        let newer = self.deferred.split_off(end);
        let (leftovers, mut others): (VecDeque<Deferred>, VecDeque<Deferred>) =
            std::mem::take(&mut self.deferred).into_iter().partition(of_thread);
        others.extend(newer);
        self.deferred = others;
        leftovers.into()
    }

    /// Sets whether the lines that are handled now were deferred before.
    pub(super) fn set_releasing(&mut self, releasing: bool) {
        self.releasing = releasing;
    }

    /// Returns a thread with deferred messages that no request in flight can explain.
    pub(super) fn unexplained(&self) -> Option<ThreadId> {
        if self.opening > 0 {
            return None;
        }
        self.deferred.iter().map(|d| &d.thread).find(|t| !self.is_resuming(t)).cloned()
    }

    /// Returns when the oldest deferred message stops being deferred.
    pub(super) fn defer_ends(&self) -> Option<Time> {
        self.deferred.front().map(|d| d.deadline)
    }

    /// Returns the thread of the oldest deferred message, if that is due.
    pub(super) fn overdue(&self, now: Time) -> Option<ThreadId> {
        self.deferred.front().filter(|d| d.deadline <= now).map(|d| d.thread.clone())
    }

    // ---- deferred unsubscribes -----------------------------------------------------------------

    pub(super) fn defer_unsubscribe(&mut self, unsubscribe: DeferredUnsubscribe) {
        self.unsubscribes.push(unsubscribe);
    }

    /// Returns how many unsubscribes of a client wait, and their bytes.
    pub(super) fn unsubscribes_of(&self, client: ClientId) -> (usize, usize) {
        let of_client = self.unsubscribes.iter().filter(|d| d.client == client);
        of_client.fold((0, 0), |(count, bytes), d| (count + 1, bytes + d.line.len() + d.id.kept_bytes()))
    }

    /// Removes the unsubscribes from a thread for which `is_ready` is true, oldest first.
    pub(super) fn take_unsubscribes(
        &mut self,
        thread: &ThreadId,
        is_ready: impl Fn(&DeferredUnsubscribe) -> bool,
    ) -> Vec<DeferredUnsubscribe> {
        if self.unsubscribes.is_empty() {
            return Vec::new();
        }
        let (ready, rest) = std::mem::take(&mut self.unsubscribes)
            .into_iter()
            .partition::<Vec<_>, _>(|d| d.thread == *thread && is_ready(d));
        self.unsubscribes = rest;
        ready
    }

    // ---- notifications without an id -----------------------------------------------------------

    /// Keeps a configuration warning for the next response, if a request in flight can have caused it. Returns
    /// whether it is kept.
    pub(super) fn keep_warning(&mut self, line: &[u8]) -> bool {
        if self.configuring > 0 {
            self.warnings.push(line.into());
        }
        self.configuring > 0
    }

    /// Removes the configuration warnings that came before the response to a request that can have caused them.
    pub(super) fn take_warnings(&mut self, kind: &PendingKind) -> Vec<Box<[u8]>> {
        if kind.reads_configuration() { std::mem::take(&mut self.warnings) } else { Vec::new() }
    }

    /// Returns the client of the oldest request that can cause a `deprecationNotice`.
    pub(super) fn turns_reader(&self) -> Option<ClientId> {
        self.reading_turns.front().map(|(_, client)| *client)
    }

    /// Removes and returns the client of the Windows set-up that ended.
    pub(super) fn take_windows_setup(&mut self) -> Option<ClientId> {
        self.windows_setup.take()
    }

    /// Records that the token usage of a thread was reported. The upstream writes the rate limits next, if it knows
    /// them.
    pub(super) fn usage_reported(&mut self, thread: ThreadId) {
        self.forget_metered(&thread);
        self.metered.push(thread);
    }

    /// Returns the thread whose rate limits are reported now.
    pub(super) fn take_metered(&mut self) -> Option<ThreadId> {
        self.metered.pop()
    }

    /// Records that no rate limits follow the token usage of a thread.
    pub(super) fn forget_metered(&mut self, thread: &ThreadId) {
        self.metered.retain(|t| t != thread);
    }

    // ---- ends ----------------------------------------------------------------------------------

    /// Removes a client that has disconnected.
    pub(super) fn client_gone(&mut self, client: ClientId) {
        self.unsubscribes.retain(|d| d.client != client);
        if self.windows_setup == Some(client) {
            self.windows_setup = None;
        }
    }

    /// Clears everything when the upstream is lost. Returns the unsubscribes that waited and the deferred messages.
    pub(super) fn fail_all(&mut self) -> (Vec<DeferredUnsubscribe>, VecDeque<Deferred>) {
        let Attribution { unsubscribes, deferred, .. } = std::mem::take(self);
        (unsubscribes, deferred)
    }

    /// Adds the number of things kept here.
    pub(super) fn account(&self, kept: &mut super::Accounting) {
        kept.deferred = self.deferred.len();
        kept.opening = self.opening + self.resuming.values().sum::<usize>();
        kept.reading_turns = self.reading_turns.len();
        kept.metered = self.metered.len();
        kept.warnings = self.warnings.len();
        kept.deferred_unsubscribes = self.unsubscribes.len();
    }
}
