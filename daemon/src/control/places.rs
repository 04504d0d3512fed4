//! Who is connected to the control socket, and who makes room when a connection more wants in.
//!
//! # Theory of operation
//!
//! A connection *asks* until it subscribes; from then on it *waits*. Both kinds are bounded, each for itself, so that
//! no number of waiting `codexd ctl wait` and `codexd ctl stop` keeps a `codexd ctl status` out. Who asks is done
//! within milliseconds. One that keeps its connection and says nothing is closed as soon as somebody else needs its
//! place; until then newcomers stay in the listener's backlog.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Connections that ask, at the same time.
pub(crate) const MAX_ASKING: usize = 32;
/// Connections that wait, at the same time.
pub(crate) const MAX_WAITING: usize = 96;
/// How long a connection that asks may be silent before it can lose its place: longer than an answer takes.
const IDLE: Duration = Duration::from_secs(1);

/// All places. See the [module's documentation](self).
#[derive(Clone, Default)]
pub(super) struct Places(Arc<Shared>);

#[derive(Default)]
struct Shared {
    taken: Mutex<Taken>,
    /// Somebody who asked has gone, or waits now.
    freed: Notify,
    connections: TaskTracker,
}

#[derive(Default)]
struct Taken {
    next: u64,
    asking: BTreeMap<u64, Arc<Line>>,
    /// Connections that wait, with their number of subscriptions.
    waiting: BTreeMap<u64, usize>,
}

/// The place of one connection, until it is dropped.
pub(super) struct Place {
    number: u64,
    places: Places,
    line: Arc<Line>,
    _connected: TaskTrackerToken,
}

/// The place of a connection among those that wait, until it is dropped.
pub(super) struct Waiting(Arc<Place>);

/// A connection that can be closed from outside.
struct Line {
    stream: UnixStream,
    /// When something was last read from it.
    heard: Mutex<Instant>,
}

/// The stream of a connection that has a place.
pub(super) struct PlacedStream(Arc<Line>);

impl Places {
    /// Completes when there is a place for one more connection; closes those that are idle for it.
    pub(super) async fn room(&self) {
        loop {
            let freed = self.0.freed.notified();
            let Some(left) = self.make_room(Instant::now()) else { return };
            tokio::select! {
                () = freed => {}
                () = tokio::time::sleep(left) => {}
            }
        }
    }

    /// Makes room if there is none; returns when to try again if nobody is idle at `now`.
    fn make_room(&self, now: Instant) -> Option<Duration> {
        let mut taken = self.0.taken.lock();
        if taken.asking.len() < MAX_ASKING {
            return None;
        }
        let idle_for = |line: &Line| now.saturating_duration_since(*line.heard.lock());
        let before = taken.asking.len();
        taken.asking.retain(|_, line| {
            let idle = idle_for(line) >= IDLE;
            if idle {
                line.close();
            }
            !idle
        });
        let closed = before - taken.asking.len();
        if closed > 0 {
            tracing::debug!(closed, "closed control connections that asked nothing");
            return None;
        }
        taken.asking.values().map(|line| IDLE - idle_for(line)).min()
    }

    /// Gives a connection a place among those that ask.
    pub(super) fn take(&self, stream: UnixStream) -> (Arc<Place>, PlacedStream) {
        let line = Arc::new(Line { stream, heard: Mutex::new(Instant::now()) });
        let mut taken = self.0.taken.lock();
        let number = taken.next;
        taken.next += 1;
        taken.asking.insert(number, Arc::clone(&line));
        drop(taken);
        let place = Place {
            number,
            places: self.clone(),
            line: Arc::clone(&line),
            _connected: self.0.connections.token(),
        };
        (Arc::new(place), PlacedStream(line))
    }

    /// Completes when every connection has ended.
    pub(super) async fn finish(&self) {
        self.0.connections.close();
        self.0.connections.wait().await;
    }
}

impl Place {
    /// Makes the connection one that waits, which leaves its place to others that ask; `None` if too many wait.
    pub(super) fn wait(self: &Arc<Self>) -> Option<Waiting> {
        let mut taken = self.places.0.taken.lock();
        let others = taken.waiting.len();
        match taken.waiting.get_mut(&self.number) {
            Some(subscriptions) => *subscriptions += 1,
            None if others >= MAX_WAITING => return None,
            None => {
                taken.waiting.insert(self.number, 1);
                taken.asking.remove(&self.number);
                self.places.0.freed.notify_one();
            }
        }
        Some(Waiting(Arc::clone(self)))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let place = &self.0;
        let mut taken = place.places.0.taken.lock();
        if let Some(subscriptions) = taken.waiting.get_mut(&place.number) {
            *subscriptions -= 1;
            if *subscriptions == 0 {
                taken.waiting.remove(&place.number);
                taken.asking.insert(place.number, Arc::clone(&place.line));
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.0.taken.lock().asking.remove(&self.number);
        self.places.0.freed.notify_one();
    }
}

impl Line {
    /// Ends the connection: whoever serves it reads its end.
    fn close(&self) {
        // One that has ended already needs no end.
        let _ = nix::sys::socket::shutdown(self.stream.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }
}

impl AsyncRead for PlacedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.stream.poll_read_ready(cx))?;
            match self.0.stream.try_read(buffer.initialize_unfilled()) {
                Ok(length) => {
                    buffer.advance(length);
                    *self.0.heard.lock() = Instant::now();
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for PlacedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.stream.poll_write_ready(cx))?;
            match self.0.stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let fd = self.0.stream.as_raw_fd();
        Poll::Ready(
            nix::sys::socket::shutdown(fd, nix::sys::socket::Shutdown::Write).map_err(io::Error::from),
        )
    }
}
