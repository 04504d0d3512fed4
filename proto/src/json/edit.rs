//! Copying a line with some spans replaced.

use super::Span;

/// Replacements in one line, ordered by offset.
#[derive(Debug, Default)]
pub struct Edits<'a> {
    list: Vec<(Span, Piece<'a>)>,
}

#[derive(Debug)]
enum Piece<'a> {
    Borrowed(&'a [u8]),
    Owned(Vec<u8>),
}

impl<'a> Edits<'a> {
    /// Creates an empty list.
    pub fn new() -> Edits<'a> {
        Edits::default()
    }

    /// Returns whether there is nothing to replace.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Replaces `span` with a borrowed `text`. An empty span inserts.
    pub fn replace(&mut self, span: Span, text: &'a [u8]) {
        self.put(span, Piece::Borrowed(text));
    }

    /// Replaces `span` with an owned `text`. An empty span inserts.
    pub fn replace_owned(&mut self, span: Span, text: Vec<u8>) {
        self.put(span, Piece::Owned(text));
    }

    fn put(&mut self, span: Span, piece: Piece<'a>) {
        let at = self.list.partition_point(|(s, _)| s.start <= span.start);
        self.list.insert(at, (span, piece));
    }

    /// Appends `line` with the replacements to `out`. All other bytes are copied unchanged.
    ///
    /// Of two spans that overlap, the one that starts later is ignored.
    pub fn write(&self, line: &[u8], out: &mut Vec<u8>) {
        let mut from = 0;
        for (span, piece) in &self.list {
            if span.start < from {
                continue;
            }
            out.extend_from_slice(&line[from..span.start]);
            out.extend_from_slice(match piece {
                Piece::Borrowed(text) => text,
                Piece::Owned(text) => text,
            });
            from = span.end;
        }
        out.extend_from_slice(&line[from..]);
    }
}

/// Appends `text` as a JSON string with its quotes.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    write_text(out, text.as_bytes());
}

/// Appends `text`, which is UTF-8, as a JSON string with its quotes.
pub fn write_text(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    for &byte in text {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

/// Returns the text of a JSON string given with its quotes; `None` if `json` is not a string.
pub fn read_string(json: &[u8]) -> Option<String> {
    serde_json::from_slice(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacements_apply_in_order_of_place() {
        let line = b"0123456789";
        let mut edits = Edits::new();
        edits.replace(Span { start: 7, end: 8 }, b"seven");
        edits.replace_owned(Span { start: 2, end: 4 }, b"x".to_vec());
        edits.replace(Span { start: 0, end: 0 }, b"<");
        let mut out = vec![];
        edits.write(line, &mut out);
        assert_eq!(out, b"<01x456seven89");
    }

    #[test]
    fn strings_survive_writing_and_reading() {
        let text = "quote \" back \\ line \n tab \t bell \u{7} end é 😀";
        let mut out = vec![];
        write_string(&mut out, text);
        assert_eq!(read_string(&out).as_deref(), Some(text));
    }
}
