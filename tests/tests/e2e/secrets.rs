//! Secrets and prompts that were planted are nowhere that an operator, a supervisor or another user looks.

use std::io::Read as _;
use std::process::Stdio;

use codexd_tests::daemon::TestDaemon;
use codexd_tests::process::marked;
use codexd_tests::wait;
use serde_json::json;

use crate::http::get;
use crate::support::{Started, expect_end, waiting_turn};

/// In the environment of the daemon.
const IN_ENVIRONMENT: &str = "planted-in-the-environment";
/// In the arguments of codex.
const IN_ARGUMENTS: &str = "planted-in-the-arguments";
/// In what a client sends.
const IN_A_PARAMETER: &str = "planted-in-a-parameter";
/// In a prompt.
const IN_A_PROMPT: &str = "planted-in-a-prompt";

#[track_caller]
fn expect_none(place: &str, text: &str) {
    assert!(!text.is_empty(), "{place} is empty");
    for secret in [IN_ENVIRONMENT, IN_ARGUMENTS, IN_A_PARAMETER, IN_A_PROMPT] {
        assert!(!text.contains(secret), "{place} shows `{secret}`:\n{text}");
    }
}

#[test]
fn planted_secrets_are_in_no_log_status_list_metric_event_frame_record_or_command_line() {
    let mut daemon = TestDaemon::fake("")
        .config(&format!("codex_args = [\"-c\", \"x.api_token={IN_ARGUMENTS}\"]\nlog_level = \"trace\"\n"))
        .env("SOME_API_KEY", IN_ENVIRONMENT)
        .ready();
    let watch = |arguments: &[&str]| {
        let mut command = daemon.command(&[&["ctl"], arguments].concat());
        Started::of(command.stdout(Stdio::piped()).stderr(Stdio::null()))
    };
    let mut watching = [watch(&["events"]), watch(&["events", "--json"]), watch(&["monitor"])];
    wait::until("the monitor is there", || daemon.stderr().contains("a monitor looks at the messages"));
    let mut client = daemon.client("one");
    let _ = client.try_request("account/login/start", json!({"type": "apiKey", "apiKey": IN_A_PARAMETER}));
    let prompt = format!("{IN_A_PROMPT} {IN_ENVIRONMENT}");
    let (_, turn, _approval) = waiting_turn(&mut client, &prompt);

    for verb in ["status", "clients", "threads", "turns", "requests"] {
        for flags in [&[verb][..], &[verb, "--json"]] {
            expect_none(&format!("ctl {flags:?}"), &daemon.ctl(flags).expect_code(0).stdout);
        }
    }
    expect_none("the metrics", &get(&daemon, "/metrics"));
    let codex = daemon.upstream_pid();
    for process in marked(daemon.home().root()).iter().filter(|process| process.pid != codex) {
        expect_none("a command line", &process.command);
    }

    // What codex says at its end is shown, and it may repeat anything.
    let thread = client.start_thread(json!({}));
    let last = format!("[[stderr:api_key={IN_ENVIRONMENT} token: {IN_ARGUMENTS}]][[exit:3]] {IN_A_PROMPT}");
    client.start_turn(&thread, &last);
    expect_end(&mut daemon, 1);
    for (watching, place) in watching.iter_mut().zip(["the events", "the events as JSON", "the frames"]) {
        let mut text = String::new();
        watching.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        let end_of_turn = turn.rsplit('-').next().unwrap();
        assert!(place == "the frames" || text.contains(end_of_turn), "{place}: {text}");
        expect_none(place, &text);
    }
    expect_none("the log", &daemon.stderr());
    for arguments in [&["last-exit"][..], &["last-exit", "--json"], &["history"], &["history", "--json"]] {
        expect_none("the last exit", &daemon.ctl(arguments).expect_code(0).stdout);
    }
    let state = daemon.home().state().join("codexd");
    for entry in std::fs::read_dir(state).unwrap() {
        let path = entry.unwrap().path();
        // The ledger is no text; what it holds of one is as it was written.
        let bytes = std::fs::read(&path).unwrap();
        expect_none(&path.display().to_string(), &String::from_utf8_lossy(&bytes));
    }
}
