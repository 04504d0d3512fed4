//! What each client gets when the upstream is lost.

use codexd_proto::router::Limits;
use serde_json::{Value, json};

use crate::net::{Net, approval, delta, methods, note, status, thread, turn_completed, turn_started};

const NONE: [&str; 0] = [];

fn said(answer: &Value) -> (i64, &str, bool) {
    let error = &answer["error"];
    let data = &error["data"]["codexd"];
    assert_eq!((data["reason"].as_str(), data["generation"].as_i64()), (Some("upstreamLost"), Some(7)));
    (
        error["code"].as_i64().unwrap(),
        data["delivered"].as_str().unwrap(),
        data["retryable"].as_bool().unwrap(),
    )
}

#[test]
fn each_error_says_whether_its_request_may_have_been_carried_out() {
    let mut net = Net::limited(Limits { window: 2, ..Limits::default() });
    let (a, b) = (net.join(), net.join());
    net.request(a, "written", "turn/start", &json!({"threadId": "t"}));
    let written = net.sent_raw();
    assert_eq!(written.len(), 1);
    net.request(b, "begun", "turn/start", &json!({"threadId": "t"}));
    net.router.upstream_outbox().advance(1, true);
    net.request(a, "long", "command/exec", &json!({"command": ["ls"]}));
    net.request(a, "queued", "thread/list", &json!({}));
    net.lose();
    let got = net.got(a);
    assert_eq!(methods(&got), ["<error>", "<error>", "<error>", "notifications/broker/shuttingDown"]);
    assert_eq!((&got[0]["id"], said(&got[0])), (&json!("written"), (-32010, "maybe", false)));
    assert_eq!((&got[1]["id"], said(&got[1])), (&json!("long"), (-32010, "no", true)));
    assert_eq!((&got[2]["id"], said(&got[2])), (&json!("queued"), (-32010, "no", true)));
    let got = net.got(b);
    assert_eq!((&got[0]["id"], said(&got[0])), (&json!("begun"), (-32010, "maybe", false)));
    assert_eq!(got[0]["error"]["message"], "codex app-server was killed");
}

/// What a client gets of a turn that failed because the upstream was lost, in the upstream's own order.
const FAILURE: [&str; 3] = ["thread/status/changed", "error", "turn/completed"];

