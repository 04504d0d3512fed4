//! Bodies of the answers: one JSON value, or a stream of server-sent events that a script can cut.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::Response;
use hyper::body::Frame;
use hyper::header::CONTENT_TYPE;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// The body of any answer.
pub(super) enum Body {
    /// Known as a whole.
    Whole(Option<Bytes>),
    /// Events as they are made.
    Events {
        /// Where the events come from; its end is the end of the body.
        source: mpsc::Receiver<Part>,
        /// The connection is to be cut at the next poll.
        cut: bool,
    },
}

/// A part of a stream of events.
pub(super) enum Part {
    /// An event, ready to be sent.
    Event(Bytes),
    /// The connection breaks here, in the middle of the body.
    Cut,
}

/// The end of a stream into which events are put.
pub(super) struct Events(mpsc::Sender<Part>);

/// The connection ended as its script wanted.
#[derive(Debug)]
pub(super) struct CutByScript;

impl std::fmt::Display for CutByScript {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the script cuts the connection here")
    }
}

impl std::error::Error for CutByScript {}

impl Events {
    /// Sends one event; its type is also the name of the event.
    ///
    /// # Errors
    ///
    /// When the connection is closed.
    pub(super) async fn send(&self, event: &Value) -> Result<(), Gone> {
        let kind = event["type"].as_str().unwrap_or("message");
        let text = format!("event: {kind}\ndata: {event}\n\n");
        self.0.send(Part::Event(Bytes::from(text))).await.map_err(|_| Gone)
    }

    /// Breaks the connection after what was sent.
    pub(super) async fn cut(&self) -> Gone {
        let _ = self.0.send(Part::Cut).await;
        Gone
    }

    /// Waits until the connection is closed.
    pub(super) async fn gone(&self) -> Gone {
        self.0.closed().await;
        Gone
    }
}

/// The connection is closed: codex interrupted the turn, or the script cut it.
#[derive(Debug)]
pub(super) struct Gone;

/// Returns a response that streams events, and the end into which to put them.
pub(super) fn event_stream() -> (Events, Response<Body>) {
    let (sender, source) = mpsc::channel(1);
    let mut response = Response::new(Body::Events { source, cut: false });
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("text/event-stream"));
    (Events(sender), response)
}

/// Returns a response with a JSON body.
pub(super) fn json(status: u16, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::Whole(Some(Bytes::from(value.to_string()))));
    *response.status_mut() =
        hyper::StatusCode::from_u16(status).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    response
}

/// Returns an error in the shape of the API.
pub(super) fn error(status: u16, message: &str) -> Response<Body> {
    json(status, &json!({"error": {"message": message, "type": "mock_error", "code": null}}))
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = CutByScript;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutByScript>>> {
        match self.get_mut() {
            Body::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Body::Events { source, cut } => {
                if *cut {
                    return Poll::Ready(Some(Err(CutByScript)));
                }
                match ready!(source.poll_recv(context)) {
                    None => Poll::Ready(None),
                    Some(Part::Event(bytes)) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                    Some(Part::Cut) => {
                        // hyper throws its buffer away on an error, and empties it into the socket when
                        // the body has nothing to give: so the error comes one poll later.
                        *cut = true;
                        context.waker().wake_by_ref();
                        Poll::Pending
                    }
                }
            }
        }
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Body::Whole(bytes) => {
                hyper::body::SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Body::Events { .. } => hyper::body::SizeHint::default(),
        }
    }
}
