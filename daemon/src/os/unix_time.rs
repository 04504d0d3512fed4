//! The time of day, for people and for files: anybody may set it, so nothing that waits goes by it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the time, in milliseconds since the epoch; 0 if the clock is before it.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
