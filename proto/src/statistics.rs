//! What is measured since the start of the daemon: counts by outcome and reason, and times as histograms.

use std::collections::BTreeMap;

use crate::routes::Class;

/// Upper bounds of the buckets, in microseconds: from 10 us, which a message takes, to an hour, which a turn can take.
pub const BOUNDS_US: [u64; 18] = [
    10,
    30,
    100,
    300,
    1_000,
    3_000,
    10_000,
    30_000,
    100_000,
    300_000,
    1_000_000,
    3_000_000,
    10_000_000,
    30_000_000,
    100_000_000,
    300_000_000,
    1_000_000_000,
    3_600_000_000,
];

/// Counts of times, by how long they were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// How many fell into each bucket; the last one has no upper bound.
    buckets: [u64; BOUNDS_US.len() + 1],
    sum_us: u64,
}

impl Histogram {
    /// Counts a time, in microseconds.
    pub fn observe_us(&mut self, us: u64) {
        self.buckets[BOUNDS_US.partition_point(|bound| *bound < us)] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// Counts a time, in milliseconds.
    pub fn observe_ms(&mut self, ms: u64) {
        self.observe_us(ms.saturating_mul(1_000));
    }

    /// Returns each upper bound, in microseconds, with how many times were not above it; `None` is no bound.
    pub fn cumulative(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let bounds = BOUNDS_US.iter().copied().map(Some).chain([None]);
        bounds.zip(self.buckets.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        }))
    }

    /// Returns the upper bound of the bucket in which the time is that so many percent do not exceed, in microseconds;
    /// `None` if nothing was counted, or it is above all bounds.
    pub fn percentile_us(&self, percent: u64) -> Option<u64> {
        let wanted = (self.count() * percent).div_ceil(100);
        self.cumulative().find(|(_, count)| *count > 0 && *count >= wanted)?.0
    }

    /// Returns how many times were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Returns the sum of the times, in microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }
}

/// Counts by a word.
pub type Counts = BTreeMap<&'static str, u64>;

/// What is measured. The words are those of the status, of errors and of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// From a client's request to the upstream's answer, in the order of [`Class::ALL`].
    answers: [Histogram; Class::ALL.len()],
    /// Answers of the upstream that were errors, by the word of the class.
    pub errors: Counts,
    /// How long turns ran, as far as they were known.
    pub turns: Histogram,
    /// Turns that ended, by outcome.
    pub outcomes: Counts,
    /// How long approvals and other server requests had no answer.
    pub approvals: Histogram,
    /// Server requests that ended: `answered` or `withdrawn`.
    pub approvals_ended: Counts,
    /// Messages of clients that codexd answered with an error of its own, by reason; `native` in the words of codex.
    pub refused: BTreeMap<String, u64>,
    /// Connections that codexd closed, by reason.
    pub closed: Counts,
}

impl Statistics {
    /// Counts an answer of the upstream to a client's request.
    pub(crate) fn answered(&mut self, class: Class, ms: u64, failed: bool) {
        self.answers[class as usize].observe_ms(ms);
        if failed {
            *self.errors.entry(class.word()).or_default() += 1;
        }
    }

    /// Returns the times from a client's request to the upstream's answer, for each class of which there was one.
    pub fn answers(&self) -> impl Iterator<Item = (Class, &Histogram)> {
        Class::ALL.into_iter().zip(&self.answers).filter(|(_, times)| times.count() > 0)
    }

    /// Counts a turn that has ended.
    pub(crate) fn turn_ended(&mut self, outcome: &'static str, ms: u64) {
        self.turns.observe_ms(ms);
        *self.outcomes.entry(outcome).or_default() += 1;
    }

    /// Counts a server request that has ended.
    pub(crate) fn approval_ended(&mut self, answered: bool, ms: u64) {
        self.approvals.observe_ms(ms);
        *self.approvals_ended.entry(if answered { "answered" } else { "withdrawn" }).or_default() += 1;
    }

    /// Counts a message that codexd has answered with an error.
    pub(crate) fn refused(&mut self, reason: &str) {
        match self.refused.get_mut(reason) {
            Some(count) => *count += 1,
            None => drop(self.refused.insert(reason.to_owned(), 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_first_bucket_that_holds_it() {
        let mut histogram = Histogram::default();
        for us in [0, 10, 11, 1_000, 4_000_000_000] {
            histogram.observe_us(us);
        }
        let cumulative: Vec<_> = histogram.cumulative().collect();
        assert_eq!(cumulative[..3], [(Some(10), 2), (Some(30), 3), (Some(100), 3)]);
        assert_eq!(cumulative[4], (Some(1_000), 4));
        assert_eq!(cumulative.last(), Some(&(None, 5)));
        assert_eq!((histogram.count(), histogram.sum_us()), (5, 4_000_001_021));
        assert_eq!(histogram.percentile_us(50), Some(30));
        assert_eq!((histogram.percentile_us(80), histogram.percentile_us(99)), (Some(1_000), None));
        assert_eq!(Histogram::default().percentile_us(50), None);
    }
}
