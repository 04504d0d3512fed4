//! What a client gets when its daemon is lost.

use serde_json::{Value, json};

use crate::desk::{Desk, methods};

fn delivered(answer: &Value) -> (&str, &str, bool) {
    assert_eq!(answer["error"]["code"], -32010, "{answer}");
    let data = &answer["error"]["data"]["codexd"];
    let text = |name: &str| data[name].as_str().unwrap();
    (text("reason"), text("delivered"), data["retryable"].as_bool().unwrap())
}

#[test]
fn what_may_have_been_carried_out_is_answered_and_what_reads_is_sent_again() {
    let mut desk = Desk::initialized();
    desk.thread(1, "t");
    desk.client(&json!({"id": 2, "method": "turn/start", "params": {"threadId": "t", "input": []}}));
    desk.client(&json!({"id": 3, "method": "thread/list", "params": {}}));
    desk.daemon_takes_all();
    desk.client(&json!({"id": 4, "method": "command/exec", "params": {"command": ["x"]}}));
    desk.client(&json!({"id": 5, "method": "model/list", "params": {}}));
    let seen = desk.lost();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0]["id"], 2);
    assert_eq!(delivered(&seen[0]), ("daemonLost", "maybe", false));
    assert_eq!(seen[0]["error"]["data"]["codexd"]["generation"], 7);
    let next = desk.next_daemon();
    assert_eq!(next.iter().map(|it| it["id"].as_u64().unwrap()).collect::<Vec<_>>(), [3, 4, 5]);
    assert_eq!(desk.state.unanswered(), 3);
}

#[test]
fn what_is_sent_to_a_daemon_that_ends_at_once_waits_for_the_next_one() {
    for deadline in [json!(0), json!(30_000), Value::Null] {
        let mut desk = Desk::initialized();
        let notice = json!({"reason": "x", "deadlineMs": deadline, "intended": false});
        desk.daemon(&json!({"method": "notifications/broker/shuttingDown", "params": notice}));
        desk.client(&json!({"id": 1, "method": "turn/start", "params": {"threadId": "t", "input": []}}));
        let waits = deadline == 0;
        assert_eq!(desk.daemon_takes_all().is_empty(), waits);
        let seen = desk.lost();
        assert_eq!(seen.is_empty(), waits, "{seen:?}");
        assert_eq!(desk.next_daemon().len(), usize::from(waits));
    }
}

