//! The systemd units, under a real systemd: for root, and for an ordinary user, whose manager refuses
//! things that root's allows.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use codexd_tests::client::TestClient;
use codexd_tests::lab::{Lab, User};
use codexd_tests::wait;
use serde_json::{Value, json};

const SERVICE: &str = "codexd.service";
const SOCKET: &str = "codexd.socket";

/// Makes two tests of one: as root, and as an ordinary user.
macro_rules! as_both {
    ($($(#[$attribute:meta])* fn $name:ident($lab:ident) $body:block)*) => {$(
        mod $name {
            use super::*;

            fn test($lab: Lab) $body

            $(#[$attribute])*
            #[test]
            fn as_root() {
                if let Some(lab) = Lab::boot(User::Root) {
                    test(lab);
                }
            }

            $(#[$attribute])*
            #[test]
            fn as_an_ordinary_user() {
                if let Some(lab) = Lab::boot(User::Ordinary) {
                    test(lab);
                }
            }
        }
    )*};
}

mod connect;
mod journal;
mod linger;
mod sandbox;

/// Sends a line and reads one line back; empty at the end of the connection.
fn ask(lab: &Lab, line: &str) -> String {
    let mut stream = UnixStream::connect(lab.socket()).unwrap();
    stream.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    let _ = stream.write_all(format!("{line}\n").as_bytes());
    let mut text = String::new();
    // A connection that is closed before the line was read is reset, which is an end as well.
    let _ = stream.read_to_string(&mut text);
    text
}

const INITIALIZE: &str =
    r#"{"id":1,"method":"initialize","params":{"clientInfo":{"name":"t","version":"1"}}}"#;

/// Starts a turn that runs until its approval is answered, and returns thread, turn and approval.
fn begin_turn(client: &mut TestClient) -> (String, String, codexd_tests::client::Message) {
    let thread = client.start_thread(json!({}));
    let turn = client.start_turn(&thread, "[[approve]] go");
    let approval = client.take("the approval", |message| message.is_server_request());
    (thread, turn, approval)
}

as_both! {
    fn started_means_that_codex_has_answered(lab) {
        lab.install();
        lab.script_codex("[[init-hang]]");
        lab.expect_systemctl(0, &["start", "--no-block", SERVICE]);
        lab.wait_for(SERVICE, "StatusText", "waiting for codex app-server");
        assert_eq!(lab.show(SERVICE, "ActiveState"), "activating");
        lab.expect_systemctl(0, &["stop", SERVICE]);
        lab.script_codex("");
        lab.expect_systemctl(0, &["start", SERVICE]);
        assert_eq!(lab.show(SERVICE, "ActiveState"), "active");
        assert!(lab.show(SERVICE, "StatusText").starts_with("serving, codex app-server is process "));
        assert_eq!(lab.show(SERVICE, "LimitNOFILESoft"), "8192");
        assert_eq!(lab.processes(SERVICE).len(), 2);
        lab.client("a").turn_completes();
    }

    fn the_first_client_starts_the_daemon_and_the_socket_outlives_it(lab) {
        lab.install();
        lab.expect_systemctl(0, &["start", SOCKET]);
        assert_eq!(lab.show(SERVICE, "ActiveState"), "inactive");
        // Asking for the status starts nothing.
        lab.expect(3, &["codexd", "ctl", "status"]);
        let doctor = lab.run(&["codexd", "doctor"]).expect_code(0);
        assert!(doctor.stdout.contains("ok    daemon: not running"), "{doctor}");
        assert!(!doctor.stdout.contains("nobody listens"), "{doctor}");
        lab.expect(69, &["codexd", "connect", "--no-spawn"]);
        assert_eq!(lab.show(SERVICE, "ActiveState"), "inactive");
        lab.client("first").turn_completes();
        assert_eq!(lab.show(SERVICE, "ActiveState"), "active");
        let first = lab.show(SERVICE, "MainPID");
        let inode = inode(&lab);
        lab.expect_systemctl(0, &["restart", SERVICE]);
        assert_ne!(lab.show(SERVICE, "MainPID"), first);
        assert_eq!(super::inode(&lab), inode);
        lab.client("second").turn_completes();
        // An intended stop of the daemon is not one of the socket: the next client starts it again.
        lab.expect(0, &["codexd", "ctl", "stop"]);
        lab.wait_for(SERVICE, "ActiveState", "inactive");
        lab.client("third").turn_completes();
        lab.expect_systemctl(0, &["stop", SOCKET, SERVICE]);
        assert!(!lab.socket().exists());
        assert_eq!(lab.running(), [""; 0]);
    }

    fn a_lost_codex_and_a_killed_daemon_are_started_again(lab) {
        lab.start();
        let upstream = status(&lab)["upstream"]["pid"].to_string();
        lab.expect(0, &["kill", "-KILL", &upstream]);
        lab.wait_for(SERVICE, "NRestarts", "1");
        lab.wait_for(SERVICE, "ActiveState", "active");
        lab.client("a").turn_completes();
        let daemon = lab.show(SERVICE, "MainPID");
        lab.expect(0, &["kill", "-KILL", &daemon]);
        lab.wait_for(SERVICE, "NRestarts", "2");
        lab.wait_for(SERVICE, "ActiveState", "active");
        lab.client("b").turn_completes();
        assert_eq!(lab.processes(SERVICE).len(), 2);
    }

    fn permanent_failures_are_not_tried_again(lab) {
        lab.install();
        let home = lab.home();
        let config = home.join(".config/codexd/config.toml");
        let override_codex = "[Service]\nEnvironment=CODEXD_CODEX=/nowhere/codex\n";
        let long = format!("[Service]\nEnvironment=CODEXD_CONTROL_SOCKET={}/{}\n", home.display(), "x".repeat(120));
        let usage = "[Service]\nExecStart=\nExecStart=codexd serve --no-such-flag\n";
        let usage = usage.replace("codexd serve", &format!("{}/codexd serve", lab.programs().display()));
        let open = "[Service]\nRuntimeDirectoryMode=0755\n";
        for (code, drop_in, settings, script) in [
            ("64", usage.as_str(), "", ""),
            ("69", override_codex, "", ""),
            ("73", long.as_str(), "", ""),
            ("76", "", "", "[[init-error:-32600]]"),
            ("77", open, "", ""),
            ("78", "", "no_such_key = 1\n", ""),
        ] {
            lab.drop_in(SERVICE, drop_in);
            lab.write(&config, settings);
            lab.script_codex(script);
            lab.expect_systemctl(0, &["reset-failed"]);
            lab.expect_systemctl(1, &["start", SERVICE]);
            assert_eq!(lab.show(SERVICE, "ExecMainStatus"), code, "{}", lab.report());
            assert_eq!(lab.show(SERVICE, "ActiveState"), "failed", "{code}");
            assert_eq!(lab.show(SERVICE, "Result"), "exit-code", "{code}");
            assert_eq!(lab.show(SERVICE, "NRestarts"), "0", "{code}");
            assert_eq!(lab.show(SOCKET, "ActiveState"), "active", "{code}");
        }
        lab.drop_in(SERVICE, "");
        lab.write(&config, "");
        lab.script_codex("");
        lab.expect_systemctl(0, &["reset-failed"]);
        // 75: another daemon has the instance.
        let socket = home.join("other").display().to_string();
        let control = format!("{socket}.ctl");
        let mut other = lab.command(["codexd", "serve", "--socket", &socket]);
        let mut other = other.stderr(std::process::Stdio::null()).spawn().unwrap();
        lab.expect(0, &["codexd", "ctl", "--control-socket", &control, "wait", "ready"]);
        lab.expect_systemctl(1, &["start", SERVICE]);
        assert_eq!(lab.show(SERVICE, "ExecMainStatus"), "75", "{}", lab.report());
        assert_eq!(lab.show(SERVICE, "NRestarts"), "0");
        lab.expect(0, &["codexd", "ctl", "--control-socket", &control, "stop"]);
        other.wait().unwrap();
    }

    fn waiting_clients_learn_why_and_the_socket_survives(lab) {
        lab.install();
        let config = lab.home().join(".config/codexd/config.toml");
        lab.write(&config, "no_such_key = 1\n");
        lab.expect_systemctl(0, &["start", SOCKET]);
        // More than the 20 starts in a minute that end a crash loop, and the socket with it.
        for _ in 0..30 {
            let answer: Value = serde_json::from_str(&ask(&lab, INITIALIZE)).unwrap();
            assert_eq!(answer["id"], 1);
            assert_eq!(answer["error"]["code"], -32010);
            assert!(answer["error"]["message"].as_str().unwrap().contains("no_such_key"), "{answer}");
            assert_eq!(answer["error"]["data"]["codexd"]["retryable"], false);
        }
        lab.wait_for(SERVICE, "ActiveState", "failed");
        assert_eq!(lab.show(SERVICE, "ExecMainStatus"), "78");
        assert_eq!(lab.show(SOCKET, "SubState"), "listening", "{}", lab.report());
        // As soon as the reason is gone, the next client is served: nothing has to be reset.
        lab.write(&config, "");
        lab.client("later").turn_completes();
        // The same for a codex that refuses the handshake.
        lab.expect_systemctl(0, &["stop", SERVICE]);
        lab.script_codex("[[init-error:-32600]]");
        let answer: Value = serde_json::from_str(&ask(&lab, INITIALIZE)).unwrap();
        assert!(answer["error"]["message"].as_str().unwrap().contains("handshake"), "{answer}");
        lab.wait_for(SERVICE, "ExecMainStatus", "76");
        assert_eq!(lab.show(SOCKET, "ActiveState"), "active", "{}", lab.report());
    }

    fn a_frozen_daemon_is_killed_and_started_again(lab) {
        lab.install();
        lab.drop_in(SERVICE, "[Service]\nWatchdogSec=1\nTimeoutAbortSec=2\n");
        lab.expect_systemctl(0, &["start", SERVICE]);
        lab.client("before").turn_completes();
        let frozen = lab.show(SERVICE, "MainPID");
        lab.expect(0, &["kill", "-STOP", &frozen]);
        lab.wait_for(SERVICE, "NRestarts", "1");
        lab.wait_for(SERVICE, "ActiveState", "active");
        assert_ne!(lab.show(SERVICE, "MainPID"), frozen);
        assert_eq!(lab.processes(SERVICE).len(), 2);
        assert_eq!(lab.running().len(), 2);
        lab.client("after").turn_completes();
        // With all well, the pings come: it lives for several times its second.
        let alive = lab.show(SERVICE, "MainPID");
        let since = Instant::now();
        wait::until("three seconds have passed", || since.elapsed() > Duration::from_secs(3));
        assert_eq!(lab.show(SERVICE, "MainPID"), alive);
    }

    fn a_stop_lets_a_running_turn_finish(lab) {
        lab.start();
        let mut client = lab.client("a");
        let (thread, turn, approval) = begin_turn(&mut client);
        lab.expect_systemctl(0, &["stop", "--no-block", SERVICE]);
        client.take_method("notifications/broker/shuttingDown");
        assert_eq!(lab.show(SERVICE, "ActiveState"), "deactivating");
        // A client that connects now waits for the next daemon, at the same socket.
        let mut next = lab.raw_client("next");
        let asked = next.send_request("initialize", json!({"clientInfo": {"name": "n", "version": "1"}}));
        client.answer(&approval, json!({"decision": "accept"}));
        assert_eq!(client.finish_turn(&thread, &turn).status, "completed");
        let answer = next.response(asked).unwrap();
        assert_eq!(answer["codexd"]["generation"], 2, "{answer}");
        assert_eq!(lab.show(SERVICE, "Result"), "success");
        assert_eq!(lab.show(SERVICE, "NRestarts"), "0");
    }

    fn a_drain_longer_than_the_stop_timeout_is_waited_for(lab) {
        lab.install();
        lab.write(lab.home().join(".config/codexd/config.toml"), "drain_timeout = \"never\"\n");
        lab.drop_in(SERVICE, "[Service]\nTimeoutStopSec=2\n");
        lab.expect_systemctl(0, &["start", SERVICE]);
        let mut client = lab.client("a");
        let (thread, turn, approval) = begin_turn(&mut client);
        lab.expect_systemctl(0, &["stop", "--no-block", SERVICE]);
        let since = Instant::now();
        client.take_method("notifications/broker/shuttingDown");
        // Longer than the timeout, and than the next time that was asked for.
        wait::until("the timeout has passed", || since.elapsed() > Duration::from_secs(4));
        assert_eq!(lab.show(SERVICE, "ActiveState"), "deactivating");
        client.answer(&approval, json!({"decision": "accept"}));
        assert_eq!(client.finish_turn(&thread, &turn).status, "completed");
        lab.wait_for(SERVICE, "ActiveState", "inactive");
        assert_eq!(lab.show(SERVICE, "Result"), "success");
    }

    fn settings_are_read_again(lab) {
        lab.start();
        let config = lab.home().join(".config/codexd/config.toml");
        let pid = lab.show(SERVICE, "MainPID");
        lab.write(&config, "log_level = \"debug\"\nclient_name = \"other\"\n[limits]\nmax_clients = 1\n");
        lab.expect_systemctl(0, &["reload", SERVICE]);
        lab.wait_for(SERVICE, "ActiveState", "active");
        assert!(lab.show(SERVICE, "StatusText").contains("restart needed for: client_name"));
        assert_eq!(status(&lab)["warnings"][0]["code"], "restartNeeded");
        let _one = lab.client("one");
        let refusal = ask(&lab, INITIALIZE);
        assert!(refusal.contains("tooManyClients"), "a second client was let in: {refusal}");
        lab.write(&config, "log_level = 3\n");
        lab.expect_systemctl(1, &["reload", SERVICE]);
        assert_eq!(lab.show(SERVICE, "ActiveState"), "active");
        assert!(lab.show(SERVICE, "StatusText").contains("old settings"), "{}", lab.report());
        let warns_of = |code: &str| {
            let warnings = status(&lab)["warnings"].clone();
            warnings.as_array().unwrap().iter().any(|warning| warning["code"] == code)
        };
        assert!(warns_of("settingsNotReloaded"));
        assert!(warns_of("tooManyClients"));
        lab.write(&config, "");
        lab.expect(0, &["kill", "-HUP", &pid]);
        wait::until("the settings are read", || {
            !warns_of("settingsNotReloaded") && !warns_of("restartNeeded")
        });
        assert_eq!(lab.show(SERVICE, "MainPID"), pid);
    }

    fn a_crash_loop_ends_as_configured(lab) {
        lab.install();
        lab.drop_in(SERVICE, "[Unit]\nStartLimitBurst=4\n[Service]\nRestartSec=20ms\n");
        lab.script_codex("[[init-exit:0]]");
        lab.expect_systemctl(1, &["start", SERVICE]);
        lab.wait_for(SERVICE, "ActiveState", "failed");
        lab.wait_for(SERVICE, "NRestarts", "4");
        assert_eq!(lab.show(SERVICE, "ExecMainStatus"), "1");
        assert_eq!(lab.running(), [""; 0]);
        // What doctor says about it, and that it helps.
        let doctor = lab.run(&["codexd", "doctor"]).expect_code(1).stdout;
        assert!(doctor.contains("FAIL  service: codexd.service has failed"), "{doctor}");
        lab.script_codex("");
        lab.expect(0, &["codexd", "install", "--systemd", "--now"]);
        lab.client("a").turn_completes();
    }

    fn nothing_is_left_in_the_cgroup(lab) {
        lab.start();
        let mut client = lab.client("a");
        let thread = client.start_thread(json!({}));
        client.turn(&thread, "[[orphan]] go");
        assert!(lab.processes(SERVICE).len() > 2, "{:?}", lab.processes(SERVICE));
        lab.expect_systemctl(0, &["stop", SERVICE]);
        assert_eq!(lab.processes(SERVICE), [""; 0]);
        // Even if codexd can do nothing any more.
        lab.script_codex("[[ignore-eof]][[ignore-term]]");
        lab.expect_systemctl(0, &["start", SERVICE]);
        let daemon = lab.show(SERVICE, "MainPID");
        lab.expect(0, &["kill", "-KILL", &daemon]);
        lab.wait_for(SERVICE, "NRestarts", "1");
        lab.wait_for(SERVICE, "ActiveState", "active");
        assert_eq!(lab.processes(SERVICE).len(), 2, "{:?}", lab.running());
        lab.expect_systemctl(0, &["stop", SERVICE, SOCKET]);
        assert_eq!(lab.running(), [""; 0]);
    }

    fn install_and_uninstall_can_be_repeated_and_leave_nothing(lab) {
        let now = ["codexd", "install", "--systemd", "--now"];
        let said = lab.run(&now).expect_code(0).stdout;
        assert!(said.contains("wrote ") && said.contains("ran systemctl --user start codexd.service"), "{said}");
        let pid = lab.show(SERVICE, "MainPID");
        let again = lab.run(&now).expect_code(0).stdout;
        assert!(again.contains("unchanged ") && !again.contains("wrote "), "{again}");
        assert_eq!(lab.show(SERVICE, "MainPID"), pid, "a second install does not disturb the daemon");
        assert_eq!(lab.show(SOCKET, "UnitFileState"), "enabled");
        let units = lab.home().join(".config/systemd/user");
        let files = ["codexd.service", "codexd.socket"].map(|file| units.join(file).display().to_string());
        let verify = ["systemd-analyze", "--user", "verify", "--recursive-errors=yes", &files[0], &files[1]];
        let verified = lab.run(&verify).expect_code(0);
        assert_eq!((verified.stdout.as_str(), verified.stderr.as_str()), ("", ""));
        let doctor = lab.run(&["codexd", "doctor", "--json"]).expect_code(0).json();
        let service = doctor["findings"].as_array().unwrap().iter().find(|it| it["check"] == "service").unwrap();
        assert_eq!(service["level"], "ok", "{service}");
        // Something that a client leaves in the directory of the sockets.
        lab.expect(0, &["codexd", "ctl", "stop"]);
        lab.expect_systemctl(0, &["stop", SOCKET, SERVICE]);
        lab.expect(0, &["codexd", "connect"]);
        assert!(!doctor["findings"].as_array().unwrap().iter().any(|it| it["check"] == "unit"), "{doctor}");

        for _ in 0..2 {
            lab.expect(0, &["codexd", "uninstall", "--systemd"]);
        }
        assert_eq!(lab.running(), [""; 0]);
        assert_eq!(lab.show(SERVICE, "LoadState"), "not-found");
        let left: Vec<_> = std::fs::read_dir(lab.path(&units)).into_iter().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(!lab.path(lab.runtime().join("codexd")).exists());
    }

    fn a_daemon_that_no_service_owns_is_not_pushed_aside(lab) {
        let mut serve = lab.command(["codexd", "serve"]);
        let mut other = serve.stderr(std::process::Stdio::null()).spawn().unwrap();
        lab.expect(0, &["codexd", "ctl", "wait", "ready"]);
        let written = lab.run(&["codexd", "install", "--systemd"]).expect_code(0).stdout;
        assert!(written.contains("and not as a service; `codexd ctl stop`"), "{written}");
        let refused = lab.run(&["codexd", "install", "--systemd", "--now"]).expect_code(75);
        assert!(refused.stderr.contains("codexd ctl stop"), "{refused}");
        lab.client("a").turn_completes();
        lab.expect(0, &["codexd", "ctl", "stop"]);
        other.wait().unwrap();
        lab.expect(0, &["codexd", "install", "--systemd", "--now"]);
        lab.client("b").turn_completes();
    }
}

fn inode(lab: &Lab) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(lab.socket()).unwrap().ino()
}

fn status(lab: &Lab) -> Value {
    lab.run(&["codexd", "ctl", "status", "--json"]).expect_code(0).json()
}

trait Turns {
    fn turn_completes(&mut self);
}

impl Turns for TestClient {
    #[track_caller]
    fn turn_completes(&mut self) {
        let thread = self.start_thread(json!({}));
        assert_eq!(self.turn(&thread, "hello").status, "completed");
    }
}
