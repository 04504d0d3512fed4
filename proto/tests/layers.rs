//! What this crate must not know of: it fails here with the reason, not in a review.
#![allow(clippy::unwrap_used)]
// The test reads files and runs cargo; what it checks must not.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The packages that may be linked into the decisions: leaves without I/O, and what these need.
const ALLOWED: [&str; 8] =
    ["bytes", "itoa", "memchr", "rustc-hash", "serde", "serde_json", "simdutf8", "uuid"];
const THEIRS: [&str; 8] =
    ["proc-macro2", "quote", "serde_core", "serde_derive", "syn", "unicode-ident", "zmij", "codexd-proto"];

/// The parts of `std` that the source may name: what `core` and `alloc` have too, which reach nothing outside
/// the program, and the collections. What clippy knows by its resolved name is in `clippy.toml`.
const STD: [&str; 32] = [
    "any",
    "array",
    "ascii",
    "borrow",
    "boxed",
    "cell",
    "char",
    "clone",
    "cmp",
    "collections",
    "convert",
    "default",
    "error",
    "fmt",
    "hash",
    "hint",
    "iter",
    "marker",
    "mem",
    "num",
    "ops",
    "option",
    "ptr",
    "rc",
    "result",
    "slice",
    "str",
    "string",
    "sync::Arc",
    "sync::Weak",
    "time::Duration",
    "vec",
];

/// What the source must not contain, and why.
const FORBIDDEN: [(&str, &str); 4] = [
    ("async fn", "a decision does not wait for anything"),
    ("unsafe ", "a peer's bytes must not be able to break more than their own message"),
    ("extern crate", "it would give `std` another name"),
    ("std as ", "it would give `std` another name"),
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

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

/// Returns the source without what stands after `//`: comments may name anything.
fn without_comments(source: &str) -> String {
    source.lines().flat_map(|line| [line.split("//").next().unwrap_or_default(), "\n"]).collect()
}

/// Reads one tree of a path (`a::b`, `{a, b::{c, d}}`) into its branches; returns what stands after it.
fn branches<'a>(code: &'a str, stem: &str, found: &mut Vec<String>) -> &'a str {
    let code = code.trim_start();
    if let Some(mut rest) = code.strip_prefix('{') {
        while !rest.trim_start().starts_with('}') && !rest.is_empty() {
            rest = branches(rest, stem, found);
            rest = &rest[rest.find([',', '}']).unwrap_or(rest.len())..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        return rest.trim_start().get(1..).unwrap_or_default();
    }
    let end = code.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '*').unwrap_or(code.len());
    let (name, rest) = code.split_at(end);
    let path = if stem.is_empty() { name.to_owned() } else { format!("{stem}::{name}") };
    match rest.trim_start().strip_prefix("::") {
        Some(deeper) if !deeper.starts_with('<') => branches(deeper, &path, found),
        _ => {
            found.push(path);
            rest
        }
    }
}

/// Returns the paths below `std` that the code names.
fn std_paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("std::") {
        if !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            branches(&code[at + "std::".len()..], "", &mut found);
        }
    }
    found
}

/// Returns what the source names that it must not, with the reason.
fn offences(source: &str) -> Vec<String> {
    let code = without_comments(source);
    let allowed = |path: &str| STD.iter().any(|a| path == *a || path.starts_with(&format!("{a}::")));
    let paths = std_paths(&code).into_iter().filter(|path| !allowed(path)).map(|path| {
        format!("`std::{path}`: input, output, clocks, threads and locks are the daemon's business")
    });
    let words = FORBIDDEN
        .into_iter()
        .filter(|(word, _)| code.contains(word))
        .map(|(word, reason)| format!("`{word}`: {reason}"));
    paths.chain(words).collect()
}

#[test]
fn the_decisions_name_no_clock_thread_file_socket_or_lock() {
    let files = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(files.len() > 20, "the sources were not found");
    let mut named = 0;
    for file in files {
        let source = std::fs::read_to_string(&file).unwrap();
        let found = offences(&source);
        assert!(found.is_empty(), "{}: {}", file.display(), found.join("\n"));
        named += std_paths(&without_comments(&source)).len();
    }
    assert!(named > 10, "only {named} paths below `std` were found: the search is broken");
}

#[test]
fn an_offence_is_seen_in_any_form_of_a_path() {
    for source in [
        "use std::time::Instant;",
        "use ::std::fs;",
        "use std::{collections::BTreeMap, fs as f};",
        "use std::{\n    mem,\n    time::{Duration, Instant},\n};",
        "use std::{self as s};",
        "use std::*;",
        "use std as s;",
        "fn f() { std::env::var(\"X\"); }",
        "let x = std::sync::Mutex::new(1);",
        "async fn f() {}",
    ] {
        assert!(!offences(source).is_empty(), "{source}");
    }
    for source in [
        "use std::collections::{BTreeMap, btree_map::{Entry, *}};",
        "use std::{mem, time::Duration};",
        "let x = std::mem::size_of::<u8>(); // a std::sync::Mutex would not help",
        "use std::sync::Arc;",
        "use core::time::Duration;",
    ] {
        assert_eq!(offences(source), [""; 0], "{source}");
    }
}
