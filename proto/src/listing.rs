//! What the daemon lists beside its [clients](crate::status::ClientStatus): threads, turns, requests. Plain data.
//!
//! The JSON form is camelCase and stable, as that of the [status](crate::status) is. No prompt, answer or argument is in
//! it.

use serde::{Deserialize, Serialize};

/// A client, as others refer to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientName {
    /// Number of its connection.
    pub id: u64,
    /// `clientInfo.name`, while it is connected and once it is known.
    pub name: Option<String>,
}

/// One thread that is loaded, that has subscribers, or on which something runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ThreadStatus {
    /// Its id.
    pub id: String,
    /// `active` while something runs, `idle`, or `notLoaded`.
    pub state: String,
    /// Its directory, as the last response that started, resumed or forked it said.
    pub cwd: Option<String>,
    /// Its model, as that response said.
    pub model: Option<String>,
    /// The turn that runs, where that is known.
    pub turn_id: Option<String>,
    /// The clients that are subscribed to it.
    pub subscribers: Vec<ClientName>,
    /// Approvals and other server requests of it that wait for an answer.
    pub pending_approvals: usize,
    /// Whether a turn of another thread created it.
    pub sub_agent: bool,
    /// Time since codex last sent something about it, if it has.
    pub last_event_ms: Option<u64>,
}

/// One turn that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TurnStatus {
    /// Its id; absent where codexd knows only that something runs on the thread.
    pub id: Option<String>,
    /// `running`, `waitingForApproval`, or `unassigned`: it waits for an approval that no connected client can see.
    pub state: String,
    /// Its thread.
    pub thread_id: String,
    /// What it does, by the item that began last: `starting`, `reasoning`, `command`, `fileChange`, `tool`, `message`,
    /// `subAgent` or `other`; `approval` while it waits for one.
    pub phase: String,
    /// The client that started it, where codexd knows that.
    pub by: Option<ClientName>,
    /// The clients that are subscribed to its thread.
    pub subscribers: Vec<ClientName>,
    /// The directory of its thread.
    pub cwd: Option<String>,
    /// The model of its thread.
    pub model: Option<String>,
    /// Whether it is that of a sub-agent.
    pub sub_agent: bool,
    /// For how long it is known to run; absent where `id` is.
    pub age_ms: Option<u64>,
    /// Time since codex last sent something about its thread. Codex sends nothing while nobody is subscribed.
    pub last_event_ms: Option<u64>,
    /// Whether neither it nor a sub-agent that works for it has sent an event for `silent_turn_warning`, though it waits
    /// for no approval and somebody is subscribed.
    pub silent: bool,
}

/// One request without an answer: of a client to codex, or a server request, of codex to clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestStatus {
    /// Names it for the life of the daemon: `r` and a number for a request of a client, `s` and the id on the wire for a
    /// server request.
    pub id: String,
    /// `client` or `codex`: who waits for the answer.
    pub from: String,
    /// `queued` or `inFlight`; of a server request `pending`, or `unassigned` if no connected client can see it.
    pub state: String,
    /// Its method; absent if the routing table does not know it.
    pub method: Option<String>,
    /// The thread it is about, where codexd knows that.
    pub thread_id: Option<String>,
    /// The client that sent it; of a server request, the one that started the turn.
    pub client: Option<ClientName>,
    /// The clients that can answer a server request.
    pub seen_by: Vec<ClientName>,
    /// For how long it has had no answer.
    pub age_ms: u64,
}
