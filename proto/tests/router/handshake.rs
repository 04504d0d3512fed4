//! One handshake with the upstream, one with each client.

use codexd_proto::router::{Action, CloseReason, Limits};
use serde_json::{Value, json};

use crate::net::{Net, ORIGINATOR, methods, note, thread};

fn params_of(name: &str) -> Value {
    json!({"clientInfo": {"name": name, "title": null, "version": "1.2.3"}})
}

#[test]
fn codexd_introduces_itself_with_everything_that_clients_may_see() {
    let mut net = Net::starting(Limits::default());
    let sent = net.sent();
    assert_eq!(sent[0]["method"], "initialize");
    assert_eq!(sent[0]["params"]["clientInfo"]["name"], ORIGINATOR);
    assert_eq!(sent[0]["params"]["capabilities"], json!({"experimentalApi": true}));
}

#[test]
fn initialize_is_answered_from_the_kept_handshake() {
    let mut net = Net::new();
    let client = net.connect();
    net.request(client, 5, "initialize", &params_of("my client"));
    let answer = net.got_one(client);
    assert_eq!(answer["id"], 5);
    assert_eq!(
        answer["result"]["userAgent"],
        format!("{ORIGINATOR}/0.169.0 (Linux; x86_64) xterm (my client; 1.2.3)")
    );
    assert_eq!(answer["result"]["codexHome"], "/home/someone/.codex");
    assert_eq!(
        answer["result"]["codexd"],
        json!({"version": "0.9.1", "instance": "default", "generation": 7})
    );
    assert_eq!(net.sent_raw(), [] as [&str; 0], "the upstream is initialized once");
}

#[test]
fn kept_notifications_follow_the_answer_in_order_and_honour_opt_outs() {
    let mut net = Net::new();
    net.feed(&note("configWarning", &json!({"summary": "one"})));
    net.feed(&note("configWarning", &json!({"summary": "two"})));
    net.feed(&note("remoteControl/status/changed", &json!({"status": "old"})));
    net.feed(&note("remoteControl/status/changed", &json!({"status": "new"})));

    let client = net.connect();
    net.request(client, 1, "initialize", &params_of("c"));
    let got = net.got(client);
    assert_eq!(methods(&got), ["<result>", "configWarning", "configWarning", "remoteControl/status/changed"]);
    assert_eq!(got[1]["params"]["summary"], "one");
    assert_eq!(got[2]["params"]["summary"], "two");
    assert_eq!(got[3]["params"]["status"], "new", "only the last one counts");

    let opted_out = net.connect();
    let capabilities = json!({"optOutNotificationMethods": ["configWarning", "no/such"]});
    net.request(
        opted_out,
        1,
        "initialize",
        &json!({"clientInfo": {"name": "c", "version": "1"}, "capabilities": capabilities}),
    );
    assert_eq!(net.got_methods(opted_out), ["<result>", "remoteControl/status/changed"]);
}

/// A router whose upstream has reported all that it does at its start.
fn started() -> Net {
    let mut net = Net::new();
    net.feed(&note("remoteControl/status/changed", &json!({"status": "disabled"})));
    net
}

#[test]
fn a_later_warning_is_for_the_requester_of_the_next_response_right_before_it() {
    for (method, params) in [
        ("thread/start", json!({})),
        ("thread/resume", json!({"threadId": thread(1)})),
        ("thread/fork", json!({"threadId": thread(1)})),
    ] {
        for fails in [false, true] {
            let mut net = started();
            let (a, b) = (net.join(), net.join());
            let id = net.forwarded(b, method, &params);
            let list = net.forwarded(a, "thread/list", &json!({}));
            for summary in ["one", "two"] {
                net.feed(&note("configWarning", &json!({"summary": summary})));
            }
            net.reply(list, &json!({}));
            assert_eq!(net.got_methods(a), ["<result>"]);
            if fails {
                net.fail(id, "no")
            } else {
                net.reply(id, &Net::thread_result(&thread(2), "idle"))
            }
            let got = net.got(b);
            let last = if fails { "<error>" } else { "<result>" };
            assert_eq!(methods(&got), ["configWarning", "configWarning", last], "{method}");
            assert_eq!([&got[0]["params"]["summary"], &got[1]["params"]["summary"]], ["one", "two"]);
            assert_eq!(net.got_raw(a), [] as [&str; 0]);
            let late = net.connect();
            net.request(late, 1, "initialize", &params_of("c"));
            assert_eq!(net.got_methods(late), ["<result>", "remoteControl/status/changed"], "it is not kept");
        }
    }
}

