//! Starts that failed before the daemon held its instance: their exit code and reason.
//!
//! They are kept in a file of their own beside the record (`INSTANCE.failed`): a running daemon is the only writer of
//! its record. Only the latest failed start is kept. A later daemon that gets the instance moves it into the record.

use std::cell::Cell;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use codexd_proto::exit::ExitCode;
use codexd_proto::status::{FailedStart, LastExit};

use super::lock;
use crate::cli::ServeArgs;
use crate::error::Error;
use crate::os::file_name::with_suffix;
use crate::os::unix_time::unix_ms;
use crate::os::{plain_file, private_dir};
use crate::settings::Settings;
use crate::settings::environment::Environment;

/// A start that has not got as far as a record. What becomes of it is written down: an error with
/// [`Attempt::failed`], and a panic when this is dropped.
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    args: &'a ServeArgs,
    environment: &'a Environment,
    recorded: Cell<bool>,
}

impl<'a> Attempt<'a> {
    /// Begins a start with these flags.
    pub(crate) fn new(args: &'a ServeArgs, environment: &'a Environment) -> Attempt<'a> {
        Attempt { args, environment, recorded: Cell::new(false) }
    }

    /// Says that the daemon has a record now, and how it ends is written there.
    pub(crate) fn recorded(&self) {
        self.recorded.set(true);
    }

    /// Writes down why the start failed, unless the record has it already.
    pub(crate) fn failed(&self, error: &Error) {
        self.write(error.exit_code(), error.chain(), error.next_step());
    }

    fn write(&self, code: ExitCode, reason: String, hint: Option<&str>) {
        if self.recorded.replace(true) {
            return;
        }
        // With settings that cannot be used, this is the instance that `codexd ctl status` looks at, too.
        let settings = Settings::load(self.args, self.environment)
            .or_else(|_| Settings::load_without_file(self.args, self.environment));
        let Ok(settings) = settings else { return };
        let failure = FailedStart {
            code: code.number(),
            reason,
            hint: hint.map(str::to_owned),
            at_unix_ms: unix_ms(),
            pid: std::process::id(),
            other_daemon: code == ExitCode::AlreadyRunning || !lock::is_free(&settings.paths.lock),
        };
        let path = path(&settings.paths.record);
        if let Err(error) = write(&path, &failure) {
            tracing::warn!(file.path = %path.display(), %error, "cannot record why the daemon did not start");
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.write(ExitCode::Software, "panicked".to_owned(), None);
        }
    }
}

/// Returns the file of failed starts that belongs to a record.
pub(crate) fn path(record: &Path) -> PathBuf {
    record.with_extension("failed")
}

/// Returns the last failed start that no later daemon has moved into its record.
pub(crate) fn read(record: &Path) -> Option<FailedStart> {
    serde_json::from_slice(&plain_file::read(&path(record)).ok()?).ok()
}

/// Forgets it.
pub(crate) fn clear(record: &Path) {
    let _ = std::fs::remove_file(path(record));
}

/// Returns which end came last: that of the last daemon, or a start that failed after it.
///
/// A start that failed while another daemon lived is no end of the instance.
pub(crate) fn later(exit: Option<LastExit>, failure: Option<FailedStart>) -> Option<LastExit> {
    let failure = failure.filter(|failure| !failure.other_daemon);
    match (exit, failure) {
        (exit, None) => exit,
        (Some(exit), Some(failure)) if exit.at_unix_ms > Some(failure.at_unix_ms) => Some(exit),
        (_, Some(failure)) => Some(LastExit {
            code: Some(failure.code),
            reason: failure.reason,
            at_unix_ms: Some(failure.at_unix_ms),
            ..LastExit::default()
        }),
    }
}

