//! One daemon for each instance: locks, sockets, what a killed one leaves.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use codexd_tests::binary;
use codexd_tests::client::TestClient;
use codexd_tests::daemon::TestDaemon;
use codexd_tests::home::Home;
use codexd_tests::output::Output;
use codexd_tests::{process, skip, wait};
use nix::sys::signal::SigSet;
use serde_json::{Value, json};

use crate::support::{Started, expect_end, status, waiting_turn};

/// `codexd serve` in a world, with its default paths.
fn serve(home: &Home) -> Command {
    let mut command = home.command(&binary::codexd());
    command.arg("serve").arg("--codex").arg(binary::fake_codex());
    command.env("FAKE_CODEX_LOG", home.root().join("log"));
    command
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_second_daemon_exits_75_and_the_first_lives_on() {
    let mut daemon = TestDaemon::fake("[[strict]]").ready();
    let mut client = daemon.client("one");
    let (thread, turn, approval) = waiting_turn(&mut client, "");
    for _ in 0..3 {
        let output = daemon.run(&["serve"]).expect_code(75);
        assert!(output.stderr.contains(&format!("running already: pid {}", daemon.pid())), "{output}");
        assert!(output.stderr.contains("hint: "), "{output}");
    }
    assert_eq!(daemon.processes().len(), 2, "the daemon and its upstream");
    client.answer(&approval, json!({"decision": "accept"}));
    assert_eq!(client.finish_turn(&thread, &turn).status, "completed");
    daemon.client("two").recv_to_barrier();
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn the_same_socket_under_another_instance_exits_75() {
    let daemon = TestDaemon::fake("").ready();
    let control = daemon.home().runtime().join("other");
    let control = control.to_str().unwrap();
    let other = ["serve", "--instance", "other", "--control-socket", control];
    let output = daemon.run(&other).expect_code(75);
    assert!(output.stderr.contains("codexd: "), "{output}");
    daemon.client("one").recv_to_barrier();
}

#[test]
fn after_a_hard_kill_the_next_one_starts_at_once() {
    let mut daemon = TestDaemon::fake("").ready();
    let mut client = daemon.client("one");
    let (_, _, _) = waiting_turn(&mut client, "");
    let generation = status(&daemon)["generation"].as_u64().unwrap();
    daemon.kill9();
    daemon.wait_exit();
    client.recv_to_end();
    assert!(daemon.socket().exists(), "a killed daemon leaves its socket");
    assert_eq!(daemon.ctl(&["status"]).code(), Some(3));
    // The upstream goes by itself.
    let home = daemon.into_home();
    let mut next = TestDaemon::fake("[[strict]]").home(home).ready();
    let now = status(&next);
    assert_eq!(now["generation"], generation + 1);
    assert_eq!(now["lastExit"]["reason"], "left no record (killed?)");
    assert!(now["lastExit"]["code"].is_null());
    assert_eq!(now["warnings"], json!([]));
    let mut client = next.client("one");
    let thread = client.start_thread(json!({}));
    assert_eq!(client.turn(&thread, "hello").status, "completed");
    assert_eq!(next.stop(), 0);
    expect_end(&mut next, 0);
}

#[test]
fn a_daemon_whose_starter_has_blocked_signals_receives_them() {
    // A program inherits the mask of the thread that starts it; this thread keeps its own.
    let daemon = std::thread::spawn(|| {
        SigSet::all().thread_block().unwrap();
        TestDaemon::fake("[[strict]]").start()
    });
    let mut daemon = daemon.join().unwrap().wait_ready();
    daemon.client("one").recv_to_barrier();
    assert_eq!(daemon.stop(), 0);
    expect_end(&mut daemon, 0);
}

#[test]
fn of_many_daemons_started_at_the_same_instant_one_wins() {
    let home = Home::new().unwrap();
    let mut daemons: Vec<Started> =
        (0..16).map(|_| Started::of(serve(&home).stderr(Stdio::null()))).collect();
    // All but one end by themselves.
    let mut codes = Vec::new();
    wait::until("one is left", || {
        daemons.retain_mut(|daemon| match daemon.0.try_wait().unwrap() {
            Some(status) => {
                codes.push(status.code());
                false
            }
            None => true,
        });
        daemons.len() <= 1
    });
    assert_eq!(codes, [Some(75); 15]);
    let ctl = |arguments: &[&str]| Output::of(home.command(&binary::codexd()).arg("ctl").args(arguments));
    let _ = ctl(&["wait", "ready"]).expect_code(0);
    let now = ctl(&["status", "--json"]).expect_code(0).json();
    assert_eq!((&now["pid"], &now["generation"]), (&json!(daemons[0].0.id()), &json!(1)));
    let upstreams = process::marked(home.root());
    assert_eq!(upstreams.iter().filter(|it| it.command.contains(" app-server")).count(), 1, "{upstreams:?}");
    let _ = ctl(&["stop"]).expect_code(0);
    assert_eq!(daemons[0].exit_code(), Some(0));
    process::assert_no_process_left(home.root());
}

#[test]
fn daemons_that_follow_each_other_never_overlap_and_count_up() {
    let mut home = Home::new().unwrap().into();
    for generation in 1..=5 {
        let mut daemon = TestDaemon::fake("[[strict]]").home(home).ready();
        assert_eq!(status(&daemon)["generation"], generation);
        assert_eq!(daemon.stop(), 0);
        home = daemon.into_home();
    }
}

#[test]
fn sockets_are_private_and_in_a_private_directory() {
    let home = Home::new().unwrap();
    let mut daemon = Started::of(serve(&home).stderr(Stdio::null()));
    let ctl = |arguments: &[&str]| Output::of(home.command(&binary::codexd()).arg("ctl").args(arguments));
    let _ = ctl(&["wait", "ready"]).expect_code(0);
    let now = ctl(&["status", "--json"]).json();
    let directory = home.runtime().join("codexd");
    assert_eq!(mode(&directory), 0o700);
    for name in ["socket", "controlSocket", "lockFile"] {
        let path = std::path::PathBuf::from(now[name].as_str().unwrap());
        assert_eq!(path.parent(), Some(directory.as_path()), "{name}");
        assert_eq!(mode(&path), 0o600, "{name}");
    }
    assert_eq!(ctl(&["get-socket"]).stdout.trim_end(), now["socket"].as_str().unwrap());
    daemon.terminate();
    assert_eq!(daemon.exit_code(), Some(0));
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0, "nothing is left in the directory");
}

#[test]
fn a_directory_that_others_can_write_to_exits_77() {
    let home = Home::new().unwrap();
    std::fs::set_permissions(home.runtime(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let mut daemon = TestDaemon::fake("").home(home).start();
    expect_end(&mut daemon, 77);
    assert!(daemon.stderr().contains("hint: chmod go-w"), "{}", daemon.stderr());
}

#[test]
fn a_directory_that_leads_elsewhere_exits_77() {
    let home = Home::new().unwrap();
    let elsewhere = home.root().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, home.runtime().join("codexd")).unwrap();
    let output = Output::of(&mut serve(&home)).expect_code(77);
    assert!(output.stderr.contains("hint: "), "{output}");
    assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
}

#[test]
fn what_is_in_the_way_exits_73_and_stays() {
    let plain = |path: &Path| std::fs::write(path, "precious").unwrap();
    let directory = |path: &Path| std::fs::create_dir(path).unwrap();
    let link = |path: &Path| {
        std::fs::write(path.with_extension("target"), "precious").unwrap();
        std::os::unix::fs::symlink(path.with_extension("target"), path).unwrap();
    };
    let dangling = |path: &Path| std::os::unix::fs::symlink("/nowhere/at/all", path).unwrap();
    let linked_socket = |path: &Path| {
        drop(UnixListener::bind(path.with_extension("target")).unwrap());
        std::os::unix::fs::symlink(path.with_extension("target"), path).unwrap();
    };
    let kinds: [&dyn Fn(&Path); 5] = [&plain, &directory, &link, &dangling, &linked_socket];
    for (n, kind) in kinds.into_iter().enumerate() {
        for name in ["s", "c"] {
            let home = Home::new().unwrap();
            let path = home.runtime().join(name);
            kind(&path);
            let before = std::fs::symlink_metadata(&path).unwrap();
            let mut daemon = TestDaemon::fake("").home(home).start();
            assert_eq!(daemon.wait_exit().code(), Some(73), "{n} {name}: {}", daemon.stderr());
            assert!(daemon.stderr().contains("a file that is not a socket"), "{}", daemon.stderr());
            assert!(daemon.stderr().contains("hint: move "), "{}", daemon.stderr());
            let after = std::fs::symlink_metadata(&path).unwrap();
            assert_eq!((before.ino(), before.mtime_nsec()), (after.ino(), after.mtime_nsec()), "{n} {name}");
            daemon.assert_no_process_left();
        }
    }
}

#[test]
fn sockets_that_nobody_listens_on_are_replaced() {
    let home = Home::new().unwrap();
    for name in ["s", "c", "s.new", "c.new"] {
        drop(UnixListener::bind(home.runtime().join(name)).unwrap());
    }
    let mut daemon = TestDaemon::fake("[[strict]]").home(home).ready();
    assert_eq!(status(&daemon)["warnings"], json!([]));
    daemon.client("one").recv_to_barrier();
    assert_eq!(daemon.stop(), 0);
    expect_end(&mut daemon, 0);
    assert!(!daemon.home().runtime().join("s.new").exists());
}

#[test]
fn a_process_that_is_only_named_in_a_file_is_never_signalled() {
    let first = TestDaemon::fake("").ready();
    let now = status(&first);
    let home = first.into_home();
    let path = |name: &str| std::path::PathBuf::from(now[name].as_str().unwrap());
    let mut stranger = Started::of(Command::new("sleep").arg("600").env_clear());
    let pid = stranger.0.id();
    std::fs::write(path("lockFile"), format!("{pid}\n")).unwrap();
    let record = std::fs::read(path("recordFile")).unwrap();
    let mut record: Value = serde_json::from_slice(&record).unwrap();
    record["running"] = json!({"pid": pid, "generation": 1, "startedUnixMs": 1});
    std::fs::write(path("recordFile"), record.to_string()).unwrap();

    let mut daemon = TestDaemon::fake("[[strict]]").home(home).ready();
    assert_eq!(status(&daemon)["lastExit"]["reason"], "left no record (killed?)");
    daemon.client("one").recv_to_barrier();
    let _ = daemon.ctl(&["stop"]).expect_code(0);
    expect_end(&mut daemon, 0);
    assert_eq!(stranger.0.try_wait().unwrap(), None, "the stranger lives");
}

#[test]
fn a_clock_that_was_set_back_disturbs_nobody() {
    let first = TestDaemon::fake("").ready();
    let now = status(&first);
    let home = first.into_home();
    let path = std::path::PathBuf::from(now["recordFile"].as_str().unwrap());
    let mut record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let future = now["startedUnixMs"].as_u64().unwrap() + 1_000_000_000_000;
    record["lastExit"]["atUnixMs"] = json!(future);
    record["running"] = json!({"pid": 1, "generation": 7, "startedUnixMs": future});
    record["earlyEnds"] = json!({"count": 50, "lastUnixMs": future, "code": 1, "reason": "lost"});
    std::fs::write(&path, record.to_string()).unwrap();

    let mut daemon = TestDaemon::fake("[[strict]]").home(home).ready();
    let now = status(&daemon);
    assert!(now["uptimeMs"].as_u64().unwrap() < 1_000_000, "{now}");
    assert_eq!((&now["warnings"], &now["lastExit"]["generation"]), (&json!([]), &json!(7)));
    let _ = daemon.ctl(&["status"]).expect_code(0);
    assert_eq!(daemon.stop(), 0);
    assert!(status(&daemon)["lastExit"]["uptimeMs"].as_u64().unwrap() < 1_000_000);

    // Clients start it, too: a failure in the future is none that was a moment ago.
    let mut record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    record["earlyEnds"] = json!({"count": 50, "lastUnixMs": future, "code": 1, "reason": "lost"});
    std::fs::write(&path, record.to_string()).unwrap();
    let mut client = TestClient::spawn("one", &mut daemon.command(&["connect"]));
    client.initialize();
    drop(client);
    let _ = daemon.ctl(&["stop"]).expect_code(0);
    daemon.assert_no_process_left();
}

#[test]
fn a_directory_of_somebody_else_exits_77() {
    let home = Home::new().unwrap();
    let directory = home.runtime().join("codexd");
    std::fs::create_dir(&directory).unwrap();
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700)).unwrap();
    if let Err(error) = std::os::unix::fs::chown(&directory, Some(12_345), None) {
        skip::say(&format!("only root can give a directory away: {error}"));
        return;
    }
    let output = Output::of(&mut serve(&home)).expect_code(77);
    assert!(output.stderr.contains("it belongs to user 12345"), "{output}");
    assert!(output.stderr.contains("hint: "), "{output}");
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
}

