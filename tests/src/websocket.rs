//! The WebSocket of a test client, over a Unix socket.
//!
//! One thread reads while another writes, which a `tungstenite::WebSocket` does not offer: each has a
//! context of its own, and whole frames go to the socket under a lock.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;

use parking_lot::Mutex;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::{Role, WebSocket, WebSocketContext};
use tungstenite::{Error, Message};

use crate::wait::PATIENCE;

/// What a client's connection has brought.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// A line or a text message.
    Message(Vec<u8>),
    /// A close frame.
    Closed(u16, String),
    /// The end, and not a clean one.
    Broken(String),
}

/// The writing end.
pub(crate) struct Sender {
    context: WebSocketContext,
    pipe: Pipe,
}

/// The reading end.
pub(crate) struct Receiver {
    context: WebSocketContext,
    pipe: Pipe,
}

/// A connection to which only whole frames are written.
struct Pipe {
    stream: UnixStream,
    turn: Arc<Mutex<()>>,
    frame: Vec<u8>,
}

/// Connects and upgrades; returns both ends.
///
/// # Errors
///
/// As a sentence.
pub(crate) fn connect(socket: &Path) -> Result<(Sender, Receiver), String> {
    let stream = UnixStream::connect(socket).map_err(|error| error.to_string())?;
    // A peer that does not read must fail the test and not hang it.
    let _ = stream.set_write_timeout(Some(PATIENCE));
    let socket = upgrade(stream).map_err(|error| error.to_string())?;
    let stream = socket.into_inner();
    let other = stream.try_clone().map_err(|error| error.to_string())?;
    let turn = Arc::new(Mutex::new(()));
    let end = |stream, turn| Pipe { stream, turn, frame: Vec::new() };
    let context = || WebSocketContext::new(Role::Client, None);
    Ok((
        Sender { context: context(), pipe: end(stream, Arc::clone(&turn)) },
        Receiver { context: context(), pipe: end(other, turn) },
    ))
}

/// Makes a WebSocket of a connection, with the limits that are tungstenite's defaults.
///
/// # Errors
///
/// When the upgrade is refused.
pub fn upgrade(stream: UnixStream) -> Result<WebSocket<UnixStream>, Box<Error>> {
    match tungstenite::client("ws://localhost/", stream) {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::HandshakeError::Failure(error)) => Err(Box::new(error)),
        Err(tungstenite::HandshakeError::Interrupted(_)) => {
            Err(Box::new(Error::Io(io::ErrorKind::TimedOut.into())))
        }
    }
}

impl Sender {
    pub(crate) fn send_text(&mut self, text: &[u8]) -> io::Result<()> {
        self.send(Message::Frame(Frame::message(text.to_vec(), OpCode::Data(Data::Text), true)))
    }

    pub(crate) fn send(&mut self, message: Message) -> io::Result<()> {
        let sent =
            self.context.write(&mut self.pipe, message).and_then(|()| self.context.flush(&mut self.pipe));
        sent.map_err(|error| match error {
            Error::Io(error) => error,
            other => io::Error::other(other),
        })
    }

    /// Sends a close frame; the receiver sees what follows.
    pub(crate) fn close(&mut self) {
        let _ = self.context.close(&mut self.pipe, None);
    }

    pub(crate) fn shutdown(&self) {
        let _ = self.pipe.stream.shutdown(Shutdown::Both);
    }
}

impl Receiver {
    /// Reads to the end of the connection.
    pub(crate) fn run(mut self, sink: &mpsc::Sender<Arrival>) {
        loop {
            let arrival = match self.context.read(&mut self.pipe) {
                Ok(Message::Text(text)) => Arrival::Message(text.as_bytes().to_vec()),
                Ok(Message::Close(frame)) => match frame {
                    Some(frame) => Arrival::Closed(frame.code.into(), frame.reason.to_string()),
                    // RFC 6455, section 7.1.5: the code counts as this one.
                    None => Arrival::Closed(1005, String::new()),
                },
                Ok(_) => continue,
                Err(Error::ConnectionClosed | Error::AlreadyClosed) => return,
                Err(error) => Arrival::Broken(error.to_string()),
            };
            let last = matches!(arrival, Arrival::Broken(_));
            if sink.send(arrival).is_err() || last {
                return;
            }
        }
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.frame.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _turn = self.turn.lock();
        let frame = std::mem::take(&mut self.frame);
        self.stream.write_all(&frame)
    }
}
