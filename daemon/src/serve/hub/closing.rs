//! How connections end, and those that are over with one answer.
//!
//! Whoever speaks lines is simply closed. A WebSocket gets a close frame that says why, and an HTTP
//! request its answer; such a connection is nobody's client any more, and lives on as
//! [`Wire::Ending`] until the peer closes too, or its time is over.

use codexd_proto::id::ClientId;
use codexd_proto::lifecycle::Intent;
use codexd_proto::router::CloseReason;
use codexd_proto::time::Time;
use tungstenite::protocol::CloseFrame;

use super::Hub;
use super::client::hung_up;
use crate::serve::connection::{Ending, Request, Response, WebSocket, Wire, close_frame, farewell};

/// Milliseconds in which a begun head of an HTTP request has to be complete.
const HEAD_WITHIN_MS: u64 = 5_000;

/// Milliseconds in which a connection that is to be closed has to take its last bytes.
const END_WITHIN_MS: u64 = 10_000;

/// Milliseconds between looks whether somebody who sends nothing more still reads. The end of a
/// connection whose end of input was read already is no news to the runtime.
const LOOK_AFTER_MS: u64 = 1_000;

impl Hub {
    /// Closes a connection because the router wants it.
    pub(super) fn close(&mut self, client: ClientId, reason: CloseReason) {
        tracing::info!(client.id = client.0, reason = ?reason, "closing a client's connection");
        if reason.flushes() && !self.outbox_is_empty(client) {
            if let Some(connection) = self.connections.get_mut(&client) {
                connection.closing = Some(reason);
                self.expect(client, END_WITHIN_MS);
            }
        } else {
            self.finish(client, Some(reason));
        }
    }

    /// Ends a connection, with a word if what it speaks has one; without a reason, because it is served.
    pub(super) fn finish(&mut self, client: ClientId, reason: Option<CloseReason>) {
        match self.connections.get(&client).map(|connection| &connection.wire) {
            Some(Wire::WebSocket(_)) => {
                self.end_websocket(client, Some(close_frame(reason.unwrap_or(CloseReason::Detached))));
            }
            _ => self.disconnect(client),
        }
    }

    /// Ends a WebSocket: with the answer to the peer's close frame, or else with `frame`.
    ///
    /// What waits is dropped, but a begun frame is finished, since nothing could follow it else.
    pub(super) fn end_websocket(&mut self, client: ClientId, frame: Option<CloseFrame>) {
        let Some(last) = self.take_websocket(client, frame) else { return self.disconnect(client) };
        self.end_with(client, last);
    }

    /// Takes the WebSocket from a connection and returns its last bytes, if there can be any.
    fn take_websocket(&mut self, client: ClientId, frame: Option<CloseFrame>) -> Option<Vec<u8>> {
        let connection = self.connections.get_mut(&client)?;
        if !matches!(connection.wire, Wire::WebSocket(_)) {
            return None;
        }
        let Wire::WebSocket(socket) = std::mem::replace(&mut connection.wire, Wire::Sniffing) else {
            return None;
        };
        if let Some(frame) = &frame {
            tracing::debug!(
                client.id = client.0,
                websocket.code = u16::from(frame.code),
                "closing a WebSocket"
            );
        }
        let outbox = self.router.outbox(client);
        socket.end(outbox.as_ref().map_or(&[], |outbox| outbox.pending()), frame)
    }

    /// Makes a connection nobody's client that gets some last bytes.
    fn end_with(&mut self, client: ClientId, last: Vec<u8>) {
        self.router.client_gone(self.now(), client);
        let Some(connection) = self.connections.get_mut(&client) else { return };
        connection.wire = Wire::Ending(Ending::with(last));
        connection.closing = None;
        let blocked = connection.blocked;
        self.expect(client, END_WITHIN_MS);
        if !blocked {
            self.write_client(client);
        }
    }

    /// The head of an HTTP request has begun.
    pub(super) fn expect_head(&mut self, client: ClientId) {
        self.expect(client, HEAD_WITHIN_MS);
    }

