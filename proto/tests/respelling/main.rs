//! However a message is spelled, it is routed the same.
//!
//! Two routers have the same conversations: several clients and an upstream that answers. To one router every
//! message is given in its plain spelling, to the other with escapes in its strings, white space, its members in
//! another order and, in the parameters of a client, given twice; and read in slices. Both must send the same to
//! everybody.
//!
//! `PROPTEST_CASES=10000 cargo test -p codexd-proto --test respelling` has more of them.
#![allow(clippy::unwrap_used)]

mod spelling;

use codexd_proto::id::ClientId;
use codexd_proto::message::Reader;
use codexd_proto::router::{Action, Config, Limits, Loss, Router, ShutdownNotice};
use codexd_proto::time::Time;
use proptest::prelude::*;
use serde_json::{Value, json};

use spelling::Spelling;

/// Clients at most.
const CLIENTS: usize = 4;

/// What happens. Numbers choose among what there is.
#[derive(Clone, Debug)]
enum Op {
    Connect,
    Leave(usize),
    Initialize { client: usize, kind: usize },
    Request { client: usize, id: usize, kind: usize, thread: usize, name: usize },
    Notification { client: usize, kind: usize },
    Answer { client: usize, request: i64, kind: usize },
    Respond { pending: usize, kind: usize, thread: usize, turn: usize },
    Notify { kind: usize, thread: usize, turn: usize, owner: usize, name: usize },
    Ask { kind: usize, id: i64, thread: usize },
    Pass(u64),
    Drain,
    Interrupt,
}

fn op() -> impl Strategy<Value = Op> {
    let thread = 0..4usize;
    let name = 0..NAMES.len();
    let client = 0..CLIENTS;
    prop_oneof![
        2 => Just(Op::Connect),
        1 => client.clone().prop_map(Op::Leave),
        4 => (client.clone(), 0..5usize).prop_map(|(client, kind)| Op::Initialize { client, kind }),
        20 => (client.clone(), name.clone(), 0..REQUESTS, thread.clone(), name.clone())
            .prop_map(|(client, id, kind, thread, name)| Op::Request { client, id, kind, thread, name }),
        1 => (client.clone(), 0..3usize).prop_map(|(client, kind)| Op::Notification { client, kind }),
        4 => (client, 0..4i64, 0..5usize)
            .prop_map(|(client, request, kind)| Op::Answer { client, request, kind }),
        18 => (0..6usize, 0..8usize, thread.clone(), 0..3usize)
            .prop_map(|(pending, kind, thread, turn)| Op::Respond { pending, kind, thread, turn }),
        14 => (0..NOTIFICATIONS, thread.clone(), 0..3usize, 0..2usize, name)
            .prop_map(|(kind, thread, turn, owner, name)| Op::Notify { kind, thread, turn, owner, name }),
        5 => (0..6usize, 0..4i64, thread).prop_map(|(kind, id, thread)| Op::Ask { kind, id, thread }),
        2 => (0..60u64).prop_map(Op::Pass),
        1 => prop_oneof![Just(Op::Drain), Just(Op::Interrupt)],
    ]
}

/// What clients call their requests, processes and watches.
const NAMES: [&str; 6] = ["a", "p/1", "é \"quoted\" \\", "😀", "", "17:x"];

/// Of processes there are few, so that what is reported of one is often about one that runs.
fn process(name: usize) -> &'static str {
    NAMES[1 + name % 2]
}

/// The id of a thread, in the form the upstream gives them.
fn thread(n: usize) -> String {
    format!("00000000-0000-7000-8000-00000000000{n}")
}

const REQUESTS: usize = 50;

