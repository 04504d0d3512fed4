//! Lines to text frames.
//!
//! Many short frames are joined and written with one call: copying them takes less time than the system takes to look at a
//! header and a payload for each. A long one is written from where it lies.

use std::cell::RefCell;
use std::io::{self, IoSlice};

use memchr::memchr;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Data, OpCode};

/// Longest payload of one frame, in bytes; a longer message is sent in fragments.
///
/// Common clients refuse longer frames, and it is the limit that the native listener states for the other direction.
pub(super) const MAX_FRAME_BYTES: usize = 16 << 20;

/// Longest header of a frame that is not masked (RFC 6455, section 5.2).
const MAX_HEADER: usize = 10;

/// Frames written at once.
const BATCH: usize = 32;

/// Bytes of frames that are joined at once: about what a socket takes.
const JOINED_BYTES: usize = 64 << 10;

/// Longest payload that is joined to others, in bytes.
const JOINED_PAYLOAD_BYTES: usize = 4 << 10;

thread_local! {
    /// Where frames are joined: one for all connections of the core.
    static JOINED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Frames written at once if no more than [`FEW_BYTES`] wait: room for [`BATCH`] would cost more than they do.
const FEW: usize = 4;
const FEW_BYTES: usize = 2 << 10;

/// Bytes of payload after which no further frame is added to a write: more than a socket takes.
const BATCH_BYTES: usize = 512 << 10;

/// Writes the lines of an outbox as text frames.
///
/// What is kept is how far the begun frame is: the outbox holds the rest of its payload, and everything after.
#[derive(Debug, Default)]
pub(super) struct FrameWriter {
    /// A frame of which a part is sent.
    begun: Option<Part>,
    /// Bytes of the begun message that are in no frame yet.
    more: usize,
}

/// What is left to send of one frame.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    header: [u8; MAX_HEADER],
    /// Part of `header` that is left.
    from: u8,
    to: u8,
    /// Bytes of payload left.
    payload: usize,
    /// Bytes of the message after this frame; without any, the line feed goes with it.
    more: usize,
}

