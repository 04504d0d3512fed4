//! Threads: who hears them, and which turn is open.

use crate::id::{ClientId, ThreadId, UpstreamId};

/// What codexd keeps of one thread.
#[derive(Debug, Default)]
pub(super) struct Thread {
    /// In the order in which they subscribed.
    pub(super) subscribers: Vec<ClientId>,
    /// Seen in a response or status, and not yet not loaded.
    pub(super) loaded: bool,
    /// Its status says that something runs.
    pub(super) active: bool,
    /// Never announced to anybody: another thread's turn made it.
    pub(super) sub_agent: bool,
    pub(super) turn: Option<OpenTurn>,
    /// The turn that ended last, between its quotes.
    pub(super) last_turn: Option<Box<[u8]>>,
    /// Who gets what the upstream repeats behind a resume or fork. It stays when that client goes:
    /// then the repetition is for nobody.
    pub(super) replay: Option<Replay>,
}

/// A turn that has started and not ended.
#[derive(Debug)]
pub(super) struct OpenTurn {
    /// Between its quotes.
    pub(super) id: Box<[u8]>,
    /// The turn object as the upstream gave it when the turn began.
    pub(super) object: Box<[u8]>,
    /// The item of the final answer, while nothing came after it.
    pub(super) final_answer: Option<Box<[u8]>>,
    /// Who has heard that it is open.
    pub(super) known_to: KnownTo,
}

/// Who has heard that a turn is open, and so waits for its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KnownTo {
    /// Those whose request was answered with it; `turn/started` is still to come.
    Requesters(Vec<ClientId>),
    /// Everyone who hears the thread.
    Subscribers,
}

/// The requester of the last resume or fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Replay {
    pub(super) to: ClientId,
    /// The copy of the token usage is still to come.
    pub(super) usage: bool,
}

impl Thread {
    /// Adds a subscriber; tells whether it was none before.
    pub(super) fn subscribe(&mut self, client: ClientId) -> bool {
        let new = !self.subscribers.contains(&client);
        if new {
            self.subscribers.push(client);
        }
        new
    }

    /// Removes a subscriber; tells whether it was one.
    pub(super) fn unsubscribe(&mut self, client: ClientId) -> bool {
        let before = self.subscribers.len();
        self.subscribers.retain(|c| *c != client);
        self.subscribers.len() < before
    }

    /// Notes that a turn is open, and who was told so; nothing if it has ended already.
    pub(super) fn open_turn(&mut self, id: &[u8], object: &[u8], told: KnownTo) {
        if self.last_turn.as_deref() == Some(id) {
            return;
        }
        match (&mut self.turn, told) {
            (Some(turn), told) if *turn.id == *id => match (&mut turn.known_to, told) {
                (KnownTo::Requesters(known), KnownTo::Requesters(told)) => {
                    known.extend(told);
                    known.sort_unstable();
                    known.dedup();
                }
                (known, KnownTo::Subscribers) => *known = KnownTo::Subscribers,
                (KnownTo::Subscribers, KnownTo::Requesters(_)) => {}
            },
            (turn, told) => {
                let (id, object) = (id.into(), object.into());
                *turn = Some(OpenTurn { id, object, final_answer: None, known_to: told });
            }
        }
    }

    /// Notes that a turn has ended; tells whether it was the open one.
    pub(super) fn close_turn(&mut self, id: &[u8]) -> bool {
        self.last_turn = Some(id.into());
        if self.turn.as_ref().is_some_and(|t| *t.id == *id) {
            self.turn = None;
            return true;
        }
        false
    }

    /// Tells whether something runs on the thread that a drain waits for.
    pub(super) fn is_busy(&self) -> bool {
        self.active || self.turn.is_some()
    }

    /// Tells whether nothing would be lost by forgetting the thread.
    pub(super) fn is_forgettable(&self) -> bool {
        self.subscribers.is_empty() && !self.loaded && !self.is_busy()
    }
}

/// A line that waits for the response which says whose it is.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) thread: ThreadId,
    pub(super) line: Box<[u8]>,
    /// It tells that the thread is not loaded any more.
    pub(super) unloads: bool,
    /// Clients that had initialized when it came: those with a smaller place in the order.
    pub(super) joined_before: u64,
    /// The request that came next: those from it on cannot have caused the line.
    pub(super) requested_before: UpstreamId,
    /// When it is given up waiting.
    pub(super) deadline: crate::time::Time,
}
