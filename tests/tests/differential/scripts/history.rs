//! Threads that go back, away, and come again: revert, delete, archive.

use serde_json::{Value, json};

use crate::differential;
use crate::stage::{Stage, Who, turn};
use crate::world::Setup;

const NONE: &str = "01a1fb58-0000-7000-8000-000000000000";
const APPROVAL: &str = "item/commandExecution/requestApproval";

fn turn_id(end: &Value) -> Value {
    end["params"]["turn"]["id"].clone()
}

/// Returns the state after loading a thread: whether each client is subscribed, and whether it is loaded.
fn unsubscribe_all(it: &mut Stage<'_>, all: &[Who], thread: &str) {
    for who in all {
        it.call(*who, "thread/unsubscribe", json!({"threadId": thread}));
    }
}

#[test]
fn a_revert_by_a_subscriber() {
    differential(&Setup::default(), |it| {
        let (a, b, c) = (it.join("A"), it.join("B"), it.join("C"));
        let thread = it.shared(a, &[b], json!({}));
        let second = turn_id(&it.turn(a, &thread, "second"));
        it.see_end(b, &thread);
        it.turn(a, &thread, "third");
        it.see_end(b, &thread);
        it.call(b, "thread/revert", json!({"threadId": thread, "beforeTurnId": second}));
        it.all_see(&[a, b, c], "thread/reverted");
        it.turn(a, &thread, "instead");
        it.see_end(b, &thread);
        it.call(c, "thread/read", json!({"threadId": thread, "includeTurns": true}));
        unsubscribe_all(it, &[a, b, c], &thread);
    });
}

#[test]
fn a_revert_subscribes_who_asks_for_it() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({}));
        it.turn(a, &thread, "first");
        let second = turn_id(&it.turn(a, &thread, "second"));
        it.call(b, "thread/revert", json!({"threadId": thread, "beforeTurnId": second}));
        it.all_see(&[a, b], "thread/reverted");
        it.turn(a, &thread, "for both");
        it.see_end(b, &thread);
        it.call(b, "thread/unsubscribe", json!({"threadId": thread}));
        it.turn(a, &thread, "for A");
        it.see_status(b, &thread, "idle");
    });
}

#[test]
fn a_revert_that_fails_subscribes_too() {
    differential(&Setup::default(), |it| {
        let (a, b, c) = (it.join("A"), it.join("B"), it.join("C"));
        let thread = it.start(a, json!({}));
        it.turn(a, &thread, "first");
        it.call(b, "thread/revert", json!({"threadId": thread, "beforeTurnId": NONE}));
        it.call(c, "thread/revert", json!({"threadId": thread, "beforeTurnId": "nonsense"}));
        it.call(c, "thread/revert", json!({"threadId": NONE, "beforeTurnId": NONE}));
        it.call(c, "thread/revert", json!({"threadId": "nonsense", "beforeTurnId": NONE}));
        it.call(c, "thread/revert", json!({"threadId": thread}));
        it.turn(a, &thread, "for who is subscribed");
        it.see_status(b, &thread, "idle");
        it.see_status(c, &thread, "idle");
        unsubscribe_all(it, &[c, b, a], &thread);
    });
}

#[test]
fn a_revert_of_a_thread_that_is_not_loaded() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({}));
        let first = turn_id(&it.turn(a, &thread, "first"));
        it.turn(a, &thread, "second");
        it.call(a, "thread/archive", json!({"threadId": thread}));
        it.all_see(&[a, b], "thread/archived");
        it.call(b, "thread/revert", json!({"threadId": thread, "beforeTurnId": first}));
        it.call(a, "thread/unarchive", json!({"threadId": thread}));
        it.all_see(&[a, b], "thread/unarchived");
        it.call(b, "thread/revert", json!({"threadId": thread, "beforeTurnId": first}));
        unsubscribe_all(it, &[a, b], &thread);
    });
}

#[test]
fn a_revert_in_a_turn() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({}));
        it.turn(a, &thread, "first");
        let second = turn_id(&it.turn(a, &thread, "second"));
        let running = it.hang(a, &thread, "long");
        it.call(b, "thread/revert", json!({"threadId": thread, "beforeTurnId": second}));
        it.call(b, "turn/interrupt", json!({"threadId": thread, "turnId": running}));
        it.see_end(a, &thread);
        it.turn(a, &thread, "after");
        it.see_status(b, &thread, "idle");
        unsubscribe_all(it, &[b, a], &thread);
    });
}

#[test]
fn a_delete_that_a_fork_forbids() {
    differential(&Setup::default(), |it| {
        let (a, b, c) = (it.join("A"), it.join("B"), it.join("C"));
        let thread = it.shared(a, &[b], json!({}));
        let answer = it.call(c, "thread/fork", json!({"threadId": thread}));
        let fork = it.note_thread(&answer);
        it.call(a, "thread/delete", json!({"threadId": thread}));
        for who in [a, b, c] {
            it.see_status(who, &thread, "notLoaded");
        }
        unsubscribe_all(it, &[a, b, c], &thread);
        it.call(b, "turn/start", turn(&thread, "no"));
        it.resume(b, &thread);
        it.turn(b, &thread, "for B alone");
        it.see_status(a, &thread, "idle");
        it.see_status(a, &thread, "idle");
        it.turn(c, &fork, "in the fork");
        it.call(c, "thread/delete", json!({"threadId": fork}));
        it.all_see(&[a, b, c], "thread/deleted");
        it.call(a, "thread/delete", json!({"threadId": thread}));
        it.all_see(&[a, b, c], "thread/deleted");
        unsubscribe_all(it, &[a, b, c], &thread);
    });
}

