//! Delivery: lines for clients, opt-outs, and clients that do not read.
//!
//! # Invariants
//! A recipient that exceeds a hard limit is to be closed, and nothing more is queued for it. `over_soft` counts the
//! recipients whose outbox was above the soft limit while their socket was full.

mod outbox;

use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};

use super::limits::Limits;
use crate::id::ClientId;
use crate::routes::NotificationSet;
use crate::time::Time;

pub use outbox::Outbox;

/// What can be queued for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepts {
    /// Only responses: it has not initialized.
    Responses,
    /// Everything that it did not opt out of.
    Everything,
    /// Nothing: it is being closed.
    Nothing,
}

/// Notifications that a client does not get.
#[derive(Debug, Default)]
pub(super) struct OptOuts {
    /// Those in the routing table that it opted out of, or that are experimental.
    pub(super) known: NotificationSet,
    /// Those that are not in the routing table.
    pub(super) unknown: FxHashSet<Box<[u8]>>,
}

/// A notification as opt-outs identify it: by its bit in the routing table, or by its name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Topic<'a> {
    Known(NotificationSet),
    Unknown(&'a [u8]),
}

/// A client as the recipient of lines.
#[derive(Debug)]
struct Recipient {
    accepts: Accepts,
    opt_outs: OptOuts,
    outbox: Outbox,
    /// Whether it is in the list of outboxes to write.
    dirty: bool,
    /// When its socket last accepted bytes, or its outbox stopped being empty.
    progressed: Time,
    /// Messages queued for it so far.
    messages: u64,
    /// Since when its outbox has been above the soft limit.
    over_soft_since: Option<Time>,
}

impl Recipient {
    #[inline]
    fn wants(&self, topic: Topic<'_>) -> bool {
        self.accepts == Accepts::Everything
            && match topic {
                Topic::Known(bit) => self.opt_outs.known & bit == 0,
                Topic::Unknown(method) => {
                    self.opt_outs.unknown.is_empty() || !self.opt_outs.unknown.contains(method)
                }
            }
    }
}

/// What was sent to a client so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SentSoFar {
    /// Messages, including those still queued.
    pub(super) messages: u64,
    /// Bytes that its socket accepted, without what framing adds.
    pub(super) bytes: u64,
    /// When its socket last accepted bytes, or its outbox stopped being empty.
    pub(super) last: Time,
}

/// What queueing a line touches besides the recipient.
#[derive(Debug)]
struct Shared {
    soft_bytes: usize,
    soft_ms: u64,
    hard_bytes: usize,
    stall_ms: u64,
    max_bytes: usize,
    /// The time of the call that is being handled.
    now: Time,
    /// Clients whose outbox has something new.
    dirty: Vec<ClientId>,
    /// Clients that exceed a hard limit and have to be closed.
    overflowed: Vec<ClientId>,
    /// Number of clients above the soft limit.
    over_soft: usize,
    /// Lines delivered so far.
    delivered: u64,
}

/// See the [module's documentation](self).
#[derive(Debug)]
pub(super) struct Delivery {
    recipients: FxHashMap<ClientId, Recipient>,
    shared: Shared,
    /// The line that is being handled, with its line feed, if it is long: all its recipients share it.
    long: Option<Bytes>,
    /// Lines with several recipients, see [`Outbox`].
    block: Vec<u8>,
    /// The clients whose outboxes refer to the block.
    in_block: Vec<ClientId>,
}

impl Delivery {
    pub(super) fn new(limits: &Limits, now: Time) -> Delivery {
        let mut delivery = Delivery {
            recipients: FxHashMap::default(),
            shared: Shared {
                soft_bytes: 0,
                soft_ms: 0,
                hard_bytes: 0,
                stall_ms: 0,
                max_bytes: 0,
                now,
                dirty: Vec::new(),
                overflowed: Vec::new(),
                over_soft: 0,
                delivered: 0,
            },
            long: None,
            block: Vec::new(),
            in_block: Vec::new(),
        };
        delivery.limit(limits);
        delivery
    }

    /// Changes the limits. They apply from the next line on.
    pub(super) fn limit(&mut self, limits: &Limits) {
        self.shared.soft_bytes = limits.client_queue_soft_bytes;
        self.shared.soft_ms = limits.client_queue_soft_ms;
        self.shared.hard_bytes = limits.client_queue_hard_bytes;
        self.shared.stall_ms = limits.client_queue_stall_ms;
        self.shared.max_bytes = limits.client_queue_max_bytes;
    }

