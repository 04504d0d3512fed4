//! Large and unusual texts.

use serde_json::{Value, json};

use crate::differential;
use crate::stage::{input, turn};
use crate::world::Setup;

/// Text in which everything is written in several bytes, or has to be escaped.
const ODD: &str = "é e\u{301} 漢字 \u{1F469}\u{200D}\u{1F4BB} \u{202E}right\u{202C} \u{FEFF}\u{2028}\u{2029} \\ \" / \
                   \u{1b}[31m \u{7f} \u{85} tab\tcr\rlf\n \u{E000} \u{10FFFF}";

#[test]
fn unusual_texts() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B \u{1F600}"));
        let thread = it.shared(a, &[], json!({}));
        it.resume(b, &thread);
        it.turn(a, &thread, ODD);
        it.see_end(b, &thread);
        it.turn(b, &thread, &format!("[[say:0:{ODD} end]]"));
        it.see_end(a, &thread);
        it.turn(b, &thread, "[[shell:printf '\\303\\251\\n\\342\\200\\250']] x");
        it.see_end(a, &thread);
        it.call(b, "thread/read", json!({"threadId": thread, "includeTurns": true}));
    });
}

#[test]
fn a_megabyte_in_and_a_megabyte_out() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[b], json!({}));
        it.turn(a, &thread, &"é".repeat(500_000));
        it.see_end(b, &thread);
        it.turn(b, &thread, "[[bytes:1000000]] x");
        it.see_end(a, &thread);
        // The longest input that codex accepts, and one that is too long.
        it.turn(b, &thread, &"x".repeat(1 << 20));
        it.see_end(a, &thread);
        it.call(b, "turn/start", turn(&thread, &"x".repeat((1 << 20) + 1)));
        it.call(a, "thread/name/set", json!({"threadId": thread, "name": "after"}));
        it.all_see(&[a, b], "thread/name/updated");
    });
}

#[test]
fn a_megabyte_of_output() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let script = "head -c 1000000 /dev/zero | tr '\\0' x";
        let run = |more: Value| {
            let mut params = json!({"command": ["sh", "-c", script], "disableOutputCap": true});
            for (key, value) in more.as_object().into_iter().flatten() {
                params[key] = value.clone();
            }
            params
        };
        it.call(a, "command/exec", run(json!({})));
        it.call(b, "command/exec", run(json!({"processId": "p", "streamStdoutStderr": true})));
        let path = format!("{}/large", it.project());
        it.call(a, "fs/writeFile", json!({"path": path, "dataBase64": "eHh4".repeat(350_000)}));
        it.call(b, "fs/readFile", json!({"path": path}));
    });
}

#[test]
fn inputs_of_other_kinds() {
    let setup = Setup { files: &[("note.txt", "a note\n")], ..Setup::default() };
    differential(&setup, |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let thread = it.shared(a, &[b], json!({}));
        let inputs = [
            json!([]),
            json!([{"type": "text", "text": ""}]),
            json!([{"type": "image", "url": "data:image/png;base64,AAAA"}, {"type": "text", "text": "one"}]),
            json!([{"type": "localImage", "path": "/no/such.png"}, {"type": "text", "text": "two"}]),
            json!([{"type": "mention", "name": "note", "path": format!("{}/note.txt", it.project())},
                   {"type": "text", "text": "@note", "text_elements": [{"byteRange": {"start": 0, "end": 5}}]}]),
        ];
        for parts in inputs {
            let answer = it.call(a, "turn/start", json!({"threadId": thread, "input": parts}));
            if answer["error"].is_null() {
                it.all_see_end(&[a, b], &thread);
            }
        }
        it.call(a, "turn/start", json!({"threadId": thread, "input": [{"type": "none"}]}));
        it.call(a, "turn/start", json!({"threadId": thread, "input": "text"}));
        let schema = json!({"type": "object", "properties": {}, "additionalProperties": false});
        let mut params = json!({"threadId": thread, "input": input("x"), "outputSchema": schema});
        params["clientUserMessageId"] = json!("mine");
        params["additionalContext"] = json!({"k": {"value": "v", "kind": "untrusted"}});
        it.call(b, "turn/start", params);
        it.all_see_end(&[a, b], &thread);
    });
}
