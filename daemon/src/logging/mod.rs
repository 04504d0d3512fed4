//! The log: lines on stderr, which the service manager or the terminal takes from there.

pub(crate) mod file;
pub(crate) mod filter;
mod writer;

use std::io::{IsTerminal as _, Write};
use std::path::Path;

use anstream::{AutoStream, ColorChoice};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{fmt, reload};

use crate::error::Error;
use file::BoundedLog;
use filter::LogFilter;
use writer::Flush;

/// Changes what is logged while the daemon runs.
#[derive(Clone, Debug)]
pub(crate) struct LogControl {
    reload: reload::Handle<Targets, Registry>,
}

impl LogControl {
    /// Makes `filter` the one in force.
    pub(crate) fn set_level(&self, filter: &LogFilter) {
        // Fails only when the subscriber is gone, and then there is nothing to change.
        let _ = self.reload.reload(filter.to_targets());
    }
}

/// Starts logging to stderr. If that is `file`, it is kept within a bound: nobody else does that.
///
/// Lines have colours where stderr is a terminal that shows them and nobody wishes otherwise (`NO_COLOR`,
/// `CLICOLOR`, `CLICOLOR_FORCE`, `TERM=dumb`). They have no time stamps with `journal`: the journal, which stamps
/// them itself, is at the other end (`JOURNAL_STREAM`, see `systemd.exec(5)`).
///
/// # Errors
///
/// When the process has a subscriber already, or the system refuses a thread.
pub(crate) fn start(
    filter: &LogFilter,
    journal: bool,
    file: Option<&Path>,
) -> Result<(LogControl, Flush), Error> {
    let failed = || Error::os("cannot start the log");
    let colours = file.is_none() && AutoStream::choice(&std::io::stderr()) != ColorChoice::Never;
    let target: Box<dyn Write + Send> = match file.and_then(BoundedLog::of_stderr) {
        Some(file) => Box::new(file),
        None => Box::new(std::io::stderr()),
    };
    let (writer, flush) = writer::start(target).map_err(|error| failed().because(error))?;
    let terminal = std::io::stderr().is_terminal();
    let (targets, reload) = reload::Layer::new(filter.to_targets());
    let lines = fmt::layer().compact().with_writer(writer).with_ansi(colours);
    let registry = tracing_subscriber::registry().with(targets);
    if journal && !terminal {
        registry.with(lines.without_time()).try_init()
    } else {
        registry.with(lines).try_init()
    }
    .map_err(|error| failed().because(error))?;
    Ok((LogControl { reload }, flush))
}
