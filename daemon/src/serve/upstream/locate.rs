//! Finding codex: the program that was asked for, and the native binary that the npm wrapper starts.
//!
//! npm installs `codex` as a Node script that starts the native binary of a platform package. Without
//! the script in between, signals reach the server itself and a Node process less stays in memory
//! (44 MB, measured). Layout of the packages `@openai/codex` and `@openai/codex-PLATFORM`, 0.142 to
//! 0.169: `vendor/TRIPLE/bin/codex`, before that `vendor/TRIPLE/codex/codex`.

use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use codexd_proto::exit::ExitCode;

use super::identity::{foreign, is_codexd};
use crate::error::Error;

/// What to do about a codex that this machine does not run.
pub(super) const FOR_THIS_MACHINE: &str =
    "install the codex for this machine (`npm install --global @openai/codex`), or name it with CODEXD_CODEX";

/// The program to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// What runs.
    pub(crate) executable: PathBuf,
    /// What was asked for and found, where that is another file.
    pub(crate) requested: Option<PathBuf>,
}

/// Finds the program: `requested` is a path, or a name to look up in `search_path` (PATH).
///
/// Never codexd itself, which would be its own client: in PATH it is passed over, whatever its name there.
///
/// # Errors
///
/// With exit code 69 when there is none that can be executed.
pub(crate) fn locate(requested: &Path, search_path: Option<&OsStr>) -> Result<Program, Error> {
    let found = if requested.components().count() > 1 {
        std::path::absolute(requested).unwrap_or_else(|_| requested.to_owned())
    } else {
        look_up(requested, search_path)?
    };
    if !is_executable(&found) {
        let what = if found.exists() { "it cannot be executed" } else { "there is no such file" };
        return Err(not_there(format!("cannot run `{}`: {what}", found.display())));
    }
    if is_codexd(&found) {
        return Err(name_another(format!("cannot run `{}` as codex: it is codexd itself", found.display())));
    }
    if is_bare_script(&found) {
        return Err(Error::new(
            ExitCode::Unavailable,
            format!("cannot run `{}`: it is a text that does not begin with `#!`", found.display()),
        )
        .hint(
            "name its interpreter in the first line (`#!/bin/sh`), or name another program with CODEXD_CODEX",
        ));
    }
    let program = match native(&found) {
        Some(executable) => Program { executable, requested: Some(found) },
        None => Program { executable: found, requested: None },
    };
    match foreign(&program.executable) {
        Some(what) => {
            let path = program.executable.display();
            Err(Error::new(ExitCode::Unavailable, format!("cannot run `{path}`: {what}"))
                .hint(FOR_THIS_MACHINE))
        }
        None => Ok(program),
    }
}

/// Returns the first program of this name in `search_path` that is not codexd.
fn look_up(name: &Path, search_path: Option<&OsStr>) -> Result<PathBuf, Error> {
    let mut own = None;
    for path in in_path(name, search_path) {
        if !is_codexd(&path) {
            return Ok(path);
        }
        own.get_or_insert(path);
    }
    Err(match own {
        Some(own) => name_another(format!(
            "cannot find `{}` in PATH: `{}` is codexd itself, and there is no other",
            name.display(),
            own.display()
        )),
        None => not_there(format!("cannot find `{}` in PATH", name.display())),
    })
}

/// Returns the programs of this name in `search_path`, in its order.
pub(crate) fn in_path<'a>(
    name: &'a Path,
    search_path: Option<&'a OsStr>,
) -> impl Iterator<Item = PathBuf> + 'a {
    std::env::split_paths(search_path.unwrap_or_default())
        .filter(|dir| dir.is_absolute())
        .map(move |dir| dir.join(name))
        .filter(|path| is_executable(path))
}

/// Adds the hint that names the setting for the path of codex.
pub(crate) fn name_another(context: String) -> Error {
    Error::new(ExitCode::Unavailable, context).hint(
        "name the real codex with CODEXD_CODEX, or with `codex = \"/path/to/codex\"` in the configuration file",
    )
}

fn not_there(context: String) -> Error {
    Error::new(ExitCode::Unavailable, context)
        .hint("install codex (`npm install --global @openai/codex`), or name it with CODEXD_CODEX")
}

/// Adds to an error of [`locate`] that the program can be named by a flag; for commands that have it.
pub(crate) fn with_flag(error: Error) -> Error {
    match error
        .next_step()
        .map(|hint| hint.replace("with CODEXD_CODEX", "with `--codex PATH` or CODEXD_CODEX"))
    {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
}

/// Returns whether a file is text without an interpreter. The system refuses to run that (ENOEXEC, `execve(2)`);
/// the C library would hand it to a shell instead, and whatever that made of it would pass for codex
/// (`exec(3)`). A file that cannot be read is left to the system.
fn is_bare_script(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(256).read_to_end(&mut start));
    let is_text = |byte: &u8| !byte.is_ascii_control() || byte.is_ascii_whitespace() || *byte == b'\x1b';
    read.is_ok() && !start.starts_with(b"#!") && start.iter().all(is_text)
}

