//! What an operator asks for: interrupts, disconnections.

use codexd_proto::id::{ClientId, ThreadId};
use codexd_proto::router::{Action, Activity, CannotInterrupt, CloseReason, Limits};
use serde_json::json;

use crate::net::{Net, status, thread, turn_completed, turn_started};

fn running(net: &mut Net, client: ClientId, n: u32, turn: &str) -> String {
    let t = net.start_thread(client, n);
    net.feed(&turn_started(&t, turn));
    net.hush(&[client]);
    t
}

#[test]
fn a_turn_is_interrupted_by_its_id_its_thread_or_an_unambiguous_part() {
    let mut net = Net::new();
    let a = net.join();
    let t = running(&mut net, a, 71, "turn-abcd");
    running(&mut net, a, 72, "turn-efgh");
    let tail = &t[t.len() - 4..];
    for target in ["turn-abcd", &*t, "abcd", tail] {
        let interrupting = net.router.interrupt(net.now, target).unwrap();
        assert_eq!((&*interrupting.turn, interrupting.thread), ("turn-abcd", ThreadId::new(t.as_bytes())));
        let sent = net.sent();
        assert_eq!(sent.len(), 1, "{target}");
        assert_eq!(sent[0]["method"], "turn/interrupt");
        assert_eq!(sent[0]["params"], json!({"threadId": t, "turnId": "turn-abcd"}));
    }
}

#[test]
fn what_names_no_running_turn_is_refused_with_the_reason() {
    let mut net = Net::new();
    let a = net.join();
    let t = running(&mut net, a, 1, "turn-1");
    running(&mut net, a, 2, "turn-2");
    let idle = net.start_thread(a, 3);
    let only_active = net.start_thread(a, 4);
    net.feed(&status(&only_active, "active"));
    net.sent();
    let id = |text: &str| ThreadId::new(text.as_bytes());
    for (target, why) in [
        ("n-1", CannotInterrupt::Unknown),
        ("unknown", CannotInterrupt::Unknown),
        ("turn-", CannotInterrupt::Ambiguous),
        (&*idle, CannotInterrupt::NothingRuns(id(&idle))),
        (&*only_active, CannotInterrupt::NoTurnId(id(&only_active))),
        (&t[..8], CannotInterrupt::Ambiguous),
    ] {
        assert_eq!(net.router.interrupt(net.now, target), Err(why), "{target}");
    }
    assert!(net.sent().is_empty());
}

#[test]
fn an_interrupt_overtakes_what_waits_for_the_window() {
    let mut net = Net::limited(Limits { window: 2, ..Limits::default() });
    let a = net.join();
    let t = running(&mut net, a, 1, "turn-1");
    for n in 0..10 {
        net.request(a, n, "model/list", &json!({}));
    }
    assert_eq!(net.sent().len(), 2, "the window is full");
    net.router.interrupt(net.now, &t).unwrap();
    assert_eq!(net.sent()[0]["method"], "turn/interrupt");
}

#[test]
fn a_refused_interrupt_is_sent_again_and_its_refusal_reported_at_last() {
    let mut net = Net::new();
    let a = net.join();
    let t = running(&mut net, a, 1, "turn-1");
    while net.router.poll_activity().is_some() {}
    net.router.interrupt(net.now, &t).unwrap();
    let refuse = |net: &mut Net| {
        let sent = net.sent();
        assert_eq!((sent.len(), &sent[0]["method"]), (1, &json!("turn/interrupt")));
        net.fail(sent[0]["id"].as_i64().unwrap(), "no such turn");
    };
    for _ in 1..20 {
        refuse(&mut net);
        assert_eq!((net.router.poll_activity(), net.sent().len()), (None, 0));
        net.pass(100);
    }
    refuse(&mut net);
    let refused = Activity::InterruptRefused {
        thread: ThreadId::new(thread(1).as_bytes()),
        message: "no such turn".to_owned(),
    };
    assert_eq!(net.router.poll_activity(), Some(refused));
    net.pass(100);
    assert!(net.sent().is_empty());
    // A turn that has ended meanwhile needs none.
    net.router.interrupt(net.now, &t).unwrap();
    refuse(&mut net);
    net.feed(&turn_completed(&t, "turn-1"));
    net.pass(100);
    assert!(net.sent().is_empty());
}

#[test]
fn a_client_that_is_disconnected_leaves_its_threads_to_the_others() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = running(&mut net, a, 1, "turn-1");
    let id = net.forwarded(b, "thread/resume", &json!({"threadId": t}));
    net.reply(id, &json!({"thread": {"id": t, "status": {"type": "active"}}}));
    assert!(net.router.kill_client(net.now, a));
    let close = Action::Close { client: a, reason: CloseReason::Killed };
    assert_eq!(net.router.poll_action(), Some(close));
    let last = String::from_utf8(net.router.last_lines(a, CloseReason::Killed)).unwrap();
    assert!(last.contains("notifications/broker/closing") && last.contains("\"killed\""), "{last}");
    net.leave(a);
    assert!(!net.router.kill_client(net.now, a), "it is gone");
    let threads = net.router.thread_statuses(net.now);
    assert_eq!(threads[0].subscribers.iter().map(|c| c.id).collect::<Vec<_>>(), [u64::from(b.0)]);
    assert_eq!(net.router.turn_statuses(net.now).len(), 1);
}
