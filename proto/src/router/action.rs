//! What the router asks its driver to do, besides writing the bytes in its outboxes.

use crate::id::{ClientId, ThreadId};
use crate::thread_book::Permissions;

/// Something that the driver of the router is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Close this connection, then call [`Router::client_gone`](super::Router::client_gone).
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
    /// A client requested the end of the daemon, and the settings allow it.
    ShutdownRequested {
        /// The client.
        client: ClientId,
    },
    /// The upstream wrote a line that is not a message. Its stream cannot be trusted any more.
    UpstreamMalformed,
    /// The permissions of a thread have changed and are to be remembered for the next codex; `None` if it was deleted.
    Remember {
        /// The thread.
        thread: ThreadId,
        /// Its permissions.
        permissions: Option<Permissions>,
    },
    /// The permissions that a thread had in an earlier codex could not be restored. Work on the thread is refused.
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
    /// It does not read, and too many bytes are queued for it. They are dropped.
    TooSlow,
    /// It requested the end itself. What is queued for it is written first.
    Detached,
    /// It sent too much before the upstream was ready. What is queued for it is written first.
    TooEarly,
    /// An operator requested it. What is queued for the client is dropped.
    Killed,
}

impl CloseReason {
    /// Returns whether what is queued for the client is written before the end.
    pub const fn flushes(self) -> bool {
        !matches!(self, CloseReason::TooSlow | CloseReason::Killed)
    }
}
