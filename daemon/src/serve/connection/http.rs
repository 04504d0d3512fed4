//! Plain HTTP on a client's connection (RFC 9110, RFC 9112): one request, one answer.

use std::fmt::Write as _;

use codexd_proto::router::{Delivered, ErrorAnswer, PARSE_ERROR};
use codexd_proto::web_page::{browser_field, is_rebindable};
use tungstenite::handshake::server::{create_response, write_response};
use tungstenite::http::{self, HeaderName, Uri};

use super::metrics::{self, Measured};
use super::websocket;

/// Longest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// Most header fields of a request.
const MAX_HEADERS: usize = 64;

const PLAIN: &str = "text/plain; charset=utf-8";

/// The text format of OpenMetrics (specification 1.0, section "Negotiation").
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The header that states the longest frame a client can send, in bytes: as the native listener does.
const MAX_FRAME_HEADER: &str = "x-codex-websocket-max-unfragmented-message-bytes";

/// The head of a request while it arrives.
#[derive(Default)]
pub(crate) struct Head {
    bytes: Vec<u8>,
}

/// What a complete head asks for.
#[derive(Debug)]
pub(crate) enum Request {
    /// The connection becomes a WebSocket; this is the answer to write first.
    Upgrade(Vec<u8>),
    /// A page.
    Get {
        /// Path without the query.
        path: String,
        /// Only the head of the answer is wanted.
        head_only: bool,
    },
    /// Something that is answered with a refusal.
    Refused(Response),
    /// It is not HTTP, and was more likely meant to be JSON.
    Neither,
}

/// An answer. The connection is closed after it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response {
    status: u16,
    content_type: &'static str,
    /// One more header field with its line end, or nothing.
    field: &'static str,
    body: String,
    head_only: bool,
}

impl Head {
    /// Takes bytes from `chunk`, which is moved to the first byte after the head; `None` while the head
    /// is incomplete.
    pub(crate) fn read(&mut self, chunk: &mut &[u8]) -> Option<Request> {
        let before = self.bytes.len();
        // One byte above the limit shows that it is passed.
        let all = *chunk;
        let new = &all[..all.len().min(MAX_HEAD_BYTES + 1 - before)];
        self.bytes.extend_from_slice(new);
        *chunk = &[];
        // No head ends within a line; but the first bytes show what is no head at all.
        let parsed = if before == 0 || new.contains(&b'\n') { self.parse() } else { None };
        match parsed {
            Some((request, length)) => {
                // It ends in this chunk: before, it was incomplete.
                *chunk = all.get(length.saturating_sub(before)..).unwrap_or_default();
                Some(request)
            }
            None if self.bytes.len() > MAX_HEAD_BYTES => Some(Request::Refused(too_large())),
            None => None,
        }
    }

    /// Reads what is there; returns the request and the length of its head.
    fn parse(&self) -> Option<(Request, usize)> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut head = httparse::Request::new(&mut headers);
        match head.parse(&self.bytes) {
            Ok(httparse::Status::Complete(length)) => Some((understand(&head), length)),
            Ok(httparse::Status::Partial) => None,
            Err(httparse::Error::TooManyHeaders) => Some((Request::Refused(too_large()), self.bytes.len())),
            Err(error) => {
                // A method in use is written in capitals; no JSON text is.
                let request = match self.bytes.first() {
                    Some(first) if first.is_ascii_uppercase() => {
                        let why = format!("this is neither JSON nor HTTP: {error}");
                        Request::Refused(Response::text(400, &why))
                    }
                    _ => Request::Neither,
                };
                Some((request, self.bytes.len()))
            }
        }
    }
}

