//! The router: whose message goes where.
//!
//! # Theory of operation
//! The router is a value. Lines go in ([`Router::client_line`], [`Router::upstream_line`]), bytes
//! come out in one [`Outbox`] per peer, and rare things come out as [`Action`]s. It never waits and
//! never fails: a peer that misbehaves gets an error answer, or is to be closed.
//!
//! A line from a client is checked completely, since the upstream is fragile; then its id is
//! replaced and the rest is copied. A line from the upstream is looked at only as far as routing
//! needs, and copied once into the outbox of each client that gets it. Nothing is decoded and
//! encoded again.
//!
//! # What is kept
//! Everything that the upstream keeps per connection, since to the upstream there is only one:
//! the handshake, gates and opt-outs ([`session`], [`gate`]), subscriptions and open turns
//! ([`thread`]), unanswered requests ([`pending`]), connection-scoped ids ([`namespace`]) and
//! questions of the upstream ([`ask`]).

mod answer;
mod ask;
mod catalog;
mod client;
mod gate;
mod handshake;
mod limit;
mod loss;
mod namespace;
mod outbox;
mod pending;
mod queue;
mod report;
mod retry;
mod session;
mod thread;
mod upstream;
mod window;

use std::collections::{BTreeMap, VecDeque};

use rustc_hash::FxHashMap;

use crate::id::{AskId, ClientId, ThreadId, UpstreamId};
use crate::json::check;
use crate::json::edit::write_string;
use crate::routes::{NotificationSet, Routes};
use crate::status::Counters;
use crate::time::Time;

pub use answer::{Delivered, INVALID_REQUEST, OVERLOADED, PARSE_ERROR, UPSTREAM_LOST};
pub use limit::Limits;
pub use loss::Loss;
pub use outbox::Outbox;
#[doc(hidden)]
pub use report::Bookkeeping;
pub use session::SessionState;

use ask::Ask;
use handshake::Handshake;
use pending::{Kind, Origin, Pending, PendingTable};
use queue::{Queue, Queued};
use session::Session;
use thread::{Held, Thread};
use window::{Waiter, Window};

/// Who this daemon is, as it tells its clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Version of codexd.
    pub version: String,
    /// Instance name.
    pub instance: String,
    /// Life of daemon and upstream.
    pub generation: u64,
}

/// What a client's `broker/shutdown` does beyond detaching that client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientShutdown {
    /// Stops the daemon if no other client is connected and no turn runs.
    #[default]
    WhenUnused,
    /// Stops the daemon.
    Always,
    /// Nothing.
    Never,
}

/// Settings of the router.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Who this daemon is.
    pub identity: Identity,
    /// Name by which codexd introduces itself to the upstream: the originator of all threads.
    pub originator: String,
    /// Bounds.
    pub limits: Limits,
    /// What `broker/shutdown` does.
    pub client_shutdown: ClientShutdown,
}

/// What the shell is to do, beyond writing what is in the outboxes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Close this connection, then report [`Router::client_gone`].
    Close {
        /// The client.
        client: ClientId,
        /// Why.
        reason: CloseReason,
    },
    /// The upstream answered the handshake: clients are served from now on.
    UpstreamReady,
    /// The upstream answered the handshake with an error.
    UpstreamRefused {
        /// The error's text.
        message: String,
    },
    /// The upstream answered a probe.
    ProbeAnswered,
    /// A client asked for the daemon to stop, and the settings allow it.
    ShutdownRequested {
        /// The client.
        client: ClientId,
    },
    /// The upstream wrote something that is no message: its stream cannot be trusted any more.
    UpstreamGarbled,
}

/// Why codexd closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// It does not read: too many bytes wait for it. What waits is dropped with the connection.
    TooSlow,
    /// It asked for it; what waits is written first.
    Detached,
    /// It sent too much before the upstream was ready. What waits is written first.
    TooEarly,
}

impl CloseReason {
    /// Tells whether what waits for the client is to be written before.
    pub const fn flushes(self) -> bool {
        !matches!(self, CloseReason::TooSlow)
    }
}

/// Where the router is between the start and the end of the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// The upstream has not answered `initialize`: what clients send is kept.
    Starting,
    Serving,
    /// No new work.
    Draining,
    /// There is no upstream any more.
    Lost(Loss),
}

