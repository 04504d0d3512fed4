//! Pacing: what is sent to the upstream and when, and which requests are unanswered.
//!
//! # Theory of operation
//! A request is inserted into the table of pending requests and gets its upstream id. It is sent at once if the
//! [in-flight window](window) has a free slot and nothing of its client is queued. Otherwise it is queued, and clients
//! take turns. Notifications are paced the same way without an entry in the table.
//!
//! # Sending again
//! When its queue is full, the upstream rejects a request with -32001 before it looks at it (measured), so any
//! request can be sent again. codexd does that, and not the client, but only while the client's requests are
//! executed in the order in which it sent them. A request that changes something is sent again only if nothing of
//! its client was sent after it; what the client sends then waits. Otherwise, after [`RETRIES`], or if the line was
//! too long to be kept, the client gets the upstream's error. codexd's own requests end what no client uses any
//! more. No client would repeat them, so they are sent until the upstream accepts them.
//!
//! # Invariants
//! Requests and notifications occupy no more slots than the window has. A queue is paused only while it is not empty. A
//! waiter is in the ring exactly if its queue is neither empty nor paused.

mod pending;
mod queue;
mod retained;
mod window;

use std::borrow::Cow;

use rustc_hash::FxHashMap;

use super::answer::Delivered;
use super::delivery::Outbox;
use super::limits::Limits;
use crate::id::{ClientId, RequestId, ThreadId, UpstreamId, write_u64};
use crate::json::check;
use crate::json::edit::write_string;
use crate::time::Time;

pub(super) use pending::{Origin, Part, Pending, PendingKind, Unnamed};
pub(super) use retained::is_overload;

use pending::{PendingTable, Progress};
use queue::{Queue, Queued};
use retained::Retained;
use window::{Sent, Waiter, Window};

/// How often a client's request is sent again.
const RETRIES: u32 = 5;

/// Milliseconds before a request is sent again the first time. They double each time.
const BACK_OFF_MS: u64 = 25;

/// Milliseconds from a request's arrival after which it is not sent again.
const RETRY_WITHIN_MS: u64 = 10_000;

/// The pending messages of one client.
#[derive(Debug, Default)]
struct ClientRequests {
    /// Messages that wait for a slot.
    queue: Queue,
    /// The newest request that was sent, or a higher id if a message without an id was sent after it.
    newest_sent: Option<UpstreamId>,
    /// Requests without a response, those in `queue` included.
    unanswered: usize,
    /// Bytes that codexd keeps for these requests, besides their lines.
    kept_bytes: usize,
}

/// See the [module's documentation](self).
#[derive(Debug)]
pub(super) struct Pacing {
    upstream: Outbox,
    window: Window,
    pending: PendingTable,
    clients: FxHashMap<ClientId, ClientRequests>,
    /// Requests of codexd itself that wait for a slot.
    own_queue: Queue,
    /// Queues that are paused.
    paused: usize,
    retained: Retained,
    retried: u64,
}

/// What a response means for its request.
pub(super) enum Completion {
    /// No such request was sent.
    Unknown,
    /// The upstream's queue was full. The request is sent again.
    Retried,
    /// The upstream's queue was full. The request is not sent again.
    Rejected(Pending),
    /// The request is answered.
    Answered(Pending),
}

/// What is left of a client that has disconnected.
pub(super) struct Abandoned {
    /// Requests that were not sent or not accepted. They have no effect.
    pub(super) unsent: Vec<(UpstreamId, Pending)>,
    /// The effects of the requests that were sent, oldest first.
    pub(super) orphans: Vec<PendingKind>,
}

/// A client's request that the upstream will not answer.
pub(super) struct Unanswerable {
    pub(super) client: ClientId,
    pub(super) id: RequestId,
    pub(super) delivered: Delivered,
}

impl Pacing {
    pub(super) fn new(slots: usize) -> Pacing {
        Pacing {
            upstream: Outbox::default(),
            window: Window::new(slots),
            pending: PendingTable::default(),
            clients: FxHashMap::default(),
            own_queue: Queue::default(),
            paused: 0,
            retained: Retained::default(),
            retried: 0,
        }
    }

    /// Changes the number of slots of the in-flight window.
    pub(super) fn resize(&mut self, slots: usize) {
        self.window.resize(slots);
    }

