//! What the next daemon would run, tried: a codexd that is started with the flags of this one and starts its codex.

use std::ffi::OsString;
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use codexd_proto::control::TrialReport;
use codexd_proto::stderr::printable;

use crate::os::service_manager::STRIPPED_ENV;

/// How long it can take: longer than a trial of codex takes at the most.
const WITHIN: Duration = Duration::from_secs(60);
/// Time between looks whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Bytes that are read of what it prints.
const OUTPUT_BYTES: u64 = 1 << 20;
/// Bytes that are shown of a line that it prints.
const LINE_BYTES: usize = 300;

/// A child that can be waited for; it is killed when this is dropped.
pub(crate) trait Helper: Send {
    /// Returns the child.
    fn child(&mut self) -> &mut Child;
}

/// Starts a child of the daemon that is no codex.
pub(crate) type StartHelper = Box<dyn Fn(&mut Command) -> io::Result<Box<dyn Helper>> + Send + Sync>;

/// How this daemon was started, which is how the next one will be.
pub(crate) struct Origin {
    /// The arguments of this process, without the program.
    pub(crate) arguments: Vec<OsString>,
    /// What it got on standard input.
    pub(crate) stdin: Option<Vec<u8>>,
    /// Variables that a child gets, by which it is known as this daemon's.
    pub(crate) marks: Vec<(&'static str, OsString)>,
    pub(crate) start: StartHelper,
}

/// Why a candidate is refused, in its own words, and what to do about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) reason: String,
    pub(super) hint: Option<String>,
}

impl Origin {
    /// Tries a codexd with its codex. Blocks, until `cancelled` returns true or for a minute at the most.
    ///
    /// # Errors
    ///
    /// Why it could not serve.
    pub(super) fn attempt(
        &self,
        program: &Path,
        cancelled: impl Fn() -> bool,
    ) -> Result<TrialReport, Refused> {
        let shown = program.display();
        let refused = |what: String| Refused {
            reason: format!("`{shown}` {what}"),
            hint: Some(format!("`{shown} --version` shows whether it runs; install codexd again")),
        };
        let mut command = Command::new(program);
        command.args(&self.arguments).arg("--trial");
        for name in STRIPPED_ENV {
            command.env_remove(name);
        }
        let stdin = if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() };
        command.envs(self.marks.iter().cloned()).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut helper =
            (self.start)(&mut command).map_err(|error| refused(format!("cannot be started: {error}")))?;
        let child = helper.child();
        if let (Some(text), Some(mut stdin)) = (self.stdin.clone(), child.stdin.take()) {
            // It can be more than a pipe holds, and one that does not read it shows why.
            std::thread::spawn(move || stdin.write_all(&text));
        }
        let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
        let until = Instant::now() + WITHIN;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if cancelled() => return Err(refused("was not tried to the end".to_owned())),
                Ok(None) if Instant::now() < until => std::thread::park_timeout(LOOK_EVERY),
                Ok(None) => return Err(refused(format!("did not end within {} s", WITHIN.as_secs()))),
                Err(_) => break None,
            }
        };
        let (stdout, stderr) = (stdout(), stderr());
        match serde_json::from_slice::<TrialReport>(&stdout) {
            Ok(TrialReport { error: Some(reason), hint, .. }) => Err(Refused { reason, hint }),
            Ok(report) if status.is_none_or(|status| status.success()) => Ok(report),
            _ => Err(refused(describe(status, &stderr))),
        }
    }
}

/// Reads to the end in a thread of its own; the returned function waits for that.
fn collect(pipe: Option<impl Read + Send + 'static>) -> impl FnOnce() -> Vec<u8> {
    let thread = pipe.map(|pipe| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = pipe.take(OUTPUT_BYTES).read_to_end(&mut bytes);
            bytes
        })
    });
    move || thread.and_then(|thread| thread.join().ok()).unwrap_or_default()
}

/// Says how a program ended that printed no report: its status, and its first line.
fn describe(status: Option<ExitStatus>, stderr: &[u8]) -> String {
    let ended = match status {
        Some(status) => format!("does not run as a daemon ({status})"),
        None => "does not run as a daemon".to_owned(),
    };
    let mut lines = stderr.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    match lines.next() {
        Some(line) => format!("{ended}: {}", printable(line, LINE_BYTES)),
        None => ended,
    }
}