impl FrameWriter {
    /// Writes frames until everything is written or `sink` takes no more; with `finish`, only the
    /// rest of the begun frame.
    ///
    /// `pending` is the outbox from the first byte that the last call did not consume. `taken` grows by the bytes of
    /// it that are written.
    ///
    /// # Errors
    ///
    /// That of `sink`, `WouldBlock` included.
    pub(super) fn write(
        &mut self,
        pending: &[u8],
        finish: bool,
        taken: &mut usize,
        mut sink: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<()> {
        while if pending.len() - *taken <= FEW_BYTES {
            self.write_batch::<FEW>(pending, finish, taken, &mut sink)?
        } else {
            (!finish
                && JOINED.with_borrow_mut(|joined| self.write_joined(joined, pending, taken, &mut sink))?)
                || self.write_batch::<BATCH>(pending, finish, taken, &mut sink)?
        } {}
        Ok(())
    }

    /// Joins frames up to the first long one, and writes them. Returns whether there were any.
    fn write_joined(
        &mut self,
        joined: &mut Vec<u8>,
        pending: &[u8],
        taken: &mut usize,
        sink: &mut impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<bool> {
        joined.clear();
        let mut at = *taken;
        if let Some(begun) = self.begun {
            if begun.more > 0 || begun.payload > JOINED_PAYLOAD_BYTES {
                return Ok(false);
            }
            joined.extend_from_slice(begun.header());
            joined.extend_from_slice(&pending[at..at + begun.payload]);
            at += begun.line_bytes();
        } else if self.more > 0 {
            return Ok(false);
        }
        while joined.len() < JOINED_BYTES
            && let Some(length) = memchr(b'\n', &pending[at..])
            && length <= JOINED_PAYLOAD_BYTES
        {
            joined.extend_from_slice(Part::new(length, Data::Text).header());
            joined.extend_from_slice(&pending[at..at + length]);
            at += length + 1;
        }
        if joined.is_empty() {
            return Ok(false);
        }
        let mut sent = sink(&[IoSlice::new(joined)])?;
        if sent == joined.len() {
            (self.begun, *taken) = (None, at);
            return Ok(true);
        }
        if sent == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while sent > 0 {
            let mut part = [Part::default()];
            self.plan(&pending[*taken..], false, &mut part);
            let whole = part[0].header().len() + part[0].payload;
            self.advance(&mut part, sent.min(whole), taken);
            sent = sent.saturating_sub(whole);
        }
        Ok(true)
    }

    /// Writes some frames. Returns whether there were any.
    fn write_batch<const FRAMES: usize>(
        &mut self,
        pending: &[u8],
        finish: bool,
        taken: &mut usize,
        sink: &mut impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<bool> {
        let mut parts = [Part::default(); FRAMES];
        let count = self.plan(&pending[*taken..], finish, &mut parts);
        if count == 0 {
            return Ok(false);
        }
        let mut slices = [[IoSlice::new(&[]); 2]; FRAMES];
        let mut at = *taken;
        for (part, pair) in parts[..count].iter().zip(&mut slices) {
            *pair = [IoSlice::new(part.header()), IoSlice::new(&pending[at..at + part.payload])];
            at += part.line_bytes();
        }
        let sent = sink(slices[..count].as_flattened())?;
        if sent == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.advance(&mut parts[..count], sent, taken);
        Ok(true)
    }

    /// Returns what is left of the begun frame, which goes away; nothing if it is longer than `limit`.
    pub(super) fn take_rest(&mut self, pending: &[u8], limit: usize) -> Option<Vec<u8>> {
        let Some(part) = self.begun.take() else { return Some(Vec::new()) };
        let payload = pending.get(..part.payload).filter(|payload| payload.len() <= limit)?;
        Some([part.header(), payload].concat())
    }

    /// Says what to send next; returns the number of frames.
    fn plan(&self, mut pending: &[u8], finish: bool, parts: &mut [Part]) -> usize {
        let mut count = 0;
        let mut bytes = 0;
        let mut more = self.more;
        if let Some(begun) = self.begun {
            parts[0] = begun;
            count = 1;
            bytes = begun.payload;
            pending = pending.get(begun.line_bytes()..).unwrap_or_default();
        }
        while !finish && count < parts.len() && bytes < BATCH_BYTES {
            let (length, opcode) = match more {
                0 => match memchr(b'\n', pending) {
                    Some(length) => (length, Data::Text),
                    // The outbox holds whole lines only: it is used up.
                    None => break,
                },
                more => (more, Data::Continue),
            };
            let part = Part::new(length, opcode);
            pending = pending.get(part.line_bytes()..).unwrap_or_default();
            bytes += part.payload;
            more = part.more;
            parts[count] = part;
            count += 1;
        }
        count
    }

    /// Records that `sent` bytes of the planned frames are written.
    fn advance(&mut self, parts: &mut [Part], mut sent: usize, taken: &mut usize) {
        for part in parts {
            if sent == 0 {
                return;
            }
            let header = sent.min(usize::from(part.to - part.from));
            // Not more than the header has.
            part.from += header as u8;
            sent -= header;
            let payload = sent.min(part.payload);
            part.payload -= payload;
            sent -= payload;
            *taken += payload;
            self.more = part.more;
            if part.from < part.to || part.payload > 0 {
                self.begun = Some(*part);
                return;
            }
            self.begun = None;
            *taken += usize::from(part.more == 0);
        }
    }
}

impl Part {
    /// Begins a frame for the next `length` bytes of a message, or for as many as one frame holds.
    fn new(length: usize, opcode: Data) -> Part {
        let payload = length.min(MAX_FRAME_BYTES);
        let more = length - payload;
        let header =
            FrameHeader { is_final: more == 0, opcode: OpCode::Data(opcode), ..FrameHeader::default() };
        let mut part = Part { payload, more, ..Part::default() };
        let mut room = &mut part.header[..];
        // INVARIANT: without a mask no header is longer than the room.
        let _ = header.format(payload as u64, &mut room);
        part.to = (MAX_HEADER - room.len()) as u8;
        part
    }

    fn header(&self) -> &[u8] {
        &self.header[usize::from(self.from)..usize::from(self.to)]
    }

    /// Bytes of the outbox that go with it: the payload, and the line feed after the last frame.
    fn line_bytes(&self) -> usize {
        self.payload + usize::from(self.more == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(slices: &[IoSlice<'_>]) -> Vec<u8> {
        let mut all = Vec::new();
        slices.iter().for_each(|slice| all.extend_from_slice(slice));
        all
    }

    /// What is written when the socket takes `piece` bytes at a time and is full after each; also
    /// checks that bytes taken never run ahead of bytes written.
    fn written(outbox: &[u8], piece: usize) -> Vec<u8> {
        let mut writer = FrameWriter::default();
        let mut out = Vec::new();
        let mut taken = 0;
        while taken < outbox.len() {
            let mut room = piece;
            let result = writer.write(&outbox[taken..], false, &mut 0, |_| Ok(0));
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::WriteZero, "nothing left to write");
            let mut now = 0;
            let result = writer.write(&outbox[taken..], false, &mut now, |slices| {
                let all = joined(slices);
                let n = room.min(all.len());
                out.extend_from_slice(&all[..n]);
                room -= n;
                if n == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(n) }
            });
            taken += now;
            assert!(taken <= out.len() + 1);
            assert!(result.is_ok() == (taken == outbox.len()));
        }
        assert!(writer.begun.is_none());
        out
    }

    #[test]
    fn each_line_is_one_frame_however_much_the_socket_takes() {
        let long = "x".repeat(70_000);
        let outbox = format!("{{}}\n{}\n{long}\nlast\n", "y".repeat(200));
        let mut expected = b"\x81\x02{}\x81\x7e\x00\xc8".to_vec();
        expected.extend_from_slice("y".repeat(200).as_bytes());
        expected.extend_from_slice(b"\x81\x7f\0\0\0\0\x00\x01\x11\x70");
        expected.extend_from_slice(long.as_bytes());
        expected.extend_from_slice(b"\x81\x04last");
        for piece in [1000, 1001, 65_536, 1 << 20] {
            assert_eq!(written(outbox.as_bytes(), piece), expected, "{piece}");
        }
        let (short, framed) = (b"{}\nab\n\nlast\n", b"\x81\x02{}\x81\x02ab\x81\x00\x81\x04last");
        for piece in 1..20 {
            assert_eq!(written(short, piece), framed, "{piece}");
        }
    }

    #[test]
    fn many_lines_are_written_in_batches() {
        let outbox = "a\n".repeat(1000);
        assert_eq!(written(outbox.as_bytes(), usize::MAX), b"\x81\x01a".repeat(1000));
    }

    #[test]
    fn short_frames_are_joined_up_to_a_long_one_however_much_the_socket_takes() {
        let lengths = [0, 3, 125, 126, 200, JOINED_PAYLOAD_BYTES, JOINED_PAYLOAD_BYTES + 1, 70_000];
        let (mut outbox, mut expected) = (Vec::new(), Vec::new());
        for length in (0..40).flat_map(|_| lengths) {
            outbox.extend(std::iter::repeat_n(b'x', length));
            outbox.push(b'\n');
            match length {
                ..126 => expected.extend([0x81, length as u8]),
                126..65_536 => expected.extend([&[0x81, 126], &(length as u16).to_be_bytes()[..]].concat()),
                _ => expected.extend([&[0x81, 127], &(length as u64).to_be_bytes()[..]].concat()),
            }
            expected.extend(std::iter::repeat_n(b'x', length));
        }
        for piece in [4_097, 65_536, 1 << 20, usize::MAX] {
            assert!(written(&outbox, piece) == expected, "{piece}");
        }
    }

    #[test]
    fn a_message_longer_than_a_frame_is_sent_in_fragments() {
        let mut outbox = vec![b'z'; MAX_FRAME_BYTES + 3];
        outbox.extend_from_slice(b"\nnext\n");
        let out = written(&outbox, 5 << 20);
        assert_eq!(out[..10], *b"\x01\x7f\0\0\0\0\x01\0\0\0");
        assert_eq!(out[10 + MAX_FRAME_BYTES..], *b"\x80\x03zzz\x81\x04next");
    }

    #[test]
    fn only_the_rest_of_a_begun_frame_is_finished_or_taken() {
        let begin = |writer: &mut FrameWriter| {
            let (mut taken, mut calls) = (0, 0);
            let _ = writer.write(b"abcd\nef\n", false, &mut taken, |_| {
                calls += 1;
                if calls == 1 { Ok(4) } else { Err(io::ErrorKind::WouldBlock.into()) }
            });
            assert_eq!(taken, 2);
        };
        let mut writer = FrameWriter::default();
        begin(&mut writer);
        let (mut taken, mut out) = (0, Vec::new());
        writer
            .write(b"cd\nef\n", true, &mut taken, |slices| {
                out.extend(joined(slices));
                Ok(joined(slices).len())
            })
            .unwrap();
        assert_eq!((taken, &out[..]), (3, &b"cd"[..]));
        begin(&mut writer);
        assert_eq!(writer.take_rest(b"cd\nef\n", 1), None);
        begin(&mut writer);
        assert_eq!(writer.take_rest(b"cd\nef\n", 2).unwrap(), b"cd");
        assert_eq!(writer.take_rest(b"ef\n", 2).unwrap(), b"");
    }
}
