//! The core loop: everything that is neither a client nor the upstream's pipes.

use std::cell::RefCell;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::time::Duration;

use codexd_proto::core::Event;
use codexd_proto::exit::ExitCode;
use codexd_proto::lifecycle::{Intent, State, StopSource};
use tokio::io::unix::AsyncFd;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::tasks::Tasks;
use super::upgrade::Upgrade;
use super::{Hub, SharedHub, accept, metrics_port, upstream_io};
use crate::control::{Command, StopMode, StopReceipt};
use crate::error::Error;
use crate::os::service_manager;
use crate::os::signals::{SignalAction, SignalStream};
use crate::serve::upstream::{Process, sweep};
use crate::start::Successor;

/// How long leftover processes of the upstream have to end, and how often they are looked for.
const SWEEP_WITHIN: Duration = Duration::from_secs(2);
const SWEEP_EVERY: Duration = Duration::from_millis(5);

/// How often a service manager that waits for the end is asked for more time, and for how much. A core
/// that hangs asks for nothing, and is killed when the last time it was given is over.
const EXTEND_EVERY: Duration = Duration::from_secs(5);
const EXTEND_BY: Duration = Duration::from_secs(20);

/// What the core loop needs beside the hub.
pub(crate) struct Run {
    pub(crate) listener: AsyncFd<UnixListener>,
    pub(crate) process: Process,
    pub(crate) signals: SignalStream,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    /// Connections of jobs.
    pub(crate) jobs: mpsc::UnboundedReceiver<UnixStream>,
    /// For metrics on loopback.
    pub(crate) metrics: Option<TcpListener>,
}

/// How the life ended.
pub(crate) struct Ended {
    pub(crate) code: ExitCode,
    /// The reason, as codexd states it.
    pub(crate) cause: String,
    /// The reason in one line, with the upstream's own message.
    pub(crate) reason: String,
    /// How the upstream ended.
    pub(crate) upstream: Option<String>,
    /// The last lines of its stderr, if its end was not requested.
    pub(crate) stderr: Vec<String>,
    /// Why this process is to start the next daemon, if it is.
    pub(crate) successor: Option<Successor>,
}

