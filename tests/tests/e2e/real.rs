//! The main job on the real codex with a scripted model.

use std::collections::BTreeSet;

use codexd_proto::routes::MEASURED_VERSION;
use codexd_tests::client::{Message, TestClient, Turn};
use codexd_tests::codex::{Codex, Version};
use codexd_tests::daemon::{Builder, TestDaemon};
use codexd_tests::wait;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{
    SHUTDOWN_NOTICE, Unresolved, expect_end, expect_resolved, handled, status, with_method,
};

fn real() -> Option<Builder> {
    TestDaemon::real(Version::Current)
}

fn start_thread(client: &mut TestClient, daemon: &TestDaemon) -> String {
    client.start_thread(json!({"cwd": daemon.home().project()}))
}

fn tokens(count: usize, echo: &str) -> Vec<String> {
    (0..count).map(|index| format!("tok{index} ")).chain([format!("| echo: {echo}")]).collect()
}

#[test]
fn a_change_is_shown_from_the_project_on() {
    let Some(builder) = real() else { return };
    let daemon = builder.codex_config(|config| config.model = "gpt-5.5".to_owned()).ready();
    let mut client = daemon.client("one");
    client.answer_approvals("accept");
    let thread = start_thread(&mut client, &daemon);
    let turn = client.turn(&thread, "[[write:made.txt:a line]] go");
    let diffs = with_method(&turn.seen, "turn/diff/updated");
    let diff = diffs.last().unwrap()["params"]["diff"].as_str().unwrap();
    assert!(diff.starts_with("diff --git a/made.txt b/made.txt\n"), "{diff}");
}

/// Returns whether a message is about what happens in another thread than `own`.
fn is_strange(message: &Value, own: &str) -> bool {
    let method = message["method"].as_str().unwrap_or_default();
    let inner = ["item/", "turn/", "error", "thread/tokenUsage"].iter().any(|it| method.starts_with(it));
    inner && message["params"]["threadId"] != own
}

#[test]
fn eight_clients_stream_at_once_and_each_sees_its_own_turn_only() {
    let Some(builder) = real() else { return };
    let daemon = builder.ready();
    let mut clients: Vec<TestClient> = (0..8).map(|n| daemon.client(&format!("client-{n}"))).collect();
    let threads: Vec<String> = clients.iter_mut().map(|client| start_thread(client, &daemon)).collect();
    let requests: Vec<i64> = clients
        .iter_mut()
        .zip(&threads)
        .enumerate()
        .map(|(n, (client, thread))| {
            let input = json!([{"type": "text", "text": format!("[[deltas:40:40]]of {n}")}]);
            client.send_request("turn/start", json!({"threadId": thread, "input": input}))
        })
        .collect();
    wait::until("all turns run at once", || status(&daemon)["openTurns"] == 8);
    for (n, client) in clients.iter_mut().enumerate() {
        let started = client.response(requests[n]).unwrap();
        let id = started["turn"]["id"].as_str().unwrap().to_owned();
        let turn = client.finish_turn(&threads[n], &id);
        assert_eq!(turn.status, "completed");
        assert_eq!(turn.deltas, tokens(40, &format!("of {n}")));
        let rest = client.recv_to_barrier();
        let strange: Vec<_> = rest.iter().filter(|message| is_strange(message, &threads[n])).collect();
        assert!(strange.is_empty(), "client {n} received {strange:?}");
    }
    let now = status(&daemon);
    assert_eq!((&now["openTurns"], &now["counters"]["turnsCompleted"]), (&json!(0), &json!(8)));
    assert_eq!(now["counters"]["clientsTooSlow"], 0);
}

#[test]
fn twenty_clients_one_after_another_run_a_turn_each() {
    let Some(builder) = real() else { return };
    let mut daemon = builder.ready();
    let upstream = daemon.upstream_pid();
    for n in 0..20 {
        let mut client = daemon.client(&format!("client-{n}"));
        let thread = start_thread(&mut client, &daemon);
        let turn = client.turn(&thread, &format!("[[deltas:3]]number {n}"));
        assert_eq!((turn.status.as_str(), turn.deltas), ("completed", tokens(3, &format!("number {n}"))));
    }
    assert_eq!(daemon.upstream_pid(), upstream, "one codex for all of them");
    assert_eq!(daemon.model().requests().len(), 20);
    assert_eq!(daemon.stop(), 0);
    expect_end(&mut daemon, 0);
}

