//! The last bytes of a connection.

use std::os::fd::{AsFd as _, AsRawFd as _};

use nix::sys::socket::{Shutdown, shutdown};

use super::{Socket, Written, write_bytes};

/// A connection that gets some last bytes and is closed then.
///
/// After them only the sending half is closed, and what still comes is thrown away until the peer
/// closes too: closing both halves on unread bytes would be a reset, and the peer might not see the
/// last bytes (RFC 9112, section 9.6; RFC 6455, section 7.1.1).
pub(crate) struct Ending {
    output: Vec<u8>,
    sent: usize,
}

impl Ending {
    /// Creates an end with these last bytes.
    pub(crate) fn with(output: Vec<u8>) -> Ending {
        Ending { output, sent: 0 }
    }

    /// Returns whether the last byte is written.
    pub(crate) fn is_written(&self) -> bool {
        self.sent == self.output.len()
    }

    /// Writes what the socket takes; closes the sending half after the last byte.
    pub(crate) fn write(&mut self, stream: &Socket) -> Written {
        if self.is_written() {
            return Written::default();
        }
        let written = write_bytes(stream, &self.output[self.sent..]);
        self.sent += written.taken;
        if self.is_written() {
            // A peer that is gone already gets nothing.
            let _ = shutdown(stream.as_fd().as_raw_fd(), Shutdown::Write);
        }
        Written { taken: 0, ..written }
    }
}
