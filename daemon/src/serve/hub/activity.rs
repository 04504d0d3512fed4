//! The log of clients and turns: one line when each comes and goes.

use codexd_proto::id::ClientId;
use codexd_proto::router::Activity;

use super::Hub;

impl Hub {
    /// Logs what happened to clients and turns since the last time.
    pub(super) fn log_activity(&mut self) {
        while let Some(activity) = self.core.poll_activity() {
            self.report_interrupted(&activity);
            self.feed_activity(&activity);
            if matches!(activity, Activity::ClientLeft { .. } | Activity::TurnEnded { .. }) {
                self.check_memory = true;
            }
            self.log_one(activity);
        }
    }

    fn log_one(&self, activity: Activity) {
        let pid = |client: ClientId| self.peer(u64::from(client.0)).and_then(|peer| peer.pid);
        match activity {
            Activity::ClientConnected { client, name, version } => tracing::info!(
                client.id = client.0,
                client.name = name,
                client.version = version,
                client.pid = pid(client),
                "client connected"
            ),
            Activity::ClientLeft { client, name, connected_ms } => tracing::info!(
                client.id = client.0,
                client.name = name,
                client.pid = pid(client),
                duration_ms = connected_ms,
                "client left"
            ),
            Activity::TurnStarted { thread, turn, client } => {
                let (client, name) = client.unzip();
                tracing::info!(
                    thread.id = %thread,
                    turn.id = turn,
                    client.id = client.map(|client| client.0),
                    client.name = name.flatten(),
                    "turn started"
                );
            }
            Activity::TurnEnded { thread, turn, client, outcome, duration_ms } => {
                let (client, name) = client.unzip();
                tracing::info!(
                    thread.id = %thread,
                    turn.id = turn,
                    client.id = client.map(|client| client.0),
                    client.name = name.flatten(),
                    outcome = outcome.word(),
                    duration_ms,
                    "turn ended"
                );
            }
            Activity::ApprovalRequested { id, thread, method, .. } => tracing::debug!(
                thread.id = thread.map(tracing::field::display),
                rpc.method = method,
                request.id = id.0,
                "codex asks its clients"
            ),
            Activity::ApprovalEnded { id, thread, method, by, waited_ms } => {
                let (client, name) = by.unzip();
                tracing::debug!(
                    thread.id = thread.map(tracing::field::display),
                    rpc.method = method,
                    request.id = id.0,
                    client.id = client.map(|client| client.0),
                    client.name = name.flatten(),
                    duration_ms = waited_ms,
                    "codex asks its clients no longer"
                );
            }
            Activity::InterruptRefused { thread, message } => {
                tracing::warn!(thread.id = %thread, error = %message, "codex refuses to interrupt a turn");
            }
            Activity::ConfigWarning { text } => {
                tracing::warn!(warning = %text, "codex warns of its configuration");
            }
        }
    }
}
