//! The error responses of codexd itself.

use crate::id::{RequestId, write_i64, write_u64};
use crate::json::edit::write_string;

/// JSON-RPC: the line is not JSON.
pub const PARSE_ERROR: i64 = -32700;
/// JSON-RPC: the line is not a request. The upstream uses this code for nearly all of its refusals.
pub const INVALID_REQUEST: i64 = -32600;
/// Overloaded or draining. The upstream uses the same code.
pub const OVERLOADED: i64 = -32001;
/// The upstream was lost before it answered.
pub const UPSTREAM_LOST: i64 = -32010;

/// Whether a request reached the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// No byte of it was written.
    No,
    /// Some bytes of it were written, so it may have been carried out.
    Maybe,
}

impl Delivered {
    const fn word(self) -> &'static str {
        match self {
            Delivered::No => "no",
            Delivered::Maybe => "maybe",
        }
    }
}

/// One error response.
#[derive(Clone, Debug)]
pub struct ErrorAnswer<'a> {
    /// Error code.
    pub code: i64,
    /// For people.
    pub message: &'a str,
    /// For programs: a stable word.
    pub reason: &'a str,
    /// Whether the request may have been carried out.
    pub delivered: Delivered,
    /// Whether the same request can succeed later.
    pub retryable: bool,
}

impl ErrorAnswer<'_> {
    /// Appends the response to the request `id`. `None` writes a null id.
    pub fn write(&self, out: &mut Vec<u8>, id: Option<&RequestId>, generation: u64) {
        open(out, id, self.code, self.message);
        out.extend_from_slice(b",\"data\":{\"codexd\":{\"reason\":");
        write_string(out, self.reason);
        out.extend_from_slice(b",\"delivered\":\"");
        out.extend_from_slice(self.delivered.word().as_bytes());
        out.extend_from_slice(b"\",\"retryable\":");
        out.extend_from_slice(if self.retryable { b"true" } else { b"false" });
        out.extend_from_slice(b",\"generation\":");
        write_u64(out, generation);
        out.extend_from_slice(b"}}}}");
    }
}

/// Appends an error response that looks like one of the upstream, without codexd's `data`.
pub(super) fn write_native(out: &mut Vec<u8>, id: &RequestId, message: &str) {
    open(out, Some(id), INVALID_REQUEST, message);
    out.extend_from_slice(b"}}");
}

fn open(out: &mut Vec<u8>, id: Option<&RequestId>, code: i64, message: &str) {
    out.extend_from_slice(b"{\"id\":");
    match id {
        Some(id) => id.write(out),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"error\":{\"code\":");
    write_i64(out, code);
    out.extend_from_slice(b",\"message\":");
    write_string(out, message);
}
