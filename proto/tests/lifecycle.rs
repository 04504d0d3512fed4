//! The lifecycle from outside: every state × event, and what holds over any run of events.
#![allow(clippy::unwrap_used)]
// `clippy.toml` is for the decisions; this test reads a document and names the seed that failed.
#![allow(clippy::disallowed_macros, clippy::disallowed_methods)]

use std::fmt::Write as _;
use std::path::Path;

use codexd_proto::exit::ExitCode;
use codexd_proto::lifecycle::{
    ChildStatus, EVENTS, Intent, Lifecycle, LifecycleEffect, LifecycleEvent, LifecycleTimer, LossKind,
    STATES, State, StopSource, Timeouts, describe,
};
use codexd_proto::time::Time;

const STOP: LifecycleEvent = LifecycleEvent::StopRequested(StopSource::Terminate);
const KILL: LifecycleEvent = LifecycleEvent::KillRequested(StopSource::Control);
const EXIT_0: LifecycleEvent = LifecycleEvent::UpstreamExited(ChildStatus::Code(0));

/// Events that lead from the start to a state, without the upstream having ended.
fn way_to(state: State) -> &'static [LifecycleEvent] {
    use LifecycleEvent as E;
    match state {
        State::Starting => &[],
        State::Handshaking => &[E::Spawned],
        State::Serving => &[E::Spawned, E::HandshakeDone],
        State::Upgrading => &[E::Spawned, E::HandshakeDone, E::UpgradeRequested(None)],
        State::Draining => &[E::Spawned, E::HandshakeDone, STOP],
        State::Interrupting => &[E::Spawned, E::HandshakeDone, STOP, E::TimerFired(LifecycleTimer::Drain)],
        State::Reaping => &[E::Spawned, E::HandshakeDone, E::UpstreamEof],
        State::ClosingInput => &[E::Spawned, E::HandshakeDone, STOP, STOP],
        State::Terminating => &[E::Spawned, E::HandshakeDone, E::UpstreamMalformed],
        State::Killing => &[E::Spawned, E::HandshakeDone, KILL],
        State::Flushing => &[STOP],
        State::Exited => &[STOP, E::Flushed],
    }
}

fn started() -> Lifecycle {
    Lifecycle::new(Timeouts::default(), Time::ZERO)
}

/// Feeds events and returns all effects.
fn feed(life: &mut Lifecycle, events: &[LifecycleEvent]) -> Vec<LifecycleEffect> {
    events.iter().flat_map(|e| life.handle(Time::ZERO, *e)).collect()
}

fn led_to(state: State) -> Lifecycle {
    let mut life = started();
    feed(&mut life, way_to(state));
    assert_eq!(life.state(), state);
    life
}

/// Fires the running timer; fails when there is none.
fn fire(life: &mut Lifecycle) -> Vec<LifecycleEffect> {
    let at = life.poll_timeout().unwrap_or_else(|| panic!("no timer runs in {:?}", life.state()));
    life.handle_timeout(at)
}

fn name_of(event: LifecycleEvent) -> String {
    match event {
        LifecycleEvent::TimerFired(timer) => format!("{timer:?} timer"),
        LifecycleEvent::StopRequested(by) if by.insists() => "StopRequested by a signal".to_owned(),
        LifecycleEvent::StopRequested(_) => "StopRequested otherwise".to_owned(),
        other => format!("{other:?}").split('(').next().unwrap().to_owned(),
    }
}

fn intent_words(intent: &Intent) -> String {
    match intent {
        Intent::Stop(_) => "stop".to_owned(),
        Intent::Upgrade => "upgrade".to_owned(),
        Intent::UpstreamLost(kind) => format!("upstream lost: {kind:?}"),
        Intent::SpawnFailed(_) => "spawn failed".to_owned(),
        Intent::HandshakeRefused => "handshake refused".to_owned(),
    }
}

