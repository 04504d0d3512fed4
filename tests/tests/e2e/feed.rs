//! Events and frames: what happens, as it happens, and transcripts of it.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use codexd_proto::id::ClientId;
use codexd_proto::router::{Config, Identity, Router};
use codexd_proto::time::Time;
use codexd_tests::client::TestClient;
use codexd_tests::codex::Version;
use codexd_tests::daemon::TestDaemon;
use codexd_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::load::{answer, connect, introduce};
use crate::screens::list;
use crate::support::{Started, status};
use crate::world::World;

/// A command whose lines are JSON documents.
struct Watching {
    process: Started,
    lines: Receiver<Value>,
}

impl Watching {
    fn of(daemon: &TestDaemon, arguments: &[&str]) -> Watching {
        Watching::with_notes(daemon, arguments, Stdio::null())
    }

    /// Starts one that writes to `notes` what is for people.
    fn with_notes(daemon: &TestDaemon, arguments: &[&str], notes: Stdio) -> Watching {
        let mut command = daemon.command(&[&["ctl"], arguments, &["--json"]].concat());
        let mut process = Started::of(command.stdout(Stdio::piped()).stderr(notes));
        let stdout = BufReader::new(process.0.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines() {
                // The test may be over.
                if sender.send(serde_json::from_str(&line.unwrap()).unwrap()).is_err() {
                    return;
                }
            }
        });
        Watching { process, lines }
    }

    /// Returns the next document; `None` at the end.
    #[track_caller]
    fn next(&mut self) -> Option<Value> {
        match self.lines.recv_timeout(wait::PATIENCE) {
            Ok(value) => Some(value),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("nothing more comes"),
        }
    }

    /// Reads up to one of which this is true.
    #[track_caller]
    fn find(&mut self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut seen = Vec::new();
        while let Some(value) = self.next() {
            if is(&value) {
                return value;
            }
            seen.push(value.to_string());
        }
        panic!("no {what} in\n{}", seen.join("\n"));
    }

    #[track_caller]
    fn event(&mut self, kind: &str) -> Value {
        self.find(kind, |event| event["kind"] == kind)
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.process.0.id()).unwrap()), signal).unwrap();
    }
}

/// Waits until a monitor is there: it shows what a client does.
#[track_caller]
fn begun(monitor: &mut Watching, client: &mut TestClient) {
    // What is sent before the daemon knows of the monitor is not shown.
    wait::until("the monitor shows something", || {
        client.request("broker/status", Value::Null);
        monitor.lines.try_recv().is_ok()
    });
}

#[test]
fn events_tell_of_clients_turns_approvals_and_the_end() {
    let Some(builder) = TestDaemon::real(Version::Current) else { return };
    let mut daemon = builder.config("memory_warning_bytes = 1\n").ready();
    let mut events = Watching::of(&daemon, &["events"]);
    // The state and the warnings that there are come first.
    assert_eq!(events.event("stateChanged")["state"], "serving");
    assert_eq!(events.event("warningRaised")["warning"]["code"], "memoryHigh");
    let mut client = daemon.client("one");
    let connected = events.event("clientConnected");
    assert_eq!(
        (&connected["client"]["name"], &connected["pid"]),
        (&json!("one"), &json!(std::process::id()))
    );
    let params = json!({"cwd": daemon.home().project(), "approvalPolicy": "untrusted"});
    let thread = client.start_thread(params);
    let turn = client.start_turn(&thread, "[[shell:echo a-secret-word > made.txt]] go");
    let started = events.event("turnStarted");
    assert_eq!((&started["threadId"], &started["turnId"]), (&json!(thread), &json!(turn)));
    let approval = client.take_method("item/commandExecution/requestApproval");
    let requested = events.event("approvalRequested");
    assert_eq!(requested["method"], "item/commandExecution/requestApproval");
    assert_eq!((&requested["threadId"], &requested["turnId"]), (&json!(thread), &json!(turn)));
    assert_eq!(requested["seenBy"][0]["name"], "one");
    client.answer(&approval, json!({"decision": "accept"}));
    let answered = events.event("approvalAnswered");
    assert_eq!(
        (&answered["requestId"], &answered["client"]["name"]),
        (&requested["requestId"], &json!("one"))
    );
    assert_eq!((&answered["threadId"], &answered["turnId"]), (&json!(thread), &json!(turn)));
    client.finish_turn(&thread, &turn);
    let ended = events.event("turnEnded");
    assert_eq!((&ended["outcome"], &ended["turnId"]), (&json!("completed"), &json!(turn)));
    assert!(ended["durationMs"].is_u64() && !ended.to_string().contains("a-secret-word"), "{ended}");
    drop(client);
    assert_eq!(events.event("clientLeft")["client"]["name"], "one");
    daemon.term();
    assert_eq!(events.event("stateChanged")["state"], "draining");
    while events.next().is_some() {}
    assert_eq!(events.process.exit_code(), Some(3));
    assert_eq!(daemon.wait_exit().code(), Some(0));
}

