//! What is looked at when the daemon has ended: its exit code, what it left, and whether the next one works.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::Arc;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::accounting::Trace;
use super::fault::{Fault, Outcome};
use super::plan::Plan;
use super::random::Random;
use super::run::KEEP;
use super::run_report::RunReport;
use super::shared::Shared;
use super::violation::{Violation, ViolationKind};
use crate::binary;
use crate::client::TestClient;
use crate::codex::Version;
use crate::daemon::TestDaemon;
use crate::home::Home;
use crate::output::Output;
use crate::process;

/// Waits for the end of the daemon and looks at its exit code.
pub(crate) fn wait_for_end(
    daemon: &mut TestDaemon,
    outcome: Outcome,
    shared: &Shared,
    report: &mut RunReport,
) {
    let patience = shared.deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(5));
    let status = daemon.exit_within(patience);
    shared.set_gone();
    let Some(status) = status else {
        let processes = daemon.processes();
        report.broken(Violation::new(ViolationKind::Hang, format!("the daemon did not end: {processes:?}")));
        process::sweep(daemon.home().root(), Duration::ZERO);
        daemon.exit_within(Duration::from_secs(5));
        return;
    };
    let good = match outcome {
        Outcome::Ends(code) => status.code() == Some(code),
        Outcome::Killed => status.signal() == Some(9),
        Outcome::Lives => false,
    };
    if !good {
        report.broken(Violation::new(ViolationKind::ExitCode, format!("{status}, promised: {outcome:?}")));
    }
}

/// Looks for what the daemon has left; its clients have ended before.
pub(crate) fn is_clean(daemon: &mut TestDaemon, outcome: Outcome, report: &mut RunReport) {
    let left = process::sweep(daemon.home().root(), ENDING);
    if !left.is_empty() {
        report.broken(Violation::new(ViolationKind::Orphan, format!("{left:?}")));
    }
    let Outcome::Ends(code) = outcome else { return };
    for socket in [daemon.socket(), daemon.control_socket()] {
        if socket.exists() {
            report.broken(Violation::new(ViolationKind::Restart, format!("`{}` is left", socket.display())));
        }
    }
    let status: Value = daemon.ctl(&["status", "--json"]).json();
    if status["lastExit"]["code"] != code || status["state"] != "notRunning" {
        let text = format!("ctl status: {} {}, promised: {code}", status["state"], status["lastExit"]);
        report.broken(Violation::new(ViolationKind::ExitCode, text));
    }
}

/// Compares what `fake-codex` received with the answers that its clients got.
pub(crate) fn upstream_saw(log: &str, clients: &[Vec<Trace>], report: &mut RunReport) {
    let mut seen: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (position, line) in log.lines().enumerate() {
        if let Some(complaint) = line.strip_prefix("!!") {
            // Its turn may have been interrupted while the answer was on the way.
            let crossed = complaint.contains("an answer to") && report.plan.ending().is_some();
            if !crossed {
                report.broken(Violation::new(ViolationKind::Complaint, complaint.trim()));
            }
        }
        if let Some((_, rest)) = line.split_once("\"tag\":\"")
            && let Some((tag, _)) = rest.split_once('"')
        {
            seen.entry(tag).or_insert((0, position)).0 += 1;
        }
    }
    for traces in clients {
        let mut last = 0;
        for trace in traces {
            let (times, position) = seen.get(trace.tag.as_str()).copied().unwrap_or_default();
            let tag = &trace.tag;
            let broken = match (times, trace.done, trace.denied) {
                (2.., ..) => Some((ViolationKind::Doubled, format!("the upstream got {tag} {times} times"))),
                (0, true, _) => Some((ViolationKind::Lost, format!("{tag} was answered and never arrived"))),
                (1, _, true) => Some((
                    ViolationKind::Lost,
                    format!("{tag} arrived, and its client's error states that it did not"),
                )),
                (1, ..) if trace.ordered && position < last => {
                    Some((ViolationKind::Reordered, format!("{tag} arrived before what was sent before it")))
                }
                _ => None,
            };
            if times > 0 && trace.ordered {
                last = position;
            }
            report.maybe(broken.map(|(kind, text)| Violation::new(kind, text)));
        }
    }
}

