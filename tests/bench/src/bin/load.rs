//! Load generator. `load SCENARIO (--unix P | --ws-unix P | --stdio CMD) [options]`
//! One JSON line per scenario on stdout, a human line on stderr. See README.md.
use codexd_bench::conn::{Conn, Target};
use codexd_bench::hist::Hist;
use codexd_bench::proc::{Meter, Usage};
use codexd_bench::sys::{self, Epoll, mono_ns};
use codexd_bench::{message, proc, stamp};
use std::collections::HashMap;
use std::fmt::Write as _;

const USAGE: &str = "load SCENARIO TARGET [options]
scenarios: rtt stream fanout slow large conns mixed startup
target:    --unix PATH | --ws-unix PATH | --stdio CMD
options:
  --clients M        (rtt 1, stream 4, fanout 8, slow 8 readers, mixed 8 streamers)
  --single           all logical clients share one connection (implied by --stdio)
  --reqs N           rtt: requests in all (20000), or --secs S instead
  --method NAME      request of rtt (bench/echo; native codex: thread/loaded/list)
  --deltas N --size B --interval US    turns (10000, 64, 0)
  --sizes 1,16,64    large: MiB each
  --conns 1,100,1000 conns
  --cwd DIR          sent in thread/start
  --pid P            meter the broker (its tree; `codex`/`fakeup` children apart)
  --cmd CMD --reps R startup: how to start the broker, how often
  --timeout S        without progress (5)
  --warm                fanout: a first turn before the others resume (real codex)
  --label L --no-large --bystander --slow-kind own|sub";

#[derive(Clone)]
struct Opt {
    scenario: String,
    target: Target,
    single: bool,
    clients: Option<usize>,
    reqs: u64,
    secs: f64,
    method: String,
    deltas: u64,
    size: usize,
    interval: u64,
    sizes: Vec<usize>,
    conns: Vec<usize>,
    cwd: Option<String>,
    pid: Option<i32>,
    cmd: Option<String>,
    reps: usize,
    timeout: f64,
    label: String,
    no_large: bool,
    bystander: bool,
    slow_kind: String,
    warm: bool,
}

fn die(m: &str) -> ! {
    eprintln!("load: {m}");
    std::process::exit(2)
}

// ---- output -----------------------------------------------------------------
struct J(String, String);
impl J {
    fn new(o: &Opt) -> J {
        let mut j = J(String::from("{"), String::new());
        j.s("label", &o.label).s("scenario", &o.scenario);
        j
    }
    fn key(&mut self, k: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        let _ = write!(self.0, "\"{k}\":");
    }
    fn s(&mut self, k: &str, v: &str) -> &mut J {
        self.key(k);
        let _ = write!(self.0, "\"{}\"", v.replace('\\', "/").replace('"', "'"));
        let _ = write!(self.1, "{k}={v} ");
        self
    }
    fn n(&mut self, k: &str, v: f64) -> &mut J {
        self.key(k);
        let t = if v.fract() == 0.0 && v.abs() < 1e15 { format!("{v:.0}") } else { format!("{v:.3}") };
        self.0.push_str(&t);
        let _ = write!(self.1, "{k}={t} ");
        self
    }
    fn hist(&mut self, p: &str, h: &Hist) -> &mut J {
        if h.n > 0 {
            self.n(&format!("{p}p50_us"), h.us(0.5));
            self.n(&format!("{p}p90_us"), h.us(0.9));
            self.n(&format!("{p}p99_us"), h.us(0.99));
            self.n(&format!("{p}max_us"), h.max as f64 / 1e3);
        }
        self
    }
    fn usage(&mut self, u: &Usage, ops: u64, secs: f64) -> &mut J {
        let ops = ops.max(1) as f64;
        self.n("load_cpu_us_per_op", u.self_ns as f64 / 1e3 / ops);
        if u.has {
            self.n("cpu_us_per_op", u.cpu_ns as f64 / 1e3 / ops);
            self.n("up_cpu_us_per_op", u.up_ns as f64 / 1e3 / ops);
            self.n("cpu_pct", u.cpu_ns as f64 / 1e7 / secs.max(1e-9));
            self.n("csw_per_op", u.csw as f64 / ops);
            self.n("rss0_mb", u.rss0_kb as f64 / 1024.0);
            self.n("rss_mb", u.rss_kb as f64 / 1024.0);
            self.n("peak_mb", u.peak_kb as f64 / 1024.0);
        }
        self
    }
    fn print(&mut self) {
        self.0.push('}');
        println!("{}", self.0);
        eprintln!("  {}", self.1);
    }
}