/// The table as it shows from outside: each state entered by events, then one more event.
fn observed() -> String {
    let mut out = String::new();
    for state in STATES {
        writeln!(out, "### {state:?}\n\n| event | goes to | because | effects, in order |").unwrap();
        writeln!(out, "|---|---|---|---|").unwrap();
        let mut ignored = Vec::new();
        for event in EVENTS {
            let before = led_to(state);
            let mut after = before.clone();
            let effects = after.handle(Time::ZERO, event);
            let moved = after.state() != state;
            let intent = after.intent().filter(|_| before.intent().is_none());
            if effects.is_empty() && !moved && intent.is_none() {
                ignored.push(name_of(event));
                continue;
            }
            let next = if moved { format!("{:?}", after.state()) } else { "(stays)".to_owned() };
            let effects: Vec<String> = effects.iter().map(|e| format!("{e:?}")).collect();
            let intent = intent.map_or(String::new(), intent_words);
            writeln!(out, "| {} | {next} | {intent} | {} |", name_of(event), effects.join(", ")).unwrap();
        }
        writeln!(out, "\nNothing: {}.\n", ignored.join(", ")).unwrap();
    }
    out
}

const BEGIN: &str = "<!-- table: begin, written by `UPDATE_DOCS=1 cargo test -p codexd-proto` -->\n";
const END: &str = "<!-- table: end -->";

#[test]
fn the_described_table_is_the_one_that_is_observed() {
    assert_eq!(describe(), observed());
}

#[test]
fn the_table_in_the_documentation_is_the_described_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/lifecycle.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once(BEGIN).expect("docs/lifecycle.md has lost its first marker");
    let (table, tail) = rest.split_once(END).expect("docs/lifecycle.md has lost its second marker");
    if std::env::var_os("UPDATE_DOCS").is_some_and(|v| v == "1") {
        std::fs::write(&path, format!("{head}{BEGIN}{}{END}{tail}", describe())).unwrap();
    } else {
        assert!(
            table == describe(),
            "docs/lifecycle.md is out of date; run `UPDATE_DOCS=1 cargo test -p codexd-proto`"
        );
    }
}

#[test]
fn the_documentation_has_a_paragraph_for_each_state() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/lifecycle.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (head, _) = text.split_once(BEGIN).unwrap();
    for state in STATES {
        assert!(head.contains(&format!("\n**{state:?}**")), "no paragraph about {state:?}");
    }
}

// ---- named situations ------------------------------------------------------------------------------

#[test]
fn an_upstream_that_exits_0_unasked_does_not_make_the_daemon_exit_0() {
    for state in [State::Handshaking, State::Serving, State::Upgrading] {
        let mut life = led_to(state);
        feed(&mut life, &[EXIT_0]);
        assert_eq!(life.state(), State::Flushing);
        assert_eq!(life.exit_code(), None, "not before pending replies were written");
        feed(&mut life, &[LifecycleEvent::Flushed]);
        assert_eq!(life.exit_code(), Some(ExitCode::UpstreamLost));
    }
}

#[test]
fn a_signal_of_the_upstream_is_not_the_daemons_own_end() {
    // HUP, INT, PIPE and TERM look like a clean end to a supervisor: the daemon says 1 instead.
    for signal in [1, 2, 13, 15, 9, 11] {
        let mut life = led_to(State::Serving);
        feed(
            &mut life,
            &[LifecycleEvent::UpstreamExited(ChildStatus::Signal(signal)), LifecycleEvent::Flushed],
        );
        assert_eq!(life.exit_code().map(ExitCode::number), Some(1), "signal {signal}");
        assert_eq!(life.child(), Some(ChildStatus::Signal(signal)));
    }
}

#[test]
fn a_stop_that_was_asked_for_exits_0_however_the_upstream_ends() {
    for status in [ChildStatus::Code(0), ChildStatus::Code(101), ChildStatus::Signal(9)] {
        for state in [State::Draining, State::Interrupting, State::ClosingInput, State::Killing] {
            let mut life = led_to(state);
            feed(&mut life, &[LifecycleEvent::UpstreamExited(status), LifecycleEvent::Flushed]);
            assert_eq!(life.exit_code(), Some(ExitCode::Stopped), "{state:?} {status:?}");
        }
    }
}