#[test]
fn an_open_turn_fails_once_for_each_subscriber_as_the_upstreams_own_turns_do() {
    let mut net = Net::new();
    let (a, b, c) = (net.join(), net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.resume_thread(b, &t);
    net.open_turn(&t, "u");
    net.feed(&delta(&t, 1));
    net.hush(&[a, b, c]);
    net.lose();
    let mark = json!({"synthetic": true, "inferred": false, "reason": "upstreamLost", "generation": 7});
    let status = json!({"threadId": t, "status": {"type": "systemError"}, "codexd": mark});
    for client in [a, b] {
        let got = net.got(client);
        assert_eq!(methods(&got), [&FAILURE[..], &["notifications/broker/shuttingDown"]].concat());
        assert_eq!(got[0]["params"], status);
        let error = &got[1]["params"];
        assert_eq!((&error["threadId"], &error["turnId"]), (&json!(t), &json!("u")));
        assert_eq!(error["willRetry"], false);
        assert_eq!(error["error"]["message"], "codex app-server was killed");
        assert_eq!(error["codexd"], mark);
        let params = &got[2]["params"];
        assert_eq!((&params["threadId"], &params["turn"]["id"]), (&json!(t), &json!("u")));
        assert_eq!(params["turn"]["status"], "failed");
        assert_eq!(params["turn"]["error"], error["error"]);
        assert_eq!(params["turn"]["itemsView"], "notLoaded", "members of the real turn are kept");
        assert_eq!(params["codexd"], mark);
    }
    // The status of a thread concerns everyone, what happens in it does not.
    let got = net.got(c);
    assert_eq!(methods(&got), ["thread/status/changed", "notifications/broker/shuttingDown"]);
    assert_eq!(got[0]["params"], status);
}

#[test]
fn a_turn_that_the_upstream_has_failed_ends_with_its_own_error_and_is_not_failed_twice() {
    let failing = |will_retry: bool, turn: &str| {
        let mut net = Net::new();
        let a = net.join();
        let t = net.start_thread(a, 1);
        net.open_turn(&t, "u");
        net.feed(&status(&t, "systemError"));
        let own = json!({"message": "the model refuses", "codexErrorInfo": "badRequest"});
        let params = json!({"threadId": t, "turnId": turn, "error": own, "willRetry": will_retry});
        net.feed(&note("error", &params));
        net.hush(&[a]);
        net.lose();
        let mut got = net.got(a);
        assert_eq!(got.pop().unwrap()["method"], "notifications/broker/shuttingDown");
        (methods(&got), got)
    };
    let (names, got) = failing(false, "u");
    assert_eq!(names, ["turn/completed"]);
    let turn = &got[0]["params"]["turn"];
    assert_eq!((&turn["status"], &turn["error"]["message"]), (&json!("failed"), &json!("the model refuses")));
    assert_eq!(turn["error"]["codexErrorInfo"], "badRequest");
    assert_eq!(got[0]["params"]["codexd"]["synthetic"], true);
    // One that is retried, or is another turn's, is no end.
    for (will_retry, turn) in [(true, "u"), (false, "v")] {
        let (names, got) = failing(will_retry, turn);
        assert_eq!(names, FAILURE);
        assert_eq!(got[1]["params"]["error"]["message"], "codex app-server was killed");
    }
}

#[test]
fn the_end_of_a_turn_honours_opt_outs() {
    for (place, method) in FAILURE.into_iter().enumerate() {
        let mut net = Net::new();
        let a = net.join_with(&json!({"optOutNotificationMethods": [method]}));
        let t = net.start_thread(a, 1);
        net.open_turn(&t, "u");
        net.hush(&[a]);
        net.lose();
        let mut left = FAILURE.to_vec();
        left.remove(place);
        assert_eq!(net.got_methods(a), [&left[..], &["notifications/broker/shuttingDown"]].concat());
    }
}

#[test]
fn each_of_several_open_turns_ends_in_order() {
    let mut net = Net::new();
    let a = net.join();
    let threads = [net.start_thread(a, 2), net.start_thread(a, 1)];
    threads.iter().for_each(|t| net.open_turn(t, "u"));
    net.hush(&[a]);
    net.lose();
    let got = net.got(a);
    let named: Vec<_> = got.iter().filter_map(|l| l["params"]["threadId"].as_str()).collect();
    assert_eq!(named, [[threads[1].as_str(); 3], [threads[0].as_str(); 3]].concat());
    assert_eq!(methods(&got)[..6], [FAILURE, FAILURE].concat());
}

#[test]
fn a_thread_that_was_active_before_its_turn_began_is_not_left_active() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.feed(&status(&t, "active"));
    net.hush(&[a, b]);
    net.lose();
    for client in [a, b] {
        let got = net.got(client);
        assert_eq!(methods(&got), ["thread/status/changed", "notifications/broker/shuttingDown"]);
        assert_eq!(got[0]["params"]["status"], json!({"type": "systemError"}));
    }
}

/// Found by seed 170990 of the simulation.
#[test]
fn a_thread_whose_last_status_was_deferred_is_not_left_active() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.open_turn(&t, "u");
    net.request(a, "archive", "thread/archive", &json!({"threadId": t}));
    let archive = net.sent()[0]["id"].as_i64().unwrap();
    net.request(a, "unsubscribe", "thread/unsubscribe", &json!({"threadId": t}));
    net.request(b, "resume", "thread/resume", &json!({"threadId": t}));
    net.hush(&[a, b]);
    // Deferred, because a resume is in flight and nobody is subscribed; so is what all clients get, to keep the order.
    for line in [approval(0, &t), status(&t, "idle"), turn_completed(&t, "u"), status(&t, "notLoaded")] {
        net.feed(&line);
    }
    net.reply(archive, &json!({}));
    net.hush(&[a]);
    assert_eq!(net.got_methods(b), NONE);
    net.lose();
    for client in [a, b] {
        let got = net.got(client);
        let status = "thread/status/changed";
        assert_eq!(methods(&got), [status, status, "<error>", "notifications/broker/shuttingDown"]);
        assert_eq!(got[1]["params"]["status"], json!({"type": "notLoaded"}));
    }
}

#[test]
fn a_turn_that_has_ended_is_not_ended_again() {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.open_turn(&t, "u");
    net.feed(&status(&t, "idle"));
    net.feed(&turn_completed(&t, "u"));
    net.hush(&[a]);
    net.lose();
    assert_eq!(net.got_methods(a), ["notifications/broker/shuttingDown"]);
}

fn item(t: &str, method: &str, kind: &str, phase: &str) -> String {
    let item = json!({"type": kind, "phase": phase, "text": "42", "id": "i"});
    note(method, &json!({"threadId": t, "turnId": "u", "item": item}))
}

