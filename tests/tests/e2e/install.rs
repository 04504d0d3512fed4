//! What `codexd install` would write: units that systemd reads without a warning, and an agent whose every key is one
//! that launchd knows.

use std::path::Path;

use codexd_tests::binary;
use codexd_tests::client::TestClient;
use codexd_tests::codex::{Codex, Version};
use codexd_tests::home::CodexConfig;
use codexd_tests::home::Home;
use codexd_tests::lab::{Lab, User};
use codexd_tests::model::MockModel;
use codexd_tests::output::Output;
use codexd_tests::skip;
use serde_json::{Value, json};

fn is_missing(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    !std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

fn dry_run(home: &Home, arguments: &[&str]) -> String {
    let mut command = home.command(&binary::codexd());
    command.args(arguments).arg("--dry-run").env("CODEXD_CODEX", binary::fake_codex());
    Output::of(&mut command).expect_code(0).stdout
}

/// Takes the files out of what `--dry-run` shows.
fn files(shown: &str) -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = Vec::new();
    let mut open = false;
    for line in shown.lines() {
        if let Some(path) = line.strip_prefix("# write ") {
            files.push((path.to_owned(), String::new()));
            open = true;
        } else if line.starts_with("# systemctl ") || line.starts_with("# launchctl ") {
            open = false;
        } else if open && let Some((_, text)) = files.last_mut() {
            text.push_str(line);
            text.push('\n');
        }
    }
    files
}

#[test]
fn a_dry_run_changes_nothing() {
    let home = Home::new().unwrap();
    for arguments in
        [&["install", "--systemd", "--now"][..], &["uninstall", "--systemd"], &["install", "--launchd"]]
    {
        assert!(dry_run(&home, arguments).contains("# "));
    }
    for directory in [home.config(), home.home(), home.runtime(), home.state()] {
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0, "{}", directory.display());
    }
}

#[test]
fn the_units_are_read_by_systemd_without_a_word() {
    if is_missing("systemd-analyze") {
        return skip::say("systemd-analyze is missing");
    }
    let home = Home::new().unwrap();
    let shown = dry_run(&home, &["install", "--systemd"]);
    let directory = home.root().join("units");
    std::fs::create_dir(&directory).unwrap();
    let mut verify = home.command(Path::new("systemd-analyze"));
    // Unknown keys are warnings, and only this makes them errors.
    verify.args(["verify", "--user", "--recursive-errors=yes"]);
    let files = files(&shown);
    assert_eq!(files.len(), 2, "{shown}");
    for (path, text) in &files {
        let path = directory.join(Path::new(path).file_name().unwrap());
        std::fs::write(&path, text).unwrap();
        verify.arg(path);
    }
    let verified = Output::of(&mut verify).expect_code(0);
    assert_eq!((verified.stdout.as_str(), verified.stderr.as_str()), ("", ""), "{shown}");
    // The check itself is worth something.
    let socket = directory.join(Path::new(&files[1].0).file_name().unwrap());
    std::fs::write(socket, format!("{}\n[Socket]\nListenStraem=/x\n", files[1].1)).unwrap();
    let _ = Output::of(&mut verify).expect_code(1);
}

/// Prints the agent as JSON; duplicate keys, which plistlib accepts silently, are counted by hand.
const READ_PLIST: &str = r"
import json, plistlib, re, sys
data = sys.stdin.buffer.read()
def keys(value):
    return sum(1 + keys(v) for v in value.values()) if isinstance(value, dict) else 0
parsed = plistlib.loads(data)
again = plistlib.loads(plistlib.dumps(parsed))
assert again == parsed
text = re.sub(rb'<!--.*?-->', b'', data, flags=re.S)
assert keys(parsed) == len(re.findall(rb'<key>', text)), 'a key stands twice'
json.dump(parsed, sys.stdout)
";

