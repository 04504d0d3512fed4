//! The thread that writes, and its queue.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use codexd_proto::status::Warning;
use parking_lot::Mutex;

use super::entry::Update;
use super::retention::Retention;
use super::store::{self, FileId, Store, StoreError};
use crate::os::memory;
use crate::os::unix_time::unix_ms;

/// Updates that can be queued for the thread.
const QUEUE: usize = 8_192;
/// Updates that are kept while the database cannot be written to.
const KEPT: usize = 32_768;
/// Updates of one transaction.
const BATCH: usize = 1_024;
/// Time between attempts to write.
const AGAIN: Duration = Duration::from_secs(1);
/// Time without an update after which the database is closed. An open one takes 300 KB of memory, and an idle daemon may
/// have nothing to write for days.
const QUIET: Duration = Duration::from_secs(5);
/// Batches between removals of old entries.
const PRUNE_EVERY: u32 = 256;
/// Time for writing the last updates when the daemon ends.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// The sending side of the ledger. Recording never blocks and never fails.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    /// Not a bounded channel: that one makes all its slots at once, a megabyte.
    sender: Option<Sender<Update>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Updates that are queued for the thread.
    queued: AtomicUsize,
    /// Updates that were not recorded.
    dropped: AtomicU64,
    /// Why it cannot be written to.
    problem: Mutex<Option<String>>,
}

/// The thread.
#[derive(Debug)]
pub(crate) struct Writer {
    ledger: Ledger,
    thread: Option<JoinHandle<()>>,
    done: Receiver<()>,
}

impl Ledger {
    /// Returns a ledger that records nothing.
    pub(crate) fn off() -> Ledger {
        Ledger { sender: None, shared: Arc::default() }
    }

    /// Queues an update.
    pub(crate) fn record(&self, update: Update) {
        let Some(sender) = &self.sender else { return };
        // Several threads may exceed the limit by one each.
        let full = self.shared.queued.load(Ordering::Relaxed) >= QUEUE;
        if full {
            return self.shared.drop_one();
        }
        self.shared.queued.fetch_add(1, Ordering::Relaxed);
        if sender.send(update).is_err() {
            self.shared.drop_one();
        }
    }

    /// Waits until everything queued before is written, at most 2 s. It blocks the thread.
    ///
    /// Returns whether it was written. What was not is written later, and the status reports the problem.
    pub(crate) fn flush(&self) -> bool {
        let (reached, written) = sync_channel(1);
        self.record(Update::Barrier(reached));
        self.sender.is_some() && written.recv_timeout(FINISH_WITHIN).is_ok()
    }

    /// Returns the warning for the status, if there is one.
    pub(crate) fn warnings(&self) -> Vec<Warning> {
        let problem = self.shared.problem.lock().clone();
        let dropped = self.shared.dropped.load(Ordering::Relaxed);
        if problem.is_none() && dropped == 0 {
            return Vec::new();
        }
        let lost = (dropped > 0).then(|| format!("{dropped} updates of the turn ledger were lost"));
        let message = problem.into_iter().chain(lost).collect::<Vec<_>>().join("; ");
        vec![Warning {
            code: "ledger".to_owned(),
            message,
            hint:
                "clients are served all the same; `codexd jobs list` and `codexd ctl history` may miss turns"
                    .to_owned(),
        }]
    }
}

impl Shared {
    fn drop_one(&self) {
        // The log reports it once; the status has the number.
        if self.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!("an update of the turn ledger is lost: the disk is too slow or cannot be written");
        }
    }

    fn set_problem(&self, problem: Option<String>) {
        let mut current = self.problem.lock();
        if let Some(text) = problem.as_ref().filter(|text| Some(*text) != current.as_ref()) {
            tracing::warn!(error = %text, "the turn ledger cannot be written");
        }
        *current = problem;
    }
}

impl Writer {
    /// Starts the thread, which opens the database. `generation` is that of this daemon, which holds the instance.
    pub(crate) fn start(path: PathBuf, generation: u64, keep: Retention) -> Writer {
        let (sender, receiver) = channel();
        let (say_done, done) = sync_channel(1);
        let shared = Arc::new(Shared::default());
        let work = Work {
            path,
            generation,
            keep,
            quiet: QUIET,
            shared: Arc::clone(&shared),
            store: None,
            closed: None,
            waiting: Vec::new(),
            try_at: None,
            batches: 0,
        };
        let thread = std::thread::Builder::new().name("ledger".to_owned()).spawn(move || {
            work.run(&receiver);
            let _ = say_done.send(());
        });
        let sender = match &thread {
            Ok(_) => Some(sender),
            Err(error) => {
                shared.set_problem(Some(format!("cannot start the thread of the turn ledger: {error}")));
                None
            }
        };
        Writer { ledger: Ledger { sender, shared }, thread: thread.ok(), done }
    }

    /// Returns a sending side.
    pub(crate) fn ledger(&self) -> Ledger {
        self.ledger.clone()
    }