#[test]
fn an_approval_that_codex_gives_up_is_withdrawn() {
    let Some(builder) = TestDaemon::real(Version::Current) else { return };
    let daemon = builder.ready();
    let mut events = Watching::of(&daemon, &["events"]);
    assert_eq!(events.event("stateChanged")["state"], "serving");
    let mut client = daemon.client("one");
    events.event("clientConnected");
    let params = json!({"cwd": daemon.home().project(), "approvalPolicy": "untrusted"});
    let thread = client.start_thread(params);
    client.start_turn(&thread, "[[shell:echo yes > made.txt]] go");
    client.take_method("item/commandExecution/requestApproval");
    let requested = events.event("approvalRequested");
    let _ = daemon.ctl(&["interrupt", &thread]).expect_code(0);
    // In whatever order codex reports them.
    let ends = |event: &Value| event["kind"] == "approvalWithdrawn" || event["kind"] == "turnEnded";
    let mut seen = [events.find("an end", ends), events.find("the other end", ends)];
    seen.sort_by_key(|event| event["kind"].to_string());
    assert_eq!(seen[0]["requestId"], requested["requestId"], "{seen:?}");
    assert_eq!(seen[0]["turnId"], seen[1]["turnId"], "{seen:?}");
    assert_eq!(seen[1]["outcome"], "interrupted", "{seen:?}");
}

#[test]
fn a_monitor_shows_what_passes_and_never_the_bodies() {
    let daemon = TestDaemon::fake("").ready();
    let mut client = daemon.client("one");
    let mut monitor = Watching::of(&daemon, &["monitor"]);
    begun(&mut monitor, &mut client);
    let thread = client.start_thread(json!({}));
    let request = monitor.find("a request", |frame| frame["method"] == "thread/start");
    assert_eq!((&request["direction"], &request["kind"]), (&json!("fromClient"), &json!("request")));
    assert_eq!((&request["client"], &request["latencyUs"]), (&json!(1), &Value::Null));
    let is_response = |frame: &Value| frame["method"] == "thread/start" && frame["kind"] == "response";
    let response = monitor.find("its response", is_response);
    assert_eq!((&response["direction"], &response["id"]), (&json!("toClient"), &request["id"]));
    assert!(response["latencyUs"].as_u64() > Some(0) && response["bytes"].as_u64() > Some(20), "{response}");
    client.turn(&thread, "a-secret-word");
    let mut frames = 0;
    loop {
        let frame = monitor.next().unwrap();
        assert!(frame["body"].is_null() && !frame.to_string().contains("a-secret-word"), "{frame}");
        frames += 1;
        if frame["method"] == "turn/completed" {
            break;
        }
    }
    assert!(frames > 5, "{frames}");
}

