//! `ctl interrupt`: ends a running turn.

use std::time::Duration;

use codexd_proto::control::InterruptReceipt;
use serde_json::json;

use super::{ANSWER_WITHIN, Context, NOT_REACHED, print, print_json, render};
use crate::cli::InterruptArgs;
use crate::error::Error;
use crate::terminal::note;

/// The longest wait for the end of a turn: with `never`, a day.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Interrupts a turn and prints how it ended. Exits 0 if it has ended, 1 if it has not or there is none.
pub(super) async fn run(context: &Context, args: &InterruptArgs) -> Result<u8, Error> {
    let timeout = args.timeout.as_duration().map_or(LONGEST, |timeout| timeout.min(LONGEST));
    let answer = async {
        let connection = context.connect_patiently(timeout + ANSWER_WITHIN).await?;
        connection.interrupt(&args.target, timeout).await
    };
    let receipt = match answer.await {
        Ok(receipt) => receipt,
        Err(unreachable) => return context.no_answer(&unreachable, json!({ "ended": false })),
    };
    if context.json {
        print_json(&receipt)?;
    } else {
        show(&receipt)?;
    }
    Ok(if receipt.ended { 0 } else { NOT_REACHED })
}

fn show(receipt: &InterruptReceipt) -> Result<(), Error> {
    let turn = receipt.turn_id.as_deref().map(render::id).unwrap_or_default();
    let thread = receipt.thread_id.as_deref().map(render::id).unwrap_or_default();
    match (receipt.ended, receipt.outcome.as_deref(), &receipt.error) {
        (true, Some("interrupted"), _) => print(&format!("interrupted turn {turn} of thread {thread}\n")),
        (true, Some("unknown") | None, _) => print(&format!(
            "turn {turn} of thread {thread} has ended; codex does not say how, because no client is subscribed to it\n"
        )),
        (true, Some(outcome), _) => {
            print(&format!("turn {turn} of thread {thread} ended before that: {outcome}\n"))
        }
        (false, _, error) => {
            let why = error.as_deref().unwrap_or("the turn has not ended");
            note(&format!("codexd: {why}"));
            note("hint: `codexd ctl turns` lists what runs");
            Ok(())
        }
    }
}
