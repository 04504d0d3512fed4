//! `ctl get-socket`: the socket for clients.

use serde_json::json;

use super::{Context, print, print_json};
use crate::control::client::Unreachable;
use crate::error::Error;

/// Prints the socket of the running daemon; without one, the socket that a daemon would have.
pub(super) async fn run(context: &Context) -> Result<u8, Error> {
    let answer = async { context.connect().await?.socket().await }.await;
    let running = match &answer {
        Ok(_) => Some(true),
        Err(Unreachable::NotRunning) => Some(false),
        Err(Unreachable::CannotTell(_)) => None,
    };
    let given = answer.ok().filter(|socket| !socket.is_empty());
    let socket = given.unwrap_or_else(|| context.settings.paths.socket.display().to_string());
    if context.json {
        print_json(&json!({ "socket": socket, "running": running }))?;
    } else {
        print(&format!("{socket}\n"))?;
    }
    Ok(0)
}
