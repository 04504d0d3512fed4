//! A job in the ledger.

use codexd_proto::capture::{KnownBy, Tokens};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Why a turn or job has failed whose daemon is gone.
pub(super) const DIED: &str = "the daemon ended without a word (killed?)";

/// In which state a job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum JobState {
    /// Its turn has not been started.
    #[default]
    Queued,
    /// Its turn runs.
    Running,
    /// With its answer.
    Completed,
    /// With an error, or because codex or the daemon was lost.
    Failed,
    /// Somebody cancelled it, or interrupted its turn.
    Cancelled,
    /// It was not done in time.
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

    /// Whether nothing more will happen to the job.
    pub(crate) const fn is_over(self) -> bool {
        !matches!(self, JobState::Queued | JobState::Running)
    }

    /// Returns the exit code of `codexd jobs wait`, as that of `codexd run`; 1 while it is not over.
    pub(crate) const fn exit_code(self) -> u8 {
        match self {
            JobState::Completed => 0,
            JobState::Queued | JobState::Running | JobState::Failed => 1,
            JobState::Cancelled => 2,
            JobState::TimedOut => 124,
        }
    }
}

/// One job, as it is kept and shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct JobRow {
    /// Its id: 32 hexadecimal digits.
    pub(crate) id: String,
    /// Its state.
    pub(crate) state: JobState,
    /// The generation of the daemon that owns it.
    pub(crate) generation: u64,
    /// What it is to do, as it was asked for.
    pub(crate) request: Value,
    /// Its thread, once it has one.
    pub(crate) thread_id: Option<String>,
    /// Its turn, once it has one.
    pub(crate) turn_id: Option<String>,
    /// What goes on.
    pub(crate) phase: Option<String>,
    /// When it was asked for.
    pub(crate) created_unix_ms: u64,
    /// When its turn was started.
    pub(crate) started_unix_ms: Option<u64>,
    /// When something last happened.
    pub(crate) last_activity_unix_ms: u64,
    /// When it was over.
    pub(crate) ended_unix_ms: Option<u64>,
    /// How long its turn may take; absent without a limit.
    pub(crate) timeout_ms: Option<u64>,
    /// From what the outcome is known.
    pub(crate) known_by: Option<String>,
    /// The answer of a completed one; of one that runs, its final answer while nothing else of it is open.
    pub(crate) answer: Option<String>,
    /// What the agent said last.
    pub(crate) last_message: Option<String>,
    /// Why it has failed.
    pub(crate) error: Option<String>,
    /// The last lines of codex's stderr, if that was lost.
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
    /// Counts the lines of the job, from 1.
    pub(crate) number: u64,
    /// When, in milliseconds since the epoch.
    pub(crate) at_unix_ms: u64,
    /// What happened.
    pub(crate) text: String,
}

/// Returns a job whose daemon is gone, as it is to be shown and kept: completed if its final answer was seen and nothing
/// that belongs to it was open, else failed.
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