#[test]
fn a_stop_after_the_loss_does_not_turn_it_into_a_stop() {
    let mut life = led_to(State::Serving);
    feed(
        &mut life,
        &[
            LifecycleEvent::UpstreamEof,
            STOP,
            LifecycleEvent::UpstreamExited(ChildStatus::Code(0)),
            LifecycleEvent::Flushed,
        ],
    );
    assert_eq!(life.exit_code(), Some(ExitCode::UpstreamLost));
    assert_eq!(life.intent(), Some(&Intent::UpstreamLost(LossKind::OutputEnded)));
}

#[test]
fn the_second_signal_skips_the_drain_and_the_third_kills() {
    let mut life = led_to(State::Serving);
    let first = feed(&mut life, &[STOP]);
    assert!(
        first.contains(&LifecycleEffect::SendShutdownNotice) && !first.contains(&LifecycleEffect::CloseInput)
    );
    let second = feed(&mut life, &[STOP]);
    assert_eq!(life.state(), State::ClosingInput);
    assert!(second.contains(&LifecycleEffect::CloseInput) && !second.contains(&LifecycleEffect::Kill));
    let third = feed(&mut life, &[STOP]);
    assert_eq!(life.state(), State::Killing);
    assert!(third.contains(&LifecycleEffect::Kill));
}

#[test]
fn output_that_ends_first_waits_for_the_status_and_the_status_for_nothing() {
    let mut life = led_to(State::Serving);
    let effects = feed(&mut life, &[LifecycleEvent::UpstreamEof]);
    assert_eq!(life.state(), State::Reaping);
    assert!(!effects.contains(&LifecycleEffect::ResolveClients), "the reason is not known yet");
    let effects = feed(&mut life, &[LifecycleEvent::UpstreamExited(ChildStatus::Signal(9))]);
    assert!(effects.contains(&LifecycleEffect::ResolveClients));
    assert_eq!(life.child(), Some(ChildStatus::Signal(9)));

    let mut life = led_to(State::Serving);
    let effects = feed(&mut life, &[LifecycleEvent::UpstreamExited(ChildStatus::Signal(9))]);
    assert_eq!(life.state(), State::Flushing);
    assert!(effects.contains(&LifecycleEffect::ResolveClients));
    assert_eq!(feed(&mut life, &[LifecycleEvent::UpstreamEof]), []);
}

#[test]
fn output_that_ends_without_an_exit_ends_the_process() {
    let mut life = led_to(State::Reaping);
    let effects = fire(&mut life);
    let resolve = effects.iter().position(|e| *e == LifecycleEffect::ResolveClients).unwrap();
    let terminate = effects.iter().position(|e| *e == LifecycleEffect::Terminate).unwrap();
    assert!(resolve < terminate, "clients do not wait for a process that does not leave");
    assert!(fire(&mut life).contains(&LifecycleEffect::Kill));
    fire(&mut life);
    assert_eq!(life.state(), State::Flushing);
    fire(&mut life);
    assert_eq!(life.exit_code(), Some(ExitCode::UpstreamLost));
}

#[test]
fn only_a_signal_shortens_a_drain() {
    for by in [StopSource::Control, StopSource::Client, StopSource::Idle] {
        for state in STATES {
            let mut life = led_to(state);
            if life.intent().is_none() {
                continue;
            }
            assert_eq!(life.handle(Time::ZERO, LifecycleEvent::StopRequested(by)), [], "{state:?}");
            assert_eq!(life.state(), state);
        }
    }
}

#[test]
fn a_drain_without_a_deadline_ends_by_quiet_or_by_a_second_signal() {
    for end in [LifecycleEvent::Quiet, STOP] {
        let mut life = Lifecycle::new(Timeouts { drain_ms: None, ..Timeouts::default() }, Time::ZERO);
        feed(&mut life, way_to(State::Draining));
        assert_eq!(life.poll_timeout(), None);
        feed(&mut life, &[end]);
        assert_eq!(life.state(), State::ClosingInput);
    }
}

