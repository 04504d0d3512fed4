//! The last message to a client when codexd closes its connection.

use super::{CloseReason, Router};
use crate::id::{ClientId, write_u64};
use crate::json::edit::write_string;

/// Name of the notification that ends a connection.
pub const CLOSING: &[u8] = b"notifications/broker/closing";

/// Bytes left of a partly written line above which no notice is sent after it.
const MAX_REST_BYTES: usize = 1 << 20;

impl CloseReason {
    /// Returns the reason as a stable word for programs.
    pub const fn word(self) -> &'static str {
        match self {
            CloseReason::TooSlow => "tooSlow",
            CloseReason::Detached => "detached",
            CloseReason::TooEarly => "tooEarly",
            CloseReason::Killed => "killed",
        }
    }

    /// Returns the reason as a text for people. `queued_bytes` are queued for the client.
    pub fn describe(self, queued_bytes: usize) -> String {
        match self {
            CloseReason::TooSlow => {
                format!("too slow: {queued_bytes} bytes wait and are not read fast enough")
            }
            CloseReason::Detached => "detached as you asked".to_owned(),
            CloseReason::TooEarly => "too much was sent before codex app-server was ready".to_owned(),
            CloseReason::Killed => "disconnected by `codexd ctl kill`".to_owned(),
        }
    }
}

impl Router {
    /// Returns how many bytes are queued for a client.
    pub fn queued_bytes(&self, client: ClientId) -> usize {
        self.delivery.waiting_bytes(client)
    }

    /// Returns the name in a client's `initialize`.
    pub fn client_name(&self, client: ClientId) -> Option<&str> {
        self.sessions.get(client)?.declared().map(|declared| declared.name.as_str())
    }

    /// Returns the last bytes of a connection that speaks lines and is closed for `reason`: the rest of a partly
    /// written line, and the notice. Everything else that is queued is dropped.
    ///
    /// Returns nothing if the client opted out of the notice or requested the end itself, or if the rest of the line is
    /// longer than 1 MiB.
    pub fn last_lines(&mut self, client: ClientId, reason: CloseReason) -> Vec<u8> {
        let queued_bytes = self.queued_bytes(client);
        let silent = reason == CloseReason::Detached || self.delivery.opted_out(client, CLOSING);
        let rest = self.outbox(client).map_or(&[][..], |outbox| outbox.rest_of_line());
        if silent || rest.len() > MAX_REST_BYTES {
            return Vec::new();
        }
        let mut out = rest.to_vec();
        out.extend_from_slice(b"{\"method\":\"");
        out.extend_from_slice(CLOSING);
        out.extend_from_slice(b"\",\"params\":{\"reason\":");
        write_string(&mut out, reason.word());
        out.extend_from_slice(b",\"message\":");
        write_string(&mut out, &reason.describe(queued_bytes));
        out.extend_from_slice(b",\"queuedBytes\":");
        write_u64(&mut out, queued_bytes as u64);
        out.extend_from_slice(b",\"generation\":");
        write_u64(&mut out, self.config.identity.generation);
        out.extend_from_slice(b"}}\n");
        out
    }
}
