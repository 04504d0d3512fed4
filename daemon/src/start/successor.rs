//! The next daemon in place of one that lost codex, for clients that connect again by themselves and start nothing; and in
//! place of one that is upgraded.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use codexd_proto::exit::ExitCode;

use super::lock::StartLock;
use super::{Attempt, Target, attempt, attempt_locked};
use crate::cli::ServeArgs;
use crate::error::Error;
use crate::os::signals;
use crate::os::unix_time::unix_ms;
use crate::settings::Settings;
use crate::settings::environment::Environment;
use crate::settings::paths::Paths;
use crate::terminal::{note, note_error};

/// How long another process that starts a daemon, or ends, is waited for.
const OTHERS_WITHIN: Duration = Duration::from_secs(45);
/// Time between looks at what others do.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Starts in a row that are tried: more than the start back-off allows. They bound what is tried where no record can be
/// kept.
const ATTEMPTS: u32 = 5;

/// Time for a client that holds the start lock to look at what runs.
const RESERVED_WITHIN: Duration = Duration::from_secs(1);

/// The daemon that follows this one, and why it does.
#[derive(Debug)]
pub(crate) enum Successor {
    /// Codex was lost.
    AfterLoss,
    /// This one is upgraded. The program of the next one, and the start lock if it could be had.
    AfterUpgrade(Option<PathBuf>, Option<Reserved>),
}

/// The start lock of a daemon that is upgraded: until its successor serves, no client starts a daemon.
#[derive(Debug)]
pub(crate) struct Reserved(StartLock);

/// Takes the start lock; to be called while this daemon still holds the instance. Returns `None` if it cannot be had: then
/// a client can be the first to start the next daemon.
pub(crate) fn reserve(paths: &Paths) -> Option<Reserved> {
    let until = Instant::now() + RESERVED_WITHIN;
    loop {
        match StartLock::try_acquire(&paths.start_lock()) {
            Ok(Some(lock)) => return Some(Reserved(lock)),
            Ok(None) if Instant::now() < until => std::thread::park_timeout(LOOK_EVERY),
            Ok(None) => return None,
            Err(error) => {
                tracing::warn!(error = error.chain(), "cannot take the start lock");
                return None;
            }
        }
    }
}

/// Starts the daemon that follows this one, as a client would that finds none, and waits until it serves; says on stderr,
/// which is the log, what becomes of it.
///
/// To be called when this daemon has let go of its locks and sockets and its record says how it ended. `args` are those
/// of this daemon, with its arguments for codex. SIGTERM and SIGINT end the wait, and with it this process, with the exit
/// code that it has anyway.
pub(crate) fn succeed(args: &ServeArgs, environment: &Environment, successor: Successor) {
    let code = match successor {
        Successor::AfterLoss => ExitCode::UpstreamLost,
        Successor::AfterUpgrade(..) => ExitCode::Upgrade,
    };
    signals::exit_on_stop(code);
    match start(args, environment, successor) {
        Ok(()) => note("codexd: the next daemon serves its clients"),
        Err(error) => {
            note_error(&error);
            note("codexd: the next daemon is not started before the next client starts one");
        }
    }
}

fn start(args: &ServeArgs, environment: &Environment, successor: Successor) -> Result<(), Error> {
    let (program, mut reserved) = match successor {
        Successor::AfterLoss => (None, None),
        Successor::AfterUpgrade(program, reserved) => (program, reserved),
    };
    // What the configuration says is passed on by its path: so these are the settings without the flag for codex.
    let plain = ServeArgs { codex_arg: Vec::new(), ..args.clone() };
    let settings = Settings::load(&plain, environment)?;
    let codex_args = Settings::load(args, environment)?.codex_args;
    let target = Target {
        settings: &settings,
        environment,
        codex_args: &codex_args,
        may_spawn: true,
        codexd: program.as_deref(),
    };
    let listening = || UnixStream::connect(&settings.paths.socket).is_ok();
    let until = Instant::now() + OTHERS_WITHIN;
    let mut failures = 0;
    let mut since_unix_ms = unix_ms();
    loop {
        let attempted = match reserved.take() {
            Some(Reserved(lock)) => attempt_locked(&target, lock, since_unix_ms, listening),
            None => attempt(&target, since_unix_ms, listening),
        };
        match attempted {
            Ok(Attempt::Started) => return Ok(()),
            Ok(Attempt::Wait) if listening() => return Ok(()),
            Ok(Attempt::Wait) if Instant::now() >= until => {
                return Err(Error::new(
                    ExitCode::Unavailable,
                    "another process starts or ends a daemon, and is not done",
                ));
            }
            Ok(Attempt::Wait) => std::thread::park_timeout(LOOK_EVERY),
            // Codex was lost again before anybody was served: the back-off decides how often that is tried.
            Err(error) if error.exit_code() == ExitCode::UpstreamLost && failures < ATTEMPTS => {
                failures += 1;
                note_error(&error);
                since_unix_ms = unix_ms() + 1;
            }
            Err(error) => return Err(error),
        }
    }
}
