//! What people read, and what programs read instead: hints, help, errors, and JSON.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use codexd_tests::binary;
use codexd_tests::daemon::TestDaemon;
use codexd_tests::home::Home;
use codexd_tests::output::Output;
use codexd_tests::pty::Pty;
use codexd_tests::wait;
use serde_json::{Value, json};

fn codexd(home: &Home, arguments: &[&str]) -> Command {
    let mut command = home.command(&binary::codexd());
    command.args(arguments).env("CODEXD_CODEX", binary::fake_codex());
    command
}

fn run(home: &Home, arguments: &[&str]) -> Output {
    Output::of(&mut codexd(home, arguments))
}

/// Every verb of `ctl` that asks a daemon, with what it needs.
const VERBS: [&[&str]; 8] = [
    &["status"],
    &["list"],
    &["wait", "ready", "--timeout", "1ms"],
    &["clients"],
    &["stop"],
    &["reload"],
    &["log-level", "info"],
    &["get-socket"],
];

#[test]
fn connect_on_a_terminal_says_in_one_line_what_it_waits_for() {
    let daemon = TestDaemon::fake("").ready();
    let mut terminal = Pty::start(&mut daemon.command(&["connect"]), 300).unwrap();
    wait::until("the line", || terminal.shown().contains("Ctrl-D to end\n"));
    let shown = terminal.shown();
    assert_eq!(shown.lines().count(), 1, "{shown}");
    assert!(shown.starts_with("codexd: connected to the daemon at `"), "{shown}");
    assert!(shown.contains("JSON-RPC, one message a line and `initialize` first"), "{shown}");
    terminal.type_in("\u{4}").unwrap();
    assert_eq!(terminal.wait_exit().code(), Some(0));
    // A program at the other end of a pipe gets no note.
    let output = daemon.run(&["connect"]).expect_code(0);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));
}

#[test]
fn help_is_as_wide_as_the_terminal() {
    let home = Home::new().unwrap();
    let widest = |columns: u16| {
        let mut terminal = Pty::start(&mut codexd(&home, &["serve", "--help"]), columns).unwrap();
        assert!(terminal.wait_exit().success());
        let shown = terminal.shown();
        assert!(shown.contains("--drain-timeout"), "{shown}");
        shown.lines().map(|line| line.chars().count()).max().unwrap()
    };
    for columns in [50, 80] {
        let widest = widest(columns);
        assert!(widest <= usize::from(columns) && widest > usize::from(columns) / 2, "{columns}: {widest}");
    }
    // Lines longer than that are hard to read.
    assert!(widest(250) <= 100);
}

#[test]
fn a_verb_of_ctl_that_stands_alone_is_recognized() {
    let home = Home::new().unwrap();
    for verb in VERBS {
        let output = run(&home, verb).expect_code(64);
        assert!(output.stderr.contains(&format!("'ctl {}'", verb[0])), "{output}");
    }
}

#[test]
fn with_json_there_is_always_one_document() {
    let document = |output: &Output| {
        assert_eq!(output.stderr, "", "{output}");
        output.json()
    };
    let home = Home::new().unwrap();
    for verb in VERBS {
        let output = run(&home, &[&["ctl", "--json"], verb].concat());
        let found = document(&output);
        match verb[0] {
            "list" => assert_eq!(found, json!([])),
            "get-socket" => assert_eq!(found["running"], false),
            _ => assert_eq!((output.code(), &found["state"]), (Some(3), &json!("notRunning")), "{output}"),
        }
    }
    // A process listens that is no daemon.
    let socket = home.runtime().join("mute");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let named = ["--control-socket", socket.to_str().unwrap()];
    std::thread::scope(|scope| {
        for verb in VERBS.into_iter().filter(|verb| verb[0] != "list") {
            let (home, named) = (&home, &named);
            scope.spawn(move || {
                let output = run(home, &[&["ctl", "--json"], verb, named.as_slice()].concat());
                let found = document(&output);
                if verb[0] == "get-socket" {
                    // Whether it runs is not known.
                    assert_eq!(found["running"], Value::Null, "{output}");
                } else {
                    assert_eq!(output.code(), Some(4), "{output}");
                    assert!(found["error"].as_str().unwrap().contains("did not answer"), "{output}");
                    assert!(found["hint"].is_string(), "{output}");
                }
            });
        }
    });
    // The command line, and the settings.
    for line in
        [&["ctl", "status", "--field", "x", "--json"][..], &["ctl", "--json", "wait"], &["status", "--json"]]
    {
        let output = run(&home, line).expect_code(64);
        let found = document(&output);
        assert_eq!(found["exitCode"], 64, "{output}");
        assert!(found["error"].is_string() && found["hint"].is_string(), "{output}");
    }
    let output = Output::of(codexd(&home, &["ctl", "status", "--json"]).env("CODEXD_INSTANCE", "a/b"));
    assert!(document(&output)["error"].as_str().unwrap().contains("`a/b`"), "{output}");
    assert_eq!(output.code(), Some(4), "{output}");
}