    /// Returns the outbox of the upstream.
    pub(super) fn upstream(&mut self) -> &mut Outbox {
        &mut self.upstream
    }

    /// Returns how many bytes wait for the upstream.
    pub(super) fn upstream_bytes(&self) -> usize {
        self.upstream.len()
    }

    pub(super) fn connect(&mut self, client: ClientId) {
        self.clients.insert(client, ClientRequests::default());
    }

    /// Abandons the pending messages of a client. The client stays known until [`disconnect`](Pacing::disconnect).
    pub(super) fn abandon(&mut self, client: ClientId) -> Abandoned {
        let Some(requests) = self.clients.get_mut(&client) else {
            return Abandoned { unsent: Vec::new(), orphans: Vec::new() };
        };
        self.paused -= usize::from(requests.queue.paused_until().is_some());
        requests.unanswered = 0;
        requests.kept_bytes = 0;
        let queue = requests.queue.take();
        self.window.forget(Waiter::Client(client));
        let unsent = queue.into_iter().filter_map(|queued| queued.id);
        let unsent = unsent.filter_map(|id| Some((id, self.pending.remove(id)?))).collect();
        let orphans = self.pending.orphan(client).into_iter().map(|(kind, line)| {
            self.retained.forget(line);
            kind
        });
        Abandoned { unsent, orphans: orphans.collect() }
    }

    /// Removes a client whose requests were abandoned.
    pub(super) fn disconnect(&mut self, client: ClientId) {
        self.clients.remove(&client);
    }

    // ---- sending -------------------------------------------------------------------------------

    /// Returns whether another request of `bytes` bytes with the effect `pending` would exceed the limits of its
    /// client.
    pub(super) fn is_full_for(
        &self,
        client: ClientId,
        bytes: usize,
        pending: &Pending,
        limits: &Limits,
    ) -> bool {
        let Some(requests) = self.clients.get(&client) else { return false };
        let waits = !requests.queue.is_empty() || !self.window.has_room();
        requests.kept_bytes + pending.kept_bytes() > limits.queued_request_bytes_per_client
            || (waits && !pending.is_urgent() && requests.queue.is_full_for(bytes, limits))
            || (pending.is_urgent() && requests.queue.is_full_for_urgent(limits))
    }

    /// Returns whether a line of `bytes` bytes would wait in a full queue.
    pub(super) fn has_full_queue(&self, client: ClientId, bytes: usize, limits: &Limits) -> bool {
        self.clients.get(&client).is_some_and(|c| !c.queue.is_empty() && c.queue.is_full_for(bytes, limits))
    }

    /// Returns whether a client must not be read: too many of its messages wait that cannot be refused.
    pub(super) fn blocks_reading(&self, client: ClientId, limits: &Limits) -> bool {
        self.clients.get(&client).is_some_and(|c| c.queue.blocks_reading(limits))
    }

    /// Sends or queues a client's request. `write` appends its line with the id that it gets; an `owned` line, which it
    /// puts into an empty buffer, is not copied.
    pub(super) fn send_request(
        &mut self,
        now: Time,
        client: ClientId,
        pending: Pending,
        owned: bool,
        write: impl FnOnce(UpstreamId, &mut Vec<u8>),
    ) -> Option<UpstreamId> {
        let requests = self.clients.get_mut(&client)?;
        let (long, urgent) = (pending.is_long(), pending.is_urgent());
        requests.unanswered += 1;
        requests.kept_bytes += pending.kept_bytes();
        let id = self.pending.insert(pending);
        if !requests.queue.is_empty() || !self.window.has_room() {
            let mut line = Vec::new();
            write(id, &mut line);
            if requests.queue.is_empty() {
                self.window.wait(Waiter::Client(client));
            }
            let queued = Queued { id: Some(id), line, long };
            if urgent {
                requests.queue.push_first(queued);
            } else {
                requests.queue.push(queued);
            }
        } else {
            requests.newest_sent = requests.newest_sent.max(Some(id));
            let offset = self.upstream.queued_total();
            if owned {
                let mut line = Vec::new();
                write(id, &mut line);
                self.upstream.push_owned(line);
            } else {
                self.upstream.push_with(|out| write(id, out));
            }
            let line = self.retained.copy(self.upstream.last_line(offset));
            self.occupy(now, id, offset, long, line);
        }
        Some(id)
    }

