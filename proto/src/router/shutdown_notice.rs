//! The shutdown notice that all clients get when the daemon stops serving.

use crate::id::write_u64;
use crate::json::edit::write_string;

/// What the shutdown notice says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownNotice<'a> {
    /// A stable word or sentence.
    pub reason: &'a str,
    /// Milliseconds until running turns are interrupted: 0 when nothing runs any more, absent when
    /// they may take as long as they want.
    pub deadline_ms: Option<u64>,
    /// Milliseconds after which a new connection may be tried; absent when nobody will start codexd
    /// again by itself.
    pub retry_after_ms: Option<u64>,
    /// Whether somebody asked for the end: then a client has no reason to start codexd again at once.
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
