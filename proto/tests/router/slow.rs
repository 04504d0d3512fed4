//! Clients that do not read.

use codexd_proto::id::ClientId;
use codexd_proto::router::{Action, CloseReason, Limits, RouterTimer};
use serde_json::json;

use crate::net::{Net, delta, methods};

fn net() -> Net {
    Net::limited(Limits {
        client_queue_soft_bytes: 1_000,
        client_queue_soft_ms: 5_000,
        client_queue_hard_bytes: 4_000,
        client_queue_stall_ms: 250,
        client_queue_max_bytes: 9_000,
        ..Limits::default()
    })
}

fn too_slow(client: ClientId) -> Action {
    Action::Close { client, reason: CloseReason::TooSlow }
}

/// Two subscribers of a thread, of which the second reads nothing any more.
fn with_a_blocked_one() -> (Net, ClientId, ClientId, String) {
    let mut net = net();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.resume_thread(b, &t);
    net.router.client_written(b, 0, true);
    (net, a, b, t)
}

fn waiting(net: &mut Net, client: ClientId) -> usize {
    net.router.outbox(client).unwrap().len()
}

#[test]
fn a_client_above_the_hard_limit_is_closed_and_no_other_notices() {
    let (mut net, a, b, t) = with_a_blocked_one();
    let mut fed = Vec::new();
    while waiting(&mut net, b) <= 4_400 {
        assert_eq!(net.actions(), []);
        fed.push(delta(&t, fed.len() as u32));
        net.feed(fed.last().unwrap());
    }
    let taken = net.got_raw(a);
    assert_eq!(taken, fed);
    net.pass(249);
    net.feed(&delta(&t, 1));
    assert_eq!(net.actions(), [], "not yet stalled");
    net.pass(1);
    net.got_raw(a);
    net.feed(&delta(&t, 1));
    assert_eq!(net.actions(), [too_slow(b)]);
    let left = waiting(&mut net, b);
    net.feed(&delta(&t, 2));
    assert_eq!((waiting(&mut net, b), net.got_raw(a).len(), net.actions()), (left, 2, vec![]));
    net.request(b, 1, "thread/list", &json!({}));
    assert_eq!(net.sent_raw(), [] as [&str; 0], "it is not listened to any more");
    net.leave(b);
    net.leave(a);
    assert_eq!(methods(&net.sent()), ["thread/unsubscribe"]);
}

#[test]
fn a_client_that_reads_but_not_fast_enough_has_a_higher_limit() {
    let (mut net, _, b, t) = with_a_blocked_one();
    while waiting(&mut net, b) <= 9_400 {
        net.feed(&delta(&t, 1));
        assert_eq!(net.actions(), []);
        net.pass(10);
        net.router.client_written(b, 1, true);
    }
    net.feed(&delta(&t, 1));
    assert_eq!(net.actions(), [too_slow(b)]);
}

#[test]
fn one_message_of_any_size_is_taken() {
    let (mut net, _, b, t) = with_a_blocked_one();
    let huge =
        crate::net::note("item/agentMessage/delta", &json!({"threadId": t, "delta": "x".repeat(9_000)}));
    net.feed(&huge);
    assert_eq!(net.actions(), []);
    net.router.client_written(b, 9_000, false);
    net.got_raw(b);
    net.feed(&delta(&t, 1));
    assert_eq!((net.got_raw(b).len(), net.actions()), (1, vec![]));
}

#[test]
fn a_client_may_be_above_the_soft_limit_for_a_while() {
    let (mut net, a, b, t) = with_a_blocked_one();
    while waiting(&mut net, b) <= 1_000 {
        net.feed(&delta(&t, 1));
    }
    assert_eq!(net.router.due(RouterTimer::SlowClient), None, "seen when more is to be queued");
    net.feed(&delta(&t, 1));
    assert_eq!(net.router.due(RouterTimer::SlowClient).map(|at| at.since(net.now)), Some(5_000));
    net.pass(4_999);
    assert_eq!(net.actions(), []);
    net.pass(1);
    assert_eq!(net.actions(), [too_slow(b)]);
    assert_eq!(net.router.poll_timeout(), None);
    assert!(!net.got_raw(a).is_empty());
}

