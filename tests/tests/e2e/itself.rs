//! codexd in the place of codex: it is passed over, or refused with the way out, and never its own client.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use codexd_tests::binary;
use codexd_tests::daemon::TestDaemon;
use codexd_tests::home::Home;
use codexd_tests::output::Output;
use codexd_tests::process;
use codexd_tests::wait;
use serde_json::json;

use crate::support::{Started, status};

/// Makes a directory with a `codex` in it.
fn place(home: &Home, name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let dir = home.root().join(name);
    std::fs::create_dir(&dir).unwrap();
    make(&dir.join("codex"));
    dir
}

fn script(path: &Path, text: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

fn link(path: &Path) {
    symlink(binary::codexd(), path).unwrap();
}

fn hard_link(path: &Path) {
    // Not every file system has them, and not between every two directories.
    if std::fs::hard_link(binary::codexd(), path).is_err() {
        link(path);
    }
}

fn copy(path: &Path) {
    std::fs::copy(binary::codexd(), path).unwrap();
}

/// As a copy of another version is: the same program, not the same bytes.
fn other_version(path: &Path) {
    copy(path);
    use std::io::Write as _;
    std::fs::File::options().append(true).open(path).unwrap().write_all(b"more").unwrap();
}

/// Puts something at a path.
type Make = fn(&Path);

const DISGUISES: [(&str, Make); 4] =
    [("link", link), ("hard", hard_link), ("copy", copy), ("other", other_version)];

fn search_path(first: &[PathBuf]) -> std::ffi::OsString {
    let rest = std::env::var_os("PATH").unwrap();
    std::env::join_paths(first.iter().cloned().chain(std::env::split_paths(&rest))).unwrap()
}

#[test]
fn codexd_by_the_name_of_codex_is_passed_over_in_path() {
    let home = Home::new().unwrap();
    let mut dirs: Vec<PathBuf> = DISGUISES.iter().map(|(name, make)| place(&home, name, make)).collect();
    dirs.push(place(&home, "real", |path| symlink(binary::fake_codex(), path).unwrap()));
    let path = search_path(&dirs);
    let mut command = home.command(&binary::codexd());
    let mut daemon = Started::of(command.arg("serve").env("PATH", &path).stderr(std::process::Stdio::null()));
    let ctl = |arguments: &[&str]| Output::of(home.command(&binary::codexd()).arg("ctl").args(arguments));
    let _ = ctl(&["wait", "ready"]).expect_code(0);
    let executable = ctl(&["status", "--field", "upstream.executable"]).stdout;
    assert_eq!(Path::new(executable.trim()), dirs.last().unwrap().join("codex"));
    daemon.terminate();
    assert_eq!(daemon.exit_code(), Some(0));
    process::assert_no_process_left(home.root());
}

#[test]
fn codexd_named_as_codex_is_refused_with_the_way_out() {
    for (name, make) in DISGUISES {
        let home = Home::new().unwrap();
        let codex = place(&home, name, make).join("codex");
        let mut daemon = TestDaemon::program(&codex).home(home).start();
        assert_eq!(daemon.wait_exit().code(), Some(69), "{name}: {}", daemon.stderr());
        assert!(daemon.stderr().contains("is codexd itself"), "{}", daemon.stderr());
        for way_out in ["`--codex PATH` or CODEXD_CODEX", "codex = "] {
            assert!(daemon.stderr().contains(way_out), "{}", daemon.stderr());
        }
        assert_eq!(status(&daemon)["lastExit"]["code"], 69);
        daemon.assert_no_process_left();
    }
}

#[test]
fn where_codexd_is_all_there_is_of_codex_that_is_said() {
    let home = Home::new().unwrap();
    let dir = place(&home, "link", link);
    for arguments in [&["serve"][..], &["connect"], &["app-server"], &["connect", "--no-direct"]] {
        let mut command = home.command(&binary::codexd());
        let output = Output::of(command.args(arguments).env("PATH", &dir)).expect_code(69);
        assert!(output.stderr.contains("is codexd itself, and there is no other"), "{output}");
        assert!(output.stderr.contains("CODEXD_CODEX"), "{output}");
    }
    process::assert_no_process_left(home.root());
}

/// Scripts by the name of codex that run codexd, each in its own way.
fn scripts() -> Vec<(&'static str, String)> {
    let codexd = binary::codexd().display().to_string();
    vec![
        ("exec", format!("exec '{codexd}' \"$@\"")),
        ("child", format!("'{codexd}' \"$@\"\nexit $?")),
        ("session", format!("setsid '{codexd}' \"$@\"\nexit $?")),
        ("connect", format!("exec '{codexd}' connect")),
        ("no-direct", format!("exec '{codexd}' connect --no-direct")),
        ("serve", format!("exec '{codexd}' serve")),
        ("named", format!("exec -a codex '{codexd}' \"$@\"")),
    ]
}

#[test]
fn a_script_that_runs_codexd_as_codex_ends_the_daemon_with_69_and_the_way_out() {
    for (name, text) in scripts() {
        let home = Home::new().unwrap();
        let codex = place(&home, "bin", |path| {
            script(path, &text);
            if name == "named" {
                // A thing of bash.
                std::fs::write(path, format!("#!/bin/bash\n{text}\n")).unwrap();
            }
        })
        .join("codex");
        let mut daemon = TestDaemon::program(&codex).home(home).start();
        assert_eq!(daemon.wait_exit().code(), Some(69), "{name}: {}", daemon.stderr());
        assert!(daemon.stderr().contains("is not codex"), "{name}: {}", daemon.stderr());
        assert!(daemon.stderr().contains("CODEXD_CODEX"), "{name}: {}", daemon.stderr());
        let last = status(&daemon)["lastExit"].clone();
        assert_eq!(last["code"], 69, "{name}: {last}");
        assert!(last["reason"].as_str().unwrap().contains(codex.to_str().unwrap()), "{name}: {last}");
        daemon.assert_no_process_left();
    }
}

#[test]
fn a_client_whose_codex_is_a_script_that_runs_codexd_ends_with_69_and_leaves_nothing() {
    for (name, text) in scripts() {
        let home = Home::new().unwrap();
        let dir = place(&home, "bin", |path| script(path, &text));
        if name == "named" {
            continue;
        }
        for arguments in [&["app-server"][..], &["connect", "--no-direct"]] {
            let mut command = home.command(&binary::codexd());
            command.args(arguments).env("CODEXD_CODEX", dir.join("codex"));
            let output = Output::of(&mut command).expect_code(69);
            assert!(output.stderr.contains("CODEXD_CODEX"), "{name}: {output}");
        }
        process::assert_no_process_left(home.root());
    }
}

#[test]
fn a_chain_of_scripts_that_hides_where_it_leads_ends() {
    // Each codexd believes itself to be another instance.
    let home = Home::new().unwrap();
    let text = format!("CODEX_HOME=\"$CODEX_HOME/x\" setsid '{}' \"$@\"", binary::codexd().display());
    let dir = place(&home, "bin", |path| script(path, &text));
    let mut command = home.command(&binary::codexd());
    command.args(["app-server"]).env("CODEXD_CODEX", dir.join("codex"));
    let output = Output::of(&mut command);
    assert_ne!(output.code(), Some(0), "{output}");
    assert!(output.stderr.contains("CODEXD_CODEX"), "{output}");
    wait::until("all have ended", || process::marked(home.root()).is_empty());
}

#[test]
fn a_command_of_codex_may_use_the_daemon() {
    let mut daemon = TestDaemon::fake("").ready();
    let mut client = daemon.client("one");
    let mut run = |words: &[&str]| {
        let result = client.request("command/exec", json!({"command": words}));
        assert_eq!(result["exitCode"], 0, "{words:?}: {result}");
        result["stdout"].as_str().unwrap().to_owned()
    };
    let codexd = binary::codexd().display().to_string();
    let environment = format!(
        "CODEXD_SOCKET={} CODEXD_CONTROL_SOCKET={}",
        daemon.socket().display(),
        daemon.control_socket().display()
    );
    let hello = r#"{"id":1,"method":"initialize","params":{"clientInfo":{"name":"c","version":"1"}}}"#;
    for verb in ["connect --no-spawn", "app-server"] {
        let answer = run(&["sh", "-c", &format!("echo '{hello}' | {environment} '{codexd}' {verb}")]);
        assert!(answer.contains("\"generation\":1"), "{answer}");
    }
    assert_eq!(
        run(&["sh", "-c", &format!("{environment} '{codexd}' ctl status --field state")]),
        "serving\n"
    );
    drop(client);
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn the_doctor_tells_a_script_that_runs_codexd_and_starts_no_daemon() {
    for (name, text) in scripts().into_iter().filter(|(name, _)| *name != "named") {
        let home = Home::new().unwrap();
        let dir = place(&home, "bin", |path| script(path, &text));
        let mut command = home.command(&binary::codexd());
        let report =
            Output::of(command.args(["doctor", "--json"]).env("CODEXD_CODEX", dir.join("codex"))).json();
        assert_eq!(report["ok"], false, "{name}: {report}");
        // `serve` is asked for by name: its refused start is recorded.
        let files = if name == "serve" { 1 } else { 0 };
        assert_eq!(std::fs::read_dir(home.state()).unwrap().count(), files, "{name}: no daemon was started");
        process::assert_no_process_left(home.root());
    }
}
