//! What the upstream has no room for is sent again.

use codexd_proto::router::{Accounting, Limits};
use codexd_proto::status::StatusReport;
use serde_json::{Value, json};

use crate::net::{Net, methods, thread};

const NONE: [Value; 0] = [];

fn upstream_id(line: &Value) -> i64 {
    line["id"].as_i64().unwrap()
}

fn retried(net: &Net) -> u64 {
    let mut report = StatusReport::default();
    net.router.fill_status(net.now, &mut report);
    report.counters.retried_requests
}

#[test]
fn a_refused_request_is_sent_again_and_answered_once() {
    let mut net = Net::new();
    let a = net.join();
    net.request(a, "r", "turn/start", &json!({"threadId": thread(1), "input": []}));
    let first = net.sent_raw();
    net.overloaded(1);
    assert_eq!(net.sent(), NONE, "not at once");
    assert_eq!(net.router.poll_timeout().map(|t| t.since(net.now)), Some(25));
    net.pass(25);
    assert_eq!(net.sent_raw(), first, "byte for byte");
    assert_eq!(net.got(a), NONE);
    net.reply(1, &json!({"turn": {"id": "u", "status": "inProgress"}}));
    assert_eq!(net.got_one(a)["id"], "r");
    assert_eq!(retried(&net), 1);
    net.leave(a);
    net.sent();
    let kept = net.router.accounting();
    assert_eq!((kept.retained_bytes, kept.paused, kept.pending), (0, 0, 0));
}

#[test]
fn an_upstream_that_refuses_for_long_is_believed() {
    let mut net = Net::new();
    let a = net.join();
    net.request(a, "r", "thread/start", &json!({}));
    let mut sent = 0;
    let mut waited = 0;
    while let [line] = &net.sent()[..] {
        sent += 1;
        net.overloaded(upstream_id(line));
        if let Some(due) = net.router.poll_timeout() {
            waited += due.since(net.now);
            net.pass(due.since(net.now));
        }
    }
    assert_eq!((sent, waited), (6, 775));
    let answer = net.got_one(a);
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!("r"), &json!(-32001)));
    assert_eq!(answer["error"]["message"], "Server overloaded; retry later.");
    assert_eq!(net.router.accounting().opening, 0);
}

#[test]
fn what_a_client_sends_meanwhile_waits_behind_and_others_do_not() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    net.request(a, 1, "config/value/write", &json!({"n": 1}));
    let first = net.sent();
    net.overloaded(upstream_id(&first[0]));
    net.request(a, 2, "config/value/write", &json!({"n": 2}));
    net.request(b, 1, "thread/list", &json!({}));
    assert_eq!(methods(&net.sent()), ["thread/list"]);
    net.pass(25);
    let order: Vec<Value> = net.sent().iter().map(|l| l["params"]["n"].clone()).collect();
    assert_eq!(order, [1, 2]);
}

#[test]
fn a_change_is_not_made_after_a_later_one() {
    let mut net = Net::new();
    let a = net.join();
    net.request(a, 1, "config/value/write", &json!({"n": 1}));
    net.request(a, 2, "config/value/write", &json!({"n": 2}));
    let sent = net.sent();
    net.overloaded(upstream_id(&sent[0]));
    assert_eq!(net.got_one(a)["error"]["code"], -32001, "the client has to say what it wants now");
    net.reply(upstream_id(&sent[1]), &json!({}));
    assert_eq!(net.got_one(a)["id"], 2);
    net.pass(10_000);
    assert_eq!(net.sent(), NONE);
}

#[test]
fn what_only_reads_is_sent_again_in_its_order() {
    let mut net = Net::new();
    let a = net.join();
    for n in 0..4 {
        net.request(a, n, "model/list", &json!({"n": n}));
    }
    let sent = net.sent();
    for line in [&sent[2], &sent[0], &sent[1]] {
        net.overloaded(upstream_id(line));
    }
    net.pass(25);
    let order: Vec<Value> = net.sent().iter().map(|l| l["params"]["n"].clone()).collect();
    assert_eq!(order, [0, 1, 2]);
}

