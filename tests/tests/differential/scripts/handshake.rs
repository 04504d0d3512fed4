//! The handshake, the gates, the opt-outs, and what is wrong with requests.

use serde_json::{Value, json};

use crate::differential;
use crate::stage::{Stage, Who, turn};
use crate::world::{FIRST, Setup};

fn info(name: &str) -> Value {
    json!({"name": name, "title": name, "version": "0.0.1"})
}

fn sticky(it: &mut Stage<'_>, who: Who) {
    it.see(who, "remoteControl/status/changed");
}

#[test]
fn before_initialize() {
    differential(&Setup::default(), |it| {
        let a = it.join(FIRST);
        let b = it.connect("B");
        it.call(b, "thread/list", json!({}));
        it.call(b, "thread/start", json!({}));
        it.call(b, "server/diagnostics", json!({}));
        it.call(b, "no/such", json!({}));
        it.say(b, json!({"method": "initialized"}));
        it.call(b, "thread/list", json!({}));
        // Nothing of this reaches one that has not introduced itself.
        let thread = it.start(a, json!({}));
        it.turn(a, &thread, "first");
        it.call(b, "initialize", json!({"clientInfo": info("B")}));
        sticky(it, b);
        it.call(b, "thread/loaded/list", json!({}));
        it.turn(a, &thread, "second");
        it.see_status(b, &thread, "idle");
    });
}

#[test]
fn wrong_initializes() {
    differential(&Setup::default(), |it| {
        it.join(FIRST);
        let b = it.connect("B");
        it.call(b, "initialize", Value::Null);
        it.say(b, json!({"id": 100, "method": "initialize", "params": null}));
        it.see_where(b, "an answer", |it| it["id"] == 100);
        let wrong = [
            json!([]),
            json!({}),
            json!({"clientInfo": null}),
            json!({"clientInfo": {}}),
            json!({"clientInfo": {"name": "B"}}),
            json!({"clientInfo": {"version": "1"}}),
            json!({"clientInfo": {"name": 1, "version": "1"}}),
            json!({"clientInfo": {"name": "B", "version": null}}),
            json!({"clientInfo": info("B"), "capabilities": {"experimentalApi": "yes"}}),
            json!({"clientInfo": info("B"), "capabilities": {"optOutNotificationMethods": "x"}}),
            json!({"clientInfo": info("B\n")}),
            json!({"clientInfo": info("Bé")}),
        ];
        for params in wrong {
            it.call(b, "initialize", params);
        }
    });
}

#[test]
fn initialize_again() {
    differential(&Setup::default(), |it| {
        it.join(FIRST);
        let b = it.join("B");
        sticky(it, b);
        it.call(b, "initialize", json!({"clientInfo": info("other")}));
        it.call(b, "initialize", json!({"clientInfo": info("other\n")}));
        it.call(b, "initialize", json!({}));
        it.say(b, json!({"method": "initialized"}));
        it.say(b, json!({"method": "no/such/notification", "params": {"x": 1}}));
        let c = it.connect("C");
        it.call(c, "initialize", json!({"clientInfo": info("C\u{7}")}));
        let unknown = json!({"experimentalApi": null, "noSuchCapability": {"x": 1}});
        it.call(c, "initialize", json!({"clientInfo": info("C"), "capabilities": unknown, "more": true}));
        it.call(c, "initialize", json!({"clientInfo": info("C"), "capabilities": null}));
        let d = it.connect("D");
        it.call(d, "initialize", json!({"clientInfo": {"name": "D", "version": ""}, "capabilities": null}));
        sticky(it, d);
        let f = it.connect("F");
        it.call(f, "initialize", json!({"clientInfo": {"name": " F\t", "version": "1\n2 é "}}));
        let e = it.connect("E");
        it.call(e, "initialize", json!({"clientInfo": {"name": "", "version": "2"}}));
        it.call(e, "thread/loaded/list", json!({}));
    });
}

#[test]
fn one_without_the_experimental_interface() {
    differential(&Setup::default(), |it| {
        let a = it.join(FIRST);
        let b = it.join_with("B", json!({"experimentalApi": false}));
        let thread = it.start(a, json!({"experimentalRawEvents": true}));
        it.turn(a, &thread, "first");
        it.resume(b, &thread);
        it.turn(a, &thread, "[[shell:echo hello]] second");
        it.see_end(b, &thread);
        it.call(a, "thread/settings/update", json!({"threadId": thread, "model": "gpt-5.5"}));
        it.turn(b, &thread, "third");
        it.see_end(a, &thread);
    });
}

