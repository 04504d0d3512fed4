//! Which messages a monitor copies in a flood: copying takes processor time from what it looks at.
//!
//! In a flood, more messages pass than anybody reads. A monitor that need not be whole then shows some of them fifty times
//! a second, and says how many it does not show.

use crate::time::Time;

/// Time over which what passes is measured, in milliseconds.
const PERIOD_MS: u64 = 20;
/// Bytes that are copied in a period, or 16 MiB per second: above that, messages are a flood. Codex sends some hundred
/// messages a second; this is some ten thousand short ones.
const CALM_BYTES: u64 = (16 << 20) * PERIOD_MS / 1_000;
/// Bytes that are copied in a period of a flood.
const FLOOD_BYTES: u64 = 8 << 10;

/// See the [module's documentation](self).
#[derive(Clone, Copy, Debug)]
pub struct Flood {
    /// When the period began.
    since: Time,
    /// Bytes that have passed in it, copied or not.
    passed: u64,
    /// Bytes that are copied in it.
    copied: u64,
}

impl Default for Flood {
    fn default() -> Flood {
        Flood { since: Time::ZERO, passed: 0, copied: CALM_BYTES }
    }
}

impl Flood {
    /// Records that `bytes` pass together at `now`. Returns whether they are copied: all of them or none.
    ///
    /// They are as long as the period has room for one byte, so that the last ones of a period can exceed its share.
    #[inline]
    pub fn copies(&mut self, now: Time, bytes: usize) -> bool {
        let ms = now.since(self.since);
        if ms >= PERIOD_MS {
            let flooded = self.passed.saturating_mul(PERIOD_MS) > CALM_BYTES.saturating_mul(ms);
            *self = Flood { since: now, passed: 0, copied: if flooded { FLOOD_BYTES } else { CALM_BYTES } };
        }
        let copies = self.passed < self.copied;
        self.leave_out(bytes);
        copies
    }

    /// Records that `bytes` pass and are not copied, because what passes before them is not.
    #[inline]
    pub fn leave_out(&mut self, bytes: usize) {
        self.passed = self.passed.saturating_add(bytes as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many pieces of 10,000 bytes are no flood in a period.
    const CALM_PIECES: u64 = CALM_BYTES / 10_000 / 2;

    /// Bytes that are copied of so many pieces that pass one after the other, from `from_ms` on at equal distances within
    /// `ms`.
    fn copied(flood: &mut Flood, from_ms: u64, ms: u64, pieces: u64, bytes: usize) -> u64 {
        let at = |n: u64| Time::from_millis(from_ms + n * ms / pieces);
        (0..pieces).filter(|n| flood.copies(at(*n), bytes)).count() as u64 * bytes as u64
    }

    #[test]
    fn what_is_below_the_rate_of_a_flood_is_copied_whole() {
        let mut flood = Flood::default();
        let pieces = CALM_BYTES / 1_000 * 1_000 / PERIOD_MS * 9 / 10;
        assert_eq!(copied(&mut flood, 0, 1_000, pieces, 1_000), pieces * 1_000);
        // Much at once after a silence, too.
        assert_eq!(copied(&mut flood, 60_000, 1, CALM_BYTES / 1_000, 1_000), CALM_BYTES / 1_000 * 1_000);
        assert_eq!(copied(&mut flood, 70_000, 1, CALM_BYTES / 1_000, 1_000), CALM_BYTES / 1_000 * 1_000);
    }

    #[test]
    fn in_a_flood_a_little_of_each_period_is_copied_from_the_second_on() {
        let mut flood = Flood::default();
        let (bytes, pieces) = (10_000, 1_000);
        let at_most = |share: u64| share..share + bytes as u64;
        assert!(at_most(CALM_BYTES).contains(&copied(&mut flood, 0, PERIOD_MS, pieces, bytes)));
        for period in 1..5 {
            let copied = copied(&mut flood, period * PERIOD_MS, PERIOD_MS, pieces, bytes);
            assert!(at_most(FLOOD_BYTES).contains(&copied), "{copied}");
        }
        // The period after it still has little, and the next one is as before.
        assert!(at_most(FLOOD_BYTES).contains(&copied(
            &mut flood,
            5 * PERIOD_MS,
            PERIOD_MS,
            CALM_PIECES,
            bytes
        )));
        let after = copied(&mut flood, 6 * PERIOD_MS, PERIOD_MS, CALM_PIECES, bytes);
        assert_eq!(after, CALM_PIECES * bytes as u64);
    }

    #[test]
    fn a_flood_is_a_rate_and_not_an_amount() {
        let mut flood = Flood::default();
        let calm = CALM_PIECES * 10_000;
        // As much as in a flood, and then nothing for a second.
        copied(&mut flood, 0, 1, 1_000, 10_000);
        assert_eq!(copied(&mut flood, 1_000, 1, CALM_PIECES, 10_000), calm);
        // The same, and more of it at once.
        copied(&mut flood, 1_001, 1, 1_000, 10_000);
        assert!(copied(&mut flood, 1_000 + PERIOD_MS, 1, CALM_PIECES, 10_000) < 2 * FLOOD_BYTES);
    }

    #[test]
    fn what_is_left_out_is_a_part_of_the_flood() {
        for (left_out, share) in [(0, CALM_BYTES), (CALM_BYTES as usize, FLOOD_BYTES)] {
            let mut flood = Flood::default();
            assert!(flood.copies(Time::ZERO, 1_000));
            flood.leave_out(left_out);
            let copied = copied(&mut flood, PERIOD_MS, 1, 1_000, 10_000);
            assert!((share..share + 10_000).contains(&copied), "{copied}");
        }
    }

    #[test]
    fn what_passes_together_is_not_divided() {
        let mut flood = Flood::default();
        let now = Time::from_millis(1);
        assert!(flood.copies(now, CALM_BYTES as usize - 1) && flood.copies(now, 1 << 30));
        assert!(!flood.copies(now, 1));
        assert!(!flood.copies(now, 0));
        // No overflow, whatever passes.
        assert!(!flood.copies(now, usize::MAX));
        flood.leave_out(usize::MAX);
        flood.copies(Time::MAX, usize::MAX);
    }
}
