//! What clients send.

use super::answer::{Delivered, ErrorAnswer, INVALID_REQUEST, OVERLOADED, PARSE_ERROR, UPSTREAM_LOST};
use super::pending::{Kind, Origin, Part, Pending};
use super::queue::Queued;
use super::session::{OpenResource, Session, SessionState};
use super::thread::Thread;
use super::window::Waiter;
use super::{Action, ClientShutdown, CloseReason, Phase, Router, gate, namespace};
use crate::id::{ClientId, RequestId, ThreadId, UpstreamId, write_i64, write_u64};
use crate::json::Span;
use crate::json::edit::{Edits, read_string, write_string};
use crate::json::scan::{Members, member, skip_space, string_inner};
use crate::message::{ClientMessage, Rejection};
use crate::routes::{Effect, Request, Resource, Route};
use crate::time::Time;

/// An unsubscribe that waits for the answer to a resume of the same client.
#[derive(Debug)]
pub(super) struct DeferredUnsubscribe {
    pub(super) client: ClientId,
    pub(super) id: RequestId,
    id_span: Span,
    thread: ThreadId,
    line: Box<[u8]>,
    /// It waits for resumes with a smaller id; those that came after it do not concern it.
    before: UpstreamId,
}

/// A request from a client while it is on its way through the router.
struct Incoming<'a> {
    client: ClientId,
    id: RequestId,
    id_span: Span,
    line: &'a [u8],
    params: Option<Span>,
}

impl Router {
    /// Handles one message from a client, without the line feed behind it.
    pub fn client_line(&mut self, now: Time, client: ClientId, line: &[u8]) {
        self.delivery.now = now;
        let Some(session) = self.sessions.get_mut(&client) else { return };
        if session.state == SessionState::Closing {
            return;
        }
        if self.phase == Phase::Starting {
            let kept: usize = session.early.iter().map(|l| l.len()).sum();
            if !session.early.is_empty() && kept + line.len() > self.config.limits.early_bytes {
                return self.close(client, CloseReason::TooEarly);
            }
            session.early.push(line.into());
            return;
        }
        self.counters.client_messages += 1;
        let message = ClientMessage::read(line);
        // A line feed is white space to JSON and the end of a message to the upstream. It can be in a
        // message that did not come as a line; in what was read, it stands outside of strings.
        let flat: Vec<u8>;
        let line = if message.is_ok() && memchr::memchr(b'\n', line).is_some() {
            flat = line.iter().map(|b| if *b == b'\n' { b' ' } else { *b }).collect();
            &flat
        } else {
            line
        };
        match message {
            Ok(None) => {}
            Ok(Some(ClientMessage::Request { id, id_span, method, params })) => {
                self.request(Incoming { client, id, id_span, line, params }, method.of(line));
            }
            Ok(Some(ClientMessage::Notification { method })) => {
                self.client_notification(client, method.of(line), line);
            }
            Ok(Some(ClientMessage::Answer { id })) => {
                if let Some(id) = id {
                    self.answer(client, id, line);
                }
            }
            Err(rejection) => self.reject(client, &rejection),
        }
        self.close_overflowed();
    }

    /// Answers a line that was longer than the shell's limit and was not kept.
    pub fn client_line_too_long(&mut self, now: Time, client: ClientId, limit_bytes: usize) {
        self.delivery.now = now;
        self.counters.client_messages += 1;
        let message = format!("the message is longer than {limit_bytes} bytes and was not read");
        self.refuse(
            client,
            None,
            &ErrorAnswer {
                code: INVALID_REQUEST,
                message: &message,
                reason: "messageTooLong",
                delivered: Delivered::No,
                retryable: false,
            },
        );
        self.close_overflowed();
    }

    fn reject(&mut self, client: ClientId, rejection: &Rejection) {
        let (code, message, reason, id) = match rejection {
            Rejection::NotJson(fault) => {
                (PARSE_ERROR, format!("not JSON: {} at byte {}", fault.what, fault.at), "parseError", None)
            }
            Rejection::NotAMessage { what, id } => {
                (INVALID_REQUEST, format!("not a request: {what}"), "invalidRequest", id.as_ref())
            }
            Rejection::BadAnswer => return self.counters.rejected_messages += 1,
        };
        let answer =
            ErrorAnswer { code, message: &message, reason, delivered: Delivered::No, retryable: false };
        self.refuse(client, id, &answer);
    }

