//! A thread that an earlier codex had loaded has the same permissions in this one.

use codexd_proto::id::ClientId;
use codexd_proto::router::{Action, Limits};
use codexd_proto::thread_book::{Entry, Permissions, ThreadBook};
use serde_json::{Value, json};

use crate::net::{Net, methods, note, thread};

fn workspace() -> Value {
    json!({"type": "workspaceWrite", "writableRoots": ["/extra"], "networkAccess": true})
}

fn full() -> Value {
    json!({"type": "dangerFullAccess"})
}

fn permissions(sandbox: Value) -> Permissions {
    Permissions { sandbox_policy: sandbox, approval_policy: json!("on-request"), profile: Value::Null }
}

/// A router that remembers one thread of an earlier codex, with a policy that differs from the default; and that thread.
fn net(limits: Limits) -> (Net, String) {
    let name = thread(1);
    let mut net = Net::limited(limits);
    let entry = Entry { thread_id: name.clone(), permissions: Some(permissions(workspace())) };
    net.router.remember_earlier(ThreadBook::of_earlier([entry]));
    (net, name)
}

fn result(thread: &str, sandbox: &Value) -> Value {
    let mut result = Net::thread_result(thread, "idle");
    result["sandbox"] = sandbox.clone();
    result["approvalPolicy"] = json!("on-request");
    result["activePermissionProfile"] = Value::Null;
    result
}

fn updated(thread: &str, sandbox: &Value) -> String {
    let settings =
        json!({"sandboxPolicy": sandbox, "approvalPolicy": "on-request", "activePermissionProfile": null});
    note("thread/settings/updated", &json!({"threadId": thread, "threadSettings": settings}))
}

/// Resumes the thread and answers with these permissions; returns what goes up then.
fn resumed_with(
    net: &mut Net,
    client: ClientId,
    thread: &str,
    params: &Value,
    sandbox: &Value,
) -> Vec<Value> {
    let id = net.forwarded(client, "thread/resume", params);
    net.reply(id, &result(thread, sandbox));
    assert_eq!(net.got_methods(client), ["<result>"]);
    net.sent()
}

#[test]
fn a_resume_by_id_gets_the_sandbox_and_then_the_exact_policy_that_the_thread_had() {
    let (mut net, name) = net(Limits::default());
    let (a, b) = (net.join(), net.join());
    net.request(a, 1, "thread/resume", &json!({"threadId": name, "sandbox": null}));
    let sent = net.sent();
    assert_eq!(sent[0]["params"], json!({"threadId": name, "sandbox": "workspace-write"}));
    // What comes before its permissions are known waits, of everyone; other threads go on.
    net.request(a, 2, "turn/start", &json!({"threadId": name, "input": []}));
    net.request(b, 3, "turn/start", &json!({"threadId": name.to_uppercase(), "input": []}));
    net.request(b, 4, "turn/start", &json!({"threadId": thread(2), "input": []}));
    assert_eq!(
        net.sent().into_iter().map(|line| line["params"]["threadId"].clone()).collect::<Vec<_>>(),
        [thread(2)]
    );
    assert!(!net.router.is_quiet() && net.router.has_pending_replies(a));
    let default_roots = json!({"type": "workspaceWrite", "writableRoots": [], "networkAccess": false});
    net.reply(sent[0]["id"].as_i64().unwrap(), &result(&name, &default_roots));
    assert_eq!(net.got_methods(a), ["<result>"]);
    let sent = net.sent();
    assert_eq!(methods(&sent), ["thread/settings/update"]);
    assert_eq!(sent[0]["params"], json!({"threadId": name, "sandboxPolicy": workspace()}));
    net.reply(sent[0]["id"].as_i64().unwrap(), &json!({}));
    assert_eq!(methods(&net.sent()), ["turn/start", "turn/start"]);
    net.feed(&updated(&name, &workspace()));
    assert_eq!(net.got_methods(a), ["thread/settings/updated"]);
    // It is known to this codex from now on, and natively resumed again.
    assert_eq!(
        net.router.thread_book().of_earlier_codex(&codexd_proto::id::ThreadId::new(name.as_bytes())),
        None
    );
    assert_eq!(net.actions(), []);
}

