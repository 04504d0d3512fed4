//! The handshake is the client's once, and each daemon's.

use codexd_proto::bridge::ConnectionState;
use codexd_proto::bridge::Delivery;
use codexd_proto::router::OrphanedTurns;
use serde_json::{Value, json};

use crate::desk::{Desk, methods, values};

const INITIALIZE: &str = r#"{"id":"i","method":"initialize","params":{"clientInfo":{}}}"#;

fn asked() -> Desk {
    let mut desk = Desk::new();
    desk.state.client_line(format!("{INITIALIZE}\n").into_bytes());
    desk.daemon_takes_all();
    assert!(desk.state.awaits_initialize());
    desk
}

#[test]
fn nothing_is_written_after_initialize_until_it_is_answered() {
    let mut desk = Desk::new();
    desk.client(&serde_json::from_str(INITIALIZE).unwrap());
    desk.client(&json!({"method": "initialized"}));
    desk.client(&json!({"id": 1, "method": "model/list"}));
    assert_eq!(desk.daemon_takes_all().len(), 1);
    desk.greeted();
    assert_eq!(desk.daemon_takes_all().len(), 2);
}

#[test]
fn a_daemon_that_is_ending_is_never_the_one() {
    let mut desk = asked();
    let notice = json!({"method": "notifications/broker/shuttingDown", "params": {"reason": "x"}});
    assert_eq!(desk.daemon(&notice), [Value::Null; 0]);
    let refusal = br#"{"id":"i","error":{"code":-32001,"message":"m","data":{"codexd":{"reason":"draining","delivered":"no","retryable":true}}}}"#;
    assert_eq!(desk.state.daemon_line(refusal), Delivery::Elsewhere);
    assert_eq!(desk.state.refusal(), Some("m"));
    assert_eq!(desk.lost(), [Value::Null; 0]);
    assert!(desk.state.wants_daemon() && !desk.state.is_attached());
    desk.state.connected(0);
    assert_eq!(desk.daemon_takes_all().len(), 1);
    // This time, the answer is the client's.
    assert_eq!(desk.greeted()[0]["id"], "i");
    assert_eq!(desk.state.unanswered(), 0);
}

#[test]
fn a_daemon_that_cannot_start_is_not_tried_again() {
    let refusal = br#"{"id":"i","error":{"code":-32010,"message":"codexd cannot start: no \"key\"","data":{"codexd":{"reason":"startFailed","delivered":"no","retryable":false,"exitCode":78}}}}"#;
    let why = "the daemon did not start (exit code 78): no \"key\"".to_owned();
    let mut desk = asked();
    assert_eq!(desk.state.daemon_line(refusal), Delivery::NoDaemon(why.clone()));
    // What takes its place gets the handshake, and the answer is the client's.
    desk.lost();
    desk.state.connected(0);
    assert_eq!(desk.daemon_takes_all().len(), 1);
    assert_eq!(desk.greeted().len(), 1);
    let mut moved = Desk::initialized();
    moved.lost();
    moved.state.connected(0);
    moved.daemon_takes_all();
    assert_eq!(moved.state.daemon_line(refusal), Delivery::NoDaemon(why));
    moved.lost();
    moved.state.connected(0);
    moved.daemon_takes_all();
    assert_eq!(moved.greeted(), [Value::Null; 0]);
    // Where nothing takes its place, the client is told once.
    let mut alone = asked();
    alone.state.daemon_line(refusal);
    assert!(alone.state.refused());
    assert_eq!((alone.state.unanswered(), alone.state.refused()), (0, false));
}

#[test]
fn a_refusal_for_good_is_the_clients_who_can_try_again() {
    let mut desk = asked();
    assert_eq!(desk.daemon(&json!({"id": "i", "error": {"code": -32600, "message": "m"}})).len(), 1);
    assert!(!desk.state.awaits_initialize());
    desk.client(&serde_json::from_str(INITIALIZE).unwrap());
    assert_eq!(desk.daemon_takes_all().len(), 1);
    assert!(desk.state.awaits_initialize());
}

