//! Bytes queued for one peer.

use std::collections::VecDeque;

use bytes::Bytes;

/// Bytes of capacity above which an emptied buffer is freed.
const KEEP: usize = 256 << 10;

/// Written bytes that stay in the buffer before the rest is moved to its front.
const COMPACT: usize = 1 << 20;

/// Bytes of a line from which on an owned or shared one is not copied.
pub(super) const LONG: usize = 256 << 10;

/// A queue of whole lines for one peer. The shell writes from its front.
///
/// # Invariants
/// Each buffer contains whole lines, except that the first one can begin inside a line. No buffer in `earlier` is empty.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Buffers before `bytes`: each long line that was given away or is shared with other outboxes is one.
    earlier: VecDeque<Bytes>,
    /// The last buffer. Lines are copied to its end.
    bytes: Vec<u8>,
    /// Offset in the first buffer of the first byte that is not written yet.
    head: usize,
    /// Bytes that are queued.
    len: usize,
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
    /// Returns the bytes to write next: not always all that are queued, and empty only if nothing is.
    pub fn pending(&self) -> &[u8] {
        &self.first()[self.head..]
    }

    fn first(&self) -> &[u8] {
        self.earlier.front().map_or(&self.bytes, |first| first)
    }

    /// Returns how many bytes are queued.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Records that the peer accepted `n` bytes, and whether it could accept no more.
    ///
    /// # Panics
    /// If `n` is more than is queued.
    pub fn advance(&mut self, n: usize, blocked: bool) {
        assert!(n <= self.len, "more bytes written than were queued");
        self.blocked = blocked;
        self.len -= n;
        let mut left = n;
        while let Some(first) = self.earlier.front() {
            let rest = first.len() - self.head;
            if left < rest {
                break;
            }
            self.earlier.pop_front();
            self.head = 0;
            self.torn = false;
            left -= rest;
        }
        self.head += left;
        if left > 0 {
            self.torn = self.first()[self.head - 1] != b'\n';
        }
        if self.len == 0 {
            self.bytes.clear();
            self.head = 0;
            self.longest = 0;
            self.bytes.shrink_to(KEEP);
        } else if self.earlier.is_empty() && self.head >= COMPACT && self.head >= self.bytes.len() / 2 {
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
        self.queued_total - self.len as u64
    }

    /// Returns how many bytes were queued since the start: the offset of the next line.
    pub fn queued_total(&self) -> u64 {
        self.queued_total
    }

    /// Queues a copy of a line. Its line feed is added.
    #[inline]
    pub fn push(&mut self, line: &[u8]) {
        self.bytes.reserve(line.len() + 1);
        self.bytes.extend_from_slice(line);
        self.bytes.push(b'\n');
        self.queued(line.len() + 1);
    }

    /// Queues the line that `write` appends. Its line feed is added.
    #[inline]
    pub fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.bytes.len();
        write(&mut self.bytes);
        self.bytes.push(b'\n');
        self.queued(self.bytes.len() - before);
    }

    /// Queues a line without copying it if it is long or nothing else is queued. Its line feed is added.
    pub(in crate::router) fn push_owned(&mut self, mut line: Vec<u8>) {
        if line.len() < LONG && !self.is_empty() {
            return self.push(&line);
        }
        line.reserve_exact(1);
        line.push(b'\n');
        self.push_buffer(line.into());
    }

    /// Queues a line without copying it if it is long. It ends with its line feed.
    pub(in crate::router) fn push_shared(&mut self, line: &Bytes) {
        if line.len() <= LONG {
            return self.push(&line[..line.len() - 1]);
        }
        self.push_buffer(line.clone());
    }

    fn push_buffer(&mut self, buffer: Bytes) {
        let bytes = buffer.len();
        if !self.bytes.is_empty() {
            self.earlier.push_back(std::mem::take(&mut self.bytes).into());
        }
        self.earlier.push_back(buffer);
        self.queued(bytes);
    }

    #[inline]
    fn queued(&mut self, bytes: usize) {
        self.longest = self.longest.max(bytes - 1);
        self.queued_total += bytes as u64;
        self.len += bytes;
    }

    /// Returns the line that was queued last, at `offset`. It must not have been written yet.
    pub(in crate::router) fn last_line(&self, offset: u64) -> &[u8] {
        let bytes = (self.queued_total - offset) as usize;
        let last = if self.bytes.is_empty() { self.earlier.back() } else { None };
        let last = last.map_or(&*self.bytes, |last| last);
        &last[last.len() - bytes..last.len() - 1]
    }

    /// Drops what is queued, for a peer that will not read it.
    pub fn clear(&mut self) {
        self.queued_total = self.written_total();
        self.earlier.clear();
        self.bytes = Vec::new();
        self.len = 0;
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

    #[test]
    fn a_long_line_that_is_given_away_is_not_copied_and_keeps_its_place() {
        let long: Vec<u8> = vec![b'x'; LONG];
        for waits in [&[][..], &[&b"abc"[..]], &[b"abc", b"de"]] {
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            for line in waits {
                outbox.push(line);
                expected.extend_from_slice(&[line, &b"\n"[..]].concat());
            }
            let mut places = Vec::new();
            for after in [b"f", b"g"] {
                let mut line = Vec::with_capacity(LONG + 1);
                line.extend_from_slice(&long);
                places.push(line.as_ptr());
                let offset = outbox.queued_total();
                outbox.push_owned(line);
                assert_eq!(outbox.last_line(offset).as_ptr(), *places.last().unwrap());
                let offset = outbox.queued_total();
                outbox.push_owned(after.to_vec());
                assert_eq!(outbox.last_line(offset), after);
                expected.extend_from_slice(&[&long[..], b"\n", after, b"\n"].concat());
            }
            assert_eq!((outbox.len(), outbox.queued_total()), (expected.len(), expected.len() as u64));
            assert_eq!(outbox.longest(), LONG);
            let mut written = Vec::new();
            for step in [1, 2, 3, LONG / 2, usize::MAX, usize::MAX, 1, usize::MAX, usize::MAX, usize::MAX] {
                let pending = outbox.pending();
                let n = pending.len().min(step);
                places.retain(|place| *place != pending.as_ptr());
                written.extend_from_slice(&pending[..n]);
                outbox.advance(n, true);
                let begun = written.rsplit(|byte| *byte == b'\n').next().unwrap().len();
                let line = expected[written.len() - begun..].split_inclusive(|byte| *byte == b'\n').next();
                let rest = line.map_or(&[][..], |line| &line[begun..]);
                assert_eq!(outbox.rest_of_line(), if begun > 0 { rest } else { &[] });
            }
            assert_eq!(written, expected);
            assert!(outbox.is_empty() && outbox.pending().is_empty());
            assert_eq!(places, [] as [*const u8; 0], "a long line was copied");
        }
        let mut outbox = Outbox::default();
        outbox.push(b"abc");
        outbox.push_owned(long.clone());
        outbox.push(b"de");
        // Any number of bytes can be recorded at once.
        outbox.advance(4 + LONG + 1 + 1, true);
        assert_eq!((outbox.pending(), outbox.rest_of_line()), (&b"e\n"[..], &b"e\n"[..]));
        outbox.push_owned(long);
        outbox.clear();
        assert!(outbox.is_empty() && outbox.pending().is_empty());
        outbox.push(b"f");
        assert_eq!((outbox.pending(), outbox.longest()), (&b"f\n"[..], 1));
    }
}
