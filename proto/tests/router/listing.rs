//! Clients, threads, turns and requests, as an operator sees them.

use codexd_proto::listing::TurnStatus;
use serde_json::json;

use crate::net::{Net, approval, delta, note, status, turn_completed, turn_started};

fn item_started(thread: &str, kind: &str) -> String {
    let item = json!({"type": kind, "id": "i"});
    note("item/started", &json!({"threadId": thread, "turnId": "u", "item": item}))
}

fn only_turn(net: &Net) -> TurnStatus {
    let turns = net.router.turn_statuses(net.now);
    assert_eq!(turns.len(), 1, "{turns:?}");
    turns[0].clone()
}

#[test]
fn a_turn_is_shown_with_its_age_its_last_event_its_phase_and_its_client() {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    let id = net.forwarded(a, "turn/start", &json!({"threadId": t, "input": "a prompt"}));
    // Codex may notify of the turn before it answers who has started it.
    net.feed(&turn_started(&t, "u"));
    assert_eq!(only_turn(&net).by, None);
    net.reply(id, &json!({"turn": {"id": "u", "status": "inProgress"}}));
    let turn = only_turn(&net);
    assert_eq!((turn.id.as_deref(), &*turn.thread_id, &*turn.state), (Some("u"), &*t, "running"));
    assert_eq!(turn.phase, "starting");
    assert_eq!(turn.by.map(|by| (by.id, by.name)), Some((u64::from(a.0), Some("c".to_owned()))));
    net.pass(300);
    net.feed(&delta(&t, 1));
    net.pass(200);
    let turn = only_turn(&net);
    assert_eq!((turn.age_ms, turn.last_event_ms), (Some(500), Some(200)));
    for (kind, phase) in [
        ("userMessage", "starting"),
        ("reasoning", "reasoning"),
        ("commandExecution", "command"),
        ("fileChange", "fileChange"),
        ("mcpToolCall", "tool"),
        ("collabAgentToolCall", "subAgent"),
        ("somethingNew", "other"),
        ("agentMessage", "message"),
    ] {
        net.feed(&item_started(&t, kind));
        assert_eq!(only_turn(&net).phase, phase, "{kind}");
    }
    net.feed(&turn_completed(&t, "u"));
    assert_eq!(net.router.turn_statuses(net.now), []);
    net.feed(&turn_started(&t, "v"));
    assert_eq!(only_turn(&net).phase, "starting", "the next turn begins anew");
}

#[test]
fn a_turn_that_waits_for_an_approval_says_so_and_whether_somebody_can_give_it() {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.feed(&turn_started(&t, "u"));
    net.feed(&approval(5, &t));
    net.pass(40);
    let turn = only_turn(&net);
    assert_eq!((&*turn.state, &*turn.phase), ("waitingForApproval", "approval"));
    let requests = net.router.request_statuses(net.now);
    assert_eq!(requests.len(), 1);
    let request = &requests[0];
    assert_eq!((&*request.id, &*request.from, &*request.state), ("s5", "codex", "pending"));
    assert_eq!(request.method.as_deref(), Some("item/commandExecution/requestApproval"));
    assert_eq!((request.thread_id.as_deref(), request.age_ms), (Some(&*t), 40));
    assert_eq!(request.seen_by.iter().map(|c| c.id).collect::<Vec<_>>(), [u64::from(a.0)]);
    assert_eq!(net.router.thread_statuses(net.now)[0].pending_approvals, 1);
    net.leave(a);
    assert_eq!(only_turn(&net).state, "unassigned");
    let request = &net.router.request_statuses(net.now)[0];
    assert_eq!((&*request.state, request.seen_by.len()), ("unassigned", 0));
}

