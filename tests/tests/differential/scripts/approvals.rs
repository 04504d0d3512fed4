//! Server requests: which clients get them, which answer, and what is sent about it.

use serde_json::{Value, json};

use crate::differential;
use crate::stage::{Stage, Who, input};
use crate::world::Setup;

const APPROVAL: &str = "item/commandExecution/requestApproval";

/// A thread of A's whose commands are asked about, with a first turn, so that it can be resumed.
fn careful(it: &mut Stage<'_>, a: Who) -> String {
    let thread = it.start(a, json!({"approvalPolicy": "untrusted"}));
    it.turn(a, &thread, "first");
    thread
}

#[test]
fn approval_answered_by_the_other_client() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = careful(it, a);
        it.resume(b, &thread);
        it.turn_start(a, &thread, "[[shell:touch made.txt]] go");
        it.see(a, APPROVAL);
        let server_request = it.see(b, APPROVAL);
        it.reply(b, &server_request, json!({"decision": "accept"}));
        it.see_end(a, &thread);
        it.see_end(b, &thread);
        // Too late, and of no effect.
        it.reply(a, &server_request, json!({"decision": "decline"}));
        it.turn(a, &thread, "last");
        it.see_end(b, &thread);
    });
}

#[test]
fn approval_answered_by_a_client_that_was_not_asked() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = careful(it, a);
        it.turn_start(a, &thread, "[[shell:touch made.txt]] go");
        let server_request = it.see(a, APPROVAL);
        it.reply(b, &server_request, json!({"decision": "accept"}));
        it.see_end(a, &thread);
        it.see_status(b, &thread, "idle");
    });
}

#[test]
fn an_unassigned_approval_is_replayed() {
    differential(&Setup::default(), |it| {
        let (a, b, c) = (it.join("A"), it.join("B"), it.join("C"));
        let thread = careful(it, a);
        it.turn_start(a, &thread, "[[shell:touch made.txt]] go");
        it.see(a, APPROVAL);
        it.leave(a);
        it.resume(b, &thread);
        it.see(b, APPROVAL);
        it.resume(c, &thread);
        let server_request = it.see(c, APPROVAL);
        it.reply(c, &server_request, json!({"decision": "accept"}));
        it.see_end(b, &thread);
        it.see_end(c, &thread);
    });
}

#[test]
fn resume_with_a_pending_approval() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = careful(it, a);
        it.turn_start(a, &thread, "[[shell:touch made.txt]] go");
        it.see(a, APPROVAL);
        it.resume(b, &thread);
        it.see(b, APPROVAL);
        // Again on the same connection, and by the one that was asked first.
        it.resume(b, &thread);
        it.see(b, APPROVAL);
        it.resume(a, &thread);
        let server_request = it.see(a, APPROVAL);
        it.reply(a, &server_request, json!({"decision": "decline"}));
        it.see_end(a, &thread);
        it.see_end(b, &thread);
    });
}

#[test]
fn decisions_and_broken_answers() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = careful(it, a);
        it.resume(b, &thread);
        let answers = [
            json!({"result": {"decision": "decline"}}),
            json!({"result": {"decision": "cancel"}}),
            json!({"result": {"decision": "no such decision"}}),
            json!({"result": null}),
            json!({"error": {"code": -1, "message": "no"}}),
        ];
        for (index, mut answer) in answers.into_iter().enumerate() {
            it.turn_start(a, &thread, &format!("[[shell:touch made{index}.txt]] go"));
            let server_request = it.see(a, APPROVAL);
            it.see(b, APPROVAL);
            answer["id"] = server_request["id"].clone();
            it.say(b, answer);
            it.see_end(a, &thread);
            it.see_end(b, &thread);
        }
    });
}

#[test]
fn interrupt_while_an_approval_is_pending() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = careful(it, a);
        it.resume(b, &thread);
        let turn = it.turn_start(a, &thread, "[[shell:touch made.txt]] go");
        it.see(a, APPROVAL);
        let server_request = it.see(b, APPROVAL);
        it.call(b, "turn/interrupt", json!({"threadId": thread, "turnId": turn}));
        it.see(a, "serverRequest/resolved");
        it.see(b, "serverRequest/resolved");
        it.reply(a, &server_request, json!({"decision": "accept"}));
        it.turn(a, &thread, "after");
        it.see_end(b, &thread);
        it.see_end(b, &thread);
    });
}

#[test]
fn two_approvals_at_once() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let one = careful(it, a);
        let two = careful(it, b);
        it.turn_start(a, &one, "[[shell:touch one.txt]] go");
        let first = it.see(a, APPROVAL);
        it.turn_start(b, &two, "[[shell:touch two.txt]] go");
        let second = it.see(b, APPROVAL);
        it.reply(b, &second, json!({"decision": "accept"}));
        it.see_end(b, &two);
        it.reply(a, &first, json!({"decision": "accept"}));
        it.see_end(a, &one);
        it.see_status(b, &one, "idle");
        it.see_status(b, &one, "idle");
    });
}

