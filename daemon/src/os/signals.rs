//! Signals to this process, as a stream of what they mean.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use codexd_proto::exit::ExitCode;
use codexd_proto::lifecycle::StopSource;
use futures_util::StreamExt as _;
use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals as Stream;

/// What a signal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignalAction {
    /// The daemon is to stop.
    Stop(StopSource),
    /// The settings are to be read again.
    Reload,
    /// A child has ended: perhaps an adopted one.
    ChildEnded,
}

/// Blocks the signals that this process handles until [`SignalStream::new`]: before that, their default action would
/// end the process without a message, even for signals that only ask for a reload. The inherited mask is replaced
/// (`signal(7)`).
///
/// To be called before there is a second thread. Threads that start meanwhile never take these signals.
pub(crate) fn hold() {
    let _ = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]).thread_set_mask();
}

/// Unblocks the signals; pending ones are delivered now.
pub(crate) fn release() {
    let _ = SigSet::empty().thread_set_mask();
}

/// Makes SIGTERM and SIGINT end this process with this exit code, after [`SignalStream`] has handled them: without it they
/// would do nothing any more.
pub(crate) fn exit_on_stop(code: ExitCode) {
    for signal in [SIGTERM, SIGINT] {
        let always = Arc::new(AtomicBool::new(true));
        // The system refuses only signals that cannot be handled.
        let _ = signal_hook::flag::register_conditional_shutdown(signal, i32::from(code.number()), always);
    }
}

/// The signals this process handles. Others keep their default reaction.
pub(crate) struct SignalStream {
    stream: Stream,
    /// Whether there was a terminal at the start whose end ends the daemon, too.
    had_terminal: bool,
}

impl SignalStream {
    /// Begins to handle them, first those that have become pending since [`hold`].
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub(crate) fn new(terminal: Terminal) -> io::Result<SignalStream> {
        let stream = Stream::new([SIGTERM, SIGINT, SIGHUP, SIGCHLD])?;
        release();
        Ok(SignalStream { stream, had_terminal: terminal.there })
    }

    /// Waits for the next one. Safe to be cancelled.
    pub(crate) async fn next(&mut self) -> SignalAction {
        loop {
            match self.stream.next().await {
                Some(SIGTERM) => return SignalAction::Stop(StopSource::Terminate),
                Some(SIGINT) => return SignalAction::Stop(StopSource::Interrupt),
                // Sent by the kernel when the terminal is gone; otherwise a request to reload.
                Some(SIGHUP) if self.had_terminal && !has_terminal() => {
                    return SignalAction::Stop(StopSource::Hangup);
                }
                Some(SIGHUP) => return SignalAction::Reload,
                Some(SIGCHLD) => return SignalAction::ChildEnded,
                Some(_) => {}
                // The stream ends only when its handle is closed, which never happens.
                None => std::future::pending().await,
            }
        }
    }
}

/// The terminal that this process was started in, if it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terminal {
    there: bool,
}

impl Terminal {
    /// Looks whether there is one. To be called early, and after the process has left one that is not its own.
    pub(crate) fn look() -> Terminal {
        Terminal { there: has_terminal() }
    }
}

/// Returns whether this process has a controlling terminal: `/dev/tty` opens only then (`tty(4)`).
fn has_terminal() -> bool {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits() | nix::fcntl::OFlag::O_NOCTTY.bits())
        .open("/dev/tty")
        .is_ok()
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::raise;

    use super::*;

    #[tokio::test]
    async fn a_signal_that_comes_before_anybody_handles_it_is_not_lost() {
        hold();
        raise(Signal::SIGHUP).unwrap();
        let mut signals = SignalStream::new(Terminal { there: false }).unwrap();
        assert_eq!(signals.next().await, SignalAction::Reload);
    }
}
