//! The shutdown notice: all clients get it when the daemon stops serving.

use crate::id::write_u64;
use crate::json::edit::write_string;

/// The contents of the shutdown notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownNotice<'a> {
    /// Why, as a stable word or a sentence.
    pub reason: &'a str,
    /// Milliseconds until running turns are interrupted: 0 if nothing runs any more, `None` without a deadline.
    pub deadline_ms: Option<u64>,
    /// Milliseconds after which a client can connect again; `None` if nothing starts codexd again.
    pub retry_after_ms: Option<u64>,
    /// Whether somebody asked for the end: then a client has no reason to start codexd again at once. False for an
    /// upgrade, after which the next daemon follows at once.
    pub intended: bool,
}

impl ShutdownNotice<'_> {
    /// Name of the notification.
    pub const METHOD: &'static [u8] = b"notifications/broker/shuttingDown";

    /// Appends the notification, without a line feed.
    pub(super) fn write(&self, out: &mut Vec<u8>, generation: u64) {
        out.extend_from_slice(b"{\"method\":\"");
        out.extend_from_slice(Self::METHOD);
        out.extend_from_slice(b"\",\"params\":{\"reason\":");
        write_string(out, self.reason);
        out.extend_from_slice(b",\"deadlineMs\":");
        write_optional(out, self.deadline_ms);
        out.extend_from_slice(b",\"retryAfterMs\":");
        write_optional(out, self.retry_after_ms);
        out.extend_from_slice(b",\"intended\":");
        out.extend_from_slice(if self.intended { b"true" } else { b"false" });
        out.extend_from_slice(b",\"generation\":");
        write_u64(out, generation);
        out.extend_from_slice(b"}}");
    }
}

fn write_optional(out: &mut Vec<u8>, number: Option<u64>) {
    match number {
        Some(number) => write_u64(out, number),
        None => out.extend_from_slice(b"null"),
    }
}
