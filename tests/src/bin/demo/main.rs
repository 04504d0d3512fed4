//! Two clients on one codex, to look at: `cargo demo`.
//!
//! Needs Rust and Node, and nothing else: builds the daemon, fetches codex when it is missing, and lets it
//! run on a scripted model, in a temporary world that is gone afterwards. What is shown is also checked; the
//! exit code is 0 only when all was as promised.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "showing is its purpose")]

mod interrupt;
mod screen;
mod talk;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::mpsc::channel;
use std::thread::{ScopedJoinHandle, scope};
use std::time::{Duration, Instant};

use codexd_tests::codex::{Codex, Version};
use codexd_tests::daemon::TestDaemon;
use codexd_tests::fetch;
use codexd_tests::home::Home;
use codexd_tests::process;
use serde_json::json;

use self::interrupt::World;
use self::screen::Screen;
use self::talk::{Pane, Talk};

/// What a step gives, or why the demonstration fails.
type Outcome<T> = Result<T, String>;

fn main() -> ExitCode {
    // The harness reports by panics; here they become a line like the others, below.
    std::panic::set_hook(Box::new(|_| {}));
    let world = World::default();
    println!("\ncodexd: two clients, one codex\n");
    let shown =
        std::panic::catch_unwind(|| show(&world)).unwrap_or_else(|panic| Err(message_of(&*panic).to_owned()));
    world.wait_while_interrupted();
    match shown {
        Ok(time) => {
            println!("\nall as promised, in {:.1} s\n", time.as_secs_f32());
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("\n  failed     {reason}\n");
            ExitCode::FAILURE
        }
    }
}

fn show(world: &World) -> Outcome<Duration> {
    let codexd = build()?;
    if Codex::is_missing(Version::Current) {
        step("codex", &format!("fetching {} by npm, once", Version::Current.number()));
    }
    Codex::find(Version::Current)?;
    step("codex", &format!("{} (native program)", Version::Current.number()));

    let start = Instant::now();
    let builder = TestDaemon::real(Version::Current).ok_or_else(|| "no codex".to_owned())?;
    let home = Home::new().map_err(|error| format!("cannot make a temporary directory: {error}"))?;
    world.begin(home.root());
    let daemon = builder.home(home).codexd(&codexd).ready();
    step("model", &format!("scripted, at {}", daemon.model().address()));
    step("daemon", &format!("pid {}, ready after {} ms", daemon.pid(), start.elapsed().as_millis()));

    let clients = vec![Talk::new(daemon.client("alice")), Talk::new(daemon.client("bob"))];
    one_upstream(&daemon)?;
    println!();
    let clients = converse(&daemon, clients)?;
    strangers(&clients)?;
    status(&daemon)?;
    stop(daemon, clients)?;
    Ok(start.elapsed())
}

