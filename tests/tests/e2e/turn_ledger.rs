//! The turn ledger: what is recorded, and that nobody depends on it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use codexd_tests::codex::Version;
use codexd_tests::daemon::TestDaemon;
use codexd_tests::home::Home;
use codexd_tests::{skip, wait};
use nix::sys::signal::Signal;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::status;

/// The file of the only ledger in this world.
fn file(daemon: &TestDaemon) -> PathBuf {
    let record = status(daemon)["recordFile"].as_str().unwrap().to_owned();
    PathBuf::from(record.replace(".json", ".turns.db"))
}

#[track_caller]
fn history(daemon: &TestDaemon) -> Vec<Value> {
    let output = daemon.ctl(&["history", "--json"]).expect_code(0);
    output.json().as_array().unwrap().clone()
}

/// Waits until so many turns are recorded, all of them with an end.
#[track_caller]
fn ended(daemon: &TestDaemon, count: usize) -> Vec<Value> {
    wait::until("the turns are recorded", || {
        let turns = history(daemon);
        turns.len() == count && turns.iter().all(|turn| turn["state"] != "running")
    });
    history(daemon)
}

fn warnings(daemon: &TestDaemon) -> String {
    let warnings = status(daemon)["warnings"].clone();
    let own = warnings.as_array().unwrap().iter().filter(|warning| warning["code"] == "ledger");
    own.map(|warning| warning["message"].as_str().unwrap().to_owned()).collect()
}

/// Runs a turn, to see that clients are served.
#[track_caller]
fn turn(daemon: &TestDaemon) {
    let mut client = daemon.client("served");
    let thread = client.start_thread(json!({}));
    assert_eq!(client.turn(&thread, "hello").status, "completed");
}

#[test]
fn every_turn_of_every_client_is_recorded() {
    let Some(builder) = TestDaemon::real(Version::Current) else { return };
    let mut daemon = builder.ready();
    let (mut one, mut two) = (daemon.client("one"), daemon.client("two"));
    let project = daemon.home().project();
    let first = one.start_thread(json!({"cwd": project}));
    let second = two.start_thread(json!({"cwd": project}));
    one.turn(&first, "[[shell:true]] go");
    two.turn(&second, "[[http:400]]");
    let hanging = two.start_turn(&second, "[[hang]] for ever");
    daemon.model().wait_for_prompt("for ever");
    wait::until("a turn runs", || history(&daemon).iter().any(|turn| turn["state"] == "running"));
    let running = &history(&daemon)[0];
    assert_eq!((&running["state"], &running["turnId"]), (&json!("running"), &json!(hanging)));
    assert_eq!(running["endedUnixMs"], Value::Null);
    two.request("turn/interrupt", json!({"threadId": second, "turnId": hanging}));
    two.finish_turn(&second, &hanging);
    let turns = ended(&daemon, 3);
    let states: Vec<&Value> = turns.iter().map(|turn| &turn["state"]).collect();
    assert_eq!(states, ["interrupted", "failed", "completed"], "the latest first");
    let (own, pid) = (&turns[2], std::process::id());
    assert_eq!((&own["client"], &own["clientPid"]), (&json!("one"), &json!(pid)));
    assert_eq!((&own["threadId"], &own["cwd"]), (&json!(first), &json!(project)));
    assert_eq!((&own["knownBy"], &own["tokens"]["totalTokens"]), (&json!("terminalEvent"), &json!(30)));
    assert_eq!((&own["phase"], &own["generation"]), (&json!("agentMessage"), &json!(1)));
    assert!(own["startedUnixMs"].as_u64() <= own["endedUnixMs"].as_u64());
    let text = fs::read(file(&daemon)).unwrap();
    assert!(!String::from_utf8_lossy(&text).contains("for ever"), "prompts are not kept");
    assert_eq!(fs::metadata(file(&daemon)).unwrap().permissions().mode() & 0o777, 0o600);
    // Also without a daemon.
    assert_eq!(daemon.stop(), 0);
    assert_eq!(history(&daemon), turns);
    let shown = daemon.ctl(&["history", "-n", "1"]).expect_code(0).stdout;
    assert!(shown.contains("interrupted") && !shown.contains("completed"), "{shown}");
}

