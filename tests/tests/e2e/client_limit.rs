//! The number of clients: a connection above it gets the reason, and the pages of HTTP.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use codexd_tests::client::TestClient;
use codexd_tests::daemon::TestDaemon;
use codexd_tests::home::Home;
use codexd_tests::wait::{self, PATIENCE};
use codexd_tests::websocket;
use serde_json::{Value, json};

use crate::many::with_open_files;
use crate::support::{reason, status};

/// A daemon with as many clients as it accepts.
fn full(clients: usize) -> (TestDaemon, Vec<TestClient>) {
    let daemon =
        TestDaemon::fake("[[strict]]").config(&format!("[limits]\nmax_clients = {clients}\n")).ready();
    let clients = (0..clients).map(|n| daemon.client(&format!("client {n}"))).collect();
    (daemon, clients)
}

fn connect(daemon: &TestDaemon) -> UnixStream {
    let stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn get(daemon: &TestDaemon, path: &str) -> String {
    let mut stream = connect(daemon);
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Checks that a new client is refused: each of its requests, in order.
fn expect_refusal(daemon: &TestDaemon, words: &str) {
    let mut client = daemon.raw_client("above the limit");
    let lines = "\n{\"id\":\"a\",\"method\":\"initialize\"}\n{\"method\":\"initialized\"}\n{\"id\":7,\"method\":\"x\"}\n";
    client.send_bytes(lines.as_bytes()).unwrap();
    let answers = client.recv_to_end();
    let ids: Vec<&Value> = answers.iter().map(|answer| &answer["id"]).collect();
    assert_eq!(ids, [&json!("a"), &json!(7)]);
    for answer in &answers {
        let error = answer.outcome().unwrap_err();
        assert_eq!((error.code, reason(&error)), (-32001, "tooManyClients"), "{error:?}");
        assert!(error.message.contains(words), "{error:?}");
        let mark = &error.data["codexd"];
        assert_eq!((&mark["delivered"], &mark["retryable"]), (&json!("no"), &json!(true)), "{error:?}");
    }
}

#[test]
fn a_client_above_the_limit_gets_the_reason_in_its_framing_and_the_others_stay() {
    let (daemon, mut clients) = full(3);
    for _ in 0..4 {
        expect_refusal(&daemon, "3 clients are connected, as many as `limits.max_clients` allows");
    }
    let Err(error) = websocket::upgrade(connect(&daemon)) else { panic!("it is accepted") };
    let tungstenite::Error::Http(answer) = *error else { panic!("{error}") };
    assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    for client in &mut clients {
        client.recv_to_barrier();
    }
    assert_eq!(status(&daemon)["counters"]["clientsRefused"], 5);
    // The log has the first of many.
    assert_eq!(daemon.stderr().matches("refused a client").count(), 1, "{}", daemon.stderr());
    clients.pop();
    wait::until("there is room", || status(&daemon)["clients"] == 2);
    daemon.websocket_client("another").recv_to_barrier();
}

#[test]
fn pages_are_answered_above_the_limit() {
    let (daemon, _clients) = full(2);
    for _ in 0..3 {
        assert!(get(&daemon, "/healthz").ends_with("\r\n\r\nok\n"));
        assert!(get(&daemon, "/readyz").ends_with("\r\n\r\nserving\n"));
        let metrics = get(&daemon, "/metrics");
        assert!(
            metrics.contains("\ncodexd_clients 2\n") && metrics.contains("\ncodexd_clients_max 2\n"),
            "{metrics}"
        );
    }
    assert!(get(&daemon, "/nothing").starts_with("HTTP/1.1 404 "));
    assert_eq!(status(&daemon)["counters"]["clientsRefused"], 0);
}

#[test]
fn silent_connections_above_the_limit_keep_no_other_from_its_response() {
    let (mut daemon, mut clients) = full(1);
    let silent: Vec<UnixStream> = (0..100).map(|_| connect(&daemon)).collect();
    let half: Vec<UnixStream> = (0..20)
        .map(|_| {
            let mut stream = connect(&daemon);
            stream.write_all(b"{\"id\":1").unwrap();
            stream
        })
        .collect();
    assert!(get(&daemon, "/healthz").ends_with("ok\n"));
    expect_refusal(&daemon, "1 client is connected");
    clients[0].recv_to_barrier();
    assert_eq!(daemon.stop(), 0);
    drop((silent, half));
}

#[test]
fn the_status_warns_while_clients_are_refused_and_names_the_remedy() {
    let (daemon, mut clients) = full(2);
    let now = status(&daemon);
    assert_eq!((&now["clients"], &now["maxClients"]), (&json!(2), &json!(2)));
    let warning = &now["warnings"][0];
    assert_eq!(warning["code"], "tooManyClients");
    assert_eq!(
        warning["message"],
        "new clients are refused: 2 clients are connected, as many as `limits.max_clients` allows"
    );
    assert!(warning["hint"].as_str().unwrap().contains("`codexd ctl reload`"), "{warning}");
    // The remedy works.
    daemon.home().write_config("[limits]\nmax_clients = 3\n").unwrap();
    let _ = daemon.ctl(&["reload"]).expect_code(0);
    assert_eq!(status(&daemon)["warnings"], json!([]));
    clients.push(daemon.client("third"));
    assert_eq!(status(&daemon)["warnings"][0]["code"], "tooManyClients");
    clients.clear();
    wait::until("there is room", || status(&daemon)["warnings"] == json!([]));
}

#[test]
fn a_daemon_that_runs_out_of_files_refuses_new_clients_and_serves_the_connected_ones() {
    let home = Home::new().unwrap();
    let program = with_open_files(&home, 48, 96);
    let mut daemon = TestDaemon::fake("[[strict]]").home(home).codexd(&program).ready();
    let now = status(&daemon);
    assert_eq!((&now["openFilesLimit"], &now["maxClients"]), (&json!(96), &json!(48)));
    assert_eq!(now["warnings"], json!([]));
    let mut first = daemon.client("first");
    let thread = first.start_thread(json!({}));
    let others: Vec<UnixStream> = (0..47).map(|_| connect(&daemon)).collect();
    wait::until("it is full", || status(&daemon)["warnings"][0]["code"] == "tooManyClients");
    let warning = status(&daemon)["warnings"][0].clone();
    assert!(warning["message"].as_str().unwrap().contains("the limit on open files, 96,"), "{warning}");
    assert!(warning["hint"].as_str().unwrap().contains("LimitNOFILE="), "{warning}");
    expect_refusal(&daemon, "48 clients are connected, as many as the limit on open files leaves room for");
    assert!(get(&daemon, "/readyz").ends_with("serving\n"));
    for _ in 0..3 {
        assert_eq!(first.turn(&thread, "hello").status, "completed");
    }
    assert_eq!(status(&daemon)["clients"], 48);
    drop(others);
    wait::until("all is well", || status(&daemon)["warnings"] == json!([]));
    daemon.client("last").recv_to_barrier();
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn connect_says_at_once_what_it_waits_for_and_is_served_when_a_client_leaves() {
    let (daemon, mut clients) = full(1);
    let file = daemon.home().root().join("connect.stderr");
    let mut command = daemon.command(&["connect", "--no-direct"]);
    let mut bridge = TestClient::spawn("bridge", command.stderr(std::fs::File::create(&file).unwrap()));
    let stderr = || std::fs::read_to_string(&file).unwrap();
    let info = json!({"clientInfo": {"name": "bridge", "version": "1"}, "capabilities": null});
    let id = bridge.send_request("initialize", info);
    let words = "1 client is connected, as many as `limits.max_clients` allows";
    wait::until("it says so", || stderr().contains(words));
    wait::until("it tries again", || status(&daemon)["counters"]["clientsRefused"].as_u64() > Some(3));
    let said = stderr();
    assert_eq!((said.lines().count(), said.matches("trying again for up to 60 s").count()), (1, 1), "{said}");
    clients[0].recv_to_barrier();
    clients.clear();
    assert!(bridge.response(id).is_ok());
    assert_eq!(stderr().lines().count(), 1, "{}", stderr());
    bridge.finish_sending();
    assert_eq!(bridge.wait_exit().code(), Some(0));
}
