//! The core: owns router, lifecycle and every file descriptor of the data plane.
//!
//! # Theory of operation
//!
//! Everything here runs on one thread. The [`Hub`] is a value in a `RefCell`; the tasks around it (one
//! for each client, one for the upstream, one that accepts, and the [core loop](run())) only wait for
//! readiness and then call it. No call waits, so the borrow never lasts beyond one.
//!
//! A call handles what one read brought. What it left to write is written once everybody who was ready
//! has been read: each peer that has something new gets one `write` with all of it
//! ([`Hub::settle`]). There is no task, channel or allocation per message.
//!
//! What to do is decided in `codexd-proto`; here it is done.

mod accept;
mod client;
mod closing;
mod effect;
mod reload;
mod report;
mod run;
mod tasks;
mod upstream;

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use codexd_proto::health::Health;
use codexd_proto::id::ClientId;
use codexd_proto::lifecycle::{Event, Lifecycle, State, Timeouts};
use codexd_proto::router::{Action, Router};
use codexd_proto::status::StatusReport;
use codexd_proto::time::Time;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::control::Publisher;
use crate::os::open_files::OpenFiles;
use crate::serve::listener::SocketFile;
use crate::serve::upstream::process::{Pipes, Signals};
use crate::settings::Settings;
use crate::settings::reload::Reloader;
use crate::start::Report;
use client::Connection;
use upstream::UpstreamIo;

pub(crate) use run::{Ended, Run, run};

/// Bytes read from a peer at once.
const READ_BYTES: usize = 256 << 10;

/// Shared by the tasks of the core's thread.
pub(crate) type SharedHub = Rc<RefCell<Hub>>;

/// The core. See the [module's documentation](self).
pub(crate) struct Hub {
    clock: Instant,
    router: Router,
    lifecycle: Lifecycle,
    health: Health,
    connections: FxHashMap<ClientId, Connection>,
    /// Connections that have to go on by a time.
    deadlines: BTreeSet<(Time, ClientId)>,
    upstream: UpstreamIo,
    /// The path of the client socket, until it is given up.
    socket_file: Option<SocketFile>,
    /// The socket belongs to a service manager: who waits there is for the next daemon.
    inherited: bool,
    /// Cancelled when nobody new is to be accepted.
    door: CancellationToken,
    /// Wakes the core loop: a deadline may have moved, or the life may be over.
    wake: Rc<Notify>,
    /// Until when the core loop sleeps.
    sleeps_until: Option<Time>,
    /// Wakes the task that settles what clients' calls left.
    settler: Option<Waker>,
    events: VecDeque<Event>,
    /// Room for one read, shared by all peers: only an unfinished line is kept per peer.
    scratch: Vec<u8>,
    /// The part of the status that does not change.
    identity: StatusReport,
    publisher: Publisher,
    reloader: Reloader,
    start: Report,
    max_clients: usize,
    /// Clients for which there are files; more wait at the door.
    clients_with_files: usize,
    /// Wakes who accepts when a client has gone.
    room: Rc<Notify>,
    /// Clients are not read, because the upstream does not take what there is.
    paused: bool,
    /// Clients that are not read, because the upstream does not take what they have sent.
    held_up: BTreeSet<ClientId>,
    /// Why nobody can be accepted at the moment.
    cannot_accept: Option<String>,
    max_message_bytes: usize,
    idle_exit_ms: Option<u64>,
    idle_since: Option<Time>,
    /// When an unused daemon looks next whether it can still be found.
    looks_at: Time,
    refused: u64,
    /// How the upstream ended, in words, for the record.
    ended: Option<String>,
}

/// What the hub is made of.
pub(crate) struct Parts {
    pub(crate) clock: Instant,
    pub(crate) router: Router,
    pub(crate) pipes: Pipes,
    pub(crate) signals: Signals,
    /// `None` where an inherited socket has no path.
    pub(crate) socket_file: Option<SocketFile>,
    pub(crate) inherited: bool,
    pub(crate) identity: StatusReport,
    pub(crate) publisher: Publisher,
    pub(crate) reloader: Reloader,
    pub(crate) start: Report,
    pub(crate) files: OpenFiles,
}

