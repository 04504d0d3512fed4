//! Open items: what the upstream has sent of each item of a thread that has begun and is not complete.
//!
//! The upstream repeats the finished items of a running turn to a client that resumes its thread, and the beginning of a
//! command that runs. It does not repeat the text of open items (measured with 0.169). So codexd keeps that text, and
//! [repeats](super::open_items::repeat) it.
//!
//! Text is kept as it is spelled in the deltas: the inside of a JSON string can be appended to that of another. A delta
//! costs a comparison with the part of the last one that does not change, and a copy.
//!
//! # Invariants
//! A text has no gap at its end: the next delta continues it. What is too much is cut at its beginning, between two
//! deltas. `bytes` is what this thread takes of the [`Room`].

mod repeat;

use std::collections::VecDeque;

use crate::json::scan::{Members, member, skip_digits, skip_string};
use crate::json::{Span, text};
use crate::routes::{Meaning, Notification};

/// Bytes that the open items of one thread can take.
const THREAD_BYTES: usize = 1 << 20;

/// Bytes that the open items of all threads can take.
const ALL_BYTES: usize = 32 << 20;

/// Bytes of the longest `item/started` that is kept. Of an item with a longer one, nothing is kept.
const STARTED_BYTES: usize = 128 << 10;

/// Bytes of the first chunk of a text. Each further one is twice as long, up to [`CHUNK_BYTES`].
const FIRST_CHUNK_BYTES: usize = 512;

/// Bytes of a chunk of a long text. What is cut is cut in chunks.
const CHUNK_BYTES: usize = 64 << 10;

/// Bytes that an item or a part is counted as, besides what it contains.
const OVERHEAD: usize = 128;

/// Bytes that the open items of all threads can still take.
#[derive(Debug)]
pub(crate) struct Room(usize);

impl Default for Room {
    fn default() -> Room {
        Room(ALL_BYTES)
    }
}

impl Room {
    /// Returns how many bytes are taken.
    pub(super) fn taken(&self) -> usize {
        ALL_BYTES - self.0
    }
}

/// See the [module's documentation](self).
#[derive(Debug, Default)]
pub(crate) struct OpenItems {
    /// In the order in which they began.
    items: Vec<OpenItem>,
    /// The texts of all items, in the order in which they began.
    parts: Vec<Part>,
    /// The part to which the last delta belonged.
    current: usize,
    /// The line, up to the text, of the last delta of an item that is not kept; empty if there is none.
    ignored: Vec<u8>,
    bytes: usize,
}

#[derive(Debug)]
struct OpenItem {
    /// Text of its id.
    id: Box<[u8]>,
    /// The parameters of its `item/started`, without the last brace.
    started: Box<[u8]>,
    /// Whether it can go on after its turn has ended, as a command does.
    outlives_turn: bool,
}

/// A text of an item, from all deltas that differ in the text only; or a notification that separates two texts.
#[derive(Debug)]
struct Part {
    method: &'static str,
    /// Text of the id of the item.
    item: Box<[u8]>,
    /// The line of a delta up to the text.
    before: Box<[u8]>,
    /// Where `params` begins in that.
    params: usize,
    /// The line from the quote after the text to the end of `params`, without that quote and the last brace.
    after: Box<[u8]>,
    /// What came before `last`. No chunk is empty.
    earlier: VecDeque<Vec<u8>>,
    /// The chunk to which deltas are appended.
    last: Vec<u8>,
    /// Bytes of the text, as it was spelled, that are not kept.
    cut: usize,
    is_text: bool,
}

impl Part {
    /// Returns the text of a delta, if it belongs to this part.
    #[inline]
    fn text_in(&self, line: &[u8]) -> Option<Span> {
        if !line.starts_with(&self.before) {
            return None;
        }
        let start = self.before.len();
        let quote = skip_string(line, start.checked_sub(1)?)?;
        // After the text of a message, there is nothing.
        let brace = quote + self.after.len();
        let fits = self.after.is_empty() || line.get(quote..brace) == Some(&*self.after);
        (fits && line.get(brace) == Some(&b'}')).then_some(Span { start, end: quote - 1 })
    }

    /// Removes the oldest chunk. Returns how many bytes that frees.
    fn cut_chunk(&mut self) -> usize {
        let chunk = self.earlier.pop_front().unwrap_or_else(|| std::mem::take(&mut self.last));
        self.cut += chunk.len();
        chunk.capacity()
    }

