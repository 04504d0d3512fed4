//! The table: what each event does in each state.

use std::fmt::Write as _;

use super::{
    ChildStatus, Intent, LifecycleEffect, LifecycleEvent, LifecycleTimer, LossKind, State, StopSource,
};
use crate::exit::ExitCode;

/// What one event does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// The state after it; `None` stays.
    pub(super) next: Option<State>,
    /// Why the daemon ends, if this is the first reason.
    pub(super) intent: Option<Intent>,
    pub(super) effects: Vec<LifecycleEffect>,
}

impl Step {
    /// The event means nothing here.
    fn nothing() -> Step {
        Step { next: None, intent: None, effects: Vec::new() }
    }

    fn stay(effects: &[LifecycleEffect]) -> Step {
        Step { next: None, intent: None, effects: effects.to_vec() }
    }

    fn go(next: State, effects: &[LifecycleEffect]) -> Step {
        Step { next: Some(next), intent: None, effects: effects.to_vec() }
    }

    fn because(mut self, intent: Intent) -> Step {
        self.intent = Some(intent);
        self
    }

    /// Puts effects before the others.
    fn after(mut self, first: &[LifecycleEffect]) -> Step {
        self.effects.splice(0..0, first.iter().copied());
        self
    }
}

/// Closes the upstream's input, the first step to end it.
fn close_input() -> Step {
    Step::go(State::ClosingInput, &[LifecycleEffect::CloseInput, LifecycleEffect::Arm(LifecycleTimer::Input)])
}

/// Ends running turns, and waits a moment for their ends.
fn interrupt() -> Step {
    Step::go(
        State::Interrupting,
        &[LifecycleEffect::InterruptTurns, LifecycleEffect::Arm(LifecycleTimer::Interrupt)],
    )
}

fn terminate() -> Step {
    Step::go(
        State::Terminating,
        &[
            LifecycleEffect::CloseInput,
            LifecycleEffect::Terminate,
            LifecycleEffect::Arm(LifecycleTimer::Terminate),
        ],
    )
}

fn kill() -> Step {
    Step::go(
        State::Killing,
        &[LifecycleEffect::CloseInput, LifecycleEffect::Kill, LifecycleEffect::Arm(LifecycleTimer::Kill)],
    )
}

/// The upstream has gone: pending requests are resolved, and then the daemon is done.
fn flush() -> Step {
    Step::go(
        State::Flushing,
        &[
            LifecycleEffect::Sweep,
            LifecycleEffect::ResolveClients,
            LifecycleEffect::Arm(LifecycleTimer::Flush),
        ],
    )
}

/// There are no pending replies any more.
fn exit() -> Step {
    Step::go(State::Exited, &[LifecycleEffect::CloseClients, LifecycleEffect::Disarm])
}

/// The first steps of every shutdown: no new clients.
const STOP_ACCEPTING: [LifecycleEffect; 2] =
    [LifecycleEffect::NotifyStopping, LifecycleEffect::StopListening];

fn lost(kind: LossKind) -> Intent {
    Intent::UpstreamLost(kind)
}