    /// Sends or queues a client's notification. A notification cannot be refused, see
    /// [`blocks_reading`](Pacing::blocks_reading).
    pub(super) fn send_notification(&mut self, now: Time, client: ClientId, line: Cow<'_, [u8]>) {
        let next_id = self.pending.next_id();
        let Some(requests) = self.clients.get_mut(&client) else { return };
        if requests.queue.is_empty() && self.window.has_room() {
            let offset = self.upstream.queued_total();
            match line {
                Cow::Owned(line) => self.upstream.push_owned(line),
                Cow::Borrowed(line) => self.upstream.push(line),
            }
            self.window.notified(offset, now);
            requests.newest_sent = requests.newest_sent.max(Some(next_id));
        } else {
            if requests.queue.is_empty() {
                self.window.wait(Waiter::Client(client));
            }
            requests.queue.push(Queued { id: None, line: line.into_owned(), long: false });
        }
    }

    /// Sends a notification of codexd itself without regard to the window. There is only `initialized`.
    pub(super) fn send_own_notification(&mut self, line: &[u8]) {
        self.upstream.push(line);
    }

    /// Sends or queues a request of codexd itself. `params` appends its parameters.
    pub(super) fn send_own(
        &mut self,
        now: Time,
        method: &str,
        kind: PendingKind,
        params: impl FnOnce(&mut Vec<u8>),
    ) {
        let urgent = kind.is_urgent();
        let id = self.pending.insert(Pending::new(Origin::Codexd, kind, None, now));
        let mut line = Vec::new();
        line.extend_from_slice(b"{\"id\":");
        write_u64(&mut line, id.0);
        line.extend_from_slice(b",\"method\":");
        write_string(&mut line, method);
        line.extend_from_slice(b",\"params\":");
        params(&mut line);
        line.push(b'}');
        if check::value(&line).is_err() {
            // It quotes an id from a line of the upstream that was not JSON. Only valid lines may be sent to the
            // upstream, and it could not find that id anyway.
            self.pending.remove(id);
        } else if urgent {
            let offset = self.upstream.queued_total();
            self.upstream.push(&line);
            if let Some(pending) = self.pending.get_mut(id) {
                pending.progress = Progress::Unmetered { offset };
            }
        } else if self.own_queue.is_empty() && self.window.has_room() {
            self.send(now, Waiter::Codexd, Queued { id: Some(id), line, long: false });
        } else {
            if self.own_queue.is_empty() {
                self.window.wait(Waiter::Codexd);
            }
            self.own_queue.push(Queued { id: Some(id), line, long: false });
        }
    }

    /// Sends or queues the answer to a server request.
    pub(super) fn send_answer(&mut self, now: Time, line: &[u8]) {
        if self.window.has_room_for_answer() {
            let offset = self.upstream.queued_total();
            self.upstream.push(line);
            self.window.answered(offset, now);
        } else {
            self.window.keep_answer(line);
        }
    }

    /// Sends what was queued.
    fn send(&mut self, now: Time, waiter: Waiter, queued: Queued) {
        let offset = self.upstream.queued_total();
        let Queued { id, line, long } = queued;
        let kept = if waiter != Waiter::Codexd && Retained::is_too_long(&line) {
            self.upstream.push_owned(line);
            None
        } else {
            self.upstream.push(&line);
            match waiter {
                _ if id.is_none() => None,
                Waiter::Codexd => self.retained.keep_own(line),
                Waiter::Client(_) => self.retained.keep(line),
            }
        };
        match id {
            Some(id) => self.occupy(now, id, offset, long, kept),
            None => self.window.notified(offset, now),
        }
    }

    /// Gives a slot to a request whose line is at `offset` in the stream to the upstream.
    fn occupy(&mut self, now: Time, id: UpstreamId, offset: u64, long: bool, line: Option<Vec<u8>>) {
        if let Some(pending) = self.pending.get_mut(id) {
            pending.progress = Progress::InFlight { offset, line };
        }
        self.window.opened(id, offset, long, now);
    }

