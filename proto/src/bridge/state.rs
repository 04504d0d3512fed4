//! The state of one client's connection: see the [module's documentation](super).

use serde_json::Value;

use super::config::{self, Configs};
use super::handshake::{Handshake, Stage};
use super::head::head;
use super::own::{self, Own, OwnRequests};
use super::queue::{Entry, Queue};
use super::requests::{Effect, Id, Progress, Request, Requests};
use super::resources::Resources;
use super::server_requests::ServerRequests;
use super::threads::{Link, Thread, Threads, Wait};
use super::{cwd, orphaned_turns};
use crate::id::{RequestId, ThreadId, write_u64};
use crate::json::edit::write_string;
use crate::json::scan::{Members, member, member_at};
use crate::json::{Span, is_text, text};
use crate::message::{ClientMessage, Params, Reader, UpstreamMessage};
use crate::router::{
    CLOSING, Delivered, ErrorAnswer, Loss, OVERLOADED, OrphanedTurns, ShutdownNotice, TurnEnd,
    UPGRADE_CALLED_OFF, UPGRADING_REASON, UPSTREAM_LOST,
};
use crate::routes::{self, Audience, Meaning, RequestEffect, Resource, Route, Routes};

/// Bytes that can wait for the daemon while one serves; above that, the client is not read.
const WAITING_BYTES: usize = 512 << 10;
/// Bytes that can wait while there is none.
const WAITING_BYTES_LOST: usize = 1 << 20;

/// For programs: why a request gets no answer of a daemon.
const REASON: &str = "daemonLost";

/// Name of the notification that the client has another daemon now.
const RESTARTED: &str = "notifications/broker/upstreamRestarted";

/// See the [module's documentation](super).
#[derive(Debug)]
pub struct ConnectionState {
    routes: Routes,
    /// The client's directory, for requests that name none.
    cwd: Option<String>,
    /// What the client's `initialize` is to declare of its turns, if it declares nothing.
    orphaned_turns: Option<OrphanedTurns>,
    handshake: Handshake,
    requests: Requests,
    queue: Queue,
    threads: Threads,
    configs: Configs,
    server_requests: ServerRequests,
    resources: Resources,
    own: OwnRequests,
    /// Lines that the client has sent: the place of the next one.
    place: u64,
    to_client: Vec<u8>,
    /// Whether there is a daemon.
    connected: bool,
    /// `initialize` is written: nothing else is, until it is answered.
    deferred: bool,
    /// The rest of a long line from the client is on its way.
    client_line_open: bool,
    /// What a daemon has refused is to be sent again when that rest has come.
    returned_wait: bool,
    /// That rest is for nobody.
    drops_client_line: bool,
    /// The rest of a long line from the daemon is not for the client.
    drops_daemon_line: bool,
    /// Something was asked for that lives in the daemon: threads, processes, watches.
    attached: bool,
    /// There was something that goes on with the next daemon, which is wanted at once.
    wants_next: bool,
    /// The same after a stop that somebody asked for: the next daemon is not started for it, and joined once it serves.
    joins_next: bool,
    generation: u64,
    /// The message of the last daemon that refused this client.
    refusal: Option<String>,
    announced: Option<Announced>,
    /// Why the daemon closes the connection, in its own words.
    closing: Option<String>,
    /// Why the last daemon was lost, and for how many milliseconds there was none, until the client learns of the next.
    restarted: Option<(String, u64)>,
}

/// What the daemon has said of its end.
#[derive(Debug)]
struct Announced {
    reason: String,
    /// Somebody asked for it.
    intended: bool,
    /// Nothing runs any more, and nothing is started. What it would still read, it could only refuse, and of what it does
    /// not read any more, nobody could tell whether it was carried out.
    at_once: bool,
}

/// What a line is to the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// `initialize`: nothing is written after it until its response has come.
    Initialize,
    /// Anything else.
    Other,
}

/// What follows from a line of the daemon.
#[derive(Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Nothing: the client gets it, or it is not for the client.
    Done,
    /// The daemon does not take clients: look for another one.
    Elsewhere,
    /// The daemon cannot start, for this reason, and another one could not either.
    NoDaemon(String),
}

impl ConnectionState {
    /// Creates the state of a client that has sent nothing, and is connected to a daemon. `orphaned_turns` is declared for
    /// a client that declares nothing itself; `cwd` is its directory.
    pub fn new(orphaned_turns: Option<OrphanedTurns>, cwd: Option<String>) -> ConnectionState {
        ConnectionState {
            routes: Routes::new(),
            cwd,
            orphaned_turns,
            handshake: Handshake::default(),
            requests: Requests::default(),
            queue: Queue::default(),
            threads: Threads::default(),
            configs: Configs::default(),
            server_requests: ServerRequests::default(),
            resources: Resources::default(),
            own: OwnRequests::default(),
            place: 0,
            to_client: Vec::new(),
            connected: true,
            deferred: false,
            client_line_open: false,
            returned_wait: false,
            drops_client_line: false,
            drops_daemon_line: false,
            attached: false,
            wants_next: false,
            joins_next: false,
            generation: 0,
            refusal: None,
            announced: None,
            closing: None,
            restarted: None,
        }
    }

    // ---- from the client -----------------------------------------------------------------------

