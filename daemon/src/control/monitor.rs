//! A monitor's queue of messages: a ring of bytes, into which the core copies what passes, and out of which a thread of its
//! own reads.
//!
//! The core never waits, allocates nothing, wakes nobody, and reads no message: it adds what has passed with when and where,
//! or, if the ring is full, counts what does not fit. Reading it, choosing, masking secrets and writing JSON are done by the
//! thread, which has a low priority and looks for more every few milliseconds. So a monitor takes what the stream leaves
//! of the machine.
//!
//! A thread with a low priority still takes a tenth of a processor that others need, and so does the process that shows
//! what it reads. Therefore, in a [flood](Flood), the thread reads a slice now and then, to show that messages pass, and the
//! rest of the ring when the flood is over. A monitor that shows bodies has to be whole, so its thread always reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use codexd_proto::feed::{Direction, Frame, FrameFilter, Frames};
use codexd_proto::flood::Flood;
use codexd_proto::id::ClientId;
use codexd_proto::time::Time;
use memchr::memchr_iter;
use rtrb::{Consumer, Producer, RingBuffer};
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::mpsc;

use super::frames::{FrameReader, Head, Place};
use super::surroundings::Surroundings;
use crate::os::priority;
use crate::os::unix_time::unix_ms;

/// Bytes of the ring where bodies are not shown. It is small, because memory that is written again and again stays in the
/// caches of the processor.
const RING_BYTES: usize = 4 << 20;
/// Bytes of the ring of a monitor that shows bodies, and has to be whole.
const BODIES_RING_BYTES: usize = 16 << 20;
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
/// Messages of JSON that wait to be written to the subscriber.
const WRITTEN_AHEAD: usize = 2;
/// Time between looks into an empty ring.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Time between looks in a flood.
const FLOOD_LOOK_EVERY: Duration = Duration::from_millis(100);
/// Bytes of the ring that are read before the flood is considered again.
const SLICE_BYTES: usize = 64 << 10;
/// How far the clock of the day can be from that of the frames before the latter is set again, in milliseconds.
const MAX_DRIFT_MS: u64 = 1_000;
/// Stack of the thread, in bytes.
const STACK_BYTES: usize = 256 << 10;

/// The core's end.
#[derive(Debug)]
pub(crate) struct Monitor {
    wanted: Wanted,
    ring: Producer<u8>,
    /// When it began. Times in the ring are counted from here.
    began: Instant,
    /// When what passes now has passed: it is the same for everything between two [`goes_on`](Monitor::goes_on).
    now_ns: Option<u64>,
    /// Messages since the last record for which the ring had no room.
    missed: u32,
    /// There was no room, and what is written has to be whole.
    overflown: bool,
    /// Bytes for which room was wanted so far.
    passed: u64,
    shared: Arc<Shared>,
}

/// What both ends share beside the ring.
#[derive(Debug, Default)]
struct Shared {
    /// Whether the subscriber has gone.
    gone: AtomicBool,
    /// Bytes for which the core wanted room so far.
    passed: AtomicU64,
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

/// What stands in the ring before each payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    at_ns: u64,
    /// Bytes of the payload.
    length: u32,
    client: Option<ClientId>,
    /// Messages before this for which there was no room.
    missed: u32,
    direction: Direction,
    form: Form,
}

/// What a payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Lines, each with its end.
    Lines,
    /// One message, which may have line breaks in it.
    Message,
    /// One message that was too long to be copied: its length and what it is, as JSON.
    Head,
}

/// The other end: reads what was copied.
#[derive(Debug)]
struct Received {
    ring: Consumer<u8>,
    began: Instant,
    /// The time of day at `began`, in milliseconds since the Unix epoch.
    began_unix_ms: u64,
    shared: Arc<Shared>,
    /// Absent where everything has to be read.
    flood: Option<Flood>,
    reader: FrameReader,
    payload: Vec<u8>,
    frames: Frames,
    /// What they count for.
    size: usize,
}

