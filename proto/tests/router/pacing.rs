//! The window of unanswered requests, and fairness between clients.

use codexd_proto::id::ClientId;
use codexd_proto::router::Limits;
use serde_json::{Value, json};

use crate::net::{Net, approval, methods};

fn windowed(window: usize) -> Net {
    Net::limited(Limits { window, queued_requests_per_client: 8, ..Limits::default() })
}

fn flood(net: &mut Net, client: ClientId, n: usize) {
    for i in 0..n {
        net.request(client, i, "thread/list", &json!({}));
    }
}

fn upstream_id(line: &Value) -> i64 {
    line["id"].as_i64().unwrap()
}

#[test]
fn no_more_requests_than_the_window_are_unanswered() {
    let mut net = windowed(3);
    let a = net.join();
    flood(&mut net, a, 10);
    let mut unanswered = net.sent();
    assert_eq!(unanswered.len(), 3);
    for answered in 1..=10 {
        let id = upstream_id(&unanswered.remove(0));
        net.reply(id, &json!(answered));
        unanswered.extend(net.sent());
        assert_eq!(unanswered.len(), 3.min(10 - answered));
    }
    let got: Vec<i64> = net.got(a).iter().map(upstream_id).collect();
    assert_eq!(got, (0..10).collect::<Vec<_>>());
}

#[test]
fn a_flood_of_one_client_does_not_delay_another() {
    let mut net = windowed(2);
    let (a, b) = (net.join(), net.join());
    flood(&mut net, a, 8);
    let first = net.sent();
    net.request(b, "b", "model/list", &json!({}));
    assert_eq!(net.sent(), [] as [Value; 0]);
    net.reply(upstream_id(&first[0]), &json!({}));
    net.reply(upstream_id(&first[1]), &json!({}));
    assert_eq!(methods(&net.sent()), ["thread/list", "model/list"]);
}

#[test]
fn long_requests_fill_the_queue_by_their_bytes_but_the_first_is_taken() {
    let limits = Limits { window: 1, queued_request_bytes_per_client: 1000, ..Limits::default() };
    let mut net = Net::limited(limits);
    let a = net.join();
    let long = json!({"x": "y".repeat(600)});
    for n in 0..3 {
        net.request(a, n, "thread/list", &long);
    }
    // One is under way, one waits, and there is no room for another.
    let refused = net.got_one(a);
    assert_eq!((refused["id"].as_i64(), refused["error"]["code"].as_i64()), (Some(2), Some(-32001)));
    let b = net.join();
    net.request(b, "b", "thread/list", &json!({"x": "y".repeat(2000)}));
    assert_eq!(net.got(b).len(), 0);
}

#[test]
fn requests_above_the_queue_limit_are_refused_and_can_be_repeated() {
    let mut net = windowed(1);
    let (a, b) = (net.join(), net.join());
    flood(&mut net, a, 10);
    let refused = net.got_one(a);
    assert_eq!((refused["id"].as_i64(), refused["error"]["code"].as_i64()), (Some(9), Some(-32001)));
    assert_eq!(
        refused["error"]["data"]["codexd"],
        json!({"reason": "overloaded", "delivered": "no", "retryable": true, "generation": 7})
    );
    net.request(b, 1, "thread/list", &json!({}));
    assert_eq!(net.got_raw(b), [] as [&str; 0], "another client's queue is its own");
}

