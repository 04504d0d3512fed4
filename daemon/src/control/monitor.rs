//! A monitor's queue of messages: a ring of bytes, into which the core copies what passes, and out of which a thread of its
//! own reads.
//!
//! The core never waits, allocates nothing, wakes nobody, and reads no message: it adds what has passed with when and where,
//! or counts what it does not add. Reading it, choosing, masking secrets and writing JSON are done by the thread, which has
//! a low priority and looks for more every few milliseconds.
//!
//! Even so, what is copied takes time from what passes: that of the copy, and that of the thread and of the process that
//! shows it, since a low priority still takes a tenth of a processor that others need. Therefore, in a [flood](Flood), the
//! core copies a little now and then, to show that messages pass, and counts the others. The thread does not measure it
//! again: while the count grows, it reads about twice as much as is copied, and so what was copied before the flood was one
//! is read slowly, too. It reads everything when the count does not grow, or when half of the ring is full. What is too much
//! for it has no room in the ring, and is counted, too.
//!
//! The number of messages that were missed is exact: each message that is wanted is shown or counted. A monitor that shows
//! bodies has to be whole: nothing is left out in a flood, and it is dropped when its ring is full.

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
/// Bytes of several messages that are copied without being taken apart: in a flood, all of them or none.
const MAX_COPIED_AT_ONCE: usize = 8 << 10;
/// Bytes of JSON that are sent in one message, unless one frame alone has more.
const AT_ONCE_BYTES: usize = 256 << 10;
/// What a frame counts for there beside its texts, in bytes.
const FRAME_BYTES: usize = 160;
/// Messages of JSON that wait to be written to the subscriber.
const WRITTEN_AHEAD: usize = 2;
/// Time between looks into an empty ring.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How far the clock of the day can be from that of the frames before the latter is set again, in milliseconds.
const MAX_DRIFT_MS: u64 = 1_000;
/// Bytes that are read at each look in a flood.
const SLICE_BYTES: usize = 16 << 10;
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
    /// One for each direction: where deltas flood, requests are few. Absent where what is written has to be whole.
    floods: Option<[Flood; 4]>,
    /// Messages that were not copied so far.
    missed: u64,
    /// There was no room, and what is written has to be whole.
    overflown: bool,
    shared: Arc<Shared>,
}

/// What both ends share beside the ring.
#[derive(Debug, Default)]
struct Shared {
    /// Whether the subscriber has gone.
    gone: AtomicBool,
    /// Messages that were not copied so far.
    missed: AtomicU64,
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
    /// Messages that were not copied so far.
    missed: u64,
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
    /// How many messages were not copied, as far as `frames` have told.
    told: u64,
    /// How many there were at the last look.
    missed: u64,
    reader: FrameReader,
    payload: Vec<u8>,
    frames: Frames,
    /// What they count for.
    size: usize,
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
    let floods = (!filter.bodies).then(Default::default);
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
        floods,
        missed: 0,
        overflown: false,
        shared: Arc::clone(&shared),
    };
    let received = Received {
        ring: received,
        began,
        began_unix_ms: unix_ms(),
        shared,
        told: 0,
        missed: 0,
        reader: FrameReader::new(filter),
        payload: Vec::new(),
        frames: Frames::default(),
        size: 0,
    };
    (monitor, received)
}

impl Monitor {
    /// Keeps a message that passes, if it may be wanted.
    #[inline]
    pub(crate) fn push(&mut self, direction: Direction, client: Option<ClientId>, message: &[u8]) {
        if self.wanted.passes(direction, client) && !self.keep_message(direction, client, message) {
            self.miss(1);
        }
    }

