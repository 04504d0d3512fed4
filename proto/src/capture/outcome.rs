//! How a turn ended, and what shows that.

use serde::{Deserialize, Serialize};

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// With its final answer.
    Completed,
    /// With an error.
    Failed,
    /// By an interrupt.
    Interrupted,
    /// The upstream was lost.
    Lost,
    /// Unknown: no client was subscribed to its thread, so the upstream did not report it.
    Unknown,
}

impl Outcome {
    /// Parses the status of a turn.
    pub fn of_status(status: &[u8]) -> Outcome {
        match status {
            b"completed" => Outcome::Completed,
            b"failed" => Outcome::Failed,
            b"interrupted" => Outcome::Interrupted,
            _ => Outcome::Unknown,
        }
    }

    /// Returns the word used in logs and JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Outcome::Completed => "completed",
            Outcome::Failed => "failed",
            Outcome::Interrupted => "interrupted",
            Outcome::Lost => "lost",
            Outcome::Unknown => "unknown",
        }
    }
}

/// What shows an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KnownBy {
    /// The turn's own terminal event.
    TerminalEvent,
    /// The final answer was seen, nothing that belongs to the turn was open, and no terminal event came.
    Inferred,
    /// The upstream was lost before the final answer, or while something that belongs to the turn was open.
    UpstreamLost,
    /// The thread was closed, archived or deleted, or reported as idle, without a terminal event.
    ThreadEnded,
    /// The time limit had passed, and the turn did not end when it was interrupted.
    TimedOut,
    /// The daemon ended without recording an outcome.
    DaemonDied,
}

impl KnownBy {
    /// All values.
    pub const ALL: [KnownBy; 6] = [
        KnownBy::TerminalEvent,
        KnownBy::Inferred,
        KnownBy::UpstreamLost,
        KnownBy::ThreadEnded,
        KnownBy::TimedOut,
        KnownBy::DaemonDied,
    ];

    /// Returns the word used in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            KnownBy::TerminalEvent => "terminalEvent",
            KnownBy::Inferred => "inferred",
            KnownBy::UpstreamLost => "upstreamLost",
            KnownBy::ThreadEnded => "threadEnded",
            KnownBy::TimedOut => "timedOut",
            KnownBy::DaemonDied => "daemonDied",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_the_json_form() {
        for known_by in KnownBy::ALL {
            assert_eq!(serde_json::to_value(known_by).unwrap(), known_by.word());
        }
        for outcome in
            [Outcome::Completed, Outcome::Failed, Outcome::Interrupted, Outcome::Lost, Outcome::Unknown]
        {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.word());
        }
    }
}
