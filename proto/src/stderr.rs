//! The last lines that the upstream wrote to its stderr: why it ended, in its own wording.
//!
//! # Theory of operation
//! [`StderrTail`] takes bytes and keeps the last whole lines, bounded in lines and bytes, fit to be shown to people:
//! without the escape sequences of colours, other control characters escaped, secrets masked ([`Secrets`]).
//! Backtraces are left out: without symbols they are of no use, and they would displace lines that are.
//!
//! Before clients are served, nothing of theirs can be in these lines. From then on
//! ([`StderrTail::clients_are_served`]) the upstream quotes commands and prompts in its log records (measured:
//! one for each tool that failed), and the standard library quotes text in panics. So log records and what
//! stands between quotes are left out then, and lines that are too old to be about the end.

use std::collections::VecDeque;

use crate::secrets::Secrets;
use crate::time::Time;

/// Lines kept at the most.
const MAX_LINES: usize = 20;

/// Bytes of all kept lines together, at the most.
const MAX_BYTES: usize = 4 << 10;

/// Bytes of one kept line, at the most.
const LINE_BYTES: usize = 512;

/// Bytes of an unfinished line that are kept; the rest of the line is dropped.
const UNFINISHED_BYTES: usize = 8 << 10;

/// Milliseconds after which a line no longer explains the end, once clients are served.
const RECENT_MS: u64 = 30_000;

/// Bytes of a [`summary`], at the most.
const SUMMARY_BYTES: usize = 300;

/// Characters of quoted text that are shown also when it may be a client's: punctuation in the errors of parsers.
const SHORT_QUOTE: usize = 2;

/// The last lines of the upstream's stderr. See the [module's documentation](self).
#[derive(Debug, Default)]
pub struct StderrTail {
    secrets: Secrets,
    unfinished: Vec<u8>,
    kept: VecDeque<Kept>,
    kept_bytes: usize,
    served: bool,
    skipping: Skipping,
}

#[derive(Debug)]
struct Kept {
    at: Time,
    text: String,
}

/// What the lines that come next are a part of, and are dropped with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Skipping {
    #[default]
    Nothing,
    Backtrace,
    /// A log record of several lines, which was written at once.
    Record,
    /// Quoted text of several lines, up to this quote.
    Quote(char),
}

impl StderrTail {
    /// Creates an empty tail in which `secrets` are masked.
    pub fn new(secrets: Secrets) -> StderrTail {
        StderrTail { secrets, ..StderrTail::default() }
    }

