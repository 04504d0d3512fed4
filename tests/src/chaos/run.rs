//! One run: a daemon, its clients, what goes wrong, and what is left.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::accounting::{Fate, Trace};
use super::after;
use super::director::Director;
use super::fault::{Fault, Outcome};
use super::guest;
use super::plan::{LinkKind, Plan};
use super::random::Random;
use super::run_report::RunReport;
use super::shared::Shared;
use super::violation::{Violation, ViolationKind};
use super::worker::{Story, Worker};
use crate::client::TestClient;
use crate::codex::Version;
use crate::daemon::{Builder, TestDaemon};
use crate::home::Home;
use crate::process;
use crate::wait;

/// Carries out a plan and returns what came of it.
///
/// It does not panic: what the harness has to complain about is a violation like any other.
pub fn run(plan: &Plan) -> RunReport {
    let start = Instant::now();
    let mut report = RunReport::new(plan.clone());
    let went = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| go(plan, &mut report)));
    if let Err(panic) = went {
        report.broken(Violation::new(ViolationKind::Harness, words(&*panic)));
    }
    report.time = start.elapsed();
    report
}

fn go(plan: &Plan, report: &mut RunReport) {
    let home = Arc::new(Home::new().expect("the temporary directory can be written"));
    let policies = if plan.ending().is_some_and(Fault::is_at_start) {
        start(plan, &home, report);
        BTreeMap::new()
    } else {
        Run::new(plan, &home).whole(report)
    };
    after::next_daemon_works(plan, &home, &policies, report);
}

/// The story of a daemon that does not get ready.
fn start(plan: &Plan, home: &Arc<Home>, report: &mut RunReport) {
    let Some(step) = plan.steps.last() else { return };
    report.tried(&step.fault);
    let times = if matches!(step.fault, Fault::HandshakeExit(_)) { 3 } else { 1 };
    for _ in 0..times {
        let shared = Shared::new(0, Instant::now() + BOUND, false, home.project());
        let mut daemon = builder(plan, home).start();
        let hangs = step.fault == Fault::HandshakeHangs;
        let found = wait::poll(BOUND, || daemon.socket().exists().then_some(true).or(ended(&mut daemon)));
        // It may be faster than its clients, but for one that waits.
        let count = if found == Some(true) { plan.clients.len() } else { 0 };
        let mut guests: Vec<_> =
            (0..count).filter_map(|n| guest::early(&format!("e{n}"), &daemon.socket(), &shared)).collect();
        if hangs {
            wait::until("the clients are known", || {
                daemon.ctl(&["status", "--json"]).json()["clients"] == guests.len()
            });
            guests.iter_mut().for_each(|guest| guest.accounting.prove());
            daemon.term();
        }
        after::wait_for_end(&mut daemon, step.fault.outcome(), &shared, report);
        for mut guest in guests {
            guest.pump("the end of the daemon", |_| false);
            // A client that is not initialized yet learns of the end from the answer to its request.
            close(guest.into_story(None), Fate::Late, report);
        }
        after::is_clean(&mut daemon, step.fault.outcome(), report);
        let tail = daemon.stderr();
        report.log(&tail);
    }
}

fn ended(daemon: &mut TestDaemon) -> Option<bool> {
    daemon.exit_within(Duration::ZERO).map(|_| false)
}

/// Prepares the daemon of a plan.
fn builder(plan: &Plan, home: &Arc<Home>) -> Builder {
    let script: String = plan.steps.iter().map(|step| step.fault.script()).collect();
    let builder = match plan.real {
        true => TestDaemon::real(Version::Current).expect("looked for before the first run"),
        false => TestDaemon::fake(&format!("{script}{KEEP}")),
    };
    let drain = format!("{}ms", plan.drain.as_millis());
    let mut builder = builder.home(Arc::clone(home)).args(["--drain-timeout", &drain]).config(LIMITS);
    if plan.steps.iter().any(|step| step.fault.is_silence()) {
        builder = builder.args(["--probe-interval", "300ms", "--probe-timeout", "700ms"]);
    } else if plan.steps.iter().any(|step| matches!(step.fault, Fault::DaemonSuspended(_))) {
        // Shorter than the pause, and longer than a busy machine makes the upstream wait.
        builder = builder.args(["--probe-interval", "500ms", "--probe-timeout", "1000ms"]);
    }
    builder
}