#[test]
fn what_is_not_known_is_null_and_never_zero() {
    /// Returns the paths of all members with a value that looks like knowledge of nothing.
    fn empty(value: &Value, path: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(members) if !members.is_empty() => {
                members.iter().for_each(|(name, value)| empty(value, &format!("{path}.{name}"), found));
            }
            Value::Null | Value::Bool(_) => {}
            // There is nothing to warn of.
            _ if path == ".warnings" => {}
            _ if *value == json!(0) || *value == json!("") || *value == json!({}) || *value == json!([]) => {
                found.push(path.to_owned());
            }
            _ => {}
        }
    }
    let home = Home::new().unwrap();
    let mut found = Vec::new();
    let status = run(&home, &["ctl", "status", "--json"]).expect_code(3).json();
    empty(&status, "", &mut found);
    assert_eq!(found, [""; 0], "{status:#}");
    // What is known without a daemon is there.
    for member in ["socket", "controlSocket", "lockFile", "recordFile", "codexHome", "instance"] {
        assert!(status[member].is_string(), "{member}: {status:#}");
    }
    assert_eq!(status["ready"], false);
    // A killed one could not record when.
    let daemon = TestDaemon::fake("").home(home).ready();
    daemon.kill9();
    codexd_tests::process::wait_dead(i32::try_from(daemon.pid()).unwrap());
    let status = daemon.ctl(&["status", "--json"]).expect_code(3).json();
    assert_eq!(status["lastExit"]["generation"], 1);
    for member in ["code", "atUnixMs", "uptimeMs", "upstream"] {
        assert_eq!(status["lastExit"][member], Value::Null, "{member}: {status:#}");
    }
    let fields = daemon.ctl(&["status", "--field", "pid,lastExit.uptimeMs,version"]).expect_code(3);
    assert_eq!(fields.stdout, "\n\n\n");
}

#[test]
fn nothing_is_said_twice() {
    let home = Home::new().unwrap();
    let times = |text: &str, part: &str| text.matches(part).count();
    // No daemon is available and codex cannot run either, for the same reason.
    let output =
        Output::of(codexd(&home, &["connect"]).env("CODEXD_CODEX", "/nowhere/codex")).expect_code(69);
    assert_eq!(times(&output.stderr, "cannot run `/nowhere/codex`"), 1, "{output}");
    assert_eq!((times(&output.stderr, "hint: "), times(&output.stderr, "directly")), (1, 0), "{output}");
    // For two reasons.
    let runtime = home.runtime().join("codexd");
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).unwrap();
    let output =
        Output::of(codexd(&home, &["connect"]).env("CODEXD_CODEX", "/nowhere/codex")).expect_code(69);
    assert_eq!(times(&output.stderr, "; and codex cannot be run directly: cannot run"), 1, "{output}");
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).unwrap();
    // Settings that cannot be used with the file and without it.
    let output = Output::of(codexd(&home, &["ctl", "status"]).env("CODEXD_INSTANCE", "a/b"));
    assert_eq!(times(&output.stderr, "`a/b` cannot be"), 1, "{output}");
    // A file that the client and the daemon cannot use.
    let mut daemon = TestDaemon::fake("").home(home).ready();
    daemon.home().write_config("idle_exti = \"1m\"\n").unwrap();
    let output = daemon.ctl(&["reload"]).expect_code(1);
    assert_eq!(times(&output.stderr, "idle_exti"), 1, "{output}");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn hints_name_the_service_where_one_is_installed_and_flags_where_they_are() {
    let home = Home::new().unwrap();
    let hint = |arguments: &[&str]| {
        let output = run(&home, arguments);
        let line = output.stderr.lines().find_map(|line| line.strip_prefix("hint: "));
        line.unwrap_or_else(|| panic!("no hint\n{output}")).to_owned()
    };
    let asking = [
        &["ctl", "status"][..],
        &["ctl", "clients"],
        &["ctl", "reload"],
        &["ctl", "wait", "ready", "--timeout", "1ms"],
        &["connect", "--no-spawn"],
    ];
    for arguments in asking {
        assert!(hint(arguments).contains("`codexd serve` starts"), "{arguments:?}: {}", hint(arguments));
    }
    assert!(
        hint(&["ctl", "clients", "--control-socket", "/x"]).contains("`codexd serve --control-socket /x`")
    );
    // A manager that listens, and a unit.
    if cfg!(target_os = "linux") {
        let instance = run(&home, &["ctl", "status", "--field", "instance"]).stdout.trim().to_owned();
        fs::create_dir(home.runtime().join("systemd")).unwrap();
        fs::write(home.runtime().join("systemd/private"), "").unwrap();
        let units = home.config().join("systemd/user");
        fs::create_dir_all(&units).unwrap();
        fs::write(units.join(format!("codexd-{instance}.service")), "").unwrap();
        for arguments in asking {
            let wanted = format!("`systemctl --user start codexd-{instance}.service` starts");
            assert!(hint(arguments).contains(&wanted), "{arguments:?}: {}", hint(arguments));
        }
    }
    // `--codex` is a flag of `serve` and `install`.
    let without_codex = |arguments: &[&str]| {
        let mut command = codexd(&home, arguments);
        let output = Output::of(command.env("CODEXD_CODEX", "/nowhere/codex"));
        let said = format!("{}{}", output.stdout, output.stderr);
        assert!(said.contains("npm install"), "{output}");
        said.contains("--codex PATH")
    };
    fs::remove_dir_all(home.runtime().join("systemd")).ok();
    assert!(without_codex(&["serve"]) && without_codex(&["install", "--systemd", "--dry-run"]));
    assert!(!without_codex(&["connect"]) && !without_codex(&["doctor"]));
}

