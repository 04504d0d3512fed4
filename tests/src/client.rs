//! A client of the app-server protocol for tests.
//!
//! It speaks lines, on a socket or on the pipes of a program, or WebSocket on a socket.
//!
//! One thread for each client reads; everything else is plain blocking code. Twenty clients at once
//! are twenty such values. Every wait has a deadline, and a failure prints what the client had
//! sent and received until then.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::ops::Deref;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::protocol::frame::Frame;

use crate::wait::{self, PATIENCE};
use crate::websocket::{self, Arrival};

/// One message as it came: the line itself, and its reading.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The line without its end.
    pub raw: String,
    value: Value,
}

/// An error answer.
#[derive(Clone, Debug, PartialEq)]
pub struct RpcError {
    /// For instance -32001.
    pub code: i64,
    /// For people.
    pub message: String,
    /// Null when there is none.
    pub data: Value,
}

/// What a client has received within a time.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    /// A message.
    Message(Message),
    /// Nothing.
    Silence,
    /// The end of the connection.
    End,
}

/// One turn, from its start to its end.
#[derive(Clone, Debug)]
pub struct Turn {
    /// The turn's id.
    pub id: String,
    /// The deltas of agent messages, in order.
    pub deltas: Vec<String>,
    /// The text of the final answer, when one was completed.
    pub answer: Option<String>,
    /// `completed`, `interrupted` or `failed`.
    pub status: String,
    /// The turn's error; null when there is none.
    pub error: Value,
    /// All messages of the turn's thread, in order, with `turn/completed` as the last.
    pub seen: Vec<Message>,
}

/// A client.
#[derive(Debug)]
pub struct TestClient {
    name: String,
    link: Link,
    incoming: Receiver<Arrival>,
    kept: VecDeque<Message>,
    history: Vec<String>,
    record: Option<Vec<Message>>,
    next_id: i64,
    decision: Option<Value>,
    patience: Duration,
    ended: bool,
    close_frame: Option<(u16, String)>,
}

/// The writing end, and what ends the reading one.
enum Link {
    Socket(UnixStream),
    WebSocket(Box<websocket::Sender>),
    Child(Child),
}

impl TestClient {
    /// Connects to a socket.
    ///
    /// # Panics
    ///
    /// When the connection is refused.
    #[track_caller]
    pub fn connect(name: &str, socket: &Path) -> TestClient {
        match UnixStream::connect(socket) {
            Ok(stream) => TestClient::over(name, stream),
            Err(error) => panic!("client {name} cannot connect to `{}`: {error}", socket.display()),
        }
    }

    /// Makes a client of a connected stream; reading starts now.
    ///
    /// A test about a client that does not read keeps the bare stream until it wants to read.
    pub fn over(name: &str, stream: UnixStream) -> TestClient {
        let reader = stream.try_clone().expect("a connected socket can be duplicated");
        // A peer that does not read must fail the test and not hang it.
        let _ = stream.set_write_timeout(Some(PATIENCE));
        TestClient::new(name, Link::Socket(stream), reader)
    }

    /// Connects to a socket and makes a WebSocket of the connection.
    ///
    /// # Panics
    ///
    /// When the connection or the upgrade is refused.
    #[track_caller]
    pub fn connect_websocket(name: &str, socket: &Path) -> TestClient {
        match websocket::connect(socket) {
            Ok((sender, receiver)) => {
                TestClient::reading(name, Link::WebSocket(Box::new(sender)), move |sink| receiver.run(&sink))
            }
            Err(error) => panic!("client {name} cannot connect to `{}`: {error}", socket.display()),
        }
    }

    /// Starts a program that speaks the protocol on its standard input and output, for instance `codex app-server` or
    /// `codexd connect`. Its stderr goes where the command sends it.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[track_caller]
    pub fn spawn(name: &str, command: &mut Command) -> TestClient {
        let mut child = match command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn() {
            Ok(child) => child,
            Err(error) => panic!("client {name} cannot run {:?}: {error}", command.get_program()),
        };
        let reader = child.stdout.take().expect("stdout was asked to be a pipe");
        TestClient::new(name, Link::Child(child), reader)
    }

    fn new(name: &str, link: Link, reader: impl Read + Send + 'static) -> TestClient {
        TestClient::reading(name, link, move |sink| {
            let mut reader = BufReader::new(reader);
            loop {
                let mut line = Vec::new();
                let arrival = match reader.read_until(b'\n', &mut line) {
                    Ok(0) => return,
                    // A peer that was killed leaves the line that it was writing. It is no message, and in the history.
                    Ok(_) if line.last() != Some(&b'\n') => {
                        Arrival::Broken(format!("cut after {} bytes of a line", line.len()))
                    }
                    Ok(_) => Arrival::Message(line),
                    Err(error) => Arrival::Broken(error.to_string()),
                };
                let last = matches!(arrival, Arrival::Broken(_));
                if sink.send(arrival).is_err() || last {
                    return;
                }
            }
        })
    }

