//! `ctl clients`, `threads`, `turns`, `requests`: lists as a table or as JSON, once or repeatedly.

use codexd_proto::control::View;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::table::{Column, table};
use super::{Context, print, print_json, watch};
use crate::cli::WatchArgs;
use crate::control::client::Unreachable;
use crate::error::Error;
use crate::terminal::note;

/// One kind of things that the daemon lists.
pub(super) trait Listed: DeserializeOwned {
    /// The view to request.
    const VIEW: View;
    /// The text for an empty list.
    const NONE: &'static str;
    /// The columns of the table.
    const COLUMNS: &'static [Column];

    /// Returns the cells of its row.
    fn row(&self) -> Vec<String>;
}

/// Requests the list and shows it.
pub(super) async fn run<T: Listed>(context: &Context, args: &WatchArgs) -> Result<u8, Error> {
    if args.watch {
        return watch::run(context, args, T::VIEW, |list| {
            let list = read::<T>(list)?;
            Ok(if list.is_empty() { format!("{}\n", T::NONE) } else { draw(&list) })
        })
        .await;
    }
    let list = match async { context.connect().await?.list_json(T::VIEW).await }.await {
        Ok(list) => list,
        Err(unreachable) => return context.no_answer(&unreachable, json!({})),
    };
    if context.json {
        print_json(&list)?;
        return Ok(0);
    }
    match read::<T>(&list) {
        Ok(list) if list.is_empty() => note(T::NONE),
        Ok(list) => print(&draw(&list))?,
        Err(error) => return context.no_answer(&Unreachable::CannotTell(error), json!({})),
    }
    Ok(0)
}

fn draw<T: Listed>(list: &[T]) -> String {
    table(T::COLUMNS, &list.iter().map(Listed::row).collect::<Vec<_>>())
}

fn read<T: DeserializeOwned>(list: &Value) -> Result<Vec<T>, Error> {
    serde_json::from_value(list.clone())
        .map_err(|error| Error::os("cannot read the daemon's answer").because(error))
}
