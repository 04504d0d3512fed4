//! A model of the upstream on its one connection: threads, turns, server requests, processes.
//!
//! Every message of a thread carries its number `seq` in that thread, counted whether or not the connection is
//! subscribed; so a client that should have got it notices that it is missing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use codexd_proto::frame::{Frame, LineDecoder};
use serde_json::{Value, json};

use crate::random::Random;

#[derive(Default)]
pub(crate) struct Thread {
    pub(crate) name: String,
    pub(crate) loaded: bool,
    pub(crate) subscribed: bool,
    archived: bool,
    /// Number of the thread's next message, and of its next status.
    pub(crate) seq: u64,
    pub(crate) status_seq: u64,
    pub(crate) turn: Option<Turn>,
    last_turn: Option<String>,
    /// Server requests without an answer, with their line.
    pub(crate) asks: BTreeMap<i64, String>,
    pub(crate) sub_agent: bool,
    /// Its sandbox policy, while it is loaded.
    pub(crate) sandbox: Value,
    /// The policy that it had in an earlier process, until a client gives it another one, or this process has unloaded it.
    pub(crate) wanted: Option<Value>,
    /// It was there before this process.
    pub(crate) is_earlier: bool,
}

/// The policy of a thread that is resumed without one.
pub(crate) fn default_policy() -> Value {
    json!({"type": "dangerFullAccess"})
}

pub(crate) struct Turn {
    pub(crate) id: String,
    final_answer: bool,
    /// Items that have begun and are not complete.
    open: BTreeMap<String, OpenItem>,
}

struct OpenItem {
    /// Its text so far.
    text: String,
    /// Whether all of it was sent.
    sent: bool,
}

struct Todo {
    line: Value,
    method: String,
    thread: Option<usize>,
    /// What a request that takes two steps has made already: the thread, and its number then.
    begun: Option<(usize, u64)>,
}

pub(crate) struct Upstream {
    pub(crate) threads: Vec<Thread>,
    /// What was read and not consumed yet, in order.
    pub(crate) queue: VecDeque<Value>,
    /// What was consumed: it works on all of that at once.
    todo: Vec<Todo>,
    decoder: LineDecoder,
    /// Bytes written and not read by codexd yet.
    pub(crate) output: Vec<u8>,
    next_ask: i64,
    next_turn: u32,
    pub(crate) answered_asks: BTreeSet<i64>,
    /// Tags of requests of which the whole line came.
    pub(crate) received: BTreeSet<String>,
    /// Of those, the ones that were refused the last time they came.
    pub(crate) refused: BTreeSet<String>,
    taken: BTreeSet<String>,
    pub(crate) partial: usize,
    /// Number of the newest request of each client; and of each thread of an earlier process, whose requests can wait.
    newest: BTreeMap<(u64, Option<usize>), u64>,
    /// It refuses one in so many new policies.
    pub(crate) refuses_policies: Option<usize>,
    /// Policies that codexd has restored, and those of which it could not.
    pub(crate) restored: u64,
    pub(crate) not_restored: u64,
    unanswered: BTreeSet<i64>,
    pub(crate) short_unanswered: BTreeSet<i64>,
    pub(crate) most_unanswered: usize,
    /// Commands that run, by the id the upstream knows, with the request and the number of outputs.
    pub(crate) commands: BTreeMap<String, (i64, String, u64)>,
    pub(crate) watches: BTreeMap<String, u64>,
    pub(crate) broadcasts: u64,
    /// It answers the handshake with an error.
    pub(crate) refuses: bool,
    /// It refuses one in so many requests, as if its queue were full.
    pub(crate) overloaded: Option<usize>,
    pub(crate) overloads: u64,
    pub(crate) notifications: u64,
    /// Server requests to all clients, without an answer.
    pub(crate) open_calls: BTreeSet<i64>,
    pub(crate) calls: u64,
    pub(crate) failed_calls: u64,
}

fn is_long(method: &str) -> bool {
    codexd_proto::routes::REQUESTS.iter().any(|r| r.method == method && r.long)
}

