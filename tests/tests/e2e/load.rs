//! Crowds, floods and clients that do not read: which clients are affected, and what it costs.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use codexd_tests::client::{Message, TestClient};
use codexd_tests::daemon::TestDaemon;
use codexd_tests::skip;
use codexd_tests::wait::{self, PATIENCE};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::support::{deltas, handled, quiet_client, reason, status};

/// Raises this process's limit on open files; false when the system refuses.
fn may_open(files: u64) -> bool {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    soft >= files || (hard >= files && setrlimit(Resource::RLIMIT_NOFILE, files, hard).is_ok())
}

/// Returns a number of kibibytes from `/proc/PID/status` (proc_pid_status(5)): `VmRSS`, the memory that is
/// used, or `VmHWM`, the most that ever was.
fn memory_kib(daemon: &TestDaemon, field: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Prints the memory figures of `docs/operations.md`: run with `--nocapture`.
fn print_memory(when: &str, daemon: &TestDaemon) {
    if let (Some(now), Some(most)) = (memory_kib(daemon, "VmRSS"), memory_kib(daemon, "VmHWM")) {
        eprintln!("{when}: {now} KiB, at the most {most} KiB");
    }
}

/// Connects without a thread of its own, so that a thousand are no burden.
pub(crate) fn connect(daemon: &TestDaemon) -> BufReader<UnixStream> {
    let stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    BufReader::with_capacity(4096, stream)
}

/// Introduces a client and asks something, all in one.
pub(crate) fn introduce(client: &mut BufReader<UnixStream>, name: &str) {
    let info = json!({"clientInfo": {"name": name, "version": "1"}});
    let text = format!(
        "{}\n{}\n",
        json!({"id": 1, "method": "initialize", "params": info}),
        json!({"id": name, "method": "model/list", "params": {}})
    );
    client.get_mut().write_all(text.as_bytes()).unwrap();
}

/// Reads up to the answer to a request.
pub(crate) fn answer(client: &mut BufReader<UnixStream>, id: &Value) -> Value {
    loop {
        let mut line = String::new();
        assert!(client.read_line(&mut line).unwrap() > 0, "the connection ended before the answer to {id}");
        let message: Value = serde_json::from_str(&line).unwrap();
        if &message["id"] == id && message["method"].is_null() {
            return message;
        }
    }
}

#[test]
fn a_thousand_clients_are_served_at_once_and_cost_little() {
    const CLIENTS: usize = 1000;
    if !may_open(2000) {
        skip::say("too few files");
        return;
    }
    let mut daemon = TestDaemon::fake("[[strict]]").ready();
    print_memory("idle", &daemon);
    let mut clients = Vec::new();
    let serve = |clients: &mut Vec<BufReader<UnixStream>>, number: usize| {
        let before = clients.len();
        clients.extend((before..number).map(|_| connect(&daemon)));
        let names: Vec<String> = (before..number).map(|n| format!("client {n}")).collect();
        for (client, name) in clients[before..].iter_mut().zip(&names) {
            introduce(client, name);
        }
        for (client, name) in clients[before..].iter_mut().zip(&names) {
            assert!(answer(client, &json!(1))["result"].is_object());
            assert_eq!(answer(client, &json!(name))["result"]["data"][0]["id"], "fake-model");
        }
        assert_eq!(status(&daemon)["clients"], number);
        print_memory(&format!("{number} clients"), &daemon);
        memory_kib(&daemon, "VmRSS")
    };
    let hundred = serve(&mut clients, 100);
    let thousand = serve(&mut clients, CLIENTS);
    if let (Some(hundred), Some(thousand)) = (hundred, thousand) {
        assert!(thousand < hundred + 900 * 16, "{hundred} KiB with 100, {thousand} KiB with {CLIENTS}");
    }
    // Each is still there, and no message went to another client.
    for (n, client) in clients.iter_mut().enumerate() {
        client.get_mut().write_all(b"{\"id\":3,\"method\":\"broker/status\"}\n").unwrap();
        assert_eq!(answer(client, &json!(3))["result"]["state"], "serving", "client {n}");
    }
    drop(clients);
    wait::until("all are gone", || status(&daemon)["clients"] == 0);
    assert_eq!(daemon.complaints(), Vec::<String>::new());
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_storm_of_connections_without_a_word_disturbs_nobody() {
    const THREADS: u64 = 4;
    const EACH: u64 = 500;
    let daemon = TestDaemon::fake("[[strict]]").ready();
    let mut client = quiet_client(&daemon, "good");
    let thread = client.start_thread(json!({}));
    let files = || std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).map_or(0, Iterator::count);
    let before = files();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| (0..EACH).for_each(|_| drop(UnixStream::connect(daemon.socket()).unwrap())));
        }
        for _ in 0..5 {
            assert_eq!(client.turn(&thread, "hello").status, "completed");
        }
    });
    wait::until("all are gone", || status(&daemon)["clients"] == 1);
    wait::until("their files are closed", || files() <= before);
    let now = status(&daemon);
    let counted = ["clientsAccepted", "clientsRefused"].map(|name| now["counters"][name].as_u64().unwrap());
    assert_eq!(counted[0] + counted[1], THREADS * EACH + 1);
    assert_eq!(client.turn(&thread, "hello").status, "completed");
}

