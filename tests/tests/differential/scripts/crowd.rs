//! Several clients on one thread.

use serde_json::json;

use crate::differential;
use crate::stage::{input, turn};
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
fn usage_is_sent_to_the_client_that_resumes() {
    differential(&Setup::default(), |it| {
        let (a, b, c) = (it.join("A"), it.join("B"), it.join("C"));
        let thread = it.shared(a, &[], json!({}));
        it.turn(a, &thread, "[[usage:1234]] second");
        it.resume(b, &thread);
        it.turn(b, &thread, "[[usage:99]] third");
        it.see_end(a, &thread);
        it.resume(a, &thread);
        it.resume_with(c, json!({"threadId": thread, "excludeTurns": true}));
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
        it.resume_with(c, json!({"threadId": thread, "excludeTurns": true}));
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
        let server_request = it.see(a, APPROVAL);
        it.resume(b, &thread);
        it.see(b, APPROVAL);
        it.reply(a, &server_request, json!({"decision": "accept"}));
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
        let server_request = it.see(c, APPROVAL);
        it.reply(c, &server_request, json!({"decision": "accept"}));
        it.see_end(c, &thread);
        it.see_status(a, &thread, "idle");
        it.see_status(a, &thread, "idle");
    });
}

#[test]
fn subscribers_that_receive_different_things() {
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
        let server_request = it.see(a, APPROVAL);
        it.all_see(&[b, c, d], APPROVAL);
        it.reply(d, &server_request, json!({"decision": "accept"}));
        it.all_see_end(&[a, c, d], &thread);
        it.call(b, "thread/name/set", json!({"threadId": thread, "name": "x"}));
        it.all_see(&[a, b, d], "thread/name/updated");
        it.call(a, "thread/settings/update", json!({"threadId": thread, "model": "other-model"}));
        it.all_see(&[a, c, d], "thread/settings/updated");
    });
}

#[test]
fn what_subscribes_and_what_does_not() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[], json!({}));
        let running = it.hang(a, &thread, "long");
        let none = "01a1fb58-0000-7000-8000-000000000000";
        let requests = [
            ("thread/guardianReview", json!({})),
            ("thread/read", json!({"includeTurns": true})),
            ("thread/turns/list", json!({})),
            ("thread/items/list", json!({})),
            ("thread/items/read", json!({"turnId": running, "itemIds": ["none"]})),
            ("thread/goal/get", json!({})),
            ("thread/metadata/update", json!({"gitInfo": {"branch": "main"}})),
            ("thread/settings/update", json!({"effort": "low"})),
            ("turn/settings/update", json!({"turnId": none, "effort": "low"})),
            ("thread/memoryMode/set", json!({"mode": "disabled"})),
            ("thread/memory/read", json!({})),
            ("thread/queue/list", json!({})),
            ("thread/queue/add", json!({"input": [], "clientUserMessageId": "m"})),
            ("thread/backgroundTerminals/list", json!({})),
            ("thread/backgroundTerminals/clean", json!({})),
            ("thread/backgroundTerminals/terminate", json!({"processId": "1"})),
            ("thread/inject_items", json!({"items": []})),
            ("thread/increment_elicitation", json!({})),
            ("thread/decrement_elicitation", json!({})),
            ("thread/approveGuardianDeniedAction", json!({"event": {}})),
            ("thread/prediction/request", json!({})),
            ("thread/attachment/list", json!({})),
            ("thread/timeline/list", json!({})),
            ("thread/searchOccurrences", json!({"searchTerm": "long"})),
            ("thread/prepareApprovedPlan", json!({"markdown": "x"})),
            ("thread/realtime/start", json!({"outputModality": "none"})),
            ("thread/sample", json!({"expectedTurnId": none, "prompt": "x"})),
            ("thread/section/move", json!({"sectionId": "none"})),
            ("thread/attachment/remove", json!({"attachmentId": "none"})),
            ("thread/readState/update", json!({"operation": {"type": "read"}, "expectedRevision": "none"})),
            ("thread/shellCommand", json!({"command": ""})),
            ("thread/queue/start", json!({})),
            ("review/start", json!({"target": {"type": "custom", "instructions": ""}})),
            ("mcpServer/tool/call", json!({"server": "none", "tool": "none"})),
            ("mcpServer/resource/read", json!({"server": "none", "uri": "x://y"})),
            (
                "mcpServer/event/stream/start",
                json!({"server": "none", "subscriptionId": "s", "name": "n", "arguments": {}}),
            ),
            ("mcpServerStatus/list", json!({})),
            ("experimentalFeature/list", json!({"limit": 1})),
            ("turn/steer", json!({"input": input("x"), "expectedTurnId": none})),
            ("turn/interrupt", json!({"turnId": none})),
            ("hooks/list", json!({})),
            ("app/list", json!({})),
        ];
        for (method, mut params) in requests {
            params["threadId"] = json!(thread);
            it.call(b, method, params);
            it.call(b, "thread/unsubscribe", json!({"threadId": thread}));
        }
        it.call(b, "turn/interrupt", json!({"threadId": thread, "turnId": running}));
        it.see_end(a, &thread);
    });
}

#[test]
fn what_speaks_subscribes() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[], json!({}));
        let audio = json!({"data": "AAAA", "sampleRate": 24000, "numChannels": 1});
        let requests = [
            ("stop", json!({}), "thread/realtime/closed"),
            ("appendText", json!({"text": "x"}), "error"),
            ("appendSpeech", json!({"text": "x"}), "error"),
            ("appendAudio", json!({"audio": audio}), "error"),
        ];
        for (method, mut params, reported) in requests {
            let method = format!("thread/realtime/{method}");
            it.call(b, &method, json!({"threadId": thread, "audio": 1}));
            // Only this one accepts any parameters, and answers before it sends its notification.
            if method.ends_with("/stop") {
                it.see(b, reported);
            }
            it.call(b, "thread/unsubscribe", json!({"threadId": thread}));
            params["threadId"] = json!(thread);
            it.call(b, &method, params);
            it.see(b, reported);
            it.see(a, reported);
            it.turn(a, &thread, "for both");
            it.see_end(b, &thread);
            it.call(b, "thread/unsubscribe", json!({"threadId": thread}));
        }
        it.call(b, "thread/realtime/stop", json!({"threadId": "01a1fb58-0000-7000-8000-000000000000"}));
        it.call(b, "thread/realtime/stop", json!({"threadId": "nonsense"}));
        it.turn(a, &thread, "for A");
        it.see_status(b, &thread, "idle");
    });
}

#[test]
fn a_guardian_review_subscribes() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[], json!({}));
        it.call(b, "thread/guardianReview", json!({"threadId": "nonsense"}));
        it.call(b, "thread/guardianReview", json!({"threadId": "01a1fb58-0000-7000-8000-000000000000"}));
        let running = it.hang(a, &thread, "long");
        it.call(b, "thread/guardianReview", json!({"threadId": thread}));
        it.call(b, "turn/interrupt", json!({"threadId": thread, "turnId": running}));
        it.see_end(a, &thread);
        it.see_end(b, &thread);
        it.turn(a, &thread, "for both");
        it.see_end(b, &thread);
    });
}
