//! Whose a process is: what descends from codex ends with the daemon, or with the start of the next one, and
//! nothing else is touched.
#![cfg(target_os = "linux")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use codexd_tests::binary;
use codexd_tests::codex::Version;
use codexd_tests::daemon::TestDaemon;
use codexd_tests::home::Home;
use codexd_tests::notify::NotifySocket;
use codexd_tests::process::{self, Process};
use codexd_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::{Started, expect_end};

/// Writes a program that runs `before` in a shell and becomes codexd then.
fn started_after(home: &Home, before: &str) -> PathBuf {
    let path = home.root().join("start");
    std::fs::write(&path, format!("#!/bin/sh\n{before}\nexec '{}' \"$@\"\n", binary::codexd().display()))
        .unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    path
}

fn running(daemon: &TestDaemon, command: &str) -> Vec<Process> {
    daemon.processes().into_iter().filter(|process| process.command == command).collect()
}

fn is_alive(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None).is_ok()
}

/// Starts the next daemon of the same world and waits until it is ready.
fn next(daemon: &TestDaemon) -> Started {
    let path = daemon.home().root().join("next");
    let notify = NotifySocket::open(&path).unwrap();
    let log = std::fs::File::create(daemon.home().root().join("next.log")).unwrap();
    let next = Started::of(daemon.command(&["serve"]).env("NOTIFY_SOCKET", &path).stderr(log));
    assert!(notify.wait_for(wait::PATIENCE, |line| line == "READY=1").is_some(), "the next daemon is ready");
    next
}

fn next_log(daemon: &TestDaemon) -> String {
    std::fs::read_to_string(daemon.home().root().join("next.log")).unwrap()
}

/// Runs a command for a client and returns what it printed.
fn exec(daemon: &TestDaemon, script: &str) -> String {
    let mut client = daemon.client("exec");
    let result = client.request("command/exec", json!({"command": ["sh", "-c", script]}));
    assert_eq!(result["exitCode"], 0, "{result}");
    result["stdout"].as_str().unwrap().trim().to_owned()
}

#[test]
fn children_that_were_there_before_codexd_outlive_it() {
    let home = Home::new().unwrap();
    let program = started_after(&home, "sleep 1000 & sleep 1001 & sleep 1001 &");
    let mut daemon = TestDaemon::fake("").home(home).codexd(&program).orphans_allowed().ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    client.turn(&thread, "[[orphan]][[orphan]]");
    let hold = format!("{} hold", binary::fake_codex().display());
    assert_eq!(running(&daemon, &hold).len(), 2);
    // One that ends meanwhile is reaped, whatever its parent was.
    let ends = running(&daemon, "sleep 1001")[0].pid;
    kill(Pid::from_raw(ends), Signal::SIGTERM).unwrap();
    wait::until("the child is taken in", || !is_alive(ends));
    assert_eq!(daemon.stop(), 0);
    assert_eq!(running(&daemon, &hold), []);
    assert_eq!((running(&daemon, "sleep 1000").len(), running(&daemon, "sleep 1001").len()), (1, 1));
}

#[test]
fn children_that_were_there_before_codexd_outlive_the_loss_of_codex() {
    let home = Home::new().unwrap();
    let program = started_after(&home, "(sleep 1000 & sleep 1000 & wait) &");
    let mut daemon = TestDaemon::fake("").home(home).codexd(&program).orphans_allowed().ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    client.turn(&thread, "[[orphan]]");
    // What a stranger leaves is a stranger: codexd adopts these two.
    let shell = daemon.processes().into_iter().find(|it| it.command.starts_with("/bin/sh")).unwrap();
    kill(Pid::from_raw(shell.pid), Signal::SIGKILL).unwrap();
    wait::until("the shell is taken in", || !is_alive(shell.pid));
    daemon.signal_upstream(Signal::SIGKILL);
    assert_eq!(daemon.wait_exit().code(), Some(1));
    assert_eq!(running(&daemon, "sleep 1000").len(), 2);
    assert_eq!(daemon.processes().len(), 2, "{:?}", daemon.processes());
}

#[test]
fn a_command_that_cleared_its_environment_ends_with_the_daemon() {
    let mut daemon = TestDaemon::fake("").ready();
    let pid: i32 = exec(&daemon, "env -i setsid sleep 1000 >/dev/null 2>&1 & echo $!").parse().unwrap();
    // `setsid` forks where it has to, and then the sleep has another number.
    wait::until("it is adopted", || is_alive(pid));
    assert_eq!(daemon.stop(), 0);
    assert!(!is_alive(pid));
    expect_end(&mut daemon, 0);
}

