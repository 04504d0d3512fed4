//! Threads of a lost daemon at the next one.

use serde_json::{Value, json};

use crate::desk::{Desk, methods};

fn resume(id: u64, thread: &str) -> Value {
    json!({"id": format!("codexd-connect-{id}"), "method": "thread/resume",
           "params": {"threadId": thread, "excludeTurns": true}})
}

fn resumed(id: u64, thread: &str) -> Value {
    json!({"id": format!("codexd-connect-{id}"), "result": {"thread": {"id": thread, "status": {"type": "idle"}}}})
}

fn turn_start(id: u64, thread: &str, message: Option<&str>) -> Value {
    json!({"id": id, "method": "turn/start",
           "params": {"threadId": thread, "input": [], "clientUserMessageId": message}})
}

/// A client that had a thread with a daemon that is lost.
fn moved() -> Desk {
    let mut desk = Desk::initialized();
    desk.thread(1, "t");
    desk.lost();
    assert_eq!(desk.next_daemon(), [Value::Null; 0], "nothing is resumed before anybody needs it");
    desk
}

#[test]
fn a_thread_is_resumed_once_and_what_needs_it_waits() {
    let mut desk = moved();
    desk.client(&turn_start(2, "t", None));
    desk.client(&json!({"id": 3, "method": "thread/name/set", "params": {"threadId": "t", "name": "n"}}));
    // What reads, and what is about another thread, does not wait.
    desk.client(&json!({"id": 4, "method": "thread/read", "params": {"threadId": "t"}}));
    desk.client(&turn_start(5, "other", None));
    let sent = desk.daemon_takes_all();
    assert_eq!(sent[0], resume(1, "t"));
    assert_eq!((&sent[1]["id"], &sent[2]["id"], sent.len()), (&json!(4), &json!(5), 3));
    assert_eq!(desk.daemon(&resumed(1, "t")), [Value::Null; 0]);
    let sent = desk.daemon_takes_all();
    assert_eq!(sent.iter().map(|it| it["id"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 3]);
    desk.client(&turn_start(6, "t", None));
    assert_eq!(desk.daemon_takes_all().len(), 1);
}

#[test]
fn a_listener_is_subscribed_again_when_the_status_of_its_thread_moves() {
    let mut desk = moved();
    assert_eq!(desk.status("t", "notLoaded").len(), 1);
    assert_eq!(desk.daemon_takes_all(), [Value::Null; 0]);
    assert_eq!(desk.status("t", "idle").len(), 1);
    assert_eq!(desk.daemon_takes_all(), [resume(1, "t")]);
    assert_eq!(desk.status("t", "active").len(), 1);
    assert_eq!(desk.daemon_takes_all(), [Value::Null; 0]);
}

#[test]
fn what_codex_repeats_after_the_resume_is_not_for_the_client() {
    let mut desk = moved();
    desk.client(&turn_start(2, "t", None));
    desk.daemon_takes_all();
    desk.daemon(&resumed(1, "t"));
    let usage = json!({"method": "thread/tokenUsage/updated", "params": {"threadId": "t", "turnId": "old"}});
    let goal = json!({"method": "thread/goal/cleared", "params": {"threadId": "t"}});
    assert_eq!(desk.daemon(&usage), [Value::Null; 0]);
    assert_eq!(desk.daemon(&goal), [Value::Null; 0]);
    assert_eq!((desk.daemon(&usage).len(), desk.daemon(&goal).len()), (1, 1));
}

#[test]
fn what_codexd_repeats_of_open_items_after_the_resume_is_for_the_client() {
    let mut desk = moved();
    desk.status("t", "active");
    assert_eq!(desk.daemon_takes_all(), [resume(1, "t")]);
    let thread = json!({"id": "t", "status": {"type": "active"}, "turns": []});
    desk.daemon(&json!({"id": "codexd-connect-1", "result": {"thread": thread}}));
    let mark = json!({"synthetic": true, "reason": "resumed", "generation": 2});
    let item = json!({"type": "agentMessage", "id": "m", "text": ""});
    let started = json!({"method": "item/started",
                         "params": {"item": item, "threadId": "t", "turnId": "u", "codexd": mark}});
    let delta = json!({"method": "item/agentMessage/delta",
                       "params": {"threadId": "t", "turnId": "u", "itemId": "m", "delta": "so far", "codexd": mark}});
    for line in [started, delta] {
        assert_eq!(desk.daemon(&line), std::slice::from_ref(&line));
    }
    let goal = json!({"method": "thread/goal/cleared", "params": {"threadId": "t"}});
    assert_eq!(desk.daemon(&goal), [Value::Null; 0]);
}

#[test]
fn a_thread_that_is_gone_is_asked_for_once_and_then_codex_answers() {
    let mut desk = moved();
    desk.client(&turn_start(2, "t", None));
    desk.daemon_takes_all();
    let error = json!({"code": -32600, "message": "no rollout found"});
    assert_eq!(desk.daemon(&json!({"id": "codexd-connect-1", "error": error})), [Value::Null; 0]);
    assert_eq!(desk.daemon_takes_all()[0]["id"], 2);
    desk.client(&turn_start(3, "t", None));
    assert_eq!(desk.daemon_takes_all()[0]["id"], 3);
}

#[test]
fn a_client_that_resumes_by_itself_is_served_as_ever() {
    let mut desk = moved();
    let result = json!({"thread": {"id": "t", "status": {"type": "idle"}, "turns": []}});
    assert_eq!(desk.ask(2, "thread/resume", &json!({"threadId": "t"}), &result).len(), 1);
    desk.client(&turn_start(3, "t", None));
    assert_eq!(desk.daemon_takes_all()[0]["id"], 3);
    // And one that was not answered is repeated.
    desk.client(&json!({"id": 4, "method": "thread/resume", "params": {"threadId": "t"}}));
    desk.daemon_takes_all();
    assert!(desk.lost().iter().all(|it| it["id"] != 4));
    assert!(desk.next_daemon().iter().any(|it| it["id"] == 4));
}

#[test]
fn a_resume_that_is_lost_is_sent_again() {
    let mut desk = moved();
    desk.client(&turn_start(2, "t", None));
    desk.daemon_takes_all();
    // The daemon said that it ends, or nothing.
    let own = json!({"reason": "upstreamLost", "delivered": "maybe", "retryable": false});
    let error = json!({"code": -32010, "message": "m", "data": {"codexd": own}});
    desk.daemon(&json!({"id": "codexd-connect-1", "error": error}));
    assert_eq!(desk.lost(), [Value::Null; 0]);
    assert_eq!(desk.next_daemon(), [resume(2, "t")]);
    assert_eq!(desk.daemon(&resumed(2, "t")), [Value::Null; 0]);
    assert_eq!(desk.daemon_takes_all()[0]["id"], 2);
}

/// A client that has sent a `turn/start` with this id of its message to a daemon that was lost.
fn undecided(message: &str) -> Desk {
    let mut desk = Desk::initialized();
    desk.thread(1, "t");
    desk.client(&turn_start(2, "t", Some(message)));
    desk.daemon_takes_all();
    assert_eq!(desk.lost(), [Value::Null; 0]);
    // What comes after it waits for it.
    desk.client(&turn_start(3, "t", Some("next")));
    assert_eq!(desk.next_daemon(), [resume(1, "t")]);
    desk.daemon(&resumed(1, "t"));
    let sent = desk.daemon_takes_all();
    assert_eq!((sent.len(), &sent[0]["method"]), (1, &json!("thread/turns/list")));
    desk
}

fn turns(turn: &Value) -> Value {
    json!({"id": "codexd-connect-2", "result": {"data": [turn]}})
}

fn of_message(message: &str, status: &str) -> Value {
    json!({"id": "u", "status": status, "error": null,
           "items": [{"type": "userMessage", "id": "x", "clientId": message, "content": []}]})
}

#[test]
fn a_turn_that_was_started_is_the_answer_and_its_end_follows() {
    let mut desk = undecided("mine");
    let seen = desk.daemon(&turns(&of_message("mine", "interrupted")));
    assert_eq!((&seen[0]["id"], &seen[0]["result"]["turn"]["id"]), (&json!(2), &json!("u")));
    assert_eq!(methods(&seen), ["error", "turn/completed"]);
    assert_eq!(seen[2]["params"]["turn"]["status"], "failed");
    assert_eq!(desk.daemon_takes_all()[0]["id"], 3);
    let mut desk = undecided("mine");
    let seen = desk.daemon(&turns(&of_message("mine", "completed")));
    assert_eq!(methods(&seen), ["turn/completed"]);
    assert_eq!(seen[1]["params"]["turn"]["status"], "completed");
}

#[test]
fn a_turn_that_was_not_started_is_started_once() {
    let mut desk = undecided("mine");
    assert_eq!(desk.daemon(&turns(&of_message("another's", "completed"))), [Value::Null; 0]);
    let sent = desk.daemon_takes_all();
    assert_eq!(sent.iter().map(|it| it["id"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn a_turn_that_cannot_be_looked_for_is_answered_with_the_truth() {
    let mut desk = undecided("mine");
    let error = json!({"code": -32600, "message": "no such method"});
    let seen = desk.daemon(&json!({"id": "codexd-connect-2", "error": error}));
    assert_eq!((&seen[0]["id"], &seen[0]["error"]["code"]), (&json!(2), &json!(-32010)));
    assert_eq!(seen[0]["error"]["data"]["codexd"]["delivered"], "maybe");
    assert_eq!(desk.daemon_takes_all()[0]["id"], 3);
}

#[test]
fn a_turn_that_has_begun_before_its_answer_came_is_the_answer() {
    let mut desk = Desk::initialized();
    desk.thread(1, "t");
    desk.client(&turn_start(2, "t", None));
    desk.daemon_takes_all();
    let turn = json!({"id": "u", "items": [], "status": "inProgress", "error": null});
    desk.status("t", "active");
    desk.daemon(&json!({"method": "turn/started", "params": {"threadId": "t", "turn": turn}}));
    let seen = desk.lost();
    assert_eq!(seen[0], json!({"id": 2, "result": {"turn": turn}}));
    assert_eq!(methods(&seen), ["thread/status/changed", "error", "turn/completed"]);
    // But not one that ran before: then it may or may not have been joined.
    let mut desk = Desk::initialized();
    desk.thread(1, "t");
    desk.turn(2, "t", "u");
    desk.client(&turn_start(3, "t", None));
    desk.daemon_takes_all();
    assert_eq!(desk.lost()[0]["error"]["code"], -32010);
}