    /// Sets the time of the call that is being handled.
    #[inline]
    pub(super) fn at(&mut self, now: Time) {
        self.shared.now = now;
    }

    /// Returns the time of the call that is being handled.
    #[inline]
    pub(super) fn now(&self) -> Time {
        self.shared.now
    }

    // ---- clients -------------------------------------------------------------------------------

    pub(super) fn connect(&mut self, client: ClientId) {
        let recipient = Recipient {
            accepts: Accepts::Responses,
            opt_outs: OptOuts::default(),
            outbox: Outbox::default(),
            dirty: false,
            progressed: self.shared.now,
            messages: 0,
            over_soft_since: None,
        };
        self.recipients.insert(client, recipient);
    }

    /// Records that a client has initialized. It gets notifications from now on.
    pub(super) fn initialized(&mut self, client: ClientId, opt_outs: OptOuts) {
        if let Some(recipient) = self.recipients.get_mut(&client) {
            recipient.accepts = Accepts::Everything;
            recipient.opt_outs = opt_outs;
        }
    }

    /// Stops queueing for a client. What is queued can still be written.
    pub(super) fn close(&mut self, client: ClientId) {
        if let Some(recipient) = self.recipients.get_mut(&client) {
            recipient.accepts = Accepts::Nothing;
        }
        self.forget_slow(client);
    }

    /// Returns whether a client opted out of a notification that is not in the routing table.
    pub(super) fn opted_out(&self, client: ClientId, method: &[u8]) -> bool {
        self.recipients.get(&client).is_some_and(|r| r.opt_outs.unknown.contains(method))
    }

    /// Stops counting a client as slow.
    pub(super) fn forget_slow(&mut self, client: ClientId) {
        if let Some(recipient) = self.recipients.get_mut(&client)
            && recipient.over_soft_since.take().is_some()
        {
            self.shared.over_soft -= 1;
        }
    }

    pub(super) fn disconnect(&mut self, client: ClientId) {
        self.forget_slow(client);
        self.recipients.remove(&client);
    }

    /// Returns the bytes queued for a client; `None` if it has disconnected.
    pub(super) fn outbox(&mut self, client: ClientId) -> Option<&mut Outbox> {
        self.end_block();
        self.recipients.get_mut(&client).map(|r| &mut r.outbox)
    }

    /// Records that a client's socket accepted `n` bytes, and whether it is full now.
    pub(super) fn written(&mut self, client: ClientId, n: usize, full: bool) {
        self.end_block();
        let Some(recipient) = self.recipients.get_mut(&client) else { return };
        if n > 0 {
            recipient.progressed = self.shared.now;
        }
        recipient.outbox.advance(n, full);
        if recipient.over_soft_since.is_some() && recipient.outbox.len() <= self.shared.soft_bytes {
            recipient.over_soft_since = None;
            self.shared.over_soft -= 1;
        }
    }

    // ---- lines ---------------------------------------------------------------------------------

    /// Sets the long line that is being handled, with its line feed. It is not copied when it is queued.
    pub(super) fn share(&mut self, line: Option<Bytes>) {
        self.long = line;
    }

    /// Returns whether `line` is the long line that is being handled.
    pub(super) fn is_shared(&self, line: &[u8]) -> bool {
        shared(self.long.as_ref(), line).is_some()
    }

    /// Queues a line for one client. Opt-outs do not apply.
    pub(super) fn reply(&mut self, client: ClientId, line: &[u8]) {
        if let Some(recipient) = self.recipients.get_mut(&client)
            && recipient.accepts != Accepts::Nothing
        {
            let (long, block) = (self.long.as_ref(), &self.block);
            self.shared.post(client, recipient, |outbox| push(outbox, long, block, line));
        }
    }

    /// Queues the line that `write` appends for one client. Opt-outs do not apply.
    pub(super) fn reply_with(&mut self, client: ClientId, write: impl FnOnce(&mut Vec<u8>)) {
        if let Some(recipient) = self.recipients.get_mut(&client)
            && recipient.accepts != Accepts::Nothing
        {
            self.shared.post(client, recipient, |outbox| {
                outbox.copy_out(&self.block);
                outbox.push_with(write);
            });
        }
    }