#[test]
fn after_a_hard_kill_the_next_start_ends_what_was_left() {
    let mut daemon = TestDaemon::fake("").ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    client.turn(&thread, "[[orphan]][[orphan]]");
    let codex = daemon.upstream_pid();
    daemon.kill9();
    daemon.wait_exit();
    client.recv_to_end();
    let hold = format!("{} hold", binary::fake_codex().display());
    let left = running(&daemon, &hold);
    assert_eq!(left.len(), 2, "nobody has ended them");
    let report = daemon.run(&["doctor", "--json"]).json();
    let findings = report["findings"].as_array().unwrap();
    let finding =
        findings.iter().find(|it| it["check"] == "leftBehind").unwrap()["message"].as_str().unwrap();
    assert!(left.iter().all(|process| finding.contains(&process.pid.to_string())), "{finding}");

    let mut next = next(&daemon);
    assert_eq!(running(&daemon, &hold), []);
    // Codex may be a zombie of the process that adopted it, and has no environment then.
    assert!(!daemon.pids().contains(&codex));
    assert!(next_log(&daemon).contains("ending leftover processes of an earlier daemon"));
    assert_eq!(daemon.processes().len(), 2, "the daemon and its codex: {:?}", daemon.processes());
    next.terminate();
    assert_eq!(next.exit_code(), Some(0));
    assert_eq!(lives(&daemon), json!([]), "nothing is left to look for");
}

/// Returns the lives that the record knows of, which may have left something.
fn lives(daemon: &TestDaemon) -> Value {
    let mut files = std::fs::read_dir(daemon.home().state().join("codexd")).unwrap().flatten();
    let record = files.find(|file| file.path().extension().is_some_and(|it| it == "json")).unwrap();
    serde_json::from_slice::<Value>(&std::fs::read(record.path()).unwrap()).unwrap()["lives"].clone()
}

#[test]
fn what_does_not_go_when_asked_is_killed_by_the_next_start() {
    let mut daemon = TestDaemon::fake("[[ignore-term]][[ignore-eof]]").ready();
    let codex = daemon.upstream_pid();
    daemon.kill9();
    daemon.wait_exit();
    // A stubborn codex holds neither the lock nor the socket.
    assert_eq!(daemon.ctl(&["status"]).code(), Some(3));
    assert!(is_alive(codex));
    let mut next = next(&daemon);
    assert!(!daemon.pids().contains(&codex));
    next.terminate();
    assert_eq!(next.exit_code(), Some(0));
}

#[test]
fn daemons_that_are_killed_one_after_another_leave_nothing_for_ever() {
    let mut daemon = TestDaemon::fake("").ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    client.turn(&thread, "[[orphan]]");
    daemon.kill9();
    daemon.wait_exit();
    // These die before they can look for anything: their record has what they knew.
    for _ in 0..3 {
        let record = |daemon: &TestDaemon| lives(daemon).as_array().unwrap().len();
        let before = record(&daemon);
        let mut command = daemon.command(&["serve"]);
        let mut killed = Started::of(command.stderr(std::process::Stdio::null()));
        wait::until("the record is begun", || {
            record(&daemon) != before || killed.0.try_wait().unwrap().is_some()
        });
        killed.0.kill().unwrap();
        killed.0.wait().unwrap();
    }
    let mut next = next(&daemon);
    let hold = format!("{} hold", binary::fake_codex().display());
    assert_eq!(running(&daemon, &hold), []);
    assert_eq!(daemon.processes().len(), 2, "{:?}", daemon.processes());
    next.terminate();
    assert_eq!(next.exit_code(), Some(0));
    assert_eq!(lives(&daemon), json!([]));
}

#[test]
fn a_stranger_with_the_mark_of_another_life_is_left_alone() {
    let mut daemon = TestDaemon::fake("").ready();
    let sleeper = |life: &str| {
        let mut command = daemon.home().command(std::path::Path::new("sleep"));
        Started::of(command.arg("1000").env("CODEXD_LIFE", life))
    };
    let mut strangers = ["00000000000000000000000000000000", "none", ""].map(sleeper);
    daemon.kill9();
    daemon.wait_exit();
    let mut next = next(&daemon);
    next.terminate();
    assert_eq!(next.exit_code(), Some(0));
    for stranger in &mut strangers {
        assert_eq!(stranger.0.try_wait().unwrap(), None);
    }
}

