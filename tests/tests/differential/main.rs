//! Differential tests: what a client of codexd sees is what a client of the native listener sees.
//!
//! Each script is a conversation of a few clients. It runs once against the oracle, which is the real
//! codex with its own listener for several connections, and once against codexd for each framing, all
//! on the same scripted model. What each client received is recorded, normalised ([`normal`]), put in
//! the orders that the native listener guarantees ([`lanes`]), and compared ([`compare`]). What cannot be the same over one connection stands in
//! [`exceptions`], with the reason.
//!
//! What codexd shows must be what the oracle shows, in its first run or, where native leaves something open that is
//! not known yet, in one of a few more. A difference that the oracle does not show counts when codexd shows one again
//! in two more runs: of what codex does once in dozens of times, a few runs of the oracle may know nothing. Each
//! difference is printed.
//!
//! With `CODEXD_DIFFERENTIAL=native` the oracle is compared with itself: a difference then is an order
//! or a value that native does not guarantee. With `CODEXD_DIFFERENTIAL_SHOW=1` and `--nocapture`, what the clients
//! of the oracle received is printed.
#![allow(missing_docs, reason = "the names of the tests say what they pin")]
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod compare;
mod exceptions;
mod lanes;
mod normal;
mod schema;
mod scripts;
mod stage;
mod world;

use codexd_tests::codex::Codex;

use compare::Transcript;
use stage::Stage;
use world::{Setup, Side, World};

/// How often the oracle is asked again whether it, too, does what codexd did.
const ORACLE_AGAIN: usize = 6;
/// How often codexd is asked again whether it does anything that the oracle does not.
const CODEXD_AGAIN: usize = 2;

/// Runs a script on all sides, which share nothing, at once, and compares. It has the name of the test.
fn differential<P: Fn(&mut Stage<'_>) + Sync>(setup: &Setup, play: P) {
    let script = std::any::type_name::<P>().trim_end_matches("::{{closure}}");
    let script = script.rsplit("::").next().unwrap_or(script);
    let Some(codex) = Codex::for_test(setup.version()) else { return };
    let run = |side: Side| -> Transcript {
        let world = World::open(side, &codex, setup);
        let mut stage = Stage::new(&world);
        play(&mut stage);
        stage.finish()
    };
    let others: &[Side] = match std::env::var("CODEXD_DIFFERENTIAL") {
        Ok(word) if word == "native" => &[Side::Native],
        Ok(word) if word == "websocket" => &[Side::WebSocket],
        _ => &[Side::Lines, Side::WebSocket],
    };
    let (native, firsts) = std::thread::scope(|scope| {
        let native = scope.spawn(|| run(Side::Native));
        let others: Vec<_> = others.iter().map(|side| scope.spawn(|| run(*side))).collect();
        (native.join(), others.into_iter().map(|it| it.join()).collect::<Vec<_>>())
    });
    let unwound = |panic| std::panic::resume_unwind(panic);
    let mut oracle = vec![native.unwrap_or_else(unwound)];
    if std::env::var_os("CODEXD_DIFFERENTIAL_SHOW").is_some() {
        eprintln!("{script}:\n{}", compare::shown(&oracle[0]));
    }
    for (side, first) in others.iter().zip(firsts) {
        let exceptions = if *side == Side::Native { &[][..] } else { exceptions::EXCEPTIONS };
        let differs = |oracle: &mut Vec<Transcript>, seen: &Transcript| {
            let against = |it: &Transcript| compare::compare(script, it, seen, exceptions);
            let report = oracle.iter().map(against).reduce(Result::or).and_then(Result::err)?;
            eprintln!("{script}: the oracle (left) and {side:?} (right) differ\n{report}");
            let same = (0..ORACLE_AGAIN).any(|_| {
                oracle.push(run(Side::Native));
                oracle.last().is_some_and(|it| against(it).is_ok())
            });
            (!same).then_some(())
        };
        let first = differs(&mut oracle, &first.unwrap_or_else(unwound));
        let again = first.is_some() && (0..CODEXD_AGAIN).any(|_| differs(&mut oracle, &run(*side)).is_some());
        assert!(!again, "{script}: {side:?} differs from the oracle again and again; what differs is above");
    }
}
