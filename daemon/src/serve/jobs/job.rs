//! One job: its turn, and its record in the ledger.

use codexd_proto::capture::Outcome;
use serde_json::Value;

use crate::ledger::{JobLine, JobRow, JobState, Ledger, Update};
use crate::logging::roles::{self, log_turn};
use crate::os::unix_time::unix_ms;
use crate::turn::{Event, Failure, Finished, Stop, Watcher, plain, words_of};

/// Lines of a job's log. Further ones are counted.
const MAX_LINES: u64 = 10_000;

/// The record of a running job.
pub(super) struct Record {
    row: JobRow,
    ledger: Ledger,
    lines: u64,
}

impl Record {
    pub(super) fn new(row: JobRow, ledger: Ledger) -> Record {
        let mut record = Record { row, ledger, lines: 0 };
        record.save();
        record.line("queued");
        record
    }

    pub(super) fn id(&self) -> &str {
        &self.row.id
    }

    fn save(&mut self) {
        self.row.last_activity_unix_ms = unix_ms();
        self.ledger.record(Update::Job(Box::new(self.row.clone())));
    }

    pub(super) fn line(&mut self, text: &str) {
        self.lines += 1;
        let text = match self.lines {
            ..MAX_LINES => text,
            MAX_LINES => "the rest is left out",
            _ => return,
        };
        self.ledger.record(Update::JobLine(JobLine {
            job: self.row.id.clone(),
            number: self.lines,
            at_unix_ms: unix_ms(),
            text: text.to_owned(),
        }));
    }

    /// Records the final state.
    fn over(mut self, state: JobState, error: Option<String>) {
        self.row.state = state;
        self.row.error = error;
        self.row.phase = None;
        self.row.ended_unix_ms = Some(unix_ms());
        let line = match &self.row.error {
            Some(error) => format!("{}: {}", state.word(), plain(error)),
            None => state.word().to_owned(),
        };
        self.line(&line);
        self.save();
        self.ledger.flush();
        let (thread, turn) = (self.row.thread_id.as_deref(), self.row.turn_id.as_deref());
        let role = roles::Turn { thread, turn, client: None };
        log_turn!(info, role, job.id = self.row.id, state = state.word(), "job ended");
    }

    /// Records that it was cancelled before its turn began.
    pub(super) fn cancelled(self) {
        self.over(JobState::Cancelled, Some("cancelled before its turn began".to_owned()));
    }

    /// Records that its turn was not run.
    pub(super) fn failed(mut self, failure: Failure, cancelled: bool) {
        self.row.thread_id = failure.thread.or(self.row.thread_id.take());
        if cancelled {
            return self.cancelled();
        }
        self.over(JobState::Failed, Some(failure.error.chain()));
    }

    /// Records that the daemon stops before its turn began.
    pub(super) fn left(self) {
        self.over(JobState::Failed, Some("the daemon stopped before its turn began".to_owned()));
    }

    /// Records how its turn ended.
    pub(super) fn finished(mut self, finished: Finished) {
        let resolution = finished.resolution;
        self.row.thread_id = Some(finished.thread);
        self.row.turn_id = Some(finished.turn);
        self.row.known_by = Some(resolution.known_by.word().to_owned());
        self.row.answer = resolution.answer;
        self.row.last_message = resolution.last_message;
        self.row.upstream_stderr = resolution.stderr;
        self.row.tokens = resolution.tokens.or(self.row.tokens);
        let (state, error) = match (resolution.outcome, finished.stopped) {
            (Outcome::Completed, _) => (JobState::Completed, None),
            (_, Some(Stop::TimedOut)) => {
                let error = resolution.error.unwrap_or_else(|| "its time was over".to_owned());
                (JobState::TimedOut, Some(error))
            }
            // The turn could not be interrupted. The job is cancelled all the same, with the reason.
            (_, Some(Stop::Asked)) => (JobState::Cancelled, resolution.error),
            (Outcome::Interrupted, None) => {
                let error = "its turn was interrupted: by another client, or because the daemon stops";
                (JobState::Cancelled, Some(error.to_owned()))
            }
            _ => (JobState::Failed, resolution.error),
        };
        self.over(state, error);
    }
}

impl Watcher for Record {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Thread { id, .. } => {
                self.row.thread_id = Some(id.to_owned());
                self.line(&format!("thread {id}"));
                self.save();
            }
            Event::Turn { id } => {
                self.row.turn_id = Some(id.to_owned());
                self.row.state = JobState::Running;
                self.row.started_unix_ms = Some(unix_ms());
                self.row.phase = Some("thinking".to_owned());
                self.line(&format!("turn {id}"));
                self.save();
            }
            Event::Notification { method, params, sub_agent } => {
                let words = words_of(method, params);
                let of_whom = if sub_agent { "sub-agent: " } else { "" };
                words.lines.iter().for_each(|line| self.line(&format!("{of_whom}{line}")));
                if let Some(phase) = words.phase.filter(|_| !sub_agent) {
                    self.row.phase = Some(phase);
                    self.save();
                }
            }
            // If the daemon dies from here on, the job counts as completed.
            Event::Answer(answer) => {
                self.row.answer = answer.map(str::to_owned);
                self.save();
            }
            // No person can answer it.
            Event::Approval(approval) | Event::Declined(approval) => {
                self.line(&format!("declined: codex wants to {}", plain(&approval.what())));
            }
            Event::Interrupting(stop) => {
                self.row.phase = Some("interrupting".to_owned());
                self.line(match stop {
                    Stop::Asked => "cancelling: interrupting the turn",
                    Stop::TimedOut => "the time is over, interrupting the turn",
                });
                self.save();
            }
        }
    }
}

/// Returns the record of a new job.
pub(super) fn row(id: String, generation: u64, request: Value, timeout_ms: Option<u64>) -> JobRow {
    let now = unix_ms();
    JobRow {
        id,
        generation,
        request,
        timeout_ms,
        created_unix_ms: now,
        last_activity_unix_ms: now,
        ..JobRow::default()
    }
}
