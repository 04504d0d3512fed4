//! `codexd connect` and `codexd app-server`: what starts the daemon, what is retried, and what is reported as lost.

mod arguments;
mod instances;
mod orphaned_turns;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use codexd_tests::binary;
use codexd_tests::daemon::TestDaemon;
use codexd_tests::output::Output;
use codexd_tests::place;
use codexd_tests::process;
use codexd_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::world::{Bridge, World};

/// Returns a number for a test, or the one that a variable sets for longer or shorter runs.
fn times(variable: &str, usually: usize) -> usize {
    std::env::var(variable).map_or(usually, |text| text.parse().unwrap())
}

fn generation(initialize: &Value) -> u64 {
    initialize["codexd"]["generation"].as_u64().unwrap()
}

#[test]
fn a_running_daemon_is_used() {
    let daemon = TestDaemon::fake("").ready();
    let mut command = daemon.command(&["connect"]);
    let mut client = codexd_tests::client::TestClient::spawn("bridge", &mut command);
    let result = client.initialize();
    assert_eq!(generation(&result), 1);
    let thread = client.start_thread(json!({"cwd": daemon.home().project()}));
    let turn = client.turn(&thread, "[[deltas:3]] hello");
    assert_eq!((turn.status.as_str(), turn.deltas.len()), ("completed", 4));
    client.finish_sending();
    assert_eq!(client.wait_exit().code(), Some(0));
}

#[test]
fn large_messages_pass_in_both_directions_whichever_side_is_slow() {
    let world = World::fake("");
    let mut client = world.client("large");
    let thread = client.start_thread(json!({}));
    let padding = "p".repeat(3 << 20);
    let turn = client.turn(&thread, &format!("[[big:5000000]] {padding}"));
    assert_eq!(turn.deltas[0].len(), 5_000_000);
    assert!(turn.deltas[1].ends_with(&padding));
    assert_eq!(client.finish(), 0);
}

#[test]
fn the_first_client_starts_the_daemon_and_the_next_one_shares_it() {
    let world = World::fake("");
    let mut first = world.client("first");
    let daemon = world.daemon();
    let mut second = world.client("second");
    assert_eq!(world.daemon(), daemon);
    assert_eq!(world.status("pid,state"), Some(format!("{daemon}\nserving")));
    let thread = first.start_thread(json!({}));
    assert_eq!(first.turn(&thread, "hello").status, "completed");
    second.request("thread/list", json!({}));
    assert_eq!((first.finish(), second.finish()), (0, 0));
    // It is a leader of its own session, somewhere else, and has nothing of the client's open.
    let daemon = Pid::from_raw(daemon);
    assert_eq!(nix::unistd::getsid(Some(daemon)), Ok(daemon));
    #[cfg(target_os = "linux")]
    {
        let link = |name: &str| std::fs::read_link(format!("/proc/{daemon}/{name}")).unwrap();
        assert_eq!(link("cwd"), Path::new("/"));
        assert_eq!((link("fd/0"), link("fd/1")), ("/dev/null".into(), "/dev/null".into()));
        assert_eq!(link("fd/2").extension().unwrap(), "log");
    }
}

#[test]
fn clients_at_the_same_instant_start_one_daemon() {
    let world = World::fake("");
    for round in 1..=times("CODEXD_TEST_START_ROUNDS", 20) {
        let mut clients: Vec<Bridge> = (0..50).map(|n| world.raw_client(&format!("c{n}"), &[])).collect();
        let generations: Vec<u64> =
            clients.iter_mut().map(|client| generation(&client.initialize())).collect();
        assert!(generations.iter().all(|generation| *generation == round as u64), "{round}: {generations:?}");
        world.daemon();
        for client in clients {
            let stderr = client.stderr();
            assert_eq!((client.finish(), stderr.as_str()), (0, ""));
        }
        let _ = world.run(&["ctl", "stop"]).expect_code(0);
    }
}

