//! The process environment, read once, so that everything after it is a pure function of values.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

/// The variables of the process as they were at the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    variables: BTreeMap<OsString, OsString>,
}

impl Environment {
    /// Reads the variables of this process.
    pub(crate) fn of_process() -> Environment {
        Environment { variables: std::env::vars_os().filter(|(name, _)| is_read(name)).collect() }
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

/// Tells whether a variable is one that is ever asked for; the others are not kept.
fn is_read(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        name.starts_with("CODEX")
            || name.starts_with("XDG_")
            || name.starts_with("OPENAI_")
            || name.to_ascii_uppercase().ends_with("_PROXY")
            || matches!(name, "HOME" | "PATH" | "TMPDIR" | "STATE_DIRECTORY" | "JOURNAL_STREAM")
    })
}
