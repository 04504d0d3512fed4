//! Frames from the messages that pass: what each is, how long its answer took, and its body without secrets.

use std::time::Instant;

use codexd_proto::feed::{Direction, Frame, FrameFilter};
use codexd_proto::id::ClientId;
use codexd_proto::message::UpstreamMessage;
use codexd_proto::secrets::{MASK, is_secret_variable};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// Requests whose responses are waited for; above, all are forgotten, and their latencies are not known.
const MAX_OPEN: usize = 16_384;

/// When, in two forms, on which way, and at whose connection a message has passed.
pub(super) type Place = (Instant, u64, Direction, Option<ClientId>);

/// Makes frames, and remembers the requests that have passed.
#[derive(Debug)]
pub(super) struct FrameReader {
    filter: FrameFilter,
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
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Head {
    id: Option<String>,
    method: Option<String>,
    failed: bool,
}

impl Head {
    /// Reads a message; `None` if it is none.
    pub(super) fn read(direction: Direction, line: &[u8]) -> Option<Head> {
        match direction {
            Direction::FromCodex | Direction::ToClient => Head::of_upstream(line),
            Direction::FromClient | Direction::ToCodex => Head::of_client(line),
        }
    }

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

impl FrameReader {
    /// Makes one that returns what passes `filter`.
    pub(super) fn new(filter: FrameFilter) -> FrameReader {
        FrameReader { filter, open: FxHashMap::default() }
    }

    /// Reads a message; `None` if it is not wanted. `mask` takes the secrets that are known out of a text.
    pub(super) fn message(
        &mut self,
        place: Place,
        line: &[u8],
        mask: &impl Fn(&str) -> String,
    ) -> Option<Frame> {
        let mut frame = self.head(place, line.len(), Head::read(place.2, line))?;
        frame.body = self.filter.bodies.then(|| masked(line, mask));
        Some(frame)
    }

    /// Makes the frame of a message of which only the head is known; `None` if it is not wanted.
    pub(super) fn head(&mut self, place: Place, bytes: usize, head: Option<Head>) -> Option<Frame> {
        let frame = self.frame(place, bytes, head);
        self.filter.passes(&frame).then_some(frame)
    }

    fn frame(&mut self, place: Place, bytes: usize, head: Option<Head>) -> Frame {
        let (at, at_unix_ms, direction, client) = place;
        let mut frame = Frame {
            at_unix_ms,
            direction,
            client: client.map(|client| u64::from(client.0)),
            kind: "other".to_owned(),
            bytes: bytes as u64,
            ..Frame::default()
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
            self.open.entry(request).or_insert_with(|| (at, frame.method.clone()));
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
            frame.latency_us = u64::try_from(at.saturating_duration_since(since).as_micros()).ok();
            frame.method = method;
        }
        frame
    }
}

/// Returns a message with secrets masked: those that `mask` knows, and strings under a name that announces a secret.
fn masked(line: &[u8], mask: &impl Fn(&str) -> String) -> String {
    fn walk(value: &mut Value, mask: &impl Fn(&str) -> String) {
        match value {
            Value::String(text) => *text = mask(text),
            Value::Array(items) => items.iter_mut().for_each(|item| walk(item, mask)),
            Value::Object(members) => {
                for (name, value) in members {
                    match value {
                        Value::String(text) if announces(name) => *text = MASK.to_owned(),
                        value => walk(value, mask),
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    match serde_json::from_slice::<Value>(line) {
        Ok(mut value) => {
            walk(&mut value, mask);
            value.to_string()
        }
        Err(_) => mask(&String::from_utf8_lossy(line)),
    }
}

/// Returns whether the name of a member announces a secret. Its words are separated as in a variable's name, or
/// begin with capitals.
fn announces(name: &str) -> bool {
    let words: String =
        name.chars().flat_map(|c| if c.is_ascii_uppercase() { vec!['_', c] } else { vec![c] }).collect();
    is_secret_variable(&words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(reader: &mut FrameReader, steps: &[(Direction, Option<u32>, &str)]) -> Vec<Frame> {
        let begin = Instant::now();
        let place = |n: usize, way, client: Option<u32>| {
            (begin + std::time::Duration::from_micros(n as u64), 0, way, client.map(ClientId))
        };
        let steps = steps.iter().enumerate();
        steps
            .filter_map(|(n, (way, client, line))| {
                reader.message(place(n, *way, *client), line.as_bytes(), &str::to_owned)
            })
            .collect()
    }

    #[test]
    fn a_response_has_the_method_and_the_latency_of_its_request() {
        let mut reader = FrameReader::new(FrameFilter::default());
        let frames = frames(
            &mut reader,
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
        let latencies: Vec<Option<u64>> = frames.iter().map(|frame| frame.latency_us).collect();
        let none = None;
        assert_eq!(latencies, [none, none, none, Some(1), Some(4), none, none, Some(1), Some(2), none]);
        assert_eq!(reader.open.len(), 1, "one request has no response");
    }

    #[test]
    fn what_the_filter_does_not_name_is_remembered_and_not_shown() {
        let filter = FrameFilter { directions: vec![Direction::ToClient], ..FrameFilter::default() };
        let frames = frames(
            &mut FrameReader::new(filter),
            &[
                (Direction::FromClient, Some(1), r#"{"id":1,"method":"model/list"}"#),
                (Direction::ToClient, Some(1), r#"{"id":1,"result":{}}"#),
            ],
        );
        assert_eq!(frames.len(), 1);
        assert_eq!((frames[0].method.as_deref(), frames[0].latency_us), (Some("model/list"), Some(1)));
    }

    #[test]
    fn a_body_has_no_secret() {
        let mask = |text: &str| text.replace("planted", "***");
        let line = br#"{"params":{"apiKey":"abc","text":"a planted word","tokenUsage":{"totalTokens":5}}}"#;
        assert_eq!(
            masked(line, &mask),
            r#"{"params":{"apiKey":"***","text":"a *** word","tokenUsage":{"totalTokens":5}}}"#
        );
        assert_eq!(masked(b"not JSON, planted", &mask), "not JSON, ***");
    }
}
