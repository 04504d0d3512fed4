//! The life of the daemon: in which state it is, what each event does there, and what it exits with.
//!
//! # Theory of operation
//! [`Lifecycle`] is a value. Events go in, [`LifecycleEffect`]s come out, and the shell carries them out in order.
//! There is no flag anywhere else: what codexd is doing is the state, and why it is ending is the [`Intent`],
//! recorded before the first effect that could make the upstream leave. So an upstream that exits 0 on request is
//! distinguished from one that exits 0 by itself; its status alone does not show which (measured: it exits 0 on EOF
//! and on SIGTERM).
//!
//! Every state handles every event, and "nothing" is written down: the function `step` matches on both without a
//! wildcard, and `docs/lifecycle.md` is generated from it.
//!
//! # What is not here
//! codexd does not start a second upstream. When the upstream is lost, clients are notified, the process exits with
//! 1, and its supervisor starts both again.

pub mod end_reason;
mod exit;
mod table;

use crate::exit::ExitCode;
use crate::time::Time;

pub use exit::{ChildStatus, exit_code};
pub use table::{EVENTS, STATES, describe};

/// The state of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Locks, sockets, spawning.
    Starting,
    /// The upstream runs; it has not answered `initialize`.
    Handshaking,
    /// Clients are served.
    Serving,
    /// Clients are served, but for new work: when running turns have ended, the daemon ends for the next one.
    Upgrading,
    /// No new work; what runs may finish until the deadline.
    Draining,
    /// Running turns are interrupted; their ends are awaited for a moment.
    Interrupting,
    /// The upstream's output ended unasked; its exit status is awaited for a moment, so that it can be reported.
    Reaping,
    /// The upstream's input is closed: the first step to end it.
    ClosingInput,
    /// The upstream got SIGTERM.
    Terminating,
    /// The upstream's process group got SIGKILL.
    Killing,
    /// The upstream has gone; the pending replies of clients are being written.
    Flushing,
    /// Nothing is left but to exit.
    Exited,
}

/// Why the daemon ends. Recorded once; a later reason does not replace it, but for [`Intent::Upgrade`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    /// It was requested.
    Stop(StopSource),
    /// The next daemon takes its place, with another codex or codexd (`codexd ctl upgrade`). A stop that an operator
    /// requests before the exit replaces this: then no daemon follows.
    Upgrade,
    /// The upstream ended, or its stream did, without a request to stop.
    UpstreamLost(LossKind),
    /// The upstream could not be started.
    SpawnFailed(ExitCode),
    /// The upstream refused the handshake.
    HandshakeRefused,
}

/// What requested a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopSource {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
    /// The terminal it was started in is gone.
    Hangup,
    /// `codexd ctl stop`.
    Control,
    /// `broker/shutdown` of a client.
    Client,
    /// The daemon was unused for long enough.
    Idle,
}

impl StopSource {
    /// Returns whether a second request moves the daemon on to its next step.
    ///
    /// A signal comes from the supervisor or the user, and a second one means that the stop takes too long. A client
    /// must never end another client's turn, and the control socket has a request of its own for that
    /// ([`LifecycleEvent::KillRequested`]).
    pub const fn insists(self) -> bool {
        matches!(self, StopSource::Terminate | StopSource::Interrupt | StopSource::Hangup)
    }

    /// Returns whether a person or the supervisor has requested the stop.
    pub const fn is_of_an_operator(self) -> bool {
        !matches!(self, StopSource::Client | StopSource::Idle)
    }

    /// Returns the word used in shutdown notices and records.
    pub const fn word(self) -> &'static str {
        match self {
            StopSource::Terminate => "SIGTERM",
            StopSource::Interrupt => "SIGINT",
            StopSource::Hangup => "SIGHUP",
            StopSource::Control => "ctl stop",
            StopSource::Client => "client shutdown",
            StopSource::Idle => "idle",
        }
    }
}

/// How the upstream was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LossKind {
    /// Its process ended.
    Exited,
    /// Its output ended.
    OutputEnded,
    /// Its output contains something that is no message.
    Malformed,
    /// It does not answer.
    Unresponsive,
    /// It never answered the handshake.
    HandshakeTimeout,
}

