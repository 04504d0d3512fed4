//! Turns of which codex sends nothing are reported, and interrupted where the limits say so.

use codexd_proto::router::{Activity, Limits};
use serde_json::json;

use crate::net::{Net, approval, delta, status, turn_completed, turn_started};

fn net(warning: Option<u64>, interrupt: Option<u64>) -> Net {
    Net::limited(Limits {
        silent_turn_warning_ms: warning,
        silent_turn_interrupt_ms: interrupt,
        ..Limits::default()
    })
}

/// Lets time pass as the core does: from timer to timer.
fn pass(net: &mut Net, ms: u64) {
    for _ in 0..ms / 100 {
        net.pass(100);
    }
}

/// Returns for which turn and how long codex was silent, and whether the turn is interrupted.
fn silences(net: &mut Net) -> Vec<(String, u64, bool)> {
    let activities = std::iter::from_fn(|| net.router.poll_activity());
    let silences = activities.filter_map(|activity| match activity {
        Activity::TurnSilent { turn, silent_ms, interrupted, .. } => Some((turn, silent_ms, interrupted)),
        _ => None,
    });
    silences.collect()
}

fn interrupts(net: &mut Net) -> usize {
    net.sent().iter().filter(|line| line["method"] == "turn/interrupt").count()
}

#[test]
fn a_silent_turn_is_reported_once_and_then_interrupted_once() {
    let mut net = net(Some(1_000), Some(3_000));
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.feed(&turn_started(&t, "u"));
    pass(&mut net, 900);
    assert_eq!(silences(&mut net), []);
    pass(&mut net, 1_500);
    assert_eq!(silences(&mut net), [("u".to_owned(), 1_000, false)]);
    assert_eq!(interrupts(&mut net), 0);
    pass(&mut net, 60_000);
    assert_eq!(silences(&mut net), [("u".to_owned(), 3_000, true)]);
    let sent: Vec<_> = net.sent().into_iter().filter(|line| line["method"] == "turn/interrupt").collect();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0]["params"], json!({"threadId": t, "turnId": "u"}));
    net.feed(&turn_completed(&t, "u"));
    pass(&mut net, 60_000);
    assert_eq!(silences(&mut net), []);
}

#[test]
fn an_event_begins_the_time_again() {
    let mut net = net(Some(1_000), Some(3_000));
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.feed(&turn_started(&t, "u"));
    for n in 0..10 {
        pass(&mut net, 900);
        net.feed(&delta(&t, n));
    }
    assert_eq!(silences(&mut net), []);
    pass(&mut net, 1_500);
    assert_eq!(silences(&mut net).len(), 1);
    net.feed(&delta(&t, 11));
    pass(&mut net, 2_500);
    assert_eq!(silences(&mut net).len(), 1, "reported again after an event");
    assert_eq!(interrupts(&mut net), 0);
}

#[test]
fn a_turn_that_waits_for_an_approval_or_has_no_subscriber_is_left_alone() {
    let mut net = net(Some(1_000), Some(1_000));
    let a = net.join();
    let (t, other) = (net.start_thread(a, 1), net.start_thread(a, 2));
    net.feed(&turn_started(&t, "u"));
    net.feed(&approval(1, &t));
    pass(&mut net, 10_000);
    assert_eq!(silences(&mut net), []);
    net.feed(&turn_started(&other, "v"));
    net.leave(a);
    pass(&mut net, 10_000);
    assert_eq!(silences(&mut net), []);
    assert_eq!(interrupts(&mut net), 0);
}

#[test]
fn a_turn_whose_sub_agent_works_is_not_silent() {
    let mut net = net(None, Some(1_000));
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.feed(&turn_started(&t, "u"));
    // A thread that no client has asked for: a sub-agent's.
    net.feed(&status("0a000000-0000-7000-8000-000000000099", "active"));
    net.feed(&turn_started("0a000000-0000-7000-8000-000000000099", "child"));
    for n in 0..200 {
        pass(&mut net, 500);
        net.feed(&delta("0a000000-0000-7000-8000-000000000099", n));
    }
    assert_eq!(silences(&mut net).iter().filter(|(turn, ..)| turn == "u").count(), 0);
    pass(&mut net, 2_000);
    assert!(silences(&mut net).iter().any(|(turn, _, interrupted)| turn == "u" && *interrupted));
}

#[test]
fn without_limits_nothing_is_looked_for() {
    let mut net = net(None, None);
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.feed(&turn_started(&t, "u"));
    assert_eq!(net.router.due(codexd_proto::router::RouterTimer::SilentTurn), None);
}

#[test]
fn limits_that_are_set_later_hold_for_turns_that_run() {
    let mut net = net(None, None);
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.feed(&turn_started(&t, "u"));
    pass(&mut net, 5_000);
    let limits = Limits { silent_turn_interrupt_ms: Some(1_000), ..Limits::default() };
    net.router.reconfigure(limits, Default::default(), Default::default());
    pass(&mut net, 1_000);
    assert_eq!(interrupts(&mut net), 1);
}

#[test]
fn an_interrupt_that_codex_does_not_answer_is_a_warning() {
    let mut net = net(None, Some(1_000));
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.feed(&turn_started(&t, "u"));
    pass(&mut net, 15_500);
    let codes = |net: &Net| {
        let mut report = codexd_proto::status::StatusReport::default();
        net.router.fill_status(net.now, &mut report);
        report.warnings.into_iter().map(|warning| warning.code).collect::<Vec<_>>()
    };
    assert_eq!(codes(&net), [""; 0]);
    pass(&mut net, 1_000);
    assert_eq!(codes(&net), ["interruptUnanswered"]);
}

#[test]
fn a_sub_agent_that_waits_for_an_approval_excuses_its_root_alone() {
    let mut net = net(None, Some(1_000));
    let a = net.join();
    let (root, other) = (net.start_thread(a, 1), net.start_thread(a, 2));
    for (thread, turn) in [(&root, "u"), (&other, "v")] {
        net.feed(
            &json!({"method": "turn/started", "params": {"threadId": thread,
                         "turn": {"id": turn, "items": [], "status": "inProgress", "rootTurnId": turn}}})
            .to_string(),
        );
    }
    let child = "0a000000-0000-7000-8000-000000000099";
    net.feed(&status(child, "active"));
    net.feed(
        &json!({"method": "turn/started", "params": {"threadId": child,
                     "turn": {"id": "child", "items": [], "status": "inProgress", "rootTurnId": "u"}}})
        .to_string(),
    );
    net.feed(&approval(1, child));
    pass(&mut net, 15_000);
    let silent: Vec<String> = silences(&mut net).into_iter().map(|(turn, ..)| turn).collect();
    assert_eq!(silent, ["v"]);
}