#[test]
fn a_file_change_is_approved() {
    let mut setup = Setup::default();
    setup.config.model = "gpt-5.5".to_owned();
    differential(&setup, |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = careful(it, a);
        it.resume(b, &thread);
        it.turn_start(a, &thread, "[[write:made.txt:a line]] go");
        it.see(a, "item/fileChange/requestApproval");
        let server_request = it.see(b, "item/fileChange/requestApproval");
        it.reply(b, &server_request, json!({"decision": "accept"}));
        it.see_end(a, &thread);
        it.see_end(b, &thread);
    });
}

#[test]
fn user_input() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.start(a, json!({}));
        it.turn(a, &thread, "first");
        it.resume(b, &thread);
        let settings =
            json!({"model": "mock-model", "reasoning_effort": null, "developer_instructions": null});
        let params = |prompt: &str| {
            json!({"threadId": thread, "input": input(prompt),
                   "collaborationMode": {"mode": "plan", "settings": settings}})
        };
        it.call(a, "turn/start", params("[[ask:Pick]]"));
        let server_request = it.see(a, "item/tool/requestUserInput");
        it.see(b, "item/tool/requestUserInput");
        it.reply(a, &server_request, json!({"answers": {"q1": {"answers": ["Yes"]}}}));
        it.see_end(a, &thread);
        it.see_end(b, &thread);
    });
}

#[test]
fn a_dynamic_tool() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let schema = json!({"type": "object", "properties": {}});
        let tool = json!({"name": "dyn", "description": "d", "inputSchema": schema});
        let thread = it.start(a, json!({"dynamicTools": [tool]}));
        it.turn(a, &thread, "first");
        it.resume(b, &thread);
        it.turn_start(a, &thread, "[[call:dyn:{}]] go");
        it.see(a, "item/tool/call");
        let server_request = it.see(b, "item/tool/call");
        let content = json!([{"type": "inputText", "text": "ok"}]);
        it.reply(b, &server_request, json!({"success": true, "contentItems": content}));
        it.see_end(a, &thread);
        it.see_end(b, &thread);
    });
}

/// Starts a thread and waits until its MCP server is there.
fn with_mcp(it: &mut Stage<'_>, a: Who) -> String {
    let thread = it.start(a, json!({}));
    mcp_ready(it, a);
    it.turn(a, &thread, "first");
    thread
}

fn mcp_ready(it: &mut Stage<'_>, who: Who) -> Value {
    it.see_where(who, "the start of the MCP server", |it| {
        it["method"] == "mcpServer/startupStatus/updated" && it["params"]["status"] == "ready"
    })
}

#[test]
fn an_elicitation() {
    differential(&Setup { mcp: true, ..Setup::default() }, |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = with_mcp(it, a);
        it.resume(b, &thread);
        it.turn_start(a, &thread, "[[call:mcp__mk.elicit:{}]] go");
        // Whether the tool may be called, and then what the tool asks.
        it.see(b, "mcpServer/elicitation/request");
        let server_request = it.see(a, "mcpServer/elicitation/request");
        it.reply(a, &server_request, json!({"action": "accept", "content": {}}));
        it.see(a, "mcpServer/elicitation/request");
        let server_request = it.see(b, "mcpServer/elicitation/request");
        it.reply(b, &server_request, json!({"action": "accept", "content": {"name": "Bob"}}));
        it.see_end(a, &thread);
        it.see_end(b, &thread);
    });
}

#[test]
fn an_elicitation_of_a_tool_that_a_client_calls() {
    differential(&Setup { mcp: true, ..Setup::default() }, |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = with_mcp(it, a);
        it.resume(b, &thread);
        let call = |tool: &str| json!({"threadId": thread, "server": "mk", "tool": tool, "arguments": {}});
        it.call(b, "mcpServer/tool/call", call("echo"));
        let asked = it.ask(b, "mcpServer/tool/call", call("elicit"));
        let server_request = it.see(a, "mcpServer/elicitation/request");
        it.see(b, "mcpServer/elicitation/request");
        it.call(b, "thread/name/set", json!({"threadId": thread, "name": "not blocked"}));
        it.see(a, "thread/name/updated");
        it.see(b, "thread/name/updated");
        it.reply(a, &server_request, json!({"action": "decline"}));
        it.answer_to(&asked);
        it.see(a, "serverRequest/resolved");
        it.see(b, "serverRequest/resolved");
    });
}

#[test]
fn a_fork_with_an_mcp_server() {
    differential(&Setup { mcp: true, ..Setup::default() }, |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = with_mcp(it, a);
        let answer = it.call(b, "thread/fork", json!({"threadId": thread}));
        let fork = it.note_thread(&answer);
        mcp_ready(it, b);
        it.turn(b, &fork, "in the fork");
        it.turn(a, &thread, "in the source");
    });
}