#[test]
fn a_line_of_which_only_a_part_was_written_was_not_carried_out() {
    let line = json!({"id": 1, "method": "command/exec", "params": {"command": ["x"]}}).to_string() + "\n";
    for (written, repeated) in [(1, true), (line.len() - 2, true), (line.len() - 1, false)] {
        let mut desk = Desk::initialized();
        desk.state.client_line(line.clone().into_bytes());
        assert_eq!(desk.state.to_daemon().unwrap().len(), line.len() + r#""cwd":"/here","#.len());
        let more = r#""cwd":"/here","#.len();
        desk.state.daemon_took(if written == 1 { 1 } else { written + more });
        let seen = desk.lost();
        assert_eq!(seen.is_empty(), repeated, "{written}: {seen:?}");
        assert_eq!(desk.next_daemon().len(), usize::from(repeated));
    }
}

#[test]
fn turns_end_as_codex_ends_one_that_fails_and_server_requests_are_resolved_before() {
    let mut desk = Desk::initialized();
    desk.thread(1, "t");
    desk.turn(2, "t", "u");
    let approval = json!({"id": 3, "method": "item/commandExecution/requestApproval",
                          "params": {"threadId": "t", "itemId": "x"}});
    assert_eq!(desk.daemon(&approval), [approval]);
    let seen = desk.lost();
    assert_eq!(
        methods(&seen),
        ["serverRequest/resolved", "thread/status/changed", "error", "turn/completed"]
    );
    assert_eq!(seen[0]["params"], json!({"threadId": "t", "requestId": 3, "codexd": {"synthetic": true}}));
    assert_eq!(seen[1]["params"]["status"]["type"], "systemError");
    assert_eq!(seen[2]["params"]["willRetry"], false);
    let turn = &seen[3]["params"]["turn"];
    assert_eq!((&turn["id"], &turn["status"]), (&json!("u"), &json!("failed")));
    assert_eq!(turn["error"]["message"], "the connection to codexd was lost");
    let mark = json!({"synthetic": true, "inferred": false, "reason": "daemonLost", "generation": 7});
    assert!(seen[1..].iter().all(|it| it["params"]["codexd"] == mark), "{seen:?}");
    // That was all.
    assert_eq!(desk.lost(), [Value::Null; 0]);
}

#[test]
fn what_the_daemon_has_said_itself_is_not_said_again() {
    let mut desk = Desk::initialized();
    desk.thread(1, "t");
    desk.turn(2, "t", "u");
    desk.client(&json!({"id": 3, "method": "turn/steer", "params": {"threadId": "t"}}));
    desk.daemon_takes_all();
    let own = json!({"reason": "upstreamLost", "delivered": "maybe", "retryable": false, "generation": 7});
    let error = json!({"code": -32010, "message": "killed", "data": {"codexd": own}});
    assert_eq!(desk.daemon(&json!({"id": 3, "error": error})).len(), 1);
    desk.status("t", "systemError");
    let turn = json!({"threadId": "t", "turn": {"id": "u", "status": "failed"}});
    desk.daemon(&json!({"method": "turn/completed", "params": turn}));
    let notice = json!({"reason": "killed", "deadlineMs": 0, "intended": false});
    desk.daemon(&json!({"method": "notifications/broker/shuttingDown", "params": notice}));
    assert_eq!(desk.lost(), [Value::Null; 0]);
    assert!(desk.state.wants_daemon(), "it was subscribed");
}

#[test]
fn what_the_ending_daemon_did_not_carry_out_is_sent_to_the_next_one_in_order() {
    let mut desk = Desk::initialized();
    desk.thread(1, "t");
    for id in [2, 3, 4] {
        let method = if id == 3 { "thread/list" } else { "turn/start" };
        desk.client(&json!({"id": id, "method": method, "params": {"threadId": "t", "input": []}}));
    }
    desk.daemon_takes_all();
    let own =
        |delivered, reason| json!({"reason": reason, "delivered": delivered, "retryable": delivered == "no"});
    let error = |code, own: Value| json!({"code": code, "message": "m", "data": {"codexd": own}});
    // While it drains, when codex was lost, and of what only reads it does not matter.
    assert!(desk.daemon(&json!({"id": 4, "error": error(-32001, own("no", "draining"))})).is_empty());
    assert!(desk.daemon(&json!({"id": 2, "error": error(-32010, own("no", "upstreamLost"))})).is_empty());
    assert!(desk.daemon(&json!({"id": 3, "error": error(-32010, own("maybe", "upstreamLost"))})).is_empty());
    assert!(desk.lost().is_empty());
    let next = desk.next_daemon();
    let ids: Vec<&Value> = next.iter().map(|it| &it["id"]).collect();
    assert_eq!(ids, [&json!("codexd-connect-1"), &json!(3)], "the turns wait for their thread");
    // Another refusal is the client's: there is no reason why it should not be.
    desk.client(&json!({"id": 5, "method": "model/list"}));
    desk.daemon_takes_all();
    assert_eq!(desk.daemon(&json!({"id": 5, "error": error(-32001, own("no", "overloaded"))})).len(), 1);
}

/// The daemon's refusal of new work before an upgrade.
fn upgrading(id: i64) -> Value {
    let own = json!({"reason": "upgrading", "delivered": "no", "retryable": true});
    json!({"id": id, "error": {"code": -32001, "message": "m", "data": {"codexd": own}}})
}

#[test]
fn new_work_waits_while_an_upgrade_does_and_goes_on_with_the_next_daemon() {
    let mut desk = Desk::initialized();
    desk.client(&json!({"id": 1, "method": "thread/start", "params": {"cwd": "/x"}}));
    desk.daemon_takes_all();
    assert!(desk.daemon(&upgrading(1)).is_empty());
    // What only reads passes meanwhile.
    desk.client(&json!({"id": 2, "method": "thread/list"}));
    assert_eq!(desk.daemon_takes_all().len(), 1);
    assert_eq!(desk.daemon(&json!({"id": 2, "result": {"data": []}})).len(), 1);
    let reason = json!({"reason": "ctl upgrade", "intended": false});
    desk.daemon(&json!({"method": "notifications/broker/shuttingDown", "params": reason}));
    assert!(desk.lost().is_empty());
    assert!(desk.state.wants_daemon());
    assert_eq!(desk.next_daemon().last().unwrap()["method"], "thread/start");
}

#[test]
fn new_work_that_waited_is_sent_again_in_its_order_when_the_upgrade_is_called_off() {
    let mut desk = Desk::initialized();
    for id in [1, 2] {
        desk.client(&json!({"id": id, "method": "thread/start", "params": {"cwd": "/x"}}));
        desk.daemon_takes_all();
        assert!(desk.daemon(&upgrading(id)).is_empty());
    }
    assert!(desk.daemon_takes_all().is_empty());
    // What the client has sent since comes after it.
    desk.client(&json!({"id": 3, "method": "thread/start", "params": {"cwd": "/x"}}));
    let called_off = json!({"method": "notifications/broker/upgradeCalledOff", "params": {"generation": 7}});
    assert_eq!(desk.daemon(&called_off).len(), 1, "the client gets it, too");
    let ids: Vec<Value> = desk.daemon_takes_all().iter().map(|it| it["id"].clone()).collect();
    assert_eq!(ids, [json!(1), json!(2), json!(3)]);
    assert_eq!(desk.daemon(&json!({"id": 1, "result": {"thread": {"id": "t"}}})).len(), 1);
    assert!(desk.daemon(&called_off).len() == 1 && desk.daemon_takes_all().is_empty(), "each of them once");
}

#[test]
fn new_work_that_waited_is_never_sent_within_another_line() {
    let mut desk = Desk::initialized();
    desk.client(&json!({"id": 1, "method": "thread/start", "params": {"cwd": "/x"}}));
    desk.daemon_takes_all();
    assert!(desk.daemon(&upgrading(1)).is_empty());
    desk.state.client_start(br#"{"id":2,"method":"thread/list","params":{"x":""#.to_vec());
    let called_off = json!({"method": "notifications/broker/upgradeCalledOff", "params": {"generation": 7}});
    desk.daemon(&called_off);
    desk.state.client_more(b"\"}}\n".to_vec());
    let ids: Vec<Value> = desk.daemon_takes_all().iter().map(|it| it["id"].clone()).collect();
    assert_eq!(ids, [json!(1), json!(2)], "whole lines");
    // Also when its beginning is written already.
    desk.client(&json!({"id": 3, "method": "thread/start", "params": {"cwd": "/x"}}));
    desk.daemon_takes_all();
    assert!(desk.daemon(&upgrading(3)).is_empty());
    desk.state.client_start(br#"{"id":4,"method":"thread/list","params":{"x":""#.to_vec());
    let begun = desk.state.to_daemon().unwrap().to_vec();
    desk.state.daemon_took(begun.len());
    desk.state.client_more(b"\"}}\n".to_vec());
    desk.daemon(&called_off);
    let mut text = begun;
    while let Some(bytes) = desk.state.to_daemon() {
        let length = bytes.len();
        text.extend_from_slice(bytes);
        desk.state.daemon_took(length);
    }
    let lines: Vec<Value> = text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    let ids: Vec<&Value> = lines.iter().map(|it| &it["id"]).collect();
    assert_eq!(ids, [&json!(4), &json!(3)]);
}

#[test]
fn new_work_that_is_too_long_to_wait_is_refused_so_that_its_client_is_read() {
    let mut desk = Desk::initialized();
    let long = "x".repeat(600 << 10);
    desk.client(
        &json!({"id": 1, "method": "thread/start", "params": {"cwd": "/x", "baseInstructions": long}}),
    );
    desk.daemon_takes_all();
    assert_eq!(desk.daemon(&upgrading(1))[0]["error"]["data"]["codexd"]["reason"], "upgrading");
    assert!(desk.state.reads_client(0));
    // One that ends keeps it for the next: nothing of it goes on.
    desk.client(
        &json!({"id": 2, "method": "thread/start", "params": {"cwd": "/x", "baseInstructions": long}}),
    );
    desk.daemon_takes_all();
    let own = json!({"reason": "draining", "delivered": "no", "retryable": true});
    let draining = json!({"id": 2, "error": {"code": -32001, "message": "m", "data": {"codexd": own}}});
    assert!(desk.daemon(&draining).is_empty());
}

#[test]
fn a_turn_whose_answer_was_seen_has_completed() {
    let mut desk = Desk::initialized();
    desk.thread(1, "t");
    desk.turn(2, "t", "u");
    let item = json!({"type": "agentMessage", "id": "m", "phase": "final_answer", "text": "42"});
    desk.daemon(
        &json!({"method": "item/completed", "params": {"threadId": "t", "turnId": "u", "item": item}}),
    );
    let seen = desk.lost();
    assert_eq!(methods(&seen), ["thread/status/changed", "turn/completed"]);
    assert_eq!(seen[1]["params"]["turn"]["status"], "completed");
    assert_eq!(seen[1]["params"]["turn"]["items"][0]["text"], "42");
}

#[test]
fn opt_outs_apply_to_what_is_made_up() {
    let capabilities = json!({"optOutNotificationMethods": ["turn/completed", "thread/status/changed"]});
    let mut desk = Desk::with_capabilities(&capabilities);
    desk.thread(1, "t");
    desk.turn(2, "t", "u");
    assert_eq!(desk.lost(), [Value::Null; 0]);
}

#[test]
fn processes_end_and_watches_go_on() {
    let mut desk = Desk::initialized();
    let spawn = json!({"processHandle": "p", "command": ["x"], "cwd": "/"});
    desk.ask(1, "process/spawn", &spawn, &json!({}));
    desk.ask(2, "process/spawn", &json!({"processHandle": "q", "command": ["x"], "cwd": "/"}), &json!({}));
    desk.daemon(&json!({"method": "process/exited", "params": {"processHandle": "q", "exitCode": 0}}));
    desk.ask(3, "fs/watch", &json!({"watchId": "w", "path": "/a"}), &json!({"path": "/a"}));
    desk.ask(4, "fs/watch", &json!({"watchId": "x", "path": "/b"}), &json!({"path": "/b"}));
    desk.ask(5, "fs/unwatch", &json!({"watchId": "x"}), &json!({}));
    let seen = desk.lost();
    assert_eq!(methods(&seen), ["process/exited"]);
    assert_eq!(
        (&seen[0]["params"]["processHandle"], &seen[0]["params"]["exitCode"]),
        (&json!("p"), &json!(-1))
    );
    assert!(desk.state.wants_daemon());
    let next = desk.next_daemon();
    let id = next[0]["id"].clone();
    assert_eq!(next, [json!({"id": id, "method": "fs/watch", "params": {"watchId": "w", "path": "/a"}})]);
    let seen = desk.daemon(&json!({"id": id, "result": {"path": "/a"}}));
    assert_eq!(methods(&seen), ["fs/changed"]);
    assert_eq!(seen[0]["params"]["changedPaths"], json!(["/a"]));
}

#[test]
fn after_an_intended_stop_a_subscriber_waits_for_its_client() {
    let mut desk = Desk::initialized();
    desk.thread(1, "t");
    let notice = json!({"reason": "codexd is stopping (SIGTERM)", "deadlineMs": 30_000, "intended": true});
    desk.daemon(&json!({"method": "notifications/broker/shuttingDown", "params": notice}));
    desk.lost();
    assert!(!desk.state.wants_daemon());
    assert!(desk.state.joins_daemon(), "it hears what goes on with the daemon of somebody else");
    desk.client(&json!({"id": 2, "method": "thread/read", "params": {"threadId": "t"}}));
    assert!(desk.state.wants_daemon());
    desk.next_daemon();
    assert!(!desk.state.joins_daemon());
}

#[test]
fn an_answer_to_a_server_request_of_a_lost_codex_reaches_no_other_one() {
    let mut desk = Desk::initialized();
    desk.thread(1, "t");
    let ask = |id: i64| json!({"id": id, "method": "item/commandExecution/requestApproval", "params": {"threadId": "t"}});
    desk.daemon(&ask(0));
    assert_eq!(methods(&desk.lost()), ["serverRequest/resolved"]);
    desk.next_daemon();
    // The next codex counts from 0, too.
    assert_eq!(desk.daemon(&ask(0)), [ask(1)]);
    desk.client(&json!({"id": 0, "result": {"decision": "accept"}}));
    assert_eq!(desk.daemon_takes_all(), [Value::Null; 0]);
    desk.client(&json!({"id": 1, "result": {"decision": "decline"}}));
    assert_eq!(desk.daemon_takes_all(), [json!({"id": 0, "result": {"decision": "decline"}})]);
    let resolved =
        |id: i64| json!({"method": "serverRequest/resolved", "params": {"threadId": "t", "requestId": id}});
    assert_eq!(desk.daemon(&resolved(0)), [resolved(1)]);
    assert_eq!(desk.lost(), [Value::Null; 0]);
}

#[test]
fn ids_are_one_however_they_are_spelled_and_come_back_as_they_were() {
    let mut desk = Desk::initialized();
    for line in [
        r#"{"id":"a","method":"turn\/start","params":{}}"#,
        r#"{"\u0069d":"\u0061","method":"turn/start","params":{}}"#,
        r#"{"id":-0,"method":"turn/start","params":{}}"#,
    ] {
        desk.state.client_line(format!("{line}\n").into_bytes());
    }
    desk.daemon_takes_all();
    assert_eq!(desk.state.unanswered(), 3);
    // codexd repeats the spelling; codex itself does not.
    desk.state.daemon_line(br#"{"id":"\u0061","result":{}}"#);
    desk.state.daemon_line(br#"{"id":0,"result":{}}"#);
    assert_eq!(desk.state.unanswered(), 1);
    desk.state.take_output();
    desk.state.client_line(b"{\"id\":\"\\u0062\\/\",\"method\":\"turn/start\",\"params\":{}}\n".to_vec());
    desk.daemon_takes_all();
    desk.state.lost();
    let text = String::from_utf8(desk.state.take_output()).unwrap();
    let ids: Vec<&str> = text.lines().map(|line| line.split(",\"error\"").next().unwrap()).collect();
    assert_eq!(ids, [r#"{"id":"a""#, r#"{"id":"\u0062\/""#]);
}

#[test]
fn requests_with_one_id_get_an_answer_each() {
    let mut desk = Desk::initialized();
    let line = json!({"id": 1, "method": "turn/start", "params": {}});
    desk.client(&line);
    desk.daemon_takes_all();
    desk.client(&line);
    assert_eq!(desk.state.unanswered(), 2);
    assert_eq!(delivered(&desk.lost()[0]), ("daemonLost", "maybe", false));
    desk.state.give_up("gone");
    assert_eq!(delivered(&desk.output()[0]), ("daemonLost", "no", true));
    assert_eq!(desk.state.unanswered(), 0);
}

#[test]
fn long_lines_are_known_by_their_beginning() {
    let mut desk = Desk::initialized();
    desk.state.client_start(br#"{"id":5,"method":"turn/start","params":{"x":"yyy"#.to_vec());
    desk.state.client_more(b"yyy\"}}\n".to_vec());
    while let Some(bytes) = desk.state.to_daemon() {
        let length = bytes.len();
        desk.state.daemon_took(length);
    }
    desk.state.daemon_start(br#"{"method":"item/completed","id":5,"params":{"x"#);
    assert_eq!(desk.state.unanswered(), 1);
    desk.state.daemon_start(br#"{"id":5,"result":{"x":"yyy"#);
    assert_eq!(desk.state.unanswered(), 0);
    desk.state.take_output();
    // One that was written as a whole may have been carried out, one that was not cannot have been.
    for (rest, word) in [(&b"yyy\"}}\n"[..], "maybe"), (b"yyy", "no")] {
        desk.state
            .client_start(br#"{"\u0069d":"\u0061","m\u0065thod":"turn/start","params":{"x":"yyy"#.to_vec());
        desk.state.client_more(rest.to_vec());
        while let Some(bytes) = desk.state.to_daemon() {
            let length = bytes.len();
            desk.state.daemon_took(length);
        }
        assert_eq!(delivered(&desk.lost()[0]).1, word);
        desk.next_daemon();
    }
    // The rest of it is for nobody.
    desk.state.client_more(b"yyy\"}}\n".to_vec());
    desk.client(&json!({"id": 6, "method": "model/list"}));
    assert_eq!(desk.daemon_takes_all().len(), 1);
    // The daemon gives no answer to such an id.
    desk.state.client_start(br#"{"id":1.5,"method":"turn/start","params":{"x":"yyy"#.to_vec());
    assert_eq!(desk.state.unanswered(), 1);
}

#[test]
fn the_client_is_read_as_far_as_there_is_room() {
    let mut desk = Desk::initialized();
    let line =
        |id: u64, bytes: usize| json!({"id": id, "method": "model/list", "params": {"x": "y".repeat(bytes)}});
    desk.client(&line(1, 600 << 10));
    assert!(!desk.state.reads_client(0));
    desk.daemon_takes_all();
    assert!(desk.state.reads_client(900 << 10));
    desk.lost();
    // What is repeated counts, too.
    assert!(desk.state.reads_client(0) && !desk.state.reads_client(900 << 10));
    desk.client(&line(2, 600 << 10));
    assert!(!desk.state.reads_client(0));
}

#[test]
fn a_request_that_may_have_run_is_not_reported_as_undelivered_when_it_cannot_be_sent_again() {
    let mut desk = Desk::initialized();
    desk.client(&json!({"id": 1, "method": "thread/list", "params": {}}));
    desk.daemon_takes_all();
    desk.client(&json!({"id": 2, "method": "model/list", "params": {}}));
    assert_eq!(desk.lost(), [Value::Null; 0]);
    desk.state.give_up("no daemon can be started");
    let answers = desk.output();
    assert_eq!(answers.len(), 2, "{answers:?}");
    assert_eq!((&answers[0]["id"], delivered(&answers[0]).1), (&json!(1), "maybe"));
    assert_eq!((&answers[1]["id"], delivered(&answers[1]).1), (&json!(2), "no"));
}

#[test]
fn what_the_daemon_says_of_a_request_that_may_have_run_holds_when_it_cannot_be_sent_again() {
    let mut desk = Desk::initialized();
    for id in [1, 2] {
        desk.client(&json!({"id": id, "method": "thread/list", "params": {}}));
    }
    desk.daemon_takes_all();
    for (id, delivered) in [(1, "maybe"), (2, "no")] {
        let own = json!({"reason": "upstreamLost", "delivered": delivered, "retryable": delivered == "no", "generation": 7});
        let error = json!({"id": id, "error": {"code": -32010, "message": "lost", "data": {"codexd": own}}});
        assert_eq!(desk.daemon(&error), [Value::Null; 0]);
    }
    desk.lost();
    desk.state.give_up("no daemon can be started");
    let answers = desk.output();
    let told: Vec<_> =
        answers.iter().map(|answer| (answer["id"].as_u64().unwrap(), delivered(answer).1)).collect();
    assert_eq!(told, [(1, "maybe"), (2, "no")]);
}
