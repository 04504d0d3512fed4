//! What differs because it cannot be the same over one connection. Each is also in `docs/protocol.md`, under
//! "What cannot be exact over one connection".

/// A difference that is expected.
#[derive(Debug)]
pub(crate) struct Exception {
    pub(crate) script: &'static str,
    /// Which client sees it.
    pub(crate) client: &'static str,
    /// Method of the message, or of the request that is answered.
    pub(crate) method: &'static str,
    pub(crate) kind: DifferenceKind,
    /// Whether it depends on the moment, so that its absence is fine, too.
    pub(crate) sometimes: bool,
    #[allow(dead_code, reason = "for people, and printed when the exception is not needed")]
    pub(crate) reason: &'static str,
}

/// How it differs.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "a list of exceptions need not use every kind")]
pub(crate) enum DifferenceKind {
    /// Only the oracle sends it.
    Missing,
    /// Only codexd sends it.
    Extra,
    /// The value at this place, and nothing else, is another.
    Value(&'static str),
}

pub(crate) const EXCEPTIONS: &[Exception] = &[
    Exception {
        script: "before_initialize",
        client: "B",
        method: "no/such",
        kind: DifferenceKind::Value("/error/message"),
        sometimes: false,
        reason: "codexd checks the handshake before anything is decoded, which only the upstream could do",
    },
    Exception {
        script: "resume_unsubscribe_and_turn_at_once",
        client: "B",
        method: "thread/tokenUsage/updated",
        kind: DifferenceKind::Missing,
        sometimes: false,
        reason: "an unsubscribe sent after a resume without an answer is answered together with it, before the \
                 copy of the token usage that follows",
    },
    Exception {
        script: "resume_unsubscribe_and_turn_at_once",
        client: "B",
        method: "thread/tokenUsage/updated",
        kind: DifferenceKind::Extra,
        sometimes: false,
        reason: "the same copy, after the answer to the unsubscribe",
    },
];
