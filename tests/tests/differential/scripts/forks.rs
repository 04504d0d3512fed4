//! Forks: of what, at which turn, and which clients are notified.

use serde_json::{Value, json};

use crate::differential;
use crate::stage::{Stage, Who, turn};
use crate::world::Setup;

/// Forks and waits until everyone knows.
fn fork(it: &mut Stage<'_>, who: Who, all: &[Who], params: Value) -> String {
    let answer = it.call(who, "thread/fork", params);
    let fork = it.note_thread(&answer);
    known(it, all, &fork);
    fork
}

fn known(it: &mut Stage<'_>, all: &[Who], thread: &str) {
    for who in all {
        it.see_where(*who, "the new thread", |it| {
            it["method"] == "thread/started" && it["params"]["thread"]["id"] == thread
        });
    }
}

fn turn_id(end: &Value) -> Value {
    end["params"]["turn"]["id"].clone()
}

#[test]
fn a_fork_in_a_turn() {
    differential(&Setup::default(), |it| {
        let (a, b, c) = (it.join("A"), it.join("B"), it.join("C"));
        let thread = it.start(a, json!({}));
        it.turn(a, &thread, "first");
        let running = it.hang(a, &thread, "long");
        let fork = fork(it, b, &[a, b, c], json!({"threadId": thread}));
        it.turn(b, &fork, "in the fork");
        it.call(c, "thread/read", json!({"threadId": fork, "includeTurns": true}));
        it.call(a, "turn/interrupt", json!({"threadId": thread, "turnId": running}));
        it.see_end(a, &thread);
        it.turn(a, &thread, "in the source");
        it.see_status(b, &thread, "idle");
        it.see_status(b, &thread, "idle");
    });
}

#[test]
fn a_fork_at_a_turn() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let c = it.join_with("C", json!({}));
        let all = [a, b, c];
        let thread = it.start(a, json!({}));
        let one = turn_id(&it.turn(a, &thread, "one"));
        let two = turn_id(&it.turn(a, &thread, "two"));
        it.turn(a, &thread, "three");
        let of = |key: &str, turn: &Value| json!({"threadId": thread, key: turn});
        let first = fork(it, b, &all, of("lastTurnId", &one));
        fork(it, b, &all, of("beforeTurnId", &two));
        it.call(c, "thread/fork", of("beforeTurnId", &two));
        it.call(b, "thread/fork", of("lastTurnId", &json!("01a1fb58-0000-7000-8000-000000000000")));
        it.call(b, "thread/fork", of("beforeTurnId", &json!("nonsense")));
        it.turn(b, &first, "in the first fork");
        let quiet = json!({"threadId": thread, "excludeTurns": true, "lastTurnId": two});
        let third = fork(it, c, &all, quiet);
        it.turn(c, &third, "in the third fork");
        it.see_status(a, &third, "idle");
    });
}

#[test]
fn a_fork_of_a_thread_that_is_not_loaded() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[b], json!({}));
        it.call(a, "thread/archive", json!({"threadId": thread}));
        it.all_see(&[a, b], "thread/archived");
        it.call(b, "thread/fork", json!({"threadId": thread}));
        it.call(a, "thread/unarchive", json!({"threadId": thread}));
        it.all_see(&[a, b], "thread/unarchived");
        let fork = fork(it, b, &[a, b], json!({"threadId": thread}));
        // The source stays unloaded.
        it.call(b, "turn/start", turn(&thread, "no"));
        it.turn(b, &fork, "yes");
        it.see_status(a, &fork, "idle");
    });
}

#[test]
fn a_fork_that_is_ephemeral() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({}));
        it.turn(a, &thread, "first");
        it.call(b, "thread/fork", json!({"threadId": thread, "ephemeral": true}));
        let params =
            json!({"threadId": thread, "ephemeral": true, "excludeTurns": true, "model": "other-model"});
        let fork = fork(it, b, &[a, b], params);
        it.turn(b, &fork, "in the fork");
        it.call(a, "thread/resume", json!({"threadId": fork}));
        it.call(a, "thread/fork", json!({"threadId": fork}));
        it.call(a, "thread/archive", json!({"threadId": fork}));
        it.call(b, "thread/unsubscribe", json!({"threadId": fork}));
        it.call(a, "thread/list", json!({}));
    });
}

#[test]
fn a_fork_of_a_thread_that_never_ran() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({}));
        it.call(b, "thread/fork", json!({"threadId": thread}));
        it.call(b, "thread/fork", json!({"threadId": "nonsense"}));
        it.call(b, "thread/fork", json!({}));
        it.call(
            b,
            "thread/fork",
            json!({"threadId": thread, "path": format!("{}/none.jsonl", it.project())}),
        );
        it.turn(a, &thread, "only for A");
        it.see_status(b, &thread, "idle");
    });
}

#[test]
fn a_fork_with_a_pending_approval() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({"approvalPolicy": "untrusted"}));
        it.turn(a, &thread, "first");
        it.turn_start(a, &thread, "[[shell:touch made.txt]] go");
        let server_request = it.see(a, "item/commandExecution/requestApproval");
        let fork = fork(it, b, &[a, b], json!({"threadId": thread}));
        it.turn(b, &fork, "in the fork");
        it.reply(a, &server_request, json!({"decision": "accept"}));
        it.see_end(a, &thread);
        it.see_status(b, &thread, "idle");
        it.see_status(b, &thread, "idle");
    });
}
