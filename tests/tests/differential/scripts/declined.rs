//! Commands and changes that are not allowed.

use serde_json::json;

use crate::differential;
use crate::world::Setup;

const APPROVAL: &str = "item/commandExecution/requestApproval";

#[test]
fn a_command_is_declined_for_two_subscribers() {
    differential(&Setup::default(), |it| {
        let (a, b, c) = (it.join("A"), it.join("B"), it.join("C"));
        let thread = it.shared(a, &[b], json!({"approvalPolicy": "untrusted"}));
        it.turn_start(a, &thread, "[[shell:touch made.txt]] go");
        let server_request = it.see(a, APPROVAL);
        it.see(b, APPROVAL);
        it.reply(c, &server_request, json!({"decision": "decline"}));
        it.all_see_end(&[a, b], &thread);
        it.see_status(c, &thread, "idle");
        it.see_status(c, &thread, "idle");
    });
}

#[test]
fn a_command_is_declined_by_one_that_came_later() {
    differential(&Setup::default(), |it| {
        let (a, b, c) = (it.join("A"), it.join("B"), it.join("C"));
        let thread = it.shared(a, &[b], json!({"approvalPolicy": "untrusted"}));
        it.turn_start(a, &thread, "[[shell:touch made.txt]] go");
        it.all_see(&[a, b], APPROVAL);
        it.call(b, "thread/unsubscribe", json!({"threadId": thread}));
        it.resume(c, &thread);
        let server_request = it.see(c, APPROVAL);
        it.reply(c, &server_request, json!({"decision": "decline"}));
        it.all_see_end(&[a, c], &thread);
        it.see_status(b, &thread, "idle");
        it.see_status(b, &thread, "idle");
    });
}

#[test]
fn a_command_is_cancelled_by_one_that_came_later() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[], json!({"approvalPolicy": "untrusted"}));
        it.turn_start(a, &thread, "[[shell:touch made.txt]] go");
        it.see(a, APPROVAL);
        it.resume(b, &thread);
        let server_request = it.see(b, APPROVAL);
        it.reply(b, &server_request, json!({"decision": "cancel"}));
        it.all_see_end(&[a, b], &thread);
        it.turn(b, &thread, "after");
        it.see_end(a, &thread);
    });
}

#[test]
fn an_unassigned_command_is_declined() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[], json!({"approvalPolicy": "untrusted"}));
        it.turn_start(a, &thread, "[[shell:touch made.txt]] go");
        it.see(a, APPROVAL);
        it.leave(a);
        it.resume(b, &thread);
        let server_request = it.see(b, APPROVAL);
        it.reply(b, &server_request, json!({"decision": "decline"}));
        it.see_end(b, &thread);
    });
}

#[test]
fn a_file_change_is_declined_by_one_that_came_later() {
    let mut setup = Setup::default();
    setup.config.model = "gpt-5.5".to_owned();
    differential(&setup, |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[], json!({"approvalPolicy": "untrusted"}));
        for decision in ["decline", "cancel"] {
            it.turn_start(a, &thread, &format!("[[write:{decision}.txt:a line]] go"));
            it.see(a, "item/fileChange/requestApproval");
            it.resume(b, &thread);
            let server_request = it.see(b, "item/fileChange/requestApproval");
            it.reply(b, &server_request, json!({"decision": decision}));
            it.all_see_end(&[a, b], &thread);
            it.call(b, "thread/unsubscribe", json!({"threadId": thread}));
        }
    });
}

#[test]
fn a_command_is_allowed_for_the_session() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[b], json!({"approvalPolicy": "untrusted"}));
        it.turn_start(a, &thread, "[[shell:touch made.txt]] one");
        it.see(a, APPROVAL);
        let server_request = it.see(b, APPROVAL);
        it.reply(b, &server_request, json!({"decision": "acceptForSession"}));
        it.all_see_end(&[a, b], &thread);
        it.turn(b, &thread, "[[shell:touch made.txt]] two");
        it.see_end(a, &thread);
    });
}

#[test]
fn broken_answers_of_one_that_came_later() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[], json!({"approvalPolicy": "untrusted"}));
        let answers = [
            json!({"result": {"decision": "none"}}),
            json!({"result": null}),
            json!({"error": {"code": -1, "message": "no"}}),
            json!({"result": {"decision": "accept"}}),
        ];
        for (index, mut answer) in answers.into_iter().enumerate() {
            it.turn_start(a, &thread, &format!("[[shell:touch made{index}.txt]] go"));
            it.see(a, APPROVAL);
            it.resume(b, &thread);
            let server_request = it.see(b, APPROVAL);
            answer["id"] = server_request["id"].clone();
            it.say(b, answer);
            it.all_see_end(&[a, b], &thread);
            it.call(b, "thread/unsubscribe", json!({"threadId": thread}));
        }
    });
}
