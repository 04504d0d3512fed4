//! Subscriptions: which client is subscribed to which thread, and what runs there.
//!
//! # Invariants
//! A client is in the list of a thread exactly if the thread is in the set of the client. Only connected clients have a
//! set.

use rustc_hash::{FxHashMap, FxHashSet};

use super::open_items::Room;
use super::thread::{OpenTurn, Thread};
use crate::capture;
use crate::id::{ClientId, ThreadId};
use crate::time::Time;

/// See the [module's documentation](self).
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    /// Boxed: most of them are only remembered, and a table that grows has room for twice as many.
    threads: FxHashMap<ThreadId, Box<Thread>>,
    clients: FxHashMap<ClientId, FxHashSet<ThreadId>>,
    /// Room for the open items of all threads.
    room: Room,
}

/// What was running on a thread when the upstream was lost.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) thread: ThreadId,
    /// Whether its last status was active.
    pub(super) active: bool,
    /// The turn; `None` if it is not known.
    pub(super) turn: Option<OpenTurn>,
    /// The turn counts as complete.
    pub(super) complete: bool,
}

impl Subscriptions {
    pub(super) fn connect(&mut self, client: ClientId) {
        self.clients.insert(client, FxHashSet::default());
    }

    /// Ends all subscriptions of a client. Returns their threads.
    pub(super) fn unsubscribe_all(&mut self, client: ClientId) -> FxHashSet<ThreadId> {
        let threads = self.clients.get_mut(&client).map(std::mem::take).unwrap_or_default();
        for thread in &threads {
            if let Some(state) = self.threads.get_mut(thread) {
                state.subscribers.retain(|c| *c != client);
            }
        }
        threads
    }

    /// Removes a client without subscriptions.
    pub(super) fn disconnect(&mut self, client: ClientId) {
        self.clients.remove(&client);
    }

    /// Subscribes a connected client to a thread.
    pub(super) fn subscribe(&mut self, client: ClientId, thread: &ThreadId) {
        let Some(threads) = self.clients.get_mut(&client) else { return };
        if threads.insert(thread.clone()) {
            let state = self.threads.entry(thread.clone()).or_default();
            state.subscribers.push(client);
            state.kept = false;
        }
    }

    /// Ends a subscription. Returns whether there was one.
    pub(super) fn unsubscribe(&mut self, client: ClientId, thread: &ThreadId) -> bool {
        let subscribed = self.clients.get_mut(&client).is_some_and(|threads| threads.remove(thread));
        if subscribed && let Some(state) = self.threads.get_mut(thread) {
            state.subscribers.retain(|c| *c != client);
        }
        subscribed
    }

    /// Ends all subscriptions to a thread that was unloaded, and everything that ran there.
    pub(super) fn unload(&mut self, thread: &ThreadId) {
        let Some(state) = self.threads.get_mut(thread) else { return };
        state.loaded = false;
        state.active = false;
        state.kept = false;
        state.is_sent = false;
        state.turn = None;
        state.open_items.clear(&mut self.room);
        state.replay = None;
        state.goals_due = 0;
        state.cwd = None;
        state.model = None;
        for client in std::mem::take(&mut state.subscribers) {
            if let Some(threads) = self.clients.get_mut(&client) {
                threads.remove(thread);
            }
        }
    }

    #[inline]
    pub(super) fn get(&self, thread: &[u8]) -> Option<&Thread> {
        self.threads.get(thread).map(|state| &**state)
    }

    /// Records that the upstream has sent something about a thread. Returns the thread, and the room for its open items.
    #[inline]
    pub(super) fn touch(&mut self, thread: &[u8], now: Time) -> Option<(&mut Thread, &mut Room)> {
        let state = self.threads.get_mut(thread)?;
        state.last_event = Some(now);
        Some((state, &mut self.room))
    }

    pub(super) fn get_mut(&mut self, thread: &ThreadId) -> Option<&mut Thread> {
        self.threads.get_mut(thread).map(|state| &mut **state)
    }

    /// Returns a thread, and the room for its open items.
    pub(super) fn with_room(&mut self, thread: &ThreadId) -> Option<(&mut Thread, &mut Room)> {
        Some((self.threads.get_mut(thread)?, &mut self.room))
    }

    /// Forgets the open items of a thread: the upstream sends no more of them.
    pub(super) fn forget_open_items(&mut self, thread: &ThreadId) {
        if let Some(state) = self.threads.get_mut(thread) {
            state.kept = false;
            state.is_sent = false;
            state.open_items.clear(&mut self.room);
        }
    }

    /// Adds a thread. If more than `most` are known, removes those that nothing depends on.
    pub(super) fn remember(&mut self, thread: &ThreadId, most: usize) -> &mut Thread {
        if self.threads.len() >= most {
            self.threads.retain(|_, t| !t.is_forgettable());
        }
        self.threads.entry(thread.clone()).or_default()
    }

