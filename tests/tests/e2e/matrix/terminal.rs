//! The scenes for a person at the terminal interface of codex. What the interface does not show is looked up by another
//! client, the operator.

use codexd_tests::client::TestClient;
use codexd_tests::terminal::Terminal;
use codexd_tests::wait;
use serde_json::{Value, json};

use super::place::Place;
use super::scenes::{
    OF_GOAL, asked, check_goal, command_runs, command_turn, goal_turns, let_go, queue, queue_length, set_goal,
};
use super::table::{Cell, Death, Manager, Scene};
use super::{check_probe, probe};
use crate::tui::{PROMPT, join, send};

/// The first prompt: by it, the thread of the conversation is found.
const FIRST: &str = "the first question";

struct Run {
    cell: Cell,
    place: Place,
    terminal: Terminal,
}

pub(super) fn run(cell: Cell) {
    if !Terminal::is_available() {
        return;
    }
    let Some(place) = Place::new(cell.manager) else { return };
    place.wake();
    let command = format!(
        "'{}' --remote 'unix://{}' --sandbox workspace-write --ask-for-approval on-request --no-alt-screen -C '{}'",
        place.native().display(),
        place.socket().display(),
        place.project().display()
    );
    let terminal = Terminal::run(place.world().home(), &command);
    terminal.wait_for(PROMPT);
    let run = Run { cell, place, terminal };
    let prompt = run.prepare();
    let before = run.end();
    run.is_back();
    run.go_on(prompt, before);
    run.ask("and next");
    run.ask(&probe("after"));
    check_probe(cell, &run.place, "after", false);
    run.listens();
    run.place.check_second(&cell);
    let Run { place, terminal, .. } = run;
    // It ends with its terminal.
    drop(terminal);
    wait::until("the interface has ended", || place.status("clients") == "0");
    place.finish();
}

impl Run {
    fn send(&self, prompt: &str) {
        let ending = prompt.rsplit("]] ").next().unwrap();
        send(&self.terminal, prompt, ending);
    }

    /// Asks, and waits until that is answered, once.
    fn ask(&self, prompt: &str) {
        self.send(prompt);
        let answer = format!("echo: {}", if prompt.contains("]]") { " " } else { "" });
        let answer = format!("{answer}{}", prompt.rsplit("]] ").next().unwrap());
        let screen = self.terminal.wait_for(&answer);
        assert_eq!(screen.matches(&answer).count(), 1, "{}:\n{screen}", self.cell);
        self.is_quiet();
    }

    fn is_quiet(&self) {
        wait::until("nothing runs", || self.place.status("openTurns") == "0");
    }

    /// Runs something as another client, which knows the thread of the conversation.
    fn operate<T>(&self, what: impl FnOnce(&mut TestClient, &str) -> T) -> T {
        let mut operator = self.place.operator();
        let thread = join(&mut operator, FIRST);
        let result = what(&mut operator, &thread);
        drop(operator);
        wait::until("the operator has left", || self.place.status("clients") == "1");
        result
    }