/// The method and the parameters of a request.
fn request(kind: usize, thread_: usize, name: usize) -> (&'static str, Value) {
    let (id, process, name) = (thread(thread_), process(name), NAMES[name]);
    let input = json!([{"type": "text", "text": "say \"é\"\n/ 😀"}]);
    match kind {
        0 => ("thread/start", json!({})),
        1 => ("thread/start", json!({"cwd": "/", "dynamicTools": []})),
        2 => ("thread/start", json!({"approvalPolicy": {"granular": {"x": 1}}})),
        3 => ("thread/start", json!({"approvalPolicy": "never", "permissions": null})),
        4 | 5 => ("thread/resume", json!({"threadId": id})),
        6 => ("thread/resume", json!({"threadId": id, "path": "/x"})),
        7 => ("thread/resume", json!({"threadId": id, "excludeTurns": true, "path": null})),
        8 => ("thread/fork", json!({"threadId": id})),
        9..=11 => ("thread/unsubscribe", json!({"threadId": id})),
        12 => ("thread/archive", json!({"threadId": id})),
        13..=15 => ("turn/start", json!({"threadId": id, "input": input})),
        16 => ("turn/start", json!({"threadId": id, "input": input, "environments": []})),
        17 => ("turn/interrupt", json!({"threadId": id, "turnId": "u0"})),
        18 => ("thread/read", json!({"threadId": id, "includeTurns": true})),
        19 => ("command/exec", json!({"command": ["ls", name], "processId": name})),
        20 => ("command/exec", json!({"command": ["ls"], "processId": null})),
        21 => ("command/exec", json!({"command": ["ls"], "tty": true, "processId": name})),
        22 => ("command/exec", json!({"command": ["ls"], "streamStdin": true})),
        23 => ("command/exec/terminate", json!({"processId": name})),
        24 => ("command/exec/write", json!({"processId": name, "deltaBase64": ""})),
        25 | 38..=41 => ("process/spawn", json!({"processHandle": process, "command": ["ls"]})),
        26 => ("process/kill", json!({"processHandle": process})),
        27 => ("fs/watch", json!({"watchId": name, "path": "/"})),
        28 => ("fs/unwatch", json!({"watchId": name})),
        29 => ("thread/sample/cancel", json!({"requestId": name})),
        30 => ("account/login/start", json!({"type": "chatgptAuthTokens"})),
        31 => ("account/login/start", json!({"type": "apiKey", "apiKey": "k"})),
        32 => ("server/diagnostics", json!({})),
        33 => ("windowsSandbox/setupStart", json!({"mode": "x"})),
        34 => ("thread/list", json!({"projectId": null, "parentThreadId": id})),
        35 => ("newer/method", json!({"threadId": id, "x": {"y": [1, name]}})),
        36 => ("broker/status", json!({})),
        37 => ("broker/shutdown", json!({})),
        // By position.
        42 => ("thread/unsubscribe", json!([id])),
        43 => ("thread/resume", json!([id, null, null])),
        44 => ("thread/read", json!([id, true])),
        45 => ("thread/start", json!([name, null, false, null, "/", null, {"granular": {"x": 1}}])),
        46 => ("process/spawn", json!([["ls", name], process, "/"])),
        47 => ("process/kill", json!([process])),
        48 => ("account/login/start", json!(["chatgptAuthTokens", name])),
        _ => ("thread/sample/cancel", json!([name])),
    }
}

/// What a client sends to introduce itself.
fn initialize(kind: usize) -> Value {
    let capabilities = match kind {
        0 => json!({"experimentalApi": true}),
        1 => {
            json!({"optOutNotificationMethods": ["item/agentMessage/delta", "newer/note", "thread/started"]})
        }
        2 => json!({"experimentalApi": true, "requestAttestation": true}),
        3 => json!(null),
        _ => json!({"experimentalApi": "no"}),
    };
    json!({"clientInfo": {"name": "c/1 \"é\"", "version": "1"}, "capabilities": capabilities})
}

/// What the upstream answers to a request.
fn response(id: &Value, method: &str, kind: usize, thread_: &str, turn: usize) -> Value {
    let turn = json!({"id": format!("u{turn}"), "items": [], "status": "inProgress", "error": null});
    let result = match (method, kind) {
        (_, 0) => {
            return json!({"id": id, "error": {"code": -32001, "message": "Server overloaded; retry later."}});
        }
        (_, 1) => {
            let message = "no such thing: \"1:p/1\", 2:é \\\"quoted\\\" \\\\\\\\, \"1:😀\", \"3:\"";
            return json!({"id": id, "error": {"code": -32600, "message": message}});
        }
        ("thread/start" | "thread/resume" | "thread/fork", 2 | 3) => {
            json!({"thread": {"id": thread_, "status": {"type": "active"}, "turns": [turn]}})
        }
        ("thread/start" | "thread/resume" | "thread/fork", _) => {
            json!({"thread": {"id": thread_, "status": {"type": "idle"}, "turns": []}})
        }
        ("turn/start", _) => json!({"turn": turn}),
        ("command/exec", _) => json!({"exitCode": 0, "processId": "1:p/1"}),
        _ => json!({}),
    };
    json!({"id": id, "result": result})
}

