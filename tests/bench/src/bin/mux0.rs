//! Reference multiplexer: the least that a broker must do, and nothing else.
//!
//!   mux0 --socket PATH [--pipe BYTES] [--limit BYTES] -- CMD...
//!
//! One thread, epoll, copies. Requests: find the id, replace it, remember whose it was.
//! Answers: put the id back. Notifications: find the thread id, append the line to each
//! subscriber's buffer; one write per client per batch. A client with more than --limit
//! queued is dropped. No validation, no approvals, no errors: it bounds what is possible,
//! it is not a broker.
use codexd_bench::message;
use codexd_bench::sys::{self, Epoll, IN, OUT};
use memchr::{memchr, memmem};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io::ErrorKind::WouldBlock;
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

#[derive(Default)]
struct Tail(u64);
impl Hasher for Tail {
    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0x9e3779b97f4a7c15)
    }
    fn write(&mut self, b: &[u8]) {
        if b.len() >= 8 {
            self.0 ^= u64::from_ne_bytes(b[b.len() - 8..].try_into().unwrap());
        }
    }
    fn write_usize(&mut self, _: usize) {}
}

struct Client {
    fd: i32,
    gen_: u32,
    buf: Vec<u8>,
    head: usize,
    tail: usize,
    scan: usize,
    out: Vec<u8>,
    pos: usize,
    dirty: bool,
    w: bool,
    threads: Vec<Vec<u8>>,
}
struct Pending {
    client: usize,
    gen_: u32,
    id: Vec<u8>,
    start: bool,
}

struct Mux {
    ep: Epoll,
    cl: Vec<Option<Client>>,
    free: Vec<usize>,
    pend: Vec<Pending>,
    pfree: Vec<usize>,
    subs: HashMap<Vec<u8>, Vec<usize>, BuildHasherDefault<Tail>>,
    up: i32,
    uout: Vec<u8>,
    upos: usize,
    uw: bool,
    dirty: Vec<usize>,
    init: Vec<u8>,
    limit: usize,
    gen_: u32,
    over: Vec<usize>,
}
const UPR: u64 = u64::MAX;
const UPW: u64 = u64::MAX - 1;
const LIS: u64 = u64::MAX - 2;

fn out_flush(fd: i32, out: &mut Vec<u8>, pos: &mut usize) -> Result<bool, ()> {
    while *pos < out.len() {
        match sys::write(fd, &out[*pos..]) {
            Ok(n) => *pos += n,
            Err(e) if e.kind() == WouldBlock => {
                if *pos > 1 << 20 && *pos > out.len() / 2 {
                    out.drain(..*pos);
                    *pos = 0;
                }
                return Ok(false);
            }
            Err(_) => return Err(()),
        }
    }
    out.clear();
    *pos = 0;
    if out.capacity() > 1 << 20 {
        *out = Vec::new();
    }
    Ok(true)
}

