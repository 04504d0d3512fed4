//! The usual message of a WebSocket client: one text frame that was received completely.
//!
//! What a client sends is nearly always that. It is read here without the protocol machine, whose buffers cost more than
//! the rest of a short message. Everything else is left to the machine: other frames, parts of frames, and what is wrong.

/// First byte of a text frame that is a whole message: `FIN` and the opcode (RFC 6455, section 5.2).
const WHOLE_TEXT: u8 = 0x81;

/// The bit of the second byte which says that the payload is masked, as it must be.
const MASKED: u8 = 0x80;

/// The length which says that the two bytes after it are the length.
const TWO_BYTES: usize = 126;

const MASK_BYTES: usize = 4;

/// Takes a whole message from the front of `chunk` and puts its text into `text`. Returns false, and changes neither,
/// if there is none.
///
/// The protocol machine must be between two messages.
pub(super) fn take(chunk: &mut &[u8], text: &mut Vec<u8>) -> bool {
    let Some((payload, mask, rest)) = split(chunk) else { return false };
    text.clear();
    text.extend_from_slice(payload);
    unmask(text, mask);
    if std::str::from_utf8(text).is_err() {
        return false;
    }
    *chunk = rest;
    true
}

fn split(chunk: &[u8]) -> Option<(&[u8], [u8; MASK_BYTES], &[u8])> {
    let (&[WHOLE_TEXT, second], rest) = chunk.split_first_chunk()? else { return None };
    if second & MASKED == 0 {
        return None;
    }
    let (length, rest) = match usize::from(second & !MASKED) {
        TWO_BYTES => {
            let (length, rest) = rest.split_first_chunk()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        length if length < TWO_BYTES => (length, rest),
        _ => return None,
    };
    let (mask, rest) = rest.split_first_chunk()?;
    let (payload, rest) = rest.split_at_checked(length)?;
    Some((payload, *mask, rest))
}

/// Removes the mask (RFC 6455, section 5.3).
fn unmask(bytes: &mut [u8], mask: [u8; MASK_BYTES]) {
    let mut words = bytes.chunks_exact_mut(MASK_BYTES);
    for word in &mut words {
        word.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    }
    words.into_remainder().iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            short @ 0..126 => frame.push(MASKED | short as u8),
            long => {
                frame.push(MASKED | 126);
                frame.extend_from_slice(&(long as u16).to_be_bytes());
            }
        }
        frame.extend_from_slice(&MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    #[test]
    fn a_whole_message_is_taken_and_what_follows_is_left() {
        for length in [0, 1, 3, 4, 5, 124, 125, 126, 127, 1_000, 65_535] {
            let message = "\u{e4}".repeat(length / 2) + &"x".repeat(length % 2);
            let stream = [frame(0x81, message.as_bytes()), b"rest".to_vec()].concat();
            let (mut chunk, mut text) = (&stream[..], b"old".to_vec());
            assert!(take(&mut chunk, &mut text));
            assert_eq!((chunk, &*text), (&b"rest"[..], message.as_bytes()));
        }
    }

    #[test]
    fn everything_else_is_left_to_the_protocol_machine() {
        let whole = frame(0x81, "message".repeat(20).as_bytes());
        let mut cases: Vec<Vec<u8>> = (0..whole.len()).map(|n| whole[..n].to_vec()).collect();
        cases.extend([0x01, 0x80, 0x82, 0x88, 0x89, 0x8a, 0xc1].map(|first| frame(first, b"message")));
        cases.push(frame(0x81, b"\xff is no text"));
        cases.push(b"\x81\x02{}".to_vec());
        cases.push([&[0x81, 0xff][..], &8u64.to_be_bytes(), &MASK, b"01234567"].concat());
        for stream in cases {
            let mut chunk = &stream[..];
            assert!(!take(&mut chunk, &mut Vec::new()), "{stream:?}");
            assert_eq!(chunk, stream);
        }
    }
}
