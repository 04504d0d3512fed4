//! One thing to do, that can be shown instead.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use codexd_proto::exit::ExitCode;

use crate::error::Error;
use crate::os::plain_file;
use crate::serve::upstream::identity::is_codexd;
use crate::settings::environment::lend_runtime_dir;

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Create a directory and its parents.
    Directory { path: PathBuf },
    /// Make a file be so.
    Write { path: PathBuf, contents: String },
    /// Have a symbolic link there; one that leads to codexd already is led here.
    Link { path: PathBuf, target: PathBuf },
    /// Have no link of codexd's there.
    Unlink { path: PathBuf },
    /// Have no file there.
    Remove { path: PathBuf },
    /// Remove a directory, if it is empty.
    RemoveEmpty { path: PathBuf },
    /// Run a program to its end.
    Run { words: Vec<String>, failure: OnFailure },
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// It was already as wanted; nothing is printed.
    Nothing,
    /// A file was right already.
    Unchanged { path: PathBuf },
    /// A file was made.
    Wrote { path: PathBuf },
    /// A file that was there got other contents.
    Updated { path: PathBuf },
    /// It is no link to codexd, and stays as it is.
    Left { path: PathBuf },
    /// A file or a directory is gone.
    Removed { path: PathBuf },
    /// A program ran and succeeded.
    Ran { line: String },
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Done::Nothing => Ok(()),
            Done::Unchanged { path } => write!(f, "unchanged {}", path.display()),
            Done::Wrote { path } => write!(f, "wrote {}", path.display()),
            Done::Updated { path } => write!(f, "updated {}", path.display()),
            Done::Left { path } => write!(f, "left {} as it is: no link to codexd", path.display()),
            Done::Removed { path } => write!(f, "removed {}", path.display()),
            Done::Ran { line } => write!(f, "ran {line}"),
        }
    }
}

/// What a failed program means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnFailure {
    /// The plan has failed.
    Stop,
    /// There was nothing to do.
    Ignore,
}

impl Step {
    /// A program that must succeed.
    pub(super) fn run(words: &[&str]) -> Step {
        Step::Run { words: owned(words), failure: OnFailure::Stop }
    }

    /// A program that may find nothing to do.
    pub(super) fn try_run(words: &[&str]) -> Step {
        Step::Run { words: owned(words), failure: OnFailure::Ignore }
    }

    /// Describes the step: for a file, all of it.
    pub(super) fn shown(&self) -> String {
        match self {
            Step::Directory { path } => format!("# mkdir -p {}", path.display()),
            Step::Write { path, contents } => format!("# write {}\n{contents}", path.display()),
            Step::Link { path, target } => format!("# ln -s {} {}", target.display(), path.display()),
            Step::Unlink { path } => format!("# rm -f {} (if it leads to codexd)", path.display()),
            Step::Remove { path } => format!("# rm -f {}", path.display()),
            Step::RemoveEmpty { path } => format!("# rmdir {} (if it is empty)", path.display()),
            Step::Run { words, .. } => format!("# {}", words.join(" ")),
        }
    }

