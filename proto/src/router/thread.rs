//! One thread: its subscribers, and which turn is open.

use crate::id::ClientId;

/// What codexd keeps of one thread.
#[derive(Debug, Default)]
pub(super) struct Thread {
    /// In the order in which they subscribed.
    pub(super) subscribers: Vec<ClientId>,
    /// Reported in a response or status, and not unloaded since.
    pub(super) loaded: bool,
    /// Its status says that something runs.
    pub(super) active: bool,
    /// Never announced to anybody: another thread's turn created it.
    pub(super) sub_agent: bool,
    pub(super) turn: Option<OpenTurn>,
    /// The text of the id of the turn that ended last.
    pub(super) last_turn: Option<Box<[u8]>>,
    /// Who gets what the upstream repeats after a resume or fork. It stays when that client
    /// disconnects: then the repetition is for nobody.
    pub(super) replay: Option<Replay>,
}

/// A turn that has started and not ended.
#[derive(Debug)]
pub(super) struct OpenTurn {
    /// The text of its id.
    pub(super) id: Box<[u8]>,
    /// The turn object as the upstream gave it when the turn began.
    pub(super) object: Box<[u8]>,
    /// The item of the final answer, while nothing came after it.
    pub(super) final_answer: Option<Box<[u8]>>,
    /// Who knows that it is open.
    pub(super) known_to: KnownTo,
}

/// Who knows that a turn is open, and so waits for its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KnownTo {
    /// The clients whose request was answered with it; `turn/started` is still to come.
    Requesters(Vec<ClientId>),
    /// Every subscriber.
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
    /// Records that a turn is open, and who was notified of it; nothing if it has ended already.
    pub(super) fn open_turn(&mut self, id: &[u8], object: &[u8], notified: KnownTo) {
        if self.last_turn.as_deref() == Some(id) {
            return;
        }
        match (&mut self.turn, notified) {
            (Some(turn), notified) if *turn.id == *id => match (&mut turn.known_to, notified) {
                (KnownTo::Requesters(known), KnownTo::Requesters(notified)) => {
                    known.extend(notified);
                    known.sort_unstable();
                    known.dedup();
                }
                (known, KnownTo::Subscribers) => *known = KnownTo::Subscribers,
                (KnownTo::Subscribers, KnownTo::Requesters(_)) => {}
            },
            (turn, known_to) => {
                *turn = Some(OpenTurn { id: id.into(), object: object.into(), final_answer: None, known_to });
            }
        }
    }

    /// Records that a turn has ended; returns whether it was the open one.
    pub(super) fn close_turn(&mut self, id: &[u8]) -> bool {
        self.last_turn = Some(id.into());
        if self.turn.as_ref().is_some_and(|t| *t.id == *id) {
            self.turn = None;
            return true;
        }
        false
    }

    /// Whether something runs on the thread that a drain waits for.
    pub(super) fn is_busy(&self) -> bool {
        self.active || self.turn.is_some()
    }

    /// Whether nothing would be lost by forgetting the thread.
    pub(super) fn is_forgettable(&self) -> bool {
        self.subscribers.is_empty() && !self.loaded && !self.is_busy()
    }
}
