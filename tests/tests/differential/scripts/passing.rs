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
        let (alpha, beta, directory, none) = (path("alpha.txt"), path("beta.txt"), path(""), path("none"));
        it.call(a, "fs/readFile", alpha.clone());
        it.call(b, "fs/readFile", none.clone());
        it.call(a, "fs/getMetadata", alpha.clone());
        it.call(b, "fs/writeFile", json!({"path": beta["path"], "dataBase64": "YmV0YQo="}));
        it.call(a, "fs/readFile", beta.clone());
        it.call(a, "fs/readDirectory", path_of(&directory));
        it.call(b, "fs/remove", beta);
        it.call(a, "fs/getMetadata", none);
    });
}

fn path_of(directory: &Value) -> Value {
    let path = directory["path"].as_str().unwrap_or_default();
    json!({"path": path.trim_end_matches('/')})
}

#[test]
fn sections_and_projects() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let c = it.join_with("C", json!({}));
        let thread = it.shared(a, &[], json!({}));
        let section = it.call(b, "threadSection/create", json!({"name": "one"}));
        let section = section["result"]["section"]["id"].clone();
        it.call(b, "threadSection/update", json!({"sectionId": section, "name": "two"}));
        it.call(c, "thread/section/move", json!({"threadId": thread, "sectionId": section}));
        it.all_see(&[a, b, c], "thread/section/changed");
        it.call(a, "threadSection/list", json!({}));
        it.call(c, "threadSection/delete", json!({"sectionId": section}));
        let roots = json!([{"path": it.project()}]);
        let project = json!({"name": "p", "roots": roots, "idempotencyKey": "k"});
        let project = it.call(b, "project/create", project);
        it.all_see(&[a, b], "project/changed");
        let project = project["result"]["project"]["id"].clone();
        it.call(c, "project/list", json!({}));
        it.call(a, "thread/metadata/update", json!({"threadId": thread, "projectId": project}));
        it.all_see(&[a, b], "thread/project/updated");
        it.call(b, "project/update", json!({"projectId": project, "name": "q"}));
        it.all_see(&[a, b], "project/changed");
        it.call(b, "project/delete", json!({"projectId": project}));
        it.all_see(&[a, b], "project/changed");
        it.call(b, "project/read", json!({"projectId": project}));
    });
}

#[test]
fn commands_of_a_thread() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let c = it.join("C");
        let thread = it.shared(a, &[b], json!({}));
        it.call(c, "thread/shellCommand", json!({"threadId": thread, "command": "echo from outside"}));
        it.all_see_end(&[a, b], &thread);
        it.call(b, "thread/shellCommand", json!({"threadId": thread, "command": "exit 3"}));
        it.all_see_end(&[a, b], &thread);
        it.call(b, "thread/shellCommand", json!({"threadId": "nonsense", "command": "true"}));
        let item =
            json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "put in"}]});
        it.call(c, "thread/inject_items", json!({"threadId": thread, "items": [item]}));
        it.turn(b, &thread, "after");
        it.see_end(a, &thread);
    });
}

#[test]
fn a_thread_is_compacted() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let c = it.join("C");
        let thread = it.shared(a, &[b], json!({}));
        it.call(c, "thread/compact/start", json!({"threadId": thread}));
        it.all_see_end(&[a, b], &thread);
        it.turn(b, &thread, "after");
        it.see_end(a, &thread);
        it.call(c, "thread/compact/start", json!({"threadId": "nonsense"}));
    });
}

#[test]
fn samples_of_a_thread() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({}));
        let end = it.turn(a, &thread, "first");
        let turn = &end["params"]["turn"]["id"];
        let sample = |prompt: &str| json!({"threadId": thread, "expectedTurnId": turn, "prompt": prompt});
        it.call(b, "thread/sample", sample("a sample"));
        let asked = it.ask_as(b, json!("mine"), "thread/sample", sample("[[deltas:2:600000]] a long one"));
        it.world().model().wait_for_prompt("a long one");
        // Of another connection there is no such request.
        it.call(a, "thread/sample/cancel", json!({"requestId": "mine"}));
        it.call(b, "thread/sample/cancel", json!({"requestId": "none"}));
        it.call(b, "thread/sample/cancel", json!(["mine"]));
        it.answer_to(&asked);
        it.turn(a, &thread, "second");
        it.see_status(b, &thread, "idle");
    });
}

