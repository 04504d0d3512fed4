//! Slots for the connections to the control socket.
//!
//! # Theory of operation
//!
//! A connection without a subscription sends requests that are answered within milliseconds. One with a subscription
//! waits for something that the daemon reports. Each kind has slots of its own, so that no number of waiting
//! `codexd ctl wait` and `codexd ctl stop` can lock `codexd ctl status` out. While all slots for requests are occupied,
//! new connections stay in the listener's backlog, and connections that have sent nothing for a second are closed.

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

/// Slots for connections without a subscription.
pub(crate) const MAX_UNSUBSCRIBED: usize = 32;
/// Slots for connections with a subscription.
pub(crate) const MAX_SUBSCRIBED: usize = 96;
/// Time without a request after which a connection without a subscription can lose its slot. Longer than an answer
/// takes.
const IDLE: Duration = Duration::from_secs(1);

/// All slots. See the [module's documentation](self).
#[derive(Clone, Default)]
pub(super) struct Slots(Arc<Shared>);

#[derive(Default)]
struct Shared {
    occupied: Mutex<Occupied>,
    /// Notified when a slot for a connection without a subscription is free.
    freed: Notify,
    connections: TaskTracker,
}

#[derive(Default)]
struct Occupied {
    next: u64,
    unsubscribed: BTreeMap<u64, Arc<SharedStream>>,
    /// Connections with a subscription, with the number of their subscriptions.
    subscribed: BTreeMap<u64, usize>,
}

/// The slot of one connection, until it is dropped.
pub(super) struct Slot {
    number: u64,
    slots: Slots,
    stream: Arc<SharedStream>,
    _connected: TaskTrackerToken,
}

/// One subscription of a connection, until it is dropped.
pub(super) struct Subscribed(Arc<Slot>);

/// A stream that can be shut down while the library serves it.
struct SharedStream {
    stream: UnixStream,
    /// When something was last read from it.
    last_read: Mutex<Instant>,
}

/// The stream of a connection with a slot, for the library that serves it.
pub(super) struct SlotStream(Arc<SharedStream>);

impl Slots {
    /// Waits for a slot for one more connection. Closes idle connections if there is none.
    pub(super) async fn free(&self) {
        loop {
            let freed = self.0.freed.notified();
            let Some(left) = self.close_idle(Instant::now()) else { return };
            tokio::select! {
                () = freed => {}
                () = tokio::time::sleep(left) => {}
            }
        }
    }

    /// Closes the connections that are idle at `now` if no slot is free. If none is idle, returns the time after
    /// which one can be.
    fn close_idle(&self, now: Instant) -> Option<Duration> {
        let mut occupied = self.0.occupied.lock();
        if occupied.unsubscribed.len() < MAX_UNSUBSCRIBED {
            return None;
        }
        let idle_for = |stream: &SharedStream| now.saturating_duration_since(*stream.last_read.lock());
        let before = occupied.unsubscribed.len();
        occupied.unsubscribed.retain(|_, stream| {
            let idle = idle_for(stream) >= IDLE;
            if idle {
                stream.close();
            }
            !idle
        });
        let closed = before - occupied.unsubscribed.len();
        if closed > 0 {
            tracing::debug!(closed, "closed idle control connections");
            return None;
        }
        occupied.unsubscribed.values().map(|stream| IDLE - idle_for(stream)).min()
    }

    /// Gives a connection without a subscription a slot.
    pub(super) fn take(&self, stream: UnixStream) -> (Arc<Slot>, SlotStream) {
        let stream = Arc::new(SharedStream { stream, last_read: Mutex::new(Instant::now()) });
        let mut occupied = self.0.occupied.lock();
        let number = occupied.next;
        occupied.next += 1;
        occupied.unsubscribed.insert(number, Arc::clone(&stream));
        drop(occupied);
        let slot = Slot {
            number,
            slots: self.clone(),
            stream: Arc::clone(&stream),
            _connected: self.0.connections.token(),
        };
        (Arc::new(slot), SlotStream(stream))
    }

    /// Waits until every connection has ended.
    pub(super) async fn finish(&self) {
        self.0.connections.close();
        self.0.connections.wait().await;
    }
}

impl Slot {
    /// Adds a subscription. The connection moves to a slot for those with one. `None` if all of these are occupied.
    pub(super) fn subscribe(self: &Arc<Self>) -> Option<Subscribed> {
        let mut occupied = self.slots.0.occupied.lock();
        let others = occupied.subscribed.len();
        match occupied.subscribed.get_mut(&self.number) {
            Some(subscriptions) => *subscriptions += 1,
            None if others >= MAX_SUBSCRIBED => return None,
            None => {
                occupied.subscribed.insert(self.number, 1);
                occupied.unsubscribed.remove(&self.number);
                self.slots.0.freed.notify_one();
            }
        }
        Some(Subscribed(Arc::clone(self)))
    }
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        let slot = &self.0;
        let mut occupied = slot.slots.0.occupied.lock();
        if let Some(subscriptions) = occupied.subscribed.get_mut(&slot.number) {
            *subscriptions -= 1;
            if *subscriptions == 0 {
                occupied.subscribed.remove(&slot.number);
                occupied.unsubscribed.insert(slot.number, Arc::clone(&slot.stream));
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.0.occupied.lock().unsubscribed.remove(&self.number);
        self.slots.0.freed.notify_one();
    }
}

impl SharedStream {
    /// Ends the connection: the library reads the end of the stream.
    fn close(&self) {
        // A stream that has ended already cannot be shut down, which is no fault.
        let _ = nix::sys::socket::shutdown(self.stream.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }
}

impl AsyncRead for SlotStream {
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
                    *self.0.last_read.lock() = Instant::now();
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for SlotStream {
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