#[test]
fn an_approval_is_answered_by_its_client() {
    let Some(builder) = real() else { return };
    let daemon = builder.ready();
    let mut other = daemon.client("other");
    let mut client = daemon.client("one");
    client.answer_approvals("accept");
    let project = daemon.home().project();
    let thread = client.start_thread(json!({"cwd": project, "approvalPolicy": "untrusted"}));
    let turn = client.turn(&thread, "[[shell:echo yes > made.txt]] go");
    assert_eq!(turn.status, "completed");
    assert!(turn.methods().contains(&"item/commandExecution/requestApproval"), "{:?}", turn.methods());
    assert_eq!(turn.methods().iter().filter(|it| **it == "serverRequest/resolved").count(), 1);
    assert_eq!(std::fs::read_to_string(project.join("made.txt")).unwrap(), "yes\n");
    assert!(!other.recv_to_barrier().iter().any(|message| message.is_server_request()));

    client.answer_approvals("decline");
    let turn = client.turn(&thread, "[[shell:echo no > not.txt]] go");
    assert_eq!(turn.status, "completed");
    assert!(!project.join("not.txt").exists());
}

#[test]
fn an_interrupted_turn_ends_and_its_thread_goes_on() {
    let Some(builder) = real() else { return };
    let daemon = builder.ready();
    let mut client = daemon.client("one");
    let thread = start_thread(&mut client, &daemon);
    let turn = client.start_turn(&thread, "[[hang]] for ever");
    daemon.model().wait_for_prompt("for ever");
    client.request("turn/interrupt", json!({"threadId": thread, "turnId": turn}));
    assert_eq!(client.finish_turn(&thread, &turn).status, "interrupted");
    assert_eq!(client.turn(&thread, "again").status, "completed");
}

#[test]
fn two_subscribers_see_the_same_turn() {
    let Some(builder) = real() else { return };
    let daemon = builder.ready();
    let mut one = daemon.client("one");
    let thread = start_thread(&mut one, &daemon);
    one.turn(&thread, "first");
    let mut two = daemon.client("two");
    two.request("thread/resume", json!({"threadId": thread}));
    // What follows a resume comes when it is ready, to both and to the requester.
    two.take_method("thread/tokenUsage/updated");
    for client in [&mut one, &mut two] {
        client.take_method("thread/goal/cleared");
        client.recv_to_barrier();
    }
    let id = one.start_turn(&thread, "[[deltas:40]]both");
    let (by_one, by_two) = (one.finish_turn(&thread, &id), two.finish_turn(&thread, &id));
    assert_eq!(by_one.deltas, tokens(40, "both"));
    let raw = |turn: &Turn| -> Vec<String> { turn.seen.iter().map(|it| it.raw.clone()).collect() };
    assert_eq!(raw(&by_one), raw(&by_two));
    // The second one leaves; the first does not notice.
    two.request("thread/unsubscribe", json!({"threadId": thread}));
    assert_eq!(one.turn(&thread, "alone").status, "completed");
    assert!(!two.recv_to_barrier().iter().any(|message| message.method() == Some("turn/completed")));
}

#[test]
fn bad_input_does_not_end_the_real_codex() {
    let Some(builder) = real() else { return };
    let mut daemon = builder.ready();
    let mut bad = daemon.client("bad");
    bad.send_bytes(b"{\n\xff\xfe\n[]\n{\"id\":null,\"method\":\"x\"}\n{\"id\":1.5,\"method\":\"x\"}\n")
        .unwrap();
    let errors = bad.recv_to_barrier().iter().filter(|message| !message["error"].is_null()).count();
    assert_eq!(errors, 5);
    let error = bad.try_request("no/such", json!({})).unwrap_err();
    assert!(error.message.starts_with("Invalid request: unknown variant `no/such`"), "{}", error.message);
    let thread = start_thread(&mut bad, &daemon);
    assert_eq!(bad.turn(&thread, "still here").status, "completed");
    assert_eq!(daemon.stop(), 0);
}