#[test]
fn nothing_is_corrected_that_is_right_already() {
    let (mut net, name) = net(Limits::default());
    let a = net.join();
    let by_id = json!({"threadId": name});
    assert_eq!(resumed_with(&mut net, a, &name, &by_id, &workspace()), [] as [Value; 0]);
    net.request(a, 1, "turn/start", &json!({"threadId": name, "input": []}));
    assert_eq!(methods(&net.sent()), ["turn/start"]);
}

#[test]
fn what_a_client_says_itself_counts_and_is_remembered() {
    for more in [
        json!({"sandbox": "read-only"}),
        json!({"permissions": "x"}),
        json!({"config": {"sandbox_mode": "read-only"}}),
        json!({"config": {"sandbox_workspace_write.network_access": false}}),
    ] {
        let (mut net, name) = net(Limits::default());
        let a = net.join();
        let mut params = more.clone();
        params["threadId"] = json!(name);
        let id = net.forwarded(a, "thread/resume", &params);
        net.reply(id, &result(&name, &full()));
        assert_eq!(net.sent(), [] as [Value; 0], "{more}");
        let permissions = Some(permissions(full()));
        assert_eq!(
            net.actions(),
            [Action::Remember { thread: codexd_proto::id::ThreadId::new(name.as_bytes()), permissions }]
        );
    }
    let (mut net, name) = net(Limits::default());
    let a = net.join();
    let params = json!({"threadId": name, "config": {"model_verbosity": "low", "sandbox_modes": 1}});
    let sent = resumed_with(&mut net, a, &name, &params, &full());
    assert_eq!(methods(&sent), ["thread/settings/update"], "a configuration of something else");
}

#[test]
fn by_position_the_policy_is_restored_after_the_resume() {
    let (mut net, name) = net(Limits::default());
    let a = net.join();
    let sent = resumed_with(&mut net, a, &name, &json!([name]), &full());
    assert_eq!(methods(&sent), ["thread/settings/update"]);
}

#[test]
fn work_on_a_thread_whose_permissions_are_not_restored_is_refused() {
    let (mut net, name) = net(Limits::default());
    let a = net.join();
    let sent = resumed_with(&mut net, a, &name, &json!({"threadId": name}), &full());
    net.request(a, 1, "turn/start", &json!({"threadId": name, "input": []}));
    net.fail(sent[0]["id"].as_i64().unwrap(), "not today");
    let refused = net.got_one(a);
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!(1), &json!(-32600)));
    assert_eq!(refused["error"]["data"]["codexd"]["reason"], "permissionsNotRestored");
    assert!(refused["error"]["message"].as_str().unwrap().contains("(not today)"), "{refused}");
    let thread_id = codexd_proto::id::ThreadId::new(name.as_bytes());
    assert_eq!(
        net.actions(),
        [Action::PermissionsNotRestored { thread: thread_id, reason: "not today".to_owned() }]
    );
    // Reading is no work, a turn with a policy of its own is the client's decision, and the next resume tries again.
    net.forwarded(a, "thread/read", &json!({"threadId": name}));
    let turn = net.forwarded(
        a,
        "turn/start",
        &json!({"threadId": name, "input": [], "sandboxPolicy": {"type": "readOnly"}}),
    );
    net.fail(turn, "not now");
    net.hush(&[a]);
    net.request(a, 2, "turn/start", &json!({"threadId": name, "input": [], "sandboxPolicy": null}));
    assert_eq!(net.got_methods(a), ["<error>"]);
    // An update that leaves the sandbox as it is changes nothing, another one ends it.
    net.feed(&updated(&name, &full()));
    net.request(a, 3, "turn/start", &json!({"threadId": name, "input": []}));
    assert_eq!(net.got_methods(a), ["thread/settings/updated", "<error>"]);
    net.feed(&updated(&name, &json!({"type": "readOnly"})));
    net.hush(&[a]);
    net.forwarded(a, "turn/start", &json!({"threadId": name, "input": []}));
}