#[test]
fn turns_of_a_daemon_that_was_killed_have_failed_at_the_next_look() {
    let mut daemon = TestDaemon::fake("").ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    client.start_turn(&thread, "[[hang]]");
    wait::until("the turn is recorded", || history(&daemon).len() == 1);
    daemon.kill9();
    daemon.wait_exit();
    let read = history(&daemon).remove(0);
    assert_eq!((&read["state"], &read["knownBy"]), (&json!("failed"), &json!("daemonDied")));
    assert!(
        read["cause"].as_str().unwrap().contains("the daemon ended without recording an outcome"),
        "{read}"
    );
    let successor = TestDaemon::fake("").home(daemon.into_home()).ready();
    turn(&successor);
    let turns = ended(&successor, 2);
    assert_eq!((&turns[0]["state"], &turns[0]["generation"]), (&json!("completed"), &json!(2)));
    assert_eq!((&turns[1]["state"], &turns[1]["knownBy"]), (&json!("failed"), &json!("daemonDied")));
}

#[test]
fn turns_of_a_lost_codex_end_as_their_clients_are_told() {
    for (prompt, state, known_by) in [
        ("[[deltas:2]][[hang]]", "failed", "upstreamLost"),
        ("[[deltas:2]][[final-then-hang]]", "completed", "inferred"),
    ] {
        let mut daemon = TestDaemon::fake("").ready();
        let mut client = daemon.client("one");
        let thread = client.start_thread(json!({}));
        client.start_turn(&thread, prompt);
        let last = if state == "completed" { "item/completed" } else { "item/agentMessage/delta" };
        client.take_method(last);
        if state == "completed" {
            client.take_method("item/completed");
        }
        daemon.signal_upstream(Signal::SIGKILL);
        assert_eq!(daemon.wait_exit().code(), Some(1));
        let turns = history(&daemon);
        let end = (&turns[0]["state"], &turns[0]["knownBy"]);
        assert_eq!((turns.len(), end), (1, (&json!(state), &json!(known_by))), "{prompt}");
    }
}

#[test]
fn a_damaged_ledger_is_put_aside_and_begun_again() {
    let mut daemon = TestDaemon::fake("").ready();
    turn(&daemon);
    ended(&daemon, 1);
    let file = file(&daemon);
    assert_eq!(daemon.stop(), 0);
    fs::write(&file, "damaged ".repeat(1_000)).unwrap();
    let refused = daemon.ctl(&["history"]).expect_code(4);
    assert!(refused.stderr.contains("is damaged") && refused.stderr.contains("hint: "), "{refused}");
    let successor = TestDaemon::fake("").home(daemon.into_home()).ready();
    turn(&successor);
    ended(&successor, 1);
    let kept = fs::read_dir(file.parent().unwrap()).unwrap().flatten();
    let kept = kept.filter(|entry| entry.file_name().to_string_lossy().contains("turns.db.damaged-"));
    assert_eq!(kept.count(), 1);
    assert_eq!(warnings(&successor), "");
}

#[test]
fn a_ledger_of_a_newer_codexd_is_left_alone() {
    let mut daemon = TestDaemon::fake("").ready();
    turn(&daemon);
    ended(&daemon, 1);
    let file = file(&daemon);
    assert_eq!(daemon.stop(), 0);
    Connection::open(&file).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let refused = daemon.ctl(&["history"]).expect_code(4);
    assert!(refused.stderr.contains("newer codexd"), "{refused}");
    let successor = TestDaemon::fake("").home(daemon.into_home()).ready();
    turn(&successor);
    wait::until("the status says so", || warnings(&successor).contains("newer codexd"));
    let count = Connection::open(&file).unwrap();
    let count: i64 = count.query_row("SELECT count(*) FROM turns", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 1);
}

