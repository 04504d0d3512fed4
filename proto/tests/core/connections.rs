//! Connections: their number, half-closing, deadlines, and which count as use of the daemon.

use codexd_proto::core::{CoreConfig, CoreSettings, Effect, Event, Fact, Framing, Restart, Room, Timer};
use codexd_proto::lifecycle::{ChildStatus, State};
use codexd_proto::router::{CloseReason, Limits};
use codexd_proto::status::StatusReport;
use serde_json::{Value, json};

use crate::shell::{Shell, settings};

#[test]
fn a_half_closed_client_gets_its_pending_replies_and_is_closed() {
    let mut shell = Shell::serving(settings(), Restart::Never);
    let client = shell.join();
    shell.sent();
    shell.send(client, &json!({"id": 1, "method": "thread/list", "params": {}}));
    let id = shell.sent()[0]["id"].clone();
    assert_eq!(shell.report(Event::ClientEof { client, hung_up: false, framing_waits: false }), []);
    // Whether its peer still reads is checked until the reply is there.
    assert_eq!(shell.pass(1_000), [Effect::CheckConnection { client }]);
    assert_eq!(shell.pass(1_000), [Effect::CheckConnection { client }]);
    shell.upstream(&json!({"id": id, "result": {}}));
    assert_eq!(shell.got(client)[0]["id"], 1);
    assert_eq!(shell.effects(), [Effect::CloseClient { client, reason: None }]);
}

#[test]
fn a_client_that_hung_up_or_awaits_nothing_is_closed_at_once() {
    let mut shell = Shell::serving(settings(), Restart::Never);
    let (first, second) = (shell.join(), shell.join());
    let eof = |client, hung_up| Event::ClientEof { client, hung_up, framing_waits: false };
    assert_eq!(shell.report(eof(first, false)), [Effect::CloseClient { client: first, reason: None }]);
    shell.send(second, &json!({"id": 1, "method": "thread/list", "params": {}}));
    assert_eq!(shell.report(eof(second, true)), [Effect::DropClient { client: second }]);
}

#[test]
fn a_detached_client_is_closed_once_its_answer_is_written() {
    let mut shell = Shell::serving(settings(), Restart::Never);
    let (first, _second) = (shell.join(), shell.join());
    assert_eq!(shell.send(first, &json!({"id": 1, "method": "broker/shutdown"})), []);
    assert_eq!(shell.got(first)[0]["result"], json!({}));
    let reason = Some(CloseReason::Detached);
    assert_eq!(shell.effects(), [Effect::CloseClient { client: first, reason }]);
}

#[test]
fn a_detached_client_that_does_not_read_is_dropped_in_time() {
    let mut shell = Shell::serving(settings(), Restart::Never);
    let (first, _second) = (shell.join(), shell.join());
    shell.send(first, &json!({"id": 1, "method": "broker/shutdown"}));
    assert_eq!(shell.pass(9_999), []);
    assert_eq!(shell.pass(1), [Effect::DropClient { client: first }]);
}

#[test]
fn an_http_head_has_five_seconds() {
    let mut shell = Shell::serving(settings(), Restart::Never);
    let client = shell.core.connect(shell.now);
    shell.report(Event::ClientFraming { client, framing: Framing::Http });
    assert_eq!(shell.pass(4_999), []);
    assert_eq!(shell.pass(1), [Effect::TimeOutRequest { client }]);
    shell.report(Event::HttpRequest { client });
    assert_eq!(shell.pass(10_000), [Effect::DropClient { client }]);
}

#[test]
fn room_ends_with_the_files_and_with_the_limit() {
    let mut shell = Shell::serving(settings(), Restart::Never);
    let _clients = [shell.join(), shell.join()];
    assert_eq!(shell.core.room(), Room::Free);
    let last = shell.join();
    assert_eq!(shell.core.room(), Room::NoFiles);
    shell.report(Event::ClientDisconnected { client: last });
    assert_eq!(shell.core.room(), Room::Free);
    let limits = Limits { max_clients: 2, ..Limits::default() };
    shell.core.reconfigure(CoreSettings { limits, ..settings() });
    assert_eq!(shell.core.room(), Room::Full);
}

