//! Messages from clients, and requests on their way to the upstream.

use std::borrow::Cow;

use super::answer::{Delivered, ErrorAnswer, INVALID_REQUEST, OVERLOADED, PARSE_ERROR, UPSTREAM_LOST};
use super::pacing::{Origin, Part, Pending, PendingKind};
use super::params::Params;
use super::upgrade::UPGRADING;
use super::{Action, ClientShutdown, CloseReason, Phase, Router, SessionState, experimental_gate, resources};
use crate::id::{ClientId, RequestId, ThreadId, UpstreamId, write_i64, write_u64};
use crate::json::Span;
use crate::json::edit::{Edits, write_string};
use crate::json::scan::string_inner;
use crate::json::text::decoded;
use crate::message::{self, ClientMessage, Reader, Rejection};
use crate::routes::{Request, RequestEffect, Resource, Route};
use crate::time::Time;

/// A request from a client, while the router handles it.
pub(super) struct Incoming<'a> {
    pub(super) client: ClientId,
    pub(super) id: RequestId,
    pub(super) id_span: Span,
    /// The line. A long one is owned, so that it need not be copied.
    pub(super) line: Cow<'a, [u8]>,
    pub(super) params: Option<&'a message::Params>,
}

impl Router {
    /// Handles one message from a client, given without its line feed.
    pub fn client_line(&mut self, now: Time, client: ClientId, line: &[u8]) {
        if !self.takes_line(now, client, line) {
            return;
        }
        let mut reader = Reader::default();
        let message = reader.read(line);
        // A line feed is white space in JSON and the end of a message to the upstream. A WebSocket message can
        // contain line feeds between its tokens.
        let flat: Vec<u8>;
        let line = if message.is_ok() && memchr::memchr(b'\n', line).is_some() {
            flat = line.iter().map(|b| if *b == b'\n' { b' ' } else { *b }).collect();
            &flat
        } else {
            line
        };
        match message {
            Ok(Some(ClientMessage::Request { id, id_span, method, params })) => {
                self.request(Incoming { client, id, id_span, line: line.into(), params }, &method);
            }
            Ok(Some(ClientMessage::Notification { method })) => {
                self.client_notification(client, &method, line.into());
            }
            other => self.other_message(client, line, other),
        }
        self.close_overflowed();
    }

    /// Handles one long message from a client that was read to its end. It is copied only if a connection-scoped id in it
    /// has to be replaced.
    pub fn client_line_read(&mut self, now: Time, client: ClientId, mut line: Vec<u8>, mut reader: Reader) {
        if !self.takes_line(now, client, &line) {
            return;
        }
        // As in `client_line`. Replacing white space does not change what the reader found.
        let mut from = 0;
        while let Some(at) = memchr::memchr(b'\n', &line[from..]) {
            from += at;
            line[from] = b' ';
        }
        match reader.finish(&line) {
            Ok(Some(ClientMessage::Request { id, id_span, method, params })) => {
                let method = method.into_owned();
                self.request(Incoming { client, id, id_span, line: line.into(), params }, &method);
            }
            Ok(Some(ClientMessage::Notification { method })) => {
                let method = method.into_owned();
                self.client_notification(client, &method, line.into());
            }
            other => self.other_message(client, &line, other),
        }
        self.close_overflowed();
    }

    /// Returns whether a line from a client is to be handled now. Before the upstream is ready, it is kept; from a
    /// client that is being closed, it is ignored.
    fn takes_line(&mut self, now: Time, client: ClientId, line: &[u8]) -> bool {
        self.delivery.at(now);
        let session = self.sessions.received(now, client, line.len());
        if session.is_none_or(|s| s.state() == SessionState::Closing) {
            return false;
        }
        if self.phase == Phase::Starting {
            if !self.sessions.keep_early(client, line, &self.config.limits) {
                self.refuse_early(client, line);
                self.close(client, CloseReason::TooEarly);
            }
            return false;
        }
        self.counters.client_messages += 1;
        true
    }

