//! A turn in the ledger, and what is recorded of it.

use std::sync::mpsc::SyncSender;

use codexd_proto::capture::{KnownBy, Outcome, Tokens};
use serde::Serialize;

use super::job::{JobLine, JobRow};

/// One turn.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    /// `running`, `completed`, `failed`, `interrupted` or `unknown`.
    pub(crate) state: String,
    /// The thread.
    pub(crate) thread_id: String,
    /// The turn.
    pub(crate) turn_id: String,
    /// The job it belongs to.
    pub(crate) job: Option<String>,
    /// The client that started it, where that is known.
    pub(crate) client: Option<String>,
    /// The process of that client.
    pub(crate) client_pid: Option<u32>,
    /// The directory of the thread, where that is known.
    pub(crate) cwd: Option<String>,
    /// Whether its thread is a sub-agent's.
    pub(crate) sub_agent: bool,
    /// The type of the item that started last: `reasoning`, `commandExecution`.
    pub(crate) phase: Option<String>,
    /// When it was known to run.
    pub(crate) started_unix_ms: u64,
    /// When its last item started or it last reported tokens.
    pub(crate) last_activity_unix_ms: u64,
    /// When it ended.
    pub(crate) ended_unix_ms: Option<u64>,
    /// From what the outcome is known.
    pub(crate) known_by: Option<String>,
    /// Why it failed, if codexd knows.
    pub(crate) cause: Option<String>,
    /// Tokens it has used, where that was reported.
    pub(crate) tokens: Option<Tokens>,
    /// The generation of the daemon.
    pub(crate) generation: u64,
}

/// Something to be recorded; times are milliseconds since the epoch.
#[derive(Clone, Debug)]
pub(crate) enum Update {
    /// A turn is known to run.
    Started {
        thread: String,
        turn: String,
        client: Option<String>,
        client_pid: Option<u32>,
        cwd: Option<String>,
        sub_agent: bool,
        at: u64,
    },
    /// A turn goes on.
    Progress { thread: String, turn: String, phase: Option<String>, tokens: Option<Tokens>, at: u64 },
    /// codexd interrupts a turn, for this reason.
    Interrupted { thread: String, turn: String, cause: String },
    /// A turn has ended.
    Ended {
        thread: String,
        turn: String,
        outcome: Outcome,
        known_by: KnownBy,
        tokens: Option<Tokens>,
        /// When it was known to run.
        began: u64,
        at: u64,
    },
    /// A job is as this says.
    Job(Box<JobRow>),
    /// A line of a job's log.
    JobLine(JobLine),
    /// The upstream was lost; the last lines of its stderr belong to the jobs that have failed with it.
    UpstreamStderr(Vec<String>),
    /// Jobs that have ended are to be forgotten.
    ForgetJobs(Vec<String>),
    /// Somebody waits until everything before is written.
    Barrier(SyncSender<()>),
}
