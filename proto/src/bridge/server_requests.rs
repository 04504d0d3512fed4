//! Server requests that the client has and that are not resolved.
//!
//! Each codex counts its requests from 0. The client's ids go on counting where those of the last codex ended, so that no
//! answer reaches another request than the one it was meant for.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::id::{ServerRequestId, ThreadId, write_i64};
use crate::json::edit::Edits;
use crate::json::scan::{member, member_at};
use crate::json::text;
use crate::router::resolved;
use crate::routes::Routes;

/// Server requests that are kept at most: of more, the oldest are forgotten.
const MOST: usize = 4096;

#[derive(Debug)]
struct Open {
    /// The thread whose subscribers get the resolution.
    thread: Option<ThreadId>,
}

/// See the [module's documentation](self).
#[derive(Debug, Default)]
pub(super) struct ServerRequests {
    /// What is added to the ids of the daemon that serves now.
    base: i64,
    /// The first id that no server request had.
    next: i64,
    /// By the id that the client knows.
    open: BTreeMap<i64, Open>,
}

impl ServerRequests {
    /// Takes in a server request; returns the line for the client.
    pub(super) fn requested<'a>(
        &mut self,
        routes: &Routes,
        line: &'a [u8],
        method: &[u8],
        id: ServerRequestId,
    ) -> Cow<'a, [u8]> {
        let known = routes.server_request(method);
        let name = known.map_or("threadId", |known| known.thread);
        let thread = member_at(line, 0, &["params", name]).and_then(|value| text(line, value));
        let thread =
            thread.filter(|_| known.is_none_or(|known| known.resolved)).map(|text| ThreadId::new(&text));
        let own = self.base.saturating_add(id.0);
        self.next = self.next.max(own.saturating_add(1));
        self.open.insert(own, Open { thread });
        if self.open.len() > MOST {
            self.open.pop_first();
        }
        self.rewritten(line, &["id"], own)
    }

    /// Takes in the resolution of a server request; returns the line for the client.
    pub(super) fn resolved<'a>(&mut self, line: &'a [u8]) -> Cow<'a, [u8]> {
        let id = member_at(line, 0, &["params", "requestId"]);
        let Some(id) = id.and_then(|id| std::str::from_utf8(id.of(line)).ok()?.parse::<i64>().ok()) else {
            return Cow::Borrowed(line);
        };
        let own = self.base.saturating_add(id);
        self.open.remove(&own);
        self.rewritten(line, &["params", "requestId"], own)
    }

    /// Puts an id into a line, where it differs.
    fn rewritten<'a>(&self, line: &'a [u8], path: &[&str], id: i64) -> Cow<'a, [u8]> {
        match member_at(line, 0, path) {
            Some(span) if self.base != 0 => {
                let mut text = Vec::new();
                write_i64(&mut text, id);
                let mut edits = Edits::new();
                edits.replace_owned(span, text);
                let mut out = Vec::new();
                edits.write(line, &mut out);
                Cow::Owned(out)
            }
            _ => Cow::Borrowed(line),
        }
    }

    /// Takes in the client's answer; returns the line for the daemon, if it is one of its server requests.
    pub(super) fn answered(&mut self, line: Vec<u8>, id: Option<ServerRequestId>) -> Option<Vec<u8>> {
        let Some(ServerRequestId(own)) = id else { return Some(line) };
        // Without a resolution, there is nothing more to wait for.
        if self.open.get(&own).is_some_and(|open| open.thread.is_none()) {
            self.open.remove(&own);
        }
        if own < self.base {
            return None;
        }
        if self.base == 0 {
            return Some(line);
        }
        let mut text = Vec::new();
        write_i64(&mut text, own - self.base);
        let mut edits = Edits::new();
        edits.replace_owned(member(&line, 0, b"id")?, text);
        let mut out = Vec::new();
        edits.write(&line, &mut out);
        Some(out)
    }

    /// The daemon is lost: returns the resolutions, and counts on for the next one.
    pub(super) fn lost(&mut self) -> Vec<Vec<u8>> {
        self.base = self.next;
        let open = std::mem::take(&mut self.open).into_iter();
        open.filter_map(|(id, open)| Some(resolved(ServerRequestId(id), &open.thread?))).collect()
    }
}
