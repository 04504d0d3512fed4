//! An upgrade on its way: which program comes next, and who is to be told how its wait ends.

use std::path::PathBuf;

use codexd_proto::core::{CannotUpgrade, Event, UpgradeOutcome};
use tokio::sync::oneshot;

use super::Hub;

/// An upgrade that waits, or for which the daemon ends.
#[derive(Debug)]
pub(super) struct Upgrade {
    number: u64,
    /// The codexd of the next daemon, where this process starts it.
    pub(super) program: Option<PathBuf>,
    /// Gets the outcome of the wait.
    ended: Option<oneshot::Sender<UpgradeOutcome>>,
}

impl Hub {
    /// Begins to wait until nothing runs. Returns the number of this upgrade.
    pub(super) fn upgrade(
        &mut self,
        within_ms: Option<u64>,
        program: Option<PathBuf>,
        ended: oneshot::Sender<UpgradeOutcome>,
    ) -> Result<u64, CannotUpgrade> {
        self.core.can_upgrade()?;
        self.upgrades += 1;
        self.upgrade = Some(Upgrade { number: self.upgrades, program, ended: Some(ended) });
        self.handle(Event::UpgradeRequested { within_ms });
        self.flush();
        Ok(self.upgrades)
    }

    /// Goes on as before, unless this upgrade does not wait any more.
    pub(super) fn call_off_upgrade(&mut self, number: u64) {
        if self.upgrade.as_ref().is_some_and(|upgrade| upgrade.number == number) {
            self.handle(Event::UpgradeCalledOff);
            self.flush();
        }
    }

    /// Logs how the wait ended, and reports it to the process that asked for the upgrade.
    pub(super) fn upgrade_wait_ended(&mut self, outcome: UpgradeOutcome) {
        let why = match &outcome {
            UpgradeOutcome::HandsOver => {
                tracing::info!("nothing runs: the daemon ends for the next one");
                self.feed_upgrade("upgrading", None);
                None
            }
            UpgradeOutcome::TimedOut => Some("something still runs, and the time is over".to_owned()),
            UpgradeOutcome::CalledOff => Some("`codexd ctl upgrade` ended".to_owned()),
            UpgradeOutcome::Ends(reason) => Some(reason.clone()),
        };
        if let Some(reason) = why {
            tracing::info!(reason, "the upgrade is called off");
            self.feed_upgrade("upgradeCalledOff", Some(reason));
        }
        let ended = self.upgrade.as_mut().and_then(|upgrade| upgrade.ended.take());
        if outcome != UpgradeOutcome::HandsOver {
            self.upgrade = None;
        }
        if let Some(ended) = ended {
            // That process may be gone.
            let _ = ended.send(outcome);
        }
    }
}
