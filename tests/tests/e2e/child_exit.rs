//! The upstream ends, in every way it can: every pending request and open turn is resolved, and the exit code shows
//! why.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use codexd_tests::binary;
use codexd_tests::client::TestClient;
use codexd_tests::daemon::TestDaemon;
use codexd_tests::home::Home;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::{
    TURN_END, Unresolved, deltas, expect_end, expect_resolved, handled, quiet_client, reason, status,
    wait_for_state, waiting_turn, with_method,
};

/// Runs a prompt in which the upstream ends, and checks what a client sees of it; returns the daemon's
/// record of the end.
#[track_caller]
fn dies_in_a_turn(prompt: &str, turn_status: &str, why: &str) -> Value {
    let mut daemon = TestDaemon::fake("").ready();
    let mut other = daemon.client("other");
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    let pending = client.send_request("command/exec", json!({"command": ["sleep", "300"]}));
    let turn = client.start_turn(&thread, prompt);
    let unresolved = Unresolved { turns: &[&turn], turn_status, requests: &[pending], reason: why };
    let seen = expect_resolved(&mut client, &unresolved);
    assert_eq!(deltas(&seen)[..2], ["tok0 ", "tok1 "], "all that was said before the end comes before it");
    if turn_status == "completed" {
        let end = with_method(&seen, TURN_END)[0];
        assert_eq!(end["params"]["turn"]["items"][0]["text"], "tok0 tok1 | echo: ", "{}", end.raw);
    }
    expect_resolved(&mut other, &Unresolved { turns: &[], turn_status, requests: &[], reason: why });
    expect_end(&mut daemon, 1);
    status(&daemon)["lastExit"].clone()
}

/// Ends an upstream on which nothing runs; returns the daemon's record of the end.
#[track_caller]
fn dies_idle(mut daemon: TestDaemon, signal: Signal) -> Value {
    let mut client = daemon.client("one");
    client.start_thread(json!({}));
    daemon.signal_upstream(signal);
    if signal == Signal::SIGSEGV {
        // The stand-in's runtime steps aside at the first one.
        daemon.signal_upstream(signal);
    }
    let unresolved = Unresolved { turns: &[], turn_status: "", requests: &[], reason: "upstreamLost" };
    expect_resolved(&mut client, &unresolved);
    expect_end(&mut daemon, 1);
    status(&daemon)["lastExit"].clone()
}

