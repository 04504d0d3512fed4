//! What the upstream sends.

use std::collections::VecDeque;

use serde::Deserialize;

use super::pending::{Kind, Origin, Part, Pending};
use super::retry::is_refusal;
use super::session::OpenResource;
use super::thread::{Held, KnownTo, Replay};
use super::{Action, Phase, Router, Topic, namespace};
use crate::id::{ClientId, ThreadId, UpstreamId};
use crate::json::Span;
use crate::json::edit::Edits;
use crate::json::scan::{member, member_at, skip_space, string_inner};
use crate::message::UpstreamMessage;
use crate::routes::{Audience, Meaning, Notification, NotificationSet, Resource};
use crate::time::Time;

impl Router {
    /// Handles one line from the upstream, without its line feed.
    pub fn upstream_line(&mut self, now: Time, line: &[u8]) {
        self.delivery.now = now;
        if matches!(self.phase, Phase::Lost(_)) {
            return;
        }
        self.last_upstream = Some(now);
        self.counters.upstream_messages += 1;
        // It would break the connection of every client that speaks WebSocket (RFC 6455, section 8.1). The first
        // look is several times as fast, and nearly always enough.
        if line.is_ascii() || core::str::from_utf8(line).is_ok() {
            self.route(line);
        } else {
            self.actions.push_back(Action::UpstreamGarbled);
        }
        if !self.delivery.overflowed.is_empty() {
            self.close_overflowed();
        }
    }

    fn route(&mut self, line: &[u8]) {
        match UpstreamMessage::read(line) {
            Some(UpstreamMessage::Notification { method, params }) => {
                self.notification(line, method.of(line), params);
            }
            Some(UpstreamMessage::Response { id, id_span, failed, body }) => {
                match id.and_then(|id| self.pending.remove_sent(UpstreamId(id)).map(|p| (UpstreamId(id), p)))
                {
                    Some((id, pending)) => self.response(line, id, pending, id_span, failed, body),
                    None => self.counters.dropped_messages += 1,
                }
            }
            Some(UpstreamMessage::Request { method, id, params }) => {
                self.ask(line, method.of(line), id, params);
            }
            None if skip_space(line, 0) == line.len() => {}
            None => self.actions.push_back(Action::UpstreamGarbled),
        }
    }

    // ---- notifications -----------------------------------------------------------------------------

    fn notification(&mut self, line: &[u8], method: &[u8], params: Option<usize>) {
        let Some((note, bit)) = self.routes.notification(method) else {
            return self.unknown_notification(line, method, params);
        };
        match note.audience {
            Audience::Thread => {
                let thread = params
                    .and_then(|p| member(line, p, b"threadId"))
                    .and_then(|value| string_inner(line, value));
                match thread {
                    Some(thread) => self.thread_notification(line, note, bit, thread.of(line), params),
                    None => self.deliver_to_all(line, |s| s.hears(bit)),
                }
            }
            Audience::Broadcast(path) => {
                let thread = params
                    .filter(|_| !path.is_empty())
                    .and_then(|p| member_at(line, p, path))
                    .and_then(|value| string_inner(line, value))
                    .map(|inner| inner.of(line));
                self.broadcast(line, note, bit, thread, params);
            }
            Audience::MeteredThread => {
                // The upstream writes it right behind the usage of the thread, when it knows that.
                if let Some(thread) = self.metered.pop() {
                    self.deliver_to_thread(thread.as_bytes(), line, |s| s.hears(bit));
                    return;
                }
                let mut to: Vec<ClientId> = self
                    .threads
                    .values()
                    .filter(|t| t.is_busy())
                    .flat_map(|t| t.subscribers.iter().copied())
                    .collect();
                to.sort_unstable();
                to.dedup();
                for client in to {
                    self.deliver_if_heard(client, line, bit);
                }
            }
            Audience::Owner(param) => self.deliver_to_owner(line, note, bit, param, params),
            Audience::Requester => {
                let requester = match method {
                    b"windowsSandbox/setupCompleted" => self.windows_setup.take(),
                    _ => self.hydrating.front().map(|(_, client)| *client),
                };
                match requester {
                    Some(client) => self.deliver_if_heard(client, line, bit),
                    None => self.deliver_to_all(line, |s| s.hears(bit)),
                }
            }
            Audience::Sticky => {
                self.handshake.keep(method, line);
                self.deliver_to_all(line, |s| s.hears(bit));
            }
        }
    }

