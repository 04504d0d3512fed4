//! The requests the fake knows, and their answers.

use std::collections::VecDeque;
use std::time::Instant;

use serde_json::{Value, json};

use super::Server;
use crate::exec::Key;
use crate::rpc::{self, Refusal};
use crate::thread::{self, Thread};
use crate::turn::{self, Step, Turn};

/// The methods the fake knows; the order is that of its refusals.
pub(super) const METHODS: [&str; 26] = [
    "initialize",
    "server/diagnostics",
    "thread/start",
    "thread/resume",
    "thread/fork",
    "thread/archive",
    "thread/unsubscribe",
    "thread/name/set",
    "thread/settings/update",
    "thread/list",
    "thread/loaded/list",
    "thread/read",
    "model/list",
    "config/read",
    "account/read",
    "turn/start",
    "turn/steer",
    "turn/interrupt",
    "fs/watch",
    "fs/unwatch",
    "command/exec",
    "command/exec/write",
    "command/exec/terminate",
    "process/spawn",
    "process/writeStdin",
    "process/kill",
];

/// The request with which a broker gets the names of all methods.
const CATALOG: &str = "codexd/whichMethodsAreThere";

/// A method that the stand-in names and no broker knows.
const FAKE_ONLY: &str = "fake/method";

/// Those of them that need the experimental API.
const EXPERIMENTAL: [&str; 5] =
    ["server/diagnostics", "thread/settings/update", "process/spawn", "process/writeStdin", "process/kill"];

