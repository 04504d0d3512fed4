//! What one client has sent, must get, and has got: a value without I/O, so that it can be shown to fail.
//!
//! The daemon reads a client's lines in order. An answer therefore proves that everything the client had sent before
//! was read; only for what is proven so can an answer be expected when a connection ends.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::violation::{Violation, ViolationKind};

/// How a client's run was meant to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It left by itself and has everything; nothing may have disturbed it.
    Served,
    /// The daemon ended and has sent a shutdown notice before.
    Notified,
    /// As [`Fate::Notified`], and its turns ended by themselves or were interrupted: the upstream was there to report
    /// it.
    Drained,
    /// As [`Fate::Notified`], but the daemon may have ended before it had accepted the client.
    Late,
    /// The daemon was killed: the connection ends, and nothing more is promised.
    Cut,
    /// It ended its sending half: its requests are answered.
    HalfClosed,
    /// It was hit by a fault of its own: no reply is expected, but nothing wrong may have come either.
    Hit,
}

/// What a request is for, as far as its answer shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Any result will do.
    Any,
    /// A thread of its own.
    Thread,
    /// To look on at this thread.
    Watch(String),
    /// This thread is read.
    Read(String),
    /// A turn in this thread.
    Turn {
        /// The thread.
        thread: String,
        /// The word of its numbered deltas, and their number.
        word: String,
        /// How many, without the echo.
        deltas: usize,
    },
    /// The result holds this text.
    Says(String),
    /// A process with this handle, which ends with this code.
    Process {
        /// Its handle.
        handle: String,
        /// Its exit code.
        code: i64,
    },
    /// Changes of this path are reported from now on.
    Path(String),
    /// This turn is interrupted by its own client.
    Interrupt(String),
    /// May run when the client leaves.
    Background,
    /// May be refused as too much.
    Flood,
}

/// The accounting of one client.
#[derive(Clone, Debug)]
pub struct ClientAccounting {
    name: String,
    requests: BTreeMap<i64, Request>,
    /// Those without an answer.
    open: BTreeSet<i64>,
    /// The highest serial that was surely read.
    proven: u64,
    serial: u64,
    threads: BTreeSet<String>,
    watched: BTreeSet<String>,
    turns: BTreeMap<String, Turn>,
    processes: BTreeMap<String, (i64, u32)>,
    paths: BTreeSet<String>,
    server_requests: BTreeMap<String, (u32, u32)>,
    /// Threads of messages that came before it was known whose they are.
    foreign: BTreeMap<String, String>,
    interrupted: BTreeSet<String>,
    /// The last status of each thread.
    statuses: BTreeMap<String, String>,
    shutdown_notices: u32,
    ended: Option<String>,
    violations: Vec<Violation>,
}

#[derive(Clone, Debug)]
struct Request {
    serial: u64,
    method: String,
    purpose: Purpose,
    tag: String,
    answers: u32,
    /// `None` while there is none; else the error's code, 0 for a result.
    outcome: Option<i64>,
    delivered: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct Turn {
    thread: String,
    own: bool,
    word: String,
    deltas: usize,
    seen: Vec<String>,
    ends: u32,
    status: String,
    synthetic: bool,
    /// The message of the error that codexd has written for it.
    reason: Option<String>,
}

/// A request as the upstream may have seen it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Stands in its parameters, and nowhere else.
    pub tag: String,
    /// It was answered with a result.
    pub done: bool,
    /// It was answered with the claim that it never reached the upstream.
    pub denied: bool,
    /// It waits its turn among the other requests of its client.
    pub ordered: bool,
}

/// What is expected and received, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Answers expected.
    pub expected: u64,
    /// Answers received.
    pub given: u64,
    /// Turns that were opened and whose end was expected.
    pub turns: u64,
    /// Ends of them.
    pub ends: u64,
    /// Deltas that came.
    pub deltas: u64,
}

impl Sums {
    pub(crate) fn add(&mut self, more: Sums) {
        self.expected += more.expected;
        self.given += more.given;
        self.turns += more.turns;
        self.ends += more.ends;
        self.deltas += more.deltas;
    }
}

impl ClientAccounting {
    /// Starts the accounting of a client.
    pub fn new(name: &str) -> ClientAccounting {
        ClientAccounting {
            name: name.to_owned(),
            requests: BTreeMap::new(),
            open: BTreeSet::new(),
            proven: 0,
            serial: 0,
            threads: BTreeSet::new(),
            watched: BTreeSet::new(),
            turns: BTreeMap::new(),
            processes: BTreeMap::new(),
            paths: BTreeSet::new(),
            server_requests: BTreeMap::new(),
            foreign: BTreeMap::new(),
            interrupted: BTreeSet::new(),
            statuses: BTreeMap::new(),
            shutdown_notices: 0,
            ended: None,
            violations: Vec::new(),
        }
    }