impl Mux {
    fn mark(&mut self, i: usize) {
        if let Some(c) = &mut self.cl[i]
            && !c.dirty
        {
            c.dirty = true;
            self.dirty.push(i);
        }
    }
    fn sub(&mut self, i: usize, th: &[u8]) {
        let v = self.subs.entry(th.to_vec()).or_default();
        if !v.contains(&i) {
            v.push(i);
            if let Some(c) = &mut self.cl[i] {
                c.threads.push(th.to_vec());
            }
        }
    }
    fn drop_client(&mut self, i: usize) {
        if let Some(c) = self.cl[i].take() {
            for t in &c.threads {
                if let Some(v) = self.subs.get_mut(t) {
                    v.retain(|&x| x != i);
                    if v.is_empty() {
                        self.subs.remove(t);
                    }
                }
            }
            unsafe { libc::close(c.fd) };
            self.free.push(i);
        }
    }
    fn flush_all(&mut self) {
        while let Some(i) = self.over.pop() {
            self.drop_client(i);
        }
        let d = std::mem::take(&mut self.dirty);
        for &i in &d {
            let mut bad = false;
            if let Some(c) = &mut self.cl[i] {
                c.dirty = false;
                match out_flush(c.fd, &mut c.out, &mut c.pos) {
                    Ok(done) => {
                        if done == c.w {
                            c.w = !done;
                            self.ep.modify(c.fd, if done { IN } else { IN | OUT }, i as u64);
                        }
                    }
                    Err(()) => bad = true,
                }
            }
            if bad {
                self.drop_client(i);
            }
        }
        self.dirty = d;
        self.dirty.clear();
        if self.upos < self.uout.len() {
            match out_flush(self.up, &mut self.uout, &mut self.upos) {
                Ok(done) => {
                    if done == self.uw {
                        self.uw = !done;
                        if done {
                            self.ep.del(self.up)
                        } else {
                            self.ep.add(self.up, OUT, UPW);
                        }
                    }
                }
                Err(()) => std::process::exit(1),
            }
        }
    }
    fn client_line(&mut self, i: usize, l: &[u8]) {
        let Some(t) = message::top(l) else { return };
        let (Some(method), Some(id)) = (t.method, t.id) else { return };
        if method == b"initialize" {
            let c = self.cl[i].as_mut().unwrap();
            c.out.extend_from_slice(b"{\"id\":");
            c.out.extend_from_slice(id);
            c.out.extend_from_slice(b",\"result\":");
            c.out.extend_from_slice(&self.init);
            c.out.extend_from_slice(b"}\n");
            return self.mark(i);
        }
        if method == b"thread/resume"
            && let Some(th) = t.params.and_then(|p| message::get_str(p, b"threadId"))
        {
            self.sub(i, th);
        }
        let p = Pending {
            client: i,
            gen_: self.cl[i].as_ref().unwrap().gen_,
            id: id.to_vec(),
            start: method == b"thread/start",
        };
        let k = match self.pfree.pop() {
            Some(k) => {
                self.pend[k] = p;
                k
            }
            None => {
                self.pend.push(p);
                self.pend.len() - 1
            }
        };
        let (a, b) = t.id_span;
        self.uout.extend_from_slice(&l[..a]);
        let mut d = [0u8; 20];
        let (mut n, mut v) = (20, k);
        loop {
            n -= 1;
            d[n] = b'0' + (v % 10) as u8;
            v /= 10;
            if v == 0 {
                break;
            }
        }
        self.uout.extend_from_slice(&d[n..]);
        self.uout.extend_from_slice(&l[b..]);
        self.uout.push(b'\n');
    }
    fn upstream_line(&mut self, l: &[u8]) {
        // the real codex puts `error` before `id`
        let at = if l.starts_with(b"{\"id\":") {
            Some(6)
        } else if l.starts_with(b"{\"error\":") {
            message::top(l).filter(|t| t.id.is_some()).map(|t| t.id_span.0)
        } else {
            None
        };
        if let Some(at) = at {
            let mut k = 0usize;
            let mut e = at;
            while let Some(d) = l.get(e).filter(|c| c.is_ascii_digit()) {
                k = k * 10 + (d - b'0') as usize;
                e += 1;
            }
            if l[e..].starts_with(b",\"method\"") || k >= self.pend.len() {
                return;
            }
            let p = &mut self.pend[k];
            let (i, g, id, start) = (p.client, p.gen_, std::mem::take(&mut p.id), p.start);
            self.pfree.push(k);
            if self.cl[i].as_ref().is_none_or(|c| c.gen_ != g) {
                return;
            }
            if start
                && let Some(th) = message::top(l)
                    .and_then(|t| message::get(t.result?, b"thread"))
                    .and_then(|t| message::get_str(t, b"id"))
            {
                let th = th.to_vec();
                self.sub(i, &th);
            }
            let c = self.cl[i].as_mut().unwrap();
            c.out.extend_from_slice(&l[..at]);
            c.out.extend_from_slice(&id);
            c.out.extend_from_slice(&l[e..]);
            c.out.push(b'\n');
            return self.mark(i);
        }
        let w = &l[..l.len().min(512)];
        let th = memmem::find(w, b"\"threadId\":\"")
            .map(|k| k + 12)
            .or_else(|| memmem::find(w, b"\"thread\":{\"id\":\"").map(|k| k + 16));
        let Some(th) = th.and_then(|k| l.get(k..k + 36)) else { return };
        let Some(v) = self.subs.get(th) else { return };
        for &i in v {
            let Some(c) = &mut self.cl[i] else { continue };
            if c.w && c.out.len() - c.pos > self.limit {
                self.over.push(i);
                continue;
            }
            c.out.extend_from_slice(l);
            c.out.push(b'\n');
            if !c.dirty {
                c.dirty = true;
                self.dirty.push(i);
            }
        }
    }
}

