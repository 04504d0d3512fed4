//! Exit codes of `codexd serve`: the one place that defines the numbers.
//!
//! Values from 64 to 78 are those of `sysexits.h` (BSD, `sysexits(3)`), and 79 is the first one after them; the unit
//! files tell the supervisor which of them are permanent. The table for people is in `docs/operations.md`.

use serde::{Deserialize, Serialize};

/// Why the process ends, as an exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ExitCode {
    /// 0: the stop was asked for (signal, control socket, last client, idle).
    Stopped,
    /// 1: the upstream was lost unasked, whatever its own status was, or did not respond.
    UpstreamLost,
    /// 64: the command line is wrong.
    Usage,
    /// 69: codex was not found or cannot be executed.
    Unavailable,
    /// 70: internal error or panic.
    Software,
    /// 71: the operating system refused something (fork, pipe).
    Os,
    /// 73: a directory cannot be created or the socket cannot be bound.
    CannotCreate,
    /// 75: another live daemon holds this instance.
    AlreadyRunning,
    /// 76: the upstream refused the handshake, or speaks another protocol.
    Protocol,
    /// 77: a directory, socket or owner is not safe.
    Unsafe,
    /// 78: the configuration is wrong.
    Config,
    /// 79: the next daemon is to take its place, with another codex or codexd (`codexd ctl upgrade`).
    Upgrade,
}

impl ExitCode {
    /// All codes, in ascending order of their number.
    pub const ALL: [ExitCode; 12] = [
        ExitCode::Stopped,
        ExitCode::UpstreamLost,
        ExitCode::Usage,
        ExitCode::Unavailable,
        ExitCode::Software,
        ExitCode::Os,
        ExitCode::CannotCreate,
        ExitCode::AlreadyRunning,
        ExitCode::Protocol,
        ExitCode::Unsafe,
        ExitCode::Config,
        ExitCode::Upgrade,
    ];

    /// Returns the number the process exits with.
    pub const fn number(self) -> u8 {
        match self {
            ExitCode::Stopped => 0,
            ExitCode::UpstreamLost => 1,
            ExitCode::Usage => 64,
            ExitCode::Unavailable => 69,
            ExitCode::Software => 70,
            ExitCode::Os => 71,
            ExitCode::CannotCreate => 73,
            ExitCode::AlreadyRunning => 75,
            ExitCode::Protocol => 76,
            ExitCode::Unsafe => 77,
            ExitCode::Config => 78,
            ExitCode::Upgrade => 79,
        }
    }

    /// Returns the word for the code, as in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            ExitCode::Stopped => "stopped",
            ExitCode::UpstreamLost => "upstreamLost",
            ExitCode::Usage => "usage",
            ExitCode::Unavailable => "unavailable",
            ExitCode::Software => "software",
            ExitCode::Os => "os",
            ExitCode::CannotCreate => "cannotCreate",
            ExitCode::AlreadyRunning => "alreadyRunning",
            ExitCode::Protocol => "protocol",
            ExitCode::Unsafe => "unsafe",
            ExitCode::Config => "config",
            ExitCode::Upgrade => "upgrade",
        }
    }

    /// Returns whether starting again, with nothing changed, cannot help.
    ///
    /// A supervisor should not restart after these. `AlreadyRunning` is one: the other daemon serves.
    pub const fn is_permanent(self) -> bool {
        matches!(
            self,
            ExitCode::Usage
                | ExitCode::Unavailable
                | ExitCode::CannotCreate
                | ExitCode::AlreadyRunning
                | ExitCode::Protocol
                | ExitCode::Unsafe
                | ExitCode::Config
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_the_json() {
        for code in ExitCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.word());
        }
    }
}
