//! What the log and the status contain: clients, turns, why codex ended; and what they never contain, prompts and
//! secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use codexd_tests::codex::Version;
use codexd_tests::daemon::TestDaemon;
use codexd_tests::home::Home;
use codexd_tests::output::Output;
use codexd_tests::{binary, wait};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{expect_end, status, wait_for_state};

/// Returns the value of a field in a line of the log.
#[track_caller]
fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let start = line.find(&format!(" {name}=")).unwrap_or_else(|| panic!("no {name} in: {line}"));
    let value = &line[start + name.len() + 2..];
    value.split(' ').next().unwrap().trim_matches('"')
}

/// Returns the lines of the log at this level with this text.
fn lines<'a>(log: &'a str, level: &str, words: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains(&format!(" {level} ")) && line.contains(words)).collect()
}

#[test]
fn clients_and_turns_have_one_line_when_they_come_and_one_when_they_go() {
    let mut daemon = TestDaemon::fake("").ready();
    let mut client = daemon.client("the-name");
    let thread = client.start_thread(json!({}));
    let turn = client.start_turn(&thread, "a secret prompt");
    assert_eq!(client.finish_turn(&thread, &turn).status, "completed");
    let interrupted = client.start_turn(&thread, "[[hang]]");
    client.request("turn/interrupt", json!({"threadId": thread, "turnId": interrupted}));
    client.finish_turn(&thread, &interrupted);
    // A process that only asks for the status is no client.
    let _ = daemon.ctl(&["status"]).expect_code(0);
    drop(client);
    wait::until("the client has left", || daemon.stderr().contains("client left"));
    assert_eq!(daemon.stop(), 0);

    let log = daemon.stderr();
    let [connected] = lines(&log, "INFO", "client connected")[..] else { panic!("{log}") };
    let [left] = lines(&log, "INFO", "client left")[..] else { panic!("{log}") };
    for line in [connected, left] {
        assert_eq!(field(line, "client.name"), "the-name");
        assert_eq!(field(line, "client.pid"), std::process::id().to_string());
        assert_eq!(field(line, "client.id"), field(connected, "client.id"));
    }
    field(left, "duration_ms").parse::<u64>().unwrap();
    let starts = lines(&log, "INFO", "turn started");
    let ends = lines(&log, "INFO", "turn ended");
    assert_eq!((starts.len(), ends.len()), (2, 2), "{log}");
    for (at, (turn, outcome)) in [(&turn, "completed"), (&interrupted, "interrupted")].into_iter().enumerate()
    {
        for line in [starts[at], ends[at]] {
            assert_eq!((field(line, "thread.id"), field(line, "turn.id")), (thread.as_str(), turn.as_str()));
        }
        assert_eq!(field(ends[at], "outcome"), outcome);
        assert_eq!(field(ends[at], "client.id"), field(connected, "client.id"));
        field(ends[at], "duration_ms").parse::<u64>().unwrap();
    }
    assert!(!log.contains("secret"), "{log}");
    let last = log.lines().last().unwrap();
    assert_eq!(last, "codexd: exits with 0 (stopped), because codexd is stopping (SIGTERM)");
}

#[test]
fn what_codex_says_at_its_end_is_reported_without_prompts() {
    let mut daemon = TestDaemon::fake("").ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    let turn = client.start_turn(
        &thread,
        "[[stderr:2026-11-28T20:34:44.252095Z ERROR codex_core::tools: error=exec `PROMPT` failed]]\
         [[stderr:thread 'main' panicked at core/src/x.rs:10:5:]]\
         [[stderr:byte index 1 is not a char boundary; it is inside `PROMPT\nPROMPT`]]\
         [[exit:101]]",
    );
    let reported = "codex app-server exited with code 101: thread 'main' panicked at core/src/x.rs:10:5: byte index 1 \
                is not a char boundary; it is inside `…`";
    let seen = client.recv_to_end();
    let end = seen.iter().find(|message| message.method() == Some("turn/completed")).unwrap();
    assert_eq!(end["params"]["turn"]["id"], turn.as_str());
    assert_eq!(end["params"]["turn"]["error"]["message"], reported);
    expect_end(&mut daemon, 1);
    let exit = &status(&daemon)["lastExit"];
    assert_eq!(exit["reason"], "codex app-server exited with code 101");
    assert_eq!(exit["upstreamStderr"][0], "thread 'main' panicked at core/src/x.rs:10:5:");
    assert!(!exit.to_string().contains("PROMPT"), "{exit}");
    let log = daemon.stderr();
    assert!(log.ends_with(&format!("codexd: exits with 1 (upstreamLost), because {reported}\n")), "{log}");
    assert!(!log.contains("PROMPT"), "{log}");
    assert_eq!(lines(&log, "ERROR", "codex app-server wrote before it ended").len(), 2, "{log}");
    let [ended] = lines(&log, "INFO", "turn ended")[..] else { panic!("{log}") };
    assert_eq!(field(ended, "outcome"), "lost");
}

