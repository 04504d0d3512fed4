//! Lanes: the messages of one client, parted into sequences whose order is guaranteed.
//!
//! Natively, what happens on one thread reaches a client in one order, and the answers to requests about a thread
//! stand at their place in it. Between two threads there is no order. Where messages of one thread are written by
//! tasks of their own, they have lanes of their own; [`lane`] lists which and why.

use serde_json::{Value, json};

/// Where a message stands: the thread (empty for none), and the lane within.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lane {
    pub(crate) thread: String,
    pub(crate) name: String,
}

/// Returns the lane of a notification or of a server request.
pub(crate) fn lane(message: &Value) -> Lane {
    let method = message["method"].as_str().unwrap_or_default();
    let params = &message["params"];
    let thread = [&params["threadId"], &params["thread"]["id"], &params["conversationId"]]
        .into_iter()
        .find_map(Value::as_str);
    let name = match (thread, method) {
        // Start-up of each MCP server runs beside everything else.
        (_, "mcpServer/startupStatus/updated") => format!("mcp {}", params["name"]),
        // Codex 0.142 writes it after the answer, 0.169 before it: no order between the two is promised.
        (_, "warning") => "warning".to_owned(),
        // The goal is read from a database after the answer to a resume; live events do not wait for it.
        (_, "thread/goal/cleared" | "thread/goal/updated") => "goal".to_owned(),
        // Written by the task that takes the answer to the server request, beside the thread's own.
        (Some(_), "item/completed") if never_ran(&params["item"]) => "never ran".to_owned(),
        (Some(_), _) => String::new(),
        // Processes, watches and searches run beside each other.
        (None, "process/outputDelta" | "process/exited") => format!("process {}", params["processHandle"]),
        (None, "command/exec/outputDelta") => format!("exec {}", params["processId"]),
        (None, "fs/changed") => format!("watch {}", params["watchId"]),
        // Subsystems that have nothing to do with each other broadcast when they are done.
        (None, method) => method.to_owned(),
    };
    Lane { thread: thread.unwrap_or_default().to_owned(), name }
}

fn never_ran(item: &Value) -> bool {
    item["type"] == "commandExecution" && item["processId"].is_null() && item["exitCode"].is_null()
}

/// Leaves out the usage that is reported when a turn is interrupted, with the rate limits after it: natively it is
/// reported or not, by the order of the interrupt and the model's open request.
pub(crate) fn without_usage_of_interrupted(messages: &[Value]) -> Vec<&Value> {
    let interrupted: Vec<(usize, &Value)> = messages
        .iter()
        .enumerate()
        .filter(|(_, it)| it["method"] == "turn/completed" && it["params"]["turn"]["status"] == "interrupted")
        .map(|(at, it)| (at, &it["params"]["turn"]["id"]))
        .collect();
    let mut limits_follow = 0;
    let mut kept = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        let method = message["method"].as_str().unwrap_or_default();
        let turn = &message["params"]["turnId"];
        // After the end of the turn it is the copy for the client that resumes.
        let is_cut = interrupted.iter().any(|(end, id)| index < *end && *id == turn);
        if method == "thread/tokenUsage/updated" && is_cut {
            limits_follow += 1;
        } else if method == "account/rateLimits/updated" && limits_follow > 0 {
            limits_follow -= 1;
        } else {
            kept.push(message);
        }
    }
    kept
}

/// Leaves out that a thread is not loaded where that was the last status of it: codex, alone over stdio, reports it
/// twice at about one archive in forty (measured in 800).
pub(crate) fn without_repeated_unload(messages: Vec<&Value>) -> Vec<&Value> {
    let mut unloaded = std::collections::BTreeSet::new();
    let mut kept = Vec::new();
    for message in messages {
        let thread = message["params"]["threadId"].as_str();
        let is_new = match thread.filter(|_| message["method"] == "thread/status/changed") {
            Some(thread) if message["params"]["status"]["type"] == "notLoaded" => unloaded.insert(thread),
            Some(thread) => {
                unloaded.remove(thread);
                true
            }
            None => true,
        };
        if is_new {
            kept.push(message);
        }
    }
    kept
}

/// Returns the lane in which an answer marks its place, and the mark.
pub(crate) fn mark(request: &Value, answer: &Value) -> Option<(Lane, Value)> {
    let method = request["method"].as_str()?;
    let params = &request["params"];
    let lane = match method {
        // All output comes before the answer.
        "command/exec" => Lane { thread: String::new(), name: format!("exec {}", params["processId"]) },
        // What a process prints and the answer to the client that wrote to it or ended it are written by two tasks.
        _ if ["command/exec", "process/", "thread/backgroundTerminals/"]
            .iter()
            .any(|it| method.starts_with(it)) =>
        {
            return None;
        }
        // Its task and that of the thread write at the same time: seen after `turn/started` on a busy machine.
        "turn/start" => return None,
        _ => {
            let thread = [&answer["result"]["thread"]["id"], &params["threadId"]];
            // An id in another form than the server's own does not determine a lane.
            let thread = thread.into_iter().find_map(Value::as_str).filter(|id| id.len() == 36)?.to_owned();
            Lane { thread, name: String::new() }
        }
    };
    Some((lane, json!({"answer": method, "id": request["id"]})))
}

