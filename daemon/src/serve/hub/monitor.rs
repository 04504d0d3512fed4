//! Monitors: who looks at the frames of the data plane.
//!
//! While nobody does, each read and write costs one branch. While somebody does, a frame is read once more, and what a
//! monitor wants of it is put into its queue, which is bounded: a monitor whose queue is full is dropped. The data plane
//! waits for none.

use std::time::Instant;

use codexd_proto::core::Core;
use codexd_proto::feed::{Direction, Frame};
use codexd_proto::id::ClientId;
use codexd_proto::message::UpstreamMessage;
use rustc_hash::FxHashMap;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Hub;
use crate::control::monitor::Monitor;
use crate::os::unix_time::unix_ms;

/// Requests whose responses are waited for; above, all are forgotten, and their latencies are not known.
const MAX_OPEN: usize = 16_384;

/// All monitors, and what they need to know of the past.
#[derive(Debug, Default)]
pub(super) struct Monitors {
    active: Vec<Monitor>,
    open: FxHashMap<Request, (Instant, Option<String>)>,
}

/// A request that may be answered.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Request {
    /// A client's, at the client's end, by the id the client gave it.
    Client(ClientId, String),
    /// A client's or codexd's, at the upstream's end.
    Upstream(String),
    /// A server request.
    Server(String),
}

/// What a message is.
#[derive(Debug, Default)]
struct Head {
    id: Option<String>,
    method: Option<String>,
    failed: bool,
}

impl Head {
    /// Reads what codex or codexd has written: as far as the router does.
    fn of_upstream(line: &[u8]) -> Option<Head> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Some(match UpstreamMessage::read(line)? {
            UpstreamMessage::Notification { method, .. } => {
                Head { method: Some(text(&method)), ..Head::default() }
            }
            UpstreamMessage::Request { method, id, .. } => Head {
                id: Some(id.map_or_else(String::new, |id| id.0.to_string())),
                method: Some(text(&method)),
                failed: false,
            },
            UpstreamMessage::Response { id_span, failed, .. } => {
                Head { id: Some(text(id_span.of(line))), method: None, failed }
            }
        })
    }

    /// Reads what a client has written, which may be anything.
    fn of_client(line: &[u8]) -> Option<Head> {
        #[derive(Deserialize)]
        struct Members<'a> {
            #[serde(borrow)]
            id: Option<&'a RawValue>,
            method: Option<String>,
            #[serde(borrow)]
            error: Option<&'a RawValue>,
        }
        let members: Members<'_> = serde_json::from_slice(line).ok()?;
        let id = members.id.map(|id| id.get().to_owned());
        Some(Head { id, method: members.method, failed: members.error.is_some() })
    }
}

impl Monitors {
    /// Shows what a client has sent.
    pub(super) fn show_from_client(&mut self, client: ClientId, line: &[u8]) {
        self.show(Direction::FromClient, Some(client), line);
    }

    /// Shows what codex has sent.
    pub(super) fn show_from_codex(&mut self, line: &[u8]) {
        self.show(Direction::FromCodex, None, line);
    }

    /// Shows what waits for a client behind the first `shown` bytes; returns how many bytes are shown then.
    pub(super) fn show_to_client(&mut self, client: ClientId, shown: usize, core: &mut Core) -> usize {
        let pending = core.pending(client);
        for line in lines(pending, shown) {
            self.show(Direction::ToClient, Some(client), line);
        }
        pending.len()
    }

    /// As [`show_to_client`](Monitors::show_to_client), of what waits for codex.
    pub(super) fn show_to_codex(&mut self, shown: usize, core: &mut Core) -> usize {
        let pending = core.upstream_pending();
        for line in lines(pending, shown) {
            self.show(Direction::ToCodex, None, line);
        }
        pending.len()
    }

    /// Shows a message to every monitor.
    fn show(&mut self, direction: Direction, client: Option<ClientId>, line: &[u8]) {
        let frame = self.frame(direction, client, line);
        for monitor in &mut self.active {
            monitor.push(&frame, || String::from_utf8_lossy(line).into_owned());
        }
    }

