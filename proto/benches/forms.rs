//! How fast a message is read, whatever its form: MB/s for messages of 100 MB, one line for each form.
//!
//! One client must not hold up the others, and the router is one thread: so no form of a message may take
//! much longer than its copy. `check` is the complete check of a line, `client` is all that the router does with
//! it (up to its copy in the outbox), `upstream` the same for the other direction. `turn` is the longest time in ms that
//! others wait when a client's line is read in slices, as the daemon does.
//!
//! ```text
//! cargo bench -p codexd-proto --bench forms [-- WORD]      only the forms whose name has the word
//! FORMS_MB=10 cargo bench -p codexd-proto --bench forms    smaller messages
//! ```
#![allow(clippy::unwrap_used, clippy::print_stdout)]
// The benchmark looks at the clock and prints; what it measures must not.
#![allow(clippy::disallowed_macros, clippy::disallowed_methods, clippy::disallowed_types)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use codexd_proto::id::ClientId;
use codexd_proto::json::check;
use codexd_proto::message::Reader;
use codexd_proto::router::{Config, Router};
use codexd_proto::time::Time;

const NOW: Time = Time::ZERO;
const THREAD: &str = "0199a213-81c0-7800-8aa1-bbab2a035a53";
/// Each is measured so often that about this much is read in all; the best run counts.
const READ_BYTES: usize = 400_000_000;

/// Where the bulk of a message stands.
#[derive(Clone, Copy)]
enum Place {
    /// The value of a member of `params`.
    Value,
    /// Members of `params`.
    Params,
    /// Members of the message itself.
    Envelope,
    /// Members of `trace`.
    Trace,
}

struct Form {
    name: &'static str,
    place: Place,
    /// What the bulk is made of, before, between and after.
    open: &'static str,
    unit: &'static str,
    close: &'static str,
}

const fn form(
    name: &'static str,
    place: Place,
    open: &'static str,
    unit: &'static str,
    close: &'static str,
) -> Form {
    Form { name, place, open, unit, close }
}

const fn value(name: &'static str, open: &'static str, unit: &'static str, close: &'static str) -> Form {
    form(name, Place::Value, open, unit, close)
}

const fn params(name: &'static str, unit: &'static str) -> Form {
    form(name, Place::Params, "", unit, "")
}

