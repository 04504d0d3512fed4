//! The server: requests in, answers and scripted turns out. One thread owns all of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::Instant;

use nix::sys::signal::{SigSet, Signal, raise};
use serde_json::{Value, json};

use crate::behaviour::Behaviour;
use crate::exec::{self, Commands, Key};
use crate::input::Event;
use crate::rpc::{self, Incoming, Refusal};
use crate::thread::Thread;
use crate::turn::{self, Step, Turn};
use crate::wire::{Wire, now_ms};

/// Everything the server knows.
#[derive(Debug)]
pub(crate) struct Server {
    behaviour: Behaviour,
    wire: Wire,
    events: Sender<Event>,
    initialized: bool,
    experimental: bool,
    requests: u64,
    /// Messages that wait for their time, see `[[slow:MS]]`.
    waiting: VecDeque<(Instant, Incoming)>,
    threads: BTreeMap<String, Thread>,
    watches: BTreeMap<String, String>,
    commands: Commands,
    /// Ids of requests that are not answered yet.
    open: BTreeSet<String>,
    next_server_request: i64,
    serial: u64,
}

/// The methods the fake knows; the order is that of its refusals.
const METHODS: [&str; 25] = [
    "initialize",
    "server/diagnostics",
    "thread/start",
    "thread/resume",
    "thread/fork",
    "thread/archive",
    "thread/unsubscribe",
    "thread/name/set",
    "thread/list",
    "thread/loaded/list",
    "thread/read",
    "model/list",
    "config/read",
    "account/read",
    "turn/start",
    "turn/steer",
    "turn/interrupt",
    "fs/watch",
    "fs/unwatch",
    "command/exec",
    "command/exec/write",
    "command/exec/terminate",
    "process/spawn",
    "process/writeStdin",
    "process/kill",
];

/// Those of them that need the experimental API.
const EXPERIMENTAL: [&str; 4] = ["server/diagnostics", "process/spawn", "process/writeStdin", "process/kill"];

impl Server {
    pub(crate) fn new(behaviour: Behaviour, events: Sender<Event>) -> Server {
        Server {
            behaviour,
            wire: Wire::new(),
            events,
            initialized: false,
            experimental: false,
            requests: 0,
            waiting: VecDeque::new(),
            threads: BTreeMap::new(),
            watches: BTreeMap::new(),
            commands: Commands::default(),
            open: BTreeSet::new(),
            next_server_request: 0,
            serial: 0,
        }
    }

