//! Requests that codexd only passes on.

use serde_json::{Value, json};

use crate::differential;
use crate::stage::{Stage, Who};
use crate::world::Setup;

fn thread_with_turns(it: &mut Stage<'_>, a: Who) -> String {
    let thread = it.start(a, json!({}));
    it.turn(a, &thread, "first");
    it.turn(a, &thread, "[[shell:echo hello]] second");
    thread
}

#[test]
fn threads_are_listed_and_read() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = thread_with_turns(it, a);
        it.call(b, "thread/list", json!({}));
        it.call(b, "thread/list", json!({"limit": 1, "sortKey": "created_at"}));
        it.call(b, "thread/loaded/list", json!({}));
        it.call(b, "thread/read", json!({"threadId": thread}));
        it.call(b, "thread/read", json!({"threadId": thread, "includeTurns": true}));
        it.call(b, "thread/turns/list", json!({"threadId": thread}));
        it.call(b, "thread/items/list", json!({"threadId": thread}));
        it.call(b, "thread/goal/get", json!({"threadId": thread}));
        it.call(b, "thread/backgroundTerminals/list", json!({"threadId": thread}));
        it.call(b, "getConversationSummary", json!({"conversationId": thread}));
    });
}

#[test]
fn settings_are_read_and_written() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        it.call(a, "model/list", json!({}));
        it.call(a, "config/read", json!({}));
        it.call(a, "configRequirements/read", Value::Null);
        it.call(a, "account/read", json!({"refreshToken": false}));
        it.call(a, "getAuthStatus", json!({}));
        it.call(a, "collaborationMode/list", json!({}));
        it.call(a, "experimentalFeature/list", json!({}));
        it.call(a, "permissionProfile/list", json!({}));
        it.call(a, "modelProvider/list", json!({}));
        it.call(a, "mcpServerStatus/list", json!({}));
        it.call(a, "hooks/list", json!({}));
        it.call(a, "mock/experimentalMethod", json!({"value": "x"}));
        let edit = json!({"keyPath": "model", "value": "gpt-5.5", "mergeStrategy": "replace"});
        it.call(a, "config/value/write", edit);
        it.call(b, "config/read", json!({"includeLayers": true}));
    });
}

#[test]
fn files() {
    let setup = Setup { files: &[("alpha.txt", "alpha\n")], ..Setup::default() };
    differential(&setup, |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let path = |name: &str| json!({"path": format!("{}/{name}", it.project())});
        let (alpha, beta, folder, none) = (path("alpha.txt"), path("beta.txt"), path(""), path("none"));
        it.call(a, "fs/readFile", alpha.clone());
        it.call(b, "fs/readFile", none.clone());
        it.call(a, "fs/getMetadata", alpha.clone());
        it.call(b, "fs/writeFile", json!({"path": beta["path"], "dataBase64": "YmV0YQo="}));
        it.call(a, "fs/readFile", beta.clone());
        it.call(a, "fs/readDirectory", path_of(&folder));
        it.call(b, "fs/remove", beta);
        it.call(a, "fs/getMetadata", none);
    });
}

fn path_of(folder: &Value) -> Value {
    let path = folder["path"].as_str().unwrap_or_default();
    json!({"path": path.trim_end_matches('/')})
}
