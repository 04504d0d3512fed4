//! What the router contributes to the status.

use std::collections::BTreeMap;

use super::session::SessionState;
use super::{Router, pending::Origin};
use crate::routes::MEASURED_VERSION;
use crate::status::{ClientStatus, StatusReport, Warning};
use crate::time::Time;

impl Router {
    /// Fills the router's part of a report.
    pub fn fill_status(&self, now: Time, report: &mut StatusReport) {
        let of_clients = || self.pending.values().filter(|p| matches!(p.origin, Origin::Client { .. }));
        report.clients = self.sessions.len();
        report.threads = self.threads.values().filter(|t| t.loaded).count();
        report.open_turns = self.threads.values().filter(|t| t.is_busy()).count();
        report.in_flight = of_clients().count();
        report.oldest_request_ms = of_clients().map(|p| now.since(p.since)).max();
        report.queued_requests = self.sessions.values().map(|s| s.queue.len()).sum();
        let open = || self.asks.values().filter(|a| !a.answered);
        report.pending_approvals = open().count();
        report.parked_approvals = open().filter(|a| a.seen_by.is_empty()).count();
        report.oldest_approval_ms = open().map(|a| now.since(a.since)).max();
        report.queued_to_clients_bytes = self.sessions.values().map(|s| s.outbox.len() as u64).sum();
        report.queued_to_upstream_bytes = self.upstream.len() as u64;
        report.upstream.user_agent = self.handshake.user_agent.clone();
        report.upstream.version = self.handshake.version().map(str::to_owned);
        report.upstream.measured_version = MEASURED_VERSION.to_owned();
        report.upstream.unknown_methods.clone_from(&self.unknown_methods);
        report.upstream.last_message_ms = self.last_upstream.map(|at| now.since(at));
        let refused = report.counters.clients_refused;
        report.counters = self.counters.clone();
        report.counters.clients_refused = refused;
        report.counters.delivered_messages = self.delivery.delivered;
        report.warnings.extend(self.unanswered_warnings(now));
    }

    /// Returns a warning for each method whose requests should take no time and have no answer: how
    /// many, and the age of the oldest.
    ///
    /// That the upstream is dead does not follow from it: one slow request is not a dead server.
    fn unanswered_warnings(&self, now: Time) -> Vec<Warning> {
        let mut late: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
        for pending in self.pending.values() {
            let Some(known) = pending.known.filter(|known| known.answers_soon()) else { continue };
            let age = now.since(pending.since);
            if age >= self.config.limits.unanswered_warning_ms
                && pending.offset.is_some()
                && matches!(pending.origin, Origin::Client { .. })
            {
                let (count, oldest) = late.entry(known.method).or_default();
                *count += 1;
                *oldest = age.max(*oldest);
            }
        }
        late.into_iter()
            .map(|(method, (count, oldest))| Warning {
                code: "requestUnanswered".to_owned(),
                message: match count {
                    1 => format!("`{method}` has had no answer for {} s", oldest / 1_000),
                    n => {
                        format!("{n} requests `{method}` have no answer, the oldest for {} s", oldest / 1_000)
                    }
                },
                hint: "other requests go on; its client can give it up and ask again".to_owned(),
            })
            .collect()
    }

    /// Describes every connected client, in the order of their connection.
    pub fn client_statuses(&self, now: Time) -> Vec<ClientStatus> {
        let mut all: Vec<ClientStatus> = self
            .sessions
            .iter()
            .map(|(client, s)| ClientStatus {
                id: u64::from(client.0),
                state: match s.state {
                    SessionState::AwaitingInitialize => "awaitingInitialize",
                    SessionState::Active => "active",
                    SessionState::Closing => "closing",
                }
                .to_owned(),
                name: s.name.clone(),
                version: s.version.clone(),
                pid: None,
                framing: None,
                connected_ms: now.since(s.connected),
                threads: {
                    let mut threads: Vec<_> = s.subscriptions.iter().map(ToString::to_string).collect();
                    threads.sort_unstable();
                    threads
                },
                in_flight: s.in_flight,
                queued_bytes: s.outbox.len() as u64,
            })
            .collect();
        all.sort_unstable_by_key(|c| c.id);
        all
    }
}

/// How much the router keeps, for tests that look for what is never forgotten.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bookkeeping {
    /// Requests without an answer.
    pub pending: usize,
    /// Requests that wait for the window, of clients and of codexd itself.
    pub queued: usize,
    /// Of those, the most that one client has.
    pub queued_most: usize,
    /// Bytes that wait, of clients and of codexd itself.
    pub queued_bytes: usize,
    /// Places taken in the window.
    pub window: usize,
    /// Answers to questions that the upstream is not known to have taken.
    pub untaken_answers: usize,
    /// Waiters for the window.
    pub waiting: usize,
    /// Answers to questions that wait.
    pub answers: usize,
    /// Bytes of lines that may have to be sent again.
    pub kept_bytes: usize,
    /// Queues that are paused.
    pub paused: usize,
    /// Messages held back.
    pub held: usize,
    /// Requests in flight that may make threads known.
    pub opening: usize,
    /// Supposed causes of notices.
    pub hydrating: usize,
    /// Threads whose rate limits may be told next.
    pub metered: usize,
    /// Unsubscribes that wait for a resume.
    pub deferred: usize,
    /// Questions.
    pub asks: usize,
    /// Turns that are open.
    pub turns: usize,
    /// Subscriptions, counted at the threads.
    pub subscribers: usize,
    /// Subscriptions, counted at the clients.
    pub subscriptions: usize,
    /// Connection-scoped resources.
    pub resources: usize,
    /// Clients above the soft limit.
    pub over_soft: usize,
}

impl Router {
    /// Counts what is kept.
    #[doc(hidden)]
    pub fn bookkeeping(&self) -> Bookkeeping {
        Bookkeeping {
            pending: self.pending.values().count(),
            queued: self.own_queue.len() + self.sessions.values().map(|s| s.queue.len()).sum::<usize>(),
            queued_bytes: self.own_queue.bytes()
                + self.sessions.values().map(|s| s.queue.bytes()).sum::<usize>(),
            queued_most: self.sessions.values().map(|s| s.queue.len()).max().unwrap_or_default(),
            window: self.window.open(),
            untaken_answers: self.window.answers(),
            waiting: self.window.waiting(),
            answers: self.window.waiting_answers(),
            kept_bytes: self.kept.bytes(),
            paused: self.paused,
            held: self.held.len(),
            opening: self.opening + self.resuming.values().sum::<usize>(),
            hydrating: self.hydrating.len(),
            metered: self.metered.len(),
            deferred: self.deferred.len(),
            asks: self.asks.len(),
            turns: self.threads.values().filter(|t| t.is_busy()).count(),
            subscribers: self.threads.values().map(|t| t.subscribers.len()).sum(),
            subscriptions: self.sessions.values().map(|s| s.subscriptions.len()).sum(),
            resources: self.sessions.values().map(|s| s.resources.len()).sum(),
            over_soft: self.delivery.over_soft,
        }
    }
}
