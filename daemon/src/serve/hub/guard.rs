//! The memory guard: a codex that has grown large is replaced when nobody uses it.
//!
//! Memory is looked at when the last client has left and the last turn has ended, and at no other time: while somebody uses
//! the daemon, nothing would follow from it but the warning of the status.

use codexd_proto::core::Event;

use super::Hub;
use crate::os::process;

impl Hub {
    /// Stops the daemon if nobody uses it any more and codex and its commands have grown above the setting.
    pub(super) fn guard_memory(&mut self) {
        if !self.check_memory || !self.core.is_unused() {
            return;
        }
        self.check_memory = false;
        let Some(limit) = self.reloader.current().memory_recycle_bytes else { return };
        let tree = self.base_status.upstream.pid.and_then(process::tree);
        if let Some(bytes) = tree.map(|tree| tree.bytes).filter(|bytes| *bytes >= limit) {
            self.handle(Event::MemoryHigh { bytes });
            // What follows is carried out at once, and by another call of this one's caller.
            self.flush_soon();
        }
    }
}
