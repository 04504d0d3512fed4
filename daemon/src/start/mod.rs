//! Starting a daemon on demand: the first client that finds none starts it.
//!
//! # Theory of operation
//!
//! Of all clients that find no daemon, one gets the start lock. It checks again, asks the service manager or spawns a
//! detached daemon, and waits for its startup status: `ready`, or the reason why it failed ([`StartupNotifier`]). The
//! others wait for the socket. A failure is written to the lock file, so that the clients that waited for this start
//! get the reason too, instead of trying the same again.
//!
//! A daemon that lost codex while clients were connected goes the same way to start the one that follows it
//! ([`succeed`]): a client that connects again by itself starts none. So does one that is upgraded, which takes the start
//! lock before it lets go of the instance ([`reserve`]): no client starts another program meanwhile.
//!
//! Only the instance lock decides whether a daemon runs. Only the holder of the start lock checks it, because the
//! check takes it for an instant.

mod back_off;
mod detached;
mod environment;
mod lock;
mod service;
mod startup_status;
mod successor;
pub(crate) mod unit;

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use codexd_proto::codex_args::CodexArgs;
use codexd_proto::exit::ExitCode;

use crate::cli::ServeArgs;
use crate::error::Error;
use crate::instance::lock as instance_lock;
use crate::instance::record;
use crate::os::file_name::with_suffix;
use crate::os::private_dir;
use crate::os::unix_time::unix_ms;
use crate::settings::Settings;
use crate::settings::environment::Environment;

pub(crate) use detached::{detach, own_program_text, with_given_arguments};
pub(crate) use startup_status::StartupNotifier;
pub(crate) use successor::{Successor, reserve, succeed};

use lock::StartLock;

/// The daemon that is wanted.
pub(crate) struct Target<'a> {
    /// Its settings, as far as the client knows them.
    pub(crate) settings: &'a Settings,
    /// The client's environment.
    pub(crate) environment: &'a Environment,
    /// Arguments after `codex app-server`: those of the settings and those of the client.
    pub(crate) codex_args: &'a CodexArgs,
    /// Whether one may be started.
    pub(crate) may_spawn: bool,
    /// The program of the daemon, where no service manager starts it; `None` for that of this process.
    pub(crate) codexd: Option<&'a Path>,
}

/// What became of an attempt to start.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// A daemon serves now.
    Started,
    /// Somebody else starts one, or one is on its way out: look again in a moment.
    Wait,
}

/// Starts the daemon unless another process does or one runs; `listening` returns whether a daemon listens by now.
/// Failures since `since_unix_ms` count as this attempt's own.
///
/// # Errors
///
/// When there is none and none can be started; the exit code and the text are those of the daemon.
pub(crate) fn attempt(
    target: &Target<'_>,
    since_unix_ms: u64,
    listening: impl Fn() -> bool,
) -> Result<Attempt, Error> {
    let paths = &target.settings.paths;
    let taken = |path: &PathBuf| !instance_lock::is_free(path);
    if !target.may_spawn {
        if taken(&paths.lock) {
            elsewhere(target.settings)?;
        } else {
            return Err(no_daemon(target));
        }
        return Ok(Attempt::Wait);
    }
    private_dir::ensure_own(&paths.runtime_dir)?;
    match StartLock::try_acquire(&paths.start_lock())? {
        Some(lock) => attempt_locked(target, lock, since_unix_ms, listening),
        None => Ok(Attempt::Wait),
    }
}

/// As [`attempt`], with the start lock held.
fn attempt_locked(
    target: &Target<'_>,
    mut lock: StartLock,
    since_unix_ms: u64,
    listening: impl Fn() -> bool,
) -> Result<Attempt, Error> {
    let paths = &target.settings.paths;
    let taken = |path: &PathBuf| !instance_lock::is_free(path);
    if listening() {
        return Ok(Attempt::Started);
    }
    if let Some(failure) = lock.failure_since(since_unix_ms) {
        return Err(failure);
    }
    if taken(&paths.lock) {
        elsewhere(target.settings)?;
        return Ok(Attempt::Wait);
    }
    if paths.socket_lock.as_ref().is_some_and(taken) {
        return Ok(Attempt::Wait);
    }
    back_off::check(&paths.record, || how_to_start(target.settings, target.environment))?;
    let started = match service::find(target.settings, target.codex_args, target.environment) {
        Some(service) => service.start(),
        None => detached::spawn(target),
    };
    match started {
        Ok(()) => {
            lock.clear();
            Ok(Attempt::Started)
        }
        // Somebody was faster who does not take the start lock: a supervisor.
        Err(error) if error.exit_code() == ExitCode::AlreadyRunning => Ok(Attempt::Wait),
        Err(error) => {
            lock.write_failure(&error);
            Err(error)
        }
    }
}

/// Whether no daemon is started for a while because earlier ones kept failing.
pub(crate) fn is_backing_off(target: &Target<'_>) -> bool {
    record::early_ends(&target.settings.paths.record).pause_left(unix_ms()).is_some()
}

/// Returns what to do to get a daemon with another environment, as text for `hint:`.
pub(crate) fn how_to_change_environment(target: &Target<'_>) -> String {
    match service::find(target.settings, target.codex_args, target.environment) {
        Some(service) => service.how_to_change_environment(),
        None => {
            format!("`{} stop` ends it, and the next client starts one with its environment", ctl(target))
        }
    }
}

