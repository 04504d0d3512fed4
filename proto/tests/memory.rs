//! How many bytes a thread takes that is remembered and not used: a daemon that has had thousands of them must stay small.
#![allow(clippy::unwrap_used)]
#![allow(unsafe_code, reason = "an allocator that counts has no safe interface")]
// What is measured must not have state of its own; the measure must.
#![allow(clippy::disallowed_macros, clippy::disallowed_types)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use codexd_proto::id::ClientId;
use codexd_proto::router::{Config, Router};
use codexd_proto::time::Time;

/// Counts the bytes that the calling thread has and has not freed.
struct Counting;

thread_local! {
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

fn count(change: impl Fn(usize) -> usize) {
    // When a thread ends, its counter is gone before its last memory is freed.
    let _ = BYTES.try_with(|bytes| bytes.set(change(bytes.get())));
}

// SAFETY: the system's allocator does the work; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(|bytes| bytes.wrapping_add(layout.size()));
        // SAFETY: passed on as it is.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(|bytes| bytes.wrapping_sub(layout.size()));
        // SAFETY: passed on as it is.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const NOW: Time = Time::ZERO;

/// Threads that are used before it is counted: tables and queues have their size then.
const BEFORE: usize = 100;

/// Threads that are counted. A table can just have grown, to twice what it needs.
const COUNTED: usize = 1_700;

/// Bytes that one may take, the table's entries and three copies of its id included.
const MOST_BYTES: usize = 650;

/// The upstream and one client.
struct World {
    router: Router,
    client: ClientId,
    requests: u64,
}

impl World {
    fn new() -> World {
        let mut router = Router::new(Config::default(), NOW);
        router.upstream_line(NOW, br#"{"id":0,"result":{"userAgent":"x/0.169.0 (x)"}}"#);
        let client = router.client_connected(NOW);
        let mut world = World { router, client, requests: 0 };
        world.request(r#""method":"initialize","params":{"clientInfo":{"name":"m","version":"1"}}"#, "{}");
        world
    }

    /// Empties all outboxes, as a shell does whose peers read everything.
    fn flush(&mut self) -> String {
        let sent = String::from_utf8(self.router.upstream_outbox().pending().to_vec()).unwrap();
        let bytes = self.router.upstream_outbox().len();
        self.router.upstream_outbox().advance(bytes, false);
        while let Some(client) = self.router.poll_dirty() {
            let bytes = self.router.outbox(client).unwrap().len();
            self.router.client_written(client, bytes, false);
        }
        while self.router.poll_action().is_some() {}
        while self.router.poll_activity().is_some() {}
        sent
    }

    /// Sends a request of the client, and answers it if it goes up.
    fn request(&mut self, members: &str, result: &str) {
        self.requests += 1;
        let line = format!(r#"{{"id":{},{members}}}"#, self.requests);
        self.router.client_line(NOW, self.client, line.as_bytes());
        let sent = self.flush();
        if let Some((_, rest)) = sent.split_once(r#"{"id":"#) {
            let id: String = rest.chars().take_while(char::is_ascii_digit).collect();
            self.line(&format!(r#"{{"id":{id},"result":{result}}}"#));
        }
    }

    fn line(&mut self, line: &str) {
        self.router.upstream_line(NOW, line.as_bytes());
        self.flush();
    }

    fn notify(&mut self, method: &str, params: &str) {
        self.line(&format!(r#"{{"method":"{method}","params":{{{params}}}}}"#));
    }

    /// A thread from its start until the upstream has closed it, with a turn.
    fn thread(&mut self, number: usize) {
        let thread = format!("0199a213-81c0-7800-8aa1-{number:012x}");
        let turn = format!("0199a213-8201-7b91-a2f5-{number:012x}");
        let of = format!(r#""threadId":"{thread}""#);
        let of_turn = format!(r#"{of},"turnId":"{turn}""#);
        self.request(
            r#""method":"thread/start","params":{"cwd":"/home/somebody/projects/one"}"#,
            &format!(
                r#"{{"thread":{{"id":"{thread}","turns":[]}},"model":"gpt-5.1-codex-max","cwd":"/home/somebody/projects/one","approvalPolicy":"on-request","sandbox":{{"type":"workspaceWrite","writableRoots":["/home/somebody/.cache"],"networkAccess":false,"excludeTmpdirEnvVar":false,"excludeSlashTmp":false}}}}"#
            ),
        );
        self.notify("thread/started", &format!(r#""thread":{{"id":"{thread}","turns":[]}}"#));
        let running = format!(r#""turn":{{"id":"{turn}","items":[],"status":"inProgress","error":null}}"#);
        self.request(
            &format!(r#""method":"turn/start","params":{{{of},"input":[{{"type":"text","text":"go"}}]}}"#),
            &format!("{{{running}}}"),
        );
        self.notify(
            "thread/status/changed",
            &format!(r#"{of},"status":{{"type":"active","activeFlags":[]}}"#),
        );
        self.notify("turn/started", &format!("{of},{running}"));
        for item in 0..3 {
            let id = format!("msg_{number}_{item}");
            let item = format!(r#""item":{{"type":"agentMessage","id":"{id}","text":"","phase":null}}"#);
            self.notify("item/started", &format!("{of_turn},{item}"));
            for _ in 0..10 {
                let delta = format!(r#"{of_turn},"itemId":"{id}","delta":" the next word""#);
                self.notify("item/agentMessage/delta", &delta);
            }
            self.notify("item/completed", &format!("{of_turn},{item}"));
        }
        let tokens = r#"{"totalTokens":10,"inputTokens":5,"cachedInputTokens":0,"outputTokens":5,"reasoningOutputTokens":0}"#;
        self.notify(
            "thread/tokenUsage/updated",
            &format!(
                r#"{of_turn},"tokenUsage":{{"total":{tokens},"last":{tokens},"modelContextWindow":1000}}"#
            ),
        );
        self.notify("thread/status/changed", &format!(r#"{of},"status":{{"type":"idle"}}"#));
        let ended = format!(r#""turn":{{"id":"{turn}","items":[],"status":"completed","error":null}}"#);
        self.notify("turn/completed", &format!("{of},{ended}"));
        self.request(
            &format!(r#""method":"thread/unsubscribe","params":{{{of}}}"#),
            r#"{"status":"unsubscribed"}"#,
        );
        self.notify("thread/status/changed", &format!(r#"{of},"status":{{"type":"notLoaded"}}"#));
        self.notify("thread/closed", &of);
    }
}

#[test]
fn a_thread_that_was_closed_takes_little_memory() {
    let mut world = World::new();
    for number in 0..BEFORE {
        world.thread(number);
    }
    let before = BYTES.get();
    for number in BEFORE..BEFORE + COUNTED {
        world.thread(number);
    }
    let kept = world.router.accounting();
    assert_eq!((kept.pending, kept.turns, kept.subscribers, kept.open_item_bytes), (0, 0, 0, 0));
    let bytes = BYTES.get().wrapping_sub(before) / COUNTED;
    assert!(bytes <= MOST_BYTES, "{bytes} bytes a thread");
}