impl Server {
    pub(super) fn request(&mut self, id: &Value, method: &str, params: &Value) -> Result<(), Refusal> {
        if !METHODS.contains(&method) {
            if method != CATALOG {
                self.wire.complain(&format!("unknown method `{method}`"));
            }
            let names: Vec<&str> = METHODS.iter().copied().chain([FAKE_ONLY]).collect();
            return Err(Refusal::unknown_method(method, &names));
        }
        if !self.initialized {
            self.wire.complain(&format!("`{method}` before `initialize`"));
            return Err(Refusal::new("Not initialized"));
        }
        if EXPERIMENTAL.contains(&method) && !self.experimental {
            return Err(Refusal::new(format!("{method} requires experimentalApi capability")));
        }
        let result = match method {
            "thread/start" => {
                let mut thread = Thread::new(self.uuid(), &directory(params));
                thread.sandbox = thread::policy(&params["sandbox"]);
                return self.loaded(id, thread);
            }
            "thread/fork" => {
                let source = self.thread(params)?;
                let (source, cwd) = (source.id.clone(), source.cwd.clone());
                let mut thread = Thread::new(self.uuid(), &cwd);
                thread.forked_from = Some(source);
                thread.last_turn = Some(self.uuid());
                return self.loaded(id, thread);
            }
            "thread/resume" => return self.resume(id, params),
            "thread/unsubscribe" => {
                let status = match self.threads.get_mut(rpc::text(params, "threadId")?) {
                    None => "notLoaded",
                    Some(thread) if !thread.subscribed => "notSubscribed",
                    Some(thread) => {
                        thread.subscribed = false;
                        "unsubscribed"
                    }
                };
                json!({"status": status})
            }
            "thread/archive" => {
                let thread = self.thread(params)?.id.clone();
                self.end_turn(&thread, "interrupted");
                self.threads.remove(&thread);
                self.wire.notify(
                    "thread/status/changed",
                    json!({"threadId": thread, "status": {"type": "notLoaded"}}),
                );
                self.answer(id, rpc::nothing());
                self.wire.notify("thread/archived", json!({"threadId": thread}));
                return Ok(());
            }
            "thread/name/set" => {
                let (thread, name) = (self.thread(params)?.id.clone(), rpc::text(params, "name")?);
                self.answer(id, rpc::nothing());
                self.wire.notify("thread/name/updated", json!({"threadId": thread, "threadName": name}));
                return Ok(());
            }
            "thread/settings/update" => {
                let thread = self.thread_mut(params)?;
                if params["sandboxPolicy"].is_object() {
                    thread.sandbox = params["sandboxPolicy"].clone();
                }
                let settings = thread.settings();
                self.answer(id, rpc::nothing());
                self.wire.notify("thread/settings/updated", settings);
                return Ok(());
            }
            "thread/list" => {
                json!({"data": [], "readStates": {}, "nextCursor": null, "backwardsCursor": null})
            }
            "thread/loaded/list" => {
                json!({"data": self.threads.keys().collect::<Vec<_>>(), "nextCursor": null})
            }
            "thread/read" => json!({"thread": self.thread(params)?.json()}),
            "model/list" => json!({"data": [{"id": "fake-model", "model": "fake-model",
                                             "displayName": "fake-model", "isDefault": true}],
                                   "nextCursor": null}),
            "config/read" => json!({"config": {}, "origins": {}, "layers": null}),
            "account/read" => json!({"account": null, "requiresOpenaiAuth": false}),
            "server/diagnostics" => json!({
                "process": {"id": std::process::id(), "residentMemoryBytes": 1_000_000,
                            "physicalFootprintBytes": null},
                "gauges": [{"name": "app.requests.in_flight", "value": self.open.len()},
                           {"name": "app.requests.queued", "value": self.waiting.len()}]}),
            "turn/start" => return self.start_turn(id, params),
            "turn/steer" => {
                let steps = scripted(&rpc::prompt(params)?)?;
                let thread = self.thread_mut(params)?;
                let Some(turn) = &mut thread.turn else {
                    return Err(Refusal::new("no active turn to steer"));
                };
                join(turn, steps);
                json!({"turnId": turn.id})
            }
            "turn/interrupt" => return self.interrupt(id, params),
            "fs/watch" => {
                let (watch, path) = (rpc::text(params, "watchId")?, rpc::text(params, "path")?);
                if self.watches.contains_key(watch) {
                    return Err(Refusal::new(format!("watchId already exists: {watch}")));
                }
                self.watches.insert(watch.to_owned(), path.to_owned());
                json!({"path": path})
            }
            "fs/unwatch" => {
                self.watches.remove(rpc::text(params, "watchId")?);
                rpc::nothing()
            }
            "command/exec" => {
                let key = match params["processId"].as_str() {
                    Some(process) => Key::Exec(process.to_owned()),
                    None => self.commands.unnamed(),
                };
                // The answer comes with the end of the command.
                return self.commands.start(key, Some(id.clone()), params, &self.events);
            }
            "command/exec/terminate" => {
                self.commands.kill(&Key::Exec(rpc::text(params, "processId")?.to_owned()))?;
                rpc::nothing()
            }
            "process/spawn" => {
                let key = Key::Spawned(rpc::text(params, "processHandle")?.to_owned());
                self.commands.start(key, None, params, &self.events)?;
                rpc::nothing()
            }
            "process/kill" => {
                self.commands.kill(&Key::Spawned(rpc::text(params, "processHandle")?.to_owned()))?;
                rpc::nothing()
            }
            // Input of commands is accepted and dropped.
            _ => rpc::nothing(),
        };
        self.answer(id, result);
        Ok(())
    }

    /// Answers with a new thread and sends `thread/started`.
    fn loaded(&mut self, id: &Value, thread: Thread) -> Result<(), Refusal> {
        self.answer(id, thread.loaded());
        self.wire.notify("thread/started", json!({"thread": thread.json()}));
        self.threads.insert(thread.id.clone(), thread);
        Ok(())
    }

    /// Returns a thread that ran in an earlier process.
    fn kept(&mut self, id: &str) -> Option<Thread> {
        let cwd = std::fs::read_to_string(self.kept_file(id)?).ok()?;
        let mut thread = Thread::new(id.to_owned(), &cwd);
        thread.last_turn = Some(self.uuid());
        Some(thread)
    }

