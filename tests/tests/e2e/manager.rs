//! What the daemon sends to its service manager, and what a reload of the settings does.

use std::time::Duration;

use codexd_tests::daemon::TestDaemon;
use codexd_tests::wait::{self, PATIENCE};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

fn said(daemon: &TestDaemon, wanted: &str) -> usize {
    daemon.notify().lines().iter().filter(|line| *line == wanted).count()
}

fn write_config(daemon: &TestDaemon, text: &str) {
    let directory = daemon.home().config().join("codexd");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("config.toml"), text).unwrap();
}

#[test]
fn a_running_core_notifies_the_watchdog_and_a_frozen_one_does_not() {
    let mut daemon = TestDaemon::fake("").env("WATCHDOG_USEC", "200000").ready();
    wait::until("three pings", || said(&daemon, "WATCHDOG=1") >= 3);
    daemon.signal(Signal::SIGSTOP);
    // The signal is delivered when the process next runs; what it sent before that is on its way.
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
    wait::until("it is stopped", || state().rsplit_once(") ").unwrap().1.starts_with('T'));
    let before = said(&daemon, "WATCHDOG=1");
    let silence = daemon.notify().wait_for(Duration::from_millis(600), |_| false);
    assert_eq!((silence, said(&daemon, "WATCHDOG=1")), (None, before));
    daemon.signal(Signal::SIGCONT);
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_frozen_codex_ends_the_pings_with_the_daemon() {
    let mut daemon = TestDaemon::fake("")
        .env("WATCHDOG_USEC", "200000")
        .args(["--probe-interval", "100ms", "--probe-timeout", "200ms"])
        .ready();
    kill(Pid::from_raw(daemon.upstream_pid()), Signal::SIGSTOP).unwrap();
    assert_eq!(daemon.wait_exit().code(), Some(1));
    let lines = daemon.notify().lines();
    assert!(lines.contains(&"STOPPING=1".to_owned()), "{lines:?}");
}

#[test]
fn a_drain_asks_for_time_and_a_stop_says_so() {
    let mut daemon = TestDaemon::fake("").args(["--drain-timeout", "never"]).ready();
    let mut client = daemon.client("a");
    let thread = client.start_thread(json!({}));
    let turn = client.start_turn(&thread, "[[approve]] go");
    let approval = client.take("the approval", |message| message.is_server_request());
    daemon.term();
    let asked = daemon.notify().wait_for(PATIENCE, |line| line.starts_with("EXTEND_TIMEOUT_USEC="));
    assert_eq!(asked.as_deref(), Some("EXTEND_TIMEOUT_USEC=20000000"));
    // Again while it goes on: the time that was given is no more than a part of it.
    wait::until("more time is asked for", || said(&daemon, "EXTEND_TIMEOUT_USEC=20000000") >= 2);
    client.answer(&approval, json!({"decision": "accept"}));
    assert_eq!(client.finish_turn(&thread, &turn).status, "completed");
    assert_eq!(daemon.wait_exit().code(), Some(0));
    assert_eq!(said(&daemon, "STOPPING=1"), 1);
}

#[test]
fn a_hangup_reads_the_settings_again() {
    let mut daemon = TestDaemon::fake("").ready();
    write_config(&daemon, "log_level = \"debug\"\nidle_exit = \"1h\"\ncodex_args = [\"-x\"]\n");
    daemon.signal(Signal::SIGHUP);
    let notify = daemon.notify();
    assert!(notify.wait_for(PATIENCE, |line| line == "RELOADING=1").is_some());
    assert!(notify.wait_for(PATIENCE, |line| line.starts_with("MONOTONIC_USEC=")).is_some());
    wait::until("it is ready again", || said(&daemon, "READY=1") == 2);
    let status = daemon.ctl(&["status", "--json"]).expect_code(0).json();
    assert_eq!(status["warnings"][0]["code"], "restartNeeded");
    assert!(status["warnings"][0]["message"].as_str().unwrap().contains("codex_args"), "{status}");
    wait::until("the new level is in force", || daemon.stderr().contains("DEBUG"));

    // Back to the old ones, through the control socket.
    write_config(&daemon, "");
    let receipt = daemon.ctl(&["reload", "--json"]).expect_code(0).json();
    assert_eq!(receipt["applied"], json!(["idle_exit", "log_level"]));
    assert_eq!(receipt["needsRestart"], json!([]));
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn settings_that_cannot_be_used_change_nothing() {
    let mut daemon = TestDaemon::fake("").ready();
    write_config(&daemon, "idle_exti = \"1ms\"\n");
    let refused = daemon.ctl(&["reload"]).expect_code(1);
    assert!(refused.stderr.contains("idle_exti"), "{refused}");
    let status = daemon.ctl(&["status", "--json"]).expect_code(0).json();
    assert_eq!(status["warnings"][0]["code"], "settingsNotReloaded");
    let thread = daemon.client("a").start_thread(json!({}));
    assert!(!thread.is_empty());
    write_config(&daemon, "");
    let _ = daemon.ctl(&["reload"]).expect_code(0);
    assert_eq!(daemon.ctl(&["status", "--json"]).expect_code(0).json()["warnings"], json!([]));
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn limits_change_while_clients_are_connected() {
    let mut daemon = TestDaemon::fake("").ready();
    let mut first = daemon.client("first");
    write_config(&daemon, "[limits]\nmax_clients = 1\nwindow = 1\n");
    let receipt = daemon.ctl(&["reload", "--json"]).expect_code(0).json();
    assert_eq!(receipt["applied"], json!(["limits"]));
    assert_eq!(daemon.raw_client("second").recv_to_end(), []);
    let thread = first.start_thread(json!({}));
    assert_eq!(first.turn(&thread, "hello").status, "completed");
    write_config(&daemon, "");
    let _ = daemon.ctl(&["reload"]).expect_code(0);
    let _ = daemon.client("third");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn the_log_level_changes_by_hand() {
    let mut daemon = TestDaemon::fake("").ready();
    let _ = daemon.ctl(&["log-level", "debug"]).expect_code(0);
    let _ = daemon.client("a");
    wait::until("a debug line", || daemon.stderr().contains("DEBUG"));
    let _ = daemon.ctl(&["log-level", "loud"]).expect_code(64);
    assert_eq!(daemon.stop(), 0);
    let _ = daemon.ctl(&["log-level", "debug"]).expect_code(3);
    let _ = daemon.ctl(&["reload"]).expect_code(3);
}
