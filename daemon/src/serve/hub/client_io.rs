//! One client's connection: reads and writes. For its end see [`ending`](super::ending).

use std::os::fd::AsFd as _;
use std::task::{Context, Poll, Waker};

use codexd_proto::core::{Core, Event, Framing};
use codexd_proto::frame::Frame;
use codexd_proto::id::ClientId;
use codexd_proto::time::Time;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::long_message::{LongMessage, SLICE_BYTES};
use super::monitor::{Monitors, Shown};
use super::{Hub, SharedHub};
use crate::logging::roles::{self, log_client};
use crate::os::peer::Peer;
use crate::serve::connection::{Input, LONG_BYTES, Socket, Wire};

/// Reads of one client before others have their turn.
const READS_IN_A_ROW: usize = 4;
/// Reads of one client when the daemon is about to resolve its requests: more than a socket's buffer holds.
const FINAL_READS: usize = 16;

/// The connection of a client: its socket and what is spoken on it.
pub(super) struct ClientIo {
    pub(super) socket: Socket,
    pub(super) wire: Wire,
    peer: Peer,
    /// The name in its `initialize`, for the log: the core forgets it before the connection ends.
    pub(super) name: Option<String>,
    /// Wakes the client's task.
    pub(super) waker: Option<Waker>,
    /// The socket accepted less than there was to write: the task waits until it is writable again.
    pub(super) full: bool,
    /// The client's end of input was read.
    ended: bool,
    /// What monitors were shown of its outbox, while there are any.
    pub(super) shown: Shown,
    /// A message that is being read.
    pub(super) long: Option<LongMessage>,
}

/// Serves one client until its connection ends.
pub(super) async fn serve(hub: SharedHub, client: ClientId) {
    std::future::poll_fn(|cx| hub.borrow_mut().poll_client(client, cx)).await;
}

impl Hub {
    /// Adds a connection whose peer was checked.
    pub(super) fn connect(&mut self, socket: Socket, peer: Peer) -> ClientId {
        let client = self.core.connect(self.now());
        let role = roles::Client { id: client, name: None, pid: peer.pid };
        log_client!(debug, role, "connection accepted");
        let io = ClientIo {
            socket,
            wire: Wire::Sniffing,
            peer,
            name: None,
            waker: None,
            full: false,
            ended: false,
            shown: Shown::default(),
            long: None,
        };
        self.clients.insert(client, io);
        client
    }

    /// Does what the client's socket allows. Ready when the connection has ended.
    fn poll_client(&mut self, client: ClientId, cx: &mut Context<'_>) -> Poll<()> {
        let Some(io) = self.clients.get_mut(&client) else { return Poll::Ready(()) };
        match &mut io.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        if !io.full {
            if let Err(error) = io.socket.relax() {
                log_client!(warn, self.client(client), %error, "cannot watch a client's socket");
                self.disconnect(client);
            }
        } else {
            match io.socket.poll_writable(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => {
                    io.full = false;
                    self.write_client(self.now(), client);
                    // The write may have found the socket full again: wait for it.
                    if let Some(io) = self.clients.get_mut(&client)
                        && io.full
                        && io.socket.poll_writable(cx).is_ready()
                    {
                        cx.waker().wake_by_ref();
                    }
                }
                Poll::Ready(Err(error)) => {
                    log_client!(warn, self.client(client), %error, "cannot watch a client's socket");
                    self.disconnect(client);
                }
            }
        }
        self.read_client(client, cx);
        self.flush_soon();
        if self.clients.contains_key(&client) { Poll::Pending } else { Poll::Ready(()) }
    }

