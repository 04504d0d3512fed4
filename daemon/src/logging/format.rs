//! The form of the log's lines.

use clap::ValueEnum;
use serde::Deserialize;

/// In which form lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people: time, level, message, fields
    #[default]
    Text,
    /// One JSON object a line: `timestamp`, `level`, `target`, and `fields` with the message
    Json,
}

impl LogFormat {
    /// Returns the word used in settings and on the command line.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
}
