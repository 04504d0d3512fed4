//! What the texts of turns carry: how many deltas to send, and when each was sent.
use memchr::memmem;

/// `[[deltas:N[:size[:interval_us]]]]`, the last one in the text.
#[derive(Clone, Copy, Debug)]
pub struct Deltas {
    pub n: u64,
    pub size: usize,
    pub interval_us: u64,
}

pub fn deltas(text: &[u8]) -> Option<Deltas> {
    let at = memmem::rfind(text, b"[[deltas:")? + 9;
    let end = at + memmem::find(&text[at..], b"]]")?;
    let s = std::str::from_utf8(&text[at..end]).ok()?;
    let mut it = s.split(':').map(|x| x.trim().parse::<u64>().ok());
    let n = it.next()??;
    let size = it.next().flatten().unwrap_or(0) as usize;
    let interval_us = it.next().flatten().unwrap_or(0);
    Some(Deltas { n, size, interval_us })
}

/// Bytes of a stamp at the start of a delta: `@S<8 hex seq>T<16 hex ns>|`.
pub const STAMP: usize = 2 + 8 + 1 + 16 + 1;
const HEX: &[u8; 16] = b"0123456789abcdef";

#[inline]
pub fn hex_into(out: &mut [u8], mut v: u64) {
    for o in out.iter_mut().rev() {
        *o = HEX[(v & 15) as usize];
        v >>= 4;
    }
}

#[inline]
pub fn put_stamp(out: &mut Vec<u8>, seq: u32, ns: u64) {
    let mut b = [0u8; STAMP];
    b[0] = b'@';
    b[1] = b'S';
    hex_into(&mut b[2..10], seq as u64);
    b[10] = b'T';
    hex_into(&mut b[11..27], ns);
    b[27] = b'|';
    out.extend_from_slice(&b);
}

#[inline]
fn unhex(b: &[u8]) -> Option<u64> {
    let mut v = 0u64;
    for &c in b {
        let d = match c {
            b'0'..=b'9' => c - b'0',
            b'a'..=b'f' => c - b'a' + 10,
            _ => return None,
        };
        v = v << 4 | d as u64;
    }
    Some(v)
}

#[inline]
pub fn parse_stamp(b: &[u8]) -> Option<(u32, u64)> {
    if b.len() < STAMP || b[0] != b'@' || b[1] != b'S' || b[10] != b'T' {
        return None;
    }
    Some((unhex(&b[2..10])? as u32, unhex(&b[11..27])?))
}

#[cfg(test)]
#[test]
fn what_was_put_is_read() {
    let mut v = vec![];
    put_stamp(&mut v, 77, 123456789012);
    assert_eq!(parse_stamp(&v), Some((77, 123456789012)));
    let d = deltas(b"x [[deltas:1:2]] y [[deltas:10:20:30]]").unwrap();
    assert_eq!((d.n, d.size, d.interval_us), (10, 20, 30));
}
