//! `codexd connect` where a unit is installed: the service manager alone starts the daemon.

use codexd_tests::output::Output;
use serde_json::json;

use super::*;

/// Clients that come at the same instant.
const AT_ONCE: usize = 20;

/// A service alone, as a user can write it who wants no socket unit.
fn write_service(lab: &Lab) {
    let codexd = lab.programs().join("codexd");
    let codex = lab.programs().join("codex");
    let text = format!(
        "[Service]\nType=notify\nExecStart={} serve --supervised --codex {}\n\
         RuntimeDirectory=codexd\nRuntimeDirectoryMode=0700\nRuntimeDirectoryPreserve=yes\n",
        codexd.display(),
        codex.display()
    );
    lab.write(lab.home().join(".config/systemd/user").join(SERVICE), &text);
    lab.expect_systemctl(0, &["daemon-reload"]);
}

/// Many clients find no daemon, and all are served by the one of the service.
fn all_are_served_by_the_service(lab: &Lab) {
    assert_eq!(lab.show(SERVICE, "ActiveState"), "inactive");
    let connect = |n| TestClient::spawn(&format!("c{n}"), &mut lab.command(["codexd", "connect"]));
    let mut clients: Vec<TestClient> = (0..AT_ONCE).map(connect).collect();
    for client in &mut clients {
        assert_eq!(client.initialize()["codexd"]["generation"], 1);
    }
    clients[0].turn_completes();
    assert_eq!(status(lab)["clients"], AT_ONCE);
    assert_eq!(lab.show(SERVICE, "ActiveState"), "active");
    assert_eq!(lab.show(SERVICE, "NRestarts"), "0");
    // The daemon of the service and its codex, and no other.
    assert_eq!(lab.processes(SERVICE).len(), 2);
    let running = lab.running();
    let daemons: Vec<_> = running.iter().filter(|line| line.contains("codexd serve")).collect();
    assert!(daemons.len() == 1 && daemons[0].contains("--supervised"), "{running:?}");
    for mut client in clients {
        client.finish_sending();
        assert_eq!(client.wait_exit().code(), Some(0));
    }
}

/// Runs one client to its end: the messages it got, and the text on stderr.
pub(super) fn one_client(lab: &Lab, flags: &[&str]) -> Output {
    let mut command = lab.command(["codexd", "connect"].iter().chain(flags));
    Output::with_input(&mut command, format!("{INITIALIZE}\n").as_bytes())
}