/// Whose message goes where. See the [module's documentation](self).
#[derive(Debug)]
pub struct Router {
    config: Config,
    routes: Routes,
    phase: Phase,
    handshake: Handshake,
    upstream: Outbox,
    sessions: FxHashMap<ClientId, Session>,
    next_client: u32,
    /// Clients that have initialized so far.
    joined: u64,
    threads: FxHashMap<ThreadId, Thread>,
    pending: PendingTable,
    window: Window,
    /// codexd's own requests that wait for the window.
    own_queue: Queue,
    /// Queues that are paused.
    paused: usize,
    kept: retry::Kept,
    /// Requests in flight that may make any thread known.
    opening: usize,
    /// Requests in flight that will make this thread known.
    resuming: FxHashMap<ThreadId, usize>,
    held: VecDeque<Held>,
    /// Unsubscribes that wait for the answer to a resume of the same client.
    deferred: Vec<client::DeferredUnsubscribe>,
    asks: BTreeMap<AskId, Ask>,
    /// Client of the last `windowsSandbox/setupStart`.
    windows_setup: Option<ClientId>,
    /// Requesters of requests in flight that may cause a `deprecationNotice`, oldest first.
    hydrating: VecDeque<(UpstreamId, ClientId)>,
    /// Threads whose token usage was told and whose rate limits were not yet; the last one told last.
    metered: Vec<ThreadId>,
    next_exec: u64,
    delivery: Delivery,
    actions: VecDeque<Action>,
    counters: Counters,
    last_upstream: Option<Time>,
    /// Methods that the upstream named and the table does not know.
    unknown_methods: Vec<String>,
}

impl Router {
    /// Creates a router that has begun the handshake with the upstream: its first line is in the
    /// upstream's outbox.
    pub fn new(config: Config, now: Time) -> Router {
        let window = Window::new(config.limits.window);
        let delivery = Delivery::new(&config.limits, now);
        let mut router = Router {
            config,
            routes: Routes::new(),
            phase: Phase::Starting,
            handshake: Handshake::default(),
            upstream: Outbox::default(),
            sessions: FxHashMap::default(),
            next_client: 1,
            joined: 0,
            threads: FxHashMap::default(),
            pending: PendingTable::default(),
            window,
            own_queue: Queue::default(),
            paused: 0,
            kept: retry::Kept::default(),
            opening: 0,
            resuming: FxHashMap::default(),
            held: VecDeque::new(),
            deferred: Vec::new(),
            asks: BTreeMap::new(),
            windows_setup: None,
            hydrating: VecDeque::new(),
            metered: Vec::new(),
            next_exec: 0,
            delivery,
            actions: VecDeque::new(),
            counters: Counters::default(),
            last_upstream: None,
            unknown_methods: Vec::new(),
        };
        router.begin_handshake();
        router
    }

    /// Changes bounds and the effect of `broker/shutdown` while clients are served.
    ///
    /// What is beyond a bound that became narrower counts from its next message on.
    pub fn reconfigure(&mut self, limits: Limits, client_shutdown: ClientShutdown) {
        self.window.resize(limits.window);
        self.delivery.soft_bytes = limits.client_queue_soft_bytes;
        self.delivery.hard_bytes = limits.client_queue_hard_bytes;
        self.delivery.stall_ms = limits.client_queue_stall_ms;
        self.delivery.max_bytes = limits.client_queue_max_bytes;
        self.config.limits = limits;
        self.config.client_shutdown = client_shutdown;
        self.pump();
    }

    /// Takes in a new connection.
    pub fn client_connected(&mut self, now: Time) -> ClientId {
        self.delivery.now = now;
        let client = ClientId(self.next_client);
        self.next_client += 1;
        self.sessions.insert(client, Session::new(now));
        self.counters.clients_accepted += 1;
        client
    }

    /// Takes note that a connection has ended: its resources end, its turns go on.
    pub fn client_gone(&mut self, now: Time, client: ClientId) {
        self.delivery.now = now;
        self.detach(client);
        self.sessions.remove(&client);
        self.adopt_unexplained();
    }

    /// Returns the bytes waiting for the upstream.
    pub fn upstream_outbox(&mut self) -> &mut Outbox {
        &mut self.upstream
    }

    /// Returns the bytes waiting for a client; `None` when it has gone.
    pub fn outbox(&mut self, client: ClientId) -> Option<&mut Outbox> {
        self.sessions.get_mut(&client).map(|s| &mut s.outbox)
    }

