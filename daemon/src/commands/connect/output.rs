//! The standard output, towards the client, written to without waiting.
//!
//! The flag that makes a stream non-blocking belongs to all programs that share it, so it is left as it is. A pipe is opened
//! anew, which gives this process a flag of its own, and a socket is told with each message. Then bytes go out as soon as
//! they are there, as many as fit. Of anything else, such as a terminal, only readiness is known.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};

use nix::errno::Errno;

/// Bytes written at once to what is only known to be ready: what a pipe that is ready takes without blocking (`PIPE_BUF`,
/// `pipe(7)`).
const READY_BYTES: usize = 4096;

/// See the [module's documentation](self).
#[derive(Debug)]
pub(super) enum Output<S = io::Stdout> {
    /// A pipe, opened anew by this process.
    Pipe(File),
    Socket(S),
    Other(S),
}

impl Output {
    /// Looks at the standard output.
    pub(super) fn of_process() -> Output {
        Output::of(io::stdout())
    }
}

impl<S: AsFd> Output<S> {
    fn of(stream: S) -> Output<S> {
        // macOS opens `/dev/fd/1` as a duplicate, with the flags of the original, and has no MSG_DONTWAIT for streams.
        if !cfg!(target_os = "linux") {
            return Output::Other(stream);
        }
        let look =
            || io::Result::Ok(File::from(stream.as_fd().try_clone_to_owned()?).metadata()?.file_type());
        match look() {
            Ok(kind) if kind.is_socket() => Output::Socket(stream),
            Ok(kind) if kind.is_fifo() => {
                opened_anew(stream.as_fd()).map_or(Output::Other(stream), Output::Pipe)
            }
            _ => Output::Other(stream),
        }
    }

    /// Returns whether a write never waits, whatever the reader does.
    pub(super) fn never_waits(&self) -> bool {
        !matches!(self, Output::Other(_))
    }

    /// Writes as much as the reader takes at once. Of [another](Output::Other) stream, it must be known that it is ready.
    ///
    /// # Errors
    ///
    /// EAGAIN when it takes nothing now.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match self {
            Output::Pipe(pipe) => nix::unistd::write(pipe, bytes),
            #[cfg(target_os = "linux")]
            Output::Socket(socket) => {
                use nix::sys::socket::{MsgFlags, send};
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                send(socket.as_fd().as_raw_fd(), bytes, flags)
            }
            #[cfg(not(target_os = "linux"))]
            Output::Socket(stream) => nix::unistd::write(stream, bytes),
            Output::Other(stream) => nix::unistd::write(stream, &bytes[..bytes.len().min(READY_BYTES)]),
        }
    }
}

/// Opens a pipe again, so that it has flags of its own. Returns `None` if that is another pipe, or the system refuses it.
fn opened_anew(pipe: BorrowedFd<'_>) -> Option<File> {
    let path = format!("/proc/self/fd/{}", pipe.as_raw_fd());
    let own = OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(path).ok()?;
    let opened = own.metadata().ok()?;
    let given = File::from(pipe.try_clone_to_owned().ok()?).metadata().ok()?;
    ((opened.dev(), opened.ino()) == (given.dev(), given.ino())).then_some(own)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;

    /// Writes until the reader takes no more; returns how many bytes it has taken.
    fn fill(output: &Output<OwnedFd>) -> usize {
        let mut taken = 0;
        loop {
            match output.write(&[b'x'; 10_000]) {
                Ok(bytes) => taken += bytes,
                Err(error) => {
                    assert_eq!(error, Errno::EAGAIN);
                    return taken;
                }
            }
        }
    }

    fn blocks(stream: impl AsFd) -> bool {
        !OFlag::from_bits_retain(fcntl(stream, FcntlArg::F_GETFL).expect("every stream has flags"))
            .contains(OFlag::O_NONBLOCK)
    }

    /// Checks that a stream is filled without waiting, and that the others who have it are not affected.
    fn check_filling(mut reader: impl io::Read, writer: OwnedFd) {
        let others = writer.try_clone().expect("a stream can be duplicated");
        let output = Output::of(writer);
        assert!(output.never_waits());
        let taken = fill(&output);
        assert!(blocks(&others));
        drop((output, others));
        assert_eq!(reader.read_to_end(&mut Vec::new()).expect("a stream can be read"), taken);
    }

    #[test]
    fn a_pipe_is_filled_without_waiting_and_blocks_the_others_who_have_it_as_before() {
        let (reader, writer) = io::pipe().unwrap();
        check_filling(reader, writer.into());
    }

    #[test]
    fn a_socket_is_filled_without_waiting_and_blocks_the_others_who_have_it_as_before() {
        let (reader, writer) = UnixStream::pair().unwrap();
        check_filling(reader, writer.into());
    }

    #[test]
    fn of_anything_else_only_readiness_is_known_and_it_takes_a_little_at_once() {
        let file = OpenOptions::new().write(true).open("/dev/null").unwrap();
        let output = Output::of(OwnedFd::from(file));
        assert!(!output.never_waits());
        assert_eq!(output.write(&[b'x'; 10_000]), Ok(READY_BYTES));
    }

    #[test]
    fn a_client_that_has_gone_is_an_error_and_not_a_signal() {
        let (reader, writer) = UnixStream::pair().unwrap();
        drop(reader);
        assert_eq!(Output::of(OwnedFd::from(writer)).write(b"x"), Err(Errno::EPIPE));
    }
}
