//! The router: whose message goes where.
//!
//! # Theory of operation
//! The router is a value. Lines go in ([`Router::client_line`], [`Router::upstream_line`]), bytes
//! come out in one [`Outbox`] per peer, and rare things come out as [`Action`]s. It never waits and
//! never fails: a peer that misbehaves gets an error answer, or is to be closed.
//!
//! A line from a client is checked completely, since the upstream is fragile; then its id is
//! replaced and the rest is copied. A line from the upstream is read only as far as routing needs,
//! and copied once into the outbox of each client that gets it. Nothing is decoded and encoded again.
//!
//! # What is kept
//! Everything that the upstream keeps per connection, since to the upstream there is only one. Each
//! subject is a value that owns its state and its invariants:
//!
//! * [`session`]: the handshake of each client; [`handshake`]: the one with the upstream
//! * [`delivery`]: outboxes, opt-outs, slow clients
//! * [`pacing`]: pending requests, queues, the in-flight window
//! * [`subscriptions`]: threads, their subscribers, their open turns
//! * [`attribution`]: messages that do not say whose they are
//! * [`server_requests`]: approvals and other requests of the upstream
//! * [`resources`]: connection-scoped ids
//!
//! [`Router`] is where they meet, in one file per kind of message: [`request`], [`unsubscribe`],
//! [`response`], [`notification`], [`server_request`], and [`unknown_thread`], [`departure`] and
//! [`loss`] for what goes beyond one message.

mod action;
mod activity;
mod answer;
mod attribution;
mod closing_notice;
mod config;
mod delivery;
mod departure;
mod experimental_gate;
mod handshake;
mod limits;
mod listing;
mod loss;
mod methods;
mod never_ran;
mod notification;
mod operator;
mod orphaned_turns;
mod pacing;
mod params;
mod phase;
mod report;
mod request;
mod resources;
mod response;
mod restoration;
mod server_request;
mod server_requests;
mod session;
mod shutdown_notice;
mod silent_turns;
mod subscriptions;
mod thread;
mod timer;
mod turn_end;
mod unknown_thread;
mod unsubscribe;
mod warnings;

use std::collections::VecDeque;

use crate::id::{ClientId, ThreadId};
use crate::routes::Routes;
use crate::statistics::Statistics;
use crate::status::Counters;
use crate::thread_book::ThreadBook;
use crate::time::Time;

pub use crate::capture::Outcome;
pub use action::{Action, CloseReason};
pub use activity::Activity;
pub use answer::{Delivered, ErrorAnswer, INVALID_REQUEST, OVERLOADED, PARSE_ERROR, UPSTREAM_LOST};
pub use closing_notice::CLOSING;
pub use config::{ClientShutdown, Config, Identity, OrphanedTurns};
pub use delivery::Outbox;
pub use handshake::config_warning;
pub use limits::Limits;
pub use loss::Loss;
pub use operator::{CannotInterrupt, Interrupting};
#[doc(hidden)]
pub use report::Accounting;
pub use report::CONFIG_WARNING;
pub use session::SessionState;
pub use shutdown_notice::ShutdownNotice;
pub use timer::RouterTimer;

pub(crate) use response::running_turn;
pub(crate) use server_request::resolved;
pub(crate) use subscriptions::inferred_complete;
pub(crate) use thread::{KnownTo, Thread};
pub(crate) use turn_end::TurnEnd;

use attribution::Attribution;
use delivery::{Delivery, Topic};
use handshake::Handshake;
use never_ran::NeverRan;
use pacing::{Pacing, PendingKind};
use resources::Resources;
use restoration::Restoration;
use server_requests::ServerRequests;
use session::Sessions;
use subscriptions::Subscriptions;

/// What the router does with requests: the lifecycle's states as far as they matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// The upstream has not answered `initialize`: lines of clients are kept.
    Starting,
    /// Requests are forwarded.
    Serving,
    /// Requests are forwarded unless they start something.
    Draining,
    /// There is no upstream any more: requests are answered with this.
    Lost(Loss),
}

/// Whose message goes where. See the [module's documentation](self).
#[derive(Debug)]
pub struct Router {
    config: Config,
    routes: Routes,
    phase: Phase,
    handshake: Handshake,
    sessions: Sessions,
    delivery: Delivery,
    pacing: Pacing,
    subscriptions: Subscriptions,
    attribution: Attribution,
    server_requests: ServerRequests,
    resources: Resources,
    restoration: Restoration,
    never_ran: NeverRan,
    /// Threads whose turns are interrupted unless somebody subscribes, with the time of that.
    orphans: VecDeque<(Time, ThreadId)>,
    /// Interrupts that the upstream has refused and that are sent again at that time; how often it has, and whether they
    /// overtake the in-flight window.
    refused_interrupts: VecDeque<(Time, ThreadId, u32, bool)>,
    /// When a turn that runs can be silent for too long.
    silent_turns_due: Option<Time>,
    actions: VecDeque<Action>,
    activities: VecDeque<Activity>,
    counters: Counters,
    statistics: Statistics,
    last_upstream: Option<Time>,
    /// Methods that the upstream named and the table does not know.
    unknown_methods: Vec<String>,
}

