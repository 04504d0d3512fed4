//! What is in the way of a start and is no reason to wait: FIFOs and devices in place of files, programs that this
//! machine cannot run, and what a daemon that was aborted has left.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use codexd_tests::binary;
use codexd_tests::client::TestClient;
use codexd_tests::daemon::TestDaemon;
use codexd_tests::home::Home;
use codexd_tests::output::Output;
use codexd_tests::process;
use codexd_tests::wait;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use serde_json::json;

use crate::support::{Started, expect_end, status};

fn fifo(path: &Path) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    nix::unistd::mkfifo(path, Mode::S_IRWXU).unwrap();
}

/// One that never ends.
fn device(path: &Path) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    symlink("/dev/zero", path).unwrap();
}

/// Puts something at a path.
type Make = fn(&Path);

const KINDS: [(&str, Make); 2] = [("a FIFO", fifo), ("a device", device)];

fn codexd(home: &Home, arguments: &[&str]) -> Command {
    let mut command = home.command(&binary::codexd());
    command.args(arguments).env("CODEXD_CODEX", binary::fake_codex()).env("CODEXD_INSTANCE", "x");
    command
}

/// Checks that nothing that only looks waits for what is at `path`.
fn looks(home: &Home) {
    let _ = Output::of(&mut codexd(home, &["ctl", "status"]));
    let _ = Output::of(&mut codexd(home, &["ctl", "wait", "stopped"]));
    let _ = Output::of(&mut codexd(home, &["connect", "--no-spawn"])).expect_code(69);
}

#[test]
fn what_is_in_place_of_the_record_exits_73_and_is_named() {
    for (kind, make) in KINDS {
        for name in ["x.json", "x.json.new"] {
            let home = Home::new().unwrap();
            let path = home.state().join("codexd").join(name);
            make(&path);
            let output = Output::of(&mut codexd(&home, &["serve"])).expect_code(73);
            assert!(output.stderr.contains(&format!("`{}`", path.display())), "{output}");
            assert!(output.stderr.contains(&format!("it is {kind} and not a regular file")), "{output}");
            assert!(output.stderr.contains("hint: move "), "{output}");
            looks(&home);
            assert!(std::fs::symlink_metadata(&path).is_ok(), "it is still there");
            let doctor = Output::of(&mut codexd(&home, &["doctor"]));
            assert_eq!(doctor.stdout.contains("FAIL  record"), name == "x.json", "{doctor}");
            process::assert_no_process_left(home.root());
        }
    }
}

#[test]
fn what_is_in_place_of_the_configuration_exits_78_and_is_named() {
    for (kind, make) in KINDS {
        let home = Home::new().unwrap();
        let path = home.config().join("codexd/config.toml");
        make(&path);
        let named = home.root().join("named.toml");
        make(&named);
        for (path, flags) in [(&path, vec![]), (&named, vec!["--config", named.to_str().unwrap()])] {
            let output =
                Output::of(&mut codexd(&home, &[&["serve"], flags.as_slice()].concat())).expect_code(78);
            assert!(output.stderr.contains(&format!("`{}`", path.display())), "{output}");
            assert!(output.stderr.contains(&format!("it is {kind} and not a regular file")), "{output}");
        }
        let _ = Output::of(&mut codexd(&home, &["ctl", "status"])).expect_code(3);
        let _ = Output::of(&mut codexd(&home, &["connect"])).expect_code(78);
        let doctor = Output::of(&mut codexd(&home, &["doctor"])).expect_code(1);
        assert!(doctor.stdout.contains(kind), "{doctor}");
    }
}

#[test]
fn what_is_in_place_of_the_log_is_named_and_no_client_waits_for_it() {
    for (kind, make) in KINDS {
        let home = Home::new().unwrap();
        let path = home.state().join("codexd/x.log");
        make(&path);
        let output = Output::of(&mut codexd(&home, &["connect", "--no-direct"])).expect_code(69);
        assert!(output.stderr.contains(&format!("cannot write the log `{}`", path.display())), "{output}");
        assert!(output.stderr.contains(&format!("it is {kind} and not a regular file")), "{output}");
        let doctor = Output::of(&mut codexd(&home, &["doctor"])).expect_code(1);
        assert!(doctor.stdout.contains("FAIL  log"), "{doctor}");
        process::assert_no_process_left(home.root());
    }
}

#[test]
fn what_is_in_place_of_a_lock_exits_73_and_nobody_waits_for_it() {
    for name in ["x.lock", "x.start"] {
        let home = Home::new().unwrap();
        let path = home.runtime().join("codexd").join(name);
        fifo(&path);
        std::fs::set_permissions(path.parent().unwrap(), std::fs::Permissions::from_mode(0o700)).unwrap();
        if name == "x.lock" {
            let output = Output::of(&mut codexd(&home, &["serve"])).expect_code(73);
            assert!(output.stderr.contains(&format!("cannot lock `{}`", path.display())), "{output}");
        } else {
            let output = Output::of(&mut codexd(&home, &["connect", "--no-direct"])).expect_code(69);
            assert!(output.stderr.contains(&format!("cannot lock `{}`", path.display())), "{output}");
        }
        looks(&home);
    }
}

