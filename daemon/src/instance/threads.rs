//! The file of the [thread book](codexd_proto::thread_book): one line of JSON for each change, the last one counts.
//!
//! A line that was cut off by a crash is left out. Lines are appended by a thread of their own, so that the core never
//! waits for the disk; the file is written anew when it has many more lines than threads.

use std::fs::OpenOptions;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use codexd_proto::id::ThreadId;
use codexd_proto::thread_book::{Entry, MAX_THREADS, ThreadBook};

use crate::os::file_name::with_suffix;
use crate::os::plain_file;

/// Lines above which the file is written anew.
const MOST_LINES: usize = 4 * MAX_THREADS;
/// Bytes of a file that are read at the most: above, it is no file of codexd.
const MOST_BYTES: u64 = 64 << 20;
/// How long the end of the daemon waits for the disk.
const WRITTEN_WITHIN: Duration = Duration::from_secs(2);

/// Reads the book that earlier daemons have left; an empty one where there is none.
///
/// # Errors
///
/// When there is a file that cannot be read.
pub(crate) fn read(path: &Path) -> io::Result<ThreadBook> {
    let file = match plain_file::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ThreadBook::default()),
        Err(error) => return Err(error),
    };
    let mut lines = BufReader::new(file.take(MOST_BYTES)).split(b'\n');
    let entries = std::iter::from_fn(|| lines.next()?.ok());
    Ok(ThreadBook::of_earlier(entries.filter_map(|line| serde_json::from_slice::<Entry>(&line).ok())))
}

/// Takes changes of the book for its [`Writer`].
#[derive(Clone, Debug)]
pub(crate) struct Changes(Sender<Option<Entry>>);

impl Changes {
    /// Writes down what has changed, soon.
    pub(crate) fn remember(&self, entry: Entry) {
        // The other end is there until the daemon has ended.
        let _ = self.0.send(Some(entry));
    }
}

/// Writes the book. Its end waits until everything is written, for a while.
#[derive(Debug)]
pub(crate) struct Writer {
    changes: Changes,
    written: Receiver<()>,
}

impl Writer {
    /// Starts to write changes to `path`, where `book` was read from.
    ///
    /// # Errors
    ///
    /// When the system has no thread left.
    pub(crate) fn spawn(path: PathBuf, book: ThreadBook) -> io::Result<Writer> {
        let (sender, changes) = mpsc::channel();
        let (done, written) = mpsc::channel();
        std::thread::Builder::new().name("thread-book".to_owned()).spawn(move || {
            let mut book = Book { path, book, lines: None, failing: false };
            while let Ok(Some(entry)) = changes.recv() {
                book.change(entry);
            }
            // Nobody may wait any more.
            let _ = done.send(());
        })?;
        Ok(Writer { changes: Changes(sender), written })
    }

    /// Returns what takes the changes.
    pub(crate) fn changes(&self) -> Changes {
        self.changes.clone()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.changes.0.send(None);
        if self.written.recv_timeout(WRITTEN_WITHIN) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the permissions of some threads could not be written down in time");
        }
    }
}

/// The book and its file, as the thread that writes has them.
struct Book {
    path: PathBuf,
    book: ThreadBook,
    /// Lines of the file; `None` before the first change, and after a failure.
    lines: Option<usize>,
    /// Stderr has it already.
    failing: bool,
}

impl Book {
    fn change(&mut self, entry: Entry) {
        let thread = ThreadId::new(entry.thread_id.as_bytes());
        match &entry.permissions {
            Some(permissions) => {
                self.book.record(&thread, permissions.clone());
            }
            None => {
                self.book.forget(&thread);
            }
        }
        match self.write(&entry) {
            Ok(()) => self.failing = false,
            Err(error) => {
                self.lines = None;
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(
                        path = %self.path.display(),
                        %error,
                        "the permissions of threads cannot be written down: a restart may change them"
                    );
                }
            }
        }
    }

    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        let Some(lines) = self.lines.filter(|lines| *lines < MOST_LINES) else { return self.write_anew() };
        // It is opened each time: somebody may have removed or replaced it, and it is needed seldom.
        let mut file = match plain_file::open_with(OpenOptions::new().append(true), &self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.write_anew(),
            other => other?,
        };
        // In one piece, so that a crash cuts off one line at the most.
        file.write_all(&line(entry)?)?;
        self.lines = Some(lines + 1);
        Ok(())
    }

    /// Replaces the file by one that has each thread once.
    fn write_anew(&mut self) -> io::Result<()> {
        let beside = with_suffix(&self.path, ".new");
        let mut options = OpenOptions::new();
        let mut file =
            plain_file::open_with(options.write(true).create(true).truncate(true).mode(0o600), &beside)?;
        let mut text = Vec::new();
        for entry in self.book.entries() {
            text.extend_from_slice(&line(&entry)?);
        }
        file.write_all(&text)?;
        file.sync_data()?;
        std::fs::rename(&beside, &self.path)?;
        self.lines = Some(self.book.len());
        Ok(())
    }
}

