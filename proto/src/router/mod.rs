//! The router: which message goes to which peer.
//!
//! # Theory of operation
//! The router is a value. Lines go in ([`Router::client_line`], [`Router::upstream_line`]), bytes come out in one
//! [`Outbox`] per peer, and rare things come out as [`Action`]s. It never waits and never fails: a peer that misbehaves
//! gets an error response or is closed.
//!
//! A line from a client is checked completely, since one malformed line can end the upstream. Then its id is
//! replaced and the rest is copied. A line from the upstream is read only as far as routing needs, and copied once
//! into the outbox of each client that gets it. Nothing is decoded and encoded again.
//!
//! # State
//! The router keeps everything that the upstream keeps per connection, since the upstream has only one. Each
//! subject is a value that owns its state and its invariants:
//!
//! * [`session`]: the handshake of each client; [`handshake`]: the one with the upstream
//! * [`delivery`]: outboxes, opt-outs, slow clients
//! * [`pacing`]: pending requests, queues, the in-flight window
//! * [`subscriptions`]: threads, their subscribers, their open turns
//! * [`attribution`]: messages that do not name their thread or client
//! * [`server_requests`]: approvals and other requests of the upstream
//! * [`resources`]: connection-scoped ids
//!
//! [`Router`] combines them, in one file per kind of message: [`request`], [`unsubscribe`], [`response`],
//! [`notification`] and [`next_delta`], [`server_request`]; and in [`unknown_thread`], [`departure`] and [`loss`] for what concerns more
//! than one message.

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
mod next_delta;
mod next_turn;
mod notification;
mod open_items;
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
mod upgrade;
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
pub use handshake::{config_warning, version_of};
pub use limits::Limits;
pub use loss::Loss;
pub use operator::{CannotInterrupt, Interrupting};
#[doc(hidden)]
pub use report::Accounting;
pub use report::CONFIG_WARNING;
pub use session::SessionState;
pub use shutdown_notice::ShutdownNotice;
pub use timer::RouterTimer;
pub use upgrade::{UPGRADE_CALLED_OFF, UPGRADING_REASON};

pub(crate) use response::running_turn;
pub(crate) use server_request::resolved;
pub(crate) use subscriptions::inferred_complete;
pub(crate) use thread::{KnownTo, Thread};
pub(crate) use turn_end::TurnEnd;

use attribution::Attribution;
use delivery::{Delivery, Topic};
use handshake::Handshake;
use never_ran::NeverRan;
use next_delta::LastDelta;
use next_turn::NextTurn;
use pacing::{Pacing, PendingKind};
use resources::Resources;
use restoration::Restoration;
use server_requests::ServerRequests;
use session::Sessions;
use subscriptions::Subscriptions;

/// What the router does with requests. It follows the state of the lifecycle.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// The upstream has not answered `initialize`. Lines of clients are kept.
    Starting,
    /// Requests are forwarded.
    Serving,
    /// Requests are forwarded, except those that start something. This can end.
    Upgrading,
    /// Requests are forwarded, except those that start something. No more clients are initialized.
    Draining,
    /// There is no upstream any more. Requests are answered with this error.
    Lost(Loss),
}

/// See the [module's documentation](self).
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
    last_delta: LastDelta,
    next_turn: NextTurn,
    /// Threads whose turns are interrupted unless a client subscribes before that time.
    orphans: VecDeque<(Time, ThreadId)>,
    /// Interrupts that the upstream has refused: when each is sent again, how often it was refused, and whether it
    /// bypasses the in-flight window.
    refused_interrupts: VecDeque<(Time, ThreadId, u32, bool)>,
    /// When a turn that runs can be silent for too long.
    silent_turns_due: Option<Time>,
    actions: VecDeque<Action>,
    activities: VecDeque<Activity>,
    counters: Counters,
    statistics: Statistics,
    last_upstream: Option<Time>,
    /// Methods that the upstream has and the routing table does not know.
    unknown_methods: Vec<String>,
}

impl Router {
    /// Creates a router. The first line of the handshake with the upstream is in the upstream's outbox.
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
            last_delta: LastDelta::default(),
            next_turn: NextTurn::default(),
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

    /// Changes settings while clients are served.
    ///
    /// A lowered limit applies to a client from its next message on.
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

    /// Sets the permissions of threads that earlier daemons have recorded.
    pub fn remember_earlier(&mut self, book: ThreadBook) {
        self.restoration = Restoration::new(book);
    }

    // ---- connections ---------------------------------------------------------------------------

