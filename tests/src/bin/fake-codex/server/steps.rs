//! Turns, from `turn/started` through their steps to their end.

use std::time::Instant;

use nix::sys::signal::SigSet;
use serde_json::{Value, json};

use super::Server;
use crate::exec;
use crate::thread::Thread;
use crate::turn::{self, Step, Turn};
use crate::wire::now_ms;

impl Server {
    /// Sends the start of a turn, up to the item of the user's message.
    pub(super) fn begin(&mut self, thread_id: &str, turn: Turn, prompt: &str) {
        let (turn_id, turn_json) = (turn.id.clone(), turn.json("inProgress"));
        let Some(thread) = self.threads.get_mut(thread_id) else { return };
        thread.turn = Some(turn);
        self.status(thread_id);
        self.wire.notify("turn/started", json!({"threadId": thread_id, "turn": turn_json}));
        let item = |completed: bool, id: &str| {
            json!({"type": "userMessage", "id": id, "clientId": null,
                   "content": [{"type": "text", "text": prompt, "text_elements": []}],
                   "startedAtMs": now_ms(), "completedAtMs": completed.then(now_ms)})
        };
        let id = self.uuid();
        self.item_started(thread_id, &turn_id, item(false, &id));
        self.item_completed(thread_id, &turn_id, item(true, &id));
    }

    /// Takes the answer to a server request.
    pub(super) fn answered(&mut self, id: &Value, result: &Result<Value, Value>) {
        let waits = |thread: &&mut Thread| {
            let turn = thread.turn.as_ref();
            turn.and_then(|turn| turn.approval.as_ref()).is_some_and(|(request, _)| *id == json!(request))
        };
        let Some(thread) = self.threads.values_mut().find(waits) else {
            // The real server ignores it; from a broker it should not come.
            self.wire.complain(&format!("an answer to {id}, which was not asked or is answered already"));
            return;
        };
        let thread_id = thread.id.clone();
        let Some(turn) = &mut thread.turn else { return };
        let Some((_, mut item)) = turn.approval.take() else { return };
        let turn_id = turn.id.clone();
        self.wire.notify("serverRequest/resolved", json!({"threadId": thread_id, "requestId": id}));
        let decision = result.as_ref().ok().and_then(|result| result["decision"].as_str());
        if decision == Some("cancel") {
            self.end_turn(&thread_id, "interrupted");
            return;
        }
        self.status(&thread_id);
        let (status, code) = match decision {
            Some("accept" | "acceptForSession") => ("completed", json!(0)),
            Some("decline") => ("declined", Value::Null),
            _ => ("failed", Value::Null),
        };
        item["status"] = json!(status);
        item["exitCode"] = code;
        item["completedAtMs"] = json!(now_ms());
        self.item_completed(&thread_id, &turn_id, item);
        if let Some(turn) = self.threads.get_mut(&thread_id).and_then(|thread| thread.turn.as_mut()) {
            turn.due = Some(Instant::now());
        }
    }

    /// Does the next step of a thread's turn; `Some` ends the process with that code.
    pub(super) fn step(&mut self, thread_id: &str) -> Option<u8> {
        let turn = self.threads.get_mut(thread_id)?.turn.as_mut()?;
        let turn_id = turn.id.clone();
        let Some(step) = turn.steps.pop_front() else {
            turn.due = None;
            return None;
        };
        match step {
            Step::Delta(text) => self.delta(thread_id, &turn_id, &text),
            Step::Pause(time) => turn.due = Some(Instant::now() + time),
            Step::Hang if turn.steps.is_empty() => turn.due = None,
            Step::Hang => {}
            Step::Approve => {
                turn.due = None;
                let request = self.next_server_request;
                self.next_server_request += 1;
                let item = json!({
                    "type": "commandExecution", "id": format!("call_{request}"),
                    "command": "/bin/sh -c 'true'", "cwd": "/", "processId": null, "source": "agent",
                    "status": "inProgress", "commandActions": [{"type": "unknown", "command": "true"}],
                    "aggregatedOutput": null, "exitCode": null, "durationMs": null,
                    "startedAtMs": now_ms(), "completedAtMs": null});
                turn.approval = Some((request, item.clone()));
                self.status(thread_id);
                self.item_started(thread_id, &turn_id, item.clone());
                self.ask(thread_id, &turn_id, request, &item);
            }
            Step::SubAgent(prompt) => self.sub_agent(thread_id, &turn_id, &prompt),
            Step::Final => {
                if let Some((_, text)) = turn.message.clone() {
                    let item = turn.agent_message(&text, true);
                    turn.answer = Some(item.clone());
                    turn.message = None;
                    self.item_completed(thread_id, &turn_id, item);
                }
            }
            Step::Complete => {
                let thread = self.threads.get_mut(thread_id)?;
                thread.tokens += 15;
                let usage = thread.token_usage(&turn_id);
                self.wire.notify("thread/tokenUsage/updated", usage);
                self.wire.notify(
                    "account/rateLimits/updated",
                    json!({"rateLimits": {"limitId": "codex", "primary": null, "secondary": null}}),
                );
                self.end_turn(thread_id, "completed");
            }
            Step::Freeze => self.wire.frozen = true,
            Step::Busy => {
                self.unread.get_or_insert_default();
            }
            Step::FsChange => {
                for (watch, path) in &self.watches {
                    self.wire.notify("fs/changed", json!({"watchId": watch, "changedPaths": [path]}));
                }
            }
            Step::Garbage => self.wire.bytes(b"this line is not JSON\n".to_vec()),
            Step::BadUtf8 => {
                self.wire.bytes(b"{\"method\":\"warning\",\"params\":{\"message\":\"\xff\"}}\n".to_vec());
            }
            Step::CloseStdout => self.wire.close(),
            Step::Orphan => self.detach(false),
            Step::Stderr(text) => eprintln!("{text}"),
            Step::HoldPipe(code) => {
                self.detach(true);
                self.wire.flush();
                return Some(code);
            }
            Step::Exit(code) => {
                self.wire.flush();
                return Some(code);
            }
            Step::Torn => {
                self.wire.bytes(b"{\"method\":\"item/agentMessage/delta\",\"params\":{\"thre".to_vec());
                self.wire.flush();
                return Some(0);
            }
            Step::Abort => {
                self.wire.flush();
                std::process::abort();
            }
            Step::Signal(number) => {
                self.wire.flush();
                self.die_by(number);
            }
        }
        None
    }

