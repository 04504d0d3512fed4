//! Carrying out what the core decides.

use codexd_proto::core::{Effect, Event, Fact};
use codexd_proto::time::Time;

use super::Hub;
use super::client_io::hung_up;
use super::guard::GIVE_BACK_START_AFTER;
use crate::logging::roles::{self, log_client, log_turn, log_upstream};
use crate::os::service_manager as notify;
use crate::serve::connection::Response;
use crate::serve::upstream::sweep;

impl Hub {
    /// Carries out one effect.
    pub(super) fn carry_out(&mut self, now: Time, effect: Effect) {
        match effect {
            Effect::StateChanged { from, to } => {
                tracing::info!(lifecycle.from = ?from, lifecycle.to = ?to, "the daemon's state changed");
                self.publish();
                self.feed_state(to);
                notify::status(&self.status_line());
                self.wake.notify_one();
                self.flush_soon();
            }
            Effect::NotifyReady => {
                self.upstream.stderr().clients_are_served();
                notify::ready(&self.status_line());
                self.start.ready();
                self.give_back_after(GIVE_BACK_START_AFTER);
                let pid = self.base_status.upstream.pid;
                log_upstream!(info, pid, socket.path = self.base_status.socket, "serving clients");
            }
            Effect::NotifyStopping => notify::stopping(&self.core.reason()),
            Effect::StopListening => {
                if let Some(file) = self.socket_file.take() {
                    file.remove();
                }
                self.accepting.cancel();
            }
            Effect::FinalRead => {
                self.report_stderr();
                self.final_read();
            }
            Effect::CloseClient { client, reason } => self.close(client, reason),
            Effect::DropClient { client } => self.disconnect(client),
            Effect::TimeOutRequest { client } => self.answer(client, |_| Response::timeout().into_bytes()),
            Effect::CheckConnection { client } => {
                if self.clients.get(&client).is_some_and(|io| hung_up(&io.socket)) {
                    self.disconnect(client);
                }
            }
            Effect::CheckSocket => {
                if self.socket_file.as_ref().is_some_and(|file| !file.still_ours()) {
                    self.handle(Event::SocketLost);
                }
            }
            Effect::CloseAll => {
                self.write_clients(now);
                self.disconnect_all();
            }
            Effect::CloseInput => self.close_upstream_input(),
            Effect::Terminate => self.upstream.signals().terminate(),
            Effect::Kill => self.upstream.signals().kill(),
            Effect::Sweep => {
                sweep::sweep(None);
            }
            Effect::Remember(entry) => self.threads.remember(entry),
            Effect::UpgradeWaitEnded(outcome) => self.upgrade_wait_ended(outcome),
            Effect::Log(fact) => self.log(&fact),
        }
    }

    fn log(&self, fact: &Fact) {
        let pid = self.base_status.upstream.pid;
        match fact {
            Fact::HandshakeRefused(message) => {
                log_upstream!(error, pid, error = message, "codex app-server refused the handshake");
            }
            Fact::ShutdownRequested(client) => {
                log_client!(info, self.client(*client), "a client asked the daemon to stop");
            }
            Fact::ClientTooSlow { client, name, queued_bytes, suppressed } => log_client!(
                warn,
                roles::Client { name: name.clone(), ..self.client(*client) },
                queued_bytes,
                suppressed,
                "closing a client that does not read fast enough"
            ),
            Fact::PermissionsNotRestored { thread, reason } => log_turn!(
                error,
                roles::Turn { thread: Some(&thread.to_string()), turn: None, client: None },
                reason,
                "the permissions of a thread were not restored: work on it is refused"
            ),
            Fact::UpstreamMalformed => {
                log_upstream!(error, pid, "codex app-server wrote something that is no message");
            }
            Fact::UpstreamLineTooLong => {
                log_upstream!(error, pid, "codex app-server wrote a line that is too long to be kept");
            }
            Fact::HealthCheck => log_upstream!(debug, pid, "asking codex app-server whether it is alive"),
            Fact::UpstreamUnresponsive(waited_ms) => {
                log_upstream!(error, pid, waited_ms, "codex app-server does not answer");
            }
            Fact::MemoryHigh(bytes) => log_upstream!(
                warn,
                pid,
                memory_bytes = bytes,
                "codex uses more memory than `memory_recycle_bytes`, and nobody uses the daemon: stopping"
            ),
            Fact::UpgradeWaits { within_ms } => {
                tracing::info!(within_ms, "an upgrade waits until nothing runs; new work is refused");
                self.feed_upgrade("upgradeWaiting", None);
            }
            Fact::SocketLost => tracing::warn!(
                socket.path = self.base_status.socket,
                "the socket was removed or replaced, and no client is connected: stopping"
            ),
        }
    }
}