/// Returns the native binary if `found` is the wrapper of the npm package.
fn native(found: &Path) -> Option<PathBuf> {
    let script = fs::canonicalize(found).ok()?;
    let mut start = [0u8; 2];
    fs::File::open(&script).ok()?.read_exact(&mut start).ok()?;
    if &start != b"#!" {
        return None;
    }
    // PACKAGE/bin/codex.js; the platform's package lies inside of it or beside it.
    let package = script.parent()?.parent()?;
    let scope = package.parent()?;
    let platform = format!("codex-{}-{}", npm_os()?, npm_cpu()?);
    [
        package.join("node_modules/@openai").join(&platform).join("vendor"),
        scope.join(&platform).join("vendor"),
        package.join("vendor"),
    ]
    .into_iter()
    .find_map(|vendor| binary_in(&vendor))
}

fn binary_in(vendor: &Path) -> Option<PathBuf> {
    let mut triples: Vec<PathBuf> =
        fs::read_dir(vendor).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    triples.sort();
    triples
        .iter()
        .filter(|triple| {
            triple
                .file_name()
                .and_then(OsStr::to_str)
                .is_some_and(|name| name.starts_with(std::env::consts::ARCH))
        })
        .flat_map(|triple| [triple.join("bin/codex"), triple.join("codex/codex")])
        .find(|path| is_executable(path))
}

/// Returns this system's name in npm's packages (`process.platform` of Node).
fn npm_os() -> Option<&'static str> {
    match std::env::consts::OS {
        "linux" => Some("linux"),
        "macos" => Some("darwin"),
        _ => None,
    }
}

/// Returns this processor's name in npm's packages (`process.arch` of Node).
fn npm_cpu() -> Option<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Some("x64"),
        "aarch64" => Some("arm64"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn program(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The beginning of a program of this system.
    fn own_program(path: &Path) {
        program(path, "");
        let mut own = fs::read(std::env::current_exe().unwrap()).unwrap();
        own.truncate(64);
        fs::write(path, own).unwrap();
    }

    #[test]
    fn a_name_is_looked_up_and_a_path_is_not() {
        let dir = crate::os::test_dir::test_dir();
        let codex = dir.path().join("bin/codex");
        own_program(&codex);
        let search = std::env::join_paths([dir.path().join("none"), dir.path().join("bin")]).unwrap();
        let found = locate(Path::new("codex"), Some(&search)).unwrap();
        assert_eq!(found, Program { executable: codex.clone(), requested: None });
        assert_eq!(locate(&codex, None).unwrap().executable, codex);
    }

    #[test]
    fn what_is_missing_or_cannot_run_is_unavailable() {
        let dir = crate::os::test_dir::test_dir();
        let file = dir.path().join("codex");
        fs::write(&file, "").unwrap();
        let (script, empty) = (dir.path().join("script"), dir.path().join("empty"));
        program(&script, "exec codex \"$@\"\n");
        program(&empty, "");
        for (path, says) in [
            (dir.path().join("none"), "no such file"),
            (file, "cannot be executed"),
            (script, "does not begin with `#!`"),
            (empty, "does not begin with `#!`"),
            (PathBuf::from("codex"), "in PATH"),
        ] {
            let error = locate(&path, Some(OsStr::new("/nowhere"))).unwrap_err();
            assert_eq!(error.exit_code(), ExitCode::Unavailable);
            assert!(error.chain().contains(says), "{}", error.chain());
            assert!(error.next_step().is_some());
        }
    }

    #[test]
    fn codexd_is_passed_over_in_path_and_refused_by_name() {
        let dir = crate::os::test_dir::test_dir();
        let (own, real) = (dir.path().join("own/codex"), dir.path().join("real/codex"));
        fs::create_dir(dir.path().join("own")).unwrap();
        symlink(std::env::current_exe().unwrap(), &own).unwrap();
        let search = std::env::join_paths([dir.path().join("own"), dir.path().join("real")]).unwrap();
        let error = locate(Path::new("codex"), Some(&search)).unwrap_err();
        assert!(error.chain().contains("is codexd itself, and there is no other"), "{}", error.chain());
        program(&real, "\x7fELF");
        assert_eq!(locate(Path::new("codex"), Some(&search)).unwrap().executable, real);
        let error = locate(&own, Some(&search)).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Unavailable);
        assert!(error.chain().contains("it is codexd itself"), "{}", error.chain());
        for way_out in ["codex = ", "CODEXD_CODEX"] {
            assert!(error.next_step().unwrap().contains(way_out));
        }
    }

    #[test]
    fn the_native_binary_behind_the_npm_wrapper_is_found() {
        let (Some(os), Some(cpu)) = (npm_os(), npm_cpu()) else { return };
        let dir = crate::os::test_dir::test_dir();
        let modules = dir.path().canonicalize().unwrap().join("node_modules");
        let script = modules.join("@openai/codex/bin/codex.js");
        program(&script, "#!/usr/bin/env node\n");
        fs::create_dir_all(modules.join(".bin")).unwrap();
        let link = modules.join(".bin/codex");
        symlink("../@openai/codex/bin/codex.js", &link).unwrap();
        // Without a platform package, the script is all there is.
        assert_eq!(locate(&link, None).unwrap(), Program { executable: link.clone(), requested: None });
        let triple = format!("{}-unknown-test", std::env::consts::ARCH);
        let native = modules.join(format!("@openai/codex-{os}-{cpu}/vendor/{triple}/bin/codex"));
        own_program(&native);
        assert_eq!(locate(&link, None).unwrap(), Program { executable: native, requested: Some(link) });
    }
}
