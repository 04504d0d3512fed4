//! Putting new settings into force.

use codexd_proto::lifecycle::State;

use super::Hub;
use crate::control::ReloadReceipt;
use crate::os::service_manager;

impl Hub {
    /// Reads the settings again and puts into force what can change while clients are served.
    ///
    /// A daemon that is stopping reads nothing any more: the service manager must not be notified of a start.
    pub(super) fn reload(&mut self) -> ReloadReceipt {
        if self.core.state() != State::Serving {
            let error = "the daemon is not serving".to_owned();
            return ReloadReceipt { error: Some(error), ..ReloadReceipt::default() };
        }
        service_manager::reloading();
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
        service_manager::ready(&status);
        self.publish();
        self.flush();
        self.wake.notify_one();
        receipt
    }
}
