//! What the log shows of clients and turns, and the count of turns that ended.

use codexd_proto::capture::KnownBy;
use codexd_proto::id::{ClientId, ThreadId};
use codexd_proto::router::{Activity, Outcome};
use codexd_proto::status::StatusReport;
use serde_json::json;

use crate::net::{Net, note, server_request, status, turn_completed, turn_started};

fn activities(net: &mut Net) -> Vec<Activity> {
    std::iter::from_fn(|| net.router.poll_activity()).collect()
}

fn turns_completed(net: &Net) -> u64 {
    let mut report = StatusReport::default();
    net.router.fill_status(net.now, &mut report);
    report.counters.turns_completed
}

/// How the only turn ended, by whom it was started, and how long it ran.
#[track_caller]
fn end(net: &mut Net) -> (Outcome, Option<ClientId>, u64) {
    let ends: Vec<_> = activities(net)
        .into_iter()
        .filter_map(|activity| match activity {
            Activity::TurnEnded { client, outcome, duration_ms, .. } => {
                Some((outcome, client.map(|(client, _)| client), duration_ms))
            }
            _ => None,
        })
        .collect();
    assert_eq!(ends.len(), 1, "{ends:?}");
    ends[0]
}

#[test]
fn a_client_is_shown_from_its_introduction_on() {
    let mut net = Net::new();
    let silent = net.connect();
    net.leave(silent);
    assert_eq!(activities(&mut net), []);
    let a = net.join();
    net.pass(1_500);
    net.leave(a);
    net.leave(a);
    assert_eq!(
        activities(&mut net),
        [
            Activity::ClientConnected { client: a, name: "c".to_owned(), version: "1".to_owned() },
            Activity::ClientLeft { client: a, name: "c".to_owned(), connected_ms: 1_500 },
        ]
    );
}

#[test]
fn a_name_of_any_length_makes_a_short_line() {
    let mut net = Net::new();
    let a = net.connect();
    let params = json!({"clientInfo": {"name": "n".repeat(10_000), "version": "v".repeat(10_000)}});
    net.request(a, 1, "initialize", &params);
    let Some(Activity::ClientConnected { name, version, .. }) = net.router.poll_activity() else { panic!() };
    assert_eq!((name.len(), version.len()), (64, 64));
}

#[test]
fn a_turn_is_shown_with_its_client_and_its_duration() {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    let id = net.forwarded(a, "turn/start", &json!({"threadId": t, "input": "a prompt"}));
    activities(&mut net);
    net.reply(id, &json!({"turn": {"id": "u", "status": "inProgress"}}));
    net.feed(&turn_started(&t, "u"));
    net.pass(250);
    net.feed(&turn_completed(&t, "u"));
    let client = Some((a, Some("c".to_owned())));
    let (thread, turn) = (ThreadId::new(t.as_bytes()), "u".to_owned());
    let (cwd, sub_agent) = (None, false);
    let end = (Outcome::Completed, KnownBy::TerminalEvent);
    assert_eq!(
        activities(&mut net),
        [
            Activity::TurnStarted {
                thread: thread.clone(),
                turn: turn.clone(),
                client: client.clone(),
                cwd,
                sub_agent
            },
            Activity::TurnEnded {
                thread,
                turn,
                client,
                outcome: end.0,
                known_by: end.1,
                tokens: None,
                duration_ms: 250
            },
        ]
    );
}

#[test]
fn the_outcome_is_that_of_the_upstream() {
    for (status, outcome) in
        [("failed", Outcome::Failed), ("interrupted", Outcome::Interrupted), ("new", Outcome::Unknown)]
    {
        let mut net = Net::new();
        let a = net.join();
        let t = net.start_thread(a, 1);
        net.open_turn(&t, "u");
        net.feed(&note("turn/completed", &json!({"threadId": t, "turn": {"id": "u", "status": status}})));
        assert_eq!(end(&mut net).0, outcome);
    }
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.open_turn(&t, "u");
    net.lose();
    assert_eq!(end(&mut net).0, Outcome::Lost);
    assert_eq!(turns_completed(&net), 1);
}

#[test]
fn a_turn_without_subscribers_counts_when_it_ends() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    let id = net.forwarded(a, "turn/start", &json!({"threadId": t}));
    net.reply(id, &json!({"turn": {"id": "u", "status": "inProgress"}}));
    net.open_turn(&t, "u");
    net.request(a, "x", "thread/unsubscribe", &json!({"threadId": t}));
    net.hush(&[a, b]);
    net.pass(40);
    // The upstream does not send the turn's end.
    net.feed(&status(&t, "idle"));
    assert_eq!(turns_completed(&net), 1);
    assert_eq!(end(&mut net), (Outcome::Unknown, Some(a), 40));
    // A second turn, of which nothing is known but the status of its thread.
    net.feed(&status(&t, "active"));
    net.feed(&status(&t, "idle"));
    net.feed(&status(&t, "idle"));
    assert_eq!(turns_completed(&net), 2);
}

#[test]
fn a_turn_counts_once_however_its_end_is_reported() {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.open_turn(&t, "u");
    net.feed(&status(&t, "idle"));
    net.feed(&turn_completed(&t, "u"));
    net.feed(&turn_completed(&t, "u"));
    assert_eq!(turns_completed(&net), 1);
    net.open_turn(&t, "v");
    net.leave(a);
    net.feed(&status(&t, "idle"));
    net.feed(&turn_completed(&t, "v"));
    assert_eq!(turns_completed(&net), 2);
    // Closing a thread ends its turn.
    let b = net.join();
    net.sent_raw();
    let t = net.start_thread(b, 2);
    net.open_turn(&t, "w");
    net.feed(&note("thread/closed", &json!({"threadId": t})));
    assert_eq!(turns_completed(&net), 3);
}