#[test]
fn what_a_client_gives_instead_counts_as_soon_as_codex_has_accepted_it() {
    for (given, accepted, ends) in [
        (json!({"sandboxPolicy": {"type": "readOnly"}}), true, true),
        // Also what the thread has already: then that is what the client wants.
        (json!({"sandboxPolicy": full()}), true, true),
        (json!({"permissions": "x"}), true, true),
        (json!({"sandboxPolicy": full()}), false, false),
        (json!({"sandboxPolicy": null, "model": "m"}), true, false),
    ] {
        let (mut net, name) = net(Limits::default());
        let a = net.join();
        let sent = resumed_with(&mut net, a, &name, &json!({"threadId": name}), &full());
        net.fail(sent[0]["id"].as_i64().unwrap(), "not today");
        let mut params = given.clone();
        params["threadId"] = json!(name);
        let id = net.forwarded(a, "thread/settings/update", &params);
        if accepted {
            net.reply(id, &json!({}));
        } else {
            net.fail(id, "no");
        }
        net.hush(&[a]);
        // Codex reports the change later.
        net.request(a, 1, "turn/start", &json!({"threadId": name, "input": []}));
        assert_eq!(net.sent().len(), usize::from(ends), "{given} {accepted}");
        let thread = codexd_proto::id::ThreadId::new(name.as_bytes());
        assert_eq!(net.router.thread_book().of_earlier_codex(&thread).is_none(), ends);
    }
}

#[test]
fn what_a_client_gives_instead_is_not_taken_back_by_a_resume_of_another() {
    let read_only = json!({"type": "readOnly"});
    for (method, params) in [
        ("thread/settings/update", json!({"sandboxPolicy": read_only})),
        ("turn/start", json!({"sandboxPolicy": read_only, "input": []})),
    ] {
        for (accepted, reported_first) in [(true, false), (true, true), (false, false)] {
            let (mut net, name) = net(Limits::default());
            let (a, b) = (net.join(), net.join());
            let sent = resumed_with(&mut net, a, &name, &json!({"threadId": name}), &full());
            net.fail(sent[0]["id"].as_i64().unwrap(), "not today");
            net.actions();
            let mut params = params.clone();
            params["threadId"] = json!(name);
            let update = net.forwarded(a, method, &params);
            net.request(b, 9, "thread/resume", &json!({"threadId": name}));
            assert_eq!(net.sent(), [] as [Value; 0], "{method}: the resume waits");
            if reported_first {
                net.feed(&updated(&name, &read_only));
            }
            match accepted {
                true => net.reply(update, &json!({})),
                false => net.fail(update, "no"),
            }
            let resume = &net.sent()[0];
            assert_eq!(resume["method"], "thread/resume");
            assert_eq!(resume["params"].get("sandbox").is_none(), accepted, "{method}");
            let policy = if accepted { &read_only } else { &full() };
            net.reply(resume["id"].as_i64().unwrap(), &result(&name, policy));
            if accepted && !reported_first {
                net.feed(&updated(&name, &read_only));
            }
            let restore = net.sent();
            assert_eq!(restore.is_empty(), accepted, "{method}: {restore:?}");
            let thread = codexd_proto::id::ThreadId::new(name.as_bytes());
            let expected = permissions(if accepted { read_only.clone() } else { workspace() });
            assert_eq!(net.router.thread_book().of(&thread), Some(&expected), "{method}");
        }
    }
}

#[test]
fn a_request_that_gives_permissions_and_is_abandoned_holds_nobody_up() {
    for method in ["thread/settings/update", "turn/start"] {
        let (mut net, name) = net(Limits { window: 1, ..Limits::default() });
        let (a, b) = (net.join(), net.join());
        let sent = resumed_with(&mut net, a, &name, &json!({"threadId": name}), &full());
        net.fail(sent[0]["id"].as_i64().unwrap(), "not today");
        let slot = net.forwarded(b, "thread/list", &json!({}));
        let params = json!({"threadId": name, "input": [], "sandboxPolicy": {"type": "readOnly"}});
        net.request(a, 1, method, &params);
        net.request(b, 2, "thread/read", &json!({"threadId": name}));
        net.leave(a);
        net.reply(slot, &json!({}));
        assert!(methods(&net.sent()).contains(&"thread/read".to_owned()), "{method}");
    }
}

