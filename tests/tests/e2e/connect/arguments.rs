//! Arguments of `codexd app-server`: which lead to a daemon of their own, and that their values stay secret.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use codexd_tests::codex::{Codex, Version};
use codexd_tests::output::Output;
use codexd_tests::process;
use codexd_tests::wait;
use serde_json::json;

use crate::world::World;

/// What must be seen nowhere.
const SECRET: &str = "hunter2-7f3a";

#[test]
fn flags_that_change_nothing_for_others_share_the_daemon() {
    let world = World::fake("");
    for (n, flags) in [
        &["--analytics-default-enabled"][..],
        &["--analytics-default-enabled", "--stdio"],
        &["--listen", "stdio://"],
        &["--listen=stdio://"],
        &[],
    ]
    .into_iter()
    .enumerate()
    {
        let mut command = world.command(&[&["app-server"], flags].concat());
        let mut client = world.spawn(&format!("c{n}"), &mut command);
        client.initialize();
        assert_eq!((client.stderr().as_str(), world.daemons().len()), ("", 1), "{flags:?}");
        assert_eq!(client.finish(), 0);
    }
    let codex = world.status("upstream.arguments").unwrap();
    assert_eq!(codex, "[]");
}

#[test]
fn the_document_has_a_line_for_every_flag_and_command_of_codex() {
    let document = include_str!("../../../../docs/connect.md");
    for version in [Version::Current, Version::Old] {
        let Some(codex) = Codex::for_test(version) else { return };
        let home = codexd_tests::home::Home::new().unwrap();
        let help =
            Output::of(home.command(&codex.native).args(["app-server", "--help"])).expect_code(0).stdout;
        // `  -c, --config <key=value>`, `      --stdio`; commands stand with two spaces before them.
        let words = |line: &str| -> Vec<String> {
            let line = line.trim_start();
            let flags = line.split([' ', ',']).filter(|word| word.starts_with('-') && word.len() > 1);
            flags.map(str::to_owned).collect()
        };
        let options = help.split_once("\nOptions:\n").unwrap().1;
        let is_option = |line: &&str| line.starts_with("  -") || line.starts_with("      --");
        let mut all: BTreeSet<String> = options.lines().filter(is_option).flat_map(words).collect();
        let commands = help.split_once("\nCommands:\n").unwrap().1.split_once("\n\n").unwrap().0;
        all.extend(commands.lines().map(|line| line.split_whitespace().next().unwrap().to_owned()));
        assert!(all.contains("--analytics-default-enabled") && all.contains("generate-ts"), "{all:?}");
        all.retain(|word| !document.contains(&format!("`{word}`")) && !word.starts_with("--ws-"));
        assert!(all.is_empty(), "decide in `connect/arguments.rs` and name in docs/connect.md: {all:?}");
    }
}

/// Every text that people and programs get to see of the daemons of a world, by where it stands.
fn everything_shown(world: &World) -> Vec<(String, String)> {
    let mut shown = Vec::new();
    for line in [
        &["ctl", "list"][..],
        &["ctl", "list", "--json", "--all"],
        &["ctl", "status", "--all"],
        &["ctl", "status", "--all", "--json"],
        &["doctor"],
        &["doctor", "--json"],
    ] {
        let output = world.run(line);
        shown.push((line.join(" "), format!("{}{}", output.stdout, output.stderr)));
    }
    let state = fs::read_dir(world.home().state().join("codexd")).into_iter().flatten();
    let runtime = fs::read_dir(world.home().runtime().join("codexd")).into_iter().flatten();
    for entry in state.chain(runtime).flatten() {
        let path = entry.path().display().to_string();
        shown.push((path.clone(), fs::read_to_string(entry.path()).unwrap_or_default() + &path));
    }
    shown
}

#[test]
fn values_of_arguments_are_shown_nowhere_but_on_the_command_line_of_codex() {
    let world = World::fake("").configured("log_level = \"trace\"\n");
    let setting = format!("mcp_servers.x.env.TOKEN=\"{SECRET}\"");
    let host = format!("--code-mode-host=https://{SECRET}@h");
    let arguments = ["app-server", "-c", &setting, &host, "--enable", "feature"];
    let start = |name: &str| {
        let mut client = world.spawn(name, &mut world.command(&arguments));
        client.initialize();
        client
    };
    let first = start("first");
    let second = start("second");
    assert_eq!(world.daemons().len(), 1);
    let names = "-c mcp_servers.x.env.TOKEN, --code-mode-host, --enable feature";
    assert!(first.stderr().contains(&format!("`{names}` cannot be shared")), "{}", first.stderr());

    // As `ps` shows them: the clients were started with it by this test, and codex is by the daemon.
    let clients = [first.pid().unwrap(), second.pid().unwrap()].map(|pid| i32::try_from(pid).unwrap());
    let mut processes = process::marked(world.home().root());
    processes.retain(|process| !clients.contains(&process.pid));
    let codex = processes.iter().position(|process| process.command.contains(" app-server ")).unwrap();
    let codex = processes.remove(codex);
    assert!(codex.command.ends_with(&arguments[1..].join(" ")), "{}", codex.command);
    assert!(
        !processes.is_empty() && processes.iter().all(|it| !it.command.contains(SECRET)),
        "{processes:#?}"
    );
    #[cfg(target_os = "linux")]
    for process in &processes {
        let environment = fs::read_to_string(format!("/proc/{}/environ", process.pid)).unwrap();
        assert!(!environment.contains(SECRET));
        // Nothing of the pipe is left in the daemon.
        assert_eq!(fs::read_link(format!("/proc/{}/fd/0", process.pid)).unwrap().as_os_str(), "/dev/null");
    }

    let shown = everything_shown(&world);
    for (place, text) in &shown {
        assert!(!text.contains(SECRET), "{place}:\n{text}");
    }
    for place in ["ctl list", "ctl status --all", "doctor"] {
        let (_, text) = shown.iter().find(|(found, _)| found == place).unwrap();
        assert!(text.contains(names), "{place}:\n{text}");
    }
    assert!(
        shown.iter().any(|(place, text)| place.ends_with(".log") && text.contains("DEBUG")),
        "{shown:#?}"
    );
    for client in [first, second] {
        assert!(!client.stderr().contains(SECRET), "{}", client.stderr());
        assert_eq!(client.finish(), 0);
    }
}

