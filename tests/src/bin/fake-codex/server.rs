//! The server: requests in, answers and scripted turns out. One thread owns all of it.

mod requests;
mod steps;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::Instant;

use serde_json::{Value, json};

use crate::behaviour::Behaviour;
use crate::exec::{self, Commands, Key};
use crate::input::InputEvent;
use crate::rpc::{self, Incoming, Refusal};
use crate::thread::Thread;
use crate::wire::{Wire, now_ms};

/// Everything the server knows.
#[derive(Debug)]
pub(crate) struct Server {
    behaviour: Behaviour,
    wire: Wire,
    events: Sender<InputEvent>,
    initialized: bool,
    experimental: bool,
    requests: u64,
    /// Messages that wait for their time, see `[[slow:MS]]`.
    waiting: VecDeque<(Instant, Incoming)>,
    /// Messages that wait for the end of a turn, see `[[busy]]`.
    unread: Option<Vec<Incoming>>,
    threads: BTreeMap<String, Thread>,
    watches: BTreeMap<String, String>,
    commands: Commands,
    /// Ids of requests that are not answered yet.
    open: BTreeSet<String>,
    next_server_request: i64,
    serial: u64,
}

impl Server {
    pub(crate) fn new(behaviour: Behaviour, events: Sender<InputEvent>) -> Server {
        Server {
            behaviour,
            wire: Wire::new(),
            events,
            initialized: false,
            experimental: false,
            requests: 0,
            waiting: VecDeque::new(),
            unread: None,
            threads: BTreeMap::new(),
            watches: BTreeMap::new(),
            commands: Commands::default(),
            open: BTreeSet::new(),
            next_server_request: 0,
            serial: 0,
        }
    }

