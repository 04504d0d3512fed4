//! The events of a turn, for showing or recording it.

use serde_json::Value;

use super::approval::Approval;

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// The thread is open.
    Thread {
        /// Its id.
        id: &'a str,
        /// Whether it was started for this turn.
        new: bool,
        /// Its model, if codex reports it.
        model: Option<&'a str>,
    },
    /// The turn has been started.
    Turn {
        /// Its id.
        id: &'a str,
    },
    /// A notification about the turn. Deltas are left out.
    Notification {
        /// Its method.
        method: &'a str,
        /// Its parameters.
        params: &'a Value,
        /// Whether it concerns a sub-agent's part.
        sub_agent: bool,
    },
    /// A server request waits for an answer (`Order::Answer`).
    Approval(&'a Approval),
    /// A server request was declined, because no person can answer it.
    Declined(&'a Approval),
    /// The final answer was seen and nothing of the turn is open; or, without one, something followed it.
    Answer(Option<&'a str>),
    /// The turn is being interrupted.
    Interrupting(Stop),
}

/// Why a turn was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// On request.
    Asked,
    /// It reached its time limit.
    TimedOut,
}

/// Gets the events of a turn.
pub(crate) trait Watcher {
    /// Handles an event.
    fn event(&mut self, event: Event<'_>);
}
