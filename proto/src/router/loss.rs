//! The loss of the upstream: every pending request and open turn is resolved.

use super::answer::{Delivered, ErrorAnswer, UPSTREAM_LOST};
use super::delivery::Topic;
use super::never_ran::NeverRan;
use super::pacing::Unanswerable;
use super::subscriptions::Running;
use super::thread::KnownTo;
use super::{Phase, Router, ShutdownNotice};
use crate::id::{ThreadId, write_u64};
use crate::json::Span;
use crate::json::edit::{Edits, write_string, write_text};
use crate::json::scan::{has_members, member, skip_space};
use crate::time::Time;

/// Why the upstream was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// A stable word for programs: `upstreamLost`, `upstreamUnresponsive`, `stopped`, ...
    pub reason: &'static str,
    /// A text for people, for instance ``codex app-server was killed by signal 9 (SIGKILL)``.
    pub message: String,
}

impl Loss {
    /// Returns the error response of a request that the upstream will not answer.
    pub(super) fn error(&self, code: i64, delivered: Delivered) -> ErrorAnswer<'_> {
        ErrorAnswer {
            code,
            message: &self.message,
            reason: self.reason,
            delivered,
            // A client must not repeat blindly what may have been carried out.
            retryable: delivered == Delivered::No,
        }
    }
}

impl Router {
    /// Resolves everything that is open after the loss of the upstream. Each request without a response gets an
    /// error, each open turn one terminal event, each server request its resolution, and each client the shutdown
    /// notice. Later requests get the same error.
    ///
    /// Does nothing when called again.
    pub fn upstream_lost(&mut self, now: Time, loss: Loss, notice: &ShutdownNotice<'_>) {
        self.delivery.at(now);
        if self.is_lost() {
            return;
        }
        self.phase = Phase::Lost(loss.clone());
        self.replay_early();
        let (unsubscribes, deferred) = self.attribution.fail_all();
        self.release_broadcasts(deferred);
        for Unanswerable { client, id, delivered } in self.pacing.fail_all(self.config.limits.window) {
            self.refuse(client, Some(&id), &loss.error(UPSTREAM_LOST, delivered));
        }
        for waiting in unsubscribes {
            self.refuse(waiting.client, Some(&waiting.id), &loss.error(UPSTREAM_LOST, Delivered::No));
        }
        let waiting = self.restoration.take_waiting();
        self.handle_waiting(waiting);
        self.orphans.clear();
        self.never_ran = NeverRan::default();
        self.end_turns(&loss);
        self.resolve_server_requests();
        self.send_shutdown_notice(notice);
        self.close_overflowed();
    }

    /// Ends every open turn as the upstream does, in its order (measured): the status of the thread, the error if
    /// the turn failed, the turn. A turn counts as completed under the condition of [`capture`](crate::capture). Every
    /// other turn has failed.
    ///
    /// An active thread gets only the status if no client was notified of a turn.
    fn end_turns(&mut self, loss: &Loss) {
        let ended = self.subscriptions.end_all();
        for (thread, complete) in self.subscriptions.threads_with_turns(&ended) {
            self.all_turns_lost(&thread, complete);
        }
        let status = self.topic(b"thread/status/changed");
        let (error, completed) = (self.topic(b"error"), self.topic(b"turn/completed"));
        for Running { thread, active, turn, complete } in ended {
            let error_sent = turn.as_ref().and_then(|turn| turn.error.as_deref());
            let answer = turn.as_ref().and_then(|turn| turn.progress.answer());
            let answer = answer.filter(|_| complete);
            let generation = self.config.identity.generation;
            let end = End { thread: &thread, answer, error_sent, loss, generation };
            // The upstream reports the status of the thread before the end of the turn.
            if active || (answer.is_none() && error_sent.is_none()) {
                self.delivery.notify_all(status, &end.status());
            }
            let Some(turn) = &turn else { continue };
            if answer.is_none() && error_sent.is_none() {
                self.notify_of_end(&thread, &turn.known_to, error, &end.error(turn.ends_as()));
            }
            self.notify_of_end(&thread, &turn.known_to, completed, &end.turn(turn.ends_as(), &turn.object));
        }
    }

    /// Notifies the clients that know that a turn of this thread is open.
    fn notify_of_end(&mut self, thread: &ThreadId, known_to: &KnownTo, topic: Topic<'_>, line: &[u8]) {
        match known_to {
            KnownTo::Subscribers => {
                self.delivery.notify_each(self.subscriptions.of_thread(thread.as_bytes()), topic, line);
            }
            // The other subscribers were never notified of it.
            KnownTo::Requesters(clients) => {
                let mut clients = clients.clone();
                clients.retain(|client| self.subscriptions.is_subscribed(*client, thread));
                self.delivery.notify_each(&clients, topic, line);
            }
        }
    }
}

/// The end of what ran on a thread when the upstream was lost.
struct End<'a> {
    thread: &'a ThreadId,
    /// The item of the final answer, if it was seen. Then the turn counts as completed.
    answer: Option<&'a [u8]>,
    /// The error with which the upstream itself had failed the turn.
    error_sent: Option<&'a [u8]>,
    loss: &'a Loss,
    generation: u64,
}