#[test]
fn slow_requests_release_their_slots_once_the_upstream_has_consumed_them() {
    let mut net = windowed(2);
    let a = net.join();
    net.request(a, 1, "command/exec", &json!({"command": ["sleep"], "processId": "p"}));
    net.request(a, 2, "thread/sample", &json!({"threadId": "t"}));
    net.request(a, 3, "thread/list", &json!({}));
    net.request(a, 4, "model/list", &json!({}));
    let sent = net.sent();
    assert_eq!(methods(&sent), ["command/exec", "thread/sample"], "a flood of them fills the queue too");
    net.pass(9);
    assert_eq!(net.sent(), [] as [Value; 0]);
    net.pass(1);
    let barrier = net.sent();
    assert_eq!(methods(&barrier), ["thread/loaded/list"], "codexd asks what is answered at once");
    assert_eq!(net.router.poll_timeout(), None, "and only once");
    net.reply(upstream_id(&barrier[0]), &json!({}));
    let sent = net.sent();
    assert_eq!(methods(&sent), ["thread/list", "model/list"], "both still run, and neither counts");
    assert_eq!(net.got(a), [] as [Value; 0]);
}

#[test]
fn any_answer_proves_that_everything_sent_before_it_was_consumed() {
    let mut net = windowed(2);
    let a = net.join();
    net.request(a, 1, "command/exec", &json!({"command": ["sleep"], "processId": "p"}));
    net.request(a, 2, "thread/list", &json!({}));
    net.request(a, 3, "model/list", &json!({}));
    net.request(a, 4, "config/read", &json!({}));
    let sent = net.sent();
    assert_eq!(methods(&sent), ["command/exec", "thread/list"]);
    net.reply(upstream_id(&sent[1]), &json!({}));
    assert_eq!(methods(&net.sent()), ["model/list", "config/read"]);
}

#[test]
fn an_unanswered_request_counts_as_long_after_a_while() {
    let mut net = Net::limited(Limits { window: 1, window_release_ms: 2_000, ..Limits::default() });
    let a = net.join();
    flood(&mut net, a, 3);
    let slow = net.sent();
    assert_eq!(slow.len(), 1);
    assert_eq!(net.router.poll_timeout().map(|t| t.since(net.now)), Some(2_000));
    net.pass(1_999);
    assert_eq!(net.sent().len(), 0);
    net.pass(1);
    let barrier = net.sent();
    assert_eq!(methods(&barrier), ["thread/loaded/list"]);
    net.reply(upstream_id(&barrier[0]), &json!({}));
    net.pass(0);
    let second = net.sent();
    assert_eq!(methods(&second), ["thread/list"]);
    // The late answer gives back no place a second time.
    net.reply(upstream_id(&slow[0]), &json!({}));
    assert_eq!(net.sent().len(), 0);
    net.reply(upstream_id(&second[0]), &json!({}));
    assert_eq!(net.sent().len(), 1);
}

