//! Differential tests: what a client of codexd sees is what a client of the native listener sees.
//!
//! Each script is a conversation of a few clients. It runs once against the oracle, which is the real
//! codex with its own listener for several connections, and once against codexd for each framing, all
//! on the same scripted model. What each client received is recorded, normalised ([`normal`]), put in
//! the orders that the native listener guarantees ([`lanes`]), and compared ([`compare`]). What cannot be the same over one connection stands in
//! [`exceptions`], with the reason.
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
    let expected = run(Side::Native);
    let others: &[Side] = match std::env::var("CODEXD_DIFFERENTIAL") {
        Ok(word) if word == "native" => &[Side::Native],
        Ok(word) if word == "websocket" => &[Side::WebSocket],
        _ => &[Side::Lines],
    };
    for side in others {
        let seen = run(*side);
        let exceptions = if *side == Side::Native { &[][..] } else { exceptions::EXCEPTIONS };
        if let Err(report) = compare::compare(script, &expected, &seen, exceptions) {
            panic!(
                "{script}: what clients saw of {side:?} (right) is not what they saw of the oracle (left)\n{report}"
            );
        }
    }
}
