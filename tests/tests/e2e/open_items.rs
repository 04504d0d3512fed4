//! A client that resumes a running thread sees the text of its open items from their beginning, with the real codex.

use codexd_tests::client::{Message, TestClient};
use codexd_tests::codex::{Codex, Version};
use codexd_tests::daemon::TestDaemon;
use codexd_tests::terminal::Terminal;
use serde_json::json;

/// A turn that speaks until it is interrupted.
const ENDLESS: &str = "[[deltas:100000:20]] speak";

/// Deltas that are heard live, after those that are repeated.
const LIVE: usize = 5;

fn delta(message: &Message) -> Option<&str> {
    message["params"]["delta"].as_str()
}

/// Waits for some deltas and returns the text of all that came.
fn listen(client: &mut TestClient, thread: &str, most: usize) -> String {
    let mut live = 0;
    let seen = client.recv_until(|message| {
        let is_live = delta(message).is_some() && message["params"]["codexd"].is_null();
        live += usize::from(is_live && message["params"]["threadId"] == thread);
        live == most
    });
    seen.iter().filter_map(delta).collect()
}

/// Checks that a text is what the model has said since its beginning, without a gap and without a double.
fn is_whole(text: &str) {
    let words = text.split_inclusive(' ').enumerate();
    let odd: Vec<_> = words.filter(|(at, word)| *word != format!("tok{at} ")).collect();
    assert!(text.starts_with("tok0 ") && odd.is_empty(), "{odd:?} in {text}");
}

/// Resumes the thread, listens, and leaves.
fn comes_and_goes(mut client: TestClient, thread: &str) {
    let id = client.send_request("thread/resume", json!({"threadId": thread}));
    let seen = client.recv_until(|message| message.is_answer_to(id));
    assert!(seen.iter().all(|message| delta(message).is_none()), "text before the response: {seen:#?}");
    let started = client.recv();
    assert_eq!(started.method(), Some("item/started"), "{}", started.raw);
    assert_eq!(started["params"]["item"]["type"], "agentMessage");
    assert_eq!(started["params"]["codexd"]["reason"], "resumed");
    is_whole(&listen(&mut client, thread, LIVE));
}

#[test]
fn whoever_comes_or_comes_back_has_the_text_of_a_running_turn_from_its_beginning() {
    let Some(daemon) = TestDaemon::real(Version::Current) else { return };
    let daemon = daemon.ready();
    let mut first = daemon.client("first");
    let thread = first.start_thread(json!({"cwd": daemon.home().project()}));
    let turn = first.start_turn(&thread, ENDLESS);
    listen(&mut first, &thread, LIVE);
    // One more, while the first one is there.
    comes_and_goes(daemon.client("second"), &thread);
    // Now nobody is.
    drop(first);
    comes_and_goes(daemon.client("lines"), &thread);
    comes_and_goes(daemon.websocket_client("websocket"), &thread);
    let mut bridge = TestClient::spawn("bridge", &mut daemon.command(&["connect"]));
    bridge.initialize();
    comes_and_goes(bridge, &thread);
    let mut last = daemon.client("last");
    last.request("thread/resume", json!({"threadId": thread}));
    last.request("turn/interrupt", json!({"threadId": thread, "turnId": turn}));
    let end = last.finish_turn(&thread, &turn);
    assert_eq!(end.status, "interrupted");
    is_whole(&end.deltas.concat());
    // What has ended is not repeated.
    let mut late = daemon.client("late");
    late.request("thread/resume", json!({"threadId": thread}));
    assert!(late.recv_to_barrier().iter().all(|message| message["params"]["codexd"].is_null()));
}

#[test]
fn the_output_of_a_running_command_is_repeated_and_its_beginning_is_not() {
    let Some(daemon) = TestDaemon::real(Version::Current) else { return };
    let daemon = daemon.ready();
    let mut first = daemon.client("first");
    let thread = first.start_thread(json!({"cwd": daemon.home().project()}));
    let command =
        "i=0; while [ ! -e stop ]; do echo tok$i; i=$((i+1)); sleep 0.05; done;;yield_time_ms=60000";
    let turn = first.start_turn(&thread, &format!("[[shell:{command}]] go"));
    let heard = |client: &mut TestClient, most: usize| {
        let mut live = 0;
        let seen = client.recv_until(|message| {
            live += usize::from(message.method() == Some("item/commandExecution/outputDelta"));
            live == most
        });
        let text: String = seen.iter().filter_map(delta).collect();
        (seen, text)
    };
    // Codex does not send what a command prints at once (measured).
    let (_, beginning) = heard(&mut first, LIVE);
    drop(first);
    let mut second = daemon.client("second");
    let resumed = second.request("thread/resume", json!({"threadId": thread}));
    let items = resumed["thread"]["turns"][0]["items"].as_array().unwrap();
    let shown = items.iter().find(|item| item["type"] == "commandExecution").expect("codex shows it");
    assert_eq!((&shown["status"], &shown["aggregatedOutput"]), (&json!("inProgress"), &json!(null)));
    let (seen, text) = heard(&mut second, LIVE);
    assert!(seen.iter().all(|message| message.method() != Some("item/started")), "{seen:#?}");
    assert!(text.len() > beginning.len() && text.starts_with(&beginning), "{beginning:?}, then {text:?}");
    let number = |line: &str| line.strip_prefix("tok").unwrap().parse::<usize>().unwrap();
    let numbers: Vec<usize> = text.lines().map(number).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{text:?}");
    std::fs::write(daemon.home().project().join("stop"), "").unwrap();
    assert_eq!(second.finish_turn(&thread, &turn).status, "completed");
}

#[test]
fn the_terminal_interface_shows_a_running_turn_from_its_beginning() {
    if !Terminal::is_available() {
        return;
    }
    let (Some(codex), Some(daemon)) = (Codex::for_test(Version::Current), TestDaemon::real(Version::Current))
    else {
        return;
    };
    let daemon = daemon.ready();
    let mut client = daemon.client("client");
    let thread = client.start_thread(json!({"cwd": daemon.home().project()}));
    let words: Vec<String> = (0..600).map(|n| format!("word{n}")).collect();
    let turn = client.start_turn(&thread, &format!("[[say:50:{}]] speak", words.join(" ")));
    listen(&mut client, &thread, LIVE);
    let socket = daemon.socket();
    let command = format!(
        "'{}' resume {thread} --remote 'unix://{}' --no-alt-screen",
        codex.native.display(),
        socket.display()
    );
    let terminal = Terminal::run(daemon.home(), &command);
    // The prompt has these words, too; the answer begins with a bullet.
    let screen = terminal.wait_for("• word0 word1 word2");
    assert_eq!(screen.matches("• word0 word1").count(), 1, "{screen}");
    client.request("turn/interrupt", json!({"threadId": thread, "turnId": turn}));
    assert_eq!(client.finish_turn(&thread, &turn).status, "interrupted");
}
