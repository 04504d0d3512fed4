//! Commands with a session of their own: the upstream's end does not reach them, the daemon's does.

use codexd_tests::binary;
use codexd_tests::codex::Version;
use codexd_tests::daemon::TestDaemon;
use codexd_tests::wait;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::expect_end;

/// Returns whether something runs that is neither the daemon nor its upstream.
fn orphans(daemon: &TestDaemon) -> usize {
    let hold = format!("{} hold", binary::fake_codex().display());
    daemon.processes().iter().filter(|process| process.command == hold).count()
}

#[cfg(target_os = "linux")]
#[test]
fn what_detached_itself_ends_when_the_upstream_is_killed() {
    let mut daemon = TestDaemon::fake("").ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    client.turn(&thread, "[[orphan]][[orphan]][[orphan]]");
    assert_eq!(orphans(&daemon), 3);
    daemon.signal_upstream(Signal::SIGKILL);
    expect_end(&mut daemon, 1);
}

#[cfg(target_os = "linux")]
#[test]
fn what_detached_itself_ends_with_an_intended_stop() {
    let mut daemon = TestDaemon::fake("").ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    client.turn(&thread, "[[orphan]]");
    assert_eq!(orphans(&daemon), 1);
    assert_eq!(daemon.stop(), 0);
    expect_end(&mut daemon, 0);
}

#[cfg(target_os = "linux")]
#[test]
fn what_holds_the_output_of_a_killed_upstream_ends_too() {
    let mut daemon = TestDaemon::fake("").ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({}));
    client.start_turn(&thread, "[[orphan]][[hold-pipe:0]]");
    expect_end(&mut daemon, 1);
}

#[cfg(target_os = "linux")]
#[test]
fn commands_of_the_real_codex_end_when_it_is_killed() {
    let Some(builder) = TestDaemon::real(Version::Current) else { return };
    let mut daemon = builder.ready();
    let mut client = daemon.client("one");
    client.answer_approvals("accept");
    let thread = client.start_thread(json!({"cwd": daemon.home().project(), "approvalPolicy": "never"}));
    client.start_turn(&thread, "[[shell:setsid sleep 300 & sleep 301;;yield_time_ms=250]] go");
    let runs = |daemon: &TestDaemon, command: &str| daemon.processes().iter().any(|it| it.command == command);
    wait::until("the commands run", || runs(&daemon, "sleep 300") && runs(&daemon, "sleep 301"));
    daemon.signal_upstream(Signal::SIGKILL);
    expect_end(&mut daemon, 1);
}

#[test]
fn commands_of_the_real_codex_end_when_the_daemon_is_killed() {
    let Some(builder) = TestDaemon::real(Version::Current) else { return };
    let mut daemon = builder.ready();
    let mut client = daemon.client("one");
    let thread = client.start_thread(json!({"cwd": daemon.home().project(), "approvalPolicy": "never"}));
    client.start_turn(&thread, "[[shell:sleep 300;;yield_time_ms=250]] go");
    wait::until("the command runs", || daemon.processes().iter().any(|it| it.command == "sleep 300"));
    daemon.kill9();
    daemon.wait_exit();
    client.recv_to_end();
    daemon.assert_no_process_left();
}
