//! The log of clients and turns: each begins once and ends once.

use std::collections::BTreeSet;

use codexd_proto::id::ClientId;
use codexd_proto::router::Activity;
use codexd_proto::status::StatusReport;

use crate::world::World;

/// The connected clients and running turns, according to the log.
#[derive(Debug, Default)]
pub(crate) struct Activities {
    clients: BTreeSet<ClientId>,
    turns: BTreeSet<(String, String)>,
    ended: u64,
}

impl World {
    /// Reads what the log has got since the last time.
    pub(crate) fn read_activities(&mut self) {
        while let Some(activity) = self.core.poll_activity() {
            self.note(format!("logs {activity:?}"));
            let Activities { clients, turns, ended } = &mut self.activities;
            match activity {
                Activity::ClientConnected { client, .. } => {
                    assert!(clients.insert(client), "{client} came twice")
                }
                Activity::ClientLeft { client, .. } => {
                    assert!(clients.remove(&client), "{client} was not there")
                }
                Activity::TurnStarted { thread, turn, .. } => {
                    let key = (thread.to_string(), turn);
                    assert!(turns.insert(key.clone()), "{key:?} started twice");
                }
                Activity::TurnEnded { thread, turn, .. } => {
                    let key = (thread.to_string(), turn);
                    assert!(turns.remove(&key), "{key:?} ended and had not started");
                    *ended += 1;
                }
                Activity::TurnProgress { thread, turn, .. } => {
                    let key = (thread.to_string(), turn);
                    assert!(turns.contains(&key), "{key:?} goes on and does not run");
                }
                Activity::TurnSilent { thread, turn, .. } => {
                    let key = (thread.to_string(), turn);
                    assert!(turns.contains(&key), "{key:?} is silent and does not run");
                }
                Activity::ConfigWarning { .. }
                | Activity::ApprovalRequested { .. }
                | Activity::ApprovalEnded { .. }
                | Activity::InterruptRefused { .. } => {}
            }
        }
    }

    /// All clients have left.
    pub(crate) fn check_activities(&mut self) {
        self.read_activities();
        let Activities { clients, turns, ended } = &self.activities;
        assert!(clients.is_empty(), "the log says that {clients:?} are still there");
        assert!(self.is_up() || turns.is_empty(), "the log says that {turns:?} still run");
        let mut report = StatusReport::default();
        self.core.fill_status(self.now, &mut report);
        // Turns of which only the thread's status was known have no line.
        assert!(report.counters.turns_completed >= *ended);
    }
}