#[test]
fn an_upgrade_ends_the_daemon_when_nothing_runs_with_a_code_of_its_own() {
    let mut life = led_to(State::Serving);
    let waits = feed(&mut life, &[LifecycleEvent::UpgradeRequested(Some(1_000))]);
    assert_eq!(
        waits,
        [LifecycleEffect::RefuseNewWork, LifecycleEffect::Arm(LifecycleTimer::Upgrade)],
        "clients stay, and others can connect"
    );
    assert_eq!((life.intent(), life.poll_timeout()), (None, Some(Time::from_millis(1_000))));
    let ends = feed(&mut life, &[LifecycleEvent::Quiet]);
    assert!(ends.contains(&LifecycleEffect::StopListening), "{ends:?}");
    feed(&mut life, &[LifecycleEvent::Quiet, EXIT_0, LifecycleEvent::Flushed]);
    assert_eq!(life.exit_code().map(ExitCode::number), Some(79));
}

#[test]
fn an_upgrade_that_is_called_off_or_too_late_leaves_the_daemon_as_it_was() {
    let timer = LifecycleEvent::TimerFired(LifecycleTimer::Upgrade);
    for end in [LifecycleEvent::UpgradeCalledOff, timer] {
        let mut life = led_to(State::Upgrading);
        let effects = feed(&mut life, &[end]);
        assert_eq!(effects, [LifecycleEffect::AcceptNewWork, LifecycleEffect::Disarm]);
        assert_eq!((life.state(), life.intent(), life.poll_timeout()), (State::Serving, None, None));
        // The next one has a time of its own.
        feed(&mut life, &[LifecycleEvent::UpgradeRequested(None)]);
        assert_eq!((life.state(), life.poll_timeout()), (State::Upgrading, None));
    }
}

#[test]
fn a_stop_of_an_operator_goes_before_an_upgrade_and_that_of_a_client_does_not() {
    use StopSource as S;
    for (by, code) in [
        (S::Control, ExitCode::Stopped),
        (S::Terminate, ExitCode::Stopped),
        (S::Client, ExitCode::Upgrade),
        (S::Idle, ExitCode::Upgrade),
    ] {
        let mut life = led_to(State::Upgrading);
        feed(&mut life, &[LifecycleEvent::Quiet, LifecycleEvent::StopRequested(by)]);
        feed(&mut life, &[LifecycleEvent::Quiet, EXIT_0, LifecycleEvent::Flushed]);
        assert_eq!(life.exit_code(), Some(code), "{by:?}");
        // While it still waits, each of them is a stop.
        let mut life = led_to(State::Upgrading);
        feed(&mut life, &[LifecycleEvent::StopRequested(by), LifecycleEvent::Quiet, EXIT_0]);
        feed(&mut life, &[LifecycleEvent::Flushed]);
        assert_eq!(life.exit_code(), Some(ExitCode::Stopped), "{by:?}");
    }
}

#[test]
fn a_timer_does_not_fire_before_its_time_nor_twice() {
    let mut life = led_to(State::Handshaking);
    let at = life.poll_timeout().unwrap();
    assert_eq!(life.handle_timeout(Time::from_millis(at.as_millis() - 1)), []);
    assert_eq!(life.state(), State::Handshaking);
    assert!(life.handle_timeout(at).contains(&LifecycleEffect::Terminate));
    let next = life.poll_timeout().unwrap();
    assert!(next > at);
    assert_eq!(life.handle_timeout(at), []);
}

#[test]
fn a_refused_handshake_and_a_failed_spawn_have_codes_of_their_own() {
    let mut life = led_to(State::Handshaking);
    feed(&mut life, &[LifecycleEvent::HandshakeRefused, STOP, EXIT_0, LifecycleEvent::Flushed]);
    assert_eq!(life.exit_code(), Some(ExitCode::Protocol));
    for code in [ExitCode::Unavailable, ExitCode::Os] {
        let mut life = started();
        let effects = feed(&mut life, &[LifecycleEvent::SpawnFailed(code), LifecycleEvent::Flushed]);
        assert!(
            effects.contains(&LifecycleEffect::ResolveClients),
            "pending requests of clients are resolved"
        );
        assert_eq!(life.exit_code(), Some(code));
    }
}

