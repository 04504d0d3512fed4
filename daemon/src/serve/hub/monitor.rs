//! Monitors: who looks at the messages of the data plane.
//!
//! While nobody does, each read and write costs one branch. While somebody does, what passes is copied into the monitor's
//! ring, which is bounded. The data plane waits for none.

use codexd_proto::core::Core;
use codexd_proto::feed::Direction;
use codexd_proto::id::ClientId;

use super::Hub;
use crate::control::monitor::Monitor;

/// All monitors.
#[derive(Debug, Default)]
pub(super) struct Monitors {
    active: Vec<Monitor>,
}

impl Monitors {
    /// Shows what a client has sent.
    pub(super) fn show_from_client(&mut self, client: ClientId, line: &[u8]) {
        self.show(Direction::FromClient, Some(client), line);
    }

    /// Shows what codex has sent.
    pub(super) fn show_from_codex(&mut self, line: &[u8]) {
        self.show(Direction::FromCodex, None, line);
    }

    /// Shows what waits for a client behind the first `shown` bytes; returns how many bytes are shown then.
    pub(super) fn show_to_client(&mut self, client: ClientId, shown: usize, core: &mut Core) -> usize {
        let pending = core.pending(client);
        self.show_lines(Direction::ToClient, Some(client), pending.get(shown..).unwrap_or_default());
        pending.len()
    }

    /// As [`show_to_client`](Monitors::show_to_client), of what waits for codex.
    pub(super) fn show_to_codex(&mut self, shown: usize, core: &mut Core) -> usize {
        let pending = core.upstream_pending();
        self.show_lines(Direction::ToCodex, None, pending.get(shown..).unwrap_or_default());
        pending.len()
    }

    fn show(&mut self, direction: Direction, client: Option<ClientId>, line: &[u8]) {
        for monitor in &mut self.active {
            monitor.push(direction, client, line);
        }
    }

    fn show_lines(&mut self, direction: Direction, client: Option<ClientId>, lines: &[u8]) {
        for monitor in &mut self.active {
            monitor.push_lines(direction, client, lines);
        }
    }
}

impl Hub {
    /// Adds a monitor: from now on it gets what passes its filter.
    pub(super) fn monitor(&mut self, monitor: Monitor) {
        if self.monitors.is_none() {
            // What waits now was sent before.
            for (client, io) in &mut self.clients {
                io.shown = self.core.pending(*client).len();
            }
            self.upstream.shown = self.core.upstream_pending().len();
        }
        self.monitors.get_or_insert_default().active.push(monitor);
        tracing::info!("a monitor looks at the messages");
    }

    /// Ends what monitors were shown at the same time, and takes away those that do not go on.
    pub(super) fn check_monitors(&mut self) {
        if let Some(monitors) = &mut self.monitors {
            monitors.active.retain_mut(Monitor::goes_on);
            if monitors.active.is_empty() {
                self.monitors = None;
                tracing::info!("nobody looks at the messages any more");
            }
        }
    }
}
