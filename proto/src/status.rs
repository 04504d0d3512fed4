//! What the daemon says of itself: plain data, filled by every layer, printed by every front end.
//!
//! The JSON form is camelCase and stable: members are added, never renamed or removed, within one
//! [`CONTROL_PROTOCOL`]. Times called `...Ms` are durations in milliseconds; those called
//! `...UnixMs` are points in time, milliseconds since the Unix epoch.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::listing::{RequestStatus, TurnStatus};

/// Version of the control protocol and of these types; grows when a member changes its meaning.
pub const CONTROL_PROTOCOL: u32 = 1;

/// The state of the daemon as `ctl status` shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DaemonState {
    /// Binding, checking and spawning.
    #[default]
    Starting,
    /// The upstream runs and has not answered `initialize` yet.
    Handshaking,
    /// Clients are served.
    Serving,
    /// No new work; what runs may finish until the deadline.
    Draining,
    /// The upstream is being ended, or what is owed to clients is being written.
    Stopping,
    /// Nothing is left but to exit.
    Exited,
}

impl DaemonState {
    /// Returns the word used in JSON and on the terminal.
    pub const fn word(self) -> &'static str {
        match self {
            DaemonState::Starting => "starting",
            DaemonState::Handshaking => "handshaking",
            DaemonState::Serving => "serving",
            DaemonState::Draining => "draining",
            DaemonState::Stopping => "stopping",
            DaemonState::Exited => "exited",
        }
    }
}

/// Everything an operator sees on one screen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusReport {
    /// [`CONTROL_PROTOCOL`] of the daemon that answers.
    pub protocol: u32,
    /// State of the lifecycle.
    pub state: DaemonState,
    /// Since when it is in this state.
    pub state_since_ms: u64,
    /// Whether a client that connects now is served.
    pub ready: bool,
    /// Process id of the daemon.
    pub pid: u32,
    /// Version of codexd.
    pub version: String,
    /// Commit it was built from, where the build knew it.
    pub commit: Option<String>,
    /// Instance name: one per user and CODEX_HOME.
    pub instance: String,
    /// Counts the daemons this instance has had; names one life of daemon and upstream.
    pub generation: u64,
    /// When the daemon started.
    pub started_unix_ms: u64,
    /// For how long it has run.
    pub uptime_ms: u64,
    /// Path of the client socket.
    pub socket: String,
    /// Path of the control socket.
    pub control_socket: String,
    /// Path of the lock that the daemon holds for its life; free means gone.
    pub lock_file: String,
    /// Path of the file that will say how it ended.
    pub record_file: String,
    /// Where the daemon's log is.
    pub log: Option<LogStatus>,
    /// CODEX_HOME of the upstream.
    pub codex_home: String,
    /// What of the daemon's environment matters to clients, by the names of the variables: CODEX_HOME
    /// as it is, of the others a short hash and never a value.
    pub environment: BTreeMap<String, String>,
    /// How many files the daemon may have open: one for each client and some more.
    pub open_files_limit: u64,
    /// The `codex app-server` child.
    pub upstream: UpstreamStatus,
    /// Connected clients.
    pub clients: usize,
    /// Clients that can be connected at the same time: by the settings, or by the limit on open files.
    pub max_clients: usize,
    /// Threads that are loaded upstream, as far as seen.
    pub threads: usize,
    /// Turns that have started and not ended.
    pub open_turns: usize,
    /// Requests of clients that wait for the upstream's answer.
    pub in_flight: usize,
    /// Age of the oldest of them.
    pub oldest_request_ms: Option<u64>,
    /// Requests held back by the pacing window.
    pub queued_requests: usize,
    /// Approvals and other server requests that nobody has answered yet.
    pub pending_approvals: usize,
    /// Of those, the ones that no connected client can see.
    pub parked_approvals: usize,
    /// Age of the oldest of them.
    pub oldest_approval_ms: Option<u64>,
    /// The turns that have run longest, three at the most.
    pub oldest_turns: Vec<TurnStatus>,
    /// The requests of clients that have waited longest, three at the most.
    pub oldest_requests: Vec<RequestStatus>,
    /// The server requests that have waited longest, three at the most.
    pub oldest_approvals: Vec<RequestStatus>,
    /// Memory of the daemon and of codex; absent where the system does not tell it.
    pub memory: Option<MemoryStatus>,
    /// How long things take, since the start.
    pub latency: Option<LatencyStatus>,
    /// Bytes of codex and its commands at which there is a warning, if there is to be one.
    pub memory_warning_bytes: Option<u64>,
    /// Bytes waiting to be written to clients, all together.
    pub queued_to_clients_bytes: u64,
    /// Bytes waiting to be written to the upstream.
    pub queued_to_upstream_bytes: u64,
    /// Time since the core loop last went round; large means it hangs.
    pub core_idle_ms: u64,
    /// Counters since the start.
    pub counters: Counters,
    /// What an operator should know, each with the next step.
    pub warnings: Vec<Warning>,
    /// How the daemon before this one ended, or why it did not start.
    pub last_exit: Option<LastExit>,
    /// The last start that failed since this daemon began, usually because this one lives (code 75); where no
    /// daemon runs, since the last one began.
    pub failed_start: Option<FailedStart>,
}

