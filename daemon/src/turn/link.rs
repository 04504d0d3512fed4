//! A connection to the data plane: lines of JSON, requests with ids.

use std::io;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// See the [module's documentation](self).
pub(super) struct Link {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    next_id: u64,
    /// Bytes that were read and not returned yet.
    read: Vec<u8>,
    /// How many bytes of `read` were returned.
    done: usize,
    /// How many bytes of `read` are known to contain no line feed.
    searched: usize,
}

impl Link {
    pub(super) fn new(stream: UnixStream) -> Link {
        let (reader, writer) = stream.into_split();
        Link { reader, writer, next_id: 1, read: Vec::new(), done: 0, searched: 0 }
    }

    /// Sends a request and returns its id.
    pub(super) async fn request(&mut self, method: &str, params: &Value) -> io::Result<u64> {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&json!({ "id": id, "method": method, "params": params })).await?;
        Ok(id)
    }

    /// Sends a message.
    pub(super) async fn send(&mut self, message: &Value) -> io::Result<()> {
        let mut line = message.to_string().into_bytes();
        line.push(b'\n');
        self.writer.write_all(&line).await
    }

    /// Returns the next line without its line feed; `None` at the end of the connection. Cancel safe.
    pub(super) async fn line(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(length) = memchr::memchr(b'\n', &self.read[self.searched..]) {
                let end = self.searched + length;
                let line = self.read[self.done..end].to_vec();
                (self.done, self.searched) = (end + 1, end + 1);
                return Some(line);
            }
            self.read.drain(..self.done);
            self.done = 0;
            self.searched = self.read.len();
            self.read.reserve(READ_BYTES);
            match self.reader.read_buf(&mut self.read).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_cut_wherever_the_reads_end() {
        let (own, mut other) = UnixStream::pair().unwrap();
        let mut link = Link::new(own);
        let reader = async {
            let mut lines = Vec::new();
            while let Some(line) = link.line().await {
                lines.push(String::from_utf8(line).unwrap());
            }
            lines
        };
        let writer = async {
            for part in ["a", "b\nc\n", "\nlong", " line", "\ntorn"] {
                other.write_all(part.as_bytes()).await.unwrap();
                tokio::task::yield_now().await;
            }
            drop(other);
        };
        let (lines, ()) = tokio::join!(reader, writer);
        assert_eq!(lines, ["ab", "c", "", "long line"]);
    }
}
