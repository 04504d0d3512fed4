//! Helpers that several subjects share.

use std::process::{Child, Command};

use codexd_tests::client::{Message, RpcError, TestClient};
use codexd_tests::daemon::TestDaemon;
use codexd_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// The shutdown notice.
pub(crate) const SHUTDOWN_NOTICE: &str = "notifications/broker/shuttingDown";

/// The end of a turn.
pub(crate) const TURN_END: &str = "turn/completed";

/// A process that a test started itself; killed when the test does not come to its end.
pub(crate) struct Started(pub(crate) Child);

impl Started {
    #[track_caller]
    pub(crate) fn of(command: &mut Command) -> Started {
        Started(command.spawn().unwrap())
    }

    pub(crate) fn terminate(&self) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM).unwrap();
    }

    /// Waits for the end and returns the exit code.
    #[track_caller]
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        let status = wait::poll(wait::PATIENCE, || self.0.try_wait().unwrap());
        status.expect("the process ends").code()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns the messages with this method.
pub(crate) fn with_method<'a>(messages: &'a [Message], method: &str) -> Vec<&'a Message> {
    messages.iter().filter(|message| message.method() == Some(method)).collect()
}

/// Returns the text of all deltas.
pub(crate) fn deltas(messages: &[Message]) -> Vec<&str> {
    let deltas = with_method(messages, "item/agentMessage/delta");
    deltas.into_iter().filter_map(|message| message["params"]["delta"].as_str()).collect()
}

/// Connects a client that has received the notifications that each one gets at first.
#[track_caller]
pub(crate) fn quiet_client(daemon: &TestDaemon, name: &str) -> TestClient {
    let mut client = daemon.client(name);
    client.recv_to_barrier();
    client
}

/// Returns `ctl status --json`.
#[track_caller]
pub(crate) fn status(daemon: &TestDaemon) -> Value {
    daemon.ctl(&["status", "--json"]).json()
}

/// Waits until the daemon reports this state.
#[track_caller]
pub(crate) fn wait_for_state(daemon: &TestDaemon, state: &str) {
    wait::until(state, || status(daemon)["state"] == state);
}

/// Waits until codexd has handled all that the client has sent so far.
#[track_caller]
pub(crate) fn handled(client: &mut TestClient) {
    client.request("broker/status", Value::Null);
}

/// Starts a turn that waits for an approval, and returns thread, turn and approval.
#[track_caller]
pub(crate) fn waiting_turn(client: &mut TestClient, prompt: &str) -> (String, String, Message) {
    let thread = client.start_thread(json!({}));
    let turn = client.start_turn(&thread, &format!("[[approve]]{prompt}"));
    let approval = client.take_method("item/commandExecution/requestApproval");
    (thread, turn, approval)
}

/// Checks how the daemon ends: with this exit code, and nothing is left.
#[track_caller]
pub(crate) fn expect_end(daemon: &mut TestDaemon, code: i32) {
    let status = daemon.wait_exit();
    if status.code() != Some(code) {
        daemon.fail(&format!("the exit code is not {code}"));
    }
    assert!(!daemon.socket().exists(), "the socket is left");
    assert!(!daemon.control_socket().exists(), "the control socket is left");
    daemon.assert_no_process_left();
}

/// What is pending for a client when the upstream is lost.
pub(crate) struct Unresolved<'a> {
    /// Its open turns.
    pub(crate) turns: &'a [&'a str],
    /// How these end.
    pub(crate) turn_status: &'a str,
    /// Its requests without an answer.
    pub(crate) requests: &'a [i64],
    /// The reason, for programs.
    pub(crate) reason: &'a str,
}

/// Reads to the end of the connection and checks that everything pending was resolved: each answer and each end of a
/// turn exactly once, then the shutdown notice, then nothing.
#[track_caller]
pub(crate) fn expect_resolved(client: &mut TestClient, unresolved: &Unresolved<'_>) -> Vec<Message> {
    let seen = client.recv_to_end();
    let ends = with_method(&seen, TURN_END);
    let mut ended: Vec<&str> = ends.iter().filter_map(|end| end["params"]["turn"]["id"].as_str()).collect();
    let mut expected = unresolved.turns.to_vec();
    ended.sort_unstable();
    expected.sort_unstable();
    assert_eq!(ended, expected, "turns that ended, of client {}", client.name());
    for end in ends {
        expect_native_order(&seen, end);
        assert_eq!(end["params"]["turn"]["status"], unresolved.turn_status, "{}", end.raw);
        let mark = &end["params"]["codexd"];
        assert_eq!(mark["synthetic"], true, "{}", end.raw);
        assert_eq!(mark["inferred"], unresolved.turn_status == "completed", "{}", end.raw);
        assert_eq!(&end["params"]["turn"]["codexd"], mark, "{}", end.raw);
    }
    for id in unresolved.requests {
        let answers: Vec<&Message> = seen.iter().filter(|message| message.is_answer_to(*id)).collect();
        assert_eq!(answers.len(), 1, "answers to request {id}");
        let error = answers[0].outcome().expect_err("the upstream is lost");
        assert_eq!((error.code, reason(&error)), (-32010, unresolved.reason), "{error:?}");
        let mark = &error.data["codexd"];
        let delivered = mark["delivered"].as_str().unwrap_or_default();
        assert!(["no", "maybe"].contains(&delivered), "{error:?}");
        assert_eq!(mark["retryable"], delivered == "no", "{error:?}");
        assert!(mark["generation"].as_u64() > Some(0), "{error:?}");
    }
    assert_eq!(with_method(&seen, SHUTDOWN_NOTICE).len(), 1);
    let last = seen.last().and_then(|message| message.method());
    assert_eq!(last, Some(SHUTDOWN_NOTICE), "the last message of client {}", client.name());
    seen
}

/// Checks that what codexd writes before the end of a turn is what codex writes, in its order: the status of the
/// thread and, of a failed turn, the error with the reason.
#[track_caller]
fn expect_native_order(seen: &[Message], end: &Message) {
    let (thread, turn) = (&end["params"]["threadId"], &end["params"]["turn"]);
    let place = seen.iter().position(|message| message == end).unwrap();
    let own = seen[..place].iter().filter(|it| it["params"]["threadId"] == *thread);
    let before: Vec<&Message> = own.filter(|it| it["params"]["codexd"] == end["params"]["codexd"]).collect();
    let methods: Vec<_> = before.iter().map(|it| it.method().unwrap()).collect();
    if turn["status"] == "completed" {
        assert_eq!(methods, ["thread/status/changed"], "before {}", end.raw);
        assert_eq!(before[0]["params"]["status"]["type"], "idle");
        return;
    }
    assert_eq!(methods, ["thread/status/changed", "error"], "before {}", end.raw);
    assert_eq!(before[0]["params"]["status"]["type"], "systemError");
    let error = &before[1]["params"];
    assert_eq!((&error["turnId"], &error["willRetry"]), (&turn["id"], &json!(false)));
    assert_eq!(error["error"], turn["error"]);
}

/// Returns the reason of one of codexd's own errors.
pub(crate) fn reason(error: &RpcError) -> &str {
    error.data["codexd"]["reason"].as_str().unwrap_or_default()
}
