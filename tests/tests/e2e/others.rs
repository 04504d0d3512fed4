//! Clients that others wrote, in place of whose codex `codexd app-server` runs.
//!
//! | client | how it is given the command |
//! | --- | --- |
//! | `@agentclientprotocol/codex-acp` | the variable `CODEX_PATH` |
//! | `ai-sdk-provider-codex-app-server` | the setting `codexPath`, else `codex` in `PATH` |
//! | `openai-codex` (Python) | `CodexConfig.launch_args_override` |
//! | `codex-python-sdk` (Python) | the argument `codex_command`, else `codex` in `PATH` |
//!
//! Their versions are pinned, see [`codexd_tests::clients`]. The companion plugin, which is in no registry, is in
//! [`plugin`](crate::plugin).

mod acp;
mod ai_sdk;
mod python;

use std::process::Command;

use codexd_tests::output::Output;
use codexd_tests::wait;

use crate::world::World;

/// The message for people when codex was killed.
pub(crate) const KILLED: &str = "codex app-server was killed by signal 9 (SIGKILL)";

/// A turn that ends when another one with it is open, too.
const MEETING: &str = "[[meet:both:2]][[deltas:3]]";

/// The answer to a prompt with these markers and this text.
fn answer(text: &str) -> String {
    format!("tok0 tok1 tok2 | echo: {text}")
}

/// Runs these programs at once, each to its end, on one daemon and one codex.
#[track_caller]
fn at_once<const N: usize>(world: &World, commands: [Command; N]) -> [Output; N] {
    let outputs = std::thread::scope(|scope| {
        let run = |mut command: Command| scope.spawn(move || Output::of(&mut command));
        commands.map(run).map(|thread| thread.join().unwrap())
    });
    let (daemons, servers) = (world.daemons(), world.servers());
    assert_eq!((daemons.len(), servers.len()), (1, 1), "{daemons:#?} {servers:#?}");
    outputs
}

/// A turn that runs a command and then has no end.
const ENDLESS: &str = "[[shell:true]][[stall:600]] for ever";

/// Runs a program whose prompt is [`ENDLESS`], and kills codex in the middle of the turn.
#[track_caller]
fn run_and_kill_codex(world: &World, mut command: Command) -> Output {
    std::thread::scope(|scope| {
        let running = scope.spawn(move || Output::of(&mut command));
        // With the output of the command: codex has long reported that the turn has begun.
        wait::until("the command has run", || world.model().requests().len() == 2);
        world.kill9_codex();
        running.join().unwrap()
    })
}
