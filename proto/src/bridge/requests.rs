//! The requests of the client that have no answer yet.

use std::collections::BTreeMap;

use crate::id::{RequestId, ThreadId};
use crate::json::edit::write_text;
use crate::json::text::decoded;
use crate::routes::Resource;

/// Bytes of lines that are kept after they were written, to be written again to another daemon: of more, later ones are
/// treated as those that cannot be repeated.
const KEPT_BYTES: usize = 1 << 20;

/// An id as JSON text that is the same for all spellings: `"a"` and `"\u0061"` are one id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id(Box<[u8]>);

impl Id {
    /// Reads the JSON text of an id; `None` if it is not a legal one.
    pub(super) fn read(text: &[u8]) -> Option<Id> {
        Some(Id::of(&RequestId::from_json(text)?))
    }

    fn of(id: &RequestId) -> Id {
        let mut same = Vec::new();
        match id {
            RequestId::Text(text) => write_text(&mut same, &decoded(&text[1..text.len() - 1])),
            number @ RequestId::Number(_) => number.write(&mut same),
        }
        Id(same.into())
    }
}

/// What the success of a request means to the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    /// Subscribes to the thread in the result.
    Opens,
    /// Subscribes to a thread that is loaded, also when it fails.
    Subscribes,
    /// Ends the subscription.
    Leaves,
    /// Starts or joins a turn.
    StartsTurn {
        review: bool,
    },
    /// Opens or closes what a connection-scoped id names.
    Resource {
        resource: Resource,
        id: Box<[u8]>,
        opens: bool,
    },
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It waits to be written, in the queue or for its thread.
    Waiting,
    /// All of it was written.
    Written,
    /// The daemon has said that it was not carried out: it is for the next one.
    Returned,
    /// It may have been carried out, and the history of its thread decides.
    Undecided,
}

/// A request without an answer.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: RequestId,
    pub(super) effect: Effect,
    /// The thread that it names.
    pub(super) thread: Option<ThreadId>,
    /// Whether it needs that thread to be loaded.
    pub(super) needs_thread: bool,
    /// Whether it makes the daemon keep something for the client.
    pub(super) attaches: bool,
    /// Whether it can be written again when it may have been carried out.
    pub(super) repeatable: bool,
    /// Whether it resumes a thread by its id.
    pub(super) resumes: bool,
    /// The `config` with which it opens a thread, as far as it is to be given again.
    pub(super) config: Option<Box<[u8]>>,
    /// The text of its `clientUserMessageId`.
    pub(super) message_id: Option<Box<[u8]>>,
    pub(super) progress: Progress,
    /// Whether a daemon that is lost may have carried it out. It is written again all the same if it is
    /// [`repeatable`](Self::repeatable).
    pub(super) may_have_run: bool,
    /// Its line, with the line feed; gone once it was written and is not to be written again.
    pub(super) line: Option<Vec<u8>>,
}

/// See the [module's documentation](self).
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// By their place in the client's order.
    all: BTreeMap<u64, Request>,
    /// Nothing keeps a client from giving one id to several.
    by_id: BTreeMap<Id, Vec<u64>>,
    /// Bytes of lines that were written and are kept.
    kept_bytes: usize,
    /// Bytes of lines that are to be written.
    waiting_bytes: usize,
}

impl Requests {
    pub(super) fn add(&mut self, place: u64, request: Request) {
        self.by_id.entry(Id::of(&request.id)).or_default().push(place);
        self.waiting_bytes += request.line.as_ref().map_or(0, Vec::len);
        self.all.insert(place, request);
    }

    pub(super) fn get(&self, place: u64) -> Option<&Request> {
        self.all.get(&place)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Returns the bytes of lines that wait.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Returns the places of all requests, in the client's order.
    pub(super) fn places(&self) -> Vec<u64> {
        self.all.keys().copied().collect()
    }

    /// Finds the request that a response is to, by the JSON text of its id: codexd repeats the spelling of the client,
    /// codex itself does not.
    pub(super) fn find(&self, spelled: &[u8]) -> Option<u64> {
        let places = self.by_id.get(&Id::read(spelled)?)?;
        let is_written = |place: &&u64| self.all[*place].progress != Progress::Waiting;
        let is_spelled = |place: &&u64| {
            let mut own = Vec::new();
            self.all[*place].id.write(&mut own);
            own == spelled
        };
        let written = || places.iter().filter(is_written);
        written().find(is_spelled).or_else(|| written().next()).copied()
    }

    /// Whether a request has this id, as text.
    pub(super) fn has_id(&self, spelled: &[u8]) -> bool {
        Id::read(spelled).is_some_and(|id| self.by_id.contains_key(&id))
    }

    /// Removes a request that gets its answer.
    pub(super) fn remove(&mut self, place: u64) -> Option<Request> {
        let request = self.all.remove(&place)?;
        let bytes = request.line.as_ref().map_or(0, Vec::len);
        *self.bytes_of(request.progress) -= bytes;
        let id = Id::of(&request.id);
        if let Some(places) = self.by_id.get_mut(&id) {
            places.retain(|other| *other != place);
            if places.is_empty() {
                self.by_id.remove(&id);
            }
        }
        Some(request)
    }

    fn bytes_of(&mut self, progress: Progress) -> &mut usize {
        if progress == Progress::Written { &mut self.kept_bytes } else { &mut self.waiting_bytes }
    }

    /// Replaces the line of a request that was not written.
    pub(super) fn rewrite(&mut self, place: u64, line: Vec<u8>) {
        let Some(request) = self.all.get_mut(&place).filter(|it| it.progress == Progress::Waiting) else {
            return;
        };
        self.waiting_bytes += line.len();
        let before = request.line.replace(line);
        self.waiting_bytes -= before.map_or(0, |line| line.len());
    }

    /// Moves a request on. The line of one that was written is kept as long as there is room.
    pub(super) fn set(&mut self, place: u64, progress: Progress) {
        let Some(request) = self.all.get_mut(&place) else { return };
        let bytes = request.line.as_ref().map_or(0, Vec::len);
        let before = std::mem::replace(&mut request.progress, progress);
        if progress == Progress::Written && self.kept_bytes + bytes > KEPT_BYTES {
            request.line = None;
            *self.bytes_of(before) -= bytes;
            return;
        }
        *self.bytes_of(before) -= bytes;
        *self.bytes_of(progress) += bytes;
    }

    /// Records that the daemon that is lost may have carried out a request.
    pub(super) fn may_have_run(&mut self, place: u64) {
        if let Some(request) = self.all.get_mut(&place) {
            request.may_have_run = true;
        }
    }
}
