//! Which clients are subscribed to which thread.

use codexd_proto::router::Limits;
use codexd_proto::status::StatusReport;
use serde_json::{Value, json};

use crate::net::{Net, approval, delta, methods, note, status, thread, turn_completed, turn_started};

const NONE: [&str; 0] = [];

#[test]
fn starting_a_thread_subscribes_the_requester_only() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.feed(&delta(&t, 1));
    assert_eq!(net.got_raw(a), [delta(&t, 1)]);
    assert_eq!(net.got_raw(b), NONE);
}

#[test]
fn thread_started_and_status_go_to_everyone_who_is_initialized() {
    let mut net = Net::new();
    let (a, b, early) = (net.join(), net.join(), net.connect());
    let t = net.start_thread(a, 1);
    net.feed(&note("thread/started", &json!({"thread": {"id": t}})));
    net.feed(&status(&t, "active"));
    for client in [a, b] {
        assert_eq!(net.got_methods(client), ["thread/started", "thread/status/changed"]);
    }
    assert_eq!(net.got_raw(early), NONE);
}

#[test]
fn two_subscribers_receive_the_same_and_an_unsubscribe_of_one_changes_nothing_for_the_other() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.resume_thread(b, &t);
    net.feed(&delta(&t, 1));
    net.leave(a);
    assert_eq!(net.sent_raw(), NONE, "the upstream goes on sending for the other");
    net.feed(&delta(&t, 2));
    assert_eq!(net.got_raw(b), [delta(&t, 1), delta(&t, 2)]);
}

#[test]
fn a_failed_start_or_resume_subscribes_nobody() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    let id = net.forwarded(b, "thread/resume", &json!({"threadId": t}));
    net.fail(id, "no rollout found");
    assert_eq!(net.got_one(b)["error"]["message"], "no rollout found");
    net.feed(&delta(&t, 1));
    assert_eq!((net.got_raw(a).len(), net.got_raw(b).len()), (1, 0));
}

