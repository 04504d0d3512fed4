//! A thread has the same permissions before and after a restart, whoever died: proved by what its commands can write.

use std::fs;
use std::path::{Path, PathBuf};

use codexd_tests::skip;
use serde_json::{Value, json};

use crate::world::{Bridge, World};

/// A policy that no `sandbox` of a resume can express, and of which codex keeps nothing (measured with 0.169).
fn policy() -> Value {
    json!({"type": "workspaceWrite", "writableRoots": [], "networkAccess": false,
           "excludeTmpdirEnvVar": true, "excludeSlashTmp": true})
}

/// Runs a command that writes a file in the project and one outside of it; returns whether it could.
fn writes(client: &mut Bridge, world: &World, thread: &str, name: &str, more: Value) -> (bool, bool) {
    let files = [world.home().project().join(name), outside(world).join(name)];
    let [inside, outside] = files.each_ref().map(|path| path.display());
    let prompt = format!("[[shell:echo x > {inside}; echo x > {outside}]] {name}");
    let mut params = json!({"threadId": thread, "input": [{"type": "text", "text": prompt}]});
    for (key, value) in more.as_object().into_iter().flatten() {
        params[key] = value.clone();
    }
    let turn = client.request("turn/start", params)["turn"]["id"].as_str().unwrap().to_owned();
    assert_eq!(client.finish_turn(thread, &turn).status, "completed");
    let [inside, outside] = files.each_ref().map(|path| path.exists());
    (inside, outside)
}

/// A directory beside the project.
fn outside(world: &World) -> PathBuf {
    let path = world.home().root().join("outside");
    fs::create_dir_all(&path).unwrap();
    path
}

/// A world, and a thread with that policy; `None` where codex or its sandbox cannot be had.
fn world() -> Option<(World, String)> {
    let world = World::real()?;
    let mut client = world.client("first");
    let params =
        json!({"cwd": world.home().project(), "approvalPolicy": "never", "sandbox": "workspace-write"});
    let thread = client.start_thread(params);
    let wrote = writes(&mut client, &world, &thread, "before", json!({"sandboxPolicy": policy()}));
    if wrote != (true, false) {
        skip::say(&format!("the sandbox of codex does not work here: {wrote:?}"));
        return None;
    }
    assert_eq!(client.finish(), 0);
    Some((world, thread))
}

fn stop(world: &World) {
    let _ = world.run(&["ctl", "stop"]).expect_code(0);
}

fn resume(client: &mut Bridge, thread: &str) -> Value {
    client.request("thread/resume", json!({"threadId": thread, "sandbox": null, "approvalPolicy": null}))
}

#[test]
fn a_restart_does_not_change_what_a_thread_is_permitted_to_do() {
    let Some((world, thread)) = world() else { return };
    let deaths: [(&str, &dyn Fn()); 3] = [
        ("codex-killed", &|| world.kill9_codex()),
        ("codexd-killed", &|| world.kill9()),
        ("stopped", &|| stop(&world)),
    ];
    for (name, die) in deaths {
        let daemon = world.daemon();
        die();
        codexd_tests::process::wait_dead(daemon);
        let mut client = world.client(name);
        let resumed = resume(&mut client, &thread);
        // As far as a resume can express it.
        assert_eq!(resumed["sandbox"]["type"], "workspaceWrite", "{name}: {resumed}");
        assert_eq!(writes(&mut client, &world, &thread, name, json!({})), (true, false), "{name}");
        assert_eq!(resume(&mut client, &thread)["sandbox"], policy(), "{name}");
        assert_eq!(client.finish(), 0);
    }
}

#[test]
fn a_resume_by_path_does_not_change_what_a_thread_is_permitted_to_do() {
    let Some((world, thread)) = world() else { return };
    let mut client = world.client("second");
    let path = resume(&mut client, &thread)["thread"]["path"].as_str().unwrap().to_owned();
    assert!(path.ends_with(&format!("-{thread}.jsonl")), "codex names the file after the thread: {path}");
    assert_eq!(client.finish(), 0);
    stop(&world);
    let mut client = world.client("third");
    // Codex ignores the id.
    let resumed = client.request("thread/resume", json!({"threadId": "", "path": path}));
    assert_eq!(resumed["thread"]["id"], thread.as_str());
    assert_eq!(writes(&mut client, &world, &thread, "by-path", json!({})), (true, false));
    assert_eq!(resume(&mut client, &thread)["sandbox"], policy());
    assert_eq!(client.finish(), 0);
    // With a history it makes a new thread, which has the permissions of the configuration.
    stop(&world);
    let mut client = world.client("fourth");
    let content = json!([{"type": "input_text", "text": "hello"}]);
    let history = json!([{"type": "message", "role": "user", "content": content}]);
    let resumed = client.request("thread/resume", json!({"threadId": thread, "history": history}));
    assert_ne!(resumed["thread"]["id"], thread.as_str());
    assert_eq!(resumed["sandbox"]["type"], "dangerFullAccess");
    assert_eq!(client.finish(), 0);
}

