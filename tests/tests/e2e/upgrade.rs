//! `codexd ctl upgrade`: the next daemon, with what is on disk, takes the place of one on which nothing runs any more.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use codexd_tests::binary;
use codexd_tests::client::{Message, TestClient};
use codexd_tests::daemon::TestDaemon;
use codexd_tests::home::Home;
use codexd_tests::output::Output;
use codexd_tests::place;
use codexd_tests::process;
use codexd_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::world::{Bridge, World};

mod real;
mod supervised;

/// Returns a script that is the stand-in for codex in this version.
fn codex(version: &str) -> String {
    let fake = binary::fake_codex();
    format!("#!/bin/sh\nFAKE_CODEX_VERSION={version} exec '{}' \"$@\"\n", fake.display())
}

/// A script that does not run as codex does, and says why.
const BROKEN: &str = "#!/bin/sh\necho 'error while loading libmissing.so' >&2\nexit 127\n";

/// A world whose codex is 1.0.0, and where that is installed.
fn world() -> (World, PathBuf) {
    let world = World::fake("");
    let program = world.home().root().join("codex.sh");
    place::write(&program, &codex("1.0.0"));
    (world.with_codex(&program), program)
}

/// Runs `codexd ctl upgrade` while the test goes on.
fn begin(world: &World, flags: &[&str]) -> JoinHandle<Output> {
    let mut command = world.command(&[&["ctl", "upgrade", "--json"], flags].concat());
    std::thread::spawn(move || Output::of(&mut command))
}

fn waits(world: &World) -> bool {
    world.status("upgrade.sinceMs").is_some_and(|since| !since.is_empty())
}

fn wait_until_it_waits(world: &World) {
    wait::until("the upgrade waits", || waits(world));
}

/// A client whose turn runs until its approval is answered.
fn busy(world: &World) -> (Bridge, String, String, Message) {
    let mut client = world.client("busy");
    let thread = client.start_thread(json!({"cwd": world.home().project()}));
    let turn = client.start_turn(&thread, "[[approve]] go");
    let approval = client.take("the approval", Message::is_server_request);
    (client, thread, turn, approval)
}

fn accept(client: &mut TestClient, approval: &Message, thread: &str, turn: &str) {
    client.answer(approval, json!({"decision": "accept"}));
    assert_eq!(client.finish_turn(thread, turn).status, "completed");
}

/// Connects a client that never starts anything.
fn plain(world: &World) -> TestClient {
    let socket = world.run(&["ctl", "get-socket"]).expect_code(0).stdout;
    let mut client = TestClient::connect("plain", Path::new(socket.trim()));
    client.initialize();
    client
}

/// Waits until a successor of this process serves, and nothing else is left of it.
fn assert_replaced(world: &World, old: i32, generation: &str) {
    process::wait_dead(old);
    assert_eq!(world.status("generation").as_deref(), Some(generation));
    assert_eq!(world.daemons().len(), 1);
    let exit = &world.record()["lastExit"];
    assert_eq!(exit["code"], 79, "{exit}");
    assert!(exit["reason"].as_str().unwrap().contains("ctl upgrade"), "{exit}");
}

#[test]
fn an_idle_daemon_changes_to_the_codex_on_disk_and_its_clients_go_on() {
    let (world, program) = world();
    let mut client = world.client("client");
    let thread = client.start_thread(json!({}));
    assert_eq!(client.turn(&thread, "before").status, "completed");
    let old = world.daemon();
    assert_eq!(world.status("upstream.version").as_deref(), Some("1.0.0"));
    place::write(&program, &codex("2.0.0"));
    let output = world.run(&["ctl", "upgrade"]).expect_code(0);
    assert!(output.stdout.starts_with("upgraded: codex 1.0.0 -> 2.0.0; codexd "), "{output}");
    assert!(output.stdout.contains("generation 2; no daemon for "), "{output}");
    assert_eq!(world.status("upstream.version").as_deref(), Some("2.0.0"));
    assert_replaced(&world, old, "2");
    // The client had a thread, and has another daemon before it says anything.
    let restarted = client.take_method("notifications/broker/upstreamRestarted");
    assert_eq!(restarted["params"]["generation"], 2);
    // The stand-in for codex remembers no threads.
    let thread = client.start_thread(json!({}));
    assert_eq!(client.turn(&thread, "after").status, "completed");
    assert_eq!(client.finish(), 0);
}

