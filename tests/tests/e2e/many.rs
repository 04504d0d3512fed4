//! Many clients and many messages: nothing lost, doubled, reordered, changed or delivered to another client.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use codexd_tests::client::{Message, TestClient};
use codexd_tests::daemon::TestDaemon;
use codexd_tests::home::Home;
use codexd_tests::process;
use codexd_tests::wait;
use serde_json::{Value, json};

use crate::support::{Started, deltas, quiet_client, status, waiting_turn, with_method};

/// Every legal form of an id, as it is written.
const IDS: [&str; 17] = [
    "0",
    "1",
    "-1",
    "9223372036854775807",
    "-9223372036854775808",
    "\"\"",
    "\"1\"",
    "\"0\"",
    "\" \"",
    "\"null\"",
    "\"\\u00e9\"",
    "\"é\"",
    "\"\\/ \\\" \\\\ \\n \\u0000\"",
    "\"\\ud83d\\ude00\"",
    "\"😀\"",
    "\"{\\\"id\\\":5}\"",
    "\"018f0000-0000-7000-8000-000000000000\"",
];

#[test]
fn every_legal_id_comes_back_as_it_was_written() {
    let daemon = TestDaemon::fake("").ready();
    let mut client = quiet_client(&daemon, "ids");
    // The longest one that there may be.
    let long = format!("\"{}\"", "x".repeat((64 << 10) - 2));
    let ids: Vec<&str> = IDS.into_iter().chain([long.as_str()]).collect();
    // All at once: answers and errors.
    for id in &ids {
        client.send_line(&format!("{{\"id\":{id},\"method\":\"model/list\",\"params\":{{}}}}"));
        client.send_line(&format!("{{\"method\":\"no/such\",\"params\":{{}},\"id\":{id}}}"));
    }
    for id in &ids {
        let (result, error) = (client.recv(), client.recv());
        assert!(result.raw.starts_with(&format!("{{\"id\":{id},\"result\":{{")), "{}", result.raw);
        assert!(error.raw.starts_with("{\"error\":{"), "{}", error.raw);
        assert!(error.raw.ends_with(&format!("}},\"id\":{id}}}")), "{}", error.raw);
    }
    // codexd's own messages carry it as well.
    for id in &ids {
        client.send_line(&format!("{{\"id\":{id},\"method\":\"initialize\"}}"));
        let refused = client.recv();
        assert!(refused.raw.starts_with(&format!("{{\"id\":{id},\"error\":{{")), "{}", refused.raw);
    }
}

#[test]
fn equal_ids_of_several_clients_and_of_one_do_not_meet() {
    let daemon = TestDaemon::fake("[[strict]][[slow:20]]").ready();
    let mut clients: Vec<TestClient> = (0..5).map(|n| daemon.client(&format!("client {n}"))).collect();
    for client in &mut clients {
        client.recv_to_barrier();
        // The same id twice in flight: both run, as with codex itself.
        for method in ["model/list", "thread/loaded/list"] {
            client.send_line(&format!("{{\"id\":\"same\",\"method\":\"{method}\"}}"));
        }
    }
    for client in &mut clients {
        let (first, second) = (client.recv(), client.recv());
        assert_eq!((&first["id"], &second["id"]), (&json!("same"), &json!("same")));
        assert_eq!(first["result"]["data"][0]["id"], "fake-model");
        assert_eq!(second["result"]["data"], json!([]));
        assert_eq!(client.recv_to_barrier(), []);
    }
}

#[test]
fn a_message_reaches_the_upstream_byte_for_byte_but_for_its_id() {
    let daemon = TestDaemon::fake("").ready();
    let mut client = daemon.client("bytes");
    let frames = [
        "  { \"jsonrpc\" : \"2.0\" ,\t\"id\" : ID ,  \"method\" : \"model/list\" , \"params\" : { } }  ",
        r#"{"id":ID,"method":"model/list","params":{"é":"\u00e9\/\ud83d\ude00","n":1.0E+2,"big":123456789012345678901234567890,"deep":[[[{}]]],"twice":1,"twice":2}}"#,
        r#"{"params":{"id":7,"method":"x","a":"{\"id\":1}"},"unknown":[1, 2 ,{}],"method":"model/list","id":ID,"trace":null}"#,
        "{\"method\":\"model/list\",\"id\":ID}\r",
    ];
    for frame in frames {
        client.send_line(&frame.replace("ID", "\"mine\""));
        client.take("the answer", |message| message["id"] == "mine" && message.outcome().is_ok());
    }
    let log = daemon.fake_log();
    for frame in frames {
        let (before, after) = frame.split_once("ID").unwrap();
        let arrived = log.lines().any(|line| {
            let middle =
                line.strip_prefix(before).and_then(|rest| rest.strip_suffix(after.trim_end_matches('\r')));
            middle.is_some_and(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()))
        });
        assert!(arrived, "{frame}\n{log}");
    }
}

