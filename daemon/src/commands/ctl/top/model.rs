//! What `ctl top` shows, and what its keys do.

use std::collections::BTreeMap;
use std::time::Instant;

use codexd_proto::listing::TurnStatus;
use codexd_proto::status::{ClientStatus, StatusReport};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::Value;

use super::super::render;

/// The table with the selection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Focus {
    #[default]
    Turns,
    Clients,
}

/// The orders of the turns. The first one is the default.
const TURN_SORTS: [&str; 3] = ["age", "silence", "phase"];
/// The orders of the clients.
const CLIENT_SORTS: [&str; 4] = ["number", "rate", "queue", "idle"];

/// An action on the selection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// The turn with this id, or of the thread with this id.
    Interrupt(String),
    /// The client with this number.
    Kill(u64),
}

/// The result of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Nothing,
    Quit,
    Act(Action),
}

/// The rates of a client's messages and bytes per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rate {
    pub(super) messages: f64,
    pub(super) bytes: f64,
}

/// Everything that is shown.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) status: StatusReport,
    turns: Vec<TurnStatus>,
    clients: Vec<ClientStatus>,
    rates: BTreeMap<u64, Rate>,
    seen: Option<Instant>,
    pub(super) focus: Focus,
    /// Indices of the selections and of the orders.
    selected: [usize; 2],
    sorts: [usize; 2],
    /// The action that waits for a confirmation.
    asked: Option<Action>,
    message: String,
}

impl Model {
    pub(super) fn set_status(&mut self, view: Value) {
        // A daemon of another version can send what this version cannot read. Then the last view stays.
        if let Ok(status) = serde_json::from_value(view) {
            self.status = status;
        }
    }

    pub(super) fn set_turns(&mut self, view: Value) {
        if let Ok(turns) = serde_json::from_value(view) {
            self.turns = turns;
            self.sort();
        }
    }

    /// Sets the list of clients at the time `now`. Rates are relative to the last list.
    pub(super) fn set_clients(&mut self, view: Value, now: Instant) {
        let Ok(clients) = serde_json::from_value::<Vec<ClientStatus>>(view) else { return };
        let seconds = self.seen.map(|seen| now.saturating_duration_since(seen).as_secs_f64());
        if let Some(seconds) = seconds.filter(|seconds| *seconds > 0.0) {
            let before: BTreeMap<u64, &ClientStatus> = self.clients.iter().map(|c| (c.id, c)).collect();
            let rate = |now: &ClientStatus| {
                let before = before.get(&now.id)?;
                let per_second = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
                let (messages, bytes) = (
                    total(now, |c| (c.sent_messages, c.received_messages)),
                    total(now, |c| (c.sent_bytes, c.received_bytes)),
                );
                Some(Rate {
                    messages: per_second(messages, total(before, |c| (c.sent_messages, c.received_messages))),
                    bytes: per_second(bytes, total(before, |c| (c.sent_bytes, c.received_bytes))),
                })
            };
            self.rates = clients.iter().filter_map(|client| Some((client.id, rate(client)?))).collect();
        }
        self.seen = Some(now);
        self.clients = clients;
        self.sort();
    }

    pub(super) fn set_message(&mut self, message: String) {
        self.message = message;
    }

    pub(super) fn turns(&self) -> &[TurnStatus] {
        &self.turns
    }

    pub(super) fn clients(&self) -> &[ClientStatus] {
        &self.clients
    }

    pub(super) fn rate(&self, client: u64) -> Rate {
        self.rates.get(&client).copied().unwrap_or_default()
    }

    /// Returns the messages of all clients per second.
    pub(super) fn all_messages(&self) -> f64 {
        self.rates.values().map(|rate| rate.messages).fold(0.0, |sum, rate| sum + rate)
    }

    /// Returns the index of the selection in a table, if it has the selection.
    pub(super) fn selected(&self, table: Focus) -> Option<usize> {
        let length = self.length(table);
        (self.focus == table && length > 0).then(|| self.selected[table as usize].min(length - 1))
    }

