//! One daemon per instance: its lock, held while it lives, and its record, which outlives it.

pub(crate) mod lock;
pub(crate) mod record;
