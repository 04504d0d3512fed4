//! Fetches what the tests need from package registries, each thing once, into the target directory.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{Flock, FlockArg};

/// Returns the directory `name` below Cargo's target directory, which `install` fills when it is missing.
///
/// # Errors
///
/// A sentence: no target directory, one that cannot be written, or the error of `install`.
pub(crate) fn fetched(
    name: impl AsRef<Path>,
    install: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    let directory = target_dir()?.join(name);
    if directory.is_dir() {
        return Ok(directory);
    }
    let base = directory.parent().ok_or("the name is empty")?;
    fs::create_dir_all(base).map_err(|error| format!("cannot create `{}`: {error}", base.display()))?;
    let lock_path = directory.with_added_extension("lock");
    let _lock =
        lock(&lock_path).map_err(|error| format!("cannot lock `{}`: {error}", lock_path.display()))?;
    // Another test process may have been faster.
    if !directory.is_dir() {
        // Beside it and renamed, so that a directory of the final name is complete.
        let fresh = tempfile::Builder::new()
            .prefix("fetching-")
            .tempdir_in(base)
            .map_err(|error| format!("cannot create a directory in `{}`: {error}", base.display()))?;
        install(fresh.path())?;
        fs::rename(fresh.path(), &directory).map_err(|error| {
            format!("cannot rename what was fetched to `{}`: {error}", directory.display())
        })?;
    }
    Ok(directory)
}

/// Runs an installer to its end, with the environment of the tests.
///
/// # Errors
///
/// A sentence with what it wrote to stderr.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| format!("cannot run {program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{program} failed: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// Returns Cargo's target directory: the one this program was built into.
///
/// # Errors
///
/// When this program was moved elsewhere.
pub fn target_dir() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| format!("cannot find the own program: {error}"))?;
    // target/PROFILE/demo or target/PROFILE/deps/test, perhaps with a platform between. Cargo keeps the first
    // file in the root of each, and puts the second there if it has made the directory itself.
    own.ancestors()
        .find(|directory| {
            [".rustc_info.json", "CACHEDIR.TAG"].iter().any(|name| directory.join(name).is_file())
        })
        .map(Path::to_owned)
        .ok_or_else(|| format!("`{}` is not in a target directory of Cargo", own.display()))
}

/// Takes the lock that lets only one of several test processes fetch.
pub(crate) fn lock(path: &Path) -> io::Result<Flock<File>> {
    let file = File::options().create(true).append(true).open(path)?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}
