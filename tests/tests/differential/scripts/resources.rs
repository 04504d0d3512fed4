//! What belongs to one connection: processes, watches, searches; with the same ids on two connections.

use std::fs;

use codexd_tests::{process, wait};
use serde_json::{Value, json};

use crate::differential;
use crate::stage::{Stage, Who};
use crate::world::Setup;

fn shell(text: &str) -> Value {
    json!(["sh", "-c", text])
}

#[test]
fn the_same_process_ids() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let params =
            json!({"command": ["cat"], "processId": "p", "streamStdin": true, "streamStdoutStderr": true});
        let of_a = it.ask(a, "command/exec", params.clone());
        let of_b = it.ask(b, "command/exec", params.clone());
        let write = |text: &str| json!({"processId": "p", "deltaBase64": text});
        it.call(a, "command/exec/write", write("YQo="));
        it.call(b, "command/exec/write", write("Ygo="));
        it.see(a, "command/exec/outputDelta");
        it.see(b, "command/exec/outputDelta");
        it.call(a, "command/exec", params.clone());
        it.call(b, "command/exec/terminate", json!({"processId": "other"}));
        it.call(b, "command/exec/terminate", json!({"processId": "p"}));
        it.answer_to(&of_b);
        it.call(b, "command/exec/write", json!({"processId": "never", "deltaBase64": "Ygo="}));
        it.call(
            a,
            "command/exec/write",
            json!({"processId": "p", "deltaBase64": "YTI=", "closeStdin": true}),
        );
        it.answer_to(&of_a);
        // An id is free again when its command is answered.
        it.call(a, "command/exec", json!({"command": shell("echo again"), "processId": "p"}));
    });
}

#[test]
fn commands_without_an_id() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        it.call(a, "command/exec", json!({"command": shell("echo out; echo err >&2; exit 3")}));
        it.call(b, "command/exec", json!({"command": ["echo", "x"], "processId": null}));
        it.call(b, "command/exec", json!({"command": ["/no/such/program"]}));
        it.call(a, "command/exec", json!({"command": ["cat"], "streamStdin": true}));
        it.call(a, "command/exec", json!({"command": ["true"], "streamStdoutStderr": true}));
        it.call(a, "command/exec", json!({"command": ["true"], "tty": true}));
        it.call(a, "command/exec", json!({"command": ["true"], "tty": true, "processId": ""}));
        it.call(a, "command/exec", json!({"command": ["sleep", "100"], "timeoutMs": 50}));
        it.call(a, "command/exec", json!({"command": ["echo", "id"], "processId": "with \"quotes\" é"}));
        it.call(a, "command/exec/write", json!({"processId": "with \"quotes\" é", "deltaBase64": ""}));
        it.call(a, "command/exec/resize", json!({"processId": "c1:p", "size": {"rows": 1, "cols": 1}}));
    });
}

#[test]
fn the_same_process_handles() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let project = it.project();
        let spawn = |handle: &str| {
            json!({"command": ["cat"], "processHandle": handle, "cwd": project, "streamStdin": true,
                   "streamStdoutStderr": true})
        };
        it.call(a, "process/spawn", spawn("h"));
        it.call(b, "process/spawn", spawn("h"));
        it.call(a, "process/spawn", spawn("h"));
        let write = |text: &str| json!({"processHandle": "h", "deltaBase64": text});
        it.call(a, "process/writeStdin", write("YQo="));
        it.see(a, "process/outputDelta");
        it.call(b, "process/writeStdin", write("Ygo="));
        it.see(b, "process/outputDelta");
        it.call(b, "process/kill", json!({"processHandle": "h"}));
        it.see(b, "process/exited");
        // Right after its end a handle is still known natively, or not any more; so here is another one.
        it.call(b, "process/kill", json!({"processHandle": "never"}));
        it.call(b, "process/writeStdin", json!({"processHandle": "never", "deltaBase64": "Ygo="}));
        it.call(a, "process/writeStdin", json!({"processHandle": "h", "closeStdin": true}));
        it.see(a, "process/exited");
        it.call(a, "process/spawn", spawn("another"));
        it.call(a, "process/kill", json!({"processHandle": "another"}));
        it.see(a, "process/exited");
    });
}

#[test]
fn processes_end_with_their_client() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let project = it.project();
        let spawn = json!({"command": ["sleep", "4321"], "processHandle": "h", "cwd": project});
        it.call(a, "process/spawn", spawn);
        let _ = it.ask(
            a,
            "command/exec",
            json!({"command": ["sleep", "4322"], "processId": "p", "disableTimeout": true}),
        );
        let _ = it.ask(a, "command/exec", json!({"command": ["sleep", "4323"], "disableTimeout": true}));
        let running = |it: &Stage<'_>, seconds: &str| {
            let command = format!("sleep {seconds}");
            process::marked(it.world().home().root()).iter().any(|process| process.command == command)
        };
        for seconds in ["4321", "4322", "4323"] {
            wait::until("the process runs", || running(it, seconds));
        }
        it.leave(a);
        for seconds in ["4321", "4322", "4323"] {
            wait::until("the process ends with its client", || !running(it, seconds));
        }
        it.call(b, "thread/list", json!({}));
    });
}

#[test]
fn the_same_watch_ids() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let watch = json!({"watchId": "w", "path": it.project()});
        it.call(a, "fs/watch", watch.clone());
        it.call(b, "fs/watch", watch.clone());
        it.call(a, "fs/watch", watch);
        let write = |it: &Stage<'_>, name: &str| {
            fs::write(it.world().home().project().join(name), "x").unwrap();
        };
        write(it, "one.txt");
        changed(it, a, "one.txt");
        changed(it, b, "one.txt");
        it.call(b, "fs/unwatch", json!({"watchId": "w"}));
        it.call(b, "fs/unwatch", json!({"watchId": "never"}));
        write(it, "two.txt");
        changed(it, a, "two.txt");
    });
}

fn changed(it: &mut Stage<'_>, who: Who, name: &str) {
    it.see_where(who, "a change of the file", |it| {
        it["method"] == "fs/changed" && it["params"]["changedPaths"].to_string().contains(name)
    });
}

#[test]
fn a_search_belongs_to_everyone() {
    let setup = Setup { files: &[("alpha.txt", ""), ("beta.txt", "")], ..Setup::default() };
    differential(&setup, |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let roots = json!([it.project()]);
        it.call(a, "fuzzyFileSearch/sessionStart", json!({"sessionId": "s", "roots": roots}));
        it.call(a, "fuzzyFileSearch/sessionUpdate", json!({"sessionId": "s", "query": "alp"}));
        for who in [a, b] {
            it.see_where(who, "a file", |it| it["params"]["files"][0]["file_name"] == "alpha.txt");
            it.see(who, "fuzzyFileSearch/sessionCompleted");
        }
        it.call(b, "fuzzyFileSearch/sessionStop", json!({"sessionId": "s"}));
        it.call(a, "fuzzyFileSearch/sessionUpdate", json!({"sessionId": "s", "query": "bet"}));
        it.call(b, "fuzzyFileSearch", json!({"query": "beta", "roots": roots, "cancellationToken": "t"}));
    });
}