/// What happens to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LifecycleEvent {
    /// The upstream process runs.
    Spawned,
    /// The upstream process could not be started.
    SpawnFailed(ExitCode),
    /// The upstream answered `initialize`.
    HandshakeDone,
    /// The upstream answered `initialize` with an error.
    HandshakeRefused,
    /// The upstream process ended, and what it had written was read.
    UpstreamExited(ChildStatus),
    /// The upstream's output ended.
    UpstreamEof,
    /// The upstream wrote something that is no message.
    UpstreamMalformed,
    /// The upstream does not answer.
    UpstreamUnresponsive,
    /// The daemon is to end when it can.
    StopRequested(StopSource),
    /// The daemon is to end soon: running turns are interrupted.
    InterruptRequested(StopSource),
    /// The daemon is to end at once.
    KillRequested(StopSource),
    /// The next daemon is to take the place of this one as soon as nothing runs, within so many milliseconds or not at
    /// all; `None`: no limit.
    UpgradeRequested(Option<u64>),
    /// The daemon is not to be replaced after all.
    UpgradeCalledOff,
    /// No turn and no request runs any more.
    Quiet,
    /// All pending replies are written, or their clients are gone.
    Flushed,
    /// A timer fired.
    TimerFired(LifecycleTimer),
}

/// Named deadlines. Each state has at most one running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LifecycleTimer {
    /// The upstream has to answer `initialize`.
    Handshake,
    /// Running turns have to finish before an upgrade, or it is called off.
    Upgrade,
    /// Running turns have to finish.
    Drain,
    /// Interrupted turns have to report their end.
    Interrupt,
    /// The exit status has to follow the end of the output.
    Reap,
    /// The upstream has to leave after its input was closed.
    Input,
    /// The upstream has to leave after SIGTERM.
    Terminate,
    /// The upstream has to be gone after SIGKILL.
    Kill,
    /// The pending replies of clients have to be written.
    Flush,
}

/// What the shell has to do. Carried out in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LifecycleEffect {
    /// Notify the supervisor, and the process that waits for the start, that clients are served.
    Ready,
    /// Accept no more clients and give up the socket path.
    StopListening,
    /// Notify the supervisor that the daemon is stopping.
    NotifyStopping,
    /// Refuse new work until [`LifecycleEffect::AcceptNewWork`], and notify clients of that.
    RefuseNewWork,
    /// Accept new work again, and notify clients of that.
    AcceptNewWork,
    /// Refuse new work and send the shutdown notice: until when running turns can go on.
    SendShutdownNotice,
    /// Interrupt running turns.
    InterruptTurns,
    /// Resolve every pending request and open turn, and send the shutdown notice.
    ResolveClients,
    /// Close the upstream's input.
    CloseInput,
    /// Send SIGTERM to the upstream.
    Terminate,
    /// Send SIGKILL to the upstream's process group.
    Kill,
    /// End leftover processes of the upstream.
    Sweep,
    /// Close all connections.
    CloseClients,
    /// Start this timer instead of the one that runs.
    Arm(LifecycleTimer),
    /// Stop the timer that runs.
    Disarm,
}

/// How long the named timers run, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// [`LifecycleTimer::Handshake`].
    pub handshake_ms: u64,
    /// [`LifecycleTimer::Upgrade`], of the request; `None` waits for ever.
    pub upgrade_ms: Option<u64>,
    /// [`LifecycleTimer::Drain`]; `None` waits for ever.
    pub drain_ms: Option<u64>,
    /// [`LifecycleTimer::Interrupt`].
    pub interrupt_ms: u64,
    /// [`LifecycleTimer::Reap`].
    pub reap_ms: u64,
    /// [`LifecycleTimer::Input`].
    pub input_ms: u64,
    /// [`LifecycleTimer::Terminate`].
    pub terminate_ms: u64,
    /// [`LifecycleTimer::Kill`].
    pub kill_ms: u64,
    /// [`LifecycleTimer::Flush`].
    pub flush_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            handshake_ms: 30_000,
            upgrade_ms: None,
            drain_ms: Some(30_000),
            interrupt_ms: 5_000,
            reap_ms: 250,
            input_ms: 3_000,
            terminate_ms: 3_000,
            kill_ms: 2_000,
            flush_ms: 500,
        }
    }
}

