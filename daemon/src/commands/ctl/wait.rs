//! `ctl wait`: waits until the daemon is ready, or gone.
//!
//! A wait is a subscription to the states of the daemon, which occupies no slot of other commands.

use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use codexd_proto::status::{DaemonState, StatusReport};
use serde_json::json;

use super::{ANSWER_WITHIN, CHECK_EVERY, Context, NOT_REACHED, NOT_RUNNING, print_json};
use crate::cli::{WaitArgs, WaitFor};
use crate::control::client::{ControlConnection, States, Unreachable};
use crate::error::Error;
use crate::instance::lock;
use crate::terminal::note;

/// Time between requests to a running daemon that has no slot for a subscription.
const REQUEST_EVERY: Duration = Duration::from_millis(500);

/// The result of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    Reached,
    /// It runs, and the time is over.
    TimedOut(DaemonState),
    /// It does not run.
    NotRunning,
}

/// Waits and prints the result.
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

/// When a wait ends, if it has a limit.
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

    /// Waits for something until the end of the wait; `None` if that comes first.
    async fn within<T>(self, fact: impl Future<Output = T>) -> Option<T> {
        match self.left() {
            Some(left) => tokio::time::timeout(left, fact).await.ok(),
            None => Some(fact.await),
        }
    }

    /// Waits until the next check of something that cannot be subscribed to.
    async fn next_check(self, pause: Duration) {
        tokio::time::sleep(self.left().map_or(pause, |left| left.min(pause))).await;
    }
}

/// Waits until a daemon serves clients. The daemon can be started later.
async fn until_ready(context: &Context, until: Until) -> Result<Waited, Error> {
    loop {
        let watched = async {
            let connection = context.connect().await?;
            let states = connection.states().await?;
            Ok((connection, states))
        };
        let last = match watched.await {
            Ok((_connection, states)) => Ok(ready_or_gone(states, until).await),
            // It does not run yet, or not any more. A supervisor may be about to start the next one.
            Err(Unreachable::NotRunning) => Ok(Waited::NotRunning),
            Err(Unreachable::CannotTell(error)) => Err(error),
        };
        if until.is_over() || matches!(last, Ok(Waited::Reached)) {
            return last;
        }
        until.next_check(if last.is_ok() { CHECK_EVERY } else { REQUEST_EVERY }).await;
    }
}

/// Waits until a daemon serves clients, is gone, or the time is over.
async fn ready_or_gone(mut states: States, until: Until) -> Waited {
    // The first state comes at once, and is awaited even if there is no time left.
    let mut next = tokio::time::timeout(ANSWER_WITHIN, states.next()).await.ok().flatten();
    while let Some(change) = next {
        if change.ready {
            return Waited::Reached;
        }
        next = match until.within(states.next()).await {
            Some(next) => next,
            None => return Waited::TimedOut(change.state),
        };
    }
    Waited::NotRunning
}

/// Waits until the running daemon is gone, with its sockets and its lock.
async fn until_stopped(context: &Context, until: Until) -> Result<Waited, Error> {
    loop {
        let answer = async {
            let connection = context.connect().await?;
            let status = connection.status().await?;
            Ok((connection, status))
        };
        let last = match answer.await {
            Ok((connection, status)) => return Ok(until_gone(context, connection, &status, until).await),
            Err(Unreachable::NotRunning) => return Ok(Waited::Reached),
            Err(Unreachable::CannotTell(error)) => error,
        };
        if until.is_over() {
            return Err(last);
        }
        until.next_check(REQUEST_EVERY).await;
    }
}

/// Waits until the daemon at the other end of `connection` is gone; `before` is its status.
pub(super) async fn until_gone(
    context: &Context,
    mut connection: ControlConnection,
    before: &StatusReport,
    until: Until,
) -> Waited {
    let mut state = before.state;
    loop {
        // Without a subscription, the connection is idle and can be closed before its daemon ends.
        let mut states = connection.states().await.ok();
        let closed = async {
            if let Some(states) = &mut states {
                while let Some(change) = states.next().await {
                    state = change.state;
                }
            }
            connection.closed().await;
        };
        if until.within(closed).await.is_none() {
            return Waited::TimedOut(state);
        }
        connection = loop {
            // The lock is released right after the connection is closed.
            if lock::is_free(Path::new(&before.lock_file)) {
                return Waited::Reached;
            }
            let next = async {
                let connection = context.connect().await?;
                let status = connection.status().await?;
                Ok::<_, Unreachable>((connection, status))
            };
            match next.await {
                // It is still the same daemon.
                Ok((connection, status))
                    if (status.generation, status.pid) == (before.generation, before.pid) =>
                {
                    break connection;
                }
                // A supervisor has started the next daemon. This wait is not for the end of that one.
                Ok(_) => return Waited::Reached,
                Err(_) => {}
            }
            if until.is_over() {
                return Waited::TimedOut(DaemonState::Exited);
            }
            until.next_check(CHECK_EVERY).await;
        };
        if until.is_over() {
            return Waited::TimedOut(state);
        }
    }
}