    /// Keeps messages that pass together, each with a line end behind it, if they may be wanted; or those up to one that
    /// cannot be kept. `messages` is how many they are, if known.
    pub(crate) fn push_lines(
        &mut self,
        direction: Direction,
        client: Option<ClientId>,
        lines: &[u8],
        messages: Option<u64>,
    ) {
        debug_assert!(messages.is_none_or(|messages| messages == count(lines)), "{messages:?}");
        if !self.wanted.passes(direction, client) {
            return;
        }
        let mut kept = 0;
        while kept < lines.len() {
            let left = &lines[kept..];
            let first = &left[..left.len().min(MAX_COPIED_AT_ONCE)];
            let (is_kept, end) = if let Some(end) = memchr::memrchr(b'\n', first) {
                (self.keep_lines(direction, client, &left[..=end]), end)
            } else if let Some(end) = memchr::memchr(b'\n', left) {
                // A line that is longer than that.
                (self.keep_message(direction, client, &left[..end]), end)
            } else {
                // What follows the last end is none.
                return;
            };
            if !is_kept {
                // In a flood, what is left is long, and to count it takes time, too.
                let missed = match messages {
                    Some(messages) => messages.saturating_sub(count(&lines[..kept])),
                    None => count(left),
                };
                if let Some(floods) = &mut self.floods {
                    floods[direction as usize].leave_out(left.len() - (end + 1));
                }
                return self.miss(missed);
            }
            kept += end + 1;
        }
    }

