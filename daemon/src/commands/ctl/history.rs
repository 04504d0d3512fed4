//! `ctl history`: the turns that have run, from the ledger; a daemon need not run.

use super::table::{Column, table};
use super::{Context, print, print_json, render};

/// The columns, and how soon each is left out.
const COLUMNS: &[Column] =
    &[("STATE", 0), ("STARTED", 0), ("TOOK", 1), ("CLIENT", 0), ("TOKENS", 2), ("THREAD", 1), ("DETAILS", 3)];
use crate::cli::HistoryArgs;
use crate::error::Error;
use crate::instance::record;
use crate::ledger::{Entry, Reader};
use crate::os::unix_time::unix_ms;
use crate::terminal::note;

/// Shows turns of all clients: those that run, then the latest.
pub(super) fn run(context: &Context, args: &HistoryArgs) -> Result<u8, Error> {
    let reader = Reader::open(&context.settings.paths)?;
    let turns = if args.lost {
        let paths = &context.settings.paths;
        let last = record::last_ended_generation(&paths.record, &paths.lock);
        last.map_or_else(|| Ok(Vec::new()), |generation| reader.lost(generation))?
    } else {
        reader.turns(args.limit)?
    };
    if context.json {
        print_json(&turns)?;
        return Ok(0);
    }
    if turns.is_empty() {
        note(if args.lost { "no turn was lost with the last daemon" } else { "no turn is recorded" });
        return Ok(0);
    }
    let now = unix_ms();
    let rows: Vec<_> = turns.iter().map(|turn| row(turn, now)).collect();
    print(&table(COLUMNS, &rows))?;
    Ok(0)
}

fn row(turn: &Entry, now: u64) -> Vec<String> {
    let took = turn.ended_unix_ms.unwrap_or(now).saturating_sub(turn.started_unix_ms);
    let details = match (&turn.cause, turn.known_by.as_deref()) {
        (Some(cause), _) => cause.clone(),
        (None, Some("terminalEvent")) => String::new(),
        (None, Some(known_by)) => known_by.to_owned(),
        (None, None) => turn.phase.clone().unwrap_or_default(),
    };
    vec![
        turn.state.clone(),
        format!("{} ago", render::duration(now.saturating_sub(turn.started_unix_ms))),
        render::duration(took),
        turn.client.clone().unwrap_or_else(|| "-".to_owned()),
        turn.tokens.map_or_else(|| "-".to_owned(), |tokens| tokens.total_tokens.to_string()),
        turn.thread_id.clone(),
        details,
    ]
}
