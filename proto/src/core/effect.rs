//! What the shell is to do.

use super::UpgradeOutcome;
use crate::id::{ClientId, ThreadId};
use crate::lifecycle::State;
use crate::router::CloseReason;
use crate::thread_book::Entry;

/// One thing that the shell is to do. [`Core::poll_effect`](super::Core::poll_effect) returns them in order.
///
/// Writing is not among them: [`Core::poll_dirty`](super::Core::poll_dirty) names the clients whose outbox has new
/// bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Log that the daemon's state has changed, publish the status, notify the supervisor.
    StateChanged {
        /// The state before.
        from: State,
        /// The state now.
        to: State,
    },
    /// Notify the supervisor, and the process that waits for the startup status, that clients are served.
    NotifyReady,
    /// Notify the supervisor that the daemon is stopping.
    NotifyStopping,
    /// Accept no more clients, and remove the socket file.
    StopListening,
    /// Read what clients have sent and the last lines of the upstream's stderr, without waiting for more, and
    /// report both before the next effect.
    FinalRead,
    /// Close a connection as its framing requires: a WebSocket gets a close frame.
    CloseClient {
        /// The client.
        client: ClientId,
        /// Why; `None` because it was half-closed and has its pending replies.
        reason: Option<CloseReason>,
    },
    /// Close a connection at once.
    DropClient {
        /// The client.
        client: ClientId,
    },
    /// Answer an HTTP request whose head was not complete in time.
    TimeOutRequest {
        /// The client.
        client: ClientId,
    },
    /// Report [`Event::ClientDisconnected`](super::Event::ClientDisconnected) if the peer of this half-closed
    /// connection does not read any more. The system reports the end of a connection's input only once.
    CheckConnection {
        /// The client.
        client: ClientId,
    },
    /// Report [`Event::SocketLost`](super::Event::SocketLost) if the file at the socket's path is not the daemon's
    /// any more.
    CheckSocket,
    /// Close all connections. A WebSocket gets the reason if its socket accepts the frame at once.
    CloseAll,
    /// Close the upstream's input.
    CloseInput,
    /// Send SIGTERM to the upstream.
    Terminate,
    /// Send SIGKILL to the upstream's process group.
    Kill,
    /// End leftover processes of the upstream.
    Sweep,
    /// Record the permissions of a thread for later daemons.
    Remember(Entry),
    /// Report to the process that asked for the upgrade how its wait has ended.
    UpgradeWaitEnded(UpgradeOutcome),
    /// Log a fact. Nothing else is to be done.
    Log(Fact),
}

/// A fact for the log that the states of the lifecycle do not show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The upstream refused the handshake, with this message.
    HandshakeRefused(String),
    /// A client requested the end of the daemon, and the settings allow it.
    ShutdownRequested(ClientId),
    /// A client that reads too slowly or not at all is closed. Rate-limited.
    ClientTooSlow {
        /// The client.
        client: ClientId,
        /// The name in its `initialize`.
        name: Option<String>,
        /// Bytes queued for it.
        queued_bytes: usize,
        /// Clients closed for this reason since the last such fact, without one of their own.
        suppressed: u64,
    },
    /// The permissions that a thread had in an earlier codex could not be restored. Work on the thread is refused.
    PermissionsNotRestored {
        /// The thread.
        thread: ThreadId,
        /// Why.
        reason: String,
    },
    /// The upstream wrote a line that is not a message.
    UpstreamMalformed,
    /// The upstream wrote a line that exceeds the limit.
    UpstreamLineTooLong,
    /// A health check is sent to the upstream.
    HealthCheck,
    /// The upstream has not answered a health check for this many milliseconds.
    UpstreamUnresponsive(u64),
    /// An upgrade waits until nothing runs.
    UpgradeWaits {
        /// For at most so many milliseconds.
        within_ms: Option<u64>,
    },
    /// The socket file was removed or replaced, and no client is connected. The daemon stops.
    SocketLost,
    /// Codex uses this many bytes, and the daemon is unused. It stops, so that the next one starts with a new codex.
    MemoryHigh(u64),
}
