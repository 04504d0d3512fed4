//! Promises that were broken.

use std::fmt;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which promise.
    pub kind: ViolationKind,
    /// Which client, what was expected, and what came instead.
    pub text: String,
}

/// The promises as this campaign can see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ViolationKind {
    /// A request without an answer.
    Unanswered,
    /// A second answer to a request.
    AnsweredTwice,
    /// A turn without an end.
    TurnWithoutEnd,
    /// A second end of a turn, or something of it after its end.
    TurnEndedTwice,
    /// Something is missing.
    Lost,
    /// Something came twice.
    Doubled,
    /// Something came out of order.
    Reordered,
    /// Something came to the wrong client.
    Stray,
    /// A connection ended without a shutdown notice.
    WithoutNotice,
    /// A client that was not concerned noticed something.
    Disturbed,
    /// Something did not come to its end in time.
    Hang,
    /// A process was left.
    Orphan,
    /// A socket was left, or the next start failed.
    Restart,
    /// Another exit code than stated, or another one in the record.
    ExitCode,
    /// `fake-codex` received what it should not.
    Complaint,
    /// The campaign itself failed.
    Harness,
}

impl Violation {
    pub(crate) fn new(kind: ViolationKind, text: impl Into<String>) -> Violation {
        Violation { kind, text: text.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.text)
    }
}
