//! A provider of the Vercel AI SDK (JavaScript).

use std::os::unix::fs::symlink;
use std::process::Command;

use codexd_tests::{binary, clients, environment, skip};
use serde_json::Value;

use super::{ENDLESS, KILLED, MEETING, answer, at_once, run_and_kill_codex};
use crate::world::World;

/// Asks the model once, as the AI SDK does, and prints the text and the end as JSON.
const PROGRAM: &str = r#"
const [provider, prompt] = process.argv.slice(1);
const { createCodexAppServer } = await import(provider);
const model = createCodexAppServer({ defaultSettings: { cwd: process.cwd() } })("mock-model");
const content = [{ type: "text", text: prompt }];
const { stream } = await model.doStream({ prompt: [{ role: "user", content }] });
const said = { text: "" };
for await (const part of stream) {
  if (part.type === "text-delta") said.text += part.delta;
  if (part.type === "finish") said.finish = part.finishReason;
}
console.log(JSON.stringify(said));
model.dispose();
"#;

/// Returns the program with this prompt; the `codex` that it finds in `PATH` is codexd.
fn program(world: &World, prompt: &str) -> Option<Command> {
    let modules = skip::unless_found(clients::node_modules())?;
    let directory = world.home().root().join("bin");
    let _ = std::fs::create_dir(&directory);
    let _ = symlink(binary::codexd(), directory.join("codex"));
    let mut node = world.program("node");
    node.env("PATH", environment::path_after([directory])).args(["--input-type=module", "--eval", PROGRAM]);
    node.arg(modules.join("ai-sdk-provider-codex-app-server/dist/index.js")).arg(prompt);
    Some(node)
}

#[test]
fn two_programs_with_the_ai_sdk_run_turns_at_once_on_one_codex() {
    let Some(world) = World::real() else { return };
    let Some(one) = program(&world, &format!("{MEETING} of one")) else { return };
    let Some(two) = program(&world, &format!("{MEETING} of two")) else { return };
    let outputs = at_once(&world, [one, two]).map(|output| output.expect_code(0).json());
    for (said, text) in outputs.iter().zip([" of one", " of two"]) {
        assert_eq!((&said["text"], &said["finish"]["unified"]), (&Value::from(answer(text)), &"stop".into()));
    }
}

#[test]
fn a_program_with_the_ai_sdk_gets_the_reason_why_its_turn_was_lost_with_codex() {
    let Some(world) = World::real() else { return };
    let Some(command) = program(&world, ENDLESS) else { return };
    let said = run_and_kill_codex(&world, command).expect_code(0).json();
    assert_eq!(said["finish"]["unified"], "error", "{said}");
    assert!(said["finish"]["raw"].as_str().unwrap().contains(KILLED), "{said}");
}
