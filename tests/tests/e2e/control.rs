//! The control plane: output and exit codes of `codexd ctl`.

use codexd_tests::daemon::TestDaemon;
use codexd_tests::output::Output;
use codexd_tests::wait;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{TURN_END, expect_end, status, wait_for_state, waiting_turn};

#[test]
fn status_for_people_is_one_screen_with_the_facts() {
    let daemon = TestDaemon::fake("").ready();
    let mut client = daemon.client("one");
    let (_, _, _approval) = waiting_turn(&mut client, "");
    let output = daemon.ctl(&["status"]).expect_code(0);
    let line = |label: &str| {
        let found = output.stdout.lines().find(|line| line.starts_with(&format!("{label} ")));
        found.unwrap_or_else(|| panic!("no line `{label}` in\n{output}"))
    };
    let has = |label: &str, words: &str| assert!(line(label).contains(words), "{label}: {words}\n{output}");
    has("state", "serving for ");
    has("state", ", ready");
    has("daemon", &format!("pid {}, codexd {}", daemon.pid(), env!("CARGO_PKG_VERSION")));
    has("socket", &daemon.socket().display().to_string());
    has("control", &daemon.control_socket().display().to_string());
    has("codex", &format!("pid {}, codex 0.0.0-fake", daemon.upstream_pid()));
    assert!(
        output.stdout.contains("methods unknown to codexd, passed on as they are: fake/method"),
        "{output}"
    );
    has("clients", "1 connected, 1 thread loaded, 1 turn open");
    has("requests", "0 in flight; 0 queued");
    has("approvals", "1 pending, 0 of them with nobody to answer");
    has("last exit", "no record of an earlier daemon");
    assert!(output.stdout.contains(&daemon.codex().display().to_string()), "{output}");
    assert_eq!(output.stderr, "");
    assert!(output.stdout.lines().count() <= 24, "{output}");
}

#[test]
fn status_for_programs_has_the_members_of_the_contract() {
    let daemon = TestDaemon::fake("").ready();
    let mut client = daemon.client("one");
    let (_, _, _approval) = waiting_turn(&mut client, "");
    let now = status(&daemon);
    assert_eq!(now["state"], "serving");
    assert_eq!(now["ready"], true);
    assert_eq!(now["pid"], daemon.pid());
    assert_eq!(now["version"], env!("CARGO_PKG_VERSION"));
    assert!(now["instance"].is_string() && now["generation"] == 1 && now["uptimeMs"].is_u64(), "{now}");
    assert_eq!(now["upstream"]["pid"], daemon.upstream_pid());
    assert_eq!(now["upstream"]["executable"], daemon.codex().display().to_string());
    assert_eq!(now["upstream"]["version"], "0.0.0-fake");
    assert_eq!(now["upstream"]["unknownMethods"], json!(["fake/method"]));
    assert_eq!((&now["clients"], &now["openTurns"]), (&json!(1), &json!(1)));
    assert_eq!((&now["warnings"], &now["lastExit"]), (&json!([]), &Value::Null));
    let fields = daemon.ctl(&["status", "--field", "state,upstream.version,openTurns"]).expect_code(0);
    assert_eq!(fields.stdout, "serving\n0.0.0-fake\n1\n");
}

#[test]
fn status_follows_requests_and_clients() {
    let daemon = TestDaemon::fake("[[slow:300]]").ready();
    let mut client = daemon.client("one");
    for _ in 0..100 {
        client.send_request("model/list", json!({}));
    }
    wait::until("requests in flight and queued", || {
        let now = status(&daemon);
        now["inFlight"].as_u64() > Some(0) && now["queuedRequests"].as_u64() > Some(0)
    });
    drop(client);
    wait::until("all is gone", || {
        let now = status(&daemon);
        now["clients"] == 0 && now["inFlight"] == 0 && now["queuedRequests"] == 0
    });
    assert_eq!(status(&daemon)["counters"]["clientsAccepted"], 1);
}

#[test]
fn a_daemon_that_is_not_ready_is_running_and_exits_1() {
    let mut daemon = TestDaemon::fake("[[init-hang]]").start();
    wait::until("the control socket answers", || daemon.ctl(&["status"]).code() == Some(1));
    let now = daemon.ctl(&["status", "--json"]).expect_code(1).json();
    assert_eq!((&now["state"], &now["ready"]), (&json!("handshaking"), &json!(false)));
    let output = daemon.ctl(&["wait", "ready", "--timeout", "50ms"]).expect_code(1);
    assert!(output.stderr.contains("still handshaking"), "{output}");
    daemon.term();
    expect_end(&mut daemon, 0);
}

#[test]
fn a_draining_daemon_is_running_and_exits_1() {
    let mut daemon = TestDaemon::fake("").ready();
    let mut client = daemon.client("one");
    let (thread, turn, approval) = waiting_turn(&mut client, "");
    daemon.term();
    wait_for_state(&daemon, "draining");
    let now = daemon.ctl(&["status", "--json"]).expect_code(1).json();
    assert_eq!((&now["ready"], &now["openTurns"]), (&json!(false), &json!(1)));
    client.answer(&approval, json!({"decision": "accept"}));
    client.finish_turn(&thread, &turn);
    expect_end(&mut daemon, 0);
}

