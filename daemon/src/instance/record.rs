//! What outlives the daemon: how many there have been, and how the last one ended.
//!
//! One JSON file for each instance in the state directory, written whole beside its place and renamed. The daemon
//! does not depend on it: without it there is a warning and a generation taken from the clock, and processes that a
//! killed daemon left cannot be distinguished from those that are not codexd's.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use codexd_proto::exit::ExitCode;
use codexd_proto::start_back_off::EarlyEnds;
use codexd_proto::status::{FailedStart, LastExit, Warning};
use codexd_proto::stderr::explained;
use serde::{Deserialize, Serialize};

use super::failed_start;
use super::life::Token;
use crate::error::Error;
use crate::os::file_name::with_suffix;
use crate::os::plain_file::{self, NotRegular};
use crate::os::private_dir;
use crate::os::unix_time::unix_ms;
use crate::settings::paths::Paths;

/// Lives that are remembered until nothing is left of them; of more than these, which takes as many daemons
/// killed in a row with processes that nothing ends, the oldest are forgotten.
const MAX_LIVES: usize = 16;

/// The file of one instance, in the hands of the daemon that runs.
///
/// A record that is dropped without [`Record::finish`] shows that the daemon was killed.
#[derive(Debug)]
pub(crate) struct Record {
    finished: bool,
    path: PathBuf,
    control_socket: PathBuf,
    lock: PathBuf,
    generation: u64,
    started_unix_ms: u64,
    /// For the uptime: setting the clock does not change it.
    began: Instant,
    last_exit: Option<LastExit>,
    warning: Option<Warning>,
    early_ends: EarlyEnds,
    auto_spawned: bool,
    /// The last lines of the upstream's stderr, if it ended unasked.
    upstream_stderr: Vec<String>,
    /// Of this daemon, and before it those of earlier ones of which something may be left.
    lives: Vec<Token>,
}

/// What stands in the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Contents {
    /// Of the daemon that started last.
    generation: u64,
    /// Of the daemon that started last: how a `ctl` that knows only this socket finds the record.
    control_socket: PathBuf,
    /// The lock it held.
    lock: PathBuf,
    /// Present while the daemon runs, and after it if it could not record its exit.
    running: Option<Running>,
    /// The last exit that a daemon recorded.
    last_exit: Option<LastExit>,
    /// Whether those that clients started keep failing.
    early_ends: EarlyEnds,
    /// Lives of which processes may be left, the latest last: that of the daemon that runs, and those of daemons
    /// that could not see to it.
    lives: Vec<Token>,
}

/// The mark of a daemon that has started and not ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Running {
    /// For people; never signalled.
    pid: u32,
    generation: u64,
    started_unix_ms: u64,
}

impl Contents {
    /// How the previous daemon ended: the exit that it recorded, or the fact that it recorded none.
    fn last_exit(self) -> Option<LastExit> {
        match self.running {
            Some(running) => Some(LastExit {
                code: None,
                reason: "left no record (killed?)".to_owned(),
                upstream: None,
                upstream_stderr: Vec::new(),
                generation: running.generation,
                at_unix_ms: None,
                uptime_ms: None,
            }),
            None => self.last_exit,
        }
    }
}

