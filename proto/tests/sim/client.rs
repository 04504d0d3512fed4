//! A client that knows which replies it must get, and fails at the first line that breaks a promise.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use codexd_proto::id::ClientId;
use serde_json::Value;

use crate::world::Coverage;

pub(crate) struct Request {
    pub(crate) tag: String,
    pub(crate) method: &'static str,
    pub(crate) thread: Option<String>,
    /// Connection-scoped id that it names.
    pub(crate) resource: Option<String>,
}

impl Request {
    fn opens(&self, thread: &str) -> bool {
        match self.method {
            "thread/start" | "thread/fork" => true,
            "thread/resume" => self.thread.as_deref() == Some(thread),
            _ => false,
        }
    }
}

/// What a client knows of one thread.
#[derive(Default)]
pub(crate) struct View {
    /// Number of the next message, while it is subscribed.
    pub(crate) next: Option<u64>,
    /// Messages that came before the response that subscribes it.
    early: Vec<u64>,
    pub(crate) next_status: Option<u64>,
    /// Its last status was active.
    pub(crate) active: bool,
    pub(crate) open: BTreeSet<String>,
    ended: BTreeSet<String>,
    pub(crate) asks: BTreeSet<i64>,
    /// Server requests that are to be asked again, because of its own resumes.
    repeated: BTreeMap<i64, usize>,
    /// The upstream was lost before it answered the unsubscribe: the client may have been subscribed, or not.
    uncertain: bool,
    pub(crate) gone: bool,
    /// The texts of open items that it has from their beginning.
    texts: BTreeMap<String, String>,
    /// The texts that it is to have before anything else of the thread comes, after the response that subscribed it.
    repeats: Option<BTreeMap<String, String>>,
    /// A message of it has come.
    pub(crate) seen: bool,
}

impl View {
    /// A message that is not repeated has come: everything that is repeated came before.
    fn all_is_repeated(&mut self) {
        if let Some(expected) = self.repeats.take() {
            assert_eq!(self.texts, expected, "the open items after a resume");
        }
    }

    /// An item has begun or goes on.
    fn text(&mut self, method: &str, params: &Value) {
        if method == "item/started" {
            let item = params["item"]["id"].as_str().unwrap().to_owned();
            assert_eq!(self.texts.insert(item, String::new()), None, "an item has begun twice");
        } else if let Some(text) = self.texts.get_mut(params["itemId"].as_str().unwrap()) {
            text.push_str(params["delta"].as_str().unwrap());
        }
    }
}

pub(crate) struct Client {
    pub(crate) id: ClientId,
    /// The router has accepted its `initialize`.
    pub(crate) joined: bool,
    pub(crate) initialize_sent: bool,
    /// Lines that it sent before codex was ready.
    pub(crate) early_lines: usize,
    /// It has the answer to that.
    pub(crate) initialized: bool,
    pub(crate) blocked: bool,
    pub(crate) was_blocked: bool,
    /// An operator has disconnected it.
    pub(crate) killed: bool,
    /// It asked to be detached: what it sends after that is not answered.
    pub(crate) detaching: bool,
    /// It sends nothing more.
    pub(crate) half_closed: bool,
    /// Lines that it wrote and codexd has not read.
    pub(crate) socket: VecDeque<String>,
    bytes: Vec<u8>,
    pub(crate) outstanding: BTreeMap<String, Request>,
    pub(crate) unreadable: usize,
    pub(crate) views: BTreeMap<String, View>,
    tags: BTreeSet<String>,
    pub(crate) commands: BTreeMap<String, u64>,
    pub(crate) watches: BTreeMap<String, u64>,
    pub(crate) next_broadcast: Option<u64>,
    /// Server requests that are sent to every client.
    pub(crate) calls: BTreeSet<i64>,
    pub(crate) shutdown_notices: usize,
    /// Whether an upgrade waits, as far as it was notified.
    upgrade_waits: Option<bool>,
    /// Answers with the error that the upstream is lost: tag, and whether it may have been delivered.
    pub(crate) lost: Vec<(String, String)>,
    pub(crate) requests: usize,
    /// Whether it uses the experimental interface.
    pub(crate) experimental: bool,
    /// The thread whose end codexd is writing, and the turn and reason of its error once that has come.
    synthetic: Option<(String, Option<(Value, Value)>)>,
    /// Threads that codexd has ended.
    lost_threads: BTreeSet<String>,
}

