//! codex itself, where no daemon is available.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use codexd_proto::codex_args::CodexArgs;
use codexd_proto::exit::ExitCode;

use crate::error::Error;
use crate::instance::life::{self, Purpose};
use crate::os::unsafe_calls::{Image, become_program, run_instead};
use crate::serve::upstream::process::cannot_start;
use crate::serve::upstream::{Program, locate};
use crate::settings::Settings;
use crate::settings::environment::Environment;

/// The note on stderr before codex runs without a daemon.
pub(super) const NOTICE: &str =
    "codexd: no daemon is available; running codex directly, for this client alone";

/// Codex, ready to be run.
pub(super) struct Direct {
    program: Program,
    image: Image,
}

/// Finds codex and prepares `codex app-server` with these arguments.
///
/// # Errors
///
/// With exit code 69 when there is none.
pub(super) fn prepare(
    settings: &Settings,
    arguments: &CodexArgs,
    environment: &Environment,
) -> Result<Direct, Error> {
    let program = locate::locate(&settings.codex, environment.value("PATH").map(|path| path.as_os_str()))?;
    let words = [program.executable.as_os_str().to_owned(), "app-server".into()];
    let words = words.into_iter().chain(arguments.words().iter().map(OsString::from));
    let image = Image::inheriting(
        &program.executable,
        words,
        &[],
        &life::variables(None, Purpose::Client, environment),
    )
    .map_err(|error| cannot_run(&program, error))?;
    Ok(Direct { program, image })
}

/// Makes this process `codex app-server`, if nothing has been read from the client yet.
///
/// # Errors
///
/// With exit code 69 when it cannot be run; there is no other way back.
pub(super) fn exec(direct: Direct) -> Error {
    match become_program(&direct.image) {
        Err(errno) => cannot_run(&direct.program, errno.into()),
    }
}

/// Starts `codex app-server` at the other end of a stream, so that it gets what the client has already sent.
///
/// # Errors
///
/// With exit code 69 when it cannot be run.
pub(super) fn spawn(direct: Direct) -> Result<(UnixStream, Child), Error> {
    let Direct { program, image } = direct;
    let ends = || -> io::Result<(UnixStream, Stdio, Stdio)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let output = OwnedFd::from(theirs.try_clone()?);
        Ok((ours, OwnedFd::from(theirs).into(), output.into()))
    };
    let (ours, input, output) =
        ends().map_err(|error| Error::os("cannot make a pair of sockets").because(error))?;
    let mut command = Command::new(&program.executable);
    command.stdin(input).stdout(output);
    run_instead(&mut command, image);
    match command.spawn() {
        Ok(child) => Ok((ours, child)),
        Err(error) => Err(cannot_run(&program, error)),
    }
}

/// Makes one error of two: why there is no daemon, and why codex cannot be run instead. Often both are the same, and
/// then it is said once.
pub(super) fn neither(no_daemon: Error, no_codex: Error) -> Error {
    if no_daemon.chain().contains(&no_codex.chain()) {
        return no_daemon;
    }
    let hint = no_codex.next_step().or(no_daemon.next_step()).map(str::to_owned);
    let both = Error::new(
        ExitCode::Unavailable,
        format!("{}; and codex cannot be run directly: {}", no_daemon.chain(), no_codex.chain()),
    );
    match hint {
        Some(hint) => both.hint(hint),
        None => both,
    }
}

fn cannot_run(program: &Program, error: io::Error) -> Error {
    let error = cannot_start(program, error);
    let unavailable = Error::new(ExitCode::Unavailable, error.chain());
    match error.next_step() {
        Some(hint) => unavailable.hint(hint),
        None => unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_both_have_is_said_once() {
        let cause = || Error::new(ExitCode::Unavailable, "cannot run `x`").hint("install it");
        let daemon = Error::new(ExitCode::Unavailable, "the daemon did not start: cannot run `x`");
        let one = neither(daemon, cause());
        assert_eq!(one.chain(), "the daemon did not start: cannot run `x`");
        let both = neither(Error::new(ExitCode::Unsafe, "`d` is not safe").hint("chmod 700 d"), cause());
        assert_eq!(both.chain(), "`d` is not safe; and codex cannot be run directly: cannot run `x`");
        assert_eq!(both.next_step(), Some("install it"));
    }
}
