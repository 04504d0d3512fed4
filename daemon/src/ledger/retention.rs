//! How many entries are kept, and for how long.

/// How many entries are kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retention {
    /// Turns that have ended, at most.
    pub(crate) turns: u64,
    /// Milliseconds after its end for which a turn or job is kept.
    pub(crate) age_ms: u64,
}