#[test]
fn an_upstream_that_stands_still_is_not_filled_up() {
    let mut net = windowed(3);
    let a = net.join();
    flood(&mut net, a, 8);
    for n in 0..40 {
        net.request(a, format!("exec {n}"), "command/exec", &json!({"command": ["sleep"]}));
        net.send(a, r#"{"method":"some/notification"}"#);
        net.pass(1_000);
    }
    let sent = net.sent();
    assert_eq!(methods(&sent), ["thread/list", "thread/list", "thread/list", "thread/loaded/list"]);
}

#[test]
fn notifications_take_their_place_and_their_turn() {
    let mut net = windowed(1);
    let (a, b) = (net.join(), net.join());
    for _ in 0..20 {
        net.send(a, r#"{"method":"some/notification"}"#);
    }
    net.request(b, 1, "thread/list", &json!({}));
    assert_eq!(methods(&net.sent()), ["some/notification"]);
    net.pass(10);
    let barrier = net.sent();
    net.reply(upstream_id(&barrier[0]), &json!({}));
    assert_eq!(methods(&net.sent()), ["some/notification"]);
    net.pass(10);
    let barrier = net.sent();
    net.reply(upstream_id(&barrier[0]), &json!({}));
    assert_eq!(methods(&net.sent()), ["thread/list"], "the other client has its turn");
    assert_eq!(net.router.accounting().queued, 18, "none is dropped");
}

#[test]
fn a_client_that_sends_too_many_notifications_is_not_read_until_there_is_room() {
    let mut net = windowed(1);
    let (a, b) = (net.join(), net.join());
    for _ in 0..8 {
        assert!(!net.router.is_reading_paused(a));
        net.send(a, r#"{"method":"some/notification"}"#);
    }
    net.send(a, r#"{"method":"some/notification"}"#);
    assert!(net.router.is_reading_paused(a) && !net.router.is_reading_paused(b));
    net.sent();
    net.pass(10);
    let barrier = net.sent();
    net.reply(upstream_id(&barrier[0]), &json!({}));
    assert!(!net.router.is_reading_paused(a));
    flood(&mut net, b, 9);
    assert!(!net.router.is_reading_paused(b), "requests are refused instead");
    net.lose();
    assert!(!net.router.is_reading_paused(a));
}

#[test]
fn answers_do_not_wait_for_requests_and_do_not_fill_the_upstream_either() {
    let mut net = Net::limited(Limits { window: 1, ..Limits::default() });
    let a = net.join();
    let t = net.start_thread(a, 1);
    flood(&mut net, a, 2);
    net.sent();
    for id in 0..100 {
        net.feed(&approval(id, &t));
    }
    for id in 0..100 {
        net.send(a, &json!({"id": id, "result": {"decision": "accept"}}).to_string());
    }
    let mut answered: Vec<i64> = Vec::new();
    for _ in 0..20 {
        let sent = net.sent();
        let answers = sent.iter().filter(|l| l.get("method").is_none());
        let before = answered.len();
        answered.extend(answers.map(upstream_id));
        assert!(answered.len() - before <= 24);
        let barrier = sent.iter().find(|l| l["method"] == "thread/loaded/list");
        if let Some(barrier) = barrier {
            net.reply(upstream_id(barrier), &json!({}));
        }
        net.pass(10);
    }
    assert_eq!(answered, (0..100).collect::<Vec<_>>(), "none is lost, doubled or out of order");
    assert_eq!(net.router.accounting().answers, 0);
}

#[test]
fn a_refused_barrier_proves_nothing_and_is_sent_again_later() {
    let mut net = windowed(1);
    let a = net.join();
    net.request(a, 1, "command/exec", &json!({"command": ["sleep"]}));
    net.request(a, 2, "thread/list", &json!({}));
    net.sent();
    net.pass(10);
    let barrier = net.sent();
    net.overloaded(upstream_id(&barrier[0]));
    net.pass(0);
    assert_eq!(net.sent(), [] as [Value; 0]);
    net.pass(10);
    let barrier = net.sent();
    assert_eq!(methods(&barrier), ["thread/loaded/list"]);
    net.reply(upstream_id(&barrier[0]), &json!({}));
    assert_eq!(methods(&net.sent()), ["thread/list"]);
}

#[test]
fn requests_are_queued_up_to_a_number_of_bytes() {
    let limits = Limits { window: 1, queued_request_bytes_per_client: 10_000, ..Limits::default() };
    let mut net = Net::limited(limits);
    let (a, b) = (net.join(), net.join());
    let long = |n: usize| json!({"pad": "x".repeat(n)});
    net.request(a, 0, "thread/list", &json!({}));
    net.request(a, 1, "thread/list", &long(50_000));
    assert_eq!(net.got(a), [] as [Value; 0], "one of any length may wait");
    net.request(a, 2, "thread/list", &json!({}));
    let refused = net.got_one(a);
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!(2), &json!(-32001)));
    assert_eq!(refused["error"]["data"]["codexd"]["retryable"], true);
    net.request(b, 0, "thread/list", &long(5_000));
    net.request(b, 1, "thread/list", &long(4_000));
    net.request(b, 2, "thread/list", &long(4_000));
    net.request(b, 3, "thread/list", &json!({}));
    assert_eq!(net.got_one(b)["id"], 2, "a small one still has its place");
}

#[test]
fn the_place_of_a_request_whose_client_has_gone_comes_back() {
    let mut net = windowed(2);
    let (a, b) = (net.join(), net.join());
    flood(&mut net, a, 4);
    net.request(a, "x", "command/exec", &json!({"command": ["sleep"]}));
    let lost = net.sent();
    net.leave(a);
    flood(&mut net, b, 1);
    net.pass(2_000);
    let barrier = net.sent();
    net.reply(upstream_id(&barrier[0]), &json!({}));
    net.pass(0);
    assert_eq!(methods(&net.sent()), ["thread/list"]);
    assert_eq!(net.router.accounting().window, 1, "{lost:?} are never answered");
}

#[test]
fn requests_that_wait_go_with_their_client() {
    let mut net = windowed(1);
    let (a, b) = (net.join(), net.join());
    flood(&mut net, a, 5);
    net.request(b, "b", "model/list", &json!({}));
    let first = net.sent();
    net.leave(a);
    net.reply(upstream_id(&first[0]), &json!({}));
    assert_eq!(methods(&net.sent()), ["model/list"]);
}

#[test]
fn unsubscribes_of_codexd_are_paced_too() {
    let mut net = windowed(2);
    let a = net.join();
    for n in 0..5 {
        net.start_thread(a, n);
    }
    net.leave(a);
    assert_eq!(net.sent().len(), 2);
}

#[test]
fn a_health_check_overtakes_queued_requests() {
    let mut net = windowed(1);
    let a = net.join();
    flood(&mut net, a, 3);
    net.sent();
    let now = net.now;
    net.router.ping(now);
    assert_eq!(methods(&net.sent()), ["thread/loaded/list"]);
}

#[test]
fn an_interrupt_overtakes_what_waits_of_its_client() {
    let mut net = windowed(1);
    let (a, b) = (net.join(), net.join());
    flood(&mut net, a, 9);
    let first = net.sent();
    assert_eq!(methods(&first), ["thread/list"]);
    // Its queue is full, and it has room all the same.
    net.request(a, "stop", "turn/interrupt", &json!({"threadId": "t", "turnId": "u"}));
    assert_eq!(net.got(a), [] as [Value; 0]);
    net.request(b, "b", "model/list", &json!({}));
    net.reply(upstream_id(&first[0]), &json!({}));
    let next = net.sent();
    assert_eq!(methods(&next), ["turn/interrupt"]);
    net.reply(upstream_id(&next[0]), &json!({}));
    // Another client's turn has come; what was overtaken follows in its order.
    let mut later = net.sent();
    assert_eq!(methods(&later), ["model/list"]);
    for _ in 0..8 {
        net.reply(upstream_id(&later[0]), &json!({}));
        later = net.sent();
        assert_eq!(methods(&later), ["thread/list"]);
    }
}

#[test]
fn what_an_interrupt_has_overtaken_is_sent_again_if_it_is_refused() {
    let mut net = windowed(1);
    let a = net.join();
    flood(&mut net, a, 2);
    let first = net.sent();
    net.request(a, "stop", "turn/interrupt", &json!({"threadId": "t", "turnId": "u"}));
    net.reply(upstream_id(&first[0]), &json!({}));
    let interrupt = net.sent();
    net.reply(upstream_id(&interrupt[0]), &json!({}));
    let overtaken = net.sent();
    net.feed(&json!({"id": overtaken[0]["id"], "error": {"code": -32001, "message": "full"}}).to_string());
    net.pass(10_000);
    assert_eq!(net.sent()[0]["id"], overtaken[0]["id"], "nothing newer of the client was sent in its place");
}

#[test]
fn interrupts_are_bounded_too() {
    let mut net = windowed(1);
    let a = net.join();
    flood(&mut net, a, 9);
    for n in 0..100 {
        net.request(a, n, "turn/interrupt", &json!({"threadId": "t", "turnId": "u"}));
    }
    let refused = net.got(a).iter().filter(|answer| answer["error"]["code"] == -32001).count();
    assert_eq!(refused, 100 - 64);
}
