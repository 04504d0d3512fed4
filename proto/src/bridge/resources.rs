//! Processes and watches of the client: what its own ids name in the daemon, and what ends with that.

use std::collections::BTreeMap;

use crate::json::edit::{Edits, write_text};
use crate::json::scan::member_at;
use crate::json::text;
use crate::routes::Resource;

/// Watches and processes that are kept at most; of more, nothing is known.
const MOST: usize = 16_384;
/// Bytes of the requests of watches that are kept for the next daemon.
const WATCH_BYTES: usize = 1 << 20;

/// See the [module's documentation](self).
#[derive(Debug, Default)]
pub(super) struct Resources {
    processes: BTreeMap<Box<[u8]>, ()>,
    /// With the client's `fs/watch`, to be sent again.
    watches: BTreeMap<Box<[u8]>, Vec<u8>>,
    watch_bytes: usize,
}

impl Resources {
    /// A request succeeded that opened one.
    pub(super) fn opened(&mut self, resource: Resource, id: &[u8], line: Option<&[u8]>) {
        match resource {
            Resource::Process if self.processes.len() < MOST => drop(self.processes.insert(id.into(), ())),
            Resource::Watch => {
                self.closed(resource, id);
                if let Some(line) = line.filter(|line| self.watch_bytes + line.len() <= WATCH_BYTES) {
                    self.watch_bytes += line.len();
                    self.watches.insert(id.into(), line.to_vec());
                }
            }
            _ => {}
        }
    }

    /// One was closed, or has ended.
    pub(super) fn closed(&mut self, resource: Resource, id: &[u8]) {
        match resource {
            Resource::Process => drop(self.processes.remove(id)),
            Resource::Watch => {
                if let Some(line) = self.watches.remove(id) {
                    self.watch_bytes -= line.len();
                }
            }
            _ => {}
        }
    }

    /// Reads the end of a process out of `process/exited`.
    pub(super) fn exited(&mut self, line: &[u8]) {
        let handle = member_at(line, 0, &["params", "processHandle"]).and_then(|handle| text(line, handle));
        if let Some(handle) = handle {
            self.closed(Resource::Process, &handle);
        }
    }

    /// Whether the next daemon gets watches of the client.
    pub(super) fn has_watches(&self) -> bool {
        !self.watches.is_empty()
    }

    /// Returns the ids of the watches.
    pub(super) fn watches(&self) -> Vec<Box<[u8]>> {
        self.watches.keys().cloned().collect()
    }

    /// Returns the request that restores a watch, under another request id (JSON text).
    pub(super) fn restoring(&self, watch: &[u8], request_id: &[u8]) -> Option<Vec<u8>> {
        let line = self.watches.get(watch)?;
        let mut edits = Edits::new();
        edits.replace(member_at(line, 0, &["id"])?, request_id);
        let mut out = Vec::new();
        edits.write(line, &mut out);
        Some(out)
    }

    /// Writes that what a watch is on may have changed while there was no daemon.
    pub(super) fn changed(&self, watch: &[u8]) -> Option<Vec<u8>> {
        let line = self.watches.get(watch)?;
        let path = member_at(line, 0, &["params", "path"])?;
        let mut out = b"{\"method\":\"fs/changed\",\"params\":{\"watchId\":".to_vec();
        write_text(&mut out, watch);
        out.extend_from_slice(b",\"changedPaths\":[");
        out.extend_from_slice(path.of(line));
        out.extend_from_slice(b"],\"codexd\":{\"synthetic\":true}}}");
        Some(out)
    }

    /// The daemon is lost, and the processes with it: returns their ends.
    pub(super) fn lost(&mut self) -> Vec<Vec<u8>> {
        let end = |handle: Box<[u8]>| {
            let mut out = b"{\"method\":\"process/exited\",\"params\":{\"processHandle\":".to_vec();
            write_text(&mut out, &handle);
            // As codex reports a process without a code of its own.
            out.extend_from_slice(
                b",\"exitCode\":-1,\"stdout\":\"\",\"stdoutCapReached\":false,\"stderr\":\"\",\
                  \"stderrCapReached\":false,\"codexd\":{\"synthetic\":true}}}",
            );
            out
        };
        std::mem::take(&mut self.processes).into_keys().map(end).collect()
    }
}