#[test]
fn an_own_directory_that_others_can_look_into_exits_77() {
    for mode in [0o755, 0o701, 0o770] {
        let home = Home::new().unwrap();
        let directory = home.runtime().join("codexd");
        std::fs::create_dir(&directory).unwrap();
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(mode)).unwrap();
        let output = Output::of(&mut serve(&home)).expect_code(77);
        assert!(output.stderr.contains(&format!("its mode is {mode:04o}")), "{output}");
        assert!(output.stderr.contains("hint: chmod 700 "), "{output}");
    }
}

#[test]
fn a_socket_of_somebody_else_exits_75_and_stays() {
    let home = Home::new().unwrap();
    let path = home.runtime().join("s");
    let other = UnixListener::bind(&path).unwrap();
    let mut daemon = TestDaemon::fake("").home(home).start();
    assert_eq!(daemon.wait_exit().code(), Some(75), "{}", daemon.stderr());
    assert!(path.exists());
    drop(other);
    daemon.assert_no_process_left();
}

#[test]
fn an_unused_daemon_whose_socket_was_removed_makes_room_for_the_next() {
    let mut daemon = TestDaemon::fake("").args(["--idle-exit", "1h"]).ready();
    let client = daemon.client("one");
    std::fs::remove_file(daemon.socket()).unwrap();
    assert_eq!(status(&daemon)["warnings"][0]["code"], "socketReplaced");
    // As long as a client uses it, it stays.
    assert_eq!(status(&daemon)["state"], "serving");
    drop(client);
    assert_eq!(daemon.wait_exit().code(), Some(0));
    assert!(daemon.stderr().contains("the socket was removed or replaced"), "{}", daemon.stderr());
}

#[test]
fn a_socket_that_was_removed_is_a_warning_and_those_who_are_in_stay() {
    let mut daemon = TestDaemon::fake("[[strict]]").ready();
    let mut client = daemon.client("one");
    assert_eq!(status(&daemon)["warnings"], json!([]));
    std::fs::remove_file(daemon.socket()).unwrap();
    let now = status(&daemon);
    assert_eq!(now["warnings"][0]["code"], "socketReplaced");
    assert!(daemon.ctl(&["status"]).stdout.contains("was removed or replaced"));
    client.recv_to_barrier();
    // A socket that another process creates there stays when the daemon exits.
    let _other = UnixListener::bind(daemon.socket()).unwrap();
    assert_eq!(status(&daemon)["warnings"][0]["code"], "socketReplaced");
    assert_eq!(daemon.stop(), 0);
    assert!(daemon.socket().exists());
}