    /// `initialized` has no effect upstream and was sent by codexd itself; what is not known passes.
    fn client_notification(&mut self, client: ClientId, method: &[u8], line: &[u8]) {
        let active = self.sessions.get(&client).is_some_and(|s| s.is_active());
        if !active || method == b"initialized" || matches!(self.phase, Phase::Lost(_)) {
            return;
        }
        let Some(session) = self.sessions.get_mut(&client) else { return };
        if session.queue.is_empty() && self.window.has_room() {
            let offset = self.upstream.queued_total();
            self.upstream.push(line);
            self.window.notified(offset, self.delivery.now);
            self.note_newest(client, None);
        } else {
            // There is no way to refuse it: see `is_held_up`.
            if session.queue.is_empty() {
                self.window.wait(Waiter::Client(client));
            }
            session.queue.push(Queued { id: None, line: line.to_vec(), long: false });
        }
    }

    fn request(&mut self, incoming: Incoming<'_>, method: &[u8]) {
        match method {
            b"broker/shutdown" => return self.shutdown(&incoming),
            b"broker/status" => return self.broker_status(&incoming),
            _ => {}
        }
        if let Phase::Lost(loss) = &self.phase {
            let loss = loss.clone();
            return self.refuse(
                incoming.client,
                Some(&incoming.id),
                &loss.error(UPSTREAM_LOST, Delivered::No),
            );
        }
        if method == b"initialize" {
            let Incoming { client, id, line, params, .. } = incoming;
            return self.initialize_client(client, &id, line, params);
        }
        let Some(session) = self.sessions.get(&incoming.client) else { return };
        if !session.is_active() {
            return self.refuse_native(incoming.client, &incoming.id, "Not initialized");
        }
        let known = self.routes.request(method);
        if let Some(known) = known
            && known.is_read()
            && incoming.params.is_some_and(|p| incoming.line[p.start] == b'[')
        {
            // By position, the upstream would take them; but nobody does that, and what codexd would have to
            // rewrite or take note of would slip through.
            let message = "Invalid request: invalid type: sequence, expected a map";
            return self.refuse_native(incoming.client, &incoming.id, message);
        }
        if let Some(known) = known
            && !session.experimental
            && let Some(what) = gate::gated(known, incoming.line, incoming.params)
        {
            let message = format!("{what} requires experimentalApi capability");
            return self.refuse_native(incoming.client, &incoming.id, &message);
        }
        if self.phase == Phase::Draining && self.is_new_work(known, &incoming) {
            return self.refuse(
                incoming.client,
                Some(&incoming.id),
                &ErrorAnswer {
                    code: OVERLOADED,
                    message: "codexd is stopping and takes no new work; connect again later",
                    reason: "draining",
                    delivered: Delivered::No,
                    retryable: true,
                },
            );
        }
        match known.map_or(Route::Forward, |r| r.route) {
            Route::Forward | Route::Local => self.forward(incoming, known),
            Route::Unsubscribe => self.unsubscribe(incoming, known),
            Route::Namespace { resource, id, opens } => self.namespaced(incoming, known, resource, id, opens),
            Route::TranslateRequestId(param) => self.translated(incoming, known, param),
        }
    }

    /// Tells whether a request starts something. Input for a turn that runs does not.
    fn is_new_work(&self, known: Option<&Request>, incoming: &Incoming<'_>) -> bool {
        let Some(known) = known.filter(|r| r.work) else { return false };
        let steers = known.method == "turn/start"
            && incoming.thread(known).is_some_and(|t| self.threads.get(&t).is_some_and(Thread::is_busy));
        !steers
    }

    fn forward(&mut self, incoming: Incoming<'_>, known: Option<&'static Request>) {
        let kind = match known {
            None => Kind::Plain,
            Some(known) => self.kind(known, &incoming),
        };
        self.dispatch(incoming, kind, known, Edits::new());
    }

