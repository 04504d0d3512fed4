//! A daemon that the next one is to replace: what it waits for, and how that ends.

use codexd_proto::core::{CannotUpgrade, CoreSettings, Effect, Event, Fact, Restart, UpgradeOutcome};
use codexd_proto::exit::ExitCode;
use codexd_proto::id::ClientId;
use codexd_proto::lifecycle::{ChildStatus, State, StopSource};
use codexd_proto::status::{DaemonState, StatusReport};
use serde_json::{Value, json};

use crate::shell::{Shell, settings};

/// A daemon with a client whose turn runs.
fn busy(restart: Restart) -> (Shell, ClientId) {
    let mut shell = Shell::serving(CoreSettings { drain_ms: Some(30_000), ..settings() }, restart);
    let client = shell.join();
    let _ = shell.sent();
    shell.send(client, &json!({"id": 1, "method": "thread/start", "params": {}}));
    let id = shell.sent()[0]["id"].clone();
    shell.upstream(&json!({"id": id, "result": {"thread": {"id": "t"}}}));
    shell.send(client, &json!({"id": 2, "method": "turn/start", "params": {"threadId": "t", "input": []}}));
    let id = shell.sent()[0]["id"].clone();
    shell.upstream(&json!({"id": id, "result": {"turn": {"id": "u"}}}));
    shell.upstream(&json!({"method": "turn/started", "params": {"threadId": "t", "turn": {"id": "u"}}}));
    let _ = shell.got(client);
    (shell, client)
}

fn turn_ends(shell: &mut Shell) -> Vec<Effect> {
    let turn = json!({"id": "u", "status": "completed"});
    shell.upstream(&json!({"method": "turn/completed", "params": {"threadId": "t", "turn": turn}}))
}

fn outcome(effects: &[Effect]) -> Option<&UpgradeOutcome> {
    effects.iter().find_map(|effect| match effect {
        Effect::UpgradeWaitEnded(outcome) => Some(outcome),
        _ => None,
    })
}

fn request(within_ms: Option<u64>) -> Event<'static> {
    Event::UpgradeRequested { within_ms }
}

fn methods(lines: &[Value]) -> Vec<&str> {
    lines.iter().filter_map(|line| line["method"].as_str()).collect()
}

fn status(shell: &Shell) -> StatusReport {
    let mut report = StatusReport::default();
    shell.core.fill_status(shell.now, &mut report);
    report
}

#[test]
fn an_idle_daemon_ends_at_once_and_its_notice_says_why() {
    let mut shell = Shell::serving(settings(), Restart::OnFailure);
    let client = shell.join();
    let effects = shell.report(request(None));
    assert_eq!(outcome(&effects), Some(&UpgradeOutcome::HandsOver));
    let seen = shell.got(client);
    assert_eq!(methods(&seen), ["notifications/broker/upgradeWaiting", "notifications/broker/shuttingDown"]);
    let notice = &seen[1]["params"];
    assert!(notice["reason"].as_str().unwrap().contains("ctl upgrade"), "{notice}");
    assert_eq!(
        (&notice["deadlineMs"], &notice["retryAfterMs"], &notice["intended"]),
        (&json!(0), &json!(1_000), &json!(false)),
        "a client is to come back at once"
    );
    shell.report(Event::UpstreamExited(ChildStatus::Code(0)));
    shell.got(client);
    shell.effects();
    assert_eq!((shell.core.state(), shell.core.exit_code()), (State::Exited, Some(ExitCode::Upgrade)));
}

#[test]
fn a_running_turn_is_waited_for_without_a_limit_and_shown() {
    let (mut shell, _) = busy(Restart::BySuccessor);
    let effects = shell.report(request(None));
    assert!(effects.contains(&Effect::Log(Fact::UpgradeWaits { within_ms: None })), "{effects:?}");
    assert_eq!(outcome(&effects), None);
    assert!(!effects.contains(&Effect::StopListening), "clients can connect meanwhile: {effects:?}");
    shell.pass(10_000_000);
    let report = status(&shell);
    assert_eq!((report.state, report.ready), (DaemonState::Draining, false));
    let upgrade = report.upgrade.expect("it waits");
    assert_eq!((upgrade.since_ms, upgrade.left_ms), (10_000_000, None));
    assert_eq!(upgrade.turns[0].id.as_deref(), Some("u"));
    let effects = turn_ends(&mut shell);
    assert_eq!(outcome(&effects), Some(&UpgradeOutcome::HandsOver));
    assert!(status(&shell).upgrade.is_none() && shell.core.has_successor());
}

