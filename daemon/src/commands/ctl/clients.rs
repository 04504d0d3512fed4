//! `ctl clients`: the connected clients, in the order in which they connected.

use codexd_proto::control::View;
use codexd_proto::status::ClientStatus;

use super::lists::Listed;
use super::render;
use super::table::Column;

impl Listed for ClientStatus {
    const VIEW: View = View::Clients;
    const NONE: &'static str = "no client is connected";
    const COLUMNS: &'static [Column] = &[
        ("ID", 0),
        ("NAME", 0),
        ("VERSION", 5),
        ("PID", 1),
        ("PROGRAM", 2),
        ("SPEAKS", 6),
        ("STATE", 7),
        ("THREADS", 3),
        ("TURNS", 1),
        ("REQUESTS", 1),
        ("QUEUED", 1),
        ("SENT", 4),
        ("RECEIVED", 5),
        ("IDLE", 1),
        ("CONNECTED", 3),
    ];

    fn row(&self) -> Vec<String> {
        let queued = if self.queued_requests > 0 {
            format!(" ({} queued)", self.queued_requests)
        } else {
            String::new()
        };
        vec![
            self.id.to_string(),
            render::known(self.name.as_deref()),
            render::known(self.version.as_deref()),
            render::known(self.pid.map(|pid| pid.to_string()).as_deref()),
            render::known(self.program.as_deref()),
            render::known(self.framing.as_deref()),
            self.state.clone(),
            self.threads.len().to_string(),
            self.open_turns.to_string(),
            format!("{}{queued}", self.in_flight),
            render::bytes(self.queued_bytes),
            render::traffic(self.sent_messages, self.sent_bytes),
            render::traffic(self.received_messages, self.received_bytes),
            render::duration(self.idle_ms),
            render::duration(self.connected_ms),
        ]
    }
}