#[test]
fn a_monitor_shows_only_what_was_asked_for_and_masks_secrets() {
    let daemon = TestDaemon::fake("").env("SOME_API_KEY", "planted-by-the-environment").ready();
    let (mut one, mut two) = (daemon.client("one"), daemon.client("two"));
    let flags = ["monitor", "--bodies", "--client", "2", "--method", "model/", "--method", "broker/"];
    let mut monitor = Watching::of(&daemon, &flags);
    begun(&mut monitor, &mut two);
    one.request("model/list", json!({}));
    let params = json!({"apiKey": "planted-by-name", "note": "has planted-by-the-environment in it"});
    two.request("thread/loaded/list", json!({}));
    two.request("model/list", params);
    let frame = monitor.find("a frame", |frame| frame["method"] != "broker/status");
    assert_eq!((&frame["method"], &frame["client"]), (&json!("model/list"), &json!(2)));
    let body: Value = serde_json::from_str(frame["body"].as_str().unwrap()).unwrap();
    assert_eq!(body["params"], json!({"apiKey": "***", "note": "has *** in it"}));
    let response = monitor.next().unwrap();
    assert_eq!((&response["kind"], &response["client"]), (&json!("response"), &json!(2)));
}

#[test]
fn a_monitor_that_does_not_read_is_dropped_and_nobody_else_notices() {
    let daemon = TestDaemon::fake("").ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    let mut monitor = Watching::of(&daemon, &["monitor", "--bodies"]);
    begun(&mut monitor, &mut client);
    monitor.signal(Signal::SIGSTOP);
    wait::until("more comes than its queue and the buffers on the way hold", || {
        // Less than 4 MiB in all, so that the whole answer at the end has a body, too.
        assert_eq!(client.turn(&thread, "[[flood:39:100000]]").status, "completed");
        daemon.stderr().contains("a monitor is dropped")
    });
    assert_eq!(client.turn(&thread, "still served").status, "completed");
    assert_eq!(status(&daemon)["counters"]["clientsTooSlow"], 0);
    monitor.signal(Signal::SIGCONT);
    while monitor.next().is_some() {}
    assert_eq!(monitor.process.exit_code(), Some(1));
}

#[test]
fn of_what_a_monitor_does_not_show_in_a_flood_each_message_is_counted() {
    let daemon = TestDaemon::fake("").ready();
    let file = daemon.home().root().join("notes");
    let notes = std::fs::File::create(&file).unwrap();
    let mut monitor = Watching::with_notes(&daemon, &["monitor"], notes.into());
    let mut early = daemon.client("early");
    begun(&mut monitor, &mut early);
    drop(early);
    // One that reads only when it is told to.
    let mut client = connect(&daemon);
    introduce(&mut client, "late");
    answer(&mut client, &json!("late"));
    let ask = |client: &mut BufReader<UnixStream>, id: u64, method: &str, params: Value| {
        let line = format!("{}\n", json!({"id": id, "method": method, "params": params}));
        client.get_mut().write_all(line.as_bytes()).unwrap();
    };
    ask(&mut client, 2, "thread/start", json!({}));
    let thread = answer(&mut client, &json!(2))["result"]["thread"]["id"].clone();
    ask(&mut client, 3, "model/list", json!({}));
    answer(&mut client, &json!(3));
    monitor
        .find("the last message before the flood", |frame| frame["kind"] == "response" && frame["id"] == "3");
    let counter = |name: &str| status(&daemon)["counters"][name].as_u64().unwrap();
    let passed = || counter("clientMessages") + counter("deliveredMessages");
    let missed = || -> u64 {
        let notes = std::fs::read_to_string(&file).unwrap();
        // The last line may not be complete.
        let whole = notes.rfind('\n').map_or("", |end| &notes[..end]);
        let number = |line: &str| line.split(' ').find_map(|word| word.parse::<u64>().ok());
        whole.lines().filter(|line| line.contains("are not shown")).filter_map(number).sum()
    };
    let (before, delivered) = (passed(), counter("deliveredMessages"));
    // How fast messages pass depends on the machine. What has waited for a client passes at once when it reads.
    let prompt = json!([{"type": "text", "text": "[[flood:1200:3000]]"}]);
    ask(&mut client, 4, "turn/start", json!({"threadId": thread, "input": prompt}));
    wait::until("everything waits for the client", || counter("deliveredMessages") >= delivered + 1200);
    let mut line = String::new();
    while !line.contains("turn/completed") {
        line.clear();
        assert!(client.read_line(&mut line).unwrap() > 0, "the connection has ended");
    }
    let mut shown = 0;
    wait::until("every message is shown or counted", || {
        shown += monitor.lines.try_iter().count() as u64;
        shown + missed() == passed() - before
    });
    assert!(shown > 0 && missed() > 0, "{shown} shown and {} counted", missed());
}

