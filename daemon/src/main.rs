//! `codexd`: lets any number of clients use one `codex app-server`.
//!
//! The shell around the decisions of `codexd-proto`: sockets, processes, signals and text on a terminal.

use std::ffi::OsString;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use clap::error::ErrorKind;

use crate::cli::{Command, ServeArgs};
use crate::commands::{
    check_config, completions, connect, ctl, doctor, install, jobs, man, run as run_turn, shim, trial,
};
use crate::error::Error;
use crate::instance::failed_start::Attempt;
use crate::os::open_files::OpenFiles;
use crate::os::signals::{self, Terminal};
use crate::os::{journal, service_manager};
use crate::serve::activation;
use crate::settings::Settings;
use crate::settings::environment::Environment;
use crate::settings::reloader::Reloader;
use crate::start::StartupNotifier;
use crate::terminal::{note, note_error, note_failure, note_hint, report_panics};

mod cli;
mod commands;
mod control;
mod error;
mod instance;
mod ledger;
mod logging;
mod os;
mod serve;
mod settings;
mod start;
mod terminal;
mod turn;

use codexd_proto::exit::ExitCode as ServeExit;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if shim::is_called(&arguments) {
        let run = || shim::run(&arguments, &Environment::of_process()).unwrap_or_else(|error| failed(&error));
        return std::panic::catch_unwind(run).unwrap_or(ExitCode::from(ServeExit::Software.number()));
    }
    // The process that started this one may have blocked signals, and a mask is inherited through exec (`signal(7)`):
    // SIGTERM would end neither this process nor codex.
    signals::hold();
    // A panic in the main thread would exit 101, a code without a meaning for supervisors.
    std::panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or(ExitCode::from(ServeExit::Software.number()))
}

fn run() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return misread(&error),
    };
    let environment = Environment::of_process();
    let serves = matches!(&cli.command, Command::Serve(args) if !args.check_config && !args.trial);
    if !serves {
        signals::release();
    }
    match cli.command {
        Command::Serve(args) if args.check_config => finish(check_config::run(&args, &environment)),
        Command::Serve(args) if args.trial => finish(trial::run(&args, &environment)),
        Command::Completions(args) => finish(completions::run(args)),
        Command::Man(args) => finish(man::run(&args)),
        Command::Serve(args) => serve(&args, &environment),
        Command::Install(args) => finish(install::install(&args, &environment)),
        Command::Uninstall(args) => finish(install::uninstall(&args, &environment)),
        Command::Doctor(args) => doctor::run(&args, &environment)
            .unwrap_or_else(|error| failed_as(&error, error.exit_code().number(), args.json)),
        Command::Connect(args) => {
            connect::run(&args, &[], &environment).unwrap_or_else(|error| failed(&error))
        }
        Command::AppServer(args) => connect::app_server(&args.connect, &args.arguments, &environment)
            .unwrap_or_else(|error| failed(&error)),
        Command::Run(args) => run_turn::run(&args, &environment).unwrap_or_else(|error| failed(&error)),
        Command::Jobs(args) => jobs::run(&args, &environment)
            .unwrap_or_else(|error| failed_as(&error, error.exit_code().number(), args.common.json)),
        Command::Ctl(args) => ctl::run(&args, &environment).unwrap_or_else(|error| {
            // The codes of `ctl` are those of an LSB status: what is no answer is "cannot tell".
            let code = if error.is_usage() { ServeExit::Usage.number() } else { ctl::CANNOT_TELL };
            failed_as(&error, code, args.common.json)
        }),
    }
}