#[test]
fn a_doctor_goes_on_with_a_broken_configuration() {
    let home = Home::new().unwrap();
    home.write_config("drain_timout = \"1s\"\n").unwrap();
    let report = run(&home, &["doctor", "--json"]).expect_code(1).json();
    let findings = report["findings"].as_array().unwrap();
    let find =
        |check: &str| findings.iter().find(|it| it["check"] == check).unwrap_or_else(|| panic!("{report:#}"));
    assert_eq!(find("settings")["level"], "fail");
    assert_eq!(find("settings")["fix"], "did you mean `drain_timeout`?");
    for check in ["socketPath", "runtimeFolder", "daemon", "codex", "login"] {
        find(check);
    }
    // Without usable variables there is nothing to look at.
    let output =
        Output::of(codexd(&home, &["doctor", "--json"]).env("CODEXD_INSTANCE", "a/b")).expect_code(1);
    assert_eq!(output.json()["findings"].as_array().unwrap().len(), 1, "{output}");
}

#[test]
fn the_log_has_colours_where_they_are_wanted() {
    let escape = "\u{1b}[";
    let log = |variables: &[(&str, &str)]| {
        let mut daemon = TestDaemon::fake("");
        for (name, value) in variables {
            daemon = daemon.env(name, value);
        }
        let mut daemon = daemon.ready();
        assert_eq!(daemon.stop(), 0);
        daemon.stderr()
    };
    assert!(!log(&[]).contains(escape));
    assert!(log(&[("CLICOLOR_FORCE", "1")]).contains(escape));
    // On a terminal.
    let on_terminal = |variables: &[(&str, &str)]| {
        let home = Home::new().unwrap();
        let mut command = codexd(&home, &["serve", "--idle-exit", "1ms"]);
        let mut terminal = Pty::start(command.envs(variables.iter().copied()), 80).unwrap();
        assert_eq!(terminal.wait_exit().code(), Some(0));
        terminal.shown()
    };
    assert!(on_terminal(&[("TERM", "xterm")]).contains(escape));
    assert!(!on_terminal(&[("TERM", "xterm"), ("NO_COLOR", "1")]).contains(escape));
    assert!(!on_terminal(&[("TERM", "dumb")]).contains(escape));
}

#[test]
fn the_version_and_the_status_name_the_same_build() {
    let daemon = TestDaemon::fake("").ready();
    let version = daemon.run(&["--version"]).expect_code(0).stdout;
    let status = daemon.ctl(&["status", "--json"]).json();
    let shown = match status["commit"].as_str() {
        Some(commit) => format!("codexd {} ({commit})\n", status["version"].as_str().unwrap()),
        None => format!("codexd {}\n", status["version"].as_str().unwrap()),
    };
    assert_eq!(version, shown);
    if Path::new(env!("CARGO_MANIFEST_DIR")).join("../.git").exists()
        && std::env::var_os("CODEXD_BIN").is_none()
    {
        assert!(status["commit"].is_string(), "{status:#}");
    }
}
