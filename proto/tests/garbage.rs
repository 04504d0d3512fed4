//! No bytes of a peer make the router panic, and no malformed ones reach the upstream.
#![allow(clippy::unwrap_used)]
// `clippy.toml` is for the decisions; this test names the seed that failed.
#![allow(clippy::disallowed_macros)]

use codexd_proto::id::ClientId;
use codexd_proto::json::text_check::TextCheck;
use codexd_proto::router::{Config, Limits, Loss, Router, ShutdownNotice};
use codexd_proto::time::Time;

/// What the upstream may write; `@` stands for a request's id.
const DOWN: [&str; 24] = [
    r#"{"id":@,"result":{"thread":{"id":"t","status":{"type":"active"},"turns":[{"id":"u","status":"inProgress"}]}}}"#,
    r#"{"id":@,"result":{"thread":{"id":"s","status":{"type":"idle"},"turns":[]}}}"#,
    r#"{"id":@,"result":{"turn":{"id":"u","status":"inProgress","items":[],"error":null}}}"#,
    r#"{"id":@,"result":{"userAgent":"x/1 (y)"}}"#,
    r#"{"error":{"code":-32600,"message":"no \"1:p\" nor 1:w"},"id":@}"#,
    r#"{"method":"thread/status/changed","params":{"threadId":"t","status":{"type":"active"}}}"#,
    r#"{"method":"thread/status/changed","params":{"threadId":"t","status":{"type":"idle"}}}"#,
    r#"{"method":"thread/closed","params":{"threadId":"t"}}"#,
    r#"{"method":"turn/started","params":{"threadId":"t","turn":{"id":"u","items":[],"status":"inProgress"}}}"#,
    r#"{"method":"turn/completed","params":{"threadId":"t","turn":{"id":"u","items":[],"status":"failed"}}}"#,
    r#"{"method":"item/completed","params":{"threadId":"t","item":{"type":"agentMessage","phase":"final_answer"}}}"#,
    r#"{"method":"item/agentMessage/delta","params":{"threadId":"t","delta":"\u00e9 \"}{"},"emittedAtMs":1}"#,
    r#"{"method":"item/agentMessage/delta","params":{"threadId":"new","delta":"x"}}"#,
    r#"{"method":"item/commandExecution/requestApproval","id":0,"params":{"threadId":"t","additionalPermissions":{"a":[1]},"b":1}}"#,
    r#"{"method":"currentTime/read","id":1,"params":{"threadId":"t"}}"#,
    r#"{"method":"account/chatgptAuthTokens/refresh","id":2,"params":{}}"#,
    r#"{"method":"serverRequest/resolved","params":{"threadId":"t","requestId":0}}"#,
    r#"{"method":"thread/tokenUsage/updated","params":{"threadId":"t","turnId":"u"}}"#,
    r#"{"method":"process/exited","params":{"processHandle":"1:h","exitCode":0}}"#,
    r#"{"method":"fs/changed","params":{"watchId":"1:w","path":[]}}"#,
    r#"{"method":"configWarning","params":{"summary":"s"}}"#,
    r#"{"method":"account/rateLimits/updated","params":{}}"#,
    r#"{"method":"deprecationNotice","params":{"summary":"s"}}"#,
    r#"{"method":"newer/method","params":{"threadId":"t"}}"#,
];

