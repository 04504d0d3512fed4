//! A monitor's queue of messages, bounded in bytes: the core puts in and never waits, a thread of its own takes out.
//!
//! The core copies what passes, and nothing else: reading it, choosing, masking secrets and writing JSON are done by that
//! thread, which has the lowest priority. So a monitor takes what the stream leaves of the machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use codexd_proto::feed::{Direction, FrameFilter, Frames};
use codexd_proto::id::ClientId;
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::mpsc;

use super::frames::{FrameReader, Head};
use super::surroundings::Surroundings;
use crate::os::priority;
use crate::os::unix_time::unix_ms;

/// Bytes that may wait for a monitor.
const MAX_WAITING_BYTES: usize = 32 << 20;
/// Bytes of the longest message that is shown with its body.
const MAX_BODY_BYTES: usize = 4 << 20;
/// Bytes of the longest message that is copied where bodies are not shown; of a longer one, the core reads what it is.
const MAX_COPIED_BYTES: usize = 4 << 10;
/// Bytes of several messages that are copied without being taken apart.
const MAX_COPIED_AT_ONCE: usize = 64 << 10;
/// Bytes of JSON that are sent in one message, unless one frame alone has more.
const AT_ONCE_BYTES: usize = 256 << 10;
/// What a frame counts for there beside its texts, in bytes.
const FRAME_BYTES: usize = 160;
/// What a piece counts for beside its bytes.
const PIECE_BYTES: usize = size_of::<Piece>();
/// Messages of JSON that wait to be written to the subscriber.
const WRITTEN_AHEAD: usize = 2;
/// Stack of the thread, in bytes.
const STACK_BYTES: usize = 256 << 10;

/// The core's end.
#[derive(Debug)]
pub(crate) struct Monitor {
    wanted: Wanted,
    batch: Batch,
    batches: mpsc::UnboundedSender<Batch>,
    shared: Arc<Shared>,
    /// Bytes of messages that are on their way, bodies included: a record of them has to be whole.
    overflown: bool,
}

/// What both ends know.
#[derive(Debug, Default)]
struct Shared {
    /// Bytes in the queue.
    waiting: AtomicUsize,
    /// The subscriber has gone.
    gone: AtomicBool,
}

/// What of the filter the core can decide without reading a message.
#[derive(Debug)]
struct Wanted {
    /// Messages between clients and codexd. A response has the method of its request, so both ways are needed for one.
    clients: bool,
    /// Messages between codexd and codex.
    codex: bool,
    only: Vec<u64>,
    bodies: bool,
}

/// Messages that have passed, in their order.
#[derive(Debug, Default)]
struct Batch {
    pieces: Vec<Piece>,
    bytes: Vec<u8>,
    /// Messages before these for which the queue had no room.
    missed: u64,
}

/// One or more messages that have passed the same place at the same time.
#[derive(Debug)]
struct Piece {
    at: Instant,
    at_unix_ms: u64,
    direction: Direction,
    client: Option<ClientId>,
    /// Where it ends in the bytes of the batch.
    end: usize,
    form: Form,
}

#[derive(Debug)]
enum Form {
    /// Lines, each with its end.
    Lines,
    /// One message, which may have line breaks in it.
    Message,
    /// One message that was too long to be copied, with its length and what it is.
    Head { bytes: usize, head: Option<Box<Head>> },
}

/// The other end: reads what was copied.
#[derive(Debug)]
struct Received {
    batches: mpsc::UnboundedReceiver<Batch>,
    shared: Arc<Shared>,
    reader: FrameReader,
}

/// What the subscriber gets, as JSON. Dropping it ends the monitor.
#[derive(Debug)]
pub(super) struct Written {
    frames: mpsc::Receiver<Box<RawValue>>,
    shared: Arc<Shared>,
}

/// Starts the thread of a monitor, and returns the core's end of its queue and what it writes.
///
/// # Errors
///
/// When the system refuses the thread.
pub(super) fn start(
    filter: FrameFilter,
    surroundings: Arc<Surroundings>,
) -> std::io::Result<(Monitor, Written)> {
    let (monitor, received) = queue(filter);
    let (frames, written) = mpsc::channel(WRITTEN_AHEAD);
    let shared = Arc::clone(&monitor.shared);
    std::thread::Builder::new().name("monitor".to_owned()).stack_size(STACK_BYTES).spawn(move || {
        priority::give_way();
        received.write_all(&|text| surroundings.mask(text), |frames_written| {
            frames.blocking_send(frames_written).is_ok()
        });
    })?;
    Ok((monitor, Written { frames: written, shared }))
}

