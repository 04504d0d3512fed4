//! Bytes queued for one peer.

/// Bytes of capacity above which an emptied buffer is freed.
const KEEP: usize = 256 << 10;

/// Written bytes that stay in the buffer before the rest is moved to its front.
const COMPACT: usize = 1 << 20;

/// A queue of whole lines for one peer. The shell writes from its front.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    /// Offset of the first byte that is not written yet.
    head: usize,
    /// Bytes queued since the start.
    queued_total: u64,
    /// Whether the last write was incomplete.
    blocked: bool,
    /// Whether a part of the first line is written.
    torn: bool,
    /// Bytes of the longest line queued since the outbox was last empty.
    longest: usize,
}

impl Outbox {
    /// Returns the bytes to write next.
    pub fn pending(&self) -> &[u8] {
        &self.bytes[self.head..]
    }

    /// Returns how many bytes are queued.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.head
    }

    /// Returns whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Records that the peer accepted `n` bytes, and whether it could accept no more.
    ///
    /// # Panics
    /// If `n` is more than is queued.
    pub fn advance(&mut self, n: usize, blocked: bool) {
        assert!(n <= self.len(), "more bytes written than were queued");
        if n > 0 {
            self.torn = self.bytes[self.head + n - 1] != b'\n';
        }
        self.head += n;
        self.blocked = blocked;
        if self.head == self.bytes.len() {
            self.bytes.clear();
            self.head = 0;
            self.longest = 0;
            self.bytes.shrink_to(KEEP);
        } else if self.head >= COMPACT && self.head >= self.bytes.len() / 2 {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
    }

    /// Returns the rest of a partly written line, with its line feed; empty if there is none.
    pub fn rest_of_line(&self) -> &[u8] {
        let pending = self.pending();
        match memchr::memchr(b'\n', pending).filter(|_| self.torn) {
            Some(end) => &pending[..=end],
            None => &[],
        }
    }

    /// Returns whether the last write was incomplete.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Returns the bytes of the longest line queued since the outbox was last empty.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Returns how many bytes the peer has accepted since the start.
    pub fn written_total(&self) -> u64 {
        self.queued_total - self.len() as u64
    }

    /// Returns how many bytes were queued since the start: the offset of the next line.
    pub fn queued_total(&self) -> u64 {
        self.queued_total
    }

    /// Queues a line. Its line feed is added.
    #[inline]
    pub fn push(&mut self, line: &[u8]) {
        self.bytes.reserve(line.len() + 1);
        self.bytes.extend_from_slice(line);
        self.bytes.push(b'\n');
        self.longest = self.longest.max(line.len());
        self.queued_total += line.len() as u64 + 1;
    }

    /// Returns the line that was queued last, at `offset`. It must not have been written yet.
    pub(in crate::router) fn last_line(&self, offset: u64) -> &[u8] {
        let bytes = (self.queued_total - offset) as usize;
        &self.bytes[self.bytes.len() - bytes..self.bytes.len() - 1]
    }

    /// Queues the line that `write` appends. Its line feed is added.
    #[inline]
    pub fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.bytes.len();
        write(&mut self.bytes);
        self.bytes.push(b'\n');
        self.longest = self.longest.max(self.bytes.len() - before);
        self.queued_total += (self.bytes.len() - before) as u64;
    }

    /// Drops what is queued, for a peer that will not read it.
    pub fn clear(&mut self) {
        self.queued_total = self.written_total();
        self.bytes = Vec::new();
        self.head = 0;
        self.longest = 0;
        self.torn = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_bytes_leave_in_order_and_are_counted() {
        let mut outbox = Outbox::default();
        outbox.push(b"abc");
        outbox.push_with(|out| out.extend_from_slice(b"de"));
        assert_eq!(outbox.pending(), b"abc\nde\n");
        outbox.advance(5, true);
        assert_eq!((outbox.pending(), outbox.written_total(), outbox.is_blocked()), (&b"e\n"[..], 5, true));
        outbox.push(b"f");
        outbox.advance(4, false);
        assert!(outbox.is_empty() && !outbox.is_blocked());
        assert_eq!((outbox.written_total(), outbox.queued_total()), (9, 9));
    }

    #[test]
    fn the_rest_of_a_begun_line_is_known() {
        let mut outbox = Outbox::default();
        outbox.push(b"abc");
        outbox.push(b"de");
        assert_eq!(outbox.rest_of_line(), b"");
        outbox.advance(2, true);
        assert_eq!(outbox.rest_of_line(), b"c\n");
        outbox.advance(1, true);
        assert_eq!(outbox.rest_of_line(), b"\n");
        outbox.advance(1, true);
        assert_eq!(outbox.rest_of_line(), b"");
        outbox.advance(3, false);
        outbox.push(b"f");
        assert_eq!(outbox.rest_of_line(), b"");
    }

    #[test]
    fn a_long_queue_is_compacted_without_losing_a_byte() {
        let mut outbox = Outbox::default();
        let line: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
        outbox.push(&line);
        outbox.push(&line);
        outbox.advance(1_500_000, true);
        let mut whole = line.clone();
        whole.push(b'\n');
        whole.extend_from_slice(&line);
        whole.push(b'\n');
        assert_eq!(outbox.pending(), &whole[1_500_000..]);
        assert_eq!(outbox.written_total(), 1_500_000);
    }
}
