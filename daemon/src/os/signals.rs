//! Signals to this process, as a stream of what they mean.

use std::io;

use codexd_proto::lifecycle::StopSource;
use futures_util::StreamExt as _;
use nix::sys::signal::SigSet;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals as Stream;

/// Unblocks all signals of this thread, and of those it starts: whoever started this process may have blocked some
/// for itself, and a mask is inherited through exec (`signal(7)`).
pub(crate) fn unblock() {
    let _ = SigSet::empty().thread_set_mask();
}

/// What a signal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// The daemon is to stop.
    Stop(StopSource),
    /// The settings are to be read again.
    Reload,
    /// A child has ended: perhaps an adopted one.
    ChildEnded,
}

/// The signals this process handles. Others keep their default reaction.
pub(crate) struct Signals {
    stream: Stream,
    /// Whether there was a terminal at the start whose end ends the daemon, too.
    had_terminal: bool,
}

impl Signals {
    /// Begins to handle them.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub(crate) fn new() -> io::Result<Signals> {
        let stream = Stream::new([SIGTERM, SIGINT, SIGHUP, SIGCHLD])?;
        Ok(Signals { stream, had_terminal: has_terminal() })
    }

    /// Waits for the next one. Safe to be cancelled.
    pub(crate) async fn next(&mut self) -> Wish {
        loop {
            match self.stream.next().await {
                Some(SIGTERM) => return Wish::Stop(StopSource::Terminate),
                Some(SIGINT) => return Wish::Stop(StopSource::Interrupt),
                // From the kernel when the terminal is gone, else from somebody who wants a reload.
                Some(SIGHUP) if self.had_terminal && !has_terminal() => {
                    return Wish::Stop(StopSource::Hangup);
                }
                Some(SIGHUP) => return Wish::Reload,
                Some(SIGCHLD) => return Wish::ChildEnded,
                Some(_) => {}
                // The stream ends only when its handle is closed, and nobody closes it.
                None => std::future::pending().await,
            }
        }
    }
}

/// Tells whether this process has a controlling terminal: `/dev/tty` opens only then (`tty(4)`).
fn has_terminal() -> bool {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits() | nix::fcntl::OFlag::O_NOCTTY.bits())
        .open("/dev/tty")
        .is_ok()
}
