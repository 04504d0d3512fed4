//! The upstream's process: started in a group of its own, tied to the life of this one.

use std::cell::Cell;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::rc::Rc;
use std::time::{Duration, Instant};

use codexd_proto::exit::ExitCode;
use codexd_proto::lifecycle::ChildStatus;
use codexd_proto::secrets::Secrets;
use nix::sys::resource::rlim_t;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use super::locate::Program;
use super::stderr::Stderr;
use crate::error::Error;
use crate::os::service_manager::STRIPPED_ENV;

/// Bytes that the pipe from the upstream may hold, where the system allows it: more than its
/// default (64 KiB, `pipe(7)`), so that a burst is read in few pieces.
#[cfg(target_os = "linux")]
const PIPE_BYTES: i32 = 256 << 10;

/// How long the last lines of its stderr may take once the upstream has ended. They are usually there by then;
/// a wrapper that pipes them through another program ends before it. What the upstream has started may hold the
/// pipe open for ever.
const LAST_LINES_WITHIN: Duration = Duration::from_millis(100);

/// What an upstream is started with.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) program: &'a Program,
    /// Behind `codex app-server`.
    pub(crate) arguments: &'a [String],
    /// Variables it gets beside those of this process.
    pub(crate) variables: &'a [(&'a str, OsString)],
    /// Soft and hard limit on open files; `None` for those of this process.
    pub(crate) open_files: Option<(rlim_t, rlim_t)>,
    /// What is masked in its words.
    pub(crate) secrets: Secrets,
}

/// A running upstream. Dropping it does not end it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    signals: Signals,
    stderr: Stderr,
    /// How it ended and when that was found out, from then on.
    ended: Option<(ChildStatus, Instant)>,
}

/// The upstream's pipes.
#[derive(Debug)]
pub(crate) struct Pipes {
    pub(crate) stdin: pipe::Sender,
    pub(crate) stdout: pipe::Receiver,
    pub(crate) stderr: Stderr,
}

impl Process {
    /// Starts `codex app-server`.
    ///
    /// To be called from a thread that lives as long as the process: on Linux the child is sent
    /// SIGTERM when the *thread* that started it ends (`PR_SET_PDEATHSIG`, `prctl(2)`). SIGTERM and
    /// not SIGKILL, since on SIGTERM codex ends the commands it started too.
    ///
    /// # Errors
    ///
    /// With exit code 69 when the program cannot be executed, 71 when the system refuses.
    pub(crate) fn spawn(launch: Launch<'_>) -> Result<(Process, Pipes), Error> {
        let executable = &launch.program.executable;
        let mut command = Command::new(executable);
        command
            .arg("app-server")
            .args(launch.arguments.iter().map(OsString::from))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(false);
        for name in STRIPPED_ENV {
            command.env_remove(name);
        }
        command.envs(launch.variables.iter().map(|(name, value)| (name, value)));
        crate::os::unsafe_calls::prepare_child(&mut command, launch.open_files);
        let mut child = command.spawn().map_err(|error| cannot_start(executable, error))?;
        let stderr = Stderr::new(launch.secrets);
        let pipes = take_pipes(&mut child, stderr.clone())
            .map_err(|error| Error::os("cannot set up the pipes to codex app-server").because(error))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        // INVARIANT: a child that was not waited for has its id.
        let pid = pid.ok_or_else(|| Error::new(ExitCode::Software, "the new child has no process id"))?;
        let signals = Signals { pid, gone: Rc::default() };
        Ok((Process { child, signals, stderr, ended: None }, pipes))
    }

    /// Returns the process id.
    pub(crate) fn pid(&self) -> u32 {
        self.signals.pid.as_raw().unsigned_abs()
    }

    /// Waits for the end, and for the last lines of stderr. Safe to be cancelled.
    pub(crate) async fn wait(&mut self) -> ChildStatus {
        let (status, at) = match self.ended {
            Some(ended) => ended,
            None => {
                let ended = (self.status().await, Instant::now());
                self.signals.gone.set(true);
                *self.ended.insert(ended)
            }
        };
        self.stderr.end(LAST_LINES_WITHIN.saturating_sub(at.elapsed())).await;
        status
    }

    async fn status(&mut self) -> ChildStatus {
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
        self.signals.clone()
    }
}

/// Sends signals to a process that was not waited for: its id is its own. Afterwards nothing is sent.
#[derive(Clone, Debug)]
pub(crate) struct Signals {
    pid: Pid,
    /// It was waited for: its id may be somebody else's by now. Set before the lifecycle is told of the end.
    gone: Rc<Cell<bool>>,
}

impl Signals {
    /// Asks the process to end.
    pub(crate) fn terminate(&self) {
        self.send(|pid| kill(pid, Signal::SIGTERM));
    }

    /// Kills the process and its group. A stopped process dies too.
    pub(crate) fn kill(&self) {
        self.send(|pid| killpg(pid, Signal::SIGKILL));
    }

    fn send(&self, signal: impl FnOnce(Pid) -> nix::Result<()>) {
        if !self.gone.get()
            && let Err(error) = signal(self.pid)
        {
            tracing::warn!(upstream.pid = self.pid.as_raw(), %error, "cannot signal codex app-server");
        }
    }
}

/// Says why a program cannot be executed (`execve(2)`), and what to look at where the system's words mislead.
fn cannot_start(executable: &Path, error: io::Error) -> Error {
    let code = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => ExitCode::Unavailable,
        _ if error.raw_os_error() == Some(nix::libc::ENOEXEC) => ExitCode::Unavailable,
        _ => ExitCode::Os,
    };
    let missing = error.kind() == io::ErrorKind::NotFound;
    let error =
        Error::new(code, format!("cannot start `{} app-server`", executable.display())).because(error);
    if !missing {
        return error;
    }
    // The program itself was there a moment ago.
    error.hint(
        "the interpreter or the loader that it names is missing: `file` shows which; or name another codex with \
         `--codex PATH` or CODEXD_CODEX",
    )
}

fn take_pipes(child: &mut Child, shared: Stderr) -> io::Result<Pipes> {
    let missing = || io::Error::other("a pipe is missing");
    let stdin = child.stdin.take().ok_or_else(missing)?.into_owned_fd()?;
    let stdout = child.stdout.take().ok_or_else(missing)?.into_owned_fd()?;
    let stderr = child.stderr.take().ok_or_else(missing)?;
    #[cfg(target_os = "linux")]
    for fd in [&stdin, &stdout] {
        // Only a matter of speed: without the right to it (pipe-user-pages-soft) it stays small.
        let _ = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    }
    tokio::task::spawn_local(shared.clone().read(stderr));
    Ok(Pipes {
        stdin: pipe::Sender::from_owned_fd(stdin)?,
        stdout: pipe::Receiver::from_owned_fd(stdout)?,
        stderr: shared,
    })
}
