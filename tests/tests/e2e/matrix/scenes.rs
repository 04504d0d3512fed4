//! The scenes for clients that speak the protocol: what they had, what they are told, and how they go on.

use std::collections::HashMap;

use codexd_tests::client::{Message, TestClient};
use codexd_tests::{process, wait};
use serde_json::{Value, json};

use super::place::{Place, Talker};
use super::table::{Cell, Death, Scene, Way};
use super::{check_probe, probe};
use crate::world::Bridge;

/// The prompt that waits in the queue.
pub(super) const WAITING: &str = "the one that waited";

/// In each prompt that codex writes itself for a goal.
pub(super) const OF_GOAL: &str = "codex_internal_context source=\"goal\"";

/// A command that ends when this file is there.
const COMMAND: &str = "until [ -e the-end-of-it ]; do sleep 0.05; done";

pub(super) fn command_turn() -> String {
    format!("[[shell:{COMMAND};;yield_time_ms=60000]] go")
}

/// Whether the command of [`command_turn`] runs.
pub(super) fn command_runs(place: &Place) -> bool {
    process::marked(place.root()).iter().any(|it| it.command.contains("the-end-of-it"))
}

/// Lets everything that waits go on: gates of the model, and the command.
pub(super) fn let_go(place: &Place) {
    for gate in ["gate", "child", OF_GOAL] {
        place.model().open(gate);
    }
    std::fs::write(place.project().join("the-end-of-it"), "").unwrap();
}

struct Run {
    cell: Cell,
    place: Place,
}

/// What the client had.
#[derive(Default)]
struct Open {
    thread: String,
    /// Turns that run, with their threads.
    turns: Vec<(String, String)>,
    approval: Option<Message>,
    /// A request that may have been carried out.
    pending: Option<i64>,
    /// The thread of the sub-agent.
    child: Option<String>,
    /// An ephemeral thread.
    gone: Option<String>,
    /// How many turns of a goal had begun when the daemon was gone.
    goal_turns: usize,
    listener: Option<Bridge>,
}

pub(super) fn run(cell: Cell) {
    let Some(place) = Place::new(cell.manager) else { return };
    let Some(mut client) = place.client(cell.way) else { return };
    let run = Run { cell, place };
    let mut open = run.prepare(&mut client);
    let mut client = run.end(client, &mut open);
    run.resume(&mut client, &open.thread);
    run.go_on(&mut client, &mut open);
    run.next_prompt(&mut client, &mut open);
    run.check_permissions(&mut client, &open.thread, "after", false);
    if let Some(listener) = open.listener.take() {
        assert_eq!(listener.finish(), 0, "{cell}");
    }
    run.place.check_second(&cell);
    run.check_record(&client);
    match client {
        Talker::Bridge(bridge) => assert_eq!(bridge.finish(), 0, "{cell}"),
        Talker::Plain(client) => drop(client),
    }
    run.place.finish();
}

fn is_end(message: &Message) -> bool {
    message.method() == Some("turn/completed")
}

