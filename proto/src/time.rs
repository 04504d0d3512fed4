//! Time as a value.

use core::ops::Add;

/// A point on the daemon's monotonic clock, in milliseconds since its start.
///
/// The shell reads the clock and hands the value in; nothing in this crate can. Suspension of the
/// machine may or may not count, as the shell's clock has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The start of the daemon.
    pub const ZERO: Time = Time(0);

    /// A point that is never reached.
    pub const MAX: Time = Time(u64::MAX);

    /// Creates the point `ms` milliseconds after the start.
    pub const fn from_millis(ms: u64) -> Time {
        Time(ms)
    }

    /// Returns the milliseconds since the start.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Returns the milliseconds from `earlier` to this point, 0 if it is not earlier.
    pub const fn since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<u64> for Time {
    type Output = Time;

    /// Adds milliseconds; saturates.
    fn add(self, ms: u64) -> Time {
        Time(self.0.saturating_add(ms))
    }
}
