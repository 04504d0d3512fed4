//! The routing table: what is known of every method, as data.
//!
//! The facts were measured against codex 0.169 (see `docs/protocol.md`). A method that is not in the table follows
//! the default rule: a request is forwarded; a notification or server request with `params.threadId` goes to that
//! thread's subscribers, another notification to everyone.

mod describe;
mod notifications;
mod order;
mod params;
mod requests;
mod server_requests;

use std::cell::Cell;

use rustc_hash::FxHashMap;

pub use describe::describe;
pub use notifications::NOTIFICATIONS;
pub(crate) use params::{LONGEST_ORDER, LONGEST_PARAM, param};
pub use requests::REQUESTS;
pub use server_requests::SERVER_REQUESTS;

/// Version of codex that the table was measured against.
pub const MEASURED_VERSION: &str = "0.169.0";

/// A client request.
#[derive(Debug)]
pub struct Request {
    /// Name on the wire.
    pub method: &'static str,
    /// Who answers, and what is rewritten on the way.
    pub route: Route,
    /// Needs the capability `experimentalApi`.
    pub experimental: bool,
    /// Members of `params` that need it.
    pub fields: &'static [&'static str],
    /// A value in `params` that needs it.
    pub value: Option<GatedValue>,
    /// Member of `params` that names the thread.
    pub thread: Option<&'static str>,
    /// Members of `params` in the order in which they stand when they are given by position, if codexd reads
    /// them: that of the upstream's schema.
    pub order: &'static [&'static str],
    /// What its success changes for subscriptions and turns.
    pub effect: RequestEffect,
    /// Starts something; refused while draining.
    pub work: bool,
    /// May take long for good reasons; not counted in the in-flight window.
    pub long: bool,
    /// Overtakes what waits of its client: a turn is not to run on because its client has asked for much else.
    pub urgent: bool,
    /// Whether its name ends with the name of a read.
    is_named_as_read: bool,
}

/// The class by which the time to the answer of a request is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It may take long for good reasons.
    Long,
    /// Neither of the others.
    Other,
    /// It only reads.
    Read,
    /// It starts something.
    Work,
}

impl Class {
    /// All classes, in the order of their values.
    pub const ALL: [Class; 4] = [Class::Long, Class::Other, Class::Read, Class::Work];

    /// Returns the word for it, as in the metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Class::Long => "long",
            Class::Other => "other",
            Class::Read => "read",
            Class::Work => "work",
        }
    }
}

impl Request {
    /// Returns whether it changes nothing, by its name.
    #[inline]
    pub fn only_reads(&self) -> bool {
        self.is_named_as_read && self.route == Route::Forward
    }

    /// Returns the class by which the time to its answer is counted.
    #[inline]
    pub fn class(&self) -> Class {
        match self {
            Request { long: true, .. } => Class::Long,
            Request { work: true, .. } => Class::Work,
            request if request.only_reads() => Class::Read,
            _ => Class::Other,
        }
    }

    /// Returns whether it is answered at once.
    ///
    /// A login waits for a person, and what starts something may wait for that.
    pub fn answers_soon(&self) -> bool {
        !self.long && !self.work && !self.method.contains("login")
    }
}

/// Who answers a request, and what is rewritten on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The upstream; only the request id is rewritten.
    Forward,
    /// codexd itself.
    Local,
    /// `thread/unsubscribe`: codexd while another client is subscribed, else the upstream.
    Unsubscribe,
    /// The upstream; the connection-scoped id in `params.{id}` is rewritten.
    Namespace {
        /// What the id names.
        resource: Resource,
        /// Member of `params`.
        id: &'static str,
        /// Whether success makes a resource that must end with its client.
        opens: bool,
    },
    /// The upstream; `params.{0}` names another request of the same connection and is rewritten.
    TranslateRequestId(&'static str),
}

/// What a connection-scoped id names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A command of `command/exec`; lives until the response.
    Exec,
    /// A process of `process/spawn`; lives until `process/exited`.
    Process,
    /// A watch of `fs/watch`.
    Watch,
    /// An event stream of an MCP server.
    EventStream,
}