const NOTIFICATIONS: usize = 29;

/// The method and the parameters of a notification. `owner` is an id of a client's.
fn notification(kind: usize, thread_: usize, turn: usize, owner: &str) -> (&'static str, Value) {
    let id = thread(thread_);
    let turn_id = format!("u{turn}");
    let turn = json!({"id": turn_id, "items": [], "status": "inProgress", "error": null});
    match kind {
        0 => ("thread/started", json!({"thread": {"id": id, "status": {"type": "idle"}}})),
        1 => ("thread/status/changed", json!({"threadId": id, "status": {"type": "active"}})),
        2 => ("thread/status/changed", json!({"threadId": id, "status": {"type": "idle"}})),
        3 => ("thread/status/changed", json!({"threadId": id, "status": {"type": "notLoaded"}})),
        4 => ("thread/closed", json!({"threadId": id})),
        5 | 6 => ("turn/started", json!({"threadId": id, "turn": turn})),
        7 | 8 => ("turn/completed", json!({"threadId": id, "turn": turn})),
        9..=11 => ("item/agentMessage/delta", json!({"threadId": id, "delta": "\"é\"/\n"})),
        12 => (
            "item/completed",
            json!({"threadId": id, "item": {"type": "agentMessage", "phase": "final_answer"}}),
        ),
        13 => ("item/started", json!({"threadId": id, "item": {"type": "reasoning"}})),
        14 => ("thread/tokenUsage/updated", json!({"threadId": id, "turnId": turn_id})),
        15 => ("account/rateLimits/updated", json!({"rateLimits": {}})),
        16 => ("serverRequest/resolved", json!({"threadId": id, "requestId": thread_})),
        17 => ("command/exec/outputDelta", json!({"processId": owner, "deltaBase64": "eA=="})),
        18 | 26..=28 => ("process/exited", json!({"processHandle": owner, "exitCode": 0})),
        19 => ("fs/changed", json!({"watchId": owner, "changedPaths": ["/é"]})),
        20 => ("configWarning", json!({"summary": "s/\"t\""})),
        21 => ("remoteControl/status/changed", json!({"status": "off"})),
        22 => ("deprecationNotice", json!({"summary": "s"})),
        23 => ("windowsSandbox/setupCompleted", json!({"success": true})),
        24 => ("newer/note", json!({"threadId": id})),
        _ => ("newer/note", json!({"x": 1})),
    }
}

fn server_request(kind: usize, thread_: usize) -> (&'static str, Value) {
    let id = thread(thread_);
    match kind {
        0 | 1 => (
            "item/commandExecution/requestApproval",
            json!({"threadId": id, "additionalPermissions": {"a": [1]}, "command": "ls \"é\""}),
        ),
        2 => ("item/tool/call", json!({"threadId": id})),
        3 => ("currentTime/read", json!({"threadId": id})),
        4 => ("account/chatgptAuthTokens/refresh", json!({})),
        _ => ("attestation/generate", json!({})),
    }
}

/// A router, its clients, and what it has sent.
struct Side {
    router: Router,
    clients: Vec<ClientId>,
}

impl Side {
    fn new() -> Side {
        let limits = Limits { window: 6, deferral_ms: 50, window_release_ms: 40, ..Limits::default() };
        Side { router: Router::new(Config { limits, ..Config::default() }, Time::ZERO), clients: Vec::new() }
    }

    /// Takes everything that waits: the upstream's lines, those of each client, and actions.
    fn take(&mut self) -> (Vec<String>, Vec<Vec<String>>, Vec<Action>) {
        let lines = |bytes: &[u8]| -> Vec<String> {
            std::str::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
        };
        let outbox = self.router.upstream_outbox();
        let mut up = Vec::new();
        while !outbox.is_empty() {
            let pending = outbox.pending();
            up.extend(lines(pending));
            outbox.advance(pending.len(), false);
        }
        while self.router.poll_dirty().is_some() {}
        let mut down = Vec::new();
        for client in self.clients.clone() {
            let mut got = Vec::new();
            while let Some(outbox) = self.router.outbox(client).filter(|outbox| !outbox.is_empty()) {
                let pending = outbox.pending();
                got.extend_from_slice(pending);
                let bytes = pending.len();
                self.router.client_written(client, bytes, false);
            }
            down.push(lines(&got));
        }
        (up, down, std::iter::from_fn(|| self.router.poll_action()).collect())
    }
}

