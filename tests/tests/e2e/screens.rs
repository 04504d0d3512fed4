//! What an operator sees of clients, threads, turns and requests, and what he can do about them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use codexd_tests::binary;
use codexd_tests::client::TestClient;
use codexd_tests::codex::Version;
use codexd_tests::daemon::TestDaemon;
use codexd_tests::home::Home;
use codexd_tests::place;
use codexd_tests::terminal::Terminal;
use codexd_tests::wait;
use serde_json::{Value, json};

use crate::support::{Started, TURN_END, expect_end, status, wait_for_state, waiting_turn};

/// Returns `ctl VERB --json`, a list.
#[track_caller]
pub(crate) fn list(daemon: &TestDaemon, verb: &str) -> Vec<Value> {
    let output = daemon.ctl(&[verb, "--json"]).expect_code(0);
    output.json().as_array().unwrap_or_else(|| panic!("no list: {output}")).clone()
}

/// Waits for something that is in a list.
#[track_caller]
fn wait_for(daemon: &TestDaemon, verb: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let found = wait::poll(wait::PATIENCE, || list(daemon, verb).into_iter().find(|it| is(it)));
    found.unwrap_or_else(|| panic!("no {what} in {:?}", list(daemon, verb)))
}

/// Returns the command line of `codexd ctl` for a terminal.
pub(crate) fn in_terminal(daemon: &TestDaemon, arguments: &str) -> String {
    let (codexd, socket) = (daemon.codexd().display(), daemon.control_socket());
    format!("'{codexd}' ctl --control-socket '{}' {arguments}", socket.display())
}

#[test]
fn lists_name_who_does_what_since_when() {
    let Some(builder) = TestDaemon::real(Version::Current) else { return };
    let daemon = builder.ready();
    let project = daemon.home().project();
    let mut owner = daemon.client("owner");
    let mut guest = daemon.websocket_client("guest");
    let thread = owner.start_thread(json!({"cwd": project, "approvalPolicy": "untrusted"}));
    let turn = owner.start_turn(&thread, "[[shell:echo a-secret-word > made.txt]] go");
    let approval = owner.take_method("item/commandExecution/requestApproval");
    guest.request("thread/resume", json!({"threadId": thread, "excludeTurns": true}));

    let [shown] = &list(&daemon, "turns")[..] else { panic!("one turn") };
    assert_eq!((&shown["id"], &shown["threadId"]), (&json!(turn), &json!(thread)));
    assert_eq!((&shown["state"], &shown["phase"]), (&json!("waitingForApproval"), &json!("approval")));
    assert_eq!(shown["by"]["name"], "owner");
    assert_eq!((&shown["cwd"], &shown["model"]), (&json!(project), &json!("mock-model")));
    assert!(shown["ageMs"].is_u64() && shown["lastEventMs"].is_u64(), "{shown}");

    let requests = list(&daemon, "requests");
    let [request] = &requests[..] else { panic!("one request: {requests:?}") };
    assert_eq!((&request["from"], &request["state"]), (&json!("codex"), &json!("pending")));
    assert_eq!(request["method"], "item/commandExecution/requestApproval");
    let can_answer: Vec<_> = request["seenBy"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(can_answer, ["owner", "guest"]);

    let [shown] = &list(&daemon, "threads")[..] else { panic!("one thread") };
    assert_eq!((&shown["id"], &shown["state"]), (&json!(thread), &json!("active")));
    assert_eq!((&shown["turnId"], &shown["pendingApprovals"]), (&json!(turn), &json!(1)));
    assert_eq!(shown["subscribers"].as_array().unwrap().len(), 2);

    let clients = list(&daemon, "clients");
    let own = std::env::current_exe().unwrap();
    for (client, (name, framing)) in clients.iter().zip([("owner", "lines"), ("guest", "webSocket")]) {
        assert_eq!((&client["name"], &client["framing"]), (&json!(name), &json!(framing)));
        assert_eq!((&client["openTurns"], &client["threads"]), (&json!(1), &json!([thread])));
        assert!(client["receivedBytes"].as_u64() > Some(100) && client["sentBytes"].as_u64() > Some(100));
        if cfg!(target_os = "linux") {
            assert_eq!(client["program"], own.file_name().unwrap().to_str().unwrap());
        }
    }

    for verb in ["clients", "threads", "turns", "requests"] {
        let table = daemon.ctl(&[verb]).expect_code(0);
        assert!(table.stdout.contains("owner (1)") || verb == "clients", "{table}");
        assert!(!table.stdout.contains("a-secret-word") && !table.stdout.contains("[["), "{table}");
    }
    owner.answer(&approval, json!({"decision": "accept"}));
    assert_eq!(owner.finish_turn(&thread, &turn).status, "completed");
    wait::until("nothing runs", || list(&daemon, "turns").is_empty() && list(&daemon, "requests").is_empty());
    let shown = &list(&daemon, "threads")[0];
    assert_eq!((&shown["state"], &shown["turnId"]), (&json!("idle"), &Value::Null));
    let empty = daemon.ctl(&["turns"]).expect_code(0);
    assert_eq!((empty.stdout.as_str(), empty.stderr.as_str()), ("", "no turn runs\n"));
}

#[test]
fn a_phase_follows_the_items_of_codex() {
    let Some(builder) = TestDaemon::real(Version::Current) else { return };
    let daemon = builder.ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({"cwd": daemon.home().project(), "approvalPolicy": "never"}));
    client.start_turn(&thread, "[[shell:sleep 600;;yield_time_ms=600000]] go");
    wait_for(&daemon, "turns", "command", |turn| turn["phase"] == "command");
    let _ = daemon.ctl(&["interrupt", &thread]).expect_code(0);
    client.start_turn(&thread, "[[deltas:100000:20]]");
    wait_for(&daemon, "turns", "message", |turn| turn["phase"] == "message");
    let _ = daemon.ctl(&["interrupt", &thread]).expect_code(0);
}

