//! The conversation of one turn, from the handshake to the end.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use codexd_proto::capture::{Capture, Resolution, Watch};
use codexd_proto::exit::ExitCode;
use codexd_proto::id::ThreadId;
use codexd_proto::time::Time;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::approval::{Approval, Decision};
use super::event::{Event, Stop, Watcher};
use super::link::Link;
use super::request::{ApprovalMode, TurnRequest};
use crate::error::Error;

/// Time between attempts to interrupt a turn that has not begun.
const INTERRUPT_AGAIN: Duration = Duration::from_millis(200);

/// Notifications that are not used here. They are most of what a turn sends.
const UNWANTED: [&str; 9] = [
    "item/agentMessage/delta",
    "item/plan/delta",
    "item/reasoning/summaryTextDelta",
    "item/reasoning/summaryPartAdded",
    "item/reasoning/textDelta",
    "item/commandExecution/outputDelta",
    "item/fileChange/outputDelta",
    "item/fileChange/patchUpdated",
    "turn/diff/updated",
];

/// The name and version with which the client initializes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Introduction {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its version.
    pub(crate) version: &'static str,
}

/// Time limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// For the turn, from the response to its request; `None`: no limit. Time in which the machine is suspended
    /// does not count if the system's monotonic clock stops then.
    pub(crate) timeout: Option<Duration>,
    /// For the end of the turn after an interrupt.
    pub(crate) interrupt_grace: Duration,
    /// Milliseconds after the final answer, see [`Watch::quiet_ms`].
    pub(crate) quiet_ms: u64,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { timeout: None, interrupt_grace: Duration::from_secs(15), quiet_ms: 5_000 }
    }
}

/// A command for the running turn.
#[derive(Debug)]
pub(crate) enum Order {
    /// Interrupt it, and wait for its end.
    Interrupt,
    /// Answer a server request that was reported as [`Event::Approval`].
    Answer {
        /// Its id.
        id: i64,
        /// The answer.
        decision: Decision,
    },
}

/// A turn that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    /// Its thread.
    pub(crate) thread: String,
    /// Its id.
    pub(crate) turn: String,
    /// How it ended.
    pub(crate) resolution: Resolution,
    /// Why it was interrupted, if it was.
    pub(crate) stopped: Option<Stop>,
    /// The generation of the daemon.
    pub(crate) generation: Option<u64>,
}

/// A turn that was not run.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Why.
    pub(crate) error: Error,
    /// Whether nothing was started, and another attempt can succeed soon.
    pub(crate) retry: bool,
    /// The thread, if it was opened.
    pub(crate) thread: Option<String>,
}

/// Runs a turn to its end over a new connection to a daemon.
///
/// # Errors
///
/// [`Failure`] if it was not started.
pub(crate) async fn run(
    stream: UnixStream,
    who: Introduction,
    request: &TurnRequest,
    bounds: Bounds,
    orders: &mut mpsc::UnboundedReceiver<Order>,
    watcher: &mut dyn Watcher,
) -> Result<Finished, Failure> {
    let mut client = Client { link: Link::new(stream), backlog: Vec::new(), asked_to_stop: false };
    let hello = json!({
        "clientInfo": { "name": who.name, "title": who.name, "version": who.version },
        "capabilities": { "optOutNotificationMethods": UNWANTED },
        // The turn ends with the daemon, and so does its client.
        "codexd": { "endsWithDaemon": true },
    });
    let welcome = client.call("initialize", &hello, orders).await?;
    let generation = welcome["codexd"]["generation"].as_u64();
    client.link.send(&json!({ "method": "initialized" })).await.map_err(|error| lost(Some(error), true))?;

    let (method, params) = request.open_thread();
    let opened = client.call(method, &params, orders).await?;
    let thread = opened["thread"]["id"].as_str().ok_or_else(|| no_id(method))?.to_owned();
    let (new, model) = (request.thread.is_none(), opened["model"].as_str());
    watcher.event(Event::Thread { id: &thread, new, model });

    let with_thread = |failure: Failure| Failure { thread: Some(thread.clone()), ..failure };
    if client.asked_to_stop {
        let error = Error::new(ExitCode::Stopped, "interrupted before the turn began");
        return Err(with_thread(Failure { error, retry: false, thread: None }));
    }
    let (method, params) = request.start_turn(&thread);
    let started = client.call(method, &params, orders).await.map_err(with_thread)?;
    let turn = started["turn"]["id"].as_str().ok_or_else(|| with_thread(no_id(method)))?.to_owned();
    watcher.event(Event::Turn { id: &turn });

    let clock = Instant::now();
    let watch = Watch {
        thread: ThreadId::new(thread.as_bytes()),
        turn: turn.clone(),
        review: request.review.is_some(),
        quiet_ms: bounds.quiet_ms,
    };
    let running = Running {
        capture: Capture::new(Time::ZERO, watch),
        client: &mut client,
        clock,
        timeout: bounds.timeout.and_then(|timeout| clock.checked_add(timeout)),
        grace: bounds.interrupt_grace,
        approval: request.approval,
        thread: thread.clone(),
        answered: false,
        interrupt: None,
        waiting: HashMap::new(),
    };
    let (resolution, stopped) = running.wait(orders, watcher).await;
    Ok(Finished { thread, turn, resolution, stopped, generation })
}

