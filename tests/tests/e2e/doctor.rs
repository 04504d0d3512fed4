//! `codexd doctor`: each finding, made on purpose.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use codexd_tests::daemon::TestDaemon;
use codexd_tests::home::Home;
use codexd_tests::output::Output;
use codexd_tests::{binary, process};
use serde_json::Value;

fn doctor(home: &Home, code: i32, variables: &[(&str, &str)]) -> Vec<Value> {
    let mut command = home.command(&binary::codexd());
    command.args(["doctor", "--json"]).env("CODEXD_CODEX", binary::fake_codex());
    command.envs(variables.iter().copied());
    let report = Output::of(&mut command).expect_code(code).json();
    assert_eq!(report["ok"], code == 0);
    report["findings"].as_array().unwrap().clone()
}

fn find<'a>(findings: &'a [Value], check: &str) -> &'a Value {
    findings.iter().find(|it| it["check"] == check).unwrap_or_else(|| panic!("no {check} in {findings:#?}"))
}

#[test]
fn a_fresh_account_has_a_login_to_make_and_nothing_else() {
    let home = Home::new().unwrap();
    let findings = doctor(&home, 0, &[]);
    for check in ["settings", "socketPath", "runtimeFolder", "daemon", "codex", "appServers"] {
        assert_eq!(find(&findings, check)["level"], "ok", "{findings:#?}");
    }
    assert_eq!(find(&findings, "login")["fix"], "codex login");
    std::fs::write(home.codex_home().join("auth.json"), "{}").unwrap();
    assert_eq!(find(&doctor(&home, 0, &[]), "login")["level"], "ok");
    // Nothing was made by looking.
    assert_eq!(std::fs::read_dir(home.runtime()).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(home.state()).unwrap().count(), 0);
}

#[test]
fn what_keeps_a_daemon_from_starting_fails_with_its_remedy() {
    let home = Home::new().unwrap();
    let findings = doctor(&home, 1, &[("CODEXD_CODEX", "/nowhere/codex")]);
    assert!(find(&findings, "codex")["fix"].as_str().unwrap().contains("npm install"));
    let long = format!("/{}", "x".repeat(120));
    let findings = doctor(&home, 1, &[("CODEXD_SOCKET", &long)]);
    assert!(find(&findings, "socketPath")["fix"].as_str().unwrap().contains("--socket"));
    let findings = doctor(&home, 1, &[("CODEXD_CONFIG", "/nowhere/config.toml")]);
    assert_eq!(find(&findings, "settings")["level"], "fail");
    let directory = home.runtime().join("codexd");
    std::fs::create_dir(&directory).unwrap();
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755)).unwrap();
    let findings = doctor(&home, 1, &[]);
    assert_eq!(find(&findings, "runtimeFolder")["fix"], format!("chmod 700 {}", directory.display()));
}

#[test]
fn what_a_killed_daemon_left_is_reported() {
    let home = Home::new().unwrap();
    let directory = home.runtime().join("codexd");
    std::fs::create_dir(&directory).unwrap();
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700)).unwrap();
    drop(UnixListener::bind(directory.join("x.sock")).unwrap());
    std::fs::write(directory.join("x.lock"), "1\n").unwrap();
    let findings = doctor(&home, 0, &[("CODEXD_INSTANCE", "x")]);
    assert_eq!(find(&findings, "staleSocket")["level"], "warn");
    assert_eq!(find(&findings, "staleLock")["level"], "warn");
}

#[test]
fn a_second_app_server_on_the_same_codex_home_is_found() {
    let mut daemon = TestDaemon::fake("").ready();
    let look = |daemon: &TestDaemon| {
        let report = daemon.run(&["doctor", "--json"]).expect_code(0).json();
        report["findings"].as_array().unwrap().clone()
    };
    let before = look(&daemon);
    assert_eq!(find(&before, "appServers")["level"], "ok");
    assert!(find(&before, "daemon")["message"].as_str().unwrap().starts_with("serving"), "{before:#?}");
    let codex = daemon.home().root().join("codex-bin");
    std::fs::create_dir(&codex).unwrap();
    symlink(binary::fake_codex(), codex.join("codex")).unwrap();
    let mut command = daemon.home().command(&codex.join("codex"));
    let mut other = command.arg("app-server").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let pid = i32::try_from(other.id()).unwrap();
    let command_line = || process::marked(daemon.home().root()).into_iter().find(|it| it.pid == pid);
    codexd_tests::wait::until("it runs", || {
        command_line().is_some_and(|it| it.command.ends_with("app-server"))
    });
    let found = look(&daemon);
    assert_eq!(find(&found, "appServers")["level"], "warn");
    assert!(find(&found, "appServers")["message"].as_str().unwrap().contains(&pid.to_string()));
    drop(other.stdin.take());
    other.wait().unwrap();
    assert_eq!(daemon.stop(), 0);
}
