//! The WebSocket side of a connection (RFC 6455), as the native listener of codex speaks it.

use std::io::{self, Cursor, Read, Write};

use codexd_proto::router::CloseReason;
use tungstenite::error::Error;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, OpCode};
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Message, Utf8Bytes};

use super::frames::FrameWriter;
use super::{Socket, Written, whole_frame};

/// Longest payload of a frame from a client, in bytes: that of the native listener, which states it in its answer to
/// the upgrade (measured).
pub(super) const MAX_FRAME_BYTES: usize = 16 << 20;

/// Longest message from a client, in however many frames, in bytes: that of the native listener
/// (measured).
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Bytes of control frames that wait for the socket; above that, only the last ping is answered, as RFC 6455, section
/// 5.5.3 allows.
const MAX_CONTROL_BYTES: usize = 4 << 10;

/// Room that the protocol machine has for control frames of its own.
const CONTROL_BUFFER_BYTES: usize = 512;

/// Bytes that the protocol machine takes at once.
const READ_BYTES: usize = 8 << 10;

/// Bytes of a frame above which the protocol machine, which keeps its longest buffer, is replaced.
const KEEP_BYTES: u64 = 256 << 10;

/// Bytes of a buffer for messages that is kept between them.
const KEEP_TEXT_BYTES: usize = 4 << 10;

/// Longest rest of a begun frame that is kept so that a close frame can follow it, in bytes.
const MAX_REST_BYTES: usize = 1 << 20;

/// Longest reason in a close frame: 125 bytes of payload, less the code (RFC 6455, section 5.5).
const MAX_REASON_BYTES: usize = 123;

/// A WebSocket with the server's role.
///
/// The protocol is tungstenite's. Received bytes are pushed through it; what it answers by itself
/// (pongs, the close handshake) is kept here until the socket takes it. The way out is
/// [`FrameWriter`]'s, since the bytes to send already lie in the outbox.
pub(crate) struct WebSocket {
    context: WebSocketContext,
    /// Written between frames: control frames, and at first the answer to the upgrade.
    control: Vec<u8>,
    gate: Gate,
    frames: FrameWriter,
    /// The message that was taken last, if it was a [whole frame](whole_frame).
    text: Vec<u8>,
}

/// What came from the peer.
pub(crate) enum Input<'a> {
    /// A text message that came in one piece.
    Text(&'a [u8]),
    /// A text message that was put together from pieces.
    LongText(Utf8Bytes),
    /// The peer closes the connection.
    Closed,
    /// The peer broke the protocol or a limit: it is to be closed with this.
    Failed(CloseFrame),
}

impl WebSocket {
    /// Creates a WebSocket that begins with the answer to the upgrade.
    pub(crate) fn accepted(answer: Vec<u8>) -> WebSocket {
        WebSocket {
            context: context(),
            control: answer,
            gate: Gate::default(),
            frames: FrameWriter::default(),
            text: Vec::new(),
        }
    }

