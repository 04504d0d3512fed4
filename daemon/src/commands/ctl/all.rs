//! Every instance of the user's: found by records and locks, and asked.
//!
//! A daemon whose runtime and state directories are not those of this environment is not found.

use codexd_proto::status::StatusReport;
use futures_util::future::join_all;
use serde_json::Value;

use super::{ANSWER_WITHIN, nobody_listens, runtime};
use crate::control::client::{ControlConnection, Unreachable};
use crate::error::Error;
use crate::instance::lock;
use crate::instance::record::{self, Former};
use crate::settings::paths::Paths;

/// One instance and what it said.
pub(crate) struct Found {
    pub(crate) former: Former,
    pub(crate) answer: Result<Answer, Unreachable>,
}

/// A status, as it came and as far as this version understands it.
pub(crate) struct Answer {
    pub(crate) json: Value,
    pub(crate) report: StatusReport,
}

impl Found {
    /// Whether there is a daemon, as far as can be said.
    pub(crate) fn may_run(&self) -> bool {
        !matches!(self.answer, Err(Unreachable::NotRunning))
    }
}

/// Asks all instances at once, and returns them by name.
pub(super) async fn ask_all(paths: &Paths) -> Vec<Found> {
    join_all(record::all(paths).into_iter().map(|former| async {
        let answer = ask(&former).await;
        Found { former, answer }
    }))
    .await
}

/// As [`ask_all`], for who has no runtime.
///
/// # Errors
///
/// When the system has no runtime to give.
pub(crate) fn find_all(paths: &Paths) -> Result<Vec<Found>, Error> {
    Ok(runtime()?.block_on(ask_all(paths)))
}

async fn ask(former: &Former) -> Result<Answer, Unreachable> {
    // What a killed daemon left at its path is nobody's.
    if lock::is_free(&former.lock) {
        return Err(Unreachable::NotRunning);
    }
    let status = async {
        let connection =
            ControlConnection::open(&former.control_socket, ANSWER_WITHIN, ANSWER_WITHIN).await?;
        answer(&connection).await
    };
    match status.await {
        // The last one to go is the lock, and the first one to come.
        Err(Unreachable::NotRunning) if lock::is_free(&former.lock) => Err(Unreachable::NotRunning),
        Err(Unreachable::NotRunning) => Err(Unreachable::CannotTell(
            nobody_listens(&former.lock, &former.control_socket).hint("it is starting or ending; ask again"),
        )),
        other => other,
    }
}

/// Asks a daemon how it is.
pub(super) async fn answer(connection: &ControlConnection) -> Result<Answer, Unreachable> {
    let json = connection.status_json().await?;
    let report = serde_json::from_value(json.clone()).map_err(|error| {
        Unreachable::CannotTell(Error::os("cannot read the daemon's status").because(error))
    })?;
    Ok(Answer { json, report })
}
