//! Puts programs in their places, as installers do: whole, and in the place of what was there.
//!
//! Another process writes them. A program cannot be run while a process has it open for writing (`ETXTBSY`, `execve(2)`),
//! and a child that another thread of the tests forks has it open until it runs its own program.

use std::path::Path;
use std::process::Command;

use crate::output::Output;

/// Writes a program.
///
/// # Panics
///
/// When that is not possible.
#[track_caller]
pub fn write(path: &Path, text: &str) {
    let mut shell = Command::new("sh");
    shell.args(["-c", "cat > \"$0.new\" && chmod 755 \"$0.new\" && mv \"$0.new\" \"$0\""]).arg(path);
    let _ = Output::with_input(&mut shell, text.as_bytes()).expect_code(0);
}

/// Copies a program.
///
/// # Panics
///
/// When that is not possible.
#[track_caller]
pub fn copy(from: &Path, to: &Path) {
    let mut shell = Command::new("sh");
    shell.args(["-c", "cp \"$0\" \"$1.new\" && mv \"$1.new\" \"$1\""]).arg(from).arg(to);
    let _ = Output::of(&mut shell).expect_code(0);
}
