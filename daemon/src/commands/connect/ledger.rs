//! What a bridge remembers of a client: enough to tell the truth when the daemon is gone, and to know
//! whether another daemon can take over unseen.

use std::collections::BTreeMap;

use codexd_proto::id::RequestId;
use codexd_proto::json::edit::{write_string, write_text};
use codexd_proto::json::scan::{Members, member_at};
use codexd_proto::json::text::decoded;
use codexd_proto::json::{is_text, text};
use codexd_proto::message::{ClientMessage, UpstreamMessage};
use codexd_proto::router::{CLOSING, OrphanedTurns, ShutdownNotice, UPSTREAM_LOST};
use serde_json::Value;

use super::{cwd, orphaned_turns};

/// The bridge's memory.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Requests without an answer, by their id. Nothing keeps a client from giving one to several.
    unanswered: BTreeMap<Id, Vec<Unanswered>>,
    /// The client's `initialize`, with its line feed, and its id.
    initialize: Option<(Vec<u8>, Id)>,
    /// The client's `initialized`.
    initialized: Option<Vec<u8>>,
    greeting: Greeting,
    /// What the last daemon said that did not take this client.
    refusal: Option<String>,
    /// Why the daemon stops, in its words.
    announced: Option<String>,
    /// Why the daemon closes the connection, as it said itself.
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
enum Greeting {
    /// The client has not introduced itself.
    #[default]
    None,
    /// The daemon owes the answer, and the client waits for it.
    Asked,
    /// The daemon owes the answer to a repetition that the client knows nothing of.
    Repeated,
    /// It was answered.
    Done,
}

/// A line on its way to the daemon.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) bytes: Vec<u8>,
    /// The id, of a request.
    request: Option<Id>,
    /// It makes the daemon keep something for the client.
    attaches: bool,
    pub(super) kind: Kind,
}

impl Outgoing {
    /// Makes a line of more bytes of a long one.
    pub(super) fn more(bytes: Vec<u8>) -> Outgoing {
        Outgoing { bytes, request: None, attaches: true, kind: Kind::Other }
    }
}

/// What a line is to the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing may be sent behind it until it is answered.
    Initialize,
    Initialized,
    Other,
}

/// What is to be done with a line from the daemon.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The client gets it.
    Deliver,
    /// The client must not see it.
    Swallow,
    /// The daemon does not take clients: look for another one.
    Elsewhere,
    /// The daemon cannot start, for this reason, and another one could not either.
    NoDaemon(String),
}

impl Ledger {
    /// Creates the memory of a client that has said nothing.
    pub(super) fn new(orphaned_turns: Option<OrphanedTurns>) -> Ledger {
        Ledger { orphaned_turns, ..Ledger::default() }
    }