#[test]
fn parameters_by_position_and_with_escapes_subscribe_and_unsubscribe_as_any_others() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    let nulls = vec![Value::Null; 17];
    let mut resume = vec![json!(t)];
    resume.extend(nulls);
    for (resume, unsubscribe) in [
        (format!(r#""thread/resume","params":{}"#, json!(resume)), format!(r#"["{t}"]"#)),
        (
            format!(r#""thread\/resume","params":{{"thread\u0049d":"{t}"}}"#),
            format!(r#"{{"threadI\u0064":"{t}"}}"#),
        ),
    ] {
        net.send(b, &format!(r#"{{"\u0069d":1,"m\u0065thod":{resume}}}"#));
        let id = net.sent()[0]["id"].as_i64().unwrap();
        net.reply(id, &Net::thread_result(&t, "idle"));
        net.feed(&delta(&t, 1));
        assert_eq!(net.got_methods(b), ["<result>", "item/agentMessage/delta"]);
        for status in ["unsubscribed", "notSubscribed"] {
            net.send(b, &format!(r#"{{"id":2,"method":"thread/unsubscribe","params":{unsubscribe}}}"#));
            assert_eq!(net.got_one(b)["result"]["status"], status);
        }
        assert_eq!(net.sent_raw(), NONE);
    }
}

#[test]
fn an_unsubscribe_with_too_many_parameters_is_the_upstreams_to_refuse() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.resume_thread(b, &t);
    let id = net.forwarded(b, "thread/unsubscribe", &json!([t, 1]));
    net.fail(id, "Invalid request: invalid length 2, expected 1 element in sequence");
    assert_eq!(net.got_methods(b), ["<error>"]);
    net.feed(&delta(&t, 1));
    assert_eq!(net.got_raw(b), [delta(&t, 1)]);
}

#[test]
fn every_resume_is_forwarded_even_of_a_subscriber() {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    for _ in 0..2 {
        net.resume_thread(a, &t);
    }
    net.feed(&delta(&t, 1));
    assert_eq!(net.got_raw(a).len(), 1, "subscribed once");
}

// ---- unsubscribe -----------------------------------------------------------------------------------

fn unsubscribe(net: &mut Net, client: codexd_proto::id::ClientId, t: &str) {
    net.request(client, "u", "thread/unsubscribe", &json!({"threadId": t}));
}

fn word(answer: &Value) -> &str {
    assert_eq!(answer["id"], "u");
    answer["result"]["status"].as_str().unwrap()
}

#[test]
fn unsubscribe_is_answered_here_while_another_client_is_subscribed() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.resume_thread(b, &t);
    unsubscribe(&mut net, a, &t);
    assert_eq!(word(&net.got_one(a)), "unsubscribed");
    assert_eq!(net.sent_raw(), NONE);
    unsubscribe(&mut net, a, &t);
    assert_eq!(word(&net.got_one(a)), "notSubscribed");
    net.feed(&delta(&t, 1));
    assert_eq!((net.got_raw(a).len(), net.got_raw(b).len()), (0, 1));
}

#[test]
fn the_last_unsubscribe_goes_up_so_that_the_thread_can_be_unloaded() {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    let id = net.forwarded(a, "thread/unsubscribe", &json!({"threadId": t}));
    net.reply(id, &json!({"status": "unsubscribed"}));
    assert_eq!(net.got_one(a)["result"]["status"], "unsubscribed");
    unsubscribe(&mut net, a, &t);
    assert_eq!(word(&net.got_one(a)), "notSubscribed");
    net.feed(&status(&t, "notLoaded"));
    net.feed(&note("thread/closed", &json!({"threadId": t})));
    net.got(a);
    unsubscribe(&mut net, a, &t);
    assert_eq!(word(&net.got_one(a)), "notLoaded");
    unsubscribe(&mut net, a, &thread(99));
    assert_eq!(word(&net.got_one(a)), "notLoaded");
}

#[test]
fn a_malformed_thread_id_is_for_the_upstream_to_word() {
    let mut net = Net::new();
    let a = net.join();
    let id = net.forwarded(a, "thread/unsubscribe", &json!({"threadId": "no uuid"}));
    net.fail(id, "invalid thread id");
    assert_eq!(net.got_one(a)["error"]["message"], "invalid thread id");
}

#[test]
fn an_unsubscribe_never_goes_up_behind_an_unanswered_resume_of_another() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    let resume = net.forwarded(b, "thread/resume", &json!({"threadId": t}));
    unsubscribe(&mut net, a, &t);
    assert_eq!(word(&net.got_one(a)), "unsubscribed");
    assert_eq!(net.sent_raw(), NONE);
    net.reply(resume, &Net::thread_result(&t, "idle"));
    net.feed(&delta(&t, 1));
    assert_eq!(methods(&net.got(b)), ["<result>", "item/agentMessage/delta"]);
    assert_eq!(net.got_raw(a), NONE);
}

#[test]
fn an_unsubscribe_waits_for_the_resume_of_the_same_client() {
    for already_subscribed in [false, true] {
        let mut net = Net::new();
        let (a, b) = (net.join(), net.join());
        let t = net.start_thread(a, 1);
        if already_subscribed {
            net.resume_thread(b, &t);
        }
        let resume = net.forwarded(b, "thread/resume", &json!({"threadId": t}));
        unsubscribe(&mut net, b, &t);
        assert_eq!(net.got_raw(b), NONE, "the resume comes first");
        net.reply(resume, &Net::thread_result(&t, "idle"));
        let got = net.got(b);
        assert_eq!(methods(&got), ["<result>", "<result>"]);
        assert_eq!(word(&got[1]), "unsubscribed");
        net.feed(&delta(&t, 1));
        assert_eq!(net.got_raw(b), NONE, "the last request was an unsubscribe");
    }
}

#[test]
fn an_unsubscribe_that_waits_is_answered_when_the_resume_answers_something_else() {
    let mut net = Net::new();
    let a = net.join();
    for result in [json!({}), Net::thread_result(&thread(2), "idle")] {
        let resume = net.forwarded(a, "thread/resume", &json!({"threadId": thread(1)}));
        unsubscribe(&mut net, a, &thread(1));
        net.reply(resume, &result);
        let got = net.got(a);
        assert_eq!(methods(&got), ["<result>", "<result>"]);
        assert_eq!(word(&got[1]), "notLoaded");
    }
}

#[test]
fn an_unsubscribe_that_waits_for_a_place_does_not_undo_a_resume_that_overtook_it() {
    for leaves in [false, true] {
        let mut net = Net::limited(Limits { window: 1, ..Limits::default() });
        let (a, b, c) = (net.join(), net.join(), net.join());
        let t = net.start_thread(a, 1);
        let u = net.start_thread(c, 2);
        let blocker = net.forwarded(c, "thread/list", &json!({}));
        // Two of them, so that the second waits for the resume of another client.
        if leaves {
            net.leave(c);
            net.leave(a);
        } else {
            net.request(a, "first", "model/list", &json!({}));
            unsubscribe(&mut net, a, &t);
        }
        net.request(b, "resume", "thread/resume", &json!({"threadId": t}));
        net.reply(blocker, &json!({}));
        let mut sent = Vec::new();
        loop {
            let lines = net.sent();
            if lines.is_empty() {
                break;
            }
            for line in lines {
                let id = line["id"].as_i64().unwrap();
                match line["method"].as_str().unwrap() {
                    "thread/resume" => net.reply(id, &Net::thread_result(&t, "idle")),
                    _ => net.reply(id, &json!({"status": "unsubscribed"})),
                }
                sent.push(line);
            }
        }
        let of_t =
            |method: &str| sent.iter().position(|l| l["method"] == method && l["params"]["threadId"] == t);
        let resume = of_t("thread/resume").unwrap();
        assert!(of_t("thread/unsubscribe").is_none_or(|at| at < resume), "{sent:?}");
        if !leaves {
            let got = net.got(a);
            assert_eq!(word(&got[1]), "unsubscribed");
        }
        assert_eq!(net.got_methods(b), ["<result>"]);
        net.feed(&delta(&t, 1));
        assert_eq!(net.got_raw(b), [delta(&t, 1)]);
        let _ = u;
    }
}

#[test]
fn a_client_that_goes_lets_its_threads_be_unloaded() {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.leave(a);
    let sent = net.sent();
    assert_eq!(methods(&sent), ["thread/unsubscribe"]);
    assert_eq!(sent[0]["params"], json!({"threadId": t}));
}

#[test]
fn a_thread_that_was_opened_for_a_client_that_has_gone_is_let_go() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let id = net.forwarded(a, "thread/start", &json!({}));
    net.leave(a);
    assert_eq!(net.sent_raw(), NONE);
    net.reply(id, &Net::thread_result(&thread(1), "idle"));
    let sent = net.sent();
    assert_eq!(methods(&sent), ["thread/unsubscribe"]);
    assert_eq!(sent[0]["params"]["threadId"], thread(1));
    assert_eq!(net.got_raw(b), NONE);
}

#[test]
fn archive_delete_and_closed_end_all_subscriptions() {
    for method in ["thread/archive", "thread/delete"] {
        let mut net = Net::new();
        let (a, b) = (net.join(), net.join());
        let t = net.start_thread(a, 1);
        net.resume_thread(b, &t);
        let failed = net.forwarded(b, method, &json!({"threadId": t}));
        net.fail(failed, "no");
        net.got(b);
        net.feed(&delta(&t, 1));
        assert_eq!((net.got_raw(a).len(), net.got_raw(b).len()), (1, 1));
        let id = net.forwarded(b, method, &json!({"threadId": t}));
        net.reply(id, &json!({}));
        net.got(b);
        net.feed(&delta(&t, 2));
        assert_eq!((net.got_raw(a), net.got_raw(b)), (vec![], vec![]));
        unsubscribe(&mut net, a, &t);
        assert_eq!(word(&net.got_one(a)), "notLoaded");
    }
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.feed(&note("thread/closed", &json!({"threadId": t})));
    net.feed(&delta(&t, 1));
    assert_eq!(net.got_methods(a), ["thread/closed"]);
}

// ---- messages before it is known whose they are ------------------------------------------------------

#[test]
fn what_comes_before_the_response_of_a_fork_reaches_the_requester_before_it() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let source = net.start_thread(a, 1);
    let id = net.forwarded(b, "thread/fork", &json!({"threadId": source}));
    let startup = note("mcpServer/startupStatus/updated", &json!({"threadId": thread(2), "status": "ready"}));
    net.feed(&startup);
    net.feed(&delta(&source, 1));
    assert_eq!(net.got_raw(b), NONE, "not known yet whose it is");
    net.reply(id, &Net::thread_result(&thread(2), "idle"));
    net.feed(&delta(&thread(2), 2));
    let got = net.got(b);
    assert_eq!(methods(&got), ["mcpServer/startupStatus/updated", "<result>", "item/agentMessage/delta"]);
    assert_eq!(
        net.got_raw(a),
        [delta(&source, 1)],
        "the source's subscriber gets the source's messages only"
    );
}

#[test]
fn two_opens_in_flight_are_told_apart_by_their_responses() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let of_a = net.forwarded(a, "thread/start", &json!({}));
    let of_b = net.forwarded(b, "thread/start", &json!({}));
    let startup = |n| note("mcpServer/startupStatus/updated", &json!({"threadId": thread(n)}));
    net.feed(&startup(1));
    net.feed(&startup(2));
    net.reply(of_b, &Net::thread_result(&thread(2), "idle"));
    net.reply(of_a, &Net::thread_result(&thread(1), "idle"));
    assert_eq!(net.got_raw(a)[0], startup(1));
    assert_eq!(net.got_raw(b)[0], startup(2));
}

#[test]
fn what_no_response_explains_is_a_sub_agents() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let id = net.forwarded(a, "thread/start", &json!({}));
    net.feed(&status(&thread(9), "active"));
    net.feed(&turn_started(&thread(9), "u"));
    net.feed(&status(&thread(9), "idle"));
    let later = net.join();
    net.reply(id, &Net::thread_result(&thread(1), "idle"));
    net.feed(&delta(&thread(9), 1));
    let reported =
        ["thread/status/changed", "turn/started", "thread/status/changed", "item/agentMessage/delta"];
    assert_eq!(net.got_methods(b), reported, "in their order");
    assert_eq!(net.got_methods(a)[1..], reported);
    assert_eq!(
        net.got_methods(later),
        ["thread/status/changed", "thread/status/changed"],
        "it came after the thread was first seen"
    );
}