#[test]
fn an_interrupted_turn_has_ended_when_the_command_has() {
    let Some(builder) = TestDaemon::real(Version::Current) else { return };
    let daemon = builder.ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({"cwd": daemon.home().project()}));
    let turn = client.start_turn(&thread, "[[hang]]");
    let by_part = &turn[turn.len() - 6..];
    let receipt = daemon.ctl(&["interrupt", by_part, "--json"]).expect_code(0).json();
    assert_eq!((&receipt["ended"], &receipt["outcome"]), (&json!(true), &json!("interrupted")));
    assert_eq!((&receipt["threadId"], &receipt["turnId"]), (&json!(thread), &json!(turn)));
    assert!(list(&daemon, "turns").is_empty());
    assert_eq!(client.finish_turn(&thread, &turn).status, "interrupted");
    let nothing = daemon.ctl(&["interrupt", &thread]).expect_code(1);
    assert!(nothing.stderr.contains("no turn runs on thread"), "{nothing}");
    let unknown = daemon.ctl(&["interrupt", "nonsense", "--json"]).expect_code(1).json();
    assert_eq!((&unknown["ended"], &unknown["turnId"]), (&json!(false), &Value::Null));
    assert!(unknown["error"].as_str().unwrap().contains("`nonsense`"), "{unknown}");
}

#[test]
fn a_turn_without_subscribers_is_interrupted_and_its_end_is_said_as_far_as_it_is_known() {
    for unsubscribes in [false, true] {
        let Some(builder) = TestDaemon::real(Version::Current) else { return };
        let daemon = builder.ready();
        let mut client = daemon.client("one");
        let thread = client.start_thread(json!({"cwd": daemon.home().project()}));
        let turn = client.start_turn(&thread, "[[hang]]");
        if unsubscribes {
            // Then codex sends codexd nothing more of the thread. Of a client that has gone, codexd cannot know whether
            // it comes back.
            client.request("thread/unsubscribe", json!({"threadId": thread}));
        }
        drop(client);
        wait::until("nobody is connected", || list(&daemon, "clients").is_empty());
        let output = daemon.ctl(&["interrupt", &turn]).expect_code(0);
        assert_eq!(output.stdout.contains("codex does not say how"), unsubscribes, "{output}");
        assert!(list(&daemon, "turns").is_empty());
    }
}

