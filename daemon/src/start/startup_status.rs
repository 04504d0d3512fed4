//! The startup status that a daemon sends to the process that started it: `ready`, or why it failed. It is sent once,
//! on the standard output, which is then redirected to `/dev/null`.

use std::cell::Cell;
use std::io::{self, Write as _};
use std::rc::Rc;
use std::time::{Duration, Instant};

use codexd_proto::exit::ExitCode;

use crate::error::Error;

/// Sends the startup status, once. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct StartupNotifier {
    pending: Rc<Cell<bool>>,
    was_ready: Rc<Cell<bool>>,
}

/// The startup status as the starting process received it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StartupStatus {
    /// Clients are served.
    Ready,
    /// The daemon ends, with this code, for this reason, and this can be done about it.
    Failed(ExitCode, String, Option<String>),
    /// The pipe ended without a status.
    Nothing,
    /// No status came in time.
    Late,
}

impl StartupNotifier {
    /// Makes the notifier of a daemon; it sends only if `pending`: a client that started the daemon waits for it.
    pub(crate) fn new(pending: bool) -> StartupNotifier {
        StartupNotifier { pending: Rc::new(Cell::new(pending)), was_ready: Rc::default() }
    }

    /// Reports that clients are served.
    pub(crate) fn ready(&self) {
        self.was_ready.set(true);
        self.say("ready\n");
    }

    /// Returns whether clients were ever served.
    pub(crate) fn was_ready(&self) -> bool {
        self.was_ready.get()
    }

    /// Reports why the daemon ends; sends nothing if the status was sent before.
    pub(crate) fn failed(&self, code: ExitCode, reason: &str, hint: Option<&str>) {
        let hint = hint.map(|hint| format!("hint: {}\n", one_line(hint))).unwrap_or_default();
        self.say(&format!("failed {} {}\n{hint}", code.number(), one_line(reason)));
    }

    fn say(&self, text: &str) {
        if !self.pending.replace(false) {
            return;
        }
        // The starting process may be gone: then the status has no reader.
        let mut stdout = io::stdout().lock();
        let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        if let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
            let _ = nix::unistd::dup2_stdout(null);
        }
    }
}

/// Waits for the status, for `patience` at the most.
pub(super) fn listen(mut pipe: io::PipeReader, patience: Duration) -> StartupStatus {
    use std::io::Read as _;
    use std::os::fd::AsFd as _;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    let until = Instant::now() + patience;
    let mut text = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if text.starts_with(b"ready\n") {
            return StartupStatus::Ready;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return StartupStatus::Late;
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        if poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], timeout).is_ok_and(|ready| ready == 0) {
            continue;
        }
        match pipe.read(&mut chunk) {
            Ok(0) => return read(&text),
            Ok(length) => text.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return StartupStatus::Nothing,
        }
    }
}

fn read(text: &[u8]) -> StartupStatus {
    let text = String::from_utf8_lossy(text);
    let mut lines = text.lines();
    let mut failed = || {
        let (code, reason) = lines.next()?.strip_prefix("failed ")?.split_once(' ')?;
        let hint = lines.next().and_then(|line| line.strip_prefix("hint: ")).map(str::to_owned);
        Some(StartupStatus::Failed(super::lock::exit_code(code.parse().ok()?), reason.to_owned(), hint))
    };
    failed().unwrap_or(StartupStatus::Nothing)
}

impl StartupStatus {
    /// Returns the status as the result of the start; `None` where there was none.
    pub(super) fn into_result(self) -> Option<Result<(), Error>> {
        match self {
            StartupStatus::Ready => Some(Ok(())),
            StartupStatus::Failed(code, reason, hint) => {
                let text = format!("the daemon did not start (exit code {}): {reason}", code.number());
                let error = Error::new(code, text);
                Some(Err(match hint {
                    Some(hint) => error.hint(hint),
                    None => error,
                }))
            }
            StartupStatus::Nothing | StartupStatus::Late => None,
        }
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_said() {
        assert_eq!(
            read(b"failed 69 cannot find `codex`: x\nhint: install\n"),
            StartupStatus::Failed(
                ExitCode::Unavailable,
                "cannot find `codex`: x".to_owned(),
                Some("install".to_owned())
            )
        );
        for nothing in ["", "failed", "failed x y", "rea"] {
            assert_eq!(read(nothing.as_bytes()), StartupStatus::Nothing, "{nothing}");
        }
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"ready\n").unwrap();
        // The daemon lives on and keeps the pipe open.
        assert_eq!(listen(reader, Duration::from_secs(30)), StartupStatus::Ready);
        let (reader, writer) = io::pipe().unwrap();
        drop(writer);
        assert_eq!(listen(reader, Duration::from_secs(30)), StartupStatus::Nothing);
    }
}