/// Returns what `event` does in `state`. `gone` is true if the upstream process has ended.
///
/// Without a wildcard, so that a new state or event does not compile until it is handled here.
pub(super) fn step(state: State, event: LifecycleEvent, gone: bool) -> Step {
    use LifecycleTimer as T;
    use State as S;

    match (state, event) {
        // ---- Starting: there is no process yet ----------------------------------------------------
        (S::Starting, LifecycleEvent::Spawned) => {
            Step::go(S::Handshaking, &[LifecycleEffect::Arm(T::Handshake)])
        }
        (S::Starting, LifecycleEvent::SpawnFailed(code)) => {
            flush().after(&STOP_ACCEPTING).because(Intent::SpawnFailed(code))
        }
        (
            S::Starting,
            LifecycleEvent::StopRequested(by)
            | LifecycleEvent::InterruptRequested(by)
            | LifecycleEvent::KillRequested(by),
        ) => flush().after(&STOP_ACCEPTING).because(Intent::Stop(by)),
        (
            S::Starting,
            LifecycleEvent::HandshakeDone
            | LifecycleEvent::HandshakeRefused
            | LifecycleEvent::UpstreamExited(_)
            | LifecycleEvent::UpstreamEof
            | LifecycleEvent::UpstreamMalformed
            | LifecycleEvent::UpstreamUnresponsive
            | LifecycleEvent::UpgradeRequested(_)
            | LifecycleEvent::UpgradeCalledOff
            | LifecycleEvent::Quiet
            | LifecycleEvent::Flushed
            | LifecycleEvent::TimerFired(_),
        ) => Step::nothing(),

        // ---- Handshaking ---------------------------------------------------------------------------
        (S::Handshaking, LifecycleEvent::HandshakeDone) => {
            Step::go(S::Serving, &[LifecycleEffect::Disarm, LifecycleEffect::Ready])
        }
        (S::Handshaking, LifecycleEvent::HandshakeRefused) => {
            close_input().after(&STOP_ACCEPTING).because(Intent::HandshakeRefused)
        }
        (S::Handshaking, LifecycleEvent::TimerFired(T::Handshake)) => terminate()
            .after(&[LifecycleEffect::ResolveClients])
            .after(&STOP_ACCEPTING)
            .because(lost(LossKind::HandshakeTimeout)),
        (S::Handshaking, LifecycleEvent::StopRequested(by) | LifecycleEvent::InterruptRequested(by)) => {
            close_input().after(&STOP_ACCEPTING).because(Intent::Stop(by))
        }

        // ---- Serving -------------------------------------------------------------------------------
        (S::Serving, LifecycleEvent::UpgradeRequested(_)) => {
            Step::go(S::Upgrading, &[LifecycleEffect::RefuseNewWork, LifecycleEffect::Arm(T::Upgrade)])
        }
        (S::Serving | S::Upgrading, LifecycleEvent::StopRequested(by)) => {
            Step::go(S::Draining, &[LifecycleEffect::SendShutdownNotice, LifecycleEffect::Arm(T::Drain)])
                .after(&STOP_ACCEPTING)
                .because(Intent::Stop(by))
        }

        (S::Serving | S::Upgrading, LifecycleEvent::InterruptRequested(by)) => interrupt()
            .after(&[LifecycleEffect::SendShutdownNotice])
            .after(&STOP_ACCEPTING)
            .because(Intent::Stop(by)),

        // ---- Upgrading: the daemon waits until nothing runs ------------------------------------------
        // Draining keeps the threads that never ran, and takes the time that their requests need.
        (S::Upgrading, LifecycleEvent::Quiet) => {
            Step::go(S::Draining, &[LifecycleEffect::SendShutdownNotice, LifecycleEffect::Arm(T::Drain)])
                .after(&STOP_ACCEPTING)
                .because(Intent::Upgrade)
        }
        (S::Upgrading, LifecycleEvent::UpgradeCalledOff | LifecycleEvent::TimerFired(T::Upgrade)) => {
            Step::go(S::Serving, &[LifecycleEffect::AcceptNewWork, LifecycleEffect::Disarm])
        }

        // ---- Draining ------------------------------------------------------------------------------
        (S::Draining, LifecycleEvent::Quiet) => close_input(),
        (S::Draining, LifecycleEvent::TimerFired(T::Drain) | LifecycleEvent::InterruptRequested(_)) => {
            interrupt()
        }
        // The second signal: do not wait any longer.
        (S::Draining, LifecycleEvent::StopRequested(by)) if by.insists() => close_input(),

        // ---- Interrupting --------------------------------------------------------------------------
        (S::Interrupting, LifecycleEvent::Quiet | LifecycleEvent::TimerFired(T::Interrupt)) => close_input(),
        (S::Interrupting, LifecycleEvent::StopRequested(by)) if by.insists() => close_input(),

        // ---- The upstream is lost while it is needed -----------------------------------------------
        (S::Handshaking | S::Serving | S::Upgrading, LifecycleEvent::UpstreamExited(_)) => {
            flush().after(&STOP_ACCEPTING).because(lost(LossKind::Exited))
        }
        (S::Handshaking | S::Serving | S::Upgrading, LifecycleEvent::UpstreamEof) => {
            Step::go(S::Reaping, &[LifecycleEffect::CloseInput, LifecycleEffect::Arm(T::Reap)])
                .after(&STOP_ACCEPTING)
                .because(lost(LossKind::OutputEnded))
        }
        (S::Handshaking | S::Serving | S::Upgrading, LifecycleEvent::UpstreamMalformed) => terminate()
            .after(&[LifecycleEffect::ResolveClients])
            .after(&STOP_ACCEPTING)
            .because(lost(LossKind::Malformed)),
        (S::Handshaking | S::Serving | S::Upgrading, LifecycleEvent::UpstreamUnresponsive) => terminate()
            .after(&[LifecycleEffect::ResolveClients])
            .after(&STOP_ACCEPTING)
            .because(lost(LossKind::Unresponsive)),
        // While draining, the stop was asked for: the exit code stays that of a stop.
        (S::Draining | S::Interrupting, LifecycleEvent::UpstreamExited(_)) => flush(),
        (S::Draining | S::Interrupting, LifecycleEvent::UpstreamEof) => {
            Step::go(S::Reaping, &[LifecycleEffect::CloseInput, LifecycleEffect::Arm(T::Reap)])
        }
        (
            S::Draining | S::Interrupting,
            LifecycleEvent::UpstreamMalformed | LifecycleEvent::UpstreamUnresponsive,
        ) => terminate().after(&[LifecycleEffect::ResolveClients]),

        // ---- At once -------------------------------------------------------------------------------
        (S::Handshaking | S::Serving | S::Upgrading, LifecycleEvent::KillRequested(by)) => {
            kill().after(&STOP_ACCEPTING).because(Intent::Stop(by))
        }
        (
            S::Draining | S::Interrupting | S::Reaping | S::ClosingInput | S::Terminating,
            LifecycleEvent::KillRequested(_),
        ) => kill(),

        // ---- Reaping: the output has ended ---------------------------------------------------------
        (S::Reaping, LifecycleEvent::UpstreamExited(_)) => flush(),
        (S::Reaping, LifecycleEvent::TimerFired(T::Reap)) => {
            terminate().after(&[LifecycleEffect::ResolveClients])
        }
        (S::Reaping, LifecycleEvent::StopRequested(by)) if by.insists() => kill(),

        // ---- ClosingInput, Terminating, Killing: step by step ----------------------------------------
        (S::ClosingInput, LifecycleEvent::UpstreamExited(_)) => flush(),
        (S::ClosingInput, LifecycleEvent::TimerFired(T::Input)) => terminate(),
        // The third signal: kill.
        (S::ClosingInput, LifecycleEvent::StopRequested(by)) if by.insists() => kill(),
        (S::Terminating, LifecycleEvent::UpstreamExited(_)) => flush(),
        (S::Terminating, LifecycleEvent::TimerFired(T::Terminate)) => kill(),
        (S::Terminating, LifecycleEvent::StopRequested(by)) if by.insists() => kill(),
        (S::Killing, LifecycleEvent::UpstreamExited(_)) => flush(),
        // A process that SIGKILL does not end is blocked in the kernel: nothing more can be done.
        (S::Killing, LifecycleEvent::TimerFired(T::Kill)) => flush(),
        (S::Killing, LifecycleEvent::StopRequested(by)) if by.insists() => {
            Step::stay(&[LifecycleEffect::Kill])
        }
        (S::Killing, LifecycleEvent::KillRequested(_)) => Step::stay(&[LifecycleEffect::Kill]),

        // ---- Flushing ------------------------------------------------------------------------------
        (S::Flushing, LifecycleEvent::Flushed | LifecycleEvent::TimerFired(T::Flush)) => exit(),
        (S::Flushing, LifecycleEvent::StopRequested(by)) if by.insists() => exit(),
        (S::Flushing, LifecycleEvent::KillRequested(_)) => exit(),

        // ---- A second request that does not hurry the stop -------------------------------------------
        (
            S::Draining
            | S::Interrupting
            | S::Reaping
            | S::ClosingInput
            | S::Terminating
            | S::Killing
            | S::Flushing,
            LifecycleEvent::StopRequested(_),
        ) => Step::nothing(),
        (
            S::Interrupting | S::Reaping | S::ClosingInput | S::Terminating | S::Killing | S::Flushing,
            LifecycleEvent::InterruptRequested(_),
        ) => Step::nothing(),

        // ---- Events that come too late, or that a state does not wait for ----------------------------
        (
            S::Handshaking,
            LifecycleEvent::Spawned
            | LifecycleEvent::SpawnFailed(_)
            | LifecycleEvent::UpgradeRequested(_)
            | LifecycleEvent::UpgradeCalledOff
            | LifecycleEvent::Quiet
            | LifecycleEvent::Flushed
            | LifecycleEvent::TimerFired(
                T::Upgrade | T::Drain | T::Interrupt | T::Reap | T::Input | T::Terminate | T::Kill | T::Flush,
            ),
        ) => Step::nothing(),
        (
            S::Serving,
            LifecycleEvent::Spawned
            | LifecycleEvent::SpawnFailed(_)
            | LifecycleEvent::HandshakeDone
            | LifecycleEvent::HandshakeRefused
            | LifecycleEvent::UpgradeCalledOff
            | LifecycleEvent::Quiet
            | LifecycleEvent::Flushed
            | LifecycleEvent::TimerFired(_),
        ) => Step::nothing(),
        (
            S::Upgrading,
            LifecycleEvent::Spawned
            | LifecycleEvent::SpawnFailed(_)
            | LifecycleEvent::HandshakeDone
            | LifecycleEvent::HandshakeRefused
            | LifecycleEvent::UpgradeRequested(_)
            | LifecycleEvent::Flushed
            | LifecycleEvent::TimerFired(
                T::Handshake
                | T::Drain
                | T::Interrupt
                | T::Reap
                | T::Input
                | T::Terminate
                | T::Kill
                | T::Flush,
            ),
        ) => Step::nothing(),
        (
            S::Draining,
            LifecycleEvent::Spawned
            | LifecycleEvent::SpawnFailed(_)
            | LifecycleEvent::HandshakeDone
            | LifecycleEvent::HandshakeRefused
            | LifecycleEvent::UpgradeRequested(_)
            | LifecycleEvent::UpgradeCalledOff
            | LifecycleEvent::Flushed
            | LifecycleEvent::TimerFired(
                T::Upgrade
                | T::Handshake
                | T::Interrupt
                | T::Reap
                | T::Input
                | T::Terminate
                | T::Kill
                | T::Flush,
            ),
        ) => Step::nothing(),
        (
            S::Interrupting,
            LifecycleEvent::Spawned
            | LifecycleEvent::SpawnFailed(_)
            | LifecycleEvent::HandshakeDone
            | LifecycleEvent::HandshakeRefused
            | LifecycleEvent::UpgradeRequested(_)
            | LifecycleEvent::UpgradeCalledOff
            | LifecycleEvent::Flushed
            | LifecycleEvent::TimerFired(
                T::Upgrade | T::Handshake | T::Drain | T::Reap | T::Input | T::Terminate | T::Kill | T::Flush,
            ),
        ) => Step::nothing(),
        (
            S::Reaping,
            LifecycleEvent::Spawned
            | LifecycleEvent::SpawnFailed(_)
            | LifecycleEvent::HandshakeDone
            | LifecycleEvent::HandshakeRefused
            | LifecycleEvent::UpstreamEof
            | LifecycleEvent::UpstreamMalformed
            | LifecycleEvent::UpstreamUnresponsive
            | LifecycleEvent::UpgradeRequested(_)
            | LifecycleEvent::UpgradeCalledOff
            | LifecycleEvent::Quiet
            | LifecycleEvent::Flushed
            | LifecycleEvent::TimerFired(
                T::Upgrade
                | T::Handshake
                | T::Drain
                | T::Interrupt
                | T::Input
                | T::Terminate
                | T::Kill
                | T::Flush,
            ),
        ) => Step::nothing(),
        (
            S::ClosingInput,
            LifecycleEvent::Spawned
            | LifecycleEvent::SpawnFailed(_)
            | LifecycleEvent::HandshakeDone
            | LifecycleEvent::HandshakeRefused
            | LifecycleEvent::UpstreamEof
            | LifecycleEvent::UpstreamMalformed
            | LifecycleEvent::UpstreamUnresponsive
            | LifecycleEvent::UpgradeRequested(_)
            | LifecycleEvent::UpgradeCalledOff
            | LifecycleEvent::Quiet
            | LifecycleEvent::Flushed
            | LifecycleEvent::TimerFired(
                T::Upgrade
                | T::Handshake
                | T::Drain
                | T::Interrupt
                | T::Reap
                | T::Terminate
                | T::Kill
                | T::Flush,
            ),
        ) => Step::nothing(),
        (
            S::Terminating,
            LifecycleEvent::Spawned
            | LifecycleEvent::SpawnFailed(_)
            | LifecycleEvent::HandshakeDone
            | LifecycleEvent::HandshakeRefused
            | LifecycleEvent::UpstreamEof
            | LifecycleEvent::UpstreamMalformed
            | LifecycleEvent::UpstreamUnresponsive
            | LifecycleEvent::UpgradeRequested(_)
            | LifecycleEvent::UpgradeCalledOff
            | LifecycleEvent::Quiet
            | LifecycleEvent::Flushed
            | LifecycleEvent::TimerFired(
                T::Upgrade | T::Handshake | T::Drain | T::Interrupt | T::Reap | T::Input | T::Kill | T::Flush,
            ),
        ) => Step::nothing(),
        (
            S::Killing,
            LifecycleEvent::Spawned
            | LifecycleEvent::SpawnFailed(_)
            | LifecycleEvent::HandshakeDone
            | LifecycleEvent::HandshakeRefused
            | LifecycleEvent::UpstreamEof
            | LifecycleEvent::UpstreamMalformed
            | LifecycleEvent::UpstreamUnresponsive
            | LifecycleEvent::UpgradeRequested(_)
            | LifecycleEvent::UpgradeCalledOff
            | LifecycleEvent::Quiet
            | LifecycleEvent::Flushed
            | LifecycleEvent::TimerFired(
                T::Upgrade
                | T::Handshake
                | T::Drain
                | T::Interrupt
                | T::Reap
                | T::Input
                | T::Terminate
                | T::Flush,
            ),
        ) => Step::nothing(),
        (
            S::Flushing,
            LifecycleEvent::Spawned
            | LifecycleEvent::SpawnFailed(_)
            | LifecycleEvent::HandshakeDone
            | LifecycleEvent::HandshakeRefused
            | LifecycleEvent::UpstreamExited(_)
            | LifecycleEvent::UpstreamEof
            | LifecycleEvent::UpstreamMalformed
            | LifecycleEvent::UpstreamUnresponsive
            | LifecycleEvent::UpgradeRequested(_)
            | LifecycleEvent::UpgradeCalledOff
            | LifecycleEvent::Quiet
            | LifecycleEvent::TimerFired(
                T::Upgrade
                | T::Handshake
                | T::Drain
                | T::Interrupt
                | T::Reap
                | T::Input
                | T::Terminate
                | T::Kill,
            ),
        ) => Step::nothing(),
        (
            S::Exited,
            LifecycleEvent::Spawned
            | LifecycleEvent::SpawnFailed(_)
            | LifecycleEvent::HandshakeDone
            | LifecycleEvent::HandshakeRefused
            | LifecycleEvent::UpstreamExited(_)
            | LifecycleEvent::UpstreamEof
            | LifecycleEvent::UpstreamMalformed
            | LifecycleEvent::UpstreamUnresponsive
            | LifecycleEvent::StopRequested(_)
            | LifecycleEvent::InterruptRequested(_)
            | LifecycleEvent::KillRequested(_)
            | LifecycleEvent::UpgradeRequested(_)
            | LifecycleEvent::UpgradeCalledOff
            | LifecycleEvent::Quiet
            | LifecycleEvent::Flushed
            | LifecycleEvent::TimerFired(_),
        ) => Step::nothing(),
    }
    .skip_signals_to_the_dead(gone)
}