    // What the client does.

    /// Notes a request before it is written.
    pub fn sent(&mut self, id: i64, method: &str, tag: &str, purpose: Purpose) {
        self.serial += 1;
        match &purpose {
            Purpose::Watch(thread) => drop(self.watched.insert(thread.clone())),
            Purpose::Process { handle, code } => drop(self.processes.insert(handle.clone(), (*code, 0))),
            Purpose::Path(path) => drop(self.paths.insert(path.clone())),
            Purpose::Interrupt(turn) => drop(self.interrupted.insert(turn.clone())),
            _ => {}
        }
        let (method, tag) = (method.to_owned(), tag.to_owned());
        let request =
            Request { serial: self.serial, method, purpose, tag, answers: 0, outcome: None, delivered: None };
        self.requests.insert(id, request);
        self.open.insert(id);
    }

    /// Notes that the daemon is known to have read everything so far.
    pub fn prove(&mut self) {
        self.proven = self.serial;
    }

    /// Notes the end of the connection, and how it ended.
    pub fn end(&mut self, how: &str) {
        self.ended.get_or_insert_with(|| how.to_owned());
    }

    /// Notes that this did not come in time.
    pub fn hang(&mut self, what: &str) {
        let open: Vec<String> =
            self.open_requests().map(|(id, it)| format!("{} ({id})", it.method)).collect();
        let turns: Vec<&String> = self.open_turns().collect();
        let text = format!("waits for {what}; open requests: {open:?}, open turns: {turns:?}");
        self.break_promise(ViolationKind::Hang, &text);
    }

    /// Notes what else went wrong for this client.
    pub fn break_promise(&mut self, kind: ViolationKind, text: &str) {
        self.violations.push(Violation::new(kind, format!("client {}: {text}", self.name)));
    }

    // What the client gets.

    /// Takes a message.
    pub fn received(&mut self, message: &Value) {
        match (message["method"].as_str(), message.get("id")) {
            (Some(method), Some(id)) => self.server_request(method, &id.to_string(), &message["params"]),
            (Some(method), None) => self.notification(method, &message["params"]),
            (None, Some(id)) => self.answer(id, message),
            (None, None) => {
                self.break_promise(ViolationKind::Stray, &format!("neither method nor id: {message}"))
            }
        }
    }

    fn answer(&mut self, id: &Value, message: &Value) {
        let known = id.as_i64().and_then(|id| self.requests.get_mut(&id));
        let Some(request) = known else {
            let text = format!("an answer to {id}, which was never asked: {}", short(message));
            return self.break_promise(ViolationKind::Stray, &text);
        };
        request.answers += 1;
        self.proven = self.proven.max(request.serial);
        if let Some(id) = id.as_i64() {
            self.open.remove(&id);
        }
        if request.answers > 1 {
            let text = format!("`{}` ({id}) was answered {} times", request.method, request.answers);
            return self.break_promise(ViolationKind::AnsweredTwice, &text);
        }
        let error = &message["error"];
        if !error.is_null() {
            request.outcome = Some(error["code"].as_i64().unwrap_or(-1));
            request.delivered = error["data"]["codexd"]["delivered"].as_str().map(str::to_owned);
            return;
        }
        request.outcome = Some(0);
        let (purpose, method) = (request.purpose.clone(), request.method.clone());
        self.result(&method, purpose, &message["result"]);
    }

    fn result(&mut self, method: &str, purpose: Purpose, result: &Value) {
        match purpose {
            Purpose::Thread => {
                if let Some(id) = result["thread"]["id"].as_str() {
                    self.threads.insert(id.to_owned());
                } else {
                    self.break_promise(ViolationKind::Stray, &format!("`{method}` gave {}", short(result)));
                }
            }
            Purpose::Turn { thread, word, deltas } => {
                let Some(id) = result["turn"]["id"].as_str() else {
                    return self
                        .break_promise(ViolationKind::Stray, &format!("`{method}` gave {}", short(result)));
                };
                let turn = self.turns.entry(id.to_owned()).or_default();
                (turn.thread, turn.own, turn.word, turn.deltas) = (thread, true, word, deltas);
            }
            Purpose::Read(thread) | Purpose::Watch(thread) if result["thread"]["id"] != thread.as_str() => {
                let text = format!("`{method}` of {thread} gave {}", short(result));
                self.break_promise(ViolationKind::Stray, &text);
            }
            Purpose::Says(text) if !result.to_string().contains(&text) => {
                let text = format!("`{method}` should say {text} and gave {}", short(result));
                self.break_promise(ViolationKind::Stray, &text);
            }
            _ => {}
        }
    }

