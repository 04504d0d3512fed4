//! Clients that others wrote, fetched by npm and pip.
//!
//! `tests/clients` names their exact versions and those of all they need. None of it is in the repository.

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::PathBuf;
use std::process::Command;

use crate::{fetch, output::Output};

/// For npm.
const PACKAGES: &str = include_str!("../clients/package.json");
const LOCK: &str = include_str!("../clients/package-lock.json");
/// For pip.
const REQUIREMENTS: &str = include_str!("../clients/requirements.txt");

/// Returns the `node_modules` directory with the packages of `tests/clients/package.json`, without the native codex
/// that one of them brings along.
///
/// # Errors
///
/// A sentence: no npm, no Node or no network.
pub fn node_modules() -> Result<PathBuf, String> {
    let name = format!("clients/npm-{}", digest(&[PACKAGES, LOCK]));
    let directory = fetch::fetched(name, |fresh| {
        for (name, text) in [("package.json", PACKAGES), ("package-lock.json", LOCK)] {
            fs::write(fresh.join(name), text).map_err(|error| format!("cannot write {name}: {error}"))?;
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"]);
        fetch::run(npm.arg(fresh))
    })?;
    Ok(directory.join("node_modules"))
}

/// Returns the directory with the packages of `tests/clients/requirements.txt`, for `PYTHONPATH`.
///
/// # Errors
///
/// A sentence: no Python, no pip, no network, or no package for this Python.
pub fn site_packages() -> Result<PathBuf, String> {
    let tag = "import sys; sys.stdout.write(sys.implementation.cache_tag)";
    let mut python = Command::new("python3");
    if let Err(error) = python.arg("--version").output() {
        return Err(format!("cannot run python3: {error}"));
    }
    let version = Output::of(Command::new("python3").args(["-c", tag])).stdout;
    let name = format!("clients/{version}-{}", digest(&[REQUIREMENTS]));
    fetch::fetched(name, |fresh| {
        let list = fresh.join("requirements.txt");
        fs::write(&list, REQUIREMENTS).map_err(|error| format!("cannot write the list: {error}"))?;
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"]);
        fetch::run(pip.arg(fresh).arg("-r").arg(list))
    })
}

/// Returns a name for these texts: another list is fetched anew.
fn digest(texts: &[&str]) -> String {
    let mut hasher = DefaultHasher::new();
    texts.iter().for_each(|text| hasher.write(text.as_bytes()));
    format!("{:016x}", hasher.finish())
}
