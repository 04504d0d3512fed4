//! codex itself, where no daemon can be had.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use codexd_proto::exit::ExitCode;

use crate::error::Error;
use crate::serve::upstream::locate;
use crate::settings::Settings;
use crate::settings::environment::Environment;

/// Makes this process `codex app-server`, if the client has not said anything yet.
///
/// # Errors
///
/// With exit code 69 when it cannot be run; there is no other way back.
pub(super) fn exec(settings: &Settings, arguments: &[String], environment: &Environment) -> Error {
    match command(settings, arguments, environment) {
        Ok(mut command) => cannot_run(&command.exec(), &command),
        Err(error) => error,
    }
}

/// Starts `codex app-server` at the other end of a stream, for what the client has said already.
///
/// # Errors
///
/// With exit code 69 when it cannot be run.
pub(super) fn spawn(
    settings: &Settings,
    arguments: &[String],
    environment: &Environment,
) -> Result<(UnixStream, Child), Error> {
    let ends = || -> io::Result<(UnixStream, Stdio, Stdio)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let output = OwnedFd::from(theirs.try_clone()?);
        Ok((ours, OwnedFd::from(theirs).into(), output.into()))
    };
    let (ours, input, output) =
        ends().map_err(|error| Error::os("cannot make a pair of sockets").because(error))?;
    let mut command = command(settings, arguments, environment)?;
    command.stdin(input).stdout(output);
    match command.spawn() {
        Ok(child) => Ok((ours, child)),
        Err(error) => Err(cannot_run(&error, &command)),
    }
}

fn command(settings: &Settings, arguments: &[String], environment: &Environment) -> Result<Command, Error> {
    let program = locate::locate(&settings.codex, environment.value("PATH").map(|path| path.as_os_str()))?;
    let mut command = Command::new(program.executable);
    command.arg("app-server").args(arguments);
    Ok(command)
}

fn cannot_run(error: &io::Error, command: &Command) -> Error {
    let program: &OsStr = command.get_program();
    Error::new(ExitCode::Unavailable, format!("cannot run `{} app-server`", program.display()))
        .because(error.to_string())
}
