//! The dialect of the companion script of the codex plugin for Claude Code (github.com/openai/codex-plugin-cc,
//! read and run at version 1.0.5): lines of JSON, one connection per job and another one to cancel it.

use codexd_tests::client::TestClient;
use codexd_tests::codex::Version;
use codexd_tests::daemon::TestDaemon;
use serde_json::{Value, json};

use crate::support::{deltas, with_method};

/// Connects as the script does: without the experimental API and without the deltas.
fn connect(daemon: &TestDaemon, name: &str) -> TestClient {
    let mut client = daemon.raw_client(name);
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
    client
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
    // It looks whether somebody listens before anything else.
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

#[test]
fn a_question_that_the_plugin_refuses_to_answer_does_not_hang_its_turn() {
    let Some(builder) = TestDaemon::real(Version::Current) else { return };
    let mut daemon = builder.ready();
    let mut job = connect(&daemon, "the job");
    let thread = start_thread(&mut job, &daemon, "on-request");
    let command = "[[shell:echo it;;sandbox_permissions=\"require_escalated\"]] do it";
    start_turn(&mut job, &thread, command);
    let question = job.take("the question", codexd_tests::client::Message::is_server_request);
    let method = question.method().unwrap();
    assert_eq!(method, "item/commandExecution/requestApproval");
    job.send(&json!({"id": question["id"],
        "error": {"code": -32601, "message": format!("Unsupported server request: {method}")}}));
    let end = job.take_method("turn/completed");
    assert_ne!(end["params"]["turn"]["status"], "inProgress");
    close(job);
    assert_eq!(daemon.stop(), 0);
}
