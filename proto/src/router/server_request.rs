//! Server requests: approvals, user input, dynamic tools.
//!
//! The id of a server request passes unchanged. The first answer counts; codexd drops later ones (measured: the
//! upstream accepts an answer from any connection). A server request that no connected client can see is
//! unassigned, and the upstream repeats it to the next client that resumes its thread. One that does not belong to
//! a thread is never repeated, so it fails when the last client that got it disconnects. One that the upstream
//! gives up after some time fails at that time.

use std::borrow::Cow;
use std::sync::Arc;

use super::Router;
use super::delivery::Topic;
use crate::id::{ClientId, ServerRequestId, ThreadId, write_i64};
use crate::json::edit::{write_string, write_text};
use crate::json::scan::{Members, member, string_inner};
use crate::json::text::decoded;
use crate::json::{Span, text};
use crate::routes::{ServerRequest, ServerRequestAudience as Audience};

impl Router {
    /// Forwards a client's answer, if it is the first one. `decision` is its `result.decision`.
    pub(super) fn client_answer(
        &mut self,
        client: ClientId,
        id: ServerRequestId,
        line: &[u8],
        decision: Option<Span>,
    ) {
        if !self.sessions.is_active(client) || self.is_lost() {
            return;
        }
        self.note_request_ended(id, Some(client));
        if self.server_requests.answered(id) {
            self.server_requests
                .command_answered(id, decision.is_some_and(|decision| approves(line, decision)));
            self.pacing.send_answer(self.delivery.now(), line);
        } else {
            self.counters.dropped_messages += 1;
        }
    }

    /// Passes a server request to its recipients.
    pub(super) fn server_request(
        &mut self,
        line: &[u8],
        method: &[u8],
        id: Option<ServerRequestId>,
        params: Option<Span>,
    ) {
        let known = self.routes.server_request(method);
        let Some(id) = id else {
            // The upstream's ids are integers. A client could not answer a request with another id.
            self.counters.dropped_messages += 1;
            return;
        };
        let name = known.map_or("threadId", |k| k.thread);
        let thread = params
            .and_then(|p| member(line, p.start, name.as_bytes()))
            .and_then(|v| text(line, v))
            .map(|text| ThreadId::new(&text));
        let audience = match known {
            Some(known) => known.audience,
            None if thread.is_some() => Audience::Thread,
            None => Audience::Broadcast,
        };
        if let Some(thread) = &thread {
            self.subscriptions.touch(thread.as_bytes(), self.delivery.now());
        }
        match (audience, thread) {
            (Audience::Thread, Some(thread)) => {
                if !self.defer_if_unknown(&thread, line) {
                    let to = self.approvers(id, &thread);
                    if known.is_some_and(|known| known.is_of_command) && !self.server_requests.contains(id) {
                        let item = params.and_then(|p| member(line, p.start, b"itemId"));
                        if let Some(item) = item.and_then(|item| text(line, item)) {
                            self.server_requests.command_requested(id, &thread, &item, &to);
                        }
                    }
                    self.pass_server_request((line, params), id, Some(thread), known, &to);
                }
            }
            (Audience::OnlySubscriber, Some(thread)) => {
                match *self.subscriptions.of_thread(thread.as_bytes()) {
                    [only] => self.pass_server_request((line, params), id, Some(thread), known, &[only]),
                    _ => self.fail_server_request(id, "not exactly one client is subscribed to the thread"),
                }
            }
            (Audience::Attestation, thread) => {
                let able = self.sessions.iter().filter(|(_, s)| s.is_active());
                let able = able.filter(|(_, s)| s.declared().is_some_and(|d| d.attestation));
                match able.min_by_key(|(_, s)| s.joined()).map(|(client, _)| client) {
                    Some(client) => self.pass_server_request((line, params), id, thread, known, &[client]),
                    None => self.fail_server_request(id, "no client can attest"),
                }
            }
            (_, thread) => {
                let everyone = self.sessions.active();
                if everyone.is_empty() {
                    self.fail_server_request(id, "no client is connected");
                } else {
                    self.pass_server_request((line, params), id, thread, known, &everyone);
                }
            }
        }
    }

    /// Returns the recipients of a server request about a thread: its subscribers, or, if it is repeated, only the
    /// client whose resume caused that.
    fn approvers(&self, id: ServerRequestId, thread: &ThreadId) -> Vec<ClientId> {
        let Some(state) = self.subscriptions.get(thread.as_bytes()) else { return Vec::new() };
        match state.replay.filter(|_| self.server_requests.contains(id)) {
            Some(replay) => vec![replay.to],
            None => state.subscribers.clone(),
        }
    }

    fn pass_server_request(
        &mut self,
        (line, params): (&[u8], Option<Span>),
        id: ServerRequestId,
        thread: Option<ThreadId>,
        known: Option<&'static ServerRequest>,
        to: &[ClientId],
    ) {
        let connected: Vec<ClientId> =
            to.iter().copied().filter(|client| self.sessions.get(*client).is_some()).collect();
        let first = !self.server_requests.contains(id);
        let turn = first.then(|| self.turn_of(line, params, thread.as_ref())).flatten();
        if !self.server_requests.passed(self.delivery.now(), id, (thread, turn), known, &connected) {
            return;
        }
        if first {
            self.note_requested(id);
        }
        let stripped = known.and_then(|k| k.strip).and_then(|name| without_param(line, name));
        for client in connected {
            let experimental = self.sessions.get(client).is_some_and(|s| s.is_experimental());
            match &stripped {
                Some(stripped) if !experimental => self.delivery.reply(client, stripped),
                _ => self.delivery.reply(client, line),
            }
        }
    }