impl Resource {
    /// Returns the request that ends it.
    pub const fn close_method(self) -> &'static str {
        match self {
            Resource::Exec => "command/exec/terminate",
            Resource::Process => "process/kill",
            Resource::Watch => "fs/unwatch",
            Resource::EventStream => "mcpServer/event/stream/stop",
        }
    }

    /// Returns the member of `params` that names it.
    pub const fn id_param(self) -> &'static str {
        match self {
            Resource::Exec => "processId",
            Resource::Process => "processHandle",
            Resource::Watch => "watchId",
            Resource::EventStream => "subscriptionId",
        }
    }
}

/// A value that needs `experimentalApi` where the member itself does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatedValue {
    /// `approvalPolicy` as an object with `granular`.
    GranularApproval,
    /// `type` is `chatgptAuthTokens`.
    ChatgptAuthTokens,
}

/// What the success of a request changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestEffect {
    /// Nothing that codexd keeps.
    None,
    /// Subscribes the requester to the new thread.
    Start,
    /// Subscribes the requester to a thread that exists.
    Resume,
    /// Subscribes the requester to the new thread, not to its source.
    Fork,
    /// Subscribes the requester to a thread that is loaded, also when it fails.
    Subscribe,
    /// As [`RequestEffect::Subscribe`]; unloads the thread and loads it again, and the other subscriptions survive.
    Revert,
    /// Ends all subscriptions to the thread.
    DropSubscriptions,
    /// Starts or joins a turn.
    StartTurn,
    /// Starts a turn that begins under another id than it was answered with, and ends under that.
    StartReview,
    /// Its end is reported by a notification without an id.
    WindowsSetup,
    /// With `includeTurns` it may cause a `deprecationNotice`.
    Read,
}

const fn forward(method: &'static str) -> Request {
    Request {
        method,
        route: Route::Forward,
        experimental: false,
        fields: &[],
        value: None,
        thread: None,
        order: &[],
        effect: RequestEffect::None,
        work: false,
        long: false,
        urgent: false,
        is_named_as_read: ends_with(method, "/list")
            || ends_with(method, "/read")
            || ends_with(method, "/installed"),
    }
}

/// Returns whether `text` ends with `end`: `str::ends_with` cannot be called in constants.
const fn ends_with(text: &str, end: &str) -> bool {
    let (text, end) = (text.as_bytes(), end.as_bytes());
    let mut left = end.len();
    while left > 0 && left <= text.len() && text[text.len() - 1 - (end.len() - left)] == end[left - 1] {
        left -= 1;
    }
    left == 0
}

const fn local(method: &'static str) -> Request {
    Request { route: Route::Local, ..forward(method) }
}

impl Request {
    const fn experimental(mut self) -> Request {
        self.experimental = true;
        self
    }

    const fn fields(mut self, fields: &'static [&'static str]) -> Request {
        self.fields = fields;
        self
    }

    const fn value(mut self, value: GatedValue) -> Request {
        self.value = Some(value);
        self
    }

    const fn thread(mut self, param: &'static str) -> Request {
        self.thread = Some(param);
        self
    }

    const fn order(mut self, order: &'static [&'static str]) -> Request {
        self.order = order;
        self
    }

    const fn effect(mut self, effect: RequestEffect) -> Request {
        self.effect = effect;
        self
    }

    const fn work(mut self) -> Request {
        self.work = true;
        self
    }

    const fn long(mut self) -> Request {
        self.long = true;
        self
    }

    const fn urgent(mut self) -> Request {
        self.urgent = true;
        self
    }

    const fn namespaced(mut self, resource: Resource, id: &'static str) -> Request {
        self.route = Route::Namespace { resource, id, opens: false };
        self
    }

    const fn opens(mut self) -> Request {
        if let Route::Namespace { resource, id, .. } = self.route {
            self.route = Route::Namespace { resource, id, opens: true };
        }
        self
    }

    const fn translates(mut self, param: &'static str) -> Request {
        self.route = Route::TranslateRequestId(param);
        self
    }

    const fn unsubscribes(mut self) -> Request {
        self.route = Route::Unsubscribe;
        self
    }
}