/// How reading a slice has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    /// There is no more.
    All,
    /// There may be more.
    Slice,
    /// Nobody wants it.
    Nobody,
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
    let (mut ring, mut received) =
        RingBuffer::new(if filter.bodies { BODIES_RING_BYTES } else { RING_BYTES });
    if !filter.bodies {
        // Has the system find memory for it now, and not page by page while the core copies.
        let mut whole = vec![0; RING_BYTES];
        let _ = ring.push_entire_slice(&whole);
        let _ = received.pop_entire_slice(&mut whole);
    }
    let shared = Arc::<Shared>::default();
    let flood = (!filter.bodies).then(Flood::default);
    let began = Instant::now();
    let any = |of: [Direction; 2]| {
        filter.directions.is_empty() || filter.directions.iter().any(|direction| of.contains(direction))
    };
    let wanted = Wanted {
        clients: any([Direction::FromClient, Direction::ToClient]),
        codex: any([Direction::ToCodex, Direction::FromCodex]),
        only: filter.clients.clone(),
        bodies: filter.bodies,
    };
    let monitor = Monitor {
        wanted,
        ring,
        began,
        now_ns: None,
        missed: 0,
        overflown: false,
        passed: 0,
        shared: Arc::clone(&shared),
    };
    let received = Received {
        ring: received,
        began,
        began_unix_ms: unix_ms(),
        shared,
        flood,
        reader: FrameReader::new(filter),
        payload: Vec::new(),
        frames: Frames::default(),
        size: 0,
    };
    (monitor, received)
}

impl Monitor {
    /// Keeps a message that passes, if it may be wanted.
    pub(crate) fn push(&mut self, direction: Direction, client: Option<ClientId>, message: &[u8]) {
        if self.wanted.passes(direction, client) {
            self.keep_message(direction, client, message);
        }
    }

    /// Keeps messages that pass together, each with a line end behind it, if they may be wanted.
    pub(crate) fn push_lines(&mut self, direction: Direction, client: Option<ClientId>, mut lines: &[u8]) {
        if lines.is_empty() || !self.wanted.passes(direction, client) {
            return;
        }
        while lines.len() > MAX_COPIED_AT_ONCE {
            match memchr::memrchr(b'\n', &lines[..MAX_COPIED_AT_ONCE]) {
                Some(end) => {
                    self.keep_lines(direction, client, &lines[..=end]);
                    lines = &lines[end + 1..];
                }
                // A line that is longer than that; what follows the last end is none.
                None => {
                    let Some(end) = memchr::memchr(b'\n', lines) else { return };
                    self.keep_message(direction, client, &lines[..end]);
                    lines = &lines[end + 1..];
                }
            }
        }
        if !lines.is_empty() {
            self.keep_lines(direction, client, lines);
        }
    }

    /// Ends what has passed at the same time. Returns whether the monitor goes on: not if the subscriber has gone, or if the
    /// ring of a monitor that shows bodies was full, since what it writes may be a record that has to be whole.
    pub(crate) fn goes_on(&mut self) -> bool {
        self.now_ns = None;
        if self.shared.gone.load(Ordering::Relaxed) {
            return false;
        }
        if self.overflown {
            tracing::warn!("a monitor is dropped: it does not read as fast as messages come");
        }
        !self.overflown
    }

    fn keep_lines(&mut self, direction: Direction, client: Option<ClientId>, lines: &[u8]) {
        if !self.write(direction, client, Form::Lines, lines) {
            self.miss(memchr_iter(b'\n', lines).count());
        }
    }

    fn keep_message(&mut self, direction: Direction, client: Option<ClientId>, message: &[u8]) {
        let longest = if self.wanted.bodies { MAX_BODY_BYTES } else { MAX_COPIED_BYTES };
        let kept = if message.len() <= longest {
            self.write(direction, client, Form::Message, message)
        } else {
            let head = serde_json::to_vec(&(message.len(), Head::read(direction, message)));
            head.is_ok_and(|head| self.write(direction, client, Form::Head, &head))
        };
        if !kept {
            self.miss(1);
        }
    }