#[test]
fn no_daemon_exits_3() {
    let mut daemon = TestDaemon::fake("").ready();
    assert_eq!(daemon.stop(), 0);
    let output = daemon.ctl(&["status"]).expect_code(3);
    assert_eq!(output.stdout, "");
    assert!(output.stderr.contains("last exit of instance"), "{output}");
    let now = daemon.ctl(&["status", "--json"]).expect_code(3).json();
    assert_eq!((&now["state"], &now["pid"]), (&json!("notRunning"), &Value::Null));
    let _ = daemon.ctl(&["stop"]).expect_code(3);
    let _ = daemon.ctl(&["wait", "stopped"]).expect_code(0);
    let _ = daemon.ctl(&["wait", "ready", "--timeout", "50ms"]).expect_code(3);
}

#[test]
fn a_daemon_that_does_not_answer_exits_4() {
    let daemon = TestDaemon::fake("").ready();
    daemon.signal(Signal::SIGSTOP);
    let output = daemon.ctl(&["status", "--json"]);
    daemon.signal(Signal::SIGCONT);
    assert_eq!(output.code(), Some(4), "{output}");
    assert_eq!(output.json()["state"], "unknown");
    let _ = daemon.ctl(&["status"]).expect_code(0);
}

#[test]
fn a_daemon_whose_control_socket_was_removed_exits_4() {
    let mut daemon = TestDaemon::fake("").ready();
    std::fs::remove_file(daemon.control_socket()).unwrap();
    let output = daemon.ctl(&["status"]).expect_code(4);
    assert!(output.stderr.contains("hint: "), "{output}");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn wait_ready_waits_for_a_daemon_that_is_still_to_be_started() {
    let home = codexd_tests::home::Home::new().unwrap();
    let mut command = home.command(&codexd_tests::binary::codexd());
    command.args(["ctl", "wait", "ready", "--control-socket"]).arg(home.runtime().join("c"));
    let waiting = std::thread::spawn(move || Output::of(&mut command));
    let daemon = TestDaemon::fake("").home(home).ready();
    assert_eq!(waiting.join().unwrap().code(), Some(0));
    drop(daemon);
}

#[test]
fn wait_stopped_returns_when_the_daemon_is_gone() {
    let mut daemon = TestDaemon::fake("").ready();
    let _ = daemon.ctl(&["wait", "stopped", "--timeout", "50ms"]).expect_code(1);
    let mut command = daemon.command(&["ctl", "wait", "stopped"]);
    let waiting = std::thread::spawn(move || Output::of(&mut command));
    daemon.term();
    assert_eq!(waiting.join().unwrap().code(), Some(0));
    assert!(!daemon.socket().exists() && !daemon.control_socket().exists());
    assert_eq!(daemon.wait_exit().code(), Some(0));
}

/// Returns how many files the daemon has open.
#[cfg(target_os = "linux")]
fn files(daemon: &TestDaemon) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).map_or(0, Iterator::count)
}

#[cfg(target_os = "linux")]
#[test]
fn forty_waiting_commands_lock_out_neither_status_nor_stop() {
    let mut daemon = TestDaemon::fake("[[strict]]").args(["--drain-timeout", "never"]).ready();
    let mut client = daemon.client("one");
    let (thread, turn, approval) = waiting_turn(&mut client, "");
    let before = files(&daemon);
    let in_background = |arguments: &[&str]| {
        let mut command = daemon.command(&[&["ctl"], arguments].concat());
        std::thread::spawn(move || Output::of(&mut command))
    };
    let waiting: Vec<_> = (0..40).map(|_| in_background(&["wait", "stopped"])).collect();
    wait::until("all wait", || files(&daemon) >= before + 40);
    let _ = daemon.ctl(&["status"]).expect_code(0);
    // `ctl stop` waits as well.
    let _ = daemon.ctl(&["stop", "--timeout", "1ms"]).expect_code(1);
    wait_for_state(&daemon, "draining");
    let before = files(&daemon);
    let stopping: Vec<_> = (0..40).map(|_| in_background(&["stop"])).collect();
    wait::until("all wait for the stop", || files(&daemon) >= before + 40);
    assert_eq!(daemon.ctl(&["status", "--json"]).expect_code(1).json()["state"], "draining");
    let late = daemon.ctl(&["stop", "--json", "--timeout", "1ms"]).expect_code(1).json();
    assert_eq!(late["receipt"]["alreadyStopping"], true);
    client.answer(&approval, json!({"decision": "accept"}));
    client.finish_turn(&thread, &turn);
    for outcome in waiting.into_iter().chain(stopping) {
        let _ = outcome.join().unwrap().expect_code(0);
    }
    expect_end(&mut daemon, 0);
}

