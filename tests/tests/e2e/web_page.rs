//! A web page that reaches a socket through a forwarded port: `ssh -L PORT:SOCKET`, socat, nginx.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use codexd_tests::client::TestClient;
use codexd_tests::daemon::TestDaemon;
use codexd_tests::output::Output;
use codexd_tests::skip;
use codexd_tests::wait::{self, PATIENCE};
use serde_json::json;

use crate::support::status;

/// A port on loopback whose connections lead to a socket, as those of `ssh -L` do.
struct Forwarded {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Forwarded {
    fn to(socket: PathBuf) -> Forwarded {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                forward(stream.unwrap(), UnixStream::connect(&socket).unwrap());
            }
        });
        Forwarded { address, over, accepting: Some(accepting) }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends bytes and returns all that comes until the other side closes.
    fn exchange(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // It accepts once more and sees that it is over.
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

/// Passes bytes both ways, each direction until its end.
fn forward(tcp: TcpStream, unix: UnixStream) {
    let (mut from_tcp, mut to_unix) = (tcp.try_clone().unwrap(), unix.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = io::copy(&mut from_tcp, &mut to_unix);
        let _ = to_unix.shutdown(Shutdown::Write);
    });
    let (mut from_unix, mut to_tcp) = (unix, tcp);
    std::thread::spawn(move || {
        let _ = io::copy(&mut from_unix, &mut to_tcp);
        let _ = to_tcp.shutdown(Shutdown::Write);
    });
}

/// The opening handshake of a WebSocket with these further header fields.
fn upgrade(fields: &str) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{fields}\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// A text frame with the mask 0.
fn text_frame(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap().to_be_bytes();
    [&b"\x81\xfe"[..], &length, b"\0\0\0\0", text.as_bytes()].concat()
}

/// Messages by which a page would run a program.
fn attack(mark: &Path) -> [String; 2] {
    let info = json!({"clientInfo": {"name": "page", "version": "1"}});
    let command = json!({"command": ["touch", mark]});
    [
        json!({"id": 1, "method": "initialize", "params": info}).to_string(),
        json!({"id": 2, "method": "command/exec", "params": command}).to_string(),
    ]
}

/// Checks that no message of a page reached the router or codex.
fn expect_untouched(daemon: &TestDaemon, mark: &Path) {
    daemon.client("other").recv_to_barrier();
    let log = daemon.fake_log();
    assert!(!log.contains("command/exec"), "{log}");
    assert!(!mark.exists(), "the program ran");
    let now = status(daemon);
    // `initialize` and the like of the client above, and no message more.
    assert!(now["counters"]["clientMessages"].as_u64() <= Some(4), "{now}");
}

#[test]
fn a_web_page_cannot_run_a_program_over_websocket() {
    let daemon = TestDaemon::fake("[[strict]]").ready();
    let port = Forwarded::to(daemon.socket());
    let mark = daemon.home().root().join("ran");
    let frames: Vec<u8> = attack(&mark).iter().flat_map(|text| text_frame(text)).collect();
    for field in [
        "Origin: https://evil.example\r\n",
        "origin: null\r\n",
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: websocket\r\n",
        "Cookie: a=b\r\n",
    ] {
        let answer = port.exchange(&[upgrade(field).as_bytes(), &frames].concat());
        assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{field}: {answer}");
        assert!(answer.contains("a program has to leave out"), "{answer}");
    }
    expect_untouched(&daemon, &mark);
    // A program is served on the same port.
    let mut stream = port.connect();
    stream.write_all(&[upgrade("").as_bytes(), &frames].concat()).unwrap();
    wait::until("the program runs", || daemon.fake_log().contains("command/exec"));
}