    /// Returns the id of the turn that a server request belongs to: the one that it names, else the open one of its thread.
    fn turn_of(&self, line: &[u8], params: Option<Span>, thread: Option<&ThreadId>) -> Option<Arc<str>> {
        let named = params.and_then(|p| member(line, p.start, b"turnId")).and_then(|v| text(line, v));
        let open = || Some(Cow::Borrowed(&*self.subscriptions.get(thread?.as_bytes())?.turn.as_ref()?.id));
        named.or_else(open).map(|id| String::from_utf8_lossy(&id).into())
    }

    /// Answers a server request with an error because no client can answer it.
    pub(super) fn fail_server_request(&mut self, id: ServerRequestId, message: &str) {
        let mut line = b"{\"id\":".to_vec();
        write_i64(&mut line, id.0);
        line.extend_from_slice(b",\"error\":{\"code\":-32000,\"message\":");
        write_string(&mut line, message);
        line.extend_from_slice(b"}}");
        self.pacing.send_answer(self.delivery.now(), &line);
    }

    /// Notifies the subscribers that the server requests that they can see will not be answered any more.
    pub(super) fn resolve_server_requests(&mut self) {
        let topic = self.topic(b"serverRequest/resolved");
        for (id, thread) in self.server_requests.resolve_all() {
            let line = resolved(id, &thread);
            self.delivery.notify_each(self.subscriptions.of_thread(thread.as_bytes()), topic, &line);
        }
    }

    /// Returns the topic of a notification that codexd itself writes.
    pub(super) fn topic(&self, method: &'static [u8]) -> Topic<'static> {
        match self.routes.notification(method) {
            Some((_, bit)) => Topic::Known(bit),
            None => Topic::Unknown(method),
        }
    }
}

/// Writes that a server request is resolved, because no answer to it has an effect any more.
pub(crate) fn resolved(id: ServerRequestId, thread: &ThreadId) -> Vec<u8> {
    let mut line = b"{\"method\":\"serverRequest/resolved\",\"params\":{\"threadId\":".to_vec();
    write_text(&mut line, thread.as_bytes());
    line.extend_from_slice(b",\"requestId\":");
    write_i64(&mut line, id.0);
    line.extend_from_slice(b",\"codexd\":{\"synthetic\":true}}}");
    line
}

/// Returns whether the answer to an approval allows it: `accept`, `acceptForSession`, or an object with such a member.
fn approves(line: &[u8], decision: Span) -> bool {
    // With every character escaped, the word is no longer than this.
    let head = |inner: Span| Span { end: inner.end.min(inner.start + 6 * ACCEPT.len()), ..inner };
    line[decision.start] == b'{'
        || string_inner(line, decision).is_some_and(|inner| decoded(head(inner).of(line)).starts_with(ACCEPT))
}

const ACCEPT: &[u8] = b"accept";

/// Returns the line without `params.{name}`; `None` if there is no such parameter.
fn without_param(line: &[u8], name: &str) -> Option<Vec<u8>> {
    let params = member(line, 0, b"params")?;
    let members: Vec<_> = Members::new(line, params.start).collect();
    let at = members.iter().position(|m| m.is(line, name.as_bytes()))?;
    // From the end of the previous member, or to the beginning of the next one.
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
    fn an_approval_is_known_by_its_first_letters() {
        let approves = |json: &str| approves(json.as_bytes(), Span { start: 0, end: json.len() });
        for yes in [
            r#""accept""#,
            r#""acceptForSession""#,
            r#""\u0061\u0063\u0063\u0065\u0070\u0074\u0046""#,
            "{\"a\":1}",
        ] {
            assert!(approves(yes), "{yes}");
        }
        for no in [r#""decline""#, r#""accep""#, "5", "[]", r#""\u0061\u0063""#] {
            assert!(!approves(no), "{no}");
        }
    }

    #[test]
    fn a_parameter_is_cut_out_with_one_comma() {
        let cut = |line: &str| without_param(line.as_bytes(), "x").map(|l| String::from_utf8(l).unwrap());
        assert_eq!(cut(r#"{"params":{"a":1,"x":{"y":[1]},"b":2}}"#).unwrap(), r#"{"params":{"a":1,"b":2}}"#);
        assert_eq!(cut(r#"{"params":{"x":1 , "b":2}}"#).unwrap(), r#"{"params":{"b":2}}"#);
        assert_eq!(cut(r#"{"params":{"a":1, "x":1}}"#).unwrap(), r#"{"params":{"a":1}}"#);
        assert_eq!(cut(r#"{"params":{"x":1}}"#).unwrap(), r#"{"params":{}}"#);
        assert_eq!(cut(r#"{"params":{"a":1}}"#), None);
        assert_eq!(cut(r#"{"param\u0073":{"a":1,"\u0078":2}}"#).unwrap(), r#"{"param\u0073":{"a":1}}"#);
    }
}