#[test]
fn a_resume_waits_for_one_whose_client_gives_permissions_itself() {
    for params in [json!({"threadId": thread(1)}), json!({"threadId": "", "path": file_of(&thread(1))})] {
        for accepted in [true, false] {
            let (mut net, name) = net(Limits::default());
            let (a, b) = (net.join(), net.join());
            let mut params = params.clone();
            params["sandbox"] = json!("read-only");
            let (first, sent) = resume(&mut net, a, &params);
            assert_eq!(sent["sandbox"], "read-only");
            net.request(b, 1, "thread/resume", &json!({"threadId": name}));
            assert_eq!(net.sent(), [] as [Value; 0], "{params}");
            let read_only = json!({"type": "readOnly"});
            match accepted {
                true => net.reply(first, &result(&name, &read_only)),
                false => net.fail(first, "no rollout found"),
            }
            let sent = net.sent();
            assert_eq!(methods(&sent), ["thread/resume"]);
            assert_eq!(sent[0]["params"].get("sandbox").is_none(), accepted, "{params}");
            let policy = if accepted { read_only } else { workspace() };
            net.reply(sent[0]["id"].as_i64().unwrap(), &result(&name, &policy));
            assert_eq!(net.sent(), [] as [Value; 0]);
            net.hush(&[a, b]);
            net.forwarded(b, "turn/start", &json!({"threadId": name, "input": []}));
            let id = codexd_proto::id::ThreadId::new(name.as_bytes());
            assert_eq!(net.router.thread_book().of(&id), Some(&permissions(policy)));
        }
    }
}

#[test]
fn a_later_resume_ends_the_refusal_only_if_the_policy_is_another_one() {
    for (restored, params) in [(true, json!({})), (false, json!({"sandbox": "workspace-write"}))] {
        let (mut net, name) = net(Limits::default());
        let a = net.join();
        let mut params = params;
        params["threadId"] = json!(name);
        let sent = resumed_with(&mut net, a, &name, &json!({"threadId": name}), &full());
        net.fail(sent[0]["id"].as_i64().unwrap(), "not today");
        net.actions();
        // The thread is loaded: codex ignores a `sandbox`, and has what an update may have set meanwhile.
        let policy = if restored { workspace() } else { full() };
        assert_eq!(resumed_with(&mut net, a, &name, &params, &policy), [] as [Value; 0]);
        net.request(a, 1, "turn/start", &json!({"threadId": name, "input": []}));
        assert_eq!(net.sent().len(), usize::from(restored), "{params}");
        assert_eq!(net.actions(), [], "the wider policy is not remembered");
    }
}

#[test]
fn a_turn_or_an_update_cannot_be_overtaken_by_the_resume_of_its_thread() {
    let (mut net, name) = net(Limits { window: 1, ..Limits::default() });
    let (a, b) = (net.join(), net.join());
    net.forwarded(a, "thread/list", &json!({}));
    // Codex has not loaded the thread; it would be asked when the in-flight window has room.
    for method in ["turn/start", "review/start", "thread/settings/update"] {
        net.request(a, 1, method, &json!({"threadId": name, "input": []}));
        let refused = net.got_one(a);
        let message = format!("thread not found: {name}");
        assert_eq!(refused["error"], json!({"code": -32600, "message": message}), "{method}");
    }
    net.request(b, 2, "turn/start", &json!({"threadId": thread(2), "input": []}));
    assert!(net.router.has_pending_replies(b), "of another thread, codex knows more");
}

