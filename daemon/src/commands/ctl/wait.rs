//! `ctl wait`: until the daemon is ready, or gone.

use std::path::Path;
use std::time::{Duration, Instant};

use codexd_proto::control::WaitTarget;
use codexd_proto::status::{DaemonState, StatusReport};
use serde_json::json;

use super::{Context, LOOK_EVERY, NOT_REACHED, NOT_RUNNING, print_json};
use crate::cli::{WaitArgs, WaitFor};
use crate::control::client::{Connection, Unreachable};
use crate::error::Error;
use crate::instance::lock;
use crate::terminal::note;

/// How much longer than the wait itself its answer may take.
const ANSWER_MARGIN: Duration = Duration::from_secs(2);
/// A year: as long as a wait without a limit waits for one answer.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    Reached,
    /// It runs, and the time is over.
    TimedOut(DaemonState),
    /// It does not run.
    NotRunning,
}

/// Waits and says how it went.
pub(super) async fn run(context: &Context, args: &WaitArgs) -> Result<u8, Error> {
    let until = Until::of(args.timeout.as_duration());
    let (waited, what) = match args.target {
        WaitFor::Ready => (until_ready(context, until).await?, "ready"),
        WaitFor::Stopped => (until_stopped(context, until).await?, "stopped"),
    };
    let (code, message) = match waited {
        Waited::Reached => (0, None),
        Waited::TimedOut(state) => (
            NOT_REACHED,
            Some(format!("codexd is still {} and not {what} after {}", state.word(), args.timeout)),
        ),
        Waited::NotRunning => (
            NOT_RUNNING,
            Some(format!("codexd is not running\nhint: `{}` starts it", context.how_to_start())),
        ),
    };
    if context.json {
        let state = match waited {
            Waited::Reached => what,
            Waited::TimedOut(state) => state.word(),
            Waited::NotRunning => "notRunning",
        };
        print_json(&json!({ "reached": code == 0, "state": state }))?;
    } else if let Some(message) = message {
        note(&message);
    }
    Ok(code)
}

/// The end of a wait, if it has one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Until(Option<Instant>);

impl Until {
    /// Returns the end of a wait that begins now.
    pub(super) fn of(timeout: Option<Duration>) -> Until {
        Until(timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
    }

    fn left(self) -> Option<Duration> {
        self.0.map(|end| end.saturating_duration_since(Instant::now()))
    }

    fn is_over(self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }

    /// Waits until something that does not tell is worth another look.
    async fn look_again(self) {
        tokio::time::sleep(self.left().map_or(LOOK_EVERY, |left| left.min(LOOK_EVERY))).await;
    }
}

/// Waits until a daemon serves clients; one that is still to be started is waited for as well.
async fn until_ready(context: &Context, until: Until) -> Result<Waited, Error> {
    loop {
        let left = until.left();
        // The connection outlives the question, so that its answer has time to arrive.
        let patience = left.unwrap_or(FOREVER).saturating_add(ANSWER_MARGIN);
        let asked = async { context.connect_for(patience).await?.wait(WaitTarget::Ready, left).await };
        let last = match asked.await {
            Ok(outcome) if outcome.reached => return Ok(Waited::Reached),
            Ok(outcome) => Ok(Waited::TimedOut(outcome.state)),
            // Not yet, or no more: a supervisor may be about to start the next one.
            Err(Unreachable::NotRunning) => Ok(Waited::NotRunning),
            Err(Unreachable::CannotTell(error)) => Err(error),
        };
        if until.is_over() {
            return last;
        }
        until.look_again().await;
    }
}

/// Waits until the daemon that runs now is gone, its sockets and its lock with it.
async fn until_stopped(context: &Context, until: Until) -> Result<Waited, Error> {
    loop {
        let asked = async {
            let connection = context.connect().await?;
            let status = connection.status().await?;
            Ok((connection, status))
        };
        let last = match asked.await {
            Ok((connection, status)) => return Ok(until_gone(context, &connection, &status, until).await),
            Err(Unreachable::NotRunning) => return Ok(Waited::Reached),
            Err(Unreachable::CannotTell(error)) => error,
        };
        if until.is_over() {
            return Err(last);
        }
        until.look_again().await;
    }
}

/// Waits until the daemon at the other end of `connection` is gone; `before` is what it said of itself.
pub(super) async fn until_gone(
    context: &Context,
    connection: &Connection,
    before: &StatusReport,
    until: Until,
) -> Waited {
    let closed = async {
        match until.left() {
            Some(left) => tokio::time::timeout(left, connection.closed()).await.is_ok(),
            None => {
                connection.closed().await;
                true
            }
        }
    };
    if !closed.await {
        let state = connection.status().await.map_or(before.state, |status| status.state);
        return Waited::TimedOut(state);
    }
    // The lock follows the connection at once.
    loop {
        if lock::is_free(Path::new(&before.lock_file)) {
            return Waited::Reached;
        }
        // A supervisor may have started the next one, which is no reason to wait for its end.
        let next = async { context.connect().await?.status().await };
        if next.await.is_ok_and(|next| next.generation != before.generation || next.pid != before.pid) {
            return Waited::Reached;
        }
        if until.is_over() {
            return Waited::TimedOut(DaemonState::Exited);
        }
        until.look_again().await;
    }
}
