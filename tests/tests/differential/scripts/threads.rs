//! Threads: resumed, forked, archived, forgotten; and what every client is sent about it.

use serde_json::json;

use crate::differential;
use crate::stage::turn;
use crate::world::Setup;

#[test]
fn resume_of_a_loaded_thread() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({}));
        it.turn(a, &thread, "first");
        it.resume(b, &thread);
        it.resume(b, &thread);
        it.resume(a, &thread);
        it.call(
            b,
            "thread/resume",
            json!({"threadId": thread, "excludeTurns": true, "model": "other-model"}),
        );
        it.see(b, "thread/goal/cleared");
        it.see(b, "thread/goal/cleared");
        it.turn(a, &thread, "second");
        it.see_end(b, &thread);
    });
}

#[test]
fn resume_of_a_thread_that_never_ran() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({}));
        it.call(b, "thread/resume", json!({"threadId": thread}));
        it.call(a, "thread/resume", json!({"threadId": thread}));
        it.call(b, "thread/resume", json!({"threadId": "01a1fb58-0000-7000-8000-000000000000"}));
        it.call(b, "thread/resume", json!({"threadId": "nonsense"}));
        it.turn(a, &thread, "only for A");
        it.see_status(b, &thread, "idle");
    });
}

#[test]
fn resume_of_an_ephemeral_thread() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({"ephemeral": true}));
        it.turn(a, &thread, "first");
        it.call(b, "thread/resume", json!({"threadId": thread}));
        it.call(a, "thread/resume", json!({"threadId": thread}));
        it.turn(a, &thread, "second");
        it.see_status(b, &thread, "idle");
        it.see_status(b, &thread, "idle");
    });
}

#[test]
fn resume_of_a_running_thread() {
    differential(&Setup::default(), |it| {
        let (a, b, c) = (it.join("A"), it.join("B"), it.join("C"));
        let thread = it.start(a, json!({}));
        it.turn(a, &thread, "first");
        let turn = it.hang(a, &thread, "long");
        it.resume(b, &thread);
        it.resume_with(c, json!({"threadId": thread, "excludeTurns": true}));
        it.call(a, "turn/interrupt", json!({"threadId": thread, "turnId": turn}));
        for who in [a, b, c] {
            it.see_end(who, &thread);
        }
    });
}

#[test]
fn unsubscribe_of_one_then_the_other() {
    let mut setup = Setup::default();
    setup.config.thread_unload_delay_secs = Some(1);
    differential(&setup, |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({}));
        it.turn(a, &thread, "first");
        it.resume(b, &thread);
        let params = json!({"threadId": thread});
        it.call(a, "thread/unsubscribe", params.clone());
        it.call(a, "thread/unsubscribe", params.clone());
        it.turn(b, &thread, "for B");
        it.call(b, "thread/unsubscribe", params.clone());
        it.see(a, "thread/closed");
        it.see(b, "thread/closed");
        it.call(a, "thread/unsubscribe", params.clone());
        it.call(a, "thread/unsubscribe", json!({"threadId": "01a1fb58-0000-7000-8000-000000000000"}));
        it.call(a, "thread/unsubscribe", json!({"threadId": "nonsense"}));
        it.call(a, "thread/unsubscribe", json!({}));
        it.call(a, "turn/start", turn(&thread, "no"));
        // From the disk again.
        it.resume(b, &thread);
        it.resume(a, &thread);
        it.turn(a, &thread, "second");
        it.see_end(b, &thread);
    });
}

#[test]
fn other_forms_of_a_thread_id() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({}));
        it.turn(a, &thread, "first");
        let forms = [
            thread.to_uppercase(),
            thread.replace('-', ""),
            format!("urn:uuid:{thread}"),
            format!("{{{thread}}}"),
        ];
        for form in &forms {
            let answer = it.call(b, "thread/resume", json!({"threadId": form}));
            if answer["error"].is_null() {
                it.see(b, "thread/goal/cleared");
            }
            it.call(b, "thread/unsubscribe", json!({"threadId": form}));
            it.call(b, "thread/unsubscribe", json!({"threadId": form}));
            // Its subscribers still get its messages, and no other client does.
            it.turn(a, &thread, "next");
        }
        for form in &forms {
            let turn = it.hang(a, form, "long");
            it.call(b, "turn/interrupt", json!({"threadId": form, "turnId": turn}));
            it.see_where(a, "the end", |it| it["params"]["turn"]["status"] == "interrupted");
        }
        it.call(b, "thread/archive", json!({"threadId": forms[0]}));
        it.see(a, "thread/archived");
        it.see(b, "thread/archived");
        it.call(a, "thread/unsubscribe", json!({"threadId": thread}));
    });
}

