//! Notices that a peer has ended its side of a connection, without reading what it sent before.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::poll::PollFlags;

/// Watches for the end of what a peer sends; to be polled for [`EndWatch::FLAGS`].
///
/// On Linux the end is noticed when the peer closes its sending half, elsewhere when it closes both.
#[derive(Debug)]
pub(crate) struct EndWatch(OwnedFd);

impl EndWatch {
    /// What to poll for. The end is reported as this, or as `POLLHUP`.
    pub(crate) const FLAGS: PollFlags =
        if cfg!(target_os = "linux") { PollFlags::POLLIN } else { PollFlags::empty() };

    /// Watches a socket.
    ///
    /// # Errors
    /// When there is no descriptor for it.
    #[cfg(target_os = "linux")]
    pub(crate) fn of(socket: &UnixStream) -> io::Result<EndWatch> {
        use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
        // `poll(2)` of the nix crate does not know POLLRDHUP; an epoll that is ready can be polled itself.
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLRDHUP, 0))?;
        Ok(EndWatch(epoll.0))
    }

    /// Watches a socket.
    ///
    /// # Errors
    /// When there is no descriptor for it.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn of(socket: &UnixStream) -> io::Result<EndWatch> {
        Ok(EndWatch(socket.try_clone()?.into()))
    }
}

impl AsFd for EndWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use nix::poll::{PollFd, PollTimeout, poll};

    use super::*;

    fn has_ended(watch: &EndWatch) -> bool {
        let mut fds = [PollFd::new(watch.as_fd(), EndWatch::FLAGS)];
        poll(&mut fds, PollTimeout::ZERO) == Ok(1)
    }

    #[test]
    fn the_end_is_noticed_and_what_was_sent_before_is_not() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let watch = EndWatch::of(&ours).unwrap();
        assert!(!has_ended(&watch));
        theirs.write_all(b"something").unwrap();
        assert!(!has_ended(&watch));
        if cfg!(target_os = "linux") {
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
            assert!(has_ended(&watch));
        }
        drop(theirs);
        assert!(has_ended(&watch));
    }
}
