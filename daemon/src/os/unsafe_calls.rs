//! The one place with `unsafe`: what runs in the child between fork and exec, descriptors to be watched,
//! and taking over what a service manager hands in.
#![allow(unsafe_code, reason = "what is set up here has no safe interface")]

use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd as _;
use std::os::fd::{AsFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use nix::sys::resource::{Resource, rlim_t, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Command;

/// Ties the child's life to that of this thread, and gives it the default reaction to signals and, with
/// `open_files`, these soft and hard limits on open files.
///
/// An ignored SIGINT, SIGHUP or SIGQUIT is inherited through exec (`signal(7)`), for instance from
/// `nohup`; codex would keep it. A limit raised for the daemon would be inherited as well.
pub(crate) fn prepare_child(command: &mut Command, open_files: Option<(rlim_t, rlim_t)>) {
    #[cfg(target_os = "linux")]
    let parent = nix::unistd::getpid();
    // SAFETY: only async-signal-safe calls (`signal-safety(7)`): prctl, getppid, signal; setrlimit is not
    // listed there and is a bare system call. No allocation: the errors are made from an errno.
    unsafe {
        command.pre_exec(move || {
            for number in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGTERM] {
                signal(number, SigHandler::SigDfl)?;
            }
            if let Some((soft, hard)) = open_files {
                setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
            }
            #[cfg(target_os = "linux")]
            {
                nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
                // The parent may have gone before the call: then nobody would send the signal.
                if nix::unistd::getppid() != parent {
                    return Err(io::Error::from_raw_os_error(nix::libc::ESRCH));
                }
            }
            Ok(())
        });
    }
}

/// Takes ownership of a descriptor that the service manager opened for this process before it began
/// (`sd_listen_fds(3)`).
///
/// The caller has found the number in the environment that was made for this process, asks once for each
/// number, and does so before anything else could have opened or closed descriptors.
pub(crate) fn take_inherited(fd: RawFd) -> OwnedFd {
    // SAFETY: by the contract above nothing else in this process owns the descriptor. That it is open was
    // checked when its close-on-exec flag was set.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Returns the sockets that launchd has opened for this job under `name` (`launch(3)`,
/// `launch_activate_socket`).
///
/// # Errors
///
/// The error number: ENOENT when the job has no sockets of that name, ESRCH when this process is no job of
/// launchd's, EALREADY when they were taken before.
#[cfg(target_os = "macos")]
pub(crate) fn launch_activate_socket(name: &std::ffi::CStr) -> Result<Vec<OwnedFd>, nix::errno::Errno> {
    use nix::libc::{c_char, c_int, free, size_t};
    unsafe extern "C" {
        fn launch_activate_socket(name: *const c_char, fds: *mut *mut c_int, count: *mut size_t) -> c_int;
    }
    let mut fds: *mut c_int = std::ptr::null_mut();
    let mut count: size_t = 0;
    // SAFETY: the name ends with a NUL; both places may be written.
    let error = unsafe { launch_activate_socket(name.as_ptr(), &raw mut fds, &raw mut count) };
    if error != 0 {
        return Err(nix::errno::Errno::from_raw(error));
    }
    if fds.is_null() {
        return Ok(Vec::new());
    }
    // SAFETY: on success `fds` leads to `count` descriptors which are the caller's from now on, and to
    // memory which the caller frees.
    unsafe {
        let sockets =
            std::slice::from_raw_parts(fds, count).iter().map(|fd| OwnedFd::from_raw_fd(*fd)).collect();
        free(fds.cast());
        Ok(sockets)
    }
}

/// Returns how many bytes that were written to a Unix stream socket its other end has not read (`unix(7)`,
/// SIOCOUTQ); `None` where the system does not tell.
#[cfg(target_os = "linux")]
pub(crate) fn unread_bytes(socket: impl AsFd) -> Option<usize> {
    let mut bytes: nix::libc::c_int = 0;
    // SAFETY: the descriptor is borrowed for the call, and the request (TIOCOUTQ is the same number) writes one int.
    let result = unsafe { nix::libc::ioctl(socket.as_fd().as_raw_fd(), nix::libc::TIOCOUTQ, &raw mut bytes) };
    (result == 0).then(|| usize::try_from(bytes).ok())?
}

/// There is no journal elsewhere.
#[cfg(not(target_os = "linux"))]
pub(crate) fn unread_bytes(_socket: impl AsFd) -> Option<usize> {
    None
}

/// Watches a socket that does not block for `interest`.
///
/// # Errors
///
/// When the system cannot watch it.
pub(crate) fn watch(socket: Rc<UnixStream>, interest: Interest) -> io::Result<AsyncFd<Rc<UnixStream>>> {
    // SAFETY: a `UnixStream` owns its descriptor, names the same one for as long as it lives, and keeps
    // it open until it is dropped, which is not before the `AsyncFd` that shares it.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn what_the_other_end_has_not_read_is_counted() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        assert_eq!(unread_bytes(&ours), Some(0));
        ours.write_all(b"a line").unwrap();
        assert!(unread_bytes(&ours).is_some_and(|bytes| bytes > 0));
        theirs.read_exact(&mut [0; 6]).unwrap();
        assert_eq!(unread_bytes(&ours), Some(0));
    }
}
