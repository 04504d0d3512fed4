//! An intended stop: what runs may finish, nothing new begins, and the exit code is 0.

use codexd_tests::client::TestClient;
use codexd_tests::daemon::TestDaemon;
use codexd_tests::process;
use codexd_tests::wait;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{
    SHUTDOWN_NOTICE, TURN_END, expect_end, handled, quiet_client, reason, status, wait_for_state,
    waiting_turn, with_method,
};

/// Takes the shutdown notice and returns its parameters.
#[track_caller]
fn shutdown_notice(client: &mut TestClient) -> Value {
    client.take_method(SHUTDOWN_NOTICE)["params"].clone()
}

#[track_caller]
fn expect_draining(client: &mut TestClient, method: &str, params: Value) {
    let error = client.try_request(method, params).unwrap_err();
    assert_eq!((error.code, reason(&error)), (-32001, "draining"), "{method}: {error:?}");
    let mark = &error.data["codexd"];
    assert_eq!((&mark["delivered"], &mark["retryable"]), (&json!("no"), &json!(true)), "{method}");
}

#[test]
fn an_idle_daemon_ends_at_a_signal() {
    for (signal, name) in [(Signal::SIGTERM, "SIGTERM"), (Signal::SIGINT, "SIGINT")] {
        let mut daemon = TestDaemon::fake("[[strict]]").ready();
        let mut client = daemon.client("one");
        daemon.signal(signal);
        let seen = client.recv_to_end();
        let words = with_method(&seen, SHUTDOWN_NOTICE);
        assert_eq!(words[0]["params"]["reason"], format!("codexd is stopping ({name})"));
        // It was started by hand: nothing starts it again.
        assert!(words[0]["params"]["retryAfterMs"].is_null(), "{}", words[0].raw);
        expect_end(&mut daemon, 0);
        assert_eq!(status(&daemon)["lastExit"]["code"], 0);
    }
}

#[test]
fn a_running_turn_is_finished_first() {
    let mut daemon = TestDaemon::fake("[[strict]]").ready();
    let mut client = daemon.client("one");
    let (thread, turn, approval) = waiting_turn(&mut client, "[[deltas:20:2]]hello");
    daemon.term();
    let words = shutdown_notice(&mut client);
    assert!(words["deadlineMs"].as_u64() > Some(0), "{words}");
    client.answer(&approval, json!({"decision": "accept"}));
    let turn = client.finish_turn(&thread, &turn);
    assert_eq!((turn.status.as_str(), turn.deltas.len()), ("completed", 21));
    let end = &turn.seen.last().unwrap()["params"];
    assert!(end["codexd"].is_null(), "the upstream itself has ended it: {end}");
    assert_eq!(with_method(&client.recv_to_end(), TURN_END).len(), 0);
    expect_end(&mut daemon, 0);
}

#[test]
fn while_draining_new_work_is_refused_and_what_runs_is_served() {
    let mut daemon = TestDaemon::fake("[[strict]]").ready();
    let mut client = daemon.client("one");
    let mut other = daemon.client("other");
    let mut late = daemon.raw_client("late");
    handled(&mut late);
    let (thread, turn, approval) = waiting_turn(&mut client, "");
    let idle = other.start_thread(json!({}));
    daemon.term();
    shutdown_notice(&mut client);
    shutdown_notice(&mut other);
    let input = json!([{"type": "text", "text": "more"}]);
    expect_draining(&mut other, "turn/start", json!({"threadId": idle, "input": input}));
    expect_draining(&mut other, "thread/start", json!({}));
    expect_draining(&mut other, "thread/fork", json!({"threadId": thread}));
    expect_draining(&mut other, "command/exec", json!({"command": ["true"]}));
    expect_draining(&mut late, "initialize", json!({"clientInfo": {"name": "late", "version": "1"}}));
    // Reads go on, and so does input for the turn that runs.
    other.request("thread/read", json!({"threadId": thread}));
    assert_eq!(
        client.request("turn/start", json!({"threadId": thread, "input": input}))["turn"]["id"],
        turn.as_str()
    );
    assert_eq!(client.request("broker/status", Value::Null)["state"], "draining");
    // No new client can connect.
    assert!(!daemon.socket().exists());
    client.answer(&approval, json!({"decision": "decline"}));
    assert_eq!(client.finish_turn(&thread, &turn).status, "completed");
    for client in [&mut client, &mut other, &mut late] {
        client.recv_to_end();
    }
    expect_end(&mut daemon, 0);
}

