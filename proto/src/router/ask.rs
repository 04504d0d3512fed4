//! Questions of the upstream: approvals, user input, dynamic tools.
//!
//! The id of a question passes unchanged. The first answer wins, whoever gives it (measured: the
//! upstream takes it from any connection); later ones are dropped here. A question that nobody can
//! see waits: the upstream repeats it to whoever resumes its thread. One that belongs to no thread's
//! subscribers is repeated to nobody, so it fails when the last client that got it goes; one that the
//! upstream gives up by itself fails at that time, so that it is not kept for ever.

use super::thread::Thread;
use super::{Phase, Router};
use crate::id::{AskId, ClientId, ThreadId, write_i64};
use crate::json::Span;
use crate::json::edit::write_string;
use crate::json::scan::{Members, member, string_inner};
use crate::routes::{AskAudience, ServerRequest};
use crate::time::Time;

/// A question without an answer, or whose settling has not been told yet.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) thread: Option<ThreadId>,
    /// Connected clients that got it.
    pub(super) seen_by: Vec<ClientId>,
    pub(super) answered: bool,
    /// Whether `serverRequest/resolved` follows the answer.
    pub(super) resolved: bool,
    pub(super) since: Time,
    /// Whether it fails when nobody is left who got it.
    needs_somebody: bool,
    /// When the upstream gives it up.
    deadline: Option<Time>,
}

impl Router {
    /// Passes an answer on, if it is the first one.
    pub(super) fn answer(&mut self, client: ClientId, id: AskId, line: &[u8]) {
        let active = self.sessions.get(&client).is_some_and(|s| s.is_active());
        if !active || matches!(self.phase, Phase::Lost(_)) {
            return;
        }
        let Some(ask) = self.asks.get_mut(&id).filter(|ask| !ask.answered) else {
            self.counters.dropped_messages += 1;
            return;
        };
        ask.answered = true;
        if !ask.resolved {
            self.asks.remove(&id);
        }
        self.send_answer(line);
    }

    /// Passes a question on to those it is for.
    pub(super) fn ask(&mut self, line: &[u8], method: &[u8], id: Option<AskId>, params: Option<Span>) {
        let known = self.routes.server_request(method);
        let Some(id) = id else {
            // The upstream counts its requests; another id cannot be answered by a client.
            self.counters.dropped_messages += 1;
            return;
        };
        let name = known.map_or("threadId", |k| k.thread);
        let thread = params
            .and_then(|p| member(line, p.start, name.as_bytes()))
            .and_then(|v| string_inner(line, v))
            .map(|inner| ThreadId::new(inner.of(line)));
        let audience = match known {
            Some(known) => known.audience,
            None if thread.is_some() => AskAudience::Thread,
            None => AskAudience::Broadcast,
        };
        match (audience, thread) {
            (AskAudience::Thread, Some(thread)) => {
                if !self.hold_back(&thread, line) {
                    self.ask_thread(line, id, thread, known);
                }
            }
            (AskAudience::OnlySubscriber, Some(thread)) => match self.threads.get(&thread) {
                Some(Thread { subscribers, .. }) if subscribers.len() == 1 => {
                    let only = subscribers.clone();
                    self.ask_clients(line, id, Some(thread), known, &only);
                }
                _ => self.ask_failed(id, "not exactly one client is subscribed to the thread"),
            },
            (AskAudience::Attestation, thread) => {
                let oldest = self
                    .sessions
                    .iter()
                    .filter(|(_, s)| s.is_active() && s.attestation)
                    .min_by_key(|(_, s)| s.joined)
                    .map(|(client, _)| *client);
                match oldest {
                    Some(client) => self.ask_clients(line, id, thread, known, &[client]),
                    None => self.ask_failed(id, "no client can attest"),
                }
            }
            (_, thread) => {
                let everyone: Vec<ClientId> =
                    self.sessions.iter().filter(|(_, s)| s.is_active()).map(|(c, _)| *c).collect();
                if everyone.is_empty() {
                    self.ask_failed(id, "no client is connected");
                } else {
                    self.ask_clients(line, id, thread, known, &everyone);
                }
            }
        }
    }

    /// Passes a question about a thread on to its subscribers; a repeated one only to the requester
    /// of the resume that caused the repetition.
    pub(super) fn ask_thread(
        &mut self,
        line: &[u8],
        id: AskId,
        thread: ThreadId,
        known: Option<&ServerRequest>,
    ) {
        let state = self.threads.get(&thread);
        let replay = state.and_then(|t| t.replay).filter(|_| self.asks.contains_key(&id));
        let to = match replay {
            Some(replay) => vec![replay.to],
            None => state.map(|t| t.subscribers.clone()).unwrap_or_default(),
        };
        self.ask_clients(line, id, Some(thread), known, &to);
    }