    fn read_client(&mut self, client: ClientId, cx: &mut Context<'_>) {
        let mut scratch = std::mem::take(&mut self.scratch);
        for turn in 0.. {
            let Some(io) = self.clients.get_mut(&client).filter(|io| !io.ended) else { break };
            if !self.core.may_read(client) {
                self.unread.insert(client);
                break;
            }
            if turn == READS_IN_A_ROW {
                cx.waker().wake_by_ref();
                break;
            }
            if io.long.is_some() {
                self.read_slice(client, SLICE_BYTES);
                if self.clients.get(&client).is_some_and(|io| io.long.is_some()) {
                    // The others have their turn between the slices.
                    cx.waker().wake_by_ref();
                    break;
                }
                continue;
            }
            match io.socket.poll_read(cx, &mut scratch) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => {
                    self.client_eof(client);
                    break;
                }
                Poll::Ready(Ok(n)) => self.client_bytes(client, &scratch[..n]),
                Poll::Ready(Err(error)) => {
                    log_client!(debug, self.client(client), %error, "connection broke");
                    self.disconnect(client);
                    break;
                }
            }
        }
        self.scratch = scratch;
    }

    /// Reads what clients have sent, without waiting for more, before their requests are resolved or their
    /// connections closed: each request of it is answered, and no connection ends with a reset because
    /// something was unread.
    ///
    /// No more is read of one client than a socket holds: one that goes on sending is not waited for.
    pub(super) fn final_read(&mut self) {
        let mut clients: Vec<ClientId> = self.clients.keys().copied().collect();
        clients.sort_unstable();
        let mut scratch = std::mem::take(&mut self.scratch);
        for client in clients {
            while self.clients.get(&client).is_some_and(|io| io.long.is_some()) {
                self.read_slice(client, usize::MAX);
            }
            for _ in 0..FINAL_READS {
                let Some(io) = self.clients.get_mut(&client).filter(|io| !io.ended) else { break };
                match io.socket.try_read(&mut scratch) {
                    Ok(n @ 1..) => self.client_bytes(client, &scratch[..n]),
                    // EOF and errors are handled by the client's own next read.
                    _ => break,
                }
            }
        }
        self.scratch = scratch;
    }

    /// Reads clients again once the upstream has caught up.
    pub(super) fn resume_reading(&mut self) {
        if self.unread.is_empty() {
            return;
        }
        let (core, clients) = (&mut self.core, &self.clients);
        self.unread.retain(|client| {
            let may_read = core.may_read(*client);
            if may_read && let Some(waker) = clients.get(client).and_then(|io| io.waker.as_ref()) {
                waker.wake_by_ref();
            }
            !may_read
        });
    }

    /// Handles what a client has sent; or keeps the rest of it, from a long message on.
    pub(super) fn client_bytes(&mut self, client: ClientId, mut chunk: &[u8]) {
        let now = self.read_now();
        loop {
            let Some(io) = self.clients.get_mut(&client) else { return };
            match &mut io.wire {
                Wire::Lines(decoder) => {
                    while let Some(frame) = decoder.decode(&mut chunk) {
                        match frame {
                            Frame::Line(line) => {
                                message(&mut self.core, &mut self.monitors, now, client, line)
                            }
                            Frame::Long(line) => {
                                io.long = Some(LongMessage::line(line, chunk));
                                return;
                            }
                            Frame::TooLong => self.core.handle(now, Event::ClientLineTooLong { client }),
                        }
                    }
                    return;
                }
                Wire::WebSocket(socket) => match socket.read(&mut chunk) {
                    // Its length has two bytes at the most, so it is not longer than any limit on messages (`settings/limits.rs`).
                    Some(Input::Text(text)) => {
                        let line = text.trim_ascii_end();
                        message(&mut self.core, &mut self.monitors, now, client, line);
                    }
                    Some(Input::LongText(text)) => {
                        let line = text.as_bytes().trim_ascii_end();
                        if line.len() > self.max_message_bytes {
                            self.core.handle(now, Event::ClientLineTooLong { client });
                        } else if line.len() > LONG_BYTES {
                            io.long = Some(LongMessage::web_socket(text, chunk));
                            return;
                        } else {
                            message(&mut self.core, &mut self.monitors, now, client, line);
                        }
                    }
                    Some(Input::Closed) => return self.end_websocket(client, None),
                    Some(Input::Failed(why)) => return self.end_websocket(client, Some(why)),
                    None => {
                        if io.wire.has_own_output() && !io.full {
                            self.write_client(now, client);
                        }
                        return;
                    }
                },
                Wire::Sniffing => {
                    let Some(wire) = Wire::begun_with(&mut chunk, self.max_message_bytes) else { return };
                    io.wire = wire;
                    let http = matches!(io.wire, Wire::Http(_));
                    let framing = if http { Framing::Http } else { Framing::Lines };
                    self.core.handle(now, Event::ClientFraming { client, framing });
                }
                Wire::Http(head) => match head.read(&mut chunk) {
                    Some(request) => self.http_request(client, request),
                    None => return,
                },
                Wire::Ending(_) => return,
            }
        }
    }

    /// The client sends nothing more.
    fn client_eof(&mut self, client: ClientId) {
        let Some(io) = self.clients.get_mut(&client) else { return };
        io.ended = true;
        let torn = matches!(&io.wire, Wire::Lines(decoder) if decoder.is_torn());
        let (hung_up, framing_waits) = (hung_up(&io.socket), io.wire.has_own_output());
        if torn {
            log_client!(debug, self.client(client), "connection ended inside a line");
        }
        self.handle(Event::ClientEof { client, hung_up, framing_waits });
    }

    /// Writes to every client that has something new.
    pub(super) fn write_clients(&mut self, now: Time) {
        while let Some(client) = self.core.poll_dirty() {
            if self.clients.get(&client).is_some_and(|io| !io.full) {
                self.write_client(now, client);
            }
        }
    }

    /// Writes what waits for one client, as far as its socket takes it.
    pub(super) fn write_client(&mut self, now: Time, client: ClientId) {
        // One buffer of the outbox after the other.
        while self.write_client_buffer(now, client) {}
    }

    /// Writes the first buffer of a client's outbox. Returns whether there is another one and the socket may take it.
    fn write_client_buffer(&mut self, now: Time, client: ClientId) -> bool {
        let Some(io) = self.clients.get_mut(&client) else { return false };
        if let Some(monitors) = &mut self.monitors {
            io.shown = monitors.show_to_client(client, io.shown, &mut self.core);
        }
        let pending = self.core.pending(client);
        let written = io.wire.write(&io.socket, pending);
        let more = written.taken > 0 && written.taken == pending.len();
        io.shown.bytes = io.shown.bytes.saturating_sub(written.taken);
        io.full = written.blocked;
        // Its task waits for the socket to take more, or for its messages alone.
        if (written.blocked || io.socket.wrote_all())
            && let Some(waker) = &io.waker
        {
            waker.wake_by_ref();
        }
        let framing_waits = io.wire.has_own_output();
        let (bytes, full) = (written.taken, written.blocked);
        self.core.handle(now, Event::ClientWritten { client, bytes, full, framing_waits });
        if let Some(error) = written.broken {
            log_client!(debug, self.client(client), %error, "connection broke");
            self.disconnect(client);
            return false;
        }
        more && !full && !self.core.pending(client).is_empty()
    }

    /// Returns what the log shows of a client.
    pub(super) fn client(&self, id: ClientId) -> roles::Client {
        let io = self.clients.get(&id);
        let name = io.and_then(|io| io.name.clone()).or_else(|| self.core.client_name(id));
        roles::Client { id, name, pid: io.and_then(|io| io.peer.pid) }
    }

    /// Returns what is known of a client's process.
    pub(super) fn peer(&self, client: u64) -> Option<Peer> {
        let client = u32::try_from(client).ok()?;
        self.clients.get(&ClientId(client)).map(|io| io.peer)
    }
}

/// Handles a message of a client.
fn message(core: &mut Core, monitors: &mut Option<Box<Monitors>>, now: Time, client: ClientId, line: &[u8]) {
    if let Some(monitors) = monitors {
        monitors.show_from_client(client, line);
    }
    core.handle(now, Event::ClientLine { client, line });
}

/// Whether the other end is closed both ways (`POLLHUP`, `poll(2)`), so that the peer reads nothing more.
pub(super) fn hung_up(socket: &Socket) -> bool {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok()
        && fds[0].revents().is_some_and(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
}