    fn reading(name: &str, link: Link, read: impl FnOnce(Sender<Arrival>) + Send + 'static) -> TestClient {
        let (sink, incoming) = channel();
        std::thread::Builder::new()
            .name(format!("client {name}"))
            .spawn(move || read(sink))
            .expect("a test machine can start a thread");
        TestClient {
            name: name.to_owned(),
            link,
            incoming,
            kept: VecDeque::new(),
            history: Vec::new(),
            record: None,
            next_id: 0,
            decision: None,
            patience: PATIENCE,
            ended: false,
            close_frame: None,
        }
    }

    /// Returns the client's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Changes how long every wait lasts before it is a failure.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// From now on answers each approval request with this decision (`accept`, `decline`, `cancel`)
    /// as soon as the client sees it, that is while it waits for something.
    pub fn answer_approvals(&mut self, decision: &str) {
        self.decision = Some(json!(decision));
    }

    /// From now on keeps a copy of every message that arrives.
    pub fn keep_record(&mut self) {
        self.record.get_or_insert_default();
    }

    /// Returns what has arrived since [`TestClient::keep_record`].
    pub fn record(&self) -> &[Message] {
        self.record.as_deref().unwrap_or_default()
    }

    /// Returns the id of the last request; the first one has 1.
    pub fn last_id(&self) -> i64 {
        self.next_id
    }

    // Sending.

