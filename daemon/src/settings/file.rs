//! The form of the configuration file: TOML, every key optional, none unknown.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use crate::error::Error;
use crate::logging::filter::LogFilter;
use crate::logging::format::LogFormat;
use crate::settings::duration::TimeLimit;
use codexd_proto::codex_args::CodexArgs;
use codexd_proto::router::{ClientShutdown, Limits, OrphanedTurns};

/// The content of a configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ConfigFile {
    pub(crate) socket: Option<PathBuf>,
    pub(crate) control_socket: Option<PathBuf>,
    pub(crate) instance: Option<String>,
    pub(crate) codex: Option<PathBuf>,
    pub(crate) codex_args: CodexArgs,
    pub(crate) client_shutdown: ClientShutdown,
    pub(crate) orphaned_turns: OrphanedTurns,
    pub(crate) client_name: Option<String>,
    pub(crate) drain_timeout: Option<TimeLimit>,
    pub(crate) idle_exit: Option<TimeLimit>,
    pub(crate) probe_interval: Option<TimeLimit>,
    pub(crate) probe_timeout: Option<TimeLimit>,
    pub(crate) ledger: Option<bool>,
    pub(crate) ledger_turns: Option<u64>,
    pub(crate) ledger_age: Option<TimeLimit>,
    pub(crate) log_format: Option<LogFormat>,
    pub(crate) log_level: Option<LogFilter>,
    pub(crate) supervised: bool,
    pub(crate) permanent_exit_zero: bool,
    pub(crate) silent_turn_interrupt: Option<TimeLimit>,
    pub(crate) silent_turn_warning: Option<TimeLimit>,
    pub(crate) memory_recycle_bytes: Option<u64>,
    pub(crate) memory_warning_bytes: Option<u64>,
    pub(crate) metrics_port: Option<u16>,
    pub(crate) limits: FileLimits,
    /// The keys that the file has, those of `[limits]` with `limits.` before them.
    #[serde(skip)]
    pub(crate) keys: Vec<String>,
}

/// The table `[limits]`; numbers are bytes or counts, as the names say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct FileLimits {
    max_message_bytes: Option<usize>,
    client_queue_soft_bytes: Option<usize>,
    client_queue_soft_time: Option<TimeLimit>,
    client_queue_hard_bytes: Option<usize>,
    client_queue_max_bytes: Option<usize>,
    max_clients: Option<usize>,
    max_queued_requests_per_client: Option<usize>,
    orphaned_turn_grace: Option<TimeLimit>,
    window: Option<usize>,
}

/// The keys of [`ConfigFile`], to name the nearest one.
pub(super) const KEYS: &[&str] = &[
    "client_name",
    "client_shutdown",
    "codex",
    "codex_args",
    "control_socket",
    "drain_timeout",
    "idle_exit",
    "instance",
    "ledger",
    "ledger_age",
    "ledger_turns",
    "limits",
    "log_format",
    "log_level",
    "memory_recycle_bytes",
    "memory_warning_bytes",
    "metrics_port",
    "orphaned_turns",
    "permanent_exit_zero",
    "probe_interval",
    "probe_timeout",
    "silent_turn_interrupt",
    "silent_turn_warning",
    "socket",
    "supervised",
];

/// The keys of [`FileLimits`].
pub(super) const LIMIT_KEYS: &[&str] = &[
    "client_queue_hard_bytes",
    "client_queue_max_bytes",
    "client_queue_soft_bytes",
    "client_queue_soft_time",
    "max_clients",
    "max_message_bytes",
    "max_queued_requests_per_client",
    "orphaned_turn_grace",
    "window",
];

impl FileLimits {
    /// Returns `defaults`, overridden by the values in the file.
    pub(crate) fn over(&self, defaults: Limits) -> Limits {
        Limits {
            max_message_bytes: self.max_message_bytes.unwrap_or(defaults.max_message_bytes),
            client_queue_soft_bytes: self.client_queue_soft_bytes.unwrap_or(defaults.client_queue_soft_bytes),
            client_queue_soft_ms: self
                .client_queue_soft_time
                .map_or(defaults.client_queue_soft_ms, |limit| limit.as_millis().unwrap_or(u64::MAX)),
            client_queue_hard_bytes: self.client_queue_hard_bytes.unwrap_or(defaults.client_queue_hard_bytes),
            client_queue_max_bytes: self.client_queue_max_bytes.unwrap_or(defaults.client_queue_max_bytes),
            max_clients: self.max_clients.unwrap_or(defaults.max_clients),
            queued_requests_per_client: self
                .max_queued_requests_per_client
                .unwrap_or(defaults.queued_requests_per_client),
            orphaned_turn_grace_ms: self
                .orphaned_turn_grace
                .map_or(defaults.orphaned_turn_grace_ms, |limit| limit.as_millis().unwrap_or(u64::MAX)),
            window: self.window.unwrap_or(defaults.window),
            ..defaults
        }
    }
}

