//! The client's end of the standard output, written to without waiting.
//!
//! The flag that makes a stream non-blocking belongs to all programs that share it, so it is left as it is. A pipe is opened
//! anew, which gives this process a flag of its own, and a socket is told with each message. Then bytes go out as soon as
//! they are there, as many as fit. Of anything else, such as a terminal, only readiness is known.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};

use nix::errno::Errno;

/// Bytes written at once to what is only known to be ready: what a pipe that is ready takes without blocking (`PIPE_BUF`,
/// `pipe(7)`).
const READY_BYTES: usize = 4096;

/// See the [module's documentation](self).
#[derive(Debug)]
pub(super) enum Output {
    /// A pipe, opened by this process.
    Pipe(File),
    Socket,
    Other,
}

impl Output {
    /// Looks at the standard output.
    pub(super) fn of_process() -> Output {
        // macOS opens `/dev/fd/1` as a duplicate, with the flags of the original, and has no MSG_DONTWAIT for streams.
        if cfg!(target_os = "linux") { Output::look().unwrap_or(Output::Other) } else { Output::Other }
    }

    fn look() -> io::Result<Output> {
        let given = File::from(io::stdout().as_fd().try_clone_to_owned()?).metadata()?;
        if given.file_type().is_socket() {
            return Ok(Output::Socket);
        }
        if !given.file_type().is_fifo() {
            return Ok(Output::Other);
        }
        let own =
            OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open("/proc/self/fd/1")?;
        let opened = own.metadata()?;
        let same = (opened.dev(), opened.ino()) == (given.dev(), given.ino());
        Ok(if same { Output::Pipe(own) } else { Output::Other })
    }

    /// Returns whether a write never waits, whatever the reader does.
    pub(super) fn never_waits(&self) -> bool {
        !matches!(self, Output::Other)
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
            Output::Socket => {
                use std::os::fd::AsRawFd as _;

                use nix::sys::socket::{MsgFlags, send};
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                send(io::stdout().as_raw_fd(), bytes, flags)
            }
            _ => nix::unistd::write(io::stdout(), &bytes[..bytes.len().min(READY_BYTES)]),
        }
    }
}
