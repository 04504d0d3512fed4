//! What goes on by itself at the next daemon: goals and queues; and what a thread was opened with.

use serde_json::{Value, json};

use crate::desk::{Desk, methods};

fn experimental() -> Desk {
    Desk::with_capabilities(&json!({"experimentalApi": true}))
}

fn goal(desk: &mut Desk, thread: &str, status: Option<&str>) -> usize {
    let (method, params) = match status {
        Some(status) => {
            ("thread/goal/updated", json!({"threadId": thread, "goal": {"objective": "o", "status": status}}))
        }
        None => ("thread/goal/cleared", json!({"threadId": thread})),
    };
    desk.daemon(&json!({"method": method, "params": params})).len()
}

fn turn_completed(desk: &mut Desk, thread: &str, turn: &str, status: &str) {
    let turn = json!({"id": turn, "items": [], "status": status, "error": null});
    desk.status(thread, "idle");
    desk.daemon(&json!({"method": "turn/completed", "params": {"threadId": thread, "turn": turn}}));
}

/// The daemon answers the resume among these requests; returns what it gets then.
fn resumed(desk: &mut Desk, sent: &[Value], status: &str) -> Vec<Value> {
    assert_eq!(methods(sent), ["thread/resume"], "{sent:?}");
    let thread = json!({"id": sent[0]["params"]["threadId"], "status": {"type": status}});
    desk.daemon(&json!({"id": sent[0]["id"], "result": {"thread": thread}}));
    desk.daemon_takes_all()
}

fn announce(desk: &mut Desk, intended: bool) {
    let params = json!({"reason": "stop", "intended": intended});
    desk.daemon(&json!({"method": "notifications/broker/shuttingDown", "params": params}));
}

#[test]
fn a_thread_with_an_active_goal_is_resumed_at_once() {
    let mut desk = Desk::initialized();
    for (id, thread) in [(1, "active"), (2, "paused"), (3, "cleared"), (4, "none")] {
        desk.thread(id, thread);
    }
    goal(&mut desk, "active", Some("active"));
    goal(&mut desk, "paused", Some("active"));
    goal(&mut desk, "paused", Some("paused"));
    goal(&mut desk, "cleared", Some("active"));
    goal(&mut desk, "cleared", None);
    desk.lost();
    assert!(desk.state.wants_daemon());
    let sent = desk.next_daemon();
    assert_eq!(sent[0]["params"], json!({"threadId": "active", "excludeTurns": true}));
    assert_eq!(resumed(&mut desk, &sent, "idle"), [] as [Value; 0], "nothing was cut off");
    assert_eq!(goal(&mut desk, "active", Some("active")), 0, "its client knows it");
}

#[test]
fn a_goal_whose_turn_was_followed_by_a_loss_waits_until_somebody_asks_for_it() {
    let mut desk = Desk::initialized();
    desk.thread(1, "t");
    goal(&mut desk, "t", Some("active"));
    desk.lost();
    let sent = desk.next_daemon();
    resumed(&mut desk, &sent, "idle");
    desk.lost();
    assert_eq!(desk.next_daemon(), [] as [Value; 0], "that was perhaps what the daemon died of");
    desk.client(&json!({"id": 2, "method": "thread/goal/get", "params": {"threadId": "t"}}));
    let sent = desk.daemon_takes_all();
    let sent: Vec<Value> = sent.into_iter().filter(|it| it["method"] == "thread/resume").collect();
    resumed(&mut desk, &sent, "idle");
    // A turn that has ended was not it.
    turn_completed(&mut desk, "t", "u", "completed");
    desk.lost();
    assert_eq!(methods(&desk.next_daemon()), ["thread/resume"]);
}

#[test]
fn the_queue_of_a_turn_that_was_cut_off_goes_on() {
    let mut desk = experimental();
    desk.thread(1, "t");
    desk.turn(2, "t", "u");
    desk.lost();
    let sent = desk.next_daemon();
    let sent = resumed(&mut desk, &sent, "idle");
    assert_eq!(methods(&sent), ["thread/queue/start"]);
    assert_eq!(sent[0]["params"], json!({"threadId": "t"}));
    let refused = json!({"id": sent[0]["id"], "error": {"code": -32600, "message": "queue is empty"}});
    assert_eq!(desk.daemon(&refused), [] as [Value; 0], "its client knows nothing of that");
    // Once.
    desk.lost();
    assert_eq!(desk.next_daemon(), [] as [Value; 0]);
}