impl Record {
    /// Begins the record of a daemon: counts it and marks it as running. `life` is the token that everything
    /// will carry that it starts.
    ///
    /// The caller holds the lock of the instance. A record that cannot be kept is no error, see
    /// [`Record::warning`].
    ///
    /// # Errors
    ///
    /// With exit code 73 when something else than a regular file is in its place.
    pub(crate) fn begin(paths: &Paths, auto_spawned: bool, life: Token) -> Result<Record, Error> {
        let (path, state_dir) = (paths.record.clone(), &paths.state_dir);
        for path in [&path, &beside(&path)] {
            plain_file::check_path(path).map_err(|error| not_regular(path, error))?;
        }
        let started_unix_ms = unix_ms();
        let from_clock = started_unix_ms / 1000;
        let mut problem = private_dir::ensure_state(state_dir)
            .err()
            .map(|error| format!("cannot create the directory `{}`: {error}", state_dir.display()));
        let found = match read(&path) {
            Ok(found) => found,
            Err(error) if NotRegular::caused(&error) => return Err(not_regular(&path, error)),
            Err(error) => {
                problem.get_or_insert(format!("cannot read `{}`: {error}", path.display()));
                Some(Contents { generation: from_clock.saturating_sub(1), ..Contents::default() })
            }
        };
        let found = found.unwrap_or_default();
        let mut generation = found.generation.saturating_add(1);
        let (early_ends, mut lives) = (found.early_ends.clone(), found.lives.clone());
        let last_exit = failed_start::later(found.last_exit(), failed_start::read(&path));
        lives.push(life);
        lives.drain(..lives.len().saturating_sub(MAX_LIVES));
        let contents = Contents {
            generation,
            control_socket: paths.control_socket.clone(),
            lock: paths.lock.clone(),
            running: Some(Running { pid: std::process::id(), generation, started_unix_ms }),
            last_exit: last_exit.clone(),
            early_ends: early_ends.clone(),
            lives: lives.clone(),
        };
        match write(&path, &contents) {
            // From now on it stands here.
            Ok(()) => failed_start::clear(&path),
            Err(error) => {
                problem.get_or_insert(format!("cannot write `{}`: {error}", path.display()));
                generation = generation.max(from_clock);
            }
        }
        let warning = problem.map(|message| Warning {
            code: "noRecord".to_owned(),
            message: format!("{message}; the generation is taken from the clock"),
            hint: format!("make `{}` readable and writable, or set STATE_DIRECTORY", state_dir.display()),
        });
        let (control_socket, lock) = (contents.control_socket, contents.lock);
        Ok(Record {
            finished: false,
            path,
            control_socket,
            lock,
            generation,
            started_unix_ms,
            began: Instant::now(),
            last_exit,
            warning,
            early_ends,
            auto_spawned,
            upstream_stderr: Vec::new(),
            lives,
        })
    }

    /// Returns the number of this daemon.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns when this daemon started, in milliseconds since the epoch.
    pub(crate) fn started_unix_ms(&self) -> u64 {
        self.started_unix_ms
    }

    /// Returns how the daemon before this one ended.
    pub(crate) fn last_exit(&self) -> Option<&LastExit> {
        self.last_exit.as_ref()
    }

    /// Returns what an operator should know if the record could not be kept.
    pub(crate) fn warning(&self) -> Option<&Warning> {
        self.warning.as_ref()
    }

    /// Adds what the upstream wrote before it ended unasked.
    #[must_use]
    pub(crate) fn with_stderr(mut self, lines: Vec<String>) -> Record {
        self.upstream_stderr = lines;
        self
    }

    /// Returns the lives of earlier daemons of which something may be left.
    pub(crate) fn earlier_lives(&self) -> &[Token] {
        self.lives.split_last().map_or(&[], |(_, earlier)| earlier)
    }

    /// Says that nothing is left of the earlier lives; the file follows when this one ends.
    pub(crate) fn forget_earlier_lives(&mut self) {
        self.lives.drain(..self.lives.len().saturating_sub(1));
    }

    /// Says that nothing is left of this life either; to be called when nothing is started any more.
    pub(crate) fn forget_this_life(&mut self) {
        self.lives.pop();
    }

    /// Writes how this daemon ends: its exit code, why, and how the upstream ended if it ran.
    ///
    /// To be called before the lock is let go.
    pub(crate) fn finish(mut self, code: ExitCode, reason: impl Into<String>, upstream: Option<String>) {
        self.write_exit(code, reason.into(), upstream);
    }

    fn write_exit(&mut self, code: ExitCode, reason: String, upstream: Option<String>) {
        self.finished = true;
        let now = unix_ms();
        let uptime_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let upstream_stderr = std::mem::take(&mut self.upstream_stderr);
        let explained = explained(&reason, &upstream_stderr);
        let early_ends = self.early_ends.after(self.auto_spawned, code, &explained, uptime_ms, now);
        let last_exit = LastExit {
            code: Some(code.number()),
            reason,
            upstream,
            upstream_stderr,
            generation: self.generation,
            at_unix_ms: Some(now),
            uptime_ms: Some(uptime_ms),
        };
        let contents = Contents {
            generation: self.generation,
            control_socket: self.control_socket.clone(),
            lock: self.lock.clone(),
            running: None,
            last_exit: Some(last_exit),
            early_ends,
            lives: std::mem::take(&mut self.lives),
        };
        if let Err(error) = write(&self.path, &contents) {
            tracing::warn!(record.path = %self.path.display(), %error, "cannot record how the daemon ends");
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.finished {
            let why = if std::thread::panicking() { "panicked" } else { "broke off" };
            self.write_exit(ExitCode::Software, why.to_owned(), None);
        }
    }
}

/// The daemon that had a control socket last.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Former {
    /// Its instance.
    pub(crate) instance: String,
    /// Its control socket: the one asked for, except where only the instance fits.
    pub(crate) control_socket: PathBuf,
    /// The lock it held, or still holds.
    pub(crate) lock: PathBuf,
    /// How it ended, or why a later one did not start; means nothing while the lock is held.
    pub(crate) last_exit: Option<LastExit>,
    /// The last exit that a daemon recorded, whether or not another one runs since.
    pub(crate) recorded_exit: Option<LastExit>,
    /// The last start that failed since it began.
    pub(crate) failed_start: Option<FailedStart>,
}