    pub(super) fn die_by(&mut self, number: i32) {
        let _ = SigSet::all().thread_unblock();
        // Not only raised: the runtime handles SIGSEGV and SIGBUS, and the process that runs the tests may have had
        // signals ignored, which is inherited (`nohup`, a background job of a shell).
        if let Err(error) = signal_hook::low_level::emulate_default_handler(number) {
            self.wire.complain(&format!("cannot die by signal {number}: {error}"));
        }
    }

    pub(super) fn detach(&mut self, hold_stdout: bool) {
        if let Err(reason) = exec::detach(hold_stdout) {
            self.wire.complain(&format!("cannot start a grandchild: {reason}"));
        }
    }

    pub(super) fn delta(&mut self, thread_id: &str, turn_id: &str, text: &str) {
        self.serial += 1;
        let fresh = format!("msg_{}", self.serial);
        let Some(turn) = self.threads.get_mut(thread_id).and_then(|thread| thread.turn.as_mut()) else {
            return;
        };
        let starts = turn.message.is_none();
        let (id, so_far) = turn.message.get_or_insert((fresh, String::new()));
        so_far.push_str(text);
        let id = id.clone();
        if starts {
            let item = turn.agent_message("", false);
            self.item_started(thread_id, turn_id, item);
        }
        self.wire.notify(
            "item/agentMessage/delta",
            json!({"threadId": thread_id, "turnId": turn_id, "itemId": id, "delta": text}),
        );
    }

    /// Starts a thread that no client requested. As with the real server, `thread/started` is never sent for it, and
    /// its first sign is a status; the item of its parent that names it comes a little later.
    pub(super) fn sub_agent(&mut self, parent: &str, turn_id: &str, prompt: &str) {
        let steps = match turn::steps(prompt) {
            Ok(steps) => steps,
            Err(reason) => return self.wire.complain(&format!("in the prompt of a sub-agent: {reason}")),
        };
        let (child, child_turn) = (self.uuid(), self.uuid());
        let item = |status: &str, receivers: Value| {
            json!({"type": "collabAgentToolCall", "id": format!("call_{child}"), "tool": "spawnAgent",
                   "status": status, "senderThreadId": parent, "receiverThreadIds": receivers,
                   "prompt": prompt, "model": "fake-model", "agentsStates": {},
                   "startedAtMs": now_ms(), "completedAtMs": null})
        };
        self.item_started(parent, turn_id, item("inProgress", json!([])));
        let Some(source) = self.threads.get(parent) else { return };
        let mut thread = Thread::new(child.clone(), &source.cwd);
        thread.parent = Some(parent.to_owned());
        self.threads.insert(child.clone(), thread);
        self.status(&child);
        self.item_completed(parent, turn_id, item("completed", json!([child])));
        self.begin(&child, Turn::new(child_turn, Some(turn_id.to_owned()), steps), prompt);
    }

    /// Ends a thread's turn, when it has one.
    pub(super) fn end_turn(&mut self, thread_id: &str, status: &str) {
        let Some(thread) = self.threads.get_mut(thread_id) else { return };
        let Some(turn) = thread.turn.take() else { return };
        thread.last_turn = Some(turn.id.clone());
        let cwd = thread.cwd.clone();
        self.keep(thread_id, &cwd);
        self.status(thread_id);
        self.wire.notify("turn/completed", json!({"threadId": thread_id, "turn": turn.json(status)}));
        if let Some((request, _)) = turn.approval {
            self.wire.notify("serverRequest/resolved", json!({"threadId": thread_id, "requestId": request}));
        }
        for message in self.unread.take().unwrap_or_default() {
            let _ = self.take(message);
        }
    }

    pub(super) fn ask(&mut self, thread_id: &str, turn_id: &str, request: i64, item: &Value) {
        self.wire.message(&json!({
            "method": "item/commandExecution/requestApproval", "id": request,
            "params": {"kind": "command", "threadId": thread_id, "turnId": turn_id, "itemId": item["id"],
                       "startedAtMs": item["startedAtMs"], "environmentId": "local",
                       "command": item["command"], "cwd": item["cwd"], "commandActions": item["commandActions"],
                       "availableDecisions": ["accept", "decline", "cancel"]}}));
    }

    pub(super) fn status(&mut self, thread_id: &str) {
        if let Some(thread) = self.threads.get(thread_id) {
            let params = json!({"threadId": thread_id, "status": thread.status()});
            self.wire.notify("thread/status/changed", params);
        }
    }

    pub(super) fn item_started(&mut self, thread_id: &str, turn_id: &str, item: Value) {
        let params = json!({"item": item, "threadId": thread_id, "turnId": turn_id, "startedAtMs": now_ms()});
        self.wire.notify("item/started", params);
    }

    pub(super) fn item_completed(&mut self, thread_id: &str, turn_id: &str, item: Value) {
        let params = json!({"item": item, "threadId": thread_id, "turnId": turn_id,
                            "contentTokenCount": null, "completedAtMs": now_ms()});
        self.wire.notify("item/completed", params);
    }
}
