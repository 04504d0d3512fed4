//! `codexd run`: one turn from the command line.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};

use codexd_tests::binary;
use codexd_tests::daemon::TestDaemon;
use codexd_tests::output::Output;
use codexd_tests::terminal::Terminal;
use codexd_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::Started;
use crate::world::World;

/// Reads the objects of `--json`.
#[track_caller]
fn objects(output: &Output) -> Vec<Value> {
    output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns the last object, which is the result.
#[track_caller]
fn result(output: &Output) -> Value {
    let last = objects(output).pop().unwrap_or_else(|| panic!("nothing on stdout\n{output}"));
    assert_eq!(last["type"], "result", "{output}");
    last
}

fn with_input(world: &World, arguments: &[&str], input: &str) -> Output {
    Output::with_input(&mut world.command(&[&["run"], arguments].concat()), input.as_bytes())
}

/// Starts a command whose output is collected at its end.
fn start(mut command: Command) -> Started {
    Started::of(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))
}

/// Waits for the end and returns the exit code, stdout and stderr.
#[track_caller]
fn end(mut started: Started) -> (Option<i32>, String, String) {
    let read = |child: &mut Child| {
        let (mut out, mut err) = (String::new(), String::new());
        std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut out).unwrap();
        std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut err).unwrap();
        (out, err)
    };
    let (out, err) = read(&mut started.0);
    (started.exit_code(), out, err)
}

fn interrupt(started: &Started) {
    kill(Pid::from_raw(i32::try_from(started.0.id()).unwrap()), Signal::SIGINT).unwrap();
}

#[test]
fn the_answer_is_on_stdout_and_nothing_else() {
    let Some(world) = World::real() else { return };
    let first = world.run(&["run", "[[commentary:I look]][[shell:echo hi > made.txt]] do it"]).expect_code(0);
    assert_eq!(first.stdout, "tok0 tok1 tok2 | echo:  do it\n");
    for part in ["codexd: thread ", "I look\n", "codexd: $ echo hi > made.txt", "codexd: completed after"] {
        assert!(first.stderr.contains(part), "no `{part}` in\n{}", first.stderr);
    }
    assert!(!first.stderr.contains('\u{1b}'), "no colours and no spinner where there is no terminal");
    assert_eq!(fs::read_to_string(world.home().project().join("made.txt")).unwrap(), "hi\n");
    let daemon = world.daemon();
    let second = with_input(&world, &["-"], "[[say:0:from a pipe]]").expect_code(0);
    assert_eq!(second.stdout, "from a pipe\n");
    assert_eq!(with_input(&world, &[], "[[say:0:again]]").expect_code(0).stdout, "again\n");
    assert_eq!(world.daemon(), daemon, "one daemon for all of them");
}

#[test]
fn json_has_an_object_for_each_event_and_the_result_last() {
    let Some(world) = World::real() else { return };
    let output = world.run(&["run", "--json", "[[shell:exit 3]] do it"]).expect_code(0);
    let all = objects(&output);
    let kinds: Vec<&str> = all.iter().map(|object| object["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[..2], ["thread", "turn"]);
    let command = all.iter().find(|object| {
        object["method"] == "item/completed" && object["params"]["item"]["type"] == "commandExecution"
    });
    assert_eq!(command.unwrap()["params"]["item"]["exitCode"], 3);
    let result = result(&output);
    assert_eq!((&result["outcome"], &result["knownBy"]), (&json!("completed"), &json!("terminalEvent")));
    assert_eq!(result["answer"], "tok0 tok1 tok2 | echo:  do it");
    assert_eq!((&result["threadId"], &result["turnId"]), (&all[0]["threadId"], &all[1]["turnId"]));
    assert_eq!(result["tokens"]["totalTokens"], 30, "two responses of the model, 15 tokens each");
    assert_eq!(output.stderr, "");
}

#[test]
fn a_thread_is_continued() {
    let Some(world) = World::real() else { return };
    let first = result(&world.run(&["run", "--json", "first question"]).expect_code(0));
    let thread = first["threadId"].as_str().unwrap();
    let second = world.run(&["run", "--json", "--thread", thread, "second question"]).expect_code(0);
    assert_eq!(result(&second)["threadId"], *thread);
    assert_eq!(result(&second)["tokens"]["totalTokens"], 15, "of this turn alone");
    let last = world.model().wait_for_prompt("second question").body.to_string();
    assert!(last.contains("first question"), "the model sees what was said before");
    // Also by another daemon.
    world.kill9();
    let _ = world.run(&["run", "--thread", thread, "third question"]).expect_code(0);
    let unknown =
        world.run(&["run", "--thread", "01a1fb58-0000-7000-8000-000000000000", "x"]).expect_code(64);
    assert!(unknown.stderr.contains("thread/resume"), "{unknown}");
    assert!(unknown.stderr.contains("hint: "), "{unknown}");
}

#[test]
fn what_is_asked_for_reaches_codex() {
    let Some(world) = World::real() else { return };
    let other = world.home().root().join("other");
    fs::create_dir(&other).unwrap();
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"],
                        "additionalProperties": false});
    let file = world.home().root().join("schema.json");
    fs::write(&file, schema.to_string()).unwrap();
    let (other, file) = (other.to_str().unwrap(), file.to_str().unwrap());
    let flags = ["run", "--cd", other, "--model", "mock-other", "--effort", "low", "--output-schema", file];
    let _ = world.run(&[&flags[..], &["[[shell:pwd > where.txt]] go"]].concat()).expect_code(0);
    assert_eq!(fs::read_to_string(format!("{other}/where.txt")).unwrap().trim(), other);
    let body = world.model().wait_for_prompt("go").body;
    assert_eq!((&body["model"], &body["reasoning"]["effort"]), (&json!("mock-other"), &json!("low")));
    assert_eq!(body["text"]["format"]["schema"], schema);
}

