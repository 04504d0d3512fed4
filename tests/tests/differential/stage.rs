//! What scripts are written in: clients that come, ask, answer, wait and go, one step after the other.
//!
//! Every message that a client receives is recorded. A script waits for what it depends on; what it does not wait for is
//! recorded all the same, at the latest when the client leaves or the script ends.

use codexd_tests::client::{Message, TestClient};
use serde_json::{Value, json};

use crate::compare::{Record, Transcript};
use crate::lanes;
use crate::world::World;

/// A client of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Who(usize);

/// A request without an answer yet.
#[derive(Clone, Debug)]
#[must_use = "a request whose answer nobody waits for makes a script a race"]
pub(crate) struct Asked {
    who: Who,
    id: Value,
    from: usize,
}

/// The running script.
pub(crate) struct Stage<'a> {
    world: &'a World,
    actors: Vec<Actor>,
    threads: Vec<String>,
}

struct Actor {
    client: Option<TestClient>,
    next_id: i64,
    record: Record,
    /// Beside each received message, whether a step has waited for it.
    used: Vec<bool>,
}

impl<'a> Stage<'a> {
    pub(crate) fn new(world: &'a World) -> Stage<'a> {
        Stage { world, actors: Vec::new(), threads: Vec::new() }
    }

    // Coming and going.

    /// Connects a client and introduces it, with the experimental interface.
    pub(crate) fn join(&mut self, name: &str) -> Who {
        self.join_with(name, json!({"experimentalApi": true}))
    }

    /// Connects a client and introduces it with these capabilities.
    pub(crate) fn join_with(&mut self, name: &str, capabilities: Value) -> Who {
        let who = self.connect(name);
        let info = json!({"name": name, "title": name, "version": "0.0.1"});
        self.call(who, "initialize", json!({"clientInfo": info, "capabilities": capabilities}));
        self.say(who, json!({"method": "initialized"}));
        who
    }

    /// Connects a client that sends nothing yet.
    pub(crate) fn connect(&mut self, name: &str) -> Who {
        self.actors.push(Actor {
            client: Some(self.world.connect(name)),
            next_id: 0,
            record: Record::new(name),
            used: Vec::new(),
        });
        Who(self.actors.len() - 1)
    }

    /// Ends a client's connection, without sending anything.
    pub(crate) fn leave(&mut self, who: Who) {
        self.barrier(who);
        drop(self.actors[who.0].client.take());
    }

    // Sending.

    /// Sends a message as it is.
    pub(crate) fn say(&mut self, who: Who, message: Value) {
        self.client(who).send(&message);
    }

    /// Sends a request and does not wait.
    pub(crate) fn ask(&mut self, who: Who, method: &str, params: Value) -> Asked {
        self.actors[who.0].next_id += 1;
        let id = json!(self.actors[who.0].next_id);
        self.ask_as(who, id, method, params)
    }

    /// Sends a request with this id and does not wait; null parameters are left out.
    pub(crate) fn ask_as(&mut self, who: Who, id: Value, method: &str, params: Value) -> Asked {
        let mut message = json!({"id": id, "method": method});
        if !params.is_null() {
            message["params"] = params;
        }
        let actor = &mut self.actors[who.0];
        actor.record.requests.push(message.clone());
        let from = actor.record.received.len();
        self.say(who, message);
        Asked { who, id, from }
    }

    /// Sends a request that is spelled like this, and does not wait.
    pub(crate) fn ask_text(&mut self, who: Who, text: &str) -> Asked {
        let request: Value = serde_json::from_str(text).expect("a script knows how to write JSON");
        let actor = &mut self.actors[who.0];
        let id = request["id"].clone();
        actor.record.requests.push(request);
        let from = actor.record.received.len();
        self.client(who).send_line(text);
        Asked { who, id, from }
    }

    /// Sends a request that is spelled like this, and returns its answer.
    #[track_caller]
    pub(crate) fn call_text(&mut self, who: Who, text: &str) -> Value {
        let asked = self.ask_text(who, text);
        self.answer_to(&asked)
    }

    /// Sends a request and returns its answer, whatever it is.
    #[track_caller]
    pub(crate) fn call(&mut self, who: Who, method: &str, params: Value) -> Value {
        let asked = self.ask(who, method, params);
        self.answer_to(&asked)
    }

    /// Answers a server request.
    pub(crate) fn reply(&mut self, who: Who, server_request: &Value, result: Value) {
        self.say(who, json!({"id": server_request["id"], "result": result}));
    }

    // Waiting.

    /// Waits for the answer to a request.
    #[track_caller]
    pub(crate) fn answer_to(&mut self, asked: &Asked) -> Value {
        let (id, from) = (asked.id.clone(), asked.from);
        self.wait(asked.who, "an answer", from, |it| it["id"] == id && it["method"].is_null())
    }

    /// Waits for a notification or server request with this method that no step has waited for yet.
    #[track_caller]
    pub(crate) fn see(&mut self, who: Who, method: &str) -> Value {
        self.wait(who, method, 0, |it| it["method"] == method)
    }

    /// Waits for a message that no step has waited for yet.
    #[track_caller]
    pub(crate) fn see_where(&mut self, who: Who, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.wait(who, what, 0, wanted)
    }

    /// Waits for a status of a thread, `idle` for instance.
    #[track_caller]
    pub(crate) fn see_status(&mut self, who: Who, thread: &str, status: &str) -> Value {
        self.wait(who, &format!("status {status}"), 0, |it| {
            it["method"] == "thread/status/changed"
                && it["params"]["threadId"] == thread
                && it["params"]["status"]["type"] == status
        })
    }

    /// Waits for the end of a turn of this thread.
    #[track_caller]
    pub(crate) fn see_end(&mut self, who: Who, thread: &str) -> Value {
        self.wait(who, "the end of a turn", 0, |it| {
            it["method"] == "turn/completed" && it["params"]["threadId"] == thread
        })
    }

    /// Waits for output of a process with this text in it.
    #[track_caller]
    pub(crate) fn see_output(&mut self, who: Who, text: &str) {
        self.wait(who, text, 0, |it| {
            let method = it["method"].as_str().unwrap_or_default();
            let output = it["params"]["deltaBase64"].as_str().unwrap_or_default();
            ["process/outputDelta", "command/exec/outputDelta"].contains(&method)
                && lanes::decode(output).contains(text)
        });
    }

    /// Receives all that was sent to a client by now: the answer to a cheap request comes after it.
    #[track_caller]
    pub(crate) fn barrier(&mut self, who: Who) {
        let asked = self.ask_as(who, json!("barrier"), "thread/loaded/list", json!({}));
        self.answer_to(&asked);
    }

    // What scripts do often.

    /// Starts a thread in the project and returns its id.
    #[track_caller]
    pub(crate) fn start(&mut self, who: Who, mut params: Value) -> String {
        params["cwd"] = json!(self.project());
        let answer = self.call(who, "thread/start", params);
        self.note_thread(&answer)
    }

    /// Takes a thread's id out of the answer to a start or fork.
    #[track_caller]
    pub(crate) fn note_thread(&mut self, answer: &Value) -> String {
        let thread = answer["result"]["thread"]["id"].as_str();
        let thread = thread.unwrap_or_else(|| panic!("no thread in {answer}")).to_owned();
        self.threads.push(thread.clone());
        thread
    }

    /// Starts a turn and returns its id.
    #[track_caller]
    pub(crate) fn turn_start(&mut self, who: Who, thread: &str, prompt: &str) -> String {
        let answer = self.call(who, "turn/start", turn(thread, prompt));
        let turn = answer["result"]["turn"]["id"].as_str();
        turn.unwrap_or_else(|| panic!("no turn in {answer}")).to_owned()
    }

    /// Runs a turn from its start to its end.
    #[track_caller]
    pub(crate) fn turn(&mut self, who: Who, thread: &str, prompt: &str) -> Value {
        let turn = self.turn_start(who, thread, prompt);
        self.wait(who, "the end of the turn", 0, |it| {
            it["method"] == "turn/completed" && it["params"]["turn"]["id"] == turn.as_str()
        })
    }

    /// Starts a thread, runs a first turn, and lets the others resume it.
    #[track_caller]
    pub(crate) fn shared(&mut self, who: Who, others: &[Who], params: Value) -> String {
        let thread = self.start(who, params);
        self.turn(who, &thread, "first");
        for other in others {
            self.resume(*other, &thread);
        }
        thread
    }

    /// Waits for a notification or server request with this method at each of these clients.
    #[track_caller]
    pub(crate) fn all_see(&mut self, all: &[Who], method: &str) {
        for who in all {
            self.see(*who, method);
        }
    }

    /// Waits at each of these clients for the end of a turn of this thread.
    #[track_caller]
    pub(crate) fn all_see_end(&mut self, all: &[Who], thread: &str) {
        for who in all {
            self.see_end(*who, thread);
        }
    }

    /// Resumes a thread and waits for the last of what follows.
    #[track_caller]
    pub(crate) fn resume(&mut self, who: Who, thread: &str) -> Value {
        self.resume_with(who, json!({"threadId": thread}))
    }

    /// Resumes a thread with these parameters and waits for the last of what follows.
    #[track_caller]
    pub(crate) fn resume_with(&mut self, who: Who, params: Value) -> Value {
        // What follows the resume of another client comes to this one, too.
        self.barrier(who);
        let asked = self.ask(who, "thread/resume", params);
        let answer = self.answer_to(&asked);
        if answer["error"].is_null() {
            self.wait(who, "thread/goal/cleared", asked.from, |it| it["method"] == "thread/goal/cleared");
        }
        answer
    }

    /// Starts a turn that does not end by itself, and waits for its first and only delta.
    #[track_caller]
    pub(crate) fn hang(&mut self, who: Who, thread: &str, words: &str) -> String {
        let turn = self.turn_start(who, thread, &format!("[[deltas:2:600000]] {words}"));
        self.wait(who, "the first word", 0, |it| {
            it["method"] == "item/agentMessage/delta" && it["params"]["turnId"] == turn.as_str()
        });
        turn
    }

    /// The project's directory.
    pub(crate) fn project(&self) -> String {
        self.world.home().project().display().to_string()
    }

    /// The server's world.
    pub(crate) fn world(&self) -> &'a World {
        self.world
    }

