//! Notifications of the upstream.

use std::borrow::Cow;

use bytes::Bytes;

use super::activity::Activity;
use super::delivery::Topic;
use super::handshake::config_warning;
use super::pacing::Origin;
use super::phase::Phase;
use super::resources::{self, Owned};
use super::thread::KnownTo;
use super::{Action, Router};
use crate::capture::{KnownBy, Outcome};
use crate::id::{ClientId, ServerRequestId, ThreadId, UpstreamId, parse_i64};
use crate::json::scan::{member, member_at, skip_space, uuid_string};
use crate::json::text_check::TextCheck;
use crate::json::{Span, is_text, text};
use crate::message::UpstreamMessage;
use crate::routes::{Audience, Meaning, Notification, Resource};
use crate::time::Time;

impl Router {
    /// Handles one line from the upstream, without its line feed.
    pub fn upstream_line(&mut self, now: Time, line: &[u8]) {
        if !self.takes_upstream_line(now) {
            return;
        }
        if self.next_delta(line) {
            if self.delivery.has_overflowed() {
                self.close_overflowed();
            }
            return;
        }
        // Invalid UTF-8 would end the connection of every client that speaks WebSocket (RFC 6455, section 8.1). The
        // first check is faster for short lines, and nearly always sufficient.
        if line.is_ascii() || simdutf8::basic::from_utf8(line).is_ok() {
            self.route(line);
        } else {
            self.actions.push_back(Action::UpstreamMalformed);
        }
        if self.delivery.has_overflowed() {
            self.close_overflowed();
        }
    }

    /// Handles one long line from the upstream whose text was checked to its end. It is not copied for its recipients,
    /// unless a connection-scoped id in it has to be replaced.
    pub fn upstream_line_read(&mut self, now: Time, mut line: Vec<u8>, text: &TextCheck) {
        if !self.takes_upstream_line(now) {
            return;
        }
        if !text.is_valid() {
            return self.actions.push_back(Action::UpstreamMalformed);
        }
        let mut response = None;
        if let Some(UpstreamMessage::Response { id, mut id_span, failed, mut body }) =
            UpstreamMessage::read(&line)
        {
            let id = id.map(UpstreamId);
            if let Some(own) = id.and_then(|id| self.pacing.own_id(id)) {
                let moved = |at: usize| {
                    if at < id_span.end { at } else { at - (id_span.end - id_span.start) + own.len() }
                };
                let end = id_span.start + own.len();
                body = Span { start: moved(body.start), end: moved(body.end) };
                line.splice(id_span.start..id_span.end, own);
                id_span.end = end;
            }
            response = Some((id, id_span, failed, body));
        }
        line.push(b'\n');
        let shared = Bytes::from(line);
        let line = &shared[..shared.len() - 1];
        self.delivery.share(Some(shared.clone()));
        match response {
            Some((id, id_span, failed, body)) => self.response(line, id, id_span, failed, body),
            None => self.route(line),
        }
        self.delivery.share(None);
        self.close_overflowed();
    }

    /// Returns whether a line from the upstream is to be handled.
    fn takes_upstream_line(&mut self, now: Time) -> bool {
        self.delivery.at(now);
        if self.is_lost() {
            return false;
        }
        self.last_upstream = Some(now);
        self.counters.upstream_messages += 1;
        true
    }

    /// Passes a line from the upstream to the method for its kind.
    pub(super) fn route(&mut self, line: &[u8]) {
        match UpstreamMessage::read(line) {
            Some(UpstreamMessage::Notification { method, params }) => {
                self.notification(line, &method, params);
            }
            Some(UpstreamMessage::Response { id, id_span, failed, body }) => {
                self.response(line, id.map(UpstreamId), id_span, failed, body);
            }
            Some(UpstreamMessage::Request { method, id, params }) => {
                self.server_request(line, &method, id, params);
            }
            None if skip_space(line, 0) == line.len() => {}
            None => self.actions.push_back(Action::UpstreamMalformed),
        }
    }

    /// Returns whether a line is a notification that all clients get.
    pub(super) fn is_broadcast(&self, line: &[u8]) -> bool {
        let Some(UpstreamMessage::Notification { method, .. }) = UpstreamMessage::read(line) else {
            return false;
        };
        let known = self.routes.notification(&method);
        known.is_some_and(|(note, _)| matches!(note.audience, Audience::Broadcast(_)))
    }

