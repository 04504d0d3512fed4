//! A client of `codexd connect` keeps its pipe when codex or codexd dies or is stopped, with the real codex: it gets one
//! truthful end of what ran, and its next prompt is answered in the same thread.

use codexd_tests::client::Message;
use codexd_tests::process;
use codexd_tests::skip;
use codexd_tests::wait;
use codexd_tests::{binary, clients};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::others::KILLED;
use crate::world::{Bridge, World};

/// How a daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    Codex,
    Codexd,
    Stop,
}

pub(crate) const DEATHS: [Death; 3] = [Death::Codex, Death::Codexd, Death::Stop];

impl Death {
    /// Ends the daemon, and waits until it is gone.
    pub(crate) fn happens(self, world: &World) {
        let daemon = world.daemon();
        match self {
            Death::Codex => world.kill9_codex(),
            Death::Codexd => world.kill9(),
            // Turns are interrupted: the test has no time to wait for them.
            Death::Stop => drop(world.run(&["ctl", "stop", "--now"]).expect_code(0)),
        }
        process::wait_dead(daemon);
    }

    /// The message for people.
    fn words(self) -> &'static str {
        match self {
            Death::Codex => KILLED,
            Death::Codexd => "the connection to codexd was lost",
            Death::Stop => "",
        }
    }
}

/// Runs a test for each way in which a daemon can end.
fn each(test: impl Fn(&World, Death)) {
    for death in DEATHS {
        let Some(world) = World::real() else { return };
        test(&world, death);
    }
}

fn project_thread(client: &mut Bridge, world: &World) -> String {
    client.start_thread(json!({"cwd": world.home().project(), "approvalPolicy": "untrusted"}))
}

/// The next prompt is answered in the same thread, by the next daemon, which knows what was said before.
fn goes_on(client: &mut Bridge, world: &World, thread: &str) {
    assert_eq!(client.turn(thread, "[[deltas:3]] again").status, "completed", "{}", client.stderr());
    assert_eq!(world.status("generation").as_deref(), Some("2"));
    assert_eq!(world.daemons().len(), 1);
}

fn ends(seen: &[Message], turn: &str) -> usize {
    let is_it = |it: &&Message| it.method() == Some("turn/completed") && it["params"]["turn"]["id"] == turn;
    seen.iter().filter(is_it).count()
}

/// Returns all that came since, and checks that the turn has ended once, in the order of codex.
fn one_end(client: &mut Bridge, thread: &str, turn: &str, death: Death) -> Vec<Message> {
    let end = client.finish_turn(thread, turn);
    let methods = end.methods();
    if death == Death::Stop {
        assert_eq!(end.status, "interrupted");
    } else {
        assert_eq!(end.status, "failed", "{methods:?}");
        assert_eq!(end.error["message"], death.words());
        assert!(methods.ends_with(&["thread/status/changed", "error", "turn/completed"]), "{methods:?}");
        assert_eq!(end.seen.last().unwrap()["params"]["codexd"]["synthetic"], true);
    }
    let mut seen = end.seen;
    seen.extend(client.recv_to_barrier());
    assert_eq!(ends(&seen, turn), 1, "{seen:#?}");
    seen
}

#[test]
fn an_idle_thread_goes_on() {
    each(|world, death| {
        let mut client = world.client("client");
        let thread = project_thread(&mut client, world);
        assert_eq!(client.turn(&thread, "first").status, "completed");
        death.happens(world);
        goes_on(&mut client, world, &thread);
        // The thread is the same one: the model is told of both prompts.
        let said = format!("{:?}", world.model().requests().last().unwrap());
        assert!(said.contains("first") && said.contains("again"), "{said}");
        assert_eq!(client.finish(), 0);
    });
}

#[test]
fn a_turn_that_streams_ends_once_and_the_next_one_is_answered() {
    each(|world, death| {
        let mut client = world.client("client");
        let thread = project_thread(&mut client, world);
        let turn = client.start_turn(&thread, "[[deltas:100000:20]] for ever");
        client.take_method("item/agentMessage/delta");
        death.happens(world);
        one_end(&mut client, &thread, &turn, death);
        goes_on(&mut client, world, &thread);
        assert_eq!(client.finish(), 0);
    });
}

