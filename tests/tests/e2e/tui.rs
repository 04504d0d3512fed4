//! The terminal interface of codex, on the daemon's socket, beside another client.

use std::path::Path;

use codexd_tests::client::TestClient;
use codexd_tests::codex::{Codex, Version};
use codexd_tests::daemon::TestDaemon;
use codexd_tests::home::{CodexConfig, Home};
use codexd_tests::lab::{Lab, User};
use codexd_tests::model::MockModel;
use codexd_tests::terminal::Terminal;
use codexd_tests::wait;
use serde_json::json;

/// The line of input, once it accepts some.
pub(crate) const PROMPT: &str = "Ask Codex to do anything";

/// What is asked in a conversation that goes on and on.
const QUESTIONS: [&str; 4] =
    ["the first question", "the second question", "the third question", "the last question"];

/// Starts a daemon and, in a terminal, `codex --remote` on it.
fn start() -> Option<(TestDaemon, Terminal)> {
    if !Terminal::is_available() {
        return None;
    }
    let codex = Codex::for_test(Version::Current)?;
    let daemon = TestDaemon::real(Version::Current)?.ready();
    // Read-only, so that a command has to ask; without the alternate screen, so that text stays.
    let command = format!(
        "'{}' --remote 'unix://{}' --sandbox read-only --ask-for-approval on-request --no-alt-screen",
        codex.native.display(),
        daemon.socket().display()
    );
    let terminal = Terminal::run(daemon.home(), &command);
    terminal.wait_for(PROMPT);
    Some((daemon, terminal))
}

/// Types a prompt and sends it once it is on the screen: faster input counts as pasted text.
pub(crate) fn send(terminal: &Terminal, prompt: &str, ending: &str) {
    terminal.type_text(prompt);
    terminal.wait_for(ending);
    terminal.press("Enter");
}

/// Finds the thread of the conversation that contains this text, and joins it.
pub(crate) fn join(client: &mut TestClient, said: &str) -> String {
    let loaded = client.request("thread/loaded/list", json!({}));
    // The interface starts short-lived threads beside that of the conversation.
    let threads = loaded["data"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned());
    let threads = threads
        .filter(|id| {
            let read = client.try_request("thread/read", json!({"threadId": id, "includeTurns": true}));
            read.is_ok_and(|result| result.to_string().contains(said))
        })
        .collect::<Vec<_>>();
    let [thread] = &threads[..] else { panic!("one thread has it: {threads:?} of {loaded}") };
    client.request("thread/resume", json!({"threadId": thread, "excludeTurns": true}));
    thread.clone()
}

#[test]
fn the_terminal_interface_and_another_client_share_a_thread() {
    let Some((daemon, terminal)) = start() else { return };

    // A turn of the interface.
    send(&terminal, "hello from the terminal", "from the terminal");
    terminal.wait_for("echo: hello from the terminal");

    // Another client joins its thread and runs a turn there: the interface shows it.
    let mut other = daemon.client("other");
    let thread = &join(&mut other, "echo: hello from the terminal");
    let turn = other.turn(thread, "[[say:0:an answer from elsewhere]] a question from elsewhere");
    assert_eq!(turn.answer.as_deref(), Some("an answer from elsewhere"));
    let screen = terminal.wait_for("• an answer from elsewhere");
    assert!(screen.contains("a question from elsewhere"), "{screen}");

    // An approval is given by a key, and the other client sees the turn.
    let command = "[[shell:echo it > made.txt;;sandbox_permissions=\"require_escalated\"]] do it";
    send(&terminal, command, "do it");
    terminal.wait_for("Yes, proceed");
    let asked = other.take_method("item/commandExecution/requestApproval");
    assert_eq!(asked["params"]["threadId"], thread.as_str());
    terminal.press("y");
    terminal.wait_for("echo:  do it");
    assert_eq!(std::fs::read_to_string(daemon.home().project().join("made.txt")).unwrap(), "it\n");
    let resolved = other.take_method("serverRequest/resolved");
    assert_eq!(resolved["params"]["requestId"], asked["id"]);
    let completed = other.take_method("turn/completed");
    assert_eq!(completed["params"]["threadId"], thread.as_str());
    assert_eq!(completed["params"]["turn"]["status"], "completed");
}

#[test]
fn the_terminal_interface_notices_the_end_of_the_daemon() {
    let Some((mut daemon, terminal)) = start() else { return };
    send(&terminal, "before the end", "before the end");
    terminal.wait_for("echo: before the end");
    assert_eq!(daemon.stop(), 0);
    terminal.wait_for("Reconnecting");
}

#[test]
fn a_conversation_in_the_terminal_outlives_its_server_and_the_daemon() {
    if !Terminal::is_available() {
        return;
    }
    let Some(codex) = Codex::for_test(Version::Current) else { return };
    // The model is reached over loopback, so the lab shares the network.
    let Some(lab) = Lab::boot_with(User::Root, &["--share-net"]) else { return };
    let home = Home::new().unwrap();
    let model = MockModel::start().unwrap();
    home.write_codex_config(&model.base_url(), &CodexConfig::default()).unwrap();
    let variable = format!("CODEX_HOME={}", home.codex_home().display());
    let codexd = |words: &[&str]| lab.run(&[&["env", &variable, "codexd"], words].concat());
    let native = codex.native.display().to_string();
    let _ = codexd(&["install", "--systemd", "--now", "--codex", &native]).expect_code(0);
    let status = |field: &str| codexd(&["ctl", "status", "--field", field]).stdout.trim().to_owned();
    let socket = status("socket");
    let unit = format!("codexd-{}.service", Path::new(&socket).file_stem().unwrap().to_str().unwrap());

    let address = lab.path(&socket);
    let command = format!("'{native}' --remote 'unix://{}' --no-alt-screen", address.display());
    let terminal = Terminal::run(&home, &command);
    terminal.wait_for(PROMPT);
    let ask = |count: usize| {
        let question = QUESTIONS[count - 1];
        send(&terminal, question, question);
        let screen = terminal.wait_for(&format!("echo: {question}"));
        for answer in QUESTIONS[..count].iter().map(|question| format!("echo: {question}")) {
            assert_eq!(screen.matches(&answer).count(), 1, "{answer}:\n{screen}");
        }
        wait::until("the turn has ended", || status("openTurns") == "0");
    };
    let kill = |pid: &str, restarts: &str| {
        lab.expect(0, &["kill", "-KILL", pid]);
        lab.wait_for(&unit, "NRestarts", restarts);
        // It is drawn that the connection is lost before the next one is tried.
        wait::until("the interface has connected again", || status("clients") == "1");
        terminal.wait_without("Reconnecting");
    };
    let pids = || (status("upstream.pid"), lab.show(&unit, "MainPID"));
    ask(1);

    kill(&pids().0, "1");
    ask(2);

    kill(&pids().1, "2");
    ask(3);

    // In the middle of a turn, too: that one is interrupted, and nothing else.
    let mut other = TestClient::connect("other", &address);
    other.initialize();
    let thread = join(&mut other, "echo: the first question");
    send(&terminal, "[[hang]] a question to nobody", "to nobody");
    other.take("the turn of the conversation", |message| {
        message.method() == Some("turn/started") && message["params"]["threadId"] == thread.as_str()
    });
    drop(other);
    kill(&pids().1, "3");
    ask(4);
}