#[test]
fn messages_of_the_upstream_are_the_same_for_all_who_see_them() {
    let daemon = TestDaemon::fake("[[strict]]").ready();
    let mut one = daemon.client("one");
    let (thread, turn, _) = waiting_turn(&mut one, "[[deltas:50]]é \u{1f600} \"quoted\" \\ ");
    let mut two = daemon.client("two");
    two.request("thread/resume", json!({"threadId": thread}));
    let approval = two.take_method("item/commandExecution/requestApproval");
    two.recv_to_barrier();
    one.recv_to_barrier();
    // A client that only watches can answer.
    two.answer(&approval, json!({"decision": "accept"}));
    let raw = |client: &mut TestClient| -> Vec<String> {
        let seen = client.finish_turn(&thread, &turn).seen;
        let after = seen.iter().position(|it| it.method() == Some("serverRequest/resolved")).unwrap();
        seen[after..].iter().map(|message| message.raw.clone()).collect()
    };
    let (by_one, by_two) = (raw(&mut one), raw(&mut two));
    assert!(by_one.len() > 50);
    assert_eq!(by_one, by_two);
}

#[test]
fn the_first_answer_wins_and_only_it_is_passed_on() {
    let daemon = TestDaemon::fake("[[strict]]").ready();
    let mut one = daemon.client("one");
    let (thread, turn, approval) = waiting_turn(&mut one, "");
    let mut others: Vec<TestClient> = (0..4).map(|n| daemon.client(&format!("other {n}"))).collect();
    for other in &mut others {
        other.request("thread/resume", json!({"threadId": thread}));
        other.take_method("item/commandExecution/requestApproval");
    }
    for client in others.iter_mut().chain([&mut one]) {
        client.answer(&approval, json!({"decision": "accept"}));
    }
    for client in others.iter_mut().chain([&mut one]) {
        let seen = client.finish_turn(&thread, &turn);
        assert_eq!(seen.status, "completed");
        assert_eq!(with_method(&seen.seen, "serverRequest/resolved").len(), 1);
    }
}

#[test]
fn a_request_that_hangs_in_the_upstream_does_not_hold_up_others() {
    let daemon = TestDaemon::fake("[[strict]]").ready();
    let mut client = daemon.client("one");
    for _ in 0..100 {
        client.send_request("command/exec", json!({"command": ["sleep", "300"]}));
    }
    client.request("model/list", json!({}));
    daemon.client("other").request("model/list", json!({}));
}

