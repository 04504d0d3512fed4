//! Clients in Python: the SDK of codex, and one that others wrote.

use std::process::Command;

use codexd_tests::output::Output;
use codexd_tests::{binary, clients, skip};

use super::{ENDLESS, KILLED, MEETING, answer, at_once, run_and_kill_codex};
use crate::world::World;

/// The SDK: runs a turn and prints its answer.
const SDK: &str = r#"
import sys
from openai_codex import Codex, CodexConfig
with Codex(CodexConfig(launch_args_override=(sys.argv[1], "app-server", "--listen", "stdio://"))) as codex:
    print(codex.thread_start().run(sys.argv[2]).final_response)
"#;

/// The other client, with its own defaults: some of them are flags (`-c`, `--enable`) that lead to a daemon of its own.
const CLIENT: &str = r#"
import sys
from codex_python_sdk import create_client
with create_client(codex_command=sys.argv[1]) as client:
    print(client.responses_create(prompt=sys.argv[2]).text)
"#;

/// Returns a program with this prompt.
fn program(world: &World, program: &str, prompt: &str) -> Option<Command> {
    let python = skip::unless_found(clients::python())?;
    let mut command = world.program(python.program);
    command.env("PYTHONPATH", python.packages).args(["-c", program]).arg(binary::codexd()).arg(prompt);
    Some(command)
}

#[test]
fn the_python_sdk_runs_a_turn_through_the_drop_in() {
    let Some(world) = World::real() else { return };
    let Some(mut command) = program(&world, SDK, "[[deltas:3]] hello") else { return };
    let output = Output::of(&mut command).expect_code(0);
    assert_eq!(output.stdout.trim(), answer(" hello"));
    // The daemon outlives the client that started it.
    assert_eq!(world.status("state").as_deref(), Some("serving"));
}

#[test]
fn two_programs_with_the_python_sdk_run_turns_at_once_on_one_codex() {
    two_at_once(SDK);
}

#[test]
fn two_python_clients_with_settings_of_their_own_run_turns_at_once_on_one_codex() {
    two_at_once(CLIENT);
}

fn two_at_once(code: &str) {
    let Some(world) = World::real() else { return };
    let Some(one) = program(&world, code, &format!("{MEETING} of one")) else { return };
    let Some(two) = program(&world, code, &format!("{MEETING} of two")) else { return };
    let outputs = at_once(&world, [one, two]).map(|output| output.expect_code(0).stdout);
    assert_eq!(outputs.each_ref().map(|it| it.trim()), [answer(" of one"), answer(" of two")]);
}

#[test]
fn the_python_sdk_raises_why_its_turn_was_lost_with_codex() {
    raises(SDK);
}

#[test]
fn a_python_client_raises_why_its_turn_was_lost_with_codex() {
    raises(CLIENT);
}

fn raises(code: &str) {
    let Some(world) = World::real() else { return };
    let Some(command) = program(&world, code, ENDLESS) else { return };
    let output = run_and_kill_codex(&world, command).expect_code(1);
    assert!(output.stderr.trim_end().lines().last().unwrap().contains(KILLED), "{output}");
}
