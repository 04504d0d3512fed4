//! What the router asks for beyond the bytes in its outboxes.

use crate::id::{ClientId, ThreadId};
use crate::thread_book::Permissions;

/// Something to be done by whoever drives the router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Close this connection, then report [`Router::client_gone`](super::Router::client_gone).
    Close {
        /// The client.
        client: ClientId,
        /// Why.
        reason: CloseReason,
    },
    /// The upstream answered the handshake: clients are served from now on.
    UpstreamReady,
    /// The upstream answered the handshake with an error.
    UpstreamRefused {
        /// The error's text.
        message: String,
    },
    /// The upstream answered a health check.
    PingAnswered,
    /// A client asked for the daemon to stop, and the settings allow it.
    ShutdownRequested {
        /// The client.
        client: ClientId,
    },
    /// The upstream wrote something that is no message: its stream cannot be trusted any more.
    UpstreamMalformed,
    /// The permissions of a thread have changed, to be remembered for the next codex; `None` if it was deleted.
    Remember {
        /// The thread.
        thread: ThreadId,
        /// Its permissions.
        permissions: Option<Permissions>,
    },
    /// A thread does not have the permissions that it had in an earlier codex: work on it is refused.
    PermissionsNotRestored {
        /// The thread.
        thread: ThreadId,
        /// Why.
        reason: String,
    },
}

/// Why codexd closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// It does not read: too many bytes wait for it. What waits is dropped with the connection.
    TooSlow,
    /// It asked for it; what waits is written first.
    Detached,
    /// It sent too much before the upstream was ready. What waits is written first.
    TooEarly,
    /// An operator wants it. What waits is dropped with the connection.
    Killed,
}

impl CloseReason {
    /// Whether what waits for the client is to be written before.
    pub const fn flushes(self) -> bool {
        !matches!(self, CloseReason::TooSlow | CloseReason::Killed)
    }
}
