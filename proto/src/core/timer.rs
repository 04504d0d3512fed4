//! All deadlines of the daemon, in one place.

use super::connection::Stage;
use super::{Core, Effect, Fact};
use crate::health::HealthAction;
use crate::lifecycle::{LifecycleEvent, LifecycleTimer, State, StopSource};
use crate::router::RouterTimer;
use crate::time::Time;

/// A deadline. Those due at the same time are handled in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Timer {
    /// A step of the lifecycle takes too long.
    Lifecycle(LifecycleTimer),
    /// One of the router's.
    Router(RouterTimer),
    /// The deadline of a connection.
    Connection,
    /// A health check is to be sent, or was not answered.
    HealthCheck,
    /// The daemon has been unused for long enough.
    IdleExit,
    /// The socket of an unused daemon is to be checked.
    SocketCheck,
}

impl Core {
    /// Returns all deadlines that are set.
    pub fn timers(&self) -> impl Iterator<Item = (Timer, Time)> {
        let lifecycle = self.lifecycle.timer().map(|(timer, at)| (Timer::Lifecycle(timer), at));
        let router =
            RouterTimer::ALL.into_iter().filter_map(|t| Some((Timer::Router(t), self.router.due(t)?)));
        let own = [
            (Timer::Connection, self.connections.deadline()),
            (Timer::HealthCheck, self.health.poll_timeout().filter(|_| self.checks_health())),
            (Timer::IdleExit, self.idle.exit_due()),
            (Timer::SocketCheck, self.idle.check_due()),
        ];
        let own = own.into_iter().filter_map(|(timer, at)| Some((timer, at?)));
        lifecycle.into_iter().chain(router).chain(own)
    }

    /// Returns when [`Core::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Time> {
        // After every message: a loop over a comparison costs less than the minimum of an iterator of options.
        let mut earliest = Time::MAX;
        self.timers().for_each(|(_, at)| earliest = earliest.min(at));
        (earliest < Time::MAX).then_some(earliest)
    }

    /// Handles every deadline that has passed. Poll the effects after it.
    pub fn handle_timeout(&mut self, now: Time) {
        let from = self.lifecycle.state();
        let effects = self.lifecycle.handle_timeout(now);
        self.observe_upgrade(from, None);
        self.follow(from, effects);
        if self.router.poll_timeout().is_some_and(|at| at <= now) {
            self.router.handle_timeout(now);
        }
        while let Some((client, stage)) = self.connections.take_overdue(now) {
            self.connection_overdue(now, client, stage);
        }
        if self.checks_health() {
            self.check_health(now);
        }
        if self.idle.exit_due().is_some_and(|at| at <= now) {
            self.stop_unused();
        } else if self.idle.check_due().is_some_and(|at| at <= now) {
            self.idle.checked(now);
            self.steps.push_back(Effect::CheckSocket.into());
        }
    }

    fn connection_overdue(&mut self, now: Time, client: crate::id::ClientId, stage: Stage) {
        let effect = match stage {
            Stage::Head => Effect::TimeOutRequest { client },
            Stage::HalfClosed(framing) => {
                self.connections.enter(now, client, Stage::HalfClosed(framing));
                Effect::CheckConnection { client }
            }
            Stage::New | Stage::Open(_) | Stage::Flushing(_) | Stage::Ending => Effect::DropClient { client },
        };
        self.steps.push_back(effect.into());
    }

    /// Returns whether the upstream is expected to answer health checks.
    pub(super) fn checks_health(&self) -> bool {
        matches!(
            self.lifecycle.state(),
            State::Serving | State::Upgrading | State::Draining | State::Interrupting
        )
    }

    fn check_health(&mut self, now: Time) {
        match self.health.handle_timeout(now) {
            HealthAction::Alive => {}
            HealthAction::Ping => {
                self.router.ping(now);
                self.steps.push_back(Effect::Log(Fact::HealthCheck).into());
            }
            HealthAction::Unresponsive => {
                let waited_ms = self.health.waited_ms(now).unwrap_or_default();
                self.steps.push_back(Effect::Log(Fact::UpstreamUnresponsive(waited_ms)).into());
                self.events.push_back(LifecycleEvent::UpstreamUnresponsive);
            }
        }
    }

    pub(super) fn stop_unused(&mut self) {
        self.idle.take_since();
        self.events.push_back(LifecycleEvent::StopRequested(StopSource::Idle));
    }
}
