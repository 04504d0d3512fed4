//! A campaign of faults: `cargo run -p codexd-tests --bin chaos -- --runs N --seed S`.
//!
//! Exit code 0 when no promise was broken, 1 when one was, 2 for a wrong command line.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "the table is its purpose")]

use std::process::ExitCode;

use codexd_tests::chaos::{Campaign, RunReport};
use codexd_tests::codex::{Codex, Version};

fn main() -> ExitCode {
    let mut campaign = match read(std::env::args().skip(1)) {
        Ok(campaign) => campaign,
        Err(reason) => {
            eprintln!("chaos: {reason}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if campaign.real_every > 0
        && let Err(reason) = Codex::find(Version::Current)
    {
        eprintln!("chaos: only fake-codex, no real one: {reason}");
        campaign.real_every = 0;
    }
    // The harness reports by panics; here each becomes a violation.
    std::panic::set_hook(Box::new(|_| {}));
    let table = campaign.run(show);
    println!("\n{table}");
    match table.is_good() && table.runs() == campaign.runs {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn show(report: &RunReport) {
    match report.is_good() {
        true => {
            let faults: Vec<String> = report.tried.iter().map(|fault| fault.name()).collect();
            let seconds = report.time.as_secs_f32();
            println!("seed {:>6} {seconds:>5.1} s  {}", report.plan.seed, faults.join(" + "));
        }
        false => println!("\nBROKEN {report}\n"),
    }
}

fn read(mut arguments: impl Iterator<Item = String>) -> Result<Campaign, String> {
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut campaign = Campaign { runs: 100, seed: 1, real_every: 20, jobs, keep_going: false };
    while let Some(name) = arguments.next() {
        let mut number = || {
            let text = arguments.next().ok_or_else(|| format!("`{name}` needs a number"))?;
            text.parse::<u64>().map_err(|_| format!("`{name} {text}` is no number"))
        };
        match name.as_str() {
            "--runs" => campaign.runs = number()?,
            "--seed" => campaign.seed = number()?,
            "--real-every" => campaign.real_every = number()?,
            "--jobs" => {
                campaign.jobs = usize::try_from(number()?).map_err(|error| format!("`--jobs`: {error}"))?;
            }
            "--keep-going" => campaign.keep_going = true,
            other => return Err(format!("unknown argument `{other}`")),
        }
    }
    Ok(campaign)
}

const USAGE: &str = "usage: chaos [--runs N] [--seed S] [--real-every K] [--jobs N] [--keep-going]";
