//! The dialect of the companion script of the codex plugin for Claude Code (github.com/openai/codex-plugin-cc,
//! read and run at version 1.0.5): lines of JSON, one connection per job and another one to cancel it.
//!
//! No registry has the plugin. The script itself is run where `CODEXD_TEST_PLUGIN` names a checkout of it.

use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use codexd_tests::client::{Message, TestClient};
use codexd_tests::codex::{Codex, Version};
use codexd_tests::daemon::TestDaemon;
use codexd_tests::output::Output;
use codexd_tests::{environment, skip};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::others::KILLED;
use crate::support::{deltas, expect_end, with_method};

/// Connects as the script does: without the experimental API and without the deltas.
fn connect(daemon: &TestDaemon, name: &str) -> TestClient {
    let mut client = daemon.raw_client(name);
    introduce(&mut client);
    client
}

/// Introduces a client as the script does.
pub(crate) fn introduce(client: &mut TestClient) {
    client.request(
        "initialize",
        json!({
            "clientInfo": {"title": "Codex Plugin", "name": "Claude Code", "version": "1.0.5"},
            "capabilities": {
                "experimentalApi": false,
                "requestAttestation": false,
                "optOutNotificationMethods": [
                    "item/agentMessage/delta",
                    "item/reasoning/summaryTextDelta",
                    "item/reasoning/summaryPartAdded",
                    "item/reasoning/textDelta",
                ],
            },
        }),
    );
    client.notify("initialized", json!({}));
}

fn start_thread(client: &mut TestClient, daemon: &TestDaemon, approvals: &str) -> String {
    let thread = client.request(
        "thread/start",
        json!({"cwd": daemon.home().project(), "model": null, "approvalPolicy": approvals,
               "sandbox": "read-only", "serviceName": "claude_code_codex_plugin", "ephemeral": false}),
    );
    let thread = thread["thread"]["id"].as_str().unwrap().to_owned();
    client.request("thread/name/set", json!({"threadId": thread, "name": "Codex Companion Task: it"}));
    thread
}

fn start_turn(client: &mut TestClient, thread: &str, prompt: &str) -> String {
    let input = json!([{"type": "text", "text": prompt, "text_elements": []}]);
    let turn = client.request(
        "turn/start",
        json!({"threadId": thread, "input": input, "model": null, "effort": null, "outputSchema": null}),
    );
    turn["turn"]["id"].as_str().unwrap().to_owned()
}

/// Ends the connection as the script does, which then waits for the other side to end it, too.
#[track_caller]
fn close(mut client: TestClient) {
    client.finish_sending();
    client.recv_to_end();
}

/// Sends what ends the script's own broker, and returns the answer.
fn shut_down(daemon: &TestDaemon) -> Value {
    let mut client = daemon.raw_client("the end of a session");
    let answer = client.request("broker/shutdown", json!({}));
    close(client);
    answer
}

#[test]
fn the_plugin_runs_a_job_resumes_it_and_cancels_the_next_from_another_connection() {
    let Some(builder) = TestDaemon::real(Version::Current) else { return };
    let mut daemon = builder.ready();
    // It checks whether a process listens before anything else.
    close(daemon.raw_client("the look"));

    let mut job = connect(&daemon, "the job");
    job.request("account/read", json!({"refreshToken": false}));
    let thread = start_thread(&mut job, &daemon, "never");
    let turn = start_turn(&mut job, &thread, "[[deltas:5]]the task");
    let seen = job.recv_until(|it| it.method() == Some("turn/completed"));
    let end = &seen.last().unwrap()["params"];
    assert_eq!((&end["threadId"], &end["turn"]["id"]), (&json!(thread), &json!(turn)));
    assert_eq!(end["turn"]["status"], "completed");
    assert_eq!(deltas(&seen), [""; 0], "they were opted out");
    let items = with_method(&seen, "item/completed");
    let answer = items.iter().find(|it| it["params"]["item"]["type"] == "agentMessage").unwrap();
    let answer = answer["params"]["item"]["text"].as_str().unwrap().to_owned();
    assert!(answer.contains("the task"), "{answer}");
    close(job);

    let mut next = connect(&daemon, "the next job");
    next.request(
        "thread/resume",
        json!({"threadId": thread, "cwd": daemon.home().project(), "model": null,
               "approvalPolicy": "never", "sandbox": "read-only"}),
    );
    let turn = start_turn(&mut next, &thread, "[[deltas:100000:50]]for long");
    next.take_method("turn/started");
    // The end of another session is not the end of this one.
    assert_eq!(shut_down(&daemon), json!({}));
    let mut cancel = connect(&daemon, "the cancellation");
    cancel.request("turn/interrupt", json!({"threadId": thread, "turnId": turn}));
    close(cancel);
    let end = next.take_method("turn/completed");
    assert_eq!(end["params"]["turn"]["id"], turn);
    assert_eq!(end["params"]["turn"]["status"], "interrupted");
    close(next);

    assert_eq!(shut_down(&daemon), json!({}));
    assert_eq!(daemon.wait_exit().code(), Some(0), "nobody else was there");
}

/// What a job of the plugin has shown at its end.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    /// Its progress, as far as it is about errors and the end.
    progress: Vec<String>,
    /// Its result.
    result: String,
    exit_code: u8,
}

