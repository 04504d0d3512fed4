//! The tests do not depend on the environment in which they run: a few of them run in odd ones.
//!
//! `tests/odd-environment` makes these, for the whole suite as well.

use std::path::Path;
use std::process::{Command, Stdio};

use codexd_tests::skip;

/// Tests that depended on something once, or would be the first to: signals and commands, starts and sockets,
/// modes of files, a terminal, another user, the real codex.
const TESTS: [&str; 7] = [
    "connect::the_first_client_starts_the_daemon_and_the_next_one_shares_it",
    "fake_codex::it_ends_as_the_script_says",
    "http::curl_is_answered",
    "ownership::sockets_are_private_and_in_a_private_directory",
    "real::a_change_is_shown_from_the_project_on",
    "tui::the_terminal_interface_notices_the_end_of_the_daemon",
    "units::sandbox::a_daemon_that_cannot_be_reached_is_not_called_absent::as_an_ordinary_user",
];

/// Runs [`TESTS`] in these environments, put together.
#[track_caller]
fn hold_in(environments: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("odd-environment");
    let own = std::env::current_exe().unwrap();
    let mut command = Command::new(script);
    command.args(environments).arg("--").arg(own).args(["--test-threads=2", "--exact"]).args(TESTS);
    // No deadline: each of the tests has its own.
    let output = command.stdin(Stdio::null()).output().unwrap();
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    if output.status.code() == Some(77) {
        return skip::say(&stderr);
    }
    assert!(output.status.success(), "in {environments:?}: {}\n{stdout}{stderr}", output.status);
    let passed = format!("{} passed; 0 failed;", TESTS.len());
    assert!(stdout.contains(&passed) || environments.contains(&"no-stdout"), "{stdout}{stderr}");
}

#[test]
fn ignored_signals_a_closed_mask_and_a_repository_around_them_do_not_matter() {
    hold_in(&["signals", "umask-077", "tmp-git", "locale-tr", "no-stdin"]);
}

#[test]
fn an_open_mask_a_long_directory_and_strange_variables_do_not_matter() {
    hold_in(&["umask-000", "tmp-long", "locale-c", "no-home", "rust-variables", "variables", "path"]);
}

#[test]
fn a_space_in_the_directory_and_a_closed_output_do_not_matter() {
    hold_in(&["tmp-space", "no-stdout"]);
}

#[test]
fn the_user_does_not_matter() {
    hold_in(&["nobody"]);
}
