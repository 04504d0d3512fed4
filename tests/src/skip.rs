//! Tests that need what is not on every machine: such a test is skipped with a message that has its name.

use std::io::{self, Write as _};

/// Returns what a test needs; `None` when it is missing here, with a message that has the reason: the test is to
/// return.
///
/// # Panics
///
/// With the reason when `CI` is set: there, everything must be present.
pub fn unless_found<T>(found: Result<T, String>) -> Option<T> {
    match found {
        Ok(it) => Some(it),
        Err(reason) if std::env::var_os("CI").is_some() => panic!("{reason}"),
        Err(reason) => {
            say(&reason);
            None
        }
    }
}

/// Says that the running test is skipped, with its name and the reason.
pub fn say(reason: &str) {
    let line = format!("skipped: {}: {}\n", test_name(), reason.trim());
    // Past libtest's capture: a skipped test passes, and captured lines would be lost.
    let _ = io::stderr().write_all(line.as_bytes());
}

/// libtest names the thread of a test after it, unless it runs on the main thread: then it is the only one of its
/// process (`--exact NAME`, as nextest starts it), or one of several and its name is not to be had.
fn test_name() -> String {
    let thread = std::thread::current();
    match thread.name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => std::env::args()
            .skip_while(|argument| argument != "--exact")
            .find(|argument| !argument.starts_with('-'))
            .unwrap_or_else(|| "a test".to_owned()),
    }
}
