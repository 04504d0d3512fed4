//! The reference of commands and flags in `docs/commands.md`, from the table. Written and compared by a test.

use std::fmt::Write as _;
use std::path::Path;

use clap::{Arg, Command};

use crate::cli;

const HEAD: &str = "# Commands

<!-- written by `UPDATE_DOCS=1 cargo test -p codexd` -->

Every command and flag, as `--help` and the [man pages](man) have them. `codexd completions bash|zsh|fish` prints
completions for a shell. Durations are `500ms`, `30s`, `10m`, `6h` or `never`. Precedence: flags, environment,
[configuration file](config.toml), defaults. Exit codes of `serve` are in [operations](operations.md#exit-codes-of-codexd-serve).
";

fn reference() -> String {
    let mut text = HEAD.to_owned();
    for command in cli::table().get_subcommands().filter(|command| !command.is_hide_set()) {
        describe(command, "##", &mut text);
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            describe(verb, "###", &mut text);
        }
    }
    text
}

fn describe(command: &Command, heading: &str, text: &mut String) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let _ = write!(text, "\n{heading} `{name}`\n\n{about}.\n");
    let own = |argument: &&Arg| {
        // `--help` is everywhere, and the flags of `ctl` are shown there.
        let of_all = argument.get_id() == "help" || (heading == "###" && argument.is_global_set());
        !argument.is_hide_set() && !of_all
    };
    let mut rows = command.get_arguments().filter(own).peekable();
    if rows.peek().is_none() {
        return;
    }
    text.push_str("\n| | |\n| --- | --- |\n");
    for argument in rows {
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let defaults: Vec<_> =
            argument.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
        let shown_default = !defaults.is_empty() && argument.get_action().takes_values();
        let default =
            if shown_default { format!(" [default: {}]", defaults.join(" ")) } else { String::new() };
        let _ = writeln!(text, "| `{}` | {}{default}{} |", spelled(argument), cell(&help), words(argument));
    }
}

/// Returns an argument as it is typed.
fn spelled(argument: &Arg) -> String {
    let mut names: Vec<String> = argument.get_short().map(|short| format!("-{short}")).into_iter().collect();
    names.extend(argument.get_long().map(|long| format!("--{long}")));
    let value = argument
        .get_action()
        .takes_values()
        .then(|| {
            let names = argument.get_value_names().unwrap_or_default();
            names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        })
        .filter(|value| !value.is_empty());
    let text = match (names.is_empty(), value) {
        (true, value) => value.unwrap_or_else(|| argument.get_id().to_string().to_uppercase()),
        (false, Some(value)) => format!("{} {value}", names.join(", ")),
        (false, None) => names.join(", "),
    };
    cell(&text)
}

/// Returns the values that an argument can have, if these are known.
fn words(argument: &Arg) -> String {
    if !argument.get_action().takes_values() {
        return String::new();
    }
    let values: Vec<String> = argument
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| match value.get_help() {
            Some(help) => format!("`{}` ({})", value.get_name(), cell(&help.to_string())),
            None => format!("`{}`", value.get_name()),
        })
        .collect();
    if values.is_empty() { String::new() } else { format!(": {}", values.join(", ")) }
}

/// A cell of a table can hold no line break and no bar.
fn cell(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|")
}

#[test]
fn the_committed_reference_is_that_of_the_program() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/commands.md");
    if std::env::var_os("UPDATE_DOCS").is_some_and(|v| v == "1") {
        std::fs::write(&path, reference()).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    assert!(
        committed == reference(),
        "docs/commands.md is out of date: `UPDATE_DOCS=1 cargo test -p codexd`"
    );
}