impl Router {
    /// Creates a router that has begun the handshake with the upstream: its first line is in the
    /// upstream's outbox.
    pub fn new(config: Config, now: Time) -> Router {
        let mut router = Router {
            routes: Routes::new(),
            phase: Phase::Starting,
            handshake: Handshake::default(),
            sessions: Sessions::default(),
            delivery: Delivery::new(&config.limits, now),
            pacing: Pacing::new(config.limits.window),
            subscriptions: Subscriptions::default(),
            attribution: Attribution::default(),
            server_requests: ServerRequests::default(),
            resources: Resources::default(),
            restoration: Restoration::default(),
            never_ran: NeverRan::default(),
            orphans: VecDeque::new(),
            refused_interrupts: VecDeque::new(),
            silent_turns_due: None,
            actions: VecDeque::new(),
            activities: VecDeque::new(),
            counters: Counters::default(),
            statistics: Statistics::default(),
            last_upstream: None,
            unknown_methods: Vec::new(),
            config,
        };
        router.begin_handshake();
        router
    }

    /// Changes limits and the effect of `broker/shutdown` while clients are served.
    ///
    /// What exceeds a lowered limit counts from its next message on.
    pub fn reconfigure(
        &mut self,
        limits: Limits,
        client_shutdown: ClientShutdown,
        orphaned_turns: OrphanedTurns,
    ) {
        self.pacing.resize(limits.window);
        self.delivery.limit(&limits);
        self.config.limits = limits;
        self.config.client_shutdown = client_shutdown;
        self.config.orphaned_turns = orphaned_turns;
        self.silent_turns_due = None;
        if self.subscriptions.threads().any(|(_, thread)| !thread.running.is_empty()) {
            self.watch_silent_turns();
        }
        self.pump();
    }

    /// Starts from what earlier daemons have remembered of threads.
    pub fn remember_earlier(&mut self, book: ThreadBook) {
        self.restoration = Restoration::new(book);
    }

    // ---- connections ---------------------------------------------------------------------------

    /// Adds a new connection.
    pub fn client_connected(&mut self, now: Time) -> ClientId {
        self.delivery.at(now);
        let client = self.sessions.connect(now);
        self.delivery.connect(client);
        self.pacing.connect(client);
        self.subscriptions.connect(client);
        self.counters.clients_accepted += 1;
        client
    }

    /// Removes a connection that has ended: its resources end, its turns go on.
    pub fn client_gone(&mut self, now: Time, client: ClientId) {
        self.delivery.at(now);
        self.detach(client);
        self.note_left(now, client);
        self.sessions.disconnect(client);
        self.delivery.disconnect(client);
        self.pacing.disconnect(client);
        self.subscriptions.disconnect(client);
        self.adopt_unexplained();
    }

    fn close(&mut self, client: ClientId, reason: CloseReason) {
        self.detach(client);
        if self.sessions.close(client) {
            *self.statistics.closed.entry(reason.word()).or_default() += 1;
            self.delivery.close(client);
            self.actions.push_back(Action::Close { client, reason });
        }
        self.adopt_unexplained();
    }

    /// Closes the clients that exceeded a limit while lines were queued.
    fn close_overflowed(&mut self) {
        while let Some(client) = self.delivery.poll_overflowed() {
            self.counters.clients_too_slow += 1;
            self.close(client, CloseReason::TooSlow);
        }
    }

    // ---- bytes and actions ---------------------------------------------------------------------

    /// Returns the bytes waiting for the upstream.
    pub fn upstream_outbox(&mut self) -> &mut Outbox {
        self.pacing.upstream()
    }

    /// Returns the bytes waiting for a client; `None` when it has disconnected.
    pub fn outbox(&mut self, client: ClientId) -> Option<&mut Outbox> {
        self.delivery.outbox(client)
    }

    /// Records that a client's socket took `n` bytes, and whether it is full.
    pub fn client_written(&mut self, client: ClientId, n: usize, full: bool) {
        self.delivery.written(client, n, full);
    }

