//! A client socket that a service manager opened: `systemd-socket-activate` hands it in without a
//! manager.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use codexd_tests::client::TestClient;
use codexd_tests::home::Home;
use codexd_tests::{binary, process, skip, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// A daemon that starts with the first connection.
struct Activated {
    home: Home,
    child: Child,
}

impl Activated {
    /// Listens on `sockets` (name and descriptor name) and waits for a client; `None` where the program
    /// for that is missing.
    fn listen(sockets: &[(&str, &str)], settings: &str) -> Option<Activated> {
        let home = Home::new().unwrap();
        let config = home.config().join("codexd/config.toml");
        std::fs::create_dir(config.parent().unwrap()).unwrap();
        std::fs::write(config, settings).unwrap();
        let mut command = home.command(Path::new("systemd-socket-activate"));
        for (name, _) in sockets {
            command.arg("-l").arg(home.runtime().join(name));
        }
        let names: Vec<&str> = sockets.iter().map(|(_, name)| *name).collect();
        command.arg(format!("--fdname={}", names.join(":")));
        for (name, value) in home.variables() {
            command.arg("-E").arg(format!("{name}={}", value.to_str().unwrap()));
        }
        command.arg(binary::codexd()).args(["serve", "--codex"]).arg(binary::fake_codex());
        let child = match command.stderr(Stdio::null()).stdout(Stdio::null()).spawn() {
            Ok(child) => child,
            Err(error) => {
                skip::say(&format!("systemd-socket-activate: {error}"));
                return None;
            }
        };
        let it = Activated { home, child };
        for (name, _) in sockets {
            wait::until("somebody listens", || is_listening(&it.socket(name)));
        }
        Some(it)
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.home.runtime().join(name)
    }

    fn term(&self) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    }

    fn exit_code(&mut self) -> Option<i32> {
        wait::poll(wait::PATIENCE, || self.child.try_wait().unwrap()).expect("the daemon ends").code()
    }
}

/// Returns whether a process listens at a path, without connecting: that would start the daemon. The file is there a
/// moment before (`/proc/net/unix`, `proc_net(5)`: the flag 0x10000 marks a listening socket).
fn is_listening(path: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/net/unix").unwrap();
    let path = path.to_str().unwrap();
    table.lines().any(|line| line.ends_with(path) && line.split_ascii_whitespace().nth(3) == Some("00010000"))
}

impl Drop for Activated {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        process::sweep(self.home.root(), std::time::Duration::ZERO);
    }
}

fn initialize(client: &mut TestClient) -> Value {
    client.request("initialize", json!({"clientInfo": {"name": "t", "version": "1"}}))
}

#[test]
fn the_client_that_started_the_daemon_is_served_and_the_path_stays() {
    let Some(mut it) = Activated::listen(&[("s", "codexd")], "") else { return };
    let mut first = TestClient::connect("first", &it.socket("s"));
    initialize(&mut first);
    let mut second = TestClient::connect("second", &it.socket("s"));
    second.initialize();
    let thread = second.start_thread(json!({}));
    assert_eq!(second.turn(&thread, "hello").status, "completed");

    let upstream = process::marked(it.home.root()).into_iter().find(|it| it.command.ends_with(" app-server"));
    let environment = std::fs::read_to_string(format!("/proc/{}/environ", upstream.unwrap().pid)).unwrap();
    assert!(!environment.contains("LISTEN_"), "{environment}");
    let status =
        it.home.command(&binary::codexd()).args(["ctl", "status", "--field", "socket"]).output().unwrap();
    assert_eq!(String::from_utf8(status.stdout).unwrap().trim(), it.socket("s").to_str().unwrap());

    it.term();
    assert_eq!(it.exit_code(), Some(0));
    assert!(it.socket("s").exists(), "the path belongs to the service manager");
    process::assert_no_process_left(it.home.root());
}

#[test]
fn the_socket_is_known_by_its_name() {
    let Some(mut it) = Activated::listen(&[("other", "other"), ("ours", "codexd")], "") else { return };
    let mut client = TestClient::connect("a", &it.socket("ours"));
    client.initialize();
    it.term();
    assert_eq!(it.exit_code(), Some(0));
}

#[test]
fn a_permanent_failure_is_reported_to_a_waiting_client() {
    let Some(mut it) = Activated::listen(&[("s", "codexd")], "no_such_key = 1\n") else { return };
    let ask = |line: &str| {
        let mut stream = UnixStream::connect(it.socket("s")).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        answer
    };
    for id in ["1", "\"two\""] {
        let answer = ask(&format!("{{\"id\":{id},\"method\":\"initialize\",\"params\":{{}}}}\n"));
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["id"].to_string(), id);
        assert_eq!(answer["error"]["code"], -32010);
        let codexd = &answer["error"]["data"]["codexd"];
        assert_eq!((&codexd["reason"], &codexd["retryable"]), (&json!("startFailed"), &json!(false)));
    }
    assert_eq!(ask("GET /readyz HTTP/1.1\r\n\r\n"), "HTTP/1.1 503 Service Unavailable\r\n");
    assert_eq!(it.exit_code(), Some(78));
}

#[test]
fn clients_that_come_during_a_drain_are_left_for_the_next_daemon() {
    let Some(mut it) = Activated::listen(&[("s", "codexd")], "") else { return };
    let mut client = TestClient::connect("a", &it.socket("s"));
    client.initialize();
    let thread = client.start_thread(json!({}));
    let turn = client.start_turn(&thread, "[[approve]] go");
    let approval = client.take("the approval", |message| message.is_server_request());
    it.term();
    client.take_method("notifications/broker/shuttingDown");
    // Accepted by the kernel only: nothing is read and nothing closed.
    let mut late = TestClient::connect("late", &it.socket("s"));
    late.send_request("initialize", json!({"clientInfo": {"name": "t", "version": "1"}}));
    client.answer(&approval, json!({"decision": "accept"}));
    assert_eq!(client.finish_turn(&thread, &turn).status, "completed");
    assert_eq!(it.exit_code(), Some(0));
    assert_eq!(late.recv_to_end(), []);
}