#[test]
fn a_daemon_without_clients_is_replaced_too() {
    let (world, program) = world();
    assert_eq!(world.client("starter").finish(), 0);
    wait::until("nobody is connected", || world.status("clients").as_deref() == Some("0"));
    let old = world.daemon();
    place::write(&program, &codex("2.0.0"));
    let result = world.run(&["ctl", "upgrade", "--json"]).expect_code(0).json();
    assert_eq!(
        (&result["outcome"], &result["from"]["codex"], &result["to"]["codex"], &result["generation"]),
        (&json!("upgraded"), &json!("1.0.0"), &json!("2.0.0"), &json!(2))
    );
    assert!(result["pauseMs"].is_u64(), "{result}");
    assert_replaced(&world, old, "2");
}

#[test]
fn a_running_turn_ends_first_and_new_work_waits_for_the_next_daemon() {
    let (world, program) = world();
    let (mut client, thread, turn, approval) = busy(&world);
    let mut other = world.client("other");
    let mut plain = plain(&world);
    let old = world.daemon();
    place::write(&program, &codex("2.0.0"));
    let upgrade = begin(&world, &[]);
    wait_until_it_waits(&world);
    // What the status says of it, for programs and for people.
    let status = world.run(&["ctl", "status", "--json"]).expect_code(1).json();
    assert_eq!((&status["state"], &status["ready"]), (&json!("draining"), &json!(false)));
    assert_eq!(
        (&status["upgrade"]["turns"][0]["id"], &status["upgrade"]["leftMs"]),
        (&json!(turn), &Value::Null)
    );
    let shown = world.run(&["ctl", "status"]).expect_code(1).stdout;
    assert!(shown.contains("upgrade      waits for 1 running turn, since "), "{shown}");
    assert!(shown.contains("on disk      another codex, "), "{shown}");
    // New work waits behind a bridge, and is refused without one.
    let held = other.send_request("thread/start", json!({}));
    let refusal = plain.try_request("thread/start", json!({})).unwrap_err();
    assert_eq!((refusal.code, &refusal.data["codexd"]["reason"]), (-32001, &json!("upgrading")));
    // Clients that come can look on.
    let mut late = world.client("late");
    assert!(late.request("thread/loaded/list", json!({}))["data"].as_array().unwrap().len() == 1);
    assert!(waits(&world));
    accept(&mut client, &approval, &thread, &turn);
    let result = upgrade.join().unwrap().expect_code(0).json();
    assert_eq!((&result["upgraded"], &result["to"]["codex"]), (&json!(true), &json!("2.0.0")));
    assert_replaced(&world, old, "2");
    let started = other.response(held).unwrap();
    assert!(started["thread"]["id"].is_string(), "{started}");
    // A client of its own kind was told why.
    let seen = plain.recv_to_end();
    let notice = seen.iter().find(|it| it.method() == Some("notifications/broker/shuttingDown")).unwrap();
    assert!(notice["params"]["reason"].as_str().unwrap().contains("ctl upgrade"), "{notice:?}");
    assert_eq!(notice["params"]["retryAfterMs"], 1_000);
    for client in [client, other, late] {
        assert_eq!(client.finish(), 0);
    }
}

#[test]
fn a_turn_that_takes_longer_than_it_may_goes_on_and_so_does_the_daemon() {
    let (world, program) = world();
    let (mut client, thread, turn, approval) = busy(&world);
    let mut other = world.client("other");
    let old = world.daemon();
    place::write(&program, &codex("2.0.0"));
    let upgrade = begin(&world, &["--within", "1s"]);
    other.take_method("notifications/broker/upgradeWaiting");
    let held = other.send_request("thread/start", json!({}));
    let result = upgrade.join().unwrap().expect_code(1).json();
    assert_eq!((&result["upgraded"], &result["outcome"]), (&json!(false), &json!("timedOut")));
    // What was asked for meanwhile is done by the same daemon, and the turn was not touched.
    assert!(other.response(held).unwrap()["thread"]["id"].is_string());
    accept(&mut client, &approval, &thread, &turn);
    assert_eq!(client.turn(&thread, "again").status, "completed");
    assert_eq!((world.daemon(), world.status("state").as_deref()), (old, Some("serving")));
    assert_eq!(world.status("generation").as_deref(), Some("1"));
    assert_eq!((client.finish(), other.finish()), (0, 0));
}

