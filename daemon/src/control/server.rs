//! The server of the control socket, on its own thread.

use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;
use std::time::Duration;

use codexd_proto::control::{ReloadReceipt, StopMode, StopReceipt, WaitOutcome, WaitTarget};
use codexd_proto::status::{ClientStatus, DaemonState, StatusReport, Warning};
use jsonrpsee::Methods;
use jsonrpsee::core::{RpcResult, async_trait};
use jsonrpsee::server::{ServerBuilder, ServerConfig, serve_with_graceful_shutdown, stop_channel};
use jsonrpsee::types::ErrorObjectOwned;
use jsonrpsee::types::error::INVALID_PARAMS_CODE;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::api::{CORE_NOT_RESPONDING, ControlServer as _};
use super::{Command, Handle};
use crate::error::Error;
use crate::logging::filter::LogFilter;
use crate::os::peer::check_peer;

/// How long the core may take to answer.
const CORE_ANSWERS_WITHIN: Duration = Duration::from_millis(500);
/// How long answers may take to be written once the daemon is done.
const FAREWELL_WITHIN: Duration = Duration::from_millis(500);
/// Connections at the same time, each of a `codexd ctl` or a monitor.
const MAX_CONNECTIONS: u32 = 32;
/// Connections that have not yet sent their handshake.
const MAX_HANDSHAKES: usize = 32;
/// How long such a connection may take: silent ones must not keep `codexd ctl` out.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(2);
/// The largest request, in bytes; there are none with contents.
const MAX_REQUEST_BYTES: u32 = 64 << 10;
/// How long to wait before accepting again after a failure such as too many open files.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Stack of the thread, in bytes.
const STACK_BYTES: usize = 512 << 10;

/// The running server; ends with [`ControlServer::stop`] or when dropped.
#[derive(Debug)]
pub(crate) struct ControlServer {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl ControlServer {
    /// Starts to serve `listener`, which does not block.
    ///
    /// # Errors
    ///
    /// When the system refuses the thread or what its runtime needs.
    pub(crate) fn spawn(listener: UnixListener, handle: Handle) -> Result<ControlServer, Error> {
        let stop = CancellationToken::new();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().map_err(
                |error| Error::os("cannot start the runtime of the control server").because(error),
            )?;
        let listener = {
            let _context = runtime.enter();
            tokio::net::UnixListener::from_std(listener)
                .map_err(|error| Error::os("cannot watch the control socket").because(error))?
        };
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("control".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || runtime.block_on(serve(listener, handle, stopped)))
            .map_err(|error| Error::os("cannot start the thread of the control server").because(error))?;
        Ok(ControlServer { stop, thread: Some(thread) })
    }

    /// Stops accepting, answers what was asked, closes the connections and waits for the thread; all that
    /// within a second.
    ///
    /// Whoever waits for the daemon's end sees it in the closed connection: to be called as late as can be.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the control server panicked");
        }
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.end();
    }
}

async fn serve(listener: tokio::net::UnixListener, handle: Handle, stop: CancellationToken) {
    let (stop_handle, server_handle) = stop_channel();
    let config = ServerConfig::builder()
        .ws_only()
        .max_connections(MAX_CONNECTIONS)
        .max_request_body_size(MAX_REQUEST_BYTES)
        .set_message_buffer_capacity(16)
        .build();
    let builder = ServerBuilder::new().set_config(config).to_service_builder();
    let methods: Methods = Service { handle, stop: stop.clone() }.into_rpc().into();
    let handshakes = TaskTracker::new();
    let mut failing = false;
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    failing = false;
                    stream
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "cannot accept control connections");
                    }
                    tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                    continue;
                }
            },
        };
        match check_peer(&stream) {
            Ok(peer) => tracing::debug!(peer.uid, peer.pid, "control connection"),
            Err(error) => {
                tracing::warn!(%error, "refused a control connection");
                continue;
            }
        }
        if handshakes.len() >= MAX_HANDSHAKES {
            tracing::warn!("refused a control connection: too many without a handshake");
            continue;
        }
        let service = builder.clone().build(methods.clone(), stop_handle.clone());
        let stopped = stop_handle.clone().shutdown();
        // Ends with the upgrade to a WebSocket; from there on a task of the library serves it.
        handshakes.spawn(async move {
            let handshake = serve_with_graceful_shutdown(stream, service, stopped);
            match tokio::time::timeout(HANDSHAKE_WITHIN, handshake).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(error, "control connection ended"),
                Err(_) => tracing::debug!("control connection without a handshake closed"),
            }
        });
    }
    drop((listener, builder, methods, stop_handle));
    handshakes.close();
    // Nobody may be listening any more.
    let _ = server_handle.stop();
    // Ends when the last connection has written its answers and dropped its stop handle.
    let _ = tokio::time::timeout(FAREWELL_WITHIN, async {
        handshakes.wait().await;
        server_handle.stopped().await;
    })
    .await;
}