    /// The client sends nothing more and waits for answers: it may go without another sign.
    pub(super) fn look_after(&mut self, client: ClientId) {
        if self.connections.get(&client).is_some_and(|connection| connection.deadline.is_none()) {
            self.expect(client, LOOK_AFTER_MS);
        }
    }

    /// Does what an HTTP request asks for.
    pub(super) fn http_request(&mut self, client: ClientId, request: Request) {
        match request {
            Request::Upgrade(answer) => {
                self.unexpect(client);
                if let Some(connection) = self.connections.get_mut(&client) {
                    connection.wire = Wire::WebSocket(Box::new(WebSocket::accepted(answer)));
                }
            }
            Request::Get { path, head_only } => {
                self.answer(client, |hub| Response::to(&path, head_only, || hub.report()).into_bytes());
            }
            Request::Refused(response) => self.answer(client, |_| response.into_bytes()),
            Request::Neither => self.answer(client, |hub| Response::to_neither(hub.identity.generation)),
        }
    }

    /// Gives a connection its one answer. Who only asks that has not used the daemon.
    fn answer(&mut self, client: ClientId, response: impl FnOnce(&Hub) -> Vec<u8>) {
        // It is not among the clients that the answer counts.
        self.router.client_gone(self.now(), client);
        let response = response(self);
        if let Some(connection) = self.connections.get(&client)
            && self.idle_since.is_none()
        {
            self.idle_since = connection.idle_before.filter(|_| self.router.is_unused());
            self.wake.notify_one();
        }
        self.end_with(client, response);
    }

    /// Ends a connection.
    pub(super) fn disconnect(&mut self, client: ClientId) {
        self.unexpect(client);
        let Some(connection) = self.connections.remove(&client) else { return };
        tracing::debug!(client.id = client.0, "client disconnected");
        self.router.client_gone(self.now(), client);
        self.room.notify_one();
        if let Some(waker) = connection.waker {
            waker.wake();
        }
    }

    /// Ends all connections. A WebSocket whose socket takes it learns why.
    pub(super) fn disconnect_all(&mut self) {
        let asked = matches!(self.lifecycle.intent(), Some(Intent::Stop(_)));
        let why = farewell(asked, &self.reason());
        let clients: Vec<ClientId> = self.connections.keys().copied().collect();
        for client in clients {
            if let Some(last) = self.take_websocket(client, Some(why.clone()))
                && let Some(connection) = self.connections.get(&client)
            {
                // One that takes no more now has had its time.
                let _ = Ending::with(last).write(&connection.socket);
            }
            self.disconnect(client);
        }
    }

    // ---- deadlines -----------------------------------------------------------------------------

    /// Gives a connection this long.
    fn expect(&mut self, client: ClientId, within_ms: u64) {
        self.unexpect(client);
        let at = self.now() + within_ms;
        if let Some(connection) = self.connections.get_mut(&client) {
            connection.deadline = Some(at);
            self.deadlines.insert((at, client));
            self.wake.notify_one();
        }
    }

    /// Gives a connection all the time it wants.
    fn unexpect(&mut self, client: ClientId) {
        if let Some(connection) = self.connections.get_mut(&client)
            && let Some(at) = connection.deadline.take()
        {
            self.deadlines.remove(&(at, client));
        }
    }

    /// Closes the connections whose time is over.
    pub(super) fn close_expired(&mut self, now: Time) {
        while let Some(&(at, client)) = self.deadlines.first()
            && at <= now
        {
            self.unexpect(client);
            let Some(connection) = self.connections.get(&client) else { continue };
            match &connection.wire {
                Wire::Http(_) => self.answer(client, |_| Response::timeout().into_bytes()),
                Wire::Lines(_) | Wire::WebSocket(_)
                    if connection.closing.is_none() && !hung_up(&connection.socket) =>
                {
                    self.look_after(client);
                }
                _ => self.disconnect(client),
            }
        }
    }
}