/// Connects, takes part in a thread, and then reads no more.
fn sleeper(daemon: &TestDaemon, thread: &str) -> UnixStream {
    let mut stream = connect(daemon);
    introduce(&mut stream, "asleep");
    answer(&mut stream, &json!("asleep"));
    let resume = json!({"id": 2, "method": "thread/resume", "params": {"threadId": thread}});
    stream.get_mut().write_all(format!("{resume}\n").as_bytes()).unwrap();
    answer(&mut stream, &json!(2));
    stream.into_inner()
}

#[test]
fn a_client_that_never_reads_is_closed_while_another_gets_twenty_thousand_deltas_in_order() {
    const DELTAS: usize = 20_000;
    let limits = "[limits]\nclient_queue_soft_bytes = 100000\nclient_queue_hard_bytes = 1000000\n";
    let daemon = TestDaemon::fake("[[strict]]").config(limits).ready();
    let mut client = daemon.client("reads");
    let thread = client.start_thread(json!({}));
    client.turn(&thread, "first");
    let mut asleep = sleeper(&daemon, &thread);
    print_memory("before the stream", &daemon);
    let before = memory_kib(&daemon, "VmHWM");
    let turn = client.turn(&thread, &format!("[[deltas:{DELTAS}]]go"));
    assert_eq!(turn.status, "completed");
    assert_eq!(turn.deltas.len(), DELTAS + 1);
    for (n, delta) in turn.deltas[..DELTAS].iter().enumerate() {
        assert_eq!(*delta, format!("tok{n} "));
    }
    // More than the limit went by, so that the other one's time is over.
    let bytes: usize = turn.seen.iter().map(|message| message.raw.len() + 1).sum();
    println!("the stream: {} KiB", bytes >> 10);
    assert!(bytes > 3_000_000, "{bytes}");
    wait::until("it is closed", || status(&daemon)["counters"]["clientsTooSlow"] == 1);
    wait::until("the log has it", || daemon.stderr().contains("closing a client that does not read"));
    assert_eq!(status(&daemon)["clients"], 1);
    let mut rest = Vec::new();
    let _ = asleep.read_to_end(&mut rest);
    assert!(rest.len() < 2_000_000, "{}", rest.len());
    print_memory("after the stream", &daemon);
    if let (Some(before), Some(most)) = (before, memory_kib(&daemon, "VmHWM")) {
        assert!(most < before + 64 * 1024, "{before} KiB before, {most} KiB at the most");
    }
}