/// Builds the daemon with the Cargo that runs this program, or takes that of `CODEXD_BIN`.
fn build() -> Outcome<PathBuf> {
    if let Some(given) = std::env::var_os("CODEXD_BIN") {
        step("codexd", &format!("{}", PathBuf::from(&given).display()));
        return Ok(PathBuf::from(given));
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    step("codexd", "release build; the first one takes some minutes");
    let start = Instant::now();
    let status = Command::new(cargo)
        .args(["build", "--release", "--quiet", "--package", "codexd", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .status()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    if !status.success() {
        return Err("`cargo build --release --package codexd` failed".to_owned());
    }
    step("", &format!("built in {:.1} s", start.elapsed().as_secs_f32()));
    Ok(fetch::target_dir()?.join("release/codexd"))
}

/// Runs both clients at once and draws their messages.
fn converse(daemon: &TestDaemon, clients: Vec<Talk>) -> Outcome<Vec<Talk>> {
    let (sender, updates) = channel();
    let names: Vec<String> = clients.iter().map(|talk| talk.client.name().to_owned()).collect();
    let project = daemon.home().project();
    let results: Vec<Outcome<Talk>> = scope(|threads| {
        let running: Vec<ScopedJoinHandle<'_, Outcome<Talk>>> = clients
            .into_iter()
            .enumerate()
            .map(|(index, mut talk)| {
                let pane = Pane { index, updates: sender.clone() };
                let params = json!({"cwd": project, "approvalPolicy": "untrusted"});
                threads.spawn(move || {
                    talk.start(params);
                    talk.turn(&pane, &PROMPTS[index])?;
                    Ok(talk)
                })
            })
            .collect();
        drop(sender);
        let mut screen = Screen::new(names);
        while let Ok(update) = updates.recv() {
            screen.show(update);
        }
        screen.finish();
        let joined = running.into_iter().map(ScopedJoinHandle::join);
        joined.map(|result| result.unwrap_or_else(|panic| Err(message_of(&*panic).to_owned()))).collect()
    });
    let talks = results.into_iter().collect::<Outcome<Vec<_>>>()?;
    let note = std::fs::read_to_string(project.join("note.txt")).unwrap_or_default();
    promise(note == "seen by both\n", "the approved command did not write its note")?;
    Ok(talks)
}

/// One native codex serves both clients.
fn one_upstream(daemon: &TestDaemon) -> Outcome<()> {
    let own = daemon.pid();
    let processes = daemon.processes();
    let servers: Vec<_> = processes
        .iter()
        .filter(|process| u32::try_from(process.pid) != Ok(own) && process.command.contains("app-server"))
        .collect();
    promise(servers.len() == 1, &format!("there is not one codex but {servers:?}"))?;
    step("upstream", &format!("one codex app-server, pid {}", servers[0].pid));
    Ok(())
}

/// No client has received a message of the other's thread.
fn strangers(clients: &[Talk]) -> Outcome<()> {
    for talk in clients {
        let strange = talk.received.iter().find(|(thread, method)| {
            *thread != talk.thread && (method.starts_with("item/") || method.starts_with("turn/"))
        });
        promise(
            strange.is_none(),
            &format!("{} received {strange:?} of the other's thread", talk.client.name()),
        )?;
    }
    Ok(())
}

fn status(daemon: &TestDaemon) -> Outcome<()> {
    let output = daemon.ctl(&["status"]);
    println!("\n$ codexd ctl status");
    print!("{}{}", output.stdout, output.stderr);
    promise(output.code() == Some(0), &format!("`codexd ctl status` ended with {}", output.status))?;
    let report = daemon.ctl(&["status", "--json"]).json();
    promise(report["ready"] == true, "`ctl status --json` does not say that it is ready")
}

/// Stops the daemon while a turn runs: it ends in peace, then everything goes.
fn stop(mut daemon: TestDaemon, mut clients: Vec<Talk>) -> Outcome<()> {
    println!();
    let (alice, others) = clients.split_first_mut().ok_or("there is no client")?;
    let turn = alice.begin("[[deltas:20:40]] take your time");
    daemon.model().wait_for_prompt("take your time");
    step("stop", "SIGTERM while a turn of alice runs");
    let asked = Instant::now();
    daemon.term();
    let answer = alice.finish(&Pane::unseen(), &turn)?;
    promise(answer.ends_with("take your time"), "the turn that ran was not finished")?;
    step("drain", &format!("the turn was finished, {} ms later", asked.elapsed().as_millis()));
    for talk in [alice].into_iter().chain(others) {
        // Fails by itself when the connection stays open.
        talk.client.recv_to_end();
    }
    step("clients", "both connections were closed");
    let status = daemon.wait_exit();
    let code = status.code().ok_or_else(|| format!("the daemon died: {status}"))?;
    promise(code == 0, &format!("the exit code is {code}; the daemon said:\n{}", daemon.stderr()))?;
    step("exit code", "0: the stop was intended");
    let left = process::sweep(daemon.home().root(), Duration::from_secs(1));
    promise(left.is_empty(), &format!("left behind: {left:?}"))?;
    promise(!daemon.socket().exists(), "the socket is still there")?;
    step("left", "no process, no socket");
    Ok(())
}

fn promise(kept: bool, otherwise: &str) -> Outcome<()> {
    if kept { Ok(()) } else { Err(otherwise.to_owned()) }
}

fn step(name: &str, text: &str) {
    println!("  {name:<10} {text}");
}

fn message_of(payload: &(dyn std::any::Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without words")
}

/// What each client asks: the text that is shown, and the markers that steer the scripted model.
const PROMPTS: [Prompt; 2] = [
    Prompt {
        text: "Why can we both use you at once?",
        markers: "[[say:55:There is one of me, and a broker in front. It keeps your thread and the other one \
                  apart, gives each request back to the client that made it, and each of you sees what it would \
                  see if it were alone. When one of you leaves, the other does not notice.]]",
    },
    Prompt {
        text: "Leave a note in the project, please.",
        markers: "[[shell:echo seen by both > note.txt]][[say:55:Done. I asked you and not alice, because the \
                  thread is yours. Her answer was running all the while, and nothing of it came here.]]",
    },
];

/// A question to the scripted model.
struct Prompt {
    text: &'static str,
    markers: &'static str,
}