#[test]
fn a_codex_that_does_not_run_is_refused_in_its_own_words_and_nothing_happens() {
    let (world, program) = world();
    let mut client = world.client("client");
    let thread = client.start_thread(json!({}));
    let old = world.daemon();
    let refuses = |text: &str, says: &str| {
        place::write(&program, text);
        let output = world.run(&["ctl", "upgrade"]).expect_code(69);
        assert!(output.stderr.contains(says) && output.stderr.contains("hint: "), "{output}");
        let result = world.run(&["ctl", "upgrade", "--json"]).expect_code(69).json();
        assert_eq!(result["outcome"], "candidateRefused");
        assert!(result["error"].as_str().unwrap().contains(says), "{result}");
    };
    refuses(BROKEN, "error while loading libmissing.so");
    refuses("#!/bin/sh\necho 'Usage: codex'\n", "Usage: codex");
    let refusing = format!(
        "#!/bin/sh\nFAKE_CODEX='[[init-error:-32600]]' exec '{}' \"$@\"\n",
        binary::fake_codex().display()
    );
    refuses(&refusing, "refused the handshake");
    fs::remove_file(&program).unwrap();
    let output = world.run(&["ctl", "upgrade"]).expect_code(69);
    assert!(output.stderr.contains("codex.sh"), "{output}");
    assert_eq!((world.daemon(), world.status("generation").as_deref()), (old, Some("1")));
    assert_eq!(client.turn(&thread, "it goes on").status, "completed");
    assert_eq!(client.finish(), 0);
}

#[test]
fn what_is_replaced_again_during_the_wait_is_tried_again() {
    let (world, program) = world();
    let (mut client, thread, turn, approval) = busy(&world);
    let old = world.daemon();
    place::write(&program, &codex("2.0.0"));
    let upgrade = begin(&world, &[]);
    wait_until_it_waits(&world);
    place::write(&program, BROKEN);
    let result = upgrade.join().unwrap().expect_code(69).json();
    assert!(result["error"].as_str().unwrap().contains("libmissing.so"), "{result}");
    wait::until("it accepts work again", || world.status("state").as_deref() == Some("serving"));
    accept(&mut client, &approval, &thread, &turn);
    assert_eq!((world.daemon(), world.status("generation").as_deref()), (old, Some("1")));
    assert_eq!(client.finish(), 0);
}

#[test]
fn nothing_is_done_if_nothing_has_changed_unless_it_is_forced() {
    let (world, _program) = world();
    let client = world.client("client");
    let old = world.daemon();
    let output = world.run(&["ctl", "upgrade"]).expect_code(0);
    assert!(output.stdout.starts_with("nothing to upgrade: codex 1.0.0 and codexd "), "{output}");
    let result = world.run(&["ctl", "upgrade", "--json"]).expect_code(0).json();
    assert_eq!((&result["upgraded"], &result["outcome"]), (&json!(false), &json!("nothingNew")));
    assert_eq!(world.daemon(), old);
    let output = world.run(&["ctl", "upgrade", "--force"]).expect_code(0);
    assert!(output.stdout.starts_with("upgraded: codex 1.0.0, as before; codexd "), "{output}");
    assert_replaced(&world, old, "2");
    assert_eq!(client.finish(), 0);
}

#[test]
fn without_a_daemon_there_is_nothing_to_upgrade() {
    let (world, _program) = world();
    let output = world.run(&["ctl", "upgrade"]).expect_code(3);
    assert!(output.stderr.contains("codexd is not running"), "{output}");
    let result = world.run(&["ctl", "upgrade", "--json"]).expect_code(3).json();
    assert_eq!((&result["upgraded"], &result["state"]), (&json!(false), &json!("notRunning")));
    assert_eq!(world.daemons(), []);
}

