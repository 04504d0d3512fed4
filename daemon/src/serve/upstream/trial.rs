//! A start of codex for one `initialize`, to see whether it starts and which error it prints if not.
//!
//! # What it touches
//! Nothing of the user's. codex gets a CODEX_HOME of its own with copies of the configuration, and its databases are
//! made there: a real start migrates databases and moves damaged ones away. Not tried is therefore what depends on
//! those databases, on the login, or on files in directories of CODEX_HOME. The process is ended afterwards, and what
//! it has started with it.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use codexd_proto::codex_args::CodexArgs;
use codexd_proto::json::scan::member_at;
use codexd_proto::lifecycle::ChildStatus;
use codexd_proto::message::UpstreamMessage;
use codexd_proto::router::{config_warning, version_of};
use codexd_proto::secrets::Secrets;
use codexd_proto::stderr::printable;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::LocalSet;
use tokio::time::{timeout, timeout_at};

use super::locate::Program;
use super::process::{Launch, Pipes, Process};
use super::sweep;
use crate::error::Error;
use crate::instance::life::{self, Purpose, Token};
use crate::settings::environment::Environment;
use crate::settings::{Settings, secrets};

/// How long codex may take to answer: ten times what it takes on a slow machine (measured).
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// How long it may take to leave after each step: input closed, SIGTERM, SIGKILL.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);
/// Time between checks for leftover processes, and for how long.
const SWEEP_EVERY: Duration = Duration::from_millis(5);
const SWEEP_WITHIN: Duration = Duration::from_secs(2);
/// Bytes of its output that are read.
const OUTPUT_BYTES: usize = 1 << 20;
/// Bytes of a line that is shown because it is no message.
const ODD_LINE_BYTES: usize = 200;
/// Files in CODEX_HOME that are copied: what a person writes, and not the login, whose renewal would be lost.
const COPIED: [&str; 3] = ["toml", "md", "json"];
const LOGIN: &str = "auth.json";

/// What is tried.
#[derive(Debug)]
pub(crate) struct Trial<'a> {
    program: &'a Program,
    arguments: &'a CodexArgs,
    /// CODEX_HOME, and whether it was named: codex makes the default one itself.
    codex_home: &'a Path,
    is_named: bool,
    client_name: &'a str,
    secrets: Secrets,
    /// Of this process.
    environment: &'a Environment,
}

