//! What passes unchanged, what is answered, and what is never forwarded.

use codexd_proto::id::ClientId;
use codexd_proto::json::text_check::TextCheck;
use codexd_proto::message::Reader;
use codexd_proto::router::{Action, Limits};
use serde_json::{Value, json};

use crate::net::{Net, approval, delta, methods, note};

#[test]
fn ids_of_every_legal_kind_are_echoed() {
    let mut net = Net::new();
    let client = net.join();
    for id in ["0", "-7", "9223372036854775807", "-9223372036854775808", "\"\"", "\"a\"", r#""\u0041\"é""#] {
        net.send(client, &format!(r#"{{"id":{id},"method":"thread/list","params":{{}}}}"#));
        let sent = net.sent();
        net.reply(sent[0]["id"].as_i64().unwrap(), &json!({}));
        assert_eq!(net.got_raw(client), [format!(r#"{{"id":{id},"result":{{}}}}"#)]);
    }
}

#[test]
fn the_same_id_twice_is_answered_twice() {
    let mut net = Net::new();
    let client = net.join();
    let one = net.forwarded(client, "thread/list", &json!({}));
    let two = net.forwarded(client, "model/list", &json!({}));
    net.reply(two, &json!("two"));
    net.reply(one, &json!("one"));
    let got = net.got(client);
    assert_eq!(got, [json!({"id": "r", "result": "two"}), json!({"id": "r", "result": "one"})]);
}

#[test]
fn colliding_ids_of_two_clients_find_their_owners() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let of_a = net.forwarded(a, "thread/list", &json!({}));
    let of_b = net.forwarded(b, "thread/list", &json!({}));
    net.reply(of_b, &json!("b"));
    net.reply(of_a, &json!("a"));
    assert_eq!(net.got_one(a)["result"], "a");
    assert_eq!(net.got_one(b)["result"], "b");
    net.reply(of_a, &json!("again"));
    assert_eq!(net.got_raw(a), [] as [&str; 0]);
}

#[test]
fn null_and_fractional_ids_and_batches_get_an_answer_without_id() {
    let mut net = Net::new();
    let client = net.join();
    for line in [
        r#"{"id":null,"method":"thread/list","params":{}}"#,
        r#"{"id":5.0,"method":"thread/list","params":{}}"#,
        r#"{"id":true,"method":"thread/list","params":{}}"#,
        r#"{"id":9223372036854775808,"method":"thread/list","params":{}}"#,
        r#"[{"id":1,"method":"thread/list","params":{}}]"#,
        r#""text""#,
    ] {
        net.send(client, line);
        let answer = net.got_one(client);
        assert_eq!(answer["error"]["code"], -32600, "{line}");
        assert!(answer["id"].is_null(), "{line}");
        assert_eq!(
            answer["error"]["data"]["codexd"],
            json!({"reason": "invalidRequest", "delivered": "no", "retryable": false, "generation": 7})
        );
    }
    assert_eq!(net.sent_raw(), [] as [&str; 0]);
}

#[test]
fn what_is_not_json_gets_a_parse_error() {
    let mut net = Net::new();
    let client = net.join();
    for line in [&b"{"[..], b"{} {}", b"\xef\xbb\xbf{}", b"{\"id\":1,\"method\":\"\\ud800\"}", b"x"] {
        net.send_bytes(client, line);
        let answer = net.got_one(client);
        assert_eq!((&answer["id"], answer["error"]["code"].as_i64()), (&json!(null), Some(-32700)));
    }
    assert_eq!(net.sent_raw(), [] as [&str; 0]);
}

#[test]
fn invalid_utf8_is_never_forwarded() {
    let mut net = Net::new();
    let client = net.join();
    for line in [
        &b"{\"id\":1,\"method\":\"thread/list\",\"params\":{\"x\":\"\xff\"}}"[..],
        b"{\"method\":\"note\",\"params\":\"\xc3\"}",
        b"{\"id\":0,\"result\":\"\xed\xa0\x80\"}",
        b"\xff",
    ] {
        net.send_bytes(client, line);
        assert_eq!(net.got_one(client)["error"]["code"], -32700);
    }
    assert!(net.router.upstream_outbox().is_empty());
}

#[test]
fn blank_lines_are_nothing() {
    let mut net = Net::new();
    let client = net.join();
    net.send(client, "");
    net.send(client, " \t\r");
    net.feed("");
    net.feed("\r");
    assert_eq!((net.got_raw(client).len(), net.sent_raw().len(), net.actions().len()), (0, 0, 0));
}

#[test]
fn a_line_above_the_limit_is_answered_without_an_id() {
    let mut net = Net::new();
    let client = net.join();
    let now = net.now;
    net.router.client_line_too_long(now, client, 99);
    let answer = net.got_one(client);
    assert_eq!(answer["error"]["data"]["codexd"]["reason"], "messageTooLong");
    assert!(answer["id"].is_null());
}

#[test]
fn a_request_goes_up_byte_for_byte_but_for_its_id() {
    let mut net = Net::new();
    let client = net.join();
    for (line, expected) in [
        (
            r#"  { "jsonrpc" : "2.0", "params":{ "a":1.50e2,"a\u0062":"\/ \ud83d\ude00" , "threadId" : "t"},"method":"thread/name/set" ,"id" :"mine", "extra":[ null ] }  "#,
            r#"  { "jsonrpc" : "2.0", "params":{ "a":1.50e2,"a\u0062":"\/ \ud83d\ude00" , "threadId" : "t"},"method":"thread/name/set" ,"id" :@, "extra":[ null ] }  "#,
        ),
        (
            r#"{"id":1,"method":"newer/method","params":[1,2]}"#,
            r#"{"id":@,"method":"newer/method","params":[1,2]}"#,
        ),
        (r#"{"id":1,"method":"newer/method"}"#, r#"{"id":@,"method":"newer/method"}"#),
    ] {
        net.send(client, line);
        let sent = net.sent_raw();
        let id = serde_json::from_str::<Value>(&sent[0]).unwrap()["id"].to_string();
        assert_eq!(sent, [expected.replace('@', &id)]);
    }
}

#[test]
fn a_response_comes_down_byte_for_byte_but_for_its_id() {
    let mut net = Net::new();
    let client = net.join();
    for (line, expected) in [
        (
            r#"{"id":@,"result":{ "b":1.0,"a":"\u00e9\/" }}"#,
            r#"{"id":"r","result":{ "b":1.0,"a":"\u00e9\/" }}"#,
        ),
        (r#"{ "result" : null , "id" : @ , "x":1}"#, r#"{ "result" : null , "id" : "r" , "x":1}"#),
        (
            r#"{"error":{"code":-32603,"message":"m","data":{"k":[]}},"id":@}"#,
            r#"{"error":{"code":-32603,"message":"m","data":{"k":[]}},"id":"r"}"#,
        ),
    ] {
        let id = net.forwarded(client, "thread/list", &json!({}));
        net.feed(&line.replace('@', &id.to_string()));
        assert_eq!(net.got_raw(client), [expected]);
    }
}

#[test]
fn notifications_and_server_requests_are_delivered_byte_for_byte() {
    let mut net = Net::new();
    let client = net.join();
    let t = net.start_thread(client, 1);
    for line in [
        format!(
            r#"{{"method":"item/agentMessage/delta","params":{{ "delta":"\u00e9 \"}}{{","threadId":"{t}" }},"emittedAtMs":1}}"#
        ),
        format!(r#"{{ "params":{{"threadId":"{t}"}}, "method" : "turn/diff/updated","new":{{}} }}"#),
        r#"{"method":"skills/changed"}"#.to_owned(),
        r#"{"method":"skills/changed","params":null,"x": 1}"#.to_owned(),
        format!(r#"{{"method":"item/tool/call","id":4,"params":{{"threadId":"{t}" , "x":"\\"}},"y":2}}"#),
    ] {
        net.feed(&line);
        assert_eq!(net.got_raw(client), [line]);
    }
}

#[test]
fn answers_and_notifications_of_clients_go_up_byte_for_byte() {
    let mut net = Net::new();
    let client = net.join();
    let t = net.start_thread(client, 1);
    net.feed(&approval(4, &t));
    net.got(client);
    let answer = r#" {"result":{ "decision":"accept","x":"\u0041" }, "id":4 , "more":true}"#;
    net.send(client, answer);
    let notification = r#"{"method":"newer/notification" ,"params":[ 1 ]}"#;
    net.send(client, notification);
    net.send(client, r#"{"method":"initialized"}"#);
    assert_eq!(net.sent_raw(), [answer, notification]);
}

#[test]
fn methods_that_are_not_known_follow_the_default_rule() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    let id = net.forwarded(b, "newer/method", &json!({"threadId": t}));
    net.fail(id, "unknown variant");
    assert_eq!(net.got_one(b)["error"]["message"], "unknown variant");
    net.feed(&note("newer/note", &json!({"threadId": t})));
    net.feed(&note("newer/global", &json!({"x": 1})));
    net.feed(&crate::net::server_request(1, "newer/question", &json!({"threadId": t})));
    net.feed(&crate::net::server_request(2, "newer/global/question", &json!({})));
    assert_eq!(net.got_methods(a), ["newer/note", "newer/global", "newer/question", "newer/global/question"]);
    assert_eq!(net.got_methods(b), ["newer/global", "newer/global/question"]);
}

#[test]
fn garbage_from_the_upstream_is_reported_and_reaches_nobody() {
    let mut net = Net::new();
    let client = net.join();
    for line in ["{\"method\":", "panicked at", "[]"] {
        net.feed(line);
        assert_eq!(net.actions(), [Action::UpstreamMalformed]);
        assert_eq!(net.got_raw(client), [] as [&str; 0]);
    }
}

#[test]
fn a_line_of_the_upstream_that_is_not_utf8_is_reported_and_reaches_nobody() {
    let mut net = Net::new();
    let client = net.join();
    net.feed_bytes(b"{\"method\":\"warning\",\"params\":{\"message\":\"\xff\"}}");
    assert_eq!(net.actions(), [Action::UpstreamMalformed]);
    assert_eq!(net.got_raw(client), [] as [&str; 0]);
}

#[test]
fn answers_that_nobody_asked_for_reach_nobody() {
    let mut net = Net::new();
    let client = net.join();
    net.feed(r#"{"id":99,"result":{}}"#);
    net.feed(r#"{"id":"text","result":{}}"#);
    net.feed(r#"{"id":null,"error":{"code":1,"message":"m"}}"#);
    assert_eq!(net.got_raw(client), [] as [&str; 0]);
    assert_eq!(net.actions(), []);
}

#[test]
fn the_answer_to_a_health_check_is_sent_to_no_client() {
    let mut net = Net::new();
    let client = net.join();
    let now = net.now;
    net.router.ping(now);
    let sent = net.sent();
    assert_eq!(sent[0]["method"], "thread/loaded/list");
    net.reply(sent[0]["id"].as_i64().unwrap(), &json!({"data": []}));
    assert_eq!(net.actions(), [Action::PingAnswered]);
    assert_eq!(net.got_raw(client), [] as [&str; 0]);
}

#[test]
fn deltas_keep_their_order_between_other_messages() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.resume_thread(b, &t);
    net.hush(&[a, b]);
    let mut expected = Vec::new();
    for n in 0..20 {
        let line = if n % 5 == 0 { note("account/updated", &json!({"n": n})) } else { delta(&t, n) };
        net.feed(&line);
        expected.push(line);
    }
    assert_eq!(net.got_raw(a), expected);
    assert_eq!(net.got_raw(b), expected);
}

#[test]
fn a_message_over_several_lines_goes_up_as_one() {
    let mut net = Net::new();
    let client = net.join();
    net.send(client, "{\n \"id\": 1,\n \"method\": \"thread/list\",\n \"params\": {\n}\n}\n");
    let sent = net.sent_raw();
    assert_eq!(sent.len(), 1);
    assert!(
        sent[0].starts_with("{  \"id\": ")
            && sent[0].ends_with(",  \"method\": \"thread/list\",  \"params\": { } } ")
    );
    net.send(client, "{\"method\":\"newer/notification\",\n\"params\":1}");
    assert_eq!(net.sent_raw(), ["{\"method\":\"newer/notification\", \"params\":1}"]);
    net.send(client, "{\"id\":2,\"method\":\"thread/list\",\"params\":{\"text\":\"a\nb\"}}");
    assert_eq!(net.got_one(client)["error"]["code"], -32700, "a bare line feed in a string is no JSON");
}

/// Reads a line in slices, and gives it away.
fn give(net: &mut Net, client: ClientId, line: Vec<u8>) {
    let mut reader = Reader::default();
    while !reader.advance(&line, 10) {}
    net.router.client_line_read(net.now, client, line, reader);
}

#[test]
fn a_line_that_was_read_in_slices_is_sent_as_any_other_and_not_copied_if_nothing_waits() {
    let mut net = Net::new();
    let a = net.join();
    net.sent_raw();
    for text in [
        r#"{"id":"x","method":"model/list","params":{"\u0061":[1,2]}}"#,
        r#"{"method":"newer/notification"}"#,
    ] {
        // With room for a longer id and the line feed.
        let mut line = Vec::with_capacity(1000);
        line.extend_from_slice(text.replace(",\"params\"", "\n,\"params\"").as_bytes());
        let place = line.as_ptr();
        give(&mut net, a, line.clone());
        let copied = net.sent_raw();
        net.router.client_line(net.now, a, &line);
        let usual = net.sent_raw();
        give(&mut net, a, line);
        assert_eq!(net.router.upstream_outbox().pending().as_ptr(), place, "{text}");
        let moved = net.sent_raw();
        // But for the id, which is another one each time.
        let rest = |sent: &[String]| -> Value {
            let mut message: Value = serde_json::from_str(&sent[0]).unwrap();
            assert_eq!(sent.len(), 1);
            message.as_object_mut().unwrap().remove("id");
            message
        };
        assert_eq!((rest(&copied), rest(&moved)), (rest(&usual), rest(&usual)));
    }
    // Behind something else, and in another form.
    net.router.client_line(net.now, a, br#"{"id":1,"method":"model/list"}"#);
    give(&mut net, a, br#"{"id":2,"method":"fs/watch","params":{"watchId":"w"}}"#.to_vec());
    give(&mut net, a, br#"{"id":3,"method":"model/list"}"#.to_vec());
    let sent = net.sent();
    assert_eq!(methods(&sent), ["model/list", "fs/watch", "model/list"]);
    assert_eq!(sent[1]["params"]["watchId"], format!("{}:w", a.0));
    // A line that is not a message is answered, and an answer to a server request is accepted.
    give(&mut net, a, br#"{"id":4,"method":5}"#.to_vec());
    assert_eq!(net.got(a).last().unwrap()["error"]["code"], -32600);
}

/// A long message with room for a longer id and the line feed, and where it is in memory.
fn long_line(begin: &str) -> (Vec<u8>, *const u8) {
    let mut line = Vec::with_capacity((1 << 20) + 1_000);
    line.extend_from_slice(begin.as_bytes());
    line.resize(1 << 20, b' ');
    line.extend_from_slice(b"}");
    let place = line.as_ptr();
    (line, place)
}

#[test]
fn a_long_message_is_not_copied_whatever_is_queued_before_it() {
    let mut net = Net::limited(Limits { window: 1, ..Limits::default() });
    let a = net.join();
    net.sent_raw();
    // Behind something that is not written yet.
    net.feed(&approval(0, "t"));
    net.send(a, r#"{"id":0,"result":{}}"#);
    let (line, request) = long_line(r#"{"id":1,"method":"model/list""#);
    give(&mut net, a, line);
    // Behind a request that has the only slot of the in-flight window.
    let (line, notification) = long_line(r#"{"method":"newer/notification""#);
    give(&mut net, a, line);
    let (line, queued) = long_line(r#"{"id":3,"method":"model/list""#);
    give(&mut net, a, line);
    for place in [request, notification, queued] {
        let outbox = net.router.upstream_outbox();
        while outbox.pending().as_ptr() != place {
            let n = outbox.pending().len();
            assert!(0 < n && n < 1_000, "the message was copied");
            outbox.advance(n, false);
        }
        let line = outbox.pending().to_vec();
        assert!(line.len() > 1 << 20 && line.ends_with(b"}\n"));
        outbox.advance(line.len(), false);
        let message: Value = serde_json::from_slice(&line).unwrap();
        match message["id"].as_i64() {
            Some(id) => net.reply(id, &json!({})),
            // Its slot is free once a barrier behind it is answered.
            None => {
                net.pass(10);
                let barrier = net.sent();
                assert_eq!(methods(&barrier), ["thread/loaded/list"]);
                net.reply(barrier[0]["id"].as_i64().unwrap(), &json!({}));
            }
        }
    }
    assert_eq!(net.sent_raw(), [] as [String; 0]);
}

/// The first buffer of a client's outbox, with its address.
fn first_buffer(net: &mut Net, client: ClientId) -> (*const u8, Vec<u8>) {
    let pending = net.router.outbox(client).unwrap().pending();
    (pending.as_ptr(), pending.to_vec())
}

#[test]
fn a_long_line_is_shared_by_its_recipients_and_not_copied() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let name = net.start_thread(a, 1);
    net.resume_thread(b, &name);
    net.hush(&[a, b]);
    let text = "ä".repeat(200_000);
    let line = note("item/agentMessage/delta", &json!({"threadId": name, "delta": text})).into_bytes();
    net.router.upstream_line_read(net.now, line.clone(), &TextCheck::of(&line));
    let short = delta(&name, 1);
    net.feed(&short);
    let (of_a, of_b) = (first_buffer(&mut net, a), first_buffer(&mut net, b));
    assert!(of_a == of_b && of_a.1 == [&line[..], b"\n"].concat());
    let whole = [String::from_utf8(line).unwrap(), short];
    assert_eq!((net.got_raw(a), net.got_raw(b)), (whole.to_vec(), whole.to_vec()));
}

#[test]
fn how_many_messages_were_queued_is_known_while_all_that_wait_are_pending() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let name = net.start_thread(a, 1);
    net.resume_thread(b, &name);
    net.hush(&[a, b]);
    let before = net.router.queued_messages(a).unwrap();
    net.feed(&delta(&name, 1));
    net.feed(&delta(&name, 2));
    assert_eq!(net.router.queued_messages(a), Some(before + 2));
    // A long line is a buffer of its own.
    let line = note("item/agentMessage/delta", &json!({"threadId": name, "delta": "x".repeat(300_000)}));
    net.router.upstream_line_read(net.now, line.clone().into_bytes(), &TextCheck::of(line.as_bytes()));
    net.feed(&delta(&name, 3));
    assert_eq!(net.router.queued_messages(a), None);
    let n = net.router.outbox(a).unwrap().pending().len();
    net.router.client_written(a, n, false);
    assert_eq!(net.router.queued_messages(a), None);
    assert_eq!(net.got_raw(a), [line, delta(&name, 3)]);
    assert_eq!(net.router.queued_messages(a), Some(before + 4));
}

#[test]
fn a_long_response_has_the_clients_id_in_its_place_among_other_messages() {
    let mut net = Net::new();
    let client = net.join();
    let name = net.start_thread(client, 1);
    net.hush(&[client]);
    let text = "x".repeat(300_000);
    for id in ["1", "-123456789", r#""a long id, longer than any of codexd""#] {
        // The id comes first, and behind another member.
        for before in ["", r#""unknown":[1],"#] {
            net.send(client, &format!(r#"{{"id":{id},"method":"thread/list","params":{{}}}}"#));
            let upstream_id = net.sent()[0]["id"].to_string();
            let with = |id: &str| format!(r#"{{{before}"id":{id},"result":{{"text":"{text}"}}}}"#);
            let line = with(&upstream_id).into_bytes();
            net.feed(&delta(&name, 1));
            net.router.upstream_line_read(net.now, line.clone(), &TextCheck::of(&line));
            net.feed(&delta(&name, 2));
            assert_eq!(net.got_raw(client), [delta(&name, 1), with(id), delta(&name, 2)]);
        }
    }
}

#[test]
fn a_long_line_that_is_no_text_ends_the_stream() {
    let mut net = Net::new();
    let client = net.join();
    let line = [&br#"{"method":"warning","params":{"text":""#[..], &[0xff; 300_000], br#""}}"#].concat();
    net.router.upstream_line_read(net.now, line.clone(), &TextCheck::of(&line));
    assert_eq!(net.actions(), [Action::UpstreamMalformed]);
    assert_eq!(net.got_raw(client), [] as [&str; 0]);
}
