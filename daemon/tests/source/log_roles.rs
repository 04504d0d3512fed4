//! Events of the log name clients and turns in one way: through the macros of `logging::roles`, which give each event all
//! fields of its role.

use std::path::Path;

use super::files;

/// Fields that only the macros write.
const FIELDS: [&str; 6] = ["client.id", "client.name", "client.pid", "thread.id", "turn.id", "upstream.pid"];

/// Files that write them by hand, each with the reason.
const EXCEPT: [(&str, &str); 2] = [
    ("logging/roles.rs", "it has the macros"),
    (
        "serve/upstream/stderr.rs",
        "the lines of codex have a target of their own, which the macro does not take",
    ),
];

/// Returns the fields that a source gives an event by hand.
fn by_hand(source: &str) -> Vec<&'static str> {
    let given = |field: &&str| {
        source.match_indices(&format!("{field} =")).any(|(at, _)| {
            let after = &source[at + field.len() + 2..];
            let after = after.split(';').next().unwrap_or_default();
            // In the parentheses of a macro, and neither a statement of its own nor a comparison.
            let within = after.matches(')').count() > after.matches('(').count();
            within && source[..at].trim_end().ends_with(['(', ',', '{']) && !after.starts_with('=')
        })
    };
    FIELDS.into_iter().filter(given).collect()
}

#[test]
fn clients_and_turns_are_named_through_the_roles_alone() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for file in files(&root) {
        let name = file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let fields = by_hand(&std::fs::read_to_string(&file).unwrap());
        match EXCEPT.iter().find(|(except, _)| *except == name) {
            Some((_, why)) => assert!(!fields.is_empty(), "`{name}` ({why}) needs no exception"),
            None if fields.is_empty() => {}
            None => found.push(format!("src/{name} gives {} to an event by hand", fields.join(", "))),
        }
    }
    assert!(found.is_empty(), "use `log_client!`, `log_turn!` or `log_upstream!`:\n{}", found.join("\n"));
}

#[test]
fn a_field_by_hand_is_found() {
    assert_eq!(by_hand("tracing::info!(client.id = client.0, \"x\")"), ["client.id"]);
    assert_eq!(by_hand("tracing::info!(\n    %error,\n    turn.id = turn,\n    \"x\"\n)"), ["turn.id"]);
    assert_eq!(by_hand("for client in all { client.id = f(3); } if (client.id == 4) {}"), [""; 0]);
}
