//! Signals to this process, as a stream of what they mean.

use std::io;

use codexd_proto::lifecycle::StopSource;
use futures_util::StreamExt as _;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals as Stream;

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
}

impl Signals {
    /// Begins to handle them.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub(crate) fn new() -> io::Result<Signals> {
        Ok(Signals { stream: Stream::new([SIGTERM, SIGINT, SIGHUP, SIGCHLD])? })
    }

    /// Waits for the next one. Safe to be cancelled.
    pub(crate) async fn next(&mut self) -> Wish {
        loop {
            match self.stream.next().await {
                Some(SIGTERM) => return Wish::Stop(StopSource::Terminate),
                Some(SIGINT) => return Wish::Stop(StopSource::Interrupt),
                Some(SIGHUP) => return Wish::Reload,
                Some(SIGCHLD) => return Wish::ChildEnded,
                Some(_) => {}
                // The stream ends only when its handle is closed, and nobody closes it.
                None => std::future::pending().await,
            }
        }
    }
}
