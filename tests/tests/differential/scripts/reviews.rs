//! Reviews: turns with another prompt.

use serde_json::{Value, json};

use crate::differential;
use crate::world::Setup;

fn review(thread: &str, instructions: &str) -> Value {
    let target = json!({"type": "custom", "instructions": instructions});
    json!({"threadId": thread, "delivery": "inline", "target": target})
}

#[test]
fn a_review_for_two_subscribers() {
    differential(&Setup::default(), |it| {
        let (a, b, c) = (it.join("A"), it.join("B"), it.join("C"));
        let thread = it.shared(a, &[b], json!({}));
        it.call(a, "review/start", review(&thread, "look"));
        it.all_see_end(&[a, b], &thread);
        it.call(b, "review/start", json!({"threadId": thread, "target": {"type": "uncommittedChanges"}}));
        it.all_see_end(&[a, b], &thread);
        it.turn(b, &thread, "after");
        it.see_end(a, &thread);
        for _ in 0..4 {
            it.see_status(c, &thread, "idle");
        }
    });
}

#[test]
fn a_review_of_a_client_that_is_not_subscribed() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({}));
        it.call(b, "review/start", review(&thread, "from outside"));
        it.see_end(a, &thread);
        it.see_status(b, &thread, "idle");
        it.call(b, "review/start", review("01a1fb58-0000-7000-8000-000000000000", "no"));
        it.call(b, "review/start", review("nonsense", "no"));
        it.call(b, "review/start", json!({"threadId": thread}));
        it.call(b, "review/start", json!({"threadId": thread, "target": {"type": "custom"}}));
        it.call(b, "review/start", json!({"threadId": thread, "target": {"type": "none"}}));
        it.call(b, "review/start", review(&thread, "  "));
        let mut detached = review(&thread, "x");
        detached["delivery"] = json!("detached");
        it.call(b, "review/start", detached);
    });
}

#[test]
fn a_review_is_interrupted_by_another() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[b], json!({}));
        let answer = it.call(a, "review/start", review(&thread, "[[deltas:2:600000]] long"));
        // The review has a turn of its own; the one of the answer cannot be interrupted.
        let begun = it.see(b, "turn/started")["params"]["turn"]["id"].clone();
        it.see(b, "item/started");
        it.world().model().wait_for_prompt("long");
        it.call(b, "turn/interrupt", json!({"threadId": thread, "turnId": answer["result"]["turn"]["id"]}));
        it.call(b, "turn/interrupt", json!({"threadId": thread, "turnId": begun}));
        it.all_see_end(&[a, b], &thread);
        it.turn(a, &thread, "after");
        it.see_end(b, &thread);
    });
}