#[test]
fn an_http_request_does_not_postpone_the_idle_exit() {
    let idle = CoreSettings { idle_exit_ms: Some(10_000), ..settings() };
    let mut shell = Shell::serving(idle, Restart::Never);
    shell.pass(4_000);
    let client = shell.core.connect(shell.now);
    shell.report(Event::ClientFraming { client, framing: Framing::Http });
    assert!(shell.core.timers().all(|(timer, _)| timer != Timer::IdleExit));
    shell.pass(1_000);
    shell.report(Event::HttpRequest { client });
    shell.report(Event::ClientDisconnected { client });
    shell.pass(4_999);
    assert_eq!(shell.core.state(), State::Serving);
    shell.pass(1);
    assert_eq!(shell.core.state(), State::ClosingInput, "nothing runs: the drain is over at once");
}

#[test]
fn an_http_request_that_was_open_while_a_client_came_and_went_does_not_hide_the_client() {
    let idle = CoreSettings { idle_exit_ms: Some(10_000), ..settings() };
    let mut shell = Shell::serving(idle, Restart::Never);
    shell.pass(4_000);
    let page = shell.core.connect(shell.now);
    shell.report(Event::ClientFraming { client: page, framing: Framing::Http });
    let client = shell.join();
    shell.pass(4_000);
    shell.report(Event::ClientDisconnected { client });
    shell.report(Event::HttpRequest { client: page });
    shell.report(Event::ClientDisconnected { client: page });
    shell.pass(9_999);
    assert_eq!(shell.core.state(), State::Serving);
    shell.pass(1);
    assert_eq!(shell.core.state(), State::ClosingInput);
}

#[test]
fn a_client_postpones_the_idle_exit() {
    let idle = CoreSettings { idle_exit_ms: Some(10_000), ..settings() };
    let mut shell = Shell::serving(idle, Restart::Never);
    shell.pass(9_000);
    let client = shell.join();
    shell.report(Event::ClientDisconnected { client });
    shell.pass(9_999);
    assert_eq!(shell.core.state(), State::Serving);
}

#[test]
fn a_daemon_whose_socket_is_lost_stops_only_when_it_is_unused() {
    let idle = CoreSettings { idle_exit_ms: Some(600_000), ..settings() };
    let mut shell = Shell::serving(idle, Restart::Never);
    let client = shell.join();
    shell.report(Event::SocketLost);
    assert_eq!(shell.core.state(), State::Serving);
    shell.report(Event::ClientDisconnected { client });
    assert_eq!(shell.pass(5_000), [Effect::CheckSocket]);
    shell.report(Event::SocketLost);
    assert_ne!(shell.core.state(), State::Serving);
    shell.report(Event::UpstreamExited(ChildStatus::Code(0)));
    assert_eq!(shell.core.exit_code().map(|code| code.number()), Some(0));
}

#[test]
fn a_daemon_whose_codex_has_grown_large_stops_only_when_it_is_unused() {
    let never = CoreSettings { idle_exit_ms: None, ..settings() };
    let mut shell = Shell::serving(never, Restart::OnDemand);
    let client = shell.join();
    shell.report(Event::MemoryHigh { bytes: 7 });
    assert_eq!(shell.core.state(), State::Serving);
    shell.report(Event::ClientDisconnected { client });
    shell.report(Event::MemoryHigh { bytes: 7 });
    assert_ne!(shell.core.state(), State::Serving);
    shell.report(Event::UpstreamExited(ChildStatus::Code(0)));
    assert_eq!(shell.core.exit_code().map(|code| code.number()), Some(0));
}

