//! Arguments of `codex app-server`. They can hold secrets, as `-c mcp_servers.x.env.TOKEN=...` does.
//!
//! So what is shown of them, wherever that is, are names: the keys of settings, features, flags; never a value. And
//! they reach a daemon that a client starts over a pipe and not on its command line, which every user of the
//! machine can read (`ps`). Codex itself takes them on its command line and nowhere else.

pub mod sharing;

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// Flags that take a value, which can be the next word (`codex app-server --help`, 0.142 to 0.169).
const WITH_VALUE: [&str; 15] = [
    "-c",
    "--config",
    "--enable",
    "--disable",
    "--listen",
    "--code-mode-host",
    "--startup-client-info",
    "--cloud-skills-snapshot",
    "--ws-auth",
    "--ws-token-file",
    "--ws-token-sha256",
    "--ws-shared-secret-file",
    "--ws-issuer",
    "--ws-audience",
    "--ws-max-clock-skew-seconds",
];

/// The commands of `codex app-server`, which can be shown.
const COMMANDS: [&str; 5] = ["daemon", "proxy", "generate-ts", "generate-json-schema", "help"];

/// Arguments of `codex app-server`. Shown by name only, also in its [`Debug`](fmt::Debug) form.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CodexArgs(Vec<String>);

impl CodexArgs {
    /// Takes over arguments as they are written on a command line.
    pub const fn new(words: Vec<String>) -> CodexArgs {
        CodexArgs(words)
    }

    /// Returns these arguments with `more` after them.
    #[must_use]
    pub fn with(&self, more: &CodexArgs) -> CodexArgs {
        CodexArgs([self.words(), more.words()].concat())
    }

    /// Returns the words themselves, secrets included: for codex and for a daemon that starts it.
    pub fn words(&self) -> &[String] {
        &self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns what can be shown of each argument.
    pub fn names(&self) -> Vec<String> {
        self.iter().map(|argument| argument.name()).collect()
    }

    /// Returns the values of flags that are no settings or features: addresses, for instance.
    pub fn values_of_flags(&self) -> impl Iterator<Item = &str> {
        let names = ["-c", "--config", "--enable", "--disable", "--listen"];
        self.iter()
            .filter(move |it| it.flag.is_some_and(|flag| !names.contains(&flag)))
            .filter_map(|it| it.value)
    }

    /// Takes the words apart.
    pub fn iter(&self) -> impl Iterator<Item = Argument<'_>> {
        let mut rest = self.words();
        std::iter::from_fn(move || {
            let argument = Argument::first_of(rest)?;
            rest = &rest[argument.words.len()..];
            Some(argument)
        })
    }
}

impl fmt::Display for CodexArgs {
    /// Writes the names, with a comma between.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().join(", "))
    }
}

impl fmt::Debug for CodexArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl<'de> Deserialize<'de> for CodexArgs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<CodexArgs, D::Error> {
        // The deserializer's own error quotes the value.
        let words = Vec::deserialize(deserializer);
        words
            .map(CodexArgs)
            .map_err(|_| D::Error::custom("expected a list of texts, as `[\"--enable\", \"x\"]`"))
    }
}

/// One argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argument<'a> {
    /// The flag without its value: `-c`, `--listen`. `None` for a word that is no flag.
    pub flag: Option<&'a str>,
    /// Its value, in the same word or the next.
    pub value: Option<&'a str>,
    /// As it is written.
    pub words: &'a [String],
}

impl<'a> Argument<'a> {
    fn first_of(words: &'a [String]) -> Option<Argument<'a>> {
        let first = words.first()?;
        let (flag, value) = match first.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (Some(flag), Some(value)),
            _ if first.starts_with("--") => (Some(first.as_str()), None),
            // A flag of one letter, with or without a value after it.
            _ => match first.char_indices().nth(2) {
                _ if first == "-" || !first.starts_with('-') => (None, None),
                Some((at, _)) => {
                    (Some(&first[..at]), Some(first[at..].strip_prefix('=').unwrap_or(&first[at..])))
                }
                None => (Some(first.as_str()), None),
            },
        };
        let takes_next = value.is_none() && flag.is_some_and(|flag| WITH_VALUE.contains(&flag));
        let next = takes_next.then(|| words.get(1)).flatten();
        Some(Argument {
            flag,
            value: value.or(next.map(String::as_str)),
            words: &words[..1 + usize::from(next.is_some())],
        })
    }

    /// Returns what can be shown: the flag, with the key of a setting or the name of a feature. Of a word that is
    /// no flag, it is the word if it is a command of codex.
    pub fn name(&self) -> String {
        match (self.flag, self.value) {
            (Some(flag @ ("-c" | "--config")), Some(value)) => match value.split_once('=') {
                Some((key, _)) => format!("{flag} {key}"),
                None => flag.to_owned(),
            },
            (Some(flag @ ("--enable" | "--disable")), Some(feature)) => format!("{flag} {feature}"),
            (Some(flag), _) => flag.to_owned(),
            (None, _) => match self.words {
                [word] if COMMANDS.contains(&word.as_str()) => word.clone(),
                _ => "(a word)".to_owned(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> CodexArgs {
        CodexArgs::new(words.iter().map(|word| (*word).to_owned()).collect())
    }

    #[test]
    fn names_are_shown_and_values_are_not() {
        for (words, names) in [
            (&["-c", "a.b=SECRET"][..], &["-c a.b"][..]),
            (&["-ca.b=SECRET", "-c=d=SECRET"], &["-c a.b", "-c d"]),
            (&["--config", "a={x=\"SECRET\"}", "--config=b=SECRET"], &["--config a", "--config b"]),
            (&["-c", "SECRET", "--config=SECRET", "-c"], &["-c", "--config", "-c"]),
            (&["--enable", "x", "--disable=y"], &["--enable x", "--disable y"]),
            (
                &["--code-mode-host", "https://SECRET@h", "--ws-issuer=SECRET"],
                &["--code-mode-host", "--ws-issuer"],
            ),
            (
                &["--new", "SECRET", "--new=SECRET", "-xSECRET", "-x"],
                &["--new", "(a word)", "--new", "-x", "-x"],
            ),
            (&["generate-ts", "-", "", "\u{e9}SECRET"], &["generate-ts", "(a word)", "(a word)", "(a word)"]),
            (&["-\u{e9}SECRET", "--", "-c"], &["-\u{e9}", "--", "-c"]),
        ] {
            let arguments = of(words);
            assert_eq!(arguments.names(), names, "{words:?}");
            let shown = format!("{arguments} {arguments:?} {:?}", Some(&arguments));
            assert!(!shown.contains("SECRET"), "{shown}");
        }
    }

    #[test]
    fn every_word_belongs_to_one_argument() {
        let words = ["-c", "a=b", "daemon", "--listen", "stdio://", "--stdio", "-x1", "--enable"];
        let arguments = of(&words);
        let again: Vec<&str> = arguments.iter().flat_map(|a| a.words).map(String::as_str).collect();
        assert_eq!(again, words);
        let listen = arguments.iter().nth(2).unwrap();
        assert_eq!((listen.flag, listen.value), (Some("--listen"), Some("stdio://")));
    }
}
