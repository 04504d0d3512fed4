//! Fake upstream: stands in for the `codex` executable (`codex app-server`).
//!
//! Single thread, non-blocking stdout, batch writes, flush whenever input drains.
//! The prompt text of `turn/start` steers the turn:
//!   [[deltas:N:size:interval_us]]  N deltas of `size` bytes, one each interval (0 = flat out)
//!   [[approve]]                    ask for a command approval first and wait for the answer
//! Env: FAKEUP_QUANTUM = deltas of one turn in a row when flat out (default 1: worst case
//! for a router), FAKEUP_START_MS = delay before the first answer.
use codexd_bench::{message, stamp, sys};
use memchr::memchr;
use std::collections::HashMap;
use std::io::ErrorKind::WouldBlock;

const HIGH: usize = 64 << 10;

struct Turn {
    thread: String,
    turn: String,
    item: String,
    prefix: Vec<u8>,
    pad: Vec<u8>,
    n: u64,
    seq: u64,
    interval: u64,
    next: u64,
    /// waits for the answer to this server request
    gate: Option<u64>,
    interrupted: bool,
}

struct Up {
    out: Vec<u8>,
    pos: usize,
    turns: Vec<Turn>,
    loaded: Vec<String>,
    ids: u64,
    salt: u64,
    quantum: usize,
    served: HashMap<String, u64>,
    inited: bool,
}

fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d049bb133111eb);
    x ^ (x >> 31)
}

