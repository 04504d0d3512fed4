//! `codexd ctl`: one file for each verb.
//!
//! Data goes to stdout, everything else to stderr. Exit codes follow those of an LSB status action: 0 yes,
//! 1 no, 3 not running, 4 cannot tell.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use crate::cli::{CtlArgs, ServeArgs, Verb};
use crate::control::client::{Connection, Unreachable};
use crate::error::Error;
use crate::instance::lock;
use crate::instance::record;
use crate::settings::Settings;
use crate::settings::environment::Environment;
use crate::terminal::note_error;

mod get_socket;
mod reload;
mod render;
mod status;
mod stop;
mod wait;

/// Exit code: running, and not as asked for.
pub(crate) const NOT_REACHED: u8 = 1;
/// Exit code: not running.
pub(crate) const NOT_RUNNING: u8 = 3;
/// Exit code: neither can be said.
pub(crate) const CANNOT_TELL: u8 = 4;

/// How long the daemon may take to answer a question.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Time between looks at something that tells nobody when it changes.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What every verb knows.
struct Context {
    settings: Settings,
    json: bool,
}

impl Context {
    /// Connects to the daemon.
    ///
    /// Nobody listening is not yet nobody running: the daemon may be at its very start or end, or its
    /// socket may have been removed. The lock tells.
    async fn connect(&self) -> Result<Connection, Unreachable> {
        let path = &self.settings.paths.control_socket;
        match Connection::open(path, ANSWER_WITHIN, ANSWER_WITHIN).await {
            Err(Unreachable::NotRunning) => match record::former(&self.settings.paths) {
                Some(former) if !lock::is_free(&former.lock) => Err(Unreachable::CannotTell(
                    Error::os(format!(
                        "a process holds `{}` and nobody listens on `{}`",
                        former.lock.display(),
                        path.display()
                    ))
                    .hint(if former.control_socket == *path {
                        format!(
                            "it is starting or ending, or its socket was removed; `cat {}` tells its pid",
                            former.lock.display()
                        )
                    } else {
                        format!("codexd ctl --control-socket {} status", former.control_socket.display())
                    }),
                )),
                _ => Err(Unreachable::NotRunning),
            },
            other => other,
        }
    }
}

/// Carries out a verb.
///
/// # Errors
///
/// When the settings cannot be read or the output cannot be written; what the daemon does or does not do
/// is told by the exit code.
pub(crate) fn run(args: &CtlArgs, environment: &Environment) -> Result<ExitCode, Error> {
    let flags = ServeArgs { control_socket: args.common.control_socket.clone(), ..ServeArgs::default() };
    let settings = Settings::load(&flags, environment).or_else(|error| {
        // A daemon that runs can be asked and told all the same: that its file was broken since is no
        // reason not to stop it.
        note_error(&error);
        Settings::load_without_file(&flags, environment)
    })?;
    let context = Context { settings, json: args.common.json };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| Error::os("cannot start a runtime").because(error))?;
    let code = runtime.block_on(async {
        match &args.verb {
            Verb::Status(args) => status::run(&context, args).await,
            Verb::Wait(args) => wait::run(&context, args).await,
            Verb::Stop(args) => stop::run(&context, args).await,
            Verb::Reload => reload::run(&context).await,
            Verb::LogLevel(args) => reload::log_level(&context, args).await,
            Verb::GetSocket => get_socket::run(&context).await,
        }
    })?;
    Ok(ExitCode::from(code))
}

/// Writes text to stdout; a reader that has gone away is no error.
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
fn print_json(value: &impl Serialize) -> Result<(), Error> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| {
        Error::new(codexd_proto::exit::ExitCode::Software, "cannot write JSON").because(error)
    })?;
    text.push('\n');
    print(&text)
}