#[test]
fn a_resume_that_fails_or_is_abandoned_holds_nobody_up() {
    let (mut net, name) = net(Limits::default());
    let (a, b) = (net.join(), net.join());
    let id = net.forwarded(a, "thread/resume", &json!({"threadId": name}));
    net.request(b, 1, "turn/start", &json!({"threadId": name, "input": []}));
    net.request(b, 2, "thread/read", &json!({"threadId": name}));
    net.fail(id, "no rollout found");
    assert_eq!(methods(&net.sent()), ["thread/read"]);
    assert_eq!(net.got_one(b)["error"]["message"], format!("thread not found: {name}"));

    // It waits for the in-flight window when its client leaves.
    let (mut net, name) = self::net(Limits { window: 1, ..Limits::default() });
    let (a, b) = (net.join(), net.join());
    let slot = net.forwarded(b, "thread/list", &json!({}));
    net.request(a, 1, "thread/resume", &json!({"threadId": name}));
    net.request(b, 2, "thread/read", &json!({"threadId": name}));
    net.leave(a);
    net.reply(slot, &json!({}));
    assert_eq!(methods(&net.sent()), ["thread/read"]);
}

/// Sends a resume; returns its id and its parameters as they go up.
fn resume(net: &mut Net, client: ClientId, params: &Value) -> (i64, Value) {
    net.request(client, 9, "thread/resume", params);
    let sent = net.sent();
    assert_eq!(methods(&sent), ["thread/resume"]);
    (sent[0]["id"].as_i64().unwrap(), sent[0]["params"].clone())
}

/// The path of the file of a thread, as codex names it.
fn file_of(thread: &str) -> String {
    format!("/c/sessions/2026/01/02/rollout-2026-01-02T03-04-05-{thread}.jsonl")
}

#[test]
fn a_resume_by_path_gets_what_a_resume_by_id_gets() {
    let (mut net, name) = net(Limits::default());
    let (a, b) = (net.join(), net.join());
    // Codex ignores the id that comes with a path.
    let params = json!({"threadId": thread(3), "path": file_of(&name), "sandbox": null});
    let (id, sent) = resume(&mut net, a, &params);
    assert_eq!(sent["sandbox"], "workspace-write");
    net.request(b, 1, "turn/start", &json!({"threadId": name, "input": []}));
    net.request(b, 2, "turn/start", &json!({"threadId": thread(2), "input": []}));
    let sent = net.sent();
    assert_eq!(sent.len(), 1, "what is said of another thread does not wait: {sent:?}");
    assert!(net.router.has_pending_replies(b) && !net.router.is_quiet());
    net.reply(id, &result(&name, &full()));
    let sent = net.sent();
    assert_eq!(methods(&sent), ["thread/settings/update"]);
    assert_eq!(sent[0]["params"], json!({"threadId": name, "sandboxPolicy": workspace()}));
    net.reply(sent[0]["id"].as_i64().unwrap(), &json!({}));
    assert_eq!(methods(&net.sent()), ["turn/start"]);
    assert_eq!(net.actions(), []);
}

#[test]
fn a_resume_by_path_whose_permissions_are_not_restored_refuses_work() {
    let (mut net, name) = net(Limits::default());
    let a = net.join();
    let params = json!({"threadId": "", "path": file_of(&name)});
    let sent = resumed_with(&mut net, a, &name, &params, &full());
    net.fail(sent[0]["id"].as_i64().unwrap(), "not today");
    net.request(a, 1, "turn/start", &json!({"threadId": name, "input": []}));
    assert_eq!(net.got_one(a)["error"]["data"]["codexd"]["reason"], "permissionsNotRestored");
}

#[test]
fn what_a_client_says_itself_counts_in_a_resume_by_path() {
    let (mut net, name) = net(Limits::default());
    let a = net.join();
    let params = json!({"threadId": "", "path": file_of(&name), "sandbox": "danger-full-access"});
    let id = net.forwarded(a, "thread/resume", &params);
    net.reply(id, &result(&name, &full()));
    net.hush(&[a]);
    net.forwarded(a, "turn/start", &json!({"threadId": name, "input": []}));
    let thread = codexd_proto::id::ThreadId::new(name.as_bytes());
    let permissions = Some(permissions(full()));
    assert_eq!(net.actions(), [Action::Remember { thread, permissions }]);
}

