//! The core loop: everything that is neither a client nor the upstream's pipes.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use codexd_proto::exit::ExitCode;
use codexd_proto::health::Verdict;
use codexd_proto::lifecycle::{Event, State, StopSource};
use codexd_proto::time::Time;
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use super::tasks::Tasks;
use super::{Hub, SharedHub, accept, upstream};
use crate::control::{Command, StopMode, StopReceipt};
use crate::error::Error;
use crate::os::service_manager;
use crate::os::signals::{Signals, Wish};
use crate::serve::upstream::{Process, sweep};

/// How long what the upstream left behind may take to die, and how often it is looked for.
const SWEEP_WITHIN: Duration = Duration::from_secs(2);
const SWEEP_EVERY: Duration = Duration::from_millis(5);

/// How often a service manager that waits for the end is asked for more time, and for how much. A core
/// that hangs asks for nothing, and is killed when the last time it was given is over.
const EXTEND_EVERY: Duration = Duration::from_secs(5);
const EXTEND_BY: Duration = Duration::from_secs(20);

/// What the core loop needs beside the hub.
pub(crate) struct Run {
    pub(crate) listener: UnixListener,
    pub(crate) process: Process,
    pub(crate) signals: Signals,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
}

/// How the life ended.
pub(crate) struct Ended {
    pub(crate) code: ExitCode,
    pub(crate) reason: String,
    pub(crate) upstream: Option<String>,
}