impl Up {
    fn uuid(&mut self) -> String {
        self.ids += 1;
        let ms =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
        let r = mix(self.salt ^ self.ids);
        let q = mix(r);
        format!(
            "{:08x}-{:04x}-7{:03x}-{:04x}-{:012x}",
            (ms >> 16) & 0xffff_ffff,
            ms & 0xffff,
            r & 0xfff,
            0x8000 | (r >> 12) & 0x3fff,
            q & 0xffff_ffff_ffff
        )
    }
    fn put(&mut self, s: &str) {
        self.out.extend_from_slice(s.as_bytes());
    }
    fn result(&mut self, id: &[u8], body: &str) {
        self.put("{\"id\":");
        self.out.extend_from_slice(id);
        self.put(",\"result\":");
        self.put(body);
        self.put("}\n");
    }
    fn error(&mut self, id: &[u8], code: i32, msg: &str) {
        self.put("{\"id\":");
        self.out.extend_from_slice(id);
        self.put(&format!(",\"error\":{{\"code\":{code},\"message\":\"{msg}\"}}}}\n"));
    }
    fn thread_json(id: &str) -> String {
        format!(
            "{{\"id\":\"{id}\",\"sessionId\":\"{id}\",\"preview\":\"\",\"ephemeral\":false,\"modelProvider\":\"fake\",\
             \"createdAt\":1,\"updatedAt\":1,\"status\":{{\"type\":\"idle\"}},\"path\":null,\"cwd\":\"/\",\
             \"cliVersion\":\"0.169.0\",\"source\":\"appServer\",\"gitInfo\":null,\"name\":null,\"turns\":[]}}"
        )
    }
    fn line(&mut self, l: &[u8]) {
        let Some(t) = message::top(l) else {
            if !l.iter().all(u8::is_ascii_whitespace) {
                eprintln!("fakeup: bad line of {} bytes", l.len());
            }
            return;
        };
        let Some(method) = t.method else {
            // answer to a server request
            if let Some(n) = t.id.and_then(|i| std::str::from_utf8(i).ok()?.parse::<u64>().ok()) {
                let mut done = None;
                for x in &mut self.turns {
                    if x.gate == Some(n) {
                        x.gate = None;
                        x.next = sys::mono_ns();
                        done = Some(x.thread.clone());
                    }
                }
                if let Some(th) = done {
                    self.put(&format!(
                        "{{\"method\":\"serverRequest/resolved\",\"params\":{{\"threadId\":\"{th}\",\"requestId\":{n}}}}}\n"
                    ));
                }
            }
            return;
        };
        let Some(id) = t.id else { return };
        let params = t.params.unwrap_or(b"{}");
        let th =
            || String::from_utf8_lossy(message::get_str(params, b"threadId").unwrap_or(b"")).into_owned();
        match method {
            b"bench/echo" => {
                // the hot one: no formatting machinery
                self.put("{\"id\":");
                self.out.extend_from_slice(id);
                self.put(",\"result\":{\"echo\":");
                let mut d = [0u8; 20];
                let (mut i, mut v) = (20, params.len());
                loop {
                    i -= 1;
                    d[i] = b'0' + (v % 10) as u8;
                    v /= 10;
                    if v == 0 {
                        break;
                    }
                }
                self.out.extend_from_slice(&d[i..]);
                self.put("}}\n");
            }
            b"initialize" => {
                if self.inited {
                    return self.error(id, -32600, "Already initialized");
                }
                self.inited = true;
                let home = std::env::var("CODEX_HOME").unwrap_or("/fake/.codex".into());
                self.result(
                    id,
                    &format!(
                        "{{\"userAgent\":\"fakeup/0.169.0 (Linux; x86_64)\",\"codexHome\":\"{home}\",\"platformFamily\":\"unix\",\"platformOs\":\"linux\"}}"
                    ),
                )
            }
            b"thread/start" => {
                let u = self.uuid();
                self.loaded.push(u.clone());
                let tj = Self::thread_json(&u);
                self.result(
                    id,
                    &format!("{{\"thread\":{tj},\"model\":\"fake\",\"modelProvider\":\"fake\",\"cwd\":\"/\",\"approvalPolicy\":\"never\",\"sandbox\":{{\"type\":\"readOnly\"}},\"reasoningEffort\":null}}"),
                );
                self.put(&format!("{{\"method\":\"thread/started\",\"params\":{{\"thread\":{tj}}}}}\n"));
            }
            b"thread/resume" => {
                let th = th();
                if th.is_empty() {
                    return self.error(id, -32600, "no threadId");
                }
                if !self.loaded.contains(&th) {
                    self.loaded.push(th.clone());
                }
                let tj = Self::thread_json(&th);
                self.result(
                    id,
                    &format!(
                        "{{\"thread\":{tj},\"model\":\"fake\",\"modelProvider\":\"fake\",\"cwd\":\"/\"}}"
                    ),
                );
            }
            b"thread/unsubscribe" => {
                let th = th();
                let had = self.loaded.iter().position(|x| *x == th);
                let s = if let Some(i) = had {
                    self.loaded.remove(i);
                    "unsubscribed"
                } else {
                    "notLoaded"
                };
                self.result(id, &format!("{{\"status\":\"{s}\"}}"));
                if had.is_some() {
                    // The real one does that, too, some time later.
                    self.put(&format!(
                        "{{\"method\":\"thread/closed\",\"params\":{{\"threadId\":\"{th}\"}}}}\n"
                    ));
                }
            }
            b"thread/loaded/list" => {
                let l: Vec<String> = self.loaded.iter().map(|x| format!("\"{x}\"")).collect();
                self.result(id, &format!("{{\"data\":[{}],\"nextCursor\":null}}", l.join(",")))
            }
            b"turn/start" => {
                let th = th();
                let d = stamp::deltas(params).unwrap_or(stamp::Deltas { n: 3, size: 32, interval_us: 0 });
                *self.served.entry(th.clone()).or_default() += 1;
                let (turn, item) = (self.uuid(), format!("msg_{:016x}", mix(self.salt ^ !self.ids)));
                self.result(
                    id,
                    &format!("{{\"turn\":{{\"id\":\"{turn}\",\"items\":[],\"status\":\"inProgress\",\"error\":null}}}}"),
                );
                self.put(&format!(
                    "{{\"method\":\"turn/started\",\"params\":{{\"threadId\":\"{th}\",\"turn\":{{\"id\":\"{turn}\",\"items\":[],\"status\":\"inProgress\",\"error\":null}}}}}}\n"
                ));
                // As codex does: a broker may keep the text of items that have begun.
                self.put(&format!(
                    "{{\"method\":\"item/started\",\"params\":{{\"item\":{{\"type\":\"agentMessage\",\"id\":\"{item}\",\"text\":\"\",\"phase\":null}},\"threadId\":\"{th}\",\"turnId\":\"{turn}\"}}}}\n"
                ));
                let mut gate = None;
                if memchr::memmem::find(params, b"[[approve]]").is_some() {
                    self.ids += 1;
                    gate = Some(self.ids);
                    self.put(&format!(
                        "{{\"id\":{},\"method\":\"item/commandExecution/requestApproval\",\"params\":{{\"threadId\":\"{th}\",\"turnId\":\"{turn}\",\"itemId\":\"{item}\",\"command\":\"true\",\"cwd\":\"/\"}}}}\n",
                        self.ids
                    ));
                }
                let prefix = format!(
                    "{{\"method\":\"item/agentMessage/delta\",\"params\":{{\"threadId\":\"{th}\",\"turnId\":\"{turn}\",\"itemId\":\"{item}\",\"delta\":\""
                );
                let mut pad = vec![b'x'; d.size.saturating_sub(stamp::STAMP)];
                pad.extend_from_slice(b"\"}}\n");
                self.turns.push(Turn {
                    thread: th,
                    turn,
                    item,
                    prefix: prefix.into_bytes(),
                    pad,
                    n: d.n,
                    seq: 0,
                    interval: d.interval_us * 1000,
                    next: sys::mono_ns(),
                    gate,
                    interrupted: false,
                });
            }
            b"turn/interrupt" => {
                let th = th();
                for x in self.turns.iter_mut().filter(|x| x.thread == th) {
                    x.interrupted = true;
                }
                self.result(id, "{}")
            }
            _ => {
                let n = params.len();
                self.result(id, &format!("{{\"echo\":{n}}}"))
            }
        }
    }

