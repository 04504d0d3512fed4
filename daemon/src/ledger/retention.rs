//! How much is kept.

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retention {
    /// Turns that have ended, at most.
    pub(crate) turns: u64,
    /// For how many milliseconds after its end a turn or job is kept.
    pub(crate) age_ms: u64,
}
