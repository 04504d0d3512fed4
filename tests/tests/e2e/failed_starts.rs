//! Starts that fail before the daemon holds its instance: `ctl status` reports them, and a running daemon is not
//! affected.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use codexd_tests::binary;
use codexd_tests::daemon::TestDaemon;
use codexd_tests::home::Home;
use codexd_tests::output::Output;
use serde_json::{Value, json};

use crate::support::{Started, status};

fn codexd(home: &Home, arguments: &[&str]) -> Command {
    let mut command = home.command(&binary::codexd());
    command.args(arguments).env("CODEXD_CODEX", binary::fake_codex());
    command
}

fn ctl_status(home: &Home) -> Value {
    Output::of(&mut codexd(home, &["ctl", "status", "--json"])).json()
}

/// Has a daemon live and stop in this world: an older, good end.
fn lives_and_stops(home: &Home) {
    let mut daemon = Started::of(codexd(home, &["serve"]).stderr(std::process::Stdio::null()));
    let _ = Output::of(&mut codexd(home, &["ctl", "wait", "ready"])).expect_code(0);
    daemon.terminate();
    assert_eq!(daemon.exit_code(), Some(0));
    assert_eq!(ctl_status(home)["lastExit"]["code"], 0);
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// What makes a start fail: the exit code, a word of the reason, what to do before and after, and the flags.
struct Case {
    code: i32,
    says: &'static str,
    spoil: fn(&Home),
    fix: fn(&Home),
    flags: &'static [&'static str],
}

fn cases() -> Vec<Case> {
    let nothing: fn(&Home) = |_| {};
    vec![
        Case { code: 64, says: "--bogus", spoil: nothing, fix: nothing, flags: &["--bogus"] },
        Case {
            code: 69,
            says: "/nowhere/codex",
            spoil: nothing,
            fix: nothing,
            flags: &["--codex", "/nowhere/codex"],
        },
        Case {
            code: 73,
            says: "not a directory",
            spoil: |home| {
                std::fs::remove_dir_all(home.runtime().join("codexd")).unwrap();
                std::fs::write(home.runtime().join("codexd"), "").unwrap();
            },
            fix: |home| std::fs::remove_file(home.runtime().join("codexd")).unwrap(),
            flags: &[],
        },
        Case {
            code: 77,
            says: "not safe",
            spoil: |home| set_mode(&home.runtime().join("codexd"), 0o755),
            fix: |home| set_mode(&home.runtime().join("codexd"), 0o700),
            flags: &[],
        },
        Case {
            code: 78,
            says: "bogus",
            spoil: |home| home.write_config("bogus = 1\n").unwrap(),
            fix: |home| home.write_config("").unwrap(),
            flags: &[],
        },
    ]
}

#[test]
fn each_failed_start_is_the_last_exit_with_its_code_and_reason() {
    for Case { code, says, spoil, fix, flags } in cases() {
        let home = Home::new().unwrap();
        lives_and_stops(&home);
        spoil(&home);
        let output = Output::of(&mut codexd(&home, &[&["serve"], flags].concat())).expect_code(code);
        assert!(output.stderr.contains(says), "{output}");
        let reported = Output::of(&mut codexd(&home, &["ctl", "status"])).expect_code(3);
        assert!(
            reported.stderr.contains(&format!(": exit {code} (")) && reported.stderr.contains(says),
            "{reported}"
        );
        let now = ctl_status(&home);
        assert_eq!(
            (&now["lastExit"]["code"], &now["failedStart"]["code"]),
            (&json!(code), &json!(code)),
            "{now}"
        );
        assert!(now["lastExit"]["reason"].as_str().unwrap().contains(says), "{now}");
        assert_eq!(now["failedStart"]["otherDaemon"], false);
        fix(&home);
        // The next one begins with it, and from its own end on it is history.
        let mut daemon = Started::of(codexd(&home, &["serve"]).stderr(std::process::Stdio::null()));
        let _ = Output::of(&mut codexd(&home, &["ctl", "wait", "ready"])).expect_code(0);
        let now = ctl_status(&home);
        assert_eq!((&now["lastExit"]["code"], &now["failedStart"]), (&json!(code), &Value::Null), "{now}");
        daemon.terminate();
        assert_eq!(daemon.exit_code(), Some(0));
        assert_eq!(ctl_status(&home)["lastExit"]["code"], 0);
    }
}

