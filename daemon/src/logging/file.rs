//! The log of a daemon that a client started: a file that stays within a bound, and the one before it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::os::file_name::with_suffix;
use crate::os::{plain_file, private_dir};

/// Bytes of a log above which a new one is begun; one old log is kept.
const LOG_BYTES: u64 = 1 << 20;

/// Opens the log to append to it, a new one if the old one has grown large.
///
/// # Errors
///
/// When the directory or the file cannot be made, or something else than a regular file is in its place.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        private_dir::ensure_state(dir)?;
    }
    plain_file::check_path(path)?;
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_BYTES) {
        std::fs::rename(path, with_suffix(path, ".1"))?;
    }
    plain_file::open_with(OpenOptions::new().create(true).append(true).mode(0o600), path)
}

/// A log that is written to while the daemon runs, and begun anew when it has grown large.
#[derive(Debug)]
pub(crate) struct BoundedLog {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// Standard error is the log, too: what is written there outside of the log must not go to the old file.
    is_stderr: bool,
}

impl BoundedLog {
    /// Takes over standard error if that is the file at `path`, opened by the process that started the daemon.
    pub(crate) fn of_stderr(path: &Path) -> Option<BoundedLog> {
        let file = File::from(io::stderr().as_fd().try_clone_to_owned().ok()?);
        BoundedLog::of(path, file, true)
    }

    fn of(path: &Path, file: File, is_stderr: bool) -> Option<BoundedLog> {
        let (open, named) = (file.metadata().ok()?, std::fs::symlink_metadata(path).ok()?);
        let same = open.dev() == named.dev() && open.ino() == named.ino();
        same.then(|| BoundedLog { path: path.to_owned(), file, bytes: open.len(), is_stderr })
    }

    /// Begins a new file. Where that fails, the old one goes on, and it is tried again a while later.
    fn turn_over(&mut self) {
        self.bytes = 0;
        let Ok(file) = open(&self.path) else { return };
        if self.is_stderr {
            let _ = nix::unistd::dup2_stderr(&file);
        }
        self.file = file;
    }
}

impl Write for BoundedLog {
    /// Each call brings whole lines: no line is torn between two files.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        if self.bytes > LOG_BYTES {
            self.turn_over();
        }
        let written = self.file.write(lines)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_log_is_put_aside_once() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("state/x.log");
        open(&path).unwrap().write_all(b"first").unwrap();
        open(&path).unwrap().set_len(LOG_BYTES + 1).unwrap();
        open(&path).unwrap().write_all(b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(std::fs::metadata(with_suffix(&path, ".1")).unwrap().len(), LOG_BYTES + 1);
    }

    #[test]
    fn a_log_that_grows_is_begun_anew_between_two_lines() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("x.log");
        let mut log = BoundedLog::of(&path, open(&path).unwrap(), false).unwrap();
        let lines: Vec<String> = (0..25_000).map(|n| format!("{n:0100}\n")).collect();
        for line in &lines {
            log.write_all(line.as_bytes()).unwrap();
        }
        let old = std::fs::read_to_string(with_suffix(&path, ".1")).unwrap();
        let new = std::fs::read_to_string(&path).unwrap();
        let bound = usize::try_from(LOG_BYTES).unwrap() + lines[0].len();
        assert!(old.len() <= bound && new.len() <= bound, "{} {}", old.len(), new.len());
        let kept = old + &new;
        assert!(kept.len() > bound && lines.concat().ends_with(&kept));
    }

    #[test]
    fn a_file_that_is_not_the_log_is_left_alone() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("x.log");
        let other = open(&dir.path().join("other")).unwrap();
        open(&path).unwrap();
        assert!(BoundedLog::of(&path, other, false).is_none());
    }
}
