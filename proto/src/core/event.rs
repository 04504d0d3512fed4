//! What happens to the daemon.

use crate::exit::ExitCode;
use crate::id::ClientId;
use crate::lifecycle::{ChildStatus, StopSource};

/// The framing of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Newline-delimited JSON.
    Lines,
    /// HTTP, of which the head has begun: one answer, or a WebSocket.
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

/// One fact from outside: bytes that were received or written, a process that ended, a request of the operator.
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
    /// A client sent a message that exceeds the limit; nothing of it was kept.
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
        /// Whether bytes wait that are not in the outbox: frame headers, control frames.
        framing_waits: bool,
    },
    /// A client sends nothing more.
    ClientEof {
        /// The client.
        client: ClientId,
        /// Whether its peer does not read either.
        hung_up: bool,
        /// Whether bytes wait that are not in the outbox.
        framing_waits: bool,
    },
    /// An HTTP request has been read and gets its response now: the connection never was a client.
    HttpRequest {
        /// The client.
        client: ClientId,
    },
    /// A client's connection gets its last bytes and belongs to no client any more.
    ClientEnding {
        /// The client.
        client: ClientId,
    },
    /// A client's connection is gone.
    ClientDisconnected {
        /// The client.
        client: ClientId,
    },
    /// The upstream process runs.
    UpstreamSpawned,
    /// The upstream process could not be started.
    SpawnFailed(ExitCode),
    /// The upstream wrote something, perhaps not a whole line.
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
    /// The upstream's input cannot be written to any more. The report of its exit follows, with the reason.
    UpstreamInputBroken,
    /// The last lines that the upstream wrote to its stderr, without secrets: reported before its end is, and
    /// before [`Effect::FinalRead`](super::Effect::FinalRead) is done.
    UpstreamStderr(&'a [String]),
    /// The upstream's output ended.
    UpstreamEof,
    /// The upstream process ended, and what it had written was reported before.
    UpstreamExited(ChildStatus),
    /// The daemon is to end when it can.
    StopRequested(StopSource),
    /// The daemon is to end soon: running turns are interrupted.
    InterruptRequested(StopSource),
    /// The daemon is to end at once.
    KillRequested(StopSource),
    /// Codex and its commands use more memory than they may while nobody uses the daemon.
    MemoryHigh {
        /// What they use.
        bytes: u64,
    },
    /// The client socket's file was removed or replaced: no new client can find the daemon.
    SocketLost,
}