#[test]
fn a_start_that_fails_is_explained() {
    let world = World::with(Path::new("/nonexistent/codex"));
    let clients: Vec<_> = (0..5)
        .map(|_| {
            let mut command = world.command(&["connect", "--no-direct"]);
            std::thread::spawn(move || Output::of(&mut command))
        })
        .collect();
    for client in clients {
        let output = client.join().unwrap().expect_code(69);
        assert!(output.stderr.contains("exit code 69"), "{output}");
        assert!(output.stderr.contains("cannot run `/nonexistent/codex`: there is no such file"), "{output}");
        assert!(output.stderr.contains("\nhint: install codex"), "{output}");
        assert_eq!(output.stdout, "");
    }
    // What the daemon itself cannot find cannot be run directly either.
    let _ = world.run(&["connect"]).expect_code(69);
}

#[test]
fn without_leave_to_start_one_there_is_none() {
    let world = World::fake("");
    let output = world.run(&["connect", "--no-spawn"]).expect_code(69);
    assert!(
        output.stderr.contains("no daemon listens") && output.stderr.contains("codexd serve"),
        "{output}"
    );
    assert_eq!(process::marked(world.home().root()), []);
}

#[test]
fn codex_runs_directly_where_no_daemon_can_be_had() {
    let world = World::fake("");
    let open = world.home().runtime().join("codexd");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, Permissions::from_mode(0o755)).unwrap();
    let mut client = world.client("direct");
    let thread = client.start_thread(json!({}));
    assert_eq!(client.turn(&thread, "hello").status, "completed");
    assert!(client.stderr().contains("running codex directly"), "{}", client.stderr());
    assert!(client.stderr().contains("chmod 700"), "{}", client.stderr());
    assert_eq!(world.daemons(), []);
    assert_eq!(client.finish(), 0);
    let output = world.run(&["connect", "--no-direct"]).expect_code(69);
    assert!(output.stderr.contains("chmod 700"), "{output}");
}

#[test]
fn codex_takes_over_from_a_daemon_that_cannot_come_back() {
    let world = World::fake("");
    let mut client = world.client("client");
    world.kill9();
    let directory = world.home().runtime().join("codexd");
    std::fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
    let thread = client.start_thread(json!({}));
    assert_eq!(client.turn(&thread, "hello").status, "completed");
    assert!(client.stderr().contains("running codex directly"), "{}", client.stderr());
    assert_eq!(client.finish(), 0);
}

#[test]
fn a_daemon_that_listens_elsewhere_is_not_waited_for() {
    let world = World::fake("");
    let first = world.client("first");
    let other = world.home().runtime().join("other").display().to_string();
    let output = world.run(&["connect", "--no-direct", "--socket", &other]).expect_code(69);
    assert!(output.stderr.contains("does not listen on"), "{output}");
    let output = world.run(&["connect", "--no-spawn", "--no-direct", "--socket", &other]).expect_code(69);
    assert!(output.stderr.contains("get-socket"), "{output}");
    assert_eq!(first.finish(), 0);
}

#[test]
fn a_daemon_that_drains_is_waited_for_and_not_used() {
    let world = World::fake("");
    let mut first = world.client("first");
    let thread = first.start_thread(json!({}));
    let turn = first.start_turn(&thread, "[[approve]] go");
    let approval = first.take("the approval", |message| message.is_server_request());
    kill(Pid::from_raw(world.daemon()), Signal::SIGTERM).unwrap();
    first.take_method("notifications/broker/shuttingDown");
    let mut second = world.raw_client("second", &[]);
    let info = json!({"clientInfo": {"name": "second", "version": "1"}, "capabilities": null});
    let id = second.send_request("initialize", info);
    // The turn goes on until it is answered, and the other client waits for that.
    first.answer(&approval, json!({"decision": "accept"}));
    assert_eq!(first.finish_turn(&thread, &turn).status, "completed");
    assert_eq!(generation(&second.response(id).unwrap()), 2);
    // The first one had a thread, and gets the next daemon when it says something.
    first.request("model/list", json!({}));
    assert!(first.stderr().contains("gets the next daemon"), "{}", first.stderr());
    assert_eq!((first.finish(), second.finish()), (0, 0));
}