#[test]
fn fork() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({}));
        it.turn(a, &thread, "first");
        let answer = it.call(b, "thread/fork", json!({"threadId": thread}));
        let fork = it.note_thread(&answer);
        it.see(b, "thread/started");
        it.see(a, "thread/started");
        it.turn(b, &fork, "in the fork");
        it.turn(a, &thread, "in the source");
        let answer = it.call(a, "thread/fork", json!({"threadId": fork, "excludeTurns": true}));
        let second = it.note_thread(&answer);
        it.turn(a, &second, "in the fork of the fork");
        it.call(a, "thread/fork", json!({"threadId": "01a1fb58-0000-7000-8000-000000000000"}));
        it.see_status(b, &second, "idle");
    });
}

#[test]
fn archive_in_a_turn() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({}));
        it.turn(a, &thread, "first");
        it.resume(b, &thread);
        it.hang(a, &thread, "long");
        it.call(b, "thread/archive", json!({"threadId": thread}));
        for who in [a, b] {
            it.see(who, "thread/archived");
        }
        it.call(a, "thread/unsubscribe", json!({"threadId": thread}));
        it.call(a, "turn/start", turn(&thread, "no"));
        it.call(a, "thread/resume", json!({"threadId": thread}));
    });
}

#[test]
fn delete_in_a_turn() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({}));
        it.turn(a, &thread, "first");
        it.resume(b, &thread);
        it.hang(a, &thread, "long");
        it.call(a, "thread/delete", json!({"threadId": thread}));
        for who in [a, b] {
            it.see(who, "thread/deleted");
        }
        it.call(b, "thread/unsubscribe", json!({"threadId": thread}));
        it.call(b, "thread/resume", json!({"threadId": thread}));
        it.call(b, "thread/read", json!({"threadId": thread}));
    });
}

#[test]
fn archive_and_unarchive() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({}));
        it.turn(a, &thread, "first");
        it.resume(b, &thread);
        it.call(a, "thread/archive", json!({"threadId": thread}));
        for who in [a, b] {
            it.see(who, "thread/archived");
            it.see_status(who, &thread, "notLoaded");
        }
        it.call(b, "thread/unarchive", json!({"threadId": thread}));
        it.see(a, "thread/unarchived");
        it.see(b, "thread/unarchived");
        it.call(a, "turn/start", turn(&thread, "no"));
        it.resume(b, &thread);
        it.turn(b, &thread, "second");
        it.see_status(a, &thread, "idle");
    });
}

#[test]
fn names_goals_and_metadata() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let c = it.join_with("C", json!({}));
        let thread = it.start(a, json!({}));
        it.turn(a, &thread, "first");
        let with = |mut params: serde_json::Value| {
            params["threadId"] = json!(thread);
            params
        };
        it.call(b, "thread/name/set", with(json!({"name": "a name"})));
        it.call(b, "thread/goal/set", with(json!({"objective": "o", "status": "paused"})));
        it.call(a, "thread/goal/get", with(json!({})));
        it.see(b, "thread/goal/updated");
        it.call(a, "thread/resume", with(json!({})));
        for who in [a, b, c] {
            it.see(who, "thread/goal/updated");
        }
        it.see(a, "thread/goal/updated");
        it.call(a, "thread/goal/clear", with(json!({})));
        for who in [a, b, c] {
            it.see(who, "thread/goal/cleared");
        }
        it.call(b, "thread/metadata/update", with(json!({"gitInfo": {"branch": "main"}})));
        it.call(b, "thread/memoryMode/set", with(json!({"mode": "disabled"})));
        it.call(b, "thread/settings/update", with(json!({"model": "gpt-5.5"})));
        it.call(a, "threadSection/create", json!({"name": "a section"}));
        it.call(a, "skills/extraRoots/set", json!({"extraRoots": []}));
        it.call(a, "account/login/start", json!({"type": "apiKey", "apiKey": "sk-test"}));
        it.see(b, "account/login/completed");
        it.see(b, "account/updated");
        it.call(b, "account/logout", json!({}));
        for who in [a, b, c] {
            it.see_where(who, "the end of the login", |it| {
                it["method"] == "account/updated" && it["params"]["authMode"].is_null()
            });
        }
    });
}

#[test]
fn raw_events_for_all_subscribers() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({"experimentalRawEvents": true}));
        it.turn(a, &thread, "first");
        it.resume(b, &thread);
        it.turn(b, &thread, "second");
        it.see_end(a, &thread);
    });
}
