//! Putting new settings into force.

use codexd_proto::lifecycle::State;

use super::{Hub, millis};
use crate::control::ReloadReceipt;
use crate::os::service_manager;
use crate::settings::duration::TimeLimit;

impl Hub {
    /// Reads the settings again and puts into force what can change while clients are served.
    ///
    /// On the way out nothing is read any more: the service manager must not be told of a start.
    pub(super) fn reload(&mut self) -> ReloadReceipt {
        if self.lifecycle.state() != State::Serving {
            let error = "the daemon is not serving".to_owned();
            return ReloadReceipt { error: Some(error), ..ReloadReceipt::default() };
        }
        service_manager::reloading();
        let (status, receipt) = match self.reloader.reload() {
            Ok((settings, differences)) => {
                let receipt = ReloadReceipt::from(differences);
                let ms = |limit: TimeLimit| limit.as_duration().map(millis);
                self.router.reconfigure(settings.limits.for_router(), settings.client_shutdown.for_router());
                self.lifecycle.set_drain_ms(ms(settings.drain_timeout));
                self.health.set_limits(ms(settings.probe_interval), ms(settings.probe_timeout));
                self.max_clients = settings.limits.max_clients;
                self.idle_exit_ms = ms(settings.idle_exit);
                self.idle_since = None;
                tracing::info!(
                    applied = receipt.applied.join(", "),
                    needs_restart = receipt.needs_restart.join(", "),
                    "read the settings again"
                );
                let note = match receipt.needs_restart.as_slice() {
                    [] => String::new(),
                    names => format!(" (restart needed for: {})", names.join(", ")),
                };
                (format!("{}{note}", self.status_line()), receipt)
            }
            Err(error) => {
                tracing::error!(error = error.chain(), "cannot use the settings; the old ones stay in force");
                let receipt = ReloadReceipt { error: Some(error.chain()), ..ReloadReceipt::default() };
                (format!("{} (old settings: {})", self.status_line(), error.chain()), receipt)
            }
        };
        service_manager::ready(&status);
        self.publish();
        self.settle();
        self.wake.notify_one();
        receipt
    }
}
