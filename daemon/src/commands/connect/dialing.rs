//! A connection to the next daemon, made beside the loop: it may have to be started first, and meanwhile the client is
//! read and written.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use codexd_proto::exit::ExitCode;

use super::bridge::client_gone;
use super::dial::{self, Wait};
use crate::error::Error;
use crate::start::Target;

/// An attempt to get one.
pub(super) struct Dialing {
    result: Receiver<Result<UnixStream, Error>>,
    /// Its other end closes when there is a result.
    wake: UnixStream,
    cancelled: Arc<AtomicBool>,
}

impl Dialing {
    /// Begins after a pause, and starts a daemon only if it may; see [`Wait`] for `until` and `since_unix_ms`.
    ///
    /// # Errors
    ///
    /// When the system has no socket or no thread for it.
    pub(super) fn begin(
        target: &Target<'_>,
        may_spawn: bool,
        pause: Duration,
        until: Instant,
        since_unix_ms: u64,
    ) -> io::Result<Dialing> {
        let (sender, result) = channel();
        let (wake, other) = UnixStream::pair()?;
        let cancelled = Arc::new(AtomicBool::new(false));
        let gone = cancelled.clone();
        let (settings, environment) = (target.settings.clone(), target.environment.clone());
        let codex_args = target.codex_args.clone();
        // It may wait for the start of a daemon, and ends with the process at the latest.
        std::thread::Builder::new().spawn(move || {
            let _other = other;
            std::thread::park_timeout(pause);
            let target = Target {
                settings: &settings,
                environment: &environment,
                codex_args: &codex_args,
                may_spawn,
                codexd: None,
            };
            let client_gone = || gone.load(Ordering::Relaxed) || client_gone();
            let found = if Instant::now() < until {
                dial::obtain(&target, &Wait { until, since_unix_ms, client_gone: &client_gone })
            } else {
                Err(Error::new(ExitCode::Unavailable, "no daemon accepted this client in time"))
            };
            // Without a receiver, the bridge has ended.
            let _ = sender.send(found);
        })?;
        Ok(Dialing { result, wake, cancelled })
    }

    /// Returns the result, if it is there.
    pub(super) fn poll(&self) -> Option<Result<UnixStream, Error>> {
        match self.result.try_recv() {
            Ok(result) => Some(result),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(Error::os("the attempt to connect broke off"))),
        }
    }
}

impl AsFd for Dialing {
    /// Returns what becomes readable when the result is there.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl Drop for Dialing {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}