/// Both routers.
struct Pair {
    plain: Side,
    spelled: Side,
    now: Time,
    /// Requests that the upstream has not answered: id, method, thread that they name.
    pending: Vec<(Value, String, String)>,
    requests: usize,
}

impl Pair {
    fn new() -> Pair {
        let mut pair = Pair {
            plain: Side::new(),
            spelled: Side::new(),
            now: Time::ZERO,
            pending: Vec::new(),
            requests: 0,
        };
        pair.compare_sent();
        let result = json!({"userAgent": "x/0.169.0 (\"é\"/)"});
        pair.upstream_sends(&json!({"id": 0, "result": result}), 77);
        pair.pending.clear();
        pair
    }

    fn client_sends(&mut self, client: usize, message: &Value, seed: u64) {
        let at = client % self.plain.clients.len().max(1);
        let Some(client) = self.plain.clients.get(at).copied() else { return };
        let plain = message.to_string();
        let spelled = Spelling::of_client(seed).message(message);
        self.plain.router.client_line(self.now, client, plain.as_bytes());
        // As a long one, in slices.
        let mut reader = Reader::default();
        while !reader.advance(spelled.as_bytes(), 1 + (seed % 40) as usize) {}
        self.spelled.router.client_line_read(self.now, client, spelled.into_bytes(), reader);
        self.compare_sent();
    }

    fn upstream_sends(&mut self, message: &Value, seed: u64) {
        let plain = message.to_string();
        let spelled = Spelling::of_upstream(seed).message(message);
        self.plain.router.upstream_line(self.now, plain.as_bytes());
        self.spelled.router.upstream_line(self.now, spelled.as_bytes());
        self.compare_sent();
    }

    fn both(&mut self, mut change: impl FnMut(&mut Router, Time)) {
        change(&mut self.plain.router, self.now);
        change(&mut self.spelled.router, self.now);
        self.compare_sent();
    }

    /// Compares what both have sent, and records the requests.
    fn compare_sent(&mut self) {
        let read = |lines: &[String]| -> Vec<Value> {
            let read =
                |line: &String| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {lines:?}"));
            lines.iter().map(read).collect()
        };
        loop {
            let (up, down, actions) = self.plain.take();
            let (up_spelled, down_spelled, actions_spelled) = self.spelled.take();
            assert_eq!(read(&up), read(&up_spelled), "to the upstream: {up:#?} {up_spelled:#?}");
            for (at, (plain, spelled)) in down.iter().zip(&down_spelled).enumerate() {
                assert_eq!(read(plain), read(spelled), "to client {at}: {plain:#?} {spelled:#?}");
            }
            assert_eq!(actions, actions_spelled);
            for line in
                read(&up).into_iter().filter(|line| line.get("method").is_some() && line.get("id").is_some())
            {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let thread = text(&line["params"]["threadId"]);
                self.pending.push((line["id"].clone(), text(&line["method"]), thread));
                self.requests += 1;
            }
            // What they keep is the same, but for the bytes of it.
            let counts = |router: &Router| {
                let kept = router.accounting();
                (
                    [
                        kept.pending,
                        kept.queued,
                        kept.window,
                        kept.waiting,
                        kept.paused,
                        kept.deferred,
                        kept.opening,
                    ],
                    [
                        kept.reading_turns,
                        kept.metered,
                        kept.deferred_unsubscribes,
                        kept.server_requests,
                        kept.turns,
                    ],
                    [
                        kept.subscribers,
                        kept.subscriptions,
                        kept.resources,
                        kept.answers,
                        kept.unconsumed_answers,
                    ],
                )
            };
            assert_eq!(counts(&self.plain.router), counts(&self.spelled.router));
            let closed: Vec<ClientId> = actions
                .iter()
                .filter_map(|action| match action {
                    Action::Close { client, .. } => Some(*client),
                    _ => None,
                })
                .collect();
            if closed.is_empty() && up.is_empty() {
                return;
            }
            for client in closed {
                self.leave(client);
            }
        }
    }

    fn leave(&mut self, client: ClientId) {
        for side in [&mut self.plain, &mut self.spelled] {
            side.router.client_gone(self.now, client);
            side.clients.retain(|other| *other != client);
        }
    }

