//! The rule by which a turn is over: every short sequence of events, many long ones, and single situations.
#![allow(clippy::unwrap_used)]
// The lines are made once; what the test checks has no such state.
#![allow(clippy::disallowed_types)]

use std::sync::OnceLock;

use codexd_proto::capture::{Capture, KnownBy, Outcome, Resolution, Watch};
use codexd_proto::id::ThreadId;
use codexd_proto::time::Time;
use serde_json::{Value, json};

const QUIET_MS: u64 = 1_000;

fn note(method: &str, params: Value) -> String {
    // In the upstream's order: the method first.
    let params = params.to_string();
    format!(r#"{{"method":"{method}","params":{params},"emittedAtMs":1}}"#)
}

fn item(method: &str, item: Value) -> String {
    note(method, json!({"item": item, "threadId": "T", "turnId": "u"}))
}

fn message(phase: &str, text: &str) -> String {
    item("item/completed", json!({"type": "agentMessage", "id": "m", "text": text, "phase": phase}))
}

fn turn(method: &str, thread: &str, turn: Value) -> String {
    note(method, json!({"threadId": thread, "turn": turn}))
}

/// A turn to wait for, and the clock.
struct Waiting {
    capture: Capture,
    now: Time,
}

impl Waiting {
    fn new() -> Waiting {
        Waiting::watching(false)
    }

    fn watching(review: bool) -> Waiting {
        let watch = Watch { thread: ThreadId::new(b"T"), turn: "u".to_owned(), review, quiet_ms: QUIET_MS };
        Waiting { capture: Capture::new(Time::ZERO, watch), now: Time::ZERO }
    }

    fn feed(&mut self, line: &str) -> &mut Waiting {
        self.now = self.now + 1;
        self.capture.line(self.now, line.as_bytes());
        self
    }

    /// Lets the quiet time pass.
    fn quiet(&mut self) -> &mut Waiting {
        self.now = self.now + QUIET_MS;
        self.capture.handle_timeout(self.now);
        self
    }

    #[track_caller]
    fn resolution(&self) -> &Resolution {
        self.capture.resolution().expect("the turn is resolved")
    }

    fn is_open(&self) -> bool {
        self.capture.resolution().is_none()
    }

    #[track_caller]
    fn end(&self) -> (Outcome, KnownBy) {
        (self.resolution().outcome, self.resolution().known_by)
    }
}

/// What can happen to a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Final,
    Commentary,
    Plan,
    Command,
    CollaborationBegins,
    CollaborationEnds,
    HelperBegins,
    HelperEnds,
    StrangerBegins,
    HookBegins,
    HookEnds,
    Retry,
    Completed,
    Failed,
    Interrupted,
    OtherTurnCompleted,
    ThreadClosed,
    Lost,
    Quiet,
}

use Event::{
    CollaborationBegins, CollaborationEnds, Command, Commentary, Completed, Failed, Final, HelperBegins,
    HelperEnds, HookBegins, HookEnds, Interrupted, Lost, OtherTurnCompleted, Plan, Quiet, Retry,
    StrangerBegins, ThreadClosed,
};

const EVENTS: [Event; 19] = [
    Final,
    Commentary,
    Plan,
    Command,
    CollaborationBegins,
    CollaborationEnds,
    HelperBegins,
    HelperEnds,
    StrangerBegins,
    HookBegins,
    HookEnds,
    Retry,
    Completed,
    Failed,
    Interrupted,
    OtherTurnCompleted,
    ThreadClosed,
    Lost,
    Quiet,
];

fn apply(waiting: &mut Waiting, event: Event) {
    // Made once: the sequences are many.
    static LINES: OnceLock<Vec<Option<String>>> = OnceLock::new();
    let lines = LINES.get_or_init(|| EVENTS.into_iter().map(line).collect());
    let place = EVENTS.iter().position(|other| *other == event).unwrap();
    match (event, &lines[place]) {
        (Lost, _) => waiting.capture.upstream_lost("gone", vec!["last".to_owned()]),
        (Quiet, _) => {
            waiting.quiet();
        }
        (_, line) => {
            waiting.feed(line.as_ref().unwrap());
        }
    }
}

