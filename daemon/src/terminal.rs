//! Errors, hints and notes for the person at the terminal, on stderr; and for the journal, where that is there.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use crate::error::Error;

/// Writes a line to stderr.
pub(crate) fn note(text: &str) {
    // One write, so that lines of several processes do not mix.
    let _ = std::io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}

/// Writes a line to stderr that the journal shows as an error.
pub(crate) fn note_failure(text: &str) {
    note(&format!("{}{text}", error_prefix()));
}

/// Writes an error and its hint to stderr.
pub(crate) fn note_error(error: &Error) {
    note_failure(&format!("codexd: {}", error.chain()));
    note_hint(error);
}

/// Writes the hint of an error to stderr, if it has one.
pub(crate) fn note_hint(error: &Error) {
    if let Some(hint) = error.next_step() {
        note_failure(&format!("hint: {hint}"));
    }
}

/// Returns the columns and lines of the terminal at stdout; `None` where it is none.
pub(crate) fn size() -> Option<(usize, usize)> {
    let (columns, lines) = terminal_size::terminal_size_of(std::io::stdout())?;
    Some((usize::from(columns.0), usize::from(lines.0)))
}

/// Whether the journal is at the other end of stderr: `JOURNAL_STREAM` names it by device and inode
/// (`systemd.exec(5)`). The variable alone proves nothing: it is inherited by programs whose stderr is another.
pub(crate) fn stderr_is_journal() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else { return false };
    let Ok(fd) = std::io::stderr().as_fd().try_clone_to_owned() else { return false };
    std::fs::File::from(fd)
        .metadata()
        .is_ok_and(|found| stream.to_str() == Some(&format!("{}:{}", found.dev(), found.ino())))
}

/// Returns what stderr is, as far as the system says (`proc_pid_fd(5)`), and whether that is a regular file.
pub(crate) fn stderr_target() -> Option<(PathBuf, bool)> {
    let path = std::fs::read_link("/proc/self/fd/2").ok()?;
    let is_file = std::fs::metadata(&path).is_ok_and(|metadata| metadata.is_file());
    Some((path, is_file))
}

/// Makes panics errors for the journal, too: each of their lines has a priority of its own.
pub(crate) fn report_panics() {
    if !stderr_is_journal() {
        return;
    }
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = Backtrace::capture();
        let mut text = format!("codexd: {panic}");
        if backtrace.status() == BacktraceStatus::Captured {
            text.push_str(&format!("\n{backtrace}"));
        }
        for line in text.lines() {
            note_failure(line);
        }
    }));
}

/// Returns what a line begins with that the journal is to show as an error (`sd-daemon(3)`).
fn error_prefix() -> &'static str {
    if stderr_is_journal() { "<3>" } else { "" }
}