/// Says what is wrong with the command line, or what it asked for instead of a command.
fn misread(error: &clap::Error) -> ExitCode {
    signals::release();
    if !error.use_stderr() {
        // Help or the version. If the terminal is gone, the error has no reader.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.render().to_string();
    let serves = std::env::args_os().nth(1).is_some_and(|verb| verb == "serve");
    if serves && !std::env::args_os().any(|argument| argument == "--check-config") {
        let _ = error.print();
        let error = Error::usage(text.trim_end());
        // The flags cannot be read, but perhaps the instance they name.
        let args = ServeArgs { instance: cli::instance_in(std::env::args_os()), ..ServeArgs::default() };
        Attempt::new(&args, &Environment::of_process()).failed(&error);
        note_end(ServeExit::Usage, false, "the command line is wrong");
        journal::wait_until_stderr_is_read();
        refuse_waiting(&error);
        return ExitCode::from(ServeExit::Usage.number());
    }
    if cli::wants_json(std::env::args_os()) {
        // The first paragraph says what is wrong; what to type instead follows where it is known.
        let what = match error.kind() {
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "no command is named",
            _ => text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ").trim(),
        };
        let tip = text.lines().find_map(|line| line.trim().strip_prefix("tip: "));
        let usage = Error::usage(what.lines().map(str::trim).collect::<Vec<_>>().join(" "));
        let hint = tip.map_or_else(|| "try `--help`".to_owned(), str::to_owned);
        return failed_as(&usage.hint(hint), ServeExit::Usage.number(), true);
    }
    let _ = error.print();
    ExitCode::from(ServeExit::Usage.number())
}

fn serve(args: &ServeArgs, environment: &Environment) -> ExitCode {
    report_panics();
    let mut permanent_exit_zero = args.permanent_exit_zero;
    if args.auto_spawned {
        start::detach();
    }
    let terminal = Terminal::look();
    let start = StartupNotifier::new(args.auto_spawned);
    let attempt = Attempt::new(args, environment);
    let mut waiting = None;
    let mut successor = None;
    let result = activation::take().and_then(|inherited| {
        waiting = inherited.as_ref().and_then(activation::Inherited::keep);
        let args = &start::with_given_arguments(args)?;
        let settings = Settings::load(args, environment)?;
        permanent_exit_zero = settings.permanent_exit_zero;
        let files = OpenFiles::raise();
        files.make_room(settings.limits.max_clients);
        let process = serve::OwnProcess { terminal, files };
        let file = settings.auto_spawned.then(|| settings.paths.log_file());
        let (log, _flush) = logging::start(&settings.log, settings.log_format, file.as_deref())?;
        let reloader = Reloader::new(args, environment, &settings, log);
        let mut ended = serve::run(&settings, environment, inherited, reloader, &start, process, &attempt)?;
        successor = ended.successor.take().map(|successor| (args.clone(), successor));
        Ok(ended)
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
            // What `systemctl status` shows, and the startup status for a client that asked for the start.
            service_manager::status(&format!("cannot start: {}", error.chain()));
            start.failed(error.exit_code(), &error.chain(), error.next_step());
            (error.exit_code(), activation::Failure::of(&error))
        }
    };
    journal::wait_until_stderr_is_read();
    // Where the start failed before anybody handled signals, they still wait.
    signals::release();
    if let Some(waiting) = waiting.filter(|_| code.is_permanent()) {
        waiting.refuse(&failure);
    }
    if let Some((args, successor)) = successor {
        start::succeed(&args, environment, successor);
    }
    if permanent_exit_zero && code.is_permanent() {
        return ExitCode::SUCCESS;
    }
    ExitCode::from(code.number())
}

/// Logs the daemon's exit code and its reason, as its last line.
fn note_end(code: ServeExit, permanent_exit_zero: bool, because: &str) {
    let (number, word) = (code.number(), code.word());
    let instead = if permanent_exit_zero && code.is_permanent() { "0 instead of " } else { "" };
    let text = format!("codexd: exits with {instead}{number} ({word}), because {because}");
    if matches!(code, ServeExit::Stopped | ServeExit::Upgrade) { note(&text) } else { note_failure(&text) }
}

fn finish(result: Result<ServeExit, Error>) -> ExitCode {
    result.map_or_else(|error| failed(&error), |code| ExitCode::from(code.number()))
}

/// Prints the error and returns its exit code.
fn failed(error: &Error) -> ExitCode {
    failed_as(error, error.exit_code().number(), false)
}

/// Prints the error, as text on stderr or as a JSON document on stdout, and returns `code`.
fn failed_as(error: &Error, code: u8, json: bool) -> ExitCode {
    let document = serde_json::json!({ "error": error.chain(), "hint": error.next_step(), "exitCode": code });
    // If stdout itself fails, the error goes to stderr.
    if !json || ctl::print_json(&document).is_err() {
        note_error(error);
    }
    ExitCode::from(code)
}

/// Sends the reason to clients that wait on an inherited socket when the daemon cannot begin to start.
fn refuse_waiting(error: &Error) {
    if let Ok(Some(inherited)) = activation::take()
        && let Some(waiting) = inherited.keep()
    {
        waiting.refuse(&activation::Failure::of(error));
    }
}