/// What clients may send; `@` stands for an id.
const UP: [&str; 16] = [
    r#"{"id":@,"method":"initialize","params":{"clientInfo":{"name":"c","version":"1"},"capabilities":{"experimentalApi":true,"optOutNotificationMethods":["x"]}}}"#,
    r#"{"id":@,"method":"thread/start","params":{"approvalPolicy":{"granular":{}}}}"#,
    r#"{"id":"@","method":"thread/resume","params":{"threadId":"t","path":null}}"#,
    r#"{"id":@,"method":"thread/fork","params":{"threadId":"t","excludeTurns":true}}"#,
    r#"{"id":@,"method":"thread/unsubscribe","params":{"threadId":"00000000-0000-7000-8000-000000000001"}}"#,
    r#"{"id":@,"method":"thread/archive","params":{"threadId":"t"}}"#,
    r#"{"id":@,"method":"turn/start","params":{"threadId":"t","input":[{"type":"text","text":"\ud83d\ude00"}]}}"#,
    r#"{"id":@,"method":"command/exec","params":{ "command":["ls"] }}"#,
    r#"{"id":@,"method":"command/exec","params":{"processId":"p","tty":true,"processId":"q"}}"#,
    r#"{"id":@,"method":"fs/watch","params":{"watchId":"w"}}"#,
    r#"{"id":@,"method":"process/spawn","params":{"processHandle":"h\u0041"}}"#,
    r#"{"id":@,"method":"thread/sample/cancel","params":{"requestId":@}}"#,
    r#"{"id":0,"result":{"decision":"accept"}}"#,
    r#"{"error":{"code":1,"message":"m"},"id":1}"#,
    r#"{"method":"initialized"}"#,
    r#"{"id":@,"method":"broker/status"}"#,
];

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// Changes a few bytes, most of the time.
fn mutated(random: &mut Random, line: &str, id: usize) -> Vec<u8> {
    const BYTES: &[u8] = b"{}[]\",:\\u0123eE+-.tfn \x00\xc3\xa9d8:";
    let mut line = line.replace('@', &id.to_string()).into_bytes();
    let times = if random.below(3) == 0 { 1 + random.below(4) } else { 0 };
    for _ in 0..times {
        if line.is_empty() {
            break;
        }
        let at = random.below(line.len());
        match random.below(5) {
            0 => line[at] = BYTES[random.below(BYTES.len())],
            1 => line.insert(at, BYTES[random.below(BYTES.len())]),
            2 => line.truncate(at),
            3 => {
                let end = (at + random.below(20)).min(line.len());
                line.drain(at..end);
            }
            _ => drop(line.remove(at)),
        }
    }
    line.retain(|b| *b != b'\n');
    line
}

fn run(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let limits = Limits { window: 4, deferral_ms: 50, window_release_ms: 40, ..Limits::default() };
    let mut router = Router::new(Config { limits, ..Config::default() }, Time::ZERO);
    let mut clients: Vec<ClientId> = (0..3).map(|_| router.client_connected(Time::ZERO)).collect();
    let mut sent = Vec::new();
    for step in 0..200 {
        let now = Time::from_millis(step);
        match random.below(12) {
            0..=4 => {
                let line = UP[random.below(UP.len())];
                let id = random.below(8);
                let line = mutated(&mut random, line, id);
                router.client_line(now, clients[random.below(clients.len())], &line);
            }
            5..=9 => {
                let line = DOWN[random.below(DOWN.len())];
                let id = random.below(step as usize / 3 + 1);
                let line = mutated(&mut random, line, id);
                if line.len().is_multiple_of(2) {
                    router.upstream_line(now, &line);
                } else {
                    let text = TextCheck::of(&line);
                    router.upstream_line_read(now, line, &text);
                }
            }
            10 if random.below(4) == 0 => {
                let at = random.below(clients.len());
                router.client_gone(now, clients[at]);
                clients[at] = router.client_connected(now);
            }
            _ => router.handle_timeout(now),
        }
        let outbox = router.upstream_outbox();
        while !outbox.is_empty() {
            let pending = outbox.pending();
            sent.extend_from_slice(pending);
            outbox.advance(pending.len(), false);
        }
        while router.poll_action().is_some() {}
        let kept = router.accounting();
        assert_eq!(kept.subscribers, kept.subscriptions);
        assert!(kept.window <= 4);
    }
    let loss = Loss { reason: "upstreamLost", message: "gone".into() };
    let notice =
        ShutdownNotice { reason: "gone", deadline_ms: Some(0), retry_after_ms: None, intended: false };
    router.upstream_lost(Time::from_millis(1_000), loss, &notice);
    for client in clients {
        router.client_gone(Time::from_millis(1_000), client);
    }
    assert_eq!(router.accounting(), codexd_proto::router::Accounting::default());
    for line in sent.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        let value: serde_json::Value = serde_json::from_slice(line)
            .unwrap_or_else(|e| panic!("sent up: {e}: {}", String::from_utf8_lossy(line)));
        assert!(value.is_object());
    }
}

#[test]
fn no_bytes_of_a_peer_make_the_router_panic_or_reach_the_upstream_unread() {
    for seed in 0..3_000 {
        if let Err(panic) = std::panic::catch_unwind(|| run(seed)) {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
