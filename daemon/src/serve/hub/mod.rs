//! The hub: every file descriptor of the data plane, and the [`Core`] that decides what happens to them.
//!
//! # Theory of operation
//!
//! Everything here runs on one thread. The [`Hub`] is a value in a `RefCell`; the tasks around it (one for each
//! client, one for the upstream, one that accepts, and the [core loop](run())) only wait for readiness and then call
//! it. No call waits, so the borrow never outlives one.
//!
//! A call reports what one read returned. Bytes and effects that follow are written and carried out when all ready
//! descriptors have been read: each peer with new bytes gets one `write` for all of them ([`Hub::flush`]). There is
//! no task, channel or allocation per message.
//!
//! Nothing is decided here: [`Core`] returns effects, and [`Hub::carry_out`] carries them out.

mod accept;
mod activity;
mod apply_settings;
mod client_io;
mod effect;
mod ending;
mod excess;
mod feed;
mod guard;
mod interrupts;
mod long_message;
pub(crate) mod metrics_port;
mod monitor;
mod report;
mod run;
mod tasks;
mod upgrade;
mod upstream_io;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use codexd_proto::core::{Core, Event};
use codexd_proto::id::ClientId;
use codexd_proto::lifecycle::State;
use codexd_proto::rate_limit::RateLimit;
use codexd_proto::statistics::Histogram;
use codexd_proto::status::StatusReport;
use codexd_proto::time::Time;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::control::Publisher;
use crate::instance::threads;
use crate::ledger::Ledger;
use crate::serve::listener::SocketFile;
use crate::serve::upstream::process::{Pipes, SignalSender};
use crate::settings::reloader::Reloader;
use crate::start::StartupNotifier;
use client_io::ClientIo;
use upstream_io::UpstreamIo;

pub(crate) use run::{Ended, Run, run};

/// Bytes read from a peer at once.
const READ_BYTES: usize = 256 << 10;

/// Shared by the tasks of the core's thread.
pub(crate) type SharedHub = Rc<RefCell<Hub>>;

/// See the [module's documentation](self).
pub(crate) struct Hub {
    clock: Instant,
    core: Core,
    clients: FxHashMap<ClientId, ClientIo>,
    /// Clients that are not read for now, because the upstream does not take what they send.
    unread: BTreeSet<ClientId>,
    upstream: UpstreamIo,
    /// The path of the client socket, until it is given up.
    socket_file: Option<SocketFile>,
    /// The socket belongs to a service manager: clients that wait there are for the next daemon.
    inherited: bool,
    /// Cancelled when no more clients are to be accepted.
    accepting: CancellationToken,
    /// Why no client can be accepted at the moment.
    accept_error: Option<String>,
    /// Client connections that were refused.
    refused: u64,
    /// A client has left or a turn has ended since the memory of codex was looked at.
    check_memory: bool,
    /// When memory is given back, if the daemon is unused then.
    gives_back_at: Option<tokio::time::Instant>,
    /// What only the start needed was not given back yet.
    has_start: bool,
    /// Who looks at the messages, if somebody does.
    monitors: Option<Box<monitor::Monitors>>,
    /// Who waits for the end of a turn that is being interrupted.
    interrupted: Vec<interrupts::Interrupted>,
    /// The upgrade that waits, or for which the daemon ends.
    upgrade: Option<upgrade::Upgrade>,
    /// How many upgrades have begun to wait.
    upgrades: u64,
    /// Since when something was read of which not everything that follows is written.
    read_at: Option<Instant>,
    /// The last reading of the clock. The core must not see the time go back.
    time: Cell<Time>,
    /// How long that took.
    added_latency: Histogram,
    /// Limits the lines about them in the log.
    refusals: RateLimit,
    /// Wakes the core loop: a deadline may have moved, or the daemon may have exited.
    wake: Rc<Notify>,
    /// Until when the core loop sleeps.
    sleeps_until: Option<Time>,
    /// Wakes the task that flushes after clients' calls.
    flusher: Option<Waker>,
    /// Room for one read, shared by all peers: only an unfinished line is kept per peer.
    scratch: Vec<u8>,
    /// The part of the status that does not change.
    base_status: StatusReport,
    publisher: Publisher,
    reloader: Reloader,
    start: StartupNotifier,
    /// Takes what is to be remembered of threads.
    threads: threads::Changes,
    max_message_bytes: usize,
    ledger: Ledger,
}

