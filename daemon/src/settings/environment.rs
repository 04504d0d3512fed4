//! The process environment, read once, so that everything after it is a pure function of values.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The variables of the process as they were at the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    variables: BTreeMap<OsString, OsString>,
}

impl Environment {
    /// Reads the variables of this process.
    ///
    /// Where XDG_RUNTIME_DIR is not set, it is the directory that logind makes for the user, if that is there:
    /// over `ssh`, from cron and after `su`, the daemon is to be found that the user's sessions find.
    pub(crate) fn of_process() -> Environment {
        let mut variables: BTreeMap<OsString, OsString> =
            std::env::vars_os().filter(|(name, _)| is_read(name)).collect();
        if let Some(dir) = missing_runtime_dir() {
            variables.insert(RUNTIME_DIR.into(), dir.into());
        }
        Environment { variables }
    }

    /// Makes an environment of the given variables.
    #[cfg(test)]
    pub(crate) fn of<const N: usize>(pairs: [(&str, &str); N]) -> Environment {
        Environment {
            variables: pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        }
    }

    /// Returns the environment without some variables.
    #[must_use]
    pub(crate) fn without(mut self, names: &[&str]) -> Environment {
        self.variables.retain(|name, _| !names.iter().any(|gone| name == gone));
        self
    }

    /// Returns all variables that were kept, set and not empty.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&OsString, &OsString)> {
        self.variables.iter().filter(|(_, value)| !value.is_empty())
    }

    /// Returns the value of a variable that is set and not empty.
    pub(crate) fn value(&self, name: &str) -> Option<&OsString> {
        self.variables.get(std::ffi::OsStr::new(name)).filter(|value| !value.is_empty())
    }

    /// Returns the value as a path.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.value(name).map(PathBuf::from)
    }

    /// Returns the value as a path if it is absolute; the XDG base directory specification says that
    /// others are to be ignored.
    pub(crate) fn absolute_path(&self, name: &str) -> Option<PathBuf> {
        self.path(name).filter(|path| path.is_absolute())
    }
}

/// Gives a program that talks to the user's service manager the variable by which it finds it.
pub(crate) fn lend_runtime_dir(command: &mut Command) -> &mut Command {
    match missing_runtime_dir() {
        Some(dir) => command.env(RUNTIME_DIR, dir),
        None => command,
    }
}

const RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";

/// Returns the user's runtime directory where the variable for it is missing (`pam_systemd(8)`, `user@.service(5)`).
fn missing_runtime_dir() -> Option<PathBuf> {
    let is_set = std::env::var_os(RUNTIME_DIR).is_some_and(|value| !value.is_empty());
    if is_set || !cfg!(target_os = "linux") {
        return None;
    }
    let uid = nix::unistd::geteuid().as_raw();
    Some(PathBuf::from(format!("/run/user/{uid}"))).filter(|dir| is_private(dir, uid))
}

/// Returns whether a path is a directory that only this user can enter.
fn is_private(dir: &Path, uid: u32) -> bool {
    std::fs::symlink_metadata(dir)
        .is_ok_and(|found| found.is_dir() && found.uid() == uid && found.mode() & 0o077 == 0)
}

/// Returns whether a variable is one that is ever asked for; the others are not kept.
fn is_read(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        name.starts_with("CODEX")
            || name.starts_with("XDG_")
            || name.starts_with("OPENAI_")
            || name.to_ascii_uppercase().ends_with("_PROXY")
            || matches!(name, "HOME" | "PATH" | "TMPDIR" | "STATE_DIRECTORY" | "JOURNAL_STREAM")
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn only_a_directory_of_ones_own_that_is_closed_is_a_runtime_directory() {
        let root = crate::os::test_dir::test_dir();
        let (dir, link) = (root.path().join("dir"), root.path().join("link"));
        let uid = nix::unistd::geteuid().as_raw();
        assert!(!is_private(&dir, uid));
        std::fs::create_dir(&dir).unwrap();
        symlink(&dir, &link).unwrap();
        let mode = |mode| std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o700);
        assert!(is_private(&dir, uid));
        assert!(!is_private(&link, uid));
        assert!(!is_private(&dir, uid + 1));
        mode(0o710);
        assert!(!is_private(&dir, uid));
    }
}