    /// Removes the next client that has something new in its outbox.
    pub fn poll_dirty(&mut self) -> Option<ClientId> {
        self.delivery.poll_dirty()
    }

    /// Removes the next action.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    // ---- the lifecycle -------------------------------------------------------------------------

    /// Stops accepting new work, and notifies every client of the reason and the deadline.
    ///
    /// Running turns, their approvals, interrupts and reads go on.
    pub fn begin_drain(&mut self, now: Time, notice: &ShutdownNotice<'_>) {
        self.delivery.at(now);
        if matches!(self.phase, Phase::Starting | Phase::Serving) {
            self.phase = Phase::Draining;
            self.keep_all_that_never_ran();
        }
        self.send_shutdown_notice(notice);
        self.close_overflowed();
    }

    fn send_shutdown_notice(&mut self, notice: &ShutdownNotice<'_>) {
        let mut line = Vec::new();
        notice.write(&mut line, self.config.identity.generation);
        self.delivery.notify_all(Topic::Unknown(ShutdownNotice::METHOD), &line);
    }

    /// Interrupts every open turn.
    pub fn interrupt_turns(&mut self, now: Time) {
        self.delivery.at(now);
        let open = self.subscriptions.threads().filter(|(_, t)| t.turn.is_some());
        let open: Vec<ThreadId> = open.map(|(thread, _)| thread.clone()).collect();
        for thread in open {
            self.interrupt_turn(&thread);
        }
    }

    /// Sends the upstream a request whose response comes back as [`Action::PingAnswered`].
    ///
    /// `thread/loaded/list` is stable, waits in no queue and is answered in milliseconds (measured).
    pub fn ping(&mut self, now: Time) {
        self.delivery.at(now);
        self.send_own("thread/loaded/list", PendingKind::Ping, |out| out.extend_from_slice(b"{}"));
    }

    // ---- queries ------------------------------------------------------------------------------

    /// Whether nothing runs that a drain would wait for: no turn, no request of a client.
    pub fn is_quiet(&self) -> bool {
        !self.has_running_turns()
            && self.pacing.of_clients().next().is_none()
            && self.restoration.waiting() == 0
            && self.never_ran.is_quiet()
    }

    /// Whether a turn runs. One that waits for an unassigned approval does not: no connected client can
    /// answer it.
    fn has_running_turns(&self) -> bool {
        let mut busy = self.subscriptions.threads().filter(|(_, t)| t.is_busy());
        busy.any(|(thread, _)| !self.server_requests.has_unassigned(thread))
    }

    /// Returns the number of clients that are connected.
    pub fn clients(&self) -> usize {
        self.sessions.len()
    }

    /// Whether a client has pending replies: bytes that wait, or requests without a response.
    pub fn has_pending_replies(&self, client: ClientId) -> bool {
        self.pacing.unanswered(client) > 0
            || self.sessions.has_early(client)
            || self.restoration.has_waiting(client)
            || self.delivery.waiting_bytes(client) > 0
    }

    /// Whether nothing more is to be read from a client for now: so much of it waits for the upstream
    /// that cannot be refused. What one read returned is accepted all the same.
    pub fn is_reading_paused(&self, client: ClientId) -> bool {
        self.pacing.blocks_reading(client, &self.config.limits)
    }

    /// Whether nobody is connected and nothing runs.
    pub fn is_unused(&self) -> bool {
        self.sessions.len() == 0 && self.is_quiet()
    }

    /// Whether bytes wait for a client that is connected.
    pub fn has_unwritten(&self) -> bool {
        self.delivery.has_unwritten()
    }

    /// Returns what was counted and timed since the start.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Returns the time of the call that is being handled.
    fn now(&self) -> Time {
        self.delivery.now()
    }

    // ---- towards the upstream ------------------------------------------------------------------

    fn is_lost(&self) -> bool {
        matches!(self.phase, Phase::Lost(_))
    }

    /// Sends a request of codexd's own; `params` appends its parameters.
    fn send_own(&mut self, method: &str, kind: PendingKind, params: impl FnOnce(&mut Vec<u8>)) {
        if !self.is_lost() {
            let now = self.now();
            self.pacing.send_own(now, method, kind, params);
        }
    }

    /// Sends what waits for the in-flight window, as far as it has room.
    fn pump(&mut self) {
        let (subscriptions, attribution) = (&self.subscriptions, &self.attribution);
        let superseded = self.pacing.pump(self.delivery.now(), |thread| {
            attribution.is_resuming(thread) || !subscriptions.of_thread(thread.as_bytes()).is_empty()
        });
        for (client, id) in superseded {
            self.answer_unsubscribe(client, &id, "unsubscribed");
        }
    }
}
