//! A client that resumes a thread gets the text so far of the items that are not complete.

use std::collections::BTreeMap;

use codexd_proto::id::ClientId;
use codexd_proto::router::Limits;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::net::{Net, methods, note, thread, turn_completed};

/// Bytes that codexd keeps for each thread.
const THREAD_BYTES: usize = 1 << 20;

fn started(thread: &str, item: &str, kind: &str) -> String {
    let params = json!({"item": {"type": kind, "id": item, "text": ""}, "threadId": thread, "turnId": "u", "startedAtMs": 5});
    note("item/started", &params)
}

fn completed(thread: &str, item: &str) -> String {
    let params = json!({"item": {"type": "agentMessage", "id": item}, "threadId": thread, "turnId": "u"});
    note("item/completed", &params)
}

/// A delta with its members in the order in which codex writes them.
fn says(thread: &str, item: &str, text: &str) -> String {
    let text = json!(text);
    format!(
        r#"{{"method":"item/agentMessage/delta","params":{{"threadId":"{thread}","turnId":"u","itemId":"{item}","delta":{text}}},"emittedAtMs":7}}"#
    )
}

fn thinks(thread: &str, item: &str, section: u32, text: &str) -> String {
    let text = json!(text);
    format!(
        r#"{{"method":"item/reasoning/summaryTextDelta","params":{{"threadId":"{thread}","turnId":"u","itemId":"{item}","delta":{text},"summaryIndex":{section}}},"emittedAtMs":7}}"#
    )
}

fn prints(thread: &str, item: &str, text: &str) -> String {
    note(
        "item/commandExecution/outputDelta",
        &json!({"threadId": thread, "turnId": "u", "itemId": item, "delta": text}),
    )
}

/// A client resumes a thread; returns what it got after the response, which shows these items.
fn resume_showing(net: &mut Net, client: ClientId, name: &str, items: &Value) -> Vec<Value> {
    net.hush(&[client]);
    let id = net.forwarded(client, "thread/resume", &json!({"threadId": name}));
    let turns = json!([{"id": "u", "items": items, "status": "inProgress"}]);
    net.reply(id, &json!({"thread": {"id": name, "status": {"type": "active"}, "turns": turns}}));
    let got = net.got(client);
    assert_eq!(methods(&got)[0], "<result>");
    got[1..].to_vec()
}

fn resume(net: &mut Net, client: ClientId, name: &str) -> Vec<Value> {
    resume_showing(net, client, name, &json!([]))
}

/// Two clients, of which the first has a thread with a running turn.
fn running() -> (Net, ClientId, ClientId, String) {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.open_turn(&t, "u");
    (net, a, b, t)
}

#[test]
fn the_text_so_far_is_repeated_and_goes_on() {
    let (mut net, a, b, t) = running();
    net.feed(&started(&t, "m", "agentMessage"));
    for text in ["one ", "t\"w\no ", "drei € 😀"] {
        net.feed(&says(&t, "m", text));
    }
    let got = resume(&mut net, b, &t);
    assert_eq!(methods(&got), ["item/started", "item/agentMessage/delta"]);
    let mark = json!({"synthetic": true, "reason": "resumed", "generation": 7});
    let item = json!({"type": "agentMessage", "id": "m", "text": ""});
    let params = json!({"item": item, "threadId": t, "turnId": "u", "startedAtMs": 5, "codexd": mark});
    assert_eq!(got[0]["params"], params);
    let text = "one t\"w\no drei € 😀";
    let params = json!({"threadId": t, "turnId": "u", "itemId": "m", "delta": text, "codexd": mark});
    assert_eq!(got[1]["params"], params);
    net.hush(&[a]);
    net.feed(&says(&t, "m", " four"));
    assert_eq!(net.got_raw(a), [says(&t, "m", " four")]);
    assert_eq!(net.got_raw(b), [says(&t, "m", " four")]);
}

#[test]
fn a_client_that_comes_back_gets_what_was_said_while_nobody_was_there() {
    let (mut net, a, b, t) = running();
    net.feed(&started(&t, "m", "agentMessage"));
    net.feed(&says(&t, "m", "heard "));
    net.leave(a);
    net.feed(&says(&t, "m", "unheard "));
    net.hush(&[b]);
    let id = net.forwarded(b, "thread/resume", &json!({"threadId": t}));
    // On its way when the client asks.
    net.feed(&says(&t, "m", "and late "));
    net.reply(id, &Net::thread_result(&t, "active"));
    net.feed(&says(&t, "m", "live"));
    let got = net.got(b);
    let text: String = got.iter().filter_map(|line| line["params"]["delta"].as_str()).collect();
    assert_eq!(text, "heard unheard and late live");
    assert_eq!(methods(&got)[..3], ["<result>", "item/started", "item/agentMessage/delta"]);
}