    /// Handles what is neither a request nor a notification.
    fn other_message(
        &mut self,
        client: ClientId,
        line: &[u8],
        message: Result<Option<ClientMessage<'_, '_>>, Rejection>,
    ) {
        match message {
            Ok(Some(ClientMessage::Answer { id, decision })) => {
                if let Some(id) = id {
                    self.client_answer(client, id, line, decision);
                }
            }
            Ok(_) => {}
            Err(rejection) => self.reject(client, &rejection),
        }
    }

    /// Answers a line that exceeded the shell's limit, so that it was not kept.
    pub fn client_line_too_long(&mut self, now: Time, client: ClientId, limit_bytes: usize) {
        self.delivery.at(now);
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

    /// Answers everything that a client has sent before the upstream was ready, `last` included, because it was too
    /// much.
    fn refuse_early(&mut self, client: ClientId, last: &[u8]) {
        let mut lines = self.sessions.take_early_of(client);
        lines.push(last.into());
        for line in lines {
            if let Ok(Some(ClientMessage::Request { id, .. })) = Reader::default().read(&line) {
                self.refuse(client, Some(&id), &TOO_EARLY);
            }
        }
    }

    fn reject(&mut self, client: ClientId, rejection: &Rejection) {
        let (code, message, reason, id) = match rejection {
            Rejection::NotJson(fault) => {
                (PARSE_ERROR, format!("not JSON: {} at byte {}", fault.what, fault.at), "parseError", None)
            }
            Rejection::NotAMessage { what, id } => {
                (INVALID_REQUEST, format!("not a request: {what}"), "invalidRequest", id.as_ref())
            }
            Rejection::BadAnswer => {
                self.counters.rejected_messages += 1;
                return self.statistics.refused("badAnswer");
            }
        };
        let answer =
            ErrorAnswer { code, message: &message, reason, delivered: Delivered::No, retryable: false };
        self.refuse(client, id, &answer);
    }

    /// Handles a notification. `initialized` is not forwarded, since codexd sent its own. Unknown ones are.
    fn client_notification(&mut self, client: ClientId, method: &[u8], line: Cow<'_, [u8]>) {
        if self.sessions.is_active(client) && method != b"initialized" && !self.is_lost() {
            self.pacing.send_notification(self.delivery.now(), client, line);
        }
    }

    fn request(&mut self, incoming: Incoming<'_>, method: &[u8]) {
        match method {
            b"broker/shutdown" => return self.broker_shutdown(&incoming),
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
            return self.initialize_client(client, &id, &line, params.map(|params| params.span));
        }
        let Some(session) = self.sessions.get(incoming.client) else { return };
        if !session.is_active() {
            return self.refuse_native(incoming.client, &incoming.id, "Not initialized");
        }
        let known = self.routes.request(method);
        if let Some(known) = known
            && !session.is_experimental()
            && let Some(what) = experimental_gate::gated(known, &incoming.line, incoming.params(known))
        {
            let message = format!("{what} requires experimentalApi capability");
            return self.refuse_native(incoming.client, &incoming.id, &message);
        }
        let Some(incoming) = self.after_restoration(incoming, known) else { return };
        let refusal = match self.phase {
            Phase::Draining => Some(&DRAINING),
            Phase::Upgrading => Some(&UPGRADING),
            Phase::Starting | Phase::Serving | Phase::Lost(_) => None,
        };
        if let Some(refusal) = refusal
            && self.is_new_work(known, &incoming)
        {
            return self.refuse(incoming.client, Some(&incoming.id), refusal);
        }
        match known.map_or(Route::Forward, |r| r.route) {
            Route::Forward | Route::Local => self.forward(incoming, known),
            Route::Unsubscribe => self.unsubscribe(incoming, known),
            Route::Namespace { resource, id, opens } => self.namespaced(incoming, known, resource, id, opens),
            Route::TranslateRequestId(param) => self.translated(incoming, known, param),
        }
    }

    /// Returns whether a request starts something. Input for a running turn does not.
    fn is_new_work(&self, known: Option<&Request>, incoming: &Incoming<'_>) -> bool {
        let Some(known) = known.filter(|r| r.work) else { return false };
        let steers = known.method == "turn/start"
            && incoming.params(known).is_some_and(|params| {
                params.thread(known).is_some_and(|thread| self.subscriptions.is_busy(&thread))
            });
        !steers
    }

    fn forward(&mut self, incoming: Incoming<'_>, known: Option<&'static Request>) {
        let kind = known.map_or(PendingKind::Plain, |known| kind(known, incoming.params(known)));
        match known {
            Some(known) if known.effect == RequestEffect::Resume => self.resume(incoming, kind, known),
            _ => self.send_in_order(incoming, kind, known),
        }
    }

    /// Sends or queues a request with an upstream id.
    pub(super) fn dispatch(
        &mut self,
        incoming: Incoming<'_>,
        kind: PendingKind,
        known: Option<&'static Request>,
        edits: Edits<'_>,
    ) {
        self.try_dispatch(incoming, kind, known, edits);
    }

    /// Does what [`dispatch`](Router::dispatch) does. Returns false if the request was refused because of a limit.
    pub(super) fn try_dispatch(
        &mut self,
        incoming: Incoming<'_>,
        kind: PendingKind,
        known: Option<&'static Request>,
        mut edits: Edits<'_>,
    ) -> bool {
        let Incoming { client, id, id_span, line, .. } = incoming;
        let now = self.now();
        let attributed = kind.is_attributed().then(|| kind.clone());
        let pending = Pending::new(Origin::Client { client, id }, kind, known, now);
        if self.pacing.is_full_for(client, line.len(), &pending, &self.config.limits) {
            if let Origin::Client { id, .. } = &pending.origin {
                self.refuse(client, Some(id), &QUEUE_FULL);
            }
            return false;
        }
        let owned = matches!(line, Cow::Owned(_));
        let sent = self.pacing.send_request(now, client, pending, owned, |UpstreamId(id), out| {
            if !edits.is_empty() {
                let mut number = Vec::new();
                write_u64(&mut number, id);
                edits.replace_owned(id_span, number);
                return edits.write(&line, out);
            }
            match line {
                Cow::Owned(line) if out.is_empty() => {
                    let mut number = Vec::new();
                    write_u64(&mut number, id);
                    *out = line;
                    out.splice(id_span.start..id_span.end, number);
                }
                line => {
                    out.reserve(line.len() + 20);
                    out.extend_from_slice(&line[..id_span.start]);
                    write_u64(out, id);
                    out.extend_from_slice(&line[id_span.end..]);
                }
            }
        });
        if let Some((sent, kind)) = sent.zip(attributed) {
            self.attribution.sent(sent, client, &kind);
        }
        sent.is_some()
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
        let Some(params) = known.and_then(|known| incoming.params(known)) else {
            return self.dispatch(incoming, PendingKind::Plain, known, Edits::new());
        };
        let line = &*incoming.line;
        let value = params.get(param);
        let given = value.filter(|v| v.of(line) != b"null");
        let mut edits = Edits::new();
        let mut prefix = resources::prefix(incoming.client);
        let id: Box<[u8]> = match given.map(|v| string_inner(line, v)) {
            // The upstream refuses an empty id, so it must stay empty (measured).
            Some(Some(inner)) if opens && resource == Resource::Process && inner.of(line).is_empty() => {
                return self.dispatch(incoming, PendingKind::Plain, known, edits);
            }
            Some(Some(inner)) if inner.of(line).len() > RequestId::MAX_BYTES => {
                let message = format!("Invalid request: `{param}` is longer than 64 KiB");
                return self.refuse_native(incoming.client, &incoming.id, &message);
            }
            Some(Some(inner)) => {
                edits.replace_owned(Span { start: inner.start, end: inner.start }, prefix);
                decoded(inner.of(line)).into()
            }
            // The upstream refuses an id that is not a string.
            Some(None) => return self.dispatch(incoming, PendingKind::Plain, known, edits),
            // A buffered command without an id gets one, so that codexd can end it when its client disconnects.
            None if opens
                && resource == Resource::Exec
                && !resources::streams(params)
                // To parameters by position, none can be added. The upstream refuses so few of them.
                && (value.is_some() || !params.by_position()) =>
            {
                let id = self.resources.next_command();
                prefix.extend_from_slice(&id);
                resources::inject(&mut edits, line, params.span(), param, value, &prefix);
                id
            }
            None => return self.dispatch(incoming, PendingKind::Plain, known, edits),
        };
        let part = match known {
            _ if opens => Part::Opens,
            Some(known) if known.method == resource.close_method() => Part::Closes,
            _ => Part::Uses,
        };
        if opens && self.resources.are_too_many(incoming.client, &id, &self.config.limits) {
            return self.refuse(incoming.client, Some(&incoming.id), &TOO_MANY_OPEN);
        }
        self.dispatch(incoming, PendingKind::Resource { resource, id, part }, known, edits);
    }

    fn translated(&mut self, incoming: Incoming<'_>, known: Option<&'static Request>, param: &'static str) {
        let line = &*incoming.line;
        let mut edits = Edits::new();
        let params = known.and_then(|known| incoming.params(known));
        if let Some(value) = params.and_then(|params| params.get(param))
            && let Some(id) = RequestId::from_json(value.of(line))
        {
            let mut text = Vec::new();
            match self.pacing.find(incoming.client, &id) {
                Some(UpstreamId(n)) => write_u64(&mut text, n),
                // No request of this client has this id. The upstream gets one that no request has, which it ignores.
                None => write_i64(&mut text, -1),
            }
            edits.replace_owned(value, text);
        }
        self.dispatch(incoming, PendingKind::Plain, known, edits);
    }

    // ---- requests that codexd answers itself ---------------------------------------------------

    fn broker_shutdown(&mut self, incoming: &Incoming<'_>) {
        let Incoming { client, id, .. } = incoming;
        self.delivery.reply_with(*client, |out| {
            out.extend_from_slice(b"{\"id\":");
            id.write(out);
            out.extend_from_slice(b",\"result\":{}}");
        });
        let other =
            |(c, s): (ClientId, &super::session::Session)| c != *client && s.state() != SessionState::Closing;
        let unused = !self.sessions.iter().any(other) && !self.has_running_turns();
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
            Phase::Upgrading | Phase::Draining => "draining",
            Phase::Lost(_) => "stopping",
        };
        let identity = &self.config.identity;
        self.delivery.reply_with(incoming.client, |out| {
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

    /// Answers with an error that looks like one of the upstream.
    pub(super) fn refuse_native(&mut self, client: ClientId, id: &RequestId, message: &str) {
        self.counters.rejected_messages += 1;
        self.statistics.refused("native");
        self.delivery.reply_with(client, |out| super::answer::write_native(out, id, message));
    }

    /// Answers with an error of codexd itself.
    pub(super) fn refuse(&mut self, client: ClientId, id: Option<&RequestId>, error: &ErrorAnswer<'_>) {
        self.counters.rejected_messages += 1;
        self.statistics.refused(error.reason);
        let generation = self.config.identity.generation;
        self.delivery.reply_with(client, |out| error.write(out, id, generation));
    }
}

/// Returns what the response to a request will change.
fn kind(known: &Request, params: Option<Params<'_>>) -> PendingKind {
    let thread = || params.and_then(|params| params.thread(known));
    let is_true = |name: &str| params.is_some_and(|params| params.is_true(name));
    match known.effect {
        RequestEffect::None => PendingKind::Plain,
        RequestEffect::Start => PendingKind::Start,
        RequestEffect::Fork => PendingKind::Fork { replays: !is_true("excludeTurns") },
        RequestEffect::Resume => {
            let (target, is_named) = params.map_or((None, true), |params| resumed_thread(params, known));
            PendingKind::Resume {
                target,
                replays: !is_true("excludeTurns"),
                unnamed: (!is_named).then(Box::default),
                gives: false,
            }
        }
        RequestEffect::DropSubscriptions => {
            thread().map_or(PendingKind::Plain, |thread| PendingKind::DropSubscriptions { thread })
        }
        RequestEffect::Subscribe => {
            thread().map_or(PendingKind::Plain, |thread| PendingKind::Subscribe { thread, reloads: false })
        }
        RequestEffect::Revert => {
            thread().map_or(PendingKind::Plain, |thread| PendingKind::Subscribe { thread, reloads: true })
        }
        RequestEffect::StartTurn => {
            let turn = |thread| PendingKind::StartTurn { thread, review: false, gives: false };
            thread().map_or(PendingKind::Plain, turn)
        }
        RequestEffect::StartReview => {
            let review = |thread| PendingKind::StartTurn { thread, review: true, gives: false };
            thread().map_or(PendingKind::Plain, review)
        }
        RequestEffect::WindowsSetup => PendingKind::WindowsSetup,
        RequestEffect::Read if is_true("includeTurns") => PendingKind::ReadTurns,
        RequestEffect::Read => PendingKind::Plain,
    }
}

/// Returns the thread of a resume as far as it is known beforehand, and whether the request itself names it.
pub(super) fn resumed_thread(params: Params<'_>, known: &Request) -> (Option<ThreadId>, bool) {
    let given = |name| params.json(name).is_some_and(|json| json != b"null" && json != b"\"\"");
    match (given("history"), given("path")) {
        (true, _) => (None, false),
        (false, true) => (thread_of_file(params), false),
        (false, false) => (params.thread(known), true),
    }
}

/// Returns the thread after which the file of a resume by `path` is named: `rollout-TIME-THREAD.jsonl`.
fn thread_of_file(params: Params<'_>) -> Option<ThreadId> {
    const ID_BYTES: usize = 36;
    let path = params.text("path")?;
    let name = path.rsplit(|byte| *byte == b'/').next()?;
    let stem = name.split(|byte| *byte == b'.').next()?;
    ThreadId::from_text(stem.get(stem.len().checked_sub(ID_BYTES)?..)?)
}

impl Incoming<'_> {
    /// Returns the parameters of a request.
    pub(super) fn params(&self, known: &Request) -> Option<Params<'_>> {
        Params::new(&self.line, self.params?, known)
    }
}

/// The response to a client with too many unanswered requests.
pub(super) const QUEUE_FULL: ErrorAnswer<'static> = ErrorAnswer {
    code: OVERLOADED,
    message: "too many requests of this client wait for an answer; retry later",
    reason: "overloaded",
    delivered: Delivered::No,
    retryable: true,
};

/// The response to a client with too many open resources.
const TOO_MANY_OPEN: ErrorAnswer<'static> = ErrorAnswer {
    code: OVERLOADED,
    message: "this client has too many commands, processes, watches and event streams open; end some of them first",
    reason: "tooManyOpen",
    delivered: Delivered::No,
    retryable: true,
};

/// The response to a client that sends too much before codex is ready.
const TOO_EARLY: ErrorAnswer<'static> = ErrorAnswer {
    code: OVERLOADED,
    message: "too much was sent before codex app-server was ready; connect again later",
    reason: "tooEarly",
    delivered: Delivered::No,
    retryable: true,
};

/// The response to a request that starts something during a drain.
const DRAINING: ErrorAnswer<'static> = ErrorAnswer {
    code: OVERLOADED,
    message: "codexd is stopping and takes no new work; connect again later",
    reason: "draining",
    delivered: Delivered::No,
    retryable: true,
};
