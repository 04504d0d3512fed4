//! From one version of the real codex to the other, over `codexd connect`: one end for each turn, the next prompt answered
//! in the same conversation, with the same permissions.

use super::{Message, World, begin, process, wait_until_it_waits};

use std::os::unix::fs::symlink;
use std::path::Path;

use codexd_tests::codex::{Codex, Version};
use codexd_tests::home::CodexConfig;
use codexd_tests::model::MockModel;
use serde_json::{Value, json};

use crate::world::Bridge;

/// What runs when the upgrade is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runs {
    Nothing,
    Stream,
    Command,
    Approval,
}

fn policy() -> Value {
    json!({"type": "workspaceWrite", "writableRoots": [], "networkAccess": false,
           "excludeTmpdirEnvVar": true, "excludeSlashTmp": true})
}

fn lead_to(link: &Path, codex: &Codex) {
    let fresh = link.with_extension("new");
    symlink(&codex.native, &fresh).unwrap();
    std::fs::rename(&fresh, link).unwrap();
}

fn begin_turn(client: &mut Bridge, thread: &str, prompt: &str) -> String {
    let input = json!([{"type": "text", "text": prompt}]);
    let params = json!({"threadId": thread, "input": input, "sandboxPolicy": policy()});
    client.request("turn/start", params)["turn"]["id"].as_str().unwrap().to_owned()
}

/// How often the end of a turn is among these.
fn ends(seen: &[Message], turn: &str) -> usize {
    let is_it = |it: &&Message| it.method() == Some("turn/completed") && it["params"]["turn"]["id"] == turn;
    seen.iter().filter(is_it).count()
}

fn changes(from: Version, to: Version, runs: Runs) {
    let (Some(old), Some(new)) = (Codex::for_test(from), Codex::for_test(to)) else { return };
    let model = MockModel::start().unwrap();
    let world = World::fake("");
    let link = world.home().root().join("codex-link");
    lead_to(&link, &old);
    let world = world.with_codex(&link);
    world.home().write_codex_config(&model.base_url(), &CodexConfig::default()).unwrap();
    let mut client = world.client("client");
    let asked = if runs == Runs::Approval { "untrusted" } else { "never" };
    let params =
        json!({"cwd": world.home().project(), "approvalPolicy": asked, "sandbox": "workspace-write"});
    let thread = client.start_thread(params);
    let first = begin_turn(&mut client, &thread, "[[deltas:3]] prompt-1");
    assert_eq!(client.finish_turn(&thread, &first).status, "completed");
    assert_eq!(world.status("upstream.version").as_deref(), Some(from.number()));
    let daemon = world.daemon();
    let prompt = match runs {
        Runs::Nothing => None,
        Runs::Stream => Some("[[deltas:60:50]] prompt-2"),
        Runs::Command => Some("[[shell:sleep 3]] prompt-2"),
        Runs::Approval => Some("[[shell:echo yes > made.txt]] prompt-2"),
    };
    let running = prompt.map(|prompt| {
        let turn = begin_turn(&mut client, &thread, prompt);
        let item = |kind: &'static str| {
            move |it: &Message| it.method() == Some("item/started") && it["params"]["item"]["type"] == kind
        };
        let approval = match runs {
            Runs::Stream => client.take("a delta", |it| it.method() == Some("item/agentMessage/delta")),
            Runs::Command => client.take("the command", item("commandExecution")),
            _ => client.take("the approval", Message::is_server_request),
        };
        (turn, approval)
    });
    lead_to(&link, &new);
    let upgrade = begin(&world, &[]);
    let mut seen = Vec::new();
    if let Some((turn, approval)) = &running {
        if runs == Runs::Approval {
            wait_until_it_waits(&world);
            client.answer(approval, json!({"decision": "accept"}));
        }
        let end = client.finish_turn(&thread, turn);
        assert_eq!(end.status, "completed", "{:?}", end.methods());
        seen.extend(end.seen);
    }
    let result = upgrade.join().unwrap().expect_code(0).json();
    assert_eq!(
        (&result["from"]["codex"], &result["to"]["codex"]),
        (&json!(from.number()), &json!(to.number())),
        "{result}"
    );
    eprintln!("{from:?} to {to:?}, {runs:?}: no daemon for {} ms", result["pauseMs"]);
    process::wait_dead(daemon);
    assert_eq!((world.daemons().len(), world.record()["lastExit"]["code"].clone()), (1, json!(79)));
    seen.extend(client.recv_to_barrier());
    if let Some((turn, _)) = &running {
        assert_eq!(ends(&seen, turn), 1, "{seen:#?}");
    }
    if runs == Runs::Approval {
        assert!(world.home().project().join("made.txt").exists());
    }
    // The same thread: the model is told what was said before, and the sandbox is what it was.
    assert_eq!(client.turn(&thread, "[[deltas:3]] prompt-3").status, "completed", "{}", client.stderr());
    let told = format!("{:?}", model.requests().last().unwrap());
    assert!(told.contains("prompt-1") && told.contains("prompt-3"), "another conversation");
    assert_eq!(told.contains("prompt-2"), running.is_some(), "another conversation");
    let resumed = client.request("thread/resume", json!({"threadId": thread}));
    assert_eq!((&resumed["sandbox"], &resumed["approvalPolicy"]), (&policy(), &json!(asked)), "{resumed}");
    assert_eq!(client.finish(), 0);
    let _ = world.run(&["ctl", "stop"]).expect_code(0);
    process::assert_no_process_left(world.home().root());
}

#[test]
fn an_idle_thread_goes_on_in_the_next_version() {
    changes(Version::Old, Version::Current, Runs::Nothing);
}

#[test]
fn a_turn_that_streams_is_finished_by_the_version_that_began_it() {
    changes(Version::Old, Version::Current, Runs::Stream);
}

#[test]
fn a_command_that_runs_is_finished_by_the_version_that_began_it() {
    changes(Version::Old, Version::Current, Runs::Command);
}

#[test]
fn an_open_approval_is_answered_before_the_next_version_comes() {
    changes(Version::Old, Version::Current, Runs::Approval);
}

#[test]
fn the_way_back_to_the_old_version_is_the_same() {
    changes(Version::Current, Version::Old, Runs::Stream);
}
