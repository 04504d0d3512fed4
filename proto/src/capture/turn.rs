//! One turn, from the response to its request to its resolution.

use std::borrow::Cow;

use super::family::{OpenTurn, root_turn, works_for};
use super::outcome::{KnownBy, Outcome};
use super::progress::Progress;
use super::text::{is, is_true, text_at, text_of};
use super::tokens::{Meter, Tokens};
use crate::id::ThreadId;
use crate::json::scan::{member, member_at};
use crate::json::{Span, is_text};
use crate::message::UpstreamMessage;
use crate::time::Time;

/// The turn to wait for.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Its thread.
    pub thread: ThreadId,
    /// Its id, from the response to `turn/start` or `review/start`.
    pub turn: String,
    /// Whether it is a review. A review begins under another id than that in the response, and ends under that one
    /// (measured).
    pub review: bool,
    /// Milliseconds without a message of the turn after which it counts as complete, if its final answer was seen and
    /// nothing that belongs to it is open.
    pub quiet_ms: u64,
}

/// How a turn ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// [`Outcome::Completed`], [`Outcome::Failed`] or [`Outcome::Interrupted`].
    pub outcome: Outcome,
    /// What shows that.
    pub known_by: KnownBy,
    /// The final answer of a completed turn; of a review, its text.
    pub answer: Option<String>,
    /// The last complete message of the agent, in any phase.
    pub last_message: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// The last lines of the upstream's stderr if it was lost. Secrets are masked.
    pub stderr: Vec<String>,
    /// What it used, if that was reported.
    pub tokens: Option<Tokens>,
}

/// Waits for the end of one turn. See the [rule](super).
#[derive(Clone, Debug)]
pub struct Capture {
    watch: Watch,
    /// The id under which a review runs, if it is known.
    begun: Option<Box<[u8]>>,
    /// The turn for which it works itself.
    root: Option<Box<[u8]>>,
    progress: Progress,
    /// Open turns of sub-agents that work for it.
    helpers: Vec<(ThreadId, Box<[u8]>)>,
    /// Hooks that have started and not completed. They can make the model continue.
    hooks: u32,
    /// When the last message of the turn or of its sub-agents came.
    last: Time,
    last_message: Option<String>,
    review: Option<String>,
    error: Option<String>,
    meter: Meter,
    resolution: Option<Resolution>,
}

impl Capture {
    /// Begins to wait for a turn whose request was answered.
    pub fn new(now: Time, watch: Watch) -> Capture {
        Capture {
            watch,
            begun: None,
            root: None,
            progress: Progress::default(),
            helpers: Vec::new(),
            hooks: 0,
            last: now,
            last_message: None,
            review: None,
            error: None,
            meter: Meter::default(),
            resolution: None,
        }
    }

    /// Returns how the turn ended; `None` before it has.
    pub fn resolution(&self) -> Option<&Resolution> {
        self.resolution.as_ref()
    }

    /// Returns the id with which the turn can be interrupted now.
    pub fn running_as(&self) -> &[u8] {
        self.begun.as_deref().unwrap_or(self.watch.turn.as_bytes())
    }

    /// Returns whether a message with this thread and turn concerns the turn: `Some(true)` if it concerns a
    /// sub-agent's part of it.
    pub fn concerns(&self, thread: &[u8], turn: Option<&[u8]>) -> Option<bool> {
        if thread == self.watch.thread.as_bytes() {
            return turn.is_none_or(|turn| self.is_called(turn)).then_some(false);
        }
        self.helpers.iter().any(|(helper, _)| helper.as_bytes() == thread).then_some(true)
    }

    /// Returns when the last message of the turn came.
    pub fn last_activity(&self) -> Time {
        self.last
    }

    /// Reads a line that a client receives. Messages of other threads and turns, and responses, change nothing.
    ///
    /// The messages of a sub-agent count if its turn names this one as its root (`rootTurnId`). If the upstream
    /// names no roots, every turn of another thread counts: a client that has subscribed to no other thread
    /// receives only those of sub-agents.
    pub fn line(&mut self, now: Time, line: &[u8]) {
        if self.resolution.is_some() {
            return;
        }
        let Some(UpstreamMessage::Notification { method, params: Some(params) }) =
            UpstreamMessage::read(line)
        else {
            return;
        };
        let Some(thread) = text_of(line, params, b"threadId") else { return };
        if *thread == *self.watch.thread.as_bytes() {
            self.own(now, line, &method, params);
        } else {
            self.others(now, line, &method, &thread, params);
        }
    }