    fn deliver_if_heard(&mut self, client: ClientId, line: &[u8], bit: NotificationSet) {
        if self.sessions.get(&client).is_some_and(|s| s.hears(bit)) {
            self.deliver(client, line);
        }
    }

    /// The default rule for methods of a newer upstream.
    fn unknown_notification(&mut self, line: &[u8], method: &[u8], params: Option<usize>) {
        let topic = Topic::Unknown(method);
        let thread =
            params.and_then(|p| member(line, p, b"threadId")).and_then(|value| string_inner(line, value));
        match thread {
            Some(thread) => {
                let thread = ThreadId::new(thread.of(line));
                if !self.hold_back(&thread, line) {
                    self.deliver_to_thread(thread.as_bytes(), line, |s| topic.reaches(s));
                }
            }
            None => self.deliver_to_all(line, |s| topic.reaches(s)),
        }
    }

    #[inline]
    fn thread_notification(
        &mut self,
        line: &[u8],
        note: &'static Notification,
        bit: NotificationSet,
        thread: &[u8],
        params: Option<usize>,
    ) {
        // The usual case, a delta for somebody, needs nothing more.
        if note.meaning == Meaning::None && self.deliver_to_thread(thread, line, |s| s.hears(bit)) {
            return;
        }
        let id = ThreadId::new(thread);
        if self.hold_back(&id, line) {
            return;
        }
        if let Some(params) = params
            && let Some(only) = self.learn(line, note.meaning, &id, params)
        {
            return self.deliver_if_heard(only, line, bit);
        }
        if note.meaning == Meaning::TokenUsage {
            self.forget_metered(&id);
            self.metered.push(id);
        }
        if !self.deliver_to_thread(thread, line, |s| s.hears(bit)) {
            self.counters.dropped_messages += 1;
        }
    }

    /// Takes note of what a thread's notification says. Returns the only client it is for, if it is
    /// a copy for the requester of a resume.
    fn learn(&mut self, line: &[u8], meaning: Meaning, thread: &ThreadId, params: usize) -> Option<ClientId> {
        let state = self.threads.get_mut(thread)?;
        match meaning {
            Meaning::TurnStarted => {
                let turn = member(line, params, b"turn")?;
                let id = string_inner(line, member(line, turn.start, b"id")?)?;
                state.replay = None;
                state.open_turn(id.of(line), turn.of(line), KnownTo::Subscribers);
            }
            Meaning::TurnCompleted => {
                let turn = member(line, params, b"turn")?;
                let id = string_inner(line, member(line, turn.start, b"id")?)?;
                if state.close_turn(id.of(line)) {
                    self.counters.turns_completed += 1;
                }
                self.forget_untold_asks(thread.as_bytes());
                self.forget_metered(thread);
            }
            Meaning::ItemStarted => {
                if let Some(turn) = &mut state.turn {
                    turn.final_answer = None;
                }
            }
            Meaning::ItemCompleted => {
                let item = member(line, params, b"item")?;
                let turn = state.turn.as_mut()?;
                if is_final_answer(line, item) {
                    turn.final_answer = Some(item.of(line).into());
                }
            }
            Meaning::TokenUsage => {
                let replay = state.replay.as_mut().filter(|r| r.usage)?;
                let turn = string_inner(line, member(line, params, b"turnId")?)?;
                replay.usage = false;
                let live = state.turn.as_ref().is_some_and(|t| *t.id == *turn.of(line));
                return (!live).then_some(replay.to);
            }
            Meaning::AskResolved => self.ask_resolved(line, params),
            Meaning::None | Meaning::StatusChanged | Meaning::ThreadClosed | Meaning::ProcessExited => {}
        }
        None
    }

    /// No rate limits belong to what was told of the usage of a thread so far.
    fn forget_metered(&mut self, thread: &ThreadId) {
        self.metered.retain(|t| t != thread);
    }

