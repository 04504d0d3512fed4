//! The router's part of the status.

use super::Router;
use super::session::SessionState;
use crate::id::ClientId;
use crate::routes::MEASURED_VERSION;
use crate::status::{ClientStatus, StatusReport, Warning};
use crate::time::Time;

/// Code of a warning that quotes one of the upstream.
pub const CONFIG_WARNING: &str = "codexConfig";

/// Warnings of the upstream about its configuration that are shown at most.
const MAX_CONFIG_WARNINGS: usize = 5;

/// Turns, requests and approvals that are listed in the status.
const NAMED: usize = 3;

fn first<T>(mut all: Vec<T>) -> Vec<T> {
    all.truncate(NAMED);
    all
}

impl Router {
    /// Fills the router's part of a report.
    pub fn fill_status(&self, now: Time, report: &mut StatusReport) {
        let of_clients = || self.pacing.of_clients();
        report.clients = self.sessions.len();
        report.threads = self.subscriptions.threads().filter(|(_, t)| t.loaded).count();
        report.open_turns = self.subscriptions.threads().filter(|(_, t)| t.is_busy()).count();
        report.in_flight = of_clients().count();
        report.oldest_request_ms = of_clients().map(|(_, p)| now.since(p.since)).max();
        report.queued_requests = self.pacing.queued().map(|(lines, _)| lines).sum();
        let open = || self.server_requests.unanswered().map(|(_, open)| open);
        report.pending_approvals = open().count();
        report.parked_approvals = open().filter(|a| a.seen_by.is_empty()).count();
        report.oldest_approval_ms = open().map(|a| now.since(a.since)).max();
        report.queued_to_clients_bytes = self.delivery.all_waiting_bytes() as u64;
        report.queued_to_upstream_bytes = self.pacing.upstream_bytes() as u64;
        report.upstream.user_agent = self.handshake.user_agent.clone();
        report.upstream.version = self.handshake.version().map(str::to_owned);
        report.upstream.measured_version = MEASURED_VERSION.to_owned();
        report.upstream.unknown_methods.clone_from(&self.unknown_methods);
        report.upstream.last_message_ms = self.last_upstream.map(|at| now.since(at));
        let refused = report.counters.clients_refused;
        report.counters = self.counters.clone();
        report.counters.clients_refused = refused;
        report.counters.delivered_messages = self.delivery.delivered();
        report.counters.retried_requests = self.pacing.retried();
        report.oldest_turns = first(self.turn_statuses(now));
        report.oldest_requests = first(self.client_request_statuses(now));
        report.oldest_approvals = first(self.server_request_statuses(now));
        report.warnings.extend(self.warnings(now));
        report.warnings.extend(self.handshake.config_warnings().take(MAX_CONFIG_WARNINGS).map(|message| Warning {
            code: CONFIG_WARNING.to_owned(),
            message,
            hint: "codex goes on without what it warns of; change its config.toml, or what it misses, and restart \
                   the daemon when no turn runs"
                .to_owned(),
        }));
    }

    /// Describes all connected clients in the order in which they connected.
    pub fn client_statuses(&self, now: Time) -> Vec<ClientStatus> {
        let mut all: Vec<ClientStatus> = self
            .sessions
            .iter()
            .map(|(client, s)| {
                let mut threads: Vec<_> =
                    self.subscriptions.of_client(client).map(ToString::to_string).collect();
                threads.sort_unstable();
                let sent = self.delivery.sent(client);
                ClientStatus {
                    id: u64::from(client.0),
                    state: match s.state() {
                        SessionState::AwaitingInitialize => "awaitingInitialize",
                        SessionState::Active => "active",
                        SessionState::Closing => "closing",
                    }
                    .to_owned(),
                    name: s.declared().map(|d| d.name.clone()),
                    version: s.declared().map(|d| d.version.clone()),
                    pid: None,
                    program: None,
                    framing: None,
                    connected_ms: now.since(s.connected()),
                    threads,
                    in_flight: self.pacing.unanswered(client),
                    queued_requests: self.pacing.queued_of(client),
                    queued_bytes: self.delivery.waiting_bytes(client) as u64,
                    open_turns: self.turns_of(client),
                    received_messages: s.received().messages,
                    received_bytes: s.received().bytes,
                    sent_messages: sent.messages,
                    sent_bytes: sent.bytes,
                    idle_ms: now.since(s.received().last.max(sent.last)),
                }
            })
            .collect();
        all.sort_unstable_by_key(|c| c.id);
        all
    }
}

impl Router {
    /// Returns how many turns run on the threads that a client is subscribed to.
    fn turns_of(&self, client: ClientId) -> usize {
        let threads = self.subscriptions.of_client(client);
        threads.filter(|thread| self.subscriptions.is_busy(thread)).count()
    }
}

/// How much the router keeps, for tests that look for leaks.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accounting {
    /// Requests without a response.
    pub pending: usize,
    /// Lines that wait for the in-flight window, of clients and of codexd itself.
    pub queued: usize,
    /// The most of them that one client has.
    pub queued_most: usize,
    /// Bytes of these lines.
    pub queued_bytes: usize,
    /// Slots of the in-flight window that are occupied.
    pub window: usize,
    /// Answers to server requests that the upstream may not have consumed yet.
    pub unconsumed_answers: usize,
    /// Waiters for the window.
    pub waiting: usize,
    /// Answers to server requests that wait.
    pub answers: usize,
    /// Bytes of copies of requests that may have to be sent again.
    pub retained_bytes: usize,
    /// Bytes that codexd keeps for the unanswered requests of clients, besides their lines.
    pub client_bytes: usize,
    /// Queues that are paused.
    pub paused: usize,
    /// Messages deferred.
    pub deferred: usize,
    /// Requests in flight whose response can make threads known.
    pub opening: usize,
    /// Requests that can have caused a notification without an id.
    pub reading_turns: usize,
    /// Threads whose rate limits may be reported next.
    pub metered: usize,
    /// Unsubscribes that wait for a resume.
    pub deferred_unsubscribes: usize,
    /// Server requests.
    pub server_requests: usize,
    /// Commands that are not completed and whose approval is open or was refused.
    pub unapproved: usize,
    /// Configuration warnings that wait for a response.
    pub warnings: usize,
    /// Bytes that open items take.
    pub open_item_bytes: usize,
    /// Turns that are open.
    pub turns: usize,
    /// Subscriptions, counted at the threads.
    pub subscribers: usize,
    /// Subscriptions, counted at the clients.
    pub subscriptions: usize,
    /// Connection-scoped resources.
    pub resources: usize,
    /// Threads that were started and may have to be kept.
    pub never_ran: usize,
    /// Requests that wait until the permissions of their thread are restored.
    pub waiting_for_permissions: usize,
    /// Clients above the soft limit.
    pub over_soft: usize,
}

impl Router {
    /// Counts what the router keeps.
    #[doc(hidden)]
    pub fn accounting(&self) -> Accounting {
        let mut kept = Accounting {
            server_requests: self.server_requests.len(),
            unapproved: self.server_requests.unapproved(),
            resources: self.resources.len(),
            never_ran: self.never_ran.len(),
            waiting_for_permissions: self.restoration.waiting(),
            over_soft: self.delivery.over_soft(),
            ..Accounting::default()
        };
        self.pacing.account(&mut kept);
        self.attribution.account(&mut kept);
        self.subscriptions.account(&mut kept);
        kept
    }
}
