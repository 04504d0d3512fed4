//! A line as a message: which kind it is, and where its parts stand.
//!
//! The form is that of the upstream (app-server README, section "Protocol"): JSON-RPC 2.0 without
//! the `jsonrpc` member. Unknown members pass through.

use serde::Deserialize;

use crate::id::{RequestId, ServerRequestId, parse_i64};
use crate::json::edit::{last_member, member_name};
use crate::json::scan::{Members, skip_space, string_inner};
use crate::json::{Span, check};

/// A checked line from a client.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientMessage {
    /// A request: it is owed exactly one answer.
    Request {
        /// Its id, to be echoed.
        id: RequestId,
        /// Where the id stands.
        id_span: Span,
        /// The method, between its quotes.
        method: Span,
        /// The parameters.
        params: Option<Span>,
    },
    /// A notification.
    Notification {
        /// The method, between its quotes.
        method: Span,
    },
    /// An answer to a request of the upstream. An illegal id cannot be an answer to anything.
    Answer {
        /// The id of that request, if it is an integer.
        id: Option<ServerRequestId>,
    },
}

/// Why a line from a client is not a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Rejection {
    /// It is not JSON.
    NotJson(check::Fault),
    /// It is JSON, but no message; with its id, where it has a legal one.
    NotAMessage {
        /// What is wrong, as a sentence.
        what: &'static str,
        /// The id to answer with.
        id: Option<RequestId>,
    },
    /// It is an answer that the upstream would not read; nobody is owed an answer to an answer.
    BadAnswer,
}

/// Members whose doubling makes the upstream drop the line.
const KNOWN: [&[u8]; 6] = [b"id", b"method", b"params", b"result", b"error", b"trace"];

impl ClientMessage {
    /// Reads a line. `Ok(None)` is a blank one.
    ///
    /// # Errors
    /// A [`Rejection`] for everything that the upstream would drop without an answer.
    pub fn read(line: &[u8]) -> Result<Option<ClientMessage>, Rejection> {
        if skip_space(line, 0) == line.len() {
            return Ok(None);
        }
        let value = check::value(line).map_err(Rejection::NotJson)?;
        let not = |what, id| Err(Rejection::NotAMessage { what, id });
        match line[value.start] {
            b'{' => {}
            b'[' => return not("batches are not supported; send one object per line", None),
            _ => return not("a message is a JSON object", None),
        }
        let mut known: [Option<Span>; KNOWN.len()] = [None; KNOWN.len()];
        let mut doubled = false;
        let mut ids_doubled = false;
        for member in Members::new(line, value.start) {
            let key = member_name(member.key.of(line));
            if let Some(slot) = KNOWN.iter().position(|k| **k == *key)
                && known[slot].replace(member.value).is_some()
            {
                doubled = true;
                ids_doubled |= &*key == b"id";
            }
        }
        let [id_span, method, params, result, error, trace] = known;
        let id = id_span.and_then(|span| RequestId::from_json(span.of(line)));
        if doubled {
            // Which of two ids the sender waits for cannot be told.
            let id = id.filter(|_| !ids_doubled);
            return not("a member of the message is given twice", id);
        }
        if trace.is_some_and(|span| !is_trace(span.of(line))) {
            return not("`trace` must be an object with the texts `traceparent` and `tracestate`", id);
        }
        let Some(method) = method else {
            return match (id_span, result, error) {
                (Some(span), Some(_), _) => {
                    Ok(Some(ClientMessage::Answer { id: server_request_id(line, span) }))
                }
                (Some(span), None, Some(error)) if is_error_object(line, error) => {
                    Ok(Some(ClientMessage::Answer { id: server_request_id(line, span) }))
                }
                (_, None, Some(_)) => Err(Rejection::BadAnswer),
                _ => not("neither a request, a notification nor an answer: `method` is missing", id),
            };
        };
        let Some(method) = string_inner(line, method) else {
            return not("`method` must be a string", id);
        };
        match (id_span, id) {
            (Some(id_span), Some(id)) => Ok(Some(ClientMessage::Request { id, id_span, method, params })),
            (None, _) => Ok(Some(ClientMessage::Notification { method })),
            (Some(_), None) => not("`id` must be a string or an integer of at most 64 bits", None),
        }
    }
}

/// Returns whether an error is one that the upstream can read: a code and a message.
fn is_error_object(line: &[u8], error: Span) -> bool {
    line[error.start] == b'{'
        && last_member(line, error, "code").is_some_and(|code| parse_i64(code.of(line)).is_some())
        && last_member(line, error, "message").is_some_and(|text| line[text.start] == b'"')
}

/// Returns whether the upstream can read a trace context: it drops a message with another one (measured).
fn is_trace(text: &[u8]) -> bool {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Trace {
        #[serde(rename = "traceparent")]
        _parent: Option<String>,
        #[serde(rename = "tracestate")]
        _state: Option<String>,
    }
    serde_json::from_slice::<Option<Trace>>(text).is_ok()
}