    /// Takes in a line from the client, with its line feed.
    pub fn client_line(&mut self, mut line: Vec<u8>) {
        self.place += 1;
        let place = self.place;
        match Reader::default().read(&line) {
            Ok(Some(ClientMessage::Request { id, method, params, .. })) => {
                if *method == *b"initialize" && self.handshake.stage == Stage::None {
                    return self.initialize(line, id, place);
                }
                let known = self.routes.request(&method);
                let mut request = describe(&line, id, &method, params, known);
                if *method == *b"turn/interrupt"
                    && let Some(thread) = &request.thread
                {
                    self.threads.interrupt_asked(thread);
                }
                let changed = self.cwd.as_deref().and_then(|cwd| cwd::insert(&line, &method, params, cwd));
                line = changed.unwrap_or(line);
                request.line = Some(line);
                self.requests.add(place, request);
                self.route(place);
            }
            Ok(Some(ClientMessage::Notification { method })) => {
                if *method == *b"initialized" {
                    self.handshake.finish(line.clone());
                    if self.connected {
                        self.queue.push(Entry::Handshake { line, initialize: false });
                    }
                } else {
                    self.queue.push(Entry::Other { place, line });
                }
            }
            Ok(Some(ClientMessage::Answer { id, .. })) => {
                // Without a daemon, nobody waits for it any more.
                if let Some(line) = self.server_requests.answered(line, id).filter(|_| self.connected) {
                    self.queue.push(Entry::Answer(line));
                }
            }
            // The daemon answers what is no message.
            _ => self.queue.push(Entry::Other { place, line }),
        }
    }

    fn initialize(&mut self, mut line: Vec<u8>, id: RequestId, place: u64) {
        let mut reader = Reader::default();
        let Ok(Some(ClientMessage::Request { params, id_span, .. })) = reader.read(&line) else {
            return;
        };
        let declared = self.orphaned_turns.and_then(|it| orphaned_turns::declare(&line, params, it));
        let Some(own) = Id::read(id_span.of(&line)) else { return };
        line = declared.unwrap_or(line);
        let capabilities = member_at(&line, 0, &["params", "capabilities"]);
        self.requests.add(
            place,
            Request {
                id,
                effect: Effect::None,
                thread: None,
                needs_thread: false,
                attaches: false,
                repeatable: false,
                resumes: false,
                config: None,
                message_id: None,
                progress: Progress::Written,
                may_have_run: false,
                line: None,
            },
        );
        if self.connected {
            self.queue.push(Entry::Handshake { line: line.clone(), initialize: true });
        }
        self.handshake.begin(line, own, place, capabilities);
        self.threads.follow_turns(self.handshake.wants("turn/completed"));
    }

    /// Takes in the beginning of a line that is too long to be kept.
    ///
    /// Its id is found if it stands before what makes the line long, as it does in all known clients.
    pub fn client_start(&mut self, start: Vec<u8>) {
        self.place += 1;
        self.client_line_open = true;
        let head = head(&start);
        let id = head.id.filter(|_| head.method.is_some()).and_then(RequestId::from_json);
        let request = id.map(|id| {
            let effect = match head.method.as_deref() {
                Some(b"turn/start") => Effect::StartsTurn { review: false },
                _ => Effect::None,
            };
            let thread = head.thread;
            let request = Request {
                id,
                effect,
                thread,
                needs_thread: false,
                attaches: true,
                repeatable: false,
                resumes: false,
                config: None,
                message_id: None,
                progress: Progress::Waiting,
                may_have_run: false,
                line: None,
            };
            self.requests.add(self.place, request);
            self.place
        });
        if self.connected {
            self.queue.push(Entry::Piece { bytes: start, request, last: false });
        } else {
            self.drops_client_line = true;
            self.fail_long(request);
        }
    }

    /// Takes in more of a long line, up to and with its line feed.
    pub fn client_more(&mut self, bytes: Vec<u8>) {
        let last = bytes.ends_with(b"\n");
        self.client_line_open = !last;
        let drops = self.drops_client_line;
        self.drops_client_line = drops && !last;
        if !drops {
            self.queue.push(Entry::Piece { bytes, request: None, last });
        }
        if last && self.returned_wait {
            self.send_returned_again();
        }
    }

    /// Whether the client is to be read, of whose next line so many bytes are there.
    pub fn reads_client(&self, partial_bytes: usize) -> bool {
        let waiting = self.queue.bytes() + self.requests.waiting_bytes();
        if self.connected { waiting < WAITING_BYTES } else { waiting + partial_bytes < WAITING_BYTES_LOST }
    }

    /// Has a request written, or wait for its thread.
    fn route(&mut self, place: u64) {
        let Some(request) = self.requests.get(place) else { return };
        let undecided = request.progress == Progress::Undecided;
        if let Some(thread) = request.thread.as_ref().filter(|_| request.resumes)
            && matches!(self.threads.link(thread), Link::Lost | Link::Resuming | Link::Gone)
            && let Some(line) = request.line.as_deref().and_then(|line| self.configs.complete(line, thread))
        {
            self.requests.rewrite(place, line);
            return self.queue.push(Entry::Request(place));
        }
        let thread = request.thread.clone().filter(|_| request.needs_thread || undecided);
        let wait = if undecided { Wait::Decide(place) } else { Wait::Send(place) };
        let Some(thread) = thread else { return self.queue.push(Entry::Request(place)) };
        if let Some(state) = self.threads.get_mut(&thread) {
            state.asked_for();
        }
        if self.threads.link(&thread) == Link::Lost {
            self.resume(&thread);
        }
        let waits = |link| matches!(link, Link::Lost | Link::Resuming);
        match self.threads.get_mut(&thread) {
            Some(state) if undecided || waits(state.link) || !state.waiting.is_empty() => {
                state.waiting.push_back(wait);
            }
            Some(_) => return self.queue.push(Entry::Request(place)),
            None if undecided => match self.threads.entry(&thread) {
                Some(state) => state.waiting.push_back(wait),
                None => return self.refuse(place, Delivered::Maybe),
            },
            None => return self.queue.push(Entry::Request(place)),
        }
        self.go_on(&thread);
    }