impl<'a> Trial<'a> {
    /// Tries `program` as the daemon with these settings would start it.
    pub(crate) fn new(
        settings: &'a Settings,
        environment: &'a Environment,
        program: &'a Program,
    ) -> Trial<'a> {
        Trial {
            program,
            arguments: &settings.codex_args,
            codex_home: &settings.codex_home,
            is_named: environment.value("CODEX_HOME").is_some(),
            client_name: &settings.client_name,
            secrets: secrets::known(&settings.codex_args, std::env::vars_os()),
            environment,
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Tried {
    pub(crate) outcome: Outcome,
    /// Until the answer, or the end.
    pub(crate) took: Duration,
    /// The last lines of its stderr.
    pub(crate) lines: Vec<String>,
    /// What it warns of in its configuration.
    pub(crate) warnings: Vec<String>,
    /// Its version, if it answered and named it.
    pub(crate) version: Option<String>,
}

/// The outcome of `initialize`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered,
    /// With this error.
    Refused(String),
    /// It wrote this, which is no message.
    NoMessage(String),
    Ended(ChildStatus),
    /// It closed its output and lives on.
    OutputEnded,
    /// It did not answer in time.
    Silent,
}

impl Outcome {
    /// Says what went wrong, as the end of a sentence about codex, and what to do about it; `None` if nothing did. `config` is
    /// the path of its configuration.
    pub(crate) fn problem(&self, config: &dyn std::fmt::Display) -> Option<(String, String)> {
        let fix = || {
            format!(
                "fix what it reports, usually in `{config}` or in `codex_args`, and run `codexd doctor` again"
            )
        };
        Some(match self {
            Outcome::Answered => return None,
            Outcome::Refused(why) => (format!("refused the handshake: {why}"), fix()),
            Outcome::NoMessage(line) => (
                format!("wrote something that is no message: `{line}`"),
                "name codex itself with `--codex PATH` or CODEXD_CODEX; a wrapper must write to stderr"
                    .to_owned(),
            ),
            Outcome::Ended(status @ ChildStatus::Signal(_)) => (
                status.to_string(),
                "find out what killed it: `journalctl -k` or `dmesg` (memory?)".to_owned(),
            ),
            // The codes of shells and loaders for what cannot be run (`sh(1)`, `ld.so(8)`).
            Outcome::Ended(status @ ChildStatus::Code(126 | 127)) => (
                status.to_string(),
                "install what it misses, or codex again: `npm install --global @openai/codex`".to_owned(),
            ),
            Outcome::Ended(status) => (status.to_string(), fix()),
            Outcome::OutputEnded => ("closed its output".to_owned(), fix()),
            Outcome::Silent => (
                "did not answer the handshake in time".to_owned(),
                "run `codex app-server` in a terminal and see what it waits for".to_owned(),
            ),
        })
    }
}

impl Trial<'_> {
    /// Starts codex, and ends it again. Takes half a minute at the most.
    ///
    /// # Errors
    ///
    /// When it cannot be executed, or there is no place for a CODEX_HOME.
    pub(crate) fn run(self) -> Result<Tried, Error> {
        let place = Place::make()
            .map_err(|error| Error::os("cannot make a directory to try codex in").because(error))?;
        // If the named path is no directory, codex reports that, and nothing is created there.
        let stays = self.is_named && !self.codex_home.is_dir();
        let home = if stays { self.codex_home.to_owned() } else { place.path.join("home") };
        if !stays {
            copy_configuration(self.codex_home, &home).map_err(|error| {
                Error::os(format!("cannot copy the configuration in `{}`", self.codex_home.display()))
                    .because(error)
            })?;
        }
        let databases = place.path.join("databases");
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&databases)
            .map_err(|error| Error::os(format!("cannot make `{}`", databases.display())).because(error))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::os("cannot start a runtime").because(error))?;
        let life = Token::random().map_err(|error| Error::os("cannot get random bytes").because(error))?;
        sweep::adopt_orphans(life);
        let mut tried = LocalSet::new().block_on(&runtime, self.start_and_end(&home, &databases, life))?;
        // People know their own.
        let (copy, real) = (home.display().to_string(), self.codex_home.display().to_string());
        for line in tried.lines.iter_mut().chain(&mut tried.warnings) {
            *line = line.replace(&copy, &real);
        }
        Ok(tried)
    }

    async fn start_and_end(&self, home: &Path, databases: &Path, life: Token) -> Result<Tried, Error> {
        let began = Instant::now();
        let setting = format!("sqlite_home={}", json!(databases.display().to_string()));
        let arguments = self.arguments.with(&CodexArgs::new(vec!["-c".to_owned(), setting]));
        let mut variables = life::variables(Some(life), Purpose::Trial, self.environment);
        variables.extend([("CODEX_HOME", home.into()), ("CODEX_SQLITE_HOME", databases.into())]);
        let (mut process, pipes) = Process::spawn(Launch {
            program: self.program,
            arguments: &arguments,
            variables: &variables,
            open_files: None,
            secrets: self.secrets.clone(),
        })?;
        let Pipes { mut stdin, mut stdout, stderr } = pipes;
        let initialize = json!({
            "id": 0,
            "method": "initialize",
            "params": {
                "clientInfo": {
                    "name": self.client_name,
                    "title": "codexd",
                    "version": env!("CARGO_PKG_VERSION"),
                },
                "capabilities": { "experimentalApi": true },
            },
        });
        // One that takes nothing has ended, or takes it too late.
        let _ = timeout(ANSWER_WITHIN, stdin.write_all(format!("{initialize}\n").as_bytes())).await;
        let mut output = Output::default();
        let deadline = tokio::time::Instant::now() + ANSWER_WITHIN;
        let outcome = loop {
            if let Some(outcome) = output.judge() {
                break outcome;
            }
            let read = async {
                tokio::select! {
                    biased;
                    more = output.read(&mut stdout) => Ok(more),
                    status = process.wait() => Err(status),
                }
            };
            match timeout_at(deadline, read).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => {
                    break match timeout(LEAVE_WITHIN, process.wait()).await {
                        Ok(status) => Outcome::Ended(status),
                        Err(_) => Outcome::OutputEnded,
                    };
                }
                Ok(Err(status)) => {
                    // What it had written by then is there; others may hold the pipe open.
                    while timeout(Duration::ZERO, output.read(&mut stdout)).await == Ok(true) {}
                    break output.judge().unwrap_or(Outcome::Ended(status));
                }
                Err(_) => break Outcome::Silent,
            }
        };
        let took = began.elapsed();
        if outcome == Outcome::Answered {
            // Warnings of its configuration come after the response, and not if its input ends first.
            let more = format!(
                "{}\n{}\n",
                json!({"method": "initialized"}),
                json!({"id": 1, "method": "thread/loaded/list", "params": {}})
            );
            let barrier = async {
                if stdin.write_all(more.as_bytes()).await.is_ok() {
                    while output.responses() < 2 && output.read(&mut stdout).await {}
                }
            };
            let _ = timeout(LEAVE_WITHIN, barrier).await;
        }
        drop(stdin);
        // What it writes after its response, and at its end.
        let rest = async { while output.read(&mut stdout).await {} };
        let _ = timeout(LEAVE_WITHIN, rest).await;
        end(&mut process).await;
        let warnings = output.warnings().map(|text| self.secrets.mask(&text).into_owned()).collect();
        let outcome = match outcome {
            Outcome::Refused(text) => Outcome::Refused(self.secrets.mask(&text).into_owned()),
            Outcome::NoMessage(text) => Outcome::NoMessage(self.secrets.mask(&text).into_owned()),
            other => other,
        };
        Ok(Tried { outcome, took, lines: stderr.lines(), warnings, version: output.version() })
    }
}

