//! The connections of clients: the stage of each, and its deadline.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use super::event::Framing;
use crate::id::ClientId;
use crate::router::CloseReason;
use crate::time::Time;

/// Milliseconds in which the head of an HTTP request must be complete.
const HEAD_WITHIN_MS: u64 = 5_000;

/// Milliseconds in which the last bytes of a connection must be written before it is closed.
const END_WITHIN_MS: u64 = 10_000;

/// Milliseconds between checks whether the peer of a half-closed connection still reads.
const CHECK_EVERY_MS: u64 = 1_000;

/// The stage of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing was received, so its framing is not known.
    New,
    /// The head of an HTTP request is being read.
    Head,
    /// Messages are exchanged.
    Open(Framing),
    /// It sends nothing more, and has pending replies.
    HalfClosed(Framing),
    /// It is closed for this reason when its outbox is written.
    Flushing(CloseReason),
    /// It is not a client's any more, and its last bytes are being written.
    Ending,
}

#[derive(Debug)]
struct Connection {
    stage: Stage,
    deadline: Option<Time>,
    /// Since when the daemon had been unused when it was accepted.
    unused_before: Option<Time>,
    /// How many connections had been accepted by then, this one included.
    number: u64,
}

/// All connections, with their deadlines in order.
#[derive(Debug, Default)]
pub(super) struct Connections {
    connections: FxHashMap<ClientId, Connection>,
    deadlines: BTreeSet<(Time, ClientId)>,
    /// How many have been accepted.
    accepted: u64,
}

impl Connections {
    pub(super) fn add(&mut self, client: ClientId, unused_before: Option<Time>) {
        self.accepted += 1;
        let number = self.accepted;
        let connection = Connection { stage: Stage::New, deadline: None, unused_before, number };
        self.connections.insert(client, connection);
    }

    /// Removes a connection. Returns whether there was one.
    pub(super) fn remove(&mut self, client: ClientId) -> bool {
        self.set_deadline(client, None);
        self.connections.remove(&client).is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Returns those that can still send something, without those that ask for a page.
    pub(super) fn attached(&self) -> impl Iterator<Item = ClientId> {
        let attached = |connection: &Connection| matches!(connection.stage, Stage::New | Stage::Open(_));
        self.connections.iter().filter(move |(_, it)| attached(it)).map(|(client, _)| *client)
    }

    pub(super) fn stage(&self, client: ClientId) -> Option<Stage> {
        self.connections.get(&client).map(|c| c.stage)
    }

    /// Returns the framing of a connection, if it is known.
    pub(super) fn framing(&self, client: ClientId) -> Option<Framing> {
        match self.stage(client)? {
            Stage::Open(framing) | Stage::HalfClosed(framing) => Some(framing),
            Stage::Head => Some(Framing::Http),
            Stage::New | Stage::Flushing(_) | Stage::Ending => None,
        }
    }

    /// Returns since when the daemon had been unused when a connection was accepted; `None` if another one was accepted
    /// since, which can have used it.
    pub(super) fn unused_before(&self, client: ClientId) -> Option<Time> {
        let connection = self.connections.get(&client)?;
        connection.unused_before.filter(|_| connection.number == self.accepted)
    }

    /// Moves a connection to another stage, with the deadline of that stage.
    pub(super) fn enter(&mut self, now: Time, client: ClientId, stage: Stage) {
        let within_ms = match stage {
            Stage::New | Stage::Open(_) => None,
            Stage::Head => Some(HEAD_WITHIN_MS),
            Stage::HalfClosed(_) => Some(CHECK_EVERY_MS),
            Stage::Flushing(_) | Stage::Ending => Some(END_WITHIN_MS),
        };
        self.set_deadline(client, within_ms.map(|ms| now + ms));
        if let Some(connection) = self.connections.get_mut(&client) {
            connection.stage = stage;
        }
    }

    fn set_deadline(&mut self, client: ClientId, deadline: Option<Time>) {
        let Some(connection) = self.connections.get_mut(&client) else { return };
        if let Some(at) = connection.deadline {
            self.deadlines.remove(&(at, client));
        }
        connection.deadline = deadline;
        self.deadlines.extend(deadline.map(|at| (at, client)));
    }

    /// Returns the oldest connections of clients, at most `most`.
    pub(super) fn oldest(&self, most: usize) -> Vec<ClientId> {
        let of_clients =
            |c: &Connection| matches!(c.stage, Stage::New | Stage::Open(_) | Stage::HalfClosed(_));
        let all = self.connections.iter().filter(|(_, c)| of_clients(c));
        let mut all: Vec<(u64, ClientId)> = all.map(|(client, c)| (c.number, *client)).collect();
        if all.len() > most {
            all.select_nth_unstable(most);
            all.truncate(most);
        }
        all.sort_unstable();
        all.into_iter().map(|(_, client)| client).collect()
    }

    /// Returns the half-closed connections.
    pub(super) fn half_closed(&self) -> Vec<ClientId> {
        let half_closed = self.connections.iter().filter(|(_, c)| matches!(c.stage, Stage::HalfClosed(_)));
        let mut half_closed: Vec<ClientId> = half_closed.map(|(client, _)| *client).collect();
        half_closed.sort_unstable();
        half_closed
    }

    /// Returns the earliest deadline.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Removes the next deadline that has passed. Returns its client and the stage of that connection.
    pub(super) fn take_overdue(&mut self, now: Time) -> Option<(ClientId, Stage)> {
        let (at, client) = *self.deadlines.first()?;
        if at > now {
            return None;
        }
        self.set_deadline(client, None);
        Some((client, self.stage(client)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_connections_of_clients_come_first_and_pages_are_none() {
        let mut connections = Connections::default();
        // Not in the order of their ids.
        let ids = [7, 3, 9, 1, 5].map(ClientId);
        for id in ids {
            connections.add(id, None);
        }
        let now = Time::from_millis(0);
        connections.enter(now, ids[0], Stage::Head);
        connections.enter(now, ids[1], Stage::Open(Framing::Lines));
        connections.enter(now, ids[3], Stage::Ending);
        assert_eq!(connections.oldest(8), [ids[1], ids[2], ids[4]]);
        assert_eq!(connections.oldest(2), [ids[1], ids[2]]);
        connections.remove(ids[1]);
        assert_eq!(connections.oldest(2), [ids[2], ids[4]]);
    }
}
