//! Many runs, some of them at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::plan::Plan;
use super::run::run;
use super::run_report::RunReport;
use super::table::Table;

/// What a campaign is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Campaign {
    /// How many runs.
    pub runs: u64,
    /// The seed of the first run; the next one has the next seed.
    pub seed: u64,
    /// Seeds that this divides run on the real codex; 0 for none.
    pub real_every: u64,
    /// How many runs at once.
    pub jobs: usize,
    /// Goes on after a run with a violation.
    pub keep_going: bool,
}

impl Campaign {
    /// Returns the plan of a seed.
    pub fn plan(&self, seed: u64) -> Plan {
        Plan::new(seed, self.real_every > 0 && seed.is_multiple_of(self.real_every))
    }

    /// Carries out all runs and hands over each report as it comes.
    pub fn run(&self, report: impl Fn(&RunReport) + Sync) -> Table {
        let (next, stopped) = (AtomicU64::new(0), AtomicBool::new(false));
        let table = Mutex::new(Table::default());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= self.runs || stopped.load(Ordering::Relaxed) {
                            return;
                        }
                        let done = run(&self.plan(self.seed.wrapping_add(number)));
                        stopped.fetch_or(!done.is_good() && !self.keep_going, Ordering::Relaxed);
                        let mut table = table.lock();
                        table.add(&done);
                        report(&done);
                    }
                });
            }
        });
        table.into_inner()
    }
}