    /// Subscribes to a thread again.
    fn resume(&mut self, thread: &ThreadId) {
        let Some(state) = self.threads.get_mut(thread) else { return };
        state.link = Link::Resuming;
        let requests = &self.requests;
        let id = self.own.register(Own::Resume(thread.clone()), |id| requests.has_id(id));
        let config = self.configs.again(thread);
        self.queue.push(Entry::Own(own::resume(&id, thread, config.as_deref())));
    }

    /// Has what waits in the queue of a thread go on, now that it is resumed, if its turn was cut off.
    fn start_queue(&mut self, thread: &ThreadId) {
        let was_cut_off = self.threads.get_mut(thread).is_some_and(Thread::take_cut_off);
        // Only such a client, or another one of the thread, can have queued something.
        if was_cut_off && self.handshake.is_experimental {
            let requests = &self.requests;
            let id = self.own.register(Own::StartQueue, |id| requests.has_id(id));
            self.queue.push(Entry::Own(own::start_queue(&id, thread)));
        }
    }

    /// Has what waits for a thread go on, as far as it can.
    fn go_on(&mut self, thread: &ThreadId) {
        while let Some(state) = self.threads.get_mut(thread) {
            if matches!(state.link, Link::Lost | Link::Resuming) || state.deciding {
                return;
            }
            match state.waiting.front().copied() {
                Some(Wait::Send(place)) => {
                    state.waiting.pop_front();
                    self.queue.push(Entry::Request(place));
                }
                Some(Wait::Decide(place)) if state.link == Link::Gone => {
                    state.waiting.pop_front();
                    self.refuse(place, Delivered::Maybe);
                }
                Some(Wait::Decide(place)) => {
                    state.deciding = true;
                    let requests = &self.requests;
                    let id = self.own.register(Own::Decide(place, thread.clone()), |id| requests.has_id(id));
                    self.queue.push(Entry::Own(own::latest_turns(&id, thread)));
                }
                None => return,
            }
        }
    }

    // ---- to the daemon -------------------------------------------------------------------------

    /// Returns the bytes to be written next; `None` when there is nothing, or nothing yet: after `initialize`, nothing is
    /// written until it is answered, since a daemon that does not serve must not have got more than that.
    pub fn to_daemon(&self) -> Option<&[u8]> {
        if !self.connected || self.deferred || self.announced.as_ref().is_some_and(|end| end.at_once) {
            return None;
        }
        let bytes = match self.queue.front()? {
            Entry::Request(place) => self.requests.get(*place)?.line.as_deref()?,
            Entry::Handshake { line, .. }
            | Entry::Own(line)
            | Entry::Answer(line)
            | Entry::Other { line, .. } => line,
            Entry::Piece { bytes, .. } => bytes,
        };
        bytes.get(self.queue.written..)
    }

    /// Records that so many bytes of [`ConnectionState::to_daemon`] were written; returns what line is complete by that.
    pub fn daemon_took(&mut self, bytes: usize) -> Option<LineKind> {
        let left = self.to_daemon().map_or(0, <[u8]>::len);
        self.attached |= match self.queue.front() {
            Some(Entry::Request(place)) => self.requests.get(*place).is_some_and(|it| it.attaches),
            Some(Entry::Other { .. } | Entry::Piece { .. }) => true,
            _ => false,
        };
        self.queue.written += bytes;
        if bytes < left {
            return None;
        }
        match self.queue.pop()? {
            Entry::Request(place) => self.requests.set(place, Progress::Written),
            Entry::Handshake { initialize: true, .. } => {
                self.deferred = self.handshake.is_pending();
                return Some(LineKind::Initialize);
            }
            // Only of its end is it known that the daemon can read it; and of an earlier piece, that it cannot.
            Entry::Piece { request: Some(place), .. } => self.requests.set(place, Progress::Waiting),
            Entry::Piece { last: true, .. } => self.long_line_written(),
            _ => {}
        }
        Some(LineKind::Other)
    }

    /// The end of a long line was written: its request is the first one that waits without a line.
    fn long_line_written(&mut self) {
        let is_long = |place: &u64| {
            self.requests.get(*place).is_some_and(|it| it.line.is_none() && it.progress == Progress::Waiting)
        };
        if let Some(place) = self.requests.places().into_iter().find(is_long) {
            self.requests.set(place, Progress::Written);
        }
    }

    /// Whether everything that the client has sent is written.
    pub fn is_all_written(&self) -> bool {
        self.queue.is_empty() && self.requests.waiting_bytes() == 0
    }

    /// Whether a daemon is wanted: something waits for one that is more than the handshake, which is repeated anyway.
    pub fn wants_daemon(&self) -> bool {
        self.wants_next
            || self.handshake.awaited().is_some()
            || self.queue.iter().any(|entry| !matches!(entry, Entry::Handshake { .. }))
    }

    /// Whether a daemon that somebody else starts is to be joined, though none is [wanted](ConnectionState::wants_daemon):
    /// a client that only listens hears what goes on there.
    pub fn joins_daemon(&self) -> bool {
        self.joins_next
    }

    // ---- from the daemon -----------------------------------------------------------------------

    /// Takes in a line from the daemon, with its line feed.
    pub fn daemon_line(&mut self, line: &[u8]) -> Delivery {
        let bare = line.strip_suffix(b"\n").unwrap_or(line);
        match UpstreamMessage::read(bare) {
            Some(UpstreamMessage::Response { id_span, failed, body, .. }) => {
                return self.response(line, bare, id_span.of(bare), failed, body);
            }
            Some(UpstreamMessage::Notification { method, params }) => {
                if self.notification(bare, &method, params) {
                    if *method == *b"serverRequest/resolved" {
                        let line = self.server_requests.resolved(line);
                        self.to_client.extend_from_slice(&line);
                    } else {
                        self.to_client.extend_from_slice(line);
                    }
                }
            }
            Some(UpstreamMessage::Request { method, id: Some(id), .. }) => {
                let line = self.server_requests.requested(&self.routes, line, &method, id);
                self.to_client.extend_from_slice(&line);
            }
            _ => self.to_client.extend_from_slice(line),
        }
        Delivery::Done
    }

