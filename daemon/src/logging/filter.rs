//! What is written to the log: `info`, or `info,codexd::control=debug`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use tracing_subscriber::filter::{LevelFilter, Targets};

/// A level for codexd's own events, and levels for targets by name.
///
/// Other crates' events are never below `warn` unless their target is named, because at lower levels
/// they show what they carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogFilter {
    level: LevelFilter,
    targets: Vec<(String, LevelFilter)>,
}

/// Why a text is not a log filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a log level; levels are off, error, warn, info, debug, trace")]
pub(crate) struct ParseLogFilterError(String);

impl LogFilter {
    /// Returns the filter as the subscriber wants it.
    pub(crate) fn to_targets(&self) -> Targets {
        let mut targets = Targets::new()
            .with_default(self.level.min(LevelFilter::WARN))
            .with_target("codexd", self.level)
            .with_target("codexd_proto", self.level);
        for (target, level) in &self.targets {
            targets = targets.with_target(target.clone(), *level);
        }
        targets
    }
}

impl Default for LogFilter {
    fn default() -> LogFilter {
        LogFilter { level: LevelFilter::INFO, targets: Vec::new() }
    }
}

impl FromStr for LogFilter {
    type Err = ParseLogFilterError;

    fn from_str(text: &str) -> Result<LogFilter, ParseLogFilterError> {
        let mut filter = LogFilter::default();
        for (index, part) in text.split(',').enumerate() {
            match part.split_once('=') {
                Some((target, level)) if !target.is_empty() => {
                    filter.targets.push((target.to_owned(), parse_level(level)?));
                }
                None if index == 0 => filter.level = parse_level(part)?,
                _ => return Err(ParseLogFilterError(part.to_owned())),
            }
        }
        Ok(filter)
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.level)?;
        for (target, level) in &self.targets {
            write!(f, ",{target}={level}")?;
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for LogFilter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<LogFilter, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Reads the word of a level; numbers, which the subscriber would take, are refused.
fn parse_level(text: &str) -> Result<LevelFilter, ParseLogFilterError> {
    match text {
        "off" | "error" | "warn" | "info" | "debug" | "trace" => text.parse().ok(),
        _ => None,
    }
    .ok_or_else(|| ParseLogFilterError(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn events_of_other_crates_are_shown_only_when_named() {
        let shown = |text: &str, target: &str, level: Level| {
            text.parse::<LogFilter>().unwrap().to_targets().would_enable(target, &level)
        };
        assert!(shown("trace", "codexd::hub", Level::TRACE));
        assert!(!shown("info", "codexd::hub", Level::DEBUG));
        assert!(shown("info,codexd::hub=trace", "codexd::hub", Level::TRACE));
        assert!(!shown("trace", "jsonrpsee_server::transport", Level::DEBUG));
        assert!(shown("trace", "jsonrpsee_server::transport", Level::WARN));
        assert!(shown("info,jsonrpsee_server=trace", "jsonrpsee_server::transport", Level::TRACE));
        assert!(!shown("off", "hyper", Level::ERROR));
    }

    #[test]
    fn unknown_levels_are_refused() {
        for text in ["", "loud", "3", "info,debug", "info,=debug", "info,x=y"] {
            assert!(text.parse::<LogFilter>().is_err(), "{text}");
        }
        assert_eq!("warn,a=debug".parse::<LogFilter>().unwrap().to_string(), "warn,a=debug");
    }
}