#[test]
fn requests_that_die_with_the_daemon_are_answered_with_the_truth() {
    let world = World::fake("");
    let mut client = world.client("client");
    let id = client.send_request("command/exec", json!({"command": ["sleep", "600"], "processId": "p"}));
    wait::until("the request is on its way", || world.status("inFlight").as_deref() == Some("1"));
    world.kill9();
    let error = client.response(id).unwrap_err();
    assert_eq!(error.code, -32010);
    let data = &error.data["codexd"];
    assert_eq!((&data["delivered"], &data["retryable"]), (&json!("maybe"), &json!(false)));
    assert_eq!((&data["reason"], &data["generation"]), (&json!("daemonLost"), &json!(1)));
    assert_eq!(client.request("thread/list", json!({}))["data"], json!([]));
    assert!(
        client.stderr().contains("the connection to codexd was lost; the client stays"),
        "{}",
        client.stderr()
    );
    assert_eq!(world.status("generation").as_deref(), Some("2"));
    assert_eq!(client.finish(), 0);
}

#[test]
fn a_client_that_had_something_ends_with_1_when_there_is_no_next_daemon_in_time() {
    let world = World::fake("");
    let mut client = world.raw_client("client", &["--patience", "100ms"]);
    client.initialize();
    client.start_thread(json!({}));
    let id = client.send_request("command/exec", json!({"command": ["sleep", "600"], "processId": "p"}));
    // As if another client were starting a daemon, and did not come to an end.
    let lock = hold_start_lock(&world);
    world.kill9();
    assert_eq!(client.response(id).unwrap_err().code, -32010);
    assert!(client.recv_to_end().iter().all(|message| message["id"].is_null()));
    assert_eq!(client.exit_code(), 1);
    assert!(client.stderr().contains("did not finish in time"), "{}", client.stderr());
    assert!(client.stderr().contains("resume the thread"), "{}", client.stderr());
    drop(lock);
}

/// Holds the lock of clients that start a daemon.
fn hold_start_lock(world: &World) -> nix::fcntl::Flock<std::fs::File> {
    let directory = world.home().runtime().join("codexd");
    let path = std::fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path());
    let mut path = path.filter(|path| path.extension().is_some_and(|it| it == "start"));
    let file = std::fs::File::open(path.next().unwrap()).unwrap();
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).unwrap()
}

#[test]
fn a_client_that_had_something_ends_with_1_when_nothing_can_be_started() {
    let world = World::fake("");
    let mut client = world.client("client");
    client.start_thread(json!({}));
    let directory = world.home().runtime().join("codexd");
    std::fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
    world.kill9();
    client.recv_to_end();
    assert_eq!(client.exit_code(), 1);
    // Codex alone would resume its threads with other permissions.
    assert!(!client.stderr().contains("directly"), "{}", client.stderr());
    assert!(client.stderr().contains("chmod 700"), "{}", client.stderr());
}

#[test]
fn an_idle_client_does_not_notice_that_daemons_come_and_go() {
    let world = World::fake("");
    let mut client = world.client("idle");
    client.request("model/list", json!({}));
    world.kill9();
    // No daemon is started before one is needed.
    assert_eq!(world.daemons(), []);
    assert_eq!(client.request("thread/list", json!({}))["data"], json!([]));
    let _ = world.run(&["ctl", "stop"]).expect_code(0);
    client.recv_to_barrier();
    world.kill9();
    let thread = client.start_thread(json!({}));
    assert_eq!(client.turn(&thread, "hello").status, "completed");
    assert_eq!(world.status("generation").as_deref(), Some("4"));
    // From here on there is something to lose, and the next daemon is there before the client says anything.
    world.kill9();
    let restarted = client.take_method("notifications/broker/upstreamRestarted");
    assert_eq!(restarted["params"]["generation"], 5);
    let thread = client.start_thread(json!({}));
    assert_eq!(client.turn(&thread, "hello").status, "completed");
    assert_eq!(client.finish(), 0);
}

