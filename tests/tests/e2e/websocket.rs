//! Clients that speak WebSocket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use codexd_tests::client::TestClient;
use codexd_tests::daemon::TestDaemon;
use codexd_tests::wait::{self, PATIENCE};
use codexd_tests::websocket;
use serde_json::{Value, json};
use tungstenite::Message;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};

const MIB: usize = 1 << 20;

fn frame(kind: Data, last: bool, payload: impl Into<Vec<u8>>) -> Frame {
    Frame::message(payload.into(), OpCode::Data(kind), last)
}

/// A WebSocket without a thread that reads.
fn bare(daemon: &TestDaemon) -> tungstenite::WebSocket<UnixStream> {
    let stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    websocket::upgrade(stream).unwrap()
}

fn too_slow(daemon: &TestDaemon) -> u64 {
    let status = daemon.ctl(&["status", "--json"]).json();
    status["counters"]["clientsTooSlow"].as_u64().unwrap()
}

#[test]
fn a_turn_is_the_same_as_over_lines() {
    let daemon = TestDaemon::fake("").ready();
    let mut client = daemon.websocket_client("web");
    let thread = client.start_thread(json!({}));
    let turn = client.turn(&thread, "[[deltas:3]] hello");
    assert_eq!(turn.status, "completed");
    let mut lines = daemon.client("lines");
    let thread = lines.start_thread(json!({}));
    let same = lines.turn(&thread, "[[deltas:3]] hello");
    assert_eq!((turn.methods(), &turn.deltas, &turn.answer), (same.methods(), &same.deltas, &same.answer));
    assert!(daemon.complaints().is_empty(), "{:?}", daemon.complaints());
}

#[test]
fn the_real_codex_runs_a_turn_for_it() {
    let Some(daemon) = TestDaemon::real(codexd_tests::codex::Version::Current) else { return };
    let daemon = daemon.ready();
    let mut client = daemon.websocket_client("web");
    client.answer_approvals("accept");
    let thread = client.start_thread(json!({"cwd": daemon.home().project(), "approvalPolicy": "untrusted"}));
    let turn = client.turn(&thread, "[[shell:echo it > made.txt]] go");
    assert_eq!(turn.status, "completed", "{}", turn.error);
    assert_eq!(std::fs::read_to_string(daemon.home().project().join("made.txt")).unwrap(), "it\n");
}

#[test]
fn both_kinds_of_clients_share_a_thread() {
    let daemon = TestDaemon::fake("").ready();
    let mut lines = daemon.client("lines");
    let mut web = daemon.websocket_client("web");
    let thread = lines.start_thread(json!({}));
    // Before its first turn, no client can join it.
    lines.turn(&thread, "first");
    web.request("thread/resume", json!({"threadId": thread}));
    let turn = lines.start_turn(&thread, "[[deltas:20]][[approve]] go");
    // The one asks, the other one answers.
    let asked = web.take_method("item/commandExecution/requestApproval");
    web.answer(&asked, json!({"decision": "accept"}));
    let seen_by_lines = lines.finish_turn(&thread, &turn);
    let seen_by_web = web.finish_turn(&thread, &turn);
    assert_eq!(seen_by_lines.status, "completed");
    // What the one got as lines, the other one got as frames, byte for byte.
    let of_turn = |turn: &codexd_tests::client::Turn| -> Vec<String> {
        let start = turn.seen.iter().position(|m| m.method() == Some("turn/started")).unwrap();
        // The client that answered has already received the server request.
        let seen = turn.seen[start..].iter().filter(|message| !message.is_server_request());
        seen.map(|message| message.raw.clone()).collect()
    };
    assert_eq!(of_turn(&seen_by_lines), of_turn(&seen_by_web));
}

#[test]
fn fragments_pings_and_binary_messages_are_handled() {
    let daemon = TestDaemon::fake("").ready();
    let mut client = daemon.websocket_client("web");
    client.send_frame(frame(Data::Binary, true, &b"{\"id\":1,\"method\":\"no\"}"[..]));
    client.send_frame(frame(Data::Text, false, &b"{\"id\":70,\"method\":\"thread/"[..]));
    client.send_frame(Frame::ping(&b"between"[..]));
    client.send_frame(frame(Data::Continue, false, &b"loaded/list\",\"par"[..]));
    client.send_frame(frame(Data::Continue, true, &b"ams\":{}}"[..]));
    assert_eq!(client.response(70), Ok(json!({"data": [], "nextCursor": null})));

    let mut bare = bare(&daemon);
    bare.send(Message::Ping((&b"are you there?"[..]).into())).unwrap();
    assert_eq!(bare.read().unwrap(), Message::Pong((&b"are you there?"[..]).into()));
}

