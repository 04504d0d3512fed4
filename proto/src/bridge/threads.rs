//! The threads of the client: which it is subscribed to, what runs there, and what waits for one that was lost.

use std::collections::{BTreeMap, VecDeque};

use crate::id::ThreadId;
use crate::json::scan::{member, member_at};
use crate::json::{Span, is_text, text};
use crate::router::{self, KnownTo, Loss, TurnEnd, inferred_complete, running_turn};
use crate::routes::Meaning;

/// Threads that are kept at most. Of more, nothing is known, and nothing is said of their turns.
const MOST: usize = 4096;
/// Bytes of the turn object that is kept of a running turn; of a longer one, its id.
const OBJECT_BYTES: usize = 64 << 10;
/// Bytes of a final answer that is kept until its turn has ended: a turn with a longer one counts as failed.
const ANSWER_BYTES: usize = 1 << 20;

/// Whether the client is subscribed to a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Link {
    /// It is not.
    #[default]
    None,
    /// It is.
    Live,
    /// It was, with a daemon that is lost.
    Lost,
    /// The bridge resumes it.
    Resuming,
    /// The daemon refuses to resume it: requests about it are answered as codex answers them.
    Gone,
}

/// What waits for a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// The request at this place is to be written.
    Send(u64),
    /// It is to be decided whether the request at this place was carried out.
    Decide(u64),
}

/// One thread.
#[derive(Debug, Default)]
pub(super) struct Thread {
    pub(super) link: Link,
    /// What runs there, as the router keeps it.
    state: router::Thread,
    /// The client's place when the open turn was first heard of.
    turn_since: u64,
    pub(super) waiting: VecDeque<Wait>,
    /// The first of them is being decided.
    pub(super) deciding: bool,
    /// What codex repeats after a resume that the client did not send: the usage of tokens, and the goal.
    echoes: Echoes,
    /// Its goal is active: codex starts turns by itself when it is loaded.
    goal_is_active: bool,
    /// The client has asked for an interrupt since the last turn began.
    interrupt_asked: bool,
    /// Its turn was cut off, and not by the client: what waits in its queue is to go on.
    was_cut_off: bool,
    /// It was resumed because something is to go on, and no turn has ended since.
    was_woken: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Echoes {
    usage: bool,
    goal: bool,
}

/// See the [module's documentation](self).
#[derive(Debug, Default)]
pub(super) struct Threads {
    all: BTreeMap<ThreadId, Thread>,
    /// The client does not see the ends of turns: then it gets none made up either.
    ignores_turns: bool,
    /// The daemon has said that it ends: turns that are interrupted now are cut off.
    daemon_ends: bool,
}

/// One line of the end of a turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EndLine {
    pub(super) method: &'static str,
    pub(super) line: Vec<u8>,
}

impl Threads {
    pub(super) fn get_mut(&mut self, thread: &ThreadId) -> Option<&mut Thread> {
        self.all.get_mut(thread)
    }

    /// Sets whether the client sees the ends of turns.
    pub(super) fn follow_turns(&mut self, follows: bool) {
        self.ignores_turns = !follows;
    }

    pub(super) fn link(&self, thread: &ThreadId) -> Link {
        self.all.get(thread).map_or(Link::None, |thread| thread.link)
    }

    /// Returns the thread, which is remembered from now on if there is room.
    pub(super) fn entry(&mut self, thread: &ThreadId) -> Option<&mut Thread> {
        if !self.all.contains_key(thread) {
            if self.all.len() >= MOST {
                self.all.retain(|_, thread| !thread.is_forgettable());
            }
            if self.all.len() >= MOST {
                return None;
            }
        }
        Some(self.all.entry(thread.clone()).or_default())
    }

    /// The daemon has said that it ends, or there is another one.
    pub(super) fn set_daemon_ends(&mut self, ends: bool) {
        self.daemon_ends = ends;
    }

    /// The client asks for an interrupt of what runs on a thread.
    pub(super) fn interrupt_asked(&mut self, thread: &ThreadId) {
        if let Some(thread) = self.all.get_mut(thread) {
            thread.interrupt_asked = true;
        }
    }