/// Starts the next daemon in the same world, runs a turn on it, and looks whether the threads of the last one have the sandbox
/// policies that they had.
pub(crate) fn next_daemon_works(
    plan: &Plan,
    home: &Arc<Home>,
    policies: &BTreeMap<String, Value>,
    report: &mut RunReport,
) {
    let failing = matches!(plan.ending(), Some(Fault::HandshakeExit(_)));
    // Clients do not start one at once that has failed three times.
    let by_clients = !plan.real && !failing && Random::new(plan.seed ^ 0xc0de).one_in(4);
    let next = || if by_clients { started_by_clients(home, policies) } else { started(plan, home, policies) };
    if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(next)) {
        let text = super::run::words(&*panic);
        report.broken(Violation::new(ViolationKind::Restart, format!("the next daemon: {text}")));
    }
    let left = process::sweep(home.root(), ENDING);
    if !left.is_empty() {
        report.broken(Violation::new(ViolationKind::Orphan, format!("of the next daemon: {left:?}")));
    }
}

fn started(plan: &Plan, home: &Arc<Home>, policies: &BTreeMap<String, Value>) {
    let builder = match plan.real {
        true => TestDaemon::real(Version::Current).expect("looked for before the first run"),
        false => TestDaemon::fake(KEEP),
    };
    let mut daemon = builder.home(Arc::clone(home)).ready();
    let mut client = daemon.client("next");
    has_policies(&mut client, policies);
    turn(&mut client, home);
    drop(client);
    assert_eq!(daemon.stop(), 0, "the exit code of the next daemon");
}

/// Several clients at once start one daemon.
fn started_by_clients(home: &Home, policies: &BTreeMap<String, Value>) {
    let command = |arguments: &[&str]| {
        let mut command = home.command(&binary::codexd());
        // Where the daemon before has been.
        command.args(arguments).env("CODEXD_SOCKET", home.runtime().join("s"));
        command.env("CODEXD_CONTROL_SOCKET", home.runtime().join("c"));
        command.env("CODEXD_CODEX", binary::fake_codex()).env("FAKE_CODEX", KEEP);
        command
    };
    let generations: Vec<Value> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|n| {
                let mut command = command(&["connect", "--no-direct"]);
                command.stderr(Stdio::null());
                scope.spawn(move || {
                    let mut client = TestClient::spawn(&format!("next {n}"), &mut command);
                    let result = client.initialize();
                    has_policies(&mut client, policies);
                    turn(&mut client, home);
                    result["codexd"]["generation"].clone()
                })
            })
            .collect();
        let ended = clients.into_iter().map(ScopedJoinHandle::join);
        ended.map(|client| client.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let stopped = Output::of(&mut command(&["ctl", "stop"]));
    assert_eq!(stopped.code(), Some(0), "{stopped}");
    assert!(generations.windows(2).all(|two| two[0] == two[1]), "one daemon for all: {generations:?}");
}

/// Resumes the threads of the last daemon, each a second time for the policy that it has after the first.
fn has_policies(client: &mut TestClient, policies: &BTreeMap<String, Value>) {
    for (thread, policy) in policies {
        let params = json!({"threadId": thread, "excludeTurns": true});
        client.request("thread/resume", params.clone());
        let resumed = client.request("thread/resume", params);
        assert_eq!(&resumed["sandbox"], policy, "the sandbox policy of {thread} at the next daemon");
        assert_eq!(client.turn(thread, "[[deltas:5]]again").status, "completed", "a turn of {thread}");
    }
}

fn turn(client: &mut TestClient, home: &Home) {
    let thread = client.start_thread(json!({"cwd": home.project()}));
    let turn = client.turn(&thread, "[[deltas:5]]once more");
    assert_eq!((turn.status.as_str(), turn.deltas.len()), ("completed", 6), "the turn of the next daemon");
}

/// Time for what ends by itself after its daemon was killed.
const ENDING: Duration = Duration::from_secs(10);
