//! The table: what each event does in each state.

use std::fmt::Write as _;

use super::{ChildStatus, Effect, Event, Intent, LossKind, State, StopSource, Timer};
use crate::exit::ExitCode;

/// What one event does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// The state after it; `None` stays.
    pub(super) next: Option<State>,
    /// Why the daemon ends, if this is the first reason.
    pub(super) intent: Option<Intent>,
    pub(super) effects: Vec<Effect>,
}

impl Step {
    /// The event means nothing here.
    fn nothing() -> Step {
        Step { next: None, intent: None, effects: Vec::new() }
    }

    fn stay(effects: &[Effect]) -> Step {
        Step { next: None, intent: None, effects: effects.to_vec() }
    }

    fn go(next: State, effects: &[Effect]) -> Step {
        Step { next: Some(next), intent: None, effects: effects.to_vec() }
    }

    fn because(mut self, intent: Intent) -> Step {
        self.intent = Some(intent);
        self
    }

    /// Puts effects before the others.
    fn after(mut self, first: &[Effect]) -> Step {
        self.effects.splice(0..0, first.iter().copied());
        self
    }
}

/// Ends the upstream the gentlest way.
fn close_input() -> Step {
    Step::go(State::ClosingInput, &[Effect::CloseInput, Effect::Arm(Timer::Input)])
}

fn terminate() -> Step {
    Step::go(State::Terminating, &[Effect::CloseInput, Effect::Terminate, Effect::Arm(Timer::Terminate)])
}

fn kill() -> Step {
    Step::go(State::Killing, &[Effect::CloseInput, Effect::Kill, Effect::Arm(Timer::Kill)])
}

/// The upstream has gone: what is owed can be told, and then the daemon is done.
fn flush() -> Step {
    Step::go(State::Flushing, &[Effect::Sweep, Effect::SettleClients, Effect::Arm(Timer::Flush)])
}

/// Nothing is owed to anybody any more.
fn exit() -> Step {
    Step::go(State::Exited, &[Effect::CloseClients, Effect::Disarm])
}

/// The first thing to do on every way out: nobody new may come in.
const CLOSE_DOOR: [Effect; 2] = [Effect::NotifyStopping, Effect::StopListening];

fn lost(kind: LossKind) -> Intent {
    Intent::UpstreamLost(kind)
}