/// Feeds what a transcript says that came in to a router, and compares what goes out.
fn replay(transcript: &str) -> usize {
    let mut lines = transcript.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let head = lines.next().unwrap();
    assert_eq!(head["transcript"], 1, "{head}");
    let frames: Vec<Value> = lines.collect();
    let now = Time::from_millis(1);
    let text = |name: &str| head[name].as_str().unwrap().to_owned();
    let generation = head["generation"].as_u64().unwrap();
    let identity = Identity { version: text("codexd"), instance: text("instance"), generation };
    let mut router = Router::new(Config { identity, ..Config::default() }, now);
    let take = |router: &mut Router| -> Vec<Value> {
        let outbox = router.upstream_outbox();
        let text = String::from_utf8(outbox.pending().to_vec()).unwrap();
        outbox.advance(text.len(), false);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    take(&mut router);
    router.upstream_line(now, br#"{"id":0,"result":{"userAgent":"codexd/0.169.0 (x)"}}"#);
    take(&mut router);
    // What codex had said before, and each new client is told.
    for method in ["remoteControl/status/changed", "configWarning"] {
        let mut of_method = frames.iter().filter(|frame| frame["method"] == method);
        if let Some(frame) = of_method.next().filter(|frame| frame["direction"] == "toClient") {
            router.upstream_line(now, frame["body"].as_str().unwrap().as_bytes());
        }
    }
    // Numbers of clients and of requests were others in the life that was recorded.
    let mut clients: HashMap<u64, ClientId> = HashMap::new();
    let mut ids: HashMap<String, Value> = HashMap::new();
    let mut upward: Vec<Value> = Vec::new();
    let mut compared = 0;
    for frame in &frames {
        let body = frame["body"].as_str().unwrap();
        let message: Value = serde_json::from_str(body).unwrap();
        let client = frame["client"].as_u64();
        match frame["direction"].as_str().unwrap() {
            "fromClient" => {
                let client = clients.entry(client.unwrap()).or_insert_with(|| router.client_connected(now));
                router.client_line(now, *client, body.as_bytes());
                upward.extend(take(&mut router));
            }
            "toCodex" => {
                let at = upward.iter().position(|sent| sent["method"] == message["method"]);
                let sent = upward.remove(at.unwrap_or_else(|| panic!("{message} is not sent: {upward:?}")));
                if message["method"].is_string() {
                    ids.insert(message["id"].to_string(), sent["id"].clone());
                }
                assert_eq!(sent["params"], message["params"]);
                compared += 1;
            }
            "fromCodex" => {
                let mut message = message.clone();
                if let Some(id) = ids.get(&message["id"].to_string()).filter(|_| message["method"].is_null())
                {
                    message["id"] = id.clone();
                }
                router.upstream_line(now, message.to_string().as_bytes());
                upward.extend(take(&mut router));
            }
            _ => {
                let client = clients[&client.unwrap()];
                let outbox = router.outbox(client).unwrap();
                let pending = outbox.pending().to_vec();
                let end = pending.iter().position(|byte| *byte == b'\n').expect("a message waits");
                outbox.advance(end + 1, false);
                let mut got: Value = serde_json::from_slice(&pending[..end]).unwrap();
                let mut expected = message;
                // It names the life that was recorded.
                for value in [&mut got, &mut expected] {
                    if let Some(result) = value["result"].as_object_mut() {
                        result.remove("codexd");
                        result.remove("userAgent");
                    }
                }
                if expected["result"]["codexHome"].is_null() {
                    assert_eq!(got, expected);
                }
                compared += 1;
            }
        }
    }
    compared
}

#[test]
fn a_transcript_of_a_session_can_be_replayed() {
    let Some(builder) = TestDaemon::real(Version::Current) else { return };
    let daemon = builder.ready();
    let file = daemon.home().root().join("transcript.jsonl");
    let mut command = daemon.command(&["ctl", "monitor", "--record", file.to_str().unwrap()]);
    let mut recording = Started::of(command.stdout(Stdio::null()).stderr(Stdio::null()));
    let text = || std::fs::read_to_string(&file).unwrap_or_default();
    wait::until("the transcript has begun", || text().contains("\"transcript\":1"));
    // A client of whose connection all is recorded: one that comes when the first frames are.
    let mut early = daemon.client("early");
    wait::until("frames are recorded", || {
        early.request("broker/status", Value::Null);
        text().contains("broker/status")
    });
    drop(early);
    wait::until("it has left", || list(&daemon, "clients").is_empty());
    let before = text().lines().count();
    let (mut one, mut two) = (daemon.client("one"), daemon.client("two"));
    one.answer_approvals("accept");
    let params = json!({"cwd": daemon.home().project(), "approvalPolicy": "untrusted"});
    let thread = one.start_thread(params);
    assert_eq!(one.turn(&thread, "first").status, "completed");
    two.request("thread/resume", json!({"threadId": thread}));
    assert_eq!(one.turn(&thread, "[[shell:echo yes > made.txt]] go").status, "completed");
    two.take_method("turn/completed");
    two.request("thread/unsubscribe", json!({"threadId": thread}));
    wait::until("the last response is recorded", || {
        text().lines().rev().any(|line| line.contains("\"toClient\"") && line.contains("thread/unsubscribe"))
    });
    recording.terminate();
    recording.0.wait().unwrap();
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    let whole = text();
    let mut lines: Vec<&str> = whole.lines().collect();
    lines.drain(1..before);
    let compared = replay(&lines.join("\n"));
    assert!(compared > 30, "{compared} messages");
    let again = daemon.ctl(&["monitor", "--record", file.to_str().unwrap()]).expect_code(4);
    assert!(again.stderr.contains("cannot create the transcript"), "{again}");
}

#[test]
fn the_log_of_a_daemon_that_a_client_started_is_shown_and_followed() {
    let world = World::fake("");
    let nowhere = world.run(&["ctl", "logs"]).expect_code(1);
    assert!(nowhere.stderr.contains("no daemon runs, and there is no log at"), "{nowhere}");
    let client = world.client("first");
    let shown = world.run(&["ctl", "logs"]).expect_code(0);
    assert!(shown.stdout.contains("client connected"), "{shown}");
    let last = world.run(&["ctl", "logs", "-n", "1"]).expect_code(0);
    assert_eq!(last.stdout.lines().count(), 1, "{last}");
    let mut command = world.command(&["ctl", "logs", "-f"]);
    let mut following = Started::of(command.stdout(Stdio::piped()).stderr(Stdio::null()));
    let mut lines = BufReader::new(following.0.stdout.take().unwrap()).lines();
    assert_eq!(client.finish(), 0);
    while !lines.next().unwrap().unwrap().contains("client left") {}
    let _ = world.run(&["ctl", "stop"]).expect_code(0);
    let after = world.run(&["ctl", "logs"]).expect_code(0);
    assert!(after.stdout.contains("client left"), "{after}");
}

#[test]
fn a_log_that_went_elsewhere_is_said_to_be_there() {
    let daemon = TestDaemon::fake("").ready();
    let output = daemon.ctl(&["logs"]).expect_code(1);
    assert!(output.stderr.contains("where it was started"), "{output}");
    assert_eq!(daemon.ctl(&["logs", "--json"]).expect_code(1).json()["kind"], Value::Null);
}

#[test]
fn a_log_in_json_has_an_object_a_line_with_the_fields() {
    let mut daemon = TestDaemon::fake("").args(["--log-format", "json"]).ready();
    drop(daemon.client("one"));
    wait::until("it has left", || list(&daemon, "clients").is_empty());
    assert_eq!(daemon.stop(), 0);
    let log = daemon.stderr();
    // The last line is for whoever started it, at any level and in any form.
    let lines: Vec<&str> = log.lines().filter(|line| !line.starts_with("codexd: ")).collect();
    let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let connected = lines.iter().find(|line| line["fields"]["message"] == "client connected").unwrap();
    assert_eq!((&connected["level"], &connected["fields"]["client.name"]), (&json!("INFO"), &json!("one")));
    assert!(connected["timestamp"].is_string() && connected["fields"]["client.pid"].is_u64(), "{connected}");
}
