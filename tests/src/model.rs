//! A scripted model server: the part of the Responses API that `codex app-server` needs.
//!
//! The real codex, pointed at it by its `config.toml` (see [`crate::home`]), runs whole turns without
//! a login and without a network. The server listens on loopback, answers `POST` with a stream of
//! server-sent events and any `GET` with an empty list of models. What a turn does is steered by
//! [markers](crate::marker) in the prompt: the *last user message* of a request is searched for them.
//! Without any marker the server streams three text deltas and ends the turn.
//!
//! Text:
//!
//! | marker | effect |
//! | --- | --- |
//! | `[[deltas:N]]`, `[[deltas:N:MS]]` | the final answer in N deltas, MS milliseconds apart |
//! | `[[say:MS:TEXT]]` | the final answer is this text, word by word, MS milliseconds apart |
//! | `[[bytes:N]]` | N bytes more at the end of the final answer, in one delta |
//! | `[[reasoning:N]]`, `[[reasoning:N:MS]]` | N deltas of a reasoning summary before the answer |
//! | `[[commentary:TEXT]]` | another message before, with phase `commentary` |
//! | `[[stall:SECONDS]]` | a wait before the first event of the answer |
//! | `[[meet:NAME:N]]` | a wait until N requests with this marker have come: so many turns are open at once |
//! | `[[gate:NAME]]` | a wait before the end of the final answer until [`MockModel::open`] is called with this name |
//! | `[[hang]]` | `response.created`, then nothing until the connection goes |
//! | `[[usage:N]]` | reports N tokens in total (to provoke a compaction) |
//!
//! Tools. Each marker is one response of the model; they come in the order of the text, one for each
//! request, and the final answer follows the last one:
//!
//! | marker | effect |
//! | --- | --- |
//! | `[[shell:CMD]]` | `exec_command` with the command |
//! | `[[shell:CMD;;KEY=JSON;;...]]` | the same with more arguments, as in `[[shell:sleep 9;;yield_time_ms=500]]` |
//! | `[[write:PATH:TEXT]]` | `apply_patch` that adds a file (models that have this tool) |
//! | `[[plan:STEP\|STEP]]` | `update_plan`, the first step in progress (0.169 has no such tool any more) |
//! | `[[ask:QUESTION]]` | `request_user_input` with two options (in plan mode) |
//! | `[[spawn:PROMPT]]` | `multi_agent_v1.spawn_agent`; markers for the child are written `{{...}}` |
//! | `[[call:NAME:JSON]]` | any function tool; `namespace.name` sets the namespace |
//! | `[[custom:NAME:TEXT]]` | any custom tool |
//! | `[[parallel]]` | all the tool calls in a single response |
//!
//! Failures. `TIMES` limits one to the first attempts at that request, so that a retry succeeds:
//!
//! | marker | effect |
//! | --- | --- |
//! | `[[http:STATUS]]`, `[[http:STATUS:TIMES]]` | an HTTP error before any event |
//! | `[[fail:CODE]]`, `[[fail:CODE:TIMES]]` | `response.failed` with this error code |
//! | `[[drop:N]]`, `[[drop:N:TIMES]]` | the connection is cut after N deltas |
//! | `[[incomplete:REASON]]` | `response.incomplete` |
//!
//! A marker whose argument cannot be read is answered with HTTP 400 and the reason.
//!
//! Which tools exist depends on the model: an unknown one (`mock-model`) has `exec_command`,
//! `write_stdin`, `request_user_input`, `multi_agent_v1.*` and MCP tools; `gpt-5.5` has `apply_patch`
//! too. Found by experiment with codex 0.169.0.

mod answer;
mod body;
mod script;

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::{Condvar, Mutex};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use self::body::Body;

/// A running model server; it stops when dropped.
#[derive(Debug)]
pub struct MockModel {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A request as the server received it.
#[derive(Clone, Debug)]
pub struct ModelRequest {
    /// Path of the request line.
    pub path: String,
    /// Header names in small letters, with their values.
    pub headers: Vec<(String, String)>,
    /// The JSON body; null when it could not be read as JSON.
    pub body: Value,
}

impl ModelRequest {
    /// Returns the text of the last user message.
    pub fn prompt(&self) -> String {
        script::last_prompt(&self.body).0
    }
}

/// What the connections share: the record of requests and the counters.
#[derive(Debug, Default)]
struct Shared {
    requests: Mutex<Vec<ModelRequest>>,
    arrived: Condvar,
    attempts: Mutex<HashMap<(String, usize), u32>>,
    serial: Mutex<u64>,
    /// The number of requests that have come to each meeting.
    meetings: watch::Sender<HashMap<String, usize>>,
    /// The gates that are open.
    gates: watch::Sender<HashSet<String>>,
    /// Texts of prompts whose answers wait at a gate of the same name.
    held: Mutex<Vec<String>>,
    log: Option<PathBuf>,
}

impl MockModel {
    /// Starts a server on a free loopback port, in a thread of its own.
    ///
    /// # Errors
    ///
    /// When the port or the thread cannot be had.
    pub fn start() -> io::Result<MockModel> {
        MockModel::start_on(0, None)
    }

