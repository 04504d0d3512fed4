//! `ctl last-exit`: how the last daemon of this instance ended.

use codexd_proto::status::LastExit;
use serde_json::{Value, json};

use super::{Context, NOT_REACHED, print, print_json, render};
use crate::control::client::Unreachable;
use crate::error::Error;
use crate::instance::record;
use crate::ledger::{Entry, Reader};
use crate::terminal::note;

/// Prints the record of the daemon that ended last: of the one before the running one, if one runs. Exits 0 if
/// there is a record, 1 if not.
pub(super) async fn run(context: &Context) -> Result<u8, Error> {
    // A running daemon has the record of the one before it, and writes its own at its end.
    let answer = async { context.connect().await?.status().await }.await;
    let exit = match answer {
        Ok(status) => status.last_exit,
        Err(Unreachable::NotRunning) => {
            record::former(&context.settings.paths).and_then(|former| former.last_exit)
        }
        Err(unreachable) => return context.no_answer(&unreachable, json!({})),
    };
    let Some(exit) = exit else {
        if context.json {
            print_json(&Value::Null)?;
        } else {
            note("no record of an earlier daemon");
        }
        return Ok(NOT_REACHED);
    };
    // The exit is known without the ledger, too.
    let lost = Reader::open(&context.settings.paths).and_then(|reader| reader.lost(exit.generation));
    if context.json {
        let mut shown = json!(exit);
        shown["lostTurns"] = lost.map_or(Value::Null, |turns| json!(turns));
        print_json(&shown)?;
    } else {
        print(&lines(&exit, &lost))?;
    }
    Ok(0)
}

fn lines(exit: &LastExit, lost: &Result<Vec<Entry>, Error>) -> String {
    let mut text = format!("generation {}: {}\n", exit.generation, render::last_exit(exit));
    for line in &exit.upstream_stderr {
        text.push_str(&format!("codex: {}\n", render::plain(line)));
    }
    match lost {
        Ok(turns) => turns.iter().for_each(|turn| text.push_str(&lost_turn(turn))),
        Err(error) => text.push_str(&format!("lost turns: unknown: {}\n", render::plain(&error.chain()))),
    }
    text
}

/// Renders a turn that was lost: `lost turn: thread 019a..., turn 019b..., of my-client, after 12s`.
fn lost_turn(turn: &Entry) -> String {
    let ran = turn.ended_unix_ms.unwrap_or(turn.last_activity_unix_ms).saturating_sub(turn.started_unix_ms);
    let of = match (&turn.job, &turn.client) {
        (Some(job), _) => format!(", job {job} (`codexd jobs show {job}`)"),
        (None, Some(client)) => format!(", of {}", render::plain(client)),
        (None, None) => String::new(),
    };
    format!(
        "lost turn: thread {}, turn {}{of}, after {}\n",
        render::plain(&turn.thread_id),
        render::plain(&turn.turn_id),
        render::duration(ran)
    )
}