    /// Serves until something ends the process.
    pub(crate) fn run(mut self, events: &Receiver<Event>) -> ExitCode {
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
    fn handle(&mut self, event: Event) -> Option<u8> {
        match event {
            Event::Line(line) => {
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
            Event::InputEnded if self.behaviour.ignore_eof => None,
            Event::Terminate if self.behaviour.ignore_term => None,
            Event::InputEnded | Event::Terminate => {
                // As the real one: commands are ended, turns vanish without a word.
                self.commands.kill_all();
                Some(0)
            }
            Event::Output(output) => {
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
            Event::Exited(exited) => {
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
                self.requests += u64::from(self.initialized);
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
        let agent = format!("{name}/0.0.0-fake (Fake 1.0; x86_64) unknown ({name}; {version})");
        let home = std::env::var("CODEX_HOME").unwrap_or_default();
        let system = if cfg!(target_os = "macos") { "macos" } else { "linux" };
        self.answer(
            id,
            json!({"userAgent": agent, "codexHome": home, "platformFamily": "unix", "platformOs": system}),
        );
        self.wire.notify(
            "configWarning",
            json!({"summary": "This is a stand-in for codex; no model will be asked.", "details": null}),
        );
        self.wire.notify(
            "remoteControl/status/changed",
            json!({"status": "disabled", "serverName": "fake", "installationId": "fake", "environmentId": null}),
        );
        None
    }

    fn request(&mut self, id: &Value, method: &str, params: &Value) -> Result<(), Refusal> {
        if !METHODS.contains(&method) {
            self.wire.complain(&format!("unknown method `{method}`"));
            return Err(Refusal::unknown_method(method, &METHODS));
        }
        if !self.initialized {
            self.wire.complain(&format!("`{method}` before `initialize`"));
            return Err(Refusal::new("Not initialized"));
        }
        if EXPERIMENTAL.contains(&method) && !self.experimental {
            return Err(Refusal::new(format!("{method} requires experimentalApi capability")));
        }
        let result = match method {
            "thread/start" => {
                let thread = Thread::new(self.uuid(), &folder(params));
                return self.loaded(id, thread);
            }
            "thread/fork" => {
                let source = self.thread(params)?;
                let (source, cwd) = (source.id.clone(), source.cwd.clone());
                let mut thread = Thread::new(self.uuid(), &cwd);
                thread.forked_from = Some(source);
                thread.last_turn = Some(self.uuid());
                return self.loaded(id, thread);
            }
            "thread/resume" => return self.resume(id, params),
            "thread/unsubscribe" => {
                let status = match self.threads.get_mut(rpc::text(params, "threadId")?) {
                    None => "notLoaded",
                    Some(thread) if !thread.subscribed => "notSubscribed",
                    Some(thread) => {
                        thread.subscribed = false;
                        "unsubscribed"
                    }
                };
                json!({"status": status})
            }
            "thread/archive" => {
                let thread = self.thread(params)?.id.clone();
                self.end_turn(&thread, "interrupted");
                self.threads.remove(&thread);
                self.wire.notify(
                    "thread/status/changed",
                    json!({"threadId": thread, "status": {"type": "notLoaded"}}),
                );
                self.answer(id, rpc::nothing());
                self.wire.notify("thread/archived", json!({"threadId": thread}));
                return Ok(());
            }
            "thread/name/set" => {
                let (thread, name) = (self.thread(params)?.id.clone(), rpc::text(params, "name")?);
                self.answer(id, rpc::nothing());
                self.wire.notify("thread/name/updated", json!({"threadId": thread, "threadName": name}));
                return Ok(());
            }
            "thread/list" => {
                json!({"data": [], "readStates": {}, "nextCursor": null, "backwardsCursor": null})
            }
            "thread/loaded/list" => {
                json!({"data": self.threads.keys().collect::<Vec<_>>(), "nextCursor": null})
            }
            "thread/read" => json!({"thread": self.thread(params)?.json()}),
            "model/list" => json!({"data": [{"id": "fake-model", "model": "fake-model",
                                             "displayName": "fake-model", "isDefault": true}],
                                   "nextCursor": null}),
            "config/read" => json!({"config": {}, "origins": {}, "layers": null}),
            "account/read" => json!({"account": null, "requiresOpenaiAuth": false}),
            "server/diagnostics" => json!({
                "process": {"id": std::process::id(), "residentMemoryBytes": 1_000_000,
                            "physicalFootprintBytes": null},
                "gauges": [{"name": "app.requests.in_flight", "value": self.open.len()},
                           {"name": "app.requests.queued", "value": self.waiting.len()}]}),
            "turn/start" => return self.start_turn(id, params),
            "turn/steer" => {
                let steps = scripted(&rpc::prompt(params)?)?;
                let thread = self.thread_mut(params)?;
                let Some(turn) = &mut thread.turn else {
                    return Err(Refusal::new("no active turn to steer"));
                };
                join(turn, steps);
                json!({"turnId": turn.id})
            }
            "turn/interrupt" => return self.interrupt(id, params),
            "fs/watch" => {
                let (watch, path) = (rpc::text(params, "watchId")?, rpc::text(params, "path")?);
                if self.watches.contains_key(watch) {
                    return Err(Refusal::new(format!("watchId already exists: {watch}")));
                }
                self.watches.insert(watch.to_owned(), path.to_owned());
                json!({"path": path})
            }
            "fs/unwatch" => {
                self.watches.remove(rpc::text(params, "watchId")?);
                rpc::nothing()
            }
            "command/exec" => {
                let key = match params["processId"].as_str() {
                    Some(process) => Key::Exec(process.to_owned()),
                    None => self.commands.unnamed(),
                };
                // The answer comes with the end of the command.
                return self.commands.start(key, Some(id.clone()), params, &self.events);
            }
            "command/exec/terminate" => {
                self.commands.kill(&Key::Exec(rpc::text(params, "processId")?.to_owned()))?;
                rpc::nothing()
            }
            "process/spawn" => {
                let key = Key::Spawned(rpc::text(params, "processHandle")?.to_owned());
                self.commands.start(key, None, params, &self.events)?;
                rpc::nothing()
            }
            "process/kill" => {
                self.commands.kill(&Key::Spawned(rpc::text(params, "processHandle")?.to_owned()))?;
                rpc::nothing()
            }
            // Input of commands is taken and thrown away.
            _ => rpc::nothing(),
        };
        self.answer(id, result);
        Ok(())
    }

    /// Answers with a new thread and announces it.
    fn loaded(&mut self, id: &Value, thread: Thread) -> Result<(), Refusal> {
        self.answer(id, thread.loaded());
        self.wire.notify("thread/started", json!({"thread": thread.json()}));
        self.threads.insert(thread.id.clone(), thread);
        Ok(())
    }

    fn resume(&mut self, id: &Value, params: &Value) -> Result<(), Refusal> {
        let wanted = rpc::text(params, "threadId")?;
        let none = || Refusal::new(format!("no rollout found for thread id {wanted}"));
        let thread = self.threads.get_mut(wanted).ok_or_else(none)?;
        if thread.last_turn.is_none() && thread.turn.is_none() {
            return Err(none());
        }
        thread.subscribed = true;
        let (result, thread_id) = (thread.loaded(), thread.id.clone());
        let usage = thread.last_turn.as_ref().map(|turn| thread.token_usage(turn));
        let pending =
            thread.turn.as_ref().and_then(|turn| turn.approval.clone().map(|it| (turn.id.clone(), it)));
        self.answer(id, result);
        if let (Some(usage), false) = (usage, params["excludeTurns"] == true) {
            self.wire.notify("thread/tokenUsage/updated", usage);
        }
        self.wire.notify("thread/goal/cleared", json!({"threadId": thread_id}));
        if let Some((turn, (request, item))) = pending {
            self.ask(&thread_id, &turn, request, &item);
        }
        Ok(())
    }

    fn start_turn(&mut self, id: &Value, params: &Value) -> Result<(), Refusal> {
        let prompt = { rpc::text(params, "threadId").and_then(|_| rpc::prompt(params)) }?;
        let steps = scripted(&prompt)?;
        let turn_id = self.uuid();
        let thread = self.thread_mut(params)?;
        if let Some(turn) = &mut thread.turn {
            // The real server takes it like more input for the running turn, and answers with its id.
            join(turn, steps);
            let answer = json!({"turn": turn.json("inProgress")});
            self.answer(id, answer);
            return Ok(());
        }
        let thread = thread.id.clone();
        let turn = Turn::new(turn_id, None, steps);
        let mut answer = turn.json("inProgress");
        answer["startedAt"] = Value::Null;
        self.answer(id, json!({"turn": answer}));
        self.begin(&thread, turn, &prompt);
        Ok(())
    }

    /// Announces a turn, up to the item of the user's message.
    fn begin(&mut self, thread_id: &str, turn: Turn, prompt: &str) {
        let (turn_id, turn_json) = (turn.id.clone(), turn.json("inProgress"));
        let Some(thread) = self.threads.get_mut(thread_id) else { return };
        thread.turn = Some(turn);
        self.status(thread_id);
        self.wire.notify("turn/started", json!({"threadId": thread_id, "turn": turn_json}));
        let item = |completed: bool, id: &str| {
            json!({"type": "userMessage", "id": id, "clientId": null,
                   "content": [{"type": "text", "text": prompt, "text_elements": []}],
                   "startedAtMs": now_ms(), "completedAtMs": completed.then(now_ms)})
        };
        let id = self.uuid();
        self.item_started(thread_id, &turn_id, item(false, &id));
        self.item_completed(thread_id, &turn_id, item(true, &id));
    }

    fn interrupt(&mut self, id: &Value, params: &Value) -> Result<(), Refusal> {
        let wanted = rpc::text(params, "turnId")?.to_owned();
        let thread = self.thread(params)?;
        let Some(turn) = &thread.turn else { return Err(Refusal::new("no active turn to interrupt")) };
        if turn.id != wanted {
            return Err(Refusal::new(format!("expected active turn id {wanted} but found {}", turn.id)));
        }
        let thread = thread.id.clone();
        self.answer(id, rpc::nothing());
        self.end_turn(&thread, "interrupted");
        Ok(())
    }

    /// Takes the answer to a server request.
    fn answered(&mut self, id: &Value, result: &Result<Value, Value>) {
        let waits = |thread: &&mut Thread| {
            let turn = thread.turn.as_ref();
            turn.and_then(|turn| turn.approval.as_ref()).is_some_and(|(request, _)| *id == json!(request))
        };
        let Some(thread) = self.threads.values_mut().find(waits) else {
            // The real server ignores it; from a broker it should not come.
            self.wire.complain(&format!("an answer to {id}, which was not asked or is answered already"));
            return;
        };
        let thread_id = thread.id.clone();
        let Some(turn) = &mut thread.turn else { return };
        let Some((_, mut item)) = turn.approval.take() else { return };
        let turn_id = turn.id.clone();
        self.wire.notify("serverRequest/resolved", json!({"threadId": thread_id, "requestId": id}));
        let decision = result.as_ref().ok().and_then(|result| result["decision"].as_str());
        if decision == Some("cancel") {
            self.end_turn(&thread_id, "interrupted");
            return;
        }
        self.status(&thread_id);
        let (status, code) = match decision {
            Some("accept" | "acceptForSession") => ("completed", json!(0)),
            Some("decline") => ("declined", Value::Null),
            _ => ("failed", Value::Null),
        };
        item["status"] = json!(status);
        item["exitCode"] = code;
        item["completedAtMs"] = json!(now_ms());
        self.item_completed(&thread_id, &turn_id, item);
        if let Some(turn) = self.threads.get_mut(&thread_id).and_then(|thread| thread.turn.as_mut()) {
            turn.due = Some(Instant::now());
        }
    }

    /// Does the next step of a thread's turn; `Some` ends the process with that code.
    fn step(&mut self, thread_id: &str) -> Option<u8> {
        let turn = self.threads.get_mut(thread_id)?.turn.as_mut()?;
        let turn_id = turn.id.clone();
        let Some(step) = turn.steps.pop_front() else {
            turn.due = None;
            return None;
        };
        match step {
            Step::Delta(text) => self.delta(thread_id, &turn_id, &text),
            Step::Pause(time) => turn.due = Some(Instant::now() + time),
            Step::Hang if turn.steps.is_empty() => turn.due = None,
            Step::Hang => {}
            Step::Approve => {
                turn.due = None;
                let request = self.next_server_request;
                self.next_server_request += 1;
                let item = json!({
                    "type": "commandExecution", "id": format!("call_{request}"),
                    "command": "/bin/sh -c 'true'", "cwd": "/", "processId": null, "source": "agent",
                    "status": "inProgress", "commandActions": [{"type": "unknown", "command": "true"}],
                    "aggregatedOutput": null, "exitCode": null, "durationMs": null,
                    "startedAtMs": now_ms(), "completedAtMs": null});
                turn.approval = Some((request, item.clone()));
                self.status(thread_id);
                self.item_started(thread_id, &turn_id, item.clone());
                self.ask(thread_id, &turn_id, request, &item);
            }
            Step::SubAgent(prompt) => self.sub_agent(thread_id, &turn_id, &prompt),
            Step::Final => {
                if let Some((_, text)) = turn.message.clone() {
                    let item = turn.agent_message(&text, true);
                    turn.answer = Some(item.clone());
                    turn.message = None;
                    self.item_completed(thread_id, &turn_id, item);
                }
            }
            Step::Complete => {
                let thread = self.threads.get_mut(thread_id)?;
                thread.tokens += 15;
                let usage = thread.token_usage(&turn_id);
                self.wire.notify("thread/tokenUsage/updated", usage);
                self.wire.notify(
                    "account/rateLimits/updated",
                    json!({"rateLimits": {"limitId": "codex", "primary": null, "secondary": null}}),
                );
                self.end_turn(thread_id, "completed");
            }
            Step::Freeze => self.wire.frozen = true,
            Step::FsChange => {
                for (watch, path) in &self.watches {
                    self.wire.notify("fs/changed", json!({"watchId": watch, "changedPaths": [path]}));
                }
            }
            Step::Garbage => self.wire.bytes(b"this line is not JSON\n".to_vec()),
            Step::CloseStdout => self.wire.close(),
            Step::Orphan => self.detach(false),
            Step::HoldPipe(code) => {
                self.detach(true);
                self.wire.flush();
                return Some(code);
            }
            Step::Exit(code) => {
                self.wire.flush();
                return Some(code);
            }
            Step::Torn => {
                self.wire.bytes(b"{\"method\":\"item/agentMessage/delta\",\"params\":{\"thre".to_vec());
                self.wire.flush();
                return Some(0);
            }
            Step::Abort => {
                self.wire.flush();
                std::process::abort();
            }
            Step::Signal(number) => {
                self.wire.flush();
                self.die_by(number);
            }
        }
        None
    }

    fn die_by(&mut self, number: i32) {
        let Ok(signal) = Signal::try_from(number) else {
            self.wire.complain(&format!("there is no signal {number}"));
            return;
        };
        let _ = SigSet::all().thread_unblock();
        // Twice: the runtime's handler for SIGSEGV and SIGBUS takes the first one and steps aside.
        let _ = raise(signal);
        let _ = raise(signal);
    }

    fn detach(&mut self, hold_stdout: bool) {
        if let Err(reason) = exec::detach(hold_stdout) {
            self.wire.complain(&format!("cannot start a grandchild: {reason}"));
        }
    }

    fn delta(&mut self, thread_id: &str, turn_id: &str, text: &str) {
        self.serial += 1;
        let fresh = format!("msg_{}", self.serial);
        let Some(turn) = self.threads.get_mut(thread_id).and_then(|thread| thread.turn.as_mut()) else {
            return;
        };
        let starts = turn.message.is_none();
        let (id, so_far) = turn.message.get_or_insert((fresh, String::new()));
        so_far.push_str(text);
        let id = id.clone();
        if starts {
            let item = turn.agent_message("", false);
            self.item_started(thread_id, turn_id, item);
        }
        self.wire.notify(
            "item/agentMessage/delta",
            json!({"threadId": thread_id, "turnId": turn_id, "itemId": id, "delta": text}),
        );
    }

    /// Starts a thread that nobody asked for. As with the real server it is never announced, and its first
    /// sign is a status; the item of its parent that names it comes a little later.
    fn sub_agent(&mut self, parent: &str, turn_id: &str, prompt: &str) {
        let steps = match turn::steps(prompt) {
            Ok(steps) => steps,
            Err(reason) => return self.wire.complain(&format!("in the prompt of a sub-agent: {reason}")),
        };
        let (child, child_turn) = (self.uuid(), self.uuid());
        let item = |status: &str, receivers: Value| {
            json!({"type": "collabAgentToolCall", "id": format!("call_{child}"), "tool": "spawnAgent",
                   "status": status, "senderThreadId": parent, "receiverThreadIds": receivers,
                   "prompt": prompt, "model": "fake-model", "agentsStates": {},
                   "startedAtMs": now_ms(), "completedAtMs": null})
        };
        self.item_started(parent, turn_id, item("inProgress", json!([])));
        let Some(source) = self.threads.get(parent) else { return };
        let mut thread = Thread::new(child.clone(), &source.cwd);
        thread.parent = Some(parent.to_owned());
        self.threads.insert(child.clone(), thread);
        self.status(&child);
        self.item_completed(parent, turn_id, item("completed", json!([child])));
        self.begin(&child, Turn::new(child_turn, Some(turn_id.to_owned()), steps), prompt);
    }

    /// Ends a thread's turn, when it has one.
    fn end_turn(&mut self, thread_id: &str, status: &str) {
        let Some(thread) = self.threads.get_mut(thread_id) else { return };
        let Some(turn) = thread.turn.take() else { return };
        thread.last_turn = Some(turn.id.clone());
        self.status(thread_id);
        self.wire.notify("turn/completed", json!({"threadId": thread_id, "turn": turn.json(status)}));
        if let Some((request, _)) = turn.approval {
            self.wire.notify("serverRequest/resolved", json!({"threadId": thread_id, "requestId": request}));
        }
    }

    fn ask(&mut self, thread_id: &str, turn_id: &str, request: i64, item: &Value) {
        self.wire.message(&json!({
            "method": "item/commandExecution/requestApproval", "id": request,
            "params": {"kind": "command", "threadId": thread_id, "turnId": turn_id, "itemId": item["id"],
                       "startedAtMs": item["startedAtMs"], "environmentId": "local",
                       "command": item["command"], "cwd": item["cwd"], "commandActions": item["commandActions"],
                       "availableDecisions": ["accept", "decline", "cancel"]}}));
    }

    fn status(&mut self, thread_id: &str) {
        if let Some(thread) = self.threads.get(thread_id) {
            let params = json!({"threadId": thread_id, "status": thread.status()});
            self.wire.notify("thread/status/changed", params);
        }
    }

    fn item_started(&mut self, thread_id: &str, turn_id: &str, item: Value) {
        let params = json!({"item": item, "threadId": thread_id, "turnId": turn_id, "startedAtMs": now_ms()});
        self.wire.notify("item/started", params);
    }

    fn item_completed(&mut self, thread_id: &str, turn_id: &str, item: Value) {
        let params = json!({"item": item, "threadId": thread_id, "turnId": turn_id,
                            "contentTokenCount": null, "completedAtMs": now_ms()});
        self.wire.notify("item/completed", params);
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

/// Adds more input to a running turn; one that hangs goes on with it.
fn join(turn: &mut Turn, mut steps: VecDeque<Step>) {
    // The end that the turn already has stays its end.
    if turn.steps.back() == Some(&Step::Complete) {
        steps.pop_back();
        let end = turn.steps.pop_back();
        turn.steps.append(&mut steps);
        turn.steps.extend(end);
    } else {
        turn.steps.append(&mut steps);
    }
    if turn.approval.is_none() {
        turn.due.get_or_insert_with(Instant::now);
    }
}

fn scripted(prompt: &str) -> Result<VecDeque<Step>, Refusal> {
    turn::steps(prompt).map_err(|reason| Refusal::new(format!("fake-codex: {reason}")))
}

fn folder(params: &Value) -> String {
    let own = || std::env::current_dir().map(|folder| folder.display().to_string());
    params["cwd"].as_str().map_or_else(|| own().unwrap_or_default(), str::to_owned)
}

/// Length of the real server's queue of messages.
const QUEUE: usize = 128;

/// Exit code of a strict server that has something to complain about.
const STRICT: u8 = 97;
