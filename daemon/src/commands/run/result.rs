//! How the turn ended: text, JSON and exit code.

use std::io::Write as _;
use std::time::{Duration, Instant};

use codexd_proto::capture::{KnownBy, Outcome, Tokens};
use serde::Serialize;

use super::{Ended, INTERRUPTED, TIMED_OUT};
use crate::error::Error;
use crate::instance::record;
use crate::settings::paths::Paths;
use crate::terminal::{note, note_failure};
use crate::turn::{Finished, Stop, plain};

/// Time for a daemon that has lost its codex to record the reason.
const RECORD_WITHIN: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The last object of `--json`; without `--json`, what is printed instead.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    #[serde(rename = "type")]
    kind: &'static str,
    outcome: &'static str,
    known_by: Option<KnownBy>,
    answer: Option<String>,
    last_message: Option<String>,
    error: Option<String>,
    hint: Option<String>,
    /// The last lines of codex's stderr, if it was lost.
    upstream_stderr: Vec<String>,
    thread_id: Option<String>,
    turn_id: Option<String>,
    tokens: Option<Tokens>,
    duration_ms: u64,
    pub(super) exit_code: u8,
}

impl Report {
    pub(super) fn of(ended: Ended, duration: Duration) -> Report {
        let base = Report {
            kind: "result",
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            ..Report::default()
        };
        let (finished, stderr) = match ended {
            Ended::Finished(finished, stderr) => (*finished, stderr),
            Ended::Left(thread) => {
                return Report {
                    outcome: "interrupted",
                    error: Some("left before the turn ended".to_owned()),
                    thread_id: thread,
                    exit_code: INTERRUPTED,
                    ..base
                };
            }
        };
        let exit_code = exit_code(&finished);
        let resolution = finished.resolution;
        Report {
            outcome: if exit_code == TIMED_OUT { "timedOut" } else { resolution.outcome.word() },
            known_by: Some(resolution.known_by),
            answer: resolution.answer,
            last_message: resolution.last_message,
            error: resolution.error,
            upstream_stderr: if resolution.stderr.is_empty() { stderr } else { resolution.stderr },
            thread_id: Some(finished.thread),
            turn_id: Some(finished.turn),
            tokens: resolution.tokens,
            exit_code,
            ..base
        }
    }

    pub(super) fn of_failure(error: &Error, thread: Option<String>, duration: Duration) -> Report {
        Report {
            kind: "result",
            outcome: "failed",
            error: Some(error.chain()),
            hint: error.next_step().map(str::to_owned),
            thread_id: thread,
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            exit_code: error.exit_code().number(),
            ..Report::default()
        }
    }

    /// Prints the answer on stdout and the rest on stderr, or all of it as a line of JSON on stdout.
    ///
    /// # Errors
    ///
    /// If the answer cannot be written.
    pub(super) fn print(&self, json: bool) -> Result<(), Error> {
        let mut text = if json {
            serde_json::to_string(self)
                .map_err(|error| Error::os("cannot write the result").because(error))?
        } else {
            self.tell();
            self.answer.clone().unwrap_or_default()
        };
        if text.is_empty() {
            return Ok(());
        }
        if !text.ends_with('\n') {
            text.push('\n');
        }
        let mut stdout = std::io::stdout().lock();
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
            .map_err(|error| Error::os("cannot write the answer to standard output").because(error))
    }

    /// Prints on stderr how the turn ended.
    fn tell(&self) {
        let tokens = self.tokens.map(|tokens| format!(", {} tokens", tokens.total_tokens));
        let took = format!(
            "{:.1} s{}",
            Duration::from_millis(self.duration_ms).as_secs_f32(),
            tokens.unwrap_or_default()
        );
        let how = match (self.outcome, self.known_by) {
            ("timedOut", _) => "timed out",
            ("completed", Some(KnownBy::Inferred)) => {
                "completed (its final answer was seen, its end was not)"
            }
            (outcome, _) => outcome,
        };
        for line in &self.upstream_stderr {
            note(&format!("codexd: codex wrote before it ended: {}", plain(line)));
        }
        let line = match &self.error {
            Some(error) => format!("codexd: {how} after {took}: {}", plain(error)),
            None => format!("codexd: {how} after {took}"),
        };
        if self.exit_code == 0 {
            return note(&line);
        }
        if let Some(message) = &self.last_message {
            note(&format!("codexd: the last message was: {}", plain(message)));
        }
        note_failure(&line);
        if let Some(thread) = &self.thread_id {
            note(&format!("hint: `codexd run --thread {thread} PROMPT` continues the thread"));
        }
    }
}

fn exit_code(finished: &Finished) -> u8 {
    match (finished.resolution.outcome, finished.stopped) {
        (Outcome::Completed, _) => 0,
        (_, Some(Stop::TimedOut)) => TIMED_OUT,
        (Outcome::Interrupted, _) | (_, Some(Stop::Asked)) => INTERRUPTED,
        _ => 1,
    }
}

/// Returns the last lines of codex's stderr that a daemon has recorded, if the turn was lost with codex.
pub(super) fn last_lines_of_codex(paths: &Paths, finished: &Finished) -> Vec<String> {
    let lost = finished.resolution.known_by == KnownBy::UpstreamLost;
    let Some(generation) = finished.generation.filter(|_| lost) else { return Vec::new() };
    let until = Instant::now() + RECORD_WITHIN;
    loop {
        // The next daemon may run already.
        let exit = record::former(paths).and_then(|former| former.recorded_exit);
        if let Some(exit) = exit.filter(|exit| exit.generation >= generation && exit.code.is_some()) {
            return if exit.generation == generation { exit.upstream_stderr } else { Vec::new() };
        }
        if Instant::now() >= until {
            return Vec::new();
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
}