#[test]
fn a_client_that_catches_up_is_not_closed() {
    let (mut net, _, b, t) = with_a_blocked_one();
    while waiting(&mut net, b) <= 1_500 {
        net.feed(&delta(&t, 1));
    }
    net.pass(4_000);
    net.router.client_written(b, 1_000, true);
    assert_eq!(net.router.poll_timeout(), None);
    net.pass(60_000);
    assert_eq!(net.actions(), []);
}

#[test]
fn a_client_that_reads_may_have_any_amount_waiting() {
    let mut net = net();
    let a = net.join();
    let t = net.start_thread(a, 1);
    for n in 0..500 {
        net.feed(&delta(&t, n));
    }
    assert_eq!(net.actions(), []);
    assert_eq!(net.got_raw(a).len(), 500);
}

#[test]
fn the_shutdown_notice_of_a_drain_reaches_a_blocked_client_too() {
    let (mut net, _, b, t) = with_a_blocked_one();
    while waiting(&mut net, b) <= 4_400 {
        net.feed(&delta(&t, 1));
    }
    net.pass(250);
    net.drain();
    assert_eq!(net.actions(), [too_slow(b)]);
}

#[test]
fn each_client_with_something_new_is_named_once() {
    let mut net = net();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    while net.router.poll_dirty().is_some() {}
    net.feed(&delta(&t, 1));
    net.feed(&delta(&t, 2));
    assert_eq!((net.router.poll_dirty(), net.router.poll_dirty()), (Some(a), None));
    net.feed(&delta(&t, 3));
    assert_eq!((net.router.poll_dirty(), net.router.poll_dirty()), (Some(a), None));
    assert_eq!(net.got_raw(b), [] as [&str; 0]);
}

#[test]
fn a_slow_client_gets_the_reason_after_the_rest_of_a_begun_line() {
    let (mut net, _, b, t) = with_a_blocked_one();
    while waiting(&mut net, b) <= 4_400 {
        net.feed(&delta(&t, 1));
    }
    let first = delta(&t, 1);
    net.router.client_written(b, 10, true);
    net.pass(250);
    net.feed(&delta(&t, 1));
    assert_eq!(net.actions(), [too_slow(b)]);
    let queued = waiting(&mut net, b);
    let last = String::from_utf8(net.router.last_lines(b, CloseReason::TooSlow)).unwrap();
    let (rest, notice) = last.split_once('\n').unwrap();
    assert_eq!(rest, &first[10..]);
    let notice: serde_json::Value = serde_json::from_str(notice).unwrap();
    assert_eq!(
        notice,
        json!({"method": "notifications/broker/closing", "params": {
            "reason": "tooSlow",
            "message": format!("too slow: {queued} bytes wait and are not read fast enough"),
            "queuedBytes": queued,
            "generation": notice["params"]["generation"],
        }})
    );
    // Between two lines, there is nothing to be finished.
    net.router.client_written(b, rest.len() + 1, true);
    assert!(
        net.router.last_lines(b, CloseReason::TooSlow).starts_with(b"{\"method\":\"notifications/broker/")
    );
}

#[test]
fn an_opt_out_or_a_long_rest_of_a_begun_line_prevents_the_closing_notice() {
    let mut net = net();
    let client = net.join_with(&json!({"optOutNotificationMethods": ["notifications/broker/closing"]}));
    assert_eq!(net.router.last_lines(client, CloseReason::TooSlow), b"");
    let other = net.join();
    assert_eq!(net.router.last_lines(other, CloseReason::Detached), b"", "it asked for it");
    let t = net.start_thread(other, 1);
    net.feed(&crate::net::note(
        "item/agentMessage/delta",
        &json!({"threadId": t, "delta": "x".repeat(1 << 20)}),
    ));
    net.router.client_written(other, 1, true);
    assert_eq!(net.router.last_lines(other, CloseReason::TooSlow), b"");
}
