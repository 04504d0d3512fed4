//! A connection above the number of clients: it gets a response in its framing, and is not a client.

use std::time::Duration;

use codexd_proto::core::Refusal;
use codexd_proto::frame::Frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::{Request, Response, Wire};

/// Time for its request, and then for reading the response and ending.
const WITHIN: Duration = Duration::from_secs(5);

/// The longest line that is read: longer than any `initialize` of a known client.
const MAX_LINE_BYTES: usize = 64 << 10;

/// Bytes read at once.
const READ_BYTES: usize = 4 << 10;

/// What it gets.
pub(crate) enum Outcome {
    /// A page of HTTP.
    Page {
        /// Path without the query.
        path: String,
        /// Only the head of the response is wanted.
        head_only: bool,
    },
    /// These bytes: the refusal in its framing. Empty if it has sent no request.
    Refused(Vec<u8>),
}

/// Reads the request, for a bounded time.
pub(crate) async fn read_request(stream: &mut UnixStream, refusal: &Refusal) -> Outcome {
    let mut wire = Wire::Sniffing;
    match tokio::time::timeout(WITHIN, read(stream, &mut wire, refusal)).await {
        Ok(outcome) => outcome,
        Err(_) if matches!(wire, Wire::Http(_)) => Outcome::Refused(Response::timeout().into_bytes()),
        Err(_) => Outcome::Refused(Vec::new()),
    }
}

async fn read(stream: &mut UnixStream, wire: &mut Wire, refusal: &Refusal) -> Outcome {
    let mut bytes = [0; READ_BYTES];
    let mut answers = Vec::new();
    loop {
        let Ok(length @ 1..) = stream.read(&mut bytes).await else { return Outcome::Refused(answers) };
        let mut chunk = &bytes[..length];
        if matches!(wire, Wire::Sniffing) {
            match Wire::begun_with(&mut chunk, MAX_LINE_BYTES) {
                Some(begun) => *wire = begun,
                None => continue,
            }
        }
        match wire {
            Wire::Http(head) => match head.read(&mut chunk) {
                None => {}
                Some(Request::Get { path, head_only }) => return Outcome::Page { path, head_only },
                Some(Request::Upgrade(_)) => {
                    return Outcome::Refused(Response::full(refusal.message()).into_bytes());
                }
                Some(Request::Refused(response)) => return Outcome::Refused(response.into_bytes()),
                // Neither JSON nor HTTP: it cannot become a client either.
                Some(Request::Neither) => {
                    refusal.answer(b"?", &mut answers);
                    return Outcome::Refused(answers);
                }
            },
            Wire::Lines(decoder) => {
                let mut answered = false;
                while let Some(frame) = decoder.decode(&mut chunk) {
                    answered |= match frame {
                        Frame::Line(line) => refusal.answer(line, &mut answers),
                        Frame::Long(line) => refusal.answer(&line, &mut answers),
                        Frame::TooLong => refusal.answer(b"?", &mut answers),
                    };
                }
                if answered {
                    return Outcome::Refused(answers);
                }
            }
            Wire::Sniffing | Wire::WebSocket(_) | Wire::Ending(_) => return Outcome::Refused(answers),
        }
    }
}

/// Writes the response and waits for the peer's end, both for a bounded time: closing both halves on unread bytes would
/// be a reset, and the peer might not see the response.
pub(crate) async fn finish(mut stream: UnixStream, last: &[u8]) {
    let ending = async {
        let mut bytes = [0; READ_BYTES];
        if stream.write_all(last).await.is_ok() && stream.shutdown().await.is_ok() {
            while let Ok(1..) = stream.read(&mut bytes).await {}
        }
    };
    // A peer that does not read it has had its time.
    let _ = tokio::time::timeout(WITHIN, ending).await;
}

#[cfg(test)]
mod tests {
    use codexd_proto::core::{Core, CoreConfig, CoreSettings};
    use codexd_proto::router::{ClientShutdown, Limits, OrphanedTurns};
    use codexd_proto::time::Time;

    use super::*;