impl Upstream {
    pub(crate) fn new() -> Upstream {
        Upstream {
            threads: Vec::new(),
            queue: VecDeque::new(),
            todo: Vec::new(),
            decoder: LineDecoder::new(1 << 20),
            output: Vec::new(),
            next_ask: 0,
            next_turn: 0,
            answered_asks: BTreeSet::new(),
            received: BTreeSet::new(),
            refused: BTreeSet::new(),
            taken: BTreeSet::new(),
            partial: 0,
            newest: BTreeMap::new(),
            refuses_policies: None,
            restored: 0,
            not_restored: 0,
            unanswered: BTreeSet::new(),
            short_unanswered: BTreeSet::new(),
            most_unanswered: 0,
            commands: BTreeMap::new(),
            watches: BTreeMap::new(),
            broadcasts: 0,
            refuses: false,
            overloaded: None,
            overloads: 0,
            notifications: 0,
            open_calls: BTreeSet::new(),
            calls: 0,
            failed_calls: 0,
        }
    }

    // ---- input -------------------------------------------------------------------------------------

    pub(crate) fn read(&mut self, mut bytes: &[u8], random: &mut Random) {
        let mut lines = Vec::new();
        while let Some(frame) = self.decoder.decode(&mut bytes) {
            let Frame::Line(line) = frame else { panic!("a line too long") };
            lines.push(line.to_vec());
        }
        self.partial = self.decoder.buffered();
        for line in lines {
            let text = String::from_utf8(line).expect("invalid UTF-8 ends the real upstream");
            let line: Value = serde_json::from_str(&text).expect("the real upstream drops what is not JSON");
            if let Some(tag) = line["params"]["tag"].as_str() {
                self.received.insert(tag.to_owned());
                self.refused.remove(tag);
            }
            if line["method"].is_string() && line["id"].is_i64() && self.refuses_for_now(&line, random) {
                continue;
            }
            self.queue.push_back(line);
        }
    }

    /// Rejects a request before it is consumed, as the real one does when its queue is full.
    fn refuses_for_now(&mut self, line: &Value, random: &mut Random) -> bool {
        if line["method"] == "initialize" || !self.overloaded.is_some_and(|n| random.one_in(n)) {
            return false;
        }
        self.overloads += 1;
        let tag = &line["params"]["tag"];
        if let Some(tag) = tag.as_str() {
            self.refused.insert(tag.to_owned());
        }
        let message = "Server overloaded; retry later.";
        let error = json!({"code": -32001, "message": message, "data": {"tag": tag}});
        self.write(&json!({"error": error, "id": line["id"]}).to_string());
        true
    }

    /// Takes the next message.
    fn take_one(&mut self) -> bool {
        let Some(line) = self.queue.pop_front() else { return false };
        self.take(line);
        true
    }

    fn take(&mut self, line: Value) {
        let Some(method) = line["method"].as_str() else { return self.answered(&line) };
        if line.get("id").is_none() {
            self.notifications += u64::from(method != "initialized");
            return;
        }
        let id = line["id"].as_i64().expect("codexd counts its requests");
        assert!(self.unanswered.insert(id), "an id that is in use");
        if let Some(tag) = line["params"]["tag"].as_str() {
            assert!(self.taken.insert(tag.to_owned()), "{tag} is carried out twice");
        }
        // An unsubscribe waits for the answer to the client's resume; an interrupt overtakes what waits.
        if let (Some(client), Some(n)) =
            (line["params"]["from"][0].as_u64(), line["params"]["from"][1].as_u64())
            && !matches!(method, "thread/unsubscribe" | "turn/interrupt")
        {
            let params = &line["params"];
            let waits = self.resolve(params).filter(|at| self.threads[*at].is_earlier);
            // It can overtake what waits.
            let by_path = params["path"].is_string() && waits.is_some();
            let newest = self.newest.get(&(client, waits)).copied().filter(|_| !by_path);
            let reads = method == "thread/list";
            assert!(reads || newest.is_none_or(|old| old < n), "the requests of a client are out of order");
            if !by_path {
                self.newest.insert((client, waits), newest.unwrap_or(n).max(n));
            }
        }
        let method = method.to_owned();
        if !is_long(&method) && method != "initialize" && method != "thread/loaded/list" {
            self.short_unanswered.insert(id);
            self.most_unanswered = self.most_unanswered.max(self.short_unanswered.len());
        }
        let thread = self.resolve(&line["params"]);
        self.todo.push(Todo { line, method, thread, begun: None });
    }

