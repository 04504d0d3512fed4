//! The methods of the control socket: JSON-RPC 2.0 over WebSocket, shared by server and client.
//!
//! Within one [`CONTROL_PROTOCOL`](codexd_proto::status::CONTROL_PROTOCOL) methods and members are added
//! and never changed.

use codexd_proto::control::{
    InterruptReceipt, KillReceipt, ReloadReceipt, StateChange, StopMode, StopReceipt, UpgradeRequest,
    UpgradeStep, View,
};
use codexd_proto::feed::{FeedEvent, FrameFilter, Frames};
use codexd_proto::listing::{RequestStatus, ThreadStatus, TurnStatus};
use codexd_proto::status::{ClientStatus, StatusReport};
use jsonrpsee::core::{RpcResult, SubscriptionResult};
use jsonrpsee::proc_macros::rpc;
use serde_json::Value;

use crate::settings::reloader::Differences;
use crate::turn::TurnRequest;

/// The error code when all slots for subscriptions are occupied.
pub(crate) const TOO_MANY_SUBSCRIBED: i32 = -32012;

/// The error code of a refused job.
pub(crate) const JOB_REFUSED: i32 = -32013;

/// The error code when the core does not answer in time and the snapshot cannot replace its answer.
pub(crate) const CORE_NOT_RESPONDING: i32 = -32011;

/// The requests of `codexd ctl` to the daemon.
#[rpc(server, client, namespace = "codexd")]
pub(crate) trait Control {
    /// Returns the status. Always answers: if the core does not, with the last snapshot and a warning.
    #[method(name = "status")]
    async fn status(&self) -> RpcResult<StatusReport>;

    /// Returns the connected clients.
    #[method(name = "clients")]
    async fn clients(&self) -> RpcResult<Vec<ClientStatus>>;

    /// Returns the threads in use.
    #[method(name = "threads")]
    async fn threads(&self) -> RpcResult<Vec<ThreadStatus>>;

    /// Returns the running turns.
    #[method(name = "turns")]
    async fn turns(&self) -> RpcResult<Vec<TurnStatus>>;

    /// Returns the requests without an answer.
    #[method(name = "requests")]
    async fn requests(&self) -> RpcResult<Vec<RequestStatus>>;

    /// Interrupts the turn with this id, or the running turn of the thread with this id, and waits for its end, at
    /// most so many milliseconds.
    #[method(name = "interrupt", with_extensions)]
    async fn interrupt(&self, target: String, timeout_ms: u64) -> RpcResult<InterruptReceipt>;

    /// Closes a client's connection.
    #[method(name = "kill")]
    async fn kill(&self, client: u64) -> RpcResult<KillReceipt>;

    /// Sends a view at once, every so many milliseconds, and when the state of the daemon changes.
    ///
    /// For connections and slots, see `subscribe_state`.
    #[subscription(name = "subscribeView" => "view", unsubscribe = "unsubscribeView", item = Value, with_extensions)]
    async fn subscribe_view(&self, view: View, every_ms: u64) -> SubscriptionResult;

    /// Sends the current state, and from then on what happens to the daemon, clients, turns and approvals, and
    /// warnings as they come and go.
    #[subscription(name = "subscribeEvents" => "event", unsubscribe = "unsubscribeEvents", item = FeedEvent, with_extensions)]
    async fn subscribe_events(&self) -> SubscriptionResult;

    /// Sends the frames that pass a filter, several in one message.
    #[subscription(name = "subscribeFrames" => "frames", unsubscribe = "unsubscribeFrames", item = Frames, with_extensions)]
    async fn subscribe_frames(&self, filter: FrameFilter) -> SubscriptionResult;

    /// Sends the current state and then each state that the daemon enters.
    ///
    /// A daemon that has stopped sends nothing; its end is the end of the connection. A connection with a subscription
    /// occupies no slot of the connections without one.
    #[subscription(name = "subscribeState" => "state", unsubscribe = "unsubscribeState", item = StateChange, with_extensions)]
    async fn subscribe_state(&self) -> SubscriptionResult;

    /// Has the next daemon take the place of this one as soon as nothing runs, and sends each step. The end of the
    /// subscription calls it off, until it hands over.
    ///
    /// For connections and slots, see `subscribe_state`.
    #[subscription(name = "subscribeUpgrade" => "upgrade", unsubscribe = "unsubscribeUpgrade", item = UpgradeStep, with_extensions)]
    async fn subscribe_upgrade(&self, request: UpgradeRequest) -> SubscriptionResult;

    /// Begins an intended stop, and returns what the daemon found. Does not wait for the end.
    #[method(name = "stop")]
    async fn stop(&self, mode: StopMode) -> RpcResult<StopReceipt>;

    /// Reads the settings again, as SIGHUP does, and returns what changed.
    #[method(name = "reload")]
    async fn reload(&self) -> RpcResult<ReloadReceipt>;

    /// Changes what is logged, until the settings are read again.
    #[method(name = "logLevel")]
    async fn log_level(&self, level: String) -> RpcResult<()>;

    /// Begins a job: a turn that the daemon runs itself, for at most `timeout_ms`. Returns the job's id once the job is
    /// recorded.
    #[method(name = "startJob", param_kind = map)]
    async fn start_job(&self, request: TurnRequest, timeout_ms: Option<u64>) -> RpcResult<String>;

    /// Cancels a job. Returns whether it was running. Does not wait for its end.
    #[method(name = "cancelJob", param_kind = map)]
    async fn cancel_job(&self, id: String) -> RpcResult<bool>;

    /// Removes jobs that have ended from the ledger.
    #[method(name = "forgetJobs", param_kind = map)]
    async fn forget_jobs(&self, ids: Vec<String>) -> RpcResult<()>;

    /// Returns the path of the client socket.
    #[method(name = "socket")]
    async fn socket(&self) -> RpcResult<String>;
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