    /// Says what the answer to a request will change.
    fn kind(&self, known: &Request, incoming: &Incoming<'_>) -> Kind {
        let thread = || incoming.thread(known);
        let flag = |name: &str| {
            incoming
                .params
                .and_then(|p| member(incoming.line, p.start, name.as_bytes()))
                .map(|v| v.of(incoming.line))
        };
        match known.effect {
            Effect::None => Kind::Plain,
            Effect::Start => Kind::Start,
            Effect::Fork => Kind::Fork { replays: flag("excludeTurns") != Some(b"true") },
            Effect::Resume => {
                let given = |name| flag(name).is_some_and(|v| v != b"null" && v != b"\"\"");
                Kind::Resume {
                    target: if given("path") || given("history") { None } else { thread() },
                    replays: flag("excludeTurns") != Some(b"true"),
                }
            }
            Effect::DropSubscriptions => {
                thread().map_or(Kind::Plain, |thread| Kind::DropSubscriptions { thread })
            }
            Effect::StartTurn => thread().map_or(Kind::Plain, |thread| Kind::StartTurn { thread }),
            Effect::WindowsSetup => Kind::WindowsSetup,
            Effect::Read if flag("includeTurns") == Some(b"true") => Kind::Hydrate,
            Effect::Read => Kind::Plain,
        }
    }