#[test]
fn gates() {
    differential(&Setup::default(), |it| {
        let a = it.join(FIRST);
        let b = it.join_with("B", json!({}));
        let thread = it.start(a, json!({}));
        it.turn(a, &thread, "first");
        let methods = [
            ("server/diagnostics", json!({})),
            ("thread/memoryMode/set", json!({"threadId": thread, "mode": "disabled"})),
            ("thread/backgroundTerminals/list", json!({"threadId": thread})),
            ("collaborationMode/list", json!({})),
            ("mock/experimentalMethod", json!({})),
            ("memory/status", json!({})),
            ("process/kill", json!({"processHandle": "h"})),
            ("fuzzyFileSearch/sessionStop", json!({"sessionId": "s"})),
        ];
        for (method, params) in methods {
            it.call(b, method, params);
        }
        let fields = [
            json!({"dynamicTools": []}),
            json!({"dynamicTools": null}),
            json!({"environments": []}),
            json!({"runtimeWorkspaceRoots": []}),
            json!({"experimentalRawEvents": true}),
            json!({"permissions": "x"}),
            json!({"historyMode": "paginated"}),
            json!({"mockExperimentalField": "x"}),
            json!({"approvalPolicy": {"granular": {"sandbox_approval": true, "rules": true,
                "skill_approval": true, "request_permissions": true, "mcp_elicitations": true}}}),
            json!({"dynamicTools": [], "environments": []}),
            json!({"environments": [], "dynamicTools": []}),
        ];
        for mut params in fields {
            params["cwd"] = json!(it.project());
            if params["dynamicTools"].is_null() && params.get("dynamicTools").is_some() {
                continue;
            }
            it.call(b, "thread/start", params);
        }
        it.call(b, "thread/resume", json!({"threadId": thread, "path": "/no/such"}));
        it.call(b, "thread/resume", json!({"threadId": thread, "history": []}));
        it.call(b, "thread/resume", json!({"threadId": thread, "initialTurnsPage": {}}));
        it.call(b, "thread/fork", json!({"threadId": thread, "path": "/no/such"}));
        for params in [
            json!({"parentThreadId": thread}),
            json!({"parentThreadId": ""}),
            json!({"parentThreadId": null}),
            json!({"projectId": null}),
            json!({"includeAttachedThreads": false}),
            json!({"includeAttachedThreads": true}),
        ] {
            it.call(b, "thread/list", params);
        }
        for params in [
            json!({"projectId": null, "daybreakEnabled": null}),
            json!({"projectId": ""}),
            json!({"daybreakEnabled": false}),
        ] {
            let mut params = params;
            params["threadId"] = json!(thread);
            it.call(b, "thread/metadata/update", params);
        }
        let mut params = turn(&thread, "x");
        params["additionalContext"] = json!({});
        it.call(b, "turn/start", params);
        it.call(b, "command/exec", json!({"command": ["true"], "permissionProfile": "x"}));
        it.call(
            b,
            "account/login/start",
            json!({"type": "chatgptAuthTokens", "accessToken": "x",
            "chatgptAccountId": "y", "chatgptPlanType": null}),
        );
        it.call(b, "thread/settings/update", json!({"threadId": thread, "approvalPolicy": "never"}));
        // And what is not gated.
        it.call(b, "thread/resume", json!({"threadId": "01a1fb58-0000-7000-8000-000000000000", "path": ""}));
        it.call(b, "thread/resume", json!({"threadId": thread, "history": null, "path": null}));
        it.see(b, "thread/goal/cleared");
        it.see(a, "thread/goal/cleared");
        it.turn(b, &thread, "second");
        it.see_end(a, &thread);
    });
}

#[test]
fn opt_outs() {
    differential(&Setup::default(), |it| {
        let a = it.join(FIRST);
        let quiet = [
            "item/agentMessage/delta",
            "thread/status/changed",
            "thread/started",
            "configWarning",
            "item/commandExecution/requestApproval",
            "no/such/method",
            "account/rateLimits/updated",
        ];
        let b = it.join_with("B", json!({"experimentalApi": true, "optOutNotificationMethods": quiet}));
        let c = it.join_with("C", json!({"optOutNotificationMethods": ["remoteControl/status/changed"]}));
        let thread = it.start(a, json!({"approvalPolicy": "untrusted"}));
        it.turn(a, &thread, "first");
        it.resume(b, &thread);
        it.turn_start(a, &thread, "[[shell:touch made.txt]] second");
        let server_request = it.see(b, "item/commandExecution/requestApproval");
        it.reply(b, &server_request, json!({"decision": "accept"}));
        it.see_end(b, &thread);
        it.see_end(a, &thread);
        it.see_status(c, &thread, "idle");
        it.see_status(c, &thread, "idle");
    });
}