    fn server_request(&mut self, method: &str, id: &str, params: &Value) {
        let thread = params["threadId"].as_str().unwrap_or_default();
        self.belongs(method, thread);
        let (asked, _) = self.server_requests.entry(id.to_owned()).or_default();
        *asked += 1;
        let asked = *asked;
        // A client that only watches gets the open server requests again when it joins.
        if asked > 1 && !self.watched.contains(thread) {
            self.break_promise(
                ViolationKind::Doubled,
                &format!("the server request {id} was asked {asked} times"),
            );
        }
    }

    fn notification(&mut self, method: &str, params: &Value) {
        let thread = params["threadId"].as_str().unwrap_or_default();
        match method {
            "notifications/broker/shuttingDown" => self.shutdown_notices += 1,
            "item/agentMessage/delta" => {
                let text = params["delta"].as_str().unwrap_or_default();
                let repeated = params["codexd"]["reason"] == "resumed";
                if let Some(turn) = self.turn_of(method, thread, &params["turnId"]) {
                    if repeated {
                        turn.seen.extend(parts(text));
                    } else {
                        turn.seen.push(text.to_owned());
                    }
                }
            }
            "turn/completed" => {
                let end = &params["turn"];
                let (status, synthetic) = (end["status"].as_str(), params["codexd"]["synthetic"] == true);
                let status = status.unwrap_or_default().to_owned();
                self.belongs(method, thread);
                let Some(id) = end["id"].as_str() else { return };
                let turn = self.turns.entry(id.to_owned()).or_default();
                turn.ends += 1;
                (turn.status, turn.synthetic) = (status, synthetic);
                thread.clone_into(&mut turn.thread);
                let ends = turn.ends;
                if ends > 1 {
                    self.break_promise(
                        ViolationKind::TurnEndedTwice,
                        &format!("turn {id} ended {ends} times"),
                    );
                }
                if synthetic {
                    self.synthetic_end(id, thread, end);
                }
            }
            // The upstream may have written one itself right before it was lost.
            "error" if params["codexd"]["synthetic"] == true => {
                let reason = params["error"]["message"].as_str().unwrap_or_default().to_owned();
                if let Some(turn) = self.turn_of(method, thread, &params["turnId"])
                    && turn.reason.replace(reason).is_some()
                {
                    self.break_promise(
                        ViolationKind::Doubled,
                        &format!("the error of turn {}", params["turnId"]),
                    );
                }
            }
            "thread/status/changed" => {
                let status = params["status"]["type"].as_str().unwrap_or_default();
                self.statuses.insert(thread.to_owned(), status.to_owned());
            }
            "turn/started" => {
                self.belongs(method, thread);
                let id = &params["turn"]["id"];
                self.turn_of(method, thread, id);
            }
            "serverRequest/resolved" => {
                self.belongs(method, thread);
                let (_, resolved) = self.server_requests.entry(params["requestId"].to_string()).or_default();
                *resolved += 1;
                if *resolved > 1 {
                    let text = format!("the server request {} was resolved twice", params["requestId"]);
                    self.break_promise(ViolationKind::Doubled, &text);
                }
            }
            "process/exited" => {
                let handle = params["processHandle"].as_str().unwrap_or_default();
                let code = params["exitCode"].as_i64();
                let text = match self.processes.get_mut(handle) {
                    None => format!("an unknown process: {params}"),
                    // A process of a codex that was lost has no exit code: codexd ends it for its client.
                    Some((wanted, _)) if Some(*wanted) != code && params["codexd"]["synthetic"] != true => {
                        format!("not {wanted}: {params}")
                    }
                    Some((_, 0)) => {
                        self.processes.insert(handle.to_owned(), (code.unwrap_or_default(), 1));
                        return;
                    }
                    Some(_) => {
                        return self.break_promise(ViolationKind::Doubled, &format!("twice: {params}"));
                    }
                };
                self.break_promise(ViolationKind::Stray, &text);
            }
            "fs/changed" => {
                let path = params["changedPaths"][0].as_str().unwrap_or_default();
                if !self.paths.contains(path) {
                    self.break_promise(ViolationKind::Stray, &format!("a change of {path}"));
                }
            }
            _ if method.starts_with("item/") => {
                if let Some(id) = params["turnId"].as_str() {
                    let id = Value::from(id);
                    self.turn_of(method, thread, &id);
                }
            }
            _ => {}
        }
    }

