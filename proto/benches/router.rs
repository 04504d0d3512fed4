//! What one message costs: a delta on its way to 1 and 8 clients, a request there and back, and
//! looking at a line.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::time::Duration;

use codexd_proto::id::ClientId;
use codexd_proto::json::{check, scan};
use codexd_proto::message::UpstreamMessage;
use codexd_proto::router::{Config, Router};
use codexd_proto::time::Time;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const NOW: Time = Time::ZERO;
const THREAD: &str = "0199a213-81c0-7800-8aa1-bbab2a035a53";

/// A router that serves `clients` initialized clients.
fn serving(clients: usize) -> (Router, Vec<ClientId>) {
    let mut router = Router::new(Config::default(), NOW);
    router.upstream_line(NOW, br#"{"id":0,"result":{"userAgent":"x/0.169.0 (x)"}}"#);
    let clients = (0..clients)
        .map(|_| {
            let client = router.client_connected(NOW);
            let line = r#"{"id":0,"method":"initialize","params":{"clientInfo":{"name":"b","version":"1"}}}"#;
            router.client_line(NOW, client, line.as_bytes());
            client
        })
        .collect();
    (router, clients)
}

/// Empties all outboxes, as a shell does whose peers read everything.
fn flush(router: &mut Router) {
    let n = router.upstream_outbox().len();
    router.upstream_outbox().advance(n, false);
    while let Some(client) = router.poll_dirty() {
        let n = router.outbox(client).unwrap().len();
        router.client_written(client, n, false);
    }
}

/// The id of the last request that went up, counted from what the router has sent.
fn last_upstream_id(router: &mut Router) -> u64 {
    let text = router.upstream_outbox().pending();
    let at = text.windows(6).rposition(|w| w == b"{\"id\":").unwrap() + 6;
    let digits = text[at..].iter().take_while(|b| b.is_ascii_digit()).count();
    std::str::from_utf8(&text[at..at + digits]).unwrap().parse().unwrap()
}

fn delta() -> String {
    format!(
        r#"{{"method":"item/agentMessage/delta","params":{{"threadId":"{THREAD}","turnId":"0199a213-8201-7b91-a2f5-a3ecf1a0f3c4","itemId":"msg_0d1b2c3a4f","delta":" the next word"}},"emittedAtMs":1760000000000}}"#
    )
}

/// The beginning of the item that the deltas are about.
fn item_started() -> String {
    format!(
        r#"{{"method":"item/started","params":{{"item":{{"type":"agentMessage","id":"msg_0d1b2c3a4f","text":""}},"threadId":"{THREAD}","turnId":"0199a213-8201-7b91-a2f5-a3ecf1a0f3c4"}}}}"#
    )
}

fn deltas(c: &mut Criterion) {
    let mut group = c.benchmark_group("delta");
    for subscribers in [1, 8] {
        let (mut router, clients) = serving(subscribers);
        for client in &clients {
            let line = format!(r#"{{"id":1,"method":"thread/resume","params":{{"threadId":"{THREAD}"}}}}"#);
            flush(&mut router);
            router.client_line(NOW, *client, line.as_bytes());
            let id = last_upstream_id(&mut router);
            let answer = format!(r#"{{"id":{id},"result":{{"thread":{{"id":"{THREAD}"}}}}}}"#);
            router.upstream_line(NOW, answer.as_bytes());
        }
        router.upstream_line(NOW, item_started().as_bytes());
        flush(&mut router);
        let line = delta();
        router.upstream_line(NOW, line.as_bytes());
        let got = router.outbox(*clients.last().unwrap()).unwrap().len();
        assert_eq!(got, line.len() + 1, "every subscriber gets it");
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("{subscribers} subscribers"), |b| {
            b.iter(|| {
                // As a shell does: one read returns several lines, and then all clients are written to.
                router.upstream_line(NOW, black_box(line.as_bytes()));
                flush(&mut router);
            });
        });
    }
    group.finish();
}

fn round_trip(c: &mut Criterion) {
    let (mut router, clients) = serving(1);
    let request = br#"{"id":"3f0c","method":"thread/read","params":{"threadId":"0199a213-81c0-7800-8aa1-bbab2a035a53"}}"#;
    flush(&mut router);
    router.client_line(NOW, clients[0], request);
    let mut id = last_upstream_id(&mut router);
    flush(&mut router);
    let answer = |id: u64| format!(r#"{{"id":{id},"result":{{"thread":{{"id":"{THREAD}"}}}}}}"#);
    router.upstream_line(NOW, answer(id).as_bytes());
    flush(&mut router);
    let mut group = c.benchmark_group("request");
    group.throughput(Throughput::Elements(1));
    group.bench_function("there and back", |b| {
        b.iter(|| {
            router.client_line(NOW, clients[0], black_box(request));
            id += 1;
            router.upstream_line(NOW, answer(id).as_bytes());
            flush(&mut router);
        });
    });
    group.finish();
    // Every request of the loop was answered: the ids were guessed right.
    assert_eq!(router.accounting().pending, 0);
}

/// A line of about `size` bytes, with strings as people write them.
fn message(size: usize) -> Vec<u8> {
    let unit = r#"{"type":"text","text":"fn main() {\n    println!(\"hello\");\n}\n","n":[1,2.5,null]}"#;
    let content = vec![unit; size / unit.len()].join(",");
    format!(r#"{{"id":7,"method":"turn/start","params":{{"input":[{content}],"threadId":"{THREAD}"}}}}"#)
        .into_bytes()
}

fn lines(c: &mut Criterion) {
    let mut group = c.benchmark_group("line");
    for (name, size) in [("1 KiB", 1 << 10), ("1 MiB", 1 << 20)] {
        let line = message(size);
        group.throughput(Throughput::Bytes(line.len() as u64));
        group.bench_function(format!("check {name}"), |b| {
            b.iter(|| check::value(black_box(&line)).unwrap());
        });
        group.bench_function(format!("scan {name}"), |b| {
            b.iter(|| scan::member_at(black_box(&line), 0, &["params", "threadId"]).unwrap());
        });
        group.bench_function(format!("read as a message {name}"), |b| {
            b.iter(|| UpstreamMessage::read(black_box(&line)).unwrap());
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    targets = deltas, round_trip, lines
}
criterion_main!(benches);
