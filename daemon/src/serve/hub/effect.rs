//! Carrying out what the lifecycle decides.

use codexd_proto::lifecycle::{Effect, Event, State, farewell};
use codexd_proto::router::Announcement;

use super::Hub;
use crate::os::service_manager;
use crate::serve::upstream::sweep;

impl Hub {
    /// Hands an event to the lifecycle and carries out what follows.
    pub(super) fn handle(&mut self, event: Event) {
        let now = self.now();
        let before = self.lifecycle.state();
        let effects = self.lifecycle.handle(now, event);
        self.carry_out(before, &effects);
    }

    /// Fires the lifecycle's timer if it is due.
    pub(super) fn handle_lifecycle_timeout(&mut self) {
        let now = self.now();
        let before = self.lifecycle.state();
        let effects = self.lifecycle.handle_timeout(now);
        self.carry_out(before, &effects);
    }

    fn carry_out(&mut self, before: State, effects: &[Effect]) {
        let after = self.lifecycle.state();
        if before != after {
            tracing::info!(lifecycle.from = ?before, lifecycle.to = ?after, "the daemon's state changed");
        }
        for effect in effects {
            self.carry_out_one(*effect);
        }
        if before != after {
            self.publish();
            service_manager::status(&self.status_line());
            self.wake.notify_one();
            self.settle_soon();
        }
    }

    fn carry_out_one(&mut self, effect: Effect) {
        let now = self.now();
        match effect {
            Effect::Ready => {
                service_manager::ready(&self.status_line());
                self.start.ready();
                self.router.ask_for_methods(now);
                tracing::info!(
                    socket.path = self.identity.socket,
                    upstream.pid = self.identity.upstream.pid,
                    "serving clients"
                );
            }
            Effect::StopListening => {
                if let Some(file) = self.socket_file.take() {
                    file.remove();
                }
                self.door.cancel();
            }
            Effect::NotifyStopping => service_manager::stopping(&self.reason()),
            Effect::AnnounceDrain => {
                let reason = self.reason();
                self.router.begin_drain(
                    now,
                    &Announcement {
                        reason: &reason,
                        deadline_ms: self.lifecycle.drain_ms(),
                        retry_after_ms: Some(farewell::RETRY_AFTER_MS),
                    },
                );
            }
            Effect::InterruptTurns => self.router.interrupt_turns(now),
            Effect::SettleClients => {
                let loss = farewell::loss(self.lifecycle.intent(), self.lifecycle.child());
                let reason = self.reason();
                self.hear_last_words();
                self.router.upstream_lost(
                    now,
                    loss,
                    &Announcement {
                        reason: &reason,
                        deadline_ms: Some(0),
                        retry_after_ms: Some(farewell::RETRY_AFTER_MS),
                    },
                );
            }
            Effect::CloseInput => self.close_upstream_input(),
            Effect::Terminate => self.upstream.signals().terminate(),
            Effect::Kill => self.upstream.signals().kill(),
            Effect::Sweep => {
                sweep::sweep(None);
            }
            Effect::CloseClients => {
                // What has come in since they were settled with is owed an answer, too.
                self.hear_last_words();
                self.write_clients();
                self.disconnect_all();
            }
            Effect::Arm(_) | Effect::Disarm => self.wake.notify_one(),
        }
    }

    /// Returns why the daemon ends, in words.
    pub(super) fn reason(&self) -> String {
        farewell::reason(self.lifecycle.intent(), self.lifecycle.child())
    }
}