    fn broadcast(
        &mut self,
        line: &[u8],
        note: &'static Notification,
        bit: NotificationSet,
        thread: Option<&[u8]>,
        params: Option<usize>,
    ) {
        let Some(thread) = thread.map(ThreadId::new) else {
            return self.deliver_to_all(line, |s| s.hears(bit));
        };
        if self.held.iter().any(|h| h.thread == thread) {
            // Behind the thread's other messages.
            let status = params.and_then(|p| member_at(line, p, &["status", "type"]));
            let unloads = note.meaning == Meaning::ThreadClosed
                || status.is_some_and(|v| v.of(line) == b"\"notLoaded\"");
            return self.hold(thread, line, unloads);
        }
        match (note.meaning, params) {
            (Meaning::StatusChanged, Some(params)) => {
                let status = member_at(line, params, &["status", "type"]).map(|v| v.of(line));
                let active = status == Some(b"\"active\"");
                if active && self.hold_back(&thread, line) {
                    return;
                }
                if let Some(state) = self.threads.get_mut(&thread) {
                    state.active = active;
                    state.loaded = status != Some(b"\"notLoaded\"");
                    if !active && state.subscribers.is_empty() {
                        self.end_unheard(&thread);
                    }
                }
                self.deliver_to_all(line, |s| s.hears(bit));
            }
            (Meaning::ThreadClosed, _) => {
                self.deliver_to_all(line, |s| s.hears(bit));
                self.drop_subscriptions(&thread);
            }
            _ => self.deliver_to_all(line, |s| s.hears(bit)),
        }
    }

    /// Passes a message about a connection-scoped id to its owner, with the id as the owner knows it.
    fn deliver_to_owner(
        &mut self,
        line: &[u8],
        note: &'static Notification,
        bit: NotificationSet,
        param: &str,
        params: Option<usize>,
    ) {
        let found = params
            .and_then(|p| member(line, p, param.as_bytes()))
            .and_then(|value| string_inner(line, value))
            .and_then(|inner| Some((inner, namespace::owner(inner.of(line))?)));
        let Some((inner, (client, prefix))) = found else {
            self.counters.dropped_messages += 1;
            return;
        };
        let id = Span { start: inner.start + prefix, end: inner.end };
        let Some(session) = self.sessions.get_mut(&client) else {
            self.counters.dropped_messages += 1;
            return;
        };
        if note.meaning == Meaning::ProcessExited {
            let own = id.of(line);
            session.resources.retain(|r| r.resource != Resource::Process || *r.id != *own);
        }
        if session.hears(bit) {
            self.deliver_with(client, |out| {
                out.extend_from_slice(&line[..inner.start]);
                out.extend_from_slice(&line[id.start..]);
            });
        }
    }

    // ---- threads that nobody knows yet -------------------------------------------------------------

    /// Keeps a message back if a request in flight may say whose its thread is. Otherwise a thread
    /// that nobody knows is a sub-agent's, and every client initialized by now is its subscriber
    /// (measured).
    pub(super) fn hold_back(&mut self, thread: &ThreadId, line: &[u8]) -> bool {
        let resumed = self.resuming.contains_key(thread);
        let holds = match self.threads.get(thread) {
            Some(state) => resumed && state.subscribers.is_empty(),
            None => resumed || self.opening > 0,
        };
        if holds {
            self.hold(thread.clone(), line, false);
        } else if !self.threads.contains_key(thread) {
            self.adopt(thread);
        }
        holds
    }

    fn hold(&mut self, thread: ThreadId, line: &[u8], unloads: bool) {
        let deadline = self.delivery.now + self.config.limits.hold_ms;
        self.held.push_back(Held {
            thread,
            line: line.into(),
            unloads,
            joined_before: self.joined,
            requested_before: self.pending.next_id(),
            deadline,
        });
    }