#[test]
fn all_clients_initialized_when_a_sub_agent_is_first_seen_are_subscribed_to_it() {
    let mut net = Net::new();
    let (a, b, silent) = (net.join(), net.join(), net.connect());
    let parent = net.start_thread(a, 1);
    let child = thread(2);
    net.feed(&status(&child, "active"));
    net.hush(&[a, b]);
    let later = net.join();
    net.feed(&delta(&child, 1));
    net.feed(&approval(5, &child));
    net.feed(&delta(&parent, 2));
    assert_eq!(net.got_raw(a), [delta(&child, 1), approval(5, &child), delta(&parent, 2)]);
    assert_eq!(
        net.got_raw(b),
        [delta(&child, 1), approval(5, &child)],
        "though not subscribed to the parent"
    );
    assert_eq!((net.got_raw(later), net.got_raw(silent)), (vec![], vec![]));
    net.resume_thread(later, &child);
    net.feed(&delta(&child, 3));
    assert_eq!(net.got_raw(later), [delta(&child, 3)]);
}

#[test]
fn messages_are_not_deferred_for_ever() {
    let mut net = Net::limited(Limits { deferral_ms: 500, ..Limits::default() });
    let (a, b) = (net.join(), net.join());
    net.forwarded(a, "thread/start", &json!({}));
    net.feed(&delta(&thread(2), 1));
    let due = net.router.poll_timeout().unwrap();
    assert_eq!(due.since(net.now), 500);
    net.pass(499);
    assert_eq!(net.got_raw(b), NONE);
    net.pass(1);
    assert_eq!(net.got_raw(b), [delta(&thread(2), 1)]);
}

#[test]
fn deferred_messages_are_delivered_when_the_request_they_wait_for_is_dropped_unsent() {
    let mut net = Net::limited(Limits { window: 1, ..Limits::default() });
    let (a, b) = (net.join(), net.join());
    net.forwarded(b, "thread/list", &json!({}));
    net.request(a, "s", "thread/start", &json!({}));
    net.feed(&delta(&thread(2), 1));
    net.leave(a);
    assert_eq!(net.got_raw(b), [delta(&thread(2), 1)]);
}

#[test]
fn a_failed_resume_leaves_deferred_messages_to_the_next_one() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let first = net.forwarded(a, "thread/resume", &json!({"threadId": thread(1)}));
    let second = net.forwarded(b, "thread/resume", &json!({"threadId": thread(1)}));
    net.fail(first, "closing; retry");
    let startup = note("mcpServer/startupStatus/updated", &json!({"threadId": thread(1)}));
    net.feed(&startup);
    net.reply(second, &Net::thread_result(&thread(1), "idle"));
    assert_eq!(net.got_raw(b)[0], startup);

    let first = net.forwarded(a, "thread/resume", &json!({"threadId": thread(2)}));
    let second = net.forwarded(b, "thread/resume", &json!({"threadId": thread(2)}));
    let startup = note("mcpServer/startupStatus/updated", &json!({"threadId": thread(2)}));
    net.hush(&[a, b]);
    net.feed(&startup);
    net.fail(first, "closing; retry");
    net.reply(second, &Net::thread_result(&thread(2), "idle"));
    assert_eq!(net.got_raw(b)[0], startup);
}

