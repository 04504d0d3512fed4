//! `ctl last-exit`: how the last daemon of this instance ended.

use codexd_proto::status::LastExit;
use serde_json::{Value, json};

use super::{Context, NOT_REACHED, print, print_json, render};
use crate::control::client::Unreachable;
use crate::error::Error;
use crate::instance::record;
use crate::terminal::note;

/// Shows the record of the last daemon that ended: of the one before the one that runs, else of the last that ran. Exits
/// 0 if there is one, 1 if there is none.
pub(super) async fn run(context: &Context) -> Result<u8, Error> {
    // A daemon that runs has the record of the one before it; its own is to be written when it ends.
    let asked = async { context.connect().await?.status().await }.await;
    let exit = match asked {
        Ok(status) => status.last_exit,
        Err(Unreachable::NotRunning) => {
            record::former(&context.settings.paths).and_then(|former| former.last_exit)
        }
        Err(unreachable) => return context.no_answer(&unreachable, json!({})),
    };
    match &exit {
        Some(exit) if !context.json => print(&lines(exit))?,
        None if !context.json => note("no record of an earlier daemon"),
        _ => print_json(&exit.as_ref().map_or(Value::Null, |exit| json!(exit)))?,
    }
    Ok(if exit.is_some() { 0 } else { NOT_REACHED })
}

fn lines(exit: &LastExit) -> String {
    let mut text = format!("generation {}: {}\n", exit.generation, render::last_exit(exit));
    for line in &exit.upstream_stderr {
        text.push_str(&format!("codex: {}\n", render::plain(line)));
    }
    text
}