    /// Returns the secrets that are masked.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Takes what one read returned. `each` gets every whole line, kept or not, escaped and masked: for a log
    /// that was asked to show them.
    pub fn push(&mut self, now: Time, mut bytes: &[u8], mut each: impl FnMut(&str)) {
        if self.unfinished.is_empty() && self.skipping == Skipping::Record {
            self.skipping = Skipping::Nothing;
        }
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend(&bytes[..end]);
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.unfinished);
            let text = self.readable(&line);
            if !text.trim().is_empty() {
                each(&text);
            }
            if let Some(text) = self.worth_keeping(text) {
                self.keep(now, text);
            }
        }
        self.extend(bytes);
    }

    fn extend(&mut self, bytes: &[u8]) {
        let room = UNFINISHED_BYTES.saturating_sub(self.unfinished.len());
        self.unfinished.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Clients are served from now on: what was written so far is not about the end, and what comes may quote
    /// them.
    pub fn clients_are_served(&mut self) {
        self.served = true;
        self.kept.clear();
        self.kept_bytes = 0;
    }

    /// Returns the lines that can be about an end at `now`, in order; one without a line feed is the last.
    pub fn lines(&self, now: Time) -> Vec<String> {
        let recent = |kept: &&Kept| !self.served || now.since(kept.at) <= RECENT_MS;
        let mut lines: Vec<String> = self.kept.iter().filter(recent).map(|kept| kept.text.clone()).collect();
        let mut rest = StderrTail { served: self.served, skipping: self.skipping, ..StderrTail::default() };
        lines.extend(
            rest.worth_keeping(self.readable(&self.unfinished)).map(|text| shorten(text, LINE_BYTES)),
        );
        lines
    }

    /// Returns a line as people may see it.
    fn readable(&self, line: &[u8]) -> String {
        let mut text = escape(line);
        if line.len() >= UNFINISHED_BYTES {
            // The last word is cut: a secret in it would not be known.
            let end = text.rfind(' ').unwrap_or(0);
            text.truncate(end);
            text.push_str(" …");
        }
        self.secrets.mask(&text).into_owned()
    }

    /// Returns what of a line is kept, if anything.
    fn worth_keeping(&mut self, text: String) -> Option<String> {
        if text.trim().is_empty() {
            return None;
        }
        if text.trim().eq_ignore_ascii_case("stack backtrace:") {
            self.skipping = Skipping::Backtrace;
            return None;
        }
        if self.skipping == Skipping::Backtrace && is_frame(&text) {
            return None;
        }
        if is_panic(&text) || self.skipping == Skipping::Backtrace {
            self.skipping = Skipping::Nothing;
        }
        if text.trim_start().starts_with("note: run with `RUST_BACKTRACE") {
            return None;
        }
        if !self.served {
            return Some(text);
        }
        if record(&text).is_some() {
            self.skipping = Skipping::Record;
        }
        match self.skipping {
            Skipping::Record => None,
            _ => self.without_quotes(&text),
        }
    }

    /// Returns a line without what stands between quotes; quoted text may go on in the next lines.
    fn without_quotes(&mut self, text: &str) -> Option<String> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        loop {
            if let Skipping::Quote(quote) = self.skipping {
                let Some(end) = closing(rest, quote) else { break };
                self.skipping = Skipping::Nothing;
                rest = &rest[end + quote.len_utf8()..];
            }
            let Some(start) = rest.find(['"', '`']) else {
                out.push_str(rest);
                break;
            };
            let (before, quoted) = rest.split_at(start);
            let quote = if quoted.starts_with('"') { '"' } else { '`' };
            let quoted = &quoted[1..];
            out.push_str(before);
            out.push(quote);
            match closing(quoted, quote) {
                Some(end) if quoted[..end].chars().count() <= SHORT_QUOTE => out.push_str(&quoted[..=end]),
                _ => {
                    out.push('…');
                    out.push(quote);
                    self.skipping = Skipping::Quote(quote);
                    rest = quoted;
                    continue;
                }
            }
            rest = &quoted[closing(quoted, quote)? + 1..];
        }
        (!out.trim().is_empty()).then_some(out)
    }

    fn keep(&mut self, now: Time, text: String) {
        let text = shorten(text, LINE_BYTES);
        self.kept_bytes += text.len();
        self.kept.push_back(Kept { at: now, text });
        while self.kept.len() > MAX_LINES || self.kept_bytes > MAX_BYTES {
            let Some(oldest) = self.kept.pop_front() else { return };
            self.kept_bytes -= oldest.text.len();
        }
    }
}

/// Returns one line that says most of why a program ended, of the last lines it wrote: from its last error on,
/// else its last line that is no log record, else its last record of an error.
///
/// Warnings are no reason.
pub fn summary(lines: &[String]) -> Option<String> {
    let is_warning = |line: &str| {
        let start = line.trim_start().get(..4).unwrap_or_default();
        start.eq_ignore_ascii_case("warn")
    };
    let plain = |line: &&String| record(line).is_none() && !is_warning(line);
    let text = if let Some(at) = lines.iter().rposition(|line| is_error(line)) {
        let block = lines[at..].iter().filter(plain).map(|line| line.trim());
        block.collect::<Vec<_>>().join(" ")
    } else if let Some(line) = lines.iter().rfind(plain) {
        line.trim().to_owned()
    } else {
        lines
            .iter()
            .rev()
            .filter_map(|line| record(line))
            .find(|record| record.level == "ERROR")?
            .text
            .to_owned()
    };
    Some(shorten(text, SUMMARY_BYTES))
}

