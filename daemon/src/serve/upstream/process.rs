//! The upstream's process: started in a group of its own, tied to the life of this one.

use std::ffi::OsString;
use std::io;
use std::process::Stdio;

use codexd_proto::exit::ExitCode;
use codexd_proto::lifecycle::ChildStatus;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use super::locate::Program;
use super::{identity, stderr};
use crate::error::Error;
use crate::os::open_files::OpenFiles;
use crate::os::service_manager::STRIPPED_ENV;
use crate::os::unsafe_calls::{Image, prepare_child};

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
    /// Starts `codex app-server` with `args`, with the limits on open files that this process was given, and with
    /// `marks` in its environment.
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
        args: &[String],
        files: OpenFiles,
        marks: &[(&'static str, OsString)],
    ) -> Result<(Process, Pipes), Error> {
        let failed = |error: io::Error| cannot_start(program, error);
        let mut command = Command::new(&program.executable);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(false);
        let image = image(program, args, marks).map_err(failed)?;
        prepare_child(&mut command, files.given, image);
        let mut child = command.spawn().map_err(failed)?;
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

/// Returns what is run: codex with its arguments and `marks`, and without what is for this process only.
fn image(program: &Program, args: &[String], marks: &[(&'static str, OsString)]) -> io::Result<Image> {
    let executable = &program.executable;
    let arguments = [executable.as_os_str().to_owned(), "app-server".into()];
    let arguments = arguments.into_iter().chain(args.iter().map(OsString::from));
    Image::inheriting(executable, arguments, STRIPPED_ENV, marks)
}

/// Tells a program that cannot be executed, now or later (exit code 69), from a system that has not enough of
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
        return failed
            .because(format!("{machine} ({error})"))
            .hint("install the codex for this machine, or name it with `--codex PATH` or CODEXD_CODEX");
    }
    let hint = match errno {
        Errno::ENOENT => format!(
            "the program is there, so its interpreter is missing: `file {}` names it; or name another codex with \
             `--codex PATH` or CODEXD_CODEX",
            path.display()
        ),
        _ => "install codex again, or name another one with `--codex PATH` or CODEXD_CODEX".to_owned(),
    };
    failed.because(error).hint(hint)
}

/// Returns whether this is what `execve(2)` says of a file that it will say of it again.
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
        let shown = format!("{:?}", image(&program, &["-c".to_owned()], &marks).unwrap());
        assert!(shown.contains(r#"["/bin/codex", "app-server", "-c"]"#), "{shown}");
        assert_eq!(shown.matches("\"PATH=").count(), 1, "{shown}");
        assert!(shown.contains("\"PATH=/mine\"") && shown.contains("\"CODEXD_LIFE=1\""), "{shown}");
    }
}
