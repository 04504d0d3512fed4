//! The server of the control socket, on its own thread.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use codexd_proto::control::{
    InterruptReceipt, KillReceipt, ReloadReceipt, StopMode, StopReceipt, UpgradeRequest, View,
};
use codexd_proto::feed::FrameFilter;
use codexd_proto::listing::{RequestStatus, ThreadStatus, TurnStatus};
use codexd_proto::status::{ClientStatus, StatusReport, Warning};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use jsonrpsee::core::{BoxError, RpcResult, SubscriptionResult, async_trait};
use jsonrpsee::server::{HttpRequest, HttpResponse, ServerBuilder, ServerConfig, stop_channel};
use jsonrpsee::types::ErrorObjectOwned;
use jsonrpsee::types::error::{INTERNAL_ERROR_CODE, INVALID_PARAMS_CODE};
use jsonrpsee::{Extensions, Methods, PendingSubscriptionSink};
use serde_json::value::{RawValue, to_raw_value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::api::{CORE_NOT_RESPONDING, ControlServer as _, JOB_REFUSED, TOO_MANY_SUBSCRIBED};
use super::gate::Gate;
use super::slots::{MAX_SUBSCRIBED, MAX_UNSUBSCRIBED, Slot, Slots, Subscribed};
use super::surroundings::Surroundings;
use super::{Command, Handle, JobCommand, events, monitor, states, upgrade, views};
use crate::error::Error;
use crate::ledger::Update;
use crate::logging::filter::LogFilter;
use crate::os::peer::check_peer;
use crate::os::process;
use crate::turn::TurnRequest;

/// Time for an answer of the core.
const CORE_ANSWERS_WITHIN: Duration = Duration::from_millis(500);
/// Time for writing the last answers when the daemon ends.
const FAREWELL_WITHIN: Duration = Duration::from_millis(500);
/// Connections that the library accepts. More than the [slots](Slots), since closing one takes a moment.
const MAX_CONNECTIONS: u32 = 2 * (MAX_UNSUBSCRIBED + MAX_SUBSCRIBED) as u32;
/// Subscriptions of one connection.
const MAX_SUBSCRIPTIONS: u32 = 8;
/// Time for the handshake of a connection.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(2);
/// Bytes of the largest request. That of a job contains its prompt.
pub(super) const MAX_REQUEST_BYTES: u32 = 16 << 20;
/// Pause before accepting again after a failure such as too many open files.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Stack of the thread, in bytes.
const STACK_BYTES: usize = 512 << 10;
/// Events that the runtime takes from the system at once: it has room for as many all the time.
const EVENTS: usize = 64;

/// The running server. It ends with [`ControlServer::stop`] or when dropped.
#[derive(Debug)]
pub(crate) struct ControlServer {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl ControlServer {
    /// Starts serving `listener`, which must be non-blocking.
    ///
    /// # Errors
    ///
    /// When the system refuses the thread or what its runtime needs.
    pub(crate) fn spawn(
        listener: UnixListener,
        handle: Handle,
        surroundings: Surroundings,
    ) -> Result<ControlServer, Error> {
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_io_events_per_tick(EVENTS)
            .build()
            .map_err(|error| Error::os("cannot start the runtime of the control server").because(error))?;
        let listener = {
            let _context = runtime.enter();
            tokio::net::UnixListener::from_std(listener)
                .map_err(|error| Error::os("cannot watch the control socket").because(error))?
        };
        let service = Service { handle, stop: stop.clone(), surroundings: Arc::new(surroundings) };
        let thread = std::thread::Builder::new()
            .name("control".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || runtime.block_on(serve(listener, service)))
            .map_err(|error| Error::os("cannot start the thread of the control server").because(error))?;
        Ok(ControlServer { stop, thread: Some(thread) })
    }

    /// Stops accepting, answers the requests that have come, closes the connections and waits for the thread, at most a
    /// second in all.
    ///
    /// Clients that wait for the daemon's end see it when the connection closes, so call this as late as possible.
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

async fn serve(listener: tokio::net::UnixListener, service: Service) {
    let stop = service.stop.clone();
    let (stop_handle, server_handle) = stop_channel();
    let config = ServerConfig::builder()
        .ws_only()
        .max_connections(MAX_CONNECTIONS)
        .max_request_body_size(MAX_REQUEST_BYTES)
        .max_subscriptions_per_connection(MAX_SUBSCRIPTIONS)
        .set_message_buffer_capacity(16)
        .build();
    let builder = ServerBuilder::new().set_config(config).to_service_builder();
    let methods: Methods = service.into_rpc().into();
    let handshakes = TaskTracker::new();
    let slots = Slots::default();
    let mut failing = false;
    loop {
        let accepted = async {
            slots.free().await;
            listener.accept().await
        };
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accepted => match accepted {
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
        let (slot, stream) = slots.take(stream);
        let service = Gate::before(builder.clone().build(methods.clone(), stop_handle.clone()), slot);
        let stopped = stop_handle.clone().shutdown();
        // This ends with the upgrade to a WebSocket. Then, a task of the library serves the connection.
        handshakes.spawn(async move {
            match tokio::time::timeout(HANDSHAKE_WITHIN, shake_hands(stream, service, stopped)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "control connection ended"),
                Err(_) => tracing::debug!("control connection without a handshake closed"),
            }
        });
    }
    drop((listener, builder, methods, stop_handle));
    handshakes.close();
    // All receivers may be gone.
    let _ = server_handle.stop();
    // Completes when the last connection has written its answers and dropped its stop handle.
    let _ = tokio::time::timeout(FAREWELL_WITHIN, async {
        handshakes.wait().await;
        server_handle.stopped().await;
        slots.finish().await;
    })
    .await;
}

/// Answers the HTTP requests of a connection until one of them makes it a WebSocket, or until `stopped`; a request that
/// has come then is answered.
///
/// The library can do that, too. It would make HTTP/2 a part of the program.
async fn shake_hands(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: impl tower_service::Service<
        HttpRequest<Incoming>,
        Response = HttpResponse,
        Error = BoxError,
        Future: Send,
    > + Clone
    + Send
    + 'static,
    stopped: impl Future<Output = ()>,
) -> hyper::Result<()> {
    let connection = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .with_upgrades();
    tokio::pin!(connection);
    tokio::select! {
        ended = &mut connection => return ended,
        () = stopped => {}
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}

/// The implementation of the methods.
pub(super) struct Service {
    pub(super) handle: Handle,
    pub(super) stop: CancellationToken,
    pub(super) surroundings: Arc<Surroundings>,
}

impl Service {
    /// Sends a command to the core and waits a limited time for the answer.
    pub(super) async fn request<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.handle.commands.send(command(reply)).ok()?;
        tokio::select! {
            // After a stop, the core can end before this task runs again. Its answer still counts.
            biased;
            answer = tokio::time::timeout(CORE_ANSWERS_WITHIN, answer) => answer.ok()?.ok(),
            () = self.stop.cancelled() => None,
        }
    }

    /// Returns the status. If the core does not answer, this is the last snapshot.
    pub(super) async fn report(&self) -> StatusReport {
        if let Some(mut report) = self.request(Command::Status).await {
            self.surroundings.describe(&mut report);
            return report;
        }
        let (mut report, age) = self.handle.snapshot();
        self.surroundings.describe(&mut report);
        report.core_idle_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        // A core that has ended does not answer either, which is not a fault.
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
        report
    }

    /// Returns the connected clients with the names of their programs. The core cannot read those, since it reads
    /// no files.
    async fn client_list(&self) -> Option<Vec<ClientStatus>> {
        let mut clients = self.request(Command::Clients).await?;
        for client in &mut clients {
            client.program = client.pid.and_then(process::program);
        }
        Some(clients)
    }

    /// Returns a view as JSON; `None` if the core does not answer.
    pub(super) async fn view(&self, view: View) -> Option<Box<RawValue>> {
        let text = match view {
            View::Status => to_raw_value(&self.report().await),
            View::Clients => to_raw_value(&self.client_list().await?),
            View::Threads => to_raw_value(&self.request(Command::Threads).await?),
            View::Turns => to_raw_value(&self.request(Command::Turns).await?),
            View::Requests => to_raw_value(&self.request(Command::Requests).await?),
        };
        text.ok()
    }
}

#[async_trait]
impl super::api::ControlServer for Service {
    async fn status(&self) -> RpcResult<StatusReport> {
        Ok(self.report().await)
    }

    async fn clients(&self) -> RpcResult<Vec<ClientStatus>> {
        self.client_list().await.ok_or_else(not_responding)
    }

    async fn threads(&self) -> RpcResult<Vec<ThreadStatus>> {
        self.request(Command::Threads).await.ok_or_else(not_responding)
    }

    async fn turns(&self) -> RpcResult<Vec<TurnStatus>> {
        self.request(Command::Turns).await.ok_or_else(not_responding)
    }

    async fn requests(&self) -> RpcResult<Vec<RequestStatus>> {
        self.request(Command::Requests).await.ok_or_else(not_responding)
    }

    async fn interrupt(
        &self,
        extensions: &Extensions,
        target: String,
        timeout_ms: u64,
    ) -> RpcResult<InterruptReceipt> {
        // It waits like a subscription, so it occupies a slot of those.
        let Some(_subscribed) = subscribed(extensions) else { return Err(too_many_subscribed()) };
        let (ended, end) = oneshot::channel();
        let begun = self.request(|begun| Command::Interrupt { target, begun, ended }).await;
        let begun = match begun.ok_or_else(not_responding)? {
            Ok(begun) => begun,
            Err(error) => return Ok(InterruptReceipt { error: Some(error), ..InterruptReceipt::default() }),
        };
        let error = tokio::select! {
            end = tokio::time::timeout(Duration::from_millis(timeout_ms), end) => match end {
                Ok(Ok(receipt)) => return Ok(receipt),
                Ok(Err(_)) => "the daemon stopped before the turn ended".to_owned(),
                Err(_) => format!("codex was asked to interrupt the turn, which has not ended within {timeout_ms} ms"),
            },
            () = self.stop.cancelled() => "the daemon stopped before the turn ended".to_owned(),
        };
        Ok(InterruptReceipt { error: Some(error), ..begun })
    }

    async fn kill(&self, client: u64) -> RpcResult<KillReceipt> {
        self.request(|reply| Command::Kill { client, reply }).await.ok_or_else(not_responding)
    }

    async fn subscribe_view(
        &self,
        pending: PendingSubscriptionSink,
        extensions: &Extensions,
        view: View,
        every_ms: u64,
    ) -> SubscriptionResult {
        let Some(_subscribed) = subscribed(extensions) else {
            pending.reject(too_many_subscribed()).await;
            return Ok(());
        };
        let sink = pending.accept().await?;
        views::send(self, view, every_ms, &sink).await;
        Ok(())
    }

    async fn subscribe_state(
        &self,
        pending: PendingSubscriptionSink,
        extensions: &Extensions,
    ) -> SubscriptionResult {
        let Some(_subscribed) = subscribed(extensions) else {
            pending.reject(too_many_subscribed()).await;
            return Ok(());
        };
        let sink = pending.accept().await?;
        states::send(&self.handle, &sink, &self.stop).await;
        Ok(())
    }

    async fn subscribe_events(
        &self,
        pending: PendingSubscriptionSink,
        extensions: &Extensions,
    ) -> SubscriptionResult {
        let Some(_subscribed) = subscribed(extensions) else {
            pending.reject(too_many_subscribed()).await;
            return Ok(());
        };
        let sink = pending.accept().await?;
        events::send(self, &sink).await;
        Ok(())
    }

    async fn subscribe_upgrade(
        &self,
        pending: PendingSubscriptionSink,
        extensions: &Extensions,
        request: UpgradeRequest,
    ) -> SubscriptionResult {
        let Some(_subscribed) = subscribed(extensions) else {
            pending.reject(too_many_subscribed()).await;
            return Ok(());
        };
        let sink = pending.accept().await?;
        upgrade::send(self, request, &sink).await;
        Ok(())
    }

    async fn subscribe_frames(
        &self,
        pending: PendingSubscriptionSink,
        extensions: &Extensions,
        filter: FrameFilter,
    ) -> SubscriptionResult {
        let Some(_subscribed) = subscribed(extensions) else {
            pending.reject(too_many_subscribed()).await;
            return Ok(());
        };
        let (monitor, written) = match monitor::start(filter, Arc::clone(&self.surroundings)) {
            Ok(started) => started,
            Err(error) => {
                let what = format!("cannot start a thread for the monitor: {error}");
                pending.reject(ErrorObjectOwned::owned(INTERNAL_ERROR_CODE, what, None::<()>)).await;
                return Ok(());
            }
        };
        let sink = pending.accept().await?;
        if self.handle.commands.send(Command::Monitor(monitor)).is_ok() {
            events::monitor(self, written, &sink).await;
        }
        Ok(())
    }

    async fn stop(&self, mode: StopMode) -> RpcResult<StopReceipt> {
        self.request(|reply| Command::Stop { mode, reply }).await.ok_or_else(not_responding)
    }

    async fn reload(&self) -> RpcResult<ReloadReceipt> {
        self.request(Command::Reload).await.ok_or_else(not_responding)
    }

    async fn log_level(&self, level: String) -> RpcResult<()> {
        let filter: LogFilter =
            level.parse().map_err(|error: crate::logging::filter::ParseLogFilterError| {
                ErrorObjectOwned::owned(INVALID_PARAMS_CODE, error.to_string(), None::<()>)
            })?;
        self.request(|reply| Command::LogLevel { filter, reply }).await.ok_or_else(not_responding)
    }

    async fn start_job(&self, request: TurnRequest, timeout_ms: Option<u64>) -> RpcResult<String> {
        let (reply, answer) = oneshot::channel();
        let command = JobCommand::Start { request: Box::new(request), timeout_ms, reply };
        let _ = self.handle.jobs.send(command);
        let started = answer.await.unwrap_or_else(|_| Err("the daemon is stopping".to_owned()));
        started.map_err(|why| ErrorObjectOwned::owned(JOB_REFUSED, why, None::<()>))
    }

    async fn cancel_job(&self, id: String) -> RpcResult<bool> {
        let (reply, answer) = oneshot::channel();
        let _ = self.handle.jobs.send(JobCommand::Cancel { id, reply });
        Ok(answer.await.unwrap_or(false))
    }

    async fn forget_jobs(&self, ids: Vec<String>) -> RpcResult<()> {
        self.handle.ledger.record(Update::ForgetJobs(ids));
        Ok(())
    }

    async fn socket(&self) -> RpcResult<String> {
        Ok(self.handle.shown.snapshot.read().report.socket.clone())
    }
}

/// Moves the connection of a request to a slot for connections that wait; `None` if all of these are occupied.
fn subscribed(extensions: &Extensions) -> Option<Subscribed> {
    extensions.get::<Arc<Slot>>().and_then(Slot::subscribe)
}

fn too_many_subscribed() -> ErrorObjectOwned {
    let many = format!("{MAX_SUBSCRIBED} connections have subscriptions already");
    ErrorObjectOwned::owned(TOO_MANY_SUBSCRIBED, many, None::<()>)
}

fn not_responding() -> ErrorObjectOwned {
    ErrorObjectOwned::owned(CORE_NOT_RESPONDING, "the core does not answer", None::<()>)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::path::Path;
    use std::path::PathBuf;

    use codexd_proto::status::DaemonState;
    use tokio::sync::mpsc::UnboundedReceiver;

    use super::*;
    use crate::control::client::{ControlConnection, Unreachable};
    use crate::control::{Publisher, channel};
    use codexd_proto::control::StateChange;

    const PATIENCE: Duration = Duration::from_secs(10);

    struct Served {
        _dir: tempfile::TempDir,
        path: PathBuf,
        publisher: Publisher,
        commands: UnboundedReceiver<Command>,
        server: ControlServer,
    }

    fn served() -> Served {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (publisher, commands, handle) = channel(StatusReport::default());
        let server = ControlServer::spawn(listener, handle, Surroundings::default()).unwrap();
        Served { _dir: dir, path, publisher, commands, server }
    }

    async fn open(path: &Path) -> ControlConnection {
        ControlConnection::open(path, PATIENCE, PATIENCE).await.unwrap_or_else(|error| panic!("{error:?}"))
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
        let service = Service { handle, stop: CancellationToken::new(), surroundings: Arc::default() };
        service.stop.cancel();
        // As often as it takes to see a choice by chance.
        for _ in 0..64 {
            let answer = service.request(|reply| {
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

    fn publish(served: &Served, state: DaemonState) {
        let ready = state == DaemonState::Serving;
        served.publisher.publish(StatusReport { state, ready, generation: 7, ..StatusReport::default() });
    }

    #[tokio::test]
    async fn a_subscriber_gets_the_current_state_and_each_later_one() {
        let served = served();
        let connection = open(&served.path).await;
        let mut states = connection.states().await.unwrap();
        assert_eq!(states.next().await, Some(StateChange::default()));
        publish(&served, DaemonState::Serving);
        let serving = StateChange { state: DaemonState::Serving, ready: true, generation: 7, pid: 0 };
        assert_eq!(states.next().await, Some(serving));
        // The same state again is not sent.
        publish(&served, DaemonState::Serving);
        publish(&served, DaemonState::Draining);
        let draining = StateChange { state: DaemonState::Draining, ready: false, ..serving };
        assert_eq!(states.next().await, Some(draining));
        let another = open(&served.path).await;
        assert_eq!(another.states().await.unwrap().next().await, Some(draining));
    }

    #[tokio::test]
    async fn subscribed_connections_lock_no_other_out_and_are_bounded() {
        let served = served();
        let mut subscribed = Vec::new();
        for _ in 0..MAX_SUBSCRIBED {
            let connection = open(&served.path).await;
            let states = connection.states().await.unwrap();
            subscribed.push((connection, states));
        }
        let other = open(&served.path).await;
        assert_eq!(other.socket().await.unwrap(), "");
        let Err(Unreachable::CannotTell(error)) = other.states().await.map(drop) else {
            panic!("it is subscribed")
        };
        let many = format!("{MAX_SUBSCRIBED} connections have subscriptions already");
        assert!(error.chain().contains(&many), "{}", error.chain());
        // The second subscription of a connection needs no further slot.
        let (connection, _) = &subscribed[0];
        connection.states().await.unwrap();
        subscribed.pop();
        while other.states().await.is_err() {
            tokio::task::yield_now().await;
        }
        assert_eq!(other.socket().await.unwrap(), "");
    }

    #[tokio::test]
    async fn idle_connections_are_closed_when_others_need_their_slots() {
        let served = served();
        // Some are silent before their handshake, some after it.
        let silent: Vec<_> = (0..MAX_UNSUBSCRIBED)
            .map(|_| std::os::unix::net::UnixStream::connect(&served.path).unwrap())
            .collect();
        let mut idle = Vec::new();
        for _ in 0..MAX_UNSUBSCRIBED + 5 {
            idle.push(open(&served.path).await);
        }
        let subscribed = open(&served.path).await;
        let mut states = subscribed.states().await.unwrap();
        states.next().await.unwrap();
        for _ in 0..MAX_UNSUBSCRIBED {
            let connection = open(&served.path).await;
            assert_eq!(connection.socket().await.unwrap(), "");
            idle.push(connection);
        }
        idle[0].closed().await;
        publish(&served, DaemonState::Serving);
        assert!(states.next().await.unwrap().ready, "a subscriber is not idle");
        drop(silent);
    }

    #[tokio::test]
    async fn more_requests_at_once_than_there_are_slots_are_all_answered() {
        let served = served();
        let path = served.path.clone();
        let requests = (0..4 * MAX_UNSUBSCRIBED).map(|_| {
            let path = path.clone();
            tokio::spawn(
                async move { open(&path).await.socket().await.map_err(|error| format!("{error:?}")) },
            )
        });
        for answered in requests.collect::<Vec<_>>() {
            assert_eq!(answered.await.unwrap(), Ok(String::new()));
        }
    }

    #[tokio::test]
    async fn a_web_page_is_refused() {
        let served = served();
        let upgrade = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nFIELD\r\n";
        for (field, status) in
            [("Origin: https://evil.example", "403"), ("sec-fetch-site: none", "403"), ("X: y", "101")]
        {
            let mut stream = std::os::unix::net::UnixStream::connect(&served.path).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(upgrade.replace("FIELD", &format!("{field}\r\n")).as_bytes()).unwrap();
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(String::from_utf8_lossy(&answer), format!("HTTP/1.1 {status}"), "{field}");
        }
    }

    #[tokio::test]
    async fn the_end_of_the_server_is_seen_and_leaves_nobody_waiting() {
        let served = served();
        let connection = open(&served.path).await;
        let mut states = connection.states().await.unwrap();
        let Served { server, path, .. } = served;
        let file = path.clone();
        let stop = tokio::task::spawn_blocking(move || {
            server.stop();
            std::fs::remove_file(file).unwrap();
        });
        while states.next().await.is_some() {}
        connection.closed().await;
        stop.await.unwrap();
        assert!(matches!(
            ControlConnection::open(&path, PATIENCE, PATIENCE).await,
            Err(Unreachable::NotRunning)
        ));
    }

    #[tokio::test]
    async fn someone_who_does_not_speak_the_protocol_is_no_daemon() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("s");
        let _mute = UnixListener::bind(&path).unwrap();
        let answer = ControlConnection::open(&path, Duration::from_millis(50), PATIENCE).await;
        assert!(matches!(answer, Err(Unreachable::CannotTell(_))));
    }
}
