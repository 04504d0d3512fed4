//! The methods of the control socket: JSON-RPC 2.0 over WebSocket, shared by server and client.
//!
//! Within one [`CONTROL_PROTOCOL`](codexd_proto::status::CONTROL_PROTOCOL) methods and members are added
//! and never changed.
#![allow(
    unreachable_pub,
    reason = "the generated traits name the answers in public places, which compilers from 1.96 on refuse for crate-private types"
)]

use codexd_proto::status::{ClientStatus, DaemonState, StatusReport};
use jsonrpsee::core::RpcResult;
use jsonrpsee::proc_macros::rpc;
use serde::{Deserialize, Serialize};

use crate::settings::reload::Differences;

/// The error code when the core does not answer in time and the snapshot is no substitute.
pub(crate) const CORE_NOT_RESPONDING: i32 = -32011;

/// What `codexd ctl` can ask and tell the daemon.
#[rpc(server, client, namespace = "codexd")]
pub(crate) trait Control {
    /// Returns how the daemon is; always answers, if need be with the last snapshot and a warning.
    #[method(name = "status")]
    async fn status(&self) -> RpcResult<StatusReport>;

    /// Returns the connected clients.
    #[method(name = "clients")]
    async fn clients(&self) -> RpcResult<Vec<ClientStatus>>;

    /// Answers when the target is reached, can no longer be reached, or `timeout_ms` is over.
    ///
    /// A daemon that has stopped answers nothing: for [`WaitTarget::Stopped`] the end of the connection
    /// is the news.
    #[method(name = "wait")]
    async fn wait(&self, target: WaitTarget, timeout_ms: Option<u64>) -> RpcResult<WaitOutcome>;

    /// Begins an intended stop and says what it found; does not wait for the end.
    #[method(name = "stop")]
    async fn stop(&self, mode: StopMode) -> RpcResult<StopReceipt>;

    /// Reads the settings again, as SIGHUP does, and says what became of it.
    #[method(name = "reload")]
    async fn reload(&self) -> RpcResult<ReloadReceipt>;

    /// Changes what is logged until the settings are read again.
    #[method(name = "logLevel")]
    async fn log_level(&self, level: String) -> RpcResult<()>;

    /// Returns the versions of daemon and protocol.
    #[method(name = "version")]
    async fn version(&self) -> RpcResult<Version>;

    /// Returns the path of the socket for clients.
    #[method(name = "socket")]
    async fn socket(&self) -> RpcResult<String>;
}

/// What can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum WaitTarget {
    /// Clients are served.
    Ready,
    /// The daemon is gone.
    Stopped,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WaitOutcome {
    /// Whether the target was reached.
    pub(crate) reached: bool,
    /// The state at that moment.
    pub(crate) state: DaemonState,
}

/// What becomes of running turns at a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum StopMode {
    /// They may finish until the drain timeout.
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
    pub(crate) generation: u64,
    /// Its process, for people.
    pub(crate) pid: u32,
    /// Its state after the request.
    pub(crate) state: DaemonState,
    /// Whether it was on its way out already.
    pub(crate) already_stopping: bool,
    /// Clients that were connected.
    pub(crate) clients: usize,
    /// Turns that were running.
    pub(crate) open_turns: usize,
    /// Time they have left, where there is a limit.
    pub(crate) deadline_ms: Option<u64>,
}

/// What became of reading the settings again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReloadReceipt {
    /// Settings that have changed and are in force now.
    pub(crate) applied: Vec<String>,
    /// Settings that have changed and are in force after a restart.
    pub(crate) needs_restart: Vec<String>,
    /// Why nothing was changed, if the settings cannot be used.
    pub(crate) error: Option<String>,
}

impl From<Differences> for ReloadReceipt {
    fn from(differences: Differences) -> ReloadReceipt {
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        ReloadReceipt {
            applied: owned(differences.live),
            needs_restart: owned(differences.restart),
            error: None,
        }
    }
}

/// Versions of a daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Version {
    /// Of codexd.
    pub(crate) version: String,
    /// Of this interface.
    pub(crate) protocol: u32,
    /// Of the upstream, once it told.
    pub(crate) upstream: Option<String>,
}
