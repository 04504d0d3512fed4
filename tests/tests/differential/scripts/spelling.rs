//! The same requests, spelled otherwise.

use serde_json::{Value, json};

use crate::differential;
use crate::stage::{Stage, Who, input};
use crate::world::Setup;

/// Writes a text as JSON, with every character as an escape.
fn escaped(text: &str) -> String {
    let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
    format!("\"{units}\"")
}

#[test]
fn escapes_and_spaces() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[], json!({}));
        let (method, id) = (escaped("thread/resume"), escaped(&thread));
        let key = escaped("threadId");
        it.call_text(
            b,
            &format!(
                "{{ \"\\u0069d\" : 100 , \"m\\u0065thod\":{method},\t\"params\" : {{ {key} : {id} }} }} "
            ),
        );
        it.see(b, "thread/goal/cleared");
        it.turn(a, &thread, "for both");
        it.see_end(b, &thread);
        let method = escaped("thread/unsubscribe");
        it.call_text(b, &format!("{{\"params\":{{{key}:{id}}},\"method\":{method},\"id\":\"a\\u0062\"}}"));
        it.call_text(b, &format!("{{\"params\":{{{key}:{id}}},\"method\":{method},\"id\":\"\\/\"}}"));
        let exec = r#"{"id":101,"method":"command\/exec","params":{"command":["echo","x"],"process\u0049d":"p\u0041"}}"#;
        it.call_text(a, exec);
        let exec = r#"{"id":102,"method":"command/exec","params":{"streamStdoutStd\u0065rr":true,"command":["echo","x"]}}"#;
        it.call_text(a, exec);
        let write = r#"{"id":103,"method":"command/exec/write","params":{"process\u0049d":"p\u0041","deltaBase64":""}}"#;
        it.call_text(a, write);
        let gate = r#"{"id":104,"method":"thread/start","params":{"dynamic\u0054ools":[]}}"#;
        let c = it.join_with("C", json!({}));
        it.call_text(c, gate);
        it.turn(a, &thread, "for A");
        it.see_status(b, &thread, "idle");
    });
}

#[test]
fn members_that_are_too_many() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[], json!({}));
        let texts = [
            r#"{"jsonrpc":"1.0","id":100,"method":"thread/loaded/list","params":{},"more":[1,{"id":5}]}"#.to_owned(),
            r#"{"jsonrpc":null,"id":101,"method":"thread/loaded/list","params":{"none":1}}"#.to_owned(),
            r#"{"id":102,"method":"thread/loaded/list","params":{},"trace":{"traceparent":"x"}}"#.to_owned(),
            r#"{"id":103,"method":"thread/loaded/list","params":{},"trace":null}"#.to_owned(),
            format!(r#"{{"id":104,"method":"thread/read","params":{{"threadId":"{thread}","thread_id":5}}}}"#),
            format!(r#"{{"id":105,"method":"thread/read","params":{{"ThreadId":"{thread}"}}}}"#),
            format!(r#"{{"id":106,"method":"thread/read","params":{{"threadId":"{thread}","threadId":"{thread}"}}}}"#),
            format!(r#"{{"id":107,"method":"thread/resume","params":{{"threadId":"x","threadId":"{thread}"}}}}"#),
            r#"{"id":108,"method":"command/exec","params":{"command":["true"],"processId":"a","processId":"b"}}"#.to_owned(),
            r#"{"id":109,"method":"thread/loaded/list","result":{},"params":{}}"#.to_owned(),
            r#"{"id":110,"method":"thread/loaded/list","error":{"code":1,"message":"x"},"params":{}}"#.to_owned(),
        ];
        for text in &texts {
            it.call_text(b, text);
        }
        it.turn(a, &thread, "second");
        it.see_status(b, &thread, "idle");
    });
}

/// Sends a request with parameters by position.
fn at(it: &mut Stage<'_>, who: Who, method: &str, params: Value) -> Value {
    assert!(params.is_array());
    it.call(who, method, params)
}

#[test]
fn parameters_by_position() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[], json!({}));
        at(it, b, "thread/read", json!([thread, false]));
        at(it, b, "thread/read", json!([thread, true]));
        at(it, b, "thread/read", json!([thread]));
        at(it, b, "thread/read", json!([thread, false, 1]));
        at(it, b, "thread/read", json!([]));
        at(it, b, "thread/read", json!([5, false]));
        at(it, b, "thread/name/set", json!([thread, "by position"]));
        it.all_see(&[a, b], "thread/name/updated");
        at(it, b, "thread/loaded/list", json!([]));
        at(it, b, "thread/loaded/list", json!([null, 1]));
        at(it, b, "fs/getMetadata", json!([it.project()]));
        at(it, b, "thread/goal/get", json!([thread]));
        at(it, b, "thread/memoryMode/set", json!([thread, "disabled"]));
        at(it, b, "model/list", json!([null, 1, null]));
        at(it, b, "account/logout", json!([]));
        at(it, b, "no/such/method", json!([1]));
    });
}

