//! `thread/unsubscribe`, from clients and from codexd itself.
//!
//! The upstream has one subscription per thread, codexd one per client and thread. An unsubscribe is sent to the
//! upstream only if the thread has no subscriber left, and never before an earlier resume.

use super::Router;
use super::attribution::DeferredUnsubscribe;
use super::pacing::{Origin, PendingKind};
use super::request::{Incoming, QUEUE_FULL};
use crate::id::{ClientId, RequestId, ThreadId};
use crate::json::edit::{Edits, write_string, write_text};
use crate::routes::Request;

impl Router {
    /// Handles a client's unsubscribe.
    pub(super) fn unsubscribe(&mut self, incoming: Incoming<'_>, known: Option<&'static Request>) {
        let params = known.and_then(|known| incoming.params(known)).filter(|params| !params.are_too_many());
        let thread = params.and_then(|params| ThreadId::from_text(&params.text("threadId")?));
        let Some(thread) = thread else {
            // The upstream's own error.
            return self.dispatch(incoming, PendingKind::Plain, known, Edits::new());
        };
        let before = self.pacing.next_id();
        if !self.pacing.is_resuming(incoming.client, &thread, before) {
            return self.unsubscribe_now(incoming, thread);
        }
        let Incoming { client, id, id_span, line, .. } = incoming;
        let (waiting, bytes) = self.attribution.unsubscribes_of(client);
        let limits = &self.config.limits;
        if waiting >= limits.queued_requests_per_client
            || bytes + line.len() > limits.queued_request_bytes_per_client
        {
            return self.refuse(client, Some(&id), &QUEUE_FULL);
        }
        let line = line.into_owned().into();
        self.attribution.defer_unsubscribe(DeferredUnsubscribe { client, id, id_span, thread, line, before });
    }

    fn unsubscribe_now(&mut self, incoming: Incoming<'_>, thread: ThreadId) {
        let Incoming { client, id, id_span, line, .. } = incoming;
        if self.pacing.has_full_queue(client, line.len(), &self.config.limits) {
            // Checked before anything is changed.
            return self.refuse(client, Some(&id), &QUEUE_FULL);
        }
        if !self.subscriptions.unsubscribe(client, &thread) {
            let loaded = self.subscriptions.is_loaded(&thread);
            return self.answer_unsubscribe(client, &id, if loaded { "notSubscribed" } else { "notLoaded" });
        }
        if self.is_wanted(&thread) {
            return self.answer_unsubscribe(client, &id, "unsubscribed");
        }
        let kind = PendingKind::Unsubscribe { thread };
        let known = self.routes.request(b"thread/unsubscribe");
        self.dispatch(Incoming { client, id, id_span, line, params: None }, kind, known, Edits::new());
    }

    pub(super) fn answer_unsubscribe(&mut self, client: ClientId, id: &RequestId, status: &str) {
        self.delivery.reply_with(client, |out| {
            out.extend_from_slice(b"{\"id\":");
            id.write(out);
            out.extend_from_slice(b",\"result\":{\"status\":");
            write_string(out, status);
            out.extend_from_slice(b"}}");
        });
    }

    /// Handles the unsubscribes that waited for the response to a resume of `thread`.
    pub(super) fn run_deferred_unsubscribes(&mut self, thread: &ThreadId) {
        let pacing = &self.pacing;
        let ready =
            self.attribution.take_unsubscribes(thread, |d| !pacing.is_resuming(d.client, thread, d.before));
        for DeferredUnsubscribe { client, id, id_span, thread, line, .. } in ready {
            self.unsubscribe_now(
                Incoming { client, id, id_span, line: line.into_vec().into(), params: None },
                thread,
            );
        }
    }

    /// Returns whether a client is subscribed to a thread, or will be by a request in flight.
    fn is_wanted(&self, thread: &ThreadId) -> bool {
        self.attribution.is_resuming(thread) || !self.subscriptions.of_thread(thread.as_bytes()).is_empty()
    }

    /// Ends the upstream's subscription to a thread without subscribers, so that it can be unloaded: at once, or when its
    /// turn has ended. Until then, a client that comes back gets the whole text of [open items](super::open_items).
    pub(super) fn release_thread(&mut self, thread: &ThreadId) {
        if !self.is_wanted(thread) {
            if let Some(state) = self.subscriptions.get_mut(thread) {
                state.kept = state.is_sent && state.turn.is_some();
                if state.kept {
                    return;
                }
            }
            let kind = PendingKind::Unsubscribe { thread: thread.clone() };
            self.send_own("thread/unsubscribe", kind, |out| {
                out.extend_from_slice(b"{\"threadId\":");
                write_text(out, thread.as_bytes());
                out.push(b'}');
            });
        }
    }

    /// Handles that the upstream sends nothing more of a thread.
    pub(super) fn upstream_unsubscribed(&mut self, thread: &ThreadId) {
        // What is deferred for a later resume was sent before, and does not begin an item again.
        self.release_leftovers(thread);
        self.subscriptions.forget_open_items(thread);
        let Some(state) = self.subscriptions.get_mut(thread) else { return };
        if std::mem::take(&mut state.end_follows) && state.subscribers.is_empty() && state.turn.is_some() {
            // The thread was kept while an unsubscribe was in flight: the end does not follow.
            state.turn = None;
            self.all_turns_ended(thread);
            self.forget_unsubscribed(thread);
        }
    }

    /// Releases a thread that was kept until its turn had ended.
    pub(super) fn release_kept(&mut self, thread: &ThreadId) {
        let kept = self.subscriptions.get_mut(thread).is_some_and(|state| std::mem::take(&mut state.kept));
        if kept {
            self.release_thread(thread);
        }
    }

    /// Releases a thread that was kept for a resume that failed.
    pub(super) fn release_if_loaded(&mut self, thread: &ThreadId) {
        if self.subscriptions.is_loaded(thread) {
            self.release_thread(thread);
        }
    }

    /// Retries an unsubscribe on codexd's own behalf that the upstream keeps rejecting, or whose client has
    /// disconnected. A connected client gets its response now, since it is not subscribed any more.
    pub(super) fn take_over_unsubscribe(&mut self, thread: &ThreadId, origin: &Origin) {
        if let Origin::Client { client, id } = origin {
            self.answer_unsubscribe(*client, id, "unsubscribed");
        }
        self.release_if_loaded(thread);
        self.pump();
    }
}
