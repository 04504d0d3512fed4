//! The life of the daemon around the router, and what goes wrong in it.
//!
//! Effects of the core are carried out as the daemon's hub does. The upstream's process leaves, is asked
//! to leave and does not, freezes, and writes what is no message.

use codexd_proto::core::{Effect, Event, Fact, Timer, UpgradeOutcome};
use codexd_proto::exit::ExitCode;
use codexd_proto::id::ClientId;
use codexd_proto::lifecycle::{ChildStatus, LifecycleTimer, State, StopSource, Timeouts};
use codexd_proto::router::CloseReason;
use codexd_proto::thread_book::Entry;
use codexd_proto::time::Time;
use serde_json::Value;

use crate::random::Random;
use crate::world::World;

/// Bytes of a line that are too many for the daemon.
pub(crate) const LINE_BYTES: usize = 32 << 10;

/// Milliseconds that the machine sleeps.
const SLEEP_MS: u64 = 100_000;

/// How a run ends: by one of these, or by running to quiescence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Quiescent,
    /// The process ends; what it had written is read.
    Exit,
    /// Its output ends first.
    EofFirst,
    /// Its output ends and it stays.
    EofOnly,
    /// Its output ends inside a line.
    Torn,
    Garbage,
    TooLong,
    /// It does nothing any more.
    Frozen,
    Stop,
    StopAtOnce,
    /// The next daemon is to take its place.
    Upgrade,
    Refusal,
    /// It never answers the handshake.
    SlowStart,
    /// All clients disconnect.
    Idle,
}

const ENDINGS: [Ending; 18] = [
    Ending::Quiescent,
    Ending::Quiescent,
    Ending::Quiescent,
    Ending::Exit,
    Ending::Exit,
    Ending::EofFirst,
    Ending::EofOnly,
    Ending::Torn,
    Ending::Garbage,
    Ending::TooLong,
    Ending::Frozen,
    Ending::Stop,
    Ending::Stop,
    Ending::StopAtOnce,
    Ending::Upgrade,
    Ending::Refusal,
    Ending::SlowStart,
    Ending::Idle,
];

const SOURCES: [StopSource; 6] = [
    StopSource::Terminate,
    StopSource::Interrupt,
    StopSource::Hangup,
    StopSource::Control,
    StopSource::Client,
    StopSource::Idle,
];

/// What a run has in store, from its seed.
pub(crate) struct Plan {
    pub(crate) ending: Ending,
    pub(crate) freezes: bool,
    pub(crate) sleeps: bool,
    pub(crate) half_closes: bool,
    pub(crate) watched: bool,
    pub(crate) idle_exit_ms: Option<u64>,
    pub(crate) loses_socket: bool,
    /// Something that asks over HTTP how the daemon is comes by.
    pub(crate) visits: bool,
    /// An operator asks for upgrades, and calls them off.
    pub(crate) upgrades: bool,
    /// Clients write to their sockets, and codexd reads later.
    pub(crate) buffers: bool,
    pub(crate) timeouts: Timeouts,
}

impl Plan {
    pub(crate) fn new(random: &mut Random) -> Plan {
        let ending = random.pick(&ENDINGS).unwrap();
        let patient = random.one_in(2);
        Plan {
            ending,
            freezes: random.one_in(3),
            sleeps: random.one_in(6),
            half_closes: random.one_in(3),
            watched: ending == Ending::Frozen || random.one_in(6),
            idle_exit_ms: (ending == Ending::Idle).then(|| 300 + random.below(20_000) as u64),
            loses_socket: random.one_in(3),
            visits: random.one_in(4),
            upgrades: random.one_in(6),
            buffers: random.one_in(2),
            timeouts: Timeouts {
                handshake_ms: if ending == Ending::SlowStart { 300 } else { 10_000_000 },
                upgrade_ms: None,
                drain_ms: Some(if patient { 10_000_000 } else { 300 }),
                interrupt_ms: 150,
                reap_ms: 20,
                input_ms: 60,
                terminate_ms: 60,
                kill_ms: 60,
                flush_ms: 80,
            },
        }
    }
}

