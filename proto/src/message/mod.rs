//! A line as a message: its kind, and where its parts are.
//!
//! The format is that of the upstream (app-server README, section "Protocol"): JSON-RPC 2.0 without the `jsonrpc`
//! member. Unknown members pass through.

mod head;

use std::borrow::Cow;

use crate::id::{RequestId, ServerRequestId, parse_i64, parse_u64};
use crate::json::Span;
use crate::json::check::{self, Check, Name};
use crate::json::scan::{Members, skip_space, string_inner};
use crate::json::text::{decode_into, decoded, text};
use crate::routes::{LONGEST_ORDER, LONGEST_PARAM, param};

/// A checked line from a client. It refers to the line and to its [`Reader`].
#[derive(Debug, PartialEq, Eq)]
pub enum ClientMessage<'a, 'r> {
    /// A request. It gets exactly one response.
    Request {
        /// Its id, to be echoed.
        id: RequestId,
        /// Where the id is in the line.
        id_span: Span,
        /// The text of the method.
        method: Cow<'a, [u8]>,
        /// The parameters.
        params: Option<&'r Params>,
    },
    /// A notification.
    Notification {
        /// The text of the method.
        method: Cow<'a, [u8]>,
    },
    /// An answer to a server request. An answer whose id is malformed answers nothing and is a [`Rejection`].
    Answer {
        /// The id of the server request; `None` if it is a string, which no server request has.
        id: Option<ServerRequestId>,
        /// The value of `result.decision`, the answer to an approval.
        decision: Option<Span>,
    },
}

/// The parameters of a request, and where those are that codexd reads.
///
/// Parameters are given by name or by position; the upstream accepts both (measured).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params {
    /// The value of `params`.
    pub span: Span,
    named: Named,
    /// The values by position, cut off one above the longest order of any method.
    listed: Vec<Span>,
}

impl Params {
    /// Returns the value of a parameter. `order` lists the names of the method's parameters by position. If a name is
    /// given twice, the last value counts, as it does for the upstream.
    ///
    /// `name` must be in `routes::params`.
    pub fn get(&self, name: &str, order: &[&str]) -> Option<Span> {
        debug_assert!(param(name.as_bytes()).is_some(), "`{name}` is not in `routes::params`");
        if self.listed.is_empty() {
            return self.named.get(name);
        }
        let at = order.iter().position(|other| *other == name)?;
        self.listed.get(at).copied()
    }

    /// Returns whether more values are given by position than `order` has names.
    pub fn are_more_than(&self, order: &[&str]) -> bool {
        self.listed.len() > order.len()
    }
}