#[test]
fn a_thread_whose_permissions_cannot_be_restored_refuses_work_until_it_is_given_others() {
    let Some((world, thread)) = world() else { return };
    stop(&world);
    // A policy of another version of codex, as after a change to an older one.
    let path = book(&world);
    let text = fs::read_to_string(&path).unwrap();
    let newer = text.replace(r#""type":"workspaceWrite""#, r#""type":"newerThanCodex""#);
    assert_ne!(newer, text);
    fs::write(&path, newer).unwrap();
    let mut client = world.client("second");
    assert_eq!(resume(&mut client, &thread)["sandbox"]["type"], "dangerFullAccess");
    let input = json!([{"type": "text", "text": "[[shell:echo x > made.txt]] go"}]);
    let turn = json!({"threadId": thread, "input": input});
    let error = client.try_request("turn/start", turn).expect_err("it is not done with other permissions");
    assert_eq!(error.code, -32600);
    assert_eq!(error.data["codexd"]["reason"], "permissionsNotRestored");
    assert_eq!(error.data["codexd"]["delivered"], "no");
    for part in ["could not be restored (", "newerThanCodex", "thread/settings/update"] {
        assert!(error.message.contains(part), "no `{part}` in {}", error.message);
    }
    assert!(!world.home().project().join("made.txt").exists());
    // What it says is to be done.
    client.request("thread/settings/update", json!({"threadId": thread, "sandboxPolicy": policy()}));
    assert_eq!(writes(&mut client, &world, &thread, "given", json!({})), (true, false));
    assert_eq!(client.finish(), 0);
}

#[test]
fn codex_alone_widens_the_sandbox_of_a_thread_that_is_resumed() {
    // The reason for all of this: when it fails, codex keeps the policy, and the thread book can go.
    let Some((world, thread)) = world() else { return };
    stop(&world);
    let book = book(&world);
    check_book(&book, &thread);
    fs::remove_file(&book).unwrap();
    let mut client = world.client("second");
    assert_eq!(resume(&mut client, &thread)["sandbox"]["type"], "dangerFullAccess");
    assert_eq!(client.finish(), 0);
}

/// Returns the path of the thread book.
fn book(world: &World) -> PathBuf {
    let files =
        fs::read_dir(world.home().state().join("codexd")).unwrap().flatten().map(|entry| entry.path());
    let books: Vec<_> = files.filter(|path| path.extension().is_some_and(|it| it == "jsonl")).collect();
    assert_eq!(books.len(), 1, "{books:?}");
    books[0].clone()
}

fn check_book(path: &Path, thread: &str) {
    let text = fs::read_to_string(path).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let permissions = json!({"sandboxPolicy": policy(), "approvalPolicy": "never", "profile": null});
    assert_eq!(last, json!({"threadId": thread, "permissions": permissions}));
    assert!(!text.contains("echo x"), "no prompt is kept: {text}");
}

#[test]
fn what_a_client_asks_for_at_the_resume_counts() {
    let Some((world, thread)) = world() else { return };
    stop(&world);
    let mut client = world.client("second");
    let params = json!({"threadId": thread, "sandbox": "danger-full-access"});
    assert_eq!(client.request("thread/resume", params)["sandbox"]["type"], "dangerFullAccess");
    assert_eq!(writes(&mut client, &world, &thread, "asked", json!({})), (true, true));
    assert_eq!(client.finish(), 0);
    // And that is what it has from now on.
    stop(&world);
    let mut client = world.client("third");
    assert_eq!(resume(&mut client, &thread)["sandbox"]["type"], "dangerFullAccess");
    assert_eq!(client.finish(), 0);
}
