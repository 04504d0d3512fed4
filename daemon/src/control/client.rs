//! The client of the control socket, as `codexd ctl` uses it.

use std::io;
use std::path::Path;
use std::time::Duration;

use codexd_proto::control::{
    InterruptReceipt, KillReceipt, ReloadReceipt, StateChange, StopMode, StopReceipt, UpgradeRequest,
    UpgradeStep, View,
};
use codexd_proto::exit::ExitCode;
use codexd_proto::feed::{FeedEvent, FrameFilter, Frames};
use codexd_proto::status::{ClientStatus, StatusReport};
use jsonrpsee::core::ClientError;
use jsonrpsee::core::client::{Client, ClientBuilder, ClientT as _, Subscription};
use jsonrpsee::core::params::ArrayParams;
use serde_json::Value;
use tokio::net::UnixStream;

use super::api::{ControlClient as _, JOB_REFUSED};
use super::transport;
use crate::error::Error;
use crate::logging::filter::LogFilter;
use crate::os::peer::check_peer;
use crate::turn::TurnRequest;

/// Why there is no answer. `NotRunning` is returned only if the system reports that no process listens.
#[derive(Debug)]
pub(crate) enum Unreachable {
    /// No process listens there.
    NotRunning,
    /// A process may listen there: permission was denied, or the answer is missing or malformed.
    CannotTell(Error),
}

/// A connection to a daemon.
pub(crate) struct ControlConnection {
    client: Client,
    path: String,
}

/// The states of a daemon. See [`ControlConnection::states`].
pub(crate) struct States(Subscription<StateChange>);

impl States {
    /// Returns the next state, at first the current one; `None` if the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<StateChange> {
        // A newer daemon has sent a state that this version does not know. It is not one that this version waits for.
        loop {
            if let Ok(change) = self.0.next().await? {
                return Some(change);
            }
        }
    }
}

