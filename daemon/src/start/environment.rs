//! Which variables of a client the daemon that it starts does not get.
//!
//! Everything else is kept: a model provider may take its key from any variable (`env_key` in codex's
//! configuration), and the commands that the model runs want the user's PATH, agent and locale.

use crate::instance::life;

/// Variables that belong to one terminal, one login or one program, and would be wrong for the next client.
///
/// Those of a service manager are in [`STRIPPED_ENV`](crate::os::service_manager::STRIPPED_ENV).
pub(super) const OF_ONE_CLIENT: &[&str] = &[
    // The terminal.
    "TERM",
    "COLORTERM",
    "COLUMNS",
    "LINES",
    "TERM_PROGRAM",
    "TERM_PROGRAM_VERSION",
    "TERM_SESSION_ID",
    "WINDOWID",
    "TMUX",
    "TMUX_PANE",
    "STY",
    "WINDOW",
    "GPG_TTY",
    // The login.
    "SSH_TTY",
    "SSH_CLIENT",
    "SSH_CONNECTION",
    "XDG_SESSION_ID",
    // The shell.
    "PWD",
    "OLDPWD",
    "SHLVL",
    "_",
    // How one client of codex introduces itself.
    "CODEX_INTERNAL_ORIGINATOR_OVERRIDE",
    // Which codex the client is a command of, if it is one.
    life::PARENT,
    life::DEPTH,
];
