//! What this crate must not know of: it fails here with the reason, not in a review.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The packages that may be linked into the decisions: leaves without I/O, and what these need.
const ALLOWED: [&str; 5] = ["memchr", "rustc-hash", "serde", "serde_json", "simdutf8"];
const THEIRS: [&str; 9] = [
    "itoa",
    "proc-macro2",
    "quote",
    "serde_core",
    "serde_derive",
    "syn",
    "unicode-ident",
    "zmij",
    "codexd-proto",
];

/// What the source must not name, and why.
const FORBIDDEN: [(&str, &str); 10] = [
    ("std::time::Instant", "time is handed in, so that a simulation can hand in any"),
    ("SystemTime", "time is handed in, so that a simulation can hand in any"),
    ("std::env", "the environment is read once, by the daemon, into settings"),
    ("std::thread", "there is one owner of the router, and it does not wait"),
    ("std::fs", "files are the daemon's business"),
    ("std::net", "sockets are the daemon's business"),
    ("Mutex", "there is one owner; what is shared is a snapshot, and the daemon shares it"),
    ("RwLock", "there is one owner; what is shared is a snapshot, and the daemon shares it"),
    ("async fn", "a decision does not wait for anything"),
    ("unsafe ", "a peer's bytes must not be able to break more than their own message"),
];

/// Runs the cargo that runs this test and returns what it prints.
fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(arguments)
        .output()
        .expect("cargo can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn metadata() -> Value {
    // Offline, so only for this platform: what others need may not have been fetched.
    let version = cargo(&["-vV"]);
    let host = version.lines().find_map(|l| l.strip_prefix("host: ")).expect("cargo names its host");
    let text =
        cargo(&["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host]);
    serde_json::from_str(&text).unwrap()
}

/// Names of all packages that the library is built from, itself included.
fn built_from(metadata: &Value) -> BTreeSet<String> {
    let list = |value: &Value| value.as_array().unwrap().clone();
    let names: BTreeMap<String, String> = list(&metadata["packages"])
        .iter()
        .map(|p| (p["id"].as_str().unwrap().to_owned(), p["name"].as_str().unwrap().to_owned()))
        .collect();
    let nodes: BTreeMap<String, Value> = list(&metadata["resolve"]["nodes"])
        .into_iter()
        .map(|n| (n["id"].as_str().unwrap().to_owned(), n))
        .collect();
    let root = names.iter().find(|(_, name)| *name == "codexd-proto").unwrap().0.clone();
    let (mut seen, mut todo) = (BTreeSet::new(), vec![root]);
    while let Some(id) = todo.pop() {
        if !seen.insert(id.clone()) {
            continue;
        }
        for dependency in list(&nodes[&id]["deps"]) {
            // Those of tests and benches do not reach the daemon.
            if list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"] != "dev") {
                todo.push(dependency["pkg"].as_str().unwrap().to_owned());
            }
        }
    }
    seen.iter().map(|id| names[id].clone()).collect()
}

#[test]
fn the_decisions_are_built_from_leaves_only() {
    let built = built_from(&metadata());
    for name in ALLOWED {
        assert!(built.contains(name), "`{name}` is allowed but not used; take it off the list");
    }
    let strangers: Vec<&String> =
        built.iter().filter(|n| !ALLOWED.contains(&n.as_str()) && !THEIRS.contains(&n.as_str())).collect();
    assert!(
        strangers.is_empty(),
        "codexd-proto gained {strangers:?}. It holds the decisions of the daemon as values: a runtime, a \
         socket or a clock in it would end their tests, which hand in lines and times and nothing else. \
         Put it into the package `codexd`; if it is a leaf without I/O, add it here and say why."
    );
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

/// Returns what a line of source names that it must not; comments may name anything.
fn offence(line: &str) -> Option<(&'static str, &'static str)> {
    let code = line.split("//").next().unwrap();
    FORBIDDEN.into_iter().find(|(word, _)| code.contains(word))
}

#[test]
fn the_decisions_name_no_clock_thread_file_socket_or_lock() {
    let files = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(files.len() > 20, "the sources were not found");
    for file in files {
        for (number, line) in std::fs::read_to_string(&file).unwrap().lines().enumerate() {
            if let Some((word, reason)) = offence(line) {
                panic!("{}:{}: `{word}`: {reason}", file.display(), number + 1);
            }
        }
    }
}

#[test]
fn an_offence_is_seen_in_code_and_not_in_comments() {
    assert_eq!(offence("use std::time::Instant;").unwrap().0, "std::time::Instant");
    assert_eq!(offence("    async fn f() {}").unwrap().0, "async fn");
    assert_eq!(offence("let x = 1; // a Mutex would not help"), None);
    assert_eq!(offence("use core::time::Duration;"), None);
}
