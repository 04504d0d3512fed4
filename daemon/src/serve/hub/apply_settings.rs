//! Putting new settings into force.

use codexd_proto::lifecycle::State;

use super::Hub;
use crate::control::ReloadReceipt;
use crate::os::service_manager;

impl Hub {
    /// Reads the settings again and puts into force what can change while clients are served.
    ///
    /// Before clients are served this works as well, and the service manager is not notified: the start is not over.
    /// A daemon that is stopping reads nothing any more: the service manager must not be notified of a start.
    pub(super) fn reload(&mut self) -> ReloadReceipt {
        let serving = matches!(self.core.state(), State::Serving | State::Upgrading);
        if !serving && !matches!(self.core.state(), State::Starting | State::Handshaking) {
            let error = "the daemon is stopping, and reads no settings any more".to_owned();
            tracing::warn!(error, "the settings were not read again");
            return ReloadReceipt { error: Some(error), ..ReloadReceipt::default() };
        }
        if serving {
            service_manager::reloading();
        }
        let (status, receipt) = match self.reloader.reload() {
            Ok((settings, differences)) => {
                let receipt = ReloadReceipt::from(differences);
                self.core.reconfigure(settings.for_core());
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
        if serving {
            service_manager::ready(&status);
        }
        self.publish();
        self.flush();
        self.wake.notify_one();
        receipt
    }
}