    /// Sends bytes as they are; on a WebSocket, as one text message.
    ///
    /// # Errors
    ///
    /// When the other side has closed, or does not read for [`PATIENCE`].
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.history.push(format!("-> {}", short(&String::from_utf8_lossy(bytes))));
        match &mut self.link {
            Link::Socket(stream) => stream.write_all(bytes),
            Link::WebSocket(sender) => sender.send_text(bytes.strip_suffix(b"\n").unwrap_or(bytes)),
            Link::Child(child) => {
                let Some(stdin) = &mut child.stdin else { return Err(io::ErrorKind::BrokenPipe.into()) };
                stdin.write_all(bytes).and_then(|()| stdin.flush())
            }
        }
    }

    /// Sends one line.
    ///
    /// # Panics
    ///
    /// When the other side has closed.
    #[track_caller]
    pub fn send_line(&mut self, line: &str) {
        if let Err(error) = self.send_bytes(format!("{line}\n").as_bytes()) {
            self.fail(&format!("cannot send: {error}"));
        }
    }

    /// Sends a message.
    #[track_caller]
    pub fn send(&mut self, message: &Value) {
        self.send_line(&message.to_string());
    }

    /// Sends a notification; null parameters are left out.
    #[track_caller]
    pub fn notify(&mut self, method: &str, params: Value) {
        let mut message = json!({"method": method});
        if !params.is_null() {
            message["params"] = params;
        }
        self.send(&message);
    }

    /// Sends a request and returns its id, without waiting; null parameters are left out.
    #[track_caller]
    pub fn send_request(&mut self, method: &str, params: Value) -> i64 {
        self.next_id += 1;
        let mut message = json!({"id": self.next_id, "method": method});
        if !params.is_null() {
            message["params"] = params;
        }
        self.send(&message);
        self.next_id
    }

    /// Answers a server request.
    #[track_caller]
    pub fn answer(&mut self, request: &Message, result: Value) {
        self.send(&json!({"id": request["id"], "result": result}));
    }

    /// Sends a frame as it is, but masked; of a WebSocket only.
    ///
    /// # Panics
    ///
    /// When the other side has closed, and for any other client.
    #[track_caller]
    pub fn send_frame(&mut self, frame: Frame) {
        self.history.push(format!("-> {:?}, {} bytes", frame.header().opcode, frame.payload().len()));
        let Link::WebSocket(sender) = &mut self.link else { self.fail("this client has no WebSocket") };
        if let Err(error) = sender.send(tungstenite::Message::Frame(frame)) {
            self.fail(&format!("cannot send: {error}"));
        }
    }

    /// Returns the code and the reason of the close frame that has come, if one has.
    pub fn close_frame(&self) -> Option<(u16, &str)> {
        self.close_frame.as_ref().map(|(code, reason)| (*code, reason.as_str()))
    }

    /// Ends the sending direction, or begins to close the WebSocket; what the other side still sends can be received.
    pub fn finish_sending(&mut self) {
        self.history.push("-> (end)".to_owned());
        match &mut self.link {
            Link::Socket(stream) => drop(stream.shutdown(Shutdown::Write)),
            Link::WebSocket(sender) => sender.close(),
            Link::Child(child) => drop(child.stdin.take()),
        }
    }

    // Receiving.

    /// Returns the next message: the oldest one that was kept, else the next that arrives.
    ///
    /// # Panics
    ///
    /// At the deadline and when the connection has ended.
    #[track_caller]
    pub fn recv(&mut self) -> Message {
        match self.kept.pop_front() {
            Some(message) => message,
            None => self.arrive_by(Instant::now() + self.patience, "a message"),
        }
    }

    /// Returns the next message, or `None` when the other side has ended the connection.
    ///
    /// # Panics
    ///
    /// At the deadline.
    #[track_caller]
    pub fn recv_or_end(&mut self) -> Option<Message> {
        let deadline = Instant::now() + self.patience;
        self.kept.pop_front().or_else(|| self.next_by(deadline, "a message or the end"))
    }

    /// Receives for at most this time; it is no failure if nothing comes.
    #[track_caller]
    pub fn receive(&mut self, patience: Duration) -> Received {
        match self.kept.pop_front() {
            Some(message) => Received::Message(message),
            None => self.receive_by(Instant::now() + patience),
        }
    }

    /// Returns all messages up to and with the first for which `last` is true, in order.
    #[track_caller]
    pub fn recv_until(&mut self, mut last: impl FnMut(&Message) -> bool) -> Vec<Message> {
        let deadline = Instant::now() + self.patience;
        let mut seen = Vec::new();
        loop {
            let message = match self.kept.pop_front() {
                Some(message) => message,
                None => self.arrive_by(deadline, "the message that was waited for"),
            };
            let found = last(&message);
            seen.push(message);
            if found {
                return seen;
            }
        }
    }

    /// Returns the first message for which `wanted` is true and keeps the others for later.
    #[track_caller]
    pub fn take(&mut self, what: &str, mut wanted: impl FnMut(&Message) -> bool) -> Message {
        if let Some(index) = self.kept.iter().position(&mut wanted) {
            return self.kept.remove(index).expect("the index was just found");
        }
        let deadline = Instant::now() + self.patience;
        loop {
            let message = self.arrive_by(deadline, what);
            if wanted(&message) {
                return message;
            }
            self.kept.push_back(message);
        }
    }

    /// Returns the first notification or server request with this method and keeps the others.
    #[track_caller]
    pub fn take_method(&mut self, method: &str) -> Message {
        self.take(method, |message| message.method() == Some(method))
    }

    /// Returns all messages before a barrier: the answer to a cheap request, which is left out.
    ///
    /// The order of messages makes this a proof of what was *not* sent.
    #[track_caller]
    pub fn recv_to_barrier(&mut self) -> Vec<Message> {
        let id = self.send_request("thread/loaded/list", json!({}));
        let mut seen = self.recv_until(|message| message.is_answer_to(id));
        seen.pop();
        seen
    }

    /// Drops the messages that were kept.
    pub fn forget(&mut self) {
        self.kept.clear();
    }

    /// Returns all that comes until the other side ends the connection.
    ///
    /// # Panics
    ///
    /// When it does not end it in time.
    #[track_caller]
    pub fn recv_to_end(&mut self) -> Vec<Message> {
        let deadline = Instant::now() + self.patience;
        let mut seen: Vec<Message> = self.kept.drain(..).collect();
        while let Some(message) = self.next_by(deadline, "the end of the connection") {
            seen.push(message);
        }
        seen
    }

    /// Returns the answer to the request with this id and keeps the other messages.
    ///
    /// # Errors
    ///
    /// The error answer.
    #[track_caller]
    pub fn response(&mut self, id: i64) -> Result<Value, RpcError> {
        let message = self.take(&format!("the answer to request {id}"), |message| message.is_answer_to(id));
        message.outcome()
    }

    /// Sends a request and returns its result.
    ///
    /// # Panics
    ///
    /// When the answer is an error.
    #[track_caller]
    pub fn request(&mut self, method: &str, params: Value) -> Value {
        match self.try_request(method, params) {
            Ok(result) => result,
            Err(error) => self.fail(&format!("`{method}` was refused: {error:?}")),
        }
    }

    /// Sends a request and returns its result.
    ///
    /// # Errors
    ///
    /// The error answer.
    #[track_caller]
    pub fn try_request(&mut self, method: &str, params: Value) -> Result<Value, RpcError> {
        let id = self.send_request(method, params);
        self.response(id)
    }

    // The protocol.

    /// Introduces the client, with the experimental API, and returns the result.
    #[track_caller]
    pub fn initialize(&mut self) -> Value {
        self.initialize_with(json!({"experimentalApi": true}))
    }

    /// Introduces the client with these capabilities and returns the result.
    #[track_caller]
    pub fn initialize_with(&mut self, capabilities: Value) -> Value {
        let info = json!({"name": self.name, "title": self.name, "version": "0.0.1"});
        let result = self.request("initialize", json!({"clientInfo": info, "capabilities": capabilities}));
        self.notify("initialized", Value::Null);
        result
    }

    /// Starts a thread and returns its id.
    #[track_caller]
    pub fn start_thread(&mut self, params: Value) -> String {
        let result = self.request("thread/start", params);
        match result["thread"]["id"].as_str() {
            Some(id) => id.to_owned(),
            None => self.fail("`thread/start` gave no thread"),
        }
    }

    /// Starts a turn and returns its id.
    #[track_caller]
    pub fn start_turn(&mut self, thread: &str, prompt: &str) -> String {
        let input = json!([{"type": "text", "text": prompt}]);
        let result = self.request("turn/start", json!({"threadId": thread, "input": input}));
        match result["turn"]["id"].as_str() {
            Some(id) => id.to_owned(),
            None => self.fail("`turn/start` gave no turn"),
        }
    }

    /// Waits for the end of a turn. Messages of other threads are kept.
    #[track_caller]
    pub fn finish_turn(&mut self, thread: &str, turn: &str) -> Turn {
        let mut seen: Vec<Message> = Vec::new();
        loop {
            let message = self.take("the end of the turn", |message| {
                message["params"]["threadId"].as_str() == Some(thread)
            });
            let last = message.method() == Some("turn/completed") && message["params"]["turn"]["id"] == turn;
            seen.push(message);
            if last {
                return Turn::of(turn, seen);
            }
        }
    }

    /// Runs a turn from its start to its end.
    #[track_caller]
    pub fn turn(&mut self, thread: &str, prompt: &str) -> Turn {
        let turn = self.start_turn(thread, prompt);
        self.finish_turn(thread, &turn)
    }

    /// Returns the last lines that were sent and received, shortened, for people.
    pub fn past(&self, lines: usize) -> &[String] {
        &self.history[self.history.len().saturating_sub(lines)..]
    }

    /// Returns the process id of a spawned program.
    pub fn pid(&self) -> Option<u32> {
        match &self.link {
            Link::Socket(_) | Link::WebSocket(_) => None,
            Link::Child(child) => Some(child.id()),
        }
    }

    /// Waits for the end of a spawned program.
    ///
    /// # Panics
    ///
    /// At the deadline, and for a client of a socket.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        let patience = self.patience;
        let Link::Child(child) = &mut self.link else { self.fail("no program was spawned") };
        match wait::poll(patience, || child.try_wait().transpose()) {
            Some(Ok(status)) => status,
            Some(Err(error)) => self.fail(&format!("cannot wait for the program: {error}")),
            None => self.fail("the program did not end"),
        }
    }

    // Parts of the above.

    #[track_caller]
    fn arrive_by(&mut self, deadline: Instant, what: &str) -> Message {
        match self.next_by(deadline, what) {
            Some(message) => message,
            None => self.fail(&format!("the connection ended before {what}")),
        }
    }

    /// Returns the next message from the connection, or `None` at its end.
    #[track_caller]
    fn next_by(&mut self, deadline: Instant, what: &str) -> Option<Message> {
        match self.receive_by(deadline) {
            Received::Message(message) => Some(message),
            Received::End => None,
            Received::Silence => self.fail(&format!("waited {:?} in vain for {what}", self.patience)),
        }
    }

    #[track_caller]
    fn receive_by(&mut self, deadline: Instant) -> Received {
        if self.ended {
            return Received::End;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let bytes = match self.incoming.recv_timeout(left) {
            Ok(Arrival::Message(bytes)) => bytes,
            Ok(Arrival::Closed(code, reason)) => {
                self.history.push(format!("<- (close {code}: {reason})"));
                self.close_frame = Some((code, reason));
                return self.receive_by(deadline);
            }
            Ok(Arrival::Broken(error)) => {
                // A reset is an end, and one worth reading about.
                self.history.push(format!("<- (end: {error})"));
                self.ended = true;
                return Received::End;
            }
            Err(RecvTimeoutError::Disconnected) => {
                self.history.push("<- (end)".to_owned());
                self.ended = true;
                return Received::End;
            }
            Err(RecvTimeoutError::Timeout) => return Received::Silence,
        };
        let raw = String::from_utf8_lossy(bytes.strip_suffix(b"\n").unwrap_or(&bytes)).into_owned();
        self.history.push(format!("<- {}", short(&raw)));
        let value = match serde_json::from_str(&raw) {
            Ok(value) => value,
            Err(error) => self.fail(&format!("received what is not JSON: {error}")),
        };
        let message = Message { raw, value };
        if let Some(record) = &mut self.record {
            record.push(message.clone());
        }
        self.decide(&message);
        Received::Message(message)
    }

    #[track_caller]
    fn decide(&mut self, message: &Message) {
        let asks = message.method().is_some_and(|method| method.ends_with("/requestApproval"));
        if let (Some(decision), true) = (&self.decision, asks && !message["id"].is_null()) {
            let result = json!({"decision": decision});
            self.answer(message, result);
        }
    }

    #[track_caller]
    fn fail(&self, reason: &str) -> ! {
        let mut text = format!("client {}: {reason}\n", self.name);
        let skipped = self.history.len().saturating_sub(SHOWN_LINES);
        if skipped > 0 {
            let _ = writeln!(text, "  ({skipped} earlier lines)");
        }
        for line in &self.history[skipped..] {
            let _ = writeln!(text, "  {line}");
        }
        panic!("{text}");
    }
}

