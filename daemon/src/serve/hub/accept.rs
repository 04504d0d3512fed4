//! Accepting connections.

use std::io;
use std::os::unix::net::UnixStream;
use std::task::Poll;
use std::time::Duration;

use codexd_proto::core::Room;
use codexd_proto::id::ClientId;
use nix::errno::Errno;
use tokio::net::UnixListener;

use super::tasks::Tasks;
use super::{Hub, SharedHub, client_io};
use crate::os::peer::check_peer;
use crate::serve::connection::Socket;

/// How long to wait before accepting again after a failure such as too many open files.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Accepts clients until the daemon stops listening; then accepts those in the backlog, so that they get an
/// answer, and closes the listener.
///
/// While there are files for no more clients, new ones wait in the backlog until a client leaves: the files
/// that are left are for the control socket.
///
/// On an inherited socket the backlog is left for the next daemon, which the service manager starts.
pub(super) async fn serve(hub: SharedHub, listener: UnixListener, tasks: Tasks) {
    let (accepting, room) = {
        let hub = hub.borrow();
        (hub.accepting.clone(), hub.room.clone())
    };
    loop {
        let full = hub.borrow_mut().is_full();
        let accepted = tokio::select! {
            biased;
            () = accepting.cancelled() => break,
            () = room.notified(), if full => continue,
            accepted = accept(&hub, &listener), if !full => accepted,
        };
        match accepted {
            Ok(stream) => admit(&hub, stream, &tasks),
            Err(error) => {
                hub.borrow_mut().accept_failed(&error);
                tokio::select! {
                    () = accepting.cancelled() => break,
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

/// Waits for the next connection. Clears the accept error once accepting works again.
async fn accept(hub: &SharedHub, listener: &UnixListener) -> io::Result<UnixStream> {
    std::future::poll_fn(|cx| {
        let accepted = listener.poll_accept(cx);
        if !matches!(accepted, Poll::Ready(Err(_))) {
            hub.borrow_mut().accept_error = None;
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
        tasks.spawn(client_io::serve(hub.clone(), client));
    }
}

impl Hub {
    /// Whether there are no files for another client. One that exceeds `max_clients` does not wait but is
    /// refused.
    fn is_full(&mut self) -> bool {
        let full = self.core.room() == Room::NoFiles;
        if full {
            self.accept_failed(&io::Error::from(Errno::EMFILE));
        }
        full
    }

    /// Records why no client can be accepted, for the status; the log has it once.
    fn accept_failed(&mut self, error: &io::Error) {
        let why = error.to_string();
        if self.accept_error.as_ref() != Some(&why) {
            tracing::warn!(error = why, clients = self.clients.len(), "cannot accept a client");
            self.accept_error = Some(why);
        }
    }

    /// Checks a new connection.
    fn admit(&mut self, stream: UnixStream) -> Option<ClientId> {
        let refused = match check_peer(&stream) {
            Ok(_) if self.core.room() == Room::Full => {
                format!("{} clients are connected", self.clients.len())
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
