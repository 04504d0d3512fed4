//! Errors, hints and notes for the person at the terminal, on stderr.

use std::io::Write as _;

use crate::error::Error;

/// Writes a line to stderr.
pub(crate) fn note(text: &str) {
    // One write, so that lines of several processes do not mix.
    let _ = std::io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}

/// Writes an error and its hint to stderr.
pub(crate) fn note_error(error: &Error) {
    note(&format!("codexd: {}", error.chain()));
    if let Some(hint) = error.next_step() {
        note(&format!("hint: {hint}"));
    }
}
