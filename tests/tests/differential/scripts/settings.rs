//! Settings: of threads, of turns, of everything; and the warnings about them.

use std::fs;

use serde_json::{Value, json};

use crate::differential;
use crate::stage::{Stage, input};
use crate::world::Setup;

const APPROVAL: &str = "item/commandExecution/requestApproval";

fn of(thread: &str, mut params: Value) -> Value {
    params["threadId"] = json!(thread);
    params
}

#[test]
fn settings_of_a_thread_are_sent_to_its_subscribers() {
    differential(&Setup::default(), |it| {
        let (a, b, c) = (it.join("A"), it.join("B"), it.join("C"));
        let d = it.join_with("D", json!({}));
        let thread = it.shared(a, &[b, d], json!({}));
        it.call(c, "thread/settings/update", of(&thread, json!({"model": "gpt-5.5", "effort": "low"})));
        it.all_see(&[a, b], "thread/settings/updated");
        it.call(b, "thread/settings/update", of(&thread, json!({"approvalPolicy": "untrusted"})));
        it.all_see(&[a, b], "thread/settings/updated");
        it.call(d, "thread/settings/update", of(&thread, json!({"model": "gpt-5.5"})));
        it.turn_start(a, &thread, "[[shell:touch made.txt]] go");
        let server_request = it.see(a, APPROVAL);
        it.all_see(&[b, d], APPROVAL);
        it.reply(d, &server_request, json!({"decision": "accept"}));
        it.all_see_end(&[a, b, d], &thread);
    });
}

#[test]
fn settings_in_a_turn() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[b], json!({}));
        let running = it.hang(a, &thread, "long");
        it.call(b, "thread/settings/update", of(&thread, json!({"model": "other-model"})));
        it.all_see(&[a, b], "thread/settings/updated");
        let turn = json!({"turnId": running, "effort": "high"});
        it.call(b, "turn/settings/update", of(&thread, turn));
        let turn = json!({"turnId": "01a1fb58-0000-7000-8000-000000000000", "effort": "high"});
        it.call(b, "turn/settings/update", of(&thread, turn));
        it.call(b, "turn/interrupt", of(&thread, json!({"turnId": running})));
        it.all_see_end(&[a, b], &thread);
    });
}

#[test]
fn settings_that_a_turn_brings_along() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[b], json!({}));
        let params =
            json!({"input": input("x"), "model": "other-model", "approvalPolicy": "never", "effort": "low"});
        it.call(b, "turn/start", of(&thread, params));
        it.all_see_end(&[a, b], &thread);
        it.call(a, "thread/resume", of(&thread, json!({"excludeTurns": true})));
        it.all_see(&[a, b], "thread/goal/cleared");
    });
}

#[test]
fn what_is_wrong_with_settings() {
    differential(&Setup::default(), |it| {
        let a = it.join("A");
        let thread = it.start(a, json!({}));
        for params in [
            json!({"approvalPolicy": "sometimes"}),
            json!({"effort": 5}),
            json!({"cwd": "relative"}),
            json!({"permissions": "none"}),
            json!({"sandboxPolicy": {"type": "none"}}),
            json!({"environments": [{"environmentId": "none", "cwd": "/"}]}),
            json!({}),
        ] {
            it.call(a, "thread/settings/update", of(&thread, params));
        }
        it.call(a, "thread/settings/update", json!({"threadId": "nonsense"}));
        it.call(a, "thread/settings/update", Value::Null);
    });
}

#[test]
fn memory_modes() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[b], json!({}));
        for mode in ["disabled", "enabled", "polluted", "none"] {
            it.call(b, "thread/memoryMode/set", of(&thread, json!({"mode": mode})));
        }
        it.call(b, "thread/memoryMode/set", json!({"threadId": "nonsense", "mode": "disabled"}));
        it.call(a, "thread/memory/read", of(&thread, json!({})));
        it.call(a, "memory/status", json!({}));
        it.turn(a, &thread, "second");
        it.see_end(b, &thread);
    });
}

#[test]
fn names_and_metadata_of_a_thread() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let c = it.join_with("C", json!({}));
        let thread = it.shared(a, &[], json!({}));
        for name in ["plain", "  spaced  ", "é \u{1F600}\u{2028}\"quoted\"\\\t", ""] {
            let answer = it.call(b, "thread/name/set", of(&thread, json!({"name": name})));
            if answer["error"].is_null() {
                it.all_see(&[a, b, c], "thread/name/updated");
            }
        }
        it.call(b, "thread/name/set", json!({"threadId": "nonsense", "name": "x"}));
        it.call(c, "thread/metadata/update", of(&thread, json!({"gitInfo": {"sha": "abc", "branch": null}})));
        it.call(c, "thread/metadata/update", of(&thread, json!({"projectId": "p"})));
        it.call(b, "thread/metadata/update", of(&thread, json!({"projectId": "p"})));
        it.call(b, "thread/metadata/update", of(&thread, json!({})));
        it.call(a, "thread/read", of(&thread, json!({})));
    });
}