/// The client and its connection.
struct Client {
    link: Link,
    /// Notifications and server requests that came before the turn was known.
    backlog: Vec<Vec<u8>>,
    /// Whether an interrupt was ordered before there was a turn.
    asked_to_stop: bool,
}

impl Client {
    /// Sends a request and waits for its response. Messages before the response are kept.
    async fn call(
        &mut self,
        method: &str,
        params: &Value,
        orders: &mut mpsc::UnboundedReceiver<Order>,
    ) -> Result<Value, Failure> {
        // A request that was not written completely was not carried out.
        let id = self.link.request(method, params).await.map_err(|error| lost(Some(error), true))?;
        let starts = matches!(method, "turn/start" | "review/start");
        loop {
            let line = tokio::select! {
                biased;
                Some(order) = orders.recv() => {
                    self.asked_to_stop |= matches!(order, Order::Interrupt);
                    continue;
                }
                line = self.link.line() => line.ok_or_else(|| lost(None, !starts))?,
            };
            let message: Value = serde_json::from_slice(&line).unwrap_or_default();
            if message["method"].is_null() && message["id"] == id {
                return match message.get("error") {
                    None => Ok(message["result"].clone()),
                    Some(error) => Err(refused(method, error)),
                };
            }
            self.backlog.push(line);
        }
    }
}

/// A running turn.
struct Running<'a> {
    capture: Capture,
    client: &'a mut Client,
    clock: Instant,
    timeout: Option<Instant>,
    grace: Duration,
    approval: ApprovalMode,
    thread: String,
    /// Whether the watcher knows a final answer.
    answered: bool,
    interrupt: Option<Interrupt>,
    /// Server requests that wait for a person.
    waiting: HashMap<i64, Approval>,
}

/// The interrupt of a turn.
struct Interrupt {
    why: Stop,
    /// When to stop waiting for its end.
    until: Instant,
    /// When to send it again; `None` while a request is unanswered.
    again: Option<Instant>,
    /// The unanswered request.
    request: Option<u64>,
}

