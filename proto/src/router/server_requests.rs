//! The server requests that are open: approvals, user input, dynamic tools.
//!
//! # Invariants
//! `seen_by` holds connected clients only. A request without anybody in `seen_by` is unassigned: the
//! upstream repeats it to whoever resumes its thread.

use std::collections::BTreeMap;

use crate::id::{ClientId, ServerRequestId, ThreadId};
use crate::routes::{ServerRequest, ServerRequestAudience};
use crate::time::Time;

/// A server request without an answer, or whose resolution has not been reported yet.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) thread: Option<ThreadId>,
    /// Connected clients that got it.
    pub(super) seen_by: Vec<ClientId>,
    pub(super) answered: bool,
    pub(super) since: Time,
    /// Its method, where the routing table knows it.
    pub(super) method: Option<&'static str>,
    /// Whether `serverRequest/resolved` follows the answer.
    resolution_follows: bool,
    /// Whether it fails when nobody is left who got it.
    needs_recipient: bool,
    /// When the upstream gives it up.
    deadline: Option<Time>,
}

/// Who was subscribed when the approval of a command was requested.
#[derive(Debug)]
struct Asked {
    request: ServerRequestId,
    thread: ThreadId,
    /// The text of the id of the command's item.
    item: Box<[u8]>,
    clients: Vec<ClientId>,
    /// It was answered, and not approved: the end of the item may come after that of the turn.
    refused: bool,
}

/// See the [module's documentation](self).
#[derive(Debug, Default)]
pub(super) struct ServerRequests {
    open: BTreeMap<ServerRequestId, Open>,
    /// For the commands that are not completed and were not approved.
    asked: Vec<Asked>,
}

impl ServerRequests {
    /// Records that a server request is passed to some clients, perhaps again. Returns whether it is
    /// still to be answered.
    pub(super) fn passed(
        &mut self,
        now: Time,
        id: ServerRequestId,
        thread: Option<ThreadId>,
        known: Option<&'static ServerRequest>,
        to: &[ClientId],
    ) -> bool {
        let of_thread = known.is_none() && thread.is_some();
        let open = self.open.entry(id).or_insert_with(|| Open {
            thread,
            seen_by: Vec::new(),
            answered: false,
            since: now,
            method: known.map(|known| known.method),
            // An unknown one is taken for resolved by its answer.
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

    /// Records an answer; returns whether it is the first one.
    pub(super) fn answered(&mut self, id: ServerRequestId) -> bool {
        let Some(open) = self.open.get_mut(&id).filter(|open| !open.answered) else { return false };
        open.answered = true;
        if !open.resolution_follows {
            self.open.remove(&id);
        }
        true
    }

    /// The approval of a command is requested for the first time: of these clients.
    pub(super) fn command_asked(
        &mut self,
        request: ServerRequestId,
        thread: &ThreadId,
        item: &[u8],
        clients: &[ClientId],
    ) {
        let (thread, item, clients) = (thread.clone(), item.into(), clients.into());
        self.asked.push(Asked { request, thread, item, clients, refused: false });
    }

    /// The approval of a command is answered. The end of one that is approved is for every subscriber.
    pub(super) fn command_answered(&mut self, request: ServerRequestId, approved: bool) {
        self.asked.retain(|asked| !approved || asked.request != request);
        for asked in self.asked.iter_mut().filter(|asked| asked.request == request) {
            asked.refused = true;
        }
    }

    /// An item is completed. Returns who was subscribed when its approval was requested, if it is a command that
    /// was not approved.
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

    /// The upstream has reported that a server request is resolved.
    pub(super) fn resolved(&mut self, id: ServerRequestId) {
        self.open.remove(&id);
    }

    /// A client has disconnected. Returns the server requests that only it could answer.
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

    /// Removes the server requests that nobody answered in time.
    pub(super) fn take_overdue(&mut self, now: Time) -> Vec<ServerRequestId> {
        let overdue = self.open.iter().filter(|(_, open)| open.deadline.is_some_and(|at| at <= now));
        let overdue: Vec<ServerRequestId> = overdue.map(|(id, _)| *id).collect();
        for id in &overdue {
            self.open.remove(id);
        }
        overdue
    }

    /// Forgets the server requests of a turn that has ended and whose resolution is not reported any
    /// more: that of some never is, that of others was while nobody was subscribed.
    pub(super) fn forget_unreported(&mut self, thread: &ThreadId) {
        self.asked.retain_mut(|asked| asked.thread != *thread || std::mem::take(&mut asked.refused));
        self.open.retain(|_, open| {
            (open.resolution_follows && !open.answered) || open.thread.as_ref() != Some(thread)
        });
    }

    /// Forgets all server requests of a thread that nobody is subscribed to.
    pub(super) fn forget_thread(&mut self, thread: &ThreadId) {
        self.asked.retain(|asked| asked.thread != *thread);
        self.open.retain(|_, open| open.thread.as_ref() != Some(thread));
    }

    /// Removes all; returns those whose resolution is still to be reported, with their threads.
    pub(super) fn resolve_all(&mut self) -> Vec<(ServerRequestId, ThreadId)> {
        self.asked.clear();
        let all = std::mem::take(&mut self.open).into_iter();
        all.filter(|(_, open)| open.resolution_follows)
            .filter_map(|(id, open)| Some((id, open.thread?)))
            .collect()
    }

    /// Iterates over the server requests that nobody has answered.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = (ServerRequestId, &Open)> {
        self.open.iter().filter(|(_, open)| !open.answered).map(|(id, open)| (*id, open))
    }

    /// Iterates over those of a thread.
    pub(super) fn unanswered_of(&self, thread: &ThreadId) -> impl Iterator<Item = &Open> {
        self.unanswered().map(|(_, open)| open).filter(move |open| open.thread.as_ref() == Some(thread))
    }

    /// Returns how many commands are kept that were not approved.
    pub(super) fn unapproved(&self) -> usize {
        self.asked.len()
    }

    /// Whether a thread waits for an answer that no connected client can give.
    pub(super) fn has_unassigned(&self, thread: &ThreadId) -> bool {
        self.unanswered().any(|(_, open)| open.seen_by.is_empty() && open.thread.as_ref() == Some(thread))
    }

    /// Returns how many are kept.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }
}
