//! What of the environment in which the tests run is passed on to what they start: the directories of `PATH` that
//! mean the same everywhere, and where a temporary world can be made.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns `PATH` without what depends on the working directory: programs run in another one.
pub fn path() -> OsString {
    path_after([])
}

/// Returns [`path`] with these directories in front.
pub fn path_after(first: impl IntoIterator<Item = PathBuf>) -> OsString {
    let all = std::env::var_os("PATH").unwrap_or_default();
    let absolute = std::env::split_paths(&all).filter(|directory| directory.is_absolute());
    std::env::join_paths(first.into_iter().chain(absolute)).expect("they come from PATH, or have no colon")
}

/// Makes a command see no setting of Python, Node and git that is meant for other programs. Variables that define
/// where and how to fetch packages stays.
pub(crate) fn without_settings(command: &mut Command) -> &mut Command {
    for name in ["PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "NODE_OPTIONS", "NODE_PATH", "GIT_DIR"] {
        command.env_remove(name);
    }
    command.env("PATH", path())
}

/// Returns the canonical path of the directory for temporary files: that of the system if it is `fit`, else another
/// usual one.
///
/// # Errors
///
/// When there is none.
pub(crate) fn temporary_directory(fit: impl Fn(&Path) -> bool) -> io::Result<PathBuf> {
    let usual = [std::env::temp_dir(), PathBuf::from("/tmp"), PathBuf::from("/var/tmp")];
    let mut found = usual.iter().map(|directory| directory.canonicalize());
    let fitting = found.find_map(|path| path.ok().filter(|path| fit(path)));
    fitting.ok_or_else(|| io::Error::other(format!("none of {usual:?} is there and fit for tests")))
}

/// Whether a path stands for itself in a unit file and in a line for the shell.
pub(crate) fn is_plain(path: &Path) -> bool {
    path.as_os_str()
        .as_encoded_bytes()
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(byte))
}

/// Whether the longest path of a socket that a test makes has at most 103 bytes below this directory, see `unix(7)`
/// and `sun_path` in `<sys/un.h>` of macOS: `/codexd-tXXXXXX/run/codexd/INSTANCE-SETTINGS.ctl.sock`, with two times
/// eight digits.
pub(crate) fn is_short(directory: &Path) -> bool {
    const LONGEST: &str = "/codexd-tXXXXXX/run/codexd/01234567-01234567.ctl.sock";
    directory.as_os_str().len() + LONGEST.len() <= 103
}