/// Says what a request wants. An upgrade can name any path and host, as with the native listener; unlike there, the
/// requests of web pages are refused.
fn understand(head: &httparse::Request<'_, '_>) -> Request {
    if let Some(field) = browser_field(head.headers.iter().map(|field| field.name)) {
        return Request::Refused(of_a_web_page(field));
    }
    let method = head.method.unwrap_or_default();
    if !matches!(method, "GET" | "HEAD") {
        let mut refused = Response::text(405, "only GET and HEAD are answered here");
        refused.field = "allow: GET, HEAD\r\n";
        return Request::Refused(refused);
    }
    let field = |name: &str| head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
    if method == "GET" && field("upgrade").is_some_and(|f| f.value.eq_ignore_ascii_case(b"websocket")) {
        return upgrade(head);
    }
    // An upgrade needs no such check: a browser never sends one without `Origin`.
    let hosts = || head.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("host"));
    if hosts().any(|host| is_rebindable(host.value)) {
        return Request::Refused(Response::text(
            403,
            "use an IP address or `localhost` as the host: a web page could make any other name resolve to it",
        ));
    }
    match head.path.unwrap_or_default().parse::<Uri>() {
        Ok(uri) => Request::Get { path: uri.path().to_owned(), head_only: method == "HEAD" },
        Err(_) => Request::Refused(Response::text(400, "the request has no path")),
    }
}

/// Answers the opening handshake of a WebSocket (RFC 6455, section 4.2).
fn upgrade(head: &httparse::Request<'_, '_>) -> Request {
    let mut request = http::Request::new(());
    if head.version == Some(0) {
        *request.version_mut() = http::Version::HTTP_10;
    }
    for field in head.headers.iter() {
        // A field that the handshake does not look at may hold what it wants.
        if let (Ok(name), Ok(value)) = (field.name.parse::<HeaderName>(), field.value.try_into()) {
            request.headers_mut().append(name, value);
        }
    }
    let mut answer = Vec::new();
    let written = create_response(&request).and_then(|mut response| {
        response
            .headers_mut()
            .insert(HeaderName::from_static(MAX_FRAME_HEADER), websocket::MAX_FRAME_BYTES.into());
        write_response(&mut answer, &response)
    });
    match written {
        Ok(()) => Request::Upgrade(answer),
        Err(error) => {
            let version = head.headers.iter().any(|field| {
                field.name.eq_ignore_ascii_case("sec-websocket-version") && field.value == b"13"
            });
            let mut refused = Response::text(if version { 400 } else { 426 }, &error.to_string());
            if !version {
                refused.field = "upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n";
            }
            Request::Refused(refused)
        }
    }
}

fn of_a_web_page(field: &str) -> Response {
    let field = field.to_ascii_lowercase();
    Response::text(
        403,
        &format!("web pages are not served: the request has `{field}`, which a program has to leave out"),
    )
}

fn too_large() -> Response {
    Response::text(431, &format!("the head of the request is longer than {MAX_HEAD_BYTES} bytes"))
}

impl Response {
    /// Answers the request for a page; `measured` is asked only for pages that need it.
    pub(crate) fn to(path: &str, head_only: bool, measured: impl FnOnce() -> Measured) -> Response {
        let mut response = match path {
            "/healthz" => Response::text(200, "ok"),
            "/readyz" => {
                let report = measured().report;
                Response::text(if report.ready { 200 } else { 503 }, report.state.word())
            }
            "/metrics" => Response {
                body: metrics::text(&measured()),
                content_type: OPEN_METRICS,
                ..Response::text(200, "")
            },
            _ => Response::text(404, "there are /healthz, /readyz and /metrics"),
        };
        response.head_only = head_only;
        response
    }

    /// Returns the answer to a head that does not end.
    pub(crate) fn timeout() -> Response {
        Response::text(408, "the request did not end in time")
    }

    /// Returns the answer to an upgrade above the number of clients.
    pub(crate) fn full(why: &str) -> Response {
        Response { field: "retry-after: 1\r\n", ..Response::text(503, why) }
    }

    /// Returns the answer of a port that serves nothing but pages.
    pub(crate) fn pages_only() -> Response {
        Response::text(400, "only GET and HEAD of /healthz, /readyz and /metrics are answered here")
    }

    /// Returns an answer with a line of text.
    fn text(status: u16, line: &str) -> Response {
        Response { status, content_type: PLAIN, field: "", body: format!("{line}\n"), head_only: false }
    }

    /// Returns the line that answers what is neither JSON nor HTTP.
    pub(crate) fn to_neither(generation: u64) -> Vec<u8> {
        let answer = ErrorAnswer {
            code: PARSE_ERROR,
            message: "the first line is neither a JSON object nor an HTTP request",
            reason: "parseError",
            delivered: Delivered::No,
            retryable: false,
        };
        let mut line = Vec::new();
        answer.write(&mut line, None, generation);
        line.push(b'\n');
        line
    }