    /// Clients act on what comes before the end of a turn: a failed one has its reason in an `error`, and the
    /// status of its thread says so.
    fn synthetic_end(&mut self, id: &str, thread: &str, end: &Value) {
        let reason = self.turns.get(id).and_then(|turn| turn.reason.as_deref());
        let status = self.statuses.get(thread).map_or("", String::as_str);
        let as_native = match end["status"].as_str() {
            Some("failed") => status == "systemError" && reason == end["error"]["message"].as_str(),
            _ => status == "idle" && reason.is_none(),
        };
        if !as_native {
            let text = format!("turn {id} ended after the status {status:?} and the error {reason:?}: {end}");
            self.break_promise(ViolationKind::WithoutNotice, &text);
        }
    }

    /// Returns the turn that a message is of, unless it has ended.
    fn turn_of(&mut self, method: &str, thread: &str, id: &Value) -> Option<&mut Turn> {
        self.belongs(method, thread);
        let id = id.as_str()?.to_owned();
        let ended = self.turns.get(&id).is_some_and(|turn| turn.ends > 0);
        if ended {
            self.break_promise(
                ViolationKind::TurnEndedTwice,
                &format!("`{method}` after the end of turn {id}"),
            );
            return None;
        }
        let turn = self.turns.entry(id).or_default();
        thread.clone_into(&mut turn.thread);
        Some(turn)
    }

    /// A thread may be this client's own and its answer still on the way.
    fn belongs(&mut self, method: &str, thread: &str) {
        if !self.threads.contains(thread) && !self.watched.contains(thread) {
            self.foreign.entry(thread.to_owned()).or_insert_with(|| method.to_owned());
        }
    }

    // Queries of the client.

    /// Returns the result of a request: `None` while there is none, else whether it is no error.
    pub fn is_done(&self, id: i64) -> Option<bool> {
        self.requests.get(&id).and_then(|request| request.outcome).map(|code| code == 0)
    }

    /// Returns the threads of its own, in the order of their names.
    pub fn threads(&self) -> impl Iterator<Item = &String> {
        self.threads.iter()
    }

    /// Returns whether a turn of this thread is open, of whomever.
    pub fn is_busy(&self, thread: &str) -> bool {
        let asked = self
            .open_requests()
            .any(|(_, it)| matches!(&it.purpose, Purpose::Turn { thread: other, .. } if other == thread));
        asked || self.turns.values().any(|turn| turn.thread == thread && turn.ends == 0)
    }

    /// Returns the open turn whose deltas carry this word.
    pub fn turn_with(&self, word: &str) -> Option<(String, String)> {
        let found = self.turns.iter().find(|(_, turn)| turn.own && turn.word == word && turn.ends == 0);
        found.map(|(id, turn)| (id.clone(), turn.thread.clone()))
    }

    /// Returns whether a turn of this thread has come to its end.
    pub fn has_ended_turn(&self, thread: &str) -> bool {
        self.turns.values().any(|turn| turn.thread == thread && turn.ends > 0)
    }

    /// Returns whether the upstream has ended a turn of a thread, which it keeps then.
    pub fn has_run(&self, thread: &str) -> bool {
        self.turns.values().any(|turn| turn.thread == thread && turn.ends > 0 && !turn.synthetic)
    }

    /// Returns whether everything that was asked is answered and every own turn and process ended; what may
    /// run in the background is not looked at.
    pub fn is_complete(&self) -> bool {
        self.open_requests().all(|(_, request)| request.purpose == Purpose::Background)
            && self.open_turns().next().is_none()
            && self.open_processes().next().is_none()
    }

    /// Returns whether every request has its answer, also those in the background.
    pub fn is_answered(&self) -> bool {
        self.open_requests().next().is_none()
    }

    /// Returns whether the client got a shutdown notice.
    pub fn has_shutdown_notice(&self) -> bool {
        self.shutdown_notices > 0
    }

    fn deltas(&self) -> usize {
        self.turns.values().map(|turn| turn.seen.len()).sum()
    }

    fn open_requests(&self) -> impl Iterator<Item = (&i64, &Request)> {
        self.open.iter().filter_map(|id| self.requests.get_key_value(id))
    }

    fn open_turns(&self) -> impl Iterator<Item = &String> {
        self.turns.iter().filter(|(_, turn)| turn.own && turn.ends == 0).map(|(id, _)| id)
    }