/// A run with a daemon that gets ready.
struct Run<'a> {
    plan: &'a Plan,
    daemon: TestDaemon,
    shared: Shared,
    random: Random,
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan, home: &Arc<Home>) -> Run<'a> {
        let daemon = builder(plan, home).ready();
        let shared = Shared::new(plan.clients.len(), Instant::now() + BOUND, plan.real, home.project());
        Run { plan, daemon, shared, random: Random::new(!plan.seed) }
    }

    /// Carries out the plan. Returns the threads that can be resumed, with their sandbox policies.
    fn whole(mut self, report: &mut RunReport) -> BTreeMap<String, Value> {
        let Run { plan, daemon, shared, random } = &mut self;
        let (plan, shared) = (*plan, &*shared);
        let outcome = plan.ending().map_or(Outcome::Ends(0), Fault::outcome);
        let mut stories = Vec::new();
        std::thread::scope(|scope| {
            let workers: Vec<_> = plan
                .clients
                .iter()
                .enumerate()
                .map(|(index, client)| {
                    let link = connect(&format!("c{index}"), client.link, daemon);
                    let worker = Worker::new(index, client, plan.idle, link, shared);
                    scope.spawn(move || worker.run())
                })
                .collect();
            let mut director = Director::new(plan, daemon, shared, random, scope);
            // A panic in here must not wait for clients that are not asked to leave.
            let directed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                director.direct(report);
                after::wait_for_end(director.daemon, outcome, shared, report);
            }));
            let extras = director.extras;
            if let Err(panic) = directed {
                report.broken(Violation::new(ViolationKind::Harness, words(&*panic)));
                shared.set_gone();
                process::sweep(daemon.home().root(), Duration::ZERO);
            }
            for (index, worker) in workers.into_iter().enumerate() {
                stories.push((format!("c{index}"), worker.join().map(Some)));
            }
            for (index, guest) in extras.guests.into_iter().enumerate() {
                stories.push((format!("guest {index}"), guest.join()));
            }
            for command in extras.commands {
                if let Ok(Some(code)) = command.join()
                    && code != 0
                {
                    report.broken(Violation::new(
                        ViolationKind::ExitCode,
                        format!("ctl stop exited with {code}"),
                    ));
                }
            }
        });
        let mut traces = Vec::new();
        for (name, story) in stories {
            match story {
                Ok(Some(story)) => {
                    let decided = match (plan.ending().is_some(), outcome) {
                        (true, Outcome::Killed) => Fate::Cut,
                        (true, _) if plan.ending().is_some_and(Fault::lets_turns_end) => Fate::Drained,
                        (true, _) => Fate::Notified,
                        // There was no reason to end the connection of a client that still worked.
                        (false, _) => Fate::Served,
                    };
                    let fate = story.fate.unwrap_or(decided);
                    traces.push(close(story, fate, report));
                }
                Ok(None) => {}
                Err(panic) => {
                    report.broken(Violation::new(
                        ViolationKind::Harness,
                        format!("{name}: {}", words(&*panic)),
                    ));
                }
            }
        }
        after::is_clean(daemon, outcome, report);
        if !plan.real {
            after::upstream_saw(&daemon.fake_log(), &traces, report);
        }
        report.log(&daemon.stderr());
        shared.policies()
    }
}

fn connect(name: &str, link: LinkKind, daemon: &TestDaemon) -> TestClient {
    match link {
        LinkKind::Lines => TestClient::connect(name, &daemon.socket()),
        LinkKind::WebSocket => TestClient::connect_websocket(name, &daemon.socket()),
        LinkKind::Connect => {
            // Nothing comes after this daemon, and a client is to see what it says at its end and no more.
            let mut command = daemon.command(&["connect", "--no-spawn", "--patience", "0s"]);
            TestClient::spawn(name, command.stderr(std::process::Stdio::null()))
        }
    }
}

/// Ends the accounting of a client.
fn close(story: Story, fate: Fate, report: &mut RunReport) -> Vec<Trace> {
    let (violations, sums, traces) = story.accounting.close(fate);
    report.add(sums);
    if !violations.is_empty() {
        report.past.push(story.past);
    }
    violations.into_iter().for_each(|violation| report.broken(violation));
    traces
}

pub(crate) fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}

/// The stand-in for codex keeps threads for the next one, as the real one does.
pub(crate) const KEEP: &str = "[[keep]]";

/// What takes longer hangs: much more than any run needs.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

/// Small, so that a client that does not read is found soon; all others stay far below.
pub(crate) const LIMITS: &str = "[limits]\nclient_queue_soft_bytes = 500000\nclient_queue_soft_time = \"5s\"\n\
                      client_queue_hard_bytes = 2000000\nclient_queue_max_bytes = 8000000\n";
