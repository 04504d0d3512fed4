//! Bad input: each gets its error, the connection stays usable, nothing harmful reaches the upstream, and no other
//! client notices.

use std::collections::BTreeSet;

use codexd_tests::client::{Message, TestClient};
use codexd_tests::daemon::TestDaemon;
use serde_json::{Value, json};

use crate::support::{deltas, quiet_client, reason};

/// A daemon whose upstream ends on the first thing that the real one would not have liked.
fn strict() -> TestDaemon {
    TestDaemon::fake("[[strict]]").ready()
}

/// Sends bytes and then a good request; returns what came before the answer to that.
#[track_caller]
fn answers_to(client: &mut TestClient, bytes: &[u8]) -> Vec<Message> {
    client.send_bytes(bytes).unwrap();
    client.recv_to_barrier()
}

/// Checks that each line gets one error with this code and id, and the connection stays usable.
#[track_caller]
fn each_is_refused(client: &mut TestClient, code: i64, cases: &[(&[u8], Value)]) {
    for (line, id) in cases {
        let shown = String::from_utf8_lossy(line);
        let answers = answers_to(client, &[*line, b"\n"].concat());
        assert_eq!(answers.len(), 1, "{shown}: {answers:?}");
        assert_eq!(answers[0]["id"], *id, "{shown}");
        let error = answers[0].outcome().expect_err("it is bad");
        assert_eq!(error.code, code, "{shown}: {error:?}");
        assert_eq!(error.data["codexd"]["delivered"], "no", "{shown}");
        assert_eq!(error.data["codexd"]["retryable"], false, "{shown}");
    }
}

/// Returns the methods that have reached the upstream.
fn methods_upstream(daemon: &TestDaemon) -> BTreeSet<String> {
    let log = daemon.fake_log();
    let messages = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("a message"));
    messages.map(|message| message["method"].as_str().unwrap_or("(answer)").to_owned()).collect()
}

fn expected_methods(more: &[&str]) -> BTreeSet<String> {
    let usual = ["initialize", "initialized", "thread/loaded/list", "codexd/whichMethodsAreThere"];
    usual.iter().chain(more).map(|method| (*method).to_owned()).collect()
}

#[test]
fn a_line_that_is_not_json_gets_a_parse_error() {
    let daemon = strict();
    let mut client = quiet_client(&daemon, "bad");
    let none = Value::Null;
    let cases: Vec<(&[u8], Value)> = [
        &b"{"[..],
        b"nonsense",
        b"{\"id\":1,\"method\":\"model/list\"",
        b"{\"id\":1,\"method\":\"model/list\",}",
        b"{\"id\":1,\"method\":\"model/list\"} x",
        b"{\"id\":1,\"method\":\"model/list\"}{\"id\":2,\"method\":\"model/list\"}",
        b"{'id':1,'method':'model/list'}",
        b"{\"id\":1,\"method\":\"model/list\"} // comment",
        b"{\"id\":01,\"method\":\"model/list\"}",
        b"{\"id\":1,\"method\":\"model/list\",\"params\":{\"a\":NaN}}",
        b"{\"id\":1,\"method\":\"model/list\",\"params\":{\"a\":\"\x01\"}}",
        b"{\"id\":1,\"method\":\"model/list\",\"params\":{\"a\":\"\x00\"}}",
        b"{\"id\":1,\"method\":\"model/list\"}\x00",
        b"{\"id\":1,\"method\":\"model/list\",\"params\":{\"a\":\"\\x41\"}}",
    ]
    .into_iter()
    .map(|line| (line, none.clone()))
    .collect();
    each_is_refused(&mut client, -32700, &cases);
    assert_eq!(methods_upstream(&daemon), expected_methods(&[]));
}

#[test]
fn invalid_utf8_is_refused_and_never_forwarded() {
    let daemon = strict();
    let mut client = quiet_client(&daemon, "bad");
    let within = |bytes: &[u8]| {
        [&b"{\"id\":1,\"method\":\"model/list\",\"params\":{\"a\":\""[..], bytes, b"\"}}"].concat()
    };
    let lines = [
        within(b"\xff"),
        within(b"\xc0\xaf"),
        within(b"\xed\xa0\x80"),
        within(b"\xf5\x80\x80\x80"),
        within(b"\xe2\x82"),
        b"\xff\xfe{\x00}\x00".to_vec(),
        b"\x80".to_vec(),
    ];
    let cases: Vec<(&[u8], Value)> = lines.iter().map(|line| (line.as_slice(), Value::Null)).collect();
    each_is_refused(&mut client, -32700, &cases);
    assert_eq!(methods_upstream(&daemon), expected_methods(&[]));
}

