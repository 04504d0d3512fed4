//! Cutting a stream into lines that are whole, as long as they are of a sensible length.

use memchr::memchr;

/// Bytes of a line from the daemon up to which it is kept whole: more passes in pieces, so that memory stays bounded. Of
/// pieces, less is understood; and when the daemon is lost within one, the client has half a line.
pub(super) const FROM_DAEMON_BYTES: usize = 16 << 20;
/// The same for a line from the client: what the bridge adds to a request cannot be added to a piece of it.
pub(super) const FROM_CLIENT_BYTES: usize = 16 << 20;

/// A part of a stream; put together they are the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// A line with its line feed.
    Line(Vec<u8>),
    /// The beginning of a line that is longer than what is kept whole.
    Start(Vec<u8>),
    /// More of that line, up to and with its line feed.
    More(Vec<u8>),
}

/// The cutter.
#[derive(Debug)]
pub(super) struct Lines {
    partial: Vec<u8>,
    long: bool,
    whole_bytes: usize,
}

impl Lines {
    /// Makes a cutter that keeps lines of this length whole.
    pub(super) fn new(whole_bytes: usize) -> Lines {
        Lines { partial: Vec::new(), long: false, whole_bytes }
    }

    /// Takes the next piece from `chunk`, which is moved forward; `None` when it is used up.
    pub(super) fn next(&mut self, chunk: &mut &[u8]) -> Option<Piece> {
        if chunk.is_empty() {
            return None;
        }
        let end = memchr(b'\n', chunk).map(|at| at + 1);
        let (part, rest) = chunk.split_at(end.unwrap_or(chunk.len()));
        *chunk = rest;
        if self.long {
            self.long = end.is_none();
            return Some(Piece::More(part.to_vec()));
        }
        self.partial.extend_from_slice(part);
        if end.is_some() {
            return Some(Piece::Line(std::mem::take(&mut self.partial)));
        }
        if self.partial.len() <= self.whole_bytes {
            return None;
        }
        self.long = true;
        Some(Piece::Start(std::mem::take(&mut self.partial)))
    }

    /// Takes what is left at the end of the stream: a line without its line feed.
    pub(super) fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.partial)
    }

    /// Returns the bytes of the line that has begun.
    pub(super) fn partial_bytes(&self) -> usize {
        self.partial.len()
    }

    /// Returns whether a long line has begun and not ended.
    pub(super) fn is_inside_long_line(&self) -> bool {
        self.long
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE_BYTES: usize = 1 << 20;

    fn pieces(stream: &[u8], size: usize) -> (Vec<Piece>, Lines) {
        let mut lines = Lines::new(WHOLE_BYTES);
        let mut seen = Vec::new();
        for mut chunk in stream.chunks(size) {
            while let Some(piece) = lines.next(&mut chunk) {
                seen.push(piece);
            }
        }
        (seen, lines)
    }

    #[test]
    fn lines_are_whole_however_the_stream_is_cut() {
        for size in 1..10 {
            let (seen, mut lines) = pieces(b"a\n\nbcd\ne", size);
            assert_eq!(seen, [&b"a\n"[..], b"\n", b"bcd\n"].map(|line| Piece::Line(line.to_vec())), "{size}");
            assert_eq!(lines.rest(), b"e");
        }
    }

    #[test]
    fn a_long_line_passes_in_pieces_and_the_next_is_whole_again() {
        let mut stream = vec![b'x'; 3 * WHOLE_BYTES];
        stream.extend_from_slice(b"\nnext\n");
        let (seen, lines) = pieces(&stream, 60_000);
        assert!(!lines.is_inside_long_line());
        assert!(matches!(&seen[0], Piece::Start(start) if start.len() > WHOLE_BYTES));
        assert_eq!(seen.last(), Some(&Piece::Line(b"next\n".to_vec())));
        let total: Vec<u8> = seen
            .into_iter()
            .flat_map(|piece| match piece {
                Piece::Line(bytes) | Piece::Start(bytes) | Piece::More(bytes) => bytes,
            })
            .collect();
        assert_eq!(total, stream);
    }
}
