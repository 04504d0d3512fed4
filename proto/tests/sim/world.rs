//! Clients, core and upstream together: which acts next, and what must be true afterwards.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use codexd_proto::core::{Core, CoreConfig, CoreSettings, Event, Framing, Restart, Timer};
use codexd_proto::exit::ExitCode;
use codexd_proto::frame::{Frame, LineDecoder};
use codexd_proto::id::ClientId;
use codexd_proto::json::text_check::TextCheck;
use codexd_proto::lifecycle::State;
use codexd_proto::router::{Accounting, ClientShutdown, Config, Identity, Limits, OrphanedTurns};
use codexd_proto::status::StatusReport;
use codexd_proto::thread_book::{Entry, Permissions, ThreadBook};
use codexd_proto::time::Time;
use serde_json::{Value, json};

use crate::activity::Activities;
use crate::client::{Client, Request};
use crate::life::{Ending, LINE_BYTES, Plan, Process};
use crate::random::Random;
use crate::upstream::{Upstream, default_policy};

macro_rules! coverage {
    ($($name:ident),* $(,)?) => {
        /// What has happened in a run: how much of everything.
        #[derive(Clone, Copy, Debug, Default)]
        pub(crate) struct Coverage { $(pub(crate) $name: u64),* }

        impl Coverage {
            pub(crate) fn add(&mut self, other: Coverage) {
                $(self.$name += other.$name;)*
            }

            pub(crate) fn check(&self) {
                $(assert!(self.$name > 0, concat!("no run had any ", stringify!($name)));)*
            }
        }
    };
}

coverage! {
    answers, refused, errors, lost_requests, resumes, unsubscribes, early, numbered, asks, repeated_asks,
    ends, synthetic_ends, synthetic_settlings, usages, outputs, changes, too_slow, detached, losses, drains,
    sub_agents, departures, waited, steps, floods, interrupts, health_checks, unresponsive, shutdowns, reads_nothing, does_nothing,
    sleeps, half_closes, stops, stops_at_once, signals_again, exits, eofs, torn, malformed, too_long, frozen,
    idle_exits, timed_out_requests, checked_connections, checked_sockets, visits, buffered, replied,
    refused_handshakes, slow_starts, overloads, retried, reading_paused, notifications, calls, failed_calls, long_floods,
    killed, operator_interrupts, interrupts_too_early,
    upgrades, upgrades_too_late, upgrades_called_off, upgrades_overtaken, refused_for_upgrades,
    repeated_items, whole_texts,
    restored, not_restored, resumes_by_path, work_refused, remembered,
}