impl End<'_> {
    /// Writes the status that the upstream gives a thread after such an end.
    fn status(&self) -> Vec<u8> {
        let mut line = self.begin("thread/status/changed");
        line.extend_from_slice(b",\"status\":{\"type\":");
        line.extend_from_slice(if self.answer.is_some() { b"\"idle\"" } else { b"\"systemError\"" });
        line.push(b'}');
        self.finish(line)
    }

    /// Writes the `error` notification with the reason.
    fn error(&self, turn: &[u8]) -> Vec<u8> {
        let mut line = self.begin("error");
        line.extend_from_slice(b",\"error\":");
        line.extend_from_slice(&self.reason());
        line.extend_from_slice(b",\"willRetry\":false,\"turnId\":");
        write_text(&mut line, turn);
        self.finish(line)
    }

    /// Writes a `turn/completed`. It keeps the members of the turn object that the upstream sent when the turn began.
    fn turn(&self, id: &[u8], turn: &[u8]) -> Vec<u8> {
        let mut own = Vec::new();
        write_text(&mut own, id);
        let mut fields: Vec<(&str, Vec<u8>)> = vec![("id", own)];
        match self.answer {
            Some(item) => {
                fields.push(("status", b"\"completed\"".to_vec()));
                fields.push(("items", [b"[", item, b"]"].concat()));
                fields.push(("itemsView", b"\"summary\"".to_vec()));
            }
            None => {
                fields.push(("status", b"\"failed\"".to_vec()));
                fields.push(("error", self.reason()));
            }
        }
        let mut edits = Edits::new();
        let mut added = self.mark();
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
        if has_members(turn, 0) {
            added.push(b',');
        }
        let open = skip_space(turn, 0) + 1;
        edits.replace_owned(Span { start: open, end: open }, added);

        let mut line = self.begin("turn/completed");
        line.extend_from_slice(b",\"turn\":");
        edits.write(turn, &mut line);
        self.finish(line)
    }

    /// Begins a notification about the thread.
    fn begin(&self, method: &str) -> Vec<u8> {
        let mut line = b"{\"method\":".to_vec();
        write_string(&mut line, method);
        line.extend_from_slice(b",\"params\":{\"threadId\":");
        write_text(&mut line, self.thread.as_bytes());
        line
    }

    /// Ends the notification, with codexd's mark.
    fn finish(&self, mut line: Vec<u8>) -> Vec<u8> {
        line.push(b',');
        line.extend_from_slice(&self.mark());
        line.extend_from_slice(b"}}");
        line
    }

    /// Returns the member that marks a message as written by codexd.
    fn mark(&self) -> Vec<u8> {
        let mut mark = b"\"codexd\":{\"synthetic\":true,\"inferred\":".to_vec();
        mark.extend_from_slice(if self.answer.is_some() { b"true" } else { b"false" });
        mark.extend_from_slice(b",\"reason\":");
        write_string(&mut mark, self.loss.reason);
        mark.extend_from_slice(b",\"generation\":");
        write_u64(&mut mark, self.generation);
        mark.push(b'}');
        mark
    }

    /// Returns the error object of the `error` notification and the failed turn.
    fn reason(&self) -> Vec<u8> {
        if let Some(error) = self.error_sent {
            return error.to_vec();
        }
        let mut error = b"{\"message\":".to_vec();
        write_string(&mut error, &self.loss.message);
        error.extend_from_slice(
            b",\"codexErrorInfo\":\"other\",\"additionalDetails\":null,\"misalignment\":null}",
        );
        error
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The status, the error and the turn of an end.
    fn frames(answer: Option<&str>) -> [Value; 3] {
        let turn = br#"{"id":"u","items":[],"itemsView":"notLoaded","status":"inProgress","error":null}"#;
        let loss = Loss { reason: "upstreamLost", message: "gone \"away\"".to_owned() };
        let thread = ThreadId::new(b"t");
        let answer = answer.map(str::as_bytes);
        let end = End { thread: &thread, answer, error_sent: None, loss: &loss, generation: 3 };
        [end.status(), end.error(b"u"), end.turn(b"u", turn)]
            .map(|line| serde_json::from_slice(&line).unwrap())
    }

    #[test]
    fn a_turn_without_its_answer_fails() {
        let mark = json!({"synthetic": true, "inferred": false, "reason": "upstreamLost", "generation": 3});
        let why = json!({"message": "gone \"away\"", "codexErrorInfo": "other", "additionalDetails": null,
                         "misalignment": null});
        let [status, error, turn] = frames(None);
        let params = json!({"threadId": "t", "status": {"type": "systemError"}, "codexd": mark});
        assert_eq!(status, json!({"method": "thread/status/changed", "params": params}));
        let params =
            json!({"threadId": "t", "turnId": "u", "error": why, "willRetry": false, "codexd": mark});
        assert_eq!(error, json!({"method": "error", "params": params}));
        let object = json!({"id": "u", "items": [], "itemsView": "notLoaded", "status": "failed", "error": why,
                            "codexd": mark});
        let params = json!({"threadId": "t", "turn": object, "codexd": mark});
        assert_eq!(turn, json!({"method": "turn/completed", "params": params}));
    }

    #[test]
    fn a_turn_whose_answer_was_seen_is_inferred_to_be_complete() {
        let [status, _, event] = frames(Some(r#"{"type":"agentMessage","text":"42"}"#));
        assert_eq!(status["params"]["status"], json!({"type": "idle"}));
        assert_eq!(status["params"]["codexd"], event["params"]["codexd"]);
        assert_eq!(event["params"]["turn"]["status"], "completed");
        assert_eq!(event["params"]["turn"]["items"][0]["text"], "42");
        assert_eq!(event["params"]["turn"]["error"], Value::Null);
        assert_eq!(event["params"]["codexd"]["inferred"], true);
    }
}