#[test]
fn a_failed_resume_lets_go_of_a_thread_that_was_kept_for_it() {
    for unsent in [false, true] {
        let mut net = Net::limited(Limits { window: 1, ..Limits::default() });
        let (a, b) = (net.join(), net.join());
        let t = net.start_thread(a, 1);
        let blocker = unsent.then(|| net.forwarded(a, "thread/list", &json!({})));
        net.request(b, "r", "thread/resume", &json!({"threadId": t}));
        let resume = net.sent();
        unsubscribe(&mut net, a, &t);
        assert_eq!(word(&net.got_one(a)), "unsubscribed");
        match blocker {
            Some(id) => {
                net.leave(b);
                net.reply(id, &json!({}));
            }
            None => net.fail(resume[0]["id"].as_i64().unwrap(), "closing; retry"),
        }
        assert_eq!(methods(&net.sent()), ["thread/unsubscribe"]);
    }
}

// ---- things without an address -----------------------------------------------------------------------

fn usage(t: &str, turn: &str) -> String {
    note("thread/tokenUsage/updated", &json!({"threadId": t, "turnId": turn}))
}

#[test]
fn the_token_usage_behind_a_resume_is_for_the_requester_and_later_ones_for_all() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    let id = net.forwarded(b, "thread/resume", &json!({"threadId": t}));
    net.reply(id, &Net::thread_result(&t, "idle"));
    net.feed(&usage(&t, "old"));
    assert_eq!(net.got_methods(b), ["<result>", "thread/tokenUsage/updated"]);
    assert_eq!(net.got_raw(a), NONE);
    net.feed(&turn_started(&t, "u"));
    net.feed(&usage(&t, "u"));
    assert_eq!((net.got_raw(a).len(), net.got_raw(b).len()), (2, 2));
}

#[test]
fn the_token_usage_behind_the_resume_of_a_client_that_has_gone_is_for_nobody() {
    for goes_before_the_response in [true, false] {
        let mut net = Net::new();
        let (a, b) = (net.join(), net.join());
        let t = net.start_thread(a, 1);
        let id = net.forwarded(b, "thread/resume", &json!({"threadId": t}));
        if goes_before_the_response {
            net.leave(b);
        }
        net.reply(id, &Net::thread_result(&t, "idle"));
        if !goes_before_the_response {
            net.leave(b);
        }
        net.feed(&usage(&t, "old"));
        assert_eq!(net.got_raw(a), NONE);
    }
}

#[test]
fn the_token_usage_behind_a_resume_in_a_turn_is_for_the_requester_and_behind_the_goal_for_all() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.open_turn(&t, "u");
    net.hush(&[a, b]);
    let goal = note("thread/goal/cleared", &json!({"threadId": t}));
    for has_usage in [true, false] {
        let id = net.forwarded(b, "thread/resume", &json!({"threadId": t}));
        net.reply(id, &Net::thread_result(&t, "active"));
        if has_usage {
            net.feed(&usage(&t, "u"));
            assert_eq!(net.got_methods(b), ["<result>", "thread/tokenUsage/updated"]);
            assert_eq!(net.got_raw(a), NONE);
        }
        net.feed(&goal);
        net.hush(&[a, b]);
        net.feed(&usage(&t, "u"));
        assert_eq!((net.got_raw(a), net.got_raw(b)), (vec![usage(&t, "u")], vec![usage(&t, "u")]));
    }
}

#[test]
fn the_goal_of_an_earlier_resume_does_not_end_the_wait_for_the_copy_of_a_later_one() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    let goal = note("thread/goal/cleared", &json!({"threadId": t}));
    for client in [a, b] {
        let id = net.forwarded(client, "thread/resume", &json!({"threadId": t}));
        net.reply(id, &Net::thread_result(&t, "idle"));
        if client == a {
            net.feed(&usage(&t, "old"));
        }
    }
    net.feed(&goal);
    net.hush(&[a, b]);
    net.feed(&usage(&t, "old"));
    assert_eq!((net.got_raw(a).len(), net.got_raw(b).len()), (0, 1));
}

#[test]
fn rate_limits_go_to_the_subscribers_of_threads_with_an_active_turn() {
    let mut net = Net::new();
    let (a, b, c) = (net.join(), net.join(), net.join());
    let one = net.start_thread(a, 1);
    let two = net.start_thread(b, 2);
    net.start_thread(c, 3);
    net.open_turn(&one, "u1");
    net.open_turn(&two, "u2");
    net.hush(&[a, b, c]);
    net.resume_thread(a, &two);
    net.hush(&[a, b, c]);
    let limits = note("account/rateLimits/updated", &json!({"rateLimits": {}}));
    net.feed(&limits);
    assert_eq!(net.got_raw(a), [limits.as_str()], "once, though two of its threads are active");
    assert_eq!(net.got_raw(b), [limits.as_str()]);
    assert_eq!(net.got_raw(c), NONE);
}

#[test]
fn an_unsubscribe_in_another_form_of_the_id_takes_nobody_elses_subscription() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let id = net.start_thread(a, 1);
    net.resume_thread(b, &id);
    net.hush(&[a, b]);
    for form in [id.to_uppercase(), id.replace('-', ""), format!("urn:uuid:{id}"), format!("{{{id}}}")] {
        net.resume_thread(b, &id);
        net.hush(&[a, b]);
        for status in ["unsubscribed", "notSubscribed"] {
            net.request(b, 1, "thread/unsubscribe", &json!({"threadId": form}));
            assert_eq!(net.got_one(b)["result"]["status"], status, "{form}");
            assert_eq!(net.sent_raw(), NONE, "the upstream would end the subscription of all");
        }
    }
}

#[test]
fn rate_limits_belong_to_the_thread_whose_usage_came_right_before() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let one = net.start_thread(a, 1);
    let two = net.start_thread(b, 2);
    net.open_turn(&one, "u1");
    net.open_turn(&two, "u2");
    net.hush(&[a, b]);
    let limits = note("account/rateLimits/updated", &json!({"rateLimits": {}}));
    net.feed(&usage(&one, "u1"));
    net.feed(&limits);
    assert_eq!(net.got_raw(a), [usage(&one, "u1"), limits.clone()]);
    assert_eq!(net.got_raw(b), NONE);
    // Of two, each has its own.
    net.feed(&usage(&one, "u1"));
    net.feed(&usage(&two, "u2"));
    net.feed(&limits);
    net.feed(&limits);
    assert_eq!(net.got_raw(a), [usage(&one, "u1"), limits.clone()]);
    assert_eq!(net.got_raw(b), [usage(&two, "u2"), limits.clone()]);
    // None came for the first: with its turn, that is over.
    net.feed(&usage(&one, "u1"));
    net.feed(&note("turn/completed", &json!({"threadId": one, "turn": {"id": "u1"}})));
    net.hush(&[a, b]);
    net.feed(&limits);
    assert_eq!(net.got_raw(b), [limits]);
}

