//! The exit of an unused daemon.

use crate::time::Time;

/// Milliseconds between checks whether the socket file of an unused daemon is still there. Without it, no client
/// can use this daemon again, and the next daemon has to wait for its end.
const CHECK_EVERY_MS: u64 = 5_000;

/// Measures how long the daemon has been unused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Idle {
    /// Milliseconds after which it exits; `None`: never, and nothing is measured.
    exit_ms: Option<u64>,
    since: Option<Time>,
    check_at: Time,
}

impl Idle {
    pub(super) fn new(exit_ms: Option<u64>) -> Idle {
        Idle { exit_ms, since: None, check_at: Time::ZERO }
    }

    /// Changes the limit. The time is measured anew.
    pub(super) fn set_exit_ms(&mut self, exit_ms: Option<u64>) {
        *self = Idle::new(exit_ms);
    }

    /// Records whether the daemon is unused now.
    pub(super) fn observe(&mut self, now: Time, unused: bool) {
        if self.exit_ms.is_none() {
            return;
        }
        match (unused, self.since) {
            (true, None) => {
                self.since = Some(now);
                self.check_at = now + CHECK_EVERY_MS;
            }
            (false, Some(_)) => self.since = None,
            _ => {}
        }
    }

    /// Records that the daemon is used. Returns since when it was unused.
    pub(super) fn take_since(&mut self) -> Option<Time> {
        self.since.take()
    }

    /// Records that a connection has not used the daemon: it is unused since the time before, if that is known.
    pub(super) fn restore(&mut self, since: Option<Time>) {
        if self.since.is_none() && self.exit_ms.is_some() {
            self.since = since;
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.since.is_some()
    }

    /// Returns when an unused daemon exits.
    pub(super) fn exit_due(&self) -> Option<Time> {
        self.since.zip(self.exit_ms).map(|(since, ms)| since + ms)
    }

    /// Returns when the socket of an unused daemon is checked.
    pub(super) fn check_due(&self) -> Option<Time> {
        self.since.map(|_| self.check_at)
    }

    pub(super) fn checked(&mut self, now: Time) {
        self.check_at = now + CHECK_EVERY_MS;
    }
}
