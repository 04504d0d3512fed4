//! What the daemon reports about itself: plain data, filled in by every layer and printed by every front end.
//!
//! The JSON form is camelCase and stable: within one [`CONTROL_PROTOCOL`], members are added, and never renamed or
//! removed. Members called `...Ms` are durations in milliseconds. Those called `...UnixMs` are points in time, in
//! milliseconds since the Unix epoch.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::listing::{ClientName, RequestStatus, TurnStatus};

/// Version of the control protocol and of these types. It grows when a member changes its meaning.
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
    /// No new work. Running turns can finish before the deadline.
    Draining,
    /// The upstream is being ended, or pending replies are being written.
    Stopping,
    /// Only the exit of the process is left.
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
    /// For how long it has been in this state.
    pub state_since_ms: u64,
    /// Whether a client that connects now is served.
    pub ready: bool,
    /// Process id of the daemon.
    pub pid: u32,
    /// Version of codexd.
    pub version: String,
    /// Commit from which it was built, if the build knew it.
    pub commit: Option<String>,
    /// Instance name: one per user and CODEX_HOME.
    pub instance: String,
    /// Number of this life of daemon and upstream. It grows with each start of the instance.
    pub generation: u64,
    /// When the daemon started.
    pub started_unix_ms: u64,
    /// For how long it has run.
    pub uptime_ms: u64,
    /// Path of the client socket.
    pub socket: String,
    /// Path of the control socket.
    pub control_socket: String,
    /// Path of the lock that the daemon holds while it lives.
    pub lock_file: String,
    /// Path of the record of how it ended, which it writes at its end.
    pub record_file: String,
    /// Where the daemon's log is.
    pub log: Option<LogStatus>,
    /// CODEX_HOME of the upstream.
    pub codex_home: String,
    /// The environment variables of the daemon that matter to clients: CODEX_HOME with its value, the others with a
    /// short hash in place of it.
    pub environment: BTreeMap<String, String>,
    /// How many files the daemon can have open: one for each client, and some more.
    pub open_files_limit: u64,
    /// The `codex app-server` child.
    pub upstream: UpstreamStatus,
    /// Connected clients.
    pub clients: usize,
    /// The clients that have been connected longest, at most eight.
    pub oldest_clients: Vec<ClientName>,
    /// What an upgrade waits for; absent while none waits.
    pub upgrade: Option<UpgradeStatus>,
    /// The codexd that the next daemon would run, if it is another one than that which runs.
    pub installed: Option<InstalledStatus>,
    /// Clients that can be connected at the same time, by the settings and the limit on open files.
    pub max_clients: usize,
    /// Threads that are known to be loaded upstream.
    pub threads: usize,
    /// Turns that have started and not ended.
    pub open_turns: usize,
    /// Requests of clients without an answer.
    pub in_flight: usize,
    /// Age of the oldest of them.
    pub oldest_request_ms: Option<u64>,
    /// Requests that wait for a slot of the in-flight window.
    pub queued_requests: usize,
    /// Approvals and other server requests without an answer.
    pub pending_approvals: usize,
    /// Those of them that no connected client can see.
    pub parked_approvals: usize,
    /// Age of the oldest of them.
    pub oldest_approval_ms: Option<u64>,
    /// The turns that have run longest, at most three.
    pub oldest_turns: Vec<TurnStatus>,
    /// The requests of clients that have waited longest, at most three.
    pub oldest_requests: Vec<RequestStatus>,
    /// The server requests that have waited longest, at most three.
    pub oldest_approvals: Vec<RequestStatus>,
    /// Memory of the daemon and of codex; absent if the system does not report it.
    pub memory: Option<MemoryStatus>,
    /// Latencies since the start.
    pub latency: Option<LatencyStatus>,
    /// Bytes of codex and its commands above which there is a warning; absent without such a limit.
    pub memory_warning_bytes: Option<u64>,
    /// Bytes queued for all clients.
    pub queued_to_clients_bytes: u64,
    /// Bytes queued for the upstream.
    pub queued_to_upstream_bytes: u64,
    /// Time since the last turn of the core loop. If it is large, the loop hangs.
    pub core_idle_ms: u64,
    /// Counters since the start.
    pub counters: Counters,
    /// What needs an operator's attention, each with the next step.
    pub warnings: Vec<Warning>,
    /// How the daemon before this one ended, or why it did not start.
    pub last_exit: Option<LastExit>,
    /// The last failed start since this daemon began, usually because this one runs (code 75). Without a daemon,
    /// since the last one began.
    pub failed_start: Option<FailedStart>,
}

/// The upstream: its process, and what its protocol shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpstreamStatus {
    /// Process id, while it runs.
    pub pid: Option<u32>,
    /// The program that runs, with the npm wrapper resolved.
    pub executable: String,
    /// The program that was configured, if it differs from `executable`.
    pub requested: Option<String>,
    /// The names of its arguments after `app-server`, such as `-c model` or `--enable x`, without their values.
    pub arguments: Vec<String>,
    /// Version that it reported in its handshake.
    pub version: Option<String>,
    /// User agent that it reported in its handshake.
    pub user_agent: Option<String>,
    /// For how long it has run.
    pub uptime_ms: Option<u64>,
    /// Time since its last message.
    pub last_message_ms: Option<u64>,
    /// For how long it has not answered a health check, while one is unanswered.
    pub unanswered_probe_ms: Option<u64>,
    /// How it ended; absent while it runs.
    pub ended: Option<String>,
    /// The last lines of its stderr if it ended without being asked to. Secrets are masked.
    pub stderr: Vec<String>,
    /// Version with which the routing table was measured.
    pub measured_version: String,
    /// The codex that the next daemon would run, if it is another one.
    pub installed: Option<InstalledStatus>,
    /// Its methods that are not in the routing table. They are passed on unchanged. Also empty if it did not name its
    /// methods.
    pub unknown_methods: Vec<String>,
}

