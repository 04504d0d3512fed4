//! What waits to be written to the daemon.

use std::collections::VecDeque;

/// What an entry of the queue is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A part of the handshake, to be written again to each daemon.
    Handshake { line: Vec<u8>, initialize: bool },
    /// A request of the client, by its place.
    Request(u64),
    /// A request of the bridge's own.
    Own(Vec<u8>),
    /// The client's answer to a server request of this daemon.
    Answer(Vec<u8>),
    /// Anything else of the client; with its place in the client's order.
    Other { place: u64, line: Vec<u8> },
    /// A part of a line that is too long to be kept; `request` is that of its beginning, `last` that of its end.
    Piece { bytes: Vec<u8>, request: Option<u64>, last: bool },
}

impl Entry {
    /// Returns the bytes that the entry itself keeps.
    fn bytes(&self) -> usize {
        match self {
            Entry::Request(_) => 0,
            Entry::Handshake { line, .. }
            | Entry::Own(line)
            | Entry::Answer(line)
            | Entry::Other { line, .. } => line.len(),
            Entry::Piece { bytes, .. } => bytes.len(),
        }
    }
}

/// See the [module's documentation](self).
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Bytes of the first entry that are written.
    pub(super) written: usize,
}

impl Queue {
    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
    }

    /// Puts entries before all others, in their order; nothing of the first one may be written.
    pub(super) fn push_front(&mut self, entries: Vec<Entry>) {
        debug_assert_eq!(self.written, 0, "a line is torn");
        for entry in entries.into_iter().rev() {
            self.bytes += entry.bytes();
            self.entries.push_front(entry);
        }
    }

    pub(super) fn front(&self) -> Option<&Entry> {
        self.entries.front()
    }

    /// Removes the first entry, which is written.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        self.written = 0;
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.bytes();
        Some(entry)
    }

    /// Removes everything; returns how much of the first entry was written.
    pub(super) fn take(&mut self) -> (VecDeque<Entry>, usize) {
        self.bytes = 0;
        (std::mem::take(&mut self.entries), std::mem::take(&mut self.written))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the bytes of what is not a request.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }
}