    /// Returns the thread that parameters name: a path counts before an id.
    fn resolve(&self, params: &Value) -> Option<usize> {
        let Some(path) = params["path"].as_str() else { return self.find(params["threadId"].as_str()?) };
        self.find(path.strip_prefix("/rollout-")?.strip_suffix(".jsonl")?)
    }

    /// Adds a thread that was there before this process, with this policy then.
    pub(crate) fn add_earlier(&mut self, policy: Value) -> String {
        let at = self.create(false);
        let thread = &mut self.threads[at];
        (thread.loaded, thread.subscribed, thread.is_earlier) = (false, false, true);
        thread.wanted = Some(policy);
        thread.name.clone()
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.threads.iter().position(|t| t.name == name)
    }

    fn answered(&mut self, line: &Value) {
        let id = line["id"].as_i64().expect("server requests have integer ids");
        assert!(id < self.next_ask, "an answer to a server request of nobody");
        assert!(self.answered_asks.insert(id), "server request {id} is answered twice");
        if self.open_calls.remove(&id) {
            self.failed_calls += u64::from(line["error"]["code"] == -32000);
        }
        let Some(at) = self.threads.iter().position(|t| t.asks.contains_key(&id)) else { return };
        self.threads[at].asks.remove(&id);
        self.resolved(at, id);
    }

    fn resolved(&mut self, at: usize, id: i64) {
        self.thread_note(at, "serverRequest/resolved", json!({"requestId": id}));
    }

    // ---- output ------------------------------------------------------------------------------------

    fn write(&mut self, line: &str) {
        self.output.extend_from_slice(line.as_bytes());
        self.output.push(b'\n');
    }

