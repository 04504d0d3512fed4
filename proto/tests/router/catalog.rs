//! Methods of the running codex that the routing table does not know.

use codexd_proto::routes::{MEASURED_VERSION, REQUESTS};
use codexd_proto::status::StatusReport;
use serde_json::json;

use crate::net::Net;

fn asked() -> (Net, i64) {
    let mut net = Net::new();
    net.router.request_methods(net.now);
    let sent = net.sent();
    assert_eq!(sent.len(), 1, "{sent:?}");
    let method = sent[0]["method"].as_str().unwrap();
    assert!(REQUESTS.iter().all(|known| known.method != method), "`{method}` would do something");
    let id = sent[0]["id"].as_i64().unwrap();
    (net, id)
}

fn unknown(net: &Net) -> Vec<String> {
    let mut report = StatusReport::default();
    net.router.fill_status(net.now, &mut report);
    assert_eq!(report.upstream.measured_version, MEASURED_VERSION);
    report.upstream.unknown_methods
}

#[test]
fn only_methods_that_the_table_does_not_know_are_named() {
    let (mut net, id) = asked();
    assert_eq!(unknown(&net), [""; 0]);
    let mut names: Vec<_> = REQUESTS.iter().map(|known| format!("`{}`", known.method)).collect();
    names.insert(3, "`thread/dream`".to_owned());
    names.push("`dream/list`".to_owned());
    net.fail(id, &format!("Invalid request: unknown variant `x`, expected one of {}", names.join(", ")));
    assert_eq!(unknown(&net), ["thread/dream", "dream/list"]);
}

#[test]
fn the_request_for_the_methods_is_hidden_from_clients_and_delays_nothing() {
    let (mut net, id) = asked();
    let client = net.join();
    net.hush(&[client]);
    assert!(net.router.is_quiet());
    net.fail(id, "Invalid request: unknown variant `x`, expected one of `initialize`, `a/b`");
    assert_eq!(net.got_raw(client), [""; 0]);
    assert_eq!(net.actions(), []);
}

#[test]
fn an_upstream_that_names_nothing_leaves_the_list_empty() {
    for message in ["Server overloaded; retry later.", "method not found", ""] {
        let (mut net, id) = asked();
        net.fail(id, message);
        assert_eq!(unknown(&net), [""; 0], "{message}");
    }
    let (mut net, id) = asked();
    net.reply(id, &json!({"methods": ["a/b"]}));
    assert_eq!(unknown(&net), [""; 0]);
}
