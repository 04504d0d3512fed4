//! `docs/protocol.md` shows the routing table that the router uses.
// `clippy.toml` is for the decisions; this test reads a document.
#![allow(clippy::disallowed_methods)]

use std::path::Path;

use codexd_proto::routes::describe;

const BEGIN: &str = "<!-- table: begin, written by `UPDATE_DOCS=1 cargo test -p codexd-proto` -->\n";
const END: &str = "<!-- table: end -->";

#[test]
fn the_table_in_the_documentation_is_the_one_in_use() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md");
    let text = std::fs::read_to_string(&path).expect("docs/protocol.md can be read");
    let (head, rest) = text.split_once(BEGIN).expect("docs/protocol.md has lost its first marker");
    let (table, tail) = rest.split_once(END).expect("docs/protocol.md has lost its second marker");
    if std::env::var_os("UPDATE_DOCS").is_some_and(|v| v == "1") {
        std::fs::write(&path, format!("{head}{BEGIN}{}{END}{tail}", describe())).expect("it can be written");
    } else {
        assert!(
            table == describe(),
            "docs/protocol.md is out of date; run `UPDATE_DOCS=1 cargo test -p codexd-proto`"
        );
    }
}
