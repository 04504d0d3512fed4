//! Server requests.

use codexd_proto::status::StatusReport;
use serde_json::{Value, json};

use crate::net::{Net, approval, methods, note, server_request, status, thread, turn_completed};

const NONE: [&str; 0] = [];

fn answer(id: i64, decision: &str) -> String {
    format!(r#"{{"id":{id},"result":{{"decision":"{decision}"}}}}"#)
}

fn resolved(t: &str, id: i64) -> String {
    note("serverRequest/resolved", &json!({"threadId": t, "requestId": id}))
}

/// Server requests that are open, and how many of them are unassigned.
fn open(net: &Net) -> (usize, usize) {
    let mut report = StatusReport::default();
    net.router.fill_status(net.now, &mut report);
    (report.pending_approvals, report.parked_approvals)
}

#[test]
fn approval_answered_twice_first_wins() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.resume_thread(b, &t);
    net.feed(&approval(0, &t));
    assert_eq!(net.got_raw(a), [approval(0, &t)]);
    assert_eq!(net.got_raw(b), [approval(0, &t)]);
    net.send(b, &answer(0, "accept"));
    net.send(a, &answer(0, "decline"));
    assert_eq!(net.sent_raw(), [answer(0, "accept")]);
    net.feed(&resolved(&t, 0));
    assert_eq!(
        (net.got_methods(a), net.got_methods(b)),
        (vec!["serverRequest/resolved".into()], vec!["serverRequest/resolved".into()])
    );
    net.send(a, &answer(0, "decline"));
    assert_eq!(net.sent_raw(), NONE);
    assert_eq!(open(&net), (0, 0));
}

#[test]
fn an_error_is_an_answer_and_a_malformed_one_is_not() {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.feed(&approval(0, &t));
    net.got(a);
    for line in [
        r#"{"id":0,"error":"no"}"#,
        r#"{"id":"0","result":{}}"#,
        r#"{"id":0.0,"result":{}}"#,
        r#"{"id":1,"result":{}}"#,
    ] {
        net.send(a, line);
        assert_eq!((net.sent_raw(), net.got_raw(a)), (vec![], vec![]), "{line}");
    }
    let error = r#"{"error":{"code":-1,"message":"no"},"id":0}"#;
    net.send(a, error);
    assert_eq!(net.sent_raw(), [error]);
}

#[test]
fn the_answer_of_a_client_that_is_not_subscribed_counts() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.feed(&approval(0, &t));
    assert_eq!(net.got_raw(b), NONE);
    net.send(b, &answer(0, "accept"));
    assert_eq!(net.sent_raw(), [answer(0, "accept")]);
}

#[test]
fn an_approval_without_subscribers_is_unassigned_and_replayed_to_the_client_that_resumes() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.open_turn(&t, "u");
    net.feed(&approval(0, &t));
    assert_eq!(open(&net), (1, 0));
    net.leave(a);
    net.hush(&[b]);
    assert_eq!(open(&net), (1, 1));
    let id = net.forwarded(b, "thread/resume", &json!({"threadId": t}));
    net.reply(id, &Net::thread_result(&t, "active"));
    net.feed(&approval(0, &t));
    assert_eq!(methods(&net.got(b)), ["<result>", "item/commandExecution/requestApproval"]);
    assert_eq!(open(&net), (1, 0));
    net.send(b, &answer(0, "accept"));
    assert_eq!(net.sent_raw(), [answer(0, "accept")]);
}

#[test]
fn a_resume_replays_pending_server_requests_to_the_requester_only() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.open_turn(&t, "u");
    net.feed(&approval(0, &t));
    net.hush(&[a, b]);
    let id = net.forwarded(b, "thread/resume", &json!({"threadId": t}));
    net.reply(id, &Net::thread_result(&t, "active"));
    net.feed(&approval(0, &t));
    net.feed(&approval(1, &t));
    assert_eq!(net.got_raw(a), [approval(1, &t)], "the new one is for both");
    assert_eq!(net.got_raw(b)[1..], [approval(0, &t), approval(1, &t)]);
}