#[test]
fn a_review_ends_with_its_text() {
    let Some(world) = World::real() else { return };
    let output = world.run(&["run", "--review", "custom", "[[say:0:all is well]] look at it"]).expect_code(0);
    assert_eq!(output.stdout, "all is well\n");
}

#[test]
fn a_failed_turn_says_why_and_how_to_go_on() {
    let Some(world) = World::real() else { return };
    let output = world.run(&["run", "[[http:400]] no"]).expect_code(1);
    assert_eq!(output.stdout, "");
    assert!(output.stderr.contains("codexd: failed after"), "{output}");
    assert!(output.stderr.contains("hint: `codexd run --thread "), "{output}");
    let result = result(&world.run(&["run", "--json", "[[http:400]] no"]).expect_code(1));
    assert_eq!((&result["outcome"], &result["exitCode"]), (&json!("failed"), &json!(1)));
    assert!(result["error"].as_str().is_some_and(|error| !error.is_empty()), "{result}");
}

#[test]
fn ctrl_c_interrupts_the_turn_and_waits_for_its_end() {
    let Some(world) = World::real() else { return };
    let running = start(world.command(&["run", "[[hang]] for ever"]));
    world.model().wait_for_prompt("for ever");
    interrupt(&running);
    let (code, stdout, stderr) = end(running);
    assert_eq!((code, &*stdout), (Some(2), ""), "{stderr}");
    assert!(stderr.contains("codexd: interrupted after"), "{stderr}");
    assert_eq!(world.status("openTurns").as_deref(), Some("0"));
}

#[test]
fn a_second_ctrl_c_leaves_at_once() {
    let world = World::fake("");
    let running = start(world.command(&["run", "[[stderr:frozen]][[freeze]]"]));
    wait::until("the turn runs", || world.status("openTurns").as_deref() == Some("1"));
    interrupt(&running);
    interrupt(&running);
    // Both may come as one; then the one that follows is the second.
    let mut running = running;
    let left = wait::poll(wait::PATIENCE, || {
        interrupt(&running);
        running.0.try_wait().unwrap()
    });
    assert_eq!(left.unwrap().code(), Some(2));
}

#[test]
fn a_turn_whose_time_is_over_is_interrupted() {
    let Some(world) = World::real() else { return };
    let output = world.run(&["run", "--timeout", "300ms", "[[hang]] too long"]).expect_code(124);
    assert!(output.stderr.contains("the time is over"), "{output}");
    assert_eq!(world.status("openTurns").as_deref(), Some("0"));
    let output = world.run(&["run", "--json", "--timeout", "300ms", "[[hang]] too long"]).expect_code(124);
    assert_eq!(result(&output)["outcome"], "timedOut");
}

#[test]
fn a_lost_codex_fails_the_turn_with_its_last_lines() {
    let world = World::fake("");
    let output = world.run(&["run", "[[stderr:out of luck]][[deltas:2]][[exit:3]]"]).expect_code(1);
    assert!(output.stderr.contains("codexd: codex wrote before it ended: out of luck"), "{output}");
    assert!(output.stderr.contains("codexd: failed after"), "{output}");
    let json = world.run(&["run", "--json", "[[stderr:out of luck]][[deltas:2]][[exit:3]]"]).expect_code(1);
    let result = result(&json);
    assert_eq!((&result["knownBy"], &result["outcome"]), (&json!("upstreamLost"), &json!("failed")));
    assert_eq!(result["upstreamStderr"], json!(["out of luck"]));
}