/// Says what `event` does in `state`. `gone` tells whether the upstream process has ended.
///
/// Without a wildcard, so that a new state or event asks for its place here.
pub(super) fn step(state: State, event: Event, gone: bool) -> Step {
    use State as S;
    use Timer as T;

    match (state, event) {
        // ---- Starting: there is no process yet ----------------------------------------------------
        (S::Starting, Event::Spawned) => Step::go(S::Handshaking, &[Effect::Arm(T::Handshake)]),
        (S::Starting, Event::SpawnFailed(code)) => {
            flush().after(&CLOSE_DOOR).because(Intent::SpawnFailed(code))
        }
        (S::Starting, Event::StopRequested(by) | Event::KillRequested(by)) => {
            flush().after(&CLOSE_DOOR).because(Intent::Stop(by))
        }
        (
            S::Starting,
            Event::HandshakeDone
            | Event::HandshakeRefused
            | Event::UpstreamExited(_)
            | Event::UpstreamEof
            | Event::UpstreamMalformed
            | Event::UpstreamUnresponsive
            | Event::Quiet
            | Event::Flushed
            | Event::TimerFired(_),
        ) => Step::nothing(),

        // ---- Handshaking ---------------------------------------------------------------------------
        (S::Handshaking, Event::HandshakeDone) => Step::go(S::Serving, &[Effect::Disarm, Effect::Ready]),
        (S::Handshaking, Event::HandshakeRefused) => {
            close_input().after(&CLOSE_DOOR).because(Intent::HandshakeRefused)
        }
        (S::Handshaking, Event::TimerFired(T::Handshake)) => terminate()
            .after(&[Effect::SettleClients])
            .after(&CLOSE_DOOR)
            .because(lost(LossKind::HandshakeTimeout)),
        (S::Handshaking, Event::StopRequested(by)) => {
            close_input().after(&CLOSE_DOOR).because(Intent::Stop(by))
        }

        // ---- Serving -------------------------------------------------------------------------------
        (S::Serving, Event::StopRequested(by)) => {
            Step::go(S::Draining, &[Effect::AnnounceDrain, Effect::Arm(T::Drain)])
                .after(&CLOSE_DOOR)
                .because(Intent::Stop(by))
        }

        // ---- Draining ------------------------------------------------------------------------------
        (S::Draining, Event::Quiet) => close_input(),
        (S::Draining, Event::TimerFired(T::Drain)) => {
            Step::go(S::Interrupting, &[Effect::InterruptTurns, Effect::Arm(T::Interrupt)])
        }
        // The second signal: do not wait any longer.
        (S::Draining, Event::StopRequested(by)) if by.insists() => close_input(),

        // ---- Interrupting --------------------------------------------------------------------------
        (S::Interrupting, Event::Quiet | Event::TimerFired(T::Interrupt)) => close_input(),
        (S::Interrupting, Event::StopRequested(by)) if by.insists() => close_input(),

        // ---- The upstream is lost while it is needed -----------------------------------------------
        (S::Handshaking | S::Serving, Event::UpstreamExited(_)) => {
            flush().after(&CLOSE_DOOR).because(lost(LossKind::Exited))
        }
        (S::Handshaking | S::Serving, Event::UpstreamEof) => {
            Step::go(S::Reaping, &[Effect::CloseInput, Effect::Arm(T::Reap)])
                .after(&CLOSE_DOOR)
                .because(lost(LossKind::OutputEnded))
        }
        (S::Handshaking | S::Serving, Event::UpstreamMalformed) => {
            terminate().after(&[Effect::SettleClients]).after(&CLOSE_DOOR).because(lost(LossKind::Malformed))
        }
        (S::Handshaking | S::Serving, Event::UpstreamUnresponsive) => terminate()
            .after(&[Effect::SettleClients])
            .after(&CLOSE_DOOR)
            .because(lost(LossKind::Unresponsive)),
        // While draining, the stop was asked for: the exit code stays that of a stop.
        (S::Draining | S::Interrupting, Event::UpstreamExited(_)) => flush(),
        (S::Draining | S::Interrupting, Event::UpstreamEof) => {
            Step::go(S::Reaping, &[Effect::CloseInput, Effect::Arm(T::Reap)])
        }
        (S::Draining | S::Interrupting, Event::UpstreamMalformed | Event::UpstreamUnresponsive) => {
            terminate().after(&[Effect::SettleClients])
        }

        // ---- At once -------------------------------------------------------------------------------
        (S::Handshaking | S::Serving, Event::KillRequested(by)) => {
            kill().after(&CLOSE_DOOR).because(Intent::Stop(by))
        }
        (
            S::Draining | S::Interrupting | S::Reaping | S::ClosingInput | S::Terminating,
            Event::KillRequested(_),
        ) => kill(),

        // ---- Reaping: the output has ended ---------------------------------------------------------
        (S::Reaping, Event::UpstreamExited(_)) => flush(),
        (S::Reaping, Event::TimerFired(T::Reap)) => terminate().after(&[Effect::SettleClients]),
        (S::Reaping, Event::StopRequested(by)) if by.insists() => kill(),

        // ---- ClosingInput, Terminating, Killing: step by step ----------------------------------------
        (S::ClosingInput, Event::UpstreamExited(_)) => flush(),
        (S::ClosingInput, Event::TimerFired(T::Input)) => terminate(),
        // The third signal: kill.
        (S::ClosingInput, Event::StopRequested(by)) if by.insists() => kill(),
        (S::Terminating, Event::UpstreamExited(_)) => flush(),
        (S::Terminating, Event::TimerFired(T::Terminate)) => kill(),
        (S::Terminating, Event::StopRequested(by)) if by.insists() => kill(),
        (S::Killing, Event::UpstreamExited(_)) => flush(),
        // A process that SIGKILL does not end sits in the kernel: nobody can do more.
        (S::Killing, Event::TimerFired(T::Kill)) => flush(),
        (S::Killing, Event::StopRequested(by)) if by.insists() => Step::stay(&[Effect::Kill]),
        (S::Killing, Event::KillRequested(_)) => Step::stay(&[Effect::Kill]),

        // ---- Flushing ------------------------------------------------------------------------------
        (S::Flushing, Event::Flushed | Event::TimerFired(T::Flush)) => exit(),
        (S::Flushing, Event::StopRequested(by)) if by.insists() => exit(),
        (S::Flushing, Event::KillRequested(_)) => exit(),

        // ---- Asked again by somebody who can wait ----------------------------------------------------
        (
            S::Draining
            | S::Interrupting
            | S::Reaping
            | S::ClosingInput
            | S::Terminating
            | S::Killing
            | S::Flushing,
            Event::StopRequested(_),
        ) => Step::nothing(),

        // ---- Events that come too late, or that a state does not wait for ----------------------------
        (
            S::Handshaking,
            Event::Spawned
            | Event::SpawnFailed(_)
            | Event::Quiet
            | Event::Flushed
            | Event::TimerFired(
                T::Drain | T::Interrupt | T::Reap | T::Input | T::Terminate | T::Kill | T::Flush,
            ),
        ) => Step::nothing(),
        (
            S::Serving,
            Event::Spawned
            | Event::SpawnFailed(_)
            | Event::HandshakeDone
            | Event::HandshakeRefused
            | Event::Quiet
            | Event::Flushed
            | Event::TimerFired(_),
        ) => Step::nothing(),
        (
            S::Draining,
            Event::Spawned
            | Event::SpawnFailed(_)
            | Event::HandshakeDone
            | Event::HandshakeRefused
            | Event::Flushed
            | Event::TimerFired(
                T::Handshake | T::Interrupt | T::Reap | T::Input | T::Terminate | T::Kill | T::Flush,
            ),
        ) => Step::nothing(),
        (
            S::Interrupting,
            Event::Spawned
            | Event::SpawnFailed(_)
            | Event::HandshakeDone
            | Event::HandshakeRefused
            | Event::Flushed
            | Event::TimerFired(
                T::Handshake | T::Drain | T::Reap | T::Input | T::Terminate | T::Kill | T::Flush,
            ),
        ) => Step::nothing(),
        (
            S::Reaping,
            Event::Spawned
            | Event::SpawnFailed(_)
            | Event::HandshakeDone
            | Event::HandshakeRefused
            | Event::UpstreamEof
            | Event::UpstreamMalformed
            | Event::UpstreamUnresponsive
            | Event::Quiet
            | Event::Flushed
            | Event::TimerFired(
                T::Handshake | T::Drain | T::Interrupt | T::Input | T::Terminate | T::Kill | T::Flush,
            ),
        ) => Step::nothing(),
        (
            S::ClosingInput,
            Event::Spawned
            | Event::SpawnFailed(_)
            | Event::HandshakeDone
            | Event::HandshakeRefused
            | Event::UpstreamEof
            | Event::UpstreamMalformed
            | Event::UpstreamUnresponsive
            | Event::Quiet
            | Event::Flushed
            | Event::TimerFired(
                T::Handshake | T::Drain | T::Interrupt | T::Reap | T::Terminate | T::Kill | T::Flush,
            ),
        ) => Step::nothing(),
        (
            S::Terminating,
            Event::Spawned
            | Event::SpawnFailed(_)
            | Event::HandshakeDone
            | Event::HandshakeRefused
            | Event::UpstreamEof
            | Event::UpstreamMalformed
            | Event::UpstreamUnresponsive
            | Event::Quiet
            | Event::Flushed
            | Event::TimerFired(
                T::Handshake | T::Drain | T::Interrupt | T::Reap | T::Input | T::Kill | T::Flush,
            ),
        ) => Step::nothing(),
        (
            S::Killing,
            Event::Spawned
            | Event::SpawnFailed(_)
            | Event::HandshakeDone
            | Event::HandshakeRefused
            | Event::UpstreamEof
            | Event::UpstreamMalformed
            | Event::UpstreamUnresponsive
            | Event::Quiet
            | Event::Flushed
            | Event::TimerFired(
                T::Handshake | T::Drain | T::Interrupt | T::Reap | T::Input | T::Terminate | T::Flush,
            ),
        ) => Step::nothing(),
        (
            S::Flushing,
            Event::Spawned
            | Event::SpawnFailed(_)
            | Event::HandshakeDone
            | Event::HandshakeRefused
            | Event::UpstreamExited(_)
            | Event::UpstreamEof
            | Event::UpstreamMalformed
            | Event::UpstreamUnresponsive
            | Event::Quiet
            | Event::TimerFired(
                T::Handshake | T::Drain | T::Interrupt | T::Reap | T::Input | T::Terminate | T::Kill,
            ),
        ) => Step::nothing(),
        (
            S::Exited,
            Event::Spawned
            | Event::SpawnFailed(_)
            | Event::HandshakeDone
            | Event::HandshakeRefused
            | Event::UpstreamExited(_)
            | Event::UpstreamEof
            | Event::UpstreamMalformed
            | Event::UpstreamUnresponsive
            | Event::StopRequested(_)
            | Event::KillRequested(_)
            | Event::Quiet
            | Event::Flushed
            | Event::TimerFired(_),
        ) => Step::nothing(),
    }
    .skip_signals_to_the_dead(gone)
}