/// Parameters by their names. Most requests have few that codexd reads: these take no allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Named {
    few: [Option<(&'static str, Span)>; 3],
    more: Vec<(&'static str, Span)>,
}

impl Named {
    fn get(&self, name: &str) -> Option<Span> {
        let mut all = self.few.iter().flatten().chain(&self.more);
        all.find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// Sets a value, in place of an earlier one with the same name.
    fn set(&mut self, name: &'static str, value: Span) {
        for place in &mut self.few {
            match place {
                Some((known, _)) if *known != name => {}
                _ => return *place = Some((name, value)),
            }
        }
        match self.more.iter_mut().find(|(known, _)| *known == name) {
            Some((_, last)) => *last = value,
            None => self.more.push((name, value)),
        }
    }
}

/// Why a line from a client is not a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Rejection {
    /// It is not JSON.
    NotJson(check::Fault),
    /// It is JSON, but not a message.
    NotAMessage {
        /// What is wrong, as a sentence.
        what: &'static str,
        /// The id for the error response; `None` if the line has no valid id.
        id: Option<RequestId>,
    },
    /// It is an answer that the upstream cannot read. An answer gets no response, so it is dropped.
    BadAnswer,
}

/// Reads one message of a client: at once, or in slices, so that other clients can be served between the slices of a long
/// line. It contains the parameters that the message refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reader {
    check: Check,
    parts: Parts,
}

impl Reader {
    /// Reads a whole line. Returns `Ok(None)` for a blank one. The reader must be new.
    ///
    /// The upstream tries to parse a message as a request, a notification, a response and an error, in this order,
    /// and uses the first that fits (measured). It would parse a request with a malformed `trace` as a notification,
    /// and ignore it. Here that is still a request, and is rejected.
    ///
    /// # Errors
    /// A [`Rejection`] for every line that the upstream would drop without an answer.
    pub fn read<'a>(&mut self, line: &'a [u8]) -> Result<Option<ClientMessage<'a, '_>>, Rejection> {
        while !self.advance(line, line.len()) {}
        self.finish(line)
    }

    /// Reads about `bytes` more bytes of `line`, which must be the same in each call. Returns whether it is complete.
    pub fn advance(&mut self, line: &[u8], bytes: usize) -> bool {
        if self.check.is_new() {
            self.read_head(line);
        }
        self.check.advance(line, bytes, &mut self.parts)
    }

    /// Reads the members before `params` if they are spelled in the usual way, see [`head`].
    #[inline]
    fn read_head(&mut self, line: &[u8]) {
        if let Some(head) = head::read(line) {
            self.parts.id.add(head.id);
            self.parts.method.add(head.method);
            self.check.begin_at(head.end);
        }
    }

    /// Returns the message once the line is read to its end.
    ///
    /// # Errors
    /// As [`Reader::read`]. Before the end of the line, always.
    pub fn finish<'a>(&mut self, line: &'a [u8]) -> Result<Option<ClientMessage<'a, '_>>, Rejection> {
        if skip_space(line, 0) == line.len() {
            return Ok(None);
        }
        let Reader { check, parts } = self;
        let checked = check.result().map_err(Rejection::NotJson)?;
        let not = |what, id| Err(Rejection::NotAMessage { what, id });
        match line[checked.value.start] {
            b'{' => {}
            b'[' => return not("batches are not supported; send one object per line", None),
            _ => return not("a message is a JSON object", None),
        }
        let reserved = checked.reserved.is_some();
        let Parts { id, method, params, result, error, trace, .. } = *parts;
        let legal = id.once().and_then(|span| RequestId::from_json(span.of(line)));
        if !method.is_there() {
            if !result.is_there() && !error.is_there() {
                return not("neither a request, a notification nor an answer: `method` is missing", legal);
            }
            let readable =
                result.once().is_some() || error.once().is_some_and(|span| parts.is_error(line, span));
            return match legal {
                Some(id) if readable && !reserved => {
                    Ok(Some(ClientMessage::Answer { id: server_request_id(&id), decision: parts.decision }))
                }
                _ => Err(Rejection::BadAnswer),
            };
        }
        if id.is_there() && legal.is_none() {
            return not(wrong_id(id), None);
        }
        if method.twice || params.twice || (id.is_there() && trace.twice) {
            return not("a member of the message is given twice", legal);
        }
        let Some(method) = method.value.and_then(|span| method_text(line, span)) else {
            return not("`method` must be a string", legal);
        };
        if reserved {
            return not("an object begins with a name that is reserved for codex's own use of JSON", legal);
        }
        let (Some(id), Some(id_span)) = (legal, id.value) else {
            return Ok(Some(ClientMessage::Notification { method }));
        };
        if trace.value.is_some_and(|span| !parts.is_trace(line, span)) {
            let what = "`trace` must be an object with the strings `traceparent` and `tracestate`, or null";
            return not(what, Some(id));
        }
        let params = params.value.map(|span| {
            parts.given.span = span;
            if line[span.start] != b'[' {
                parts.given.listed.clear();
            }
            &parts.given
        });
        Ok(Some(ClientMessage::Request { id, id_span, method, params }))
    }
}

/// Bytes of a method name above which it is not decoded. No known method is that long, and decoding would take long.
const LONGEST_METHOD: usize = 4 << 10;

/// Returns the text of a method name; above [`LONGEST_METHOD`], as it is spelled in the line.
fn method_text(line: &[u8], value: Span) -> Option<Cow<'_, [u8]>> {
    if value.end - value.start <= LONGEST_METHOD {
        return text(line, value);
    }
    string_inner(line, value).map(|inner| inner.of(line).into())
}

/// Returns what is wrong with an id that is present and invalid.
fn wrong_id(id: Once) -> &'static str {
    match id.once() {
        None => "`id` is given twice",
        Some(span) if span.end - span.start > RequestId::MAX_BYTES => "`id` is longer than 64 KiB",
        Some(_) => "`id` must be a string or an integer of at most 64 bits",
    }
}