impl Timeouts {
    /// Returns how long a timer runs; `None` for ever.
    pub const fn of(&self, timer: LifecycleTimer) -> Option<u64> {
        match timer {
            LifecycleTimer::Handshake => Some(self.handshake_ms),
            LifecycleTimer::Upgrade => self.upgrade_ms,
            LifecycleTimer::Drain => self.drain_ms,
            LifecycleTimer::Interrupt => Some(self.interrupt_ms),
            LifecycleTimer::Reap => Some(self.reap_ms),
            LifecycleTimer::Input => Some(self.input_ms),
            LifecycleTimer::Terminate => Some(self.terminate_ms),
            LifecycleTimer::Kill => Some(self.kill_ms),
            LifecycleTimer::Flush => Some(self.flush_ms),
        }
    }

    /// Returns how long a drain and the stop after it may take at most; `None` for ever.
    pub fn longest_stop_ms(&self) -> Option<u64> {
        self.drain_ms.map(|drain| {
            drain + self.interrupt_ms + self.input_ms + self.terminate_ms + self.kill_ms + self.flush_ms
        })
    }
}

/// The life of the daemon. See the [module's documentation](self).
#[derive(Clone, Debug)]
pub struct Lifecycle {
    state: State,
    since: Time,
    intent: Option<Intent>,
    child: Option<ChildStatus>,
    timer: Option<(LifecycleTimer, Time)>,
    timeouts: Timeouts,
}

impl Lifecycle {
    /// Creates the life of a daemon that starts now.
    pub fn new(timeouts: Timeouts, now: Time) -> Lifecycle {
        Lifecycle { state: State::Starting, since: now, intent: None, child: None, timer: None, timeouts }
    }

    /// Returns the state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Returns since when it is in this state.
    pub fn since(&self) -> Time {
        self.since
    }

    /// Returns why the daemon ends, once it does.
    pub fn intent(&self) -> Option<&Intent> {
        self.intent.as_ref()
    }

    /// Returns how the upstream ended, once it has.
    pub fn child(&self) -> Option<ChildStatus> {
        self.child
    }

    /// Returns what the process is to exit with, once it is to.
    pub fn exit_code(&self) -> Option<ExitCode> {
        (self.state == State::Exited).then(|| exit_code(self.intent.as_ref(), self.child))
    }

    /// Returns the timer that runs, and when it fires.
    pub fn timer(&self) -> Option<(LifecycleTimer, Time)> {
        self.timer
    }

    /// Returns when the running timer fires.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.timer.map(|(_, at)| at)
    }

    /// Changes how long running turns may go on; a drain that has begun keeps its deadline.
    pub fn set_drain_ms(&mut self, drain_ms: Option<u64>) {
        self.timeouts.drain_ms = drain_ms;
    }

    /// Returns the milliseconds until running turns are interrupted, if that is bounded.
    pub fn drain_ms(&self) -> Option<u64> {
        self.timeouts.drain_ms
    }

    /// Returns how many milliseconds a drain and the stop after it may take, if that is bounded.
    pub fn longest_stop_ms(&self) -> Option<u64> {
        self.timeouts.longest_stop_ms()
    }

    /// Fires the timer if it is due.
    pub fn handle_timeout(&mut self, now: Time) -> Vec<LifecycleEffect> {
        match self.timer {
            Some((timer, at)) if at <= now => {
                self.timer = None;
                self.handle(now, LifecycleEvent::TimerFired(timer))
            }
            _ => Vec::new(),
        }
    }

    /// Handles an event and returns the effects, in order.
    pub fn handle(&mut self, now: Time, event: LifecycleEvent) -> Vec<LifecycleEffect> {
        if let LifecycleEvent::UpstreamExited(status) = event {
            self.child = Some(status);
        }
        if let LifecycleEvent::UpgradeRequested(within_ms) = event
            && self.state == State::Serving
        {
            self.timeouts.upgrade_ms = within_ms;
        }
        let table::Step { next, intent, effects } = table::step(self.state, event, self.child.is_some());
        if self.intent.is_none() {
            self.intent = intent;
        }
        if let LifecycleEvent::StopRequested(by)
        | LifecycleEvent::InterruptRequested(by)
        | LifecycleEvent::KillRequested(by) = event
            && self.intent == Some(Intent::Upgrade)
            && self.state != State::Exited
            && by.is_of_an_operator()
        {
            self.intent = Some(Intent::Stop(by));
        }
        if let Some(next) = next {
            self.state = next;
            self.since = now;
        }
        for effect in &effects {
            match effect {
                LifecycleEffect::Arm(timer) => {
                    self.timer = self.timeouts.of(*timer).map(|ms| (*timer, now + ms));
                }
                LifecycleEffect::Disarm => self.timer = None,
                _ => {}
            }
        }
        effects
    }
}
