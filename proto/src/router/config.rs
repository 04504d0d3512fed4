//! Settings of the router.

use serde::Deserialize;

use super::Limits;

/// Who this daemon is, as clients see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Version of codexd.
    pub version: String,
    /// Instance name.
    pub instance: String,
    /// Life of daemon and upstream.
    pub generation: u64,
}

/// What a client's `broker/shutdown` does beyond detaching that client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientShutdown {
    /// Stops the daemon if no other client is connected and no turn runs.
    #[default]
    WhenUnused,
    /// Stops the daemon.
    Always,
    /// Nothing.
    Never,
}

impl ClientShutdown {
    /// Returns the word used in settings.
    pub const fn word(self) -> &'static str {
        match self {
            ClientShutdown::WhenUnused => "when-unused",
            ClientShutdown::Always => "always",
            ClientShutdown::Never => "never",
        }
    }
}

/// What becomes of a turn whose last subscriber disconnects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OrphanedTurns {
    /// It goes on, as with a native listener.
    #[default]
    Keep,
    /// It is interrupted if nobody subscribes within a grace period, as it ends with a codex of one's own.
    Interrupt,
}

impl OrphanedTurns {
    /// Returns the word used in settings, on the command line and in `initialize`.
    pub const fn word(self) -> &'static str {
        match self {
            OrphanedTurns::Keep => "keep",
            OrphanedTurns::Interrupt => "interrupt",
        }
    }
}

/// Settings of the router.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Who this daemon is.
    pub identity: Identity,
    /// Name by which codexd introduces itself to the upstream: the originator of all threads.
    pub originator: String,
    /// Limits.
    pub limits: Limits,
    /// What `broker/shutdown` does.
    pub client_shutdown: ClientShutdown,
    /// What becomes of turns whose last subscriber disconnects, unless that client declared it.
    pub orphaned_turns: OrphanedTurns,
}