    fn notification(&mut self, line: &[u8], method: &[u8], params: Option<usize>) {
        let Some((note, bit)) = self.routes.notification(method) else {
            return self.unknown_notification(line, method, params);
        };
        let topic = Topic::Known(bit);
        match note.audience {
            Audience::Thread => match thread_id(line, params) {
                Some(thread) => self.thread_notification(line, note, topic, &thread, params),
                None => self.delivery.notify_all(topic, line),
            },
            Audience::Broadcast(path) => {
                let thread = params
                    .filter(|_| !path.is_empty())
                    .and_then(|p| member_at(line, p, path))
                    .and_then(|value| text(line, value));
                self.broadcast(line, note, topic, thread.as_deref(), params);
            }
            Audience::MeteredThread => match self.attribution.take_metered() {
                Some(thread) => {
                    let subscribers = self.subscriptions.of_thread(thread.as_bytes());
                    self.delivery.notify_each(subscribers, topic, line);
                }
                None => self.delivery.notify_each(&self.subscriptions.of_busy_threads(), topic, line),
            },
            Audience::Owner(param) => self.owned_notification(line, note, topic, param, params),
            Audience::Requester => {
                let requester = match method {
                    b"windowsSandbox/setupCompleted" => self.attribution.take_windows_setup(),
                    _ => self.attribution.turns_reader(),
                };
                match requester {
                    Some(client) => self.delivery.notify(client, topic, line),
                    None => self.delivery.notify_all(topic, line),
                }
            }
            Audience::Sticky => {
                self.handshake.keep(method, line);
                self.delivery.notify_all(topic, line);
            }
            Audience::StickyAtStart => {
                let warning = config_warning(method, line).map(|text| Activity::ConfigWarning { text });
                self.activities.extend(warning);
                if self.handshake.keep_at_start(method, line) || !self.attribution.keep_warning(line) {
                    self.delivery.notify_all(topic, line);
                }
            }
        }
    }

    /// Applies the default rule for methods that the routing table does not know.
    fn unknown_notification(&mut self, line: &[u8], method: &[u8], params: Option<usize>) {
        let topic = Topic::Unknown(method);
        match param_text(line, params, b"threadId") {
            Some(thread) => {
                let thread = ThreadId::new(&thread);
                if !self.defer_if_unknown(&thread, line) {
                    let subscribers = self.subscriptions.of_thread(thread.as_bytes());
                    self.delivery.notify_each(subscribers, topic, line);
                }
            }
            None => self.delivery.notify_all(topic, line),
        }
    }

    // ---- notifications of a thread -------------------------------------------------------------

    #[inline]
    fn thread_notification(
        &mut self,
        line: &[u8],
        note: &'static Notification,
        topic: Topic<'_>,
        thread: &[u8],
        params: Option<usize>,
    ) {
        // A delta with subscribers, the usual case, needs nothing else.
        if let Some((state, room)) = self.subscriptions.touch(thread, self.delivery.now())
            && note.meaning.is_plain()
            && !state.subscribers.is_empty()
        {
            state.open_items.heard(room, note, line, params);
            if note.meaning == Meaning::ItemText
                && let Some(params) = params
            {
                self.last_delta.set(line, thread, params + THREAD_ID_FIRST.len() + 1, topic);
            }
            return self.delivery.notify_each(&state.subscribers, topic, line);
        }
        let id = ThreadId::new(thread);
        if self.defer_if_unknown(&id, line) {
            return;
        }
        if let Some(params) = params
            && let Some(only) = self.record(line, note, &id, params)
        {
            return self.delivery.notify_each(&only, topic, line);
        }
        if note.meaning == Meaning::TokenUsage {
            self.attribution.usage_reported(id);
        }
        let state = self.subscriptions.get(thread);
        let subscribers = state.map_or(&[][..], |state| &state.subscribers);
        // A thread that is kept has no subscriber on purpose.
        if subscribers.is_empty() && !state.is_some_and(|state| state.kept) {
            self.counters.dropped_messages += 1;
        }
        self.delivery.notify_each(subscribers, topic, line);
    }