    /// Returns the bytes of the answer.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        let reason = http::StatusCode::from_u16(self.status).ok().and_then(|code| code.canonical_reason());
        let mut text = format!("HTTP/1.1 {} {}\r\n", self.status, reason.unwrap_or_default());
        let _ = write!(
            text,
            "content-type: {}\r\ncontent-length: {}\r\n{}",
            self.content_type,
            self.body.len(),
            self.field
        );
        if !self.field.contains("connection:") {
            text.push_str("connection: close\r\n");
        }
        // A page must not run it as a script or embed it.
        text.push_str("x-content-type-options: nosniff\r\ncross-origin-resource-policy: same-origin\r\n");
        text.push_str("cache-control: no-store\r\n\r\n");
        if !self.head_only {
            text.push_str(&self.body);
        }
        text.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use codexd_proto::status::StatusReport;

    use super::*;

    /// Reads a stream that arrives in pieces of `size`; returns the request and what follows it.
    fn read(stream: &[u8], size: usize) -> (Option<Request>, Vec<u8>) {
        let mut head = Head::default();
        let mut request = None;
        let mut rest = Vec::new();
        for mut chunk in stream.chunks(size) {
            if request.is_none() {
                request = head.read(&mut chunk);
            }
            if request.is_some() {
                rest.extend_from_slice(chunk);
            }
        }
        (request, rest)
    }

    fn status(stream: &[u8]) -> u16 {
        match read(stream, 100_000).0 {
            Some(Request::Refused(response)) => response.status,
            other => panic!("{other:?}"),
        }
    }

    const UPGRADE: &str = "GET /any?thing HTTP/1.1\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: chat\r\n\r\n";

