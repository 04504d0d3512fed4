//! The running daemon: its own status, and its sockets.

use std::io;
#[cfg(target_os = "linux")]
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use codexd_proto::status::StatusReport;
use codexd_proto::stderr::explained;

use super::Finding;
use crate::control::client::{Unreachable, ask_status};
use crate::instance::lock;
use crate::instance::record;
use crate::settings::Settings;

/// How long the daemon may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Asks the daemon how it is.
pub(super) fn ask(settings: &Settings) -> Result<StatusReport, Unreachable> {
    ask_status(&settings.paths.control_socket, ANSWER_WITHIN)
}

/// Checks that the daemon serves, or is cleanly away.
pub(super) fn check(settings: &Settings, status: &Result<StatusReport, Unreachable>) -> Vec<Finding> {
    let paths = &settings.paths;
    // The control socket is never a service manager's, which would start the daemon. A sandbox refuses before
    // it is looked whether the file is there.
    let clients = || status.is_ok().then(|| sandbox(&paths.socket)).flatten();
    if let Some(blocked) = sandbox(&paths.control_socket).or_else(clients) {
        return vec![blocked];
    }
    match status {
        Ok(status) => {
            let mut findings = vec![if status.ready {
                Finding::ok(
                    "daemon",
                    format!("serving as process {}, generation {}", status.pid, status.generation),
                )
            } else {
                Finding::warn(
                    "daemon",
                    format!("process {} is {} and does not serve", status.pid, status.state.word()),
                    "codexd ctl wait ready",
                )
            }];
            findings.extend(status.warnings.iter().map(|warning| {
                Finding::warn(
                    "daemon",
                    format!("{}: {}", warning.code, warning.message),
                    warning.hint.clone(),
                )
            }));
            findings
        }
        Err(Unreachable::NotRunning) => {
            let last = record::last_exit(&settings.paths.record);
            let how = last
                .map(|exit| format!("; the last one: {}", explained(&exit.reason, &exit.upstream_stderr)))
                .unwrap_or_default();
            let mut findings = vec![Finding::ok("daemon", format!("not running{how}"))];
            findings.extend(stale(settings));
            findings
        }
        Err(Unreachable::CannotTell(error)) => vec![Finding::error("daemon", error)],
    }
}

/// A connection that is forbidden does not show whether a process listens: a sandbox (seccomp, Landlock, codex's own)
/// is in between.
fn sandbox(path: &Path) -> Option<Finding> {
    let error = UnixStream::connect(path).err()?;
    blocked(path, &error)
}

fn blocked(path: &Path, error: &io::Error) -> Option<Finding> {
    (error.kind() == io::ErrorKind::PermissionDenied).then(|| {
        Finding::fail(
            "sandbox",
            format!("this process is not allowed to connect to `{}` ({error}); the daemon can be running", path.display()),
            "run this outside of the sandbox, or allow Unix sockets in it; if there is none, check the directory's owner and mode",
        )
    })
}

/// What a killed daemon left. The next daemon removes it, so it is only reported.
fn stale(settings: &Settings) -> Vec<Finding> {
    let paths = &settings.paths;
    let mut findings = Vec::new();
    let clients = (!may_be_listened_on(&paths.socket)).then_some(&paths.socket);
    for socket in clients.into_iter().chain([&paths.control_socket]) {
        if let Err(error) = UnixStream::connect(socket)
            && error.kind() == io::ErrorKind::ConnectionRefused
        {
            findings.push(Finding::warn(
                "staleSocket",
                format!("no process listens on `{}`", socket.display()),
                format!("rm {} (the next daemon does it, too)", socket.display()),
            ));
        }
    }
    if paths.lock.exists() && lock::is_free(&paths.lock) {
        findings.push(Finding::warn(
            "staleLock",
            format!("no process holds `{}`", paths.lock.display()),
            format!("rm {} (the next daemon does it, too)", paths.lock.display()),
        ));
    }
    findings
}

/// Returns whether a process listens at a path, without a connection: for a service manager, that would be a reason
/// to start the daemon (`proc_net(5)`: the flag 0x10000 marks a listening socket).
#[cfg(target_os = "linux")]
fn may_be_listened_on(path: &Path) -> bool {
    let table = std::fs::read("/proc/net/unix").unwrap_or_default();
    let path = path.as_os_str().as_bytes();
    table.split(|byte| *byte == b'\n').any(|line| {
        let flags = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).nth(3);
        line.ends_with(path) && flags == Some(b"00010000")
    })
}

/// Not known on this system.
#[cfg(not(target_os = "linux"))]
fn may_be_listened_on(_path: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_is_not_absent() {
        let path = Path::new("/s");
        let of = |errno: i32| blocked(path, &io::Error::from_raw_os_error(errno));
        assert!(of(nix::libc::EPERM).is_some());
        assert!(of(nix::libc::EACCES).is_some());
        assert!(of(nix::libc::ENOENT).is_none());
        assert!(of(nix::libc::ECONNREFUSED).is_none());
    }
}
