//! Any sequence of what a client, daemons and deaths do: each request gets one answer, each turn one end, each server
//! request one resolution, in an order that a client can follow, and nothing adds up.

use std::collections::{BTreeMap, BTreeSet};

use codexd_proto::bridge::{ConnectionState, Delivery};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::desk::values;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The client sends a request: which method, of which thread.
    Send { method: u8, thread: u8 },
    /// The daemon reads so many bytes.
    Take(u16),
    /// The daemon answers the oldest of its requests, or the latest; or with an error.
    Answer { latest: bool, failed: bool },
    /// A turn of a thread begins or ends.
    Turn { thread: u8 },
    /// A server request for a thread comes, or the oldest one is resolved.
    ServerRequest { thread: u8 },
    /// The client answers the latest server request that it has.
    Approve,
    /// The daemon says that it ends: it answers what it has not begun, and what it has.
    End { intended: bool },
    /// The daemon is killed.
    Kill,
    /// The next daemon is there.
    Connect,
    /// The daemon begins to wait for an upgrade, or the upgrade is called off.
    Upgrade,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..7u8, 0..3u8).prop_map(|(method, thread)| Step::Send { method, thread }),
        6 => (1..400u16).prop_map(Step::Take),
        6 => (any::<bool>(), any::<bool>()).prop_map(|(latest, failed)| Step::Answer { latest, failed }),
        4 => (0..3u8).prop_map(|thread| Step::Turn { thread }),
        3 => (0..3u8).prop_map(|thread| Step::ServerRequest { thread }),
        2 => Just(Step::Approve),
        1 => any::<bool>().prop_map(|intended| Step::End { intended }),
        2 => Just(Step::Kill),
        3 => Just(Step::Connect),
        2 => Just(Step::Upgrade),
    ]
}

/// A daemon and its codex, as far as a client sees them.
#[derive(Default)]
struct Daemon {
    received: Vec<u8>,
    /// Requests without an answer, in their order.
    pending: Vec<Value>,
    initialized: bool,
    subscribed: BTreeSet<String>,
    turns: BTreeMap<String, String>,
    next_request: i64,
    /// The last request that changes a thread.
    latest: BTreeMap<String, u64>,
    /// Server requests that are open, by their thread.
    open: Vec<(i64, String)>,
    /// New work is refused.
    upgrades: bool,
}

impl Daemon {
    /// Whether a request is refused before an upgrade: it starts something, and is no input for a turn that runs.
    fn refuses(&self, message: &Value) -> bool {
        let thread = message["params"]["threadId"].as_str().unwrap_or_default();
        self.upgrades
            && match message["method"].as_str() {
                Some("thread/start" | "command/exec") => true,
                Some("turn/start") => !self.turns.contains_key(thread),
                _ => false,
            }
    }

    /// Requests that change a thread come in the client's order.
    fn check_order(&mut self, message: &Value) {
        let changes = matches!(message["method"].as_str(), Some("turn/start" | "thread/name/set"));
        if let (true, Some(id), Some(thread)) =
            (changes, message["id"].as_u64(), message["params"]["threadId"].as_str())
        {
            let last = self.latest.insert(thread.to_owned(), id);
            assert!(last < Some(id), "{message} after {last:?}");
        }
    }
}

/// What the client has seen and is owed.
#[derive(Default)]
struct Client {
    sent: BTreeSet<u64>,
    answered: BTreeSet<u64>,
    open_turns: BTreeSet<(String, String)>,
    ended_turns: BTreeSet<(String, String)>,
    open_requests: BTreeSet<i64>,
    resolved: BTreeSet<i64>,
    next_id: u64,
}

struct World {
    state: ConnectionState,
    daemon: Option<Daemon>,
    client: Client,
    turns: u64,
    /// Requests with an effect that a codex has carried out.
    carried_out: BTreeSet<u64>,
}