    /// Takes the next input from `chunk`, which is moved forward; `None` when it is used up.
    ///
    /// After [`Input::Closed`] and [`Input::Failed`] the connection is to be [ended](Self::end).
    pub(crate) fn read(&mut self, chunk: &mut &[u8]) -> Option<Input<'_>> {
        if self.gate.is_between_messages() {
            if whole_frame::take(chunk, &mut self.text) {
                return Some(Input::Text(&self.text));
            }
            if chunk.is_empty() {
                self.give_back();
                return None;
            }
        }
        let mut feed =
            Feed { chunk, control: &mut self.control, gate: &mut self.gate, limit: MAX_CONTROL_BYTES };
        loop {
            let failed = |code, reason: String| Some(Input::Failed(frame(code, &reason)));
            match self.context.read(&mut feed) {
                Ok(Message::Text(text)) => return Some(Input::LongText(text)),
                Ok(Message::Close(_)) => return Some(Input::Closed),
                // Pings are answered by the context; the native listener ignores binary messages.
                Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => return Some(Input::Closed),
                Err(Error::Utf8(_)) => {
                    return failed(CloseCode::Invalid, "the message is not UTF-8".to_owned());
                }
                Err(Error::Capacity(error)) => return failed(CloseCode::Size, error.to_string()),
                Err(Error::Protocol(error)) => return failed(CloseCode::Protocol, error.to_string()),
                Err(error) => return failed(CloseCode::Protocol, error.to_string()),
            }
        }
        self.give_back();
        None
    }

    /// Gives back long buffers, unless a message is being received.
    fn give_back(&mut self) {
        self.text.clear();
        self.text.shrink_to(KEEP_TEXT_BYTES);
        if self.gate.bloated && self.gate.is_between_messages() && self.control.is_empty() {
            self.context = context();
            self.gate.bloated = false;
        }
    }

    /// Returns whether something waits that is not in the outbox.
    pub(super) fn has_own_output(&self) -> bool {
        !self.control.is_empty()
    }

    /// Writes what the socket takes: control frames first, but never inside a frame.
    pub(super) fn write(&mut self, stream: &Socket, pending: &[u8]) -> Written {
        let mut written = Written::default();
        if let Err(error) = self.try_write(stream, pending, &mut written.taken) {
            written.stopped_by(error);
        }
        written
    }

    fn try_write(&mut self, stream: &Socket, pending: &[u8], taken: &mut usize) -> io::Result<()> {
        let sink = |slices: &[io::IoSlice<'_>]| stream.try_write_vectored(slices);
        while self.has_own_output() {
            self.frames.write(pending, true, taken, sink)?;
            let n = stream.try_write(&self.control)?;
            self.control.drain(..n);
            if self.control.is_empty() {
                self.refill();
            }
        }
        self.frames.write(pending, false, taken, sink)
    }

    /// Fetches the pongs for which there was no room.
    fn refill(&mut self) {
        let feed = &mut Feed {
            chunk: &mut &[][..],
            control: &mut self.control,
            gate: &mut self.gate,
            limit: MAX_CONTROL_BYTES,
        };
        // The next read reports every other condition.
        let _ = self.context.flush(feed);
    }

    /// Ends the WebSocket: returns the last bytes to write.
    ///
    /// They are the rest of a begun frame, whose payload is at the front of `pending`, and a close
    /// frame: the answer to that of the peer, or else `frame`. `None` when the rest is too long to be
    /// kept: without it, no close frame can be sent.
    pub(crate) fn end(mut self, pending: &[u8], frame: Option<CloseFrame>) -> Option<Vec<u8>> {
        self.context.set_config(|config| config.max_write_buffer_size = usize::MAX);
        let feed = &mut Feed {
            chunk: &mut &[][..],
            control: &mut self.control,
            gate: &mut self.gate,
            limit: usize::MAX,
        };
        // Says that the connection is closed, as it is to be.
        let _ = self.context.close(feed, frame);
        let mut last = self.frames.take_rest(pending, MAX_REST_BYTES)?;
        last.append(&mut self.control);
        Some(last)
    }
}

/// Returns the close frame for the end of a connection that the router wants; `why` is for people.
///
/// 1000: the client asked for it. 1008: the client breaks a rule, and would again. 1013: it may try
/// again later.
pub(crate) fn close_frame(reason: CloseReason, why: &str) -> CloseFrame {
    let code = match reason {
        CloseReason::Detached => CloseCode::Normal,
        CloseReason::TooSlow | CloseReason::Killed => CloseCode::Policy,
        CloseReason::TooEarly => CloseCode::Again,
    };
    frame(code, why)
}

/// Returns a close frame whose reason is cut to the room it has.
pub(super) fn frame(code: CloseCode, reason: &str) -> CloseFrame {
    let end = reason.floor_char_boundary(MAX_REASON_BYTES);
    CloseFrame { code, reason: Utf8Bytes::from(&reason[..end]) }
}

/// Returns the close frame for the end of the daemon: 1001 when it was asked to stop, 1011 when the
/// upstream was lost.
pub(crate) fn shutdown_close_frame(asked: bool, reason: &str) -> CloseFrame {
    frame(if asked { CloseCode::Away } else { CloseCode::Error }, reason)
}

