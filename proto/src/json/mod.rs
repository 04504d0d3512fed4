//! JSON without a tree: finding spans in a line, checking a line, editing a line.
//!
//! * [`check`] is for what clients send: it accepts exactly what the upstream's parser accepts, so
//!   that nothing is forwarded that the upstream would drop without an answer.
//! * [`scan`] is for what has been checked or comes from the upstream: it finds members and skips
//!   over the rest.
//! * [`text`](mod@text) is what strings are compared by: their text, and not their spelling.
//! * [`edit`] writes a line again with some spans replaced, everything else byte for byte.

pub mod check;
pub mod edit;
pub mod scan;
pub mod text;

pub use text::{is_text, text};

/// A piece of a line: byte offsets, start inclusive, end exclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte.
    pub start: usize,
    /// Offset behind the last byte.
    pub end: usize,
}

impl Span {
    /// Returns the bytes of `line` in this span.
    ///
    /// # Panics
    /// If the span was not made from this line.
    pub fn of(self, line: &[u8]) -> &[u8] {
        &line[self.start..self.end]
    }

    /// Moves the span by `by` bytes, for a span found in a part that starts there.
    pub fn shifted(self, by: usize) -> Span {
        Span { start: self.start + by, end: self.end + by }
    }

    /// Returns the span without its first and last byte: what stands between quotes.
    pub fn inner(self) -> Span {
        Span { start: self.start + 1, end: self.end - 1 }
    }
}