    /// Sends queued messages while the window has free slots. Waiters take turns.
    ///
    /// An unsubscribe is not sent if its thread `is_wanted` again: it would undo another client's resume that was sent
    /// before it. Returns the clients and ids of those unsubscribes, which have to be answered.
    #[must_use]
    pub(super) fn pump(
        &mut self,
        now: Time,
        is_wanted: impl Fn(&ThreadId) -> bool,
    ) -> Vec<(ClientId, RequestId)> {
        let mut superseded = Vec::new();
        while let Some(line) = self.window.next_answer() {
            let offset = self.upstream.queued_total();
            self.upstream.push(&line);
            self.window.answered(offset, now);
        }
        while self.window.has_room() {
            let Some(waiter) = self.window.next() else { break };
            let next_id = self.pending.next_id();
            let (queue, newest_sent) = match waiter {
                Waiter::Codexd => (&mut self.own_queue, None),
                Waiter::Client(client) => match self.clients.get_mut(&client) {
                    Some(requests) => (&mut requests.queue, Some(&mut requests.newest_sent)),
                    None => continue,
                },
            };
            let Some(queued) = queue.pop() else { continue };
            if !queue.is_empty() {
                self.window.wait(waiter);
            }
            if let Some(id) = queued.id
                && let Some(Pending { kind: PendingKind::Unsubscribe { thread }, .. }) = self.pending.get(id)
                && is_wanted(thread)
            {
                if let Some(pending) = self.pending.remove(id) {
                    self.forget_unanswered(&pending);
                    if let Origin::Client { client, id } = pending.origin {
                        superseded.push((client, id));
                    }
                }
                continue;
            }
            let overtakes = queued.id.and_then(|id| self.pending.get(id)).is_some_and(Pending::is_urgent);
            if let Some(newest_sent) = newest_sent.filter(|_| !overtakes) {
                *newest_sent = (*newest_sent).max(Some(queued.id.unwrap_or(next_id)));
            }
            self.send(now, waiter, queued);
        }
        superseded
    }

    // ---- responses -----------------------------------------------------------------------------

    /// Records the response to a request. `overloaded` means that the upstream's queue was full.
    pub(super) fn complete(&mut self, now: Time, id: UpstreamId, overloaded: bool) -> Completion {
        let Some(mut pending) = self.pending.remove_sent(id) else { return Completion::Unknown };
        let offset = pending.offset();
        if matches!(pending.progress, Progress::InFlight { .. }) {
            self.window.closed();
        }
        if overloaded {
            match self.retry(now, id, pending) {
                Ok(()) => return Completion::Retried,
                Err(given_back) => pending = given_back,
            }
        } else if let Some(offset) = offset {
            self.window.consumed(offset);
            while let Some(sent) = self.window.next_consumed() {
                self.release(sent);
            }
        }
        self.retained.forget(pending.take_line());
        self.forget_unanswered(&pending);
        if pending.kind == PendingKind::Barrier {
            self.window.set_barrier(false, now);
        }
        if overloaded { Completion::Rejected(pending) } else { Completion::Answered(pending) }
    }

    fn forget_unanswered(&mut self, pending: &Pending) {
        if let Origin::Client { client, .. } = &pending.origin
            && let Some(requests) = self.clients.get_mut(client)
        {
            requests.unanswered = requests.unanswered.saturating_sub(1);
            requests.kept_bytes = requests.kept_bytes.saturating_sub(pending.kept_bytes());
        }
    }

    /// Queues a request again that the upstream rejected because its queue was full. Returns the request if it
    /// cannot be sent again.
    fn retry(&mut self, now: Time, id: UpstreamId, mut pending: Pending) -> Result<(), Pending> {
        let waiter = match &pending.origin {
            Origin::Client { client, .. } => Waiter::Client(*client),
            Origin::Codexd => Waiter::Codexd,
            Origin::Orphan { .. } => return Err(pending),
        };
        let given_up = pending.retries >= RETRIES || now.since(pending.since) > RETRY_WITHIN_MS;
        if pending.kind.is_urgent()
            || (given_up && waiter != Waiter::Codexd)
            || self.would_overtake(waiter, id, &pending)
        {
            return Err(pending);
        }
        let queue = match waiter {
            Waiter::Codexd => &mut self.own_queue,
            Waiter::Client(client) => match self.clients.get_mut(&client) {
                Some(requests) => &mut requests.queue,
                // INVARIANT: the requests of a client that has disconnected are orphans.
                None => return Err(pending),
            },
        };
        let Some(line) = self.retained.take(pending.take_line()) else { return Err(pending) };
        let until = now + (BACK_OFF_MS << pending.retries.min(RETRIES));
        let long = pending.is_long();
        pending.retries += 1;
        pending.progress = Progress::Queued;
        if queue.pause(until) {
            self.paused += 1;
            if !queue.is_empty() {
                self.window.forget(waiter);
            }
        }
        queue.put_back(id, line, long);
        self.pending.put_back(id, pending);
        self.retried += 1;
        Ok(())
    }