#[test]
fn a_second_upgrade_is_refused_and_the_first_goes_on() {
    let (world, program) = world();
    let (mut client, thread, turn, approval) = busy(&world);
    let old = world.daemon();
    place::write(&program, &codex("2.0.0"));
    let first = begin(&world, &[]);
    wait_until_it_waits(&world);
    let output = world.run(&["ctl", "upgrade"]).expect_code(1);
    assert!(output.stderr.contains("another `codexd ctl upgrade` waits already"), "{output}");
    assert!(waits(&world));
    accept(&mut client, &approval, &thread, &turn);
    let _ = first.join().unwrap().expect_code(0);
    assert_replaced(&world, old, "2");
    assert_eq!(client.finish(), 0);
}

#[test]
fn a_daemon_that_drains_already_is_not_upgraded() {
    let (world, program) = world();
    let (mut client, thread, turn, approval) = busy(&world);
    let old = world.daemon();
    place::write(&program, &codex("2.0.0"));
    let _ = world.run(&["ctl", "drain"]).expect_code(0);
    let output = world.run(&["ctl", "upgrade"]).expect_code(1);
    assert!(output.stderr.contains("codexd is stopping (ctl stop)"), "{output}");
    accept(&mut client, &approval, &thread, &turn);
    process::wait_dead(old);
    assert_eq!(world.record()["lastExit"]["code"], 0);
    // The bridge's client has not said anything: nobody starts a daemon.
    assert_eq!(world.daemons(), []);
    assert_eq!(client.finish(), 0);
}

#[test]
fn a_stop_during_the_wait_calls_the_upgrade_off_and_stops_the_daemon() {
    let (world, program) = world();
    let (mut client, thread, turn, approval) = busy(&world);
    let old = world.daemon();
    place::write(&program, &codex("2.0.0"));
    let upgrade = begin(&world, &[]);
    wait_until_it_waits(&world);
    let _ = world.run(&["ctl", "drain"]).expect_code(0);
    let result = upgrade.join().unwrap().expect_code(1).json();
    assert_eq!(result["outcome"], "calledOff");
    assert!(result["error"].as_str().unwrap().contains("codexd is stopping (ctl stop)"), "{result}");
    accept(&mut client, &approval, &thread, &turn);
    process::wait_dead(old);
    assert_eq!((&world.record()["lastExit"]["code"], &world.record()["generation"]), (&json!(0), &json!(1)));
    assert_eq!(world.daemons(), []);
    assert_eq!(client.finish(), 0);
}

/// Sends `codexd ctl upgrade` a signal while it waits, and returns what it printed.
fn interrupted(world: &World, signal: Signal) -> (Option<i32>, String) {
    let path = world.home().root().join("upgrade.txt");
    let mut command: Command = world.command(&["ctl", "upgrade"]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&path).unwrap())
        .process_group(0);
    let mut child = command.spawn().unwrap();
    wait_until_it_waits(world);
    wait::until("it has said so", || fs::read_to_string(&path).unwrap().contains("Ctrl-C calls it off"));
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
    let status = child.wait().unwrap();
    (status.code(), fs::read_to_string(&path).unwrap())
}

#[test]
fn whatever_ends_the_command_while_it_waits_calls_the_upgrade_off() {
    let (world, program) = world();
    let (mut client, thread, turn, approval) = busy(&world);
    let old = world.daemon();
    place::write(&program, &codex("2.0.0"));
    let (code, said) = interrupted(&world, Signal::SIGINT);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("waiting for 1 running turn without a limit; Ctrl-C calls it off"), "{said}");
    assert!(said.contains("error: the upgrade was called off: codexd goes on as before"), "{said}");
    assert_eq!(world.status("state").as_deref(), Some("serving"), "it has waited for that");
    // Killed, it can say nothing.
    assert_eq!(interrupted(&world, Signal::SIGKILL).0, None);
    wait::until("it accepts work again", || world.status("state").as_deref() == Some("serving"));
    accept(&mut client, &approval, &thread, &turn);
    assert_eq!(client.turn(&thread, "again").status, "completed");
    assert_eq!((world.daemon(), world.status("generation").as_deref()), (old, Some("1")));
    assert_eq!(client.finish(), 0);
}