    #[inline]
    fn delta(out: &mut Vec<u8>, t: &mut Turn) {
        out.extend_from_slice(&t.prefix);
        stamp::put_stamp(out, t.seq as u32, sys::mono_ns());
        out.extend_from_slice(&t.pad);
        t.seq += 1;
    }

    fn finish(&mut self, i: usize) {
        let t = self.turns.swap_remove(i);
        let st = if t.interrupted { "interrupted" } else { "completed" };
        self.put(&format!(
            "{{\"method\":\"item/completed\",\"params\":{{\"threadId\":\"{0}\",\"turnId\":\"{1}\",\"item\":{{\"type\":\"agentMessage\",\"id\":\"{2}\",\"text\":\"{3} deltas\",\"phase\":\"final_answer\"}}}}}}\n\
             {{\"method\":\"turn/completed\",\"params\":{{\"threadId\":\"{0}\",\"turn\":{{\"id\":\"{1}\",\"items\":[],\"status\":\"{st}\",\"error\":null}}}}}}\n",
            t.thread, t.turn, t.item, t.seq
        ));
    }

    /// Emits what is due; returns ns until the next paced delta (None: nothing paced),
    /// and whether flat-out work remains.
    fn generate(&mut self) -> (Option<u64>, bool) {
        if self.turns.is_empty() {
            return (None, false);
        }
        let mut nap = None;
        let mut more = false;
        let now = sys::mono_ns();
        // paced first
        let mut i = 0;
        while i < self.turns.len() {
            let t = &mut self.turns[i];
            if t.gate.is_none() && t.interval > 0 {
                while t.seq < t.n && t.next <= now && !t.interrupted && self.out.len() - self.pos < 4 * HIGH {
                    Self::delta(&mut self.out, t);
                    t.next += t.interval;
                }
            }
            if t.interrupted || (t.gate.is_none() && t.seq >= t.n) {
                self.finish(i);
                continue;
            }
            if t.gate.is_none() && t.interval > 0 {
                let d = t.next.saturating_sub(now);
                nap = Some(nap.map_or(d, |x: u64| x.min(d)));
            }
            i += 1;
        }
        // flat out: round robin until the buffer is full
        let mut live: Vec<usize> = (0..self.turns.len())
            .filter(|&i| self.turns[i].interval == 0 && self.turns[i].gate.is_none())
            .collect();
        let mut ended = vec![];
        while !live.is_empty() && self.out.len() - self.pos < HIGH {
            let mut k = 0;
            while k < live.len() {
                let t = &mut self.turns[live[k]];
                for _ in 0..self.quantum {
                    if t.seq >= t.n {
                        break;
                    }
                    Self::delta(&mut self.out, t);
                }
                if t.seq >= t.n {
                    ended.push(live.swap_remove(k));
                } else {
                    k += 1;
                }
            }
        }
        more |= !live.is_empty();
        ended.sort_unstable();
        for i in ended.into_iter().rev() {
            self.finish(i);
        }
        (nap, more)
    }