    fn resume(&mut self, id: &Value, params: &Value) -> Result<(), Refusal> {
        let wanted = rpc::text(params, "threadId")?;
        let none = || Refusal::new(format!("no rollout found for thread id {wanted}"));
        if !self.threads.contains_key(wanted)
            && let Some(mut thread) = self.kept(wanted)
        {
            thread.sandbox = thread::policy(&params["sandbox"]);
            self.threads.insert(wanted.to_owned(), thread);
        }
        let thread = self.threads.get_mut(wanted).ok_or_else(none)?;
        if thread.last_turn.is_none() && thread.turn.is_none() {
            return Err(none());
        }
        thread.subscribed = true;
        let (result, thread_id) = (thread.loaded(), thread.id.clone());
        let usage = thread.last_turn.as_ref().map(|turn| thread.token_usage(turn));
        let pending =
            thread.turn.as_ref().and_then(|turn| turn.approval.clone().map(|it| (turn.id.clone(), it)));
        self.answer(id, result);
        if let (Some(usage), false) = (usage, params["excludeTurns"] == true) {
            self.wire.notify("thread/tokenUsage/updated", usage);
        }
        self.wire.notify("thread/goal/cleared", json!({"threadId": thread_id}));
        if let Some((turn, (request, item))) = pending {
            self.ask(&thread_id, &turn, request, &item);
        }
        Ok(())
    }

    fn start_turn(&mut self, id: &Value, params: &Value) -> Result<(), Refusal> {
        let prompt = { rpc::text(params, "threadId").and_then(|_| rpc::prompt(params)) }?;
        let steps = scripted(&prompt)?;
        let turn_id = self.uuid();
        let thread = self.thread_mut(params)?;
        if let Some(turn) = &mut thread.turn {
            // The real server takes it like more input for the running turn, and answers with its id.
            join(turn, steps);
            let answer = json!({"turn": turn.json("inProgress")});
            self.answer(id, answer);
            return Ok(());
        }
        let thread = thread.id.clone();
        let turn = Turn::new(turn_id, None, steps);
        let mut answer = turn.json("inProgress");
        answer["startedAt"] = Value::Null;
        self.answer(id, json!({"turn": answer}));
        self.begin(&thread, turn, &prompt);
        Ok(())
    }

    fn interrupt(&mut self, id: &Value, params: &Value) -> Result<(), Refusal> {
        let wanted = rpc::text(params, "turnId")?.to_owned();
        let thread = self.thread(params)?;
        let Some(turn) = &thread.turn else { return Err(Refusal::new("no active turn to interrupt")) };
        if turn.id != wanted {
            return Err(Refusal::new(format!("expected active turn id {wanted} but found {}", turn.id)));
        }
        let thread = thread.id.clone();
        self.answer(id, rpc::nothing());
        self.end_turn(&thread, "interrupted");
        Ok(())
    }
}

/// Adds more input to a running turn; one that hangs goes on with it.
fn join(turn: &mut Turn, mut steps: VecDeque<Step>) {
    // The end that the turn already has stays its end.
    if turn.steps.back() == Some(&Step::Complete) {
        steps.pop_back();
        let end = turn.steps.pop_back();
        turn.steps.append(&mut steps);
        turn.steps.extend(end);
    } else {
        turn.steps.append(&mut steps);
    }
    if turn.approval.is_none() {
        turn.due.get_or_insert_with(Instant::now);
    }
}

fn scripted(prompt: &str) -> Result<VecDeque<Step>, Refusal> {
    turn::steps(prompt).map_err(|reason| Refusal::new(format!("fake-codex: {reason}")))
}

fn directory(params: &Value) -> String {
    let own = || std::env::current_dir().map(|directory| directory.display().to_string());
    params["cwd"].as_str().map_or_else(|| own().unwrap_or_default(), str::to_owned)
}