    /// Returns the subscribers of a thread.
    #[inline]
    pub(super) fn of_thread(&self, thread: &[u8]) -> &[ClientId] {
        self.threads.get(thread).map_or(&[], |t| &t.subscribers)
    }

    /// Returns the threads that a client is subscribed to.
    pub(super) fn of_client(&self, client: ClientId) -> impl Iterator<Item = &ThreadId> {
        self.clients.get(&client).into_iter().flatten()
    }

    /// Returns whether a client is subscribed to a thread.
    pub(super) fn is_subscribed(&self, client: ClientId, thread: &ThreadId) -> bool {
        self.clients.get(&client).is_some_and(|threads| threads.contains(thread))
    }

    /// Returns whether a thread is loaded.
    pub(super) fn is_loaded(&self, thread: &ThreadId) -> bool {
        self.threads.get(thread).is_some_and(|t| t.loaded)
    }

    /// Returns whether something runs on a thread.
    pub(super) fn is_busy(&self, thread: &ThreadId) -> bool {
        self.threads.get(thread).is_some_and(|state| state.is_busy())
    }

    /// Iterates over all threads, to change them.
    pub(super) fn threads_mut(&mut self) -> impl Iterator<Item = (&ThreadId, &mut Thread)> {
        self.threads.iter_mut().map(|(id, state)| (id, &mut **state))
    }

    /// Iterates over all threads.
    pub(super) fn threads(&self) -> impl Iterator<Item = (&ThreadId, &Thread)> {
        self.threads.iter().map(|(id, state)| (id, &**state))
    }

    /// Returns the clients that are subscribed to an active thread.
    pub(super) fn of_busy_threads(&self) -> Vec<ClientId> {
        let busy = self.threads.values().filter(|t| t.is_busy());
        let mut clients: Vec<ClientId> = busy.flat_map(|t| t.subscribers.iter().copied()).collect();
        clients.sort_unstable();
        clients.dedup();
        clients
    }

    /// Unloads all threads after the loss of the upstream. Returns what was running, by thread.
    pub(super) fn end_all(&mut self) -> Vec<Running> {
        let complete = inferred_complete(self.threads());
        let mut running = Vec::new();
        for (id, thread) in &mut self.threads {
            thread.loaded = false;
            thread.kept = false;
            thread.is_sent = false;
            thread.open_items.clear(&mut self.room);
            let active = std::mem::take(&mut thread.active);
            let turn = thread.turn.take();
            if active || turn.is_some() {
                let complete = complete.contains(id);
                running.push(Running { thread: id.clone(), active, turn: turn.map(|turn| *turn), complete });
            }
        }
        running.sort_unstable_by(|a, b| a.thread.cmp(&b.thread));
        running
    }

    /// Returns the threads with turns that are known to run, by their ids; each with its turn among those that have
    /// `ended` that counts as complete.
    pub(super) fn threads_with_turns<'a>(
        &self,
        ended: &'a [Running],
    ) -> Vec<(ThreadId, Option<&'a OpenTurn>)> {
        let running = self.threads.iter().filter(|(_, state)| !state.running.is_empty());
        let mut threads: Vec<ThreadId> = running.map(|(thread, _)| thread.clone()).collect();
        threads.sort_unstable();
        let complete = |thread: &ThreadId| {
            let ended = ended.iter().find(|ended| ended.thread == *thread && ended.complete)?;
            ended.turn.as_ref()
        };
        threads.into_iter().map(|thread| (thread.clone(), complete(&thread))).collect()
    }

    /// Adds the number of things kept here.
    pub(super) fn account(&self, kept: &mut super::Accounting) {
        kept.open_item_bytes = self.room.taken();
        kept.turns = self.threads.values().filter(|t| t.is_busy()).count();
        kept.subscribers = self.threads.values().map(|t| t.subscribers.len()).sum();
        kept.subscriptions = self.clients.values().map(FxHashSet::len).sum();
    }
}

/// Returns the threads whose open turn counts as complete if nothing comes any more, see [`capture`].
pub(crate) fn inferred_complete<'a>(
    threads: impl Iterator<Item = (&'a ThreadId, &'a Thread)>,
) -> FxHashSet<ThreadId> {
    let open: Vec<_> = threads
        .filter_map(|(id, thread)| {
            let turn = thread.turn.as_ref()?;
            Some((id, turn, turn.root(), thread.sub_agent))
        })
        .collect();
    let complete = open.iter().filter(|(thread, turn, root, _)| {
        let names = [&*turn.id, turn.ends_as(), root.as_deref().unwrap_or(&turn.id)];
        turn.progress.answer().is_some()
            && turn.error.is_none()
            && !open.iter().any(|(other, helper, root, sub_agent)| {
                let helper =
                    capture::OpenTurn { id: &helper.id, root: root.as_deref(), sub_agent: *sub_agent };
                other != thread && capture::works_for(helper, &names)
            })
    });
    complete.map(|(thread, ..)| (*thread).clone()).collect()
}