#[test]
fn an_interrupt_that_codex_does_not_carry_out_is_not_said_to_be_done() {
    // The stand-in says nothing any more, not even to an interrupt.
    let daemon = TestDaemon::fake("").ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    let turn = client.start_turn(&thread, "[[freeze]]");
    let receipt = daemon.ctl(&["interrupt", &turn, "--timeout", "200ms", "--json"]).expect_code(1).json();
    assert_eq!((&receipt["ended"], &receipt["turnId"]), (&json!(false), &json!(turn)));
    assert!(receipt["error"].as_str().unwrap().contains("within 200 ms"), "{receipt}");
}

#[test]
fn a_killed_client_is_reported_and_nobody_else_notices() {
    let daemon = TestDaemon::fake("").ready();
    let mut other = daemon.client("other");
    let mut lines = daemon.client("lines");
    let (thread, _, approval) = waiting_turn(&mut other, "");
    lines.request("thread/resume", json!({"threadId": thread}));
    let mut socket = daemon.websocket_client("socket");
    let ids: Vec<u64> = list(&daemon, "clients").iter().map(|it| it["id"].as_u64().unwrap()).collect();
    let output = daemon.ctl(&["kill", &ids[1].to_string()]).expect_code(0);
    assert_eq!(output.stdout, format!("disconnected client {} (lines)\n", ids[1]));
    let seen = lines.recv_to_end();
    let last = seen.last().unwrap();
    assert_eq!(last.method(), Some("notifications/broker/closing"), "{}", last.raw);
    assert_eq!(last["params"]["reason"], "killed");
    let killed = daemon.ctl(&["kill", "socket", "--json"]).expect_code(0).json();
    assert_eq!((&killed["killed"], &killed["id"]), (&json!(true), &json!(ids[2])));
    socket.recv_to_end();
    assert_eq!(socket.close_frame().map(|(code, _)| code), Some(1008));
    let absent = daemon.ctl(&["kill", "socket"]).expect_code(1);
    assert!(absent.stderr.contains("no client called `socket`"), "{absent}");
    assert_eq!(list(&daemon, "clients").len(), 1);
    other.answer(&approval, json!({"decision": "accept"}));
    other.take_method(TURN_END);
}

#[test]
fn a_drain_lets_running_turns_finish_and_does_not_wait_for_them() {
    let mut daemon = TestDaemon::fake("").ready();
    let mut client = daemon.client("one");
    let (thread, turn, approval) = waiting_turn(&mut client, "");
    let output = daemon.ctl(&["drain"]).expect_code(0);
    assert!(output.stdout.contains("1 running turn can finish within"), "{output}");
    wait_for_state(&daemon, "draining");
    client.answer(&approval, json!({"decision": "accept"}));
    assert_eq!(client.finish_turn(&thread, &turn).status, "completed");
    expect_end(&mut daemon, 0);
}

#[test]
fn the_last_exit_is_reported_with_and_without_a_daemon() {
    let mut daemon = TestDaemon::fake("").ready();
    let none = daemon.ctl(&["last-exit"]).expect_code(1);
    assert_eq!(none.stderr, "no record of an earlier daemon\n");
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    client.start_turn(&thread, "[[stderr:the reason is this]][[exit:3]]");
    expect_end(&mut daemon, 1);
    let after = daemon.ctl(&["last-exit", "--json"]).expect_code(0).json();
    assert_eq!((&after["code"], &after["generation"]), (&json!(1), &json!(1)));
    let next = TestDaemon::fake("").home(daemon.into_home()).ready();
    assert_eq!(next.ctl(&["last-exit", "--json"]).expect_code(0).json(), after);
    let text = next.ctl(&["last-exit"]).expect_code(0);
    assert!(text.stdout.starts_with("generation 1: exit 1 ("), "{text}");
    assert!(text.stdout.contains("codex: the reason is this\n"), "{text}");
}