#[test]
fn a_ledger_that_is_locked_is_written_later() {
    let daemon = TestDaemon::fake("").ready();
    turn(&daemon);
    ended(&daemon, 1);
    let other = Connection::open(file(&daemon)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    turn(&daemon);
    wait::until("the status says so", || warnings(&daemon).contains("locked"));
    turn(&daemon);
    other.execute_batch("ROLLBACK").unwrap();
    ended(&daemon, 3);
    wait::until("nothing is wrong any more", || warnings(&daemon).is_empty());
}

#[test]
fn a_ledger_that_is_deleted_is_begun_again() {
    let daemon = TestDaemon::fake("").ready();
    turn(&daemon);
    ended(&daemon, 1);
    let file = file(&daemon);
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{suffix}", file.display()));
    }
    turn(&daemon);
    ended(&daemon, 1);
    // A turn that had begun before has its end all the same.
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    let open = client.start_turn(&thread, "[[hang]]");
    wait::until("it is recorded", || history(&daemon).len() == 2);
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{suffix}", file.display()));
    }
    client.request("turn/interrupt", json!({"threadId": thread, "turnId": open}));
    client.finish_turn(&thread, &open);
    let turns = ended(&daemon, 1);
    assert_eq!((&turns[0]["turnId"], &turns[0]["state"]), (&json!(open), &json!("interrupted")));
}

#[test]
fn a_ledger_that_cannot_be_made_stops_nobody() {
    let mut daemon = TestDaemon::fake("").ready();
    let file = file(&daemon);
    assert_eq!(daemon.stop(), 0);
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{suffix}", file.display()));
    }
    fs::create_dir(&file).unwrap();
    let mut successor = TestDaemon::fake("").home(daemon.into_home()).ready();
    turn(&successor);
    wait::until("the status says so", || warnings(&successor).contains("not a regular file"));
    fs::remove_dir(&file).unwrap();
    ended(&successor, 1);
    assert_eq!(successor.stop(), 0);
}

#[test]
fn a_daemon_can_be_told_to_record_nothing_or_less() {
    let daemon = TestDaemon::fake("").config("ledger = false").ready();
    turn(&daemon);
    assert!(history(&daemon).is_empty());
    assert!(!file(&daemon).exists());
    let mut daemon = TestDaemon::fake("").config("ledger_turns = 2").ready();
    for _ in 0..4 {
        turn(&daemon);
    }
    ended(&daemon, 4);
    assert_eq!(daemon.stop(), 0);
    let successor = TestDaemon::fake("").config("ledger_turns = 2").home(daemon.into_home()).ready();
    wait::until("only the latest are kept", || history(&successor).len() == 2);
}

#[test]
fn the_turns_that_were_lost_at_the_last_exit_are_named() {
    for (kill_daemon, known_by) in [(false, "upstreamLost"), (true, "daemonDied")] {
        let mut daemon = TestDaemon::fake("").ready();
        turn(&daemon);
        let mut client = daemon.client("one");
        let thread = client.start_thread(json!({}));
        let lost = client.start_turn(&thread, "[[hang]]");
        wait::until("the turn is recorded", || history(&daemon).len() == 2);
        assert_eq!(daemon.ctl(&["history", "--lost", "--json"]).expect_code(0).json(), json!([]));
        if kill_daemon {
            daemon.kill9();
        } else {
            daemon.signal_upstream(Signal::SIGKILL);
        }
        daemon.wait_exit();
        let named = daemon.ctl(&["history", "--lost", "--json"]).expect_code(0).json();
        assert_eq!(named.as_array().unwrap().len(), 1, "{named}");
        assert_eq!((&named[0]["turnId"], &named[0]["threadId"]), (&json!(lost), &json!(thread)));
        assert_eq!(named[0]["knownBy"], known_by);
        let exit = daemon.ctl(&["last-exit", "--json"]).expect_code(0).json();
        assert_eq!(exit["lostTurns"], named, "{exit}");
        let shown = daemon.ctl(&["last-exit"]).expect_code(0).stdout;
        assert!(
            shown.contains(&format!("lost turn: thread {thread}, turn {lost}, of one, after ")),
            "{shown}"
        );
        // The next daemon has written down what could not be.
        let successor = TestDaemon::fake("").home(daemon.into_home()).ready();
        assert_eq!(
            successor.ctl(&["history", "--lost", "--json"]).expect_code(0).json()[0]["turnId"],
            json!(lost)
        );
    }
}

