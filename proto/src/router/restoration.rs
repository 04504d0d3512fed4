//! Permissions of threads that are resumed in a new codex.
//!
//! # Theory of operation
//! A resume by id alone changes a thread's sandbox, see [`thread_book`]. So, for a thread that an
//! earlier codex had loaded:
//!
//! 1. The resume gets the `sandbox` of the book, unless the client gives permissions itself. Those have precedence.
//! 2. The permissions in the response are compared with the book. If they differ, codexd sends
//!    `thread/settings/update` with the exact policies.
//! 3. Until then, all clients' requests about the thread wait, so that no turn starts with other permissions.
//! 4. If the permissions cannot be restored, requests that start work on the thread are refused with the reason, unless
//!    they give a sandbox policy themselves.
//!
//! A resume by `path` or with `history` names its thread in the response: codex ignores its `threadId` unless that thread
//! is loaded (measured with 0.169; `history` makes a new thread). Codex names the file of a thread after it, so a resume by
//! `path` gets the `sandbox` of the thread that the file's name says. Until the response has come, requests about all
//! threads of an earlier codex wait, since any of them may be the one. If the response names another thread than the file,
//! and nothing is known of it, its permissions count as not restored: they may be those of the other thread.
//!
//! A turn on a thread that was not resumed is refused as codex refuses it: in a queue, a resume could overtake it.
//!
//! Threads that this codex itself has unloaded are resumed without a change.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::answer::{Delivered, ErrorAnswer, INVALID_REQUEST};
use super::pacing::{PendingKind, Unnamed};
use super::params::Params;
use super::request::{Incoming, QUEUE_FULL};
use super::{Action, Router};
use crate::id::{ClientId, ThreadId};
use crate::json::Span;
use crate::json::edit::Edits;
use crate::json::scan::{Members, member, member_at};
use crate::json::text::decoded;
use crate::routes::{Request, RequestEffect};
use crate::thread_book::{self, Permissions, ThreadBook};

/// Parameters of a resume with which its client gives permissions.
const PERMISSIONS: [&str; 2] = ["sandbox", "permissions"];

/// See the [module's documentation](self).
#[derive(Debug, Default)]
pub(super) struct Restoration {
    book: ThreadBook,
    open: BTreeMap<ThreadId, Open>,
    /// Threads whose permissions could not be restored.
    failed: BTreeMap<ThreadId, Failed>,
    /// Resumes without a response whose thread only the response says.
    unnamed: usize,
    /// Requests that wait for those resumes, and the threads that they are about: such of an earlier codex.
    waiting: Waiting,
    threads_of_waiting: BTreeSet<ThreadId>,
}

/// Requests that wait, with their clients.
type Waiting = Vec<(ClientId, Box<[u8]>)>;

/// A thread that is being resumed.
#[derive(Debug)]
struct Open {
    wanted: Permissions,
    waiting: Waiting,
}

/// A thread whose permissions could not be restored.
#[derive(Debug)]
struct Failed {
    /// Its present sandbox policy.
    actual: Value,
    /// The upstream's reason.
    reason: String,
}

impl Restoration {
    pub(super) fn new(book: ThreadBook) -> Restoration {
        Restoration { book, ..Restoration::default() }
    }

    fn all_waiting(&self) -> impl Iterator<Item = &(ClientId, Box<[u8]>)> {
        self.open.values().flat_map(|open| &open.waiting).chain(&self.waiting)
    }

    /// Returns how many requests of a client wait, and their bytes.
    fn waiting_of(&self, client: ClientId) -> (usize, usize) {
        let lines = self.all_waiting().filter(|(whose, _)| *whose == client);
        lines.fold((0, 0), |(count, bytes), (_, line)| (count + 1, bytes + line.len()))
    }

    /// Returns where a request about a thread has to wait; `None` if it need not.
    fn place_to_wait(&mut self, thread: &ThreadId) -> Option<&mut Waiting> {
        // Requests about a thread stay in their order, also if it is not one of an earlier codex any more.
        if self.threads_of_waiting.contains(thread) {
            return Some(&mut self.waiting);
        }
        match self.open.get_mut(thread) {
            Some(open) => Some(&mut open.waiting),
            None if self.unnamed > 0 && self.book.of_earlier_codex(thread).is_some() => {
                self.threads_of_waiting.insert(thread.clone());
                Some(&mut self.waiting)
            }
            None => None,
        }
    }

