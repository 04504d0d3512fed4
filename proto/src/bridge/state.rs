//! The state of one client's connection: enough to resolve its requests when the daemon is gone, and to know whether
//! another daemon can take over without the client noticing.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::id::RequestId;
use crate::json::edit::{write_string, write_text};
use crate::json::scan::{Members, member_at};
use crate::json::text::decoded;
use crate::json::{is_text, text};
use crate::message::{ClientMessage, UpstreamMessage};
use crate::router::{CLOSING, OrphanedTurns, ShutdownNotice, UPSTREAM_LOST};

use super::{cwd, orphaned_turns};

/// See the [module's documentation](self).
#[derive(Debug, Default)]
pub struct ConnectionState {
    /// Requests without an answer, by their id. Nothing keeps a client from giving one to several.
    unanswered: BTreeMap<Id, Vec<Unanswered>>,
    /// The client's `initialize`, with its line feed, and its id.
    initialize: Option<(Vec<u8>, Id)>,
    /// The client's `initialized`.
    initialized: Option<Vec<u8>>,
    handshake: Handshake,
    /// The message of the last daemon that refused this client.
    refusal: Option<String>,
    /// The reason in the shutdown notice of the daemon.
    announced: Option<String>,
    /// Why the daemon closes the connection, in its own words.
    closing: Option<String>,
    /// Something was asked for that lives in the daemon: threads, processes, watches.
    attached: bool,
    generation: u64,
    /// What the client's `initialize` is to declare of its turns, if it declares nothing.
    orphaned_turns: Option<OrphanedTurns>,
}

/// An id as JSON text that is the same for all spellings: `"a"` and `"\u0061"` are one id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id(Box<[u8]>);

impl Id {
    /// Reads the JSON text of an id; `None` if it is not a legal one.
    fn read(text: &[u8]) -> Option<Id> {
        let mut same = Vec::new();
        match RequestId::from_json(text)? {
            RequestId::Text(text) => write_text(&mut same, &decoded(&text[1..text.len() - 1])),
            number @ RequestId::Number(_) => number.write(&mut same),
        }
        Some(Id(same.into()))
    }
}

/// A request without an answer.
#[derive(Debug)]
struct Unanswered {
    /// The JSON text of its id, as the client wrote it.
    id: Box<[u8]>,
    /// Whether a byte of it was written.
    written: bool,
}

/// Where the handshake with the daemon is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Handshake {
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

/// A line on its way to the daemon.
#[derive(Debug)]
pub struct Outgoing {
    /// The line, with its line feed, or a piece of a long one.
    pub bytes: Vec<u8>,
    /// The id, of a request.
    request: Option<Id>,
    /// It makes the daemon keep something for the client.
    attaches: bool,
    /// What it is to the handshake.
    pub kind: LineKind,
}

impl Outgoing {
    /// Makes a line of more bytes of a long one.
    pub fn more(bytes: Vec<u8>) -> Outgoing {
        Outgoing { bytes, request: None, attaches: true, kind: LineKind::Other }
    }
}

/// What a line is to the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// `initialize`: nothing is sent after it until its response has come.
    Initialize,
    /// `initialized`.
    Initialized,
    /// Anything else.
    Other,
}

/// What is to be done with a line from the daemon.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The client gets it.
    Deliver,
    /// The client must not see it.
    Swallow,
    /// The daemon does not take clients: look for another one.
    Elsewhere,
    /// The daemon cannot start, for this reason, and another one could not either.
    NoDaemon(String),
}

impl ConnectionState {
    /// Creates the state of a client that has sent nothing. `orphaned_turns` is declared for a client that declares
    /// nothing itself.
    pub fn new(orphaned_turns: Option<OrphanedTurns>) -> ConnectionState {
        ConnectionState { orphaned_turns, ..ConnectionState::default() }
    }