#[test]
fn a_codex_that_is_lost_during_the_wait_ends_the_turn_once_and_the_next_daemon_is_the_new_one() {
    let (world, program) = world();
    let (mut client, thread, turn, _approval) = busy(&world);
    let old = world.daemon();
    place::write(&program, &codex("2.0.0"));
    let upgrade = begin(&world, &[]);
    wait_until_it_waits(&world);
    let pid: i32 = world.status("upstream.pid").unwrap().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let result = upgrade.join().unwrap().expect_code(1).json();
    // Whatever is seen first of its end.
    assert!(result["error"].as_str().unwrap().contains("called off: codex app-server "), "{result}");
    assert_eq!(client.finish_turn(&thread, &turn).status, "failed");
    process::wait_dead(old);
    wait::until("the next one serves", || world.status("upstream.version").as_deref() == Some("2.0.0"));
    assert_eq!(world.record()["lastExit"]["code"], 1, "a loss, and no upgrade");
    assert_eq!(client.finish(), 0);
}

#[test]
fn the_events_say_what_becomes_of_an_upgrade() {
    let (world, program) = world();
    let (mut client, thread, turn, approval) = busy(&world);
    let path = world.home().root().join("events.txt");
    let mut command = world.command(&["ctl", "events", "--json"]);
    let mut events = command.stdin(Stdio::null()).stdout(fs::File::create(&path).unwrap()).spawn().unwrap();
    let kinds = || -> Vec<String> {
        let text = fs::read_to_string(&path).unwrap();
        let whole = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let kinds = whole.filter_map(|event| event["kind"].as_str().map(str::to_owned));
        kinds.filter(|kind| kind.starts_with("upgrad")).collect()
    };
    wait::until("somebody listens", || !fs::read_to_string(&path).unwrap().is_empty());
    place::write(&program, BROKEN);
    let _ = world.run(&["ctl", "upgrade"]).expect_code(69);
    place::write(&program, &codex("2.0.0"));
    let _ = world.run(&["ctl", "upgrade", "--within", "0s"]).expect_code(1);
    let upgrade = begin(&world, &[]);
    wait_until_it_waits(&world);
    accept(&mut client, &approval, &thread, &turn);
    let _ = upgrade.join().unwrap().expect_code(0);
    events.wait().unwrap();
    assert_eq!(
        kinds(),
        ["upgradeRefused", "upgradeWaiting", "upgradeCalledOff", "upgradeWaiting", "upgrading"]
    );
    assert_eq!(client.finish(), 0);
}

#[test]
fn a_successor_that_does_not_start_after_all_is_reported() {
    let (world, program) = world();
    let client = world.client("client");
    let flag = world.home().root().join("tried");
    // It runs once, for the trial, and not as a daemon's.
    let (fake, tried) = (binary::fake_codex(), flag.display());
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = app-server ] && [ -e '{tried}' ] && exit 9\ntouch '{tried}'\nexec '{}' \"$@\"\n",
        fake.display()
    );
    place::write(&program, &text);
    assert_eq!(client.finish(), 0);
    let output = world.run(&["ctl", "upgrade"]).expect_code(70);
    let says = "error: codexd has ended for the upgrade, and the next one did not start: exit 1";
    assert!(output.stderr.contains(says) && output.stderr.contains("exited with code 9"), "{output}");
    assert!(output.stderr.contains("hint: `codexd serve` starts it"), "{output}");
    assert_eq!(world.daemons(), []);
}

/// A daemon without a supervisor, that no client started.
#[test]
fn a_daemon_that_was_started_by_hand_is_not_upgraded() {
    let home = Home::new().unwrap();
    let program = home.root().join("codex.sh");
    place::write(&program, &codex("1.0.0"));
    let mut daemon = TestDaemon::program(&program).home(home).ready();
    place::write(&program, &codex("2.0.0"));
    let output = daemon.ctl(&["upgrade"]).expect_code(1);
    assert!(output.stderr.contains("started by hand"), "{output}");
    assert_eq!(daemon.stop(), 0);
}
