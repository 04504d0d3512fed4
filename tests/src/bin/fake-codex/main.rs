//! A stand-in for codex that follows a script: a real program with real pipes, and no model.
//!
//! `fake-codex app-server` speaks the app-server protocol over standard input and output in the shapes of codex
//! 0.169.0, as far as a broker can see a difference. `fake-codex --version` names itself.
//!
//! What a turn does stands in the text of its prompt, as [markers](codexd_tests::marker) that are
//! carried out in the order of the text. A prompt without markers is answered in three deltas and an echo.
//!
//! | marker | effect |
//! | --- | --- |
//! | `[[deltas:N]]`, `[[deltas:N:MS]]`, `[[deltas:N:MS:WORD]]` | N deltas of the answer, MS milliseconds apart, numbered after a word |
//! | `[[flood:N:SIZE]]` | N deltas of SIZE bytes, as fast as possible |
//! | `[[big:BYTES]]` | one delta of so many bytes |
//! | `[[wait:MS]]` | a pause |
//! | `[[approve]]` | asks for an approval and goes on when it is answered |
//! | `[[sub-agent]]`, `[[sub-agent:PROMPT]]` | a sub-agent runs a turn of its own; its markers are written `{{...}}` |
//! | `[[final]]` | completes the answer; what follows comes before `turn/completed` |
//! | `[[final-then-hang]]` | completes the answer and never the turn |
//! | `[[hang]]` | the turn does nothing more until it is interrupted |
//! | `[[freeze]]` | the whole server writes nothing more; it still ends when it is stopped |
//! | `[[busy]]` | what comes from here on waits for the end of the turn, which goes on |
//! | `[[fs-change]]` | a change for each watch |
//! | `[[exit:CODE]]`, `[[abort]]`, `[[signal:N]]` | the process ends so |
//! | `[[garbage]]` | a line that is not JSON |
//! | `[[bad-utf8]]` | a line that is not UTF-8 |
//! | `[[torn]]` | half a line, then exit 0 |
//! | `[[eof]]` | closes standard output and stays alive |
//! | `[[hold-pipe]]`, `[[hold-pipe:CODE]]` | a grandchild in a session of its own keeps standard output open; exit |
//! | `[[stderr:TEXT]]` | a line on standard error |
//! | `[[orphan]]` | a grandchild in a session of its own that sleeps; the turn goes on |
//!
//! The variable `FAKE_CODEX` holds markers for the process as a whole:
//!
//! | marker | effect |
//! | --- | --- |
//! | `[[init-error:CODE]]` | `initialize` is refused with this code |
//! | `[[init-hang]]` | `initialize` is never answered |
//! | `[[init-exit:CODE]]` | the process ends at `initialize` |
//! | `[[ignore-term]]`, `[[ignore-eof]]` | neither SIGTERM nor the end of input ends it |
//! | `[[never-read]]` | reads nothing after `initialize` |
//! | `[[overload:EVERY]]` | refuses every so manieth request with -32001 |
//! | `[[slow:MS]]` | works on each message so many milliseconds later; of more than 128 waiting ones it complains |
//! | `[[strict]]` | a complaint ends the process with exit code 97 |
//! | `[[keep]]` | threads that have run can be resumed in the next process, without their sandbox policy, as in the real one |
//!
//! `FAKE_CODEX_VERSION` is its version. With `FAKE_CODEX_LOG`, every line received is appended to that file as it came, and what was not
//! expected (a complaint) as a line that starts with `!!`.
//!
//! As the real one, it ends with exit code 0 on the end of input, on SIGTERM and on a line that is not UTF-8; drops
//! other malformed lines with a line on stderr; kills the commands it runs when it ends in order, and leaves them
//! running when it does not.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "the version goes there")]

mod behaviour;
mod exec;
mod input;
mod rpc;
mod server;
mod thread;
mod turn;
mod wire;

use std::process::ExitCode;
use std::time::Duration;

use codexd_tests::wait;
use nix::sys::resource::{Resource, setrlimit};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("--version") => {
            println!("codex-cli {}", version());
            ExitCode::SUCCESS
        }
        Some("app-server") => serve(),
        Some(exec::HOLD) => {
            let _ = nix::unistd::setsid();
            wait::pause(HOLD_TIME);
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("fake-codex: expected `app-server` or `--version`, got {arguments:?}");
            ExitCode::from(2)
        }
    }
}

fn serve() -> ExitCode {
    // Scripted crashes are no reason for core files.
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    let behaviour = match behaviour::Behaviour::from_environment() {
        Ok(behaviour) => behaviour,
        Err(reason) => {
            eprintln!("fake-codex: in FAKE_CODEX: {reason}");
            return ExitCode::from(2);
        }
    };
    let (sender, events) = std::sync::mpsc::channel();
    input::watch_signals(sender.clone());
    input::read_lines(sender.clone(), behaviour.never_read);
    server::Server::new(behaviour, sender).run(&events)
}

/// Returns the version that this is, for tests of another one: that of the variable `FAKE_CODEX_VERSION`.
fn version() -> String {
    std::env::var("FAKE_CODEX_VERSION").unwrap_or_else(|_| "0.0.0-fake".to_owned())
}

/// How long a detached grandchild lives when it is not ended: longer than any test.
const HOLD_TIME: Duration = Duration::from_secs(300);