#[test]
fn a_flood_of_requests_is_answered_completely_and_holds_up_nobody() {
    const REQUESTS: usize = 5000;
    let daemon = TestDaemon::fake("").ready();
    let mut client = quiet_client(&daemon, "flood");
    let mut other = quiet_client(&daemon, "other");
    let flood: String =
        (0..REQUESTS).map(|n| format!("{{\"id\":\"f{n}\",\"method\":\"model/list\"}}\n")).collect();
    // While nothing is answered, the flood fills the window and its own queue.
    daemon.signal_upstream(Signal::SIGSTOP);
    client.send_bytes(flood.as_bytes()).unwrap();
    handled(&mut client);
    let pending = other.send_request("thread/list", json!({}));
    handled(&mut other);
    daemon.signal_upstream(Signal::SIGCONT);
    assert!(other.response(pending).is_ok());
    let mut answers: BTreeMap<String, Message> = BTreeMap::new();
    while answers.len() < REQUESTS {
        let message = client.recv();
        let id = message["id"].as_str().unwrap().to_owned();
        assert!(answers.insert(id, message).is_none(), "a request was answered twice");
    }
    assert_eq!(client.recv_to_barrier(), []);
    let mut done = 0;
    for answer in answers.values() {
        match answer.outcome() {
            Ok(_) => done += 1,
            Err(error) => assert_eq!(
                (error.code, reason(&error), &error.data["codexd"]["retryable"]),
                (-32001, "overloaded", &json!(true))
            ),
        }
    }
    assert!((1024..REQUESTS).contains(&done), "{done} of {REQUESTS} were carried out");
    // The other one's request was not last in line.
    let log = daemon.fake_log();
    let after = log.split_once("thread/list").unwrap().1.matches("model/list").count();
    assert!(after > 0, "the other client waited for the whole flood");
    assert_eq!(daemon.complaints(), Vec::<String>::new());
}

#[test]
fn a_flood_that_asks_for_no_answer_waits_in_its_sender() {
    const EACH: usize = 1_000_000;
    const NUMBER: usize = 100;
    let daemon = TestDaemon::fake("").ready();
    let mut client = quiet_client(&daemon, "flood");
    let mut other = quiet_client(&daemon, "other");
    let before = memory_kib(&daemon, "VmHWM");
    daemon.signal_upstream(Signal::SIGSTOP);
    let line = format!("{{\"method\":\"no/such\",\"params\":{{\"x\":\"{}\"}}}}\n", "x".repeat(EACH));
    let sending = std::thread::spawn(move || {
        for _ in 0..NUMBER {
            client.send_bytes(line.as_bytes()).unwrap();
        }
        client
    });
    wait::until("much waits for codex", || {
        status(&daemon)["queuedToUpstreamBytes"].as_u64().unwrap() > 16 << 20
    });
    let waiting = status(&daemon)["queuedToUpstreamBytes"].as_u64().unwrap();
    assert!(waiting < 24 << 20, "{waiting} bytes");
    // How the daemon is can be asked all the while.
    let mut asking = connect(&daemon);
    asking.get_mut().write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
    let mut healthy = String::new();
    asking.read_to_string(&mut healthy).unwrap();
    assert!(healthy.ends_with("ok\n"), "{healthy}");
    daemon.signal_upstream(Signal::SIGCONT);
    let mut client = sending.join().unwrap();
    other.recv_to_barrier();
    client.recv_to_barrier();
    assert_eq!(daemon.fake_log().matches("\"no/such\"").count(), NUMBER);
    if let (Some(before), Some(most)) = (before, memory_kib(&daemon, "VmHWM")) {
        assert!(most < before + 64 * 1024, "{before} KiB before, {most} KiB at the most");
    }
}

#[test]
fn a_flood_of_small_notifications_is_lost_nowhere_and_holds_up_nobody_else() {
    const NUMBER: usize = 3_000;
    let daemon = TestDaemon::fake("").ready();
    let mut client = quiet_client(&daemon, "flood");
    let mut other = quiet_client(&daemon, "other");
    let sending = std::thread::spawn(move || {
        for _ in 0..NUMBER {
            client.send_bytes(b"{\"method\":\"no/such\"}\n").unwrap();
        }
        // What waits fills the queue, for requests too.
        wait::until("there is room for a request", || client.try_request("thread/list", json!({})).is_ok());
        client
    });
    for _ in 0..20 {
        other.request("thread/list", json!({}));
    }
    drop(sending.join().unwrap());
    assert_eq!(daemon.fake_log().matches("\"no/such\"").count(), NUMBER);
}