#[test]
fn an_answer_given_before_codex_was_lost_is_completed() {
    let world = World::fake("");
    for how in ["[[exit:1]]", "[[signal:9]]"] {
        let output = world.run(&["run", "--json", &format!("[[deltas:2]][[final]]{how}")]).expect_code(0);
        assert_eq!(result(&output)["knownBy"], "inferred", "{how}");
        assert!(result(&output)["answer"].as_str().is_some_and(|it| !it.is_empty()), "{output}");
    }
    // Nor does a codex that says nothing more after the answer.
    let output = world.run(&["run", "[[deltas:2]][[final-then-hang]]"]).expect_code(0);
    assert!(output.stderr.contains("its end was not"), "{output}");
    // For codex, its turn still runs.
    let _ = world.run(&["ctl", "stop", "--now"]).expect_code(0);
}

#[test]
fn a_lost_daemon_fails_the_turn() {
    let world = World::fake("");
    let running = start(world.command(&["run", "[[hang]]"]));
    wait::until("the turn runs", || world.status("openTurns").as_deref() == Some("1"));
    world.kill9();
    let (code, _, stderr) = end(running);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("the connection to the daemon was lost"), "{stderr}");
}

#[test]
fn what_needs_an_approval_is_declined_and_said() {
    let world = World::fake("");
    let output = world.run(&["run", "[[approve]]"]).expect_code(0);
    assert!(output.stderr.contains("codexd: declined: codex wants to"), "{output}");
}

#[test]
fn an_approval_is_asked_for_on_the_terminal() {
    if !Terminal::is_available() {
        return;
    }
    for (answer, made) in [("n", false), ("y", true)] {
        // A world of its own for each: the terminal's server of the one before may be about to end.
        let Some(builder) = TestDaemon::real(codexd_tests::codex::Version::Current) else { return };
        let daemon = builder.ready();
        let command = format!(
            "CODEXD_SOCKET='{}' '{}' run --approval ask '[[shell:touch made-{answer}]] go'",
            daemon.socket().display(),
            binary::codexd().display()
        );
        let terminal = Terminal::run(daemon.home(), &command);
        terminal.wait_for(&format!("codex wants to run `/bin/bash -lc 'touch made-{answer}'`"));
        terminal.type_text(answer);
        terminal.press("Enter");
        let screen = terminal.wait_for("ended: 0");
        assert!(screen.contains("echo:  go"), "{screen}");
        assert_eq!(daemon.home().project().join(format!("made-{answer}")).exists(), made);
    }
}

#[test]
fn a_terminal_shows_what_goes_on() {
    let world = World::fake("");
    let mut command = world.command(&["run", "[[deltas:2]] hello"]);
    command.env("TERM", "xterm-256color");
    let mut pty = codexd_tests::pty::Pty::start(&mut command, 100).unwrap();
    assert_eq!(pty.wait_exit().code(), Some(0), "{}", pty.shown());
    let shown = pty.shown();
    assert!(shown.contains("connecting") && shown.contains("completed after"), "{shown}");
    assert!(shown.trim_end().ends_with("hello"), "the answer is the last of it:\n{shown}");
}

#[test]
fn several_at_once_share_one_codex() {
    let Some(world) = World::real() else { return };
    let running: Vec<Started> = (0..6)
        .map(|n| start(world.command(&["run", &format!("[[meet:all:6]][[say:0:answer {n}]]")])))
        .collect();
    for (n, running) in running.into_iter().enumerate() {
        let (code, stdout, stderr) = end(running);
        assert_eq!((code, stdout), (Some(0), format!("answer {n}\n")), "{stderr}");
    }
    assert_eq!(world.servers().len(), 1);
}

#[test]
fn what_cannot_be_run_is_refused_before_anything_is_started() {
    let world = World::fake("");
    let missing = world.home().root().join("missing");
    let missing = missing.to_str().unwrap();
    for arguments in [
        &["run", ""][..],
        &["run", "   "],
        &["run", "--cd", missing, "x"],
        &["run", "--output-schema", missing, "x"],
        &["run", "--review", "all"],
        &["run", "--review", "uncommitted", "--output-schema", "/dev/null"],
        &["run", "--sandbox", "none", "x"],
        &["run", "--timeout", "5", "x"],
    ] {
        let output = world.run(arguments).expect_code(64);
        assert_eq!(output.stdout, "", "{output}");
        assert!(!output.stderr.is_empty());
    }
    assert!(with_input(&world, &["--json"], "").expect_code(64).stdout.contains("\"exitCode\":64"));
    assert!(world.daemons().is_empty(), "nothing was started");
    let output = world.run(&["run", "--no-spawn", "x"]).expect_code(69);
    assert!(output.stderr.contains("hint: "), "{output}");
    let file = world.home().root().join("not-executable");
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let output = world.with_codex(&file).run(&["run", "x"]).expect_code(69);
    assert!(output.stderr.contains("not-executable"), "{output}");
}
