//! Vectors of operations on the router: nothing panics, nothing unchecked goes up, nothing is kept.
//!
//! `cargo +nightly fuzz run router_ops`, in `proto`.
#![no_main]

use codexd_proto::id::ClientId;
use codexd_proto::json::text_check::TextCheck;
use codexd_proto::router::{Accounting, Config, Limits, Loss, Router, ShutdownNotice};
use codexd_proto::time::Time;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;

#[derive(Debug, Arbitrary)]
enum Op {
    Connect,
    Leave(u8),
    Initialize(u8),
    Client(u8, Vec<u8>),
    Request(u8, u8, String),
    Upstream(Vec<u8>),
    Answer(u8, String),
    /// A client opens a thread.
    Open(u8, u8),
    /// An item of a thread begins, or its text goes on.
    Item(u8, u8, bool, String),
    Take(u8, u16, bool),
    Pass(u16),
    Drain,
    Interrupt,
}

const METHODS: [&str; 10] = [
    "thread/start",
    "thread/resume",
    "thread/fork",
    "thread/unsubscribe",
    "thread/archive",
    "turn/start",
    "command/exec",
    "fs/watch",
    "process/spawn",
    "thread/sample/cancel",
];

fn name(thread: u8) -> String {
    format!("00000000-0000-7000-8000-00000000000{}", thread % 3)
}

fn notice() -> ShutdownNotice<'static> {
    ShutdownNotice { reason: "stop", deadline_ms: Some(1), retry_after_ms: None, intended: true }
}

fuzz_target!(|ops: Vec<Op>| {
    let limits = Limits { window: 3, deferral_ms: 100, client_queue_hard_bytes: 10_000, ..Limits::default() };
    let mut router = Router::new(Config { limits, ..Config::default() }, Time::ZERO);
    router.upstream_line(Time::ZERO, br#"{"id":0,"result":{"userAgent":"x/1 (y)"}}"#);
    let mut now = Time::ZERO;
    let mut clients: Vec<ClientId> = Vec::new();
    let mut sent = Vec::new();
    for op in ops {
        let pick = |n: u8| clients.get(usize::from(n) % clients.len().max(1)).copied();
        match op {
            Op::Connect if clients.len() < 8 => clients.push(router.client_connected(now)),
            Op::Connect => {}
            Op::Leave(n) => {
                if let Some(client) = pick(n) {
                    router.client_gone(now, client);
                    clients.retain(|c| *c != client);
                }
            }
            Op::Initialize(n) => {
                let line =
                    br#"{"id":"i","method":"initialize","params":{"clientInfo":{"name":"c","version":"1"}}}"#;
                pick(n).into_iter().for_each(|c| router.client_line(now, c, line));
            }
            Op::Client(n, line) => pick(n).into_iter().for_each(|c| router.client_line(now, c, &line)),
            Op::Request(n, method, params) => {
                let method = METHODS[usize::from(method) % METHODS.len()];
                let line = format!(r#"{{"id":{n},"method":"{method}","params":{params}}}"#);
                pick(n).into_iter().for_each(|c| router.client_line(now, c, line.as_bytes()));
            }
            Op::Upstream(line) => router.upstream_line(now, &line),
            Op::Answer(id, body) => {
                let line = format!(r#"{{"id":{id},"result":{body}}}"#).into_bytes();
                let text = TextCheck::of(&line);
                router.upstream_line_read(now, line, &text);
            }
            Op::Open(n, thread) => {
                let request = br#"{"id":"o","method":"thread/start","params":{}}"#;
                pick(n).into_iter().for_each(|c| router.client_line(now, c, request));
                // It may wait for the in-flight window, or be refused; then this is the response to something else.
                let last =
                    router.upstream_outbox().pending().rsplit(|b| *b == b'\n').nth(1).unwrap_or_default();
                if let Some(number) = last.strip_prefix(br#"{"id":"#) {
                    let digits = number.iter().take_while(|b| b.is_ascii_digit()).count();
                    let id = std::str::from_utf8(&number[..digits]).expect("digits are text");
                    let result = format!(r#"{{"thread":{{"id":"{}","turns":[]}}}}"#, name(thread));
                    let line = format!(r#"{{"id":{id},"result":{result}}}"#);
                    router.upstream_line(now, line.as_bytes());
                }
            }
            Op::Item(thread, item, begins, text) => {
                let (thread, item) = (name(thread), item % 3);
                let ids = format!(r#""threadId":"{thread}","turnId":"u","#);
                let line = if begins {
                    let body = format!(r#"{{"type":"agentMessage","id":"{item}","text":""}}"#);
                    format!(r#"{{"method":"item/started","params":{{{ids}"item":{body}}}}}"#)
                } else {
                    let method = "item/agentMessage/delta";
                    let body = format!(r#""itemId":"{item}","delta":{text}"#);
                    format!(r#"{{"method":"{method}","params":{{{ids}{body}}},"emittedAtMs":1}}"#)
                };
                router.upstream_line(now, line.as_bytes());
            }
            Op::Take(n, bytes, blocked) => {
                if let Some(client) = pick(n) {
                    let waits = router.outbox(client).map_or(0, |o| o.len());
                    router.client_written(client, waits.min(usize::from(bytes)), blocked);
                }
            }
            Op::Pass(ms) => {
                now = now + u64::from(ms);
                router.handle_timeout(now);
            }
            Op::Drain => router.begin_drain(now, &notice()),
            Op::Interrupt => router.interrupt_turns(now),
        }
        while router.poll_action().is_some() {}
        let outbox = router.upstream_outbox();
        while !outbox.is_empty() {
            let pending = outbox.pending();
            sent.extend_from_slice(pending);
            outbox.advance(pending.len(), false);
        }
        let kept = router.accounting();
        assert!(kept.window <= limits.window);
        assert_eq!(kept.subscribers, kept.subscriptions);
    }
    let loss = Loss { reason: "upstreamLost", message: "gone".into() };
    router.upstream_lost(now, loss, &notice());
    for client in clients {
        router.client_gone(now, client);
    }
    assert_eq!(router.accounting(), Accounting::default());
    for line in sent.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        // Not as a `Value`: that refuses numbers like 1e400, which codex reads and codexd passes on.
        let text = std::str::from_utf8(line).expect("only UTF-8 goes up");
        serde_json::from_str::<IgnoredAny>(text).expect("only what is checked goes up");
    }
});