/// Adds the [`summary`] of the last lines to a reason, in the same line.
pub fn explained(reason: &str, lines: &[String]) -> String {
    match summary(lines) {
        Some(summary) => format!("{reason}: {summary}"),
        None => reason.to_owned(),
    }
}

/// Returns bytes as one line that people may be shown.
pub fn printable(bytes: &[u8], max_bytes: usize) -> String {
    shorten(escape(bytes).trim().to_owned(), max_bytes)
}

/// Whether a line begins a program's own error message.
fn is_error(line: &str) -> bool {
    let line = line.trim_start();
    let word = line.get(..5).unwrap_or_default();
    word.eq_ignore_ascii_case("error") || word.eq_ignore_ascii_case("fatal") || is_panic(line)
}

/// Whether a line is the first of a panic (`std::panic`).
fn is_panic(line: &str) -> bool {
    line.starts_with("thread '") && line.contains(" panicked at ")
}

/// Whether a line is one of a backtrace (`std::backtrace::Backtrace`): `12: name`, `at file`.
fn is_frame(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("at ")
        || line.split_once(": ").is_some_and(|(number, _)| number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A line of a log in the form of `tracing_subscriber::fmt`: time, level, target, text.
struct LogRecord<'a> {
    level: &'a str,
    text: &'a str,
}

fn record(line: &str) -> Option<LogRecord<'_>> {
    let (time, rest) = line.trim_start().split_once(' ')?;
    let is_time = time.len() >= 20
        && time.bytes().take(4).all(|byte| byte.is_ascii_digit())
        && time.as_bytes()[10] == b'T';
    let (level, rest) = rest.trim_start().split_once(' ')?;
    let is_level = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level);
    let text = rest.split_once(": ").map_or(rest, |(_, text)| text);
    (is_time && is_level).then_some(LogRecord { level, text })
}

/// Finds the quote that ends a quoted text; one after a backslash does not.
fn closing(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let ends = c == quote && !escaped;
        escaped = c == '\\' && !escaped;
        ends.then_some(at)
    })
}

/// Cuts a text that is too long, and marks that.
fn shorten(mut text: String, max_bytes: usize) -> String {
    if text.len() > max_bytes {
        let end = (0..=max_bytes - '…'.len_utf8()).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Returns the text without the sequences of colours and titles, with other control characters escaped, and with
/// those that change the direction of a line.
fn escape(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.trim_end_matches('\r').chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            // ESC [ parameters letter, and ESC ] text BEL or ESC \ (ECMA-48, control sequences and strings).
            '\u{1b}' if chars.next_if_eq(&'[').is_some() => {
                let _ = chars.by_ref().find(|c| ('@'..='~').contains(c));
            }
            '\u{1b}' if chars.next_if_eq(&']').is_some() => {
                let _ = chars.by_ref().find(|c| matches!(c, '\u{7}' | '\\'));
            }
            '\t' => out.push(' '),
            _ if c.is_control() || is_direction(c) => out.extend(c.escape_default()),
            _ => out.push(c),
        }
    }
    out
}

