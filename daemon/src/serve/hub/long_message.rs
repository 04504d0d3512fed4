//! A long message of a client, read in slices between the turns of the others.

use codexd_proto::core::Event;
use codexd_proto::id::ClientId;
use codexd_proto::message::Reader;
use tungstenite::Utf8Bytes;

use super::Hub;

/// Bytes that are read in one turn.
///
/// The slowest forms of a message take some milliseconds for so many (`cargo bench -p codexd-proto --bench forms`).
pub(super) const SLICE_BYTES: usize = 1 << 20;

/// A long message that is not read to its end. Nothing more is taken from its client's socket meanwhile.
pub(super) struct LongMessage {
    text: Text,
    reader: Reader,
    /// What came behind it.
    rest: Vec<u8>,
}

/// The message, as its framing gave it.
enum Text {
    Line(Vec<u8>),
    WebSocket(Utf8Bytes),
}

impl LongMessage {
    /// Begins with a line that `rest` came behind.
    pub(super) fn line(line: Vec<u8>, rest: &[u8]) -> LongMessage {
        LongMessage { text: Text::Line(line), reader: Reader::default(), rest: rest.to_vec() }
    }

    /// Begins with the message of a WebSocket that `rest` came behind.
    pub(super) fn web_socket(text: Utf8Bytes, rest: &[u8]) -> LongMessage {
        LongMessage { text: Text::WebSocket(text), reader: Reader::default(), rest: rest.to_vec() }
    }

    fn bytes(&self) -> &[u8] {
        match &self.text {
            Text::Line(line) => line,
            Text::WebSocket(text) => text.as_bytes().trim_ascii_end(),
        }
    }

    /// Reads so many bytes more; returns whether all is read.
    fn advance(&mut self, bytes: usize) -> bool {
        let line = match &self.text {
            Text::Line(line) => line,
            Text::WebSocket(text) => text.as_bytes().trim_ascii_end(),
        };
        self.reader.advance(line, bytes)
    }
}

impl Hub {
    /// Reads so many bytes more of a client's long message. When all is read, handles it and what came behind it, in
    /// which another one can begin.
    pub(super) fn read_slice(&mut self, client: ClientId, bytes: usize) {
        let Some(io) = self.clients.get_mut(&client) else { return };
        let Some(mut message) = io.long.take() else { return };
        if !message.advance(bytes) {
            io.long = Some(message);
            return;
        }
        let now = self.now();
        let line = message.bytes();
        self.core.handle(now, Event::ClientLineRead { client, line, reader: &message.reader });
        let rest = message.rest;
        self.client_bytes(client, &rest);
    }
}