fn queue(filter: FrameFilter) -> (Monitor, Received) {
    let (batches, received) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared::default());
    let any = |of: [Direction; 2]| {
        filter.directions.is_empty() || filter.directions.iter().any(|direction| of.contains(direction))
    };
    let wanted = Wanted {
        clients: any([Direction::FromClient, Direction::ToClient]),
        codex: any([Direction::ToCodex, Direction::FromCodex]),
        only: filter.clients.clone(),
        bodies: filter.bodies,
    };
    let monitor =
        Monitor { wanted, batch: Batch::default(), batches, shared: Arc::clone(&shared), overflown: false };
    (monitor, Received { batches: received, shared, reader: FrameReader::new(filter) })
}

impl Monitor {
    /// Keeps a message that passes, if it may be wanted.
    pub(crate) fn push(&mut self, direction: Direction, client: Option<ClientId>, message: &[u8]) {
        if !self.wanted.passes(direction, client) || !self.has_room(message.len(), || 1) {
            return;
        }
        let longest = if self.wanted.bodies { MAX_BODY_BYTES } else { MAX_COPIED_BYTES };
        let form = if message.len() <= longest {
            self.batch.bytes.extend_from_slice(message);
            Form::Message
        } else {
            Form::Head { bytes: message.len(), head: Head::read(direction, message).map(Box::new) }
        };
        self.keep(direction, client, form);
    }

    /// Keeps messages that pass together, each with a line end behind it, if they may be wanted.
    pub(crate) fn push_lines(&mut self, direction: Direction, client: Option<ClientId>, lines: &[u8]) {
        if lines.is_empty() || !self.wanted.passes(direction, client) {
            return;
        }
        if lines.len() > MAX_COPIED_AT_ONCE {
            for line in whole_lines(lines) {
                self.push(direction, client, line);
            }
        } else if self.has_room(lines.len(), || whole_lines(lines).count() as u64) {
            self.batch.bytes.extend_from_slice(lines);
            self.keep(direction, client, Form::Lines);
        }
    }

    fn keep(&mut self, direction: Direction, client: Option<ClientId>, form: Form) {
        let (at, at_unix_ms, end) = (Instant::now(), unix_ms(), self.batch.bytes.len());
        self.batch.pieces.push(Piece { at, at_unix_ms, direction, client, end, form });
    }

    /// Whether there is room in the queue; if not, the messages are counted.
    fn has_room(&mut self, bytes: usize, messages: impl FnOnce() -> u64) -> bool {
        let waiting = self.shared.waiting.load(Ordering::Relaxed) + self.batch.size();
        // The first one has room, however long it is.
        let room = waiting == 0 || waiting + bytes <= MAX_WAITING_BYTES;
        if !room {
            self.batch.missed += messages();
            self.overflown |= self.wanted.bodies;
        }
        room
    }

    /// Sends what was kept. Returns whether the monitor goes on: not if it has gone, or too much waits for a monitor that
    /// shows bodies, since what it writes may be a record that has to be whole.
    pub(crate) fn send(&mut self) -> bool {
        if self.shared.gone.load(Ordering::Relaxed) {
            return false;
        }
        if self.overflown {
            tracing::warn!("a monitor is dropped: it does not read as fast as messages come");
            return false;
        }
        if self.batch.pieces.is_empty() {
            // What was missed is reported with the next message.
            return true;
        }
        let batch = std::mem::take(&mut self.batch);
        self.shared.waiting.fetch_add(batch.size(), Ordering::Relaxed);
        self.batches.send(batch).is_ok()
    }
}

impl Wanted {
    fn passes(&self, direction: Direction, client: Option<ClientId>) -> bool {
        let side = match direction {
            Direction::FromClient | Direction::ToClient => self.clients,
            Direction::ToCodex | Direction::FromCodex => self.codex,
        };
        side && (self.only.is_empty()
            || client.is_some_and(|client| self.only.contains(&u64::from(client.0))))
    }
}

impl Batch {
    /// What it counts for.
    fn size(&self) -> usize {
        self.bytes.len() + self.pieces.len() * PIECE_BYTES
    }
}

/// Iterates over lines without their ends; what follows the last end is left out.
fn whole_lines(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    lines.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"))
}