#[test]
fn a_client_outlives_an_update_of_codexd() {
    let world = World::fake("");
    let installed = world.home().root().join("codexd");
    let install = || place::copy(&binary::codexd(), &installed);
    install();
    let like = world.command(&["connect"]);
    let mut command = world.home().command(&installed);
    command.args(like.get_args()).envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut client = world.spawn("client", &mut command);
    client.initialize();
    install();
    world.kill9();
    assert_eq!(client.request("thread/list", json!({}))["data"], json!([]));
    assert!(!client.stderr().contains("directly"), "{}", client.stderr());
    assert_eq!(client.finish(), 0);
}

#[test]
fn the_end_of_a_handshake_is_no_reason_to_start_a_daemon() {
    let world = World::fake("");
    let mut client = world.raw_client("client", &[]);
    client.request("initialize", json!({"clientInfo": {"name": "c", "version": "1"}, "capabilities": null}));
    // All of it happens before the bridge can see any of it.
    let bridge = Pid::from_raw(i32::try_from(client.pid().unwrap()).unwrap());
    kill(bridge, Signal::SIGSTOP).unwrap();
    client.notify("initialized", Value::Null);
    world.kill9();
    client.finish_sending();
    kill(bridge, Signal::SIGCONT).unwrap();
    assert_eq!(client.exit_code(), 0);
    assert_eq!(world.record()["generation"], 1);
}

#[test]
fn requests_without_a_directory_get_the_clients() {
    let world = World::fake("");
    let directory = world.home().root().join("else where");
    std::fs::create_dir(&directory).unwrap();
    let mut client = world.spawn("client", world.command(&["connect"]).current_dir(&directory));
    client.initialize();
    let started = client.request("thread/start", json!({}));
    assert_eq!(started["cwd"], json!(directory));
    assert_eq!(client.request("thread/start", json!({"cwd": "/"}))["cwd"], json!("/"));
    client.request("command/exec", json!({"command": ["true"], "cwd": null}));
    let log = std::fs::read_to_string(world.home().root().join("fake-codex.log")).unwrap();
    let exec = log.lines().find(|line| line.contains("\"command/exec\"")).unwrap();
    assert!(exec.contains(&format!("\"cwd\":{}", json!(directory))), "{exec}");
    assert_eq!(client.finish(), 0);
}

#[test]
fn input_that_ends_at_once_is_still_answered() {
    let world = World::fake("");
    let lines = concat!(
        r#"{"id":1,"method":"initialize","params":{"clientInfo":{"name":"pipe","version":"1"}}}"#,
        "\n{\"method\":\"initialized\"}\n",
        r#"{"id":"two","method":"model/list","params":{}}"#,
    );
    let output = Output::with_input(&mut world.command(&["connect"]), lines.as_bytes()).expect_code(0);
    let answers: Vec<Value> = output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.iter().filter(|answer| answer["result"].is_object()).count(), 2, "{output}");
    assert_eq!(answers.last().unwrap()["id"], "two");
}

#[test]
fn a_daemon_nobody_needs_ends_by_itself() {
    let world = World::fake("").configured("idle_exit = \"50ms\"\n");
    assert_eq!(world.client("client").finish(), 0);
    wait::until("the daemon has ended", || world.daemons().is_empty());
    assert_eq!(world.record()["lastExit"]["code"], 0);
    assert!(world.record()["lastExit"]["reason"].as_str().unwrap().contains("idle"));
    // The next client starts the next one; on a busy machine that one may have been idle for too long before the
    // client sent anything, and the client was connected to another.
    assert!(generation(&world.raw_client("next", &[]).initialize()) >= 2);
}

