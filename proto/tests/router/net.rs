//! A router with nothing around it: lines in, lines out.

use codexd_proto::id::ClientId;
use codexd_proto::json::text_check::TextCheck;
use codexd_proto::router::{Action, Config, Identity, Limits, Loss, Router, ShutdownNotice};
use codexd_proto::time::Time;
use serde_json::{Value, json};

pub(crate) struct Net {
    pub(crate) router: Router,
    pub(crate) now: Time,
}

/// The id of the n-th thread, in the form the upstream gives them.
pub(crate) fn thread(n: u32) -> String {
    format!("00000000-0000-7000-8000-{n:012}")
}

/// A notification as the upstream writes it.
pub(crate) fn note(method: &str, params: &Value) -> String {
    format!(r#"{{"method":"{method}","params":{params},"emittedAtMs":1760000000000}}"#)
}

/// A server request as the upstream writes it.
pub(crate) fn server_request(id: i64, method: &str, params: &Value) -> String {
    format!(r#"{{"method":"{method}","id":{id},"params":{params}}}"#)
}

/// An approval that the upstream asks for.
pub(crate) fn approval(id: i64, thread: &str) -> String {
    let params = json!({"threadId": thread, "turnId": "u", "itemId": "i", "command": "ls"});
    server_request(id, "item/commandExecution/requestApproval", &params)
}

/// A delta with a number in it.
pub(crate) fn delta(thread: &str, n: u32) -> String {
    let params = json!({"threadId": thread, "turnId": "u", "itemId": "i", "delta": n.to_string()});
    note("item/agentMessage/delta", &params)
}

pub(crate) fn turn_started(thread: &str, turn: &str) -> String {
    let turn =
        json!({"id": turn, "items": [], "itemsView": "notLoaded", "status": "inProgress", "error": null});
    note("turn/started", &json!({"threadId": thread, "turn": turn}))
}

pub(crate) fn turn_completed(thread: &str, turn: &str) -> String {
    let turn = json!({"id": turn, "items": [], "status": "completed", "error": null});
    note("turn/completed", &json!({"threadId": thread, "turn": turn}))
}

pub(crate) fn status(thread: &str, kind: &str) -> String {
    note("thread/status/changed", &json!({"threadId": thread, "status": {"type": kind}}))
}

/// The methods of some lines; `<result>` and `<error>` for answers.
pub(crate) fn methods(lines: &[Value]) -> Vec<String> {
    lines
        .iter()
        .map(|l| match l["method"].as_str() {
            Some(method) => method.to_owned(),
            None if l.get("error").is_some() => "<error>".to_owned(),
            None => "<result>".to_owned(),
        })
        .collect()
}

pub(crate) const ORIGINATOR: &str = "codexd_tests";

/// The settings of the tests' routers.
pub(crate) fn config(limits: Limits) -> Config {
    Config {
        identity: Identity { version: "0.9.1".into(), instance: "default".into(), generation: 7 },
        originator: ORIGINATOR.into(),
        limits,
        ..Config::default()
    }
}

impl Net {
    /// A router whose upstream has not answered the handshake.
    pub(crate) fn starting(limits: Limits) -> Net {
        Net::with_config(config(limits))
    }

    pub(crate) fn with_config(config: Config) -> Net {
        let now = Time::from_millis(1_000);
        Net { router: Router::new(config, now), now }
    }

    /// A router that serves.
    pub(crate) fn new() -> Net {
        Net::limited(Limits::default())
    }

    pub(crate) fn limited(limits: Limits) -> Net {
        let mut net = Net::starting(limits);
        net.finish_handshake();
        net
    }

    pub(crate) fn finish_handshake(&mut self) {
        assert_eq!(methods(&self.sent()), ["initialize"]);
        self.reply(
            0,
            &json!({
                "userAgent": format!("{ORIGINATOR}/0.169.0 (Linux; x86_64) xterm ({ORIGINATOR}; 0.9.1)"),
                "codexHome": "/home/someone/.codex",
                "platformFamily": "unix",
                "platformOs": "linux",
            }),
        );
        assert_eq!(methods(&self.sent()), ["initialized"]);
        assert_eq!(self.router.poll_action(), Some(Action::UpstreamReady));
    }

    // ---- clients -------------------------------------------------------------------------------

    pub(crate) fn connect(&mut self) -> ClientId {
        self.router.client_connected(self.now)
    }

    /// A client with the experimental interface.
    pub(crate) fn join(&mut self) -> ClientId {
        self.join_with(&json!({"experimentalApi": true}))
    }

    pub(crate) fn join_with(&mut self, capabilities: &Value) -> ClientId {
        let client = self.connect();
        let params = json!({"clientInfo": {"name": "c", "version": "1"}, "capabilities": capabilities});
        self.request(client, json!("init"), "initialize", &params);
        assert_eq!(self.got(client)[0]["id"], "init");
        client
    }

    pub(crate) fn leave(&mut self, client: ClientId) {
        self.router.client_gone(self.now, client);
    }

    pub(crate) fn send(&mut self, client: ClientId, line: &str) {
        self.send_bytes(client, line.as_bytes());
    }

    pub(crate) fn send_bytes(&mut self, client: ClientId, line: &[u8]) {
        self.router.client_line(self.now, client, line);
    }

    pub(crate) fn request(&mut self, client: ClientId, id: impl Into<Value>, method: &str, params: &Value) {
        let line = json!({"id": id.into(), "method": method, "params": params});
        self.send(client, &line.to_string());
    }

    /// Sends a request that is expected to go up at once; returns the id it has there.
    pub(crate) fn forwarded(&mut self, client: ClientId, method: &str, params: &Value) -> i64 {
        assert_eq!(self.sent(), [] as [Value; 0], "something else was under way");
        self.request(client, "r", method, params);
        let sent = self.sent();
        assert_eq!(methods(&sent), [method], "{sent:?}");
        sent[0]["id"].as_i64().unwrap()
    }

    /// The lines a client got since the last time, byte for byte.
    pub(crate) fn got_raw(&mut self, client: ClientId) -> Vec<String> {
        let mut text = String::new();
        while let Some(outbox) = self.router.outbox(client).filter(|outbox| !outbox.is_empty()) {
            let pending = outbox.pending();
            text.push_str(std::str::from_utf8(pending).unwrap());
            let bytes = pending.len();
            self.router.client_written(client, bytes, false);
        }
        assert!(text.is_empty() || text.ends_with('\n'));
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn got(&mut self, client: ClientId) -> Vec<Value> {
        self.got_raw(client).iter().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    /// The one line a client got.
    pub(crate) fn got_one(&mut self, client: ClientId) -> Value {
        let lines = self.got(client);
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines[0].clone()
    }

    pub(crate) fn got_methods(&mut self, client: ClientId) -> Vec<String> {
        methods(&self.got(client))
    }

    /// Empties the inboxes of all clients.
    pub(crate) fn hush(&mut self, clients: &[ClientId]) {
        for client in clients {
            self.got_raw(*client);
        }
        self.sent_raw();
    }

    // ---- the upstream --------------------------------------------------------------------------

    pub(crate) fn feed(&mut self, line: &str) {
        self.feed_bytes(line.as_bytes());
    }

    /// Half of the lines are handled as long ones are: nothing else may depend on that.
    pub(crate) fn feed_bytes(&mut self, line: &[u8]) {
        if line.len().is_multiple_of(2) {
            self.router.upstream_line(self.now, line);
        } else {
            self.router.upstream_line_read(self.now, line.to_vec(), &TextCheck::of(line));
        }
    }

    pub(crate) fn reply(&mut self, id: i64, result: &Value) {
        self.feed(&format!(r#"{{"id":{id},"result":{result}}}"#));
    }

    pub(crate) fn fail(&mut self, id: i64, message: &str) {
        self.feed(&json!({"error": {"code": -32600, "message": message}, "id": id}).to_string());
    }

    /// The upstream has no room for a request.
    pub(crate) fn overloaded(&mut self, id: i64) {
        let error = json!({"code": -32001, "message": "Server overloaded; retry later."});
        self.feed(&json!({"error": error, "id": id}).to_string());
    }

    /// The lines that went up since the last time, byte for byte.
    pub(crate) fn sent_raw(&mut self) -> Vec<String> {
        let outbox = self.router.upstream_outbox();
        let mut bytes = Vec::new();
        while !outbox.is_empty() {
            let pending = outbox.pending();
            bytes.extend_from_slice(pending);
            outbox.advance(pending.len(), false);
        }
        let text = String::from_utf8(bytes).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn sent(&mut self) -> Vec<Value> {
        self.sent_raw().iter().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    pub(crate) fn thread_result(thread: &str, status: &str) -> Value {
        json!({"thread": {"id": thread, "status": {"type": status}, "turns": []}, "model": "m"})
    }

    /// A client starts a thread; all inboxes are empty afterwards.
    pub(crate) fn start_thread(&mut self, client: ClientId, n: u32) -> String {
        let name = thread(n);
        let id = self.forwarded(client, "thread/start", &json!({}));
        self.reply(id, &Net::thread_result(&name, "idle"));
        assert_eq!(self.got_one(client)["result"]["thread"]["id"], name);
        name
    }

    /// A client resumes a thread; its inbox is empty afterwards.
    pub(crate) fn resume_thread(&mut self, client: ClientId, name: &str) {
        let id = self.forwarded(client, "thread/resume", &json!({"threadId": name, "excludeTurns": true}));
        self.reply(id, &Net::thread_result(name, "idle"));
        assert_eq!(methods(&self.got(client)), ["<result>"]);
    }

    /// A client resumes a thread on which something runs; its inbox is not emptied.
    pub(crate) fn resume_thread_running(&mut self, client: ClientId, name: &str) {
        let id = self.forwarded(client, "thread/resume", &json!({"threadId": name, "excludeTurns": true}));
        self.reply(id, &Net::thread_result(name, "active"));
    }

    /// A turn begins on a thread; no inbox is emptied.
    pub(crate) fn open_turn(&mut self, name: &str, turn: &str) {
        self.feed(&status(name, "active"));
        self.feed(&turn_started(name, turn));
    }

    pub(crate) fn lose(&mut self) {
        let loss = Loss { reason: "upstreamLost", message: "codex app-server was killed".into() };
        let notice = ShutdownNotice {
            reason: "gone",
            deadline_ms: Some(0),
            retry_after_ms: Some(1_000),
            intended: false,
        };
        self.router.upstream_lost(self.now, loss, &notice);
    }

    pub(crate) fn drain(&mut self) {
        let notice = ShutdownNotice {
            reason: "stopping",
            deadline_ms: Some(30_000),
            retry_after_ms: Some(1_000),
            intended: true,
        };
        self.router.begin_drain(self.now, &notice);
    }

    pub(crate) fn pass(&mut self, ms: u64) {
        self.now = self.now + ms;
        self.router.handle_timeout(self.now);
    }

    pub(crate) fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.router.poll_action()).collect()
    }
}