#[test]
fn what_is_no_message_is_answered_and_the_connection_stays() {
    let daemon = TestDaemon::fake("").ready();
    let mut client = daemon.websocket_client("web");
    client.recv_to_barrier();
    let cases = [
        ("not JSON", -32700),
        ("{\"id\":1,\"method\":\"a\"}{\"id\":2,\"method\":\"b\"}", -32700),
        ("{\"id\":1,\"method\":\"a\"}\n{\"id\":2,\"method\":\"b\"}", -32700),
        // A line feed in a string does not become right by being replaced.
        ("{\"id\":1,\"method\":\"thread/loaded/list\",\"params\":{\"x\":\"a\nb\"}}", -32700),
        ("[]", -32600),
    ];
    for (text, code) in cases {
        client.send_frame(frame(Data::Text, true, text));
        let answer = client.recv();
        assert_eq!((&answer["error"]["code"], &answer["id"]), (&json!(code), &Value::Null), "{text}");
    }
    client.send_frame(frame(Data::Text, true, ""));
    client.send_frame(frame(Data::Text, true, " \n\n"));
    let pretty = "\n{\n  \"id\": 70,\r\n\t\"method\": \"thread/loaded/list\",\n  \"params\": {\n}\n}\r\n\n";
    client.send_frame(frame(Data::Text, true, pretty));
    assert_eq!(client.response(70), Ok(json!({"data": [], "nextCursor": null})));
    assert!(daemon.complaints().is_empty(), "{:?}", daemon.complaints());
}

#[test]
fn who_breaks_the_protocol_is_closed_and_nobody_else_notices() {
    let daemon = TestDaemon::fake("").ready();
    let mut witness = daemon.client("witness");
    let cases = [
        (frame(Data::Text, true, &b"{\"id\":1,\"method\":\"\xff\"}"[..]), 1007),
        (frame(Data::Continue, true, &b"{}"[..]), 1002),
        (frame(Data::Text, true, vec![b' '; 16 * MIB + 1]), 1009),
    ];
    for (frame, code) in cases {
        let mut client = daemon.websocket_client("web");
        client.recv_to_barrier();
        client.send_frame(frame);
        client.recv_to_end();
        assert_eq!(client.close_frame().map(|(code, _)| code), Some(code));
        let thread = witness.start_thread(json!({}));
        assert_eq!(witness.turn(&thread, "go").status, "completed");
    }
    assert!(daemon.complaints().is_empty(), "{:?}", daemon.complaints());
}

#[test]
fn big_messages_pass_both_ways() {
    let daemon = TestDaemon::fake("").ready();
    let mut client = daemon.websocket_client("web");
    // The longest frame, and a longer message in two of them.
    for (id, length) in [(70, 16 * MIB), (71, 30 * MIB)] {
        let mut text = format!("{{\"id\":{id},\"method\":\"thread/loaded/list\",\"params\":{{\"x\":\"");
        text.push_str(&"x".repeat(length - text.len() - 3));
        text.push_str("\"}}");
        let (first, second) = text.as_bytes().split_at(length.min(16 * MIB));
        client.send_frame(frame(Data::Text, second.is_empty(), first));
        if !second.is_empty() {
            client.send_frame(frame(Data::Continue, true, second));
        }
        assert!(client.response(id).is_ok());
    }
    // The client refuses frames of more than 16 MiB, as tungstenite's do by default.
    let thread = client.start_thread(json!({}));
    let turn = client.turn(&thread, &format!("[[big:{}]] go", 20 * MIB));
    assert_eq!(turn.status, "completed");
    assert_eq!(turn.deltas.iter().map(String::len).max(), Some(20 * MIB));
}

#[test]
fn a_close_of_the_client_is_answered() {
    let daemon = TestDaemon::fake("").ready();
    let mut client = daemon.websocket_client("web");
    client.recv_to_barrier();
    client.finish_sending();
    assert_eq!(client.recv_to_end(), []);
    assert_eq!(client.close_frame(), Some((1005, "")));
    wait::until("it is gone", || daemon.ctl(&["status", "--json"]).json()["clients"] == 0);
}

#[test]
fn a_client_that_only_closed_its_sending_half_gets_its_answer_first() {
    let daemon = TestDaemon::fake("[[slow:50]]").ready();
    let mut socket = bare(&daemon);
    let initialize =
        json!({"id": 1, "method": "initialize", "params": {"clientInfo": {"name": "a", "version": "1"}}});
    socket.send(Message::text(initialize.to_string())).unwrap();
    socket
        .send(Message::text(json!({"id": 2, "method": "thread/loaded/list", "params": {}}).to_string()))
        .unwrap();
    socket.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    let mut answered = false;
    loop {
        match socket.read().unwrap() {
            Message::Text(text) => answered |= text.contains("\"id\":2"),
            Message::Close(frame) => break assert_eq!(u16::from(frame.unwrap().code), 1000),
            other => panic!("{other:?}"),
        }
    }
    assert!(answered);
}

