//! Queued submissions of a thread.

use serde_json::{Value, json};

use crate::differential;
use crate::stage::{Stage, Who, input};
use crate::world::Setup;

fn add(it: &mut Stage<'_>, who: Who, thread: &str, text: &str) -> Value {
    let message = format!("message {text}");
    let params = json!({"threadId": thread, "input": input(text), "clientUserMessageId": message});
    let answer = it.call(who, "thread/queue/add", params);
    answer["result"]["queuedSubmission"]["id"].clone()
}

#[test]
fn a_queue_while_a_turn_runs() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let c = it.join_with("C", json!({}));
        let thread = it.shared(a, &[b, c], json!({}));
        let running = it.hang(a, &thread, "long");
        let one = add(it, a, &thread, "one");
        let two = add(it, b, &thread, "two");
        let list = json!({"threadId": thread});
        it.call(b, "thread/queue/list", list.clone());
        it.call(b, "thread/queue/reorder", json!({"threadId": thread, "queuedSubmissionIds": [two, one]}));
        let update = json!({"threadId": thread, "queuedSubmissionId": one, "input": input("changed")});
        it.call(a, "thread/queue/update", update);
        it.call(a, "thread/queue/list", list.clone());
        it.call(c, "thread/queue/list", list.clone());
        it.call(b, "thread/queue/delete", json!({"threadId": thread, "queuedSubmissionId": two}));
        it.call(b, "thread/queue/delete", json!({"threadId": thread, "queuedSubmissionId": one}));
        it.call(b, "thread/queue/list", list);
        it.call(a, "turn/interrupt", json!({"threadId": thread, "turnId": running}));
        it.all_see_end(&[a, b, c], &thread);
    });
}

#[test]
fn what_is_queued_runs_behind_the_turn() {
    differential(&Setup::default(), |it| {
        let (a, b, c) = (it.join("A"), it.join("B"), it.join("C"));
        let thread = it.shared(a, &[b], json!({"approvalPolicy": "untrusted"}));
        it.turn_start(a, &thread, "[[shell:touch made.txt]] go");
        let server_request = it.see(a, "item/commandExecution/requestApproval");
        it.see(b, "item/commandExecution/requestApproval");
        add(it, b, &thread, "one");
        // Not even subscribed.
        add(it, c, &thread, "two");
        it.reply(a, &server_request, json!({"decision": "accept"}));
        for _ in 0..3 {
            it.all_see_end(&[a, b], &thread);
        }
        it.call(c, "thread/queue/list", json!({"threadId": thread}));
    });
}

#[test]
fn a_queue_of_an_idle_thread() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[b], json!({}));
        add(it, b, &thread, "at once or not");
        it.all_see_end(&[a, b], &thread);
        it.call(a, "thread/queue/list", json!({"threadId": thread}));
        it.call(a, "thread/queue/start", json!({"threadId": thread}));
    });
}

#[test]
fn a_queue_is_started_after_an_interrupt() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[b], json!({}));
        let running = it.hang(a, &thread, "long");
        add(it, a, &thread, "one");
        let two = add(it, b, &thread, "two");
        it.call(b, "turn/interrupt", json!({"threadId": thread, "turnId": running}));
        it.all_see_end(&[a, b], &thread);
        it.call(a, "thread/queue/list", json!({"threadId": thread}));
        it.call(b, "thread/queue/start", json!({"threadId": thread, "queuedSubmissionId": two}));
        // And then the other one.
        it.all_see_end(&[a, b], &thread);
        it.all_see_end(&[a, b], &thread);
        it.call(a, "thread/queue/list", json!({"threadId": thread}));
    });
}

#[test]
fn what_is_wrong_with_a_queue() {
    differential(&Setup::default(), |it| {
        let a = it.join("A");
        let none = "01a1fb58-0000-7000-8000-000000000000";
        let thread = it.shared(a, &[], json!({}));
        for method in ["list", "start", "delete", "update", "reorder", "add"] {
            let method = format!("thread/queue/{method}");
            it.call(a, &method, json!({}));
            let params = |thread: &str| {
                json!({"threadId": thread, "queuedSubmissionId": none, "queuedSubmissionIds": [none],
                       "input": input("x"), "clientUserMessageId": ""})
            };
            it.call(a, &method, params("nonsense"));
            it.call(a, &method, params(none));
            if method != "thread/queue/add" {
                it.call(a, &method, params(&thread));
            }
        }
    });
}