/// The status that a turn gets when the upstream is lost after these items.
fn status_after(items: &[(&str, &str, &str)], sub_agent: bool) -> (String, bool) {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.open_turn(&t, "u");
    if sub_agent {
        net.open_turn(&thread(2), "child");
    }
    for (method, kind, phase) in items {
        net.feed(&item(&t, method, kind, phase));
    }
    net.hush(&[a]);
    net.lose();
    let mut got = net.got(a);
    got.retain(|l| l["params"]["threadId"] == *t);
    let event = got.last().unwrap();
    let turn = &event["params"]["turn"];
    if turn["status"] == "completed" {
        assert_eq!(methods(&got), ["thread/status/changed", "turn/completed"]);
        assert_eq!(got[0]["params"]["status"], json!({"type": "idle"}));
        assert_eq!(got[0]["params"]["codexd"], event["params"]["codexd"]);
        assert_eq!(
            (&turn["items"][0]["text"], &turn["itemsView"], &turn["error"]),
            (&json!("42"), &json!("summary"), &json!(null))
        );
    } else {
        assert_eq!(methods(&got), FAILURE);
    }
    (turn["status"].as_str().unwrap().to_owned(), event["params"]["codexd"]["inferred"].as_bool().unwrap())
}

#[test]
fn a_turn_whose_final_answer_was_seen_counts_as_completed() {
    const FINAL: (&str, &str, &str) = ("item/completed", "agentMessage", "final_answer");
    const REMARK: (&str, &str, &str) = ("item/completed", "agentMessage", "commentary");
    const BEGINS: (&str, &str, &str) = ("item/started", "commandExecution", "");
    let failed = ("failed".to_owned(), false);
    let completed = ("completed".to_owned(), true);
    assert_eq!(status_after(&[FINAL], false), completed);
    assert_eq!(status_after(&[REMARK, FINAL], false), completed);
    assert_eq!(status_after(&[REMARK], false), failed);
    assert_eq!(status_after(&[FINAL, BEGINS], false), failed, "something began after it");
    assert_eq!(status_after(&[FINAL], true), failed, "a sub-agent was still at work");
}

#[test]
fn a_completed_turn_whose_thread_is_idle_already_gets_no_second_status() {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.open_turn(&t, "u");
    net.feed(&item(&t, "item/completed", "agentMessage", "final_answer"));
    net.feed(&status(&t, "idle"));
    net.hush(&[a]);
    net.lose();
    assert_eq!(net.got_methods(a), ["turn/completed", "notifications/broker/shuttingDown"]);
}

#[test]
fn pending_server_requests_are_resolved_before_the_shutdown_notice() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.resume_thread(b, &t);
    net.open_turn(&t, "u");
    net.feed(&approval(4, &t));
    net.request(a, "r", "thread/list", &json!({}));
    net.hush(&[a, b]);
    net.lose();
    let got = net.got(a);
    let rest = ["serverRequest/resolved", "notifications/broker/shuttingDown"];
    assert_eq!(methods(&got), [&["<error>"], &FAILURE[..], &rest].concat());
    assert_eq!(got[4]["params"], json!({"threadId": t, "requestId": 4, "codexd": {"synthetic": true}}));
    assert_eq!(net.got_methods(b), [&FAILURE[..], &rest].concat());
}

#[test]
fn the_second_loss_does_nothing() {
    let mut net = Net::new();
    let a = net.join();
    net.request(a, 1, "thread/list", &json!({}));
    net.lose();
    net.got(a);
    net.lose();
    assert_eq!(net.got_raw(a), NONE);
}

#[test]
fn requests_and_clients_that_come_after_it_are_answered() {
    let mut net = Net::new();
    let a = net.join();
    net.lose();
    net.hush(&[a]);
    net.request(a, "x", "thread/list", &json!({}));
    assert_eq!(said(&net.got_one(a)), (-32010, "no", true));
    let late = net.connect();
    net.request(late, 1, "initialize", &json!({"clientInfo": {"name": "x", "version": "1"}}));
    assert_eq!(said(&net.got_one(late)), (-32010, "no", true));
    net.request(late, 2, "thread/list", &json!({}));
    assert_eq!(said(&net.got_one(late)).0, -32010);
    net.request(late, 3, "broker/status", &json!({}));
    assert_eq!(net.got_one(late)["result"]["state"], "stopping");
    net.leave(a);
    assert_eq!(net.sent_raw(), NONE, "there is nobody to tell");
}

#[test]
fn what_the_upstream_wrote_before_counts_and_what_is_read_after_does_not() {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.feed(&delta(&t, 1));
    net.lose();
    net.feed(&delta(&t, 2));
    net.feed("torn line");
    assert_eq!(net.got_methods(a), ["item/agentMessage/delta", "notifications/broker/shuttingDown"]);
    assert_eq!(net.actions(), []);
}

#[test]
fn lines_kept_for_an_upstream_that_never_came_are_answered() {
    let mut net = Net::starting(Limits::default());
    let a = net.connect();
    net.request(a, 1, "initialize", &json!({"clientInfo": {"name": "x", "version": "1"}}));
    net.request(a, 2, "thread/list", &json!({}));
    net.lose();
    let got = net.got(a);
    assert_eq!(methods(&got), ["<error>", "<error>"]);
    assert_eq!((said(&got[0]), said(&got[1])), ((-32010, "no", true), (-32010, "no", true)));
}