#[test]
fn a_connection_above_the_limit_gets_the_reason_and_the_status_warns() {
    let limits = Limits { max_clients: 2, ..Limits::default() };
    let mut shell = Shell::serving(CoreSettings { limits, ..settings() }, Restart::Never);
    let _first = shell.join();
    assert_eq!(shell.core.refusal(7), None);
    // A connection that only asks for a page does not count.
    let page = shell.core.connect(shell.now);
    shell.report(Event::ClientFraming { client: page, framing: Framing::Http });
    shell.report(Event::HttpRequest { client: page });
    assert_eq!(shell.core.refusal(7), None);
    let second = shell.join();
    let refusal = shell.core.refusal(7).unwrap();
    let mut out = Vec::new();
    assert!(refusal.answer(br#"{"id":"x","method":"initialize"}"#, &mut out));
    assert!(refusal.answer(br#"{"id":5,"method":5}"#, &mut out) && refusal.answer(b"nonsense", &mut out));
    for silent in [&b" "[..], br#"{"method":"initialized"}"#, br#"{"id":1,"result":{}}"#, br#"{"error":1}"#] {
        assert!(!refusal.answer(silent, &mut out));
    }
    let answers: Vec<Value> =
        String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let message = "2 clients are connected, as many as `limits.max_clients` allows; connect again later";
    for (answer, id) in answers.iter().zip([json!("x"), json!(5), Value::Null]) {
        let mark = json!({"reason": "tooManyClients", "delivered": "no", "retryable": true, "generation": 7});
        let error = json!({"code": -32001, "message": message, "data": {"codexd": mark}});
        assert_eq!(*answer, json!({"id": id, "error": error}));
    }
    assert_eq!(answers.len(), 3);
    let mut report = StatusReport::default();
    shell.core.fill_status(shell.now, &mut report);
    assert_eq!((report.max_clients, report.warnings[0].code.as_str()), (2, "tooManyClients"));
    shell.report(Event::ClientDisconnected { client: second });
    let mut report = StatusReport::default();
    shell.core.fill_status(shell.now, &mut report);
    assert_eq!((shell.core.refusal(7), report.warnings), (None, vec![]));
}

#[test]
fn slow_clients_are_reported_with_name_and_queued_bytes_and_not_each_of_many() {
    let limits = Limits {
        max_clients: 100,
        client_queue_soft_bytes: 500,
        client_queue_hard_bytes: 1_000,
        client_queue_max_bytes: 1_000,
        ..Limits::default()
    };
    let config = CoreConfig { clients_with_files: 100, ..CoreConfig::default() };
    let mut shell = Shell::with(config, CoreSettings { limits, ..settings() });
    let close_one = |shell: &mut Shell| {
        let client = shell.join();
        let written = Event::ClientWritten { client, bytes: 0, full: true, framing_waits: false };
        shell.report(written);
        loop {
            let effects = shell.report(Event::ClientLine { client, line: b"{" });
            if !effects.is_empty() {
                let queued = shell.core.pending(client).len();
                shell.report(Event::ClientDisconnected { client });
                return (client, queued, effects);
            }
        }
    };
    let closed: Vec<_> = (0..8).map(|_| close_one(&mut shell)).collect();
    for (n, (client, queued, effects)) in closed.iter().enumerate() {
        let close = Effect::CloseClient { client: *client, reason: Some(CloseReason::TooSlow) };
        let name = Some("c".to_owned());
        let fact = Fact::ClientTooSlow { client: *client, name, queued_bytes: *queued, suppressed: 0 };
        assert!(*queued > 1_000, "{queued}");
        assert_eq!(*effects, if n < 5 { vec![Effect::Log(fact), close] } else { vec![close] });
    }
    shell.pass(60_000);
    let (_, _, effects) = close_one(&mut shell);
    assert!(matches!(&effects[0], Effect::Log(Fact::ClientTooSlow { suppressed: 3, .. })), "{effects:?}");
}
