//! Monitors: who looks at the messages of the data plane.
//!
//! While nobody does, each read and write costs one branch. While somebody does, what passes is copied into the monitor's
//! ring, which is bounded, or counted as missed. The data plane waits for none.

use codexd_proto::core::Core;
use codexd_proto::feed::Direction;
use codexd_proto::id::ClientId;

use super::Hub;
use crate::control::monitor::Monitor;

/// All monitors.
#[derive(Debug, Default)]
pub(super) struct Monitors {
    active: Vec<Monitor>,
    /// Whether one may want what codex sends: most want what clients see, and each message of codex would be offered.
    from_codex: bool,
}

/// What monitors were shown of a client's outbox.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    /// Bytes at its front.
    pub(super) bytes: usize,
    /// Messages up to there since the client connected, if known: the core counts them, so that nobody has to.
    messages: Option<u64>,
}

impl Default for Shown {
    fn default() -> Shown {
        Shown { bytes: 0, messages: Some(0) }
    }
}

impl Shown {
    /// Returns everything that is pending.
    fn all(client: ClientId, core: &mut Core) -> Shown {
        Shown { messages: core.queued_messages(client), bytes: core.pending(client).len() }
    }
}

impl Monitors {
    /// Shows what a client has sent.
    pub(super) fn show_from_client(&mut self, client: ClientId, line: &[u8]) {
        self.show(Direction::FromClient, Some(client), line);
    }

    /// Shows what codex has sent.
    #[inline]
    pub(super) fn show_from_codex(&mut self, line: &[u8]) {
        if self.from_codex {
            self.show(Direction::FromCodex, None, line);
        }
    }

    /// Shows what waits for a client behind what is `shown`; returns what is shown then.
    pub(super) fn show_to_client(&mut self, client: ClientId, shown: Shown, core: &mut Core) -> Shown {
        let all = Shown::all(client, core);
        let lines = core.pending(client).get(shown.bytes..).unwrap_or_default();
        let messages = all.messages.zip(shown.messages).map(|(all, shown)| all.saturating_sub(shown));
        self.show_lines(Direction::ToClient, Some(client), lines, messages);
        all
    }

    /// Shows what waits for codex behind the first `shown` bytes; returns how many bytes are shown then.
    pub(super) fn show_to_codex(&mut self, shown: usize, core: &mut Core) -> usize {
        let pending = core.upstream_pending();
        self.show_lines(Direction::ToCodex, None, pending.get(shown..).unwrap_or_default(), None);
        pending.len()
    }

    fn show(&mut self, direction: Direction, client: Option<ClientId>, line: &[u8]) {
        for monitor in &mut self.active {
            monitor.push(direction, client, line);
        }
    }

    fn show_lines(
        &mut self,
        direction: Direction,
        client: Option<ClientId>,
        lines: &[u8],
        messages: Option<u64>,
    ) {
        for monitor in &mut self.active {
            monitor.push_lines(direction, client, lines, messages);
        }
    }

    /// Looks again at what the monitors may want; to be called whenever there are others.
    fn changed(&mut self) {
        self.from_codex = self.active.iter().any(Monitor::wants_codex);
    }
}

impl Hub {
    /// Adds a monitor: from now on it gets what passes its filter.
    pub(super) fn monitor(&mut self, monitor: Monitor) {
        if self.monitors.is_none() {
            // What waits now was sent before.
            for (client, io) in &mut self.clients {
                io.shown = Shown::all(*client, &mut self.core);
            }
            self.upstream.shown = self.core.upstream_pending().len();
        }
        let monitors = self.monitors.get_or_insert_default();
        monitors.active.push(monitor);
        monitors.changed();
        tracing::info!("a monitor looks at the messages");
    }

    /// Ends what monitors were shown at the same time, and takes away those that do not go on.
    pub(super) fn check_monitors(&mut self) {
        if let Some(monitors) = &mut self.monitors {
            let before = monitors.active.len();
            monitors.active.retain_mut(Monitor::goes_on);
            if monitors.active.len() < before {
                monitors.changed();
            }
            if monitors.active.is_empty() {
                self.monitors = None;
                tracing::info!("nobody looks at the messages any more");
            }
        }
    }
}
