//! Requests of an operator: interrupting a turn, disconnecting a client.

use super::pacing::PendingKind;
use super::{Activity, CloseReason, Router};
use crate::id::{ClientId, ThreadId};
use crate::json::edit::write_text;
use crate::time::Time;

/// Characters of an id that are enough to name it, if they are unambiguous.
const ENOUGH_OF_AN_ID: usize = 4;

/// How often an interrupt is sent that the upstream refuses, and the milliseconds in between.
const ATTEMPTS: u32 = 20;
const AGAIN_AFTER_MS: u64 = 100;

/// The turn that is being interrupted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupting {
    /// Its thread.
    pub thread: ThreadId,
    /// Its id.
    pub turn: String,
}

/// Why no turn is interrupted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CannotInterrupt {
    /// No known turn or thread has this id.
    Unknown,
    /// Several have an id that begins or ends with it.
    Ambiguous,
    /// Nothing runs on the thread.
    NothingRuns(ThreadId),
    /// Something runs there whose id codex has not reported.
    NoTurnId(ThreadId),
    /// The upstream was lost.
    Lost,
}

impl Router {
    /// Interrupts the turn with the id `target`, or the running turn of the thread with that id. The beginning or
    /// the end of an id is sufficient if it has four characters and is unambiguous.
    ///
    /// The request bypasses everything that waits for the in-flight window. How the turn ends is reported as an
    /// [activity](super::Activity).
    ///
    /// # Errors
    ///
    /// If there is no such turn, see [`CannotInterrupt`].
    pub fn interrupt(&mut self, now: Time, target: &str) -> Result<Interrupting, CannotInterrupt> {
        self.delivery.at(now);
        if self.is_lost() {
            return Err(CannotInterrupt::Lost);
        }
        let thread = self.thread_named(target)?;
        let state = self.subscriptions.get(thread.as_bytes()).ok_or(CannotInterrupt::Unknown)?;
        let turn = match &state.turn {
            Some(turn) => turn.id.clone(),
            None if state.is_busy() => return Err(CannotInterrupt::NoTurnId(thread)),
            None => return Err(CannotInterrupt::NothingRuns(thread)),
        };
        let kind = PendingKind::Interrupt { thread: thread.clone(), refused: 0, overtakes: true };
        self.send_interrupt(&thread, &turn, kind);
        Ok(Interrupting { thread, turn: String::from_utf8_lossy(&turn).into_owned() })
    }

    fn thread_named(&self, target: &str) -> Result<ThreadId, CannotInterrupt> {
        let target = target.as_bytes();
        let turn_is = |is: &dyn Fn(&[u8]) -> bool, thread: &super::thread::Thread| {
            thread.running.iter().any(|turn| is(&turn.id))
                || thread.turn.as_ref().is_some_and(|turn| is(&turn.id) || is(turn.ends_as()))
        };
        let named = |is: &dyn Fn(&[u8]) -> bool| {
            let threads = self.subscriptions.threads();
            let mut found = threads.filter(|(id, thread)| is(id.as_bytes()) || turn_is(is, thread));
            (found.next().map(|(id, _)| id.clone()), found.next().is_some())
        };
        if let (Some(thread), false) = named(&|id| id == target) {
            return Ok(thread);
        }
        if target.len() < ENOUGH_OF_AN_ID {
            return Err(CannotInterrupt::Unknown);
        }
        match named(&|id| id.starts_with(target) || id.ends_with(target)) {
            (Some(thread), false) => Ok(thread),
            (Some(_), true) => Err(CannotInterrupt::Ambiguous),
            (None, _) => Err(CannotInterrupt::Unknown),
        }
    }

    /// Sends the interrupt of a turn.
    pub(super) fn send_interrupt(&mut self, thread: &ThreadId, turn: &[u8], kind: PendingKind) {
        self.send_own("turn/interrupt", kind, |out| {
            out.extend_from_slice(b"{\"threadId\":");
            write_text(out, thread.as_bytes());
            out.extend_from_slice(b",\"turnId\":");
            write_text(out, turn);
            out.push(b'}');
        });
    }

    /// Handles an interrupt that the upstream has refused. It refuses one between its response to `turn/start` and
    /// the moment at which the turn is active (measured), so the interrupt is sent again while the turn is open.
    pub(super) fn interrupt_refused(
        &mut self,
        thread: &ThreadId,
        refused: u32,
        overtakes: bool,
        message: String,
    ) {
        let open = self.subscriptions.get(thread.as_bytes()).is_some_and(|t| t.turn.is_some());
        if open && refused < ATTEMPTS {
            let again = (self.now() + AGAIN_AFTER_MS, thread.clone(), refused, overtakes);
            self.refused_interrupts.push_back(again);
        } else if open {
            self.activities.push_back(Activity::InterruptRefused { thread: thread.clone(), message });
        }
    }

    /// Returns when the next refused interrupt is sent again.
    pub(super) fn interrupt_due(&self) -> Option<Time> {
        self.refused_interrupts.front().map(|(at, ..)| *at)
    }

    /// Sends refused interrupts again that are due and whose turn is still open.
    pub(super) fn retry_interrupts(&mut self, now: Time) {
        while let Some((_, thread, refused, overtakes)) =
            self.refused_interrupts.pop_front_if(|(at, ..)| *at <= now)
        {
            let turn = self.subscriptions.get(thread.as_bytes()).and_then(|t| t.turn.as_ref());
            if let Some(turn) = turn.map(|turn| turn.id.clone()) {
                self.send_interrupt(
                    &thread,
                    &turn,
                    PendingKind::Interrupt { thread: thread.clone(), refused, overtakes },
                );
            }
        }
    }

    /// Closes a client's connection. Returns whether there is such a client. What is queued for it is dropped, and
    /// its turns continue or end as when it disconnects.
    pub fn kill_client(&mut self, now: Time, client: ClientId) -> bool {
        self.delivery.at(now);
        let known = self.sessions.get(client).is_some();
        if known {
            self.close(client, CloseReason::Killed);
        }
        known
    }
}