#[test]
fn the_longest_stop_is_as_long_as_the_timers_on_the_slowest_way() {
    let timeouts = Timeouts::default();
    let mut life = Lifecycle::new(timeouts, Time::ZERO);
    feed(&mut life, way_to(State::Draining));
    let mut last = Time::ZERO;
    while let Some(at) = life.poll_timeout() {
        last = at;
        life.handle_timeout(at);
    }
    assert_eq!(life.state(), State::Exited);
    assert_eq!(Some(last.as_millis()), timeouts.longest_stop_ms());
}

// ---- any run of events -----------------------------------------------------------------------------

/// A small generator (splitmix64): the seed alone determines a run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// What the first event that ends the daemon makes it exit with.
fn verdict(state: State, event: LifecycleEvent) -> Option<ExitCode> {
    use LifecycleEvent as E;
    let up = matches!(state, State::Handshaking | State::Serving | State::Upgrading);
    match event {
        E::StopRequested(_) | E::InterruptRequested(_) | E::KillRequested(_) => Some(ExitCode::Stopped),
        E::Quiet if state == State::Upgrading => Some(ExitCode::Upgrade),
        E::SpawnFailed(code) if state == State::Starting => Some(code),
        E::HandshakeRefused if state == State::Handshaking => Some(ExitCode::Protocol),
        E::TimerFired(LifecycleTimer::Handshake) if state == State::Handshaking => {
            Some(ExitCode::UpstreamLost)
        }
        E::UpstreamExited(_) | E::UpstreamEof | E::UpstreamMalformed | E::UpstreamUnresponsive if up => {
            Some(ExitCode::UpstreamLost)
        }
        _ => None,
    }
}

/// One run with everything that is checked along the way.
struct Run {
    life: Lifecycle,
    timeouts: Timeouts,
    now: Time,
    timer: Option<(LifecycleTimer, Time)>,
    spawned: bool,
    gone: bool,
    verdict: Option<ExitCode>,
    listening: bool,
    resolved: usize,
    closed: usize,
    log: Vec<(LifecycleEvent, State)>,
}

impl Run {
    fn new(timeouts: Timeouts) -> Run {
        Run {
            life: Lifecycle::new(timeouts, Time::ZERO),
            timeouts,
            now: Time::ZERO,
            timer: None,
            spawned: false,
            gone: false,
            verdict: None,
            listening: true,
            resolved: 0,
            closed: 0,
            log: Vec::new(),
        }
    }

    fn event(&mut self, event: LifecycleEvent) {
        let before = self.life.state();
        self.spawned |= event == LifecycleEvent::Spawned;
        self.gone |= matches!(event, LifecycleEvent::UpstreamExited(_));
        if let LifecycleEvent::StopRequested(by)
        | LifecycleEvent::InterruptRequested(by)
        | LifecycleEvent::KillRequested(by) = event
            && self.verdict == Some(ExitCode::Upgrade)
            && by.is_of_an_operator()
            && before != State::Exited
        {
            self.verdict = None;
        }
        self.verdict = self.verdict.or_else(|| verdict(before, event));
        if let LifecycleEvent::UpgradeRequested(within_ms) = event
            && before == State::Serving
        {
            self.timeouts.upgrade_ms = within_ms;
        }
        let effects = self.life.handle(self.now, event);
        self.took(before, event, &effects);
    }

    fn fire(&mut self) {
        let Some((timer, at)) = self.timer else { return };
        let before = self.life.state();
        self.now = self.now.max(at);
        let event = LifecycleEvent::TimerFired(timer);
        self.verdict = self.verdict.or_else(|| verdict(before, event));
        self.timer = None;
        let effects = self.life.handle_timeout(self.now);
        self.took(before, event, &effects);
    }

