//! A client's socket, watched for what matters.
//!
//! A socket that is registered for reading and writing wakes its task each time the peer has read
//! something: after every message, for nothing. So it is watched for reading only, and for writing
//! only while it is full.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// A non-blocking connected socket.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: AsyncFd<UnixStream>,
    /// A second descriptor of the same socket, watched for writing while it is full.
    full: Option<AsyncFd<UnixStream>>,
}

impl Socket {
    /// Takes over a socket that does not block.
    ///
    /// # Errors
    /// When the system cannot watch it.
    pub(crate) fn new(stream: UnixStream) -> io::Result<Socket> {
        Ok(Socket { stream: sys::watch(stream, Interest::READABLE)?, full: None })
    }

    /// Reads what is there into `buffer`; `Ok(0)` is the end. Pending registers the task.
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.stream.poll_read_ready(cx))?;
            match guard.try_io(|socket| socket.get_ref().read(buffer)) {
                Ok(Ok(n)) => {
                    if 0 < n && n < buffer.len() {
                        // It gave less than there was room for: it is empty, and says so when it is not.
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

    /// Writes as much of `bytes` as the socket takes at once.
    ///
    /// # Errors
    /// `WouldBlock` when it is full; then [`Socket::poll_writable`] tells when it is not.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.stream.get_ref().write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Writes as much of several pieces as the socket takes at once; otherwise as
    /// [`Socket::try_write`].
    pub(crate) fn try_write_vectored(&self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        loop {
            match self.stream.get_ref().write_vectored(pieces) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Ready when the socket may take something again. Pending registers the task.
    pub(crate) fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let full = match &mut self.full {
            Some(full) => full,
            none => {
                let second = self.stream.get_ref().try_clone()?;
                none.insert(sys::watch(second, Interest::WRITABLE)?)
            }
        };
        ready!(full.poll_write_ready(cx))?.retain_ready();
        self.full = None;
        Poll::Ready(Ok(()))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.get_ref().as_fd()
    }
}
