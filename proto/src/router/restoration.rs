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
//!    They also wait for the response to a request with which a client gives permissions: a resume at that time would bring
//!    back the old ones.
//! 4. If the permissions cannot be restored, requests that start work on the thread are refused with the reason, unless
//!    they give a sandbox policy themselves.
//!
//! A resume by `path` or with `history` names its thread in the response: codex ignores its `threadId` unless that thread
//! is loaded (measured with 0.169; `history` makes a new thread). Codex names the file of a thread after it, so a resume by
//! `path` gets the `sandbox` of the thread that the file's name says. Until the response has come, requests about all
//! threads of an earlier codex wait, since any of them may be the one. If the response names another thread than the file,
//! and nothing is known of it, its permissions count as not restored: they may be those of the other thread.
//!
//! A turn or an update of a thread that was not resumed is refused as codex refuses it: in a queue, a resume could overtake
//! it.
//!
//! Threads that this codex itself has unloaded are resumed without a change.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::answer::{Delivered, ErrorAnswer, INVALID_REQUEST};
use super::pacing::{PendingKind, Unnamed};
use super::params::Params;
use super::request::{Incoming, QUEUE_FULL, resumed_thread};
use super::{Action, Router};
use crate::id::{ClientId, ThreadId};
use crate::json::Span;
use crate::json::edit::Edits;
use crate::json::scan::{Members, member, member_at};
use crate::json::text::decoded;
use crate::routes::{Request, RequestEffect};
use crate::thread_book::{self, Permissions, ThreadBook};

/// The request that gives a thread other permissions.
const UPDATE: &str = "thread/settings/update";

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

/// A thread whose permissions are being changed; other requests about it wait.
#[derive(Debug)]
struct Open {
    change: Change,
    waiting: Waiting,
}

/// What changes the permissions of a thread.
#[derive(Debug)]
enum Change {
    /// A resume and, if needed, an update of codexd: afterwards they are these.
    Restore(Permissions),
    /// A request of a client that gives them. Codex may report them before it responds.
    Given { reported: Option<Permissions> },
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

    /// Makes requests about a thread wait from now on.
    fn begin(&mut self, thread: ThreadId, change: Change) {
        self.open.insert(thread, Open { change, waiting: Vec::new() });
    }

