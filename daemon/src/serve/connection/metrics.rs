//! The status and the statistics as metrics, in the text format of OpenMetrics 1.0
//! (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).

use std::fmt::{Display, Write as _};

use codexd_proto::statistics::{Histogram, Statistics};
use codexd_proto::status::StatusReport;

/// What a page can show.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// How the daemon is.
    pub(crate) report: StatusReport,
    /// What was counted and timed.
    pub(crate) statistics: Statistics,
    /// From reading messages to writing what follows from them.
    pub(crate) added_latency: Histogram,
}

/// Returns all metrics.
pub(super) fn text(measured: &Measured) -> String {
    let Measured { report, statistics, added_latency } = measured;
    let mut page = Page(String::with_capacity(16 << 10));
    let upstream = &report.upstream;
    page.family("codexd", "info", None, "Who this daemon is.");
    let _ = writeln!(
        page.0,
        "codexd_info{{version=\"{}\",instance=\"{}\",upstream_version=\"{}\"}} 1",
        label(&report.version),
        label(&report.instance),
        label(upstream.version.as_deref().unwrap_or_default()),
    );
    // The names that clients of Prometheus have for every process.
    page.gauge(
        "process_start_time_seconds",
        Some("seconds"),
        "When the daemon started, since the Unix epoch.",
        &seconds(report.started_unix_ms),
    );
    if let Some(memory) = &report.memory {
        let help = "Resident memory of the daemon.";
        page.gauge("process_resident_memory_bytes", Some("bytes"), help, &memory.daemon_bytes);
        if let (Some(bytes), Some(processes)) = (memory.codex_bytes, memory.codex_processes) {
            let help = "Resident memory of codex and its descendants; what they share counts for each.";
            page.gauge("codexd_upstream_memory_bytes", Some("bytes"), help, &bytes);
            page.gauge("codexd_upstream_processes", None, "Codex and its descendants.", &processes);
        }
    }
    work(&mut page, report);
    counted(&mut page, report, statistics);
    page.family(
        "codexd_added_latency_seconds",
        "histogram",
        Some("seconds"),
        "From reading messages to writing what follows from them.",
    );
    page.histogram("codexd_added_latency_seconds", "", added_latency);
    page.family(
        "codexd_answer_seconds",
        "histogram",
        Some("seconds"),
        "From a client's request to codex's answer, by the class of the method.",
    );
    for (class, histogram) in statistics.answers() {
        page.histogram("codexd_answer_seconds", &format!("class=\"{}\"", class.word()), histogram);
    }
    page.family(
        "codexd_turn_duration_seconds",
        "histogram",
        Some("seconds"),
        "For how long turns ran that have ended.",
    );
    page.histogram("codexd_turn_duration_seconds", "", &statistics.turns);
    page.family(
        "codexd_approval_wait_seconds",
        "histogram",
        Some("seconds"),
        "For how long approvals and other server requests had no answer.",
    );
    page.histogram("codexd_approval_wait_seconds", "", &statistics.approvals);
    page.0.push_str("# EOF\n");
    page.0
}

/// What is the case now.
fn work(page: &mut Page, report: &StatusReport) {
    page.gauge("codexd_ready", None, "Whether clients are served.", &u8::from(report.ready));
    let up = u8::from(report.upstream.pid.is_some());
    page.gauge("codexd_upstream_up", None, "Whether codex app-server runs.", &up);
    page.gauge(
        "codexd_generation",
        None,
        "The number of this daemon among those of the instance: it grows by one with each start.",
        &report.generation,
    );
    // The generation is kept in the record of the instance, and so outlives the daemon.
    let restarts = report.generation.saturating_sub(1);
    page.counter(
        "codexd_restarts",
        "Starts of this instance after its first one, for whatever reason.",
        restarts,
    );
    page.gauge("codexd_clients", None, "Connected clients.", &report.clients);
    page.gauge("codexd_clients_max", None, "Clients that can be connected.", &report.max_clients);
    page.gauge("codexd_threads", None, "Threads that are loaded.", &report.threads);
    page.gauge("codexd_open_turns", None, "Turns that run.", &report.open_turns);
    page.gauge(
        "codexd_requests_in_flight",
        None,
        "Requests of clients without an answer.",
        &report.in_flight,
    );
    page.gauge(
        "codexd_requests_queued",
        None,
        "Requests that wait for the in-flight window.",
        &report.queued_requests,
    );
    page.gauge(
        "codexd_oldest_request_seconds",
        Some("seconds"),
        "Age of the oldest request without an answer.",
        &seconds(report.oldest_request_ms.unwrap_or_default()),
    );
    page.gauge(
        "codexd_approvals_pending",
        None,
        "Server requests that nobody has answered.",
        &report.pending_approvals,
    );
    page.gauge(
        "codexd_approvals_unassigned",
        None,
        "Server requests that no connected client can see.",
        &report.parked_approvals,
    );
    page.gauge(
        "codexd_oldest_approval_seconds",
        Some("seconds"),
        "Age of the oldest server request that nobody has answered.",
        &seconds(report.oldest_approval_ms.unwrap_or_default()),
    );
    let (clients, upstream) = (report.queued_to_clients_bytes, report.queued_to_upstream_bytes);
    page.gauge("codexd_client_queue_bytes", Some("bytes"), "Bytes that wait for clients.", &clients);
    page.gauge("codexd_upstream_queue_bytes", Some("bytes"), "Bytes that wait for codex.", &upstream);
    page.family("codexd_warnings", "gauge", None, "Warnings of the status, by code.");
    let mut codes: Vec<&str> = report.warnings.iter().map(|warning| warning.code.as_str()).collect();
    codes.sort_unstable();
    for same in codes.chunk_by(|a, b| a == b) {
        page.sample("codexd_warnings", &format!("code=\"{}\"", label(same[0])), &same.len());
    }
}

