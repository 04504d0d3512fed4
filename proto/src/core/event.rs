//! What happens to the daemon.

use crate::exit::ExitCode;
use crate::id::ClientId;
use crate::lifecycle::{ChildStatus, StopSource};
use crate::message::Reader;

/// What a client's connection speaks.
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

/// One fact from outside: bytes that came or went, a process that ended, a wish of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// It is known what a client's connection speaks.
    ClientFraming {
        /// The client.
        client: ClientId,
        /// What it speaks.
        framing: Framing,
    },
    /// A client sent a message: a line without its line feed, or the text of WebSocket frames.
    ClientLine {
        /// The client.
        client: ClientId,
        /// The message.
        line: &'a [u8],
    },
    /// A client sent a long message, which was read in slices.
    ClientLineRead {
        /// The client.
        client: ClientId,
        /// The message.
        line: &'a [u8],
        /// What was read of it: all.
        reader: &'a Reader,
    },
    /// A client sent a message that exceeds the limit; nothing of it was kept.
    ClientLineTooLong {
        /// The client.
        client: ClientId,
    },
    /// A client's socket took bytes of its outbox.
    ClientWritten {
        /// The client.
        client: ClientId,
        /// Bytes of the outbox that were written.
        bytes: usize,
        /// Whether the socket takes no more for now.
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
    /// A client's HTTP request has been read and is answered now: it never was a client.
    HttpRequest {
        /// The client.
        client: ClientId,
    },
    /// A client's connection gets its last bytes and is nobody's any more.
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
    /// The upstream's input took bytes of its outbox.
    UpstreamWritten {
        /// Bytes of the outbox that were written.
        bytes: usize,
        /// Whether the pipe takes no more for now.
        full: bool,
    },
    /// The upstream's input cannot be written to any more. Its end follows, and says more.
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
    /// The client socket's file was removed or replaced: nobody new can find the daemon.
    SocketLost,
}