impl Hub {
    pub(crate) fn new(parts: Parts, settings: &Settings) -> Hub {
        let ms = |limit: crate::settings::duration::TimeLimit| limit.as_duration().map(millis);
        let timeouts = Timeouts { drain_ms: ms(settings.drain_timeout), ..Timeouts::default() };
        Hub {
            clock: parts.clock,
            router: parts.router,
            lifecycle: Lifecycle::new(timeouts, Time::ZERO),
            health: Health::new(ms(settings.probe_interval), ms(settings.probe_timeout), Time::ZERO),
            connections: FxHashMap::default(),
            deadlines: BTreeSet::new(),
            upstream: UpstreamIo::new(parts.pipes, parts.signals, settings.limits.max_message_bytes),
            socket_file: parts.socket_file,
            inherited: parts.inherited,
            door: CancellationToken::new(),
            wake: Rc::new(Notify::new()),
            sleeps_until: None,
            settler: None,
            events: VecDeque::new(),
            scratch: vec![0; READ_BYTES],
            identity: parts.identity,
            publisher: parts.publisher,
            reloader: parts.reloader,
            start: parts.start,
            max_clients: settings.limits.max_clients,
            clients_with_files: parts.files.clients(),
            room: Rc::new(Notify::new()),
            paused: false,
            held_up: BTreeSet::new(),
            cannot_accept: None,
            max_message_bytes: settings.limits.max_message_bytes,
            idle_exit_ms: ms(settings.idle_exit),
            idle_since: None,
            looks_at: Time::ZERO,
            refused: 0,
            ended: None,
        }
    }

    /// Returns the time on the daemon's clock.
    fn now(&self) -> Time {
        Time::from_millis(millis(self.clock.elapsed()))
    }

    /// Takes in an event of the lifecycle; [`Hub::settle`] handles it.
    fn happened(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// Has [`Hub::settle`] called after the calls of all peers that are ready now.
    fn settle_soon(&self) {
        if let Some(settler) = &self.settler {
            settler.wake_by_ref();
        }
    }

    /// Settles whenever it was asked for. Ready when the life is over.
    fn poll_settle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.settler {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        self.settle();
        if self.lifecycle.state() == State::Exited { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Writes what there is to write and does what there is to do, until nothing is left.
    ///
    /// To be called at the end of every call from outside.
    fn settle(&mut self) {
        loop {
            self.write_clients();
            self.write_upstream();
            if let Some(action) = self.router.poll_action() {
                self.act(action);
            } else if let Some(event) = self.events.pop_front() {
                self.handle(event);
            } else if let Some(event) = self.reached() {
                self.handle(event);
            } else {
                break;
            }
        }
        self.resume_clients();
        self.watch_idleness();
        if let Some(due) = self.next_due()
            && self.sleeps_until.is_none_or(|until| due < until)
        {
            self.sleeps_until = Some(due);
            self.wake.notify_one();
        }
    }

    /// Says what the current state waits for, once it is the case.
    fn reached(&self) -> Option<Event> {
        match self.lifecycle.state() {
            State::Draining | State::Interrupting if self.router.is_quiet() => Some(Event::Quiet),
            State::Flushing if !self.has_unwritten() => Some(Event::Flushed),
            _ => None,
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Close { client, reason } => self.close(client, reason),
            Action::UpstreamReady => {
                self.finish_half_closed();
                self.happened(Event::HandshakeDone);
            }
            Action::UpstreamRefused { message } => {
                tracing::error!(error = message, "codex app-server refused the handshake");
                self.ended = Some(format!("refused the handshake: {message}"));
                self.happened(Event::HandshakeRefused);
            }
            // Any message is life: it was noted when it came.
            Action::PingAnswered => {}
            Action::ShutdownRequested { client } => {
                tracing::info!(client.id = client.0, "a client asked the daemon to stop");
                self.happened(Event::StopRequested(codexd_proto::lifecycle::StopSource::Client));
            }
            Action::UpstreamMalformed => {
                tracing::error!("codex app-server wrote something that is no message");
                self.happened(Event::UpstreamMalformed);
            }
        }
    }

    /// Notes since when nobody needs the daemon.
    fn watch_idleness(&mut self) {
        if self.idle_exit_ms.is_none() {
            return;
        }
        let idle = self.lifecycle.state() == State::Serving && self.router.is_unused();
        match (idle, self.idle_since) {
            (true, None) => {
                self.idle_since = Some(self.now());
                self.looks_at = self.now();
                self.wake.notify_one();
            }
            (false, Some(_)) => self.idle_since = None,
            _ => {}
        }
    }
}

/// Returns whole milliseconds.
fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