fn server_request_id(line: &[u8], span: Span) -> Option<ServerRequestId> {
    match RequestId::from_json(span.of(line)) {
        Some(RequestId::Number(n)) => Some(ServerRequestId(n)),
        _ => None,
    }
}

/// A line from the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamMessage {
    /// The answer to a request.
    Response {
        /// The request's id; `None` if it is not one that codexd gives.
        id: Option<u64>,
        /// Where the id stands.
        id_span: Span,
        /// Whether it is an error.
        failed: bool,
        /// The result or the error.
        body: Span,
    },
    /// A notification.
    Notification {
        /// The method, between its quotes.
        method: Span,
        /// Where `params` begins.
        params: Option<usize>,
    },
    /// A request to the clients.
    Request {
        /// The method, between its quotes.
        method: Span,
        /// Its id, if it is an integer.
        id: Option<ServerRequestId>,
        /// The parameters.
        params: Option<Span>,
    },
}

impl UpstreamMessage {
    /// Reads a line; `None` when it is no message at all, so that the stream cannot be trusted.
    ///
    /// The usual shapes are told from their first bytes and not read to the end: what codexd does
    /// not need is not looked at.
    #[inline]
    pub fn read(line: &[u8]) -> Option<UpstreamMessage> {
        if line.last() != Some(&b'}') {
            return UpstreamMessage::read_whole(line);
        }
        if line.starts_with(b"{\"method\":\"") {
            let start = b"{\"method\":\"".len();
            let end = start + memchr::memchr(b'"', &line[start..])?;
            // A method with an escape would have its quote misread; none of the known has one.
            if line[end..].starts_with(b"\",\"params\":{") && line[end - 1] != b'\\' {
                return Some(UpstreamMessage::Notification {
                    method: Span { start, end },
                    params: Some(end + b"\",\"params\":".len()),
                });
            }
        } else if line.starts_with(b"{\"id\":") {
            let start = b"{\"id\":".len();
            let digits = line[start..].iter().take_while(|b| b.is_ascii_digit()).count();
            let end = start + digits;
            if digits > 0 && line[end..].starts_with(b",\"result\":") {
                let body = end + b",\"result\":".len();
                return Some(UpstreamMessage::Response {
                    id: parse_u64(&line[start..end]),
                    id_span: Span { start, end },
                    failed: false,
                    body: Span { start: body, end: line.len() - 1 },
                });
            }
        }
        UpstreamMessage::read_whole(line)
    }

    fn read_whole(line: &[u8]) -> Option<UpstreamMessage> {
        let mut members = Members::new(line, 0);
        let (mut id, mut method, mut params, mut result, mut error) = (None, None, None, None, None);
        for member in members.by_ref() {
            match member.key.of(line) {
                b"id" => id = Some(member.value),
                b"method" => method = Some(member.value),
                b"params" => params = Some(member.value),
                b"result" => result = Some(member.value),
                b"error" => error = Some(member.value),
                _ => {}
            }
        }
        let end = members.end()?;
        if skip_space(line, end) != line.len() {
            return None;
        }
        let method = match method {
            Some(span) => Some(string_inner(line, span)?),
            None => None,
        };
        match (method, id, result, error) {
            (Some(method), None, ..) => {
                Some(UpstreamMessage::Notification { method, params: params.map(|span| span.start) })
            }
            (Some(method), Some(id), ..) => {
                Some(UpstreamMessage::Request { method, id: server_request_id(line, id), params })
            }
            (None, Some(id), Some(body), _) => Some(UpstreamMessage::Response {
                id: parse_u64(id.of(line)),
                id_span: id,
                failed: false,
                body,
            }),
            (None, Some(id), None, Some(body)) => Some(UpstreamMessage::Response {
                id: parse_u64(id.of(line)),
                id_span: id,
                failed: true,
                body,
            }),
            _ => None,
        }
    }
}

