//! The loss of the upstream: every pending request and open turn is resolved.

use super::answer::{Delivered, ErrorAnswer, UPSTREAM_LOST};
use super::pacing::Unanswerable;
use super::thread::KnownTo;
use super::{Announcement, Phase, Router};
use crate::id::{ThreadId, write_u64};
use crate::json::Span;
use crate::json::edit::{Edits, write_string, write_text};
use crate::json::scan::{Members, member, skip_space};
use crate::time::Time;

/// Why there is no upstream any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// For programs: `upstreamLost`, `upstreamUnresponsive`, `stopped`, ...
    pub reason: &'static str,
    /// For people, for instance ``codex app-server was killed by signal 9 (SIGKILL)``.
    pub message: String,
}

impl Loss {
    /// Returns the error for a request that gets no answer because of it.
    pub(super) fn error(&self, code: i64, delivered: Delivered) -> ErrorAnswer<'_> {
        ErrorAnswer {
            code,
            message: &self.message,
            reason: self.reason,
            delivered,
            // What may have been carried out must not be repeated blindly.
            retryable: delivered == Delivered::No,
        }
    }
}

impl Router {
    /// Resolves everything that is open when the upstream is gone: an error for each request without
    /// a response, one terminal event for each open turn, the resolution of each server request, and
    /// the shutdown notice. Later requests are answered with the same error.
    ///
    /// Does nothing the second time.
    pub fn upstream_lost(&mut self, now: Time, loss: Loss, announcement: &Announcement<'_>) {
        self.delivery.at(now);
        if self.is_lost() {
            return;
        }
        self.phase = Phase::Lost(loss.clone());
        self.replay_early();
        for Unanswerable { client, id, delivered } in self.pacing.fail_all(self.config.limits.window) {
            self.refuse(client, Some(&id), &loss.error(UPSTREAM_LOST, delivered));
        }
        for waiting in self.attribution.fail_all() {
            self.refuse(waiting.client, Some(&waiting.id), &loss.error(UPSTREAM_LOST, Delivered::No));
        }
        self.orphans.clear();
        self.end_turns(&loss);
        self.resolve_server_requests();
        self.announce(announcement);
        self.close_overflowed();
    }

    /// Ends every open turn: completed if its final answer was seen and nothing else may still have
    /// run for it, else failed.
    fn end_turns(&mut self, loss: &Loss) {
        let topic = self.topic(b"turn/completed");
        let (open, sub_agent_open) = self.subscriptions.end_all();
        for (thread, turn) in open {
            let answer = turn.final_answer.as_deref().filter(|_| !sub_agent_open);
            let line = terminal_event(&thread, &turn.object, answer, loss, self.config.identity.generation);
            match turn.known_to {
                KnownTo::Subscribers => {
                    self.delivery.notify_each(self.subscriptions.of_thread(thread.as_bytes()), topic, &line);
                }
                // The other subscribers were never notified of it.
                KnownTo::Requesters(mut clients) => {
                    clients.retain(|client| self.subscriptions.is_subscribed(*client, &thread));
                    self.delivery.notify_each(&clients, topic, &line);
                }
            }
        }
    }
}

/// Writes a `turn/completed` from the turn object that the upstream gave when the turn began, so
/// that clients see the members they know.
fn terminal_event(
    thread: &ThreadId,
    turn: &[u8],
    answer: Option<&[u8]>,
    loss: &Loss,
    generation: u64,
) -> Vec<u8> {
    let mut mark = b"\"codexd\":{\"synthetic\":true,\"inferred\":".to_vec();
    mark.extend_from_slice(if answer.is_some() { b"true" } else { b"false" });
    mark.extend_from_slice(b",\"reason\":");
    write_string(&mut mark, loss.reason);
    mark.extend_from_slice(b",\"generation\":");
    write_u64(&mut mark, generation);
    mark.push(b'}');

    let mut fields: Vec<(&str, Vec<u8>)> = Vec::new();
    match answer {
        Some(item) => {
            fields.push(("status", b"\"completed\"".to_vec()));
            fields.push(("items", [b"[", item, b"]"].concat()));
            fields.push(("itemsView", b"\"summary\"".to_vec()));
        }
        None => {
            let mut error = b"{\"message\":".to_vec();
            write_string(&mut error, &loss.message);
            error.extend_from_slice(
                b",\"codexErrorInfo\":\"other\",\"additionalDetails\":null,\"misalignment\":null}",
            );
            fields.push(("status", b"\"failed\"".to_vec()));
            fields.push(("error", error));
        }
    }
    let mut edits = Edits::new();
    let mut added = mark.clone();
    for (name, value) in fields {
        match member(turn, 0, name.as_bytes()) {
            Some(span) => edits.replace_owned(span, value),
            None => {
                added.push(b',');
                write_string(&mut added, name);
                added.push(b':');
                added.extend_from_slice(&value);
            }
        }
    }
    if Members::new(turn, 0).next().is_some() {
        added.push(b',');
    }
    let open = skip_space(turn, 0) + 1;
    edits.replace_owned(Span { start: open, end: open }, added);

    let mut line = b"{\"method\":\"turn/completed\",\"params\":{\"threadId\":".to_vec();
    write_text(&mut line, thread.as_bytes());
    line.extend_from_slice(b",\"turn\":");
    edits.write(turn, &mut line);
    line.push(b',');
    line.extend_from_slice(&mark);
    line.extend_from_slice(b"}}");
    line
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn event(answer: Option<&str>) -> Value {
        let turn = br#"{"id":"u","items":[],"itemsView":"notLoaded","status":"inProgress","error":null}"#;
        let loss = Loss { reason: "upstreamLost", message: "gone".to_owned() };
        let line = terminal_event(&ThreadId::new(b"t"), turn, answer.map(str::as_bytes), &loss, 3);
        serde_json::from_slice(&line).unwrap()
    }

    #[test]
    fn a_turn_without_its_answer_fails() {
        let event = event(None);
        assert_eq!(event["params"]["threadId"], "t");
        assert_eq!(event["params"]["turn"]["id"], "u");
        assert_eq!(event["params"]["turn"]["status"], "failed");
        assert_eq!(event["params"]["turn"]["error"]["message"], "gone");
        assert_eq!(event["params"]["turn"]["codexd"], event["params"]["codexd"]);
        assert_eq!(
            event["params"]["codexd"],
            json!({"synthetic": true, "inferred": false, "reason": "upstreamLost", "generation": 3})
        );
    }

    #[test]
    fn a_turn_whose_answer_was_seen_is_inferred_to_be_complete() {
        let event = event(Some(r#"{"type":"agentMessage","text":"42"}"#));
        assert_eq!(event["params"]["turn"]["status"], "completed");
        assert_eq!(event["params"]["turn"]["items"][0]["text"], "42");
        assert_eq!(event["params"]["turn"]["error"], Value::Null);
        assert_eq!(event["params"]["codexd"]["inferred"], true);
    }
}
