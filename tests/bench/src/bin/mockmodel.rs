//! Mock model server (Responses API over HTTP/1.1, SSE): the real codex's upstream.
//!   mockmodel [PORT]      (0: any; the port is printed)
//! The last `[[deltas:N:size:interval_us]]` of the request's text steers the answer; each
//! delta carries a sequence number and a CLOCK_MONOTONIC stamp, like fakeup's.
use codexd_bench::{stamp, sys};
use memchr::memmem;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

fn serve(mut s: TcpStream) -> std::io::Result<()> {
    s.set_nodelay(true)?;
    let mut buf: Vec<u8> = vec![];
    let mut tmp = vec![0u8; 64 << 10];
    loop {
        // head
        let h = loop {
            if let Some(k) = memmem::find(&buf, b"\r\n\r\n") {
                break k + 4;
            }
            let n = s.read(&mut tmp)?;
            if n == 0 {
                return Ok(());
            }
            buf.extend_from_slice(&tmp[..n]);
        };
        let head = String::from_utf8_lossy(&buf[..h]).to_lowercase();
        let len: usize = head
            .lines()
            .find_map(|l| l.strip_prefix("content-length:"))
            .and_then(|v| v.trim().parse().ok())
            .unwrap_or(0);
        while buf.len() < h + len {
            let n = s.read(&mut tmp)?;
            if n == 0 {
                return Ok(());
            }
            buf.extend_from_slice(&tmp[..n]);
        }
        let body = buf[h..h + len].to_vec();
        buf.drain(..h + len);
        if !head.starts_with("post") {
            let b = b"{\"object\":\"list\",\"data\":[],\"models\":[]}";
            write!(
                s,
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                b.len()
            )?;
            s.write_all(b)?;
            continue;
        }
        let d = stamp::deltas(&body).unwrap_or(stamp::Deltas { n: 3, size: 32, interval_us: 0 });
        s.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        )?;
        let mut out: Vec<u8> = Vec::with_capacity(64 << 10);
        let ev = |out: &mut Vec<u8>, ty: &str, body: &str| {
            let t = format!("event: {ty}\ndata: {{\"type\":\"{ty}\",{body}}}\n\n");
            let _ = write!(out, "{:x}\r\n{}\r\n", t.len(), t);
        };
        let id = sys::mono_ns();
        ev(&mut out, "response.created", &format!("\"response\":{{\"id\":\"resp_{id}\"}}"));
        ev(
            &mut out,
            "response.output_item.added",
            &format!(
                "\"output_index\":0,\"item\":{{\"type\":\"message\",\"id\":\"msg_{id}\",\"role\":\"assistant\",\"status\":\"in_progress\",\"content\":[]}}"
            ),
        );
        let pad = "x".repeat(d.size.saturating_sub(stamp::STAMP));
        let mut next = sys::mono_ns();
        for i in 0..d.n {
            let mut st = vec![];
            stamp::put_stamp(&mut st, i as u32, sys::mono_ns());
            ev(
                &mut out,
                "response.output_text.delta",
                &format!(
                    "\"item_id\":\"msg_{id}\",\"output_index\":0,\"content_index\":0,\"delta\":\"{}{pad}\"",
                    String::from_utf8_lossy(&st)
                ),
            );
            if d.interval_us > 0 {
                s.write_all(&out)?;
                out.clear();
                next += d.interval_us * 1000;
                let now = sys::mono_ns();
                if next > now {
                    std::thread::sleep(Duration::from_nanos(next - now));
                }
            } else if out.len() > 16 << 10 {
                s.write_all(&out)?;
                out.clear();
            }
        }
        ev(
            &mut out,
            "response.output_item.done",
            &format!(
                "\"output_index\":0,\"item\":{{\"type\":\"message\",\"id\":\"msg_{id}\",\"role\":\"assistant\",\"status\":\"completed\",\"phase\":\"final_answer\",\"content\":[{{\"type\":\"output_text\",\"text\":\"{} deltas\"}}]}}",
                d.n
            ),
        );
        ev(
            &mut out,
            "response.completed",
            &format!(
                "\"response\":{{\"id\":\"resp_{id}\",\"usage\":{{\"input_tokens\":10,\"input_tokens_details\":{{\"cached_tokens\":0}},\"output_tokens\":5,\"output_tokens_details\":{{\"reasoning_tokens\":0}},\"total_tokens\":15}}}}"
            ),
        );
        out.extend_from_slice(b"0\r\n\r\n");
        s.write_all(&out)?;
    }
}

fn main() {
    sys::ignore_sigpipe();
    sys::timer_slack_1ns();
    let port: u16 = std::env::args().nth(1).and_then(|p| p.parse().ok()).unwrap_or(0);
    let l = TcpListener::bind(("127.0.0.1", port)).expect("bind");
    println!("{}", l.local_addr().unwrap().port());
    for s in l.incoming().flatten() {
        std::thread::spawn(move || {
            sys::timer_slack_1ns();
            let _ = serve(s);
        });
    }
}
