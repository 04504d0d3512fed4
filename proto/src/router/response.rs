//! Responses of the upstream.

use serde::Deserialize;

use super::pacing::{Completion, Origin, Part, PendingKind, is_overload};
use super::thread::{KnownTo, Replay};
use super::{Action, Router, resources};
use crate::id::{ClientId, ThreadId, UpstreamId};
use crate::json::edit::Edits;
use crate::json::scan::{member, member_at};
use crate::json::{Span, is_text, text};
use crate::routes::{Class, Resource};

impl Router {
    pub(super) fn response(
        &mut self,
        line: &[u8],
        id: Option<UpstreamId>,
        id_span: Span,
        failed: bool,
        body: Span,
    ) {
        let Some(upstream_id) = id else {
            self.counters.dropped_messages += 1;
            return;
        };
        let overloaded = is_overload(line, failed, body);
        let pending = match self.pacing.complete(self.delivery.now(), upstream_id, overloaded) {
            Completion::Unknown => {
                self.counters.dropped_messages += 1;
                return;
            }
            Completion::Retried => return self.pump(),
            Completion::Rejected(pending) => {
                if let PendingKind::Unsubscribe { thread } = &pending.kind {
                    return self.take_over_unsubscribe(thread, &pending.origin);
                }
                pending
            }
            Completion::Answered(pending) => pending,
        };
        if pending.origin.client().is_some() {
            let ms = self.delivery.now().since(pending.since);
            self.statistics.answered(pending.known.map_or(Class::Other, |known| known.class()), ms, failed);
        }
        self.attribution.done(upstream_id, &pending.kind);
        if pending.kind != PendingKind::Initialize {
            self.handshake.has_started();
        }
        if matches!(pending.kind, PendingKind::Plain) {
            // The usual case: it changes nothing that codexd keeps track of.
            self.reply_unedited(&pending.origin, line, id_span);
            self.adopt_unexplained();
            return self.pump();
        }
        let client = pending.origin.connected();
        let mut edits = Edits::new();
        let mut opened = None;
        let mut repeated = Vec::new();
        match &pending.kind {
            PendingKind::Initialize => self.handshake_answered(line, failed, body),
            PendingKind::Ping => self.actions.push_back(Action::PingAnswered),
            PendingKind::Interrupt { thread, refused, overtakes } if failed => {
                let message = member_text(line, body, b"message").unwrap_or_default().into_string();
                self.interrupt_refused(thread, refused + 1, *overtakes, message);
            }
            PendingKind::ListMethods if failed => self.methods_listed(line, body),
            PendingKind::Start if !failed => opened = self.opened(line, body, client, None),
            PendingKind::KeepThread => self.never_ran.answered(),
            PendingKind::Restore { thread, actual } => {
                self.restore_answered(thread, actual, line, failed, body)
            }
            PendingKind::Fork { replays } | PendingKind::Resume { replays, .. } if !failed => {
                if let PendingKind::Resume { target: Some(thread), .. } = &pending.kind {
                    self.adopt_if_older(thread, upstream_id);
                }
                let replay = pending.origin.client().map(|to| Replay { to, usage: *replays });
                if let (PendingKind::Resume { .. }, Some(client)) = (&pending.kind, client) {
                    repeated = self.open_items_for(client, line, body);
                }
                opened = self.opened(line, body, client, replay);
                if let (PendingKind::Resume { .. }, Some(thread)) = (&pending.kind, &opened)
                    && let Some(state) = self.subscriptions.get_mut(thread)
                {
                    state.goals_due += 1;
                }
            }
            PendingKind::Resume { target: Some(thread), .. } => {
                // It subscribed no client. Deferred messages are handled now, unless another resume of the thread is in
                // flight.
                self.subscriptions.remember(thread, self.config.limits.remembered_threads);
                if !self.attribution.is_resuming(thread) {
                    self.release_deferred(thread);
                }
            }
            PendingKind::Subscribe { thread, .. } => {
                opened = self.subscribed_aside(line, failed, body, client, thread);
            }
            PendingKind::DropSubscriptions { thread } if !failed => self.unload(thread),
            PendingKind::Unsubscribe { thread } => self.upstream_unsubscribed(thread),
            PendingKind::StartTurn { thread, review, .. } if !failed => {
                self.turn_answered(line, body, thread, client, *review);
            }
            PendingKind::Resource { resource, id, part } => {
                if let (false, Some(owner)) = (failed, pending.origin.client()) {
                    self.resource_answered(owner, *resource, id, *part);
                }
                if let Some(client) = client {
                    resources::restore_ids(&mut edits, line, body, client, *resource, id, failed);
                }
            }
            _ => {}
        }
        for warning in self.attribution.take_warnings(&pending.kind) {
            if let Some(client) = client {
                self.delivery.notify(client, self.topic(b"configWarning"), &warning);
            }
        }
        if edits.is_empty() {
            self.reply_unedited(&pending.origin, line, id_span);
        } else if let Origin::Client { client, id } = &pending.origin {
            self.delivery.reply_with(*client, |out| {
                let mut text = Vec::new();
                id.write(&mut text);
                edits.replace_owned(id_span, text);
                edits.write(line, out);
            });
        }
        if let Some(client) = client {
            self.repeat(client, repeated);
        }
        match &pending.kind {
            PendingKind::Resume { unnamed: Some(unnamed), gives, .. } => {
                self.unnamed_resumed(unnamed, *gives, opened.as_ref(), line, body);
            }
            PendingKind::Resume { target: Some(thread), gives: true, .. } => {
                self.resumed_as_given(thread, line, failed, body);
            }
            PendingKind::Resume { target: Some(thread), .. } => self.resumed(thread, line, failed, body),
            PendingKind::GivePermissions { thread } | PendingKind::StartTurn { thread, gives: true, .. } => {
                self.permissions_given(thread, failed);
            }
            PendingKind::Fork { .. } | PendingKind::Start if !failed => {
                if let Some(thread) = &opened {
                    let ephemeral = self.remember(thread, line, body);
                    if pending.kind == PendingKind::Start && !ephemeral {
                        self.may_never_run(thread);
                    }
                }
            }
            _ => {}
        }
        if let Some(thread) = pending.kind.subscribes_to() {
            self.run_deferred_unsubscribes(thread);
        }
        match (opened, pending.kind.subscribes_to()) {
            (Some(thread), _) if client.is_none() => self.release_thread(&thread),
            (None, Some(thread)) if failed => self.release_if_loaded(thread),
            // The file of a resume by `path` was another thread's than its name says.
            (Some(other), Some(thread)) if other != *thread => self.release_if_loaded(thread),
            _ => {}
        }
        self.adopt_unexplained();
        self.pump();
    }

