//! Turns of programs that spawn `codexd app-server` end with the program, and turns of others go on.

use std::process::Command;

use codexd_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::world::{Bridge, World};

const CONFIGURATION: &str = "[limits]\norphaned_turn_grace = \"10ms\"\n";

/// Starts a client that disconnects during a turn that would never end by itself; returns its thread.
fn leave_a_turn(world: &World, command: &mut Command, leave: impl FnOnce(Bridge)) -> String {
    let mut client = world.spawn("leaver", command);
    client.initialize();
    let thread = client.start_thread(json!({"cwd": world.home().project()}));
    client.start_turn(&thread, "[[hang]] for ever");
    client.take_method("turn/started");
    leave(client);
    thread
}

/// Returns the status of the only turn of a thread.
fn status(watcher: &mut Bridge, thread: &str) -> String {
    let read = watcher.request("thread/read", json!({"threadId": thread, "includeTurns": true}));
    read["thread"]["turns"][0]["status"].as_str().unwrap_or_default().to_owned()
}

fn killed(signal: Signal) -> impl Fn(Bridge) {
    move |mut client| {
        kill(Pid::from_raw(client.pid().unwrap().cast_signed()), signal).unwrap();
        client.wait_exit();
    }
}

fn ended(client: Bridge) {
    assert_eq!(client.finish(), 0);
}

#[test]
fn a_turn_ends_with_the_program_that_spawned_an_app_server_for_itself() {
    let Some(world) = World::real() else { return };
    let world = world.configured(CONFIGURATION);
    let mut watcher = world.client("watcher");
    let ways: [(&str, &dyn Fn(Bridge)); 3] = [
        ("the end of the input", &ended),
        // As Ctrl-C, which a process that a shell has started in the background ignores.
        ("SIGTERM", &killed(Signal::SIGTERM)),
        ("kill -9", &killed(Signal::SIGKILL)),
    ];
    for (way, leave) in ways {
        let thread = leave_a_turn(&world, &mut world.command(&["app-server"]), leave);
        wait::until(way, || status(&mut watcher, &thread) == "interrupted");
    }
    let daemon = world.daemon();
    let mut client = world.client("next");
    let thread = client.start_thread(json!({}));
    assert_eq!(client.turn(&thread, "hello").status, "completed");
    assert_eq!(world.daemon(), daemon);
    assert_eq!((client.finish(), watcher.finish()), (0, 0));
}

#[test]
fn a_turn_goes_on_where_the_flag_or_the_kind_of_client_says_so() {
    let Some(world) = World::real() else { return };
    let world = world.configured(CONFIGURATION);
    let mut watcher = world.client("watcher");
    let keep = [&["connect"][..], &["app-server", "--orphaned-turns", "keep"]];
    let kept = keep.map(|flags| leave_a_turn(&world, &mut world.command(flags), ended));
    let flags = ["connect", "--orphaned-turns", "interrupt"];
    let thread = leave_a_turn(&world, &mut world.command(&flags), ended);
    // It left last and its turn has ended: those that left before would have been interrupted by now.
    wait::until("the interrupt", || status(&mut watcher, &thread) == "interrupted");
    for thread in &kept {
        assert_eq!(status(&mut watcher, thread), "inProgress");
    }
    assert_eq!(world.status("openTurns").as_deref(), Some("2"));
    assert_eq!(watcher.finish(), 0);
}