    /// Waits until everything is written, at most 2 s. All other sending sides must be dropped before.
    pub(crate) fn finish(mut self) {
        self.ledger.sender = None;
        if self.done.recv_timeout(FINISH_WITHIN).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// The state of the thread.
struct Work {
    path: PathBuf,
    generation: u64,
    keep: Retention,
    /// Time without an update after which the database is closed.
    quiet: Duration,
    shared: Arc<Shared>,
    store: Option<Store>,
    /// The file of the database that was closed because there was nothing to write.
    closed: Option<FileId>,
    /// Not written yet.
    waiting: Vec<Update>,
    /// Earliest time of the next attempt.
    try_at: Option<Instant>,
    batches: u32,
}

impl Work {
    fn run(mut self, updates: &Receiver<Update>) {
        self.write();
        loop {
            let received = match (self.waiting.is_empty(), &self.store) {
                (false, _) => updates.recv_timeout(AGAIN),
                (true, Some(_)) => updates.recv_timeout(self.quiet),
                (true, None) => updates.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match received {
                Ok(update) => {
                    self.shared.queued.fetch_sub(1, Ordering::Relaxed);
                    self.keep(update);
                }
                Err(RecvTimeoutError::Timeout) if self.waiting.is_empty() => {
                    self.close();
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) if self.waiting.is_empty() => return,
                Err(RecvTimeoutError::Disconnected) => {
                    self.try_at = None;
                    return self.write();
                }
            }
            while self.waiting.len() < KEPT
                && let Ok(update) = updates.try_recv()
            {
                self.shared.queued.fetch_sub(1, Ordering::Relaxed);
                self.waiting.push(update);
            }
            self.write();
        }
    }

    fn keep(&mut self, update: Update) {
        if self.waiting.len() < KEPT {
            self.waiting.push(update);
        } else {
            self.shared.drop_one();
        }
    }

    /// Closes the database until there is something to write.
    fn close(&mut self) {
        self.closed = self.store.take().map(|store| store.file());
        // What SQLite held is scattered over what this thread has.
        memory::give_back_free();
    }

    /// Writes the queued updates, if that is possible now.
    fn write(&mut self) {
        if self.try_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        match self.attempt() {
            Ok(()) => {
                self.try_at = None;
                self.shared.set_problem(None);
            }
            Err(error) => {
                if !store::is_passing(&error) {
                    // Opening it again renames a damaged one.
                    (self.store, self.closed) = (None, None);
                }
                self.try_at = Some(Instant::now() + AGAIN);
                let path = self.path.display();
                self.shared.set_problem(Some(format!("the turn ledger `{path}` cannot be written: {error}")));
            }
        }
    }

    fn attempt(&mut self) -> Result<(), StoreError> {
        let file = self.store.as_ref().map(Store::file).or(self.closed);
        if file.is_some_and(|file| !store::is_at(&self.path, file)) {
            tracing::warn!(path = %self.path.display(), "the turn ledger is gone, and is begun again");
            (self.store, self.closed) = (None, None);
        }
        let store = match (&mut self.store, self.closed) {
            (Some(store), _) => store,
            (none, Some(file)) => {
                let store = Store::open_again(&self.path, file, self.generation)?;
                self.closed = None;
                none.insert(store)
            }
            (none, None) => {
                let (mut store, aside) = Store::open(&self.path, self.generation, unix_ms())?;
                if let Some(aside) = aside {
                    tracing::warn!(aside = %aside.display(), "the turn ledger was damaged; a new one is begun");
                }
                store.prune(self.keep, unix_ms())?;
                none.insert(store)
            }
        };
        while !self.waiting.is_empty() {
            let count = self.waiting.len().min(BATCH);
            store.write(&self.waiting[..count])?;
            for update in self.waiting.drain(..count) {
                if let Update::Barrier(reached) = update {
                    let _ = reached.try_send(());
                }
            }
            self.batches = self.batches.wrapping_add(1);
            if self.batches.is_multiple_of(PRUNE_EVERY) {
                store.prune(self.keep, unix_ms())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::os::file_name::with_suffix;

    fn started(turn: &str) -> Update {
        Update::Started {
            thread: "t".to_owned(),
            turn: turn.to_owned(),
            client: None,
            client_pid: None,
            cwd: None,
            sub_agent: false,
            at: 1,
        }
    }

    fn turns(path: &Path) -> i64 {
        let reader = store::open_to_read(path).unwrap().unwrap();
        reader.query_row("SELECT count(*) FROM turns", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_database_that_was_closed_because_nothing_was_written_goes_on_and_a_deleted_one_is_begun_again() {
        let dir = crate::os::test_dir::test_dir();
        let path = dir.path().join("x.turns.db");
        let work = Work {
            path: path.clone(),
            generation: 1,
            keep: Retention { turns: 100, age_ms: u64::MAX },
            quiet: Duration::from_millis(1),
            shared: Arc::default(),
            store: None,
            closed: None,
            waiting: Vec::new(),
            try_at: None,
            batches: 0,
        };
        let (sender, updates) = channel();
        let ledger = Ledger { sender: Some(sender), shared: Arc::clone(&work.shared) };
        // SQLite removes its journal when the last connection is closed.
        let closed = || {
            let until = Instant::now() + Duration::from_secs(60);
            while with_suffix(&path, "-wal").exists() {
                assert!(Instant::now() < until, "the database stays open");
                std::thread::yield_now();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(move || work.run(&updates));
            for turn in ["a", "b", "c"] {
                ledger.record(started(turn));
                assert!(ledger.flush());
                closed();
            }
            assert_eq!(turns(&path), 3);
            closed();
            std::fs::remove_file(&path).unwrap();
            ledger.record(started("d"));
            assert!(ledger.flush());
            assert_eq!(turns(&path), 1);
            assert_eq!(ledger.warnings().len(), 0);
            drop(ledger);
        });
    }
}