#[test]
fn values_of_arguments_are_not_in_messages_about_them() {
    let world = World::fake("[[init-exit:3]]");
    let setting = format!("a.b={SECRET}");
    for line in [
        &["app-server", "--no-direct", "-c", &setting][..],
        &["app-server", "--no-spawn", "-c", &setting],
        &["app-server", "--no-direct", &format!("--listen=ws://{SECRET}@h")],
        &["app-server", "--no-direct", "--ws-issuer", SECRET],
        &["app-server", "--no-direct", "--unknown", SECRET],
        &["serve", "-c", &setting],
    ] {
        let output = world.run(line);
        assert_ne!(output.code(), Some(0), "{output}");
        assert!(!output.stderr.is_empty() && !output.stderr.contains(SECRET), "{output}");
    }
    for (place, text) in everything_shown(&world) {
        assert!(!text.contains(SECRET), "{place}:\n{text}");
    }
    // In the file, too, and where it is wrong.
    let world = world.configured(&format!("codex_args = \"-c a.b={SECRET}\"\n"));
    for line in [&["serve"][..], &["doctor"], &["ctl", "status"]] {
        let output = world.run(line);
        let said = format!("{}{}", output.stdout, output.stderr);
        assert!(said.contains("a list of texts") && !said.contains(SECRET), "{output}");
    }
}

#[test]
fn arguments_reach_codex_whole_however_long_they_are() {
    let world = World::fake("").configured("codex_args = [\"-c\", \"from.file=1\"]\n");
    // More than a pipe holds, and less than an argument can have.
    let long = format!("a.b={}", "x".repeat(100_000));
    let odd = "c.d='\u{e9} \" \\ $HOME\nline'";
    let arguments = ["app-server", "-c", &long, "-c", odd];
    let mut client = world.spawn("client", &mut world.command(&arguments));
    client.initialize();
    let processes = process::marked(world.home().root());
    let expected = format!(" app-server -c from.file=1 -c {long} -c {odd}");
    assert!(processes.iter().any(|process| process.command.ends_with(&expected)));
    assert_eq!(client.finish(), 0);
}

#[test]
fn settings_of_one_client_are_in_force_in_its_codex_and_in_no_other() {
    let Some(world) = World::real() else { return };
    let start = |name: &str, arguments: &[&str]| {
        let mut client = world.spawn(name, &mut world.command(&[&["app-server"], arguments].concat()));
        client.initialize();
        let config = client.request("config/read", json!({}))["config"].clone();
        (client, config)
    };
    let setting = format!("developer_instructions=\"{SECRET}\"");
    let (own, config) = start("own", &["-c", &setting, "--strict-config", "--stdio"]);
    assert_eq!(config["developer_instructions"], SECRET);
    let (desktop, config) = start("desktop", &["--analytics-default-enabled"]);
    assert_eq!(config["developer_instructions"], json!(null));
    let (shared, again) = start("shared", &[]);
    assert_eq!((again == config, world.daemons().len()), (true, 2));
    for (place, text) in everything_shown(&world) {
        assert!(!text.contains(SECRET), "{place}:\n{text}");
    }
    for client in [own, desktop, shared] {
        assert!(!client.stderr().contains(SECRET), "{}", client.stderr());
        assert_eq!(client.finish(), 0);
    }
}

#[test]
fn a_daemon_that_is_told_to_read_its_arguments_refuses_what_is_none_without_quoting_it() {
    let world = World::fake("");
    let mut command: Command = world.command(&["serve", "--codex-args-on-stdin"]);
    for input in ["", SECRET, "{\"a\":1}", "[\"-c\", 5]"] {
        let output = Output::with_input(&mut command, input.as_bytes()).expect_code(64);
        assert!(output.stderr.contains("--codex-args-on-stdin"), "{output}");
        assert!(!output.stderr.contains(SECRET), "{output}");
    }
    // The file's own are the daemon's own affair, and are no reason for another one.
    let world = world.configured("codex_args = [\"--strict-config\"]\n");
    let client = world.client("client");
    wait::until("it serves", || world.status("state").as_deref() == Some("serving"));
    let status = world.run(&["ctl", "status", "--json"]).json();
    assert_eq!(status["upstream"]["arguments"], json!(["--strict-config"]));
    assert_eq!(client.finish(), 0);
}
