//! What goes on after each kind of end: every way to the daemon, everything that can be open, both who start daemons, with
//! the real codex.
//!
//! Each cell of the [table](table): one end for each turn, one answer for each request, the next prompt answered once the
//! next daemon is there, the same permissions (proved by a file written inside and one refused outside), one daemon and one
//! codex, no process left. By default a selection runs that has every pair of a death and anything else;
//! `CODEXD_MATRIX=all` runs all cells, and `CODEXD_MATRIX=Sdk,Systemd` those with these words in their names. Each cell
//! says its name on stderr.

mod place;
mod scenes;
mod sdk;
mod table;
mod terminal;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use codexd_tests::skip;

use self::place::Place;
use self::table::{Cell, Manager, Way};

/// Runs the chosen cells of one way, all of them whatever fails.
fn run(way: Way) {
    let mut failed = Vec::new();
    for cell in table::chosen().into_iter().filter(|cell| cell.way == way) {
        eprintln!("cell: {cell}");
        let run = || match way {
            Way::Terminal => terminal::run(cell),
            _ => scenes::run(cell),
        };
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            eprintln!("failed: {cell}");
            failed.push(cell.to_string());
        }
    }
    assert!(failed.is_empty(), "{} cells failed: {failed:#?}", failed.len());
}

#[test]
fn what_is_open_goes_on_over_lines() {
    run(Way::Lines);
}

#[test]
fn what_is_open_goes_on_over_websocket() {
    run(Way::WebSocket);
}

#[test]
fn what_is_open_goes_on_through_connect() {
    run(Way::Connect);
}

#[test]
fn what_is_open_goes_on_with_the_python_sdk() {
    run(Way::Sdk);
}

#[test]
fn what_is_open_goes_on_in_the_dialect_of_the_plugin() {
    run(Way::Plugin);
}

#[test]
fn what_is_open_goes_on_in_the_terminal_interface() {
    run(Way::Terminal);
}

/// A prompt with a command that writes a file in the project and one outside of it.
fn probe(name: &str) -> String {
    format!("[[shell:echo x > {name}; echo x > ../outside/{name}]] probe {name}")
}

/// Which of the files of a probe are there.
fn written(place: &Place, name: &str) -> (bool, bool) {
    (place.project().join(name).exists(), place.root().join("outside").join(name).exists())
}

/// Checks what a probe wrote. The first one of a process decides whether the sandbox works here: where it does not, there is
/// nothing to prove.
#[track_caller]
fn check_probe(cell: Cell, place: &Place, name: &str, first: bool) {
    static WORKS: [OnceLock<bool>; 2] = [const { OnceLock::new() }; 2];
    let works = &WORKS[usize::from(cell.manager == Manager::Systemd)];
    let wrote = written(place, name);
    if first {
        works.get_or_init(|| {
            if wrote != (true, false) {
                skip::say(&format!(
                    "the sandbox of codex does not work here ({:?}): {wrote:?}",
                    cell.manager
                ));
            }
            wrote == (true, false)
        });
    }
    if works.get() != Some(&false) {
        assert_eq!(wrote, (true, false), "{cell}: what a command wrote in the project and outside");
    }
}
