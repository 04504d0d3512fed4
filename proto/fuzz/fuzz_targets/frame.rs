//! The line decoder against the obvious way of doing it, however the bytes are cut.
//!
//! `cargo +nightly fuzz run frame`, in `proto`.
#![no_main]

use codexd_proto::frame::{Frame, LineDecoder};
use codexd_proto::message::{Reader, UpstreamMessage};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, Vec<u8>, Vec<u8>)| {
    let (limit, cuts, stream) = input;
    let limit = usize::from(limit);
    let mut expected: Vec<Option<&[u8]>> =
        stream.split(|b| *b == b'\n').map(|line| (line.len() <= limit).then_some(line)).collect();
    // What follows the last line feed is reported only once it is known to be too long.
    let rest = expected.pop().flatten();
    if rest.is_none() {
        expected.push(None);
    }

    let mut decoder = LineDecoder::new(limit).giving_away(limit / 2);
    let mut seen: Vec<Option<Vec<u8>>> = Vec::new();
    let mut left = &stream[..];
    let mut cuts = cuts.into_iter().cycle();
    while !left.is_empty() {
        let n = usize::from(cuts.next().unwrap_or(255)).clamp(1, left.len());
        let (mut chunk, others) = left.split_at(n);
        left = others;
        while let Some(frame) = decoder.decode(&mut chunk) {
            seen.push(match frame {
                Frame::Line(line) => {
                    let _ = Reader::default().read(line);
                    let _ = UpstreamMessage::read(line);
                    Some(line.to_vec())
                }
                Frame::Long(line) => {
                    let mut reader = Reader::default();
                    while !reader.advance(&line, n) {}
                    assert_eq!(reader.finish(&line), Reader::default().read(&line));
                    Some(line)
                }
                Frame::TooLong => None,
            });
        }
    }
    assert!(seen.iter().map(Option::as_deref).eq(expected));
    assert_eq!(decoder.is_torn(), rest.is_none_or(|rest| !rest.is_empty()));
});
