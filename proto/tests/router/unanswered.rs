//! A request without an answer is shown in the status, and does not make the upstream count as lost.

use codexd_proto::status::{StatusReport, Warning};
use serde_json::json;

use crate::net::{Net, thread};

fn warnings(net: &Net) -> Vec<Warning> {
    let mut report = StatusReport::default();
    net.router.fill_status(net.now, &mut report);
    report.warnings
}

#[test]
fn a_request_that_should_take_no_time_is_shown_with_its_age() {
    let mut net = Net::new();
    let a = net.join();
    let id = net.forwarded(a, "config/read", &json!({}));
    net.pass(59_999);
    assert_eq!(warnings(&net), []);
    net.pass(15_001);
    let shown = warnings(&net);
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0].code, "requestUnanswered");
    assert_eq!(shown[0].message, "`config/read` has had no answer for 75 s");
    net.request(a, 2, "config/read", &json!({}));
    net.pass(60_000);
    assert_eq!(warnings(&net)[0].message, "2 requests `config/read` have no answer, the oldest for 135 s");
    net.sent();
    net.reply(id, &json!({}));
    assert_eq!(warnings(&net)[0].message, "`config/read` has had no answer for 60 s");
    assert_eq!(net.actions(), []);
}

#[test]
fn what_may_take_long_is_not_shown() {
    let mut net = Net::new();
    let a = net.join();
    for (n, method) in ["turn/start", "command/exec", "thread/sample", "account/login/start", "newer/method"]
        .iter()
        .enumerate()
    {
        net.request(a, n, method, &json!({"threadId": thread(1), "command": ["sleep"]}));
    }
    net.pass(3_600_000);
    assert_eq!(warnings(&net), []);
}

#[test]
fn a_client_that_went_takes_its_warning_along() {
    let mut net = Net::new();
    let a = net.join();
    net.forwarded(a, "config/read", &json!({}));
    net.pass(60_000);
    assert_eq!(warnings(&net).len(), 1);
    net.leave(a);
    assert_eq!(warnings(&net), []);
}
