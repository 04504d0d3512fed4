//! Warnings of the router, each with what to type.

use codexd_proto::router::Limits;
use codexd_proto::status::{StatusReport, Warning};
use serde_json::json;

use crate::net::{Net, approval, delta, turn_started};

fn report(net: &Net) -> StatusReport {
    let mut report = StatusReport::default();
    net.router.fill_status(net.now, &mut report);
    report
}

fn warnings(net: &Net) -> Vec<Warning> {
    report(net).warnings
}

fn codes(net: &Net) -> Vec<String> {
    warnings(net).into_iter().map(|warning| warning.code).collect()
}

#[test]
fn a_turn_of_which_codex_sends_nothing_is_a_warning_until_it_does() {
    let mut net = Net::limited(Limits { silent_turn_warning_ms: Some(1_000), ..Limits::default() });
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.feed(&turn_started(&t, "u"));
    net.pass(999);
    assert_eq!(codes(&net), [""; 0]);
    net.pass(1);
    let [warning] = &warnings(&net)[..] else { panic!("one warning") };
    assert_eq!(warning.code, "silentTurn");
    assert!(warning.message.contains("turn u for 1 s"), "{}", warning.message);
    assert!(warning.hint.contains("`codexd ctl interrupt u`"), "{}", warning.hint);
    net.feed(&delta(&t, 1));
    assert_eq!(codes(&net), [""; 0]);
    net.pass(5_000);
    assert_eq!(codes(&net), ["silentTurn"]);
    // It waits for a person now, and codex has said so.
    net.feed(&approval(1, &t));
    net.pass(5_000);
    assert_eq!(codes(&net), [""; 0]);
}

#[test]
fn a_turn_without_subscribers_is_not_silent() {
    let mut net = Net::limited(Limits { silent_turn_warning_ms: Some(1_000), ..Limits::default() });
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.feed(&turn_started(&t, "u"));
    net.leave(a);
    net.pass(60_000);
    assert_eq!(codes(&net), [""; 0]);
    let mut never = Net::limited(Limits { silent_turn_warning_ms: None, ..Limits::default() });
    let a = never.join();
    let t = never.start_thread(a, 1);
    never.feed(&turn_started(&t, "u"));
    never.pass(1_000_000_000);
    assert_eq!(codes(&never), [""; 0]);
}

#[test]
fn an_approval_that_nobody_can_see_is_a_warning_with_its_thread() {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.feed(&turn_started(&t, "u"));
    net.feed(&approval(1, &t));
    assert_eq!(codes(&net), [""; 0]);
    net.leave(a);
    let [warning] = &warnings(&net)[..] else { panic!("one warning") };
    assert_eq!(warning.code, "unassignedApproval");
    assert!(
        warning.message.contains(&t) && warning.hint.contains(&format!("ctl interrupt {t}")),
        "{warning:?}"
    );
}

#[test]
fn a_client_that_does_not_read_is_a_warning_with_its_number() {
    let mut net = Net::limited(Limits { client_queue_soft_bytes: 1_000, ..Limits::default() });
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.feed(&turn_started(&t, "u"));
    for n in 0..20 {
        net.feed(&delta(&t, n));
        net.router.client_written(a, 0, true);
    }
    net.pass(3_000);
    let [warning] = &warnings(&net)[..] else { panic!("{:?}", warnings(&net)) };
    assert_eq!(warning.code, "slowClient");
    assert!(warning.message.starts_with(&format!("client {a} (c) does not read")), "{warning:?}");
    assert!(warning.message.contains("for 3 s"), "{warning:?}");
    assert!(warning.hint.contains(&format!("`codexd ctl kill {a}`")), "{warning:?}");
    net.got(a);
    assert_eq!(codes(&net), [""; 0]);
}

#[test]
fn a_client_whose_queue_is_nearly_full_is_a_warning() {
    let mut net = Net::limited(Limits { window: 1, queued_requests_per_client: 10, ..Limits::default() });
    let a = net.join();
    for n in 0..9 {
        assert_eq!(codes(&net), [""; 0], "{n}");
        net.request(a, n, "model/list", &json!({}));
    }
    assert_eq!(codes(&net), ["nearLimit"]);
}

#[test]
fn many_warnings_of_a_kind_are_three_and_their_number() {
    let mut net = Net::limited(Limits { silent_turn_warning_ms: Some(1), ..Limits::default() });
    let a = net.join();
    let threads: Vec<String> = (1..=7).map(|n| net.start_thread(a, n)).collect();
    for (n, thread) in threads.iter().enumerate() {
        net.feed(&turn_started(thread, &format!("u{n}")));
        net.pass(10);
    }
    let warnings = warnings(&net);
    assert_eq!(warnings.len(), 3);
    assert!(
        warnings[0].message.contains("turn u0 ") && warnings[2].message.ends_with("and 4 more like this")
    );
}

#[test]
fn the_status_names_the_three_oldest_turns_requests_and_approvals() {
    let mut net = Net::new();
    let a = net.join();
    let threads: Vec<String> = (1..=4).map(|n| net.start_thread(a, n)).collect();
    for (n, thread) in threads.iter().enumerate() {
        net.feed(&turn_started(thread, &format!("u{n}")));
        net.feed(&approval(n as i64, thread));
        net.sent();
        net.request(a, n as i64, "model/list", &json!({}));
        net.pass(10);
    }
    let report = report(&net);
    let turns: Vec<_> = report.oldest_turns.iter().map(|turn| turn.id.as_deref().unwrap()).collect();
    assert_eq!(turns, ["u0", "u1", "u2"]);
    let approvals: Vec<_> = report.oldest_approvals.iter().map(|r| (&*r.id, r.age_ms)).collect();
    assert_eq!(approvals, [("s0", 40), ("s1", 30), ("s2", 20)]);
    let requests: Vec<_> = report.oldest_requests.iter().map(|r| r.age_ms).collect();
    assert_eq!((requests, report.in_flight, report.open_turns), (vec![40, 30, 20], 4, 4));
}