#[test]
fn the_agent_has_only_keys_that_launchd_knows() {
    if is_missing("python3") {
        return skip::say("python3 is missing");
    }
    let home = Home::new().unwrap();
    let shown = dry_run(&home, &["install", "--launchd"]);
    let (path, text) = files(&shown).pop().unwrap();
    let instance = path.strip_prefix(home.home().to_str().unwrap()).unwrap();
    assert!(instance.starts_with("/Library/LaunchAgents/com.codexd.agent."), "{path}");
    let mut python = home.command(Path::new("python3"));
    let read = Output::with_input(python.args(["-c", READ_PLIST]), text.as_bytes()).expect_code(0);
    let agent = read.json();
    // launchd.plist(5): key and type of each.
    let known = |key: &str, value: &Value| match key {
        "Label" | "ProcessType" | "StandardErrorPath" => value.is_string(),
        "ProgramArguments" => value.as_array().is_some_and(|words| words.iter().all(Value::is_string)),
        "EnvironmentVariables" => value.as_object().is_some_and(|all| all.values().all(Value::is_string)),
        "RunAtLoad" => value.is_boolean(),
        "ThrottleInterval" | "ExitTimeOut" => value.is_u64(),
        "Sockets" | "KeepAlive" | "SoftResourceLimits" => value.is_object(),
        _ => false,
    };
    for (key, value) in agent.as_object().unwrap() {
        assert!(known(key, value), "{key}: {value}");
    }
    assert_eq!(agent["KeepAlive"], json!({"SuccessfulExit": false}));
    assert_eq!(agent["Sockets"]["codexd"]["SockPathMode"], 0o600);
    assert_eq!(agent["Sockets"].as_object().unwrap().len(), 1);
    let words = agent["ProgramArguments"].as_array().unwrap();
    assert_eq!(words[0], binary::codexd().to_str().unwrap());
    assert_eq!(words[1..], ["serve", "--supervised", "--permanent-exit-zero"]);
    assert_eq!(agent["EnvironmentVariables"]["CODEXD_CODEX"], binary::fake_codex().to_str().unwrap());
    assert_eq!(agent["EnvironmentVariables"]["CODEX_HOME"], home.codex_home().to_str().unwrap());
    // Nothing is expanded there.
    for path in [&agent["StandardErrorPath"], &agent["Sockets"]["codexd"]["SockPathName"], &words[0]] {
        let path = path.as_str().unwrap();
        assert!(path.starts_with('/') && !path.contains(['~', '$']), "{path}");
    }
}

#[test]
fn the_wrong_system_is_reported() {
    if cfg!(target_os = "macos") {
        return;
    }
    let home = Home::new().unwrap();
    let mut command = home.command(&binary::codexd());
    command.args(["install", "--launchd"]).env("CODEXD_CODEX", binary::fake_codex());
    let refused = Output::of(&mut command).expect_code(64);
    assert!(refused.stderr.contains("--dry-run"), "{refused}");
}

#[test]
fn without_codex_nothing_is_installed() {
    let home = Home::new().unwrap();
    let mut command = home.command(&binary::codexd());
    command.args(["install", "--systemd"]).env("CODEXD_CODEX", "/nowhere/codex");
    let refused = Output::of(&mut command).expect_code(69);
    assert!(refused.stderr.contains("npm install"), "{refused}");
    assert_eq!(std::fs::read_dir(home.config()).unwrap().count(), 0);
}

#[test]
fn without_a_service_manager_nothing_is_installed() {
    let home = Home::new().unwrap();
    let mut command = home.command(&binary::codexd());
    command.args(["install", "--systemd"]).env("CODEXD_CODEX", binary::fake_codex());
    let refused = Output::of(&mut command).expect_code(69);
    assert!(refused.stderr.contains("XDG_RUNTIME_DIR"), "{refused}");
    assert_eq!(std::fs::read_dir(home.config()).unwrap().count(), 0);
    // There is nothing to remove either.
    let mut command = home.command(&binary::codexd());
    let _ = Output::of(command.args(["uninstall", "--systemd"])).expect_code(0);
}

#[test]
fn a_thread_of_the_real_codex_outlives_its_server_under_systemd() {
    let Some(codex) = Codex::for_test(Version::Current) else { return };
    // The model is reached over loopback, so the lab shares the network.
    let Some(lab) = Lab::boot_with(User::Root, &["--share-net"]) else { return };
    let home = Home::new().unwrap();
    let model = MockModel::start().unwrap();
    home.write_codex_config(&model.base_url(), &CodexConfig::default()).unwrap();
    let variable = format!("CODEX_HOME={}", home.codex_home().display());
    let native = codex.native.display().to_string();
    let codexd = |words: &[&str]| lab.expect(0, &[&["env", &variable, "codexd"], words].concat());
    // Another CODEX_HOME has units and a socket of its own.
    codexd(&["install", "--systemd", "--now", "--codex", &native]);
    let socket = codexd(&["ctl", "get-socket"]).trim().to_owned();
    let unit = format!("codexd-{}.service", Path::new(&socket).file_stem().unwrap().to_str().unwrap());
    assert_eq!(lab.show(&unit, "ActiveState"), "active");

    let mut client = TestClient::connect("before", &lab.path(&socket));
    client.initialize();
    let thread = client.start_thread(json!({"cwd": home.project()}));
    assert_eq!(client.turn(&thread, "hello").status, "completed");
    let status: Value = serde_json::from_str(&codexd(&["ctl", "status", "--json"])).unwrap();
    lab.expect(0, &["kill", "-KILL", &status["upstream"]["pid"].to_string()]);
    client.recv_to_end();
    // A client that connects now waits until the next daemon serves.
    let mut client = TestClient::connect("after", &lab.path(&socket));
    client.initialize();
    client.request("thread/resume", json!({"threadId": thread}));
    assert_eq!(client.turn(&thread, "again").status, "completed");
    assert_eq!(lab.show(&unit, "NRestarts"), "1");
    codexd(&["uninstall", "--systemd"]);
    assert_eq!(lab.show(&unit, "LoadState"), "not-found");
    assert_eq!(lab.running(), [""; 0]);
}