    /// Sends a response to the client that is connected and gets it, with the client's own id.
    fn reply_unedited(&mut self, origin: &Origin, line: &[u8], id_span: Span) {
        let Origin::Client { client, id } = origin else { return };
        if self.delivery.is_shared(line) {
            // It contains the client's id already.
            return self.delivery.reply(*client, line);
        }
        self.delivery.reply_with(*client, |out| {
            out.reserve(line.len() + 24);
            out.extend_from_slice(&line[..id_span.start]);
            id.write(out);
            out.extend_from_slice(&line[id_span.end..]);
        });
    }

    /// Handles that a thread was started, forked or resumed by `client`, if that is still connected. `replay` is
    /// what the upstream repeats now, and for which client.
    fn opened(
        &mut self,
        line: &[u8],
        body: Span,
        client: Option<ClientId>,
        replay: Option<Replay>,
    ) -> Option<ThreadId> {
        let thread = member(line, body.start, b"thread")?;
        let id = ThreadId::new(&text(line, member(line, thread.start, b"id")?)?);
        self.subscriptions.remember(&id, self.config.limits.remembered_threads);
        self.release_leftovers(&id);
        let mut running = None;
        if let Some(state) = self.subscriptions.get_mut(&id) {
            state.loaded = true;
            state.is_sent = true;
            state.cwd = member_text(line, body, b"cwd").or(state.cwd.take());
            state.model = member_text(line, body, b"model").or(state.model.take());
            let status = member_at(line, thread.start, &["status", "type"]);
            if status.is_some_and(|status| is_text(line, status, b"active")) {
                state.active = true;
                // The response shows the requester the running turn.
                let notified = KnownTo::Requesters(client.into_iter().collect());
                if state.turn.as_ref().is_none_or(|turn| turn.known_to != KnownTo::Subscribers)
                    && let Some((turn, object)) = running_turn(thread.of(line))
                {
                    state.open_turn(turn.as_bytes(), object.as_bytes(), notified);
                    running = Some(turn);
                }
            }
            if replay.is_some() {
                state.replay = replay;
            }
        }
        if let Some(turn) = running {
            self.turn_runs(&id, turn.as_bytes(), None);
        }
        if let Some(client) = client {
            self.subscriptions.subscribe(client, &id);
        }
        self.release_deferred(&id);
        Some(id)
    }

