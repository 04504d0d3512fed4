//! Is the upstream alive? A round trip answers it, never a process id and never a connect.

use crate::time::Time;

/// Looks at an open question before its time is over.
///
/// What passes between two looks counts for no more than the time that was meant to: a machine that was
/// suspended, or a daemon that was stopped, knows nothing of the rest, and the upstream may have been
/// stopped with it.
const LOOKS: u64 = 8;

/// Milliseconds between two looks, at the most.
const LONGEST_LOOK_MS: u64 = 1_000;

/// Watches whether the upstream says anything; asks when it has been silent.
///
/// Any message counts as life: an upstream that is busy is not dead.
#[derive(Clone, Debug)]
pub struct Health {
    /// Silence after which it is asked; `None` never.
    interval_ms: Option<u64>,
    /// Silence after the question that is no life any more; `None` for ever.
    timeout_ms: Option<u64>,
    last_output: Time,
    open_check: Option<OpenCheck>,
}

/// A question without an answer.
#[derive(Clone, Copy, Debug)]
struct OpenCheck {
    looked: Time,
    /// How long the answer was waited for, as far as that is known.
    waited_ms: u64,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthAction {
    /// Nothing.
    Alive,
    /// Ask it something.
    Ping,
    /// It did not answer.
    Unresponsive,
}

impl Health {
    /// Creates a watch that begins now.
    pub fn new(interval_ms: Option<u64>, timeout_ms: Option<u64>, now: Time) -> Health {
        Health { interval_ms, timeout_ms, last_output: now, open_check: None }
    }

    /// Changes how long silence may last; a question that is open is timed by the new limit.
    pub fn set_limits(&mut self, interval_ms: Option<u64>, timeout_ms: Option<u64>) {
        self.interval_ms = interval_ms;
        self.timeout_ms = timeout_ms;
    }

    /// Records that the upstream said something.
    pub fn record_output(&mut self, now: Time) {
        self.last_output = now;
        self.open_check = None;
    }

    /// Returns for how many milliseconds an answer was waited for, while a question is open.
    pub fn waited_ms(&self, now: Time) -> Option<u64> {
        let check = self.open_check?;
        let since = now.since(check.looked);
        Some(check.waited_ms + self.look_ms(check).map_or(since, |look| since.min(look)))
    }

    /// Returns the time to the next look at a question.
    fn look_ms(&self, check: OpenCheck) -> Option<u64> {
        let timeout = self.timeout_ms?;
        let look = (timeout / LOOKS).clamp(1, LONGEST_LOOK_MS);
        Some(look.min(timeout.saturating_sub(check.waited_ms)))
    }

    /// Returns when [`Health::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Time> {
        match self.open_check {
            None => self.interval_ms.map(|ms| self.last_output + ms),
            Some(check) => self.look_ms(check).map(|ms| check.looked + ms),
        }
    }

    /// Says what is to be done now.
    pub fn handle_timeout(&mut self, now: Time) -> HealthAction {
        if self.poll_timeout().is_none_or(|due| due > now) {
            return HealthAction::Alive;
        }
        let Some(waited_ms) = self.waited_ms(now) else {
            self.open_check = Some(OpenCheck { looked: now, waited_ms: 0 });
            return HealthAction::Ping;
        };
        self.open_check = Some(OpenCheck { looked: now, waited_ms });
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

    /// Looks whenever it is due, until there is a verdict.
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
        // However long it slept, and whenever: just over the time is the hardest to tell from a silence.
        for slept in [501, 700, 5_000, 3_600_000] {
            let mut health = Health::new(Some(1_000), Some(500), at(0));
            assert_eq!(health.handle_timeout(at(1_000)), HealthAction::Ping);
            assert_eq!(health.handle_timeout(at(1_000 + slept)), HealthAction::Alive);
            let (end, verdict) = wait(&mut health);
            assert_eq!(verdict, HealthAction::Unresponsive);
            // The sleep counted for one look.
            assert_eq!(end, at(1_000 + slept + 500 - 500 / LOOKS));
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