    /// Returns the threads that are to be resumed at once. See the [module's documentation](super::super).
    pub(super) fn wake(&mut self) -> Vec<ThreadId> {
        let goes_on = |thread: &Thread| {
            let is_lost = thread.link == Link::Lost && !thread.state.sub_agent && !thread.was_woken;
            is_lost && (thread.goal_is_active || thread.was_cut_off)
        };
        let woken = self.all.iter_mut().filter(|(_, thread)| goes_on(thread));
        let mark = |(id, thread): (&ThreadId, &mut Thread)| {
            thread.was_woken = true;
            id.clone()
        };
        woken.map(mark).collect()
    }

    /// Whether the client was subscribed to a thread that is lost.
    pub(super) fn any_lost(&self) -> bool {
        self.all.values().any(|thread| matches!(thread.link, Link::Lost | Link::Resuming))
    }

    /// A response has told of a thread that is loaded, and subscribed the client; `body` is its result. Returns the
    /// thread.
    pub(super) fn opened(&mut self, line: &[u8], body: Span, place: u64) -> Option<ThreadId> {
        let follows = !self.ignores_turns;
        let object = member(line, body.start, b"thread")?;
        let id = ThreadId::new(&text(line, member(line, object.start, b"id")?)?);
        let thread = self.entry(&id)?;
        thread.link = Link::Live;
        thread.state.sub_agent = false;
        thread.echoes = Echoes::default();
        let status = member_at(line, object.start, &["status", "type"]);
        thread.state.active = status.is_some_and(|status| is_text(line, status, b"active"));
        if follows
            && thread.state.active
            && thread.state.turn.is_none()
            && let Some((turn, object)) = running_turn(object.of(line))
        {
            thread.open_turn(turn.as_bytes(), object.as_bytes(), KnownTo::Subscribers, place);
        }
        Some(id)
    }

    /// Subscribes the client to a thread of which nothing else is said.
    pub(super) fn subscribe(&mut self, thread: &ThreadId) {
        if let Some(thread) = self.entry(thread) {
            thread.link = Link::Live;
        }
    }

    /// The client is not subscribed any more.
    pub(super) fn leave(&mut self, thread: &ThreadId) {
        let Some(state) = self.all.get_mut(thread) else { return };
        state.link = Link::None;
        state.state.turn = None;
        if state.is_forgettable() {
            self.all.remove(thread);
        }
    }

    /// Takes in a notification about a thread. Returns whether the client is to see it: not what codex repeats after a
    /// resume of which the client knows nothing.
    pub(super) fn notified(
        &mut self,
        line: &[u8],
        meaning: Meaning,
        thread: &ThreadId,
        params: usize,
        place: u64,
    ) -> bool {
        match meaning {
            Meaning::StatusChanged => {
                self.status_changed(line, thread, params);
                return true;
            }
            Meaning::ThreadClosed => {
                self.leave(thread);
                return true;
            }
            Meaning::TurnStarted => {
                let follows = !self.ignores_turns;
                let Some(state) = self.entry(thread) else { return true };
                state.interrupt_asked = false;
                if matches!(state.link, Link::None | Link::Gone) {
                    // No response has told of it: only the turn of another thread starts such a thread.
                    state.link = Link::Live;
                    state.state.sub_agent = true;
                }
                state.echoes = Echoes::default();
                let Some(turn) = member(line, params, b"turn").filter(|_| follows) else { return true };
                if let Some(id) = member(line, turn.start, b"id").and_then(|id| text(line, id)) {
                    state.open_turn(&id, turn.of(line), KnownTo::Subscribers, place);
                }
                return true;
            }
            _ => {}
        }
        let daemon_ends = self.daemon_ends;
        let Some(thread) = self.all.get_mut(thread) else { return true };
        match meaning {
            Meaning::TurnCompleted => {
                let status = member_at(line, params, &["turn", "status"]);
                let is_interrupted = status.is_some_and(|status| is_text(line, status, b"interrupted"));
                // The daemon has written the end of a turn that was lost with its codex.
                let synthetic = member_at(line, params, &["codexd", "synthetic"]);
                let is_lost = synthetic.is_some_and(|value| value.of(line) == b"true");
                let cut_off = is_lost || daemon_ends && is_interrupted;
                thread.was_cut_off |= cut_off && !thread.interrupt_asked;
                thread.was_woken &= is_lost;
                if let Some(id) = member_at(line, params, &["turn", "id"]).and_then(|id| text(line, id)) {
                    thread.state.close_turn(&id);
                }
            }
            Meaning::ItemStarted => {
                if let (Some(turn), Some(item)) = (&mut thread.state.turn, member(line, params, b"item")) {
                    turn.progress.item_started(line, item);
                }
            }
            Meaning::ItemCompleted => {
                if let (Some(turn), Some(item)) = (&mut thread.state.turn, member(line, params, b"item"))
                    && item.end - item.start <= ANSWER_BYTES
                {
                    turn.progress.item_completed(line, item);
                }
            }
            Meaning::Error => thread.failed(line, params),
            Meaning::TokenUsage => return !std::mem::take(&mut thread.echoes.usage),
            Meaning::GoalReported => {
                // Without a goal, it was cleared.
                let status = member_at(line, params, &["goal", "status"]);
                thread.goal_is_active = status.is_some_and(|status| is_text(line, status, b"active"));
                thread.echoes.usage = false;
                return !std::mem::take(&mut thread.echoes.goal);
            }
            _ => {}
        }
        true
    }