    /// Handles the response to a request that also subscribes its client. A failed one has subscribed it too, if
    /// the upstream could parse the request and the thread is loaded (measured). Returns the thread in this case.
    fn subscribed_aside(
        &mut self,
        line: &[u8],
        failed: bool,
        body: Span,
        client: Option<ClientId>,
        thread: &ThreadId,
    ) -> Option<ThreadId> {
        let understood = || {
            let message = member(line, body.start, b"message");
            message.is_none_or(|text| !text.of(line).starts_with(b"\"Invalid request: "))
        };
        if failed && !(self.subscriptions.is_loaded(thread) && understood()) {
            return None;
        }
        let state = self.subscriptions.remember(thread, self.config.limits.remembered_threads);
        state.loaded = true;
        state.is_sent = true;
        self.release_leftovers(thread);
        if let Some(client) = client {
            self.subscriptions.subscribe(client, thread);
        }
        self.release_deferred(thread);
        Some(thread.clone())
    }

    fn turn_answered(
        &mut self,
        line: &[u8],
        body: Span,
        thread: &ThreadId,
        client: Option<ClientId>,
        review: bool,
    ) {
        let Some(turn) = member(line, body.start, b"turn") else { return };
        let status = member(line, turn.start, b"status");
        let running = status.is_some_and(|status| is_text(line, status, b"inProgress"));
        if let Some(id) = member(line, turn.start, b"id").and_then(|id| text(line, id))
            && running
            && let Some(state) = self.subscriptions.get_mut(thread)
        {
            let requester = KnownTo::Requesters(client.into_iter().collect());
            let ended_or_open = state.last_turn.as_deref() == Some(&*id)
                || state.turn.as_ref().is_some_and(|turn| turn.is_called(&id));
            state.open_turn(&id, turn.of(line), requester);
            if let Some(open) = state.turn.as_mut().filter(|_| review && !ended_or_open) {
                open.begins_as_another = true;
            }
            self.turn_runs(thread, &id, client);
        }
    }

    /// Handles the success of a request that names a connection-scoped resource: it is open or closed now. If
    /// `client` has disconnected, what it opened is ended.
    fn resource_answered(&mut self, client: ClientId, resource: Resource, id: &[u8], part: Part) {
        // A command of `command/exec` has ended when the response comes.
        if resource == Resource::Exec {
            return;
        }
        match (part, self.sessions.is_active(client)) {
            (Part::Opens, true) => self.resources.opened(client, resource, id),
            (Part::Opens, false) => self.end_resource(client, resource, id),
            // A process ends with `process/exited`.
            (Part::Closes, true) if resource != Resource::Process => {
                self.resources.closed(client, resource, id);
            }
            _ => {}
        }
    }
}

/// Returns the text of a member of an object.
fn member_text(line: &[u8], object: Span, name: &[u8]) -> Option<Box<str>> {
    serde_json::from_slice(member(line, object.start, name)?.of(line)).ok()
}

/// Finds the running turn in a thread object. Returns its id and the turn object.
pub(crate) fn running_turn(thread: &[u8]) -> Option<(String, String)> {
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
