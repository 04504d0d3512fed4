//! Deltas that continue the text of the one before.
//!
//! # Theory of operation
//! While a turn writes, nearly every line is a delta that differs in its text only from the last one of the same thread. The
//! [open items](super::open_items) know that one: its line up to the text, and behind it. A line that begins and ends in the
//! same way names the same method, thread and item. So it goes to the same subscribers, and nothing else of it has to be
//! read: no method is looked up, and no parameter is searched for.
//!
//! Which thread's last delta that is, is found by where the id of the thread was in the last delta of any thread. A wrong
//! guess does no harm, since the whole beginning of the line is compared with that of the thread's own delta.

use super::Router;
use super::delivery::Topic;
use crate::routes::NotificationSet;

/// How the last delta of any thread began.
#[derive(Debug, Default)]
pub(super) struct LastDelta {
    /// Its line, up to the text of the thread's id.
    head: Vec<u8>,
    /// Bytes of that id.
    id_bytes: usize,
    /// Its method, by its bit in the routing table.
    method: NotificationSet,
}

impl LastDelta {
    /// Records a delta that was routed. `thread` is the text of its thread's id, which begins at `at` in the line if it is
    /// spelled as usual.
    pub(super) fn set(&mut self, line: &[u8], thread: &[u8], at: usize, topic: Topic<'_>) {
        if line.get(at..at + thread.len()) == Some(thread)
            && let Topic::Known(method) = topic
            && !(self.id_bytes == thread.len() && self.head.len() == at && line.starts_with(&self.head))
        {
            self.head.clear();
            self.head.extend_from_slice(&line[..at]);
            self.id_bytes = thread.len();
            self.method = method;
        }
    }

    /// Returns the bytes that are the thread's id if a line is another delta like the last one.
    #[inline]
    fn thread_in<'l>(&self, line: &'l [u8]) -> Option<&'l [u8]> {
        let at = self.head.len();
        let id = line.get(at..at + self.id_bytes)?;
        (at > 0 && line.starts_with(&self.head)).then_some(id)
    }
}

impl Router {
    /// Delivers a line from the upstream if it continues the text of its thread's last delta. Returns false and has done
    /// nothing if it does not, or if more has to be done about it.
    #[inline]
    pub(super) fn next_delta(&mut self, line: &[u8]) -> bool {
        let now = self.delivery.now();
        if let Some(thread) = self.last_delta.thread_in(line)
            && let Some((state, _)) = self.subscriptions.touch(thread, now)
            && !state.subscribers.is_empty()
            && state.open_items.append_next(line)
        {
            self.delivery.notify_each(&state.subscribers, Topic::Known(self.last_delta.method), line);
            return true;
        }
        false
    }
}