    /// Takes note that a client took `n` bytes, and whether it could take no more.
    pub fn client_took(&mut self, client: ClientId, n: usize, blocked: bool) {
        let Some(session) = self.sessions.get_mut(&client) else { return };
        if n > 0 {
            session.took = self.delivery.now;
        }
        session.outbox.advance(n, blocked);
        if session.over_soft_since.is_some()
            && session.outbox.len() <= self.config.limits.client_queue_soft_bytes
        {
            session.over_soft_since = None;
            self.delivery.over_soft -= 1;
        }
    }

    /// Takes the next client that has something new in its outbox.
    pub fn poll_dirty(&mut self) -> Option<ClientId> {
        let client = self.delivery.dirty.pop()?;
        if let Some(session) = self.sessions.get_mut(&client) {
            session.dirty = false;
        }
        Some(client)
    }

    /// Takes the next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Returns when [`Router::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Time> {
        let limits = &self.config.limits;
        let held = self.held.front().map(|h| h.deadline);
        let window = self.window.oldest().map(|at| at + limits.window_release_ms);
        let soft = (self.delivery.over_soft > 0)
            .then(|| self.sessions.values().filter_map(|s| s.over_soft_since).min())
            .flatten()
            .map(|since| since + limits.client_queue_soft_ms);
        let marker = self.window.marker_due(limits.window_release_ms);
        let paused = (self.paused > 0)
            .then(|| {
                let queues = self.sessions.values().map(|s| &s.queue);
                queues.chain([&self.own_queue]).filter_map(|q| q.paused).min()
            })
            .flatten();
        let question = self.next_question_deadline();
        [held, window, soft, marker, paused, question].into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        self.delivery.now = now;
        let limits = self.config.limits;
        while self.held.front().is_some_and(|h| h.deadline <= now) {
            // INVARIANT: the front was just seen.
            let thread = self.held.front().map(|h| h.thread.clone());
            if let Some(thread) = thread {
                self.adopt(&thread);
            }
        }
        if let Some(before) = now.as_millis().checked_sub(limits.window_release_ms) {
            while let Some(sent) = self.window.take_older(Time::from_millis(before)) {
                self.give_back(sent);
            }
            self.pump();
        }
        self.end_pauses();
        self.fail_overdue_questions();
        if self.delivery.over_soft > 0 {
            let slow: Vec<ClientId> = self
                .sessions
                .iter()
                .filter(|(_, s)| {
                    s.over_soft_since.is_some_and(|since| now.since(since) >= limits.client_queue_soft_ms)
                })
                .map(|(c, _)| *c)
                .collect();
            self.delivery.overflowed.extend(slow);
        }
        self.close_overflowed();
        // Last: what was closed may have left something that waits.
        if self.window.marker_due(limits.window_release_ms).is_some_and(|due| due <= now) {
            self.window.mark(true, now);
            self.send_own("thread/loaded/list", Kind::Marker, |out| out.extend_from_slice(b"{}"));
        }
    }

    /// Stops taking new work, and tells every client why and for how long.
    ///
    /// Running turns, their approvals, interrupts and reads go on.
    pub fn begin_drain(&mut self, now: Time, announcement: &Announcement<'_>) {
        self.delivery.now = now;
        if matches!(self.phase, Phase::Starting | Phase::Serving) {
            self.phase = Phase::Draining;
        }
        self.announce(announcement);
        self.close_overflowed();
    }

    /// Interrupts every open turn.
    pub fn interrupt_turns(&mut self, now: Time) {
        self.delivery.now = now;
        let open: Vec<(ThreadId, Box<[u8]>)> = self
            .threads
            .iter()
            .filter_map(|(thread, t)| Some((thread.clone(), t.turn.as_ref()?.id.clone())))
            .collect();
        for (thread, turn) in open {
            self.send_own("turn/interrupt", Kind::Plain, |out| {
                out.extend_from_slice(b"{\"threadId\":\"");
                out.extend_from_slice(thread.as_bytes());
                out.extend_from_slice(b"\",\"turnId\":\"");
                out.extend_from_slice(&turn);
                out.extend_from_slice(b"\"}");
            });
        }
    }

    /// Sends the upstream a question whose answer comes back as [`Action::ProbeAnswered`].
    ///
    /// `thread/loaded/list` is stable, waits in no queue and is answered in milliseconds (measured).
    pub fn probe(&mut self, now: Time) {
        self.delivery.now = now;
        self.send_own("thread/loaded/list", Kind::Probe, |out| out.extend_from_slice(b"{}"));
    }

    /// Tells whether nothing runs that a drain would wait for: no turn, no request of a client.
    pub fn is_quiet(&self) -> bool {
        self.threads.values().all(|t| !t.is_busy())
            && !self.pending.values().any(|p| matches!(p.origin, Origin::Client { .. }))
    }

    /// Returns the number of clients that are connected.
    pub fn clients(&self) -> usize {
        self.sessions.len()
    }

    /// Tells whether a client is to get something yet: bytes that wait, or answers.
    pub fn is_owed(&self, client: ClientId) -> bool {
        self.sessions
            .get(&client)
            .is_some_and(|s| s.in_flight > 0 || !s.early.is_empty() || !s.outbox.is_empty())
    }

    /// Tells whether a client is not to be read for now: so much of it waits for the upstream that cannot
    /// be refused. What one read brought is taken all the same.
    pub fn is_held_up(&self, client: ClientId) -> bool {
        self.sessions.get(&client).is_some_and(|s| s.queue.is_behind(&self.config.limits))
    }

    /// Tells whether nobody is connected and nothing runs.
    pub fn is_unused(&self) -> bool {
        self.sessions.is_empty() && self.is_quiet()
    }

    /// Tells whether something waits to be written to a client that can still be written to.
    pub fn has_unwritten(&self) -> bool {
        self.sessions.values().any(|s| !s.outbox.is_empty())
    }

    /// Returns the time of the call that is being handled.
    fn now(&self) -> Time {
        self.delivery.now
    }

    fn announce(&mut self, announcement: &Announcement<'_>) {
        let mut line = Vec::new();
        announcement.write(&mut line, self.config.identity.generation);
        self.deliver_to_all(&line, |s| s.hears_unknown(Announcement::METHOD));
    }

    // ---- delivery ------------------------------------------------------------------------------

    /// Queues a line for one client, whatever it wants to hear.
    fn deliver(&mut self, client: ClientId, line: &[u8]) {
        self.deliver_with(client, |out| out.extend_from_slice(line));
    }

    /// Queues the line that `write` appends for one client.
    fn deliver_with(&mut self, client: ClientId, write: impl FnOnce(&mut Vec<u8>)) {
        if let Some(session) = self.sessions.get_mut(&client)
            && session.state != SessionState::Closing
        {
            self.delivery.post(client, session, |outbox| outbox.push_with(write));
        }
    }

    /// Queues a line for every client that `hears` picks.
    fn deliver_to_all(&mut self, line: &[u8], hears: impl Fn(&Session) -> bool) {
        for (client, session) in &mut self.sessions {
            if hears(session) {
                self.delivery.post(*client, session, |outbox| outbox.push(line));
            }
        }
    }

    /// Queues a line for the subscribers of a thread; tells whether the thread is known and has any.
    #[inline]
    fn deliver_to_thread(&mut self, thread: &[u8], line: &[u8], hears: impl Fn(&Session) -> bool) -> bool {
        let Some(thread) = self.threads.get(thread) else { return false };
        for client in &thread.subscribers {
            if let Some(session) = self.sessions.get_mut(client)
                && hears(session)
            {
                self.delivery.post(*client, session, |outbox| outbox.push(line));
            }
        }
        !thread.subscribers.is_empty()
    }

    /// Closes the clients that went over their limit while lines were queued.
    fn close_overflowed(&mut self) {
        while let Some(client) = self.delivery.overflowed.pop() {
            if self.sessions.get(&client).is_some_and(|s| s.state != SessionState::Closing) {
                self.counters.clients_too_slow += 1;
                self.close(client, CloseReason::TooSlow);
            }
        }
    }

    fn close(&mut self, client: ClientId, reason: CloseReason) {
        self.detach(client);
        let Some(session) = self.sessions.get_mut(&client) else { return };
        if session.state != SessionState::Closing {
            session.state = SessionState::Closing;
            self.actions.push_back(Action::Close { client, reason });
        }
        self.adopt_unexplained();
    }

    // ---- the way up ----------------------------------------------------------------------------

    /// Sends a request of codexd's own; `params` appends its parameters.
    fn send_own(&mut self, method: &str, kind: Kind, params: impl FnOnce(&mut Vec<u8>)) {
        if matches!(self.phase, Phase::Lost(_)) {
            return;
        }
        let urgent = matches!(kind, Kind::Initialize | Kind::Probe | Kind::Marker);
        let id = self.pending.insert(Pending::new(Origin::Codexd, kind, None, self.now()));
        let mut line = Vec::new();
        line.extend_from_slice(b"{\"id\":");
        crate::id::write_u64(&mut line, id.0);
        line.extend_from_slice(b",\"method\":");
        write_string(&mut line, method);
        line.extend_from_slice(b",\"params\":");
        params(&mut line);
        line.push(b'}');
        if check::value(&line).is_err() {
            // It repeats an id from a line of the upstream that was no JSON. The upstream reads only
            // what is checked, and such a thing cannot be named to it anyway.
            self.pending.remove(id);
            return;
        }
        if urgent {
            // Not counted: there is one of each at most.
            let offset = self.upstream.queued_total();
            self.upstream.push(&line);
            if let Some(pending) = self.pending.get_mut(id) {
                pending.offset = Some(offset);
            }
        } else if self.own_queue.is_empty() && self.window.has_room() {
            self.send(Waiter::Codexd, Queued { id: Some(id), line, long: false });
        } else {
            if self.own_queue.is_empty() {
                self.window.wait(Waiter::Codexd);
            }
            self.own_queue.push(Queued { id: Some(id), line, long: false });
        }
    }

    /// Puts a request or a notification on its way.
    fn send(&mut self, whose: Waiter, queued: Queued) {
        let offset = self.upstream.queued_total();
        self.upstream.push(&queued.line);
        match queued.id {
            Some(id) => {
                let line = match whose {
                    Waiter::Codexd => self.kept.keep_own(queued.line),
                    Waiter::Client(_) => self.kept.keep(queued.line),
                };
                self.sent(id, offset, queued.long, line);
            }
            None => self.window.notified(offset, self.delivery.now),
        }
    }

    /// Takes note that a request was put into the upstream's outbox at `offset`.
    fn sent(&mut self, id: UpstreamId, offset: u64, long: bool, line: Option<Vec<u8>>) {
        if let Some(pending) = self.pending.get_mut(id) {
            pending.offset = Some(offset);
            pending.counted = true;
            pending.line = line;
        }
        self.window.opened(id, offset, long, self.delivery.now);
    }

    /// Gives back the place of a request that the upstream has taken and that takes long.
    fn give_back(&mut self, sent: window::Sent) {
        // It may have been sent again since, elsewhere in the stream.
        if let Some(pending) = self.pending.get_mut(sent.id)
            && pending.counted
            && pending.offset == Some(sent.offset)
        {
            pending.counted = false;
            self.kept.forget(pending.line.take());
            self.window.closed();
        }
    }

    /// Takes note that the upstream has taken what was sent up to `offset`.
    fn took(&mut self, offset: u64) {
        self.window.took(offset);
        while let Some(sent) = self.window.next_taken() {
            self.give_back(sent);
        }
    }

    /// Puts an answer to a question of the upstream on its way.
    fn send_answer(&mut self, line: &[u8]) {
        if self.window.has_room_for_answer() {
            let offset = self.upstream.queued_total();
            self.upstream.push(line);
            self.window.answered(offset, self.delivery.now);
        } else {
            self.window.keep_answer(line);
        }
    }

    /// Sends what waits, in turn, as far as the window has room.
    fn pump(&mut self) {
        while let Some(line) = self.window.next_answer() {
            let offset = self.upstream.queued_total();
            self.upstream.push(&line);
            self.window.answered(offset, self.delivery.now);
        }
        while self.window.has_room() {
            let Some(waiter) = self.window.next() else { return };
            let queue = match waiter {
                Waiter::Codexd => &mut self.own_queue,
                Waiter::Client(client) => match self.sessions.get_mut(&client) {
                    Some(session) => &mut session.queue,
                    None => continue,
                },
            };
            let Some(queued) = queue.pop() else { continue };
            if !queue.is_empty() {
                self.window.wait(waiter);
            }
            if queued.id.is_some_and(|id| self.is_overtaken(id)) {
                continue;
            }
            if let Waiter::Client(client) = waiter {
                self.note_newest(client, queued.id);
            }
            self.send(waiter, queued);
        }
    }

    /// Takes note of the newest request of a client that was sent, or that something else was.
    fn note_newest(&mut self, client: ClientId, id: Option<UpstreamId>) {
        let id = id.unwrap_or_else(|| self.pending.next_id());
        if let Some(session) = self.sessions.get_mut(&client) {
            session.newest_sent = session.newest_sent.max(Some(id));
        }
    }
}

