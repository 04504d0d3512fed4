//! Connections above the number of clients: each gets a response, and the pages of HTTP are answered there, too.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::rc::{Rc, Weak};
use std::time::Duration;

use codexd_proto::core::Refusal;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Hub, SharedHub};
use crate::os::open_files::EXCESS_CONNECTIONS;
use crate::serve::connection::Response;
use crate::serve::connection::excess::{self, Outcome};

/// Time that such a connection has at least while others wait for its slot, and when the daemon stops.
const LEAST: Duration = Duration::from_millis(100);

/// The connections above the number of clients, the oldest first.
///
/// They are few: one that sends its request is done within milliseconds. When another one waits, the oldest that has
/// not sent one is closed, so that silent connections do not keep others from their response.
#[derive(Default)]
pub(super) struct ExcessConnections {
    open: VecDeque<Excess>,
    closed: Rc<Notify>,
}

struct Excess {
    since: Instant,
    close: CancellationToken,
    open: Weak<Open>,
}

/// Reports the end of its connection when it is dropped.
struct Open(Rc<Notify>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl ExcessConnections {
    /// Completes when one more can be accepted.
    pub(super) async fn free(&mut self) {
        loop {
            self.open.retain(|connection| connection.open.strong_count() > 0);
            let full = self.open.len() >= EXCESS_CONNECTIONS;
            let Some(oldest) = self.open.front().filter(|_| full) else { return };
            let until = oldest.since + LEAST;
            if until <= Instant::now() {
                oldest.close.cancel();
                self.open.pop_front();
                return;
            }
            tokio::select! {
                () = self.closed.notified() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    /// Returns the task that serves one such connection.
    pub(super) fn serve(
        &mut self,
        hub: &SharedHub,
        stream: UnixStream,
        refusal: Refusal,
    ) -> impl Future<Output = ()> + use<> {
        let hub = hub.clone();
        let (close, stopping) = (CancellationToken::new(), hub.borrow().accepting.clone());
        let open = Rc::new(Open(Rc::clone(&self.closed)));
        self.open.push_back(Excess {
            since: Instant::now(),
            close: close.clone(),
            open: Rc::downgrade(&open),
        });
        async move {
            let _open = open;
            let stopped = async {
                stopping.cancelled().await;
                tokio::time::sleep(LEAST).await;
            };
            tokio::select! {
                () = respond(&hub, stream, &refusal) => {}
                () = close.cancelled() => {}
                () = stopped => {}
            }
        }
    }
}

/// Answers the request of such a connection.
async fn respond(hub: &SharedHub, stream: UnixStream, refusal: &Refusal) {
    // Counts as refused until it proves to be a request for a page.
    let mut count = CountRefused { hub, refusal, page: false };
    let Ok(mut stream) = tokio::net::UnixStream::from_std(stream) else { return };
    let response = match excess::read_request(&mut stream, refusal).await {
        Outcome::Page { path, head_only } => {
            count.page = true;
            Response::to(&path, head_only, || hub.borrow().measured()).into_bytes()
        }
        Outcome::Refused(response) => response,
    };
    drop(count);
    excess::finish(stream, &response).await;
}

/// Counts a connection as refused when it is dropped, unless that was for a page.
struct CountRefused<'a> {
    hub: &'a SharedHub,
    refusal: &'a Refusal,
    page: bool,
}

impl Drop for CountRefused<'_> {
    fn drop(&mut self) {
        if !self.page {
            self.hub.borrow_mut().count_refused(self.refusal);
        }
    }
}

impl Hub {
    /// Counts a connection that was refused; the log has the first of many.
    fn count_refused(&mut self, refusal: &Refusal) {
        self.refused += 1;
        if let Some(suppressed) = self.refusals.pass(self.now()) {
            tracing::warn!(reason = refusal.message(), suppressed, "refused a client");
        }
    }
}
