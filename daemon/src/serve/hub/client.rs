//! One client's connection: reads and writes. How it ends is told in [`closing`](super::closing).

use std::os::fd::AsFd as _;
use std::task::{Context, Poll, Waker};

use codexd_proto::frame::Frame;
use codexd_proto::id::ClientId;
use codexd_proto::router::CloseReason;
use codexd_proto::time::Time;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Hub, SharedHub};
use crate::os::peer::Peer;
use crate::serve::connection::{Input, Socket, Wire};

/// Reads of one client before others have their turn.
const READS_IN_A_ROW: usize = 4;
/// Reads of one client when the daemon is about to settle with it: more than the buffer of a socket holds.
const LAST_READS: usize = 16;

/// A connected client.
pub(super) struct Connection {
    pub(super) socket: Socket,
    pub(super) wire: Wire,
    peer: Peer,
    /// Wakes the client's task.
    pub(super) waker: Option<Waker>,
    /// The socket took less than there was: the task waits until it takes more.
    pub(super) blocked: bool,
    /// It will send nothing more, and still waits for answers.
    pub(super) half_closed: bool,
    /// It is closed for this reason as soon as what waits for it is written.
    pub(super) closing: Option<CloseReason>,
    /// When it is closed if it has not gone on by then.
    pub(super) deadline: Option<Time>,
    /// Since when nobody had needed the daemon when it came.
    pub(super) idle_before: Option<Time>,
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
            wire: Wire::Sniffing,
            peer,
            waker: None,
            blocked: false,
            half_closed: false,
            closing: None,
            deadline: None,
            idle_before: self.idle_since.take(),
        };
        self.connections.insert(client, connection);
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
                Poll::Ready(Ok(())) => {
                    connection.blocked = false;
                    self.write_client(client);
                    // The write may have found the socket full again: wait for it.
                    if let Some(connection) = self.connections.get_mut(&client)
                        && (if connection.blocked {
                            connection.socket.poll_writable(cx).is_ready()
                        } else {
                            connection.socket.relax().is_err()
                        })
                    {
                        cx.waker().wake_by_ref();
                    }
                }
                Poll::Ready(Err(error)) => {
                    tracing::warn!(client.id = client.0, %error, "cannot watch a client's socket");
                    self.disconnect(client);
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
            // Who only asks how the daemon is does not send anything to the upstream.
            let sends = matches!(connection.wire, Wire::Lines(_) | Wire::WebSocket(_));
            if sends && self.upstream.is_behind(self.router.upstream_outbox()) {
                self.paused = true;
                break;
            }
            if self.router.is_held_up(client) {
                self.held_up.insert(client);
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

    /// Reads what clients have sent, without waiting for more, before they are settled with or closed: each request
    /// of it is answered, and no connection ends with a reset because something was unread.
    ///
    /// No more is read of one client than a socket holds: one that goes on sending is not waited for.
    pub(super) fn hear_last_words(&mut self) {
        let mut clients: Vec<ClientId> = self.connections.keys().copied().collect();
        clients.sort_unstable();
        let mut scratch = std::mem::take(&mut self.scratch);
        for client in clients {
            for _ in 0..LAST_READS {
                let Some(connection) = self.connections.get_mut(&client).filter(|c| !c.half_closed) else {
                    break;
                };
                match connection.socket.try_read(&mut scratch) {
                    Ok(n @ 1..) => self.client_bytes(client, &scratch[..n]),
                    // Of an end or a failure the client's task will hear when it reads itself.
                    _ => break,
                }
            }
        }
        self.scratch = scratch;
    }

    /// Reads clients again once the upstream has caught up.
    pub(super) fn resume_clients(&mut self) {
        if !self.held_up.is_empty() {
            let (router, connections) = (&self.router, &self.connections);
            self.held_up.retain(|client| {
                let waits = router.is_held_up(*client);
                if !waits && let Some(waker) = connections.get(client).and_then(|c| c.waker.as_ref()) {
                    waker.wake_by_ref();
                }
                waits
            });
        }
        if self.paused && !self.upstream.is_behind(self.router.upstream_outbox()) {
            self.paused = false;
            for waker in self.connections.values().filter_map(|connection| connection.waker.as_ref()) {
                waker.wake_by_ref();
            }
        }
    }

    fn client_bytes(&mut self, client: ClientId, mut chunk: &[u8]) {
        let now = self.now();
        loop {
            let Some(connection) = self.connections.get_mut(&client) else { return };
            match &mut connection.wire {
                Wire::Lines(decoder) => {
                    while let Some(frame) = decoder.decode(&mut chunk) {
                        match frame {
                            Frame::Line(line) => self.router.client_line(now, client, line),
                            Frame::TooLong => {
                                self.router.client_line_too_long(now, client, self.max_message_bytes);
                            }
                        }
                    }
                    return;
                }
                Wire::WebSocket(socket) => match socket.read(&mut chunk) {
                    Some(Input::Text(text)) => self.client_text(now, client, text.as_bytes()),
                    Some(Input::Closed) => return self.end_websocket(client, None),
                    Some(Input::Failed(why)) => return self.end_websocket(client, Some(why)),
                    None => {
                        if connection.wire.has_own_output() && !connection.blocked {
                            self.write_client(client);
                        }
                        return;
                    }
                },
                Wire::Sniffing => {
                    let Some(wire) = Wire::begun_with(&mut chunk, self.max_message_bytes) else { return };
                    connection.wire = wire;
                    if matches!(connection.wire, Wire::Http(_)) {
                        self.expect_head(client);
                    }
                }
                Wire::Http(head) => match head.read(&mut chunk) {
                    Some(request) => self.http_request(client, request),
                    None => return,
                },
                Wire::Ending(_) => return,
            }
        }
    }

    /// Handles a message from a WebSocket: the text of one frame, or of several.
    fn client_text(&mut self, now: Time, client: ClientId, text: &[u8]) {
        let text = text.trim_ascii_end();
        if text.len() > self.max_message_bytes {
            self.router.client_line_too_long(now, client, self.max_message_bytes);
        } else if memchr::memchr(b'\n', text).is_none() {
            self.router.client_line(now, client, text);
        } else {
            // The upstream reads lines. To JSON, a tab is what a line feed is: white space between
            // tokens, and forbidden within strings, so that nothing wrong becomes right by it.
            let line: Vec<u8> = text.iter().map(|&b| if b == b'\n' { b'\t' } else { b }).collect();
            self.router.client_line(now, client, &line);
        }
    }

    /// The client sends nothing more. One that only closed its sending half gets its answers first.
    fn client_eof(&mut self, client: ClientId) {
        let Some(connection) = self.connections.get_mut(&client) else { return };
        let gone = hung_up(&connection.socket);
        let nothing_owed = match &connection.wire {
            Wire::Sniffing | Wire::Http(_) => true,
            Wire::Ending(ending) => ending.is_written(),
            Wire::Lines(_) | Wire::WebSocket(_) => !self.router.is_owed(client),
        };
        let Some(connection) = self.connections.get_mut(&client) else { return };
        if let Wire::Lines(decoder) = &connection.wire
            && decoder.is_torn()
        {
            tracing::debug!(client.id = client.0, "connection ended inside a line");
        }
        connection.half_closed = true;
        if gone {
            self.disconnect(client);
        } else if nothing_owed {
            self.finish(client, None);
        } else {
            self.look_after(client);
        }
    }

    pub(super) fn outbox_is_empty(&mut self, client: ClientId) -> bool {
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

    /// Writes what waits for one client, as far as its socket takes it.
    pub(super) fn write_client(&mut self, client: ClientId) {
        let Some(connection) = self.connections.get_mut(&client) else { return };
        let outbox = self.router.outbox(client);
        let pending = outbox.as_ref().map_or(&[][..], |outbox| outbox.pending());
        let written = connection.wire.write(&connection.socket, pending);
        let empty = written.taken == pending.len();
        connection.blocked = written.blocked;
        if written.blocked
            && let Some(waker) = &connection.waker
        {
            // Its task waits for the socket to take more.
            waker.wake_by_ref();
        }
        let done = empty
            && (connection.closing.is_some() || connection.half_closed)
            && !connection.wire.has_own_output();
        let closing = connection.closing;
        self.router.client_took(client, written.taken, written.blocked);
        if let Some(error) = written.broken {
            tracing::debug!(client.id = client.0, %error, "connection broke");
            self.disconnect(client);
        } else if done && (closing.is_some() || !self.router.is_owed(client)) {
            self.finish(client, closing);
        }
    }

    /// Ends the connections of those who send nothing more and turned out to be owed nothing: what they
    /// had sent while the upstream was starting asked for no answer.
    pub(super) fn finish_half_closed(&mut self) {
        let done: Vec<ClientId> = self
            .connections
            .iter()
            .filter(|(client, connection)| {
                let open = matches!(connection.wire, Wire::Lines(_) | Wire::WebSocket(_));
                open && connection.half_closed && !self.router.is_owed(**client)
            })
            .map(|(client, _)| *client)
            .collect();
        for client in done {
            self.finish(client, None);
        }
    }

    /// Tells whether something that a connected client is owed is not written yet.
    pub(super) fn has_unwritten(&self) -> bool {
        self.router.has_unwritten() && !self.connections.is_empty()
    }

    /// Returns what is known of a client's process, and what it speaks.
    pub(super) fn peer(&self, client: u64) -> Option<(Peer, Option<&'static str>)> {
        let client = u32::try_from(client).ok()?;
        self.connections.get(&ClientId(client)).map(|c| (c.peer, c.wire.framing()))
    }
}

/// Tells whether the other end is closed both ways (`POLLHUP`, `poll(2)`), so that nobody reads.
pub(super) fn hung_up(socket: &Socket) -> bool {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok()
        && fds[0].revents().is_some_and(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
}