as_both! {
    fn the_first_client_starts_the_socket_unit(lab) {
        lab.install();
        assert_eq!(lab.show(SOCKET, "ActiveState"), "inactive");
        all_are_served_by_the_service(&lab);
        assert_eq!(lab.show(SOCKET, "SubState"), "running");
    }

    fn the_first_client_starts_a_service_without_a_socket(lab) {
        write_service(&lab);
        all_are_served_by_the_service(&lab);
        assert_eq!(lab.show(SOCKET, "LoadState"), "not-found");
    }

    fn an_unused_daemon_ends_and_the_socket_brings_it_back(lab) {
        lab.install();
        lab.write(lab.home().join(".config/codexd/config.toml"), "idle_exit = \"200ms\"\n");
        for _ in 0..2 {
            let mut client = TestClient::spawn("a", &mut lab.command(["codexd", "connect", "--no-direct"]));
            client.initialize();
            client.turn_completes();
            client.finish_sending();
            assert_eq!(client.wait_exit().code(), Some(0));
            lab.wait_for(SERVICE, "ActiveState", "inactive");
            assert_eq!(lab.show(SERVICE, "Result"), "success");
            assert_eq!(lab.show(SOCKET, "SubState"), "listening");
        }
        assert_eq!(lab.show(SERVICE, "NRestarts"), "0");
        assert_eq!(lab.running(), [""; 0]);
    }

    fn a_service_that_starts_at_the_second_try_is_waited_for(lab) {
        write_service(&lab);
        let flag = lab.home().join("flag");
        lab.drop_in(SERVICE, &format!(
            "[Service]\nRestart=on-failure\nRestartSec=500ms\nExecStartPre=/bin/sh -c 'test -e {0} || ! touch {0}'\n",
            flag.display()
        ));
        let mut client = TestClient::spawn("a", &mut lab.command(["codexd", "connect", "--no-direct"]));
        assert_eq!(client.initialize()["codexd"]["generation"], 1);
        assert_eq!(lab.show(SERVICE, "NRestarts"), "1");
        client.finish_sending();
        assert_eq!(client.wait_exit().code(), Some(0));
    }

    fn who_starts_a_unit_that_cannot_start_learns_why(lab) {
        let config = lab.home().join(".config/codexd/config.toml");
        let broken = "no_such_key = 1\n";
        // A service alone: the manager is asked how it ended.
        write_service(&lab);
        // The client has settings of its own, so that it is the daemon that finds them broken.
        let environment = "[Service]\nEnvironment=CODEXD_CONFIG=%h/.config/codexd/broken.toml\n";
        lab.write(config.with_file_name("broken.toml"), broken);
        lab.drop_in(SERVICE, environment);
        let said = one_client(&lab, &["--no-direct"]).expect_code(69);
        assert!(said.stderr.contains("exit code 78: cannot start: "), "{said}");
        assert!(said.stderr.contains("no_such_key"), "{said}");
        assert!(said.stderr.contains("hint: systemctl --user status codexd.service"), "{said}");
        assert_eq!(lab.show(SERVICE, "ActiveState"), "failed");
        // Through the socket: the daemon itself answers.
        lab.install();
        lab.drop_in(SERVICE, environment);
        for _ in 0..3 {
            let said = one_client(&lab, &["--no-direct"]).expect_code(69);
            assert!(said.stderr.contains("did not start (exit code 78): "), "{said}");
            assert!(said.stderr.contains("no_such_key"), "{said}");
            let answer = said.json();
            assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(1), &json!(-32010)));
            let data = &answer["error"]["data"]["codexd"];
            assert_eq!((&data["reason"], &data["exitCode"]), (&json!("startFailed"), &json!(78)));
        }
        // A client that is allowed to run codex has one of its own.
        let mut alone = TestClient::spawn("alone", &mut lab.command(["codexd", "connect"]));
        assert!(alone.initialize()["codexd"].is_null());
        alone.turn_completes();
        alone.finish_sending();
        assert_eq!(alone.wait_exit().code(), Some(0));
        // When the reason is gone, the next client is served.
        lab.wait_for(SERVICE, "ActiveState", "failed");
        lab.drop_in(SERVICE, "");
        let said = one_client(&lab, &["--no-direct"]).expect_code(0);
        assert!(said.stdout.starts_with("{\"id\":1,\"result\":"), "{said}");
        assert_eq!(lab.show(SERVICE, "ActiveState"), "active");
    }

    fn the_end_of_a_crash_loop_is_reported_to_a_waiting_client(lab) {
        lab.install();
        lab.drop_in(SERVICE, "[Unit]\nStartLimitBurst=3\n[Service]\nRestartSec=20ms\n");
        lab.script_codex("[[init-exit:0]]");
        // Every client that connects, before it has ended and after.
        for _ in 0..2 {
            let said = one_client(&lab, &["--no-direct"]).expect_code(69);
            assert!(said.stderr.contains("exit code 1: codex app-server exited with code 0"), "{said}");
        }
        assert_eq!(lab.running(), [""; 0]);
    }

    fn a_client_goes_on_when_the_daemon_dies_and_when_it_is_restarted(lab) {
        lab.install();
        let mut client = TestClient::spawn("a", &mut lab.command(["codexd", "connect", "--no-direct"]));
        assert_eq!(client.initialize()["codexd"]["generation"], 1);
        client.turn_completes();
        for (generation, part) in [(2, "codex"), (3, "codexd")] {
            let pid = match part {
                "codex" => status(&lab)["upstream"]["pid"].to_string(),
                _ => lab.show(SERVICE, "MainPID"),
            };
            lab.expect(0, &["kill", "-KILL", &pid]);
            // Without a word of the client: it is subscribed to a thread.
            let restarted = client.take_method("notifications/broker/upstreamRestarted");
            assert_eq!(restarted["params"]["generation"], generation, "{part}");
            client.turn_completes();
        }
        assert_eq!(lab.show(SERVICE, "NRestarts"), "2");
        lab.expect_systemctl(0, &["restart", SERVICE]);
        client.turn_completes();
        assert_eq!(client.take_method("notifications/broker/upstreamRestarted")["params"]["generation"], 4);
        client.finish_sending();
        assert_eq!(client.wait_exit().code(), Some(0));
    }

    fn a_shell_without_a_session_finds_the_same_daemon(lab) {
        // As sshd starts commands where PAM does not set up a session.
        let home = format!("HOME={}", lab.home().display());
        let codexd = lab.programs().join("codexd").display().to_string();
        let bare = |words: &str| {
            let shell = format!("{codexd} {words}");
            lab.command(["env", "-i", &home, "PATH=/usr/local/bin:/usr/bin:/bin", "sh", "-c", &shell])
        };
        lab.install();
        let mut client = TestClient::spawn("bare", &mut bare("connect"));
        assert_eq!(client.initialize()["codexd"]["generation"], 1);
        client.turn_completes();
        let pid = lab.show(SERVICE, "MainPID");
        assert_eq!(Output::of(&mut bare("ctl status --field pid")).expect_code(0).stdout.trim(), pid);
        assert_eq!(status(&lab)["pid"].to_string(), pid);
        client.finish_sending();
        assert_eq!(client.wait_exit().code(), Some(0));
    }
}
