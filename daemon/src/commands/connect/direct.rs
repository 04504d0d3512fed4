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
use crate::settings::codex_args::CodexArgs;
use crate::settings::environment::Environment;

/// What people are told before codex runs without a daemon.
pub(super) const NOTICE: &str = "codexd: no daemon can be had; running codex directly, for this client alone";

/// Finds codex and returns the command that runs `codex app-server`.
///
/// # Errors
///
/// With exit code 69 when there is none.
pub(super) fn prepare(
    settings: &Settings,
    arguments: &CodexArgs,
    environment: &Environment,
) -> Result<Command, Error> {
    let program = locate::locate(&settings.codex, environment.value("PATH").map(|path| path.as_os_str()))?;
    let mut command = Command::new(program.executable);
    command.arg("app-server").args(arguments.words());
    Ok(command)
}

/// Makes this process `codex app-server`, if the client has not said anything yet.
///
/// # Errors
///
/// With exit code 69 when it cannot be run; there is no other way back.
pub(super) fn exec(mut command: Command) -> Error {
    cannot_run(&command.exec(), &command)
}

/// Starts `codex app-server` at the other end of a stream, for what the client has said already.
///
/// # Errors
///
/// With exit code 69 when it cannot be run.
pub(super) fn spawn(mut command: Command) -> Result<(UnixStream, Child), Error> {
    let ends = || -> io::Result<(UnixStream, Stdio, Stdio)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let output = OwnedFd::from(theirs.try_clone()?);
        Ok((ours, OwnedFd::from(theirs).into(), output.into()))
    };
    let (ours, input, output) =
        ends().map_err(|error| Error::os("cannot make a pair of sockets").because(error))?;
    command.stdin(input).stdout(output);
    match command.spawn() {
        Ok(child) => Ok((ours, child)),
        Err(error) => Err(cannot_run(&error, &command)),
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

fn cannot_run(error: &io::Error, command: &Command) -> Error {
    let program: &OsStr = command.get_program();
    Error::new(ExitCode::Unavailable, format!("cannot run `{} app-server`", program.display()))
        .because(error.to_string())
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