impl Step {
    /// A signal is never sent to a process that has ended: its id may be somebody else's by now.
    fn skip_signals_to_the_dead(mut self, gone: bool) -> Step {
        if gone {
            self.effects.retain(|e| !matches!(e, Effect::Terminate | Effect::Kill));
        }
        self
    }
}

/// Every state, for tests and for the table in the documentation.
pub const STATES: [State; 11] = [
    State::Starting,
    State::Handshaking,
    State::Serving,
    State::Draining,
    State::Interrupting,
    State::Reaping,
    State::ClosingInput,
    State::Terminating,
    State::Killing,
    State::Flushing,
    State::Exited,
];

/// Every event once, with an example where it carries a value.
pub const EVENTS: [Event; 21] = [
    Event::Spawned,
    Event::SpawnFailed(ExitCode::Unavailable),
    Event::HandshakeDone,
    Event::HandshakeRefused,
    Event::UpstreamExited(ChildStatus::Code(0)),
    Event::UpstreamEof,
    Event::UpstreamMalformed,
    Event::UpstreamUnresponsive,
    Event::StopRequested(StopSource::Terminate),
    Event::StopRequested(StopSource::Control),
    Event::KillRequested(StopSource::Control),
    Event::Quiet,
    Event::Flushed,
    Event::TimerFired(Timer::Handshake),
    Event::TimerFired(Timer::Drain),
    Event::TimerFired(Timer::Interrupt),
    Event::TimerFired(Timer::Reap),
    Event::TimerFired(Timer::Input),
    Event::TimerFired(Timer::Terminate),
    Event::TimerFired(Timer::Kill),
    Event::TimerFired(Timer::Flush),
];