#[test]
fn an_unsubscribe_that_waited_for_a_resume_is_answered() {
    let mut net = Net::new();
    let a = net.join();
    net.request(a, "resume", "thread/resume", &json!({"threadId": thread(1)}));
    net.request(a, "unsubscribe", "thread/unsubscribe", &json!({"threadId": thread(1)}));
    net.lose();
    let got = net.got(a);
    assert_eq!(methods(&got), ["<error>", "<error>", "notifications/broker/shuttingDown"]);
    assert_eq!((&got[0]["id"], &got[1]["id"]), (&json!("resume"), &json!("unsubscribe")));
    assert_eq!(said(&got[1]), (-32010, "no", true));
}

#[test]
fn a_sub_agents_turn_ends_for_all_its_subscribers() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    net.feed(&status(&thread(5), "active"));
    net.feed(&turn_started(&thread(5), "u"));
    let later = net.join();
    net.hush(&[a, b]);
    net.lose();
    let end = [&FAILURE[..], &["notifications/broker/shuttingDown"]].concat();
    assert_eq!(net.got_methods(a), end);
    assert_eq!(net.got_methods(b), end);
    assert_eq!(net.got_methods(later), [FAILURE[0], "notifications/broker/shuttingDown"]);
}

#[test]
fn no_timer_is_left_running_for_ever() {
    let mut net = Net::new();
    let a = net.join();
    net.request(a, 1, "thread/start", &json!({}));
    net.feed(&delta(&thread(3), 1));
    net.lose();
    for _ in 0..3 {
        if let Some(at) = net.router.poll_timeout() {
            net.now = at;
            net.router.handle_timeout(at);
        }
    }
    assert_eq!(net.router.poll_timeout(), None);
}

#[test]
fn a_turn_known_only_to_its_requester_ends_for_the_requester_only() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.resume_thread(b, &t);
    for id in ["first", "again"] {
        net.request(a, id, "turn/start", &json!({"threadId": t}));
        let up = net.sent();
        let turn = json!({"id": "u", "items": [], "status": "inProgress"});
        net.feed(&json!({"id": up[0]["id"], "result": {"turn": turn}}).to_string());
    }
    net.hush(&[a, b]);
    net.lose();
    assert_eq!(net.got_methods(a), [&FAILURE[..], &["notifications/broker/shuttingDown"]].concat());
    assert_eq!(net.got_methods(b), [FAILURE[0], "notifications/broker/shuttingDown"]);
}

#[test]
fn a_sub_agent_of_another_turn_does_not_make_a_complete_turn_fail() {
    for (root, status) in [("u", "failed"), ("v", "completed")] {
        let mut net = Net::new();
        let a = net.join();
        let t = net.start_thread(a, 1);
        net.feed(&turn_with_root(&t, "u", "u"));
        net.feed(&turn_with_root(&thread(2), "child", root));
        net.feed(&item(&t, "item/completed", "agentMessage", "final_answer"));
        net.hush(&[a]);
        net.lose();
        let got = net.got(a);
        let end = got.iter().rfind(|l| l["params"]["threadId"] == *t).unwrap();
        assert_eq!(end["params"]["turn"]["status"], status, "the sub-agent works for {root}");
    }
}

fn turn_with_root(t: &str, turn: &str, root: &str) -> String {
    note(
        "turn/started",
        &json!({"threadId": t, "turn": {"id": turn, "rootTurnId": root, "status": "inProgress"}}),
    )
}

#[test]
fn an_answer_before_an_error_or_within_a_collaboration_is_not_the_last_word() {
    const FINAL: (&str, &str, &str) = ("item/completed", "agentMessage", "final_answer");
    let begins = ("item/started", "collabAgentToolCall", "");
    assert_eq!(status_after(&[begins, FINAL], false).0, "failed");
    let ends = ("item/completed", "collabAgentToolCall", "");
    assert_eq!(status_after(&[begins, ends, FINAL], false).0, "completed");
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.open_turn(&t, "u");
    net.feed(&item(&t, "item/completed", "agentMessage", "final_answer"));
    let error = json!({"message": "Incomplete response returned"});
    net.feed(&note("error", &json!({"threadId": t, "turnId": "u", "error": error, "willRetry": false})));
    net.hush(&[a]);
    net.lose();
    let got = net.got(a);
    let end = got.iter().rfind(|l| l["params"]["threadId"] == *t).unwrap();
    assert_eq!(end["params"]["turn"]["status"], "failed");
}
