//! What codex's own listener does where codexd does more: each comparison of the README. A codex that does more one day
//! fails here, and the README has to follow.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use codexd_tests::client::TestClient;
use codexd_tests::codex::{Codex, Version};
use codexd_tests::daemon::TestDaemon;
use codexd_tests::home::{CodexConfig, Home};
use codexd_tests::native::NativeListener;
use codexd_tests::wait::PATIENCE;
use codexd_tests::websocket;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tungstenite::Message;

/// How many requests are sent at once; the queue of codex has 128 places.
const FLOOD: usize = 1000;

fn native() -> Option<NativeListener> {
    let codex = Codex::for_test(Version::Current)?;
    Some(NativeListener::start(&codex, Home::new().unwrap(), &CodexConfig::default()))
}

fn codexd() -> TestDaemon {
    TestDaemon::real(Version::Current).unwrap().ready()
}

/// Starts a turn that goes on for a second and a half, and waits until it has sent something.
fn start_turn(client: &mut TestClient) {
    let thread = client.start_thread(json!({}));
    client.start_turn(&thread, "[[deltas:30:50]] go");
    client.take_method("item/agentMessage/delta");
}

/// Reads to the end of the connection; returns the status of each turn that has ended.
fn ended_turns(client: &mut TestClient) -> Vec<String> {
    let ends = client.recv_to_end().into_iter().filter(|message| message.method() == Some("turn/completed"));
    ends.map(|message| message["params"]["turn"]["status"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn killed_in_a_turn_native_says_nothing_and_codexd_ends_turn_and_request() {
    let Some(mut it) = native() else { return };
    let mut client = it.client("a");
    start_turn(&mut client);
    it.signal(Signal::SIGSTOP);
    let id = client.send_request("thread/list", json!({}));
    it.signal(Signal::SIGKILL);
    it.wait_exit();
    let rest = client.recv_to_end();
    assert!(!rest.iter().any(|message| message.is_answer_to(id)), "{rest:?}");
    assert!(!rest.iter().any(|message| message.method() == Some("turn/completed")), "{rest:?}");
    assert_eq!(client.close_frame(), None);

    let mut daemon = codexd();
    let mut client = daemon.websocket_client("a");
    start_turn(&mut client);
    daemon.signal_upstream(Signal::SIGSTOP);
    let id = client.send_request("thread/list", json!({}));
    daemon.signal_upstream(Signal::SIGKILL);
    assert_eq!(client.response(id).unwrap_err().code, -32010);
    assert_eq!(ended_turns(&mut client), ["failed"]);
    assert_eq!(client.close_frame().unwrap().0, 1011);
    assert_eq!(daemon.wait_exit().code(), Some(1));
}

#[test]
fn stopped_in_a_turn_native_breaks_off_and_codexd_sends_a_notice_and_finishes_the_turn() {
    let Some(mut it) = native() else { return };
    let mut client = it.client("a");
    start_turn(&mut client);
    it.signal(Signal::SIGTERM);
    // Most of the time the end of the turn is missing, too; which of the two comes first is left to chance.
    client.recv_to_end();
    assert_eq!(client.close_frame(), None);
    assert_eq!(it.wait_exit().code(), Some(0));

    let mut daemon = codexd();
    let mut client = daemon.websocket_client("a");
    start_turn(&mut client);
    daemon.term();
    client.take_method("notifications/broker/shuttingDown");
    assert_eq!(ended_turns(&mut client), ["completed"]);
    assert_eq!(client.close_frame().unwrap().0, 1001);
    assert_eq!(daemon.wait_exit().code(), Some(0));
}

/// Sends many requests in one write; returns how many are refused.
fn refused(socket: &Path) -> usize {
    let mut client = websocket::upgrade(UnixStream::connect(socket).unwrap()).unwrap();
    client.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    let info = json!({"clientInfo": {"name": "a", "version": "1"}});
    client.send(Message::text(json!({"id": 0, "method": "initialize", "params": info}).to_string())).unwrap();
    let read = |client: &mut tungstenite::WebSocket<UnixStream>| -> Value {
        serde_json::from_str(client.read().unwrap().to_text().unwrap()).unwrap()
    };
    while read(&mut client)["id"] != 0 {}
    for id in 1..=FLOOD {
        // Kept in the buffer of the WebSocket, which holds twice as much.
        client
            .write(Message::text(json!({"id": id, "method": "model/list", "params": {}}).to_string()))
            .unwrap();
    }
    client.flush().unwrap();
    let answers =
        std::iter::repeat_with(|| read(&mut client)).filter(|message| message["id"].is_u64()).take(FLOOD);
    answers.filter(|message| message["error"]["code"] == -32001).count()
}

#[test]
fn of_many_requests_at_once_native_refuses_some_and_codexd_none() {
    let Some(it) = native() else { return };
    assert!(refused(&it.socket()) > 0);
    assert_eq!(refused(&codexd().socket()), 0);
}

#[test]
fn lines_and_health_pages_are_for_codexd_only() {
    fn answer(socket: &Path, request: &str) -> String {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut text = String::new();
        // A connection that breaks off has answered as little as one that ends.
        let _ = stream.read_to_string(&mut text);
        text
    }
    let line =
        json!({"id": 1, "method": "initialize", "params": {"clientInfo": {"name": "a", "version": "1"}}});
    let line = format!("{line}\n");
    let page = "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let Some(it) = native() else { return };
    assert_eq!((answer(&it.socket(), &line), answer(&it.socket(), page)), (String::new(), String::new()));
    let daemon = codexd();
    assert!(answer(&daemon.socket(), &line).starts_with("{\"id\":1,\"result\":"));
    assert!(answer(&daemon.socket(), page).starts_with("HTTP/1.1 200 OK\r\n"));
}