/// Returns the command that starts the daemon of the settings: that of the service manager where a unit is installed
/// for it.
pub(crate) fn how_to_start(settings: &Settings, environment: &Environment) -> String {
    match service::find(settings, &settings.codex_args, environment) {
        Some(service) => service.start_command(),
        None => serve_command(settings, environment),
    }
}

/// Returns the command that ends the daemon, after which its next one is another codex or has other settings.
pub(crate) fn how_to_restart(settings: &Settings, environment: &Environment) -> String {
    match service::find(settings, &settings.codex_args, environment) {
        Some(service) => service.restart_command(),
        None => "codexd ctl stop (the next client starts it)".to_owned(),
    }
}

/// Whether a unit or an agent is installed for the daemon.
pub(crate) fn has_service(settings: &Settings, environment: &Environment) -> bool {
    service::find(settings, &settings.codex_args, environment).is_some()
}

/// Returns `codexd serve` with the flags without which it would be another daemon here.
fn serve_command(settings: &Settings, environment: &Environment) -> String {
    let mut command = "codexd serve".to_owned();
    let Ok(plain) = Settings::load_without_file(&ServeArgs::default(), environment) else { return command };
    let mut add = |flag: &str, value: &str| {
        command.push_str(&format!(" {flag} {value}"));
    };
    if settings.instance != plain.instance {
        add("--instance", &settings.instance);
    }
    let (own, plain) = (&settings.paths, &plain.paths);
    let socket_is_named = !own.socket_is_default() && own.socket != plain.socket;
    if socket_is_named {
        add("--socket", &own.socket.display().to_string());
    }
    let follows = socket_is_named && own.control_socket == with_suffix(&own.socket, ".ctl");
    if !own.control_socket_is_default() && own.control_socket != plain.control_socket && !follows {
        add("--control-socket", &own.control_socket.display().to_string());
    }
    command
}

/// Returns the command that leads to the wanted daemon: `codexd ctl`, with the control socket where it would not find
/// it by itself.
pub(crate) fn ctl(target: &Target<'_>) -> String {
    let socket = &target.settings.paths.control_socket;
    let found = Settings::load(&ServeArgs::default(), target.environment)
        .is_ok_and(|settings| settings.paths.control_socket == *socket);
    if found { "codexd ctl".to_owned() } else { format!("codexd ctl --control-socket {}", socket.display()) }
}

/// Refuses to connect where that would start a daemon although none may be started: to a socket that a service
/// manager keeps open for it.
///
/// # Errors
///
/// With exit code 69 when no daemon runs.
pub(crate) fn check_runs(target: &Target<'_>) -> Result<(), Error> {
    let paths = &target.settings.paths;
    // Of a socket that was named it is not known which control socket goes with it.
    if target.may_spawn || !paths.socket_is_default() || !paths.control_socket_is_default() {
        return Ok(());
    }
    match UnixStream::connect(&paths.control_socket).map_err(|error| error.kind()) {
        // One that is starting holds the lock before it listens.
        Err(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
            if instance_lock::is_free(&paths.lock) =>
        {
            Err(no_daemon(target))
        }
        _ => Ok(()),
    }
}

fn no_daemon(target: &Target<'_>) -> Error {
    let socket = target.settings.paths.socket.display();
    let error = Error::new(ExitCode::Unavailable, format!("no daemon listens on `{socket}`"));
    if *target.codex_args == target.settings.codex_args {
        let start = how_to_start(target.settings, target.environment);
        error.hint(format!("`{start}` starts one; without `--no-spawn`, the client does"))
    } else {
        // Its arguments can hold secrets and are not repeated here.
        error.hint("without `--no-spawn`, the client starts one with these arguments")
    }
}

/// Refuses to wait for a daemon that serves the instance on another socket than the one that was named.
fn elsewhere(settings: &Settings) -> Result<(), Error> {
    match record::control_socket_of_running(&settings.paths.record) {
        Some(other) if other != settings.paths.control_socket => Err(Error::new(
            ExitCode::Unavailable,
            format!(
                "the daemon of the instance `{}` does not listen on `{}`",
                settings.instance,
                settings.paths.socket.display()
            ),
        )
        .hint(format!(
            "`codexd ctl --control-socket {} get-socket` prints where it does; CODEXD_INSTANCE names another one",
            other.display()
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_starts_a_daemon_names_what_is_not_usual() {
        let environment = Environment::of([
            ("HOME", "/h"),
            ("XDG_RUNTIME_DIR", "/run/user/7"),
            ("CODEXD_INSTANCE", "mine"),
        ]);
        let command = |args: ServeArgs| {
            serve_command(&Settings::load_without_file(&args, &environment).unwrap(), &environment)
        };
        assert_eq!(command(ServeArgs::default()), "codexd serve");
        let other = ServeArgs { instance: Some("x".to_owned()), ..ServeArgs::default() };
        assert_eq!(command(other), "codexd serve --instance x");
        let socket = ServeArgs { socket: Some("/s".into()), ..ServeArgs::default() };
        assert_eq!(command(socket), "codexd serve --socket /s");
        let control = ServeArgs { control_socket: Some("/c".into()), ..ServeArgs::default() };
        assert_eq!(command(control), "codexd serve --control-socket /c");
    }
}
