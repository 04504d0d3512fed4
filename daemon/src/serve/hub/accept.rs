//! Accepting connections.

use std::io;
use std::os::unix::net::UnixStream;
use std::task::Poll;
use std::time::Duration;

use codexd_proto::core::{Refusal, Room};
use codexd_proto::id::ClientId;
use tokio::net::UnixListener;

use super::tasks::Tasks;
use super::visitors::Visitors;
use super::{Hub, SharedHub, client_io};
use crate::os::peer::check_peer;
use crate::serve::connection::Socket;

/// How long to wait before accepting again after a failure such as too many open files.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Accepts clients until the daemon stops listening; then accepts those in the backlog, so that they get an
/// answer, and closes the listener.
///
/// One for which there is no room is [answered](Visitors) and closed.
///
/// On an inherited socket the backlog is left for the next daemon, which the service manager starts.
pub(super) async fn serve(hub: SharedHub, listener: UnixListener, tasks: Tasks) {
    let accepting = hub.borrow().accepting.clone();
    let mut visitors = Visitors::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = accepting.cancelled() => break,
            accepted = accept(&hub, &listener, &mut visitors) => accepted,
        };
        match accepted {
            Ok(stream) => admit(&hub, stream, &mut visitors, &tasks),
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
            admit(&hub, stream, &mut visitors, &tasks);
        }
    }
}

/// Waits for the next connection; where it would be a visitor, for a place, too. Clears the accept error once
/// accepting works again.
async fn accept(hub: &SharedHub, listener: &UnixListener, visitors: &mut Visitors) -> io::Result<UnixStream> {
    let full = hub.borrow().core.room() != Room::Free;
    if full {
        visitors.room().await;
    }
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

/// What becomes of a new connection.
enum Admitted {
    Client(ClientId),
    Visitor(UnixStream, Refusal),
    Nobody,
}

fn admit(hub: &SharedHub, stream: UnixStream, visitors: &mut Visitors, tasks: &Tasks) {
    let admitted = hub.borrow_mut().admit(stream);
    match admitted {
        Admitted::Client(client) => tasks.spawn(client_io::serve(hub.clone(), client)),
        Admitted::Visitor(stream, refusal) => tasks.spawn(visitors.serve(hub, stream, refusal)),
        Admitted::Nobody => {}
    }
}

impl Hub {
    /// Records why no client can be accepted, for the status; the log has it once.
    fn accept_failed(&mut self, error: &io::Error) {
        let why = error.to_string();
        if self.accept_error.as_ref() != Some(&why) {
            tracing::warn!(error = why, clients = self.clients.len(), "cannot accept a client");
            self.accept_error = Some(why);
        }
    }

    /// Checks a new connection.
    fn admit(&mut self, stream: UnixStream) -> Admitted {
        let refused = match check_peer(&stream) {
            Ok(peer) => match self.core.refusal(self.base_status.generation) {
                Some(refusal) => return Admitted::Visitor(stream, refusal),
                None => match Socket::new(stream) {
                    Ok(socket) => return Admitted::Client(self.connect(socket, peer)),
                    Err(error) => format!("cannot watch its socket: {error}"),
                },
            },
            Err(error) => error.to_string(),
        };
        self.refused(&refused);
        Admitted::Nobody
    }
}