#[test]
fn a_watched_list_is_sent_again_until_the_daemon_ends() {
    let mut daemon = TestDaemon::fake("").ready();
    let mut command = daemon.command(&["ctl", "turns", "--watch", "--every", "100ms", "--json"]);
    let mut watching = Started::of(command.stdout(Stdio::piped()).stderr(Stdio::null()));
    let mut lines = BufReader::new(watching.0.stdout.take().unwrap()).lines();
    let mut next =
        || -> Option<Value> { lines.next().map(|line| serde_json::from_str(&line.unwrap()).unwrap()) };
    assert_eq!(next(), Some(json!([])));
    let mut client = daemon.client("one");
    let (thread, turn, approval) = waiting_turn(&mut client, "");
    while next().unwrap() == json!([]) {}
    assert_eq!(next().unwrap()[0]["id"], turn);
    client.answer(&approval, json!({"decision": "accept"}));
    client.finish_turn(&thread, &turn);
    while next().unwrap() != json!([]) {}
    drop(client);
    assert_eq!(daemon.stop(), 0);
    while next().is_some() {}
    assert_eq!(watching.exit_code(), Some(3));
}

#[test]
fn a_list_fits_a_terminal_and_is_redrawn_in_place() {
    if !Terminal::is_available() {
        return;
    }
    let daemon = TestDaemon::fake("").ready();
    let _first = daemon.client("first");
    let second: TestClient = daemon.client("a client with a name that takes a lot of room on any screen");
    let terminal = Terminal::run(daemon.home(), &in_terminal(&daemon, "clients --watch --every 100ms"));
    let screen = terminal.wait_for("first");
    let lines: Vec<&str> = screen.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines.len(), 3, "{screen}");
    assert!(lines[0].starts_with("ID ") && lines[0].contains("IDLE"), "{screen}");
    assert!(lines.iter().all(|line| line.chars().count() <= 120), "{screen}");
    drop(second);
    terminal.wait_without("a client with");
    assert!(terminal.screen().starts_with("ID "), "{}", terminal.screen());
    assert_eq!(status(&daemon)["clients"], 1);
}

/// Connects, joins a thread and reads nothing more.
fn deaf_client(daemon: &TestDaemon, thread: &str) -> UnixStream {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    let info = json!({"clientInfo": {"name": "deaf", "version": "1"}});
    let resume = json!({"id": 2, "method": "thread/resume", "params": {"threadId": thread}});
    let lines = format!("{}\n{resume}\n", json!({"id": 1, "method": "initialize", "params": info}));
    stream.write_all(lines.as_bytes()).unwrap();
    wait_for(daemon, "clients", "deaf subscriber", |it| {
        it["name"] == "deaf" && it["threads"] == json!([thread])
    });
    stream
}

