//! Whether a long line is text, checked in slices.

/// The check whether a line is UTF-8, of which a part is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextCheck {
    /// Bytes at the front of the line that are checked. They end between two characters.
    checked: usize,
    failed: bool,
}

impl TextCheck {
    /// Checks about `bytes` more bytes of `line`, which must be the same in each call. Returns whether the check is
    /// complete.
    pub fn advance(&mut self, line: &[u8], bytes: usize) -> bool {
        let rest = &line[self.checked..];
        // A character has at most four bytes (RFC 3629, section 3). The slice ends before the first byte of one.
        let mut end = bytes.max(4).min(rest.len());
        let mut back = 0;
        while back < 3 && end < rest.len() && is_continuation(rest[end]) {
            end -= 1;
            back += 1;
        }
        let slice = &rest[..end];
        self.failed |= !slice.is_ascii() && simdutf8::basic::from_utf8(slice).is_err();
        self.checked += end;
        self.failed || self.checked == line.len()
    }

    /// Checks a whole line.
    pub fn of(line: &[u8]) -> TextCheck {
        let mut check = TextCheck::default();
        while !check.advance(line, line.len()) {}
        check
    }

    /// Returns whether the check is complete and everything was UTF-8. Unspecified before it is complete.
    pub fn is_valid(&self) -> bool {
        !self.failed
    }
}

fn is_continuation(byte: u8) -> bool {
    byte & 0b1100_0000 == 0b1000_0000
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_valid(line: &[u8], bytes: usize) -> bool {
        let mut check = TextCheck::default();
        while !check.advance(line, bytes) {}
        check.is_valid()
    }

    proptest! {
        #[test]
        fn slices_have_the_verdict_of_the_whole(
            parts in prop::collection::vec(
                prop_oneof![
                    Just(&b"a"[..]), Just("\u{e4}".as_bytes()), Just("\u{20ac}".as_bytes()),
                    Just("\u{1f600}".as_bytes()), Just(&b"\xff"[..]), Just(&b"\x80"[..]), Just(&b"\xf0\x9f"[..]),
                ],
                0..20,
            ),
            bytes in 0..12usize,
        ) {
            let line = parts.concat();
            prop_assert_eq!(is_valid(&line, bytes), std::str::from_utf8(&line).is_ok());
        }

        #[test]
        fn text_is_valid_however_it_is_sliced(text in any::<String>(), bytes in 0..12usize) {
            prop_assert!(is_valid(text.as_bytes(), bytes));
        }
    }
}
