//! Finds the commit that codexd is built from, for `codexd --version`.
//!
//! From CODEXD_COMMIT, which a packager can set; else from the file that Cargo puts into a crate's archive; else from
//! git, where this directory is part of a checkout. Where none of them names a commit, the version has none.
//!
//! Cargo runs this again when one of these changes, and only then: a path that is not there would make it run at
//! every build.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Hexadecimal digits of a commit that are shown.
const SHOWN: usize = 10;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CODEXD_COMMIT");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let directory = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let commit = given(&variable("CODEXD_COMMIT"))
        .or_else(|| packaged(&directory))
        .or_else(|| checked_out(&directory));
    let version = variable("CARGO_PKG_VERSION");
    let shown = match &commit {
        Some(commit) => format!("{version} ({commit})"),
        None => version,
    };
    println!("cargo::rustc-env=CODEXD_BUILD_VERSION={shown}");
    println!("cargo::rustc-env=CODEXD_BUILD_COMMIT={}", commit.unwrap_or_default());
}

/// The commit that the packager names, if it fits into one line.
fn given(text: &str) -> Option<String> {
    let text = text.trim();
    let fits = !text.is_empty() && text.len() <= 64 && text.chars().all(|c| c.is_ascii_graphic());
    if !fits && !text.is_empty() {
        println!("cargo::warning=CODEXD_COMMIT is not used: it is no single word of up to 64 characters");
    }
    fits.then(|| short(text))
}

/// What Cargo has written into the archive of the crate (`cargo package`).
fn packaged(directory: &Path) -> Option<String> {
    let path = directory.join(".cargo_vcs_info.json");
    let text = std::fs::read_to_string(&path).ok()?;
    println!("cargo::rerun-if-changed={}", path.display());
    let (_, rest) = text.split_once("\"sha1\"")?;
    let commit = rest.split('"').nth(1)?;
    commit.chars().all(|c| c.is_ascii_hexdigit()).then(|| short(commit))
}

fn checked_out(directory: &Path) -> Option<String> {
    // A repository that only happens to be around this directory does not know its files.
    git(directory, &["ls-files", "--error-unmatch", "Cargo.toml"])?;
    let commit = git(directory, &["rev-parse", "HEAD"])?;
    // The log of HEAD grows with every commit, checkout and reset; HEAD itself names a branch for most of them.
    for file in ["HEAD", "logs/HEAD"] {
        let path = directory.join(git(directory, &["rev-parse", "--git-path", file])?);
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    Some(short(&commit))
}

/// Returns what git prints; `None` where it fails or is not there.
fn git(directory: &Path, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("git");
    // Set by git for its hooks, they would lead to another repository.
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        command.env_remove(name);
    }
    let output = command.arg("-C").arg(directory).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Shortens the name of a commit; anything else stays as it is.
fn short(commit: &str) -> String {
    match commit.len() == 40 && commit.chars().all(|c| c.is_ascii_hexdigit()) {
        true => commit[..SHOWN].to_owned(),
        false => commit.to_owned(),
    }
}
