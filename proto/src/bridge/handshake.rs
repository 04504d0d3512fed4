//! The handshake of the client, to be repeated to each daemon; and what the client wants to see.

use std::collections::BTreeSet;
use std::hash::{Hash as _, Hasher as _};

use rustc_hash::FxHasher;
use serde_json::Value;

use super::queue::Entry;
use super::requests::Id;
use crate::json::Span;
use crate::json::scan::member_at;

/// Notifications of a start that are remembered at most.
const MOST_STICKY: usize = 64;

/// Where the handshake with the daemon is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// The client has not sent `initialize`.
    #[default]
    None,
    /// The response is pending, and the client waits for it.
    Asked,
    /// The response to a repeated `initialize` is pending; the client does not know of the repetition.
    Repeated,
    /// The response has come.
    Done,
}

/// See the [module's documentation](self).
#[derive(Debug, Default)]
pub(super) struct Handshake {
    pub(super) stage: Stage,
    /// The client's `initialize`, with its line feed, its id and its place among the client's requests.
    initialize: Option<(Vec<u8>, Id, u64)>,
    /// The client's `initialized`.
    initialized: Option<Vec<u8>>,
    opt_outs: BTreeSet<Vec<u8>>,
    /// Whether the client has asked for experimental methods.
    pub(super) is_experimental: bool,
    /// Hashes of the notifications of a start that the client has.
    sticky: Vec<u64>,
    /// Whether a daemon has served this client before the one that does now.
    moved: bool,
}

impl Handshake {
    /// The client has sent its `initialize`.
    pub(super) fn begin(&mut self, line: Vec<u8>, id: Id, place: u64, capabilities: Option<Span>) {
        let capabilities: Value =
            capabilities.and_then(|span| serde_json::from_slice(span.of(&line)).ok()).unwrap_or_default();
        let methods = capabilities["optOutNotificationMethods"].as_array().into_iter().flatten();
        self.opt_outs = methods.filter_map(|method| Some(method.as_str()?.as_bytes().to_vec())).collect();
        self.is_experimental = capabilities["experimentalApi"] == true;
        self.initialize = Some((line, id, place));
        self.stage = Stage::Asked;
    }

    /// The client has sent its `initialized`.
    pub(super) fn finish(&mut self, line: Vec<u8>) {
        self.initialized = Some(line);
    }

    /// Whether the response to `initialize` is pending.
    pub(super) fn is_pending(&self) -> bool {
        matches!(self.stage, Stage::Asked | Stage::Repeated)
    }

    /// Whether a response, given the JSON text of its id, is the pending one to `initialize`.
    pub(super) fn is_answer(&self, spelled: &[u8]) -> bool {
        let id = self.initialize.as_ref().filter(|_| self.is_pending()).map(|(_, id, _)| id);
        id.is_some_and(|own| Id::read(spelled).is_some_and(|id| id == *own))
    }

    /// Returns the place of the `initialize` for whose answer the client waits.
    pub(super) fn awaited(&self) -> Option<u64> {
        self.initialize.as_ref().filter(|_| self.stage == Stage::Asked).map(|(_, _, place)| *place)
    }

    /// The client is not initialized, and may try again in other words.
    pub(super) fn reset(&mut self) {
        self.stage = Stage::None;
        self.initialize = None;
    }

    /// Returns what the next daemon gets first.
    pub(super) fn repeat(&mut self) -> Vec<Entry> {
        let Some((line, ..)) = &self.initialize else { return Vec::new() };
        let mut entries = vec![Entry::Handshake { line: line.clone(), initialize: true }];
        entries.extend(self.initialized.clone().map(|line| Entry::Handshake { line, initialize: false }));
        if self.stage != Stage::Asked {
            self.stage = Stage::Repeated;
            self.moved = true;
        }
        entries
    }

    /// Whether the client sees notifications with this method.
    pub(super) fn wants(&self, method: &str) -> bool {
        !self.opt_outs.contains(method.as_bytes())
    }

    /// Takes in a notification that each daemon sends after the handshake; returns whether the client has it already.
    pub(super) fn has_sticky(&mut self, method: &[u8], line: &[u8]) -> bool {
        if !matches!(method, b"configWarning" | b"remoteControl/status/changed") {
            return false;
        }
        let mut hasher = FxHasher::default();
        method.hash(&mut hasher);
        member_at(line, 0, &["params"]).map(|params| params.of(line)).hash(&mut hasher);
        let hash = hasher.finish();
        let known = self.sticky.contains(&hash);
        if !known && self.sticky.len() < MOST_STICKY {
            self.sticky.push(hash);
        }
        known && self.moved
    }
}
