//! Which entries without an end belong to a daemon that still runs.

use crate::instance::record;
use crate::settings::paths::Paths;

/// Which entries without an end belong to a daemon that still runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alive {
    /// Those of this generation.
    Generation(u64),
    /// None: no daemon runs.
    Nobody,
}

impl Alive {
    /// Finds the holder of the instance.
    pub(super) fn of(paths: &Paths) -> Alive {
        record::running_generation(&paths.record, &paths.lock).map_or(Alive::Nobody, Alive::Generation)
    }

    pub(super) fn includes(self, generation: u64) -> bool {
        self == Alive::Generation(generation)
    }
}
