//! Bytes queued for one peer.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

/// Bytes of capacity above which an emptied buffer is freed.
const KEEP: usize = 256 << 10;

/// Written bytes that stay in the buffer before the rest is moved to its front.
const COMPACT: usize = 1 << 20;

/// Bytes of a line from which on an owned or shared one is not copied.
const LONG: usize = 256 << 10;

/// Bytes of a block from which on what lies in it is shared and not copied: a buffer is written by itself.
pub(super) const SHARED: usize = 4 << 10;

/// A queue of whole lines for one peer. The shell writes from its front.
///
/// # Lines for several peers
/// Lines that go to several peers at once lie in a block, which each of their outboxes refers to. The block grows until
/// somebody reads from an outbox. Then it is [taken out](Outbox::take_out): it becomes a buffer that the outboxes share,
/// or is copied if it is short.
///
/// # Invariants
/// Each buffer contains whole lines, except that the first one can begin inside a line. No buffer in `earlier` is empty.
/// What `in_block` refers to comes after all buffers; nothing is pushed behind it before it is taken out.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Buffers before `bytes`: each long line that was given away or is shared with other outboxes is one.
    earlier: VecDeque<Bytes>,
    /// The last buffer. Lines are copied to its end.
    bytes: Vec<u8>,
    /// Lines at the end of the queue that lie in the block.
    in_block: Range<usize>,
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
        debug_assert!(self.in_block.is_empty());
        self.bytes.reserve(line.len() + 1);
        self.bytes.extend_from_slice(line);
        self.bytes.push(b'\n');
        self.queued(line.len() + 1);
    }

    /// Queues the line that `write` appends. Its line feed is added.
    #[inline]
    pub fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        debug_assert!(self.in_block.is_empty());
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
        debug_assert!(self.in_block.is_empty());
        let bytes = buffer.len();
        if !self.bytes.is_empty() {
            self.earlier.push_back(std::mem::take(&mut self.bytes).into());
        }
        self.earlier.push_back(buffer);
        self.queued(bytes);
    }

    /// Queues a line that ends the block, with its line feed, and begins at `at`. Returns whether it is the only one in the
    /// block.
    #[inline]
    pub(in crate::router) fn push_in_block(&mut self, block: &[u8], at: usize) -> bool {
        if self.in_block.end != at {
            self.copy_out(block);
        }
        let first = self.in_block.is_empty();
        if first {
            self.in_block.start = at;
        }
        self.in_block.end = block.len();
        self.queued(block.len() - at);
        first
    }

    /// Copies the lines in the block, so that others can be queued behind them.
    #[inline]
    pub(in crate::router) fn copy_out(&mut self, block: &[u8]) {
        if !self.in_block.is_empty() {
            self.bytes.extend_from_slice(&block[self.in_block.clone()]);
            self.in_block = 0..0;
        }
    }

    /// Makes the lines in the block, which does not grow any more, a shared buffer. Few of them are copied: they are written
    /// together with others, and do not keep the block.
    pub(in crate::router) fn take_out(&mut self, block: &Bytes) {
        let range = self.in_block.clone();
        if range.len() < SHARED.max(block.len() / 4) {
            return self.copy_out(block);
        }
        self.in_block = 0..0;
        if !self.bytes.is_empty() {
            self.earlier.push_back(std::mem::take(&mut self.bytes).into());
        }
        self.earlier.push_back(block.slice(range));
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
        self.in_block = 0..0;
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
    fn lines_of_a_block_are_shared_if_they_are_many_and_keep_their_places() {
        let line = [&[b'x'; 999][..], b"\n"].concat();
        for (lines, shared) in [(1, false), (4, false), (5, true), (50, true)] {
            let mut outboxes = [Outbox::default(), Outbox::default()];
            // Something else is queued before, between and behind them for the first one.
            outboxes[0].push(b"before");
            let mut block = Vec::new();
            for n in 0..lines {
                let at = block.len();
                block.extend_from_slice(&line);
                assert_eq!(outboxes.each_mut().map(|o| o.push_in_block(&block, at)), [n == 0; 2]);
            }
            let block = Bytes::from(block);
            outboxes.iter_mut().for_each(|outbox| outbox.take_out(&block));
            outboxes[0].push(b"behind");
            let expected = [&[b"before\n", &*block, b"behind\n"].concat(), &block[..]];
            for (outbox, expected) in outboxes.iter_mut().zip(expected) {
                assert_eq!(outbox.len(), expected.len());
                let (mut got, mut places) = (Vec::new(), Vec::new());
                while !outbox.is_empty() {
                    places.push(outbox.pending().as_ptr());
                    got.extend_from_slice(outbox.pending());
                    outbox.advance(outbox.pending().len(), false);
                }
                assert_eq!(got, expected);
                assert_eq!(places.contains(&block.as_ptr()), shared, "{lines}");
            }
        }
    }

    #[test]
    fn what_comes_between_lines_of_a_block_is_queued_between_them() {
        let mut outbox = Outbox::default();
        assert!(outbox.push_in_block(b"ab\n", 0));
        outbox.copy_out(b"ab\n");
        outbox.push(b"c");
        assert!(outbox.push_in_block(b"ab\nd\n", 3));
        // One of another outbox lies between.
        assert!(outbox.push_in_block(b"ab\nd\nother\ne\n", 11));
        outbox.take_out(&Bytes::from_static(b"ab\nd\nother\ne\n"));
        assert_eq!((outbox.pending(), outbox.longest()), (&b"ab\nc\nd\ne\n"[..], 2));
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
