//! Accepting connections.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::task::{Poll, ready};
use std::time::Duration;

use codexd_proto::core::{Refusal, Room};
use codexd_proto::id::ClientId;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::excess::ExcessConnections;
use super::tasks::Tasks;
use super::{Hub, SharedHub, client_io};
use crate::os::peer::check_peer;
use crate::os::unsafe_calls;
use crate::serve::connection::Socket;

/// How long to wait before accepting again after a failure such as too many open files.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Accepts clients until the daemon stops listening; then accepts those in the backlog, so that they get an
/// answer, and closes the listener.
///
/// The connections of jobs are clients' connections that need no listener.
///
/// A connection above the number of clients is [answered and closed](ExcessConnections).
///
/// On an inherited socket the backlog is left for the next daemon, which the service manager starts.
pub(super) async fn serve(
    hub: SharedHub,
    listener: AsyncFd<UnixListener>,
    mut jobs: mpsc::UnboundedReceiver<UnixStream>,
    tasks: Tasks,
) {
    let accepting = hub.borrow().accepting.clone();
    let mut excess = ExcessConnections::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = accepting.cancelled() => break,
            Some(stream) = jobs.recv() => Ok(stream),
            accepted = accept(&hub, &listener, &mut excess) => accepted,
        };
        match accepted {
            Ok(stream) => admit(&hub, stream, &mut excess, &tasks),
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
    let listener = listener.into_inner();
    while let Ok(stream) = unsafe_calls::accept(&listener) {
        admit(&hub, stream, &mut excess, &tasks);
    }
    hub.borrow_mut().close_late_clients();
}

/// Waits for the next connection, and before it for a slot if it would be above the number of clients. Clears the accept
/// error once accepting works again.
async fn accept(
    hub: &SharedHub,
    listener: &AsyncFd<UnixListener>,
    excess: &mut ExcessConnections,
) -> io::Result<UnixStream> {
    let full = hub.borrow().core.room() != Room::Free;
    if full {
        excess.free().await;
    }
    // Not with the runtime's own listener: it would watch the connection before the client's task does, in another way.
    std::future::poll_fn(|cx| {
        loop {
            let ready = listener.poll_read_ready(cx);
            if ready.is_pending() {
                hub.borrow_mut().accept_error = None;
            }
            // Not ready after all: waits again.
            if let Ok(accepted) = ready!(ready)?.try_io(|listener| unsafe_calls::accept(listener.get_ref())) {
                if accepted.is_ok() {
                    hub.borrow_mut().accept_error = None;
                }
                return Poll::Ready(accepted);
            }
        }
    })
    .await
}

/// What becomes of a new connection.
enum Admitted {
    Client(ClientId),
    Excess(UnixStream, Refusal),
    Refused,
}

fn admit(hub: &SharedHub, stream: UnixStream, excess: &mut ExcessConnections, tasks: &Tasks) {
    let admitted = hub.borrow_mut().admit(stream);
    match admitted {
        Admitted::Client(client) => tasks.spawn(client_io::serve(hub.clone(), client)),
        Admitted::Excess(stream, refusal) => tasks.spawn(excess.serve(hub, stream, refusal)),
        Admitted::Refused => {}
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
                Some(refusal) => return Admitted::Excess(stream, refusal),
                None => match Socket::new(stream) {
                    Ok(socket) => return Admitted::Client(self.connect(socket, peer)),
                    Err(error) => format!("cannot watch its socket: {error}"),
                },
            },
            Err(error) => error.to_string(),
        };
        tracing::warn!(reason = refused, "refused a client");
        self.refused += 1;
        Admitted::Refused
    }
}
