//! A client that works: threads, turns, approvals, commands, processes, reads; until it is asked to leave, its
//! connection ends, or it does something to itself.

use std::collections::BTreeMap;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::accounting::{ClientAccounting, Fate, Purpose};
use super::plan::{ClientPlan, LinkKind};
use super::shared::{Hit, Shared};
use super::talk::Talk;
use super::violation::ViolationKind;
use crate::client::TestClient;

/// A client of a plan, connected.
pub(crate) struct Worker<'a> {
    talk: Talk<'a>,
    plan: &'a ClientPlan,
    index: usize,
    idle: bool,
    threads: Vec<String>,
    /// The sandbox policies that were set.
    policies: BTreeMap<String, Value>,
    serial: u64,
    watches: bool,
}

/// The end of a client's story.
pub(crate) struct Story {
    pub(crate) accounting: ClientAccounting,
    /// What it has made of its end; `None` when the daemon decided.
    pub(crate) fate: Option<Fate>,
    /// Its last lines, for people.
    pub(crate) past: Vec<String>,
}

impl<'a> Worker<'a> {
    pub(crate) fn new(
        index: usize,
        plan: &'a ClientPlan,
        idle: bool,
        client: TestClient,
        shared: &'a Shared,
    ) -> Worker<'a> {
        let talk = Talk::new(&format!("c{index}"), client, plan.link, shared, plan.seed);
        Worker {
            talk,
            plan,
            index,
            idle,
            threads: Vec::new(),
            policies: BTreeMap::new(),
            serial: 0,
            watches: false,
        }
    }

    /// Works to the end.
    pub(crate) fn run(mut self) -> Story {
        let fate = self.work();
        let past = self.talk.client.past(SHOWN).to_vec();
        let Talk { accounting, client, .. } = self.talk;
        // Ends the connection, or the bridge.
        drop(client);
        self.talk.shared.set_left(self.index);
        Story { accounting, fate, past }
    }

    fn work(&mut self) -> Option<Fate> {
        let shared = self.talk.shared;
        if self.talk.introduce() {
            let count = 1 + self.talk.random.index(2);
            for _ in 0..count {
                let Some(thread) = self.talk.start_thread() else { continue };
                if let Some(policy) = self.talk.set_policy(&thread) {
                    self.policies.insert(thread.clone(), policy);
                }
                self.threads.push(thread);
            }
        }
        if self.plan.command && !self.talk.over {
            let params = json!({"command": ["sleep", "300"], "processId": "all the time"});
            self.talk.ask("command/exec", params, Purpose::Background);
        }
        if !shared.real && !self.talk.over && self.talk.random.one_in(2) {
            // The same name for all clients, and a path for each.
            let path = format!("/c{}", self.index);
            let params = json!({"watchId": "w", "path": path});
            self.talk.ask("fs/watch", params, Purpose::Path(path));
        }
        shared.set_ready(self.index);
        loop {
            if let Some(hit) = shared.is_hit(self.index) {
                return Some(self.suffer(hit));
            }
            if self.talk.over {
                return None;
            }
            if shared.is_stopped() {
                return self.leave();
            }
            let notified = self.talk.accounting.has_shutdown_notice();
            if self.idle || notified && !self.plan.eager || self.threads.is_empty() {
                self.talk.pump("the end", |talk| {
                    shared.is_stopped()
                        || shared.is_hit(self.index).is_some()
                        || talk.accounting.has_shutdown_notice() != notified
                });
            } else {
                self.task();
                shared.finished(self.index);
            }
        }
    }

    /// Several things at once, and then all of their ends.
    fn task(&mut self) {
        let shared = self.talk.shared;
        for _ in 0..=self.talk.random.below(3) {
            match self.talk.random.below(10) {
                0..=4 => self.turn(),
                5..=6 => self.reads(),
                7 => self.command(),
                8 => self.process(),
                _ => self.interrupted(),
            }
        }
        // Its answer proves that all before it was read.
        self.talk.ask("broker/status", json!({}), Purpose::Any);
        let index = self.index;
        self.talk.pump("its work", |talk| talk.accounting.is_complete() || shared.is_hit(index).is_some());
        if let Some(thread) = self.threads.first()
            && self.talk.accounting.has_ended_turn(thread)
        {
            shared.show_thread(self.index, thread);
        }
        for (thread, policy) in &self.policies {
            if self.talk.accounting.has_run(thread) {
                shared.show_policy(thread, policy);
            }
        }
        self.watch();
    }

    /// Joins the thread of another client, once that can be resumed.
    fn watch(&mut self) {
        let Some(other) = self.plan.watches.filter(|_| !self.watches) else { return };
        let Some(thread) = self.talk.shared.thread_of(other) else { return };
        self.watches = true;
        self.talk.ask("thread/resume", json!({"threadId": thread}), Purpose::Watch(thread.clone()));
    }

    fn free_thread(&self) -> Option<String> {
        self.threads.iter().find(|thread| !self.talk.accounting.is_busy(thread)).cloned()
    }

    /// Returns a word that no other client uses, and that ends with a letter.
    fn word(&mut self) -> String {
        self.serial += 1;
        format!("c{}n{}w", self.index, self.serial)
    }

    fn turn(&mut self) {
        let Some(thread) = self.free_thread() else { return self.reads() };
        let mut word = self.word();
        let random = &mut self.talk.random;
        let (deltas, pause) = match random.below(8) {
            0 => {
                // More than a pipe holds.
                word.push_str(&"w".repeat(random.index(100_000)));
                (1 + random.index(4), 0)
            }
            2 => (1 + random.index(400), 0),
            1 => (1 + random.index(60), 5),
            _ => (1 + random.index(20), random.below(4)),
        };
        let approve = match (random.one_in(3), self.talk.shared.real) {
            (false, _) => String::new(),
            (true, false) => "[[approve]]".to_owned(),
            (true, true) => format!("[[shell:echo {word}]]"),
        };
        let numbers = match self.talk.shared.real {
            true => format!("[[deltas:{deltas}:{pause}]]"),
            false => format!("[[deltas:{deltas}:{pause}:{word}]]"),
        };
        let change = match !self.talk.shared.real && self.talk.random.one_in(6) {
            true => "[[fs-change]]",
            false => "",
        };
        self.talk.start_turn(
            &thread,
            &word,
            deltas,
            &format!("{approve}{change}{numbers}of c{}", self.index),
        );
    }

    fn reads(&mut self) {
        let count = 1 + self.talk.random.below(20);
        for _ in 0..count {
            match (self.talk.random.below(3), self.threads.first().cloned()) {
                (0, Some(thread)) if !self.talk.shared.real => {
                    self.talk.ask("thread/read", json!({"threadId": thread}), Purpose::Read(thread.clone()));
                }
                (1, _) => {
                    self.talk.ask("thread/loaded/list", json!({}), Purpose::Any);
                }
                _ => {
                    self.talk.ask("model/list", json!({}), Purpose::Any);
                }
            }
        }
    }

    fn command(&mut self) {
        let word = self.word();
        let time = self.talk.random.below(60);
        let script = format!("sleep 0.0{time:02}; echo {word}");
        let params = json!({"command": ["sh", "-c", script], "cwd": self.talk.shared.project});
        self.talk.ask("command/exec", params, Purpose::Says(word));
    }

    fn process(&mut self) {
        if self.talk.shared.real {
            return self.reads();
        }
        self.serial += 1;
        // The same handles for all clients, and a code for each.
        let handle = format!("p{}", self.serial);
        let code = i64::try_from(self.index).unwrap_or_default() + 10;
        let script = format!("exit {code}");
        let params = json!({"command": ["sh", "-c", script], "processHandle": handle});
        self.talk.ask("process/spawn", params, Purpose::Process { handle: handle.clone(), code });
    }

    fn interrupted(&mut self) {
        let shared = self.talk.shared;
        let Some(thread) = self.free_thread().filter(|_| !shared.real) else { return self.reads() };
        let word = self.word();
        let prompt = format!("[[deltas:3:0:{word}]][[hang]]");
        let id = self.talk.start_turn(&thread, &word, 3, &prompt);
        let index = self.index;
        self.talk
            .pump("a turn", |talk| talk.accounting.is_done(id).is_some() || shared.is_hit(index).is_some());
        if let Some((turn, thread)) = self.talk.accounting.turn_with(&word) {
            let params = json!({"threadId": thread, "turnId": turn});
            self.talk.ask("turn/interrupt", params, Purpose::Interrupt(turn.clone()));
        }
    }

    /// Leaves as a good client does.
    fn leave(&mut self) -> Option<Fate> {
        if self.plan.command {
            self.talk.ask("command/exec/terminate", json!({"processId": "all the time"}), Purpose::Any);
            self.talk.pump("the end of its command", |talk| talk.accounting.is_answered());
        }
        let complete = self.talk.pump("its last answers", |talk| talk.accounting.is_complete());
        (complete && !self.talk.over).then_some(Fate::Served)
    }

    /// Injects the fault that the plan has for this client.
    fn suffer(&mut self, hit: Hit) -> Fate {
        match (hit, self.plan.link) {
            (Hit::Kill, LinkKind::Connect) => {
                let pid = self.talk.client.pid().and_then(|pid| i32::try_from(pid).ok());
                if let Some(pid) = pid {
                    // Our own child, and not collected yet.
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                Fate::Hit
            }
            // A WebSocket that is closed drops what waits for it.
            (Hit::HalfClose, LinkKind::Lines | LinkKind::Connect) => {
                self.talk.client.finish_sending();
                self.talk.pump("the end after its half-close", |_| false);
                if self.plan.link == LinkKind::Connect {
                    let status = self.talk.client.wait_exit();
                    if status.code() != Some(0) {
                        self.talk
                            .break_promise(ViolationKind::ExitCode, &format!("codexd connect: {status}"));
                    }
                }
                Fate::HalfClosed
            }
            _ => Fate::Hit,
        }
    }
}

/// How much of its past a client shows.
const SHOWN: usize = 25;
