//! Answering clients that wait for a daemon which cannot start.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use super::Failure;
use crate::os::peer::check_peer;

/// The error code for "there is no upstream"; the same as the router's.
const UPSTREAM_LOST: i64 = -32010;
/// How long a client may take to send its first request.
const ASKS_WITHIN: Duration = Duration::from_secs(1);
/// The longest first line that is looked at, in bytes.
const MAX_LINE_BYTES: usize = 64 << 10;
/// Clients answered at the same time; the others wait their turn.
const MAX_AT_ONCE: usize = 64;

/// Answers every client that waits, and every one that connects within `linger`. Returns at once when none waits.
pub(super) fn all(listener: &UnixListener, failure: &Failure, linger: Duration) {
    let deadline = Instant::now() + linger;
    if !is_waited_for(listener, Duration::ZERO) {
        return;
    }
    crate::os::service_manager::status(&format!("cannot start: {}", failure.message));
    std::thread::scope(|scope| {
        let mut answering = Vec::new();
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            answering.retain(|thread: &std::thread::ScopedJoinHandle<'_, ()>| !thread.is_finished());
            if answering.len() >= MAX_AT_ONCE {
                // The oldest is done within its time.
                let _ = answering.remove(0).join();
            }
            if !is_waited_for(listener, left) {
                break;
            }
            if let Ok((stream, _)) = listener.accept()
                && check_peer(&stream).is_ok()
            {
                answering.push(scope.spawn(move || {
                    if let Err(error) = answer(&stream, failure) {
                        tracing::debug!(%error, "a client disconnected before it got the reason why there is no daemon");
                    }
                }));
            }
        }
    });
}

fn is_waited_for(listener: &UnixListener, timeout: Duration) -> bool {
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, timeout).is_ok_and(|ready| ready > 0)
}

/// Waits for the first request of a client, answers it and closes the connection.
fn answer(mut stream: &UnixStream, failure: &Failure) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(ASKS_WITHIN))?;
    stream.set_write_timeout(Some(ASKS_WITHIN))?;
    let asked = Instant::now();
    let (mut line, mut chunk) = (Vec::new(), [0u8; 4096]);
    while asked.elapsed() < ASKS_WITHIN && line.len() < MAX_LINE_BYTES {
        let n = stream.read(&mut chunk)?;
        line.extend_from_slice(&chunk[..n]);
        if n == 0 || line.contains(&b'\n') {
            break;
        }
    }
    stream.write_all(&reply(&line, failure))?;
    stream.shutdown(Shutdown::Both)
}

/// Returns the answer to what a client sent first: HTTP to HTTP, an error response to a request, and
/// nothing to anything else.
fn reply(sent: &[u8], failure: &Failure) -> Vec<u8> {
    if sent.starts_with(b"GET ") {
        let body = format!("{}\n", failure.message);
        return format!(
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .into_bytes();
    }
    let line = sent.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let Ok(Value::Object(request)) = serde_json::from_slice(line) else { return Vec::new() };
    let Some(id) = request.get("id").filter(|_| request.contains_key("method")) else { return Vec::new() };
    let answer = json!({
        "id": id,
        "error": {
            "code": UPSTREAM_LOST,
            "message": format!("codexd cannot start: {}", failure.message),
            "data": { "codexd": {
                "reason": "startFailed",
                "delivered": "no",
                "retryable": failure.retryable,
                "exitCode": failure.code,
            } },
        },
    });
    format!("{answer}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};

    use super::*;

    fn failure() -> Failure {
        Failure { code: 78, message: "unknown key `x`".to_owned(), retryable: false }
    }

    #[test]
    fn each_waiting_client_learns_the_reason_in_its_own_language() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let mut json = UnixStream::connect(&path).unwrap();
        json.write_all(b"{\"id\":\"a\",\"method\":\"initialize\",\"params\":{}}\n").unwrap();
        let mut http = UnixStream::connect(&path).unwrap();
        http.write_all(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n").unwrap();
        let mut other = UnixStream::connect(&path).unwrap();
        other.write_all(b"nonsense\n").unwrap();
        all(&listener, &failure(), Duration::from_millis(50));

        let mut line = String::new();
        BufReader::new(json).read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(answer["id"], "a");
        assert_eq!(answer["error"]["code"], UPSTREAM_LOST);
        assert_eq!(answer["error"]["message"], "codexd cannot start: unknown key `x`");
        assert_eq!(answer["error"]["data"]["codexd"]["retryable"], false);
        assert_eq!(answer["error"]["data"]["codexd"]["exitCode"], 78);
        let mut text = String::new();
        http.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 503 ") && text.ends_with("unknown key `x`\n"), "{text}");
        let mut nothing = Vec::new();
        other.read_to_end(&mut nothing).unwrap();
        assert!(nothing.is_empty());
    }

    #[test]
    fn nobody_waiting_is_no_reason_to_linger() {
        let dir = crate::os::test_dir::test_dir();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let before = Instant::now();
        all(&listener, &failure(), Duration::from_secs(60));
        assert!(before.elapsed() < Duration::from_secs(30));
    }
}