#[test]
fn a_deprecation_notice_goes_to_who_reads_a_whole_thread() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let notice = note("deprecationNotice", &json!({"summary": "old"}));
    net.forwarded(a, "thread/read", &json!({"threadId": thread(1)}));
    net.forwarded(b, "thread/read", &json!({"threadId": thread(1), "includeTurns": true}));
    net.feed(&notice);
    assert_eq!((net.got_raw(a), net.got_raw(b)), (vec![], vec![notice]));
}

#[test]
fn a_deprecation_notice_goes_to_the_oldest_requester_that_may_have_caused_it() {
    let mut net = Net::new();
    let (a, b, c) = (net.join(), net.join(), net.join());
    let notice = note("deprecationNotice", &json!({"summary": "old"}));
    net.forwarded(a, "thread/resume", &json!({"threadId": thread(1), "excludeTurns": true}));
    let of_b = net.forwarded(b, "thread/resume", &json!({"threadId": thread(2)}));
    net.forwarded(c, "thread/fork", &json!({"threadId": thread(3)}));
    net.feed(&notice);
    assert_eq!((net.got_raw(a), net.got_raw(b)), (vec![], vec![notice.clone()]));
    net.reply(of_b, &Net::thread_result(&thread(2), "idle"));
    net.got(b);
    net.feed(&notice);
    assert_eq!((net.got_raw(b), net.got_raw(c)), (vec![], vec![notice]));
}

#[test]
fn a_deprecation_notice_without_a_cause_goes_to_everyone() {
    let mut net = Net::limited(Limits { window: 1, ..Limits::default() });
    let (a, b) = (net.join(), net.join());
    let notice = note("deprecationNotice", &json!({"summary": "old"}));
    net.feed(&notice);
    assert_eq!((net.got_raw(a).len(), net.got_raw(b).len()), (1, 1));
    // A resume that was never sent, of a client that has gone, causes nothing.
    net.forwarded(b, "thread/list", &json!({}));
    net.request(a, "r", "thread/resume", &json!({"threadId": thread(1)}));
    net.leave(a);
    net.feed(&notice);
    assert_eq!(net.got_raw(b), [notice]);
}

#[test]
fn the_end_of_a_windows_setup_goes_to_who_began_it() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let done = note("windowsSandbox/setupCompleted", &json!({"success": true}));
    let id = net.forwarded(a, "windowsSandbox/setupStart", &json!({}));
    net.reply(id, &json!({}));
    net.got(a);
    net.feed(&done);
    assert_eq!((net.got_raw(a).len(), net.got_raw(b).len()), (1, 0));
}

// ---- turns -------------------------------------------------------------------------------------------

#[test]
fn a_turn_is_open_from_its_start_to_its_end() {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    assert!(net.router.is_quiet());
    net.open_turn(&t, "u");
    assert!(!net.router.is_quiet());
    net.feed(&status(&t, "idle"));
    assert!(!net.router.is_quiet(), "its end has not been reported yet");
    net.feed(&turn_completed(&t, "u"));
    assert!(net.router.is_quiet());
}

#[test]
fn the_answer_to_turn_start_opens_the_turn_unless_its_end_came_first() {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    let started = json!({"turn": {"id": "u", "status": "inProgress"}});
    let id = net.forwarded(a, "turn/start", &json!({"threadId": t}));
    net.reply(id, &started);
    assert!(!net.router.is_quiet());
    net.feed(&turn_completed(&t, "u"));
    assert!(net.router.is_quiet());
    let id = net.forwarded(a, "turn/start", &json!({"threadId": t}));
    net.reply(id, &started);
    assert!(net.router.is_quiet(), "that turn has ended");
}

#[test]
fn a_turn_without_subscribers_ends_with_the_threads_status() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.open_turn(&t, "u");
    net.request(a, "x", "thread/unsubscribe", &json!({"threadId": t}));
    let sent = net.sent();
    net.hush(&[a, b]);
    net.reply(sent[0]["id"].as_i64().unwrap(), &json!({"status": "unsubscribed"}));
    assert!(!net.router.is_quiet(), "it goes on");
    // No client is subscribed any more, so the upstream does not send the turn's end.
    net.feed(&status(&t, "idle"));
    assert!(net.router.is_quiet());
}

#[test]
fn a_thread_whose_last_client_has_left_is_released_when_its_turn_has_ended() {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.open_turn(&t, "u");
    net.leave(a);
    net.feed(&delta(&t, 1));
    let mut report = StatusReport::default();
    net.router.fill_status(net.now, &mut report);
    assert_eq!(report.counters.dropped_messages, 0, "nobody is there on purpose");
    net.feed(&status(&t, "idle"));
    assert!(!net.router.is_quiet(), "the end of the turn follows");
    assert_eq!(net.sent_raw(), NONE);
    net.feed(&turn_completed(&t, "u"));
    assert_eq!(methods(&net.sent()), ["thread/unsubscribe"]);
    // One on which nothing runs is released at once.
    let b = net.join();
    let _ = net.start_thread(b, 2);
    net.leave(b);
    assert_eq!(methods(&net.sent()), ["thread/unsubscribe"]);
}

#[test]
fn a_thread_that_is_kept_is_not_released_when_a_client_has_come_back() {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.open_turn(&t, "u");
    net.leave(a);
    let b = net.join();
    let resume = net.forwarded(b, "thread/resume", &json!({"threadId": t}));
    net.reply(resume, &Net::thread_result(&t, "active"));
    net.feed(&turn_completed(&t, "u"));
    assert_eq!(net.sent_raw(), NONE);
    assert_eq!(net.got_methods(b), ["<result>", "turn/completed"]);
}