#[test]
fn a_turn_that_the_daemon_fails_because_it_has_lost_codex_is_cut_off() {
    let mut desk = experimental();
    desk.thread(1, "t");
    goal(&mut desk, "t", Some("active"));
    for resumes in [1, 0] {
        // Of its goal, so that the client has not asked for it.
        let turn = json!({"id": "u", "items": [], "status": "inProgress", "error": null});
        desk.status("t", "active");
        desk.daemon(&json!({"method": "turn/started", "params": {"threadId": "t", "turn": turn}}));
        desk.status("t", "systemError");
        let turn = json!({"id": "u", "items": [], "status": "failed", "error": {"message": "killed"}});
        let params = json!({"threadId": "t", "turn": turn, "codexd": {"synthetic": true}});
        desk.daemon(&json!({"method": "turn/completed", "params": params}));
        desk.lost();
        let sent = desk.next_daemon();
        assert_eq!(methods(&sent), vec!["thread/resume"; resumes], "no turn has ended by itself since");
        if resumes == 1 {
            assert_eq!(methods(&resumed(&mut desk, &sent, "idle")), ["thread/queue/start"]);
        }
    }
}

#[test]
fn no_queue_is_started_where_something_runs_or_the_client_cannot_have_one() {
    let mut desk = experimental();
    desk.thread(1, "t");
    desk.turn(2, "t", "u");
    desk.lost();
    let sent = desk.next_daemon();
    assert_eq!(resumed(&mut desk, &sent, "active"), [] as [Value; 0], "codex has started it");

    let mut desk = Desk::initialized();
    desk.thread(1, "t");
    desk.turn(2, "t", "u");
    desk.lost();
    let sent = desk.next_daemon();
    assert_eq!(resumed(&mut desk, &sent, "idle"), [] as [Value; 0]);
}

#[test]
fn a_turn_that_a_stopping_daemon_interrupts_is_cut_off_and_one_that_the_client_interrupts_is_not() {
    for by_client in [false, true] {
        for told in [false, true] {
            let mut desk = experimental();
            desk.thread(1, "t");
            desk.turn(2, "t", "u");
            if told {
                announce(&mut desk, true);
            }
            if by_client {
                desk.ask(3, "turn/interrupt", &json!({"threadId": "t", "turnId": "u"}), &json!({}));
            }
            turn_completed(&mut desk, "t", "u", "interrupted");
            desk.lost();
            let sent = desk.next_daemon();
            let cut_off = told && !by_client;
            assert_eq!(methods(&sent), vec!["thread/resume"; usize::from(cut_off)], "{by_client} {told}");
            if cut_off {
                assert_eq!(methods(&resumed(&mut desk, &sent, "idle")), ["thread/queue/start"]);
            }
        }
    }
    // Also if the daemon is lost before the turn has ended.
    let mut desk = experimental();
    desk.thread(1, "t");
    desk.turn(2, "t", "u");
    desk.client(&json!({"id": 3, "method": "turn/interrupt", "params": {"threadId": "t", "turnId": "u"}}));
    desk.daemon_takes_all();
    desk.lost();
    assert_eq!(desk.next_daemon(), [] as [Value; 0]);
}

#[test]
fn the_queue_goes_on_also_where_the_client_resumes_the_thread_itself() {
    let mut desk = experimental();
    desk.thread(1, "t");
    desk.turn(2, "t", "u");
    desk.lost();
    desk.client(&json!({"id": 3, "method": "thread/resume", "params": {"threadId": "t"}}));
    let sent = desk.next_daemon();
    let own: Vec<&Value> = sent.iter().filter(|it| it["id"] == 3).collect();
    assert_eq!(own.len(), 1, "{sent:?}");
    let thread = json!({"thread": {"id": "t", "status": {"type": "idle"}, "turns": []}});
    desk.daemon(&json!({"id": 3, "result": thread}));
    assert_eq!(methods(&desk.daemon_takes_all()), ["thread/queue/start"]);
}