/// The upstream's process, apart from its messages.
pub(crate) struct Process {
    alive: bool,
    output_open: bool,
    input_open: bool,
    /// It reads what is written to it.
    pub(crate) reads: bool,
    /// It works and writes.
    pub(crate) works: bool,
    for_ever: bool,
    ignores_eof: bool,
    ignores_term: bool,
    ignores_kill: bool,
    /// It is about to end like this.
    leaving: Option<ChildStatus>,
}

impl Process {
    pub(crate) fn new(random: &mut Random) -> Process {
        Process {
            alive: true,
            output_open: true,
            input_open: true,
            reads: true,
            works: true,
            for_ever: false,
            ignores_eof: random.one_in(3),
            ignores_term: random.one_in(3),
            ignores_kill: random.one_in(6),
            leaving: None,
        }
    }

    pub(crate) fn takes_input(&self) -> bool {
        self.alive && self.input_open && self.reads
    }

    pub(crate) fn is_working(&self) -> bool {
        self.alive && self.output_open && self.works
    }

    pub(crate) fn can_be_read(&self) -> bool {
        self.output_open
    }
}

impl World {
    pub(crate) fn state(&self) -> State {
        self.core.state()
    }

    /// No end was requested, and nothing is lost.
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.state(), State::Handshaking | State::Serving | State::Upgrading)
    }

    /// Reports something to the core and carries out what follows.
    pub(crate) fn happened(&mut self, event: Event<'_>) {
        match event {
            Event::StopRequested(by) | Event::InterruptRequested(by) | Event::KillRequested(by) => {
                if self.cause == Some(ExitCode::Upgrade)
                    && by.is_of_an_operator()
                    && self.state() != State::Exited
                {
                    self.cause = Some(ExitCode::Stopped);
                }
                self.caused(ExitCode::Stopped);
            }
            Event::UpstreamExited(_) | Event::UpstreamEof => self.caused(ExitCode::UpstreamLost),
            _ => {}
        }
        self.note(format!("{event:?} in {:?}", self.state()));
        self.core.handle(self.now, event);
        self.after();
    }

    /// Records why the daemon ends, if this is the first reason.
    fn caused(&mut self, code: ExitCode) {
        if self.is_up() && self.cause.is_none() {
            self.cause = Some(code);
        }
    }

    /// Carries out what the core asks for, and lets its timers fire.
    pub(crate) fn after(&mut self) {
        loop {
            if let Some(effect) = self.core.poll_effect(self.now) {
                self.carry_out(effect);
            } else if !self.fire_timers() {
                break;
            }
        }
        self.read_activities();
        self.check_bounds();
    }

    /// Lets the core handle what is due; returns whether anything was.
    fn fire_timers(&mut self) -> bool {
        let now = self.now;
        let due: Vec<(Timer, Time)> = self.core.timers().filter(|(_, at)| *at <= now).collect();
        for (timer, at) in &due {
            if matches!(timer, Timer::Lifecycle(_)) {
                self.late_ms += now.since(*at);
            }
            self.coverage.interrupts += u64::from(*timer == Timer::Lifecycle(LifecycleTimer::Interrupt));
        }
        if due.is_empty() {
            return false;
        }
        self.core.handle_timeout(now);
        for (timer, at) in self.core.timers() {
            // What the core has queued first may move the others.
            let moves = matches!(timer, Timer::Router(_) | Timer::Connection);
            assert!(!moves || at > now, "{timer:?} does not move");
        }
        self.timer_rounds += 1;
        assert!(self.timer_rounds < 1_000_000, "timers that do not move");
        true
    }

    fn carry_out(&mut self, effect: Effect) {
        self.note(format!("{effect:?}"));
        match effect {
            Effect::StateChanged { from, to } => self.state_changed(from, to),
            Effect::NotifyReady => {
                self.ready = true;
                for client in &mut self.clients {
                    client.joined = client.initialize_sent;
                }
            }
            Effect::NotifyStopping | Effect::Sweep => {}
            Effect::Remember(Entry { thread_id, permissions }) => {
                self.coverage.remembered += 1;
                match permissions {
                    Some(permissions) => self.remembered.insert(thread_id, permissions.sandbox_policy),
                    None => self.remembered.remove(&thread_id),
                };
            }
            Effect::StopListening => self.listening = false,
            Effect::FinalRead => {
                assert!(!self.listening, "the last read comes before nobody new can connect");
                for at in 0..self.clients.len() {
                    self.read_socket(at, usize::MAX);
                }
                self.coverage.losses += u64::from(!self.lost);
                self.lost = true;
            }
            Effect::CloseClient { client, reason } => self.close_client(client, reason),
            Effect::DropClient { client } => {
                if let Some(at) = self.clients.iter().position(|c| c.id == client) {
                    self.leave(at);
                } else {
                    self.visitor_gone(client);
                }
            }
            Effect::TimeOutRequest { client } => {
                self.coverage.timed_out_requests += 1;
                self.core.handle(self.now, Event::HttpRequest { client });
            }
            Effect::CheckConnection { client } => {
                self.coverage.checked_connections += 1;
                if self.random.one_in(3)
                    && let Some(at) = self.clients.iter().position(|c| c.id == client)
                {
                    self.leave(at);
                }
            }
            Effect::CheckSocket => {
                self.coverage.checked_sockets += 1;
                if self.plan.loses_socket {
                    self.core.handle(self.now, Event::SocketLost);
                }
            }
            Effect::CloseAll => {
                self.check_resolved();
                while !self.clients.is_empty() {
                    self.leave(0);
                }
                for visitor in std::mem::take(&mut self.visitors) {
                    self.core.handle(self.now, Event::ClientDisconnected { client: visitor });
                }
            }
            Effect::CloseInput => {
                self.process.input_open = false;
                if self.process.alive && !self.process.ignores_eof && self.process.works {
                    self.process.leaving.get_or_insert(ChildStatus::Code(0));
                }
            }
            Effect::Terminate => {
                if self.process.alive && !self.process.ignores_term {
                    self.process.leaving.get_or_insert(ChildStatus::Code(0));
                }
            }
            Effect::Kill => {
                if self.process.alive && !self.process.ignores_kill {
                    self.process.leaving = Some(ChildStatus::Signal(9));
                }
            }
            Effect::UpgradeWaitEnded(outcome) => match outcome {
                UpgradeOutcome::HandsOver => {
                    assert_eq!(self.cause, None, "something else had ended it before");
                    self.cause = Some(ExitCode::Upgrade);
                    self.coverage.upgrades += 1;
                }
                UpgradeOutcome::TimedOut => self.coverage.upgrades_too_late += 1,
                UpgradeOutcome::CalledOff => self.coverage.upgrades_called_off += 1,
                UpgradeOutcome::Ends(_) => self.coverage.upgrades_overtaken += 1,
            },
            Effect::Log(fact) => self.fact(&fact),
        }
    }

    fn state_changed(&mut self, from: State, to: State) {
        let was_up = matches!(from, State::Handshaking | State::Serving | State::Upgrading);
        if was_up && !self.is_up() && self.ends_since.is_none() {
            self.ends_since = Some(self.now);
            self.late_ms = 0;
            if self.cause.is_none()
                && let Some(idle_ms) = self.plan.idle_exit_ms
            {
                assert!(self.clients.is_empty() && self.core.is_quiet(), "an exit for want of clients");
                let unused_ms = self.now.since(self.last_used);
                assert!(unused_ms >= idle_ms || self.plan.loses_socket, "{unused_ms} ms are too few");
                self.coverage.idle_exits += 1;
                self.cause = Some(ExitCode::Stopped);
            }
        }
        if to == State::Draining || (was_up && to == State::Interrupting) {
            assert!(!self.listening, "clients are notified before nobody new can connect");
            self.draining = true;
            self.coverage.drains += 1;
        }
    }

    fn fact(&mut self, fact: &Fact) {
        match fact {
            Fact::HandshakeRefused(_) if self.state() == State::Handshaking => {
                self.caused(ExitCode::Protocol);
            }
            Fact::UpgradeWaits { .. }
            | Fact::PermissionsNotRestored { .. }
            | Fact::HandshakeRefused(_)
            | Fact::SocketLost
            | Fact::MemoryHigh(_)
            | Fact::ClientTooSlow { .. } => {}
            Fact::ShutdownRequested(_) => {
                self.coverage.shutdowns += 1;
                self.caused(ExitCode::Stopped);
            }
            Fact::UpstreamMalformed | Fact::UpstreamLineTooLong => self.caused(ExitCode::UpstreamLost),
            Fact::HealthCheck => {
                self.coverage.health_checks += 1;
                self.asked = self.now;
            }
            Fact::UpstreamUnresponsive(waited_ms) => {
                assert!(self.now.since(self.asked) >= self.health_timeout_ms, "judged too early");
                assert!(*waited_ms >= self.health_timeout_ms, "judged too early");
                assert!(self.last_output <= self.asked, "it had answered");
                self.coverage.unresponsive += 1;
                self.caused(ExitCode::UpstreamLost);
            }
        }
    }

    fn close_client(&mut self, client: ClientId, reason: Option<CloseReason>) {
        let Some(at) = self.clients.iter().position(|c| c.id == client) else { return };
        match reason {
            Some(CloseReason::TooSlow) => {
                assert!(self.clients[at].was_blocked, "a client that reads was closed");
                let last = self.core.last_lines(client, CloseReason::TooSlow);
                let rest =
                    last.strip_suffix(b"\n").and_then(|last| last.rsplit(|byte| *byte == b'\n').nth(1));
                let begun = rest.map_or(0, |rest| rest.len() + 1);
                assert!(
                    self.core.pending(client).starts_with(&last[..begun]),
                    "only a begun line is finished"
                );
                assert!(last[begun..].starts_with(b"{\"method\":\"notifications/broker/closing\","));
                self.coverage.too_slow += 1;
            }
            Some(CloseReason::Detached) => {
                self.clients[at].blocked = false;
                self.take(at, usize::MAX);
                self.coverage.detached += 1;
            }
            Some(CloseReason::TooEarly) => panic!("nobody sends that much"),
            Some(CloseReason::Killed) => {
                assert!(self.clients[at].killed, "closed without an operator");
                let last = self.core.last_lines(client, CloseReason::Killed);
                let notice =
                    last.strip_suffix(b"\n").and_then(|last| last.rsplit(|byte| *byte == b'\n').next());
                let notice: Value = serde_json::from_slice(notice.expect("a notice")).expect("whole lines");
                assert_eq!(notice["method"], "notifications/broker/closing");
                assert_eq!(notice["params"]["reason"], "killed");
                self.coverage.killed += 1;
            }
            None => {
                let client = &self.clients[at];
                assert!(client.half_closed, "closed without a reason");
                assert!(client.outstanding.is_empty(), "sent away without an answer");
                assert!(self.core.pending(client.id).is_empty(), "sent away before it was written");
                self.coverage.replied += 1;
            }
        }
        self.leave(at);
    }

    // ---- what goes wrong -----------------------------------------------------------------------------

    /// The process does what it is about to do.
    pub(crate) fn live(&mut self) {
        if let Some(status) = self.process.leaving.take() {
            self.exits(status);
        } else if !self.process.alive && self.process.output_open {
            self.output_ends();
        } else if !self.process.for_ever {
            self.process.reads = true;
            self.process.works = true;
        }
    }

    /// Something small goes wrong, from which the daemon recovers.
    pub(crate) fn trouble(&mut self) {
        match self.random.below(if self.plan.upgrades { 8 } else { 7 }) {
            0 if self.plan.freezes => {
                self.process.reads = false;
                self.coverage.reads_nothing += 1;
                self.note("the upstream reads nothing".to_owned());
            }
            1 if self.plan.freezes => {
                self.process.works = false;
                self.coverage.does_nothing += 1;
                self.note("the upstream does nothing".to_owned());
            }
            2 if self.plan.sleeps && !self.slept && self.state() != State::Exited => {
                self.slept = true;
                self.coverage.sleeps += 1;
                self.now = self.now + SLEEP_MS;
                self.note("the machine slept".to_owned());
            }
            3 if self.plan.half_closes && !self.clients.is_empty() => {
                let at = self.random.below(self.clients.len());
                self.half_close(at);
            }
            4 if !self.is_up() => {
                let source = self.random.pick(&SOURCES).unwrap();
                self.coverage.signals_again += u64::from(source.insists());
                if self.random.one_in(6) {
                    self.happened(Event::InterruptRequested(source));
                } else if self.random.one_in(6) {
                    self.happened(Event::KillRequested(source));
                } else {
                    self.happened(Event::StopRequested(source));
                }
            }
            5 if !self.clients.is_empty() => {
                let at = self.random.below(self.clients.len());
                let client = &mut self.clients[at];
                // What leaves by itself is not there to be killed.
                client.killed = self.core.kill_client(self.now, client.id) || client.killed;
                let note = format!("an operator kills {:?}", client.id);
                self.note(note);
            }
            7 if self.plan.idle_exit_ms.is_none() => match self.state() {
                State::Serving => {
                    let within_ms = self.random.one_in(2).then(|| self.random.below(2_000) as u64);
                    self.happened(Event::UpgradeRequested { within_ms });
                }
                _ => self.happened(Event::UpgradeCalledOff),
            },
            // Few: they overtake the window, whose bound is checked.
            6 if self.coverage.operator_interrupts < 4 => {
                let threads = &self.upstream.threads;
                let running: Vec<usize> =
                    (0..threads.len()).filter(|at| threads[*at].turn.is_some()).collect();
                if let Some(at) = self.random.pick(&running) {
                    let thread = self.upstream.threads[at].name.clone();
                    self.note(format!("an operator interrupts the turn of {thread}"));
                    match self.core.interrupt(self.now, &thread) {
                        Ok(_) => self.coverage.operator_interrupts += 1,
                        // The daemon has not read yet that it runs, or is past serving.
                        Err(_) => self.coverage.interrupts_too_early += 1,
                    }
                }
            }
            _ => {}
        }
    }

    /// Carries out the end that the plan has for this run.
    pub(crate) fn turn_for_the_end(&mut self, ending: Ending) {
        self.note(format!("{ending:?}"));
        match ending {
            Ending::Quiescent => {}
            Ending::Exit => {
                let statuses = [ChildStatus::Code(0), ChildStatus::Code(101), ChildStatus::Signal(9)];
                let status = self.random.pick(&statuses).unwrap();
                self.coverage.exits += 1;
                self.exits(status);
            }
            Ending::EofFirst | Ending::EofOnly => {
                self.coverage.eofs += 1;
                self.process.ignores_eof |= ending == Ending::EofOnly;
                self.output_ends();
                if ending == Ending::EofFirst {
                    self.process.leaving = Some(ChildStatus::Signal(11));
                }
            }
            Ending::Torn => {
                let half = br#"{"method":"item/agentMessage/delta","params":{"threadId":"#;
                self.upstream.output.extend_from_slice(half);
                self.output_ends();
                assert!(self.decoder.is_torn());
                self.coverage.torn += 1;
                self.process.leaving = Some(ChildStatus::Signal(9));
            }
            Ending::Garbage => {
                let garbage = [&b"thread 'main' panicked"[..], b"[]", b"{\"id\":1", b"{}", b"\xff"];
                let garbage = self.random.pick(&garbage).unwrap();
                self.upstream.output.extend_from_slice(garbage);
                self.upstream.output.push(b'\n');
                self.coverage.malformed += 1;
            }
            Ending::TooLong => {
                self.upstream.output.resize(self.upstream.output.len() + LINE_BYTES + 1, b' ');
                self.upstream.output.push(b'\n');
                self.coverage.too_long += 1;
            }
            Ending::Frozen => {
                self.process.reads = self.random.one_in(2);
                self.process.works = false;
                self.process.for_ever = true;
                self.coverage.frozen += 1;
            }
            Ending::Stop => {
                let source = self.random.pick(&SOURCES).unwrap();
                self.coverage.stops += 1;
                if self.random.one_in(3) {
                    self.happened(Event::InterruptRequested(source));
                } else {
                    self.happened(Event::StopRequested(source));
                }
            }
            Ending::StopAtOnce => {
                self.coverage.stops_at_once += 1;
                self.happened(Event::KillRequested(StopSource::Control));
            }
            Ending::Upgrade => self.happened(Event::UpgradeRequested { within_ms: None }),
            Ending::Idle => {
                while !self.clients.is_empty() {
                    self.leave(0);
                }
            }
            // These were so from the beginning.
            Ending::Refusal | Ending::SlowStart => {}
        }
    }

    pub(crate) fn begin(&mut self) {
        self.happened(Event::UpstreamSpawned);
        match self.plan.ending {
            Ending::Refusal => {
                self.upstream.refuses = true;
                self.coverage.refused_handshakes += 1;
            }
            Ending::SlowStart => {
                self.process.works = false;
                self.process.for_ever = true;
                self.coverage.slow_starts += 1;
            }
            _ => {}
        }
    }

    /// The process ends. What it had written is read before the end is reported.
    fn exits(&mut self, status: ChildStatus) {
        if !self.process.alive {
            return;
        }
        self.process.alive = false;
        self.note(format!("the upstream {status}"));
        self.read_the_rest();
        self.happened(Event::UpstreamExited(status));
    }

    fn output_ends(&mut self) {
        self.read_the_rest();
        if self.process.output_open {
            self.process.output_open = false;
            self.happened(Event::UpstreamEof);
        }
    }

    fn read_the_rest(&mut self) {
        let rest = self.upstream.output.len();
        self.carry_down_bytes(rest);
    }

    /// Nothing goes wrong any more.
    pub(crate) fn heal(&mut self) {
        assert!(!self.process.for_ever);
        self.process.reads = true;
        self.process.works = true;
    }

    pub(crate) fn never_recovers(&self) -> bool {
        self.process.for_ever || !self.process.alive || !self.process.output_open || self.upstream.refuses
    }

    /// Goes on until the daemon has exited: within the time it has for that, and with the code that
    /// says why.
    pub(crate) fn run_out(&mut self) {
        for round in 0.. {
            assert!(round < 20_000, "it never exits");
            if self.state() == State::Exited {
                break;
            }
            if self.random.one_in(2) {
                self.step();
            } else if let Some(due) = self.core.timers().map(|(_, at)| at).filter(|due| *due > self.now).min()
            {
                // A drain without a hurry goes on as long as something moves.
                let waits = due.since(self.now) > SLEEP_MS;
                if waits && self.state() == State::Draining {
                    self.heal_if_it_can();
                    self.run_to_quiescence();
                    if self.state() == State::Draining && self.waits_in_vain() {
                        self.now = due;
                    }
                } else {
                    self.now = due;
                }
                self.after();
            } else {
                self.step();
            }
        }
        let took = self.now.since(self.ends_since.unwrap());
        let most = self.core.longest_stop_ms().unwrap() + self.late_ms;
        assert!(took <= most, "it took {took} ms to exit, and it may take {most} ms");
        let expected = self.cause.unwrap_or(ExitCode::UpstreamLost);
        assert_eq!(self.core.exit_code(), Some(expected));
    }

    /// A client sends nothing more; sometimes its peer is gone altogether.
    fn half_close(&mut self, at: usize) {
        if self.clients[at].half_closed {
            return;
        }
        self.read_socket(at, usize::MAX);
        let client = &mut self.clients[at];
        client.half_closed = true;
        self.coverage.half_closes += 1;
        let (client, hung_up) = (client.id, self.random.one_in(4));
        self.happened(Event::ClientEof { client, hung_up, framing_waits: false });
    }

    fn visitor_gone(&mut self, client: ClientId) {
        if let Some(at) = self.visitors.iter().position(|v| *v == client) {
            self.visitors.swap_remove(at);
            self.core.handle(self.now, Event::ClientDisconnected { client });
        }
    }

    /// Something asks over HTTP how the daemon is, or only begins to.
    pub(crate) fn visit(&mut self) {
        if !self.plan.visits || !self.listening {
            return;
        }
        match self.visitors.first().copied() {
            Some(client) if self.random.one_in(2) => {
                self.coverage.visits += 1;
                self.happened(Event::HttpRequest { client });
                self.happened(Event::ClientEof { client, hung_up: false, framing_waits: false });
                assert!(!self.visitors.contains(&client), "a visitor that was answered stays");
            }
            Some(_) => {}
            None => {
                let client = self.core.connect(self.now);
                self.visitors.push(client);
                let framing = codexd_proto::core::Framing::Http;
                self.happened(Event::ClientFraming { client, framing });
            }
        }
    }

    fn heal_if_it_can(&mut self) {
        if !self.process.for_ever {
            self.heal();
        }
    }

    /// All pending replies are there, whether or not there was time to read them.
    fn check_resolved(&mut self) {
        for at in (0..self.clients.len()).rev() {
            if self.clients[at].detaching {
                self.leave(at);
            }
        }
        let mut unexplained = 0;
        for at in 0..self.clients.len() {
            self.clients[at].blocked = false;
            self.take(at, usize::MAX);
            let client = &self.clients[at];
            assert!(client.outstanding.is_empty(), "unanswered: {:?}", client.outstanding.keys());
            assert_eq!(client.unreadable, 0);
            assert_eq!(
                client.shutdown_notices,
                usize::from(client.joined) * (1 + usize::from(self.draining))
            );
            for (name, view) in client.views.iter().filter(|(_, v)| v.next.is_some()) {
                assert!(view.open.is_empty(), "{}: {name} has a turn without an end", client.id);
            }
            let active = client.views.iter().find(|(_, v)| v.active).map(|(name, _)| name);
            assert_eq!(active, None, "{}: its last status says that it is active", client.id);
            for (tag, delivered) in client.lost.iter().filter(|(tag, _)| !self.upstream.refused.contains(tag))
            {
                match (self.upstream.received.contains(tag), delivered.as_str()) {
                    (true, "maybe") | (false, "no") => {}
                    (false, "maybe") => unexplained += 1,
                    other => panic!("{tag}: {other:?}"),
                }
            }
        }
        assert!(unexplained <= usize::from(self.upstream.partial > 0), "never written, but maybe delivered");
        let closing = self.core.client_statuses(self.now).into_iter().filter(|c| c.state == "closing");
        let closing: Vec<u64> = closing.map(|c| c.id).collect();
        for at in 0..self.clients.len() {
            // Found too slow at the same time as the daemon's own time is up: nothing of it is read any more, and
            // CloseAll comes before its CloseClient.
            if closing.contains(&u64::from(self.clients[at].id.0)) {
                assert!(self.clients[at].was_blocked, "a client that reads is being closed");
                continue;
            }
            self.send(at, "thread/list", None, None, serde_json::json!({}));
            self.take(at, usize::MAX);
            assert!(self.clients[at].outstanding.is_empty());
        }
    }
}