fn context() -> WebSocketContext {
    let config = WebSocketConfig::default()
        .max_frame_size(Some(MAX_FRAME_BYTES))
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(CONTROL_BUFFER_BYTES);
    WebSocketContext::new(Role::Server, Some(config))
}

/// Makes a [`WebSocketContext`] sans I/O: it reads from received bytes and writes into a buffer.
struct Feed<'a, 'c> {
    chunk: &'a mut &'c [u8],
    control: &'a mut Vec<u8>,
    gate: &'a mut Gate,
    limit: usize,
}

/// Hands received bytes over frame by frame, so that it is known when the protocol machine holds none.
#[derive(Default)]
struct Gate {
    /// The header of the frame that arrives, until it is complete.
    head: Vec<u8>,
    /// Bytes of the frame's payload that are still to come.
    left: u64,
    /// A message has begun, and its last frame was not seen yet.
    in_message: bool,
    /// The protocol machine has made a long buffer.
    bloated: bool,
}

impl Gate {
    /// Takes from `chunk` what belongs to one header or one payload; returns how many bytes.
    fn pass(&mut self, chunk: &mut &[u8], buffer: &mut [u8]) -> io::Result<usize> {
        if self.left > 0 {
            let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
            let n = chunk.read(&mut buffer[..most])?;
            self.left -= n as u64;
            return Ok(n);
        }
        let mut n = 0;
        while n < buffer.len()
            && let Some((byte, rest)) = chunk.split_first()
        {
            *chunk = rest;
            buffer[n] = *byte;
            n += 1;
            self.head.push(*byte);
            // One that is wrong is found by the protocol machine, too, which ends the connection.
            if let Ok(Some((header, length))) = FrameHeader::parse(&mut Cursor::new(&self.head)) {
                self.head.clear();
                self.left = length;
                self.bloated |= length > KEEP_BYTES;
                if let OpCode::Data(_) = header.opcode {
                    self.in_message = !header.is_final;
                }
                break;
            }
        }
        Ok(n)
    }

    fn is_between_messages(&self) -> bool {
        self.left == 0 && self.head.is_empty() && !self.in_message
    }
}

impl Read for Feed<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.chunk.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.gate.pass(self.chunk, buffer)
    }
}

impl Write for Feed<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.control.len() >= self.limit {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.control.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [1, 2, 3, 4];

