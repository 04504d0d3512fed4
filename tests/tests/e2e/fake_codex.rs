//! The stand-in for codex keeps to its script and to the shapes of the real one.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use codexd_tests::binary;
use codexd_tests::client::TestClient;
use codexd_tests::home::Home;
use codexd_tests::output::Output;
use codexd_tests::process;
use codexd_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

struct Fake {
    client: TestClient,
    home: Home,
}

/// Starts a fake that behaves as `script` says, and sends nothing to it.
fn silent(script: &str) -> Fake {
    let home = Home::new().unwrap();
    let mut command = home.command(&binary::fake_codex());
    command
        .arg("app-server")
        .env("FAKE_CODEX", script)
        .env("FAKE_CODEX_LOG", log(&home))
        .stderr(Stdio::null());
    Fake { client: TestClient::spawn("fake", &mut command), home }
}

fn fake(script: &str) -> Fake {
    let mut fake = silent(script);
    fake.client.initialize();
    fake
}

fn log(home: &Home) -> std::path::PathBuf {
    home.root().join("log")
}

impl Fake {
    fn thread(&mut self) -> String {
        self.client.start_thread(json!({}))
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.client.pid().unwrap()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    fn complaints(&self) -> Vec<String> {
        let text = std::fs::read_to_string(log(&self.home)).unwrap();
        text.lines().filter(|line| line.starts_with("!!")).map(str::to_owned).collect()
    }

    /// Runs a prompt that ends the process; returns its exit code or the signal.
    fn ends(mut self, prompt: &str) -> (Option<i32>, Option<i32>) {
        let thread = self.thread();
        self.client.start_turn(&thread, prompt);
        let status = self.client.wait_exit();
        (status.code(), status.signal())
    }
}

#[test]
fn it_names_itself() {
    let output = Output::of(Command::new(binary::fake_codex()).arg("--version")).expect_code(0);
    assert_eq!(output.stdout, "codex-cli 0.0.0-fake\n");
}

#[test]
fn a_turn_has_the_messages_of_a_real_one_in_their_order() {
    let mut fake = fake("");
    let thread = fake.thread();
    assert_eq!(thread.len(), 36);
    let turn = fake.client.turn(&thread, "[[deltas:2]]hello");
    assert_eq!(
        (turn.status.as_str(), turn.answer.as_deref()),
        ("completed", Some("tok0 tok1 | echo: hello"))
    );
    let expected = [
        "thread/status/changed",
        "turn/started",
        "item/started",
        "item/completed",
        "item/started",
        "item/agentMessage/delta",
        "item/agentMessage/delta",
        "item/agentMessage/delta",
        "item/completed",
        "thread/tokenUsage/updated",
        "thread/status/changed",
        "turn/completed",
    ];
    assert_eq!(turn.methods(), expected);
    fake.client.take_method("account/rateLimits/updated");
    fake.client.finish_sending();
    assert_eq!(fake.client.wait_exit().code(), Some(0));
    assert_eq!(fake.complaints(), Vec::<String>::new());
}

#[test]
fn an_approval_is_resolved_once_and_replayed_to_a_resume() {
    let mut fake = fake("");
    let thread = fake.thread();
    let turn = fake.client.start_turn(&thread, "[[approve]] go");
    let asked = fake.client.take_method("item/commandExecution/requestApproval");
    fake.client.request("thread/resume", json!({"threadId": thread}));
    let again = fake.client.take_method("item/commandExecution/requestApproval");
    assert_eq!((&asked["id"], &asked["params"]), (&again["id"], &again["params"]));
    fake.client.answer(&asked, json!({"decision": "accept"}));
    fake.client.answer(&again, json!({"decision": "decline"}));
    let turn = fake.client.finish_turn(&thread, &turn);
    assert_eq!(turn.status, "completed");
    assert_eq!(turn.methods().iter().filter(|method| **method == "serverRequest/resolved").count(), 1);
    let items = turn.seen.iter().map(|message| &message["params"]["item"]);
    assert!(
        items.into_iter().any(|item| item["type"] == "commandExecution" && item["status"] == "completed")
    );
    fake.client.recv_to_barrier();
    assert_eq!(fake.complaints().len(), 1);
}

#[test]
fn a_cancelled_approval_and_an_interrupt_end_the_turn() {
    let mut fake = fake("");
    let thread = fake.thread();
    fake.client.answer_approvals("cancel");
    assert_eq!(fake.client.turn(&thread, "[[approve]]").status, "interrupted");
    let turn = fake.client.start_turn(&thread, "[[hang]]");
    let wrong = fake.client.try_request("turn/interrupt", json!({"threadId": thread, "turnId": "x"}));
    assert_eq!(wrong.unwrap_err().message, format!("expected active turn id x but found {turn}"));
    fake.client.request("turn/interrupt", json!({"threadId": thread, "turnId": turn}));
    assert_eq!(fake.client.finish_turn(&thread, &turn).status, "interrupted");
    let late = fake.client.try_request("turn/interrupt", json!({"threadId": thread, "turnId": turn}));
    assert_eq!(late.unwrap_err().message, "no active turn to interrupt");
}

#[test]
fn a_second_start_joins_the_running_turn() {
    let mut fake = fake("");
    let thread = fake.thread();
    let first = fake.client.start_turn(&thread, "[[hang]]");
    let second = fake.client.start_turn(&thread, "go on");
    assert_eq!(first, second);
    assert_eq!(fake.client.finish_turn(&thread, &first).status, "completed");
}

#[test]
fn a_sub_agent_runs_a_turn_of_its_own_in_a_thread_without_a_start_notification() {
    let mut fake = fake("");
    let thread = fake.thread();
    let turn = fake.client.turn(&thread, "[[sub-agent:{{deltas:1}}kid]][[deltas:1]]");
    let item = turn.seen.iter().map(|message| &message["params"]["item"]);
    let named = item.into_iter().find(|item| item["status"] == "completed" && item["tool"] == "spawnAgent");
    let child = named.unwrap()["receiverThreadIds"][0].clone();
    let seen = fake.client.recv_until(|message| {
        message.method() == Some("turn/completed") && message["params"]["threadId"] == child
    });
    assert_eq!(seen.last().unwrap()["params"]["turn"]["rootTurnId"], turn.id.as_str());
    assert!(seen.iter().all(|message| message["params"]["thread"]["id"] != child));
}

#[test]
fn refusals_have_the_words_of_the_real_one() {
    let mut fake = silent("");
    let mut refusal = |method: &str, params| fake.client.try_request(method, params).unwrap_err().message;
    assert_eq!(refusal("thread/loaded/list", json!({})), "Not initialized");
    assert_eq!(refusal("initialize", json!({"clientInfo": {}})), "Invalid request: missing field `name`");
    fake.client.initialize_with(json!({}));
    let mut refusal = |method: &str, params| fake.client.try_request(method, params).unwrap_err().message;
    assert_eq!(refusal("initialize", json!({})), "Already initialized");
    let unknown = refusal("no/such", json!({}));
    assert!(
        unknown.starts_with("Invalid request: unknown variant `no/such`, expected one of `initialize`, `")
    );
    assert_eq!(refusal("turn/start", json!(null)), "Invalid request: missing field `params`");
    assert_eq!(refusal("turn/start", json!({})), "Invalid request: missing field `threadId`");
    assert_eq!(refusal("turn/start", json!({"threadId": "t", "input": []})), "thread not found: t");
    assert_eq!(refusal("thread/resume", json!({"threadId": "t"})), "no rollout found for thread id t");
    assert_eq!(refusal("process/spawn", json!({})), "process/spawn requires experimentalApi capability");
    assert_eq!(fake.complaints().len(), 3);
}

#[test]
fn commands_stream_their_output_before_their_end() {
    let mut fake = fake("");
    let started =
        json!({"processId": "p", "command": ["sh", "-c", "echo one; exit 3"], "streamStdoutStderr": true});
    let result = fake.client.request("command/exec", started);
    assert_eq!(result, json!({"exitCode": 3, "stdout": "", "stderr": ""}));
    let delta = fake.client.take_method("command/exec/outputDelta");
    assert_eq!(delta["params"]["deltaBase64"], "b25lCg==");
    let whole = fake.client.request("command/exec", json!({"command": ["sh", "-c", "echo a; echo b >&2"]}));
    assert_eq!(whole, json!({"exitCode": 0, "stdout": "a\n", "stderr": "b\n"}));

    let running =
        fake.client.send_request("command/exec", json!({"processId": "p", "command": ["sleep", "300"]}));
    let twice = fake.client.try_request("command/exec", json!({"processId": "p", "command": ["true"]}));
    assert_eq!(twice.unwrap_err().message, "duplicate active command/exec process id: \"p\"");
    fake.client.request("command/exec/terminate", json!({"processId": "p"}));
    assert_eq!(fake.client.response(running).unwrap()["exitCode"], 137);

    fake.client.request("process/spawn", json!({"processHandle": "h", "command": ["sh", "-c", "exit 4"]}));
    assert_eq!(fake.client.take_method("process/exited")["params"]["exitCode"], 4);
}

#[test]
fn commands_end_with_an_orderly_end() {
    for term in [false, true] {
        let mut fake = fake("");
        fake.client.send_request("command/exec", json!({"command": ["sleep", "300"]}));
        wait::until("the command runs", || {
            process::marked(fake.home.root()).iter().any(|process| process.command == "sleep 300")
        });
        match term {
            true => fake.signal(Signal::SIGTERM),
            false => fake.client.finish_sending(),
        }
        assert_eq!(fake.client.wait_exit().code(), Some(0));
        process::assert_no_process_left(fake.home.root());
    }
}

#[test]
fn a_watch_sees_scripted_changes() {
    let mut fake = fake("");
    let thread = fake.thread();
    fake.client.request("fs/watch", json!({"watchId": "w", "path": "/x"}));
    let twice = fake.client.try_request("fs/watch", json!({"watchId": "w", "path": "/x"}));
    assert_eq!(twice.unwrap_err().message, "watchId already exists: w");
    fake.client.turn(&thread, "[[fs-change]]");
    assert_eq!(
        fake.client.take_method("fs/changed")["params"],
        json!({"watchId": "w", "changedPaths": ["/x"]})
    );
}

#[test]
fn it_ends_as_the_script_says() {
    assert_eq!(fake("").ends("[[deltas:2]][[exit:7]]"), (Some(7), None));
    assert_eq!(fake("").ends("[[torn]]"), (Some(0), None));
    assert_eq!(fake("").ends("[[abort]]"), (None, Some(6)));
    for signal in [1, 2, 6, 9, 11, 15] {
        assert_eq!(fake("").ends(&format!("[[signal:{signal}]]")), (None, Some(signal)));
    }
    let mut at_init = silent("[[init-exit:5]]");
    at_init.client.send_request("initialize", json!({}));
    assert_eq!(at_init.client.wait_exit().code(), Some(5));
}

#[test]
fn all_is_written_before_a_scripted_end() {
    let mut fake = fake("");
    let thread = fake.thread();
    fake.client.start_turn(&thread, "[[flood:500:1000]][[exit:1]]");
    let seen = fake.client.recv_to_end();
    let deltas = seen.iter().filter(|message| message.method() == Some("item/agentMessage/delta"));
    assert_eq!(deltas.count(), 500);
}

#[test]
fn a_final_answer_without_an_end_of_the_turn() {
    let mut fake = fake("");
    let thread = fake.thread();
    fake.client.start_turn(&thread, "[[final-then-hang]]x");
    fake.client.take("the final answer", |message| {
        message.method() == Some("item/completed") && message["params"]["item"]["phase"] == "final_answer"
    });
    let rest = fake.client.recv_to_barrier();
    assert!(rest.iter().all(|message| message.method() != Some("turn/completed")));
}

#[test]
fn a_closed_output_and_a_held_one() {
    let mut closed = fake("");
    let thread = closed.thread();
    closed.client.start_turn(&thread, "[[eof]]");
    closed.client.recv_to_end();
    assert_eq!(process::marked(closed.home.root()).len(), 1, "it stays alive");
    closed.client.finish_sending();
    assert_eq!(closed.client.wait_exit().code(), Some(0));

    let mut held = fake("");
    let thread = held.thread();
    held.client.start_turn(&thread, "[[hold-pipe:3]]");
    assert_eq!(held.client.wait_exit().code(), Some(3));
    let left = process::sweep(held.home.root(), std::time::Duration::ZERO);
    assert_eq!(left.len(), 1, "the grandchild");
    held.client.recv_to_end();
}

#[test]
fn an_orphan_survives_its_server() {
    let mut fake = fake("");
    let thread = fake.thread();
    assert_eq!(fake.client.turn(&thread, "[[orphan]]").status, "completed");
    fake.client.finish_sending();
    fake.client.wait_exit();
    assert_eq!(process::sweep(fake.home.root(), std::time::Duration::ZERO).len(), 1);
}

#[test]
fn input_that_is_not_utf8_ends_it_and_other_bad_lines_do_not() {
    let mut fake = fake("");
    for line in
        ["{", "[]", "1", "{\"id\":1.5,\"method\":\"model/list\"}", "{\"id\":null,\"method\":\"x\"}", ""]
    {
        fake.client.send_line(line);
    }
    assert!(fake.client.recv_to_barrier().iter().all(|message| message["id"].is_null()));
    assert_eq!(fake.complaints().len(), 5);
    fake.client.send_bytes(b"{\"method\":\"\xff\"}\n").unwrap();
    assert_eq!(fake.client.wait_exit().code(), Some(0));
}

#[test]
fn a_strict_one_ends_on_what_it_did_not_expect() {
    let mut fake = fake("[[strict]]");
    fake.client.send_request("no/such", json!({}));
    assert_eq!(fake.client.wait_exit().code(), Some(97));
}

#[test]
fn a_stubborn_one_ends_only_by_force() {
    let mut fake = fake("[[ignore-term]][[ignore-eof]]");
    fake.signal(Signal::SIGTERM);
    fake.client.recv_to_barrier();
    fake.client.finish_sending();
    assert!(process::marked(fake.home.root()).len() == 1);
    fake.signal(Signal::SIGKILL);
    assert_eq!(fake.client.wait_exit().signal(), Some(9));
}

#[test]
fn refused_silent_and_overloaded() {
    let mut refused = silent("[[init-error:-32603]]");
    assert_eq!(refused.client.try_request("initialize", json!({})).unwrap_err().code, -32603);

    let mut hung = silent("[[init-hang]]");
    hung.client.send_request("initialize", json!({}));
    hung.client.finish_sending();
    assert!(hung.client.recv_to_end().is_empty());

    let mut busy = fake("[[overload:2]]");
    assert!(busy.client.try_request("model/list", json!({})).is_ok());
    assert_eq!(busy.client.try_request("model/list", json!({})).unwrap_err().code, -32001);

    let mut deaf = fake("[[never-read]]");
    deaf.client.send_request("model/list", json!({}));
    deaf.signal(Signal::SIGTERM);
    assert_eq!(deaf.client.wait_exit().code(), Some(0));
    assert!(deaf.client.recv_to_end().iter().all(|message| message["id"].is_null()));

    let mut frozen = fake("");
    let thread = frozen.thread();
    frozen.client.start_turn(&thread, "[[freeze]]");
    frozen.client.send_request("model/list", json!({}));
    frozen.client.finish_sending();
    let rest = frozen.client.recv_to_end();
    assert!(rest.iter().all(|message| message.method() != Some("turn/completed")));
}

#[test]
fn a_slow_one_complains_when_its_queue_is_flooded() {
    let mut fake = fake("[[slow:1000]]");
    let ids: Vec<i64> = (0..150).map(|_| fake.client.send_request("model/list", json!({}))).collect();
    let answers: Vec<_> = ids.into_iter().map(|id| fake.client.response(id)).collect();
    let refused =
        answers.iter().filter(|answer| answer.as_ref().is_err_and(|error| error.code == -32001)).count();
    assert!(refused > 0 && answers.len() == 150);
    assert_eq!(fake.complaints().len(), refused);
}

#[test]
fn a_wrong_script_is_refused() {
    let output =
        Output::of(Command::new(binary::fake_codex()).arg("app-server").env("FAKE_CODEX", "[[no-such]]"));
    let output = output.expect_code(2);
    assert_eq!(output.stderr, "fake-codex: in FAKE_CODEX: unknown marker `no-such`\n");
    let mut fake = fake("");
    let thread = fake.thread();
    let input = json!([{"type": "text", "text": "[[no-such]]"}]);
    let refused = fake.client.try_request("turn/start", json!({"threadId": thread, "input": input}));
    assert_eq!(refused.unwrap_err().message, "fake-codex: unknown marker `no-such`");
    assert!(Path::new(&log(&fake.home)).exists());
}
