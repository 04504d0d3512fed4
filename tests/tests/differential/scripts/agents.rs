//! Sub-agents: threads that a turn creates, and that no client requested.

use serde_json::json;

use crate::differential;
use crate::stage::{Stage, Who};
use crate::world::Setup;

/// Waits for the end of a turn on a thread that is not this one, and returns the thread.
fn child_ends(it: &mut Stage<'_>, who: Who, parent: &str) -> String {
    let end = it.see_where(who, "the end of the sub-agent's turn", |it| {
        it["method"] == "turn/completed" && it["params"]["threadId"] != parent
    });
    end["params"]["threadId"].as_str().unwrap().to_owned()
}

#[test]
fn every_client_is_subscribed_to_a_sub_agent() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({}));
        it.turn(a, &thread, "first");
        it.turn_start(a, &thread, "[[spawn:task {{deltas:2:600000}}]] go");
        // The child still runs when the parent has ended, else its news would come into the parent's turn.
        let begun = it.see_where(b, "the start of the sub-agent's turn", |it| it["method"] == "turn/started");
        let turn = &begun["params"]["turn"]["id"];
        it.see_where(b, "its first word", |it| it["method"] == "item/agentMessage/delta");
        it.see_end(a, &thread);
        it.call(b, "turn/interrupt", json!({"threadId": begun["params"]["threadId"], "turnId": turn}));
        let child = child_ends(it, a, &thread);
        child_ends(it, b, &thread);
        let c = it.join("C");
        it.turn_start(b, &child, "more");
        it.see_end(a, &child);
        it.see_end(b, &child);
        it.see_status(c, &child, "idle");
        it.call(b, "thread/unsubscribe", json!({"threadId": child}));
        it.resume(c, &child);
        it.turn(c, &child, "last");
        it.see_end(a, &child);
        it.see_status(b, &child, "idle");
    });
}

#[test]
fn an_approval_of_a_sub_agent() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({"approvalPolicy": "untrusted"}));
        it.turn(a, &thread, "first");
        it.turn_start(a, &thread, "[[spawn:task {{shell:touch child.txt}}]] go");
        it.see(a, "item/commandExecution/requestApproval");
        let server_request = it.see(b, "item/commandExecution/requestApproval");
        it.see_end(a, &thread);
        it.reply(b, &server_request, json!({"decision": "accept"}));
        child_ends(it, a, &thread);
        child_ends(it, b, &thread);
    });
}

#[test]
fn a_command_of_a_sub_agent_is_declined() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({"approvalPolicy": "untrusted"}));
        it.turn(a, &thread, "first");
        it.turn_start(a, &thread, "[[spawn:task {{shell:touch child.txt}}]] go");
        it.see(a, "item/commandExecution/requestApproval");
        let server_request = it.see(b, "item/commandExecution/requestApproval");
        it.see_end(a, &thread);
        let child = server_request["params"]["threadId"].as_str().unwrap().to_owned();
        let c = it.join("C");
        it.resume(c, &child);
        let server_request = it.see(c, "item/commandExecution/requestApproval");
        it.reply(c, &server_request, json!({"decision": "decline"}));
        it.all_see_end(&[a, b, c], &child);
    });
}

#[test]
fn a_sub_agent_of_a_thread_without_subscribers() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[], json!({}));
        it.call(a, "thread/unsubscribe", json!({"threadId": thread}));
        it.turn_start(b, &thread, "[[spawn:task]] go");
        let child = child_ends(it, a, &thread);
        child_ends(it, b, &thread);
        // The first is that of the turn before.
        for who in [a, a, b, b] {
            it.see_status(who, &thread, "idle");
        }
        it.call(b, "thread/unsubscribe", json!({"threadId": child}));
        it.call(a, "thread/read", json!({"threadId": child}));
    });
}