/// A member that must not be given twice. The upstream refuses that at the top level of a message; further down, the
/// last value counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Once {
    value: Option<Span>,
    twice: bool,
}

impl Once {
    fn add(&mut self, value: Span) {
        self.twice |= self.value.replace(value).is_some();
    }

    fn is_there(self) -> bool {
        self.value.is_some()
    }

    /// Returns the value, if it was given once.
    fn once(self) -> Option<Span> {
        self.value.filter(|_| !self.twice)
    }
}

/// Where the members of a client's message are, and the members inside them that codexd reads. Collected while the
/// message is checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Parts {
    id: Once,
    method: Once,
    params: Once,
    result: Once,
    error: Once,
    trace: Once,
    /// The member whose value is being checked.
    inside: Part,
    /// The parameters.
    given: Params,
    /// The first elements of `trace` and `error`, if they are arrays.
    trace_listed: Vec<Span>,
    error_listed: Vec<Span>,
    /// Members of `trace`, in the order of [`TRACE`].
    in_trace: [Once; TRACE.len()],
    /// Members of `error`, in the order of [`ERROR`].
    in_error: [Once; ERROR.len()],
    /// The last `decision` in `result`.
    decision: Option<Span>,
}

/// The members of `trace` that the upstream reads.
const TRACE: [&[u8]; 2] = [b"traceparent", b"tracestate"];

/// The members of `error` that the upstream reads, in its order.
const ERROR: [&[u8]; 3] = [b"code", b"data", b"message"];

/// A member of a message that the upstream reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    Id,
    Method,
    Params,
    Result,
    Error,
    Trace,
    #[default]
    Other,
}

impl check::Visitor for Parts {
    #[inline]
    fn enter(&mut self, line: &[u8], name: Name) {
        let part = |name: &[u8]| match name {
            b"id" => Some(Part::Id),
            b"method" => Some(Part::Method),
            b"params" => Some(Part::Params),
            b"result" => Some(Part::Result),
            b"error" => Some(Part::Error),
            b"trace" => Some(Part::Trace),
            _ => None,
        };
        self.inside = by_name(line, name, part).unwrap_or_default();
    }

    #[inline]
    fn member(&mut self, line: &[u8], depth: usize, name: Name, value: Span) {
        if depth == 1 {
            match self.inside {
                Part::Id => self.id.add(value),
                Part::Method => self.method.add(value),
                Part::Params => self.params.add(value),
                Part::Result => self.result.add(value),
                Part::Error => self.error.add(value),
                Part::Trace => self.trace.add(value),
                Part::Other => {}
            }
        } else {
            match self.inside {
                Part::Params => self.add_param(line, name, value),
                Part::Result => {
                    let is_it = |name: &[u8]| (name == b"decision").then_some(value);
                    self.decision = by_name(line, name, is_it).or(self.decision);
                }
                Part::Trace => {
                    let at = by_name(line, name, |name| TRACE.iter().position(|known| *known == name));
                    at.into_iter().for_each(|at| self.in_trace[at].add(value));
                }
                Part::Error => {
                    let at = by_name(line, name, |name| ERROR.iter().position(|known| *known == name));
                    at.into_iter().for_each(|at| self.in_error[at].add(value));
                }
                _ => {}
            }
        }
    }

    #[inline]
    fn element(&mut self, value: Span) {
        let list = match self.inside {
            Part::Params => &mut self.given.listed,
            Part::Trace => &mut self.trace_listed,
            Part::Error => &mut self.error_listed,
            _ => return,
        };
        if list.len() <= LONGEST_ORDER {
            list.push(value);
        }
    }
}

impl Parts {
    #[inline]
    fn add_param(&mut self, line: &[u8], name: Name, value: Span) {
        let Some(name) = by_name(line, name, param) else { return };
        self.given.named.set(name, value);
    }