#[test]
fn lines_of_json_in_the_body_of_a_request_never_reach_the_router() {
    let daemon = TestDaemon::fake("[[strict]]").ready();
    let port = Forwarded::to(daemon.socket());
    let mark = daemon.home().root().join("ran");
    let body = format!("\n{}\n", attack(&mark).join("\n"));
    let length = body.len();
    // A page can choose the method, the path and the body of what it sends, and send nothing before them.
    let heads = [
        "POST / HTTP/1.1".to_owned(),
        "post / HTTP/1.1".to_owned(),
        "patch / HTTP/1.1".to_owned(),
        "x / HTTP/1.1".to_owned(),
        "0 / HTTP/1.1".to_owned(),
        "!#$%&'*+-.^_`|~ / HTTP/1.1".to_owned(),
        "GET /healthz HTTP/1.1".to_owned(),
        "GET / HTTP/1.1".to_owned(),
        "GET / HTTP/9.9".to_owned(),
        "\r\n patch / HTTP/1.1".to_owned(),
        format!("patch /{} HTTP/1.1", "a".repeat(20_000)),
        "\x16\x03\x01\x02\0".to_owned(),
        "USER x".to_owned(),
        "user x".to_owned(),
    ];
    for head in heads {
        for fields in ["", "Origin: https://evil.example\r\n", "Content-Type: text/plain\r\n"] {
            let request = format!("{head}\r\nHost: x\r\n{fields}Content-Length: {length}\r\n\r\n{body}");
            let answer = port.exchange(request.as_bytes());
            let refused = answer.starts_with("HTTP/1.1 ") || answer.starts_with("{\"id\":null,\"error\":");
            assert!(refused && answer.matches("\"id\":").count() <= 1, "{head}: {answer}");
        }
    }
    expect_untouched(&daemon, &mark);
}

#[test]
fn what_begins_with_neither_json_nor_http_is_answered_once_and_closed() {
    let daemon = TestDaemon::fake("[[strict]]").ready();
    for bytes in [&b"hello\n{\"id\":1,\"method\":\"broker/status\"}\n"[..], b"\xff\n", b"\"x\"\n", b"null\n"]
    {
        let mut client = daemon.raw_client("neither");
        client.send_bytes(bytes).unwrap();
        let seen = client.recv_to_end();
        assert_eq!(seen.len(), 1, "{seen:?}");
        let error = seen[0].outcome().unwrap_err();
        assert_eq!((error.code, &error.data["codexd"]["reason"]), (-32700, &json!("parseError")));
        assert_eq!(error.data["codexd"]["generation"], 1);
    }
}

#[test]
fn pages_are_answered_to_programs_and_not_to_browsers() {
    let daemon = TestDaemon::fake("[[strict]]").ready();
    let port = Forwarded::to(daemon.socket());
    let get =
        |path: &str, fields: &str| port.exchange(format!("GET {path} HTTP/1.1\r\n{fields}\r\n").as_bytes());
    for path in ["/healthz", "/readyz", "/metrics"] {
        for host in ["", "Host: localhost:1\r\n", "Host: 127.0.0.1:1\r\n", "Host: codexd\r\n"] {
            let answer = get(path, host);
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{path}: {answer}");
            assert!(answer.contains("\r\nx-content-type-options: nosniff\r\n"), "{answer}");
        }
        // The last one is a page whose name was made to resolve to this machine.
        for browser in
            ["Sec-Fetch-Site: none\r\n", "Origin: http://localhost:1\r\n", "Host: evil.example:1\r\n"]
        {
            let answer = get(path, browser);
            assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{path}: {answer}");
        }
    }
    if Command::new("curl").arg("--version").output().is_err() {
        return skip::say("no curl, for a part of it");
    }
    let curl = |arguments: &[&str]| {
        let mut command = daemon.home().command("curl".as_ref());
        command.args(["--silent", "--show-error", "--write-out", "%{http_code}", "--noproxy", "*"]);
        Output::of(command.args(arguments).arg(format!("http://{}/healthz", port.address)))
            .expect_code(0)
            .stdout
    };
    assert_eq!(curl(&[]), "ok\n200");
    assert!(curl(&["--header", "Origin: https://evil.example"]).ends_with("\n403"));
}

#[test]
fn a_web_page_cannot_stop_the_daemon_over_the_control_socket() {
    let daemon = TestDaemon::fake("[[strict]]").ready();
    let port = Forwarded::to(daemon.control_socket());
    let stop = json!({"jsonrpc": "2.0", "id": 1, "method": "codexd_stop", "params": ["now"]}).to_string();
    let request = [upgrade("Origin: https://evil.example\r\n").as_bytes(), &text_frame(&stop)].concat();
    let answer = port.exchange(&request);
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
    let post = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{stop}", stop.len());
    let answer = port.exchange(post.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
    assert_eq!(status(&daemon)["state"], "serving");
    TestClient::connect("other", &daemon.socket()).initialize();
}
