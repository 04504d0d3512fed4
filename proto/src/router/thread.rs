//! One thread: its subscribers, and which turn is open.

use std::borrow::Cow;

use super::phase::Phase;
use super::silent_turns::Silence;
use crate::capture::{self, Meter, Progress};
use crate::id::ClientId;
use crate::json::scan::member;
use crate::json::text;
use crate::time::Time;

/// What codexd keeps of one thread.
#[derive(Debug, Default)]
pub(crate) struct Thread {
    /// In the order in which they subscribed.
    pub(crate) subscribers: Vec<ClientId>,
    /// Reported in a response or status, and not unloaded since.
    pub(crate) loaded: bool,
    /// Its status says that something runs.
    pub(crate) active: bool,
    /// Never announced to anybody: another thread's turn created it.
    pub(crate) sub_agent: bool,
    pub(crate) turn: Option<OpenTurn>,
    /// The turns that are known to run, for the log: more than the open one while what tells of an end is deferred.
    pub(crate) running: Vec<RunningTurn>,
    /// Resumes whose goal is still to be reported: that comes behind the copy of the token usage (measured).
    pub(crate) goals_due: u32,
    /// The text of the id of the turn that ended last.
    pub(crate) last_turn: Option<Box<[u8]>>,
    /// Who gets what the upstream repeats after a resume or fork. It stays when that client
    /// disconnects: then the repetition is for nobody.
    pub(crate) replay: Option<Replay>,
    /// What its turn does.
    pub(crate) phase: Phase,
    /// When the upstream last sent something about it.
    pub(crate) last_event: Option<Time>,
    /// Its directory, as the last response said that started, resumed or forked it.
    pub(crate) cwd: Option<Box<str>>,
    /// Its model, as that response said.
    pub(crate) model: Option<Box<str>>,
}

/// A turn that has started and not ended.
#[derive(Debug)]
pub(crate) struct OpenTurn {
    /// The text of its id.
    pub(crate) id: Box<[u8]>,
    /// The id that a review was answered with, and under which it ends, once it has begun under another one.
    pub(crate) ends_as: Option<Box<[u8]>>,
    /// It is a review whose `turn/started` is still to come.
    pub(crate) begins_as_another: bool,
    /// The turn object as the upstream gave it when the turn began.
    pub(crate) object: Box<[u8]>,
    /// What it has shown of its end.
    pub(crate) progress: Progress,
    /// The error by which the upstream has said that it will fail: only `turn/completed` is still to come.
    pub(crate) error: Option<Box<[u8]>>,
    /// Who knows that it is open.
    pub(crate) known_to: KnownTo,
}

/// A turn that the log has the start of, and not yet the end.
#[derive(Debug)]
pub(crate) struct RunningTurn {
    /// The text of its id.
    pub(crate) id: Box<[u8]>,
    /// Since when it is known.
    pub(crate) since: Time,
    /// The client that started it, if the response to that request was what told of it.
    pub(crate) by: Option<ClientId>,
    /// What it has used.
    pub(crate) meter: Meter,
    /// What was done because it sends nothing.
    pub(super) silence: Silence,
}

/// Who knows that a turn is open, and so waits for its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KnownTo {
    /// The clients whose request was answered with it; `turn/started` is still to come.
    Requesters(Vec<ClientId>),
    /// Every subscriber.
    Subscribers,
}

/// The requester of the last resume or fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replay {
    pub(crate) to: ClientId,
    /// The copy of the token usage may still come.
    pub(crate) usage: bool,
}

impl OpenTurn {
    /// Returns the id under which it ends.
    pub(crate) fn ends_as(&self) -> &[u8] {
        self.ends_as.as_deref().unwrap_or(&self.id)
    }

    /// Returns the turn that it works for, if it says so.
    pub(crate) fn root(&self) -> Option<Cow<'_, [u8]>> {
        capture::root_turn(&self.object)
    }

    /// Whether it has this id, as it began or as it ends.
    pub(crate) fn is_called(&self, id: &[u8]) -> bool {
        *self.id == *id || self.ends_as.as_deref() == Some(id)
    }
}

impl Thread {
    /// Records that a turn is open, and who was notified of it; nothing if it has ended already.
    pub(crate) fn open_turn(&mut self, id: &[u8], object: &[u8], notified: KnownTo) {
        if self.last_turn.as_deref() == Some(id) {
            return;
        }
        match (&mut self.turn, notified) {
            (Some(turn), KnownTo::Subscribers) if turn.begins_as_another => {
                turn.begins_as_another = false;
                turn.known_to = KnownTo::Subscribers;
                turn.object = object.into();
                turn.ends_as = Some(std::mem::replace(&mut turn.id, id.into()));
            }
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
                *turn = Some(OpenTurn {
                    id: id.into(),
                    ends_as: None,
                    begins_as_another: false,
                    object: object.into(),
                    progress: Progress::default(),
                    error: None,
                    known_to,
                });
            }
        }
    }

    /// Records that a turn runs that `by` has started, if that is known; returns whether it was not known to.
    pub(crate) fn runs(&mut self, now: Time, id: &[u8], by: Option<ClientId>) -> bool {
        // A review that has begun under another id is known by the one it ends under.
        let renamed = self.turn.as_ref().is_some_and(|turn| turn.ends_as.is_some() && turn.is_called(id));
        if renamed || self.last_turn.as_deref() == Some(id) {
            return false;
        }
        if let Some(turn) = self.running.iter_mut().find(|turn| *turn.id == *id) {
            turn.by = turn.by.or(by);
            return false;
        }
        self.phase = Phase::Starting;
        self.running.push(RunningTurn {
            id: id.into(),
            since: now,
            by,
            meter: Meter::default(),
            silence: Silence::None,
        });
        true
    }

    /// Records that a turn has ended; returns it if it was known to run.
    pub(crate) fn close_turn(&mut self, id: &[u8]) -> Option<RunningTurn> {
        self.last_turn = Some(id.into());
        self.turn.take_if(|turn| turn.is_called(id));
        let at = self.running.iter().position(|turn| *turn.id == *id)?;
        Some(self.running.remove(at))
    }

    /// Returns the running turn that a notification is about.
    pub(crate) fn running_turn(&mut self, line: &[u8], params: usize) -> Option<&mut RunningTurn> {
        let id = text(line, member(line, params, b"turnId")?)?;
        let id = &*id;
        // A review that runs under another id is known by the one it ends under.
        let id = self.turn.as_ref().filter(|turn| turn.is_called(id)).map_or(id, OpenTurn::ends_as);
        self.running.iter_mut().find(|turn| *turn.id == *id)
    }

    /// A goal of the thread was reported.
    pub(crate) fn goal_reported(&mut self) {
        self.goals_due = self.goals_due.saturating_sub(1);
        if self.goals_due == 0
            && let Some(replay) = &mut self.replay
        {
            replay.usage = false;
        }
    }

    /// Whether something runs on the thread that a drain waits for.
    pub(crate) fn is_busy(&self) -> bool {
        self.active || self.turn.is_some()
    }

    /// Whether nothing would be lost by forgetting the thread.
    pub(crate) fn is_forgettable(&self) -> bool {
        self.subscribers.is_empty() && !self.loaded && !self.is_busy() && self.running.is_empty()
    }
}