impl Client {
    pub(crate) fn new(id: ClientId) -> Client {
        Client {
            id,
            joined: false,
            initialize_sent: false,
            early_lines: 0,
            initialized: false,
            blocked: false,
            was_blocked: false,
            killed: false,
            detaching: false,
            half_closed: false,
            socket: VecDeque::new(),
            bytes: Vec::new(),
            outstanding: BTreeMap::new(),
            unreadable: 0,
            views: BTreeMap::new(),
            tags: BTreeSet::new(),
            commands: BTreeMap::new(),
            watches: BTreeMap::new(),
            next_broadcast: None,
            calls: BTreeSet::new(),
            shutdown_notices: 0,
            upgrade_waits: None,
            lost: Vec::new(),
            requests: 0,
            experimental: false,
            synthetic: None,
            lost_threads: BTreeSet::new(),
        }
    }

    pub(crate) fn asked(&mut self, id: String, request: Request) {
        self.tags.insert(request.tag.clone());
        assert!(self.outstanding.insert(id, request).is_none());
    }

    pub(crate) fn is_leaving(&self, thread: &str) -> bool {
        self.outstanding
            .values()
            .any(|r| r.method == "thread/unsubscribe" && r.thread.as_deref() == Some(thread))
    }

    /// Takes bytes off the wire, cut anywhere.
    pub(crate) fn read(&mut self, bytes: &[u8], coverage: &mut Coverage) {
        self.bytes.extend_from_slice(bytes);
        while let Some(end) = self.bytes.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.bytes.drain(..=end).collect();
            let line: Value = serde_json::from_slice(&line).expect("clients are sent whole lines of JSON");
            self.line(&line, coverage);
        }
    }

    fn line(&mut self, line: &Value, coverage: &mut Coverage) {
        let params = &line["params"];
        match (line["method"].as_str(), line.get("id")) {
            (None, Some(id)) => self.answer(id, line, coverage),
            (Some(_), Some(id)) => self.server_request(id.as_i64().unwrap(), params, coverage),
            (Some(method), None) => {
                assert!(self.joined, "{method} before initialize");
                if params["codexd"]["reason"] == "resumed" {
                    return self.repeated(method, params, coverage);
                }
                if let Some(thread) = params["threadId"].as_str() {
                    self.view(thread).all_is_repeated();
                }
                // The number of a delta is not among its parameters.
                if method == "item/agentMessage/delta" {
                    self.numbered(
                        params["threadId"].as_str().unwrap(),
                        line["emittedAtMs"].as_u64().unwrap(),
                    );
                    coverage.numbered += 1;
                }
                self.notification(method, params, coverage);
            }
            (None, None) => panic!("no message: {line}"),
        }
    }

    /// A turn that codexd ends is ended in the upstream's order: status, error, turn. One that counts as completed
    /// has no error, and no status if it was reported as idle already.
    fn synthetic_end(&mut self, thread: &str, params: &Value) {
        let turn = &params["turn"];
        let before = self.synthetic.take().filter(|(before, _)| before == thread).map(|(_, error)| error);
        match (turn["status"].as_str(), before) {
            (Some("failed"), Some(Some(error))) => {
                assert_eq!(error, (turn["id"].clone(), turn["error"].clone()))
            }
            (Some("completed"), Some(None)) => assert_eq!(params["codexd"]["inferred"], true),
            (Some("completed"), None) => assert!(self.lost_threads.insert(thread.to_owned())),
            (status, before) => panic!("{thread} ends as {status:?} after {before:?}"),
        }
    }

    // ---- answers -----------------------------------------------------------------------------------

    fn answer(&mut self, id: &Value, line: &Value, coverage: &mut Coverage) {
        if id.is_null() {
            assert!(self.unreadable > 0, "an error without an id that nobody caused");
            self.unreadable -= 1;
            return;
        }
        let request =
            self.outstanding.remove(&id.to_string()).unwrap_or_else(|| panic!("nobody asked for {line}"));
        if let Some(error) = line.get("error") {
            return self.refused(&request, error, coverage);
        }
        let result = &line["result"];
        if let Some(tag) = result["tag"].as_str() {
            assert_eq!(tag, request.tag, "the answer to another request");
        }
        coverage.answers += 1;
        match request.method {
            // It may come after the daemon has begun to stop.
            "initialize" => {
                self.joined = true;
                self.initialized = true;
            }
            "thread/start" | "thread/fork" | "thread/resume" => self.opened(&request, result, coverage),
            "thread/unsubscribe" => {
                coverage.unsubscribes += 1;
                self.view(request.thread.as_deref().unwrap()).next = None;
            }
            "turn/start" => {
                let turn = result["turn"]["id"].as_str().unwrap().to_owned();
                let view = self.view(request.thread.as_deref().unwrap());
                if view.next.is_some() && !view.ended.contains(&turn) {
                    view.open.insert(turn);
                }
            }
            "command/exec" => {
                if let Some(outputs) = request.resource.and_then(|name| self.commands.remove(&name)) {
                    assert_eq!(result["outputs"], outputs, "outputs are missing");
                }
            }
            "fs/unwatch" => drop(self.watches.remove(&request.resource.unwrap())),
            _ => {}
        }
    }

    fn refused(&mut self, request: &Request, error: &Value, coverage: &mut Coverage) {
        let data = &error["data"];
        match data["tag"].as_str() {
            Some(tag) => assert_eq!(tag, request.tag, "the answer to another request"),
            None => {
                assert!(data["codexd"].is_object() || error["code"] == -32600, "an error of nobody: {error}")
            }
        }
        if let Some(name) = &request.resource {
            assert!(!error["message"].as_str().unwrap().contains(&format!(":{name}")), "{error}");
            match request.method {
                "command/exec" => drop(self.commands.remove(name)),
                "fs/watch" => drop(self.watches.remove(name)),
                _ => {}
            }
        }
        match error["code"].as_i64().unwrap() {
            -32010 => {
                let delivered = data["codexd"]["delivered"].as_str().unwrap();
                assert_eq!(data["codexd"]["retryable"], delivered == "no");
                self.lost.push((request.tag.clone(), delivered.to_owned()));
                coverage.lost_requests += 1;
                if request.method == "thread/unsubscribe" {
                    let view = self.view(request.thread.as_deref().unwrap());
                    view.next = None;
                    view.uncertain = true;
                }
            }
            -32001 => {
                coverage.refused += 1;
                if data["codexd"]["reason"] == "upgrading" {
                    assert_ne!(self.upgrade_waits, Some(false), "refused although it was called off");
                    coverage.refused_for_upgrades += 1;
                }
            }
            _ if data["codexd"]["reason"] == "permissionsNotRestored" => coverage.work_refused += 1,
            _ => coverage.errors += 1,
        }
    }

    fn view(&mut self, thread: &str) -> &mut View {
        let view = self.views.entry(thread.to_owned()).or_default();
        view.seen = true;
        view
    }

    fn opened(&mut self, request: &Request, result: &Value, coverage: &mut Coverage) {
        let name = result["thread"]["id"].as_str().unwrap();
        let (before, next) = (result["before"].as_u64().unwrap(), result["next"].as_u64().unwrap());
        if request.method == "thread/resume" {
            assert_eq!(request.thread.as_deref(), Some(name));
            coverage.resumes += 1;
        }
        let view = self.view(name);
        match view.next {
            Some(expected) => assert_eq!(next, expected, "{name}: messages before the response are missing"),
            None => {
                for seq in before..next {
                    assert!(view.early.contains(&seq), "{name}: {seq} did not come before the response");
                    coverage.early += 1;
                }
                assert!(view.early.iter().all(|seq| *seq >= before), "{name}: left over from another");
                // The response contains what happened while it was not subscribed.
                view.open.clear();
            }
        }
        if request.method == "thread/resume" && view.next.is_none() {
            let open = result["open"].as_object().unwrap();
            let texts = open.iter().map(|(item, text)| (item.clone(), text.as_str().unwrap().to_owned()));
            view.texts.clear();
            view.repeats = Some(texts.collect());
        }
        view.early.clear();
        view.next = Some(next);
        for turn in result["thread"]["turns"].as_array().unwrap() {
            view.open.insert(turn["id"].as_str().unwrap().to_owned());
        }
        if request.method == "thread/resume" {
            for ask in result["asks"].as_array().unwrap() {
                *view.repeated.entry(ask.as_i64().unwrap()).or_default() += 1;
            }
        }
    }

    /// What is repeated of an open item after a resume.
    fn repeated(&mut self, method: &str, params: &Value, coverage: &mut Coverage) {
        let thread = params["threadId"].as_str().unwrap();
        let view = self.view(thread);
        assert!(view.repeats.is_some(), "{thread}: {method} is repeated without a resume");
        view.text(method, params);
        coverage.repeated_items += u64::from(method == "item/started");
    }

    // ---- messages of threads -----------------------------------------------------------------------

    /// A numbered message of a thread: exactly the next one.
    fn numbered(&mut self, thread: &str, seq: u64) {
        let opening = self.outstanding.values().any(|r| r.opens(thread));
        let view = self.view(thread);
        match &mut view.next {
            Some(next) => {
                assert_eq!(seq, *next, "{thread}: lost, doubled or out of order");
                *next += 1;
            }
            None => {
                assert!(opening, "{thread}: {seq} is for somebody else");
                assert!(view.early.last().is_none_or(|last| *last < seq), "{thread}: out of order");
                view.early.push(seq);
            }
        }
    }

    fn server_request(&mut self, id: i64, params: &Value, coverage: &mut Coverage) {
        let Some(thread) = params["threadId"].as_str() else {
            assert!(self.joined && self.calls.insert(id), "server request {id} is asked twice");
            return;
        };
        let opening = self.outstanding.values().any(|r| r.opens(thread));
        let view = self.view(thread);
        if let Some(repeated) = view.repeated.get_mut(&id).filter(|n| **n > 0) {
            *repeated -= 1;
            coverage.repeated_asks += 1;
        } else {
            assert!(!view.asks.contains(&id), "server request {id} is asked again without a reason");
            match view.next {
                Some(next) => assert_eq!(params["after"], next, "server request {id} is out of order"),
                None => assert!(opening, "server request {id} is for somebody else"),
            }
        }
        view.asks.insert(id);
        coverage.asks += 1;
    }

    fn notification(&mut self, method: &str, params: &Value, coverage: &mut Coverage) {
        let thread = params["threadId"].as_str().unwrap_or_default().to_owned();
        let synthetic = params["codexd"].is_object();
        if let Some(seq) = params["seq"].as_u64() {
            self.numbered(&thread, seq);
            coverage.numbered += 1;
        }
        match method {
            "item/started" | "item/agentMessage/delta" => self.view(&thread).text(method, params),
            "item/completed" => {
                let item = params["item"]["id"].as_str().unwrap_or_default();
                if let Some(text) = self.view(&thread).texts.remove(item) {
                    assert_eq!(params["item"]["text"], text, "{item}: its deltas are another text");
                    coverage.whole_texts += 1;
                }
            }
            "turn/started" => {
                let turn = params["turn"]["id"].as_str().unwrap().to_owned();
                self.view(&thread).open.insert(turn);
            }
            "turn/completed" => {
                let turn = params["turn"]["id"].as_str().unwrap().to_owned();
                let view = self.view(&thread);
                let (known, subscribed) = (view.open.remove(&turn), view.next.is_some());
                assert!(view.ended.insert(turn), "a turn has ended twice");
                // A turn may be known from the answer to another client's `turn/start` alone.
                assert!(known || synthetic || !subscribed, "the end of a turn that has not begun");
                if synthetic {
                    assert!(subscribed || view.uncertain, "{thread}: the end of a turn of somebody else");
                    coverage.synthetic_ends += 1;
                    self.synthetic_end(&thread, params);
                } else {
                    coverage.ends += 1;
                }
            }
            "error" => {
                assert!(synthetic, "the simulated upstream writes none");
                assert_eq!(params["willRetry"], false);
                let (before, reason) = self.synthetic.take().expect("an error without a status before it");
                assert_eq!(
                    (before.as_str(), reason),
                    (thread.as_str(), None),
                    "an error after another status"
                );
                let reason = params["error"].clone();
                self.synthetic = Some((thread, Some((params["turnId"].clone(), reason))));
            }
            "thread/status/changed" if synthetic => {
                assert!(self.lost_threads.insert(thread.clone()), "{thread} has ended twice");
                let failed = params["codexd"]["inferred"] == false;
                let kind = if failed { "systemError" } else { "idle" };
                assert_eq!(params["status"]["type"], kind);
                self.view(&thread).active = false;
                self.synthetic = Some((thread, None));
            }
            "thread/status/changed" => {
                let leaving = self.is_leaving(&thread);
                let view = self.view(&thread);
                let seq = params["statusSeq"].as_u64().unwrap();
                assert!(
                    view.next_status.is_none_or(|n| n == seq),
                    "{thread}: a status is missing or doubled"
                );
                view.next_status = Some(seq + 1);
                view.active = params["status"]["type"] == "active";
                if let Some(next) = view.next
                    && !leaving
                {
                    assert_eq!(params["after"], next, "{thread}: a status is out of order");
                }
            }
            "thread/archived" | "thread/closed" => {
                let leaving = self.is_leaving(&thread);
                let view = self.view(&thread);
                if let Some(next) = view.next.take()
                    && !leaving
                {
                    assert_eq!(method, "thread/archived", "a subscribed thread was let go");
                    assert_eq!(params["after"], next);
                    assert!(view.open.is_empty(), "archived with an open turn");
                }
                view.open.clear();
                view.gone = method == "thread/archived";
            }
            "thread/tokenUsage/updated" => {
                let tag = params["for"].as_str().unwrap();
                assert!(self.tags.contains(tag), "the token usage of another's resume");
                coverage.usages += 1;
            }
            "command/exec/outputDelta" => {
                let n = self.commands.get_mut(params["processId"].as_str().unwrap()).expect("whose process?");
                assert_eq!(params["n"], *n);
                *n += 1;
                coverage.outputs += 1;
            }
            "fs/changed" => {
                let n = self.watches.get_mut(params["watchId"].as_str().unwrap()).expect("whose watch?");
                assert_eq!(params["n"], *n);
                *n += 1;
                coverage.changes += 1;
            }
            "skills/changed" => {
                let n = params["n"].as_u64().unwrap();
                assert!(
                    self.next_broadcast.is_none_or(|next| next == n),
                    "a broadcast is missing or doubled"
                );
                self.next_broadcast = Some(n + 1);
            }
            "notifications/broker/upgradeWaiting" => {
                assert_ne!(self.upgrade_waits.replace(true), Some(true), "two upgrades at once");
            }
            "notifications/broker/upgradeCalledOff" => {
                assert_ne!(self.upgrade_waits.replace(false), Some(false), "called off twice");
            }
            "notifications/broker/shuttingDown" => self.shutdown_notices += 1,
            "serverRequest/resolved" if synthetic => {
                let view = self.view(&thread);
                assert!(view.next.is_some() || view.uncertain);
                coverage.synthetic_settlings += 1;
            }
            _ => {}
        }
    }
}
