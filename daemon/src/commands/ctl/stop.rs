//! `ctl stop`: an intended stop, and its end.

use std::path::Path;

use codexd_proto::status::DaemonState;
use serde_json::json;

use super::wait::{Until, Waited, until_gone};
use super::{CANNOT_TELL, Context, NOT_REACHED, NOT_RUNNING, print, print_json, render};
use crate::cli::StopArgs;
use crate::control::StopMode;
use crate::control::client::Unreachable;
use crate::error::Error;
use crate::instance::record;
use crate::terminal::{note, note_error};

/// Tells the daemon to stop, waits for its exit and says what it found.
pub(super) async fn run(context: &Context, args: &StopArgs) -> Result<u8, Error> {
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
        Err(Unreachable::NotRunning) => {
            if context.json {
                print_json(&json!({ "stopped": false, "state": "notRunning" }))?;
            } else {
                note("codexd is not running");
            }
            return Ok(NOT_RUNNING);
        }
        Err(Unreachable::CannotTell(error)) => {
            note_error(&error);
            return Ok(CANNOT_TELL);
        }
    };
    if !context.json && receipt.open_turns > 0 && receipt.state == DaemonState::Draining {
        let limit = match receipt.deadline_ms {
            Some(ms) => format!("for {} at the most", render::duration(ms)),
            None => "without a limit".to_owned(),
        };
        note(&format!("waiting for {} {limit}", render::count(receipt.open_turns, "running turn")));
    }
    let waited = until_gone(context, &connection, &before, until).await;
    let stopped = waited == Waited::Reached;
    let last_exit = record::last_exit(Path::new(&before.record_file))
        .filter(|exit| stopped && exit.generation == receipt.generation);
    if context.json {
        print_json(&json!({ "stopped": stopped, "receipt": receipt, "lastExit": last_exit }))?;
    } else if stopped {
        let how = last_exit.map(|exit| format!(": {}", render::last_exit(&exit))).unwrap_or_default();
        print(&format!("stopped pid {}, generation {}{how}\n", receipt.pid, receipt.generation))?;
    } else {
        let state = if let Waited::TimedOut(state) = waited { state } else { receipt.state };
        note(&format!("codexd (pid {}) is still {} after {}", receipt.pid, state.word(), args.timeout));
        note(match mode {
            StopMode::Drain => "hint: `codexd ctl stop --now` interrupts running turns",
            StopMode::Now | StopMode::Kill => "hint: `codexd ctl stop --kill` kills codex at once",
        });
    }
    Ok(if stopped { 0 } else { NOT_REACHED })
}