    fn text_bytes(&self) -> usize {
        self.earlier.iter().map(Vec::capacity).sum::<usize>() + self.last.capacity()
    }

    fn bytes(&self) -> usize {
        OVERHEAD + self.item.len() + self.before.len() + self.after.len() + self.text_bytes()
    }
}

impl OpenItem {
    fn bytes(&self) -> usize {
        OVERHEAD + self.id.len() + self.started.len()
    }
}

impl OpenItems {
    /// Records that an item has begun. `params` are the parameters of the notification.
    pub(super) fn started(&mut self, room: &mut Room, line: &[u8], params: usize, item: Span) {
        let Some(end) = object_end(line, params) else { return };
        let Some(id) = member(line, item.start, b"id").and_then(|id| text(line, id)) else { return };
        self.completed(room, &id);
        self.ignored.clear();
        if end - params > STARTED_BYTES {
            return;
        }
        let kind = member(line, item.start, b"type").and_then(|kind| text(line, kind));
        let item = OpenItem {
            id: id.into_owned().into(),
            started: line[params..end - 1].into(),
            outlives_turn: kind.is_some_and(|kind| *kind == *b"commandExecution"),
        };
        if self.make_room(room, item.bytes()) {
            self.take(room, item.bytes());
            self.items.push(item);
        }
    }

    /// Records that an item is complete, by the text of its id.
    pub(super) fn completed(&mut self, room: &mut Room, id: &[u8]) {
        if let Some(at) = self.items.iter().position(|item| *item.id == *id) {
            self.remove(room, at);
        }
    }

    /// Records that a turn has ended. Only what goes on without it is still open.
    pub(super) fn turn_ended(&mut self, room: &mut Room) {
        for at in (0..self.items.len()).rev() {
            if !self.items[at].outlives_turn {
                self.remove(room, at);
            }
        }
    }

    /// Forgets everything: the thread was unloaded, or the upstream sends nothing about it any more.
    pub(super) fn clear(&mut self, room: &mut Room) {
        room.0 += self.bytes;
        *self = OpenItems::default();
    }

    /// Records a notification that is about the text of an item, if it is one.
    #[inline]
    pub(super) fn heard(
        &mut self,
        room: &mut Room,
        note: &'static Notification,
        line: &[u8],
        params: Option<usize>,
    ) {
        let Some(params) = params else { return };
        match note.meaning {
            Meaning::ItemText => self.append(room, note.method, line, params),
            Meaning::ItemSection => self.separated(room, note.method, line, params),
            _ => {}
        }
    }

    /// Appends a delta.
    #[inline]
    fn append(&mut self, room: &mut Room, method: &'static str, line: &[u8], params: usize) {
        if let Some(part) = self.parts.get_mut(self.current)
            && let Some(text) = part.text_in(line)
            && text.end - text.start <= part.last.capacity() - part.last.len()
        {
            part.last.extend_from_slice(text.of(line));
        } else {
            self.append_elsewhere(room, method, line, params);
        }
    }

    /// Appends the text of a line that differs from the last delta in its text only, and may differ in the time at its end.
    /// Returns false and has done nothing if it is something else, its text is not UTF-8, or the chunk has no room.
    #[inline]
    pub(super) fn append_next(&mut self, line: &[u8]) -> bool {
        let Some(part) = self.parts.get_mut(self.current).filter(|part| part.is_text) else { return false };
        let Some(span) = part.text_in(line) else { return false };
        let text = span.of(line);
        let after_params = span.end + 1 + part.after.len() + 1;
        if text.len() > part.last.capacity() - part.last.len()
            || !ends_message(line, after_params)
            || !(text.is_ascii() || simdutf8::basic::from_utf8(text).is_ok())
        {
            return false;
        }
        part.last.extend_from_slice(text);
        true
    }

    /// Appends a delta that belongs to another part than the last one, or for which the chunk has no room.
    fn append_elsewhere(&mut self, room: &mut Room, method: &'static str, line: &[u8], params: usize) {
        if !self.ignored.is_empty() && line.starts_with(&self.ignored) {
            return;
        }
        let found = self.parts.iter().enumerate().find_map(|(at, part)| Some((at, part.text_in(line)?)));
        let found = found.or_else(|| self.begin(room, method, line, params));
        let Some((at, text)) = found else { return };
        self.current = at;
        self.push(room, at, text.of(line));
    }

