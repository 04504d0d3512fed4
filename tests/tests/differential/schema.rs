//! The routing table knows in which order codex takes parameters that are given by position.

use std::fs;
use std::path::Path;

use codexd_proto::routes::REQUESTS;
use codexd_tests::codex::{Codex, Version};
use codexd_tests::home::Home;

#[test]
fn the_order_of_parameters_is_that_of_the_schema() {
    let Some(codex) = Codex::for_test(Version::Current) else { return };
    let home = Home::new().unwrap();
    let directory = home.root().join("schema");
    let mut command = home.command(&codex.native);
    command.args(["app-server", "generate-ts", "--experimental", "--out"]).arg(&directory);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let requests = fs::read_to_string(directory.join("ClientRequest.ts")).unwrap();
    let mut checked = 0;
    for request in REQUESTS.iter().filter(|request| !request.order.is_empty()) {
        // One of several shapes, distinguished by the first member.
        if request.method == "account/login/start" {
            continue;
        }
        let start = format!("\"method\": \"{}\", id: RequestId, params: ", request.method);
        let (_, rest) = requests.split_once(&start).unwrap();
        let name = rest.split([',', ' ']).next().unwrap();
        assert_eq!(request.order, members(&directory, name), "{}", request.method);
        checked += 1;
    }
    assert!(checked > 30, "{checked}");
}

/// Returns the names of the members of a type, in their order.
fn members(directory: &Path, name: &str) -> Vec<String> {
    let text = fs::read_to_string(directory.join(format!("v2/{name}.ts"))).unwrap();
    let (_, text) = text.split_once(&format!("export type {name} = ")).unwrap();
    let mut names = Vec::new();
    let (mut depth, mut word) = (0, String::new());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/").unwrap().1;
            continue;
        }
        match next {
            '{' | '[' | '(' | '<' => depth += 1,
            '}' | ']' | ')' | '>' => depth -= 1,
            ':' if depth == 1 => names.push(std::mem::take(&mut word)),
            '?' => {}
            _ if next.is_alphanumeric() || next == '_' => {
                word.push(next);
                rest = &rest[next.len_utf8()..];
                continue;
            }
            _ => {}
        }
        if next != '?' {
            word.clear();
        }
        rest = &rest[next.len_utf8()..];
    }
    names
}
