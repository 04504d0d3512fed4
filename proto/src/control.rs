//! What a daemon is asked over its control socket, and what it answers beside its [status](crate::status): plain
//! data.
//!
//! The JSON form is camelCase and stable, as that of the status is.

use serde::{Deserialize, Serialize};

use crate::listing::{RequestStatus, TurnStatus};
use crate::status::DaemonState;

/// A state of the daemon, sent when it is entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StateChange {
    /// The state.
    pub state: DaemonState,
    /// Whether a client that connects now is served.
    pub ready: bool,
    /// Names the life of the daemon.
    pub generation: u64,
    /// Its process, for people.
    pub pid: u32,
}

/// What can be looked at again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum View {
    /// A [status](crate::status::StatusReport).
    Status,
    /// A list of [clients](crate::status::ClientStatus).
    Clients,
    /// A list of [threads](crate::listing::ThreadStatus).
    Threads,
    /// A list of [turns](crate::listing::TurnStatus).
    Turns,
    /// A list of [requests](crate::listing::RequestStatus).
    Requests,
}

/// What became of the interruption of a turn.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InterruptReceipt {
    /// Whether the turn has ended. False also if there was none.
    pub ended: bool,
    /// How it has ended: `interrupted`, or as it would have without that; `unknown` if nobody was subscribed to its
    /// thread, so that codex did not say.
    pub outcome: Option<String>,
    /// The thread.
    pub thread_id: Option<String>,
    /// The turn.
    pub turn_id: Option<String>,
    /// Why it has not ended.
    pub error: Option<String>,
}

/// What became of the disconnection of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KillReceipt {
    /// The client.
    pub id: u64,
    /// Its name, if it had said one.
    pub name: Option<String>,
    /// Whether it was connected.
    pub killed: bool,
}

/// What becomes of running turns at a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StopMode {
    /// They can finish until the drain timeout.
    Drain,
    /// They are interrupted, and their ends are awaited for a moment.
    Now,
    /// They are lost: codex is killed.
    Kill,
}

/// What a stop found when it began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StopReceipt {
    /// The daemon that stops.
    pub generation: u64,
    /// Its process, for people.
    pub pid: u32,
    /// Its state after the request.
    pub state: DaemonState,
    /// Whether it was on its way out already.
    pub already_stopping: bool,
    /// Clients that were connected.
    pub clients: usize,
    /// Turns that were running.
    pub open_turns: usize,
    /// Time they have left, where there is a limit.
    pub deadline_ms: Option<u64>,
}

/// What became of reading the settings again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReloadReceipt {
    /// Settings that have changed and are in force now.
    pub applied: Vec<String>,
    /// Settings that have changed and are in force after a restart.
    pub needs_restart: Vec<String>,
    /// Why nothing was changed, if the settings cannot be used.
    pub error: Option<String>,
}

/// How to upgrade a daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpgradeRequest {
    /// Milliseconds for running turns to end, or nothing is done; `None`: no limit.
    pub within_ms: Option<u64>,
    /// Whether to do it also if nothing has changed on disk.
    pub force: bool,
    /// The codexd that asks. It is the next one where clients start the daemon.
    pub codexd: Option<String>,
}

/// The versions of both programs; `None` where one is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Versions {
    /// Of codexd.
    pub codexd: Option<String>,
    /// Of codex.
    pub codex: Option<String>,
}

/// What a codexd finds when it is tried as the next daemon: `codexd serve --trial` prints it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrialReport {
    /// The versions: its own, and that of its codex, which has answered.
    pub versions: Versions,
    /// Why it could not serve; absent if it could.
    pub error: Option<String>,
    /// What to type or do next.
    pub hint: Option<String>,
}

/// One step of an upgrade. All but [`Trying`](UpgradeStep::Trying) and [`Waiting`](UpgradeStep::Waiting) are the last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum UpgradeStep {
    /// What the next daemon would run is tried.
    Trying {
        /// What runs.
        running: Versions,
    },
    /// What the next daemon would run is what runs already.
    NothingNew {
        /// What runs.
        running: Versions,
    },
    /// What the next daemon would run does not run. Nothing has happened.
    CandidateRefused {
        /// Why, in its own words.
        reason: String,
        /// What to type or do next.
        hint: Option<String>,
    },
    /// The daemon cannot be upgraded now. Nothing has happened.
    NotPossible {
        /// Why.
        reason: String,
        /// What to type or do next.
        hint: Option<String>,
    },
    /// This is waited for. Sent again when it changes.
    Waiting {
        /// What the next daemon runs.
        next: Versions,
        /// Turns that run.
        turns: Vec<TurnStatus>,
        /// Requests of clients that codex has not answered.
        requests: Vec<RequestStatus>,
    },
    /// Something still ran when the time was over. The daemon goes on.
    TimedOut,
    /// It was called off, for this reason. The daemon goes on, unless the reason is its end.
    CalledOff {
        /// Why.
        reason: String,
    },
    /// Nothing runs any more: the daemon ends, and the next one takes its place.
    HandsOver {
        /// What the next daemon runs.
        next: Versions,
    },
}