    /// Returns whether the upstream can read `value` as a `trace`: at most two strings, by name or by position.
    fn is_trace(&self, line: &[u8], value: Span) -> bool {
        let fits = |value: Span| matches!(line[value.start], b'"' | b'n');
        match line[value.start] {
            b'n' => true,
            b'{' => self.in_trace.iter().all(|member| !member.twice && member.value.is_none_or(fits)),
            b'[' => self.trace_listed.len() <= TRACE.len() && self.trace_listed.iter().all(|v| fits(*v)),
            // The upstream's parser represents a number that does not fit into 64 bits as an object, and ignores that
            // object's member (measured).
            b'-' | b'0'..=b'9' => {
                let number = value.of(line);
                parse_i64(number).is_none() && parse_u64(number).is_none()
            }
            _ => false,
        }
    }

    /// Returns whether the upstream can read `value` as an `error`: a code and a message by name, or code, data and
    /// message by position.
    fn is_error(&self, line: &[u8], value: Span) -> bool {
        let [code, data, message] = self.in_error;
        let (code, message) = match line[value.start] {
            b'{' if !data.twice => (code.once(), message.once()),
            b'[' => match *self.error_listed {
                [code, _, message] => (Some(code), Some(message)),
                _ => return false,
            },
            _ => return false,
        };
        code.is_some_and(|code| parse_i64(code.of(line)).is_some())
            && message.is_some_and(|message| line[message.start] == b'"')
    }
}

/// Looks up the text of a name.
#[inline]
fn by_name<T>(line: &[u8], name: Name, find: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
    let spelled = name.span.of(line);
    if name.escaped { find(decode_into(spelled, &mut [0; LONGEST_PARAM])?) } else { find(spelled) }
}

/// A line from the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamMessage<'a> {
    /// The response to a request.
    Response {
        /// The request's id; `None` if codexd cannot have assigned it.
        id: Option<u64>,
        /// Where the id is in the line.
        id_span: Span,
        /// Whether it is an error response.
        failed: bool,
        /// The value of `result` or `error`.
        body: Span,
    },
    /// A notification.
    Notification {
        /// The text of the method.
        method: Cow<'a, [u8]>,
        /// Where `params` begins.
        params: Option<usize>,
    },
    /// A server request.
    Request {
        /// The text of the method.
        method: Cow<'a, [u8]>,
        /// Its id; `None` if that is not an integer.
        id: Option<ServerRequestId>,
        /// The parameters.
        params: Option<Span>,
    },
}