    /// Writes a record, if there is room for it.
    fn write(&mut self, direction: Direction, client: Option<ClientId>, form: Form, payload: &[u8]) -> bool {
        let whole = Header::BYTES + payload.len();
        self.passed += whole as u64;
        self.shared.passed.store(self.passed, Ordering::Relaxed);
        // What the other end has read since the last time is looked up only where it matters.
        if self.ring.cached_slots() < whole && self.ring.slots() < whole {
            return false;
        }
        let began = self.began;
        let at_ns =
            *self.now_ns.get_or_insert_with(|| u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
        let missed = std::mem::take(&mut self.missed);
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let header = Header { at_ns, length, client, missed, direction, form }.to_bytes();
        // INVARIANT: both have room. The other end waits for the payload of a header.
        self.ring.push_entire_slice(&header).is_ok() && self.ring.push_entire_slice(payload).is_ok()
    }

    fn miss(&mut self, messages: usize) {
        self.missed = self.missed.saturating_add(u32::try_from(messages).unwrap_or(u32::MAX));
        self.overflown |= self.wanted.bodies;
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

impl Header {
    const BYTES: usize = 24;
    const DIRECTIONS: [Direction; 4] =
        [Direction::FromClient, Direction::ToCodex, Direction::FromCodex, Direction::ToClient];
    const FORMS: [Form; 3] = [Form::Lines, Form::Message, Form::Head];

    fn to_bytes(self) -> [u8; Header::BYTES] {
        let mut bytes = [0; Header::BYTES];
        bytes[..8].copy_from_slice(&self.at_ns.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.client.map_or(0, |client| client.0).to_le_bytes());
        bytes[16..20].copy_from_slice(&self.missed.to_le_bytes());
        bytes[20] = u8::from(self.client.is_some());
        bytes[21] = self.direction as u8;
        bytes[22] = self.form as u8;
        bytes
    }

    fn from_bytes(bytes: [u8; Header::BYTES]) -> Header {
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Header {
            at_ns: u64::from(number(0)) | u64::from(number(4)) << 32,
            length: number(8),
            client: (bytes[20] == 1).then(|| ClientId(number(12))),
            missed: number(16),
            direction: Header::DIRECTIONS[usize::from(bytes[21])],
            form: Header::FORMS[usize::from(bytes[22])],
        }
    }
}

/// Iterates over lines without their ends; what follows the last end is left out.
fn whole_lines(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut begin = 0;
    memchr_iter(b'\n', lines).map(move |end| {
        let line = &lines[begin..end];
        begin = end + 1;
        line
    })
}

impl Received {
    /// Reads everything, and writes it until `write` returns that nobody wants it or the core has dropped the monitor.
    fn write_all(mut self, mask: &impl Fn(&str) -> String, mut write: impl FnMut(Box<RawValue>) -> bool) {
        loop {
            // To be looked up first: what was written before it is read.
            let ended = self.ring.is_abandoned();
            let flooded = loop {
                let flooded = self.is_flooded() && !ended;
                match self.read_slice(mask, &mut write) {
                    Read::Nobody => return,
                    Read::Slice if !flooded => {}
                    Read::Slice | Read::All => break flooded,
                }
            };
            if (!self.frames.frames.is_empty() || self.frames.missed > 0) && !self.send(&mut write) {
                return;
            }
            if self.shared.gone.load(Ordering::Relaxed) {
                return;
            }
            if ended {
                self.frames.dropped = true;
                self.send(&mut write);
                return;
            }
            std::thread::park_timeout(if flooded { FLOOD_LOOK_EVERY } else { LOOK_EVERY });
            self.set_clock();
        }
    }

    /// Reads about so much as a slice has.
    fn read_slice(
        &mut self,
        mask: &impl Fn(&str) -> String,
        write: &mut impl FnMut(Box<RawValue>) -> bool,
    ) -> Read {
        let mut read = 0;
        while read < SLICE_BYTES {
            let Some(header) = self.next() else { return Read::All };
            read += Header::BYTES + header.length as usize;
            if !self.add(header, mask, write) {
                return Read::Nobody;
            }
        }
        Read::Slice
    }

    fn is_flooded(&mut self) -> bool {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let passed = self.shared.passed.load(Ordering::Relaxed);
        self.flood.as_mut().is_some_and(|flood| flood.is_on(Time::from_millis(ms), passed))
    }

    /// Takes the next record; `None` if there is none.
    fn next(&mut self) -> Option<Header> {
        let mut bytes = [0; Header::BYTES];
        self.ring.pop_entire_slice(&mut bytes).ok()?;
        let header = Header::from_bytes(bytes);
        self.payload.resize(header.length as usize, 0);
        while self.ring.pop_entire_slice(&mut self.payload).is_err() {
            if self.ring.is_abandoned() && self.ring.slots() < self.payload.len() {
                // The core was stopped between the two, by a panic.
                return None;
            }
            std::thread::yield_now();
        }
        Some(header)
    }

    fn add(
        &mut self,
        header: Header,
        mask: &impl Fn(&str) -> String,
        write: &mut impl FnMut(Box<RawValue>) -> bool,
    ) -> bool {
        let since = Duration::from_nanos(header.at_ns);
        let at_unix_ms = self.began_unix_ms + u64::try_from(since.as_millis()).unwrap_or_default();
        let place: Place = (self.began + since, at_unix_ms, header.direction, header.client);
        // Between the frames before and these, and a frame cannot say so.
        let goes_on = header.missed == 0 || self.frames.frames.is_empty() || self.send(write);
        self.frames.missed += u64::from(header.missed);
        let payload = std::mem::take(&mut self.payload);
        let goes_on = goes_on
            && match header.form {
                Form::Lines => whole_lines(&payload).all(|line| {
                    let frame = self.reader.message(place, line, mask);
                    self.add_frame(frame, write)
                }),
                Form::Message => {
                    let frame = self.reader.message(place, &payload, mask);
                    self.add_frame(frame, write)
                }
                Form::Head => match serde_json::from_slice(&payload) {
                    Ok((bytes, head)) => {
                        let frame = self.reader.head(place, bytes, head);
                        self.add_frame(frame, write)
                    }
                    Err(_) => true,
                },
            };
        self.payload = payload;
        goes_on
    }

    fn add_frame(&mut self, frame: Option<Frame>, write: &mut impl FnMut(Box<RawValue>) -> bool) -> bool {
        let Some(frame) = frame else { return true };
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        self.size += FRAME_BYTES + length(&frame.method) + length(&frame.id) + length(&frame.body);
        self.frames.frames.push(frame);
        self.size < AT_ONCE_BYTES || self.send(write)
    }

    /// Writes the frames that there are, and takes them away.
    fn send(&mut self, write: &mut impl FnMut(Box<RawValue>) -> bool) -> bool {
        let written = to_raw_value(&self.frames);
        self.frames.frames.clear();
        (self.frames.missed, self.size) = (0, 0);
        written.map_or(true, write)
    }

    /// Keeps the time of day right when that clock is set or the machine was suspended.
    fn set_clock(&mut self) {
        let now = unix_ms();
        let elapsed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or_default();
        if now.abs_diff(self.began_unix_ms + elapsed) > MAX_DRIFT_MS {
            self.began_unix_ms = now.saturating_sub(elapsed);
        }
    }
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

    /// Bytes of the ring that are not read.
    fn used(monitor: &Monitor) -> usize {
        monitor.ring.buffer().capacity() - monitor.ring.slots()
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
        assert!(used(&monitor) < MAX_COPIED_AT_ONCE, "a long message was copied");
        assert!(monitor.goes_on());
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
        while monitor.missed < 120 {
            monitor.push_lines(Direction::ToClient, Some(ClientId(1)), &lines);
            pushed += 60;
            assert!(monitor.goes_on() && pushed < 1_000_000);
        }
        let mut all: Vec<Frames> = Vec::new();
        let mut write = |text: Box<RawValue>| {
            all.push(serde_json::from_str(text.get()).unwrap());
            true
        };
        while let Some(header) = received.next() {
            assert!(received.add(header, &str::to_owned, &mut write));
        }
        // There is room again.
        monitor.push_lines(Direction::ToClient, Some(ClientId(1)), &lines);
        all.extend(written(monitor, received));
        let shown = |frames: &[Frames]| frames.iter().map(|it| it.frames.len() as u64).sum::<u64>();
        let missed: Vec<usize> = (0..all.len()).filter(|at| all[*at].missed > 0).collect();
        let [at] = missed[..] else { panic!("missed at {missed:?}") };
        assert_eq!((all[at].missed, shown(&all[at..])), (120, 60));
        assert_eq!(shown(&all[..at]), pushed - 120);
    }

    #[test]
    fn a_monitor_with_bodies_that_does_not_read_is_dropped_and_gets_what_was_sent_before() {
        let (mut monitor, received) = queue(with_bodies());
        let mut sent = 0;
        loop {
            monitor.push(Direction::FromCodex, None, &line(1 << 20));
            if !monitor.goes_on() {
                break;
            }
            sent += 1;
            assert!(sent < 100);
        }
        assert!(sent >= (BODIES_RING_BYTES >> 20) - 1, "{sent}");
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
            assert!(monitor.goes_on());
        }
        monitor.push(Direction::FromCodex, None, &line(MAX_BODY_BYTES + 1));
        assert!(monitor.goes_on());
        let all = written(monitor, received);
        for frames in &all {
            assert!(frames.frames.len() <= 3, "{}", frames.frames.len());
        }
        let frames: Vec<_> = all.into_iter().flat_map(|it| it.frames).collect();
        assert_eq!(frames.len(), 101);
        assert_eq!(frames[0].body.as_ref().map(String::len), Some(100_000));
        assert_eq!((frames[100].body.as_ref(), &*frames[100].kind), (None, "notification"));
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        for direction in Header::DIRECTIONS {
            for form in Header::FORMS {
                for client in [None, Some(ClientId(0)), Some(ClientId(u32::MAX))] {
                    let header =
                        Header { at_ns: u64::MAX - 3, length: 4 << 20, client, missed: 7, direction, form };
                    assert_eq!(Header::from_bytes(header.to_bytes()), header);
                }
            }
        }
    }

    #[test]
    fn the_ring_goes_round_and_nothing_is_torn() {
        let (mut monitor, mut received) = queue(FrameFilter::default());
        let (mut sizes, mut read) = (Vec::new(), Vec::new());
        let mut write = |text: Box<RawValue>| {
            let frames: Frames = serde_json::from_str(text.get()).unwrap();
            assert_eq!(frames.missed, 0);
            read.extend(frames.frames.into_iter().map(|frame| frame.bytes));
            true
        };
        // Three times the ring, in pieces that do not divide it.
        for n in 0..(3 * RING_BYTES / 50_000) {
            let lines: Vec<Vec<u8>> = (0..50).map(|at| line(900 + (n * 7 + at) % 200)).collect();
            sizes.extend(lines.iter().map(|line| line.len() as u64));
            monitor.push_lines(
                Direction::ToClient,
                Some(ClientId(1)),
                &[lines.join(&b'\n'), b"\n".to_vec()].concat(),
            );
            assert!(monitor.goes_on());
            while let Some(header) = received.next() {
                assert!(received.add(header, &str::to_owned, &mut write));
            }
        }
        assert!(received.send(&mut write));
        assert_eq!(read, sizes);
    }

    #[test]
    fn what_passes_is_counted_whether_there_is_room_or_not_and_read_in_slices() {
        let (mut monitor, mut received) = queue(FrameFilter::default());
        let lines = [line(1000), b"\n".to_vec()].concat().repeat(60);
        let whole = Header::BYTES + lines.len();
        let mut pushed = 0;
        while monitor.missed == 0 {
            monitor.push_lines(Direction::ToClient, None, &lines);
            pushed += whole;
        }
        assert!(pushed > RING_BYTES, "{pushed}");
        assert_eq!(received.shared.passed.load(Ordering::Relaxed), pushed as u64);
        let before = used(&monitor);
        assert_eq!(received.read_slice(&str::to_owned, &mut |_| true), Read::Slice);
        let read = before - used(&monitor);
        assert!((SLICE_BYTES..SLICE_BYTES + whole).contains(&read), "{read}");
        while received.read_slice(&str::to_owned, &mut |_| true) != Read::All {}
        assert_eq!(used(&monitor), 0);
        // A record has to be whole.
        assert!(received.flood.is_some() && queue(with_bodies()).1.flood.is_none());
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
        assert_eq!(used(&monitor), 0);
        // The request of a response that is wanted.
        monitor.push(Direction::FromClient, Some(ClientId(3)), b"{}");
        assert_eq!(used(&monitor), Header::BYTES + 2);
    }

    #[test]
    fn a_subscriber_that_goes_ends_the_monitor() {
        let (mut monitor, mut written) = start(FrameFilter::default(), Arc::default()).unwrap();
        monitor.push(Direction::FromCodex, None, &line(100));
        assert!(monitor.goes_on());
        assert!(written.frames.blocking_recv().is_some());
        drop(written);
        assert!(!monitor.goes_on());
    }
}