#[test]
fn a_failed_start_is_reported_where_no_daemon_has_ever_run() {
    let home = Home::new().unwrap();
    let mut daemon = TestDaemon::program(Path::new("/nowhere/codex")).home(home).start();
    assert_eq!(daemon.wait_exit().code(), Some(69));
    let now = status(&daemon);
    assert_eq!(now["lastExit"]["code"], 69, "{now}");
    let reported = daemon.ctl(&["status"]).expect_code(3);
    assert!(
        reported.stderr.contains("/nowhere/codex") && reported.stderr.contains("hint: install codex"),
        "{reported}"
    );
    assert_eq!(daemon.ctl(&["status", "--field", "failedStart.code"]).stdout, "69\n");
}

#[test]
fn an_instance_that_was_named_is_found_in_a_command_line_that_is_wrong() {
    let home = Home::new().unwrap();
    let _ = Output::of(&mut codexd(&home, &["serve", "--bogus", "--instance", "work"])).expect_code(64);
    let mut command = codexd(&home, &["ctl", "status", "--json"]);
    let now = Output::of(command.env("CODEXD_INSTANCE", "work")).json();
    assert_eq!((&now["instance"], &now["lastExit"]["code"]), (&json!("work"), &json!(64)), "{now}");
    assert_eq!(ctl_status(&home)["lastExit"], Value::Null);
}

#[test]
fn under_launchd_the_code_is_in_the_status_although_the_process_exits_0() {
    let home = Home::new().unwrap();
    let flags = ["serve", "--supervised", "--permanent-exit-zero", "--codex", "/nowhere/codex"];
    let _ = Output::of(&mut codexd(&home, &flags)).expect_code(0);
    assert_eq!(ctl_status(&home)["lastExit"]["code"], 69);
}

#[test]
fn a_start_beside_a_living_daemon_changes_nothing_of_its_and_is_reported_beside_it() {
    let mut daemon = TestDaemon::fake("[[strict]]").ready();
    let record = std::path::PathBuf::from(status(&daemon)["recordFile"].as_str().unwrap());
    let before = std::fs::read(&record).unwrap();
    for (code, flags) in
        [(75, &["serve"][..]), (69, &["serve", "--codex", "/nowhere/codex"]), (64, &["serve", "--bogus"])]
    {
        let _ = daemon.run(flags).expect_code(code);
        assert_eq!(std::fs::read(&record).unwrap(), before, "{code}");
        let now = status(&daemon);
        let failed = &now["failedStart"];
        assert_eq!((&failed["code"], &failed["otherDaemon"]), (&json!(code), &json!(true)), "{now}");
        assert_eq!((&now["state"], &now["lastExit"]), (&json!("serving"), &Value::Null), "{now}");
        let reported = daemon.ctl(&["status"]).expect_code(0);
        assert!(reported.stdout.contains(&format!("failed start exit {code} (")), "{reported}");
    }
    daemon.client("one").recv_to_barrier();
    assert_eq!(daemon.stop(), 0);
    let now = status(&daemon);
    assert_eq!((&now["lastExit"]["code"], &now["failedStart"]["code"]), (&json!(0), &json!(64)), "{now}");
    let reported = daemon.ctl(&["status"]).expect_code(3);
    assert!(
        reported.stderr.contains(": exit 0 (") && reported.stderr.contains("last failed start: exit 64"),
        "{reported}"
    );
}

#[test]
fn a_daemon_that_was_killed_is_the_last_exit_although_a_start_failed_beside_it() {
    let mut daemon = TestDaemon::fake("").ready();
    let _ = daemon.run(&["serve", "--codex", "/nowhere/codex"]).expect_code(69);
    daemon.kill9();
    daemon.wait_exit();
    let now = status(&daemon);
    assert_eq!(now["lastExit"]["reason"], "left no record (killed?)", "{now}");
    assert_eq!(now["failedStart"]["code"], 69);
}

#[test]
fn a_socket_that_cannot_be_bound_is_in_the_record() {
    let home = Home::new().unwrap();
    std::fs::write(home.runtime().join("s"), "precious").unwrap();
    let mut daemon = TestDaemon::fake("").home(home).start();
    assert_eq!(daemon.wait_exit().code(), Some(73));
    let now = status(&daemon);
    assert_eq!((&now["lastExit"]["code"], &now["lastExit"]["generation"]), (&json!(73), &json!(1)), "{now}");
}
