//! The next daemon in place of one that lost codex: for clients that connect again by themselves, and start nothing.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use codexd_proto::exit::ExitCode;

use super::{Attempt, Target, attempt};
use crate::cli::ServeArgs;
use crate::error::Error;
use crate::os::signals;
use crate::os::unix_time::unix_ms;
use crate::settings::Settings;
use crate::settings::environment::Environment;
use crate::terminal::{note, note_error};

/// How long another process that starts a daemon, or ends, is waited for.
const OTHERS_WITHIN: Duration = Duration::from_secs(45);
/// Time between looks at what others do.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Starts in a row that are tried: more than the start back-off allows. They bound what is tried where no record can be
/// kept.
const ATTEMPTS: u32 = 5;

/// Starts the daemon that follows this one, as a client would that finds none, and waits until it serves; says on stderr,
/// which is the log, what becomes of it.
///
/// To be called when this daemon has let go of its locks and sockets and its record says how it ended. `args` are those
/// of this daemon, with its arguments for codex. SIGTERM and SIGINT end the wait, and with it this process, with the exit
/// code that it has anyway.
pub(crate) fn succeed(args: &ServeArgs, environment: &Environment) {
    signals::exit_on_stop(ExitCode::UpstreamLost);
    match start(args, environment) {
        Ok(()) => note("codexd: the next daemon serves its clients"),
        Err(error) => {
            note_error(&error);
            note(
                "codexd: clients were connected, and no daemon is started for them before the next client starts one",
            );
        }
    }
}

fn start(args: &ServeArgs, environment: &Environment) -> Result<(), Error> {
    // What the configuration says is passed on by its path: so these are the settings without the flag for codex.
    let plain = ServeArgs { codex_arg: Vec::new(), ..args.clone() };
    let settings = Settings::load(&plain, environment)?;
    let codex_args = Settings::load(args, environment)?.codex_args;
    let target = Target { settings: &settings, environment, codex_args: &codex_args, may_spawn: true };
    let listening = || UnixStream::connect(&settings.paths.socket).is_ok();
    let until = Instant::now() + OTHERS_WITHIN;
    let mut failures = 0;
    let mut since_unix_ms = unix_ms();
    loop {
        match attempt(&target, since_unix_ms, listening) {
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
