//! Jobs: turns that the daemon runs by itself.

use std::process::Stdio;

use codexd_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::Started;
use crate::world::World;

/// Starts a job and returns its id.
#[track_caller]
fn detach(world: &World, arguments: &[&str]) -> String {
    let output = world.run(&[&["run", "--detach"], arguments].concat()).expect_code(0);
    output.stdout.trim().to_owned()
}

#[track_caller]
fn jobs(world: &World) -> Vec<Value> {
    world.run(&["jobs", "list", "--json"]).expect_code(0).json().as_array().unwrap().clone()
}

#[track_caller]
fn job(world: &World, id: &str) -> Value {
    world.run(&["jobs", "show", id, "--json"]).expect_code(0).json()
}

#[track_caller]
fn until_running(world: &World, id: &str) {
    wait::until("the job runs", || job(world, id)["state"] == "running");
}

#[track_caller]
fn over(world: &World, id: &str) -> Value {
    wait::until("the job is over", || {
        !["queued", "running"].contains(&job(world, id)["state"].as_str().unwrap())
    });
    job(world, id)
}

#[test]
fn a_job_runs_without_whoever_started_it() {
    let Some(world) = World::real() else { return };
    let id = detach(&world, &["[[commentary:I look]][[shell:echo hi > made.txt]][[stall:0.5]] do it"]);
    assert_eq!(id.len(), 32);
    let waited = world.run(&["jobs", "wait", &id[..6]]).expect_code(0);
    assert!(waited.stdout.contains("| echo:") && waited.stdout.contains(" do it"), "{waited}");
    assert!(world.home().project().join("made.txt").exists());
    let shown = job(&world, &id);
    assert_eq!((&shown["state"], &shown["knownBy"]), (&json!("completed"), &json!("terminalEvent")));
    assert_eq!((&shown["timeoutMs"], &shown["error"]), (&json!(1_800_000), &Value::Null));
    assert_eq!(shown["tokens"]["totalTokens"], 30);
    let logs = world.run(&["jobs", "logs", &id, "-f"]).expect_code(0).stdout;
    for part in ["queued\n", "thread ", "I look\n", "$ echo hi > made.txt\n", "completed\n"] {
        assert!(logs.contains(part), "no `{part}` in\n{logs}");
    }
    // The turn is in the ledger as every client's is, with the job it belongs to.
    let turns = world.run(&["ctl", "history", "--json"]).expect_code(0).json();
    assert_eq!((&turns[0]["job"], &turns[0]["client"]), (&json!(id), &json!("codexd jobs")));
    // All that is there without a daemon, too.
    world.kill9();
    assert_eq!(job(&world, &id), shown);
    let text = world.run(&["jobs", "show", &id]).expect_code(0).stdout;
    let thread = shown["threadId"].as_str().unwrap();
    assert!(text.contains(&format!("codexd run --thread {thread} PROMPT")), "{text}");
    assert!(world.run(&["jobs", "list"]).expect_code(0).stdout.contains("completed"));
}

#[test]
fn waiting_for_a_job_ends_as_running_it_would_have() {
    let Some(world) = World::real() else { return };
    let failed = detach(&world, &["[[http:400]] no"]);
    let output = world.run(&["jobs", "wait", &failed]).expect_code(1);
    assert!(output.stderr.contains("codexd: failed: "), "{output}");
    let late = detach(&world, &["--timeout", "300ms", "[[hang]] late"]);
    let _ = world.run(&["jobs", "wait", &late]).expect_code(124);
    let late = job(&world, &late);
    assert_eq!((&late["state"], late["endedUnixMs"].is_u64()), (&json!("timedOut"), true));
    assert_eq!(world.status("openTurns").as_deref(), Some("0"), "it was interrupted");
    let cancelled = detach(&world, &["[[hang]] for ever"]);
    until_running(&world, &cancelled);
    let _ = world.run(&["jobs", "cancel", &cancelled]).expect_code(0);
    let _ = world.run(&["jobs", "wait", &cancelled]).expect_code(2);
    let again = world.run(&["jobs", "cancel", &cancelled]).expect_code(1);
    assert!(again.stderr.contains("is cancelled"), "{again}");
    let unknown = detach(&world, &["--thread", "01a1fb58-0000-7000-8000-000000000000", "x"]);
    assert!(over(&world, &unknown)["error"].as_str().unwrap().contains("thread/resume"));
    let variable =
        world.command(&["run", "--detach", "[[hang]]"]).env("CODEXD_JOB_TIMEOUT", "200ms").output();
    let variable = String::from_utf8(variable.unwrap().stdout).unwrap();
    assert_eq!(over(&world, variable.trim())["state"], "timedOut");
    assert_eq!(jobs(&world).len(), 5);
    let _ = world.run(&["jobs", "prune"]).expect_code(0);
    wait::until("they are forgotten", || jobs(&world).is_empty());
}