#[test]
fn a_closed_thread_has_no_open_turn() {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.open_turn(&t, "u");
    net.feed(&note("thread/closed", &json!({"threadId": t})));
    assert!(net.router.is_quiet());
}

#[test]
fn a_resumed_thread_tells_of_its_running_turn() {
    let mut net = Net::new();
    let a = net.join();
    let id = net.forwarded(a, "thread/resume", &json!({"threadId": thread(1)}));
    let turns = json!([{"id": "u1", "status": "completed"}, {"id": "u2", "status": "inProgress"}]);
    let result = json!({"thread": {"id": thread(1), "status": {"type": "active"}, "turns": turns}});
    net.reply(id, &result);
    net.got(a);
    net.lose();
    let got = net.got(a);
    assert_eq!(methods(&got)[..3], ["thread/status/changed", "error", "turn/completed"]);
    assert_eq!((&got[1]["params"]["turnId"], &got[2]["params"]["turn"]["id"]), (&json!("u2"), &json!("u2")));
}

#[test]
fn an_unsubscribe_between_two_resumes_does_not_undo_the_second() {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    let first = net.forwarded(a, "thread/resume", &json!({"threadId": t}));
    unsubscribe(&mut net, a, &t);
    let second = net.forwarded(a, "thread/resume", &json!({"threadId": t}));
    net.reply(first, &Net::thread_result(&t, "idle"));
    let got = net.got(a);
    assert_eq!((methods(&got).len(), word(&got[1])), (2, "unsubscribed"));
    net.reply(second, &Net::thread_result(&t, "idle"));
    net.feed(&delta(&t, 1));
    assert_eq!(methods(&net.got(a)), ["<result>", "item/agentMessage/delta"]);
    assert_eq!(net.sent_raw(), NONE);
}

#[test]
fn an_unsubscribe_that_is_refused_changes_nothing() {
    let mut net = Net::limited(Limits { window: 1, queued_requests_per_client: 1, ..Limits::default() });
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.forwarded(a, "thread/list", &json!({}));
    net.request(a, "queued", "model/list", &json!({}));
    unsubscribe(&mut net, a, &t);
    assert_eq!(net.got_one(a)["error"]["code"], -32001);
    net.feed(&delta(&t, 1));
    assert_eq!(net.got_raw(a), [delta(&t, 1)]);
}

#[test]
fn a_sub_agent_that_is_resumed_while_it_is_deferred_is_still_everyones() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    net.forwarded(a, "thread/start", &json!({}));
    net.feed(&delta(&thread(9), 1));
    // Its parent's messages may have named it to a client.
    let resume = net.forwarded(b, "thread/resume", &json!({"threadId": thread(9)}));
    net.feed(&delta(&thread(9), 2));
    net.reply(resume, &Net::thread_result(&thread(9), "active"));
    assert_eq!(net.got_raw(a), [delta(&thread(9), 1), delta(&thread(9), 2)]);
    assert_eq!(net.got_raw(b)[..2], [delta(&thread(9), 1), delta(&thread(9), 2)]);
}

#[test]
fn a_sub_agent_without_subscribers_is_released() {
    let mut net = Net::new();
    net.feed(&status(&thread(9), "active"));
    let sent = net.sent();
    assert_eq!(methods(&sent), ["thread/unsubscribe"]);
    assert_eq!(sent[0]["params"]["threadId"], thread(9));
    assert!(!net.router.is_quiet(), "it runs all the same");
    net.feed(&status(&thread(9), "idle"));
    assert_eq!(net.sent_raw(), NONE);
}

#[test]
fn a_thread_of_which_codex_sends_nothing_is_not_kept() {
    let mut net = Net::limited(Limits { window: 1, ..Limits::default() });
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.open_turn(&t, "u");
    net.hush(&[a, b]);
    let unsubscribe = net.forwarded(a, "thread/unsubscribe", &json!({"threadId": t}));
    net.reply(unsubscribe, &json!({"status": "unsubscribed"}));
    // A resume that is never sent: its client leaves first.
    net.forwarded(a, "thread/list", &json!({}));
    net.request(b, "r", "thread/resume", &json!({"threadId": t}));
    net.leave(b);
    net.feed(&status(&t, "idle"));
    assert_eq!(net.router.accounting().turns, 0, "nothing else tells of its end");
}

#[test]
fn a_thread_whose_unsubscribe_is_in_flight_ends_although_it_is_kept() {
    let mut net = Net::limited(Limits { window: 2, ..Limits::default() });
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.open_turn(&t, "u");
    net.hush(&[a, b]);
    let unsubscribe = net.forwarded(a, "thread/unsubscribe", &json!({"threadId": t}));
    net.forwarded(a, "thread/list", &json!({}));
    net.request(b, "r", "thread/resume", &json!({"threadId": t}));
    net.leave(b);
    net.feed(&status(&t, "idle"));
    net.reply(unsubscribe, &json!({"status": "unsubscribed"}));
    assert_eq!(net.router.accounting().turns, 0, "the end of the turn does not follow");
}

#[test]
fn a_thread_that_is_kept_is_not_released_by_the_end_of_a_turn_that_was_deferred() {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.open_turn(&t, "u");
    net.leave(a);
    let b = net.join();
    let resume = net.forwarded(b, "thread/resume", &json!({"threadId": t}));
    net.feed(&status(&t, "idle"));
    net.feed(&turn_completed(&t, "u"));
    net.reply(resume, &Net::thread_result(&t, "idle"));
    assert_eq!(net.sent_raw(), NONE, "the new subscriber would get nothing");
    net.got(b);
    net.feed(&delta(&t, 1));
    assert_eq!(net.got_raw(b), [delta(&t, 1)]);
}

