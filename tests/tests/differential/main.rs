//! Differential tests: what a client of codexd sees is what a client of the native listener sees.
//!
//! Each script is a conversation of a few clients. It runs once against the oracle, which is the real
//! codex with its own listener for several connections, and once against codexd for each framing, all
//! on the same scripted model. What each client received is recorded, normalised ([`normal`]), put in
//! the orders that the native listener guarantees ([`lanes`]), and compared ([`compare`]). What cannot be the same over one connection stands in
//! [`exceptions`], with the reason.
//!
//! A difference counts if it is there in each of a few rounds, and never seen of the oracle; one that was
//! there once is printed.
//!
//! With `CODEXD_DIFFERENTIAL=native` the oracle is compared with itself: a difference then is an order
//! or a value that native does not guarantee.
#![allow(missing_docs, reason = "the names of the tests say what they pin")]
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod compare;
mod exceptions;
mod lanes;
mod normal;
mod scripts;
mod stage;
mod world;

use codexd_tests::codex::Codex;

use compare::Transcript;
use stage::Stage;
use world::{Setup, Side, World};

/// How often a script is run again where it differed.
///
/// The upstream has races of its own: a status told twice, a search that finds nothing for a moment. A
/// difference of codexd's is there each time; one of the upstream's is not, or the oracle shows it too.
const ROUNDS: usize = 3;

/// Runs a script on both sides and compares. It has the name of the test.
fn differential<P: Fn(&mut Stage<'_>)>(setup: &Setup, play: P) {
    let script = std::any::type_name::<P>().trim_end_matches("::{{closure}}");
    let script = script.rsplit("::").next().unwrap_or(script);
    let Some(codex) = Codex::for_test(setup.version()) else { return };
    let run = |side: Side| -> Transcript {
        let world = World::open(side, &codex, setup);
        let mut stage = Stage::new(&world);
        play(&mut stage);
        stage.finish()
    };
    let mut oracle = vec![run(Side::Native)];
    let others: &[Side] = match std::env::var("CODEXD_DIFFERENTIAL") {
        Ok(word) if word == "native" => &[Side::Native],
        Ok(word) if word == "websocket" => &[Side::WebSocket],
        _ => &[Side::Lines, Side::WebSocket],
    };
    for side in others {
        let exceptions = if *side == Side::Native { &[][..] } else { exceptions::EXCEPTIONS };
        let mut first = None;
        let same = (0..ROUNDS).any(|_| {
            let seen = run(*side);
            let mut same = oracle.iter().any(|it| compare::compare(script, it, &seen, exceptions).is_ok());
            if !same {
                // Is it something that native does too, now and then?
                oracle.push(run(Side::Native));
                let report = oracle.iter().map(|it| compare::compare(script, it, &seen, exceptions));
                let reports: Vec<_> = report.collect();
                same = reports.iter().any(Result::is_ok);
                first = first.take().or_else(|| reports.into_iter().find_map(Result::err));
            }
            same
        });
        if let Some(report) = first {
            let words = if same { "once" } else { "in every round" };
            let report = format!(
                "{script}: what clients saw of {side:?} (right) was {words} not what they saw of the oracle \
                 (left)\n{report}"
            );
            assert!(same, "{report}");
            eprintln!("{report}");
        }
    }
}
