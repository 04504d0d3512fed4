//! The shim: codexd as `codex` in PATH, before the real one.
//!
//! It is a symbolic link, so that an update of codexd needs no second installation, and a codexd that is gone leaves
//! nothing that could be run in place of codex. Where links were made is kept in the state directory (`shims`), one
//! path a line: `uninstall` removes these and no others.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use codexd_proto::exit::ExitCode;

use super::step::{Link, Step};
use super::{carry_out, own_program, say};
use crate::cli::{ServeArgs, ShimArgs};
use crate::commands::shim::{self, NAME, Standing};
use crate::error::Error;
use crate::os::{plain_file, private_dir};
use crate::settings::Settings;
use crate::settings::environment::Environment;
use crate::settings::paths;

/// Directories for programs of one user, below the home directory, in the order of preference.
const USER_DIRS: [&str; 2] = [".local/bin", "bin"];

/// Installs the shim.
///
/// # Errors
///
/// With exit code 69 when there is no real codex, 73 when something else is in the way.
pub(super) fn install(args: &ShimArgs, dry_run: bool, environment: &Environment) -> Result<ExitCode, Error> {
    let real = shim::real(environment)?;
    let real = real.requested.unwrap_or(real.executable);
    let path = match &args.shim_dir {
        Some(dir) => paths::absolute(dir)?,
        None => choose(environment)?,
    }
    .join(NAME);
    let record = ShimRecord::open(environment)?;
    let mut all = record.entries();
    if !all.contains(&path) {
        all.push(path.clone());
    }
    let steps = [Step::Link { path: path.clone(), target: own_program(environment)? }, record.keeping(&all)?];
    if !dry_run {
        record.make_room()?;
    }
    carry_out(&steps, dry_run)?;
    if dry_run {
        return Ok(ExitCode::Stopped);
    }
    say(&format!(
        "`{}` is codexd for `app-server` and `{}` for everything else",
        path.display(),
        real.display()
    ))?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    match shim::standing(search_path(environment)) {
        Standing::First(first) if first == path => {
            say("note: a shell that has run codex before remembers where; `hash -r` makes it look again")?;
        }
        Standing::First(first) => {
            say(&format!("note: `{}` comes before it in PATH, and does the same", first.display()))?
        }
        Standing::Behind { first, .. } | Standing::Absent(Some(first)) => say(&format!(
            "note: `{}` comes before it in PATH; put this into your shell's profile: {}",
            first.display(),
            export(dir)
        ))?,
        Standing::Absent(None) => {
            say(&format!("note: it is not in PATH; put this into your shell's profile: {}", export(dir)))?;
        }
    }
    Ok(ExitCode::Stopped)
}

/// Takes the shim away.
///
/// # Errors
///
/// When a link cannot be removed.
pub(super) fn uninstall(
    args: &ShimArgs,
    dry_run: bool,
    environment: &Environment,
) -> Result<ExitCode, Error> {
    let record = ShimRecord::open(environment)?;
    let all = record.entries();
    let named = args.shim_dir.as_deref().map(paths::absolute).transpose()?.map(|dir| dir.join(NAME));
    let (gone, kept): (Vec<PathBuf>, Vec<PathBuf>) =
        all.into_iter().partition(|path| named.as_ref().is_none_or(|named| named == path));
    // A link that was named is removed even if the list of links was lost.
    let gone = if gone.is_empty() { named.into_iter().collect() } else { gone };
    if gone.is_empty() {
        say("no shim is installed")?;
    }
    let mut steps: Vec<Step> = gone.into_iter().map(|path| Step::Unlink { path }).collect();
    steps.push(record.keeping(&kept)?);
    carry_out(&steps, dry_run)?;
    Ok(ExitCode::Stopped)
}

/// Returns the line that puts a directory first in PATH.
pub(crate) fn export(dir: &Path) -> String {
    format!("export PATH=\"{}:$PATH\"", dir.display())
}

/// Returns where shims were installed that are still there.
pub(crate) fn installed(environment: &Environment) -> Vec<PathBuf> {
    let entries = ShimRecord::open(environment).map(|record| record.entries()).unwrap_or_default();
    entries.into_iter().filter(|path| matches!(Link::at(path), Link::ToCodexd(_))).collect()
}

fn search_path(environment: &Environment) -> Option<&OsStr> {
    environment.value("PATH").map(|path| path.as_os_str())
}

