//! The lock that only one starting client holds at a time, and the reason of the last failure in its file.
//!
//! The file stays: processes lock it in turn, and unlinking it would let two of them hold a lock on different files.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use codexd_proto::exit::ExitCode;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::instance::lock;
use crate::os::unix_time::unix_ms;

/// The start lock, held.
#[derive(Debug)]
pub(super) struct StartLock {
    file: Flock<File>,
}

/// Why the last start failed.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Failure {
    at_unix_ms: u64,
    code: u8,
    text: String,
    hint: Option<String>,
}

impl StartLock {
    /// Takes the lock; `None` while another process holds it.
    ///
    /// # Errors
    ///
    /// With exit code 77 when the file is a symbolic link, 73 when it cannot be made.
    pub(super) fn try_acquire(path: &Path) -> Result<Option<StartLock>, Error> {
        let file = lock::open(path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Some(StartLock { file })),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(lock::cannot_lock(path).because(errno)),
        }
    }

    /// Returns how the last start failed, if it did at that time or later.
    pub(super) fn failure_since(&mut self, unix_ms: u64) -> Option<Error> {
        let mut text = String::new();
        self.file.rewind().ok()?;
        self.file.read_to_string(&mut text).ok()?;
        let failure: Failure = serde_json::from_str(&text).ok()?;
        (failure.at_unix_ms >= unix_ms).then(|| {
            let error = Error::new(exit_code(failure.code), failure.text);
            match failure.hint {
                Some(hint) => error.hint(hint),
                None => error,
            }
        })
    }

    /// Leaves the reason for the processes that wait.
    pub(super) fn write_failure(&mut self, error: &Error) {
        let failure = Failure {
            at_unix_ms: unix_ms(),
            code: error.exit_code().number(),
            text: error.chain(),
            hint: error.next_step().map(str::to_owned),
        };
        let Ok(text) = serde_json::to_vec(&failure) else { return };
        // Who cannot read it starts a daemon and learns the reason from that.
        let _ =
            self.file.set_len(0).and_then(|()| self.file.rewind()).and_then(|()| self.file.write_all(&text));
    }

    /// Forgets the last failure.
    pub(super) fn clear(&mut self) {
        let _ = self.file.set_len(0);
    }
}

/// Returns the code with this number; one that is not known counts as an internal error.
pub(super) fn exit_code(number: u8) -> ExitCode {
    ExitCode::ALL.into_iter().find(|code| code.number() == number).unwrap_or(ExitCode::Software)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_failures_are_reported_to_those_that_waited() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("x.start");
        let before = unix_ms();
        let mut lock = StartLock::try_acquire(&path).unwrap().unwrap();
        assert!(StartLock::try_acquire(&path).unwrap().is_none());
        assert!(lock.failure_since(0).is_none());
        lock.write_failure(&Error::new(ExitCode::Unavailable, "no codex").hint("install it"));
        drop(lock);
        let mut lock = StartLock::try_acquire(&path).unwrap().unwrap();
        let failure = lock.failure_since(before).unwrap();
        assert_eq!((failure.exit_code(), failure.chain().as_str()), (ExitCode::Unavailable, "no codex"));
        assert_eq!(failure.next_step(), Some("install it"));
        assert!(lock.failure_since(unix_ms() + 10_000).is_none());
        lock.clear();
        assert!(lock.failure_since(0).is_none());
    }
}
