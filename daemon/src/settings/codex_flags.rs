//! Flags of codex that stand before `app-server`, read as codex 0.142 to 0.169 read them (`codex --help`, and tried
//! with both).
//!
//! Some are settings, which `codex app-server` accepts too. Some are for the terminal interface: codex accepts them
//! there and `app-server` ignores them. Everything else there is passed to codex: it may change what `app-server` is,
//! or be an error, which codex reports.

use std::ffi::{OsStr, OsString};

use clap::{Parser, Subcommand};

/// Reads a command line of codex without the name of the program. Returns the arguments of `app-server`, with
/// settings that stood before it moved to the front; `None` where it is not a plain `app-server`.
pub(crate) fn app_server(arguments: &[OsString]) -> Option<Vec<OsString>> {
    let name = [OsString::from("codex")];
    let Before { config, enable, disable, strict_config, command: Command::Any(rest), .. } =
        Before::try_parse_from(name.iter().chain(arguments)).ok()?;
    // After a `--` it is a prompt.
    let before = &arguments[..arguments.len().checked_sub(rest.len())?];
    let (command, rest) = rest.split_first()?;
    if command != "app-server" || before.last().is_some_and(|last| last == "--") {
        return None;
    }
    let pairs = [("-c", config), ("--enable", enable), ("--disable", disable)];
    let settings = pairs
        .into_iter()
        .flat_map(|(flag, values)| values.into_iter().flat_map(move |value| [flag.into(), value]))
        .chain(strict_config.then(|| OsStr::new("--strict-config").to_owned()));
    Some(settings.chain(rest.iter().cloned()).collect())
}

/// The flags.
#[derive(Debug, Parser)]
#[command(
    name = "codex",
    disable_help_flag = true,
    disable_version_flag = true,
    disable_help_subcommand = true
)]
struct Before {
    #[arg(short, long)]
    config: Vec<OsString>,
    #[arg(long)]
    enable: Vec<OsString>,
    #[arg(long)]
    disable: Vec<OsString>,
    #[arg(long)]
    strict_config: bool,

    // `app-server` does not look at these.
    #[arg(short, long)]
    model: Option<OsString>,
    #[arg(long)]
    oss: bool,
    #[arg(long)]
    local_provider: Option<OsString>,
    #[arg(short, long, value_parser = ["read-only", "workspace-write", "danger-full-access"])]
    sandbox: Option<String>,
    // Older versions know more of them.
    #[arg(short, long, value_parser = ["on-request", "never"], conflicts_with = "yolo")]
    ask_for_approval: Option<String>,
    #[arg(long = "dangerously-bypass-approvals-and-sandbox", alias = "yolo")]
    yolo: bool,
    #[arg(short = 'C', long)]
    cd: Option<OsString>,
    #[arg(long)]
    add_dir: Vec<OsString>,
    #[arg(long)]
    search: bool,
    #[arg(long)]
    no_alt_screen: bool,

    #[command(subcommand)]
    command: Command,
}

/// Whatever comes after the flags, word by word.
#[derive(Debug, Subcommand)]
enum Command {
    #[command(external_subcommand)]
    Any(Vec<OsString>),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn of(line: &str) -> Option<String> {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let words: Vec<String> =
            app_server(&words)?.into_iter().map(|word| word.into_string().unwrap()).collect();
        Some(words.join(" "))
    }

    #[test]
    fn the_flags_are_consistent() {
        Before::command().debug_assert();
    }

    #[test]
    fn settings_are_moved_to_the_front_of_what_follows() {
        for (line, expected) in [
            ("app-server", ""),
            ("app-server --listen stdio:// -c a=b", "--listen stdio:// -c a=b"),
            (
                "-c a=b -cc=d --config e=f --config=g=h -c=i=j app-server -c k=l",
                "-c a=b -c c=d -c e=f -c g=h -c i=j -c k=l",
            ),
            (
                "--enable x --disable y --strict-config app-server --stdio",
                "--enable x --disable y --strict-config --stdio",
            ),
            ("app-server -- x -h", "-- x -h"),
            ("app-server generate-ts --out x", "generate-ts --out x"),
        ] {
            assert_eq!(of(line).as_deref(), Some(expected), "{line}");
        }
    }

    #[test]
    fn what_app_server_does_not_look_at_is_left_out() {
        for flag in [
            "-m o3",
            "-mo3",
            "--model=o3",
            "--oss",
            "-s read-only",
            "-a never",
            "-C /x",
            "--yolo",
            "--add-dir /a --add-dir /b",
            "--search --no-alt-screen",
            "--local-provider ollama",
            "-s read-only --yolo",
        ] {
            assert_eq!(of(&format!("{flag} app-server --stdio")).as_deref(), Some("--stdio"), "{flag}");
        }
    }

    #[test]
    fn everything_else_is_left_to_codex() {
        for line in [
            "",
            "exec app-server",
            "-c app-server",
            "-m app-server",
            "app-serve",
            "app-server-x",
            "-- app-server",
            "-p work app-server",
            "--profile=work app-server",
            "-i x.png app-server",
            "--remote unix:// app-server",
            "--no-daemon app-server",
            "-h app-server",
            "--help",
            "-V",
            "help app-server",
            "--bogus app-server",
            "-a untrusted app-server",
            "-s bogus app-server",
            "-a never --yolo app-server",
            "-m x -m y app-server",
            "--oss --oss app-server",
            "fix the app-server",
        ] {
            assert_eq!(of(line), None, "{line}");
        }
    }
}