    /// Makes every client that had initialized when a thread was first seen its subscriber.
    pub(super) fn adopt(&mut self, thread: &ThreadId) {
        let joined_before =
            self.held.iter().find(|h| h.thread == *thread).map_or(self.joined, |h| h.joined_before);
        let new = !self.threads.contains_key(thread);
        if new {
            let mut everyone: Vec<(u64, ClientId)> = self
                .sessions
                .iter()
                .filter(|(_, s)| s.is_active() && s.joined < joined_before)
                .map(|(client, s)| (s.joined, *client))
                .collect();
            everyone.sort_unstable();
            self.remember(thread);
            if let Some(state) = self.threads.get_mut(thread) {
                state.sub_agent = true;
                state.loaded = true;
            }
            for (_, client) in everyone {
                self.subscribe(client, thread);
            }
        }
        self.release_held(thread);
        if new {
            // Unless nobody is left of those.
            self.release_thread(thread);
        }
    }

    /// Before a resume tells whose an unknown thread is: one that had been heard of when the resume
    /// was asked for is a sub-agent's, held back only because of other requests in flight.
    fn adopt_if_older(&mut self, thread: &ThreadId, resume: UpstreamId) {
        let first = self.held.iter().find(|h| h.thread == *thread);
        if !self.threads.contains_key(thread) && first.is_some_and(|h| h.requested_before <= resume) {
            self.adopt(thread);
        }
    }

    /// Adds a thread, and forgets old ones that nothing depends on.
    fn remember(&mut self, thread: &ThreadId) {
        if self.threads.len() >= self.config.limits.remembered_threads {
            self.threads.retain(|_, t| !t.is_forgettable());
        }
        self.threads.entry(thread.clone()).or_default();
    }

    /// Handles again what was kept back for a thread that is known now.
    fn release_held(&mut self, thread: &ThreadId) {
        if self.held.is_empty() {
            return;
        }
        let (ready, rest): (Vec<Held>, Vec<Held>) =
            std::mem::take(&mut self.held).into_iter().partition(|h| h.thread == *thread);
        self.held = rest.into();
        for held in ready {
            self.route_known(&held.line);
        }
    }

    /// Handles what was held back for a thread that was loaded while nobody heard it: it is left over
    /// from an earlier subscription, and no business of the next subscriber. What comes after the
    /// thread was unloaded is part of loading it again, and stays for that one.
    fn release_leftovers(&mut self, thread: &ThreadId) {
        let of_thread = |h: &Held| h.thread == *thread;
        let unheard = self.threads.get(thread).filter(|t| t.subscribers.is_empty());
        let Some(loaded) = unheard.map(|t| t.loaded) else { return };
        let end = match self.held.iter().rposition(|h| of_thread(h) && h.unloads) {
            Some(last) => last + 1,
            None if loaded => self.held.len(),
            None => return,
        };
        let newer = self.held.split_off(end);
        let (leftover, mut others): (VecDeque<Held>, VecDeque<Held>) =
            std::mem::take(&mut self.held).into_iter().partition(of_thread);
        for held in leftover {
            self.route_known(&held.line);
        }
        others.extend(newer);
        self.held = others;
    }

    /// Handles a line of a thread that is known, though a resume of it may still be in flight.
    fn route_known(&mut self, line: &[u8]) {
        let resuming = std::mem::take(&mut self.resuming);
        self.route(line);
        self.resuming = resuming;
    }

    /// Once nothing in flight can explain them any more, the threads still unknown are sub-agents'.
    pub(super) fn adopt_unexplained(&mut self) {
        if self.opening > 0 || self.held.is_empty() {
            return;
        }
        while let Some(thread) =
            self.held.iter().map(|h| &h.thread).find(|t| !self.resuming.contains_key(*t)).cloned()
        {
            self.adopt(&thread);
        }
    }

    /// Ends what is open on a thread that nobody is subscribed to: the upstream sends neither the
    /// end of its turn nor the settling of its questions, only its status.
    fn end_unheard(&mut self, thread: &ThreadId) {
        if let Some(state) = self.threads.get_mut(thread) {
            state.turn = None;
        }
        self.asks.retain(|_, ask| ask.thread.as_ref() != Some(thread));
        self.forget_metered(thread);
    }

    fn drop_subscriptions(&mut self, thread: &ThreadId) {
        self.end_unheard(thread);
        let Some(state) = self.threads.get_mut(thread) else { return };
        state.loaded = false;
        state.active = false;
        state.replay = None;
        for client in std::mem::take(&mut state.subscribers) {
            if let Some(session) = self.sessions.get_mut(&client) {
                session.subscriptions.remove(thread);
            }
        }
    }