/// The upstream as far as codexd knows it: process and protocol are two facts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpstreamStatus {
    /// Process id while it runs.
    pub pid: Option<u32>,
    /// The program that runs, after the npm wrapper was resolved.
    pub executable: String,
    /// What was asked for, where it differs from `executable`.
    pub requested: Option<String>,
    /// The names of its arguments after `app-server`, as `-c model` or `--enable x`; never their values.
    pub arguments: Vec<String>,
    /// Version it told in its handshake.
    pub version: Option<String>,
    /// User agent it told in its handshake.
    pub user_agent: Option<String>,
    /// For how long it has run.
    pub uptime_ms: Option<u64>,
    /// Time since its last message.
    pub last_message_ms: Option<u64>,
    /// For how long it has not answered the question whether it lives, while one is open.
    pub unanswered_probe_ms: Option<u64>,
    /// How it ended, once it has.
    pub ended: Option<String>,
    /// The last lines of its stderr, once it has ended unasked; secrets are masked.
    pub stderr: Vec<String>,
    /// Version that the routing table was measured against.
    pub measured_version: String,
    /// The codex that the next daemon would run, if it is another one than this.
    pub installed: Option<InstalledStatus>,
    /// Methods it names that the routing table does not know: they are passed on as they are. Empty also if
    /// it did not name any.
    pub unknown_methods: Vec<String>,
}

/// A codex on disk that is not the one that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InstalledStatus {
    /// Its program; absent if there is none any more.
    pub executable: Option<String>,
    /// Its version, where its npm package says so.
    pub version: Option<String>,
}

/// How long things take: upper bounds, in microseconds; absent where nothing was measured yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LatencyStatus {
    /// From reading messages to writing what follows from them: half of the times are not above this.
    pub added_p50_us: Option<u64>,
    /// 99 percent of these times are not above this.
    pub added_p99_us: Option<u64>,
    /// From a client's request that only reads to codex's answer: half of the times.
    pub answer_p50_us: Option<u64>,
    /// 99 percent of these times.
    pub answer_p99_us: Option<u64>,
}

/// Where a daemon's log is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LogStatus {
    /// `journal`, `file`, or `other`: a terminal, a pipe, nothing.
    pub kind: String,
    /// The path of the file, or what the system calls the other thing; absent if it is not known.
    pub path: Option<String>,
}

/// Memory, as far as the system tells it: resident bytes. What processes share counts for each of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MemoryStatus {
    /// Of the daemon.
    pub daemon_bytes: u64,
    /// Of codex and everything that descends from it.
    pub codex_bytes: Option<u64>,
    /// How many processes that are.
    pub codex_processes: Option<u64>,
}

/// Counters since the start of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Counters {
    /// Client connections accepted.
    pub clients_accepted: u64,
    /// Client connections refused (other user, limit).
    pub clients_refused: u64,
    /// Client connections closed because they did not read.
    pub clients_too_slow: u64,
    /// Lines from clients.
    pub client_messages: u64,
    /// Lines from the upstream.
    pub upstream_messages: u64,
    /// Lines delivered to clients.
    pub delivered_messages: u64,
    /// Lines from clients that were answered with an error by codexd itself.
    pub rejected_messages: u64,
    /// Requests sent again because the upstream had no room for them.
    pub retried_requests: u64,
    /// Turns that ended.
    pub turns_completed: u64,
    /// Lines that the upstream sent and nobody wanted.
    pub dropped_messages: u64,
}

/// One thing an operator should know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Warning {
    /// Stable word for programs, for instance `socketReplaced`.
    pub code: String,
    /// What is the case.
    pub message: String,
    /// What to type or do next.
    pub hint: String,
}

/// How a daemon ended: written at its end, shown by the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LastExit {
    /// Exit code of the daemon; absent when it left no record (killed).
    pub code: Option<u8>,
    /// Why, in words.
    pub reason: String,
    /// How the upstream ended, for instance `killed by signal 9 (SIGKILL)`.
    pub upstream: Option<String>,
    /// The last lines of the upstream's stderr, if it ended unasked; secrets are masked.
    pub upstream_stderr: Vec<String>,
    /// Generation of the daemon that ended.
    pub generation: u64,
    /// When it ended; absent when it left no record.
    pub at_unix_ms: Option<u64>,
    /// For how long it had run; absent when it left no record.
    pub uptime_ms: Option<u64>,
}

/// A start of a daemon that failed before the daemon held its instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FailedStart {
    /// Exit code.
    pub code: u8,
    /// Why, in words.
    pub reason: String,
    /// What to type or do next, where there is something to name.
    pub hint: Option<String>,
    /// When it failed.
    pub at_unix_ms: u64,
    /// Process id of the daemon that did not start.
    pub pid: u32,
    /// Whether another daemon held the instance at that moment: then this is no end of it.
    pub other_daemon: bool,
}

/// One connected client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientStatus {
    /// Number of the connection, unique for the daemon's life.
    pub id: u64,
    /// `awaitingInitialize`, `active` or `closing`.
    pub state: String,
    /// `clientInfo.name`, once known.
    pub name: Option<String>,
    /// `clientInfo.version`, once known.
    pub version: Option<String>,
    /// Process id at the other end, where the system tells it.
    pub pid: Option<u32>,
    /// The program of that process, where the system tells it.
    pub program: Option<String>,
    /// What it speaks, once known: `lines` or `webSocket`.
    pub framing: Option<String>,
    /// For how long it has been connected.
    pub connected_ms: u64,
    /// Threads it is subscribed to.
    pub threads: Vec<String>,
    /// Turns that run on these threads.
    pub open_turns: usize,
    /// Its requests that wait for an answer.
    pub in_flight: usize,
    /// Of these, and of its notifications, those that wait for the in-flight window.
    pub queued_requests: usize,
    /// Bytes waiting to be written to it.
    pub queued_bytes: u64,
    /// Messages it has sent.
    pub received_messages: u64,
    /// Their bytes, without what framing adds.
    pub received_bytes: u64,
    /// Messages for it, those that still wait included.
    pub sent_messages: u64,
    /// Bytes that its socket has taken, without what framing adds.
    pub sent_bytes: u64,
    /// Time since it last sent something or took something.
    pub idle_ms: u64,
}