/// What has happened since the start.
fn counted(page: &mut Page, report: &StatusReport, statistics: &Statistics) {
    let counters = &report.counters;
    page.counter("codexd_clients_accepted", "Connections accepted.", counters.clients_accepted);
    page.counter("codexd_clients_refused", "Connections refused.", counters.clients_refused);
    page.counts(
        "codexd_clients_closed",
        "Connections that codexd closed, by reason.",
        "reason",
        statistics.closed.iter().map(|(reason, count)| (*reason, *count)),
    );
    page.counter("codexd_client_messages", "Messages from clients.", counters.client_messages);
    page.counter("codexd_upstream_messages", "Messages from codex.", counters.upstream_messages);
    page.counter("codexd_delivered_messages", "Messages delivered to clients.", counters.delivered_messages);
    page.counts(
        "codexd_rejected_messages",
        "Messages of clients that codexd answered with an error, by reason.",
        "reason",
        statistics.refused.iter().map(|(reason, count)| (reason.as_str(), *count)),
    );
    page.counter("codexd_dropped_messages", "Messages that nobody wanted.", counters.dropped_messages);
    page.counter(
        "codexd_retried_requests",
        "Requests that codex had no room for.",
        counters.retried_requests,
    );
    page.counts(
        "codexd_answer_errors",
        "Answers of codex that were errors, by the class of the method.",
        "class",
        statistics.errors.iter().map(|(class, count)| (*class, *count)),
    );
    page.counter("codexd_turns_completed", "Turns that ended, also unknown ones.", counters.turns_completed);
    page.counts(
        "codexd_turns",
        "Turns that were known and ended, by outcome.",
        "outcome",
        statistics.outcomes.iter().map(|(outcome, count)| (*outcome, *count)),
    );
    page.counts(
        "codexd_approvals",
        "Server requests that were answered, or withdrawn by codex.",
        "outcome",
        statistics.approvals_ended.iter().map(|(outcome, count)| (*outcome, *count)),
    );
}

struct Page(String);

impl Page {
    /// Begins a family: its metadata come before its samples.
    fn family(&mut self, name: &str, kind: &str, unit: Option<&str>, help: &str) {
        let _ = writeln!(self.0, "# TYPE {name} {kind}");
        if let Some(unit) = unit {
            let _ = writeln!(self.0, "# UNIT {name} {unit}");
        }
        let _ = writeln!(self.0, "# HELP {name} {help}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: &dyn Display) {
        let _ = match labels {
            "" => writeln!(self.0, "{name} {value}"),
            labels => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }

    fn gauge(&mut self, name: &str, unit: Option<&str>, help: &str, value: &dyn Display) {
        self.family(name, "gauge", unit, help);
        self.sample(name, "", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", None, help);
        self.sample(&format!("{name}_total"), "", &value);
    }

    /// A counter for each value of a label that has occurred.
    fn counts<'a>(&mut self, name: &str, help: &str, by: &str, counts: impl Iterator<Item = (&'a str, u64)>) {
        self.family(name, "counter", None, help);
        for (value, count) in counts {
            self.sample(&format!("{name}_total"), &format!("{by}=\"{}\"", label(value)), &count);
        }
    }

    fn histogram(&mut self, name: &str, labels: &str, histogram: &Histogram) {
        let separator = if labels.is_empty() { "" } else { "," };
        for (bound, count) in histogram.cumulative() {
            let bound = bound.map_or_else(|| "+Inf".to_owned(), micros);
            let labels = format!("{labels}{separator}le=\"{bound}\"");
            self.sample(&format!("{name}_bucket"), &labels, &count);
        }
        self.sample(&format!("{name}_sum"), labels, &micros(histogram.sum_us()));
        self.sample(&format!("{name}_count"), labels, &histogram.count());
    }
}

/// Milliseconds in seconds, the unit of times.
fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// Microseconds in seconds, as short as they are exact: bounds are compared as text.
fn micros(us: u64) -> String {
    let text = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    let short = text.trim_end_matches('0');
    if short.ends_with('.') { format!("{short}0") } else { short.to_owned() }
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
        let mut measured = Measured::default();
        measured.report.started_unix_ms = 61_005;
        measured.report.instance = "a\"b".to_owned();
        measured.report.counters.turns_completed = 7;
        measured.added_latency.observe_us(25);
        let text = text(&measured);
        assert!(text.contains("\nprocess_start_time_seconds 61.005\n"), "{text}");
        assert!(text.contains("# TYPE codexd_turns_completed counter\n"), "{text}");
        assert!(text.contains("\ncodexd_turns_completed_total 7\n"), "{text}");
        assert!(text.contains("\ncodexd_added_latency_seconds_bucket{le=\"0.00003\"} 1\n"), "{text}");
        assert!(text.contains("\ncodexd_added_latency_seconds_sum 0.000025\n"), "{text}");
        assert!(text.contains(r#"instance="a\"b""#), "{text}");
        assert!(text.ends_with("\n# EOF\n"), "{text}");
        let mut family = String::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("# TYPE ") {
                family = name.split(' ').next().unwrap().to_owned();
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(value.parse::<f64>().is_ok(), "{line}");
                assert!(name.starts_with(&family), "{line} is not of {family}");
            }
        }
    }

    #[test]
    fn bounds_are_short_and_exact() {
        for (us, text) in [(10, "0.00001"), (300_000, "0.3"), (1_000_000, "1.0"), (3_600_000_000, "3600.0")] {
            assert_eq!(micros(us), text);
        }
    }
}