impl World {
    fn new() -> World {
        let mut world = World {
            state: ConnectionState::new(None, None),
            daemon: Some(Daemon::default()),
            client: Client { next_id: 1, ..Client::default() },
            turns: 0,
            carried_out: BTreeSet::new(),
        };
        world.client.sent.insert(0);
        let params = json!({"clientInfo": {"name": "c", "version": "1"}});
        world.line(&json!({"id": 0, "method": "initialize", "params": params}));
        world.line(&json!({"method": "initialized"}));
        world
    }

    fn line(&mut self, message: &Value) {
        self.state.client_line(format!("{message}\n").into_bytes());
        self.see();
    }

    fn send(&mut self, method: u8, thread: u8) {
        let id = self.client.next_id;
        self.client.next_id += 1;
        self.client.sent.insert(id);
        let thread = format!("t{thread}");
        let (method, params) = match method {
            0 => ("thread/start", json!({"name": thread})),
            1 => ("thread/resume", json!({"threadId": thread})),
            2 => (
                "turn/start",
                json!({"threadId": thread, "input": [], "clientUserMessageId": format!("m{id}")}),
            ),
            3 => ("turn/start", json!({"threadId": thread, "input": []})),
            4 => ("thread/list", json!({})),
            5 => ("thread/name/set", json!({"threadId": thread, "name": "n"})),
            _ => ("command/exec", json!({"command": ["x"]})),
        };
        self.line(&json!({"id": id, "method": method, "params": params}));
    }