    /// Takes in a line from the client, with its line feed.
    pub fn outgoing(&mut self, mut line: Vec<u8>, cwd: Option<&str>) -> Outgoing {
        let mut outgoing =
            Outgoing { bytes: Vec::new(), request: None, attaches: false, kind: LineKind::Other };
        match ClientMessage::read(&line) {
            Ok(Some(ClientMessage::Request { id_span, method, params, .. })) => {
                let spelled = id_span.of(&line);
                outgoing.attaches = !is_passing(&method);
                outgoing.request = self.asked(spelled);
                if *method == *b"initialize" && self.handshake == Handshake::None {
                    outgoing.kind = LineKind::Initialize;
                    let declared = self
                        .orphaned_turns
                        .and_then(|it| orphaned_turns::declare(&line, params.as_ref(), it));
                    line = declared.unwrap_or(line);
                    self.initialize = outgoing.request.clone().map(|id| (line.clone(), id));
                    self.handshake = Handshake::Asked;
                } else if let Some(changed) =
                    cwd.and_then(|cwd| cwd::insert(&line, &method, params.as_ref(), cwd))
                {
                    line = changed;
                }
            }
            Ok(Some(ClientMessage::Notification { method })) => {
                if *method == *b"initialized" {
                    outgoing.kind = LineKind::Initialized;
                    self.initialized = Some(line.clone());
                } else {
                    outgoing.attaches = true;
                }
            }
            // The daemon answers what is no message.
            _ => {}
        }
        outgoing.bytes = line;
        outgoing
    }

    /// Takes in the beginning of a line that is too long to be kept.
    ///
    /// Its id is found if it stands before what makes the line long, as it does in all known clients.
    pub fn outgoing_start(&mut self, start: Vec<u8>) -> Outgoing {
        let head = head(&start);
        let request = head.id.filter(|_| head.has_method).and_then(|id| self.asked(id));
        Outgoing { bytes: start, request, attaches: true, kind: LineKind::Other }
    }

    /// Records a request, given the JSON text of its id.
    fn asked(&mut self, spelled: &[u8]) -> Option<Id> {
        let id = Id::read(spelled)?;
        let unanswered = Unanswered { id: spelled.into(), written: false };
        self.unanswered.entry(id.clone()).or_default().push(unanswered);
        Some(id)
    }

    /// Records a response, given the JSON text of its id.
    fn answered(&mut self, spelled: &[u8]) {
        let Some(id) = Id::read(spelled) else { return };
        let Some(requests) = self.unanswered.get_mut(&id) else { return };
        // codexd repeats the spelling of the client, codex itself does not.
        let at = requests.iter().position(|request| *request.id == *spelled).unwrap_or(0);
        requests.remove(at);
        if requests.is_empty() {
            self.unanswered.remove(&id);
        }
    }

    /// Records that the first byte of a line was written.
    pub fn written(&mut self, line: &Outgoing) {
        self.attached |= line.attaches;
        let requests = line.request.as_ref().and_then(|id| self.unanswered.get_mut(id));
        // Those with one id are written in their order.
        if let Some(request) = requests.into_iter().flatten().find(|request| !request.written) {
            request.written = true;
        }
    }

    /// Takes in a line from the daemon, and returns what is to be done with it.
    pub fn incoming(&mut self, line: &[u8]) -> Verdict {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        match UpstreamMessage::read(text) {
            Some(UpstreamMessage::Response { id_span, failed, body, .. }) => {
                let spelled = id_span.of(text);
                let own = self.initialize.as_ref().filter(|_| self.awaits_initialize()).map(|(_, own)| own);
                if own.is_some_and(|own| Id::read(spelled).is_some_and(|id| id == *own)) {
                    return self.initialize_answered(spelled, text, failed, body.start);
                }
                self.answered(spelled);
                Verdict::Deliver
            }
            // A stopping daemon notifies every client; one that it has not initialized goes to another daemon.
            Some(UpstreamMessage::Notification { method, .. })
                if self.awaits_initialize() && *method == *ShutdownNotice::METHOD =>
            {
                Verdict::Swallow
            }
            Some(UpstreamMessage::Notification { method, .. }) if *method == *ShutdownNotice::METHOD => {
                let reason = member_at(text, 0, &["params", "reason"]).map(|span| span.of(text));
                self.announced = reason.and_then(|reason| serde_json::from_slice(reason).ok());
                Verdict::Deliver
            }
            Some(UpstreamMessage::Notification { method, params }) if *method == *CLOSING => {
                let why = params.and_then(|params| member_at(text, params, &["message"]));
                let why = why.and_then(|why| serde_json::from_slice(why.of(text)).ok());
                self.closing = Some(why.unwrap_or_else(|| "without a reason".to_owned()));
                Verdict::Deliver
            }
            _ => Verdict::Deliver,
        }
    }

