//! `codexd completions`: what makes a shell complete commands and flags.

use codexd_proto::exit::ExitCode;

use super::ctl;
use crate::cli::{self, CompletionsArgs, Shell};
use crate::error::Error;

/// Prints the completions of a shell.
///
/// # Errors
///
/// When stdout cannot be written.
pub(crate) fn run(args: CompletionsArgs) -> Result<ExitCode, Error> {
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut written = Vec::new();
    clap_complete::generate(shell, &mut cli::table(), "codexd", &mut written);
    ctl::print(&String::from_utf8_lossy(&written))?;
    Ok(ExitCode::Stopped)
}