    fn frame(&mut self, direction: Direction, client: Option<ClientId>, line: &[u8]) -> Frame {
        let mut frame = Frame {
            at_unix_ms: unix_ms(),
            direction,
            client: client.map(|client| u64::from(client.0)),
            kind: "other".to_owned(),
            bytes: line.len() as u64,
            ..Frame::default()
        };
        let head = match direction {
            Direction::FromCodex | Direction::ToClient => Head::of_upstream(line),
            Direction::FromClient | Direction::ToCodex => Head::of_client(line),
        };
        let Some(head) = head else { return frame };
        frame.id = head.id;
        let Some(id) = frame.id.clone() else {
            frame.kind = "notification".to_owned();
            frame.method = head.method;
            return frame;
        };
        let to_upstream = matches!(direction, Direction::FromClient | Direction::ToCodex);
        if head.method.is_some() {
            frame.kind = "request".to_owned();
            frame.method = head.method;
            if self.open.len() >= MAX_OPEN {
                self.open.clear();
            }
            let request = match (to_upstream, client) {
                (false, _) => Request::Server(id),
                (true, Some(client)) => Request::Client(client, id),
                (true, None) => Request::Upstream(id),
            };
            self.open.entry(request).or_insert_with(|| (Instant::now(), frame.method.clone()));
            return frame;
        }
        frame.kind = if head.failed { "error" } else { "response" }.to_owned();
        let opened = match (to_upstream, client) {
            // It is on its way to codex, where it ends.
            (true, Some(_)) => self.open.get(&Request::Server(id)).cloned(),
            (true, None) => self.open.remove(&Request::Server(id)),
            (false, Some(client)) => self.open.remove(&Request::Client(client, id)),
            (false, None) => self.open.remove(&Request::Upstream(id)),
        };
        if let Some((since, method)) = opened {
            frame.latency_us = u64::try_from(since.elapsed().as_micros()).ok();
            frame.method = method;
        }
        frame
    }
}

impl Hub {
    /// Adds a monitor: from now on it gets what passes its filter.
    pub(super) fn monitor(&mut self, monitor: Monitor) {
        if self.monitors.is_none() {
            // What waits now was sent before.
            for (client, io) in &mut self.clients {
                io.shown = self.core.pending(*client).len();
            }
            self.upstream.shown = self.core.upstream_pending().len();
        }
        self.monitors.get_or_insert_default().active.push(monitor);
        tracing::info!("a monitor looks at the frames");
    }

    /// Sends the monitors what they were shown.
    pub(super) fn send_to_monitors(&mut self) {
        if let Some(monitors) = &mut self.monitors {
            monitors.active.retain_mut(Monitor::send);
            if monitors.active.is_empty() {
                self.monitors = None;
                tracing::info!("nobody looks at the frames any more");
            }
        }
    }
}

/// Iterates over the whole lines behind the first `shown` bytes.
fn lines(pending: &[u8], shown: usize) -> impl Iterator<Item = &[u8]> {
    let rest = pending.get(shown..).unwrap_or_default();
    rest.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(monitors: &mut Monitors, steps: &[(Direction, Option<u32>, &str)]) -> Vec<Frame> {
        let steps = steps.iter();
        steps.map(|(way, client, line)| monitors.frame(*way, client.map(ClientId), line.as_bytes())).collect()
    }

    #[test]
    fn a_response_has_the_method_and_the_latency_of_its_request() {
        let mut monitors = Monitors::default();
        let frames = kinds(
            &mut monitors,
            &[
                (Direction::FromClient, Some(1), r#"{"id":"a","method":"turn/start","params":{"input":[]}}"#),
                (Direction::FromClient, Some(2), r#"{"id":"a","method":"model/list"}"#),
                (Direction::ToCodex, None, r#"{"id":7,"method":"turn/start"}"#),
                (Direction::FromCodex, None, r#"{"id":7,"result":{}}"#),
                (Direction::ToClient, Some(1), r#"{"id":"a","error":{"code":1}}"#),
                (Direction::ToClient, Some(1), r#"{"method":"turn/started","params":{}}"#),
                (Direction::FromCodex, None, r#"{"id":0,"method":"item/tool/requestUserInput"}"#),
                (Direction::FromClient, Some(2), r#"{"id":0,"result":{}}"#),
                (Direction::ToCodex, None, r#"{"id":0,"result":{}}"#),
                (Direction::FromClient, Some(2), "nonsense"),
            ],
        );
        let shown: Vec<_> = frames.iter().map(|f| (&*f.kind, f.method.as_deref())).collect();
        let ask = Some("item/tool/requestUserInput");
        assert_eq!(
            shown,
            [
                ("request", Some("turn/start")),
                ("request", Some("model/list")),
                ("request", Some("turn/start")),
                ("response", Some("turn/start")),
                ("error", Some("turn/start")),
                ("notification", Some("turn/started")),
                ("request", ask),
                ("response", ask),
                ("response", ask),
                ("other", None),
            ]
        );
        let latencies: Vec<bool> = frames.iter().map(|frame| frame.latency_us.is_some()).collect();
        assert_eq!(latencies, [false, false, false, true, true, false, false, true, true, false]);
        assert_eq!(monitors.open.len(), 1, "one request has no response");
    }

    #[test]
    fn only_whole_lines_that_were_not_shown_are_shown() {
        let shown: Vec<&[u8]> = lines(b"rest\nfirst\nsecond\n", 5).collect();
        assert_eq!(shown, [&b"first"[..], b"second"]);
        assert_eq!(lines(b"short\n", 10).count(), 0);
    }
}
