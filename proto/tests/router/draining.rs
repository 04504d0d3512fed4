//! No new work, but what runs goes on.

use serde_json::json;

use crate::net::{Net, approval, methods, turn_completed};

fn draining() -> (Net, codexd_proto::id::ClientId, String, String) {
    let mut net = Net::new();
    let a = net.join();
    let busy = net.start_thread(a, 1);
    let idle = net.start_thread(a, 2);
    net.open_turn(&busy, "u");
    net.drain();
    // Codex is asked to keep the one that has never run; the daemon waits for the answer.
    let sent = net.sent();
    assert_eq!((methods(&sent).last().unwrap().as_str(), net.router.is_quiet()), ("thread/read", false));
    net.fail(
        sent.last().unwrap()["id"].as_i64().unwrap(),
        "includeTurns is unavailable before first user message",
    );
    net.hush(&[a]);
    (net, a, busy, idle)
}

#[test]
fn every_initialized_client_is_notified_why_and_until_when() {
    let mut net = Net::new();
    let (a, early) = (net.join(), net.connect());
    let opted_out =
        net.join_with(&json!({"optOutNotificationMethods": ["notifications/broker/shuttingDown"]}));
    net.drain();
    let reported = net.got_one(a);
    assert_eq!(reported["method"], "notifications/broker/shuttingDown");
    assert_eq!(
        reported["params"],
        json!({"reason": "stopping", "deadlineMs": 30_000, "retryAfterMs": 1_000, "intended": true, "generation": 7})
    );
    assert_eq!((net.got_raw(early), net.got_raw(opted_out)), (vec![], vec![]));
}

#[test]
fn new_work_is_refused_and_can_be_repeated_later() {
    let (mut net, a, _, idle) = draining();
    for (method, params) in [
        ("turn/start", json!({"threadId": idle})),
        ("thread/start", json!({})),
        ("thread/fork", json!({"threadId": idle})),
        ("review/start", json!({"threadId": idle})),
        ("command/exec", json!({"command": ["ls"]})),
    ] {
        net.request(a, 1, method, &params);
        let answer = net.got_one(a);
        assert_eq!(answer["error"]["code"], -32001, "{method}");
        let data = json!({"reason": "draining", "delivered": "no", "retryable": true, "generation": 7});
        assert_eq!(answer["error"]["data"]["codexd"], data);
    }
    assert_eq!(net.sent_raw(), [] as [&str; 0]);
}

#[test]
fn input_interrupts_approvals_and_reads_go_on() {
    let (mut net, a, busy, _) = draining();
    for (method, params) in [
        ("turn/start", json!({"threadId": busy})),
        ("turn/steer", json!({"threadId": busy})),
        ("turn/interrupt", json!({"threadId": busy, "turnId": "u"})),
        ("thread/read", json!({"threadId": busy})),
        ("thread/resume", json!({"threadId": busy})),
        ("newer/method", json!({})),
    ] {
        net.request(a, 1, method, &params);
        assert_eq!(methods(&net.sent()), [method]);
    }
    net.feed(&approval(0, &busy));
    net.send(a, r#"{"id":0,"result":{"decision":"accept"}}"#);
    assert_eq!(net.sent_raw().len(), 1);
}

#[test]
fn a_review_is_never_input_for_a_running_turn() {
    let (mut net, a, busy, _) = draining();
    net.request(a, 1, "review/start", &json!({"threadId": busy}));
    assert_eq!(net.got_one(a)["error"]["code"], -32001);
}

#[test]
fn no_new_clients_are_taken() {
    let (mut net, a, ..) = draining();
    let late = net.connect();
    net.request(late, 1, "initialize", &json!({"clientInfo": {"name": "x", "version": "1"}}));
    assert_eq!(net.got_one(late)["error"]["code"], -32001);
    assert_eq!(net.got_raw(a), [] as [&str; 0]);
}

#[test]
fn it_is_quiet_when_no_turn_and_no_request_runs() {
    let (mut net, a, busy, _) = draining();
    assert!(!net.router.is_quiet());
    let read = net.forwarded(a, "thread/read", &json!({"threadId": busy}));
    net.feed(&crate::net::status(&busy, "idle"));
    net.feed(&turn_completed(&busy, "u"));
    assert!(!net.router.is_quiet());
    net.reply(read, &json!({}));
    assert!(net.router.is_quiet());
}

#[test]
fn open_turns_are_interrupted_when_asked_for() {
    let (mut net, a, busy, _) = draining();
    let now = net.now;
    net.router.interrupt_turns(now);
    let sent = net.sent();
    assert_eq!(methods(&sent), ["turn/interrupt"]);
    assert_eq!(sent[0]["params"], json!({"threadId": busy, "turnId": "u"}));
    net.reply(sent[0]["id"].as_i64().unwrap(), &json!({}));
    assert_eq!(net.got_raw(a), [] as [&str; 0], "nobody asked for it");
}