    /// Handles a message of the watched thread.
    fn own(&mut self, now: Time, line: &[u8], method: &[u8], params: usize) {
        match method {
            b"turn/started" => {
                if let Some((turn, id)) = turn(line, params) {
                    if self.watch.review && self.begun.is_none() && *id != *self.watch.turn.as_bytes() {
                        self.begun = Some((&*id).into());
                    }
                    if self.is_called(&id) {
                        self.root = root_turn(turn.of(line)).map(|root| root.into_owned().into());
                        self.last = now;
                    }
                }
            }
            b"turn/completed" => {
                if let Some((turn, id)) = turn(line, params)
                    && self.is_called(&id)
                {
                    self.ended(line, params, turn);
                }
            }
            b"thread/closed" | b"thread/archived" | b"thread/deleted" => {
                self.error.get_or_insert_with(|| "the thread was closed while the turn ran".to_owned());
                self.resolve(Outcome::Failed, KnownBy::ThreadEnded);
            }
            _ if self.is_of_another_turn(line, params) => {}
            b"item/started" | b"item/completed" => {
                self.last = now;
                if let Some(item) = member(line, params, b"item") {
                    self.item(line, method == b"item/started", item);
                }
            }
            b"error" => {
                self.last = now;
                self.progress.error_reported();
                if !is_true(line, params, b"willRetry") {
                    self.error = text_at(line, params, &["error", "message"]);
                }
            }
            b"hook/started" => {
                self.last = now;
                self.hooks += 1;
            }
            b"hook/completed" => {
                self.last = now;
                self.hooks = self.hooks.saturating_sub(1);
            }
            b"thread/tokenUsage/updated" => {
                self.last = now;
                self.meter.update(line, params);
            }
            _ => self.last = now,
        }
    }

    fn item(&mut self, line: &[u8], started: bool, item: Span) {
        if started {
            return self.progress.item_started(line, item);
        }
        self.progress.item_completed(line, item);
        let text = |name| text_at(line, item.start, &[name]);
        if is(line, item.start, b"type", b"agentMessage") {
            self.last_message = text("text").or(self.last_message.take());
        } else if is(line, item.start, b"type", b"exitedReviewMode") {
            self.review = text("review").or(self.review.take());
        }
    }

    /// Handles a message of another thread, which can be a sub-agent's.
    fn others(&mut self, now: Time, line: &[u8], method: &[u8], thread: &[u8], params: usize) {
        match method {
            b"turn/started" => {
                let Some((object, id)) = turn(line, params) else { return };
                let root = root_turn(object.of(line));
                let other = OpenTurn { id: &id, root: root.as_deref(), sub_agent: true };
                let names =
                    [self.running_as(), self.watch.turn.as_bytes(), self.root.as_deref().unwrap_or(b"")];
                if works_for(other, &names) {
                    self.last = now;
                    self.helpers.push((ThreadId::new(thread), id.into_owned().into()));
                }
            }
            b"turn/completed" => {
                let Some((_, id)) = turn(line, params) else { return };
                self.helper_ended(now, |helper, turn| helper.as_bytes() == thread && *turn == *id);
            }
            b"thread/closed" | b"thread/archived" | b"thread/deleted" => {
                self.helper_ended(now, |helper, _| helper.as_bytes() == thread);
            }
            b"thread/status/changed" => {
                let status = member_at(line, params, &["status", "type"]);
                if !status.is_some_and(|status| is_text(line, status, b"active")) {
                    self.helper_ended(now, |helper, _| helper.as_bytes() == thread);
                }
            }
            _ => {
                if self.helpers.iter().any(|(helper, _)| helper.as_bytes() == thread) {
                    self.last = now;
                }
            }
        }
    }

    fn helper_ended(&mut self, now: Time, is_it: impl Fn(&ThreadId, &[u8]) -> bool) {
        let before = self.helpers.len();
        self.helpers.retain(|(thread, turn)| !is_it(thread, turn));
        if self.helpers.len() < before {
            self.last = now;
        }
    }

