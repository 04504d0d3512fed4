//! The status as metrics, in the text format of Prometheus, version 0.0.4.

use std::fmt::{Display, Write as _};

use codexd_proto::status::StatusReport;

/// Returns the metrics of a report.
pub(super) fn text(report: &StatusReport) -> String {
    let mut out = String::new();
    let upstream = &report.upstream;
    let _ = writeln!(
        out,
        "# HELP codexd_info Who this daemon is.\n# TYPE codexd_info gauge\n\
         codexd_info{{version=\"{}\",instance=\"{}\",generation=\"{}\",upstream_version=\"{}\"}} 1",
        label(&report.version),
        label(&report.instance),
        report.generation,
        label(upstream.version.as_deref().unwrap_or_default()),
    );
    let mut gauge = |name, help, value: &dyn Display| sample(&mut out, "gauge", name, help, value);
    gauge("ready", "Whether clients are served.", &u8::from(report.ready));
    gauge("upstream_up", "Whether codex app-server runs.", &u8::from(upstream.pid.is_some()));
    gauge("uptime_seconds", "Time since the start.", &seconds(report.uptime_ms));
    gauge("clients", "Connected clients.", &report.clients);
    gauge("clients_max", "Clients that can be connected.", &report.max_clients);
    gauge("threads", "Threads that are loaded.", &report.threads);
    gauge("open_turns", "Turns that run.", &report.open_turns);
    gauge("requests_in_flight", "Requests of clients without an answer.", &report.in_flight);
    gauge("requests_queued", "Requests that wait for their turn.", &report.queued_requests);
    gauge(
        "oldest_request_seconds",
        "Age of the oldest request without an answer.",
        &seconds(report.oldest_request_ms.unwrap_or_default()),
    );
    gauge("approvals_pending", "Server requests without an answer.", &report.pending_approvals);
    gauge("approvals_parked", "Server requests that no client can see.", &report.parked_approvals);
    gauge("client_queue_bytes", "Bytes that wait for clients.", &report.queued_to_clients_bytes);
    gauge("upstream_queue_bytes", "Bytes that wait for the upstream.", &report.queued_to_upstream_bytes);
    let counters = &report.counters;
    let mut counter = |name, help, value: u64| sample(&mut out, "counter", name, help, &value);
    counter("clients_accepted_total", "Connections accepted.", counters.clients_accepted);
    counter("clients_refused_total", "Connections refused.", counters.clients_refused);
    counter("clients_too_slow_total", "Clients closed because they did not read.", counters.clients_too_slow);
    counter("client_messages_total", "Messages from clients.", counters.client_messages);
    counter("upstream_messages_total", "Messages from the upstream.", counters.upstream_messages);
    counter("delivered_messages_total", "Messages delivered to clients.", counters.delivered_messages);
    counter("rejected_messages_total", "Messages refused by codexd itself.", counters.rejected_messages);
    counter("dropped_messages_total", "Messages without a recipient.", counters.dropped_messages);
    counter(
        "retried_requests_total",
        "Requests sent again after the upstream had rejected them as overloaded.",
        counters.retried_requests,
    );
    counter("turns_completed_total", "Turns that ended.", counters.turns_completed);
    out
}

fn sample(out: &mut String, kind: &str, name: &str, help: &str, value: &dyn Display) {
    let _ = writeln!(out, "# HELP codexd_{name} {help}\n# TYPE codexd_{name} {kind}\ncodexd_{name} {value}");
}

/// Prometheus counts time in seconds.
fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// Escapes the value of a label.
fn label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sample_has_a_type_and_a_number() {
        let mut report =
            StatusReport { uptime_ms: 61_005, instance: "a\"b".to_owned(), ..Default::default() };
        report.counters.turns_completed = 7;
        let text = text(&report);
        assert!(text.contains("\ncodexd_uptime_seconds 61.005\n"), "{text}");
        assert!(
            text.contains("# TYPE codexd_turns_completed_total counter\ncodexd_turns_completed_total 7\n")
        );
        assert!(text.contains(r#"instance="a\"b""#), "{text}");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let name = name.split('{').next().unwrap();
            assert!(text.contains(&format!("# TYPE {name} ")), "{line}");
        }
    }
}
