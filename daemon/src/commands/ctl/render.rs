//! The words and columns in which a status is shown to people.

use std::fmt::Write as _;

use codexd_proto::status::{FailedStart, LastExit, StatusReport, UpstreamStatus};
use comfy_table::{ContentArrangement, Table, presets};

use crate::os::unix_time::unix_ms;

/// Width of the column of labels, in characters.
const LABEL: usize = 12;

/// Renders the report as one screen of text.
pub(super) fn report(report: &StatusReport) -> String {
    let mut screen = Screen(String::with_capacity(1024));
    screen.line(
        "state",
        &format!(
            "{} for {}, {}",
            report.state.word(),
            duration(report.state_since_ms),
            if report.ready { "ready" } else { "not ready" }
        ),
    );
    screen.line(
        "daemon",
        &format!(
            "pid {}, codexd {}{}, up {}, generation {}",
            report.pid,
            report.version,
            report.commit.as_ref().map(|commit| format!(" ({commit})")).unwrap_or_default(),
            duration(report.uptime_ms),
            report.generation
        ),
    );
    screen.line("instance", &format!("{}, CODEX_HOME {}", report.instance, report.codex_home));
    screen.line("socket", &report.socket);
    screen.line("control", &report.control_socket);
    upstream(&mut screen, &report.upstream);
    screen.line(
        "clients",
        &format!(
            "{} connected, {} loaded, {} open",
            report.clients,
            count(report.threads, "thread"),
            count(report.open_turns, "turn")
        ),
    );
    let mut requests = format!("{} in flight", report.in_flight);
    if let Some(oldest) = report.oldest_request_ms.filter(|_| report.in_flight > 0) {
        let _ = write!(requests, ", the oldest for {}", duration(oldest));
    }
    let _ = write!(requests, "; {} queued", report.queued_requests);
    screen.line("requests", &requests);
    screen.line(
        "approvals",
        &format!(
            "{} pending, {} of them with nobody to answer",
            report.pending_approvals, report.parked_approvals
        ),
    );
    screen.line(
        "queues",
        &format!(
            "{} to clients, {} to codex",
            bytes(report.queued_to_clients_bytes),
            bytes(report.queued_to_upstream_bytes)
        ),
    );
    let counters = &report.counters;
    screen.line(
        "messages",
        &format!(
            "{} from clients ({} rejected), {} from codex, {} delivered, {} unwanted",
            counters.client_messages,
            counters.rejected_messages,
            counters.upstream_messages,
            counters.delivered_messages,
            counters.dropped_messages
        ),
    );
    screen.line(
        "since start",
        &format!(
            "{} served, {} refused, {} too slow; {} done",
            count_u64(counters.clients_accepted, "client"),
            counters.clients_refused,
            counters.clients_too_slow,
            count_u64(counters.turns_completed, "turn")
        ),
    );
    match &report.last_exit {
        Some(exit) => {
            screen.line("last exit", &last_exit(exit));
            said(&mut screen, &exit.upstream_stderr);
        }
        None => screen.line("last exit", "no record of an earlier daemon"),
    }
    if let Some(failed) = &report.failed_start {
        screen.line("failed start", &failed_start(failed));
    }
    for warning in &report.warnings {
        screen.line("warning", &format!("{} [{}]", warning.message, warning.code));
        if !warning.hint.is_empty() {
            screen.line("", &format!("-> {}", warning.hint));
        }
    }
    screen.0
}

fn upstream(screen: &mut Screen, upstream: &UpstreamStatus) {
    let mut line = match (upstream.pid, &upstream.ended) {
        (_, Some(ended)) => format!("ended: {ended}"),
        (Some(pid), None) => format!("pid {pid}"),
        (None, None) => "not started".to_owned(),
    };
    if let Some(version) = &upstream.version {
        let _ = write!(line, ", codex {version}");
        if !upstream.measured_version.is_empty() && *version != upstream.measured_version {
            let _ = write!(line, " (methods known as of {})", upstream.measured_version);
        }
    }
    if let Some(uptime) = upstream.uptime_ms.filter(|_| upstream.ended.is_none()) {
        let _ = write!(line, ", up {}", duration(uptime));
    }
    if let Some(last) = upstream.last_message_ms {
        let _ = write!(line, ", last message {} ago", duration(last));
    }
    screen.line("codex", &line);
    said(screen, &upstream.stderr);
    if !upstream.executable.is_empty() {
        screen.line("", &upstream.executable);
    }
    if let Some(requested) = &upstream.requested {
        screen.line("", &format!("asked for as {requested}"));
    }
    if !upstream.arguments.is_empty() {
        screen.line("", &format!("with {}", upstream.arguments.join(", ")));
    }
    if !upstream.unknown_methods.is_empty() {
        screen.line(
            "",
            &format!(
                "methods unknown to codexd, passed on as they are: {}",
                upstream.unknown_methods.join(", ")
            ),
        );
    }
}

/// Shows the last lines of codex.
fn said(screen: &mut Screen, lines: &[String]) {
    for line in lines {
        screen.line("", &format!("codex: {line}"));
    }
}

