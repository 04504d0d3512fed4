//! Durations as people write them: `500ms`, `30s`, `10m`, `6h`, `never`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// A duration, or no limit at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeLimit {
    /// After this time.
    After(Duration),
    /// Not at all.
    Never,
}

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseTimeLimitError {
    /// The text is empty or does not begin with a digit.
    #[error("`{0}` is not a duration; write for instance `500ms`, `30s`, `10m`, `6h` or `never`")]
    NotANumber(String),
    /// There is a number and no unit.
    #[error("`{0}` has no unit; write for instance `{0}s` or `{0}ms`")]
    NoUnit(String),
    /// The unit is not known.
    #[error("`{unit}` is not a unit of time in `{text}`; units are ms, s, m, h")]
    UnknownUnit {
        /// The whole text.
        text: String,
        /// What stands after the number.
        unit: String,
    },
    /// The number is too large.
    #[error("`{0}` is too long; write `never` for no limit")]
    TooLong(String),
}

impl TimeLimit {
    /// A limit of whole seconds.
    pub(crate) const fn seconds(seconds: u64) -> TimeLimit {
        TimeLimit::After(Duration::from_secs(seconds))
    }

    /// Returns the duration, or `None` for `never`.
    pub(crate) const fn as_duration(self) -> Option<Duration> {
        match self {
            TimeLimit::After(duration) => Some(duration),
            TimeLimit::Never => None,
        }
    }
}

impl TimeLimit {
    /// Makes one of whole milliseconds; `None` is `never`.
    pub(crate) fn of_millis(milliseconds: Option<u64>) -> TimeLimit {
        milliseconds.map_or(TimeLimit::Never, |number| TimeLimit::After(Duration::from_millis(number)))
    }

    /// Returns whole milliseconds, or `None` for `never`.
    pub(crate) fn as_millis(self) -> Option<u64> {
        self.as_duration().map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }
}

impl FromStr for TimeLimit {
    type Err = ParseTimeLimitError;

    fn from_str(text: &str) -> Result<TimeLimit, ParseTimeLimitError> {
        if text == "never" {
            return Ok(TimeLimit::Never);
        }
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        if number.is_empty() {
            return Err(ParseTimeLimitError::NotANumber(text.to_owned()));
        }
        let milliseconds: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "" => return Err(ParseTimeLimitError::NoUnit(text.to_owned())),
            _ => {
                return Err(ParseTimeLimitError::UnknownUnit {
                    text: text.to_owned(),
                    unit: unit.to_owned(),
                });
            }
        };
        number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(milliseconds))
            // A hundred years: more than any use needs, and far below what clocks can add.
            .filter(|total| *total <= 100 * 366 * 24 * 3_600_000)
            .map(|total| TimeLimit::After(Duration::from_millis(total)))
            .ok_or_else(|| ParseTimeLimitError::TooLong(text.to_owned()))
    }
}

impl fmt::Display for TimeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TimeLimit::After(duration) = self else { return f.write_str("never") };
        let ms = duration.as_millis();
        match ms {
            0 => f.write_str("0s"),
            _ if ms % 3_600_000 == 0 => write!(f, "{}h", ms / 3_600_000),
            _ if ms % 60_000 == 0 => write!(f, "{}m", ms / 60_000),
            _ if ms % 1_000 == 0 => write!(f, "{}s", ms / 1_000),
            _ => write!(f, "{ms}ms"),
        }
    }
}

impl<'de> Deserialize<'de> for TimeLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TimeLimit, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read_and_written() {
        for (text, ms) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("10m", 600_000),
            ("6h", 21_600_000),
            ("0s", 0),
            ("90s", 90_000),
        ] {
            let limit: TimeLimit = text.parse().unwrap();
            assert_eq!(limit, TimeLimit::After(Duration::from_millis(ms)), "{text}");
            assert_eq!(limit.to_string(), text);
        }
        assert_eq!("never".parse(), Ok(TimeLimit::Never));
        assert_eq!(TimeLimit::Never.to_string(), "never");
        assert_eq!("60s".parse::<TimeLimit>().unwrap().to_string(), "1m");
    }

    #[test]
    fn what_is_not_a_duration_is_refused_with_the_remedy() {
        for text in
            ["", "s", "-1s", "1.5s", "1 s", "1d", "Never", "s30", "１s", "99999999999999999999h", "1000000h"]
        {
            assert!(text.parse::<TimeLimit>().is_err(), "{text}");
        }
        assert!("30".parse::<TimeLimit>().unwrap_err().to_string().contains("`30s`"));
        assert!("30x".parse::<TimeLimit>().unwrap_err().to_string().contains("units are"));
    }
}
