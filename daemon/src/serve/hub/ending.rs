//! How connections end, each in the way of its framing, and those that end with one answer.
//!
//! A connection with lines is closed, after a last notification if the client did not cause the end itself. A
//! WebSocket gets a close frame with the reason, and an HTTP request its response; such a connection belongs to no
//! client any more, and stays open as [`Wire::Ending`] until the peer closes it too, or its deadline has passed.

use codexd_proto::core::{Event, Framing};
use codexd_proto::id::ClientId;
use codexd_proto::lifecycle::{Intent, State};
use codexd_proto::router::CloseReason;
use tungstenite::protocol::CloseFrame;

use super::Hub;
use crate::logging::roles::log_client;
use crate::serve::connection::{
    Ending, Request, Response, WebSocket, Wire, close_frame, shutdown_close_frame,
};

impl Hub {
    /// Closes a connection because the core wants it; without a reason, because everything is answered.
    pub(super) fn close(&mut self, client: ClientId, reason: Option<CloseReason>) {
        match reason {
            // The core has reported the first of many.
            Some(CloseReason::TooSlow) => log_client!(debug, self.client(client), "closing a slow client"),
            Some(reason) => {
                let reason = reason.word();
                log_client!(info, self.client(client), reason, "closing a client's connection");
            }
            None => {}
        }
        match self.clients.get(&client).map(|io| &io.wire) {
            Some(Wire::WebSocket(_)) => {
                let reason = reason.unwrap_or(CloseReason::Detached);
                let why = self.core.describe(client, reason);
                self.end_websocket(client, Some(close_frame(reason, &why)));
            }
            Some(Wire::Lines(_)) => {
                let last = reason.map_or_else(Vec::new, |reason| self.core.last_lines(client, reason));
                if last.is_empty() {
                    return self.disconnect(client);
                }
                self.handle(Event::ClientEnding { client });
                self.write_last(client, last);
            }
            Some(Wire::Ending(_)) => {}
            _ => self.disconnect(client),
        }
    }

    /// Ends a WebSocket: with the answer to the peer's close frame, or else with `frame`.
    ///
    /// What waits is dropped, but a begun frame is finished, since nothing could follow it else.
    pub(super) fn end_websocket(&mut self, client: ClientId, frame: Option<CloseFrame>) {
        let Some(last) = self.take_websocket(client, frame) else { return self.disconnect(client) };
        self.handle(Event::ClientEnding { client });
        self.write_last(client, last);
    }

    /// Takes the WebSocket from a connection and returns its last bytes, if there can be any.
    fn take_websocket(&mut self, client: ClientId, frame: Option<CloseFrame>) -> Option<Vec<u8>> {
        let io = self.clients.get_mut(&client)?;
        if !matches!(io.wire, Wire::WebSocket(_)) {
            return None;
        }
        let Wire::WebSocket(socket) = std::mem::replace(&mut io.wire, Wire::Sniffing) else {
            return None;
        };
        if let Some(frame) = &frame {
            let code = u16::from(frame.code);
            log_client!(debug, self.client(client), websocket.code = code, "closing a WebSocket");
        }
        socket.end(self.core.pending(client), frame)
    }

    /// Writes the last bytes of a connection that belongs to no client any more.
    fn write_last(&mut self, client: ClientId, last: Vec<u8>) {
        let Some(io) = self.clients.get_mut(&client) else { return };
        if io.full {
            io.socket.make_room(last.len());
        }
        io.wire = Wire::Ending(Ending::with(last));
        self.write_client(self.now(), client);
    }

    /// Does what an HTTP request asks for.
    pub(super) fn http_request(&mut self, client: ClientId, request: Request) {
        match request {
            Request::Upgrade(answer) => {
                if let Some(io) = self.clients.get_mut(&client) {
                    io.wire = Wire::WebSocket(Box::new(WebSocket::accepted(answer)));
                }
                self.handle(Event::ClientFraming { client, framing: Framing::WebSocket });
            }
            Request::Get { path, head_only } => {
                self.answer(client, |hub| Response::to(&path, head_only, || hub.measured()).into_bytes());
            }
            Request::Refused(response) => self.answer(client, |_| response.into_bytes()),
            Request::Neither => self.answer(client, |hub| Response::to_neither(hub.base_status.generation)),
        }
    }

    /// Gives an HTTP request its one answer.
    pub(super) fn answer(&mut self, client: ClientId, response: impl FnOnce(&Hub) -> Vec<u8>) {
        self.handle(Event::HttpRequest { client });
        let response = response(self);
        self.write_last(client, response);
    }

    /// Ends a connection.
    pub(super) fn disconnect(&mut self, client: ClientId) {
        // While it is known which client and process that was.
        let role = self.client(client);
        if self.clients.contains_key(&client) {
            self.handle(Event::ClientDisconnected { client });
            self.log_activity();
        }
        let Some(io) = self.clients.remove(&client) else { return };
        log_client!(debug, role, "connection ended");
        if let Some(waker) = io.waker {
            waker.wake();
        }
    }

    /// Answers and ends the connections of the backlog that were accepted after all others were closed: nothing is
    /// flushed in this state any more, and the daemon waits for the tasks of its clients.
    pub(super) fn close_late_clients(&mut self) {
        if self.core.state() == State::Exited {
            self.final_read();
            self.write_clients(self.now());
            self.disconnect_all();
        }
    }

    /// Ends all connections. A WebSocket gets the reason if its socket accepts the frame.
    pub(super) fn disconnect_all(&mut self) {
        let asked = matches!(self.core.intent(), Some(Intent::Stop(_)));
        let why = shutdown_close_frame(asked, &self.core.reason());
        let clients: Vec<ClientId> = self.clients.keys().copied().collect();
        for client in clients {
            if let Some(last) = self.take_websocket(client, Some(why.clone()))
                && let Some(io) = self.clients.get(&client)
            {
                // A socket that is still full now has had its time.
                let _ = Ending::with(last).write(&io.socket);
            }
            self.disconnect(client);
        }
    }
}