/// A request of exactly so many bytes.
fn request_of(method: &str, bytes: usize) -> String {
    let frame = format!(r#"{{"id":"long","method":"{method}","params":{{"a":""}}}}"#);
    frame.replace("\"\"", &format!("\"{}\"", "x".repeat(bytes - frame.len())))
}

/// The stand-in for codex and the test read slowly where they are not optimized: 64 in a hard run.
fn mebibytes(variable: &str, usually: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usually) << 20
}

#[test]
fn a_huge_line_passes_both_ways() {
    let bytes = mebibytes("CODEXD_TEST_HUGE_MIB", 20);
    let daemon = TestDaemon::fake("").ready();
    let mut client = daemon.client("huge");
    client.set_patience(10 * PATIENCE);
    client.send_line(&request_of("model/list", bytes));
    client.take("the answer", |message| message["id"] == "long" && message.outcome().is_ok());
    assert!(daemon.fake_log().lines().any(|line| line.len() >= bytes - 10), "it arrived whole");
    let thread = client.start_thread(json!({}));
    let turn = client.turn(&thread, &format!("[[big:{bytes}]]"));
    assert_eq!(turn.status, "completed");
    assert_eq!(deltas(&turn.seen)[0].len(), bytes);
    client.recv_to_barrier();
    print_memory(&format!("after {} MiB both ways", bytes >> 20), &daemon);
}

#[test]
fn a_websocket_message_of_64_mebibytes_is_taken_and_one_byte_more_is_refused() {
    const BYTES: usize = 64 << 20;
    let daemon = TestDaemon::fake("").ready();
    let mut client = daemon.websocket_client("huge");
    client.set_patience(4 * PATIENCE);
    let send = |client: &mut TestClient, bytes: usize| {
        let text = request_of("broker/status", bytes);
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(16 << 20).collect();
        for (n, piece) in pieces.iter().enumerate() {
            let kind = if n == 0 { Data::Text } else { Data::Continue };
            client.send_frame(Frame::message(piece.to_vec(), OpCode::Data(kind), n + 1 == pieces.len()));
        }
    };
    send(&mut client, BYTES);
    client.take("the answer", |message| message["id"] == "long" && message.outcome().is_ok());
    send(&mut client, BYTES + 1);
    client.recv_to_end();
    assert_eq!(client.close_frame().map(|(code, _)| code), Some(1009));
    quiet_client(&daemon, "other");
}

#[test]
fn half_open_connections_and_single_bytes_disturb_nobody() {
    let mut daemon = TestDaemon::fake("[[strict]]").ready();
    let mut good = quiet_client(&daemon, "good");
    let beginnings: [&[u8]; 8] = [
        b"",
        b"{\"id\":1,\"method\":\"initialize\",\"params\":{\"clientInfo\":",
        b" ",
        b"\"",
        b"GET /rpc HTTP/1.1\r\nUpgrade: webso",
        b"G",
        b"\xff",
        b"{\"id\":1,\"method\":\"initialize\"}",
    ];
    let open: Vec<UnixStream> = (0..10)
        .flat_map(|_| beginnings)
        .map(|beginning| {
            let mut stream = UnixStream::connect(daemon.socket()).unwrap();
            stream.write_all(beginning).unwrap();
            stream
        })
        .collect();
    wait::until("all are in", || status(&daemon)["counters"]["clientsAccepted"] == open.len() + 1);
    assert_eq!(good.recv_to_barrier(), []);
    // A line in 20,000 pieces.
    let mut slow = connect(&daemon);
    introduce(&mut slow, "slow");
    answer(&mut slow, &json!("slow"));
    for byte in format!("{}\n", request_of("model/list", 20_000)).into_bytes() {
        slow.get_mut().write_all(&[byte]).unwrap();
    }
    assert!(answer(&mut slow, &json!("long"))["result"].is_object());
    assert_eq!(good.recv_to_barrier(), []);
    // They do not hold up the end either.
    assert_eq!(daemon.stop(), 0);
    drop(open);
}