#[test]
fn an_open_approval_is_resolved_and_never_carried_out() {
    each(|world, death| {
        let mut client = world.client("client");
        let thread = project_thread(&mut client, world);
        let turn = client.start_turn(&thread, "[[shell:echo yes > made.txt]] go");
        let approval = client.take("the approval", Message::is_server_request);
        death.happens(world);
        let seen = one_end(&mut client, &thread, &turn, death);
        let resolved = |it: &&Message| it.method() == Some("serverRequest/resolved");
        let ids: Vec<&Value> = seen.iter().filter(resolved).map(|it| &it["params"]["requestId"]).collect();
        assert_eq!(ids, [&approval["id"]]);
        // A late answer reaches nobody: also not the next approval, which has another id.
        client.answer(&approval, json!({"decision": "accept"}));
        let turn = client.start_turn(&thread, "[[shell:echo yes > made.txt]] again");
        let next = client.take("the next approval", Message::is_server_request);
        assert_ne!(next["id"], approval["id"]);
        client.answer(&next, json!({"decision": "decline"}));
        client.finish_turn(&thread, &turn);
        assert!(!world.home().project().join("made.txt").exists());
        assert_eq!(client.finish(), 0);
    });
}

#[test]
fn a_thread_that_never_ran_goes_on() {
    each(|world, death| {
        let mut client = world.client("client");
        let thread = project_thread(&mut client, world);
        if death != Death::Stop {
            // It survives a death once codexd has had codex keep it, two seconds after its start.
            wait::until("codex keeps it", || crate::never_ran::is_kept(&world.home().codex_home(), &thread));
        }
        death.happens(world);
        goes_on(&mut client, world, &thread);
        assert_eq!(client.finish(), 0);
    });
}

#[test]
fn what_only_reads_is_answered_as_if_nothing_had_happened() {
    each(|world, death| {
        let mut client = world.client("client");
        let thread = project_thread(&mut client, world);
        assert_eq!(client.turn(&thread, "first").status, "completed");
        let stopped = kill(Pid::from_raw(world.servers()[0].pid), Signal::SIGSTOP);
        assert_eq!(stopped, Ok(()));
        let ids: Vec<i64> = (0..5).map(|_| client.send_request("thread/list", json!({}))).collect();
        wait::until("they are on their way", || world.status("inFlight").as_deref() == Some("5"));
        if death == Death::Stop {
            // A codex that does not run answers nothing, and is killed in the end.
            drop(world.run(&["ctl", "stop", "--kill"]).expect_code(0));
        } else {
            death.happens(world);
        }
        for id in ids {
            assert_eq!(client.response(id).unwrap()["data"].as_array().unwrap().len(), 1);
        }
        goes_on(&mut client, world, &thread);
        assert_eq!(client.finish(), 0);
    });
}

#[test]
fn a_listener_that_never_asks_hears_the_next_turn() {
    for death in [Death::Codex, Death::Codexd] {
        let Some(world) = World::real() else { return };
        let mut talker = world.client("talker");
        let thread = project_thread(&mut talker, &world);
        assert_eq!(talker.turn(&thread, "first").status, "completed");
        let mut listener = world.client("listener");
        listener.request("thread/resume", json!({"threadId": thread}));
        death.happens(&world);
        // It is there again before anybody asks for the thread.
        listener.take_method("notifications/broker/upstreamRestarted");
        let turn = talker.start_turn(&thread, "[[deltas:3]][[stall:1]] again");
        assert_eq!(listener.finish_turn(&thread, &turn).status, "completed");
        assert_eq!(talker.finish_turn(&thread, &turn).status, "completed");
        assert_eq!((talker.finish(), listener.finish()), (0, 0));
    }
}

#[test]
fn after_a_stop_no_daemon_is_started_before_the_client_says_something() {
    let Some(world) = World::real() else { return };
    let mut client = world.client("client");
    let thread = project_thread(&mut client, &world);
    assert_eq!(client.turn(&thread, "first").status, "completed");
    Death::Stop.happens(&world);
    wait::until("the bridge knows", || client.stderr().contains("gets the next daemon"));
    assert_eq!(world.daemons(), []);
    goes_on(&mut client, &world, &thread);
    assert_eq!(client.finish(), 0);
}