/// The methods.
struct Service {
    handle: Handle,
    stop: CancellationToken,
}

impl Service {
    /// Asks the core, for a bounded time.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.handle.commands.send(command(reply)).ok()?;
        tokio::select! {
            // Told to stop, the core may have ended before this task runs again; its answer counts all the same.
            biased;
            answer = tokio::time::timeout(CORE_ANSWERS_WITHIN, answer) => answer.ok()?.ok(),
            () = self.stop.cancelled() => None,
        }
    }
}

#[async_trait]
impl super::api::ControlServer for Service {
    async fn status(&self) -> RpcResult<StatusReport> {
        if let Some(report) = self.ask(Command::Status).await {
            return Ok(report);
        }
        let (mut report, age) = self.handle.snapshot();
        report.core_idle_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        // A core that has ended does not respond either, and that is no fault.
        if !self.stop.is_cancelled() && !self.handle.commands.is_closed() {
            report.warnings.push(Warning {
                code: "coreNotResponding".to_owned(),
                message: format!(
                    "the core did not answer within {} ms; this is what it published {} ms ago",
                    CORE_ANSWERS_WITHIN.as_millis(),
                    report.core_idle_ms
                ),
                hint: format!(
                    "ask again; if it stays so, `kill -KILL {}` ends the daemon, and codex with it",
                    report.pid
                ),
            });
        }
        Ok(report)
    }

    async fn clients(&self) -> RpcResult<Vec<ClientStatus>> {
        self.ask(Command::Clients).await.ok_or_else(not_responding)
    }

    async fn wait(&self, target: WaitTarget, timeout_ms: Option<u64>) -> RpcResult<WaitOutcome> {
        let reached = async {
            loop {
                // From here on no change is missed, also one that comes before it is awaited.
                let changed = self.handle.shown.changed.notified();
                let (ready, state) = {
                    let snapshot = self.handle.shown.snapshot.read();
                    (snapshot.report.ready, snapshot.report.state)
                };
                let possible = match target {
                    WaitTarget::Ready if ready => return true,
                    WaitTarget::Ready => {
                        !matches!(state, DaemonState::Draining | DaemonState::Stopping | DaemonState::Exited)
                    }
                    WaitTarget::Stopped => true,
                };
                if !possible {
                    return false;
                }
                tokio::select! {
                    () = changed => {}
                    // The core is gone and the process follows.
                    () = self.handle.commands.closed() => {
                        self.stop.cancelled().await;
                        return target == WaitTarget::Stopped;
                    }
                }
            }
        };
        let timeout = async {
            match timeout_ms {
                Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
                None => std::future::pending().await,
            }
        };
        let reached = tokio::select! {
            reached = reached => reached,
            () = timeout => false,
            () = self.stop.cancelled() => target == WaitTarget::Stopped,
        };
        Ok(WaitOutcome { reached, state: self.handle.shown.snapshot.read().report.state })
    }

    async fn stop(&self, mode: StopMode) -> RpcResult<StopReceipt> {
        self.ask(|reply| Command::Stop { mode, reply }).await.ok_or_else(not_responding)
    }

    async fn reload(&self) -> RpcResult<ReloadReceipt> {
        self.ask(Command::Reload).await.ok_or_else(not_responding)
    }

    async fn log_level(&self, level: String) -> RpcResult<()> {
        let filter: LogFilter =
            level.parse().map_err(|error: crate::logging::filter::ParseLogFilterError| {
                ErrorObjectOwned::owned(INVALID_PARAMS_CODE, error.to_string(), None::<()>)
            })?;
        self.ask(|reply| Command::LogLevel { filter, reply }).await.ok_or_else(not_responding)
    }

    async fn socket(&self) -> RpcResult<String> {
        Ok(self.handle.shown.snapshot.read().report.socket.clone())
    }
}

