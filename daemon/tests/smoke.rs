//! The binary answers at all: exit codes and messages of the command line, without a running daemon.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

#[path = "../src/os/test_dir.rs"]
mod test_dir;

/// A home and a runtime directory of this test only.
struct Place {
    dir: tempfile::TempDir,
}

/// What a command printed, and its exit code.
#[must_use]
struct Output {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Place {
    fn new() -> Place {
        let dir = test_dir::test_dir();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        std::fs::set_permissions(dir.path().join("run"), Permissions::from_mode(0o700)).unwrap();
        Place { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn codexd(&self, args: &[&str]) -> Output {
        let output = Command::new(env!("CARGO_BIN_EXE_codexd"))
            .args(args)
            .env_clear()
            .env("HOME", self.dir.path())
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("TMPDIR", self.path("run"))
            .output()
            .unwrap();
        Output {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

#[test]
fn version_and_help_go_to_stdout_and_exit_0() {
    let place = Place::new();
    let version = place.codexd(&["--version"]);
    assert_eq!((version.code, version.stderr.as_str()), (Some(0), ""));
    let number = format!("codexd {}", env!("CARGO_PKG_VERSION"));
    let commit =
        version.stdout.trim_end().strip_prefix(&number).unwrap_or_else(|| panic!("{}", version.stdout));
    // In brackets, where it was known at the build.
    let commit = commit.strip_prefix(" (").and_then(|commit| commit.strip_suffix(')')).unwrap_or(commit);
    assert!(commit.chars().all(|c| c.is_ascii_graphic()), "{}", version.stdout);
    for args in [&["--help"][..], &["serve", "--help"], &["ctl", "--help"], &["ctl", "status", "--help"]] {
        let help = place.codexd(args);
        assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""), "{args:?}");
        assert!(help.stdout.contains("Usage: codexd"), "{}", help.stdout);
    }
}

#[test]
fn a_wrong_command_line_exits_64() {
    let place = Place::new();
    for args in [
        &[][..],
        &["bogus"],
        &["serve", "--bogus"],
        &["serve", "--idle-exit", "3"],
        &["serve", "--log-level", "loud"],
        &["ctl"],
        &["ctl", "wait", "forever"],
        &["ctl", "status", "--field", "nope"],
    ] {
        let output = place.codexd(args);
        assert_eq!(output.code, Some(64), "{args:?}: {}", output.stderr);
        assert_eq!(output.stdout, "", "{args:?}");
        assert_ne!(output.stderr, "", "{args:?}");
        // `serve` has no `--json`: its supervisor reads its last line on stderr.
        if args.is_empty() || args[0] == "serve" {
            continue;
        }
        let output = place.codexd(&[args, &["--json"]].concat());
        assert_eq!((output.code, output.stderr.as_str()), (Some(64), ""), "{args:?}");
        assert!(output.stdout.starts_with("{\n  \"error\": \""), "{args:?}: {}", output.stdout);
    }
}

#[test]
fn a_wrong_configuration_exits_78_and_names_the_line() {
    let place = Place::new();
    let config = place.path("c.toml");
    std::fs::write(&config, "codex = \"codex\"\nidle_exti = \"1h\"\n").unwrap();
    let output = place.codexd(&["serve", "--config", config.to_str().unwrap()]);
    assert_eq!(output.code, Some(78));
    assert_eq!(
        output.stderr,
        format!(
            "codexd: exits with 78 (config), because unknown key `idle_exti` in line 2 of `{}`\nhint: did you mean `idle_exit`?\n",
            config.display()
        )
    );
    let output = place.codexd(&["serve", "--config", place.path("none").to_str().unwrap()]);
    assert_eq!(output.code, Some(78), "{}", output.stderr);
    let output =
        place.codexd(&["serve", "--permanent-exit-zero", "--config", place.path("none").to_str().unwrap()]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert!(
        output.stderr.starts_with("codexd: exits with 0 instead of 78 (config), because "),
        "{}",
        output.stderr
    );
}

#[test]
fn an_open_runtime_directory_exits_77_and_names_the_command() {
    let place = Place::new();
    let open = place.path("run/codexd");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, Permissions::from_mode(0o755)).unwrap();
    let output = place.codexd(&["serve", "--codex", "/bin/sh"]);
    assert_eq!(output.code, Some(77), "{}", output.stderr);
    assert!(output.stderr.contains(&format!("hint: chmod 700 {}\n", open.display())), "{}", output.stderr);
}

#[test]
fn without_a_daemon_ctl_says_so() {
    let place = Place::new();
    let status = place.codexd(&["ctl", "status"]);
    assert_eq!((status.code, status.stdout.as_str()), (Some(3), ""));
    assert!(status.stderr.contains("not running") && status.stderr.contains("codexd serve"));

    let status = place.codexd(&["ctl", "status", "--json"]);
    assert_eq!(status.code, Some(3));
    let value: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!(value["state"], "notRunning");
    assert_eq!(value["ready"], false);
    assert_eq!(value["lastExit"], serde_json::Value::Null);

    assert_eq!(place.codexd(&["ctl", "stop"]).code, Some(3));
    assert_eq!(place.codexd(&["ctl", "wait", "ready", "--timeout", "100ms"]).code, Some(3));
    assert_eq!(place.codexd(&["ctl", "wait", "stopped"]).code, Some(0));

    let socket = place.codexd(&["ctl", "get-socket"]);
    assert_eq!(socket.code, Some(0));
    assert!(socket.stdout.ends_with("/run/codexd/default.sock\n"), "{}", socket.stdout);
    // Asking starts and makes nothing.
    assert!(!place.path("run/codexd").exists());
    assert!(!place.path(".local").exists());
}

#[test]
fn a_socket_path_that_is_too_long_is_refused_with_the_remedy() {
    let place = Place::new();
    let path = place.path(&"x".repeat(110));
    let output = place.codexd(&["serve", "--codex", "/bin/sh", "--socket", path.to_str().unwrap()]);
    assert_eq!(output.code, Some(73), "{}", output.stderr);
    assert!(output.stderr.contains("--socket"), "{}", output.stderr);
}
