//! What is spoken on a client's connection: lines, WebSocket or HTTP.
//!
//! # Theory of operation
//!
//! All clients use one socket. The first byte that is not white space decides what a connection is:
//!
//! - `{` or `[` begins newline-delimited JSON;
//! - everything else is read as the head of an HTTP request, and either the connection becomes a WebSocket
//!   or one answer is given.
//!
//! Nothing that a browser can be made to send begins with `{`: neither an HTTP request, whose method may be any
//! token (RFC 9110, section 9.1), nor TLS. So lines of JSON that a web page puts into the body of a request never
//! reach the router.
//!
//! Framing ends here. Whatever a client speaks, the router gets its messages as lines and leaves an
//! [`Outbox`](codexd_proto::router::Outbox) of lines, from which [`Wire::write`] sends. So the bytes
//! that wait for a client wait in one place, and are counted and bounded there: a WebSocket keeps
//! beside them no more than the header of a begun frame and a few control frames.
//!
//! Nothing here waits or wakes: the hub calls when the socket is ready.

mod ending;
pub(crate) mod excess;
mod frames;
mod http;
mod metrics;
mod socket;
mod websocket;
mod whole_frame;

use std::io;

use codexd_proto::frame::LineDecoder;

pub(crate) use ending::Ending;
pub(crate) use http::{Head, Request, Response};
pub(crate) use metrics::Measured;
pub(crate) use socket::Socket;
pub(crate) use websocket::{Input, WebSocket, close_frame, shutdown_close_frame};

/// Bytes of a message above which it is long: it is read in slices.
pub(crate) const LONG_BYTES: usize = 1 << 20;

/// What a connection speaks, and how far it is with it.
pub(crate) enum Wire {
    /// Nothing was received yet.
    Sniffing,
    /// Newline-delimited JSON.
    Lines(LineDecoder),
    /// The head of an HTTP request.
    Http(Head),
    /// One message per text frame.
    WebSocket(Box<WebSocket>),
    /// Nobody's client any more: the last bytes are written, then the peer's end is waited for.
    Ending(Ending),
}

/// What a write has achieved.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// Bytes of the outbox that were written to the socket.
    pub(crate) taken: usize,
    /// The socket accepted less than there was to write.
    pub(crate) blocked: bool,
    /// The connection is broken.
    pub(crate) broken: Option<io::Error>,
}

impl Wire {
    /// Chooses the framing by the first byte received that is not white space, to which `chunk` is moved; lines are
    /// limited to `max_line_bytes`. `None` while there is nothing but white space.
    pub(crate) fn begun_with(chunk: &mut &[u8], max_line_bytes: usize) -> Option<Wire> {
        while let Some((b' ' | b'\t' | b'\r' | b'\n', rest)) = chunk.split_first() {
            *chunk = rest;
        }
        Some(match chunk.first()? {
            b'{' | b'[' => Wire::Lines(LineDecoder::new(max_line_bytes).giving_away(LONG_BYTES)),
            _ => Wire::Http(Head::default()),
        })
    }

    /// Writes what the socket takes: of an outbox of whole lines, beginning where the last call ended,
    /// and of what the wire adds itself.
    pub(crate) fn write(&mut self, stream: &Socket, pending: &[u8]) -> Written {
        match self {
            Wire::Lines(_) => write_bytes(stream, pending),
            Wire::WebSocket(socket) => socket.write(stream, pending),
            Wire::Ending(ending) => ending.write(stream),
            // Nothing is sent to a client before its first message.
            Wire::Sniffing | Wire::Http(_) => Written::default(),
        }
    }

    /// Returns whether something waits that is not in the outbox.
    pub(crate) fn has_own_output(&self) -> bool {
        match self {
            Wire::WebSocket(socket) => socket.has_own_output(),
            Wire::Ending(ending) => !ending.is_written(),
            Wire::Sniffing | Wire::Lines(_) | Wire::Http(_) => false,
        }
    }
}

/// Writes until everything is written or the socket is full.
fn write_bytes(stream: &Socket, bytes: &[u8]) -> Written {
    let mut written = Written::default();
    while written.taken < bytes.len() {
        match stream.try_write(&bytes[written.taken..]) {
            Ok(n) => written.taken += n,
            Err(error) => {
                written.stopped_by(error);
                break;
            }
        }
    }
    written
}

impl Written {
    fn stopped_by(&mut self, error: io::Error) {
        if error.kind() == io::ErrorKind::WouldBlock {
            self.blocked = true;
        } else {
            self.broken = Some(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_tells_what_is_spoken() {
        for byte in 0..=u8::MAX {
            let expected = match byte {
                b'{' | b'[' => Some("lines"),
                b' ' | b'\t' | b'\r' | b'\n' => None,
                _ => Some("http"),
            };
            for before in ["", " ", "\r\n\t "] {
                let bytes = [before.as_bytes(), &[byte]].concat();
                let mut chunk = &bytes[..];
                let wire = Wire::begun_with(&mut chunk, 100);
                let spoken = wire.map(|wire| if matches!(wire, Wire::Http(_)) { "http" } else { "lines" });
                assert_eq!(spoken, expected, "{byte}");
                assert_eq!(chunk.len(), usize::from(expected.is_some()), "{byte}");
            }
        }
    }
}