    /// Takes in the beginning of a line that is too long to be kept.
    pub fn daemon_start(&mut self, start: &[u8]) {
        let head = head(start);
        match (head.id, head.method.as_deref()) {
            (Some(id), None) => {
                if let Some(own) = self.own.answered(id) {
                    self.drops_daemon_line = true;
                    return self.own_answered_at_length(own);
                }
                if let Some(place) = self.requests.find(id)
                    && let Some(request) = self.requests.remove(place)
                    && request.effect == Effect::Opens
                    && let Some(thread) = request.thread.or(head.thread)
                {
                    self.threads.subscribe(&thread);
                    self.go_on(&thread);
                }
            }
            (None, Some(b"turn/completed")) => {
                if let Some(thread) = head.thread {
                    self.threads.turn_ended(&thread);
                }
            }
            _ => {}
        }
        self.to_client.extend_from_slice(start);
    }

    /// Takes in more of a long line, up to and with its line feed.
    pub fn daemon_more(&mut self, bytes: &[u8]) {
        let last = bytes.ends_with(b"\n");
        let drops = self.drops_daemon_line;
        self.drops_daemon_line = drops && !last;
        if !drops {
            self.to_client.extend_from_slice(bytes);
        }
    }

    /// Returns the bytes for the client since the last call.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.to_client)
    }

    fn response(&mut self, line: &[u8], bare: &[u8], spelled: &[u8], failed: bool, body: Span) -> Delivery {
        if self.handshake.is_answer(spelled) {
            return self.initialize_answered(line, bare, failed, body);
        }
        if let Some(own) = self.own.answered(spelled) {
            self.own_answered(own, bare, failed, body);
            return Delivery::Done;
        }
        let Some(place) = self.requests.find(spelled) else {
            self.to_client.extend_from_slice(line);
            return Delivery::Done;
        };
        if failed && self.withholds(place, bare, body) {
            return Delivery::Done;
        }
        self.to_client.extend_from_slice(line);
        if let Some(request) = self.requests.remove(place) {
            self.answered(&request, place, bare, failed, body);
        }
        Delivery::Done
    }

    /// Applies what the answer to a request changes.
    fn answered(&mut self, request: &Request, place: u64, line: &[u8], failed: bool, body: Span) {
        if failed {
            return;
        }
        match (&request.effect, &request.thread) {
            (Effect::Opens, named) => {
                let joins = named.as_ref().is_some_and(|it| self.threads.link(it) == Link::Live);
                if let Some(thread) = self.threads.opened(line, body, place) {
                    // A resume without one leaves the one that is known, and codex ignores that of a loaded thread.
                    if !request.resumes || request.config.is_some() && !joins {
                        self.configs.opened(&thread, request.config.clone());
                    }
                    self.start_queue(&thread);
                    self.go_on(&thread);
                }
            }
            (Effect::Subscribes, Some(thread)) => self.threads.subscribe(thread),
            (Effect::Leaves, Some(thread)) => self.threads.leave(thread),
            (Effect::StartsTurn { review }, Some(thread)) => {
                self.configs.runs(thread);
                self.threads.turn_answered(thread, line, body, *review, self.place);
            }
            (Effect::Resource { resource, id, opens: true }, _) => {
                self.resources.opened(*resource, id, request.line.as_deref());
            }
            // A process has ended when `process/exited` says so.
            (Effect::Resource { resource, id, opens: false }, _) if *resource != Resource::Process => {
                self.resources.closed(*resource, id);
            }
            _ => {}
        }
    }

    /// Withholds the daemon's own error that says that it ends, where the next daemon or the history of the thread gives
    /// the answer; returns whether it did.
    fn withholds(&mut self, place: u64, line: &[u8], body: Span) -> bool {
        let Some(request) = self.requests.get(place) else { return false };
        let Some(error) = own_error(line, body) else { return false };
        if !error.is_of_the_end() {
            return false;
        }
        let bytes = request.line.as_ref().map_or(0, Vec::len);
        if error.is_upgrading && self.queue.bytes() + self.requests.waiting_bytes() + bytes >= WAITING_BYTES {
            // The daemon goes on, and so do turns that may need the client: it must be read.
            return false;
        }
        let kept = request.line.is_some();
        if kept && (!error.delivered || request.repeatable) {
            if error.delivered {
                self.requests.may_have_run(place);
            }
            self.requests.set(place, Progress::Returned);
            return true;
        }
        error.delivered && self.turn_may_have_started(place)
    }

    /// Answers a `turn/start` that may have been carried out by the turn that has begun since, or leaves it to the history
    /// of its thread; returns whether it did one of them.
    fn turn_may_have_started(&mut self, place: u64) -> bool {
        let Some(request) = self.requests.get(place) else { return false };
        let (Effect::StartsTurn { review: false }, Some(thread)) = (&request.effect, &request.thread) else {
            return false;
        };
        if let Some(object) = self.threads.turn_since(thread, place) {
            let object = object.to_vec();
            self.answer_with_turn(place, &object);
            return true;
        }
        let decidable = request.message_id.is_some() && request.line.is_some();
        if decidable {
            self.requests.set(place, Progress::Undecided);
        }
        decidable
    }

    fn answer_with_turn(&mut self, place: u64, object: &[u8]) {
        let Some(request) = self.requests.remove(place) else { return };
        self.to_client.extend_from_slice(b"{\"id\":");
        request.id.write(&mut self.to_client);
        self.to_client.extend_from_slice(b",\"result\":{\"turn\":");
        self.to_client.extend_from_slice(object);
        self.to_client.extend_from_slice(b"}}\n");
    }

    /// Fails a request because the daemon is lost.
    fn refuse(&mut self, place: u64, delivered: Delivered) {
        self.refuse_because(place, delivered, "the connection to codexd was lost before this was answered");
    }

    fn refuse_because(&mut self, place: u64, delivered: Delivered, message: &str) {
        let Some(request) = self.requests.remove(place) else { return };
        let retryable = delivered == Delivered::No;
        let error = ErrorAnswer { code: UPSTREAM_LOST, message, reason: REASON, delivered, retryable };
        error.write(&mut self.to_client, Some(&request.id), self.generation);
        self.to_client.push(b'\n');
    }

    fn fail_long(&mut self, place: Option<u64>) {
        if let Some(place) = place {
            self.refuse(place, Delivered::No);
        }
    }

    /// Takes in a notification; returns whether the client gets it.
    fn notification(&mut self, line: &[u8], method: &[u8], params: Option<usize>) -> bool {
        if *method == *ShutdownNotice::METHOD {
            // A stopping daemon notifies every client; one that it has not initialized goes to another daemon.
            if self.handshake.is_pending() {
                return false;
            }
            let member = |name| member_at(line, 0, &["params", name]).map(|span| span.of(line));
            let reason = member("reason").and_then(|reason| serde_json::from_slice(reason).ok());
            self.announced = reason.map(|reason| Announced {
                reason,
                intended: member("intended") == Some(b"true"),
                at_once: member("deadlineMs") == Some(b"0"),
            });
            self.threads.set_daemon_ends(true);
            return true;
        }
        if *method == *UPGRADE_CALLED_OFF {
            self.send_returned_again();
            return true;
        }
        if *method == *CLOSING {
            let why = params.and_then(|params| member_at(line, params, &["message"]));
            let why = why.and_then(|why| serde_json::from_slice(why.of(line)).ok());
            self.closing = Some(why.unwrap_or_else(|| "without a reason".to_owned()));
            return true;
        }
        if self.handshake.has_sticky(method, line) {
            return false;
        }
        let (Some((known, _)), Some(params)) = (self.routes.notification(method), params) else {
            return true;
        };
        if known.meaning.is_plain() {
            return true;
        }
        if known.meaning == Meaning::ProcessExited {
            self.resources.exited(line);
            return true;
        }
        let path = if let Audience::Broadcast(path) = known.audience { path } else { &["threadId"] };
        let thread = member_at(line, params, path);
        let Some(thread) = thread.and_then(|id| text(line, id)).map(|id| ThreadId::new(&id)) else {
            return true;
        };
        if known.meaning == Meaning::TurnStarted {
            self.configs.runs(&thread);
        }
        let delivers = self.threads.notified(line, known.meaning, &thread, params, self.place);
        let unloaded = || {
            let status = member_at(line, params, &["status", "type"]);
            status.is_some_and(|status| is_text(line, status, b"notLoaded"))
        };
        if known.meaning == Meaning::StatusChanged && self.threads.link(&thread) == Link::Lost && !unloaded()
        {
            // Another client has resumed it: what happens there is for this one, too.
            self.resume(&thread);
        }
        delivers
    }

    /// Sends again what a daemon has refused that was about to be upgraded, before what the client has sent since: it goes
    /// on after all.
    fn send_returned_again(&mut self) {
        self.returned_wait = self.client_line_open;
        if self.returned_wait {
            // Nothing comes between the parts of a line.
            return;
        }
        let mut first = Vec::new();
        for place in self.requests.places() {
            let Some(request) = self.requests.get(place).filter(|it| it.progress == Progress::Returned)
            else {
                continue;
            };
            let thread = request.thread.clone().filter(|_| request.needs_thread);
            let state = thread.and_then(|thread| self.threads.get_mut(&thread));
            let waits = state.is_some_and(|state| {
                matches!(state.link, Link::Lost | Link::Resuming) || !state.waiting.is_empty()
            });
            self.requests.set(place, Progress::Waiting);
            if waits {
                self.route(place);
            } else {
                first.push(place);
            }
        }
        self.queue.push_requests_first(first);
    }

    fn own_answered(&mut self, own: Own, line: &[u8], failed: bool, body: Span) {
        // Of a daemon that ends: the next one is asked again.
        let lost = || own_error(line, body).is_some_and(|error| error.is_of_the_end());
        match own {
            Own::Resume(_) | Own::Decide(..) if failed && lost() => {}
            Own::Resume(thread) => {
                let Some(state) = self.threads.get_mut(&thread) else { return };
                if failed {
                    state.link = Link::Gone;
                } else {
                    let status = member_at(line, body.start, &["thread", "status", "type"]);
                    state.resumed(status.is_some_and(|status| is_text(line, status, b"active")));
                    self.start_queue(&thread);
                }
                self.go_on(&thread);
            }
            Own::Decide(place, thread) => {
                if let Some(state) = self.threads.get_mut(&thread) {
                    state.waiting.pop_front();
                    state.deciding = false;
                }
                if failed {
                    self.refuse(place, Delivered::Maybe);
                } else {
                    self.decide(place, &thread, line, body);
                }
                self.go_on(&thread);
            }
            Own::Watch(watch) => {
                if self.handshake.wants("fs/changed")
                    && let Some(changed) = self.resources.changed(&watch)
                {
                    self.push_client(&changed);
                }
            }
            // It is empty, or something runs already: codex says which, and nobody needs to know.
            Own::StartQueue => {}
        }
    }

    /// A response of more bytes than are kept: only that there is one is known.
    fn own_answered_at_length(&mut self, own: Own) {
        match own {
            Own::Resume(thread) => {
                if let Some(state) = self.threads.get_mut(&thread) {
                    state.resumed(false);
                }
                self.go_on(&thread);
            }
            Own::Decide(place, thread) => {
                if let Some(state) = self.threads.get_mut(&thread) {
                    state.waiting.pop_front();
                    state.deciding = false;
                }
                self.refuse(place, Delivered::Maybe);
                self.go_on(&thread);
            }
            Own::Watch(_) | Own::StartQueue => {}
        }
    }

    /// Decides by the latest turns of a thread whether a `turn/start` was carried out: then its turn is the answer, and its
    /// end follows unless the client has that. Else it is written again.
    fn decide(&mut self, place: u64, thread: &ThreadId, line: &[u8], body: Span) {
        let message_id = self.requests.get(place).and_then(|request| request.message_id.clone());
        let found = message_id.and_then(|message_id| turn_of(body.of(line), &message_id));
        let Some(found) = found else {
            self.requests.set(place, Progress::Waiting);
            return self.queue.push(Entry::Request(place));
        };
        self.answer_with_turn(place, &found.object);
        let id = found.id.as_bytes();
        if found.status == "inProgress" || self.threads.knows_turn(thread, id) {
            return;
        }
        let loss = self.loss();
        let end =
            TurnEnd { thread, answer: None, error_sent: None, loss: &loss, generation: self.generation };
        if found.status == "completed" {
            let mut line = b"{\"method\":\"turn/completed\",\"params\":{\"threadId\":".to_vec();
            crate::json::edit::write_text(&mut line, thread.as_bytes());
            line.extend_from_slice(b",\"turn\":");
            line.extend_from_slice(&found.object);
            line.extend_from_slice(b",\"codexd\":{\"synthetic\":true}}}");
            self.notify("turn/completed", &line);
        } else {
            let (error, turn) = (end.error(id), end.turn(id, &found.object));
            self.notify("error", &error);
            self.notify("turn/completed", &turn);
        }
        self.threads.close_turn(thread, id);
    }

    fn initialize_answered(&mut self, line: &[u8], bare: &[u8], failed: bool, body: Span) -> Delivery {
        if failed {
            if own_error(bare, body).is_some_and(|error| error.retryable && !error.delivered) {
                let message = member_at(bare, body.start, &["message"]).map(|span| span.of(bare));
                self.refusal = message.and_then(|text| serde_json::from_slice(text).ok());
                return Delivery::Elsewhere;
            }
            if let Some(why) = cannot_start(bare, body) {
                return Delivery::NoDaemon(why);
            }
        }
        if let Some(span) = member_at(bare, body.start, &["codexd", "generation"]) {
            self.generation =
                std::str::from_utf8(span.of(bare)).ok().and_then(|n| n.parse().ok()).unwrap_or(0);
        }
        self.deferred = false;
        if self.handshake.stage == Stage::Repeated {
            if failed {
                return Delivery::Elsewhere;
            }
            self.handshake.stage = Stage::Done;
            self.refusal = None;
            self.back();
            for thread in self.threads.wake() {
                self.resume(&thread);
            }
            return Delivery::Done;
        }
        let place = self.handshake.awaited();
        if failed {
            // The client may try again in other words.
            self.handshake.reset();
        } else {
            self.handshake.stage = Stage::Done;
        }
        self.refusal = None;
        self.restarted = None;
        if let Some(place) = place {
            self.requests.remove(place);
        }
        self.to_client.extend_from_slice(line);
        Delivery::Done
    }

    /// The client has a daemon again, and learns of it if it had something in the last one.
    fn back(&mut self) {
        let Some((reason, down_ms)) = self.restarted.take().filter(|_| self.attached) else { return };
        let mut line = b"{\"method\":\"".to_vec();
        line.extend_from_slice(RESTARTED.as_bytes());
        line.extend_from_slice(b"\",\"params\":{\"generation\":");
        write_u64(&mut line, self.generation);
        line.extend_from_slice(b",\"reason\":");
        write_string(&mut line, &reason);
        line.extend_from_slice(b",\"downMs\":");
        write_u64(&mut line, down_ms);
        line.extend_from_slice(b"}}");
        self.notify(RESTARTED, &line);
    }

    /// Sends the client a notification that it has not opted out of.
    fn notify(&mut self, method: &str, line: &[u8]) {
        if self.handshake.wants(method) {
            self.push_client(line);
        }
    }

    fn push_client(&mut self, line: &[u8]) {
        self.to_client.extend_from_slice(line);
        self.to_client.push(b'\n');
    }

    // ---- the loss of a daemon ------------------------------------------------------------------

    /// Returns why the daemon was lost, in one sentence.
    pub fn why_lost(&self) -> String {
        match (&self.closing, &self.announced) {
            (Some(why), _) => format!("codexd closed the connection ({why})"),
            (None, Some(announced)) => format!("the connection to codexd was lost ({})", announced.reason),
            (None, None) => "the connection to codexd was lost".to_owned(),
        }
    }

    fn loss(&self) -> Loss {
        Loss { reason: REASON, message: self.why_lost() }
    }

    /// The daemon is lost: what may have been carried out gets its answer, what was open its end, and everything else waits
    /// for the next daemon.
    ///
    /// Whether one is wanted at once: see [`ConnectionState::wants_daemon`].
    pub fn lost(&mut self) {
        let loss = self.loss();
        let intended = self.announced.as_ref().is_some_and(|announced| announced.intended);
        self.connected = false;
        self.deferred = false;
        self.returned_wait = false;
        self.drops_daemon_line = false;
        self.own.clear();
        let (entries, written) = self.queue.take();
        let mut others = Vec::new();
        for (index, entry) in entries.into_iter().enumerate() {
            match entry {
                // Without its last byte but for white space, the daemon could not read it.
                Entry::Request(place) if index == 0 && written > 0 => {
                    let line = self.requests.get(place).and_then(|request| request.line.as_deref());
                    if line.is_some_and(|line| line[..written].trim_ascii_end() == line.trim_ascii_end()) {
                        self.requests.set(place, Progress::Written);
                    }
                }
                Entry::Other { place, line } if index > 0 || written == 0 => others.push((place, line)),
                _ => {}
            }
        }
        self.drops_client_line = self.client_line_open;
        let awaited = self.handshake.awaited();
        for place in self.requests.places().into_iter().filter(|place| Some(*place) != awaited) {
            self.request_lost(place, &loss.message);
        }
        let mut lines: Vec<(&str, Vec<u8>)> = Vec::new();
        lines.extend(self.server_requests.lost().into_iter().map(|line| ("serverRequest/resolved", line)));
        lines.extend(self.resources.lost().into_iter().map(|line| ("process/exited", line)));
        let ends = self.threads.lost(&loss, self.generation);
        let ended = !ends.is_empty();
        lines.extend(ends.into_iter().map(|end| (end.method, end.line)));
        for (method, line) in lines {
            self.notify(method, &line);
        }
        let goes_on = ended || self.threads.any_lost() || self.resources.has_watches();
        self.wants_next |= goes_on && !intended;
        self.joins_next |= goes_on && intended;
        // In the client's order.
        let mut waiting: Vec<(u64, Option<Vec<u8>>)> =
            others.into_iter().map(|(place, line)| (place, Some(line))).collect();
        waiting.extend(
            self.requests.places().into_iter().filter(|it| Some(*it) != awaited).map(|it| (it, None)),
        );
        waiting.sort_by_key(|(place, _)| *place);
        for (place, line) in waiting {
            match line {
                Some(line) => self.queue.push(Entry::Other { place, line }),
                None => self.route(place),
            }
        }
        if self.handshake.stage == Stage::Done {
            self.restarted.get_or_insert((loss.message, 0));
        }
    }

    /// Decides what becomes of a request without an answer.
    fn request_lost(&mut self, place: u64, message: &str) {
        let Some(request) = self.requests.get(place) else { return };
        let message = format!("{message} before this was answered");
        let earlier = if request.may_have_run { Delivered::Maybe } else { Delivered::No };
        match (request.progress, request.line.is_some()) {
            (Progress::Undecided, _) => {}
            (Progress::Waiting | Progress::Returned, true) => self.requests.set(place, Progress::Waiting),
            (Progress::Waiting | Progress::Returned, false) => {
                self.refuse_because(place, earlier, &message);
            }
            (Progress::Written, true) if request.repeatable => {
                self.requests.may_have_run(place);
                self.requests.set(place, Progress::Waiting);
            }
            (Progress::Written, _) => {
                if !self.turn_may_have_started(place) {
                    self.refuse_because(place, Delivered::Maybe, &message);
                }
            }
        }
    }

    /// A daemon is connected; there was none for so many milliseconds. It gets the handshake first, and the client's
    /// watches.
    pub fn connected(&mut self, down_ms: u64) {
        self.connected = true;
        self.announced = None;
        self.closing = None;
        self.threads.set_daemon_ends(false);
        if let Some((_, down)) = &mut self.restarted {
            *down = down_ms;
        }
        self.wants_next = false;
        self.joins_next = false;
        let mut first = self.handshake.repeat();
        for watch in self.resources.watches() {
            let requests = &self.requests;
            let id = self.own.register(Own::Watch(watch.clone()), |id| requests.has_id(id));
            first.extend(self.resources.restoring(&watch, &id).map(Entry::Own));
        }
        self.queue.push_front(first);
    }

    /// No daemon can be had any more: every request gets its answer.
    pub fn give_up(&mut self, message: &str) {
        let message = format!("{message} before this was answered");
        for place in self.requests.places() {
            let Some(request) = self.requests.get(place) else { continue };
            let delivered = match request.progress {
                _ if request.may_have_run => Delivered::Maybe,
                Progress::Undecided => Delivered::Maybe,
                Progress::Written if Some(place) != self.handshake.awaited() => Delivered::Maybe,
                _ => Delivered::No,
            };
            self.refuse_because(place, delivered, &message);
        }
        self.queue.take();
    }

    /// Records that the client gets the refusal of its handshake. Returns false if an earlier daemon has initialized it:
    /// then it must not see the refusal.
    pub fn refused(&mut self) -> bool {
        let awaited = self.handshake.awaited();
        self.handshake.reset();
        if let Some(place) = awaited {
            self.requests.remove(place);
        }
        awaited.is_some()
    }

    // ---- queries -------------------------------------------------------------------------------

    /// Whether the response to `initialize` is pending.
    pub fn awaits_initialize(&self) -> bool {
        self.handshake.is_pending()
    }

    /// Returns the message of the last daemon that refused this client.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// Returns why the daemon closes the connection, if it has sent that.
    pub fn closing(&self) -> Option<&str> {
        self.closing.as_deref()
    }

    /// Returns the number of requests without an answer.
    pub fn unanswered(&self) -> usize {
        self.requests.len()
    }

    /// Whether the daemon kept something for the client.
    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// Returns how many bytes are kept, for tests that look for what is never forgotten.
    #[doc(hidden)]
    pub fn kept_bytes(&self) -> usize {
        self.queue.bytes() + self.requests.waiting_bytes()
    }
}

