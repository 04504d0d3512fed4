//! The upstream's process: started in a group of its own, tied to the life of this one.

use std::io;
use std::process::Stdio;

use codexd_proto::exit::ExitCode;
use codexd_proto::lifecycle::ChildStatus;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use super::locate::Program;
use super::stderr;
use crate::error::Error;
use crate::os::open_files::OpenFiles;
use crate::os::service_manager::STRIPPED_ENV;
use crate::settings::codex_args::CodexArgs;

/// Bytes that the pipe from the upstream may hold, where the system allows it: more than its
/// default (64 KiB, `pipe(7)`), so that a burst is read in few pieces.
#[cfg(target_os = "linux")]
const PIPE_BYTES: i32 = 256 << 10;

/// A running upstream. Dropping it does not end it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pid: Pid,
}

/// The upstream's pipes.
#[derive(Debug)]
pub(crate) struct Pipes {
    pub(crate) stdin: pipe::Sender,
    pub(crate) stdout: pipe::Receiver,
}

impl Process {
    /// Starts `codex app-server` with `args`, and with the limits on open files that this process was given.
    ///
    /// To be called from a thread that lives as long as the process: on Linux the child is sent
    /// SIGTERM when the *thread* that started it ends (`PR_SET_PDEATHSIG`, `prctl(2)`). SIGTERM and
    /// not SIGKILL, since on SIGTERM codex ends the commands it started too.
    ///
    /// # Errors
    ///
    /// With exit code 69 when the program cannot be executed, 71 when the system refuses.
    pub(crate) fn spawn(
        program: &Program,
        args: &CodexArgs,
        files: OpenFiles,
    ) -> Result<(Process, Pipes), Error> {
        let mut command = Command::new(&program.executable);
        command
            .arg("app-server")
            .args(args.words())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(false);
        for name in STRIPPED_ENV {
            command.env_remove(name);
        }
        crate::os::unsafe_calls::prepare_child(&mut command, files.given);
        let mut child = command.spawn().map_err(|error| {
            let code = match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => ExitCode::Unavailable,
                _ if error.raw_os_error() == Some(nix::libc::ENOEXEC) => ExitCode::Unavailable,
                _ => ExitCode::Os,
            };
            Error::new(code, format!("cannot start `{} app-server`", program.executable.display()))
                .because(error)
        })?;
        let pipes = take_pipes(&mut child)
            .map_err(|error| Error::os("cannot set up the pipes to codex app-server").because(error))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        // INVARIANT: a child that was not waited for has its id.
        let pid = pid.ok_or_else(|| Error::new(ExitCode::Software, "the new child has no process id"))?;
        Ok((Process { child, pid }, pipes))
    }

    /// Returns the process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// Waits for the end. Safe to be cancelled.
    pub(crate) async fn wait(&mut self) -> ChildStatus {
        use std::os::unix::process::ExitStatusExt as _;
        match self.child.wait().await {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => ChildStatus::Code(code),
                (None, Some(signal)) => ChildStatus::Signal(signal),
                (None, None) => ChildStatus::Code(-1),
            },
            Err(error) => {
                // Somebody else waited for our child; it is gone all the same.
                tracing::error!(%error, "cannot tell how codex app-server ended");
                ChildStatus::Code(-1)
            }
        }
    }

    /// Returns the handle for signals, which stays usable while somebody waits for the end.
    pub(crate) fn signals(&self) -> Signals {
        Signals { pid: self.pid }
    }
}

/// Sends signals to a process that is known not to have been waited for: its id is its own.
///
/// The lifecycle guarantees that: it has no effect that signals once the end was reported.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signals {
    pid: Pid,
}

impl Signals {
    /// Asks the process to end.
    pub(crate) fn terminate(self) {
        self.report(kill(self.pid, Signal::SIGTERM));
    }

    /// Kills the process and its group. A stopped process dies too.
    pub(crate) fn kill(self) {
        self.report(killpg(self.pid, Signal::SIGKILL));
    }

    fn report(self, result: nix::Result<()>) {
        if let Err(error) = result {
            tracing::warn!(upstream.pid = self.pid.as_raw(), %error, "cannot signal codex app-server");
        }
    }
}

fn take_pipes(child: &mut Child) -> io::Result<Pipes> {
    let missing = || io::Error::other("a pipe is missing");
    let stdin = child.stdin.take().ok_or_else(missing)?.into_owned_fd()?;
    let stdout = child.stdout.take().ok_or_else(missing)?.into_owned_fd()?;
    let stderr = child.stderr.take().ok_or_else(missing)?;
    #[cfg(target_os = "linux")]
    for fd in [&stdin, &stdout] {
        // Only a matter of speed: without the right to it (pipe-user-pages-soft) it stays small.
        let _ = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    }
    tokio::task::spawn_local(stderr::log_lines(stderr));
    Ok(Pipes { stdin: pipe::Sender::from_owned_fd(stdin)?, stdout: pipe::Receiver::from_owned_fd(stdout)? })
}
