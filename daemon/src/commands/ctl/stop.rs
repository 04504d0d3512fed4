//! `ctl stop`: an intended stop, and its end.

use std::path::Path;

use codexd_proto::status::DaemonState;
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::all::query_all;
use super::wait::{Until, Waited, until_gone};
use super::{Context, NOT_REACHED, NOT_RUNNING, exit_code, print, print_json, render, with_reason};
use crate::cli::StopArgs;
use crate::control::StopMode;
use crate::control::client::Unreachable;
use crate::error::Error;
use crate::instance::record;
use crate::terminal::{note, note_error};

/// The result of a stop.
struct Outcome {
    code: u8,
    /// For programs.
    json: Value,
}

/// Stops the daemon, waits for its exit and prints how it ended.
pub(super) async fn run(context: &Context, args: &StopArgs) -> Result<u8, Error> {
    if args.all {
        return all(context, args).await;
    }
    let outcome = stop(context, args, "").await?;
    if context.json {
        print_json(&outcome.json)?;
    }
    Ok(outcome.code)
}

/// Begins a drain without waiting for its end. The daemon accepts no new clients and no new work, and exits when
/// its turns have ended.
pub(super) async fn drain(context: &Context) -> Result<u8, Error> {
    let receipt = match async { context.connect().await?.stop(StopMode::Drain).await }.await {
        Ok(receipt) => receipt,
        Err(unreachable) => return context.no_answer(&unreachable, json!({})),
    };
    if context.json {
        print_json(&receipt)?;
        return Ok(0);
    }
    let waits = match (receipt.open_turns, receipt.deadline_ms) {
        (0, _) => "no turn runs".to_owned(),
        (turns, Some(ms)) => {
            format!("{} can finish within {}", render::count(turns, "running turn"), render::duration(ms))
        }
        (turns, None) => format!("{} can finish", render::count(turns, "running turn")),
    };
    print(&format!("codexd (pid {}) takes no new work and ends: {waits}\n", receipt.pid))?;
    Ok(0)
}

/// Stops all running instances at once. Exits 0 if all have stopped, 1 if one still runs, 3 if none was running, 4
/// if that is unknown for one.
async fn all(context: &Context, args: &StopArgs) -> Result<u8, Error> {
    let mut found = query_all(&context.settings.paths).await;
    found.retain(|instance| instance.may_run());
    let outcomes = join_all(found.iter().map(|instance| async {
        let name = &instance.former.instance;
        let mut outcome = stop(&context.of(&instance.former), args, &format!("{name}: ")).await?;
        outcome.json["instance"] = json!(name);
        // It has stopped by itself since, which is the wanted result.
        if outcome.code == NOT_RUNNING {
            outcome.code = 0;
        }
        Ok(outcome)
    }))
    .await;
    let outcomes = outcomes.into_iter().collect::<Result<Vec<Outcome>, Error>>()?;
    if context.json {
        print_json(&outcomes.iter().map(|outcome| &outcome.json).collect::<Vec<_>>())?;
    } else if outcomes.is_empty() {
        note("no instance runs");
    }
    Ok(outcomes.iter().map(|outcome| outcome.code).max().unwrap_or(NOT_RUNNING))
}

/// Stops one daemon. Prints what happens, each line after `prefix`.
async fn stop(context: &Context, args: &StopArgs, prefix: &str) -> Result<Outcome, Error> {
    let until = Until::of(args.timeout.as_duration());
    let mode = match args {
        StopArgs { kill: true, .. } => StopMode::Kill,
        StopArgs { now: true, .. } => StopMode::Now,
        _ => StopMode::Drain,
    };
    let begun = async {
        let connection = context.connect().await?;
        let before = connection.status().await?;
        let receipt = connection.stop(mode).await?;
        Ok((connection, before, receipt))
    };
    let (connection, before, receipt) = match begun.await {
        Ok(begun) => begun,
        Err(unreachable) => {
            match &unreachable {
                _ if context.json => {}
                Unreachable::NotRunning => note(&format!("{prefix}codexd is not running")),
                Unreachable::CannotTell(error) => note_error(error),
            }
            let json = with_reason(json!({ "stopped": false }), &unreachable);
            return Ok(Outcome { code: exit_code(&unreachable), json });
        }
    };
    if !context.json && receipt.open_turns > 0 && receipt.state == DaemonState::Draining {
        let limit = match receipt.deadline_ms {
            Some(ms) => format!("for {} at the most", render::duration(ms)),
            None => "without a limit".to_owned(),
        };
        note(&format!("{prefix}waiting for {} {limit}", render::count(receipt.open_turns, "running turn")));
    }
    let waited = until_gone(context, connection, &before, until).await;
    let stopped = waited == Waited::Reached;
    let last_exit = record::exit_of(Path::new(&before.record_file), receipt.generation).filter(|_| stopped);
    if stopped && !context.json {
        let how = last_exit.as_ref().map(|exit| format!(": {}", render::last_exit(exit))).unwrap_or_default();
        print(&format!("{prefix}stopped pid {}, generation {}{how}\n", receipt.pid, receipt.generation))?;
    } else if !context.json {
        let state = if let Waited::TimedOut(state) = waited { state } else { receipt.state };
        note(&format!(
            "{prefix}codexd (pid {}) is still {} after {}",
            receipt.pid,
            state.word(),
            args.timeout
        ));
        note(match mode {
            StopMode::Drain => "hint: the same with `--now` interrupts running turns",
            StopMode::Now | StopMode::Kill => "hint: the same with `--kill` kills codex at once",
        });
    }
    Ok(Outcome {
        code: if stopped { 0 } else { NOT_REACHED },
        json: json!({ "stopped": stopped, "receipt": receipt, "lastExit": last_exit }),
    })
}