#[test]
fn an_end_that_was_asked_for_is_not_explained() {
    let mut daemon = TestDaemon::fake("").ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    client.turn(&thread, "[[stderr:Error: of yesterday]]");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(status(&daemon)["lastExit"]["upstreamStderr"], json!([]));
    assert!(!daemon.stderr().contains("yesterday"), "{}", daemon.stderr());
}

#[test]
fn no_secret_is_reported() {
    // `$3` is the setting, after `app-server -c`.
    let text = "#!/bin/sh\n{ echo \"Error: bad key $MY_API_KEY and $3 at $https_proxy\"\n\
                echo 'authorization: Bearer abcdefghijklmnop1'\n\
                echo 'experimental_bearer_token = \"plain words\"'; } >&2\nexit 1\n";
    let home = Home::new().unwrap();
    let path = crate::start_failures::write_program(home.root().join("secretive"), text.as_bytes(), 0o755);
    let mut daemon = TestDaemon::program(&path)
        .home(home)
        .args(["--codex-arg", "-c", "--codex-arg", "a.b=Value-of-1-setting", "--log-level", "debug"])
        .env("MY_API_KEY", "from-the-environment")
        .env("https_proxy", "http://me:pass-of-proxy@proxy:3128")
        .start();
    expect_end(&mut daemon, 1);
    let reported = format!("{}{}", daemon.stderr(), status(&daemon));
    assert!(reported.contains("Error: bad key *** and"), "{reported}");
    for secret in
        ["from-the-environment", "Value-of-1-setting", "pass-of-proxy", "abcdefghijklmnop1", "plain words"]
    {
        assert!(!reported.contains(secret), "{secret}: {reported}");
    }
}

#[test]
fn what_codex_warns_of_in_its_configuration_is_reported() {
    let Some(builder) = TestDaemon::real(Version::Current) else { return };
    // It goes on, with the defaults in place of the whole file.
    let mut daemon =
        builder.codex_config(|config| config.more = "[tui]\nnotifications = 7\n".to_owned()).ready();
    let wrong = "Invalid configuration; using defaults.";
    let warned = |status: &Value| {
        let warnings = status["warnings"].as_array().unwrap().clone();
        warnings.iter().any(|warning| {
            warning["code"] == "codexConfig" && warning["message"].as_str().unwrap().starts_with(wrong)
        })
    };
    wait::until("the status says so", || warned(&status(&daemon)));
    assert!(!lines(&daemon.stderr(), "WARN", wrong).is_empty(), "{}", daemon.stderr());
    let doctor = daemon.run(&["doctor", "--json"]).json();
    let finding = |check: &str| -> Vec<Value> {
        let all = doctor["findings"].as_array().unwrap().iter();
        all.filter(|finding| finding["check"] == check).cloned().collect()
    };
    assert_eq!(finding("codexStart")[0]["level"], "ok", "{doctor}");
    let config = daemon.home().codex_home().join("config.toml").display().to_string();
    let said = finding("codexConfig");
    assert!(
        said.iter().any(|finding| {
            let message = finding["message"].as_str().unwrap();
            message.starts_with(wrong) && message.contains(&config)
        }),
        "{said:#?}"
    );
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn doctor_says_that_the_next_start_would_fail_while_the_daemon_serves() {
    let Some(builder) = TestDaemon::real(Version::Current) else { return };
    let mut daemon = builder.ready();
    let config = daemon.home().codex_home().join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("approval_policy = \"untrusted\"\n{}", text.replace("approval_policy", "#")))
        .unwrap();
    let report = daemon.run(&["doctor"]).expect_code(1);
    let reported = "codexStart: codex would not start again: codex app-server exited with code 1: Error: approval_policy";
    assert!(report.stdout.contains(reported), "{report}");
    assert!(report.stdout.contains("\n      codex: Error: approval_policy = "), "{report}");
    // The one that runs is not touched, and reads the file anew for each thread.
    fs::write(&config, text).unwrap();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({"cwd": daemon.home().project()}));
    assert_eq!(client.turn(&thread, "hello").status, "completed");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_refused_handshake_is_reported_in_the_words_of_codex() {
    let mut daemon = TestDaemon::fake("[[init-error:-32603]]").start();
    expect_end(&mut daemon, 76);
    let reported = "codex app-server refused the handshake with codexd: initialize is refused by the script";
    let last = format!("codexd: exits with 76 (protocol), because {reported}\n");
    assert!(daemon.stderr().ends_with(&last), "{}", daemon.stderr());
    let exit = &status(&daemon)["lastExit"];
    assert_eq!(
        exit["upstreamStderr"],
        json!(["in answer to `initialize`: initialize is refused by the script"])
    );
    let lines = daemon.notify().lines();
    assert!(lines.contains(&format!("STATUS={reported}")), "{lines:?}");
}

