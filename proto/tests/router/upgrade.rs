//! No new work before an upgrade, and new work again when it is called off.

use codexd_proto::router::RouterTimer;
use serde_json::json;

use crate::net::{Net, approval, methods, note, status, turn_completed};

fn waiting(net: &mut Net, left_ms: Option<u64>) {
    let now = net.now;
    net.router.refuse_new_work(now, left_ms);
}

#[test]
fn new_work_is_refused_and_what_runs_goes_on() {
    let mut net = Net::new();
    let a = net.join();
    let (busy, idle) = (net.start_thread(a, 1), net.start_thread(a, 2));
    net.open_turn(&busy, "u");
    net.hush(&[a]);
    waiting(&mut net, Some(5_000));
    let notice = net.got_one(a);
    assert_eq!(
        (&notice["method"], &notice["params"]),
        (&json!("notifications/broker/upgradeWaiting"), &json!({"deadlineMs": 5_000, "generation": 7}))
    );
    for (method, params) in [
        ("turn/start", json!({"threadId": idle})),
        ("thread/start", json!({})),
        ("review/start", json!({"threadId": busy})),
    ] {
        net.request(a, 1, method, &params);
        let answer = net.got_one(a);
        assert_eq!(answer["error"]["code"], -32001, "{method}");
        let data = json!({"reason": "upgrading", "delivered": "no", "retryable": true, "generation": 7});
        assert_eq!(answer["error"]["data"]["codexd"], data);
    }
    assert_eq!(net.sent_raw(), [] as [&str; 0]);
    for (method, params) in [
        ("turn/start", json!({"threadId": busy})),
        ("turn/interrupt", json!({"threadId": busy, "turnId": "u"})),
        ("thread/read", json!({"threadId": busy})),
    ] {
        net.request(a, 1, method, &params);
        assert_eq!(methods(&net.sent()), [method]);
    }
    net.feed(&approval(0, &busy));
    net.send(a, r#"{"id":0,"result":{"decision":"accept"}}"#);
    assert_eq!(net.sent_raw().len(), 1);
}

#[test]
fn a_client_that_connects_meanwhile_is_served() {
    let mut net = Net::new();
    let a = net.join();
    let thread = net.start_thread(a, 1);
    net.open_turn(&thread, "u");
    net.hush(&[a]);
    waiting(&mut net, None);
    assert_eq!(net.got_one(a)["params"]["deadlineMs"], json!(null));
    let late = net.join();
    let resume = net.forwarded(late, "thread/resume", &json!({"threadId": thread}));
    net.reply(resume, &json!({"thread": {"id": thread}}));
    net.hush(&[a, late]);
    net.feed(&turn_completed(&thread, "u"));
    assert_eq!(net.got_one(late)["method"], "turn/completed");
}

#[test]
fn when_it_is_called_off_new_work_is_accepted_again() {
    let mut net = Net::new();
    let opted_out = json!({"optOutNotificationMethods": ["notifications/broker/upgradeCalledOff"]});
    let (a, quiet, early) = (net.join(), net.join_with(&opted_out), net.connect());
    waiting(&mut net, None);
    net.hush(&[a, quiet]);
    let now = net.now;
    net.router.accept_new_work(now);
    assert_eq!(
        net.got_one(a),
        json!({"method": "notifications/broker/upgradeCalledOff", "params": {"generation": 7}})
    );
    assert_eq!((net.got_raw(quiet), net.got_raw(early)), (vec![], vec![]));
    net.request(a, 1, "thread/start", &json!({}));
    assert_eq!(methods(&net.sent()), ["thread/start"]);
    // Once more means nothing.
    net.router.accept_new_work(now);
    assert_eq!(net.got_raw(a), [] as [&str; 0]);
}

#[test]
fn a_drain_after_it_takes_no_clients_any_more_and_is_not_called_off() {
    let mut net = Net::new();
    let a = net.join();
    waiting(&mut net, None);
    net.drain();
    net.hush(&[a]);
    let late = net.connect();
    net.request(late, 1, "initialize", &json!({"clientInfo": {"name": "x", "version": "1"}}));
    assert_eq!(net.got_one(late)["error"]["data"]["codexd"]["reason"], "draining");
    let now = net.now;
    net.router.accept_new_work(now);
    net.request(a, 1, "thread/start", &json!({}));
    assert_eq!(net.got_one(a)["error"]["data"]["codexd"]["reason"], "draining");
}

fn ends(net: &mut Net, thread: &str, turn: &str) {
    net.feed(&status(thread, "idle"));
    net.feed(&turn_completed(thread, turn));
}

/// Codex starts the next prompt of a queue some milliseconds after the end of the turn before it.
#[test]
fn nothing_counts_as_running_only_once_the_queue_of_a_thread_has_been_given_time() {
    let mut net = Net::new();
    let a = net.join();
    let (queued, other) = (net.start_thread(a, 1), net.start_thread(a, 2));
    net.open_turn(&other, "t");
    ends(&mut net, &other, "t");
    let add = net.forwarded(a, "thread/queue/add", &json!({"threadId": queued, "input": []}));
    net.open_turn(&queued, "u");
    net.reply(add, &json!({}));
    net.feed(&note("thread/queue/changed", &json!({"threadId": queued})));
    waiting(&mut net, None);
    ends(&mut net, &queued, "u");
    net.pass(500);
    assert!(!net.router.is_quiet(), "its next turn may start");
    net.open_turn(&queued, "v");
    net.pass(5_000);
    assert!(!net.router.is_quiet(), "it runs");
    ends(&mut net, &queued, "v");
    net.pass(999);
    assert!(!net.router.is_quiet());
    net.pass(1);
    assert!(net.router.is_quiet(), "there was no other one");
    assert_eq!(net.router.due(RouterTimer::NextTurn), None);
    // A thread without a queue, or whose turn was interrupted, is not waited for.
    net.open_turn(&other, "w");
    ends(&mut net, &other, "w");
    assert!(net.router.is_quiet());
    net.open_turn(&queued, "x");
    net.feed(&status(&queued, "idle"));
    net.feed(&turn_completed(&queued, "x").replace("\"completed\"", "\"interrupted\""));
    assert!(net.router.is_quiet());
}
