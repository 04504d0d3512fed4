//! The open server requests: approvals, user input, dynamic tool calls.
//!
//! # Invariants
//! `seen_by` contains only connected clients. A server request with an empty `seen_by` is unassigned: the upstream
//! repeats it to the next client that resumes its thread.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::id::{ClientId, ServerRequestId, ThreadId};
use crate::routes::{ServerRequest, ServerRequestAudience};
use crate::time::Time;

/// A server request that has no answer, or whose resolution was not reported yet.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) thread: Option<ThreadId>,
    /// The id of its turn, if it belongs to one.
    pub(super) turn: Option<Arc<str>>,
    /// Connected clients that got it.
    pub(super) seen_by: Vec<ClientId>,
    pub(super) answered: bool,
    pub(super) since: Time,
    /// Its method, if the routing table knows it.
    pub(super) method: Option<&'static str>,
    /// Whether `serverRequest/resolved` follows the answer.
    resolution_follows: bool,
    /// Whether it fails when the last client that got it disconnects.
    needs_recipient: bool,
    /// When the upstream gives it up.
    deadline: Option<Time>,
}

/// The clients that were subscribed when the approval of a command was requested.
#[derive(Debug)]
struct Asked {
    request: ServerRequestId,
    thread: ThreadId,
    /// Text of the id of the command's item.
    item: Box<[u8]>,
    clients: Vec<ClientId>,
    /// Whether it was answered and not approved. The end of the item can follow that of the turn.
    refused: bool,
}

/// See the [module's documentation](self).
#[derive(Debug, Default)]
pub(super) struct ServerRequests {
    open: BTreeMap<ServerRequestId, Open>,
    /// For commands that are not completed, and not approved yet or refused.
    asked: Vec<Asked>,
}

impl ServerRequests {
    /// Records that a server request is passed to some clients, perhaps again. Returns whether it still has to be
    /// answered.
    pub(super) fn passed(
        &mut self,
        now: Time,
        id: ServerRequestId,
        (thread, turn): (Option<ThreadId>, Option<Arc<str>>),
        known: Option<&'static ServerRequest>,
        to: &[ClientId],
    ) -> bool {
        let of_thread = known.is_none() && thread.is_some();
        let open = self.open.entry(id).or_insert_with(|| Open {
            thread,
            turn,
            seen_by: Vec::new(),
            answered: false,
            since: now,
            method: known.map(|known| known.method),
            // A server request with an unknown method counts as resolved when it is answered.
            resolution_follows: known.is_some_and(|k| k.resolved),
            needs_recipient: known.is_none_or(|k| k.audience != ServerRequestAudience::Thread) && !of_thread,
            deadline: known.and_then(|k| k.within_ms).map(|ms| now + ms),
        });
        if open.answered {
            return false;
        }
        for client in to {
            if !open.seen_by.contains(client) {
                open.seen_by.push(*client);
            }
        }
        true
    }

    /// Records an answer. Returns whether it is the first one.
    pub(super) fn answered(&mut self, id: ServerRequestId) -> bool {
        let Some(open) = self.open.get_mut(&id).filter(|open| !open.answered) else { return false };
        open.answered = true;
        if !open.resolution_follows {
            self.open.remove(&id);
        }
        true
    }

    /// Records the clients that were subscribed when the approval of a command was first requested.
    pub(super) fn command_requested(
        &mut self,
        request: ServerRequestId,
        thread: &ThreadId,
        item: &[u8],
        clients: &[ClientId],
    ) {
        let (thread, item, clients) = (thread.clone(), item.into(), clients.into());
        self.asked.push(Asked { request, thread, item, clients, refused: false });
    }

    /// Records the answer to the approval of a command. If it is approved, all subscribers get the end of the command.
    pub(super) fn command_answered(&mut self, request: ServerRequestId, approved: bool) {
        self.asked.retain(|asked| !approved || asked.request != request);
        for asked in self.asked.iter_mut().filter(|asked| asked.request == request) {
            asked.refused = true;
        }
    }