/// Describes a request; its line is still to be added.
fn describe(
    line: &[u8],
    id: RequestId,
    method: &[u8],
    params: Option<&Params>,
    known: Option<&'static routes::Request>,
) -> Request {
    let order = known.map_or(&[][..], |known| known.order);
    let value = |name| params.and_then(|params| params.get(name, order));
    let thread = value(known.and_then(|known| known.thread).unwrap_or("threadId"))
        .and_then(|value| text(line, value))
        .map(|text| ThreadId::from_text(&text).unwrap_or_else(|| ThreadId::new(&text)));
    let reads = known.is_some_and(routes::Request::only_reads) || is_passing(method);
    // What a resume or an unsubscribe does, it can do twice.
    let repeatable = reads || matches!(method, b"thread/resume" | b"thread/unsubscribe");
    let loads_itself = matches!(
        method,
        b"thread/resume"
            | b"thread/fork"
            | b"thread/archive"
            | b"thread/delete"
            | b"thread/unarchive"
            | b"thread/unsubscribe"
    );
    let given = |name| value(name).is_some_and(|span| !matches!(span.of(line), b"null" | b"\"\""));
    let resumes = *method == *b"thread/resume" && !given("path") && !given("history");
    let opens = matches!(method, b"thread/start" | b"thread/resume" | b"thread/fork");
    let config = params.filter(|_| opens).and_then(|params| config::given(line, params, order));
    let message_id = params.filter(|_| *method == *b"turn/start").and_then(|params| {
        let value =
            Members::new(line, params.span.start).find(|it| it.is(line, b"clientUserMessageId"))?.value;
        Some(text(line, value)?.into())
    });
    Request {
        id,
        effect: known.map_or(Effect::None, |known| effect(line, known, value)),
        needs_thread: thread.is_some() && !reads && !loads_itself,
        thread,
        attaches: !reads,
        repeatable,
        resumes,
        config,
        message_id,
        progress: Progress::Waiting,
        may_have_run: false,
        line: None,
    }
}

