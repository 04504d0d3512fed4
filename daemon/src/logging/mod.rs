//! The log: lines on stderr for people or, with `log_format = "json"`, for programs; entries of the journal, where that
//! is at the other end of stderr. The fields are the same in all three.

pub(crate) mod file;
pub(crate) mod filter;
pub(crate) mod format;
mod journal;
pub(crate) mod roles;
mod writer;

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{fmt, reload};

use crate::error::Error;
use crate::terminal::stderr_is_journal;
use file::BoundedLog;
use filter::LogFilter;
use format::LogFormat;
use journal::Journal;
use writer::Flush;

/// How long the last lines may take at the end, since nobody may read them.
const LAST_LINES_WITHIN: Duration = Duration::from_millis(200);
/// The same, of the journal.
const LAST_ENTRIES_WITHIN: Duration = Duration::from_millis(1_000);

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

/// Starts logging to stderr. If that is `file`, codexd limits its size: no other program does.
///
/// Lines have colours where stderr is a terminal that shows them and the environment does not forbid them
/// (`NO_COLOR`, `CLICOLOR`, `CLICOLOR_FORCE`, `TERM=dumb`). Where it is the journal, they are sent to the journal's own
/// socket, with their fields.
///
/// # Errors
///
/// When the process has a subscriber already, or the system refuses a thread.
pub(crate) fn start(
    filter: &LogFilter,
    format: LogFormat,
    file: Option<&Path>,
) -> Result<(LogControl, Flush), Error> {
    let failed = || Error::os("cannot start the log");
    let journal = stderr_is_journal();
    let colours = file.is_none() && !journal && AutoStream::choice(&std::io::stderr()) != ColorChoice::Never;
    let target: Box<dyn Write + Send> = match file.and_then(BoundedLog::of_stderr) {
        Some(file) => Box::new(file),
        None if journal => {
            let life = std::env::var("INVOCATION_ID").ok();
            Box::new(Journal::new(Path::new(journal::SOCKET), format, std::io::stderr()).of_life(life))
        }
        None => Box::new(std::io::stderr()),
    };
    // The journal reads, and each line until its last has to be read while this process is there.
    let within = if journal { LAST_ENTRIES_WITHIN } else { LAST_LINES_WITHIN };
    let (writer, flush) = writer::start(target, within).map_err(|error| failed().because(error))?;
    let (targets, reload) = reload::Layer::new(filter.to_targets());
    let lines = fmt::layer().with_writer(writer).with_ansi(colours);
    let registry = tracing_subscriber::registry().with(targets);
    match (journal, format) {
        (false, LogFormat::Text) => registry.with(lines.compact()).try_init(),
        // The journal gets its fields from there, too.
        (true, _) | (false, LogFormat::Json) => registry.with(lines.json()).try_init(),
    }
    .map_err(|error| failed().because(error))?;
    Ok((LogControl { reload }, flush))
}
