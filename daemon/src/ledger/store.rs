//! The database: its schema, and writing to it.

use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use codexd_proto::capture::{KnownBy, Outcome, Tokens};
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, params};

use super::entry::Update;
use super::job::{DIED, JobRow, buried};
use super::retention::Retention;
use crate::os::file_name::with_suffix;
use crate::os::plain_file;

/// Time for another process to unlock the database.
const BUSY: Duration = Duration::from_secs(1);

/// KiB of the database that SQLite keeps in memory to write. It adds to the end of its tables and indexes, and needs few
/// pages at a time; the default is 2 MB.
const CACHE_KIB: i64 = 256;

/// The steps from each version of the schema to the next. A new database goes through all of them. A released step is
/// never changed.
pub(super) const MIGRATIONS: [&str; 2] = [
    "CREATE TABLE turns (
        id INTEGER PRIMARY KEY,
        generation INTEGER NOT NULL,
        thread TEXT NOT NULL,
        turn TEXT NOT NULL,
        client TEXT,
        client_pid INTEGER,
        cwd TEXT,
        sub_agent INTEGER NOT NULL DEFAULT 0,
        phase TEXT,
        started INTEGER NOT NULL,
        last_activity INTEGER NOT NULL,
        ended INTEGER,
        outcome TEXT,
        known_by TEXT,
        cause TEXT,
        tokens TEXT,
        UNIQUE (generation, thread, turn)
    );
    CREATE INDEX turns_open ON turns (generation) WHERE ended IS NULL;
    CREATE INDEX turns_ended ON turns (ended);",
    "CREATE TABLE jobs (
        id TEXT PRIMARY KEY,
        generation INTEGER NOT NULL,
        state TEXT NOT NULL,
        created INTEGER NOT NULL,
        ended INTEGER,
        thread TEXT,
        turn TEXT,
        body TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX jobs_turn ON jobs (thread, turn);
    CREATE TABLE job_lines (
        job TEXT NOT NULL,
        number INTEGER NOT NULL,
        at INTEGER NOT NULL,
        text TEXT NOT NULL,
        PRIMARY KEY (job, number)
    ) WITHOUT ROWID;",
];

/// Returns the file of an instance's ledger.
pub(crate) fn path(record: &Path) -> PathBuf {
    record.with_extension("turns.db")
}

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// It was written by a newer codexd.
    #[error("`{path}` was written by a newer codexd (its version is {found}, this one knows {known})")]
    Newer { path: String, found: i64, known: usize },
    /// It is not a database of codexd.
    #[error("`{path}` is damaged: {why}")]
    Damaged { path: String, why: String },
    /// Its path leads to something else.
    #[error("`{path}`: {why}")]
    NotAFile { path: String, why: String },
    /// SQLite reports an error.
    #[error("{0}")]
    Database(#[from] rusqlite::Error),
    /// The system reports an error.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl StoreError {
    /// Returns whether a new database in its place solves the problem.
    fn is_damage(&self) -> bool {
        match self {
            StoreError::Damaged { .. } => true,
            StoreError::Database(error) => matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
            ),
            _ => false,
        }
    }
}

/// Device and inode of the file of a database.
pub(super) type FileId = (u64, u64);

/// The database, open for writing.
pub(super) struct Store {
    connection: Connection,
    file: FileId,
    generation: u64,
}

impl Store {
    /// Opens the database, and creates it if it does not exist. A damaged one is renamed, and its new name returned
    /// as the second value. Entries without an end that belong to another generation are recorded as failed: their
    /// daemons are gone.
    pub(super) fn open(
        path: &Path,
        generation: u64,
        now: u64,
    ) -> Result<(Store, Option<PathBuf>), StoreError> {
        match Store::open_as_it_is(path, generation, now) {
            Err(error) if error.is_damage() => {
                let aside = put_aside(path, now)?;
                Store::open_as_it_is(path, generation, now).map(|store| (store, Some(aside)))
            }
            result => result.map(|store| (store, None)),
        }
    }

