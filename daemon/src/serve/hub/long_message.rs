//! A long message of a client, read in slices between the turns of the others.

use codexd_proto::id::ClientId;
use codexd_proto::message::Reader;
use tungstenite::{Bytes, Utf8Bytes};

use super::Hub;

/// Bytes that are read in one turn.
///
/// The slowest forms of a message take some milliseconds for so many (`cargo bench -p codexd-proto --bench forms`).
pub(super) const SLICE_BYTES: usize = 1 << 20;

/// A long message that is not read to its end. Nothing more is taken from its client's socket meanwhile.
pub(super) struct LongMessage {
    line: Vec<u8>,
    reader: Reader,
    /// What came behind it.
    rest: Vec<u8>,
}

impl LongMessage {
    /// Begins with a line that `rest` came behind.
    pub(super) fn line(line: Vec<u8>, rest: &[u8]) -> LongMessage {
        LongMessage { line, reader: Reader::default(), rest: rest.to_vec() }
    }

    /// Begins with the message of a WebSocket that `rest` came behind.
    pub(super) fn web_socket(text: Utf8Bytes, rest: &[u8]) -> LongMessage {
        let mut line = Vec::from(Bytes::from(text));
        line.truncate(line.trim_ascii_end().len());
        LongMessage::line(line, rest)
    }
}

impl Hub {
    /// Reads so many bytes more of a client's long message. When all is read, handles it and what came behind it, in
    /// which another one can begin.
    pub(super) fn read_slice(&mut self, client: ClientId, bytes: usize) {
        let Some(io) = self.clients.get_mut(&client) else { return };
        let Some(mut message) = io.long.take() else { return };
        if !message.reader.advance(&message.line, bytes) {
            io.long = Some(message);
            return;
        }
        let now = self.now();
        if let Some(monitors) = &mut self.monitors {
            monitors.show_from_client(client, &message.line);
        }
        self.core.client_line_read(now, client, message.line, message.reader);
        self.client_bytes(client, &message.rest);
    }
}
