//! JSON without a tree: finding spans in a line, checking a line, editing a line.
//!
//! * [`check`] is for lines from clients. It accepts exactly what the upstream's parser accepts, so that nothing is
//!   forwarded that the upstream would drop without an answer.
//! * [`scan`] is for lines that are checked or come from the upstream. It finds members and skips the rest.
//! * [`text`](mod@text) compares strings by their text, not by their spelling.
//! * [`text_check`] checks whether a long line is UTF-8, in slices.
//! * [`edit`] copies a line with some spans replaced, and everything else unchanged.

pub mod check;
pub mod edit;
pub mod scan;
pub mod text;
pub mod text_check;

pub use text::{is_text, text};

/// A part of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte.
    pub start: usize,
    /// Offset after the last byte.
    pub end: usize,
}

impl Span {
    /// Returns the bytes of `line` in this span.
    ///
    /// # Panics
    /// If the span was made from a longer line.
    pub fn of(self, line: &[u8]) -> &[u8] {
        &line[self.start..self.end]
    }

    /// Moves the span by `by` bytes. For a span that was found in a part of a line which starts there.
    pub fn shifted(self, by: usize) -> Span {
        Span { start: self.start + by, end: self.end + by }
    }

    /// Returns the span without its first and last byte: the inside of a string.
    pub fn inner(self) -> Span {
        Span { start: self.start + 1, end: self.end - 1 }
    }
}