#[test]
fn a_delete_that_a_fork_forbids_in_a_turn() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[b], json!({}));
        let answer = it.call(b, "thread/fork", json!({"threadId": thread, "excludeTurns": true}));
        it.note_thread(&answer);
        it.hang(a, &thread, "long");
        it.call(b, "thread/delete", json!({"threadId": thread}));
        it.see_status(a, &thread, "notLoaded");
        it.see_status(b, &thread, "notLoaded");
        it.resume(a, &thread);
        it.turn(a, &thread, "for A alone");
        it.see_status(b, &thread, "idle");
        it.see_status(b, &thread, "idle");
    });
}

#[test]
fn deletes_of_what_is_not_there() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        it.call(a, "thread/delete", json!({"threadId": NONE}));
        it.call(a, "thread/delete", json!({"threadId": "nonsense"}));
        it.call(a, "thread/delete", json!({}));
        let thread = it.start(a, json!({}));
        // One that never ran.
        it.call(b, "thread/delete", json!({"threadId": thread}));
        it.all_see(&[a, b], "thread/deleted");
        it.call(a, "thread/unsubscribe", json!({"threadId": thread}));
        let thread = it.start(a, json!({"ephemeral": true}));
        it.turn(a, &thread, "first");
        it.call(b, "thread/delete", json!({"threadId": thread}));
        it.call(a, "thread/unsubscribe", json!({"threadId": thread}));
    });
}

#[test]
fn a_delete_with_a_pending_approval() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[b], json!({"approvalPolicy": "untrusted"}));
        it.turn_start(a, &thread, "[[shell:touch made.txt]] go");
        let server_request = it.see(a, APPROVAL);
        it.see(b, APPROVAL);
        it.call(b, "thread/delete", json!({"threadId": thread}));
        it.all_see(&[a, b], "thread/deleted");
        it.reply(a, &server_request, json!({"decision": "accept"}));
        it.call(a, "thread/read", json!({"threadId": thread}));
    });
}

#[test]
fn an_archive_with_a_pending_approval() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[b], json!({"approvalPolicy": "untrusted"}));
        it.turn_start(a, &thread, "[[shell:touch made.txt]] go");
        it.see(a, APPROVAL);
        let server_request = it.see(b, APPROVAL);
        it.call(a, "thread/archive", json!({"threadId": thread}));
        it.all_see(&[a, b], "thread/archived");
        it.reply(b, &server_request, json!({"decision": "accept"}));
        it.call(a, "thread/unarchive", json!({"threadId": thread}));
        it.all_see(&[a, b], "thread/unarchived");
        // It is not asked again.
        it.resume(b, &thread);
        it.turn(b, &thread, "after");
        it.see_status(a, &thread, "idle");
        it.see_status(a, &thread, "idle");
    });
}

#[test]
fn archives_of_what_cannot_be_archived() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({}));
        it.call(b, "thread/archive", json!({"threadId": thread}));
        it.call(b, "thread/archive", json!({"threadId": "nonsense"}));
        it.call(b, "thread/archive", json!({"threadId": null}));
        it.call(b, "thread/unarchive", json!({"threadId": thread}));
        it.call(b, "thread/unarchive", json!({"threadId": NONE}));
        it.all_see(&[a, b], "thread/archived");
        it.all_see(&[a, b], "thread/unarchived");
        // Of one that never ran nothing is left to be loaded.
        it.call(a, "turn/start", turn(&thread, "no"));
        let thread = it.start(a, json!({}));
        it.turn(a, &thread, "first");
        it.call(b, "thread/unarchive", json!({"threadId": thread}));
        it.call(b, "thread/archive", json!({"threadId": thread}));
        it.all_see(&[a, b], "thread/archived");
        it.call(b, "thread/archive", json!({"threadId": thread}));
        it.call(a, "thread/list", json!({"archived": true}));
        it.call(a, "thread/list", json!({"archived": false}));
        it.call(a, "thread/read", json!({"threadId": thread, "includeTurns": true}));
        it.call(a, "thread/name/set", json!({"threadId": thread, "name": "archived"}));
    });
}

#[test]
fn an_archive_takes_sub_agents_along() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[b], json!({}));
        it.turn_start(a, &thread, "[[spawn:task {{deltas:2:600000}}]] go");
        let is_child =
            |it: &Value| it["method"] == "turn/started" && it["params"]["threadId"] != thread.as_str();
        let child = it.see_where(a, "the sub-agent", is_child);
        let child = child["params"]["threadId"].as_str().unwrap().to_owned();
        it.see_where(b, "the sub-agent", is_child);
        let word = |it: &Value| {
            it["method"] == "item/agentMessage/delta" && it["params"]["threadId"] == child.as_str()
        };
        it.see_where(a, "its first word", word);
        it.see_where(b, "its first word", word);
        it.all_see_end(&[a, b], &thread);
        it.call(b, "thread/archive", json!({"threadId": thread}));
        it.all_see(&[a, b], "thread/archived");
        unsubscribe_all(it, &[a, b], &thread);
    });
}