/// What a ledger gets of the only turn, from its start to its end.
#[track_caller]
fn story(net: &mut Net) -> (Option<String>, Vec<String>, Option<u64>, (Outcome, KnownBy)) {
    let (mut directory, mut phases, mut used, mut end) = (None, Vec::new(), None, None);
    for activity in activities(net) {
        match activity {
            Activity::TurnStarted { cwd, .. } => directory = cwd,
            Activity::TurnProgress { phase, tokens, .. } => {
                phases.extend(phase);
                used = tokens.map(|tokens| tokens.total_tokens).or(used);
            }
            Activity::TurnEnded { outcome, known_by, tokens, .. } => {
                assert_eq!(tokens.map(|tokens| tokens.total_tokens), used);
                assert_eq!(end.replace((outcome, known_by)), None, "it ended twice");
            }
            _ => {}
        }
    }
    (directory, phases, used, end.expect("it ended"))
}

#[test]
fn a_turn_tells_its_directory_its_phases_and_its_tokens() {
    let mut net = Net::new();
    let a = net.join();
    let id = net.forwarded(a, "thread/start", &json!({}));
    let t = crate::net::thread(1);
    net.reply(id, &json!({"thread": {"id": t}, "cwd": "/a \"b\""}));
    net.open_turn(&t, "u");
    let usage = |turn: &str, total: u64| {
        let usage = json!({"total": {"totalTokens": total}, "last": {"totalTokens": 15}});
        note("thread/tokenUsage/updated", &json!({"threadId": t, "turnId": turn, "tokenUsage": usage}))
    };
    let item = |turn: &str, kind: &str| {
        note("item/started", &json!({"threadId": t, "turnId": turn, "item": {"type": kind, "id": "i"}}))
    };
    for line in [item("u", "reasoning"), usage("u", 115), item("before", "plan"), item("u", "agentMessage")] {
        net.feed(&line);
    }
    for line in [usage("before", 500), usage("u", 130), turn_completed(&t, "u")] {
        net.feed(&line);
    }
    let phases = ["reasoning", "agentMessage"].map(str::to_owned).to_vec();
    let end = (Outcome::Completed, KnownBy::TerminalEvent);
    assert_eq!(story(&mut net), (Some("/a \"b\"".to_owned()), phases, Some(30), end));
}

#[test]
fn how_the_outcome_is_known_is_told() {
    let after = |last: &dyn Fn(&mut Net, &str)| {
        let mut net = Net::new();
        let a = net.join();
        let t = net.start_thread(a, 1);
        net.open_turn(&t, "u");
        last(&mut net, &t);
        story(&mut net).3
    };
    let answer = |net: &mut Net, t: &str| {
        let item = json!({"type": "agentMessage", "phase": "final_answer", "text": "42", "id": "i"});
        net.feed(&note("item/completed", &json!({"threadId": t, "turnId": "u", "item": item})));
        net.lose();
    };
    assert_eq!(after(&answer), (Outcome::Completed, KnownBy::Inferred));
    assert_eq!(after(&|net, _| net.lose()), (Outcome::Lost, KnownBy::UpstreamLost));
    let closed = |net: &mut Net, t: &str| net.feed(&note("thread/closed", &json!({"threadId": t})));
    assert_eq!(after(&closed), (Outcome::Unknown, KnownBy::ThreadEnded));
}

/// The turn of each approval that was requested (`+`) or has ended (`-`).
fn turns_of_approvals(net: &mut Net) -> Vec<String> {
    let shown =
        |sign, turn: Option<std::sync::Arc<str>>| format!("{sign}{}", turn.as_deref().unwrap_or("none"));
    let all = activities(net).into_iter();
    all.filter_map(|activity| match activity {
        Activity::ApprovalRequested { turn, .. } => Some(shown('+', turn)),
        Activity::ApprovalEnded { turn, .. } => Some(shown('-', turn)),
        _ => None,
    })
    .collect()
}

#[test]
fn an_approval_is_of_the_turn_that_it_names_or_else_of_the_open_one_of_its_thread() {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.open_turn(&t, "u");
    for (id, params) in [
        (0, json!({"threadId": t, "turnId": "v\n"})),
        (1, json!({"threadId": t, "turnId": null})),
        (2, json!({"threadId": t})),
    ] {
        net.feed(&server_request(id, "item/tool/requestUserInput", &params));
    }
    assert_eq!(turns_of_approvals(&mut net), ["+v\n", "+u", "+u"]);
    net.send(a, r#"{"id":0,"result":{}}"#);
    // Their turn has ended when codex reports that it has given them up.
    net.feed(&turn_completed(&t, "u"));
    net.open_turn(&t, "w");
    net.feed(&note("serverRequest/resolved", &json!({"threadId": t, "requestId": 1})));
    assert_eq!(turns_of_approvals(&mut net), ["-v\n", "-u"]);
    // Of no thread, and so of no turn.
    net.feed(&server_request(3, "account/chatgptAuthTokens/refresh", &json!({"reason": "unauthorized"})));
    assert_eq!(turns_of_approvals(&mut net), ["+none"]);
}