#[test]
fn more_jobs_than_can_run_wait_and_can_be_cancelled() {
    let world = World::fake("");
    let ids: Vec<String> = (0..10).map(|_| detach(&world, &["[[hang]]"])).collect();
    let count = |state: &str| jobs(&world).iter().filter(|job| job["state"] == state).count();
    wait::until("eight run", || count("running") == 8);
    assert_eq!(count("queued"), 2);
    let _ = world.run(&["jobs", "cancel", &ids[9]]).expect_code(0);
    assert_eq!(job(&world, &ids[9])["state"], "cancelled");
    let _ = world.run(&["jobs", "cancel", &ids[0]]).expect_code(0);
    until_running(&world, &ids[8]);
    let _ = world.run(&["ctl", "stop", "--now"]).expect_code(0);
    let states: Vec<Value> = ids.iter().map(|id| job(&world, id)["state"].clone()).collect();
    assert!(states.iter().all(|state| state == "cancelled"), "{states:?}");
}

#[test]
fn a_job_is_work_that_a_stop_waits_for() {
    let world = World::fake("");
    let id = detach(&world, &["[[deltas:20:50]] slow"]);
    until_running(&world, &id);
    let _ = world.run(&["ctl", "stop"]).expect_code(0);
    let job = job(&world, &id);
    assert_eq!((&job["state"], &job["knownBy"]), (&json!("completed"), &json!("terminalEvent")));
}

#[test]
fn a_job_of_a_killed_daemon_has_failed_and_tells_how_to_go_on() {
    let world = World::fake("");
    let id = detach(&world, &["[[hang]]"]);
    until_running(&world, &id);
    world.kill9();
    let listed = jobs(&world).remove(0);
    assert_eq!((&listed["state"], &listed["knownBy"]), (&json!("failed"), &json!("daemonDied")));
    let text = world.run(&["jobs", "show", &id]).expect_code(0).stdout;
    assert!(text.contains("the daemon ended without recording an outcome"), "{text}");
    assert!(text.contains("codexd run --thread "), "{text}");
    let _ = world.run(&["jobs", "wait", &id]).expect_code(1);
    // One whose answer was given has not.
    let given = detach(&world, &["[[deltas:2]][[final-then-hang]]"]);
    wait::until("the answer is recorded", || job(&world, &given)["answer"].is_string());
    world.kill9();
    let given = job(&world, &given);
    assert_eq!((&given["state"], &given["knownBy"]), (&json!("completed"), &json!("inferred")));
    let _ = detach(&world, &["next"]);
    assert_eq!(job(&world, &id)["state"], "failed", "the next daemon has written it down");
}

#[test]
fn a_job_of_a_lost_codex_has_failed_with_its_last_lines() {
    let world = World::fake("");
    let id = detach(&world, &["[[stderr:out of luck]][[deltas:2]][[exit:3]]"]);
    assert_eq!(over(&world, &id)["knownBy"], "upstreamLost");
    wait::until("the lines are recorded", || job(&world, &id)["upstreamStderr"] == json!(["out of luck"]));
    let given = detach(&world, &["[[deltas:2]][[final]][[signal:9]]"]);
    let given = over(&world, &given);
    assert_eq!((&given["state"], &given["knownBy"]), (&json!("completed"), &json!("inferred")));
}

#[test]
fn a_job_that_is_not_named_well_is_said() {
    let world = World::fake("");
    let none = world.run(&["jobs", "show", "abc"]).expect_code(64);
    assert!(none.stderr.contains("there is no job `abc`") && none.stderr.contains("hint: "), "{none}");
    assert!(world.run(&["jobs", "list"]).expect_code(0).stderr.contains("there are no jobs"));
    for _ in 0..2 {
        detach(&world, &["x"]);
    }
    let many = world.run(&["jobs", "wait", ""]).expect_code(64);
    assert!(many.stderr.contains("2 jobs begin with"), "{many}");
    let json = world.run(&["jobs", "show", "zz", "--json"]).expect_code(64).json();
    assert_eq!(json["exitCode"], 64);
    let _ = world.run(&["run", "--detach", "--approval", "ask", "x"]).expect_code(64);
    let ids: Vec<String> = jobs(&world).iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect();
    for id in ids {
        over(&world, &id);
    }
}