/// Kills codex while it streams a turn and requests are pending.
fn killed_in_a_turn(builder: Builder) {
    let mut daemon = builder.ready();
    let mut other = daemon.client("other");
    let mut client = daemon.client("one");
    let thread = start_thread(&mut client, &daemon);
    let turn = client.start_turn(&thread, "[[deltas:1000:20]] long");
    client.take_method("item/agentMessage/delta");
    // Requests from now on are pending.
    daemon.signal_upstream(Signal::SIGSTOP);
    let requests: Vec<i64> = (0..3).map(|_| client.send_request("model/list", json!({}))).collect();
    let asked = other.send_request("thread/list", json!({}));
    handled(&mut client);
    handled(&mut other);
    daemon.signal_upstream(Signal::SIGKILL);
    let unresolved =
        Unresolved { turns: &[&turn], turn_status: "failed", requests: &requests, reason: "upstreamLost" };
    expect_resolved(&mut client, &unresolved);
    let unresolved = Unresolved { turns: &[], turn_status: "", requests: &[asked], reason: "upstreamLost" };
    expect_resolved(&mut other, &unresolved);
    expect_end(&mut daemon, 1);
    assert_eq!(status(&daemon)["lastExit"]["upstream"], "was killed by signal 9 (SIGKILL)");
}

#[test]
fn a_killed_codex_leaves_no_client_waiting() {
    if let Some(builder) = real() {
        killed_in_a_turn(builder);
    }
}

#[test]
fn a_killed_codex_behind_the_npm_wrapper_leaves_no_client_waiting() {
    if let Some(builder) = real() {
        killed_in_a_turn(builder.npm_wrapper());
    }
}

/// Returns the names of all members in a value, with their path.
fn members(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    for (name, inner) in value.as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        members(inner, &path, found);
        found.insert(path);
    }
}

/// Returns what clients act on when a turn has failed, in order: methods, members and words of its last messages.
fn failure(turn: &Turn) -> Vec<(String, BTreeSet<String>, Vec<Value>)> {
    let failed = |message: &Message| message["params"]["status"]["type"] == "systemError";
    let start = turn.seen.iter().position(failed).expect("the thread is said to have failed");
    // The revision of what was read is codex's own.
    let frames = turn.seen[start..].iter().filter(|it| it.method() != Some("thread/readState/changed"));
    frames
        .map(|message| {
            let params = &message["params"];
            let mut found = BTreeSet::new();
            members(params, "", &mut found);
            found.retain(|path| !path.contains(".codexd"));
            let words = [&params["status"], &params["turn"]["status"], &params["willRetry"]];
            let infos = [&params["error"]["codexErrorInfo"], &params["turn"]["error"]["codexErrorInfo"]];
            let words = words.into_iter().chain(infos).cloned().collect();
            (message.method().unwrap().to_owned(), found, words)
        })
        .collect()
}

#[test]
fn a_turn_lost_with_codex_fails_as_codexs_own_turns_do() {
    let Some(builder) = real() else { return };
    let daemon = builder.ready();
    let mut client = daemon.client("one");
    let thread = start_thread(&mut client, &daemon);
    let native = client.turn(&thread, "[[http:400]] refused");
    assert_eq!(native.status, "failed");
    let lost = client.start_turn(&thread, "[[hang]] for ever");
    daemon.model().wait_for_prompt("for ever");
    client.take_method("turn/started");
    daemon.signal_upstream(Signal::SIGKILL);
    let lost = client.finish_turn(&thread, &lost);
    assert_eq!(failure(&lost), failure(&native));
    let [.., status, error, end] = &lost.seen[..] else { panic!("{:#?}", lost.seen) };
    for message in [status, error, end] {
        assert_eq!(message["params"]["codexd"]["synthetic"], true, "{}", message.raw);
    }
    let reason = "codex app-server was killed by signal 9 (SIGKILL)";
    assert_eq!(error["params"]["error"]["message"], reason);
    assert_eq!(lost.error["message"], reason);
}

fn stopped_idle(builder: Builder) {
    let mut daemon = builder.ready();
    let mut client = daemon.client("one");
    daemon.term();
    assert!(!with_method(&client.recv_to_end(), SHUTDOWN_NOTICE).is_empty());
    expect_end(&mut daemon, 0);
    let exit = &status(&daemon)["lastExit"];
    assert_eq!((&exit["code"], &exit["upstream"]), (&json!(0), &json!("exited with code 0")));
}