/// Writes the whole table as Markdown: what `docs/lifecycle.md` shows.
pub fn describe() -> String {
    let mut out = String::new();
    for state in STATES {
        let _ = writeln!(out, "### {state:?}\n");
        let _ = writeln!(out, "| event | goes to | because | effects, in order |\n|---|---|---|---|");
        let mut ignored = Vec::new();
        for event in EVENTS {
            let step = step(state, event, false);
            let name = event_name(event);
            if step == Step::nothing() {
                ignored.push(name);
                continue;
            }
            let next = step.next.map_or("(stays)".to_owned(), |s| format!("{s:?}"));
            let intent = match step.intent {
                Some(Intent::Stop(_)) => "stop".to_owned(),
                Some(Intent::UpstreamLost(kind)) => format!("upstream lost: {kind:?}"),
                Some(Intent::SpawnFailed(_)) => "spawn failed".to_owned(),
                Some(Intent::HandshakeRefused) => "handshake refused".to_owned(),
                None => String::new(),
            };
            let effects: Vec<String> = step.effects.iter().map(|e| format!("{e:?}")).collect();
            let _ = writeln!(out, "| {name} | {next} | {intent} | {} |", effects.join(", "));
        }
        let _ = writeln!(out, "\nNothing: {}.\n", ignored.join(", "));
    }
    out
}

fn event_name(event: Event) -> String {
    match event {
        Event::SpawnFailed(_) => "SpawnFailed".to_owned(),
        Event::UpstreamExited(_) => "UpstreamExited".to_owned(),
        Event::StopRequested(by) if by.insists() => "StopRequested by a signal".to_owned(),
        Event::StopRequested(_) => "StopRequested otherwise".to_owned(),
        Event::KillRequested(_) => "KillRequested".to_owned(),
        Event::TimerFired(timer) => format!("{timer:?} timer"),
        other => format!("{other:?}"),
    }
}