    pub(super) fn sorted_by(&self, table: Focus) -> &'static str {
        match table {
            Focus::Turns => TURN_SORTS[self.sorts[0]],
            Focus::Clients => CLIENT_SORTS[self.sorts[1]],
        }
    }

    /// Returns the last line of the screen: a confirmation, the result of the last action, or the keys.
    pub(super) fn footer(&self) -> String {
        match &self.asked {
            Some(Action::Interrupt(turn)) => format!("interrupt turn {}? y/n", render::id(turn)),
            Some(Action::Kill(client)) => format!("disconnect client {client}? y/n"),
            None if !self.message.is_empty() => self.message.clone(),
            None => {
                "q quit  tab table  up/down select  s sort  i interrupt turn  k disconnect client".to_owned()
            }
        }
    }

    /// Handles a key.
    pub(super) fn key(&mut self, key: KeyEvent) -> Outcome {
        self.message.clear();
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Outcome::Quit } else { Outcome::Nothing };
        }
        if let Some(action) = self.asked.take() {
            return if key.code == KeyCode::Char('y') { Outcome::Act(action) } else { Outcome::Nothing };
        }
        let table = self.focus as usize;
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Outcome::Quit,
            KeyCode::Tab => {
                self.focus = if self.focus == Focus::Turns { Focus::Clients } else { Focus::Turns };
            }
            KeyCode::Up => self.selected[table] = self.selected[table].saturating_sub(1),
            KeyCode::Down => {
                let last = self.length(self.focus).saturating_sub(1);
                self.selected[table] = (self.selected[table] + 1).min(last);
            }
            KeyCode::Char('s') => {
                let orders = if self.focus == Focus::Turns { TURN_SORTS.len() } else { CLIENT_SORTS.len() };
                self.sorts[table] = (self.sorts[table] + 1) % orders;
                self.sort();
            }
            KeyCode::Char('i') => {
                let turn = self.selected(Focus::Turns).and_then(|at| self.turns.get(at));
                match turn {
                    Some(turn) => {
                        let id = turn.id.clone().unwrap_or_else(|| turn.thread_id.clone());
                        self.asked = Some(Action::Interrupt(id));
                    }
                    None => "select a turn first".clone_into(&mut self.message),
                }
            }
            KeyCode::Char('k') => {
                let client = self.selected(Focus::Clients).and_then(|at| self.clients.get(at));
                match client {
                    Some(client) => self.asked = Some(Action::Kill(client.id)),
                    None => "select a client first".clone_into(&mut self.message),
                }
            }
            _ => {}
        }
        Outcome::Nothing
    }

    fn length(&self, table: Focus) -> usize {
        match table {
            Focus::Turns => self.turns.len(),
            Focus::Clients => self.clients.len(),
        }
    }

    fn sort(&mut self) {
        match self.sorted_by(Focus::Turns) {
            "silence" => self.turns.sort_by_key(|t| std::cmp::Reverse(t.last_event_ms)),
            "phase" => self.turns.sort_by(|a, b| a.phase.cmp(&b.phase)),
            _ => self.turns.sort_by_key(|t| std::cmp::Reverse(t.age_ms)),
        }
        let rates = &self.rates;
        match self.sorted_by(Focus::Clients) {
            "rate" => self.clients.sort_by(|a, b| {
                let rate =
                    |client: &ClientStatus| rates.get(&client.id).copied().unwrap_or_default().messages;
                rate(b).total_cmp(&rate(a)).then(a.id.cmp(&b.id))
            }),
            "queue" => self.clients.sort_by_key(|c| (std::cmp::Reverse(c.queued_bytes), c.id)),
            "idle" => self.clients.sort_by_key(|c| (std::cmp::Reverse(c.idle_ms), c.id)),
            _ => self.clients.sort_by_key(|c| c.id),
        }
    }
}

fn total(client: &ClientStatus, of: impl Fn(&ClientStatus) -> (u64, u64)) -> u64 {
    let (sent, received) = of(client);
    sent + received
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn press(model: &mut Model, code: KeyCode) -> Outcome {
        model.key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    fn model() -> Model {
        let mut model = Model::default();
        model.set_turns(json!([{"id": "old", "ageMs": 20, "lastEventMs": 1}, {"id": "new", "ageMs": 10, "lastEventMs": 9}]));
        let now = Instant::now();
        let clients =
            |sent: u64| json!([{"id": 1, "idleMs": 5}, {"id": 2, "sentMessages": sent, "idleMs": 1}]);
        model.set_clients(clients(10), now);
        model.set_clients(clients(30), now + Duration::from_secs(2));
        model
    }

    #[test]
    fn a_turn_is_interrupted_after_a_question() {
        let mut model = model();
        press(&mut model, KeyCode::Down);
        assert_eq!(press(&mut model, KeyCode::Char('i')), Outcome::Nothing);
        assert_eq!(model.footer(), "interrupt turn new? y/n");
        assert_eq!(press(&mut model, KeyCode::Char('n')), Outcome::Nothing);
        assert!(model.footer().starts_with("q quit"));
        press(&mut model, KeyCode::Char('i'));
        let act = Outcome::Act(Action::Interrupt("new".to_owned()));
        assert_eq!(press(&mut model, KeyCode::Char('y')), act);
    }

    #[test]
    fn a_client_is_disconnected_from_its_own_table() {
        let mut model = model();
        press(&mut model, KeyCode::Char('k'));
        assert_eq!(model.footer(), "select a client first");
        press(&mut model, KeyCode::Tab);
        press(&mut model, KeyCode::Char('k'));
        assert_eq!(press(&mut model, KeyCode::Char('y')), Outcome::Act(Action::Kill(1)));
    }

    #[test]
    fn tables_are_sorted_by_what_was_chosen() {
        let mut model = model();
        press(&mut model, KeyCode::Char('s'));
        assert_eq!((model.sorted_by(Focus::Turns), model.turns()[0].id.as_deref()), ("silence", Some("new")));
        press(&mut model, KeyCode::Tab);
        press(&mut model, KeyCode::Char('s'));
        assert_eq!((model.sorted_by(Focus::Clients), model.clients()[0].id), ("rate", 2));
        assert_eq!((model.rate(2).messages, model.all_messages()), (10.0, 10.0));
        for _ in 0..3 {
            press(&mut model, KeyCode::Char('s'));
        }
        assert_eq!((model.sorted_by(Focus::Clients), model.clients()[0].id), ("number", 1));
    }

    #[test]
    fn a_selection_stays_within_its_table() {
        let mut model = model();
        for _ in 0..5 {
            press(&mut model, KeyCode::Down);
        }
        assert_eq!(model.selected(Focus::Turns), Some(1));
        model.set_turns(json!([{"id": "one"}]));
        assert_eq!((model.selected(Focus::Turns), model.selected(Focus::Clients)), (Some(0), None));
        model.set_turns(json!([]));
        assert_eq!(model.selected(Focus::Turns), None);
        assert_eq!(press(&mut model, KeyCode::Char('q')), Outcome::Quit);
    }
}
