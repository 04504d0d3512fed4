//! A thread that was opened and never used survives a restart: an open, idle terminal interface goes on.

use std::path::Path;

use codexd_tests::wait;
use serde_json::json;

use crate::world::World;

/// Returns whether codex has written the history of a thread.
pub(crate) fn is_kept(codex_home: &Path, thread: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(codex_home) else { return false };
    entries.flatten().any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => is_kept(&entry.path(), thread),
        _ => entry.file_name().to_string_lossy().ends_with(&format!("{thread}.jsonl")),
    })
}

fn goes_on(world: &World, thread: &str) {
    let mut client = world.client("second");
    client.request("thread/resume", json!({"threadId": thread}));
    assert_eq!(client.turn(thread, "hello").status, "completed");
    assert_eq!(client.finish(), 0);
}

#[test]
fn a_thread_that_never_ran_survives_a_planned_stop() {
    let Some(world) = World::real() else { return };
    let mut client = world.client("first");
    let thread = client.start_thread(json!({"cwd": world.home().project()}));
    let _ = world.run(&["ctl", "stop"]).expect_code(0);
    assert_eq!(client.finish(), 0);
    goes_on(&world, &thread);
}

#[test]
fn a_thread_that_stays_open_survives_every_death() {
    let Some(world) = World::real() else { return };
    let mut client = world.client("first");
    let thread = client.start_thread(json!({"cwd": world.home().project()}));
    wait::until("codex keeps the thread", || is_kept(&world.home().codex_home(), &thread));
    let listed = client.request("thread/list", json!({}));
    assert_eq!(listed["data"], json!([]), "it is in no list");
    world.kill9();
    assert_eq!(client.finish(), 0);
    goes_on(&world, &thread);
}
