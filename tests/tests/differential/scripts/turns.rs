//! Turns: which clients get them, join, steer and end them.

use serde_json::json;

use crate::differential;
use crate::stage::{input, turn};
use crate::world::Setup;

const APPROVAL: &str = "item/commandExecution/requestApproval";

#[test]
fn two_threads_at_once() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let one = it.start(a, json!({}));
        let two = it.start(b, json!({}));
        it.turn_start(a, &one, "[[deltas:40:5]] one");
        it.turn_start(b, &two, "[[deltas:40:5]] two");
        it.see_end(a, &one);
        it.see_end(b, &two);
        for who in [a, b] {
            it.see_status(who, &one, "idle");
            it.see_status(who, &two, "idle");
        }
    });
}

#[test]
fn two_subscribers() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({}));
        it.turn(a, &thread, "first");
        it.resume(b, &thread);
        it.turn(a, &thread, "[[reasoning:2]] [[commentary:looking]] second");
        it.see_end(b, &thread);
        it.turn(b, &thread, "[[shell:echo hello]] third");
        it.see_end(a, &thread);
    });
}

#[test]
fn interrupt_from_another_client() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({}));
        it.turn(a, &thread, "first");
        let turn = it.hang(a, &thread, "for ever");
        let wrong = "00000000-0000-7000-8000-000000000000";
        it.call(b, "turn/interrupt", json!({"threadId": thread, "turnId": wrong}));
        it.call(b, "turn/interrupt", json!({"threadId": thread, "turnId": turn}));
        it.see_end(a, &thread);
        it.call(b, "turn/interrupt", json!({"threadId": thread, "turnId": turn}));
        it.turn(a, &thread, "again");
    });
}

#[test]
fn steer_from_another_client() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({"approvalPolicy": "untrusted"}));
        let running = it.turn_start(a, &thread, "[[shell:touch made.txt]] go");
        let server_request = it.see(a, APPROVAL);
        let steer =
            |turn: &str| json!({"threadId": thread, "input": input("steered"), "expectedTurnId": turn});
        it.call(b, "turn/steer", steer("00000000-0000-7000-8000-000000000000"));
        it.call(b, "turn/steer", steer(&running));
        it.reply(a, &server_request, json!({"decision": "accept"}));
        it.see_end(a, &thread);
        it.call(b, "turn/steer", steer(&running));
    });
}

#[test]
fn turn_start_joins_a_running_turn() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({"approvalPolicy": "untrusted"}));
        it.turn(a, &thread, "first");
        it.resume(b, &thread);
        it.turn_start(a, &thread, "[[shell:touch made.txt]] go");
        let server_request = it.see(a, APPROVAL);
        it.see(b, APPROVAL);
        it.call(b, "turn/start", turn(&thread, "more"));
        it.reply(a, &server_request, json!({"decision": "accept"}));
        it.see_end(a, &thread);
        it.see_end(b, &thread);
    });
}

#[test]
fn turn_of_a_client_that_is_not_subscribed() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({}));
        it.turn_start(b, &thread, "from outside");
        it.see_end(a, &thread);
        it.see_status(b, &thread, "idle");
        it.call(b, "turn/start", json!({"threadId": "no-thread", "input": input("x")}));
        it.call(b, "turn/start", turn("01a1fb58-0000-7000-8000-000000000000", "x"));
    });
}

#[test]
fn disconnect_in_a_turn_and_resume_by_another() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({}));
        it.turn(a, &thread, "first");
        let turn = it.hang(a, &thread, "long");
        it.see(a, "item/completed");
        it.leave(a);
        it.resume(b, &thread);
        it.call(b, "turn/interrupt", json!({"threadId": thread, "turnId": turn}));
        it.see_end(b, &thread);
        let c = it.join("C");
        it.resume(c, &thread);
        it.turn(b, &thread, "after");
        it.see_end(c, &thread);
    });
}

#[test]
fn a_turn_without_subscribers_runs_to_its_end() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({}));
        it.turn(a, &thread, "first");
        it.call(a, "thread/unsubscribe", json!({"threadId": thread}));
        it.turn_start(a, &thread, "unheard");
        it.see_status(b, &thread, "idle");
        it.see_status(b, &thread, "idle");
        it.see_status(a, &thread, "idle");
        it.see_status(a, &thread, "idle");
        it.resume(b, &thread);
        it.turn(b, &thread, "heard");
    });
}