    fn open_processes(&self) -> impl Iterator<Item = &String> {
        let started = |handle: &str| {
            self.requests.values().any(|request| {
                matches!(&request.purpose, Purpose::Process { handle: own, .. } if own == handle)
                    && request.outcome == Some(0)
            })
        };
        self.processes.iter().filter(move |(handle, (_, ends))| *ends == 0 && started(handle)).map(|it| it.0)
    }

    // The end.

    /// Ends the accounting: returns the violations, given how this client's run was meant to end.
    pub fn close(mut self, fate: Fate) -> (Vec<Violation>, Sums, Vec<Trace>) {
        self.check_owners();
        self.check_deltas();
        let expected: Vec<i64> = self.expected(fate);
        let sums = self.sums(&expected, fate);
        match fate {
            Fate::Served => self.check_served(),
            Fate::Notified | Fate::Drained if self.shutdown_notices == 0 => {
                let text = format!("the connection ended ({:?}) without a shutdown notice", self.ended);
                self.break_promise(ViolationKind::WithoutNotice, &text);
            }
            Fate::HalfClosed if self.ended.is_none() => {
                self.break_promise(ViolationKind::Hang, "the connection did not end after the half-close");
            }
            _ => {}
        }
        // Once when the drain begins, and once at the end.
        if self.shutdown_notices > 2 {
            self.break_promise(
                ViolationKind::Doubled,
                &format!("the shutdown notice came {} times", self.shutdown_notices),
            );
        }
        for id in expected {
            let Some(request) = self.requests.get(&id) else { continue };
            if request.answers == 0 {
                let text = format!("`{}` ({id}, {})", request.method, request.tag);
                self.break_promise(ViolationKind::Unanswered, &text);
            }
        }
        if fate == Fate::Drained {
            let cut = self.turns.iter().filter(|(_, turn)| turn.own && turn.synthetic);
            let cut: Vec<String> =
                cut.map(|(id, turn)| format!("turn {id} ended as {}", turn.status)).collect();
            for text in cut {
                self.break_promise(
                    ViolationKind::Disturbed,
                    &format!("{text} in the drain, and not by the upstream"),
                );
            }
        }
        if matches!(fate, Fate::Served | Fate::Notified | Fate::Drained) {
            let open: Vec<String> = self.open_turns().cloned().collect();
            for turn in open {
                self.break_promise(ViolationKind::TurnWithoutEnd, &turn);
            }
        }
        if matches!(fate, Fate::Notified | Fate::Drained) {
            let active: Vec<String> =
                self.statuses.iter().filter(|(_, it)| *it == "active").map(|(id, _)| id.clone()).collect();
            for thread in active {
                self.break_promise(
                    ViolationKind::Lost,
                    &format!("the status of thread {thread} after `active`"),
                );
            }
        }
        let traces = self.requests.values().filter(|request| !request.tag.is_empty());
        let traces = traces.map(Request::trace).collect();
        (self.violations, sums, traces)
    }

    fn expected(&self, fate: Fate) -> Vec<i64> {
        let is_expected = |request: &Request| match fate {
            Fate::Served => request.purpose != Purpose::Background,
            Fate::HalfClosed => true,
            Fate::Notified | Fate::Drained | Fate::Late => request.serial <= self.proven,
            Fate::Cut | Fate::Hit => false,
        };
        self.requests.iter().filter(|(_, request)| is_expected(request)).map(|(id, _)| *id).collect()
    }

    fn sums(&self, expected: &[i64], fate: Fate) -> Sums {
        let own = || self.turns.values().filter(|turn| turn.own);
        let due = matches!(fate, Fate::Served | Fate::Notified | Fate::Drained);
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let given = expected.iter().filter(|id| self.requests.get(id).is_some_and(|it| it.answers > 0));
        Sums {
            expected: count(expected.len()),
            given: count(given.count()),
            turns: if due { count(own().count()) } else { 0 },
            ends: if due { count(own().filter(|turn| turn.ends > 0).count()) } else { 0 },
            deltas: count(self.deltas()),
        }
    }

