//! A small campaign of faults, so that it keeps working; `docs/reliability.md` describes the large one.
#![allow(missing_docs, reason = "the names of the tests say what they pin")]

use std::time::Duration;

use codexd_tests::chaos::fault::Fault;
use codexd_tests::chaos::plan::{Plan, Step};
use codexd_tests::chaos::{Campaign, RunReport, ViolationKind, run};
use codexd_tests::codex::{Codex, Version};
use nix::sys::signal::Signal;

#[track_caller]
fn expect_good(report: &RunReport) {
    assert!(report.is_good(), "{report}");
}

#[test]
fn twelve_runs_keep_every_promise() {
    let campaign = Campaign { runs: 12, seed: 1, real_every: 0, jobs: 2, keep_going: true };
    let broken = parking_lot::Mutex::new(Vec::new());
    let table = campaign.run(|report| {
        if !report.is_good() {
            broken.lock().push(report.to_string());
        }
    });
    assert!(table.is_good(), "{}\n{table}", broken.into_inner().join("\n\n"));
    assert_eq!(table.runs(), 12);
}

#[test]
fn a_run_on_the_real_codex_keeps_every_promise() {
    if Codex::for_test(Version::Current).is_none() {
        return;
    }
    let mut plan = Plan::new(1, true);
    plan.idle = false;
    plan.steps =
        vec![Step { after: Duration::from_millis(100), fault: Fault::UpstreamSignal(Signal::SIGKILL) }];
    plan.clients.truncate(2);
    expect_good(&run(&plan));
}

#[test]
fn a_daemon_that_is_killed_where_it_should_stop_is_found() {
    let mut plan = Plan::new(1, false);
    plan.idle = false;
    // Promised is that of a stop.
    let fault = Fault::Signals(vec![Signal::SIGKILL], Duration::ZERO);
    plan.steps = vec![Step { after: Duration::from_millis(50), fault }];
    plan.clients.truncate(2);
    let kinds: Vec<ViolationKind> =
        run(&plan).violations.into_iter().map(|violation| violation.kind).collect();
    // The code, the connections that ended without a notice, and the sockets.
    for kind in [ViolationKind::ExitCode, ViolationKind::WithoutNotice, ViolationKind::Restart] {
        assert!(kinds.contains(&kind), "{kind:?} is not among {kinds:?}");
    }
}
