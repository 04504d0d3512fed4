//! `codexd`: lets any number of clients use one `codex app-server`.
//!
//! The shell around the decisions of `codexd-proto`: sockets, processes, signals and words on a terminal.

use std::ffi::OsString;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command, ServeArgs};
use crate::commands::{connect, ctl, doctor, install, shim};
use crate::error::Error;
use crate::instance::failed_start::Attempt;
use crate::os::signals::{self, Terminal};
use crate::os::{journal, service_manager};
use crate::serve::activation;
use crate::settings::Settings;
use crate::settings::environment::Environment;
use crate::settings::reload::Reloader;
use crate::start::Report;
use crate::terminal::{note, note_error, note_failure, note_hint, report_panics};

mod cli;
mod commands;
mod control;
mod error;
mod instance;
mod logging;
mod os;
mod serve;
mod settings;
mod start;
mod terminal;

use codexd_proto::exit::ExitCode as ServeExit;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if shim::is_called(&arguments) {
        let run = || shim::run(&arguments, &Environment::of_process()).unwrap_or_else(|error| failed(&error));
        return std::panic::catch_unwind(run).unwrap_or(ExitCode::from(ServeExit::Software.number()));
    }
    // Whoever started this process may have blocked signals for itself, and a mask is inherited through exec
    // (`signal(7)`): SIGTERM would end neither this process nor codex.
    signals::hold();
    // A panic in the main thread would exit 101, which says nothing to a supervisor.
    std::panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or(ExitCode::from(ServeExit::Software.number()))
}

fn run() -> ExitCode {
    let cli = match Cli::try_parse_from(cli::hoist(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody to tell if the terminal is gone.
            let _ = error.print();
            let wrong = error.use_stderr();
            signals::release();
            if wrong && std::env::args_os().nth(1).is_some_and(|verb| verb == "serve") {
                let error = Error::usage(error.render().to_string().trim_end());
                // The flags cannot be read, but perhaps the instance they name.
                let args =
                    ServeArgs { instance: cli::instance_in(std::env::args_os()), ..ServeArgs::default() };
                Attempt::new(&args, &Environment::of_process()).failed(&error);
                note_end(ServeExit::Usage, false, "the command line is wrong");
                journal::wait_until_read();
                refuse_waiting(&error);
            }
            return ExitCode::from(if wrong { ServeExit::Usage.number() } else { 0 });
        }
    };
    let environment = Environment::of_process();
    if !matches!(cli.command, Command::Serve(_)) {
        signals::release();
    }
    match cli.command {
        Command::Serve(args) => serve(&args, &environment),
        Command::Install(args) => finish(install::install(&args, &environment)),
        Command::Uninstall(args) => finish(install::uninstall(&args, &environment)),
        Command::Doctor(args) => doctor::run(&args, &environment).unwrap_or_else(|error| failed(&error)),
        Command::Connect(args) => {
            connect::run(&args, &[], &environment).unwrap_or_else(|error| failed(&error))
        }
        Command::AppServer(args) => {
            connect::run(&args.connect, &args.arguments, &environment).unwrap_or_else(|error| failed(&error))
        }
        Command::Ctl(args) => ctl::run(&args, &environment).unwrap_or_else(|error| {
            note_error(&error);
            // The codes of `ctl` are those of an LSB status: what is no answer is "cannot tell".
            ExitCode::from(if error.is_usage() { ServeExit::Usage.number() } else { ctl::CANNOT_TELL })
        }),
    }
}

fn serve(args: &ServeArgs, environment: &Environment) -> ExitCode {
    report_panics();
    let mut permanent_exit_zero = args.permanent_exit_zero;
    if args.auto_spawned {
        start::detach();
    }
    let terminal = Terminal::look();
    let start = Report::new(args.auto_spawned);
    let attempt = Attempt::new(args, environment);
    let mut waiting = None;
    let result = activation::take().and_then(|inherited| {
        waiting = inherited.as_ref().and_then(activation::Inherited::keep);
        let settings = Settings::load(args, environment)?;
        permanent_exit_zero = settings.permanent_exit_zero;
        let file = settings.auto_spawned.then(|| settings.paths.log_file());
        let (log, _flush) = logging::start(&settings.log, file.as_deref())?;
        let reloader = Reloader::new(args, environment, &settings, log);
        serve::run(&settings, environment, inherited, reloader, &start, terminal, &attempt)
    });
    let (code, failure) = match result {
        Ok(ended) => {
            note_end(ended.code, permanent_exit_zero, &ended.reason);
            (ended.code, activation::Failure::of_end(ended.code, &ended.reason))
        }
        Err(error) => {
            note_end(error.exit_code(), permanent_exit_zero, &error.chain());
            note_hint(&error);
            attempt.failed(&error);
            // What `systemctl status` shows, and what a client that asked for the start is told.
            service_manager::status(&format!("cannot start: {}", error.chain()));
            start.failed(error.exit_code(), &error.chain(), error.next_step());
            (error.exit_code(), activation::Failure::of(&error))
        }
    };
    journal::wait_until_read();
    // Where the start failed before anybody handled signals, they still wait.
    signals::release();
    if let Some(waiting) = waiting.filter(|_| code.is_permanent()) {
        waiting.refuse(&failure);
    }
    if permanent_exit_zero && code.is_permanent() {
        return ExitCode::SUCCESS;
    }
    ExitCode::from(code.number())
}

/// Says, as the last word of a daemon, what it exits with and why.
fn note_end(code: ServeExit, permanent_exit_zero: bool, because: &str) {
    let (number, word) = (code.number(), code.word());
    let instead = if permanent_exit_zero && code.is_permanent() { "0 instead of " } else { "" };
    let text = format!("codexd: exits with {instead}{number} ({word}), because {because}");
    if code == ServeExit::Stopped { note(&text) } else { note_failure(&text) }
}

fn finish(result: Result<ServeExit, Error>) -> ExitCode {
    result.map_or_else(|error| failed(&error), |code| ExitCode::from(code.number()))
}

/// Tells what went wrong and returns its exit code.
fn failed(error: &Error) -> ExitCode {
    note_error(error);
    ExitCode::from(error.exit_code().number())
}

/// Tells clients that wait on an inherited socket why the daemon does not even begin to start.
fn refuse_waiting(error: &Error) {
    if let Ok(Some(inherited)) = activation::take()
        && let Some(waiting) = inherited.keep()
    {
        waiting.refuse(&activation::Failure::of(error));
    }
}
