//! Metrics: read by the parser of others, and true.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;

use codexd_tests::clients;
use codexd_tests::codex::Version;
use codexd_tests::daemon::TestDaemon;
use codexd_tests::output::Output;
use codexd_tests::{skip, wait};
use serde_json::{Value, json};

use crate::http::get;
use crate::screens::list;

/// Prints the families as JSON, or fails as a scrape would.
const PARSE: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
print(json.dumps([{'name': f.name, 'type': f.type, 'unit': f.unit, 'help': f.documentation,
    'samples': [{'name': s.name, 'labels': s.labels, 'value': s.value} for s in f.samples]}
    for f in text_string_to_metric_families(sys.stdin.read())]))
";

/// The samples of a page.
struct Metrics(Vec<Value>);

impl Metrics {
    /// Reads a page; `None` where there is no Python.
    fn of(daemon: &TestDaemon, page: &str) -> Option<Metrics> {
        let python = skip::unless_found(clients::python())?;
        let (head, body) = page.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
            "{head}"
        );
        let mut command = daemon.home().command(&python.program);
        command.env("PYTHONPATH", &python.packages).args(["-c", PARSE]).stderr(Stdio::piped());
        let families = Output::with_input(&mut command, body.as_bytes()).expect_code(0).json();
        Some(Metrics(families.as_array().unwrap().clone()))
    }

    fn scrape(daemon: &TestDaemon) -> Option<Metrics> {
        Metrics::of(daemon, &get(daemon, "/metrics"))
    }

    /// Returns the value of a sample with these labels.
    #[track_caller]
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let samples = self.0.iter().flat_map(|family| family["samples"].as_array().unwrap());
        let mut found = samples.filter(|sample| {
            sample["name"] == name && labels.iter().all(|(key, value)| sample["labels"][key] == *value)
        });
        let sample = found.next().unwrap_or_else(|| panic!("no {name} {labels:?} in {:#?}", self.0));
        sample["value"].as_f64().unwrap()
    }
}

#[test]
fn metrics_are_read_by_the_parser_of_others_and_tell_what_happened() {
    let Some(builder) = TestDaemon::real(Version::Current) else { return };
    let daemon = builder.ready();
    let mut client = daemon.client("one");
    let params = json!({"cwd": daemon.home().project(), "approvalPolicy": "untrusted"});
    let thread = client.start_thread(params);
    client.answer_approvals("accept");
    assert_eq!(client.turn(&thread, "[[shell:echo a-secret-word > made.txt]] go").status, "completed");
    client.start_turn(&thread, "[[hang]]");
    let _ = daemon.ctl(&["interrupt", &thread]).expect_code(0);
    client.request("model/list", json!({}));
    let _ = client.try_request("thread/read", json!({"threadId": "nonsense"}));
    client.send_line("nonsense");
    client.recv_to_barrier();
    wait::until("nothing runs", || list(&daemon, "turns").is_empty());
    let page = get(&daemon, "/metrics");
    assert!(!page.contains("a-secret-word"), "{page}");
    let Some(metrics) = Metrics::of(&daemon, &page) else { return };
    let value = |name: &str, labels: &[(&str, &str)]| metrics.value(name, labels);
    assert_eq!(value("codexd_ready", &[]), 1.0);
    assert_eq!(value("codexd_generation", &[]), 1.0);
    assert_eq!(value("codexd_clients", &[]), 1.0);
    assert_eq!(value("codexd_turns_total", &[("outcome", "completed")]), 1.0);
    assert_eq!(value("codexd_turns_total", &[("outcome", "interrupted")]), 1.0);
    assert_eq!(value("codexd_turn_duration_seconds_count", &[]), 2.0);
    assert_eq!(value("codexd_turn_duration_seconds_bucket", &[("le", "+Inf")]), 2.0);
    assert_eq!(value("codexd_approvals_total", &[("outcome", "answered")]), 1.0);
    assert_eq!(value("codexd_approval_wait_seconds_count", &[]), 1.0);
    assert_eq!(value("codexd_answer_seconds_count", &[("class", "work")]), 3.0);
    assert!(value("codexd_answer_seconds_sum", &[("class", "work")]) > 0.0);
    assert!(value("codexd_answer_errors_total", &[("class", "read")]) >= 1.0);
    assert!(value("codexd_rejected_messages_total", &[("reason", "parseError")]) >= 1.0);
    assert!(value("codexd_added_latency_seconds_count", &[]) > 5.0);
    // Loopback and a scripted model: none of it takes ten seconds of codexd's own time.
    let all = value("codexd_added_latency_seconds_count", &[]);
    assert_eq!(value("codexd_added_latency_seconds_bucket", &[("le", "10.0")]), all);
    assert!(value("process_resident_memory_bytes", &[]) > 1e6);
    assert!(value("process_start_time_seconds", &[]) > 1.7e9);
    assert!(value("codexd_upstream_memory_bytes", &[]) > 1e6);
    for family in &metrics.0 {
        let (name, unit) = (family["name"].as_str().unwrap(), family["unit"].as_str().unwrap());
        assert!(family["help"].as_str().unwrap().ends_with('.'), "{name}");
        assert!(unit.is_empty() || name.ends_with(unit), "{name} is in {unit}");
        assert!(name.starts_with("codexd") || name.starts_with("process_"), "{name}");
    }
}

