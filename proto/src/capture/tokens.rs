//! The tokens that a turn has used.

use serde::{Deserialize, Serialize};

use crate::json::scan::member;

/// Counts of tokens. An unknown member is ignored, an absent one is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tokens {
    /// All tokens.
    pub total_tokens: u64,
    /// Sent to the model.
    pub input_tokens: u64,
    /// Those of them that the model had in its cache.
    pub cached_input_tokens: u64,
    /// Received from the model.
    pub output_tokens: u64,
    /// Those of them that are reasoning.
    pub reasoning_output_tokens: u64,
}

impl Tokens {
    fn less(self, other: Tokens) -> Tokens {
        Tokens {
            total_tokens: self.total_tokens.saturating_sub(other.total_tokens),
            input_tokens: self.input_tokens.saturating_sub(other.input_tokens),
            cached_input_tokens: self.cached_input_tokens.saturating_sub(other.cached_input_tokens),
            output_tokens: self.output_tokens.saturating_sub(other.output_tokens),
            reasoning_output_tokens: self
                .reasoning_output_tokens
                .saturating_sub(other.reasoning_output_tokens),
        }
    }
}

/// Counts the tokens of a turn from `thread/tokenUsage/updated`.
///
/// The notification has the sum of the thread (`total`) and of the model's last response (`last`). The first
/// notification of a turn shows the sum before it. The same numbers repeated do not count twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meter {
    before: Option<Tokens>,
    total: Tokens,
}

impl Meter {
    /// Reads a notification of the turn; `params` is the offset of its parameters.
    pub fn update(&mut self, line: &[u8], params: usize) {
        #[derive(Deserialize)]
        struct Usage {
            total: Tokens,
            last: Tokens,
        }
        let Some(usage) = member(line, params, b"tokenUsage") else { return };
        let Ok(usage) = serde_json::from_slice::<Usage>(usage.of(line)) else { return };
        self.before.get_or_insert_with(|| usage.total.less(usage.last));
        self.total = usage.total;
    }

    /// Returns what the turn has used; `None` if nothing was reported.
    pub fn tokens(&self) -> Option<Tokens> {
        Some(self.total.less(self.before?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(meter: &mut Meter, total: u64, last: u64) {
        let line = format!(
            r#"{{"tokenUsage":{{"total":{{"totalTokens":{total},"new":1}},"last":{{"totalTokens":{last}}}}}}}"#
        );
        meter.update(line.as_bytes(), 0);
    }

    #[test]
    fn the_tokens_of_earlier_turns_do_not_count() {
        let mut meter = Meter::default();
        assert_eq!(meter.tokens(), None);
        fed(&mut meter, 115, 15);
        assert_eq!(meter.tokens().unwrap().total_tokens, 15);
        fed(&mut meter, 130, 15);
        fed(&mut meter, 130, 15);
        assert_eq!(meter.tokens().unwrap().total_tokens, 30);
        meter.update(b"{\"tokenUsage\":5}", 0);
        meter.update(b"{}", 0);
        assert_eq!(meter.tokens().unwrap().total_tokens, 30);
    }
}