#[test]
fn a_client_that_goes_takes_its_retry_along() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    net.request(a, 1, "thread/start", &json!({}));
    net.request(b, 1, "thread/start", &json!({}));
    let sent = net.sent();
    net.overloaded(upstream_id(&sent[0]));
    net.leave(a);
    net.leave(b);
    net.overloaded(upstream_id(&sent[1]));
    net.pass(10_000);
    assert_eq!(net.sent(), NONE);
    assert_eq!(net.router.accounting(), Accounting::default());
    assert_eq!(net.router.poll_timeout(), None);
}

#[test]
fn a_refused_request_was_not_delivered_when_the_upstream_is_lost() {
    let mut net = Net::new();
    let a = net.join();
    net.request(a, 1, "turn/start", &json!({"threadId": thread(1)}));
    let sent = net.sent();
    net.overloaded(upstream_id(&sent[0]));
    net.lose();
    let lines = net.got(a);
    assert_eq!(lines[0]["error"]["data"]["codexd"]["delivered"], "no");
    assert_eq!(net.router.poll_timeout(), None);
    let kept = net.router.accounting();
    assert_eq!((kept.paused, kept.retained_bytes), (0, 0));
}

#[test]
fn a_drain_waits_for_what_was_refused() {
    let mut net = Net::new();
    let a = net.join();
    net.request(a, 1, "thread/start", &json!({}));
    let sent = net.sent();
    net.overloaded(upstream_id(&sent[0]));
    net.drain();
    assert!(!net.router.is_quiet());
    net.pass(25);
    assert_eq!(methods(&net.sent()), ["thread/start"], "it was taken before the drain");
    net.reply(upstream_id(&sent[0]), &Net::thread_result(&thread(1), "idle"));
    assert!(net.router.is_quiet());
}

#[test]
fn a_request_waits_for_its_place_to_be_sent_again() {
    let mut net = Net::limited(Limits { window: 1, ..Limits::default() });
    let (a, b) = (net.join(), net.join());
    net.request(a, 1, "thread/list", &json!({}));
    net.request(b, 1, "model/list", &json!({}));
    let first = net.sent();
    net.overloaded(upstream_id(&first[0]));
    let second = net.sent();
    assert_eq!(methods(&second), ["model/list"], "its place is another's meanwhile");
    net.pass(25);
    assert_eq!(net.sent(), NONE);
    net.reply(upstream_id(&second[0]), &json!({}));
    assert_eq!(methods(&net.sent()), ["thread/list"]);
}

#[test]
fn a_request_that_is_refused_can_be_cancelled_while_it_waits() {
    let mut net = Net::new();
    let a = net.join();
    net.request(a, "s", "thread/sample", &json!({"threadId": thread(1)}));
    let sent = net.sent();
    net.overloaded(upstream_id(&sent[0]));
    net.request(a, "c", "thread/sample/cancel", &json!({"requestId": "s"}));
    net.pass(25);
    let again = net.sent();
    assert_eq!(methods(&again), ["thread/sample", "thread/sample/cancel"]);
    assert_eq!(again[1]["params"]["requestId"], again[0]["id"]);
}

#[test]
fn messages_of_a_thread_wait_for_a_start_that_is_sent_again() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    net.request(a, 1, "thread/start", &json!({}));
    let sent = net.sent();
    net.overloaded(upstream_id(&sent[0]));
    net.pass(25);
    net.feed(&crate::net::delta(&thread(1), 1));
    assert_eq!(net.got(b), NONE, "whose it is, is not known yet");
    net.reply(upstream_id(&sent[0]), &Net::thread_result(&thread(1), "idle"));
    assert_eq!(net.got_methods(a), ["item/agentMessage/delta", "<result>"]);
    assert_eq!(net.got(b), NONE);
}

#[test]
fn an_unsubscribe_of_codexd_is_sent_again_unless_the_thread_is_wanted_by_then() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let (one, two) = (net.start_thread(a, 1), net.start_thread(a, 2));
    net.leave(a);
    let unsubscribes = net.sent();
    assert_eq!(methods(&unsubscribes), ["thread/unsubscribe", "thread/unsubscribe"]);
    for line in &unsubscribes {
        net.overloaded(upstream_id(line));
    }
    net.request(b, 1, "thread/resume", &json!({"threadId": one}));
    assert_eq!(methods(&net.sent()), ["thread/resume"]);
    net.pass(25);
    let again = net.sent();
    assert_eq!(methods(&again), ["thread/unsubscribe"]);
    assert_eq!(again[0]["params"]["threadId"], two);
}