    /// Handles the terminal event, which the upstream or, after its loss, codexd has written.
    fn ended(&mut self, line: &[u8], params: usize, turn: Span) {
        let status = text_of(line, turn.start, b"status").unwrap_or_default();
        let mark = member(line, params, b"codexd").map(|mark| mark.start);
        let marked = |name: &[u8]| mark.is_some_and(|mark| is_true(line, mark, name));
        let known_by = match (marked(b"synthetic"), marked(b"inferred")) {
            (false, _) => KnownBy::TerminalEvent,
            (true, true) => KnownBy::Inferred,
            (true, false) => KnownBy::UpstreamLost,
        };
        if let Some(error) = text_at(line, turn.start, &["error", "message"]) {
            self.error = Some(error);
        }
        // The turn object has its last message (`itemsView` is `summary`), also for a client that missed the item.
        if self.progress.answer().is_none()
            && let Some(message) = last_message(turn.of(line))
        {
            self.last_message = Some(message);
        }
        let outcome = match Outcome::of_status(&status) {
            outcome @ (Outcome::Completed | Outcome::Interrupted) => outcome,
            _ => Outcome::Failed,
        };
        self.resolve(outcome, known_by);
    }

    /// Handles the loss of the upstream, or of the connection to it. `message` is the reason as text; `stderr` are
    /// the last lines of the upstream, with secrets masked.
    pub fn upstream_lost(&mut self, message: &str, stderr: Vec<String>) {
        if self.resolution.is_some() {
            return;
        }
        if self.may_be_complete() {
            return self.resolve(Outcome::Completed, KnownBy::Inferred);
        }
        self.error = Some(message.to_owned());
        self.resolve(Outcome::Failed, KnownBy::UpstreamLost);
        if let Some(resolution) = &mut self.resolution {
            resolution.stderr = stderr;
        }
    }

    /// Handles that the turn did not end in time after an interrupt.
    pub fn gave_up(&mut self, error: String) {
        if self.resolution.is_none() {
            self.error = Some(error);
            self.resolve(Outcome::Failed, KnownBy::TimedOut);
        }
    }

    /// Returns the final answer, if it was seen and nothing that belongs to the turn is open. Without a further
    /// message, the turn is then complete.
    pub fn answer_so_far(&self) -> Option<&str> {
        let answer = self.review.as_deref().or(self.last_message.as_deref());
        answer.filter(|_| self.resolution.is_none() && self.may_be_complete())
    }

    /// Returns when [`Capture::handle_timeout`] has to be called, if no message comes before.
    pub fn poll_timeout(&self) -> Option<Time> {
        let waits = self.resolution.is_none() && self.hooks == 0 && self.may_be_complete();
        waits.then(|| self.last + self.watch.quiet_ms)
    }

    /// Infers the end of the turn, if the quiet time is over.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.poll_timeout().is_some_and(|due| now >= due) {
            self.resolve(Outcome::Completed, KnownBy::Inferred);
        }
    }

    fn may_be_complete(&self) -> bool {
        self.progress.answer().is_some() && self.helpers.is_empty()
    }

    fn resolve(&mut self, outcome: Outcome, known_by: KnownBy) {
        let answer = self.review.take().or_else(|| self.last_message.clone());
        self.resolution = Some(Resolution {
            outcome,
            known_by,
            answer: answer.filter(|_| outcome == Outcome::Completed),
            last_message: self.last_message.take(),
            error: self.error.take().filter(|_| outcome != Outcome::Completed),
            stderr: Vec::new(),
            tokens: self.meter.tokens(),
        });
    }

    fn is_called(&self, id: &[u8]) -> bool {
        id == self.watch.turn.as_bytes() || self.begun.as_deref() == Some(id)
    }

    fn is_of_another_turn(&self, line: &[u8], params: usize) -> bool {
        text_of(line, params, b"turnId").is_some_and(|id| !self.is_called(&id))
    }
}

/// Returns the turn object of a notification, and its id.
fn turn(line: &[u8], params: usize) -> Option<(Span, Cow<'_, [u8]>)> {
    let turn = member(line, params, b"turn")?;
    Some((turn, text_of(line, turn.start, b"id")?))
}

/// Returns the text of the last message in a turn object.
fn last_message(turn: &[u8]) -> Option<String> {
    let items: Vec<serde_json::Value> = serde_json::from_slice(member(turn, 0, b"items")?.of(turn)).ok()?;
    let message = items.iter().rev().find(|item| item["type"] == "agentMessage")?;
    Some(message["text"].as_str()?.to_owned())
}
