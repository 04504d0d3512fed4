//! One thread: its subscribers and its turns.

use std::borrow::Cow;

use super::open_items::OpenItems;
use super::phase::Phase;
use super::silent_turns::Silence;
use crate::capture::{self, Meter, Progress};
use crate::id::ClientId;
use crate::json::scan::member;
use crate::json::text;
use crate::time::Time;

/// What codexd keeps about one thread.
#[derive(Debug, Default)]
pub(crate) struct Thread {
    /// In the order in which they subscribed.
    pub(crate) subscribers: Vec<ClientId>,
    /// Whether a response or a status reported it, and it was not unloaded since.
    pub(crate) loaded: bool,
    /// Whether its status is active.
    pub(crate) active: bool,
    /// Whether another thread's turn created it, so that no response announced it.
    pub(crate) sub_agent: bool,
    /// Boxed: most threads that are remembered have none.
    pub(crate) turn: Option<Box<OpenTurn>>,
    /// The turns that the log knows to run. While the report of an end is deferred, they are more than the open one.
    pub(crate) running: Vec<RunningTurn>,
    /// Resumes whose goal is still to be reported. The upstream sends it after the copy of the token usage (measured).
    pub(crate) goals_due: u32,
    /// Text of the id of the turn that ended last.
    pub(crate) last_turn: Option<Box<[u8]>>,
    /// The client that gets what the upstream repeats after a resume or fork. If it disconnects, no client gets it.
    pub(crate) replay: Option<Replay>,
    /// What has been said of the items that are not complete.
    pub(crate) open_items: OpenItems,
    /// Whether it has no subscriber and the upstream sends its messages nevertheless, until its turn has ended.
    pub(crate) kept: bool,
    /// Whether codex has reported a change of its queue.
    pub(crate) queue_used: bool,
    /// Whether the upstream sends its messages: it was opened, and no unsubscribe was answered since.
    pub(crate) is_sent: bool,
    /// Whether it was idle while it was kept: the end of its turn is to follow.
    pub(crate) end_follows: bool,
    /// Whether messages of it are deferred. If it were forgotten meanwhile, they would look like those of a sub-agent.
    pub(crate) has_deferred: bool,
    /// What its turn is doing.
    pub(crate) phase: Phase,
    /// When the upstream last sent something about it.
    pub(crate) last_event: Option<Time>,
    /// Its directory, from the last response that started, resumed or forked it; `None` again when it is unloaded.
    pub(crate) cwd: Option<Box<str>>,
    /// Its model, as `cwd`.
    pub(crate) model: Option<Box<str>>,
}

/// A turn that has started and not ended.
#[derive(Debug)]
pub(crate) struct OpenTurn {
    /// Text of its id.
    pub(crate) id: Box<[u8]>,
    /// For a review that began under another id: the id in the response, under which it ends.
    pub(crate) ends_as: Option<Box<[u8]>>,
    /// Whether it is a review whose `turn/started` is still to come.
    pub(crate) begins_as_another: bool,
    /// The turn object that the upstream sent when the turn began.
    pub(crate) object: Box<[u8]>,
    /// What it has shown of its end.
    pub(crate) progress: Progress,
    /// The error with which the upstream has failed it. Only `turn/completed` is still to come.
    pub(crate) error: Option<Box<[u8]>>,
    /// The clients that know that it is open.
    pub(crate) known_to: KnownTo,
}

/// A turn whose start was logged and whose end was not.
#[derive(Debug)]
pub(crate) struct RunningTurn {
    /// Text of its id.
    pub(crate) id: Box<[u8]>,
    /// Since when it is known.
    pub(crate) since: Time,
    /// The client that started it, if the response to its request reported the turn.
    pub(crate) by: Option<ClientId>,
    /// What it has used.
    pub(crate) meter: Meter,
    /// What was done because it sends nothing.
    pub(super) silence: Silence,
}

/// The clients that know that a turn is open and wait for its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KnownTo {
    /// Those that got the turn in a response. `turn/started` is still to come.
    Requesters(Vec<ClientId>),
    /// All subscribers.
    Subscribers,
}

/// The client of the last resume or fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replay {
    pub(crate) to: ClientId,
    /// Whether the copy of the token usage is still to come.
    pub(crate) usage: bool,
}

impl OpenTurn {
    /// Returns the id under which it ends.
    pub(crate) fn ends_as(&self) -> &[u8] {
        self.ends_as.as_deref().unwrap_or(&self.id)
    }

    /// Returns the turn for which it works, if it names one.
    pub(crate) fn root(&self) -> Option<Cow<'_, [u8]>> {
        capture::root_turn(&self.object)
    }

    /// Returns whether this is its id, at its beginning or its end.
    pub(crate) fn is_called(&self, id: &[u8]) -> bool {
        *self.id == *id || self.ends_as.as_deref() == Some(id)
    }
}

impl Thread {
    /// Records an open turn and the clients that know it. Does nothing if it has ended already.
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
                *turn = Some(Box::new(OpenTurn {
                    id: id.into(),
                    ends_as: None,
                    begins_as_another: false,
                    object: object.into(),
                    progress: Progress::default(),
                    error: None,
                    known_to,
                }));
            }
        }
    }

    /// Records that a turn runs, and the client `by` that started it, if known. Returns whether the turn is new.
    pub(crate) fn runs(&mut self, now: Time, id: &[u8], by: Option<ClientId>) -> bool {
        // A review that began under another id is recorded under the id with which it ends.
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

    /// Records that a turn has ended. Returns the turn, if it was known to run.
    pub(crate) fn close_turn(&mut self, id: &[u8]) -> Option<RunningTurn> {
        self.last_turn = Some(id.into());
        self.turn.take_if(|turn| turn.is_called(id));
        let at = self.running.iter().position(|turn| *turn.id == *id)?;
        let ended = self.running.remove(at);
        if self.running.is_empty() {
            // It may be the last one of a thread that is remembered for long.
            self.running = Vec::new();
        }
        Some(ended)
    }

    /// Returns the running turn that a notification is about.
    pub(crate) fn running_turn(&mut self, line: &[u8], params: usize) -> Option<&mut RunningTurn> {
        let id = text(line, member(line, params, b"turnId")?)?;
        let id = &*id;
        // A review that runs under another id is recorded under the id with which it ends.
        let id = self.turn.as_ref().filter(|turn| turn.is_called(id)).map_or(id, |turn| turn.ends_as());
        self.running.iter_mut().find(|turn| *turn.id == *id)
    }

    /// Records that a goal of the thread was reported.
    pub(crate) fn goal_reported(&mut self) {
        self.goals_due = self.goals_due.saturating_sub(1);
        if self.goals_due == 0
            && let Some(replay) = &mut self.replay
        {
            replay.usage = false;
        }
    }

    /// Returns whether something runs on the thread for which a drain waits.
    pub(crate) fn is_busy(&self) -> bool {
        self.active || self.turn.is_some()
    }

    /// Returns whether the thread can be removed without losing anything.
    pub(crate) fn is_forgettable(&self) -> bool {
        self.subscribers.is_empty()
            && !self.loaded
            && !self.has_deferred
            && !self.is_busy()
            && self.running.is_empty()
    }
}
