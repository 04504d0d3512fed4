//! Processes of clients: their output and input, and their ids in all spellings.

use serde_json::{Value, json};

use crate::differential;
use crate::stage::{Stage, Who};
use crate::world::Setup;

/// Ids that are written otherwise in JSON, by `Debug`, or both.
const ODD: [&str; 12] = [
    " ",
    "1:p",
    "1:1:",
    "\"",
    "\\",
    "\u{0}",
    "\u{1b}[0m\n\r\t",
    "\u{7f}\u{85}",
    "\u{2028}\u{2029}",
    "\u{feff}e\u{301}",
    "'`\u{1F600}",
    "\u{e000}\u{ad}",
];

fn spawn(it: &Stage<'_>, handle: &str, command: Value, more: Value) -> Value {
    let mut params = json!({"command": command, "processHandle": handle, "cwd": it.project()});
    for (key, value) in more.as_object().into_iter().flatten() {
        params[key] = value.clone();
    }
    params
}

fn exited(it: &mut Stage<'_>, who: Who, handle: &str) {
    it.see_where(who, "the end of the process", |it| {
        it["method"] == "process/exited" && it["params"]["processHandle"] == handle
    });
}

#[test]
fn a_process_in_a_terminal() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let script = json!(["sh", "-c", "read line; stty size; read line; echo end"]);
        let more = json!({"tty": true, "size": {"rows": 10, "cols": 20}, "streamStdoutStderr": true});
        let params = spawn(it, "h", script, more);
        it.call(a, "process/spawn", params.clone());
        it.call(b, "process/resizePty", json!({"processHandle": "h", "size": {"rows": 1, "cols": 1}}));
        it.call(a, "process/resizePty", json!({"processHandle": "h", "size": {"rows": 33, "cols": 44}}));
        it.call(a, "process/writeStdin", json!({"processHandle": "h", "deltaBase64": "Cg=="}));
        it.see_output(a, "33 44");
        it.call(a, "process/resizePty", json!({"processHandle": "h", "size": {"rows": 0, "cols": 0}}));
        it.call(a, "process/resizePty", json!({"processHandle": "h"}));
        it.call(a, "process/writeStdin", json!({"processHandle": "h", "deltaBase64": "Cg=="}));
        exited(it, a, "h");
    });
}

#[test]
fn ways_to_run_a_process() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let shell = |text: &str| json!(["sh", "-c", text]);
        let runs = [
            (shell("echo out; echo err >&2; exit 3"), json!({})),
            (shell("echo out; echo err >&2"), json!({"streamStdoutStderr": true})),
            (shell("echo $X-$HOME"), json!({"env": {"X": "x", "HOME": null}})),
            (shell("printf 123456789"), json!({"outputBytesCap": 4})),
            (shell("printf 123456789"), json!({"outputBytesCap": 4, "streamStdoutStderr": true})),
            (shell("sleep 100"), json!({"timeoutMs": 50})),
            (shell("kill -9 $$"), json!({})),
            (json!(["/no/such/program"]), json!({})),
            (json!([]), json!({})),
            (json!(["true"]), json!({"cwd": "relative"})),
            (json!(["true"]), json!({"cwd": "/no/such/directory"})),
            (json!(["true"]), json!({"size": {"rows": 1, "cols": 1}})),
            (json!(["true"]), json!({"timeoutMs": -1})),
        ];
        // Right after its end a handle is still in use, or not any more: so each has another one.
        for (index, (command, more)) in runs.into_iter().enumerate() {
            let handle = format!("h{index}");
            let params = spawn(it, &handle, command, more);
            let answer = it.call(a, "process/spawn", params);
            if answer["error"].is_null() {
                exited(it, a, &handle);
            }
        }
        // Its standard input is empty, so it must be a program that does not end with it.
        let sleep = spawn(it, "sleep", json!(["sleep", "1000"]), json!({}));
        it.call(b, "process/spawn", sleep);
        it.call(b, "process/writeStdin", json!({"processHandle": "sleep", "deltaBase64": "YQ=="}));
        it.call(b, "process/writeStdin", json!({"processHandle": "sleep"}));
        it.call(b, "process/resizePty", json!({"processHandle": "sleep", "size": {"rows": 1, "cols": 1}}));
        it.call(b, "process/kill", json!({"processHandle": "sleep"}));
        exited(it, b, "sleep");
    });
}

#[test]
fn empty_ids() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let params = spawn(it, "", json!(["cat"]), json!({}));
        it.call(a, "process/spawn", params.clone());
        it.call(a, "process/spawn", params);
        let of = |mut params: Value| {
            params["processHandle"] = json!("");
            params["processId"] = json!("");
            params["watchId"] = json!("");
            params
        };
        it.call(a, "process/writeStdin", of(json!({"deltaBase64": "YQ=="})));
        it.call(a, "process/resizePty", of(json!({"size": {"rows": 1, "cols": 1}})));
        it.call(a, "process/kill", of(json!({})));
        it.call(b, "command/exec", of(json!({"command": ["echo", "x"]})));
        it.call(b, "command/exec", of(json!({"command": ["echo", "x"], "streamStdoutStderr": true})));
        it.call(b, "command/exec", of(json!({"command": []})));
        it.call(b, "command/exec/write", of(json!({"deltaBase64": "YQ=="})));
        it.call(b, "command/exec/resize", of(json!({"size": {"rows": 1, "cols": 1}})));
        it.call(b, "command/exec/terminate", of(json!({})));
        let path = it.project();
        it.call(a, "fs/watch", of(json!({"path": path})));
        it.call(a, "fs/watch", of(json!({"path": path})));
        it.call(b, "fs/watch", of(json!({"path": path})));
        it.call(a, "fs/unwatch", of(json!({})));
    });
}

