//! Refuses to start a daemon while earlier ones keep failing right after their start.

use std::path::Path;

use codexd_proto::exit::ExitCode;

use crate::error::Error;
use crate::instance::record;
use crate::os::unix_time::unix_ms;

/// Refuses to start within the pause; `start` returns the command that starts one all the same.
///
/// # Errors
///
/// With exit code 69: how often it failed, the last reason, and when the next start is tried.
pub(super) fn check(record: &Path, start: impl FnOnce() -> String) -> Result<(), Error> {
    let ends = record::early_ends(record);
    let Some(left_ms) = ends.pause_left(unix_ms()) else { return Ok(()) };
    Err(Error::new(
        ExitCode::Unavailable,
        format!(
            "the daemon is not started again for {} s: {} in a row failed right after their start, the last with exit \
             code {}: {}",
            left_ms.div_ceil(1000),
            ends.count,
            ends.code,
            ends.reason
        ),
    )
    .hint(format!(
        "look into `{}`; `{}` starts one at once",
        record.with_extension("log").display(),
        start()
    )))
}
