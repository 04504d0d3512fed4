//! Bytes to lines, with a limit.

use memchr::memchr;

/// Capacity above which an emptied buffer is given back, in bytes.
const KEEP: usize = 256 << 10;

/// Cuts a stream of bytes into lines.
///
/// A line that lies within one chunk is not copied. A line longer than the limit is skipped up to
/// its end and reported once, so that the stream stays usable.
#[derive(Debug)]
pub struct LineDecoder {
    partial: Vec<u8>,
    /// `partial` holds a line that was handed out and is to be forgotten.
    handed_out: bool,
    skipping: bool,
    limit: usize,
    /// Bytes above which a line is given away.
    long: usize,
}

/// What the decoder found.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A line without its line feed (a carriage return before it is kept).
    Line(&'a [u8]),
    /// A long one that lay in several chunks; see [`LineDecoder::giving_away`].
    Long(Vec<u8>),
    /// A line above the limit begins; nothing of it is kept.
    TooLong,
}

impl LineDecoder {
    /// Creates a decoder that refuses lines of more than `limit` bytes.
    pub fn new(limit: usize) -> LineDecoder {
        LineDecoder { partial: Vec::new(), handed_out: false, skipping: false, limit, long: usize::MAX }
    }

    /// Gives lines of more than `long` bytes that lie in several chunks away, as [`Frame::Long`]: they need not be
    /// copied by one who keeps them.
    pub fn giving_away(self, long: usize) -> LineDecoder {
        LineDecoder { long, ..self }
    }

    /// Takes the next frame from `chunk`, which is moved forward; `None` when it is used up.
    ///
    /// Call it until it returns `None`: what is left of a line is kept for the next chunk.
    #[inline]
    pub fn decode<'s, 'c: 's>(&'s mut self, chunk: &mut &'c [u8]) -> Option<Frame<'s>> {
        if self.handed_out {
            self.handed_out = false;
            self.partial.clear();
            self.partial.shrink_to(KEEP);
        }
        loop {
            let Some(end) = memchr(b'\n', chunk) else {
                let rest = core::mem::take(chunk);
                if self.skipping || rest.is_empty() {
                    return None;
                }
                if self.partial.len() + rest.len() > self.limit {
                    self.partial = Vec::new();
                    self.skipping = true;
                    return Some(Frame::TooLong);
                }
                self.partial.extend_from_slice(rest);
                return None;
            };
            let line = &chunk[..end];
            *chunk = &chunk[end + 1..];
            if self.skipping {
                self.skipping = false;
                continue;
            }
            if self.partial.len() + line.len() > self.limit {
                self.partial = Vec::new();
                return Some(Frame::TooLong);
            }
            if self.partial.is_empty() {
                return Some(Frame::Line(line));
            }
            self.partial.extend_from_slice(line);
            if self.partial.len() > self.long {
                return Some(Frame::Long(core::mem::take(&mut self.partial)));
            }
            self.handed_out = true;
            return Some(Frame::Line(&self.partial));
        }
    }

    /// Returns whether the stream ends inside a line.
    pub fn is_torn(&self) -> bool {
        !self.handed_out && (!self.partial.is_empty() || self.skipping)
    }

    /// Returns the bytes kept of an unfinished line.
    pub fn buffered(&self) -> usize {
        self.partial.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All frames of `stream`, cut into chunks of `size`.
    fn frames(stream: &[u8], size: usize, limit: usize) -> (Vec<Option<Vec<u8>>>, bool) {
        let mut decoder = LineDecoder::new(limit);
        let mut seen = vec![];
        for mut chunk in stream.chunks(size) {
            while let Some(frame) = decoder.decode(&mut chunk) {
                seen.push(match frame {
                    Frame::Line(line) => Some(line.to_vec()),
                    Frame::TooLong | Frame::Long(_) => None,
                });
            }
        }
        (seen, decoder.is_torn())
    }

    #[test]
    fn lines_are_the_same_however_the_stream_is_cut() {
        let stream = b"one\n\ntwo two\r\nthirteen bytes\nthree\n";
        let expected: Vec<_> =
            [&b"one"[..], b"", b"two two\r", b"thirteen bytes", b"three"].map(|l| Some(l.to_vec())).into();
        for size in 1..=stream.len() {
            assert_eq!(frames(stream, size, 100), (expected.clone(), false), "{size}");
        }
    }

    #[test]
    fn a_line_above_the_limit_is_reported_once_and_skipped() {
        let stream = b"ok\n0123456789\nok again\n";
        for size in 1..=stream.len() {
            let (seen, torn) = frames(stream, size, 9);
            assert_eq!(seen, [Some(b"ok".to_vec()), None, Some(b"ok again".to_vec())], "{size}");
            assert!(!torn);
        }
        assert_eq!(frames(b"123456789\n", 3, 9).0, [Some(b"123456789".to_vec())]);
    }

    #[test]
    fn a_long_line_of_several_chunks_is_given_away() {
        let mut decoder = LineDecoder::new(100).giving_away(8);
        let mut chunk = &b"in one piece\nin pie"[..];
        assert_eq!(decoder.decode(&mut chunk), Some(Frame::Line(b"in one piece")));
        assert_eq!(decoder.decode(&mut chunk), None);
        let mut chunk = &b"ces\nin p"[..];
        assert_eq!(decoder.decode(&mut chunk), Some(Frame::Long(b"in pieces".to_vec())));
        assert!(!decoder.is_torn());
        assert_eq!(decoder.decode(&mut chunk), None);
        assert!(decoder.is_torn());
        assert_eq!(decoder.decode(&mut &b"arts\n"[..]), Some(Frame::Line(b"in parts")));
    }

    #[test]
    fn an_end_inside_a_line_is_told_from_a_clean_one() {
        assert!(frames(b"a\nb", 2, 100).1);
        assert!(frames(b"0123456789", 2, 4).1);
        assert!(!frames(b"a\n", 1, 100).1);
        assert!(!frames(b"", 1, 100).1);
    }
}