fn line(entry: &Entry) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use codexd_proto::thread_book::Permissions;
    use serde_json::{Value, json};

    use super::*;

    fn entry(thread: &str, kind: Option<&str>) -> Entry {
        let permissions = kind.map(|kind| Permissions {
            sandbox_policy: json!({"type": kind}),
            approval_policy: json!("never"),
            profile: Value::Null,
        });
        Entry { thread_id: thread.to_owned(), permissions }
    }

    fn threads(path: &Path) -> Vec<Entry> {
        read(path).unwrap().entries().collect()
    }

    #[test]
    fn what_was_remembered_is_read_again_and_only_the_user_can_read_it() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("x.threads.jsonl");
        assert_eq!(threads(&path), []);
        let writer = Writer::spawn(path.clone(), ThreadBook::default()).unwrap();
        for (thread, kind) in
            [("a", Some("readOnly")), ("b", Some("readOnly")), ("a", Some("workspaceWrite")), ("b", None)]
        {
            writer.changes().remember(entry(thread, kind));
        }
        drop(writer);
        assert_eq!(threads(&path), [entry("a", Some("workspaceWrite"))]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let writer = Writer::spawn(path.clone(), read(&path).unwrap()).unwrap();
        writer.changes().remember(entry("c", Some("readOnly")));
        drop(writer);
        assert_eq!(threads(&path), [entry("a", Some("workspaceWrite")), entry("c", Some("readOnly"))]);
    }

    #[test]
    fn what_is_no_entry_is_left_out_and_what_is_no_file_is_an_error() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("x.threads.jsonl");
        let good = String::from_utf8(line(&entry("a", Some("readOnly"))).unwrap()).unwrap();
        std::fs::write(&path, format!("garbage\n\n{good}{}", &good[..good.len() / 2])).unwrap();
        assert_eq!(threads(&path), [entry("a", Some("readOnly"))]);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        read(&path).unwrap_err();
    }

    #[test]
    fn the_file_does_not_grow_for_ever() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("x.threads.jsonl");
        let writer = Writer::spawn(path.clone(), ThreadBook::default()).unwrap();
        for round in 0..MOST_LINES + 10 {
            writer
                .changes()
                .remember(entry("a", Some(if round % 2 == 0 { "readOnly" } else { "workspaceWrite" })));
        }
        drop(writer);
        assert!(std::fs::read_to_string(&path).unwrap().lines().count() < 20);
        assert_eq!(threads(&path).len(), 1);
    }

    #[test]
    fn a_file_that_somebody_removes_is_written_anew() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("x.threads.jsonl");
        let mut book = Book { path: path.clone(), book: ThreadBook::default(), lines: None, failing: false };
        book.change(entry("a", Some("readOnly")));
        std::fs::remove_file(&path).unwrap();
        book.change(entry("b", Some("readOnly")));
        assert_eq!(threads(&path), [entry("a", Some("readOnly")), entry("b", Some("readOnly"))]);
    }

    #[test]
    fn a_disk_that_fails_is_tried_again() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("later/x.threads.jsonl");
        let mut book = Book { path: path.clone(), book: ThreadBook::default(), lines: None, failing: false };
        book.change(entry("a", Some("readOnly")));
        assert!(book.failing);
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        book.change(entry("b", Some("readOnly")));
        assert!(!book.failing);
        assert_eq!(threads(&path), [entry("a", Some("readOnly")), entry("b", Some("readOnly"))]);
    }
}