fn not_responding() -> ErrorObjectOwned {
    ErrorObjectOwned::owned(CORE_NOT_RESPONDING, "the core does not answer", None::<()>)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tokio::sync::mpsc::UnboundedReceiver;

    use super::*;
    use crate::control::client::{Connection, Unreachable};
    use crate::control::{Publisher, channel};

    const PATIENCE: Duration = Duration::from_secs(10);

    struct Served {
        _dir: tempfile::TempDir,
        path: PathBuf,
        publisher: Publisher,
        commands: UnboundedReceiver<Command>,
        server: ControlServer,
    }

    fn served() -> Served {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (publisher, commands, handle) = channel(StatusReport::default());
        let server = ControlServer::spawn(listener, handle).unwrap();
        Served { _dir: dir, path, publisher, commands, server }
    }

    async fn open(path: &std::path::Path) -> Connection {
        Connection::open(path, PATIENCE, PATIENCE).await.unwrap_or_else(|error| panic!("{error:?}"))
    }

    #[tokio::test]
    async fn the_core_answers_and_its_answer_is_passed_on() {
        let mut served = served();
        let core = async {
            let Some(Command::Status(reply)) = served.commands.recv().await else { panic!("not asked") };
            reply.send(StatusReport { generation: 7, ..StatusReport::default() }).unwrap();
            let Some(Command::Stop { mode: StopMode::Now, reply }) = served.commands.recv().await else {
                panic!("not told")
            };
            reply.send(StopReceipt { open_turns: 2, ..StopReceipt::default() }).unwrap();
        };
        let client = async {
            let connection = open(&served.path).await;
            assert_eq!(connection.status().await.unwrap().generation, 7);
            assert_eq!(connection.stop(StopMode::Now).await.unwrap().open_turns, 2);
        };
        tokio::join!(core, client);
    }

    #[tokio::test]
    async fn an_answer_counts_also_when_the_daemon_has_ended_meanwhile() {
        let (_publisher, _commands, handle) = channel(StatusReport::default());
        let service = Service { handle, stop: CancellationToken::new() };
        service.stop.cancel();
        // As often as it takes to see a choice by chance.
        for _ in 0..64 {
            let answer = service.ask(|reply| {
                reply.send(7).unwrap();
                Command::Status(oneshot::channel().0)
            });
            assert_eq!(answer.await, Some(7));
        }
    }

    #[tokio::test]
    async fn a_core_that_hangs_is_told_apart_from_a_dead_daemon() {
        let served = served();
        served.publisher.publish(StatusReport { generation: 7, ..StatusReport::default() });
        let connection = open(&served.path).await;
        let report = connection.status().await.unwrap();
        assert_eq!(report.generation, 7);
        assert_eq!(report.warnings[0].code, "coreNotResponding");
        assert!(report.core_idle_ms >= 500);
        let Err(Unreachable::CannotTell(error)) = connection.stop(StopMode::Drain).await else {
            panic!("stopped")
        };
        assert!(error.chain().contains("core"), "{error:?}");
    }

    #[tokio::test]
    async fn a_wait_ends_when_its_target_is_reached_or_out_of_reach_or_late() {
        let served = served();
        let connection = open(&served.path).await;
        let late = connection.wait(WaitTarget::Ready, Some(Duration::from_millis(1))).await.unwrap();
        assert_eq!(late, WaitOutcome { reached: false, state: DaemonState::Starting });
        let publish = async {
            served.publisher.publish(StatusReport { state: DaemonState::Handshaking, ..Default::default() });
            tokio::task::yield_now().await;
            served.publisher.publish(StatusReport {
                state: DaemonState::Serving,
                ready: true,
                ..Default::default()
            });
        };
        let (reached, ()) = tokio::join!(connection.wait(WaitTarget::Ready, None), publish);
        assert_eq!(reached.unwrap(), WaitOutcome { reached: true, state: DaemonState::Serving });
        served.publisher.publish(StatusReport { state: DaemonState::Stopping, ..Default::default() });
        let vain = connection.wait(WaitTarget::Ready, None).await.unwrap();
        assert_eq!(vain, WaitOutcome { reached: false, state: DaemonState::Stopping });
    }

    #[tokio::test]
    async fn the_end_of_the_server_is_seen_and_leaves_nobody_waiting() {
        let served = served();
        let connection = open(&served.path).await;
        let Served { server, path, .. } = served;
        let file = path.clone();
        let stop = tokio::task::spawn_blocking(move || {
            server.stop();
            std::fs::remove_file(file).unwrap();
        });
        // An answer or the end of the connection: both are the news.
        match connection.wait(WaitTarget::Stopped, None).await {
            Ok(outcome) => assert!(outcome.reached),
            Err(error) => assert!(matches!(error, Unreachable::NotRunning), "{error:?}"),
        }
        connection.closed().await;
        stop.await.unwrap();
        assert!(matches!(Connection::open(&path, PATIENCE, PATIENCE).await, Err(Unreachable::NotRunning)));
    }

    #[tokio::test]
    async fn someone_who_does_not_speak_the_protocol_is_no_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _mute = UnixListener::bind(&path).unwrap();
        let answer = Connection::open(&path, Duration::from_millis(50), PATIENCE).await;
        assert!(matches!(answer, Err(Unreachable::CannotTell(_))));
    }
}