#[test]
fn an_idle_client_moves_unseen_when_it_sends_something() {
    let mut desk = Desk::initialized();
    desk.ask(1, "model/list", &json!({}), &json!({}));
    assert_eq!(desk.lost(), [Value::Null; 0]);
    assert!(!desk.state.wants_daemon() && !desk.state.is_attached());
    desk.client(&json!({"id": 2, "method": "thread/list", "params": {}}));
    assert!(desk.state.wants_daemon());
    assert_eq!(desk.next_daemon()[0]["id"], 2);
}

#[test]
fn the_end_of_a_handshake_is_no_reason_for_a_daemon() {
    let mut desk = asked();
    desk.greeted();
    desk.client(&json!({"method": "initialized"}));
    desk.lost();
    assert!(!desk.state.wants_daemon());
    desk.client(&json!({"id": 1, "method": "model/list"}));
    assert_eq!(desk.next_daemon().len(), 1);
}

#[test]
fn the_handshake_is_known_however_it_is_spelled() {
    let mut desk = Desk::new();
    let line = r#"{"\u0069d":"\u0069","m\u0065thod":"initi\u0061lize","params":{"clientInfo":{}}}"#;
    desk.state.client_line(format!("{line}\n").into_bytes());
    desk.daemon_takes_all();
    assert!(desk.state.awaits_initialize());
    desk.greeted();
    assert!(!desk.state.awaits_initialize());
    desk.state.client_line(b"{\"method\":\"initi\\u0061lized\"}\n".to_vec());
    desk.lost();
    desk.state.connected(0);
    desk.daemon_takes_all();
    desk.greeted();
    assert_eq!(desk.daemon_takes_all().len(), 1);
}

#[test]
fn what_a_start_reports_reaches_the_client_again_only_if_it_changed() {
    let warning = |text| json!({"method": "configWarning", "emittedAtMs": 1, "params": {"summary": text}});
    let mut desk = Desk::initialized();
    assert_eq!(desk.daemon(&warning("a")).len(), 1);
    desk.thread(1, "t");
    desk.lost();
    desk.next_daemon();
    let mut later = warning("a");
    later["emittedAtMs"] = json!(2);
    assert_eq!(desk.daemon(&later), [Value::Null; 0]);
    assert_eq!(desk.daemon(&warning("b")).len(), 1);
}

#[test]
fn why_the_daemon_closes_the_connection_is_remembered_until_the_next_one() {
    let mut desk = Desk::initialized();
    assert_eq!(desk.state.closing(), None);
    let notice = json!({"method": "notifications/broker/closing", "params": {"reason": "tooSlow", "message": "too slow"}});
    assert_eq!(desk.daemon(&notice).len(), 1);
    assert_eq!(desk.state.closing(), Some("too slow"));
    desk.lost();
    desk.state.connected(0);
    assert_eq!(desk.state.closing(), None);
    desk.daemon(&json!({"method": "notifications/broker/closing"}));
    assert_eq!(desk.state.closing(), Some("without a reason"));
}

#[test]
fn a_client_that_declares_nothing_is_spoken_for_at_each_daemon() {
    let mut state = ConnectionState::new(Some(OrphanedTurns::Interrupt), None);
    state.client_line(format!("{INITIALIZE}\n").into_bytes());
    for _ in 0..2 {
        let line = values(state.to_daemon().unwrap());
        assert_eq!(line[0]["params"]["codexd"]["orphanedTurns"], "interrupt");
        state.daemon_took(state.to_daemon().unwrap().len());
        state.daemon_line(b"{\"id\":\"i\",\"result\":{}}\n");
        state.lost();
        state.connected(0);
    }
}

#[test]
fn a_client_that_had_something_learns_that_it_has_another_daemon() {
    let mut desk = Desk::initialized();
    desk.thread(1, "t");
    desk.lost();
    desk.state.connected(5);
    desk.daemon_takes_all();
    let seen = desk.greeted();
    assert_eq!(methods(&seen), ["notifications/broker/upstreamRestarted"]);
    let params = json!({"generation": 7, "reason": "the connection to codexd was lost", "downMs": 5});
    assert_eq!(seen[0]["params"], params);
}