#[test]
fn each_section_of_a_summary_is_a_text_of_its_own() {
    let (mut net, _, b, t) = running();
    net.feed(&started(&t, "r", "reasoning"));
    for section in 0..2 {
        let params = json!({"threadId": t, "turnId": "u", "itemId": "r", "summaryIndex": section});
        net.feed(&note("item/reasoning/summaryPartAdded", &params));
        net.feed(&thinks(&t, "r", section, "a"));
        net.feed(&thinks(&t, "r", section, "b"));
    }
    let got = resume(&mut net, b, &t);
    let section = |line: &Value| line["params"]["summaryIndex"].clone();
    assert_eq!(
        got.iter().map(|line| (section(line), line["params"]["delta"].clone())).collect::<Vec<_>>(),
        [
            (json!(null), json!(null)),
            (json!(0), json!(null)),
            (json!(0), json!("ab")),
            (json!(1), json!(null)),
            (json!(1), json!("ab")),
        ]
    );
}

#[test]
fn texts_that_take_turns_are_not_mixed() {
    let (mut net, _, b, t) = running();
    for item in ["c1", "c2"] {
        net.feed(&started(&t, item, "commandExecution"));
    }
    for n in 0..3 {
        net.feed(&prints(&t, "c1", &format!("a{n}\n")));
        net.feed(&prints(&t, "c2", &format!("b{n}\n")));
    }
    let got = resume(&mut net, b, &t);
    let texts: Vec<_> = got.iter().filter_map(|line| line["params"]["delta"].as_str()).collect();
    assert_eq!(texts, ["a0\na1\na2\n", "b0\nb1\nb2\n"]);
}

#[test]
fn what_the_response_shows_is_not_repeated() {
    let (mut net, _, b, t) = running();
    for item in ["open", "whole", "told", "absent"] {
        net.feed(&started(&t, item, "commandExecution"));
        net.feed(&prints(&t, item, "text"));
    }
    let items = json!([
        {"type": "commandExecution", "id": "open", "status": "inProgress", "aggregatedOutput": null},
        {"type": "commandExecution", "id": "whole", "status": "completed", "aggregatedOutput": "text"},
        {"type": "commandExecution", "id": "told", "status": "inProgress", "aggregatedOutput": "text"},
    ]);
    let got = resume_showing(&mut net, b, &t, &items);
    let ids: Vec<_> = got
        .iter()
        .map(|line| line["params"]["itemId"].as_str().or(line["params"]["item"]["id"].as_str()).unwrap())
        .collect();
    assert_eq!(ids, ["open", "absent", "absent"]);
    assert_eq!(methods(&got)[0], "item/commandExecution/outputDelta");
}

#[test]
fn a_client_that_is_subscribed_already_gets_nothing_twice() {
    let (mut net, a, _, t) = running();
    net.feed(&started(&t, "m", "agentMessage"));
    net.feed(&says(&t, "m", "one"));
    assert_eq!(resume(&mut net, a, &t), [] as [Value; 0]);
}

#[test]
fn what_is_complete_or_has_ended_is_not_repeated() {
    let (mut net, _, b, t) = running();
    net.feed(&started(&t, "m", "agentMessage"));
    net.feed(&says(&t, "m", "one"));
    net.feed(&completed(&t, "m"));
    net.feed(&started(&t, "cut", "agentMessage"));
    net.feed(&says(&t, "cut", "two"));
    net.feed(&started(&t, "goes on", "commandExecution"));
    net.feed(&prints(&t, "goes on", "three"));
    net.feed(&turn_completed(&t, "u"));
    assert_eq!(methods(&resume(&mut net, b, &t)), ["item/started", "item/commandExecution/outputDelta"]);
    net.feed(&note("thread/closed", &json!({"threadId": t})));
    assert_eq!(net.router.accounting().open_item_bytes, 0);
}