#[test]
fn an_idle_daemon_on_the_real_codex_stops() {
    if let Some(builder) = real() {
        stopped_idle(builder);
    }
}

#[test]
fn an_idle_daemon_behind_the_npm_wrapper_stops() {
    if let Some(builder) = real() {
        stopped_idle(builder.npm_wrapper());
    }
}

#[test]
fn a_stop_lets_a_running_turn_finish() {
    let Some(builder) = real() else { return };
    let mut daemon = builder.ready();
    let mut client = daemon.client("one");
    let thread = start_thread(&mut client, &daemon);
    let turn = client.start_turn(&thread, "[[deltas:20:20]]drained");
    daemon.model().wait_for_prompt("drained");
    daemon.term();
    let turn = client.finish_turn(&thread, &turn);
    assert_eq!((turn.status.as_str(), turn.deltas), ("completed", tokens(20, "drained")));
    assert!(turn.seen.last().unwrap()["params"]["codexd"].is_null(), "codex itself has ended it");
    client.recv_to_end();
    expect_end(&mut daemon, 0);
}

#[test]
fn the_npm_wrapper_is_resolved_to_the_native_program() {
    let Some(builder) = real() else { return };
    let codex = Codex::for_test(Version::Current).unwrap();
    let daemon = builder.npm_wrapper().ready();
    let now = status(&daemon);
    let native = codex.native.canonicalize().unwrap();
    assert_eq!(now["upstream"]["executable"], native.display().to_string());
    assert_eq!(now["upstream"]["requested"], codex.wrapper.display().to_string());
    assert_eq!(now["upstream"]["version"], Version::Current.number());
    let screen = daemon.ctl(&["status"]).stdout;
    assert!(screen.contains(&native.display().to_string()), "{screen}");
    assert!(screen.contains(&format!("asked for as {}", codex.wrapper.display())), "{screen}");
    assert!(!daemon.processes().iter().any(|it| it.command.contains("node ")), "no process of Node");
}

#[test]
fn the_old_codex_is_served_too() {
    let Some(builder) = TestDaemon::real(Version::Old) else { return };
    let mut daemon = builder.ready();
    let mut client = daemon.client("one");
    let thread = start_thread(&mut client, &daemon);
    let turn = client.turn(&thread, "[[deltas:5]]old");
    assert_eq!((turn.status.as_str(), turn.deltas), ("completed", tokens(5, "old")));
    let screen = daemon.ctl(&["status"]).expect_code(0).stdout;
    let line = format!("codex {} (methods known as of {MEASURED_VERSION})", Version::Old.number());
    assert!(screen.contains(&line), "{screen}");
    // What it had and the current one has not.
    let unknown =
        "methods unknown to codexd, passed on as they are: thread/rollback, thread/turns/items/list";
    assert!(screen.contains(unknown), "{screen}");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn every_method_of_the_pinned_codex_is_in_the_routing_table() {
    let Some(builder) = TestDaemon::real(Version::Current) else { return };
    let mut daemon = builder.ready();
    // Answered after the request for the methods, which is sent first of all.
    daemon.client("one").request("model/list", json!({}));
    let upstream = daemon.ctl(&["status", "--json"]).expect_code(0).json()["upstream"].clone();
    assert_eq!(upstream["version"], MEASURED_VERSION);
    assert_eq!(upstream["measuredVersion"], MEASURED_VERSION);
    assert_eq!(upstream["unknownMethods"], json!([]));
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_flood_of_long_requests_loses_none_of_them() {
    let Some(builder) = real() else { return };
    let daemon = builder.ready();
    let mut client = daemon.client("flood");
    let ids: Vec<i64> = (0..600)
        .map(|n| client.send_request("command/exec", json!({"command": ["echo", n.to_string()]})))
        .collect();
    for (n, id) in ids.into_iter().enumerate() {
        let result = client.response(id).unwrap();
        assert_eq!(result["stdout"], format!("{n}\n"));
    }
    let now = status(&daemon);
    assert_eq!((&now["queuedRequests"], &now["inFlight"]), (&json!(0), &json!(0)));
}
