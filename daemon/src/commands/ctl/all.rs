//! All instances of the user: found by their records and locks, and queried.
//!
//! A daemon with other runtime and state directories than those of this environment is not found.

use codexd_proto::status::StatusReport;
use futures_util::future::join_all;
use serde_json::Value;

use super::{ANSWER_WITHIN, nobody_listens, runtime};
use crate::control::client::{ControlConnection, Unreachable};
use crate::error::Error;
use crate::instance::lock;
use crate::instance::record::{self, Former};
use crate::settings::paths::Paths;

/// One instance and its answer.
pub(crate) struct Found {
    pub(crate) former: Former,
    pub(crate) answer: Result<Answer, Unreachable>,
}

/// A status, unparsed and as far as this version can parse it.
pub(crate) struct Answer {
    pub(crate) json: Value,
    pub(crate) report: StatusReport,
}

impl Found {
    /// Whether there is a daemon, as far as the answer shows.
    pub(crate) fn may_run(&self) -> bool {
        !matches!(self.answer, Err(Unreachable::NotRunning))
    }
}

/// Queries all instances at once. Returns them by name.
pub(super) async fn query_all(paths: &Paths) -> Vec<Found> {
    join_all(record::all(paths).into_iter().map(|former| async {
        let answer = query(&former).await;
        Found { former, answer }
    }))
    .await
}

/// As [`query_all`], for callers without a runtime.
///
/// # Errors
///
/// If the system cannot provide a runtime.
pub(crate) fn find_all(paths: &Paths) -> Result<Vec<Found>, Error> {
    Ok(runtime()?.block_on(query_all(paths)))
}

async fn query(former: &Former) -> Result<Answer, Unreachable> {
    // A killed daemon can have left a socket file that belongs to no process.
    if lock::is_free(&former.lock) {
        return Err(Unreachable::NotRunning);
    }
    let status = async {
        let connection =
            ControlConnection::open(&former.control_socket, ANSWER_WITHIN, ANSWER_WITHIN).await?;
        answer(&connection).await
    };
    match status.await {
        // The lock is released last and acquired first.
        Err(Unreachable::NotRunning) if lock::is_free(&former.lock) => Err(Unreachable::NotRunning),
        Err(Unreachable::NotRunning) => Err(Unreachable::CannotTell(
            nobody_listens(&former.lock, &former.control_socket).hint("it is starting or ending; ask again"),
        )),
        other => other,
    }
}

/// Requests the status of a daemon.
pub(super) async fn answer(connection: &ControlConnection) -> Result<Answer, Unreachable> {
    let json = connection.status_json().await?;
    let report = serde_json::from_value(json.clone()).map_err(|error| {
        Unreachable::CannotTell(Error::os("cannot read the daemon's status").because(error))
    })?;
    Ok(Answer { json, report })
}