    /// A frame as a client sends it.
    fn from_client(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            short @ 0..126 => frame.push(0x80 | short as u8),
            long => {
                frame.push(0xff);
                frame.extend_from_slice(&(long as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    fn socket() -> WebSocket {
        WebSocket::accepted(Vec::new())
    }

    /// All inputs of a stream that arrives in pieces of `size`, as text.
    fn inputs(socket: &mut WebSocket, stream: &[u8], size: usize) -> Vec<String> {
        let mut seen = Vec::new();
        for mut chunk in stream.chunks(size) {
            while let Some(input) = socket.read(&mut chunk) {
                match input {
                    Input::Text(text) => seen.push(String::from_utf8(text.to_vec()).unwrap()),
                    Input::LongText(text) => seen.push(text.to_string()),
                    Input::Closed => {
                        seen.push("closed".to_owned());
                        return seen;
                    }
                    Input::Failed(frame) => {
                        seen.push(u16::from(frame.code).to_string());
                        return seen;
                    }
                }
            }
        }
        seen
    }

    #[test]
    fn messages_are_the_same_however_the_stream_is_cut() {
        let stream = [
            from_client(0x81, b"{\"id\":1}"),
            from_client(0x01, b"frag"),
            from_client(0x89, b"now"),
            from_client(0x80, b"mented"),
            from_client(0x82, b"\xff binary"),
            from_client(0x8a, b"unasked"),
            from_client(0x81, "x".repeat(300).as_bytes()),
        ]
        .concat();
        for size in 1..=stream.len() {
            let mut socket = socket();
            let expected = ["{\"id\":1}".to_owned(), "fragmented".to_owned(), "x".repeat(300)];
            assert_eq!(inputs(&mut socket, &stream, size), expected, "{size}");
            assert_eq!(socket.control, b"\x8a\x03now", "{size}");
        }
    }

    #[test]
    fn what_a_peer_does_wrong_has_its_code() {
        let too_long = [&[0x81, 0xff][..], &(MAX_FRAME_BYTES as u64 + 1).to_be_bytes(), &MASK].concat();
        let too_much: Vec<u8> = std::iter::once(from_client(0x01, &vec![b' '; MAX_FRAME_BYTES]))
            .chain((0..3).map(|_| from_client(0x00, &vec![b' '; MAX_FRAME_BYTES])))
            .chain([from_client(0x80, b" ")])
            .flatten()
            .collect();
        let cases = [
            ("not UTF-8", from_client(0x81, b"\xff\xfe"), "1007"),
            ("not UTF-8 over fragments", [from_client(1, b"\xe2"), from_client(0x80, b"a")].concat(), "1007"),
            ("a frame that is too long", too_long, "1009"),
            ("a message that is too long", too_much, "1009"),
            ("no mask", b"\x81\x02{}".to_vec(), "1002"),
            ("a reserved bit", from_client(0xc1, b"{}"), "1002"),
            ("an unknown opcode", from_client(0x83, b"{}"), "1002"),
            ("a continuation of nothing", from_client(0x80, b"{}"), "1002"),
            ("a fragmented ping", from_client(0x09, b""), "1002"),
        ];
        for (what, stream, code) in cases {
            assert_eq!(inputs(&mut socket(), &stream, 100_000), [code], "{what}");
        }
    }

    #[test]
    fn a_long_buffer_is_given_back_between_messages() {
        let mut socket = socket();
        let long = from_client(0x01, &vec![b' '; 300 << 10]);
        assert_eq!(inputs(&mut socket, &long, 65_536).len(), 0);
        assert!(socket.gate.bloated, "the message is not complete");
        let stream = [from_client(0x80, b"end"), from_client(0x81, b"next")].concat();
        for (index, byte) in stream.iter().enumerate() {
            let seen = inputs(&mut socket, &[*byte], 1);
            assert_eq!(seen.is_empty(), index != 8 && index != stream.len() - 1, "{index}");
            assert_eq!(socket.gate.bloated, index < 8, "{index}");
        }
    }

    #[test]
    fn a_flood_of_pings_is_answered_within_bounds() {
        let mut socket = socket();
        let mut stream = Vec::new();
        for i in 0..100_000u32 {
            stream.extend(from_client(0x89, &i.to_be_bytes()));
        }
        assert_eq!(inputs(&mut socket, &stream, 10_000).len(), 0);
        assert!(socket.control.len() <= MAX_CONTROL_BYTES + CONTROL_BUFFER_BYTES, "{}", socket.control.len());
        // As there is room again, the last one is answered.
        let mut last = Vec::new();
        while socket.has_own_output() {
            last = std::mem::take(&mut socket.control);
            socket.refill();
        }
        assert!(last.ends_with(&[&[0x8a, 4][..], &99_999u32.to_be_bytes()].concat()));
    }

    #[test]
    fn an_end_says_why_and_answers_the_one_of_the_peer() {
        let ours = socket().end(b"", Some(frame(CloseCode::Away, "bye"))).unwrap();
        assert_eq!(ours, b"\x88\x05\x03\xe9bye");
        let mut socket = socket();
        assert_eq!(inputs(&mut socket, &from_client(0x88, &[0x03, 0xe8]), 100), ["closed"]);
        assert_eq!(socket.end(b"", None).unwrap(), b"\x88\x02\x03\xe8");
    }

    #[test]
    fn a_reason_is_cut_at_a_character() {
        let reason = frame(CloseCode::Away, &"ä".repeat(100)).reason;
        assert_eq!(reason.len(), 122);
    }
}
