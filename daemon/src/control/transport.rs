//! The WebSocket of a client of the control socket.
//!
//! The library has a transport of its own. That one is made for URLs: with it, the program contains the tables that
//! host names are checked with, a fiftieth of its size.

use futures_util::io::{BufReader, BufWriter};
use jsonrpsee::core::client::{ReceivedMessage, TransportReceiverT, TransportSenderT};
use soketto::connection::{self, Receiver, Sender};
use soketto::handshake::{self, Client, ServerResponse};
use soketto::{Data, Incoming};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

use super::server::MAX_REQUEST_BYTES;

/// Host and path of the handshake. The daemon looks at neither.
const HOST: &str = "codexd";
const PATH: &str = "/";
/// Bytes of the longest message of the daemon.
const MAX_MESSAGE_BYTES: usize = 10 << 20;

type Stream = BufReader<BufWriter<Compat<UnixStream>>>;

/// Why a message is not sent or not received.
#[derive(Debug, Error)]
pub(super) enum TransportError {
    /// The daemon would refuse it.
    #[error("the request has {0} bytes, and {MAX_REQUEST_BYTES} are the most that the daemon takes")]
    TooLong(usize),
    /// The daemon has closed the connection.
    #[error("the connection is closed")]
    Closed,
    /// The connection failed.
    #[error(transparent)]
    Connection(#[from] connection::Error),
}

/// Why a connection did not become a WebSocket.
#[derive(Debug, Error)]
pub(super) enum HandshakeError {
    /// The other end refused, with an HTTP status.
    #[error("the handshake was refused with HTTP status {0}")]
    Refused(u16),
    /// The other end did not answer with the handshake of a WebSocket.
    #[error(transparent)]
    Failed(#[from] handshake::Error),
}

/// The half that sends.
pub(super) struct SendHalf(Sender<Stream>);

/// The half that receives.
pub(super) struct ReceiveHalf(Receiver<Stream>);

/// Makes a connection a WebSocket. Does not end while the other end is silent.
///
/// # Errors
///
/// [`HandshakeError`].
pub(super) async fn handshake(stream: UnixStream) -> Result<(SendHalf, ReceiveHalf), HandshakeError> {
    let mut client = Client::new(BufReader::new(BufWriter::new(stream.compat())), HOST, PATH);
    match client.handshake().await? {
        ServerResponse::Accepted { .. } => {}
        ServerResponse::Redirect { status_code, .. } | ServerResponse::Rejected { status_code } => {
            return Err(HandshakeError::Refused(status_code));
        }
    }
    let mut builder = client.into_builder();
    builder.set_max_message_size(MAX_MESSAGE_BYTES);
    let (sender, receiver) = builder.finish();
    Ok((SendHalf(sender), ReceiveHalf(receiver)))
}

impl TransportSenderT for SendHalf {
    type Error = TransportError;

    async fn send(&mut self, message: String) -> Result<(), TransportError> {
        if message.len() > MAX_REQUEST_BYTES as usize {
            return Err(TransportError::TooLong(message.len()));
        }
        self.0.send_text_owned(message).await?;
        Ok(self.0.flush().await?)
    }

    async fn close(&mut self) -> Result<(), TransportError> {
        Ok(self.0.close().await?)
    }
}

impl TransportReceiverT for ReceiveHalf {
    type Error = TransportError;

    async fn receive(&mut self) -> Result<ReceivedMessage, TransportError> {
        let mut message = Vec::new();
        match self.0.receive(&mut message).await? {
            Incoming::Data(Data::Text(_)) => {
                let text = String::from_utf8(message)
                    .map_err(|error| connection::Error::Utf8(error.utf8_error()))?;
                Ok(ReceivedMessage::Text(text))
            }
            Incoming::Data(Data::Binary(_)) => Ok(ReceivedMessage::Bytes(message)),
            Incoming::Pong(_) => Ok(ReceivedMessage::Pong),
            Incoming::Closed(_) => Err(TransportError::Closed),
        }
    }
}
