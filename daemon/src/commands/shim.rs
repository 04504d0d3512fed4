//! codexd under the name `codex`: `app-server` is codexd's, everything else the real codex's.
//!
//! `codexd install --shim` puts a symbolic link of this name first in PATH, for programs that have the name `codex`
//! built in. What is not a plain `app-server` becomes the real codex by `exec`: the same process with the same
//! arguments, files, signals and environment, but for the [count](crate::instance::life::DEPTH) that ends a chain of
//! programs that run each other.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use codexd_proto::exit::ExitCode as Code;

use super::connect;
use crate::cli::{ConnectArgs, ServeArgs};
use crate::error::Error;
use crate::instance::life;
use crate::os::signals;
use crate::os::unsafe_calls::{Image, become_program};
use crate::serve::upstream::identity::is_codexd;
use crate::serve::upstream::{Program, locate, nested};
use crate::settings::Settings;
use crate::settings::codex_flags;
use crate::settings::environment::Environment;

/// The name by which codexd is a shim.
pub(crate) const NAME: &str = "codex";

/// Returns whether this process was started by the name of codex; `arguments` are all of its command line.
pub(crate) fn is_called(arguments: &[OsString]) -> bool {
    arguments.first().is_some_and(|name| Path::new(name).file_name() == Some(OsStr::new(NAME)))
}

/// Is codex: serves `app-server`, and becomes the real one for everything else.
///
/// # Errors
///
/// With exit code 69 when there is no real codex to become, and those of `codexd connect`.
pub(crate) fn run(arguments: &[OsString], environment: &Environment) -> Result<ExitCode, Error> {
    match daemons(arguments) {
        Some(rest) => {
            signals::release();
            connect::app_server(&ConnectArgs::default(), &rest, environment)
        }
        None => Err(become_real(arguments, environment)),
    }
}

/// Returns the arguments of `app-server` if a daemon can serve them.
fn daemons(arguments: &[OsString]) -> Option<Vec<String>> {
    let rest = codex_flags::app_server(arguments.get(1..)?)?;
    let rest: Vec<String> = rest.into_iter().map(|word| word.into_string().ok()).collect::<Option<_>>()?;
    connect::is_for_daemon(&rest).then_some(rest)
}

/// Becomes the real codex; returns only if that fails.
fn become_real(arguments: &[OsString], environment: &Environment) -> Error {
    let exec = || {
        nested::refuse_chain(environment)?;
        let program = real(environment)?;
        // As it was found, not the native program that a wrapper starts: the wrapper sets variables for that.
        let path = program.requested.unwrap_or(program.executable);
        let depth = OsString::from(life::depth(environment).saturating_add(1).to_string());
        let failed = || Error::new(Code::Unavailable, format!("cannot run `{}`", path.display()));
        let image = Image::inheriting(&path, arguments.iter().cloned(), &[], &[(life::DEPTH, depth)])
            .map_err(|error| failed().because(error))?;
        match become_program(&image) {
            Err(errno) => Err::<Infallible, Error>(failed().because(errno)),
        }
    };
    match exec() {
        Err(error) => error,
    }
}

/// Finds the codex that would run if there were no shim, else the one of the settings.
///
/// # Errors
///
/// With exit code 69 when there is neither.
pub(crate) fn real(environment: &Environment) -> Result<Program, Error> {
    let path = environment.value("PATH").map(|path| path.as_os_str());
    locate::locate(Path::new(NAME), path).or_else(|error| {
        // Settings that cannot be used are no reason to keep anybody from codex.
        let settings = Settings::load(&ServeArgs::default(), environment);
        let named: Option<PathBuf> = settings.ok().map(|settings| settings.codex);
        match named.filter(|named| named != Path::new(NAME)) {
            Some(named) => locate::locate(&named, path),
            None => Err(error),
        }
    })
}

/// What the name of codex leads to in PATH.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// To codexd.
    First(PathBuf),
    /// To another program; codexd comes later.
    Behind {
        /// The first one.
        first: PathBuf,
        /// codexd under this name.
        shim: PathBuf,
    },
    /// To this program, if to any, and nowhere to codexd.
    Absent(Option<PathBuf>),
}

/// Looks who comes first in `search_path`.
pub(crate) fn standing(search_path: Option<&OsStr>) -> Standing {
    let mut first = None;
    for path in locate::in_path(Path::new(NAME), search_path) {
        match (is_codexd(&path), first.clone()) {
            (true, None) => return Standing::First(path),
            (true, Some(first)) => return Standing::Behind { first, shim: path },
            (false, _) => first = first.or(Some(path)),
        }
    }
    Standing::Absent(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_name_decides_who_this_is() {
        for line in ["codex", "/usr/local/bin/codex app-server", "./codex x"] {
            assert!(is_called(&words(line)), "{line}");
        }
        for line in ["codexd", "/codex/codexd serve", "codex-x"] {
            assert!(!is_called(&words(line)), "{line}");
        }
        assert!(!is_called(&[]));
    }

    #[test]
    fn who_comes_first_in_path_is_reported() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let dir = crate::os::test_dir::test_dir();
        let path = |name: &str| dir.path().join(name);
        for name in ["shim", "real", "empty"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        let (shim, first) = (path("shim/codex"), path("real/codex"));
        symlink(std::env::current_exe().unwrap(), &shim).unwrap();
        std::fs::write(&first, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&first, std::fs::Permissions::from_mode(0o755)).unwrap();
        let of =
            |names: &[&str]| standing(Some(&std::env::join_paths(names.iter().map(|it| path(it))).unwrap()));
        assert_eq!(of(&["empty", "shim", "real"]), Standing::First(shim.clone()));
        assert_eq!(of(&["real", "shim"]), Standing::Behind { first: first.clone(), shim });
        assert_eq!(of(&["real", "empty"]), Standing::Absent(Some(first)));
        assert_eq!(of(&["empty"]), Standing::Absent(None));
    }

    #[test]
    fn a_plain_app_server_is_the_daemons_and_nothing_else_is() {
        let of = |line: &str| daemons(&words(line)).map(|rest| rest.join(" "));
        assert_eq!(of("codex app-server").as_deref(), Some(""));
        assert_eq!(of("codex -c a=b app-server --stdio").as_deref(), Some("-c a=b --stdio"));
        for line in [
            "codex",
            "codex exec hello",
            "codex app-server --help",
            "codex app-server generate-ts",
            "codex app-server daemon start",
            "codex app-server proxy",
            "codex app-server --listen ws://127.0.0.1:1",
            "codex -p work app-server",
            "codex --version",
        ] {
            assert_eq!(of(line), None, "{line}");
        }
        // codexd's own flags are none of codex's.
        assert_eq!(of("codex app-server --no-spawn").as_deref(), Some("--no-spawn"));
        use std::os::unix::ffi::OsStringExt as _;
        let odd = [words("codex -c"), vec![OsString::from_vec(vec![0xff])], words("app-server")].concat();
        assert_eq!(daemons(&odd), None);
    }
}