#[test]
fn a_close_frame_says_why_the_daemon_ends() {
    let mut daemon = TestDaemon::fake("").ready();
    let mut client = daemon.websocket_client("web");
    let mut silent = TestClient::connect_websocket("silent", &daemon.socket());
    assert_eq!(daemon.stop(), 0);
    let reported = client.recv_to_end();
    assert!(reported.iter().any(|message| message.method() == Some("notifications/broker/shuttingDown")));
    assert_eq!(client.close_frame(), Some((1001, "codexd is stopping (SIGTERM)")));
    silent.recv_to_end();
    assert_eq!(silent.close_frame().map(|(code, _)| code), Some(1001));
}

#[test]
fn a_close_frame_says_that_codex_is_lost() {
    let mut daemon = TestDaemon::fake("").ready();
    let mut client = daemon.websocket_client("web");
    let thread = client.start_thread(json!({}));
    let turn = client.start_turn(&thread, "[[exit:3]] go");
    let end = client.finish_turn(&thread, &turn);
    assert_eq!(end.status, "failed");
    client.recv_to_end();
    assert_eq!(client.close_frame(), Some((1011, "codex app-server exited with code 3")));
    assert_eq!(daemon.wait_exit().code(), Some(1));
}

#[test]
fn a_client_that_asks_to_be_detached_is_closed_normally() {
    let daemon = TestDaemon::fake("").ready();
    let _other = daemon.client("other");
    let mut client = daemon.websocket_client("web");
    client.request("broker/shutdown", json!({}));
    client.recv_to_end();
    assert_eq!(client.close_frame().map(|(code, _)| code), Some(1000));
}

#[test]
fn a_client_that_does_not_read_is_closed_while_others_go_on() {
    let daemon = TestDaemon::fake("").ready();
    let mut reader = daemon.websocket_client("reader");
    let mut lines = daemon.client("lines");
    let thread = lines.start_thread(json!({}));
    lines.turn(&thread, "first");
    reader.request("thread/resume", json!({"threadId": thread}));

    let mut slow = bare(&daemon);
    for request in [
        json!({"id": 1, "method": "initialize", "params": {"clientInfo": {"name": "slow", "version": "1"}}}),
        json!({"id": 2, "method": "thread/resume", "params": {"threadId": thread}}),
    ] {
        slow.send(Message::text(request.to_string())).unwrap();
        while !slow.read().unwrap().to_text().unwrap().contains(&format!("\"id\":{}", request["id"])) {}
    }
    let mut flood = || {
        let turn = lines.start_turn(&thread, "[[flood:100:40000]] go");
        for client in [&mut lines, &mut reader] {
            let turn = client.finish_turn(&thread, &turn);
            assert_eq!(turn.status, "completed");
            assert_eq!(turn.deltas.iter().filter(|delta| delta.len() == 40_000).count(), 100);
        }
    };
    // Each is 8 MB, of which the sockets hold little.
    while too_slow(&daemon) == 0 {
        flood();
    }
    // It has still some time to fetch what was sent before, and why it ends.
    let closed = loop {
        match slow.read() {
            Ok(Message::Text(_)) => {}
            Ok(Message::Close(frame)) => break frame.unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(u16::from(closed.code), 1008);
    assert!(closed.reason.starts_with("too slow: ") && closed.reason.contains(" bytes wait"), "{closed:?}");
    flood();
    assert_eq!(too_slow(&daemon), 1);
}

#[test]
fn a_flood_of_pings_does_not_grow_in_the_daemon() {
    let daemon = TestDaemon::fake("").ready();
    let mut socket = bare(&daemon);
    let ping = Frame::ping(vec![b'p'; 125]);
    socket.get_mut().set_nonblocking(true).unwrap();
    // The pongs are not read: in the end the daemon has nowhere to put them, and answers the last.
    for _ in 0..200_000 {
        match socket.send(Message::Frame(ping.clone())) {
            Ok(()) => {}
            Err(tungstenite::Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    let mut other = daemon.client("other");
    let thread = other.start_thread(json!({}));
    assert_eq!(other.turn(&thread, "go").status, "completed");
    let memory = resident_kib(daemon.pid());
    assert!(memory < 100 << 10, "{memory} KiB");
}

/// Returns the memory of a process; 0 where that is not known.
fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
}

#[test]
fn an_upgrade_may_be_followed_by_a_message_at_once() {
    let daemon = TestDaemon::fake("").ready();
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let upgrade = "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\nHost: build.example\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(&[upgrade.as_bytes(), b"\x81\x82\0\0\0\0{}"].concat()).unwrap();
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains("-32600") {
        let mut some = [0; 4096];
        let n = stream.read(&mut some).unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&some[..n]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
}
