//! Settings of the router.

use serde::Deserialize;

use super::Limits;

/// The daemon, as clients see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Version of codexd.
    pub version: String,
    /// Instance name.
    pub instance: String,
    /// Number of the life of daemon and upstream.
    pub generation: u64,
}

/// What a client's `broker/shutdown` does, besides detaching that client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientShutdown {
    /// Stops the daemon if no other client is connected and no turn runs.
    #[default]
    WhenUnused,
    /// Stops the daemon.
    Always,
    /// Nothing more.
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

/// What happens to a turn whose last subscriber disconnects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OrphanedTurns {
    /// It continues, as with a native listener.
    #[default]
    Keep,
    /// It is interrupted unless a client subscribes within a grace period. A codex with one client ends its turns
    /// like that.
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
    /// Name of codexd in its `initialize`; the upstream records it as the originator of all threads.
    pub originator: String,
    /// Limits.
    pub limits: Limits,
    /// What `broker/shutdown` does.
    pub client_shutdown: ClientShutdown,
    /// What happens to turns whose last subscriber disconnects, unless that client declared it.
    pub orphaned_turns: OrphanedTurns,
}
