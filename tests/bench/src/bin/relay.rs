//! Byte relay: the physical limit of anything that stands between a client and the child.
//!
//!   relay --socket PATH [--mode copy|splice] [--drop-every K] [--swap-every K] -- CMD...
//!   relay --connect PATH
//!
//! The second form moves bytes between its own stdin and stdout and a socket: the limit of `codexd connect`.
//!
//! Each connection gets its own child (pipes), and two threads that move bytes, without
//! parsing. With --drop-every/--swap-every the downstream deltas are spoilt on purpose, to
//! prove that the load generator notices loss and reordering.
use codexd_bench::sys;
use memchr::memmem;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

fn copy(r: i32, w: i32) {
    let mut b = vec![0u8; 128 << 10];
    while let Ok(n) = sys::read(r, &mut b) {
        if n == 0 || sys::write_all(w, &b[..n]).is_err() {
            break;
        }
    }
}
fn splice(r: i32, w: i32) {
    loop {
        let n = unsafe {
            libc::splice(r, std::ptr::null_mut(), w, std::ptr::null_mut(), 1 << 20, libc::SPLICE_F_MOVE)
        };
        if n <= 0 {
            break;
        }
    }
}
fn spoil(r: std::process::ChildStdout, w: UnixStream, drop_every: u64, swap_every: u64) {
    let mut r = BufReader::with_capacity(128 << 10, r);
    let mut w = std::io::BufWriter::with_capacity(64 << 10, w);
    let (mut line, mut held, mut n) = (vec![], vec![], 0u64);
    loop {
        line.clear();
        if r.read_until(b'\n', &mut line).unwrap_or(0) == 0 {
            break;
        }
        if memmem::find(&line, b"\"item/agentMessage/delta\"").is_some() {
            n += 1;
            if drop_every > 0 && n % drop_every == 0 {
                continue;
            }
            if swap_every > 0 && n % swap_every == 0 {
                held = line.clone();
                continue;
            }
        }
        if w.write_all(&line).and_then(|_| w.write_all(&held)).is_err() {
            break;
        }
        held.clear();
        if r.buffer().is_empty() && w.flush().is_err() {
            break;
        }
    }
    let _ = w.flush();
}

/// Moves bytes between stdin and stdout and a socket, until the socket ends.
fn connect(path: &str) {
    let socket = UnixStream::connect(path).expect("connect");
    let fd = socket.as_raw_fd();
    std::thread::spawn(move || {
        copy(0, fd);
        unsafe { libc::shutdown(fd, libc::SHUT_WR) };
    });
    copy(fd, 1);
}

fn main() {
    sys::ignore_sigpipe();
    let (mut sock, mut mode, mut de, mut se, mut cmd) = (String::new(), "copy".to_string(), 0, 0, vec![]);
    let mut a = std::env::args().skip(1);
    while let Some(k) = a.next() {
        match k.as_str() {
            "--socket" => sock = a.next().unwrap(),
            "--connect" => return connect(&a.next().unwrap()),
            "--mode" => mode = a.next().unwrap(),
            "--drop-every" => de = a.next().unwrap().parse().unwrap(),
            "--swap-every" => se = a.next().unwrap().parse().unwrap(),
            "--" => cmd = a.by_ref().collect(),
            _ => panic!("unknown option {k}"),
        }
    }
    let _ = std::fs::remove_file(&sock);
    let l = UnixListener::bind(&sock).expect("bind");
    for s in l.incoming().flatten() {
        let mut ch = Command::new(&cmd[0])
            .args(&cmd[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("spawn");
        let mv: fn(i32, i32) = if mode == "splice" { splice } else { copy };
        let cin = ch.stdin.take().unwrap().into_raw_fd();
        let sfd = s.as_raw_fd();
        let s2 = s.try_clone().unwrap();
        let up = std::thread::spawn(move || {
            // splice(2) from a unix socket into a pipe blocks here; requests are small anyway
            copy(sfd, cin);
            unsafe { libc::close(cin) };
        });
        let out = ch.stdout.take().unwrap();
        let down = std::thread::spawn(move || {
            if de > 0 || se > 0 {
                spoil(out, s2, de, se);
            } else {
                mv(out.as_raw_fd(), s2.as_raw_fd());
            }
        });
        std::thread::spawn(move || {
            let _ = up.join();
            let _ = down.join();
            drop(s);
            let _ = ch.wait();
        });
    }
}