#[test]
fn a_thread_is_shown_with_what_the_last_response_said_of_it() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let id = net.forwarded(a, "thread/start", &json!({}));
    let thread = json!({"id": "t", "status": {"type": "idle"}, "cwd": "/not/this", "model": "nor this"});
    net.reply(id, &json!({"thread": thread, "cwd": "/home/someone/a \"project\"", "model": "m-1"}));
    let threads = net.router.thread_statuses(net.now);
    assert_eq!(threads.len(), 1);
    assert_eq!(threads[0].cwd.as_deref(), Some("/home/someone/a \"project\""));
    assert_eq!((threads[0].model.as_deref(), &*threads[0].state), (Some("m-1"), "idle"));
    let id = net.forwarded(b, "thread/resume", &json!({"threadId": "t"}));
    net.reply(id, &json!({"thread": {"id": "t", "status": {"type": "idle"}}, "model": "m-2"}));
    let thread = &net.router.thread_statuses(net.now)[0];
    assert_eq!((thread.model.as_deref(), thread.cwd.is_some()), (Some("m-2"), true));
    assert_eq!(thread.subscribers.len(), 2);
}

#[test]
fn threads_on_which_something_runs_come_first() {
    let mut net = Net::new();
    let a = net.join();
    let threads: Vec<String> = (1..=3).map(|n| net.start_thread(a, n)).collect();
    net.feed(&turn_started(&threads[1], "u"));
    let shown: Vec<_> = net.router.thread_statuses(net.now).into_iter().map(|t| (t.id, t.state)).collect();
    assert_eq!(shown[0], (threads[1].clone(), "active".to_owned()));
    assert_eq!(shown.len(), 3);
    net.feed(&status(&threads[2], "notLoaded"));
    assert_eq!(net.router.thread_statuses(net.now).len(), 2, "an unloaded one is not in use");
}

#[test]
fn the_oldest_turns_and_requests_come_first() {
    let mut net = Net::new();
    let a = net.join();
    let (s, t) = (net.start_thread(a, 1), net.start_thread(a, 2));
    net.feed(&turn_started(&t, "old"));
    net.forwarded(a, "model/list", &json!({}));
    net.pass(10);
    net.feed(&turn_started(&s, "new"));
    net.forwarded(a, "turn/start", &json!({"threadId": s, "input": []}));
    net.pass(10);
    // Something runs of which only that is known.
    net.hush(&[a]);
    let only_active = net.start_thread(a, 3);
    net.feed(&status(&only_active, "active"));
    let ids: Vec<_> = net.router.turn_statuses(net.now).into_iter().map(|turn| turn.id).collect();
    assert_eq!(ids, [Some("old".to_owned()), Some("new".to_owned()), None]);
    let requests = net.router.request_statuses(net.now);
    let shown: Vec<_> =
        requests.iter().map(|r| (r.method.as_deref(), r.thread_id.as_deref(), r.age_ms)).collect();
    assert_eq!(shown, [(Some("model/list"), None, 20), (Some("turn/start"), Some(&*s), 10)]);
    assert!(requests.iter().all(|r| r.from == "client" && r.state == "inFlight" && r.id.starts_with('r')));
}

#[test]
fn what_a_client_sends_and_takes_is_counted() {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.got(a);
    let before = net.router.client_statuses(net.now)[0].clone();
    net.pass(100);
    let line = r#"{"id":9,"method":"model/list","params":{}}"#;
    net.send(a, line);
    net.pass(50);
    let now = net.router.client_statuses(net.now)[0].clone();
    assert_eq!(now.received_messages, before.received_messages + 1);
    assert_eq!(now.received_bytes, before.received_bytes + line.len() as u64);
    assert_eq!((now.idle_ms, now.in_flight, now.open_turns), (50, 1, 0));
    net.feed(&turn_started(&t, "u"));
    let now = net.router.client_statuses(net.now)[0].clone();
    assert_eq!((now.sent_messages, now.sent_bytes), (before.sent_messages + 1, before.sent_bytes));
    let waiting = now.queued_bytes;
    net.got(a);
    let now = net.router.client_statuses(net.now)[0].clone();
    assert_eq!((now.sent_bytes, now.queued_bytes), (before.sent_bytes + waiting, 0));
    assert_eq!(now.open_turns, 1);
}