#[test]
fn a_lost_job_is_named_with_the_last_exit() {
    let mut daemon = TestDaemon::fake("").ready();
    let job = daemon.run(&["run", "--detach", "[[hang]]"]).expect_code(0).stdout.trim().to_owned();
    wait::until("its turn is recorded", || history(&daemon).iter().any(|turn| turn["job"] == job));
    daemon.signal_upstream(Signal::SIGKILL);
    daemon.wait_exit();
    let shown = daemon.ctl(&["last-exit"]).expect_code(0).stdout;
    assert!(shown.contains(&format!("job {job} (`codexd jobs show {job}`)")), "{shown}");
}

#[test]
fn a_turn_of_which_codex_sends_nothing_is_interrupted_where_that_is_set() {
    let config = "silent_turn_warning = \"300ms\"\nsilent_turn_interrupt = \"900ms\"";
    let daemon = TestDaemon::fake("").config(config).ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    let silent = client.start_turn(&thread, "[[hang]]");
    assert_eq!(client.finish_turn(&thread, &silent).status, "interrupted");
    let turns = ended(&daemon, 1);
    assert_eq!((&turns[0]["state"], &turns[0]["knownBy"]), (&json!("interrupted"), &json!("terminalEvent")));
    let cause = turns[0]["cause"].as_str().unwrap();
    assert!(cause.starts_with("interrupted because codex sent nothing about it"), "{cause}");
    assert!(daemon.stderr().contains("codex sends nothing about a turn"), "{}", daemon.stderr());
}

/// Returns a `codexd` that serves with a state directory on an empty file system of its own, mounted with
/// `options`; other commands run as ever. `None` where that cannot be had: it takes the right to mount.
fn with_own_disk(home: &Home, codexd: &Path, state: &Path, options: &str) -> Option<PathBuf> {
    let mounts = Command::new("unshare").args(["--mount", "true"]).output();
    let able = match mounts {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("no mount namespace: {}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => Err(format!("cannot run `unshare`: {error}")),
    };
    skip::unless_found(able)?;
    let wrapper = home.root().join("codexd-own-disk");
    let (codexd, state) = (codexd.display(), state.display());
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = serve ] || exec '{codexd}' \"$@\"\nexec unshare --mount sh -c \
         'mount -t tmpfs -o mode=0700,{options} none \"{state}\" && exec \"{codexd}\" \"$@\"' sh \"$@\"\n"
    );
    fs::write(&wrapper, text).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    Some(wrapper)
}

#[test]
fn a_full_disk_stops_nobody() {
    let mut first = TestDaemon::fake("").ready();
    let state = file(&first).parent().unwrap().to_owned();
    assert_eq!(first.stop(), 0);
    let codexd = first.codexd().to_owned();
    let Some(wrapper) = with_own_disk(first.home(), &codexd, &state, "size=256k") else { return };
    let daemon = TestDaemon::fake("").codexd(&wrapper).home(first.into_home()).ready();
    // As many turns as it takes.
    wait::until("the disk is full", || {
        turn(&daemon);
        warnings(&daemon).contains("full")
    });
    turn(&daemon);
    let mut enlarge = Command::new("nsenter");
    enlarge.args(["-t", &daemon.pid().to_string(), "-m", "mount", "-o", "remount,size=64m"]).arg(&state);
    let output = enlarge.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    wait::until("nothing is wrong any more", || warnings(&daemon).is_empty());
}

#[test]
fn a_read_only_disk_stops_nobody() {
    let mut first = TestDaemon::fake("").ready();
    turn(&first);
    ended(&first, 1);
    let state = file(&first).parent().unwrap().to_owned();
    assert_eq!(first.stop(), 0);
    let codexd = first.codexd().to_owned();
    let Some(wrapper) = with_own_disk(first.home(), &codexd, &state, "ro") else { return };
    let daemon = TestDaemon::fake("").codexd(&wrapper).home(first.into_home()).ready();
    turn(&daemon);
    wait::until("the status says so", || warnings(&daemon).contains("cannot be written"));
    turn(&daemon);
    let refused = daemon.run(&["run", "--detach", "hello"]).expect_code(1);
    assert!(refused.stderr.contains("turn ledger") && refused.stderr.contains("ctl status"), "{refused}");
}
