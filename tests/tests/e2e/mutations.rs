//! Messages in which something is changed, matched one by one: whatever codex reads them as, each request
//! gets exactly one answer, and codexd refuses only what codex would not take either.
//!
//! `CODEXD_MUTATIONS=50000 cargo test -p codexd-tests --test e2e mutations` sends more of them;
//! `CODEXD_MUTATIONS_SEED` sets where to begin. A failure prints the seed and the line.

mod expected;
mod mutant;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::{Duration, Instant};

use codexd_tests::client::{Message, TestClient};
use codexd_tests::codex::{Codex, Version};
use codexd_tests::daemon::TestDaemon;
use codexd_tests::home::{CodexConfig, Home};
use serde_json::json;

use expected::{Expected, expected, has_reserved, legal};
use mutant::{Random, mutant};

/// Messages on their way at once: far from any limit, so that none is refused for its number.
const BATCH: usize = 100;

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}=`{text}` is not a number")),
        Err(_) => default,
    }
}

/// A message, and what it must be answered with.
struct Case {
    number: usize,
    line: Vec<u8>,
    expected: Expected,
}

impl Case {
    /// Makes the messages of a seed. The few whose id another one has, because a byte of it was changed, are
    /// left out.
    fn all(seed: u64, count: usize) -> Vec<Case> {
        let mut seen = BTreeSet::new();
        let make = |number: usize| {
            let mut random = Random::new(seed.wrapping_add(number as u64));
            // From 1000 on: the harness has ids of its own.
            let line = mutant(&mut random, 1000 + number);
            Case { number, expected: expected(&line), line }
        };
        let is_new = |case: &Case| match &case.expected {
            Expected::Answer(id) => seen.insert(id.clone()),
            _ => true,
        };
        (0..count).map(make).filter(is_new).collect()
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = String::from_utf8_lossy(&self.line);
        let start: String = text.chars().take(1000).collect();
        write!(f, "number {}: {start}", self.number)
    }
}

/// What was answered by id.
#[derive(Debug, Default)]
struct Answered {
    /// codexd said that it is no request.
    refused: BTreeSet<String>,
    /// Everything else.
    passed: BTreeSet<String>,
}

fn is_refusal(message: &Message) -> bool {
    let reason = message["error"]["data"]["codexd"]["reason"].as_str();
    matches!(reason, Some("invalidRequest" | "parseError"))
}

/// Sends all messages through codexd and matches the answers to them, one by one.
fn through_codexd(daemon: &TestDaemon, cases: &[Case]) -> Answered {
    let mut client = daemon.client("mutant");
    client.set_patience(Duration::from_secs(60));
    let mut answered = Answered::default();
    let mut nameless = 0;
    for batch in cases.chunks(BATCH) {
        // Each is followed by a request that codexd answers at once: between two of those answers stands what is
        // answered without an id.
        let mut by_id = BTreeMap::new();
        for case in batch {
            if let Expected::Answer(id) = &case.expected {
                by_id.insert(id.clone(), case);
            }
            let marker = format!("{{\"id\":\"after {}\",\"method\":\"broker/status\"}}\n", case.number);
            client.send_bytes(&[&case.line[..], b"\n", marker.as_bytes()].concat()).unwrap();
        }
        let mut markers = batch.iter();
        while !by_id.is_empty() || !markers.as_slice().is_empty() {
            let message = client.recv();
            if message.method().is_some() {
                continue;
            }
            let id = &message["id"];
            if id.is_null() {
                assert!(is_refusal(&message), "{}", message.raw);
                nameless += 1;
            } else if id.as_str().is_some_and(|id| id.starts_with("after ")) {
                let case = markers.next().expect("there are no more markers than messages");
                assert_eq!(*id, format!("after {}", case.number));
                let wanted = usize::from(case.expected == Expected::Nameless);
                assert_eq!(nameless, wanted, "answers without an id to {case}");
                nameless = 0;
            } else {
                let id = legal(&id.to_string()).expect("an id that was sent");
                let case = by_id.remove(&id);
                assert!(case.is_some(), "an answer to nothing, or the second one: {}", message.raw);
                let set = if is_refusal(&message) { &mut answered.refused } else { &mut answered.passed };
                set.insert(id);
            }
        }
    }
    let more = client.recv_to_barrier();
    assert!(more.iter().all(|message| message.method().is_some()), "answers too many: {more:?}");
    answered
}