/// Writes beside the place and renames, under a name of this process: several starts may fail at once.
fn write(path: &Path, failure: &FailedStart) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        private_dir::ensure_state(dir)?;
    }
    plain_file::check_path(path)?;
    let beside = with_suffix(path, &format!(".{}.new", std::process::id()));
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| file.write_all(&serde_json::to_vec(failure)?))
        .and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(dir: &Path) -> Environment {
        Environment::of([("HOME", "/h"), ("STATE_DIRECTORY", dir.to_str().unwrap())])
    }

    #[test]
    fn the_last_failed_start_is_kept_until_it_is_cleared() {
        let dir = crate::os::test_dir::test_dir();
        let (environment, record) = (world(dir.path()), dir.path().join("x.json"));
        let args = ServeArgs { instance: Some("x".to_owned()), ..ServeArgs::default() };
        for text in ["first", "second"] {
            let attempt = Attempt::new(&args, &environment);
            attempt.failed(&Error::new(ExitCode::Unavailable, text).hint("install it"));
        }
        let failure = read(&record).unwrap();
        assert_eq!((failure.code, failure.reason.as_str()), (69, "second"));
        assert_eq!((failure.hint.as_deref(), failure.pid), (Some("install it"), std::process::id()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        clear(&record);
        assert_eq!(read(&record), None);
    }

    #[test]
    fn what_has_a_record_is_not_written_down_twice() {
        let dir = crate::os::test_dir::test_dir();
        let (environment, args) = (world(dir.path()), ServeArgs::default());
        let attempt = Attempt::new(&args, &environment);
        attempt.recorded();
        attempt.failed(&Error::os("x"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_panic_and_settings_that_cannot_be_used_are_written_down_too() {
        let dir = crate::os::test_dir::test_dir();
        let (environment, args) = (
            world(dir.path()),
            ServeArgs {
                instance: Some("x".to_owned()),
                config: Some(dir.path().join("none.toml")),
                ..ServeArgs::default()
            },
        );
        let record = dir.path().join("x.json");
        Attempt::new(&args, &environment).failed(&Error::config("broken"));
        assert_eq!(read(&record).unwrap().code, 78);
        let panics = std::panic::AssertUnwindSafe(|| {
            let _attempt = Attempt::new(&args, &environment);
            panic!("on purpose");
        });
        assert!(std::panic::catch_unwind(panics).is_err());
        assert_eq!(read(&record).unwrap().code, 70);
    }

    #[test]
    fn the_later_end_counts_and_a_start_beside_a_living_daemon_is_none() {
        let exit = |at| Some(LastExit { code: Some(0), at_unix_ms: Some(at), ..LastExit::default() });
        let failure = |at_unix_ms, other_daemon| {
            Some(FailedStart { code: 69, at_unix_ms, other_daemon, ..FailedStart::default() })
        };
        let code = |exit, failure| later(exit, failure).and_then(|exit| exit.code);
        assert_eq!(code(exit(10), None), Some(0));
        assert_eq!(code(exit(10), failure(5, false)), Some(0));
        assert_eq!(code(exit(10), failure(15, false)), Some(69));
        assert_eq!(code(exit(10), failure(15, true)), Some(0));
        assert_eq!(code(None, failure(15, false)), Some(69));
        assert_eq!(code(None, failure(15, true)), None);
    }

    #[test]
    fn a_start_that_fails_beside_a_living_daemon_says_so() {
        let dir = crate::os::test_dir::test_dir();
        let run = dir.path().join("run");
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let environment = Environment::of([
            ("HOME", "/h"),
            ("STATE_DIRECTORY", &text(dir.path())),
            ("XDG_RUNTIME_DIR", &text(&run)),
            ("TMPDIR", &text(&run)),
        ]);
        let args = ServeArgs { instance: Some("x".to_owned()), ..ServeArgs::default() };
        let record = dir.path().join("x.json");
        let fails = |code| {
            Attempt::new(&args, &environment).failed(&Error::new(code, "x"));
            read(&record).unwrap().other_daemon
        };
        assert!(!fails(ExitCode::Unavailable));
        assert!(fails(ExitCode::AlreadyRunning));
        let paths = Settings::load(&args, &environment).unwrap().paths;
        std::fs::create_dir_all(&paths.runtime_dir).unwrap();
        let _lock = lock::InstanceLock::acquire(&paths.lock, || None).unwrap();
        assert!(fails(ExitCode::Unavailable));
    }
}