    #[test]
    fn an_upgrade_is_accepted_however_it_is_cut_and_what_follows_is_kept() {
        let stream = format!("{UPGRADE}after");
        for size in 1..=stream.len() {
            let (request, rest) = read(stream.as_bytes(), size);
            let Some(Request::Upgrade(answer)) = request else { panic!("{size}: {request:?}") };
            let answer = String::from_utf8(answer).unwrap().to_lowercase();
            assert!(answer.starts_with("http/1.1 101 switching protocols\r\n"), "{answer}");
            assert!(answer.ends_with("\r\n\r\n"), "{answer}");
            // The example of RFC 6455, section 1.3.
            assert!(answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{answer}");
            assert!(answer.contains("\r\nx-codex-websocket-max-unfragmented-message-bytes: 16777216\r\n"));
            assert!(!answer.contains("extensions") && !answer.contains("protocol:"), "{answer}");
            assert_eq!(rest, b"after", "{size}");
        }
    }

    #[test]
    fn a_bad_upgrade_is_refused() {
        assert_eq!(status(UPGRADE.replace(": 13", ": 8").as_bytes()), 426);
        assert_eq!(status(UPGRADE.replace("dGhl", "").as_bytes()), 400);
        assert_eq!(status(UPGRADE.replace("keep-alive, Upgrade", "close").as_bytes()), 400);
        assert_eq!(status(UPGRADE.replace("HTTP/1.1", "HTTP/1.0").as_bytes()), 400);
    }

    #[test]
    fn a_web_page_is_refused_whatever_it_asks_for() {
        let requests = [
            UPGRADE,
            "GET /healthz HTTP/1.1\r\nHost: localhost:8080\r\n\r\n",
            "HEAD /metrics HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}",
            "OPTIONS / HTTP/1.1\r\n\r\n",
            "patch / HTTP/1.1\r\n\r\n",
        ];
        for request in requests {
            for field in
                ["Origin: https://evil.example", "origin: null", "Sec-Fetch-Site: cross-site", "Cookie: a=b"]
            {
                let (line, rest) = request.split_once("\r\n").unwrap();
                let request = format!("{line}\r\n{field}\r\n{rest}");
                assert_eq!(status(request.as_bytes()), 403, "{request}");
                assert_eq!(
                    status(request.replace("\r\n\r\n", &format!("\r\n{field}\r\n\r\n")).as_bytes()),
                    403
                );
            }
        }
    }

    #[test]
    fn a_page_is_refused_for_a_host_that_can_be_rebound() {
        let get = |host: &str| read(format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes(), 9).0;
        assert!(matches!(get("rebound.example:9000"), Some(Request::Refused(Response { status: 403, .. }))));
        for host in ["codexd", "localhost:9000", "127.0.0.1:9000", "[::1]:9000"] {
            assert!(matches!(get(host), Some(Request::Get { .. })), "{host}");
        }
        let two = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: rebound.example\r\n\r\n";
        assert_eq!(status(two), 403);
        // A browser's upgrade has `Origin`, and programs reach a forwarded port by any name.
        let upgrade = UPGRADE.replacen("\r\n", "\r\nHost: build.example:9000\r\n", 1);
        assert!(matches!(read(upgrade.as_bytes(), 7).0, Some(Request::Upgrade(_))));
    }

    #[test]
    fn a_request_with_any_method_is_refused_and_its_body_is_not_read() {
        for method in ["post", "patch", "x", "0", "!#$%&'*+-.^_`|~", "POST"] {
            let stream = format!("{method} / HTTP/1.1\r\n\r\n{{\"id\":1,\"method\":\"initialize\"}}\n");
            for size in [1, 3, 1000] {
                let request = read(stream.as_bytes(), size).0;
                assert!(matches!(request, Some(Request::Refused(Response { status: 405, .. }))), "{method}");
            }
        }
    }

    #[test]
    fn what_is_neither_json_nor_http_is_recognized_as_early_as_possible() {
        for stream in
            [&b"\x16\x03\x01\x02\x00"[..], b"\xff", b"\"", b"\xef\xbb\xbf{}", b"hello\n", b"1\n", b"(\x00"]
        {
            for size in [1, 100] {
                assert!(matches!(read(stream, size).0, Some(Request::Neither)), "{stream:?}");
            }
        }
        let line = String::from_utf8(Response::to_neither(7)).unwrap();
        assert!(
            line.starts_with("{\"id\":null,\"error\":{\"code\":-32700,") && line.ends_with("}\n"),
            "{line}"
        );
    }

    #[test]
    fn a_page_is_asked_for_by_its_path() {
        for target in ["/healthz", "/healthz?x=1", "http://localhost/healthz"] {
            for method in ["GET", "HEAD"] {
                let request = read(format!("{method} {target} HTTP/1.0\n\n").as_bytes(), 5).0;
                let Some(Request::Get { path, head_only }) = request else { panic!("{request:?}") };
                assert_eq!((path.as_str(), head_only), ("/healthz", method == "HEAD"));
            }
        }
    }

    #[test]
    fn everything_else_is_refused() {
        assert_eq!(status(b"POST /healthz HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc"), 405);
        assert_eq!(status(b"HELLO\n"), 400);
        assert_eq!(status(b"GET \xff\xfe HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 400);
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_HEADERS + 1));
        assert_eq!(status(many.as_bytes()), 431);
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(MAX_HEAD_BYTES));
        assert_eq!(status(long.as_bytes()), 431);
        assert!(matches!(read(long.as_bytes(), 1000).0, Some(Request::Refused(_))));
        assert!(read(b"GET / HTTP/1.1\r\nhost: a\r\n", 100).0.is_none());
    }

    #[test]
    fn an_answer_says_how_long_it_is() {
        let bytes = Response::to("/healthz", false, || unreachable!()).into_bytes();
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.contains("\r\ncontent-length: 3\r\n") && text.contains("\r\nconnection: close\r\n"));
        assert!(text.ends_with("\r\n\r\nok\n"));
        let head = String::from_utf8(Response::to("/healthz", true, || unreachable!()).into_bytes()).unwrap();
        assert!(head.contains("content-length: 3\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    }

    #[test]
    fn readiness_follows_the_report() {
        let ready = Response::to("/readyz", false, || {
            let report = StatusReport { ready: true, ..StatusReport::default() };
            Measured { report, ..Measured::default() }
        });
        assert_eq!(ready.status, 200);
        let not = Response::to("/readyz", false, Measured::default);
        assert_eq!((not.status, not.body.as_str()), (503, "starting\n"));
    }
}