#[test]
fn a_configuration_that_becomes_a_fifo_does_not_stop_a_daemon_that_reads_it_again() {
    let mut daemon = TestDaemon::fake("[[strict]]").config("").ready();
    let path = daemon.home().config().join("codexd/config.toml");
    std::fs::remove_file(&path).unwrap();
    fifo(&path);
    let output = daemon.ctl(&["reload"]).expect_code(1);
    assert!(output.stderr.contains("a FIFO"), "{output}");
    daemon.signal(Signal::SIGHUP);
    daemon.client("one").recv_to_barrier();
    assert_eq!(status(&daemon)["warnings"][0]["code"], "settingsNotReloaded");
    assert_eq!(daemon.stop(), 0);
    expect_end(&mut daemon, 0);
}

/// Writes a program made of these bytes.
fn program(home: &Home, bytes: &[u8]) -> PathBuf {
    let path = home.root().join("program");
    std::fs::write(&path, bytes).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[cfg(target_os = "linux")]
#[test]
fn a_codex_that_this_machine_cannot_run_exits_69() {
    let own = std::fs::read(binary::fake_codex()).unwrap();
    let other =
        if cfg!(target_arch = "x86_64") { (183_u16, "Linux on aarch64") } else { (62, "Linux on x86_64") };
    // `e_machine` of elf(5).
    let mut foreign = own.clone();
    foreign[18..20].copy_from_slice(&other.0.to_ne_bytes());
    let macho = [0xfeed_facf_u32.to_le_bytes(), 0x0100_000c_u32.to_le_bytes(), [0; 4]].concat();
    for (name, bytes, says) in [
        ("foreign", &foreign[..], other.1),
        ("of macOS", &macho, "macOS on aarch64"),
        ("torn", &own[..40], "Exec format error"),
        ("garbage", b"\x00\x01\x02", "no program of this system"),
        ("no interpreter", b"#!/nowhere/sh\n", "interpreter is missing"),
    ] {
        let home = Home::new().unwrap();
        let codex = program(&home, bytes);
        let mut daemon = TestDaemon::program(&codex).home(home).start();
        assert_eq!(daemon.wait_exit().code(), Some(69), "{name}: {}", daemon.stderr());
        assert!(daemon.stderr().contains(says), "{name}: {}", daemon.stderr());
        assert!(daemon.stderr().contains("hint: "), "{name}: {}", daemon.stderr());
        assert_eq!(status(&daemon)["lastExit"]["code"], 69, "{name}");
        let output = daemon.run(&["connect"]).expect_code(69);
        assert!(output.stderr.contains("cannot "), "{output}");
        daemon.assert_no_process_left();
    }
}

/// Starts the next daemon in the world of one that has ended, and checks that it serves.
fn next_serves(daemon: &TestDaemon) {
    let mut command = daemon.command(&["serve"]);
    let mut next = Started::of(command.stderr(Stdio::null()));
    let _ = daemon.ctl(&["wait", "ready"]).expect_code(0);
    let mut client = TestClient::connect("next", &daemon.socket());
    client.initialize();
    let thread = client.start_thread(json!({}));
    assert_eq!(client.turn(&thread, "hello").status, "completed");
    drop(client);
    next.terminate();
    assert_eq!(next.exit_code(), Some(0));
}

#[test]
fn what_a_daemon_leaves_that_a_signal_ends_is_replaced_by_the_next() {
    for signal in [Signal::SIGABRT, Signal::SIGKILL, Signal::SIGSEGV, Signal::SIGXCPU] {
        let mut daemon = TestDaemon::fake("").ready();
        let mut client = daemon.client("one");
        // The first one makes the standard library check for a stack overflow; it restores the default action then.
        wait::until("it has ended", || {
            daemon.signal(signal);
            daemon.exit_within(std::time::Duration::from_millis(20)).is_some()
        });
        assert_eq!(daemon.wait_exit().code(), None, "{signal}");
        client.recv_to_end();
        assert!(daemon.socket().exists() && daemon.control_socket().exists(), "{signal}");
        next_serves(&daemon);
        daemon.assert_no_process_left();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn what_a_daemon_leaves_that_ran_out_of_memory_is_replaced_by_the_next() {
    let home = Home::new().unwrap();
    let script =
        format!("#!/bin/sh\nulimit -c 0; ulimit -v 150000\nexec '{}' \"$@\"\n", binary::codexd().display());
    let starter = home.root().join("start");
    std::fs::write(&starter, script).unwrap();
    std::fs::set_permissions(&starter, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut daemon = TestDaemon::fake("").home(home).codexd(&starter).start().wait_ready();
    let mut client = daemon.client("one");
    // A message that it may have by its settings, and by the limit may not.
    let line = [br#"{"id":1,"method":"x","params":""#.as_slice(), &vec![b'a'; 120_000_000]].concat();
    let _ = client.send_bytes(&line);
    let status = daemon.wait_exit();
    use std::os::unix::process::ExitStatusExt as _;
    assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{status}: {}", daemon.stderr());
    assert!(daemon.socket().exists() && daemon.control_socket().exists());
    let mut next = Started::of(unlimited(&daemon, &["serve"]).stderr(Stdio::null()));
    let _ = Output::of(&mut unlimited(&daemon, &["ctl", "wait", "ready"])).expect_code(0);
    TestClient::connect("next", &daemon.socket()).initialize();
    next.terminate();
    assert_eq!(next.exit_code(), Some(0));
    daemon.assert_no_process_left();
}

/// Returns a command line in the world of a daemon that was started with limits, without them.
#[cfg(target_os = "linux")]
fn unlimited(daemon: &TestDaemon, arguments: &[&str]) -> Command {
    let like = daemon.command(&[]);
    let mut command = daemon.home().command(&binary::codexd());
    command.args(arguments).envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}