#[test]
fn daemons_that_keep_failing_are_not_started_again_at_once() {
    let world = World::fake("[[init-exit:3]]");
    for _ in 0..3 {
        let output = world.run(&["connect", "--no-direct"]).expect_code(69);
        assert!(output.stderr.contains("exited with code 3"), "{output}");
    }
    assert_eq!(world.record()["earlyEnds"]["count"], 3);
    let output = world.run(&["connect", "--no-direct"]).expect_code(69);
    assert!(output.stderr.contains("is not started again for"), "{output}");
    assert!(output.stderr.contains("3 in a row failed"), "{output}");
    assert!(output.stderr.contains("exited with code 3"), "{output}");
    assert_eq!(world.record()["generation"], 3);
    let output = world.run(&["connect"]);
    assert!(output.stderr.contains("running codex directly"), "{output}");
}

#[test]
fn settings_of_one_client_lead_to_a_daemon_of_its_own() {
    let world = World::fake("");
    let shared = world.client("shared");
    let arguments = ["-c", "model=\"o3\"", "app-server", "--listen", "stdio://", "--enable", "x"];
    let mut first = world.spawn("first", &mut world.command(&arguments));
    let instance = first.initialize()["codexd"]["instance"].clone();
    let mut second = world.spawn("second", &mut world.command(&arguments));
    assert_eq!(second.initialize()["codexd"]["instance"], instance);
    assert!(first.stderr().contains("cannot be shared"), "{}", first.stderr());
    assert!(first.stderr().contains(instance.as_str().unwrap()), "{}", first.stderr());
    assert_eq!(world.daemons().len(), 2);
    let all = process::marked(world.home().root());
    assert!(
        all.iter().any(|process| process.command.ends_with(" app-server -c model=\"o3\" --enable x")),
        "{all:#?}"
    );
    for client in [shared, first, second] {
        assert_eq!(client.finish(), 0);
    }
}

