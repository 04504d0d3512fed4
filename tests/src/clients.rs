//! Clients that others wrote, fetched by npm and pip.
//!
//! `tests/clients` names their exact versions and those of all they need. None of it is in the repository.

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::PathBuf;
use std::process::Command;

use crate::{environment, fetch};

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
        fetch::run(environment::without_settings(npm.arg(fresh)))
    })?;
    Ok(directory.join("node_modules"))
}

/// A Python with the packages of `tests/clients/requirements.txt`.
#[derive(Clone, Debug)]
pub struct Python {
    /// The interpreter.
    pub program: PathBuf,
    /// The packages, for `PYTHONPATH`.
    pub packages: PathBuf,
}

/// Returns the Python in `PATH` with the packages of `tests/clients/requirements.txt`.
///
/// # Errors
///
/// A sentence: no Python, no pip, no network, or no package for this Python.
pub fn python() -> Result<Python, String> {
    // Its name for the version is that of the compiled packages, too.
    let ask = "import sys; print(sys.executable, sys.implementation.cache_tag, sep='\\n')";
    let mut python = Command::new("python3");
    let answer = python.env_clear().env("PATH", environment::path()).args(["-c", ask]).output();
    let answer = answer.map_err(|error| format!("cannot run python3: {error}"))?;
    let said = String::from_utf8_lossy(&answer.stdout);
    let Some((program, tag)) = said.trim().split_once('\n') else {
        return Err(format!("python3 does not run: {}", String::from_utf8_lossy(&answer.stderr).trim()));
    };
    let name = format!("clients/{tag}-{}", digest(&[REQUIREMENTS]));
    let packages = fetch::fetched(name, |fresh| {
        let list = fresh.join("requirements.txt");
        fs::write(&list, REQUIREMENTS).map_err(|error| format!("cannot write the list: {error}"))?;
        let mut pip = Command::new(program);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"]);
        fetch::run(environment::without_settings(pip.arg(fresh).arg("-r").arg(list)))
    })?;
    Ok(Python { program: PathBuf::from(program), packages })
}

/// Returns a name for these texts: another list is fetched anew.
fn digest(texts: &[&str]) -> String {
    let mut hasher = DefaultHasher::new();
    texts.iter().for_each(|text| hasher.write(text.as_bytes()));
    format!("{:016x}", hasher.finish())
}