#[test]
fn the_response_says_which_thread_a_file_is_of() {
    // Its name says nothing, and the thread is one of an earlier codex all the same.
    for path in ["/tmp/copy.jsonl".to_owned(), file_of(&thread(2)), "\u{e9}".repeat(40)] {
        let (mut net, name) = net(Limits::default());
        let (a, b) = (net.join(), net.join());
        let params = json!({"threadId": "", "path": path});
        let (id, sent) = resume(&mut net, a, &params);
        assert_eq!(sent, params);
        net.request(b, 1, "turn/start", &json!({"threadId": name, "input": []}));
        assert_eq!(net.sent(), [] as [Value; 0]);
        net.reply(id, &result(&name, &full()));
        let sent = net.sent();
        assert_eq!(methods(&sent), ["thread/settings/update"], "{path}");
        net.reply(sent[0]["id"].as_i64().unwrap(), &json!({}));
        assert_eq!(methods(&net.sent()), ["turn/start"]);
    }
}

#[test]
fn the_sandbox_of_a_thread_is_not_given_to_another_one() {
    // A copy of another thread's file under the name of this thread's.
    let (mut net, name) = net(Limits::default());
    let a = net.join();
    let params = json!({"threadId": "", "path": file_of(&name)});
    let other = thread(2);
    assert_eq!(resumed_with(&mut net, a, &other, &params, &workspace()), [] as [Value; 0]);
    net.request(a, 1, "turn/start", &json!({"threadId": other, "input": []}));
    let refused = net.got_one(a);
    assert_eq!(refused["error"]["data"]["codexd"]["reason"], "permissionsNotRestored");
    assert!(refused["error"]["message"].as_str().unwrap().contains("the name of another thread"));
    net.feed(&updated(&other, &json!({"type": "readOnly"})));
    net.hush(&[a]);
    net.forwarded(a, "turn/start", &json!({"threadId": other, "input": []}));
    // The one that the file is named after is still to be restored.
    let earlier = codexd_proto::id::ThreadId::new(name.as_bytes());
    assert!(net.router.thread_book().of_earlier_codex(&earlier).is_some());
}

#[test]
fn a_resume_with_history_is_a_new_thread_and_holds_others_up_only_until_it_is_answered() {
    let (mut net, name) = net(Limits::default());
    let (a, b) = (net.join(), net.join());
    let params = json!({"threadId": name, "history": [{}], "path": file_of(&name)});
    let (id, sent) = resume(&mut net, a, &params);
    assert_eq!(sent, params, "codex reads no file");
    net.request(b, 1, "thread/resume", &json!({"threadId": name}));
    assert_eq!(net.sent(), [] as [Value; 0]);
    net.reply(id, &result(&thread(2), &full()));
    let sent = net.sent();
    assert_eq!(sent[0]["params"], json!({"threadId": name, "sandbox": "workspace-write"}));
    assert_eq!(sent.len(), 1);
}

#[test]
fn what_waits_for_a_resume_by_path_goes_on_when_that_fails_or_is_abandoned() {
    let (mut net, name) = net(Limits::default());
    let (a, b) = (net.join(), net.join());
    let params = json!({"threadId": "", "path": file_of(&name)});
    let id = net.forwarded(a, "thread/resume", &params);
    net.request(b, 1, "thread/read", &json!({"threadId": name}));
    net.fail(id, "stale path");
    assert_eq!(methods(&net.sent()), ["thread/read"]);

    let (mut net, name) = self::net(Limits { window: 1, ..Limits::default() });
    let (a, b) = (net.join(), net.join());
    let slot = net.forwarded(b, "thread/list", &json!({}));
    net.request(a, 1, "thread/resume", &json!({"threadId": "", "path": file_of(&name)}));
    net.request(b, 2, "thread/read", &json!({"threadId": name}));
    net.leave(a);
    net.reply(slot, &json!({}));
    assert_eq!(methods(&net.sent()), ["thread/read"]);

    let (mut net, name) = self::net(Limits::default());
    let (a, b) = (net.join(), net.join());
    net.forwarded(a, "thread/resume", &json!({"threadId": "", "path": file_of(&name)}));
    net.request(b, 1, "turn/start", &json!({"threadId": name, "input": []}));
    net.lose();
    let got = net.got(b);
    assert_eq!(got[0]["error"]["data"]["codexd"]["delivered"], "no");
}