fn parse_u64(text: &[u8]) -> Option<u64> {
    core::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected(line: &str) -> (&'static str, Option<RequestId>) {
        match ClientMessage::read(line.as_bytes()) {
            Err(Rejection::NotAMessage { what, id }) => (what, id),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn client_messages_are_told_apart() {
        let read = |line: &str| ClientMessage::read(line.as_bytes()).unwrap().unwrap();
        assert!(matches!(
            read(r#" {"jsonrpc":"2.0","id":"x","method":"a/b","params":{},"other":1} "#),
            ClientMessage::Request { id: RequestId::Text(_), params: Some(_), .. }
        ));
        assert!(matches!(read(r#"{"method":"initialized"}"#), ClientMessage::Notification { .. }));
        assert_eq!(read(r#"{"id":3,"result":null}"#), ClientMessage::Answer { id: Some(ServerRequestId(3)) });
        assert_eq!(read(r#"{"id":"3","result":{}}"#), ClientMessage::Answer { id: None });
        assert_eq!(
            read(r#"{"error":{"code":-1,"message":"no"},"id":0}"#),
            ClientMessage::Answer { id: Some(ServerRequestId(0)) }
        );
        assert_eq!(ClientMessage::read(b" \t\r").unwrap(), None);
    }

    #[test]
    fn names_of_members_may_be_written_with_escapes() {
        let line = br#"{"\u0069d":1,"m\u0065thod":"a\/b","par\u0061ms":{}}"#;
        let Ok(Some(ClientMessage::Request { id, id_span, method, params })) = ClientMessage::read(line)
        else {
            panic!("it is a request");
        };
        assert_eq!((id, id_span.of(line)), (RequestId::Number(1), &b"1"[..]));
        assert_eq!((method.of(line), params.unwrap().of(line)), (&br"a\/b"[..], &b"{}"[..]));
        let line = br#"{"\u0069d":2,"\u0072esult":{}}"#;
        let answer = ClientMessage::Answer { id: Some(ServerRequestId(2)) };
        assert_eq!(ClientMessage::read(line), Ok(Some(answer)));
        let line = br#"{"id":2,"error":{"c\u006fde":-1,"message":"no"}}"#;
        assert!(matches!(ClientMessage::read(line), Ok(Some(ClientMessage::Answer { .. }))));
    }

    #[test]
    fn a_trace_context_that_the_upstream_can_read_is_passed() {
        for trace in ["null", "{}", "[]", r#"{"traceparent":"x","tracestate":null,"more":1}"#, r#"["a","b"]"#]
        {
            let line = format!(r#"{{"id":1,"method":"n","trace":{trace}}}"#);
            assert!(matches!(ClientMessage::read(line.as_bytes()), Ok(Some(_))), "{line}");
        }
    }

    #[test]
    fn what_the_upstream_would_drop_is_rejected_with_the_id_where_there_is_one() {
        assert_eq!(rejected("[]").1, None);
        assert_eq!(rejected("5").1, None);
        assert_eq!(rejected(r#"{"id":null,"method":"m"}"#).1, None);
        assert_eq!(rejected(r#"{"id":5.5,"method":"m"}"#).1, None);
        assert_eq!(rejected(r#"{"id":9223372036854775808,"method":"m"}"#).1, None);
        assert_eq!(rejected(r#"{"id":1,"method":5}"#).1, Some(RequestId::Number(1)));
        assert_eq!(rejected(r#"{"id":1,"params":{}}"#).1, Some(RequestId::Number(1)));
        assert_eq!(rejected(r#"{"id":1,"method":"m","method":"n"}"#).1, Some(RequestId::Number(1)));
        assert_eq!(rejected(r#"{"id":1,"m\u0065thod":"n","method":"n"}"#).1, Some(RequestId::Number(1)));
        for trace in ["7", "\"x\"", r#"{"traceparent":5}"#, r#"{"tracestate":"a","tracestate":"b"}"#] {
            let line = format!(r#"{{"id":1,"method":"n","trace":{trace}}}"#);
            assert_eq!(rejected(&line).1, Some(RequestId::Number(1)), "{line}");
        }
        assert_eq!(ClientMessage::read(b"{\"id\":1,\"error\":\"no\"}"), Err(Rejection::BadAnswer));
        assert!(matches!(ClientMessage::read(b"{\"id\":1"), Err(Rejection::NotJson(_))));
        assert!(matches!(ClientMessage::read(b"{\"a\":\"\xff\"}"), Err(Rejection::NotJson(_))));
    }

    #[test]
    fn the_short_way_reads_what_the_whole_way_reads() {
        for line in [
            r#"{"method":"turn/started","params":{"threadId":"t"},"emittedAtMs":5}"#,
            r#"{"method":"item/tool/call","id":0,"params":{"threadId":"t"}}"#,
            r#"{"id":17,"result":{"thread":{"id":"x"}}}"#,
            r#"{"error":{"code":-1,"message":"m"},"id":17}"#,
            r#"{"id":17,"error":{"code":-1,"message":"m"}}"#,
            r#"{"id":17,"method":"x","params":{}}"#,
            r#"{"method":"skills/changed"}"#,
            r#"{"method":"skills/changed","params":null}"#,
            r#"{ "id" : 17 , "result" : [ ] }"#,
        ] {
            let bytes = line.as_bytes();
            assert!(UpstreamMessage::read(bytes).is_some(), "{line}");
            assert_eq!(UpstreamMessage::read(bytes), UpstreamMessage::read_whole(bytes), "{line}");
        }
    }

    #[test]
    fn garbage_from_the_upstream_is_no_message() {
        for line in ["", "x", "{", "[]", "{}", "{\"id\":1}", "{\"method\":1}", "{\"id\":1,\"result\":{}} x"] {
            assert_eq!(UpstreamMessage::read(line.as_bytes()), None, "{line}");
        }
    }
}
