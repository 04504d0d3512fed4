//! Decoded texts of a message.

use std::borrow::Cow;

use crate::json::scan::{member, member_at};
use crate::json::{is_text, text};

/// Returns the text at the end of a path of member names from the object at `at`; `None` if it is not a string.
pub(super) fn text_at(line: &[u8], at: usize, path: &[&str]) -> Option<String> {
    serde_json::from_slice(member_at(line, at, path)?.of(line)).ok()
}

/// Returns whether a member of the object at `at` is a string with this text.
pub(super) fn is(line: &[u8], at: usize, name: &[u8], word: &[u8]) -> bool {
    member(line, at, name).is_some_and(|value| is_text(line, value, word))
}

/// Returns whether a member of the object at `at` is true.
pub(super) fn is_true(line: &[u8], at: usize, name: &[u8]) -> bool {
    member(line, at, name).is_some_and(|value| value.of(line) == b"true")
}

/// Returns the text of a member of the object at `at`.
pub(super) fn text_of<'a>(line: &'a [u8], at: usize, name: &[u8]) -> Option<Cow<'a, [u8]>> {
    text(line, member(line, at, name)?)
}