/// Decodes pieces of output and puts those together whose borders only show how a pipe was read.
pub(crate) fn join_pieces(messages: Vec<Value>) -> Vec<Value> {
    let mut joined: Vec<Value> = Vec::new();
    for mut message in by_stream(messages) {
        // A search reports what it has found so far, at times of its own, and sometimes nothing again after
        // something: only that it has found it is certain.
        if message["method"] == "fuzzyFileSearch/sessionUpdated"
            && let Some(last) = joined.last_mut()
            && ["sessionId", "query"].iter().all(|key| last["params"][key] == message["params"][key])
        {
            if message["params"]["files"] != json!([]) {
                *last = message;
            }
            continue;
        }
        if !OUTPUT.contains(&message["method"].as_str().unwrap_or_default()) {
            joined.push(message);
            continue;
        }
        if let Some(text) = message["params"]["deltaBase64"].take().as_str() {
            message["params"]["delta"] = json!(decode(text));
        }
        match joined.last_mut().filter(|last| continues(last, &message)) {
            Some(last) => {
                let texts = [&last["params"]["delta"], &message["params"]["delta"]].map(Value::as_str);
                last["params"]["delta"] = json!(texts.map(Option::unwrap_or_default).concat());
            }
            None => joined.push(message),
        }
    }
    without_repeated_output(joined)
}

/// Puts what a process wrote to standard error after what it wrote to standard output, between two other messages:
/// codex reads the two pipes in tasks of their own.
fn by_stream(mut messages: Vec<Value>) -> Vec<Value> {
    let stream = |it: &Value| {
        let method = it["method"].as_str().unwrap_or_default();
        let has_streams = ["command/exec/outputDelta", "process/outputDelta"].contains(&method);
        has_streams.then(|| it["params"]["stream"].as_str().unwrap_or_default() == "stderr")
    };
    for run in messages.chunk_by_mut(|one, next| stream(one).is_some() && stream(next).is_some()) {
        run.sort_by_key(stream);
    }
    messages
}

/// Leaves out what a command of a turn printed where the end of the command contains it, too: whether it is sent
/// before depends on how long the command runs (codex, alone over stdio, sent it for 26 of 150 `echo`).
fn without_repeated_output(messages: Vec<Value>) -> Vec<Value> {
    let reported: Vec<(Value, String)> = messages
        .iter()
        .map(|it| &it["params"]["item"])
        .filter_map(|item| Some((item["id"].clone(), item["aggregatedOutput"].as_str()?.to_owned())))
        .collect();
    let is_told = |message: &Value| {
        let text = message["params"]["delta"].as_str().unwrap_or_default();
        message["method"] == "item/commandExecution/outputDelta"
            && reported.iter().any(|(id, output)| *id == message["params"]["itemId"] && output.contains(text))
    };
    messages.into_iter().filter(|message| !is_told(message)).collect()
}

/// Output of processes, in pieces.
const OUTPUT: [&str; 3] =
    ["item/commandExecution/outputDelta", "command/exec/outputDelta", "process/outputDelta"];

fn continues(last: &Value, next: &Value) -> bool {
    let same = |key: &str| last["params"][key] == next["params"][key];
    last["method"] == next["method"]
        && ["itemId", "processId", "processHandle", "stream", "capReached"].into_iter().all(same)
}

/// Decodes base64; what is no such text stays as it is.
pub(crate) fn decode(text: &str) -> String {
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for byte in text.bytes().take_while(|byte| *byte != b'=') {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return text.to_owned(),
        };
        bits = bits << 6 | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn output_that_is_repeated_at_the_end_is_left_out_and_other_output_is_not() {
    let delta = |item: &str, text: &str| {
        let params = json!({"itemId": item, "delta": text});
        json!({"method": "item/commandExecution/outputDelta", "params": params})
    };
    let end =
        json!({"method": "item/completed", "params": {"item": {"id": "a", "aggregatedOutput": "one two"}}});
    let seen = vec![delta("a", "one"), delta("b", "one"), delta("a", "three"), end.clone()];
    assert_eq!(without_repeated_output(seen), [delta("b", "one"), delta("a", "three"), end]);
}

#[test]
fn output_of_two_streams_is_put_in_one_order() {
    let delta = |stream: &str, text: &str| {
        let params = json!({"processHandle": "h", "stream": stream, "delta": text, "deltaBase64": null});
        json!({"method": "process/outputDelta", "params": params})
    };
    let end = json!({"method": "process/exited", "params": {"processHandle": "h"}});
    let seen = vec![delta("stderr", "e"), delta("stdout", "o"), delta("stderr", "e"), end.clone()];
    assert_eq!(join_pieces(seen), [delta("stdout", "o"), delta("stderr", "ee"), end]);
}

#[test]
fn base64_is_decoded() {
    assert_eq!(["aGVsbG8K", "aGk=", "aA==", ""].map(decode), ["hello\n", "hi", "h", ""]);
}