    fn took(&mut self, before: State, event: LifecycleEvent, effects: &[LifecycleEffect]) {
        self.log.push((event, self.life.state()));
        if before == State::Exited {
            assert_eq!(effects, [], "nothing is left to do after the exit");
        }
        let timers =
            effects.iter().filter(|e| matches!(e, LifecycleEffect::Arm(_) | LifecycleEffect::Disarm)).count();
        assert!(timers <= 1, "one timer at most: {effects:?}");
        for effect in effects {
            match effect {
                LifecycleEffect::Terminate | LifecycleEffect::Kill => {
                    assert!(self.spawned && !self.gone, "a signal to a process that is not there");
                }
                LifecycleEffect::StopListening => self.listening = false,
                LifecycleEffect::ResolveClients => {
                    assert!(!self.listening, "a client could still connect and get no notice");
                    self.resolved += 1;
                }
                LifecycleEffect::SendShutdownNotice => assert!(!self.listening),
                LifecycleEffect::CloseClients => {
                    assert!(self.resolved > 0, "closed before pending requests were resolved");
                    self.closed += 1;
                }
                LifecycleEffect::Arm(timer) => {
                    self.timer = self.timeouts.of(*timer).map(|ms| (*timer, self.now + ms))
                }
                LifecycleEffect::Disarm => self.timer = None,
                _ => {}
            }
        }
        assert_eq!(self.life.poll_timeout(), self.timer.map(|(_, at)| at));
        assert_eq!(self.life.intent().is_some(), self.verdict.is_some());
        assert!(self.resolved <= 2, "the router bears a second time, not more");
        if self.life.state() == State::Exited {
            assert_eq!(self.life.exit_code(), self.verdict);
            assert_eq!((self.timer, self.closed), (None, 1));
        } else {
            assert_eq!(self.life.exit_code(), None);
        }
    }
}

fn random_event(random: &mut Random, run: &Run) -> Option<LifecycleEvent> {
    let statuses = [ChildStatus::Code(0), ChildStatus::Code(3), ChildStatus::Signal(9)];
    let event = match EVENTS[random.below(EVENTS.len())] {
        LifecycleEvent::UpstreamExited(_) => LifecycleEvent::UpstreamExited(statuses[random.below(3)]),
        // A timer fires when it runs; firing what does not run is the table's business.
        LifecycleEvent::TimerFired(_) => return None,
        LifecycleEvent::UpgradeRequested(_) => {
            LifecycleEvent::UpgradeRequested((random.below(2) == 0).then(|| random.below(500) as u64))
        }
        other => other,
    };
    // A process ends once, and only if it began; it begins only while it is waited for.
    let possible = match event {
        LifecycleEvent::Spawned | LifecycleEvent::SpawnFailed(_) => run.life.state() == State::Starting,
        LifecycleEvent::UpstreamExited(_) => run.spawned && !run.gone,
        _ => true,
    };
    possible.then_some(event)
}

#[test]
fn any_run_of_events_keeps_the_promises_and_ends() {
    for seed in 0..20_000 {
        let mut random = Random(seed);
        let mut run =
            Run::new(Timeouts { drain_ms: (random.below(4) > 0).then_some(1_000), ..Timeouts::default() });
        if random.below(4) > 0 {
            run.event(LifecycleEvent::Spawned);
        }
        if random.below(4) > 0 {
            run.event(LifecycleEvent::HandshakeDone);
        }
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..random.below(20) {
                run.now = run.now + random.below(200) as u64;
                if random.below(4) == 0 {
                    run.fire();
                } else if let Some(event) = random_event(&mut random, &run) {
                    run.event(event);
                }
            }
            if run.life.intent().is_none() {
                return;
            }
            if run.life.state() == State::Draining && run.timer.is_none() {
                run.event(STOP);
            }
            // No further input: the timers alone lead to the end.
            for _ in 0..7 {
                run.fire();
            }
            assert_eq!(run.life.state(), State::Exited, "the timers did not lead to the end");
        }));
        if let Err(panic) = ran {
            eprintln!("seed {seed}: {:?}", run.log);
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_start_that_nobody_stops_goes_on_for_ever() {
    // The counterpart of the property above: no timer ends a daemon that serves.
    let life = led_to(State::Serving);
    assert_eq!((life.poll_timeout(), life.intent()), (None, None));
}
