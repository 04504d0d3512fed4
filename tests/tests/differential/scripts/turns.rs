//! Turns, and who hears them.

use serde_json::json;

use crate::differential;
use crate::world::Setup;

#[test]
fn two_threads_at_once() {
    differential("two_threads_at_once", &Setup::default(), |it| {
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
    differential("two_subscribers", &Setup::default(), |it| {
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
