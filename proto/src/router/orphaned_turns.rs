//! Turns whose last subscriber has disconnected.
//!
//! With a native listener, they continue. A program that runs a `codex app-server` of its own expects its turns to
//! end with it. So a client can declare in its `initialize` (`params.codexd.orphanedTurns`) that its turns are to
//! be interrupted. For all other clients the settings decide.

use std::collections::VecDeque;

use super::pacing::PendingKind;
use super::{OrphanedTurns, Router};
use crate::id::{ClientId, ThreadId};
use crate::time::Time;

impl Router {
    /// Returns what happens to the turns of a client.
    pub(super) fn orphan_policy(&self, client: ClientId) -> OrphanedTurns {
        let declared = self.sessions.get(client).and_then(|s| s.declared()).and_then(|d| d.orphaned_turns);
        declared.unwrap_or(self.config.orphaned_turns)
    }

    /// Handles that a client with this policy was unsubscribed from a thread because it disconnected.
    pub(super) fn orphan_turn(&mut self, thread: &ThreadId, policy: OrphanedTurns) {
        // The policy of the last subscriber applies, and the grace period begins when that disconnects.
        self.orphans.retain(|(_, other)| other != thread);
        if policy == OrphanedTurns::Interrupt && !self.is_lost() && self.is_orphaned(thread) {
            let at = self.now() + self.config.limits.orphaned_turn_grace_ms;
            self.orphans.push_back((at, thread.clone()));
        }
    }

    fn is_orphaned(&self, thread: &ThreadId) -> bool {
        self.subscriptions
            .get(thread.as_bytes())
            .is_some_and(|t| t.subscribers.is_empty() && t.turn.is_some())
    }

    /// Returns when the next turn without subscribers is interrupted.
    pub(super) fn orphan_due(&self) -> Option<Time> {
        self.orphans.iter().map(|(at, _)| *at).min()
    }

    /// Interrupts the turns whose grace period is over and that have no subscriber.
    pub(super) fn interrupt_orphans(&mut self, now: Time) {
        let orphans = std::mem::take(&mut self.orphans).into_iter();
        let (due, rest): (VecDeque<_>, VecDeque<_>) = orphans.partition(|(at, _)| *at <= now);
        self.orphans = rest;
        for (_, thread) in due {
            if self.is_orphaned(&thread) {
                self.interrupt_turn(&thread);
            }
        }
    }

    /// Interrupts the open turn of a thread.
    pub(super) fn interrupt_turn(&mut self, thread: &ThreadId) {
        let turn = self.subscriptions.get(thread.as_bytes()).and_then(|t| t.turn.as_ref());
        let Some(turn) = turn.map(|turn| turn.id.clone()) else { return };
        let kind = PendingKind::Interrupt { thread: thread.clone(), refused: 0, overtakes: false };
        self.send_interrupt(thread, &turn, kind);
    }
}
