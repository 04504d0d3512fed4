//! What happens in a turn, for who shows or records it.

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
        /// The model it uses, where codex says so.
        model: Option<&'a str>,
    },
    /// The turn has been started.
    Turn {
        /// Its id.
        id: &'a str,
    },
    /// A notification about the turn, deltas excepted.
    Notification {
        /// Its method.
        method: &'a str,
        /// Its parameters.
        params: &'a Value,
        /// Whether it is about a sub-agent's part.
        sub_agent: bool,
    },
    /// A server request waits for an answer (`Order::Answer`).
    Approval(&'a Approval),
    /// A server request was declined, because nobody can be asked.
    Declined(&'a Approval),
    /// The final answer was given and nothing of the turn is open, or, without one, something has come after it.
    Answer(Option<&'a str>),
    /// The turn is being interrupted.
    Interrupting(Stop),
}

/// Why a turn was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It was asked for.
    Asked,
    /// Its time was over.
    TimedOut,
}

/// Who is told what happens.
pub(crate) trait Watcher {
    /// Something happened.
    fn event(&mut self, event: Event<'_>);
}