    /// Removes the requests of a client that has disconnected.
    pub(super) fn forget_client(&mut self, client: ClientId) {
        let all = self.open.values_mut().map(|open| &mut open.waiting).chain([&mut self.waiting]);
        for waiting in all {
            waiting.retain(|(whose, _)| *whose != client);
        }
    }

    /// Returns whether requests of a client wait.
    pub(super) fn has_waiting(&self, client: ClientId) -> bool {
        self.all_waiting().any(|(whose, _)| *whose == client)
    }

    /// Returns how many requests wait.
    pub(super) fn waiting(&self) -> usize {
        self.all_waiting().count()
    }

    /// Removes all waiting requests when the upstream is lost.
    pub(super) fn take_waiting(&mut self) -> Waiting {
        self.unnamed = 0;
        self.threads_of_waiting.clear();
        let others = std::mem::take(&mut self.waiting);
        std::mem::take(&mut self.open).into_values().flat_map(|open| open.waiting).chain(others).collect()
    }
}

impl Router {
    /// Returns the permissions of the threads of this daemon.
    pub fn thread_book(&self) -> &ThreadBook {
        &self.restoration.book
    }

    /// Makes a request wait if its thread is being restored, and refuses it if that has failed. Returns the request
    /// if it can be handled.
    pub(super) fn after_restoration<'a>(
        &mut self,
        incoming: Incoming<'a>,
        known: Option<&Request>,
    ) -> Option<Incoming<'a>> {
        let restoration = &self.restoration;
        let Some(known) = known else { return Some(incoming) };
        let starts_turn = matches!(known.effect, RequestEffect::StartTurn | RequestEffect::StartReview);
        let is_usual =
            restoration.open.is_empty() && restoration.failed.is_empty() && restoration.unnamed == 0;
        if is_usual && (!starts_turn || restoration.book.is_empty()) {
            return Some(incoming);
        }
        let params = incoming.params(known);
        let Some(thread) = params.and_then(|params| params.thread(known)) else { return Some(incoming) };
        let (lines, bytes) = restoration.waiting_of(incoming.client);
        if let Some(waiting) = self.restoration.place_to_wait(&thread) {
            let limits = &self.config.limits;
            if lines >= limits.queued_requests_per_client
                || bytes + incoming.line.len() > limits.queued_request_bytes_per_client
            {
                self.refuse(incoming.client, Some(&incoming.id), &QUEUE_FULL);
            } else {
                waiting.push((incoming.client, incoming.line.into()));
            }
            return None;
        }
        // Codex would say so, unless a resume overtakes it on its way there: then the turn would start before the permissions
        // are restored.
        if starts_turn
            && self.restoration.book.of_earlier_codex(&thread).is_some()
            && !self.subscriptions.is_loaded(&thread)
        {
            let message = format!("thread not found: {thread}");
            self.refuse_native(incoming.client, &incoming.id, &message);
            return None;
        }
        let brings_own =
            |name| params.and_then(|params| params.json(name)).is_some_and(|json| json != b"null");
        match self.restoration.failed.get(&thread) {
            Some(failed) if known.work && !brings_own("sandboxPolicy") && !brings_own("permissions") => {
                let message = format!(
                    "codex was restarted, and the permissions that this thread had before could not be restored ({}); \
                     set its sandbox policy with thread/settings/update first, or give one with the turn (`sandboxPolicy`)",
                    failed.reason
                );
                let answer = ErrorAnswer {
                    code: INVALID_REQUEST,
                    message: &message,
                    reason: "permissionsNotRestored",
                    delivered: Delivered::No,
                    retryable: false,
                };
                self.refuse(incoming.client, Some(&incoming.id), &answer);
                None
            }
            _ => Some(incoming),
        }
    }

    /// Sends a resume with the permissions that the thread had in an earlier codex.
    pub(super) fn resume(&mut self, incoming: Incoming<'_>, mut kind: PendingKind, known: &'static Request) {
        let given = incoming.params(known).is_some_and(|params| gives_permissions(params, &incoming.line));
        if let PendingKind::Resume { gives, .. } = &mut kind {
            *gives = given;
        }
        let params = incoming.params(known).filter(|_| !given);
        let book = &self.restoration.book;
        let mut edits = Edits::new();
        let mut open = None;
        let mut is_unnamed = false;
        match (&mut kind, params) {
            (PendingKind::Resume { target: Some(thread), unnamed: None, .. }, Some(params)) => {
                if let Some(wanted) = book.of_earlier_codex(thread) {
                    if let Some(mode) = wanted.sandbox_mode() {
                        put_sandbox(&mut edits, params, mode);
                    }
                    open = Some((thread.clone(), wanted.clone()));
                }
            }
            (PendingKind::Resume { target, unnamed: Some(unnamed), .. }, Some(params))
                if book.has_earlier() =>
            {
                if let Some(thread) = target
                    && let Some(mode) = book.of_earlier_codex(thread).and_then(Permissions::sandbox_mode)
                    && put_sandbox(&mut edits, params, mode)
                {
                    unnamed.sandbox_of = Some(thread.clone());
                }
                unnamed.restores = true;
                is_unnamed = true;
            }
            _ => {}
        }
        if !self.try_dispatch(incoming, kind, Some(known), edits) {
            return;
        }
        self.restoration.unnamed += usize::from(is_unnamed);
        if let Some((thread, wanted)) = open {
            self.restoration.open.insert(thread, Open { wanted, waiting: Vec::new() });
        }
    }

    /// Handles the response to a resume by `path` or with `history`; `thread` is the one that it names, `None` if it is an
    /// error.
    pub(super) fn unnamed_resumed(
        &mut self,
        unnamed: &Unnamed,
        thread: Option<&ThreadId>,
        line: &[u8],
        body: Span,
    ) {
        if !unnamed.restores {
            if let Some(thread) = thread {
                self.resumed_as_given(thread, line, body);
            }
            return;
        }
        // If another resume of this thread is in flight, its response decides.
        if let Some(thread) = thread.filter(|thread| !self.restoration.open.contains_key(*thread)) {
            let book = &self.restoration.book;
            let misnamed = unnamed.sandbox_of.as_ref().is_some_and(|named| named != thread);
            let wanted = if misnamed { book.of(thread) } else { book.of_earlier_codex(thread) };
            if let Some(wanted) = wanted.cloned() {
                self.restoration.open.insert(thread.clone(), Open { wanted, waiting: Vec::new() });
                self.resumed(thread, line, false, body);
            } else if misnamed {
                let actual = permissions(line, body).map_or(Value::Null, |it| it.sandbox_policy);
                self.not_restored(thread, actual, "its file has the name of another thread");
            } else {
                self.remember(thread, line, body);
            }
        }
        self.unnamed_resume_ended();
    }

    fn unnamed_resume_ended(&mut self) {
        self.restoration.unnamed = self.restoration.unnamed.saturating_sub(1);
        if self.restoration.unnamed == 0 {
            self.restoration.threads_of_waiting.clear();
            let waiting = std::mem::take(&mut self.restoration.waiting);
            self.handle_waiting(waiting);
        }
    }

    /// Handles the response to a resume whose client has given permissions itself. Where another resume of the thread is in
    /// flight, they are what is right there, too.
    pub(super) fn resumed_as_given(&mut self, thread: &ThreadId, line: &[u8], body: Span) {
        if let Some(open) = self.restoration.open.get_mut(thread)
            && let Some(given) = permissions(line, body)
        {
            open.wanted = given;
        }
        self.remember(thread, line, body);
    }

    /// Handles the response to a resume; `body` is its result.
    pub(super) fn resumed(&mut self, thread: &ThreadId, line: &[u8], failed: bool, body: Span) {
        let Some(open) = self.restoration.open.get(thread) else {
            if !failed {
                self.remember(thread, line, body);
            }
            return;
        };
        if failed {
            return self.restored(thread);
        }
        let Some(actual) = permissions(line, body) else {
            return self.not_restored(thread, Value::Null, "codex does not say which it has");
        };
        let wanted = open.wanted.clone();
        if actual == wanted {
            self.remember(thread, line, body);
            return self.restored(thread);
        }
        let mut params = Map::new();
        params.insert("threadId".to_owned(), thread.to_string().into());
        if actual.sandbox_policy != wanted.sandbox_policy || actual.profile != wanted.profile {
            params.insert("sandboxPolicy".to_owned(), wanted.sandbox_policy);
        }
        if actual.approval_policy != wanted.approval_policy {
            params.insert("approvalPolicy".to_owned(), wanted.approval_policy);
        }
        let kind = PendingKind::Restore { thread: thread.clone(), actual: Box::new(actual.sandbox_policy) };
        let params = Value::Object(params).to_string();
        self.send_own("thread/settings/update", kind, |out| out.extend_from_slice(params.as_bytes()));
    }

    /// Returns the thread to which a request gives permissions because its own could not be restored.
    pub(super) fn gives_permissions_to(&self, incoming: &Incoming<'_>, known: &Request) -> Option<ThreadId> {
        if self.restoration.failed.is_empty() || known.method != "thread/settings/update" {
            return None;
        }
        let params = incoming.params(known)?;
        let thread = params.thread(known).filter(|thread| self.restoration.failed.contains_key(thread))?;
        let given = |name| params.json(name).is_some_and(|json| json != b"null");
        (given("sandboxPolicy") || given("permissions")).then_some(thread)
    }

    /// Handles that a client has given permissions to a thread whose own could not be restored: whatever they are, they
    /// count. They are recorded when codex reports them, which is after its response.
    pub(super) fn permissions_given(&mut self, thread: &ThreadId) {
        self.restoration.failed.remove(thread);
        self.restoration.book.loaded(thread);
    }

    /// Handles the response to the update that restores the permissions of a thread.
    pub(super) fn restore_answered(
        &mut self,
        thread: &ThreadId,
        actual: &Value,
        line: &[u8],
        failed: bool,
        body: Span,
    ) {
        if failed {
            let message = member(line, body.start, b"message").and_then(|text| crate::json::text(line, text));
            let message = message.map(|text| String::from_utf8_lossy(&text).into_owned());
            let reason = message.unwrap_or_else(|| "codex does not say why".to_owned());
            return self.not_restored(thread, actual.clone(), &reason);
        }
        if let Some(open) = self.restoration.open.get(thread) {
            let wanted = open.wanted.clone();
            self.restoration.book.record(thread, wanted);
            self.restoration.failed.remove(thread);
        }
        self.restored(thread);
    }

    fn not_restored(&mut self, thread: &ThreadId, actual: Value, reason: &str) {
        self.actions
            .push_back(Action::PermissionsNotRestored { thread: thread.clone(), reason: reason.to_owned() });
        self.restoration.failed.insert(thread.clone(), Failed { actual, reason: reason.to_owned() });
        self.restored(thread);
    }

    /// Handles the requests that waited for a thread.
    fn restored(&mut self, thread: &ThreadId) {
        if let Some(open) = self.restoration.open.remove(thread) {
            self.handle_waiting(open.waiting);
        }
    }

    /// Handles requests that waited.
    pub(super) fn handle_waiting(&mut self, waiting: Waiting) {
        let now = self.now();
        for (client, line) in waiting {
            // It was counted when it came.
            self.counters.client_messages -= 1;
            self.client_line(now, client, &line);
        }
    }

    /// Handles that a resume will not be sent because its client has disconnected.
    pub(super) fn resume_abandoned(&mut self, resume: &PendingKind) {
        match resume {
            PendingKind::Resume { unnamed: Some(unnamed), .. } if unnamed.restores => {
                self.unnamed_resume_ended();
            }
            PendingKind::Resume { unnamed: None, target: Some(thread), .. } => self.restored(thread),
            _ => {}
        }
    }

    /// Records the permissions of a thread that was just opened. Returns whether the thread is ephemeral, so that
    /// the next codex cannot resume it.
    pub(super) fn remember(&mut self, thread: &ThreadId, line: &[u8], result: Span) -> bool {
        let ephemeral = member_at(line, result.start, &["thread", "ephemeral"]);
        let ephemeral = ephemeral.is_some_and(|value| value.of(line) == b"true");
        if !ephemeral && let Some(permissions) = permissions(line, result) {
            self.record_permissions(thread, permissions);
        }
        ephemeral
    }

    /// Records the changed settings of a thread; `params` are those of the notification.
    pub(super) fn settings_updated(&mut self, thread: &ThreadId, line: &[u8], params: usize) {
        let Some(settings) = member(line, params, b"threadSettings") else { return };
        let value = |name: &[u8]| serde_json::from_slice(member(line, settings.start, name)?.of(line)).ok();
        let Some(sandbox_policy) = value(b"sandboxPolicy") else { return };
        self.restoration.failed.retain(|failed, how| failed != thread || how.actual == sandbox_policy);
        let being_restored =
            self.restoration.open.contains_key(thread) || self.restoration.failed.contains_key(thread);
        if let Some(approval_policy) = value(b"approvalPolicy")
            && !being_restored
            && self.restoration.book.knows(thread)
        {
            let profile = value(b"activePermissionProfile").unwrap_or(Value::Null);
            self.record_permissions(thread, Permissions { sandbox_policy, approval_policy, profile });
        }
    }

    fn record_permissions(&mut self, thread: &ThreadId, permissions: Permissions) {
        // A loaded thread ignores the `sandbox` of a resume, so these permissions may not be those that were asked for.
        if self.restoration.failed.get(thread).is_some_and(|how| how.actual == permissions.sandbox_policy) {
            return;
        }
        self.restoration.failed.remove(thread);
        if self.restoration.book.record(thread, permissions.clone()) {
            self.actions
                .push_back(Action::Remember { thread: thread.clone(), permissions: Some(permissions) });
        }
    }

    /// Handles that a thread was deleted.
    pub(super) fn forget_permissions(&mut self, thread: &ThreadId) {
        if self.restoration.book.forget(thread) {
            self.actions.push_back(Action::Remember { thread: thread.clone(), permissions: None });
        }
    }
}