/// Runs the daemon until its life is over.
///
/// # Errors
///
/// With exit code 70 when a part of the core panicked; the upstream is killed then.
pub(crate) async fn run(hub: Hub, mut run: Run) -> Result<Ended, Error> {
    let hub: SharedHub = Rc::new(RefCell::new(hub));
    let (tasks, mut panics) = Tasks::new();
    tasks.spawn(accept::serve(hub.clone(), run.listener, run.jobs, tasks.clone()));
    tasks.spawn(upstream_io::serve(hub.clone()));
    if let Some(listener) = run.metrics.take() {
        tasks.spawn(metrics_port::serve(hub.clone(), listener));
    }
    let flushed = hub.clone();
    tasks.spawn(std::future::poll_fn(move |cx| flushed.borrow_mut().poll_flush(cx)));
    hub.borrow_mut().begin();

    let wake = hub.borrow().wake.clone();
    let watchdog = service_manager::watchdog_interval().map(|interval| interval / 2);
    let mut watchdog_at = watchdog.map(|every| tokio::time::Instant::now() + every);
    let mut extend_at = None;
    let mut child_ended = false;
    while hub.borrow().core.state() != State::Exited {
        let deadline = hub.borrow_mut().sleep_deadline();
        let gives_back_at = hub.borrow().gives_back_at;
        tokio::select! {
            biased;
            action = run.signals.next() => match action {
                SignalAction::Stop(source) => hub.borrow_mut().stop(source, StopMode::Drain),
                SignalAction::Reload => drop(hub.borrow_mut().reload()),
                SignalAction::ChildEnded => {
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
            () = sleep_until(gives_back_at) => hub.borrow_mut().give_back(),
            () = sleep_until(watchdog_at) => {
                if hub.borrow().core.is_alive() {
                    service_manager::watchdog();
                }
                watchdog_at = watchdog.map(|every| tokio::time::Instant::now() + every);
            }
        }
        hub.borrow_mut().handle_timeouts();
        if hub.borrow().core.is_stopping() && extend_at.is_none_or(|at| at <= tokio::time::Instant::now()) {
            service_manager::extend_timeout(EXTEND_BY);
            extend_at = Some(tokio::time::Instant::now() + EXTEND_EVERY);
        }
    }
    // Leftover processes end soon; only this process can reap them.
    let sweeping = tokio::time::Instant::now();
    while sweep::sweep((!child_ended).then(|| run.process.pid())) > 0 && sweeping.elapsed() < SWEEP_WITHIN {
        tokio::time::sleep(SWEEP_EVERY).await;
    }
    tasks.finish().await;
    let mut hub = hub.borrow_mut();
    hub.publish();
    Ok(Ended {
        code: hub.core.exit_code().unwrap_or(ExitCode::Software),
        cause: hub.core.cause(),
        reason: hub.core.reason(),
        upstream: hub.core.upstream_end().map(str::to_owned),
        stderr: hub.core.upstream_lines(),
        successor: hub.successor(),
    })
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Hub {
    /// The upstream runs.
    fn begin(&mut self) {
        self.handle(Event::UpstreamSpawned);
        self.flush();
    }

    /// The daemon is to end.
    fn stop(&mut self, source: StopSource, mode: StopMode) {
        tracing::info!(reason = source.word(), ?mode, "asked to stop");
        self.handle(match mode {
            StopMode::Drain => Event::StopRequested(source),
            StopMode::Now => Event::InterruptRequested(source),
            StopMode::Kill => Event::KillRequested(source),
        });
        self.flush();
    }

    /// Returns why this process is to start the next daemon, if it is.
    fn successor(&mut self) -> Option<Successor> {
        let upgrade = self.core.intent() == Some(&Intent::Upgrade);
        self.core.has_successor().then(|| match self.upgrade.take() {
            Some(Upgrade { program, .. }) if upgrade => Successor::AfterUpgrade(program, None),
            _ => Successor::AfterLoss,
        })
    }

    fn command(&mut self, command: Command) {
        // A reply whose receiver is gone is no error.
        match command {
            Command::Status(reply) => drop(reply.send(self.report())),
            Command::Clients(reply) => drop(reply.send(self.client_reports())),
            Command::Threads(reply) => drop(reply.send(self.core.thread_statuses(self.now()))),
            Command::Turns(reply) => drop(reply.send(self.core.turn_statuses(self.now()))),
            Command::Requests(reply) => drop(reply.send(self.core.request_statuses(self.now()))),
            Command::Kill { client, reply } => drop(reply.send(self.kill_client(client))),
            Command::Interrupt { target, begun, ended } => {
                drop(begun.send(self.interrupt(&target, ended)));
            }
            Command::Monitor(monitor) => self.monitor(monitor),
            Command::Reload(reply) => drop(reply.send(self.reload())),
            Command::LogLevel { filter, reply } => {
                self.reloader.set_log(&filter);
                let _ = reply.send(());
            }
            Command::CanUpgrade(reply) => drop(reply.send(self.core.can_upgrade())),
            Command::Upgrade { within_ms, program, reply, ended } => {
                drop(reply.send(self.upgrade(within_ms, program, ended)));
            }
            Command::CallOffUpgrade { number } => self.call_off_upgrade(number),
            Command::Stop { mode, reply } => {
                let already_stopping = self.core.intent().is_some();
                self.stop(StopSource::Control, mode);
                let report = self.report();
                drop(reply.send(StopReceipt {
                    generation: report.generation,
                    pid: report.pid,
                    state: report.state,
                    open_turns: report.open_turns,
                    clients: report.clients,
                    already_stopping,
                    deadline_ms: self.core.drain_left_ms(self.now()),
                }));
            }
        }
    }

    /// Returns until when the core loop may sleep, and remembers it: a call that makes something due
    /// earlier wakes the loop.
    fn sleep_deadline(&mut self) -> Option<tokio::time::Instant> {
        self.sleeps_until = self.core.poll_timeout();
        self.sleeps_until
            .map(|at| tokio::time::Instant::from_std(self.clock + Duration::from_millis(at.as_millis())))
    }

    /// Handles the deadlines that have passed.
    fn handle_timeouts(&mut self) {
        let now = self.now();
        self.core.handle_timeout(now);
        self.flush();
    }
}
