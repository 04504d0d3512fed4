//! `codexd connect` and `codexd app-server`: standard input and output, and the daemon's socket between
//! them.
//!
//! # Theory of operation
//!
//! The bridge connects before it reads anything from the client ([`dial`]), so that this process can still become
//! codex itself if no daemon is available ([`direct`]). Then bytes are passed through ([`bridge`]), whole lines at a
//! time, untouched but for the client's directory (`proto/src/bridge/cwd.rs`). The bridge keeps the handshake and whatever
//! is open, so that it can go on with the next daemon when one is gone (`proto/src/bridge/mod.rs`).

mod bridge;
mod compare;
pub(crate) mod dial;
mod dialing;
mod direct;
mod lines;
mod output;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use codexd_proto::codex_args::CodexArgs;
use codexd_proto::codex_args::sharing::{self, Wanted};
use codexd_proto::exit::ExitCode as Code;
use codexd_proto::router::OrphanedTurns;

use crate::cli::{ConnectArgs, ServeArgs};
use crate::error::Error;
use crate::os::file_name::with_suffix;
use crate::os::service_manager::STRIPPED_ENV;
use crate::os::unix_time::unix_ms;
use crate::serve::upstream::nested;
use crate::settings::Settings;
use crate::settings::duration::TimeLimit;
use crate::settings::environment::Environment;
use crate::start::Target;
use crate::terminal::{note, note_error};

use bridge::{Bridge, Policy};
use dial::Wait;

/// How long a daemon is waited for: longer than one may drain and stop by default.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Bridges in place of `codex app-server` with these arguments. Unless a flag says otherwise, a turn that the client
/// leaves as its last subscriber is interrupted, as it ends with a codex of the client's own.
///
/// # Errors
///
/// Those of [`run`].
pub(crate) fn app_server(
    args: &ConnectArgs,
    arguments: &[String],
    environment: &Environment,
) -> Result<ExitCode, Error> {
    let orphaned_turns = args.orphaned_turns.or(Some(OrphanedTurns::Interrupt));
    run(&ConnectArgs { orphaned_turns, ..args.clone() }, arguments, environment)
}

/// Bridges until one side ends; `arguments` are those of `codex app-server`.
///
/// Returns 0 when the client ended it, 1 when a daemon was lost and no other one could be had in time.
///
/// # Errors
///
/// With exit code 69 when no daemon is available and codex cannot be run instead or must not, and when codexd has
/// started this process as codex.
pub(crate) fn run(
    args: &ConnectArgs,
    arguments: &[String],
    environment: &Environment,
) -> Result<ExitCode, Error> {
    nested::refuse(environment)?;
    let arguments = CodexArgs::new(arguments.to_vec());
    // Who wants nothing to be started does not want codex to be started either.
    let may_run_codex = !(args.no_direct || args.no_spawn);
    // The client can be part of a service: that service's variables do not apply to codexd.
    let environment = &environment.clone().without(STRIPPED_ENV);
    let shared =
        Settings::load(&ServeArgs { socket: args.socket.clone(), ..ServeArgs::default() }, environment)?;
    let own = match sharing::read(&arguments) {
        Wanted::Shared => CodexArgs::default(),
        Wanted::Separate(own) => own,
        Wanted::Codex(what) => {
            let why =
                Error::new(Code::Unavailable, format!("{what} is for codex itself and not for a daemon"));
            if !may_run_codex {
                return Err(why);
            }
            let command = direct::prepare(&shared, &arguments, environment)?;
            note(&format!("codexd: {}; running codex directly", why.chain()));
            return Err(direct::exec(command));
        }
    };
    let settings = if own.is_empty() { shared } else { separate(shared, &own, environment)? };
    let codex_args = settings.codex_args.with(&own);
    let target = Target {
        settings: &settings,
        environment,
        codex_args: &codex_args,
        may_spawn: !args.no_spawn,
        codexd: None,
    };
    let patience = args.patience.and_then(TimeLimit::as_duration).unwrap_or(PATIENCE);
    let wait = Wait {
        until: Instant::now() + PATIENCE,
        since_unix_ms: unix_ms(),
        client_gone: &bridge::client_gone,
    };
    match dial::obtain(&target, &wait) {
        Ok(stream) => {
            if io::stdin().is_terminal() {
                note(&format!(
                    "codexd: connected to the daemon at `{}`; type JSON-RPC, one message a line and `initialize` \
                     first, or Ctrl-D to end",
                    settings.paths.socket.display()
                ));
            }
            let policy = Policy { may_run_codex, orphaned_turns: args.orphaned_turns, patience };
            Ok(ExitCode::from(Bridge::new(&target, stream, policy, wait.since_unix_ms).run()))
        }
        Err(error) if !may_run_codex => Err(unavailable(&error)),
        Err(error) => match direct::prepare(&settings, &codex_args, environment) {
            Ok(command) => {
                note_error(&error);
                note(direct::NOTICE);
                Err(direct::exec(command))
            }
            Err(neither) => Err(unavailable(&direct::neither(error, neither))),
        },
    }
}

/// Returns the error with the exit code of "nothing to connect to", whatever ended the daemon.
pub(crate) fn unavailable(error: &Error) -> Error {
    let unavailable = Error::new(Code::Unavailable, error.chain());
    match error.next_step() {
        Some(hint) => unavailable.hint(hint),
        None => unavailable,
    }
}

/// Returns whether a daemon can serve a client with these arguments of `codex app-server`, at least one of its own.
pub(crate) fn is_for_daemon(arguments: &[String]) -> bool {
    !matches!(sharing::read(&CodexArgs::new(arguments.to_vec())), Wanted::Codex(_))
}

/// Returns the settings of the daemon for clients with these arguments: the names of the shared one, with
/// a suffix.
fn separate(shared: Settings, own: &CodexArgs, environment: &Environment) -> Result<Settings, Error> {
    let suffix = sharing::suffix(own);
    let instance = format!("{}{suffix}", shared.instance);
    let named = |path: &std::path::Path, default: bool| (!default).then(|| with_suffix(path, &suffix));
    let args = ServeArgs {
        socket: named(&shared.paths.socket, shared.paths.socket_is_default()),
        control_socket: named(&shared.paths.control_socket, shared.paths.control_socket_is_default()),
        instance: Some(instance),
        ..ServeArgs::default()
    };
    let settings = Settings::load(&args, environment)?;
    note(&format!(
        "codexd: `{own}` cannot be shared with other clients; using the separate instance `{}`",
        settings.instance
    ));
    Ok(settings)
}