    // ---- responses ---------------------------------------------------------------------------------

    fn response(
        &mut self,
        line: &[u8],
        upstream_id: UpstreamId,
        mut pending: Pending,
        id_span: Span,
        failed: bool,
        body: Span,
    ) {
        if pending.counted {
            self.window.closed();
        }
        if is_refusal(line, failed, body) {
            match self.take_back(upstream_id, pending) {
                Ok(()) => return self.pump(),
                Err(given_back) => pending = given_back,
            }
            if let Kind::Unsubscribe { thread } = &pending.kind {
                self.kept.forget(pending.line.take());
                return self.take_over_goodbye(thread, &pending.origin);
            }
        } else if let Some(offset) = pending.offset {
            self.took(offset);
        }
        self.kept.forget(pending.line.take());
        self.note_opening(&pending.kind, -1);
        self.hydrating.retain(|(id, _)| *id != upstream_id);
        let client = match &pending.origin {
            Origin::Client { client, .. } => Some(*client),
            Origin::Orphan { .. } | Origin::Codexd => None,
        };
        let mut edits = Edits::new();
        let mut opened = None;
        match &pending.kind {
            Kind::Initialize => self.handshake_answered(line, failed, body),
            Kind::Probe => self.actions.push_back(Action::ProbeAnswered),
            Kind::Marker => self.window.mark(false, self.delivery.now),
            Kind::Catalog if failed => self.methods_named(line, body),
            Kind::Start if !failed => opened = self.opened(line, body, client, None),
            Kind::Fork { replays } | Kind::Resume { replays, .. } if !failed => {
                if let Kind::Resume { target: Some(thread), .. } = &pending.kind {
                    self.adopt_if_older(thread, upstream_id);
                }
                let replay = pending.origin.client().map(|to| Replay { to, usage: *replays });
                opened = self.opened(line, body, client, replay);
            }
            Kind::Resume { target: Some(thread), .. } => {
                // Nobody became a subscriber. What was kept for one reaches those it is for anyway,
                // unless another resume of the thread may still say more.
                self.remember(thread);
                if !self.resuming.contains_key(thread) {
                    self.release_held(thread);
                }
            }
            Kind::DropSubscriptions { thread } if !failed => self.drop_subscriptions(thread),
            Kind::StartTurn { thread } if !failed => self.turn_answered(line, body, thread, client),
            Kind::Resource { resource, id, part } => {
                if let (false, Some(owner)) = (failed, pending.origin.client()) {
                    self.resource_answered(owner, *resource, id, *part);
                }
                if let Some(client) = client {
                    restore_ids(&mut edits, line, body, client, *resource, id, failed);
                }
            }
            _ => {}
        }
        if let Origin::Client { client, id } = &pending.origin {
            if let Some(session) = self.sessions.get_mut(client) {
                session.in_flight = session.in_flight.saturating_sub(1);
            }
            self.deliver_with(*client, |out| {
                if edits.is_empty() {
                    out.reserve(line.len() + 24);
                    out.extend_from_slice(&line[..id_span.start]);
                    id.write(out);
                    out.extend_from_slice(&line[id_span.end..]);
                } else {
                    let mut text = Vec::new();
                    id.write(&mut text);
                    edits.replace_owned(id_span, text);
                    edits.write(line, out);
                }
            });
        }
        if let Kind::Resume { target: Some(thread), .. } = &pending.kind {
            self.run_deferred(thread);
        }
        if let Some(thread) = opened
            && client.is_none()
        {
            self.release_thread(&thread);
        }
        if let (true, Kind::Resume { target: Some(thread), .. }) = (failed, &pending.kind) {
            self.release_if_loaded(thread);
        }
        self.adopt_unexplained();
        self.pump();
    }