#[test]
fn odd_process_handles() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        for handle in ODD {
            let params =
                spawn(it, handle, json!(["cat"]), json!({"streamStdin": true, "streamStdoutStderr": true}));
            it.call(a, "process/spawn", params.clone());
            it.call(a, "process/spawn", params);
            let write = json!({"processHandle": handle, "deltaBase64": "YQo="});
            it.call(b, "process/writeStdin", write.clone());
            it.call(a, "process/writeStdin", write);
            it.see(a, "process/outputDelta");
            it.call(b, "process/kill", json!({"processHandle": handle}));
            it.call(b, "process/resizePty", json!({"processHandle": handle, "size": {"rows": 1, "cols": 1}}));
            it.call(a, "process/writeStdin", json!({"processHandle": handle, "closeStdin": true}));
            exited(it, a, handle);
        }
    });
}

#[test]
fn odd_process_ids() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        for id in ODD {
            let params =
                json!({"command": ["cat"], "processId": id, "streamStdin": true, "streamStdoutStderr": true});
            let running = it.ask(a, "command/exec", params.clone());
            it.call(a, "command/exec/write", json!({"processId": id, "deltaBase64": "YQo="}));
            it.see(a, "command/exec/outputDelta");
            it.call(a, "command/exec", params);
            it.call(b, "command/exec/write", json!({"processId": id, "deltaBase64": "YQo="}));
            it.call(a, "command/exec/resize", json!({"processId": id, "size": {"rows": 1, "cols": 1}}));
            it.call(b, "command/exec/terminate", json!({"processId": id}));
            it.call(a, "command/exec/write", json!({"processId": id, "closeStdin": true}));
            it.answer_to(&running);
        }
    });
}

#[test]
fn a_command_in_a_terminal() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let script = "read line; stty size; read line; echo end";
        let params = json!({"command": ["sh", "-c", script], "processId": "p", "tty": true, "size": {"rows": 10, "cols": 20},
                            "streamStdin": true, "streamStdoutStderr": true});
        let running = it.ask(a, "command/exec", params);
        it.call(a, "command/exec/resize", json!({"processId": "p", "size": {"rows": 33, "cols": 44}}));
        it.call(b, "command/exec/resize", json!({"processId": "p", "size": {"rows": 1, "cols": 1}}));
        it.call(a, "command/exec/write", json!({"processId": "p", "deltaBase64": "Cg=="}));
        it.see_output(a, "33 44");
        it.call(a, "command/exec/write", json!({"processId": "p", "deltaBase64": "not base64"}));
        it.call(a, "command/exec/write", json!({"processId": "p"}));
        it.call(a, "command/exec/write", json!({"processId": "p", "deltaBase64": "Cg=="}));
        it.answer_to(&running);
    });
}

#[test]
fn ways_to_run_a_command() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let project = it.project();
        let shell = |text: &str, more: Value| {
            let mut params = json!({"command": ["sh", "-c", text]});
            for (key, value) in more.as_object().into_iter().flatten() {
                params[key] = value.clone();
            }
            params
        };
        let runs = [
            shell("pwd; echo $X", json!({"cwd": project, "env": {"X": "x"}})),
            shell("printf 123456789", json!({"outputBytesCap": 4})),
            shell("printf 123456789", json!({"outputBytesCap": 4, "disableOutputCap": true})),
            shell("true", json!({"timeoutMs": 5, "disableTimeout": true})),
            shell("true", json!({"size": {"rows": 1, "cols": 1}})),
            shell("true", json!({"cwd": "/no/such/directory"})),
            shell("touch made.txt", json!({"sandboxPolicy": {"type": "dangerFullAccess"}, "cwd": project})),
            shell("kill -9 $$", json!({"processId": "p"})),
            shell("exit 7", json!({"processId": "p", "streamStdoutStderr": true})),
        ];
        for params in runs {
            it.call(a, "command/exec", params.clone());
            it.call(b, "command/exec", params);
        }
        it.call(b, "command/exec", json!({"command": ["cat"], "permissionProfile": "none"}));
    });
}

#[test]
fn handles_are_free_again_when_their_client_comes_back() {
    differential(&Setup::default(), |it| {
        let (a, b) = (it.join("A"), it.join("B"));
        let params = spawn(it, "h", json!(["cat"]), json!({"streamStdin": true, "streamStdoutStderr": true}));
        it.call(b, "process/spawn", params.clone());
        it.call(b, "fs/watch", json!({"watchId": "w", "path": it.project()}));
        it.leave(b);
        let b = it.join("B again");
        it.call(b, "process/kill", json!({"processHandle": "h"}));
        it.call(b, "process/spawn", params);
        it.call(b, "fs/watch", json!({"watchId": "w", "path": it.project()}));
        it.call(b, "process/writeStdin", json!({"processHandle": "h", "deltaBase64": "YQo="}));
        it.see(b, "process/outputDelta");
        it.call(b, "process/kill", json!({"processHandle": "h"}));
        exited(it, b, "h");
        it.call(a, "process/kill", json!({"processHandle": "h"}));
    });
}