/// Runs the daemon until its life is over.
///
/// # Errors
///
/// With exit code 70 when a part of the core panicked; the upstream is killed then.
pub(crate) async fn run(hub: Hub, mut run: Run) -> Result<Ended, Error> {
    let hub: SharedHub = Rc::new(RefCell::new(hub));
    let (tasks, mut panics) = Tasks::new();
    tasks.spawn(accept::serve(hub.clone(), run.listener, tasks.clone()));
    tasks.spawn(upstream::serve(hub.clone()));
    let settled = hub.clone();
    let settling = std::future::poll_fn(move |cx| settled.borrow_mut().poll_settle(cx));
    tasks.spawn(settling);
    hub.borrow_mut().begin();

    let wake = hub.borrow().wake.clone();
    let watchdog = service_manager::watchdog_interval().map(|interval| interval / 2);
    let mut watchdog_at = watchdog.map(|every| tokio::time::Instant::now() + every);
    let mut extend_at = None;
    let mut child_ended = false;
    while hub.borrow().lifecycle.state() != State::Exited {
        let deadline = hub.borrow_mut().sleep_deadline();
        tokio::select! {
            biased;
            wish = run.signals.next() => match wish {
                Wish::Stop(source) => hub.borrow_mut().stop(source, false),
                Wish::Reload => drop(hub.borrow_mut().reload()),
                Wish::ChildEnded => {
                    let upstream = (!child_ended).then(|| run.process.pid());
                    sweep::reap_ended(upstream);
                }
            },
            status = run.process.wait(), if !child_ended => {
                child_ended = true;
                hub.borrow_mut().upstream_exited(status);
            }
            Some(command) = run.commands.recv() => hub.borrow_mut().command(command),
            Some(()) = panics.recv() => {
                if !child_ended {
                    run.process.signals().kill();
                }
                return Err(Error::new(ExitCode::Software, "a part of the core panicked"));
            }
            () = wake.notified() => {}
            () = sleep_until(deadline) => {}
            () = sleep_until(extend_at) => {}
            () = sleep_until(watchdog_at) => {
                if hub.borrow().is_watched_alive() {
                    service_manager::watchdog();
                }
                watchdog_at = watchdog.map(|every| tokio::time::Instant::now() + every);
            }
        }
        hub.borrow_mut().handle_timeouts();
        if hub.borrow().is_ending() && extend_at.is_none_or(|at| at <= tokio::time::Instant::now()) {
            service_manager::extend_timeout(EXTEND_BY);
            extend_at = Some(tokio::time::Instant::now() + EXTEND_EVERY);
        }
    }
    // What was left behind is dead in a moment; nobody else would take it in.
    let sweeping = tokio::time::Instant::now();
    while sweep::sweep((!child_ended).then(|| run.process.pid())) > 0 && sweeping.elapsed() < SWEEP_WITHIN {
        tokio::time::sleep(SWEEP_EVERY).await;
    }
    tasks.finish().await;
    let hub = hub.borrow();
    hub.publish();
    Ok(Ended {
        code: hub.lifecycle.exit_code().unwrap_or(ExitCode::Software),
        reason: hub.reason(),
        upstream: hub.ended.clone(),
    })
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Milliseconds between two looks at the socket's file, of a daemon that nobody uses.
const LOOK_MS: u64 = 5_000;

impl Hub {
    /// The upstream runs.
    fn begin(&mut self) {
        self.happened(Event::Spawned);
        self.settle();
    }

    /// Somebody wants the daemon to end.
    fn stop(&mut self, source: StopSource, at_once: bool) {
        tracing::info!(reason = source.word(), at_once, "asked to stop");
        self.happened(if at_once { Event::KillRequested(source) } else { Event::StopRequested(source) });
        self.settle();
    }

    fn command(&mut self, command: Command) {
        // A reply that nobody waits for any more is no fault.
        match command {
            Command::Status(reply) => drop(reply.send(self.report())),
            Command::Clients(reply) => drop(reply.send(self.client_reports())),
            Command::Reload(reply) => drop(reply.send(self.reload())),
            Command::LogLevel { filter, reply } => {
                self.reloader.set_log(&filter);
                let _ = reply.send(());
            }
            Command::Stop { mode, reply } => {
                let already_stopping = self.lifecycle.intent().is_some();
                self.stop(StopSource::Control, mode == StopMode::Now);
                let report = self.report();
                let draining = self.lifecycle.state() == State::Draining;
                let deadline = self.lifecycle.poll_timeout().filter(|_| draining);
                drop(reply.send(StopReceipt {
                    generation: report.generation,
                    pid: report.pid,
                    state: report.state,
                    open_turns: report.open_turns,
                    clients: report.clients,
                    already_stopping,
                    deadline_ms: deadline.map(|at| at.since(self.now())),
                }));
            }
        }
    }

    /// Returns until when the core loop may sleep, and remembers it: whoever makes something due
    /// earlier wakes the loop.
    fn sleep_deadline(&mut self) -> Option<tokio::time::Instant> {
        self.sleeps_until = self.next_due();
        self.sleeps_until
            .map(|at| tokio::time::Instant::from_std(self.clock + Duration::from_millis(at.as_millis())))
    }

    /// Returns when something is due next.
    pub(super) fn next_due(&self) -> Option<Time> {
        let health = self.watches_health().then(|| self.health.poll_timeout()).flatten();
        let idle = self.idle_since.zip(self.idle_exit_ms).map(|(since, ms)| (since + ms).min(self.looks_at));
        let connection = self.deadlines.first().map(|(at, _)| *at);
        [self.lifecycle.poll_timeout(), self.router.poll_timeout(), health, idle, connection]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due.
    fn handle_timeouts(&mut self) {
        let now = self.now();
        self.handle_lifecycle_timeout();
        if self.router.poll_timeout().is_some_and(|at| at <= now) {
            self.router.handle_timeout(now);
        }
        self.close_expired(now);
        if self.watches_health() {
            self.check_health(now);
        }
        if let (Some(since), Some(ms)) = (self.idle_since, self.idle_exit_ms)
            && (now.since(since) >= ms || self.cannot_be_found(now))
        {
            self.idle_since = None;
            self.happened(Event::StopRequested(StopSource::Idle));
        }
        self.settle();
    }

    /// Looks, now and then, whether the socket is still there: without it nobody will ever need this daemon
    /// again, and who starts the next one has to wait for its end.
    fn cannot_be_found(&mut self, now: Time) -> bool {
        if self.looks_at > now {
            return false;
        }
        self.looks_at = now + LOOK_MS;
        let gone = self.socket_file.as_ref().is_some_and(|file| !file.still_ours());
        if gone {
            tracing::warn!(
                socket.path = self.identity.socket,
                "the socket was removed or replaced, and nobody is connected: stopping"
            );
        }
        gone
    }

    fn check_health(&mut self, now: Time) {
        match self.health.handle_timeout(now) {
            Verdict::Alive => {}
            Verdict::Ask => {
                tracing::debug!("asking codex app-server whether it lives");
                self.router.ping(now);
            }
            Verdict::Unresponsive => {
                tracing::error!(
                    waited_ms = self.health.waited_ms(now),
                    queued_bytes = self.router.upstream_outbox().len(),
                    "codex app-server does not answer"
                );
                self.happened(Event::UpstreamUnresponsive);
            }
        }
    }

    pub(super) fn watches_health(&self) -> bool {
        matches!(self.lifecycle.state(), State::Serving | State::Draining | State::Interrupting)
    }

    /// Tells whether the service manager may be told that all is well.
    ///
    /// That this is asked at all says that the core loop goes round. The upstream is alive as long as the
    /// health check has not said otherwise: with that it leaves the states that are watched, and from
    /// there on each step to the end has a timer of its own.
    fn is_watched_alive(&self) -> bool {
        self.lifecycle.state() != State::Starting
    }

    /// Tells whether the daemon is on its way out.
    fn is_ending(&self) -> bool {
        !matches!(
            self.lifecycle.state(),
            State::Starting | State::Handshaking | State::Serving | State::Exited
        )
    }
}