#[test]
fn a_bridge_says_why_the_daemon_was_lost() {
    let mut daemon = TestDaemon::fake("").ready();
    let stderr = daemon.home().root().join("bridge.stderr");
    let mut command = daemon.command(&["connect", "--no-spawn", "--patience", "0s"]);
    let mut client =
        codexd_tests::client::TestClient::spawn("bridge", command.stderr(fs::File::create(&stderr).unwrap()));
    client.initialize();
    let thread = client.start_thread(json!({}));
    client.start_turn(&thread, "[[stderr:fatal: out of it]][[exit:4]]");
    assert_eq!(client.wait_exit().code(), Some(1));
    let said = fs::read_to_string(stderr).unwrap();
    let reported =
        "the connection to codexd was lost (codex app-server exited with code 4: fatal: out of it)";
    assert!(said.contains(reported), "{said}");
    expect_end(&mut daemon, 1);
}

#[test]
fn every_event_about_a_client_names_it_and_every_event_about_a_turn_has_its_thread() {
    let mut daemon = TestDaemon::fake("")
        .config("silent_turn_warning = \"100ms\"\n")
        .args(["--log-level", "trace", "--log-format", "json"])
        .ready();
    let mut first = daemon.client("the-first");
    let mut second = daemon.websocket_client("the-second");
    let mut third = daemon.client("the-third");
    let thread = first.start_thread(json!({}));
    let turn = first.start_turn(&thread, "[[approve]]");
    let approval = first.take("the approval", |message| message.is_server_request());
    first.answer(&approval, json!({"decision": "accept"}));
    assert_eq!(first.finish_turn(&thread, &turn).status, "completed");
    let other_thread = second.start_thread(json!({}));
    let other_turn = second.start_turn(&other_thread, "[[hang]]");
    wait::until("the turn is silent", || daemon.stderr().contains("codex sends nothing about a turn"));
    let _ = daemon.ctl(&["interrupt", &other_turn]).expect_code(0);
    // One is closed by an operator, one ends itself inside a line, one is closed because the daemon stops.
    let _ = daemon.ctl(&["kill", "the-third"]).expect_code(0);
    third.recv_to_end();
    second.finish_turn(&other_thread, &other_turn);
    first.send_bytes(b"{\"id\":1").unwrap();
    drop(first);
    wait::until("the client has left", || daemon.stderr().contains("connection ended inside a line"));
    assert_eq!(daemon.stop(), 0);

    let log = daemon.stderr();
    let events: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let mut seen = BTreeSet::new();
    let mut names = BTreeMap::new();
    for event in &events {
        assert!(event.get("span").is_none() && event.get("spans").is_none(), "{event}");
        let fields = event["fields"].as_object().unwrap();
        let message = fields["message"].as_str().unwrap();
        if let Some(id) = fields.get("client.id") {
            if message == "client connected" {
                names.insert(id.to_string(), fields["client.name"].clone());
            }
            assert_eq!(fields.get("client.name"), names.get(&id.to_string()), "{event}");
            assert_eq!(fields["client.pid"], std::process::id(), "{event}");
            seen.insert(message);
        }
        for client_only in ["client.name", "client.pid"] {
            assert!(!fields.contains_key(client_only) || fields.contains_key("client.id"), "{event}");
        }
        if fields.contains_key("turn.id") || message.contains("turn") || fields.contains_key("request.id") {
            let known = [(&thread, &turn), (&other_thread, &other_turn)]
                .iter()
                .any(|(thread, turn)| fields["thread.id"] == ***thread && fields["turn.id"] == ***turn);
            assert!(known, "{event}");
            seen.insert(message);
        }
        if message.contains("codex app-server") && !message.contains("leftover process") {
            assert!(fields["upstream.pid"].is_u64(), "{event}");
            seen.insert(message);
        }
    }
    assert_eq!(names.len(), 3, "{log}");
    for message in [
        "connection accepted",
        "client connected",
        "turn started",
        "codex asks its clients",
        "codex asks its clients no longer",
        "turn ended",
        "codex sends nothing about a turn",
        "an operator interrupts a turn",
        "closing a client's connection",
        "connection ended inside a line",
        "closing a WebSocket",
        "client left",
        "connection ended",
        "started codex app-server",
        "codex app-server has ended",
    ] {
        assert!(seen.contains(message), "`{message}` was not logged:\n{log}");
    }
}