impl ControlConnection {
    /// Connects to the control socket at `path` within `timeout`. Each request then has `patience` for its answer.
    ///
    /// # Errors
    ///
    /// [`Unreachable`].
    pub(crate) async fn open(
        path: &Path,
        timeout: Duration,
        patience: Duration,
    ) -> Result<ControlConnection, Unreachable> {
        let shown = path.display().to_string();
        let attempt = async {
            let stream = UnixStream::connect(path).await.map_err(|error| match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory => {
                    Unreachable::NotRunning
                }
                _ => cannot_tell(&shown, error),
            })?;
            // The socket of another user could report anything.
            check_peer(&stream).map_err(|error| cannot_tell(&shown, error))?;
            transport::handshake(stream).await.map_err(|error| cannot_tell(&shown, error))
        };
        let (sender, receiver) =
            tokio::time::timeout(timeout, attempt).await.map_err(|_| silent(&shown, timeout))??;
        let client = ClientBuilder::default().request_timeout(patience).build_with_tokio(sender, receiver);
        Ok(ControlConnection { client, path: shown })
    }

    /// Requests the status.
    ///
    /// # Errors
    ///
    /// [`Unreachable`].
    pub(crate) async fn status(&self) -> Result<StatusReport, Unreachable> {
        self.client.status().await.map_err(|error| self.failed(error))
    }

    /// Requests the status and returns it unparsed: a daemon of another version can have other members, and members
    /// that it lacks stay absent.
    ///
    /// # Errors
    ///
    /// [`Unreachable`].
    pub(crate) async fn status_json(&self) -> Result<Value, Unreachable> {
        self.client.request("codexd_status", ArrayParams::new()).await.map_err(|error| self.failed(error))
    }

    /// Requests the connected clients.
    ///
    /// # Errors
    ///
    /// [`Unreachable`].
    pub(crate) async fn clients(&self) -> Result<Vec<ClientStatus>, Unreachable> {
        self.client.clients().await.map_err(|error| self.failed(error))
    }

    /// Requests a list and returns it unparsed, as [`status_json`](ControlConnection::status_json) does.
    ///
    /// # Errors
    ///
    /// [`Unreachable`].
    pub(crate) async fn list_json(&self, view: View) -> Result<Value, Unreachable> {
        let method = match view {
            View::Status => "codexd_status",
            View::Clients => "codexd_clients",
            View::Threads => "codexd_threads",
            View::Turns => "codexd_turns",
            View::Requests => "codexd_requests",
        };
        self.client.request(method, ArrayParams::new()).await.map_err(|error| self.failed(error))
    }

    /// Interrupts a turn and waits for its end, for `timeout` at most.
    ///
    /// # Errors
    ///
    /// [`Unreachable`].
    pub(crate) async fn interrupt(
        &self,
        target: &str,
        timeout: Duration,
    ) -> Result<InterruptReceipt, Unreachable> {
        let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.client.interrupt(target.to_owned(), ms).await.map_err(|error| self.failed(error))
    }

    /// Disconnects a client.
    ///
    /// # Errors
    ///
    /// [`Unreachable`].
    pub(crate) async fn kill(&self, client: u64) -> Result<KillReceipt, Unreachable> {
        self.client.kill(client).await.map_err(|error| self.failed(error))
    }

    /// Subscribes to events.
    ///
    /// # Errors
    ///
    /// [`Unreachable`].
    pub(crate) async fn events(&self) -> Result<Subscription<FeedEvent>, Unreachable> {
        self.client.subscribe_events().await.map_err(|error| self.failed(error))
    }

    /// Subscribes to frames.
    ///
    /// # Errors
    ///
    /// [`Unreachable`].
    pub(crate) async fn frames(&self, filter: FrameFilter) -> Result<Subscription<Frames>, Unreachable> {
        self.client.subscribe_frames(filter).await.map_err(|error| self.failed(error))
    }

    /// Subscribes to a view.
    ///
    /// # Errors
    ///
    /// [`Unreachable`].
    pub(crate) async fn view(&self, view: View, every: Duration) -> Result<Subscription<Value>, Unreachable> {
        let ms = u64::try_from(every.as_millis()).unwrap_or(u64::MAX);
        self.client.subscribe_view(view, ms).await.map_err(|error| self.failed(error))
    }

    /// Requests the path of the client socket.
    ///
    /// # Errors
    ///
    /// [`Unreachable`].
    pub(crate) async fn socket(&self) -> Result<String, Unreachable> {
        self.client.socket().await.map_err(|error| self.failed(error))
    }

    /// Subscribes to the daemon's states.
    ///
    /// # Errors
    ///
    /// [`Unreachable`].
    pub(crate) async fn states(&self) -> Result<States, Unreachable> {
        self.client.subscribe_state().await.map(States).map_err(|error| self.failed(error))
    }

    /// Has the daemon replaced by the next one, and subscribes to the steps of that. Dropping the subscription, or the
    /// connection, calls it off.
    ///
    /// # Errors
    ///
    /// [`Unreachable`].
    pub(crate) async fn upgrade(
        &self,
        request: UpgradeRequest,
    ) -> Result<Subscription<UpgradeStep>, Unreachable> {
        self.client.subscribe_upgrade(request).await.map_err(|error| self.failed(error))
    }

    /// Stops the daemon. Returns when the stop has begun.
    ///
    /// # Errors
    ///
    /// [`Unreachable`].
    pub(crate) async fn stop(&self, mode: StopMode) -> Result<StopReceipt, Unreachable> {
        self.client.stop(mode).await.map_err(|error| self.failed(error))
    }

    /// Makes the daemon read its settings again.
    ///
    /// # Errors
    ///
    /// [`Unreachable`].
    pub(crate) async fn reload(&self) -> Result<ReloadReceipt, Unreachable> {
        self.client.reload().await.map_err(|error| self.failed(error))
    }

    /// Changes what the daemon logs.
    ///
    /// # Errors
    ///
    /// [`Unreachable`].
    pub(crate) async fn log_level(&self, filter: &LogFilter) -> Result<(), Unreachable> {
        self.client.log_level(filter.to_string()).await.map_err(|error| self.failed(error))
    }

    /// Begins a job. Returns its id.
    ///
    /// # Errors
    ///
    /// [`Unreachable`]. If the daemon refuses the job, with its reason.
    pub(crate) async fn start_job(
        &self,
        request: &TurnRequest,
        timeout_ms: Option<u64>,
    ) -> Result<String, Unreachable> {
        self.client.start_job(request.clone(), timeout_ms).await.map_err(|error| match error {
            ClientError::Call(refusal) if refusal.code() == JOB_REFUSED => {
                let refused = Error::new(ExitCode::UpstreamLost, "the daemon refuses the job");
                Unreachable::CannotTell(refused.because(refusal.message().to_owned()))
            }
            error => self.failed(error),
        })
    }

    /// Cancels a job. Returns whether it was running.
    ///
    /// # Errors
    ///
    /// [`Unreachable`].
    pub(crate) async fn cancel_job(&self, id: &str) -> Result<bool, Unreachable> {
        self.client.cancel_job(id.to_owned()).await.map_err(|error| self.failed(error))
    }

    /// Removes jobs that have ended from the ledger.
    ///
    /// # Errors
    ///
    /// [`Unreachable`].
    pub(crate) async fn forget_jobs(&self, ids: Vec<String>) -> Result<(), Unreachable> {
        self.client.forget_jobs(ids).await.map_err(|error| self.failed(error))
    }

    /// Waits until the daemon closes the connection. It does that last of all.
    pub(crate) async fn closed(&self) {
        self.client.on_disconnect().await;
    }

    fn failed(&self, error: ClientError) -> Unreachable {
        match error {
            ClientError::RestartNeeded(_) | ClientError::ServiceDisconnect => Unreachable::NotRunning,
            ClientError::RequestTimeout => silent(&self.path, self.client.request_timeout()),
            error => cannot_tell(&self.path, error),
        }
    }
}

/// Requests the status of a daemon, from a thread with or without a runtime.
///
/// # Errors
///
/// [`Unreachable`].
pub(crate) fn ask_status(path: &Path, timeout: Duration) -> Result<StatusReport, Unreachable> {
    let ask = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| cannot_tell(&path.display().to_string(), error))?;
        runtime.block_on(async { ControlConnection::open(path, timeout, timeout).await?.status().await })
    };
    // A runtime cannot be entered from within another one.
    std::thread::scope(|scope| scope.spawn(ask).join())
        .unwrap_or_else(|_| Err(cannot_tell(&path.display().to_string(), "the client panicked")))
}

fn cannot_tell(path: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Unreachable {
    Unreachable::CannotTell(
        Error::new(ExitCode::Os, format!("cannot ask the daemon at `{path}`"))
            .because(error)
            .hint("the socket may belong to another user, another program or another version of codexd"),
    )
}

fn silent(path: &str, timeout: Duration) -> Unreachable {
    Unreachable::CannotTell(
        Error::new(
            ExitCode::Os,
            format!("the daemon at `{path}` did not answer within {} ms", timeout.as_millis()),
        )
        .hint("it may be stopped (SIGSTOP) or starved; look at it with `ps` and at its log"),
    )
}