#[test]
fn a_byte_order_mark_and_a_lone_surrogate_are_refused() {
    let daemon = strict();
    let mut client = quiet_client(&daemon, "bad");
    let cases: Vec<(&[u8], Value)> = vec![
        (b"\xef\xbb\xbf{\"id\":1,\"method\":\"model/list\"}", Value::Null),
        (br#"{"id":1,"method":"model/list","params":{"a":"\ud800"}}"#, Value::Null),
        (br#"{"id":1,"method":"model/list","params":{"a":"\udc00\ud800"}}"#, Value::Null),
        (br#"{"id":1,"method":"model/list","params":{"a":"\ud800\n"}}"#, Value::Null),
        (br#"{"id":"\ud800","method":"model/list"}"#, Value::Null),
    ];
    each_is_refused(&mut client, -32700, &cases);
    // A pair is a character like others.
    client.send_line(r#"{"id":"pair","method":"model/list","params":{"a":"\ud83d\ude00"}}"#);
    client.take("the answer", |message| message["id"] == "pair" && message.outcome().is_ok());
    assert_eq!(methods_upstream(&daemon), expected_methods(&["model/list"]));
}

#[test]
fn what_is_json_and_no_message_is_an_invalid_request() {
    let daemon = strict();
    let mut client = quiet_client(&daemon, "bad");
    let cases: Vec<(&[u8], Value)> = vec![
        (b"1", Value::Null),
        (b"1.5", Value::Null),
        (b"\"text\"", Value::Null),
        (b"null", Value::Null),
        (b"true", Value::Null),
        (b"[]", Value::Null),
        (b"[{\"id\":1,\"method\":\"model/list\"}]", Value::Null),
        (b"{}", Value::Null),
        (b"{\"id\":1}", json!(1)),
        (b"{\"id\":\"x\",\"params\":{}}", json!("x")),
        (b"{\"id\":1,\"method\":5}", json!(1)),
        (b"{\"id\":1,\"method\":null}", json!(1)),
        (b"{\"id\":1,\"method\":[\"model/list\"]}", json!(1)),
    ];
    each_is_refused(&mut client, -32600, &cases);
    assert_eq!(methods_upstream(&daemon), expected_methods(&[]));
}

#[test]
fn an_id_that_is_none_is_an_invalid_request() {
    let daemon = strict();
    let mut client = quiet_client(&daemon, "bad");
    let ids = [
        "null",
        "5.5",
        "5.0",
        "1e3",
        "9223372036854775808",
        "-9223372036854775809",
        "123456789012345678901234567890",
        "true",
        "[]",
        "[1]",
        "{}",
    ];
    let lines: Vec<String> =
        ids.iter().map(|id| format!("{{\"id\":{id},\"method\":\"model/list\",\"params\":{{}}}}")).collect();
    let cases: Vec<(&[u8], Value)> = lines.iter().map(|line| (line.as_bytes(), Value::Null)).collect();
    each_is_refused(&mut client, -32600, &cases);
    assert_eq!(methods_upstream(&daemon), expected_methods(&[]));
}

#[test]
fn a_member_given_twice_is_an_invalid_request() {
    let daemon = strict();
    let mut client = quiet_client(&daemon, "bad");
    let cases: Vec<(&[u8], Value)> = vec![
        // It is not known which of two ids the sender waits for.
        (b"{\"id\":1,\"id\":1,\"method\":\"model/list\"}", Value::Null),
        (b"{\"id\":1,\"method\":\"model/list\",\"method\":\"turn/start\"}", json!(1)),
        (b"{\"id\":1,\"method\":\"model/list\",\"params\":{},\"params\":{}}", json!(1)),
        // The same name, hidden in an escape.
        (b"{\"id\":1,\"\\u0069d\":2,\"method\":\"model/list\"}", Value::Null),
        (b"{\"id\":1,\"m\\u0065thod\":\"turn/start\",\"method\":\"model/list\"}", json!(1)),
    ];
    each_is_refused(&mut client, -32600, &cases);
    assert_eq!(methods_upstream(&daemon), expected_methods(&[]));
}

#[test]
fn a_trace_that_the_upstream_cannot_read_is_an_invalid_request() {
    let daemon = strict();
    let mut client = quiet_client(&daemon, "bad");
    let traces = [
        "5",
        "\"x\"",
        r#"{"traceparent":5}"#,
        r#"{"tracestate":["x"]}"#,
        r#"{"traceparent":"x","trace\u0070arent":"x"}"#,
        r#"["x","y","z"]"#,
        r#"{},"trace":{}"#,
    ];
    let lines = traces.map(|trace| format!(r#"{{"id":"t","method":"model/list","trace":{trace}}}"#));
    let cases: Vec<(&[u8], Value)> = lines.iter().map(|line| (line.as_bytes(), json!("t"))).collect();
    each_is_refused(&mut client, -32600, &cases);
    assert_eq!(methods_upstream(&daemon), expected_methods(&[]));
}

#[test]
fn an_object_that_the_upstream_reads_as_another_thing_is_refused() {
    let daemon = strict();
    let mut client = quiet_client(&daemon, "bad");
    let params = [
        r#"{"$serde_json::private::RawValue":"{\"threadId\":\"x\"}"}"#,
        r#"{"a":[{"\u0024serde_json::private::Number":"x"}]}"#,
    ];
    let lines = params.map(|params| format!(r#"{{"id":"r","method":"turn/start","params":{params}}}"#));
    let cases: Vec<(&[u8], Value)> = lines.iter().map(|line| (line.as_bytes(), json!("r"))).collect();
    each_is_refused(&mut client, -32600, &cases);
    assert_eq!(methods_upstream(&daemon), expected_methods(&[]));
}

#[test]
fn an_id_of_more_than_64_kib_is_refused_without_it() {
    let daemon = strict();
    let mut client = quiet_client(&daemon, "bad");
    let line = |bytes: usize| format!(r#"{{"id":"{}","method":"model/list"}}"#, "x".repeat(bytes - 2));
    each_is_refused(&mut client, -32600, &[(line((64 << 10) + 1).as_bytes(), Value::Null)]);
    assert_eq!(methods_upstream(&daemon), expected_methods(&[]));
    client.send_line(&line(64 << 10));
    client.take("the answer", |message| message["id"].as_str().is_some_and(|id| id.len() == (64 << 10) - 2));
}

#[test]
fn names_and_methods_in_escapes_are_what_they_spell() {
    let daemon = strict();
    let mut client = quiet_client(&daemon, "odd");
    client.send_line(r#"{"\u0069d":"\u0061\/","m\u0065thod":"model\/list","p\u0061rams":{}}"#);
    let answer = client.take("the answer", |message| message["id"] == "a/");
    assert!(answer.outcome().is_ok() && answer.raw.contains(r#""id":"\u0061\/""#), "{}", answer.raw);
    // Without the experimental interface, what needs it is refused in any spelling.
    let mut plain = daemon.raw_client("plain");
    plain.initialize_with(json!({}));
    plain.send_line(r#"{"id":1,"method":"server\/diagnostics","params":{}}"#);
    let error = plain.response(1).unwrap_err();
    assert_eq!(error.message, "server/diagnostics requires experimentalApi capability");
    plain.send_line(r#"{"id":2,"method":"thr\u0065ad/start","params":{"dynamic\u0054ools":[]}}"#);
    let error = plain.response(2).unwrap_err();
    assert_eq!(error.message, "thread/start.dynamicTools requires experimentalApi capability");
    // A second client does not become a subscriber of a thread that is started so.
    let mut other = quiet_client(&daemon, "other");
    client.send_line(r#"{"id":3,"method":"thread\/start","params":{}}"#);
    let thread = client.response(3).unwrap()["thread"]["id"].as_str().unwrap().to_owned();
    let turn = client.start_turn(&thread, "[[deltas:3]]");
    assert_eq!(client.finish_turn(&thread, &turn).status, "completed");
    let got = other.recv_to_barrier();
    assert_eq!(deltas(&got), [] as [&str; 0], "{got:?}");
}

#[test]
fn nesting_is_passed_up_to_the_depth_that_the_upstream_reads() {
    let daemon = strict();
    let mut client = quiet_client(&daemon, "bad");
    // The message and its parameters are two of the levels.
    let nested = |levels: usize| {
        let (open, close) = ("[".repeat(levels - 2), "]".repeat(levels - 2));
        format!("{{\"id\":\"deep\",\"method\":\"model/list\",\"params\":{{\"a\":{open}{close}}}}}")
    };
    client.send_line(&nested(127));
    client.take("the answer", |message| message["id"] == "deep" && message.outcome().is_ok());
    each_is_refused(
        &mut client,
        -32700,
        &[
            (nested(128).as_bytes(), Value::Null),
            (nested(100_000).as_bytes(), Value::Null),
            ("{\"a\":".repeat(100_000).as_bytes(), Value::Null),
        ],
    );
    assert_eq!(methods_upstream(&daemon), expected_methods(&["model/list"]));
}

#[test]
fn blank_lines_and_answers_to_nothing_get_no_answer() {
    let daemon = strict();
    let mut client = quiet_client(&daemon, "odd");
    let lines = [
        "",
        "\r",
        "  \t ",
        r#"{"id":7,"result":{}}"#,
        r#"{"id":"x","result":null}"#,
        r#"{"id":7,"error":{"code":-1,"message":"no"}}"#,
        r#"{"id":7,"error":"no"}"#,
        r#"{"method":"initialized"}"#,
    ];
    for line in lines {
        assert_eq!(answers_to(&mut client, format!("{line}\n").as_bytes()), [], "{line}");
    }
    client.send_bytes(b"  {\"id\":\"crlf\",\"method\":\"model/list\"}  \r\n").unwrap();
    client.take("the answer", |message| message["id"] == "crlf" && message.outcome().is_ok());
    assert_eq!(methods_upstream(&daemon), expected_methods(&["model/list"]));
}

#[test]
fn a_line_over_the_limit_is_refused_and_skipped() {
    const LIMIT: usize = 64 << 10;
    let builder = TestDaemon::fake("[[strict]]").config(&format!("[limits]\nmax_message_bytes = {LIMIT}\n"));
    let daemon = builder.ready();
    let mut client = quiet_client(&daemon, "long");
    let line = |bytes: usize| {
        let frame = r#"{"id":"long","method":"model/list","params":{"a":""}}"#;
        frame.replace("\"\"", &format!("\"{}\"", "x".repeat(bytes - frame.len())))
    };
    client.send_line(&line(LIMIT));
    client.take("the answer", |message| message["id"] == "long" && message.outcome().is_ok());
    // In one piece, in several, and much longer than what is read at once.
    let over = line(LIMIT + 1);
    let mut answers = answers_to(&mut client, format!("{over}\n").as_bytes());
    for piece in over.as_bytes().chunks(10_000) {
        client.send_bytes(piece).unwrap();
    }
    answers.extend(answers_to(&mut client, b"\n"));
    answers.extend(answers_to(&mut client, format!("{}\n", line(3_000_000)).as_bytes()));
    assert_eq!(answers.len(), 3, "{answers:?}");
    for answer in answers {
        let error = answer.outcome().unwrap_err();
        assert_eq!((error.code, reason(&error)), (-32600, "messageTooLong"));
        assert!(answer["id"].is_null() && error.message.contains("65536 bytes"), "{}", answer.raw);
    }
    assert_eq!(daemon.fake_log().matches("model/list").count(), 1);
}

#[test]
fn a_torn_last_line_is_dropped() {
    let daemon = strict();
    for torn in [&b"{\"id\":1,\"method\":\"model/list\"}"[..], b"{\"id\":1,\"method", b"\xff", b"x"] {
        let mut client = quiet_client(&daemon, "torn");
        client.send_bytes(torn).unwrap();
        client.finish_sending();
        assert_eq!(client.recv_to_end(), []);
    }
    assert_eq!(quiet_client(&daemon, "other").recv_to_barrier(), []);
    assert_eq!(methods_upstream(&daemon), expected_methods(&[]));
}

#[test]
fn an_unknown_method_gets_the_upstreams_own_error() {
    let daemon = TestDaemon::fake("").ready();
    let mut client = quiet_client(&daemon, "new");
    let error = client.try_request("no/such", json!({})).unwrap_err();
    assert_eq!((error.code, &error.data), (-32600, &Value::Null));
    assert!(error.message.starts_with("Invalid request: unknown variant `no/such`"), "{}", error.message);
    assert_eq!(client.recv_to_barrier(), []);
}

#[test]
fn before_initialize_nothing_else_is_possible() {
    let daemon = strict();
    let mut client = daemon.raw_client("early");
    for method in ["model/list", "turn/start", "no/such"] {
        let error = client.try_request(method, json!({})).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (-32600, "Not initialized"));
    }
    client.notify("initialized", Value::Null);
    client.notify("no/such", json!({}));
    client.send_line(r#"{"id":0,"result":{"decision":"accept"}}"#);
    client.initialize();
    client.recv_to_barrier();
    assert_eq!(methods_upstream(&daemon), expected_methods(&[]));
}

#[test]
fn a_second_initialize_is_refused_and_changes_nothing() {
    let daemon = strict();
    let mut client = daemon.client("twice");
    let info = json!({"clientInfo": {"name": "other", "version": "1"}});
    let error = client.try_request("initialize", info).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (-32600, "Already initialized"));
    // Still with the experimental API of its first one.
    client.request("server/diagnostics", json!({}));
    assert_eq!(daemon.fake_log().matches("\"initialize\"").count(), 1);
}

#[test]
fn a_bad_introduction_is_refused_and_can_be_repeated() {
    let daemon = strict();
    let mut client = daemon.raw_client("shy");
    let cases = [
        (Value::Null, "Invalid request: missing field `params`"),
        (json!({}), "Invalid request: missing field `clientInfo`"),
        (json!({"clientInfo": {"version": "1"}}), "Invalid request: missing field `name`"),
        (json!({"clientInfo": {"name": "a"}}), "Invalid request: missing field `version`"),
        (json!({"clientInfo": {"name": 5, "version": "1"}}), "Invalid request: invalid type"),
        (json!({"clientInfo": {"name": "a\nb", "version": "1"}}), "Invalid clientInfo.name: 'a\nb'."),
        (json!({"clientInfo": {"name": "\u{7f}", "version": "1"}}), "Invalid clientInfo.name: "),
        (
            json!({"clientInfo": {"name": "a", "version": "1"}, "capabilities": {"experimentalApi": 1}}),
            "Invalid request: invalid type",
        ),
    ];
    for (params, words) in cases {
        let error = client.try_request("initialize", params.clone()).unwrap_err();
        assert_eq!(error.code, -32600, "{params}");
        assert!(error.message.starts_with(words), "{params}: {}", error.message);
    }
    client.initialize();
    client.recv_to_barrier();
    assert_eq!(daemon.fake_log().matches("\"initialize\"").count(), 1);
}

#[test]
fn another_client_does_not_notice_a_bad_one() {
    let daemon = strict();
    let mut good = quiet_client(&daemon, "good");
    let thread = good.start_thread(json!({}));
    let turn = good.start_turn(&thread, "[[deltas:100:2]]");
    let mut bad = quiet_client(&daemon, "bad");
    let mut rejected = 0;
    // Bad lines all the time that the other one's turn runs.
    loop {
        rejected += answers_to(&mut bad, b"{\n\xff\n[]\n{\"id\":null,\"method\":\"x\"}\n").len();
        if bad.request("thread/read", json!({"threadId": thread}))["thread"]["status"]["type"] == "idle" {
            break;
        }
    }
    assert!(rejected >= 4);
    let turn = good.finish_turn(&thread, &turn);
    assert_eq!((turn.status.as_str(), deltas(&turn.seen).len()), ("completed", 101));
    assert!(turn.seen.iter().all(|message| message["error"].is_null()));
    assert_eq!(good.recv_to_barrier().iter().filter(|message| !message["error"].is_null()).count(), 0);
}

#[test]
fn a_flood_of_bad_lines_gets_as_many_errors() {
    let daemon = strict();
    let mut client = quiet_client(&daemon, "flood");
    let answers = answers_to(&mut client, &b"{\n[]\n\xff\n".repeat(1000));
    assert_eq!(answers.len(), 3000);
    assert!(answers.iter().all(|answer| answer["id"].is_null() && !answer["error"].is_null()));
}

#[test]
fn noise_on_many_connections_disturbs_nobody() {
    let daemon = strict();
    let mut good = quiet_client(&daemon, "good");
    // A generator of its own: the same noise in each run.
    const ALPHABET: &[u8] = b"{}[]\",:\\\n\xff0e-x \x00";
    let mut state = 1_u32;
    for _ in 0..100 {
        let mut noise: Vec<u8> = (0..2000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ALPHABET[(state >> 24) as usize % ALPHABET.len()]
            })
            .collect();
        noise.push(b'\n');
        let mut bad = daemon.raw_client("noise");
        // The daemon answers each line; some of the answers are never read.
        let _ = bad.send_bytes(&noise);
        drop(bad);
        assert_eq!(good.recv_to_barrier(), []);
    }
    assert_eq!(methods_upstream(&daemon), expected_methods(&[]));
}
