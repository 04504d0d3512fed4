//! Turns whose last subscriber has disconnected, and approvals that no client can answer.

use codexd_proto::router::{Config, Limits, OrphanedTurns};
use serde_json::{Value, json};

use crate::net::{Net, approval, config, methods, turn_completed};

fn net(orphaned_turns: OrphanedTurns) -> Net {
    let mut net = Net::with_config(Config { orphaned_turns, ..config(Limits::default()) });
    net.finish_handshake();
    net
}

/// A client that declares what becomes of its turns.
fn join_declaring(net: &mut Net, declared: &str) -> codexd_proto::id::ClientId {
    let client = net.connect();
    let info = json!({"name": "c", "version": "1"});
    let params = json!({"clientInfo": info, "codexd": {"orphanedTurns": declared}});
    net.request(client, "i", "initialize", &params);
    assert_eq!(net.got_one(client)["id"], "i");
    client
}

/// What goes to codex after `ms`, without the unsubscribes.
fn after(net: &mut Net, ms: u64) -> Vec<Value> {
    net.pass(ms);
    net.sent().into_iter().filter(|line| line["method"] != "thread/unsubscribe").collect()
}

#[test]
fn a_turn_goes_on_when_its_client_disconnects() {
    let mut net = net(OrphanedTurns::Keep);
    let client = net.join();
    let thread = net.start_thread(client, 1);
    net.open_turn(&thread, "u");
    net.leave(client);
    assert_eq!(after(&mut net, 60_000), [] as [Value; 0]);
}

#[test]
fn the_turn_of_a_client_that_declares_interrupt_is_interrupted_after_a_grace_period() {
    let mut net = net(OrphanedTurns::Keep);
    let client = join_declaring(&mut net, "interrupt");
    let thread = net.start_thread(client, 1);
    net.open_turn(&thread, "u");
    net.leave(client);
    assert_eq!(after(&mut net, 4_999), [] as [Value; 0]);
    let sent = after(&mut net, 1);
    assert_eq!(methods(&sent), ["turn/interrupt"]);
    assert_eq!(sent[0]["params"], json!({"threadId": thread, "turnId": "u"}));
    assert_eq!(after(&mut net, 60_000), [] as [Value; 0], "once");
}

#[test]
fn a_turn_that_somebody_else_follows_or_takes_over_is_not_interrupted() {
    let mut net = net(OrphanedTurns::Interrupt);
    let (first, second) = (net.join(), net.join());
    let thread = net.start_thread(first, 1);
    net.open_turn(&thread, "u");
    net.hush(&[first, second]);
    net.resume_thread(second, &thread);
    net.leave(first);
    assert_eq!(after(&mut net, 60_000), [] as [Value; 0], "there is another subscriber");
    let third = net.join();
    net.leave(second);
    net.hush(&[third]);
    net.resume_thread(third, &thread);
    assert_eq!(after(&mut net, 60_000), [] as [Value; 0], "somebody came in time");
}

#[test]
fn the_last_subscriber_to_leave_decides() {
    let mut net = net(OrphanedTurns::Keep);
    let hurried = join_declaring(&mut net, "interrupt");
    let patient = net.join();
    let thread = net.start_thread(hurried, 1);
    net.open_turn(&thread, "u");
    net.hush(&[hurried, patient]);
    net.leave(hurried);
    net.hush(&[patient]);
    net.resume_thread(patient, &thread);
    net.leave(patient);
    assert_eq!(after(&mut net, 60_000), [] as [Value; 0], "the patient one keeps its turns");
}

#[test]
fn a_turn_that_ended_in_the_grace_period_is_not_interrupted() {
    let mut net = net(OrphanedTurns::Interrupt);
    let client = net.join();
    let thread = net.start_thread(client, 1);
    net.open_turn(&thread, "u");
    net.leave(client);
    net.feed(&turn_completed(&thread, "u"));
    assert_eq!(after(&mut net, 60_000), [] as [Value; 0]);
}

#[test]
fn a_client_that_declares_keep_overrides_the_setting() {
    let mut net = net(OrphanedTurns::Interrupt);
    let client = join_declaring(&mut net, "keep");
    let thread = net.start_thread(client, 1);
    net.open_turn(&thread, "u");
    net.leave(client);
    assert_eq!(after(&mut net, 60_000), [] as [Value; 0]);
}

#[test]
fn what_is_not_understood_of_the_declaration_is_ignored() {
    for declared in [json!({"orphanedTurns": "later"}), json!(5), json!(null), json!([1])] {
        let mut net = net(OrphanedTurns::Keep);
        let client = net.connect();
        let params = json!({"clientInfo": {"name": "c", "version": "1"}, "codexd": declared});
        net.request(client, "i", "initialize", &params);
        assert!(net.got_one(client)["result"].is_object(), "{params}");
    }
}

#[test]
fn a_turn_that_waits_for_an_unassigned_approval_is_not_work() {
    let mut net = net(OrphanedTurns::Keep);
    let (first, second) = (net.join(), net.join());
    let thread = net.start_thread(first, 1);
    net.open_turn(&thread, "u");
    net.feed(&approval(7, &thread));
    assert!(!net.router.is_quiet(), "the first client can answer it");
    net.leave(first);
    assert!(net.router.is_quiet(), "no connected client can answer it");
    net.hush(&[second]);
    net.resume_thread(second, &thread);
    net.feed(&approval(7, &thread));
    assert!(!net.router.is_quiet(), "the second client can");
}

#[test]
fn an_interrupt_that_the_upstream_refuses_is_sent_again_while_the_turn_is_open() {
    let mut net = net(OrphanedTurns::Interrupt);
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.open_turn(&t, "u");
    net.hush(&[a]);
    net.leave(a);
    net.sent();
    let interrupted = |net: &mut Net| -> Vec<i64> {
        let sent = net.sent();
        let sent = sent.iter().filter(|line| line["method"] == "turn/interrupt");
        sent.map(|line| line["id"].as_i64().unwrap()).collect()
    };
    net.pass(5_000);
    let first = interrupted(&mut net);
    assert_eq!(first.len(), 1);
    net.fail(first[0], "no active turn to interrupt");
    net.pass(1_000);
    let second = interrupted(&mut net);
    assert_eq!(second.len(), 1);
    net.reply(second[0], &json!({}));
    net.pass(1_000);
    assert_eq!(interrupted(&mut net).len(), 0);
}
