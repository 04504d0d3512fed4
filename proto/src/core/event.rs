//! What happens to the daemon.

use crate::exit::ExitCode;
use crate::id::ClientId;
use crate::lifecycle::{ChildStatus, StopSource};

/// The framing of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Newline-delimited JSON.
    Lines,
    /// HTTP: a request for a page or for a WebSocket, whose head has begun.
    Http,
    /// One message per text frame.
    WebSocket,
}

impl Framing {
    /// Returns the word used in JSON and on the terminal.
    pub const fn word(self) -> &'static str {
        match self {
            Framing::Lines => "lines",
            Framing::Http => "http",
            Framing::WebSocket => "webSocket",
        }
    }
}

/// One fact from outside: bytes were received or written, a process ended, an operator requested something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The framing of a client's connection is known.
    ClientFraming {
        /// The client.
        client: ClientId,
        /// Its framing.
        framing: Framing,
    },
    /// A client sent a message: a line without its line feed, or the text of WebSocket frames.
    ClientLine {
        /// The client.
        client: ClientId,
        /// The message.
        line: &'a [u8],
    },
    /// A client sent a message that exceeds the limit. Nothing of it was kept.
    ClientLineTooLong {
        /// The client.
        client: ClientId,
    },
    /// Bytes of a client's outbox were written.
    ClientWritten {
        /// The client.
        client: ClientId,
        /// Bytes of the outbox that were written.
        bytes: usize,
        /// Whether the socket is full.
        full: bool,
        /// Whether bytes are queued outside the outbox: frame headers, control frames.
        framing_waits: bool,
    },
    /// A client sends nothing more.
    ClientEof {
        /// The client.
        client: ClientId,
        /// Whether its peer has closed both halves.
        hung_up: bool,
        /// Whether bytes are queued outside the outbox.
        framing_waits: bool,
    },
    /// An HTTP request was read and gets its response now. The connection was never a client's.
    HttpRequest {
        /// The client.
        client: ClientId,
    },
    /// A client's connection gets its last bytes and is not a client's any more.
    ClientEnding {
        /// The client.
        client: ClientId,
    },
    /// A client's connection is closed.
    ClientDisconnected {
        /// The client.
        client: ClientId,
    },
    /// The upstream process runs.
    UpstreamSpawned,
    /// The upstream process could not be started.
    SpawnFailed(ExitCode),
    /// The upstream wrote something, not necessarily a whole line.
    UpstreamOutput,
    /// The upstream wrote a line, given without its line feed.
    UpstreamLine(&'a [u8]),
    /// The upstream wrote a line that exceeds the limit.
    UpstreamLineTooLong,
    /// Bytes of the upstream's outbox were written to its input.
    UpstreamWritten {
        /// Bytes of the outbox that were written.
        bytes: usize,
        /// Whether the pipe is full.
        full: bool,
    },
    /// The upstream's input cannot be written to any more. [`Event::UpstreamExited`] follows, with the reason.
    UpstreamInputBroken,
    /// The last lines of the upstream's stderr, with secrets masked. Reported before its end, and before
    /// [`Effect::FinalRead`](super::Effect::FinalRead) is complete.
    UpstreamStderr(&'a [String]),
    /// The upstream's output ended.
    UpstreamEof,
    /// The upstream process ended, and everything that it had written was reported.
    UpstreamExited(ChildStatus),
    /// The daemon is to end after a drain.
    StopRequested(StopSource),
    /// The daemon is to end without a drain: running turns are interrupted.
    InterruptRequested(StopSource),
    /// The daemon is to end at once.
    KillRequested(StopSource),
    /// The next daemon is to take the place of this one as soon as nothing runs. Means nothing unless
    /// [`Core::can_upgrade`](super::Core::can_upgrade).
    UpgradeRequested {
        /// Milliseconds that this can take, or it is called off; `None`: no limit.
        within_ms: Option<u64>,
    },
    /// The daemon is not to be replaced after all. Means nothing unless an upgrade waits.
    UpgradeCalledOff,
    /// Codex and its commands use more memory than `memory_recycle_bytes`.
    MemoryHigh {
        /// Bytes that they use.
        bytes: u64,
    },
    /// The socket file was removed or replaced, so no client can find the daemon any more.
    SocketLost,
}