    /// Takes in the beginning of a long line from the daemon, which is always delivered.
    pub fn incoming_start(&mut self, start: &[u8]) {
        if let Head { id: Some(id), has_method: false } = head(start) {
            self.answered(id);
        }
    }

    fn initialize_answered(&mut self, id: &[u8], line: &[u8], failed: bool, body: usize) -> Verdict {
        let again = || {
            let retryable = member_at(line, body, &["data", "codexd", "retryable"])?;
            let delivered = member_at(line, body, &["data", "codexd", "delivered"])?;
            (retryable.of(line) == b"true" && is_text(line, delivered, b"no")).then_some(())
        };
        if failed && again().is_some() {
            let message = member_at(line, body, &["message"]).map(|span| span.of(line));
            self.refusal = message.and_then(|text| serde_json::from_slice(text).ok());
            return Verdict::Elsewhere;
        }
        if failed && let Some(why) = cannot_start(line, body) {
            return Verdict::NoDaemon(why);
        }
        if let Some(span) = member_at(line, body, &["codexd", "generation"]) {
            self.generation =
                std::str::from_utf8(span.of(line)).ok().and_then(|n| n.parse().ok()).unwrap_or(0);
        }
        let repeated = self.handshake == Handshake::Repeated;
        if failed && !repeated {
            // The client may try again in other words.
            self.handshake = Handshake::None;
            self.initialize = None;
        } else {
            self.handshake = Handshake::Done;
        }
        if repeated {
            return if failed { Verdict::Elsewhere } else { Verdict::Swallow };
        }
        self.answered(id);
        Verdict::Deliver
    }

    /// Whether the response to `initialize` is pending.
    pub fn awaits_initialize(&self) -> bool {
        matches!(self.handshake, Handshake::Asked | Handshake::Repeated)
    }

    /// Records that the client gets the refusal of its handshake. Returns false if an earlier daemon has initialized it:
    /// then it must not see the refusal.
    pub fn refused(&mut self) -> bool {
        let asked = self.handshake == Handshake::Asked;
        self.handshake = Handshake::None;
        if let Some((_, id)) = self.initialize.take().filter(|_| asked) {
            self.answered(&id.0);
        }
        asked
    }

    /// Whether another daemon can take over from a lost one without the client noticing.
    pub fn can_move(&self) -> bool {
        let pending =
            self.initialize.as_ref().filter(|_| self.handshake == Handshake::Asked).map(|(_, id)| id);
        let lost = |(id, requests): (&Id, &Vec<Unanswered>)| {
            Some(id) != pending && requests.iter().any(|request| request.written)
        };
        !self.attached && !self.unanswered.iter().any(lost)
    }

    /// Returns the lines of the handshake that the next daemon gets first, in place of those that wait.
    pub fn replay(&mut self) -> Vec<Outgoing> {
        self.closing = None;
        let Some((line, _)) = &self.initialize else { return Vec::new() };
        let repeat =
            |bytes: &Vec<u8>, kind| Outgoing { bytes: bytes.clone(), request: None, attaches: false, kind };
        let mut lines = vec![repeat(line, LineKind::Initialize)];
        lines.extend(self.initialized.as_ref().map(|line| repeat(line, LineKind::Initialized)));
        if self.handshake != Handshake::Asked {
            self.handshake = Handshake::Repeated;
        }
        lines
    }

    /// Returns the message of the last daemon that refused this client.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// Returns the reason in the daemon's shutdown notice, if it has sent one.
    pub fn announced(&self) -> Option<&str> {
        self.announced.as_deref()
    }

    /// Returns why the daemon closes the connection, if it has sent that.
    pub fn closing(&self) -> Option<&str> {
        self.closing.as_deref()
    }

    /// Returns the number of requests without an answer.
    pub fn unanswered(&self) -> usize {
        self.unanswered.values().map(Vec::len).sum()
    }

