//! The health check of the upstream: a request and its response. A process id or a connection proves nothing.

use crate::time::Time;

/// Parts into which the timeout of a health check is divided.
///
/// A part counts for its own length, however long it took: when the machine was suspended or the daemon stopped, the
/// upstream may have been stopped for the rest of that time.
const PARTS: u64 = 8;

/// The longest such part, in milliseconds.
const LONGEST_PART_MS: u64 = 1_000;

/// Measures how long the upstream has been silent, and decides when a health check is sent and when it has failed.
///
/// Any output counts as alive: a busy upstream is not lost.
#[derive(Clone, Debug)]
pub struct Health {
    /// Milliseconds of silence after which a health check is sent; `None` never.
    interval_ms: Option<u64>,
    /// Milliseconds of silence after the health check after which it has failed; `None` never.
    timeout_ms: Option<u64>,
    last_output: Time,
    open_check: Option<OpenCheck>,
}

/// A health check without an answer.
#[derive(Clone, Copy, Debug)]
struct OpenCheck {
    since: Time,
    /// Milliseconds of waiting that count.
    waited_ms: u64,
}

/// What the core has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthAction {
    /// Nothing.
    Alive,
    /// Send a health check.
    Ping,
    /// The health check was not answered in time.
    Unresponsive,
}

impl Health {
    /// Starts measuring now.
    pub fn new(interval_ms: Option<u64>, timeout_ms: Option<u64>, now: Time) -> Health {
        Health { interval_ms, timeout_ms, last_output: now, open_check: None }
    }

    /// Changes the limits; they apply to an open health check, too.
    pub fn set_limits(&mut self, interval_ms: Option<u64>, timeout_ms: Option<u64>) {
        self.interval_ms = interval_ms;
        self.timeout_ms = timeout_ms;
    }

    /// Records that the upstream wrote something.
    pub fn record_output(&mut self, now: Time) {
        self.last_output = now;
        self.open_check = None;
    }

    /// Returns for how many milliseconds the open health check has waited for its answer.
    pub fn waited_ms(&self, now: Time) -> Option<u64> {
        let check = self.open_check?;
        let since = now.since(check.since);
        Some(check.waited_ms + self.part_ms(check).map_or(since, |part| since.min(part)))
    }

    /// Returns the length of the next part of an open health check, in milliseconds.
    fn part_ms(&self, check: OpenCheck) -> Option<u64> {
        let timeout = self.timeout_ms?;
        let part = (timeout / PARTS).clamp(1, LONGEST_PART_MS);
        Some(part.min(timeout.saturating_sub(check.waited_ms)))
    }

    /// Returns when [`Health::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Time> {
        match self.open_check {
            None => self.interval_ms.map(|ms| self.last_output + ms),
            Some(check) => self.part_ms(check).map(|ms| check.since + ms),
        }
    }

    /// Returns what the core has to do now.
    pub fn handle_timeout(&mut self, now: Time) -> HealthAction {
        if self.poll_timeout().is_none_or(|due| due > now) {
            return HealthAction::Alive;
        }
        let Some(waited_ms) = self.waited_ms(now) else {
            self.open_check = Some(OpenCheck { since: now, waited_ms: 0 });
            return HealthAction::Ping;
        };
        self.open_check = Some(OpenCheck { since: now, waited_ms });
        if self.timeout_ms.is_some_and(|timeout| waited_ms >= timeout) {
            return HealthAction::Unresponsive;
        }
        HealthAction::Alive
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    /// Handles each timeout when it is due, until there is an action.
    fn wait(health: &mut Health) -> (Time, HealthAction) {
        loop {
            let due = health.poll_timeout().unwrap();
            assert_eq!(health.handle_timeout(at(due.as_millis() - 1)), HealthAction::Alive);
            match health.handle_timeout(due) {
                HealthAction::Alive => {}
                verdict => return (due, verdict),
            }
        }
    }

    #[test]
    fn silence_is_asked_about_and_no_answer_is_death() {
        let mut health = Health::new(Some(1_000), Some(500), at(0));
        assert_eq!(health.handle_timeout(at(999)), HealthAction::Alive);
        assert_eq!(health.handle_timeout(at(1_000)), HealthAction::Ping);
        assert_eq!(wait(&mut health), (at(1_500), HealthAction::Unresponsive));
        assert_eq!(health.waited_ms(at(1_500)), Some(500));
    }

    #[test]
    fn any_message_is_life() {
        let mut health = Health::new(Some(1_000), Some(500), at(0));
        assert_eq!(health.handle_timeout(at(1_000)), HealthAction::Ping);
        health.record_output(at(1_499));
        assert_eq!(health.handle_timeout(at(1_500)), HealthAction::Alive);
        assert_eq!(health.poll_timeout(), Some(at(2_499)));
    }

    #[test]
    fn a_machine_that_slept_does_not_judge() {
        // However long it slept, and whenever: just above the limit is the hardest to distinguish from silence.
        for slept in [501, 700, 5_000, 3_600_000] {
            let mut health = Health::new(Some(1_000), Some(500), at(0));
            assert_eq!(health.handle_timeout(at(1_000)), HealthAction::Ping);
            assert_eq!(health.handle_timeout(at(1_000 + slept)), HealthAction::Alive);
            let (end, verdict) = wait(&mut health);
            assert_eq!(verdict, HealthAction::Unresponsive);
            // The sleep counted as one part.
            assert_eq!(end, at(1_000 + slept + 500 - 500 / PARTS));
        }
    }

    #[test]
    fn the_shortest_times_end_too() {
        let mut health = Health::new(Some(0), Some(0), at(0));
        assert_eq!(health.handle_timeout(at(0)), HealthAction::Ping);
        assert_eq!(health.handle_timeout(at(0)), HealthAction::Unresponsive);
        let mut health = Health::new(Some(1), Some(1), at(0));
        assert_eq!(wait(&mut health), (at(1), HealthAction::Ping));
        assert_eq!(wait(&mut health), (at(2), HealthAction::Unresponsive));
    }

    #[test]
    fn a_watch_without_an_interval_never_asks() {
        let mut health = Health::new(None, Some(500), at(0));
        assert_eq!(health.poll_timeout(), None);
        assert_eq!(health.handle_timeout(at(1 << 40)), HealthAction::Alive);
    }
}
