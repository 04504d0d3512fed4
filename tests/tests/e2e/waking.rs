//! Goals, queues and the `config` of threads at the next daemon, through `codexd connect`, with the real codex.

use codexd_tests::client::Message;
use codexd_tests::codex::{Codex, Version};
use codexd_tests::place;
use codexd_tests::wait;
use serde_json::{Value, json};

use crate::going_on::{DEATHS, Death};
use crate::world::{Bridge, World};

const RESTARTED: &str = "notifications/broker/upstreamRestarted";

fn project_thread(client: &mut Bridge, world: &World) -> String {
    client.start_thread(json!({"cwd": world.home().project()}))
}

/// A turn of this thread begins at the next daemon before the client says anything; returns its id.
fn begins_by_itself(client: &mut Bridge, thread: &str) -> String {
    client.take_method(RESTARTED);
    let started = client.take("a turn", |message| {
        message.method() == Some("turn/started") && message["params"]["threadId"] == thread
    });
    started["params"]["turn"]["id"].as_str().unwrap().to_owned()
}

fn with_goal(world: &World) -> (Bridge, String) {
    let mut client = world.client("client");
    let thread = project_thread(&mut client, world);
    assert_eq!(client.turn(&thread, "[[deltas:2]] first").status, "completed");
    let params = json!({"threadId": thread, "objective": "[[deltas:5:50]] for ever", "status": "active"});
    client.request("thread/goal/set", params);
    client.take_method("turn/started");
    (client, thread)
}

fn clear_goal(client: &mut Bridge, thread: &str, turn: &str) {
    client.request("thread/goal/clear", json!({"threadId": thread}));
    client.finish_turn(thread, turn);
}

#[test]
fn an_active_goal_runs_on_at_the_next_daemon_although_nobody_asks_for_its_thread() {
    for death in [Death::Codex, Death::Codexd] {
        let Some(world) = World::real() else { return };
        let (mut client, thread) = with_goal(&world);
        death.happens(&world);
        let turn = begins_by_itself(&mut client, &thread);
        assert_eq!(world.status("generation").as_deref(), Some("2"));
        clear_goal(&mut client, &thread, &turn);
        assert_eq!(client.finish(), 0);
    }
}

#[test]
fn an_active_goal_runs_on_after_an_upgrade() {
    let Some(world) = World::real() else { return };
    let Some(codex) = Codex::for_test(Version::Current) else { return };
    let program = world.home().root().join("codex.sh");
    let install = |version| {
        place::write(
            &program,
            &format!("#!/bin/sh\n# {version}\nexec '{}' \"$@\"\n", codex.native.display()),
        );
    };
    install("one");
    let world = world.with_codex(&program);
    let (mut client, thread) = with_goal(&world);
    install("two");
    let upgraded = world.run(&["ctl", "upgrade"]).expect_code(0);
    assert!(upgraded.stdout.starts_with("upgraded: "), "{upgraded}");
    let turn = begins_by_itself(&mut client, &thread);
    assert_eq!(world.status("generation").as_deref(), Some("2"));
    clear_goal(&mut client, &thread, &turn);
    assert_eq!(client.finish(), 0);
}

#[test]
fn a_queued_prompt_runs_once_at_the_next_daemon_whoever_ended() {
    const WAITING: &str = "the one that waited";
    for death in DEATHS {
        let Some(world) = World::real() else { return };
        // Only a client of the experimental interface can queue a prompt.
        let mut client = world.client("client");
        let thread = project_thread(&mut client, &world);
        let first = client.start_turn(&thread, "[[hang]] the first");
        world.model().wait_for_prompt("the first");
        let input = json!([{"type": "text", "text": WAITING, "text_elements": []}]);
        let params = json!({"threadId": thread, "input": input, "clientUserMessageId": "waits"});
        client.request("thread/queue/add", params);
        death.happens(&world);
        client.finish_turn(&thread, &first);
        if death == Death::Stop {
            // Somebody has stopped it: the bridge starts nothing before its client says something.
            client.request("thread/list", json!({}));
        }
        let turn = begins_by_itself(&mut client, &thread);
        assert_eq!(client.finish_turn(&thread, &turn).status, "completed", "{death:?}");
        let queue = client.request("thread/queue/list", json!({"threadId": thread}));
        assert_eq!(queue["data"], json!([]), "{death:?}");
        assert_eq!(client.turn(&thread, "[[deltas:2]] next").status, "completed");
        let asked = world.model().requests().iter().filter(|it| it.prompt().contains(WAITING)).count();
        assert_eq!(asked, 1, "{death:?}");
        assert_eq!(client.finish(), 0);
    }
}