    /// Returns whether it may want what passes between codexd and codex.
    pub(crate) fn wants_codex(&self) -> bool {
        self.wanted.codex
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

    fn keep_lines(&mut self, direction: Direction, client: Option<ClientId>, lines: &[u8]) -> bool {
        self.copies(direction, lines.len()) && self.write(direction, client, Form::Lines, lines)
    }

    fn keep_message(&mut self, direction: Direction, client: Option<ClientId>, message: &[u8]) -> bool {
        let longest = if self.wanted.bodies { MAX_BODY_BYTES } else { MAX_COPIED_BYTES };
        // Not all that a long one has: one message is no flood.
        if !self.copies(direction, message.len().min(longest)) {
            return false;
        }
        if message.len() <= longest {
            return self.write(direction, client, Form::Message, message);
        }
        let head = serde_json::to_vec(&(message.len(), Head::read(direction, message)));
        head.is_ok_and(|head| self.write(direction, client, Form::Head, &head))
    }

    /// Returns whether what passes is copied, as far as floods are concerned.
    #[inline]
    fn copies(&mut self, direction: Direction, bytes: usize) -> bool {
        let ms = self.now_ns() / 1_000_000;
        let Some(floods) = &mut self.floods else { return true };
        floods[direction as usize].copies(Time::from_millis(ms), bytes)
    }

    #[inline]
    fn now_ns(&mut self) -> u64 {
        let began = self.began;
        *self.now_ns.get_or_insert_with(|| u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Writes a record, if there is room for it.
    fn write(&mut self, direction: Direction, client: Option<ClientId>, form: Form, payload: &[u8]) -> bool {
        let whole = Header::BYTES + payload.len();
        // What the other end has read since the last time is looked up only where it matters.
        if self.ring.cached_slots() < whole && self.ring.slots() < whole {
            return false;
        }
        let (at_ns, missed) = (self.now_ns(), self.missed);
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let header = Header { at_ns, length, client, missed, direction, form }.to_bytes();
        // INVARIANT: both have room. The other end waits for the payload of a header.
        self.ring.push_entire_slice(&header).is_ok() && self.ring.push_entire_slice(payload).is_ok()
    }

    fn miss(&mut self, messages: u64) {
        self.missed += messages;
        self.shared.missed.store(self.missed, Ordering::Relaxed);
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
    const BYTES: usize = 28;
    const DIRECTIONS: [Direction; 4] =
        [Direction::FromClient, Direction::ToCodex, Direction::FromCodex, Direction::ToClient];
    const FORMS: [Form; 3] = [Form::Lines, Form::Message, Form::Head];

    fn to_bytes(self) -> [u8; Header::BYTES] {
        let mut bytes = [0; Header::BYTES];
        bytes[..8].copy_from_slice(&self.at_ns.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.missed.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.length.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.client.map_or(0, |client| client.0).to_le_bytes());
        bytes[24] = u8::from(self.client.is_some());
        bytes[25] = self.direction as u8;
        bytes[26] = self.form as u8;
        bytes
    }

    fn from_bytes(bytes: [u8; Header::BYTES]) -> Header {
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Header {
            at_ns: u64::from(number(0)) | u64::from(number(4)) << 32,
            missed: u64::from(number(8)) | u64::from(number(12)) << 32,
            length: number(16),
            client: (bytes[24] == 1).then(|| ClientId(number(20))),
            direction: Header::DIRECTIONS[usize::from(bytes[25])],
            form: Header::FORMS[usize::from(bytes[26])],
        }
    }
}

/// Returns how many lines there are; what follows the last end is none.
fn count(lines: &[u8]) -> u64 {
    memchr_iter(b'\n', lines).count() as u64
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
            let missed = self.shared.missed.load(Ordering::Relaxed);
            let flooded = missed > std::mem::replace(&mut self.missed, missed) && !ended;
            let much = self.ring.slots() > RING_BYTES / 2;
            let mut left = if flooded && !much { SLICE_BYTES } else { usize::MAX };
            while left > 0
                && let Some(header) = self.next()
            {
                left = left.saturating_sub(Header::BYTES + header.length as usize);
                if !self.add(header, mask, &mut write) {
                    return;
                }
            }
            if !self.frames.frames.is_empty() && !self.send(&mut write) {
                return;
            }
            // In a flood, the next record tells how many were missed; afterwards, there may be none for a long time.
            if !flooded && self.misses(missed) && !self.send(&mut write) {
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
            std::thread::park_timeout(LOOK_EVERY);
            self.set_clock();
        }
    }

    /// Adds how many messages were missed that were not told yet. Returns whether there are any.
    fn misses(&mut self, missed: u64) -> bool {
        // What was told can be more than stands in a record that was written meanwhile.
        let more = missed.saturating_sub(self.told);
        self.frames.missed += more;
        self.told += more;
        more > 0
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
        let goes_on = header.missed <= self.told || self.frames.frames.is_empty() || self.send(write);
        self.misses(header.missed);
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

    /// How long a test waits before it fails.
    const PATIENCE: Duration = Duration::from_secs(60);

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

    fn lines(number: usize, bytes: usize) -> Vec<u8> {
        [line(bytes), b"\n".to_vec()].concat().repeat(number)
    }

    fn shown(all: &[Frames]) -> u64 {
        all.iter().map(|it| it.frames.len() as u64).sum()
    }

    /// Waits until so many messages were shown or missed.
    #[track_caller]
    fn everything(written: &mut Written, messages: u64) -> Vec<Frames> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (mut all, mut seen) = (Vec::<Frames>::new(), 0);
        while seen < messages {
            let next = runtime.block_on(async { tokio::time::timeout(PATIENCE, written.next()).await });
            let Ok(Some(text)) = next else { panic!("{seen} of {messages} messages, and no more") };
            let frames: Frames = serde_json::from_str(text.get()).unwrap();
            seen += frames.missed + frames.frames.len() as u64;
            all.push(frames);
        }
        assert_eq!(seen, messages);
        all
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
        monitor.push_lines(Direction::ToClient, client, &lines, None);
        let many = [line(MAX_COPIED_AT_ONCE), b"\n".to_vec(), line(45), b"\n".to_vec()].concat();
        monitor.push_lines(Direction::ToClient, client, &many, Some(2));
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
        let lines = lines(60, 1000);
        let mut pushed: u64 = 0;
        while monitor.missed < 120 {
            // Not so fast that it is a flood.
            monitor.now_ns = Some(pushed * 1_000_000);
            monitor.push_lines(Direction::ToClient, Some(ClientId(1)), &lines, Some(60));
            pushed += 60;
            assert!(monitor.goes_on() && pushed < 1_000_000);
        }
        assert!(pushed * 1000 > RING_BYTES as u64, "{pushed}");
        let missed_first = monitor.missed;
        let mut all: Vec<Frames> = Vec::new();
        let mut write = |text: Box<RawValue>| {
            all.push(serde_json::from_str(text.get()).unwrap());
            true
        };
        while let Some(header) = received.next() {
            assert!(received.add(header, &str::to_owned, &mut write));
        }
        // There is room again.
        monitor.now_ns = Some(pushed * 1_000_000);
        monitor.push_lines(Direction::ToClient, Some(ClientId(1)), &lines, Some(60));
        all.extend(written(monitor, received));
        let missed: Vec<usize> = (0..all.len()).filter(|at| all[*at].missed > 0).collect();
        let [at] = missed[..] else { panic!("missed at {missed:?}") };
        assert_eq!((all[at].missed, shown(&all[at..])), (missed_first, 60));
        assert_eq!(shown(&all[..at]), pushed - missed_first);
    }

    /// Pushes lines at twice the rate of a flood for two seconds of the monitor's clock, in pieces of all sizes. Returns how
    /// many lines.
    fn flood(monitor: &mut Monitor) -> u64 {
        let mut pushed = 0;
        for ms in 0..2_000_u64 {
            monitor.now_ns = Some(ms * 1_000_000);
            // Now and then, many that had to wait, and a long one between them.
            let many = if ms % 50 == 7 { 40 } else { 1 };
            let pieces = [lines(33 * many, 1_000), lines(1, MAX_COPIED_AT_ONCE + 5), lines(2, 100)];
            let pieces = if many > 1 { pieces.concat() } else { pieces[0].clone() };
            pushed += count(&pieces);
            // How many they are is known, or not.
            let messages = (ms % 3 > 0).then(|| count(&pieces));
            monitor.push_lines(Direction::ToClient, Some(ClientId(1)), &pieces, messages);
            assert!(monitor.goes_on());
        }
        pushed
    }

    #[test]
    fn in_a_flood_some_messages_of_all_the_time_are_shown_and_all_others_counted() {
        let (mut monitor, mut written) = start(FrameFilter::default(), Arc::default()).unwrap();
        let pushed = flood(&mut monitor);
        let all = everything(&mut written, pushed);
        let shown = shown(&all);
        assert!((800..3_000).contains(&shown), "{shown} of {pushed}");
        // None of its 20 parts is left out.
        let began = all[0].frames[0].at_unix_ms;
        for part in 0..20 {
            let in_it = |at: u64| (at.saturating_sub(began)) / 100 == part;
            assert!(all.iter().flat_map(|it| &it.frames).any(|frame| in_it(frame.at_unix_ms)), "{part}");
        }
        // What was missed last was told although nothing came behind it: the monitor is still there.
        assert!(monitor.goes_on());
    }

    #[test]
    fn a_flood_in_one_direction_hides_nothing_in_another_and_a_record_is_whole() {
        for bodies in [false, true] {
            let (mut monitor, received) = queue(FrameFilter { bodies, ..FrameFilter::default() });
            let mut pushed = 0;
            for ms in 0..300_u64 {
                monitor.now_ns = Some(ms * 1_000_000);
                monitor.push_lines(Direction::ToClient, Some(ClientId(1)), &lines(40, 1_000), None);
                monitor.push(Direction::FromClient, Some(ClientId(2)), b"{\"method\":\"rare\",\"id\":1}");
                pushed += 41;
            }
            assert_eq!(monitor.missed > 0, !bodies);
            let all = written(monitor, received);
            let missed: u64 = all.iter().map(|it| it.missed).sum();
            assert_eq!(shown(&all) + missed, pushed);
            let frames = all.iter().flat_map(|it| &it.frames);
            assert_eq!(frames.filter(|frame| frame.method.as_deref() == Some("rare")).count(), 300);
        }
    }

    #[test]
    fn long_messages_are_no_flood_by_their_length() {
        let (mut monitor, received) = queue(FrameFilter::default());
        for _ in 0..20 {
            monitor.now_ns = Some(1_000_000);
            monitor.push(Direction::FromCodex, None, &line(1 << 20));
            monitor.push_lines(Direction::ToClient, Some(ClientId(1)), &lines(1, 1 << 20), None);
        }
        assert_eq!((monitor.missed, shown(&written(monitor, received))), (0, 40));
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
                    let header = Header {
                        at_ns: u64::MAX - 3,
                        length: 4 << 20,
                        client,
                        missed: u64::MAX - 7,
                        direction,
                        form,
                    };
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
            // Not so fast that it is a flood.
            monitor.now_ns = Some(n as u64 * 10_000_000);
            monitor.push_lines(
                Direction::ToClient,
                Some(ClientId(1)),
                &[lines.join(&b'\n'), b"\n".to_vec()].concat(),
                Some(50),
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
    fn what_nobody_wants_is_not_copied() {
        let (mut monitor, _received) = queue(FrameFilter {
            clients: vec![3],
            directions: vec![Direction::ToClient],
            ..FrameFilter::default()
        });
        monitor.push(Direction::FromCodex, None, b"{}");
        monitor.push_lines(Direction::ToClient, Some(ClientId(4)), b"{}\n", Some(1));
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