/// What all clients are told when the daemon stops serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement<'a> {
    /// A stable word or sentence.
    pub reason: &'a str,
    /// Milliseconds until running turns are interrupted: 0 when nothing runs any more, absent when
    /// they may take as long as they want.
    pub deadline_ms: Option<u64>,
    /// Milliseconds after which a new connection may be tried; absent when nobody will start codexd
    /// again by itself.
    pub retry_after_ms: Option<u64>,
}

impl Announcement<'_> {
    /// Name of the notification.
    pub const METHOD: &'static [u8] = b"notifications/broker/shuttingDown";

    fn write(&self, out: &mut Vec<u8>, generation: u64) {
        out.extend_from_slice(b"{\"method\":\"");
        out.extend_from_slice(Self::METHOD);
        out.extend_from_slice(b"\",\"params\":{\"reason\":");
        write_string(out, self.reason);
        out.extend_from_slice(b",\"deadlineMs\":");
        write_optional(out, self.deadline_ms);
        out.extend_from_slice(b",\"retryAfterMs\":");
        write_optional(out, self.retry_after_ms);
        out.extend_from_slice(b",\"generation\":");
        crate::id::write_u64(out, generation);
        out.extend_from_slice(b"}}");
    }
}

fn write_optional(out: &mut Vec<u8>, number: Option<u64>) {
    match number {
        Some(number) => crate::id::write_u64(out, number),
        None => out.extend_from_slice(b"null"),
    }
}