/// A prompt with an id of its client, sent at about the time at which codex is killed, is never there twice. Where its turn
/// was begun and killed within milliseconds, codex may not have kept the message (measured): then its client knows that the
/// turn has failed.
#[test]
fn a_prompt_with_an_id_is_never_run_twice_and_never_forgotten() {
    let Some(world) = World::real() else { return };
    let mut client = world.client("client");
    let thread = project_thread(&mut client, &world);
    assert_eq!(client.turn(&thread, "first").status, "completed");
    for round in 0..6 {
        let message = format!("message-{round}");
        let input = json!([{"type": "text", "text": format!("[[stall:600]] round {round}")}]);
        let params = json!({"threadId": thread, "input": input, "clientUserMessageId": message});
        let pid = |field: &str| -> i32 { world.status(field).unwrap().parse().unwrap() };
        let (codex, codexd) = (pid("upstream.pid"), pid("pid"));
        let id = client.send_request("turn/start", params);
        wait::pause(std::time::Duration::from_millis(8 * round));
        let killed = if round % 2 == 0 { codex } else { codexd };
        kill(Pid::from_raw(killed), Signal::SIGKILL).unwrap();
        process::wait_dead(codexd);
        let turn = client.response(id).unwrap()["turn"]["id"].as_str().unwrap().to_owned();
        // It was begun before the kill, and has its end; or it was sent once more, and runs.
        let begun = client.take("the end, or that it runs", |message| of_turn(message, &turn));
        let seen = client.recv_to_barrier();
        let is_end = |it: &Message| it.method() == Some("turn/completed") && of_turn(it, &turn);
        let runs = begun.method() == Some("turn/started") && !seen.iter().any(is_end);
        if runs {
            // Interrupted before it is an item, a message is in no history.
            let is_item = |it: &Message| {
                it.method() == Some("item/completed") && it["params"]["item"]["clientId"] == message.as_str()
            };
            if !seen.iter().any(is_item) {
                client.take("the message as an item", is_item);
            }
            client.request("turn/interrupt", json!({"threadId": thread, "turnId": turn}));
            client.take("its end", is_end);
        }
        let read = client.request("thread/read", json!({"threadId": thread, "includeTurns": true}));
        let is_it = |item: &&Value| item["clientId"] == message.as_str();
        let turns = read["thread"]["turns"].as_array().unwrap();
        let items = turns.iter().flat_map(|turn| turn["items"].as_array().unwrap());
        let kept = items.filter(is_it).count();
        assert!(kept == 1 || kept == 0 && !runs, "round {round}: {kept} times in {read}");
    }
    assert_eq!(client.turn(&thread, "last").status, "completed");
    assert_eq!(client.finish(), 0);
}

fn of_turn(message: &Message, turn: &str) -> bool {
    let params = &message["params"];
    matches!(message.method(), Some("turn/completed" | "turn/started")) && params["turn"]["id"] == turn
}

/// The SDK: one object, whose turn is lost once, and which goes on.
const SDK: &str = r#"
import sys
from openai_codex import Codex, CodexConfig
with Codex(CodexConfig(launch_args_override=(sys.argv[1], "app-server", "--listen", "stdio://"))) as codex:
    thread = codex.thread_start()
    try:
        thread.run("[[shell:true]][[stall:600]] for ever")
        print("no failure")
    except Exception as error:
        print(error)
    print(thread.run("[[deltas:3]] again").final_response)
"#;

#[test]
fn one_object_of_the_python_sdk_goes_on_after_one_failure() {
    for death in [Death::Codex, Death::Codexd] {
        let Some(world) = World::real() else { return };
        let Some(python) = skip::unless_found(clients::python()) else { return };
        let mut command = world.program(python.program);
        command.env("PYTHONPATH", python.packages).args(["-c", SDK]).arg(binary::codexd());
        let output = std::thread::scope(|scope| {
            let running = scope.spawn(move || codexd_tests::output::Output::of(&mut command));
            wait::until("the command has run", || world.model().requests().len() == 2);
            death.happens(&world);
            running.join().unwrap()
        });
        let output = output.expect_code(0);
        let lines: Vec<&str> = output.stdout.lines().collect();
        assert!(lines.len() == 2 && lines[0].contains(death.words()), "{output}");
        assert_eq!(lines[1].trim(), "tok0 tok1 tok2 | echo:  again");
    }
}

#[test]
fn the_plugins_dialect_gets_its_failure_and_goes_on() {
    for death in [Death::Codex, Death::Codexd] {
        let Some(world) = World::real() else { return };
        let mut client = world.raw_client("plugin", &[]);
        crate::plugin::introduce(&mut client);
        let params =
            json!({"cwd": world.home().project(), "approvalPolicy": "never", "sandbox": "read-only"});
        let thread = client.start_thread(params);
        let turn = client.start_turn(&thread, "[[shell:true]][[stall:600]] a task");
        wait::until("the command has run", || world.model().requests().len() == 2);
        death.happens(&world);
        one_end(&mut client, &thread, &turn, death);
        goes_on(&mut client, &world, &thread);
        assert_eq!(client.finish(), 0);
    }
}
