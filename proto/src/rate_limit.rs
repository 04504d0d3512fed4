//! A rate limit for lines of the log that a peer can cause at will.

use crate::time::Time;

/// Lets a few events of a kind through, and counts the others.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    /// Events that pass at once after a quiet time.
    burst: u32,
    /// Milliseconds after which one more passes.
    every_ms: u64,
    left: u32,
    since: Time,
    suppressed: u64,
}

impl RateLimit {
    /// Creates a limit of `burst` events at once and one more each `every_ms` milliseconds.
    pub const fn new(burst: u32, every_ms: u64) -> RateLimit {
        RateLimit { burst, every_ms, left: burst, since: Time::ZERO, suppressed: 0 }
    }

    /// Records an event. If it passes, returns how many have not since the last one that did.
    pub fn pass(&mut self, now: Time) -> Option<u64> {
        let earned = now.since(self.since) / self.every_ms.max(1);
        if earned > 0 {
            self.left = self.left.saturating_add(u32::try_from(earned).unwrap_or(u32::MAX)).min(self.burst);
            self.since = self.since + earned * self.every_ms.max(1);
        }
        if self.left == 0 {
            self.suppressed += 1;
            return None;
        }
        self.left -= 1;
        Some(core::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_pass_at_once_and_then_one_in_each_interval() {
        let mut limit = RateLimit::new(2, 1_000);
        let mut pass = |ms| limit.pass(Time::from_millis(ms));
        assert_eq!([pass(500), pass(500), pass(500), pass(999)], [Some(0), Some(0), None, None]);
        assert_eq!([pass(1_000), pass(1_001)], [Some(2), None]);
        assert_eq!([pass(60_000), pass(60_000), pass(60_000)], [Some(1), Some(0), None]);
    }
}
