//! Tools that the clients carry out.

use serde_json::{Value, json};

use crate::differential;
use crate::stage::{Stage, Who, input};
use crate::world::Setup;

const CALL: &str = "item/tool/call";

fn tools() -> Value {
    let schema = json!({"type": "object", "properties": {}});
    let tool =
        |name: &str| json!({"type": "function", "name": name, "description": "d", "inputSchema": schema});
    let space = json!({"type": "namespace", "name": "space", "description": "d", "tools": [tool("inner")]});
    json!({"dynamicTools": [tool("dyn"), space]})
}

fn ask(it: &mut Stage<'_>, who: Who, thread: &str) -> String {
    it.turn_start(who, thread, "[[call:dyn:{\"x\":\"é\"}]] go")
}

#[test]
fn a_tool_is_called_again_at_a_resume() {
    differential(&Setup::default(), |it| {
        let (a, b, c) = (it.join("A"), it.join("B"), it.join("C"));
        let thread = it.shared(a, &[], tools());
        ask(it, a, &thread);
        it.see(a, CALL);
        it.leave(a);
        it.resume(b, &thread);
        it.see(b, CALL);
        it.resume(c, &thread);
        let server_request = it.see(c, CALL);
        let image = json!({"type": "inputImage", "imageUrl": "data:image/png;base64,AAAA"});
        let content = json!([{"type": "inputText", "text": "one"}, image]);
        it.reply(c, &server_request, json!({"success": true, "contentItems": content}));
        it.all_see_end(&[b, c], &thread);
        it.reply(b, &server_request, json!({"success": false, "contentItems": []}));
        it.turn(b, &thread, "after");
        it.see_end(c, &thread);
    });
}

#[test]
fn broken_answers_to_calls_of_tools() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[b], tools());
        let answers = [
            json!({"result": {"success": false, "contentItems": [{"type": "inputText", "text": "no"}]}}),
            json!({"result": {"success": true}}),
            json!({"result": null}),
            json!({"error": {"code": 7, "message": "no"}}),
        ];
        for mut answer in answers {
            ask(it, a, &thread);
            it.see(a, CALL);
            let server_request = it.see(b, CALL);
            answer["id"] = server_request["id"].clone();
            it.say(b, answer);
            it.all_see_end(&[a, b], &thread);
        }
    });
}

#[test]
fn a_call_of_a_tool_in_a_turn_that_is_interrupted() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[b], tools());
        let turn = ask(it, a, &thread);
        let server_request = it.see(a, CALL);
        it.see(b, CALL);
        it.call(b, "turn/interrupt", json!({"threadId": thread, "turnId": turn}));
        it.all_see_end(&[a, b], &thread);
        it.reply(a, &server_request, json!({"success": true, "contentItems": []}));
        it.turn(b, &thread, "after");
        it.see_end(a, &thread);
    });
}

#[test]
fn tools_in_a_namespace() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let c = it.join_with("C", json!({}));
        let thread = it.shared(a, &[b, c], tools());
        it.turn_start(a, &thread, "[[call:space.inner:{}]] go");
        it.all_see(&[a, b], CALL);
        let server_request = it.see(c, CALL);
        let content = json!([{"type": "inputText", "text": "inner"}]);
        it.reply(c, &server_request, json!({"success": true, "contentItems": content}));
        it.all_see_end(&[a, b, c], &thread);
        it.call(a, "thread/start", json!({"dynamicTools": [{"type": "function", "name": "no name!"}]}));
        it.call(a, "thread/start", json!({"dynamicTools": {}}));
    });
}

#[test]
fn what_the_user_is_asked_is_answered_by_another() {
    differential(&Setup::default(), |it| {
        let (a, b, c) = (it.join("A"), it.join("B"), it.join("C"));
        let thread = it.shared(a, &[b], json!({}));
        let settings =
            json!({"model": "mock-model", "reasoning_effort": null, "developer_instructions": null});
        let start = |prompt: &str| {
            json!({"threadId": thread, "input": input(prompt),
                   "collaborationMode": {"mode": "plan", "settings": settings}})
        };
        let user_input_of = |it: &mut Stage<'_>| {
            it.see(b, "item/tool/requestUserInput");
            it.see(a, "item/tool/requestUserInput")
        };
        it.call(a, "turn/start", start("[[ask:One]] 1"));
        let server_request = user_input_of(it);
        it.reply(c, &server_request, json!({"answers": {"q1": {"answers": ["No", "é"]}}}));
        it.all_see_end(&[a, b], &thread);
        it.call(a, "turn/start", start("[[ask:Two]] 2"));
        let server_request = user_input_of(it);
        it.reply(b, &server_request, json!({"answers": "none"}));
        it.all_see_end(&[a, b], &thread);
        it.call(b, "turn/start", start("[[ask:Three]] 3"));
        let server_request = user_input_of(it);
        it.say(a, json!({"id": server_request["id"], "error": {"code": 1, "message": "no"}}));
        it.all_see_end(&[a, b], &thread);
    });
}
