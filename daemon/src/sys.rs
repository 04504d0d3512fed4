//! The one place with `unsafe`: what runs in the child between fork and exec, and descriptors to be
//! watched.
#![allow(unsafe_code, reason = "what is set up here has no safe interface")]

use std::io;
use std::os::unix::net::UnixStream;

use nix::sys::signal::{SigHandler, Signal, signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Command;

/// Ties the child's life to that of this thread, and gives it the default reaction to signals.
///
/// An ignored SIGINT, SIGHUP or SIGQUIT is inherited through exec (`signal(7)`), for instance from
/// `nohup`; codex would keep it.
pub(crate) fn prepare_child(command: &mut Command) {
    #[cfg(target_os = "linux")]
    let parent = nix::unistd::getpid();
    // SAFETY: only async-signal-safe calls (`signal-safety(7)`): prctl, getppid, signal. No
    // allocation: the errors are made from an errno.
    unsafe {
        command.pre_exec(move || {
            for number in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGTERM] {
                signal(number, SigHandler::SigDfl)?;
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

/// Watches a socket that does not block for `interest`.
///
/// # Errors
/// When the system cannot watch it.
pub(crate) fn watch(socket: UnixStream, interest: Interest) -> io::Result<AsyncFd<UnixStream>> {
    // SAFETY: a `UnixStream` owns its descriptor, names the same one for as long as it lives, and keeps
    // it open until it is dropped, which is when the `AsyncFd` that owns it is.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}