/// A notification of the upstream.
#[derive(Debug)]
pub struct Notification {
    /// Name on the wire.
    pub method: &'static str,
    /// Who gets it.
    pub audience: Audience,
    /// Not sent to clients without `experimentalApi`.
    pub experimental: bool,
    /// What codexd learns from it.
    pub meaning: Meaning,
}

/// Who gets a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Every initialized client; the path, if any, leads to the id of the thread it is about.
    Broadcast(&'static [&'static str]),
    /// The subscribers of `params.threadId`; everyone when that is null.
    Thread,
    /// The subscribers of the thread whose token usage was reported right before, else those of every thread with an
    /// active turn: there is no id on the wire.
    MeteredThread,
    /// The client whose connection-scoped id stands in `params.{0}`.
    Owner(&'static str),
    /// The client whose request caused it: there is no id on the wire.
    Requester,
    /// Everyone, and again each client that initializes later.
    Sticky,
    /// [`Audience::Sticky`] while the upstream starts; later the client whose start, resume or fork caused it:
    /// there is no id on the wire, and the response comes next.
    StickyAtStart,
}

/// What codexd learns from a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Nothing.
    None,
    /// A turn is open.
    TurnStarted,
    /// A turn has ended.
    TurnCompleted,
    /// The settings of a thread have changed.
    SettingsUpdated,
    /// An error in a turn; the turn fails with it unless it is retried.
    Error,
    /// An item has begun.
    ItemStarted,
    /// An item is complete; perhaps the final answer.
    ItemCompleted,
    /// A text of an item goes on, with the string `params.delta`.
    ItemText,
    /// Another text of an item begins.
    ItemSection,
    /// A thread is active, idle or not loaded any more.
    StatusChanged,
    /// A thread has no subscribers any more.
    ThreadClosed,
    /// The queue of a thread has other prompts.
    QueueChanged,
    /// The goal of a thread, also after each resume.
    GoalReported,
    /// Live, or a copy for the requester of a resume or fork.
    TokenUsage,
    /// A server request is resolved.
    ServerRequestResolved,
    /// A process of `process/spawn` has ended.
    ProcessExited,
}

const fn audience(method: &'static str, audience: Audience) -> Notification {
    Notification { method, audience, experimental: false, meaning: Meaning::None }
}

const fn broadcast(method: &'static str) -> Notification {
    audience(method, Audience::Broadcast(&[]))
}

const fn thread(method: &'static str) -> Notification {
    audience(method, Audience::Thread)
}

impl Notification {
    const fn about(mut self, path: &'static [&'static str]) -> Notification {
        self.audience = Audience::Broadcast(path);
        self
    }

    const fn experimental(mut self) -> Notification {
        self.experimental = true;
        self
    }

    const fn means(mut self, meaning: Meaning) -> Notification {
        self.meaning = meaning;
        self
    }
}

impl Meaning {
    /// Returns whether the subscribers are all that depends on it, and the text of open items.
    #[inline]
    pub(crate) fn is_plain(self) -> bool {
        matches!(self, Meaning::None | Meaning::ItemText | Meaning::ItemSection)
    }
}

/// A request of the upstream to its clients.
#[derive(Debug)]
pub struct ServerRequest {
    /// Name on the wire.
    pub method: &'static str,
    /// Who is asked.
    pub audience: ServerRequestAudience,
    /// Member of `params` that names the thread.
    pub thread: &'static str,
    /// Whether `serverRequest/resolved` follows the answer.
    pub resolved: bool,
    /// Whether it is about a command, so that a refusal completes the command's item.
    pub is_of_command: bool,
    /// Member of `params` that clients without `experimentalApi` do not see.
    pub strip: Option<&'static str>,
    /// Milliseconds after which the upstream abandons it; `None` if it waits.
    pub within_ms: Option<u64>,
}

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerRequestAudience {
    /// The subscribers of the thread; unassigned while there is none.
    Thread,
    /// Every initialized client.
    Broadcast,
    /// The only subscriber; an error when there is not exactly one.
    OnlySubscriber,
    /// The oldest client that declared `requestAttestation`.
    Attestation,
}