    /// Returns the permissions that a thread has after its restoration, if it is being restored.
    fn wanted(&self, thread: &ThreadId) -> Option<&Permissions> {
        match &self.open.get(thread)?.change {
            Change::Restore(wanted) => Some(wanted),
            Change::Given { .. } => None,
        }
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
        let needs_loaded = matches!(known.effect, RequestEffect::StartTurn | RequestEffect::StartReview)
            || known.method == UPDATE;
        let is_usual =
            restoration.open.is_empty() && restoration.failed.is_empty() && restoration.unnamed == 0;
        if is_usual && (!needs_loaded || restoration.book.is_empty()) {
            return Some(incoming);
        }
        let params = incoming.params(known);
        let thread = params.and_then(|params| match known.effect {
            RequestEffect::Resume => resumed_thread(params, known).0,
            _ => params.thread(known),
        });
        let Some(thread) = thread else { return Some(incoming) };
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
        // Codex would say so, unless a resume overtakes it on its way there: then a turn would start before the permissions
        // are restored, and an update would be undone.
        if needs_loaded
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
                    open = Some((thread.clone(), Change::Restore(wanted.clone())));
                }
            }
            (PendingKind::Resume { target: Some(thread), unnamed: None, .. }, None)
                if book.of_earlier_codex(thread).is_some() =>
            {
                open = Some((thread.clone(), Change::Given { reported: None }));
            }
            (PendingKind::Resume { target, unnamed: Some(unnamed), .. }, params) if book.has_earlier() => {
                if let (Some(thread), Some(params)) = (target, params)
                    && let Some(mode) = book.of_earlier_codex(thread).and_then(Permissions::sandbox_mode)
                    && put_sandbox(&mut edits, params, mode)
                {
                    unnamed.sandbox_of = Some(thread.clone());
                }
                unnamed.holds = true;
                is_unnamed = true;
            }
            _ => {}
        }
        if !self.try_dispatch(incoming, kind, Some(known), edits) {
            return;
        }
        self.restoration.unnamed += usize::from(is_unnamed);
        if let Some((thread, change)) = open {
            self.restoration.begin(thread, change);
        }
    }

    /// Handles the response to a resume by `path` or with `history`; `thread` is the one that it names, `None` if it is an
    /// error.
    pub(super) fn unnamed_resumed(
        &mut self,
        unnamed: &Unnamed,
        gives: bool,
        thread: Option<&ThreadId>,
        line: &[u8],
        body: Span,
    ) {
        // If something else changes the permissions of this thread at the time, the response to that decides.
        if let Some(thread) = thread.filter(|thread| !self.restoration.open.contains_key(*thread)) {
            let book = &self.restoration.book;
            let misnamed = unnamed.sandbox_of.as_ref().is_some_and(|named| named != thread);
            let wanted = if misnamed { book.of(thread) } else { book.of_earlier_codex(thread) };
            let wanted = wanted.filter(|_| !gives);
            if let Some(wanted) = wanted.cloned() {
                self.restoration.begin(thread.clone(), Change::Restore(wanted));
                self.resumed(thread, line, false, body);
            } else if misnamed {
                let actual = permissions(line, body).map_or(Value::Null, |it| it.sandbox_policy);
                self.not_restored(thread, actual, "its file has the name of another thread");
            } else {
                self.remember(thread, line, body);
            }
        }
        if unnamed.holds {
            self.unnamed_resume_ended();
        }
    }

    fn unnamed_resume_ended(&mut self) {
        self.restoration.unnamed = self.restoration.unnamed.saturating_sub(1);
        if self.restoration.unnamed == 0 {
            self.restoration.threads_of_waiting.clear();
            let waiting = std::mem::take(&mut self.restoration.waiting);
            self.handle_waiting(waiting);
        }
    }

    /// Handles the response to a resume by id whose client has given permissions itself.
    pub(super) fn resumed_as_given(&mut self, thread: &ThreadId, line: &[u8], failed: bool, body: Span) {
        if !failed {
            self.remember(thread, line, body);
        }
        self.restored(thread);
    }

    /// Handles the response to a resume; `body` is its result.
    pub(super) fn resumed(&mut self, thread: &ThreadId, line: &[u8], failed: bool, body: Span) {
        let Some(wanted) = self.restoration.wanted(thread).cloned() else {
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
        self.send_own(UPDATE, kind, |out| out.extend_from_slice(params.as_bytes()));
    }

    /// Returns the thread to which a request gives permissions because its own could not be restored. Input for a running
    /// turn gives none.
    fn gives_permissions_to(&self, incoming: &Incoming<'_>, known: &Request) -> Option<ThreadId> {
        if self.restoration.failed.is_empty() {
            return None;
        }
        let params = incoming.params(known)?;
        let thread = params.thread(known).filter(|thread| self.restoration.failed.contains_key(thread))?;
        let given = |name| params.json(name).is_some_and(|json| json != b"null");
        let applies = match known.method {
            UPDATE => true,
            "turn/start" => !self.subscriptions.is_busy(&thread),
            _ => false,
        };
        (applies && (given("sandboxPolicy") || given("permissions"))).then_some(thread)
    }

    /// Sends a request which is not a resume.
    pub(super) fn send_in_order(
        &mut self,
        incoming: Incoming<'_>,
        mut kind: PendingKind,
        known: Option<&'static Request>,
    ) {
        let given = known.and_then(|known| self.gives_permissions_to(&incoming, known));
        match (&given, &mut kind) {
            (None, _) => {}
            (Some(_), PendingKind::StartTurn { gives, .. }) => *gives = true,
            (Some(thread), kind) => *kind = PendingKind::GivePermissions { thread: thread.clone() },
        }
        if self.try_dispatch(incoming, kind, known, Edits::new())
            && let Some(thread) = given
        {
            self.restoration.begin(thread, Change::Given { reported: None });
        }
    }

    /// Handles the response to a request that gives permissions to a thread whose own could not be restored: whatever they
    /// are, they count. If codex has not reported them yet, they are recorded when it does.
    pub(super) fn permissions_given(&mut self, thread: &ThreadId, failed: bool) {
        let open = self.restoration.open.get_mut(thread);
        let Some(Change::Given { reported }) = open.map(|open| &mut open.change) else { return };
        let reported = reported.take();
        if !failed {
            self.restoration.failed.remove(thread);
            self.restoration.book.loaded(thread);
            if let Some(reported) = reported {
                self.record_permissions(thread, reported);
            }
        }
        self.restored(thread);
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
        if let Some(wanted) = self.restoration.wanted(thread).cloned() {
            self.restoration.failed.remove(thread);
            self.record_permissions(thread, wanted);
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

    /// Handles that a request will not be sent because its client has disconnected.
    pub(super) fn abandoned(&mut self, kind: &PendingKind) {
        match kind {
            PendingKind::Resume { unnamed: Some(unnamed), .. } if unnamed.holds => {
                self.unnamed_resume_ended();
            }
            PendingKind::Resume { unnamed: None, target: Some(thread), .. }
            | PendingKind::GivePermissions { thread }
            | PendingKind::StartTurn { thread, gives: true, .. } => self.restored(thread),
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
        if !self.restoration.book.knows(thread) {
            return;
        }
        let Some(approval_policy) = value(b"approvalPolicy") else { return };
        let profile = value(b"activePermissionProfile").unwrap_or(Value::Null);
        let permissions = Permissions { sandbox_policy, approval_policy, profile };
        match self.restoration.open.get_mut(thread).map(|open| &mut open.change) {
            Some(Change::Restore(_)) => {}
            Some(Change::Given { reported }) => *reported = Some(permissions),
            None => self.record_permissions(thread, permissions),
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