    fn ask_clients(
        &mut self,
        line: &[u8],
        id: AskId,
        thread: Option<ThreadId>,
        known: Option<&ServerRequest>,
        to: &[ClientId],
    ) {
        let now = self.delivery.now;
        let of_thread = known.is_none() && thread.is_some();
        let ask = self.asks.entry(id).or_insert_with(|| Ask {
            thread,
            seen_by: Vec::new(),
            answered: false,
            // One that is not known is taken for settled by its answer.
            resolved: known.is_some_and(|k| k.resolved),
            since: now,
            needs_somebody: known.is_none_or(|k| k.audience != AskAudience::Thread) && !of_thread,
            deadline: known.and_then(|k| k.within_ms).map(|ms| now + ms),
        });
        if ask.answered {
            return;
        }
        for client in to {
            if !ask.seen_by.contains(client) && self.sessions.contains_key(client) {
                ask.seen_by.push(*client);
            }
        }
        let stripped = known.and_then(|k| k.strip).and_then(|name| without_param(line, name));
        for client in to {
            let full = self.sessions.get(client).is_some_and(|s| s.experimental);
            match &stripped {
                Some(stripped) if !full => self.deliver(*client, stripped),
                _ => self.deliver(*client, line),
            }
        }
    }

    /// Answers a question that nobody can answer.
    fn ask_failed(&mut self, id: AskId, message: &str) {
        let mut line = b"{\"id\":".to_vec();
        write_i64(&mut line, id.0);
        line.extend_from_slice(b",\"error\":{\"code\":-32000,\"message\":");
        write_string(&mut line, message);
        line.extend_from_slice(b"}}");
        self.send_answer(&line);
    }

    /// Takes note that a client sees no question any more: those that only it could answer fail.
    pub(super) fn forget_asked(&mut self, client: ClientId) {
        let mut failed = Vec::new();
        for (id, ask) in &mut self.asks {
            let before = ask.seen_by.len();
            ask.seen_by.retain(|c| *c != client);
            if ask.seen_by.is_empty() && before > 0 && ask.needs_somebody && !ask.answered {
                failed.push(*id);
            }
        }
        for id in failed {
            self.asks.remove(&id);
            self.ask_failed(id, "the client that was asked has gone");
        }
    }

    /// Returns when the upstream gives up a question.
    pub(super) fn next_question_deadline(&self) -> Option<Time> {
        self.asks.values().filter_map(|ask| ask.deadline).min()
    }

    /// Fails the questions that nobody answered in time.
    pub(super) fn fail_overdue_questions(&mut self) {
        let now = self.delivery.now;
        let overdue: Vec<AskId> = self
            .asks
            .iter()
            .filter(|(_, ask)| ask.deadline.is_some_and(|deadline| deadline <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in overdue {
            self.asks.remove(&id);
            self.ask_failed(id, "no client answered in time");
        }
    }

    /// Takes note that a question is settled.
    pub(super) fn ask_resolved(&mut self, line: &[u8], params: usize) {
        if let Some(id) = member(line, params, b"requestId").and_then(|v| crate::id::parse_i64(v.of(line))) {
            self.asks.remove(&AskId(id));
        }
    }

    /// Forgets the questions of a turn that has ended and whose settling is not told any more: that
    /// of some never is, that of others was while nobody was subscribed.
    pub(super) fn forget_untold_asks(&mut self, thread: &[u8]) {
        self.asks.retain(|_, ask| {
            (ask.resolved && !ask.answered) || ask.thread.as_ref().is_none_or(|t| t.as_bytes() != thread)
        });
    }

    /// Tells the subscribers that the questions they see will not be answered any more.
    pub(super) fn resolve_all_asks(&mut self) {
        let topic = self.topic(b"serverRequest/resolved");
        for (id, ask) in std::mem::take(&mut self.asks) {
            let Some(thread) = ask.thread.filter(|_| ask.resolved) else { continue };
            let mut line = b"{\"method\":\"serverRequest/resolved\",\"params\":{\"threadId\":\"".to_vec();
            line.extend_from_slice(thread.as_bytes());
            line.extend_from_slice(b"\",\"requestId\":");
            write_i64(&mut line, id.0);
            line.extend_from_slice(b",\"codexd\":{\"synthetic\":true}}}");
            self.deliver_to_thread(thread.as_bytes(), &line, |s| topic.reaches(s));
        }
    }
}

/// Returns the line without `params.{name}`; `None` when it is not there.
fn without_param(line: &[u8], name: &str) -> Option<Vec<u8>> {
    let params = member(line, 0, b"params")?;
    let members: Vec<_> = Members::new(line, params.start).collect();
    let at = members.iter().position(|m| m.key.of(line) == name.as_bytes())?;
    // From behind the previous member, or up to the next one.
    let (start, end) = match (at.checked_sub(1), members.get(at + 1)) {
        (Some(before), _) => (members[before].value.end, members[at].value.end),
        (None, Some(after)) => (members[at].key.start - 1, after.key.start - 1),
        (None, None) => (members[at].key.start - 1, members[at].value.end),
    };
    let mut out = line[..start].to_vec();
    out.extend_from_slice(&line[end..]);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_cut_out_with_one_comma() {
        let cut = |line: &str| without_param(line.as_bytes(), "x").map(|l| String::from_utf8(l).unwrap());
        assert_eq!(cut(r#"{"params":{"a":1,"x":{"y":[1]},"b":2}}"#).unwrap(), r#"{"params":{"a":1,"b":2}}"#);
        assert_eq!(cut(r#"{"params":{"x":1 , "b":2}}"#).unwrap(), r#"{"params":{"b":2}}"#);
        assert_eq!(cut(r#"{"params":{"a":1, "x":1}}"#).unwrap(), r#"{"params":{"a":1}}"#);
        assert_eq!(cut(r#"{"params":{"x":1}}"#).unwrap(), r#"{"params":{}}"#);
        assert_eq!(cut(r#"{"params":{"a":1}}"#), None);
    }
}