    /// Ends the script: every client that is still connected receives all that was sent to it.
    pub(crate) fn finish(mut self) -> Transcript {
        for index in 0..self.actors.len() {
            if self.actors[index].client.is_some() {
                self.barrier(Who(index));
            }
        }
        Transcript {
            records: self.actors.into_iter().map(|actor| actor.record).collect(),
            threads: self.threads,
            home: self.world.home().root().display().to_string(),
            model: self.world.model().base_url(),
        }
    }

    // Parts of the above.

    fn client(&mut self, who: Who) -> &mut TestClient {
        self.actors[who.0].client.as_mut().expect("a client that has left does nothing any more")
    }

    #[track_caller]
    fn wait(&mut self, who: Who, _what: &str, from: usize, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut index = from;
        loop {
            while index >= self.actors[who.0].record.received.len() {
                let message: Message = self.client(who).recv();
                let actor = &mut self.actors[who.0];
                actor.record.received.push(Value::clone(&message));
                actor.used.push(false);
            }
            let actor = &mut self.actors[who.0];
            if !actor.used[index] && wanted(&actor.record.received[index]) {
                actor.used[index] = true;
                return actor.record.received[index].clone();
            }
            index += 1;
        }
    }
}

/// The parameters of a `turn/start` with this prompt.
pub(crate) fn turn(thread: &str, prompt: &str) -> Value {
    json!({"threadId": thread, "input": input(prompt)})
}

/// The input of a turn.
pub(crate) fn input(prompt: &str) -> Value {
    json!([{"type": "text", "text": prompt}])
}