/// Finds the record of the daemon that had the control socket of `paths`; to be called when no process listens there.
///
/// That of the instance if it fits, else any: the path of a named socket does not identify the instance. Where the
/// socket is the instance's own, the instance is known without a record.
pub(crate) fn former(paths: &Paths) -> Option<Former> {
    let others = std::fs::read_dir(&paths.state_dir).into_iter().flatten();
    let others = others.filter_map(|entry| Some(entry.ok()?.path()));
    std::iter::once(paths.record.clone())
        .chain(others.filter(|path| path.extension().is_some_and(|extension| extension == "json")))
        .find_map(|path| {
            let contents = read(&path).ok()??;
            (contents.control_socket == paths.control_socket).then(|| Former::of(&path, contents))?
        })
        .or_else(|| {
            // No daemon has had this socket. One of this instance that failed to start was to have it.
            if !paths.control_socket_is_default() && failed_start::read(&paths.record).is_none() {
                return None;
            }
            let contents = read(&paths.record).ok().flatten().unwrap_or_else(|| Contents {
                control_socket: paths.control_socket.clone(),
                lock: paths.lock.clone(),
                ..Contents::default()
            });
            let contents = Contents { control_socket: paths.control_socket.clone(), ..contents };
            Former::of(&paths.record, contents)
        })
}

/// Returns every daemon that has a record in the state directory or a lock in the runtime directory, by its name.
///
/// The record says where its sockets are, also those that were named. Where none could be written, the lock says the
/// instance, which has the usual sockets.
pub(crate) fn all(paths: &Paths) -> Vec<Former> {
    let entries = |dir: &Path, extension: &str| -> Vec<PathBuf> {
        let paths = std::fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
        paths.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
    };
    let mut all: BTreeMap<String, Former> = BTreeMap::new();
    for record in entries(&paths.state_dir, "json") {
        let contents = read(&record).ok().flatten();
        // Not a file of codexd's, or of a version whose records did not contain it.
        let known = contents.filter(|contents| !contents.lock.as_os_str().is_empty());
        if let Some(former) = known.and_then(|contents| Former::of(&record, contents)) {
            all.insert(former.instance.clone(), former);
        }
    }
    for lock in entries(&paths.runtime_dir, "lock") {
        let Some(instance) = lock.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned) else {
            continue;
        };
        all.entry(instance.clone()).or_insert_with(|| Former {
            instance,
            control_socket: lock.with_extension("ctl.sock"),
            lock,
            last_exit: None,
            recorded_exit: None,
            failed_start: None,
        });
    }
    all.into_values().collect()
}

impl Former {
    fn of(record: &Path, contents: Contents) -> Option<Former> {
        let failed_start = failed_start::read(record);
        Some(Former {
            instance: record.file_stem()?.to_str()?.to_owned(),
            control_socket: contents.control_socket.clone(),
            lock: contents.lock.clone(),
            recorded_exit: contents.last_exit.clone(),
            last_exit: failed_start::later(contents.last_exit(), failed_start.clone()),
            failed_start,
        })
    }
}

/// Returns whether daemons of this record keep failing at their start.
pub(crate) fn early_ends(record: &Path) -> EarlyEnds {
    read(record).ok().flatten().map(|contents| contents.early_ends).unwrap_or_default()
}

/// Returns the generation of the daemon that runs, after its record and its lock.
pub(crate) fn running_generation(record: &Path, lock: &Path) -> Option<u64> {
    if super::lock::is_free(lock) {
        return None;
    }
    read(record).ok()??.running.map(|running| running.generation)
}

