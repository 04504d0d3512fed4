//! `codexd`: lets any number of clients use one `codex app-server`.
//!
//! The shell around the decisions of `codexd-proto`: sockets, processes, signals and words on a terminal.

use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command, ServeArgs};
use crate::config::Settings;
use crate::environment::Environment;
use crate::error::Error;
use crate::start::Report;

mod cli;
mod config;
mod config_file;
mod connect;
mod control;
mod ctl;
mod duration;
mod environment;
mod error;
mod fingerprint;
mod hub;
mod listener;
mod lock;
mod log_filter;
mod notify;
mod paths;
mod peer;
mod private_dir;
mod record;
mod serve;
mod signals;
mod start;
mod sys;
mod telemetry;
mod upstream;

use codexd_proto::exit::ExitCode as ServeExit;

fn main() -> ExitCode {
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
            return ExitCode::from(if wrong { ServeExit::Usage.number() } else { 0 });
        }
    };
    let environment = Environment::of_process();
    match cli.command {
        Command::Serve(args) => serve(&args, &environment),
        Command::Connect(args) => connect::run(&args, &[], &environment).unwrap_or_else(failed),
        Command::AppServer(args) => {
            connect::run(&args.connect, &args.arguments, &environment).unwrap_or_else(failed)
        }
        Command::Ctl(args) => ctl::run(&args, &environment).unwrap_or_else(|error| {
            report(&error);
            // The codes of `ctl` are those of an LSB status: what is no answer is "cannot tell".
            ExitCode::from(if error.is_usage() { ServeExit::Usage.number() } else { ctl::CANNOT_TELL })
        }),
    }
}

/// Tells what went wrong and returns its exit code.
fn failed(error: Error) -> ExitCode {
    report(&error);
    ExitCode::from(error.exit_code().number())
}

fn serve(args: &ServeArgs, environment: &Environment) -> ExitCode {
    let mut permanent_exit_zero = args.permanent_exit_zero;
    if args.auto_spawned {
        start::detach();
    }
    let start = Report::new(args.auto_spawned);
    let result = Settings::load(args, environment).and_then(|settings| {
        permanent_exit_zero = settings.permanent_exit_zero;
        let _log = telemetry::start(&settings.log, environment)?;
        serve::run(&settings, environment, &start)
    });
    let code = result.unwrap_or_else(|error| {
        report(&error);
        start.failed(error.exit_code(), &error.chain(), error.next_step());
        error.exit_code()
    });
    if permanent_exit_zero && code.is_permanent() {
        return ExitCode::SUCCESS;
    }
    ExitCode::from(code.number())
}

/// Tells the person at the terminal what went wrong and what to do next.
fn report(error: &Error) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "codexd: {}", error.chain());
    if let Some(hint) = error.next_step() {
        let _ = writeln!(stderr, "hint: {hint}");
    }
}