#[test]
fn a_client_in_the_backlog_is_asked_to_connect_again() {
    let mut daemon = TestDaemon::fake("").ready();
    let mut client = daemon.client("one");
    let (thread, turn, approval) = waiting_turn(&mut client, "");
    // The daemon cannot accept: connections queue up, and then the stop comes first.
    daemon.signal(Signal::SIGSTOP);
    let mut waiting = daemon.raw_client("waiting");
    let id = waiting.send_request("initialize", json!({"clientInfo": {"name": "w", "version": "1"}}));
    daemon.term();
    daemon.signal(Signal::SIGCONT);
    let error = waiting.response(id).unwrap_err();
    assert_eq!((error.code, reason(&error)), (-32001, "draining"));
    client.answer(&approval, json!({"decision": "accept"}));
    client.finish_turn(&thread, &turn);
    expect_end(&mut daemon, 0);
}

#[test]
fn at_the_deadline_running_turns_are_interrupted() {
    let mut daemon = TestDaemon::fake("[[strict]]").args(["--drain-timeout", "200ms"]).ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    let turn = client.start_turn(&thread, "[[hang]]");
    daemon.term();
    assert_eq!(shutdown_notice(&mut client)["deadlineMs"], 200);
    let turn = client.finish_turn(&thread, &turn);
    assert_eq!(turn.status, "interrupted");
    assert!(turn.seen.last().unwrap()["params"]["codexd"].is_null());
    assert_eq!(with_method(&client.recv_to_end(), TURN_END).len(), 0);
    expect_end(&mut daemon, 0);
}

#[test]
fn a_second_signal_does_not_wait_for_running_turns() {
    let mut daemon = TestDaemon::fake("[[strict]]").args(["--drain-timeout", "never"]).ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    let turn = client.start_turn(&thread, "[[hang]]");
    let pending = client.send_request("command/exec", json!({"command": ["sleep", "300"]}));
    handled(&mut client);
    daemon.term();
    assert_eq!(shutdown_notice(&mut client)["deadlineMs"], Value::Null);
    daemon.signal(Signal::SIGINT);
    let turn = client.finish_turn(&thread, &turn);
    assert_eq!(turn.status, "failed");
    let mark = &turn.seen.last().unwrap()["params"]["codexd"];
    assert_eq!((&mark["synthetic"], &mark["reason"]), (&json!(true), &json!("stopped")));
    let error = client.response(pending).unwrap_err();
    assert_eq!((error.code, reason(&error)), (-32010, "stopped"));
    client.recv_to_end();
    expect_end(&mut daemon, 0);
}

#[test]
fn a_third_signal_kills_an_upstream_that_ignores_the_end_of_its_input_and_sigterm() {
    let mut daemon = TestDaemon::fake("[[ignore-term]][[ignore-eof]]").ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    client.start_turn(&thread, "[[hang]]");
    daemon.term();
    shutdown_notice(&mut client);
    daemon.term();
    wait_for_state(&daemon, "stopping");
    daemon.term();
    let end = client.take_method(TURN_END);
    assert_eq!(end["params"]["turn"]["status"], "failed");
    expect_end(&mut daemon, 0);
    assert_eq!(status(&daemon)["lastExit"]["code"], 0, "the stop was intended");
}

#[test]
fn an_upstream_that_ignores_everything_is_killed_without_another_signal() {
    let mut daemon = TestDaemon::fake("[[ignore-term]][[ignore-eof]]").ready();
    assert_eq!(daemon.stop(), 0);
    expect_end(&mut daemon, 0);
}

#[test]
fn a_stop_while_the_upstream_has_not_answered_yet_is_a_stop() {
    let mut daemon = TestDaemon::fake("[[init-hang]]").start();
    wait::until("the control socket answers", || daemon.ctl(&["status"]).code() == Some(1));
    daemon.term();
    expect_end(&mut daemon, 0);
}