    /// Nothing may have disturbed a client that was not concerned.
    fn check_served(&mut self) {
        if let Some(how) = self.ended.clone() {
            self.break_promise(
                ViolationKind::WithoutNotice,
                &format!("the connection ended while it worked: {how}"),
            );
        }
        let errors: Vec<String> = self
            .requests
            .iter()
            .filter(|(_, it)| !matches!(it.purpose, Purpose::Flood | Purpose::Interrupt(_)))
            .filter_map(|(id, it)| Some((id, it, it.outcome.filter(|code| *code != 0)?)))
            .map(|(id, it, code)| format!("`{}` ({id}) was refused with {code}", it.method))
            .collect();
        let turns = self.turns.iter().filter(|(_, turn)| turn.own && turn.ends > 0);
        let ends: Vec<String> = turns
            .filter(|(id, turn)| {
                let meant = match turn.status.as_str() {
                    "completed" => true,
                    "interrupted" => self.interrupted.contains(*id),
                    _ => false,
                };
                turn.synthetic || !meant
            })
            .map(|(id, turn)| format!("turn {id} ended as {} ({})", turn.status, turn.synthetic))
            .collect();
        for text in errors.into_iter().chain(ends) {
            self.break_promise(ViolationKind::Disturbed, &text);
        }
        let left: Vec<String> = self.open_processes().cloned().collect();
        for handle in left {
            self.break_promise(ViolationKind::Lost, &format!("the end of process {handle}"));
        }
    }

    fn check_owners(&mut self) {
        for (thread, method) in std::mem::take(&mut self.foreign) {
            if !self.threads.contains(&thread) && !self.watched.contains(&thread) {
                // A start that was not answered any more has a thread, too.
                let starting = self.open_requests().any(|(_, it)| it.purpose == Purpose::Thread);
                if !starting {
                    self.break_promise(ViolationKind::Stray, &format!("`{method}` of the thread {thread}"));
                }
            }
        }
    }

    fn check_deltas(&mut self) {
        let broken: Vec<(ViolationKind, String)> = self
            .turns
            .iter()
            .filter_map(|(id, turn)| turn.check().map(|(kind, text)| (kind, format!("turn {id}: {text}"))))
            .collect();
        for (kind, text) in broken {
            self.break_promise(kind, &text);
        }
    }
}

impl Request {
    fn trace(&self) -> Trace {
        Trace {
            tag: self.tag.clone(),
            done: self.outcome == Some(0),
            denied: self.delivered.as_deref() == Some("no"),
            // Long-running requests pass those that wait.
            ordered: !self.method.starts_with("command/"),
        }
    }
}

impl Turn {
    /// Deltas are `WORD0 `, `WORD1 `, ... and at last the echo.
    fn check(&self) -> Option<(ViolationKind, String)> {
        let (mut word, mut next) = match self.own {
            true => (self.word.clone(), Some(0)),
            // A client that only watches may have joined in the middle.
            false => (String::new(), None),
        };
        let mut echoed = false;
        for delta in &self.seen {
            if echoed {
                return Some((ViolationKind::Doubled, format!("{delta:?} after the echo")));
            }
            if delta.starts_with("| echo: ") {
                if self.own && next != Some(self.deltas) {
                    return Some((ViolationKind::Lost, format!("the echo came after delta {next:?}")));
                }
                echoed = true;
                continue;
            }
            let text = delta.trim_end();
            let digits = text.len() - text.trim_end_matches(|it: char| it.is_ascii_digit()).len();
            let (own, number) = text.split_at(text.len() - digits);
            let Ok(number) = number.parse::<usize>() else {
                return Some((ViolationKind::Stray, format!("{delta:?}")));
            };
            if word.is_empty() {
                own.clone_into(&mut word);
            }
            if word != own {
                return Some((ViolationKind::Stray, format!("{delta:?} among those of {word}")));
            }
            match next {
                Some(next) if number > next => {
                    return Some((ViolationKind::Lost, format!("{delta:?}, not {next}")));
                }
                Some(next) if number < next => {
                    return Some((ViolationKind::Doubled, format!("{delta:?}, not {next}")));
                }
                _ => next = Some(number + 1),
            }
        }
        let complete = self.ends > 0 && self.status == "completed";
        if complete && !echoed && (self.own || !self.seen.is_empty()) {
            return Some((ViolationKind::Lost, format!("completed without its echo, after {next:?} deltas")));
        }
        None
    }
}

/// Returns the deltas of which a text was made.
fn parts(text: &str) -> Vec<String> {
    let (words, echo) = text.split_at(text.find("| echo: ").unwrap_or(text.len()));
    let parts = words.split_inclusive(' ').chain(Some(echo).filter(|echo| !echo.is_empty()));
    parts.map(str::to_owned).collect()
}