#[test]
fn idle_connections_lock_out_neither_status_nor_stop() {
    let mut daemon = TestDaemon::fake("[[strict]]").ready();
    let connect = || std::os::unix::net::UnixStream::connect(daemon.control_socket()).unwrap();
    let idle: Vec<_> = (0..100).map(|_| codexd_tests::websocket::upgrade(connect())).collect();
    assert!(idle.iter().all(Result::is_ok), "a connection is refused");
    let _ = daemon.ctl(&["status"]).expect_code(0);
    let _ = daemon.ctl(&["stop"]).expect_code(0);
    expect_end(&mut daemon, 0);
}

#[test]
fn get_socket_prints_where_clients_connect() {
    let mut daemon = TestDaemon::fake("").ready();
    let path = format!("{}\n", daemon.socket().display());
    assert_eq!(daemon.ctl(&["get-socket"]).expect_code(0).stdout, path);
    let reported = daemon.ctl(&["get-socket", "--json"]).json();
    assert_eq!(reported, json!({"socket": path.trim_end(), "running": true}));
    assert_eq!(daemon.stop(), 0);
    assert_eq!(daemon.ctl(&["get-socket"]).expect_code(0).stdout, path);
}

#[test]
fn a_stop_tells_its_outcome_to_programs() {
    let mut daemon = TestDaemon::fake("").ready();
    let outcome = daemon.ctl(&["stop", "--json"]).expect_code(0).json();
    assert_eq!(outcome["stopped"], true);
    assert_eq!(outcome["receipt"]["pid"], daemon.pid());
    assert_eq!(outcome["receipt"]["alreadyStopping"], false);
    assert_eq!(outcome["lastExit"]["code"], 0);
    assert_eq!(outcome["lastExit"]["reason"], "codexd is stopping (ctl stop)");
    expect_end(&mut daemon, 0);
}

#[test]
fn a_second_stop_says_that_the_first_is_under_way() {
    let mut daemon = TestDaemon::fake("").args(["--drain-timeout", "20s"]).ready();
    let mut client = daemon.client("one");
    let (_, _, approval) = waiting_turn(&mut client, "");
    let first = daemon.ctl(&["stop", "--json", "--timeout", "1ms"]).expect_code(1).json();
    assert_eq!(first["receipt"]["alreadyStopping"], false);
    let second = daemon.ctl(&["stop", "--json", "--timeout", "1ms"]).expect_code(1).json();
    assert_eq!(second["receipt"]["alreadyStopping"], true);
    assert_eq!(second["receipt"]["openTurns"], 1);
    assert!((1..=20_000).contains(&second["receipt"]["deadlineMs"].as_u64().unwrap()), "{second}");
    client.answer(&approval, json!({"decision": "accept"}));
    client.take_method(TURN_END);
    expect_end(&mut daemon, 0);
}

#[test]
fn the_next_daemon_knows_how_the_last_one_ended() {
    type End = fn(&mut TestDaemon);
    let ends: [(End, Value, &str, Value); 4] = [
        (|it| it.term(), json!(0), "codexd is stopping (SIGTERM)", json!("exited with code 0")),
        (
            |it| it.signal_upstream(Signal::SIGKILL),
            json!(1),
            "codex app-server was killed by signal 9 (SIGKILL)",
            json!("was killed by signal 9 (SIGKILL)"),
        ),
        (|it| it.kill9(), Value::Null, "left no record (killed?)", Value::Null),
        (
            |it| drop(it.ctl(&["stop"])),
            json!(0),
            "codexd is stopping (ctl stop)",
            // It may see the end of its input before the signal comes.
            json!("either"),
        ),
    ];
    let mut home = codexd_tests::home::Home::new().unwrap().into();
    for (end, code, reason, upstream) in ends {
        let mut daemon = TestDaemon::fake("").home(home).ready();
        end(&mut daemon);
        daemon.wait_exit();
        home = daemon.into_home();
        let next = TestDaemon::fake("").home(home).ready();
        let last = &status(&next)["lastExit"];
        assert_eq!(last["code"], code, "{last}");
        assert!(last["upstream"] == upstream || upstream == "either", "{last}");
        assert_eq!(last["reason"], reason);
        home = next.into_home();
    }
}

#[test]
fn noise_and_silence_on_the_control_socket_disturb_nobody() {
    use std::io::Write as _;
    let mut daemon = TestDaemon::fake("[[strict]]").ready();
    // More than may be in their handshake at once.
    let mut silent: Vec<_> =
        (0..40).map(|_| std::os::unix::net::UnixStream::connect(daemon.control_socket()).unwrap()).collect();
    for n in 0..40 {
        let mut stream = std::os::unix::net::UnixStream::connect(daemon.control_socket()).unwrap();
        match n % 4 {
            0 => drop(stream.write_all(b"GET /")),
            1 => drop(stream.write_all(b"\xff\x00{\"id\":1}\n\r\n\r\n")),
            2 => drop(stream.write_all(&b"x".repeat(100_000))),
            _ => {}
        }
        silent.push(stream);
    }
    // The library below would keep silent ones for 30 seconds.
    let reported = || (daemon.ctl(&["status"]).code() == Some(0)).then_some(());
    assert!(wait::poll(std::time::Duration::from_secs(20), reported).is_some(), "no status");
    daemon.client("one").recv_to_barrier();
    assert_eq!(daemon.stop(), 0);
    drop(silent);
}
