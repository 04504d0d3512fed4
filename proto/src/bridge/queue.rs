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
    /// The first entry goes on with a line whose beginning is written.
    within_line: bool,
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

    /// Puts requests, in their order, before all others of which nothing is written.
    pub(super) fn push_requests_first(&mut self, places: Vec<u64>) {
        let begun = self.written > 0 || self.within_line;
        let is_end = |entry: &Entry| !matches!(entry, Entry::Piece { last: false, .. });
        let mut at = match self.entries.iter().position(is_end) {
            Some(end) if begun => end + 1,
            None => self.entries.len(),
            Some(_) => 0,
        };
        while matches!(self.entries.get(at), Some(Entry::Handshake { .. })) {
            at += 1;
        }
        for (index, place) in places.into_iter().enumerate() {
            self.entries.insert(at + index, Entry::Request(place));
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
        self.within_line = matches!(entry, Entry::Piece { last: false, .. });
        Some(entry)
    }

    /// Removes everything; returns how much of the first entry was written.
    pub(super) fn take(&mut self) -> (VecDeque<Entry>, usize) {
        self.bytes = 0;
        self.within_line = false;
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