#[test]
fn who_starts_the_next_daemon_from_a_command_of_the_killed_one_lives() {
    let mut daemon = TestDaemon::fake("").ready();
    let token = |pid: i32| {
        let environment = std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
        let mut lines = environment.split('\0').map(str::to_owned);
        lines.find_map(|line| line.strip_prefix("CODEXD_LIFE=").map(str::to_owned)).unwrap()
    };
    let token = token(daemon.upstream_pid());
    daemon.kill9();
    daemon.wait_exit();
    // As a shell in a terminal that was opened by a command of codex.
    let path = daemon.home().root().join("above");
    let notify = NotifySocket::open(&path).unwrap();
    let serve = daemon.command(&["serve"]);
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "\"$@\"; echo $? > \"$0\""])
        .arg(daemon.home().root().join("code"))
        .arg(serve.get_program());
    shell.args(serve.get_args()).env_clear().envs(serve.get_envs().filter_map(|(k, v)| Some((k, v?))));
    shell.env("NOTIFY_SOCKET", &path).env("CODEXD_LIFE", token).stderr(std::process::Stdio::null());
    let mut shell = Started::of(&mut shell);
    assert!(notify.wait_for(wait::PATIENCE, |line| line == "READY=1").is_some());
    assert_eq!(shell.0.try_wait().unwrap(), None);
    let _ = daemon.ctl(&["stop"]).expect_code(0);
    assert_eq!(shell.exit_code(), Some(0));
    assert_eq!(std::fs::read_to_string(daemon.home().root().join("code")).unwrap(), "0\n");
}

#[test]
fn a_daemon_that_a_command_of_codex_has_started_outlives_that_codex() {
    let mut daemon = TestDaemon::fake("").ready();
    let run = daemon.home().runtime();
    let script = format!(
        "CODEXD_INSTANCE=other CODEXD_SOCKET={0}/s2 CODEXD_CONTROL_SOCKET={0}/c2 CODEXD_CODEX={1} '{2}' connect --no-direct \
         </dev/null",
        run.display(),
        binary::fake_codex().display(),
        binary::codexd().display(),
    );
    exec(&daemon, &script);
    let control = run.join("c2");
    let other = |words: &[&str]| {
        daemon.run(&[&["ctl", "--control-socket", control.to_str().unwrap()], words].concat())
    };
    let pid = other(&["status", "--field", "state,pid"]).expect_code(0).stdout;
    daemon.term();
    assert_eq!(daemon.wait_exit().code(), Some(0));
    let other = |words: &[&str]| {
        daemon.run(&[&["ctl", "--control-socket", control.to_str().unwrap()], words].concat())
    };
    assert_eq!(other(&["status", "--field", "state,pid"]).expect_code(0).stdout, pid);
    let _ = other(&["stop"]).expect_code(0);
    expect_end(&mut daemon, 0);
}

#[test]
fn commands_of_the_real_codex_carry_the_mark_and_end_with_the_next_start() {
    for stopped in [false, true] {
        let Some(builder) = TestDaemon::real(Version::Current) else { return };
        let mut daemon = builder.ready();
        let mut client = daemon.client("one");
        client.answer_approvals("accept");
        let thread = client.start_thread(json!({"cwd": daemon.home().project(), "approvalPolicy": "never"}));
        client.start_turn(&thread, "[[shell:setsid sleep 300 & sleep 301;;yield_time_ms=250]] go");
        let runs = |command: &str| !running(&daemon, command).is_empty();
        wait::until("the commands run", || runs("sleep 300") && runs("sleep 301"));
        if stopped {
            daemon.signal_upstream(Signal::SIGSTOP);
        }
        daemon.kill9();
        daemon.wait_exit();
        client.recv_to_end();
        if stopped {
            assert!(!running(&daemon, "sleep 301").is_empty());
        } else {
            wait::until("codex has ended", || {
                !daemon.processes().iter().any(|process| process.command.contains(" app-server"))
            });
        }
        assert!(!running(&daemon, "sleep 300").is_empty(), "nobody has ended it");
        let mut next = next(&daemon);
        assert_eq!((running(&daemon, "sleep 300"), running(&daemon, "sleep 301")), (vec![], vec![]));
        assert_eq!(daemon.processes().iter().filter(|it| it.command.contains(" app-server")).count(), 1);
        next.terminate();
        assert_eq!(next.exit_code(), Some(0));
        process::assert_no_process_left(daemon.home().root());
    }
}