#[test]
fn a_late_joiner_sees_what_stays() {
    let mut setup = Setup::default();
    // Two warnings at the start.
    setup.config.more = "[features]\nno_such_feature = true\n\n[tools]\nno_such_tool = 1\n".to_owned();
    differential(&setup, |it| {
        let a = it.join(FIRST);
        sticky(it, a);
        let thread = it.start(a, json!({}));
        it.turn(a, &thread, "first");
        let b = it.join("B");
        sticky(it, b);
        it.turn(a, &thread, "second");
        it.see_status(b, &thread, "idle");
        let c = it.join_with("C", json!({}));
        sticky(it, c);
    });
}

#[test]
fn requests_that_are_wrong() {
    differential(&Setup::default(), |it| {
        let a = it.join(FIRST);
        it.call(a, "no/such/method", json!({}));
        it.call(a, "", json!({}));
        it.call(a, "thread/resume", json!({}));
        it.call(a, "thread/resume", Value::Null);
        it.call(a, "thread/resume", json!({"threadId": 5}));
        it.call(a, "thread/resume", json!([]));
        it.call(a, "thread/read", json!({"threadId": "nonsense"}));
        it.call(a, "turn/start", json!({"threadId": "01a1fb58-0000-7000-8000-000000000000"}));
        it.call(a, "turn/start", json!({"input": []}));
        it.call(a, "turn/interrupt", json!({"threadId": "x"}));
        it.call(a, "command/exec", json!({"command": []}));
        it.call(a, "command/exec", json!({"command": "true"}));
        it.call(a, "command/exec", json!({}));
        it.call(a, "command/exec", json!({"command": ["true"], "processId": 5}));
        it.call(a, "command/exec/write", json!({}));
        it.call(a, "process/spawn", json!({"command": ["true"]}));
        it.call(a, "fs/watch", json!({"watchId": "w"}));
        it.call(a, "fs/watch", json!({"watchId": "w", "path": "/no/such/path"}));
        it.call(a, "fs/watch", json!({"watchId": "w", "path": "relative"}));
        it.call(a, "fs/unwatch", json!({}));
        it.call(a, "thread/sample/cancel", json!({}));
        it.call(a, "thread/sample/cancel", json!({"requestId": 77}));
        it.call(a, "thread/unsubscribe", json!({"threadId": null}));
        it.call(a, "thread/archive", json!({"threadId": "01a1fb58-0000-7000-8000-000000000000"}));
        it.call(a, "thread/list", json!({"limit": -1}));
        it.call(a, "thread/list", Value::Null);
        it.call(a, "model/list", Value::Null);
        it.call(a, "account/logout", json!({"more": 1}));
    });
}

#[test]
fn ids_of_requests() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join(FIRST), it.join("B"));
        let ids = [
            json!(7),
            json!(0),
            json!(-1),
            json!(i64::MAX),
            json!(i64::MIN),
            json!("7"),
            json!(""),
            json!("a \"quoted\" é \u{1F600} id"),
        ];
        for id in ids {
            let one = it.ask_as(a, id.clone(), "thread/loaded/list", json!({}));
            let two = it.ask_as(b, id, "model/list", json!({"limit": 1}));
            it.answer_to(&one);
            it.answer_to(&two);
        }
        // Twice the same at once, on one connection: both are answered.
        let one = it.ask_as(a, json!(9), "thread/loaded/list", json!({}));
        let two = it.ask_as(a, json!(9), "thread/loaded/list", json!({}));
        it.answer_to(&one);
        it.answer_to(&two);
        // What the server asks has ids of its own, which may be the same.
        let thread = it.start(a, json!({"approvalPolicy": "untrusted"}));
        it.turn_start(a, &thread, "[[shell:touch made.txt]] go");
        let server_request = it.see(a, "item/commandExecution/requestApproval");
        let same = it.ask_as(a, server_request["id"].clone(), "thread/loaded/list", json!({}));
        it.answer_to(&same);
        it.reply(a, &server_request, json!({"decision": "accept"}));
        it.see_end(a, &thread);
        it.see_status(b, &thread, "idle");
    });
}