#[test]
fn a_later_warning_honours_opt_outs_and_is_for_nobody_when_its_requester_has_left() {
    let mut net = started();
    let a = net.join();
    let opted_out = net.join_with(&json!({"optOutNotificationMethods": ["configWarning"]}));
    let gone = net.join();
    for client in [opted_out, gone] {
        let id = net.forwarded(client, "thread/start", &json!({}));
        net.feed(&note("configWarning", &json!({"summary": "late"})));
        if client == gone {
            net.leave(gone);
        }
        net.reply(id, &Net::thread_result(&thread(1), "idle"));
        net.sent_raw();
    }
    assert_eq!(net.got_methods(opted_out), ["<result>"]);
    assert_eq!(net.got_raw(a), [] as [&str; 0]);
    assert_eq!(net.router.accounting().warnings, 0);
}

#[test]
fn a_later_warning_without_a_cause_reaches_those_who_are_there_once() {
    let mut net = started();
    let client = net.join();
    net.feed(&note("configWarning", &json!({"summary": "late"})));
    assert_eq!(net.got_methods(client), ["configWarning"]);
    let late = net.connect();
    net.request(late, 1, "initialize", &params_of("c"));
    assert_eq!(net.got_methods(late), ["<result>", "remoteControl/status/changed"]);
}

#[test]
fn a_warning_of_the_start_is_kept_though_a_thread_is_being_started() {
    let mut net = Net::starting(Limits::default());
    let early = net.connect();
    net.request(early, 1, "initialize", &params_of("c"));
    net.request(early, 2, "thread/start", &json!({}));
    let greeting = json!({"userAgent": "codex/1"});
    net.sent_raw();
    net.reply(0, &greeting);
    let sent = net.sent();
    assert_eq!(methods(&sent), ["initialized", "thread/start"]);
    net.feed(&note("configWarning", &json!({"summary": "of the start"})));
    assert_eq!(net.got_methods(early), ["<result>", "configWarning"]);
    net.reply(sent[1]["id"].as_i64().unwrap(), &Net::thread_result(&thread(1), "idle"));
    assert_eq!(net.got_methods(early), ["<result>"]);
    let late = net.connect();
    net.request(late, 1, "initialize", &params_of("c"));
    assert_eq!(net.got_methods(late), ["<result>", "configWarning"]);
    // The upstream has answered a request: what comes now is not of the start.
    net.feed(&note("configWarning", &json!({"summary": "late"})));
    let later = net.connect();
    net.request(later, 1, "initialize", &params_of("c"));
    assert_eq!(net.got_methods(later), ["<result>", "configWarning"]);
}

#[test]
fn initialize_takes_its_parameters_by_position_too() {
    let mut net = Net::new();
    let client = net.connect();
    net.request(client, 1, "initialize", &json!([["c", null], null]));
    let refused = "Invalid request: invalid length 2, expected struct ClientInfo with 3 elements";
    assert_eq!(net.got_one(client)["error"]["message"], refused);
    net.request(client, 1, "initialize", &json!([{"name": "c", "version": "1"}, [true]]));
    let refused = "Invalid request: invalid length 5, expected struct InitializeCapabilities with 7 elements";
    assert_eq!(net.got_one(client)["error"]["message"], refused);
    let capabilities = json!([false, false, true, false, false, ["turn/started"], null]);
    net.request(client, 1, "initialize", &json!([["c", null, "1"], capabilities]));
    assert!(net.got_one(client)["result"].is_object());
    let id = net.forwarded(client, "server/diagnostics", &json!({}));
    net.reply(id, &json!({}));
    assert_eq!(net.got_methods(client), ["<result>"]);
}

#[test]
fn second_initialize_is_refused() {
    let mut net = Net::new();
    let client = net.join();
    net.request(client, 2, "initialize", &params_of("again"));
    let answer = net.got_one(client);
    assert_eq!((answer["id"].as_i64(), answer["error"]["code"].as_i64()), (Some(2), Some(-32600)));
    assert_eq!(answer["error"]["message"], "Already initialized");
}