#[test]
fn a_turn_that_its_client_interrupts_leaves_the_queue_alone() {
    let Some(world) = World::real() else { return };
    let mut client = world.client("client");
    let thread = project_thread(&mut client, &world);
    let first = client.start_turn(&thread, "[[hang]] the first");
    world.model().wait_for_prompt("the first");
    let input = json!([{"type": "text", "text": "not now", "text_elements": []}]);
    let params = json!({"threadId": thread, "input": input, "clientUserMessageId": "waits"});
    client.request("thread/queue/add", params);
    client.request("turn/interrupt", json!({"threadId": thread, "turnId": first}));
    assert_eq!(client.finish_turn(&thread, &first).status, "interrupted");
    Death::Codexd.happens(&world);
    client.request("thread/name/set", json!({"threadId": thread, "name": "resumes it"}));
    let queue = client.request("thread/queue/list", json!({"threadId": thread}));
    assert_eq!(queue["data"].as_array().unwrap().len(), 1);
    assert_eq!(client.finish(), 0);
}

/// Whether the model was offered to search the web in its last request.
fn offers_search(world: &World) -> bool {
    let last = world.model().requests().last().unwrap().body.clone();
    last["tools"].as_array().unwrap().iter().any(|tool| tool["type"] == "web_search")
}

#[test]
fn a_thread_keeps_its_config_at_the_next_daemon() {
    let Some(world) = World::real() else { return };
    for death in DEATHS {
        let mut client = world.client("client");
        let config = json!({"web_search": "disabled"});
        let params = json!({"cwd": world.home().project(), "config": config});
        let thread = client.start_thread(params);
        assert_eq!(client.turn(&thread, "[[deltas:2]] first").status, "completed");
        assert!(!offers_search(&world));
        death.happens(&world);
        assert_eq!(client.turn(&thread, "[[deltas:2]] again").status, "completed");
        assert!(!offers_search(&world), "{death:?}");
        // What it says itself counts.
        death.happens(&world);
        client.request("thread/resume", json!({"threadId": thread, "config": {"web_search": "live"}}));
        assert_eq!(client.turn(&thread, "[[deltas:2]] once more").status, "completed");
        assert!(offers_search(&world), "{death:?}");
        // It is written nowhere.
        let files = std::fs::read_dir(world.home().state().join("codexd")).unwrap().flatten();
        for file in files.filter(|file| file.file_type().unwrap().is_file()) {
            let text = String::from_utf8_lossy(&std::fs::read(file.path()).unwrap()).into_owned();
            assert!(!text.contains("web_search"), "{}", file.path().display());
        }
        assert_eq!(client.finish(), 0);
        let _ = world.run(&["ctl", "stop"]).expect_code(0);
    }
}

#[test]
fn codex_alone_keeps_no_config_and_takes_no_raw_events_at_a_resume() {
    // Why `connect` gives the one again, and does not give the other: when this fails, codex has changed.
    let Some(world) = World::real() else { return };
    let mut client = world.client("first");
    let config = json!({"web_search": "disabled"});
    let params = json!({"cwd": world.home().project(), "config": config, "experimentalRawEvents": true});
    let thread = client.start_thread(params);
    let turn = client.start_turn(&thread, "[[deltas:2]] first");
    let is_raw = |message: &Message| message.method().is_some_and(|it| it.starts_with("rawResponse"));
    assert!(client.finish_turn(&thread, &turn).seen.iter().any(is_raw));
    assert!(!offers_search(&world));
    assert_eq!(client.finish(), 0);
    let _ = world.run(&["ctl", "stop"]).expect_code(0);
    let mut client = world.client("second");
    client.request("thread/resume", json!({"threadId": thread, "experimentalRawEvents": true}));
    let turn = client.start_turn(&thread, "[[deltas:2]] again");
    let seen: Vec<Value> = client
        .finish_turn(&thread, &turn)
        .seen
        .iter()
        .filter(|it| is_raw(it))
        .map(|it| it["params"].clone())
        .collect();
    assert_eq!(seen, [] as [Value; 0]);
    assert!(offers_search(&world));
    wait::until("the turn is over", || world.status("openTurns").as_deref() == Some("0"));
    assert_eq!(client.finish(), 0);
}