fn main() {
    sys::ignore_sigpipe();
    let (mut sock, mut pipe, mut limit, mut cmd) = (String::new(), 0i32, 16usize << 20, vec![]);
    let mut a = std::env::args().skip(1);
    while let Some(k) = a.next() {
        match k.as_str() {
            "--socket" => sock = a.next().unwrap(),
            "--pipe" => pipe = a.next().unwrap().parse().unwrap(),
            "--limit" => limit = a.next().unwrap().parse().unwrap(),
            "--" => cmd = a.by_ref().collect(),
            _ => panic!("unknown option {k}"),
        }
    }
    // mux0 ends with its child (end of its output) or is killed: nobody is left to wait for it.
    #[allow(clippy::zombie_processes)]
    let mut ch = Command::new(&cmd[0])
        .args(&cmd[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("spawn");
    let up = ch.stdin.take().unwrap().into_raw_fd();
    let ur = ch.stdout.take().unwrap().into_raw_fd();
    if pipe > 0 {
        unsafe {
            libc::fcntl(ur, libc::F_SETPIPE_SZ, pipe);
            libc::fcntl(up, libc::F_SETPIPE_SZ, pipe);
        }
    }
    sys::write_all(up, b"{\"id\":0,\"method\":\"initialize\",\"params\":{\"clientInfo\":{\"name\":\"mux0\",\"version\":\"0\"}}}\n{\"method\":\"initialized\"}\n").unwrap();
    let mut ubuf = vec![0u8; (256 << 10).max(pipe as usize)];
    let (mut uh, mut ut, mut us) = (0usize, 0usize, 0usize);
    let init = loop {
        let n = sys::read(ur, &mut ubuf[ut..]).unwrap();
        assert!(n > 0, "upstream closed");
        ut += n;
        if let Some(k) = memchr(b'\n', &ubuf[..ut]) {
            let r = message::top(&ubuf[..k]).and_then(|t| t.result).unwrap().to_vec();
            ut = 0;
            break r;
        }
    };
    sys::nonblock(up, true);
    sys::nonblock(ur, true);
    let _ = std::fs::remove_file(&sock);
    let l = UnixListener::bind(&sock).expect("bind");
    l.set_nonblocking(true).unwrap();
    let ep = Epoll::new();
    ep.add(ur, IN, UPR);
    ep.add(std::os::fd::AsRawFd::as_raw_fd(&l), IN, LIS);
    let mut m = Mux {
        ep,
        cl: vec![],
        free: vec![],
        pend: vec![],
        pfree: vec![],
        subs: HashMap::default(),
        up,
        uout: vec![],
        upos: 0,
        uw: false,
        dirty: vec![],
        init,
        limit,
        gen_: 0,
        over: vec![],
    };
    let mut evs = vec![libc::epoll_event { events: 0, u64: 0 }; 256];
    // shared by all clients that have no partial line
    let mut scratch = vec![0u8; 128 << 10];
    loop {
        let n = m.ep.wait(&mut evs, -1);
        for e in evs.iter().take(n).copied() {
            match e.u64 {
                UPW => {}
                LIS => {
                    while let Ok((s, _)) = l.accept() {
                        s.set_nonblocking(true).unwrap();
                        let fd = s.into_raw_fd();
                        m.gen_ += 1;
                        let c = Client {
                            fd,
                            gen_: m.gen_,
                            buf: vec![],
                            head: 0,
                            tail: 0,
                            scan: 0,
                            out: vec![],
                            pos: 0,
                            dirty: false,
                            w: false,
                            threads: vec![],
                        };
                        let i = m.free.pop().unwrap_or_else(|| {
                            m.cl.push(None);
                            m.cl.len() - 1
                        });
                        m.cl[i] = Some(c);
                        m.ep.add(fd, IN, i as u64);
                    }
                }
                UPR => {
                    if ut == ubuf.len() {
                        if uh > 0 {
                            ubuf.copy_within(uh..ut, 0);
                            ut -= uh;
                            us -= uh;
                            uh = 0;
                        }
                        if ut == ubuf.len() {
                            sys::grow(&mut ubuf);
                        }
                    }
                    match sys::read(ur, &mut ubuf[ut..]) {
                        Ok(0) => std::process::exit(1),
                        Ok(k) => ut += k,
                        Err(_) => continue,
                    }
                    while let Some(k) = memchr(b'\n', &ubuf[us..ut]) {
                        m.upstream_line(&ubuf[uh..us + k]);
                        us += k + 1;
                        uh = us;
                    }
                    us = ut;
                    if uh == ut {
                        (uh, ut, us) = (0, 0, 0);
                        if ubuf.len() > 4 << 20 {
                            ubuf = vec![0; 256 << 10];
                        }
                    }
                }
                i => {
                    let i = i as usize;
                    if e.events & OUT != 0 {
                        m.mark(i);
                    }
                    if e.events & !OUT == 0 {
                        continue;
                    }
                    let Some(c) = &mut m.cl[i] else { continue };
                    // the client's own buffer only holds an unfinished line
                    let own = c.tail > c.head;
                    let mut b = if own { std::mem::take(&mut c.buf) } else { std::mem::take(&mut scratch) };
                    let (mut h, mut t, mut s) = if own { (c.head, c.tail, c.scan) } else { (0, 0, 0) };
                    if t == b.len() {
                        if h > 0 {
                            b.copy_within(h..t, 0);
                            (t, s, h) = (t - h, s - h, 0);
                        }
                        if t == b.len() {
                            sys::grow(&mut b);
                        }
                    }
                    let fd = c.fd;
                    let gone = match sys::read(fd, &mut b[t..]) {
                        Ok(0) => true,
                        Ok(k) => {
                            t += k;
                            false
                        }
                        Err(e) => e.kind() != WouldBlock,
                    };
                    while let Some(k) = memchr(b'\n', &b[s..t]) {
                        m.client_line(i, &b[h..s + k]);
                        s += k + 1;
                        h = s;
                    }
                    s = t;
                    if let Some(c) = &mut m.cl[i] {
                        if h == t {
                            (c.head, c.tail, c.scan) = (0, 0, 0);
                            c.buf = vec![];
                            if !own || scratch.is_empty() {
                                scratch = if b.len() <= 1 << 20 { b } else { vec![0u8; 128 << 10] };
                            }
                        } else if own {
                            c.buf = b;
                            (c.head, c.tail, c.scan) = (h, t, s);
                        } else {
                            c.buf = vec![0; (t - h).max(64 << 10)];
                            c.buf[..t - h].copy_from_slice(&b[h..t]);
                            (c.head, c.tail, c.scan) = (0, t - h, s - h);
                            scratch = b;
                        }
                    }
                    if scratch.is_empty() {
                        scratch = vec![0u8; 128 << 10];
                    }
                    if gone {
                        m.drop_client(i);
                    }
                }
            }
        }
        m.flush_all();
    }
}