/// Ends codex and its leftover processes.
async fn end(process: &mut Process) {
    let signals = process.signals();
    for step in [None, Some(false), Some(true)] {
        match step {
            None => {}
            Some(false) => signals.terminate(),
            Some(true) => signals.kill(),
        }
        if timeout(LEAVE_WITHIN, process.wait()).await.is_ok() {
            break;
        }
    }
    let sweeping = Instant::now();
    while sweep::sweep(None) > 0 && sweeping.elapsed() < SWEEP_WITHIN {
        tokio::time::sleep(SWEEP_EVERY).await;
    }
}

/// What codex has written.
#[derive(Debug, Default)]
struct Output {
    bytes: Vec<u8>,
}

impl Output {
    /// Reads once; false at the end, and when it is too much.
    async fn read(&mut self, pipe: &mut (impl tokio::io::AsyncRead + Unpin)) -> bool {
        let mut chunk = [0; 4096];
        match pipe.read(&mut chunk).await {
            Ok(length @ 1..) if self.bytes.len() < OUTPUT_BYTES => {
                self.bytes.extend_from_slice(&chunk[..length]);
                true
            }
            _ => false,
        }
    }

    fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let whole = self.bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.bytes[..whole].split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty())
    }

    /// Returns the outcome of `initialize`, as soon as it is known.
    fn judge(&self) -> Option<Outcome> {
        self.lines().find_map(|line| match UpstreamMessage::read(line) {
            _ if std::str::from_utf8(line).is_err() => Some(no_message(line)),
            None => Some(no_message(line)),
            Some(UpstreamMessage::Response { failed: false, .. }) => Some(Outcome::Answered),
            Some(UpstreamMessage::Response { failed: true, body, .. }) => {
                let text = member_at(line, body.start, &["message"]).unwrap_or(body);
                let text = serde_json::from_slice(text.of(line))
                    .unwrap_or_else(|_| String::from_utf8_lossy(text.of(line)).into_owned());
                Some(Outcome::Refused(printable(text.as_bytes(), ODD_LINE_BYTES)))
            }
            Some(_) => None,
        })
    }

    /// Returns the version in the answer to `initialize`.
    fn version(&self) -> Option<String> {
        self.lines().find_map(|line| {
            let Some(UpstreamMessage::Response { failed: false, body, .. }) = UpstreamMessage::read(line)
            else {
                return None;
            };
            let agent = member_at(line, body.start, &["userAgent"])?;
            version_of(&serde_json::from_slice::<String>(agent.of(line)).ok()?).map(str::to_owned)
        })
    }

    /// Returns how many requests are answered.
    fn responses(&self) -> usize {
        let read = self.lines().filter_map(UpstreamMessage::read);
        read.filter(|message| matches!(message, UpstreamMessage::Response { .. })).count()
    }

    fn warnings(&self) -> impl Iterator<Item = String> {
        self.lines().filter_map(|line| match UpstreamMessage::read(line) {
            Some(UpstreamMessage::Notification { method, .. }) => config_warning(&method, line),
            _ => None,
        })
    }
}

