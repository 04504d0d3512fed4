//! The latch that holds off a crash loop: daemons that fail right after their start are not started again
//! at once by every client that comes along.

use std::path::Path;

use codexd_proto::exit::ExitCode;

use crate::error::Error;
use crate::instance::record::{self, EarlyEnds};
use crate::os::unix_time::unix_ms;

/// Failures in a row from which on there is a pause.
const TOLERATED: u32 = 3;
/// The first pause, in milliseconds; each further failure doubles it.
const FIRST_PAUSE_MS: u64 = 10_000;
/// The longest pause, in milliseconds.
const LONGEST_PAUSE_MS: u64 = 600_000;

/// Refuses to start while the latch is shut; `start` returns the command that starts one all the same.
///
/// # Errors
///
/// With exit code 69: how often it failed, the last reason, and when the next start is tried.
pub(super) fn check(record: &Path, start: impl FnOnce() -> String) -> Result<(), Error> {
    let ends = record::early_ends(record);
    match shut_for(&ends, unix_ms()) {
        None => Ok(()),
        Some(left_ms) => Err(Error::new(
            ExitCode::Unavailable,
            format!(
                "the daemon is not started again for {} s: {} in a row failed right after their start, the last \
                 with exit code {}: {}",
                left_ms.div_ceil(1000),
                ends.count,
                ends.code,
                ends.reason
            ),
        )
        .hint(format!(
            "look into `{}`; `{}` starts one at once",
            record.with_extension("log").display(),
            start()
        ))),
    }
}

/// Returns for how long the latch stays shut, in milliseconds.
fn shut_for(ends: &EarlyEnds, now: u64) -> Option<u64> {
    let beyond = ends.count.checked_sub(TOLERATED)?;
    let pause =
        FIRST_PAUSE_MS.checked_shl(beyond.min(16)).map_or(LONGEST_PAUSE_MS, |ms| ms.min(LONGEST_PAUSE_MS));
    // A clock that was set back must not shut the latch for longer than the pause.
    let passed = now.checked_sub(ends.last_unix_ms)?;
    pause.checked_sub(passed).filter(|left| *left > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(count: u32) -> EarlyEnds {
        EarlyEnds { count, last_unix_ms: 1_000_000, code: 1, reason: "lost".to_owned() }
    }

    #[test]
    fn the_pause_begins_late_grows_and_ends() {
        assert_eq!(shut_for(&ends(0), 1_000_000), None);
        assert_eq!(shut_for(&ends(2), 1_000_000), None);
        assert_eq!(shut_for(&ends(3), 1_000_000), Some(10_000));
        assert_eq!(shut_for(&ends(3), 1_009_999), Some(1));
        assert_eq!(shut_for(&ends(3), 1_010_000), None);
        assert_eq!(shut_for(&ends(4), 1_000_000), Some(20_000));
        assert_eq!(shut_for(&ends(u32::MAX), 1_000_000), Some(LONGEST_PAUSE_MS));
        assert_eq!(shut_for(&ends(9), 999_999), None);
    }
}