    fn note(&mut self, method: &str, params: &Value) {
        self.write(&format!(r#"{{"method":"{method}","params":{params},"emittedAtMs":1}}"#));
    }

    fn thread_note(&mut self, at: usize, method: &str, mut params: Value) {
        let thread = &mut self.threads[at];
        params["threadId"] = json!(thread.name);
        params["seq"] = json!(thread.seq);
        thread.seq += 1;
        if thread.subscribed {
            self.note(method, &params);
        }
    }

    /// A delta. Its number is not among the parameters: these differ in the text only.
    fn delta(&mut self, at: usize, turn: &str, item: &str, text: &str) {
        let thread = &mut self.threads[at];
        let seq = thread.seq;
        thread.seq += 1;
        if thread.subscribed {
            let (name, text) = (&thread.name, json!(text));
            let params =
                format!(r#"{{"threadId":"{name}","turnId":"{turn}","itemId":"{item}","delta":{text}}}"#);
            self.write(&format!(
                r#"{{"method":"item/agentMessage/delta","params":{params},"emittedAtMs":{seq}}}"#
            ));
        }
    }

    fn status(&mut self, at: usize, status: &str) {
        let thread = &mut self.threads[at];
        let params = json!({
            "threadId": thread.name,
            "status": {"type": status},
            "statusSeq": thread.status_seq,
            "after": thread.seq,
        });
        thread.status_seq += 1;
        self.note("thread/status/changed", &params);
    }

    fn thread_broadcast(&mut self, at: usize, method: &str) {
        let thread = &self.threads[at];
        let params = json!({"threadId": thread.name, "thread": {"id": thread.name}, "after": thread.seq});
        self.note(method, &params);
    }

    fn reply(&mut self, line: &Value, mut result: Value) {
        let id = line["id"].as_i64().unwrap();
        result["tag"] = line["params"]["tag"].clone();
        self.closed(id);
        self.write(&format!(r#"{{"id":{id},"result":{result}}}"#));
    }

    fn fail(&mut self, line: &Value, code: i64, message: &str) {
        let id = line["id"].as_i64().unwrap();
        let tag = &line["params"]["tag"];
        self.closed(id);
        self.write(
            &json!({"error": {"code": code, "message": message, "data": {"tag": tag}}, "id": id}).to_string(),
        );
    }

    fn closed(&mut self, id: i64) {
        assert!(self.unanswered.remove(&id));
        self.short_unanswered.remove(&id);
    }

    // ---- work --------------------------------------------------------------------------------------

    pub(crate) fn is_idle(&self) -> bool {
        self.todo.is_empty() && self.queue.is_empty()
    }

    /// It sends a request to all clients that any one of them can answer.
    fn call(&mut self) {
        let id = self.next_ask;
        self.next_ask += 1;
        self.calls += 1;
        self.open_calls.insert(id);
        self.write(&format!(r#"{{"method":"account/chatgptAuthTokens/refresh","id":{id},"params":{{}}}}"#));
    }

    /// Works on one request: any, but those of one thread in their order.
    pub(crate) fn work(&mut self, random: &mut Random) -> bool {
        if self.take_one() {
            return true;
        }
        if self.todo.is_empty() {
            return false;
        }
        let any = random.below(self.todo.len());
        let at = match self.todo[any].thread {
            Some(thread) => self.todo.iter().position(|t| t.thread == Some(thread)).unwrap(),
            None => any,
        };
        if self.begins(at, random) {
            return true;
        }
        let todo = self.todo.remove(at);
        self.answer(&todo, random);
        true
    }

    fn create(&mut self, sub_agent: bool) -> usize {
        let at = self.threads.len();
        self.threads.push(Thread {
            name: format!("00000000-0000-7000-8000-{at:012}"),
            loaded: true,
            subscribed: true,
            sub_agent,
            sandbox: default_policy(),
            ..Thread::default()
        });
        at
    }

    /// The first of two steps: what is sent before the response. False if there is none.
    fn begins(&mut self, at: usize, random: &mut Random) -> bool {
        let todo = &self.todo[at];
        if todo.begun.is_some() {
            return false;
        }
        let thread = todo.thread;
        let begun = match todo.method.as_str() {
            "thread/start" | "thread/fork" if !random.one_in(10) => {
                let new = self.create(false);
                let before = 0;
                (new, before)
            }
            "thread/resume" => match thread {
                Some(t) if !self.threads[t].loaded && !self.threads[t].archived => {
                    let before = self.threads[t].seq;
                    self.threads[t].loaded = true;
                    self.threads[t].subscribed = true;
                    let params = &self.todo[at].line["params"];
                    self.threads[t].sandbox = match params["sandbox"].as_str() {
                        Some("read-only") => json!({"type": "readOnly"}),
                        Some("workspace-write") => json!({"type": "workspaceWrite", "networkAccess": false}),
                        _ => default_policy(),
                    };
                    if params["own"] == true {
                        self.threads[t].wanted = None;
                    }
                    (t, before)
                }
                _ => return false,
            },
            _ => return false,
        };
        for _ in 0..random.below(3) {
            self.thread_note(begun.0, "mcpServer/startupStatus/updated", json!({"status": "ready"}));
        }
        if self.todo[at].method == "thread/resume" {
            self.status(begun.0, "idle");
        }
        self.todo[at].begun = Some(begun);
        true
    }

    fn opened(&mut self, line: &Value, at: usize, before: u64) {
        let thread = &mut self.threads[at];
        thread.subscribed = true;
        let turns: Vec<Value> =
            thread.turn.iter().map(|t| json!({"id": t.id, "items": [], "status": "inProgress"})).collect();
        let status = if thread.turn.is_some() { "active" } else { "idle" };
        let open: BTreeMap<&String, &String> = (thread.turn.iter())
            .flat_map(|turn| {
                turn.open.iter().filter(|(_, item)| item.sent).map(|(id, item)| (id, &item.text))
            })
            .collect();
        let asks: Vec<i64> = thread.asks.keys().copied().collect();
        let replays: Vec<String> = thread.asks.values().cloned().collect();
        let result = json!({
            "thread": {"id": thread.name, "status": {"type": status}, "turns": turns},
            "before": before,
            "next": thread.seq,
            "asks": asks,
            "open": open,
            "sandbox": thread.sandbox,
            "approvalPolicy": "never",
            "activePermissionProfile": null,
        });
        self.reply(line, result);
        if line["method"] != "thread/start" && line["params"]["excludeTurns"] != true {
            let thread = &self.threads[at];
            if let Some(turn) = &thread.last_turn {
                let params = json!({"threadId": thread.name, "turnId": turn, "for": line["params"]["tag"]});
                self.note("thread/tokenUsage/updated", &params);
            }
        }
        if line["method"] == "thread/resume" {
            for ask in replays {
                self.write(&ask);
            }
        } else {
            self.thread_broadcast(at, "thread/started");
        }
    }

    fn answer(&mut self, todo: &Todo, random: &mut Random) {
        let line = &todo.line;
        let params = &line["params"];
        let found = todo.thread;
        let loaded = found.filter(|t| self.threads[*t].loaded);
        match todo.method.as_str() {
            "thread/start" | "thread/fork" | "thread/resume" => match (todo.begun, loaded) {
                (Some((at, before)), _) => self.opened(line, at, before),
                (None, Some(at)) if todo.method == "thread/resume" => {
                    let before = self.threads[at].seq;
                    self.opened(line, at, before);
                }
                _ => self.fail(line, -32600, "no rollout found"),
            },
            "thread/unsubscribe" => {
                let status = match loaded {
                    Some(at) if std::mem::take(&mut self.threads[at].subscribed) => {
                        let open = self.threads[at].turn.iter_mut().flat_map(|turn| turn.open.values_mut());
                        open.for_each(|item| item.sent = false);
                        "unsubscribed"
                    }
                    Some(_) => "notSubscribed",
                    None => "notLoaded",
                };
                self.reply(line, json!({"status": status}));
            }
            "thread/archive" => match found.filter(|t| !self.threads[*t].archived) {
                Some(at) => {
                    self.end_turn(at, "interrupted", None);
                    if self.threads[at].loaded {
                        self.status(at, "notLoaded");
                    }
                    self.threads[at].loaded = false;
                    self.threads[at].subscribed = false;
                    self.threads[at].archived = true;
                    self.reply(line, json!({}));
                    self.thread_broadcast(at, "thread/archived");
                }
                None => self.fail(line, -32600, "no rollout found"),
            },
            "thread/settings/update" => match loaded {
                Some(at) => self.update(line, at, random),
                None => self.fail(line, -32600, "thread not found"),
            },
            "turn/start" => match loaded {
                Some(at) => self.start_turn(line, at),
                None => self.fail(line, -32600, "thread not found"),
            },
            "turn/interrupt" => match loaded.filter(|t| self.threads[*t].turn.is_some()) {
                Some(at) => self.end_turn(at, "interrupted", Some(line)),
                None => self.fail(line, -32600, "no active turn to interrupt"),
            },
            "command/exec" => {
                let name = params["processId"].as_str().expect("codexd gives one").to_owned();
                let message = format!("duplicate active command/exec process id: \"{name}\"");
                let tag = params["tag"].as_str().unwrap().to_owned();
                let mut new = false;
                self.commands.entry(name).or_insert_with(|| {
                    new = true;
                    (line["id"].as_i64().unwrap(), tag, 0)
                });
                if !new {
                    self.fail(line, -32600, &message);
                }
            }
            "command/exec/terminate" => {
                let name = params["processId"].as_str().unwrap().to_owned();
                match self.commands.contains_key(&name) {
                    true => {
                        self.reply(line, json!({}));
                        self.finish_command(&name);
                    }
                    false => {
                        self.fail(line, -32600, &format!("no active command/exec for process id \"{name}\""));
                    }
                }
            }
            "fs/watch" => {
                let name = params["watchId"].as_str().unwrap().to_owned();
                let message = format!("watchId already exists: {name}");
                let mut new = false;
                self.watches.entry(name).or_insert_with(|| {
                    new = true;
                    0
                });
                if new {
                    self.reply(line, json!({}));
                } else {
                    self.fail(line, -32600, &message);
                }
            }
            "fs/unwatch" => {
                self.watches.remove(params["watchId"].as_str().unwrap());
                self.reply(line, json!({}));
            }
            "initialize" if self.refuses => self.fail(line, -32600, "too old"),
            "initialize" => self.reply(line, json!({"userAgent": "x/0.169.0 (x; x)"})),
            "skills/config/write" => {
                self.reply(line, json!({}));
                let params = json!({"n": self.broadcasts});
                self.broadcasts += 1;
                self.note("skills/changed", &params);
            }
            _ if random.one_in(8) => self.fail(line, -32603, "internal error"),
            _ => self.reply(line, json!({"data": []})),
        }
    }

    /// A new sandbox policy, of a client or of codexd itself.
    fn update(&mut self, line: &Value, at: usize, random: &mut Random) {
        let is_clients = line["params"]["tag"].is_string();
        if self.refuses_policies.is_some_and(|n| random.one_in(n)) {
            self.not_restored += u64::from(!is_clients);
            return self.fail(line, -32600, "unknown variant");
        }
        let policy = &line["params"]["sandboxPolicy"];
        self.reply(line, json!({}));
        let thread = &mut self.threads[at];
        thread.sandbox = policy.clone();
        if is_clients {
            thread.wanted = None;
        } else {
            assert_eq!(thread.wanted.as_ref(), Some(policy), "another policy than it had is restored");
            self.restored += 1;
        }
        let settings =
            json!({"sandboxPolicy": policy, "approvalPolicy": "never", "activePermissionProfile": null});
        let params = json!({"threadId": thread.name, "threadSettings": settings});
        self.note("thread/settings/updated", &params);
    }

    fn start_turn(&mut self, line: &Value, at: usize) {
        if let Some(wanted) = &self.threads[at].wanted {
            assert_eq!(&self.threads[at].sandbox, wanted, "a turn starts with other permissions than before");
        }
        if let Some(turn) = &self.threads[at].turn {
            let turn = json!({"id": turn.id, "items": [], "status": "inProgress"});
            return self.reply(line, json!({"turn": turn}));
        }
        self.next_turn += 1;
        let id = format!("turn-{}", self.next_turn);
        self.reply(line, json!({"turn": {"id": id, "items": [], "status": "inProgress"}}));
        self.begin_turn(at, id);
    }

    fn begin_turn(&mut self, at: usize, id: String) {
        let turn = json!({"id": id, "items": [], "status": "inProgress", "error": null});
        self.threads[at].turn = Some(Turn { id, final_answer: false, open: BTreeMap::new() });
        self.status(at, "active");
        self.thread_note(at, "turn/started", json!({"turn": turn}));
    }

    /// Ends a thread's turn, if it has one; `asked` is the request that interrupts it.
    fn end_turn(&mut self, at: usize, how: &str, asked: Option<&Value>) {
        if let Some(line) = asked {
            self.reply(line, json!({}));
        }
        let Some(turn) = self.threads[at].turn.take() else { return };
        self.status(at, "idle");
        let object = json!({"id": turn.id, "items": [], "status": how, "error": null});
        self.threads[at].last_turn = Some(turn.id);
        self.thread_note(at, "turn/completed", json!({"turn": object}));
        for id in std::mem::take(&mut self.threads[at].asks).into_keys() {
            self.resolved(at, id);
        }
    }

    fn finish_command(&mut self, name: &str) {
        let (id, tag, outputs) = self.commands.remove(name).unwrap();
        let line = json!({"id": id, "params": {"tag": tag}});
        self.reply(&line, json!({"exitCode": 0, "outputs": outputs}));
    }

    /// Something happens by itself: a turn goes on, a command writes, a file changes.
    pub(crate) fn stir(&mut self, random: &mut Random, winding_down: bool) -> bool {
        if random.one_in(150) && !winding_down {
            self.call();
            return true;
        }
        let commands: Vec<String> = self.commands.keys().cloned().collect();
        if !commands.is_empty() && random.one_in(8) {
            let name = &commands[random.below(commands.len())];
            // A command whose id codexd made up does not stream.
            if winding_down || name.contains('~') || random.one_in(3) {
                self.finish_command(name);
            } else {
                let output = self.commands.get_mut(name).unwrap();
                let params = json!({"processId": name, "n": output.2});
                output.2 += 1;
                self.note("command/exec/outputDelta", &params);
            }
            return true;
        }
        let watches: Vec<String> = self.watches.keys().cloned().collect();
        if !watches.is_empty() && random.one_in(12) && !winding_down {
            let name = &watches[random.below(watches.len())];
            let n = self.watches.get_mut(name).unwrap();
            let params = json!({"watchId": name, "n": *n});
            *n += 1;
            self.note("fs/changed", &params);
            return true;
        }
        let running: Vec<usize> =
            (0..self.threads.len()).filter(|t| self.threads[*t].turn.is_some()).collect();
        if let Some(at) = random.pick(&running)
            && !random.one_in(8)
        {
            return self.advance(at, random, winding_down);
        }
        // Threads without subscribers are unloaded.
        let unsubscribed: Vec<usize> = (0..self.threads.len())
            .filter(|t| {
                let thread = &self.threads[*t];
                thread.loaded && !thread.subscribed && thread.turn.is_none()
            })
            .filter(|t| !self.todo.iter().any(|todo| todo.begun.is_some() && todo.thread == Some(*t)))
            .collect();
        if let Some(at) = random.pick(&unsubscribed)
            && random.one_in(4)
        {
            self.threads[at].loaded = false;
            // What it unloads itself, it resumes with the policy of the configuration; unless the policy was still to be
            // restored.
            let thread = &mut self.threads[at];
            thread.wanted = thread.wanted.take().filter(|wanted| thread.sandbox != *wanted);
            self.status(at, "notLoaded");
            self.thread_broadcast(at, "thread/closed");
            return true;
        }
        !running.is_empty() || !commands.is_empty()
    }

    /// One of two items begins, says something, or is complete.
    fn speak(&mut self, at: usize, turn: &str, random: &mut Random) {
        let item = format!("{turn}-{}", random.below(2));
        let sent = self.threads[at].subscribed;
        let open = &mut self.threads[at].turn.as_mut().unwrap().open;
        let Some(known) = open.get_mut(&item) else {
            open.insert(item.clone(), OpenItem { text: String::new(), sent });
            let object = json!({"type": "agentMessage", "id": item, "text": ""});
            return self.thread_note(at, "item/started", json!({"turnId": turn, "item": object}));
        };
        if random.one_in(10) {
            let text = open.remove(&item).unwrap().text;
            let object = json!({"type": "agentMessage", "id": item, "text": text});
            return self.thread_note(at, "item/completed", json!({"turnId": turn, "item": object}));
        }
        let text = ["x", "\n", "\"", "\\", "é"][random.below(5)].repeat(random.below(60));
        known.text.push_str(&text);
        known.sent &= sent;
        self.delta(at, turn, &item, &text);
    }

    fn advance(&mut self, at: usize, random: &mut Random, winding_down: bool) -> bool {
        // A turn that has asked something waits for the answer.
        if !self.threads[at].asks.is_empty() {
            return false;
        }
        let turn = self.threads[at].turn.as_ref().unwrap();
        let (id, final_answer) = (turn.id.clone(), turn.final_answer);
        match random.below(if winding_down { 2 } else { 14 }) {
            0 if final_answer => self.end_turn(at, "completed", None),
            0 | 1 => {
                let item = json!({"type": "agentMessage", "phase": "final_answer", "text": "42"});
                self.thread_note(at, "item/completed", json!({"turnId": id, "item": item}));
                self.threads[at].turn.as_mut().unwrap().final_answer = true;
            }
            2 if !self.threads[at].sub_agent => {
                let child = self.create(true);
                self.next_turn += 1;
                let id = format!("turn-{}", self.next_turn);
                self.begin_turn(child, id);
            }
            3 | 4 => {
                let ask = self.next_ask;
                self.next_ask += 1;
                let thread = &mut self.threads[at];
                let params = json!({"threadId": thread.name, "turnId": id, "after": thread.seq});
                let line = format!(
                    r#"{{"method":"item/commandExecution/requestApproval","id":{ask},"params":{params}}}"#
                );
                thread.asks.insert(ask, line.clone());
                if thread.subscribed {
                    self.write(&line);
                }
            }
            _ => self.speak(at, &id, random),
        }
        true
    }
}