/// Returns the generation of the daemon that ended last.
pub(crate) fn last_ended_generation(record: &Path, lock: &Path) -> Option<u64> {
    let contents = read(record).ok()??;
    match contents.running {
        // One that left without a word.
        Some(running) if super::lock::is_free(lock) => Some(running.generation),
        _ => contents.last_exit.map(|exit| exit.generation),
    }
}

/// Returns the control socket of the daemon that, after this record, runs; to be believed only while its
/// lock is held.
pub(crate) fn control_socket_of_running(record: &Path) -> Option<PathBuf> {
    let contents = read(record).ok()??;
    contents.running.map(|_| contents.control_socket)
}

/// Returns how the daemon of this generation ended, if the record contains it: also while the next one runs.
pub(crate) fn exit_of(record: &Path, generation: u64) -> Option<LastExit> {
    let contents = read(record).ok()??;
    let recorded = contents.last_exit.clone();
    let of_it = |exit: &LastExit| exit.generation == generation;
    recorded.filter(of_it).or_else(|| contents.last_exit().filter(of_it))
}

/// Returns the lives of this record of which something may be left, if no daemon runs.
pub(crate) fn lives(record: &Path) -> Vec<Token> {
    read(record).ok().flatten().map(|contents| contents.lives).unwrap_or_default()
}

/// Returns how the last daemon with this record ended, or why it did not start; to be asked when it is gone.
pub(crate) fn last_exit(record: &Path) -> Option<LastExit> {
    let exit = read(record).ok().flatten().and_then(Contents::last_exit);
    failed_start::later(exit, failed_start::read(record))
}