fn turn_id(message: &Message) -> &str {
    message["params"]["turn"]["id"].as_str().unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

impl Run {
    fn thread(&self, client: &mut TestClient, ephemeral: bool) -> String {
        let thread = client.start_thread(json!({
            "cwd": self.place.project(), "sandbox": "workspace-write", "approvalPolicy": "on-request",
            "ephemeral": ephemeral,
        }));
        if self.cell.way == Way::Plugin && !ephemeral {
            client
                .request("thread/name/set", json!({"threadId": thread, "name": "Codex Companion Task: it"}));
        }
        thread
    }

    #[track_caller]
    fn completes(&self, client: &mut TestClient, thread: &str, prompt: &str) {
        let turn = client.turn(thread, prompt);
        assert_eq!(turn.status, "completed", "{}: {:?}", self.cell, turn.error);
        self.check_sdk(client, &turn.id, "completed");
    }

    /// What `Thread.run` of the SDK returned or raised.
    #[track_caller]
    fn check_sdk(&self, client: &mut TestClient, turn: &str, status: &str) {
        if self.cell.way != Way::Sdk {
            return;
        }
        let ended = client.take("the end of `Thread.run`", |message| {
            message.method() == Some("sdk/ended") && message["params"]["turnId"] == turn
        });
        let ended = &ended["params"];
        if status == "failed" {
            assert!(ended["error"].is_string(), "{}: {ended}", self.cell);
        } else {
            assert_eq!(ended["status"], status, "{}: {ended}", self.cell);
        }
    }

    fn prepare(&self, client: &mut Talker) -> Open {
        let mut open = Open { thread: self.thread(client, false), ..Open::default() };
        let thread = open.thread.clone();
        match self.cell.scene {
            Scene::Idle => {
                self.completes(client, &thread, "[[deltas:3]] first");
                self.check_permissions(client, &thread, "before", true);
                let mut listener = self.place.bridge("listener");
                listener.request("thread/resume", json!({"threadId": thread}));
                open.listener = Some(listener);
            }
            Scene::Streaming => {
                open.turns.push((thread.clone(), self.stream(client, &thread)));
            }
            Scene::Command => {
                open.turns.push((thread.clone(), client.start_turn(&thread, &command_turn())));
                wait::until("the command runs", || command_runs(&self.place));
                // An upgrade would wait for it.
                if matches!(self.cell.way, Way::Lines | Way::WebSocket | Way::Connect)
                    && self.cell.death != Death::CodexUpgraded
                {
                    let params = json!({"command": ["sleep", "988"], "processId": "p"});
                    open.pending = Some(client.send_request("command/exec", params));
                    wait::until("the other command runs", || {
                        process::marked(self.place.root()).iter().any(|it| it.command.contains("sleep 988"))
                    });
                }
            }
            Scene::Approval => {
                let (turn, approval) = self.ask_approval(client, &thread);
                open.turns.push((thread.clone(), turn));
                open.approval = Some(approval);
            }
            Scene::NeverRan => {
                if matches!(self.cell.death, Death::CodexKilled | Death::CodexdKilled) {
                    let home = self.place.world().home().codex_home();
                    wait::until("codex keeps it", || crate::never_ran::is_kept(&home, &thread));
                }
            }
            Scene::Queued => {
                open.turns.push((thread.clone(), self.stream(client, &thread)));
                queue(client, &thread);
            }
            Scene::PausedGoal => {
                self.completes(client, &thread, "[[deltas:3]] first");
                set_goal(client, &thread, "paused");
            }
            Scene::ActiveGoal => {
                self.completes(client, &thread, "[[deltas:3]] first");
                self.place.model().hold(OF_GOAL);
                set_goal(client, &thread, "active");
                let started = client.take("a turn of the goal", |message| {
                    message.method() == Some("turn/started")
                        && message["params"]["threadId"] == thread.as_str()
                });
                self.place.model().wait_for_prompt(OF_GOAL);
                open.turns.push((thread.clone(), text(&started["params"]["turn"]["id"])));
            }
            Scene::SubAgent => self.spawn(client, &mut open),
            Scene::Ephemeral => {
                let gone = self.thread(client, true);
                self.completes(client, &gone, "[[deltas:3]] first");
                self.completes(client, &thread, "[[deltas:3]] first");
                open.gone = Some(gone);
            }
        }
        open
    }

    /// Starts a turn that has said something and does not end by itself.
    fn stream(&self, client: &mut Talker, thread: &str) -> String {
        let turn = client.start_turn(thread, "[[deltas:3]][[gate:gate]] for long");
        client.take("its message", |message| {
            let params = &message["params"];
            message.method() == Some("item/started")
                && params["item"]["type"] == "agentMessage"
                && params["turnId"] == turn.as_str()
        });
        turn
    }

    fn ask_approval(&self, client: &mut Talker, thread: &str) -> (String, Message) {
        let prompt = "[[shell:echo yes > made.txt;;sandbox_permissions=\"require_escalated\"]] go";
        let turn = client.start_turn(thread, prompt);
        (turn, client.take("the approval", Message::is_server_request))
    }

    fn spawn(&self, client: &mut Talker, open: &mut Open) {
        let prompt = "[[spawn:{{gate:child}} the child]][[gate:gate]] the parent";
        let turn = client.start_turn(&open.thread, prompt);
        let started = client.take("the turn of the child", |message| {
            message.method() == Some("turn/started") && message["params"]["threadId"] != open.thread.as_str()
        });
        let child = text(&started["params"]["threadId"]);
        open.turns.push((child.clone(), text(&started["params"]["turn"]["id"])));
        open.turns.push((open.thread.clone(), turn));
        open.child = Some(child);
        // The parent twice and the child once.
        wait::until("both wait", || self.place.model().requests().len() >= 3);
    }

    /// The daemon ends. Returns the client of the next one.
    fn end(&self, mut client: Talker, open: &mut Open) -> Talker {
        let Cell { death, way, .. } = self.cell;
        let finish = || {
            if let Some(approval) = &open.approval {
                client.answer(approval, json!({"decision": "accept"}));
            }
            let_go(&self.place);
        };
        self.place.happens(death, (!open.turns.is_empty()).then_some(finish));
        open.goal_turns = goal_turns(&self.place);
        if let (Some(approval), true) = (&open.approval, way.is_kept() && death != Death::CodexUpgraded) {
            // Of somebody who does not know: the answer reaches nobody.
            client.answer(approval, json!({"decision": "accept"}));
        }
        if way.is_kept() {
            // It says how it went before it answers.
            let seen = client.recv_to_barrier();
            self.check_end(&mut client, seen, open);
            return client;
        }
        let seen = client.recv_to_end();
        self.check_end(&mut client, seen, open);
        self.check_record(&client);
        drop(client);
        self.place.client(way).unwrap()
    }

    /// One end for each turn and one answer for each request, as far as anybody is there to say so.
    #[track_caller]
    fn check_end(&self, client: &mut Talker, seen: Vec<Message>, open: &Open) {
        let Cell { death, way, .. } = self.cell;
        let nobody = death == Death::CodexdKilled && !way.is_kept();
        let status = match death {
            Death::CodexKilled | Death::CodexdKilled => "failed",
            Death::CodexUpgraded => "completed",
            Death::Stopped => "interrupted",
        };
        for (thread, turn) in &open.turns {
            let of_turn = |it: &&Message| is_end(it) && turn_id(it) == turn;
            let ends: Vec<_> = client.record().iter().filter(of_turn).collect();
            assert_eq!(ends.len(), usize::from(!nobody), "{}: ends of {turn} in {seen:#?}", self.cell);
            if let [end] = ends[..] {
                let is = (&end["params"]["threadId"], &end["params"]["turn"]["status"]);
                assert_eq!(is, (&json!(thread), &json!(status)), "{}: {seen:#?}", self.cell);
            }
        }
        if let (Some(id), false) = (open.pending, nobody) {
            let answers: Vec<_> = client.record().iter().filter(|it| it.is_answer_to(id)).collect();
            assert_eq!(answers.len(), 1, "{}: {seen:#?}", self.cell);
            assert_eq!(answers[0].outcome().unwrap_err().code, -32010, "{}", self.cell);
        }
        if let (Some(approval), false) = (&open.approval, nobody) {
            let resolved = |it: &&Message| {
                it.method() == Some("serverRequest/resolved") && it["params"]["requestId"] == approval["id"]
            };
            // The SDK gives approvals ids of its own.
            if way != Way::Sdk {
                let count = client.record().iter().filter(resolved).count();
                assert_eq!(count, 1, "{}: {seen:#?}", self.cell);
            }
        }
        let main = open.turns.iter().filter(|_| self.cell.scene != Scene::ActiveGoal);
        for (_, turn) in main.filter(|(thread, _)| *thread == open.thread) {
            if !seen.is_empty() && way == Way::Sdk {
                self.check_sdk_among(client, &seen, turn, status);
            }
        }
    }

    /// [`Run::check_sdk`], where the end of `Thread.run` may be among what was received already.
    #[track_caller]
    fn check_sdk_among(&self, client: &mut Talker, seen: &[Message], turn: &str, status: &str) {
        let is_it = |it: &Message| it.method() == Some("sdk/ended") && it["params"]["turnId"] == turn;
        let ended = match seen.iter().find(|it| is_it(it)) {
            Some(ended) => ended.clone(),
            None => client.take("the end of `Thread.run`", is_it),
        };
        let (is, raised) = (&ended["params"]["status"], ended["params"]["error"].is_string());
        assert!(if status == "failed" { raised } else { is == status }, "{}: {ended:?}", self.cell);
    }

    /// The thread is subscribed again: by `connect`, or by the client itself.
    fn resume(&self, client: &mut TestClient, thread: &str) {
        let params = match self.cell.way {
            Way::Connect | Way::Sdk => return,
            Way::Plugin => json!({
                "threadId": thread, "cwd": self.place.project(), "model": null, "approvalPolicy": "on-request",
                "sandbox": "workspace-write",
            }),
            Way::Lines | Way::WebSocket | Way::Terminal => json!({"threadId": thread}),
        };
        let resumed = client.request("thread/resume", params);
        assert_eq!(resumed["sandbox"]["type"], "workspaceWrite", "{}: {resumed}", self.cell);
    }

    fn go_on(&self, client: &mut Talker, open: &mut Open) {
        let thread = open.thread.clone();
        let upgraded = self.cell.death == Death::CodexUpgraded;
        match self.cell.scene {
            Scene::Idle | Scene::Streaming | Scene::NeverRan => {}
            Scene::Command => {
                wait::until("the command has ended", || !command_runs(&self.place));
            }
            Scene::Approval => {
                let made = self.place.project().join("made.txt");
                assert_eq!(made.exists(), upgraded, "{}: it was answered, or not", self.cell);
                // The policy is what it was, and no answer from before counts.
                let (turn, next) = self.ask_approval(client, &thread);
                let before = open.approval.as_ref().unwrap();
                assert!(next["id"] != before["id"] || !self.cell.way.is_kept(), "{}: {next:?}", self.cell);
                client.answer(&next, json!({"decision": "decline"}));
                client.finish_turn(&thread, &turn);
                assert_eq!(made.exists(), upgraded, "{}", self.cell);
            }
            Scene::Queued => self.queued(client, open),
            Scene::PausedGoal => check_goal(client, &thread, "paused"),
            Scene::ActiveGoal => self.active_goal(client, open),
            Scene::SubAgent => {
                let params = json!({"threadId": open.child.as_ref().unwrap()});
                let resumed = client.request("thread/resume", params);
                let status = if upgraded { "completed" } else { "interrupted" };
                assert_eq!(resumed["thread"]["turns"][0]["status"], status, "{}", self.cell);
            }
            Scene::Ephemeral => {
                let input = json!([{"type": "text", "text": "hello?"}]);
                let params = json!({"threadId": open.gone.as_ref().unwrap(), "input": input});
                let error =
                    client.try_request("turn/start", params).expect_err("codex does not know it any more");
                assert!(
                    error.code == -32600 && error.data["codexd"].is_null(),
                    "{}: codex's own: {error:?}",
                    self.cell
                );
            }
        }
    }

    /// A prompt in the queue is run once, or still there.
    fn queued(&self, client: &mut Talker, open: &Open) {
        // Codex runs it by itself where the thread is resumed after a turn that was killed, and not after one that was
        // interrupted.
        if queue_length(client, &open.thread) == 1 {
            let _ = client.try_request("thread/queue/start", json!({"threadId": open.thread}));
        }
        wait::until("it was asked", || asked(&self.place) == 1);
        wait::until("nothing runs", || self.place.status("openTurns") == "0");
        assert_eq!((queue_length(client, &open.thread), asked(&self.place)), (0, 1), "{}", self.cell);
    }

    /// The next codex goes on with the goal as soon as the thread is resumed.
    fn active_goal(&self, client: &mut Talker, open: &Open) {
        if self.cell.way.is_kept() {
            // Whatever its next request about the thread is.
            client.request("thread/goal/get", json!({"threadId": open.thread}));
        }
        let before = open.goal_turns;
        wait::until("the next turn of the goal", || goal_turns(&self.place) > before);
        check_goal(client, &open.thread, "active");
        set_goal(client, &open.thread, "paused");
        let_go(&self.place);
        wait::until("nothing runs", || self.place.status("openTurns") == "0");
    }

    /// The next prompt is answered, and heard by a client that never asked for anything since.
    fn next_prompt(&self, client: &mut Talker, open: &mut Open) {
        let Some(listener) = &mut open.listener else {
            return self.completes(client, &open.thread, "[[deltas:3]] and next");
        };
        // It has the next daemon without having asked for it, and is subscribed again once the thread's status changes.
        listener.take_method("notifications/broker/upstreamRestarted");
        let turn = client.start_turn(&open.thread, "[[deltas:3]][[gate:heard]] and next");
        listener.take("something of the turn", |message| {
            turn_id(message) == turn || message["params"]["turnId"] == turn.as_str()
        });
        self.place.model().open("heard");
        assert_eq!(listener.finish_turn(&open.thread, &turn).status, "completed", "{}", self.cell);
        assert_eq!(client.finish_turn(&open.thread, &turn).status, "completed", "{}", self.cell);
        self.check_sdk(client, &turn, "completed");
    }

    fn check_permissions(&self, client: &mut TestClient, thread: &str, name: &str, first: bool) {
        self.completes(client, thread, &probe(name));
        check_probe(self.cell, &self.place, name, first);
    }

    /// Of all that a client has received: at most one end for each turn and exactly one answer for each request, as far as
    /// the daemon was not killed before it could give one.
    #[track_caller]
    fn check_record(&self, client: &TestClient) {
        let mut ends: HashMap<&str, usize> = HashMap::new();
        client
            .record()
            .iter()
            .filter(|it| is_end(it))
            .for_each(|it| *ends.entry(turn_id(it)).or_default() += 1);
        assert!(ends.values().all(|count| *count == 1), "{}: {ends:#?}", self.cell);
        let cut = !self.cell.way.is_kept() && self.cell.death == Death::CodexdKilled;
        let started = client.record().iter().filter(|it| it.method() == Some("turn/started")).map(turn_id);
        let endless: Vec<_> = started.filter(|turn| !cut && !ends.contains_key(turn)).collect();
        assert!(endless.is_empty(), "{}: turns without an end: {endless:#?}", self.cell);
        for id in 1..=client.last_id() {
            let count = client.record().iter().filter(|it| it.is_answer_to(id)).count();
            assert!(count == 1 || count == 0 && cut, "{}: {count} answers to {id}", self.cell);
        }
        let answered = client.record().iter().filter(|it| it.method() == Some("sdk/answered"));
        let mut ids: Vec<_> = answered.map(|it| it["params"]["id"].to_string()).collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count, "{}: answers that came twice", self.cell);
    }
}

