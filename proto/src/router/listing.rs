//! The lists of `ctl`: threads, turns, requests.

use super::Router;
use super::thread::{RunningTurn, Thread};
use crate::id::{ClientId, ThreadId};
use crate::listing::{ClientName, RequestStatus, ThreadStatus, TurnStatus};
use crate::time::Time;

impl Router {
    /// Describes the threads in use. Active threads come first; then, those about which codex last sent something.
    pub fn thread_statuses(&self, now: Time) -> Vec<ThreadStatus> {
        let used = self.subscriptions.threads();
        let used = used.filter(|(_, t)| t.loaded || t.is_busy() || !t.subscribers.is_empty());
        let mut all: Vec<ThreadStatus> = used
            .map(|(id, thread)| ThreadStatus {
                id: id.to_string(),
                state: match (thread.is_busy(), thread.loaded) {
                    (true, _) => "active",
                    (false, true) => "idle",
                    (false, false) => "notLoaded",
                }
                .to_owned(),
                cwd: thread.cwd.as_deref().map(str::to_owned),
                model: thread.model.as_deref().map(str::to_owned),
                turn_id: thread.running.first().map(|turn| text(&turn.id)),
                subscribers: self.names(&thread.subscribers),
                pending_approvals: self.server_requests.unanswered_of(id).count(),
                sub_agent: thread.sub_agent,
                last_event_ms: thread.last_event.map(|at| now.since(at)),
            })
            .collect();
        let order =
            |t: &ThreadStatus| (t.state != "active", t.last_event_ms.unwrap_or(u64::MAX), t.id.clone());
        all.sort_unstable_by_key(order);
        all
    }

    /// Describes the running turns, the oldest first. Those whose id is not known come last.
    pub fn turn_statuses(&self, now: Time) -> Vec<TurnStatus> {
        let mut all = Vec::new();
        for (id, thread) in self.subscriptions.threads() {
            all.extend(thread.running.iter().map(|turn| self.turn_status(now, id, thread, Some(turn))));
            if thread.running.is_empty() && thread.is_busy() {
                all.push(self.turn_status(now, id, thread, None));
            }
        }
        all.sort_unstable_by(|a, b| b.age_ms.cmp(&a.age_ms).then_with(|| a.thread_id.cmp(&b.thread_id)));
        all
    }

    fn turn_status(
        &self,
        now: Time,
        id: &ThreadId,
        thread: &Thread,
        turn: Option<&RunningTurn>,
    ) -> TurnStatus {
        let mut state = "running";
        for open in self.server_requests.unanswered_of(id) {
            match open.seen_by.is_empty() {
                true => state = "unassigned",
                false if state == "running" => state = "waitingForApproval",
                false => {}
            }
        }
        let phase = if state == "running" { thread.phase.word() } else { "approval" };
        let last_event = thread.last_event.max(turn.map(|turn| turn.since));
        TurnStatus {
            id: turn.map(|turn| text(&turn.id)),
            state: state.to_owned(),
            thread_id: id.to_string(),
            phase: phase.to_owned(),
            by: turn.and_then(|turn| turn.by).map(|client| self.name(client)),
            subscribers: self.names(&thread.subscribers),
            cwd: thread.cwd.as_deref().map(str::to_owned),
            model: thread.model.as_deref().map(str::to_owned),
            sub_agent: thread.sub_agent,
            age_ms: turn.map(|turn| now.since(turn.since)),
            last_event_ms: last_event.map(|at| now.since(at)),
            silent: self.is_silent(now, id, thread, turn),
        }
    }

    fn is_silent(&self, now: Time, id: &ThreadId, thread: &Thread, turn: Option<&RunningTurn>) -> bool {
        let silent_ms = turn.and_then(|turn| self.silent_ms(now, id, thread, turn));
        let limit = self.config.limits.silent_turn_warning_ms;
        silent_ms.zip(limit).is_some_and(|(silent_ms, limit)| silent_ms >= limit)
    }

    /// Describes the requests of clients and the server requests without an answer, the oldest first.
    pub fn request_statuses(&self, now: Time) -> Vec<RequestStatus> {
        let mut all = self.client_request_statuses(now);
        all.extend(self.server_request_statuses(now));
        all.sort_by_key(|request| std::cmp::Reverse(request.age_ms));
        all
    }

    /// Describes the requests of clients without an answer, the oldest first.
    pub fn client_request_statuses(&self, now: Time) -> Vec<RequestStatus> {
        let mut requests: Vec<_> = self.pacing.of_clients().collect();
        requests.sort_unstable_by_key(|(id, _)| *id);
        requests
            .into_iter()
            .map(|(id, pending)| RequestStatus {
                id: format!("r{}", id.0),
                from: "client".to_owned(),
                state: if pending.offset().is_some() { "inFlight" } else { "queued" }.to_owned(),
                method: pending.known.map(|known| known.method.to_owned()),
                thread_id: pending.kind.thread().map(ToString::to_string),
                client: pending.origin.client().map(|client| self.name(client)),
                seen_by: Vec::new(),
                age_ms: now.since(pending.since),
            })
            .collect()
    }

    /// Describes the server requests without an answer, the oldest first.
    pub(super) fn server_request_statuses(&self, now: Time) -> Vec<RequestStatus> {
        let open = self.server_requests.unanswered();
        let mut all: Vec<RequestStatus> = open
            .map(|(id, open)| RequestStatus {
                id: format!("s{}", id.0),
                from: "codex".to_owned(),
                state: if open.seen_by.is_empty() { "unassigned" } else { "pending" }.to_owned(),
                method: open.method.map(str::to_owned),
                thread_id: open.thread.as_ref().map(ToString::to_string),
                client: open.thread.as_ref().and_then(|thread| self.starter_on(thread)),
                seen_by: self.names(&open.seen_by),
                age_ms: now.since(open.since),
            })
            .collect();
        all.sort_by_key(|request| std::cmp::Reverse(request.age_ms));
        all
    }

    fn starter_on(&self, thread: &ThreadId) -> Option<ClientName> {
        let running = &self.subscriptions.get(thread.as_bytes())?.running;
        running.iter().find_map(|turn| turn.by).map(|client| self.name(client))
    }

    fn names(&self, clients: &[ClientId]) -> Vec<ClientName> {
        clients.iter().map(|client| self.name(*client)).collect()
    }

    fn name(&self, client: ClientId) -> ClientName {
        ClientName { id: u64::from(client.0), name: self.name_of(client) }
    }
}

fn text(id: &[u8]) -> String {
    String::from_utf8_lossy(id).into_owned()
}
