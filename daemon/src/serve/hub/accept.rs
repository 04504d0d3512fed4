//! Taking in connections.

use std::io;
use std::os::unix::net::UnixStream;
use std::task::Poll;
use std::time::Duration;

use codexd_proto::id::ClientId;
use nix::errno::Errno;
use tokio::net::UnixListener;

use super::tasks::Tasks;
use super::{Hub, SharedHub, client};
use crate::os::peer::check_peer;
use crate::serve::connection::Socket;

/// How long to wait before accepting again after a failure such as too many open files.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Accepts clients until the door is closed; then takes in those that had connected by then, so that
/// they get an answer, and closes the listener.
///
/// While there are files for no more clients, those that come wait at the door until somebody goes: the
/// files that are left are for the control socket.
///
/// On an inherited socket those that come after the door was closed are left for the next daemon, which
/// the service manager starts for them.
pub(super) async fn serve(hub: SharedHub, listener: UnixListener, tasks: Tasks) {
    let (door, room) = {
        let hub = hub.borrow();
        (hub.door.clone(), hub.room.clone())
    };
    loop {
        let full = hub.borrow_mut().is_full();
        let accepted = tokio::select! {
            biased;
            () = door.cancelled() => break,
            () = room.notified(), if full => continue,
            accepted = accept(&hub, &listener), if !full => accepted,
        };
        match accepted {
            Ok(stream) => admit(&hub, stream, &tasks),
            Err(error) => {
                hub.borrow_mut().note_unaccepted(&error);
                tokio::select! {
                    () = door.cancelled() => break,
                    () = tokio::time::sleep(ACCEPT_AGAIN_AFTER) => {}
                }
            }
        }
    }
    if hub.borrow().inherited {
        return;
    }
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, _)) = listener.accept() {
        if stream.set_nonblocking(true).is_ok() {
            admit(&hub, stream, &tasks);
        }
    }
}

/// Waits for the next connection. When nobody waits at the door, nobody is kept out any more.
async fn accept(hub: &SharedHub, listener: &UnixListener) -> io::Result<UnixStream> {
    std::future::poll_fn(|cx| {
        let accepted = listener.poll_accept(cx);
        if !matches!(accepted, Poll::Ready(Err(_))) {
            hub.borrow_mut().cannot_accept = None;
        }
        accepted
    })
    .await?
    .0
    .into_std()
}

fn admit(hub: &SharedHub, stream: UnixStream, tasks: &Tasks) {
    let admitted = hub.borrow_mut().admit(stream);
    if let Some(client) = admitted {
        tasks.spawn(client::serve(hub.clone(), client));
    }
}

impl Hub {
    /// Tells whether there are no files for another client. Those beyond `max_clients` are not left waiting
    /// but turned away.
    fn is_full(&mut self) -> bool {
        let full =
            self.connections.len() >= self.clients_with_files && self.connections.len() < self.max_clients;
        if full {
            self.note_unaccepted(&io::Error::from(Errno::EMFILE));
        }
        full
    }

    /// Takes note that nobody can be accepted, for the status; the log has it once.
    fn note_unaccepted(&mut self, error: &io::Error) {
        let why = error.to_string();
        if self.cannot_accept.as_ref() != Some(&why) {
            tracing::warn!(error = why, clients = self.connections.len(), "cannot accept a client");
            self.cannot_accept = Some(why);
        }
    }

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
