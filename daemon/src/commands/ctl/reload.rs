//! `ctl reload` and `ctl log-level`: changes while the daemon runs.

use serde_json::json;

use super::{Context, NOT_REACHED, print, print_json};
use crate::cli::LogLevelArgs;
use crate::error::Error;
use crate::terminal::note;

/// Makes the daemon read its settings again, and prints what changed.
pub(super) async fn run(context: &Context) -> Result<u8, Error> {
    let receipt = match async { context.connect().await?.reload().await }.await {
        Ok(receipt) => receipt,
        Err(unreachable) => return context.no_answer(&unreachable, json!({})),
    };
    if context.json {
        print_json(&receipt)?;
    } else if let Some(error) = &receipt.error {
        note(&format!("codexd: the old settings stay in force: {error}"));
    } else {
        let list = |names: &[String]| if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        print(&format!("changed: {}\n", list(&receipt.applied)))?;
        if !receipt.needs_restart.is_empty() {
            print(&format!("needs a restart: {}\n", list(&receipt.needs_restart)))?;
        }
    }
    Ok(if receipt.error.is_some() { NOT_REACHED } else { 0 })
}

/// Changes what the daemon logs.
pub(super) async fn log_level(context: &Context, args: &LogLevelArgs) -> Result<u8, Error> {
    match async { context.connect().await?.log_level(&args.filter).await }.await {
        Ok(()) if context.json => print_json(&json!({ "logLevel": args.filter.to_string() })).map(|()| 0),
        Ok(()) => {
            print(&format!("the daemon logs {} until it reads its settings again\n", args.filter)).map(|()| 0)
        }
        Err(unreachable) => context.no_answer(&unreachable, json!({})),
    }
}
