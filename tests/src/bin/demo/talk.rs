//! One client's conversation, message by message.

use std::sync::mpsc::Sender;

use codexd_tests::client::{Message, TestClient};
use serde_json::{Value, json};

use crate::{Outcome, Prompt};

/// A client with its thread.
pub(crate) struct Talk {
    pub(crate) client: TestClient,
    /// Id of its thread; empty until it is started.
    pub(crate) thread: String,
    /// Thread and method of each message that belongs to a thread.
    pub(crate) received: Vec<(String, String)>,
}

/// Where the conversation is shown.
pub(crate) struct Pane {
    /// Number of the column.
    pub(crate) index: usize,
    pub(crate) updates: Sender<Update>,
}

/// Something new to show.
#[derive(Clone, Debug)]
pub(crate) struct Update {
    /// Number of the column.
    pub(crate) pane: usize,
    pub(crate) text: String,
    /// The text begins a line of its own.
    pub(crate) fresh: bool,
}

impl Pane {
    /// A pane that is not shown.
    pub(crate) fn unseen() -> Pane {
        Pane { index: 0, updates: std::sync::mpsc::channel().0 }
    }

    fn put(&self, text: &str, fresh: bool) {
        let _ = self.updates.send(Update { pane: self.index, text: text.to_owned(), fresh });
    }
}

impl Talk {
    pub(crate) fn new(client: TestClient) -> Talk {
        Talk { client, thread: String::new(), received: Vec::new() }
    }

    pub(crate) fn start(&mut self, params: Value) {
        self.thread = self.client.start_thread(params);
    }

    /// Runs a turn, shown from the question to the answer, and checks its answer.
    pub(crate) fn turn(&mut self, pane: &Pane, prompt: &Prompt) -> Outcome<()> {
        pane.put(&format!("> {}", prompt.text), true);
        let turn = self.begin(prompt.markers);
        let answer = self.finish(pane, &turn)?;
        // `[[say:MS:TEXT]]` is the last marker.
        let said = prompt.markers.rsplit_once("[[say:").and_then(|(_, said)| said.split_once(':'));
        let said = said.and_then(|(_, text)| text.strip_suffix("]]")).unwrap_or_default();
        match answer == said {
            true => Ok(()),
            false => Err(format!("{} received `{answer}` instead of `{said}`", self.client.name())),
        }
    }

    /// Starts a turn and returns its id.
    pub(crate) fn begin(&mut self, prompt: &str) -> String {
        self.client.start_turn(&self.thread, prompt)
    }

    /// Follows a turn to its end and returns the streamed answer, which must be the final one.
    pub(crate) fn finish(&mut self, pane: &Pane, turn: &str) -> Outcome<String> {
        let (mut streamed, mut answer) = (String::new(), None);
        loop {
            let message = self.client.recv();
            let (Some(method), params) = (message.method(), &message["params"]) else { continue };
            let Some(thread) = params["threadId"].as_str() else { continue };
            self.received.push((thread.to_owned(), method.to_owned()));
            if thread != self.thread {
                continue;
            }
            match method {
                "item/agentMessage/delta" => {
                    let delta = params["delta"].as_str().unwrap_or_default();
                    if streamed.is_empty() {
                        pane.put("", true);
                    }
                    pane.put(delta, streamed.is_empty());
                    streamed.push_str(delta);
                }
                "item/commandExecution/requestApproval" => self.approve(pane, &message),
                "item/completed" if params["item"]["phase"] == "final_answer" => {
                    answer = params["item"]["text"].as_str().map(str::to_owned);
                }
                "turn/completed" if params["turn"]["id"] == turn => {
                    let name = self.client.name();
                    if params["turn"]["status"] != "completed" {
                        return Err(format!("the turn of {name} ended so: {}", params["turn"]));
                    }
                    return match answer {
                        Some(answer) if answer == streamed => Ok(answer),
                        other => {
                            Err(format!("{name} was streamed `{streamed}`, and the answer is {other:?}"))
                        }
                    };
                }
                _ => {}
            }
        }
    }

    fn approve(&mut self, pane: &Pane, request: &Message) {
        let command = request["params"]["command"].as_str().unwrap_or("a command");
        // The shell around it is of no interest here.
        let command = command.split_once('\'').map_or(command, |(_, inner)| inner.trim_end_matches('\''));
        pane.put("", true);
        pane.put(&format!("? {command}"), true);
        self.client.answer(request, json!({"decision": "accept"}));
        pane.put("! accepted", true);
    }
}
