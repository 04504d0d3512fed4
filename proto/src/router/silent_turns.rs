//! Turns about which the upstream sends nothing. They are reported and, if the settings require it, interrupted.
//!
//! A turn is silent if it runs, its thread has a subscriber (the upstream sends nothing about other threads), it
//! does not wait for an approval, and neither it nor a sub-agent that works for it has sent an event for the time
//! of the limit.
//!
//! Time is that of the monotonic clock, which stops while the machine is suspended. So a suspended machine makes no
//! turn silent.

use super::pacing::PendingKind;
use super::thread::{RunningTurn, Thread};
use super::{Activity, Limits, Router};
use crate::capture;
use crate::id::ThreadId;
use crate::time::Time;

/// Milliseconds without an answer to an interrupt of codexd itself after which there is a warning.
pub(super) const INTERRUPT_WITHIN_MS: u64 = 15_000;

/// What was done about a turn since its last event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Silence {
    /// Nothing.
    #[default]
    None,
    /// It was reported.
    Reported,
    /// It was interrupted.
    Interrupted,
}

/// A silent turn.
#[derive(Clone, Debug)]
pub(super) struct SilentTurn {
    pub(super) thread: ThreadId,
    pub(super) turn: Box<[u8]>,
    /// Milliseconds since its last event.
    pub(super) silent_ms: u64,
}

impl Limits {
    /// Returns the shortest limit.
    fn shortest_silence_ms(&self) -> Option<u64> {
        self.silent_turn_warning_ms.into_iter().chain(self.silent_turn_interrupt_ms).min()
    }
}

impl Router {
    /// Schedules the next check for silent turns. Call it when a turn begins or the limits change.
    pub(super) fn watch_silent_turns(&mut self) {
        let due = self.config.limits.shortest_silence_ms().map(|limit| self.now() + limit);
        self.silent_turns_due = match (self.silent_turns_due, due) {
            (Some(earlier), Some(due)) => Some(earlier.min(due)),
            (_, due) => due,
        };
    }

    /// Returns for how many milliseconds nothing was sent about a turn; `None` if that has a known reason.
    pub(super) fn silent_ms(
        &self,
        now: Time,
        id: &ThreadId,
        thread: &Thread,
        turn: &RunningTurn,
    ) -> Option<u64> {
        if thread.subscribers.is_empty() || self.server_requests.unanswered_of(id).next().is_some() {
            return None;
        }
        let mut last = thread.last_event.max(Some(turn.since))?;
        // A review begins under another id than it ends under, and its sub-agents name the first.
        let open = thread.turn.as_ref().filter(|open| open.is_called(&turn.id));
        let names: [&[u8]; 2] = [&turn.id, open.map_or(&turn.id, |open| &open.id)];
        for (other, helper) in self.subscriptions.threads().filter(|(other, _)| *other != id) {
            let Some(open) = &helper.turn else { continue };
            let root = open.root();
            let open = capture::OpenTurn { id: &open.id, root: root.as_deref(), sub_agent: helper.sub_agent };
            if !capture::works_for(open, &names) {
                continue;
            }
            if self.server_requests.unanswered_of(other).next().is_some() {
                return None;
            }
            last = helper.last_event.map_or(last, |event| event.max(last));
        }
        Some(now.since(last))
    }

    /// Returns the turns that have been silent for `limit` milliseconds.
    pub(super) fn silent_turns(&self, now: Time, limit: u64) -> Vec<SilentTurn> {
        let mut silent = Vec::new();
        for (id, thread) in self.subscriptions.threads() {
            for turn in &thread.running {
                if let Some(silent_ms) = self.silent_ms(now, id, thread, turn).filter(|ms| *ms >= limit) {
                    silent.push(SilentTurn { thread: id.clone(), turn: turn.id.clone(), silent_ms });
                }
            }
        }
        silent.sort_unstable_by(|a, b| (&a.thread, &a.turn).cmp(&(&b.thread, &b.turn)));
        silent
    }

    /// Reports and interrupts the silent turns, and schedules the next check.
    pub(super) fn check_silent_turns(&mut self, now: Time) {
        self.silent_turns_due = None;
        let limits = self.config.limits;
        let Some(shortest) = limits.shortest_silence_ms() else { return };
        let silent = self.silent_turns(now, shortest);
        let mut running = false;
        for (thread, state) in self.subscriptions.threads_mut() {
            for turn in &mut state.running {
                running = true;
                if !silent.iter().any(|s| s.thread == *thread && s.turn == turn.id) {
                    turn.silence = Silence::None;
                }
            }
        }
        for SilentTurn { thread, turn, silent_ms } in silent {
            let over = |limit: Option<u64>| limit.is_some_and(|limit| silent_ms >= limit);
            let interrupt = over(limits.silent_turn_interrupt_ms);
            let then = if interrupt { Silence::Interrupted } else { Silence::Reported };
            let Some(state) = self.subscriptions.get_mut(&thread) else { continue };
            let Some(running) = state.running.iter_mut().find(|running| running.id == turn) else { continue };
            if running.silence == Silence::Interrupted || running.silence == then {
                continue;
            }
            running.silence = then;
            let open = state.turn.as_ref().filter(|open| open.is_called(&turn)).map(|open| open.id.clone());
            self.activities.push_back(Activity::TurnSilent {
                thread: thread.clone(),
                turn: String::from_utf8_lossy(&turn).into_owned(),
                silent_ms,
                interrupted: interrupt,
            });
            if let Some(open) = open.filter(|_| interrupt) {
                let kind = PendingKind::Interrupt { thread: thread.clone(), refused: 0, overtakes: true };
                self.send_interrupt(&thread, &open, kind);
            }
        }
        if running {
            self.silent_turns_due = Some(now + self.next_look(now, shortest));
        }
    }

    /// Returns the milliseconds until the first running turn reaches a limit, at most the shortest limit.
    fn next_look(&self, now: Time, shortest: u64) -> u64 {
        let limits = self.config.limits;
        let limits = limits.silent_turn_warning_ms.into_iter().chain(limits.silent_turn_interrupt_ms);
        let limits: Vec<u64> = limits.collect();
        let threads = self.subscriptions.threads();
        let silences = threads.flat_map(|(id, thread)| {
            thread.running.iter().filter_map(move |turn| self.silent_ms(now, id, thread, turn))
        });
        let left =
            silences.flat_map(|silent| limits.iter().filter_map(move |limit| limit.checked_sub(silent)));
        left.filter(|left| *left > 0).min().map_or(shortest, |left| left.min(shortest))
    }
}