    /// Gives a request its upstream id and puts it on its way, or in its client's queue.
    fn dispatch(
        &mut self,
        incoming: Incoming<'_>,
        kind: Kind,
        known: Option<&'static Request>,
        mut edits: Edits<'_>,
    ) {
        let Incoming { client, id, id_span, line, .. } = incoming;
        let Some(session) = self.sessions.get_mut(&client) else { return };
        let long = known.is_some_and(|r| r.long);
        let waits = !session.queue.is_empty() || !self.window.has_room();
        if waits && session.queue.is_full_for(line.len(), &self.config.limits) {
            return self.refuse(client, Some(&id), &QUEUE_FULL);
        }
        session.in_flight += 1;
        self.note_opening(&kind, 1);
        let hydrates =
            matches!(kind, Kind::Hydrate | Kind::Fork { replays: true } | Kind::Resume { replays: true, .. });
        if kind == Kind::WindowsSetup {
            self.windows_setup = Some(client);
        }
        let origin = Origin::Client { client, id };
        let upstream_id = self.pending.insert(Pending::new(origin, kind, known, self.delivery.now));
        if hydrates {
            self.hydrating.push_back((upstream_id, client));
        }
        let write = |out: &mut Vec<u8>, edits: &mut Edits<'_>| {
            if edits.is_empty() {
                out.reserve(line.len() + 20);
                out.extend_from_slice(&line[..id_span.start]);
                write_u64(out, upstream_id.0);
                out.extend_from_slice(&line[id_span.end..]);
            } else {
                let mut number = Vec::new();
                write_u64(&mut number, upstream_id.0);
                edits.replace_owned(id_span, number);
                edits.write(line, out);
            }
        };
        if waits {
            let mut text = Vec::new();
            write(&mut text, &mut edits);
            let Some(session) = self.sessions.get_mut(&client) else { return };
            if session.queue.is_empty() {
                self.window.wait(Waiter::Client(client));
            }
            session.queue.push(Queued { id: Some(upstream_id), line: text, long });
        } else {
            let offset = self.upstream.queued_total();
            self.upstream.push_with(|out| write(out, &mut edits));
            let kept = self.kept.copy(self.upstream.last_line(offset));
            self.note_newest(client, Some(upstream_id));
            self.sent(upstream_id, offset, long, kept);
        }
    }

    /// Counts the requests in flight that will make threads known.
    pub(super) fn note_opening(&mut self, kind: &Kind, change: isize) {
        match kind {
            Kind::Start | Kind::Fork { .. } | Kind::Resume { target: None, .. } => {
                self.opening = self.opening.saturating_add_signed(change);
            }
            Kind::Resume { target: Some(thread), .. } => {
                let count = self.resuming.entry(thread.clone()).or_default();
                *count = count.saturating_add_signed(change);
                if *count == 0 {
                    self.resuming.remove(thread);
                }
            }
            _ => {}
        }
    }

    // ---- connection-scoped ids -------------------------------------------------------------------

    fn namespaced(
        &mut self,
        incoming: Incoming<'_>,
        known: Option<&'static Request>,
        resource: Resource,
        param: &'static str,
        opens: bool,
    ) {
        let Some(params) = incoming.params.filter(|p| incoming.line[p.start] == b'{') else {
            return self.dispatch(incoming, Kind::Plain, known, Edits::new());
        };
        let line = incoming.line;
        let value = namespace::last_member(line, params, param);
        let given = value.filter(|v| v.of(line) != b"null");
        let mut edits = Edits::new();
        let mut prefix = namespace::prefix(incoming.client);
        let id: Box<[u8]> = match given.map(|v| string_inner(line, v)) {
            Some(Some(inner)) => {
                edits.replace_owned(Span { start: inner.start, end: inner.start }, prefix);
                inner.of(line).into()
            }
            // Not a string: the upstream says so.
            Some(None) => return self.dispatch(incoming, Kind::Plain, known, edits),
            // A buffered command without an id gets one, so that it can be ended with its client.
            None if opens && resource == Resource::Exec && !namespace::streams(line, params) => {
                let mut id = b"~".to_vec();
                write_u64(&mut id, self.next_exec);
                self.next_exec += 1;
                prefix.extend_from_slice(&id);
                inject(&mut edits, line, params, param, value, &prefix);
                id.into()
            }
            None => return self.dispatch(incoming, Kind::Plain, known, edits),
        };
        let part = match known {
            _ if opens => Part::Opens,
            Some(known) if known.method == resource.close_method() => Part::Closes,
            _ => Part::Uses,
        };
        self.dispatch(incoming, Kind::Resource { resource, id, part }, known, edits);
    }

    /// Ends a resource whose client has gone.
    pub(super) fn end_resource(&mut self, client: ClientId, resource: Resource, id: &[u8]) {
        self.send_own(resource.close_method(), Kind::Plain, |out| {
            out.push(b'{');
            write_string(out, resource.id_param());
            out.extend_from_slice(b":\"");
            out.extend_from_slice(&namespace::prefix(client));
            out.extend_from_slice(id);
            out.extend_from_slice(b"\"}");
        });
    }

    fn translated(&mut self, incoming: Incoming<'_>, known: Option<&'static Request>, param: &'static str) {
        let line = incoming.line;
        let mut edits = Edits::new();
        if let Some(value) = incoming.params.and_then(|p| namespace::last_member(line, p, param))
            && let Some(id) = RequestId::from_json(value.of(line))
        {
            let mut text = Vec::new();
            match self.pending.find(incoming.client, &id) {
                Some(UpstreamId(n)) => write_u64(&mut text, n),
                // No request of this client: an id that no request has, natively just as harmless.
                None => write_i64(&mut text, -1),
            }
            edits.replace_owned(value, text);
        }
        self.dispatch(incoming, Kind::Plain, known, edits);
    }

    // ---- subscriptions -----------------------------------------------------------------------------

    fn unsubscribe(&mut self, incoming: Incoming<'_>, known: Option<&'static Request>) {
        let Some(thread) = incoming.text("threadId").and_then(|text| ThreadId::from_text(&text)) else {
            // The upstream words the error.
            return self.dispatch(incoming, Kind::Plain, known, Edits::new());
        };
        let before = self.pending.next_id();
        if self.resumes_in_flight(incoming.client, &thread, before) {
            // Else the answer to the resume would subscribe it again, against its last word.
            let Incoming { client, id, id_span, line, .. } = incoming;
            let waiting = self.deferred.iter().filter(|d| d.client == client).count();
            if waiting >= self.config.limits.queued_requests_per_client {
                return self.refuse(client, Some(&id), &QUEUE_FULL);
            }
            let line = line.into();
            self.deferred.push(DeferredUnsubscribe { client, id, id_span, thread, line, before });
            return;
        }
        self.unsubscribe_now(incoming, thread);
    }

    fn unsubscribe_now(&mut self, incoming: Incoming<'_>, thread: ThreadId) {
        let Incoming { client, id, id_span, line, .. } = incoming;
        if self
            .sessions
            .get(&client)
            .is_some_and(|s| !s.queue.is_empty() && s.queue.is_full_for(line.len(), &self.config.limits))
        {
            // Before anything is changed for it.
            return self.refuse(client, Some(&id), &QUEUE_FULL);
        }
        let subscribed = self.threads.get_mut(&thread).is_some_and(|t| t.unsubscribe(client));
        if !subscribed {
            let loaded = self.threads.get(&thread).is_some_and(|t| t.loaded);
            return self.unsubscribe_answer(client, &id, if loaded { "notSubscribed" } else { "notLoaded" });
        }
        if let Some(session) = self.sessions.get_mut(&client) {
            session.subscriptions.remove(&thread);
        }
        if self.is_wanted(&thread) {
            return self.unsubscribe_answer(client, &id, "unsubscribed");
        }
        let kind = Kind::Unsubscribe { thread };
        let known = self.routes.request(b"thread/unsubscribe");
        self.dispatch(Incoming { client, id, id_span, line, params: None }, kind, known, Edits::new());
    }

    pub(super) fn unsubscribe_answer(&mut self, client: ClientId, id: &RequestId, status: &str) {
        self.deliver_with(client, |out| {
            out.extend_from_slice(b"{\"id\":");
            id.write(out);
            out.extend_from_slice(b",\"result\":{\"status\":");
            write_string(out, status);
            out.extend_from_slice(b"}}");
        });
    }

    /// Tells whether a client has asked for a resume, before the request `before`, and has no answer.
    fn resumes_in_flight(&self, client: ClientId, thread: &ThreadId, before: UpstreamId) -> bool {
        self.resuming.contains_key(thread)
            && self.pending.before(before).any(|p| {
                matches!(&p.origin, Origin::Client { client: c, .. } if *c == client)
                    && matches!(&p.kind, Kind::Resume { target: Some(t), .. } if t == thread)
            })
    }

    /// Handles again what waited for the answer to a resume of `thread`.
    pub(super) fn run_deferred(&mut self, thread: &ThreadId) {
        let (ready, rest) = std::mem::take(&mut self.deferred).into_iter().partition::<Vec<_>, _>(|d| {
            d.thread == *thread && !self.resumes_in_flight(d.client, thread, d.before)
        });
        self.deferred = rest;
        for DeferredUnsubscribe { client, id, id_span, thread, line, .. } in ready {
            let params = member(&line, 0, b"params");
            self.unsubscribe_now(Incoming { client, id, id_span, line: &line, params }, thread);
        }
    }

    /// Makes a client a subscriber of a thread.
    pub(super) fn subscribe(&mut self, client: ClientId, thread: &ThreadId) {
        let Some(session) = self.sessions.get_mut(&client) else { return };
        session.subscriptions.insert(thread.clone());
        self.threads.entry(thread.clone()).or_default().subscribe(client);
    }

    /// Tells whether a client hears a thread, or is about to.
    fn is_wanted(&self, thread: &ThreadId) -> bool {
        self.resuming.contains_key(thread)
            || self.threads.get(thread).is_some_and(|t| !t.subscribers.is_empty())
    }

    /// Settles an unsubscribe here, if its thread is wanted again since it began to wait for the
    /// window: sent now, it would undo the resume of another client that went before it.
    pub(super) fn is_overtaken(&mut self, id: UpstreamId) -> bool {
        let Some(Pending { kind: Kind::Unsubscribe { thread }, .. }) = self.pending.get(id) else {
            return false;
        };
        if !self.is_wanted(thread) {
            return false;
        }
        if let Some(Pending { origin: Origin::Client { client, id }, .. }) = self.pending.remove(id) {
            if let Some(session) = self.sessions.get_mut(&client) {
                session.in_flight = session.in_flight.saturating_sub(1);
            }
            self.unsubscribe_answer(client, &id, "unsubscribed");
        }
        true
    }

    /// Lets the upstream unload a thread that nobody hears any more.
    pub(super) fn release_thread(&mut self, thread: &ThreadId) {
        if !self.is_wanted(thread) {
            let kind = Kind::Unsubscribe { thread: thread.clone() };
            self.send_own("thread/unsubscribe", kind, |out| {
                out.extend_from_slice(b"{\"threadId\":\"");
                out.extend_from_slice(thread.as_bytes());
                out.extend_from_slice(b"\"}");
            });
        }
    }

    /// Lets a thread go that was kept for a resume which has come to nothing.
    pub(super) fn release_if_loaded(&mut self, thread: &ThreadId) {
        if self.threads.get(thread).is_some_and(|t| t.loaded) {
            self.release_thread(thread);
        }
    }

    // ---- the end of a client -----------------------------------------------------------------------

    /// Takes a client out of everything it takes part in. Its turns go on; its approvals wait.
    pub(super) fn detach(&mut self, client: ClientId) {
        let Some(session) = self.sessions.get_mut(&client) else { return };
        let subscriptions = std::mem::take(&mut session.subscriptions);
        let resources = std::mem::take(&mut session.resources);
        self.paused -= usize::from(session.queue.paused.is_some());
        let queue = session.queue.take();
        session.in_flight = 0;
        if session.over_soft_since.take().is_some() {
            self.delivery.over_soft -= 1;
        }
        self.deferred.retain(|d| d.client != client);
        if self.windows_setup == Some(client) {
            self.windows_setup = None;
        }
        self.window.forget(Waiter::Client(client));
        for queued in queue {
            // Never sent, or refused: it has no effect that would have to be undone, but others may wait
            // for it.
            let Some(id) = queued.id else { continue };
            let Some(pending) = self.pending.remove(id) else { continue };
            self.note_opening(&pending.kind, -1);
            self.hydrating.retain(|(other, _)| *other != id);
            if let Kind::Resume { target: Some(thread), .. } | Kind::Unsubscribe { thread } = pending.kind {
                self.release_if_loaded(&thread);
            }
        }
        for (_, kind, line) in self.pending.orphan(client) {
            self.kept.forget(line);
            if let Kind::Resource { resource: Resource::Exec, id, part: Part::Opens } = kind {
                self.end_resource(client, Resource::Exec, &id);
            }
        }
        for OpenResource { resource, id } in resources {
            self.end_resource(client, resource, &id);
        }
        self.forget_asked(client);
        for thread in &subscriptions {
            if let Some(state) = self.threads.get_mut(thread) {
                state.unsubscribe(client);
            }
            self.release_thread(thread);
        }
    }

    fn shutdown(&mut self, incoming: &Incoming<'_>) {
        let Incoming { client, id, .. } = incoming;
        self.deliver_with(*client, |out| {
            out.extend_from_slice(b"{\"id\":");
            id.write(out);
            out.extend_from_slice(b",\"result\":{}}");
        });
        let others = |(c, s): (&ClientId, &Session)| c != client && s.state != SessionState::Closing;
        let unused = !self.sessions.iter().any(others) && self.threads.values().all(|t| !t.is_busy());
        let stops = match self.config.client_shutdown {
            ClientShutdown::Always => true,
            ClientShutdown::Never => false,
            ClientShutdown::WhenUnused => unused,
        };
        self.close(*client, CloseReason::Detached);
        if stops {
            self.actions.push_back(Action::ShutdownRequested { client: *client });
        }
    }

    fn broker_status(&mut self, incoming: &Incoming<'_>) {
        let state = match &self.phase {
            Phase::Starting => "handshaking",
            Phase::Serving => "serving",
            Phase::Draining => "draining",
            Phase::Lost(_) => "stopping",
        };
        let identity = self.config.identity.clone();
        self.deliver_with(incoming.client, |out| {
            out.extend_from_slice(b"{\"id\":");
            incoming.id.write(out);
            out.extend_from_slice(b",\"result\":{\"state\":");
            write_string(out, state);
            out.extend_from_slice(b",\"version\":");
            write_string(out, &identity.version);
            out.extend_from_slice(b",\"instance\":");
            write_string(out, &identity.instance);
            out.extend_from_slice(b",\"generation\":");
            write_u64(out, identity.generation);
            out.extend_from_slice(b"}}");
        });
    }
}