    /// Queues a notification for one client.
    pub(super) fn notify(&mut self, client: ClientId, topic: Topic<'_>, line: &[u8]) {
        self.notify_each(&[client], topic, line);
    }

    /// Queues the notification that `write` appends for one client.
    pub(super) fn notify_with(
        &mut self,
        client: ClientId,
        topic: Topic<'_>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        if let Some(recipient) = self.recipients.get_mut(&client)
            && recipient.wants(topic)
        {
            self.shared.post(client, recipient, |outbox| {
                outbox.copy_out(&self.block);
                outbox.push_with(write);
            });
        }
    }

    /// Queues a notification for all clients.
    pub(super) fn notify_all(&mut self, topic: Topic<'_>, line: &[u8]) {
        let (long, block) = (self.long.as_ref(), &self.block);
        for (client, recipient) in &mut self.recipients {
            if recipient.wants(topic) {
                self.shared.post(*client, recipient, |outbox| push(outbox, long, block, line));
            }
        }
    }

    /// Queues a notification for some clients.
    #[inline]
    pub(super) fn notify_each(&mut self, clients: &[ClientId], topic: Topic<'_>, line: &[u8]) {
        if clients.len() > 1 && self.long.is_none() {
            return self.notify_several(clients, topic, line);
        }
        let (long, block) = (self.long.as_ref(), &self.block);
        for client in clients {
            if let Some(recipient) = self.recipients.get_mut(client)
                && recipient.wants(topic)
            {
                self.shared.post(*client, recipient, |outbox| push(outbox, long, block, line));
            }
        }
    }

    /// Queues a notification for several clients, with one copy of it for all.
    fn notify_several(&mut self, clients: &[ClientId], topic: Topic<'_>, line: &[u8]) {
        let at = self.block.len();
        self.block.extend_from_slice(line);
        self.block.push(b'\n');
        for client in clients {
            if let Some(recipient) = self.recipients.get_mut(client)
                && recipient.wants(topic)
            {
                self.shared.post(*client, recipient, |outbox| {
                    if outbox.push_in_block(&self.block, at) {
                        self.in_block.push(*client);
                    }
                });
            }
        }
    }

    /// Ends the block: its lines become parts of the outboxes.
    #[inline]
    fn end_block(&mut self) {
        if !self.block.is_empty() {
            self.take_out_block();
        }
    }

    fn take_out_block(&mut self) {
        let clients = self.in_block.drain(..);
        if self.block.len() < outbox::SHARED {
            for client in clients {
                if let Some(recipient) = self.recipients.get_mut(&client) {
                    recipient.outbox.copy_out(&self.block);
                }
            }
            return self.block.clear();
        }
        // The next one will have about the same length.
        let next = Vec::with_capacity(self.block.len());
        let mut block = std::mem::replace(&mut self.block, next);
        // Who does not read keeps it.
        block.shrink_to_fit();
        let block = Bytes::from(block);
        for client in clients {
            if let Some(recipient) = self.recipients.get_mut(&client) {
                recipient.outbox.take_out(&block);
            }
        }
    }

    /// Removes the next client with new bytes in its outbox.
    pub(super) fn poll_dirty(&mut self) -> Option<ClientId> {
        self.end_block();
        let client = self.shared.dirty.pop()?;
        if let Some(recipient) = self.recipients.get_mut(&client) {
            recipient.dirty = false;
        }
        Some(client)
    }

    // ---- slow clients --------------------------------------------------------------------------

    /// Returns when the first client will have been above the soft limit for too long.
    pub(super) fn slow_due(&self) -> Option<Time> {
        (self.shared.over_soft > 0)
            .then(|| self.recipients.values().filter_map(|r| r.over_soft_since).min())
            .flatten()
            .map(|since| since + self.shared.soft_ms)
    }

    /// Marks the clients that have been above the soft limit for too long, so that they are closed.
    pub(super) fn judge_slow(&mut self) {
        if self.shared.over_soft == 0 {
            return;
        }
        let (now, soft_ms) = (self.shared.now, self.shared.soft_ms);
        let slow = self.recipients.iter().filter(|(_, r)| {
            r.accepts != Accepts::Nothing
                && r.over_soft_since.is_some_and(|since| now.since(since) >= soft_ms)
        });
        self.shared.overflowed.extend(slow.map(|(client, _)| *client));
    }

