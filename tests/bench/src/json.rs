//! Small JSON span scanner: finds top-level members without building a tree.
use memchr::{memchr2, memmem};

#[inline]
fn ws(b: &[u8], mut i: usize) -> usize {
    while i < b.len() && matches!(b[i], b' ' | b'\t' | b'\r' | b'\n') {
        i += 1;
    }
    i
}

/// `i` points at the opening quote; returns the index after the closing quote.
#[inline]
pub fn skip_str(b: &[u8], mut i: usize) -> Option<usize> {
    i += 1;
    loop {
        let r = memchr2(b'"', b'\\', b.get(i..)?)?;
        i += r;
        if b[i] == b'"' {
            return Some(i + 1);
        }
        i += 2;
    }
}

pub fn skip_value(b: &[u8], mut i: usize) -> Option<usize> {
    match *b.get(i)? {
        b'"' => skip_str(b, i),
        b'{' | b'[' => {
            let mut depth = 0usize;
            loop {
                match *b.get(i)? {
                    b'"' => {
                        i = skip_str(b, i)?;
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => {
                        depth -= 1;
                        if depth == 0 {
                            return Some(i + 1);
                        }
                    }
                    _ => {}
                }
                i += 1;
            }
        }
        _ => {
            while i < b.len() && !matches!(b[i], b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t') {
                i += 1;
            }
            Some(i)
        }
    }
}

/// Calls `f(key, value_start, value_end)` for the members of the object `b`.
#[inline]
pub fn members(b: &[u8], mut f: impl FnMut(&[u8], usize, usize) -> bool) -> Option<()> {
    let mut i = ws(b, 0);
    if *b.get(i)? != b'{' {
        return None;
    }
    i = ws(b, i + 1);
    if *b.get(i)? == b'}' {
        return Some(());
    }
    loop {
        if *b.get(i)? != b'"' {
            return None;
        }
        let ke = skip_str(b, i)?;
        let key = &b[i + 1..ke - 1];
        i = ws(b, ke);
        if *b.get(i)? != b':' {
            return None;
        }
        i = ws(b, i + 1);
        let ve = skip_value(b, i)?;
        if !f(key, i, ve) {
            return Some(());
        }
        i = ws(b, ve);
        match *b.get(i)? {
            b',' => i = ws(b, i + 1),
            b'}' => return Some(()),
            _ => return None,
        }
    }
}

#[derive(Default, Clone, Copy, Debug)]
pub struct Top<'a> {
    pub id: Option<&'a [u8]>,
    pub id_span: (usize, usize),
    /// without the quotes
    pub method: Option<&'a [u8]>,
    pub params: Option<&'a [u8]>,
    pub result: Option<&'a [u8]>,
    pub error: Option<&'a [u8]>,
}

pub fn top(b: &[u8]) -> Option<Top<'_>> {
    let mut t = Top::default();
    members(b, |k, s, e| {
        match k {
            b"id" => {
                t.id = Some(&b[s..e]);
                t.id_span = (s, e);
            }
            b"method" => t.method = b.get(s + 1..e - 1),
            b"params" => t.params = Some(&b[s..e]),
            b"result" => t.result = Some(&b[s..e]),
            b"error" => t.error = Some(&b[s..e]),
            _ => {}
        }
        true
    })?;
    Some(t)
}

pub fn get<'a>(b: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let mut out = None;
    members(b, |k, s, e| {
        if k == key {
            out = Some(&b[s..e]);
            return false;
        }
        true
    });
    out
}

/// String member without its quotes (no unescaping).
pub fn get_str<'a>(b: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let v = get(b, key)?;
    if v.first() == Some(&b'"') { Some(&v[1..v.len() - 1]) } else { None }
}

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

// ---- delta stamps: "@S<8 hex seq>T<16 hex ns>|" -----------------------------

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
mod tests {
    use super::*;
    #[test]
    fn scan() {
        let t =
            top(br#" {"id" : "a\"b", "method":"x/y","params":{"a":[1,{"q":"}"}],"threadId":"T"}} "#).unwrap();
        assert_eq!(t.id.unwrap(), br#""a\"b""#);
        assert_eq!(t.method.unwrap(), b"x/y");
        assert_eq!(get_str(t.params.unwrap(), b"threadId").unwrap(), b"T");
        assert!(top(b"{\"id\":1").is_none());
        assert_eq!(top(br#"{"id":5.5,"result":{}}"#).unwrap().id.unwrap(), b"5.5");
    }
    #[test]
    fn stamp() {
        let mut v = vec![];
        put_stamp(&mut v, 77, 123456789012);
        assert_eq!(parse_stamp(&v), Some((77, 123456789012)));
        let d = deltas(b"x [[deltas:1:2]] y [[deltas:10:20:30]]").unwrap();
        assert_eq!((d.n, d.size, d.interval_us), (10, 20, 30));
    }
}
