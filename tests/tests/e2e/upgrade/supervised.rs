//! Under a supervisor: the daemon exits so that it is started again, and what the supervisor starts is tried before.

use super::{Home, Message, Output, TestDaemon, codex, place};

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use codexd_tests::binary;
use codexd_tests::lab::{Lab, User};
use codexd_tests::wait;
use serde_json::json;

fn start(home: Arc<Home>, codexd: &Path, program: &Path) -> TestDaemon {
    TestDaemon::program(program).home(home).codexd(codexd).args(["--supervised"]).ready()
}

fn begin(daemon: &TestDaemon, flags: &[&str]) -> JoinHandle<Output> {
    let mut command = daemon.command(&[&["ctl", "upgrade", "--json"], flags].concat());
    std::thread::spawn(move || Output::of(&mut command))
}

fn prepared() -> (Arc<Home>, PathBuf, PathBuf) {
    let home = Arc::new(Home::new().unwrap());
    let (codexd, program) = (home.root().join("codexd"), home.root().join("codex.sh"));
    place::copy(&binary::codexd(), &codexd);
    place::write(&program, &codex("1.0.0"));
    (home, codexd, program)
}

#[test]
fn the_daemon_exits_with_a_code_that_starts_the_next_one() {
    let (home, codexd, program) = prepared();
    let mut daemon = start(Arc::clone(&home), &codexd, &program);
    place::copy(&binary::codexd(), &codexd);
    let status = daemon.ctl(&["status", "--json"]).expect_code(0).json();
    assert_eq!(status["installed"]["executable"], codexd.display().to_string());
    if cfg!(target_os = "linux") {
        assert_eq!(status["installed"]["version"], status["version"]);
    }
    let warned = status["warnings"].as_array().unwrap().iter().any(|it| it["code"] == "codexdReplaced");
    assert!(warned, "{status}");
    let upgrade = begin(&daemon, &[]);
    assert_eq!(daemon.wait_exit().code(), Some(79));
    let said = daemon.stderr();
    assert!(said.contains("exits with 79 (upgrade), because codexd ends, and the next daemon"), "{said}");
    // The supervisor does what it does after this code.
    let next = start(home, &codexd, &program);
    let result = upgrade.join().unwrap().expect_code(0).json();
    assert_eq!((&result["upgraded"], &result["pid"]), (&json!(true), &json!(next.pid())));
    let status = next.ctl(&["status", "--json"]).expect_code(0).json();
    assert_eq!((&status["installed"], &status["lastExit"]["code"]), (&json!(null), &json!(79)));
}

#[test]
fn a_codexd_that_does_not_run_is_refused_in_its_own_words() {
    let (home, codexd, program) = prepared();
    let daemon = start(home, &codexd, &program);
    let mut client = daemon.client("client");
    let thread = client.start_thread(json!({}));
    for (text, says) in [
        ("#!/bin/sh\necho 'version `GLIBC_9.9` not found' >&2\nexit 1\n", "version `GLIBC_9.9` not found"),
        ("#!/bin/sh\nexit 0\n", "does not run as a daemon"),
        ("no program at all", "cannot be started"),
    ] {
        place::write(&codexd, text);
        // The command itself is another codexd, which is not the one that the supervisor starts.
        let mut command = daemon.home().command(&binary::codexd());
        command.args(["ctl", "upgrade", "--control-socket"]).arg(daemon.control_socket());
        let output = Output::of(&mut command).expect_code(69);
        assert!(output.stderr.contains(says), "{output}");
    }
    place::copy(&binary::codexd(), &codexd);
    assert_eq!(client.turn(&thread, "it goes on").status, "completed");
}

#[test]
fn a_unit_of_systemd_runs_the_new_codex_after_an_upgrade() {
    let Some(lab) = Lab::boot(User::Ordinary) else { return };
    lab.start();
    let service = "codexd.service";
    let mut client = lab.client("client");
    let thread = client.start_thread(json!({}));
    let turn = client.start_turn(&thread, "[[approve]] go");
    let approval = client.take("the approval", Message::is_server_request);
    let first = lab.show(service, "MainPID");
    let (program, stand_in) = (lab.programs().join("codex"), lab.programs().join("stand-in"));
    place::copy(&program, &stand_in);
    let (here, there) = (binary::fake_codex().display().to_string(), stand_in.display().to_string());
    place::write(&program, &codex("2.0.0").replace(&here, &there));
    std::thread::scope(|scope| {
        let upgrade = scope.spawn(|| lab.run(&["codexd", "ctl", "upgrade", "--json"]));
        wait::until("the upgrade waits", || {
            !lab.run(&["codexd", "ctl", "status", "--field", "upgrade.sinceMs"]).stdout.trim().is_empty()
        });
        client.answer(&approval, json!({"decision": "accept"}));
        assert_eq!(client.finish_turn(&thread, &turn).status, "completed");
        let result = upgrade.join().unwrap().expect_code(0).json();
        assert_eq!((&result["upgraded"], &result["to"]["codex"]), (&json!(true), &json!("2.0.0")));
    });
    assert_eq!(lab.show(service, "ActiveState"), "active");
    assert_ne!(lab.show(service, "MainPID"), first);
    assert_eq!(lab.show(service, "NRestarts"), "1");
    assert_eq!(lab.processes(service).len(), 2);
    let mut next = lab.client("next");
    let thread = next.start_thread(json!({}));
    assert_eq!(next.turn(&thread, "after").status, "completed");
}