#[test]
fn a_text_with_a_gap_is_not_kept() {
    let (mut net, a, b, t) = running();
    net.feed(&started(&t, "m", "agentMessage"));
    net.feed(&says(&t, "m", "one"));
    net.hush(&[a, b]);
    let id = net.forwarded(a, "thread/unsubscribe", &json!({"threadId": t}));
    net.reply(id, &json!({"status": "unsubscribed"}));
    // The upstream does not send what comes now.
    assert_eq!(resume(&mut net, b, &t), [] as [Value; 0]);
    net.feed(&says(&t, "m", "three"));
    net.got(b);
    assert_eq!(resume(&mut net, a, &t), [] as [Value; 0]);
}

#[test]
fn an_item_that_began_before_a_gap_is_not_kept_although_its_beginning_was_deferred() {
    let (mut net, a, b, t) = running();
    net.hush(&[a, b]);
    let unsubscribe = net.forwarded(a, "thread/unsubscribe", &json!({"threadId": t}));
    let resume = net.forwarded(b, "thread/resume", &json!({"threadId": t}));
    net.feed(&started(&t, "m", "agentMessage"));
    net.reply(unsubscribe, &json!({"status": "unsubscribed"}));
    // Between the two, the upstream has sent nothing of the thread.
    net.reply(resume, &Net::thread_result(&t, "active"));
    assert_eq!(methods(&net.got(b)), ["<result>"]);
}

#[test]
fn an_opt_out_applies() {
    let (mut net, _, _, t) = running();
    net.feed(&started(&t, "m", "agentMessage"));
    net.feed(&says(&t, "m", "one"));
    let c = net.join_with(&json!({"optOutNotificationMethods": ["item/agentMessage/delta"]}));
    assert_eq!(methods(&resume(&mut net, c, &t)), ["item/started"]);
}

#[test]
fn of_a_long_text_the_end_is_kept_and_the_rest_is_marked() {
    let (mut net, _, b, t) = running();
    net.feed(&started(&t, "c", "commandExecution"));
    let mut whole = String::new();
    for n in 0..40_000 {
        // A cut inside an escape would show.
        let text = format!("\"line {n:05} of a command that prints much\\\n");
        whole.push_str(&text);
        net.feed(&prints(&t, "c", &text));
    }
    assert!(net.router.accounting().open_item_bytes <= THREAD_BYTES);
    let got = resume(&mut net, b, &t);
    let text = got[1]["params"]["delta"].as_str().unwrap();
    assert!(whole.ends_with(text) && text.starts_with("\"line "), "{}", &text[..60]);
    let spelled = |text: &str| json!(text).to_string().len() - 2;
    assert!(spelled(text) > THREAD_BYTES / 2);
    assert_eq!(got[1]["params"]["codexd"]["cutBytes"], spelled(&whole) - spelled(text));
    // Of a delta that is too long itself, nothing is kept, and the text goes on after it.
    net.feed(&prints(&t, "c", &"x".repeat(2 << 20)));
    net.feed(&prints(&t, "c", "end"));
    let c = net.join();
    let got = resume(&mut net, c, &t);
    assert_eq!(got[1]["params"]["delta"], "end");
}

#[test]
fn all_threads_together_have_a_bound() {
    let mut net = Net::limited(Limits { remembered_threads: 100, ..Limits::default() });
    let a = net.join();
    let text = "y".repeat(60_000);
    for n in 0..40 {
        let t = net.start_thread(a, n);
        net.open_turn(&t, "u");
        net.feed(&started(&t, "m", "agentMessage"));
        for _ in 0..18 {
            net.feed(&says(&t, "m", &text));
            let n = net.router.outbox(a).unwrap().len();
            net.router.client_written(a, n, false);
        }
    }
    let taken = net.router.accounting().open_item_bytes;
    assert!(taken > 24 << 20 && taken <= 32 << 20, "{taken}");
    // What cannot be kept is not kept in part.
    let b = net.join();
    let got = resume(&mut net, b, &thread(39));
    let deltas = got.iter().filter(|line| line["method"] == "item/agentMessage/delta");
    for delta in deltas {
        let (text, cut) = (&delta["params"]["delta"], &delta["params"]["codexd"]["cutBytes"]);
        assert_eq!(text.as_str().unwrap().len() as u64 + cut.as_u64().unwrap(), 18 * 60_000);
    }
    for n in 0..40 {
        net.feed(&turn_completed(&thread(n), "u"));
    }
    assert_eq!(net.router.accounting().open_item_bytes, 0);
}

