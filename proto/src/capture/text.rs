//! Texts of a message, decoded.

use crate::json::scan::{member, member_at};

/// Returns the text at the end of a path of members below the object at `at`; `None` if it is no string.
pub(super) fn text_at(line: &[u8], at: usize, path: &[&str]) -> Option<String> {
    serde_json::from_slice(member_at(line, at, path)?.of(line)).ok()
}

/// Returns whether a member of the object at `at` is this JSON text.
pub(super) fn is(line: &[u8], at: usize, name: &[u8], json: &[u8]) -> bool {
    member(line, at, name).is_some_and(|value| value.of(line) == json)
}
