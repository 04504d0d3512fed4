//! Whether more passes than a monitor reads at once: reading takes processor time from what it looks at.

use crate::time::Time;

/// Bytes per second above which messages are a flood. Codex sends some hundred messages a second; this is some ten
/// thousand short ones.
const BYTES_PER_S: u64 = 16 << 20;
/// Time over which that is measured, at least, in milliseconds.
const MEASURED_MS: u64 = 10;

/// See the [module's documentation](self).
#[derive(Debug, Default)]
pub struct Flood {
    measured: Time,
    passed: u64,
    on: bool,
}

impl Flood {
    /// Returns whether there is a flood at `now`, when `passed` bytes have passed in all.
    pub fn is_on(&mut self, now: Time, passed: u64) -> bool {
        let ms = now.since(self.measured);
        if ms >= MEASURED_MS {
            let bytes = passed.saturating_sub(self.passed);
            self.on = bytes.saturating_mul(1_000) > BYTES_PER_S.saturating_mul(ms);
            (self.measured, self.passed) = (now, passed);
        }
        self.on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_what_passes_at_a_rate_and_not_how_much_has_passed() {
        let mut flood = Flood::default();
        let mut passed = 0;
        let mut after = |flood: &mut Flood, ms: u64, bytes: u64| {
            passed += bytes;
            flood.is_on(Time::from_millis(ms), passed)
        };
        assert!(!after(&mut flood, 20, 300_000));
        assert!(after(&mut flood, 40, 400_000));
        // Too soon to tell.
        assert!(after(&mut flood, 45, 0));
        assert!(after(&mut flood, 60, 400_000));
        assert!(!after(&mut flood, 160, 1_500_000));
        assert!(!after(&mut flood, 165, 1_000_000));
        assert!(after(&mut flood, 170, 0));
        assert!(!after(&mut flood, 10_000_000, 100_000_000_000));
    }
}