    fn open_as_it_is(path: &Path, generation: u64, now: u64) -> Result<Store, StoreError> {
        plain_file::check_path(path).map_err(|error| StoreError::NotAFile {
            path: path.display().to_string(),
            why: error.to_string(),
        })?;
        // SQLite would create it with the umask of the process.
        drop(std::fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?);
        let mut connection = open_to_write(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        migrate(&mut connection, path)?;
        let sound: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if sound != "ok" {
            return Err(StoreError::Damaged { path: path.display().to_string(), why: sound });
        }
        let file = identity(path)?;
        let mut store = Store { connection, file, generation };
        store.bury(now)?;
        Ok(store)
    }

    /// Opens a database that this process has had open before, and that [is still there](is_at). It is not checked again.
    pub(super) fn open_again(path: &Path, file: FileId, generation: u64) -> Result<Store, StoreError> {
        Ok(Store { connection: open_to_write(path)?, file, generation })
    }

    /// Returns its file.
    pub(super) fn file(&self) -> FileId {
        self.file
    }

    /// Records that what ran under other generations has failed.
    fn bury(&mut self, now: u64) -> Result<(), StoreError> {
        let transaction = self.connection.transaction()?;
        transaction.execute(
            "UPDATE turns SET ended = ?1, outcome = 'failed', known_by = ?2, cause = ?3
             WHERE ended IS NULL AND generation <> ?4",
            params![now, KnownBy::DaemonDied.word(), DIED, self.generation],
        )?;
        let open: Vec<String> = transaction
            .prepare("SELECT body FROM jobs WHERE ended IS NULL AND generation <> ?1")?
            .query_map([self.generation], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        for body in open {
            if let Ok(row) = serde_json::from_str::<JobRow>(&body) {
                write_job(&transaction, &buried(row, now))?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// Writes all updates, or none.
    pub(super) fn write(&mut self, updates: &[Update]) -> Result<(), StoreError> {
        let generation = self.generation;
        let transaction = self.connection.transaction()?;
        for update in updates {
            write(&transaction, generation, update)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Removes what exceeds the limits on number and age.
    pub(super) fn prune(&mut self, keep: Retention, now: u64) -> Result<(), StoreError> {
        let oldest = now.saturating_sub(keep.age_ms);
        let transaction = self.connection.transaction()?;
        transaction.execute(
            "DELETE FROM turns WHERE ended IS NOT NULL AND (ended < ?1 OR id IN
                (SELECT id FROM turns WHERE ended IS NOT NULL ORDER BY ended DESC LIMIT -1 OFFSET ?2))",
            params![oldest, keep.turns],
        )?;
        transaction.execute("DELETE FROM jobs WHERE ended < ?1", [oldest])?;
        transaction.execute("DELETE FROM job_lines WHERE job NOT IN (SELECT id FROM jobs)", [])?;
        transaction.commit()?;
        Ok(())
    }
}

/// Brings a database to the current version of the schema.
///
/// # Errors
///
/// If it has a later version.
fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let known = MIGRATIONS.len();
    let Some(missing) = usize::try_from(found).ok().and_then(|found| MIGRATIONS.get(found..)) else {
        return Err(StoreError::Newer { path: path.display().to_string(), found, known });
    };
    if missing.is_empty() {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    for step in missing {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    Ok(())
}

fn write(transaction: &Transaction<'_>, generation: u64, update: &Update) -> Result<(), StoreError> {
    match update {
        Update::Started { thread, turn, client, client_pid, cwd, sub_agent, at } => {
            transaction
                .prepare_cached(
                    "INSERT INTO turns
                        (generation, thread, turn, client, client_pid, cwd, sub_agent, started, last_activity)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8)
                     ON CONFLICT DO UPDATE SET client = ?4, client_pid = ?5, cwd = ?6, sub_agent = ?7",
                )?
                .execute(params![generation, thread, turn, client, client_pid, cwd, sub_agent, at])?;
        }
        Update::Progress { thread, turn, phase, tokens, at } => {
            transaction
                .prepare_cached(
                    "UPDATE turns SET last_activity = ?4, phase = coalesce(?5, phase), tokens = coalesce(?6, tokens)
                     WHERE generation = ?1 AND thread = ?2 AND turn = ?3 AND ended IS NULL",
                )?
                .execute(params![generation, thread, turn, at, phase, json(*tokens)])?;
        }
        Update::Interrupted { thread, turn, cause } => {
            transaction
                .prepare_cached(
                    "UPDATE turns SET cause = ?4
                     WHERE generation = ?1 AND thread = ?2 AND turn = ?3 AND ended IS NULL",
                )?
                .execute(params![generation, thread, turn, cause])?;
        }
        Update::Ended { thread, turn, outcome, known_by, tokens, began, at } => {
            // A turn whose upstream was lost is recorded as failed. `known_by` has the difference.
            let outcome = if *outcome == Outcome::Lost { Outcome::Failed } else { *outcome };
            transaction
                .prepare_cached(
                    "INSERT INTO turns
                        (generation, thread, turn, started, last_activity, ended, outcome, known_by, tokens)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6, ?7, ?8)
                     ON CONFLICT DO UPDATE SET last_activity = ?5, ended = ?5, outcome = ?6, known_by = ?7,
                        tokens = coalesce(?8, tokens)
                     WHERE ended IS NULL",
                )?
                .execute(params![
                    generation,
                    thread,
                    turn,
                    began,
                    at,
                    outcome.word(),
                    known_by.word(),
                    json(*tokens)
                ])?;
        }
        Update::Barrier(_) => {}
        Update::UpstreamStderr(lines) => {
            let lines = serde_json::to_string(lines).map_err(io::Error::from)?;
            transaction.execute(
                "UPDATE jobs SET body = json_set(body, '$.upstreamStderr', json(?1))
                 WHERE generation = ?2 AND json_extract(body, '$.knownBy') = ?3",
                params![lines, generation, KnownBy::UpstreamLost.word()],
            )?;
        }
        Update::Job(row) => write_job(transaction, row)?,
        Update::JobLine(line) => {
            transaction
                .prepare_cached(
                    "INSERT OR IGNORE INTO job_lines (job, number, at, text) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(params![line.job, line.number, line.at_unix_ms, line.text])?;
        }
        Update::ForgetJobs(ids) => {
            for id in ids {
                transaction.execute("DELETE FROM jobs WHERE id = ?1 AND ended IS NOT NULL", [id])?;
                transaction.execute("DELETE FROM job_lines WHERE job NOT IN (SELECT id FROM jobs)", [])?;
            }
        }
    }
    Ok(())
}

fn write_job(transaction: &Transaction<'_>, row: &JobRow) -> Result<(), StoreError> {
    let body = serde_json::to_string(row).map_err(io::Error::from)?;
    // An ended job does not change any more.
    transaction
        .prepare_cached(
            "INSERT INTO jobs (id, generation, state, created, ended, thread, turn, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT DO UPDATE SET generation = ?2, state = ?3, ended = ?5, thread = ?6, turn = ?7, body = ?8
             WHERE ended IS NULL",
        )?
        .execute(params![
            row.id,
            row.generation,
            row.state.word(),
            row.created_unix_ms,
            row.ended_unix_ms.filter(|_| row.state.is_over()),
            row.thread_id,
            row.turn_id,
            body
        ])?;
    Ok(())
}

fn json(tokens: Option<Tokens>) -> Option<String> {
    serde_json::to_string(&tokens?).ok()
}

fn identity(path: &Path) -> io::Result<FileId> {
    let found = std::fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// Returns whether the path still leads to the file of a database.
pub(super) fn is_at(path: &Path, file: FileId) -> bool {
    identity(path).is_ok_and(|found| found == file)
}

/// Opens the file of a database, which must exist.
fn open_to_write(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    // Nothing is lost if the process is killed. A loss of power can lose the last transactions.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // Negative: KiB and not pages.
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    Ok(connection)
}

/// Renames a damaged database and the files that SQLite keeps for it. Returns its new name.
fn put_aside(path: &Path, now: u64) -> Result<PathBuf, StoreError> {
    let aside = with_suffix(path, &format!(".damaged-{now}"));
    std::fs::rename(path, &aside)?;
    for beside in ["-wal", "-shm"] {
        let _ = std::fs::rename(with_suffix(path, beside), with_suffix(&aside, beside));
    }
    Ok(aside)
}

/// Opens the database for reading. Returns `Ok(None)` if there is none.
///
/// # Errors
///
/// See [`StoreError`].
pub(super) fn open_to_read(path: &Path) -> Result<Option<Connection>, StoreError> {
    if !path.exists() {
        return Ok(None);
    }
    // Reading what the last writer left in its journal needs write permission for the directory.
    let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_READ_WRITE)
        .or_else(|_| Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_READ_ONLY))?;
    connection.busy_timeout(BUSY)?;
    let shown = || path.display().to_string();
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(|error| {
        match StoreError::Database(error) {
            damage if damage.is_damage() => StoreError::Damaged { path: shown(), why: damage.to_string() },
            other => other,
        }
    })?;
    let known = MIGRATIONS.len();
    match usize::try_from(found) {
        Ok(0) => Ok(None),
        Ok(found) if found == known => Ok(Some(connection)),
        Ok(found) if found < known => {
            let mut connection = connection;
            migrate(&mut connection, path)?;
            Ok(Some(connection))
        }
        _ => Err(StoreError::Newer { path: shown(), found, known }),
    }
}

/// Returns whether a later attempt can succeed, and the file is not at fault.
pub(super) fn is_passing(error: &StoreError) -> bool {
    matches!(error, StoreError::Database(error) if matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::DiskFull)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_of_the_first_version_is_brought_to_this_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.turns.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(MIGRATIONS[0]).unwrap();
        old.execute_batch(
            "INSERT INTO turns (generation, thread, turn, started, last_activity) VALUES (1,'t','u',1,1)",
        )
        .unwrap();
        old.pragma_update(None, "user_version", 1).unwrap();
        drop(old);
        let (store, aside) = Store::open(&path, 2, 9).unwrap();
        assert_eq!(aside, None);
        let (outcome, ended): (String, i64) = store
            .connection
            .query_row("SELECT outcome, ended FROM turns", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        assert_eq!((outcome.as_str(), ended), ("failed", 9));
        let jobs: i64 =
            store.connection.query_row("SELECT count(*) FROM jobs", [], |row| row.get(0)).unwrap();
        assert_eq!(jobs, 0);
    }

    #[test]
    fn a_database_of_a_newer_codexd_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.turns.db");
        let (store, _) = Store::open(&path, 1, 1).unwrap();
        store.connection.pragma_update(None, "user_version", 99).unwrap();
        drop(store);
        assert!(matches!(Store::open(&path, 1, 1), Err(StoreError::Newer { found: 99, .. })));
        assert!(matches!(open_to_read(&path), Err(StoreError::Newer { .. })));
    }

    #[test]
    fn a_damaged_database_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.turns.db");
        std::fs::write(&path, "this is no database, and long enough to be read as one").unwrap();
        assert!(matches!(open_to_read(&path), Err(StoreError::Damaged { .. })));
        let (_store, aside) = Store::open(&path, 1, 7).unwrap();
        let aside = aside.unwrap();
        assert!(aside.to_str().unwrap().ends_with("x.turns.db.damaged-7"));
        assert!(std::fs::read(aside).unwrap().starts_with(b"this is no database"));
    }
}
