//! What the next daemon would run, tried: a codexd that is started with the flags of this one and starts its codex.

use std::ffi::OsString;
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use codexd_proto::control::TrialReport;
use codexd_proto::stderr::printable;
use parking_lot::Mutex;

use crate::os::service_manager::STRIPPED_ENV;

/// How long it can take: longer than a trial of codex takes at the most.
const WITHIN: Duration = Duration::from_secs(60);
/// Time between looks whether it has ended.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long the last of its output can take after its end.
const REST_WITHIN: Duration = Duration::from_secs(2);
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
        let (stdout, stderr) = (stdout.take(), stderr.take());
        match serde_json::from_slice::<TrialReport>(&stdout) {
            Ok(TrialReport { error: Some(reason), hint, .. }) => Err(Refused { reason, hint }),
            Ok(report) if status.is_none_or(|status| status.success()) => Ok(report),
            _ => Err(refused(describe(status, &stderr))),
        }
    }
}

/// What a child writes to a pipe.
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    done: Receiver<()>,
}

/// Reads a pipe in a thread of its own.
fn collect(pipe: Option<impl Read + Send + 'static>) -> Collected {
    let (say_done, done) = sync_channel(1);
    let collected = Collected { bytes: Arc::default(), done };
    let bytes = Arc::clone(&collected.bytes);
    if let Some(pipe) = pipe {
        std::thread::spawn(move || {
            let mut pipe = pipe.take(OUTPUT_BYTES);
            let mut chunk = [0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut chunk) {
                bytes.lock().extend_from_slice(&chunk[..length]);
            }
            let _ = say_done.send(());
        });
    }
    collected
}

impl Collected {
    /// Returns what was written. The child has ended; what it started can hold the pipe open.
    fn take(self) -> Vec<u8> {
        let _ = self.done.recv_timeout(REST_WITHIN);
        std::mem::take(&mut self.bytes.lock())
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    struct Plain(Child);

    impl Helper for Plain {
        fn child(&mut self) -> &mut Child {
            &mut self.0
        }
    }

    impl Drop for Plain {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn attempt(script: &str, stdin: Option<&str>, cancelled: bool) -> Result<TrialReport, Refused> {
        let origin = Origin {
            arguments: ["-c", script, "serve", "--supervised"].map(OsString::from).into(),
            stdin: stdin.map(|text| text.as_bytes().to_vec()),
            marks: vec![("CODEXD_LIFE", "mine".into())],
            start: Box::new(|command| Ok(Box::new(Plain(command.spawn()?)))),
        };
        origin.attempt(Path::new("/bin/sh"), || cancelled)
    }

    #[test]
    fn a_candidate_is_started_as_this_daemon_was_and_says_what_it_would_run() {
        let script = r#"[ "$*" = "--supervised --trial" ] && [ "$CODEXD_LIFE" = mine ] && read line || exit 1
            echo "{\"versions\": {\"codexd\": \"$line\", \"codex\": \"2\"}, \"newer\": 1}""#;
        let report = attempt(script, Some("7\n"), false).unwrap();
        assert_eq!(report.versions.codexd.as_deref(), Some("7"));
    }

    #[test]
    fn a_candidate_that_does_not_run_is_refused_in_its_own_words() {
        for (script, says) in [
            ("echo one >&2; echo two >&2; exit 3", "does not run as a daemon (exit status: 3): one"),
            ("kill -9 $$", "does not run as a daemon (signal: 9"),
            ("exit 0", "does not run as a daemon (exit status: 0)"),
            ("echo '{}'; exit 1", "does not run as a daemon (exit status: 1)"),
            // What it has started holds its output open.
            ("sleep 3 & echo gone >&2; exit 1", "does not run as a daemon (exit status: 1): gone"),
        ] {
            let refused = attempt(script, None, false).unwrap_err();
            assert!(refused.reason.contains(says), "{script}: {refused:?}");
            assert!(refused.hint.unwrap().contains("--version"), "{script}");
        }
        let own = attempt(r#"echo '{"error": "no codex", "hint": "install it"}'; exit 69"#, None, false);
        let refused = Refused { reason: "no codex".to_owned(), hint: Some("install it".to_owned()) };
        assert_eq!(own, Err(refused));
    }

    #[test]
    fn a_candidate_is_not_waited_for_when_nobody_wants_it_any_more() {
        let refused = attempt("exec sleep 1000", None, true).unwrap_err();
        assert!(refused.reason.contains("was not tried to the end"), "{refused:?}");
    }
}
