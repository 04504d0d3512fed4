//! The life of the daemon around the router, and what goes wrong in it.
//!
//! What the daemon's core does between router, lifecycle and health check is done here in the same
//! order: actions, then events, then what the state waits for. The upstream's process leaves, is
//! asked to leave and does not, freezes, and writes what is no message.

use codexd_proto::exit::ExitCode;
use codexd_proto::health::Verdict;
use codexd_proto::lifecycle::{ChildStatus, Effect, Event, State, StopSource, Timeouts, Timer, farewell};
use codexd_proto::router::{Action, Announcement, CloseReason};

use crate::random::Random;
use crate::world::World;

/// Bytes of a line that are too many for the daemon.
pub(crate) const LINE_BYTES: usize = 32 << 10;

/// Milliseconds that the machine sleeps.
const SLEEP_MS: u64 = 100_000;

/// How a run ends, unless it is let go on until everything is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Settled,
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
    Refusal,
    /// It never answers the handshake.
    SlowStart,
}

const ENDINGS: [Ending; 16] = [
    Ending::Settled,
    Ending::Settled,
    Ending::Settled,
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
    Ending::Refusal,
    Ending::SlowStart,
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
            timeouts: Timeouts {
                handshake_ms: if ending == Ending::SlowStart { 300 } else { 10_000_000 },
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

/// The upstream's process, as far as it is more than what it says.
pub(crate) struct Process {
    alive: bool,
    output_open: bool,
    input_open: bool,
    /// It takes what is written to it.
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
        self.lifecycle.state()
    }

    /// Nobody has asked for an end, and nothing is lost.
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.state(), State::Handshaking | State::Serving)
    }

    pub(crate) fn happened(&mut self, event: Event) {
        self.events.push_back(event);
        self.after();
    }

    /// Does what the daemon's core does at the end of each call.
    pub(crate) fn after(&mut self) {
        loop {
            if let Some(action) = self.router.poll_action() {
                self.act_on(action);
            } else if let Some(event) = self.events.pop_front() {
                self.handle(event);
            } else if let Some(event) = self.reached() {
                self.handle(event);
            } else if !self.fire_timers() {
                break;
            }
        }
        self.check_bounds();
    }

    fn reached(&self) -> Option<Event> {
        match self.state() {
            State::Draining | State::Interrupting if self.router.is_quiet() => Some(Event::Quiet),
            State::Flushing if !self.router.has_unwritten() => Some(Event::Flushed),
            _ => None,
        }
    }

    fn act_on(&mut self, action: Action) {
        self.note(format!("{action:?}"));
        match action {
            Action::UpstreamReady => {
                self.ready = true;
                for client in &mut self.clients {
                    client.joined = client.initialize_sent;
                }
                self.events.push_back(Event::HandshakeDone);
            }
            Action::UpstreamRefused { .. } => self.events.push_back(Event::HandshakeRefused),
            Action::ProbeAnswered => self.coverage.probes += 1,
            Action::ShutdownRequested { .. } => {
                self.coverage.shutdowns += 1;
                self.events.push_back(Event::StopRequested(StopSource::Client));
            }
            Action::UpstreamGarbled => self.events.push_back(Event::UpstreamGarbled),
            Action::Close { client, reason } => {
                let at = self.clients.iter().position(|c| c.id == client).unwrap();
                match reason {
                    CloseReason::TooSlow => {
                        assert!(self.clients[at].was_blocked, "a client that reads was closed");
                        self.coverage.too_slow += 1;
                    }
                    CloseReason::Detached => {
                        self.clients[at].blocked = false;
                        self.take(at, usize::MAX);
                        self.coverage.detached += 1;
                    }
                    CloseReason::TooEarly => panic!("nobody sends that much"),
                }
                self.leave(at);
            }
        }
    }

    /// Fires what is due; tells whether anything was.
    fn fire_timers(&mut self) -> bool {
        let now = self.now;
        if let Some(due) = self.lifecycle.poll_timeout().filter(|at| *at <= now) {
            self.late_ms += now.since(due);
            let effects = self.lifecycle.handle_timeout(now);
            self.carry_out(&effects);
            return true;
        }
        if self.router.poll_timeout().is_some_and(|at| at <= now) {
            self.router.handle_timeout(now);
            assert!(self.router.poll_timeout().is_none_or(|next| next > now), "a timer that does not move");
            return true;
        }
        let watches = matches!(self.state(), State::Serving | State::Draining | State::Interrupting);
        if watches && self.health.poll_timeout().is_some_and(|at| at <= now) {
            match self.health.handle_timeout(now) {
                Verdict::Alive => {}
                Verdict::Ask => {
                    self.asked = now;
                    self.router.probe(now);
                }
                Verdict::Unresponsive => {
                    assert!(now.since(self.asked) >= self.probe_timeout_ms, "judged too early");
                    assert!(self.heard <= self.asked, "it had answered");
                    self.coverage.unresponsive += 1;
                    self.events.push_back(Event::UpstreamUnresponsive);
                }
            }
            let moved = self.health.poll_timeout().is_none_or(|next| next > now);
            assert!(moved || !self.events.is_empty(), "a check that does not move");
            return true;
        }
        false
    }

    fn handle(&mut self, event: Event) {
        self.note(format!("{event:?} in {:?}", self.lifecycle.state()));
        if self.is_up() && self.cause.is_none() {
            self.cause = match event {
                Event::StopRequested(_) | Event::KillRequested(_) => Some(ExitCode::Stopped),
                Event::HandshakeRefused if self.state() == State::Handshaking => Some(ExitCode::Protocol),
                Event::UpstreamExited(_)
                | Event::UpstreamEof
                | Event::UpstreamGarbled
                | Event::UpstreamUnresponsive => Some(ExitCode::UpstreamLost),
                _ => None,
            };
        }
        let effects = self.lifecycle.handle(self.now, event);
        self.carry_out(&effects);
    }

    fn carry_out(&mut self, effects: &[Effect]) {
        if !self.is_up() && self.ends_since.is_none() {
            self.ends_since = Some(self.now);
            self.late_ms = 0;
        }
        for effect in effects {
            self.carry_out_one(*effect);
        }
    }

    fn carry_out_one(&mut self, effect: Effect) {
        self.note(format!("{effect:?}"));
        let reason = farewell::reason(self.lifecycle.intent(), self.lifecycle.child());
        match effect {
            Effect::NotifyStopping | Effect::Disarm | Effect::Sweep => {}
            Effect::Ready => self.router.ask_for_methods(self.now),
            Effect::Arm(timer) => self.coverage.interrupts += u64::from(timer == Timer::Interrupt),
            Effect::StopListening => self.door_open = false,
            Effect::AnnounceDrain => {
                assert!(!self.door_open, "told before the door was closed");
                self.draining = true;
                self.coverage.drains += 1;
                let deadline_ms = self.lifecycle.drain_ms();
                let announcement = Announcement { reason: &reason, deadline_ms, retry_after_ms: Some(1) };
                self.router.begin_drain(self.now, &announcement);
            }
            Effect::InterruptTurns => self.router.interrupt_turns(self.now),
            Effect::SettleClients => {
                assert!(!self.door_open, "told before the door was closed");
                self.coverage.losses += u64::from(!self.lost);
                self.lost = true;
                let loss = farewell::loss(self.lifecycle.intent(), self.lifecycle.child());
                let announcement =
                    Announcement { reason: &reason, deadline_ms: Some(0), retry_after_ms: Some(1) };
                self.router.upstream_lost(self.now, loss, &announcement);
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
            Effect::CloseClients => self.check_farewell(),
        }
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
        match self.random.below(5) {
            0 if self.plan.freezes => {
                self.process.reads = false;
                self.coverage.deaf += 1;
                self.note("the upstream reads nothing".to_owned());
            }
            1 if self.plan.freezes => {
                self.process.works = false;
                self.coverage.mute += 1;
                self.note("the upstream does nothing".to_owned());
            }
            2 if self.plan.sleeps && !self.slept => {
                self.slept = true;
                self.coverage.sleeps += 1;
                self.now = self.now + SLEEP_MS;
                self.note("the machine slept".to_owned());
            }
            3 if self.plan.half_closes && !self.clients.is_empty() => {
                let at = self.random.below(self.clients.len());
                self.clients[at].half_closed = true;
                self.coverage.half_closes += 1;
            }
            4 if !self.is_up() => {
                let source = self.random.pick(&SOURCES).unwrap();
                self.coverage.signals_again += u64::from(source.insists());
                if self.random.one_in(6) {
                    self.happened(Event::KillRequested(source));
                } else {
                    self.happened(Event::StopRequested(source));
                }
            }
            _ => {}
        }
    }

    /// The run takes the turn that its plan has for it.
    pub(crate) fn turn_for_the_end(&mut self, ending: Ending) {
        self.note(format!("{ending:?}"));
        match ending {
            Ending::Settled => {}
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
                self.coverage.garbled += 1;
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
                self.happened(Event::StopRequested(source));
            }
            Ending::StopAtOnce => {
                self.coverage.stops_at_once += 1;
                self.happened(Event::KillRequested(StopSource::Control));
            }
            // These were so from the beginning.
            Ending::Refusal | Ending::SlowStart => {}
        }
    }

    pub(crate) fn begin(&mut self) {
        self.happened(Event::Spawned);
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

    /// The process ends. What it had written is read before that is told.
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
            } else if let Some(due) =
                [self.lifecycle.poll_timeout(), self.router.poll_timeout(), self.health.poll_timeout()]
                    .into_iter()
                    .flatten()
                    .filter(|due| *due > self.now)
                    .min()
            {
                // A drain without a hurry goes on as long as something moves.
                let waits = due.since(self.now) > SLEEP_MS;
                if waits && self.state() == State::Draining {
                    self.heal_if_it_can();
                    self.settle();
                } else {
                    self.now = due;
                }
                self.after();
            } else {
                self.step();
            }
        }
        let took = self.now.since(self.ends_since.unwrap());
        let most = self.lifecycle.longest_stop_ms().unwrap() + self.late_ms;
        assert!(took <= most, "it took {took} ms to exit, and it may take {most} ms");
        let expected = self.cause.unwrap_or(ExitCode::UpstreamLost);
        assert_eq!(self.lifecycle.exit_code(), Some(expected));
    }

    fn heal_if_it_can(&mut self) {
        if !self.process.for_ever {
            self.heal();
        }
    }

    /// What everybody was owed is there, whether or not there was time to read it.
    fn check_farewell(&mut self) {
        let mut unexplained = 0;
        for at in 0..self.clients.len() {
            self.clients[at].blocked = false;
            self.take(at, usize::MAX);
            let client = &self.clients[at];
            assert!(client.outstanding.is_empty(), "unanswered: {:?}", client.outstanding.keys());
            assert_eq!(client.unreadable, 0);
            assert_eq!(client.announced, usize::from(client.joined) * (1 + usize::from(self.draining)));
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
        for at in 0..self.clients.len() {
            self.send(at, "thread/list", None, None, serde_json::json!({}));
            self.take(at, usize::MAX);
            assert!(self.clients[at].outstanding.is_empty());
        }
    }
}