impl Running<'_> {
    /// Waits for the end.
    async fn wait(
        mut self,
        orders: &mut mpsc::UnboundedReceiver<Order>,
        watcher: &mut dyn Watcher,
    ) -> (Resolution, Option<Stop>) {
        if self.client.asked_to_stop {
            self.stop(Stop::Asked, watcher).await;
        }
        for line in std::mem::take(&mut self.client.backlog) {
            self.line(&line, watcher).await;
        }
        loop {
            if let Some(resolution) = self.capture.resolution() {
                return (resolution.clone(), self.interrupt.map(|interrupt| interrupt.why));
            }
            let wake = self.wake_at();
            tokio::select! {
                biased;
                Some(order) = orders.recv() => self.order(order, watcher).await,
                line = self.client.link.line() => match line {
                    Some(line) => self.line(&line, watcher).await,
                    None => self.capture.upstream_lost("the connection to the daemon was lost", Vec::new()),
                },
                () = sleep_until(wake) => self.due(watcher).await,
            }
        }
    }

    fn now(&self) -> Time {
        Time::from_millis(u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn wake_at(&self) -> Option<Instant> {
        let quiet = self.capture.poll_timeout().map(|at| self.clock + Duration::from_millis(at.as_millis()));
        let interrupt = self.interrupt.as_ref();
        let timeout = self.timeout.filter(|_| interrupt.is_none());
        let until = interrupt.map(|interrupt| interrupt.until);
        let again = interrupt.and_then(|interrupt| interrupt.again);
        [quiet, timeout, until, again].into_iter().flatten().min()
    }

    /// Handles the deadlines that have passed.
    async fn due(&mut self, watcher: &mut dyn Watcher) {
        let now = Instant::now();
        self.capture.handle_timeout(self.now());
        match &mut self.interrupt {
            None if self.timeout.is_some_and(|at| now >= at) => self.stop(Stop::TimedOut, watcher).await,
            None => {}
            Some(interrupt) if now >= interrupt.until => {
                let grace = self.grace.as_secs_f32();
                self.capture.gave_up(format!("it did not end within {grace} s after it was interrupted"));
            }
            Some(interrupt) if interrupt.again.is_some_and(|at| now >= at) => self.send_interrupt().await,
            Some(_) => {}
        }
    }

    async fn order(&mut self, order: Order, watcher: &mut dyn Watcher) {
        match order {
            Order::Interrupt if self.interrupt.is_none() => self.stop(Stop::Asked, watcher).await,
            Order::Interrupt => {}
            Order::Answer { id, decision } => {
                if let Some(approval) = self.waiting.remove(&id) {
                    // If it cannot be written, the next read returns the end of the connection.
                    let _ = self.client.link.send(&approval.answer(decision)).await;
                }
            }
        }
    }

    async fn stop(&mut self, why: Stop, watcher: &mut dyn Watcher) {
        watcher.event(Event::Interrupting(why));
        self.interrupt =
            Some(Interrupt { why, until: Instant::now() + self.grace, again: None, request: None });
        self.send_interrupt().await;
    }

    async fn send_interrupt(&mut self) {
        let turn = String::from_utf8_lossy(self.capture.running_as()).into_owned();
        let params = json!({ "threadId": self.thread, "turnId": turn });
        let sent = self.client.link.request("turn/interrupt", &params).await;
        if let Some(interrupt) = &mut self.interrupt {
            interrupt.again = None;
            interrupt.request = sent.ok();
        }
    }

    async fn line(&mut self, line: &[u8], watcher: &mut dyn Watcher) {
        let Ok(message) = serde_json::from_slice::<Value>(line) else { return };
        let (method, params) = (message["method"].as_str(), &message["params"]);
        let Some(method) = method else {
            return self.response(&message);
        };
        self.capture.line(self.now(), line);
        let answer = self.capture.answer_so_far();
        if answer.is_some() != self.answered {
            self.answered = answer.is_some();
            watcher.event(Event::Answer(answer));
        }
        let concerns = self.concern(params);
        if let Some(id) = message["id"].as_i64() {
            if concerns.is_some() {
                let approval = Approval { id, method: method.to_owned(), params: params.clone() };
                self.server_request(approval, watcher).await;
            }
            return;
        }
        if let Some(sub_agent) = concerns {
            watcher.event(Event::Notification { method, params, sub_agent });
        }
        if method == "serverRequest/resolved"
            && let Some(id) = params["requestId"].as_i64()
        {
            self.waiting.remove(&id);
        }
    }

    /// Returns `Some` if a message concerns this turn, and whether it concerns a sub-agent's part.
    fn concern(&self, params: &Value) -> Option<bool> {
        let thread = params["threadId"].as_str()?.as_bytes();
        let turn = params["turnId"].as_str().or_else(|| params["turn"]["id"].as_str());
        self.capture.concerns(thread, turn.map(str::as_bytes))
    }

    /// Handles the response to an interrupt. An error means that the turn has not begun, or has ended.
    fn response(&mut self, message: &Value) {
        if let Some(interrupt) = &mut self.interrupt
            && interrupt.request.is_some()
            && message["id"].as_u64() == interrupt.request
        {
            interrupt.request = None;
            interrupt.again = message.get("error").map(|_| Instant::now() + INTERRUPT_AGAIN);
        }
    }

    async fn server_request(&mut self, approval: Approval, watcher: &mut dyn Watcher) {
        if self.approval == ApprovalMode::Ask && approval.is_decidable() {
            watcher.event(Event::Approval(&approval));
            self.waiting.insert(approval.id, approval);
        } else {
            watcher.event(Event::Declined(&approval));
            let _ = self.client.link.send(&approval.answer(Decision::Decline)).await;
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn lost(error: Option<io::Error>, retry: bool) -> Failure {
    let what = if retry {
        "the connection to the daemon was lost before the turn began"
    } else {
        "the connection to the daemon was lost before codex answered: the turn may have begun"
    };
    let lost = Error::new(ExitCode::UpstreamLost, what);
    let error = match error {
        Some(error) => lost.because(error),
        None => lost,
    };
    Failure { error, retry, thread: None }
}

fn no_id(method: &str) -> Failure {
    let error = Error::new(ExitCode::Protocol, format!("codex answered `{method}` without an id"));
    Failure { error, retry: false, thread: None }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { error, retry: false, thread: None }
    }
}

/// Reads the error of a refused request. codexd's own errors show whether another attempt can succeed.
fn refused(method: &str, error: &Value) -> Failure {
    let message = error["message"].as_str().unwrap_or("without a reason");
    let mark = &error["data"]["codexd"];
    let retry = mark["retryable"] == true;
    let code = if mark.is_object() || method == "initialize" {
        ExitCode::UpstreamLost
    } else {
        // codex refuses a request because of something in it: a thread, a directory, a model.
        ExitCode::Usage
    };
    let refused = Error::new(code, format!("`{method}` was refused: {message}"));
    let error = match method {
        "thread/resume" if code == ExitCode::Usage => {
            refused.hint("`codexd ctl threads` and `codexd jobs list` show threads")
        }
        _ => refused,
    };
    Failure { error, retry, thread: None }
}
