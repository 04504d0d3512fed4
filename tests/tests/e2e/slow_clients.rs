//! A client that is closed because it does not read gets the reason, and so does its operator.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{ChildStdout, Stdio};

use codexd_tests::client::TestClient;
use codexd_tests::daemon::TestDaemon;
use codexd_tests::wait::{self, PATIENCE};
use serde_json::{Value, json};

use crate::support::{Started, status};

const CLOSING: &str = "notifications/broker/closing";

fn daemon() -> TestDaemon {
    let limits = "[limits]\nclient_queue_soft_bytes = 100000\nclient_queue_hard_bytes = 1000000\n\
                  client_queue_max_bytes = 4000000\n";
    TestDaemon::fake("[[strict]]").config(limits).ready()
}

/// A thread of a client that reads, for others to join.
fn busy_thread(daemon: &TestDaemon) -> (TestClient, String) {
    let mut client = daemon.client("reads");
    let thread = client.start_thread(json!({}));
    client.turn(&thread, "first");
    (client, thread)
}

/// The first lines of a client that joins the thread.
fn joining(name: &str, thread: &str) -> String {
    let info = json!({"clientInfo": {"name": name, "version": "1"}});
    let resume = json!({"id": 2, "method": "thread/resume", "params": {"threadId": thread}});
    format!("{}\n{resume}\n", json!({"id": 1, "method": "initialize", "params": info}))
}

/// Reads lines up to and with the answer to the second request of [`joining`].
fn joined(lines: &mut impl BufRead) {
    let mut line = String::new();
    while !line.starts_with("{\"id\":2,") {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "the connection ended");
    }
}

/// Has the thread send so much that the client that does not read is closed.
fn flood(daemon: &TestDaemon, client: &mut TestClient, thread: &str) {
    let too_slow = || status(daemon)["counters"]["clientsTooSlow"].as_u64().unwrap();
    while too_slow() == 0 {
        assert_eq!(client.turn(thread, "[[flood:100:10000]]").status, "completed");
    }
    assert_eq!(too_slow(), 1);
}

/// Checks that these are whole messages, of which the last one, and no other, is the closing notice.
fn expect_notice(bytes: &[u8]) -> Value {
    let text = std::str::from_utf8(bytes).unwrap();
    assert!(text.ends_with('\n'), "the last line is cut off");
    let messages: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let closing = |message: &Value| message["method"] == CLOSING;
    assert_eq!(messages.iter().filter(|message| closing(message)).count(), 1);
    let notice = messages.last().unwrap().clone();
    assert!(closing(&notice), "{notice}");
    let params = &notice["params"];
    assert_eq!((&params["reason"], &params["generation"]), (&json!("tooSlow"), &json!(1)));
    assert!(params["queuedBytes"].as_u64().unwrap() > 1_000_000, "{notice}");
    notice
}

#[test]
fn a_client_of_lines_that_does_not_read_gets_the_reason_after_what_it_was_sent() {
    let daemon = daemon();
    let (mut client, thread) = busy_thread(&daemon);
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(joining("the slow one", &thread).as_bytes()).unwrap();
    let mut lines = BufReader::new(stream);
    joined(&mut lines);
    flood(&daemon, &mut client, &thread);
    let mut rest = Vec::new();
    lines.read_to_end(&mut rest).unwrap();
    let notice = expect_notice(&rest);
    // The log has the same, with the name and the process of the client.
    let log = daemon.stderr();
    let line =
        log.lines().find(|line| line.contains("closing a client that does not read fast enough")).unwrap();
    assert!(line.contains(" WARN "), "{line}");
    for part in [
        "client.id=2".to_owned(),
        "client.name=\"the slow one\"".to_owned(),
        format!("client.pid={}", std::process::id()),
        format!("queued_bytes={}", notice["params"]["queuedBytes"]),
    ] {
        assert!(line.contains(&part), "{part}: {line}");
    }
    assert_eq!(log.matches("does not read").count(), 1, "{log}");
    client.recv_to_barrier();
}