// ---- messages ---------------------------------------------------------------
enum Ev<'a> {
    Delta { thread: &'a [u8], stamp: Option<(u32, u64)> },
    Done { thread: &'a [u8] },
    Resp { id: u64, err: bool, body: &'a [u8] },
    SReq { id: &'a [u8] },
    Other,
}

struct Finders {
    delta: memchr::memmem::Finder<'static>,
    thread: memchr::memmem::Finder<'static>,
}
impl Finders {
    fn new() -> Self {
        Finders {
            delta: memchr::memmem::Finder::new(b"\"delta\":\"@S"),
            thread: memchr::memmem::Finder::new(b"\"threadId\":\""),
        }
    }
    #[inline]
    fn ev<'a>(&self, m: &'a [u8]) -> Ev<'a> {
        const D: &[u8] = b"{\"method\":\"item/agentMessage/delta\"";
        if m.starts_with(D)
            && let Some(t) = self.thread.find(&m[D.len()..m.len().min(512)])
        {
            let t = D.len() + t + 12;
            if m.len() > t + 36 {
                let thread = &m[t..t + 36];
                // the delta is usually after the ids, but look from the start in any case
                let stamp = self
                    .delta
                    .find(&m[D.len()..m.len().min(1024)])
                    .and_then(|d| stamp::parse_stamp(&m[D.len() + d + 9..]));
                return Ev::Delta { thread, stamp };
            }
        }
        let Some(t) = message::top(m) else { return Ev::Other };
        match (t.method, t.id) {
            (Some(b"item/agentMessage/delta"), None) => {
                let p = t.params.unwrap_or(b"{}");
                Ev::Delta {
                    thread: message::get_str(p, b"threadId").unwrap_or(b""),
                    stamp: message::get_str(p, b"delta").and_then(stamp::parse_stamp),
                }
            }
            (Some(b"turn/completed"), None) => {
                Ev::Done { thread: t.params.and_then(|p| message::get_str(p, b"threadId")).unwrap_or(b"") }
            }
            (Some(_), Some(id)) => Ev::SReq { id },
            (Some(_), None) => Ev::Other,
            (None, Some(id)) => match std::str::from_utf8(id).ok().and_then(|s| s.parse().ok()) {
                Some(id) => {
                    Ev::Resp { id, err: t.error.is_some(), body: t.error.or(t.result).unwrap_or(b"{}") }
                }
                None => Ev::Other,
            },
            _ => Ev::Other,
        }
    }
}

fn is_busy(err: &[u8]) -> bool {
    message::get(err, b"code") == Some(b"-32001")
}

// ---- connections ------------------------------------------------------------
struct Pump {
    ep: Epoll,
    c: Vec<Conn>,
    reg: Vec<(bool, bool)>, // (reading, writing) registered
    evs: Vec<libc::epoll_event>,
    f: Finders,
    next_id: u64,
}

impl Pump {
    fn new() -> Pump {
        Pump {
            ep: Epoll::new(),
            c: vec![],
            reg: vec![],
            evs: vec![libc::epoll_event { events: 0, u64: 0 }; 1024],
            f: Finders::new(),
            next_id: 1 << 40,
        }
    }
    /// connected, initialized, registered for reading
    fn open(&mut self, o: &Opt, small: bool) -> Result<usize, String> {
        let i = self.connect(o, small)?;
        self.init(i)?;
        Ok(i)
    }
    fn connect(&mut self, o: &Opt, small: bool) -> Result<usize, String> {
        let c = Conn::open(&o.target, small).map_err(|e| format!("connect: {e}"))?;
        let i = self.c.len();
        self.c.push(c);
        self.reg.push((false, false));
        self.read_interest(i, true);
        Ok(i)
    }
    fn init_msg(&mut self) -> (u64, String) {
        self.next_id += 1;
        (
            self.next_id,
            format!(
                "{{\"id\":{},\"method\":\"initialize\",\"params\":{{\"clientInfo\":{{\"name\":\"bench\",\"title\":\"bench\",\"version\":\"0\"}},\"capabilities\":{{\"experimentalApi\":true}}}}}}",
                self.next_id
            ),
        )
    }
    fn init(&mut self, i: usize) -> Result<(), String> {
        let (id, m) = self.init_msg();
        self.send(i, m.as_bytes());
        self.wait_resp(i, id, 20.0)?;
        self.send(i, b"{\"method\":\"initialized\"}");
        Ok(())
    }
    fn read_interest(&mut self, i: usize, on: bool) {
        self.set(i, on, self.reg[i].1);
    }
    fn set(&mut self, i: usize, r: bool, w: bool) {
        let (r0, w0) = self.reg[i];
        if (r, w) == (r0, w0) {
            return;
        }
        let c = &self.c[i];
        let tok = i as u64;
        if c.rfd == c.wfd {
            let m = if r { sys::IN } else { 0 } | if w { sys::OUT } else { 0 };
            if !(r0 || w0) {
                self.ep.add(c.rfd, m, tok);
            } else if r || w {
                self.ep.modify(c.rfd, m, tok);
            } else {
                self.ep.del(c.rfd);
            }
        } else {
            if r != r0 {
                if r {
                    self.ep.add(c.rfd, sys::IN, tok);
                } else {
                    self.ep.del(c.rfd)
                }
            }
            if w != w0 {
                if w {
                    self.ep.add(c.wfd, sys::OUT, tok | 1 << 32);
                } else {
                    self.ep.del(c.wfd)
                }
            }
        }
        self.reg[i] = (r, w);
    }
    fn send(&mut self, i: usize, m: &[u8]) {
        self.c[i].send(m);
        self.flush(i);
    }
    fn flush(&mut self, i: usize) {
        self.c[i].flush();
        let w = self.c[i].want_write();
        let r = self.reg[i].0 && self.c[i].closed.is_none();
        self.set(i, r, w);
    }
    /// Waits, fills the readable connections' buffers, returns them.
    fn wait(&mut self, timeout_ms: i32, ready: &mut Vec<usize>) {
        ready.clear();
        let n = self.ep.wait(&mut self.evs, timeout_ms);
        for k in 0..n {
            let e = self.evs[k];
            let tok = e.u64;
            if tok == u64::MAX {
                continue; // timer
            }
            let i = (tok & 0xffff_ffff) as usize;
            if e.events & sys::OUT != 0 || tok >> 32 != 0 {
                self.flush(i);
            }
            if tok >> 32 == 0 && self.reg[i].0 && e.events & !sys::OUT != 0 {
                self.c[i].fill();
                if self.c[i].closed.is_some() {
                    self.set(i, false, false);
                }
                ready.push(i);
            }
        }
    }
    fn wait_resp(&mut self, i: usize, id: u64, secs: f64) -> Result<Vec<u8>, String> {
        let end = mono_ns() + (secs * 1e9) as u64;
        loop {
            while let Some(s) = self.c[i].next_message() {
                if let Ev::Resp { id: got, err, body } = self.f.ev(self.c[i].msg(s))
                    && got == id
                {
                    return if err {
                        Err(String::from_utf8_lossy(body).into_owned())
                    } else {
                        Ok(body.to_vec())
                    };
                }
            }
            if let Some(c) = &self.c[i].closed {
                return Err(format!("closed: {c}"));
            }
            if mono_ns() > end {
                return Err("timeout".into());
            }
            let ev = libc::POLLIN
                | if self.c[i].rfd == self.c[i].wfd && self.c[i].want_write() { libc::POLLOUT } else { 0 };
            sys::poll1(self.c[i].rfd, ev, if self.c[i].want_write() { 1 } else { 100 });
            self.flush(i);
            self.c[i].fill();
        }
    }
    fn call(&mut self, i: usize, method: &str, params: &str) -> Result<Vec<u8>, String> {
        let mut tries = 0;
        loop {
            self.next_id += 1;
            let id = self.next_id;
            self.send(i, format!("{{\"id\":{id},\"method\":\"{method}\",\"params\":{params}}}").as_bytes());
            match self.wait_resp(i, id, 30.0) {
                Err(e) if e.contains("-32001") && tries < 2000 => {
                    tries += 1;
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                r => return r,
            }
        }
    }
    fn thread_start(&mut self, i: usize, o: &Opt) -> Result<Vec<u8>, String> {
        let p = match &o.cwd {
            Some(d) => format!("{{\"cwd\":\"{d}\"}}"),
            None => "{}".into(),
        };
        let r = self.call(i, "thread/start", &p)?;
        message::get(&r, b"thread")
            .and_then(|t| message::get_str(t, b"id"))
            .map(|x| x.to_vec())
            .ok_or_else(|| "thread/start: no id".into())
    }
}

// ---- subscriptions to turns ---------------------------------------------------
struct Sub {
    n: u64,
    want: u32,
    got: u64,
    dup: u64,
    reorder: u64,
    unstamped: u64,
    seen: Vec<u64>,
    done: bool,
    rejected: bool,
}
#[derive(Default)]
struct Streams {
    subs: Vec<Sub>,
    map: HashMap<usize, Vec<(u64, usize)>>,
    lat: Hist,
    stray: u64,
    deliveries: u64,
    last_ns: u64,
    open: usize,
}
fn key(t: &[u8]) -> u64 {
    if t.len() >= 8 { u64::from_ne_bytes(t[t.len() - 8..].try_into().unwrap()) } else { 0 }
}
impl Streams {
    fn add(&mut self, conn: usize, thread: &[u8], n: u64, watched: bool) -> usize {
        let k = self.subs.len();
        self.subs.push(Sub {
            n,
            want: 0,
            got: 0,
            dup: 0,
            reorder: 0,
            unstamped: 0,
            seen: vec![0; n as usize / 64 + 1],
            done: false,
            rejected: false,
        });
        self.map.entry(conn).or_default().push((key(thread), k));
        if watched {
            self.open += 1;
        }
        k
    }
    #[inline]
    fn find(&self, conn: usize, thread: &[u8]) -> Option<usize> {
        let k = key(thread);
        self.map.get(&conn)?.iter().find(|x| x.0 == k).map(|x| x.1)
    }
    #[inline]
    fn delta(&mut self, conn: usize, thread: &[u8], stamp: Option<(u32, u64)>, now: u64) {
        let Some(k) = self.find(conn, thread) else {
            self.stray += 1;
            return;
        };
        let s = &mut self.subs[k];
        let Some((seq, ns)) = stamp else {
            s.unstamped += 1;
            return;
        };
        let (w, b) = (seq as usize / 64, 1u64 << (seq % 64));
        if w < s.seen.len() && s.seen[w] & b == 0 {
            s.seen[w] |= b;
            s.got += 1;
        } else {
            s.dup += 1;
        }
        if seq < s.want {
            s.reorder += 1;
        } else {
            s.want = seq + 1;
        }
        self.lat.add(now.saturating_sub(ns));
        self.deliveries += 1;
        self.last_ns = now;
    }
    fn finish(&mut self, k: usize, now: u64) {
        if !self.subs[k].done {
            self.subs[k].done = true;
            self.open = self.open.saturating_sub(1);
            self.last_ns = now;
        }
    }
    fn loss(&self) -> u64 {
        self.subs.iter().filter(|s| !s.rejected).map(|s| s.n - s.got.min(s.n)).sum()
    }
    fn sum(&self, f: impl Fn(&Sub) -> u64) -> u64 {
        self.subs.iter().map(f).sum()
    }
    fn report(&self, j: &mut J, secs: f64, bytes: u64) {
        j.n("secs", secs)
            .n("deliveries", self.deliveries as f64)
            .n("per_s", self.deliveries as f64 / secs)
            .n("mb_s", bytes as f64 / 1e6 / secs)
            .n("loss", self.loss() as f64)
            .n("reorder", self.sum(|s| s.reorder) as f64)
            .n("dup", self.sum(|s| s.dup) as f64)
            .n("stray", self.stray as f64)
            .n("unstamped", self.sum(|s| s.unstamped) as f64)
            .n("rejected", self.sum(|s| s.rejected as u64) as f64)
            .n("unfinished", self.sum(|s| !s.done as u64) as f64)
            .hist("lat_", &self.lat);
    }
}

fn turn_msg(id: u64, thread: &[u8], text: &str) -> Vec<u8> {
    format!(
        "{{\"id\":{id},\"method\":\"turn/start\",\"params\":{{\"threadId\":\"{}\",\"input\":[{{\"type\":\"text\",\"text\":\"{text}\"}}]}}}}",
        String::from_utf8_lossy(thread)
    )
    .into_bytes()
}
fn marker(n: u64, size: usize, interval: u64) -> String {
    format!("[[deltas:{n}:{size}:{interval}]]")
}

/// Reads everything until all watched subscriptions are done (or nothing comes for `timeout`).
/// `ids`: request id of each turn/start -> its subscription.
fn drive(p: &mut Pump, st: &mut Streams, ids: &HashMap<u64, usize>, timeout: f64) -> u64 {
    let mut ready = vec![];
    let mut bytes = 0u64;
    let mut last = mono_ns();
    while st.open > 0 {
        p.wait(50, &mut ready);
        let now = mono_ns();
        for &i in &ready {
            let before = p.c[i].bytes_in;
            let _ = before;
            while let Some(s) = p.c[i].next_message() {
                bytes += (s.1 - s.0) as u64 + 1;
                let Pump { f, c, .. } = &*p;
                let m = c[i].msg(s);
                match f.ev(m) {
                    Ev::Delta { thread, stamp } => st.delta(i, thread, stamp, now),
                    Ev::Done { thread } => {
                        if let Some(k) = st.find(i, thread) {
                            st.finish(k, now);
                        }
                    }
                    Ev::Resp { id, err: true, body } => {
                        if let Some(&k) = ids.get(&id) {
                            if std::env::var("BENCH_DEBUG").is_ok() {
                                eprintln!("turn/start: {}", String::from_utf8_lossy(body));
                            }
                            st.subs[k].rejected = true;
                            st.finish(k, now);
                        }
                    }
                    Ev::SReq { id } => {
                        let a = format!(
                            "{{\"id\":{},\"result\":{{\"decision\":\"accept\"}}}}",
                            String::from_utf8_lossy(id)
                        );
                        p.c[i].send(a.as_bytes());
                    }
                    _ => {}
                }
            }
            if p.c[i].want_write() {
                p.flush(i);
            }
            if p.c[i].closed.is_some() {
                // its watched subscriptions are over
                let ks: Vec<usize> =
                    st.map.get(&i).map(|v| v.iter().map(|x| x.1).collect()).unwrap_or_default();
                for k in ks {
                    if !st.subs[k].done {
                        st.open = st.open.saturating_sub(1);
                        st.subs[k].done = true;
                        st.subs[k].unstamped += 0;
                        eprintln!("  connection {i} closed: {:?}", p.c[i].closed);
                    }
                }
            }
        }
        if !ready.is_empty() {
            last = now;
        } else if now - last > (timeout * 1e9) as u64 {
            break;
        }
    }
    bytes
}

// ---- scenarios ----------------------------------------------------------------
fn ops_usage(j: &mut J, m: &Meter, ops: u64, secs: f64) {
    let u = m.stop();
    j.usage(&u, ops, secs);
}

fn rtt(o: &Opt) -> Result<(), String> {
    let l = o.clients.unwrap_or(1);
    let mut p = Pump::new();
    let nconn = if o.single { 1 } else { l };
    for _ in 0..nconn {
        p.open(o, false)?;
    }
    let msg = |id: u64| format!("{{\"id\":{id},\"method\":\"{}\",\"params\":{{}}}}", o.method).into_bytes();
    let mut h = Hist::default();
    let (mut busy, mut errs, mut ok) = (0u64, 0u64, 0u64);
    let m;
    let t0;
    let secs;
    if l == 1 {
        // blocking read/write: nothing but the two syscalls on our side
        let c = &mut p.c[0];
        sys::nonblock(c.rfd, false);
        sys::nonblock(c.wfd, false);
        let mut one = |p: &mut Pump, id: u64| -> Result<u64, String> {
            let m = msg(id);
            let a = mono_ns();
            p.c[0].send(&m);
            p.c[0].flush();
            loop {
                while let Some(s) = p.c[0].next_message() {
                    if let Ev::Resp { id: got, err, body } = p.f.ev(p.c[0].msg(s))
                        && got == id
                    {
                        let b = mono_ns();
                        if err && is_busy(body) {
                            busy += 1
                        } else if err {
                            errs += 1
                        } else {
                            ok += 1
                        }
                        return Ok(b - a);
                    }
                }
                if let Some(c) = &p.c[0].closed {
                    return Err(format!("closed: {c}"));
                }
                p.c[0].fill();
            }
        };
        for k in 0..1000 {
            one(&mut p, 1 + k)?;
        }
        m = Meter::start(o.pid);
        t0 = mono_ns();
        for k in 0..o.reqs {
            let d = one(&mut p, 10_000 + k)?;
            h.add(d);
            if o.secs > 0.0 && (mono_ns() - t0) as f64 / 1e9 > o.secs {
                break;
            }
        }
        secs = (mono_ns() - t0) as f64 / 1e9;
        ok = ok.saturating_sub(1000);
    } else {
        let mut sent = vec![0u64; l];
        let limit = if o.secs > 0.0 { u64::MAX } else { o.reqs };
        let mut started = 0u64;
        m = Meter::start(o.pid);
        t0 = mono_ns();
        for (k, s) in sent.iter_mut().enumerate() {
            *s = mono_ns();
            p.c[if o.single { 0 } else { k }].send(&msg(k as u64));
            started += 1;
        }
        for i in 0..nconn {
            p.flush(i);
        }
        let mut inflight = l;
        let mut ready = vec![];
        let mut last = mono_ns();
        while inflight > 0 {
            p.wait(100, &mut ready);
            let now = mono_ns();
            let over = o.secs > 0.0 && (now - t0) as f64 / 1e9 > o.secs;
            if ready.is_empty() && (now - last) as f64 / 1e9 > o.timeout {
                errs += inflight as u64;
                break;
            }
            if !ready.is_empty() {
                last = now;
            }
            for &i in &ready {
                while let Some(s) = p.c[i].next_message() {
                    let Ev::Resp { id, err, body } = p.f.ev(p.c[i].msg(s)) else { continue };
                    let k = (id % l as u64) as usize;
                    if err && is_busy(body) {
                        busy += 1;
                    } else {
                        if err {
                            errs += 1
                        } else {
                            ok += 1
                        }
                        h.add(now - sent[k]);
                        sent[k] = now;
                    }
                    if over || started >= limit {
                        inflight -= 1;
                    } else {
                        if !err || !is_busy(body) {
                            started += 1;
                        }
                        let x = msg(id + l as u64);
                        p.c[i].send(&x);
                    }
                }
                p.flush(i);
                if p.c[i].closed.is_some() {
                    return Err(format!("closed: {:?}", p.c[i].closed));
                }
            }
        }
        secs = (mono_ns() - t0) as f64 / 1e9;
    }
    let mut j = J::new(o);
    j.n("clients", l as f64).n("reqs", ok as f64).n("secs", secs).n("per_s", ok as f64 / secs);
    j.hist("", &h).n("busy", busy as f64).n("errors", errs as f64);
    ops_usage(&mut j, &m, ok, secs);
    j.print();
    Ok(())
}

fn open_clients(p: &mut Pump, o: &Opt, m: usize) -> Result<Vec<usize>, String> {
    let mut v = vec![];
    for k in 0..m {
        v.push(if o.single && k > 0 { 0 } else { p.open(o, false)? });
    }
    Ok(v)
}

fn stream(o: &Opt) -> Result<(), String> {
    let mcl = o.clients.unwrap_or(4);
    let mut p = Pump::new();
    let cl = open_clients(&mut p, o, mcl)?;
    let mut st = Streams::default();
    let mut ids = HashMap::new();
    let mut msgs = vec![];
    for (k, &c) in cl.iter().enumerate() {
        let th = p.thread_start(c, o)?;
        let s = st.add(c, &th, o.deltas, true);
        ids.insert(k as u64 + 1, s);
        msgs.push((c, turn_msg(k as u64 + 1, &th, &marker(o.deltas, o.size, o.interval))));
    }
    let m = Meter::start(o.pid);
    let t0 = mono_ns();
    for (c, x) in &msgs {
        p.c[*c].send(x);
    }
    for i in 0..p.c.len() {
        p.flush(i);
    }
    let bytes = drive(&mut p, &mut st, &ids, o.timeout);
    let secs = (st.last_ns.max(t0 + 1) - t0) as f64 / 1e9;
    let mut j = J::new(o);
    j.n("clients", mcl as f64)
        .n("deltas", o.deltas as f64)
        .n("size", o.size as f64)
        .n("interval_us", o.interval as f64);
    st.report(&mut j, secs, bytes);
    ops_usage(&mut j, &m, st.deliveries, secs);
    j.print();
    Ok(())
}

fn fanout(o: &Opt) -> Result<(), String> {
    let k = o.clients.unwrap_or(8);
    let mut p = Pump::new();
    let mut o2 = o.clone();
    o2.single = false;
    let cl = open_clients(&mut p, &o2, k)?;
    let th = p.thread_start(cl[0], o)?;
    let ths = String::from_utf8_lossy(&th).into_owned();
    if o.warm {
        // the real codex can only resume a thread that has had a turn
        let mut w = Streams::default();
        w.add(cl[0], &th, 1, true);
        p.send(cl[0], &turn_msg(1, &th, &marker(1, 32, 0)));
        drive(&mut p, &mut w, &HashMap::from([(1u64, 0usize)]), o.timeout);
    }
    let mut st = Streams::default();
    st.add(cl[0], &th, o.deltas, true);
    for &c in &cl[1..] {
        p.call(c, "thread/resume", &format!("{{\"threadId\":\"{ths}\"}}"))?;
        st.add(c, &th, o.deltas, true);
    }
    let ids = HashMap::from([(2u64, 0usize)]);
    let m = Meter::start(o.pid);
    let t0 = mono_ns();
    p.send(cl[0], &turn_msg(2, &th, &marker(o.deltas, o.size, o.interval)));
    let bytes = drive(&mut p, &mut st, &ids, o.timeout);
    let secs = (st.last_ns.max(t0 + 1) - t0) as f64 / 1e9;
    let mut j = J::new(o);
    j.n("clients", k as f64)
        .n("deltas", o.deltas as f64)
        .n("size", o.size as f64)
        .n("interval_us", o.interval as f64);
    st.report(&mut j, secs, bytes);
    ops_usage(&mut j, &m, st.deliveries, secs);
    j.print();
    Ok(())
}

/// One phase of `slow`: `n` readers and one more client that reads (or never does).
/// Returns (seconds until the readers are done, streams, what became of the slow one, usage).
fn slow_phase(o: &Opt, n: usize, opts_out: bool) -> Result<(f64, Streams, String, Usage, u64, f64), String> {
    let mut p = Pump::new();
    let cl = open_clients(&mut p, &Opt { single: false, ..o.clone() }, n + 1)?;
    let slow = cl[n];
    let mut st = Streams::default();
    let mut ids = HashMap::new();
    let mut msgs = vec![];
    let mut slow_subs = vec![];
    for (k, &c) in cl[..n].iter().enumerate() {
        let th = p.thread_start(c, o)?;
        let s = st.add(c, &th, o.deltas, true);
        ids.insert(k as u64 + 1, s);
        msgs.push((c, turn_msg(k as u64 + 1, &th, &marker(o.deltas, o.size, o.interval))));
        if o.slow_kind == "sub" {
            p.call(slow, "thread/resume", &format!("{{\"threadId\":\"{}\"}}", String::from_utf8_lossy(&th)))?;
            slow_subs.push(st.add(slow, &th, o.deltas, !opts_out));
        }
    }
    if o.slow_kind == "own" {
        let th = p.thread_start(slow, o)?;
        let s = st.add(slow, &th, o.deltas, !opts_out);
        slow_subs.push(s);
        ids.insert(n as u64 + 1, s);
        // the big one: 1 KiB deltas, so that its backlog outgrows any socket buffer
        msgs.push((slow, turn_msg(n as u64 + 1, &th, &marker(o.deltas, o.size.max(1024), o.interval))));
    }
    if opts_out {
        p.read_interest(slow, false);
    }
    let m = Meter::start(o.pid);
    let t0 = mono_ns();
    for (c, x) in &msgs {
        p.c[*c].send(x);
    }
    for i in 0..p.c.len() {
        p.flush(i);
        if opts_out && i == slow {
            p.set(i, false, p.c[i].want_write());
        }
    }
    drive(&mut p, &mut st, &ids, o.timeout);
    let secs = (st.last_ns.max(t0 + 1) - t0) as f64 / 1e9;
    std::thread::sleep(std::time::Duration::from_millis(300));
    let u = m.stop();
    // what happened to the slow one: drain it now
    let mut fate = "reads".to_string();
    let mut drained = 0;
    if opts_out {
        st.open = slow_subs.len();
        p.read_interest(slow, true);
        let a = mono_ns();
        drained = drive(&mut p, &mut st, &ids, 1.5);
        let got: u64 = slow_subs.iter().map(|&k| st.subs[k].got).sum();
        let want: u64 = slow_subs.iter().map(|&k| st.subs[k].n).sum();
        fate = match &p.c[slow].closed {
            Some(c) => format!("disconnected ({c}) after {got}/{want}"),
            None if got == want => "kept, lossless".into(),
            None => format!("kept, got {got}/{want}"),
        };
        let _ = a;
    }
    // the readers' loss only
    let mut loss = 0.0;
    for (k, s) in st.subs.iter().enumerate() {
        if !slow_subs.contains(&k) {
            loss += (s.n - s.got.min(s.n)) as f64;
        }
    }
    Ok((secs, st, fate, u, drained, loss))
}

fn slow(o: &Opt) -> Result<(), String> {
    let n = o.clients.unwrap_or(8);
    let (a, _sa, _, ua, _, la) = slow_phase(o, n, false)?;
    let (b, sb, fate, ub, drained, lb) = slow_phase(o, n, true)?;
    let total = n as u64 * o.deltas;
    let mut j = J::new(o);
    j.s("kind", &o.slow_kind).n("clients", n as f64).n("deltas", o.deltas as f64);
    j.n("secs_without", a).n("secs_with", b).n("slowdown", b / a);
    j.n("loss_without", la).n("loss_with", lb).n("done_with", if lb == 0.0 { 1.0 } else { 0.0 });
    j.s("slow_fate", &fate).n("slow_drained_mb", drained as f64 / 1e6);
    j.n("lat_p99_us", sb.lat.us(0.99));
    j.n("peak_without_mb", ua.peak_kb as f64 / 1024.0);
    j.usage(&ub, total, b);
    j.print();
    Ok(())
}

fn large(o: &Opt) -> Result<(), String> {
    for &mib in &o.sizes {
        let mut p = Pump::new();
        let big = p.open(o, false)?;
        let by = if o.bystander && !o.single { Some(p.open(o, false)?) } else { None };
        p.c[big].keep = true;
        let th = p.thread_start(big, o)?;
        let size = mib << 20;
        let mut j = J::new(o);
        j.n("mib", mib as f64);
        let mut m = Meter::start(o.pid);
        let mut t00 = mono_ns();
        // bystander: closed loop of small requests while the large one is under way
        let mut byh = Hist::default();
        let mut ms_all: [Vec<f64>; 2] = [vec![], vec![]];
        let mut all_ok = [true, true];
        let reps = if o.reps == 10 { 5 } else { o.reps };
        // the first round only warms the buffers of both ends
        for rep in 0..=reps {
            if rep == 1 {
                m = Meter::start(o.pid);
                t00 = mono_ns();
                byh = Hist::default();
                ms_all = [vec![], vec![]];
            }
            for (ph, phase) in ["req", "notif"].into_iter().enumerate() {
                let msg = if phase == "req" {
                    let mut v = b"{\"id\":7,\"method\":\"bench/echo\",\"params\":{\"pad\":\"".to_vec();
                    v.resize(v.len() + size, b'x');
                    v.extend_from_slice(b"\"}}");
                    v
                } else {
                    turn_msg(8, &th, &marker(1, size, 0))
                };
                let mut bid = 1u64 << 32;
                let mut bt = mono_ns();
                if let Some(b) = by {
                    p.send(
                        b,
                        format!("{{\"id\":{bid},\"method\":\"bench/echo\",\"params\":{{}}}}").as_bytes(),
                    );
                }
                let t0 = mono_ns();
                p.send(big, &msg);
                let mut ready = vec![];
                let mut fin: Option<u64> = None;
                let mut ok = true;
                let mut last = mono_ns();
                let mut by_open = by.is_some();
                while fin.is_none() || by_open {
                    p.wait(50, &mut ready);
                    let now = mono_ns();
                    if !ready.is_empty() {
                        last = now
                    } else if (now - last) as f64 / 1e9 > o.timeout.max(10.0) {
                        return Err(format!("large {phase} {mib} MiB: timeout"));
                    }
                    for &i in &ready {
                        let mut again = false;
                        while let Some(s) = p.c[i].next_message() {
                            let mm = p.c[i].msg(s);
                            let l = mm.len();
                            match p.f.ev(mm) {
                                Ev::Resp { id: 7, err, body } => {
                                    fin = Some(now);
                                    let got = message::get(body, b"echo")
                                        .and_then(|x| std::str::from_utf8(x).ok()?.parse::<usize>().ok())
                                        .unwrap_or(0);
                                    ok = !err && got >= size && got < size + 64;
                                    if err {
                                        eprintln!(
                                            "large: {}",
                                            String::from_utf8_lossy(&body[..body.len().min(200)])
                                        );
                                    }
                                }
                                Ev::Delta { .. } if phase == "notif" => {
                                    fin = Some(mono_ns());
                                    ok = l > size;
                                }
                                Ev::Resp { id, .. } if id == bid && Some(i) == by => {
                                    byh.add(now - bt);
                                    if fin.is_none() {
                                        bid += 1;
                                        again = true;
                                    } else {
                                        by_open = false;
                                    }
                                }
                                _ => {}
                            }
                        }
                        if again {
                            bt = mono_ns();
                            p.send(
                                i,
                                format!("{{\"id\":{bid},\"method\":\"bench/echo\",\"params\":{{}}}}")
                                    .as_bytes(),
                            );
                        }
                        if p.c[i].closed.is_some() {
                            return Err(format!("large {phase} {mib} MiB: closed {:?}", p.c[i].closed));
                        }
                    }
                }
                ms_all[ph].push((fin.unwrap() - t0) as f64 / 1e6);
                all_ok[ph] &= ok;
                // let the turn end
                let t = mono_ns();
                while phase == "notif" && mono_ns() - t < 20_000_000 {
                    p.wait(5, &mut ready);
                    for &i in &ready {
                        while p.c[i].next_message().is_some() {}
                    }
                }
            }
        }
        let secs = (mono_ns() - t00) as f64 / 1e9;
        for (ph, phase) in ["req", "notif"].into_iter().enumerate() {
            ms_all[ph].sort_by(f64::total_cmp);
            let ms = ms_all[ph][ms_all[ph].len() / 2];
            j.n(&format!("{phase}_ms"), ms)
                .n(&format!("{phase}_mb_s"), size as f64 / 1e3 / ms)
                .n(&format!("{phase}_ok"), all_ok[ph] as u8 as f64);
        }
        j.hist("by_", &byh);
        // per MiB moved (a request and a notification each time)
        ops_usage(&mut j, &m, 2 * (mib * reps) as u64, secs);
        j.print();
    }
    Ok(())
}

fn conns(o: &Opt) -> Result<(), String> {
    for &c in &o.conns {
        let mut p = Pump::new();
        let m = Meter::start(o.pid);
        let t0 = mono_ns();
        let mut done = 0;
        let mut h = Hist::default();
        while done < c {
            let wave = (c - done).min(100);
            let mut ids = vec![];
            let a = mono_ns();
            for _ in 0..wave {
                let i = p.connect(o, true)?;
                let (id, msg) = p.init_msg();
                p.send(i, msg.as_bytes());
                ids.push((i, id));
            }
            for (i, id) in ids {
                p.wait_resp(i, id, 20.0)?;
                h.add(mono_ns() - a);
                p.send(i, b"{\"method\":\"initialized\"}");
            }
            done += wave;
        }
        let secs = (mono_ns() - t0) as f64 / 1e9;
        // settle
        let _ = p.call(0, &o.method, "{}");
        std::thread::sleep(std::time::Duration::from_millis(500));
        let u = m.stop();
        let mut r = Hist::default();
        for _ in 0..2000 {
            let a = mono_ns();
            p.call(0, &o.method, "{}")?;
            r.add(mono_ns() - a);
        }
        let mut j = J::new(o);
        j.n("conns", c as f64).n("secs", secs).n("per_s", c as f64 / secs);
        if u.has {
            j.n("kb_per_conn", (u.rss_kb as f64 - u.rss0_kb as f64) / c as f64);
        }
        j.n("rtt_p50_us", r.us(0.5)).n("rtt_p99_us", r.us(0.99));
        j.usage(&u, c as u64, secs);
        j.print();
        drop(p);
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    Ok(())
}

/// Streams at a steady pace, a shared thread, small requests at a fixed rate, and a 1 MiB
/// request now and then: what a busy working day looks like.
fn mixed(o: &Opt) -> Result<(), String> {
    let s = o.clients.unwrap_or(8);
    let secs_run = if o.secs > 0.0 { o.secs } else { 3.0 };
    let interval = if o.interval > 0 { o.interval } else { 1000 };
    let n = (secs_run * 1e6 / interval as f64) as u64;
    let (askers, rate, extra) = (4usize, 500.0, if o.single { 0 } else { 4 });
    let mut p = Pump::new();
    let cl = open_clients(&mut p, o, s)?;
    let asks = open_ask(&mut p, o, askers)?;
    let bigc = if o.single { 0 } else { p.open(o, false)? };
    let mut st = Streams::default();
    let mut msgs = vec![];
    let mut ids = HashMap::new();
    let mut th0 = vec![];
    for (k, &c) in cl.iter().enumerate() {
        let th = p.thread_start(c, o)?;
        if k == 0 {
            th0 = th.clone();
        }
        let sub = st.add(c, &th, n, true);
        ids.insert(k as u64 + 1, sub);
        msgs.push((c, turn_msg(k as u64 + 1, &th, &marker(n, o.size, interval))));
    }
    for _ in 0..extra {
        let c = p.open(o, false)?;
        p.call(c, "thread/resume", &format!("{{\"threadId\":\"{}\"}}", String::from_utf8_lossy(&th0)))?;
        st.add(c, &th0, n, true);
    }
    let big = {
        let mut v =
            format!("{{\"id\":{},\"method\":\"bench/echo\",\"params\":{{\"pad\":\"", 1u64 << 50).into_bytes();
        v.resize(v.len() + (1 << 20), b'x');
        v.extend_from_slice(b"\"}}");
        v
    };
    let tfd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK) };
    let step = (1e9 / (rate * askers as f64)) as u64;
    let its = libc::itimerspec {
        it_interval: libc::timespec { tv_sec: 0, tv_nsec: step as i64 },
        it_value: libc::timespec { tv_sec: 0, tv_nsec: step as i64 },
    };
    unsafe { libc::timerfd_settime(tfd, 0, &its, std::ptr::null_mut()) };
    p.ep.add(tfd, sys::IN, u64::MAX);
    let m = Meter::start(o.pid);
    let t0 = mono_ns();
    for (c, x) in &msgs {
        p.send(*c, x);
    }
    let mut due = t0 + step;
    let mut kth = 0u64;
    let mut sent: HashMap<u64, u64> = HashMap::new();
    let mut h = Hist::default();
    let mut bigh = Hist::default();
    let mut big_at = t0 + 50_000_000;
    let mut big_sent = None;
    let (mut errs, mut bytes) = (0u64, 0u64);
    let mut ready = vec![];
    let end = t0 + ((secs_run + 0.0) * 1e9) as u64;
    let mut last = t0;
    let mut buf8 = [0u8; 8];
    while st.open > 0 || !sent.is_empty() {
        p.wait(50, &mut ready);
        let _ = sys::read(tfd, &mut buf8);
        let now = mono_ns();
        while due <= now && now < end {
            let id = (1u64 << 41) + kth;
            sent.insert(id, due.max(t0));
            let c = asks[kth as usize % asks.len()];
            p.send(c, format!("{{\"id\":{id},\"method\":\"{}\",\"params\":{{}}}}", o.method).as_bytes());
            kth += 1;
            due += step;
        }
        if !o.no_large && big_sent.is_none() && big_at <= now && now < end {
            big_sent = Some(now);
            p.send(bigc, &big);
        }
        for &i in &ready {
            while let Some(sp) = p.c[i].next_message() {
                bytes += (sp.1 - sp.0) as u64 + 1;
                match p.f.ev(p.c[i].msg(sp)) {
                    Ev::Delta { thread, stamp } => st.delta(i, thread, stamp, now),
                    Ev::Done { thread } => {
                        if let Some(k) = st.find(i, thread) {
                            st.finish(k, now)
                        }
                    }
                    Ev::Resp { id, err, .. } => {
                        if id == 1 << 50 {
                            if let Some(t) = big_sent.take() {
                                bigh.add(now - t);
                                big_at = now + 100_000_000;
                            }
                        } else if let Some(t) = sent.remove(&id) {
                            h.add(now.saturating_sub(t));
                            errs += err as u64;
                        } else if err && let Some(&k) = ids.get(&id) {
                            st.subs[k].rejected = true;
                            st.finish(k, now);
                        }
                    }
                    _ => {}
                }
            }
            if p.c[i].closed.is_some() {
                return Err(format!("closed: {:?}", p.c[i].closed));
            }
        }
        if !ready.is_empty() {
            last = now;
        } else if (now - last) as f64 / 1e9 > o.timeout {
            break;
        }
    }
    let secs = (mono_ns() - t0) as f64 / 1e9;
    unsafe { libc::close(tfd) };
    let mut j = J::new(o);
    j.n("clients", s as f64).n("interval_us", interval as f64);
    st.report(&mut j, secs, bytes);
    j.n("reqs", h.n as f64)
        .hist("rtt_", &h)
        .hist("big_", &bigh)
        .n("errors", errs as f64)
        .n("unanswered", sent.len() as f64);
    ops_usage(&mut j, &m, st.deliveries + h.n, secs);
    j.print();
    Ok(())
}
fn open_ask(p: &mut Pump, o: &Opt, n: usize) -> Result<Vec<usize>, String> {
    let mut v = vec![];
    for _ in 0..n {
        v.push(if o.single { 0 } else { p.open(o, false)? });
    }
    Ok(v)
}

/// From exec to the first `initialize` answer; the processes' memory then.
fn startup(o: &Opt) -> Result<(), String> {
    use std::os::unix::process::CommandExt;
    let mut h = Hist::default();
    let mut hc = Hist::default();
    let (mut rss, mut up_rss) = (0, 0);
    for _ in 0..o.reps {
        let path = match &o.target {
            Target::Unix(p) | Target::WsUnix(p) => Some(p.clone()),
            Target::Stdio(_) => None,
        };
        if let Some(p) = &path {
            let _ = std::fs::remove_file(p);
        }
        let t0 = mono_ns();
        let mut ch = match &o.cmd {
            Some(c) if path.is_some() => Some(
                std::process::Command::new("/bin/sh")
                    .arg("-c")
                    .arg(format!("exec {c}"))
                    .stdin(std::process::Stdio::null())
                    .stdout(std::process::Stdio::null())
                    .stderr(std::process::Stdio::null())
                    .process_group(0)
                    .spawn()
                    .map_err(|e| e.to_string())?,
            ),
            _ => None,
        };
        let mut p = Pump::new();
        loop {
            match p.connect(o, true) {
                Ok(_) => break,
                Err(_) if mono_ns() - t0 < 30_000_000_000 => {
                    std::thread::sleep(std::time::Duration::from_micros(100));
                    if let Some(c) = &mut ch
                        && let Ok(Some(s)) = c.try_wait()
                    {
                        return Err(format!("the broker exited: {s}"));
                    }
                }
                Err(e) => return Err(e),
            }
        }
        hc.add(mono_ns() - t0);
        let r = p.init(0).and_then(|_| p.call(0, &o.method, "{}"));
        let dt = mono_ns() - t0;
        h.add(dt);
        let pid =
            ch.as_ref().map(|c| c.id() as i32).or(p.c[0].child.as_ref().map(|c| c.id() as i32)).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(200));
        let t = proc::tree(pid);
        if path.is_some() {
            rss = t.broker.iter().filter_map(|&p| proc::rss_kb(p)).sum::<u64>();
            up_rss = t.up.iter().filter_map(|&p| proc::rss_kb(p)).sum::<u64>();
        } else {
            up_rss = proc::rss_kb(pid).unwrap_or(0);
        }
        drop(p);
        if let Some(mut c) = ch {
            unsafe { libc::kill(c.id() as i32, libc::SIGTERM) };
            let t = mono_ns();
            while mono_ns() - t < 3_000_000_000 {
                if let Ok(Some(_)) = c.try_wait() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            let _ = c.kill();
            let _ = c.wait();
        }
        r?;
    }
    let mut j = J::new(o);
    j.n("reps", o.reps as f64).n("connect_ms", hc.q(0.5) as f64 / 1e6).n("ready_ms", h.q(0.5) as f64 / 1e6);
    j.n("ready_max_ms", h.max as f64 / 1e6)
        .n("rss_mb", rss as f64 / 1024.0)
        .n("up_rss_mb", up_rss as f64 / 1024.0);
    j.print();
    Ok(())
}

fn main() {
    sys::ignore_sigpipe();
    sys::timer_slack_1ns();
    sys::keep_memory();
    let mut a = std::env::args().skip(1);
    let scenario = a.next().unwrap_or_else(|| die(USAGE));
    let mut o = Opt {
        scenario,
        target: Target::Unix(String::new()),
        single: false,
        clients: None,
        reqs: 20_000,
        secs: 0.0,
        method: "bench/echo".into(),
        deltas: 10_000,
        size: 64,
        interval: 0,
        sizes: vec![1, 16, 64],
        conns: vec![1, 100, 1000],
        cwd: None,
        pid: None,
        cmd: None,
        reps: 10,
        timeout: 5.0,
        label: "-".into(),
        no_large: false,
        bystander: false,
        slow_kind: "own".into(),
        warm: false,
    };
    let mut have = false;
    while let Some(k) = a.next() {
        let mut v = || a.next().unwrap_or_else(|| die(&format!("{k}: a value is missing")));
        fn num<T: std::str::FromStr>(s: String) -> T {
            s.parse().unwrap_or_else(|_| die(&format!("not a number: {s}")))
        }
        fn list(s: String) -> Vec<usize> {
            s.split(',').map(|x| num(x.to_string())).collect()
        }
        match k.as_str() {
            "--unix" => (o.target, have) = (Target::Unix(v()), true),
            "--ws-unix" => (o.target, have) = (Target::WsUnix(v()), true),
            "--stdio" => {
                (o.target, have) = (Target::Stdio(v()), true);
                o.single = true;
            }
            "--single" => o.single = true,
            "--clients" => o.clients = Some(num(v())),
            "--reqs" => o.reqs = num(v()),
            "--secs" => o.secs = num(v()),
            "--method" => o.method = v(),
            "--deltas" => o.deltas = num(v()),
            "--size" => o.size = num(v()),
            "--interval" => o.interval = num(v()),
            "--sizes" => o.sizes = list(v()),
            "--conns" => o.conns = list(v()),
            "--cwd" => o.cwd = Some(v()),
            "--pid" => o.pid = Some(num(v())),
            "--cmd" => o.cmd = Some(v()),
            "--reps" => o.reps = num(v()),
            "--timeout" => o.timeout = num(v()),
            "--label" => o.label = v(),
            "--warm" => o.warm = true,
            "--no-large" => o.no_large = true,
            "--bystander" => o.bystander = true,
            "--slow-kind" => o.slow_kind = v(),
            _ => die(&format!("unknown option {k}\n{USAGE}")),
        }
    }
    if !have {
        die(USAGE);
    }
    let r = match o.scenario.as_str() {
        "rtt" => rtt(&o),
        "stream" => stream(&o),
        "fanout" => fanout(&o),
        "slow" => slow(&o),
        "large" => large(&o),
        "conns" => conns(&o),
        "mixed" => mixed(&o),
        "startup" => startup(&o),
        _ => die(USAGE),
    };
    if let Err(e) = r {
        let mut j = J::new(&o);
        j.s("error", &e.chars().take(200).collect::<String>());
        j.print();
        std::process::exit(1);
    }
}
