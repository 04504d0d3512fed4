//! `ctl top`: a live view of turns and clients on the full screen.
//!
//! Three subscriptions bring the status, the clients and the turns, and a thread reads keys. [`model`] has what is
//! shown and what the keys do, as values; [`screen`] draws it.

mod model;
mod screen;

use std::future::Future;
use std::io::IsTerminal as _;
use std::pin::Pin;
use std::time::{Duration, Instant};

use codexd_proto::control::View;
use jsonrpsee::core::client::Subscription;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{ANSWER_WITHIN, Context, NOT_RUNNING};
use crate::cli::TopArgs;
use crate::control::client::{ControlConnection, Unreachable};
use crate::error::Error;
use crate::terminal::note;
use model::{Action, Model, Outcome};

/// Time in which an interrupted turn is expected to end.
const INTERRUPT_WITHIN: Duration = Duration::from_secs(10);

/// The result of an action, as text.
type Acting<'a> = Pin<Box<dyn Future<Output = String> + 'a>>;

/// Shows the view until it is quit (exit 0) or the daemon ends (exit 3).
pub(super) async fn run(context: &Context, args: &TopArgs) -> Result<u8, Error> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Error::usage("`codexd ctl top` needs a terminal")
            .hint("`codexd ctl status --watch` and `codexd ctl turns --json --watch` need none"));
    }
    let every = args.every.as_duration().unwrap_or(Duration::MAX);
    let opened = async {
        let connection = context.connect_patiently(INTERRUPT_WITHIN + ANSWER_WITHIN).await?;
        let views = [
            connection.view(View::Status, every).await?,
            connection.view(View::Clients, every).await?,
            connection.view(View::Turns, every).await?,
        ];
        Ok::<_, Unreachable>((connection, views))
    };
    let (connection, views) = match opened.await {
        Ok(opened) => opened,
        Err(unreachable) => return context.no_answer(&unreachable, json!({})),
    };
    let mut terminal =
        ratatui::try_init().map_err(|error| Error::os("cannot use the terminal").because(error))?;
    let shown = show(&mut terminal, &connection, views).await;
    ratatui::restore();
    let ended = shown?;
    if ended {
        note("the daemon has ended");
    }
    Ok(if ended { NOT_RUNNING } else { 0 })
}

/// Shows the view. Returns whether the daemon has ended.
async fn show(
    terminal: &mut ratatui::DefaultTerminal,
    connection: &ControlConnection,
    [mut status, mut clients, mut turns]: [Subscription<Value>; 3],
) -> Result<bool, Error> {
    let mut keys = keys();
    let mut model = Model::default();
    let mut acting: Option<Acting<'_>> = None;
    loop {
        terminal
            .draw(|frame| screen::draw(frame, &model))
            .map_err(|error| Error::os("cannot draw on the terminal").because(error))?;
        tokio::select! {
            key = keys.recv() => match key {
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => match model.key(key) {
                    Outcome::Quit => return Ok(false),
                    Outcome::Act(action) => acting = Some(act(connection, action)),
                    Outcome::Nothing => {}
                },
                Some(_) => {}
                None => return Ok(false),
            },
            view = status.next() => match view {
                Some(Ok(view)) => model.set_status(view),
                Some(Err(_)) => {}
                None => return Ok(true),
            },
            view = clients.next() => match view {
                Some(Ok(view)) => model.set_clients(view, Instant::now()),
                Some(Err(_)) => {}
                None => return Ok(true),
            },
            view = turns.next() => match view {
                Some(Ok(view)) => model.set_turns(view),
                Some(Err(_)) => {}
                None => return Ok(true),
            },
            done = async {
                match acting.as_mut() {
                    Some(acting) => acting.await,
                    None => std::future::pending().await,
                }
            } => {
                acting = None;
                model.set_message(done);
            }
        }
    }
}

/// Reads keys on a thread of their own, which ends with the process.
fn keys() -> mpsc::UnboundedReceiver<Event> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.send(event).is_err() {
                return;
            }
        }
    });
    receiver
}

fn act(connection: &ControlConnection, action: Action) -> Acting<'_> {
    Box::pin(async move {
        match action {
            Action::Interrupt(turn) => match connection.interrupt(&turn, INTERRUPT_WITHIN).await {
                Ok(receipt) if receipt.ended => {
                    format!("the turn has ended: {}", receipt.outcome.as_deref().unwrap_or("unknown"))
                }
                Ok(receipt) => receipt.error.unwrap_or_else(|| "the turn has not ended".to_owned()),
                Err(_) => "the daemon does not answer".to_owned(),
            },
            Action::Kill(client) => match connection.kill(client).await {
                Ok(receipt) if receipt.killed => format!("client {client} is disconnected"),
                Ok(_) => format!("client {client} has left by itself"),
                Err(_) => "the daemon does not answer".to_owned(),
            },
        }
    })
}