    /// Returns whether a client has to be closed.
    #[inline]
    pub(super) fn has_overflowed(&self) -> bool {
        !self.shared.overflowed.is_empty()
    }

    /// Removes the next client that has to be closed because it does not read.
    pub(super) fn poll_overflowed(&mut self) -> Option<ClientId> {
        loop {
            let client = self.shared.overflowed.pop()?;
            if self.recipients.get(&client).is_some_and(|r| r.accepts != Accepts::Nothing) {
                return Some(client);
            }
        }
    }

    // ---- queries ------------------------------------------------------------------------------

    /// Returns whether bytes are queued for any client.
    pub(super) fn has_unwritten(&self) -> bool {
        self.recipients.values().any(|r| !r.outbox.is_empty())
    }

    /// Returns how many bytes are queued for a client.
    pub(super) fn waiting_bytes(&self, client: ClientId) -> usize {
        self.recipients.get(&client).map_or(0, |r| r.outbox.len())
    }

    /// Returns what was sent to a client so far.
    pub(super) fn sent(&self, client: ClientId) -> SentSoFar {
        self.recipients.get(&client).map_or_else(SentSoFar::default, |r| SentSoFar {
            messages: r.messages,
            bytes: r.outbox.written_total(),
            last: r.progressed,
        })
    }

    /// Returns how many messages were queued for a client so far, if all those that wait are [pending](Outbox::pending);
    /// if only some of them are, it is not known how many.
    pub(super) fn queued_messages(&mut self, client: ClientId) -> Option<u64> {
        self.end_block();
        let recipient = self.recipients.get(&client)?;
        (recipient.outbox.pending().len() == recipient.outbox.len()).then_some(recipient.messages)
    }

    /// Returns how many bytes are queued for all clients.
    pub(super) fn all_waiting_bytes(&self) -> usize {
        self.recipients.values().map(|r| r.outbox.len()).sum()
    }

    /// Returns how many lines were delivered.
    pub(super) fn delivered(&self) -> u64 {
        self.shared.delivered
    }

    /// Iterates over the clients above the soft limit, with their queued bytes and the time since when they are
    /// above it.
    pub(super) fn slow(&self) -> impl Iterator<Item = (ClientId, usize, Time)> {
        self.recipients
            .iter()
            .filter(|(_, r)| r.accepts != Accepts::Nothing)
            .filter_map(|(client, r)| Some((*client, r.outbox.len(), r.over_soft_since?)))
    }

    /// Returns how many clients are above the soft limit.
    pub(super) fn over_soft(&self) -> usize {
        self.shared.over_soft
    }
}

/// Queues a line. The `long` line that is being handled is not copied.
#[inline]
fn push(outbox: &mut Outbox, long: Option<&Bytes>, block: &[u8], line: &[u8]) {
    outbox.copy_out(block);
    match shared(long, line) {
        Some(long) => outbox.push_shared(long),
        None => outbox.push(line),
    }
}

/// Returns the `long` line that is being handled, if `line` is all of it.
#[inline]
fn shared<'a>(long: Option<&'a Bytes>, line: &[u8]) -> Option<&'a Bytes> {
    long.filter(|long| long.as_ptr() == line.as_ptr() && long.len() == line.len() + 1)
}

impl Shared {
    #[inline]
    fn post(&mut self, client: ClientId, recipient: &mut Recipient, push: impl FnOnce(&mut Outbox)) {
        let waiting = recipient.outbox.len();
        if waiting == 0 {
            // Until now, there was nothing to read.
            recipient.progressed = self.now;
        }
        if waiting > self.soft_bytes && recipient.outbox.is_blocked() {
            let stalled = self.now.since(recipient.progressed) >= self.stall_ms;
            // A long text is sent twice, in deltas and in the completed item, and takes time to read. The client is too
            // slow only if more than that is queued.
            let allowance = 2 * recipient.outbox.longest();
            if waiting > self.max_bytes.saturating_add(allowance)
                || (waiting > self.hard_bytes.saturating_add(allowance) && stalled)
            {
                self.overflowed.push(client);
                return;
            }
            if recipient.over_soft_since.is_none() {
                recipient.over_soft_since = Some(self.now);
                self.over_soft += 1;
            }
        }
        push(&mut recipient.outbox);
        self.delivered += 1;
        recipient.messages += 1;
        if !recipient.dirty {
            recipient.dirty = true;
            self.dirty.push(client);
        }
    }
}