/// Picks the directory: one of the user's that comes before the real codex in PATH if there is one, else the first
/// in which no other program of this name lies.
fn choose(environment: &Environment) -> Result<PathBuf, Error> {
    let home = paths::home(environment).ok_or_else(|| {
        Error::config("HOME is not set").hint("set HOME, or name a directory with `--shim-dir`")
    })?;
    let free: Vec<PathBuf> = USER_DIRS
        .iter()
        .map(|dir| home.join(dir))
        .filter(|dir| !matches!(Link::at(&dir.join(NAME)), Link::Other))
        .collect();
    let in_path: Vec<PathBuf> = std::env::split_paths(search_path(environment).unwrap_or_default()).collect();
    let real = in_path.iter().position(|dir| matches!(Link::at(&dir.join(NAME)), Link::Other));
    let before = &in_path[..real.unwrap_or(in_path.len())];
    free.iter().find(|dir| before.contains(dir)).or(free.first()).cloned().ok_or_else(|| {
        Error::new(
            ExitCode::CannotCreate,
            format!("there is a `{NAME}` in `{}` that is not codexd's", home.join(USER_DIRS[0]).display()),
        )
        .hint("name a directory with `--shim-dir` that comes before that one in PATH")
    })
}

/// The file that lists the links that were made.
struct ShimRecord {
    path: PathBuf,
}

impl ShimRecord {
    fn open(environment: &Environment) -> Result<ShimRecord, Error> {
        // What stands in a configuration file, and whether it is in order, makes no difference.
        let settings = Settings::load_without_file(&ServeArgs::default(), environment)?;
        Ok(ShimRecord { path: settings.paths.state_dir.join("shims") })
    }

    /// Makes its directory, closed to others as the daemon makes it.
    fn make_room(&self) -> Result<(), Error> {
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        private_dir::ensure_state(dir).map_err(|error| {
            Error::new(ExitCode::CannotCreate, format!("cannot create the directory `{}`", dir.display()))
                .because(error)
        })
    }

    fn entries(&self) -> Vec<PathBuf> {
        let bytes = plain_file::read(&self.path).unwrap_or_default();
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| PathBuf::from(OsStr::from_bytes(line))).collect()
    }

    /// Returns the step after which these are in it.
    fn keeping(&self, entries: &[PathBuf]) -> Result<Step, Error> {
        if entries.is_empty() {
            return Ok(Step::Remove { path: self.path.clone() });
        }
        let mut contents = String::new();
        for path in entries {
            let text = path.to_str().filter(|text| !text.chars().any(char::is_control));
            let text = text.ok_or_else(|| {
                Error::config(format!("`{}` has a character that cannot be kept", path.display()))
                    .hint("name another directory with `--shim-dir`")
            })?;
            contents.push_str(text);
            contents.push('\n');
        }
        Ok(Step::Write { path: self.path.clone(), contents })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_before_the_real_codex_is_preferred_and_none_with_another_one_taken() {
        let dir = crate::os::test_dir::test_dir();
        let path = |name: &str| dir.path().join(name);
        let home = path("home");
        for name in ["home/.local/bin", "home/bin", "usr"] {
            std::fs::create_dir_all(path(name)).unwrap();
        }
        std::fs::write(path("usr/codex"), "").unwrap();
        let chosen = |dirs: &[&str]| {
            let search = std::env::join_paths(dirs.iter().map(|name| path(name))).unwrap();
            let pairs = [("HOME", home.to_str().unwrap()), ("PATH", search.to_str().unwrap())];
            choose(&Environment::of(pairs)).map(|dir| dir.strip_prefix(&home).unwrap().display().to_string())
        };
        assert_eq!(chosen(&["home/bin", "home/.local/bin", "usr"]).unwrap(), ".local/bin");
        assert_eq!(chosen(&["home/bin", "usr", "home/.local/bin"]).unwrap(), "bin");
        assert_eq!(chosen(&["usr"]).unwrap(), ".local/bin");
        std::fs::write(home.join(".local/bin/codex"), "").unwrap();
        assert_eq!(chosen(&["home/.local/bin", "home/bin"]).unwrap(), "bin");
        std::fs::write(home.join("bin/codex"), "").unwrap();
        let error = chosen(&["usr"]).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::CannotCreate);
        assert!(error.next_step().unwrap().contains("--shim-dir"));
    }
}