#[test]
fn the_configuration_is_written() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let edit =
            |key: &str, value: Value| json!({"keyPath": key, "value": value, "mergeStrategy": "replace"});
        let edits = json!([edit("model", json!("gpt-5.5")), edit("features.no_such", json!(true))]);
        it.call(a, "config/batchWrite", json!({"edits": edits, "reloadUserConfig": true}));
        it.call(b, "config/read", json!({}));
        let mut stale = edit("model", json!("other"));
        stale["expectedVersion"] = json!("sha256:0");
        it.call(b, "config/value/write", stale);
        it.call(b, "config/value/write", edit("approval_policy", json!("sometimes")));
        it.call(b, "config/value/write", edit("", json!(1)));
        it.call(b, "config/batchWrite", json!({"edits": []}));
        it.call(b, "config/batchWrite", json!({"edits": [{"keyPath": "model"}]}));
        let mut elsewhere = edit("model", json!("x"));
        elsewhere["filePath"] = json!(format!("{}/other.toml", it.project()));
        it.call(b, "config/value/write", elsewhere);
        it.call(b, "config/value/write", edit("model", Value::Null));
        // A thread that is started now begins with what was written.
        let thread = it.start(b, json!({}));
        it.turn(b, &thread, "first");
        it.see_status(a, &thread, "idle");
    });
}

/// Edits the configuration file while the server runs.
fn edit(it: &Stage<'_>, change: impl Fn(&str) -> String) {
    let path = it.world().home().codex_home().join("config.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, change(&text)).unwrap();
}

const UNKNOWN: &str = "\n[tools]\nno_such_tool = 1\n\n[features]\nno_such_feature = true\n";

#[test]
fn a_warning_about_the_configuration_after_the_start() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let of_a = it.shared(a, &[b], json!({}));
        edit(it, |text| format!("{text}{UNKNOWN}"));
        it.start(a, json!({}));
        it.start(b, json!({}));
        // The news of a thread goes to everybody, perhaps after the answer to its start.
        for who in [a, a, a, b, b, b] {
            it.see(who, "thread/started");
        }
        // A client that connects now is notified of the start of the server only.
        let c = it.join("C");
        it.call(c, "thread/resume", json!({"threadId": of_a}));
        it.see(c, "thread/goal/cleared");
        let answer = it.call(c, "thread/fork", json!({"threadId": of_a}));
        it.note_thread(&answer);
        it.see(c, "thread/started");
        it.call(b, "thread/revert", json!({"threadId": of_a, "beforeTurnId": "nonsense"}));
        it.call(b, "thread/read", json!({"threadId": of_a}));
        it.call(b, "config/read", json!({}));
        let d = it.join_with("D", json!({"optOutNotificationMethods": ["configWarning"]}));
        it.start(d, json!({}));
        it.see(d, "thread/started");
        it.join("E");
    });
}

#[test]
fn a_configuration_that_cannot_be_read_any_more() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[], json!({}));
        let good = fs::read_to_string(it.world().home().codex_home().join("config.toml")).unwrap();
        edit(it, |_| "approval_policy = \"sometimes\"\n".to_owned());
        it.call(a, "thread/start", json!({"cwd": it.project()}));
        it.call(b, "thread/resume", json!({"threadId": thread}));
        it.call(b, "thread/fork", json!({"threadId": thread}));
        it.call(b, "config/read", json!({}));
        let c = it.join("C");
        edit(it, |_| good.clone());
        it.start(c, json!({}));
        it.turn(a, &thread, "second");
        it.see_status(b, &thread, "idle");
    });
}

#[test]
fn features_are_switched() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        it.call(a, "experimentalFeature/enablement/set", json!({"enablement": {"no_such_feature": true}}));
        it.call(b, "experimentalFeature/enablement/set", json!({"enablement": {"memories": true}}));
        it.call(a, "experimentalFeature/list", json!({"limit": 3}));
        it.call(a, "config/mcpServer/reload", Value::Null);
        it.call(b, "modelProvider/capabilities/read", json!({}));
        it.call(b, "windowsSandbox/readiness", Value::Null);
        it.call(b, "environment/status", json!({"environmentId": "none"}));
        it.call(b, "environment/info", json!({"environmentId": "local"}));
    });
}
