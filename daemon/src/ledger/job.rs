//! A job in the ledger.

use codexd_proto::capture::{KnownBy, Tokens};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Why a turn or job has failed whose daemon ended without recording an outcome.
pub(super) const DIED: &str = "the daemon ended without recording an outcome (killed?)";

/// The state of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum JobState {
    /// Its turn has not started.
    #[default]
    Queued,
    /// Its turn runs.
    Running,
    /// It ended with its answer.
    Completed,
    /// It ended with an error, or because codex or the daemon was lost.
    Failed,
    /// It was cancelled, or its turn interrupted.
    Cancelled,
    /// It reached its time limit.
    TimedOut,
}

impl JobState {
    /// Returns the word used in JSON and in the database.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Completed => "completed",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
            JobState::TimedOut => "timedOut",
        }
    }

    /// Returns whether it has ended.
    pub(crate) const fn is_over(self) -> bool {
        !matches!(self, JobState::Queued | JobState::Running)
    }

    /// Returns the exit code of `codexd jobs wait`, which is that of `codexd run`; 1 while it runs.
    pub(crate) const fn exit_code(self) -> u8 {
        match self {
            JobState::Completed => 0,
            JobState::Queued | JobState::Running | JobState::Failed => 1,
            JobState::Cancelled => 2,
            JobState::TimedOut => 124,
        }
    }
}

/// One job, as it is stored and shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct JobRow {
    /// Its id: 32 hexadecimal digits.
    pub(crate) id: String,
    /// Its state.
    pub(crate) state: JobState,
    /// The generation of the daemon that owns it.
    pub(crate) generation: u64,
    /// The request for its turn.
    pub(crate) request: Value,
    /// Its thread, once it has one.
    pub(crate) thread_id: Option<String>,
    /// Its turn, once it has one.
    pub(crate) turn_id: Option<String>,
    /// What it is doing.
    pub(crate) phase: Option<String>,
    /// When it was requested.
    pub(crate) created_unix_ms: u64,
    /// When its turn was started.
    pub(crate) started_unix_ms: Option<u64>,
    /// When something last happened.
    pub(crate) last_activity_unix_ms: u64,
    /// When it ended.
    pub(crate) ended_unix_ms: Option<u64>,
    /// Milliseconds for its turn; absent without a limit.
    pub(crate) timeout_ms: Option<u64>,
    /// What shows the outcome.
    pub(crate) known_by: Option<String>,
    /// The answer of a completed job; of a running one, its final answer while nothing else of it is open.
    pub(crate) answer: Option<String>,
    /// The agent's last message.
    pub(crate) last_message: Option<String>,
    /// Why it has failed.
    pub(crate) error: Option<String>,
    /// The last lines of codex's stderr, if codex was lost.
    pub(crate) upstream_stderr: Vec<String>,
    /// Tokens it has used.
    pub(crate) tokens: Option<Tokens>,
}

/// A line of a job's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JobLine {
    /// The job.
    pub(crate) job: String,
    /// The number of the line in this log, from 1.
    pub(crate) number: u64,
    /// When, in milliseconds since the epoch.
    pub(crate) at_unix_ms: u64,
    /// What happened.
    pub(crate) text: String,
}

/// Returns the final state of a job whose daemon is gone: completed if its final answer was seen and nothing that
/// belongs to it was open, else failed.
pub(super) fn buried(row: JobRow, at: u64) -> JobRow {
    let complete = row.answer.is_some();
    let known_by = if complete { KnownBy::Inferred } else { KnownBy::DaemonDied };
    JobRow {
        state: if complete { JobState::Completed } else { JobState::Failed },
        phase: None,
        ended_unix_ms: Some(at),
        known_by: Some(known_by.word().to_owned()),
        error: (!complete).then(|| DIED.to_owned()),
        ..row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_whose_daemon_has_died_is_completed_if_its_answer_was_given() {
        let row = JobRow { state: JobState::Running, phase: Some("writing".to_owned()), ..JobRow::default() };
        let dead = buried(row.clone(), 5);
        assert_eq!(
            (dead.state, dead.error.as_deref(), dead.ended_unix_ms),
            (JobState::Failed, Some(DIED), Some(5))
        );
        let dead = buried(JobRow { answer: Some("42".to_owned()), ..row }, 5);
        assert_eq!((dead.state, dead.error, dead.phase), (JobState::Completed, None, None));
        assert_eq!(dead.known_by.as_deref(), Some("inferred"));
    }
}
