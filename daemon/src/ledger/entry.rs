//! A turn in the ledger, and the updates of the ledger.

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
    /// Its job, if it has one.
    pub(crate) job: Option<String>,
    /// The client that started it, if known.
    pub(crate) client: Option<String>,
    /// The process of that client.
    pub(crate) client_pid: Option<u32>,
    /// The directory of the thread, if known.
    pub(crate) cwd: Option<String>,
    /// Whether its thread is a sub-agent's.
    pub(crate) sub_agent: bool,
    /// The type of the item that started last: `reasoning`, `commandExecution`.
    pub(crate) phase: Option<String>,
    /// When it was first seen running.
    pub(crate) started_unix_ms: u64,
    /// When it last started an item or reported tokens.
    pub(crate) last_activity_unix_ms: u64,
    /// When it ended.
    pub(crate) ended_unix_ms: Option<u64>,
    /// What shows the outcome.
    pub(crate) known_by: Option<String>,
    /// Why it failed, if codexd knows.
    pub(crate) cause: Option<String>,
    /// Tokens it has used, if reported.
    pub(crate) tokens: Option<Tokens>,
    /// The generation of the daemon.
    pub(crate) generation: u64,
}

/// An update of the ledger. Times are milliseconds since the epoch.
#[derive(Clone, Debug)]
pub(crate) enum Update {
    /// A turn runs.
    Started {
        thread: String,
        turn: String,
        client: Option<String>,
        client_pid: Option<u32>,
        cwd: Option<String>,
        sub_agent: bool,
        at: u64,
    },
    /// A turn has made progress.
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
        /// When it was first seen running.
        began: u64,
        at: u64,
    },
    /// The present state of a job.
    Job(Box<JobRow>),
    /// A line of a job's log.
    JobLine(JobLine),
    /// The upstream was lost. The last lines of its stderr are kept with the jobs that failed with it.
    UpstreamStderr(Vec<String>),
    /// Remove these jobs, if they have ended.
    ForgetJobs(Vec<String>),
    /// Notify the sender when everything before is written.
    Barrier(SyncSender<()>),
}