    /// Starts a server on this loopback port (0: a free one); with `log`, every request is appended to
    /// that file as a line of JSON.
    ///
    /// # Errors
    ///
    /// When the port or the thread cannot be had.
    pub fn start_on(port: u16, log: Option<PathBuf>) -> io::Result<MockModel> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { log, ..Shared::default() });
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let service = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("mock-model".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, service) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(MockModel { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Returns the loopback port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Returns the address the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the `base_url` for codex's configuration of a model provider.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Returns the `POST` requests so far, in the order of their arrival.
    pub fn requests(&self) -> Vec<ModelRequest> {
        self.shared.requests.lock().clone()
    }

    /// Blocks until a request whose last user message contains `text` has arrived, and returns it.
    ///
    /// # Panics
    ///
    /// When none arrives in [`crate::wait::PATIENCE`].
    #[track_caller]
    pub fn wait_for_prompt(&self, text: &str) -> ModelRequest {
        let deadline = Instant::now() + crate::wait::PATIENCE;
        let mut requests = self.shared.requests.lock();
        loop {
            if let Some(found) = requests.iter().find(|request| request.prompt().contains(text)) {
                return found.clone();
            }
            if self.shared.arrived.wait_until(&mut requests, deadline).timed_out() {
                let prompts: Vec<_> = requests.iter().map(ModelRequest::prompt).collect();
                panic!("no request with the prompt `{text}` arrived at the model, only {prompts:?}");
            }
        }
    }

    /// Opens a gate, for the answers that wait there and those to come.
    pub fn open(&self, gate: &str) {
        self.shared.gates.send_modify(|open| {
            open.insert(gate.to_owned());
        });
    }

    /// Makes the answers to prompts that contain `text` wait at a gate with this name: for prompts that codex writes
    /// itself, which have no markers.
    pub fn hold(&self, text: &str) {
        self.shared.held.lock().push(text.to_owned());
    }

    /// Blocks until the server ends, which it does by itself only when its socket fails.
    pub fn join(mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for MockModel {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Returns a name that is unique in this server, as the real one's ids are.
    fn unique(&self, prefix: &str) -> String {
        let mut serial = self.serial.lock();
        *serial += 1;
        format!("{prefix}_{serial}")
    }

    /// Counts one more attempt at the same request; 1 for the first.
    fn attempt(&self, prompt: &str, inputs: usize) -> u32 {
        let mut attempts = self.attempts.lock();
        let count = attempts.entry((prompt.to_owned(), inputs)).or_default();
        *count += 1;
        *count
    }

    fn record(&self, request: ModelRequest) -> io::Result<()> {
        if let Some(log) = &self.log {
            let headers: serde_json::Map<String, Value> =
                request.headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
            let line = json!({"path": request.path, "headers": headers, "body": request.body});
            let mut file = std::fs::File::options().create(true).append(true).open(log)?;
            io::Write::write_all(&mut file, format!("{line}\n").as_bytes())?;
        }
        self.requests.lock().push(request);
        self.arrived.notify_all();
        Ok(())
    }
}

async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, or the peer is gone already: both pass.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(|request| respond(request, Arc::clone(&shared)));
            // An error here is a connection that was cut: by a script, or by codex when it interrupts.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn respond(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Body>, hyper::Error> {
    if request.method() == Method::GET {
        return Ok(body::json(200, &json!({"object": "list", "data": [], "models": []})));
    }
    let path = request.uri().path().to_owned();
    let headers = request
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let raw = request.into_body().collect().await?.to_bytes();
    let body: Value = serde_json::from_slice(&raw).unwrap_or_default();
    if let Err(error) = shared.record(ModelRequest { path, headers, body: body.clone() }) {
        return Ok(body::error(500, &format!("cannot write the log: {error}")));
    }
    let script = match script::Script::of(&body, &shared) {
        Ok(script) => script,
        Err(reason) => return Ok(body::error(400, &reason)),
    };
    if let Some(status) = script.http_error {
        return Ok(body::error(status, &format!("mock error {status}")));
    }
    let (events, response) = body::event_stream();
    tokio::spawn(answer::answer(script, events, shared));
    Ok(response)
}