/// Sends those messages to codex alone that have an id to be answered with; returns the answers by their ids, once all
/// of `wanted` are among them or nothing more comes.
fn to_codex_alone(
    client: &mut TestClient,
    cases: &[Case],
    wanted: &BTreeSet<String>,
) -> BTreeMap<String, String> {
    let mut answers = BTreeMap::new();
    // Whether all that is wanted has come, when the answer to a further request is here.
    let mut is_complete = |client: &mut TestClient| {
        client.send(&json!({"id": "barrier", "method": "thread/loaded/list", "params": {}}));
        loop {
            let message = client.recv();
            if message["id"] == "barrier" {
                return wanted.iter().all(|id| answers.contains_key(id));
            }
            if message.method().is_none()
                && let Some(id) = legal(&message["id"].to_string())
            {
                answers.insert(id, message.raw);
            }
        }
    };
    let with_id: Vec<&Case> =
        cases.iter().filter(|case| matches!(case.expected, Expected::Answer(_))).collect();
    // So few at once that codex loses none.
    for batch in with_id.chunks(BATCH / 2) {
        for case in batch {
            client.send_bytes(&[&case.line[..], b"\n"].concat()).unwrap();
        }
        is_complete(client);
    }
    // Some take their time.
    let patience = Instant::now() + Duration::from_secs(30);
    while !is_complete(client) && Instant::now() < patience {}
    answers
}

#[test]
fn each_gets_exactly_one_answer_and_none_is_refused_that_codex_takes() {
    run(Version::Current, 4_000);
}

#[test]
fn an_old_codex_reads_them_the_same() {
    run(Version::Old, 1_000);
}

/// Sends as many messages as the environment says, or else `usual`.
fn run(version: Version, usual: u64) {
    let Some(builder) = TestDaemon::real(version) else { return };
    let count = usize::try_from(setting("CODEXD_MUTATIONS", usual)).unwrap();
    let seed = setting("CODEXD_MUTATIONS_SEED", 1);
    eprintln!("mutations: codex {}, seed {seed}, {count} messages", version.number());
    let cases = Case::all(seed, count);
    let daemon = builder.ready();
    let Answered { refused, passed } = through_codexd(&daemon, &cases);
    let number_of = |expected: Expected| cases.iter().filter(|case| case.expected == expected).count();
    eprintln!(
        "mutations: answered by codex {}, refused by codexd {} and without an id {}, nothing to answer {}",
        passed.len(),
        refused.len(),
        number_of(Expected::Nameless),
        number_of(Expected::Nothing)
    );
    // Neither is rare: else the changes are too tame, or too wild.
    assert!(refused.len() * 20 > count && passed.len() * 4 > count);

    let codex = Codex::for_test(version).expect("it was there just now");
    let home = Home::new().unwrap();
    home.write_codex_config(&daemon.model().base_url(), &CodexConfig::default()).unwrap();
    let mut client =
        TestClient::spawn("alone", home.command(&codex.native).arg("app-server").stderr(Stdio::null()));
    client.initialize();
    let answers = to_codex_alone(&mut client, &cases, &passed);
    let show = |wrong: &dyn Fn(&String, &Case) -> bool| -> Vec<String> {
        let with_id =
            cases.iter().filter(|case| matches!(&case.expected, Expected::Answer(id) if wrong(id, case)));
        with_id.map(ToString::to_string).collect()
    };
    let silent = show(&|id, _| passed.contains(id) && !answers.contains_key(id));
    assert_eq!(silent, [] as [&str; 0], "codexd passes these and codex alone does not answer them");
    // What codex reads in a reserved name is not what the message says.
    let refused =
        show(&|id, case| refused.contains(id) && answers.contains_key(id) && !has_reserved(&case.line));
    assert_eq!(refused, [] as [&str; 0], "codexd refuses these and codex alone answers them");
}

#[test]
fn the_expectation_is_right_about_what_is_known() {
    let one = |id: &str| Expected::Answer(id.to_owned());
    for (line, wanted) in [
        (r#"{"id":1,"method":"m"}"#, one("1")),
        (r#"{"id":"a\u0062","method":5}"#, one("\"ab\"")),
        (r#"{"\u0069d":-0,"params":{}}"#, one("0")),
        (r#"{"id":1,"id":1,"method":"m"}"#, Expected::Nameless),
        (r#"{"id":null,"method":"m"}"#, Expected::Nameless),
        (r#"{"id":1.0,"method":"m"}"#, Expected::Nameless),
        (r#"{"id":1,"method":"m","params":{"a":1e999}}"#, one("1")),
        (r#"[{"id":1,"method":"m"}]"#, Expected::Nameless),
        (r#"{"id":1,"method":"m"} x"#, Expected::Nameless),
        (r#"{"method":"m","trace":5}"#, Expected::Nothing),
        (r#"{"method":5}"#, Expected::Nameless),
        (r#"{"id":1,"result":{}}"#, Expected::Nothing),
        (r#"{"id":1,"error":"no"}"#, Expected::Nothing),
    ] {
        assert_eq!(expected(line.as_bytes()), wanted, "{line}");
    }
}