    /// Serves until something ends the process.
    pub(crate) fn run(mut self, events: &Receiver<InputEvent>) -> ExitCode {
        loop {
            let event = match self.next_due() {
                Some(due) if due <= Instant::now() => events.try_recv().map_err(|error| match error {
                    TryRecvError::Empty => RecvTimeoutError::Timeout,
                    TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                }),
                Some(due) => events.recv_timeout(due.saturating_duration_since(Instant::now())),
                None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let end = match event {
                Ok(event) => self.handle(event),
                Err(RecvTimeoutError::Timeout) => self.work(),
                Err(RecvTimeoutError::Disconnected) => Some(0),
            };
            if let Some(code) = end {
                return ExitCode::from(code);
            }
            if self.behaviour.strict && self.wire.complaints > 0 {
                self.wire.flush();
                return ExitCode::from(STRICT);
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let turns = self.threads.values().filter_map(|thread| thread.turn.as_ref()?.due);
        turns.chain(self.waiting.front().map(|(due, _)| *due)).min()
    }

    /// Takes one event; `Some` ends the process with that code.
    fn handle(&mut self, event: InputEvent) -> Option<u8> {
        match event {
            InputEvent::Line(line) => {
                self.wire.log(&line);
                if line.trim_ascii().is_empty() {
                    return None;
                }
                match rpc::read(&line) {
                    Ok(message) => return self.arrive(message),
                    Err(reason) => {
                        eprintln!("fake-codex: ERROR dropped a malformed message: {reason}");
                        self.wire.complain(&format!("malformed message: {reason}"));
                    }
                }
                None
            }
            InputEvent::InputEnded if self.behaviour.ignore_eof => None,
            InputEvent::Terminate if self.behaviour.ignore_term => None,
            InputEvent::InputEnded | InputEvent::Terminate => {
                // As the real one: commands are ended, turns vanish without a notification.
                self.commands.kill_all();
                Some(0)
            }
            InputEvent::Output(output) => {
                let mut params = json!({"stream": output.stream, "deltaBase64": exec::base64(&output.bytes),
                                        "capReached": false});
                match output.key {
                    Key::Exec(id) => {
                        params["processId"] = json!(id);
                        self.wire.notify("command/exec/outputDelta", params);
                    }
                    Key::Spawned(handle) => {
                        params["processHandle"] = json!(handle);
                        self.wire.notify("process/outputDelta", params);
                    }
                    Key::Anonymous(_) => {}
                }
                None
            }
            InputEvent::Exited(exited) => {
                self.commands.forget(&exited.key);
                match (exited.key, exited.request) {
                    (Key::Spawned(handle), _) => self.wire.notify(
                        "process/exited",
                        json!({"processHandle": handle, "exitCode": exited.code, "outputDrainTimedOut": false,
                               "stdout": exited.stdout, "stdoutCapReached": false,
                               "stderr": exited.stderr, "stderrCapReached": false}),
                    ),
                    (_, Some(id)) => self.answer(
                        &id,
                        json!({"exitCode": exited.code, "stdout": exited.stdout, "stderr": exited.stderr}),
                    ),
                    (_, None) => {}
                }
                None
            }
        }
    }

    /// Does what is due: one waiting message, or one step of each turn.
    fn work(&mut self) -> Option<u8> {
        let now = Instant::now();
        if self.waiting.front().is_some_and(|(due, _)| *due <= now)
            && let Some((_, message)) = self.waiting.pop_front()
        {
            return self.take(message);
        }
        let due =
            |thread: &Thread| thread.turn.as_ref().and_then(|turn| turn.due).is_some_and(|due| due <= now);
        let threads: Vec<String> =
            self.threads.values().filter(|thread| due(thread)).map(|thread| thread.id.clone()).collect();
        threads.iter().find_map(|thread| self.step(thread))
    }

    fn arrive(&mut self, message: Incoming) -> Option<u8> {
        if let Incoming::Request { id, method, .. } = &message
            && !self.open.insert(id.to_string())
        {
            self.wire
                .complain(&format!("`{method}`: the id {id} belongs to a request that is not answered yet"));
        }
        if let Some(unread) = &mut self.unread {
            unread.push(message);
            return None;
        }
        match self.behaviour.slow {
            Some(delay) if self.initialized => {
                if self.waiting.len() >= QUEUE {
                    self.wire.complain("the queue of 128 messages is full");
                    if let Incoming::Request { id, .. } = &message {
                        self.refuse(id, &Refusal::overloaded());
                    }
                    return None;
                }
                self.waiting.push_back((Instant::now() + delay, message));
                None
            }
            _ => self.take(message),
        }
    }

    fn take(&mut self, message: Incoming) -> Option<u8> {
        match message {
            Incoming::Request { id, method, params } => {
                if method == "initialize" {
                    return self.initialize(&id, &params);
                }
                // What no codex has is asked for its answer only, and not by a client.
                self.requests += u64::from(self.initialized && requests::METHODS.contains(&method.as_str()));
                if self.behaviour.overload.is_some_and(|every| self.requests.is_multiple_of(every)) {
                    self.refuse(&id, &Refusal::overloaded());
                } else if let Err(refusal) = self.request(&id, &method, &params) {
                    self.refuse(&id, &refusal);
                }
            }
            Incoming::Notification { method } => {
                if method != "initialized" {
                    self.wire.complain(&format!("unknown notification `{method}`"));
                }
            }
            Incoming::Answer { id, result } => self.answered(&id, &result),
        }
        None
    }

    fn initialize(&mut self, id: &Value, params: &Value) -> Option<u8> {
        if let Some(code) = self.behaviour.init_exit {
            return Some(code);
        }
        if self.behaviour.init_hang {
            return None;
        }
        if let Some(code) = self.behaviour.init_error {
            self.refuse(id, &Refusal { code, message: "initialize is refused by the script".to_owned() });
            return None;
        }
        if self.initialized {
            self.wire.complain("`initialize` a second time");
            self.refuse(id, &Refusal::new("Already initialized"));
            return None;
        }
        let info = &params["clientInfo"];
        let (name, version) = match (rpc::text(info, "name"), rpc::text(info, "version")) {
            (Ok(name), Ok(version)) => (name, version),
            (Err(refusal), _) | (_, Err(refusal)) => {
                self.refuse(id, &refusal);
                return None;
            }
        };
        self.initialized = true;
        self.experimental = params["capabilities"]["experimentalApi"].as_bool().unwrap_or(false);
        let agent = format!("{name}/{} (Fake 1.0; x86_64) unknown ({name}; {version})", crate::version());
        let home = std::env::var("CODEX_HOME").unwrap_or_default();
        let system = if cfg!(target_os = "macos") { "macos" } else { "linux" };
        // In one write: a client that has the answer has all that comes with it.
        self.open.remove(&id.to_string());
        self.wire.messages(&[
            json!({"id": id, "result": {
                "userAgent": agent, "codexHome": home, "platformFamily": "unix", "platformOs": system,
            }}),
            json!({"method": "configWarning", "emittedAtMs": now_ms(), "params": {
                "summary": "This is a stand-in for codex; no model will be asked.", "details": null,
            }}),
            json!({"method": "remoteControl/status/changed", "emittedAtMs": now_ms(), "params": {
                "status": "disabled", "serverName": "fake", "installationId": "fake", "environmentId": null,
            }}),
        ]);
        None
    }

    /// Returns the file that says that a thread has run; `None` if none are kept.
    fn kept_file(&self, thread: &str) -> Option<PathBuf> {
        let home = std::env::var_os("CODEX_HOME").filter(|_| self.behaviour.keep)?;
        Some(Path::new(&home).join("fake-threads").join(thread))
    }

    /// Keeps a thread for the next process.
    fn keep(&mut self, thread: &str, cwd: &str) {
        let Some(file) = self.kept_file(thread) else { return };
        let kept =
            file.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&file, cwd));
        if let Err(error) = kept {
            self.wire.complain(&format!("cannot keep a thread: {error}"));
        }
    }

    fn answer(&mut self, id: &Value, result: Value) {
        self.open.remove(&id.to_string());
        self.wire.result(id, result);
    }

    fn refuse(&mut self, id: &Value, refusal: &Refusal) {
        self.open.remove(&id.to_string());
        self.wire.error(id, refusal.code, &refusal.message);
    }

    fn thread(&self, params: &Value) -> Result<&Thread, Refusal> {
        let id = rpc::text(params, "threadId")?;
        self.threads.get(id).ok_or_else(|| Refusal::new(format!("thread not found: {id}")))
    }

    fn thread_mut(&mut self, params: &Value) -> Result<&mut Thread, Refusal> {
        let id = rpc::text(params, "threadId")?;
        self.threads.get_mut(id).ok_or_else(|| Refusal::new(format!("thread not found: {id}")))
    }

    /// Returns an id in the shape of the real ones: a UUID of version 7, unique on this machine.
    fn uuid(&mut self) -> String {
        self.serial += 1;
        let (time, process) = (now_ms(), u64::from(std::process::id()));
        format!(
            "{:08x}-{:04x}-7{:03x}-8{:03x}-{:012x}",
            time >> 16 & 0xffff_ffff,
            time & 0xffff,
            process >> 12 & 0xfff,
            process & 0xfff,
            self.serial
        )
    }
}

/// Length of the real server's queue of messages.
const QUEUE: usize = 128;

/// Exit code of a strict server that has something to complain about.
const STRICT: u8 = 97;
