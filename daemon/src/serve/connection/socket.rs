//! A client's socket, watched for what matters.
//!
//! A socket that is registered for reading and writing wakes its task each time the peer has read
//! something: after every message, for nothing. So it is watched for reading only, and for writing
//! only from when it is full until it has taken everything for some time: with a client that is a little slower than
//! its messages come, it is full again at once, and each change costs two system calls.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::os::unsafe_calls;

/// Writes in a row that a socket takes completely before it is no longer watched for writing.
const CALM_WRITES: u8 = 64;

/// A non-blocking connected socket.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: Rc<UnixStream>,
    /// Absent only when the system refused to watch it anew.
    watch: Option<AsyncFd<Rc<UnixStream>>>,
    /// It is watched for writing too.
    watched_for_writing: bool,
    /// Writes in a row that it has taken completely since it was full.
    calm_writes: u8,
}

impl Socket {
    /// Takes over a socket that does not block.
    ///
    /// # Errors
    /// When the system cannot watch it.
    pub(crate) fn new(stream: UnixStream) -> io::Result<Socket> {
        let mut socket =
            Socket { stream: Rc::new(stream), watch: None, watched_for_writing: false, calm_writes: 0 };
        socket.watch_for(Interest::READABLE)?;
        Ok(socket)
    }

    /// Watches the socket for something else than before. Takes no descriptor, so that it works when there
    /// are none left.
    fn watch_for(&mut self, interest: Interest) -> io::Result<()> {
        // A descriptor can be registered only once.
        self.watch = None;
        self.watch = Some(unsafe_calls::watch(Rc::clone(&self.stream), interest)?);
        self.watched_for_writing = interest.is_writable();
        Ok(())
    }

    fn watch(&self) -> io::Result<&AsyncFd<Rc<UnixStream>>> {
        self.watch.as_ref().ok_or_else(|| io::Error::other("the socket cannot be watched"))
    }

    /// Reads what is there into `buffer`; `Ok(0)` is the end. Pending registers the task.
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let watch = self.watch()?;
        loop {
            let mut guard = ready!(watch.poll_read_ready(cx))?;
            match guard.try_io(|socket| (&**socket.get_ref()).read(buffer)) {
                Ok(Ok(n)) => {
                    if 0 < n && n < buffer.len() {
                        // It returned less than there was room for: it is empty, and readiness is reported when it no
                        // longer is.
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(n));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }

    /// Reads what is there into `buffer`, whether or not the system has reported readiness yet; `Ok(0)` is the end.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match (&*self.stream).read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Writes as much of `bytes` as the socket takes at once.
    ///
    /// # Errors
    /// `WouldBlock` when it is full; then [`Socket::poll_writable`] is ready when it no longer is.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match (&*self.stream).write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Writes as much of several pieces as the socket takes at once; otherwise as
    /// [`Socket::try_write`].
    pub(crate) fn try_write_vectored(&self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        loop {
            match (&*self.stream).write_vectored(pieces) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Has a full socket take `bytes` more, as far as the system allows that (on Linux up to twice
    /// `net.core.wmem_max`, `socket(7)`): last bytes for a peer that does not read.
    pub(crate) fn make_room(&self, bytes: usize) {
        // That there is no more room is no reason not to try.
        if let Ok(room) = getsockopt(&self.stream, sockopt::SndBuf) {
            let _ = setsockopt(&self.stream, sockopt::SndBuf, &room.saturating_add(2 * bytes));
        }
    }

    /// Ready when the socket may take something again. Pending registers the task.
    ///
    /// A task that waits for reading has to poll again after this and after [`Socket::relax`].
    pub(crate) fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.watched_for_writing {
            self.watch_for(Interest::READABLE | Interest::WRITABLE)?;
        }
        self.calm_writes = 0;
        // The write that follows finds out what is left of it.
        ready!(self.watch()?.poll_write_ready(cx))?.clear_ready();
        Poll::Ready(Ok(()))
    }

    /// Records that everything was written. Returns whether [`Socket::relax`] is to be called.
    pub(crate) fn wrote_all(&mut self) -> bool {
        self.calm_writes = self.calm_writes.saturating_add(1);
        self.watched_for_writing && self.calm_writes == CALM_WRITES
    }

    /// Has the socket watched for reading only, if it has not been full for some time.
    ///
    /// # Errors
    /// When the system cannot watch it any more.
    pub(crate) fn relax(&mut self) -> io::Result<()> {
        if self.watched_for_writing && self.calm_writes >= CALM_WRITES {
            self.watch_for(Interest::READABLE)?;
        }
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
