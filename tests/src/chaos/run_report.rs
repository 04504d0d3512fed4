//! The result of one run.

use std::fmt;
use std::time::Duration;

use super::accounting::Sums;
use super::fault::Fault;
use super::plan::Plan;
use super::violation::Violation;

/// The report of a run.
#[derive(Clone, Debug)]
pub struct RunReport {
    /// What was meant to happen.
    pub plan: Plan,
    /// What was broken; empty is good.
    pub violations: Vec<Violation>,
    /// What was expected and received.
    pub sums: Sums,
    /// The faults that were injected.
    pub tried: Vec<Fault>,
    /// How long it took.
    pub time: Duration,
    /// The last lines of the daemon's log.
    pub log: Vec<String>,
    /// The last lines of the clients that something was broken for.
    pub past: Vec<Vec<String>>,
}

impl RunReport {
    pub(crate) fn new(plan: Plan) -> RunReport {
        RunReport {
            plan,
            violations: Vec::new(),
            sums: Sums::default(),
            tried: Vec::new(),
            time: Duration::ZERO,
            log: Vec::new(),
            past: Vec::new(),
        }
    }

    pub(crate) fn broken(&mut self, violation: Violation) {
        self.violations.push(violation);
    }

    pub(crate) fn maybe(&mut self, violation: Option<Violation>) {
        self.violations.extend(violation);
    }

    pub(crate) fn tried(&mut self, fault: &Fault) {
        self.tried.push(fault.clone());
    }

    pub(crate) fn add(&mut self, sums: Sums) {
        self.sums.add(sums);
    }

    /// Keeps the tail of a log.
    pub(crate) fn log(&mut self, text: &str) {
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL)..];
        self.log.extend(tail.iter().map(|line| (*line).to_owned()));
    }

    /// Returns whether every promise was kept.
    pub fn is_good(&self) -> bool {
        self.violations.is_empty()
    }
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.plan)?;
        writeln!(f, "  {} broken, after {:.1} s:", self.violations.len(), self.time.as_secs_f32())?;
        for violation in self.violations.iter().take(SHOWN) {
            writeln!(f, "    {violation}")?;
        }
        if self.violations.len() > SHOWN {
            writeln!(f, "    ... and {} more", self.violations.len() - SHOWN)?;
        }
        for past in &self.past {
            writeln!(f, "  the last lines of a client:")?;
            past.iter().try_for_each(|line| writeln!(f, "    {line}"))?;
        }
        writeln!(f, "  the daemon's last lines:")?;
        self.log.iter().try_for_each(|line| writeln!(f, "    {line}"))?;
        write!(f, "  again: {}", again(&self.plan))
    }
}

/// Returns the command that repeats a plan.
fn again(plan: &Plan) -> String {
    let real = if plan.real { " --real-every 1" } else { " --real-every 0" };
    format!("cargo run -p codexd-tests --bin chaos -- --runs 1 --seed {}{real}", plan.seed)
}

const TAIL: usize = 30;
const SHOWN: usize = 20;