#[test]
fn a_thread_that_ends_while_its_messages_are_deferred_is_not_taken_for_a_sub_agents() {
    let mut net = Net::limited(Limits { remembered_threads: 1, ..Limits::default() });
    let (a, b, c) = (net.join(), net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.hush(&[a, b, c]);
    net.request(b, "r", "thread/resume", &json!({"threadId": t}));
    net.hush(&[a]);
    net.leave(a);
    let archive = net.forwarded(b, "thread/archive", &json!({"threadId": t}));
    // Nobody is subscribed, and somebody is about to be.
    net.open_turn(&t, "u");
    net.feed(&turn_completed(&t, "u"));
    net.reply(archive, &json!({}));
    // Other threads take its place.
    for n in 2..5 {
        net.start_thread(c, n);
    }
    net.leave(b);
    net.pass(1_000_000);
    assert!(net.got(c).iter().all(|line| line["method"] == "thread/status/changed"), "it is nobody's");
}

#[test]
fn what_is_left_over_from_an_earlier_subscription_is_not_for_the_next_subscriber() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.open_turn(&t, "u");
    let unsubscribe = net.forwarded(a, "thread/unsubscribe", &json!({"threadId": t}));
    net.hush(&[a, b]);
    let resume = net.forwarded(b, "thread/resume", &json!({"threadId": t}));
    // Sent before the upstream had read the first client's unsubscribe.
    net.feed(&delta(&t, 1));
    net.feed(&approval(0, &t));
    net.reply(unsubscribe, &json!({"status": "unsubscribed"}));
    // And these while no client was subscribed.
    net.feed(&status(&t, "idle"));
    net.reply(resume, &Net::thread_result(&t, "idle"));
    assert_eq!(net.got_methods(b), ["thread/status/changed", "<result>"]);
    assert!(net.router.is_quiet());
    assert_eq!(net.router.accounting().server_requests, 0);
}

#[test]
fn what_comes_from_loading_a_thread_again_is_for_the_next_subscriber() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.leave(a);
    net.sent();
    let resume = net.forwarded(b, "thread/resume", &json!({"threadId": t}));
    let startup = note("mcpServer/startupStatus/updated", &json!({"threadId": t}));
    net.feed(&delta(&t, 1));
    net.feed(&status(&t, "notLoaded"));
    net.feed(&note("thread/closed", &json!({"threadId": t})));
    net.feed(&startup);
    net.reply(resume, &Net::thread_result(&t, "idle"));
    let reported = ["thread/status/changed", "thread/closed", "mcpServer/startupStatus/updated", "<result>"];
    assert_eq!(net.got_methods(b), reported);
    net.feed(&delta(&t, 2));
    assert_eq!(net.got_raw(b), [delta(&t, 2)]);
}

// ---- requests that subscribe beside what they are for ----------------------------------------------------

const BESIDE: [&str; 7] = [
    "thread/revert",
    "thread/guardianReview",
    "thread/realtime/start",
    "thread/realtime/appendAudio",
    "thread/realtime/appendText",
    "thread/realtime/appendSpeech",
    "thread/realtime/stop",
];

#[test]
fn a_request_that_subscribes_on_the_way_does_so_also_when_it_fails() {
    for method in BESIDE {
        for error in [None, Some("turn not found: x"), Some("Invalid request: missing field `x`")] {
            let mut net = Net::new();
            let (a, b) = (net.join(), net.join());
            let t = net.start_thread(a, 1);
            let id = net.forwarded(b, method, &json!({"threadId": t}));
            match error {
                None => net.reply(id, &json!({})),
                Some(message) => net.fail(id, message),
            }
            net.hush(&[a, b]);
            net.feed(&delta(&t, 1));
            let subscribed = error.is_none_or(|message| !message.starts_with("Invalid"));
            assert_eq!(net.got_raw(b).len(), usize::from(subscribed), "{method} {error:?}");
            assert_eq!(net.got_raw(a), [delta(&t, 1)]);
        }
    }
}

#[test]
fn what_fails_on_a_thread_that_is_not_loaded_subscribes_nobody() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.feed(&status(&t, "notLoaded"));
    for name in [t.as_str(), &thread(9), "nonsense"] {
        let id = net.forwarded(b, "thread/revert", &json!({"threadId": name}));
        net.fail(id, "thread not found");
    }
    net.hush(&[a, b]);
    net.resume_thread(a, &t);
    net.hush(&[a, b]);
    net.feed(&delta(&t, 1));
    assert_eq!((net.got_raw(a).len(), net.got_raw(b).len()), (1, 0));
}

#[test]
fn a_client_that_leaves_before_it_is_subscribed_on_the_way_leaves_nothing_behind() {
    for fails in [false, true] {
        let mut net = Net::new();
        let (a, b) = (net.join(), net.join());
        let t = net.start_thread(a, 1);
        net.leave(a);
        assert_eq!(methods(&net.sent()), ["thread/unsubscribe"]);
        let id = net.forwarded(b, "thread/realtime/stop", &json!({"threadId": t}));
        net.leave(b);
        assert_eq!(net.sent_raw(), NONE, "it may yet subscribe");
        if fails {
            net.fail(id, "no conversation")
        } else {
            net.reply(id, &json!({}))
        }
        assert_eq!(methods(&net.sent()), ["thread/unsubscribe"]);
    }
}

#[test]
fn an_unsubscribe_waits_for_a_request_that_subscribes_on_the_way() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    let id = net.forwarded(b, "thread/revert", &json!({"threadId": t, "beforeTurnId": "x"}));
    net.request(b, 2, "thread/unsubscribe", &json!({"threadId": t}));
    net.fail(id, "turn not found");
    let got = net.got(b);
    assert_eq!(methods(&got), ["<error>", "<result>"]);
    assert_eq!(got[1]["result"]["status"], "unsubscribed");
    net.feed(&delta(&t, 1));
    assert_eq!((net.got_raw(a).len(), net.got_raw(b).len()), (1, 0));
}

// ---- threads that are not loaded any more ------------------------------------------------------------------