    /// Returns whether sending a request again would execute it after a later request of its client. That does not
    /// matter for requests of codexd itself, and for requests that only read.
    fn would_overtake(&self, waiter: Waiter, id: UpstreamId, pending: &Pending) -> bool {
        let Waiter::Client(client) = waiter else { return false };
        !pending.known.is_some_and(|known| known.only_reads())
            && self.clients.get(&client).is_none_or(|c| c.newest_sent.is_some_and(|newest| newest > id))
    }

    /// Releases the slot of a slow request that the upstream has consumed.
    fn release(&mut self, sent: Sent) {
        let Some(pending) = self.pending.get_mut(sent.id) else { return };
        // If it was sent again, its line is now at another offset.
        if let Progress::InFlight { offset, line } = &mut pending.progress
            && *offset == sent.offset
        {
            self.retained.forget(line.take());
            pending.progress = Progress::Unmetered { offset: sent.offset };
            self.window.closed();
        }
    }

    // ---- time ----------------------------------------------------------------------------------

    /// Returns when the oldest consumed request counts as slow.
    pub(super) fn release_due(&self, limits: &Limits) -> Option<Time> {
        self.window.oldest().map(|at| at + limits.window_release_ms)
    }

    /// Releases the slots of requests that have been unanswered for too long.
    pub(super) fn release_slow(&mut self, now: Time, limits: &Limits) {
        let Some(before) = now.as_millis().checked_sub(limits.window_release_ms) else { return };
        while let Some(sent) = self.window.take_older(Time::from_millis(before)) {
            self.release(sent);
        }
    }

    /// Returns when a barrier is to be sent.
    pub(super) fn barrier_due(&self, limits: &Limits) -> Option<Time> {
        self.window.barrier_due(limits.window_release_ms)
    }

    /// Sends a barrier. It is a `thread/loaded/list`: a stable method that waits in no queue of the upstream and is
    /// answered in milliseconds (measured).
    pub(super) fn send_barrier(&mut self, now: Time) {
        self.window.set_barrier(true, now);
        self.send_own(now, "thread/loaded/list", PendingKind::Barrier, |out| out.extend_from_slice(b"{}"));
    }

    /// Returns when the next pause ends.
    pub(super) fn pause_ends(&self) -> Option<Time> {
        if self.paused == 0 {
            return None;
        }
        let queues = self.clients.values().map(|c| &c.queue);
        queues.chain([&self.own_queue]).filter_map(Queue::paused_until).min()
    }

    /// Ends the pauses that are due.
    pub(super) fn end_pauses(&mut self, now: Time) {
        if self.paused == 0 {
            return;
        }
        if self.own_queue.end_pause(now) {
            self.paused -= 1;
            self.window.wait(Waiter::Codexd);
        }
        let ended =
            self.clients.iter_mut().filter_map(|(client, c)| c.queue.end_pause(now).then_some(*client));
        let mut ended: Vec<ClientId> = ended.collect();
        ended.sort_unstable();
        self.paused -= ended.len();
        for client in ended {
            self.window.wait(Waiter::Client(client));
        }
    }

    // ---- the end of the upstream ---------------------------------------------------------------

    /// Removes everything after the loss of the upstream. Returns the clients' requests, oldest first.
    pub(super) fn fail_all(&mut self, slots: usize) -> Vec<Unanswerable> {
        let written = self.upstream.written_total();
        for requests in self.clients.values_mut() {
            requests.queue.take();
            requests.unanswered = 0;
            requests.kept_bytes = 0;
        }
        self.own_queue.take();
        self.paused = 0;
        let mut failed = Vec::new();
        for mut pending in self.pending.drain() {
            self.retained.forget(pending.take_line());
            let delivered = match pending.offset() {
                Some(offset) if offset < written => Delivered::Maybe,
                _ => Delivered::No,
            };
            if let Origin::Client { client, id } = pending.origin {
                failed.push(Unanswerable { client, id, delivered });
            }
        }
        self.upstream.clear();
        self.window = Window::new(slots);
        failed
    }