#[test]
fn a_replay_for_a_client_that_has_gone_does_not_ask_the_others_again() {
    for (before, resumed) in [(true, false), (true, true), (false, false), (false, true)] {
        let mut net = Net::new();
        let (a, b) = (net.join(), net.join());
        let t = net.start_thread(a, 1);
        if resumed {
            net.resume_thread(a, &t);
        }
        net.feed(&approval(0, &t));
        net.hush(&[a, b]);
        let id = net.forwarded(b, "thread/resume", &json!({"threadId": t}));
        if before {
            net.leave(b);
        }
        net.reply(id, &Net::thread_result(&t, "active"));
        if !before {
            net.leave(b);
        }
        net.feed(&approval(0, &t));
        assert_eq!(net.got_raw(a), NONE, "gone before the response: {before}, resumed: {resumed}");
    }
}

#[test]
fn a_replay_of_an_answered_server_request_is_not_delivered() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.feed(&approval(0, &t));
    let id = net.forwarded(b, "thread/resume", &json!({"threadId": t}));
    net.send(a, &answer(0, "accept"));
    net.reply(id, &Net::thread_result(&t, "active"));
    net.feed(&approval(0, &t));
    assert_eq!(methods(&net.got(b)), ["<result>"]);
}

#[test]
fn a_server_request_without_subscribers_is_forgotten_with_its_turn() {
    for answered in [false, true] {
        let mut net = Net::new();
        let (a, b) = (net.join(), net.join());
        let t = net.start_thread(a, 1);
        net.open_turn(&t, "u");
        net.feed(&approval(0, &t));
        net.request(a, "x", "thread/unsubscribe", &json!({"threadId": t}));
        net.hush(&[a]);
        if answered {
            net.send(b, &answer(0, "accept"));
        }
        // Without subscribers, neither `serverRequest/resolved` nor the turn's end is sent.
        net.feed(&status(&t, "idle"));
        assert_eq!(open(&net), (0, 0));
        net.hush(&[b]);
        net.send(b, &answer(0, "decline"));
        assert_eq!(net.sent_raw(), NONE);
    }
}

#[test]
fn a_server_request_of_a_thread_that_is_closed_is_forgotten() {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.feed(&approval(0, &t));
    net.feed(&note("thread/deleted", &json!({"threadId": t})));
    assert_eq!(open(&net), (0, 0));
}