/// Whether a character changes the direction of what follows (Unicode Standard Annex 9, explicit formatting).
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_millis(1_000);

    fn tail(text: &str) -> StderrTail {
        let mut tail = StderrTail::new(Secrets::new(["hunter22".to_owned()]));
        tail.push(NOW, text.as_bytes(), |_| {});
        tail
    }

    fn served(text: &str) -> Vec<String> {
        let mut tail = StderrTail::default();
        tail.clients_are_served();
        tail.push(NOW, text.as_bytes(), |_| {});
        tail.lines(NOW)
    }

    #[test]
    fn lines_are_whole_however_they_are_read() {
        let mut tail = StderrTail::default();
        let mut logged = Vec::new();
        for part in ["\x1b[31mERR", "OR\x1b[0m bro", "ken\x07 line\r\n\nsecond ", "line\nunfin"] {
            tail.push(NOW, part.as_bytes(), |line| logged.push(line.to_owned()));
        }
        assert_eq!(logged, ["ERROR broken\\u{7} line", "second line"]);
        assert_eq!(tail.lines(NOW), ["ERROR broken\\u{7} line", "second line", "unfin"]);
    }

    #[test]
    fn what_is_kept_is_bounded_in_lines_and_bytes() {
        let many: String = (0..100).map(|n| format!("line {n}\n")).collect();
        let lines = tail(&many).lines(NOW);
        assert_eq!((lines.len(), lines[0].as_str(), lines[19].as_str()), (MAX_LINES, "line 80", "line 99"));
        let long = format!("{}\n", "é".repeat(10_000));
        let tail = tail(&long.repeat(20));
        let lines = tail.lines(NOW);
        assert!(lines.iter().all(|line| line.len() <= LINE_BYTES && line.ends_with('…')));
        assert!(lines.iter().map(String::len).sum::<usize>() <= MAX_BYTES);
        assert!(tail.unfinished.capacity() <= 2 * UNFINISHED_BYTES);
    }

    #[test]
    fn secrets_are_masked_also_where_a_line_is_cut() {
        assert_eq!(tail("password is hunter22\n").lines(NOW), ["password is ***"]);
        let cut = format!("{} hunter22", " x".repeat((UNFINISHED_BYTES - 5) / 2));
        assert!(!tail(&cut).lines(NOW)[0].contains("hunt"));
    }

    #[test]
    fn a_backtrace_does_not_push_out_the_error() {
        let frames: String =
            (0..50).map(|n| format!("  {n}: <unknown>\n             at ./x.rs:1\n")).collect();
        let text = format!("Error: it is broken\nin `model`\n\n\nStack backtrace:\n{frames}\nafter\n");
        assert_eq!(tail(&text).lines(NOW), ["Error: it is broken", "in `model`", "after"]);
        let lines = ["Error: it is broken", "in `model`"].map(str::to_owned);
        assert_eq!(summary(&lines).unwrap(), "Error: it is broken in `model`");
    }

    #[test]
    fn the_summary_is_the_last_error_and_not_a_warning() {
        let of = |lines: &[&str]| summary(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>());
        let record =
            "2026-11-28T20:33:46.253146Z ERROR codex_app_server: Invalid configuration; using defaults.";
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["WARNING: proceeding"]), None);
        assert_eq!(of(&["WARNING: proceeding", record]).unwrap(), "Invalid configuration; using defaults.");
        assert_eq!(of(&["codex: not found", record]).unwrap(), "codex: not found");
        assert_eq!(of(&["error: a", "Error: b", "c", record]).unwrap(), "Error: b c");
        assert_eq!(of(&["thread 'main' panicked at x.rs:1:2:", "boom"]).unwrap().len(), 40);
        assert!(of(&["é".repeat(500).as_str()]).unwrap().len() <= SUMMARY_BYTES);
    }

    #[test]
    fn once_clients_are_served_their_words_are_left_out() {
        let record = "2026-11-28T20:34:44.252095Z ERROR codex_core::tools::router: error=exec `rm -rf code`";
        assert_eq!(served(&format!("{record}\nError: the second line of the record\n")), [""; 0]);
        let panic = "thread 'tokio-runtime-worker' panicked at core/src/x.rs:10:5:\n\
                     byte index 1 is not a char boundary; it is inside 'é' of `the prompt`\n\
                     note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n";
        assert_eq!(
            served(&format!("{record}\n{panic}")),
            [
                "thread 'tokio-runtime-worker' panicked at core/src/x.rs:10:5:",
                "byte index 1 is not a char boundary; it is inside 'é' of `…`"
            ]
        );
        assert_eq!(
            served("got \"the\nwhole\nprompt\" and `,`, \"a\\\"b c\" there\n"),
            ["got \"…\"", " and `,`, \"…\" there"]
        );
        // What was written before is not about the end, nor what is old.
        let mut tail = tail("WARNING: at the start\n");
        tail.clients_are_served();
        tail.push(NOW, b"Error: late\n", |_| {});
        assert_eq!(tail.lines(NOW + RECENT_MS), ["Error: late"]);
        assert_eq!(tail.lines(NOW + RECENT_MS + 1), [""; 0]);
    }
}