impl<'a> UpstreamMessage<'a> {
    /// Reads a line. Returns `None` if it is not a message; then the rest of the stream cannot be trusted.
    ///
    /// The usual forms are recognised by their first and last bytes. What is between these is not read.
    #[inline]
    pub fn read(line: &'a [u8]) -> Option<UpstreamMessage<'a>> {
        UpstreamMessage::read_usual(line).or_else(|| UpstreamMessage::read_whole(line))
    }

    /// Reads the usual forms: `{"method":...,"params":{...},"emittedAtMs":...}` with or without the last member, and
    /// `{"id":...,"result":...}`.
    #[inline]
    fn read_usual(line: &'a [u8]) -> Option<UpstreamMessage<'a>> {
        let inside = line.strip_suffix(b"}")?;
        if let Some(rest) = line.strip_prefix(b"{\"method\":\"") {
            let start = line.len() - rest.len();
            let end = start + memchr::memchr2(b'"', b'\\', rest)?;
            // With an `id` after `params` it is a request. So `params` must be last, or followed by the time alone.
            if !line[end..].starts_with(b"\",\"params\":{") || !ends_with_params(inside) {
                return None;
            }
            return Some(UpstreamMessage::Notification {
                method: Cow::Borrowed(&line[start..end]),
                params: Some(end + b"\",\"params\":".len()),
            });
        }
        let rest = line.strip_prefix(b"{\"id\":")?;
        let start = line.len() - rest.len();
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        let end = start + digits;
        if digits == 0 || !line[end..].starts_with(b",\"result\":") {
            return None;
        }
        let body = end + b",\"result\":".len();
        Some(UpstreamMessage::Response {
            id: parse_u64(&line[start..end]),
            id_span: Span { start, end },
            failed: false,
            body: Span { start: body, end: line.len() - 1 },
        })
    }

    fn read_whole(line: &'a [u8]) -> Option<UpstreamMessage<'a>> {
        let mut members = Members::new(line, 0);
        let (mut id, mut method, mut params, mut result, mut error) = (None, None, None, None, None);
        for member in members.by_ref() {
            let slot = |name: &[u8]| match name {
                b"id" => Some(0),
                b"method" => Some(1),
                b"params" => Some(2),
                b"result" => Some(3),
                b"error" => Some(4),
                _ => None,
            };
            match slot(&decoded(member.key.of(line))) {
                Some(0) => id = Some(member.value),
                Some(1) => method = Some(member.value),
                Some(2) => params = Some(member.value),
                Some(3) => result = Some(member.value),
                Some(4) => error = Some(member.value),
                _ => {}
            }
        }
        let end = members.end()?;
        if skip_space(line, end) != line.len() {
            return None;
        }
        let method = match method {
            Some(span) => Some(text(line, span)?),
            None => None,
        };
        match (method, id, result, error) {
            (Some(method), None, ..) => {
                Some(UpstreamMessage::Notification { method, params: params.map(|span| span.start) })
            }
            (Some(method), Some(id), ..) => {
                let id = RequestId::from_json(id.of(line)).as_ref().and_then(server_request_id);
                Some(UpstreamMessage::Request { method, id, params })
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

/// Returns whether the members of a message end with an object, or with `emittedAtMs` after an object. `inside` is the
/// message without its last brace.
#[inline]
fn ends_with_params(inside: &[u8]) -> bool {
    let digits = inside.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    let before = inside[..inside.len() - digits].strip_suffix(b",\"emittedAtMs\":").unwrap_or(inside);
    before.last() == Some(&b'}')
}

/// Returns the id of a server request. These ids are integers.
fn server_request_id(id: &RequestId) -> Option<ServerRequestId> {
    match id {
        RequestId::Number(n) => Some(ServerRequestId(*n)),
        RequestId::Text(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_bytes(line: &[u8]) -> Result<Option<ClientMessage<'_, 'static>>, Rejection> {
        // The parameters that a message refers to are in the reader.
        Box::leak(Box::<Reader>::default()).read(line)
    }

    fn read(line: &str) -> ClientMessage<'_, 'static> {
        match read_bytes(line.as_bytes()) {
            Ok(Some(message)) => message,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn rejected(line: &str) -> (&'static str, Option<RequestId>) {
        match read_bytes(line.as_bytes()) {
            Err(Rejection::NotAMessage { what, id }) => (what, id),
            other => panic!("{line}: {other:?}"),
        }
    }

    /// Whether a line is a request with the method `m`; else it must be refused with an answer.
    fn is_request(line: &str) -> bool {
        match read_bytes(line.as_bytes()) {
            Ok(Some(ClientMessage::Request { method, .. })) => {
                assert_eq!(*method, *b"m", "{line}");
                true
            }
            Err(Rejection::NotAMessage { .. }) => false,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn client_messages_are_told_apart() {
        assert!(matches!(
            read(r#" {"jsonrpc":"2.0","id":"x","method":"a/b","params":{},"other":1} "#),
            ClientMessage::Request { id: RequestId::Text(_), params: Some(_), .. }
        ));
        assert!(matches!(read(r#"{"method":"initialized"}"#), ClientMessage::Notification { .. }));
        assert_eq!(
            read(r#"{"id":3,"result":null}"#),
            ClientMessage::Answer { id: Some(ServerRequestId(3)), decision: None }
        );
        assert_eq!(read(r#"{"id":"3","result":{}}"#), ClientMessage::Answer { id: None, decision: None });
        assert_eq!(
            read(r#"{"error":{"code":-1,"message":"no"},"id":0}"#),
            ClientMessage::Answer { id: Some(ServerRequestId(0)), decision: None }
        );
        assert_eq!(read_bytes(b" \t\r").unwrap(), None);
    }

    #[test]
    fn names_and_methods_are_read_however_they_are_spelled() {
        let plain = read(r#"{"id":"a","method":"thread/start","params":{"threadId":"x","cwd":null}}"#);
        let line = r#"{"\u0069d":"\u0061","m\u0065thod":"thread\/start","param\u0073":{"thread\u0049d":"\u0078","\u0063wd":null}}"#;
        let spelled = read(line);
        let (
            ClientMessage::Request { id: a, method: m, params: Some(p), .. },
            ClientMessage::Request { id: b, method: n, params: Some(q), id_span },
        ) = (plain, spelled)
        else {
            panic!()
        };
        assert_eq!((a, &*m), (b.clone(), &*n));
        let given = |params: &Params, name| params.get(name, &[]);
        assert!(given(p, "threadId").is_some() && given(p, "cwd").is_some() && given(p, "path").is_none());
        assert_eq!(given(q, "threadId").map(|v| v.of(line.as_bytes())), Some(&br#""\u0078""#[..]));
        assert_eq!(given(q, "cwd").map(|v| v.of(line.as_bytes())), Some(&b"null"[..]));
        // What is echoed is what the client wrote.
        let mut echoed = Vec::new();
        b.write(&mut echoed);
        assert_eq!(
            (echoed.as_slice(), id_span.of(line.as_bytes())),
            (&br#""\u0061""#[..], &br#""\u0061""#[..])
        );
    }

    #[test]
    fn of_parameters_given_twice_the_last_counts() {
        let line = r#"{"id":1,"method":"m","params":{"threadId":"a","path":1,"thread\u0049d":"b","p\u0061th":null}}"#;
        let ClientMessage::Request { params: Some(params), .. } = read(line) else { panic!() };
        let get =
            |name: &str| params.get(name, &[]).map(|v| std::str::from_utf8(v.of(line.as_bytes())).unwrap());
        assert_eq!((get("threadId"), get("path"), get("history")), (Some(r#""b""#), Some("null"), None));
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
        assert_eq!(rejected(r#"{"id":1,"method":"m","m\u0065thod":"n"}"#).1, Some(RequestId::Number(1)));
        assert_eq!(rejected(r#"{"id":1,"method":"n","trace":7}"#).1, Some(RequestId::Number(1)));
        // Of two ids, neither is the request's.
        assert_eq!(rejected(r#"{"id":1,"\u0069d":1,"method":"m"}"#), ("`id` is given twice", None));
        assert!(matches!(read_bytes(b"{\"id\":1"), Err(Rejection::NotJson(_))));
        assert!(matches!(read_bytes(b"{\"a\":\"\xff\"}"), Err(Rejection::NotJson(_))));
    }

    /// What codex 0.169.0 and 0.142.2 answer and what they leave without an answer, found by experiment.
    #[test]
    fn a_request_is_what_the_upstream_takes_for_one() {
        for taken in [
            r#""trace":null"#,
            r#""trace":{}"#,
            r#""trace":{"traceparent":"x"}"#,
            r#""trace":{"traceparent":null,"tracestate":null}"#,
            r#""trace":{"trace\u0070arent":"x"}"#,
            r#""trace":{"x":1,"x":2,"traceParent":5,"trace_parent":5}"#,
            r#""trace":[]"#,
            r#""trace":["a"]"#,
            r#""trace":["a","b"]"#,
            r#""trace":[null,null]"#,
            r#""trace":1.0"#,
            r#""trace":-2e3"#,
            r#""trace":18446744073709551616"#,
            r#""result":5,"result":6,"error":5,"error":5"#,
            r#""jsonrpc":5,"jsonrpc":[]"#,
            r#""x":5,"x":6"#,
            r#""params":null"#,
            r#""params":5"#,
            r#""params":[{"$serde_json::private::Number2":1}]"#,
            r#""params":{"a":1,"$serde_json::private::Number":"x"}"#,
            r#""params":{"n":1e999}"#,
        ] {
            assert!(is_request(&format!(r#"{{"id":1,"method":"m",{taken}}}"#)), "{taken}");
        }
        for dropped in [
            r#""trace":7"#,
            r#""trace":-0"#,
            r#""trace":18446744073709551615"#,
            r#""trace":-9223372036854775808"#,
            r#""trace":"x""#,
            r#""trace":true"#,
            r#""trace":{"traceparent":5}"#,
            r#""trace":{"tracestate":true}"#,
            r#""trace":{"traceparent":{}}"#,
            r#""trace":{"trace\u0070arent":5}"#,
            r#""trace":{"traceparent":"a","traceparent":"a"}"#,
            r#""trace":{"traceparent":"a","trac\u0065parent":null}"#,
            r#""trace":["a","b","c"]"#,
            r#""trace":["a",5]"#,
            r#""trace":null,"trace":null"#,
            r#""trace":{},"tr\u0061ce":{}"#,
            r#""params":{},"params":{}"#,
            r#""method":"m""#,
            r#""id":1"#,
            r#""params":{"$serde_json::private::RawValue":"{}"}"#,
            r#""params":{"a":[{"$serde_json::private::Number":"x"}]}"#,
        ] {
            assert!(!is_request(&format!(r#"{{"id":1,"method":"m",{dropped}}}"#)), "{dropped}");
        }
        for id in [r#""""#, r#""\ud83d\ude00""#, "-0", "9223372036854775807", "-9223372036854775808"] {
            assert!(is_request(&format!(r#"{{"id":{id},"method":"m"}}"#)), "{id}");
        }
        for id in ["null", "1.0", "1e2", "9223372036854775808", "[1]", "{}", "true"] {
            assert!(!is_request(&format!(r#"{{"id":{id},"method":"m"}}"#)), "{id}");
        }
        let long = format!(r#"{{"id":"{}","method":"m"}}"#, "a".repeat(64 << 10));
        assert_eq!(rejected(&long), ("`id` is longer than 64 KiB", None));
    }

    #[test]
    fn a_notification_is_what_the_upstream_takes_for_one() {
        for taken in ["", r#","trace":5,"trace":6"#, r#","result":5"#, r#","params":5"#] {
            let line = format!(r#"{{"method":"m"{taken}}}"#);
            assert!(matches!(read(&line), ClientMessage::Notification { .. }), "{line}");
        }
        for dropped in
            [r#"{"method":5}"#, r#"{"method":"m","method":"m"}"#, r#"{"method":"m","params":1,"params":1}"#]
        {
            assert_eq!(rejected(dropped).1, None, "{dropped}");
        }
    }

    #[test]
    fn an_answer_is_what_the_upstream_takes_for_one() {
        for taken in [
            r#""result":null"#,
            r#""result":1,"params":1,"params":2,"trace":5,"trace":6"#,
            r#""result":1,"error":5"#,
            r#""result":1,"result":2,"error":{"code":-1,"message":"m"}"#,
            r#""error":{"code":-1,"message":"m"}"#,
            r#""error":{"code":-0,"message":"m","data":5}"#,
            r#""error":{"co\u0064e":-1,"message":"m","x":1,"x":2}"#,
            r#""\u0065rror":[-1,null,"m"]"#,
        ] {
            let line = format!(r#"{{"id":9,{taken}}}"#);
            assert_eq!(
                read(&line),
                ClientMessage::Answer { id: Some(ServerRequestId(9)), decision: None },
                "{line}"
            );
        }
        for dropped in [
            r#"{"result":{}}"#,
            r#"{"id":1.5,"result":{}}"#,
            r#"{"id":null,"result":{}}"#,
            r#"{"id":9,"id":9,"result":1}"#,
            r#"{"id":9,"result":1,"result":2}"#,
            r#"{"id":9,"result":{"$serde_json::private::RawValue":"{"}}"#,
            r#"{"id":9,"error":"x"}"#,
            r#"{"id":9,"error":null}"#,
            r#"{"id":9,"error":{"code":-1}}"#,
            r#"{"id":9,"error":{"message":"m"}}"#,
            r#"{"id":9,"error":{"code":-1,"message":null}}"#,
            r#"{"id":9,"error":{"code":1.0,"message":"m"}}"#,
            r#"{"id":9,"error":{"code":9223372036854775808,"message":"m"}}"#,
            r#"{"id":9,"error":{"code":-1,"code":-1,"message":"m"}}"#,
            r#"{"id":9,"error":{"code":-1,"message":"m","data":5,"d\u0061ta":6}}"#,
            r#"{"id":9,"error":[-1,"m"]}"#,
            r#"{"id":9,"error":[-1,"m",null]}"#,
            r#"{"id":9,"error":[-1,null,"m",1]}"#,
        ] {
            assert_eq!(read_bytes(dropped.as_bytes()), Err(Rejection::BadAnswer), "{dropped}");
        }
    }

    #[test]
    fn the_decision_of_an_answer_is_found_however_it_is_spelled() {
        let decision = |line: &str| match read(line) {
            ClientMessage::Answer { decision, .. } => {
                decision.map(|span| line[span.start..span.end].to_owned())
            }
            other => panic!("{other:?}"),
        };
        for (line, expected) in [
            (r#"{"id":1,"result":{"a":1,"decision":"accept"}}"#, Some("\"accept\"")),
            (r#"{"r\u0065sult":{"decision":1,"d\u0065cision":{"x":[]}},"id":1}"#, Some(r#"{"x":[]}"#)),
            (r#"{"id":1,"result":{"x":{"decision":1}},"other":{"decision":2}}"#, None),
            (r#"{"id":1,"result":["decision"]}"#, None),
        ] {
            assert_eq!(decision(line).as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn a_method_of_extraordinary_length_is_not_decoded() {
        let line = format!(r#"{{"id":1,"method":"{}"}}"#, r"\u0061".repeat(1000));
        let ClientMessage::Request { method, .. } = read(&line) else { panic!() };
        assert_eq!(*method, *r"\u0061".repeat(1000).as_bytes());
        let line = format!(r#"{{"id":1,"method":"{}"}}"#, r"\u0061".repeat(600));
        let ClientMessage::Request { method, .. } = read(&line) else { panic!() };
        assert_eq!(*method, [b'a'; 600]);
    }

    #[test]
    fn a_message_read_in_slices_is_the_same_and_none_before_its_end() {
        let line = r#"{"id":1,"method":"m","params":{"threadId":"\u0061","cwd":[1,2,3]},"trace":["a",null]}"#;
        for bytes in 1..line.len() {
            let mut reader = Reader::default();
            let mut slices = 0;
            while !reader.advance(line.as_bytes(), bytes) {
                assert!(reader.clone().finish(line.as_bytes()).is_err());
                slices += 1;
            }
            assert_eq!(reader.finish(line.as_bytes()), read_bytes(line.as_bytes()));
            assert!(slices + 1 >= (line.len() - 30) / bytes, "{bytes}: {slices}");
        }
    }

    #[test]
    fn the_short_way_reads_what_the_whole_way_reads() {
        for line in [
            r#"{"method":"turn/started","params":{"threadId":"t"},"emittedAtMs":5}"#,
            r#"{"method":"turn/started","params":{"threadId":"t"}}"#,
            r#"{"method":"turn/started","params":{"threadId":"t"},"new":5}"#,
            r#"{"method":"turn\/started","params":{"threadId":"t"},"emittedAtMs":5}"#,
            r#"{"m\u0065thod":"turn/started","\u0070arams":{"threadId":"t"},"emittedAtMs":5}"#,
            r#"{"emittedAtMs":5,"params":{"threadId":"t"},"method":"turn/started"}"#,
            r#"{"method":"item/tool/call","id":0,"params":{"threadId":"t"}}"#,
            r#"{"method":"item/tool/call","params":{"threadId":"t"},"id":0}"#,
            r#"{"method":"item/tool/call","params":{"threadId":"t"},"\u0069d":0}"#,
            r#"{"params":{"threadId":"t"},"id":0,"method":"item/tool/call"}"#,
            r#"{"id":17,"result":{"thread":{"id":"x"}}}"#,
            r#"{"result":{"thread":{"id":"x"}},"id":17}"#,
            r#"{"\u0069d":17,"r\u0065sult":{"thread":{"id":"x"}}}"#,
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
        // The usual ones go the short way.
        for line in [
            r#"{"method":"turn/started","params":{"threadId":"t"},"emittedAtMs":5}"#,
            r#"{"method":"turn/started","params":{"threadId":"t"}}"#,
            r#"{"id":17,"result":{"thread":{"id":"x"}}}"#,
        ] {
            assert!(UpstreamMessage::read_usual(line.as_bytes()).is_some(), "{line}");
        }
    }

    #[test]
    fn garbage_from_the_upstream_is_no_message() {
        for line in ["", "x", "{", "[]", "{}", "{\"id\":1}", "{\"method\":1}", "{\"id\":1,\"result\":{}} x"] {
            assert_eq!(UpstreamMessage::read(line.as_bytes()), None, "{line}");
        }
    }
}