const MAX_CLIENTS: usize = 6;

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) now: Time,
    pub(crate) core: Core,
    pub(crate) limits: Limits,
    pub(crate) plan: Plan,
    pub(crate) process: Process,
    pub(crate) upstream: Upstream,
    /// Cuts what the upstream wrote into lines, as the shell does.
    pub(crate) decoder: LineDecoder,
    pub(crate) clients: Vec<Client>,
    /// Connections that are no clients.
    pub(crate) visitors: Vec<ClientId>,
    pub(crate) ready: bool,
    pub(crate) draining: bool,
    pub(crate) lost: bool,
    pub(crate) listening: bool,
    pub(crate) slept: bool,
    /// No client connects any more.
    nobody_comes: bool,
    /// Why the daemon ends, by what happened first.
    pub(crate) cause: Option<ExitCode>,
    pub(crate) ends_since: Option<Time>,
    /// By how much timers of the lifecycle fired late since then.
    pub(crate) late_ms: u64,
    pub(crate) health_timeout_ms: u64,
    pub(crate) asked: Time,
    pub(crate) last_output: Time,
    /// When a client was last connected.
    pub(crate) last_used: Time,
    pub(crate) timer_rounds: u64,
    known_sub_agents: BTreeSet<String>,
    next_tag: u64,
    /// The sandbox policies that the thread book has, as its file would have them.
    pub(crate) remembered: BTreeMap<String, Value>,
    /// Server requests that a client tried to answer at the end.
    tried: BTreeSet<i64>,
    pub(crate) log: VecDeque<String>,
    pub(crate) coverage: Coverage,
    pub(crate) activities: Activities,
    started: Time,
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        let mut random = Random::new(seed);
        let limits = Limits {
            client_queue_soft_bytes: 4_000,
            client_queue_soft_ms: 1_500,
            client_queue_hard_bytes: 12_000,
            client_queue_stall_ms: 200,
            client_queue_max_bytes: 20_000,
            queued_requests_per_client: 2 + random.below(8),
            window: 1 + random.below(6),
            window_release_ms: if random.one_in(4) { 300 } else { 1_000_000 },
            deferral_ms: 1_000_000,
            remembered_threads: 1 + random.below(20),
            max_message_bytes: LINE_BYTES,
            max_clients: 100,
            ..Limits::default()
        };
        let now = Time::from_millis(10);
        let plan = Plan::new(&mut random);
        let mut upstream = Upstream::new();
        upstream.overloaded = random.one_in(3).then(|| 2 + random.below(10));
        upstream.refuses_policies = random.one_in(3).then(|| 1 + random.below(3));
        let mut remembered = BTreeMap::new();
        // In few runs: work on them is slow to begin, and long runs of output are looked for, too.
        let earlier = if random.one_in(4) { 1 + random.below(2) } else { 0 };
        for _ in 0..earlier {
            let policy = match random.below(4) {
                0 => default_policy(),
                1 => json!({"type": "readOnly"}),
                2 => json!({"type": "workspaceWrite", "networkAccess": false}),
                // No `sandbox` can express it.
                _ => json!({"type": "workspaceWrite", "networkAccess": true}),
            };
            let name = upstream.add_earlier(policy.clone());
            remembered.insert(name, policy);
        }
        let health_timeout_ms = 100 + random.below(300) as u64;
        let interval = plan.watched.then(|| 200 + random.below(400) as u64);
        let config = CoreConfig {
            router: Config {
                identity: Identity { version: "0".into(), instance: "sim".into(), generation: 1 },
                originator: "sim".into(),
                ..Config::default()
            },
            timeouts: plan.timeouts,
            restart: Restart::OnDemand,
            clients_with_files: 100,
            ..CoreConfig::default()
        };
        let settings = CoreSettings {
            limits,
            client_shutdown: ClientShutdown::WhenUnused,
            orphaned_turns: OrphanedTurns::Keep,
            drain_ms: plan.timeouts.drain_ms,
            health_interval_ms: interval,
            health_timeout_ms: Some(health_timeout_ms),
            idle_exit_ms: plan.idle_exit_ms,
        };
        let mut core = Core::new(config, settings, now);
        core.remember_earlier(ThreadBook::of_earlier(remembered.iter().map(|(name, policy)| Entry {
            thread_id: name.clone(),
            permissions: Some(Permissions {
                sandbox_policy: policy.clone(),
                approval_policy: json!("never"),
                profile: Value::Null,
            }),
        })));
        World {
            now,
            core,
            remembered,
            limits,
            process: Process::new(&mut random),
            plan,
            upstream,
            decoder: LineDecoder::new(LINE_BYTES),
            clients: Vec::new(),
            visitors: Vec::new(),
            ready: false,
            draining: false,
            lost: false,
            listening: true,
            slept: false,
            nobody_comes: false,
            cause: None,
            ends_since: None,
            late_ms: 0,
            health_timeout_ms,
            asked: now,
            last_output: now,
            last_used: now,
            timer_rounds: 0,
            known_sub_agents: BTreeSet::new(),
            next_tag: 0,
            tried: BTreeSet::new(),
            log: VecDeque::new(),
            coverage: Coverage::default(),
            activities: Activities::default(),
            started: now,
            random,
        }
    }

    pub(crate) fn note(&mut self, text: String) {
        self.log.push_back(text);
        if self.log.len() > 5_000 {
            self.log.pop_front();
        }
    }

    pub(crate) fn run(&mut self) {
        let steps = 150 + self.random.below(500);
        let end_at = self.random.below(steps);
        self.begin();
        for step in 0..steps {
            if self.state() == State::Exited {
                break;
            }
            if step == end_at {
                self.turn_for_the_end(self.plan.ending);
            }
            self.step();
        }
        if self.is_up() && !self.never_recovers() {
            self.heal();
            self.run_to_quiescence();
        }
        if self.is_up() && !self.never_recovers() {
            self.check_quiescent();
            match self.random.below(8) {
                _ if self.plan.idle_exit_ms.is_some() => {
                    self.turn_for_the_end(Ending::Idle);
                    self.run_to_quiescence();
                    self.nobody_comes = true;
                    self.turn_for_the_end(Ending::Idle);
                    self.run_out();
                }
                0 => self.turn_for_the_end(Ending::Exit),
                1 => self.turn_for_the_end(Ending::Stop),
                _ => {}
            }
        }
        if !self.is_up() || self.never_recovers() {
            self.run_out();
        }
        while !self.clients.is_empty() {
            self.leave(0);
        }
        self.check_activities();
        if self.is_up() {
            self.run_to_quiescence();
            for thread in &self.upstream.threads {
                assert!(!thread.subscribed, "{} is kept loaded for nobody", thread.name);
            }
            assert!(self.upstream.commands.is_empty(), "commands outlive their client");
            assert!(self.upstream.watches.is_empty(), "watches outlive their client");
            // The answer to a request proves that everything before it was consumed, unless it was
            // rejected itself.
            for _ in 0..100 {
                let refused = self.upstream.overloads;
                self.connect();
                self.clients[0].initialize_sent = true;
                self.clients[0].joined = true;
                self.send(0, "initialize", None, None, json!({"clientInfo": {"name": "c", "version": "1"}}));
                self.send(0, "thread/list", None, None, json!({}));
                self.run_to_quiescence();
                self.leave(0);
                if self.upstream.overloads == refused {
                    break;
                }
            }
        }
        self.coverage.overloads += self.upstream.overloads;
        self.coverage.notifications += self.upstream.notifications;
        self.coverage.calls += self.upstream.calls;
        self.coverage.failed_calls += self.upstream.failed_calls;
        self.coverage.restored += self.upstream.restored;
        self.coverage.not_restored += self.upstream.not_restored;
        self.coverage.retried += self.retried();
        assert!(self.core.is_quiet());
        assert_eq!(self.core.accounting(), Accounting::default(), "something is never forgotten");
        self.now = self.now + 2_000_000;
        self.core.handle_timeout(self.now);
        let left: Vec<Timer> = self.core.timers().map(|(timer, _)| timer).collect();
        assert!(left.iter().all(|timer| *timer == Timer::HealthCheck || !self.is_up()), "{left:?}");
    }

    // ---- one step ----------------------------------------------------------------------------------

    pub(crate) fn step(&mut self) {
        self.coverage.steps += 1;
        match self.random.below(42) {
            0 => self.connect(),
            1 if self.random.one_in(8) && !self.clients.is_empty() => {
                let at = self.random.below(self.clients.len());
                self.leave(at);
            }
            2 => {
                let ms = if self.random.one_in(10) { 500 } else { self.random.below(20) };
                self.now = self.now + ms as u64;
            }
            3..=8 => self.act(),
            9..=14 => self.carry_up(),
            15..=21 if self.process.is_working() => drop(self.upstream.work(&mut self.random)),
            22..=28 if self.process.is_working() => drop(self.upstream.stir(&mut self.random, false)),
            29..=33 => self.carry_down(),
            40 => self.live(),
            41 => self.trouble(),
            39 if self.random.one_in(2) => self.visit(),
            38 => self.read_any_socket(),
            _ => self.deliver(),
        }
        self.after();
    }

    /// What must be true after every step.
    pub(crate) fn check_bounds(&mut self) {
        let kept = self.core.accounting();
        // An interrupt that an operator asks for overtakes the window.
        let overtaken = self.overtaking();
        assert!(kept.window <= self.limits.window + overtaken, "the window is overrun");
        assert_eq!(kept.subscribers, kept.subscriptions, "two counts that do not agree");
        // As many requests as may wait, after them one notification less than pauses reading from the client, what
        // the next read brings of those, and what is sent again. What was sent before codex was ready is bounded in bytes.
        let early = self.clients.iter().map(|client| client.early_lines).max().unwrap_or(0);
        let most = 2 * self.limits.queued_requests_per_client + self.limits.window + 12 + early;
        assert!(kept.queued_most <= most, "a queue without a bound: {} of {most}", kept.queued_most);
        self.check_queue();
        if self.now.since(self.started) < self.limits.window_release_ms {
            assert!(
                self.upstream.short_unanswered.len() <= self.limits.window + overtaken,
                "the window is overrun"
            );
        }
        self.coverage.waited += u64::from(kept.queued > 0);
    }

    /// Messages that may have been sent past the window in this run.
    fn overtaking(&self) -> usize {
        usize::try_from(self.coverage.operator_interrupts).expect("few")
    }

    /// What the upstream has not consumed yet, and would have in its queue if it read all of it.
    fn check_queue(&mut self) {
        let on_its_way = self.core.upstream_pending().to_vec();
        let lines = on_its_way.iter().filter(|b| **b == b'\n').count() + self.upstream.queue.len();
        if lines <= self.limits.window {
            return;
        }
        let on_its_way = String::from_utf8_lossy(&on_its_way);
        // The first may have been written in part.
        let on_its_way = on_its_way.lines().filter_map(|line| serde_json::from_str(line).ok());
        let untaken: Vec<Value> = on_its_way.chain(self.upstream.queue.iter().cloned()).collect();
        let answers = untaken.iter().filter(|line| line.get("method").is_none()).count();
        assert!(answers <= 24, "a flood of answers that the real upstream would lose");
        let counted = untaken.iter().filter_map(|line| line["method"].as_str()).filter(|method| {
            // The handshake, health checks and barriers do not wait.
            !matches!(*method, "initialize" | "initialized" | "thread/loaded/list")
        });
        assert!(
            counted.count() <= self.limits.window + self.overtaking(),
            "a flood that the real upstream would lose"
        );
    }

    fn connect(&mut self) {
        if self.clients.len() < MAX_CLIENTS && self.listening && !self.nobody_comes {
            let id = self.core.connect(self.now);
            self.core.handle(self.now, Event::ClientFraming { client: id, framing: Framing::Lines });
            self.note(format!("{id} connects"));
            let mut client = Client::new(id);
            client.experimental = self.random.one_in(2);
            for thread in self.upstream.threads.iter().filter(|thread| thread.is_earlier) {
                client.views.entry(thread.name.clone()).or_default().seen = true;
            }
            self.clients.push(client);
        }
    }

    pub(crate) fn leave(&mut self, at: usize) {
        let client = self.clients.swap_remove(at);
        self.note(format!("{} leaves", client.id));
        self.coverage.departures += 1;
        self.last_used = self.now;
        self.core.handle(self.now, Event::ClientDisconnected { client: client.id });
    }

    fn carry_up(&mut self) {
        if !self.process.takes_input() {
            return;
        }
        let waiting = self.core.upstream_pending().len();
        let n = match self.random.below(4) {
            0 => self.random.below(waiting + 1),
            _ => waiting.min(self.random.below(2_000)),
        };
        let bytes = self.core.upstream_pending()[..n].to_vec();
        let full = self.random.one_in(2);
        self.core.handle(self.now, Event::UpstreamWritten { bytes: n, full });
        self.note(format!("up: {}", String::from_utf8_lossy(&bytes)));
        self.upstream.read(&bytes, &mut self.random);
    }

    fn carry_down(&mut self) {
        if !self.process.can_be_read() {
            return;
        }
        let n = self.random.below(4_000).min(self.upstream.output.len());
        self.carry_down_bytes(n);
    }

    pub(crate) fn carry_down_bytes(&mut self, n: usize) {
        if n > 0 {
            self.core.handle(self.now, Event::UpstreamOutput);
            self.last_output = self.now;
        }
        let bytes: Vec<u8> = self.upstream.output.drain(..n).collect();
        let mut chunk = &bytes[..];
        let mut lines = Vec::new();
        while let Some(frame) = self.decoder.decode(&mut chunk) {
            lines.push(match frame {
                Frame::Line(line) => Some(line.to_vec()),
                Frame::Long(_) | Frame::TooLong => None,
            });
        }
        for line in lines {
            let Some(line) = line else {
                self.core.handle(self.now, Event::UpstreamLineTooLong);
                continue;
            };
            let text = String::from_utf8_lossy(&line).into_owned();
            if !self.lost {
                self.meet_sub_agents(&text);
            }
            if line.len().is_multiple_of(2) {
                self.core.handle(self.now, Event::UpstreamLine(&line));
            } else {
                // As a long one.
                let text = TextCheck::of(&line);
                self.core.upstream_line_read(self.now, line, &text);
            }
            self.note(format!("down: {text}"));
            self.after();
        }
    }

    /// Every client that is connected when a sub-agent is first seen is subscribed to it.
    fn meet_sub_agents(&mut self, line: &str) {
        let new: Vec<String> = self
            .upstream
            .threads
            .iter()
            .filter(|t| t.sub_agent && line.contains(&t.name) && !self.known_sub_agents.contains(&t.name))
            .map(|t| t.name.clone())
            .collect();
        for name in new {
            for client in self.clients.iter_mut().filter(|c| c.joined) {
                client.views.entry(name.clone()).or_default().next = Some(0);
            }
            self.coverage.sub_agents += 1;
            self.known_sub_agents.insert(name);
        }
    }

    /// A client reads some of what waits for it, or cannot.
    fn deliver(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let at = self.random.below(self.clients.len());
        if self.clients[at].blocked {
            self.clients[at].blocked = !self.random.one_in(8);
            return;
        }
        let n = self.random.below(2_500);
        if self.random.one_in(25) {
            self.clients[at].blocked = true;
            self.clients[at].was_blocked = true;
        }
        self.take(at, n);
    }

    pub(crate) fn take(&mut self, at: usize, most: usize) {
        let client = &mut self.clients[at];
        let pending = self.core.pending(client.id);
        let n = pending.len().min(most);
        let bytes = pending[..n].to_vec();
        let event =
            Event::ClientWritten { client: client.id, bytes: n, full: client.blocked, framing_waits: false };
        self.core.handle(self.now, event);
        let id = client.id;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        self.log.push_back(format!("{id} reads: {text}"));
        client.read(&bytes, &mut self.coverage);
    }

    // ---- what clients do ---------------------------------------------------------------------------

    fn act(&mut self) {
        if self.clients.is_empty() {
            return self.connect();
        }
        let at = self.random.below(self.clients.len());
        if !self.core.may_read(self.clients[at].id) {
            self.coverage.reading_paused += 1;
            return;
        }
        if self.clients[at].half_closed {
            return;
        }
        if !self.clients[at].initialize_sent {
            return match self.random.below(6) {
                0 => self.send(at, "thread/list", None, None, json!({})),
                _ => {
                    self.clients[at].initialize_sent = true;
                    self.clients[at].joined = self.ready && !self.lost && !self.draining;
                    let info = json!({"name": "c", "version": "1"});
                    let capabilities = json!({"experimentalApi": self.clients[at].experimental});
                    let params = json!({"clientInfo": info, "capabilities": capabilities});
                    self.send(at, "initialize", None, None, params);
                }
            };
        }
        // A sub-agent can be known from its parent before its first message; a client can only resume it then.
        let early = self.random.one_in(8);
        let threads: Vec<String> = self.clients[at]
            .views
            .iter()
            .filter(|(_, v)| !v.gone && (v.seen || early))
            .map(|(name, _)| name.clone())
            .collect();
        let thread = (!threads.is_empty()).then(|| threads[self.random.below(threads.len())].clone());
        let named = |thread: &Option<String>| json!({"threadId": thread});
        let resource = ["p", "q"][self.random.below(2)].to_owned();
        let chosen = if thread.is_none() && self.random.one_in(2) { 0 } else { self.random.below(30) };
        match if early && thread.is_some() { 4 } else { chosen } {
            0 | 1 => self.send(at, "thread/start", None, None, json!({})),
            3 | 4 if thread.is_some() => {
                self.send(at, "thread/fork", None, None, json!({"threadId": thread}))
            }
            4..=6 if thread.is_some() => {
                let mut params = named(&thread);
                params["excludeTurns"] = json!(self.random.one_in(2));
                if self.clients[at].experimental && self.random.one_in(3) {
                    self.coverage.resumes_by_path += 1;
                    params["threadId"] = json!("");
                    params["path"] =
                        json!(format!("/rollout-{}.jsonl", thread.as_deref().unwrap_or_default()));
                }
                if self.random.one_in(8) {
                    params["sandbox"] = json!("read-only");
                    params["own"] = json!(true);
                }
                self.send(at, "thread/resume", thread, None, params);
            }
            7 | 8 if thread.is_some() => {
                let params = named(&thread);
                self.send(at, "thread/unsubscribe", thread, None, params);
            }
            9..=16 if thread.is_some() => {
                let params = named(&thread);
                self.send(at, "turn/start", thread, None, params);
            }
            17 if thread.is_some() => {
                let params = named(&thread);
                self.send(at, "turn/interrupt", thread, None, params);
            }
            29 if thread.is_some() && self.clients[at].experimental && self.random.one_in(2) => {
                let mut params = named(&thread);
                params["sandboxPolicy"] = json!({"type": "readOnly", "networkAccess": self.random.one_in(2)});
                self.send(at, "thread/settings/update", thread, None, params);
            }
            18 if thread.is_some() && self.random.one_in(4) => {
                let params = named(&thread);
                self.send(at, "thread/archive", thread, None, params);
            }
            19 => {
                if self.random.one_in(3) {
                    self.send(at, "command/exec", None, None, json!({"command": ["x"]}));
                } else if !self.clients[at].commands.contains_key(&resource) {
                    self.clients[at].commands.insert(resource.clone(), 0);
                    let params = json!({"command": ["x"], "processId": resource, "streamStdoutStderr": true});
                    self.send(at, "command/exec", None, Some(resource), params);
                }
            }
            20 => {
                let params = json!({"processId": resource});
                self.send(at, "command/exec/terminate", None, Some(resource), params);
            }
            21 => {
                let busy = self.clients[at].outstanding.values().any(|r| {
                    r.resource.as_ref() == Some(&resource) && matches!(r.method, "fs/watch" | "fs/unwatch")
                });
                let params = json!({"watchId": resource, "path": "/"});
                if busy {
                } else if self.clients[at].watches.contains_key(&resource) {
                    self.send(at, "fs/unwatch", None, Some(resource), params);
                } else {
                    self.clients[at].watches.insert(resource.clone(), 0);
                    self.send(at, "fs/watch", None, Some(resource), params);
                }
            }
            22 => self.send(at, "skills/config/write", None, None, json!({})),
            23 => {
                let bad = ["x", "{\"id\":null,\"method\":\"m\"}", "[]", "{\"a\":\"\u{1}\"}"];
                let bad = bad[self.random.below(bad.len())];
                self.clients[at].unreadable += 1;
                self.raw(at, bad);
            }
            24..=26 => self.reply(at),
            27 if self.random.one_in(10) => {
                self.send(at, "broker/shutdown", None, None, json!({}));
                self.clients[at].detaching = true;
            }
            28 if self.random.one_in(2) => self.send(at, "broker/status", None, None, json!({})),
            28 => {
                for _ in 0..if self.random.one_in(4) { 12 } else { 1 } {
                    self.raw(at, r#"{"method":"some/notification"}"#);
                }
            }
            2 if self.random.one_in(3) => {
                self.coverage.long_floods += 1;
                for _ in 0..12 {
                    self.send(at, "command/exec", None, None, json!({"command": ["x"]}));
                }
            }
            _ => {
                // Sometimes many at once.
                let many = self.random.one_in(20);
                self.coverage.floods += u64::from(many);
                for _ in 0..if many { 12 } else { 1 } {
                    self.send(at, "thread/list", None, None, json!({}));
                }
            }
        }
    }

    /// Answers a server request that it got, or that another client got.
    fn reply(&mut self, at: usize) {
        let seen: Vec<i64> = self.clients[at].views.values().flat_map(|v| v.asks.iter().copied()).collect();
        let open: Vec<i64> = self.upstream.threads.iter().flat_map(|t| t.asks.keys().copied()).collect();
        let calls: Vec<i64> = self.clients[at].calls.iter().copied().collect();
        let any = match self.random.below(6) {
            0 => open,
            1 | 2 => calls,
            _ => seen,
        };
        if let Some(id) = self.random.pick(&any) {
            let line = match self.random.below(3) {
                0 => json!({"id": id, "error": {"code": -1, "message": "no"}}),
                _ => json!({"id": id, "result": {"decision": "accept"}}),
            };
            self.raw(at, &line.to_string());
        }
    }

    fn raw(&mut self, at: usize, line: &str) {
        let id = self.clients[at].id;
        self.note(format!("{id} sends: {line}"));
        let client = &mut self.clients[at];
        // A client without an answer to `initialize` is read at once: its own view begins with that.
        if self.plan.buffers && client.initialized && !self.lost && self.random.one_in(3) {
            client.socket.push_back(line.to_owned());
            return;
        }
        self.read_socket(at, usize::MAX);
        self.clients[at].early_lines += usize::from(!self.ready);
        self.core.handle(self.now, Event::ClientLine { client: id, line: line.as_bytes() });
    }

    /// codexd reads some of what a client wrote to its socket.
    pub(crate) fn read_socket(&mut self, at: usize, most: usize) {
        for _ in 0..most {
            let Some(line) = self.clients[at].socket.pop_front() else { return };
            let client = self.clients[at].id;
            self.coverage.buffered += 1;
            self.core.handle(self.now, Event::ClientLine { client, line: line.as_bytes() });
        }
    }

    fn read_any_socket(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let at = self.random.below(self.clients.len());
        if self.core.may_read(self.clients[at].id) {
            let most = 1 + self.random.below(4);
            self.read_socket(at, most);
        }
    }

    pub(crate) fn send(
        &mut self,
        at: usize,
        method: &'static str,
        thread: Option<String>,
        resource: Option<String>,
        mut params: Value,
    ) {
        let client = &mut self.clients[at];
        self.next_tag += 1;
        client.requests += 1;
        let tag = format!("tag {}", self.next_tag);
        params["tag"] = json!(tag);
        params["from"] = json!([client.id.0, self.next_tag]);
        // Numbers of different clients collide, and a number is not the string of its digits.
        let id = if self.random.one_in(2) {
            json!(client.requests)
        } else {
            json!(format!("{}", client.requests))
        };
        client.asked(id.to_string(), Request { tag, method, thread, resource });
        let line = json!({"id": id, "method": method, "params": params}).to_string();
        self.raw(at, &line);
    }

    // ---- ends --------------------------------------------------------------------------------------

    /// Runs until nothing is in flight; no client sends anything new.
    pub(crate) fn run_to_quiescence(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "it never becomes quiescent");
            if !self.is_up() && self.state() != State::Draining {
                break;
            }
            let mut moved = false;
            for at in 0..self.clients.len() {
                self.read_socket(at, usize::MAX);
            }
            let bytes = self.core.upstream_pending().to_vec();
            self.core.handle(self.now, Event::UpstreamWritten { bytes: bytes.len(), full: false });
            moved |= !bytes.is_empty();
            self.upstream.read(&bytes, &mut self.random);
            if !bytes.is_empty() {
                self.note(format!("up: {}", String::from_utf8_lossy(&bytes)));
            }
            moved |= self.upstream.work(&mut self.random);
            if self.upstream.stir(&mut self.random, true) {
                moved = true;
            }
            let n = self.upstream.output.len();
            moved |= n > 0;
            self.carry_down_bytes(n);
            for at in (0..self.clients.len()).rev() {
                self.clients[at].blocked = false;
                self.take(at, usize::MAX);
            }
            self.after();
            moved |= !self.core.upstream_pending().is_empty();
            if !moved && !self.advance_time() && !self.answer_open_requests() {
                break;
            }
        }
    }

    /// Moves the clock to the next timer of the router, if that is near.
    fn advance_time(&mut self) -> bool {
        let router = self.core.timers().filter(|(timer, _)| matches!(timer, Timer::Router(_)));
        match router.map(|(_, at)| at).min() {
            Some(due) if due.since(self.now) <= 10_000 => {
                self.now = self.now.max(due);
                self.after();
                true
            }
            _ => false,
        }
    }

    fn retried(&self) -> u64 {
        let mut report = StatusReport::default();
        self.core.fill_status(self.now, &mut report);
        report.counters.retried_requests
    }

    /// A client answers the server requests that are still open; without clients, turns are interrupted.
    fn answer_open_requests(&mut self) -> bool {
        let open: Vec<(i64, String)> = self
            .upstream
            .threads
            .iter()
            .filter(|t| t.turn.is_some())
            .flat_map(|t| t.asks.keys().map(|id| (*id, t.name.clone())))
            .collect();
        if let Some(at) = self.clients.iter().position(|c| c.joined) {
            for (id, thread) in open.clone() {
                self.raw(at, &json!({"id": id, "result": {}}).to_string());
                if !self.tried.insert(id) {
                    // It was sent while no client was subscribed: a resume replays it.
                    let params = json!({"threadId": thread});
                    self.send(at, "thread/resume", Some(thread), None, params);
                }
            }
        } else if !open.is_empty() && self.listening {
            // A client connects that can, in the place of one that cannot.
            if self.clients.len() == MAX_CLIENTS {
                self.leave(0);
            }
            let at = self.clients.len();
            self.connect();
            self.clients[at].initialize_sent = true;
            self.clients[at].joined = true;
            self.send(at, "initialize", None, None, json!({"clientInfo": {"name": "c", "version": "1"}}));
        }
        let waits = |asks: bool| !asks || self.can_be_answered();
        self.upstream.threads.iter().any(|t| t.turn.is_some() && waits(!t.asks.is_empty()))
    }

    /// Whether a client can answer the server requests of a turn. In a drain, no further one can connect. If the
    /// upstream sent a server request while no client was subscribed, codexd has not seen it, and the drain goes on
    /// until its deadline.
    pub(crate) fn can_be_answered(&self) -> bool {
        self.listening || self.clients.iter().any(|c| c.joined)
    }

    /// Whether turns wait for answers that nobody can give, and nothing else runs.
    pub(crate) fn waits_in_vain(&self) -> bool {
        let mut running = self.upstream.threads.iter().filter(|t| t.turn.is_some()).peekable();
        !self.can_be_answered() && running.peek().is_some() && running.all(|t| !t.asks.is_empty())
    }

    fn check_quiescent(&self) {
        assert!(self.upstream.is_idle() && self.upstream.output.is_empty());
        assert!(self.upstream.open_calls.is_empty(), "a server request that nobody answers");
        // The book has what is in force, or what could not be restored.
        for thread in self.upstream.threads.iter().filter(|thread| thread.loaded && !thread.sub_agent) {
            let Some(remembered) = self.remembered.get(&thread.name) else { continue };
            let is_lost = thread.wanted.as_ref() == Some(remembered);
            assert!(is_lost || *remembered == thread.sandbox, "{}: {remembered} is remembered", thread.name);
        }
        for client in &self.clients {
            assert!(client.outstanding.is_empty(), "unanswered: {:?}", client.outstanding.keys());
            assert_eq!(client.unreadable, 0);
            assert!(
                client.next_broadcast.is_none_or(|n| n == self.upstream.broadcasts),
                "missing broadcasts"
            );
            for (name, view) in &client.views {
                let thread = self.upstream.threads.iter().find(|t| t.name == *name).unwrap();
                if let Some(next) = view.next {
                    assert!(
                        thread.subscribed,
                        "{} is subscribed to {name}, but the upstream does not send it",
                        client.id
                    );
                    assert_eq!(next, thread.seq, "{}: the end of {name} is missing", client.id);
                    assert!(view.open.is_empty());
                }
                assert!(view.next_status.is_none_or(|n| n == thread.status_seq), "{name}: missing status");
            }
        }
    }
}