    // ---- queries ------------------------------------------------------------------------------

    /// Returns the id of the next request.
    pub(super) fn next_id(&self) -> UpstreamId {
        self.pending.next_id()
    }

    /// Returns whether a client has an unanswered resume of a thread that is older than the request `before`.
    pub(super) fn is_resuming(&self, client: ClientId, thread: &ThreadId, before: UpstreamId) -> bool {
        self.pending
            .before(before)
            .any(|p| p.origin.connected() == Some(client) && p.kind.subscribes_to() == Some(thread))
    }

    /// Returns the client of the request that unloads a thread in order to load it again, if the upstream is
    /// executing that now. The upstream executes the requests about a thread one after the other.
    pub(super) fn reloads(&self, thread: &ThreadId) -> Option<&Origin> {
        let oldest = self.pending.oldest_sent(|p| match &p.kind {
            PendingKind::Subscribe { thread: t, reloads: true }
            | PendingKind::DropSubscriptions { thread: t } => t == thread,
            _ => false,
        })?;
        matches!(oldest.kind, PendingKind::Subscribe { .. }).then_some(&oldest.origin)
    }

    /// Iterates over the unanswered requests of connected clients.
    pub(super) fn of_clients(&self) -> impl Iterator<Item = (UpstreamId, &Pending)> {
        self.pending.iter().filter(|(_, p)| matches!(p.origin, Origin::Client { .. }))
    }

    /// Iterates over the unanswered requests of codexd itself.
    pub(super) fn own(&self) -> impl Iterator<Item = &Pending> {
        self.pending.iter().map(|(_, pending)| pending).filter(|p| !matches!(p.origin, Origin::Client { .. }))
    }

    /// Returns the upstream id of a client's request.
    pub(super) fn find(&self, client: ClientId, id: &RequestId) -> Option<UpstreamId> {
        self.pending.find(client, id)
    }

    /// Returns the JSON text of the id that a request has for the connected client that sent it.
    pub(super) fn own_id(&self, id: UpstreamId) -> Option<Vec<u8>> {
        match &self.pending.get(id)?.origin {
            Origin::Client { id, .. } => {
                let mut text = Vec::new();
                id.write(&mut text);
                Some(text)
            }
            Origin::Orphan { .. } | Origin::Codexd => None,
        }
    }

    /// Returns how many requests of a client are unanswered.
    pub(super) fn unanswered(&self, client: ClientId) -> usize {
        self.clients.get(&client).map_or(0, |c| c.unanswered)
    }

    /// Returns how many messages of all clients wait for a slot.
    pub(super) fn queued(&self) -> impl Iterator<Item = (usize, usize)> {
        self.clients.values().map(|c| (c.queue.len(), c.queue.bytes()))
    }

    /// Returns how many messages of a client wait for a slot.
    pub(super) fn queued_of(&self, client: ClientId) -> usize {
        self.clients.get(&client).map_or(0, |c| c.queue.len())
    }

    /// Returns how often requests were sent again.
    pub(super) fn retried(&self) -> u64 {
        self.retried
    }

    /// Adds the number of things kept here.
    pub(super) fn account(&self, kept: &mut super::Accounting) {
        kept.pending = self.pending.values().count();
        kept.queued = self.own_queue.len() + self.queued().map(|(lines, _)| lines).sum::<usize>();
        kept.queued_bytes = self.own_queue.bytes() + self.queued().map(|(_, bytes)| bytes).sum::<usize>();
        kept.queued_most = self.queued().map(|(lines, _)| lines).max().unwrap_or_default();
        kept.window = self.window.open();
        kept.unconsumed_answers = self.window.answers();
        kept.waiting = self.window.waiting();
        kept.answers = self.window.waiting_answers();
        kept.retained_bytes = self.retained.bytes();
        kept.client_bytes = self.clients.values().map(|c| c.kept_bytes).sum();
        kept.paused = self.paused;
    }
}
