//! All runs in one table.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::accounting::Sums;
use super::fault::Outcome;
use super::run_report::RunReport;
use super::violation::ViolationKind;

/// The sums of a campaign.
#[derive(Clone, Debug, Default)]
pub struct Table {
    runs: u64,
    real: u64,
    bad: u64,
    longest: Duration,
    sums: Sums,
    faults: BTreeMap<String, Line>,
    kinds: BTreeMap<ViolationKind, u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Line {
    tried: u64,
    lived: u64,
    ended: u64,
    broken: u64,
}

impl Table {
    /// Enters a run.
    pub fn add(&mut self, report: &RunReport) {
        self.runs += 1;
        self.real += u64::from(report.plan.real);
        self.bad += u64::from(!report.is_good());
        self.longest = self.longest.max(report.time);
        self.sums.add(report.sums);
        for fault in &report.tried {
            let line = self.faults.entry(fault.name()).or_default();
            line.tried += 1;
            match (report.is_good(), fault.outcome()) {
                (false, _) => line.broken += 1,
                (true, Outcome::Lives) => line.lived += 1,
                (true, _) => line.ended += 1,
            }
        }
        for violation in &report.violations {
            *self.kinds.entry(violation.kind).or_default() += 1;
        }
    }

    /// Returns whether there was no violation.
    pub fn is_good(&self) -> bool {
        self.bad == 0
    }

    /// Returns how many runs there were.
    pub fn runs(&self) -> u64 {
        self.runs
    }

    fn of(&self, kinds: &[ViolationKind]) -> u64 {
        kinds.iter().filter_map(|kind| self.kinds.get(kind)).sum()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<36} {:>6} {:>9} {:>9} {:>7}", "fault", "tried", "lived on", "ended", "broken")?;
        for (name, line) in &self.faults {
            let Line { tried, lived, ended, broken } = line;
            writeln!(f, "{name:<36} {tried:>6} {lived:>9} {ended:>9} {broken:>7}")?;
        }
        let Sums { expected, given, turns, ends, deltas } = self.sums;
        let lines = [
            ("runs", format!("{}, {} of them on the real codex", self.runs, self.real)),
            ("longest run", format!("{:.1} s", self.longest.as_secs_f32())),
            ("answers", format!("{expected} expected, {given} received")),
            ("ends of turns", format!("{turns} expected, {ends} received")),
            ("deltas", format!("{deltas} in order")),
            ("hangs", self.of(&[ViolationKind::Hang]).to_string()),
            ("orphans", self.of(&[ViolationKind::Orphan]).to_string()),
            ("failed restarts", self.of(&[ViolationKind::Restart]).to_string()),
            ("wrong exit codes", self.of(&[ViolationKind::ExitCode]).to_string()),
            ("strays", self.of(&[ViolationKind::Stray]).to_string()),
            (
                "lost, doubled, reordered",
                [ViolationKind::Lost, ViolationKind::Doubled, ViolationKind::Reordered]
                    .map(|kind| self.of(&[kind]).to_string())
                    .join(", "),
            ),
            (
                "other violations",
                self.of(&[
                    ViolationKind::Unanswered,
                    ViolationKind::AnsweredTwice,
                    ViolationKind::TurnWithoutEnd,
                    ViolationKind::TurnEndedTwice,
                    ViolationKind::WithoutNotice,
                    ViolationKind::Disturbed,
                    ViolationKind::Complaint,
                    ViolationKind::Harness,
                ])
                .to_string(),
            ),
            ("runs with a violation", self.bad.to_string()),
        ];
        writeln!(f)?;
        lines.iter().try_for_each(|(name, text)| writeln!(f, "{name:<36} {text}"))
    }
}