    /// Begins a part with its first delta. Returns the part and the text of the delta; `None` if the item is not kept.
    fn begin(
        &mut self,
        room: &mut Room,
        method: &'static str,
        line: &[u8],
        params: usize,
    ) -> Option<(usize, Span)> {
        let inner = member(line, params, b"delta").filter(|delta| line[delta.start] == b'"')?.inner();
        let at = self.add_part(room, method, line, params, inner);
        if at.is_none()
            && let Some(item) = member(line, params, b"itemId").and_then(|id| text(line, id))
        {
            // Without this delta, the texts of the item have a gap.
            self.completed(room, &item);
            self.ignored.clear();
            self.ignored.extend_from_slice(&line[..inner.start]);
        }
        Some((at?, inner))
    }

    /// Records a notification that separates two texts of an item.
    fn separated(&mut self, room: &mut Room, method: &'static str, line: &[u8], params: usize) {
        if let Some(end) = object_end(line, params) {
            self.add_part(room, method, line, params, Span { start: end - 1, end: end - 1 });
        }
    }

    fn add_part(
        &mut self,
        room: &mut Room,
        method: &'static str,
        line: &[u8],
        params: usize,
        inner: Span,
    ) -> Option<usize> {
        let end = object_end(line, params)?;
        let item = text(line, member(line, params, b"itemId")?)?;
        self.items.iter().find(|open| *open.id == *item)?;
        let part = Part {
            method,
            item: item.into_owned().into(),
            before: line[..inner.start].into(),
            params,
            after: line.get(inner.end + 1..end - 1).unwrap_or_default().into(),
            earlier: VecDeque::new(),
            last: Vec::new(),
            cut: 0,
            is_text: inner.end < end - 1,
        };
        if !self.make_room(room, part.bytes()) {
            return None;
        }
        self.take(room, part.bytes());
        self.parts.push(part);
        Some(self.parts.len() - 1)
    }

    fn push(&mut self, room: &mut Room, at: usize, text: &[u8]) {
        let part = &mut self.parts[at];
        if text.len() > part.last.capacity() - part.last.len() {
            let bytes = (2 * part.last.capacity()).clamp(FIRST_CHUNK_BYTES, CHUNK_BYTES).max(text.len());
            let has_room = self.make_room(room, bytes);
            let part = &mut self.parts[at];
            if !has_room {
                // Nothing is left to be cut, this text included. Otherwise there would be a gap.
                part.cut += text.len();
                return;
            }
            let full = std::mem::replace(&mut part.last, Vec::with_capacity(bytes));
            let taken = part.last.capacity();
            if full.is_empty() {
                let freed = full.capacity();
                self.give_back(room, freed);
            } else {
                part.earlier.push_back(full);
            }
            self.take(room, taken);
        }
        self.parts[at].last.extend_from_slice(text);
    }

    /// Makes room for some bytes: cuts the longest texts of this thread. Returns whether there is room.
    fn make_room(&mut self, room: &mut Room, bytes: usize) -> bool {
        while self.bytes + bytes > THREAD_BYTES || bytes > room.0 {
            let longest = self.parts.iter_mut().max_by_key(|part| part.text_bytes());
            let Some(longest) = longest.filter(|part| part.text_bytes() > 0) else { return false };
            let freed = longest.cut_chunk();
            self.give_back(room, freed);
        }
        true
    }

    fn take(&mut self, room: &mut Room, bytes: usize) {
        self.bytes += bytes;
        room.0 = room.0.saturating_sub(bytes);
    }

    fn give_back(&mut self, room: &mut Room, bytes: usize) {
        self.bytes -= bytes;
        room.0 += bytes;
    }

    fn remove(&mut self, room: &mut Room, at: usize) {
        let item = self.items.remove(at);
        let mut freed = item.bytes();
        self.parts.retain(|part| {
            let stays = part.item != item.id;
            freed += if stays { 0 } else { part.bytes() };
            stays
        });
        // The next delta finds its part.
        self.current = usize::MAX;
        self.give_back(room, freed);
    }
}

/// Returns whether nothing but the time of a notification comes behind its parameters, which end before `at`.
#[inline]
fn ends_message(line: &[u8], at: usize) -> bool {
    const TIME: &[u8] = b",\"emittedAtMs\":";
    let rest = &line[at..];
    rest == b"}"
        || (rest.starts_with(TIME)
            && skip_digits(line, at + TIME.len()) == line.len() - 1
            && rest.ends_with(b"}"))
}

/// Returns the offset after the object that begins at `at`.
fn object_end(line: &[u8], at: usize) -> Option<usize> {
    let mut members = Members::new(line, at);
    members.by_ref().for_each(drop);
    members.end()
}