#[test]
fn one_screen_shows_who_is_there_what_runs_and_what_is_wrong() {
    if !Terminal::is_available() {
        return;
    }
    let Some(builder) = TestDaemon::real(Version::Current) else { return };
    let daemon = builder
        .config(
            "silent_turn_warning = \"200ms\"\nmemory_warning_bytes = 1\n[limits]\n\
             client_queue_soft_bytes = 50000\nclient_queue_soft_time = \"never\"\n",
        )
        .ready();
    let mut clients: Vec<TestClient> =
        ["alice", "bob", "carol", "dave", "erin"].iter().map(|name| daemon.client(name)).collect();
    let project = daemon.home().project();
    let thread =
        |client: &mut TestClient| client.start_thread(json!({"cwd": project, "approvalPolicy": "untrusted"}));
    let threads: Vec<String> = clients[..4].iter_mut().map(thread).collect();
    clients[0].start_turn(&threads[0], "[[shell:echo yes > made.txt]] go");
    clients[0].take_method("item/commandExecution/requestApproval");
    clients[1].start_turn(&threads[1], "[[hang]]");
    clients[2].start_turn(&threads[2], "[[deltas:1000000:200]]");
    // Codex resumes no thread on which nothing has run yet.
    assert_eq!(clients[3].turn(&threads[3], "first").status, "completed");
    let _deaf = deaf_client(&daemon, &threads[3]);
    // More than the socket of a client that reads nothing holds.
    assert_eq!(clients[3].turn(&threads[3], "[[bytes:3000000]]").status, "completed");
    clients[3].start_turn(&threads[3], "[[hang]]");
    let codes = || -> Vec<String> {
        let now = status(&daemon);
        let codes = now["warnings"].as_array().unwrap().iter();
        codes.map(|warning| warning["code"].as_str().unwrap().to_owned()).collect()
    };
    wait::until("a slow client, a silent turn and memory are warned of", || {
        let codes = codes();
        ["slowClient", "silentTurn", "memoryHigh"].iter().all(|code| codes.iter().any(|it| it == code))
    });
    let terminal = Terminal::run(daemon.home(), &in_terminal(&daemon, "status --watch --every 100ms"));
    let screen = terminal.wait_for("[memoryHigh]");
    let (first, _) = screen.split_once('\n').unwrap();
    assert!(first.starts_with("state        serving for "), "{screen}");
    assert!(first.contains(", ready, ") && first.trim_end().ends_with(" warnings"), "{screen}");
    let shows = |text: &str| assert!(screen.contains(text), "no `{text}` in\n{screen}");
    shows("6 connected, 4 threads loaded, 4 turns open");
    shows("alice (1), bob (2), carol (3), dave (4), erin (5), deaf (");
    shows("and 1 more: `codexd ctl turns`");
    shows("item/commandExecution/requestApproval for the turn of alice (1) waits for alice (1), for ");
    shows(", by alice (1), in ");
    shows("(deaf) does not read fast enough");
    shows("`codexd ctl kill ");
    shows("[silentTurn]");
    shows("memory       codexd ");
    assert!(screen.trim_end().lines().count() < 50, "more than a screen:\n{screen}");
    let now = status(&daemon);
    let oldest = now["oldestTurns"].as_array().unwrap();
    assert_eq!((oldest.len(), &oldest[0]["by"]["name"]), (3, &json!("alice")), "{now:#}");
    assert_eq!(now["oldestApprovals"][0]["client"]["name"], "alice");
    let named: Vec<&Value> = now["oldestClients"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(named, ["alice", "bob", "carol", "dave", "erin", "deaf"]);
    let memory = &now["memory"];
    assert!(memory["daemonBytes"].as_u64() > Some(1 << 20), "{memory}");
    assert!(memory["codexBytes"].as_u64() > Some(1 << 20), "{memory}");
    assert!(memory["codexProcesses"].as_u64() >= Some(1), "{memory}");
}

#[test]
fn a_codex_that_was_replaced_on_disk_is_a_warning_with_what_to_type() {
    let home = Home::new().unwrap();
    let bin = home.root().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let codex = bin.join("codex");
    place::copy(&binary::fake_codex(), &codex);
    let daemon = TestDaemon::program(&codex).home(home).ready();
    let replaced = || {
        let now = status(&daemon);
        let warnings = now["warnings"].as_array().unwrap().clone();
        let warning = warnings.into_iter().find(|warning| warning["code"] == "codexReplaced");
        (now["upstream"]["installed"].clone(), warning)
    };
    assert_eq!(replaced(), (Value::Null, None));
    std::fs::write(bin.join("package.json"), r#"{"version": "9.9.9-linux-x64"}"#).unwrap();
    place::copy(&binary::fake_codex(), &codex);
    let (installed, warning) = replaced();
    assert_eq!(installed, json!({"executable": codex, "version": "9.9.9"}));
    let warning = warning.unwrap();
    assert_eq!(warning["message"], "codex 0.0.0-fake is running, 9.9.9 is installed");
    assert!(warning["hint"].as_str().unwrap().contains("codexd ctl upgrade"), "{warning}");
}

#[test]
fn the_thresholds_of_warnings_are_in_force_after_a_reload() {
    let daemon = TestDaemon::fake("").config("memory_warning_bytes = 1\n").ready();
    let warned = || status(&daemon)["warnings"].to_string().contains("memoryHigh");
    assert!(warned());
    daemon.home().write_config("silent_turn_warning = \"1ms\"\n").unwrap();
    let receipt = daemon.ctl(&["reload", "--json"]).expect_code(0).json();
    assert_eq!(receipt["applied"], json!(["memory_warning_bytes", "silent_turn_warning"]), "{receipt}");
    assert!(!warned());
}

#[test]
fn the_live_view_sorts_interrupts_and_disconnects_by_keys() {
    if !Terminal::is_available() {
        return;
    }
    let Some(builder) = TestDaemon::real(Version::Current) else { return };
    let daemon = builder.ready();
    let (mut alice, mut bob) = (daemon.client("alice"), daemon.client("bob"));
    let project = daemon.home().project();
    let thread = alice.start_thread(json!({"cwd": project}));
    let turn = alice.start_turn(&thread, "[[hang]]");
    let other = bob.start_thread(json!({"cwd": project}));
    bob.start_turn(&other, "[[deltas:100000:20]]");
    wait_for(&daemon, "turns", "message", |turn| turn["phase"] == "message");
    let terminal = Terminal::run(daemon.home(), &in_terminal(&daemon, "top --every 100ms"));
    terminal.wait_for("> 2 turns by age");
    terminal.wait_for("alice (1)");
    // A screen can be read while it is drawn.
    for text in [
        "2 clients by number",
        "serving for",
        "codex 0.169.0",
        "MiB",
        "2 clients, 2 turns",
        "bob (2)",
        "q quit",
    ] {
        terminal.wait_for(text);
    }
    terminal.press("s");
    terminal.wait_for("> 2 turns by silence");
    // The one of which codex says nothing comes first now.
    terminal.press("i");
    terminal.wait_for(&format!("interrupt turn {}? y/n", turn.rsplit('-').next().unwrap()));
    terminal.press("y");
    terminal.wait_for("the turn has ended: interrupted");
    assert_eq!(alice.finish_turn(&thread, &turn).status, "interrupted");
    terminal.wait_for("> 1 turn by silence");
    terminal.press("Tab");
    terminal.wait_for("> 2 clients by number");
    terminal.press("Down");
    terminal.press("k");
    terminal.wait_for("disconnect client 2? y/n");
    terminal.press("y");
    terminal.wait_for("client 2 is disconnected");
    bob.recv_to_end();
    terminal.wait_for("> 1 client by number");
    terminal.press("q");
    terminal.wait_for("ended: 0");
    let piped = daemon.ctl(&["top"]).expect_code(64);
    assert!(piped.stderr.contains("needs a terminal"), "{piped}");
}

#[test]
fn a_codex_that_has_grown_large_is_replaced_once_nobody_uses_it() {
    let mut daemon = TestDaemon::fake("").config("memory_recycle_bytes = 1\n").ready();
    let (mut one, two) = (daemon.client("one"), daemon.client("two"));
    let (thread, turn, approval) = waiting_turn(&mut one, "");
    drop(two);
    wait::until("one client is left", || list(&daemon, "clients").len() == 1);
    one.answer(&approval, json!({"decision": "accept"}));
    assert_eq!(one.finish_turn(&thread, &turn).status, "completed");
    assert_eq!(status(&daemon)["state"], "serving", "somebody uses it");
    drop(one);
    expect_end(&mut daemon, 0);
    assert!(
        daemon.stderr().contains("codex uses more memory than `memory_recycle_bytes`"),
        "{}",
        daemon.stderr()
    );
    let mut small = TestDaemon::fake("").config("memory_recycle_bytes = 1000000000000\n").ready();
    drop(small.client("one"));
    wait::until("it has left", || list(&small, "clients").is_empty());
    assert_eq!(status(&small)["state"], "serving");
    assert_eq!(small.stop(), 0);
}
