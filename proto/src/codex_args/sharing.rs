//! What the arguments of `codex app-server` mean for a daemon that several clients share.

use super::{Argument, CodexArgs};
use crate::hash::fnv1a_32;

/// How to serve a client with these arguments.
#[derive(Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The shared daemon: no argument differs from its own.
    Shared,
    /// A separate daemon, started with these arguments and shared by all clients with the same ones.
    Separate(CodexArgs),
    /// No daemon: another transport, another command, or something to be done once. The text names the argument.
    Codex(String),
}

/// What one argument means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// No effect on other clients.
    Harmless,
    /// An effect on the whole app-server.
    Setting,
    /// Nothing that a daemon does.
    Codex,
}

/// Reads the arguments.
///
/// An unknown flag counts as a setting: it leads to a separate daemon, whose codex rejects the flag if it does not
/// know it either.
pub fn read(arguments: &CodexArgs) -> Wanted {
    let mut own = Vec::new();
    for (index, argument) in arguments.iter().enumerate() {
        match meaning(&argument) {
            Meaning::Harmless => {}
            Meaning::Setting => own.extend_from_slice(argument.words),
            Meaning::Codex if argument.name().starts_with('(') => {
                return Wanted::Codex(format!("argument {} of `app-server`, a word,", index + 1));
            }
            Meaning::Codex => return Wanted::Codex(format!("`{}`", argument.name())),
        }
    }
    if own.is_empty() { Wanted::Shared } else { Wanted::Separate(CodexArgs::new(own)) }
}

/// The list in `docs/connect.md` is this one; measured with codex 0.169.0.
fn meaning(argument: &Argument<'_>) -> Meaning {
    match argument.flag {
        // How codexd speaks with codex anyway.
        Some("--stdio") => Meaning::Harmless,
        Some("--listen") if argument.value == Some("stdio://") => Meaning::Harmless,
        // Whether codex reports statistics where its configuration does not decide it: no message differs. Desktop
        // clients have it, and it is not passed on, since other clients of the same daemon did not ask for that.
        Some("--analytics-default-enabled") => Meaning::Harmless,
        // Another transport's, what is done once and not per client, and files of the client's directory. Codex takes
        // the client's identity with `--print-startup-config` only.
        Some(
            "--listen"
            | "--startup-sign-out"
            | "--print-startup-config"
            | "--startup-client-info"
            | "--cloud-skills-snapshot"
            | "-h"
            | "--help"
            | "-V"
            | "--version"
            | "--",
        ) => Meaning::Codex,
        Some(flag) if flag.starts_with("--ws-") => Meaning::Codex,
        // `-c`, `--enable`, `--code-mode-host`; `--strict-config`, with which codex refuses to start at all where the
        // configuration has a key that it does not know; and whatever is new.
        Some(_) => Meaning::Setting,
        // A command of `codex app-server`.
        None => Meaning::Codex,
    }
}

/// Returns what the names of a separate daemon end with: a hyphen and eight hexadecimal digits, a hash of the
/// arguments. It has 32 bits: enough to distinguish them, too few to reveal them.
pub fn suffix(arguments: &CodexArgs) -> String {
    format!("-{:08x}", fnv1a_32(arguments.words().join("\0").as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> CodexArgs {
        CodexArgs::new(line.split_whitespace().map(str::to_owned).collect())
    }

    fn of(line: &str) -> Wanted {
        read(&args(line))
    }

    fn separate(line: &str) -> Wanted {
        Wanted::Separate(args(line))
    }

    #[test]
    fn what_changes_nothing_for_others_is_shared() {
        for line in [
            "",
            "--listen stdio://",
            "--listen=stdio://",
            "--stdio",
            "--analytics-default-enabled",
            "--stdio --analytics-default-enabled",
        ] {
            assert_eq!(of(line), Wanted::Shared, "{line}");
        }
    }

    #[test]
    fn settings_lead_to_a_daemon_of_its_own() {
        assert_eq!(of("--listen stdio:// -c a=b --enable x"), separate("-c a=b --enable x"));
        assert_eq!(of("--config=a=b --new-flag --stdio"), separate("--config=a=b --new-flag"));
        assert_eq!(of("-ca=b --analytics-default-enabled"), separate("-ca=b"));
        assert_eq!(of("--strict-config"), separate("--strict-config"));
        // The value of a setting is none of codex's commands.
        assert_eq!(of("-c daemon"), separate("-c daemon"));
        assert_eq!(suffix(&args("-c a=b")).len(), 9);
        assert_ne!(suffix(&args("-c a=b")), suffix(&args("-c a=c")));
    }

    #[test]
    fn what_no_daemon_does_is_left_to_codex_by_name() {
        for (line, name) in [
            ("--listen ws://127.0.0.1:1", "`--listen`"),
            ("--listen", "`--listen`"),
            ("generate-ts --out x", "`generate-ts`"),
            ("-c a=b daemon", "`daemon`"),
            ("--ws-auth x", "`--ws-auth`"),
            ("--ws-token-sha256=x", "`--ws-token-sha256`"),
            ("--startup-client-info {}", "`--startup-client-info`"),
            ("--help", "`--help`"),
            ("--token hunter2", "argument 2 of `app-server`, a word,"),
        ] {
            assert_eq!(of(line), Wanted::Codex(name.to_owned()), "{line}");
        }
    }
}
