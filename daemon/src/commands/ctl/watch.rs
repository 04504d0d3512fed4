//! `--watch`: shows a view again when it changes.
//!
//! It is a subscription: a watching command occupies no slot of other commands, and the daemon decides when there is
//! something new.

use codexd_proto::control::View;
use serde_json::{Value, json};

use super::{Context, NOT_RUNNING, print};
use crate::cli::WatchArgs;
use crate::control::client::Unreachable;
use crate::error::Error;
use crate::terminal::{self, note};

/// Shows a view until the daemon is gone: on a terminal in place, elsewhere one after the other with an empty line
/// after each, with `--json` one document per line.
pub(super) async fn run(
    context: &Context,
    args: &WatchArgs,
    view: View,
    mut draw: impl FnMut(&Value) -> Result<String, Error>,
) -> Result<u8, Error> {
    let every = args.every.as_duration().unwrap_or(std::time::Duration::MAX);
    let watched = async {
        let connection = context.connect().await?;
        let views = connection.view(view, every).await?;
        Ok::<_, Unreachable>((connection, views))
    };
    let (_connection, mut views) = match watched.await {
        Ok(watched) => watched,
        Err(unreachable) => return context.no_answer(&unreachable, json!({})),
    };
    let mut first = true;
    while let Some(Ok(value)) = views.next().await {
        if context.json {
            print(&format!("{value}\n"))?;
        } else if let Some((_, lines)) = terminal::size() {
            print(&in_place(&draw(&value)?, lines, std::mem::take(&mut first)))?;
        } else {
            print(&format!("{}\n", draw(&value)?))?;
        }
    }
    note("the daemon has ended");
    Ok(NOT_RUNNING)
}

/// Returns the text that replaces a screen of so many lines without flicker or scrolling (ECMA-48: CUP, EL, ED).
fn in_place(text: &str, lines: usize, first: bool) -> String {
    let mut out = String::from(if first { "\x1b[2J\x1b[H" } else { "\x1b[H" });
    for line in text.lines().take(lines.saturating_sub(1)) {
        out.push_str(line);
        out.push_str("\x1b[K\n");
    }
    out.push_str("\x1b[J");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_left_out_and_nothing_scrolls() {
        let text = in_place("a\nb\nc\n", 3, false);
        assert_eq!(text, "\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
    }
}