fn line(event: Event) -> Option<String> {
    let call = json!({"type": "collabAgentToolCall", "id": "call"});
    let helper = |root: &str, id: &str| json!({"id": id, "rootTurnId": root});
    Some(match event {
        Final => message("final_answer", "42"),
        Commentary => message("commentary", "soon"),
        Plan => item("item/completed", json!({"type": "plan", "id": "p", "text": "1. 42"})),
        Command => item("item/started", json!({"type": "commandExecution", "id": "c"})),
        CollaborationBegins => item("item/started", call),
        CollaborationEnds => item("item/completed", call),
        HelperBegins => turn("turn/started", "H", helper("u", "h")),
        HelperEnds => turn("turn/completed", "H", helper("u", "h")),
        StrangerBegins => turn("turn/started", "S", helper("other", "s")),
        HookBegins => note("hook/started", json!({"threadId": "T", "turnId": "u"})),
        HookEnds => note("hook/completed", json!({"threadId": "T", "turnId": "u"})),
        Retry => note(
            "error",
            json!({"error": {"message": "m"}, "willRetry": true, "threadId": "T", "turnId": "u"}),
        ),
        Completed => turn("turn/completed", "T", json!({"id": "u", "status": "completed"})),
        Failed => {
            turn("turn/completed", "T", json!({"id": "u", "status": "failed", "error": {"message": "broke"}}))
        }
        Interrupted => turn("turn/completed", "T", json!({"id": "u", "status": "interrupted"})),
        OtherTurnCompleted => turn("turn/completed", "T", json!({"id": "before", "status": "completed"})),
        ThreadClosed => note("thread/closed", json!({"threadId": "T"})),
        Lost | Quiet => return None,
    })
}

/// The rule once more, over events and not over lines.
#[derive(Default)]
struct Model {
    answer: bool,
    collaboration: bool,
    helpers: u32,
    hooks: u32,
    end: Option<(Outcome, KnownBy)>,
}

impl Model {
    fn apply(&mut self, event: Event) {
        if self.end.is_some() {
            return;
        }
        let complete = self.answer && !self.collaboration && self.helpers == 0;
        match event {
            Final => self.answer = true,
            Command | Retry => self.answer = false,
            CollaborationBegins => (self.answer, self.collaboration) = (false, true),
            CollaborationEnds => self.collaboration = false,
            HelperBegins => self.helpers += 1,
            HelperEnds => self.helpers = 0,
            HookBegins => self.hooks += 1,
            HookEnds => self.hooks = self.hooks.saturating_sub(1),
            Commentary | Plan | StrangerBegins | OtherTurnCompleted => {}
            Completed => self.end = Some((Outcome::Completed, KnownBy::TerminalEvent)),
            Failed => self.end = Some((Outcome::Failed, KnownBy::TerminalEvent)),
            Interrupted => self.end = Some((Outcome::Interrupted, KnownBy::TerminalEvent)),
            ThreadClosed => self.end = Some((Outcome::Failed, KnownBy::ThreadEnded)),
            Lost if complete => self.end = Some((Outcome::Completed, KnownBy::Inferred)),
            Lost => self.end = Some((Outcome::Failed, KnownBy::UpstreamLost)),
            Quiet if complete && self.hooks == 0 => self.end = Some((Outcome::Completed, KnownBy::Inferred)),
            Quiet => {}
        }
    }
}

#[track_caller]
fn check(events: &[Event]) {
    let (mut waiting, mut model) = (Waiting::new(), Model::default());
    for (place, event) in events.iter().enumerate() {
        let before = waiting.capture.resolution().cloned();
        apply(&mut waiting, *event);
        model.apply(*event);
        let resolution = waiting.capture.resolution();
        assert_eq!(resolution.map(|end| (end.outcome, end.known_by)), model.end, "{:?}", &events[..=place]);
        if before.is_some() {
            assert_eq!(before.as_ref(), resolution, "a resolved turn has changed: {:?}", &events[..=place]);
        }
        let complete = model.end.is_none() && model.answer && !model.collaboration && model.helpers == 0;
        assert_eq!(waiting.capture.answer_so_far().is_some(), complete, "{:?}", &events[..=place]);
        if let Some(end) = resolution {
            assert_eq!(end.answer.is_some(), end.outcome == Outcome::Completed && end.last_message.is_some());
            assert!(end.error.is_none() || end.outcome != Outcome::Completed);
            assert_eq!(waiting.capture.poll_timeout(), None, "a resolved turn waits for nothing");
        }
    }
}