fn short(value: &Value) -> String {
    value.to_string().chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kinds(accounting: ClientAccounting, fate: Fate) -> Vec<ViolationKind> {
        accounting.close(fate).0.into_iter().map(|violation| violation.kind).collect()
    }

    fn answer(id: i64) -> Value {
        json!({"id": id, "result": {}})
    }

    /// Returns an accounting with one thread and one turn of two deltas in it.
    fn with_turn() -> ClientAccounting {
        let mut accounting = ClientAccounting::new("c");
        accounting.sent(1, "thread/start", "", Purpose::Thread);
        accounting.received(&json!({"id": 1, "result": {"thread": {"id": "t"}}}));
        let (thread, word) = ("t".to_owned(), "w".to_owned());
        accounting.sent(2, "turn/start", "", Purpose::Turn { thread, word, deltas: 2 });
        accounting.received(&json!({"id": 2, "result": {"turn": {"id": "u"}}}));
        accounting
    }

    fn delta(text: &str) -> Value {
        let params = json!({"threadId": "t", "turnId": "u", "delta": text});
        json!({"method": "item/agentMessage/delta", "params": params})
    }

    fn completed(status: &str) -> Value {
        let params = json!({"threadId": "t", "turn": {"id": "u", "status": status}});
        json!({"method": "turn/completed", "params": params})
    }

    /// What codexd writes for a turn that failed because the upstream was lost, in order.
    const FAILURE: [&str; 3] = ["thread/status/changed", "error", "turn/completed"];

    /// The upstream is lost, and codexd writes these of the turn.
    fn lost(accounting: &mut ClientAccounting, frames: &[&str]) {
        let error = json!({"message": "gone"});
        for method in frames {
            let mut params = match *method {
                "error" => json!({"turnId": "u", "error": error, "willRetry": false}),
                "turn/completed" => json!({"turn": {"id": "u", "status": "failed", "error": error}}),
                _ => json!({"status": {"type": "systemError"}}),
            };
            (params["threadId"], params["codexd"]) = (json!("t"), json!({"synthetic": true}));
            accounting.received(&json!({"method": method, "params": params}));
        }
        accounting.received(&json!({"method": "notifications/broker/shuttingDown", "params": {}}));
    }

    fn turn(deltas: &[&str]) -> Vec<ViolationKind> {
        let mut accounting = with_turn();
        for text in deltas {
            accounting.received(&delta(text));
        }
        accounting.received(&completed("completed"));
        kinds(accounting, Fate::Served)
    }

    #[test]
    fn one_answer_to_each_request_is_in_order() {
        let mut accounting = ClientAccounting::new("c");
        accounting.sent(1, "model/list", "", Purpose::Any);
        accounting.received(&answer(1));
        assert_eq!(kinds(accounting, Fate::Served), []);
        assert_eq!(turn(&["w0 ", "w1 ", "| echo: x"]), []);
    }

    #[test]
    fn a_second_answer_is_found() {
        let mut accounting = ClientAccounting::new("c");
        accounting.sent(1, "model/list", "", Purpose::Any);
        accounting.received(&answer(1));
        accounting.received(&answer(1));
        for fate in [Fate::Served, Fate::Notified, Fate::Cut, Fate::Hit] {
            assert!(kinds(accounting.clone(), fate).contains(&ViolationKind::AnsweredTwice), "{fate:?}");
        }
    }

    #[test]
    fn a_missing_answer_is_found() {
        let mut accounting = ClientAccounting::new("c");
        accounting.sent(1, "model/list", "", Purpose::Any);
        assert_eq!(kinds(accounting.clone(), Fate::Served), [ViolationKind::Unanswered]);
        assert_eq!(kinds(accounting.clone(), Fate::Cut), []);
        // Perhaps it was never read ...
        accounting.received(&json!({"method": "notifications/broker/shuttingDown", "params": {}}));
        assert_eq!(kinds(accounting.clone(), Fate::Notified), []);
        // ... but not if what came after it was.
        accounting.sent(2, "model/list", "", Purpose::Any);
        accounting.received(&answer(2));
        assert_eq!(kinds(accounting, Fate::Notified), [ViolationKind::Unanswered]);
    }

    #[test]
    fn an_answer_to_somebody_else_is_found() {
        let mut accounting = ClientAccounting::new("c");
        accounting.received(&answer(7));
        assert_eq!(kinds(accounting, Fate::Hit), [ViolationKind::Stray]);
        let mut accounting = ClientAccounting::new("c");
        accounting.sent(1, "command/exec", "", Purpose::Says("mine".to_owned()));
        accounting.received(&json!({"id": 1, "result": {"stdout": "yours"}}));
        assert_eq!(kinds(accounting, Fate::Served), [ViolationKind::Stray]);
    }

    #[test]
    fn lost_doubled_reordered_and_strange_deltas_are_found() {
        assert_eq!(turn(&["w1 ", "| echo: x"]), [ViolationKind::Lost]);
        assert_eq!(turn(&["w0 ", "| echo: x"]), [ViolationKind::Lost]);
        assert_eq!(turn(&["w0 ", "w1 "]), [ViolationKind::Lost]);
        assert_eq!(turn(&["w0 ", "w0 ", "w1 ", "| echo: x"]), [ViolationKind::Doubled]);
        assert_eq!(turn(&["w0 ", "w1 ", "| echo: x", "| echo: x"]), [ViolationKind::Doubled]);
        assert_eq!(turn(&["w0 ", "v1 ", "| echo: x"]), [ViolationKind::Stray]);
    }

    #[test]
    fn a_process_that_ends_twice_and_a_change_of_another_path_are_found() {
        let mut accounting = ClientAccounting::new("c");
        let exited = json!({"method": "process/exited", "params": {"processHandle": "p", "exitCode": 3}});
        accounting.sent(1, "process/spawn", "", Purpose::Process { handle: "p".to_owned(), code: 3 });
        accounting.received(&answer(1));
        assert_eq!(kinds(accounting.clone(), Fate::Served), [ViolationKind::Lost]);
        accounting.received(&exited);
        assert_eq!(kinds(accounting.clone(), Fate::Served), []);
        accounting.received(&exited);
        accounting.received(&json!({"method": "fs/changed", "params": {"changedPaths": ["/y"]}}));
        assert_eq!(kinds(accounting, Fate::Hit), [ViolationKind::Doubled, ViolationKind::Stray]);
    }

    #[test]
    fn a_message_of_a_thread_of_others_is_found() {
        let mut accounting = ClientAccounting::new("c");
        accounting.received(&delta("w0 "));
        assert_eq!(kinds(accounting, Fate::Served), [ViolationKind::Stray]);
    }

    #[test]
    fn a_turn_has_one_end_and_nothing_behind_it() {
        let mut accounting = with_turn();
        assert_eq!(kinds(accounting.clone(), Fate::Served), [ViolationKind::TurnWithoutEnd]);
        accounting.received(&completed("failed"));
        assert_eq!(kinds(accounting.clone(), Fate::Served), [ViolationKind::Disturbed]);
        let mut late = accounting.clone();
        late.received(&delta("w0 "));
        assert!(kinds(late, Fate::Hit).contains(&ViolationKind::TurnEndedTwice));
        accounting.received(&completed("failed"));
        assert!(kinds(accounting, Fate::Hit).contains(&ViolationKind::TurnEndedTwice));
    }

    #[test]
    fn a_turn_that_is_cut_off_in_a_drain_is_found() {
        let mut accounting = with_turn();
        lost(&mut accounting, &FAILURE);
        assert_eq!(kinds(accounting.clone(), Fate::Notified), []);
        assert_eq!(kinds(accounting, Fate::Drained), [ViolationKind::Disturbed]);
    }

    #[test]
    fn a_turn_that_codexd_ends_without_what_comes_before_it_is_found() {
        for missing in FAILURE {
            let mut accounting = with_turn();
            let frames: Vec<&str> = FAILURE.into_iter().filter(|it| *it != missing).collect();
            lost(&mut accounting, &frames);
            let expected = if missing == "turn/completed" {
                ViolationKind::TurnWithoutEnd
            } else {
                ViolationKind::WithoutNotice
            };
            assert_eq!(kinds(accounting, Fate::Notified), [expected], "without `{missing}`");
        }
        let mut accounting = with_turn();
        lost(&mut accounting, &["error", "thread/status/changed", "error", "turn/completed"]);
        assert_eq!(kinds(accounting, Fate::Notified), [ViolationKind::Doubled]);
    }

    #[test]
    fn a_thread_that_is_left_active_is_found() {
        let mut accounting = with_turn();
        accounting.received(&completed("completed"));
        let params = json!({"threadId": "other", "status": {"type": "active"}});
        accounting.received(&json!({"method": "thread/status/changed", "params": params}));
        lost(&mut accounting, &[]);
        assert!(kinds(accounting.clone(), Fate::Notified).contains(&ViolationKind::Lost));
        assert!(kinds(accounting, Fate::Drained).contains(&ViolationKind::Lost));
    }

    #[test]
    fn an_end_without_a_word_is_found() {
        let mut accounting = ClientAccounting::new("c");
        accounting.end("end of file");
        assert_eq!(kinds(accounting.clone(), Fate::Notified), [ViolationKind::WithoutNotice]);
        assert_eq!(kinds(accounting.clone(), Fate::Served), [ViolationKind::WithoutNotice]);
        assert_eq!(kinds(accounting, Fate::Cut), []);
    }
}
