//! `codexd ctl`: one file for each verb.
//!
//! Data goes to stdout, everything else to stderr. With `--json`, stdout always gets one JSON document, even without a
//! daemon or an answer. Exit codes follow the status action of LSB: 0 yes, 1 no, 3 not running, 4 unknown.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use codexd_proto::listing::{RequestStatus, ThreadStatus, TurnStatus};
use codexd_proto::status::ClientStatus;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::{CtlArgs, ServeArgs, Verb};
use crate::control::client::{ControlConnection, Unreachable};
use crate::error::Error;
use crate::instance::lock;
use crate::instance::record::{self, Former};
use crate::settings::Settings;
use crate::settings::environment::Environment;
use crate::start;
use crate::terminal::{note, note_error};

mod all;
mod clients;
mod events;
mod get_socket;
mod history;
mod interrupt;
mod kill;
mod last_exit;
mod list;
mod lists;
mod logs;
mod monitor;
mod reload;
mod render;
mod requests;
mod status;
mod stop;
mod table;
mod threads;
mod top;
mod turns;
mod upgrade;
mod wait;
mod watch;

pub(crate) use all::{Found, find_all};
pub(crate) use render::duration;
pub(crate) use table::table;

/// Exit code: it runs, but not in the requested state.
pub(crate) const NOT_REACHED: u8 = 1;
/// Exit code: not running.
pub(crate) const NOT_RUNNING: u8 = 3;
/// Exit code: unknown whether it runs.
pub(crate) const CANNOT_TELL: u8 = 4;

/// Time for the daemon's answer to a request.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Time between checks of something that cannot be subscribed to.
const CHECK_EVERY: Duration = Duration::from_millis(20);

/// What every verb gets.
#[derive(Clone)]
struct Context {
    settings: Settings,
    environment: Environment,
    json: bool,
    /// Whether this is the instance of a `codexd ctl` without flags, whose other paths are known too.
    is_current: bool,
}

impl Context {
    /// Connects to the daemon.
    ///
    /// If no process listens, a daemon can still be running: at its very start or end, or without its socket file.
    /// The lock shows that.
    async fn connect(&self) -> Result<ControlConnection, Unreachable> {
        self.connect_patiently(ANSWER_WITHIN).await
    }

    /// As [`Context::connect`]. Each request has `patience` for its answer.
    async fn connect_patiently(&self, patience: Duration) -> Result<ControlConnection, Unreachable> {
        let path = &self.settings.paths.control_socket;
        match ControlConnection::open(path, ANSWER_WITHIN, patience).await {
            Err(Unreachable::NotRunning) => match record::former(&self.settings.paths) {
                Some(former) if !lock::is_free(&former.lock) => {
                    let hint = if former.control_socket == *path {
                        format!(
                            "it is starting or ending, or its socket was removed; `cat {}` tells its pid",
                            former.lock.display()
                        )
                    } else {
                        format!("codexd ctl --control-socket {} status", former.control_socket.display())
                    };
                    Err(Unreachable::CannotTell(nobody_listens(&former.lock, path).hint(hint)))
                }
                _ => Err(Unreachable::NotRunning),
            },
            other => other,
        }
    }

    /// Returns the context of another instance of the user.
    fn of(&self, former: &Former) -> Context {
        let mut context = self.clone();
        context.is_current &= former.control_socket == self.settings.paths.control_socket;
        context.settings.instance.clone_from(&former.instance);
        context.settings.paths.control_socket.clone_from(&former.control_socket);
        context.settings.paths.lock.clone_from(&former.lock);
        context.settings.paths.record =
            self.settings.paths.state_dir.join(format!("{}.json", former.instance));
        context
    }

    /// Reports that the daemon gave no answer, and why: as text, or as JSON with the members of `own`. Returns the exit
    /// code.
    ///
    /// # Errors
    ///
    /// If stdout cannot be written to.
    fn no_answer(&self, unreachable: &Unreachable, own: Value) -> Result<u8, Error> {
        if self.json {
            print_json(&with_reason(own, unreachable))?;
        } else {
            match unreachable {
                Unreachable::NotRunning => {
                    note("codexd is not running");
                    note(&format!("hint: `{}` starts it", self.how_to_start()));
                }
                Unreachable::CannotTell(error) => note_error(error),
            }
        }
        Ok(exit_code(unreachable))
    }