/// Runs a job to its end and returns what people see of it. As in the script, a reason is learnt from `error` alone,
/// and a turn is well only if it is `completed`.
#[track_caller]
fn shown(job: &mut TestClient) -> Shown {
    let seen = job.recv_until(|it| it.method() == Some("turn/completed"));
    let (mut progress, mut failure) = (Vec::new(), None);
    for message in &seen {
        let params = &message["params"];
        match message.method() {
            Some("error") => {
                failure = params["error"]["message"].as_str().map(str::to_owned);
                progress.push(format!("Codex error: {}", failure.as_deref().unwrap_or_default()));
            }
            Some("turn/completed") => {
                progress.push(format!("Turn {}.", params["turn"]["status"].as_str().unwrap()));
            }
            _ => {}
        }
    }
    let items = with_method(&seen, "item/completed");
    let said = |item: &&Message| item["params"]["item"]["type"] == "agentMessage";
    let answer = items.into_iter().rfind(said).and_then(|item| item["params"]["item"]["text"].as_str());
    let nothing = || "Codex did not return a final message.".to_owned();
    let exit_code = u8::from(seen.last().unwrap()["params"]["turn"]["status"] != "completed");
    Shown { progress, result: answer.map(str::to_owned).or(failure).unwrap_or_else(nothing), exit_code }
}

#[test]
fn two_jobs_of_the_plugin_run_at_once_on_one_codex() {
    let Some(builder) = TestDaemon::real(Version::Current) else { return };
    let mut daemon = builder.ready();
    let mut jobs = ["one", "two"].map(|name| connect(&daemon, name));
    for (job, name) in jobs.iter_mut().zip(["one", "two"]) {
        let thread = start_thread(job, &daemon, "never");
        start_turn(job, &thread, &format!("[[meet:both:2]][[deltas:1]] of {name}"));
    }
    for (mut job, name) in jobs.into_iter().zip(["one", "two"]) {
        let progress = vec!["Turn completed.".to_owned()];
        let result = format!("tok0 | echo:  of {name}");
        assert_eq!(shown(&mut job), Shown { progress, result, exit_code: 0 });
        close(job);
    }
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn the_plugin_shows_why_its_job_was_lost_with_codex() {
    let Some(builder) = TestDaemon::real(Version::Current) else { return };
    let mut daemon = builder.ready();
    let mut job = connect(&daemon, "the job");
    let thread = start_thread(&mut job, &daemon, "never");
    start_turn(&mut job, &thread, "[[hang]] for ever");
    daemon.model().wait_for_prompt("for ever");
    daemon.signal_upstream(Signal::SIGKILL);
    let progress = vec![format!("Codex error: {KILLED}"), "Turn failed.".to_owned()];
    assert_eq!(shown(&mut job), Shown { progress, result: KILLED.to_owned(), exit_code: 1 });
    expect_end(&mut daemon, 1);
}

/// Returns a task for the script itself of this checkout of the plugin; `codex` is in its `PATH`.
fn task(plugin: &OsStr, daemon: &TestDaemon, codex: &Codex, prompt: &str) -> Command {
    let directory = daemon.home().root().join("bin");
    if std::fs::create_dir(&directory).is_ok() {
        symlink(&codex.native, directory.join("codex")).unwrap();
    }
    let mut node = daemon.home().command(Path::new("node"));
    node.env("PATH", environment::path_after([directory]))
        .env("CODEX_COMPANION_APP_SERVER_ENDPOINT", format!("unix:{}", daemon.socket().display()))
        .env("CLAUDE_PLUGIN_DATA", daemon.home().state())
        .arg(Path::new(plugin).join("plugins/codex/scripts/codex-companion.mjs"))
        .args(["task", prompt]);
    node
}

#[test]
fn the_script_of_the_plugin_itself_shows_why_its_job_was_lost_with_codex() {
    let Some(plugin) = std::env::var_os("CODEXD_TEST_PLUGIN") else {
        return skip::say("CODEXD_TEST_PLUGIN names no checkout of github.com/openai/codex-plugin-cc");
    };
    let Some(codex) = Codex::for_test(Version::Current) else { return };
    let mut daemon = TestDaemon::real(Version::Current).unwrap().ready();
    let output = Output::of(&mut task(&plugin, &daemon, &codex, "[[deltas:1]] of the script")).expect_code(0);
    assert_eq!(output.stdout.trim(), "tok0 | echo:  of the script");
    let mut command = task(&plugin, &daemon, &codex, "[[hang]] for ever");
    let output = std::thread::scope(|scope| {
        let running = scope.spawn(move || Output::of(&mut command));
        daemon.model().wait_for_prompt("for ever");
        daemon.signal_upstream(Signal::SIGKILL);
        running.join().unwrap().expect_code(1)
    });
    assert_eq!(output.stdout.trim(), KILLED);
    let progress = format!("[codex] Codex error: {KILLED}\n[codex] Turn failed.\n");
    assert!(output.stderr.ends_with(&progress), "{output}");
    expect_end(&mut daemon, 1);
}

#[test]
fn a_server_request_that_the_plugin_refuses_to_answer_does_not_hang_its_turn() {
    let Some(builder) = TestDaemon::real(Version::Current) else { return };
    let mut daemon = builder.ready();
    let mut job = connect(&daemon, "the job");
    let thread = start_thread(&mut job, &daemon, "on-request");
    let command = "[[shell:echo it;;sandbox_permissions=\"require_escalated\"]] do it";
    start_turn(&mut job, &thread, command);
    let server_request = job.take("the server request", Message::is_server_request);
    let method = server_request.method().unwrap();
    assert_eq!(method, "item/commandExecution/requestApproval");
    job.send(&json!({"id": server_request["id"],
        "error": {"code": -32601, "message": format!("Unsupported server request: {method}")}}));
    let end = job.take_method("turn/completed");
    assert_ne!(end["params"]["turn"]["status"], "inProgress");
    close(job);
    assert_eq!(daemon.stop(), 0);
}
