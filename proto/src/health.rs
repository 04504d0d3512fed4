//! Is the upstream alive? A round trip answers it, never a process id and never a connect.

use crate::time::Time;

/// Milliseconds by which a check may come late before codexd itself is taken to have been asleep.
///
/// A machine that was suspended, or a daemon that was stopped, knows nothing of the time between:
/// the wait begins again.
const ASLEEP_MS: u64 = 5_000;

/// Watches whether the upstream says anything; asks when it has been silent.
///
/// Any message counts as life: an upstream that is busy is not dead.
#[derive(Clone, Debug)]
pub struct Health {
    /// Silence after which it is asked; `None` never.
    interval_ms: Option<u64>,
    /// Silence after the question that is no life any more; `None` for ever.
    timeout_ms: Option<u64>,
    heard: Time,
    asked: Option<Time>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Alive,
    /// Ask it something.
    Ask,
    /// It did not answer.
    Unresponsive,
}

impl Health {
    /// Creates a watch that begins now.
    pub fn new(interval_ms: Option<u64>, timeout_ms: Option<u64>, now: Time) -> Health {
        Health { interval_ms, timeout_ms, heard: now, asked: None }
    }

    /// Changes how long silence may last; a question that is open is timed by the new limit.
    pub fn set_limits(&mut self, interval_ms: Option<u64>, timeout_ms: Option<u64>) {
        self.interval_ms = interval_ms;
        self.timeout_ms = timeout_ms;
    }

    /// Takes note that the upstream said something.
    pub fn heard(&mut self, now: Time) {
        self.heard = now;
        self.asked = None;
    }

    /// Returns when [`Health::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Time> {
        match self.asked {
            None => self.interval_ms.map(|ms| self.heard + ms),
            Some(asked) => self.timeout_ms.map(|ms| asked + ms),
        }
    }

    /// Says what is to be done now.
    pub fn handle_timeout(&mut self, now: Time) -> Verdict {
        let Some(due) = self.poll_timeout().filter(|due| *due <= now) else { return Verdict::Alive };
        let asleep = now.since(due) > ASLEEP_MS;
        match self.asked {
            Some(_) if !asleep => Verdict::Unresponsive,
            _ => {
                self.asked = Some(now);
                Verdict::Ask
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    #[test]
    fn silence_is_asked_about_and_no_answer_is_death() {
        let mut health = Health::new(Some(1_000), Some(500), at(0));
        assert_eq!(health.handle_timeout(at(999)), Verdict::Alive);
        assert_eq!(health.handle_timeout(at(1_000)), Verdict::Ask);
        assert_eq!(health.handle_timeout(at(1_400)), Verdict::Alive);
        assert_eq!(health.handle_timeout(at(1_500)), Verdict::Unresponsive);
    }

    #[test]
    fn any_message_is_life() {
        let mut health = Health::new(Some(1_000), Some(500), at(0));
        assert_eq!(health.handle_timeout(at(1_000)), Verdict::Ask);
        health.heard(at(1_499));
        assert_eq!(health.handle_timeout(at(1_500)), Verdict::Alive);
        assert_eq!(health.poll_timeout(), Some(at(2_499)));
    }

    #[test]
    fn a_machine_that_slept_does_not_judge() {
        let mut health = Health::new(Some(1_000), Some(500), at(0));
        assert_eq!(health.handle_timeout(at(1_000)), Verdict::Ask);
        assert_eq!(health.handle_timeout(at(3_600_000)), Verdict::Ask);
        assert_eq!(health.handle_timeout(at(3_600_500)), Verdict::Unresponsive);
    }

    #[test]
    fn a_watch_without_an_interval_never_asks() {
        let mut health = Health::new(None, Some(500), at(0));
        assert_eq!(health.poll_timeout(), None);
        assert_eq!(health.handle_timeout(at(1 << 40)), Verdict::Alive);
    }
}
