//! The upstream's process: started in a group of its own, tied to the life of this one.

use std::cell::Cell;
use std::ffi::OsString;
use std::io;
use std::process::Stdio;
use std::rc::Rc;
use std::time::{Duration, Instant};

use codexd_proto::codex_args::CodexArgs;
use codexd_proto::exit::ExitCode;
use codexd_proto::lifecycle::ChildStatus;
use codexd_proto::secrets::Secrets;
use nix::errno::Errno;
use nix::sys::resource::rlim_t;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use super::identity;
use super::locate::{FOR_THIS_MACHINE, Program};
use super::stderr::Stderr;
use crate::error::Error;
use crate::logging::roles::log_upstream;
use crate::os::service_manager::STRIPPED_ENV;
use crate::os::unsafe_calls::{Image, prepare_child};

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
    /// After `codex app-server`.
    pub(crate) arguments: &'a CodexArgs,
    /// Variables it gets beside those of this process.
    pub(crate) variables: &'a [(&'a str, OsString)],
    /// Soft and hard limit on open files; `None` for those of this process.
    pub(crate) open_files: Option<(rlim_t, rlim_t)>,
    /// The secrets that are masked in its output.
    pub(crate) secrets: Secrets,
}

/// A running upstream. Dropping it does not end it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    signals: SignalSender,
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
        let program = launch.program;
        let failed = |error: io::Error| cannot_start(program, error);
        let mut command = Command::new(&program.executable);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(false);
        let image = image(program, launch.arguments, launch.variables).map_err(failed)?;
        prepare_child(&mut command, launch.open_files, image);
        let mut child = command.spawn().map_err(failed)?;
        let stderr = Stderr::new(launch.secrets);
        let pipes = take_pipes(&mut child, stderr.clone())
            .map_err(|error| Error::os("cannot set up the pipes to codex app-server").because(error))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        // INVARIANT: a child that was not waited for has its id.
        let pid = pid.ok_or_else(|| Error::new(ExitCode::Software, "the new child has no process id"))?;
        let signals = SignalSender { pid, gone: Rc::default() };
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
                log_upstream!(error, self.pid(), %error, "cannot tell how codex app-server ended");
                ChildStatus::Code(-1)
            }
        }
    }

    /// Returns the handle for signals, which stays usable while another task waits for the end.
    pub(crate) fn signals(&self) -> SignalSender {
        self.signals.clone()
    }
}

/// Returns what is run: codex with its arguments and `marks`, and without what is for this process only.
fn image(program: &Program, args: &CodexArgs, marks: &[(&str, OsString)]) -> io::Result<Image> {
    let executable = &program.executable;
    let arguments = [executable.as_os_str().to_owned(), "app-server".into()];
    let arguments = arguments.into_iter().chain(args.words().iter().map(OsString::from));
    Image::inheriting(executable, arguments, STRIPPED_ENV, marks)
}

/// Distinguishes a program that cannot be executed, now or later (exit code 69), from a system that has not enough of
/// something (71).
pub(crate) fn cannot_start(program: &Program, error: io::Error) -> Error {
    let path = &program.executable;
    let errno = error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
    let code = if is_unusable(errno) { ExitCode::Unavailable } else { ExitCode::Os };
    let failed = Error::new(code, format!("cannot start `{} app-server`", path.display()));
    if code != ExitCode::Unavailable {
        return failed.because(error);
    }
    if let Some(machine) = identity::made_for_another_machine(path) {
        return failed.because(format!("{machine} ({error})")).hint(FOR_THIS_MACHINE);
    }
    let hint = match errno {
        Errno::ENOENT => format!(
            "the program is there, so its interpreter is missing: `file {}` names it; or name another codex with \
             CODEXD_CODEX",
            path.display()
        ),
        _ => "install codex again, or name another one with CODEXD_CODEX".to_owned(),
    };
    failed.because(error).hint(hint)
}

/// Returns whether this error of `execve(2)` is permanent for the file.
fn is_unusable(errno: Errno) -> bool {
    #[cfg(target_os = "linux")]
    let others = [Errno::ELIBBAD, Errno::ELOOP];
    // For another processor, and what Mach-O adds.
    #[cfg(target_vendor = "apple")]
    let others = [Errno::EBADARCH, Errno::EBADEXEC, Errno::EBADMACHO, Errno::ESHLIBVERS];
    #[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
    let others: [Errno; 0] = [];
    let everywhere = [
        Errno::ENOENT,
        Errno::ENOTDIR,
        Errno::EACCES,
        Errno::EPERM,
        Errno::ENOEXEC,
        // A program whose interpreter is none (`execve(2)`).
        Errno::EINVAL,
    ];
    everywhere.contains(&errno) || others.contains(&errno)
}

/// Sends signals to a process that was not waited for: its id is its own. Afterwards nothing is sent.
#[derive(Clone, Debug)]
pub(crate) struct SignalSender {
    pid: Pid,
    /// It was waited for: its id can be another process's by now. Set before the end is reported to the core.
    gone: Rc<Cell<bool>>,
}

impl SignalSender {
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
            log_upstream!(warn, self.pid.as_raw(), %error, "cannot signal codex app-server");
        }
    }
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
    tokio::task::spawn_local(shared.clone().read(stderr, child.id()));
    Ok(Pipes {
        stdin: pipe::Sender::from_owned_fd(stdin)?,
        stdout: pipe::Receiver::from_owned_fd(stdout)?,
        stderr: shared,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_never_runs_is_told_from_a_system_in_want() {
        let program = Program { executable: "/bin/sh".into(), requested: None };
        let code =
            |errno: Errno| cannot_start(&program, io::Error::from_raw_os_error(errno as i32)).exit_code();
        for errno in [Errno::ENOEXEC, Errno::ENOENT, Errno::EACCES, Errno::EPERM, Errno::EINVAL] {
            assert_eq!(code(errno), ExitCode::Unavailable, "{errno}");
        }
        for errno in [Errno::ENOMEM, Errno::EAGAIN, Errno::EMFILE, Errno::E2BIG, Errno::ETXTBSY, Errno::EIO] {
            assert_eq!(code(errno), ExitCode::Os, "{errno}");
        }
        #[cfg(target_vendor = "apple")]
        assert_eq!(code(Errno::EBADARCH), ExitCode::Unavailable);
    }

    #[test]
    fn codex_gets_the_marks_once_and_nothing_of_the_service_managers() {
        let program = Program { executable: "/bin/codex".into(), requested: None };
        let marks = [("PATH", OsString::from("/mine")), ("CODEXD_LIFE", OsString::from("1"))];
        let shown = format!("{:?}", image(&program, &CodexArgs::new(vec!["-c".to_owned()]), &marks).unwrap());
        assert!(shown.contains(r#"["/bin/codex", "app-server", "-c"]"#), "{shown}");
        assert_eq!(shown.matches("\"PATH=").count(), 1, "{shown}");
        assert!(shown.contains("\"PATH=/mine\"") && shown.contains("\"CODEXD_LIFE=1\""), "{shown}");
    }
}
