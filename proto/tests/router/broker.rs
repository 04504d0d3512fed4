//! codexd's own methods on the client socket.

use codexd_proto::router::{Action, ClientShutdown, CloseReason, Config, Identity, Limits};
use serde_json::json;

use crate::net::{Net, ORIGINATOR, delta, methods};

fn with(client_shutdown: ClientShutdown) -> Net {
    let mut net = Net::with_config(Config {
        identity: Identity { version: "0.9.1".into(), instance: "default".into(), generation: 7 },
        originator: ORIGINATOR.into(),
        limits: Limits::default(),
        client_shutdown,
        ..Config::default()
    });
    net.finish_handshake();
    net
}

#[test]
fn the_status_gives_version_generation_and_state_even_before_initialize() {
    let mut net = Net::new();
    let client = net.connect();
    net.send(client, r#"{"id":"s","method":"broker/status"}"#);
    let answer = net.got_one(client);
    assert_eq!(answer["id"], "s");
    assert_eq!(
        answer["result"],
        json!({"state": "serving", "version": "0.9.1", "instance": "default", "generation": 7})
    );
    net.drain();
    net.request(client, 2, "broker/status", &json!({}));
    assert_eq!(net.got_one(client)["result"]["state"], "draining");
}

#[test]
fn a_shutdown_is_answered_and_detaches_the_client() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let t = net.start_thread(a, 1);
    net.resume_thread(b, &t);
    net.request(a, "bye", "broker/shutdown", &json!({}));
    net.feed(&delta(&t, 1));
    assert_eq!(net.got(a), [json!({"id": "bye", "result": {}})], "and nothing after it");
    assert_eq!(net.got_raw(b).len(), 1);
    assert_eq!(net.actions(), [Action::Close { client: a, reason: CloseReason::Detached }]);
    assert!(CloseReason::Detached.flushes());
}

#[test]
fn the_last_client_may_stop_the_daemon() {
    let mut net = with(ClientShutdown::WhenUnused);
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.request(a, 1, "broker/shutdown", &json!({}));
    assert_eq!(
        net.actions(),
        [Action::Close { client: a, reason: CloseReason::Detached }, Action::ShutdownRequested { client: a }]
    );
    let sent = net.sent();
    assert_eq!(methods(&sent), ["thread/unsubscribe"]);
    assert_eq!(sent[0]["params"]["threadId"], t);
}

#[test]
fn a_running_turn_or_another_client_keeps_it_alive() {
    let mut net = with(ClientShutdown::WhenUnused);
    let a = net.join();
    let t = net.start_thread(a, 1);
    net.open_turn(&t, "u");
    net.request(a, 1, "broker/shutdown", &json!({}));
    assert!(!net.actions().contains(&Action::ShutdownRequested { client: a }));
    let mut net = with(ClientShutdown::WhenUnused);
    let (a, _b) = (net.join(), net.connect());
    net.request(a, 1, "broker/shutdown", &json!({}));
    assert!(!net.actions().contains(&Action::ShutdownRequested { client: a }));
}

#[test]
fn a_client_that_is_on_its_way_out_does_not_keep_it_alive() {
    let mut net = with(ClientShutdown::WhenUnused);
    let (a, b) = (net.join(), net.join());
    net.request(a, 1, "broker/shutdown", &json!({}));
    assert_eq!(net.actions().len(), 1);
    // The connection of the first is not closed yet.
    net.request(b, 1, "broker/shutdown", &json!({}));
    assert!(net.actions().contains(&Action::ShutdownRequested { client: b }));
}

#[test]
fn the_setting_decides() {
    for (setting, stops) in [(ClientShutdown::Always, true), (ClientShutdown::Never, false)] {
        let mut net = with(setting);
        let a = net.join();
        let _other = if stops { Some(net.join()) } else { None };
        net.request(a, 1, "broker/shutdown", &json!({}));
        assert_eq!(net.actions().contains(&Action::ShutdownRequested { client: a }), stops);
    }
}

#[test]
fn requests_of_a_detached_client_are_answered_to_nobody() {
    let mut net = Net::new();
    let (a, b) = (net.join(), net.join());
    let id = net.forwarded(a, "thread/list", &json!({}));
    net.request(a, 1, "broker/shutdown", &json!({}));
    net.got(a);
    net.reply(id, &json!({}));
    net.request(a, 2, "thread/list", &json!({}));
    assert_eq!((net.got_raw(a), net.got_raw(b), net.sent_raw()), (vec![], vec![], vec![]));
}