/// A bridge whose output the test reads or not.
fn bridge(daemon: &TestDaemon, name: &str) -> (Started, BufReader<ChildStdout>, std::path::PathBuf) {
    let stderr = daemon.home().root().join(format!("{name}.stderr"));
    let mut command = daemon.command(&["connect", "--no-direct"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(std::fs::File::create(&stderr).unwrap());
    let mut started = Started::of(&mut command);
    let lines = BufReader::new(started.0.stdout.take().unwrap());
    (started, lines, stderr)
}

#[test]
fn connect_says_why_while_its_client_still_does_not_read() {
    let daemon = daemon();
    let (mut client, thread) = busy_thread(&daemon);
    let (mut bridge, mut lines, stderr) = bridge(&daemon, "bridge");
    let mut stdin = bridge.0.stdin.take().unwrap();
    stdin.write_all(joining("bridged", &thread).as_bytes()).unwrap();
    joined(&mut lines);
    flood(&daemon, &mut client, &thread);
    let said = || std::fs::read_to_string(&stderr).unwrap();
    if cfg!(target_os = "linux") {
        wait::until("it says why", || said().contains("closes the connection of this client: too slow: "));
        assert!(bridge.0.try_wait().unwrap().is_none(), "what the client has not read yet is not lost");
    }
    let mut rest = Vec::new();
    lines.read_to_end(&mut rest).unwrap();
    expect_notice(&rest);
    assert_eq!(bridge.exit_code(), Some(1));
    assert!(said().contains("codexd closed the connection (too slow: "), "{}", said());
    assert!(said().contains("hint: connect again and resume the thread"), "{}", said());
    drop(stdin);
}

#[test]
fn connect_answers_pending_requests_with_the_reason() {
    let daemon = daemon();
    let (mut client, thread) = busy_thread(&daemon);
    let (mut bridge, mut lines, stderr) = bridge(&daemon, "bridge");
    let mut stdin = bridge.0.stdin.take().unwrap();
    stdin.write_all(joining("bridged", &thread).as_bytes()).unwrap();
    joined(&mut lines);
    let exec = json!({"id": "long", "method": "command/exec", "params": {"command": ["sleep", "300"]}});
    stdin.write_all(format!("{exec}\n").as_bytes()).unwrap();
    wait::until("it runs", || daemon.processes().iter().any(|process| process.command == "sleep 300"));
    flood(&daemon, &mut client, &thread);
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    let last: Value = serde_json::from_str(rest.lines().last().unwrap()).unwrap();
    assert_eq!((&last["id"], &last["error"]["code"]), (&json!("long"), &json!(-32010)), "{last}");
    assert!(last["error"]["message"].as_str().unwrap().contains("too slow: "), "{last}");
    assert!(rest.contains(CLOSING));
    assert_eq!(bridge.exit_code(), Some(1));
    let said = std::fs::read_to_string(&stderr).unwrap();
    assert!(said.contains("; 1 requests were not answered"), "{said}");
    drop(stdin);
}

#[test]
fn connect_answers_pending_requests_when_an_operator_disconnects_it() {
    let daemon = daemon();
    let (_client, thread) = busy_thread(&daemon);
    let (mut bridge, mut lines, stderr) = bridge(&daemon, "bridge");
    let mut stdin = bridge.0.stdin.take().unwrap();
    stdin.write_all(joining("bridged", &thread).as_bytes()).unwrap();
    joined(&mut lines);
    let exec = json!({"id": "long", "method": "command/exec", "params": {"command": ["sleep", "301"]}});
    stdin.write_all(format!("{exec}\n").as_bytes()).unwrap();
    wait::until("it runs", || daemon.processes().iter().any(|process| process.command == "sleep 301"));
    let _ = daemon.ctl(&["kill", "bridged"]).expect_code(0);
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    let last: Value = serde_json::from_str(rest.lines().last().unwrap()).unwrap();
    assert_eq!((&last["id"], &last["error"]["code"]), (&json!("long"), &json!(-32010)), "{last}");
    assert_eq!(last["error"]["data"]["codexd"]["delivered"], "maybe");
    assert!(rest.contains(CLOSING) && rest.contains("\"killed\""), "{rest}");
    // It does not come back: somebody has disconnected it.
    assert_eq!(bridge.exit_code(), Some(1));
    let said = std::fs::read_to_string(&stderr).unwrap();
    assert!(said.contains("disconnected"), "{said}");
    drop(stdin);
}
