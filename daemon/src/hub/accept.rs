//! Taking in connections.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use codexd_proto::id::ClientId;
use tokio::net::UnixListener;
use tokio_util::task::TaskTracker;

use super::run::Panicked;
use super::{Hub, SharedHub, client, run};
use crate::connection::Socket;
use crate::peer::check_peer;

/// How long to wait before accepting again after a failure such as too many open files.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Accepts clients until the door is closed; then takes in those that had connected by then, so that
/// they get an answer, and closes the listener.
///
/// On an inherited socket those that come after the door was closed are left for the next daemon, which
/// the service manager starts for them.
pub(super) async fn serve(hub: SharedHub, listener: UnixListener, tasks: TaskTracker, panicked: Panicked) {
    let door = hub.borrow().door.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            () = door.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => match stream.into_std() {
                Ok(stream) => admit(&hub, stream, &tasks, &panicked),
                Err(error) => tracing::warn!(%error, "cannot take over a client's socket"),
            },
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
            }
        }
    }
    if hub.borrow().inherited {
        return;
    }
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, _)) = listener.accept() {
        if stream.set_nonblocking(true).is_ok() {
            admit(&hub, stream, &tasks, &panicked);
        }
    }
}

fn admit(hub: &SharedHub, stream: UnixStream, tasks: &TaskTracker, panicked: &Panicked) {
    let admitted = hub.borrow_mut().admit(stream);
    if let Some(client) = admitted {
        run::spawn(tasks, panicked, client::serve(hub.clone(), client));
    }
}

impl Hub {
    /// Checks a new connection.
    fn admit(&mut self, stream: UnixStream) -> Option<ClientId> {
        let refused = match check_peer(&stream) {
            Ok(_) if self.connections.len() >= self.max_clients => {
                format!("{} clients are connected", self.max_clients)
            }
            Ok(peer) => match Socket::new(stream) {
                Ok(socket) => return Some(self.connect(socket, peer)),
                Err(error) => format!("cannot watch its socket: {error}"),
            },
            Err(error) => error.to_string(),
        };
        tracing::warn!(reason = refused, "refused a client");
        self.refused += 1;
        None
    }
}