/// Reads a configuration file's text; `path` is for messages only.
///
/// # Errors
///
/// With the name and the line of what is wrong: the syntax, an unknown key, or a value.
pub(crate) fn parse(text: &str, path: &Path) -> Result<ConfigFile, Error> {
    let table = DeTable::parse(text).map_err(|error| located(&error, text, path))?;
    check_keys(table.get_ref(), KEYS, "", text, path)?;
    let mut keys: Vec<String> = table.get_ref().keys().map(|key| key.get_ref().to_string()).collect();
    if let Some(DeValue::Table(limits)) = table.get_ref().get("limits").map(|value| value.get_ref()) {
        check_keys(limits, LIMIT_KEYS, "limits.", text, path)?;
        keys.extend(limits.keys().map(|key| format!("limits.{}", key.get_ref())));
    }
    let file: ConfigFile = toml::from_str(text).map_err(|error| located(&error, text, path))?;
    Ok(ConfigFile { keys, ..file })
}

fn check_keys(
    table: &DeTable<'_>,
    known: &[&str],
    prefix: &str,
    text: &str,
    path: &Path,
) -> Result<(), Error> {
    // The first in the file, not in the alphabet.
    let unknown = table
        .keys()
        .filter(|key| !known.contains(&key.get_ref().as_ref()))
        .min_by_key(|key| key.span().start);
    let Some(key) = unknown else { return Ok(()) };
    let name = key.get_ref();
    let error = Error::config(format!(
        "unknown key `{prefix}{name}` in line {} of `{}`",
        line_of(text, key.span().start),
        path.display()
    ));
    Err(match nearest(name, known) {
        Some(near) => error.hint(format!("did you mean `{prefix}{near}`?")),
        None => error.hint(format!("keys are {}", known.join(", "))),
    })
}

fn located(error: &toml::de::Error, text: &str, path: &Path) -> Error {
    let place =
        error.span().map(|span| format!("line {} of ", line_of(text, span.start))).unwrap_or_default();
    Error::config(format!("cannot use {place}`{}`", path.display()))
        .because(error.message().trim().to_owned())
}

/// The number of the line, from 1, in which the byte `offset` lies.
fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count()
}

/// The known key that takes the fewest changes, if these are few.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = name.to_ascii_lowercase().replace('-', "_");
    known
        .iter()
        .map(|key| (strsim::levenshtein(&plain, key), *key))
        .min()
        .filter(|(distance, key)| *distance <= 1 + key.len() / 4)
        .map(|(_, key)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let error = parse(text, Path::new("c.toml")).unwrap_err();
        assert_eq!(error.exit_code().number(), 78);
        format!("{} | {}", error.chain(), error.next_step().unwrap_or_default())
    }

    #[test]
    fn every_key_is_known_on_both_sides() {
        let value = |key: &str| match key {
            "codex_args" => "[\"-c\"]",
            "client_shutdown" => "\"always\"",
            "orphaned_turns" => "\"interrupt\"",
            "supervised" | "permanent_exit_zero" | "ledger" => "true",
            "ledger_turns" => "7",
            "log_level" => "\"debug\"",
            "log_format" => "\"json\"",
            "silent_turn_interrupt" | "silent_turn_warning" => "\"1m\"",
            "memory_recycle_bytes" | "memory_warning_bytes" | "metrics_port" => "1000",
            "limits" => "{}",
            _ if key.ends_with("timeout")
                || key.ends_with("interval")
                || key.ends_with("exit")
                || key.ends_with("_age") =>
            {
                "\"1s\""
            }
            _ if key.ends_with("_time") || key.ends_with("_grace") => "\"never\"",
            _ if LIMIT_KEYS.contains(&key) => "7",
            _ => "\"x\"",
        };
        let mut text: String = KEYS.iter().map(|key| format!("{key} = {}\n", value(key))).collect();
        text = text.replace("limits = {}\n", "");
        text.push_str("[limits]\n");
        text.extend(LIMIT_KEYS.iter().map(|key| format!("{key} = {}\n", value(key))));
        let file = parse(&text, Path::new("c.toml")).unwrap();
        assert_eq!(file.limits.over(Limits::default()).client_queue_soft_ms, u64::MAX);
        assert_eq!(file.client_shutdown, ClientShutdown::Always);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_its_neighbour() {
        assert_eq!(
            refusal("# a\ncodex = \"x\"\ndrain-timout = \"1s\"\nzzz = 1"),
            "unknown key `drain-timout` in line 3 of `c.toml` | did you mean `drain_timeout`?"
        );
        assert_eq!(
            refusal("[limits]\nmax_client = 1"),
            "unknown key `limits.max_client` in line 2 of `c.toml` | did you mean `limits.max_clients`?"
        );
        assert!(refusal("colour = 1").contains("keys are client_name"));
    }

    #[test]
    fn a_bad_value_or_syntax_names_its_line() {
        assert!(
            refusal("\nidle_exit = \"soon\"").contains("line 2"),
            "{}",
            refusal("\nidle_exit = \"soon\"")
        );
        assert!(refusal("\nidle_exit = \"soon\"").contains("`soon` is not a duration"));
        assert!(refusal("a = 1\nb = ").contains("line 2"));
        assert!(refusal("[limits]\nwindow = -1").contains("line 2"));
        assert!(refusal("limits = 3").contains("line 1"));
    }

    #[test]
    fn a_list_of_arguments_that_is_none_is_refused_without_its_value() {
        for text in ["codex_args = \"-c a=SECRET\"", "codex_args = [\"-c\", { SECRET = 1 }]"] {
            let refusal = refusal(&format!("\n{text}"));
            assert!(refusal.contains("line 2") && refusal.contains("a list of texts"), "{refusal}");
            assert!(!refusal.contains("SECRET"), "{refusal}");
        }
    }
}