    /// Records that an item is completed. If it is a command that was not approved, returns the clients that were
    /// subscribed when its approval was requested.
    pub(super) fn item_completed(&mut self, thread: &ThreadId, item: &[u8]) -> Option<Vec<ClientId>> {
        let at = self.asked.iter().position(|asked| asked.thread == *thread && *asked.item == *item)?;
        Some(self.asked.swap_remove(at).clients)
    }

    pub(super) fn get(&self, id: ServerRequestId) -> Option<&Open> {
        self.open.get(&id)
    }

    pub(super) fn contains(&self, id: ServerRequestId) -> bool {
        self.open.contains_key(&id)
    }

    /// Records that the upstream has reported a server request as resolved.
    pub(super) fn resolved(&mut self, id: ServerRequestId) {
        self.open.remove(&id);
    }

    /// Removes a client that has disconnected. Returns the server requests that no other client can answer.
    pub(super) fn client_gone(&mut self, client: ClientId) -> Vec<ServerRequestId> {
        let mut failed = Vec::new();
        for (id, open) in &mut self.open {
            let before = open.seen_by.len();
            open.seen_by.retain(|c| *c != client);
            if open.seen_by.is_empty() && before > 0 && open.needs_recipient && !open.answered {
                failed.push(*id);
            }
        }
        for id in &failed {
            self.open.remove(id);
        }
        failed
    }

    /// Returns when the upstream gives up the next server request.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.open.values().filter_map(|open| open.deadline).min()
    }

    /// Removes the server requests that were not answered in time.
    pub(super) fn take_overdue(&mut self, now: Time) -> Vec<ServerRequestId> {
        let overdue = self.open.iter().filter(|(_, open)| open.deadline.is_some_and(|at| at <= now));
        let overdue: Vec<ServerRequestId> = overdue.map(|(id, _)| *id).collect();
        for id in &overdue {
            self.open.remove(id);
        }
        overdue
    }

    /// Removes the server requests of a turn that has ended and whose resolution will not be reported: it never is
    /// for some, and it was reported to nobody for others.
    pub(super) fn forget_unreported(&mut self, thread: &ThreadId) {
        self.asked.retain_mut(|asked| asked.thread != *thread || std::mem::take(&mut asked.refused));
        self.open.retain(|_, open| {
            (open.resolution_follows && !open.answered) || open.thread.as_ref() != Some(thread)
        });
    }

    /// Removes all server requests of a thread without subscribers.
    pub(super) fn forget_thread(&mut self, thread: &ThreadId) {
        self.asked.retain(|asked| asked.thread != *thread);
        self.open.retain(|_, open| open.thread.as_ref() != Some(thread));
    }

    /// Removes all server requests. Returns those whose resolution has to be reported, with their threads.
    pub(super) fn resolve_all(&mut self) -> Vec<(ServerRequestId, ThreadId)> {
        self.asked.clear();
        let all = std::mem::take(&mut self.open).into_iter();
        all.filter(|(_, open)| open.resolution_follows)
            .filter_map(|(id, open)| Some((id, open.thread?)))
            .collect()
    }

    /// Iterates over the server requests without an answer.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = (ServerRequestId, &Open)> {
        self.open.iter().filter(|(_, open)| !open.answered).map(|(id, open)| (*id, open))
    }

    /// Iterates over the server requests of a thread without an answer.
    pub(super) fn unanswered_of(&self, thread: &ThreadId) -> impl Iterator<Item = &Open> {
        self.unanswered().map(|(_, open)| open).filter(move |open| open.thread.as_ref() == Some(thread))
    }

    /// Returns how many refused or unanswered commands are kept.
    pub(super) fn unapproved(&self) -> usize {
        self.asked.len()
    }

    /// Returns whether a thread has an unassigned server request.
    pub(super) fn has_unassigned(&self, thread: &ThreadId) -> bool {
        self.unanswered().any(|(_, open)| open.seen_by.is_empty() && open.thread.as_ref() == Some(thread))
    }

    /// Returns how many server requests are kept.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }
}