#[test]
fn what_waits_is_answered_when_codex_is_lost_and_forgotten_with_its_client() {
    let (mut net, name) = net(Limits::default());
    let (a, b) = (net.join(), net.join());
    net.forwarded(a, "thread/resume", &json!({"threadId": name}));
    for (client, id) in [(a, 1), (b, 2)] {
        net.request(client, id, "turn/start", &json!({"threadId": name, "input": []}));
    }
    net.leave(b);
    net.lose();
    let got = net.got(a);
    assert_eq!(methods(&got), ["<error>", "<error>", "notifications/broker/shuttingDown"]);
    assert_eq!((&got[1]["id"], &got[1]["error"]["data"]["codexd"]["delivered"]), (&json!(1), &json!("no")));
    assert!(!net.router.has_pending_replies(a));
}

#[test]
fn requests_that_wait_are_bounded() {
    let (mut net, name) = net(Limits { queued_requests_per_client: 2, ..Limits::default() });
    let a = net.join();
    net.forwarded(a, "thread/resume", &json!({"threadId": name}));
    for id in 1..=3 {
        net.request(a, id, "turn/start", &json!({"threadId": name, "input": []}));
    }
    let refused = net.got_one(a);
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!(3), &json!(-32001)));
}

#[test]
fn permissions_are_remembered_when_they_are_given_and_when_they_change() {
    let mut net = Net::new();
    let a = net.join();
    let name = thread(1);
    let thread_id = codexd_proto::id::ThreadId::new(name.as_bytes());
    let remembered = |sandbox: Value| Action::Remember {
        thread: thread_id.clone(),
        permissions: Some(permissions(sandbox)),
    };
    let id = net.forwarded(a, "thread/start", &json!({}));
    net.reply(id, &result(&name, &full()));
    assert_eq!(net.actions(), [remembered(full())]);
    net.feed(&updated(&name, &workspace()));
    net.feed(&updated(&name, &workspace()));
    assert_eq!(net.actions(), [remembered(workspace())], "once");
    net.feed(&note("thread/deleted", &json!({"threadId": name})));
    assert_eq!(net.actions(), [Action::Remember { thread: thread_id, permissions: None }]);
    // The id of an ephemeral thread means nothing to the next codex.
    let mut ephemeral = result(&thread(2), &full());
    ephemeral["thread"]["ephemeral"] = json!(true);
    let id = net.forwarded(a, "thread/start", &json!({"ephemeral": true}));
    net.reply(id, &ephemeral);
    net.feed(&updated(&thread(2), &workspace()));
    assert_eq!(net.actions(), []);
}

#[test]
fn a_thread_that_stays_open_without_a_turn_is_kept_by_codex() {
    let mut net = Net::new();
    let a = net.join();
    let open = net.start_thread(a, 1);
    net.pass(1_999);
    assert_eq!(net.sent(), [] as [Value; 0]);
    net.pass(1);
    let sent = net.sent();
    assert_eq!(methods(&sent), ["thread/read"]);
    assert_eq!(sent[0]["params"], json!({"threadId": open, "includeTurns": true}));
    assert!(!net.router.is_quiet());
    net.fail(sent[0]["id"].as_i64().unwrap(), "includeTurns is unavailable before first user message");
    assert!(net.router.is_quiet());
    assert_eq!((net.got(a), net.router.poll_timeout()), (vec![], None));
    // One that has run, one that nobody has open any more, and an ephemeral one need no such thing.
    let ran = net.start_thread(a, 2);
    net.open_turn(&ran, "u");
    net.feed(&crate::net::turn_completed(&ran, "u"));
    let b = net.join();
    net.start_thread(b, 3);
    net.leave(b);
    net.sent();
    let id = net.forwarded(a, "thread/start", &json!({"ephemeral": true}));
    let mut ephemeral = Net::thread_result(&thread(4), "idle");
    ephemeral["thread"]["ephemeral"] = json!(true);
    net.reply(id, &ephemeral);
    net.sent();
    net.pass(10_000);
    assert!(!methods(&net.sent()).contains(&"thread/read".to_owned()));
    // Before a stop it is done at once.
    net.hush(&[a]);
    net.start_thread(a, 5);
    net.drain();
    assert_eq!(methods(&net.sent()), ["thread/read"]);
}
