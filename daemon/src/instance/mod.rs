//! One daemon per instance: its lock, held while it lives, its record, which outlives it, and the mark of each
//! life.

pub(crate) mod failed_start;
pub(crate) mod life;
pub(crate) mod lock;
pub(crate) mod record;
pub(crate) mod threads;
