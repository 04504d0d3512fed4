//! `codexd jobs`: the turns that the daemon runs itself.
//!
//! Jobs are read from the turn ledger, with or without a daemon. Only changes are requested from the daemon.

mod show;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use codexd_proto::exit::ExitCode as Code;
use serde_json::json;

use super::ctl::{print, print_json};
use crate::cli::{CtlCommon, JobLogsArgs, JobVerb, JobsArgs, PruneArgs, ServeArgs};
use crate::control::client::{ControlConnection, Unreachable};
use crate::error::Error;
use crate::ledger::{JobLine, JobRow, Reader};
use crate::os::unix_time::unix_ms;
use crate::settings::Settings;
use crate::settings::environment::Environment;
use crate::terminal::note;

/// Time between checks of a job.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Time for an answer of the daemon.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Time for a job to end after it was cancelled: longer than the daemon waits for the end of its turn.
const CANCELLED_WITHIN: Duration = Duration::from_secs(20);

/// Exit code: it had ended before.
const WAS_OVER: u8 = 1;

/// Carries out a verb.
///
/// # Errors
///
/// With exit code 64 if there is no such job or more than one, 71 if the ledger cannot be read, 69 if a daemon is
/// needed and none runs.
pub(crate) fn run(args: &JobsArgs, environment: &Environment) -> Result<ExitCode, Error> {
    let flags = ServeArgs { control_socket: args.common.control_socket.clone(), ..ServeArgs::default() };
    let settings =
        Settings::load(&flags, environment).or_else(|_| Settings::load_without_file(&flags, environment))?;
    let jobs = Jobs { settings, common: &args.common };
    let code = match &args.verb {
        JobVerb::List => jobs.list()?,
        JobVerb::Show(job) => jobs.show(&job.id)?,
        JobVerb::Wait(job) => jobs.wait(&job.id)?,
        JobVerb::Logs(logs) => jobs.logs(logs)?,
        JobVerb::Cancel(job) => jobs.cancel(&job.id)?,
        JobVerb::Prune(prune) => jobs.prune(prune)?,
    };
    Ok(ExitCode::from(code))
}

struct Jobs<'a> {
    settings: Settings,
    common: &'a CtlCommon,
}

impl Jobs<'_> {
    /// Opens the ledger. The holder of the instance is determined now, so the ledger has to be opened again later.
    fn reader(&self) -> Result<Reader, Error> {
        Reader::open(&self.settings.paths)
    }

    fn list(&self) -> Result<u8, Error> {
        let jobs = self.reader()?.jobs()?;
        if self.common.json {
            print_json(&jobs)?;
        } else if jobs.is_empty() {
            note("there are no jobs");
        } else {
            print(&show::list(&jobs))?;
        }
        Ok(0)
    }

    fn show(&self, id: &str) -> Result<u8, Error> {
        let job = self.reader()?.job(id)?;
        if self.common.json {
            print_json(&job)?;
        } else {
            print(&show::one(&job))?;
        }
        Ok(0)
    }

    /// Returns the job when it has ended.
    fn over(&self, id: &str, within: Option<Duration>) -> Result<JobRow, Error> {
        let began = Instant::now();
        loop {
            let job = self.reader()?.job(id)?;
            if job.state.is_over() || within.is_some_and(|within| began.elapsed() >= within) {
                return Ok(job);
            }
            std::thread::park_timeout(LOOK_EVERY);
        }
    }

    fn wait(&self, id: &str) -> Result<u8, Error> {
        // By its whole id, since another job with the same beginning can come.
        let id = self.reader()?.job(id)?.id;
        let job = self.over(&id, None)?;
        if self.common.json {
            print_json(&job)?;
        } else {
            if let Some(error) = &job.error {
                note(&format!("codexd: {}: {error}", job.state.word()));
            }
            if let Some(answer) = &job.answer {
                print(&format!("{}\n", answer.trim_end_matches('\n')))?;
            }
        }
        Ok(job.state.exit_code())
    }

    fn logs(&self, args: &JobLogsArgs) -> Result<u8, Error> {
        let id = self.reader()?.job(&args.job.id)?.id;
        let mut last = 0;
        loop {
            // The state is read before the lines. Otherwise, lines that come in between would be missed.
            let reader = self.reader()?;
            let over = reader.job(&id)?.state.is_over();
            let lines = reader.job_lines(&id, last)?;
            last = lines.last().map_or(last, |line| line.number);
            self.print_lines(&lines)?;
            if over || !args.follow {
                return Ok(0);
            }
            std::thread::park_timeout(LOOK_EVERY);
        }
    }

    fn print_lines(&self, lines: &[JobLine]) -> Result<(), Error> {
        let text: String = lines
            .iter()
            .map(
                |line| {
                    if self.common.json { format!("{}\n", json!(line)) } else { format!("{}\n", line.text) }
                },
            )
            .collect();
        if text.is_empty() { Ok(()) } else { print(&text) }
    }

    fn cancel(&self, id: &str) -> Result<u8, Error> {
        let job = self.reader()?.job(id)?;
        let told = !job.state.is_over() && self.ask(async |daemon| daemon.cancel_job(&job.id).await)?;
        // A job that the daemon does not know any more is about to end.
        let job = self.over(&job.id, Some(CANCELLED_WITHIN))?;
        if self.common.json {
            print_json(&job)?;
        } else {
            note(&format!("codexd: job {} is {}", job.id, job.state.word()));
        }
        if !job.state.is_over() {
            return Err(Error::new(
                Code::UpstreamLost,
                format!("the job `{}` was cancelled and is not over after {CANCELLED_WITHIN:?}", job.id),
            )
            .hint("`codexd ctl stop --now` ends the daemon, and its jobs with it"));
        }
        Ok(if told { 0 } else { WAS_OVER })
    }

    fn prune(&self, args: &PruneArgs) -> Result<u8, Error> {
        let oldest = args.older.as_millis().map_or(0, |age| unix_ms().saturating_sub(age));
        let mut jobs = self.reader()?.jobs()?;
        jobs.retain(|job| job.state.is_over() && job.ended_unix_ms.is_some_and(|ended| ended <= oldest));
        let ids: Vec<String> = jobs.into_iter().map(|job| job.id).collect();
        if !ids.is_empty() {
            self.ask(async |daemon| daemon.forget_jobs(ids.clone()).await)?;
        }
        if self.common.json {
            print_json(&ids)?;
        } else {
            note(&format!("codexd: {} jobs are forgotten", ids.len()));
        }
        Ok(0)
    }

    /// Sends a request to the daemon.
    fn ask<T>(
        &self,
        question: impl AsyncFnOnce(&ControlConnection) -> Result<T, Unreachable>,
    ) -> Result<T, Error> {
        let path = &self.settings.paths.control_socket;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::os("cannot start the runtime").because(error))?;
        let answer = runtime.block_on(async {
            let daemon = ControlConnection::open(path, ANSWER_WITHIN, ANSWER_WITHIN).await?;
            question(&daemon).await
        });
        answer.map_err(|unreachable| match unreachable {
            Unreachable::CannotTell(error) => error,
            Unreachable::NotRunning => {
                let what =
                    format!("no daemon listens on `{}`, and only it can change its jobs", path.display());
                Error::new(Code::Unavailable, what).hint("`codexd run --detach` starts one")
            }
        })
    }
}
