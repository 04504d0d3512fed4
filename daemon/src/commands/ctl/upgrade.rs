//! `ctl upgrade`: changes to the codex and codexd on disk as soon as nothing runs.
//!
//! The daemon tries them first, and then refuses new work until running turns have ended. Its wait lasts as long as this
//! command: whatever ends the command before the daemon ends calls the upgrade off.

use std::time::{Duration, Instant};

use codexd_proto::control::{UpgradeRequest, UpgradeStep, Versions};
use codexd_proto::exit::ExitCode;
use codexd_proto::listing::{RequestStatus, TurnStatus};
use codexd_proto::status::{DaemonState, StatusReport};
use futures_util::StreamExt as _;
use jsonrpsee::core::client::Subscription;
use serde::Serialize;
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_tokio::Signals;

use super::{CHECK_EVERY, Context, NOT_REACHED, print, print_json, render};
use crate::cli::UpgradeArgs;
use crate::control::client::{ControlConnection, Unreachable};
use crate::error::Error;
use crate::instance::{lock, record};
use crate::os::unix_time::unix_ms;
use crate::start;
use crate::terminal::note;

/// Exit code: what the next daemon would run does not run.
const REFUSED: u8 = ExitCode::Unavailable.number();
/// Exit code: the daemon has ended for the upgrade, and no other one serves.
const NO_SUCCESSOR: u8 = ExitCode::Software.number();
/// Time for the next daemon to serve: longer than the steps of a stop and a slow start take.
const SERVES_WITHIN: Duration = Duration::from_secs(90);
/// Time without a daemon after one has failed to start, after which nobody tries again: longer than the pause of the unit.
const NOBODY_TRIES_AFTER: Duration = Duration::from_secs(5);
/// Time for the daemon to go on after the upgrade was called off.
const GOES_ON_WITHIN: Duration = Duration::from_secs(3);

/// What came of it, for programs.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    /// Whether another daemon serves now.
    upgraded: bool,
    /// `upgraded`, `nothingNew`, `notPossible`, `timedOut`, `calledOff`, `candidateRefused`, or `noSuccessor`.
    outcome: &'static str,
    /// What ran when it was asked for.
    from: Versions,
    /// What runs now, or would.
    to: Option<Versions>,
    /// For how long no new work was accepted because something still ran.
    waited_ms: Option<u64>,
    /// For how long there was no daemon.
    pause_ms: Option<u64>,
    /// The daemon that serves now.
    generation: Option<u64>,
    pid: Option<u32>,
    /// Why it was not done, and what to type or do next.
    error: Option<String>,
    hint: Option<String>,
    #[serde(skip)]
    code: u8,
}

/// Has the daemon replaced, waits until the next one serves, and prints what came of it.
pub(super) async fn run(context: &Context, args: &UpgradeArgs) -> Result<u8, Error> {
    let within_ms = match args.within {
        Some(within) => within.as_millis(),
        None => None,
    };
    let request = UpgradeRequest { within_ms, force: args.force, codexd: start::own_program_text() };
    let signals =
        Signals::new([SIGINT, SIGTERM]).map_err(|error| Error::os("cannot handle signals").because(error))?;
    let begun = async {
        let connection = context.connect().await?;
        let before = connection.status().await?;
        let steps = connection.upgrade(request).await?;
        Ok((connection, before, steps))
    };
    let (connection, before, steps) = match begun.await {
        Ok(begun) => begun,
        Err(unreachable) => return context.no_answer(&unreachable, json!({ "upgraded": false })),
    };
    let outcome = Upgrade { context, before, signals }.follow(connection, steps, args).await;
    if context.json {
        print_json(&outcome)?;
        return Ok(outcome.code);
    }
    match &outcome.error {
        Some(error) => {
            note(&format!("error: {error}"));
            if let Some(hint) = &outcome.hint {
                note(&format!("hint: {hint}"));
            }
        }
        None => print(&text(&outcome))?,
    }
    Ok(outcome.code)
}

/// What is known while it goes on.
struct Upgrade<'a> {
    context: &'a Context,
    /// The daemon that is to be replaced.
    before: StatusReport,
    signals: Signals,
}