#[test]
fn attachments_and_what_was_read() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[], json!({}));
        let of = |mut params: Value| {
            params["threadId"] = json!(thread);
            params
        };
        let attachment = json!({"attachmentType": "t", "identityKey": "k\u{2028}", "payload": {"x": 1.0}});
        it.call(b, "thread/attachment/add", of(attachment));
        it.all_see(&[a, b], "thread/attachment/updated");
        it.call(a, "thread/attachment/list", of(json!({})));
        it.call(
            b,
            "thread/attachment/remove",
            of(json!({"attachmentType": "t", "identityKey": "k\u{2028}"})),
        );
        it.all_see(&[a, b], "thread/attachment/updated");
        let read = it.call(b, "thread/read", of(json!({})));
        let revision = read["result"]["readState"]["revision"].clone();
        let operation = json!({"operation": {"type": "read"}, "expectedRevision": revision});
        it.call(b, "thread/readState/update", of(operation.clone()));
        it.see(a, "thread/readState/changed");
        it.see(a, "thread/readState/changed");
        it.call(b, "thread/readState/update", of(operation));
        it.call(b, "thread/search", json!({"searchTerm": "first"}));
        it.call(b, "thread/timeline/list", of(json!({})));
    });
}

#[test]
fn terminals_in_the_background() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[b], json!({}));
        it.turn(a, &thread, "[[shell:cat;;yield_time_ms=250;;tty=true]] go");
        it.see_end(b, &thread);
        let listed = it.call(b, "thread/backgroundTerminals/list", json!({"threadId": thread}));
        let process = &listed["result"]["data"][0]["processId"];
        let params = json!({"threadId": thread, "processId": process});
        it.call(b, "thread/backgroundTerminals/terminate", params.clone());
        // Sent by the task that watches the process.
        for who in [a, b] {
            it.see_where(who, "the end of the terminal", |it| {
                it["method"] == "item/completed" && it["params"]["item"]["type"] == "commandExecution"
            });
        }
        it.call(b, "thread/backgroundTerminals/terminate", params);
        it.call(b, "thread/backgroundTerminals/clean", json!({"threadId": thread}));
        it.turn(a, &thread, "after");
        it.see_end(b, &thread);
    });
}

#[test]
fn directories() {
    let setup = Setup { files: &[("alpha.txt", "alpha\n")], ..Setup::default() };
    differential(&setup, |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let project = it.project();
        let path = |name: &str| format!("{project}/{name}");
        it.call(a, "fs/createDirectory", json!({"path": path("one/two"), "recursive": true}));
        it.call(b, "fs/createDirectory", json!({"path": path("no/such"), "recursive": false}));
        let copy = |from: &str, to: &str, deep: bool| json!({"sourcePath": path(from), "destinationPath": path(to), "recursive": deep});
        it.call(b, "fs/copy", copy("alpha.txt", "one/two/é \u{1F600}.txt", false));
        it.call(b, "fs/copy", copy("one", "three", true));
        it.call(b, "fs/copy", copy("one", "four", false));
        it.call(a, "fs/readFile", json!({"path": path("three/two/é \u{1F600}.txt")}));
        it.call(a, "fs/remove", json!({"path": path("one"), "recursive": false}));
        it.call(a, "fs/remove", json!({"path": path("one"), "recursive": true}));
        it.call(a, "fs/remove", json!({"path": path("one"), "force": true}));
        it.call(a, "fs/writeFile", json!({"path": path("x"), "dataBase64": "no base64"}));
        it.call(a, "fs/readFile", json!({"path": "relative"}));
    });
}