    /// Records what a thread's notification reports. Returns its recipients, if these are not all subscribers.
    fn record(
        &mut self,
        line: &[u8],
        note: &'static Notification,
        thread: &ThreadId,
        params: usize,
    ) -> Option<Vec<ClientId>> {
        let (state, room) = self.subscriptions.with_room(thread)?;
        match note.meaning {
            Meaning::TurnStarted => {
                let turn = member(line, params, b"turn")?;
                let id = text(line, member(line, turn.start, b"id")?)?;
                state.replay = None;
                state.open_turn(&id, turn.of(line), KnownTo::Subscribers);
                self.turn_runs(thread, &id, None);
            }
            Meaning::TurnCompleted => {
                let turn = member(line, params, b"turn")?;
                let id = text(line, member(line, turn.start, b"id")?)?;
                state.open_items.turn_ended(room);
                if let Some(ended) = state.close_turn(&id) {
                    let status = member(line, turn.start, b"status").and_then(|status| text(line, status));
                    let end = (Outcome::of_status(&status.unwrap_or_default()), KnownBy::TerminalEvent);
                    // After an interrupt, the queue waits for somebody to start it.
                    if state.queue_used && end.0 != Outcome::Interrupted {
                        self.next_turn.expect(self.delivery.now(), thread);
                    }
                    self.turn_ended(thread, &ended, end);
                }
                self.server_requests.forget_unreported(thread);
                self.attribution.forget_metered(thread);
                self.release_kept(thread);
            }
            Meaning::ItemStarted => {
                let item = member(line, params, b"item")?;
                state.open_items.started(room, line, params, item);
                let kind = member(line, item.start, b"type").and_then(|kind| text(line, kind));
                state.phase = Phase::of_item(kind.as_deref().unwrap_or_default());
                if let Some(turn) = &mut state.turn {
                    turn.progress.item_started(line, item);
                }
                let turn = state.running_turn(line, params)?.id.clone();
                self.turn_enters(thread, &turn, &kind?);
            }
            Meaning::ItemCompleted => {
                let item = member(line, params, b"item")?;
                if let Some(id) = member(line, item.start, b"id").and_then(|id| text(line, id)) {
                    state.open_items.completed(room, &id);
                }
                if let Some(turn) = &mut state.turn {
                    turn.progress.item_completed(line, item);
                }
                return self.refused_command(line, thread, item);
            }
            Meaning::QueueChanged => state.queue_used = true,
            Meaning::SettingsUpdated => self.settings_updated(thread, line, params),
            Meaning::Error => {
                let turn_id = text(line, member(line, params, b"turnId")?)?;
                let turn = state.turn.as_mut().filter(|turn| turn.is_called(&turn_id))?;
                turn.progress.error_reported();
                let error = member(line, params, b"error").filter(|error| line[error.start] == b'{')?;
                let is_last = member(line, params, b"willRetry").is_some_and(|v| v.of(line) == b"false");
                if is_last {
                    turn.error = Some(error.of(line).into());
                }
            }
            Meaning::TokenUsage => {
                if let Some(replay) = state.replay.as_mut().filter(|replay| replay.usage) {
                    replay.usage = false;
                    return Some(vec![replay.to]);
                }
                let turn = state.running_turn(line, params)?;
                turn.meter.update(line, params);
                let (turn, tokens) = (turn.id.clone(), turn.meter.tokens());
                self.turn_used(thread, &turn, tokens);
            }
            Meaning::ServerRequestResolved => {
                let id = member(line, params, b"requestId").and_then(|v| parse_i64(v.of(line)))?;
                self.note_request_ended(ServerRequestId(id), None);
                self.server_requests.resolved(ServerRequestId(id));
            }
            Meaning::ItemText | Meaning::ItemSection => {
                state.open_items.heard(room, note, line, Some(params));
            }
            Meaning::None
            | Meaning::StatusChanged
            | Meaning::ThreadClosed
            | Meaning::GoalReported
            | Meaning::ProcessExited => {}
        }
        None
    }

    /// Returns the recipients of a completed item that is a command which was not allowed to run. The upstream
    /// sends that to the clients that were subscribed when the approval was requested, and not to later subscribers
    /// (measured).
    fn refused_command(&mut self, line: &[u8], thread: &ThreadId, item: Span) -> Option<Vec<ClientId>> {
        let id = text(line, member(line, item.start, b"id")?)?;
        let asked = self.server_requests.item_completed(thread, &id)?;
        never_ran(line, item).then_some(asked)
    }

    // ---- notifications for everyone ------------------------------------------------------------

