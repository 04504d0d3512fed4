//! What is found of a line of which only the beginning is known.

use crate::id::ThreadId;
use crate::json::scan::{Members, skip_string};
use crate::json::text;
use crate::json::text::decoded;

/// See the [module's documentation](self).
pub(super) struct Head<'a> {
    /// The JSON text of its id.
    pub(super) id: Option<&'a [u8]>,
    /// The text of its method.
    pub(super) method: Option<Vec<u8>>,
    /// The first `threadId` in it, where codex writes it: before what can be long.
    pub(super) thread: Option<ThreadId>,
}

/// Reads the beginning of a line.
pub(super) fn head(start: &[u8]) -> Head<'_> {
    let mut head = Head { id: None, method: None, thread: thread(start) };
    for found in Members::new(start, 0) {
        if found.is(start, b"id") {
            head.id = Some(found.value.of(start));
        } else if found.is(start, b"method") {
            head.method = text(start, found.value).map(|text| text.into_owned());
        }
    }
    head
}

fn thread(start: &[u8]) -> Option<ThreadId> {
    const KEY: &[u8] = b"\"threadId\":";
    let at = memchr::memmem::find(start, KEY)? + KEY.len();
    let end = skip_string(start, at)?;
    (start.get(at) == Some(&b'"')).then(|| ThreadId::new(&decoded(&start[at + 1..end - 1])))
}
