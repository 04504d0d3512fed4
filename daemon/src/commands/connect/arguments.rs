//! What the arguments of `codex app-server` mean for a daemon that many share.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use crate::settings::paths::fnv1a_32;

/// How to serve a client with these arguments.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The daemon that everybody shares: nothing was asked for that differs.
    Shared,
    /// A daemon of its own, started with these arguments and shared by all who have the same.
    Separate(Vec<String>),
    /// Nothing a daemon could do: another transport, another command, or something to be done once.
    Codex(String),
}

/// Reads the arguments.
///
/// What is not known is taken for a setting: it leads to a daemon of its own, and codex says there if it
/// does not know it either.
pub(super) fn read(arguments: &[String]) -> Wanted {
    let mut own = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let (flag, value) = match argument.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag, Some(value)),
            _ => (argument.as_str(), None),
        };
        match flag {
            "--stdio" => {}
            "--listen" => match value.or_else(|| rest.next().map(String::as_str)) {
                Some("stdio://") => {}
                _ => return Wanted::Codex(argument.clone()),
            },
            // Another transport's, what is done once and not per client, and files of the client's folder.
            "--startup-sign-out"
            | "--print-startup-config"
            | "--cloud-skills-snapshot"
            | "-h"
            | "--help"
            | "-V"
            | "--version"
            | "--" => return Wanted::Codex(argument.clone()),
            _ if flag.starts_with("--ws-") => return Wanted::Codex(argument.clone()),
            "-c" | "--config" | "--enable" | "--disable" | "--code-mode-host" | "--startup-client-info"
                if value.is_none() =>
            {
                own.push(argument.clone());
                own.extend(rest.next().cloned());
            }
            _ if flag.starts_with('-') => own.push(argument.clone()),
            // A command of `codex app-server`.
            _ => return Wanted::Codex(argument.clone()),
        }
    }
    if own.is_empty() { Wanted::Shared } else { Wanted::Separate(own) }
}

/// Returns what the names of a separate daemon end with: a hyphen and eight hexadecimal digits.
pub(super) fn suffix(arguments: &[String]) -> String {
    format!("-{:08x}", fnv1a_32(OsStr::new(&arguments.join("\0")).as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Wanted {
        read(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    fn separate(line: &str) -> Wanted {
        Wanted::Separate(line.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn what_everybody_can_share_is_shared() {
        for line in ["", "--listen stdio://", "--listen=stdio://", "--stdio"] {
            assert_eq!(of(line), Wanted::Shared, "{line}");
        }
    }

    #[test]
    fn settings_lead_to_a_daemon_of_its_own() {
        assert_eq!(of("--listen stdio:// -c a=b --enable x"), separate("-c a=b --enable x"));
        assert_eq!(of("--config=a=b --new-flag --stdio"), separate("--config=a=b --new-flag"));
        // The value of a setting is none of codex's commands.
        assert_eq!(of("-c daemon"), separate("-c daemon"));
        let arguments = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(suffix(&arguments("-c a=b")).len(), 9);
        assert_ne!(suffix(&arguments("-c a=b")), suffix(&arguments("-c a=c")));
    }

    #[test]
    fn what_no_daemon_does_is_left_to_codex() {
        for line in [
            "--listen ws://127.0.0.1:1",
            "--listen",
            "generate-ts --out x",
            "-c a=b daemon",
            "--ws-auth x",
            "--help",
        ] {
            assert!(matches!(of(line), Wanted::Codex(_)), "{line}");
        }
    }
}