/// A thread that was opened with a `config`.
fn configured(config: &Value) -> Desk {
    let mut desk = Desk::initialized();
    let thread = json!({"thread": {"id": "t", "status": {"type": "idle"}, "turns": []}});
    desk.ask(1, "thread/start", &json!({"config": config}), &thread);
    desk
}

/// The parameters of the bridge's resume at the next daemon.
fn next_resume(desk: &mut Desk) -> Value {
    desk.lost();
    let mut sent = desk.next_daemon();
    if sent.is_empty() {
        desk.client(&json!({"id": 9, "method": "thread/name/set", "params": {"threadId": "t", "name": "n"}}));
        sent = desk.daemon_takes_all();
    }
    assert_eq!(methods(&sent), ["thread/resume"]);
    sent[0]["params"].clone()
}

#[test]
fn a_resume_gives_the_config_again_with_which_the_thread_was_opened() {
    let config = json!({"mcp_servers": {"x": {"command": "c"}}, "web_search": "live", "model": "m"});
    let mut desk = configured(&config);
    assert_eq!(next_resume(&mut desk)["config"], config, "it has not run");

    let mut desk = configured(&config);
    desk.turn(2, "t", "u");
    turn_completed(&mut desk, "t", "u", "completed");
    let kept = json!({"mcp_servers": {"x": {"command": "c"}}, "web_search": "live"});
    assert_eq!(next_resume(&mut desk)["config"], kept, "codex keeps the model, which may have changed");
    // And at the daemon after the next one.
    assert_eq!(next_resume(&mut desk)["config"], kept);
}

#[test]
fn permissions_in_the_config_are_left_to_the_daemon() {
    let mut desk = configured(&json!({"sandbox_mode": "danger-full-access", "permissions.x": 1}));
    assert_eq!(next_resume(&mut desk), json!({"threadId": "t", "excludeTurns": true}));
}

#[test]
fn a_resume_of_the_client_gets_the_config_unless_it_says_its_own() {
    let config = json!({"web_search": "live"});
    for (given, expected) in [
        (json!({"threadId": "t"}), &config),
        (json!({"threadId": "t", "config": null}), &config),
        (json!({"threadId": "t", "config": {}}), &json!({})),
        (json!({"threadId": "t", "config": {"x": 1}}), &json!({"x": 1})),
        (json!({"threadId": "t", "path": "/p"}), &Value::Null),
        (json!({"threadId": "other"}), &Value::Null),
    ] {
        let mut desk = configured(&config);
        // While its daemon lives, codex has the thread as it is.
        desk.client(&json!({"id": 2, "method": "thread/resume", "params": given}));
        assert_eq!(desk.daemon_takes_all()[0]["params"], given);
        // It is repeated at the next one, where it loads the thread.
        desk.lost();
        let sent = desk.next_daemon();
        assert_eq!(&sent[0]["params"]["config"], expected, "{given}");
        // What the client says itself counts from then on.
        let thread = json!({"thread": {"id": "t", "status": {"type": "idle"}, "turns": []}});
        desk.daemon(&json!({"id": 2, "result": thread}));
        if given["config"]["x"] == 1 {
            assert_eq!(next_resume(&mut desk)["config"], json!({"x": 1}));
        }
    }
}

#[test]
fn a_fork_has_its_own_config() {
    let mut desk = configured(&json!({"web_search": "live"}));
    let fork = json!({"thread": {"id": "f", "status": {"type": "idle"}, "turns": []}});
    desk.ask(2, "thread/fork", &json!({"threadId": "t", "config": {"y": 2}}), &fork);
    desk.lost();
    desk.next_daemon();
    desk.client(&json!({"id": 3, "method": "thread/name/set", "params": {"threadId": "f", "name": "n"}}));
    assert_eq!(desk.daemon_takes_all()[0]["params"]["config"], json!({"y": 2}));
}
