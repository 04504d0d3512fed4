//! Waits: poll quickly, give up late.
//!
//! A test waits for a fact and never for a time. Where a fact is reported (a message, an exit, a datagram), the code
//! that knows it blocks on it; this module is for the facts that do not.

use std::time::{Duration, Instant};

/// How long a wait of the harness lasts before it is a failure.
///
/// Long, because it is only ever reached by a failing test: a busy machine must not make one.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(3);

/// Looks until `fact` is there and returns it, or `None` once `patience` is over.
pub fn poll<T>(patience: Duration, mut fact: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = fact() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        pause(INTERVAL);
    }
}

/// Looks until `fact` is true.
///
/// # Panics
///
/// After [`PATIENCE`], with `what` in the message.
#[track_caller]
pub fn until(what: &str, mut fact: impl FnMut() -> bool) {
    if poll(PATIENCE, || fact().then_some(())).is_none() {
        panic!("waited {PATIENCE:?} in vain: {what}");
    }
}

/// Lets `time` pass: between two looks, or because the passing time is itself the subject (a scripted
/// delay of a fake).
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the harness sleeps; tests go through `until` or `poll`"
)]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
