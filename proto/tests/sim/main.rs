//! A seeded simulation: clients, the router, a model of the upstream, and a clock that is a number.
//!
//! Each seed is one run: a few hundred steps in random order (requests, answers, partial reads and
//! writes, blocked and half-closed clients, departures, an upstream that freezes, a machine that
//! sleeps, signals, losses of every kind), then everything is brought to an end. Router, lifecycle and
//! health check work together as they do in the daemon ([`life`]). What the clients see is checked as
//! they read it ([`client`]); what must hold of the router is checked after every step ([`world`]);
//! at the end, the daemon has exited in time and with the right code.
//!
//! `CODEXD_SIM_SEEDS=100000` runs more seeds, `CODEXD_SIM_FIRST=500000` starts at another one, `CODEXD_SIM_SEED=42`
//! runs one of them.
#![allow(clippy::unwrap_used)]
// `clippy.toml` is for the decisions; the simulation reads how many seeds to run and names those that fail.
#![allow(clippy::disallowed_macros, clippy::disallowed_methods)]

mod activity;
mod client;
mod life;
mod random;
mod upstream;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use world::World;

const SEEDS: u64 = 2_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("`{name}` is not a number")))
}

fn run(seed: u64) -> world::Coverage {
    let mut world = World::new(seed);
    let ran = catch_unwind(AssertUnwindSafe(|| world.run()));
    if let Err(panic) = ran {
        eprintln!("\nlast steps of seed {seed} (run it alone with CODEXD_SIM_SEED={seed}):");
        let shown = if number("CODEXD_SIM_SEED").is_some() { usize::MAX } else { 40 };
        for line in world.log.iter().skip(world.log.len().saturating_sub(shown)) {
            eprintln!("  {line}");
        }
        resume_unwind(panic);
    }
    world.coverage
}

#[test]
fn the_promises_hold_in_any_order_of_events() {
    if let Some(seed) = number("CODEXD_SIM_SEED") {
        run(seed);
        return;
    }
    let mut all = world::Coverage::default();
    let first = number("CODEXD_SIM_FIRST").unwrap_or(0);
    for seed in first..first + number("CODEXD_SIM_SEEDS").unwrap_or(SEEDS) {
        all.add(run(seed));
    }
    eprintln!("{all:#?}");
    // A simulation in which nothing happens proves nothing.
    all.check();
}
