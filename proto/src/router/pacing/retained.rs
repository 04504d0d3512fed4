//! Copies of requests that the upstream can still reject because its queue is full.

use crate::json::Span;
use crate::json::scan::member;
use crate::router::OVERLOADED;

/// Bytes of the longest line that is copied.
const LINE_BYTES: usize = 64 << 10;

/// Bytes of all copies.
const ALL_BYTES: usize = 1 << 20;

/// Buffers that are kept for reuse, and the capacity in bytes above which one is freed.
const SPARE: usize = 64;
const SPARE_BYTES: usize = 4 << 10;

/// Counts the copies. Each copy is stored with its request.
#[derive(Debug, Default)]
pub(super) struct Retained {
    bytes: usize,
    spare: Vec<Vec<u8>>,
}

impl Retained {
    /// Returns the bytes of all copies.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns whether no copy of a line is kept, however few others there are.
    pub(super) fn is_too_long(line: &[u8]) -> bool {
        line.len() > LINE_BYTES
    }

    fn has_room(&self, bytes: usize) -> bool {
        bytes <= LINE_BYTES && self.bytes + bytes <= ALL_BYTES
    }

    /// Copies a line of codexd itself. Those are short and few, so no limit applies.
    pub(super) fn keep_own(&mut self, line: Vec<u8>) -> Option<Vec<u8>> {
        self.bytes += line.len();
        Some(line)
    }

    /// Copies a line, if it is short enough.
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

    /// Keeps an owned line, if it is short enough.
    pub(super) fn keep(&mut self, line: Vec<u8>) -> Option<Vec<u8>> {
        if !self.has_room(line.len()) {
            return None;
        }
        self.bytes += line.len();
        Some(line)
    }

    /// Releases a copy that is queued again.
    pub(super) fn take(&mut self, line: Option<Vec<u8>>) -> Option<Vec<u8>> {
        let line = line?;
        self.bytes -= line.len();
        Some(line)
    }

    /// Frees a copy.
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

/// Returns whether an error means that the upstream's queue is full.
pub(in crate::router) fn is_overload(line: &[u8], failed: bool, body: Span) -> bool {
    failed
        && member(line, body.start, b"code")
            .is_some_and(|code| crate::id::parse_i64(code.of(line)) == Some(OVERLOADED))
}
