//! What the shell has to do.

use crate::id::{ClientId, ThreadId};
use crate::lifecycle::State;
use crate::router::CloseReason;
use crate::thread_book::Entry;

/// One thing to do, in the order in which [`Core::poll_effect`](super::Core::poll_effect) returns them.
///
/// The rest is in the outboxes: [`Core::poll_dirty`](super::Core::poll_dirty) names the clients that have
/// something new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The daemon's state changed: log it, publish the status, notify the supervisor.
    StateChanged {
        /// The state before.
        from: State,
        /// The state now.
        to: State,
    },
    /// Notify the supervisor, and the process that waits for the start, that clients are served.
    NotifyReady,
    /// Notify the supervisor that the daemon is stopping.
    NotifyStopping,
    /// Accept no more clients and give up the socket path.
    StopListening,
    /// Read what clients have sent, without waiting for more, and the last lines of the upstream's stderr, and
    /// report both before the next effect.
    FinalRead,
    /// Close a connection in the way of its framing: a WebSocket gets a close frame.
    CloseClient {
        /// The client.
        client: ClientId,
        /// Why; `None` because everything it asked for is answered.
        reason: Option<CloseReason>,
    },
    /// Close a connection at once.
    DropClient {
        /// The client.
        client: ClientId,
    },
    /// Answer an HTTP request whose head did not come in time.
    TimeOutRequest {
        /// The client.
        client: ClientId,
    },
    /// Report [`Event::ClientDisconnected`](super::Event::ClientDisconnected) if the peer of this half-closed
    /// connection does not read any more. After the end of its input, the system does not report that end.
    CheckConnection {
        /// The client.
        client: ClientId,
    },
    /// Report [`Event::SocketLost`](super::Event::SocketLost) if the client socket's file is not the daemon's
    /// any more.
    CheckSocket,
    /// Close all connections; a WebSocket gets the reason if its socket accepts the frame.
    CloseAll,
    /// Close the upstream's input.
    CloseInput,
    /// Send SIGTERM to the upstream.
    Terminate,
    /// Send SIGKILL to the upstream's process group.
    Kill,
    /// End leftover processes of the upstream.
    Sweep,
    /// Remember this of a thread for the daemons to come.
    Remember(Entry),
    /// Worth a line in the log; nothing else is to be done.
    Log(Fact),
}

/// A fact for the log that the lifecycle's states do not contain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The upstream refused the handshake, with this message.
    HandshakeRefused(String),
    /// A client asked for the daemon to stop, and the settings allow it.
    ShutdownRequested(ClientId),
    /// A client that does not read, or not fast enough, is closed. Limited in number.
    ClientTooSlow {
        /// The client.
        client: ClientId,
        /// The name by which it introduced itself.
        name: Option<String>,
        /// Bytes that wait for it.
        queued_bytes: usize,
        /// Clients closed for this reason since the last such fact, and not reported.
        suppressed: u64,
    },
    /// A thread does not have the permissions that it had in an earlier codex: work on it is refused.
    PermissionsNotRestored {
        /// The thread.
        thread: ThreadId,
        /// Why.
        reason: String,
    },
    /// The upstream wrote something that is no message.
    UpstreamMalformed,
    /// The upstream wrote a line that exceeds the limit.
    UpstreamLineTooLong,
    /// A health check is sent to the upstream.
    HealthCheck,
    /// The upstream has not answered a health check for so many milliseconds.
    UpstreamUnresponsive(u64),
    /// The socket was removed or replaced, and no client is connected: the daemon stops.
    SocketLost,
    /// Codex uses so many bytes, and nobody uses the daemon: it stops, so that the next one begins anew.
    MemoryHigh(u64),
}
