//! Lets things go wrong in a running daemon, one after the other.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::fault::{Fault, Outcome};
use super::guest;
use super::plan::{Plan, hits_a_client};
use super::random::Random;
use super::run::{BOUND, LIMITS};
use super::run_report::RunReport;
use super::shared::{Hit, Shared};
use super::violation::{Violation, ViolationKind};
use super::worker::Story;
use crate::daemon::TestDaemon;
use crate::wait;

/// Has all threads of a run's stage.
pub(crate) struct Director<'run, 'scope, 'env> {
    plan: &'run Plan,
    pub(crate) daemon: &'run mut TestDaemon,
    shared: &'scope Shared,
    random: &'run mut Random,
    scope: &'scope Scope<'scope, 'env>,
    victims: Vec<usize>,
    pub(crate) extras: Extras<'scope>,
}

/// What was brought in for faults and has to end.
#[derive(Default)]
pub(crate) struct Extras<'scope> {
    pub(crate) guests: Vec<ScopedJoinHandle<'scope, Option<Story>>>,
    /// Runs of `ctl stop`, and how they exited.
    pub(crate) commands: Vec<ScopedJoinHandle<'scope, Option<i32>>>,
    /// Connections that are not read.
    _open: Vec<UnixStream>,
}

impl<'run, 'scope, 'env> Director<'run, 'scope, 'env> {
    pub(crate) fn new(
        plan: &'run Plan,
        daemon: &'run mut TestDaemon,
        shared: &'scope Shared,
        random: &'run mut Random,
        scope: &'scope Scope<'scope, 'env>,
    ) -> Director<'run, 'scope, 'env> {
        let (victims, extras) = (plan.victims(), Extras::default());
        Director { plan, daemon, shared, random, scope, victims, extras }
    }

    /// Carries out the plan; after each fault that passes, all others have to go on. At the end the daemon has
    /// been given its reason to end.
    pub(crate) fn direct(&mut self, report: &mut RunReport) {
        let shared = self.shared;
        if self.plan.ending() != Some(&Fault::UpstreamNeverReads) {
            wait::poll(BOUND, || (shared.all_ready() || is_late(shared)).then_some(()));
        }
        for step in &self.plan.steps {
            wait::pause(step.after);
            let before: Vec<u64> = (0..self.plan.clients.len()).map(|client| shared.tasks(client)).collect();
            self.inject(&step.fault, report);
            report.tried(&step.fault);
            if step.fault.outcome() == Outcome::Lives && !self.plan.idle {
                self.goes_on(&before, &step.fault, report);
            }
        }
        if self.plan.ending().is_none() {
            self.dismiss();
            self.daemon.term();
        }
    }

    /// Waits until each client that was not hit has done more work.
    fn goes_on(&self, before: &[u64], fault: &Fault, report: &mut RunReport) {
        let shared = self.shared;
        let lags = |client: usize| {
            let there = shared.is_hit(client).is_none() && !shared.has_left(client);
            there && shared.tasks(client) < before[client] + 2
        };
        let lagging = || (0..before.len()).filter(|client| lags(*client));
        let done = wait::poll(BOUND, || {
            let none = lagging().next().is_none();
            (none || is_late(shared)).then_some(none)
        });
        if done != Some(true) {
            let names: Vec<String> = lagging().map(|client| format!("c{client}")).collect();
            let text = format!("after {fault:?}, these did not go on: {names:?}");
            report.broken(Violation::new(ViolationKind::Hang, text));
        }
    }

    /// Lets all clients finish and leave; those that came for a fault that passed, too.
    fn dismiss(&mut self) {
        let shared = self.shared;
        shared.stop();
        wait::poll(BOUND * 2, || {
            let left = (0..self.plan.clients.len()).all(|client| shared.has_left(client))
                && self.extras.guests.iter().all(ScopedJoinHandle::is_finished);
            let ended = self.daemon.exit_within(Duration::ZERO).is_some();
            (left || ended || is_late(shared)).then_some(())
        });
    }

    fn inject(&mut self, fault: &Fault, report: &mut RunReport) {
        let (shared, socket) = (self.shared, self.daemon.socket());
        match fault {
            Fault::UpstreamSignal(signal) => self.daemon.signal_upstream(*signal),
            Fault::UpstreamScript(marker) => {
                let marker: &'static str = marker;
                self.invite(move |name, socket| Some(guest::bomber(name, socket, shared, marker)));
            }
            Fault::UpstreamStopped { full } => {
                if *full {
                    self.invite(move |name, socket| Some(guest::filler(name, socket, shared)));
                }
                self.daemon.signal_upstream(Signal::SIGSTOP);
            }
            Fault::UpstreamKilledInFlood => {
                self.flood();
                self.daemon.signal_upstream(Signal::SIGKILL);
            }
            // It is as it is from the start.
            Fault::UpstreamNeverReads
            | Fault::HandshakeRefused
            | Fault::HandshakeExit(_)
            | Fault::HandshakeHangs => {}
            Fault::Signals(signals, pause) => {
                for (index, signal) in signals.iter().enumerate() {
                    if index > 0 {
                        wait::pause(*pause);
                    }
                    self.daemon.signal(*signal);
                }
            }
            Fault::CtlStop { now } => {
                let arguments: &[&str] = if *now { &["ctl", "stop", "--now"] } else { &["ctl", "stop"] };
                let mut command = self.daemon.command(arguments);
                self.extras.commands.push(self.scope.spawn(move || quiet(&mut command)));
            }
            Fault::LateClients => {
                self.daemon.term();
                for _ in 0..4 {
                    let pause = self.random.millis(30);
                    self.invite(move |name, socket| {
                        wait::pause(pause);
                        guest::late(name, socket, shared)
                    });
                }
            }
            Fault::DrainLoss(pause) => {
                let upstream = self.daemon.upstream_pid();
                self.daemon.term();
                wait::pause(*pause);
                // By its number, for it may have ended; a number that was just free is not given again so soon.
                if self.daemon.pids().contains(&upstream) {
                    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(upstream), Signal::SIGKILL);
                }
            }
            Fault::DrainClientGone => {
                self.daemon.term();
                shared.hit(self.victims.remove(0), Hit::Gone);
            }
            Fault::DrainFlood => {
                self.flood();
                self.daemon.term();
            }
            Fault::DaemonKilled => self.daemon.kill9(),
            Fault::DaemonSuspended(time) => self.suspended(*time, |_| {}),
            Fault::DaemonSuspendedStop => self.suspended(PAUSE, TestDaemon::term),
            Fault::DaemonSuspendedLoss => {
                self.suspended(PAUSE, |daemon| daemon.signal_upstream(Signal::SIGKILL));
            }
            Fault::Reload { broken } => {
                if *broken {
                    self.configure("probe_interval = \"no time\"\n", report);
                }
                self.daemon.signal(Signal::SIGHUP);
                wait::pause(PAUSE);
                self.configure(LIMITS, report);
            }
            Fault::ControlGarbage => {
                let socket = self.daemon.control_socket();
                match guest::control_garbage(&socket, self.random) {
                    Ok(streams) => self.extras._open.extend(streams),
                    Err(violation) => report.broken(violation),
                }
                let status = self.daemon.ctl(&["status", "--json"]);
                if status.code() != Some(0) {
                    report.broken(Violation::new(
                        ViolationKind::Disturbed,
                        format!("ctl beside garbage: {status}"),
                    ));
                }
            }
            Fault::SocketRemoved => {
                if let Err(error) = std::fs::remove_file(&socket) {
                    let text = format!("cannot remove the socket: {error}");
                    report.broken(Violation::new(ViolationKind::Harness, text));
                }
            }
            Fault::ClientHalfCloses => shared.hit(self.victims.remove(0), Hit::HalfClose),
            Fault::ClientKilled => shared.hit(self.victims.remove(0), Hit::Kill),
            Fault::ClientGone => shared.hit(self.victims.remove(0), Hit::Gone),
            Fault::ClientNeverReads => match guest::never_reads(&socket) {
                Ok(stream) => self.extras._open.push(stream),
                Err(violation) => report.broken(violation),
            },
            Fault::ClientGarbage => report.maybe(guest::garbage(&socket, self.random)),
            Fault::ClientTornLine => report.maybe(guest::torn_line(&socket, self.random)),
            Fault::ClientByteByByte => {
                self.invite(move |name, socket| Some(guest::byte_by_byte(name, socket, shared)));
            }
            Fault::ClientFlood => {
                self.invite(move |name, socket| Some(guest::flood(name, socket, shared)));
            }
            Fault::ShutdownBeside => {
                self.invite(move |name, socket| Some(guest::shutdown(name, socket, shared)));
            }
            Fault::ShutdownLast => {
                self.dismiss();
                wait::until("nobody is there", || {
                    let status = self.daemon.ctl(&["status", "--json"]).json();
                    status["clients"] == 0 && status["openTurns"] == 0
                });
                self.invite(move |name, socket| Some(guest::shutdown(name, socket, shared)));
            }
        }
        debug_assert!(!hits_a_client(fault) || self.victims.len() < self.plan.victims().len());
    }

    /// Writes the daemon's configuration file.
    fn configure(&self, text: &str, report: &mut RunReport) {
        if let Err(error) = self.daemon.home().write_config(text) {
            report.broken(Violation::new(
                ViolationKind::Harness,
                format!("cannot write the configuration: {error}"),
            ));
        }
    }

    /// Brings in a client for one fault.
    fn invite(&mut self, visit: impl FnOnce(&str, &Path) -> Option<Story> + Send + 'scope) {
        let (name, socket) = (format!("g{}", self.extras.guests.len()), self.daemon.socket());
        self.extras.guests.push(self.scope.spawn(move || visit(&name, &socket)));
    }

    /// Brings in a flood and waits until it was sent; how much of it is answered then is left to chance.
    fn flood(&mut self) {
        let shared = self.shared;
        self.invite(move |name, socket| Some(guest::flood_to_the_end(name, socket, shared)));
        wait::until("a flood", || shared.is_flooded() || is_late(shared));
    }

    fn suspended(&mut self, time: Duration, meanwhile: impl FnOnce(&TestDaemon)) {
        self.daemon.signal(Signal::SIGSTOP);
        meanwhile(self.daemon);
        wait::pause(time);
        self.daemon.signal(Signal::SIGCONT);
    }
}

fn is_late(shared: &Shared) -> bool {
    Instant::now() > shared.deadline
}

/// Runs a command to its end and returns its exit code.
fn quiet(command: &mut Command) -> Option<i32> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().ok()?.code()
}

const PAUSE: Duration = Duration::from_millis(100);