#[test]
fn a_server_request_that_is_never_resolved_ends_with_its_answer_or_with_its_turn() {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.feed(&server_request(0, "item/tool/call", &json!({"threadId": t})));
    net.send(a, r#"{"id":0,"result":{}}"#);
    assert_eq!(open(&net), (0, 0));
    net.feed(&server_request(1, "item/tool/call", &json!({"threadId": t})));
    assert_eq!(open(&net), (1, 0));
    net.feed(&turn_completed(&t, "u"));
    assert_eq!(open(&net), (0, 0));
}

#[test]
fn additional_permissions_are_stripped_for_clients_without_the_experimental_interface() {
    let mut net = Net::new();
    let (full, plain) = (net.join(), net.join_with(&json!({})));
    let t = net.start_thread(full, 1);
    net.resume_thread(plain, &t);
    let line = format!(
        r#"{{"method":"item/commandExecution/requestApproval","id":0,"params":{{"threadId":"{t}", "additionalPermissions":{{"network":[1]}},"availableDecisions":["accept"] }}}}"#
    );
    net.feed(&line);
    assert_eq!(net.got_raw(full), [line.as_str()]);
    assert_eq!(net.got_raw(plain), [line.replace(r#", "additionalPermissions":{"network":[1]}"#, "")]);
}

#[test]
fn a_server_request_before_the_response_of_a_fork_waits_for_it() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let source = net.start_thread(a, 1);
    let id = net.forwarded(b, "thread/fork", &json!({"threadId": source}));
    net.feed(&approval(0, &thread(2)));
    assert_eq!((net.got_raw(a), net.got_raw(b)), (vec![], vec![]));
    net.reply(id, &Net::thread_result(&thread(2), "active"));
    assert_eq!(net.got_methods(b), ["item/commandExecution/requestApproval", "<result>"]);
    assert_eq!(net.got_raw(a), NONE);
}

#[test]
fn a_token_refresh_goes_to_everyone_and_fails_when_nobody_is_there() {
    let mut net = Net::new();
    let ask =
        |id| server_request(id, "account/chatgptAuthTokens/refresh", &json!({"reason": "unauthorized"}));
    net.feed(&ask(0));
    let sent = net.sent();
    assert_eq!((sent[0]["id"].as_i64(), sent[0]["error"]["code"].as_i64()), (Some(0), Some(-32000)));
    let (a, b) = (net.join(), net.join());
    net.feed(&ask(1));
    assert_eq!((net.got_raw(a), net.got_raw(b)), (vec![ask(1)], vec![ask(1)]));
    net.send(b, r#"{"id":1,"result":{}}"#);
    net.send(a, r#"{"id":1,"result":{}}"#);
    assert_eq!(net.sent_raw().len(), 1);
}

#[test]
fn the_time_is_read_from_the_only_subscriber() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    let ask = |id| server_request(id, "currentTime/read", &json!({"threadId": t}));
    net.feed(&ask(0));
    assert_eq!(net.got_raw(a), [ask(0)]);
    net.send(a, r#"{"id":0,"result":{"time":1}}"#);
    net.sent();
    net.resume_thread(b, &t);
    net.feed(&ask(1));
    assert_eq!((net.got_raw(a), net.got_raw(b)), (vec![], vec![]));
    assert_eq!(net.sent()[0]["error"]["code"], -32000);
}

#[test]
fn attestation_is_asked_of_the_oldest_client_that_can() {
    let mut net = Net::new();
    let ask = |id| server_request(id, "attestation/generate", &json!({}));
    let _plain = net.join();
    net.feed(&ask(0));
    assert_eq!(net.sent()[0]["id"], 0);
    let first = net.join_with(&json!({"requestAttestation": true}));
    let second = net.join_with(&json!({"requestAttestation": true}));
    net.feed(&ask(1));
    assert_eq!((net.got_raw(first).len(), net.got_raw(second).len()), (1, 0));
}

#[test]
fn answers_after_the_loss_go_nowhere() {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.feed(&approval(0, &t));
    net.lose();
    net.hush(&[a]);
    net.send(a, &answer(0, "accept"));
    assert_eq!((net.sent_raw(), net.got_raw(a)), (vec![], vec![]));
}

#[test]
fn a_server_request_answered_while_nobody_was_subscribed_is_forgotten_with_its_turn() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.open_turn(&t, "u");
    net.feed(&approval(0, &t));
    net.leave(a);
    net.send(b, &answer(0, "accept"));
    net.hush(&[b]);
    // `serverRequest/resolved` was sent to no client; then one subscribes again.
    net.resume_thread(b, &t);
    net.feed(&status(&t, "idle"));
    net.feed(&turn_completed(&t, "u"));
    assert_eq!(net.router.accounting().server_requests, 0);
}

#[test]
fn a_server_request_for_clients_fails_when_the_last_one_that_was_asked_goes() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    net.feed(&server_request(0, "account/chatgptAuthTokens/refresh", &json!({})));
    net.leave(a);
    assert_eq!(net.sent_raw(), [""; 0]);
    net.leave(b);
    let failed = net.sent();
    assert_eq!((failed.len(), &failed[0]["id"]), (1, &json!(0)));
    assert!(failed[0]["error"]["message"].is_string());
    assert_eq!(net.router.accounting().server_requests, 0);
}

#[test]
fn a_server_request_for_the_only_subscriber_fails_when_it_goes() {
    let mut net = Net::new();
    let (a, _b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.feed(&server_request(3, "currentTime/read", &json!({"threadId": t})));
    net.leave(a);
    let sent = net.sent();
    assert!(sent.iter().any(|l| l["id"] == 3 && l["error"].is_object()), "{sent:?}");
    assert_eq!(net.router.accounting().server_requests, 0);
}

#[test]
fn an_approval_does_not_fail_when_its_client_goes() {
    let mut net = Net::new();
    let (a, _b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.open_turn(&t, "u");
    net.feed(&approval(0, &t));
    net.leave(a);
    net.pass(3_600_000);
    assert!(net.sent().iter().all(|l| l.get("error").is_none()));
    assert_eq!(net.router.accounting().server_requests, 1);
}

#[test]
fn a_server_request_fails_when_the_upstream_gives_it_up() {
    for (method, within) in [("account/chatgptAuthTokens/refresh", 10_000), ("attestation/generate", 100)] {
        let mut net = Net::new();
        let a = net.join_with(&json!({"requestAttestation": true}));
        net.feed(&server_request(5, method, &json!({})));
        assert_eq!(net.router.poll_timeout().map(|t| t.since(net.now)), Some(within));
        net.pass(within - 1);
        assert_eq!(net.sent_raw(), [""; 0]);
        net.pass(1);
        let failed = net.sent();
        assert_eq!((failed.len(), &failed[0]["id"]), (1, &json!(5)));
        net.send(a, &answer(5, "late"));
        assert_eq!(net.sent_raw(), [""; 0], "it is answered once");
        assert_eq!(net.router.poll_timeout(), None);
    }
}

// ---- the end of a command that was not approved --------------------------------------------------------------

fn command_completed(t: &str, process: &Value, status: &str) -> String {
    let item = json!({"type": "commandExecution", "id": "i", "processId": process, "exitCode": null, "status": status});
    note("item/completed", &json!({"threadId": t, "turnId": "u", "item": item}))
}

#[test]
fn the_end_of_a_refused_command_is_for_those_who_were_subscribed_when_it_was_asked_about() {
    for answer in [
        json!({"result": {"decision": "decline"}}),
        json!({"result": {"decision": "cancel"}}),
        json!({"result": null}),
        json!({"error": {"code": -1, "message": "no"}}),
    ] {
        for turn_ends_first in [false, true] {
            let mut net = Net::new();
            let (a, b, c) = (net.join(), net.join(), net.join());
            let t = net.start_thread(a, 1);
            net.resume_thread(b, &t);
            net.open_turn(&t, "u");
            net.feed(&approval(3, &t));
            net.request(b, 1, "thread/unsubscribe", &json!({"threadId": t}));
            net.resume_thread_running(c, &t);
            net.feed(&approval(3, &t));
            net.hush(&[a, b, c]);
            let mut answer = answer.clone();
            answer["id"] = json!(3);
            net.send(c, &answer.to_string());
            net.feed(&note("serverRequest/resolved", &json!({"threadId": t, "requestId": 3})));
            if turn_ends_first {
                net.feed(&turn_completed(&t, "u"));
            }
            net.hush(&[a, b, c]);
            let end = command_completed(&t, &Value::Null, "declined");
            net.feed(&end);
            assert_eq!((net.got_raw(a), net.got_raw(b)), (vec![end.clone()], vec![end]));
            assert_eq!(net.got_raw(c), [] as [&str; 0]);
            assert_eq!(net.router.accounting().unapproved, 0);
        }
    }
}

#[test]
fn the_end_of_an_approved_command_is_for_all_subscribers() {
    for process in [json!("1"), Value::Null] {
        let mut net = Net::new();
        let (a, b) = (net.join(), net.join());
        let t = net.start_thread(a, 1);
        net.open_turn(&t, "u");
        net.feed(&approval(3, &t));
        net.resume_thread_running(b, &t);
        net.feed(&approval(3, &t));
        net.send(b, &json!({"id": 3, "result": {"decision": "acceptForSession"}}).to_string());
        net.hush(&[a, b]);
        let end = command_completed(&t, &process, "failed");
        net.feed(&end);
        assert_eq!((net.got_raw(a), net.got_raw(b)), (vec![end.clone()], vec![end]));
        assert_eq!(net.router.accounting().unapproved, 0);
    }
}

#[test]
fn who_was_asked_about_a_command_is_forgotten_with_its_turn_or_thread() {
    for end in [0, 1, 2] {
        let mut net = Net::new();
        let a = net.join();
        let t = net.start_thread(a, 1);
        net.open_turn(&t, "u");
        net.feed(&approval(3, &t));
        assert_eq!(net.router.accounting().unapproved, 1);
        match end {
            0 => net.feed(&turn_completed(&t, "u")),
            1 => net.feed(&status(&t, "notLoaded")),
            _ => net.lose(),
        }
        assert_eq!(net.router.accounting().unapproved, 0, "{end}");
    }
}