impl Received {
    /// Reads everything, and writes it until `write` returns that nobody wants it or the core has dropped the monitor.
    fn write_all(mut self, mask: &impl Fn(&str) -> String, mut write: impl FnMut(Box<RawValue>) -> bool) {
        while let Some(batch) = self.batches.blocking_recv() {
            if !self.write_batch(&batch, mask, &mut write) {
                return;
            }
            self.shared.waiting.fetch_sub(batch.size(), Ordering::Relaxed);
        }
        if !self.shared.gone.load(Ordering::Relaxed) {
            send(&mut Frames { dropped: true, ..Frames::default() }, &mut write);
        }
    }

    fn write_batch(
        &mut self,
        batch: &Batch,
        mask: &impl Fn(&str) -> String,
        write: &mut impl FnMut(Box<RawValue>) -> bool,
    ) -> bool {
        let mut frames = Frames { missed: batch.missed, ..Frames::default() };
        let (mut size, mut begin) = (0, 0);
        for piece in &batch.pieces {
            let bytes = &batch.bytes[begin..piece.end];
            begin = piece.end;
            let place = (piece.at, piece.at_unix_ms, piece.direction, piece.client);
            let mut add = |frame: Option<codexd_proto::feed::Frame>| {
                let Some(frame) = frame else { return true };
                let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
                size += FRAME_BYTES + length(&frame.method) + length(&frame.id) + length(&frame.body);
                frames.frames.push(frame);
                if size < AT_ONCE_BYTES {
                    return true;
                }
                size = 0;
                send(&mut frames, write)
            };
            let goes_on = match &piece.form {
                Form::Lines => whole_lines(bytes).all(|line| add(self.reader.message(place, line, mask))),
                Form::Message => add(self.reader.message(place, bytes, mask)),
                Form::Head { bytes, head } => add(self.reader.head(place, *bytes, head.as_deref().cloned())),
            };
            if !goes_on {
                return false;
            }
        }
        (frames.frames.is_empty() && frames.missed == 0) || send(&mut frames, write)
    }
}

/// Writes some frames, and takes them away.
fn send(frames: &mut Frames, write: &mut impl FnMut(Box<RawValue>) -> bool) -> bool {
    let written = to_raw_value(frames);
    *frames = Frames::default();
    written.map_or(true, write)
}

