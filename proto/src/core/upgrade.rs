//! The wait of an upgrade: until when it goes on, and how it has ended.

use super::{Core, Effect, Fact, Restart};
use crate::lifecycle::{Intent, LifecycleEvent, State};
use crate::status::UpgradeStatus;
use crate::time::Time;

/// How the wait of an upgrade has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpgradeOutcome {
    /// Nothing runs any more: this daemon ends, and the next one takes its place.
    HandsOver,
    /// Something still runs and the time is over. This daemon goes on.
    TimedOut,
    /// It was called off. This daemon goes on.
    CalledOff,
    /// The daemon ends for this other reason.
    Ends(String),
}

/// Why a daemon cannot be upgraded now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CannotUpgrade {
    /// It does not serve clients yet.
    Starts,
    /// An upgrade waits already.
    Waits,
    /// It ends, for this reason.
    Ends(String),
    /// It was started by hand, and nothing would start the next one.
    NobodyStarts,
}

impl Core {
    /// Returns whether an upgrade is possible now, and why not.
    ///
    /// # Errors
    ///
    /// One that waits already; a daemon that does not serve; a daemon that nothing starts again.
    pub fn can_upgrade(&self) -> Result<(), CannotUpgrade> {
        match (self.lifecycle.state(), self.restart) {
            (State::Upgrading, _) => Err(CannotUpgrade::Waits),
            (State::Serving, Restart::Never) => Err(CannotUpgrade::NobodyStarts),
            (State::Serving, _) => Ok(()),
            (State::Starting | State::Handshaking, _) => Err(CannotUpgrade::Starts),
            _ => Err(CannotUpgrade::Ends(self.cause())),
        }
    }

    /// Reports that an upgrade begins to wait, or that its wait has ended, after a step of the lifecycle by `event`; `None`
    /// after a timer.
    pub(super) fn observe_upgrade(&mut self, from: State, event: Option<LifecycleEvent>) {
        let to = self.lifecycle.state();
        if from == to {
            return;
        }
        if to == State::Upgrading {
            let within_ms = match event {
                Some(LifecycleEvent::UpgradeRequested(within_ms)) => within_ms,
                _ => None,
            };
            self.steps.push_back(Effect::Log(Fact::UpgradeWaits { within_ms }).into());
        } else if from == State::Upgrading {
            let outcome = match (to, self.lifecycle.intent(), event) {
                (State::Serving, _, Some(LifecycleEvent::UpgradeCalledOff)) => UpgradeOutcome::CalledOff,
                (State::Serving, ..) => UpgradeOutcome::TimedOut,
                (_, Some(Intent::Upgrade), _) => UpgradeOutcome::HandsOver,
                _ => UpgradeOutcome::Ends(self.cause()),
            };
            self.steps.push_back(Effect::UpgradeWaitEnded(outcome).into());
        }
    }

    /// Returns what an upgrade waits for; `None` while none waits.
    pub(super) fn upgrade_status(&self, now: Time) -> Option<UpgradeStatus> {
        (self.lifecycle.state() == State::Upgrading).then(|| UpgradeStatus {
            since_ms: now.since(self.lifecycle.since()),
            left_ms: self.lifecycle.poll_timeout().map(|at| at.since(now)),
            turns: self.turn_statuses(now),
            requests: self.router.client_request_statuses(now),
        })
    }
}