/// Puts a prompt into the queue of a thread.
pub(super) fn queue(client: &mut TestClient, thread: &str) {
    let input = json!([{"type": "text", "text": WAITING, "text_elements": []}]);
    let params = json!({"threadId": thread, "input": input, "clientUserMessageId": "waits"});
    client.request("thread/queue/add", params);
}

pub(super) fn queue_length(client: &mut TestClient, thread: &str) -> usize {
    let queue = client.request("thread/queue/list", json!({"threadId": thread}));
    queue["data"].as_array().map_or(0, Vec::len)
}

/// How often the model was asked the prompt that waited.
pub(super) fn asked(place: &Place) -> usize {
    place.model().requests().iter().filter(|it| it.prompt().contains(WAITING)).count()
}

/// How many turns of a goal have begun.
pub(super) fn goal_turns(place: &Place) -> usize {
    place.model().requests().iter().filter(|it| it.prompt().contains(OF_GOAL)).count()
}

pub(super) fn set_goal(client: &mut TestClient, thread: &str, status: &str) {
    let params = json!({"threadId": thread, "objective": "the aim", "status": status});
    client.request("thread/goal/set", params);
}

#[track_caller]
pub(super) fn check_goal(client: &mut TestClient, thread: &str, status: &str) {
    let goal = client.request("thread/goal/get", json!({"threadId": thread}))["goal"].clone();
    assert_eq!((&goal["objective"], &goal["status"]), (&json!("the aim"), &json!(status)));
}
