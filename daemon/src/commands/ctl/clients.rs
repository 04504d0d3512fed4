//! `ctl clients`: who is connected.

use codexd_proto::status::ClientStatus;
use serde_json::json;

use super::{Context, print, print_json, render};
use crate::error::Error;
use crate::terminal::note;

const HEADINGS: [&str; 10] =
    ["ID", "NAME", "VERSION", "PID", "SPEAKS", "STATE", "THREADS", "REQUESTS", "QUEUED", "CONNECTED"];

/// Asks and shows, in the order of their connection.
pub(super) async fn run(context: &Context) -> Result<u8, Error> {
    let clients = match async { context.connect().await?.clients().await }.await {
        Ok(clients) => clients,
        Err(unreachable) => return context.no_answer(&unreachable, json!({})),
    };
    if context.json {
        print_json(&clients)?;
    } else if clients.is_empty() {
        note("no client is connected");
    } else {
        print(&render::table(&HEADINGS, &clients.iter().map(row).collect::<Vec<_>>()))?;
    }
    Ok(0)
}

fn row(client: &ClientStatus) -> Vec<String> {
    let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    vec![
        client.id.to_string(),
        known(&client.name),
        known(&client.version),
        known(&client.pid.map(|pid| pid.to_string())),
        known(&client.framing),
        client.state.clone(),
        client.threads.len().to_string(),
        client.in_flight.to_string(),
        render::bytes(client.queued_bytes),
        render::duration(client.connected_ms),
    ]
}
