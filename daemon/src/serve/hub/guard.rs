//! The memory guard: a codex that has grown large is replaced when nobody uses it.
//!
//! Memory is looked at when the last client has left and the last turn has ended, and at no other time: while somebody uses
//! the daemon, nothing would follow from it but the warning of the status.
//!
//! At that time codexd also gives back what it does not need of its own memory.

use std::time::Duration;

use codexd_proto::core::Event;

use super::{Hub, READ_BYTES};
use crate::os::{memory, process};

/// How long the daemon has to be unused before it gives memory back. Who comes again at once finds what was there.
const GIVE_BACK_AFTER: Duration = Duration::from_secs(1);

/// The same after the start: the ledger has closed its database by then, and does not bring its code back.
pub(super) const GIVE_BACK_START_AFTER: Duration = Duration::from_secs(8);

impl Hub {
    /// Has memory given back if the daemon is unused after that time.
    pub(super) fn give_back_after(&mut self, time: Duration) {
        self.gives_back_at = Some(tokio::time::Instant::now() + time);
        self.wake.notify_one();
    }

    /// Gives back memory that is not needed, if nobody uses the daemon.
    pub(super) fn give_back(&mut self) {
        self.gives_back_at = None;
        if !self.core.is_unused() {
            return;
        }
        // Zeroed memory is not there before it is written to.
        self.scratch = vec![0; READ_BYTES];
        if std::mem::replace(&mut self.has_start, false) {
            memory::give_back_start();
        } else {
            memory::give_back_free();
        }
    }

    /// Stops the daemon if nobody uses it any more and codex and its commands have grown above the setting.
    pub(super) fn guard_memory(&mut self) {
        if !self.check_memory || !self.core.is_unused() {
            return;
        }
        self.check_memory = false;
        self.give_back_after(GIVE_BACK_AFTER);
        let Some(limit) = self.reloader.current().memory_recycle_bytes else { return };
        let tree = self.base_status.upstream.pid.and_then(process::tree);
        if let Some(bytes) = tree.map(|tree| tree.bytes).filter(|bytes| *bytes >= limit) {
            self.handle(Event::MemoryHigh { bytes });
            // What follows is carried out at once, and by another call of this one's caller.
            self.flush_soon();
        }
    }
}
