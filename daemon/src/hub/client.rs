//! One client's connection: reads, framing, writes.

use std::io;
use std::os::fd::AsFd as _;
use std::task::{Context, Poll, Waker};

use codexd_proto::frame::{Frame, LineDecoder};
use codexd_proto::id::ClientId;
use codexd_proto::router::CloseReason;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::socket::Socket;
use super::{Hub, SharedHub};
use crate::peer::Peer;

/// Reads of one client before others have their turn.
const READS_IN_A_ROW: usize = 4;

/// A connected client.
pub(super) struct Connection {
    socket: Socket,
    decoder: LineDecoder,
    peer: Peer,
    /// Wakes the client's task.
    waker: Option<Waker>,
    /// The socket took less than there was: the task waits until it takes more.
    blocked: bool,
    /// It will send nothing more, and still waits for answers.
    half_closed: bool,
    /// It is closed as soon as what waits for it is written.
    closing: bool,
}

/// Serves one client until its connection ends.
pub(super) async fn serve(hub: SharedHub, client: ClientId) {
    std::future::poll_fn(|cx| hub.borrow_mut().poll_client(client, cx)).await;
}

impl Hub {
    /// Takes in a connection whose peer was checked.
    pub(super) fn connect(&mut self, socket: Socket, peer: Peer) -> ClientId {
        let client = self.router.client_connected(self.now());
        tracing::debug!(client.id = client.0, client.pid = peer.pid, "client connected");
        let connection = Connection {
            socket,
            decoder: LineDecoder::new(self.max_message_bytes),
            peer,
            waker: None,
            blocked: false,
            half_closed: false,
            closing: false,
        };
        self.connections.insert(client, connection);
        self.idle_since = None;
        client
    }

    /// Does what the client's socket allows. Ready when the connection has ended.
    fn poll_client(&mut self, client: ClientId, cx: &mut Context<'_>) -> Poll<()> {
        let Some(connection) = self.connections.get_mut(&client) else { return Poll::Ready(()) };
        match &mut connection.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        if connection.blocked {
            match connection.socket.poll_writable(cx) {
                Poll::Pending => {}
                Poll::Ready(_) => {
                    connection.blocked = false;
                    self.write_client(client);
                    // The write may have found the socket full again: wait for it.
                    if let Some(connection) = self.connections.get_mut(&client)
                        && connection.blocked
                        && connection.socket.poll_writable(cx).is_ready()
                    {
                        cx.waker().wake_by_ref();
                    }
                }
            }
        }
        self.read_client(client, cx);
        self.settle_soon();
        if self.connections.contains_key(&client) { Poll::Pending } else { Poll::Ready(()) }
    }

    fn read_client(&mut self, client: ClientId, cx: &mut Context<'_>) {
        let mut scratch = std::mem::take(&mut self.scratch);
        for turn in 0.. {
            let Some(connection) = self.connections.get_mut(&client) else { break };
            if connection.half_closed {
                break;
            }
            if turn == READS_IN_A_ROW {
                cx.waker().wake_by_ref();
                break;
            }
            match connection.socket.poll_read(cx, &mut scratch) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => {
                    self.client_eof(client);
                    break;
                }
                Poll::Ready(Ok(n)) => self.client_bytes(client, &scratch[..n]),
                Poll::Ready(Err(error)) => {
                    tracing::debug!(client.id = client.0, %error, "connection broke");
                    self.disconnect(client);
                    break;
                }
            }
        }
        self.scratch = scratch;
    }

    fn client_bytes(&mut self, client: ClientId, mut chunk: &[u8]) {
        let now = self.now();
        let Some(connection) = self.connections.get_mut(&client) else { return };
        while let Some(frame) = connection.decoder.decode(&mut chunk) {
            match frame {
                Frame::Line(line) => self.router.client_line(now, client, line),
                Frame::TooLong => self.router.client_line_too_long(now, client, self.max_message_bytes),
            }
        }
    }

    /// The client sends nothing more. One that only closed its sending half gets its answers first.
    fn client_eof(&mut self, client: ClientId) {
        let Some(connection) = self.connections.get_mut(&client) else { return };
        if connection.decoder.is_torn() {
            tracing::debug!(client.id = client.0, "connection ended inside a line");
        }
        let gone = hung_up(&connection.socket);
        if gone || self.router.in_flight(client) == 0 && self.outbox_is_empty(client) {
            self.disconnect(client);
        } else if let Some(connection) = self.connections.get_mut(&client) {
            connection.half_closed = true;
        }
    }

    fn outbox_is_empty(&mut self, client: ClientId) -> bool {
        self.router.outbox(client).is_none_or(|outbox| outbox.is_empty())
    }

    /// Writes to every client that has something new.
    pub(super) fn write_clients(&mut self) {
        while let Some(client) = self.router.poll_dirty() {
            if self.connections.get(&client).is_some_and(|c| !c.blocked) {
                self.write_client(client);
            }
        }
    }

    fn write_client(&mut self, client: ClientId) {
        let (Some(connection), Some(outbox)) =
            (self.connections.get_mut(&client), self.router.outbox(client))
        else {
            return;
        };
        let mut taken = 0;
        let mut blocked = false;
        let mut broken = None;
        while taken < outbox.len() {
            match connection.socket.try_write(&outbox.pending()[taken..]) {
                Ok(n) => taken += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    blocked = true;
                    break;
                }
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            }
        }
        let empty = taken == outbox.len();
        connection.blocked = blocked;
        if blocked && let Some(waker) = &connection.waker {
            // Its task waits for the socket to take more.
            waker.wake_by_ref();
        }
        let done = empty && (connection.closing || connection.half_closed);
        let closing = connection.closing;
        self.router.client_took(client, taken, blocked);
        if let Some(error) = broken {
            tracing::debug!(client.id = client.0, %error, "connection broke");
            self.disconnect(client);
        } else if done && (closing || self.router.in_flight(client) == 0) {
            self.disconnect(client);
        }
    }

    /// Closes a connection because the router wants it.
    pub(super) fn close(&mut self, client: ClientId, reason: CloseReason) {
        tracing::info!(client.id = client.0, reason = ?reason, "closing a client's connection");
        if reason.flushes() && !self.outbox_is_empty(client) {
            if let Some(connection) = self.connections.get_mut(&client) {
                connection.closing = true;
            }
        } else {
            self.disconnect(client);
        }
    }

    /// Ends a connection.
    pub(super) fn disconnect(&mut self, client: ClientId) {
        let Some(connection) = self.connections.remove(&client) else { return };
        tracing::debug!(client.id = client.0, "client disconnected");
        self.router.client_gone(self.now(), client);
        if let Some(waker) = connection.waker {
            waker.wake();
        }
    }

    /// Ends all connections.
    pub(super) fn disconnect_all(&mut self) {
        let clients: Vec<ClientId> = self.connections.keys().copied().collect();
        for client in clients {
            self.disconnect(client);
        }
    }

    /// Tells whether something that a connected client is owed is not written yet.
    pub(super) fn has_unwritten(&self) -> bool {
        self.router.has_unwritten() && !self.connections.is_empty()
    }

    /// Returns what is known of a client's process.
    pub(super) fn peer(&self, client: u64) -> Option<Peer> {
        let client = u32::try_from(client).ok()?;
        self.connections.get(&ClientId(client)).map(|c| c.peer)
    }
}

/// Tells whether the other end is closed both ways (`POLLHUP`, `poll(2)`), so that nobody reads.
fn hung_up(socket: &Socket) -> bool {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok()
        && fds[0].revents().is_some_and(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
}