#[test]
fn warnings_and_closed_clients_are_metrics_with_their_reasons() {
    let daemon = TestDaemon::fake("").ready();
    let mut client = daemon.client("one");
    let (_, _, _approval) = crate::support::waiting_turn(&mut client, "");
    let _ = daemon.ctl(&["kill", "one"]).expect_code(0);
    client.recv_to_end();
    wait::until("it is gone", || list(&daemon, "clients").is_empty());
    let Some(metrics) = Metrics::scrape(&daemon) else { return };
    assert_eq!(metrics.value("codexd_clients_closed_total", &[("reason", "killed")]), 1.0);
    assert_eq!(metrics.value("codexd_warnings", &[("code", "unassignedApproval")]), 1.0);
    assert_eq!(metrics.value("codexd_approvals_unassigned", &[]), 1.0);
}

#[test]
fn restarts_are_counted_through_restarts_however_the_daemon_ended() {
    let restarts = |daemon: &TestDaemon| {
        let page = get(daemon, "/metrics");
        assert!(page.contains("# TYPE codexd_restarts counter\n"), "{page}");
        let line = page.lines().find_map(|line| line.strip_prefix("codexd_restarts_total "));
        line.unwrap_or_else(|| panic!("{page}")).parse::<u64>().unwrap()
    };
    let mut daemon = TestDaemon::fake("").ready();
    assert_eq!(restarts(&daemon), 0);
    assert_eq!(daemon.stop(), 0);
    let daemon = TestDaemon::fake("").home(daemon.into_home()).ready();
    assert_eq!(restarts(&daemon), 1);
    daemon.kill9();
    codexd_tests::process::wait_dead(i32::try_from(daemon.pid()).unwrap());
    let mut daemon = TestDaemon::fake("").home(daemon.into_home()).ready();
    assert_eq!(restarts(&daemon), 2);
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn metrics_are_on_a_port_of_loopback_where_the_settings_say_so() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut daemon = TestDaemon::fake("").config(&format!("metrics_port = {port}\n")).ready();
    let ask = |request: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let page = ask("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    assert!(page.starts_with("HTTP/1.1 200 ") && page.ends_with("\n# EOF\n"), "{page}");
    assert!(page.contains("\ncodexd_ready 1\n"), "{page}");
    for (request, status) in [
        ("GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n", "200"),
        ("GET /metrics HTTP/1.1\r\nHost: rebound.example\r\n\r\n", "403"),
        ("GET /metrics HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n\r\n", "403"),
        ("GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "4"),
        ("{\"id\":1,\"method\":\"initialize\"}\n", "400"),
    ] {
        let answer = ask(request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
    }
    let taken = TestDaemon::fake("").config(&format!("metrics_port = {port}\n")).start();
    let mut taken = taken;
    assert_eq!(taken.wait_exit().code(), Some(73));
    assert!(taken.stderr().contains("set `metrics_port` to another port"), "{}", taken.stderr());
    assert_eq!(daemon.stop(), 0);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "it ends with the daemon");
}