/// All forms. A unit that ends with a comma is followed by `close` without one.
const FORMS: &[Form] = &[
    value("string, ASCII", "\"", "The quick brown fox jumps over it. ", "\""),
    value("string, two-byte characters", "\"", "Ærøskøbing få ñandú ", "\""),
    value("string, three-byte characters", "\"", "漢字仮名交じり文", "\""),
    value("string, four-byte characters", "\"", "😀🎉", "\""),
    value("string, short escapes", "\"", r#"\n\"\t\\"#, "\""),
    value("string, every character escaped", "\"", r"\u0041\u00e9\u6f22", "\""),
    value("string, surrogate pairs", "\"", r"\ud83d\ude00", "\""),
    value("string, an escape in every word", "\"", r"word \n", "\""),
    value(
        "source text",
        "[",
        r#"{"type":"text","text":"fn main() {\n    println!(\"hello\");\n}\n","n":[1,2.5,null]},"#,
        "0]",
    ),
    value("strings, empty", "[", "\"\",", "0]"),
    value("strings, short", "[", "\"abc\",", "0]"),
    value("integers, short", "[", "7,", "0]"),
    value("integers, long", "[", "1760000000000,", "0]"),
    value("numbers with a fraction", "[", "-3.14159,", "0]"),
    value("numbers with an exponent", "[", "1e5,", "0]"),
    value("numbers at the end of the range", "[", "1e308,", "0]"),
    value("one long number", "", "7777777777", ""),
    value("one long fraction", "0.", "7777777777", ""),
    value("words", "[", "true,false,null,", "0]"),
    value("arrays, empty", "[", "[],", "0]"),
    value("objects, empty", "[", "{},", "0]"),
    value(
        "arrays, deep",
        "[",
        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]],",
        "0]",
    ),
    value("objects, deep", "[", r#"{"a":{"b":{"c":{"d":{"e":{"f":{"g":{"h":0}}}}}}}},"#, "0]"),
    value("objects, many members", "{", "\"a\":1,", "\"\":0}"),
    value("objects, escaped names", "{", r#""\u0061\u0062":1,"#, "\"\":0}"),
    value("white space", "[", "                                                                ", "]"),
    value("white space between", "[", "1 , ", "0]"),
    params("params, short names", "\"a\":1,"),
    params("params, long names", "\"a member that nobody has ever heard of\":1,"),
    params("params, escaped names", r#""\u0061\u0062\u0063":1,"#),
    params("params, the thread again and again", r#""threadId":"0199a213-81c0-7800-8aa1-bbab2a035a53","#),
    params(
        "params, the thread in escapes",
        r#""thre\u0061dI\u0064":"0199a213-81c0-7800-8aa1-bbab2a035a53","#,
    ),
    params("params, names that are nearly gated", r#""dynamic\u0054oolz":[],"permissionz":0,"#),
    form("params, one long name", Place::Params, "\"", "abcdefghij", "\":1,"),
    form("params, one long escaped name", Place::Params, "\"", r"\u0061\u0062", "\":1,"),
    form("envelope, short names", Place::Envelope, "", "\"a\":1,", ""),
    form("envelope, escaped names", Place::Envelope, "", r#""\u0069\u0064\u0064":1,"#, ""),
    form("envelope, one long escaped name", Place::Envelope, "\"", r"\u0061\u0062", "\":1,"),
    form("trace, short names", Place::Trace, "", "\"a\":1,", ""),
    form("trace, escaped names", Place::Trace, "", r#""trace\u0070arens":1,"#, ""),
];

impl Form {
    /// A request of a client.
    fn request(&self, bytes: usize) -> Vec<u8> {
        self.message(bytes, r#"{"id":"7","method":"turn/start","#)
    }

    /// A notification of the upstream.
    fn notification(&self, bytes: usize) -> Vec<u8> {
        self.message(bytes, r#"{"method":"item/completed","#)
    }

    fn message(&self, bytes: usize, head: &str) -> Vec<u8> {
        let mut line = Vec::with_capacity(bytes + 4096);
        let mut put = |text: &str| line.extend_from_slice(text.as_bytes());
        put(head);
        match self.place {
            Place::Value => put(r#""params":{"input":"#),
            Place::Params => put(r#""params":{"#),
            Place::Envelope => {}
            Place::Trace => put(r#""trace":{"#),
        }
        put(self.open);
        for _ in 0..bytes / self.unit.len() {
            put(self.unit);
        }
        put(self.close);
        match self.place {
            Place::Value => put(&format!(r#","threadId":"{THREAD}"}}}}"#)),
            Place::Params => put(&format!(r#""threadId":"{THREAD}"}}}}"#)),
            Place::Envelope => put(&format!(r#""params":{{"threadId":"{THREAD}"}}}}"#)),
            Place::Trace => put(&format!(r#""x":0}},"params":{{"threadId":"{THREAD}"}}}}"#)),
        }
        line
    }
}

/// A router with one client that is subscribed to the thread and has no experimental interface.
fn serving() -> (Router, ClientId) {
    let mut router = Router::new(Config::default(), NOW);
    router.upstream_line(NOW, br#"{"id":0,"result":{"userAgent":"x/0.169.0 (x)"}}"#);
    let client = router.client_connected(NOW);
    let line = r#"{"id":0,"method":"initialize","params":{"clientInfo":{"name":"b","version":"1"}}}"#;
    router.client_line(NOW, client, line.as_bytes());
    let line = format!(r#"{{"id":1,"method":"thread/resume","params":{{"threadId":"{THREAD}"}}}}"#);
    router.client_line(NOW, client, line.as_bytes());
    router.upstream_line(NOW, format!(r#"{{"id":1,"result":{{"thread":{{"id":"{THREAD}"}}}}}}"#).as_bytes());
    let start =
        format!(r#"{{"method":"turn/started","params":{{"threadId":"{THREAD}","turn":{{"id":"t"}}}}}}"#);
    router.upstream_line(NOW, start.as_bytes());
    let n = router.upstream_outbox().len();
    router.upstream_outbox().advance(n, false);
    let n = router.outbox(client).unwrap().len();
    router.client_written(client, n, false);
    (router, client)
}

/// The shortest of some runs. `after` is not measured.
fn best(line: &[u8], mut run: impl FnMut() -> Duration) -> Duration {
    (0..(READ_BYTES / line.len()).max(2)).map(|_| run()).min().unwrap()
}

fn timed(work: impl FnOnce()) -> Duration {
    let (start, on_cpu) = (Instant::now(), time_on_cpu());
    work();
    let elapsed = start.elapsed();
    match (on_cpu, time_on_cpu()) {
        (Some(before), Some(after)) if elapsed > TICKS => after - before,
        _ => elapsed,
    }
}

/// Below this, the time on the clock is more exact than that on a processor.
const TICKS: Duration = Duration::from_millis(50);

/// How long this thread has run: on a machine with other work, the time on the clock says little. Only Linux
/// tells (`proc_pid_schedstat(5)`).
fn time_on_cpu() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(Duration::from_nanos(text.split(' ').next()?.parse().ok()?))
}

fn check(line: &[u8]) -> Duration {
    best(line, || {
        timed(|| {
            black_box(check::value(black_box(line)).unwrap());
        })
    })
}

fn client(line: &[u8]) -> Duration {
    best(line, || {
        let (mut router, client) = serving();
        let taken = timed(|| router.client_line(NOW, client, black_box(line)));
        let sent = router.upstream_outbox().len();
        assert!(
            sent + 8 >= line.len(),
            "{}",
            String::from_utf8_lossy(router.outbox(client).unwrap().pending())
        );
        taken
    })
}

/// The longest turn when a line is read one MiB at a time.
fn turn(line: &[u8]) -> Duration {
    best(line, || {
        let (mut router, client) = serving();
        // Something else is queued for codex, so that the line cannot just become its queue.
        router.client_line(NOW, client, br#"{"id":2,"method":"thread/list"}"#);
        let mut own = Vec::with_capacity(line.len() + 100);
        own.extend_from_slice(line);
        let mut reader = Reader::default();
        let (mut longest, mut done) = (Duration::ZERO, false);
        while !done {
            longest = longest.max(timed(|| done = reader.advance(black_box(&own), 1 << 20)));
        }
        longest.max(timed(|| router.client_line_read(NOW, client, own, reader)))
    })
}

fn upstream(line: &[u8]) -> Duration {
    best(line, || {
        let (mut router, client) = serving();
        let taken = timed(|| router.upstream_line(NOW, black_box(line)));
        assert_eq!(router.outbox(client).unwrap().len(), line.len() + 1);
        taken
    })
}

fn main() {
    let word = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let megabytes = std::env::var("FORMS_MB").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    println!("{:<40} {:>8} {:>8} {:>8}   MB/s {:>8} ms", "form", "check", "client", "upstream", "turn");
    for form in FORMS.iter().filter(|f| f.name.contains(&word)) {
        let up = form.request(megabytes * 1_000_000);
        let down = form.notification(megabytes * 1_000_000);
        let speed = |line: &[u8], taken: Duration| line.len() as f64 / 1e6 / taken.as_secs_f64();
        println!(
            "{:<40} {:>8.0} {:>8.0} {:>8.0}        {:>8.1}",
            form.name,
            speed(&up, check(&up)),
            speed(&up, client(&up)),
            speed(&down, upstream(&down)),
            turn(&up).as_secs_f64() * 1e3
        );
    }
}