/// What the hub is made of.
pub(crate) struct Parts {
    pub(crate) clock: Instant,
    pub(crate) core: Core,
    pub(crate) pipes: Pipes,
    pub(crate) signals: SignalSender,
    /// `None` where an inherited socket has no path.
    pub(crate) socket_file: Option<SocketFile>,
    pub(crate) inherited: bool,
    pub(crate) base_status: StatusReport,
    pub(crate) publisher: Publisher,
    pub(crate) reloader: Reloader,
    pub(crate) start: StartupNotifier,
    pub(crate) threads: threads::Changes,
    /// Bytes of the longest message of a client.
    pub(crate) max_message_bytes: usize,
    pub(crate) ledger: Ledger,
}

impl Hub {
    pub(crate) fn new(parts: Parts) -> Hub {
        Hub {
            clock: parts.clock,
            core: parts.core,
            clients: FxHashMap::default(),
            unread: BTreeSet::new(),
            upstream: UpstreamIo::new(parts.pipes, parts.signals, parts.max_message_bytes),
            socket_file: parts.socket_file,
            inherited: parts.inherited,
            accepting: CancellationToken::new(),
            accept_error: None,
            refused: 0,
            check_memory: false,
            gives_back_at: None,
            has_start: true,
            monitors: None,
            upgrade: None,
            upgrades: 0,
            read_at: None,
            time: Cell::new(Time::ZERO),
            added_latency: Histogram::default(),
            interrupted: Vec::new(),
            refusals: RateLimit::new(1, 60_000),
            wake: Rc::new(Notify::new()),
            sleeps_until: None,
            flusher: None,
            scratch: vec![0; READ_BYTES],
            base_status: parts.base_status,
            publisher: parts.publisher,
            reloader: parts.reloader,
            start: parts.start,
            threads: parts.threads,
            max_message_bytes: parts.max_message_bytes,
            ledger: parts.ledger,
        }
    }

    /// Returns the time on the daemon's clock.
    fn now(&self) -> Time {
        self.time_at(Instant::now())
    }

    fn time_at(&self, at: Instant) -> Time {
        let since = at.saturating_duration_since(self.clock);
        let time = Time::from_millis(since.as_secs() * 1_000 + u64::from(since.subsec_millis()));
        self.time.set(time);
        time
    }

    /// Records that something was read just now. Returns the time.
    fn read_now(&mut self) -> Time {
        let at = Instant::now();
        self.read_at.get_or_insert(at);
        self.time_at(at)
    }

    /// Reports something to the core. [`Hub::flush`] does what follows.
    fn handle(&mut self, event: Event<'_>) {
        let now = self.now();
        self.core.handle(now, event);
    }

    /// Has [`Hub::flush`] called after the calls of all peers that are ready now.
    fn flush_soon(&self) {
        if let Some(flusher) = &self.flusher {
            flusher.wake_by_ref();
        }
    }

    /// Flushes whenever it was asked for. Ready when the daemon has exited.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.flusher {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        self.flush();
        if self.core.state() == State::Exited { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Writes what there is to write and does what there is to do, until nothing is left.
    ///
    /// To be called at the end of every call from outside.
    fn flush(&mut self) {
        // What was read was read just now.
        let now = if self.read_at.is_some() { self.time.get() } else { self.now() };
        loop {
            self.write_clients(now);
            self.write_upstream(now);
            match self.core.poll_effect(now) {
                Some(effect) => self.carry_out(now, effect),
                None => break,
            }
        }
        if let Some(read_at) = self.read_at.take() {
            let us = u64::try_from(read_at.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.added_latency.observe_us(us);
        }
        self.log_activity();
        self.check_monitors();
        self.guard_memory();
        self.resume_reading();
        if let Some(due) = self.core.poll_timeout()
            && self.sleeps_until.is_none_or(|until| due < until)
        {
            self.sleeps_until = Some(due);
            self.wake.notify_one();
        }
    }
}