#[test]
fn subscriptions_by_position() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[], json!({}));
        at(it, b, "thread/resume", json!([thread]));
        at(it, b, "thread/resume", json!([]));
        let resume = |thread: &str, quiet: bool| {
            let mut params = vec![json!(thread)];
            params.extend(vec![Value::Null; 17]);
            params[16] = json!(quiet);
            json!(params)
        };
        at(it, b, "thread/resume", resume("nonsense", false));
        at(it, b, "thread/resume", resume(&thread, true));
        it.see(b, "thread/goal/cleared");
        at(it, b, "thread/resume", resume(&thread, false));
        it.see(b, "thread/goal/cleared");
        it.turn(a, &thread, "for both");
        it.see_end(b, &thread);
        at(it, b, "thread/unsubscribe", json!([thread]));
        at(it, b, "thread/unsubscribe", json!([thread]));
        at(it, b, "thread/unsubscribe", json!(["nonsense"]));
        at(it, b, "thread/unsubscribe", json!([]));
        at(it, b, "thread/unsubscribe", json!([thread, 1]));
        it.turn(a, &thread, "for who is still subscribed");
        it.see_status(b, &thread, "idle");
        at(it, b, "thread/archive", json!([]));
        at(it, b, "thread/archive", json!([thread]));
        it.all_see(&[a, b], "thread/archived");
        at(it, b, "thread/unarchive", json!([thread]));
        it.all_see(&[a, b], "thread/unarchived");
        at(it, b, "thread/delete", json!([thread]));
        it.all_see(&[a, b], "thread/deleted");
        at(it, a, "thread/unsubscribe", json!([thread]));
    });
}

#[test]
fn starts_and_turns_by_position() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[b], json!({}));
        let nulls = |count: usize| vec![Value::Null; count];
        // All of them, and fewer.
        at(it, a, "thread/start", json!([]));
        at(it, a, "thread/start", json!(["mock-model"]));
        at(it, a, "thread/fork", json!([thread]));
        at(it, a, "turn/start", json!([thread, null, null, input("one")]));
        let mut all = vec![json!(thread), Value::Null, Value::Null, json!(input("two"))];
        all.extend(nulls(24));
        at(it, a, "turn/start", json!(all));
        it.all_see_end(&[a, b], &thread);
        at(it, a, "turn/start", json!([thread]));
        at(it, a, "turn/steer", json!([thread, null, input("x"), null, null, null, "nonsense"]));
        at(it, a, "review/start", json!([thread, {"type": "none"}]));
        let running = it.hang(b, &thread, "long");
        at(it, b, "turn/interrupt", json!([thread, running]));
        it.all_see_end(&[a, b], &thread);
        at(it, b, "turn/interrupt", json!([thread, running]));
        let fork = at(
            it,
            b,
            "thread/fork",
            json!([
                thread, false, false, null, null, null, null, null, null, null, null, null, null, null, null,
                null, null, null, false, false, null, true, false
            ]),
        );
        let fork = it.note_thread(&fork);
        it.turn(b, &fork, "in the fork");
        at(it, a, "review/start", json!([thread, {"type": "custom", "instructions": "look"}, null]));
        it.all_see_end(&[a, b], &thread);
    });
}