/// Reads the permissions in the result of a start, resume or fork.
fn permissions(line: &[u8], result: Span) -> Option<Permissions> {
    let (mut sandbox_policy, mut approval_policy, mut profile) = (None, None, None);
    for found in Members::new(line, result.start) {
        let slot = match &*decoded(found.key.of(line)) {
            b"sandbox" => &mut sandbox_policy,
            b"approvalPolicy" => &mut approval_policy,
            b"activePermissionProfile" => &mut profile,
            _ => continue,
        };
        *slot = serde_json::from_slice::<Value>(found.value.of(line)).ok();
    }
    Some(Permissions {
        sandbox_policy: sandbox_policy.filter(Value::is_object)?,
        approval_policy: approval_policy?,
        profile: profile.unwrap_or(Value::Null),
    })
}

/// Returns whether the parameters of a resume give permissions.
fn gives_permissions(params: Params<'_>, line: &[u8]) -> bool {
    let given = |name: &&str| params.json(name).is_some_and(|json| json != b"null");
    let by_config = || {
        let config = params.get("config")?;
        Members::new(line, config.start)
            .any(|member| thread_book::gives_permissions(&decoded(member.key.of(line))))
            .then_some(())
    };
    PERMISSIONS.iter().any(given) || by_config().is_some()
}

/// Puts `sandbox` into the parameters of a resume in which it is absent or null; returns whether it could. To parameters
/// by position, it cannot be added; then the update restores the sandbox.
fn put_sandbox(edits: &mut Edits<'_>, params: Params<'_>, mode: &str) -> bool {
    match params.get("sandbox") {
        Some(null) => edits.replace_owned(null, format!("\"{mode}\"").into_bytes()),
        None if params.by_position() => return false,
        None => {
            // The thread's id follows it.
            let open = params.span().start + 1;
            let text = format!("\"sandbox\":\"{mode}\",").into_bytes();
            edits.replace_owned(Span { start: open, end: open }, text);
        }
    }
    true
}
