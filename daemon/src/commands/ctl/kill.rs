//! `ctl kill`: disconnects a client.

use codexd_proto::status::ClientStatus;
use serde_json::json;

use super::{Context, NOT_REACHED, print, print_json, render};
use crate::cli::KillArgs;
use crate::error::Error;
use crate::terminal::note;

/// Disconnects the client with this number, or the only one with this name. Exits 0 if it was connected, 1 if not.
pub(super) async fn run(context: &Context, args: &KillArgs) -> Result<u8, Error> {
    let answer = async {
        let connection = context.connect().await?;
        let named = find(&connection.clients().await?, &args.client);
        Ok(match named {
            Ok(client) => Ok(connection.kill(client).await?),
            Err(why) => Err(why),
        })
    };
    let receipt = match answer.await {
        Ok(Ok(receipt)) => receipt,
        Ok(Err(why)) => {
            if context.json {
                print_json(&json!({ "killed": false, "error": why }))?;
            } else {
                note(&format!("codexd: {why}"));
                note("hint: `codexd ctl clients` lists them");
            }
            return Ok(NOT_REACHED);
        }
        Err(unreachable) => return context.no_answer(&unreachable, json!({ "killed": false })),
    };
    if context.json {
        print_json(&receipt)?;
    } else if receipt.killed {
        let name = render::known(receipt.name.as_deref());
        print(&format!("disconnected client {} ({name})\n", receipt.id))?;
    } else {
        note(&format!("client {} has left by itself", receipt.id));
    }
    Ok(if receipt.killed { 0 } else { NOT_REACHED })
}

/// Finds a client by its number, or by its name if only one has it.
fn find(clients: &[ClientStatus], wanted: &str) -> Result<u64, String> {
    if let Ok(id) = wanted.parse() {
        let known = clients.iter().any(|client| client.id == id);
        return if known { Ok(id) } else { Err(format!("no client {id} is connected")) };
    }
    let mut named = clients.iter().filter(|client| client.name.as_deref() == Some(wanted));
    match (named.next(), named.next()) {
        (Some(client), None) => Ok(client.id),
        (Some(_), Some(_)) => {
            Err(format!("more than one client is called `{wanted}`: name one by its number"))
        }
        (None, _) => Err(format!("no client called `{wanted}` is connected")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_named_by_its_number_or_an_unambiguous_name() {
        let client =
            |id, name: &str| ClientStatus { id, name: Some(name.to_owned()), ..ClientStatus::default() };
        let clients = [client(1, "tui"), client(2, "sdk"), client(3, "tui")];
        assert_eq!(find(&clients, "3"), Ok(3));
        assert_eq!(find(&clients, "sdk"), Ok(2));
        assert!(find(&clients, "tui").unwrap_err().contains("more than one"));
        assert!(find(&clients, "4").is_err() && find(&clients, "x").is_err());
    }
}