impl Message {
    /// Returns the method of a notification or of a server request.
    pub fn method(&self) -> Option<&str> {
        self.value["method"].as_str()
    }

    /// Returns whether this is the answer to the request with this id.
    pub fn is_answer_to(&self, id: i64) -> bool {
        self.value["id"] == id && self.method().is_none()
    }

    /// Returns whether this is a request of the server.
    pub fn is_server_request(&self) -> bool {
        self.method().is_some() && !self.value["id"].is_null()
    }

    /// Returns the result of an answer.
    ///
    /// # Errors
    ///
    /// The error answer.
    pub fn outcome(&self) -> Result<Value, RpcError> {
        let error = &self.value["error"];
        if error.is_null() {
            return Ok(self.value["result"].clone());
        }
        Err(RpcError {
            code: error["code"].as_i64().unwrap_or_default(),
            message: error["message"].as_str().unwrap_or_default().to_owned(),
            data: error["data"].clone(),
        })
    }
}

impl Deref for Message {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.value
    }
}

impl Turn {
    fn of(id: &str, seen: Vec<Message>) -> Turn {
        let deltas = seen
            .iter()
            .filter(|message| message.method() == Some("item/agentMessage/delta"))
            .filter_map(|message| message["params"]["delta"].as_str().map(str::to_owned))
            .collect();
        let answer = seen
            .iter()
            .filter(|message| message.method() == Some("item/completed"))
            .map(|message| &message["params"]["item"])
            .filter(|item| item["type"] == "agentMessage" && item["phase"] == "final_answer")
            .find_map(|item| item["text"].as_str().map(str::to_owned));
        let turn = seen.last().map(|last| last["params"]["turn"].clone()).unwrap_or_default();
        Turn {
            id: id.to_owned(),
            deltas,
            answer,
            status: turn["status"].as_str().unwrap_or_default().to_owned(),
            error: turn["error"].clone(),
            seen,
        }
    }