#[test]
fn every_sequence_of_four_events_ends_as_the_rule_says() {
    let count = EVENTS.len();
    for number in 0..count.pow(4) {
        let sequence: Vec<Event> = (0..4).map(|place| EVENTS[number / count.pow(place) % count]).collect();
        check(&sequence);
    }
}

#[test]
fn long_random_sequences_end_as_the_rule_says() {
    let mut state: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut random = move |below: usize| {
        // Numerical Recipes' generator; the high bits are the good ones.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    let open: Vec<Event> = EVENTS
        .into_iter()
        .filter(|event| ![Completed, Failed, Interrupted, ThreadClosed, Lost].contains(event))
        .collect();
    for _ in 0..3_000 {
        let mut events: Vec<Event> = (0..20).map(|_| open[random(open.len())]).collect();
        events.extend((0..10).map(|_| EVENTS[random(EVENTS.len())]));
        check(&events);
    }
}

#[test]
fn the_terminal_event_carries_answer_error_and_tokens() {
    let mut waiting = Waiting::new();
    let usage = |total: u64, last: u64| json!({"total": {"totalTokens": total, "outputTokens": 7}, "last": {"totalTokens": last, "outputTokens": 5}});
    for (turn, total) in [("before", 100), ("u", 115), ("u", 130)] {
        let params = json!({"threadId": "T", "turnId": turn, "tokenUsage": usage(total, 15)});
        waiting.feed(&note("thread/tokenUsage/updated", params));
    }
    waiting.feed(&message("commentary", "soon")).feed(&message("final_answer", "forty \"two\""));
    apply(&mut waiting, Completed);
    let end = waiting.resolution();
    assert_eq!(end.answer.as_deref(), Some("forty \"two\""));
    assert_eq!(end.tokens.unwrap().total_tokens, 30);

    let mut waiting = Waiting::new();
    waiting.feed(&message("commentary", "soon"));
    apply(&mut waiting, Failed);
    let end = waiting.resolution();
    assert_eq!((end.error.as_deref(), end.last_message.as_deref()), (Some("broke"), Some("soon")));
    assert_eq!(end.answer, None);
}

#[test]
fn the_answer_of_who_missed_the_item_comes_from_the_turn_itself() {
    let mut waiting = Waiting::new();
    let items = json!([{"type": "reasoning"}, {"type": "agentMessage", "text": "42"}]);
    waiting.feed(&turn("turn/completed", "T", json!({"id": "u", "status": "completed", "items": items})));
    assert_eq!(waiting.resolution().answer.as_deref(), Some("42"));
}

#[test]
fn the_end_that_codexd_writes_is_known_for_what_it_is() {
    for (status, inferred, expected) in
        [("completed", true, KnownBy::Inferred), ("failed", false, KnownBy::UpstreamLost)]
    {
        let mut waiting = Waiting::new();
        let mark =
            json!({"synthetic": true, "inferred": inferred, "reason": "upstreamLost", "generation": 3});
        let params = json!({"threadId": "T", "turn": {"id": "u", "status": status}, "codexd": mark});
        waiting.feed(&note("turn/completed", params));
        assert_eq!(waiting.resolution().known_by, expected);
    }
}

#[test]
fn a_lost_upstream_leaves_its_reason_and_its_last_lines() {
    let mut waiting = Waiting::new();
    waiting.feed(&message("commentary", "so far"));
    apply(&mut waiting, Lost);
    let end = waiting.resolution();
    assert_eq!(end.error.as_deref(), Some("gone"));
    assert_eq!((end.last_message.as_deref(), &*end.stderr), (Some("so far"), &["last".to_owned()][..]));
}

#[test]
fn each_message_of_the_turn_begins_the_quiet_time_again() {
    let mut waiting = Waiting::new();
    apply(&mut waiting, Final);
    for _ in 0..5 {
        waiting.now = waiting.now + (QUIET_MS - 2);
        waiting.capture.handle_timeout(waiting.now);
        waiting.feed(&note("item/agentMessage/delta", json!({"threadId": "T", "turnId": "u", "delta": "x"})));
        assert!(waiting.is_open());
    }
    let due = waiting.capture.poll_timeout().unwrap();
    assert_eq!(due, waiting.now + QUIET_MS);
    // What happens elsewhere does not.
    waiting.feed(&note("thread/status/changed", json!({"threadId": "X", "status": {"type": "idle"}})));
    waiting
        .feed(&note("item/agentMessage/delta", json!({"threadId": "T", "turnId": "before", "delta": "x"})));
    assert_eq!(waiting.capture.poll_timeout(), Some(due));
    waiting.capture.handle_timeout(due);
    assert_eq!(waiting.end(), (Outcome::Completed, KnownBy::Inferred));
}

#[test]
fn a_turn_without_its_final_answer_waits_for_ever() {
    let mut waiting = Waiting::new();
    waiting.feed(&message("commentary", "soon"));
    assert_eq!(waiting.capture.poll_timeout(), None);
    waiting.quiet();
    assert!(waiting.is_open());
    waiting.capture.gave_up("it did not end within 5 s after it was interrupted".to_owned());
    assert_eq!(waiting.end(), (Outcome::Failed, KnownBy::TimedOut));
}

#[test]
fn a_sub_agent_that_names_no_root_holds_the_inference_back() {
    let mut waiting = Waiting::new();
    waiting.feed(&turn("turn/started", "H", json!({"id": "h"}))).feed(&message("final_answer", "42"));
    waiting.quiet();
    assert!(waiting.is_open());
    // Its end is known from the status of its thread, too.
    waiting.feed(&note("thread/status/changed", json!({"threadId": "H", "status": {"type": "active"}})));
    waiting.quiet();
    assert!(waiting.is_open());
    waiting.feed(&note("thread/status/changed", json!({"threadId": "H", "status": {"type": "notLoaded"}})));
    waiting.quiet();
    assert_eq!(waiting.end(), (Outcome::Completed, KnownBy::Inferred));
}

#[test]
fn a_review_ends_under_the_id_of_its_answer_and_runs_under_another() {
    let mut waiting = Waiting::watching(true);
    waiting.feed(&turn("turn/started", "T", json!({"id": "inner", "rootTurnId": "inner"})));
    assert_eq!(waiting.capture.running_as(), b"inner");
    let helper = json!({"id": "h", "rootTurnId": "inner"});
    waiting.feed(&turn("turn/started", "H", helper.clone()));
    let review = json!({"type": "exitedReviewMode", "id": "r", "review": "looks good"});
    let params = json!({"threadId": "T", "turnId": "inner", "item": review});
    waiting.feed(&note("item/completed", params)).feed(&message("final_answer", "{}"));
    waiting.quiet();
    assert!(waiting.is_open(), "its helper still runs");
    waiting.feed(&turn("turn/completed", "H", helper));
    apply(&mut waiting, Completed);
    assert_eq!(waiting.resolution().answer.as_deref(), Some("looks good"));
    // Without a review, another id is another turn.
    let mut waiting = Waiting::new();
    waiting.feed(&turn("turn/started", "T", json!({"id": "inner"})));
    assert_eq!(waiting.capture.running_as(), b"u");
}

#[test]
fn lines_that_are_no_notification_change_nothing() {
    let mut waiting = Waiting::new();
    for line in [
        "",
        "{",
        "null",
        r#"{"id":1,"result":{"threadId":"T"}}"#,
        r#"{"method":"item/tool/call","id":3,"params":{"threadId":"T","turn":{"id":"u","status":"completed"}}}"#,
        r#"{"method":"turn/completed"}"#,
        r#"{"method":"turn/completed","params":{"threadId":5,"turn":{"id":"u","status":"completed"}}}"#,
        r#"{"method":"turn/completed","params":{"threadId":"T","turn":{"status":"completed"}}}"#,
        r#"{"method":"item/completed","params":{"threadId":"T","turnId":"u"}}"#,
    ] {
        waiting.feed(line);
        assert!(waiting.is_open(), "{line}");
    }
}