    /// false: stdout is gone
    fn flush(&mut self) -> bool {
        while self.pos < self.out.len() {
            match sys::write(1, &self.out[self.pos..]) {
                Ok(n) => self.pos += n,
                Err(e) if e.kind() == WouldBlock => break,
                Err(_) => return false,
            }
        }
        if self.pos == self.out.len() {
            self.out.clear();
            self.pos = 0;
        } else if self.pos > 1 << 20 {
            self.out.drain(..self.pos);
            self.pos = 0;
        }
        true
    }
}

fn main() {
    if std::env::args().any(|a| a == "--version" || a == "-V") {
        println!("codex-cli 0.169.0");
        return;
    }
    sys::ignore_sigpipe();
    sys::timer_slack_1ns();
    sys::keep_memory();
    let env = |k: &str| std::env::var(k).ok().and_then(|v| v.parse::<u64>().ok());
    if let Some(ms) = env("FAKEUP_START_MS") {
        std::thread::sleep(std::time::Duration::from_millis(ms));
    }
    sys::nonblock(1, true);
    let mut up = Up {
        out: Vec::with_capacity(4 * HIGH),
        pos: 0,
        turns: vec![],
        loaded: vec![],
        ids: 0,
        salt: mix(std::process::id() as u64 ^ sys::mono_ns()),
        quantum: env("FAKEUP_QUANTUM").unwrap_or(1).max(1) as usize,
        served: HashMap::new(),
        inited: false,
    };
    let mut buf = vec![0u8; 256 << 10];
    let (mut head, mut tail, mut scan) = (0usize, 0usize, 0usize);
    let mut eof = false;
    loop {
        let pending = up.out.len() - up.pos;
        let (nap, more) = if pending < HIGH { up.generate() } else { (None, true) };
        if !up.flush() {
            return;
        }
        let pending = up.out.len() - up.pos;
        if eof {
            return;
        }
        // wait: stdin always (unless a lot is queued), stdout when something is queued
        let idle = pending == 0 && !more && nap.is_none();
        let mut readable = idle;
        if !idle {
            let mut p = [
                libc::pollfd {
                    fd: if pending < 256 << 20 { 0 } else { -1 },
                    events: libc::POLLIN,
                    revents: 0,
                },
                libc::pollfd { fd: if pending > 0 { 1 } else { -1 }, events: libc::POLLOUT, revents: 0 },
            ];
            let ts;
            let tp = if more && pending < HIGH {
                ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
                &ts as *const _
            } else if let Some(n) = nap {
                ts = libc::timespec {
                    tv_sec: (n / 1_000_000_000) as i64,
                    tv_nsec: (n % 1_000_000_000) as i64,
                };
                &ts as *const _
            } else {
                std::ptr::null()
            };
            unsafe { libc::ppoll(p.as_mut_ptr(), 2, tp, std::ptr::null()) };
            readable = p[0].revents & (libc::POLLIN | libc::POLLHUP | libc::POLLERR) != 0;
            if p[1].revents & (libc::POLLERR | libc::POLLHUP) != 0 && p[1].revents & libc::POLLOUT == 0 {
                return;
            }
        }
        if !readable {
            continue;
        }
        if tail == buf.len() {
            if head > 0 {
                buf.copy_within(head..tail, 0);
                tail -= head;
                scan -= head;
                head = 0;
            }
            if tail == buf.len() {
                sys::grow(&mut buf);
            }
        }
        match sys::read(0, &mut buf[tail..]) {
            Ok(0) => {
                eof = true;
            }
            Ok(n) => {
                tail += n;
                while let Some(k) = memchr(b'\n', &buf[scan..tail]) {
                    let e = scan + k;
                    // the line borrows buf, not up
                    let (s, e2) = (head, e);
                    up.line(&buf[s..e2]);
                    head = e + 1;
                    scan = head;
                }
                scan = tail;
                if head == tail {
                    head = 0;
                    tail = 0;
                    scan = 0;
                }
            }
            Err(e) if e.kind() == WouldBlock => {
                sys::poll1(0, libc::POLLIN, -1);
            }
            Err(_) => return,
        }
    }
}