impl Upgrade<'_> {
    async fn follow(
        mut self,
        connection: ControlConnection,
        mut steps: Subscription<UpgradeStep>,
        args: &UpgradeArgs,
    ) -> Outcome {
        let from = Versions {
            codexd: Some(self.before.version.clone()),
            codex: self.before.upstream.version.clone(),
        };
        let unchanged = |outcome, error: String, hint: Option<String>| Outcome {
            outcome,
            from: from.clone(),
            error: Some(error),
            hint,
            code: NOT_REACHED,
            ..Outcome::default()
        };
        let mut waits_since = None;
        loop {
            let step = tokio::select! {
                biased;
                step = steps.next() => step,
                Some(_) = self.signals.next() => {
                    drop((steps, connection));
                    self.goes_on().await;
                    let error = "the upgrade was called off: codexd goes on as before".to_owned();
                    return unchanged("calledOff", error, None);
                }
            };
            match step {
                Some(Ok(UpgradeStep::Trying { .. })) => self.note("trying what the next daemon runs"),
                Some(Ok(UpgradeStep::NothingNew { running })) => {
                    let (outcome, to) = ("nothingNew", Some(running));
                    return Outcome { outcome, from, to, ..Outcome::default() };
                }
                Some(Ok(UpgradeStep::Waiting { turns, requests, next })) => {
                    if waits_since.is_none() {
                        waits_since = Some(Instant::now());
                        self.note(&format!("the next daemon runs {}", versions(&next)));
                    }
                    self.note_wait(&turns, &requests, args);
                }
                Some(Ok(UpgradeStep::CandidateRefused { reason, hint })) => {
                    let error =
                        format!("what the next daemon would run does not run, so nothing was done: {reason}");
                    return Outcome { code: REFUSED, ..unchanged("candidateRefused", error, hint) };
                }
                Some(Ok(UpgradeStep::NotPossible { reason, hint })) => {
                    let error = format!("codexd (pid {}) cannot be upgraded now: {reason}", self.before.pid);
                    return unchanged("notPossible", error, hint);
                }
                Some(Ok(UpgradeStep::TimedOut)) => {
                    let within = args.within.map(|within| within.to_string()).unwrap_or_default();
                    let error = format!("something still ran after {within}: codexd goes on as before");
                    let hint = "`codexd ctl turns` shows what runs; without `--within` it is waited for";
                    return unchanged("timedOut", error, Some(hint.to_owned()));
                }
                Some(Ok(UpgradeStep::CalledOff { reason })) => {
                    let error = format!("the upgrade was called off: {reason}");
                    let hint = "`codexd ctl status` shows whether a daemon runs".to_owned();
                    return unchanged("calledOff", error, Some(hint));
                }
                Some(Ok(UpgradeStep::HandsOver { next })) => {
                    let waited_ms = waits_since.map(|since| ms(since.elapsed()));
                    let next = self.next(Instant::now(), next).await;
                    return Outcome { from, waited_ms, ..next };
                }
                // A newer daemon has a step that this version does not know.
                Some(Err(_)) => {}
                // It ended without a word: killed, or lost codex.
                None => {
                    let generation = self.before.generation;
                    let exit = record::exit_of(self.before.record_file.as_ref(), generation);
                    let how = exit.map(|exit| render::last_exit(&exit));
                    let error = format!(
                        "the daemon ended before it was upgraded: {}",
                        how.unwrap_or_else(|| "it left no record".to_owned())
                    );
                    let hint = "the next start runs the codex and codexd on disk".to_owned();
                    return unchanged("calledOff", error, Some(hint));
                }
            }
        }
    }

    /// Waits until the next daemon serves. Ctrl-C ends only the wait.
    async fn next(&mut self, since: Instant, expected: Versions) -> Outcome {
        let since_unix_ms = unix_ms();
        let mut nobody_since = Instant::now();
        loop {
            if let Ok(status) = self.status().await
                && status.generation != self.before.generation
                && status.ready
            {
                let to = Versions { codexd: Some(status.version), codex: status.upstream.version };
                return Outcome {
                    upgraded: true,
                    outcome: "upgraded",
                    to: Some(to),
                    pause_ms: Some(ms(since.elapsed())),
                    generation: Some(status.generation),
                    pid: Some(status.pid),
                    ..Outcome::default()
                };
            }
            if !lock::is_free(self.before.lock_file.as_ref()) {
                nobody_since = Instant::now();
            }
            let failed = self
                .failed_since(since_unix_ms)
                .filter(|(permanent, _)| *permanent || nobody_since.elapsed() >= NOBODY_TRIES_AFTER);
            let interrupted = tokio::select! {
                Some(_) = self.signals.next() => true,
                () = tokio::time::sleep(CHECK_EVERY) => false,
            };
            if interrupted || failed.is_some() || since.elapsed() > SERVES_WITHIN {
                let why = match (failed, interrupted) {
                    (Some((_, failed)), _) => format!("the next one did not start: {failed}"),
                    (None, true) => "the next one does not serve yet".to_owned(),
                    (None, false) => {
                        format!("no other one serves after {} s", SERVES_WITHIN.as_secs())
                    }
                };
                return Outcome {
                    outcome: "noSuccessor",
                    to: Some(expected),
                    error: Some(format!("codexd has ended for the upgrade, and {why}")),
                    hint: Some(format!("`{}` starts it", self.context.how_to_start())),
                    code: NO_SUCCESSOR,
                    ..Outcome::default()
                };
            }
        }
    }

    /// Returns how a start has failed since then, and whether another one cannot help.
    fn failed_since(&self, since_unix_ms: u64) -> Option<(bool, String)> {
        let former = record::former(&self.context.settings.paths)?;
        let permanent = |code: u8| ExitCode::ALL.iter().any(|it| it.number() == code && it.is_permanent());
        let start = former.failed_start.filter(|it| it.at_unix_ms >= since_unix_ms && !it.other_daemon);
        let start = start.map(|it| (permanent(it.code), render::failed_start(&it)));
        let exit = former.recorded_exit.filter(|exit| exit.generation > self.before.generation);
        start.or_else(|| exit.map(|it| (it.code.is_some_and(permanent), render::last_exit(&it))))
    }

    /// Waits until the daemon accepts work again.
    async fn goes_on(&self) {
        let until = Instant::now() + GOES_ON_WITHIN;
        while Instant::now() < until {
            match self.status().await {
                Ok(status) if status.state == DaemonState::Serving => return,
                _ => tokio::time::sleep(CHECK_EVERY).await,
            }
        }
    }

    async fn status(&self) -> Result<StatusReport, Unreachable> {
        self.context.connect().await?.status().await
    }

    fn note_wait(&self, turns: &[TurnStatus], requests: &[RequestStatus], args: &UpgradeArgs) {
        let limit = match args.within.and_then(|within| within.as_millis()) {
            Some(ms) => format!("for {} at the most", render::duration(ms)),
            None => "without a limit".to_owned(),
        };
        self.note(&format!(
            "waiting for {} {limit}; Ctrl-C calls it off",
            render::waited_for(turns, requests)
        ));
        for turn in turns {
            self.note(&format!("  turn {}", render::turn(turn)));
        }
    }

    fn note(&self, text: &str) {
        if !self.context.json {
            note(text);
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn versions(versions: &Versions) -> String {
    let known =
        |version: &Option<String>| version.clone().unwrap_or_else(|| "of an unknown version".to_owned());
    format!("codex {} and codexd {}", known(&versions.codex), known(&versions.codexd))
}

/// Renders what was done.
fn text(outcome: &Outcome) -> String {
    let to = outcome.to.clone().unwrap_or_default();
    if !outcome.upgraded {
        return format!(
            "nothing to upgrade: {} run, and are what is on disk (`--force` restarts them all the same)\n",
            versions(&to)
        );
    }
    let change = |from: &Option<String>, to: &Option<String>| match (from, to) {
        (Some(from), Some(to)) if from != to => format!("{from} -> {to}"),
        (_, Some(to)) => format!("{to}, as before"),
        _ => "of an unknown version".to_owned(),
    };
    format!(
        "upgraded: codex {}; codexd {}; pid {}, generation {}; no daemon for {}\n",
        change(&outcome.from.codex, &to.codex),
        change(&outcome.from.codexd, &to.codexd),
        outcome.pid.unwrap_or_default(),
        outcome.generation.unwrap_or_default(),
        render::duration(outcome.pause_ms.unwrap_or_default())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_names_the_old_and_the_new_versions() {
        let versions =
            |codex: &str| Versions { codexd: Some("0.1.0".to_owned()), codex: Some(codex.to_owned()) };
        let outcome = Outcome {
            upgraded: true,
            from: versions("0.168.0"),
            to: Some(versions("0.169.0")),
            pause_ms: Some(412),
            generation: Some(5),
            pid: Some(7),
            ..Outcome::default()
        };
        assert_eq!(
            text(&outcome),
            "upgraded: codex 0.168.0 -> 0.169.0; codexd 0.1.0, as before; pid 7, generation 5; no daemon for 412ms\n"
        );
        let nothing = Outcome { upgraded: false, ..outcome };
        assert!(text(&nothing).starts_with("nothing to upgrade: codex 0.169.0 and codexd 0.1.0 run"));
    }
}
