//! Messages to the service manager, after `sd_notify(3)` and `sd_watchdog_enabled(3)`.
//!
//! Every function does nothing when no service manager listens (`NOTIFY_SOCKET` is not set). A message
//! that cannot be sent is logged and otherwise forgotten: it must not take the daemon down.

use std::time::Duration;

use sd_notify::NotifyState;

/// Variables that concern this process and its service manager only, to be removed from the environment
/// of every child (`sd_notify(3)`, `sd_listen_fds(3)`, `systemd.exec(5)`).
///
/// A child that kept them could report readiness in codexd's name, or take its stdin for a socket.
pub(crate) const STRIPPED_ENV: &[&str] = &[
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDNAMES",
    "FDSTORE",
    "MAINPID",
    "MAINPIDFDID",
    "MANAGERPID",
    "MANAGERPIDFDID",
    "SYSTEMD_EXEC_PID",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
    "RUNTIME_DIRECTORY",
    "STATE_DIRECTORY",
    "CACHE_DIRECTORY",
    "LOGS_DIRECTORY",
    "CONFIGURATION_DIRECTORY",
    "CREDENTIALS_DIRECTORY",
];

/// Says that clients are served, and how.
pub(crate) fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

/// Sets the line that `systemctl status` shows.
pub(crate) fn status(status: &str) {
    send(&[NotifyState::Status(&one_line(status))]);
}

/// Says that the daemon is on its way out, and why.
pub(crate) fn stopping(status: &str) {
    send(&[NotifyState::Stopping, NotifyState::Status(&one_line(status))]);
}

/// Asks the manager to wait for `by` from now before it gives up a start or a stop.
pub(crate) fn extend_timeout(by: Duration) {
    send(&[NotifyState::ExtendTimeoutUsec(microseconds(by))]);
}

/// Says that the configuration is being read again; [`ready`] ends that.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot read the monotonic clock"),
    }
}

/// Says that the core loop is alive. To be called by that loop and by nothing else.
pub(crate) fn watchdog() {
    send(&[NotifyState::Watchdog]);
}

/// Returns the longest interval between two calls of [`watchdog`] that the manager accepts.
///
/// Half of it is a good interval. `None` when there is no watchdog, or when it is meant for another
/// process (`WATCHDOG_PID`): a wrapper between the manager and codexd.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}

/// The message is lines of assignments: a line break in a value would begin the next one.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

fn microseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_cannot_smuggle_in_another_assignment() {
        assert_eq!(one_line("serving\nMAINPID=1"), "serving MAINPID=1");
    }

    #[test]
    fn long_extensions_are_cut_off_instead_of_wrapping() {
        assert_eq!(microseconds(Duration::from_secs(1)), 1_000_000);
        assert_eq!(microseconds(Duration::from_secs(100_000)), u32::MAX);
    }
}