    /// Returns the methods of all messages, in order.
    pub fn methods(&self) -> Vec<&str> {
        self.seen.iter().filter_map(Message::method).collect()
    }
}

impl Drop for TestClient {
    fn drop(&mut self) {
        match &mut self.link {
            Link::Socket(stream) => drop(stream.shutdown(Shutdown::Both)),
            Link::WebSocket(sender) => sender.shutdown(),
            Link::Child(child) => {
                drop(child.stdin.take());
                // A program that is well ends by itself; one that is not must not outlive the test.
                if wait::poll(EXITS_WITHIN, || child.try_wait().transpose()).is_none() {
                    let _ = child.kill();
                    let _ = child.wait();
                }
            }
        }
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Link::Socket(_) => "Socket",
            Link::WebSocket(_) => "WebSocket",
            Link::Child(_) => "Child",
        })
    }
}

fn short(line: &str) -> String {
    let line = line.trim_end();
    match line.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}… ({} bytes)", &line[..end], line.len()),
        None => line.to_owned(),
    }
}

/// How much of its past a failing client prints.
const SHOWN_LINES: usize = 60;
const SHOWN_CHARS: usize = 300;

/// Time a spawned program gets to end after its input has.
const EXITS_WITHIN: Duration = Duration::from_secs(5);