    /// Returns the command that starts the daemon.
    fn how_to_start(&self) -> String {
        start::how_to_start(&self.settings, &self.environment)
    }
}

/// Returns the beginning of the error for a daemon that runs and cannot be reached.
fn nobody_listens(lock: &std::path::Path, socket: &std::path::Path) -> Error {
    Error::os(format!("a process holds `{}` and nobody listens on `{}`", lock.display(), socket.display()))
}

/// Returns the exit code of a verb that got no answer.
fn exit_code(unreachable: &Unreachable) -> u8 {
    match unreachable {
        Unreachable::NotRunning => NOT_RUNNING,
        Unreachable::CannotTell(_) => CANNOT_TELL,
    }
}

/// Adds to `members` the state of a daemon that gave no answer and, unless it is just not running, the reason.
fn with_reason(mut members: Value, unreachable: &Unreachable) -> Value {
    match unreachable {
        Unreachable::NotRunning => members["state"] = json!("notRunning"),
        Unreachable::CannotTell(error) => {
            members["state"] = json!("unknown");
            members["error"] = json!(error.chain());
            members["hint"] = json!(error.next_step());
        }
    }
    members
}

/// Carries out a verb.
///
/// # Errors
///
/// If the settings cannot be read or the output cannot be written. What the daemon does or does not do is reported by
/// the exit code.
pub(crate) fn run(args: &CtlArgs, environment: &Environment) -> Result<ExitCode, Error> {
    let flags = ServeArgs { control_socket: args.common.control_socket.clone(), ..ServeArgs::default() };
    let settings = Settings::load(&flags, environment).or_else(|error| {
        // Verbs for a running daemon work even if its configuration file is broken now: that must not prevent a
        // stop, and a reload reports what is wrong.
        let settings = Settings::load_without_file(&flags, environment)?;
        if !matches!(args.verb, Verb::Reload) {
            note_error(&error);
        }
        Ok(settings)
    })?;
    let is_current = args.common.control_socket.is_none();
    let context = Context { settings, environment: environment.clone(), json: args.common.json, is_current };
    let runtime = runtime()?;
    let code = runtime.block_on(async {
        match &args.verb {
            Verb::Status(args) => status::run(&context, args).await,
            Verb::List(args) => list::run(&context, args).await,
            Verb::Wait(args) => wait::run(&context, args).await,
            Verb::History(args) => history::run(&context, args),
            Verb::Clients(args) => lists::run::<ClientStatus>(&context, args).await,
            Verb::Threads(args) => lists::run::<ThreadStatus>(&context, args).await,
            Verb::Turns(args) => lists::run::<TurnStatus>(&context, args).await,
            Verb::Requests(args) => lists::run::<RequestStatus>(&context, args).await,
            Verb::Interrupt(args) => interrupt::run(&context, args).await,
            Verb::Kill(args) => kill::run(&context, args).await,
            Verb::Events => events::run(&context).await,
            Verb::Monitor(args) => monitor::run(&context, args).await,
            Verb::Top(args) => top::run(&context, args).await,
            Verb::Logs(args) => logs::run(&context, args).await,
            Verb::Drain => stop::drain(&context).await,
            Verb::Upgrade(args) => upgrade::run(&context, args).await,
            Verb::LastExit => last_exit::run(&context).await,
            Verb::Stop(args) => stop::run(&context, args).await,
            Verb::Reload => reload::run(&context).await,
            Verb::LogLevel(args) => reload::log_level(&context, args).await,
            Verb::GetSocket => get_socket::run(&context).await,
        }
    })?;
    Ok(ExitCode::from(code))
}

fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| Error::os("cannot start a runtime").because(error))
}

/// Writes text to stdout. That its reader has gone is not an error.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::os("cannot write to stdout").because(error))
        }
        _ => Ok(()),
    }
}

/// Writes one JSON document to stdout.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Error> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| {
        Error::new(codexd_proto::exit::ExitCode::Software, "cannot write JSON").because(error)
    })?;
    text.push('\n');
    print(&text)
}