#[test]
fn nothing_is_possible_before_initialize() {
    let mut net = Net::new();
    let client = net.connect();
    net.request(client, 1, "thread/list", &json!({}));
    assert_eq!(net.got_one(client)["error"]["message"], "Not initialized");
    net.send(client, r#"{"method":"initialized"}"#);
    net.send(client, r#"{"method":"some/notification","params":{}}"#);
    net.send(client, r#"{"id":0,"result":{}}"#);
    net.feed(&note("skills/changed", &json!({})));
    assert_eq!(net.got_raw(client), [] as [&str; 0], "no broadcasts either");
    assert_eq!(net.sent_raw(), [] as [&str; 0]);
}

#[test]
fn a_refused_initialize_can_be_tried_again() {
    let mut net = Net::new();
    let client = net.connect();
    for (bad, message) in [
        (json!(null), "Invalid request: missing field `params`"),
        (json!({}), "Invalid request: missing field `clientInfo`"),
        (json!({"clientInfo": {"name": "x"}}), "Invalid request: missing field `version`"),
        (
            json!({"clientInfo": {"name": "\u{7f}", "version": "1"}}),
            "Invalid clientInfo.name: '\u{7f}'. Must be a valid HTTP header value.",
        ),
    ] {
        net.request(client, 1, "initialize", &bad);
        assert_eq!(net.got_one(client)["error"]["message"], message);
    }
    net.send(client, r#"{"id":2,"method":"initialize"}"#);
    assert_eq!(net.got_one(client)["error"]["message"], "Invalid request: missing field `params`");
    net.request(client, 3, "initialize", &params_of("x"));
    assert_eq!(net.got_one(client)["id"], 3);
}

#[test]
fn methods_fields_values_and_notifications_are_gated_per_client() {
    let mut net = Net::new();
    let plain = net.join_with(&json!({}));
    let full = net.join();
    for (method, params, what) in [
        ("server/diagnostics", json!({}), "server/diagnostics"),
        ("thread/start", json!({"dynamicTools": []}), "thread/start.dynamicTools"),
        ("turn/start", json!({"approvalPolicy": {"granular": {}}}), "askForApproval.granular"),
    ] {
        net.request(plain, 1, method, &params);
        let answer = net.got_one(plain);
        assert_eq!(answer["error"]["code"], -32600);
        assert_eq!(answer["error"]["message"], format!("{what} requires experimentalApi capability"));
        net.request(full, 1, method, &params);
        assert_eq!(methods(&net.sent()), [method]);
    }
    net.feed(&note("project/changed", &json!({})));
    assert_eq!(net.got_methods(full), ["project/changed"]);
    assert_eq!(net.got_raw(plain), [] as [&str; 0]);
}

#[test]
fn opt_outs_count_for_notifications_only() {
    let mut net = Net::new();
    let client = net.join_with(&json!({"optOutNotificationMethods": [
        "skills/changed", "newer/notification", "item/tool/call", "item/agentMessage/delta",
    ]}));
    let t = net.start_thread(client, 1);
    net.feed(&note("skills/changed", &json!({})));
    net.feed(&note("newer/notification", &json!({})));
    net.feed(&crate::net::delta(&t, 1));
    net.feed(&note("account/updated", &json!({})));
    net.feed(&crate::net::server_request(3, "item/tool/call", &json!({"threadId": t})));
    assert_eq!(net.got_methods(client), ["account/updated", "item/tool/call"]);
}

#[test]
fn early_lines_wait_for_the_upstream_and_keep_their_order() {
    let mut net = Net::starting(Limits::default());
    let a = net.connect();
    let b = net.connect();
    net.request(b, "b1", "initialize", &params_of("b"));
    net.request(a, "a1", "initialize", &params_of("a"));
    net.request(a, "a2", "thread/list", &json!({}));
    net.send(a, "not json");
    assert_eq!((net.got_raw(a).len(), net.got_raw(b).len()), (0, 0));
    net.sent();
    net.reply(0, &json!({"userAgent": "x"}));
    let sent = net.sent();
    assert_eq!(methods(&sent), ["initialized", "thread/list"]);
    net.reply(sent[1]["id"].as_i64().unwrap(), &json!({"data": []}));
    let got = net.got(a);
    assert_eq!(got[0]["id"], "a1");
    assert_eq!(got[1]["error"]["code"], -32700);
    assert_eq!(got[2]["id"], "a2");
    assert_eq!(net.got_one(b)["id"], "b1");
}

#[test]
fn a_client_that_sends_too_much_too_early_is_closed() {
    let mut net = Net::starting(Limits { early_bytes: 100, ..Limits::default() });
    let client = net.connect();
    net.send(client, &"x".repeat(500));
    assert_eq!(net.actions(), [], "one message of any size is kept");
    net.send(client, "y");
    assert_eq!(net.actions(), [Action::Close { client, reason: CloseReason::TooEarly }]);
}

#[test]
fn the_requests_of_a_client_that_sent_too_much_too_early_are_answered() {
    let mut net = Net::starting(Limits { early_bytes: 100, ..Limits::default() });
    let client = net.connect();
    net.request(client, "first", "initialize", &json!({"x": "x".repeat(500)}));
    net.send(client, r#"{"method":"initialized"}"#);
    assert_eq!(net.actions(), [Action::Close { client, reason: CloseReason::TooEarly }]);
    let other = net.connect();
    net.send(other, &" x".repeat(40));
    net.request(other, 1, "initialize", &json!({"x": "x".repeat(100)}));
    let answers = [net.got_one(client), net.got_one(other)];
    for (answer, id) in answers.iter().zip([json!("first"), json!(1)]) {
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&id, &json!(-32001)));
        let mark = &answer["error"]["data"]["codexd"];
        assert_eq!((&mark["reason"], &mark["delivered"]), (&json!("tooEarly"), &json!("no")));
    }
    let last = String::from_utf8(net.router.last_lines(client, CloseReason::TooEarly)).unwrap();
    assert!(
        last.starts_with(r#"{"method":"notifications/broker/closing","params":{"reason":"tooEarly","#),
        "{last}"
    );
}

#[test]
fn a_refusal_of_the_upstream_is_reported() {
    let mut net = Net::starting(Limits::default());
    net.fail(0, "go away");
    assert_eq!(net.actions(), [Action::UpstreamRefused { message: "go away".into() }]);
}

#[test]
fn a_user_agent_is_made_presentable_as_the_upstream_does_it() {
    let mut net = Net::new();
    for (name, version, suffix) in
        [("x", "", "(x;)"), ("é", " 1 ", "(é;  1)"), ("\tx", "1\n2 é", "(x; 1_2 _)"), ("", "2", "(; 2)")]
    {
        let client = net.connect();
        net.request(client, 1, "initialize", &json!({"clientInfo": {"name": name, "version": version}}));
        let answer = net.got_one(client);
        let agent = answer["result"]["userAgent"].as_str().unwrap();
        assert!(agent.ends_with(&format!(" {suffix}")), "{agent}");
    }
}

#[test]
fn a_user_agent_of_another_form_is_left_as_it_is() {
    let mut net = Net::starting(Limits::default());
    net.sent();
    net.reply(0, &json!({"userAgent": "something else"}));
    let client = net.connect();
    net.request(client, 1, "initialize", &params_of("c"));
    assert_eq!(net.got_one(client)["result"]["userAgent"], "something else");
}

#[test]
fn a_handshake_whose_result_is_no_object_is_refused() {
    for result in ["", "5", "null", "[]", "\"x\"", " "] {
        let mut net = Net::starting(Limits::default());
        let client = net.connect();
        net.request(client, 1, "initialize", &params_of("c"));
        net.feed(&format!(r#"{{"id":0,"result":{result}}}"#));
        let actions = net.actions();
        assert!(
            matches!(actions[..], [Action::UpstreamRefused { .. } | Action::UpstreamMalformed]),
            "{actions:?}"
        );
        assert_eq!(net.got_raw(client), [] as [&str; 0]);
    }
}

#[test]
fn an_initialize_of_extraordinary_length_is_refused_and_not_read_into_a_tree() {
    let mut net = Net::new();
    let a = net.connect();
    let of = |length: usize| {
        let more = " ".repeat(length);
        format!(
            r#"{{"id":1,"method":"initialize","params":{{"clientInfo":{{"name":"n","version":"1"}},{more}"x":0}}}}"#
        )
    };
    net.send(a, &of(1 << 20));
    let error = &net.got_one(a)["error"];
    assert_eq!((&error["code"], &error["data"]["codexd"]["delivered"]), (&json!(-32600), &json!("no")));
    net.send(a, &of((1 << 20) - 1000));
    assert!(net.got_one(a).get("result").is_some());
}