    fn run(&mut self, op: &Op, seed: u64) {
        match *op {
            Op::Connect if self.plain.clients.len() < CLIENTS => {
                let (a, b) = (
                    self.plain.router.client_connected(self.now),
                    self.spelled.router.client_connected(self.now),
                );
                assert_eq!(a, b);
                self.plain.clients.push(a);
                self.spelled.clients.push(b);
            }
            Op::Connect => {}
            Op::Leave(at) => {
                if let Some(client) = self.plain.clients.get(at).copied() {
                    self.leave(client);
                    self.compare_sent();
                }
            }
            Op::Initialize { client, kind } => {
                let message = json!({"id": "init", "method": "initialize", "params": initialize(kind)});
                self.client_sends(client, &message, seed);
            }
            Op::Request { client, id, kind, thread, name } => {
                let (method, params) = request(kind, thread, name);
                let id = if id == 0 { json!(7) } else { json!(NAMES[id]) };
                self.client_sends(client, &json!({"id": id, "method": method, "params": params}), seed);
            }
            Op::Notification { client, kind } => {
                let message = match kind {
                    0 => json!({"method": "initialized"}),
                    1 => json!({"method": "newer/notification", "params": {"x": "é"}}),
                    _ => json!({"method": "newer/notification", "trace": 5}),
                };
                self.client_sends(client, &message, seed);
            }
            Op::Answer { client, request, kind } => {
                let message = match kind {
                    0 => json!({"id": request, "error": {"code": -1, "message": "no \"é\""}}),
                    1 => json!({"id": request, "error": [-1, null, "no"]}),
                    2 => json!({"id": request, "error": {"code": "x", "message": "no"}}),
                    3 => json!({"id": request.to_string(), "result": {}}),
                    _ => json!({"id": request, "result": {"decision": "accept/é"}}),
                };
                // Of an answer's members, none may be given twice, wherever it is.
                let spelled = Spelling::of_upstream(seed).message(&message);
                let Some(client) = self.plain.clients.get(client).copied() else { return };
                self.plain.router.client_line(self.now, client, message.to_string().as_bytes());
                self.spelled.router.client_line(self.now, client, spelled.as_bytes());
                self.compare_sent();
            }
            Op::Respond { pending, kind, thread: at, turn } => {
                if self.pending.is_empty() {
                    return;
                }
                let (id, method, named) = self.pending.remove(pending % self.pending.len());
                let thread = if named.is_empty() || method == "thread/fork" { thread(at) } else { named };
                self.upstream_sends(&response(&id, &method, kind, &thread, turn), seed);
            }
            Op::Notify { kind, thread, turn, owner, name } => {
                let client = self.plain.clients.get(owner).map_or(99, |client| client.0);
                let name = if matches!(kind, 18 | 26..) { process(name) } else { NAMES[name] };
                let owner = format!("{client}:{name}");
                let (method, params) = notification(kind, thread, turn, &owner);
                self.upstream_sends(&json!({"method": method, "params": params, "emittedAtMs": 5}), seed);
            }
            Op::Ask { kind, id, thread } => {
                let (method, params) = server_request(kind, thread);
                self.upstream_sends(&json!({"method": method, "id": id, "params": params}), seed);
            }
            Op::Pass(ms) => {
                self.now = self.now + ms;
                self.both(Router::handle_timeout);
            }
            Op::Drain => {
                let notice = ShutdownNotice {
                    reason: "stop",
                    deadline_ms: None,
                    retry_after_ms: None,
                    intended: true,
                };
                self.both(|router, now| router.begin_drain(now, &notice));
            }
            Op::Interrupt => self.both(Router::interrupt_turns),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_message_is_routed_the_same_however_it_is_spelled(
        ops in prop::collection::vec((op(), any::<u64>()), 1..120)
    ) {
        let mut pair = Pair::new();
        // Somebody is there from the start, else much would come to nothing.
        for kind in [0, 1] {
            pair.run(&Op::Connect, 1);
            pair.run(&Op::Initialize { client: kind, kind }, 3);
        }
        for (op, seed) in &ops {
            pair.run(op, *seed);
        }
        let loss = Loss { reason: "upstreamLost", message: "gone".into() };
        let notice = ShutdownNotice { reason: "gone", deadline_ms: Some(0), retry_after_ms: None, intended: true };
        pair.both(|router, now| router.upstream_lost(now, loss.clone(), &notice));
    }
}