    /// Whether the daemon kept something for the client that ended with the daemon.
    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// Returns an error response for each pending request; nothing is pending afterwards.
    pub fn resolve(&mut self, message: &str) -> Vec<u8> {
        let mut out = Vec::new();
        for Unanswered { id, written } in std::mem::take(&mut self.unanswered).into_values().flatten() {
            out.extend_from_slice(b"{\"id\":");
            out.extend_from_slice(&id);
            out.extend_from_slice(format!(",\"error\":{{\"code\":{UPSTREAM_LOST},\"message\":").as_bytes());
            write_string(&mut out, message);
            let (delivered, retryable) = if written { ("maybe", false) } else { ("no", true) };
            let generation = self.generation;
            out.extend_from_slice(
                format!(
                    ",\"data\":{{\"codexd\":{{\"reason\":\"daemonLost\",\"delivered\":\"{delivered}\",\
                     \"retryable\":{retryable},\"generation\":{generation}}}}}}}}}\n"
                )
                .as_bytes(),
            );
        }
        out
    }
}

/// Returns why no daemon can start, if this error says that: a daemon that a service manager started answers
/// so before it exits.
fn cannot_start(line: &[u8], body: usize) -> Option<String> {
    let reason = member_at(line, body, &["data", "codexd", "reason"])?;
    if !is_text(line, reason, b"startFailed") {
        return None;
    }
    let value = |path: &[&str]| serde_json::from_slice::<Value>(member_at(line, body, path)?.of(line)).ok();
    let code = value(&["data", "codexd", "exitCode"])?;
    let message = value(&["message"])?;
    let message = message.as_str()?;
    let why = message.strip_prefix("codexd cannot start: ").unwrap_or(message);
    Some(format!("the daemon did not start (exit code {code}): {why}"))
}

/// What is found of a line of which only the beginning is known.
struct Head<'a> {
    /// The JSON text of its id.
    id: Option<&'a [u8]>,
    has_method: bool,
}

fn head(start: &[u8]) -> Head<'_> {
    let mut head = Head { id: None, has_method: false };
    for found in Members::new(start, 0) {
        if found.is(start, b"id") {
            head.id = Some(found.value.of(start));
        } else if found.is(start, b"method") {
            head.has_method = text(start, found.value).is_some();
        }
    }
    head
}

/// Whether a request leaves nothing behind in the daemon: it only reads. Of methods that are not
/// known to, the contrary is assumed.
fn is_passing(method: &[u8]) -> bool {
    matches!(method, b"initialize" | b"server/diagnostics" | b"broker/status")
        || method.ends_with(b"/list")
        || method.ends_with(b"/read")
}

#[cfg(test)]
mod tests {
    use super::*;

    const INITIALIZE: &str = r#"{"id":"i","method":"initialize","params":{"clientInfo":{}}}"#;

    fn send(state: &mut ConnectionState, line: &str) {
        let outgoing = state.outgoing(format!("{line}\n").into_bytes(), Some("/here"));
        state.written(&outgoing);
    }