impl Step {
    /// A signal is never sent to a process that has ended: its id can be another process's by now.
    fn skip_signals_to_the_dead(mut self, gone: bool) -> Step {
        if gone {
            self.effects.retain(|e| !matches!(e, LifecycleEffect::Terminate | LifecycleEffect::Kill));
        }
        self
    }
}

/// Every state, for tests and for the table in the documentation.
pub const STATES: [State; 12] = [
    State::Starting,
    State::Handshaking,
    State::Serving,
    State::Upgrading,
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
pub const EVENTS: [LifecycleEvent; 25] = [
    LifecycleEvent::Spawned,
    LifecycleEvent::SpawnFailed(ExitCode::Unavailable),
    LifecycleEvent::HandshakeDone,
    LifecycleEvent::HandshakeRefused,
    LifecycleEvent::UpstreamExited(ChildStatus::Code(0)),
    LifecycleEvent::UpstreamEof,
    LifecycleEvent::UpstreamMalformed,
    LifecycleEvent::UpstreamUnresponsive,
    LifecycleEvent::StopRequested(StopSource::Terminate),
    LifecycleEvent::StopRequested(StopSource::Control),
    LifecycleEvent::InterruptRequested(StopSource::Control),
    LifecycleEvent::KillRequested(StopSource::Control),
    LifecycleEvent::UpgradeRequested(None),
    LifecycleEvent::UpgradeCalledOff,
    LifecycleEvent::Quiet,
    LifecycleEvent::Flushed,
    LifecycleEvent::TimerFired(LifecycleTimer::Handshake),
    LifecycleEvent::TimerFired(LifecycleTimer::Upgrade),
    LifecycleEvent::TimerFired(LifecycleTimer::Drain),
    LifecycleEvent::TimerFired(LifecycleTimer::Interrupt),
    LifecycleEvent::TimerFired(LifecycleTimer::Reap),
    LifecycleEvent::TimerFired(LifecycleTimer::Input),
    LifecycleEvent::TimerFired(LifecycleTimer::Terminate),
    LifecycleEvent::TimerFired(LifecycleTimer::Kill),
    LifecycleEvent::TimerFired(LifecycleTimer::Flush),
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
                Some(Intent::Upgrade) => "upgrade".to_owned(),
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

fn event_name(event: LifecycleEvent) -> String {
    match event {
        LifecycleEvent::SpawnFailed(_) => "SpawnFailed".to_owned(),
        LifecycleEvent::UpstreamExited(_) => "UpstreamExited".to_owned(),
        LifecycleEvent::StopRequested(by) if by.insists() => "StopRequested by a signal".to_owned(),
        LifecycleEvent::StopRequested(_) => "StopRequested otherwise".to_owned(),
        LifecycleEvent::InterruptRequested(_) => "InterruptRequested".to_owned(),
        LifecycleEvent::KillRequested(_) => "KillRequested".to_owned(),
        LifecycleEvent::UpgradeRequested(_) => "UpgradeRequested".to_owned(),
        LifecycleEvent::TimerFired(timer) => format!("{timer:?} timer"),
        other => format!("{other:?}"),
    }
}
