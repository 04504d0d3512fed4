//! Priorities for the journal, which takes them from the beginning of a line (`sd-daemon(3)`).
//!
//! Why not structured fields over the journal's own socket: what `journalctl` shows is the message alone, and ours
//! are constant sentences, so that every line would lose its ids; and a process that writes there blocks while the
//! journal is slow, while the core must never wait for its log.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Puts the priority before each line of `inner`.
pub(super) struct Prioritized<F> {
    pub(super) inner: F,
}

impl<S, N, F> FormatEvent<S, N> for Prioritized<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writer.write_str(prefix(*event.metadata().level()))?;
        self.inner.format_event(context, writer, event)
    }
}

/// Returns what a line of this level begins with: the levels of `syslog(3)`.
fn prefix(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}