#[test]
fn without_a_ledger_there_are_no_jobs() {
    let world = World::fake("").configured("ledger = false");
    let output = world.run(&["run", "--detach", "x"]).expect_code(1);
    assert!(output.stderr.contains("turn ledger"), "{output}");
    assert_eq!(world.run(&["run", "x"]).expect_code(0).stdout.trim(), "tok0 tok1 tok2 | echo: x");
}

/// How often each is killed; issue and nightly runs ask for more.
fn kills() -> usize {
    std::env::var("CODEXD_TEST_KILLS").map_or(3, |text| text.parse().unwrap())
}

/// A moment of a job that takes about half a second, another one each time.
fn moment(round: usize) -> std::time::Duration {
    // Multiples of the golden section are spread evenly.
    let place = (round as f64 * 0.618_034).fract();
    std::time::Duration::from_millis((place * 900.0) as u64)
}

/// A job in three steps: a remark, a command, and the answer in pieces.
const STEPS: &str = "[[commentary:I look]][[shell:sleep 0.1]][[deltas:6:30]] steps";

/// Checks the only job of a round, and that one look at the list is enough.
#[track_caller]
fn expect_truth(world: &World, id: &str, round: usize) {
    let listed = jobs(world);
    let job = listed.iter().find(|job| job["id"] == id).unwrap();
    let answer = job["answer"].as_str();
    match job["state"].as_str().unwrap() {
        "completed" => {
            assert!(answer.is_some_and(|it| it.ends_with("| echo:  steps")), "round {round}: {job}");
            assert_eq!(job["error"], Value::Null, "round {round}: {job}");
        }
        "failed" => {
            assert_eq!(answer, None, "round {round}: a given answer was reported as failed: {job}");
            let known = job["turnId"].is_null() || job["knownBy"].is_string();
            assert!(job["error"].is_string() && known, "round {round}: {job}");
        }
        other => panic!("round {round}: the job is {other}: {job}"),
    }
}

#[test]
fn a_job_whose_daemon_is_killed_at_any_moment_ends_truthfully() {
    let Some(world) = World::real() else { return };
    for round in 0..kills() {
        let id = detach(&world, &[STEPS]);
        wait::pause(moment(round));
        world.kill9();
        expect_truth(&world, &id, round);
    }
}

#[test]
fn a_job_whose_codex_is_killed_at_any_moment_ends_truthfully() {
    for round in 0..kills() {
        // A world of its own: daemons that fail one after another, each right after its start, are not started again.
        let Some(world) = World::real() else { return };
        let id = detach(&world, &[STEPS]);
        let daemon = world.daemon();
        wait::pause(moment(round));
        for server in world.servers() {
            let _ = kill(Pid::from_raw(server.pid), Signal::SIGKILL);
        }
        over(&world, &id);
        expect_truth(&world, &id, round);
        codexd_tests::process::wait_dead(daemon);
    }
}

#[test]
fn a_job_whose_starter_and_watchers_are_killed_at_any_moment_is_completed() {
    let Some(world) = World::real() else { return };
    let _ = world.run(&["run", "first"]).expect_code(0);
    for round in 0..kills() {
        let before = jobs(&world).len();
        let mut command = world.command(&["run", "--detach", STEPS]);
        let mut starter =
            Started::of(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
        wait::pause(moment(round) / 10);
        let _ = starter.0.kill();
        starter.exit_code();
        let Some(id) = jobs(&world).get(before).map(|_| jobs(&world)[0]["id"].clone()) else {
            // It had not asked for one.
            continue;
        };
        let id = id.as_str().unwrap();
        let mut command = world.command(&["jobs", "wait", id]);
        let mut watcher =
            Started::of(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
        wait::pause(moment(round));
        let _ = watcher.0.kill();
        watcher.exit_code();
        assert_eq!(over(&world, id)["state"], "completed", "round {round}");
        expect_truth(&world, id, round);
    }
}
