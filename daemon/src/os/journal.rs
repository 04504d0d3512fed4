//! The journal at the other end of stderr.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::terminal::stderr_is_journal;

/// How long the journal may take to read what was written.
const READ_WITHIN: Duration = Duration::from_millis(500);
/// Time between looks.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Waits until the journal has read what was written to stderr; half a second at the most, and not at all where it
/// is not there.
///
/// The journal looks up the unit of a process when it reads its first line. Of a process that is gone by then it
/// knows no unit, and `journalctl --user -u` does not show its lines (seen with systemd 252: a start that fails
/// takes 6 ms).
pub(crate) fn wait_until_stderr_is_read() {
    if stderr_is_journal() {
        wait_until_read(std::io::stderr());
    }
}

/// Waits until the other end of a Unix socket has read what was sent; half a second at the most.
pub(crate) fn wait_until_read(socket: impl AsFd) {
    let began = Instant::now();
    while super::unsafe_calls::unread_bytes(&socket).is_some_and(|bytes| bytes > 0)
        && began.elapsed() < READ_WITHIN
    {
        std::thread::park_timeout(LOOK_EVERY);
    }
}