#[test]
fn a_line_that_is_too_long_is_not_kept_for_it() {
    let mut net = Net::new();
    let a = net.join();
    net.request(a, 1, "thread/start", &json!({"pad": "x".repeat(64 << 10)}));
    let sent = net.sent();
    assert_eq!(net.router.accounting().retained_bytes, 0);
    net.overloaded(upstream_id(&sent[0]));
    assert_eq!(net.got_one(a)["error"]["code"], -32001);
}

#[test]
fn no_more_than_a_megabyte_is_kept() {
    let mut net = Net::new();
    let a = net.join();
    for n in 0..40 {
        net.request(a, n, "thread/list", &json!({"pad": "x".repeat(60 << 10)}));
    }
    let kept = net.router.accounting().retained_bytes;
    assert!((900 << 10..=1 << 20).contains(&kept), "{kept}");
    for line in net.sent() {
        net.reply(upstream_id(&line), &json!({}));
    }
    assert_eq!(net.router.accounting().retained_bytes, 0);
}

#[test]
fn another_error_is_the_clients() {
    let mut net = Net::new();
    let a = net.join();
    let id = net.forwarded(a, "thread/list", &json!({}));
    net.fail(id, "no");
    assert_eq!(net.got_one(a)["error"]["message"], "no");
    assert_eq!(net.router.poll_timeout(), None);
}

#[test]
fn codexd_takes_over_an_unsubscribe_that_is_refused_for_too_long() {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.request(a, "u", "thread/unsubscribe", &json!({"threadId": t}));
    let mut answers = Vec::new();
    for _ in 0..10 {
        let [line] = &net.sent()[..] else { panic!("it is not said any more") };
        assert_eq!(line["method"], "thread/unsubscribe");
        net.overloaded(upstream_id(line));
        net.pass(1_000);
        answers.extend(net.got(a));
    }
    assert_eq!(answers, [json!({"id": "u", "result": {"status": "unsubscribed"}})]);
}

#[test]
fn codexd_takes_over_an_unsubscribe_that_would_come_behind_a_later_request_of_its_client() {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.request(a, "u", "thread/unsubscribe", &json!({"threadId": t}));
    net.request(a, "t", "turn/start", &json!({"threadId": t, "input": []}));
    net.request(a, "r", "thread/resume", &json!({"threadId": t}));
    let sent = net.sent();
    assert_eq!(methods(&sent), ["thread/unsubscribe", "turn/start", "thread/resume"]);
    net.overloaded(upstream_id(&sent[0]));
    // The client hears of it before it is subscribed again.
    assert_eq!(net.got(a), [json!({"id": "u", "result": {"status": "unsubscribed"}})]);
    net.reply(upstream_id(&sent[2]), &Net::thread_result(&t, "idle"));
    assert_eq!(net.got_methods(a), ["<result>"]);
    net.pass(1_000);
    assert_eq!(net.sent(), NONE, "the thread is wanted");
}

#[test]
fn a_refused_unsubscribe_of_a_client_that_disconnected_is_sent_again() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.request(a, "u", "thread/unsubscribe", &json!({"threadId": t}));
    let unsubscribe = net.sent();
    net.leave(a);
    net.overloaded(upstream_id(&unsubscribe[0]));
    assert_eq!(methods(&net.sent()), ["thread/unsubscribe"]);
    assert_eq!(net.got(b), NONE);
}

#[test]
fn an_answer_to_what_was_not_sent_yet_is_nobodys() {
    let mut net = Net::limited(Limits { window: 1, ..Limits::default() });
    let a = net.join();
    net.request(a, 1, "thread/list", &json!({}));
    net.request(a, 2, "thread/list", &json!({}));
    let first = upstream_id(&net.sent()[0]);
    net.reply(first + 1, &json!({}));
    assert_eq!(net.got(a), NONE);
    net.reply(first, &json!({}));
    assert_eq!(upstream_id(&net.sent()[0]), first + 1);
    net.reply(first + 1, &json!({}));
    assert_eq!(net.got(a).len(), 2);
    assert_eq!(net.router.accounting().window, 0);
}