    fn broadcast(
        &mut self,
        line: &[u8],
        note: &'static Notification,
        topic: Topic<'_>,
        thread: Option<&[u8]>,
        params: Option<usize>,
    ) {
        let Some(thread) = thread.map(ThreadId::new) else {
            return self.delivery.notify_all(topic, line);
        };
        let status = || params.and_then(|p| member_at(line, p, &["status", "type"]));
        let has_status = |text| status().is_some_and(|status| is_text(line, status, text));
        if self.attribution.defers_broadcast(&thread) {
            // It follows the thread's other messages.
            let unloads = note.meaning == Meaning::ThreadClosed || has_status(b"notLoaded");
            return self.defer(thread, line, unloads);
        }
        match note.meaning {
            Meaning::StatusChanged if params.is_some() => {
                let active = has_status(b"active");
                if active && self.defer_if_unknown(&thread, line) {
                    return;
                }
                let unloaded = has_status(b"notLoaded");
                let reloads = self.pacing.reloads(&thread).map(Origin::connected);
                if unloaded && reloads.is_none() {
                    self.delivery.notify_all(topic, line);
                    return self.unload(&thread);
                }
                if !active && let Some(Some(client)) = reloads {
                    // The upstream subscribes the client before it ends the running turn, unloads the thread and
                    // loads it.
                    self.subscriptions.subscribe(client, &thread);
                }
                if unloaded {
                    self.subscriptions.forget_open_items(&thread);
                }
                if let Some(state) = self.subscriptions.get_mut(&thread) {
                    let was_active = std::mem::replace(&mut state.active, active);
                    state.loaded = !unloaded;
                    // The end of a turn that is kept follows.
                    let ends_unseen = !(state.kept && state.turn.is_some());
                    state.end_follows = !active && !ends_unseen;
                    if !active && state.subscribers.is_empty() && ends_unseen {
                        state.turn = None;
                        if state.running.is_empty() {
                            // A turn that began when no client was subscribed any more.
                            self.counters.turns_completed += u64::from(was_active);
                        }
                        self.all_turns_ended(&thread);
                        self.forget_unsubscribed(&thread);
                        self.release_kept(&thread);
                    }
                }
                self.delivery.notify_all(topic, line);
            }
            Meaning::ThreadClosed => {
                if note.method == "thread/deleted" {
                    self.forget_permissions(&thread);
                }
                self.delivery.notify_all(topic, line);
                self.unload(&thread);
            }
            Meaning::GoalReported => {
                if let Some(state) = self.subscriptions.get_mut(&thread) {
                    state.goal_reported();
                }
                self.delivery.notify_all(topic, line);
            }
            _ => self.delivery.notify_all(topic, line),
        }
    }

    /// Removes what is open on a thread without subscribers. The upstream reports only its status then, neither the
    /// end of its turn nor the resolution of its server requests.
    pub(super) fn forget_unsubscribed(&mut self, thread: &ThreadId) {
        self.server_requests.forget_thread(thread);
        self.attribution.forget_metered(thread);
    }

    /// Ends all subscriptions to a thread that the upstream has unloaded.
    pub(super) fn unload(&mut self, thread: &ThreadId) {
        self.forget_unsubscribed(thread);
        self.all_turns_ended(thread);
        self.subscriptions.unload(thread);
    }

    // ---- notifications for the owner of an id --------------------------------------------------

    /// Passes a notification about a connection-scoped id to the client that owns it, with that client's own id.
    fn owned_notification(
        &mut self,
        line: &[u8],
        note: &'static Notification,
        topic: Topic<'_>,
        param: &str,
        params: Option<usize>,
    ) {
        let found = params
            .and_then(|params| member(line, params, param.as_bytes()))
            .and_then(|value| resources::owned(line, value))
            .filter(|owned| self.sessions.get(owned.client).is_some());
        let Some(Owned { client, id, span, own }) = found else {
            self.counters.dropped_messages += 1;
            return;
        };
        if note.meaning == Meaning::ProcessExited {
            self.resources.closed(client, Resource::Process, &id);
        }
        self.delivery.notify_with(client, topic, |out| {
            out.extend_from_slice(&line[..span.start]);
            out.extend_from_slice(&own);
            out.extend_from_slice(&line[span.end..]);
        });
    }
}

/// How parameters begin of which `threadId` is the first one.
const THREAD_ID_FIRST: &[u8] = br#"{"threadId":"#;

/// Returns the text of `threadId`. That it comes first and is a UUID, the usual case, is recognised without a search.
#[inline]
fn thread_id(line: &[u8], params: Option<usize>) -> Option<Cow<'_, [u8]>> {
    let usual = || {
        let params = params?;
        let first = line.get(params..)?.starts_with(THREAD_ID_FIRST);
        first.then(|| uuid_string(line, params + THREAD_ID_FIRST.len()))?
    };
    if let Some(id) = usual() {
        return Some(Cow::Borrowed(id));
    }
    param_text(line, params, b"threadId")
}

/// Returns the text of a parameter.
#[inline]
fn param_text<'a>(line: &'a [u8], params: Option<usize>, name: &[u8]) -> Option<Cow<'a, [u8]>> {
    text(line, member(line, params?, name)?)
}

/// Returns whether an item is a command without a process.
fn never_ran(line: &[u8], item: Span) -> bool {
    let value = |name: &[u8]| member(line, item.start, name);
    value(b"type").is_some_and(|kind| is_text(line, kind, b"commandExecution"))
        && [&b"processId"[..], b"exitCode"]
            .iter()
            .all(|name| value(name).is_some_and(|v| v.of(line) == b"null"))
}
