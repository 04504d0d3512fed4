//! Reading the ledger.

use std::path::Path;

use codexd_proto::capture::KnownBy;
use codexd_proto::exit::ExitCode;
use rusqlite::{Connection, Row, params};

use super::alive::Alive;
use super::entry::Entry;
use super::job::{DIED, JobLine, JobRow, buried};
use super::store::{self, StoreError, path};
use crate::error::Error;
use crate::settings::paths::Paths;

/// The ledger, open for reading.
pub(crate) struct Reader {
    /// `None` if no daemon of this instance has written one.
    connection: Option<Connection>,
    alive: Alive,
}

impl Reader {
    /// Opens the ledger of an instance, with or without a daemon.
    ///
    /// # Errors
    ///
    /// If it cannot be read, with the next step.
    pub(crate) fn open(paths: &Paths) -> Result<Reader, Error> {
        let path = path(&paths.record);
        let connection = store::open_to_read(&path).map_err(|error| unreadable(&path, error))?;
        Ok(Reader { connection, alive: Alive::of(paths) })
    }

    /// Returns the running turns and those whose daemon is gone, then at most `limit` others, each group latest first.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub(crate) fn turns(&self, limit: u64) -> Result<Vec<Entry>, Error> {
        let Some(connection) = &self.connection else { return Ok(Vec::new()) };
        let read = || -> rusqlite::Result<Vec<Entry>> {
            let mut turns = Vec::new();
            for condition in ["ended IS NULL ORDER BY started DESC", "ended IS NOT NULL ORDER BY ended DESC"]
            {
                let mut query = connection.prepare(&format!(
                    "SELECT generation, thread, turn, client, client_pid, cwd, sub_agent, phase, started,
                        last_activity, ended, outcome, known_by, cause, tokens,
                        (SELECT id FROM jobs WHERE jobs.thread = turns.thread AND jobs.turn = turns.turn)
                     FROM turns WHERE {condition} LIMIT ?1"
                ))?;
                let found = query.query_map([limit], |row| self.entry(row))?;
                turns.extend(found.collect::<rusqlite::Result<Vec<Entry>>>()?);
            }
            turns.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            Ok(turns)
        };
        read().map_err(|error| failed(error.into()))
    }

    /// Returns the turns that were lost with the daemon of a generation or with its codex, the latest first.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub(crate) fn lost(&self, generation: u64) -> Result<Vec<Entry>, Error> {
        let mut turns = self.turns(u64::from(u32::MAX))?;
        let words = [KnownBy::UpstreamLost.word(), KnownBy::DaemonDied.word()];
        turns.retain(|turn| {
            turn.generation == generation
                && turn.known_by.as_deref().is_some_and(|known| words.contains(&known))
        });
        Ok(turns)
    }

    fn entry(&self, row: &Row<'_>) -> rusqlite::Result<Entry> {
        let generation = row.get(0)?;
        let ended: Option<u64> = row.get(10)?;
        let died = ended.is_none() && !self.alive.includes(generation);
        let last_activity_unix_ms = row.get(9)?;
        let outcome: Option<String> = row.get(11)?;
        let tokens: Option<String> = row.get(14)?;
        Ok(Entry {
            state: match outcome {
                Some(outcome) => outcome,
                None if died => "failed".to_owned(),
                None => "running".to_owned(),
            },
            thread_id: row.get(1)?,
            turn_id: row.get(2)?,
            job: row.get(15)?,
            client: row.get(3)?,
            client_pid: row.get(4)?,
            cwd: row.get(5)?,
            sub_agent: row.get(6)?,
            phase: row.get(7)?,
            started_unix_ms: row.get(8)?,
            last_activity_unix_ms,
            ended_unix_ms: if died { Some(last_activity_unix_ms) } else { ended },
            known_by: if died { Some(KnownBy::DaemonDied.word().to_owned()) } else { row.get(12)? },
            cause: if died { Some(DIED.to_owned()) } else { row.get(13)? },
            tokens: tokens.and_then(|text| serde_json::from_str(&text).ok()),
            generation,
        })
    }

    /// Returns the running jobs and those whose daemon is gone, then the others, each group latest first.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub(crate) fn jobs(&self) -> Result<Vec<JobRow>, Error> {
        let Some(connection) = &self.connection else { return Ok(Vec::new()) };
        let read = || -> rusqlite::Result<Vec<JobRow>> {
            let mut query = connection
                .prepare("SELECT body FROM jobs ORDER BY ended IS NOT NULL, ended DESC, created DESC")?;
            let bodies = query.query_map([], |row| row.get::<_, String>(0))?;
            let bodies: Vec<String> = bodies.collect::<rusqlite::Result<_>>()?;
            // A job that this version cannot read was written by a newer one.
            Ok(bodies.iter().filter_map(|body| Some(self.job_of(serde_json::from_str(body).ok()?))).collect())
        };
        read().map_err(|error| failed(error.into()))
    }

    fn job_of(&self, row: JobRow) -> JobRow {
        if row.state.is_over() || self.alive.includes(row.generation) {
            return row;
        }
        let at = row.last_activity_unix_ms;
        buried(row, at)
    }

    /// Returns the job with this id, or the only one whose id begins with it.
    ///
    /// # Errors
    ///
    /// With exit code 64 if there is none, or more than one.
    pub(crate) fn job(&self, id: &str) -> Result<JobRow, Error> {
        let mut found: Vec<JobRow> = self.jobs()?;
        found.retain(|job| job.id.starts_with(id));
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => {
                Err(Error::usage(format!("there is no job `{id}`")).hint("`codexd jobs list` shows all jobs"))
            }
            count => {
                let names: Vec<&str> = found.iter().take(5).map(|job| &*job.id).collect();
                Err(Error::usage(format!("{count} jobs begin with `{id}`: {}", names.join(", ")))
                    .hint("write more of the id"))
            }
        }
    }

    /// Returns the lines of a job's log after the line with this number.
    ///
    /// # Errors
    ///
    /// When the ledger cannot be read.
    pub(crate) fn job_lines(&self, job: &str, after: u64) -> Result<Vec<JobLine>, Error> {
        let Some(connection) = &self.connection else { return Ok(Vec::new()) };
        let read = || -> rusqlite::Result<Vec<JobLine>> {
            let mut query = connection.prepare(
                "SELECT job, number, at, text FROM job_lines WHERE job = ?1 AND number > ?2 ORDER BY number",
            )?;
            let lines = query.query_map(params![job, after], |row| {
                Ok(JobLine {
                    job: row.get(0)?,
                    number: row.get(1)?,
                    at_unix_ms: row.get(2)?,
                    text: row.get(3)?,
                })
            })?;
            lines.collect()
        };
        read().map_err(|error| failed(error.into()))
    }
}

fn failed(error: StoreError) -> Error {
    Error::os("cannot read the turn ledger").because(error)
}

fn unreadable(path: &Path, error: StoreError) -> Error {
    let hint = match &error {
        StoreError::Newer { .. } => "use that version, or move the file away".to_owned(),
        StoreError::Damaged { .. } => {
            "the next daemon puts it aside and begins a new one: `codexd ctl stop`".to_owned()
        }
        _ => format!("ls -l {}", path.display()),
    };
    Error::new(ExitCode::Os, "cannot read the turn ledger").because(error).hint(hint)
}
