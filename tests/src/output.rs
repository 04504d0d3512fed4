//! The output of a program that was run to its end, and how it ended.

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::wait;

/// The result of a run. Its `Display` is made for snapshots: all three parts in one text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a run that nobody looks at proves nothing"]
pub struct Output {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How it ended.
    pub status: ExitStatus,
    /// The command line, for messages.
    pub command: String,
}

impl Output {
    /// Runs a command to its end, without input.
    ///
    /// # Panics
    ///
    /// When it cannot be started, or does not end in [`wait::PATIENCE`] (it is killed then).
    #[track_caller]
    pub fn of(command: &mut Command) -> Output {
        Output::with_input(command, b"")
    }

    /// Runs a command to its end with this input.
    ///
    /// # Panics
    ///
    /// As [`Output::of`].
    #[track_caller]
    pub fn with_input(command: &mut Command, input: &[u8]) -> Output {
        let line = describe(command);
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = match started {
            Ok(child) => child,
            Err(error) => panic!("cannot run `{line}`: {error}"),
        };
        let mut stdin = child.stdin.take().expect("stdin was asked to be a pipe");
        let input = input.to_vec();
        std::thread::spawn(move || drop(stdin.write_all(&input)));
        let stdout = collect(child.stdout.take().expect("stdout was asked to be a pipe"));
        let stderr = collect(child.stderr.take().expect("stderr was asked to be a pipe"));
        let ended = wait::poll(wait::PATIENCE, || child.try_wait().transpose());
        if ended.is_none() {
            let _ = child.kill();
        }
        let status = child.wait();
        // A grandchild that keeps a pipe open must not hold the test: what is there by then counts.
        let text = |pipe: std::sync::mpsc::Receiver<Vec<u8>>| {
            let mut bytes = Vec::new();
            while let Ok(part) = pipe.recv_timeout(DRAIN) {
                bytes.extend(part);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let (stdout, stderr) = (text(stdout), text(stderr));
        match (ended, status) {
            (Some(_), Ok(status)) => Output { stdout, stderr, status, command: line },
            (None, _) => panic!("`{line}` did not end; stdout:\n{stdout}\nstderr:\n{stderr}"),
            (_, Err(error)) => panic!("cannot wait for `{line}`: {error}"),
        }
    }

    /// Returns the exit code, or `None` for a death by a signal.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Checks the exit code and returns itself.
    ///
    /// # Panics
    ///
    /// With all the program's output, when the code is another.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Output {
        assert_eq!(self.code(), Some(code), "of `{}`\n{self}", self.command);
        self
    }

    /// Reads standard output as one JSON value.
    ///
    /// # Panics
    ///
    /// With all the program's output, when it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_str(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!("stdout of `{}` is not JSON: {error}\n{self}", self.command),
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => writeln!(f, "exit code: {code}")?,
            (None, signal) => writeln!(f, "signal: {}", signal.unwrap_or_default())?,
        }
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            writeln!(f, "--- {name} ---")?;
            f.write_str(text)?;
            if !text.is_empty() && !text.ends_with('\n') {
                writeln!(f, "(no line end)")?;
            }
        }
        Ok(())
    }
}

fn describe(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

fn collect(mut pipe: impl Read + Send + 'static) -> std::sync::mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Time to wait for the end of a pipe once the program has ended.
const DRAIN: Duration = Duration::from_secs(2);