/// An upgrade that waits until nothing runs. New work is refused meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpgradeStatus {
    /// For how long it has waited.
    pub since_ms: u64,
    /// After how long it is called off; absent without a limit.
    pub left_ms: Option<u64>,
    /// The turns that run. One whose approval no connected client can answer is not waited for.
    pub turns: Vec<TurnStatus>,
    /// The requests of clients that codex has not answered.
    pub requests: Vec<RequestStatus>,
}

/// A codex or codexd on disk that differs from the running one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InstalledStatus {
    /// Its program; absent if there is none any more.
    pub executable: Option<String>,
    /// Its version, if the npm package of codex has one, or the program of codexd.
    pub version: Option<String>,
}

/// Latencies as upper bounds in microseconds; absent if nothing was measured yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LatencyStatus {
    /// Median from the end of a read to the end of the writes that follow from it.
    pub added_p50_us: Option<u64>,
    /// 99th percentile of the same.
    pub added_p99_us: Option<u64>,
    /// Median from a client's request that only reads to codex's answer.
    pub answer_p50_us: Option<u64>,
    /// 99th percentile of the same.
    pub answer_p99_us: Option<u64>,
}

/// Where a daemon's log is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LogStatus {
    /// `journal`, `file`, or `other`: a terminal, a pipe, nothing.
    pub kind: String,
    /// The path of the file, or the system's name for another destination; absent if it is not known.
    pub path: Option<String>,
}

/// Resident memory in bytes, as the system reports it. Memory that processes share counts for each of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MemoryStatus {
    /// Of the daemon.
    pub daemon_bytes: u64,
    /// Of codex and all its descendants.
    pub codex_bytes: Option<u64>,
    /// Number of these processes.
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
    /// Client connections closed because their clients did not read fast enough.
    pub clients_too_slow: u64,
    /// Lines from clients.
    pub client_messages: u64,
    /// Lines from the upstream.
    pub upstream_messages: u64,
    /// Lines delivered to clients.
    pub delivered_messages: u64,
    /// Lines from clients that codexd itself answered with an error.
    pub rejected_messages: u64,
    /// Requests sent again because the upstream's queue was full.
    pub retried_requests: u64,
    /// Turns that ended.
    pub turns_completed: u64,
    /// Lines of the upstream for which there was no recipient.
    pub dropped_messages: u64,
}

/// One thing that needs an operator's attention.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Warning {
    /// Stable word for programs, for instance `socketReplaced`.
    pub code: String,
    /// What was found.
    pub message: String,
    /// What to type or do next.
    pub hint: String,
}

/// How a daemon ended. It writes this at its end, and the next daemon reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LastExit {
    /// Exit code of the daemon; absent if it left no record because it was killed.
    pub code: Option<u8>,
    /// Why, as text.
    pub reason: String,
    /// How the upstream ended, for instance `killed by signal 9 (SIGKILL)`.
    pub upstream: Option<String>,
    /// The last lines of the upstream's stderr if it ended without being asked to. Secrets are masked.
    pub upstream_stderr: Vec<String>,
    /// Generation of the daemon that ended.
    pub generation: u64,
    /// When it ended; absent if it left no record.
    pub at_unix_ms: Option<u64>,
    /// For how long it had run; absent if it left no record.
    pub uptime_ms: Option<u64>,
}

/// A start of a daemon that failed before the daemon held its instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FailedStart {
    /// Exit code.
    pub code: u8,
    /// Why, as text.
    pub reason: String,
    /// What to type or do next, if something is known to help.
    pub hint: Option<String>,
    /// When it failed.
    pub at_unix_ms: u64,
    /// Process id of the daemon that did not start.
    pub pid: u32,
    /// Whether another daemon held the instance at that time. Then it is not the end of that daemon.
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
    /// Process id of its peer, if the system reports it.
    pub pid: Option<u32>,
    /// The program of that process, if the system reports it.
    pub program: Option<String>,
    /// Its framing, once known: `lines` or `webSocket`.
    pub framing: Option<String>,
    /// For how long it has been connected.
    pub connected_ms: u64,
    /// Threads it is subscribed to.
    pub threads: Vec<String>,
    /// Turns that run on these threads.
    pub open_turns: usize,
    /// Its requests without an answer.
    pub in_flight: usize,
    /// Its requests and notifications that wait for a slot of the in-flight window.
    pub queued_requests: usize,
    /// Bytes queued for it.
    pub queued_bytes: u64,
    /// Messages it has sent.
    pub received_messages: u64,
    /// Bytes of these messages, without what framing adds.
    pub received_bytes: u64,
    /// Messages for it, including those still queued.
    pub sent_messages: u64,
    /// Bytes that its socket accepted, without what framing adds.
    pub sent_bytes: u64,
    /// Time since it last sent or accepted something.
    pub idle_ms: u64,
}
