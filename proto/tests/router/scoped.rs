//! Ids that mean something on one connection only.

use codexd_proto::router::Limits;
use serde_json::{Value, json};

use crate::net::{Net, methods, note};

const NONE: [&str; 0] = [];

fn params_of(sent: &[Value]) -> &Value {
    assert_eq!(sent.len(), 1, "{sent:?}");
    &sent[0]["params"]
}

#[test]
fn the_same_process_id_of_two_clients_names_two_processes() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let exec = json!({"command": ["ls"], "processId": "p", "streamStdoutStderr": true});
    net.request(a, 1, "command/exec", &exec);
    net.request(b, 1, "command/exec", &exec);
    let sent = net.sent();
    let (of_a, of_b) = (&sent[0]["params"]["processId"], &sent[1]["params"]["processId"]);
    assert_ne!(of_a, of_b);
    let output = note("command/exec/outputDelta", &json!({"processId": of_a, "delta": "x"}));
    net.feed(&output);
    assert_eq!(net.got_raw(a), [note("command/exec/outputDelta", &json!({"processId": "p", "delta": "x"}))]);
    assert_eq!(net.got_raw(b), NONE);
    // The other requests of the family name the same process.
    for method in ["command/exec/write", "command/exec/resize", "command/exec/terminate"] {
        net.request(a, 2, method, &json!({"processId": "p"}));
        assert_eq!(&params_of(&net.sent())["processId"], of_a, "{method}");
    }
}

