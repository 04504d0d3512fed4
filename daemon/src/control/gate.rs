//! The check of every HTTP request on the control socket: requests of web pages are refused, others get the slot of
//! their connection.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use codexd_proto::web_page::browser_field;
use jsonrpsee::core::BoxError;
use jsonrpsee::server::{HttpBody, HttpRequest, HttpResponse};
use tower_service::Service;

use super::slots::Slot;

/// The HTTP status of a refused request (RFC 9110, section 15.5.4).
const FORBIDDEN: u16 = 403;

/// The service of one connection, with the check before it.
#[derive(Clone)]
pub(super) struct Gate<S> {
    inner: S,
    slot: Arc<Slot>,
}

impl<S> Gate<S> {
    /// Wraps the service that answers.
    pub(super) fn before(inner: S, slot: Arc<Slot>) -> Gate<S> {
        Gate { inner, slot }
    }
}

impl<S, B> Service<HttpRequest<B>> for Gate<S>
where
    S: Service<HttpRequest<B>, Response = HttpResponse, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = HttpResponse;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: HttpRequest<B>) -> Self::Future {
        if let Some(field) = browser_field(request.headers().keys().map(|name| name.as_str())) {
            tracing::warn!(field, "refused a request of a web page on the control socket");
            let mut refused = HttpResponse::new(HttpBody::from("web pages are not served\n"));
            if let Ok(status) = FORBIDDEN.try_into() {
                *refused.status_mut() = status;
            }
            return Box::pin(std::future::ready(Ok(refused)));
        }
        request.extensions_mut().insert(Arc::clone(&self.slot));
        Box::pin(self.inner.call(request))
    }
}
