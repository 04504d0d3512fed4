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

#[test]
fn checked_settings_are_printed_with_their_origin_and_nothing_starts() {
    let place = Place::new();
    std::fs::create_dir_all(place.path(".config/codexd")).unwrap();
    let file = place.path(".config/codexd/config.toml");
    std::fs::write(&file, "drain_timeout = \"5s\"\ncodex = \"/nowhere/codex\"\n").unwrap();
    let output = place.codexd(&["serve", "--check-config", "--idle-exit", "10m"]);
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{}", output.stdout);
    assert!(
        output.stdout.starts_with(&format!("# configuration file: {}\n", file.display())),
        "{}",
        output.stdout
    );
    let line = |key: &str| {
        let found = output.stdout.lines().find(|line| line.starts_with(&format!("{key} = ")));
        found
            .unwrap_or_else(|| panic!("no {key}\n{}", output.stdout))
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(line("drain_timeout"), "drain_timeout = \"5s\" # file");
    assert_eq!(line("codex"), "codex = \"/nowhere/codex\" # file");
    assert_eq!(line("idle_exit"), "idle_exit = \"10m\" # --idle-exit");
    assert_eq!(line("window"), "window = 64 # default");
    // It is a configuration file itself.
    std::fs::write(&file, &output.stdout).unwrap();
    let again = place.codexd(&["serve", "--check-config"]);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert!(again.stdout.contains("idle_exit = \"10m\""), "{}", again.stdout);
    for made in [".local", "run/codexd"] {
        assert!(!place.path(made).exists(), "{made} was created");
    }
}

#[test]
fn settings_that_serve_would_refuse_are_refused_when_checked_and_leave_no_record() {
    let place = Place::new();
    let config = place.path("c.toml");
    std::fs::write(&config, "drain_timout = \"1s\"\n").unwrap();
    let config = config.to_str().unwrap();
    let long = place.path("run").join("x".repeat(200)).into_os_string().into_string().unwrap();
    for (code, args) in [
        (78, &["--config", config][..]),
        (78, &["--config", "/nowhere/c.toml"]),
        (78, &["--instance", "a/b"]),
        (73, &["--socket", &long]),
        (64, &["--bogus"]),
    ] {
        let output = place.codexd(&[&["serve", "--check-config"], args].concat());
        assert_eq!((output.code, output.stdout.as_str()), (Some(code), ""), "{args:?}: {}", output.stderr);
        // What `serve` itself says, without its last line.
        let serve = place.codexd(&[&["serve", "--codex", "/bin/sh"], args].concat());
        assert_eq!(serve.code, Some(code), "{args:?}: {}", serve.stderr);
        let first = output.stderr.lines().next().unwrap().trim_start_matches("codexd: ");
        assert!(serve.stderr.contains(first), "{args:?}: `{first}` is not in\n{}", serve.stderr);
        std::fs::remove_dir_all(place.path(".local")).ok();
        let _ = place.codexd(&[&["serve", "--check-config"], args].concat());
        assert!(!place.path(".local").exists(), "{args:?}: there is a record");
    }
}

#[test]
fn bash_completes_commands_verbs_and_flags() {
    let place = Place::new();
    let output = place.codexd(&["completions", "bash"]);
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
    let script = place.path("codexd.bash");
    std::fs::write(&script, output.stdout).unwrap();
    let completes = |words: &[&str]| {
        // What bash does when the last word is to be completed.
        let code = "source \"$0\"; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1))
            function=$(complete -p codexd | sed 's/.*-F \\([^ ]*\\).*/\\1/')
            $function codexd \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD - 1]}\"
            printf '%s\\n' \"${COMPREPLY[@]}\"";
        let output = Command::new("bash").arg("-c").arg(code).arg(&script).args(words).output();
        let Ok(output) = output else {
            eprintln!("skipped: bash is not installed");
            return None;
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
    };
    let Some(found) = completes(&["codexd", "comp"]) else { return };
    assert_eq!(found, ["completions"]);
    assert_eq!(completes(&["codexd", "ctl", "stat"]).unwrap(), ["status"]);
    assert_eq!(completes(&["codexd", "serve", "--drain"]).unwrap(), ["--drain-timeout"]);
    assert_eq!(completes(&["codexd", "completions", "f"]).unwrap(), ["fish"]);
    // What the help does not show.
    for hidden in [&["codexd", "serve", "--auto"][..], &["codexd", "connect", "--pat"], &["codexd", "ma"]] {
        assert_eq!(completes(hidden).unwrap(), [""], "{hidden:?}");
    }
    for (shell, word) in [("zsh", "#compdef codexd"), ("fish", "complete -c codexd")] {
        assert!(place.codexd(&["completions", shell]).stdout.contains(word), "{shell}");
    }
    assert_eq!(place.codexd(&["completions", "tcsh"]).code, Some(64));
}

#[test]
fn man_pages_are_written_into_the_directory() {
    let place = Place::new();
    let pages = place.path("man/man1");
    assert_eq!(place.codexd(&["man", pages.to_str().unwrap()]).code, Some(0));
    let page = std::fs::read_to_string(pages.join("codexd-ctl-status.1")).unwrap();
    assert!(page.contains("\\-\\-field"), "{page}");
    let output = place.codexd(&["man", "/dev/null/x"]);
    assert_eq!(output.code, Some(73), "{}", output.stderr);
}