    fn status_changed(&mut self, line: &[u8], thread: &ThreadId, params: usize) {
        let status = member_at(line, params, &["status", "type"]);
        let is = |word| status.is_some_and(|status| is_text(line, status, word));
        let state = if is(b"active") { self.entry(thread) } else { self.all.get_mut(thread) };
        let Some(state) = state else { return };
        state.state.active = is(b"active");
        if is(b"notLoaded") && matches!(state.link, Link::Live | Link::None | Link::Gone) {
            self.leave(thread);
        } else if state.is_forgettable() {
            self.all.remove(thread);
        }
    }

    /// A long `turn/completed` of which only the beginning is known has ended the open turn.
    pub(super) fn turn_ended(&mut self, thread: &ThreadId) {
        if let Some(thread) = self.all.get_mut(thread)
            && let Some(turn) = thread.state.turn.take()
        {
            thread.state.last_turn = Some(turn.ends_as().into());
        }
    }

    /// A `turn/start` or `review/start` was answered; `body` is its result.
    pub(super) fn turn_answered(
        &mut self,
        thread: &ThreadId,
        line: &[u8],
        body: Span,
        review: bool,
        place: u64,
    ) {
        let Some(turn) = member(line, body.start, b"turn").filter(|_| !self.ignores_turns) else { return };
        let running =
            member(line, turn.start, b"status").is_some_and(|status| is_text(line, status, b"inProgress"));
        let id = member(line, turn.start, b"id").and_then(|id| text(line, id));
        if let (true, Some(id), Some(thread)) = (running, id, self.all.get_mut(thread)) {
            let known = thread.state.last_turn.as_deref() == Some(&*id)
                || thread.state.turn.as_ref().is_some_and(|turn| turn.is_called(&id));
            thread.open_turn(&id, turn.of(line), KnownTo::Requesters(Vec::new()), place);
            if let Some(open) = thread.state.turn.as_mut().filter(|_| review && !known) {
                open.begins_as_another = true;
            }
        }
    }

    /// Returns the turn object of the open turn of a thread, if that was first heard of since this place: then it is what
    /// a `turn/start` at this place has started or joined.
    pub(super) fn turn_since(&self, thread: &ThreadId, place: u64) -> Option<&[u8]> {
        let thread = self.all.get(thread)?;
        let turn = thread.state.turn.as_ref()?;
        (thread.turn_since >= place).then_some(&*turn.object)
    }

    /// Whether the client knows the end of this turn, or will get it.
    pub(super) fn knows_turn(&self, thread: &ThreadId, turn: &[u8]) -> bool {
        let Some(thread) = self.all.get(thread) else { return false };
        thread.state.last_turn.as_deref() == Some(turn)
            || thread.state.turn.as_ref().is_some_and(|open| open.is_called(turn))
    }

    /// The turn has ended, and the client gets its end now.
    pub(super) fn close_turn(&mut self, thread: &ThreadId, turn: &[u8]) {
        if let Some(thread) = self.all.get_mut(thread) {
            thread.state.close_turn(turn);
        }
    }

