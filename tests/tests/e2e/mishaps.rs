//! What goes wrong while a client of `codexd connect` has no daemon, and what it is told.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use codexd_tests::binary;
use codexd_tests::codex::{Codex, Version};
use codexd_tests::process;
use codexd_tests::wait;
use serde_json::json;

use crate::going_on::Death;
use crate::world::{Bridge, World};

/// A client ends after it was told what became of its turn and its request, with these words on stderr.
fn ends_with_1(mut client: Bridge, turn: &str, request: i64, words: &[&str]) {
    let seen = client.recv_to_end();
    let ends = seen.iter().filter(|it| it.method() == Some("turn/completed"));
    let ends: Vec<_> =
        ends.map(|it| (&it["params"]["turn"]["id"], &it["params"]["turn"]["status"])).collect();
    assert_eq!(ends, [(&json!(turn), &json!("failed"))]);
    let answers: Vec<_> = seen.iter().filter(|it| it.is_answer_to(request)).collect();
    assert_eq!(answers.len(), 1, "{seen:#?}");
    assert_eq!(answers[0].outcome().unwrap_err().code, -32010);
    assert_eq!(client.exit_code(), 1);
    for words in words {
        assert!(client.stderr().contains(words), "`{words}` is missing in:\n{}", client.stderr());
    }
}

/// A client with a turn and a request that do not end.
fn busy(world: &World) -> (Bridge, String, i64) {
    // The back-off is longer.
    let mut client = world.raw_client("client", &["--patience", "5s"]);
    client.initialize();
    let thread = client.start_thread(json!({}));
    let turn = client.start_turn(&thread, "[[hang]]");
    let id = client.send_request("command/exec", json!({"command": ["sleep", "600"], "processId": "p"}));
    wait::until("the request is on its way", || world.status("inFlight").as_deref() == Some("1"));
    (client, turn, id)
}

#[test]
fn a_successor_that_cannot_start_is_explained_to_the_clients() {
    let world = World::fake("").configured("");
    let (client, turn, id) = busy(&world);
    let world = world.configured("drain = \"soon\"\n");
    world.kill9();
    ends_with_1(client, &turn, id, &["config.toml", "drain", "resume the thread"]);
    assert_eq!(process::marked(world.home().root()), []);
}

/// Replaces the program that is run as codex, while it runs.
fn write_codex(path: &Path, script: &str) {
    let fresh = path.with_extension("new");
    fs::write(&fresh, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&fresh, path).unwrap();
}

#[test]
fn a_codex_that_dies_again_and_again_is_held_by_the_back_off_and_its_clients_are_told() {
    let world = World::fake("");
    let codex = world.home().root().join("codex-program");
    write_codex(&codex, &format!("exec '{}' \"$@\"", binary::fake_codex().display()));
    let world = world.with_codex(&codex);
    let (client, turn, id) = busy(&world);
    write_codex(&codex, "echo out of luck >&2; exit 3");
    world.kill9();
    ends_with_1(client, &turn, id, &["exited with code 3", "out of luck"]);
    // Others meet the back-off after the third.
    let failed = |times: u64| world.record()["earlyEnds"]["count"].as_u64() >= Some(times);
    while !failed(3) {
        let _ = world.run(&["connect", "--no-direct"]).expect_code(69);
    }
    let output = world.run(&["connect", "--no-direct"]).expect_code(69);
    assert!(output.stderr.contains("is not started again for"), "{output}");
}

#[test]
fn a_client_that_leaves_while_there_is_no_daemon_starts_none() {
    let world = World::fake("");
    let mut client = world.client("client");
    client.start_thread(json!({}));
    Death::Stop.happens(&world);
    wait::until("the bridge knows", || client.stderr().contains("gets the next daemon"));
    assert_eq!(client.finish(), 0);
    assert_eq!(process::marked(world.home().root()), []);
}

#[test]
fn a_thread_that_is_gone_meanwhile_gets_codexs_own_error_and_the_others_go_on() {
    let Some(world) = World::real() else { return };
    let mut client = world.client("client");
    let params = json!({"cwd": world.home().project()});
    let threads: Vec<String> = (0..3).map(|_| client.start_thread(params.clone())).collect();
    for thread in &threads {
        assert_eq!(client.turn(thread, "[[deltas:3]] before").status, "completed");
    }
    let [archived, deleted, kept] = &threads[..] else { unreachable!() };
    Death::Stop.happens(&world);
    wait::until("the bridge knows", || client.stderr().contains("gets the next daemon"));
    let mut other = world.client("other");
    other.request("thread/archive", json!({"threadId": archived}));
    other.request("thread/delete", json!({"threadId": deleted}));
    let input = json!([{"type": "text", "text": "hello?"}]);
    for gone in [archived, deleted] {
        let refused = client.try_request("turn/start", json!({"threadId": gone, "input": input}));
        let error = refused.expect_err("it is gone");
        assert!(error.code == -32600 && error.data["codexd"].is_null(), "codex's own: {error:?}");
    }
    assert_eq!(client.turn(kept, "[[deltas:3]] after").status, "completed");
    assert_eq!((client.finish(), other.finish()), (0, 0));
}

#[test]
fn another_version_of_codex_answers_in_its_own_words_and_the_status_names_it() {
    let Some(old) = Codex::for_test(Version::Old) else { return };
    let Some(world) = World::real() else { return };
    let mut client = world.client("client");
    let thread = client.start_thread(json!({"cwd": world.home().project()}));
    assert_eq!(client.turn(&thread, "[[deltas:3]] before").status, "completed");
    Death::Stop.happens(&world);
    wait::until("the bridge knows", || client.stderr().contains("gets the next daemon"));
    // Somebody else starts the next one, with another codex.
    let world = world.with_codex(&old.native);
    let other = world.client("other");
    assert_eq!(client.turn(&thread, "[[deltas:3]] after").status, "completed");
    let error = client.try_request("thread/queue/list", json!({"threadId": thread})).unwrap_err();
    assert!(error.code == -32600 && error.message.contains("unknown variant"), "codex's own: {error:?}");
    let upstream = &world.run(&["ctl", "status", "--json"]).expect_code(0).json()["upstream"];
    assert_eq!(upstream["version"], Version::Old.number());
    assert_ne!(upstream["measuredVersion"], upstream["version"]);
    assert_eq!((client.finish(), other.finish()), (0, 0));
}