    /// The daemon reads bytes, as far as there are some for it.
    fn take(&mut self, mut bytes: usize) {
        while let (Some(daemon), Some(waiting)) = (&mut self.daemon, self.state.to_daemon()) {
            let length = waiting.len().min(bytes);
            if length == 0 {
                break;
            }
            daemon.received.extend_from_slice(&waiting[..length]);
            self.state.daemon_took(length);
            bytes -= length;
        }
        let mut refused = Vec::new();
        let Some(daemon) = &mut self.daemon else { return };
        while let Some(end) = daemon.received.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = daemon.received.drain(..=end).collect();
            let message: Value = serde_json::from_slice(&line).expect("whole lines only");
            if message["method"] == "initialize" {
                assert!(!daemon.initialized, "a daemon is greeted once");
                daemon.initialized = true;
                daemon.pending.insert(0, message);
            } else if daemon.refuses(&message) {
                refused.push(message["id"].clone());
            } else if message["method"].is_string() && !message["id"].is_null() {
                daemon.check_order(&message);
                daemon.pending.push(message);
            }
        }
        for id in refused {
            let own = json!({"reason": "upgrading", "delivered": "no", "retryable": true});
            self.say(
                &json!({"id": id, "error": {"code": -32001, "message": "later", "data": {"codexd": own}}}),
            );
        }
    }

    fn upgrade(&mut self) {
        // What is on its way at that moment is refused or not, and overtakes what was refused before.
        let Some(daemon) = self.daemon.as_mut().filter(|it| it.initialized && it.received.is_empty()) else {
            return;
        };
        daemon.upgrades = !daemon.upgrades;
        let method = if daemon.upgrades { "upgradeWaiting" } else { "upgradeCalledOff" };
        // What has waited comes after what was passed meanwhile.
        daemon.latest.clear();
        self.say(&json!({"method": format!("notifications/broker/{method}"), "params": {}}));
    }

    fn say(&mut self, message: &Value) {
        assert_eq!(self.state.daemon_line(format!("{message}\n").as_bytes()), Delivery::Done);
        self.see();
    }

    fn answer(&mut self, latest: bool, failed: bool) {
        let Some(daemon) = &mut self.daemon else { return };
        if daemon.pending.is_empty() {
            return;
        }
        let at =
            if latest && daemon.pending[0]["method"] != "initialize" { daemon.pending.len() - 1 } else { 0 };
        let request = daemon.pending.remove(at);
        let (id, method) = (request["id"].clone(), request["method"].as_str().unwrap().to_owned());
        let own = request["id"].is_string();
        if failed && method != "initialize" && !own {
            return self.say(&json!({"id": id, "error": {"code": -32600, "message": "no"}}));
        }
        let thread = request["params"]["threadId"].as_str().or(request["params"]["name"].as_str());
        let thread = thread.unwrap_or("t0").to_owned();
        if let Some(id) = id.as_u64().filter(|_| matches!(&*method, "command/exec" | "thread/start")) {
            assert!(self.carried_out.insert(id), "carried out twice: {request}");
        }
        let result = match &*method {
            "initialize" => json!({"codexd": {"generation": 1}}),
            "thread/start" | "thread/resume" => {
                daemon.subscribed.insert(thread.clone());
                json!({"thread": {"id": thread, "status": {"type": "idle"}, "turns": []}})
            }
            "thread/turns/list" => json!({"data": []}),
            "turn/start" => {
                let turn = daemon.turns.get(&thread).cloned().unwrap_or_else(|| {
                    self.turns += 1;
                    format!("u{}", self.turns)
                });
                json!({"turn": {"id": turn, "items": [], "status": "completed"}})
            }
            _ => json!({}),
        };
        self.say(&json!({"id": id, "result": result}));
    }

    fn turn(&mut self, thread: &str) {
        let Some(daemon) = self.daemon.as_mut().filter(|it| it.subscribed.contains(thread)) else { return };
        let status = |word: &str| json!({"method": "thread/status/changed", "params": {"threadId": thread, "status": {"type": word}}});
        if let Some(turn) = daemon.turns.remove(thread) {
            self.say(&status("idle"));
            let turn = json!({"id": turn, "status": "completed", "items": []});
            self.say(&json!({"method": "turn/completed", "params": {"threadId": thread, "turn": turn}}));
        } else {
            self.turns += 1;
            let turn = format!("u{}", self.turns);
            daemon.turns.insert(thread.to_owned(), turn.clone());
            self.say(&status("active"));
            let turn = json!({"id": turn, "status": "inProgress", "items": []});
            self.say(&json!({"method": "turn/started", "params": {"threadId": thread, "turn": turn}}));
        }
    }

    fn server_request(&mut self, thread: &str) {
        let Some(daemon) = self.daemon.as_mut().filter(|it| it.subscribed.contains(thread)) else { return };
        if daemon.open.len() > 1 {
            let (id, thread) = daemon.open.remove(0);
            let params = json!({"threadId": thread, "requestId": id});
            return self.say(&json!({"method": "serverRequest/resolved", "params": params}));
        }
        let id = daemon.next_request;
        daemon.next_request += 1;
        daemon.open.push((id, thread.to_owned()));
        let method = "item/commandExecution/requestApproval";
        self.say(&json!({"id": id, "method": method, "params": {"threadId": thread}}));
    }

    /// The daemon ends as codexd does, having read `pending` and begun every other one.
    fn end(&mut self, intended: bool) {
        let Some(daemon) = &mut self.daemon else { return };
        if !daemon.initialized || daemon.pending.iter().any(|it| it["method"] == "initialize") {
            return self.kill();
        }
        let pending = std::mem::take(&mut daemon.pending);
        let (open, turns) = (std::mem::take(&mut daemon.open), std::mem::take(&mut daemon.turns));
        for (index, request) in pending.iter().enumerate() {
            let delivered = if index % 2 == 0 { "maybe" } else { "no" };
            let own =
                json!({"reason": "upstreamLost", "delivered": delivered, "retryable": delivered == "no"});
            let error = json!({"code": -32010, "message": "lost", "data": {"codexd": own}});
            self.say(&json!({"id": request["id"], "error": error}));
        }
        for (thread, turn) in turns {
            let turn = json!({"id": turn, "status": "failed", "items": []});
            let params = json!({"threadId": thread, "status": {"type": "systemError"}});
            self.say(&json!({"method": "thread/status/changed", "params": params}));
            self.say(&json!({"method": "turn/completed", "params": {"threadId": thread, "turn": turn}}));
        }
        for (id, thread) in open {
            let params = json!({"threadId": thread, "requestId": id});
            self.say(&json!({"method": "serverRequest/resolved", "params": params}));
        }
        let params = json!({"reason": "the end", "deadlineMs": 0, "intended": intended});
        self.say(&json!({"method": "notifications/broker/shuttingDown", "params": params}));
        self.kill();
    }

    fn kill(&mut self) {
        if self.daemon.take().is_some() {
            self.state.lost();
            self.see();
            assert!(
                self.client.open_turns.is_empty(),
                "every turn has its end: {:?}",
                self.client.open_turns
            );
            assert!(self.client.open_requests.is_empty(), "every server request is resolved");
        }
    }

    fn connect(&mut self) {
        if self.daemon.is_none() {
            self.daemon = Some(Daemon::default());
            self.state.connected(1);
            self.see();
        }
    }

    /// The client reads.
    fn see(&mut self) {
        for message in values(&self.state.take_output()) {
            let client = &mut self.client;
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            match (message["method"].as_str(), message["id"].as_u64()) {
                (None, Some(id)) => {
                    assert!(client.sent.contains(&id), "{message}");
                    assert!(client.answered.insert(id), "answered twice: {message}");
                }
                (None, None) => panic!("an answer to nothing: {message}"),
                (Some("turn/started"), _) => {
                    let turn = (text(&message["params"]["threadId"]), text(&message["params"]["turn"]["id"]));
                    assert!(client.open_turns.insert(turn));
                }
                (Some("turn/completed"), _) => {
                    let turn = (text(&message["params"]["threadId"]), text(&message["params"]["turn"]["id"]));
                    assert!(client.open_turns.remove(&turn), "an end without a beginning: {message}");
                    assert!(client.ended_turns.insert(turn), "ended twice: {message}");
                }
                (Some("item/commandExecution/requestApproval"), _) => {
                    let id = message["id"].as_i64().unwrap();
                    assert!(client.open_requests.insert(id) && !client.resolved.contains(&id), "{message}");
                }
                (Some("serverRequest/resolved"), _) => {
                    let id = message["params"]["requestId"].as_i64().unwrap();
                    assert!(client.open_requests.remove(&id), "resolved without a request: {message}");
                    client.resolved.insert(id);
                }
                _ => {}
            }
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send { method, thread } => self.send(method, thread),
            Step::Take(bytes) => self.take(usize::from(bytes)),
            Step::Answer { latest, failed } => self.answer(latest, failed),
            Step::Turn { thread } => self.turn(&format!("t{thread}")),
            Step::ServerRequest { thread } => self.server_request(&format!("t{thread}")),
            Step::Approve => {
                if let Some(id) = self.client.open_requests.last().copied() {
                    self.line(&json!({"id": id, "result": {"decision": "accept"}}));
                }
            }
            Step::End { intended } => self.end(intended),
            Step::Kill => self.kill(),
            Step::Connect => self.connect(),
            Step::Upgrade => self.upgrade(),
        }
    }
}

proptest! {
    #[test]
    fn one_answer_one_end_one_resolution(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        // At last there is a daemon that does its work, or there is none for ever.
        world.connect();
        world.take(usize::MAX);
        if world.daemon.as_ref().is_some_and(|daemon| daemon.upgrades) {
            world.upgrade();
        }
        for _ in 0..400 {
            world.take(usize::MAX);
            world.answer(false, false);
        }
        let left: Vec<&u64> = world.client.sent.difference(&world.client.answered).collect();
        prop_assert!(left.is_empty(), "without an answer: {left:?}");
        prop_assert_eq!(world.state.unanswered(), 0);
        prop_assert_eq!(world.state.kept_bytes(), 0);
        world.kill();
    }

    #[test]
    fn giving_up_answers_everything_once(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.kill();
        world.state.give_up("no daemon is available");
        world.see();
        prop_assert_eq!(&world.client.sent, &world.client.answered);
        prop_assert_eq!(world.state.kept_bytes(), 0);
    }
}
