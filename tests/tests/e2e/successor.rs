//! A daemon that a client started and that lost codex is followed by the next one, for clients that connect again by
//! themselves and start nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use codexd_tests::binary;
use codexd_tests::client::TestClient;
use codexd_tests::process;
use codexd_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::world::World;

/// Returns the path of the daemon's socket, which is the same for all daemons of the world.
fn socket(world: &World) -> PathBuf {
    world.run(&["ctl", "get-socket"]).expect_code(0).stdout.trim().into()
}

/// Has a client of the usual kind start a daemon, and returns another one that only ever connects.
fn plain_client(world: &World) -> TestClient {
    let starter = world.client("starter");
    let mut client = TestClient::connect("plain", &socket(world));
    client.initialize();
    assert_eq!(starter.finish(), 0);
    client
}

/// Connects again as a program would that never starts a daemon.
fn connect_again(socket: &Path) -> TestClient {
    let connect = || UnixStream::connect(socket).ok();
    let stream = wait::poll(wait::PATIENCE, connect).expect("somebody listens again");
    let mut client = TestClient::over("again", stream);
    client.initialize();
    client
}

fn log(world: &World) -> String {
    let files = fs::read_dir(world.home().state().join("codexd")).unwrap().flatten().map(|it| it.path());
    let mut logs = files.filter(|path| path.extension().is_some_and(|it| it == "log"));
    fs::read_to_string(logs.next().unwrap()).unwrap()
}

/// Kills the codex that runs, whatever its program is called in the list of processes.
fn kill_codex(world: &World) {
    let mut all = process::marked(world.home().root());
    all.retain(|it| it.command.contains(" app-server"));
    assert_eq!(all.len(), 1, "{all:#?}");
    kill(Pid::from_raw(all[0].pid), Signal::SIGKILL).unwrap();
}

fn is_followed(world: &World, prompt: &str, next_thread: fn(&mut TestClient, String) -> String) {
    let mut client = plain_client(world);
    let socket = socket(world);
    let thread = client.start_thread(json!({"cwd": world.home().project()}));
    assert_eq!(client.turn(&thread, "before").status, "completed");
    let turn = client.start_turn(&thread, prompt);
    let first = world.daemon();
    world.kill9_codex();
    assert_eq!(client.finish_turn(&thread, &turn).status, "failed");
    client.recv_to_end();
    let mut client = connect_again(&socket);
    let thread = next_thread(&mut client, thread);
    assert_eq!(client.turn(&thread, "after").status, "completed");
    // Nobody else has started it, and what is over is over.
    process::wait_dead(first);
    assert_eq!(world.record()["generation"], 2);
    assert_eq!(world.daemons().len(), 1);
    let status = world.run(&["ctl", "status", "--json"]).expect_code(0).json();
    assert_eq!((&status["lastExit"]["code"], &status["lastExit"]["generation"]), (&json!(1), &json!(1)));
    assert!(log(world).contains("the next daemon serves"), "{}", log(world));
    // It is as any daemon that a client started.
    drop(client);
    let _ = world.run(&["ctl", "stop"]).expect_code(0);
    assert_eq!(world.record()["lastExit"]["code"], 0);
}

#[test]
fn a_client_that_starts_nothing_is_served_again_after_codex_was_lost() {
    // The stand-in for codex remembers no threads.
    is_followed(&World::fake(""), "[[hang]]", |client, _| client.start_thread(json!({})));
}

#[test]
fn a_client_that_starts_nothing_resumes_its_thread_after_the_real_codex_was_killed() {
    let Some(world) = World::real() else { return };
    is_followed(&world, "[[stall:600]]", |client, thread| {
        client.request("thread/resume", json!({"threadId": thread}));
        thread
    });
}

#[test]
fn the_successor_has_the_arguments_of_its_daemon() {
    let world = World::fake("");
    let mut starter = world.spawn("starter", &mut world.command(&["app-server", "-c", "model=\"o3\""]));
    let instance = starter.initialize()["codexd"]["instance"].as_str().unwrap().to_owned();
    let socket = world.home().runtime().join(format!("codexd/{instance}.sock"));
    let mut plain = TestClient::connect("plain", &socket);
    plain.initialize();
    assert_eq!(starter.finish(), 0);
    let first = world.daemon();
    kill_codex(&world);
    plain.recv_to_end();
    process::wait_dead(first);
    let all = process::marked(world.home().root());
    assert!(all.iter().any(|it| it.command.ends_with(" app-server -c model=\"o3\"")), "{all:#?}");
    assert!(all.iter().all(|it| !it.command.contains(" serve ") || !it.command.contains("o3")), "{all:#?}");
}

#[test]
fn a_daemon_without_clients_has_no_successor() {
    let world = World::fake("");
    assert_eq!(world.client("starter").finish(), 0);
    wait::until("nobody is connected", || world.status("clients").as_deref() == Some("0"));
    let daemon = world.daemon();
    world.kill9_codex();
    process::wait_dead(daemon);
    assert_eq!(process::marked(world.home().root()), []);
    assert_eq!((&world.record()["generation"], &world.record()["lastExit"]["code"]), (&json!(1), &json!(1)));
}

#[test]
fn a_daemon_whose_only_client_is_a_job_or_a_run_has_no_successor() {
    for flags in [&["--detach"][..], &[]] {
        let world = World::fake("");
        let arguments = [&["run"], flags, &["[[hang]]"]].concat();
        let mut run = world.command(&arguments).spawn().unwrap();
        wait::until("the turn runs", || world.status("openTurns").as_deref() == Some("1"));
        let daemon = world.daemon();
        kill_codex(&world);
        process::wait_dead(daemon);
        run.wait().unwrap();
        assert_eq!(process::marked(world.home().root()), [], "{arguments:?}");
        assert_eq!(world.record()["generation"], 1, "{arguments:?}");
    }
}

#[test]
fn a_daemon_that_was_stopped_has_no_successor() {
    let stops: [fn(&World, i32); 2] = [
        |world, _| drop(world.run(&["ctl", "stop"]).expect_code(0)),
        |_, daemon| kill(Pid::from_raw(daemon), Signal::SIGTERM).unwrap(),
    ];
    for stop in stops {
        let world = World::fake("");
        let mut client = plain_client(&world);
        let daemon = world.daemon();
        stop(&world, daemon);
        client.recv_to_end();
        process::wait_dead(daemon);
        assert_eq!(process::marked(world.home().root()), []);
        assert_eq!(world.record()["generation"], 1);
    }
}

#[test]
fn codex_that_dies_at_once_again_and_again_is_held_by_the_back_off() {
    let stand_in = World::fake("");
    let (program, broken) = (stand_in.home().root().join("codex.sh"), stand_in.home().root().join("broken"));
    let script = format!(
        "#!/bin/sh\n[ -e '{}' ] && exit 3\nexec '{}' \"$@\"\n",
        broken.display(),
        binary::fake_codex().display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let world = stand_in.with_codex(&program);
    let mut client = plain_client(&world);
    let daemon = world.daemon();
    fs::write(&broken, "").unwrap();
    kill_codex(&world);
    client.recv_to_end();
    process::wait_dead(daemon);
    // The last one says how its start failed before it has gone.
    wait::until("no process is left", || process::marked(world.home().root()).is_empty());
    let record: Value = world.record();
    assert_eq!(
        (&record["earlyEnds"]["count"], &record["lastExit"]["code"]),
        (&json!(3), &json!(1)),
        "{record}"
    );
    assert!(log(&world).contains("is not started again for"), "{}", log(&world));
}