/// Writes a program that ends with this code when the stand-in for codex has ended.
fn program_that_exits_with(home: &Home, code: i32) -> PathBuf {
    let path = home.root().join("codex.sh");
    // Another command follows, so that the shell stays the parent.
    let text = format!("#!/bin/sh\n'{}' \"$@\"\nexit {code}\n", binary::fake_codex().display());
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn any_exit_code_in_a_turn_is_a_loss() {
    for code in [0, 1, 42] {
        let prompt = format!("[[deltas:2]][[exit:{code}]]");
        let exit = dies_in_a_turn(&prompt, "failed", "upstreamLost");
        assert_eq!(
            (&exit["code"], exit["upstream"].as_str().unwrap()),
            (&json!(1), &*format!("exited with code {code}"))
        );
        assert_eq!(exit["reason"], format!("codex app-server exited with code {code}"));
    }
}

#[test]
fn any_signal_in_a_turn_is_a_loss() {
    for (signal, name) in [(9, "SIGKILL"), (15, "SIGTERM"), (11, "SIGSEGV"), (6, "SIGABRT")] {
        let prompt = format!("[[deltas:2]][[signal:{signal}]]");
        let exit = dies_in_a_turn(&prompt, "failed", "upstreamLost");
        assert_eq!(exit["upstream"], format!("was killed by signal {signal} ({name})"));
    }
}

#[test]
fn any_exit_code_of_an_idle_upstream_is_a_loss() {
    for code in [0, 1, 42] {
        let home = Home::new().unwrap();
        let program = program_that_exits_with(&home, code);
        let mut daemon = TestDaemon::program(&program).home(home).ready();
        let mut client = daemon.client("one");
        // The stand-in ends, then the program around it.
        let fake = binary::fake_codex().display().to_string();
        let processes = daemon.processes();
        let inner = processes.iter().find(|process| process.command.starts_with(&fake)).unwrap();
        kill(Pid::from_raw(inner.pid), Signal::SIGTERM).unwrap();
        expect_resolved(
            &mut client,
            &Unresolved { turns: &[], turn_status: "", requests: &[], reason: "upstreamLost" },
        );
        expect_end(&mut daemon, 1);
        assert_eq!(status(&daemon)["lastExit"]["upstream"], format!("exited with code {code}"));
    }
}

#[test]
fn any_signal_to_an_idle_upstream_is_a_loss() {
    for (signal, name) in [
        (Signal::SIGKILL, "SIGKILL"),
        (Signal::SIGILL, "SIGILL"),
        (Signal::SIGABRT, "SIGABRT"),
        (Signal::SIGINT, "SIGINT"),
    ] {
        let exit = dies_idle(TestDaemon::fake("").ready(), signal);
        assert_eq!(exit["upstream"], format!("was killed by signal {} ({name})", signal as i32));
    }
    // It exits 0 on this one, and the daemon is not fooled.
    let exit = dies_idle(TestDaemon::fake("").ready(), Signal::SIGTERM);
    assert_eq!((&exit["upstream"], &exit["code"]), (&json!("exited with code 0"), &json!(1)));
}

#[test]
fn an_output_that_ends_before_the_process_is_a_loss() {
    let exit = dies_in_a_turn("[[deltas:2]][[eof]]", "failed", "upstreamLost");
    assert_eq!(exit["code"], 1);
}

#[test]
fn a_grandchild_that_holds_the_output_open_is_not_waited_for() {
    let exit = dies_in_a_turn("[[deltas:2]][[hold-pipe:3]]", "failed", "upstreamLost");
    assert_eq!(exit["upstream"], "exited with code 3");
}

#[test]
fn a_torn_last_line_is_not_passed_on() {
    let exit = dies_in_a_turn("[[deltas:2]][[torn]]", "failed", "upstreamLost");
    assert_eq!(exit["upstream"], "exited with code 0");
}

#[test]
fn a_line_that_is_no_message_ends_the_trust() {
    let exit = dies_in_a_turn("[[deltas:2]][[garbage]][[hang]]", "failed", "upstreamGarbled");
    assert_eq!(exit["code"], 1);
    let exit = dies_in_a_turn("[[deltas:2]][[bad-utf8]][[hang]]", "failed", "upstreamGarbled");
    assert_eq!(exit["code"], 1);
}

#[test]
fn a_turn_whose_answer_was_seen_counts_as_completed() {
    for end in ["exit:1", "exit:0", "signal:9", "eof", "torn"] {
        dies_in_a_turn(&format!("[[deltas:2]][[final]][[{end}]]"), "completed", "upstreamLost");
    }
}

#[test]
fn a_turn_with_an_open_sub_agent_does_not_count_as_completed() {
    let mut daemon = TestDaemon::fake("").ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    client.start_turn(&thread, "[[sub-agent:{{hang}}]][[deltas:2]][[final]][[wait:50]][[exit:1]]");
    let seen = client.recv_to_end();
    let ends = with_method(&seen, TURN_END);
    assert_eq!(ends.len(), 2, "its own turn and that of the sub-agent");
    assert!(ends.iter().all(|end| end["params"]["turn"]["status"] == "failed"));
    expect_end(&mut daemon, 1);
}

#[test]
fn each_client_gets_the_end_of_its_own_turn_only() {
    let mut daemon = TestDaemon::fake("").ready();
    let mut clients: Vec<TestClient> = (0..4).map(|n| daemon.client(&format!("client {n}"))).collect();
    let turns: Vec<String> = clients.iter_mut().map(|client| waiting_turn(client, "").1).collect();
    let mut watcher = daemon.client("watcher");
    daemon.signal_upstream(Signal::SIGKILL);
    for (client, turn) in clients.iter_mut().zip(&turns) {
        let unresolved =
            Unresolved { turns: &[turn], turn_status: "failed", requests: &[], reason: "upstreamLost" };
        let seen = expect_resolved(client, &unresolved);
        // The server request will not be answered any more.
        assert_eq!(with_method(&seen, "serverRequest/resolved").len(), 1);
    }
    expect_resolved(
        &mut watcher,
        &Unresolved { turns: &[], turn_status: "", requests: &[], reason: "upstreamLost" },
    );
    expect_end(&mut daemon, 1);
}

#[test]
fn every_request_without_an_answer_gets_its_error_and_queued_ones_can_be_repeated() {
    let mut daemon = TestDaemon::fake("").ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    let turn = client.start_turn(&thread, "[[hang]]");
    daemon.signal_upstream(Signal::SIGSTOP);
    let requests: Vec<i64> = (0..200).map(|_| client.send_request("model/list", json!({}))).collect();
    let mut other = daemon.client("other");
    let others: Vec<i64> = (0..3).map(|_| other.send_request("model/list", json!({}))).collect();
    handled(&mut client);
    handled(&mut other);
    daemon.signal_upstream(Signal::SIGKILL);
    let unresolved =
        Unresolved { turns: &[&turn], turn_status: "failed", requests: &requests, reason: "upstreamLost" };
    let seen = expect_resolved(&mut client, &unresolved);
    let unresolved = Unresolved { turns: &[], turn_status: "", requests: &others, reason: "upstreamLost" };
    let seen_by_other = expect_resolved(&mut other, &unresolved);
    let delivered = |word: &str| {
        let answers = seen.iter().chain(&seen_by_other);
        answers.filter(|message| message["error"]["data"]["codexd"]["delivered"] == word).count()
    };
    assert_eq!((delivered("maybe"), delivered("no")), (64, 139), "the window is 64");
    expect_end(&mut daemon, 1);
}

#[test]
fn an_upstream_that_does_not_answer_is_lost() {
    let builder = TestDaemon::fake("").args(["--probe-interval", "200ms", "--probe-timeout", "200ms"]);
    let mut daemon = builder.ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    let pending = client.send_request("command/exec", json!({"command": ["sleep", "300"]}));
    let turn = client.start_turn(&thread, "[[freeze]]");
    let unresolved = Unresolved {
        turns: &[&turn],
        turn_status: "failed",
        requests: &[pending],
        reason: "upstreamUnresponsive",
    };
    expect_resolved(&mut client, &unresolved);
    expect_end(&mut daemon, 1);
    assert_eq!(status(&daemon)["lastExit"]["reason"], "codex app-server does not answer any more");
}

#[test]
fn a_silent_upstream_that_answers_lives_on_however_slow_one_request_is() {
    let builder = TestDaemon::fake("[[strict]]").args(["--probe-interval", "20ms", "--probe-timeout", "20s"]);
    let mut daemon = builder.ready();
    let mut client = daemon.client("one");
    client.send_request("command/exec", json!({"command": ["sleep", "300"]}));
    codexd_tests::wait::until("some health checks", || {
        daemon.fake_log().matches("thread/loaded/list").count() >= 5
    });
    client.recv_to_barrier();
    quiet_client(&daemon, "other").recv_to_barrier();
    // A drain would wait for its command.
    drop(client);
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_busy_upstream_that_answers_no_health_check_is_not_dead() {
    // Everything lasts longer than the timeout, and the pauses in between are far below it.
    let builder = TestDaemon::fake("[[strict]]").args(["--probe-interval", "20ms", "--probe-timeout", "4s"]);
    let mut daemon = builder.ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    let health_checks = || daemon.fake_log().matches("thread/loaded/list").count();
    let turn = client.start_turn(&thread, "[[busy]][[deltas:60:100]]");
    let before = health_checks();
    let turn = client.finish_turn(&thread, &turn);
    assert_eq!((turn.status.as_str(), turn.deltas.len()), ("completed", 61));
    assert!(health_checks() > before + 5, "it was asked all the while");
    client.recv_to_barrier();
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_machine_that_was_suspended_is_no_death() {
    let builder = TestDaemon::fake("[[strict]]").args(["--probe-interval", "50ms", "--probe-timeout", "15s"]);
    let mut daemon = builder.ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    daemon.signal_upstream(Signal::SIGSTOP);
    let waited = || status(&daemon)["upstream"]["unansweredProbeMs"].as_u64();
    codexd_tests::wait::until("it is asked whether it lives", || waited().is_some());
    codexd_tests::wait::until("the silence is reported", || {
        status(&daemon)["warnings"][0]["code"] == "upstreamSilent"
    });
    daemon.signal(Signal::SIGSTOP);
    // Only a little longer than the answer may take, which is the hardest to distinguish from a loss.
    codexd_tests::wait::pause(std::time::Duration::from_secs(16));
    daemon.signal(Signal::SIGCONT);
    // What it has waited did not grow by the time in which it slept.
    assert!(waited().is_some_and(|ms| ms < 15_000));
    daemon.signal_upstream(Signal::SIGCONT);
    assert_eq!(client.turn(&thread, "hello").status, "completed");
    client.recv_to_barrier();
    assert_eq!(status(&daemon)["warnings"], json!([]));
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_frozen_upstream_with_a_full_input_is_found_and_everybody_is_answered() {
    let builder = TestDaemon::fake("").args(["--probe-interval", "1s", "--probe-timeout", "1s"]);
    let mut daemon = builder.ready();
    let mut clients: Vec<TestClient> =
        (0..3).map(|n| quiet_client(&daemon, &format!("client {n}"))).collect();
    let thread = clients[0].start_thread(json!({}));
    let turn = clients[0].start_turn(&thread, "[[hang]]");
    daemon.signal_upstream(Signal::SIGSTOP);
    // Far more than a pipe holds.
    let text = "x".repeat(50_000);
    let requests: Vec<Vec<i64>> = clients
        .iter_mut()
        .map(|client| (0..100).map(|_| client.send_request("model/list", json!({"x": text}))).collect())
        .collect();
    for (n, (client, requests)) in clients.iter_mut().zip(&requests).enumerate() {
        let turns: &[&str] = if n == 0 { &[&turn] } else { &[] };
        expect_resolved(
            client,
            &Unresolved { turns, turn_status: "failed", requests, reason: "upstreamUnresponsive" },
        );
    }
    expect_end(&mut daemon, 1);
    let exit = &status(&daemon)["lastExit"];
    assert_eq!(
        (&exit["code"], exit["reason"].as_str()),
        (&json!(1), Some("codex app-server does not answer any more"))
    );
    assert!(daemon.stderr().contains("codex app-server does not answer"), "{}", daemon.stderr());
}

#[test]
fn an_upstream_that_crashes_at_once_ends_each_daemon_with_1_and_nothing_is_left() {
    let mut home = Home::new().unwrap().into();
    for generation in 1..=3 {
        let mut daemon = TestDaemon::fake("[[init-exit:3]]").home(home).start();
        expect_end(&mut daemon, 1);
        let exit = &status(&daemon)["lastExit"];
        assert_eq!(
            (&exit["generation"], &exit["upstream"]),
            (&json!(generation), &json!("exited with code 3"))
        );
        home = daemon.into_home();
    }
    // Once it is well again, all is.
    let mut daemon = TestDaemon::fake("[[strict]]").home(home).ready();
    assert_eq!(status(&daemon)["lastExit"]["generation"], 3);
    quiet_client(&daemon, "one");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_stopped_upstream_is_killed() {
    let builder = TestDaemon::fake("").args(["--probe-interval", "200ms", "--probe-timeout", "200ms"]);
    let mut daemon = builder.ready();
    let mut client = daemon.client("one");
    let pending = client.send_request("command/exec", json!({"command": ["sleep", "300"]}));
    handled(&mut client);
    daemon.signal_upstream(Signal::SIGSTOP);
    // Clients are notified at once; killing the process takes longer.
    let error = client.response(pending).unwrap_err();
    assert_eq!((error.code, reason(&error)), (-32010, "upstreamUnresponsive"));
    expect_end(&mut daemon, 1);
}

#[test]
fn a_request_after_the_loss_is_answered_until_the_connection_ends() {
    let mut daemon = TestDaemon::fake("[[ignore-term]][[ignore-eof]]").ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    client.start_turn(&thread, "[[garbage]][[hang]]");
    client.take_method(TURN_END);
    // The upstream does not go yet, so the daemon is still there.
    let error = client.try_request("model/list", json!({})).unwrap_err();
    assert_eq!((error.code, reason(&error)), (-32010, "upstreamGarbled"));
    let mark = &error.data["codexd"];
    assert_eq!((&mark["delivered"], &mark["retryable"]), (&json!("no"), &json!(true)));
    daemon.signal_upstream(Signal::SIGKILL);
    expect_end(&mut daemon, 1);
}

#[test]
fn a_refused_handshake_exits_76() {
    let mut daemon = TestDaemon::fake("[[init-error:-32603]]").start();
    expect_end(&mut daemon, 76);
    assert!(daemon.stderr().contains("initialize is refused by the script"), "{}", daemon.stderr());
    assert_eq!(status(&daemon)["lastExit"]["code"], 76);
}

#[test]
fn an_upstream_that_ends_in_the_handshake_exits_1() {
    for code in [0, 1, 42] {
        let mut daemon = TestDaemon::fake(&format!("[[init-exit:{code}]]")).start();
        expect_end(&mut daemon, 1);
        let exit = &status(&daemon)["lastExit"];
        assert_eq!(exit["upstream"], format!("exited with code {code}"));
    }
}

#[test]
fn an_upstream_that_never_answers_the_handshake_is_lost_in_the_end() {
    let mut daemon = TestDaemon::fake("[[init-hang]]").start();
    wait_for_state(&daemon, "handshaking");
    let mut client = daemon.raw_client("early");
    // The handshake may take half a minute, in which a test would have given up.
    client.set_patience(4 * codexd_tests::wait::PATIENCE);
    let info = json!({"clientInfo": {"name": "early", "version": "1"}});
    let id = client.send_request("initialize", info);
    let error = client.response(id).unwrap_err();
    assert_eq!((error.code, reason(&error)), (-32010, "upstreamUnresponsive"));
    client.recv_to_end();
    expect_end(&mut daemon, 1);
    assert_eq!(status(&daemon)["lastExit"]["code"], 1);
}

#[test]
fn a_client_that_came_before_a_failed_handshake_gets_its_errors() {
    let mut daemon = TestDaemon::fake("[[init-hang]]").start();
    wait_for_state(&daemon, "handshaking");
    let mut client = daemon.raw_client("early");
    let info = json!({"clientInfo": {"name": "early", "version": "1"}});
    let requests = [client.send_request("initialize", info), client.send_request("model/list", json!({}))];
    codexd_tests::wait::until("the client is known", || status(&daemon)["clients"] == 1);
    daemon.signal_upstream(Signal::SIGKILL);
    let seen = client.recv_to_end();
    for id in requests {
        let answers: Vec<_> = seen.iter().filter(|message| message.is_answer_to(id)).collect();
        assert_eq!(answers.len(), 1, "{seen:?}");
        let error = answers[0].outcome().unwrap_err();
        assert_eq!((error.code, reason(&error)), (-32010, "upstreamLost"));
    }
    expect_end(&mut daemon, 1);
}

#[test]
fn a_codex_that_cannot_be_run_exits_69() {
    let home = Home::new().unwrap();
    let file = |name: &str, text: &str, mode: u32| {
        let path = home.root().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let cases = [
        (home.root().join("missing"), "no such file"),
        (file("plain", "x", 0o644), "cannot be executed"),
        (home.project(), "cannot be executed"),
        (file("no-interpreter", "#!/no/such/interpreter\n", 0o755), "cannot start"),
        (file("bare", "exit 0\n", 0o755), "does not begin with `#!`"),
    ];
    for (program, words) in cases {
        let mut daemon = TestDaemon::program(&program).start();
        expect_end(&mut daemon, 69);
        assert!(daemon.stderr().contains(words), "{}: {}", program.display(), daemon.stderr());
    }
}

#[test]
fn what_was_sent_before_a_loss_is_answered_also_if_it_was_not_read_yet() {
    let mut daemon = TestDaemon::fake("").ready();
    let mut known = daemon.client("known");
    let mut fresh = daemon.raw_client("fresh");
    let upstream = daemon.upstream_pid();
    codexd_tests::wait::until("both are in", || status(&daemon)["clients"] == 2);
    daemon.signal(Signal::SIGSTOP);
    let asked = known.send_request("model/list", json!({}));
    let greeted = fresh.send_request("initialize", json!({"clientInfo": {"name": "fresh", "version": "1"}}));
    let asked_too = fresh.send_request("model/list", json!({}));
    kill(Pid::from_raw(upstream), Signal::SIGKILL).unwrap();
    daemon.signal(Signal::SIGCONT);
    assert_eq!(known.response(asked).unwrap_err().code, -32010);
    // Either it was initialized before the loss was seen, or it gets the error.
    let introduced = fresh.response(greeted).map_err(|error| error.code);
    assert!(introduced.is_ok() || introduced == Err(-32010), "{introduced:?}");
    assert_eq!(fresh.response(asked_too).unwrap_err().code, -32010);
    known.recv_to_end();
    fresh.recv_to_end();
    expect_end(&mut daemon, 1);
}

#[test]
fn clients_that_connect_at_the_moment_of_the_loss_get_an_end_and_hold_nothing_up() {
    // In which order the daemon learns of the end and of the connections is not given, so it is tried several times.
    for _ in 0..8 {
        let mut daemon = TestDaemon::fake("").ready();
        let upstream = daemon.upstream_pid();
        daemon.signal(Signal::SIGSTOP);
        kill(Pid::from_raw(upstream), Signal::SIGKILL).unwrap();
        let mut clients: Vec<TestClient> = ["one", "two", "three"].map(|name| daemon.raw_client(name)).into();
        for client in &mut clients {
            client.send_request("initialize", json!({"clientInfo": {"name": "late", "version": "1"}}));
        }
        daemon.signal(Signal::SIGCONT);
        clients.iter_mut().for_each(|client| drop(client.recv_to_end()));
        expect_end(&mut daemon, 1);
    }
}
