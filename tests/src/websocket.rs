//! WebSocket over a unix socket, bent into lines.
//!
//! [`connect`] gives a plain stream on which each line is one text message of the WebSocket behind it,
//! so that a [`TestClient`](crate::client::TestClient) need not know which framing it speaks.

use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use tungstenite::protocol::{Message, Role, WebSocket, WebSocketConfig};

/// Opens a WebSocket on a unix socket and returns a stream of lines that stands for it.
///
/// The end of one side is the end of the other, abruptly and without a close frame, as a client that
/// is killed ends.
///
/// # Errors
///
/// When the connection or the upgrade is refused.
pub fn connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    let writing = stream.try_clone()?;
    let (mut reader, _) = tungstenite::client::client_with_config(
        "ws://localhost/",
        stream,
        Some(WebSocketConfig::default().max_message_size(None).max_frame_size(None)),
    )
    .map_err(io::Error::other)?;
    let (near, far) = UnixStream::pair()?;
    let mut lines = far.try_clone()?;
    std::thread::Builder::new().name("websocket in".to_owned()).spawn(move || {
        // A ping is answered inside; anything that is no text is none of a test's business.
        while let Ok(message) = reader.read() {
            if let Message::Text(text) = message
                && (lines.write_all(text.as_bytes()).is_err() || lines.write_all(b"\n").is_err())
            {
                break;
            }
        }
        let _ = lines.shutdown(Shutdown::Both);
    })?;
    std::thread::Builder::new().name("websocket out".to_owned()).spawn(move || {
        let ending = writing.try_clone();
        // A second object for the second direction: a writer keeps no state but the stream.
        let mut writer = WebSocket::from_raw_socket(writing, Role::Client, None);
        for line in BufReader::new(far).lines() {
            let Ok(line) = line else { break };
            if writer.send(Message::text(line)).is_err() {
                break;
            }
        }
        if let Ok(ending) = ending {
            let _ = ending.shutdown(Shutdown::Both);
        }
    })?;
    Ok(near)
}
