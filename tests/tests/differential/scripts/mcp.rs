//! MCP servers: their tools, their requests, and what is sent about them.

use serde_json::{Value, json};

use crate::differential;
use crate::stage::{Stage, Who};
use crate::world::Setup;

const ELICITATION: &str = "mcpServer/elicitation/request";

fn with_mcp() -> Setup {
    Setup { mcp: true, ..Setup::default() }
}

fn ready(it: &mut Stage<'_>, who: Who) {
    it.see_where(who, "the start of the MCP server", |it| {
        it["method"] == "mcpServer/startupStatus/updated" && it["params"]["status"] == "ready"
    });
}

/// A thread with its MCP server, to which the others are subscribed too.
fn thread(it: &mut Stage<'_>, who: Who, others: &[Who]) -> String {
    let thread = it.start(who, json!({}));
    ready(it, who);
    it.turn(who, &thread, "first");
    for other in others {
        it.resume(*other, &thread);
    }
    thread
}

fn call(thread: &str, tool: &str) -> Value {
    json!({"threadId": thread, "server": "mk", "tool": tool, "arguments": {}})
}

#[test]
fn calls_of_tools_that_go_wrong() {
    differential(&with_mcp(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = thread(it, a, &[]);
        it.call(b, "mcpServer/tool/call", call(&thread, "none"));
        it.call(b, "mcpServer/tool/call", json!({"threadId": thread, "server": "none", "tool": "echo"}));
        it.call(b, "mcpServer/tool/call", call("01a1fb58-0000-7000-8000-000000000000", "echo"));
        it.call(b, "mcpServer/tool/call", call("nonsense", "echo"));
        it.call(b, "mcpServer/tool/call", json!({"threadId": thread}));
        let mut named = call(&thread, "echo");
        named["arguments"] = json!({"text": "é\u{2028}\"", "n": 1.0, "big": 12345678901234567890_u64});
        named["_meta"] = json!({"progressToken": "t"});
        it.call(b, "mcpServer/tool/call", named);
        it.call(b, "mcpServer/resource/read", json!({"threadId": thread, "server": "mk", "uri": "x://y"}));
        it.call(b, "mcpServer/resource/read", json!({"server": "none", "uri": "x://y"}));
    });
}

#[test]
fn the_status_of_mcp_servers() {
    differential(&with_mcp(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = thread(it, a, &[]);
        it.call(b, "mcpServerStatus/list", json!({}));
        it.call(b, "mcpServerStatus/list", json!({"threadId": thread, "detail": "full"}));
        it.call(b, "mcpServerStatus/list", json!({"detail": "toolsAndAuthOnly", "limit": 1}));
        it.call(b, "mcpServerStatus/list", json!({"threadId": "nonsense"}));
        it.call(b, "config/mcpServer/reload", json!({}));
        it.call(b, "mcpServer/oauth/login", json!({"name": "mk"}));
        it.call(b, "mcpServer/oauth/login", json!({"name": "none"}));
    });
}

#[test]
fn streams_of_events_that_a_server_does_not_have() {
    differential(&with_mcp(), |it| {
        let a = it.join("A");
        let b = it.join_with("B", json!({}));
        let thread = thread(it, a, &[b]);
        let start = |id: &str, server: &str| json!({"threadId": thread, "server": server, "subscriptionId": id, "name": "e", "arguments": {}});
        for id in ["s", "", "\"\u{2028}\n"] {
            it.call(a, "mcpServer/event/stream/start", start(id, "none"));
            it.call(a, "mcpServer/event/stream/start", start(id, "mk"));
            it.call(a, "mcpServer/event/stream/stop", json!({"subscriptionId": id}));
            it.call(b, "mcpServer/event/stream/stop", json!({"subscriptionId": id}));
        }
        it.call(a, "mcpServer/event/stream/start", json!({"subscriptionId": 5}));
        it.call(a, "mcpServer/event/stream/stop", json!({}));
    });
}

#[test]
fn an_elicitation_is_asked_again_at_a_resume() {
    differential(&with_mcp(), |it| {
        let (a, b, c) = (it.join("A"), it.join("B"), it.join("C"));
        let thread = thread(it, a, &[]);
        let asked = it.ask(b, "mcpServer/tool/call", call(&thread, "elicit"));
        it.see(a, ELICITATION);
        it.resume(c, &thread);
        let server_request = it.see(c, ELICITATION);
        it.reply(c, &server_request, json!({"action": "accept", "content": {"name": "é\u{2028}"}}));
        it.answer_to(&asked);
        it.all_see(&[a, c], "serverRequest/resolved");
        it.reply(a, &server_request, json!({"action": "cancel"}));
        it.turn(a, &thread, "after");
        it.see_end(c, &thread);
    });
}

#[test]
fn broken_answers_to_elicitations() {
    differential(&with_mcp(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = thread(it, a, &[b]);
        let answers = [
            json!({"result": {"action": "cancel"}}),
            json!({"result": {"action": "none"}}),
            json!({"result": null}),
            json!({"error": {"code": 7, "message": "no", "data": {"x": 1}}}),
        ];
        for mut answer in answers {
            let asked = it.ask(b, "mcpServer/tool/call", call(&thread, "elicit"));
            let server_request = it.see(a, ELICITATION);
            it.see(b, ELICITATION);
            answer["id"] = server_request["id"].clone();
            it.say(a, answer);
            it.answer_to(&asked);
            it.all_see(&[a, b], "serverRequest/resolved");
        }
    });
}

#[test]
fn an_elicitation_outlives_who_called_the_tool() {
    differential(&with_mcp(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = thread(it, a, &[b]);
        let _ = it.ask(b, "mcpServer/tool/call", call(&thread, "elicit"));
        let server_request = it.see(a, ELICITATION);
        it.see(b, ELICITATION);
        it.leave(b);
        it.reply(a, &server_request, json!({"action": "decline"}));
        it.see(a, "serverRequest/resolved");
        it.turn(a, &thread, "after");
    });
}

#[test]
fn an_elicitation_in_a_turn_that_is_interrupted() {
    differential(&with_mcp(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = thread(it, a, &[b]);
        let turn = it.turn_start(a, &thread, "[[call:mcp__mk.elicit:{}]] go");
        it.all_see(&[a, b], ELICITATION);
        it.call(b, "turn/interrupt", json!({"threadId": thread, "turnId": turn}));
        it.all_see_end(&[a, b], &thread);
        it.all_see(&[a, b], "serverRequest/resolved");
        it.turn(b, &thread, "after");
        it.see_end(a, &thread);
    });
}
