//! The old codex, which codexd must still serve.

use serde_json::json;

use crate::differential;
use crate::world::Setup;

fn old() -> Setup {
    Setup { old: true, ..Setup::default() }
}

#[test]
fn old_turns_of_two_clients() {
    differential(&old(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let one = it.start(a, json!({}));
        let two = it.start(b, json!({}));
        it.turn(a, &one, "one");
        it.turn(b, &two, "[[shell:echo hello]] two");
        it.call(b, "thread/resume", json!({"threadId": one}));
        it.see(b, "thread/goal/cleared");
        it.turn(a, &one, "heard by both");
        it.see_end(b, &one);
        it.call(a, "thread/list", json!({}));
        it.call(a, "no/such/method", json!({}));
    });
}

#[test]
fn old_approval_and_interrupt() {
    differential(&old(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({"approvalPolicy": "untrusted"}));
        it.turn(a, &thread, "first");
        it.turn_start(a, &thread, "[[shell:touch made.txt]] go");
        it.see(a, "item/commandExecution/requestApproval");
        it.call(b, "thread/resume", json!({"threadId": thread}));
        let server_request = it.see(b, "item/commandExecution/requestApproval");
        it.reply(b, &server_request, json!({"decision": "accept"}));
        it.see_end(a, &thread);
        it.see_end(b, &thread);
        let turn = it.hang(b, &thread, "long");
        it.call(a, "turn/interrupt", json!({"threadId": thread, "turnId": turn}));
        it.see_end(a, &thread);
        it.see_end(b, &thread);
    });
}

#[test]
fn old_reviews_and_processes() {
    differential(&old(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({}));
        it.turn(a, &thread, "first");
        let target = json!({"type": "custom", "instructions": "look"});
        it.call(b, "review/start", json!({"threadId": thread, "delivery": "inline", "target": target}));
        it.see_end(a, &thread);
        it.turn(a, &thread, "after");
        let project = it.project();
        let spawn = |handle: &str| json!({"command": ["true"], "processHandle": handle, "cwd": project});
        it.call(a, "process/spawn", spawn(""));
        it.call(b, "process/spawn", spawn("h"));
        it.see(b, "process/exited");
        it.call(a, "thread/read", json!([thread, false]));
        it.call(a, "thread/archive", json!({"threadId": thread}));
        it.all_see(&[a, b], "thread/archived");
    });
}