#[test]
fn an_item_whose_beginning_was_not_seen_is_not_kept_until_it_begins_again() {
    let (mut net, _, b, t) = running();
    for text in ["one", "two"] {
        net.feed(&says(&t, "m", text));
    }
    assert_eq!(resume(&mut net, b, &t), [] as [Value; 0]);
    net.feed(&started(&t, "m", "agentMessage"));
    net.feed(&says(&t, "m", "three"));
    let c = net.join();
    let got = resume(&mut net, c, &t);
    assert_eq!(got[1]["params"]["delta"], "three");
    // Nor is one that takes too much to begin.
    net.feed(&started(&t, &"x".repeat(200_000), "agentMessage"));
    assert!(net.router.accounting().open_item_bytes < 10_000);
}

#[test]
fn a_fork_and_a_failed_resume_repeat_nothing() {
    let (mut net, _, b, t) = running();
    net.feed(&started(&t, "m", "agentMessage"));
    net.feed(&says(&t, "m", "one"));
    net.hush(&[b]);
    let id = net.forwarded(b, "thread/fork", &json!({"threadId": t}));
    net.reply(id, &Net::thread_result(&thread(2), "idle"));
    assert_eq!(methods(&net.got(b)), ["<result>"]);
    let id = net.forwarded(b, "thread/resume", &json!({"threadId": t}));
    net.fail(id, "no");
    assert_eq!(methods(&net.got(b)), ["<error>"]);
}

/// What happens to a thread with some items.
#[derive(Clone, Debug)]
enum Step {
    Start(u8),
    Say(u8, String),
    Complete(u8),
    /// Somebody resumes it; from then on it listens.
    Join,
    /// The oldest one that listens goes.
    Leave,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..4u8).prop_map(Step::Start),
        8 => (0..4u8, "[a-z\"\\\\\n\u{e9}\u{1f600}]{0,40}").prop_map(|(item, text)| Step::Say(item, text)),
        1 => (0..4u8).prop_map(Step::Complete),
        2 => Just(Step::Join),
        1 => Just(Step::Leave),
    ]
}