    /// A thread was started, forked or resumed, by `client` if it is still there: `replay` says what
    /// the upstream repeats now, and for whom.
    fn opened(
        &mut self,
        line: &[u8],
        body: Span,
        client: Option<ClientId>,
        replay: Option<Replay>,
    ) -> Option<ThreadId> {
        let thread = member(line, body.start, b"thread")?;
        let id = string_inner(line, member(line, thread.start, b"id")?)?;
        let id = ThreadId::new(id.of(line));
        self.remember(&id);
        self.release_leftovers(&id);
        if let Some(state) = self.threads.get_mut(&id) {
            state.loaded = true;
            let status = member_at(line, thread.start, &["status", "type"]).map(|v| v.of(line));
            if status == Some(b"\"active\"") {
                state.active = true;
                // Who resumes a running turn is told of it by the answer.
                let told = KnownTo::Requesters(client.into_iter().collect());
                if state.turn.as_ref().is_none_or(|turn| turn.known_to != KnownTo::Subscribers)
                    && let Some((turn, object)) = running_turn(thread.of(line))
                {
                    state.open_turn(turn.as_bytes(), object.as_bytes(), told);
                }
            }
            if replay.is_some() {
                state.replay = replay;
            }
        }
        if let Some(client) = client {
            self.subscribe(client, &id);
        }
        self.release_held(&id);
        Some(id)
    }

    fn turn_answered(&mut self, line: &[u8], body: Span, thread: &ThreadId, client: Option<ClientId>) {
        let Some(turn) = member(line, body.start, b"turn") else { return };
        let running =
            member(line, turn.start, b"status").is_some_and(|status| status.of(line) == b"\"inProgress\"");
        if let Some(id) = member(line, turn.start, b"id").and_then(|id| string_inner(line, id))
            && running
            && let Some(state) = self.threads.get_mut(thread)
        {
            let requester = KnownTo::Requesters(client.into_iter().collect());
            state.open_turn(id.of(line), turn.of(line), requester);
        }
    }

    /// A request that names a connection-scoped resource succeeded: what is open is known from
    /// that. `client` may have gone meanwhile; then what it opened ends.
    fn resource_answered(&mut self, client: ClientId, resource: Resource, id: &[u8], part: Part) {
        // A command of `command/exec` has ended when its answer comes.
        if resource == Resource::Exec {
            return;
        }
        let session = self.sessions.get_mut(&client).filter(|s| s.is_active());
        match (part, session) {
            (Part::Opens, Some(session)) => {
                session.resources.push(OpenResource { resource, id: id.into() });
            }
            (Part::Opens, None) => self.end_resource(client, resource, id),
            // A process has ended when `process/exited` says so.
            (Part::Closes, Some(session)) if resource != Resource::Process => {
                session.resources.retain(|r| r.resource != resource || *r.id != *id);
            }
            _ => {}
        }
    }
}

fn is_final_answer(line: &[u8], item: Span) -> bool {
    let is = |key: &[u8], value: &[u8]| member(line, item.start, key).is_some_and(|v| v.of(line) == value);
    is(b"type", b"\"agentMessage\"") && is(b"phase", b"\"final_answer\"")
}

/// Finds the running turn in a thread object: its id and the turn object.
fn running_turn(thread: &[u8]) -> Option<(String, String)> {
    #[derive(Deserialize)]
    struct Thread<'a> {
        #[serde(borrow, default)]
        turns: Vec<&'a serde_json::value::RawValue>,
    }
    #[derive(Deserialize)]
    struct Turn {
        id: String,
        status: String,
    }
    let thread: Thread<'_> = serde_json::from_slice(thread).ok()?;
    let last = thread.turns.last()?.get();
    let turn: Turn = serde_json::from_str(last).ok()?;
    (turn.status == "inProgress").then(|| (turn.id, last.to_owned()))
}

/// Puts the client's own id back where an answer mentions it.
fn restore_ids(
    edits: &mut Edits<'_>,
    line: &[u8],
    body: Span,
    client: ClientId,
    resource: Resource,
    id: &[u8],
    failed: bool,
) {
    let prefix = namespace::prefix(client);
    if failed {
        if let Some(message) = member(line, body.start, b"message")
            && let Some(text) = namespace::restore_mentions(message.of(line), &prefix, id)
        {
            edits.replace_owned(message, text);
        }
    } else if let Some(value) = member(line, body.start, resource.id_param().as_bytes())
        && let Some(inner) = string_inner(line, value)
        && inner.of(line).starts_with(&prefix)
    {
        edits.replace(Span { start: inner.start, end: inner.start + prefix.len() }, b"");
    }
}
