//! Several daemons of one user: listing them, stopping them, and telling them from strangers.

use std::os::unix::fs::symlink;

use codexd_tests::binary;
use codexd_tests::output::Output;
use codexd_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::world::{Bridge, World};

/// Starts a client of a daemon of its own; returns it and the name of the instance.
fn separate(world: &World, name: &str) -> (Bridge, String) {
    let setting = format!("model={name}");
    let mut client = world.spawn(name, &mut world.command(&["app-server", "-c", &setting]));
    let instance = client.initialize()["codexd"]["instance"].as_str().unwrap().to_owned();
    (client, instance)
}

fn list(world: &World, more: &[&str]) -> Vec<Value> {
    let output = world.run(&[&["ctl", "list", "--json"], more].concat()).expect_code(0);
    output.json().as_array().unwrap().clone()
}

#[test]
fn a_list_has_every_instance_that_runs_or_failed() {
    let world = World::fake("");
    assert_eq!(list(&world, &[]), [json!(null); 0]);
    let output = world.run(&["ctl", "list"]).expect_code(0);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", "no instance runs\n"));

    let mut shared = world.client("shared");
    let usual = shared.request("broker/status", Value::Null)["instance"].as_str().unwrap().to_owned();
    let (own, instance) = separate(&world, "own");
    // One with sockets elsewhere.
    let socket = world.home().root().join("elsewhere.sock").display().to_string();
    let mut command = world.command(&["serve", "--instance", "named", "--socket", &socket]);
    let mut named = command.spawn().unwrap();
    wait::until("all three serve", || {
        let all = list(&world, &[]);
        all.len() == 3 && all.iter().all(|entry| entry["state"] == "serving")
    });
    let all = list(&world, &[]);
    let entry =
        |name: &str| all.iter().find(|entry| entry["instance"] == name).unwrap_or_else(|| panic!("{all:#?}"));
    assert_eq!((&entry(&usual)["current"], &entry(&usual)["clients"]), (&json!(true), &json!(1)));
    assert_eq!(entry(&instance)["arguments"], json!(["-c model"]));
    assert_eq!(entry(&instance)["codexHome"], json!(world.home().codex_home()));
    assert_eq!((&entry("named")["socket"], &entry("named")["pid"]), (&json!(socket), &json!(named.id())));
    assert_eq!(entry("named")["current"], false);
    let table = world.run(&["ctl", "list"]).expect_code(0).stdout;
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("INSTANCE") && lines.len() == 4, "{table}");
    assert!(lines.iter().any(|line| line.starts_with(&format!("{usual} *"))), "{table}");
    assert!(lines.iter().any(|line| line.ends_with(", with -c model")), "{table}");

    // One is killed, one is stopped as asked.
    let pid = i32::try_from(entry(&instance)["pid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    codexd_tests::process::wait_dead(pid);
    kill(Pid::from_raw(i32::try_from(named.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(named.wait().unwrap().code(), Some(0));
    let states = |all: Vec<Value>| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        all.iter().map(|entry| (text(&entry["instance"]), text(&entry["state"]))).collect()
    };
    let pair = |name: &str, state: &str| (name.to_owned(), state.to_owned());
    assert_eq!(states(list(&world, &[])), [pair(&usual, "serving"), pair(&instance, "notRunning")]);
    let all = list(&world, &["--all"]);
    let ended = all.iter().find(|entry| entry["instance"] == "named").unwrap();
    assert_eq!((&ended["lastExit"]["code"], &ended["pid"]), (&json!(0), &Value::Null));
    let killed = all.iter().find(|entry| entry["instance"] == json!(instance)).unwrap();
    // What was not recorded is not known.
    for member in ["code", "atUnixMs", "uptimeMs"] {
        assert_eq!(killed["lastExit"][member], Value::Null, "{killed}");
    }
    let output = world.run(&["ctl", "list"]).expect_code(0);
    assert!(output.stderr.contains("1 instance stopped as asked"), "{output}");
    drop(own);
    assert_eq!(shared.finish(), 0);
}

#[test]
fn a_status_of_all_has_the_exit_code_of_the_worst() {
    let world = World::fake("");
    let output = world.run(&["ctl", "status", "--all", "--json"]).expect_code(3);
    assert_eq!(output.json(), json!([]));
    let shared = world.client("shared");
    let (own, instance) = separate(&world, "own");
    let output = world.run(&["ctl", "status", "--all", "--json"]).expect_code(0).json();
    let all = output.as_array().unwrap();
    assert_eq!(all.len(), 2);
    assert!(
        all.iter().all(|status| status["state"] == "serving" && status["upstream"]["pid"].is_u64()),
        "{all:#?}"
    );
    let screens = world.run(&["ctl", "status", "--all"]).expect_code(0).stdout;
    assert_eq!(screens.lines().filter(|line| line.starts_with("state ")).count(), 2, "{screens}");

    // One does not answer.
    let frozen = all.iter().find(|status| status["instance"] == json!(instance)).unwrap();
    let pid = Pid::from_raw(i32::try_from(frozen["pid"].as_i64().unwrap()).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    let output = world.run(&["ctl", "status", "--all", "--json"]);
    kill(pid, Signal::SIGCONT).unwrap();
    let output = output.expect_code(4).json();
    let unknown =
        output.as_array().unwrap().iter().find(|status| status["instance"] == json!(instance)).unwrap();
    assert_eq!(
        (&unknown["state"], &unknown["pid"], &unknown["ready"]),
        (&json!("unknown"), &Value::Null, &Value::Null)
    );
    assert!(unknown["error"].as_str().unwrap().contains("did not answer"), "{unknown}");
    assert_eq!((shared.finish(), own.finish()), (0, 0));
    let _ = world.run(&["ctl", "status", "--all", "--control-socket", "/x"]).expect_code(64);
}

#[test]
fn a_stop_of_all_ends_every_instance_and_waits_for_it() {
    let world = World::fake("");
    let output = world.run(&["ctl", "stop", "--all", "--json"]).expect_code(3);
    assert_eq!(output.json(), json!([]));
    let clients = [world.client("shared"), separate(&world, "one").0, separate(&world, "two").0];
    let output = world.run(&["ctl", "stop", "--all", "--json"]).expect_code(0).json();
    let all = output.as_array().unwrap();
    assert_eq!(all.len(), 3);
    assert!(all.iter().all(|it| it["stopped"] == true && it["instance"].is_string()), "{output:#}");
    assert!(all.iter().all(|it| it["lastExit"]["code"] == 0), "{output:#}");
    // The last thing a daemon does is to close its control socket; its process is gone a moment later.
    wait::until("the daemons are gone", || world.daemons().is_empty());
    for client in clients {
        assert_eq!(client.finish(), 0);
    }
}

#[test]
fn the_codex_of_another_instance_is_no_stranger_to_the_doctor() {
    let world = World::fake("");
    let bin = world.home().root().join("bin");
    std::fs::create_dir(&bin).unwrap();
    // By this name the doctor knows an app-server.
    let codex = bin.join("codex");
    symlink(binary::fake_codex(), &codex).unwrap();
    let world = world.with_codex(&codex);
    let shared = world.client("shared");
    let (own, instance) = separate(&world, "own");
    let find = |check: &str| {
        let report = world.run(&["doctor", "--json"]).expect_code(0).json();
        let findings = report["findings"].as_array().unwrap().clone();
        findings.into_iter().find(|finding| finding["check"] == check).unwrap_or_else(|| panic!("{report:#}"))
    };
    assert_eq!(find("appServers")["level"], "ok");
    let instances = find("instances");
    assert_eq!(instances["level"], "ok");
    let message = instances["message"].as_str().unwrap();
    assert!(message.contains(&format!("`{instance}`")) && message.contains("with -c model"), "{message}");
    // One that does not answer is reported, and its codex still counts as its own.
    let status = world.run(&["ctl", "list", "--json"]).json();
    let entry = status.as_array().unwrap().iter().find(|it| it["instance"] == json!(instance)).unwrap();
    let pid = Pid::from_raw(i32::try_from(entry["pid"].as_i64().unwrap()).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    let (strangers, silent) = (find("appServers"), find("instances"));
    kill(pid, Signal::SIGCONT).unwrap();
    assert_eq!((&strangers["level"], &silent["level"]), (&json!("ok"), &json!("warn")));
    assert!(silent["fix"].as_str().unwrap().contains("--control-socket"), "{silent}");
    // An app-server without a daemon counts as a foreign one.
    let mut command = world.home().command(&codex);
    let mut stranger = command.arg("app-server").stdin(std::process::Stdio::piped()).spawn().unwrap();
    wait::until("it is seen", || find("appServers")["level"] == "warn");
    drop(stranger.stdin.take());
    stranger.wait().unwrap();
    assert_eq!((shared.finish(), own.finish()), (0, 0));
}

#[test]
fn clients_are_listed_with_what_they_say_of_themselves() {
    let world = World::fake("");
    let output = world.run(&["ctl", "clients"]).expect_code(3);
    assert!(output.stderr.contains("hint: `codexd serve"), "{output}");
    let mut client = world.client("first");
    client.start_thread(json!({}));
    let clients = world.run(&["ctl", "clients", "--json"]).expect_code(0).json();
    let [only] = clients.as_array().unwrap().as_slice() else { panic!("{clients}") };
    assert_eq!((&only["state"], &only["framing"]), (&json!("active"), &json!("lines")));
    assert_eq!(only["pid"], client.pid().unwrap());
    assert_eq!(only["threads"].as_array().unwrap().len(), 1);
    let table: Output = world.run(&["ctl", "clients"]).expect_code(0);
    assert_eq!(table.stdout.lines().count(), 2, "{table}");
    assert!(
        table.stdout.starts_with("ID ") && table.stdout.contains(only["name"].as_str().unwrap()),
        "{table}"
    );
    assert_eq!(client.finish(), 0);
    wait::until("nobody is connected", || {
        let output = world.run(&["ctl", "clients"]).expect_code(0);
        output.stderr == "no client is connected\n"
    });
}