    /// Adds a connection.
    pub fn client_connected(&mut self, now: Time) -> ClientId {
        self.delivery.at(now);
        let client = self.sessions.connect(now);
        self.delivery.connect(client);
        self.pacing.connect(client);
        self.subscriptions.connect(client);
        self.counters.clients_accepted += 1;
        client
    }

    /// Removes a connection that has ended. Its resources end; its turns continue.
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

    /// Closes the clients that exceeded a limit while lines were queued for them.
    fn close_overflowed(&mut self) {
        while let Some(client) = self.delivery.poll_overflowed() {
            self.counters.clients_too_slow += 1;
            self.close(client, CloseReason::TooSlow);
        }
    }

    // ---- bytes and actions ---------------------------------------------------------------------

    /// Returns the outbox of the upstream.
    pub fn upstream_outbox(&mut self) -> &mut Outbox {
        self.pacing.upstream()
    }

    /// Returns the bytes queued for a client; `None` if it has disconnected.
    pub fn outbox(&mut self, client: ClientId) -> Option<&mut Outbox> {
        self.delivery.outbox(client)
    }

    /// Returns how many messages were queued for a client since it connected; `None` if its outbox has more than what is
    /// [pending](Outbox::pending).
    pub fn queued_messages(&mut self, client: ClientId) -> Option<u64> {
        self.delivery.queued_messages(client)
    }

    /// Records that a client's socket accepted `n` bytes, and whether it is full now.
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
    /// Running turns, their approvals, interrupts and requests that only read continue.
    pub fn begin_drain(&mut self, now: Time, notice: &ShutdownNotice<'_>) {
        self.delivery.at(now);
        if matches!(self.phase, Phase::Starting | Phase::Serving | Phase::Upgrading) {
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

    /// Sends a health check. Its response is returned as [`Action::PingAnswered`].
    ///
    /// It is a `thread/loaded/list`: a stable method that waits in no queue and is answered in milliseconds (measured).
    pub fn ping(&mut self, now: Time) {
        self.delivery.at(now);
        self.send_own("thread/loaded/list", PendingKind::Ping, |out| out.extend_from_slice(b"{}"));
    }

    // ---- queries ------------------------------------------------------------------------------

    /// Returns whether nothing runs that a drain would wait for: no turn and no request of a client.
    pub fn is_quiet(&self) -> bool {
        !self.has_running_turns()
            && self.pacing.of_clients().next().is_none()
            && self.restoration.waiting() == 0
            && self.never_ran.is_quiet()
            && self.next_turn.is_quiet()
    }

    /// Returns whether a turn runs. A turn that waits for an unassigned approval does not count, since no connected
    /// client can answer it.
    fn has_running_turns(&self) -> bool {
        let mut busy = self.subscriptions.threads().filter(|(_, t)| t.is_busy());
        busy.any(|(thread, _)| !self.server_requests.has_unassigned(thread))
    }

    /// Returns the number of clients that are connected.
    pub fn clients(&self) -> usize {
        self.sessions.len()
    }

    /// Returns whether a client uses the next daemon if this one is lost. One that has not initialized does.
    pub fn uses_next_daemon(&self, client: ClientId) -> bool {
        let session = self.sessions.get(client);
        session.is_some_and(|session| !session.declared().is_some_and(|declared| declared.ends_with_daemon))
    }

    /// Returns whether a client has pending replies: queued bytes, or requests without a response.
    pub fn has_pending_replies(&self, client: ClientId) -> bool {
        self.pacing.unanswered(client) > 0
            || self.sessions.has_early(client)
            || self.restoration.has_waiting(client)
            || self.delivery.waiting_bytes(client) > 0
    }

    /// Returns whether a client must not be read for now: too many of its messages wait that cannot be refused.
    /// What was read already is still accepted.
    pub fn is_reading_paused(&self, client: ClientId) -> bool {
        self.pacing.blocks_reading(client, &self.config.limits)
    }

    /// Returns whether no client is connected and nothing runs.
    pub fn is_unused(&self) -> bool {
        self.sessions.len() == 0 && self.is_quiet()
    }

    /// Returns whether bytes are queued for a connected client.
    pub fn has_unwritten(&self) -> bool {
        self.delivery.has_unwritten()
    }

    /// Returns counts and times since the start.
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

    /// Sends a request of codexd itself; `params` appends its parameters.
    fn send_own(&mut self, method: &str, kind: PendingKind, params: impl FnOnce(&mut Vec<u8>)) {
        if !self.is_lost() {
            let now = self.now();
            self.pacing.send_own(now, method, kind, params);
        }
    }

    /// Sends queued messages while the in-flight window has free slots.
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