/// Lines that begin as a delta of `m` does, and are something else or end in another way.
fn like_deltas(t: &str) -> Vec<Vec<u8>> {
    let usual = says(t, "m", "x");
    let end = r#""x"},"emittedAtMs":7}"#;
    let ends = [
        r#""x"}}"#,
        r#""x"},"emittedAtMs":12345678901234567890}"#,
        r#""x"},"emittedAtMs":}"#,
        r#""x"},"emittedAtMs":7,"id":5}"#,
        r#""x"},"id":5}"#,
        r#""x","threadId":"another"},"emittedAtMs":7}"#,
        r#""x","itemId":"n"},"emittedAtMs":7}"#,
        r#""x"} ,"emittedAtMs":7}"#,
        r#""x"},"emittedAtMs":7} "#,
        r#""x"},"emittedAtMs":7}}"#,
        r#""x"},"emittedAtMs":7"#,
        r#""x"}"#,
        r#""x"#,
        r#""x\\","emittedAtMs":7}}"#,
        r#""\"},\"emittedAtMs\":7}"},"emittedAtMs":7}"#,
        r#""\u20ac \"\\"},"emittedAtMs":7}"#,
        r#""€ 😀"},"emittedAtMs":7}"#,
        r#""x"},"result":{}}"#,
        r#"null},"emittedAtMs":7}"#,
    ];
    let mut lines: Vec<Vec<u8>> = ends.iter().map(|other| usual.replace(end, other).into_bytes()).collect();
    lines.push(usual.replace(r#":"u""#, r#":"v""#).into_bytes());
    lines.push(usual.replace(t, "another").into_bytes());
    lines.push(usual.replace("agentMessage", "plan").into_bytes());
    for bad in [&b"\xff"[..], b"\xe2\x82", b"\xf0\x9f\x98"] {
        let at = usual.find(end).unwrap() + 2;
        lines.push([&usual.as_bytes()[..at], bad, &usual.as_bytes()[at..]].concat());
    }
    lines
}

#[test]
fn a_line_after_a_delta_goes_where_it_goes_without_one_before() {
    let (_, _, _, name) = running();
    for line in like_deltas(&name) {
        let outcomes = [true, false].map(|after_delta| {
            let (mut net, a, b, t) = running();
            net.feed(&started(&t, "c", "commandExecution"));
            net.feed(&started(&t, "m", "agentMessage"));
            net.feed(&says(&t, "m", "before "));
            if !after_delta {
                // Of another method, so that the line is not like the last delta.
                net.feed(&prints(&t, "c", "out"));
            }
            net.hush(&[a, b]);
            net.feed_bytes(&line);
            let to_others = net.got_raw(b);
            let to_subscriber = net.got_raw(a);
            let actions = net.actions();
            let text: Vec<Value> =
                resume(&mut net, b, &t).into_iter().filter(|line| line["params"]["itemId"] == "m").collect();
            (to_subscriber, to_others, actions, text)
        });
        assert_eq!(outcomes[0], outcomes[1], "{}", String::from_utf8_lossy(&line));
    }
}

#[test]
fn a_delta_like_the_last_one_is_for_those_who_are_subscribed_now() {
    let (mut net, a, b, t) = running();
    net.feed(&started(&t, "m", "agentMessage"));
    net.feed(&says(&t, "m", "one "));
    let opted = net.join_with(&json!({"optOutNotificationMethods": ["item/agentMessage/delta"]}));
    resume(&mut net, b, &t);
    resume(&mut net, opted, &t);
    net.hush(&[a, b, opted]);
    net.feed(&says(&t, "m", "two "));
    assert_eq!([net.got_raw(a).len(), net.got_raw(b).len(), net.got_raw(opted).len()], [1, 1, 0]);
    net.leave(a);
    net.feed(&says(&t, "m", "three "));
    assert_eq!(net.got_raw(b), [says(&t, "m", "three ")]);
    net.leave(b);
    net.leave(opted);
    net.feed(&says(&t, "m", "four"));
    let late = net.join();
    let got = resume(&mut net, late, &t);
    assert_eq!(got[1]["params"]["delta"], "one two three four");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whoever listens, since whenever, has the text of each open item exactly once.
    #[test]
    fn what_is_repeated_and_what_follows_is_the_whole_text(steps in prop::collection::vec(step(), 1..80)) {
        let (mut net, a, _, t) = running();
        net.hush(&[a]);
        let mut open: BTreeMap<u8, String> = BTreeMap::new();
        let mut listeners: Vec<(ClientId, BTreeMap<String, String>)> = vec![(a, BTreeMap::new())];
        for step in steps {
            match step {
                Step::Start(item) if !open.contains_key(&item) => {
                    open.insert(item, String::new());
                    net.feed(&started(&t, &item.to_string(), "agentMessage"));
                }
                Step::Say(item, text) if open.contains_key(&item) => {
                    net.feed(&says(&t, &item.to_string(), &text));
                    open.get_mut(&item).unwrap().push_str(&text);
                }
                Step::Complete(item) if open.remove(&item).is_some() => {
                    net.feed(&completed(&t, &item.to_string()));
                }
                Step::Join => {
                    let client = net.join();
                    let id = net.forwarded(client, "thread/resume", &json!({"threadId": t}));
                    net.reply(id, &Net::thread_result(&t, "active"));
                    listeners.push((client, BTreeMap::new()));
                }
                Step::Leave if !listeners.is_empty() => net.leave(listeners.remove(0).0),
                _ => {}
            }
            let expected: BTreeMap<String, String> =
                open.iter().map(|(item, text)| (item.to_string(), text.clone())).collect();
            for (client, texts) in &mut listeners {
                for line in net.got(*client) {
                    let params = &line["params"];
                    match line["method"].as_str() {
                        Some("item/started") => {
                            let id = params["item"]["id"].as_str().unwrap().to_owned();
                            prop_assert_eq!(texts.insert(id, String::new()), None, "begun twice");
                        }
                        Some("item/completed") => {
                            let removed = texts.remove(params["item"]["id"].as_str().unwrap());
                            prop_assert!(removed.is_some());
                        }
                        Some("item/agentMessage/delta") => {
                            let text = texts.get_mut(params["itemId"].as_str().unwrap()).unwrap();
                            text.push_str(params["delta"].as_str().unwrap());
                        }
                        _ => {}
                    }
                }
                prop_assert_eq!(&*texts, &expected);
            }
        }
    }
}