fn read(path: &Path) -> io::Result<Option<Contents>> {
    match plain_file::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where a record is written before it is renamed. The lock allows one writer, so that one name is enough; a
/// left-over is overwritten.
fn beside(path: &Path) -> PathBuf {
    with_suffix(path, ".new")
}

fn not_regular(path: &Path, error: io::Error) -> Error {
    Error::new(ExitCode::CannotCreate, format!("cannot use `{}` as a record", path.display()))
        .because(error)
        .hint(format!("move `{}` away, or set STATE_DIRECTORY", path.display()))
}

fn write(path: &Path, contents: &Contents) -> io::Result<()> {
    let beside = beside(path);
    let mut options = std::fs::OpenOptions::new();
    let mut file =
        plain_file::open_with(options.write(true).create(true).truncate(true).mode(0o600), &beside)?;
    file.write_all(&serde_json::to_vec(contents)?)?;
    file.sync_data()?;
    std::fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::environment::Environment;

    fn paths(state: &Path, instance: &str) -> Paths {
        let environment = Environment::of([("HOME", "/h"), ("STATE_DIRECTORY", state.to_str().unwrap())]);
        Paths::of(instance, None, None, &environment).unwrap()
    }

    fn begin(paths: &Paths, auto_spawned: bool) -> Record {
        Record::begin(paths, auto_spawned, Token::random().unwrap()).unwrap()
    }

    #[test]
    fn generations_count_and_the_last_exit_is_kept() {
        let dir = crate::os::test_dir::test_dir();
        let paths = paths(&dir.path().join("a/codexd"), "x");
        let first = begin(&paths, false);
        assert_eq!((first.generation(), first.last_exit(), first.warning()), (1, None, None));
        first.finish(ExitCode::UpstreamLost, "the upstream was lost", Some("exit status 0".to_owned()));
        assert_eq!(last_exit(&paths.record).unwrap().code, Some(1));
        let second = begin(&paths, false);
        assert_eq!(second.generation(), 2);
        let last = second.last_exit().unwrap();
        assert_eq!((last.code, last.generation, last.reason.as_str()), (Some(1), 1, "the upstream was lost"));
        assert!(last.at_unix_ms.unwrap() >= second.started_unix_ms() - last.uptime_ms.unwrap() - 60_000);
    }

    #[test]
    fn how_a_daemon_ended_is_found_while_the_next_one_runs() {
        let dir = crate::os::test_dir::test_dir();
        let paths = paths(dir.path(), "x");
        let first = begin(&paths, true).with_stderr(vec!["out of luck".to_owned()]);
        first.finish(ExitCode::UpstreamLost, "lost", None);
        let _next = begin(&paths, true);
        let recorded = former(&paths).unwrap().recorded_exit.unwrap();
        assert_eq!((recorded.generation, recorded.upstream_stderr), (1, vec!["out of luck".to_owned()]));
        assert_eq!(exit_of(&paths.record, 1).unwrap().code, Some(1));
        assert_eq!(exit_of(&paths.record, 2).unwrap().code, None, "it has recorded nothing yet");
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_make_a_long_life_an_early_end() {
        let dir = crate::os::test_dir::test_dir();
        let paths = paths(dir.path(), "x");
        let mut record = begin(&paths, true);
        record.started_unix_ms += 3_600_000;
        let Some(began) = record.began.checked_sub(std::time::Duration::from_secs(60)) else { return };
        record.began = began;
        record.finish(ExitCode::UpstreamLost, "lost", None);
        assert!(last_exit(&paths.record).unwrap().uptime_ms >= Some(60_000));
        assert_eq!(early_ends(&paths.record).count, 0);
    }

    #[test]
    fn a_daemon_that_was_killed_left_no_record() {
        let dir = crate::os::test_dir::test_dir();
        let paths = paths(dir.path(), "x");
        std::mem::forget(begin(&paths, false));
        let second = begin(&paths, false);
        let last = second.last_exit().unwrap();
        assert_eq!((last.code, last.generation), (None, 1));
        assert_eq!((last.at_unix_ms, last.uptime_ms), (None, None));
        assert_eq!(last.reason, "left no record (killed?)");
    }

    #[test]
    fn the_former_daemon_is_found_by_its_control_socket() {
        let dir = crate::os::test_dir::test_dir();
        let (x, y) = (paths(dir.path(), "x"), paths(dir.path(), "y"));
        assert_eq!(former(&x).unwrap().last_exit, None);
        begin(&x, false).finish(ExitCode::Stopped, "asked to", None);
        begin(&y, false).finish(ExitCode::UpstreamLost, "lost", None);
        assert_eq!(former(&x).unwrap().last_exit.unwrap().code, Some(0));
        let asked = Paths { control_socket: y.control_socket, ..x };
        assert_eq!(former(&asked).unwrap().instance, "y");
        assert_eq!(former(&Paths { control_socket: "/none".into(), ..asked }), None);
    }

    #[test]
    fn all_instances_are_found_by_their_records_and_their_locks() {
        let dir = crate::os::test_dir::test_dir();
        let own = |name: &str| Paths {
            runtime_dir: dir.path().join("run"),
            ..paths(&dir.path().join("state"), name)
        };
        let here = own("here");
        assert_eq!(all(&here), []);
        let begin = |paths: &Paths| Record::begin(paths, false, Token::random().unwrap()).unwrap();
        begin(&here).finish(ExitCode::Stopped, "asked to", None);
        let elsewhere = Paths { control_socket: "/named.ctl".into(), ..own("elsewhere") };
        std::mem::forget(begin(&elsewhere));
        std::fs::write(here.state_dir.join("other.json"), "{}").unwrap();
        std::fs::create_dir(&here.runtime_dir).unwrap();
        for name in ["here.lock", "bare.lock", "here.start"] {
            std::fs::write(here.runtime_dir.join(name), "").unwrap();
        }
        let found = all(&here);
        let names: Vec<&str> = found.iter().map(|former| former.instance.as_str()).collect();
        assert_eq!(names, ["bare", "elsewhere", "here"]);
        assert_eq!(found[0].control_socket, here.runtime_dir.join("bare.ctl.sock"));
        assert_eq!(found[0].last_exit, None);
        assert_eq!((&found[1].control_socket, &found[1].lock), (&elsewhere.control_socket, &elsewhere.lock));
        assert_eq!(found[2].last_exit.as_ref().unwrap().code, Some(0));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_replaced_and_said() {
        let dir = crate::os::test_dir::test_dir();
        let paths = paths(dir.path(), "x");
        std::fs::write(&paths.record, "{").unwrap();
        let record = begin(&paths, false);
        assert!(record.generation() > 1_000_000_000);
        assert_eq!(record.warning().unwrap().code, "noRecord");
        let generation = record.generation();
        drop(record);
        let next = begin(&paths, false);
        assert_eq!(next.generation(), generation + 1);
        assert_eq!(next.last_exit().unwrap().code, Some(70));
    }

    #[test]
    fn a_state_directory_that_cannot_be_made_is_said() {
        let dir = crate::os::test_dir::test_dir();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let record = begin(&paths(&dir.path().join("file/state"), "x"), false);
        assert!(record.generation() > 1_000_000_000);
        assert!(record.warning().unwrap().message.contains("cannot create the directory"));
    }

    #[test]
    fn failures_right_after_the_start_add_up_until_one_daemon_lives() {
        let dir = crate::os::test_dir::test_dir();
        let paths = paths(dir.path(), "x");
        for count in 1..=3 {
            begin(&paths, true).finish(ExitCode::UpstreamLost, "lost", None);
            assert_eq!(early_ends(&paths.record).count, count);
        }
        // A daemon that a person started does not count, and neither does one that was killed.
        begin(&paths, false).finish(ExitCode::UpstreamLost, "lost", None);
        std::mem::forget(begin(&paths, true));
        assert_eq!(early_ends(&paths.record).count, 3);
        assert_eq!(early_ends(&paths.record).reason, "lost");
        begin(&paths, true).finish(ExitCode::Stopped, "idle", None);
        assert_eq!(early_ends(&paths.record), EarlyEnds::default());
        let lived = EarlyEnds { count: 7, ..EarlyEnds::default() };
        assert_eq!(lived.after(true, ExitCode::UpstreamLost, "", 5_000, 1), EarlyEnds::default());
    }

    #[test]
    fn a_life_is_remembered_until_nothing_is_left_of_it() {
        let dir = crate::os::test_dir::test_dir();
        let paths = paths(dir.path(), "x");
        let token = |_| Token::random().unwrap();
        let lives: Vec<Token> = (0..4).map(token).collect();
        let start = |at: usize| Record::begin(&paths, false, lives[at]).unwrap();
        std::mem::forget(start(0));
        // This one is killed, too, before it could see to it.
        std::mem::forget(start(1));
        let mut third = start(2);
        assert_eq!(third.earlier_lives(), &lives[..2]);
        third.forget_earlier_lives();
        assert_eq!(third.earlier_lives(), []);
        // It could not end everything of its own.
        third.finish(ExitCode::Stopped, "asked to", None);
        let mut fourth = start(3);
        assert_eq!(fourth.earlier_lives(), &lives[2..3]);
        fourth.forget_earlier_lives();
        fourth.forget_this_life();
        fourth.finish(ExitCode::Stopped, "asked to", None);
        assert_eq!(begin(&paths, false).earlier_lives(), []);
    }

    #[test]
    fn no_more_lives_are_remembered_than_there_is_room_for() {
        let dir = crate::os::test_dir::test_dir();
        let paths = paths(dir.path(), "x");
        for _ in 0..MAX_LIVES + 5 {
            std::mem::forget(begin(&paths, false));
        }
        assert_eq!(begin(&paths, false).earlier_lives().len(), MAX_LIVES - 1);
    }

    #[test]
    fn a_start_that_failed_is_the_last_exit_for_the_next_daemon() {
        let dir = crate::os::test_dir::test_dir();
        let paths = paths(dir.path(), "x");
        begin(&paths, false).finish(ExitCode::Stopped, "asked to", None);
        let failed = FailedStart {
            code: 69,
            reason: "no codex".to_owned(),
            at_unix_ms: unix_ms() + 1,
            ..FailedStart::default()
        };
        std::fs::write(failed_start::path(&paths.record), serde_json::to_vec(&failed).unwrap()).unwrap();
        assert_eq!(last_exit(&paths.record).unwrap().code, Some(69));
        assert_eq!(former(&paths).unwrap().last_exit.unwrap().code, Some(69));
        let next = begin(&paths, false);
        assert_eq!(next.last_exit().unwrap().reason, "no codex");
        assert_eq!(failed_start::read(&paths.record), None);
        next.finish(ExitCode::UpstreamLost, "lost", None);
        assert_eq!(last_exit(&paths.record).unwrap().code, Some(1));
    }

    #[test]
    fn what_is_no_regular_file_is_never_a_record() {
        let dir = crate::os::test_dir::test_dir();
        let paths = paths(dir.path(), "x");
        for path in [paths.record.clone(), beside(&paths.record)] {
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            let error = Record::begin(&paths, false, Token::random().unwrap()).unwrap_err();
            assert_eq!(error.exit_code(), ExitCode::CannotCreate);
            assert!(
                error.chain().contains(&format!("`{}` as a record: it is a FIFO", path.display())),
                "{error:?}"
            );
            assert!(error.next_step().unwrap().contains("away"));
            // Nor does anybody wait who only looks.
            assert_eq!((last_exit(&paths.record), early_ends(&paths.record).count), (None, 0));
            std::fs::remove_file(&path).unwrap();
        }
    }
}