fn no_message(line: &[u8]) -> Outcome {
    Outcome::NoMessage(printable(line, ODD_LINE_BYTES))
}

/// Copies what a person has written into a CODEX_HOME, with rights for its owner alone.
fn copy_configuration(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().mode(0o700).create(to)?;
    let entries = match std::fs::read_dir(from) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default();
        let copied = path.extension().and_then(OsStr::to_str).is_some_and(|kind| COPIED.contains(&kind));
        // Through links, as codex reads them.
        if !copied || name == LOGIN || !path.metadata().is_ok_and(|found| found.is_file()) {
            continue;
        }
        // One that cannot be read is there all the same, and codex cannot read it either.
        let (text, mode) = std::fs::read(&path).map_or((Vec::new(), 0o000), |text| (text, 0o600));
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(to.join(name))?;
        io::Write::write_all(&mut file, &text)?;
    }
    Ok(())
}

/// A directory for one trial; it goes with the value.
#[derive(Debug)]
struct Place {
    path: PathBuf,
}

impl Place {
    fn make() -> io::Result<Place> {
        let base = std::env::temp_dir();
        // Never one that is there: it may be anybody's.
        for number in 0.. {
            let path = base.join(format!("codexd-doctor-{}-{number}", std::process::id()));
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Place { path: path.canonicalize()? }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 100 => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_user_agent() {
        let output = |line: &str| Output { bytes: format!("{line}\n").into_bytes() };
        let answer = r#"{"id":0,"result":{"userAgent":"codexd/0.169.0 (Linux; x86_64) x"}}"#;
        assert_eq!(output(answer).version().as_deref(), Some("0.169.0"));
        for other in [r#"{"id":0,"result":{}}"#, r#"{"id":0,"error":{"message":"userAgent"}}"#, "x"] {
            assert_eq!(output(other).version(), None, "{other}");
        }
    }

    #[test]
    fn every_outcome_but_an_answer_has_words_and_a_remedy() {
        assert_eq!(Outcome::Answered.problem(&"c"), None);
        for (outcome, says) in [
            (Outcome::Refused("no".to_owned()), "refused the handshake: no"),
            (Outcome::NoMessage("Usage:".to_owned()), "no message: `Usage:`"),
            (Outcome::Ended(ChildStatus::Code(1)), "exited with code 1"),
            (Outcome::Ended(ChildStatus::Signal(9)), "was killed by signal 9 (SIGKILL)"),
            (Outcome::OutputEnded, "closed its output"),
            (Outcome::Silent, "did not answer"),
        ] {
            let (what, fix) = outcome.problem(&"c").unwrap();
            assert!(what.contains(says) && !fix.is_empty(), "{what}");
        }
    }
}
