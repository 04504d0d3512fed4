//! Lines of requests that the upstream may still reject because its queue is full.

use crate::json::Span;
use crate::json::scan::member;
use crate::router::OVERLOADED;

/// Bytes of the longest line that is kept.
const LINE_BYTES: usize = 64 << 10;

/// Bytes of all lines that are kept.
const ALL_BYTES: usize = 1 << 20;

/// Buffers that are reused, and the capacity in bytes above which one is not.
const SPARE: usize = 64;
const SPARE_BYTES: usize = 4 << 10;

/// Counts the lines that are kept to be sent again; each is stored with its request.
#[derive(Debug, Default)]
pub(super) struct Retained {
    bytes: usize,
    spare: Vec<Vec<u8>>,
}

impl Retained {
    /// Returns how many bytes are kept.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn has_room(&self, bytes: usize) -> bool {
        bytes <= LINE_BYTES && self.bytes + bytes <= ALL_BYTES
    }

    /// Keeps a line of codexd's own: those are short and few.
    pub(super) fn keep_own(&mut self, line: Vec<u8>) -> Option<Vec<u8>> {
        self.bytes += line.len();
        Some(line)
    }

    /// Keeps a copy of a line, if it is short enough.
    #[inline]
    pub(super) fn copy(&mut self, line: &[u8]) -> Option<Vec<u8>> {
        if !self.has_room(line.len()) {
            return None;
        }
        self.bytes += line.len();
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.extend_from_slice(line);
        Some(copy)
    }

    /// Keeps a line, if it is short enough.
    pub(super) fn keep(&mut self, line: Vec<u8>) -> Option<Vec<u8>> {
        if !self.has_room(line.len()) {
            return None;
        }
        self.bytes += line.len();
        Some(line)
    }

    /// Hands a line out, to be queued again.
    pub(super) fn take(&mut self, line: Option<Vec<u8>>) -> Option<Vec<u8>> {
        let line = line?;
        self.bytes -= line.len();
        Some(line)
    }

    /// Drops a line.
    #[inline]
    pub(super) fn forget(&mut self, line: Option<Vec<u8>>) {
        if let Some(mut line) = self.take(line)
            && self.spare.len() < SPARE
            && line.capacity() <= SPARE_BYTES
        {
            line.clear();
            self.spare.push(line);
        }
    }
}

/// Whether an error says that the upstream's queue is full.
pub(in crate::router) fn is_overload(line: &[u8], failed: bool, body: Span) -> bool {
    failed
        && member(line, body.start, b"code")
            .is_some_and(|code| crate::id::parse_i64(code.of(line)) == Some(OVERLOADED))
}
