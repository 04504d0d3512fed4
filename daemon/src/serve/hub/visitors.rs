//! Connections beyond the number of clients: each is answered, and the pages of HTTP are for them, too.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::rc::{Rc, Weak};
use std::time::Duration;

use codexd_proto::core::Refusal;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Hub, SharedHub};
use crate::os::open_files::VISITORS;
use crate::serve::connection::Response;
use crate::serve::connection::visitor::{self, Wish};

/// How long a visitor may stay while others wait, and when the daemon stops.
const STAYS: Duration = Duration::from_millis(100);

/// The visitors that have not left, the oldest first.
///
/// There are few places: who says what it wants leaves within milliseconds. The oldest that does not has to leave
/// when one more wants in, so that nobody is kept out by those who say nothing.
#[derive(Default)]
pub(super) struct Visitors {
    present: VecDeque<Visitor>,
    left: Rc<Notify>,
}

struct Visitor {
    since: Instant,
    leave: CancellationToken,
    presence: Weak<Presence>,
}

/// Tells that a visitor has left when it is dropped.
struct Presence(Rc<Notify>);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Visitors {
    /// Completes when there is a place for one more.
    pub(super) async fn room(&mut self) {
        loop {
            self.present.retain(|visitor| visitor.presence.strong_count() > 0);
            let Some(oldest) = self.present.front().filter(|_| self.present.len() >= VISITORS) else {
                return;
            };
            let until = oldest.since + STAYS;
            if until <= Instant::now() {
                oldest.leave.cancel();
                self.present.pop_front();
                return;
            }
            tokio::select! {
                () = self.left.notified() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    /// Returns the task that serves one visitor.
    pub(super) fn serve(
        &mut self,
        hub: &SharedHub,
        stream: UnixStream,
        refusal: Refusal,
    ) -> impl Future<Output = ()> + use<> {
        let hub = hub.clone();
        let (leave, stopping) = (CancellationToken::new(), hub.borrow().accepting.clone());
        let presence = Rc::new(Presence(Rc::clone(&self.left)));
        self.present.push_back(Visitor {
            since: Instant::now(),
            leave: leave.clone(),
            presence: Rc::downgrade(&presence),
        });
        async move {
            let _presence = presence;
            let has_to_leave = async {
                tokio::select! {
                    () = leave.cancelled() => {}
                    () = async {
                        stopping.cancelled().await;
                        tokio::time::sleep(STAYS).await;
                    } => {}
                }
            };
            tokio::select! {
                () = answer(&hub, stream, &refusal) => {}
                () = has_to_leave => {}
            }
        }
    }
}

/// Gives a visitor what it wants, or says why it cannot.
async fn answer(hub: &SharedHub, stream: UnixStream, refusal: &Refusal) {
    // Whatever it wants, until that is known it is one that was refused.
    let mut counted = Refused { hub, refusal, page: false };
    let Ok(mut stream) = tokio::net::UnixStream::from_std(stream) else { return };
    let last = match visitor::wish(&mut stream, refusal).await {
        Wish::Page { path, head_only } => {
            counted.page = true;
            Response::to(&path, head_only, || hub.borrow().report()).into_bytes()
        }
        Wish::Client(answer) => answer,
    };
    drop(counted);
    visitor::end(stream, &last).await;
}

/// Counts a connection as refused when it is dropped, unless that was for a page.
struct Refused<'a> {
    hub: &'a SharedHub,
    refusal: &'a Refusal,
    page: bool,
}

impl Drop for Refused<'_> {
    fn drop(&mut self) {
        if !self.page {
            self.hub.borrow_mut().refused(self.refusal.message());
        }
    }
}

impl Hub {
    /// Counts a connection that was refused; the log has the first of many.
    pub(super) fn refused(&mut self, reason: &str) {
        self.refused += 1;
        if let Some(suppressed) = self.refusals.pass(self.now()) {
            tracing::warn!(reason, suppressed, "refused a client");
        }
    }
}
