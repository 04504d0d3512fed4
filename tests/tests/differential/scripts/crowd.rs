//! Several clients on one thread.

use serde_json::json;

use crate::differential;
use crate::stage::turn;
use crate::world::Setup;

const APPROVAL: &str = "item/commandExecution/requestApproval";

#[test]
fn three_subscribers_come_and_go() {
    differential(&Setup::default(), |it| {
        let (a, b, c) = (it.join("A"), it.join("B"), it.join("C"));
        let thread = it.shared(a, &[b, c], json!({}));
        it.turn(b, &thread, "[[reasoning:3]] for three");
        it.all_see_end(&[a, c], &thread);
        it.leave(a);
        it.turn(c, &thread, "[[commentary:still]] for two");
        it.see_end(b, &thread);
        let a = it.join("A again");
        it.resume(a, &thread);
        it.call(b, "thread/unsubscribe", json!({"threadId": thread}));
        it.turn_start(b, &thread, "from outside");
        it.all_see_end(&[a, c], &thread);
        it.see_status(b, &thread, "idle");
    });
}

#[test]
fn one_client_on_three_threads() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let threads =
            [it.shared(a, &[b], json!({})), it.shared(b, &[a], json!({})), it.shared(a, &[], json!({}))];
        for (index, thread) in threads.iter().enumerate() {
            it.turn_start(a, thread, &format!("[[deltas:10:2]] {index}"));
        }
        for thread in &threads {
            it.see_end(a, thread);
        }
        it.see_end(b, &threads[0]);
        it.see_end(b, &threads[1]);
        it.call(b, "thread/unsubscribe", json!({"threadId": threads[0]}));
        it.turn(a, &threads[0], "for A");
        it.turn(a, &threads[1], "for both");
        it.see_end(b, &threads[1]);
        it.see_status(b, &threads[0], "idle");
    });
}

#[test]
fn usage_is_told_to_who_resumes() {
    differential(&Setup::default(), |it| {
        let (a, b, c) = (it.join("A"), it.join("B"), it.join("C"));
        let thread = it.shared(a, &[], json!({}));
        it.turn(a, &thread, "[[usage:1234]] second");
        it.resume(b, &thread);
        it.turn(b, &thread, "[[usage:99]] third");
        it.see_end(a, &thread);
        it.resume(a, &thread);
        it.call(c, "thread/resume", json!({"threadId": thread, "excludeTurns": true}));
        it.see(c, "thread/goal/cleared");
        let quiet = json!({"optOutNotificationMethods": ["thread/tokenUsage/updated"]});
        let d = it.join_with("D", quiet);
        it.resume(d, &thread);
        let answer = it.call(c, "thread/fork", json!({"threadId": thread}));
        let fork = it.note_thread(&answer);
        it.turn(c, &fork, "in the fork");
        it.see_status(d, &fork, "idle");
    });
}

#[test]
fn resume_in_the_first_turn() {
    differential(&Setup::default(), |it| {
        let (a, b, c) = (it.join("A"), it.join("B"), it.join("C"));
        let thread = it.start(a, json!({}));
        let turn = it.hang(a, &thread, "first");
        it.resume(b, &thread);
        it.call(c, "thread/resume", json!({"threadId": thread, "excludeTurns": true}));
        it.see(c, "thread/goal/cleared");
        it.call(c, "turn/interrupt", json!({"threadId": thread, "turnId": turn}));
        it.all_see_end(&[a, b, c], &thread);
        it.turn(b, &thread, "second");
        it.all_see_end(&[a, c], &thread);
    });
}

#[test]
fn resume_in_the_first_turn_with_an_approval() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({"approvalPolicy": "untrusted"}));
        it.turn_start(a, &thread, "[[shell:touch made.txt]] first");
        let question = it.see(a, APPROVAL);
        it.resume(b, &thread);
        it.see(b, APPROVAL);
        it.reply(a, &question, json!({"decision": "accept"}));
        it.all_see_end(&[a, b], &thread);
    });
}

#[test]
fn all_leave_in_a_turn() {
    differential(&Setup::default(), |it| {
        let (a, b, c) = (it.join("A"), it.join("B"), it.join("C"));
        let thread = it.shared(a, &[b], json!({"approvalPolicy": "untrusted"}));
        it.turn_start(b, &thread, "[[shell:touch made.txt]] go");
        it.all_see(&[a, b], APPROVAL);
        it.leave(b);
        it.call(a, "thread/unsubscribe", json!({"threadId": thread}));
        it.call(c, "turn/start", turn(&thread, "joins"));
        it.resume(c, &thread);
        let question = it.see(c, APPROVAL);
        it.reply(c, &question, json!({"decision": "accept"}));
        it.see_end(c, &thread);
        it.see_status(a, &thread, "idle");
        it.see_status(a, &thread, "idle");
    });
}

#[test]
fn subscribers_that_hear_different_things() {
    differential(&Setup::default(), |it| {
        let a = it.join("A");
        let b = it.join_with("B", json!({"optOutNotificationMethods": ["turn/completed", "item/started"]}));
        let c = it.join_with("C", json!({"experimentalApi": true, "optOutNotificationMethods":
            ["thread/readState/changed", "thread/name/updated", "thread/goal/cleared", "serverRequest/resolved"]}));
        let d = it.join_with(
            "D",
            json!({"experimentalApi": true, "optOutNotificationMethods":
            ["item/agentMessage/delta", "thread/tokenUsage/updated", "warning", "THREAD/STARTED", "*"]}),
        );
        let thread = it.shared(a, &[b, d], json!({"approvalPolicy": "untrusted"}));
        it.call(c, "thread/resume", json!({"threadId": thread}));
        it.turn_start(a, &thread, "[[shell:touch made.txt]] second");
        let question = it.see(a, APPROVAL);
        it.all_see(&[b, c, d], APPROVAL);
        it.reply(d, &question, json!({"decision": "accept"}));
        it.all_see_end(&[a, c, d], &thread);
        it.call(b, "thread/name/set", json!({"threadId": thread, "name": "x"}));
        it.all_see(&[a, b, d], "thread/name/updated");
        it.call(a, "thread/settings/update", json!({"threadId": thread, "model": "other-model"}));
        it.all_see(&[a, c, d], "thread/settings/updated");
    });
}
