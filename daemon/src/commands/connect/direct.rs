//! codex itself, where no daemon can be had.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use codexd_proto::exit::ExitCode;

use crate::error::Error;
use crate::instance::life;
use crate::os::unsafe_calls::{Image, become_program, run_instead};
use crate::serve::upstream::process::cannot_start;
use crate::serve::upstream::{Program, locate};
use crate::settings::Settings;
use crate::settings::environment::Environment;

/// Makes this process `codex app-server`, if the client has not said anything yet.
///
/// # Errors
///
/// With exit code 69 when it cannot be run; there is no other way back.
pub(super) fn exec(settings: &Settings, arguments: &[String], environment: &Environment) -> Error {
    let run = || {
        let (program, image) = image(settings, arguments, environment)?;
        match become_program(&image) {
            Err(errno) => Err::<Infallible, Error>(cannot_run(&program, errno.into())),
        }
    };
    match run() {
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
    let (program, image) = image(settings, arguments, environment)?;
    let mut command = Command::new(&program.executable);
    command.stdin(input).stdout(output);
    run_instead(&mut command, image);
    match command.spawn() {
        Ok(child) => Ok((ours, child)),
        Err(error) => Err(cannot_run(&program, error)),
    }
}

/// Returns codex and what is run of it.
fn image(
    settings: &Settings,
    arguments: &[String],
    environment: &Environment,
) -> Result<(Program, Image), Error> {
    let program = locate::locate(&settings.codex, environment.value("PATH").map(|path| path.as_os_str()))?;
    let words = [program.executable.as_os_str().to_owned(), "app-server".into()];
    let words = words.into_iter().chain(arguments.iter().map(OsString::from));
    let image = Image::inheriting(&program.executable, words, &[], &life::variables(None, environment))
        .map_err(|error| cannot_run(&program, error))?;
    Ok((program, image))
}

fn cannot_run(program: &Program, error: io::Error) -> Error {
    let error = cannot_start(program, error);
    let unavailable = Error::new(ExitCode::Unavailable, error.chain());
    match error.next_step() {
        Some(hint) => unavailable.hint(hint),
        None => unavailable,
    }
}