#[test]
fn a_stop_ends_commands_that_clients_run() {
    let mut daemon = TestDaemon::fake("[[strict]]").args(["--drain-timeout", "100ms"]).ready();
    let mut client = daemon.client("one");
    client.send_request("command/exec", json!({"command": ["sleep", "300"]}));
    client.request("process/spawn", json!({"command": ["sleep", "301"], "processHandle": "h"}));
    let runs = |command: &str| process::marked(daemon.home().root()).iter().any(|it| it.command == command);
    wait::until("the commands run", || runs("sleep 300") && runs("sleep 301"));
    daemon.term();
    expect_end(&mut daemon, 0);
}

#[test]
fn the_last_client_can_end_the_daemon() {
    let mut daemon = TestDaemon::fake("[[strict]]").ready();
    let mut client = daemon.client("one");
    assert_eq!(client.request("broker/shutdown", Value::Null), json!({}));
    client.recv_to_end();
    expect_end(&mut daemon, 0);
    assert_eq!(status(&daemon)["lastExit"]["reason"], "codexd is stopping (client shutdown)");
}

#[test]
fn a_client_that_shuts_down_beside_another_is_only_detached() {
    let mut daemon = TestDaemon::fake("[[strict]]").ready();
    let mut client = daemon.client("one");
    let mut other = daemon.client("other");
    let thread = other.start_thread(json!({}));
    assert_eq!(client.request("broker/shutdown", Value::Null), json!({}));
    assert_eq!(with_method(&client.recv_to_end(), SHUTDOWN_NOTICE).len(), 0);
    assert_eq!(other.turn(&thread, "still here").status, "completed");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_client_that_shuts_down_during_its_turn_is_only_detached() {
    let mut daemon = TestDaemon::fake("[[strict]]").ready();
    let mut client = daemon.client("one");
    let (thread, turn, _) = waiting_turn(&mut client, "");
    client.request("broker/shutdown", Value::Null);
    client.recv_to_end();
    // The turn waits for the next client.
    let mut next = daemon.client("next");
    next.request("thread/resume", json!({"threadId": thread}));
    let approval = next.take_method("item/commandExecution/requestApproval");
    next.answer(&approval, json!({"decision": "accept"}));
    assert_eq!(next.finish_turn(&thread, &turn).status, "completed");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn the_settings_say_what_a_shutdown_by_a_client_does() {
    let mut daemon = TestDaemon::fake("").config("client_shutdown = \"never\"").ready();
    let mut client = daemon.client("one");
    client.request("broker/shutdown", Value::Null);
    client.recv_to_end();
    quiet_client(&daemon, "other").recv_to_barrier();
    assert_eq!(daemon.stop(), 0);

    let mut daemon = TestDaemon::fake("").config("client_shutdown = \"always\"").ready();
    let mut other = daemon.client("other");
    daemon.client("one").request("broker/shutdown", Value::Null);
    assert_eq!(shutdown_notice(&mut other)["reason"], "codexd is stopping (client shutdown)");
    other.recv_to_end();
    expect_end(&mut daemon, 0);
}

#[test]
fn only_a_signal_shortens_a_drain() {
    let mut daemon = TestDaemon::fake("").config("client_shutdown = \"always\"").ready();
    let mut client = daemon.client("one");
    let (mut second, mut third) = (daemon.client("two"), daemon.client("three"));
    let (thread, turn, approval) = waiting_turn(&mut client, "");
    // Each of them wants the same, and none of them means the turn.
    second.request("broker/shutdown", Value::Null);
    shutdown_notice(&mut client);
    third.request("broker/shutdown", Value::Null);
    third.recv_to_end();
    for _ in 0..2 {
        assert_eq!(daemon.ctl(&["stop", "--timeout", "50ms"]).code(), Some(1));
    }
    assert_eq!(status(&daemon)["state"], "draining");
    client.answer(&approval, json!({"decision": "accept"}));
    assert_eq!(client.finish_turn(&thread, &turn).status, "completed");
    expect_end(&mut daemon, 0);
}

#[test]
fn ctl_stop_waits_for_the_end_and_for_running_turns() {
    let mut daemon = TestDaemon::fake("[[strict]]").ready();
    let mut client = daemon.client("one");
    let (thread, turn, approval) = waiting_turn(&mut client, "");
    let mut stop = daemon.command(&["ctl", "stop"]);
    let stopping = std::thread::spawn(move || codexd_tests::output::Output::of(&mut stop));
    shutdown_notice(&mut client);
    client.answer(&approval, json!({"decision": "accept"}));
    assert_eq!(client.finish_turn(&thread, &turn).status, "completed");
    client.recv_to_end();
    let output = stopping.join().unwrap().expect_code(0);
    assert!(output.stdout.starts_with(&format!("stopped pid {}", daemon.pid())), "{output}");
    let words = output.stderr.strip_prefix("waiting for 1 running turn for ").expect("what it waits for");
    assert!(words.ends_with("s at the most\n"), "{output}");
    expect_end(&mut daemon, 0);
}

#[test]
fn ctl_stop_now_interrupts_running_turns_and_awaits_their_ends() {
    let mut daemon = TestDaemon::fake("[[strict]]").ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    let turn = client.start_turn(&thread, "[[wait:600000]]");
    let _ = daemon.ctl(&["stop", "--now"]).expect_code(0);
    assert_eq!(client.finish_turn(&thread, &turn).status, "interrupted");
    expect_end(&mut daemon, 0);
}

#[test]
fn ctl_stop_kill_kills_codex_at_once() {
    let mut daemon = TestDaemon::fake("[[strict]]").ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    let turn = client.start_turn(&thread, "[[wait:600000]]");
    let _ = daemon.ctl(&["stop", "--kill"]).expect_code(0);
    assert_eq!(client.finish_turn(&thread, &turn).status, "failed");
    expect_end(&mut daemon, 0);
    assert_eq!(status(&daemon)["lastExit"]["code"], 0, "the stop was intended");
}

#[test]
fn an_approval_that_nobody_can_answer_holds_no_drain() {
    let mut daemon = TestDaemon::fake("[[strict]]").ready();
    let mut client = daemon.client("one");
    let _ = waiting_turn(&mut client, "");
    drop(client);
    let mut watcher = daemon.client("two");
    // The drain would take 30 s; the test would fail by its own time limit.
    let output = daemon.ctl(&["stop", "--timeout", "20s"]).expect_code(0);
    assert!(!output.stderr.contains("running turn"), "{output}");
    shutdown_notice(&mut watcher);
    expect_end(&mut daemon, 0);
}

#[test]
fn the_service_manager_is_notified_of_each_step_in_order() {
    let mut daemon = TestDaemon::fake("[[strict]]").ready();
    let mut client = daemon.client("one");
    let (thread, turn, approval) = waiting_turn(&mut client, "");
    daemon.term();
    shutdown_notice(&mut client);
    client.answer(&approval, json!({"decision": "accept"}));
    client.finish_turn(&thread, &turn);
    expect_end(&mut daemon, 0);
    let lines = daemon.notify().lines();
    let at = |wanted: &str| {
        let found = lines.iter().position(|line| line.starts_with(wanted));
        found.unwrap_or_else(|| panic!("no {wanted} in {lines:#?}"))
    };
    let steps = [
        "STATUS=waiting for codex",
        "READY=1",
        "STATUS=serving",
        "STOPPING=1",
        "STATUS=codexd is stopping (SIGTERM)",
    ];
    let order: Vec<usize> = steps.iter().map(|step| at(step)).collect();
    assert!(order.is_sorted(), "{lines:#?}");
    for once in ["READY=1", "STOPPING=1"] {
        assert_eq!(lines.iter().filter(|line| *line == once).count(), 1, "{lines:#?}");
    }
}

#[test]
fn the_end_is_the_same_without_a_service_manager() {
    let mut daemon = TestDaemon::fake("").without_notify().start();
    let _ = daemon.ctl(&["wait", "ready"]).expect_code(0);
    assert_eq!(daemon.stop(), 0);
    expect_end(&mut daemon, 0);
}

#[test]
fn an_unused_daemon_ends_by_itself() {
    let mut daemon = TestDaemon::fake("").args(["--idle-exit", "200ms"]).ready();
    expect_end(&mut daemon, 0);
    assert_eq!(status(&daemon)["lastExit"]["reason"], "codexd is stopping (idle)");
}

#[test]
fn a_daemon_with_a_client_does_not_end_by_itself() {
    let mut daemon = TestDaemon::fake("").args(["--idle-exit", "2s"]).ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    let turn = client.turn(&thread, "[[wait:2500]]");
    assert_eq!(turn.status, "completed");
    assert_eq!(with_method(&client.recv_to_barrier(), SHUTDOWN_NOTICE).len(), 0);
    drop(client);
    expect_end(&mut daemon, 0);
}
