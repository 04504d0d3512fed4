//! Repeating the open items of a thread to a client that has resumed it.
//!
//! The client gets them after the response, before anything else of the thread: `item/started` and the deltas so far as
//! one. What the response shows is not repeated: nothing of an item that is complete there, and no `item/started` of one
//! that is open there. Deltas that follow continue the text.

use std::borrow::Cow;

use rustc_hash::FxHashMap;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::Router;
use super::super::delivery::Topic;
use super::{OpenItem, OpenItems, Part};
use crate::id::{ClientId, ThreadId, write_u64};
use crate::json::edit::write_string;
use crate::json::scan::member;
use crate::json::{Span, text};

/// What a response shows of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// That it has begun, without its text.
    Open,
    /// Everything.
    Whole,
}

/// A notification that is written again.
#[derive(Debug)]
pub(in crate::router) struct Repeated {
    method: &'static str,
    line: Vec<u8>,
}

impl Router {
    /// Returns what a client gets after the response to its resume, which is `body` of `line`. Must be called before
    /// the client is subscribed.
    ///
    /// A client that is subscribed already has got all of it.
    pub(in crate::router) fn open_items_for(
        &mut self,
        client: ClientId,
        line: &[u8],
        body: Span,
    ) -> Vec<Repeated> {
        let Some(thread) = member(line, body.start, b"thread") else { return Vec::new() };
        let Some(id) = member(line, thread.start, b"id").and_then(|id| text(line, id)) else {
            return Vec::new();
        };
        let id = ThreadId::new(&id);
        // The client does not get these, so they belong to what is repeated.
        self.release_leftovers(&id);
        if self.subscriptions.is_subscribed(client, &id) {
            return Vec::new();
        }
        let generation = self.config.identity.generation;
        let state = self.subscriptions.get(id.as_bytes());
        state.map_or_else(Vec::new, |state| state.open_items.lines(thread.of(line), generation))
    }

    /// Sends a client what is repeated.
    pub(in crate::router) fn repeat(&mut self, client: ClientId, repeated: Vec<Repeated>) {
        for Repeated { method, line } in repeated {
            let topic = match self.routes.notification(method.as_bytes()) {
                Some((_, bit)) => Topic::Known(bit),
                None => Topic::Unknown(method.as_bytes()),
            };
            self.delivery.notify(client, topic, &line);
        }
    }
}

impl OpenItems {
    /// Writes what a response with this `thread` object does not show.
    fn lines(&self, thread: &[u8], generation: u64) -> Vec<Repeated> {
        if self.items.is_empty() {
            return Vec::new();
        }
        let shown = shown(thread);
        let mut lines = Vec::new();
        for item in &self.items {
            match shown.get(&*item.id) {
                Some(Shown::Whole) => continue,
                Some(Shown::Open) => {}
                None => lines.push(item.line(generation)),
            }
            let parts = self.parts.iter().filter(|part| part.item == item.id);
            lines.extend(parts.map(|part| part.line(generation)));
        }
        lines
    }
}

impl OpenItem {
    fn line(&self, generation: u64) -> Repeated {
        let method = "item/started";
        let mut line = begin(method);
        line.extend_from_slice(&self.started);
        finish(&mut line, generation, 0);
        Repeated { method, line }
    }
}

impl Part {
    fn line(&self, generation: u64) -> Repeated {
        let mut line = begin(self.method);
        line.reserve(self.text_bytes() + self.before.len() + self.after.len() + 128);
        line.extend_from_slice(&self.before[self.params..]);
        for chunk in &self.earlier {
            line.extend_from_slice(chunk);
        }
        line.extend_from_slice(&self.last);
        if self.is_text {
            line.push(b'"');
        }
        line.extend_from_slice(&self.after);
        finish(&mut line, generation, self.cut);
        Repeated { method: self.method, line }
    }
}

fn begin(method: &str) -> Vec<u8> {
    let mut line = b"{\"method\":".to_vec();
    write_string(&mut line, method);
    line.extend_from_slice(b",\"params\":");
    line
}

/// Ends the notification, with codexd's mark. `cut` is how many bytes of the text are missing at its beginning.
fn finish(line: &mut Vec<u8>, generation: u64, cut: usize) {
    line.extend_from_slice(b",\"codexd\":{\"synthetic\":true,\"reason\":\"resumed\",\"generation\":");
    write_u64(line, generation);
    if cut > 0 {
        line.extend_from_slice(b",\"cutBytes\":");
        write_u64(line, cut as u64);
    }
    line.extend_from_slice(b"}}}");
}

/// Returns what a thread object shows of its items, by their ids.
fn shown(thread: &[u8]) -> FxHashMap<Box<[u8]>, Shown> {
    #[derive(Deserialize)]
    struct Thread<'a> {
        #[serde(borrow, default)]
        turns: Vec<Turn<'a>>,
    }
    #[derive(Deserialize)]
    struct Turn<'a> {
        #[serde(borrow, default)]
        items: Vec<Item<'a>>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Item<'a> {
        #[serde(borrow)]
        id: Cow<'a, str>,
        #[serde(borrow, default)]
        status: Option<&'a RawValue>,
        #[serde(borrow, default)]
        aggregated_output: Option<&'a RawValue>,
    }
    let thread: Thread<'_> = serde_json::from_slice(thread).unwrap_or(Thread { turns: Vec::new() });
    let items = thread.turns.into_iter().flat_map(|turn| turn.items);
    let items = items.map(|item| {
        let is_open = item.status.is_some_and(|status| status.get() == "\"inProgress\"");
        let has_text = item.aggregated_output.is_some_and(|output| !matches!(output.get(), "null" | "\"\""));
        let shown = if is_open && !has_text { Shown::Open } else { Shown::Whole };
        (item.id.as_bytes().into(), shown)
    });
    items.collect()
}