#[test]
fn a_turn_that_runs_too_long_is_left_alone_and_new_work_is_accepted_again() {
    let (mut shell, client) = busy(Restart::OnDemand);
    shell.report(request(Some(5_000)));
    assert_eq!(status(&shell).upgrade.unwrap().left_ms, Some(5_000));
    assert_eq!(outcome(&shell.pass(4_999)), None);
    assert_eq!(outcome(&shell.pass(1)), Some(&UpgradeOutcome::TimedOut));
    assert_eq!((shell.core.state(), shell.core.intent()), (State::Serving, None));
    assert_eq!(
        methods(&shell.got(client)),
        ["notifications/broker/upgradeWaiting", "notifications/broker/upgradeCalledOff"]
    );
    let _ = shell.sent();
    shell.send(client, &json!({"id": 3, "method": "thread/start", "params": {}}));
    assert_eq!(methods(&shell.sent()), ["thread/start"]);
    // The turn is no interrupted one, and its end does not end the daemon.
    assert_eq!(outcome(&turn_ends(&mut shell)), None);
    assert_eq!(shell.core.state(), State::Serving);
}

#[test]
fn what_is_called_off_can_be_asked_for_again() {
    let (mut shell, _) = busy(Restart::OnDemand);
    for _ in 0..2 {
        assert_eq!(shell.core.can_upgrade(), Ok(()));
        shell.report(request(None));
        assert_eq!(shell.core.can_upgrade(), Err(CannotUpgrade::Waits));
        assert_eq!(outcome(&shell.report(Event::UpgradeCalledOff)), Some(&UpgradeOutcome::CalledOff));
    }
    // Nothing waits: it means nothing.
    assert_eq!(shell.report(Event::UpgradeCalledOff), []);
    assert_eq!(shell.core.state(), State::Serving);
}

#[test]
fn a_stop_or_a_loss_meanwhile_goes_first() {
    for (event, code) in [
        (Event::StopRequested(StopSource::Control), ExitCode::Stopped),
        (Event::UpstreamExited(ChildStatus::Signal(9)), ExitCode::UpstreamLost),
    ] {
        let (mut shell, client) = busy(Restart::BySuccessor);
        shell.report(request(None));
        let effects = shell.report(event);
        let Some(UpgradeOutcome::Ends(reason)) = outcome(&effects) else { panic!("{effects:?}") };
        assert!(reason.contains(if code == ExitCode::Stopped { "ctl stop" } else { "SIGKILL" }), "{reason}");
        turn_ends(&mut shell);
        if code == ExitCode::Stopped {
            shell.report(Event::UpstreamExited(ChildStatus::Code(0)));
        }
        shell.got(client);
        shell.effects();
        assert_eq!(shell.core.exit_code(), Some(code));
        assert_eq!(shell.core.has_successor(), code == ExitCode::UpstreamLost);
    }
}

#[test]
fn nothing_is_upgraded_that_nobody_would_start_again() {
    let by_hand = Shell::serving(settings(), Restart::Never);
    assert_eq!(by_hand.core.can_upgrade(), Err(CannotUpgrade::NobodyStarts));
    let (mut stopping, _) = busy(Restart::OnFailure);
    stopping.report(Event::StopRequested(StopSource::Control));
    assert!(
        matches!(stopping.core.can_upgrade(), Err(CannotUpgrade::Ends(reason)) if reason.contains("ctl stop"))
    );
    // And what is asked for all the same means nothing.
    assert_eq!(outcome(&stopping.report(request(None))), None);
}
