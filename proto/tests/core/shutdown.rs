//! The order of effects on the way to the exit.

use codexd_proto::core::{CoreSettings, Effect, Event, Restart};
use codexd_proto::exit::ExitCode;
use codexd_proto::lifecycle::{ChildStatus, State, StopSource, Timeouts};
use codexd_proto::router::{CloseReason, Limits};
use serde_json::{Value, json};

use crate::shell::{Shell, settings};

fn notice(lines: &[Value]) -> &Value {
    lines.iter().find(|l| l["method"] == "notifications/broker/shuttingDown").expect("a shutdown notice")
}

#[test]
fn what_clients_had_sent_is_read_before_their_requests_are_resolved() {
    let mut shell = Shell::serving(settings(), Restart::Never);
    let client = shell.join();
    shell.core.handle(shell.now, Event::UpstreamExited(ChildStatus::Signal(9)));
    let mut seen = Vec::new();
    while let Some(effect) = shell.core.poll_effect(shell.now) {
        if effect == Effect::FinalRead && !seen.contains(&Effect::FinalRead) {
            assert_eq!(shell.core.pending(client), b"", "resolved before the final read");
            let line = br#"{"id":7,"method":"thread/list","params":{}}"#;
            shell.core.handle(shell.now, Event::ClientLine { client, line });
        }
        seen.push(effect);
    }
    let order = |effect: &Effect| seen.iter().position(|e| e == effect).unwrap();
    assert!(order(&Effect::StopListening) < order(&Effect::FinalRead), "{seen:?}");
    let lines = shell.got(client);
    assert_eq!((&lines[0]["id"], &lines[0]["error"]["code"]), (&json!(7), &json!(-32010)));
    assert_eq!(lines[0]["error"]["data"]["codexd"]["delivered"], "no");
    // Once that is written, everything is closed, and the exit code gives the reason.
    let rest = shell.effects();
    assert!(rest.contains(&Effect::FinalRead) && rest.contains(&Effect::CloseAll), "{rest:?}");
    assert_eq!(shell.core.exit_code(), Some(ExitCode::UpstreamLost));
}

#[test]
fn a_requested_stop_closes_the_input_when_nothing_runs_and_exits_0() {
    let mut shell = Shell::serving(settings(), Restart::Never);
    let client = shell.join();
    let effects = shell.report(Event::StopRequested(StopSource::Terminate));
    let steps: Vec<&Effect> = effects.iter().filter(|e| !matches!(e, Effect::StateChanged { .. })).collect();
    assert_eq!(steps, [&Effect::NotifyStopping, &Effect::StopListening, &Effect::CloseInput]);
    assert_eq!(notice(&shell.got(client))["params"]["deadlineMs"], 30_000);
    shell.report(Event::UpstreamExited(ChildStatus::Code(0)));
    assert_eq!(notice(&shell.got(client))["params"]["deadlineMs"], 0);
    shell.effects();
    assert_eq!((shell.core.state(), shell.core.exit_code()), (State::Exited, Some(ExitCode::Stopped)));
}

#[test]
fn retry_after_is_given_only_if_somebody_starts_codexd_again() {
    let stop = Event::StopRequested(StopSource::Control);
    let loss = Event::UpstreamExited(ChildStatus::Code(1));
    for (restart, event, expected) in [
        (Restart::Never, stop, Value::Null),
        (Restart::Never, loss, Value::Null),
        // A supervisor restarts after a failure and not after a stop.
        (Restart::OnFailure, stop, Value::Null),
        (Restart::OnFailure, loss, json!(1_000)),
        (Restart::OnDemand, stop, json!(1_000)),
        (Restart::OnDemand, loss, json!(1_000)),
        (Restart::BySuccessor, stop, json!(1_000)),
        (Restart::BySuccessor, loss, json!(1_000)),
    ] {
        let mut shell = Shell::serving(settings(), restart);
        let client = shell.join();
        shell.report(event);
        assert_eq!(notice(&shell.got(client))["params"]["retryAfterMs"], expected, "{restart:?} {event:?}");
    }
}

