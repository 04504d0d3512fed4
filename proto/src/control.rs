//! What a daemon is asked over its control socket, and what it answers beside its [status](crate::status): plain
//! data.
//!
//! The JSON form is camelCase and stable, as that of the status is.

use serde::{Deserialize, Serialize};

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