/// Putting lines into outboxes: what that touches beside the session.
#[derive(Debug)]
struct Delivery {
    soft_bytes: usize,
    hard_bytes: usize,
    stall_ms: u64,
    max_bytes: usize,
    /// The time of the call that is being handled.
    now: Time,
    /// Clients whose outbox has something new.
    dirty: Vec<ClientId>,
    /// Clients that went over the hard limit and are to be closed.
    overflowed: Vec<ClientId>,
    /// Number of clients above the soft limit.
    over_soft: usize,
    /// Lines delivered so far.
    delivered: u64,
}

impl Delivery {
    fn new(limits: &Limits, now: Time) -> Delivery {
        Delivery {
            soft_bytes: limits.client_queue_soft_bytes,
            hard_bytes: limits.client_queue_hard_bytes,
            stall_ms: limits.client_queue_stall_ms,
            max_bytes: limits.client_queue_max_bytes,
            now,
            dirty: Vec::new(),
            overflowed: Vec::new(),
            over_soft: 0,
            delivered: 0,
        }
    }

    #[inline]
    fn post(&mut self, client: ClientId, session: &mut Session, push: impl FnOnce(&mut Outbox)) {
        let waiting = session.outbox.len();
        if waiting == 0 {
            // Before, there was nothing to take.
            session.took = self.now;
        }
        if waiting > self.soft_bytes && session.outbox.is_blocked() {
            let stalled = self.now.since(session.took) >= self.stall_ms;
            // What is long comes twice, as a delta and in its completed item, and takes its time: the
            // client is slow only if it lets more pile up.
            let allowance = 2 * session.outbox.longest();
            if waiting > self.max_bytes.saturating_add(allowance)
                || (waiting > self.hard_bytes.saturating_add(allowance) && stalled)
            {
                self.overflowed.push(client);
                return;
            }
            if session.over_soft_since.is_none() {
                session.over_soft_since = Some(self.now);
                self.over_soft += 1;
            }
        }
        push(&mut session.outbox);
        self.delivered += 1;
        if !session.dirty {
            session.dirty = true;
            self.dirty.push(client);
        }
    }
}

/// Tells whether a session hears a notification: one bit of the table, or a name unknown to it.
#[derive(Clone, Copy)]
enum Topic<'a> {
    Known(NotificationSet),
    Unknown(&'a [u8]),
}

impl Topic<'_> {
    #[inline]
    fn reaches(self, session: &Session) -> bool {
        match self {
            Topic::Known(bit) => session.hears(bit),
            Topic::Unknown(method) => session.hears_unknown(method),
        }
    }
}