impl Incoming<'_> {
    /// Returns the thread that the parameters name.
    fn thread(&self, known: &Request) -> Option<ThreadId> {
        let text = self.text(known.thread?)?;
        Some(ThreadId::from_text(&text).unwrap_or_else(|| ThreadId::new(text.as_bytes())))
    }

    /// Returns the text of a member of the parameters.
    fn text(&self, name: &str) -> Option<String> {
        let value = namespace::last_member(self.line, self.params?, name)?;
        read_string(value.of(self.line))
    }
}

/// Puts an id into parameters that have none, or null.
fn inject(edits: &mut Edits<'_>, line: &[u8], params: Span, name: &str, null: Option<Span>, id: &[u8]) {
    let mut text = Vec::new();
    if null.is_none() {
        write_string(&mut text, name);
        text.push(b':');
    }
    text.push(b'"');
    text.extend_from_slice(id);
    text.push(b'"');
    match null {
        Some(span) => edits.replace_owned(span, text),
        None => {
            let at = skip_space(line, params.start + 1);
            if Members::new(line, params.start).next().is_some() {
                text.push(b',');
            }
            edits.replace_owned(Span { start: at, end: at }, text);
        }
    }
}

/// The answer to a client that has too many requests waiting.
const QUEUE_FULL: ErrorAnswer<'static> = ErrorAnswer {
    code: OVERLOADED,
    message: "too many requests of this client wait for an answer; retry later",
    reason: "overloaded",
    delivered: Delivered::No,
    retryable: true,
};