    /// The refusal of a daemon that accepts no client at all.
    fn refusal() -> Refusal {
        let settings = CoreSettings {
            limits: Limits { max_clients: 0, ..Limits::default() },
            client_shutdown: ClientShutdown::Never,
            orphaned_turns: OrphanedTurns::Keep,
            drain_ms: None,
            health_interval_ms: None,
            health_timeout_ms: None,
            idle_exit_ms: None,
        };
        Core::new(CoreConfig::default(), settings, Time::ZERO).refusal(7).unwrap()
    }

    /// Returns the outcome for a peer that sends this in pieces of `size` and then ends its sending half.
    async fn outcome(sent: &[u8], size: usize) -> Outcome {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let refusal = refusal();
        let talk = async {
            for piece in sent.chunks(size) {
                // The other side can have read enough.
                let _ = theirs.write_all(piece).await;
                tokio::task::yield_now().await;
            }
            let _ = theirs.shutdown().await;
        };
        tokio::join!(read_request(&mut ours, &refusal), talk).0
    }

    async fn refused(sent: &[u8], size: usize) -> String {
        match outcome(sent, size).await {
            Outcome::Refused(answer) => String::from_utf8(answer).unwrap(),
            Outcome::Page { path, .. } => panic!("it gets the page {path}"),
        }
    }

    #[tokio::test]
    async fn each_gets_its_response_in_its_framing() {
        let upgrade = "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        for size in [1, 7, 1000] {
            let lines = "\n{\"method\":\"initialized\"}\n{\"id\":\"a\",\"method\":\"initialize\"}\n";
            let answer = refused(lines.as_bytes(), size).await;
            assert!(
                answer.starts_with("{\"id\":\"a\",\"error\":{\"code\":-32001,\"message\":\"0 clients "),
                "{answer}"
            );
            assert!(answer.ends_with("\"retryable\":true,\"generation\":7}}}}\n"), "{answer}");

            let answer = refused(format!("{upgrade}\r\n").as_bytes(), size).await;
            assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
            assert!(answer.contains("\r\nretry-after: 1\r\n") && answer.contains("max_clients"), "{answer}");

            let answer = refused(format!("{upgrade}Origin: null\r\n\r\n").as_bytes(), size).await;
            assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
            let answer = refused(b"hello\n", size).await;
            assert!(answer.starts_with("{\"id\":null,\"error\":{\"code\":-32001,"), "{answer}");
            assert_eq!(refused(b"{\"method\":\"initialized\"}\n", size).await, "");
            assert_eq!(refused(b"", size).await, "");

            let page = outcome(b"HEAD /readyz?x HTTP/1.1\r\n\r\n", size).await;
            assert!(matches!(page, Outcome::Page { path, head_only: true } if path == "/readyz"));
        }
        // Each of several requests has its response, and a line that is too long has one without an id.
        let two = refused(b"{\"id\":1,\"method\":\"a\"}\n{\"id\":2,\"method\":\"b\"}\n", 1000).await;
        assert_eq!(two.matches("-32001").count(), 2, "{two}");
        let long = format!("{{\"id\":1,\"method\":\"{}\"}}\n", "x".repeat(MAX_LINE_BYTES));
        assert!(refused(long.as_bytes(), 1000).await.starts_with("{\"id\":null,"));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_sends_nothing_or_half_a_request_is_not_waited_for() {
        for (sent, expected) in
            [(&b"{\"id\":1"[..], ""), (b"", ""), (b" ", ""), (b"GET / HTTP/1.1\r\n", "HTTP/1.1 408 ")]
        {
            let (mut ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(sent).await.unwrap();
            let Outcome::Refused(answer) = read_request(&mut ours, &refusal()).await else {
                panic!("a page")
            };
            let answer = String::from_utf8(answer).unwrap();
            assert!(answer.starts_with(expected) && answer.is_empty() == expected.is_empty(), "{answer}");
            // Nor is one that reads nothing.
            finish(ours, &vec![b'x'; 1 << 20]).await;
        }
    }
}