#[test]
fn processes_by_position() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let project = it.project();
        at(it, a, "process/spawn", json!([["cat"], "h", project]));
        at(it, a, "process/spawn", json!([["cat"], "h", project, false, true, true, null, null, null, null]));
        at(it, b, "process/spawn", json!([["cat"], "", project, false, true, true, null, null, null, null]));
        at(it, a, "process/writeStdin", json!(["h", "YQo="]));
        it.see_output(a, "a");
        at(it, a, "process/writeStdin", json!(["h", "YQo=", false]));
        it.see_output(a, "a");
        at(it, b, "process/kill", json!(["h"]));
        at(it, a, "process/kill", json!(["h"]));
        it.see(a, "process/exited");
        at(it, a, "process/kill", json!([]));
        at(it, a, "process/kill", json!([5]));
        at(it, a, "process/resizePty", json!(["none", {"rows": 1, "cols": 1}]));
        at(it, a, "command/exec", json!([["echo", "x"]]));
        at(it, a, "command/exec", json!([["echo", "x"], "p"]));
        at(it, a, "command/exec", json!([["echo", "x"], null, false]));
        let mut all =
            vec![json!(["echo", "x"]), json!("p"), json!(false), json!(false), json!(true), Value::Null];
        all.extend([json!(false), json!(false)]);
        all.extend(vec![Value::Null; 6]);
        at(it, a, "command/exec", json!(all));
        at(it, a, "command/exec/write", json!(["p", "YQo=", false]));
        at(it, a, "command/exec/terminate", json!(["p"]));
        at(it, a, "command/exec/resize", json!(["p", {"rows": 1, "cols": 1}]));
        at(it, a, "fs/watch", json!(["w", project]));
        at(it, b, "fs/watch", json!(["w", project]));
        at(it, a, "fs/watch", json!(["w", project]));
        at(it, a, "fs/watch", json!(["w"]));
        at(it, b, "fs/unwatch", json!(["w"]));
        at(it, a, "fs/unwatch", json!(["w"]));
        at(it, a, "thread/sample/cancel", json!([77]));
        at(it, a, "thread/sample/cancel", json!([]));
        at(it, a, "mcpServer/event/stream/stop", json!(["s"]));
    });
}

#[test]
fn gates_and_positions() {
    differential(&Setup::default(), |it| {
        let a = it.join("A");
        let b = it.join_with("B", json!({}));
        let thread = it.shared(a, &[], json!({}));
        at(it, b, "thread/memoryMode/set", json!([thread, "disabled"]));
        let mut list = vec![json!(true), json!(false)];
        list.extend(vec![Value::Null; 17]);
        list[14] = json!(false);
        at(it, b, "thread/list", json!(list));
        list[0] = json!(false);
        at(it, b, "thread/list", json!(list));
        at(it, b, "thread/metadata/update", json!([thread, "p", null, null]));
        at(it, b, "thread/metadata/update", json!([thread, null, {"branch": "main"}, null]));
        at(it, b, "account/login/start", json!(["chatgptAuthTokens", "x", "y", null]));
        at(it, b, "account/login/start", json!(["apiKey", "sk-test"]));
        it.all_see(&[a, b], "account/updated");
        at(it, b, "initialize", json!([{"name": "B", "version": "1"}, null]));
        let c = it.connect("C");
        at(it, c, "initialize", json!([]));
        at(it, c, "initialize", json!([{"name": "C", "version": "1"}, [true]]));
        at(it, c, "initialize", json!([["C", null], null]));
        at(
            it,
            c,
            "initialize",
            json!([["C", null, "1"], [false, false, true, false, false, ["thread/started"], null]]),
        );
        it.call(c, "memory/status", json!({}));
        it.start(a, json!({}));
    });
}

#[test]
fn numbers_as_they_are_written() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        it.call_text(b, r#"{"id":100,"method":"thread/list","params":{"limit":1e1}}"#);
        it.call_text(b, r#"{"id":101,"method":"thread/list","params":{"limit":10.0}}"#);
        it.call_text(b, r#"{"id":102,"method":"thread/list","params":{"limit":-0}}"#);
        it.call_text(b, r#"{"id":103,"method":"thread/list","params":{"limit":4294967296}}"#);
        it.call_text(b, r#"{"id":105,"method":"model/list","params":{"limit":1.5}}"#);
        it.call_text(a, r#"{"id":106,"method":"thread/loaded/list","params":{"none":"\ud83d\ude00"}}"#);
    });
}
