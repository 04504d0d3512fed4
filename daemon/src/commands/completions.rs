//! `codexd completions`: what makes a shell complete commands and flags.

use clap::{Arg, Command};
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
    ctl::print(&completions(args.shell))?;
    Ok(ExitCode::Stopped)
}

fn completions(shell: Shell) -> String {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    // Clap wants names that live as long as the program, which ends with this.
    let table: &'static Command = Box::leak(Box::new(cli::table()));
    let mut written = Vec::new();
    clap_complete::generate(shell, &mut shown(table), "codexd", &mut written);
    String::from_utf8_lossy(&written).into_owned()
}

/// Returns the command with what the help shows of it, because clap_complete (4.6) completes hidden flags in bash and zsh,
/// and hidden commands in all shells.
fn shown(command: &'static Command) -> Command {
    Command::new(command.get_name())
        .about(command.get_about().cloned().unwrap_or_default())
        .version(command.get_version().unwrap_or_default())
        // The table is built, so that it has these already.
        .disable_help_flag(true)
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .visible_aliases(command.get_visible_aliases())
        .args(command.get_arguments().filter(|argument| !argument.is_hide_set()).map(|it| plain(command, it)))
        .subcommands(command.get_subcommands().filter(|command| !command.is_hide_set()).map(shown))
}

/// Returns what a shell needs of an argument. It does not refer to hidden ones: clap refuses what refers to arguments that
/// are not there.
fn plain(command: &'static Command, argument: &'static Arg) -> Arg {
    let conflicts = command.get_arg_conflicts_with(argument).into_iter();
    let mut plain = Arg::new(argument.get_id().clone())
        .action(argument.get_action().clone())
        .value_parser(argument.get_value_parser().clone())
        .value_hint(argument.get_value_hint())
        .required(argument.is_required_set())
        .visible_aliases(argument.get_visible_aliases().unwrap_or_default())
        .conflicts_with_all(conflicts.filter(|it| !it.is_hide_set()).map(Arg::get_id));
    plain = plain
        .short(argument.get_short())
        .long(argument.get_long())
        .help(argument.get_help().cloned().unwrap_or_default());
    if let Some(names) = argument.get_value_names() {
        plain = plain.value_names(names.iter().cloned());
    }
    match argument.get_num_args() {
        Some(number) => plain.num_args(number),
        None => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the table of commands hides, and what it does not.
    #[derive(Default)]
    struct Names {
        flags: Vec<String>,
        commands: Vec<String>,
        hidden_flags: Vec<String>,
        /// With what they do.
        hidden_commands: Vec<(String, String)>,
    }

    fn read(command: &Command, names: &mut Names) {
        for argument in command.get_arguments() {
            let flags = if argument.is_hide_set() { &mut names.hidden_flags } else { &mut names.flags };
            flags.extend(argument.get_long().map(str::to_owned));
        }
        for command in command.get_subcommands() {
            let name = command.get_name().to_owned();
            if command.is_hide_set() {
                names.hidden_commands.push((name, command.get_about().unwrap().to_string()));
            } else {
                names.commands.push(name);
                read(command, names);
            }
        }
    }

    /// Whether a name is a word of the text, and no part of a longer one.
    fn has(text: &str, name: &str) -> bool {
        let within = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        text.match_indices(name).any(|(at, _)| {
            let before = text[..at].trim_end_matches('-');
            !within(before.chars().next_back()) && !within(text[at + name.len()..].chars().next())
        })
    }

    #[test]
    fn what_the_help_does_not_show_is_not_completed() {
        let mut names = Names::default();
        read(&cli::table(), &mut names);
        assert!(names.hidden_flags.iter().any(|name| name == "auto-spawned"));
        assert!(names.hidden_commands.iter().any(|(name, _)| name == "man"));
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = completions(shell);
            for name in &names.hidden_flags {
                assert!(!has(&text, name), "{shell:?} completes the hidden `--{name}`");
            }
            for (name, about) in &names.hidden_commands {
                let found = text.contains(&format!("codexd,{name})")) || text.contains(about);
                assert!(!found, "{shell:?} completes the hidden `{name}`");
            }
            for name in names.flags.iter().chain(&names.commands) {
                assert!(has(&text, name), "{shell:?} does not complete `{name}`");
            }
        }
    }
}