/// Renders how a daemon ended: `exit 1 (2m ago, up 3h): the upstream was lost`.
pub(super) fn last_exit(exit: &LastExit) -> String {
    let Some(code) = exit.code else { return exit.reason.clone() };
    let mut text = format!("exit {code}");
    if let Some(at) = exit.at_unix_ms {
        let _ = write!(text, " ({} ago", duration(unix_ms().saturating_sub(at)));
        // A start that failed was never up.
        if let Some(uptime) = exit.uptime_ms {
            let _ = write!(text, ", after {}", duration(uptime));
        }
        text.push(')');
    }
    let _ = write!(text, ": {}", exit.reason);
    // Usually it is the reason.
    if let Some(upstream) = exit.upstream.as_ref().filter(|upstream| !exit.reason.contains(*upstream)) {
        let _ = write!(text, "; codex {upstream}");
    }
    text
}

/// Renders a start that failed: `exit 75 (2m ago): codexd 0.1.0 is running already`.
pub(super) fn failed_start(failed: &FailedStart) -> String {
    let ago = unix_ms().saturating_sub(failed.at_unix_ms);
    format!("exit {} ({} ago): {}", failed.code, duration(ago), failed.reason)
}

/// Renders milliseconds with the two largest units: `35ms`, `4.2s`, `3m 20s`, `2d 4h`.
pub(crate) fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if ms < 1000 => format!("{ms}ms"),
        () if seconds < 10 => format!("{seconds}.{}s", ms % 1000 / 100),
        () if minutes == 0 => format!("{seconds}s"),
        () if hours == 0 => format!("{minutes}m {}s", seconds % 60),
        () if days == 0 => format!("{hours}h {}m", minutes % 60),
        () => format!("{days}d {}h", hours % 24),
    }
}

/// Renders a number of bytes with a binary unit.
pub(super) fn bytes(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes / 1024),
        _ => format!("{}.{} MiB", bytes >> 20, (bytes % 1_048_576) * 10 / 1_048_576),
    }
}

/// Renders a number of things.
pub(super) fn count(number: usize, thing: &str) -> String {
    count_u64(number as u64, thing)
}

fn count_u64(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// Lines of a label and a value. A line break in a value, which may come from elsewhere, is shown as a
/// space, and other control characters not at all.
struct Screen(String);

impl Screen {
    fn line(&mut self, label: &str, value: &str) {
        let _ = writeln!(self.0, "{label:<LABEL$} {}", plain(value));
    }
}

fn plain(value: &str) -> String {
    value.chars().map(|c| if c == '\n' { ' ' } else { c }).filter(|c| !c.is_control()).collect()
}

/// Renders columns under their headings, as wide as they need.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings);
    table.add_rows(rows.iter().map(|row| row.iter().map(|cell| plain(cell)).collect::<Vec<_>>()));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    format!("{}\n", table.trim_fmt())
}

#[cfg(test)]
mod tests {
    use codexd_proto::status::{DaemonState, Warning};

    use super::*;

    #[test]
    fn durations_show_two_units() {
        for (ms, text) in [
            (0, "0ms"),
            (999, "999ms"),
            (4_250, "4.2s"),
            (59_999, "59s"),
            (200_000, "3m 20s"),
            (7_260_000, "2h 1m"),
            (187_200_000, "2d 4h"),
        ] {
            assert_eq!(duration(ms), text);
        }
    }

    #[test]
    fn bytes_show_a_unit() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(2048), "2 KiB");
        assert_eq!(bytes(5 << 19), "2.5 MiB");
    }

    #[test]
    fn a_screen_is_aligned_and_ends_with_warnings() {
        let screen = report(&StatusReport {
            state: DaemonState::Serving,
            ready: true,
            warnings: vec![Warning {
                code: "socketReplaced".to_owned(),
                message: "the socket\nis \u{1b}[31mgone".to_owned(),
                hint: "restart it".to_owned(),
            }],
            ..StatusReport::default()
        });
        assert!(screen.lines().count() <= 24, "{screen}");
        assert!(screen.lines().all(|line| line.as_bytes()[LABEL] == b' '), "{screen}");
        assert!(screen.starts_with("state        serving for 0ms, ready\n"), "{screen}");
        assert!(
            screen.ends_with(
                "warning      the socket is [31mgone [socketReplaced]\n             -> restart it\n"
            ),
            "{screen}"
        );
    }

    #[test]
    fn a_table_has_its_columns_under_their_headings() {
        let rows = [["a".to_owned(), "long one".to_owned()], ["b\u{1b}[31m\nc".to_owned(), String::new()]];
        let text = table(&["ID", "NAME"], &rows.map(Vec::from));
        assert_eq!(text, "ID       NAME\na        long one\nb[31m c\n");
    }

    #[test]
    fn an_exit_says_when_and_why() {
        let exit = LastExit {
            code: Some(1),
            reason: "the upstream was lost".to_owned(),
            upstream: Some("was killed by signal 9 (SIGKILL)".to_owned()),
            upstream_stderr: Vec::new(),
            at_unix_ms: Some(unix_ms()),
            uptime_ms: Some(60_000),
            generation: 3,
        };
        let text = last_exit(&exit);
        assert!(text.starts_with("exit 1 ("), "{text}");
        assert!(
            text.ends_with("after 1m 0s): the upstream was lost; codex was killed by signal 9 (SIGKILL)")
        );
    }
}
