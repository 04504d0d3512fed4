//! Goals of threads.

use serde_json::{Value, json};

use crate::differential;
use crate::world::Setup;

#[test]
fn a_goal_is_sent_to_every_client() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let c = it.join_with("C", json!({}));
        let all = [a, b, c];
        let thread = it.shared(a, &[b], json!({}));
        // Each resume notifies every client.
        it.all_see(&[a, c], "thread/goal/cleared");
        let of = |mut params: Value| {
            params["threadId"] = json!(thread);
            params
        };
        it.call(c, "thread/goal/set", of(json!({"objective": "é\u{2028}", "status": "paused"})));
        it.all_see(&all, "thread/goal/updated");
        it.call(b, "thread/goal/set", of(json!({"status": "blocked", "tokenBudget": 1000})));
        it.all_see(&all, "thread/goal/updated");
        it.call(a, "thread/goal/get", of(json!({})));
        it.call(c, "thread/resume", of(json!({"excludeTurns": true})));
        it.all_see(&all, "thread/goal/updated");
        it.call(b, "thread/goal/clear", of(json!({})));
        it.all_see(&all, "thread/goal/cleared");
        it.call(b, "thread/goal/clear", of(json!({})));
        it.call(b, "thread/goal/get", of(json!({})));
    });
}

#[test]
fn what_is_wrong_with_a_goal() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let none = "01a1fb58-0000-7000-8000-000000000000";
        for thread in [none, "nonsense"] {
            it.call(b, "thread/goal/set", json!({"threadId": thread, "objective": "x"}));
            it.call(b, "thread/goal/get", json!({"threadId": thread}));
            it.call(b, "thread/goal/clear", json!({"threadId": thread}));
        }
        let thread = it.start(a, json!({}));
        it.turn(a, &thread, "first");
        for params in [
            json!({"objective": ""}),
            json!({"status": "paused"}),
            json!({"objective": "x", "status": "none"}),
            json!({"objective": "x".repeat(5000), "status": "paused"}),
            json!({"objective": "x", "status": "paused", "tokenBudget": -1}),
        ] {
            let mut params = params;
            params["threadId"] = json!(thread);
            it.call(b, "thread/goal/set", params);
        }
    });
}

#[test]
fn a_goal_of_a_thread_that_is_not_loaded() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({}));
        it.turn(a, &thread, "first");
        let params = json!({"threadId": thread, "objective": "later", "status": "paused"});
        it.call(b, "thread/goal/set", params.clone());
        it.all_see(&[a, b], "thread/goal/updated");
        it.call(a, "thread/archive", json!({"threadId": thread}));
        it.all_see(&[a, b], "thread/archived");
        it.call(b, "thread/goal/get", json!({"threadId": thread}));
        it.call(a, "thread/unarchive", json!({"threadId": thread}));
        it.all_see(&[a, b], "thread/unarchived");
        it.call(b, "thread/goal/get", json!({"threadId": thread}));
        it.call(b, "thread/resume", json!({"threadId": thread}));
        it.all_see(&[a, b], "thread/goal/updated");
        it.turn(b, &thread, "second");
        it.see_status(a, &thread, "idle");
    });
}
