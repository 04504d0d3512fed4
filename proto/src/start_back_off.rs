//! Start back-off: daemons that fail right after their start are not started again at once by the next client.

use serde::{Deserialize, Serialize};

use crate::exit::ExitCode;

/// Failures in a row from which on there is a pause.
const TOLERATED: u32 = 3;
/// The first pause, in milliseconds; each further failure doubles it.
const FIRST_PAUSE_MS: u64 = 10_000;
/// The longest pause, in milliseconds.
const LONGEST_PAUSE_MS: u64 = 600_000;
/// Uptime below which a failure counts as one of the start, in milliseconds.
const EARLY_MS: u64 = 5_000;

/// Daemons started by clients that failed in a row, each right after its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EarlyEnds {
    /// How many.
    pub count: u32,
    /// When the last one ended, in milliseconds since the epoch.
    pub last_unix_ms: u64,
    /// Exit code of the last one.
    pub code: u8,
    /// Why the last one ended, as text.
    pub reason: String,
}

impl EarlyEnds {
    /// Returns what to remember after one more daemon has ended; `now` is in milliseconds since the epoch.
    ///
    /// A daemon that ran for a while, or ended because it was asked to, proves that starting works. One that no
    /// client started is not counted: whatever started it decides.
    #[must_use]
    pub fn after(
        &self,
        auto_spawned: bool,
        code: ExitCode,
        reason: &str,
        uptime_ms: u64,
        now: u64,
    ) -> EarlyEnds {
        match code {
            _ if uptime_ms >= EARLY_MS => EarlyEnds::default(),
            ExitCode::Stopped | ExitCode::Upgrade => EarlyEnds::default(),
            _ if !auto_spawned => self.clone(),
            _ => EarlyEnds {
                count: self.count.saturating_add(1),
                last_unix_ms: now,
                code: code.number(),
                reason: reason.to_owned(),
            },
        }
    }

    /// Returns for how long no client starts a daemon, in milliseconds; `now` is in milliseconds since the epoch.
    pub fn pause_left(&self, now: u64) -> Option<u64> {
        let exceeding = self.count.checked_sub(TOLERATED)?;
        let doubled = FIRST_PAUSE_MS.checked_shl(exceeding.min(16));
        let pause = doubled.map_or(LONGEST_PAUSE_MS, |ms| ms.min(LONGEST_PAUSE_MS));
        // A clock that was set back must not make the pause longer.
        let passed = now.checked_sub(self.last_unix_ms)?;
        pause.checked_sub(passed).filter(|left| *left > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_begins_late_grows_and_ends() {
        let left = |count, now| {
            let ends = EarlyEnds { count, last_unix_ms: 1_000_000, code: 1, reason: "lost".to_owned() };
            ends.pause_left(now)
        };
        assert_eq!(left(0, 1_000_000), None);
        assert_eq!(left(2, 1_000_000), None);
        assert_eq!(left(3, 1_000_000), Some(10_000));
        assert_eq!(left(3, 1_009_999), Some(1));
        assert_eq!(left(3, 1_010_000), None);
        assert_eq!(left(4, 1_000_000), Some(20_000));
        assert_eq!(left(u32::MAX, 1_000_000), Some(LONGEST_PAUSE_MS));
        assert_eq!(left(9, 999_999), None);
    }

    #[test]
    fn failures_right_after_the_start_count_and_all_else_ends_the_count_or_leaves_it() {
        let failed = |ends: &EarlyEnds, auto_spawned, code, uptime_ms| {
            ends.after(auto_spawned, code, "lost", uptime_ms, 9).count
        };
        let none = EarlyEnds::default();
        let twice = EarlyEnds { count: 2, ..EarlyEnds::default() };
        assert_eq!(failed(&none, true, ExitCode::UpstreamLost, 4_999), 1);
        assert_eq!(failed(&twice, true, ExitCode::UpstreamLost, 0), 3);
        assert_eq!(failed(&twice, true, ExitCode::UpstreamLost, 5_000), 0);
        assert_eq!(failed(&twice, true, ExitCode::Stopped, 0), 0);
        assert_eq!(failed(&twice, true, ExitCode::Upgrade, 0), 0);
        assert_eq!(failed(&twice, false, ExitCode::UpstreamLost, 0), 2);
    }
}