impl Written {
    /// Waits for the next frames; `None` when the last ones were written.
    pub(super) async fn next(&mut self) -> Option<Box<RawValue>> {
        self.frames.recv().await
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        self.shared.gone.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_bodies() -> FrameFilter {
        FrameFilter { bodies: true, ..FrameFilter::default() }
    }

    /// Drops the core's end and returns everything that is written.
    fn written(monitor: Monitor, received: Received) -> Vec<Frames> {
        drop(monitor);
        let mut all = Vec::new();
        received.write_all(&str::to_owned, |text| {
            all.push(serde_json::from_str(text.get()).unwrap());
            true
        });
        all
    }

    fn line(bytes: usize) -> Vec<u8> {
        let mut line = br#"{"method":"a/b","params":{"text":""#.to_vec();
        line.resize(bytes - 3, b'x');
        line.extend_from_slice(b"\"}}");
        line
    }

    #[test]
    fn lines_that_pass_together_are_read_one_by_one_and_long_ones_by_what_they_are() {
        let (mut monitor, received) = queue(FrameFilter::default());
        let client = Some(ClientId(7));
        let mut lines = Vec::new();
        for bytes in [40, 50, MAX_COPIED_BYTES + 1, 60] {
            lines.extend_from_slice(&line(bytes));
            lines.push(b'\n');
        }
        monitor.push_lines(Direction::ToClient, client, &lines);
        let many = [line(MAX_COPIED_AT_ONCE), b"\n".to_vec(), line(45), b"\n".to_vec()].concat();
        monitor.push_lines(Direction::ToClient, client, &many);
        // A message of a WebSocket can have line breaks.
        monitor.push(Direction::FromClient, client, b"{\"id\":1,\n\"method\":\"c\"}");
        assert!(monitor.batch.bytes.len() < MAX_COPIED_AT_ONCE, "a long message was copied");
        assert!(monitor.send());
        let frames: Vec<_> = written(monitor, received).into_iter().flat_map(|it| it.frames).collect();
        let sizes: Vec<u64> = frames.iter().map(|frame| frame.bytes).collect();
        assert_eq!(sizes, [40, 50, MAX_COPIED_BYTES as u64 + 1, 60, MAX_COPIED_AT_ONCE as u64, 45, 22]);
        for frame in &frames[..6] {
            assert_eq!(
                (&*frame.kind, frame.method.as_deref(), frame.client),
                ("notification", Some("a/b"), Some(7))
            );
            assert!(frame.body.is_none());
        }
        assert_eq!((&*frames[6].kind, frames[6].method.as_deref()), ("request", Some("c")));
    }

    #[test]
    fn a_monitor_without_bodies_that_does_not_read_misses_messages_and_is_told_how_many() {
        let (mut monitor, mut received) = queue(FrameFilter::default());
        let lines = [line(1000), b"\n".to_vec()].concat().repeat(60);
        let mut pushed: u64 = 0;
        while monitor.batch.missed < 120 {
            monitor.push_lines(Direction::ToClient, Some(ClientId(1)), &lines);
            pushed += 60;
            assert!(monitor.send() && pushed < 1_000_000);
        }
        let mut got = 0;
        while let Ok(batch) = received.batches.try_recv() {
            assert_eq!(batch.missed, 0);
            received.shared.waiting.fetch_sub(batch.size(), Ordering::Relaxed);
            received.write_batch(&batch, &str::to_owned, &mut |text| {
                got += serde_json::from_str::<Frames>(text.get()).unwrap().frames.len() as u64;
                true
            });
        }
        monitor.push_lines(Direction::ToClient, Some(ClientId(1)), &lines);
        assert!(monitor.send());
        let last = written(monitor, received);
        assert_eq!((last[0].missed, last[0].frames.len()), (120, 60));
        assert_eq!(pushed, got + 120);
    }

    #[test]
    fn a_monitor_with_bodies_that_does_not_read_is_dropped_and_gets_what_was_sent_before() {
        let (mut monitor, received) = queue(with_bodies());
        let mut sent = 0;
        loop {
            monitor.push(Direction::FromCodex, None, &line(1 << 20));
            if !monitor.send() {
                break;
            }
            sent += 1;
            assert!(sent < 100);
        }
        assert!(sent >= (MAX_WAITING_BYTES >> 20) - 1, "{sent}");
        let all = written(monitor, received);
        assert_eq!(all.iter().map(|it| it.frames.len()).sum::<usize>(), sent);
        assert!(all.last().unwrap().dropped);
    }

    #[test]
    fn what_is_sent_at_once_is_bounded_and_so_are_bodies() {
        let (mut monitor, received) = queue(with_bodies());
        for _ in 0..10 {
            for _ in 0..10 {
                monitor.push(Direction::FromCodex, None, &line(100_000));
            }
            assert!(monitor.send());
        }
        monitor.push(Direction::FromCodex, None, &line(MAX_BODY_BYTES + 1));
        assert!(monitor.send());
        let shared = Arc::clone(&received.shared);
        let all = written(monitor, received);
        for frames in &all {
            assert!(frames.frames.len() <= 3, "{}", frames.frames.len());
        }
        let frames: Vec<_> = all.into_iter().flat_map(|it| it.frames).collect();
        assert_eq!((frames.len(), shared.waiting.load(Ordering::Relaxed)), (101, 0));
        assert_eq!(frames[0].body.as_ref().map(String::len), Some(100_000));
        assert_eq!((frames[100].body.as_ref(), &*frames[100].kind), (None, "notification"));
    }

    #[test]
    fn what_nobody_wants_is_not_copied() {
        let (mut monitor, _received) = queue(FrameFilter {
            clients: vec![3],
            directions: vec![Direction::ToClient],
            ..FrameFilter::default()
        });
        monitor.push(Direction::FromCodex, None, b"{}");
        monitor.push_lines(Direction::ToClient, Some(ClientId(4)), b"{}\n");
        assert_eq!(monitor.batch.size(), 0);
        // The request of a response that is wanted.
        monitor.push(Direction::FromClient, Some(ClientId(3)), b"{}");
        assert_eq!(monitor.batch.bytes, b"{}");
    }

    #[test]
    fn a_subscriber_that_goes_ends_the_monitor() {
        let (mut monitor, mut written) = start(FrameFilter::default(), Arc::default()).unwrap();
        monitor.push(Direction::FromCodex, None, &line(100));
        assert!(monitor.send());
        assert!(written.frames.blocking_recv().is_some());
        drop(written);
        assert!(!monitor.send());
    }
}