#[test]
fn no_way_of_writing_parameters_reaches_past_the_own_resources() {
    let mut net = Net::new();
    let a = net.join();
    let own = |id: &str| format!("{}:{id}", a.0);
    net.request(a, 1, "command/exec/terminate", &json!(["1:p"]));
    assert_eq!(params_of(&net.sent()), &json!([own("1:p")]));
    let spawn = json!([["cat"], "h", "/", false, true, true, null, null, null, null]);
    net.request(a, 1, "process/spawn", &spawn);
    assert_eq!(params_of(&net.sent())[1], own("h"));
    net.send(a, r#"{"id":1,"method":"fs/watch","params": [ "w" , "/" ]}"#);
    assert_eq!(params_of(&net.sent()), &json!([own("w"), "/"]));
    net.send(a, r#"{"id":1,"method":"fs\/unwatch","params":["w"]}"#);
    assert_eq!(params_of(&net.sent()), &json!([own("w")]));
    net.send(a, r#"{"id":1,"method":"command/exec/terminate","params":{"process\u0049d":"1:p"}}"#);
    assert!(params_of(&net.sent())["processId"].as_str().unwrap().ends_with(":1:p"));
}

#[test]
fn a_buffered_command_gets_an_id_so_that_it_can_end_with_its_client() {
    let mut net = Net::new();
    let a = net.join();
    for (given, injected) in [
        (r#"{"command":["ls"]}"#, r#"{"processId":"@","command":["ls"]}"#),
        (r#"{ "command":["ls"],"processId": null}"#, r#"{ "command":["ls"],"processId": "@"}"#),
        (r#"{ }"#, r#"{ "processId":"@"}"#),
    ] {
        net.send(a, &format!(r#"{{"id":1,"method":"command/exec","params":{given}}}"#));
        let line = net.sent_raw().remove(0);
        let value: Value = serde_json::from_str(&line).unwrap();
        let id = value["params"]["processId"].as_str().unwrap();
        assert!(line.ends_with(&format!("\"params\":{}}}", injected.replace('@', id))), "{line}");
        net.reply(value["id"].as_i64().unwrap(), &json!({"exitCode": 0, "stdout": "x"}));
        assert_eq!(net.got_one(a)["result"], json!({"exitCode": 0, "stdout": "x"}));
    }
}

#[test]
fn a_buffered_command_by_position_gets_an_id_where_there_is_room_for_one() {
    let mut net = Net::new();
    let a = net.join();
    let of = |id: Value| json!([["ls"], id, false, false, false]);
    net.request(a, 1, "command/exec", &of(Value::Null));
    assert!(params_of(&net.sent())[1].as_str().unwrap().starts_with(&format!("{}:", a.0)));
    net.request(a, 1, "command/exec", &of(json!("p")));
    assert_eq!(params_of(&net.sent()), &of(json!(format!("{}:p", a.0))));
    // Too few: the upstream rejects them.
    net.request(a, 1, "command/exec", &json!([["ls"]]));
    assert_eq!(params_of(&net.sent()), &json!([["ls"]]));
    let streaming = json!([["ls"], null, true, false, false]);
    net.request(a, 1, "command/exec", &streaming);
    assert_eq!(params_of(&net.sent()), &streaming);
}

#[test]
fn an_empty_process_handle_stays_empty_for_the_upstream_to_refuse() {
    let mut net = Net::new();
    let a = net.join();
    for (method, params) in [
        ("process/spawn", json!({"processHandle": "", "command": ["ls"]})),
        ("process/spawn", json!([["ls"], "", "/"])),
    ] {
        let id = net.forwarded(a, method, &params);
        net.fail(id, "processHandle must not be empty");
        assert_eq!(net.got_one(a)["error"]["message"], "processHandle must not be empty");
    }
    net.request(a, 1, "process/spawn", &json!({"processHandle": ""}));
    assert_eq!(params_of(&net.sent()), &json!({"processHandle": ""}));
    // Other empty ids are ids (measured).
    net.request(a, 1, "process/kill", &json!({"processHandle": ""}));
    assert_eq!(params_of(&net.sent()), &json!({"processHandle": format!("{}:", a.0)}));
    net.request(a, 1, "fs/watch", &json!({"watchId": "", "path": "/"}));
    assert_eq!(params_of(&net.sent())["watchId"], format!("{}:", a.0));
}

#[test]
fn a_streaming_command_without_an_id_is_the_upstreams_to_refuse() {
    let mut net = Net::new();
    let a = net.join();
    net.request(a, 1, "command/exec", &json!({"command": ["ls"], "tty": true}));
    assert_eq!(params_of(&net.sent()), &json!({"command": ["ls"], "tty": true}));
    net.request(a, 1, "command/exec", &json!({"command": ["ls"], "processId": 5}));
    assert_eq!(params_of(&net.sent()), &json!({"command": ["ls"], "processId": 5}));
}

#[test]
fn error_texts_name_the_id_that_the_client_gave() {
    let mut net = Net::new();
    let a = net.join();
    let id = net.forwarded(a, "command/exec/write", &json!({"processId": "p", "deltaBase64": ""}));
    let upstream_name = format!("{}:p", a.0);
    net.fail(id, &format!("no active command/exec for process id \"{upstream_name}\""));
    assert_eq!(net.got_one(a)["error"]["message"], "no active command/exec for process id \"p\"");
    let id = net.forwarded(a, "fs/watch", &json!({"watchId": "w", "path": "/"}));
    net.fail(id, &format!("watchId already exists: {}:w", a.0));
    assert_eq!(net.got_one(a)["error"]["message"], "watchId already exists: w");
    // As JSON, as `Debug` writes it, and as it is.
    let odd = "\0\u{2028}\"";
    for quoted in
        [r#""7:\u0000\u2028\"""#.to_owned(), format!("{:?}", format!("7:{odd}")), format!("7:{odd}")]
    {
        let quoted = quoted.replacen("7:", &format!("{}:", a.0), 1);
        let id = net.forwarded(a, "process/kill", &json!({"processHandle": odd}));
        net.fail(id, &format!("no active process for process handle {quoted}"));
        let expected = quoted.replacen(&format!("{}:", a.0), "", 1);
        let expected = format!("no active process for process handle {expected}");
        assert_eq!(net.got_one(a)["error"]["message"], expected);
    }
}

#[test]
fn results_that_repeat_the_id_repeat_the_clients() {
    let mut net = Net::new();
    let a = net.join();
    let id = net.forwarded(a, "process/spawn", &json!({"processHandle": "h", "command": ["ls"]}));
    net.reply(id, &json!({"processHandle": format!("{}:h", a.0)}));
    assert_eq!(net.got_one(a)["result"], json!({"processHandle": "h"}));
}

#[test]
fn a_running_command_ends_with_its_client() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    for params in [json!({"command": ["sleep"], "processId": "p"}), json!({"command": ["sleep"]})] {
        net.request(a, 1, "command/exec", &params);
    }
    let ids: Vec<Value> = net.sent().iter().map(|l| l["params"]["processId"].clone()).collect();
    net.leave(a);
    let sent = net.sent();
    assert_eq!(methods(&sent), ["command/exec/terminate", "command/exec/terminate"]);
    assert_eq!([&sent[0]["params"]["processId"], &sent[1]["params"]["processId"]], [&ids[0], &ids[1]]);
    assert_eq!(net.got_raw(b), NONE);
}

#[test]
fn a_command_that_has_ended_is_not_ended_again() {
    let mut net = Net::new();
    let a = net.join();
    let id = net.forwarded(a, "command/exec", &json!({"command": ["ls"], "processId": "p"}));
    net.reply(id, &json!({"exitCode": 0}));
    net.leave(a);
    assert_eq!(net.sent_raw(), NONE);
}

#[test]
fn processes_watches_and_streams_end_with_their_client() {
    let mut net = Net::new();
    let a = net.join();
    for (method, params) in [
        ("process/spawn", json!({"processHandle": "h"})),
        ("fs/watch", json!({"watchId": "w"})),
        ("mcpServer/event/stream/start", json!({"subscriptionId": "s", "threadId": "t"})),
    ] {
        let id = net.forwarded(a, method, &params);
        net.reply(id, &json!({}));
    }
    net.leave(a);
    let sent = net.sent();
    assert_eq!(methods(&sent), ["process/kill", "fs/unwatch", "mcpServer/event/stream/stop"]);
    assert_eq!(sent[0]["params"], json!({"processHandle": format!("{}:h", a.0)}));
    assert_eq!(sent[1]["params"], json!({"watchId": format!("{}:w", a.0)}));
    assert_eq!(sent[2]["params"], json!({"subscriptionId": format!("{}:s", a.0)}));
}

#[test]
fn what_the_client_closed_or_never_opened_is_not_ended() {
    let mut net = Net::new();
    let a = net.join();
    let id = net.forwarded(a, "fs/watch", &json!({"watchId": "w"}));
    net.reply(id, &json!({}));
    let id = net.forwarded(a, "fs/unwatch", &json!({"watchId": "w"}));
    net.reply(id, &json!({}));
    let id = net.forwarded(a, "fs/watch", &json!({"watchId": "refused"}));
    net.fail(id, "no such path");
    net.leave(a);
    assert_eq!(net.sent_raw(), NONE);
}

#[test]
fn a_process_ends_when_it_says_so_not_when_it_is_killed() {
    let mut net = Net::new();
    let a = net.join();
    let id = net.forwarded(a, "process/spawn", &json!({"processHandle": "h"}));
    net.reply(id, &json!({}));
    let id = net.forwarded(a, "process/kill", &json!({"processHandle": "h"}));
    net.reply(id, &json!({}));
    net.got(a);
    net.feed(&note("process/exited", &json!({"processHandle": format!("{}:h", a.0), "exitCode": 1})));
    assert_eq!(net.got_one(a)["params"], json!({"processHandle": "h", "exitCode": 1}));
    net.leave(a);
    assert_eq!(net.sent_raw(), NONE);
}

#[test]
fn what_opens_after_its_client_has_gone_is_ended() {
    let mut net = Net::new();
    let a = net.join();
    let spawn = net.forwarded(a, "process/spawn", &json!({"processHandle": "h"}));
    let refused = net.forwarded(a, "fs/watch", &json!({"watchId": "w"}));
    net.leave(a);
    assert_eq!(net.sent_raw(), NONE);
    net.fail(refused, "no such path");
    net.reply(spawn, &json!({}));
    assert_eq!(methods(&net.sent()), ["process/kill"]);
}

#[test]
fn messages_about_ids_of_nobody_are_dropped() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    net.leave(a);
    for id in [format!("{}:p", a.0), "p".to_owned(), "999:p".to_owned()] {
        net.feed(&note("command/exec/outputDelta", &json!({"processId": id})));
    }
    net.feed(&note("fs/changed", &json!({})));
    assert_eq!(net.got_raw(b), NONE);
}

// ---- ids of requests -----------------------------------------------------------------------------------

#[test]
fn a_cancel_names_the_request_as_the_upstream_knows_it() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    net.request(a, "mine", "thread/sample", &json!({"threadId": "t"}));
    let sample = net.sent()[0]["id"].clone();
    net.request(a, 2, "thread/sample/cancel", &json!({"requestId": "mine"}));
    assert_eq!(params_of(&net.sent())["requestId"], sample);
    // Another client's request, or none: an id that no request has.
    for (client, id) in [(b, json!("mine")), (a, json!("none")), (a, json!(0))] {
        net.request(client, 3, "thread/sample/cancel", &json!({"requestId": id}));
        let sent = net.sent();
        assert_eq!(params_of(&sent)["requestId"], -1);
    }
    net.request(a, 4, "thread/sample/cancel", &json!({"requestId": null}));
    assert_eq!(params_of(&net.sent()), &json!({"requestId": null}), "the upstream says what is wrong");
}

#[test]
fn what_a_client_has_open_is_bounded_by_number_and_by_the_bytes_of_its_ids() {
    let limits = Limits { resources_per_client: 2, resource_id_bytes_per_client: 10, ..Limits::default() };
    let mut net = Net::limited(limits);
    let (a, b) = (net.join(), net.join());
    let watch = |id: &str| json!({"watchId": id, "path": "/"});
    let refused = |net: &mut Net, client, id: &str| {
        net.request(client, 1, "fs/watch", &watch(id));
        assert_eq!(net.sent_raw(), NONE, "{id}");
        let error = &net.got_one(client)["error"];
        assert_eq!(
            (&error["code"], &error["data"]["codexd"]["reason"]),
            (&json!(-32001), &json!("tooManyOpen"))
        );
        assert_eq!(error["data"]["codexd"]["retryable"], true);
    };
    let opens = |net: &mut Net, client, id: &str| {
        let up = net.forwarded(client, "fs/watch", &watch(id));
        net.reply(up, &json!({"path": "/"}));
        assert!(net.got_one(client).get("result").is_some(), "{id}");
    };
    refused(&mut net, a, "eleven byte");
    opens(&mut net, a, "1");
    refused(&mut net, a, "ten bytes.");
    opens(&mut net, a, "2");
    refused(&mut net, a, "3");
    opens(&mut net, b, "3");
    // What is closed counts no more, and closing is never refused.
    let up = net.forwarded(a, "fs/unwatch", &json!({"watchId": "1"}));
    net.reply(up, &json!({}));
    net.got(a);
    opens(&mut net, a, "3");
}