    /// Sends the prompt of the scene. Returns its last words.
    fn prepare(&self) -> Option<&'static str> {
        if self.cell.scene == Scene::NeverRan {
            self.wait_until_kept();
            return None;
        }
        self.ask(FIRST);
        let model = self.place.model();
        match self.cell.scene {
            Scene::Idle => {
                self.ask(&probe("before"));
                check_probe(self.cell, &self.place, "before", true);
                return None;
            }
            Scene::Streaming | Scene::Queued => {
                self.send("[[deltas:9]][[gate:gate]] for long");
                self.terminal.wait_for("tok8");
                if self.cell.scene == Scene::Queued {
                    self.operate(queue);
                }
                return Some("for long");
            }
            Scene::Command => {
                self.send(&command_turn());
                wait::until("the command runs", || command_runs(&self.place));
                return Some("go");
            }
            Scene::Approval => {
                self.send("[[shell:echo yes > made.txt;;sandbox_permissions=\"require_escalated\"]] do it");
                self.terminal.wait_for("Yes, proceed");
                return Some("do it");
            }
            Scene::PausedGoal => self.operate(|operator, thread| set_goal(operator, thread, "paused")),
            Scene::ActiveGoal => {
                model.hold(OF_GOAL);
                self.operate(|operator, thread| set_goal(operator, thread, "active"));
                model.wait_for_prompt(OF_GOAL);
            }
            Scene::SubAgent => {
                let before = model.requests().len();
                self.send("[[spawn:{{gate:child}} the child]][[gate:gate]] the parent");
                // The parent twice and the child once.
                wait::until("both wait", || model.requests().len() >= before + 3);
                return Some("the parent");
            }
            Scene::NeverRan | Scene::Ephemeral => unreachable!("{}", self.cell),
        }
        None
    }

    /// Waits until the interface has started its thread, which it does after it has drawn itself. A death finds the thread
    /// only where codex has kept it; a planned stop has codex keep it.
    fn wait_until_kept(&self) {
        let planned = matches!(self.cell.death, Death::CodexUpgraded | Death::Stopped);
        let home = self.place.world().home().codex_home();
        let mut operator = self.place.operator();
        wait::until("codex keeps the threads of the interface", || {
            let loaded = operator.request("thread/loaded/list", json!({}))["data"].clone();
            let loaded: Vec<&str> = loaded.as_array().unwrap().iter().filter_map(Value::as_str).collect();
            let is_kept = |thread: &&str| planned || crate::never_ran::is_kept(&home, thread);
            !loaded.is_empty() && loaded.iter().all(is_kept)
        });
    }

    /// Returns how many turns of a goal had begun when the daemon was gone.
    fn end(&self) -> usize {
        let runs = !matches!(self.cell.scene, Scene::Idle | Scene::NeverRan | Scene::PausedGoal);
        let finish = || {
            if self.cell.scene == Scene::Approval {
                self.terminal.press("y");
            }
            let_go(&self.place);
        };
        self.place.happens(self.cell.death, runs.then_some(finish));
        let before = goal_turns(&self.place);
        // The interface starts no daemon.
        if self.cell.manager == Manager::AutoSpawn
            && matches!(self.cell.death, Death::CodexdKilled | Death::Stopped)
        {
            self.place.wake();
        }
        before
    }

    /// It has connected again by itself, and shows so.
    fn is_back(&self) {
        wait::until("the interface has connected again", || self.place.status("clients") == "1");
        self.terminal.wait_without("Reconnecting");
        self.terminal.wait_for(PROMPT);
    }

    fn go_on(&self, prompt: Option<&str>, before: usize) {
        let upgraded = self.cell.death == Death::CodexUpgraded;
        match self.cell.scene {
            Scene::Command => wait::until("the command has ended", || !command_runs(&self.place)),
            Scene::Approval => {
                let made = self.place.project().join("made.txt");
                assert_eq!(made.exists(), upgraded, "{}: it was answered, or not", self.cell);
                assert!(!self.terminal.screen().contains("Yes, proceed"), "{}", self.terminal.screen());
            }
            Scene::Queued => {
                let thread = self.operate(|_, thread| thread.to_owned());
                let mut operator = self.place.operator();
                if queue_length(&mut operator, &thread) == 1 {
                    let _ = operator.try_request("thread/queue/start", json!({"threadId": thread}));
                }
                drop(operator);
                wait::until("it was asked", || asked(&self.place) >= 1);
                self.is_quiet();
                // The interface asks the model things of its own, too: what counts is the history.
                self.operate(|operator, thread| {
                    let read =
                        operator.request("thread/read", json!({"threadId": thread, "includeTurns": true}));
                    assert_eq!(
                        read.to_string().matches("\"clientId\":\"waits\"").count(),
                        1,
                        "{}: {read}",
                        self.cell
                    );
                    assert_eq!(queue_length(operator, thread), 0, "{}", self.cell);
                });
            }
            Scene::PausedGoal => {
                self.operate(|operator, thread| check_goal(operator, thread, "paused"));
            }
            Scene::ActiveGoal => {
                wait::until("the next turn of the goal", || goal_turns(&self.place) > before);
                self.operate(|operator, thread| set_goal(operator, thread, "paused"));
                let_go(&self.place);
                self.is_quiet();
            }
            _ => {}
        }
        let Some(prompt) = prompt else { return };
        // The history has the turn once, with its end.
        let status = if upgraded { "completed" } else { "interrupted" };
        self.operate(|operator, thread| {
            let read = operator.request("thread/read", json!({"threadId": thread, "includeTurns": true}));
            let turns = read["thread"]["turns"].as_array().unwrap().clone();
            let of_prompt = |turn: &&Value| turn["items"].to_string().contains(prompt);
            let is: Vec<&Value> = turns.iter().filter(of_prompt).map(|turn| &turn["status"]).collect();
            assert_eq!(is, [status], "{}: {read}", self.cell);
        });
    }

    /// The interface never asks again, and still shows what another client asks.
    fn listens(&self) {
        let mut operator = self.place.operator();
        let said = if self.cell.scene == Scene::NeverRan { "and next" } else { FIRST };
        let thread = join(&mut operator, said);
        let turn = operator.turn(&thread, "[[say:0:an answer from elsewhere]] a question from elsewhere");
        assert_eq!(turn.status, "completed", "{}", self.cell);
        self.terminal.wait_for("• an answer from elsewhere");
    }
}