#[test]
fn a_hangup_before_clients_are_served_is_not_lost() {
    let mut daemon = TestDaemon::fake("[[init-hang]]").start();
    wait_for_state(&daemon, "handshaking");
    daemon.home().write_config("codex_args = [\"-x\"]\nlog_level = \"debug\"\n").unwrap();
    daemon.signal(Signal::SIGHUP);
    wait::until("the settings are read", || status(&daemon)["warnings"][0]["code"] == "restartNeeded");
    // The service manager was not notified: the start is not over.
    let lines = daemon.notify().lines();
    assert!(!lines.iter().any(|line| line == "RELOADING=1" || line == "READY=1"), "{lines:?}");
    daemon.home().write_config("").unwrap();
    let receipt = daemon.ctl(&["reload", "--json"]).expect_code(0).json();
    assert_eq!(receipt["applied"], json!(["log_level"]));
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_hangup_during_a_stop_is_logged_as_ignored() {
    let mut daemon = TestDaemon::fake("").ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    let turn = client.start_turn(&thread, "[[approve]]");
    let approval = client.take("the approval", |message| message.is_server_request());
    daemon.term();
    wait_for_state(&daemon, "draining");
    daemon.signal(Signal::SIGHUP);
    wait::until("it is logged", || {
        !lines(&daemon.stderr(), "WARN", "the settings were not read again").is_empty()
    });
    client.answer(&approval, json!({"decision": "accept"}));
    assert_eq!(client.finish_turn(&thread, &turn).status, "completed");
    assert_eq!(daemon.wait_exit().code(), Some(0));
}

#[test]
fn a_turn_that_its_client_left_behind_counts_as_done() {
    let mut daemon = TestDaemon::fake("").ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    let turn = client.start_turn(&thread, "[[deltas:20:20]]");
    drop(client);
    wait::until("the turn is done", || status(&daemon)["counters"]["turnsCompleted"] == 1);
    assert_eq!(status(&daemon)["openTurns"], 0);
    let log = daemon.stderr();
    let [ended] = lines(&log, "INFO", "turn ended")[..] else { panic!("{log}") };
    assert_eq!(field(ended, "turn.id"), turn);
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn lines_have_no_priorities_where_the_journal_is_not_at_the_other_end() {
    // As a program has it that a service has started, with its output in a file.
    let mut daemon = TestDaemon::fake("").env("JOURNAL_STREAM", "1:2").ready();
    assert_eq!(daemon.stop(), 0);
    assert!(daemon.stderr().lines().all(|line| !line.starts_with('<')), "{}", daemon.stderr());
    let home = Home::new().unwrap();
    let mut command = home.command(&binary::codexd());
    let output = Output::of(command.args(["serve", "--config", "/nowhere"]).env("JOURNAL_STREAM", "1:2"));
    assert!(output.stderr.starts_with("codexd: exits with 78 (config), because "), "{output}");
    assert_eq!(output.code(), Some(78));
}

#[test]
fn the_log_names_the_client_of_a_turn_of_the_real_codex() {
    let Some(builder) = TestDaemon::real(Version::Current) else { return };
    let mut daemon = builder.ready();
    let mut client = daemon.client("the-name");
    let thread = client.start_thread(json!({"cwd": daemon.home().project()}));
    assert_eq!(
        client.turn(&thread, "[[shell:echo SECRET-COMMAND; exit 3]] a SECRET-PROMPT").status,
        "completed"
    );
    assert_eq!(client.turn(&thread, "[[call:no_such_tool:SECRET-CALL]] and so on").status, "completed");
    assert_eq!(client.turn(&thread, "[[http:400]] no").status, "failed");
    drop(client);
    wait::until("the client has left", || daemon.stderr().contains("client left"));
    // Lost when codex has just logged what the model called.
    daemon.signal_upstream(Signal::SIGKILL);
    expect_end(&mut daemon, 1);
    let log = daemon.stderr();
    let (starts, ends) = (lines(&log, "INFO", "turn started"), lines(&log, "INFO", "turn ended"));
    assert_eq!((starts.len(), ends.len()), (3, 3), "{log}");
    assert!(starts.iter().chain(&ends).all(|line| field(line, "client.name") == "the-name"), "{log}");
    let outcomes: Vec<&str> = ends.iter().map(|line| field(line, "outcome")).collect();
    assert_eq!(outcomes, ["completed", "completed", "failed"]);
    assert!(!format!("{log}{}", status(&daemon)).contains("SECRET"), "{log}");
}
