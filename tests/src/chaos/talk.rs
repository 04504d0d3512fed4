//! A client with accounting: everything it sends and receives is recorded.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::accounting::{ClientAccounting, Purpose};
use super::plan::LinkKind;
use super::random::Random;
use super::shared::Shared;
use super::violation::ViolationKind;
use crate::client::{Message, Received, TestClient};

/// A connected client and its accounting.
pub(crate) struct Talk<'a> {
    pub(crate) name: String,
    pub(crate) client: TestClient,
    pub(crate) accounting: ClientAccounting,
    pub(crate) link: LinkKind,
    pub(crate) shared: &'a Shared,
    pub(crate) random: Random,
    /// The connection has ended, or nothing more is expected of it.
    pub(crate) over: bool,
    next_id: i64,
}

impl<'a> Talk<'a> {
    pub(crate) fn new(
        name: &str,
        client: TestClient,
        link: LinkKind,
        shared: &'a Shared,
        seed: u64,
    ) -> Talk<'a> {
        Talk {
            name: name.to_owned(),
            client,
            accounting: ClientAccounting::new(name),
            link,
            shared,
            random: Random::new(seed),
            over: false,
            next_id: 0,
        }
    }

    /// Sends a request and enters it.
    pub(crate) fn ask(&mut self, method: &str, params: Value, purpose: Purpose) -> i64 {
        let (id, line) = self.enter(method, params, purpose);
        self.write(line.as_bytes());
        id
    }

    /// Enters a request and returns its line, to be sent by the caller.
    pub(crate) fn enter(&mut self, method: &str, mut params: Value, purpose: Purpose) -> (i64, String) {
        self.next_id += 1;
        let id = self.next_id;
        // The stand-in writes down what it gets; codexd passes members that it does not know.
        let tag = match self.shared.real || method == "initialize" || method.starts_with("broker/") {
            true => String::new(),
            false => format!("<{}:{id}>", self.name),
        };
        if !tag.is_empty() && params.is_object() {
            params["tag"] = json!(tag);
        }
        self.accounting.sent(id, method, &tag, purpose);
        (id, format!("{}\n", json!({"id": id, "method": method, "params": params})))
    }

    /// Sends bytes; a connection that cannot be written to has ended, which the reading side will see.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let _ = self.client.send_bytes(bytes);
    }

    /// Introduces the client and waits for the answer; false when it did not come to that.
    pub(crate) fn introduce(&mut self) -> bool {
        let info = json!({"name": self.name, "version": "1"});
        let params = json!({"clientInfo": info, "capabilities": {"experimentalApi": true}});
        let id = self.ask("initialize", params, Purpose::Any);
        self.pump("the answer to initialize", |talk| talk.accounting.is_done(id).is_some());
        if self.accounting.is_done(id) != Some(true) {
            return false;
        }
        self.write(b"{\"method\":\"initialized\"}\n");
        true
    }

    /// Starts a thread and waits for it.
    pub(crate) fn start_thread(&mut self) -> Option<String> {
        let mut params = json!({"cwd": self.shared.project});
        if self.shared.real {
            params["approvalPolicy"] = json!("untrusted");
        }
        let before: Vec<String> = self.accounting.threads().cloned().collect();
        let id = self.ask("thread/start", params, Purpose::Thread);
        self.pump("a thread", |talk| talk.accounting.is_done(id).is_some());
        self.accounting.threads().find(|thread| !before.contains(thread)).cloned()
    }

    /// Gives a thread a sandbox policy that no parameter of a resume can express; returns it if the daemon has accepted it.
    pub(crate) fn set_policy(&mut self, thread: &str) -> Option<Value> {
        let network = self.random.one_in(2);
        let policy = match self.random.below(3) {
            0 => return None,
            1 => json!({"type": "readOnly", "networkAccess": network}),
            _ => json!({"type": "workspaceWrite", "writableRoots": [], "networkAccess": network,
                        "excludeTmpdirEnvVar": true, "excludeSlashTmp": true}),
        };
        let params = json!({"threadId": thread, "sandboxPolicy": policy});
        let id = self.ask("thread/settings/update", params, Purpose::Any);
        self.pump("new settings", |talk| talk.accounting.is_done(id).is_some());
        (self.accounting.is_done(id) == Some(true)).then_some(policy)
    }

    /// Starts a turn of this prompt, whose deltas carry this word.
    pub(crate) fn start_turn(&mut self, thread: &str, word: &str, deltas: usize, prompt: &str) -> i64 {
        let input = json!([{"type": "text", "text": prompt}]);
        // The scripted model numbers after a word of its own.
        let word = if self.shared.real { "tok" } else { word }.to_owned();
        let purpose = Purpose::Turn { thread: thread.to_owned(), word, deltas };
        self.ask("turn/start", json!({"threadId": thread, "input": input}), purpose)
    }

    /// Takes what comes until `done`; false when the connection ended before, or the time was up.
    pub(crate) fn pump(&mut self, what: &str, done: impl Fn(&Talk<'_>) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            if self.over {
                return false;
            }
            if Instant::now() >= self.shared.deadline {
                self.accounting.hang(what);
                self.over = true;
                return false;
            }
            self.listen(SLICE);
        }
    }

    /// Takes at most one message.
    pub(crate) fn listen(&mut self, time: Duration) {
        match self.client.receive(time) {
            Received::Message(message) => self.take(&message),
            Received::End => {
                let how = self.client.close_frame().map(|(code, reason)| format!("{code} {reason}"));
                self.accounting.end(&how.unwrap_or_else(|| "end of file".to_owned()));
                self.over = true;
            }
            // A bridge that has lost its daemon, and nothing that lived in it, waits for the next one.
            Received::Silence if self.link == LinkKind::Connect && self.shared.is_gone() => {
                self.over = self.accounting.is_answered() && self.accounting.threads().next().is_none();
            }
            Received::Silence => {}
        }
    }

    fn take(&mut self, message: &Message) {
        self.accounting.received(message);
        if message.is_server_request() && message.method().is_some_and(|it| it.ends_with("/requestApproval"))
        {
            let decision = self.random.pick(&["accept", "decline"]);
            let line = format!("{}\n", json!({"id": message["id"], "result": {"decision": decision}}));
            self.write(line.as_bytes());
        }
    }

    /// Enters a broken promise together with the last lines of this client.
    pub(crate) fn break_promise(&mut self, kind: ViolationKind, text: &str) {
        self.accounting.break_promise(kind, text);
    }
}

/// How long a client listens before it looks up.
const SLICE: Duration = Duration::from_millis(20);
