//! Plain HTTP on the clients' socket, and how it is distinguished from the other framings.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

use codexd_tests::client::TestClient;
use codexd_tests::daemon::TestDaemon;
use codexd_tests::output::Output;
use codexd_tests::skip;
use codexd_tests::wait::{self, PATIENCE};

fn connect(daemon: &TestDaemon) -> UnixStream {
    let stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends bytes and returns all that comes until the other side closes.
fn exchange(daemon: &TestDaemon, request: &[u8]) -> String {
    let mut stream = connect(daemon);
    stream.write_all(request).unwrap();
    rest(&mut stream)
}

fn rest(stream: &mut UnixStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

pub(crate) fn get(daemon: &TestDaemon, path: &str) -> String {
    exchange(daemon, format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
}

/// Returns the value of a metric.
fn metric(daemon: &TestDaemon, name: &str) -> u64 {
    let answer = get(daemon, "/metrics");
    let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {answer}")).parse().unwrap()
}

#[test]
fn health_and_readiness_are_answered() {
    let daemon = TestDaemon::fake("").ready();
    let health = get(&daemon, "/healthz?verbose");
    assert!(health.starts_with("HTTP/1.1 200 OK\r\n") && health.ends_with("\r\n\r\nok\n"), "{health}");
    assert!(health.contains("\r\ncontent-length: 3\r\n") && health.contains("\r\nconnection: close\r\n"));
    let ready = get(&daemon, "/readyz");
    assert!(ready.starts_with("HTTP/1.1 200 ") && ready.ends_with("\r\n\r\nserving\n"), "{ready}");
    let head = exchange(&daemon, b"HEAD /healthz HTTP/1.0\r\n\r\n");
    assert!(head.contains("content-length: 3\r\n") && head.ends_with("\r\n\r\n"), "{head}");
}

#[test]
fn a_daemon_that_waits_for_codex_is_healthy_and_not_ready() {
    let daemon = TestDaemon::fake("[[init-hang]]").start();
    wait::until("there is a socket", || UnixStream::connect(daemon.socket()).is_ok());
    wait::until("it waits for codex", || get(&daemon, "/readyz").ends_with("handshaking\n"));
    assert!(get(&daemon, "/readyz").starts_with("HTTP/1.1 503 "));
    assert!(get(&daemon, "/healthz").starts_with("HTTP/1.1 200 "));
}

#[test]
fn metrics_count_clients_but_not_those_who_ask_for_them() {
    let daemon = TestDaemon::fake("").ready();
    assert_eq!((metric(&daemon, "codexd_ready"), metric(&daemon, "codexd_clients")), (1, 0));
    let mut client = daemon.client("one");
    let other = daemon.websocket_client("two");
    let thread = client.start_thread(serde_json::json!({}));
    client.turn(&thread, "go");
    assert_eq!(metric(&daemon, "codexd_clients"), 2);
    assert_eq!(metric(&daemon, "codexd_turns_completed_total"), 1);
    assert!(metric(&daemon, "codexd_delivered_messages_total") > 5);
    drop((client, other));
    wait::until("both are gone", || metric(&daemon, "codexd_clients") == 0);
}

#[test]
fn what_is_not_there_or_not_http_is_refused() {
    let daemon = TestDaemon::fake("").ready();
    let cases: [(&[u8], &str); 6] = [
        (b"GET / HTTP/1.1\r\n\r\n", "404"),
        (b"POST /healthz HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "405"),
        (b"DELETE /nothing HTTP/1.1\r\n\r\n", "405"),
        (b"HELLO\r\n", "400"),
        (b"GET /healthz SIP/2.0\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", "426"),
    ];
    for (request, status) in cases {
        let answer = exchange(&daemon, request);
        let shown = String::from_utf8_lossy(request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{shown}: {answer}");
        assert!(answer.contains("connection: "), "{answer}");
    }
    let long = format!("GET /healthz HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    assert!(exchange(&daemon, long.as_bytes()).starts_with("HTTP/1.1 431 "));
    // More than is ever read, from a client that does not stop sending.
    let endless = format!("GET /{}", "x".repeat(1 << 20));
    assert!(exchange(&daemon, endless.as_bytes()).starts_with("HTTP/1.1 431 "));
}

#[test]
fn a_head_that_does_not_end_is_answered_in_the_end() {
    let daemon = TestDaemon::fake("").ready();
    let answer = exchange(&daemon, b"GET /healthz HTTP/1.1\r\nHost: a");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[test]
fn what_a_client_speaks_may_come_late_and_byte_by_byte() {
    let daemon = TestDaemon::fake("").ready();
    let (mut http, mut lines) = (connect(&daemon), connect(&daemon));
    let mut websocket = connect(&daemon);
    // All three are connected and silent while another one works.
    let mut client = daemon.client("at once");
    let thread = client.start_thread(serde_json::json!({}));
    assert_eq!(client.turn(&thread, "go").status, "completed");

    let mut slowly = |stream: &mut UnixStream, text: &str| {
        for byte in text.bytes() {
            stream.write_all(&[byte]).unwrap();
            // Until it was read: so each byte is a read of its own.
            client.recv_to_barrier();
        }
    };
    slowly(&mut http, "GET /healthz HTTP/1.1\r\n\r\n");
    assert!(rest(&mut http).ends_with("ok\n"));
    slowly(&mut lines, "\n {\"id\":\"a\",\"method\":\"broker/status\"}\r\n");
    let mut lines = TestClient::over("late", lines);
    assert_eq!(lines.recv()["id"], "a");
    let upgrade = "GET /rpc?x HTTP/1.1\r\nUPGRADE: WebSocket\r\nconnection: upgrade\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    slowly(&mut websocket, upgrade);
    // A masked `{}`.
    websocket.write_all(b"\x81\x82\0\0\0\0{}").unwrap();
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains("-32600") {
        let mut some = [0; 4096];
        let n = websocket.read(&mut some).unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&some[..n]);
    }
    let answer = String::from_utf8_lossy(&answer).to_lowercase();
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    assert!(
        answer.contains("\r\nx-codex-websocket-max-unfragmented-message-bytes: 16777216\r\n"),
        "{answer}"
    );
    assert!(answer.contains("\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{answer}");
}

#[test]
fn a_client_that_only_closed_its_sending_half_is_answered() {
    let daemon = TestDaemon::fake("").ready();
    let mut stream = connect(&daemon);
    stream.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(rest(&mut stream).ends_with("ok\n"));
}

#[test]
fn curl_is_answered() {
    if Command::new("curl").arg("--version").output().is_err() {
        skip::say("no curl");
        return;
    }
    let daemon = TestDaemon::fake("").ready();
    let mut command = daemon.home().command("curl".as_ref());
    command.args(["--silent", "--show-error", "--fail", "--unix-socket"]).arg(daemon.socket());
    let output = Output::of(command.args(["http://localhost/healthz", "http://localhost/readyz"]));
    assert_eq!(output.expect_code(0).stdout, "ok\nserving\n");
}