    /// Does it and returns what was done.
    ///
    /// # Errors
    ///
    /// With exit code 73 when a file cannot be written, 69 when a program is missing, 71 when one fails.
    pub(super) fn carry_out(&self) -> Result<Done, Error> {
        match self {
            Step::Directory { path } => {
                std::fs::create_dir_all(path).map_err(|error| cannot("create", path, error))?;
                Ok(Done::Nothing)
            }
            Step::Write { path, contents } => write(path, contents),
            Step::Link { path, target } => link(path, target),
            Step::Unlink { path } => match Link::at(path) {
                Link::Nothing => Ok(Done::Nothing),
                Link::ToCodexd(_) => {
                    std::fs::remove_file(path).map_err(|error| cannot("remove", path, error))?;
                    Ok(Done::Removed { path: path.clone() })
                }
                Link::Other => Ok(Done::Left { path: path.clone() }),
            },
            Step::Remove { path } => match std::fs::remove_file(path) {
                Ok(()) => Ok(Done::Removed { path: path.clone() }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Done::Nothing),
                Err(error) => Err(cannot("remove", path, error)),
            },
            Step::RemoveEmpty { path } => match std::fs::remove_dir(path) {
                Ok(()) => Ok(Done::Removed { path: path.clone() }),
                // It contains files that are not codexd's, or it does not exist.
                Err(_) => Ok(Done::Nothing),
            },
            Step::Run { words, failure } => run(words, *failure),
        }
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn cannot(what: &str, path: &Path, error: io::Error) -> Error {
    Error::new(ExitCode::CannotCreate, format!("cannot {what} `{}`", path.display())).because(error)
}

/// Writes beside the place and renames, so that a service manager never reads half a file.
fn write(path: &Path, contents: &str) -> Result<Done, Error> {
    let owned = path.to_owned();
    if plain_file::read_to_string(path).is_ok_and(|there| there == contents) {
        return Ok(Done::Unchanged { path: owned });
    }
    let done = if path.exists() { Done::Updated { path: owned } } else { Done::Wrote { path: owned } };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(|error| cannot("create", directory, error))?;
    }
    let new = crate::os::file_name::with_suffix(path, &format!(".{}.new", std::process::id()));
    std::fs::write(&new, contents).and_then(|()| std::fs::rename(&new, path)).map_err(|error| {
        // What could not be written whole must not stay.
        let _ = std::fs::remove_file(&new);
        cannot("write", path, error)
    })?;
    Ok(done)
}

/// What is at the place of a link.
pub(super) enum Link {
    Nothing,
    /// A symbolic link to codexd, or to where one was; with what stands in it.
    ToCodexd(PathBuf),
    Other,
}

impl Link {
    pub(super) fn at(path: &Path) -> Link {
        match std::fs::read_link(path) {
            Ok(target) => {
                let was = !path.exists() && target.file_name().is_some_and(|name| name == "codexd");
                if was || is_codexd(path) { Link::ToCodexd(target) } else { Link::Other }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Link::Nothing,
            Err(_) => Link::Other,
        }
    }
}

/// Makes the link beside its place and renames it, so that there is always one.
fn link(path: &Path, target: &Path) -> Result<Done, Error> {
    let owned = path.to_owned();
    let done = match Link::at(path) {
        Link::Nothing => Done::Wrote { path: owned },
        Link::ToCodexd(there) if there == target => return Ok(Done::Unchanged { path: owned }),
        Link::ToCodexd(_) => Done::Updated { path: owned },
        Link::Other => {
            return Err(Error::new(
                ExitCode::CannotCreate,
                format!("cannot write `{}`: it is there, and no link to codexd", path.display()),
            )
            .hint("name another directory with `--shim-dir`; it has to come before this one in PATH"));
        }
    };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(|error| cannot("create", directory, error))?;
    }
    let new = crate::os::file_name::with_suffix(path, &format!(".{}.new", std::process::id()));
    std::os::unix::fs::symlink(target, &new).and_then(|()| std::fs::rename(&new, path)).map_err(|error| {
        let _ = std::fs::remove_file(&new);
        cannot("write", path, error)
    })?;
    Ok(done)
}

fn run(words: &[String], failure: OnFailure) -> Result<Done, Error> {
    let line = words.join(" ");
    let Some((program, arguments)) = words.split_first() else { return Ok(Done::Nothing) };
    let output = lend_runtime_dir(&mut Command::new(program)).args(arguments).output();
    match (output, failure) {
        (Ok(output), _) if output.status.success() => Ok(Done::Ran { line }),
        (_, OnFailure::Ignore) => Ok(Done::Nothing),
        (Ok(output), OnFailure::Stop) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
            Err(Error::os(format!("`{line}` failed ({})", output.status)).because(said))
        }
        (Err(error), OnFailure::Stop) => {
            Err(Error::new(ExitCode::Unavailable, format!("cannot run `{line}`")).because(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_once_and_removed_once() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("a/b.service");
        let write = Step::Write { path: path.clone(), contents: "x\n".to_owned() };
        let done = |step: &Step| step.carry_out().unwrap();
        assert_eq!(done(&write), Done::Wrote { path: path.clone() });
        assert_eq!(done(&write), Done::Unchanged { path: path.clone() });
        let other = Step::Write { path: path.clone(), contents: "y\n".to_owned() };
        assert_eq!(done(&other), Done::Updated { path: path.clone() });
        assert_eq!(Done::Updated { path: path.clone() }.to_string(), format!("updated {}", path.display()));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        let remove = Step::Remove { path: path.clone() };
        assert_eq!(done(&remove), Done::Removed { path: path.clone() });
        assert_eq!(done(&remove), Done::Nothing);
        let directory = path.parent().unwrap().to_owned();
        let remove = Step::RemoveEmpty { path: directory.clone() };
        assert_eq!(done(&remove), Done::Removed { path: directory });
        assert_eq!(done(&remove), Done::Nothing);
    }

    #[test]
    fn a_link_to_codexd_is_made_moved_and_removed_and_nothing_else_is_touched() {
        let dir = crate::os::test_dir::test_dir();
        let (path, own) = (dir.path().join("bin/codex"), std::env::current_exe().unwrap());
        let at = |target: &Path| Step::Link { path: path.clone(), target: target.to_owned() }.carry_out();
        let unlink = || Step::Unlink { path: path.clone() }.carry_out().unwrap();
        // One that has been updated away.
        let gone = dir.path().join("old/codexd");
        assert_eq!(at(&gone).unwrap(), Done::Wrote { path: path.clone() });
        assert_eq!(at(&own).unwrap(), Done::Updated { path: path.clone() });
        assert_eq!(at(&own).unwrap(), Done::Unchanged { path: path.clone() });
        assert_eq!(std::fs::read_link(&path).unwrap(), own);
        assert_eq!(unlink(), Done::Removed { path: path.clone() });
        assert_eq!(unlink(), Done::Nothing);
        // A program, a link to another one, a directory.
        let makes: [&dyn Fn(); 3] = [
            &|| std::fs::write(&path, "precious").unwrap(),
            &|| std::os::unix::fs::symlink("/bin/sh", &path).unwrap(),
            &|| std::fs::create_dir(&path).unwrap(),
        ];
        for make in makes {
            make();
            assert_eq!(at(&own).unwrap_err().exit_code(), ExitCode::CannotCreate);
            assert_eq!(unlink(), Done::Left { path: path.clone() });
            std::fs::symlink_metadata(&path).unwrap();
            let _ = std::fs::remove_file(&path);
        }
    }

    #[test]
    fn a_failed_program_says_what_it_said() {
        let step = |script: &str| Step::run(&["sh", "-c", script]);
        assert_eq!(step("true").carry_out().unwrap(), Done::Ran { line: "sh -c true".to_owned() });
        let error = step("echo no such unit >&2; exit 5").carry_out().unwrap_err();
        assert!(error.chain().contains("no such unit"), "{}", error.chain());
        assert_eq!(error.exit_code().number(), 71);
        assert_eq!(Step::run(&["/no/such/program"]).carry_out().unwrap_err().exit_code().number(), 69);
        assert_eq!(Step::try_run(&["/no/such/program"]).carry_out().unwrap(), Done::Nothing);
    }
}