    /// The daemon is lost: returns the end of each turn that was open, in the order in which codex ends one that fails.
    pub(super) fn lost(&mut self, loss: &Loss, generation: u64) -> Vec<EndLine> {
        let complete = inferred_complete(self.all.iter().map(|(id, thread)| (id, &thread.state)));
        let mut lines = Vec::new();
        for (id, thread) in &mut self.all {
            thread.waiting.clear();
            thread.deciding = false;
            thread.echoes = Echoes::default();
            let active = std::mem::take(&mut thread.state.active);
            let subscribed = matches!(thread.link, Link::Live | Link::Resuming);
            // Only who is subscribed learns of the end of a turn.
            let turn = thread.state.turn.take().filter(|_| subscribed);
            if let Some(turn) = &turn {
                thread.state.last_turn = Some(turn.ends_as().into());
            }
            thread.was_cut_off |= subscribed && (active || turn.is_some()) && !thread.interrupt_asked;
            // One that this daemon refused to resume, the next one is asked for again.
            if thread.link != Link::None {
                thread.link = Link::Lost;
            }
            if !active && turn.is_none() {
                continue;
            }
            let error_sent = turn.as_ref().and_then(|turn| turn.error.as_deref());
            let answer = turn.as_ref().and_then(|turn| turn.progress.answer());
            let answer = answer.filter(|_| complete.contains(id));
            let failed = answer.is_none() && error_sent.is_none();
            let end = TurnEnd { thread: id, answer, error_sent, loss, generation };
            let mut push = |method, line| lines.push(EndLine { method, line });
            if active || failed {
                push("thread/status/changed", end.status());
            }
            let Some(turn) = &turn else { continue };
            if failed {
                push("error", end.error(turn.ends_as()));
            }
            push("turn/completed", end.turn(turn.ends_as(), &turn.object));
        }
        self.all.retain(|_, thread| !thread.is_forgettable());
        lines
    }
}

impl Thread {
    /// Whether nothing is lost by forgetting it.
    fn is_forgettable(&self) -> bool {
        self.link == Link::None && !self.state.active && self.state.turn.is_none() && self.waiting.is_empty()
    }

    fn open_turn(&mut self, id: &[u8], object: &[u8], known_to: KnownTo, place: u64) {
        let before = self.state.turn.as_ref().map(|turn| turn.id.clone());
        let short =
            [b"{\"id\":\"", id, b"\",\"items\":[],\"status\":\"inProgress\",\"error\":null}"].concat();
        let object = if object.len() <= OBJECT_BYTES { object } else { &short };
        self.state.open_turn(id, object, known_to);
        if self.state.turn.as_ref().map(|turn| turn.id.clone()) != before {
            self.turn_since = place;
        }
    }

    /// Whether what waits in its queue is to be started, now that it is resumed: not if something runs.
    pub(super) fn take_cut_off(&mut self) -> bool {
        std::mem::take(&mut self.was_cut_off) && !self.state.active
    }

    /// The client asks for the thread: it may be resumed at once the next time, too.
    pub(super) fn asked_for(&mut self) {
        self.was_woken = false;
    }

    /// The bridge has resumed the thread; `active` if something runs there.
    pub(super) fn resumed(&mut self, active: bool) {
        self.link = Link::Live;
        self.state.active = active;
        self.echoes = Echoes { usage: !active, goal: true };
    }

    /// An `error` of a turn: the turn fails with it unless it is retried.
    fn failed(&mut self, line: &[u8], params: usize) {
        let value = |name: &[u8]| member(line, params, name);
        let is_last = value(b"willRetry").is_some_and(|it| it.of(line) == b"false");
        let turn_id = value(b"turnId").and_then(|id| text(line, id));
        let error = value(b"error").filter(|error| line[error.start] == b'{');
        if let (true, Some(turn_id), Some(error), Some(turn)) =
            (is_last, turn_id, error, &mut self.state.turn)
            && turn.is_called(&turn_id)
            && error.end - error.start <= ANSWER_BYTES
        {
            turn.error = Some(error.of(line).into());
        }
    }
}
