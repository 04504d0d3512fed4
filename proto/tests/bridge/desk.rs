//! A client and a row of daemons around the state, without I/O.

use codexd_proto::bridge::{ConnectionState, Delivery};
use serde_json::{Value, json};

pub(crate) struct Desk {
    pub(crate) state: ConnectionState,
    generation: u64,
}

impl Desk {
    /// A client that has sent nothing.
    pub(crate) fn new() -> Desk {
        Desk { state: ConnectionState::new(None, Some("/here".to_owned())), generation: 7 }
    }

    /// A client that is initialized.
    pub(crate) fn initialized() -> Desk {
        Desk::with_capabilities(&Value::Null)
    }

    pub(crate) fn with_capabilities(capabilities: &Value) -> Desk {
        let mut desk = Desk::new();
        let params = json!({"clientInfo": {"name": "c", "version": "1"}, "capabilities": capabilities});
        desk.client(&json!({"id": "i", "method": "initialize", "params": params}));
        desk.daemon_takes_all();
        assert_eq!(desk.greeted().len(), 1);
        desk.client(&json!({"method": "initialized"}));
        desk.daemon_takes_all();
        desk
    }

    /// The client sends a message.
    pub(crate) fn client(&mut self, message: &Value) {
        self.state.client_line(format!("{message}\n").into_bytes());
    }

    /// The daemon reads all that is for it now.
    pub(crate) fn daemon_takes_all(&mut self) -> Vec<Value> {
        let mut text = Vec::new();
        while let Some(bytes) = self.state.to_daemon() {
            let length = bytes.len();
            text.extend_from_slice(bytes);
            self.state.daemon_took(length);
        }
        values(&text)
    }

    /// The daemon answers the handshake. Returns what the client gets.
    pub(crate) fn greeted(&mut self) -> Vec<Value> {
        let generation = self.generation;
        self.daemon(&json!({"id": "i", "result": {"codexd": {"generation": generation}}}))
    }

    /// The daemon sends a message. Returns what the client gets.
    pub(crate) fn daemon(&mut self, message: &Value) -> Vec<Value> {
        assert_eq!(self.state.daemon_line(format!("{message}\n").as_bytes()), Delivery::Done);
        self.output()
    }

    pub(crate) fn output(&mut self) -> Vec<Value> {
        values(&self.state.take_output())
    }

    /// The daemon is lost. Returns what the client gets.
    pub(crate) fn lost(&mut self) -> Vec<Value> {
        self.state.lost();
        self.output()
    }

    /// The next daemon takes the client; returns what it gets after the handshake, of which the client sees nothing.
    pub(crate) fn next_daemon(&mut self) -> Vec<Value> {
        self.generation += 1;
        self.state.connected(5);
        let handshake = self.daemon_takes_all();
        assert_eq!(handshake.len(), 1, "{handshake:?}");
        let seen = self.greeted();
        assert!(seen.iter().all(|it| it["method"] == "notifications/broker/upstreamRestarted"), "{seen:?}");
        let rest = self.daemon_takes_all();
        assert_eq!(rest[0], json!({"method": "initialized"}));
        rest[1..].to_vec()
    }

    /// A request is sent, and answered with this result. Returns what the client gets.
    pub(crate) fn ask(&mut self, id: u64, method: &str, params: &Value, result: &Value) -> Vec<Value> {
        self.client(&json!({"id": id, "method": method, "params": params}));
        assert!(self.daemon_takes_all().iter().any(|it| it["id"] == id));
        self.daemon(&json!({"id": id, "result": result}))
    }

    /// A thread is started.
    pub(crate) fn thread(&mut self, id: u64, thread: &str) {
        let result = json!({"thread": {"id": thread, "status": {"type": "idle"}, "turns": []}});
        self.ask(id, "thread/start", &json!({}), &result);
    }

    /// A turn is started, and runs.
    pub(crate) fn turn(&mut self, id: u64, thread: &str, turn: &str) {
        let object = json!({"id": turn, "items": [], "status": "inProgress", "error": null});
        self.ask(id, "turn/start", &json!({"threadId": thread, "input": []}), &json!({"turn": object}));
        self.status(thread, "active");
        self.daemon(&json!({"method": "turn/started", "params": {"threadId": thread, "turn": object}}));
    }

    pub(crate) fn status(&mut self, thread: &str, status: &str) -> Vec<Value> {
        let params = json!({"threadId": thread, "status": {"type": status}});
        self.daemon(&json!({"method": "thread/status/changed", "params": params}))
    }
}

pub(crate) fn values(text: &[u8]) -> Vec<Value> {
    text.split(|b| *b == b'\n')
        .filter(|it| !it.is_empty())
        .map(|it| serde_json::from_slice(it).unwrap())
        .collect()
}

pub(crate) fn methods(lines: &[Value]) -> Vec<&str> {
    lines.iter().filter_map(|line| line["method"].as_str()).collect()
}