#[test]
fn what_no_daemon_does_is_left_to_codex() {
    let world = World::fake("");
    let output = world.run(&["app-server", "--listen", "ws://127.0.0.1:1"]);
    assert!(output.stderr.contains("is for codex itself"), "{output}");
    // And to nobody where codex must not be run, or nothing be started.
    for flag in ["--no-direct", "--no-spawn"] {
        let output = world.run(&["app-server", flag, "generate-ts"]).expect_code(69);
        assert!(output.stderr.contains("`generate-ts`") && !output.stderr.contains("directly"), "{output}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_daemon_has_the_clients_environment_without_what_is_the_clients_alone() {
    let world = World::fake("");
    let mut command = world.command(&["connect"]);
    let own =
        ["TERM", "TMUX", "SSH_TTY", "PWD", "XDG_SESSION_ID", "NOTIFY_SOCKET", "LISTEN_FDS", "INVOCATION_ID"];
    command.envs(own.map(|name| (name, "1"))).env("PROVIDER_KEY", "k").env("SSH_AUTH_SOCK", "/agent");
    let mut client = world.spawn("client", &mut command);
    client.initialize();
    let upstream = world.status("upstream.pid").unwrap();
    for pid in [world.daemon().to_string(), upstream] {
        let environment = std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
        let names: Vec<&str> =
            environment.split('\0').filter_map(|line| Some(line.split_once('=')?.0)).collect();
        assert!(!own.iter().any(|name| names.contains(name)), "{names:?}");
        for kept in ["PROVIDER_KEY", "SSH_AUTH_SOCK", "PATH", "HOME", "CODEX_HOME"] {
            assert!(names.contains(&kept), "{kept}: {names:?}");
        }
    }
    assert_eq!(client.finish(), 0);
}

#[test]
fn a_daemon_with_another_environment_is_pointed_out() {
    let world = World::fake("");
    let first = world.client("first");
    let warned = |name: &str, command: &mut Command| {
        let mut client = world.spawn(name, command);
        client.initialize();
        wait::until("the warning", || client.stderr().contains("hint: `codexd ctl stop`"));
        client.stderr()
    };
    let mut command = world.command(&["connect"]);
    let path = std::env::join_paths(
        std::env::split_paths(&std::env::var_os("PATH").unwrap()).chain(["/venv/bin".into()]),
    );
    // A variable that codex acts upon, and a PATH that changes nothing.
    let said =
        warned("proxy", command.env("https_proxy", "http://me:secret@proxy").env("PATH", path.unwrap()));
    assert!(said.contains("other values of HTTPS_PROXY;"), "{said}");
    assert!(!said.contains("secret") && !said.contains("PATH"), "{said}");
    // Another codex.
    let other = world.home().root().join("other-codex");
    place::copy(&binary::fake_codex(), &other);
    let mut command = world.command(&["connect"]);
    let said = warned("codex", command.env("CODEXD_CODEX", &other));
    assert!(said.contains(&format!("and not `{}`", other.display())), "{said}");
    assert!(!said.contains("other values"), "{said}");
    assert_eq!(first.stderr(), "");
    let status = world.run(&["ctl", "status", "--json"]).json();
    assert_eq!(status["environment"]["CODEX_HOME"], json!(world.home().codex_home()));
    assert_eq!(status["environment"]["PATH"].as_str().unwrap().len(), 8);
}

/// One client's work, done again whenever the daemon was lost; the client stays.
fn full_turn(world: &World, name: &str) -> usize {
    let mut bridge = world.client(name);
    let attempts = (1..).find(|_| one_turn(&mut bridge)).unwrap();
    bridge.finish_sending();
    assert_eq!(bridge.exit_code(), 0, "{}", bridge.stderr());
    assert!(!bridge.stderr().contains("directly"), "{}", bridge.stderr());
    attempts
}

/// Returns whether it came to its end; otherwise checks that each request got an error that is correct, and the turn an
/// end.
fn one_turn(client: &mut Bridge) -> bool {
    let id = client.send_request("thread/start", json!({}));
    let thread = match client.response(id) {
        Ok(result) => result["thread"]["id"].as_str().unwrap().to_owned(),
        Err(error) => return check_loss(&error),
    };
    let input = json!([{"type": "text", "text": "[[deltas:5:2]] hello"}]);
    let id = client.send_request("turn/start", json!({"threadId": thread, "input": input}));
    let turn = match client.response(id) {
        Ok(result) => result["turn"]["id"].as_str().unwrap().to_owned(),
        // This codex remembers no threads.
        Err(error) if error.code == -32600 && error.message.contains("thread not found") => return false,
        Err(error) => return check_loss(&error),
    };
    let turn = client.finish_turn(&thread, &turn);
    assert!(matches!(&*turn.status, "completed" | "failed"), "{turn:?}");
    turn.status == "completed"
}

fn check_loss(error: &codexd_tests::client::RpcError) -> bool {
    assert_eq!(error.code, -32010, "{error:?}");
    assert!(error.data["codexd"]["delivered"].is_string(), "{error:?}");
    false
}

#[test]
fn clients_one_after_another_all_get_their_turn_while_the_daemon_is_killed_at_random() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let world = World::fake("");
    let done = AtomicBool::new(false);
    let clients = times("CODEXD_TEST_KILLED_CLIENTS", 200);
    let (mut kills, mut attempts) = (0, 0);
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            // Multiplicative congruential, so that two runs differ in nothing but timing.
            let mut state = 0x2545_f491_u32;
            let mut kills = 0;
            while !done.load(Ordering::Relaxed) {
                // Every other one gets as far as serving, however slow the machine is: a starter gives
                // up when a few in a row were killed before.
                let serving = || world.status("state").as_deref() == Some("serving");
                if kills % 2 == 1 {
                    wait::until("a daemon serves", || done.load(Ordering::Relaxed) || serving());
                }
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                wait::pause(std::time::Duration::from_millis(u64::from(state >> 24)));
                for daemon in world.daemons() {
                    kills += usize::from(kill(Pid::from_raw(daemon.pid), Signal::SIGKILL).is_ok());
                }
            }
            kills
        });
        struct Done<'a>(&'a AtomicBool);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let stop = Done(&done);
        attempts = (0..clients).map(|n| full_turn(&world, &format!("client{n}"))).sum();
        drop(stop);
        kills = killer.join().unwrap();
    });
    assert!(kills > 0);
    eprintln!("{clients} turns in {attempts} attempts, {kills} daemons killed");
}