/// Found by seed 19971 of the simulation.
#[test]
fn a_client_found_too_slow_when_the_time_to_write_is_up_is_closed_with_the_others() {
    let flush_ms = Timeouts::default().flush_ms;
    let limits =
        Limits { client_queue_soft_bytes: 1_000, client_queue_soft_ms: flush_ms, ..Limits::default() };
    let mut shell = Shell::serving(CoreSettings { limits, ..settings() }, Restart::Never);
    let client = shell.join();
    shell.report(Event::ClientWritten { client, bytes: 0, full: true, framing_waits: false });
    shell.report(Event::UpstreamExited(ChildStatus::Signal(9)));
    let request = |shell: &mut Shell| {
        shell
            .core
            .handle(shell.now, Event::ClientLine { client, line: br#"{"id":1,"method":"thread/list"}"# });
        shell.core.pending(client).len()
    };
    // As long as it is not closed, each of its requests gets an error.
    let mut waiting = shell.core.pending(client).len();
    while waiting <= 1_500 {
        let more = request(&mut shell);
        assert!(more > waiting);
        waiting = more;
    }
    shell.now = shell.now + flush_ms;
    shell.core.handle_timeout(shell.now);
    assert_eq!(shell.core.poll_effect(shell.now), Some(Effect::FinalRead));
    assert_eq!(request(&mut shell), waiting, "a request of a client that is being closed gets no response");
    assert_eq!(shell.core.poll_effect(shell.now), Some(Effect::CloseAll));
    shell.core.handle(shell.now, Event::ClientDisconnected { client });
    let rest = shell.effects();
    let close = Effect::CloseClient { client, reason: Some(CloseReason::TooSlow) };
    assert!(rest.contains(&close), "{rest:?}");
    assert_eq!(shell.core.exit_code(), Some(ExitCode::UpstreamLost));
}

#[test]
fn a_daemon_that_lost_codex_under_a_client_starts_the_next_one() {
    let loss = Event::UpstreamExited(ChildStatus::Signal(9));
    let mut shell = Shell::serving(settings(), Restart::BySuccessor);
    let client = shell.join();
    assert!(!shell.core.has_successor());
    shell.report(loss);
    shell.got(client);
    shell.effects();
    assert_eq!((shell.core.state(), shell.core.exit_code()), (State::Exited, Some(ExitCode::UpstreamLost)));
    assert!(shell.core.has_successor());

    // One that has sent everything it will gets its responses, and does not come back.
    let mut shell = Shell::serving(settings(), Restart::BySuccessor);
    let client = shell.join();
    shell.send(client, &json!({"id": 1, "method": "thread/list", "params": {}}));
    shell.report(Event::ClientEof { client, hung_up: false, framing_waits: false });
    shell.report(loss);
    assert!(!shell.core.has_successor());

    // One that ends with its daemon, as a job, has no use for the next one.
    for (declared, others, due) in [(json!(true), 0, false), (json!(true), 1, true), (json!("yes"), 0, true)]
    {
        let mut shell = Shell::serving(settings(), Restart::BySuccessor);
        shell.join_declaring(&json!({"endsWithDaemon": declared}));
        for _ in 0..others {
            shell.join();
        }
        shell.report(loss);
        assert_eq!(shell.core.has_successor(), due, "{declared} and {others}");
    }
    // One that waits to initialize may be any.
    let mut shell = Shell::serving(settings(), Restart::BySuccessor);
    shell.core.connect(shell.now);
    shell.report(loss);
    assert!(shell.core.has_successor());

    let mut shell = Shell::serving(settings(), Restart::BySuccessor);
    shell.join();
    shell.report(loss);
    shell.report(Event::StopRequested(StopSource::Terminate));
    assert!(!shell.core.has_successor());
}
