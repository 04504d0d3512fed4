//! Finds the programs under test beside the program that tests them.

use std::path::{Path, PathBuf};

/// Returns the `codexd` under test: that of `CODEXD_BIN` (for an installed package), else the one Cargo
/// built.
///
/// # Panics
///
/// When there is none.
#[track_caller]
pub fn codexd() -> PathBuf {
    match std::env::var_os("CODEXD_BIN") {
        Some(path) => PathBuf::from(path),
        None => beside("codexd"),
    }
}

/// Returns the stand-in for codex.
///
/// # Panics
///
/// When there is none.
#[track_caller]
pub fn fake_codex() -> PathBuf {
    beside("fake-codex")
}

/// Returns the MCP server for tests.
///
/// # Panics
///
/// When there is none.
#[track_caller]
pub fn mock_mcp() -> PathBuf {
    beside("mock-mcp")
}

/// Returns the demonstration.
///
/// # Panics
///
/// When there is none.
#[track_caller]
pub fn demo() -> PathBuf {
    beside("demo")
}

/// Test programs are in `target/PROFILE/deps`, programs in `target/PROFILE`.
#[track_caller]
fn beside(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the system knows the path of a running program");
    let found =
        own.ancestors().skip(1).take(2).map(|directory| directory.join(name)).find(|path| is_program(path));
    match found {
        Some(path) => path,
        None => panic!("`{name}` is not built: run `cargo build --workspace` with the same profile first"),
    }
}

fn is_program(path: &Path) -> bool {
    path.is_file()
}