    fn initialized() -> ConnectionState {
        let mut state = ConnectionState::default();
        send(&mut state, INITIALIZE);
        assert!(state.awaits_initialize());
        let answer = br#"{"id":"i","result":{"codexd":{"generation":7}}}"#;
        assert_eq!(state.incoming(answer), Verdict::Deliver);
        send(&mut state, r#"{"method":"initialized"}"#);
        state
    }

    #[test]
    fn why_the_daemon_closes_the_connection_is_remembered_until_the_next_one() {
        let mut state = initialized();
        let notice = br#"{"method":"notifications/broker/closing","params":{"reason":"tooSlow","message":"too slow"}}"#;
        assert_eq!(state.closing(), None);
        assert_eq!(state.incoming(notice), Verdict::Deliver);
        assert_eq!(state.closing(), Some("too slow"));
        state.replay();
        assert_eq!(state.closing(), None);
        state.incoming(br#"{"method":"notifications/broker/closing"}"#);
        assert_eq!(state.closing(), Some("without a reason"));
    }

    #[test]
    fn a_daemon_that_is_ending_is_never_the_one() {
        let mut state = ConnectionState::default();
        send(&mut state, INITIALIZE);
        assert_eq!(
            state.incoming(br#"{"method":"notifications/broker/shuttingDown","params":{}}"#),
            Verdict::Swallow
        );
        let refusal = br#"{"id":"i","error":{"code":-32001,"message":"m","data":{"codexd":{"reason":"draining","delivered":"no","retryable":true}}}}"#;
        assert_eq!(state.incoming(refusal), Verdict::Elsewhere);
        assert_eq!(state.refusal(), Some("m"));
        assert!(state.can_move());
        assert_eq!(state.replay().len(), 1);
        assert_eq!(state.incoming(br#"{"id":"i","result":{}}"#), Verdict::Deliver);
        assert_eq!(state.unanswered(), 0);
    }

    #[test]
    fn a_daemon_that_cannot_start_is_not_tried_again() {
        let refusal = br#"{"id":"i","error":{"code":-32010,"message":"codexd cannot start: no \"key\"","data":{"codexd":{"reason":"startFailed","delivered":"no","retryable":false,"exitCode":78}}}}"#;
        let why = "the daemon did not start (exit code 78): no \"key\"".to_owned();
        let mut state = ConnectionState::default();
        send(&mut state, INITIALIZE);
        assert_eq!(state.incoming(refusal), Verdict::NoDaemon(why.clone()));
        // What takes its place gets the handshake, and the answer is the client's.
        assert_eq!(state.replay().len(), 1);
        assert_eq!(state.incoming(br#"{"id":"i","result":{}}"#), Verdict::Deliver);
        let mut moved = initialized();
        assert_eq!(moved.replay().len(), 2);
        assert_eq!(moved.incoming(refusal), Verdict::NoDaemon(why));
        assert_eq!(moved.incoming(br#"{"id":"i","result":{}}"#), Verdict::Swallow);
        // Where nothing takes its place, the client is told once.
        let mut alone = ConnectionState::default();
        send(&mut alone, INITIALIZE);
        alone.incoming(refusal);
        assert!(alone.refused());
        assert_eq!((alone.unanswered(), alone.refused()), (0, false));
    }

    #[test]
    fn a_refusal_for_good_is_the_clients() {
        let mut state = ConnectionState::default();
        send(&mut state, INITIALIZE);
        assert_eq!(state.incoming(br#"{"id":"i","error":{"code":-32600,"message":"m"}}"#), Verdict::Deliver);
        assert!(!state.awaits_initialize());
        send(&mut state, INITIALIZE);
        assert!(state.awaits_initialize());
    }

    #[test]
    fn an_idle_client_moves_unseen_and_an_attached_one_does_not() {
        let mut state = initialized();
        send(&mut state, r#"{"id":1,"method":"model/list","params":{}}"#);
        assert!(!state.can_move());
        assert_eq!(state.incoming(br#"{"id":1,"result":{}}"#), Verdict::Deliver);
        assert!(state.can_move());
        assert_eq!(state.replay().len(), 2);
        assert_eq!(state.incoming(br#"{"id":"i","result":{}}"#), Verdict::Swallow);
        send(&mut state, r#"{"id":2,"method":"thread/start","params":{}}"#);
        assert_eq!(state.incoming(br#"{"id":2,"result":{}}"#), Verdict::Deliver);
        assert!(!state.can_move());
    }

    #[test]
    fn what_is_unanswered_gets_the_truth() {
        let mut state = initialized();
        send(&mut state, r#"{"id":1,"method":"turn/start","params":{}}"#);
        state.outgoing(b"{\"id\":\"two\",\"method\":\"thread/list\"}\n".to_vec(), None);
        assert_eq!(state.unanswered(), 2);
        let text = String::from_utf8(state.resolve("gone")).unwrap();
        let answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let truth = |id: Value| {
            let answer = answers.iter().find(|answer| answer["id"] == id).unwrap();
            assert_eq!(answer["error"]["code"], -32010);
            let data = &answer["error"]["data"]["codexd"];
            assert_eq!((&data["reason"], &data["generation"]), (&"daemonLost".into(), &7.into()));
            (data["delivered"].as_str().unwrap().to_owned(), data["retryable"].clone())
        };
        assert_eq!(truth(1.into()), ("maybe".to_owned(), false.into()));
        assert_eq!(truth("two".into()), ("no".to_owned(), true.into()));
        assert_eq!(state.unanswered(), 0);
    }

    #[test]
    fn ids_are_one_however_they_are_spelled_and_come_back_as_they_were() {
        let mut state = initialized();
        for line in [
            r#"{"id":"a","method":"turn\/start","params":{}}"#,
            r#"{"\u0069d":"\u0061","method":"turn/start","params":{}}"#,
            r#"{"id":-0,"method":"turn/start","params":{}}"#,
        ] {
            send(&mut state, line);
        }
        assert_eq!(state.unanswered(), 3);
        // codexd repeats the spelling; codex itself does not.
        assert_eq!(state.incoming(br#"{"id":"\u0061","result":{}}"#), Verdict::Deliver);
        assert_eq!(state.incoming(br#"{"id":0,"result":{}}"#), Verdict::Deliver);
        assert_eq!(state.unanswered(), 1);
        let text = String::from_utf8(state.resolve("gone")).unwrap();
        assert!(text.starts_with(r#"{"id":"a","error""#) && text.lines().count() == 1, "{text}");
        send(&mut state, r#"{"id":"\u0062\/","method":"turn/start","params":{}}"#);
        assert!(String::from_utf8(state.resolve("gone")).unwrap().starts_with(r#"{"id":"\u0062\/","error""#));
    }

    #[test]
    fn requests_with_one_id_get_an_answer_each() {
        let mut state = initialized();
        let line = br#"{"id":1,"method":"turn/start","params":{}}"#;
        let first = state.outgoing(line.to_vec(), None);
        state.outgoing(line.to_vec(), None);
        state.written(&first);
        assert_eq!(state.unanswered(), 2);
        let text = String::from_utf8(state.resolve("gone")).unwrap();
        let delivered: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|answer| answer["error"]["data"]["codexd"]["delivered"].clone())
            .collect();
        assert_eq!(delivered, ["maybe", "no"]);
    }

    #[test]
    fn the_handshake_is_known_however_it_is_spelled() {
        let mut state = ConnectionState::default();
        send(
            &mut state,
            r#"{"\u0069d":"\u0069","m\u0065thod":"initi\u0061lize","params":{"clientInfo":{}}}"#,
        );
        assert!(state.awaits_initialize());
        assert_eq!(state.incoming(br#"{"id":"i","result":{}}"#), Verdict::Deliver);
        assert!(!state.awaits_initialize());
        send(&mut state, r#"{"method":"initi\u0061lized"}"#);
        assert_eq!(state.replay().len(), 2);
        // What is left behind in the daemon is known, too.
        send(&mut state, r#"{"id":1,"method":"model\/list"}"#);
        assert_eq!(state.incoming(br#"{"id":1,"result":{}}"#), Verdict::Deliver);
        assert!(state.can_move());
    }

    #[test]
    fn long_lines_are_known_by_their_beginning() {
        let mut state = initialized();
        let outgoing = state.outgoing_start(br#"{"id":5,"method":"turn/start","params":{"x":"yyy"#.to_vec());
        assert_eq!(outgoing.request, Id::read(b"5"));
        state.incoming_start(br#"{"method":"item/completed","id":5,"params":{"x"#);
        assert_eq!(state.unanswered(), 1);
        state.incoming_start(br#"{"id":5,"result":{"x":"yyy"#);
        assert_eq!(state.unanswered(), 0);
        state
            .outgoing_start(br#"{"\u0069d":"\u0061","m\u0065thod":"turn/start","params":{"x":"yyy"#.to_vec());
        state.incoming_start(br#"{"id":"a","result":{"x":"yyy"#);
        assert_eq!(state.unanswered(), 0);
        // The daemon gives no answer to such an id.
        state.outgoing_start(br#"{"id":1.5,"method":"turn/start","params":{"x":"yyy"#.to_vec());
        assert_eq!(state.unanswered(), 0);
    }
}