/// Connects, introduces itself, takes part in a thread, and then does not read any more.
fn sleeper(daemon: &TestDaemon, thread: &str) -> UnixStream {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    let lines = [
        json!({"id": 1, "method": "initialize", "params": {"clientInfo": {"name": "s", "version": "1"}}}),
        json!({"id": 2, "method": "thread/resume", "params": {"threadId": thread}}),
    ];
    for line in lines {
        stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
    // Byte by byte, so that nothing after the answer is read.
    let mut seen = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&seen).contains("{\"id\":2,\"result\"") {
        stream.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
    stream
}

#[test]
fn a_client_that_does_not_read_is_closed_and_nobody_else_notices() {
    let limits = "[limits]\nclient_queue_soft_bytes = 1000000\nclient_queue_hard_bytes = 4000000\n\
                  client_queue_max_bytes = 8000000\n";
    let daemon = TestDaemon::fake("[[strict]]").config(limits).ready();
    let mut client = daemon.client("reads");
    let thread = client.start_thread(json!({}));
    client.turn(&thread, "first");
    let mut asleep = sleeper(&daemon, &thread);
    let before = memory_kib(daemon.pid());
    for _ in 0..30 {
        // One at a time, so that the client that reads never falls far back.
        let turn = client.turn(&thread, "[[flood:100:10000]]");
        assert_eq!((turn.status.as_str(), deltas(&turn.seen).len()), ("completed", 101));
    }
    let now = status(&daemon);
    assert_eq!((&now["clients"], &now["counters"]["clientsTooSlow"]), (&json!(1), &json!(1)));
    // 30 MB went by; about twice the limit and some buffers were kept.
    if let (Some(before), Some(after)) = (before, memory_kib(daemon.pid())) {
        assert!(after < before + 24_000, "{before} KiB before, {after} KiB after");
    }
    // What it had not read is cut off; the connection ends.
    let mut rest = Vec::new();
    let _ = asleep.read_to_end(&mut rest);
    assert!(rest.len() < 8_000_000);
}

/// Returns the largest amount of memory a process ever had.
#[cfg(target_os = "linux")]
fn memory_kib(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(not(target_os = "linux"))]
fn memory_kib(_: u32) -> Option<u64> {
    None
}

#[test]
fn a_client_that_does_not_read_its_errors_is_closed() {
    let limits = "[limits]\nclient_queue_soft_bytes = 10000\nclient_queue_hard_bytes = 100000\n\
                  client_queue_max_bytes = 1000000\n";
    let daemon = TestDaemon::fake("[[strict]]").config(limits).ready();
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    let error = loop {
        if let Err(error) = stream.write_all(&b"{\n".repeat(10_000)) {
            break error;
        }
    };
    assert!(
        matches!(error.kind(), std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset),
        "{error}"
    );
    daemon.client("other").recv_to_barrier();
    assert_eq!(status(&daemon)["counters"]["clientsTooSlow"], 1);
}

#[test]
fn one_message_larger_than_every_queue_passes() {
    let limits = "[limits]\nclient_queue_soft_bytes = 1024\nclient_queue_hard_bytes = 2048\nclient_queue_max_bytes = 4096\n";
    let daemon = TestDaemon::fake("[[strict]]").config(limits).ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    // The largest one comes last: what waits before a message counts, and not its own size.
    let text = "x".repeat(3_000_000);
    let turn = client.start_turn(&thread, "[[hang]]");
    let params = json!({"threadId": thread, "input": [{"type": "text", "text": text}]});
    client.request("turn/start", params);
    client.request("turn/interrupt", json!({"threadId": thread, "turnId": turn}));
    assert!(daemon.fake_log().contains(&text));
}

#[test]
fn a_client_that_vanishes_in_its_turn_leaves_it_to_the_next() {
    let daemon = TestDaemon::fake("[[strict]]").ready();
    let mut gone = daemon.client("gone");
    let (thread, turn, _) = waiting_turn(&mut gone, "[[deltas:10]]");
    drop(gone);
    wait::until("nobody can answer", || status(&daemon)["clients"] == 0);
    let now = status(&daemon);
    let of = ["openTurns", "pendingApprovals"].map(|name| now[name].as_u64());
    assert_eq!(of, [Some(1), Some(1)], "{now}");
    let mut next = daemon.client("next");
    next.request("thread/resume", json!({"threadId": thread}));
    let approval = next.take_method("item/commandExecution/requestApproval");
    next.answer(&approval, json!({"decision": "accept"}));
    let turn = next.finish_turn(&thread, &turn);
    assert_eq!((turn.status.as_str(), turn.deltas.len()), ("completed", 11));
}

#[test]
fn what_a_client_runs_ends_with_its_connection() {
    let daemon = TestDaemon::fake("[[strict]]").ready();
    let mut other = daemon.client("other");
    let mut client = daemon.client("gone");
    client.send_request("command/exec", json!({"command": ["sleep", "300"]}));
    client.send_request("command/exec", json!({"command": ["sleep", "301"], "processId": "p"}));
    client.request("process/spawn", json!({"command": ["sleep", "302"], "processHandle": "p"}));
    other.request("process/spawn", json!({"command": ["sleep", "303"], "processHandle": "p"}));
    let sleeping = || {
        let processes = process::marked(daemon.home().root()).into_iter();
        processes.filter(|process| process.command.starts_with("sleep")).count()
    };
    wait::until("all run", || sleeping() == 4);
    drop(client);
    wait::until("those of the client have ended", || sleeping() == 1);
    other.request("process/kill", json!({"processHandle": "p"}));
    let exited = other.take_method("process/exited");
    assert_eq!(exited["params"]["processHandle"], "p");
}

#[test]
fn two_hundred_clients_are_served() {
    let daemon = TestDaemon::fake("[[strict]]").ready();
    let mut clients: Vec<TestClient> = (0..200).map(|n| daemon.client(&format!("client {n}"))).collect();
    let ids: Vec<i64> =
        clients.iter_mut().map(|client| client.send_request("thread/start", json!({}))).collect();
    let mut threads: Vec<String> = clients
        .iter_mut()
        .zip(ids)
        .map(|(client, id)| client.response(id).unwrap()["thread"]["id"].as_str().unwrap().to_owned())
        .collect();
    for (client, thread) in clients.iter_mut().zip(&threads).step_by(20) {
        assert_eq!(client.turn(thread, "hello").answer.unwrap(), "tok0 tok1 tok2 | echo: hello");
    }
    assert_eq!(status(&daemon)["clients"], 200);
    threads.sort_unstable();
    threads.dedup();
    assert_eq!(threads.len(), 200);
}

#[test]
fn a_client_that_only_closed_its_sending_half_gets_its_answers() {
    let daemon = TestDaemon::fake("[[strict]][[slow:20]]").ready();
    let mut client = daemon.raw_client("half");
    let ids = half_closed(&mut client);
    expect_results(&mut client, &ids);
}

#[test]
fn a_client_that_closed_its_sending_half_before_the_upstream_was_ready_gets_its_answers() {
    let (daemon, gate) = gated();
    let mut client = daemon.raw_client("half");
    let ids = half_closed(&mut client);
    wait::until("the client is known", || status(&daemon)["clients"] == 1);
    std::fs::write(&gate, "go\n").unwrap();
    expect_results(&mut client, &ids);
}

#[test]
fn a_client_that_closed_its_sending_half_and_asked_nothing_is_let_go() {
    let (daemon, gate) = gated();
    let mut early = daemon.raw_client("early");
    early.send_bytes(b"\n{\"method\":\"initialized\"}\n").unwrap();
    early.finish_sending();
    wait::until("the client is known", || status(&daemon)["clients"] == 1);
    std::fs::write(&gate, "go\n").unwrap();
    assert_eq!(early.recv_to_end(), []);
    for words in [&b""[..], b"\n", b"{\"method\":\"initialized\"}\n"] {
        let mut client = daemon.raw_client("late");
        client.send_bytes(words).unwrap();
        client.finish_sending();
        assert_eq!(client.recv_to_end(), []);
    }
    wait::until("nobody is left", || status(&daemon)["clients"] == 0);
}

/// Starts a daemon whose upstream begins when something is written to the returned pipe.
fn gated() -> (TestDaemon, std::path::PathBuf) {
    let home = Home::new().unwrap();
    // Waits for a line before it becomes the stand-in for codex.
    let gate = home.root().join("gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let program = home.root().join("codex.sh");
    let fake = codexd_tests::binary::fake_codex();
    let text = format!("#!/bin/sh\nread word < '{}'\nexec '{}' \"$@\"\n", gate.display(), fake.display());
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let daemon = TestDaemon::program(&program).home(home).start();
    wait::until("the daemon", || status(&daemon)["state"] == "handshaking");
    (daemon, gate)
}

/// Sends some requests and the end; returns their ids.
fn half_closed(client: &mut TestClient) -> Vec<i64> {
    let info = json!({"clientInfo": {"name": "half", "version": "1"}});
    let mut ids = vec![client.send_request("initialize", info)];
    ids.extend((0..5).map(|_| client.send_request("model/list", json!({}))));
    client.finish_sending();
    ids
}

#[track_caller]
fn expect_results(client: &mut TestClient, ids: &[i64]) {
    let seen = client.recv_to_end();
    for id in ids {
        let answers: Vec<_> = seen.iter().filter(|message| message.is_answer_to(*id)).collect();
        assert!(answers.len() == 1 && answers[0].outcome().is_ok(), "request {id}: {seen:?}");
    }
}

#[test]
fn connections_that_come_and_go_leave_nothing() {
    let daemon = TestDaemon::fake("[[strict]]").ready();
    let files = || std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).map_or(0, Iterator::count);
    daemon.client("first").recv_to_barrier();
    wait::until("the first is gone", || status(&daemon)["clients"] == 0);
    let before = files();
    for n in 0..100 {
        let mut client = daemon.raw_client("short");
        match n % 4 {
            0 => {}
            1 => client.send_line("{"),
            2 => drop(client.initialize()),
            _ => {
                client.initialize();
                client.start_thread(json!({}));
                client.send_request("model/list", json!({}));
            }
        }
    }
    wait::until("all are gone", || status(&daemon)["clients"] == 0);
    wait::until("their files are closed", || files() <= before);
    let now = status(&daemon);
    assert_eq!((&now["queuedRequests"], &now["queuedToClientsBytes"]), (&json!(0), &json!(0)));
}

#[test]
fn clients_receive_messages_of_their_own_threads_only() {
    let daemon = TestDaemon::fake("[[strict]]").ready();
    let mut clients: Vec<TestClient> = (0..8).map(|n| daemon.client(&format!("client {n}"))).collect();
    let threads: Vec<String> = clients.iter_mut().map(|client| client.start_thread(json!({}))).collect();
    let turns: Vec<String> = clients
        .iter_mut()
        .zip(&threads)
        .enumerate()
        .map(|(n, (client, thread))| client.start_turn(thread, &format!("[[deltas:200]]secret {n}")))
        .collect();
    for (n, client) in clients.iter_mut().enumerate() {
        let turn = client.finish_turn(&threads[n], &turns[n]);
        let expected: Vec<String> =
            (0..200).map(|index| format!("tok{index} ")).chain([format!("| echo: secret {n}")]).collect();
        assert_eq!(turn.deltas, expected);
        for message in client.recv_to_barrier() {
            let strange = message["params"]["threadId"].as_str().is_some_and(|it| it != threads[n]);
            let method = message.method().unwrap_or_default();
            assert!(
                !(strange && (method.starts_with("item/") || method.starts_with("turn/"))),
                "{}",
                message.raw
            );
        }
    }
}

#[test]
fn sticky_notifications_of_the_upstream_are_sent_to_each_client() {
    let daemon = TestDaemon::fake("[[strict]]").ready();
    for _ in 0..3 {
        let mut client = daemon.raw_client("one");
        client.initialize();
        let seen = client.recv_to_barrier();
        let methods: Vec<Option<&str>> = seen.iter().map(Message::method).collect();
        assert_eq!(methods, [Some("configWarning"), Some("remoteControl/status/changed")]);
    }
    let mut client = daemon.raw_client("quiet");
    client.initialize_with(json!({"optOutNotificationMethods": ["configWarning"]}));
    let seen = client.recv_to_barrier();
    assert!(with_method(&seen, "configWarning").is_empty(), "{seen:?}");
}

#[test]
fn a_client_gets_the_identity_of_its_daemon() {
    let daemon = TestDaemon::fake("[[strict]]").ready();
    let mut client = daemon.raw_client("one");
    let result = client.initialize();
    assert_eq!(result["codexd"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(result["codexd"]["generation"], 1);
    assert!(result["userAgent"].as_str().unwrap().ends_with("(one; 0.0.1)"), "{result}");
    assert_eq!(client.request("broker/status", Value::Null)["state"], "serving");
}

#[test]
fn a_log_that_nobody_takes_disturbs_nobody() {
    let daemon = TestDaemon::fake("[[strict]]").ready();
    let home = Home::new().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = home.command(daemon.codexd());
    command.args(["serve", "--log-level", "trace", "--codex"]).arg(codexd_tests::binary::fake_codex());
    let mut other = Started::of(command.stderr(writer));
    drop(command);
    let ctl = |arguments: &[&str]| {
        codexd_tests::output::Output::of(home.command(daemon.codexd()).arg("ctl").args(arguments))
    };
    let _ = ctl(&["wait", "ready"]).expect_code(0);
    let socket = ctl(&["get-socket"]).stdout.trim_end().to_owned();
    let socket = std::path::Path::new(&socket);
    // First the output is not read, and the pipe fills; then it is closed. Fewer than fit into the backlog, so that
    // this cannot hang.
    for _ in 0..900 {
        drop(UnixStream::connect(socket).unwrap());
    }
    let mut client = TestClient::connect("one", socket);
    client.initialize();
    client.start_thread(json!({}));
    drop(reader);
    for _ in 0..20 {
        TestClient::connect("two", socket).initialize();
    }
    let _ = ctl(&["stop"]).expect_code(0);
    assert_eq!(other.exit_code(), Some(0));
}

/// A `codexd` with these soft and hard limits on open files.
pub(crate) fn with_open_files(home: &Home, soft: u32, hard: u32) -> std::path::PathBuf {
    let program = home.root().join("codexd.sh");
    let codexd = codexd_tests::binary::codexd();
    let text =
        format!("#!/bin/sh\nulimit -Sn {soft}\nulimit -Hn {hard}\nexec '{}' \"$@\"\n", codexd.display());
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    program
}

#[test]
fn without_a_single_file_left_clients_wait_and_are_served_afterwards() {
    let home = Home::new().unwrap();
    // Less than the daemon keeps for itself and half of it for clients.
    let program = with_open_files(&home, 36, 36);
    let mut daemon = TestDaemon::fake("[[strict]]").home(home).codexd(&program).ready();
    let mut first = daemon.client("first");
    let thread = first.start_thread(json!({}));
    let waiting: Vec<UnixStream> = (0..40).map(|_| UnixStream::connect(daemon.socket()).unwrap()).collect();
    let mut last = daemon.raw_client("last");
    last.send_request("initialize", json!({"clientInfo": {"name": "last", "version": "1"}}));
    wait::until("the log has it", || daemon.stderr().contains("cannot accept a client"));
    for _ in 0..3 {
        assert_eq!(first.turn(&thread, "hello").status, "completed");
    }
    drop(waiting);
    assert!(last.recv().is_answer_to(1));
    wait::until("all is well", || status(&daemon)["warnings"] == json!([]));
    assert_eq!(daemon.stop(), 0);
}

#[cfg(target_os = "linux")]
#[test]
fn codex_gets_the_limit_on_open_files_that_the_daemon_was_given() {
    let home = Home::new().unwrap();
    let program = with_open_files(&home, 100, 200);
    let daemon = TestDaemon::fake("[[strict]]").home(home).codexd(&program).ready();
    let limits = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap().to_owned();
        let numbers = line.split_ascii_whitespace().filter_map(|word| word.parse().ok());
        numbers.collect::<Vec<u64>>()
    };
    assert_eq!(limits(daemon.pid()), [200, 200]);
    assert_eq!(limits(daemon.upstream_pid().unsigned_abs()), [100, 200]);
}

#[test]
fn a_client_that_goes_while_its_command_runs_after_it_closed_its_sending_half_takes_it_along() {
    let daemon = TestDaemon::fake("[[strict]]").ready();
    let mut client = daemon.client("half");
    client.send_request("command/exec", json!({"command": ["sleep", "300"]}));
    client.finish_sending();
    let sleeps = || daemon.processes().iter().any(|process| process.command == "sleep 300");
    wait::until("the command runs", sleeps);
    drop(client);
    wait::until("the command has ended", || !sleeps());
}

#[test]
fn a_long_message_of_one_client_does_not_hold_up_another() {
    let daemon = TestDaemon::fake("").ready();
    let mut other = quiet_client(&daemon, "other");
    let mut long = UnixStream::connect(daemon.socket()).unwrap();
    // Its check takes long for its length. codexd answers it itself, so as soon as it is read.
    let names = r#""\u0061\u0062\u0063":1,"#.repeat(3_000_000);
    let line = format!("{{\"id\":1,\"method\":\"broker/status\",\"params\":{{{names}\"x\":0}}}}\n");
    long.write_all(line.as_bytes()).unwrap();
    // All but what a socket holds is in the daemon now, and the message is read while the other client has its turns.
    other.send_line(r#"{"id":"turn","method":"broker/status"}"#);
    assert_eq!(other.recv()["id"], "turn");
    long.set_nonblocking(true).unwrap();
    let mut answer = [0; 4096];
    let early = long.read(&mut answer);
    assert!(early.is_err(), "the long message was answered first, after {early:?} bytes");
    long.set_nonblocking(false).unwrap();
    let length = long.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    assert!(answer.starts_with("{\"id\":1,\"result\":{\"state\":\"serving\""), "{answer}");
    // The connection goes on.
    long.write_all(b"{\"id\":2,\"method\":\"broker/status\"}\n").unwrap();
    let mut answer = [0; 4096];
    let length = long.read(&mut answer).unwrap();
    assert!(answer[..length].starts_with(b"{\"id\":2,"), "{answer:?}");
}
