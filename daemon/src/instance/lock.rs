//! Ownership of an instance: a lock on a file, held for the life of the daemon (`flock(2)`).
//!
//! The lock, not the file, proves that a daemon runs; the kernel releases it however the process ends. Only the
//! holder unlinks the file, and a process that takes the lock checks afterwards that the path still leads to the file
//! that it locked: without that, two daemons could each hold a lock on a different file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use codexd_proto::exit::ExitCode;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use crate::error::Error;

/// How long a lock whose holder does not answer is tried again: a daemon that is about to be gone, or a `ctl` that
/// looks whether it is, holds it for an instant.
const LAST_MOMENTS: Duration = Duration::from_millis(300);
/// Time between these attempts.
const RETRY_EVERY: Duration = Duration::from_millis(20);

/// The lock on an instance, or on a socket that was named. Released and unlinked when dropped.
#[derive(Debug)]
pub(crate) struct InstanceLock {
    file: Flock<File>,
    path: PathBuf,
}

impl InstanceLock {
    /// Takes the lock at `path`; `holder` asks the holder for its identity; `None` if it does not answer.
    ///
    /// The process id written into the file is for people only.
    ///
    /// # Errors
    ///
    /// With exit code 75 when another process holds it, 77 when the file is a symbolic link, 73 when it
    /// cannot be made.
    pub(crate) fn acquire(path: &Path, holder: impl Fn() -> Option<String>) -> Result<InstanceLock, Error> {
        let mut give_up = None;
        loop {
            match attempt(path)? {
                Attempt::Taken(mut file) => {
                    write_pid(&mut file).map_err(|error| cannot_lock(path).because(error))?;
                    return Ok(InstanceLock { file, path: path.to_owned() });
                }
                Attempt::Replaced => {}
                Attempt::Held(mut file) => match holder() {
                    Some(words) => return Err(held(words)),
                    None => {
                        let now = Instant::now();
                        if now >= *give_up.get_or_insert(now + LAST_MOMENTS) {
                            return Err(held(format!(
                                "another process holds `{}`{}",
                                path.display(),
                                pid_text(&mut file)
                            )));
                        }
                        std::thread::park_timeout(RETRY_EVERY);
                    }
                },
            }
        }
    }
}

impl Drop for InstanceLock {
    fn drop(&mut self) {
        // While the lock is held: no other process can have locked a file of this name in between.
        if same_file(&self.file, &self.path).unwrap_or(false) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Returns whether the lock at `path` is free; does not create the file.
///
/// Where the file is left over from a daemon that was killed, the lock is taken for an instant, shared.
pub(crate) fn is_free(path: &Path) -> bool {
    let mut options = OpenOptions::new();
    // Without O_NONBLOCK a FIFO would wait for a writer.
    match options.read(true).custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits()).open(path) {
        Ok(file) => Flock::lock(file, FlockArg::LockSharedNonblock).is_ok(),
        Err(error) => matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    }
}

enum Attempt {
    Taken(Flock<File>),
    /// The file was unlinked by its last holder between the opening and the locking.
    Replaced,
    Held(File),
}

/// Opens the file of a lock, and makes it if it is not there.
///
/// # Errors
///
/// With exit code 77 when it is a symbolic link, 73 when it cannot be made or is no regular file.
pub(crate) fn open(path: &Path) -> Result<File, Error> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        // The standard library adds O_CLOEXEC: a child that inherited the file would keep the lock.
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path)
        .map_err(|error| {
            if error.raw_os_error() == Some(Errno::ELOOP as i32) {
                Error::new(ExitCode::Unsafe, format!("the lock `{}` is a symbolic link", path.display()))
                    .hint(format!("rm {}", path.display()))
            } else {
                cannot_lock(path).because(error)
            }
        })?;
    if !file.metadata().map_err(|error| cannot_lock(path).because(error))?.is_file() {
        return Err(cannot_lock(path).because("not a regular file"));
    }
    Ok(file)
}

fn attempt(path: &Path) -> Result<Attempt, Error> {
    let file = open(path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => match same_file(&file, path) {
            Ok(true) => Ok(Attempt::Taken(file)),
            Ok(false) => Ok(Attempt::Replaced),
            Err(error) => Err(cannot_lock(path).because(error)),
        },
        Err((file, Errno::EWOULDBLOCK)) => Ok(Attempt::Held(file)),
        Err((_, errno)) => Err(cannot_lock(path).because(errno)),
    }
}

fn same_file(file: &File, path: &Path) -> io::Result<bool> {
    let locked = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(named) => Ok(locked.dev() == named.dev() && locked.ino() == named.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// The holder's process id from the file, if it is a number: the file can be left over from an earlier holder.
fn pid_text(file: &mut File) -> String {
    let mut text = String::new();
    // A process id has ten digits at the most.
    let read = file.rewind().and_then(|()| file.take(16).read_to_string(&mut text));
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) => format!(" (the lock file says pid {pid})"),
        _ => String::new(),
    }
}

/// Begins the error of a lock that cannot be taken.
pub(crate) fn cannot_lock(path: &Path) -> Error {
    Error::new(ExitCode::CannotCreate, format!("cannot lock `{}`", path.display()))
}

fn held(message: String) -> Error {
    Error::new(ExitCode::AlreadyRunning, message)
        .hint("`codexd ctl status` shows it, `codexd ctl stop` ends it; `--instance` names another one")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acquire(path: &Path) -> Result<InstanceLock, Error> {
        InstanceLock::acquire(path, || None)
    }

    /// Returns whether the path still leads to the file that is locked.
    fn is_named(lock: &InstanceLock) -> bool {
        same_file(&lock.file, &lock.path).unwrap()
    }

    #[test]
    fn one_at_a_time_and_the_file_goes_with_the_holder() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("x.lock");
        assert!(is_free(&path));
        let lock = acquire(&path).unwrap();
        assert!(!is_free(&path));
        assert!(is_named(&lock));
        let error = acquire(&path).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::AlreadyRunning);
        assert!(error.chain().contains(&format!("pid {}", std::process::id())), "{error:?}");
        drop(lock);
        assert!(!path.exists());
        acquire(&path).unwrap();
    }

    #[test]
    fn the_words_of_the_holder_are_passed_on() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("x.lock");
        let _lock = acquire(&path).unwrap();
        let error = InstanceLock::acquire(&path, || Some("it is me".to_owned())).unwrap_err();
        assert_eq!((error.exit_code(), error.chain()), (ExitCode::AlreadyRunning, "it is me".to_owned()));
    }

    #[test]
    fn a_file_left_by_a_killed_holder_is_free() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("x.lock");
        std::fs::write(&path, "4194304\n").unwrap();
        assert!(is_free(&path));
        assert!(is_free(&path.join("below a file")));
        let lock = acquire(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(lock);
    }

    #[test]
    fn a_holder_whose_file_was_replaced_does_not_unlink_the_new_one() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("x.lock");
        let first = acquire(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let second = acquire(&path).unwrap();
        assert!(!is_named(&first));
        drop(first);
        assert!(path.exists());
        assert!(is_named(&second));
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("x.lock");
        std::os::unix::fs::symlink(dir.path().join("victim"), &path).unwrap();
        assert_eq!(acquire(&path).unwrap_err().exit_code(), ExitCode::Unsafe);
        assert!(!dir.path().join("victim").exists());
    }

    #[test]
    fn a_lock_that_is_let_go_in_its_last_moments_is_taken() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("x.lock");
        let first = acquire(&path).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| acquire(&path));
            drop(first);
            second.join().unwrap().unwrap();
        });
    }
}