const fn ask(method: &'static str, audience: ServerRequestAudience) -> ServerRequest {
    ServerRequest {
        method,
        audience,
        thread: "threadId",
        resolved: false,
        is_of_command: false,
        strip: None,
        within_ms: None,
    }
}

impl ServerRequest {
    const fn thread(mut self, param: &'static str) -> ServerRequest {
        self.thread = param;
        self
    }

    const fn resolved(mut self) -> ServerRequest {
        self.resolved = true;
        self
    }

    const fn of_command(mut self) -> ServerRequest {
        self.is_of_command = true;
        self
    }

    const fn within_ms(mut self, ms: u64) -> ServerRequest {
        self.within_ms = Some(ms);
        self
    }

    const fn strips(mut self, param: &'static str) -> ServerRequest {
        self.strip = Some(param);
        self
    }
}

/// A set of notifications of the table, one bit each.
pub(crate) type NotificationSet = u128;

const _: () = assert!(NOTIFICATIONS.len() <= NotificationSet::BITS as usize);

/// Finds methods by their name.
#[derive(Debug)]
pub(crate) struct Routes {
    requests: FxHashMap<&'static [u8], &'static Request>,
    notifications: FxHashMap<&'static [u8], u8>,
    /// The one that was found last: usually the next one is the same.
    last_notification: Cell<u8>,
    server_requests: FxHashMap<&'static [u8], &'static ServerRequest>,
    /// The notifications that need `experimentalApi`.
    pub(crate) experimental: NotificationSet,
}

impl Routes {
    pub(crate) fn new() -> Routes {
        Routes {
            requests: REQUESTS.iter().map(|r| (r.method.as_bytes(), r)).collect(),
            notifications: (0u8..).zip(&NOTIFICATIONS).map(|(i, n)| (n.method.as_bytes(), i)).collect(),
            last_notification: Cell::new(0),
            server_requests: SERVER_REQUESTS.iter().map(|r| (r.method.as_bytes(), r)).collect(),
            experimental: NOTIFICATIONS
                .iter()
                .enumerate()
                .filter(|(_, n)| n.experimental)
                .fold(0, |set, (i, _)| set | 1 << i),
        }
    }

    pub(crate) fn request(&self, method: &[u8]) -> Option<&'static Request> {
        self.requests.get(method).copied()
    }

    /// Returns the notification and its bit.
    #[inline]
    pub(crate) fn notification(&self, method: &[u8]) -> Option<(&'static Notification, NotificationSet)> {
        let mut index = self.last_notification.get();
        if NOTIFICATIONS[usize::from(index)].method.as_bytes() != method {
            index = *self.notifications.get(method)?;
            self.last_notification.set(index);
        }
        Some((&NOTIFICATIONS[usize::from(index)], 1 << index))
    }

    pub(crate) fn server_request(&self, method: &[u8]) -> Option<&'static ServerRequest> {
        self.server_requests.get(method).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole_and_has_no_doubles() {
        let routes = Routes::new();
        assert_eq!((routes.requests.len(), REQUESTS.len()), (187, 187));
        assert_eq!((routes.notifications.len(), NOTIFICATIONS.len()), (88, 88));
        assert_eq!((routes.server_requests.len(), SERVER_REQUESTS.len()), (11, 11));
    }

    #[test]
    fn namespaced_requests_name_the_member_their_resource_is_closed_by() {
        for request in &REQUESTS {
            if let Route::Namespace { resource, id, .. } = request.route {
                assert_eq!(resource.id_param(), id, "{}", request.method);
                assert!(REQUESTS.iter().any(|r| r.method == resource.close_method()));
            }
        }
    }
}