    /// Takes in a line from the client, with its line feed.
    pub(super) fn outgoing(&mut self, mut line: Vec<u8>, cwd: Option<&str>) -> Outgoing {
        let mut outgoing = Outgoing { bytes: Vec::new(), request: None, attaches: false, kind: Kind::Other };
        match ClientMessage::read(&line) {
            Ok(Some(ClientMessage::Request { id_span, method, params, .. })) => {
                let spelled = id_span.of(&line);
                outgoing.attaches = !is_passing(&method);
                outgoing.request = self.asked(spelled);
                if *method == *b"initialize" && self.greeting == Greeting::None {
                    outgoing.kind = Kind::Initialize;
                    let declared = self
                        .orphaned_turns
                        .and_then(|it| orphaned_turns::declare(&line, params.as_ref(), it));
                    line = declared.unwrap_or(line);
                    self.initialize = outgoing.request.clone().map(|id| (line.clone(), id));
                    self.greeting = Greeting::Asked;
                } else if let Some(changed) =
                    cwd.and_then(|cwd| cwd::insert(&line, &method, params.as_ref(), cwd))
                {
                    line = changed;
                }
            }
            Ok(Some(ClientMessage::Notification { method })) => {
                if *method == *b"initialized" {
                    outgoing.kind = Kind::Initialized;
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
    pub(super) fn outgoing_start(&mut self, start: Vec<u8>) -> Outgoing {
        let head = head(&start);
        let request = head.id.filter(|_| head.has_method).and_then(|id| self.asked(id));
        Outgoing { bytes: start, request, attaches: true, kind: Kind::Other }
    }

    /// Takes note of a request, given the JSON text of its id.
    fn asked(&mut self, spelled: &[u8]) -> Option<Id> {
        let id = Id::read(spelled)?;
        let unanswered = Unanswered { id: spelled.into(), written: false };
        self.unanswered.entry(id.clone()).or_default().push(unanswered);
        Some(id)
    }

    /// Takes note of an answer, given the JSON text of its id.
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

    /// Takes note that the first byte of a line was written.
    pub(super) fn written(&mut self, line: &Outgoing) {
        self.attached |= line.attaches;
        let requests = line.request.as_ref().and_then(|id| self.unanswered.get_mut(id));
        // Those with one id are written in their order.
        if let Some(request) = requests.into_iter().flatten().find(|request| !request.written) {
            request.written = true;
        }
    }

    /// Judges a line from the daemon.
    pub(super) fn incoming(&mut self, line: &[u8]) -> Verdict {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        match UpstreamMessage::read(text) {
            Some(UpstreamMessage::Response { id_span, failed, body, .. }) => {
                let spelled = id_span.of(text);
                let own = self.initialize.as_ref().filter(|_| self.is_greeting()).map(|(_, own)| own);
                if own.is_some_and(|own| Id::read(spelled).is_some_and(|id| id == *own)) {
                    return self.greeted(spelled, text, failed, body.start);
                }
                self.answered(spelled);
                Verdict::Deliver
            }
            // A daemon on its way out says so to everyone; whom it has not greeted goes elsewhere.
            Some(UpstreamMessage::Notification { method, .. })
                if self.is_greeting() && *method == *ShutdownNotice::METHOD =>
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

    /// Judges the beginning of a long line from the daemon: it is always for the client.
    pub(super) fn incoming_start(&mut self, start: &[u8]) {
        if let Head { id: Some(id), has_method: false } = head(start) {
            self.answered(id);
        }
    }

    fn greeted(&mut self, id: &[u8], line: &[u8], failed: bool, body: usize) -> Verdict {
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
        let repeated = self.greeting == Greeting::Repeated;
        if failed && !repeated {
            // The client may try again in other words.
            self.greeting = Greeting::None;
            self.initialize = None;
        } else {
            self.greeting = Greeting::Done;
        }
        if repeated {
            return if failed { Verdict::Elsewhere } else { Verdict::Swallow };
        }
        self.answered(id);
        Verdict::Deliver
    }

    /// Tells whether the daemon owes the answer to `initialize`.
    pub(super) fn is_greeting(&self) -> bool {
        matches!(self.greeting, Greeting::Asked | Greeting::Repeated)
    }

    /// Takes note that the client gets the refusal of its handshake; false if it has been greeted before and
    /// must not see it.
    pub(super) fn refused(&mut self) -> bool {
        let asked = self.greeting == Greeting::Asked;
        self.greeting = Greeting::None;
        if let Some((_, id)) = self.initialize.take().filter(|_| asked) {
            self.answered(&id.0);
        }
        asked
    }

    /// Tells whether another daemon can go on where one was lost, without the client noticing.
    pub(super) fn can_move(&self) -> bool {
        let owed = self.initialize.as_ref().filter(|_| self.greeting == Greeting::Asked).map(|(_, id)| id);
        let lost = |(id, requests): (&Id, &Vec<Unanswered>)| {
            Some(id) != owed && requests.iter().any(|request| request.written)
        };
        !self.attached && !self.unanswered.iter().any(lost)
    }

    /// Returns what the next daemon is to be told first, instead of such lines that wait.
    pub(super) fn replay(&mut self) -> Vec<Outgoing> {
        self.closing = None;
        let Some((line, _)) = &self.initialize else { return Vec::new() };
        let repeat =
            |bytes: &Vec<u8>, kind| Outgoing { bytes: bytes.clone(), request: None, attaches: false, kind };
        let mut lines = vec![repeat(line, Kind::Initialize)];
        lines.extend(self.initialized.as_ref().map(|line| repeat(line, Kind::Initialized)));
        if self.greeting != Greeting::Asked {
            self.greeting = Greeting::Repeated;
        }
        lines
    }

    /// Returns what the last daemon said that did not take this client.
    pub(super) fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// Returns why the daemon stops, if it said so.
    pub(super) fn announced(&self) -> Option<&str> {
        self.announced.as_deref()
    }

    /// Returns why the daemon closes the connection, if it has said so.
    pub(super) fn closing(&self) -> Option<&str> {
        self.closing.as_deref()
    }

    /// Returns the number of requests without an answer.
    pub(super) fn unanswered(&self) -> usize {
        self.unanswered.values().map(Vec::len).sum()
    }

    /// Tells whether the daemon kept something for the client that ended with it.
    pub(super) fn is_attached(&self) -> bool {
        self.attached
    }

    /// Answers what nobody else will answer any more.
    pub(super) fn settle(&mut self, message: &str) -> Vec<u8> {
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

/// Tells whether a request leaves nothing behind in the daemon: it only reads. Of methods that are not
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

    fn send(ledger: &mut Ledger, line: &str) {
        let outgoing = ledger.outgoing(format!("{line}\n").into_bytes(), Some("/here"));
        ledger.written(&outgoing);
    }

    fn greeted() -> Ledger {
        let mut ledger = Ledger::default();
        send(&mut ledger, INITIALIZE);
        assert!(ledger.is_greeting());
        let answer = br#"{"id":"i","result":{"codexd":{"generation":7}}}"#;
        assert_eq!(ledger.incoming(answer), Verdict::Deliver);
        send(&mut ledger, r#"{"method":"initialized"}"#);
        ledger
    }

    #[test]
    fn why_the_daemon_closes_the_connection_is_remembered_until_the_next_one() {
        let mut ledger = greeted();
        let notice = br#"{"method":"notifications/broker/closing","params":{"reason":"tooSlow","message":"too slow"}}"#;
        assert_eq!(ledger.closing(), None);
        assert_eq!(ledger.incoming(notice), Verdict::Deliver);
        assert_eq!(ledger.closing(), Some("too slow"));
        ledger.replay();
        assert_eq!(ledger.closing(), None);
        ledger.incoming(br#"{"method":"notifications/broker/closing"}"#);
        assert_eq!(ledger.closing(), Some("without a reason"));
    }

    #[test]
    fn a_daemon_that_is_ending_is_never_the_one() {
        let mut ledger = Ledger::default();
        send(&mut ledger, INITIALIZE);
        assert_eq!(
            ledger.incoming(br#"{"method":"notifications/broker/shuttingDown","params":{}}"#),
            Verdict::Swallow
        );
        let refusal = br#"{"id":"i","error":{"code":-32001,"message":"m","data":{"codexd":{"reason":"draining","delivered":"no","retryable":true}}}}"#;
        assert_eq!(ledger.incoming(refusal), Verdict::Elsewhere);
        assert_eq!(ledger.refusal(), Some("m"));
        assert!(ledger.can_move());
        assert_eq!(ledger.replay().len(), 1);
        assert_eq!(ledger.incoming(br#"{"id":"i","result":{}}"#), Verdict::Deliver);
        assert_eq!(ledger.unanswered(), 0);
    }

    #[test]
    fn a_daemon_that_cannot_start_is_not_tried_again() {
        let refusal = br#"{"id":"i","error":{"code":-32010,"message":"codexd cannot start: no \"key\"","data":{"codexd":{"reason":"startFailed","delivered":"no","retryable":false,"exitCode":78}}}}"#;
        let why = "the daemon did not start (exit code 78): no \"key\"".to_owned();
        let mut ledger = Ledger::default();
        send(&mut ledger, INITIALIZE);
        assert_eq!(ledger.incoming(refusal), Verdict::NoDaemon(why.clone()));
        // What takes its place gets the handshake, and the answer is the client's.
        assert_eq!(ledger.replay().len(), 1);
        assert_eq!(ledger.incoming(br#"{"id":"i","result":{}}"#), Verdict::Deliver);
        let mut moved = greeted();
        assert_eq!(moved.replay().len(), 2);
        assert_eq!(moved.incoming(refusal), Verdict::NoDaemon(why));
        assert_eq!(moved.incoming(br#"{"id":"i","result":{}}"#), Verdict::Swallow);
        // Where nothing takes its place, the client is told once.
        let mut alone = Ledger::default();
        send(&mut alone, INITIALIZE);
        alone.incoming(refusal);
        assert!(alone.refused());
        assert_eq!((alone.unanswered(), alone.refused()), (0, false));
    }

    #[test]
    fn a_refusal_for_good_is_the_clients() {
        let mut ledger = Ledger::default();
        send(&mut ledger, INITIALIZE);
        assert_eq!(ledger.incoming(br#"{"id":"i","error":{"code":-32600,"message":"m"}}"#), Verdict::Deliver);
        assert!(!ledger.is_greeting());
        send(&mut ledger, INITIALIZE);
        assert!(ledger.is_greeting());
    }

    #[test]
    fn an_idle_client_moves_unseen_and_an_attached_one_does_not() {
        let mut ledger = greeted();
        send(&mut ledger, r#"{"id":1,"method":"model/list","params":{}}"#);
        assert!(!ledger.can_move());
        assert_eq!(ledger.incoming(br#"{"id":1,"result":{}}"#), Verdict::Deliver);
        assert!(ledger.can_move());
        assert_eq!(ledger.replay().len(), 2);
        assert_eq!(ledger.incoming(br#"{"id":"i","result":{}}"#), Verdict::Swallow);
        send(&mut ledger, r#"{"id":2,"method":"thread/start","params":{}}"#);
        assert_eq!(ledger.incoming(br#"{"id":2,"result":{}}"#), Verdict::Deliver);
        assert!(!ledger.can_move());
    }

    #[test]
    fn what_is_unanswered_gets_the_truth() {
        let mut ledger = greeted();
        send(&mut ledger, r#"{"id":1,"method":"turn/start","params":{}}"#);
        ledger.outgoing(b"{\"id\":\"two\",\"method\":\"thread/list\"}\n".to_vec(), None);
        assert_eq!(ledger.unanswered(), 2);
        let text = String::from_utf8(ledger.settle("gone")).unwrap();
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
        assert_eq!(ledger.unanswered(), 0);
    }

    #[test]
    fn ids_are_one_however_they_are_spelled_and_come_back_as_they_were() {
        let mut ledger = greeted();
        for line in [
            r#"{"id":"a","method":"turn\/start","params":{}}"#,
            r#"{"\u0069d":"\u0061","method":"turn/start","params":{}}"#,
            r#"{"id":-0,"method":"turn/start","params":{}}"#,
        ] {
            send(&mut ledger, line);
        }
        assert_eq!(ledger.unanswered(), 3);
        // codexd repeats the spelling; codex itself does not.
        assert_eq!(ledger.incoming(br#"{"id":"\u0061","result":{}}"#), Verdict::Deliver);
        assert_eq!(ledger.incoming(br#"{"id":0,"result":{}}"#), Verdict::Deliver);
        assert_eq!(ledger.unanswered(), 1);
        let text = String::from_utf8(ledger.settle("gone")).unwrap();
        assert!(text.starts_with(r#"{"id":"a","error""#) && text.lines().count() == 1, "{text}");
        send(&mut ledger, r#"{"id":"\u0062\/","method":"turn/start","params":{}}"#);
        assert!(String::from_utf8(ledger.settle("gone")).unwrap().starts_with(r#"{"id":"\u0062\/","error""#));
    }

    #[test]
    fn requests_with_one_id_get_an_answer_each() {
        let mut ledger = greeted();
        let line = br#"{"id":1,"method":"turn/start","params":{}}"#;
        let first = ledger.outgoing(line.to_vec(), None);
        ledger.outgoing(line.to_vec(), None);
        ledger.written(&first);
        assert_eq!(ledger.unanswered(), 2);
        let text = String::from_utf8(ledger.settle("gone")).unwrap();
        let delivered: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|answer| answer["error"]["data"]["codexd"]["delivered"].clone())
            .collect();
        assert_eq!(delivered, ["maybe", "no"]);
    }

    #[test]
    fn the_handshake_is_known_however_it_is_spelled() {
        let mut ledger = Ledger::default();
        send(
            &mut ledger,
            r#"{"\u0069d":"\u0069","m\u0065thod":"initi\u0061lize","params":{"clientInfo":{}}}"#,
        );
        assert!(ledger.is_greeting());
        assert_eq!(ledger.incoming(br#"{"id":"i","result":{}}"#), Verdict::Deliver);
        assert!(!ledger.is_greeting());
        send(&mut ledger, r#"{"method":"initi\u0061lized"}"#);
        assert_eq!(ledger.replay().len(), 2);
        // What is left behind in the daemon is known, too.
        send(&mut ledger, r#"{"id":1,"method":"model\/list"}"#);
        assert_eq!(ledger.incoming(br#"{"id":1,"result":{}}"#), Verdict::Deliver);
        assert!(ledger.can_move());
    }

    #[test]
    fn long_lines_are_known_by_their_beginning() {
        let mut ledger = greeted();
        let outgoing = ledger.outgoing_start(br#"{"id":5,"method":"turn/start","params":{"x":"yyy"#.to_vec());
        assert_eq!(outgoing.request, Id::read(b"5"));
        ledger.incoming_start(br#"{"method":"item/completed","id":5,"params":{"x"#);
        assert_eq!(ledger.unanswered(), 1);
        ledger.incoming_start(br#"{"id":5,"result":{"x":"yyy"#);
        assert_eq!(ledger.unanswered(), 0);
        ledger
            .outgoing_start(br#"{"\u0069d":"\u0061","m\u0065thod":"turn/start","params":{"x":"yyy"#.to_vec());
        ledger.incoming_start(br#"{"id":"a","result":{"x":"yyy"#);
        assert_eq!(ledger.unanswered(), 0);
        // The daemon gives no answer to such an id.
        ledger.outgoing_start(br#"{"id":1.5,"method":"turn/start","params":{"x":"yyy"#.to_vec());
        assert_eq!(ledger.unanswered(), 0);
    }
}
