//! How a status is shown to people: words, columns, units.

use std::fmt::Write as _;

use codexd_proto::listing::{ClientName, RequestStatus, TurnStatus};
use codexd_proto::status::{
    FailedStart, InstalledStatus, LastExit, StatusReport, UpgradeStatus, UpstreamStatus,
};

use crate::os::unix_time::unix_ms;

/// Width of the column of labels, in characters.
const LABEL: usize = 12;

/// Lines that are shown on a screen of any size.
const ALWAYS: u8 = 0;
/// Lines that are left out last if there is no room: counts that do not change what to do.
const DETAIL: u8 = 1;
/// Lines that are left out first: those that never change.
const FIXED: u8 = 2;

/// Renders the report as text.
pub(super) fn report(report: &StatusReport) -> String {
    screen(report).text(None)
}

/// As [`report`], cut to a number of lines: the least important ones are left out.
pub(super) fn report_in(report: &StatusReport, lines: usize) -> String {
    screen(report).text(Some(lines))
}

fn screen(report: &StatusReport) -> Screen {
    let mut screen = Screen(Vec::with_capacity(32));
    screen.line(
        "state",
        &format!(
            "{} for {}, {}, {}",
            report.state.word(),
            duration(report.state_since_ms),
            if report.ready { "ready" } else { "not ready" },
            match report.warnings.len() {
                0 => "no warnings".to_owned(),
                some => count(some, "warning"),
            }
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
    screen.ranked(FIXED, "instance", &format!("{}, CODEX_HOME {}", report.instance, report.codex_home));
    screen.ranked(FIXED, "socket", &report.socket);
    screen.ranked(FIXED, "control", &report.control_socket);
    if let Some(other) = &report.installed {
        installed(&mut screen, "codexd", other);
    }
    upstream(&mut screen, &report.upstream);
    if let Some(other) = &report.upstream.installed {
        installed(&mut screen, "codex", other);
    }
    if let Some(waiting) = &report.upgrade {
        upgrade(&mut screen, waiting);
    }
    if let Some(memory) = &report.memory {
        let mut line = format!("codexd {}", bytes(memory.daemon_bytes));
        if let (Some(used), Some(processes)) = (memory.codex_bytes, memory.codex_processes) {
            let _ = write!(line, "; codex {} in {}", bytes(used), processes_in_words(processes));
        }
        screen.line("memory", &line);
    }
    work(&mut screen, report);
    let counters = &report.counters;
    screen.ranked(
        DETAIL,
        "queues",
        &format!(
            "{} to clients, {} to codex",
            bytes(report.queued_to_clients_bytes),
            bytes(report.queued_to_upstream_bytes)
        ),
    );
    screen.ranked(
        DETAIL,
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
    screen.ranked(
        DETAIL,
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
    screen
}

/// Shows the clients, what runs, and which server requests wait for which clients.
fn work(screen: &mut Screen, report: &StatusReport) {
    screen.line(
        "clients",
        &format!(
            "{} connected, {} loaded, {} open",
            report.clients,
            count(report.threads, "thread"),
            count(report.open_turns, "turn")
        ),
    );
    if !report.oldest_clients.is_empty() {
        let mut names = clients(&report.oldest_clients);
        let more = report.clients.saturating_sub(report.oldest_clients.len());
        if more > 0 {
            let _ = write!(names, " and {more} more: `codexd ctl clients`");
        }
        screen.ranked(DETAIL, "", &names);
    }
    for running in &report.oldest_turns {
        screen.ranked(DETAIL, "", &turn(running));
    }
    screen.more(report.open_turns, report.oldest_turns.len(), "turns");
    let mut requests = format!("{} in flight", report.in_flight);
    if let Some(oldest) = report.oldest_request_ms.filter(|_| report.in_flight > 0) {
        let _ = write!(requests, ", the oldest for {}", duration(oldest));
    }
    let _ = write!(requests, "; {} queued", report.queued_requests);
    screen.line("requests", &requests);
    for request in &report.oldest_requests {
        let method = request.method.as_deref().unwrap_or("(not in the routing table)");
        let by = request.client.as_ref().map(client).unwrap_or_default();
        let line = format!("{method} of {by} for {}, {}", duration(request.age_ms), request.state);
        screen.ranked(DETAIL, "", &line);
    }
    screen.more(report.in_flight, report.oldest_requests.len(), "requests");
    screen.line(
        "approvals",
        &format!(
            "{} pending, {} of them with nobody to answer",
            report.pending_approvals, report.parked_approvals
        ),
    );
    for request in &report.oldest_approvals {
        screen.line("", &approval(request));
    }
    screen.more(report.pending_approvals, report.oldest_approvals.len(), "requests");
}

/// Renders which server request waits for whom.
pub(super) fn approval(request: &RequestStatus) -> String {
    let mut line = request.method.clone().unwrap_or_else(|| "a server request".to_owned());
    if let Some(by) = &request.client {
        let _ = write!(line, " for the turn of {}", client(by));
    }
    let who = match request.seen_by.is_empty() {
        true => "a client that resumes its thread".to_owned(),
        false => clients(&request.seen_by),
    };
    let _ = write!(line, " waits for {who}, for {}", duration(request.age_ms));
    line
}

/// Renders a turn that runs: `b72 for 3.1s: command, last event 1.0s ago, by x (3), in /home/me`.
pub(super) fn turn(turn: &TurnStatus) -> String {
    let mut line = turn.id.as_deref().map_or_else(|| "a turn".to_owned(), id);
    if let Some(age) = turn.age_ms {
        let _ = write!(line, " for {}", duration(age));
    }
    let _ = write!(line, ": {}", turn.phase);
    if let Some(last) = turn.last_event_ms {
        let _ = write!(line, ", last event {} ago", duration(last));
    }
    if let Some(by) = &turn.by {
        let _ = write!(line, ", by {}", client(by));
    }
    if let Some(cwd) = &turn.cwd {
        let _ = write!(line, ", in {cwd}");
    }
    line
}

/// Renders what an upgrade waits for, as a number.
pub(super) fn waited_for(turns: &[TurnStatus], requests: &[RequestStatus]) -> String {
    match (turns.len(), requests.len()) {
        (0, 0) => "the last steps of what ran".to_owned(),
        (0, requests) => count(requests, "request"),
        (turns, 0) => count(turns, "running turn"),
        (turns, requests) => format!("{} and {}", count(turns, "running turn"), count(requests, "request")),
    }
}

/// Shows what an upgrade waits for.
fn upgrade(screen: &mut Screen, upgrade: &UpgradeStatus) {
    let mut line = format!("waits for {}", waited_for(&upgrade.turns, &upgrade.requests));
    let _ = write!(line, ", since {}", duration(upgrade.since_ms));
    match upgrade.left_ms {
        Some(left) => drop(write!(line, ", for {} at the most", duration(left))),
        None => line.push_str(", without a limit"),
    }
    screen.line("upgrade", &line);
    for running in &upgrade.turns {
        screen.line("", &turn(running));
    }
}

/// Shows a program on disk that is not the one that runs.
fn installed(screen: &mut Screen, name: &str, installed: &InstalledStatus) {
    let line = match (&installed.version, &installed.executable) {
        (Some(version), Some(path)) => format!("{name} {version}, {path}"),
        (None, Some(path)) => format!("another {name}, {path}"),
        (_, None) => format!("no {name} any more"),
    };
    screen.line("on disk", &line);
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
        screen.ranked(FIXED, "", &upstream.executable);
    }
    if let Some(requested) = &upstream.requested {
        screen.ranked(FIXED, "", &format!("asked for as {requested}"));
    }
    if !upstream.arguments.is_empty() {
        screen.ranked(FIXED, "", &format!("with {}", upstream.arguments.join(", ")));
    }
    if !upstream.unknown_methods.is_empty() {
        screen.ranked(
            FIXED,
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

fn processes_in_words(processes: u64) -> String {
    if processes == 1 { "1 process".to_owned() } else { format!("{processes} processes") }
}

/// Renders how a daemon ended: `exit 1 (2m ago, up 3h): the upstream was lost`.
pub(super) fn last_exit(exit: &LastExit) -> String {
    let Some(code) = exit.code else { return exit.reason.clone() };
    let mut text = format!("exit {code}");
    if let Some(at) = exit.at_unix_ms {
        let _ = write!(text, " ({} ago", duration(unix_ms().saturating_sub(at)));
        // A failed start has no uptime.
        if let Some(uptime) = exit.uptime_ms {
            let _ = write!(text, ", after {}", duration(uptime));
        }
        text.push(')');
    }
    let _ = write!(text, ": {}", exit.reason);
    // The reason usually contains it.
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

/// Renders microseconds: `120us`, `2.34ms`, and from a second on as [`duration`].
pub(super) fn micros(us: u64) -> String {
    let hundredths = us % 1_000 / 10;
    match us {
        0..1_000 => format!("{us}us"),
        1_000..1_000_000 if hundredths == 0 => format!("{}ms", us / 1_000),
        1_000..1_000_000 => format!("{}.{hundredths:02}ms", us / 1_000),
        _ => duration(us / 1_000),
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

/// Lines of a label and a value, each with its rank. Line breaks in a value are shown as spaces and other control
/// characters removed, since a value can come from elsewhere.
struct Screen(Vec<(u8, String)>);

impl Screen {
    fn line(&mut self, label: &str, value: &str) {
        self.ranked(ALWAYS, label, value);
    }

    fn ranked(&mut self, rank: u8, label: &str, value: &str) {
        self.0.push((rank, format!("{label:<LABEL$} {}", plain(value))));
    }

    /// Adds a line that gives the number of items that are not shown.
    fn more(&mut self, all: usize, shown: usize, verb: &str) {
        if all > shown && shown > 0 {
            self.ranked(DETAIL, "", &format!("and {} more: `codexd ctl {verb}`", all - shown));
        }
    }

    fn text(mut self, lines: Option<usize>) -> String {
        let most = lines.unwrap_or(usize::MAX);
        while self.0.len() > most {
            let ranks = self.0.iter().enumerate().map(|(at, (rank, _))| (*rank, at));
            match ranks.max() {
                Some((ALWAYS, _)) | None => break,
                Some((_, at)) => drop(self.0.remove(at)),
            }
        }
        self.0.into_iter().map(|(_, line)| line + "\n").collect()
    }
}

/// Removes what could control a terminal: a line break becomes a space, other control characters are removed.
pub(super) fn plain(value: &str) -> String {
    value.chars().map(|c| if c == '\n' { ' ' } else { c }).filter(|c| !c.is_control()).collect()
}

/// Renders a value that may be unknown.
pub(super) fn known(value: Option<&str>) -> String {
    value.unwrap_or("-").to_owned()
}

/// Renders an id by the last part of its UUID. That part distinguishes ids that were created at the same time, and is
/// sufficient for `ctl interrupt`.
pub(super) fn id(id: &str) -> String {
    let tail = id.rsplit('-').next().unwrap_or(id);
    (if tail.len() == 12 && id.len() == 36 { tail } else { id }).to_owned()
}

/// Renders the id of a thread, with a mark for that of a sub-agent.
pub(super) fn thread(id: &str, sub_agent: bool) -> String {
    let mark = if sub_agent { " (sub-agent)" } else { "" };
    format!("{}{mark}", self::id(id))
}

/// Renders a client by its name and number.
pub(super) fn client(client: &ClientName) -> String {
    format!("{} ({})", client.name.as_deref().unwrap_or("?"), client.id)
}

/// Renders some clients.
pub(super) fn clients(clients: &[ClientName]) -> String {
    match clients {
        [] => "-".to_owned(),
        all => all.iter().map(client).collect::<Vec<_>>().join(", "),
    }
}

/// Renders how long ago something was.
pub(super) fn ago(ms: Option<u64>) -> String {
    ms.map_or_else(|| "-".to_owned(), |ms| format!("{} ago", duration(ms)))
}

/// Renders a point in time as the time of day, in UTC.
pub(super) fn time_of_day(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}.{:03}Z", seconds / 3600, seconds / 60 % 60, seconds % 60, unix_ms % 1000)
}

/// Renders messages and their bytes.
pub(super) fn traffic(messages: u64, bytes: u64) -> String {
    format!("{messages} / {}", self::bytes(bytes))
}

#[cfg(test)]
mod tests {
    use codexd_proto::listing::TurnStatus;
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
        assert!(screen.starts_with("state        serving for 0ms, ready, 1 warning\n"), "{screen}");
        assert!(
            screen.ends_with(
                "warning      the socket is [31mgone [socketReplaced]\n             -> restart it\n"
            ),
            "{screen}"
        );
    }

    #[test]
    fn a_screen_that_is_too_small_keeps_the_warnings_and_what_runs() {
        let turn =
            TurnStatus { id: Some("t".to_owned()), phase: "command".to_owned(), ..TurnStatus::default() };
        let full = StatusReport {
            oldest_turns: vec![turn],
            open_turns: 5,
            warnings: vec![Warning { code: "x".to_owned(), message: "w".to_owned(), hint: "h".to_owned() }],
            ..StatusReport::default()
        };
        assert!(report(&full).contains("and 4 more: `codexd ctl turns`"), "{}", report(&full));
        let small = report_in(&full, 13);
        assert_eq!(small.lines().count(), 13, "{small}");
        assert!(!small.contains("socket") && !small.contains("since start"), "{small}");
        assert!(small.contains("t: command") && small.ends_with("-> h\n"), "{small}");
        let least = report_in(&full, 3);
        assert!(
            least.contains("-> h") && least.contains("approvals") && !least.contains("t: command"),
            "{least}"
        );
    }

    #[test]
    fn an_id_is_shown_by_its_last_part() {
        assert_eq!(id("01a1fb58-0590-7e12-b5d9-d5cdf01b4b72"), "d5cdf01b4b72");
        assert_eq!(id("turn-1"), "turn-1");
        assert_eq!(thread("t", true), "t (sub-agent)");
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