fn effect(line: &[u8], known: &routes::Request, value: impl Fn(&'static str) -> Option<Span>) -> Effect {
    if let Route::Namespace { resource, id, opens } = known.route
        && (opens || known.method == resource.close_method())
    {
        let id = value(id).and_then(|id| text(line, id));
        return id.map_or(Effect::None, |id| Effect::Resource { resource, id: id.into(), opens });
    }
    if known.route == Route::Unsubscribe {
        return Effect::Leaves;
    }
    match known.effect {
        RequestEffect::Start | RequestEffect::Resume | RequestEffect::Fork => Effect::Opens,
        RequestEffect::Subscribe | RequestEffect::Revert => Effect::Subscribes,
        RequestEffect::DropSubscriptions => Effect::Leaves,
        RequestEffect::StartTurn => Effect::StartsTurn { review: false },
        RequestEffect::StartReview => Effect::StartsTurn { review: true },
        RequestEffect::None | RequestEffect::WindowsSetup | RequestEffect::Read => Effect::None,
    }
}

/// Whether a request leaves nothing behind in the daemon: it only reads. Of methods that are not known to, the contrary is
/// assumed.
fn is_passing(method: &[u8]) -> bool {
    matches!(method, b"initialize" | b"server/diagnostics" | b"broker/status")
        || method.ends_with(b"/list")
        || method.ends_with(b"/read")
}

/// An error of codexd's own.
struct OwnError {
    code: i64,
    delivered: bool,
    retryable: bool,
    is_draining: bool,
    is_upgrading: bool,
}

impl OwnError {
    /// Whether the daemon gives it because it ends, or is about to.
    fn is_of_the_end(&self) -> bool {
        self.code == UPSTREAM_LOST || self.code == OVERLOADED && (self.is_draining || self.is_upgrading)
    }
}

/// Reads an error of codexd's own; `None` if it is codex's.
fn own_error(line: &[u8], body: Span) -> Option<OwnError> {
    let own = member_at(line, body.start, &["data", "codexd"])?;
    let value = |name: &[u8]| member(line, own.start, name);
    Some(OwnError {
        code: std::str::from_utf8(member(line, body.start, b"code")?.of(line)).ok()?.parse().ok()?,
        delivered: !value(b"delivered").is_some_and(|it| is_text(line, it, b"no")),
        retryable: value(b"retryable").is_some_and(|it| it.of(line) == b"true"),
        is_draining: value(b"reason").is_some_and(|it| is_text(line, it, b"draining")),
        is_upgrading: value(b"reason").is_some_and(|it| is_text(line, it, UPGRADING_REASON.as_bytes())),
    })
}

/// Returns why no daemon can start, if this error says that: a daemon that a service manager started answers
/// so before it exits.
fn cannot_start(line: &[u8], body: Span) -> Option<String> {
    let reason = member_at(line, body.start, &["data", "codexd", "reason"])?;
    if !is_text(line, reason, b"startFailed") {
        return None;
    }
    let value =
        |path: &[&str]| serde_json::from_slice::<Value>(member_at(line, body.start, path)?.of(line)).ok();
    let code = value(&["data", "codexd", "exitCode"])?;
    let message = value(&["message"])?;
    let message = message.as_str()?;
    let why = message.strip_prefix("codexd cannot start: ").unwrap_or(message);
    Some(format!("the daemon did not start (exit code {code}): {why}"))
}

/// A turn in a list.
struct Found {
    id: String,
    status: String,
    object: Vec<u8>,
}

/// Finds the turn with this client's message in the result of `thread/turns/list`.
fn turn_of(result: &[u8], message_id: &[u8]) -> Option<Found> {
    let result: Value = serde_json::from_slice(result).ok()?;
    let message_id = std::str::from_utf8(message_id).ok()?;
    let is_it = |item: &Value| item["type"] == "userMessage" && item["clientId"] == message_id;
    let turns = result["data"].as_array()?;
    let turn =
        turns.iter().find(|turn| turn["items"].as_array().is_some_and(|items| items.iter().any(is_it)))?;
    Some(Found {
        id: turn["id"].as_str()?.to_owned(),
        status: turn["status"].as_str().unwrap_or_default().to_owned(),
        object: serde_json::to_vec(turn).ok()?,
    })
}