#[test]
fn a_revert_loads_the_thread_again_and_all_subscriptions_survive() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.open_turn(&t, "u");
    let id = net.forwarded(b, "thread/revert", &json!({"threadId": t, "beforeTurnId": "u"}));
    net.feed(&delta(&t, 1));
    net.hush(&[a]);
    assert_eq!(
        net.got_methods(b),
        ["thread/status/changed"],
        "it is not subscribed before the upstream begins"
    );
    net.feed(&status(&t, "idle"));
    net.feed(&turn_completed(&t, "u"));
    net.feed(&status(&t, "notLoaded"));
    net.feed(&status(&t, "idle"));
    net.reply(id, &json!({}));
    let status = "thread/status/changed";
    let reported = [status, "turn/completed", status, status];
    assert_eq!(net.got_methods(a), reported);
    assert_eq!(net.got_methods(b)[..4], reported);
    net.feed(&delta(&t, 2));
    assert_eq!((net.got_raw(a), net.got_raw(b)), (vec![delta(&t, 2)], vec![delta(&t, 2)]));
    assert_eq!(net.router.accounting().subscriptions, 2);
}

#[test]
fn a_thread_that_is_not_loaded_any_more_has_no_subscribers() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.resume_thread(b, &t);
    net.open_turn(&t, "u");
    net.feed(&approval(0, &t));
    net.hush(&[a, b]);
    let id = net.forwarded(a, "thread/delete", &json!({"threadId": t}));
    net.feed(&status(&t, "notLoaded"));
    net.fail(id, "cannot delete thread: forked history still references it");
    assert_eq!(net.got_methods(a), ["thread/status/changed", "<error>"]);
    assert_eq!(net.got_methods(b), ["thread/status/changed"]);
    for client in [a, b] {
        net.request(client, 1, "thread/unsubscribe", &json!({"threadId": t}));
        assert_eq!(net.got_one(client)["result"]["status"], "notLoaded");
    }
    assert_eq!(net.sent_raw(), NONE);
    assert!(net.router.is_quiet());
    let kept = net.router.accounting();
    assert_eq!((kept.subscriptions, kept.subscribers, kept.turns, kept.server_requests), (0, 0, 0, 0));
    net.resume_thread(b, &t);
    net.feed(&delta(&t, 1));
    assert_eq!((net.got_raw(a).len(), net.got_raw(b).len()), (0, 1));
}

#[test]
fn a_delete_before_a_revert_unloads_for_good() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    let delete = net.forwarded(a, "thread/delete", &json!({"threadId": t}));
    let revert = net.forwarded(b, "thread/revert", &json!({"threadId": t, "beforeTurnId": "u"}));
    net.feed(&status(&t, "notLoaded"));
    net.fail(delete, "cannot delete thread: forked history still references it");
    net.fail(revert, "thread not found");
    net.hush(&[a, b]);
    net.feed(&delta(&t, 1));
    assert_eq!((net.got_raw(a).len(), net.got_raw(b).len()), (0, 0));
    assert_eq!(net.router.accounting().subscriptions, 0);
}

// ---- reviews -----------------------------------------------------------------------------------------------

#[test]
fn a_review_ends_under_the_id_of_its_answer_though_it_began_under_another() {
    let mut net = Net::new();
    let a = net.join();
    let t = net.start_thread(a, 1);
    let review = |net: &mut Net| {
        let id = net.forwarded(a, "review/start", &json!({"threadId": t, "target": {}}));
        let turn = json!({"id": "answered", "status": "inProgress", "items": []});
        net.reply(id, &json!({"turn": turn, "reviewThreadId": t}));
        net.feed(&status(&t, "active"));
        net.feed(&turn_started(&t, "begun"));
    };
    review(&mut net);
    net.feed(&status(&t, "idle"));
    assert!(!net.router.is_quiet());
    net.feed(&turn_completed(&t, "answered"));
    assert!(net.router.is_quiet(), "nothing is left open");

    let mut net = Net::new();
    let a = net.join();
    assert_eq!(net.start_thread(a, 1), t);
    review(&mut net);
    net.got(a);
    // It is interrupted under the id that it began under.
    net.router.interrupt_turns(net.now);
    assert_eq!(net.sent()[0]["params"]["turnId"], "begun");
    net.lose();
    let end = net.got(a).into_iter().find(|it| it["method"] == "turn/completed").unwrap();
    assert_eq!(end["params"]["turn"]["id"], "answered");
}

#[test]
fn subscribers_get_every_line_in_order_whatever_else_is_queued_for_them() {
    let mut net = Net::new();
    let clients = [net.join(), net.join(), net.join()];
    // Who is subscribed: all to the first one, two to the second one, one to the third one.
    let names: Vec<String> = (1..4).map(|n| net.start_thread(clients[0], n)).collect();
    net.resume_thread(clients[1], &names[0]);
    net.resume_thread(clients[1], &names[1]);
    net.resume_thread(clients[2], &names[0]);
    net.hush(&clients);
    let mut expected = [const { Vec::new() }; 3];
    let mut random = 1u64;
    let mut below = |n: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % n
    };
    for step in 0..3_000 {
        // The first thread more often, so that long blocks of its lines arise.
        let thread = [0, 0, 0, 0, 0, 0, 1, 2][below(8) as usize];
        match below(100) {
            0..=94 => {
                let text = "x".repeat(below(600) as usize);
                let params = json!({"threadId": names[thread], "turnId": "t", "itemId": "i", "delta": text});
                let line = note("item/agentMessage/delta", &params);
                net.feed(&line);
                expected.iter_mut().take(3 - thread).for_each(|lines| lines.push(line.clone()));
            }
            95 | 96 => {
                let line = note("warning", &json!({"message": step.to_string()}));
                net.feed(&line);
                expected.iter_mut().for_each(|lines| lines.push(line.clone()));
            }
            97 | 98 => {
                let at = below(3) as usize;
                let id = net.forwarded(clients[at], "thread/list", &json!({}));
                net.reply(id, &json!(step));
                expected[at].push(format!(r#"{{"id":"r","result":{step}}}"#));
            }
            _ => {
                let at = below(3) as usize;
                assert_eq!(net.got_raw(clients[at]), std::mem::take(&mut expected[at]), "step {step}");
            }
        }
    }
    for (client, expected) in clients.into_iter().zip(expected) {
        assert_eq!(net.got_raw(client), expected);
    }
}
